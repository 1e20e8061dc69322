"""Dates of a series: bins, and one date chosen per bin.

Axes: t date, d chosen date, c band, h row, w column.
Source: paper, section 3.1; the rules and their order as in the official code.
"""

import numpy as np


def draw_dates(
    count: int,
    bins: int,
    rng: np.random.Generator,
    *,
    unknown: np.ndarray | None = None,
    cloudy: np.ndarray | None = None,
    start: int = 0,
) -> np.ndarray:
    """Indices (d) of one date per bin, drawn evenly among the usable dates of each bin; see `share_unseen`.

    `bins` times floor(count / bins) consecutive dates from `start` are cut into bins; count > bins. In a bin without a
    usable date, the one with the fewest unseen pixels is taken.
    """
    per_bin = _per_bin(count, bins, start)
    unseen = share_unseen(bins, per_bin, start, unknown, cloudy)
    return _best(rng.random((bins, per_bin)), unseen, start)


def nearest_dates(
    images: np.ndarray,
    bins: int,
    *,
    unknown: np.ndarray | None = None,
    cloudy: np.ndarray | None = None,
    start: int = 0,
) -> np.ndarray:
    """As `draw_dates`, but the usable date of `images` (t c h w) nearest (mean absolute difference) to the per-pixel
    median of its bin; NaN and infinity count as unknown.
    """
    per_bin = _per_bin(len(images), bins, start)
    if images.dtype.kind == "f":
        endless = np.isinf(images)
        images = np.where(endless, np.asarray(np.nan, images.dtype), images) if endless.any() else images
        nan = np.isnan(images).any(axis=1)
        unknown = nan if unknown is None else unknown | nan
    used = slice(start, start + bins * per_bin)
    x = np.ascontiguousarray(images[used]).reshape(bins, per_bin, *images.shape[1:])  # one order of sums, any storage
    hidden, never = _unseen(bins, per_bin, start, unknown, cloudy)
    if never is not None and never.any():
        x = np.where(never[:, :, None], np.nan, x)
    unseen = _share(hidden, bins, per_bin)
    clouds = _unseen(bins, per_bin, start, None, cloudy)[0]
    return _best(_distance_to_median(x, hidden, unseen == 0, clouds), unseen, start)


def share_unseen(
    bins: int, per_bin: int, start: int, unknown: np.ndarray | None, cloudy: np.ndarray | None
) -> np.ndarray:
    """(bins dates): share of pixels that show no ground: `unknown` (t h w) ones, and `cloudy` (t h w) ones unless
    every date of the bin has some. A date is usable where it is 0. Source: official code.

    Pixels that no date of the bin shows, such as padding, do not count; the official code fails there.
    """
    return _share(_unseen(bins, per_bin, start, unknown, cloudy)[0], bins, per_bin)


def _share(unseen: np.ndarray | None, bins: int, per_bin: int) -> np.ndarray:
    return np.zeros((bins, per_bin)) if unseen is None else np.asarray(unseen.mean(axis=(2, 3)))


def _per_bin(count: int, bins: int, start: int) -> int:
    per_bin = count // bins
    if per_bin < 1 or not 0 <= start <= count - bins * per_bin:
        raise ValueError(f"start {start} leaves too few of {count} dates for {bins} bins of {per_bin}")
    return per_bin


def _best(distance: np.ndarray, unseen: np.ndarray, start: int) -> np.ndarray:
    bins, per_bin = distance.shape
    distance = np.where(unseen == 0, distance, 1e30 * (1 + unseen))
    return np.asarray(start + np.arange(bins) * per_bin + distance.argmin(axis=1))


def _unseen(
    bins: int, per_bin: int, start: int, unknown: np.ndarray | None, cloudy: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(bins dates h w) unseen in a date but seen in another of its bin, and (bins 1 h w) seen in none; None if all is
    seen.
    """
    used = slice(start, start + bins * per_bin)
    parts = []
    if unknown is not None:
        parts.append(unknown[used].reshape(bins, per_bin, *unknown.shape[1:]))
    if cloudy is not None:
        x = cloudy[used].reshape(bins, per_bin, *cloudy.shape[1:])
        hopeless = np.asarray(np.asarray(x.any(axis=(2, 3))).all(axis=1))
        parts.append(x & ~hopeless[:, None, None, None])
    if not parts:
        return None, None
    unseen = np.logical_or.reduce(parts)
    never = np.asarray(unseen.all(axis=1, keepdims=True))
    return unseen & ~never, never


def _distance_to_median(
    x: np.ndarray, unseen: np.ndarray | None, usable: np.ndarray, clouds: np.ndarray | None
) -> np.ndarray:
    """Mean absolute difference (bins dates) of x (bins dates c h w) to the median over the seen pixels of each bin."""
    if unseen is not None and unseen.any():
        import warnings

        finite = np.isfinite(x).all(axis=2) if x.dtype.kind == "f" else True  # official code: NaN stays band by band
        gone = unseen & finite if clouds is None else unseen & (finite | clouds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a pixel that is unseen in all dates has no median
            median = np.nanmedian(np.where(gone[:, :, None], np.nan, x), axis=1, keepdims=True)
    else:
        median = np.median(x, axis=1, keepdims=True)
    difference = np.abs(x - median)
    distance = difference.mean(axis=(2, 3, 4)).astype(np.float64)  # rounded as stored first (official code)
    rest = usable & np.isnan(distance)
    if rest.any():  # pixels that no date of a bin shows
        known = np.isfinite(difference[rest])
        total = np.where(known, difference[rest], 0).sum(axis=(1, 2, 3))
        distance[rest] = total / np.maximum(known.sum(axis=(1, 2, 3)), 1)
    return np.where(usable & np.isfinite(distance), distance, 1e29)


def random_start(count: int, bins: int, rng: np.random.Generator | None) -> int:
    """First date used of `count`: drawn among those that leave full bins, 0 without `rng`."""
    if rng is None or count <= bins:
        return 0
    return int(rng.integers(0, count % bins + 1))
