"""Items of a STAC catalogue that show a whole patch on wanted days: by its search, or by walking through a static one.

What a server says is checked field by field, as items come from outside.
"""

import json
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np

from geomaestro.errors import RunError, SpecError
from geomaestro.select.gather.dates import Interval
from geomaestro.select.gather.draws import key_of
from geomaestro.select.gather.faults import Log, Passing, Patience
from geomaestro.select.gather.spec import GatherSpec

METRES_PER_DEGREE = 111_320.0  # of latitude
PAGE = 100  # items asked for at a time
MAX_STATIC_ITEMS = 50_000  # assumed; a static catalogue is walked through item by item
PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)
EDGE = 1.05  # assumed; a patch may be turned against the meridian and moved by part of a pixel


@dataclass(frozen=True)
class Scene:
    """An item that can be used: its name, day, share of clouds in percent, and the item."""

    id: str
    taken: datetime
    cloud_percent: float | None
    item: Mapping[str, Any]


@dataclass(frozen=True)
class Patch:
    """A square of `side_m` around a place in degrees."""

    lon: float
    lat: float
    side_m: float

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees, a little more than the square; not beyond 180 degrees."""
        up = self.side_m * EDGE / 2 / METRES_PER_DEGREE
        across = min(up / max(float(np.cos(np.radians(self.lat))), 1e-3), 180.0)
        west, east = max(self.lon - across, -180.0), min(self.lon + across, 180.0)
        return west, max(self.lat - up, -90.0), east, min(self.lat + up, 90.0)


class Catalogue:
    """One collection of a STAC catalogue. Each thread has its own connection."""

    def __init__(self, spec: GatherSpec) -> None:
        self.spec, self.collection = spec, spec.collection or spec.known.collection
        self._threads, self._lock = threading.local(), threading.Lock()
        self._static: list[dict[str, Any]] | None = None

    def scenes(self, patch: Patch, interval: Interval, key: int, log: Log, patience: Patience) -> list[Scene]:
        """The scenes that show all of a patch on wanted days under the limit of clouds, in an order drawn by `key`.

        Raises:
            Passing: if the server does not answer, after all tries.
            RunError: if it refuses the search, which it would do again.
        """
        found = patience.persist(lambda: self._items(patch, interval), "search", log)
        fit = {scene.id: scene for item in found if (scene := self._scene(item, patch, interval)) is not None}
        return sorted(fit.values(), key=lambda scene: (key_of(key, scene.id), scene.id))

    def any_item(self, patience: Patience, log: Log) -> Mapping[str, Any] | None:
        """One item of the collection, to look at before all begins; None if there is none.

        Raises:
            SpecError: if there is no such catalogue or collection.
        """
        first, last = min(self.spec.dates.spans())[0], max(self.spec.dates.spans(), key=lambda span: span[1])[1]
        whole = {"datetime": f"{first}T00:00:00Z/{last}T23:59:59Z", "max_items": 1, "limit": 1}
        try:
            return next(iter(patience.persist(lambda: self._search(whole), "search", log)), None)
        except Passing as fault:
            raise RunError(f"{self.spec.stac}: {fault}; is it the address of a STAC API, and is it up?") from None

    def _scene(self, item: Any, patch: Patch, interval: Interval) -> Scene | None:
        """An item, if it fits."""
        told = item.get("properties") if isinstance(item, dict) else None
        if (
            not isinstance(told, dict)
            or not isinstance(item.get("id"), str)
            or not isinstance(item.get("assets"), dict)
        ):
            return None
        taken = _time(told.get("datetime") or told.get("start_datetime"))
        cloud = told.get("eo:cloud_cover")
        cloud = float(cloud) if isinstance(cloud, int | float) else None
        if taken is None or not interval.holds(taken.date()):
            return None
        if (100.0 if cloud is None else cloud) > self.spec.max_cloud_percent or not _covers(
            item.get("geometry"), patch
        ):
            return None
        return Scene(item["id"], taken, cloud, item)

    def _items(self, patch: Patch, interval: Interval) -> list[dict[str, Any]]:
        days = f"{interval.first}T00:00:00Z/{interval.last}T23:59:59Z"
        return self._search({"bbox": patch.bounds, "datetime": days, "max_items": self.spec.max_items, "limit": PAGE})

    def _search(self, what: dict[str, Any]) -> list[dict[str, Any]]:
        """Items as a server gives them; of a static catalogue all items.

        Raises:
            Passing, RunError: as `scenes`.
        """
        with self._told():
            client = self._client()
            if not client.conforms_to("ITEM_SEARCH"):
                return self._walk(client)
            if client.conforms_to("QUERY") and self.spec.max_cloud_percent < 100:
                what = {**what, "query": {"eo:cloud_cover": {"lte": self.spec.max_cloud_percent}}}
            posts = any(x.rel == "search" and x.extra_fields.get("method") == "POST" for x in client.links)
            search = client.search(method="POST" if posts else "GET", collections=[self.collection], **what)
            return [_absolute(item) for item in search.items_as_dicts()]

    def _client(self) -> Any:
        """This thread's connection."""
        found = getattr(self._threads, "client", None)
        if found is None:
            try:
                from pystac_client import Client
                from pystac_client.stac_api_io import StacApiIO
                from pystac_client.warnings import PystacClientWarning
            except ImportError:
                raise SpecError("pystac-client is not installed; `pip install geomaestro[stac]`") from None
            access = StacApiIO(timeout=self.spec.timeout_s, max_retries=None)
            access.session.hooks["response"].append(self._note)
            # what it warns of (a static catalogue, links left out) is no fault; for good, as threads share the filters
            warnings.filterwarnings("ignore", category=PystacClientWarning)
            with self._lock:
                found = self._threads.client = Client.open(self.spec.stac, stac_io=access)
        return found

    def _note(self, response: Any, *_: Any, **__: Any) -> None:
        self._threads.wait = response.headers.get("Retry-After")

    def _told(self) -> "_Told":
        return _Told(self)

    def asked_wait_s(self) -> float | None:
        """Seconds that the last answer to this thread asked to wait."""
        return wait_of(getattr(self._threads, "wait", None))

    def _walk(self, client: Any) -> list[dict[str, Any]]:
        """All items of a static catalogue, read once."""
        with self._lock:
            if self._static is None:
                self._static = list(self._static_items(client))
        return self._static

    def _static_items(self, client: Any) -> Iterator[dict[str, Any]]:
        for count, item in enumerate(client.get_items(recursive=True)):
            if count >= MAX_STATIC_ITEMS:
                raise SpecError(
                    f"{self.spec.stac}: a static catalogue of more than {MAX_STATIC_ITEMS} items takes too long to "
                    "walk through; name a part of it, or a STAC API"
                )
            if item.collection_id in (None, self.collection):
                yield item.make_asset_hrefs_absolute().to_dict(transform_hrefs=False)


class _Told:
    """Turns what a server's answers raise into faults that may pass, or a clear end."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def __enter__(self) -> None:
        self.catalogue._threads.wait = None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, Passing | SpecError):
            return
        from pystac import STACError
        from pystac_client.exceptions import APIError
        from requests import RequestException

        where = self.catalogue.spec.stac
        status = getattr(error, "status_code", None)
        said = " ".join(str(error).split())[:300]
        if isinstance(error, APIError) and status is not None and status not in PASSING_STATUS:
            remedy = "is `collection` right?" if status == 404 else "look at `stac`, `collection` and `sign`"
            raise RunError(f"{where}: the server refused the search (HTTP {status}: {said}); {remedy}") from None
        if isinstance(error, APIError | RequestException):
            what = "no answer" if status is None else f"HTTP {status}"
            raise Passing(f"{what}: {said}", self.catalogue.asked_wait_s()) from None
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            raise Passing(f"an answer that is no JSON: {said}") from None
        if isinstance(error, STACError | KeyError | TypeError | ValueError | AttributeError | OSError):
            raise RunError(f"{where}: is no STAC catalogue ({type(error).__name__}: {said}); look at `stac`") from None


def wait_of(said: str | None) -> float | None:
    """Seconds of a `Retry-After`, which is a number or a date; None if it says nothing."""
    if said is None:
        return None
    if said.strip().isdecimal():
        return float(said)
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _time(said: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(said))
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _covers(geometry: Any, patch: Patch) -> bool:
    """Whether a footprint holds all of a patch."""
    import shapely

    try:
        shape = shapely.from_geojson(json.dumps(geometry))
    except (shapely.errors.GEOSException, TypeError, ValueError):
        return False
    if shape is None or shape.is_empty:
        return False
    return bool(shapely.make_valid(shape).covers(shapely.box(*patch.bounds)))


def _absolute(item: dict[str, Any]) -> dict[str, Any]:
    """An item whose assets have whole addresses."""
    links = [link for link in item.get("links", []) if link.get("rel") == "self"]
    base = links[0].get("href", "") if links else ""
    for asset in (item.get("assets") or {}).values():
        if base and isinstance(asset.get("href"), str) and not urlsplit(asset["href"]).scheme:
            asset["href"] = urljoin(base, asset["href"])
    return item
