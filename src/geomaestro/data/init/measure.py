"""What a sample of pixels says: robust levels of each band, values that mean nothing, classes of label maps.

Pixels are read as the dataset will read them. Axes: n image, t date, c band, h row, w column, p pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from geomaestro.data.files.filespec import Source
from geomaestro.data.files.finding import Finder, Sources
from geomaestro.data.files.listing import ID
from geomaestro.data.files.patterns import fields_of
from geomaestro.data.files.stored import RASTERS, Opener
from geomaestro.data.init.naming import File
from geomaestro.data.init.streams import Stream
from geomaestro.errors import GeomaestroError
from geomaestro.grid import Window

FILES = 24  # files measured of a sensor, evenly spread
LABEL_FILES = 400  # label maps read; where there are more the spec says so
SIDE, DATES = 256, 12  # at most so many pixels a side and dates of a file
MOST_PIXELS = 200_000
PICTURES = 12  # for the spectral fingerprint
NOTHING = (-9999.0, -32768.0, -32767.0, 65535.0, -99999.0, -999.0)  # numbers that files write for nothing


@dataclass(frozen=True)
class Levels:
    """Of the measured pixels: per band (c) robust mean and deviation, median, and extreme values, as stored."""

    images: int
    mean: ndarray
    std: ndarray
    median: ndarray
    low: ndarray
    high: ndarray
    least: float
    most: float
    nothing: float | None
    """A number that stands in all bands of some pixels at once, and may mean nothing; None where there is none."""
    share: float
    """Share of pixels that hold it."""
    log: tuple[ndarray, ndarray]
    """Mean and deviation of the logarithm."""
    pictures: tuple[ndarray, ...]
    """Some images (c h w), for the spectral fingerprint."""


def source_of(stream: Stream) -> Source:
    """The stream as the dataset spec says it."""
    values: dict[str, Any] = {"path": stream.path, "axes": stream.axes}
    if stream.arrays is not None:
        values["array"] = stream.arrays
    return Source.model_validate(values)


def spread(files: Sequence[File], count: int) -> list[File]:
    """At most `count` files, evenly spread."""
    step = max(1, -(-len(files) // count))
    return list(files[::step])


class Reader:
    """Reads some pixels of streams."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.finder = Finder(root)

    def read(self, stream: Stream, file: File, dates: int = DATES) -> ndarray:
        """Images (t c h w) of one sample: some dates, and the middle of large images; unmeasured pixels are NaN."""
        row: dict[str, Any] = {k: v for k, v in file.fields.items() if k not in ("band", "date")}
        if stream.dates is None or stream.dates.get("field") is None:
            row |= {k: v for k, v in file.fields.items() if k == "date"}
        row[ID] = file.path
        source, per_file = source_of(stream), stream.dates is not None and "field" in stream.dates
        with Opener() as opener:
            sources = Sources(self.finder, row, opener)
            groups = sources.files(source, stream.bands if "band" in fields_of(stream.path) else ())
            if per_file:
                groups = groups[:: max(1, len(groups) // dates)][:dates]
            stacked = stream.number_of_dates if stream.suffix in RASTERS and not per_file else 1
            stored = sources.open(source, groups, stacked, per_file)
            t, _, h, w = stored.shape
            window = Window(max(0, (h - SIDE) // 2), max(0, (w - SIDE) // 2), min(h, SIDE), min(w, SIDE))
            chosen = np.unique(np.linspace(0, t - 1, min(t, dates)).astype(int))
            x = stored.read(chosen, window)
            absent = stored.unmeasured(window)
            if absent is not None and absent.any():
                x = np.where(absent[:, None], np.nan, x.astype(np.float64))
            return x


def levels_of(reader: Reader, stream: Stream, leave: Any) -> Levels | None:
    """Levels of a stream; None if no file could be read."""
    pixels, pictures = [], []
    for file in spread(stream.files, FILES):
        try:
            x = reader.read(stream, file)
        except GeomaestroError as error:
            leave(file.path, f"can't be read: {str(error).split(': ', 1)[-1][:160]}")
            continue
        pictures += list(x)[:2]
        flat = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
        pixels.append(flat[:: max(1, len(flat) * FILES // MOST_PIXELS)].astype(np.float64))
    if not pixels:
        return None
    return levels_from(np.concatenate(pixels), stream, pictures)


def levels_from(x: ndarray, stream: Stream, pictures: list[ndarray]) -> Levels:
    """Levels of pixels (p c)."""
    nothing, share = _nothing(x, stream)
    nodata = stream.nodata if stream.nodata is not None else nothing
    if nodata is not None:
        x = x[~(x == nodata).any(axis=1)]
    x = x[np.isfinite(x).all(axis=1)]
    if len(x) == 0:
        x = np.zeros((1, stream.count))
    low, median, high = np.quantile(x, (0.01, 0.5, 0.99), axis=0)
    clipped = np.clip(x, low, high)
    logs = np.log(np.maximum(clipped, 1e-10))
    return Levels(
        images=len(pictures),
        mean=clipped.mean(0),
        std=clipped.std(0),
        median=median,
        low=low,
        high=high,
        least=float(x.min()),
        most=float(x.max()),
        nothing=nothing,
        share=share,
        log=(logs.mean(0), logs.std(0)),
        pictures=tuple(pictures[:: max(1, len(pictures) // PICTURES)][:PICTURES]),
    )


def _nothing(x: ndarray, stream: Stream) -> tuple[float | None, float]:
    """A number that all bands of some pixels hold at once, which the file does not declare."""
    if stream.nodata is not None or len(x) == 0:
        return None, 0.0
    candidates = NOTHING + ((0.0, -1.0) if x.shape[1] > 1 else ())
    for value in candidates:
        share = float((x == value).all(axis=1).mean())
        if share >= 1e-3:  # assumed; rarer ones can be chance
            return value, share
    return None, 0.0


def label_values(reader: Reader, stream: Stream, leave: Any) -> tuple[Mapping[float, int], int]:
    """Pixels of each value in label maps, and how many maps were read."""
    counts: dict[float, int] = {}
    read = 0
    for file in spread(stream.files, LABEL_FILES):
        try:
            x = reader.read(stream, file, dates=1)
        except GeomaestroError as error:
            leave(file.path, f"can't be read: {str(error).split(': ', 1)[-1][:160]}")
            continue
        read += 1
        values, numbers = np.unique(x[np.isfinite(x)] if x.dtype.kind == "f" else x, return_counts=True)
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
            counts[value] = counts.get(value, 0) + number
        if len(counts) > 300:
            break
    return dict(sorted(counts.items())), read
