"""Pretraining, spelled out: read it top to bottom; nothing is hidden in a trainer.

What a step does follows from (seed, step) alone, so a run that was killed and resumed ends with the same weights, and
any number of ranks and parts takes the same samples through the same loss.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geomaestro.data.loader import Share, names_of, training_batches
from geomaestro.data.quarantine import QUARANTINE, BadSample, Quarantine
from geomaestro.data.reading import Dataset
from geomaestro.errors import DataError, NonFiniteError
from geomaestro.learn.augment import augmenting
from geomaestro.learn.checkpoint import load_state, newest, save_state
from geomaestro.learn.distributed import ALONE, Ranks
from geomaestro.learn.feed import Feed
from geomaestro.learn.log import bar
from geomaestro.learn.optim import learning_rate, make_adamw, set_learning_rate, total_gradient_norm
from geomaestro.learn.parallel import accumulating, backward, compile_blocks, recompute_blocks, spread
from geomaestro.learn.recipe import PretrainRecipe
from geomaestro.learn.signs import JudgedRows, in_row, sums_of
from geomaestro.learn.stopping import Interrupted, catch_signals
from geomaestro.learn.watch import REPORT, NonFinite, Watch, report_non_finite, saved_or_why
from geomaestro.models.autoencoder import Autoencoder, Reconstruction
from geomaestro.models.kinds import kind_of
from geomaestro.runs import make_folder, read_rows, sync, write_rows
from geomaestro.samples import Batch

METRICS = "metrics.jsonl"
Losses = Mapping[str, Tensor]  # "loss", and "loss/SENSOR" for each sensor


def pretrain(
    model: Autoencoder,
    dataset: Dataset,
    recipe: PretrainRecipe,
    folder: Path,
    *,
    seed: int,
    ranks: Ranks = ALONE,
    title: str = "pretrain",
    tensorboard: bool = False,
) -> int:
    """Train until the recipe's last step, from the newest state in `folder` if there is one; gives the steps.

    Writes metrics.jsonl and checkpoints/ into `folder`, and quarantine.jsonl if samples cannot be read. With
    `parallel: fsdp` and several ranks the model's parameters are shards afterwards.

    Raises:
        NonFiniteError: if a loss or gradient is not a number; the optimiser has not moved, the batch's ids are saved.
        Interrupted: after Ctrl-C or SIGTERM, once the state is saved.
    """
    model.to(ranks.device).train()
    net = make_net(model, recipe, ranks)
    optimiser = make_adamw([{"params": list(model.parameters())}], recipe)
    total, peak = recipe.in_steps(len(dataset), recipe.batch), recipe.peak(recipe.batch)
    step, elapsed_before = _resume(folder, model, optimiser, ranks)
    quarantine = Quarantine(folder / QUARANTINE, len(dataset), recipe.max_bad_share, ranks.first, not ranks.alone)
    feed = _feed(dataset, recipe, quarantine, seed, range(step, total), ranks)
    rows = JudgedRows(folder / METRICS, recipe, total, tensorboard=tensorboard) if ranks.first else None
    pace = Pace(step, recipe.batch, elapsed_before, feed)
    saver = Saver(folder, model, optimiser, pace, ranks, every_s=recipe.save_every_s)

    def refuse(found: NonFinite) -> NonFiniteError:
        return saver.refuse(found, names_of(dataset, seed, found.step, recipe.batch), quarantine)

    watch = Watch(optimiser, ranks.device, refuse)
    with bar(title, total, step, shown=ranks.first) as shown, catch_signals() as stop:
        for parts in feed:
            _tell(ranks, quarantine, sum(len(part) for part in parts))
            lr = learning_rate(step, total, peak, recipe)
            set_learning_rate(optimiser, lr)
            optimiser.zero_grad(set_to_none=True)
            logs = (step + 1) % recipe.log_every == 0 or step + 1 == total
            losses = gradients(net, model, parts, ranks, look=logs)
            norm = total_gradient_norm(model.parameters())
            watch.see(step, losses["loss"], norm)
            if recipe.clip_norm is not None:
                nn.utils.clip_grads_with_norm_(model.parameters(), recipe.clip_norm, norm)
            optimiser.step()
            step += 1
            stops, saves = ranks.agree(stop.asked, stop.asked or saver.due() or step == total)
            if saves or logs or watch.at_once:
                watch.look()
                shown.update(step, pace.note(step, losses["loss"], len(quarantine.known)))
            if rows is not None and logs:
                rows.add({**pace.row(step, len(dataset)), **in_row(losses), "lr": lr, "grad_norm": norm.item()})
            if saves:
                saver.save(step)
            if stops:
                raise Interrupted(f"stopped after step {step} of {total}, state saved")
    return total


class Rebuilding(nn.Module):
    """One pass of an autoencoder in the precision asked for; targets and losses are float32 in both."""

    def __init__(self, model: Autoencoder, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, batch: Batch[Tensor], total: Tensor | None, *, look: bool = False) -> dict[str, Tensor]:
        """Losses of a batch, or of a part of the larger one that `total` is the tally of; if `look`, sums for signs of
        how it learns beside them.
        """
        kind = batch.reference_date.device.type
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            result: Reconstruction = self.model(batch, batch.keys, total=total)
        losses = {"loss": result.loss, **{f"loss/{name}": value for name, value in result.per_sensor.items()}}
        return losses | sums_of(result, self.model.spec.loss) if look else losses


def make_net(model: Autoencoder, recipe: PretrainRecipe, ranks: Ranks) -> nn.Module:
    """What a step calls: the model, spread over ranks and compiled as the recipe says."""
    recompute_blocks(model, recipe.recompute)
    compile_blocks(model, recipe.compile, ranks.device)
    rebuilding = Rebuilding(model, recipe.precision)
    return spread(rebuilding, ranks, recipe.parallel, precision=recipe.precision, idle=model.idles)


def gradients(
    net: nn.Module, model: Autoencoder, parts: Sequence[Batch[Tensor]], ranks: Ranks, *, look: bool = False
) -> Losses:
    """Losses of a step over all its parts and ranks, with the sums of `sums_of` if `look`; its gradients are in the
    parameters.
    """
    total = None
    if len(parts) > 1 or not ranks.alone:
        # whole numbers, also by type: FSDP rounds what is not to the precision of its shards
        total = ranks.add(torch.stack([model.tally(part, _keys(part)) for part in parts]).sum(dim=0)).long()
    losses: dict[str, Tensor] = {}
    for number, part in enumerate(parts, start=1):
        with accumulating(net, number < len(parts)):
            mine = net(part, total, look=look)
            backward(mine["loss"], ranks)
        for name, value in mine.items():
            losses[name] = losses[name] + value.detach() if name in losses else value.detach()
    summed = ranks.add(torch.stack(list(losses.values())))
    return dict(zip(losses, summed.unbind(), strict=True))


def _keys(batch: Batch[Tensor]) -> Tensor:
    assert batch.keys is not None, "batches of training have keys"
    return batch.keys


def _tell(ranks: Ranks, quarantine: Quarantine, readable: int) -> None:
    """Let all ranks know of samples that one could not read.

    Raises:
        DataError: on all ranks, if they are too many, or if a step has no other.
    """
    mine, quarantine.untold = quarantine.untold, []
    untold, left = ranks.add_numbers([len(mine), readable])
    if untold and not ranks.alone:
        everyones = ranks.join_lists([[sample.id, sample.reason] for sample in mine])
        quarantine.note([BadSample(name, reason) for name, reason in everyones])
    if not left:
        raise DataError(f"no sample of a step can be read; the first: {next(iter(quarantine.known.values()))}")


def _feed(
    dataset: Dataset, recipe: PretrainRecipe, quarantine: Quarantine, seed: int, steps: range, ranks: Ranks
) -> Feed:
    """This rank's parts of some steps, on its device."""
    batches = training_batches(
        dataset,
        batch=recipe.batch,
        seed=seed,
        start=steps.start,
        steps=steps.stop,
        workers=recipe.workers,
        share=Share(ranks.number, ranks.count, recipe.accumulate),
        quarantine=quarantine,
    )
    return Feed(batches, ranks.device, recipe.accumulate, augmenting(recipe))


def _resume(folder: Path, model: Autoencoder, optimiser: torch.optim.Optimizer, ranks: Ranks) -> tuple[int, float]:
    """Put the newest state back and drop metrics of steps after it; (step, seconds used so far)."""
    if ranks.first:
        make_folder(folder)
    ranks.wait()
    path = newest(folder / "checkpoints")
    about: dict[str, Any] = {"step": 0, "elapsed_s": 0.0} if path is None else load_state(path, model, optimiser)
    if ranks.first:
        rows = read_rows(folder / METRICS)
        write_rows(folder / METRICS, [row for row in rows if row["step"] <= about["step"]])
    ranks.wait()
    return about["step"], about["elapsed_s"]


class Saver:
    """Writes states of a training, and knows when the next is due."""

    def __init__(
        self,
        folder: Path,
        model: Autoencoder,
        optimiser: torch.optim.Optimizer,
        pace: "Pace",
        ranks: Ranks,
        *,
        every_s: float,
    ) -> None:
        self._folder, self._model, self._optimiser, self._ranks = folder, model, optimiser, ranks
        self._pace, self._every_s, self._saved_at = pace, every_s, time.monotonic()

    def due(self) -> bool:
        """Whether the last state is older than it should be."""
        return time.monotonic() - self._saved_at > self._every_s

    def save(self, step: int) -> None:
        """Write the state after `step` steps; all ranks do."""
        if self._ranks.first:
            sync(self._folder / METRICS)
            (self._folder / REPORT).unlink(missing_ok=True)  # its step is passed, or will be told of again
        spec = self._model.spec
        about = {"elapsed_s": self._pace.elapsed_s(), "model": kind_of(spec), "mae": spec.model_dump(mode="json")}
        save_state(self._folder / "checkpoints", step, self._model, self._optimiser, about, ranks=self._ranks)
        self._saved_at = time.monotonic()

    def refuse(self, found: NonFinite, names: Sequence[str], unreadable: Quarantine) -> NonFiniteError:
        """Write the state before a step that is not a number, and its readable samples; gives the error to raise."""
        names = [name for name in names if name not in unreadable.known]
        hint = saved_or_why(lambda: self.save(found.step)) + f"look at them with `geomaestro replay {self._folder}`, "
        return report_non_finite(found, self._folder, names, writes=self._ranks.first, remedy=hint)


class Pace:
    """How fast a training goes, and how long it waits for data."""

    def __init__(self, step: int, batch: int, elapsed_before: float, feed: Feed) -> None:
        self.first, self.batch, self._before, self._feed = step, batch, elapsed_before, feed
        self._started_at = time.monotonic()

    def elapsed_s(self) -> float:
        """Seconds of training, those before a restart too."""
        return self._before + time.monotonic() - self._started_at

    def samples_per_s(self, step: int) -> float:
        """Samples per second since this process began."""
        return (step - self.first) * self.batch / (time.monotonic() - self._started_at)

    def note(self, step: int, loss: Tensor, unreadable: int) -> str:
        """A line for the progress bar."""
        skipped = f"  {unreadable} unreadable" if unreadable else ""
        return f"loss {loss.item():.4f}  {self.samples_per_s(step):.0f} samples/s{skipped}"

    def row(self, step: int, count: int) -> dict[str, Any]:
        """What is measured of a step but its losses; `count` is the number of samples of an epoch."""
        samples = step * self.batch
        return {
            "step": step,
            "samples": samples,
            "epoch": samples / count,
            "samples_per_s": self.samples_per_s(step),
            "elapsed_s": self.elapsed_s(),
            "waited_s": self._feed.waited_s,
        }
