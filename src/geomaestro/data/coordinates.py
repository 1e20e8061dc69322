"""Where a NetCDF or Zarr cube lies on the ground: from its coordinates and its coordinate system (CF conventions)."""

from typing import Any

import numpy as np

from geomaestro.grid import Grid

X_NAMES, Y_NAMES = ("x", "lon", "longitude", "easting"), ("y", "lat", "latitude", "northing")
CRS_NAMES = ("spatial_ref", "crs", "crs_wkt", "transverse_mercator", "polar_stereographic")
MAX_COORDINATES = 1_000_000  # assumed


def grid_of_group(group: Any) -> Grid | None:
    """The grid of a cube's pixels, or None where coordinates or coordinate system are not told.

    Coordinates are of pixel centres, evenly spaced. A cube of one pixel tells its extent by an attribute `bounds`.
    """
    x, y, crs = _first(group, X_NAMES), _first(group, Y_NAMES), _crs(group)
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


def _first(group: Any, names: tuple[str, ...]) -> np.ndarray | None:
    for name in names:
        found = group.get(name)
        shape = getattr(found, "shape", None)
        if found is not None and shape is not None and len(shape) == 1 and shape[0] <= MAX_COORDINATES:
            return np.asarray(found[...], np.float64)
    return None


def _step(values: np.ndarray) -> float | None:
    """Even spacing, or None."""
    if len(values) < 2:
        return None
    steps = np.diff(values)
    step = float(np.median(steps))
    return step if step != 0 and np.allclose(steps, step, rtol=1e-2) else None


def _crs(group: Any) -> str | None:
    for name in CRS_NAMES:
        found = group.get(name)
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
    """An attribute as text; HDF5 keeps it as text, bytes or an array of one."""
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size == 1 else " ".join(str(v) for v in value.ravel())
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
