"""Scores of predictions, and bootstrap intervals of them.

Axes: n sample, k class. Labels equal to the task's `ignore` never count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geomaestro.models.task import Task, TaskKind

HEADLINE: Mapping[TaskKind, str] = {
    "classes": "balanced_accuracy",
    "multilabel": "weighted_f1",
    "regression": "r2",
    "pixels": "average_iou",
}
RESAMPLES = 1000
BETTER_IF_LESS = ("rmse", "mae")
Scores = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of one model on one test set, the headline's 95 % interval over test samples, and the confusion."""

    scores: Scores
    low: float
    high: float
    confusion: np.ndarray | None
    per_class: dict[str, float] | None
    count: int


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int, ignore: int) -> np.ndarray:
    """Counts (k k): row true class, column predicted class."""
    known = labels != ignore
    joint = labels[known].astype(np.int64) * classes + predicted[known].astype(np.int64)
    return np.bincount(joint, minlength=classes**2).reshape(classes, classes)


def class_scores(confusion: np.ndarray) -> Scores:
    """Scores from counts (... k k). Means over classes are over those with at least one true sample (official code)."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    true, said = confusion.sum(-1), confusion.sum(-2)
    there = true > 0
    classes = np.maximum(there.sum(-1), 1)
    f1 = _ratio(2 * hit, true + said)
    total = np.maximum(true.sum(-1), 1)

    def mean(x: np.ndarray) -> np.ndarray:
        return np.where(there, x, 0.0).sum(-1) / classes

    return {
        "overall_accuracy": hit.sum(-1) / total,
        "balanced_accuracy": mean(_ratio(hit, true)),
        "average_f1": mean(f1),
        "weighted_f1": (f1 * true).sum(-1) / total,
        "average_iou": mean(_ratio(hit, true + said - hit)),
    }


def label_counts(labels: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """True positives, false positives, false negatives (3 n k) of labels (n k)."""
    labels = labels.astype(bool)
    return np.stack([labels & positive, ~labels & positive, labels & ~positive]).astype(np.float64)


def label_scores(counts: np.ndarray) -> Scores:
    """F1 from summed counts (3 ... k). A label never true nor predicted is left out (official code)."""
    hit, false, missed = counts
    known = 2 * hit + false + missed > 0
    f1 = _ratio(2 * hit, 2 * hit + false + missed)
    support = hit + missed
    return {
        "average_f1": (f1 * known).sum(-1) / np.maximum(known.sum(-1), 1),
        "weighted_f1": (f1 * support).sum(-1) / np.maximum(support.sum(-1), 1e-12),
    }


def average_precision(labels: np.ndarray, logits: np.ndarray) -> Scores:
    """Mean and support-weighted mean of average precision; a label without a true sample has 0 (official code).

    Only the order of the samples counts. Logits keep it where shares of 0 and 1 would tie.
    """
    from sklearn.metrics import average_precision_score

    support = labels.sum(axis=0)
    there = np.flatnonzero(support)
    values = np.asarray([average_precision_score(labels[:, k], logits[:, k]) for k in there])
    if not len(there):
        return {"average_ap": float("nan"), "weighted_ap": float("nan")}
    return {
        "average_ap": values.sum() / labels.shape[1],
        "weighted_ap": (values * support[there]).sum() / support[there].sum(),
    }


def regression_scores(labels: np.ndarray, predicted: np.ndarray) -> Scores:
    """R2 (mean over quantities), root mean square error, mean absolute error."""
    error = labels - predicted
    spread = ((labels - labels.mean(axis=0)) ** 2).sum(axis=0)
    r2 = 1 - (error**2).sum(axis=0) / np.maximum(spread, 1e-12)
    return {
        "r2": r2[spread > 0].mean() if (spread > 0).any() else 0.0,
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
    }


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.zeros(np.broadcast(over, under).shape), where=under > 0)


def score(task: Task, labels: np.ndarray, logits: np.ndarray, metric: str, seed: int = 0) -> Scored:
    """Score logits (n k), or (n k h w) for pixels, against labels; `metric` is the one that gets an interval."""
    draws = _resamples(len(labels), seed)
    scored = {
        "classes": _score_classes,
        "pixels": _score_classes,
        "multilabel": _score_labels,
        "regression": _score_numbers,
    }
    return scored[task.kind](task, labels, logits, metric, draws)


def headline(task: Task, labels: np.ndarray, logits: np.ndarray, metric: str) -> float:
    """One score without an interval, larger if better; for choosing on a validation split."""
    if task.kind in ("classes", "pixels"):
        counts = confusion_matrix(labels, logits.argmax(axis=1), len(task.classes), task.ignore)
        return float(class_scores(counts)[metric])
    if task.kind == "multilabel":
        known = (labels != task.ignore).all(axis=1)
        positive = logits[known] > 0
        if metric.endswith("_ap"):
            return float(average_precision(labels[known], logits[known])[metric])
        return float(label_scores(label_counts(labels[known], positive).sum(axis=1))[metric])
    known = np.isfinite(labels).all(axis=1)
    value = float(regression_scores(labels[known], logits[known])[metric])
    return -value if metric in BETTER_IF_LESS else value


def _resamples(count: int, seed: int) -> np.ndarray:
    """How often each of `count` samples is drawn in each resample (r n)."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)


def _score_classes(task: Task, labels: np.ndarray, logits: np.ndarray, metric: str, draws: np.ndarray) -> Scored:
    classes = len(task.classes)
    predicted = logits.argmax(axis=1)
    single = np.stack(
        [confusion_matrix(y, p, classes, task.ignore).ravel() for y, p in zip(labels, predicted, strict=True)]
    )
    total = single.sum(axis=0).reshape(classes, classes)
    resampled = class_scores((draws @ single).reshape(-1, classes, classes))
    hit, true, said = np.diagonal(total), total.sum(1), total.sum(0)
    f1 = dict(zip(task.classes, _ratio(2.0 * hit, true + said).tolist(), strict=True))
    return _scored(class_scores(total), resampled, metric, total, f1, int((labels != task.ignore).sum()))


def _score_labels(task: Task, labels: np.ndarray, logits: np.ndarray, metric: str, draws: np.ndarray) -> Scored:
    known = (labels != task.ignore).all(axis=1)
    counts = label_counts(labels, logits > 0) * known[:, None]
    resampled = label_scores(np.stack([draws @ part for part in counts]))
    scores = label_scores(counts.sum(axis=1)) | average_precision(labels[known], logits[known])
    hit, false, missed = counts.sum(axis=1)
    f1 = dict(zip(task.classes, _ratio(2 * hit, 2 * hit + false + missed).tolist(), strict=True))
    return _scored(scores, resampled, metric, None, f1, int(known.sum()))


def _score_numbers(task: Task, labels: np.ndarray, logits: np.ndarray, metric: str, draws: np.ndarray) -> Scored:
    known = np.isfinite(labels).all(axis=1)
    y, p, draws = labels[known].astype(np.float64), logits[known].astype(np.float64), draws[:, known]
    rows = [np.repeat(np.arange(len(y)), d) for d in draws]
    each = [regression_scores(y[i], p[i]) for i in rows if len(i) > 1]
    resampled = {name: np.asarray([s[name] for s in each]) for name in ("r2", "rmse", "mae")}
    return _scored(regression_scores(y, p), resampled, metric, None, None, len(y))


def _scored(
    scores: Scores,
    resampled: Mapping[str, np.ndarray],
    metric: str,
    confusion: np.ndarray | None,
    f1: dict[str, float] | None,
    count: int,
) -> Scored:
    plain = {name: float(value) for name, value in scores.items()}
    if metric not in resampled:
        return Scored(plain, float("nan"), float("nan"), confusion, f1, count)
    low, high = np.percentile(resampled[metric], [2.5, 97.5])
    return Scored(plain, float(low), float(high), confusion, f1, count)


def known_metrics(kind: TaskKind) -> tuple[str, ...]:
    """Names of the scores of a kind of task, as a recipe may ask for them."""
    names: Mapping[TaskKind, tuple[str, ...]] = {
        "classes": ("balanced_accuracy", "overall_accuracy", "average_f1", "weighted_f1", "average_iou"),
        "pixels": ("average_iou", "overall_accuracy", "balanced_accuracy", "average_f1", "weighted_f1"),
        "multilabel": ("weighted_f1", "average_f1", "weighted_ap", "average_ap"),
        "regression": ("r2", "rmse", "mae"),
    }
    return names[kind]
