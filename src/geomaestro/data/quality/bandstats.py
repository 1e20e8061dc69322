"""What pixels say of their bands: constant-size statistics that pool over images and datasets.

`measure` turns images into `Statistics`; `a + b` pools two; `fingerprint.judge` compares them with the spec.
Counts cover every image. Summaries are kept of at most `KEPT` images, chosen by a checksum of the pixels, so that the
same images give the same choice in whatever order they come.

Axes: n image (or date), c band, h row, w column, q quantile, s sample.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from zlib import crc32

import numpy as np
from numpy import ndarray

from geomaestro.sensors import Sensor

KEPT = 64  # assumed; enough for stable medians, 1 MB at 13 bands
SAMPLES = 128  # assumed; spectra and contrasts kept per image
QUANTILES = (0.005, 0.05, 0.5, 0.95, 0.995)
STEPS = (2, 3, 6)  # physics: 20, 30 and 60 m bands on a 10 m grid
LEAST_PIXELS = 16  # assumed; an image with fewer valid pixels is not looked at
LEAST_SIDE = 12  # assumed; smaller images show no resampling


@dataclass(frozen=True, eq=False)
class Summary:
    """One image: robust statistics in the sensor's unit, and a few of its pixels."""

    key: int
    levels: ndarray  # (q c) quantiles
    steps: ndarray  # (c,) pixels in a row that repeat one value by nearest-neighbour resampling; nan where unknown
    sharpness: ndarray  # (c,) share of the finest detail, 1 for white noise, 0 for smoothly enlarged; nan where unknown
    spectra: ndarray  # (s c) mean of blocks of pixels
    contrasts: ndarray  # (s c) differences of blocks a quarter of the image apart


@dataclass(frozen=True, eq=False)
class Statistics:
    """Pooled over images. Counts are images; `looked` are those with enough valid pixels and some contrast."""

    images: int
    blank: int  # no valid pixel, or no two that differ
    looked: int
    large: int  # looked at and of at least LEAST_SIDE pixels a side
    low: ndarray  # (c,) least value, in unit
    high: ndarray  # (c,) greatest value, in unit
    whole: ndarray  # (c,) images whose values are all whole numbers, as stored
    empty: ndarray  # (c,) images where this band has no value and others have
    zero: ndarray  # (c,) images where this band is 0 throughout and others are not
    constant: ndarray  # (c,) images where this band has a single value and others vary
    holes: ndarray  # (c,) images where a valid pixel is not finite
    twins: ndarray  # (c c) images where two bands are equal and not constant
    summaries: tuple[Summary, ...]

    def __add__(self, other: "Statistics") -> "Statistics":
        """Pool; the order does not matter."""
        ordered = sorted(self.summaries + other.summaries, key=lambda summary: summary.key)
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "summaries"}
        extremes = {"low": np.fmin(self.low, other.low), "high": np.fmax(self.high, other.high)}
        return Statistics(**(sums | extremes), summaries=tuple(ordered[:KEPT]))


def measure(images: ndarray, valid: ndarray | None, sensor: Sensor) -> Statistics:
    """Statistics of images (n c h w) as stored, where `valid` (n h w) says which pixels were measured.

    A pixel that is `nodata` in all bands is not valid; in some bands, it is missing in these. Dates of a few pixels are
    taken as the rows of one image.

    Raises:
        ValueError: if the shape does not fit the sensor's bands.
    """
    if images.ndim != 4 or images.shape[1] != len(sensor.bands):
        raise ValueError(f"images of shape {images.shape} do not have (n, {len(sensor.bands)}, h, w)")
    if len(images) and images[0, 0].size < LEAST_PIXELS:
        images = np.moveaxis(images, 0, 1).reshape(1, images.shape[1], -1, images.shape[3])
        valid = None if valid is None else valid.reshape(1, -1, images.shape[3])
    total = _nothing(len(sensor.bands))
    for index, image in enumerate(images):
        total = total + _measure_one(image, None if valid is None else valid[index], sensor)
    return total


def _nothing(bands: int) -> Statistics:
    none, unknown = np.zeros(bands, np.int64), np.full(bands, np.nan)
    return Statistics(
        0, 0, 0, 0, unknown, unknown, none, none, none, none, none, np.zeros((bands, bands), np.int64), ()
    )


def _measure_one(image: ndarray, valid: ndarray | None, sensor: Sensor) -> Statistics:
    stored = image.astype(np.float64)
    measured = np.ones(stored.shape[1:], bool) if valid is None else np.asarray(valid, bool)
    if sensor.nodata is not None:
        missing = stored == sensor.nodata
        measured = measured & ~missing.all(0)
        stored[missing] = np.nan
    holes = ~np.isfinite(image) & measured if image.dtype.kind == "f" else np.zeros(stored.shape, bool)
    stored[:, ~measured] = np.nan
    stored[~np.isfinite(stored)] = np.nan
    varies, low, high = _extremes(stored)
    empty = np.isnan(low)
    nothing = _nothing(len(stored))
    filled = np.isfinite(stored).any(0).sum() >= LEAST_PIXELS
    if not filled or not (varies.any() or empty.any()):
        blank = stored[0].size >= LEAST_PIXELS and not varies.any()
        missing_all = holes.reshape(len(holes), -1).any(1)
        return Statistics(**(vars(nothing) | {"images": 1, "blank": int(blank), "holes": missing_all.astype(np.int64)}))
    large = min(stored.shape[1:]) >= LEAST_SIDE
    zero = ~empty & (low == 0) & (high == 0)
    unit = np.sort(np.stack([low, high]) * sensor.scale + sensor.offset, axis=0)
    return Statistics(
        images=1,
        blank=0,
        looked=1,
        large=int(large),
        low=unit[0],
        high=unit[1],
        whole=_whole(stored).astype(np.int64),
        empty=empty.astype(np.int64),
        zero=zero.astype(np.int64),
        constant=(~empty & ~varies & varies.any()).astype(np.int64),
        holes=np.asarray(holes.reshape(len(holes), -1).any(1), np.int64),
        twins=_twins(stored, varies).astype(np.int64),
        summaries=(_summarise(stored, sensor, large),),
    )


def _extremes(stored: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """Whether a band varies, and its least and greatest value; nan where it has none."""
    flat = stored.reshape(len(stored), -1)
    low = np.where(np.isnan(flat), np.inf, flat).min(1)
    high = np.where(np.isnan(flat), -np.inf, flat).max(1)
    none = low > high
    low[none] = high[none] = np.nan
    return high > low, low, high


def _whole(stored: ndarray) -> ndarray:
    flat = np.nan_to_num(stored.reshape(len(stored), -1))
    return np.asarray((flat == np.rint(flat)).all(1))


def _twins(stored: ndarray, varies: ndarray) -> ndarray:
    """Which two bands (c c) are equal wherever both have a value, and take three values or more."""
    bands = len(stored)
    same = np.zeros((bands, bands), bool)
    for a in range(bands):
        for b in range(a + 1, bands):
            if varies[a] and varies[b]:
                both = np.isfinite(stored[a]) & np.isfinite(stored[b])
                equal = both.any() and bool((stored[a][both] == stored[b][both]).all())
                same[a, b] = same[b, a] = equal and len(np.unique(stored[a][both])) > 2  # clipping makes one or two
    return same


def _summarise(stored: ndarray, sensor: Sensor, large: bool) -> Summary:
    bands = len(stored)
    values = stored * sensor.scale + sensor.offset
    levels = np.full((len(QUANTILES), bands), np.nan)
    for band, pixels in enumerate(values.reshape(bands, -1)):
        pixels = pixels[np.isfinite(pixels)]
        if len(pixels):
            levels[:, band] = np.quantile(pixels, QUANTILES)
    unknown = np.full(bands, np.nan)
    whole = _whole(stored)
    blocks = _block_means(values)
    return Summary(
        key=crc32(np.ascontiguousarray(stored).tobytes()),
        levels=levels,
        steps=np.array([_step(band) for band in stored]) if large else unknown,
        sharpness=np.array([_sharpness(b, rounded=w) for b, w in zip(stored, whole, strict=True)])
        if large
        else unknown,
        spectra=_thin(blocks.reshape(bands, -1).T),
        contrasts=_thin(_contrasts(blocks)),
    )


def _neighbours(band: ndarray, reach: int) -> Iterator[ndarray]:
    """Windows of `reach` pixels along rows and along columns, as the last axis of (row, start, reach)."""
    for lines in (band, band.T):
        yield np.lib.stride_tricks.sliding_window_view(lines, reach, axis=1)


def _step(band: ndarray) -> float:
    """Into how many pixels nearest-neighbour resampling copied one value; 1 where it did not, nan where unknown.

    In copied pixels, neighbours are equal except at every k-th place. A quiet scene also has equal neighbours, but at
    every place alike, so places are compared with each other.
    """
    scores, quiet = np.zeros(len(STEPS)), 0.0
    for pairs in _neighbours(band, 2):
        known = np.isfinite(pairs).all(-1)
        equal = np.where(known, pairs[..., 0] == pairs[..., 1], np.nan)
        share = np.full(equal.shape[1], np.nan)
        enough = known.sum(0) > 0
        share[enough] = np.nanmean(equal[:, enough], axis=0)
        scores += [_contrast_of_places(share, k) / 2 for k in STEPS]
        quiet += float(np.nanmean(share)) / 2 if enough.any() else np.nan
    if np.isnan(scores).any():
        return np.nan
    best = int(scores.argmax())
    if scores[best] > 0.7:  # measured: copied bands are above 0.87, others below 0.04
        return float(STEPS[best])
    return 1.0 if quiet < 0.5 else np.nan  # a band of few values, as cirrus in a clear sky, shows nothing


def _contrast_of_places(share: ndarray, step: int) -> float:
    """Greatest difference between the mean share of equal pairs inside steps and that across their borders."""
    found = []
    for start in range(step):
        across = np.zeros(len(share), bool)
        across[start::step] = True
        if np.isnan(share[across]).all() or np.isnan(share[~across]).all():
            return float("nan")
        found.append(np.nanmean(share[~across]) - np.nanmean(share[across]))
    return float(max(found))


def _sharpness(band: ndarray, *, rounded: bool) -> float:
    """Energy of third differences over that of first ones, per unit of white noise; rounding noise taken off."""
    coarse, fine = [], []
    for line in _neighbours(band, 4):
        first = (line[..., 2] - line[..., 1]) ** 2
        third = (line[..., 0] - 3 * line[..., 1] + 3 * line[..., 2] - line[..., 3]) ** 2
        coarse.append(first[np.isfinite(third)])
        fine.append(third[np.isfinite(third)])
    if not sum(map(len, fine)):
        return np.nan
    noise = 1 / 12 if rounded else 0.0  # physics: variance of rounding to whole numbers
    slow = float(np.concatenate(coarse).mean()) / 2 - noise
    fast = float(np.concatenate(fine).mean()) / 20 - noise
    return max(fast, 0.0) / slow if slow > 10 * noise + 1e-12 else np.nan


def _block_means(values: ndarray) -> ndarray:
    """Means of blocks of 60 m at 10 m pixels, which hide how a band was resampled; smaller in small images."""
    side = min(values.shape[1:])
    size = 6 if side >= 48 else 3 if side >= 24 else 1
    rows, cols = values.shape[1] // size, values.shape[2] // size
    cut = values[:, : rows * size, : cols * size]
    return cut.reshape(len(values), rows, size, cols, size).mean((2, 4))


def _contrasts(blocks: ndarray) -> ndarray:
    """Differences (s c) of blocks a quarter of the image apart, along rows and columns."""
    lag = max(1, min(blocks.shape[1:]) // 4)
    across, down = blocks[:, :, lag:] - blocks[:, :, :-lag], blocks[:, lag:] - blocks[:, :-lag]
    return np.concatenate([across.reshape(len(blocks), -1), down.reshape(len(blocks), -1)], axis=1).T


def _thin(samples: ndarray) -> ndarray:
    """At most SAMPLES evenly spaced rows without nan, in single precision."""
    known = samples[np.isfinite(samples).all(1)]
    if len(known) > SAMPLES:
        known = known[np.linspace(0, len(known) - 1, SAMPLES).astype(int)]
    return known.astype(np.float32)
