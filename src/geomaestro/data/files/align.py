"""Bring images to another grid: to one extent on the ground, or to one size.

Axes: t date, c band, h row, w column.
"""

from dataclasses import dataclass, replace

import numpy as np

from geomaestro.data.files.filespec import Fit
from geomaestro.data.files.stored import Stored
from geomaestro.errors import DataError
from geomaestro.grid import ALIKE_PX, Grid, Window

WARPED = tuple(np.dtype(x) for x in ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"))  # GDAL knows them
METRES_PER_DEGREE = 111_320.0  # of latitude
PLANE = "EPSG:3857"  # any metric plane; images without a place on the ground are resampled in it


@dataclass(frozen=True, slots=True)
class Aligned:
    """A source resampled to a grid. What lies outside the source is unmeasured; nodata never runs into other pixels."""

    path: str
    stored: Stored
    source: Grid
    target: Grid
    how: Fit
    nodata: float | None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(t c h w)"""
        return (*self.stored.shape[:2], self.target.height, self.target.width)

    @property
    def dtype(self) -> np.dtype:
        """Of the stored numbers."""
        return self.stored.dtype

    def read(self, dates: np.ndarray | None, window: Window) -> np.ndarray:
        """Stored numbers (d c h w) of some dates, resampled."""
        x = self.stored.read(dates, self._whole())
        away = None if self.how in ("nearest", "mode") else self.stored.unmeasured(self._whole())
        if away is None:
            flat = self._warp(x.reshape(-1, *x.shape[2:]), self.how, self._blank(x.dtype))
        else:
            flat = self._warp_seen(x, away if dates is None or len(away) == 1 else away[dates])
        rows, cols = window.slices
        return flat.reshape(*x.shape[:2], *flat.shape[1:])[:, :, rows, cols]

    def _warp_seen(self, x: np.ndarray, away: np.ndarray) -> np.ndarray:
        """Resample x (t c h w) as if the pixels `away` (t or 1, h w) were NaN, so that they do not run into others."""
        hidden = np.broadcast_to(away[:, None], x.shape)
        if self.nodata is not None:
            hidden = hidden | (x == self.nodata)
        wide = np.float32 if x.dtype.itemsize <= 2 or x.dtype == np.float32 else np.float64
        y = np.where(hidden, np.nan, x).astype(wide).reshape(-1, *x.shape[2:])
        flat = replace(self, nodata=None)._warp(y, self.how, np.nan)
        if x.dtype.kind != "f":
            span = np.iinfo(x.dtype)
            flat = np.where(np.isnan(flat), self._blank(x.dtype), np.clip(np.rint(flat), span.min, span.max))
        return flat.astype(x.dtype)

    def grid(self) -> Grid | None:
        """The grid that it is brought to."""
        return self.target

    def unmeasured(self, window: Window) -> np.ndarray | None:
        """(t or 1, h w): outside the source, or unmeasured there."""
        inner = self.stored.unmeasured(self._whole())
        there = np.ones((1, *self.stored.shape[2:]), np.uint8) if inner is None else (~inner).astype(np.uint8)
        rows, cols = window.slices
        away = self._warp(there, "nearest", 0)[:, rows, cols] == 0
        return away if away.any() else None

    def _whole(self) -> Window:
        return Window(0, 0, self.stored.shape[2], self.stored.shape[3])

    def _blank(self, dtype: np.dtype) -> float:
        return np.nan if dtype.kind == "f" and self.nodata is None else (self.nodata or 0)

    def _warp(self, x: np.ndarray, how: Fit, blank: float) -> np.ndarray:
        from affine import Affine
        from rasterio.enums import Resampling
        from rasterio.warp import reproject

        if x.dtype not in WARPED:  # brought back to its own type
            wide = self._warp(x.astype(np.float32 if x.dtype.itemsize <= 2 else np.float64), how, blank)
            return (wide if x.dtype.kind == "f" else np.rint(wide)).astype(x.dtype)
        out = np.full((len(x), self.target.height, self.target.width), blank, x.dtype)
        keeps_blank = x.dtype.kind == "f" or self.nodata is not None
        reproject(
            x,
            out,
            src_transform=Affine(*self.source.transform),
            dst_transform=Affine(*self.target.transform),
            src_crs=self.source.crs,
            dst_crs=self.target.crs,
            src_nodata=blank if keeps_blank and blank is not None and how != "nearest" else None,
            dst_nodata=blank if keeps_blank else None,
            init_dest_nodata=keeps_blank,
            resampling=Resampling[how],
            UNIFIED_SRC_NODATA="NO",  # each band and date has gaps of its own
        )
        return out


@dataclass(frozen=True, slots=True)
class Padded:
    """A source cropped about its middle, or padded with unmeasured pixels, to a size."""

    stored: Stored
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(t c h w)"""
        return (*self.stored.shape[:2], *self.size)

    @property
    def dtype(self) -> np.dtype:
        """Of the stored numbers."""
        return self.stored.dtype

    def read(self, dates: np.ndarray | None, window: Window) -> np.ndarray:
        """Stored numbers (d c h w); 0 in the padding."""
        source, (top, left) = self._overlap()
        x = self.stored.read(dates, source)
        out = np.zeros((*x.shape[:2], *self.size), x.dtype)
        out[:, :, top : top + source.height, left : left + source.width] = x
        rows, cols = window.slices
        return out[:, :, rows, cols]

    def grid(self) -> Grid | None:
        """None: the padding has no place."""
        return None

    def unmeasured(self, window: Window) -> np.ndarray | None:
        """(t or 1, h w): the padding, and what is unmeasured in the source."""
        source, (top, left) = self._overlap()
        inner = self.stored.unmeasured(source)
        if inner is None and (source.height, source.width) == self.size:
            return None
        away = np.ones((1 if inner is None else len(inner), *self.size), bool)
        away[:, top : top + source.height, left : left + source.width] = False if inner is None else inner
        rows, cols = window.slices
        return away[:, rows, cols]

    def _overlap(self) -> tuple[Window, tuple[int, int]]:
        """The part of the source that is used, and where its corner lies in the result."""
        (height, width), (rows, cols) = self.stored.shape[2:], self.size
        window = Window(max(0, (height - rows) // 2), max(0, (width - cols) // 2), min(height, rows), min(width, cols))
        return window, (max(0, (rows - height) // 2), max(0, (cols - width) // 2))


@dataclass(frozen=True, slots=True)
class Repeated:
    """A source whose pixels are each repeated, `times` rows and columns: a coarser band in the pixels of a finer."""

    stored: Stored
    times: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(t c h w)"""
        t, c, h, w = self.stored.shape
        return t, c, h * self.times[0], w * self.times[1]

    @property
    def dtype(self) -> np.dtype:
        """Of the stored numbers."""
        return self.stored.dtype

    def read(self, dates: np.ndarray | None, window: Window) -> np.ndarray:
        """Stored numbers (d c h w)."""
        return self._repeat(self.stored.read(dates, self._covering(window)), window)

    def grid(self) -> Grid | None:
        """The same extent in smaller pixels."""
        grid = self.stored.grid()
        return None if grid is None else grid.resampled(self.shape[2], self.shape[3])

    def unmeasured(self, window: Window) -> np.ndarray | None:
        """(t or 1, h w), or None."""
        found = self.stored.unmeasured(self._covering(window))
        return None if found is None else self._repeat(found, window)

    def _covering(self, window: Window) -> Window:
        (down, right), row, col = self.times, window.row // self.times[0], window.col // self.times[1]
        return Window(
            row, col, -(-(window.row + window.height) // down) - row, -(-(window.col + window.width) // right) - col
        )

    def _repeat(self, x: np.ndarray, window: Window) -> np.ndarray:
        down, right = self.times
        top, left = window.row % down, window.col % right
        x = x.repeat(down, axis=-2).repeat(right, axis=-1)
        return x[..., top : top + window.height, left : left + window.width]


def fitted(path: str, stored: Stored, size: tuple[int, int], how: Fit, nodata: float | None) -> Stored:
    """A source brought to a size: as it is, padded or cropped, or resampled."""
    shape = stored.shape[2], stored.shape[3]
    if how == "none" or shape == size:
        return stored
    if how == "pad":
        return Padded(stored, size)
    if how == "nearest" and size[0] % shape[0] == 0 and size[1] % shape[1] == 0:
        return Repeated(stored, (size[0] // shape[0], size[1] // shape[1]))
    source = Grid(
        *shape, (10.0, 0.0, 1000.0, 0.0, -10.0, 2000.0), PLANE
    )  # measured: GDAL takes unit pixels for no grid
    return Aligned(path, stored, source, source.resampled(*size), how, nodata)


def on_ground(path: str, stored: Stored, target: Grid, how: Fit, nodata: float | None) -> Stored:
    """A source brought to a grid on the ground.

    Raises:
        DataError: if the file has no place on the ground, lies elsewhere, or would have to be resampled without leave.
    """
    source = stored.grid()
    if source is None:
        raise DataError(f"{path}: has no georeference, but `ground` of its spec needs one; leave `ground` out")
    if same_grid(source, target):
        return stored
    if how in ("none", "pad"):
        raise DataError(
            f"{path}: lies on another grid ({describe(source)}) than its samples ({describe(target)}); set `fit` of "
            "the sensor to nearest, bilinear, cubic, average or mode to have it resampled"
        )
    aligned = Aligned(path, stored, source, target, how, nodata)
    outside = aligned.unmeasured(Window(0, 0, target.height, target.width))
    if outside is not None and outside.all():
        raise DataError(f"{path}: does not overlap the extent of its sample ({describe(source)}; {describe(target)})")
    return aligned


def same_grid(one: Grid, other: Grid) -> bool:
    """True if pixels coincide."""
    if (one.height, one.width) != (other.height, other.width) or not same_crs(one.crs, other.crs):
        return False
    size = max(abs(one.transform[0]), abs(one.transform[1]))
    corners = zip(_corners(one), _corners(other), strict=True)
    return all(abs(a - b) <= ALIKE_PX * size for a, b in corners)


def _corners(grid: Grid) -> list[float]:
    """x and y of three corners, in the order of rows and columns: bounds alone are those of a turned grid too."""
    a, b, c, d, e, f = grid.transform
    places = ((0, 0), (grid.width, 0), (0, grid.height))
    return [v for col, row in places for v in (c + a * col + b * row, f + d * col + e * row)]


def same_crs(one: str, other: str) -> bool:
    """True if two names stand for one coordinate system."""
    if one == other:
        return True
    from rasterio.crs import CRS

    return bool(CRS.from_user_input(one) == CRS.from_user_input(other))


def describe(grid: Grid) -> str:
    """A grid in words."""
    from rasterio.crs import CRS

    crs = CRS.from_user_input(grid.crs)
    code = crs.to_epsg()
    west, south, east, north = grid.bounds
    name = f"EPSG:{code}" if code else "a system without EPSG code"
    return f"{grid.height} x {grid.width} pixels in {name}, x {west:.6g} to {east:.6g}, y {south:.6g} to {north:.6g}"


def middle(grid: Grid) -> tuple[float, float]:
    """Longitude and latitude of the middle of a grid, in degrees.

    Raises:
        DataError: if the coordinates are none of the coordinate system.
    """
    from rasterio.warp import transform

    from geomaestro.data.files.raster import raster_errors

    west, south, east, north = grid.bounds
    try:
        lon, lat = transform(grid.crs, "EPSG:4326", [(west + east) / 2], [(south + north) / 2])
    except raster_errors() as error:
        raise DataError(
            f"coordinates {(west + east) / 2:g}, {(south + north) / 2:g} are not on Earth ({error})"
        ) from None
    return float(lon[0]), float(lat[0])


def about_middle(grid: Grid, size_m: float) -> Grid:
    """A square of ground about the middle of a grid, its rows to the south, in pixels of about the same size."""
    a, b, _, d, e, _ = grid.transform
    west, south, east, north = grid.bounds
    x, y = (west + east) / 2, (south + north) / 2
    width, height = (size_m / metres for metres in metres_per_unit(grid.crs, y))
    rows, cols = max(1, round(height / np.hypot(b, e))), max(1, round(width / np.hypot(a, d)))
    return Grid(rows, cols, (width / cols, 0.0, x - width / 2, 0.0, -height / rows, y + height / 2), grid.crs)


def metres_per_unit(crs: str, y: float) -> tuple[float, float]:
    """Metres along x and along y of one unit of a coordinate system at `y`: degrees are no metres, nor are feet."""
    from rasterio.crs import CRS

    found = CRS.from_user_input(crs)
    if found.is_geographic:
        return METRES_PER_DEGREE * max(float(np.cos(np.radians(y))), 0.01), METRES_PER_DEGREE
    metres = float(found.linear_units_factor[1])
    return metres, metres
