"""A STAC API on localhost with Sentinel-2-like tiles: searches with pages, files in ranges, and faults on demand.

`Api.faults` is a list of (words in the path, fault): the first whose words fit answers, and is used up unless it stays.
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
WORDS = (
    "coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09", "swir16", "swir22",
)  # fmt: skip
HERE = ("EPSG:32632", 600_000.0, 5_400_000.0)  # upper left corner, in Bavaria
CONFORMS = ("core", "item-search", "item-search#query")


@dataclass
class Fault:
    """An answer in place of the right one. `hang_s`: wait first; `cut`: send a part of the file as if it were all."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang_s: float = 0
    body: bytes | None = None
    cut: float | None = None
    stays: bool = False


@dataclass
class Api:
    """What the server has, and what was asked of it."""

    folder: Path
    items: list[dict[str, Any]] = field(default_factory=list)
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    posts: bool = True
    searches: bool = True
    page: int = 100
    tokens: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def fault_of(self, path: str) -> Fault | None:
        with self.lock:
            self.asked.append(path)
            for number, (words, fault) in enumerate(self.faults):
                if re.search(words, path):
                    if not fault.stays:
                        del self.faults[number]
                    return fault
        return None

    def landing(self) -> dict[str, Any]:
        links = [{"rel": "self", "href": self.url}, {"rel": "root", "href": self.url}]
        for method in ("GET", "POST") if self.posts else ("GET",):
            link = {"rel": "search", "href": f"{self.url}/search", "method": method}
            links.append({**link, "type": "application/geo+json"} if self.posts else link)  # some servers leave it out
        classes = [f"https://api.stacspec.org/v1.0.0/{name}" for name in CONFORMS] if self.searches else []
        return {"type": "Catalog", "stac_version": "1.0.0", "id": "test", "description": "tiles", "links": links,
                "conformsTo": classes}  # fmt: skip

    def search(self, asked: dict[str, Any], method: str) -> dict[str, Any]:
        found = [item for item in self.items if fits(item, asked)]
        start, size = int(asked.get("token") or 0), min(int(asked.get("limit") or 10), self.page)
        page: dict[str, Any] = {"type": "FeatureCollection", "features": found[start : start + size], "links": []}
        if start + size < len(found):
            token = str(start + size)
            if method == "POST":
                link = {"method": "POST", "body": {"token": token}, "merge": True, "href": f"{self.url}/search"}
            else:
                words = {**asked, "token": token}
                link = {"href": f"{self.url}/search?" + "&".join(f"{k}={v}" for k, v in words.items())}
            page["links"].append({"rel": "next", "type": "application/geo+json", **link})
        return page


def fits(item: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether an item answers a search; of a GET all values are text."""
    collections = asked.get("collections")
    if isinstance(collections, str):
        collections = collections.split(",")
    if collections and item["collection"] not in collections:
        return False
    box = asked.get("bbox")
    if box:
        west, south, east, north = (float(x) for x in (box.split(",") if isinstance(box, str) else box))
        w, s, e, n = item["bbox"]
        if w > east or e < west or s > north or n < south:
            return False
    if asked.get("datetime"):
        first, last = asked["datetime"].split("/")
        if not first <= item["properties"]["datetime"] <= last:
            return False
    query = asked.get("query") or {}
    for key, rule in (json.loads(query) if isinstance(query, str) else query).items():
        if "lte" in rule and not item["properties"][key] <= rule["lte"]:
            return False
    return True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body leave as two packets

    def __init__(self, api: Api, *args: Any) -> None:
        self.api = api
        super().__init__(*args)

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._guarded("GET", {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()})

    def do_HEAD(self) -> None:
        self._guarded("HEAD", {})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.api.bodies.append(asked)
        self._guarded("POST", asked)

    def _guarded(self, method: str, asked: dict[str, Any]) -> None:
        try:
            self._answer(method, asked)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _answer(self, method: str, asked: dict[str, Any]) -> None:
        path = urlsplit(self.path).path
        fault = self.api.fault_of(self.path)
        if fault is not None:
            time.sleep(fault.hang_s)
            if fault.cut is None:
                self._send(fault.status, fault.body or b"fault", fault.headers)
                return
        if path in ("", "/"):
            self._json(self.api.landing())
        elif path == "/search":
            self._json(self.api.search(asked, method))
        elif path.startswith("/token/"):
            self._json({"msft:expiry": "2999-01-01T00:00:00Z", "token": "sig=secret"})
        elif path.startswith("/files/"):
            self._file(path.removeprefix("/files/"), method, fault)
        else:
            self._send(404, b"no such page", {})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, method: str, fault: Fault | None) -> None:
        if self.api.tokens and "sig=secret" not in self.path:
            self._send(403, b"not signed", {})
            return
        path = self.api.folder / name
        if not path.is_file():
            self._send(404, b"no such file", {})
            return
        content = path.read_bytes()
        if fault is not None and fault.cut is not None:
            content = content[: int(len(content) * fault.cut)]
        wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._send(200, content, {"Accept-Ranges": "bytes"}, method)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        if first >= len(content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        headers = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "Accept-Ranges": "bytes"}
        self._send(206, content[first : last + 1], headers, method)

    def _send(self, status: int, body: bytes, headers: dict[str, str], method: str = "GET") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no news."""


@contextmanager
def serving(folder: Path) -> Iterator[Api]:
    """A server of what lies in a folder, on a free port of this machine."""
    api = Api(folder)
    server = Server(("127.0.0.1", 0), partial(Handler, api))
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True)
class Look:
    """How a tile is stored: `coarse` bands in pixels so many times as wide (the upper left one of the tile's), assets
    named in `words` (blue) or by band (B02), classes per pixel (h w).
    """

    coarse: dict[str, int] = field(default_factory=dict)
    words: bool = False
    flags: np.ndarray | None = None


def add_tile(
    api: Api,
    name: str,
    images: np.ndarray,
    at: tuple[str, float, float] = HERE,
    *,
    taken: str = "2020-06-15T10:30:00Z",
    baseline: str | None = "02.14",
    look: Look = Look(),  # frozen
    **told: Any,
) -> dict[str, Any]:
    """Write a tile (12 h w) of 10 m pixels as one file per band, and list its item with `told` properties."""
    crs, x, y = at
    height, width = images.shape[1:]
    assets = {}
    pixels = dict(zip(BANDS, images, strict=True))
    flags = np.full((height, width), 4, np.uint8) if look.flags is None else look.flags
    for band, values in {**pixels, "SCL": flags}.items():
        step = look.coarse.get(band, 1)
        small = np.ascontiguousarray(values[::step, ::step])
        path = api.folder / name / f"{band}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        place = from_origin(x, y, 10 * step, 10 * step)
        height_px, width_px = small.shape
        form = {"driver": "GTiff", "count": 1, "tiled": True, "blockxsize": 128, "blockysize": 128}
        with rasterio.open(
            path, "w", height=height_px, width=width_px, crs=crs, transform=place, dtype=small.dtype, **form
        ) as file:
            file.write(small, 1)
        word = dict(zip((*BANDS, "SCL"), (*WORDS, "scl"), strict=True))[band] if look.words else band
        assets[word] = {"href": f"{api.url}/files/{name}/{band}.tif", "type": "image/tiff; application=geotiff"}
    bounds = transform_bounds(crs, "EPSG:4326", x, y - 10 * height, x + 10 * width, y)
    west, south, east, north = bounds
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    properties = {"datetime": taken, "eo:cloud_cover": 5.0, **told}
    if baseline is not None:
        properties["s2:processing_baseline"] = baseline
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-l2a", "bbox": list(bounds),
        "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties, "assets": assets, "links": [],
    }  # fmt: skip
    api.items.append(item)
    return item
