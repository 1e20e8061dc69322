"""What a choice of samples is worth: a weighted sum of terms that are monotone and submodular, each at most 1.

A set is worth more with each sample added (monotone), and a sample adds the less the more there are already
(submodular), so the greedy choice reaches at least 1 - 1/e = 63 % of the optimum.
Source: Nemhauser, Wolsey & Fisher 1978.

| term | worth of a set, before it is divided by the most that the budget can reach |
|---|---|
| Amount | sum of values above the pool's lowest |
| Coverage | sum over strata of n (1 + ln(budget / n)): budget (1 + Shannon entropy in nats) of a full budget |
| Firsts | groups of which it has a member (near duplicates, places): a second member adds nothing |
| Spread | sum over clients of the likeness to the nearest sample chosen (facility location) |

Axes: n candidates, b buckets (candidates of the same strata), t coverage terms, c clients, d numbers of an embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geomaestro.select.pool import Strata, shares

AT_ONCE = 1 << 20  # measured; likenesses formed in one go, which then lie in a cache


@dataclass(frozen=True, eq=False)
class Amount:
    """A value (n) of each candidate, of which much is wanted."""

    name: str
    weight: float
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Coverage:
    """Strata (n) that are to be chosen from alike."""

    name: str
    weight: float
    strata: Strata


@dataclass(frozen=True, eq=False)
class Firsts:
    """A group (n) of each candidate of which one is enough."""

    name: str
    weight: float
    groups: np.ndarray


@dataclass(frozen=True, eq=False)
class Spread:
    """Embeddings (n d) of unit length of the candidates, and (c d) of the clients that they are to stand for."""

    name: str
    weight: float
    vectors: np.ndarray
    clients: np.ndarray


Term = Amount | Coverage | Firsts | Spread


class Objective:
    """Terms made ready for a budget: what does not change while samples are chosen."""

    def __init__(self, terms: Sequence[Term], budget: int) -> None:
        self.terms, self.budget = tuple(terms), budget
        self.coverage = [term for term in terms if isinstance(term, Coverage)]
        self.firsts = [term for term in terms if isinstance(term, Firsts)]
        self.spread = [term for term in terms if isinstance(term, Spread)]
        self.amounts = {t.name: scaled_amount(t, budget) for t in terms if isinstance(t, Amount)}
        self.size = len(_per_candidate(terms[0]))
        self.static = np.sum([*self.amounts.values(), np.zeros(self.size)], axis=0)
        self.bucket, self.strata = joint_strata([term.strata.codes for term in self.coverage], self.size)
        worth = coverage_worth(budget)
        self.worths, self.steps = [], []  # of each coverage term: worth (budget + 1) of a count, and of one more
        for term in self.coverage:
            scale = term.weight / float(worth[shares(term.strata.counts(), budget)].sum())
            self.worths.append(scale * worth)
            self.steps.append(np.diff(scale * worth, append=scale * worth[-1]))

    @property
    def weights(self) -> float:
        """What no choice can exceed: each term is at most its weight."""
        return float(sum(term.weight for term in self.terms))

    @property
    def greedy_is_optimal(self) -> bool:
        """Whether greedy finds the optimum: the worth is a sum of concave functions of one partition's counts."""
        return len(self.coverage) + len(self.firsts) <= 1 and not self.spread

    @property
    def changes(self) -> bool:
        """Whether a candidate's own gain can fall while others are chosen."""
        return bool(self.firsts or self.spread)


class State:
    """What has been chosen so far, as far as the gains of others depend on it."""

    def __init__(self, objective: Objective) -> None:
        self.of = objective
        self.picks = 0
        self.counts = [np.zeros(len(term.strata.names), np.int64) for term in objective.coverage]
        self.taken = [np.zeros(int(term.groups.max()) + 1, bool) for term in objective.firsts]
        self.nearest = [Nearest(term) for term in objective.spread]
        self.amounts = dict.fromkeys(objective.amounts, 0.0)
        self._first_worth = [
            term.weight / min(objective.budget, len(taken))
            for term, taken in zip(objective.firsts, self.taken, strict=True)
        ]

    def bucket_gains(self) -> np.ndarray:
        """(b) what coverage gains by one more candidate of each bucket."""
        gains = np.zeros(len(self.of.strata))
        for nth, (steps, counts) in enumerate(zip(self.of.steps, self.counts, strict=True)):
            gains += steps[np.minimum(counts, self.of.budget)][self.of.strata[:, nth]]
        return gains

    def own_gains(self, candidates: np.ndarray) -> np.ndarray:
        """What amounts, firsts and spread gain by one more, for each of some candidates alone."""
        gains = self.of.static[candidates]
        for first, taken, worth in zip(self.of.firsts, self.taken, self._first_worth, strict=True):
            gains = gains + np.where(taken[first.groups[candidates]], 0.0, worth)
        for nearest in self.nearest:
            gains = gains + nearest.term.weight * nearest.gains(candidates)
        return gains

    def add(self, candidates: np.ndarray) -> None:
        """Choose some candidates."""
        self.picks += len(candidates)
        for name, values in self.of.amounts.items():
            self.amounts[name] += float(values[candidates].sum())
        for covered, counts in zip(self.of.coverage, self.counts, strict=True):
            np.add.at(counts, covered.strata.codes[candidates], 1)
        for first, taken in zip(self.of.firsts, self.taken, strict=True):
            taken[first.groups[candidates]] = True
        for nearest in self.nearest:
            nearest.add(candidates)

    def worth(self) -> dict[str, float]:
        """The worth of each term by its name, its weight included."""
        found = dict(self.amounts)
        for covered, worths, counts in zip(self.of.coverage, self.of.worths, self.counts, strict=True):
            found[covered.name] = float(worths[np.minimum(counts, self.of.budget)].sum())
        for first, taken, worth in zip(self.of.firsts, self.taken, self._first_worth, strict=True):
            found[first.name] = worth * int(taken.sum())
        for nearest in self.nearest:
            found[nearest.term.name] = nearest.term.weight * float(nearest.likeness.mean(dtype=np.float64))
        return {term.name: found[term.name] for term in self.of.terms}

    def constant_of_bound(self) -> float:
        """What bounds any choice T by `constant + sum over T of the gains`, where gains are of this state.

        A coverage worth lies below its tangent at the counts n: f(m) <= f(n) + f'(n) (m - n). Of firsts and spread a
        choice T is worth at most what this state is, and the gains of T.
        """
        found = self.worth()
        total = sum(found[first.name] for first in self.of.firsts) + sum(
            found[spread.name] for spread in self.of.spread
        )
        for covered, steps, counts in zip(self.of.coverage, self.of.steps, self.counts, strict=True):
            total += found[covered.name] - float((steps[np.minimum(counts, self.of.budget)] * counts).sum())
        return total


def coverage_worth(budget: int) -> np.ndarray:
    """(budget + 1) the worth n (1 + ln(budget / n)) of n samples of a stratum; it rises to the last, ever more slowly.

    A choice of the whole budget is worth budget (1 + H), H its Shannon entropy in nats.
    """
    n = np.arange(1, budget + 1, dtype=np.float64)
    return np.concatenate([[0.0], n * (1 + np.log(budget / n))])


def scaled_amount(term: Amount, budget: int) -> np.ndarray:
    """(n) weighted values above the lowest, of which the greatest `budget` add to the weight; 0 where all are equal."""
    above = term.values - term.values.min()
    most = np.partition(above, len(above) - budget)[len(above) - budget :].sum() if budget < len(above) else above.sum()
    return np.asarray(term.weight * above / most if most > 0 else above)


def joint_strata(codes: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """(n) bucket of each candidate, and (b t) the strata of each bucket."""
    if not codes:
        return np.zeros(size, np.int32), np.zeros((1, 0), np.int64)
    bucket, strata = np.unique(codes[0], return_inverse=True)[1].astype(np.int64), np.unique(codes[0])[:, None]
    for more in codes[1:]:
        width = int(more.max()) + 1
        values, bucket = np.unique(bucket * width + more, return_inverse=True)
        strata = np.concatenate([strata[values // width], (values % width)[:, None]], axis=1)
    return bucket.astype(np.int32), strata.astype(np.int64)


class Nearest:
    """How near the chosen samples come to each client; 0 where nothing is chosen, 1 where a client itself is."""

    def __init__(self, term: Spread) -> None:
        self.term = term
        # the last column is 1 - 2 x likeness: a product with (vector, 1) is then what twice the likeness would rise by
        self._clients = np.concatenate([term.clients, np.ones((len(term.clients), 1), np.float32)], axis=1)
        self._ones = np.ones(len(term.clients), np.float32)

    @property
    def likeness(self) -> np.ndarray:
        """(c) of each client to the nearest sample chosen."""
        return np.asarray((1 - self._clients[:, -1]) / 2)

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        """How much the mean likeness rises by each of some candidates alone."""
        gains = [np.zeros(0)]
        for part in self._parts(candidates):
            more = self._rises(part)
            np.maximum(more, 0, out=more)
            gains.append((more @ self._ones).astype(np.float64) / (2 * len(self._ones)))
        return np.concatenate(gains)

    def add(self, candidates: np.ndarray) -> None:
        """Choose some candidates."""
        for part in self._parts(candidates):
            self._clients[:, -1] -= np.maximum(self._rises(part).max(axis=0), 0)

    def _rises(self, part: np.ndarray) -> np.ndarray:
        """(m c) twice the likeness of candidates and clients, less that to the nearest sample chosen."""
        vectors = np.ones((len(part), self._clients.shape[1]), np.float32)
        vectors[:, :-1] = self.term.vectors[part]
        return np.asarray(vectors @ self._clients.T)

    def _parts(self, candidates: np.ndarray) -> list[np.ndarray]:
        size = max(AT_ONCE // len(self._ones), 1)
        return [candidates[start : start + size] for start in range(0, len(candidates), size)]


def _per_candidate(term: Term) -> np.ndarray:
    if isinstance(term, Amount):
        return term.values
    if isinstance(term, Coverage):
        return term.strata.codes
    return term.groups if isinstance(term, Firsts) else term.vectors
