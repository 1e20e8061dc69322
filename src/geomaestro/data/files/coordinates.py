"""Where a NetCDF or Zarr cube lies on the ground: from its coordinates and its coordinate system (CF conventions)."""

from pathlib import Path
from typing import Any

import numpy as np

from geomaestro.data.files.stores import lookup, whole
from geomaestro.errors import DataError
from geomaestro.grid import Grid

X_NAMES, Y_NAMES = ("x", "lon", "longitude", "easting"), ("y", "lat", "latitude", "northing")
CRS_NAMES = ("spatial_ref", "crs", "crs_wkt", "transverse_mercator", "polar_stereographic")
MAX_COORDINATES = 1_000_000  # assumed
MAX_ATTRIBUTE = 10_000  # assumed; values of one attribute


def grid_of_group(group: Any, where: Path | str = "") -> Grid | None:
    """The grid of a cube's pixels, or None where coordinates or coordinate system are not told.

    Coordinates are of pixel centres, evenly spaced. A cube of one pixel tells its extent by an attribute `bounds`.

    Raises:
        DataError: naming the file `where`, if its coordinates or its coordinate system are none.
    """
    try:
        grid = _grid(group, Path(where))
    except DataError:
        raise
    except Exception as error:  # measured: damaged attributes fail with many kinds
        raise DataError(f"{where}: its coordinates are unreadable ({error}); fetch the file again") from None
    if grid is not None:
        check_place(str(where), grid)
    return grid


def check_place(where: str, grid: Grid) -> None:
    """Refuse a grid that lies nowhere.

    Raises:
        DataError: naming the file and what is wrong.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    a, b, _, d, e, _ = grid.transform
    if not np.isfinite(grid.transform).all() or a * e == b * d:
        raise DataError(f"{where}: its pixels lie nowhere on the ground: transform {grid.transform}; mend the file")
    try:
        CRS.from_user_input(grid.crs)
    except (CRSError, ValueError) as error:
        raise DataError(f"{where}: {grid.crs[:80]!r} is no coordinate system ({error}); mend the file") from None


def _grid(group: Any, path: Path) -> Grid | None:
    x, y, crs = _first(group, X_NAMES, path), _first(group, Y_NAMES, path), _crs(group, path)
    if x is None or y is None or crs is None or len(x) == 0 or len(y) == 0:
        return None
    bounds = _bounds(group)
    step_x, step_y = _step(x), _step(y)
    if step_x is None or step_y is None:
        if bounds is None:
            return None
        west, south, east, north = bounds
        step_x = (east - west) / len(x)
        step_y = -(north - south) / len(y)
        return Grid(len(y), len(x), (step_x, 0.0, west, 0.0, step_y, north), crs)
    return Grid(len(y), len(x), (step_x, 0.0, x[0] - step_x / 2, 0.0, step_y, y[0] - step_y / 2), crs)


def _first(group: Any, names: tuple[str, ...], path: Path) -> np.ndarray | None:
    for name in names:
        found = lookup(path, group, name)
        shape = getattr(found, "shape", None)
        if shape is not None and len(shape) == 1 and shape[0] <= MAX_COORDINATES and found.dtype.kind in "iuf":
            values = whole(path, found).astype(np.float64)
            if not np.isfinite(values).all():
                raise DataError(f"{path}: the coordinates {name!r} hold NaN or infinity; mend the file")
            return values
    return None


def _step(values: np.ndarray) -> float | None:
    """Even spacing, or None."""
    if len(values) < 2:
        return None
    steps = np.diff(values)
    step = float(np.median(steps))
    return step if step != 0 and np.allclose(steps, step, rtol=1e-2) else None


def _crs(group: Any, path: Path) -> str | None:
    for name in CRS_NAMES:
        found = lookup(path, group, name)
        if found is not None:
            for key in ("crs_wkt", "spatial_ref", "epsg_code"):
                if key in found.attrs:
                    return text_of(found.attrs[key])
    if "epsg" in group.attrs:
        return f"EPSG:{text_of(group.attrs['epsg'])}"
    return text_of(group.attrs["crs_wkt"]) if "crs_wkt" in group.attrs else None


def _bounds(group: Any) -> tuple[float, float, float, float] | None:
    if "bounds" not in group.attrs:
        return None
    numbers = text_of(group.attrs["bounds"]).strip("()[]").replace(",", " ").split()
    try:
        west, south, east, north = (float(n) for n in numbers)
    except ValueError:
        return None
    return west, south, east, north


def text_of(value: Any) -> str:
    """An attribute as text; HDF5 keeps it as text, bytes or an array of one.

    Raises:
        ValueError: if it has more values than any that is meant to be read.
    """
    if isinstance(value, np.ndarray):
        if value.size > MAX_ATTRIBUTE:
            raise ValueError(f"an attribute of {value.size} values")
        value = value.ravel()[0] if value.size == 1 else " ".join(str(v) for v in value.ravel())
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
