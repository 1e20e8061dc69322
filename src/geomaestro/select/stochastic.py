"""The greedy choice among some candidates in each step, where looking at all would take hours.

In each step the best of a random sample of n / budget ln(1 / EPSILON) candidates is chosen, which has at least
1 - 1/e - EPSILON of the optimum in expectation (Mirzasoleiman et al. 2015, "Lazier than lazy greedy"). The most
promising candidates of the best buckets are looked at too, so that rare strata are not left to chance; more candidates
can but raise the gain of a step, so the guarantee stands.
Axes: n candidates, b buckets.
"""

import math

import numpy as np

from geomaestro.select.greedy import SHOWN, Picks, Report, upper_bound
from geomaestro.select.objective import Objective, State

EPSILON = 0.1
HEADS = 32  # assumed; buckets whose head is looked at in each step
MOST_LIKENESSES = 10**10  # assumed; about 20 s of a core
LOOKS = 1000  # measured on 10^5 candidates in clusters; looks of the lazy greedy choice in each step


def is_too_large(objective: Objective) -> bool:
    """Whether the lazy greedy choice would take long: all candidates once, and LOOKS in each step."""
    looks = objective.size + objective.budget * min(objective.size, LOOKS)
    return looks * sum(len(term.clients) for term in objective.spread) > MOST_LIKENESSES


def choose_among_some(
    objective: Objective, *, seed: int, report: Report = lambda done, total, note: None, sample: int | None = None
) -> Picks:
    """Choose `budget` candidates, of which each gains most of a sample of those left."""
    rng, state, heads = np.random.default_rng((seed, 3)), State(objective), Heads(objective)
    budget, free = objective.budget, np.ones(objective.size, bool)
    size = sample or math.ceil(objective.size / budget * math.log(1 / EPSILON))
    candidates, gains, looked_at = np.zeros(budget, np.int64), np.zeros(budget), 0
    for nth in range(budget):
        shared = state.bucket_gains()
        drawn = rng.integers(0, objective.size, size)
        some = np.union1d(drawn[free[drawn]], heads.best(shared))
        worth = shared[objective.bucket[some]] + state.own_gains(some)
        best = int(np.argmax(worth))
        candidates[nth], gains[nth], looked_at = some[best], worth[best], looked_at + len(some)
        free[some[best]] = False
        heads.leave(int(objective.bucket[some[best]]), free)
        state.add(some[best : best + 1])
        if nth % SHOWN == SHOWN - 1 or nth == budget - 1:
            report(nth + 1, budget, "chosen")
    own = np.zeros(objective.size)
    for part in np.array_split(np.arange(objective.size), max(objective.size // 20_000, 1)):
        own[part] = state.own_gains(part)
        report(int(part[-1]) + 1, objective.size, "candidates looked at for the bound")
    bound = upper_bound(state, own, np.zeros(objective.size, bool))
    return Picks(candidates, gains, state.worth(), bound, looked_at + objective.size, "stochastic greedy")


class Heads:
    """The free candidate of each bucket that has most of what does not change (amounts)."""

    def __init__(self, objective: Objective) -> None:
        order = np.argsort(-objective.static, kind="stable")
        self._order = order[np.argsort(objective.bucket[order], kind="stable")]
        self._next = np.searchsorted(objective.bucket[self._order], np.arange(len(objective.strata)))
        self._last = np.append(self._next[1:], objective.size)
        self._static = objective.static

    def best(self, shared: np.ndarray) -> np.ndarray:
        """Heads of the best buckets, by what coverage gains (b) and what they have."""
        left = np.flatnonzero(self._next < self._last)
        heads = self._order[self._next[left]]
        worth = shared[left] + self._static[heads]
        return np.asarray(heads if len(left) <= HEADS else heads[np.argpartition(-worth, HEADS)[:HEADS]])

    def leave(self, bucket: int, free: np.ndarray) -> None:
        """Go on to the next free candidate of a bucket."""
        while self._next[bucket] < self._last[bucket] and not free[self._order[self._next[bucket]]]:
            self._next[bucket] += 1
