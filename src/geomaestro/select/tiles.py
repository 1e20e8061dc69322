"""Class codes under samples, from rasters that lie beside each other.

Axes: n place, h row, w column.
"""

import html
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from geomaestro.data.files.align import METRES_PER_DEGREE
from geomaestro.data.files.raster import DRIVERS, QUIET, open_raster, raster_errors, read_bands
from geomaestro.errors import DataError
from geomaestro.grid import Window

LEAST_PIXELS = 4  # assumed; a sample over fewer pixels is told by the pixel at its middle
MOST_PIXELS = 1 << 26  # assumed; under one sample
CATEGORY = re.compile(r"<Category>(.*?)</Category>", re.DOTALL)
PATIENT = {**QUIET, "GDAL_HTTP_TIMEOUT": 60, "GDAL_HTTP_MAX_RETRY": 3, "GDAL_HTTP_RETRY_DELAY": 1}  # of addresses
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Footprints:
    """Middles of samples in degrees, and their extent on the ground (NaN: unknown); all (n)."""

    lon: np.ndarray
    lat: np.ndarray
    width_m: np.ndarray
    height_m: np.ndarray

    def half_degrees(self) -> tuple[np.ndarray, np.ndarray]:
        """Half the width and height (n) of samples in degrees; 0 where they are unknown."""
        narrow = np.maximum(np.cos(np.radians(np.nan_to_num(self.lat))), 0.01)
        wide, high = (np.nan_to_num(x) / 2 / METRES_PER_DEGREE for x in (self.width_m, self.height_m))
        return wide / narrow, high


@dataclass(frozen=True)
class Tile:
    """A raster of a path or address, and the box that it lies in: west, south, east, north in degrees."""

    path: str
    box: Box


class Tiles:
    """Rasters of one band of class codes; of several at a place the first counts."""

    def __init__(self, tiles: Sequence[Tile], *, crs: str | None = None) -> None:
        self.tiles, self.crs = list(tiles), crs

    @classmethod
    def of_files(cls, paths: Sequence[str], *, crs: str | None = None) -> "Tiles":
        """Of files; each is opened for where it lies.

        Raises:
            DataError: naming a file that is unreadable, holds no class codes, or names no coordinate system.
        """
        tiles = []
        for path in paths:
            with opened(path) as source:
                tiles.append(Tile(path, _box(path, source, crs)))
        return cls(tiles, crs=crs)

    @cached_property
    def names(self) -> Mapping[int, str]:
        """Names of codes, if the first raster brings them: GDAL's category table."""
        path = self.tiles[0].path if self.tiles else ""
        beside = Path(path if path.endswith(".vrt") else f"{path}.aux.xml")
        if not beside.is_file():
            return {}
        found = CATEGORY.findall(beside.read_text(encoding="utf-8", errors="replace"))
        return {code: html.unescape(name).strip() for code, name in enumerate(found) if name.strip()}

    def codes(self, where: Footprints, *, majority: bool) -> tuple[np.ndarray, np.ndarray]:
        """(n) int64 codes, and (n) True where there is one."""
        counts: dict[int, Counter[int]] = defaultdict(Counter)
        for number, places in self._found(where, majority=majority):
            tile = self.tiles[number]
            with opened(tile.path) as source:
                reader = _Reader(tile.path, source, self.crs, where)
                for place, found in reader.read(places, majority=majority):
                    if majority or not counts[place]:
                        counts[place].update(found)
        out, known = np.zeros(len(where.lon), np.int64), np.zeros(len(where.lon), bool)
        for place, each in counts.items():
            if each:
                out[place], known[place] = min(each, key=lambda code: (-each[code], code)), True
        return out, known

    def _found(self, where: Footprints, *, majority: bool) -> Iterator[tuple[int, np.ndarray]]:
        """Each tile that lies under samples, in order, with the numbers of these."""
        import shapely

        known = np.flatnonzero(np.isfinite(where.lon) & np.isfinite(where.lat))
        if not self.tiles or not len(known):
            return
        wide, high = (half[known] if majority else np.zeros(len(known)) for half in where.half_degrees())
        lon, lat = where.lon[known], where.lat[known]
        tree = shapely.STRtree([shapely.box(*tile.box) for tile in self.tiles])
        place, tile = tree.query(shapely.box(lon - wide, lat - high, lon + wide, lat + high), predicate="intersects")
        for number in np.unique(tile).tolist():
            yield number, known[np.unique(place[tile == number])]


class _Reader:
    """Reads one raster under samples."""

    def __init__(self, path: str, source: Any, crs: str | None, where: Footprints) -> None:
        self.path, self.source, self.where = path, source, where
        self.crs = _crs(path, source, crs)
        self.inverse = ~source.transform

    def read(self, places: np.ndarray, *, majority: bool) -> Iterator[tuple[int, Mapping[int, int]]]:
        """Number of a place, and pixels by code; in the order in which they lie in the file."""
        lon, lat = self.where.lon[places], self.where.lat[places]
        row, col = self._pixels(lon, lat)
        wide, high = (half[places] for half in self.where.half_degrees())
        edges = [self._pixels(lon + x * wide, lat + y * high) for x in (-1, 1) for y in (-1, 1)]
        rows, cols = np.stack([e[0] for e in edges]), np.stack([e[1] for e in edges])
        for nth in np.lexsort((col, row)).tolist():
            window = self._under(rows[:, nth], cols[:, nth]) if majority else None
            if window is None or window.height * window.width < LEAST_PIXELS:
                window = self._inside(int(np.floor(row[nth])), int(np.floor(col[nth])), 1, 1)
            if window is not None:
                yield int(places[nth]), self._counted(window)

    def _pixels(self, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fractional rows and columns (n) of places."""
        from rasterio.warp import transform

        x, y = (np.asarray(v, float) for v in transform("EPSG:4326", self.crs, lon, lat))
        a, b, c, d, e, f = tuple(self.inverse)[:6]
        return d * x + e * y + f, a * x + b * y + c

    def _under(self, rows: np.ndarray, cols: np.ndarray) -> Window | None:
        """The pixels whose middles lie under a sample with these corners."""
        if not (np.isfinite(rows).all() and np.isfinite(cols).all()):
            return None
        top, left = int(np.ceil(rows.min() - 0.5)), int(np.ceil(cols.min() - 0.5))
        return self._inside(top, left, int(np.ceil(rows.max() - 0.5)) - top, int(np.ceil(cols.max() - 0.5)) - left)

    def _inside(self, row: int, col: int, height: int, width: int) -> Window | None:
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.source.height), min(col + width, self.source.width)
        return Window(top, left, bottom - top, right - left) if bottom > top and right > left else None

    def _counted(self, window: Window) -> dict[int, int]:
        if window.height * window.width > MOST_PIXELS:
            raise DataError(
                f"{self.path}: {window.height} x {window.width} pixels lie under one sample; take --footprint centre"
            )
        found, counts = np.unique(read_bands(self.path, self.source, [1], window), return_counts=True)
        pairs = zip(found.tolist(), counts.tolist(), strict=True)
        return {int(code): int(count) for code, count in pairs if code != self.source.nodata}


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open a raster of class codes: a file, a VRT or an address.

    Raises:
        DataError: naming it, if it can't be read or holds no class codes.
    """
    if "://" not in path and os.path.splitext(path)[1].lower() in DRIVERS:
        with open_raster(Path(path)) as source:
            _check(path, source)
            yield source
        return
    import rasterio

    if "://" not in path and not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    try:
        address = f"/vsicurl/{path}" if "://" in path else path
        driver = "VRT" if path.endswith(".vrt") else "GTiff"
        with rasterio.Env(**PATIENT), rasterio.open(address, driver=driver) as source:
            _check(path, source)
            yield source
    except raster_errors() as error:
        raise DataError(f"{path}: unreadable raster, probably truncated ({error}); fetch the file again") from None


def _check(path: str, source: Any) -> None:
    if source.count != 1 or np.dtype(source.dtypes[0]).kind not in "ui":
        raise DataError(
            f"{path}: has {source.count} band{'s' * (source.count > 1)} of {source.dtypes[0]}; a layer of classes has "
            "one band of whole numbers"
        )


def _crs(path: str, source: Any, given: str | None) -> Any:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    if given is None and source.crs is None:
        raise DataError(f"{path}: names no coordinate system; give --layer-crs, such as EPSG:4326")
    try:
        return source.crs if given is None else CRS.from_user_input(given)
    except (CRSError, ValueError):
        raise DataError(f"{given!r} is no coordinate system; write it as EPSG:4326") from None


def _box(path: str, source: Any, crs: str | None) -> Box:
    from rasterio.warp import transform_bounds

    try:
        west, south, east, north = transform_bounds(_crs(path, source, crs), "EPSG:4326", *source.bounds)
    except raster_errors() as error:
        raise DataError(f"{path}: its pixels lie nowhere on the ground ({error}); mend the file") from None
    return (west, south, east, north) if west <= east else (-180.0, south, 180.0, north)
