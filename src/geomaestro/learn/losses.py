"""Losses of tasks. A label equal to the task's `ignore` value never counts.

Axes: b sample, h row, w column.
"""

import torch
from torch import Tensor
from torch.nn import functional

from geomaestro.models.task import Task


def task_loss(logits: Tensor, labels: Tensor, task: Task, class_weights: Tensor | None = None) -> Tensor:
    """Mean loss of a batch: cross-entropy for classes and pixels, binary cross-entropy for multilabel, squared error
    for regression. A sample of a multilabel task counts if none of its labels is ignored, as in the official code; a
    regression ignores labels that are not a number. Zero, with a gradient, where nothing counts.
    """
    logits = logits.float()
    if task.kind == "pixels":
        logits, labels = logits.movedim(1, -1).flatten(0, 2), labels.flatten()
    if task.kind in ("classes", "pixels"):
        labels = labels.long()
        if not bool((labels != task.ignore).any()):
            return logits.sum() * 0.0
        return functional.cross_entropy(logits, labels, weight=class_weights, ignore_index=task.ignore)
    if task.kind == "multilabel":
        known = (labels != task.ignore).all(dim=1, keepdim=True).float()
        target = labels.float().clamp(min=0.0)
        error = functional.binary_cross_entropy_with_logits(logits, target, weight=class_weights, reduction="none")
        return (error * known).sum() / (known.sum() * error.shape[1]).clamp(min=1)
    labels = labels.float().reshape(logits.shape)
    measured = torch.isfinite(labels)
    error = (logits - labels.where(measured, 0.0)).square() * measured
    return error.sum() / measured.sum().clamp(min=1)
