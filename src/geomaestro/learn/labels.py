"""Choose which training samples keep their labels.

Axes: n sample, k class.
"""

import numpy as np

from geomaestro.errors import DataError
from geomaestro.learn.recipe import LabelCount
from geomaestro.models.task import Task


def labelled(labels: np.ndarray, task: Task) -> np.ndarray:
    """Indices of samples that have a label at all."""
    if task.kind == "regression":
        return np.flatnonzero(np.isfinite(labels).all(axis=1))
    flat = labels.reshape(len(labels), -1)
    known = (flat != task.ignore).any(axis=1) if task.kind == "pixels" else (flat != task.ignore).all(axis=1)
    return np.flatnonzero(known)


def draw_labels(labels: np.ndarray, task: Task, count: LabelCount, *, seed: int, draw: int) -> np.ndarray:
    """Sorted indices of the samples whose labels are used, a pure function of (seed, draw).

    Per class: so many of each class (all, if it has fewer), or of each label's positives; for regression and pixels, so
    many samples. A larger number of the same draw contains the smaller ones.
    """
    usable = labelled(labels, task)
    if len(usable) == 0:
        raise DataError(f"task {task.name!r}: no sample of the training split has a label")
    order = np.random.default_rng((seed, draw)).permutation(usable)
    if count.share is not None:
        return np.sort(order[: max(1, round(count.share * len(order)))])
    if count.per_class is None:
        return usable
    if task.kind in ("regression", "pixels"):
        return np.sort(order[: count.per_class])
    belongs = (lambda k: labels[order] == k) if task.kind == "classes" else (lambda k: labels[order, k] == 1)
    chosen = [order[belongs(k)][: count.per_class] for k in range(len(task.classes))]
    return np.unique(np.concatenate(chosen))
