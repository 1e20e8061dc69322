"""One step of a pretraining again, from its state, sample by sample: what made a loss or gradient not a number?

What a step sees follows from (seed, step), so the run folder is enough: recipe, data, and the state before the step.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from geomaestro.data.loader import Share, training_batches
from geomaestro.data.quarantine import QUARANTINE, Quarantine, read_quarantine
from geomaestro.data.reading import Dataset
from geomaestro.errors import CheckpointError, DataError, RunError, SpecError
from geomaestro.learn.augment import augmenting
from geomaestro.learn.blame import Alone, Pass, Pixels, compute, first_not_finite, look_at_each, singles
from geomaestro.learn.checkpoint import read_group
from geomaestro.learn.recipe import PretrainRecipe, load_recipe
from geomaestro.learn.run import Run
from geomaestro.learn.watch import REPORT
from geomaestro.models.autoencoder import Autoencoder
from geomaestro.models.hub import require_fit
from geomaestro.models.kinds import make_autoencoder, read_autoencoder
from geomaestro.runs import read_rows, write_json, write_rows
from geomaestro.samples import Batch, to_device

SEED = re.compile(r"seed\d+")
REPLAY, BAD = "replay.json", "replay.jsonl"  # in the folder of a pretraining; the latter in the format of a quarantine
MOST_SHOWN = 12  # assumed; samples in the table, the file has all
CALM = "lower the learning rate (pretrain.peak_lr) or set pretrain.clip_norm"
HUGE = 1e3  # assumed; a weight this large is no weight of a transformer that learns


@dataclass(frozen=True, slots=True)
class Scene:
    """What a step is replayed from: `found` is what stopped the run there, None if it was a step like others;
    `left_out` are reasons of samples that the run left out.
    """

    folder: Path
    step: int
    seed: int
    recipe: PretrainRecipe
    model: Autoencoder
    parts: Sequence[Batch[Tensor]]
    found: Mapping[str, Any] | None
    left_out: Mapping[str, str]


def replay(folder: Path, step: int | None = None, *, overrides: Sequence[str] = ()) -> str:
    """Replay the step that stopped a pretraining, or any step whose state is kept; gives what to do, in a sentence.

    `folder` is that of the run, or of one of its seeds. Prints a table; writes replay.json, and replay.jsonl if samples
    are to blame.

    Raises:
        RunError: if nothing stopped the run and no step is given, or the state of the step is not kept.
        DataError: if the data are not those of the run.
    """
    scene = set_scene(seed_folder(folder), step, overrides)
    whole = compute(scene.model, scene.parts, scene.recipe.precision)
    samples = [each for part in scene.parts for each in look_at_each(scene.model, part, scene.recipe.precision)]
    said, blamed = judge(scene, whole, samples)
    _write(scene, whole, samples, said, blamed)
    _show(scene, whole, samples, said)
    return said


def seed_folder(folder: Path) -> Path:
    """The folder of the pretraining that is meant.

    Raises:
        RunError: if there is none, or several.
    """
    if SEED.fullmatch(folder.absolute().name) and folder.is_dir():
        return folder.absolute() if folder.name == "" else folder
    seeds = sorted(path for path in folder.glob("pretrain/seed*") if path.is_dir())
    stopped = [path for path in seeds if (path / REPORT).is_file()]
    for found in (stopped, seeds):
        if len(found) == 1:
            return found[0]
    if not seeds:
        raise RunError(f"{folder}: no pretraining there; give a run folder, or RUN/pretrain/seed0")
    raise RunError(f"{folder}: holds {len(seeds)} pretrainings; give one of {', '.join(map(str, seeds))}")


def set_scene(folder: Path, step: int | None, overrides: Sequence[str]) -> Scene:
    """Recipe, data and model of a step, from the folder of a pretraining.

    Raises:
        RunError: see `replay`.
        DataError: if the data can't be opened, or hold other samples.
    """
    number, found = _which_step(folder, step)
    state = folder / "checkpoints" / f"step-{number:08d}"
    if not (state / "state.json").is_file():
        raise RunError(f"{folder}: the state before step {number} is not kept; kept are {_kept(folder)}")
    recipe = load_recipe(folder.parent.parent / "recipe.yaml", tuple(overrides))
    assert recipe.pretrain is not None, "a recipe without pretraining has no such folder"
    run = Run(recipe, folder.parent.parent, "")
    seed = recipe.seed + int(folder.name.removeprefix("seed"))
    try:
        parts = _parts(run.splits.for_pretraining(), recipe.pretrain, folder, seed, number)
        left_out = {} if recipe.data.quarantine is None else read_quarantine(recipe.data.quarantine)
    except (DataError, SpecError) as error:
        hint = f"if the data moved, say where: `geomaestro replay {folder} data.root=FOLDER`"
        raise DataError(f"the samples of step {number} can't be read again: {error}; {hint}") from None
    names = [name for part in parts for name in part.ids]
    if found is not None and found["ids"] != names:
        raise DataError(
            f"{folder}: step {number} now holds other samples than then, {_first_other(found['ids'], names)!r} for "
            "one; the dataset was changed since, so nothing can be said of that step"
        )
    moved = [augmenting(recipe.pretrain)(to_device(part, run.device)) for part in parts]
    return Scene(folder, number, seed, recipe.pretrain, _model(state).to(run.device), moved, found, left_out)


def _which_step(folder: Path, step: int | None) -> tuple[int, dict[str, Any] | None]:
    """The step to replay, and what stopped the run there if anything did."""
    path = folder / REPORT
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if found is not None and step in (None, found["step"]):
        return found["step"], found
    if step is None:
        raise RunError(
            f"{folder}: no {REPORT}, so nothing stopped this run; say with --step which step to replay: "
            f"the states before steps {_kept(folder)} are kept"
        )
    return step, None


def _first_other(then: Sequence[str], now: Sequence[str]) -> str:
    return next((name for name in then if name not in now), then[0] if then else "")


def _kept(folder: Path) -> str:
    steps = [int(path.parent.name.removeprefix("step-")) for path in folder.glob("checkpoints/step-*/state.json")]
    return ", ".join(map(str, sorted(steps))) or "none"


def _parts(dataset: Dataset, recipe: PretrainRecipe, folder: Path, seed: int, step: int) -> list[Batch[Tensor]]:
    """The samples of a step in the parts that they were computed in; unreadable ones are left out as they were then."""
    total = recipe.in_steps(len(dataset), recipe.batch)
    if step >= total:
        raise RunError(f"{folder}: the last step is {total - 1}; the states before steps {_kept(folder)} are kept")
    unreadable = Quarantine(folder / QUARANTINE, len(dataset), 1.0, writes=False)
    share = Share(0, 1, recipe.accumulate)
    steps = {"start": step, "steps": step + 1}
    return list(training_batches(dataset, batch=recipe.batch, seed=seed, **steps, share=share, quarantine=unreadable))


def _model(state: Path) -> Autoencoder:
    """The model of a state.

    Raises:
        CheckpointError: if it can't be read.
    """
    try:
        about = json.loads((state / "state.json").read_text(encoding="utf-8"))
        weights = read_group(state, "model")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{state}: unreadable state ({error})") from None
    model = read_autoencoder(about, str(state))
    require_fit(model.state_dict(), weights, str(state))
    model.load_state_dict(weights, strict=True)
    return model.train()


def judge(scene: Scene, whole: Pass, samples: Sequence[Alone]) -> tuple[str, list[Alone]]:
    """What to do, in a sentence, and the samples to leave out."""
    if poisoned := [name for name, p in scene.model.named_parameters() if not p.isfinite().all()]:
        text = f"{len(poisoned)} weights were not finite before this step, {poisoned[0]} for one; {_last_steps(scene)}"
        return f"{text}; go back to other weights, and {CALM}", []
    bad = [each for each in samples if not each.in_fp32.finite]
    if bad and (2 * len(bad) <= len(samples) or _fail_anew(scene, bad)):
        return _judge_pixels(scene, bad), bad
    rounded = [each for each in samples if not each.as_trained.finite]
    if rounded and not bad:
        place = first_not_finite(scene.model, _single(scene, rounded[0]), scene.recipe.precision)
        return (
            f"{len(rounded)} of {len(samples)} samples, {rounded[0].id!r} for one, are finite in float32 and not in "
            f"{scene.recipe.precision} (first not finite: {place}): set pretrain.precision=fp32"
        ), []
    return _judge_model(scene, whole, bad), []


def _judge_pixels(scene: Scene, bad: Sequence[Alone]) -> str:
    """The sentence where samples are to blame."""
    one, listed = bad[0], scene.folder / BAD
    more = f", and {len(bad) - 1} samples more" if len(bad) > 1 else ""
    place = first_not_finite(scene.model, _single(scene, one), "fp32")
    return (
        f"bad pixels: sample {one.id!r}, {_which(one)}{more} (first not finite: {place}); look at the file, and start "
        f"again without what is listed in {listed}: data.quarantine={listed}"
    )


def _which(sample: Alone) -> str:
    names = sample.sensors or tuple(sample.pixels)
    return f"sensor{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _judge_model(scene: Scene, whole: Pass, bad: Sequence[Alone]) -> str:
    """The sentence where no sample is to blame alone."""
    largest = max(((p.detach().abs().max().item(), name) for name, p in scene.model.named_parameters() if p.numel()))
    weights = f"the largest weight is {largest[0]:.3g}, in {largest[1]}"
    if bad:
        return f"most samples fail with these weights, but not with new ones: {weights}; {_last_steps(scene)}; {CALM}"
    if not whole.finite:
        return f"all samples are finite alone, their batch is not: {weights}; {_last_steps(scene)}; {CALM}"
    if scene.found is not None:
        huge = f"; {weights}" if largest[0] > HUGE else ""
        return (
            f"the step is finite now, alone and together{huge}: it may depend on the device or on the number of ranks; "
            f"go on with --resume, and if it stops again, {CALM}"
        )
    return f"nothing is wrong with this step: {_compare(scene, whole)}"


def _compare(scene: Scene, whole: Pass) -> str:
    """The loss beside the one that was logged."""
    rows = [row for row in read_rows(scene.folder / "metrics.jsonl") if row["step"] == scene.step + 1]
    if not rows:
        return f"its loss is {whole.losses['loss']!r}, which was not logged"
    logged, now = rows[0]["loss"], whole.losses["loss"]
    if logged == now and rows[0]["grad_norm"] == whole.grad_norm:
        return f"its loss {now!r} and gradient norm are those that were logged, bit for bit"
    return f"its loss is {now!r}, and {logged!r} was logged: {abs(now - logged) / max(abs(logged), 1e-30):.1e} apart"


def _last_steps(scene: Scene) -> str:
    """Learning rate and gradient norm of the last rows."""
    rows = [row for row in read_rows(scene.folder / "metrics.jsonl") if row["step"] <= scene.step][-3:]
    if not rows:
        return "no step was made before"
    return "gradient norm and learning rate were " + ", ".join(
        f"{row['grad_norm']:.3g} and {row['lr']:.3g} at step {row['step']}" for row in rows
    )


def _fail_anew(scene: Scene, bad: Sequence[Alone]) -> bool:
    """Whether some of these samples fail with new weights too."""
    torch.manual_seed(scene.seed)
    new = make_autoencoder(scene.model.spec).to(next(scene.model.parameters()).device)
    return any(not compute(new, [_single(scene, each)], "fp32").finite for each in bad)


def _single(scene: Scene, sample: Alone) -> Batch[Tensor]:
    return next(one for part in scene.parts for one in singles(part) if one.ids[0] == sample.id)


def _write(scene: Scene, whole: Pass, samples: Sequence[Alone], said: str, blamed: Sequence[Alone]) -> None:
    """Write replay.json; replay.jsonl too if there are samples to leave out, together with those left out before."""
    largest = {name: p.detach().abs().max().item() for name, p in scene.model.named_parameters() if p.numel()}
    write_json(
        scene.folder / REPLAY,
        {
            "step": scene.step,
            "precision": scene.recipe.precision,
            "do": said,
            "found": scene.found,
            "whole": asdict(whole),
            "samples": [asdict(each) for each in samples],
            "largest_weights": largest,
        },
    )
    if blamed:
        reasons = {**scene.left_out, **{each.id: _reason(each) for each in blamed}}
        write_rows(scene.folder / BAD, [{"id": name, "reason": reason} for name, reason in reasons.items()])


def _reason(sample: Alone) -> str:
    loss, norm = sample.in_fp32.losses["loss"], sample.in_fp32.grad_norm
    return f"loss {loss} and gradient norm {norm} alone, through {_which(sample)}"


def _show(scene: Scene, whole: Pass, samples: Sequence[Alone], said: str) -> None:
    """Print the samples, those that are not finite first."""
    table = Table(title=f"step {scene.step}: loss {whole.losses['loss']:.6g}, gradient norm {whole.grad_norm:.3g}")
    for head in ("sample", "sensor", "stored pixels", "not finite", f"loss, {scene.recipe.precision}", "loss, fp32"):
        table.add_column(head, overflow="fold")
    ordered = sorted(samples, key=lambda each: each.as_trained.finite + each.in_fp32.finite)
    for each in ordered[:MOST_SHOWN]:
        for number, (sensor, pixels) in enumerate(each.pixels.items()):
            table.add_row(*_cells(each, sensor, pixels, first=number == 0), end_section=number == len(each.pixels) - 1)
    console = Console()
    console.print(table)
    if len(samples) > MOST_SHOWN:
        console.print(f"{len(samples) - MOST_SHOWN} more samples in {scene.folder / REPLAY}", markup=False)
    console.print(said, markup=False, highlight=False, soft_wrap=True)


def _cells(sample: Alone, sensor: str, pixels: Pixels, *, first: bool) -> list[str]:
    from rich.markup import escape

    spread = f"{pixels.least:.4g} to {pixels.largest:.4g}, mean {pixels.mean:.4g}" if pixels.count else "none measured"
    losses = [each.losses.get(f"loss/{sensor}") for each in (sample.as_trained, sample.in_fp32)]
    wrong = f"{pixels.not_finite} of {pixels.count}"
    name = f"[red]{escape(sensor)}[/red]" if sensor in sample.sensors else escape(sensor)
    return [
        escape(sample.id) if first else "",
        name,
        spread,
        wrong,
        *("–" if loss is None else f"{loss:.4g}" for loss in losses),
    ]
