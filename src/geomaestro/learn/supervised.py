"""Training with labels, spelled out: fine-tuning and training from scratch; attentive probes on frozen tokens.

Axes: n sample, k class.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from geomaestro.data.loader import evaluation_batches, training_batches, visit_at
from geomaestro.data.reading import Dataset
from geomaestro.errors import NonFiniteError
from geomaestro.learn import metrics
from geomaestro.learn.augment import drop_dates
from geomaestro.learn.losses import LabelScale, task_loss
from geomaestro.learn.optim import Average, layer_groups, make_adamw, one_cycle, set_learning_rate
from geomaestro.learn.recipe import SupervisedRecipe
from geomaestro.models.task import HeadInput, Task, TaskModel, run_head
from geomaestro.samples import Batch, to_device

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fitted:
    """Where a training with labels got to on the validation split."""

    validation: float
    step: int
    steps: int


def finetune(
    model: TaskModel,
    train: Dataset,
    val: Dataset,
    recipe: SupervisedRecipe,
    *,
    metric: str,
    seed: int,
    device: torch.device,
    peak: float,
) -> Fitted:
    """Train encoder and head; the model is left with the weights that were best on `val`."""
    model.to(device)
    total = recipe.in_steps(len(train), recipe.batch)
    spec = model.encoder.spec
    groups = layer_groups(model.encoder, model.head, spec.depth, recipe.layer_decay)
    optimiser = make_adamw(groups, recipe)
    batches = training_batches(train, batch=recipe.batch, seed=seed, start=0, steps=total, workers=recipe.workers)
    task, labels = model.task, train.labels(model.task.name)
    weights = class_weights(task, labels, device) if recipe.class_weights else None
    scale = LabelScale.of(task, labels, device)

    def loss_of(batch: Batch[Tensor]) -> Tensor:
        moved = to_device(batch, device)
        moved = drop_dates(moved, recipe.drop_dates) if recipe.drop_dates else moved
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits = model(moved)
        return task_loss(logits, scale.down(moved.labels[task.name], task), task, weights)

    def validate() -> float:
        said = scale.up(predict(model, val, recipe.batch, device))
        return metrics.headline(task, val.labels(task.name), said, metric)

    fitted = fit(model, optimiser, batches, loss_of, validate, recipe, total=total, peak=peak)
    scale.fold(model.head.linear, task)  # type: ignore[arg-type]
    return fitted


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a head looks at, computed once, and the labels (n ...)."""

    x: HeadInput
    labels: np.ndarray


def probe(
    head: nn.Module,
    task: Task,
    train: Frozen,
    val: Frozen,
    recipe: SupervisedRecipe,
    *,
    metric: str,
    seed: int,
    peak: float,
) -> Fitted:
    """Train a head alone, on frozen tokens."""
    device = train.x.tokens.device
    head.to(device)
    scale = LabelScale.of(task, train.labels, device)
    known = scale.down(torch.as_tensor(train.labels, device=device), task)
    weights = class_weights(task, train.labels, device) if recipe.class_weights else None
    total = recipe.in_steps(len(train.labels), recipe.batch)
    optimiser = make_adamw([{"params": list(head.parameters())}], recipe)
    index = (_indices(step, recipe.batch, seed, len(train.labels)).to(device) for step in range(total))

    def loss_of(rows: Tensor) -> Tensor:
        return task_loss(run_head(head, task, rows_of(train.x, rows)), known[rows], task, weights)

    def validate() -> float:
        return metrics.headline(task, val.labels, scale.up(predict_head(head, task, val.x)), metric)

    fitted = fit(head, optimiser, index, loss_of, validate, recipe, total=total, peak=peak)
    scale.fold(head.linear, task)  # type: ignore[arg-type]
    return fitted


def fit(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Iterator[T],
    loss_of: Callable[[T], Tensor],
    validate: Callable[[], float],
    recipe: SupervisedRecipe,
    *,
    total: int,
    peak: float,
) -> Fitted:
    """The loop: step, now and then validate, keep the best weights, stop when patience is used up.

    Raises:
        NonFiniteError: if a loss is not a number; the optimiser has not moved.
    """
    every = max(1, total // recipe.validations)
    average = Average(model, recipe.average) if recipe.average else None
    best, best_step, kept, since = -float("inf"), 0, _copy(model), 0
    for step, batch in enumerate(batches):
        model.train()
        set_learning_rate(
            optimiser, one_cycle(step, total=total, peak=peak, warmup=recipe.warmup, final_factor=recipe.final_factor)
        )
        loss = loss_of(batch)
        if not torch.isfinite(loss):
            raise NonFiniteError(
                f"loss {loss.item()} at step {step} of fine-tuning; lower peak_lr, or look at the pixels"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimiser.step()
        if average is not None:
            average.update(model)
        if (step + 1) % every and step + 1 != total:
            continue
        if average is not None:
            average.swap(model)
        score = validate()
        if score > best or best_step == 0 or np.isnan(best):  # a score that is not a number gives way to any other
            best, best_step, kept, since = score, step + 1, _copy(model), 0
        else:
            since += 1
        if average is not None:
            average.swap(model)
        if recipe.patience is not None and since >= recipe.patience:
            break
    model.load_state_dict(kept, strict=True)
    return Fitted(best, best_step, total)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _indices(step: int, batch: int, seed: int, count: int) -> Tensor:
    return torch.tensor([visit_at(p, seed, count).index for p in range(step * batch, (step + 1) * batch)])


@torch.no_grad()
def predict(model: TaskModel, dataset: Dataset, batch: int, device: torch.device) -> np.ndarray:
    """Logits (n k), or (n k h w), of every sample in order."""
    model.to(device).eval()
    parts = [model(to_device(item, device)).float().cpu() for item in evaluation_batches(dataset, batch=batch)]
    return torch.cat(parts).numpy()


@torch.no_grad()
def predict_head(head: nn.Module, task: Task, x: HeadInput, batch: int = 256) -> np.ndarray:
    """Logits of a head on frozen tokens."""
    head.eval()
    rows = torch.arange(len(x.tokens), device=x.tokens.device).split(batch)
    return torch.cat([run_head(head, task, rows_of(x, r)).float().cpu() for r in rows]).numpy()


def rows_of(x: HeadInput, rows: Tensor) -> HeadInput:
    """Some samples of a head's input."""
    return HeadInput(x.tokens[rows], None if x.present is None else x.present[rows], x.grid)


def class_weights(task: Task, labels: np.ndarray, device: torch.device) -> Tensor | None:
    """Weights inverse to the classes' counts, mean 1 over samples; None where classes are not counted."""
    if task.kind != "classes":
        return None
    counts = np.bincount(labels[labels != task.ignore], minlength=len(task.classes)).clip(min=1)
    return torch.as_tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32, device=device)
