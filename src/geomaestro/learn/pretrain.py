"""Pretraining, spelled out: read it top to bottom; nothing is hidden in a trainer.

What a step does follows from (seed, step) alone, so a run that was killed and resumed ends with the same weights.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomaestro.data.loader import training_batches
from geomaestro.data.quarantine import QUARANTINE, Quarantine
from geomaestro.data.reading import Dataset
from geomaestro.errors import NonFiniteError
from geomaestro.learn.checkpoint import load_state, newest, save_state
from geomaestro.learn.log import JsonRows, bar
from geomaestro.learn.optim import make_adamw, one_cycle, set_learning_rate, total_gradient_norm
from geomaestro.learn.recipe import PretrainRecipe
from geomaestro.learn.stopping import Interrupted, catch_signals
from geomaestro.models.mae import Mae, Reconstruction
from geomaestro.runs import read_rows, write_json, write_rows
from geomaestro.samples import Batch, to_device


def pretrain(
    model: Mae,
    dataset: Dataset,
    recipe: PretrainRecipe,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    title: str = "pretrain",
    tensorboard: bool = False,
) -> int:
    """Train until the recipe's last step, from the newest state in `folder` if there is one; gives the steps.

    Writes metrics.jsonl and checkpoints/ into `folder`, and quarantine.jsonl if samples cannot be read.

    Raises:
        NonFiniteError: if a loss or gradient is not a number; the optimiser has not moved, the batch's ids are saved.
        Interrupted: after Ctrl-C or SIGTERM, once the state is saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.to(device).train()
    optimiser = make_adamw([{"params": list(model.parameters())}], recipe)
    total = recipe.in_steps(len(dataset), recipe.batch)
    step, elapsed_before = _resume(folder, model, optimiser)
    rows = JsonRows(folder / "metrics.jsonl", tensorboard=tensorboard)
    quarantine = Quarantine(folder / QUARANTINE, len(dataset), recipe.max_bad_share)
    batches = _batches(dataset, recipe, quarantine, seed, range(step, total))
    started_at = saved_at = time.monotonic()
    first = step
    with bar(title, total, step) as shown, catch_signals() as stop:
        for batch in batches:
            lr = one_cycle(
                step,
                total=total,
                peak=recipe.peak(recipe.batch),
                warmup=recipe.warmup,
                final_factor=recipe.final_factor,
            )
            set_learning_rate(optimiser, lr)
            result = forward(model, to_device(batch, device), recipe.precision)
            optimiser.zero_grad(set_to_none=True)
            result.loss.backward()
            norm = total_gradient_norm(model.parameters())
            _refuse_non_finite(folder, step, batch, result.loss, norm)
            if recipe.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(model.parameters(), recipe.clip_norm, norm)
            optimiser.step()
            step += 1
            elapsed_s = elapsed_before + time.monotonic() - started_at
            speed = (step - first) * recipe.batch / (time.monotonic() - started_at)
            if step % recipe.log_every == 0 or step == total:
                rows.add(_row(step, recipe.batch, len(dataset), result, lr, norm, elapsed_s, speed))
            skipped = f"  {len(quarantine.known)} unreadable" if quarantine.known else ""
            shown.update(step, f"loss {result.loss.item():.4f}  {speed:.0f} samples/s{skipped}")
            if stop.asked or step == total or time.monotonic() - saved_at > recipe.save_every_s:
                save_state(folder / "checkpoints", step, model, optimiser, {"elapsed_s": elapsed_s})
                saved_at = time.monotonic()
            if stop.asked and step < total:
                raise Interrupted(f"stopped after step {step} of {total}, state saved")
    return total


def _batches(
    dataset: Dataset, recipe: PretrainRecipe, quarantine: Quarantine, seed: int, steps: range
) -> Iterator[Batch[Tensor]]:
    return training_batches(
        dataset,
        batch=recipe.batch,
        seed=seed,
        start=steps.start,
        steps=steps.stop,
        workers=recipe.workers,
        quarantine=quarantine,
    )


def forward(model: Mae, batch: Batch[Tensor], precision: str) -> Reconstruction:
    """One pass in the precision asked for; targets and losses are float32 in both."""
    device = batch.reference_date.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
        result: Reconstruction = model(batch, batch.keys)
    return result


def _resume(folder: Path, model: Mae, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    """Put the newest state back and drop metrics of steps after it; (step, seconds used so far)."""
    path = newest(folder / "checkpoints")
    if path is None:
        write_rows(folder / "metrics.jsonl", [])
        return 0, 0.0
    about = load_state(path, model, optimiser)
    kept = [row for row in read_rows(folder / "metrics.jsonl") if row["step"] <= about["step"]]
    write_rows(folder / "metrics.jsonl", kept)
    return about["step"], about["elapsed_s"]


def _refuse_non_finite(folder: Path, step: int, batch: Batch[Tensor], loss: Tensor, norm: Tensor) -> None:
    if torch.isfinite(loss) and torch.isfinite(norm):
        return
    path = folder / "non_finite.json"
    write_json(path, {"step": step, "ids": list(batch.ids), "loss": loss.item(), "grad_norm": norm.item()})
    raise NonFiniteError(
        f"loss {loss.item()} and gradient norm {norm.item()} at step {step}; the weights were not changed and the "
        f"samples are listed in {path}; look at their values, lower the learning rate, or set clip_norm"
    )


def _row(
    step: int, batch: int, count: int, result: Reconstruction, lr: float, norm: Tensor, elapsed_s: float, speed: float
) -> Mapping[str, Any]:
    row: dict[str, Any] = {
        "step": step,
        "samples": step * batch,
        "epoch": step * batch / count,
        "loss": result.loss.item(),
    }
    row.update({f"loss/{name}": value.item() for name, value in result.per_sensor.items()})
    return {**row, "lr": lr, "grad_norm": norm.item(), "samples_per_s": speed, "elapsed_s": elapsed_s}
