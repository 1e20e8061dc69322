"""A patch, read from the files of a scene: the same pixels of the ground in every band, in the files' own grid.

Axes: c band, h row, w column.
"""

import itertools
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from geomaestro.data.scenes import state_of
from geomaestro.select.gather.faults import Passing, Refused, Unusable
from geomaestro.select.gather.offsets import Offset, offset_of, without_offset
from geomaestro.select.gather.searching import Scene
from geomaestro.select.gather.signing import Signer
from geomaestro.select.gather.spec import GatherSpec

MAX_RATIO = 64  # assumed; a band of pixels 64 times as wide as those that are wanted shows nothing
SAME = 1e-3  # assumed; corners and pixels that differ by less than this share of a pixel are the same
_OPENED = itertools.count()
GONE = ("HTTP response code: 404", "HTTP response code: 410", "does not exist in the file system", "No such file")
DENIED = ("HTTP response code: 401", "HTTP response code: 403", "HTTP response code: 409")


@dataclass(frozen=True)
class Read:
    """What was read: images (c h w) without offset, the state (1 h w) or None, where the patch lies, and which
    shares of it are unknown, cloudy and water.
    """

    images: np.ndarray
    state: np.ndarray | None
    offset: Offset
    crs: str
    row: int
    col: int
    shares: Mapping[str, float]


@dataclass(frozen=True)
class _Window:
    """`size` pixels from `row`, `col` of the finest grid."""

    row: int
    col: int
    size: int


def asset_of(item: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """The raster of a band: by the name of an asset, or by the one band that a GeoTIFF or JPEG 2000 tells to hold."""
    assets = item["assets"]
    for name in names:
        if isinstance(assets.get(name), dict):
            return dict(assets[name])
    for asset in assets.values():
        bands = (asset.get("eo:bands") or asset.get("bands") or []) if isinstance(asset, dict) else []
        kind = str(asset.get("type", "")) if isinstance(asset, dict) else ""
        if len(bands) == 1 and ("tiff" in kind or "jp2" in kind):
            told = {bands[0].get(key) for key in ("name", "common_name", "eo:common_name")}
            if told & set(names):
                return dict(asset)
    return None


def assets_of(item: Mapping[str, Any], spec: GatherSpec) -> dict[str, dict[str, Any]]:
    """The rasters of all bands, and of `flags` where they are wanted.

    Raises:
        Unusable: naming the item, the bands that it lacks and the assets that it has.
    """
    known = {band.name: band for band in spec.known.bands}
    wanted = {name: (name, *known[name].others) for name in spec.band_names}
    if spec.flags and spec.known.flags:
        wanted["flags"] = spec.known.flags
    found = {}
    for name, names in wanted.items():
        asset = asset_of(item, (spec.assets[name],) if name in spec.assets else names)
        if asset is not None and isinstance(asset.get("href"), str):
            found[name] = asset
    missing = [name for name in wanted if name not in found]
    if missing:
        raise Unusable(
            f"item {item['id']}: has no {', '.join(missing)} among its assets ({', '.join(sorted(item['assets']))}); "
            "name them with `assets`" + (", or leave out `flags`" if "flags" in missing else "")
        )
    return found


class Reader:
    """Reads patches of scenes; shared by threads."""

    def __init__(self, spec: GatherSpec) -> None:
        self.spec, self.signer = spec, Signer(spec)
        logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # each fault is raised as well, and told in our lists
        self._local = "://" not in spec.stac
        known = {band.name: band for band in spec.known.bands}
        self._finest = min(spec.band_names, key=lambda name: known[name].gsd_m)

    def read(self, scene: Scene, lon: float, lat: float) -> Read:
        """A patch around a place in degrees.

        Raises:
            Passing: if a file can't be read now.
            Unusable: if it can't be used at all: what is missing, contradicts itself, or lies outside.
        """
        assets = assets_of(scene.item, self.spec)
        bands = {name: assets[name] for name in self.spec.band_names}
        offset = Offset(0, None, "the sensor")
        if self.spec.known.shifted:
            offset = offset_of(scene.item, bands, self.spec.offset_dn)
        with ExitStack() as stack:
            stack.enter_context(_settings(self.spec.timeout_s))
            files = {name: stack.enter_context(self._open(asset["href"])) for name, asset in assets.items()}
            fine = files[self._finest]
            window = self._window(fine, lon, lat, [_ratio(fine, file, name) for name, file in files.items()])
            pixels = [self._pixels(files[name], name, fine, window) for name in self.spec.band_names]
            nodata = [self.spec.known.nodata if files[name].nodata is None else files[name].nodata for name in bands]
            flags = self._flags(files.get("flags"), fine, window)
            crs = str(fine.crs)
        kinds = sorted({str(band.dtype) for band in pixels})
        if len(kinds) > 1:
            raise Unusable(f"item {scene.id}: its bands are stored in different types ({', '.join(kinds)})")
        return self._finish(np.stack(pixels), nodata, flags, offset, (crs, window))

    def _finish(
        self, images: np.ndarray, nodata: Sequence[float], flags: np.ndarray | None, offset: Offset, where: Any
    ) -> Read:
        known = self.spec.known
        unknown = np.any([band == none for band, none in zip(images, nodata, strict=True)], axis=0)
        if images.dtype.kind == "f":
            unknown |= ~np.isfinite(images).all(axis=0)
        cloudy = np.zeros_like(unknown)
        if flags is not None:
            unknown |= np.isin(flags, known.unknown)
            cloudy = np.isin(flags, known.cloudy) & ~unknown
        crs, window = where
        water = 0.0 if flags is None else float(np.isin(flags, known.water).mean())
        shares = {"unknown": float(unknown.mean()), "cloudy": float(cloudy.mean()), "water": water}
        for word, share in shares.items():
            most = getattr(self.spec, f"max_{word}_share")
            if share > most:
                raise Unusable(f"{share:.1%} of the patch is {word}, more than {most:.1%} (max_{word}_share)")
        images = without_offset(images, unknown, offset, known.nodata)
        state = state_of(unknown[None], cloudy[None])
        return Read(images, state, offset, crs, window.row, window.col, shares)

    def _window(self, fine: Any, lon: float, lat: float, ratios: Sequence[int]) -> _Window:
        """Pixels of the finest grid around a place, from a corner that all bands share."""
        from rasterio.warp import transform

        size, step, found = self.spec.size_px, math.lcm(*ratios), fine.transform.a
        if abs(found - self.spec.gsd_m) > SAME * found:
            raise Unusable(f"{self._finest}: has pixels of {found:g} m, not {self.spec.gsd_m:g}; give gsd_m={found:g}")
        (x,), (y,) = transform("EPSG:4326", fine.crs, [lon], [lat])
        col, row = ~fine.transform @ (x, y)
        first = [round((at - size / 2) / step) * step for at in (row, col)]
        if min(first) < 0 or first[0] + size > fine.height or first[1] + size > fine.width:
            raise Unusable(f"the patch leaves the image of {fine.height} x {fine.width} pixels")
        return _Window(first[0], first[1], size)

    def _pixels(self, file: Any, name: str, fine: Any, window: _Window, *, classes: bool = False) -> np.ndarray:
        """(h w) of one band, its pixels brought to those of the finest one."""
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        ratio = _ratio(fine, file, name)
        side = math.ceil(window.size / ratio)
        part = Window(window.col // ratio, window.row // ratio, side, side)
        if file.count != 1:
            raise Unusable(f"{name}: the file has {file.count} bands where one is expected")
        how = Resampling.nearest if classes or self.spec.resampling == "nearest" else Resampling.bilinear
        with _told(name):
            if ratio == 1 or how == Resampling.nearest:
                found = np.asarray(file.read(1, window=part)).repeat(ratio, axis=0).repeat(ratio, axis=1)
            else:
                found = np.asarray(file.read(1, window=part, out_shape=(side * ratio,) * 2, resampling=how))
        return found[: window.size, : window.size]

    def _flags(self, file: Any, fine: Any, window: _Window) -> np.ndarray | None:
        return None if file is None else self._pixels(file, "flags", fine, window, classes=True)

    @contextmanager
    def _open(self, href: str) -> Iterator[Any]:
        """A raster over HTTP; of the local disk only if the catalogue lies there too."""
        import rasterio

        scheme = urlsplit(href).scheme.lower()
        if scheme not in ("http", "https") and not (self._local and scheme in ("", "file")):
            raise Unusable(f"{href[:100]}: files are read over http(s), not {scheme or 'from this disk'}")
        driver = "JP2OpenJPEG" if urlsplit(href).path.lower().endswith(".jp2") else "GTiff"  # others stay closed
        with _told(href):
            opened = rasterio.open(_once(self.signer.sign(href)), driver=driver)
        with opened as file:
            self._check(file, href)
            yield file

    def _check(self, file: Any, href: str) -> None:
        name = Path(urlsplit(href).path).name
        a, b, _, d, e, _ = tuple(file.transform)[:6]
        if file.crs is None or not file.crs.is_projected or b or d or a <= 0 or e != -a:
            raise Unusable(f"{name}: its grid is none of square metres, north up; such are not gathered")
        if file.dtypes[0].startswith("complex"):
            raise Unusable(f"{name}: holds complex numbers")


def _ratio(fine: Any, file: Any, name: str) -> int:
    """How many pixels of the finest grid one of a band is wide.

    Raises:
        Unusable: if that is no whole number, or the grids begin at different corners.
    """
    ratio, a = file.transform.a / fine.transform.a, fine.transform.a
    moved = max(abs(file.transform.c - fine.transform.c), abs(file.transform.f - fine.transform.f))
    whole = round(ratio)
    if file.crs != fine.crs or moved > SAME * a or not 1 <= whole <= MAX_RATIO or abs(ratio - whole) > SAME:
        raise Unusable(f"{name}: lies on another grid than the finest band, and is not resampled silently")
    return whole


def _settings(timeout_s: float) -> Any:
    """GDAL for files that are read once, in parts, over HTTP. Trying again is ours, so that it is told."""
    import rasterio

    return rasterio.Env(
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
        GDAL_PAM_ENABLED="NO",
        GDAL_HTTP_TIMEOUT=str(math.ceil(timeout_s)),
        GDAL_HTTP_CONNECTTIMEOUT=str(math.ceil(min(timeout_s, 30))),
        GDAL_HTTP_MAX_RETRY="0",
        CPL_VSIL_CURL_USE_HEAD="NO",  # signed addresses allow reading alone
        GDAL_INGESTED_BYTES_AT_OPEN="32768",  # a header in one request
        VSI_CACHE="FALSE",
    )


def _once(href: str) -> str:
    """An address that GDAL has not met: it remembers what it read of one, even of a file that came in part.

    The setting that is meant for this, CPL_VSIL_CURL_NON_CACHED, lets threads wait for each other for ever (measured
    with GDAL 3.10.3). What follows # is not sent.
    """
    return f"/vsicurl/{href}#{next(_OPENED)}" if "://" in href and not href.startswith("file:") else href


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turns GDAL's errors into faults."""
    from geomaestro.data.files.raster import raster_errors

    try:
        yield
    except raster_errors() as error:
        said = re.sub(r"#\d+", "", " ".join(f"{error} {error.__cause__ or ''}".split()))[:300]
        what = f"{name.partition('?')[0][-80:]}: {said.partition('?')[0]}"  # a token is nobody's business
        if any(word in said for word in GONE):
            raise Unusable(what) from None
        raise (Refused if any(word in said for word in DENIED) else Passing)(what) from None
