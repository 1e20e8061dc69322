"""The loop of training with labels, spelled out: step, validate now and then, keep the best weights."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from geomaestro.errors import NonFiniteError
from geomaestro.learn.checkpoint import load_state, newest, save_state
from geomaestro.learn.distributed import ALONE, Ranks
from geomaestro.learn.optim import Average, learning_rate, set_learning_rate, total_gradient_norm
from geomaestro.learn.recipe import SupervisedRecipe
from geomaestro.learn.stopping import Interrupted, Stop, catch_signals
from geomaestro.learn.watch import NonFinite, Watch, report_non_finite, saved_or_why

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fitted:
    """Where a training with labels got to on the validation split."""

    validation: float
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Place:
    """By whom a training is done, all of `ranks` together, and the folder of its state, if it is to be kept."""

    ranks: Ranks = ALONE
    folder: Path | None = None


HERE = Place()


class Lessons(Protocol[T]):
    """What `fit` trains: `steps` gives what each step learns from, `gradients` leaves gradients in the parameters."""

    @property
    def model(self) -> nn.Module:
        """What learns."""
        ...

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """What moves its weights."""
        ...

    @property
    def total(self) -> int:
        """Number of steps."""
        ...

    def steps(self, start: int) -> Iterable[T]:
        """What is learned from, from a step on."""
        ...

    def gradients(self, step: T) -> Tensor:
        """The loss, over all ranks; its gradients are in the parameters."""
        ...

    def validate(self) -> float:
        """The score on the validation split."""
        ...

    def names(self, step: int) -> list[str]:
        """Names of a step's samples."""
        ...


@dataclass
class Best:
    """The weights that validated best so far, and how long ago that was."""

    weights: dict[str, Tensor]
    score: float = -float("inf")
    step: int = 0
    since: int = 0

    def offer(self, score: float, step: int, model: nn.Module) -> None:
        """Keep a model's weights if they score better; a score that is not a number gives way to any other."""
        if score > self.score or self.step == 0 or np.isnan(self.score):
            self.weights, self.score, self.step, self.since = _copy(model), score, step, 0
        else:
            self.since += 1


def fit(lessons: Lessons[T], recipe: SupervisedRecipe, *, peak: float, place: Place = HERE) -> Fitted:
    """The loop: step, now and then validate, keep the best weights, stop when patience is used up.

    With a folder in `place` it goes on from the state there, and saves one now and then and when it is asked to stop.

    Raises:
        NonFiniteError: if a loss or gradient is not a number; the optimiser has not moved.
        Interrupted: after Ctrl-C or SIGTERM, once the state is saved.
    """
    model, optimiser, total, ranks = lessons.model, lessons.optimiser, lessons.total, place.ranks
    every = max(1, total // recipe.validations)
    average = Average(model, recipe.average) if recipe.average else None
    best, saved_at = Best(_copy(model)), time.monotonic()
    keeper = _Keeper(lessons, best, average, place)
    start = keeper.resume()
    watch = Watch(optimiser, ranks.device, keeper.refuse)
    with keeper.signals() as stop:
        for step, batch in enumerate(lessons.steps(start), start):
            if recipe.patience is not None and best.since >= recipe.patience:
                break
            model.train()
            set_learning_rate(optimiser, learning_rate(step, total, peak, recipe))
            optimiser.zero_grad(set_to_none=True)
            loss = lessons.gradients(batch)
            norm = total_gradient_norm(model.parameters())
            watch.see(step, loss, norm)
            if recipe.clip_norm is not None:
                nn.utils.clip_grads_with_norm_(model.parameters(), recipe.clip_norm, norm)
            optimiser.step()
            if average is not None:
                average.update(model, watch.held)
            if (step + 1) % every == 0 or step + 1 == total:
                watch.look()
                _validate(lessons, best, average, step + 1)
            stops, saves = ranks.agree(stop.asked, time.monotonic() - saved_at > recipe.save_every_s)
            if place.folder is not None and (stops or saves):
                watch.look()
                keeper.save(step + 1)
                saved_at = time.monotonic()
            if stops:
                raise Interrupted(f"stopped after step {step + 1} of {total} of a training with labels, state saved")
    model.load_state_dict(best.weights, strict=True)
    return Fitted(best.score, best.step, total)


def _validate(lessons: Lessons[Any], best: Best, average: Average | None, step: int) -> None:
    """Score the weights, or their average where there is one."""
    if average is not None:
        average.swap(lessons.model)
    best.offer(lessons.validate(), step, lessons.model)
    if average is not None:
        average.swap(lessons.model)


class _Keeper:
    """Keeps the state of a training in a folder, if there is one."""

    def __init__(self, lessons: Lessons[Any], best: Best, average: Average | None, place: Place) -> None:
        self.lessons, self.best, self.average, self.place = lessons, best, average, place

    def _more(self) -> dict[str, dict[str, Tensor]]:
        more = {"best": self.best.weights}
        if self.average is not None:
            names = [name for name, _ in self.lessons.model.named_parameters()]
            more["average"] = dict(zip(names, self.average.weights, strict=True))
        return more

    def resume(self) -> int:
        """Put the newest state back; gives the step to go on with."""
        path = None if self.place.folder is None else newest(self.place.folder)
        if path is None:
            return 0
        about = load_state(path, self.lessons.model, self.lessons.optimiser, more=self._more())
        self.best.score, self.best.step, self.best.since = about["score"], about["best_step"], about["since"]
        if self.average is not None:
            self.average.updates = about["updates"]
        return int(about["step"])

    def save(self, step: int) -> None:
        """Write the state after `step` steps."""
        if self.place.folder is None:
            return
        about = {"score": self.best.score, "best_step": self.best.step, "since": self.best.since}
        about["updates"] = 0 if self.average is None else self.average.updates
        model, optimiser = self.lessons.model, self.lessons.optimiser
        save_state(self.place.folder, step, model, optimiser, about, more=self._more(), ranks=self.place.ranks)

    def refuse(self, found: NonFinite) -> NonFiniteError:
        """Save what there was before a step whose loss is not a number; the error to raise."""
        if self.average is not None:
            self.average.updates = found.step
        names, saved = self.lessons.names(found.step), saved_or_why(lambda: self.save(found.step))
        return report_non_finite(found, self.place.folder, names, writes=self.place.ranks.first, remedy=saved)

    @contextmanager
    def signals(self) -> Iterator[Stop]:
        """Take signals where a state can be saved; else whoever called has to."""
        if self.place.folder is None:
            yield Stop()
            return
        with catch_signals() as stop:
            yield stop


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
