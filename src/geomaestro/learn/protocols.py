"""Protocols: each answers a test split after learning from some labelled training samples.

Learning rates are tried on the first draw of a number of labels, with the first pretraining seed, and chosen on the
validation split; the same for every protocol that has some to try.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geomaestro.data.loader import Subset
from geomaestro.data.reading import Dataset
from geomaestro.errors import SpecError
from geomaestro.learn.distributed import ALONE, Ranks
from geomaestro.learn.features import date_features, head_inputs, pooled_features
from geomaestro.learn.fitting import Place
from geomaestro.learn.forest import fit_forest, raw_features, raw_pixels
from geomaestro.learn.knn import neighbours
from geomaestro.learn.labels import draw_labels, labelled
from geomaestro.learn.probe import fit_linear
from geomaestro.learn.recipe import EvaluateRecipe, LabelCount, Protocol, SupervisedRecipe
from geomaestro.learn.regions import regions_of
from geomaestro.learn.supervised import Frozen, finetune, predict, probe
from geomaestro.models.base import TokenEncoder
from geomaestro.models.hub import save_task_model
from geomaestro.models.kinds import make_encoder
from geomaestro.models.task import HeadInput, Task, TaskModel, make_head
from geomaestro.runs import append_row, read_rows

MAX_TOKEN_BYTES = 8 << 30  # assumed; frozen tokens are kept in memory
WORK = "work"  # folder of trainings under way
# logits of the test split, and what was chosen on validation; None on ranks that only helped
Answer = tuple[np.ndarray, str] | None


@dataclass(frozen=True)
class Job:
    """One row to be: a protocol at a number of labels, a draw of them, and a pretraining seed (None: not needed)."""

    protocol: Protocol
    count: LabelCount
    draw: int
    pretraining_seed: int | None

    def key(self, task: str) -> tuple[Any, ...]:
        """What makes a row this job's."""
        return task, self.protocol, self.count.describe()[0], self.draw, self.pretraining_seed


@dataclass
class Bench:
    """What the jobs of an evaluation share, each thing computed once."""

    recipe: EvaluateRecipe
    task: Task
    train: Dataset
    val: Dataset
    test: Dataset
    encoders: Sequence[TokenEncoder]
    seed: int
    metric: str
    folder: Path
    ranks: Ranks = ALONE
    _kept: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def labels(self, split: str) -> np.ndarray:
        """Labels of a split."""
        return self.split(split).labels(self.task.name)

    @property
    def regions(self) -> np.ndarray:
        """(n) the region of each test sample, "" where it is not known."""
        return self._once(("regions",), lambda: regions_of(self.test, self.recipe.regions, self.recipe.region))

    def split(self, name: str) -> Dataset:
        """The train, val or test split."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def features(self, split: str, seed: int) -> Tensor:
        """Pooled features of a split under a pretraining seed's encoder; by date where the head keeps dates apart."""

        def make() -> Tensor:
            extract = date_features if self.recipe.head.pooling == "dates" else pooled_features
            return extract(self.encoders[seed], self.split(split), batch=self.recipe.batch, ranks=self.ranks)

        return self._once(("pooled", split, seed), make)

    def tokens(self, dataset: Dataset, seed: int) -> HeadInput:
        """Frozen tokens of a dataset under a pretraining seed's encoder.

        Raises:
            SpecError: if they would not fit in memory.
        """
        encoder = self.encoders[seed]
        size = len(dataset) * encoder.spec.dim * 4 * sum(source.tokens for source in encoder.spec.inputs.values())
        if size > MAX_TOKEN_BYTES:
            raise SpecError(
                f"an attentive probe on {len(dataset)} samples would keep {size / 2**30:.0f} GiB of tokens in memory; "
                "use fewer labels, or drop `attentive probe` from evaluate.protocols"
            )
        head = make_head(self.task, self.recipe.head, encoder.spec)
        return head_inputs(encoder, dataset, head, self.task, batch=self.recipe.batch, ranks=self.ranks)

    def val_tokens(self, seed: int) -> HeadInput:
        """Frozen tokens of the validation split."""
        return self._once(("tokens", seed), lambda: self.tokens(self.val, seed))

    def index(self, job: Job) -> np.ndarray:
        """Training samples whose labels a job uses."""
        return draw_labels(self.labels("train"), self.task, job.count, seed=self.seed, draw=job.draw)

    def raw(self, split: str) -> np.ndarray:
        """Features of the random forest."""
        if self.task.kind != "pixels":
            return self._once(("raw", split), lambda: raw_features(self.split(split)))
        height, width = self.labels(split).shape[-2:]
        return self._once(("raw", split), lambda: raw_pixels(self.split(split), height, width))

    def peak(self, job: Job, recipe: SupervisedRecipe, attempt: Callable[[Job, float], float]) -> float:
        """The learning rate for a protocol and number of labels: tried on the first job of them, best on validation."""
        if len(recipe.peak_lrs) < 2:
            return recipe.peak_lrs[0] if recipe.peak_lrs else recipe.peak(recipe.batch)
        first = replace(job, draw=0, pretraining_seed=None if job.pretraining_seed is None else 0)
        tried = lambda peak: self._tried(first, peak, attempt)  # noqa: E731
        return self._once((first.key(""),), lambda: max(recipe.peak_lrs, key=tried))

    def _tried(self, job: Job, peak: float, attempt: Callable[[Job, float], float]) -> float:
        """Validation score of a learning rate, kept on disk so that a search that was stopped goes on."""
        path, key = self.folder / "attempts.jsonl", [*job.key(self.task.name), peak]
        for row in read_rows(path):
            if row["key"] == key:
                return float(row["validation"])
        validation = attempt(job, peak)
        if self.ranks.first:
            append_row(path, {"key": key, "validation": validation})
        self.ranks.wait()
        return validation

    def place(self, job: Job, peak: float) -> Place:
        """Where a training with labels keeps its state until its row is written."""
        name = "-".join(str(part) for part in (*job.key(self.task.name), f"{peak:g}"))
        return Place(self.ranks, self.folder / WORK / re.sub(r"[^\w.]+", "_", name))

    def _once(self, key: tuple[Any, ...], make: Any) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def _neighbours(bench: Bench, job: Job) -> Answer:
    seed, index = _seed(job), bench.index(job)
    train, test = bench.features("train", seed)[torch.as_tensor(index)], bench.features("test", seed)
    if not bench.ranks.first:
        return None
    count = min(bench.recipe.neighbours, len(index))
    return neighbours(train, bench.labels("train")[index], test, bench.task, count), f"{count} neighbours"


def _linear(bench: Bench, job: Job) -> Answer:
    seed, index = _seed(job), bench.index(job)
    known = labelled(bench.labels("val"), bench.task)
    val, val_labels = bench.features("val", seed)[torch.as_tensor(known)], bench.labels("val")[known]
    train = bench.features("train", seed)[torch.as_tensor(index)]
    test = bench.features("test", seed)
    if not bench.ranks.first:
        return None
    fitted = fit_linear(train, bench.labels("train")[index], val, val_labels, bench.task, bench.metric)
    return fitted.predict(test), f"penalty {fitted.penalty:g}"


def _attentive(bench: Bench, job: Job) -> Answer:
    recipe = bench.recipe.probe
    peak = bench.peak(job, recipe, lambda first, peak: _probe(bench, first, peak)[0])
    _, head = _probe(bench, job, peak)
    model = TaskModel(bench.encoders[_seed(job)], bench.task, bench.recipe.head)
    model.head = head
    return predict(model, bench.test, bench.recipe.batch, bench.ranks), f"peak_lr {peak:g}"


def _probe(bench: Bench, job: Job, peak: float) -> tuple[float, nn.Module]:
    """Validation score and head of an attentive probe."""
    seed, index = _seed(job), bench.index(job)
    torch.manual_seed(_weights_seed(bench, job))
    head = make_head(bench.task, bench.recipe.head, bench.encoders[seed].spec)
    train = Frozen(bench.tokens(Subset(bench.train, index.tolist()), seed), bench.labels("train")[index])
    val = Frozen(bench.val_tokens(seed), bench.labels("val"))
    fitted = probe(head, bench.task, train, val, bench.recipe.probe, metric=bench.metric, seed=bench.seed, peak=peak)
    bench.ranks.follow(head)
    return bench.ranks.told(fitted.validation), head


def _finetune(bench: Bench, job: Job) -> Answer:
    recipe = bench.recipe.finetune
    peak = bench.peak(job, recipe, lambda first, peak: _train(bench, first, recipe, peak)[0])
    _, model = _train(bench, job, recipe, peak)
    text = bench.recipe.labels[-1]
    if bench.ranks.first and (job.count, job.draw, job.pretraining_seed) == (LabelCount.parse(text), 0, 0):
        origin = {"labels": text, "peak_lr": peak, "metric": bench.metric}
        save_task_model(bench.folder / "model", model, bench.recipe.head, origin=origin)
    return predict(model, bench.test, bench.recipe.batch, bench.ranks), f"peak_lr {peak:g}"


def _scratch(bench: Bench, job: Job) -> Answer:
    recipe = bench.recipe.from_scratch
    peak = bench.peak(job, recipe, lambda first, peak: _train(bench, first, recipe, peak)[0])
    _, model = _train(bench, job, recipe, peak)
    return predict(model, bench.test, bench.recipe.batch, bench.ranks), f"peak_lr {peak:g}"


def _train(bench: Bench, job: Job, recipe: SupervisedRecipe, peak: float) -> tuple[float, TaskModel]:
    """Validation score and model of a training with labels; from new weights where the job has no pretraining seed."""
    torch.manual_seed(_weights_seed(bench, job))
    new = job.pretraining_seed is None
    encoder = make_encoder(bench.encoders[0].spec) if new else copy.deepcopy(bench.encoders[_seed(job)])
    model = TaskModel(encoder, bench.task, bench.recipe.head)
    train, seed = Subset(bench.train, bench.index(job).tolist()), bench.seed + job.draw
    place = bench.place(job, peak)
    fitted, model = finetune(model, train, bench.val, recipe, metric=bench.metric, seed=seed, peak=peak, place=place)
    return fitted.validation, model


def _forest(bench: Bench, job: Job) -> Answer:
    if not bench.ranks.first:
        return None
    index, known = bench.index(job), labelled(bench.labels("val"), bench.task)
    labels, val_labels = bench.labels("train")[index], bench.labels("val")[known]
    train, val = bench.raw("train")[index], bench.raw("val")[known]
    forest = fit_forest(train, labels, val, val_labels, bench.task, metric=bench.metric, seed=bench.seed + job.draw)
    return forest.predict(bench.raw("test")), forest.chosen


def _seed(job: Job) -> int:
    assert job.pretraining_seed is not None, "jobs() gives one to every protocol that needs it"
    return job.pretraining_seed


def _weights_seed(bench: Bench, job: Job) -> int:
    """Seed of new weights, another one for each draw and pretraining seed."""
    return 1000 * bench.seed + 10 * job.draw + (job.pretraining_seed or 0)


ANSWERS: Mapping[Protocol, Callable[[Bench, Job], Answer]] = {
    "k-NN": _neighbours,
    "linear probe": _linear,
    "attentive probe": _attentive,
    "fine-tune": _finetune,
    "from scratch": _scratch,
    "random forest": _forest,
}
