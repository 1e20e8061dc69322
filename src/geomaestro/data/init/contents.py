"""What one file holds: arrays with named axes, types, units, and its place on the ground. Headers are read, no pixels.

Axes: date, band, row, col; `sample` where the first axis of an array is the sample.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from geomaestro.data.files.coordinates import text_of
from geomaestro.data.files.raster import grid_of, open_raster
from geomaestro.data.files.stored import RASTERS, Opener
from geomaestro.data.files.stores import read_arrays
from geomaestro.data.init.words import BAND_AXES, COL_AXES, ROW_AXES, SAMPLE_AXES, TIME_AXES
from geomaestro.errors import DataError, GeomaestroError
from geomaestro.grid import Grid

MOST_BANDS = 20  # assumed; a first axis that is longer is no band
MAX_BYTES = 2 << 30
PLAIN_NAME = re.compile(r"(bands?|channel|layer)?[_ ]?\d*", re.IGNORECASE)  # descriptions that tell nothing
MOST_ARRAYS = 500  # assumed; a file with more is not looked at in whole


@dataclass(frozen=True)
class Array:
    """An array of a file, or the bands of a raster (then `name` is None)."""

    name: str | None
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    nodata: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""
    bands: tuple[str, ...] = ()
    wavelengths: tuple[float, ...] = ()
    time: str | None = None
    """The array of the file that holds the dates of the axis `date`."""
    said: bool = True
    """False where the axes are guessed from the shape."""

    def size(self, axis: str) -> int:
        """Length of an axis; 1 if the array lacks it."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1


@dataclass(frozen=True)
class Content:
    """One file."""

    path: str
    arrays: tuple[Array, ...]
    grid: Grid | None = None
    tags: dict[str, str] = field(default_factory=dict)
    dates: tuple[str, ...] = ()
    """Times of bands, where their descriptions say them."""

    def signature(self) -> tuple[Any, ...]:
        """What files of one product share: bands and type, not size."""
        return tuple((a.name, a.size("band"), a.dtype.kind, a.dtype.itemsize, len(a.shape)) for a in self.arrays[:40])


def look(root: Path, path: str) -> Content:
    """Look into a file.

    Raises:
        GeomaestroError: if it can't be read.
    """
    archive, bang, member = path.partition("!")
    suffix = PurePosixPath(path).suffix.lower()
    try:
        if suffix in RASTERS and not bang:
            with open_raster(root / path) as source:
                return _raster(path, source)
        with Opener() as opener:
            if bang:
                return _raster(path, opener.raster(root / archive, member))
            if suffix == ".npy":
                return Content(path, (_bare(None, opener.array(root / path, None)),))
            if suffix == ".npz":
                return _npz(root, path)
            return _group(path, opener.group(root / path))
    except GeomaestroError:
        raise
    except Exception as error:  # measured: damaged files fail in many ways; each is a reason to leave the file out
        raise DataError(f"{path}: unreadable ({type(error).__name__}: {error})") from None


def _raster(path: str, source: Any) -> Content:
    names = tuple(text.strip() for text in source.descriptions if text)
    if len(names) != source.count or len(set(names)) != len(names) or all(PLAIN_NAME.fullmatch(n) for n in names):
        names = ()
    colours = tuple(c.name for c in source.colorinterp)
    if not names and colours[:3] == ("red", "green", "blue") and source.count in (3, 4):
        names = ("R", "G", "B", "A")[: source.count] if colours[3:] in ((), ("alpha",)) else ()
    waves = [source.tags(n).get("wavelength") or source.tags(n).get("WAVELENGTH") for n in source.indexes]
    array = Array(
        name=None,
        axes=("band", "row", "col"),
        shape=(source.count, source.height, source.width),
        dtype=np.dtype(source.dtypes[0]),
        nodata=source.nodata,
        scale=float(source.scales[0]),
        offset=float(source.offsets[0]),
        unit=(source.units[0] or "") if source.units else "",
        bands=names,
        wavelengths=_numbers(waves),
    )
    return Content(path, (array,), grid_of(source), {k: str(v)[:200] for k, v in source.tags().items()})


def _numbers(texts: Sequence[Any]) -> tuple[float, ...]:
    """Wavelengths in nm; empty unless every band has one. Micrometres are told by their size."""
    try:
        values = [float(text) for text in texts]
    except (TypeError, ValueError):
        return ()
    return tuple(value * 1000 if max(values) < 100 else value for value in values)


def _bare(name: str | None, array: Any) -> Array:
    return Array(name, guess_axes(tuple(array.shape)), tuple(array.shape), np.dtype(array.dtype), said=False)


def guess_axes(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Axes that are likely for a shape; empty for what can be no image. Source: assumed."""
    if len(shape) == 4:
        return ("date", "band", "row", "col")
    if len(shape) == 3:
        return ("row", "col", "band") if shape[2] <= MOST_BANDS < min(shape[:2]) else ("band", "row", "col")
    if len(shape) == 2:
        return ("row", "col")
    return ()


def _npz(root: Path, path: str) -> Content:
    import zipfile

    with zipfile.ZipFile(root / path) as file:
        names = [name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy")][:MOST_ARRAYS]
    arrays = read_arrays(root / path, names, MAX_BYTES)
    return Content(path, tuple(_bare(name, array) for name, array in arrays.items()))


def _group(path: str, group: Any) -> Content:
    from geomaestro.data.files.coordinates import grid_of_group

    found: dict[str, Any] = {}
    for name in list(group.keys())[:MOST_ARRAYS]:
        item = group.get(name)
        if getattr(item, "shape", None) is not None:
            found[name] = item
        elif hasattr(item, "keys"):
            found |= {f"{name}/{sub}": item[sub] for sub in item if getattr(item[sub], "shape", None) is not None}
    dims = {name: dimensions(item) for name, item in found.items()}
    arrays = [_named(name, item, dims[name], found) for name, item in found.items()]
    tags = {str(k): text_of(v)[:200] for k, v in group.attrs.items()}
    return Content(path, tuple(arrays), grid_of_group(group, path), tags)


def dimensions(item: Any) -> tuple[str, ...]:
    """Names of an array's dimensions, as NetCDF (HDF5 scales), Zarr 2 and 3 write them; empty where there are none."""
    if "_ARRAY_DIMENSIONS" in item.attrs:
        return tuple(str(n) for n in item.attrs["_ARRAY_DIMENSIONS"])
    named = getattr(getattr(item, "metadata", None), "dimension_names", None)
    if named:
        return tuple(str(n) for n in named)
    try:
        keys = [list(dim.keys()) or [dim.label] for dim in item.dims]
    except (AttributeError, RuntimeError, OSError):
        return ()
    names = tuple(key[0] for key in keys)
    own = item.name.rsplit("/", 1)[-1]
    if len(names) == 1 and not names[0] and item.attrs.get("CLASS") is not None:
        return (own,)
    return names if names and all(names) else ()


def axis_of(name: str) -> str:
    """The axis that a dimension's name means; the name itself if it is none."""
    low = name.lower().rsplit("/", 1)[-1]
    for axis, words in (
        ("date", TIME_AXES), ("band", BAND_AXES), ("row", ROW_AXES), ("col", COL_AXES), ("sample", SAMPLE_AXES)
    ):  # fmt: skip
        if low in words:
            return axis
    return name


def _named(name: str, item: Any, dims: tuple[str, ...], found: dict[str, Any]) -> Array:
    attrs = item.attrs
    axes = tuple(axis_of(dim) for dim in dims) or guess_axes(tuple(item.shape))
    time = next((dim for dim in dims if axis_of(dim) == "date" and dim in found), None)
    band = next((dim for dim in dims if axis_of(dim) == "band" and dim in found), None)
    names, waves = _band_names(found[band]) if band else ((), ())
    if not names and "bands" in attrs and np.size(attrs["bands"]) in item.shape:
        names = tuple(text_of(b) for b in np.atleast_1d(attrs["bands"]))
    return Array(
        name=name,
        axes=axes,
        shape=tuple(item.shape),
        dtype=np.dtype(item.dtype),
        nodata=_first(attrs, ("_FillValue", "missing_value", "nodata", "NoData")),
        scale=_first(attrs, ("scale_factor",)) or 1.0,
        offset=_first(attrs, ("add_offset",)) or 0.0,
        unit=text_of(attrs["units"]) if "units" in attrs else text_of(attrs["unit"]) if "unit" in attrs else "",
        bands=names,
        wavelengths=waves,
        time=time,
        said=bool(dims),
    )


def _band_names(item: Any) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Names of bands, or their wavelengths, as a coordinate gives them."""
    if item.size > 2000:
        return (), ()
    values = np.asarray(item[...]).ravel()
    if values.dtype.kind in "SUO":
        return tuple(text_of(value) for value in values), ()
    if values.dtype.kind in "iuf" and values.size and float(values.min()) >= 300 and float(values.max()) <= 15000:
        return tuple(f"nm{value:g}" for value in values), tuple(float(value) for value in values)
    return (), ()


def _first(attrs: Any, names: tuple[str, ...]) -> float | None:
    """A number among attributes; NaN is none, since it always counts as not measured."""
    for name in names:
        if name in attrs:
            try:
                value = float(text_of(attrs[name]).strip("[]() "))
            except ValueError:
                continue
            return None if np.isnan(value) else value
    return None
