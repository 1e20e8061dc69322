"""The random forest that every score is measured against.

It sees what the model sees before any learning: pixel series as they are; larger images by mean, spread and roughness
of each band at each date. What is absent or invalid is missing to it too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from geomaestro.data.reading import Dataset
from geomaestro.learn import metrics
from geomaestro.models.task import Task

TREES = 500
PIXEL_TREES = 100  # assumed; a map has a hundred thousand pixels to tell
PIXELS = 20_000  # assumed; more pixels of the same tiles add little
CHOICES: tuple[dict[str, Any], ...] = (
    {"max_features": "sqrt"},
    {"max_features": 0.2},
    {"max_features": "sqrt", "class_weight": "balanced_subsample"},
)


@dataclass(frozen=True, slots=True)
class Forest:
    """A fitted forest and the setting that was best on validation."""

    model: Any
    task: Task
    chosen: str

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Logits (n k), or (n k h w): log-probabilities of classes, log-odds of labels, or numbers."""
        if self.task.kind == "pixels":
            share = _shares(self.model, features.reshape(-1, features.shape[-1]), self.task)
            return np.log(share.clip(1e-6)).reshape(*features.shape[:-1], -1).transpose(0, 3, 1, 2)
        if self.task.kind == "regression":
            return np.asarray(self.model.predict(features)).reshape(len(features), -1)
        share = np.clip(_shares(self.model, features, self.task), 1e-6, 1 - 1e-6)
        return np.log(share) if self.task.kind == "classes" else np.log(share / (1 - share))


def raw_pixels(dataset: Dataset, height: int, width: int) -> np.ndarray:
    """Features (n h w f) of every label pixel: each sensor's dates and bands at the pixel that covers it."""
    return np.stack([_pixels(dataset, index, height, width) for index in range(len(dataset))])


def _pixels(dataset: Dataset, index: int, height: int, width: int) -> np.ndarray:
    sample = dataset.read(index)
    parts = []
    for name, images in sample.images.items():
        x = np.where(sample.valid[name][:, None], images.astype(np.float32), np.nan)
        rows = np.arange(height) * x.shape[-2] // height
        cols = np.arange(width) * x.shape[-1] // width
        parts.append(x[..., rows[:, None], cols].reshape(-1, height, width))
    return np.concatenate(parts).transpose(1, 2, 0)


def raw_features(dataset: Dataset) -> np.ndarray:
    """Features (n f) of every sample, in order."""
    return np.stack([np.concatenate(list(_features(dataset, i))) for i in range(len(dataset))])


def _features(dataset: Dataset, index: int) -> Iterator[np.ndarray]:
    sample = dataset.read(index)
    for name, images in sample.images.items():
        x = np.where(sample.valid[name][:, None], images.astype(np.float32), np.nan)
        if x.shape[-1] == x.shape[-2] == 1:
            yield x.ravel()
            continue
        yield from _statistics(x)


def _statistics(x: np.ndarray) -> Iterator[np.ndarray]:
    """Mean, spread and roughness over the pixels of each date and band of (t c h w), NaN where not measured.

    Roughness is the mean step between neighbours in a row, and in a column, where both were measured.
    """
    mean = _mean_known(x)
    yield mean.ravel()
    yield np.sqrt(_mean_known((x - mean[..., None, None]) ** 2)).ravel()
    yield _mean_known(np.abs(np.diff(x, axis=-1))).ravel()
    yield _mean_known(np.abs(np.diff(x, axis=-2))).ravel()


def _mean_known(x: np.ndarray) -> np.ndarray:
    """Mean (t c) over the pixels of (t c h w) that are not NaN; NaN where there is none."""
    known = ~np.isnan(x)
    count = known.sum(axis=(-2, -1))
    total = np.where(known, x, 0).sum(axis=(-2, -1))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def fit_forest(
    train: np.ndarray,
    labels: np.ndarray,
    val: np.ndarray,
    val_labels: np.ndarray,
    task: Task,
    *,
    metric: str,
    seed: int,
) -> Forest:
    """Fit each setting and keep the best on validation; of pixels, at most PIXELS drawn ones are used of each split."""
    if task.kind == "pixels":
        train, labels = _some_pixels(train, labels, task, seed)
        val, val_labels = _some_pixels(val, val_labels, task, seed)
        val, val_labels = val[:, None, None], val_labels[:, None, None]
    fitted = [_fit(train, labels, task, choice, seed) for choice in _choices(task)]
    scores = [metrics.headline(task, val_labels, forest.predict(val), metric) for forest in fitted]
    return fitted[int(np.argmax(scores))]


def _some_pixels(features: np.ndarray, labels: np.ndarray, task: Task, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (m f) and labels (m) of drawn pixels that have a label."""
    known = np.flatnonzero(labels.ravel() != task.ignore)
    rows = np.random.default_rng(seed).permutation(known)[:PIXELS]
    return features.reshape(-1, features.shape[-1])[rows], labels.ravel()[rows]


def _choices(task: Task) -> list[dict[str, Any]]:
    """The settings that differ for a task: numbers have no class to weight."""
    return [choice for choice in CHOICES if task.kind != "regression" or "class_weight" not in choice]


def _fit(train: np.ndarray, labels: np.ndarray, task: Task, choice: dict[str, Any], seed: int) -> Forest:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    text = ", ".join(f"{k} {v}" for k, v in choice.items())
    kind = RandomForestRegressor if task.kind == "regression" else RandomForestClassifier
    model = kind(PIXEL_TREES if task.kind == "pixels" else TREES, n_jobs=-1, random_state=seed, **choice)
    flat = labels.ravel() if labels.ndim == 2 and labels.shape[1] == 1 else labels
    return Forest(model.fit(train, flat), task, text)


def _shares(model: Any, features: np.ndarray, task: Task) -> np.ndarray:
    """Probabilities (n k) of classes or labels; zero for those that no training sample has."""
    given = model.predict_proba(features)
    out = np.zeros((len(features), len(task.classes)))
    if task.kind != "multilabel":
        out[:, model.classes_.astype(int)] = given
        return out
    per_label = given if isinstance(given, list) else [given]
    known = model.classes_ if isinstance(model.classes_, list) else [model.classes_]
    for k, (share, values) in enumerate(zip(per_label, known, strict=True)):
        if 1 in values:
            out[:, k] = share[:, list(values).index(1)]
    return out
