"""Linear probes: logistic regression by L-BFGS, ridge regression in closed form; regularisation chosen on validation.

Axes: n sample, d width, k class.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geomaestro.learn import metrics
from geomaestro.learn.losses import task_loss
from geomaestro.models.task import Task

PENALTIES = tuple(10.0**e for e in range(-5, 2))  # per sample, on the squared weights of standardised features
MAX_STEPS = 200


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A fitted probe: standardisation, weights (d k), bias (k), and the penalty that was chosen."""

    mean: Tensor
    spread: Tensor
    weight: Tensor
    bias: Tensor
    penalty: float

    def predict(self, features: Tensor) -> np.ndarray:
        """Logits (n k)."""
        return (((features - self.mean) / self.spread) @ self.weight + self.bias).numpy()


def fit_linear(
    train: Tensor, labels: np.ndarray, val: Tensor, val_labels: np.ndarray, task: Task, metric: str
) -> LinearProbe:
    """Fit with each penalty, strongest first and each from the one before, and keep the best on validation."""
    mean, spread = train.mean(0), train.std(0, correction=0).clamp(min=1e-6)
    x = (train - mean) / spread
    solve = _ridge if task.kind == "regression" else _logistic
    best: LinearProbe | None = None
    best_score = -float("inf")
    weight = torch.zeros(x.shape[1], len(task.classes))
    bias = torch.zeros(len(task.classes))
    for penalty in sorted(PENALTIES, reverse=True):
        weight, bias = solve(x, labels, task, penalty, weight, bias)
        candidate = LinearProbe(mean, spread, weight, bias, penalty)
        score = metrics.headline(task, val_labels, candidate.predict(val), metric)
        if score > best_score or best is None:
            best, best_score = candidate, score
    assert best is not None, "there are penalties"
    return best


def _logistic(
    x: Tensor, labels: np.ndarray, task: Task, penalty: float, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    known = torch.as_tensor(labels)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = task_loss(x @ weight + bias, known, task) + penalty * weight.square().sum()
        loss.backward()
        return loss

    step: Callable[[Callable[[], Tensor]], Tensor] = optimiser.step
    step(closure)
    return weight.detach(), bias.detach()


def _ridge(
    x: Tensor, labels: np.ndarray, task: Task, penalty: float, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    known = np.isfinite(labels).all(axis=1)
    x = x[torch.as_tensor(known)].double()
    y = torch.as_tensor(labels[known], dtype=torch.float64)
    bias = y.mean(0)
    gram = x.T @ x + penalty * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, x.T @ (y - bias)).float(), bias.float()
