"""Pretraining: it learns, it can be killed anywhere and resumed bit for bit, it refuses what is not a number."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from geomaestro.data.loader import Subset
from geomaestro.data.reading import Dataset
from geomaestro.errors import CheckpointError, NonFiniteError
from geomaestro.learn.checkpoint import (
    _save_shards,
    _shards_in,
    convert_state,
    load_state,
    newest,
    optimiser_tensors,
    save_state,
)
from geomaestro.learn.distributed import Ranks
from geomaestro.learn.optim import Average, make_adamw, set_learning_rate
from geomaestro.learn.pretrain import pretrain
from geomaestro.learn.recipe import PretrainRecipe
from geomaestro.learn.run import Run
from geomaestro.learn.stopping import Interrupted, catch_signals
from geomaestro.learn.watch import Watch
from geomaestro.models.hub import load_mae
from geomaestro.models.mae import Mae
from geomaestro.runs import read_rows, write_json
from geomaestro.samples import Sample
from tests.worlds import (
    Watched,
    earth_values,
    make_earth,
    make_recipe,
    make_series,
    open_split,
    recipe_values,
)

ROOT = Path(__file__).parents[1]
TIMES = ("samples_per_s", "elapsed_s", "waited_s")


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_series(tmp_path_factory)


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_earth(tmp_path_factory)


def start(values: dict[str, Any], **settings: Any) -> tuple[Mae, Dataset, PretrainRecipe]:
    """A new model, its data, and how to train."""
    recipe = make_recipe(values)
    assert recipe.pretrain is not None
    model = Run(recipe, Path(), "").new_model(0)
    return model, open_split(recipe), recipe.pretrain.model_copy(update=settings)


def train(
    values: dict[str, Any], folder: Path, *, before_read: Callable[[int], None] | None = None, **settings: Any
) -> Mae:
    model, dataset, recipe = start(values, **settings)
    watched = dataset if before_read is None else Watched(dataset, before_read)
    pretrain(model, watched, recipe, folder, seed=3)
    return model


def assert_same_end(ours: Path, theirs: Path, step: int) -> None:
    """Weights and optimiser bit by bit, losses digit by digit."""
    for name in ("model.safetensors", "optimiser.safetensors"):
        one, two = (f / "checkpoints" / f"step-{step:08d}" / name for f in (ours, theirs))
        assert one.read_bytes() == two.read_bytes(), name
    rows = [
        [{k: v for k, v in r.items() if k not in TIMES} for r in read_rows(f / "metrics.jsonl")] for f in (ours, theirs)
    ]
    assert rows[0] == rows[1] and [r["step"] for r in rows[0]] == list(range(1, step + 1))


# ---- it learns ----


def test_the_loss_falls_on_made_series(series: Path, tmp_path: Path) -> None:
    train(recipe_values(series), tmp_path, steps=60, batch=16, peak_lr=5e-3)
    losses = [row["loss"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


def test_the_loss_falls_on_a_made_earth(earth: Path, tmp_path: Path) -> None:
    train(earth_values(earth), tmp_path, steps=24, peak_lr=5e-3)
    losses = [row["loss"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert np.mean(losses[-6:]) < 0.95 * np.mean(losses[:6])


def test_a_row_says_what_a_step_did(series: Path, tmp_path: Path) -> None:
    train(recipe_values(series), tmp_path, log_every=4, steps=10)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [4, 8, 10]
    assert rows[0]["samples"] == 32 and rows[0]["epoch"] == pytest.approx(32 / 30)
    assert set(rows[0]) >= {"loss", "loss/s2", "loss/s1", "lr", "grad_norm", "samples_per_s", "elapsed_s"}
    assert all(np.isfinite(value) for row in rows for value in row.values())


def test_the_first_step_is_adamws_with_its_learning_rate(series: Path, tmp_path: Path) -> None:
    """Adam's first step moves every weight that has a gradient by lr, whatever its size, after the decay."""
    model, dataset, recipe = start(recipe_values(series), steps=1, weight_decay=0.1, peak_lr=1e-2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    pretrain(model, dataset, recipe, tmp_path, seed=0)
    moved = {n: (p.detach() - before[n] * (1 - 1e-2 * 0.1)).abs() for n, p in model.named_parameters()}
    share = torch.cat([x.flatten() for x in moved.values()])
    assert ((share - 1e-2).abs() < 1e-4).float().mean() > 0.8 and share.max() < 1e-2 * 1.001


def test_two_runs_of_one_seed_are_the_same_run(series: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(recipe_values(series), tmp_path / name)
    assert_same_end(tmp_path / "one", tmp_path / "two", 6)


def test_workers_change_nothing(earth: Path, tmp_path: Path) -> None:
    train(earth_values(earth), tmp_path / "none", steps=3)
    train(earth_values(earth), tmp_path / "two", steps=3, workers=2)
    assert_same_end(tmp_path / "none", tmp_path / "two", 3)


# ---- kill and resume ----


@pytest.fixture(scope="module")
def uninterrupted(earth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(earth_values(earth), folder)
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_bit_for_bit(
    earth: Path, tmp_path: Path, uninterrupted: Path, number: signal.Signals
) -> None:
    def stop(read: int) -> None:
        if read == 10:  # in the third batch of four
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="stopped after step 3 of 6, state saved"):
        train(earth_values(earth), tmp_path, before_read=stop)
    reads: list[int] = []
    train(earth_values(earth), tmp_path, before_read=reads.append)
    assert len(reads) == 12  # three steps were left
    assert_same_end(tmp_path, uninterrupted, 6)


def test_a_run_stopped_at_every_step_ends_the_same(earth: Path, tmp_path: Path, uninterrupted: Path) -> None:
    def stop(read: int) -> None:
        if read == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    for step in range(1, 7):
        with pytest.raises(Interrupted, match=f"stopped after step {step} of 6"):
            train(earth_values(earth), tmp_path, before_read=stop)
    train(earth_values(earth), tmp_path, before_read=stop)
    assert_same_end(tmp_path, uninterrupted, 6)


def test_a_run_killed_outright_goes_on_bit_for_bit(earth: Path, tmp_path: Path, uninterrupted: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from tests.test_pretrain import train, earth_values\n"
        "kill = lambda read: os.kill(os.getpid(), 9) if read == 14 else None\n"
        "train(earth_values(Path(sys.argv[1])), Path(sys.argv[2]), before_read=kill, save_every_s=1e-9)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-c", code, str(earth), str(tmp_path)], env=env, check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000002", "step-00000003"]
    train(earth_values(earth), tmp_path)
    assert_same_end(tmp_path, uninterrupted, 6)


def test_rows_of_steps_after_the_state_are_dropped(earth: Path, tmp_path: Path, uninterrupted: Path) -> None:
    def fail(read: int) -> None:
        if read == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(earth_values(earth), tmp_path, before_read=fail)
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 5 and newest(tmp_path / "checkpoints") is None
    train(earth_values(earth), tmp_path)
    assert_same_end(tmp_path, uninterrupted, 6)


def test_a_finished_pretraining_is_not_done_again(series: Path, tmp_path: Path) -> None:
    first = train(recipe_values(series), tmp_path).state_dict()
    again = train(recipe_values(series), tmp_path).state_dict()
    assert all(first[name].equal(again[name]) for name in first)
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 6


def test_a_half_written_state_is_passed_over(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    for step in (1, 2, 3):
        save_state(tmp_path, step, model, optimiser, {"elapsed_s": 0.0})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    (tmp_path / "step-00000003" / "state.json").unlink()
    assert newest(tmp_path) == tmp_path / "step-00000002"


def test_a_damaged_state_says_how_to_go_on(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    save_state(tmp_path, 1, model, optimiser, {})
    path = tmp_path / "step-00000001"
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[:-5])
    with pytest.raises(CheckpointError, match=r"unreadable state .*; remove this folder to resume from the one before"):
        load_state(path, model, optimiser)


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    small, big = nn.Linear(2, 2), nn.Linear(3, 2)
    save_state(tmp_path, 1, small, torch.optim.AdamW(small.parameters()), {})
    with pytest.raises(CheckpointError, match="weights do not fit the model: weight is"):
        load_state(tmp_path / "step-00000001", big, torch.optim.AdamW(big.parameters()))


def test_a_state_makes_a_model_folder(series: Path, tmp_path: Path) -> None:
    model = train(recipe_values(series), tmp_path)
    path = newest(tmp_path / "checkpoints")
    assert path is not None and convert_state(path, tmp_path / "model")[0].startswith("118 tensors")
    back = load_mae(tmp_path / "model")
    assert back.spec == model.spec
    assert all(value.equal(back.state_dict()[name]) for name, value in model.state_dict().items())
    about = json.loads((path / "state.json").read_text())
    del about["mae"]
    (path / "state.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="a state of a training with labels"):
        convert_state(path, tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"no state of a training there; below it are .*step-00000006"):
        convert_state(tmp_path, tmp_path / "other")


def test_a_state_is_not_written_over_by_itself(tmp_path: Path) -> None:
    """The state before a step that is not a number may be there already: it must not be lost to a second writing."""
    model = nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    save_state(tmp_path, 3, model, optimiser, {})
    before = (tmp_path / "step-00000003" / "model.safetensors").stat()
    save_state(tmp_path, 3, model, optimiser, {})
    after = (tmp_path / "step-00000003" / "model.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # one process may write shards, too
def test_shards_are_read_whole_or_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimiser, theirs = (
        make_adamw([{"params": list(m.parameters())}], PretrainRecipe(steps=1)) for m in (model, other)
    )
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    state = tmp_path / "step-00000001"
    groups = {"model": model.state_dict(), "optimiser": optimiser_tensors(model, optimiser)}
    _save_shards(state / "shards", groups)
    write_json(state / "state.json", {"step": 1, "shards": _shards_in(state, Ranks())})
    assert load_state(state, other, theirs)["step"] == 1
    assert other.weight.equal(model.weight)
    moments = optimiser_tensors(other, theirs)
    assert all(value.equal(moments[name]) for name, value in groups["optimiser"].items()) and len(moments) == 6
    file = next((state / "shards").iterdir())
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"safetensors: missing or cut short; remove .*step-00000001"):
        load_state(state, other, theirs)
    file.unlink()
    with pytest.raises(CheckpointError, match="missing or cut short"):
        convert_state(state, tmp_path / "model")


def test_an_accelerator_holds_the_optimiser_still_until_the_host_looks(tmp_path: Path) -> None:
    """As on CUDA, with torch's own skipping, which the CPU's fused AdamW has too."""
    weight = nn.Parameter(torch.ones(3))
    optimiser = make_adamw([{"params": [weight]}], PretrainRecipe(steps=1))
    set_learning_rate(optimiser, 0.1)
    average = Average(nn.ParameterList([weight]), 0.5)
    watch = Watch(optimiser, torch.device("cpu"), lambda found: NonFiniteError(f"step {found.step}"))
    watch.held = torch.zeros(())
    optimiser.found_inf = watch.held  # type: ignore[attr-defined]
    seen = []
    for step, loss in enumerate([1.0, float("nan"), 2.0]):
        weight.grad = torch.full((3,), loss)
        watch.see(step, torch.tensor(loss), torch.tensor(1.0))
        optimiser.step()
        average.update(nn.ParameterList([weight]), watch.held)
        seen.append((weight.detach().clone(), average.weights[0].clone()))
    assert not seen[0][0].equal(torch.ones(3))
    assert all(seen[0][i].equal(later[i]) for later in seen[1:] for i in (0, 1))
    with pytest.raises(NonFiniteError, match="step 1"):
        watch.look()


def test_a_signal_that_nobody_inside_heeded_reaches_who_is_outside() -> None:
    with catch_signals() as outside:
        with catch_signals():
            os.kill(os.getpid(), signal.SIGTERM)
        assert outside.asked


def test_a_second_signal_stops_at_once_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with catch_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# ---- what is not a number ----


class Spoilt(Watched):
    """One sample has values so large that their square is infinite."""

    def read(self, index: int, visit: Any = None) -> Sample[np.ndarray]:
        sample = super().read(index, visit)
        if sample.id != "field 8":
            return sample
        return replace(sample, images={**sample.images, "s1": np.full_like(sample.images["s1"], 3e30)})


def test_a_loss_that_is_not_a_number_stops_before_the_weights_move(series: Path, tmp_path: Path) -> None:
    model, dataset, recipe = start(recipe_values(series), steps=30, save_every_s=1e-9)
    with pytest.raises(NonFiniteError) as caught:
        pretrain(model, Spoilt(dataset, lambda _: None), recipe, tmp_path, seed=0)
    about = json.loads((tmp_path / "non_finite.json").read_text())
    assert "field 8" in about["ids"] and len(about["ids"]) == 8
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert about["step"] == len(rows) and all(np.isfinite(row["loss"]) for row in rows)
    assert str(tmp_path / "non_finite.json") in str(caught.value)
    assert f"at step {about['step']}; the weights were not changed" in str(caught.value)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    kept, _, _ = start(recipe_values(series))
    load_state(newest(tmp_path / "checkpoints") or tmp_path, kept, torch.optim.AdamW(kept.parameters()))
    assert all(a.equal(b) for a, b in zip(model.parameters(), kept.parameters(), strict=True))


def test_poisoned_weights_stop_at_the_first_step_unchanged(series: Path, tmp_path: Path) -> None:
    model, dataset, recipe = start(recipe_values(series))
    with torch.no_grad():
        next(model.pixels.parameters()).fill_(float("nan"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(NonFiniteError, match="loss nan and gradient norm nan at step 0"):
        pretrain(model, dataset, recipe, tmp_path, seed=0)
    assert all(torch.equal(value.nan_to_num(), before[name].nan_to_num()) for name, value in model.state_dict().items())


def test_an_infinite_learning_rate_stops_at_once(series: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="lower the learning rate"):
        train(recipe_values(series), tmp_path, peak_lr=float("inf"))


@pytest.mark.parametrize("sample", [3, 5])
def test_a_batch_with_nothing_to_rebuild_is_no_error(series: Path, tmp_path: Path, sample: int) -> None:
    """Sample 3 has no s1, sample 5 nothing but its elevation: a small batch may hold nothing else."""
    model, dataset, recipe = start(recipe_values(series), batch=1, steps=2)
    pretrain(model, Subset(dataset, [sample]), recipe, tmp_path, seed=0)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert len(rows) == 2 and all(np.isfinite(row["loss"]) for row in rows)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_gradients_are_clipped_where_the_recipe_says_so(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def spied(self: torch.optim.AdamW, *args: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(nn.utils.get_total_norm(gradients)))
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", spied)
    train(recipe_values(series), tmp_path, clip_norm=0.01)
    assert norms == pytest.approx([0.01] * 6, rel=1e-3)
    assert all(row["grad_norm"] > 0.01 for row in read_rows(tmp_path / "metrics.jsonl"))
