"""Does the diversity of a pretraining set go with what its model can do? Spearman's correlation, and how sure it is.

Few sets make any correlation uncertain: beside each stand a bootstrap interval, a permutation p corrected for the
number of measures (Holm), what leaving out one set does, and what is left when set size is accounted for.
Axes: n pretraining set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import factorial

import numpy as np

MOST_ORDERS = 50_000  # permutations that are all counted; of more sets as many are drawn
RESAMPLES = 10_000
LEAST_SETS = 4  # assumed; with fewer no order of the sets has a p below .05 (3! = 6)
SURE = 0.05


@dataclass(frozen=True, slots=True)
class Correlation:
    """Of one measure with performance over `sets` pretraining sets; NaN where it is not defined.

    `p` is of Student's t (as published), `p_permutation` of all orders or a draw of them, `p_holm` that corrected for
    all measures that were tried. `without` is the correlation with each set left out, `partial` with set size held.
    """

    measure: str
    sets: int
    rho: float
    low: float
    high: float
    p: float
    p_permutation: float
    p_holm: float
    without: Mapping[str, float]
    partial: float

    @property
    def separable(self) -> bool:
        """True if the corrected p is below 5 % and the interval leaves out 0."""
        return self.p_holm < SURE and (self.low > 0 or self.high < 0)

    @property
    def sentence(self) -> str:
        """What can be said."""
        if not np.isfinite(self.rho):
            why = f"only {self.sets} sets" if self.sets < LEAST_SETS else "it is the same in all sets"
            return f"{self.measure}: no correlation can be told, {why}."
        numbers = (
            f"rho {self.rho:.2f} [{self.low:.2f}, {self.high:.2f}], permutation p {self.p_permutation:.3g}, "
            f"{self.p_holm:.3g} after Holm's correction"
        )
        if self.separable:
            way = "with" if self.rho > 0 else "against"
            return f"{self.measure} goes {way} performance over {self.sets} sets: {numbers}."
        return f"{self.measure} is not separable from no correlation at n = {self.sets}: {numbers}."


def spearman(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Spearman's correlation (ties share their mean rank) and the two-sided p of Student's t; NaN of a constant."""
    from scipy.stats import spearmanr

    if len(x) < 3 or len(set(x.tolist())) < 2 or len(set(y.tolist())) < 2:
        return float("nan"), float("nan")
    found = spearmanr(x, y)
    return float(found.statistic), float(found.pvalue)


def correlate(
    measures: Mapping[str, Sequence[float]],
    performance: Sequence[float],
    names: Sequence[str],
    *,
    sizes: Sequence[float] | None = None,
    seed: int = 0,
) -> list[Correlation]:
    """Correlations of each measure (n) with performance (n) over the sets of these names; sets that lack a measure are
    left out of it.
    """
    y_all = np.asarray(performance, float)
    found = []
    for measure, values in measures.items():
        x = np.asarray(values, float)
        known = np.isfinite(x) & np.isfinite(y_all)
        size = None if sizes is None else np.asarray(sizes, float)[known]
        chosen = [name for name, k in zip(names, known, strict=True) if k]
        found.append(_correlation(measure, x[known], y_all[known], chosen, size, np.random.default_rng(seed)))
    corrected = holm([each.p_permutation for each in found])
    return [replace(each, p_holm=p) for each, p in zip(found, corrected, strict=True)]


def _correlation(
    measure: str, x: np.ndarray, y: np.ndarray, names: Sequence[str], sizes: np.ndarray | None, rng: np.random.Generator
) -> Correlation:
    rho, p = spearman(x, y)
    nan = float("nan")
    if len(x) < LEAST_SETS or not np.isfinite(rho):
        return Correlation(measure, len(x), nan, nan, nan, nan, nan, nan, {}, nan)
    low, high = bootstrap_interval(x, y, rng)
    without = {name: spearman(np.delete(x, i), np.delete(y, i))[0] for i, name in enumerate(names)}
    return Correlation(
        measure=measure,
        sets=len(x),
        rho=rho,
        low=low,
        high=high,
        p=p,
        p_permutation=permutation_p(x, y, rng),
        p_holm=nan,
        without=without,
        partial=nan if sizes is None else partial_spearman(x, y, sizes),
    )


def bootstrap_interval(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile interval of Spearman's correlation over resampled sets; resamples of one value are left out."""
    index = rng.integers(len(x), size=(RESAMPLES, len(x)))
    rhos = _pearson(_ranks(x[index]), _ranks(y[index]))
    low, high = np.nanquantile(rhos, [0.025, 0.975])
    return float(low), float(high)


def permutation_p(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> float:
    """Share of orders of `y` whose correlation is at least as far from 0, both sides; of all orders where they are few,
    else of drawn ones with the true order counted among them.
    """
    ranks_x, ranks_y = _ranks(x[None]), _ranks(y[None])[0]
    few = len(x) < 10 and factorial(len(x)) <= MOST_ORDERS
    if few:
        orders = np.asarray(list(permutations(range(len(x)))))
    else:
        drawn = rng.permuted(np.tile(np.arange(len(x)), (MOST_ORDERS, 1)), axis=1)
        orders = np.concatenate([np.arange(len(x))[None], drawn])
    rhos = np.abs(_pearson(ranks_x, ranks_y[orders]))
    return float((rhos >= rhos[0] - 1e-12).mean())


def partial_spearman(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Spearman's correlation of x and y with the ranks of `given` taken out of both; NaN where `given` is constant."""
    from scipy.stats import rankdata

    if len(set(given.tolist())) < 2:
        return float("nan")
    rx, ry, rz = (rankdata(v) - (len(v) + 1) / 2 for v in (x, y, given))
    left_x, left_y = (v - rz * (v @ rz) / (rz @ rz) for v in (rx, ry))
    spread = float(np.sqrt((left_x @ left_x) * (left_y @ left_y)))
    return float(left_x @ left_y) / spread if spread > 1e-9 else float("nan")


def holm(p: Sequence[float]) -> list[float]:
    """p corrected for their number, step by step from the least (Holm 1979); NaN stays and does not count."""
    values = np.asarray(p, float)
    order = [i for i in np.argsort(values) if np.isfinite(values[i])]
    out, most = values.copy(), 0.0
    for place, i in enumerate(order):
        most = max(most, min(1.0, (len(order) - place) * values[i]))
        out[i] = most
    return out.tolist()


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis; ties share their mean rank."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values, axis=-1))


def _pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation along the last axis; NaN of a constant."""
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    spread = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(axis=-1) / np.where(spread > 1e-9, spread, np.nan))
