"""What a choice is, beside its pool and beside random choices of the same size, at every budget up to its own.

Axes: n candidates, k chosen, m budgets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geomaestro.select.choose import Choice, about
from geomaestro.select.entropy import shannon
from geomaestro.select.groups import alike
from geomaestro.select.objective import Objective, State
from geomaestro.select.pool import Pool, Strata
from geomaestro.select.table import CATEGORIES

DRAWS = 10  # random choices that a choice is compared with
BUDGETS = 40  # assumed; points of a curve
MOST_COMPARED = 2_000_000  # assumed; more pictures are compared only where the choice compares them
MOST_SHOWN = 20_000  # assumed; places of the pool on the map
WORTH = "objective"
REPEATED = "near-duplicate share"


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of values (n); NaN where unknown."""

    values: np.ndarray

    def along(self, rows: np.ndarray, budgets: np.ndarray) -> np.ndarray:
        """(m) the measure of the first `budgets` of rows (k)."""
        values = self.values[rows]
        known = np.isfinite(values)
        sums, counts = np.cumsum(np.where(known, values, 0.0)), np.cumsum(known)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)[budgets - 1]


@dataclass(frozen=True, eq=False)
class Entropy:
    """The Shannon entropy of counts by stratum, in nats."""

    strata: Strata

    def along(self, rows: np.ndarray, budgets: np.ndarray) -> np.ndarray:
        """(m) the measure of the first `budgets` of rows (k)."""
        chosen = self.strata.take(rows)
        return np.array([shannon(chosen.counts(slice(0, int(budget)))) for budget in budgets])


@dataclass(frozen=True, eq=False)
class Repeated:
    """The share of samples beyond the first of each group (n)."""

    groups: np.ndarray

    def along(self, rows: np.ndarray, budgets: np.ndarray) -> np.ndarray:
        """(m) the measure of the first `budgets` of rows (k)."""
        first = np.zeros(len(rows), bool)
        first[np.unique(self.groups[rows], return_index=True)[1]] = True
        return np.asarray(1 - np.cumsum(first)[budgets - 1] / budgets)


Measure = Mean | Entropy | Repeated


def measures_of(choice: Choice) -> dict[str, Measure]:
    """What can be measured of the candidates: what the choice was made by, and the usual columns that are there."""
    pool, found = choice.pool, dict[str, Measure]()
    objective = choice.objective
    amounts = {"spectral_entropy"} & set(pool.types) | set(objective.amounts if objective else ())
    for name in sorted(amounts):
        values = pool.numbers(name)
        if np.isfinite(values).any():
            found[f"mean {name}"] = Mean(values)
    covered = {term.name: term.strata for term in objective.coverage} if objective else {}
    usual = [name for name in (*CATEGORIES, choice.rule.column) if name and name in pool.types and name not in covered]
    for name, strata in (covered | {name: pool.strata(name) for name in usual}).items():
        if np.count_nonzero(strata.counts()) > 1:
            found[f"entropy of {name}"] = Entropy(strata)
    groups = _groups(pool, objective)
    if groups is not None:
        found[REPEATED] = Repeated(groups)
    return found


def _groups(pool: Pool, objective: Objective | None) -> np.ndarray | None:
    """Groups of pictures that are alike, if there are hashes and not too many."""
    for term in objective.firsts if objective else ():
        if term.name == "redundancy":
            return term.groups
    if "picture_hash" not in pool.types or len(pool) > MOST_COMPARED:
        return None
    hashes = pool.hashes()
    return alike(hashes) if hashes.any() else None


def summary(choice: Choice) -> dict[str, Any]:
    """All that the page shows, in plain numbers."""
    measures, pool, count = measures_of(choice), choice.pool, len(choice.chosen)
    budgets = np.unique(np.geomspace(1, count, BUDGETS).round().astype(np.int64))
    draws = [np.random.default_rng((choice.options.seed, 2, nth)).choice(len(pool), count, replace=False)
             for nth in range(DRAWS)]  # fmt: skip
    everyone, end = np.arange(len(pool)), np.array([len(pool)])
    curves: dict[str, dict[str, Any]] = {
        name: {"chosen": _plain(measure.along(choice.chosen, budgets)),
               "random": _spread([measure.along(draw, budgets) for draw in draws])}
        for name, measure in measures.items()
    }  # fmt: skip
    rows = {name: float(measure.along(everyone, end)[0]) for name, measure in measures.items()}
    if choice.objective is not None and choice.picks is not None:
        chosen = np.cumsum(choice.picks.gains)[budgets - 1]
        worths = [worth_along(choice.objective, draw, budgets) for draw in draws]
        curves = {WORTH: {"chosen": _plain(chosen), "random": _spread(worths)}} | curves
    return {
        **about(choice),
        "total": pool.total,
        "candidates": len(pool),
        "rows": [{"name": name, "pool": rows.get(name), "chosen": curve["chosen"][-1],
                  "random": {end: values[-1] for end, values in curve["random"].items()}}
                 for name, curve in curves.items()],
        "strata": {name.removeprefix("entropy of "): _counts(measure.strata, choice.chosen)
                   for name, measure in measures.items() if isinstance(measure, Entropy)},
        "budgets": budgets.tolist(),
        "curves": curves,
        "places": _places(choice),
    }  # fmt: skip


def worth_along(objective: Objective, rows: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """(m) the worth of the first `budgets` of rows (k)."""
    state, found = State(objective), []
    for start, stop in zip([0, *budgets[:-1]], budgets, strict=True):
        state.add(rows[start:stop])
        found.append(sum(state.worth().values()))
    return np.asarray(found)


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _spread(draws: Sequence[np.ndarray]) -> dict[str, list[float | None]]:
    """Mean, least and greatest of some draws."""
    stack = np.stack(draws)
    return {name: _plain(function(stack, axis=0)) for name, function in (("mean", np.mean), ("low", np.min),
                                                                         ("high", np.max))}  # fmt: skip


def _counts(strata: Strata, chosen: np.ndarray) -> list[Mapping[str, Any]]:
    """Samples of each stratum in the pool and among those chosen, the commonest first."""
    every, some = strata.counts(), strata.counts(chosen)
    order = np.argsort(-every, kind="stable")
    return [{"name": strata.names[i], "pool": int(every[i]), "chosen": int(some[i])} for i in order if every[i]]


def _places(choice: Choice) -> dict[str, list[list[float]]] | None:
    """Longitudes and latitudes of some of the pool and of those chosen."""
    if not {"lon", "lat"} <= set(choice.pool.types):
        return None
    places = np.stack([choice.pool.numbers("lon"), choice.pool.numbers("lat")], axis=1).round(4)
    found = {"pool": places[:MOST_SHOWN], "chosen": places[choice.chosen]}
    known = {name: each[np.isfinite(each).all(axis=1)].tolist() for name, each in found.items()}
    return known if known["chosen"] else None
