"""Dates of a series: bins, and one date chosen per bin.

Axes: t date, d chosen date, c band, h row, w column.
Source: paper, section 3.1; the rules and their order as in the official code.
"""

import datetime
import re

import numpy as np

_PRODUCT_DATE = re.compile(r"(\d{8})(?:T(\d{2}))?")


def date_triple(text: str, *, hours: bool = False) -> tuple[int, int, int]:
    """'20190701' or '20190701T103021' -> (year, day of year, hour); day 00 counts as 01.

    Raises:
        ValueError: if the text does not begin with a date.
    """
    found = _PRODUCT_DATE.match(text)
    if not found:
        raise ValueError(f"{text!r} does not begin with a date YYYYMMDD")
    digits = found.group(1)
    day = datetime.date(int(digits[:4]), int(digits[4:6]), max(1, int(digits[6:8])))
    return day.year, day.timetuple().tm_yday, int(found.group(2) or 0) if hours else 0


def choose_dates(
    images: np.ndarray,
    bins: int,
    *,
    cloudy: np.ndarray | None = None,
    start: int = 0,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Indices (d) of one date per bin of `images` (t c h w); all dates, in order, where t <= bins.

    `bins` times floor(t / bins) consecutive dates from `start` are cut into bins. With `rng` a date is drawn evenly
    among the usable ones of its bin; without, it is the one nearest (mean absolute difference) to the bin's per-pixel
    median. A date is not usable if any of its pixels is NaN, or is `cloudy` (t h w) while another date of the bin has
    no cloud. In a bin without a usable date, the one with the fewest unknown pixels (NaN or cloud) is taken.
    """
    count = len(images)
    if count <= bins:
        return np.arange(count)
    per_bin = count // bins
    if not 0 <= start <= count - bins * per_bin:
        raise ValueError(f"start {start} leaves too few of {count} dates for {bins} bins of {per_bin}")
    used = slice(start, start + bins * per_bin)
    x = images[used].reshape(bins, per_bin, *images.shape[1:])
    unknown = np.isnan(x) if np.issubdtype(x.dtype, np.floating) else np.zeros((bins, per_bin, 1, 1, 1), bool)
    if cloudy is not None:
        unknown = unknown | _clouds_that_matter(cloudy[used].reshape(bins, per_bin, 1, *cloudy.shape[1:]))
    share: np.ndarray = unknown.mean(axis=(2, 3, 4))
    usable = share == 0
    distance = _distance_to_median(x, unknown, usable) if rng is None else rng.random((bins, per_bin))
    distance = np.where(usable, distance, 1e30 * (1 + share))
    return start + np.arange(bins) * per_bin + distance.argmin(axis=1)


def _clouds_that_matter(cloudy: np.ndarray) -> np.ndarray:
    """(bins dates 1 h w): clouds, but none in bins where every date has some."""
    some = np.asarray(cloudy.any(axis=(3, 4), keepdims=True))
    hopeless = some.all(axis=1, keepdims=True)
    return cloudy & ~hopeless


def _distance_to_median(x: np.ndarray, unknown: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Mean absolute difference (bins dates) to the median over the known pixels of each bin."""
    if unknown.any():
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a pixel that is unknown in all dates has no median
            median = np.nanmedian(np.where(unknown, np.nan, x), axis=1, keepdims=True)
    else:
        median = np.median(x, axis=1, keepdims=True)
    distance = np.abs(x - median).mean(axis=(2, 3, 4))
    return np.where(usable & np.isfinite(distance), distance, 1e29)


def random_start(count: int, bins: int, rng: np.random.Generator | None) -> int:
    """First date used of `count`: drawn among those that leave full bins, 0 without `rng`."""
    if rng is None or count <= bins:
        return 0
    return int(rng.integers(0, count % bins + 1))
