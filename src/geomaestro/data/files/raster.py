"""Rasters through GDAL: GeoTIFF, PNG, JPEG. Other drivers stay closed: a file from outside is hostile until checked.

Axes: c band, h row, w column.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from geomaestro.errors import DataError
from geomaestro.grid import Grid, Window

DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jp2": "JP2OpenJPEG"}
MAX_WINDOW_BYTES = 2 << 30  # assumed; a declared size is checked before memory is given
MAX_BANDS = 10_000  # assumed; measured: 20,000 take 24 s to read
QUIET = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # measured: with the next, opening 8 % quicker
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",  # measured: with it a PNG that was cut in half is read as if it were whole
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",  # measured: else a JPEG that was cut is read as if it were whole
}
MOST_BANDS_WITH_ALPHA = 32  # assumed; asking every band of a stacked series costs more than reading it
NAMES = {"GTiff": "GeoTIFF"}


@contextmanager
def open_raster(
    path: Path, data: bytes | None = None, member: str | None = None, *, georeferenced: bool = True
) -> Iterator[Any]:
    """Open a raster to read; from `data`, the content of `member` of a zip, where it is given.

    Without `georeferenced` a GeoTIFF's coordinate system is not looked at, which is most of the cost of opening one
    (measured: 0.2 ms instead of 1.2 ms).

    Raises:
        DataError: naming the file, if it is missing, unreadable or truncated.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.io import DatasetReader

    name = str(path) if member is None else f"{path}!{member}"
    driver = DRIVERS.get(os.path.splitext(name)[1].lower())
    if driver is None:
        raise DataError(f"{name}: rasters are read from {', '.join(DRIVERS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if (path.stat().st_size if data is None else len(data)) == 0:
        raise DataError(f"{name}: is empty (0 bytes); fetch the file again")
    try:
        _settings()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # pixels alone may be wanted
            if data is None:
                pixels_alone = {"GEOREF_SOURCES": "NONE"} if driver == "GTiff" and not georeferenced else {}
                # measured: `rasterio.open` spends half of its time on settings, which are already entered here
                opened = DatasetReader if rasterio.env.hasenv() else rasterio.open  # another thread has none
                with opened(path, driver=driver, **pixels_alone) as source:
                    _check_source(name, source)
                    yield source
            else:
                with rasterio.MemoryFile(data) as file, file.open(driver=driver) as source:
                    _check_source(name, source)
                    yield source
    except RasterioError as error:
        raise DataError(
            f"{name}: unreadable {NAMES.get(driver, driver)}, probably truncated ({error}); fetch the file again"
        ) from None


def _check_source(name: str, source: Any) -> None:
    """Refuse values that are no real numbers, and what would have to be unpacked at once where a part is asked for.

    Raises:
        DataError: naming the file, and its type or size.
    """
    if source.count > MAX_BANDS:
        raise DataError(f"{name}: has {source.count} bands, more than {MAX_BANDS}; write several files")
    kind = source.dtypes[0]
    if kind.startswith("complex"):
        raise DataError(f"{name}: holds {kind} numbers; write their amplitude, or real and imaginary part as two bands")
    size = source.height * source.width * source.count * np.dtype(kind).itemsize
    if source.driver != "GTiff" and size > MAX_WINDOW_BYTES:  # interlaced PNG and progressive JPEG come as a whole
        raise DataError(
            f"{name}: {source.height} x {source.width} pixels of {source.count} bands unpack to {size} bytes at once, "
            f"more than the {MAX_WINDOW_BYTES} that are read; write it as a tiled GeoTIFF"
        )


@cache
def _settings() -> Any:
    """Enter GDAL's settings once for the process: an environment per file costs 0.2 ms (measured)."""
    import rasterio

    settings = rasterio.Env(**QUIET)
    settings.__enter__()
    return settings


def read_bands(path: str, source: Any, numbers: Sequence[int], window: Window) -> np.ndarray:
    """Bands (n h w), by number from 1, of a window.

    Raises:
        DataError: naming the file, if the window lies outside or is too big, or the file is damaged there.
    """
    from rasterio.errors import RasterioError
    from rasterio.windows import Window as RasterWindow

    rows, cols = window.row + window.height, window.col + window.width
    height, width = source.height, source.width
    if rows > height or cols > width:
        raise DataError(f"{path}: is {height} x {width} pixels, but rows to {rows} and columns to {cols} are needed")
    item = np.dtype(source.dtypes[0]).itemsize
    if len(numbers) * window.height * window.width * item > MAX_WINDOW_BYTES:
        raise DataError(f"{path}: a window of {rows} x {cols} pixels and {len(numbers)} bands is too big")
    whole = list(numbers) == list(range(1, source.count + 1))
    part = RasterWindow(window.col, window.row, window.width, window.height)
    try:
        return np.asarray(source.read(None if whole else list(numbers), window=part))
    except RasterioError as error:
        kind = NAMES.get(source.driver, source.driver)
        raise DataError(f"{path}: unreadable {kind}, probably truncated ({error}); fetch the file again") from None


def grid_of(source: Any) -> Grid | None:
    """Where a raster lies on the ground, if it says so."""
    if source.crs is None:
        return None
    a, b, c, d, e, f = tuple(source.transform)[:6]
    if not np.isfinite((a, b, c, d, e, f)).all() or a * e == b * d:
        raise DataError(f"{source.name}: its pixels lie nowhere on the ground: transform {(a, b, c, d, e, f)}; mend it")
    return Grid(source.height, source.width, (a, b, c, d, e, f), source.crs.to_wkt())


def read_not_measured(path: str, source: Any, picked: Sequence[int], window: Window) -> np.ndarray | None:
    """(h w) True where the file's alpha band or its validity band says that nothing was measured; None if it has none.

    An alpha band that is taken as a band of the sensor (near infrared, in many files) is not one.
    """
    if source.count > MOST_BANDS_WITH_ALPHA:
        return None
    from rasterio.enums import ColorInterp, MaskFlags

    free = [n for n in range(1, source.count + 1) if n - 1 not in picked]
    alpha = [n for n in free if source.colorinterp[n - 1] == ColorInterp.alpha]
    if alpha:
        return read_bands(path, source, alpha[:1], window)[0] == 0
    if any(MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags for flags in source.mask_flag_enums):
        from rasterio.windows import Window as RasterWindow

        return np.asarray(
            source.dataset_mask(window=RasterWindow(window.col, window.row, window.width, window.height)) == 0
        )
    return None


def raster_errors() -> tuple[type[Exception], ...]:
    """What rasterio raises; its transformations let errors of GDAL through (measured: of a point off every map)."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    return RasterioError, CPLE_BaseError
