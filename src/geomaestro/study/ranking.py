"""Ranks over tasks, and whether two arms of a study can be told apart.

Axes: a arm, k task, s seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def dense_ranks(scores: np.ndarray, decimals: int | None = None) -> np.ndarray:
    """(a) ranks from 0 for the highest score; equal scores share one, and the next follows at once.

    `decimals` rounds first: scores that are printed alike then rank alike. NaN has no rank. Source: "Pretrain Where?".
    """
    scores = np.asarray(scores, float)
    rounded = scores if decimals is None else np.round(scores, decimals)
    known = np.isfinite(rounded)
    out = np.full(len(scores), np.nan)
    _, place = np.unique(-rounded[known], return_inverse=True)
    out[known] = place
    return out


def mean_ranks(scores: np.ndarray, decimals: int | None = None) -> np.ndarray:
    """(a) mean over the tasks of (a k) scores of the dense ranks; NaN where an arm lacks a task."""
    return np.stack([dense_ranks(column, decimals) for column in np.asarray(scores, float).T], axis=1).mean(axis=1)


@dataclass(frozen=True, slots=True)
class Difference:
    """Of two arms: mean of paired differences, its 95 % interval, how many pairs."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def separable(self) -> bool:
        """True if the interval leaves out 0; never of a single pair."""
        return self.pairs > 1 and (self.low > 0 or self.high < 0)


def paired_difference(one: Sequence[float], other: Sequence[float]) -> Difference:
    """Mean of one minus other, pair by pair (same seed, task and draw), with Student's 95 % interval."""
    from scipy.stats import t

    gaps = np.asarray(one, float) - np.asarray(other, float)
    mean, n = float(gaps.mean()), len(gaps)
    if n < 2:
        return Difference(mean, float("nan"), float("nan"), n)
    half = float(t.ppf(0.975, n - 1)) * float(gaps.std(ddof=1)) / n**0.5
    return Difference(mean, mean - half, mean + half, n)
