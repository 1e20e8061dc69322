"""How the values of bands are spread, pooled over any number of images in little memory.

Count, mean, deviation and extremes are exact. Quantiles come from a sample of at most `KEPT` pixels: every pixel draws
a number from a generator that its scene's name seeds, and those with the least numbers are kept. So every pixel has the
same chance, and the same data give the same answer in whatever order or by however many workers they are read.

Axes: c band, n pixel, k kept pixel, q quantile.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KEPT = 20_000  # binomial: the 2 % quantile is then known to 0.1 % of the pixels
AT_ONCE = 1 << 22  # assumed; numbers that are turned into floats at a time


@dataclass(frozen=True, eq=False)
class Spread:
    """Of the pixels of one sensor."""

    count: int
    mean: np.ndarray  # (c)
    squares: np.ndarray  # (c) sum of squared deviations from the mean
    low: np.ndarray  # (c)
    high: np.ndarray  # (c)
    keys: np.ndarray  # (k) drawn numbers, rising
    pixels: np.ndarray  # (k c) the pixels that drew them

    @classmethod
    def nothing(cls, bands: int) -> "Spread":
        """Of no pixel."""
        zeros, nan = np.zeros(bands), np.full(bands, np.nan)
        return cls(0, zeros, zeros, nan, nan, np.zeros(0), np.zeros((0, bands)))

    def __add__(self, other: "Spread") -> "Spread":
        """Pool. Source: Chan, Golub & LeVeque 1983, for mean and squares."""
        count = self.count + other.count
        if self.count == 0 or other.count == 0:
            return self if other.count == 0 else other
        step = other.mean - self.mean
        keys = np.concatenate([self.keys, other.keys])
        order = np.argsort(keys, kind="stable")[:KEPT]
        return Spread(
            count,
            self.mean + step * (other.count / count),
            self.squares + other.squares + step**2 * (self.count * other.count / count),
            np.fmin(self.low, other.low),
            np.fmax(self.high, other.high),
            keys[order],
            np.concatenate([self.pixels, other.pixels])[order],
        )

    @property
    def std(self) -> np.ndarray:
        """(c) standard deviation over all pixels."""
        return np.sqrt(self.squares / max(self.count, 1))

    def quantiles(self, shares: Sequence[float]) -> np.ndarray:
        """(q c) of the kept pixels; nan where there is none."""
        if len(self.pixels) == 0:
            return np.full((len(shares), len(self.mean)), np.nan)
        return np.asarray(np.quantile(self.pixels, shares, axis=0))


def spread_of(images: np.ndarray, unknown: np.ndarray | None, seed: str) -> Spread:
    """Spread of images (t c h w), without the pixels that are unknown (t h w)."""
    bands, total = images.shape[1], Spread.nothing(images.shape[1])
    digest = hashlib.blake2b(seed.encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    step = max(1, AT_ONCE // max(1, images[:1].size))
    for start in range(0, len(images), step):
        part = images[start : start + step].swapaxes(0, 1)
        known = None if unknown is None else ~unknown[start : start + step]
        drawn = rng.random(part[0].size)
        pixels = part.reshape(bands, -1)
        if known is not None and not known.all():
            drawn, pixels = drawn[known.ravel()], pixels[:, known.ravel()]
        if len(drawn):
            total = total + _spread(pixels.astype(np.float64), drawn)
    return total


def _spread(pixels: np.ndarray, drawn: np.ndarray) -> Spread:
    """Spread of pixels (c n) that drew the numbers (n)."""
    least = np.argpartition(drawn, KEPT)[:KEPT] if len(drawn) > KEPT else np.arange(len(drawn))
    least = least[np.argsort(drawn[least], kind="stable")]
    kept, low, high = pixels[:, least].T, pixels.min(axis=1), pixels.max(axis=1)
    mean = pixels.mean(axis=1)
    pixels -= mean[:, None]
    squares = np.einsum("cn,cn->c", pixels, pixels)
    return Spread(len(drawn), mean, squares, low, high, drawn[least], kept)
