"""Evaluation: protocols x numbers of labels x draws x pretraining seeds, one row each; finished rows are skipped.

Beside every pretrained score stand the same network from scratch and a random forest, tuned in the same way.
"""

import shutil
import time
from typing import Any

from geomaestro.errors import SpecError
from geomaestro.learn import metrics
from geomaestro.learn.log import bar
from geomaestro.learn.protocols import ANSWERS, WORK, Bench, Job
from geomaestro.learn.recipe import BASELINES, EvaluateRecipe, LabelCount
from geomaestro.learn.regions import by_region
from geomaestro.learn.stopping import Interrupted, catch_signals
from geomaestro.models.task import Task
from geomaestro.runs import append_row, make_folder, read_rows

Row = dict[str, Any]


def jobs(recipe: EvaluateRecipe, seeds: int) -> list[Job]:
    """All rows of an evaluation, cheap protocols first within a number of labels."""
    out = []
    for text in recipe.labels:
        count = LabelCount.parse(text)
        draws = recipe.draws if count.per_class is not None or count.share is not None else 1
        for protocol in recipe.protocols:
            for draw in range(draws):
                out += [Job(protocol, count, draw, s) for s in ([None] if protocol in BASELINES else range(seeds))]
    return out


def evaluate(bench: Bench) -> list[Row]:
    """Do every job that has no row yet; gives all rows, on the first rank.

    Raises:
        SpecError: if a protocol can't answer this kind of task.
    """
    check_protocols(bench.recipe, bench.task)
    path = bench.folder / "rows.jsonl"
    if bench.ranks.first:
        make_folder(bench.folder)
    bench.ranks.wait()
    rows = read_rows(path)
    done = {(r["task"], r["protocol"], r["labels"], r["draw"], r["pretraining_seed"]) for r in rows}
    todo = [job for job in jobs(bench.recipe, len(bench.encoders)) if job.key(bench.task.name) not in done]
    title, done_before, first = f"evaluate {bench.task.name}", len(rows), bench.ranks.first
    with bar(title, done_before + len(todo), done_before, shown=first) as shown, catch_signals() as stop:
        for number, job in enumerate(todo, start=done_before + 1):
            row = run_job(bench, job)
            if row is not None:
                append_row(path, row)
                shutil.rmtree(bench.folder / WORK, ignore_errors=True)
                rows.append(row)
                shown.update(number, f"{job.protocol}, {row['labels']}: {row['score']:.3f}")
            (stops,) = bench.ranks.agree(stop.asked)
            if stops and job is not todo[-1]:
                raise Interrupted(f"stopped after {number} rows of the evaluation, all kept")
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
    for key, training in (("finetune", recipe.finetune), ("scratch", recipe.from_scratch), ("probe", recipe.probe)):
        if training.class_weights and task.kind != "classes":
            raise SpecError(f"evaluate.{key}.class_weights: are for tasks of classes; {task.name!r} is of {task.kind}")
    known = metrics.known_metrics(task.kind)
    if recipe.metric is not None and recipe.metric not in known:
        raise SpecError(f"evaluate.metric: {recipe.metric!r} is not one of {', '.join(known)} for {task.kind}")


def run_job(bench: Bench, job: Job) -> Row | None:
    """Train what the job asks for, and score it on the test split; None on all ranks but the first."""
    started_at = time.monotonic()
    answer = ANSWERS[job.protocol](bench, job)
    if answer is None or not bench.ranks.first:
        return None
    logits, note = answer
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
        "n_train": len(bench.index(job)),
        "n_test": scored.count,
        "elapsed_s": time.monotonic() - started_at,
        "classes": list(bench.task.classes),
        "confusion": None if scored.confusion is None else scored.confusion.tolist(),
        "per_class": scored.per_class,
        "regions": by_region(bench, logits),
        "chosen": note,
    }
