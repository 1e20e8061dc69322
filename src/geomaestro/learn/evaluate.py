"""Evaluation: protocols x numbers of labels x draws x pretraining seeds, one row each; finished rows are skipped.

Beside every pretrained score stand the same network from scratch and a random forest, tuned in the same way: learning
rates and forest settings are tried on the first draw and chosen on the validation split.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geomaestro.data.loader import Subset
from geomaestro.data.reading import Dataset
from geomaestro.errors import SpecError
from geomaestro.learn import metrics
from geomaestro.learn.features import head_inputs, pooled_features
from geomaestro.learn.forest import fit_forest, raw_features, raw_pixels
from geomaestro.learn.knn import neighbours
from geomaestro.learn.labels import draw_labels, labelled
from geomaestro.learn.log import bar
from geomaestro.learn.probe import fit_linear
from geomaestro.learn.recipe import EvaluateRecipe, LabelCount, Protocol, SupervisedRecipe
from geomaestro.learn.stopping import Interrupted, catch_signals
from geomaestro.learn.supervised import Frozen, finetune, predict, predict_head, probe, rows_of
from geomaestro.models.encoder import Encoder
from geomaestro.models.task import HeadInput, Task, TaskModel, make_head
from geomaestro.runs import append_row, read_rows

Row = dict[str, Any]
ONCE: tuple[Protocol, ...] = ("from scratch", "random forest")  # need no pretrained encoder


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
    encoders: Sequence[Encoder]
    blank: Encoder
    device: torch.device
    seed: int
    metric: str
    folder: Path
    _kept: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def labels(self, split: str) -> np.ndarray:
        """Labels of a split."""
        return self.split(split).labels(self.task.name)

    def split(self, name: str) -> Dataset:
        """The train, val or test split."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def features(self, split: str, seed: int) -> Tensor:
        """Pooled features of a split under a pretraining seed's encoder."""

        def make() -> Tensor:
            return pooled_features(self.encoders[seed], self.split(split), batch=self.recipe.batch, device=self.device)

        return self._once(("pooled", split, seed), make)

    def tokens(self, split: str, seed: int) -> HeadInput:
        """Frozen tokens of a split under a pretraining seed's encoder."""

        def make() -> HeadInput:
            encoder, data = self.encoders[seed], self.split(split)
            return head_inputs(encoder, data, self.task, batch=self.recipe.batch, device=self.device)

        return self._once(("tokens", split, seed), make)

    def raw(self, split: str) -> np.ndarray:
        """Features of the random forest."""
        if self.task.kind != "pixels":
            return self._once(("raw", split), lambda: raw_features(self.split(split)))
        height, width = self.labels(split).shape[-2:]
        return self._once(("raw", split), lambda: raw_pixels(self.split(split), height, width))

    def peak(self, name: str, count: LabelCount, recipe: SupervisedRecipe, attempt: Any) -> float:
        """The learning rate for a number of labels: tried on the first draw, the best on validation."""
        if len(recipe.peak_lrs) < 2:
            return recipe.peak_lrs[0] if recipe.peak_lrs else recipe.peak(recipe.batch)
        return self._once(("peak", name, count), lambda: max(recipe.peak_lrs, key=attempt))

    def _once(self, key: tuple[Any, ...], make: Any) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def jobs(recipe: EvaluateRecipe, seeds: int) -> list[Job]:
    """All rows of an evaluation, cheap protocols first within a number of labels."""
    out = []
    for text in recipe.labels:
        count = LabelCount.parse(text)
        draws = recipe.draws if count.per_class is not None or count.share is not None else 1
        for protocol in recipe.protocols:
            for draw in range(draws):
                out += [Job(protocol, count, draw, s) for s in ([None] if protocol in ONCE else range(seeds))]
    return out


def evaluate(bench: Bench) -> list[Row]:
    """Do every job that has no row yet; gives all rows.

    Raises:
        SpecError: if a protocol can't answer this kind of task.
    """
    check_protocols(bench.recipe, bench.task)
    path = bench.folder / "rows.jsonl"
    bench.folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(path)
    done = {(r["task"], r["protocol"], r["labels"], r["draw"], r["pretraining_seed"]) for r in rows}
    todo = [job for job in jobs(bench.recipe, len(bench.encoders)) if job.key(bench.task.name) not in done]
    with bar(f"evaluate {bench.task.name}", len(rows) + len(todo), len(rows)) as shown, catch_signals() as stop:
        for job in todo:
            row = run_job(bench, job)
            append_row(path, row)
            rows.append(row)
            shown.update(len(rows), f"{job.protocol}, {row['labels']}: {row['score']:.3f}")
            if stop.asked and job is not todo[-1]:
                raise Interrupted(f"stopped after {len(rows)} rows of the evaluation, all kept")
    return rows


def check_protocols(recipe: EvaluateRecipe, task: Task) -> None:
    """Refuse protocols that can't answer a kind of task, and unknown metrics.

    Raises:
        SpecError: naming them and what to do.
    """
    wrong = [p for p in recipe.protocols if task.kind == "pixels" and p in ("k-NN", "linear probe")]
    if wrong:
        raise SpecError(
            f"evaluate.protocols: {', '.join(wrong)} answer per sample; target {task.name!r} is of pixels, so drop them"
        )
    known = metrics.known_metrics(task.kind)
    if recipe.metric is not None and recipe.metric not in known:
        raise SpecError(f"evaluate.metric: {recipe.metric!r} is not one of {', '.join(known)} for {task.kind}")


def run_job(bench: Bench, job: Job) -> Row:
    """Train what the job asks for, and score it on the test split."""
    started_at = time.monotonic()
    index = draw_labels(bench.labels("train"), bench.task, job.count, seed=bench.seed, draw=job.draw)
    logits, note = PROTOCOL[job.protocol](bench, job, index)
    scored = metrics.score(bench.task, bench.labels("test"), logits, bench.metric)
    text, order = job.count.describe()
    return {
        "task": bench.task.name,
        "kind": bench.task.kind,
        "protocol": job.protocol,
        "model": "baseline"
        if job.protocol == "random forest"
        else "untrained"
        if job.protocol == "from scratch"
        else "pretrained",
        "labels": text,
        "labels_order": order,
        "draw": job.draw,
        "pretraining_seed": job.pretraining_seed,
        "metric": bench.metric,
        "score": scored.scores[bench.metric],
        "low": scored.low,
        "high": scored.high,
        "scores": scored.scores,
        "n_train": len(index),
        "n_test": scored.count,
        "elapsed_s": time.monotonic() - started_at,
        "classes": list(bench.task.classes),
        "confusion": None if scored.confusion is None else scored.confusion.tolist(),
        "per_class": scored.per_class,
        "chosen": note,
    }


def _neighbours(bench: Bench, job: Job, index: np.ndarray) -> tuple[np.ndarray, str]:
    seed = _seed(job)
    train, test = bench.features("train", seed)[torch.as_tensor(index)], bench.features("test", seed)
    count = min(bench.recipe.neighbours, len(index))
    return neighbours(train, bench.labels("train")[index], test, bench.task, count), f"{count} neighbours"


def _linear(bench: Bench, job: Job, index: np.ndarray) -> tuple[np.ndarray, str]:
    seed = _seed(job)
    known = labelled(bench.labels("val"), bench.task)
    val, val_labels = bench.features("val", seed)[torch.as_tensor(known)], bench.labels("val")[known]
    train = bench.features("train", seed)[torch.as_tensor(index)]
    fitted = fit_linear(train, bench.labels("train")[index], val, val_labels, bench.task, bench.metric)
    return fitted.predict(bench.features("test", seed)), f"penalty {fitted.penalty:g}"


def _attentive(bench: Bench, job: Job, index: np.ndarray) -> tuple[np.ndarray, str]:
    seed, recipe = _seed(job), bench.recipe.probe
    spec = bench.encoders[seed].spec

    train = Frozen(rows_of(bench.tokens("train", seed), torch.as_tensor(index)), bench.labels("train")[index])
    val = Frozen(bench.tokens("val", seed), bench.labels("val"))

    def attempt(peak: float) -> tuple[float, torch.nn.Module]:
        torch.manual_seed(_weights_seed(bench, job))
        head = make_head(bench.task, bench.recipe.head, spec)
        fitted = probe(head, bench.task, train, val, recipe, metric=bench.metric, seed=bench.seed, peak=peak)
        return fitted.validation, head

    peak = bench.peak("attentive probe", job.count, recipe, lambda p: attempt(p)[0])
    _, head = attempt(peak)
    return predict_head(head, bench.task, bench.tokens("test", seed)), f"peak_lr {peak:g}"


def _finetune(bench: Bench, job: Job, index: np.ndarray) -> tuple[np.ndarray, str]:
    return _train(bench, job, index, bench.encoders[_seed(job)], bench.recipe.finetune)


def _scratch(bench: Bench, job: Job, index: np.ndarray) -> tuple[np.ndarray, str]:
    torch.manual_seed(_weights_seed(bench, job))
    return _train(bench, job, index, Encoder(bench.blank.spec), bench.recipe.from_scratch)


def _train(
    bench: Bench, job: Job, index: np.ndarray, encoder: Encoder, recipe: SupervisedRecipe
) -> tuple[np.ndarray, str]:
    def attempt(peak: float) -> tuple[float, TaskModel]:
        torch.manual_seed(_weights_seed(bench, job))
        model = TaskModel(copy.deepcopy(encoder), bench.task, bench.recipe.head)
        train = Subset(bench.train, index.tolist())
        fitted = finetune(
            model,
            train,
            bench.val,
            recipe,
            metric=bench.metric,
            seed=bench.seed + job.draw,
            device=bench.device,
            peak=peak,
        )
        return fitted.validation, model

    peak = bench.peak(job.protocol, job.count, recipe, lambda p: attempt(p)[0])
    _, model = attempt(peak)
    return predict(model, bench.test, bench.recipe.batch, bench.device), f"peak_lr {peak:g}"


def _forest(bench: Bench, job: Job, index: np.ndarray) -> tuple[np.ndarray, str]:
    known = labelled(bench.labels("val"), bench.task)
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


PROTOCOL: Mapping[Protocol, Any] = {
    "k-NN": _neighbours,
    "linear probe": _linear,
    "attentive probe": _attentive,
    "fine-tune": _finetune,
    "from scratch": _scratch,
    "random forest": _forest,
}
