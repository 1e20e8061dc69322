"""Which images are the same picture: a hash that hardly changes with noise, then the pixels themselves.

Images that were mirrored, turned or moved by more than a few pixels are not recognised.
Axes: t date, c band, h row, w column, n and m images.
"""

import hashlib

import numpy as np

ROWS, COLS = 8, 9  # a bit for each of 8 x 8 pairs of neighbours
LEAST_STEPS = 32  # assumed; a picture with fewer different neighbours tells nothing
NEAR_BITS = 3  # of 64; found through four parts of 16 bits, of which one is then equal
THUMB = 32  # pixels of a side to which pictures are averaged before they are compared
ALIKE, ALIKE_DETAIL = 0.98, 0.8  # assumed; correlation of pixels, and of their differences to neighbours
AT_ONCE = 1 << 22  # pairs looked at in one go
NO_HASH = np.uint64(0)


def picture_hashes(images: np.ndarray, unknown: np.ndarray | None) -> np.ndarray:
    """(t) 64 bits for each date of images (t c h w): is the mean band brighter in the next of 8 x 9 cells?

    NO_HASH where the image is too small, too even, or half unknown (t h w). Source: "dHash", N. Krawetz 2013.
    """
    out = np.zeros(len(images), np.uint64)
    if images.shape[2] < ROWS or images.shape[3] < COLS:
        return out
    for date, image in enumerate(images):
        away = None if unknown is None else unknown[date]
        if away is not None and away.mean() > 0.5:
            continue
        cells = averaged(mean_band(image, away), ROWS, COLS)
        steps = np.diff(cells, axis=1)
        if (np.abs(steps) > 1e-9 * max(float(np.abs(cells).max()), 1e-30)).sum() >= LEAST_STEPS:
            out[date] = np.packbits(steps > 0).view(np.uint64)[0]
    return out


def content_hash(images: np.ndarray) -> np.uint64:
    """64 bits of the numbers themselves; NO_HASH where all are equal."""
    known = images[np.isfinite(images)] if images.dtype.kind == "f" else images.ravel()
    if known.size == 0 or (known == known[0]).all():
        return NO_HASH
    text = f"{images.dtype.str}{images.shape}".encode() + np.ascontiguousarray(images).tobytes()
    return np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), np.uint64)[0]


def mean_band(image: np.ndarray, unknown: np.ndarray | None) -> np.ndarray:
    """(h w) mean over the bands of (c h w); unknown pixels get the mean of the others."""
    mean = image.mean(axis=0, dtype=np.float64)
    away = ~np.isfinite(mean) if unknown is None else unknown | ~np.isfinite(mean)
    if away.any():
        mean[away] = mean[~away].mean() if not away.all() else 0.0
    return np.asarray(mean)


def averaged(x: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """(rows cols) means of the pixels of (h w) that fall in each cell; h >= rows and w >= cols."""
    for axis, count in ((0, rows), (1, cols)):
        edges = np.linspace(0, x.shape[axis], count + 1).round().astype(int)
        sizes = np.diff(edges).reshape([-1 if a == axis else 1 for a in (0, 1)])
        x = np.add.reduceat(x, edges[:-1], axis=axis) / sizes
    return x


def near_pairs(one: np.ndarray, other: np.ndarray, bits: int = NEAR_BITS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices into hashes (n) and (m), and the bits in which they differ, of all pairs that differ in at most `bits`.

    Two hashes that differ in 3 bits agree in one of four quarters, so only those that do are compared.
    """
    assert bits < 4, "four quarters find no more"
    found = []
    for quarter in range(4):
        key, keys = (((x >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)).astype(np.int32) for x in (one, other))
        order = np.argsort(keys, kind="stable")
        first, last = (np.searchsorted(keys[order], key, side) for side in ("left", "right"))
        first[one == NO_HASH] = last[one == NO_HASH] = 0
        ends = np.cumsum(last - first)
        start = 0
        while start < len(one):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + AT_ONCE, "right")))
            counts = (last - first)[start:stop]
            left = np.repeat(np.arange(start, stop), counts)
            rank = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
            right = order[np.repeat(first[start:stop], counts) + rank]
            differ = np.bitwise_count(one[left] ^ other[right])
            near = (differ <= bits) & (other[right] != NO_HASH)
            found.append(np.stack([left[near], right[near], differ[near]], axis=1).astype(np.int64))
            start = stop
    pairs = np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 3), np.int64)
    return pairs[:, 0], pairs[:, 1], pairs[:, 2]


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """1 if two pictures (h w) are equal, else the correlation of their pixels; 0 where details are not alike."""
    if one.shape == other.shape and (one == other).all():
        return 1.0
    rows, cols = (min(THUMB, one.shape[axis], other.shape[axis]) for axis in (0, 1))
    left, right = averaged(one, rows, cols), averaged(other, rows, cols)
    detail = min(_correlation(np.diff(left, axis=axis), np.diff(right, axis=axis)) for axis in (0, 1))
    return min(_correlation(left, right), 0.9999) if detail >= ALIKE_DETAIL else 0.0


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    left, right = (x.ravel() - x.mean() for x in (one, other))
    size = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum()) / size if size > 0 else 0.0
