"""All findings of a study as one JSON value: what the report shows, and what `result.json` keeps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geomaestro.errors import DataError
from geomaestro.study.analysis import as_json, correlations, describe, effects, plain, ranking_sentences, sentence_of
from geomaestro.study.grid import BASELINE, arms_by_set, arms_of, headline_of
from geomaestro.study.sets import SIZE, measure_sets, published_measures
from geomaestro.study.spec import MEAN, Study
from geomaestro.study.table import Headline, Row, collect, headline, published_headline

MOST_PAIRS = 6  # assumed; more sentences than those of four values are not read


def find(study: Study, folder: Path) -> tuple[dict[str, Any], list[Row]]:
    """The findings of a study that was run, as far as it is finished, and all its scores."""
    rows = collect(study, folder)
    found = headline(study, rows)
    arms = arms_of(study)
    told = effects(found, arms)
    sets = measure_sets(study, folder)
    return {
        "name": study.name,
        "about": study.about,
        "axes": {axis: list(values) for axis, values in study.axes.items()},
        "seeds": study.seeds,
        "headline": {task: list(headline_of(study, task)) for task in study.tasks},
        "metrics": {task: next((row["metric"] for row in rows if row["task"] == task), None) for task in study.tasks},
        **describe(found, decimals=study.decimals),
        "sentences": ranking_sentences(found) if len(arms) > 1 else [],
        "effects": [each | {"sentence": sentence_of(each)} for each in told],
        "baselines": _baselines(rows),
        "protocols": _by_protocol(rows, found.arms),
        "regions": _by_region(study, rows, found),
        "sets": sets,
        "correlations": _correlations(study, found, sets),
    }, rows


def find_published(study: Study) -> dict[str, Any]:
    """The findings of published scores."""
    assert study.published is not None, "checked by the caller"
    found = published_headline(study.published)
    measures, more = published_measures(study.published)
    unknown = [arm for arm in measures if arm not in {*found.arms, *more}]
    if unknown:
        raise DataError(
            f"{study.published.diversity}: arm {unknown[0]!r} has no scores in {study.published.scores}, and no "
            "`performance` here"
        )
    means = dict(zip(found.arms, found.scores.mean(axis=(1, 2)).tolist(), strict=True))
    performance = {arm: value for arm, value in {**means, **more}.items() if arm in measures and np.isfinite(value)}
    return {
        "name": study.name,
        "about": study.about,
        "axes": {"arm": list(found.arms)},
        "seeds": 1,
        "headline": {},
        "metrics": {},
        **describe(found, decimals=study.decimals),
        "sentences": ranking_sentences(found),
        "effects": [],
        "baselines": {},
        "protocols": {},
        "regions": {},
        "sets": {"": measures},
        "correlations": {"": _with_points(measures, performance, study.seed)},
    }


def _correlations(study: Study, found: Headline, sets: Mapping[str, Any]) -> dict[str, Any]:
    """For each model, of its sets' measures with the mean over its tasks, and over the arms that share a set: these are
    no further sets.
    """
    out = {}
    for model, measures in sets.items():
        tasks = [k for k, task in enumerate(found.tasks) if study.model_of(task) == model]
        means = dict(zip(found.arms, found.means[:, tasks].mean(axis=1).tolist(), strict=True))
        by_set = {name: float(np.mean([means[arm.name] for arm in arms])) for name, arms in arms_by_set(study).items()}
        performance = {name: mean for name, mean in by_set.items() if np.isfinite(mean)}
        out[model] = _with_points(measures, performance, study.seed)
    return out


def _with_points(measures: Mapping[str, Mapping[str, float]], performance: Mapping[str, float], seed: int) -> Any:
    sizes = {arm: each[SIZE] for arm, each in measures.items() if SIZE in each}
    tried = {arm: {name: v for name, v in each.items() if name != SIZE} for arm, each in measures.items()}
    told = correlations(tried, performance, sizes=sizes, seed=seed)
    return {"performance": dict(performance), "measures": [as_json(each) for each in told]}


def _baselines(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Task: protocol and labels: mean score of the baselines over seeds and draws."""
    out: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["arm"] == BASELINE and row["region"] == "":
            out.setdefault(row["task"], {}).setdefault(f"{row['protocol']}, {row['labels']}", []).append(row["score"])
    return {task: {name: plain(np.mean(v)) for name, v in each.items()} for task, each in out.items()}


def _by_protocol(rows: Sequence[Row], arms: Sequence[str]) -> dict[str, Any]:
    """Task: protocol and labels: mean score of each arm over seeds and draws; null where there is none."""
    out: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        if row["arm"] in arms and row["region"] == "":
            key = f"{row['protocol']}, {row['labels']}"
            out.setdefault(row["task"], {}).setdefault(key, {}).setdefault(row["arm"], []).append(row["score"])
    return {
        task: {
            key: [plain(np.mean(scores[arm])) if arm in scores else None for arm in arms]
            for key, scores in each.items()
        }
        for task, each in out.items()
    }


def _by_region(study: Study, rows: Sequence[Row], found: Headline) -> dict[str, Any]:
    """Task: regions, and the matrix (arms x regions) of mean scores with the number of test samples of each region."""
    out = {}
    for number, task in enumerate(study.tasks):
        regions = sorted({row["region"] for row in rows if row["task"] == task and row["region"]})
        if regions:
            parts = [headline(study, rows, region=region).means[:, number] for region in regions]
            counts = [next(r["n_test"] for r in rows if r["task"] == task and r["region"] == each) for each in regions]
            matrix = [[plain(v) for v in row] for row in np.stack(parts, axis=1)]
            out[task] = {"regions": regions, "n_test": counts, "matrix": matrix}
    return out


def overall(findings: Mapping[str, Any]) -> list[str]:
    """The sentences that a reader should leave with: the ranking, the axes over all tasks, the correlations."""
    task = MEAN if len(findings["tasks"]) > 2 else findings["tasks"][0]
    several = len(findings["axes"]) > 1 or not any(findings["correlations"].values())
    axes = [text for axis in findings["axes"] for text in _of_axis(findings, axis, task)] if several else []
    told = [
        f"{model}: {each['sentence']}" if model else each["sentence"]
        for model, found in findings["correlations"].items()
        for each in found["measures"]
    ]
    return [*findings["sentences"], *axes, *told]


def _of_axis(findings: Mapping[str, Any], axis: str, task: str) -> list[str]:
    """The differences of an axis; where they are many the separable ones, and how many are not."""
    told = [each for each in findings["effects"] if (each["axis"], each["task"]) == (axis, task)]
    if len(told) <= MOST_PAIRS:
        return [each["sentence"] for each in told]
    sure = [each["sentence"] for each in told if each["separable"]]
    return [*sure, f"{task}: of {len(told)} pairs of values of {axis}, {len(told) - len(sure)} are not separable."]
