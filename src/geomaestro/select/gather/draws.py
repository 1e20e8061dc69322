"""Random numbers as a pure function of a key, and permutations of numbers: place i is drawn without places 0 to i - 1.

Axes: n number.
"""

from dataclasses import dataclass

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)  # the golden-ratio increment of SplitMix64
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
ROUNDS = 6  # assumed; four make a Feistel network a strong permutation (Luby and Rackoff 1988)


def mix(x: np.ndarray) -> np.ndarray:
    """(n) uint64 to (n) uint64, one to one, without visible order. Source: SplitMix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
        return np.asarray(x ^ (x >> np.uint64(31)))


def key_of(*parts: int | str) -> int:
    """A key of 64 bits from numbers and words; the same on every machine."""
    from hashlib import sha256

    text = "\n".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(sha256(text.encode()).digest()[:8], "little")


def uniform(key: int, numbers: np.ndarray | int, stream: int) -> np.ndarray:
    """(n) float64 in [0, 1), each a function of the key, one of the (n) numbers, and the stream alone."""
    counter = np.atleast_1d(np.asarray(numbers, np.uint64))
    with np.errstate(over="ignore"):
        start = mix(np.uint64(key) + mix((np.asarray([stream], np.uint64) + np.uint64(1)) * _STEP))
        bits = mix(start + (counter + np.uint64(1)) * _STEP)
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


@dataclass(frozen=True)
class Permutation:
    """The numbers 0 to `size` - 1 in an order drawn by `key`, of which any part is known without the rest.

    A Feistel network over the next power of four; what falls outside is sent through again until it falls inside.
    """

    key: int
    size: int

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """(n) int64 of (n) int64, both from 0 to size - 1, one to one."""
        half = max(1, ((self.size - 1).bit_length() + 1) // 2)
        out = self._round_trip(np.asarray(numbers).astype(np.uint64), half)
        while (outside := out >= np.uint64(self.size)).any():
            out[outside] = self._round_trip(out[outside], half)
        return out.astype(np.int64)

    def _round_trip(self, x: np.ndarray, half: int) -> np.ndarray:
        bits, low = np.uint64(half), np.uint64((1 << half) - 1)
        left, right = x >> bits, x & low
        for number in range(ROUNDS):
            turn = mix(np.asarray([key_of(self.key, number)], np.uint64))
            left, right = right, left ^ (mix(right ^ turn) & low)
        return np.asarray((left << bits) | right)
