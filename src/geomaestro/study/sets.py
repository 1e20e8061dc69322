"""How diverse the pretraining sets of a study are: the measures of `geomaestro diversity`, per arm and model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geomaestro.select.diversity import summarise
from geomaestro.select.table import numbers, read_table
from geomaestro.study.grid import Arm, Unit, arms_by_set
from geomaestro.study.pools import pool_of, set_of
from geomaestro.study.spec import Published, Study
from geomaestro.study.table import read_columns

Sets = dict[str, dict[str, dict[str, float]]]  # model: set: measure: value
SIZE = "samples"
NAMES: Mapping[str, str] = {  # key of a summary: name of the measure
    "continent": "continent entropy", "biome": "biome entropy", "land_cover": "land-cover entropy",
    "season": "season entropy",
}  # fmt: skip


def measure_sets(study: Study, folder: Path) -> Sets:
    """Measures of the sets that were chosen to be pretrained on, mean over the seeds."""
    out: Sets = {}
    for model in study.models:
        for name, arms in arms_by_set(study).items():
            paths = [path for seed in range(study.seeds) if (path := _first(study, arms, model, seed, folder))]
            if paths:
                out.setdefault(model, {})[name] = _mean([measures_of(summarise(path)) for path in paths])
    return out


def _first(study: Study, arms: Sequence[Arm], model: str, seed: int, folder: Path) -> Path | None:
    """The table of a seed's set; each of the arms that share the set has the same."""
    paths = [set_of(study, Unit(arm, model, seed), folder) for arm in arms]
    return next((path for path in paths if path is not None and path.is_file()), None)


def measures_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a summary that correlations look at; what was not measured is not there."""
    out = {name: summary[key]["entropy"] for key, name in NAMES.items() if summary[key] is not None}
    if summary["spectral_entropy"] is not None:
        out["spectral entropy"] = summary["spectral_entropy"]["mean"]
    return out | {SIZE: float(summary["samples"])}


def _mean(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([each[name] for each in found if name in each])) for name in found[0]}


def places_of_sets(study: Study, folder: Path) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Longitudes and latitudes of each model's pool (under "") and of the first seed's sets, for maps."""
    out: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for model in study.models:
        sets = {name: _first(study, arms, model, 0, folder) for name, arms in arms_by_set(study).items()}
        there = {"": pool_of(study, model, folder), **sets}
        found = {name: _places(path) for name, path in there.items() if path is not None and path.is_file()}
        if any(np.isfinite(lon).any() for lon, _ in found.values()):
            out[model] = found
    return out


def _places(path: Path) -> tuple[np.ndarray, np.ndarray]:
    table = read_table(path)
    if not {"lon", "lat"} <= set(table.column_names):
        return np.zeros(0), np.zeros(0)
    return numbers(table, "lon"), numbers(table, "lat")


def published_measures(source: Published) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Measures by arm, and performance of arms whose single scores are not known."""
    if source.diversity is None:
        return {}, {}
    arms, columns = read_columns(source.diversity)
    performance = columns.pop("performance", np.full(len(arms), np.nan))
    measures = {
        arm: {name: float(values[i]) for name, values in columns.items() if np.isfinite(values[i])}
        for i, arm in enumerate(arms)
    }
    return measures, {arm: float(p) for arm, p in zip(arms, performance, strict=True) if np.isfinite(p)}
