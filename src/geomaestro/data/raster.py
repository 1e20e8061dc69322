"""Windows of georeferenced rasters.

Axes: c band, h row, w column.
"""

from pathlib import Path

import numpy as np

from geomaestro.errors import DataError

DRIVER = "GTiff"  # a file from outside is hostile until checked: GDAL's other drivers stay closed
MAX_WINDOW_BYTES = 2 << 30  # assumed; a declared size is checked before memory is given


def read_window(path: Path, *, row: int, col: int, height: int, width: int) -> np.ndarray:
    """All bands of a window (c h w) of a GeoTIFF.

    Raises:
        DataError: naming the file, if it is missing, unreadable or truncated, or the window lies outside.
    """
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.windows import Window

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # pixels alone are wanted here
            with rasterio.open(path, driver=DRIVER) as source:
                _check_window(path, source, row + height, col + width)
                return np.asarray(source.read(window=Window(col, row, width, height)))
    except RasterioError as error:
        raise DataError(f"{path}: unreadable GeoTIFF, probably truncated ({error}); fetch the file again") from None


def _check_window(path: Path, source: object, rows: int, cols: int) -> None:
    height, width = source.height, source.width  # type: ignore[attr-defined]
    if rows > height or cols > width:
        raise DataError(f"{path}: is {height} x {width} pixels, but rows to {rows} and columns to {cols} are needed")
    if source.count * rows * cols * 8 > MAX_WINDOW_BYTES:  # type: ignore[attr-defined]
        raise DataError(f"{path}: a window of {rows} x {cols} pixels and {source.count} bands is too big")  # type: ignore[attr-defined]
