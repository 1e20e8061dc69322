"""Losses of tasks. A label equal to the task's `ignore` value never counts.

Axes: b sample, h row, w column.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geomaestro.models.task import Task


def task_loss(
    logits: Tensor, labels: Tensor, task: Task, class_weights: Tensor | None = None, total: Tensor | None = None
) -> Tensor:
    """Mean loss of a batch: cross-entropy for classes and pixels, binary cross-entropy for multilabel, squared error
    for regression. A sample of a multilabel task counts if none of its labels is ignored, as in the official code; a
    regression ignores labels that are not a number. Zero, with a gradient, where nothing counts.

    With `total`, the sum of the tallies of all parts of a larger batch, losses of the parts add up to its loss.
    """
    logits, count = logits.float(), tally(labels, task, class_weights) if total is None else total
    if task.kind in ("classes", "pixels"):
        error = functional.cross_entropy(
            logits, labels.long(), weight=class_weights, ignore_index=task.ignore, reduction="sum"
        )
    elif task.kind == "multilabel":
        known = (labels != task.ignore).all(dim=1, keepdim=True).float()
        target = labels.float().clamp(min=0.0)
        each = functional.binary_cross_entropy_with_logits(logits, target, weight=class_weights, reduction="none")
        error = (each * known).sum()
    else:
        labels = labels.float().reshape(logits.shape)
        measured = torch.isfinite(labels)
        error = ((logits - labels.where(measured, 0.0)).square() * measured).sum()
    return error / torch.where(count > 0, count, 1.0).to(error.dtype)


def tally(labels: Tensor, task: Task, class_weights: Tensor | None = None) -> Tensor:
    """What the loss of labels is a mean over, float64: their number, or the sum of their classes' weights."""
    if task.kind == "regression":
        return torch.isfinite(labels.float()).sum().double()
    if task.kind == "multilabel":
        return (labels != task.ignore).all(dim=1).sum().double() * labels.shape[1]
    known = labels != task.ignore
    if class_weights is None:
        return known.sum().double()
    weights = class_weights.double()[labels.long().where(known, 0)]
    return (weights * known).sum()


@dataclass(frozen=True, slots=True)
class LabelScale:
    """Mean and spread of a regression's training labels: a network learns (label - mean) / spread, whatever the unit.

    For other tasks mean is 0 and spread 1, and nothing changes.
    """

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, task: Task, labels: np.ndarray, device: torch.device) -> "LabelScale":
        """From training labels (n k)."""
        if task.kind != "regression":
            return cls(torch.zeros((), device=device), torch.ones((), device=device))
        y = labels.reshape(len(labels), -1).astype(np.float64)
        y = y[np.isfinite(y).all(axis=1)]
        spread = np.where(y.std(axis=0) > 0, y.std(axis=0), 1.0)
        return cls(*(torch.as_tensor(x, dtype=torch.float32, device=device) for x in (y.mean(axis=0), spread)))

    def down(self, labels: Tensor, task: Task) -> Tensor:
        """Labels as the network learns them."""
        return (labels.float() - self.mean) / self.spread if task.kind == "regression" else labels

    def up(self, logits: np.ndarray) -> np.ndarray:
        """What the network says, in the labels' unit."""
        return np.asarray(logits * self.spread.cpu().numpy() + self.mean.cpu().numpy())

    @torch.no_grad()
    def fold(self, linear: nn.Linear, task: Task) -> None:
        """Let the last layer answer in the labels' unit."""
        if task.kind == "regression":
            linear.weight.mul_(self.spread[:, None])
            linear.bias.mul_(self.spread).add_(self.mean)
