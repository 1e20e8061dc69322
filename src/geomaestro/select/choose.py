"""Choose a part of a pool of samples: at random, from one region, balanced, or by a mix of what makes it diverse."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from geomaestro.errors import DataError, SpecError
from geomaestro.select.greedy import Picks, Report, choose_greedily
from geomaestro.select.groups import alike, cells
from geomaestro.select.objective import Amount, Coverage, Firsts, Objective, Spread, Term
from geomaestro.select.pool import Pool, Strata, describe_of, full_rows, open_pool, shares, where_found
from geomaestro.select.rule import SPECIAL, Rule, nearest, read_rule
from geomaestro.select.stochastic import EPSILON, choose_among_some, is_too_large
from geomaestro.select.table import CATEGORIES, SCHEMA, write_table

NEEDS = {"embedding": ("embedding",), "redundancy": ("picture_hash",), "places": ("lon", "lat")}
NO_TERM = {"id": "names a sample", "lon": "is half a place; `places` spreads a choice over the ground",
           "lat": "is half a place; `places` spreads a choice over the ground",
           "date": "is no stratum; `season` and `year` are", "picture_hash": "is compared by `redundancy`"}  # fmt: skip
CLIENTS = 2_000, 20_000  # assumed; least and most by default, between them four times the budget
PER_PICK = 4


@dataclass(frozen=True)
class Options:
    """What else can be said of a choice. `clients`: samples that the term `embedding` looks at."""

    seed: int = 0
    splits: tuple[str, ...] | None = None
    apart_km: float = 10.0
    clients: int | None = None

    def __post_init__(self) -> None:
        if not (self.apart_km > 0 and math.isfinite(self.apart_km)):
            raise SpecError(f"--apart-km {self.apart_km:g}: give a distance above 0")
        if self.clients is not None and self.clients < 1:
            raise SpecError(f"--clients {self.clients}: give at least 1")
        if self.seed < 0:
            raise SpecError(f"--seed {self.seed}: give 0 or more")


@dataclass(frozen=True)
class Choice:
    """Candidates `chosen` (k) of a pool in their order; `objective` and `picks` where a mix was maximised."""

    pool: Pool
    rule: Rule
    by: str
    options: Options
    chosen: np.ndarray
    objective: Objective | None = None
    picks: Picks | None = None
    notes: tuple[str, ...] = ()

    @property
    def guarantee(self) -> str:
        """What is known of how good the choice is."""
        if self.objective is None or self.picks is None:
            return "no objective was maximised, so there is no optimum to compare with"
        share = f"{math.floor(1000 * self.picks.share_of_optimum) / 10:g} % of the optimum"
        if self.objective.greedy_is_optimal:
            return "optimal: for these terms the greedy choice is the best there is"
        known = (
            f"at least {share}, as a bound computed afterwards shows; the {self.picks.algorithm} choice has at least "
        )
        if self.picks.algorithm == "lazy greedy":
            return known + "63.2 % (1 - 1/e), as each term is monotone and submodular"
        return (
            known
            + f"{100 * (1 - 1 / math.e - EPSILON):.1f} % (1 - 1/e - {EPSILON:g}) in expectation, as it looks at a "
            "random sample of the candidates in each step, and each term is monotone and submodular"
        )


def choose(
    paths: Sequence[Path],
    budget: int,
    by: str,
    options: Options | None = None,
    *,
    report: Report = lambda done, total, note: None,
) -> Choice:
    """Choose `budget` samples of the tables.

    Raises:
        SpecError: if `by` or an option says something impossible.
        DataError: if the tables can't be read, lack what `by` needs, or hold too few samples.
    """
    options, rule = options or Options(), read_rule(by)
    if budget <= 0:
        raise SpecError(f"--budget {budget}: give 1 or more")
    pool = open_pool(paths, splits=options.splits, seed=options.seed)
    _check_budget(pool, budget)
    if rule.method == "random":
        return Choice(pool, rule, by, options, np.arange(budget))
    if rule.method == "one-region":
        return _of_one_region(pool, rule, by, options, budget)
    if rule.method == "balanced":
        return _balanced(pool, rule, by, options, budget)
    return _of_a_mix(pool, rule, by, options, budget, report)


def check_out(pools: Sequence[Path], out: Path) -> None:
    """Refuse to write a subset over its pool, or where its page or numbers go.

    Raises:
        SpecError: naming the file and the remedy.
    """
    if out.suffix != ".parquet":
        raise SpecError(f"--out {out}: give a name that ends in .parquet; a page and its numbers are put beside it")
    if out.resolve() in {path.resolve() for path in pools}:
        raise SpecError(f"--out {out}: is the pool itself; name another file")


def save(choice: Choice, out: Path) -> pa.Table:
    """Write the chosen rows with `rank` (from 1) and `gain` (null where nothing was maximised); give them too.

    Raises:
        SpecError: if `out` is the pool, or no name of a Parquet file.
        RunError: if it can't be written.
    """
    check_out(choice.pool.paths, out)
    count = len(choice.chosen)
    table = full_rows(choice.pool.paths, choice.pool.rows[choice.chosen])
    table = table.drop_columns([name for name in ("rank", "gain") if name in table.column_names])
    gains = pa.nulls(count, pa.float64()) if choice.picks is None else pa.array(choice.picks.gains)
    table = table.append_column("rank", pa.array(np.arange(1, count + 1), pa.int32())).append_column("gain", gains)
    write_table(out, table, {"choose": about(choice)})
    return table


def about(choice: Choice) -> dict[str, Any]:
    """What a subset remembers of how it was chosen."""
    options = choice.options
    found: dict[str, Any] = {
        "by": choice.by,
        "method": choice.rule.method,
        "budget": len(choice.chosen),
        "seed": options.seed,
        "splits": options.splits,
        "pool": describe_of(choice.pool),
        "notes": list(choice.notes),
        "guarantee": choice.guarantee,
    }
    if choice.objective is not None and choice.picks is not None:
        picks = choice.picks
        found |= {"weights": dict(choice.rule.weights), "algorithm": picks.algorithm, "worth": picks.worth,
                  "upper_bound": picks.bound, "apart_km": options.apart_km}  # fmt: skip
        found["clients"] = [len(term.clients) for term in choice.objective.spread]
    return found


def _of_one_region(pool: Pool, rule: Rule, by: str, options: Options, budget: int) -> Choice:
    column, strata = _region(pool, rule, by)
    inside = np.flatnonzero(strata.codes == strata.names.index(str(rule.value)))
    if len(inside) < budget:
        raise DataError(
            f"--by {by}: only {len(inside)} samples have {column} {rule.value!r}, fewer than --budget {budget}"
        )
    return Choice(pool, rule, by, options, inside[:budget])


def _region(pool: Pool, rule: Rule, by: str) -> tuple[str, Strata]:
    """The column that has the value, `rule.column` or the first of the usual ones."""
    usual = [name for name in CATEGORIES if name in pool.types]
    if rule.column is not None:
        _check_columns(pool, rule.column, (rule.column,), by)
    elif not usual:
        raise DataError(
            f"{where_found(pool)}: has none of {', '.join(CATEGORIES)}; `geomaestro diversity` measures them"
        )
    found = {name: pool.strata(name) for name in ([rule.column] if rule.column else usual)}
    for name, strata in found.items():
        if rule.value in strata.names:
            return name, strata
    names = [each for strata in found.values() for each in strata.names]
    raise DataError(f"--by {by}: no sample has {' or '.join(found)} {rule.value!r}{nearest(str(rule.value), names)}")


def _balanced(pool: Pool, rule: Rule, by: str, options: Options, budget: int) -> Choice:
    column = str(rule.column)
    _check_columns(pool, column, (column,), by)
    strata = pool.strata(column)
    pool = _known(pool, strata.codes >= 0, f"`{column}`", by, budget)
    strata = pool.strata(column)
    counts = strata.counts()
    taken = shares(counts, budget)
    order = np.argsort(strata.codes, kind="stable")
    starts = np.cumsum(counts) - counts
    rounds = np.empty(len(order), np.int64)
    rounds[order] = np.arange(len(order)) - np.repeat(starts, counts)  # 0 for the first of each stratum
    chosen = np.lexsort((strata.codes, rounds))[:budget]
    short = [f"{strata.names[i]} ({counts[i]})" for i in np.flatnonzero((taken == counts) & (taken < taken.max()))]
    notes = [
        f"an equal share of {column} is {budget / len(taken):.6g} samples; counts lie between {taken.min()} and "
        f"{taken.max()}"
    ]
    if short:
        notes.append(f"all that there is was taken of {', '.join(short)}, and what they lack of the others")
    return Choice(pool, rule, by, options, chosen, notes=tuple(notes))


def _of_a_mix(pool: Pool, rule: Rule, by: str, options: Options, budget: int, report: Report) -> Choice:
    for name, _ in rule.weights:
        _check_columns(pool, name, NEEDS.get(name, (name,)), by)
    for name, _ in rule.weights:
        pool = _known(pool, _is_known(pool, name), _lack(name), by, budget)
    objective = Objective([_term(pool, name, weight, options, budget) for name, weight in rule.weights], budget)
    if is_too_large(objective):
        picks = choose_among_some(objective, seed=options.seed, report=report)
    else:
        picks = choose_greedily(objective, report)
    return Choice(pool, rule, by, options, picks.candidates, objective, picks, _notes(pool, objective))


def _notes(pool: Pool, objective: Objective) -> tuple[str, ...]:
    said = [f"{term.name} is the same for all samples and decides nothing" for term in objective.terms
            if isinstance(term, Amount) and not objective.amounts[term.name].any()]  # fmt: skip
    said += [f"{term.name} is {term.strata.names[int(term.strata.codes[0])]!r} for all samples and decides nothing"
             for term in objective.coverage if np.count_nonzero(term.strata.counts()) == 1]  # fmt: skip
    said += [f"no two samples share a group of {term.name}, so it decides nothing" for term in objective.firsts
             if len(np.unique(term.groups)) == objective.size]  # fmt: skip
    said += [f"{term.name} looks at {len(term.clients)} of {objective.size} samples, no more than are chosen; give "
             "--clients well above the budget" for term in objective.spread
             if len(term.clients) <= min(objective.budget, objective.size - 1)]  # fmt: skip
    if any(term.name == "redundancy" for term in objective.firsts) and (none := int((pool.hashes() == 0).sum())):
        said.append(f"{none} samples have no picture hash and count as like no other")
    return tuple(said)


def _check_budget(pool: Pool, budget: int) -> None:
    if budget > len(pool):
        left_out = f" ({'; '.join(pool.notes)})" if pool.notes else ""
        raise DataError(
            f"{where_found(pool)}: holds {len(pool)} samples to choose from{left_out}, fewer than --budget {budget}"
        )


def _check_columns(pool: Pool, name: str, columns: Sequence[str], by: str) -> None:
    """Raise if a column is not there, or is nothing to choose by."""
    if name in NO_TERM:
        raise SpecError(f"--by {by}: {name!r} {NO_TERM[name]}")
    for column in columns:
        if column in pool.types or (column == "year" and "date" in pool.types):
            continue
        if column in SCHEMA or column == "year":
            raise DataError(f"{where_found(pool)}: has no column {column!r}; `geomaestro diversity` measures it")
        known = sorted({*pool.types, *SCHEMA, *SPECIAL} - set(NO_TERM))
        raise SpecError(f"--by {by}: there is no term or column {column!r}{nearest(column, known)}")


def _known(pool: Pool, known: np.ndarray, lack: str, by: str, budget: int) -> Pool:
    if not known.any():
        raise DataError(
            f"{where_found(pool)}: no sample has {lack}, which --by {by} needs; `geomaestro diversity` measures it"
        )
    kept = pool.keep(known, lack)
    _check_budget(kept, budget)
    return kept


def _lack(name: str) -> str:
    return {"redundancy": "a picture hash", "places": "a place"}.get(name, f"`{name}`")


def _is_known(pool: Pool, name: str) -> np.ndarray:
    if name == "embedding":
        return np.asarray(np.isfinite(pool.vectors()[:, 0]))
    if name == "redundancy":  # an even picture has none, and is no reason to leave a sample out
        return np.full(len(pool), bool(pool.hashes().any()))
    if name == "places":
        return np.asarray(np.isfinite(pool.numbers("lon") + pool.numbers("lat")))
    if _is_amount(pool, name):
        return np.asarray(np.isfinite(pool.numbers(name)))
    return pool.strata(name).codes >= 0


def _is_amount(pool: Pool, name: str) -> bool:
    """Whether a column is an amount of which much is wanted, rather than strata."""
    return name == "dates" or (name in pool.types and pa.types.is_floating(pool.types[name]))


def _term(pool: Pool, name: str, weight: float, options: Options, budget: int) -> Term:
    if name == "embedding":
        vectors = pool.vectors()
        least, most = CLIENTS
        count = min(options.clients or int(np.clip(PER_PICK * budget, least, most)), len(vectors))
        drawn = np.random.default_rng((options.seed, 1)).choice(len(vectors), count, replace=False)
        return Spread(name, weight, vectors, vectors[np.sort(drawn)])
    if name == "redundancy":
        return Firsts(name, weight, alike(pool.hashes()))
    if name == "places":
        return Firsts(name, weight, cells(pool.numbers("lon"), pool.numbers("lat"), options.apart_km))
    if _is_amount(pool, name):
        return Amount(name, weight, pool.numbers(name))
    return Coverage(name, weight, pool.strata(name))
