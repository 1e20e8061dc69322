"""Scores by region of the test samples: where is a model good?

Axes: n test sample.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from geomaestro.data.quarantine import CROP
from geomaestro.data.reading import Dataset
from geomaestro.errors import DataError
from geomaestro.learn import metrics
from geomaestro.models.task import Task
from geomaestro.select.places import continents
from geomaestro.select.table import read_table, words


class Scoreable(Protocol):
    """What scores of regions need to know of an evaluation."""

    task: Task
    metric: str

    @property
    def regions(self) -> np.ndarray:
        """(n) the region of each test sample."""
        ...

    def labels(self, split: str) -> np.ndarray:
        """Labels of a split."""
        ...


def regions_of(dataset: Dataset, table: Path | None, column: str) -> np.ndarray:
    """(n) the region of each sample: the continent of its place, or a column of a table of samples; "" if unknown.

    Raises:
        DataError: if the table lacks the column, or knows none of the samples.
    """
    if table is None:
        places = np.asarray([place or (np.nan, np.nan) for place in dataset.places()], float).reshape(-1, 2)
        return continents(places[:, 0], places[:, 1])
    known = read_table(table, ["id", column])
    of = dict(zip(known["id"].to_pylist(), words(known, column).tolist(), strict=True))
    found = np.asarray([of.get(name, of.get(CROP.sub("", name), "")) for name in dataset.ids()])
    if not (found != "").any():
        raise DataError(f"{table}: column {column!r} knows none of the {len(found)} test samples (evaluate.regions)")
    return found


def by_region(bench: Scoreable, logits: np.ndarray) -> Mapping[str, Any]:
    """Score, interval and number of samples of each region; of a single one none, as it is the score of the whole."""
    regions = bench.regions
    names = sorted(set(regions.tolist()) - {""})
    if len(names) < 2 and (regions != "").all():
        return {}
    labels, out = bench.labels("test"), {}
    for name in names:
        here = regions == name
        scored = metrics.score(bench.task, labels[here], logits[here], bench.metric)
        value = scored.scores[bench.metric]
        out[name] = {"score": value, "low": scored.low, "high": scored.high, "n_test": scored.count}
    return out
