"""What a study found: means with intervals, ranks, what each axis changes, and whether diversity goes with performance.

Everything is told as plain values, as result.json holds them, and as sentences that say what can't be told apart.
Axes: a arm, k task, s seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from geomaestro.study.correlation import Correlation, correlate
from geomaestro.study.grid import Arm
from geomaestro.study.ranking import Difference, mean_ranks, paired_difference
from geomaestro.study.spec import MEAN
from geomaestro.study.table import Headline


def describe(found: Headline, *, decimals: int | None = None) -> dict[str, Any]:
    """Means over seeds with 95 % intervals (Student's t), mean over tasks, and ranks, as of the published table."""
    over_tasks = found.scores.mean(axis=1, keepdims=True)  # (a 1 s); NaN where a task is missing
    scores = np.concatenate([found.scores, over_tasks], axis=1)
    cells = [[_cell(values) for values in row] for row in scores]
    ranks = mean_ranks(found.means, decimals)
    return {
        "arms": list(found.arms),
        "tasks": [*found.tasks, MEAN],
        "cells": cells,
        "ranks": [plain(rank) for rank in ranks],
    }


def _cell(values: np.ndarray) -> dict[str, Any]:
    """Mean, interval and number of seeds."""
    from scipy.stats import t

    known = values[np.isfinite(values)]
    n = len(known)
    if n == 0:
        return {"mean": None, "low": None, "high": None, "seeds": 0}
    mean = float(known.mean())
    if n == 1:
        return {"mean": mean, "low": None, "high": None, "seeds": 1}
    half = float(t.ppf(0.975, n - 1)) * float(known.std(ddof=1)) / n**0.5
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": n}


def plain(value: float | np.floating[Any]) -> float | None:
    """A number for JSON; None for NaN."""
    return float(value) if np.isfinite(value) else None


def effects(found: Headline, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """For each axis and pair of its values, and each task and their mean: differences paired by seed and by the values
    of the other axes.
    """
    scores = dict(zip(found.arms, found.scores, strict=True))
    tasks = [*found.tasks, MEAN] if len(found.tasks) > 1 else list(found.tasks)
    out = []
    for axis in arms[0].names:
        for one, other in combinations(dict.fromkeys(arm.names[axis] for arm in arms), 2):
            pairs = [(a, b) for a in arms for b in arms if _differ_only(a, b, axis, one, other)]
            for number, task in enumerate(tasks):
                left, right = (_of_task([scores[p[side].name] for p in pairs], number, task) for side in (0, 1))
                known = np.isfinite(left) & np.isfinite(right)
                if known.any():
                    difference = paired_difference(left[known].tolist(), right[known].tolist())
                    out.append({"axis": axis, "one": one, "other": other, "task": task, **_told(difference)})
    return out


def _differ_only(a: Arm, b: Arm, axis: str, one: str, other: str) -> bool:
    rest = lambda arm: {name: value for name, value in arm.names.items() if name != axis}  # noqa: E731
    return a.names[axis] == one and b.names[axis] == other and rest(a) == rest(b)


def _of_task(scores: Sequence[np.ndarray], number: int, task: str) -> np.ndarray:
    """Scores (pairs x seeds) of a task, or their mean over tasks."""
    taken = [part.mean(axis=0) if task == MEAN else part[number] for part in scores]
    return np.concatenate(taken) if taken else np.zeros(0)


def _told(found: Difference) -> dict[str, Any]:
    values = {"mean": found.mean, "low": plain(found.low), "high": plain(found.high)}
    return values | {"pairs": found.pairs, "separable": found.separable}


def sentence_of(effect: Mapping[str, Any]) -> str:
    """What a paired difference says."""
    one, other, task = effect["one"], effect["other"], effect["task"]
    if effect["low"] is None:
        return f"{task}: {one} and {other} were compared once ({effect['mean']:+.3f}); nothing can be told apart."
    interval = f"{effect['mean']:+.3f} [{effect['low']:+.3f}, {effect['high']:+.3f}], {effect['pairs']} pairs"
    if not effect["separable"]:
        return f"{task}: {one} and {other} are not separable ({interval})."
    better, worse = (one, other) if effect["mean"] > 0 else (other, one)
    return f"{task}: {better} is better than {worse} ({interval})."


def ranking_sentences(found: Headline) -> list[str]:
    """Which arm is best on the mean of tasks, which ones can't be told apart from it, and which ones lack scores."""
    means = found.means.mean(axis=1)
    scored = np.flatnonzero(np.isfinite(means))
    if not len(scored):
        return ["No arm has been scored on all tasks yet."]
    best = int(np.nanargmax(means))
    over_tasks = found.scores.mean(axis=1)
    level: list[str] = []
    below: list[str] = []
    pairs = []
    for number in scored[scored != best]:
        known = np.isfinite(over_tasks[best]) & np.isfinite(over_tasks[number])
        pairs.append(int(known.sum()))
        one, other = (over_tasks[side][known].tolist() for side in (best, number))
        (below if one and paired_difference(one, other).separable else level).append(found.arms[number])
    top = f"{found.arms[best]} has the highest mean score ({means[best]:.3f})"
    lacking = [name for name, mean in zip(found.arms, means, strict=True) if not np.isfinite(mean)]
    return [_of_the_best(top, level, below, pairs), *_lacking(lacking)]


def _of_the_best(top: str, level: Sequence[str], below: Sequence[str], pairs: Sequence[int]) -> str:
    """The sentence on the arm with the highest mean; `pairs` are the seeds that it shares with each of the others."""
    if not pairs:
        return f"{top}; there is no other to compare with."
    if max(pairs) < 2:
        return f"{top}; with one seed nothing can be told apart."
    if not level:
        return f"{top}, separable from all others."
    over = f"{pairs[0]} seeds" if len(set(pairs)) == 1 else f"the seeds that they share ({min(pairs)} to {max(pairs)})"
    rest = f"; it is better than {_listed(below)}" if below else ""
    return f"{top}, but is not separable from {_listed(level)} over {over}{rest}."


def _lacking(names: Sequence[str]) -> list[str]:
    return [f"Not scored on all tasks: {_listed(names)}."] if names else []


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def correlations(
    measures: Mapping[str, Mapping[str, float]],
    performance: Mapping[str, float],
    *,
    sizes: Mapping[str, float],
    seed: int,
) -> list[Correlation]:
    """Of each measure with performance, over the arms that have both; where sets differ in size also with size held."""
    arms = [arm for arm in performance if arm in measures]
    names = list(dict.fromkeys(name for arm in arms for name in measures[arm]))
    columns = {name: [measures[arm].get(name, np.nan) for arm in arms] for name in names}
    told = all(arm in sizes for arm in arms)
    size = [sizes[arm] for arm in arms] if told and arms else None
    return correlate(columns, [performance[arm] for arm in arms], arms, sizes=size, seed=seed)


def as_json(found: Correlation) -> dict[str, Any]:
    """Plain values; NaN becomes null."""
    values = asdict(found) | {"separable": found.separable, "sentence": found.sentence}
    clean = {k: plain(v) if isinstance(v, float) else v for k, v in values.items()}
    return clean | {"without": {name: plain(v) for name, v in found.without.items()}}
