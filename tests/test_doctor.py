"""The doctor: exact bytes against real files, clear refusals with a remedy, the right bottleneck, one page in all."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from geomaestro.cli import main
from geomaestro.data.loader import Subset
from geomaestro.data.reading import Dataset, Visit
from geomaestro.errors import SpecError
from geomaestro.learn.checkpoint import save_state
from geomaestro.learn.distributed import ALONE
from geomaestro.learn.doctor import machine
from geomaestro.learn.doctor.examine import examine
from geomaestro.learn.doctor.findings import FORMAT, Findings, page
from geomaestro.learn.doctor.measure import Patient, estimate, first_of, follow, in_turn, look_at, peak_of, some
from geomaestro.learn.doctor.sizes import (
    at,
    gathered_bytes,
    largest,
    model_bytes,
    saved_model_bytes,
    shapes_of,
    state_bytes,
    states_bytes,
)
from geomaestro.learn.optim import make_adamw
from geomaestro.learn.recipe import Optimiser, load_recipe
from geomaestro.learn.run import Run, run_recipe
from geomaestro.models.mae import Mae
from geomaestro.report.html import write_report
from tests.worlds import (
    Watched,
    earth_values,
    make_earth,
    make_recipe,
    make_series,
    open_split,
    recipe_values,
    write_recipe,
)

ROOT = Path(__file__).parents[1]
QUICK_S = 0.5
MIB, GIB = 2**20, 2**30


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_series(tmp_path_factory)


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_earth(tmp_path_factory)


@pytest.fixture(scope="module")
def found(earth: Path) -> Findings:
    """Of a recipe that can run."""
    return examine(make_recipe(earth_values(earth)), Path("runs/earth"), ranks=ALONE, seconds=QUICK_S)


def without_evaluation(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "evaluate"}


def text_of(found: Findings) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    with console.file:
        console.print(page(found))
        return console.export_text()


# ---- exact bytes ----


def test_bytes_of_a_model_in_training_are_those_of_its_tensors(series: Path) -> None:
    run = Run(make_recipe(recipe_values(series)), Path(), "")
    model = run.new_model(0)
    optimiser = make_adamw([{"params": list(model.parameters())}], Optimiser())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimiser.step()
    said = model_bytes(shapes_of(model))
    assert said.weights == sum(p.nbytes for p in model.parameters())
    assert said.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    state = [x for values in optimiser.state.values() for x in values.values() if isinstance(x, torch.Tensor)]
    assert said.optimiser == sum(x.nbytes for x in state)


def test_shards_are_as_long_as_the_longest_of_them() -> None:
    """5 rows on 2 ranks: 3 and 2; a counter for each tensor is on every rank."""
    said = model_bytes({"a": (5, 7), "b": (4,), "c": ()}, ranks=2)
    assert said.weights == said.gradients == 4 * (21 + 2 + 1)
    assert said.optimiser == 2 * said.weights + 4 * 3


def test_a_rank_gathers_all_but_the_blocks_and_two_of_these() -> None:
    shapes = {"a.weight": (3,), "e.blocks.0.x": (10,), "e.blocks.0.y": (5,), "e.blocks.1.x": (11,), "e.norm": (2,)}
    assert gathered_bytes(shapes) == 4 * (5 + 2 * 15)


def test_disk_is_that_of_the_files_of_a_run(series: Path, tmp_path: Path) -> None:
    recipe = make_recipe(without_evaluation(recipe_values(series, pretrain={"save_every_s": 1e-9})))
    said = examine(recipe, tmp_path / "run", ranks=ALONE, seconds=QUICK_S).run
    assert not (tmp_path / "run").exists()
    folder = run_recipe(recipe, tmp_path / "run", command="")
    write_report(folder)
    saved = folder / "pretrain" / "seed0"
    states = [sum(f.stat().st_size for f in s.glob("*.safetensors")) for s in sorted(saved.glob("checkpoints/step-*"))]
    assert states == [said.state_bytes] * 2
    assert (saved / "model" / "model.safetensors").stat().st_size == said.model_bytes
    everything = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert said.kept_bytes == pytest.approx(everything, rel=0.25)
    shapes = shapes_of(Mae(Run(recipe, Path(), "").model_spec()))
    assert saved_model_bytes(shapes) == said.model_bytes < said.state_bytes < state_bytes(shapes)  # dem never learns


def test_states_of_fine_tuning_are_counted(series: Path, tmp_path: Path) -> None:
    """Files of a training with labels, kept by an interruption: weights, moments, the best and averaged weights."""
    run = Run(make_recipe(recipe_values(series)), tmp_path, "")
    model = run.new_model(0)
    optimiser = make_adamw([{"params": list(model.parameters())}], Optimiser())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimiser.step()
    state = model.state_dict()
    averaged = {name: state[name] for name, _ in model.named_parameters()}
    save_state(tmp_path, 1, model, optimiser, {}, more={"best": state, "average": averaged})
    written = sum(f.stat().st_size for f in tmp_path.rglob("*.safetensors"))
    assert written == state_bytes(shapes_of(model), copies=2)


@pytest.mark.parametrize(("saved", "most", "kept"), [(0, 0, 0), (1, 100, 100), (2, 200, 200), (9, 300, 200)])
def test_three_states_are_there_while_one_is_written(saved: int, most: int, kept: int) -> None:
    assert states_bytes(100, saved) == (most, kept)


# ---- memory ----


def test_the_peak_of_a_step_counts_what_is_there_at_once() -> None:
    x = torch.ones(MIB // 4)

    def step() -> torch.Tensor:
        y = x + 1  # two at once at most: y and y + 1, or y + 1 and y + 2
        y = y + 1
        return y + 1

    assert 0 <= peak_of(step, torch.device("cpu")) - 2 * MIB < 100  # and the numbers 1


def test_memory_is_on_the_line_through_two_probes() -> None:
    probes = {2: 900, 4: 1000, 8: 1400}  # by the two largest: 600 and 100 for each sample
    assert at(probes, 8) == 1400 and at(probes, 32) == 3800
    assert largest(probes, 3800) == 32 and largest(probes, 599) == 0
    assert at({2: 50}, 4) == 100


def test_activations_grow_as_predicted_from_smaller_batches(earth: Path) -> None:
    recipe = make_recipe(earth_values(earth))
    assert recipe.pretrain is not None
    patient = Patient(Run(recipe, Path(), "").new_model(0), recipe.pretrain, ALONE)
    dataset = open_split(recipe)
    parts = some(dataset, recipe.pretrain, 8, ALONE.device)
    patient.step(parts)
    peaks = {count: patient.peak(first_of(parts, count)) for count in (1, 2, 8)}
    assert at({1: peaks[1], 2: peaks[2]}, 8) == pytest.approx(peaks[8], rel=0.15)


@pytest.fixture(scope="module")
def refused(earth: Path) -> Findings:
    """Of a recipe whose batch needs about 20 GiB, where 8 are left for all: far from what libraries take."""
    values = earth_values(earth, pretrain={"batch": 4096})
    return examine(make_recipe(values), Path("runs/earth"), ranks=ALONE, seconds=QUICK_S, memory_bytes=8 * GIB)


def test_a_recipe_that_cannot_fit_ends_with_the_remedy(refused: Findings) -> None:
    assert refused.advice.bottleneck == "memory" and refused.advice.refusal is not None
    assert "8.00 GiB are available; set pretrain.accumulate=" in refused.advice.refusal
    assert "pretrain.batch=" in refused.advice.refusal
    shown = text_of(refused).rstrip().splitlines()
    assert any("It will not work: the run needs about" in line for line in shown[-4:])


def test_a_model_that_is_too_large_is_never_built(earth: Path) -> None:
    values = earth_values(earth, model={"size": "large", "dim": 16384, "heads": 128, "head_dim": 128, "depth": 48})
    refused = examine(make_recipe(values), Path("runs/earth"), ranks=ALONE, seconds=QUICK_S, memory_bytes=2**30)
    assert refused.step is None and refused.memory.weights_bytes > 2**35
    assert refused.advice.refusal is not None and "choose a smaller model.size" in refused.advice.refusal


def test_a_full_disk_is_told_before_the_run(earth: Path) -> None:
    refused = examine(make_recipe(earth_values(earth)), Path("runs/e"), ranks=ALONE, seconds=QUICK_S, disk_bytes=1000)
    assert refused.advice.refusal is not None
    assert "1000" not in refused.advice.refusal and "are free on runs/e; free some space" in refused.advice.refusal


# ---- bottleneck and advice ----


def test_slow_reading_is_named_as_the_bottleneck(earth: Path) -> None:
    recipe = make_recipe(earth_values(earth))

    def slow() -> Dataset:
        return Watched(open_split(recipe, "train", "val"), lambda number: time.sleep(0.3))

    said = examine(recipe, Path("runs/earth"), ranks=ALONE, seconds=QUICK_S, opened=slow)
    assert said.advice.bottleneck == "waiting for data"
    assert "of a step is waiting for data" in said.advice.sentences[0]
    assert "geomaestro data pack" in said.advice.sentences[0]
    assert said.step is not None and said.step.wait_s > 1.19  # four samples of .3 s
    assert "No time for: pretrain.workers=2" in text_of(said)


class Recorded(Watched):
    """Notes which samples are read."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset, lambda number: None)
        self.seen: list[int] = []

    def read(self, index: int, visit: Visit | None = None) -> Any:
        self.seen.append(index)
        return super().read(index, visit)


def test_timed_steps_read_samples_that_were_not_read_before(earth: Path) -> None:
    """12 samples of batches of 4: steps 1 and 2 go on where step 0 stopped, and another look starts behind them."""
    recipe = make_recipe(earth_values(earth))
    assert recipe.pretrain is not None
    patient, data = Patient(Run(recipe, Path(), "").new_model(0), recipe.pretrain, ALONE), Recorded(open_split(recipe))
    data = Recorded(open_split(recipe, "train", "val"))
    pace = follow(patient, data, recipe.pretrain, seed=0, seconds=60, most=2)
    assert len(pace.waits) == 1 and len(set(data.seen)) == 8
    follow(patient, data, recipe.pretrain, seed=0, first=2, seconds=60, most=1)
    assert len(set(data.seen)) == 12


def test_a_dataset_is_opened_anew_for_the_steps(earth: Path) -> None:
    recipe, opened = make_recipe(earth_values(earth)), []

    def fresh() -> Dataset:
        opened.append(Recorded(open_split(recipe, "train", "val")))
        return opened[-1]

    examine(recipe, Path("runs/earth"), ranks=ALONE, seconds=QUICK_S, opened=fresh)
    assert len(opened) == 2 and all(dataset.seen for dataset in opened)


def test_no_rate_is_told_of_fewer_than_three_reads(earth: Path) -> None:
    looked = look_at(Subset(open_split(make_recipe(earth_values(earth))), [0, 1]), 0, 1e-9)
    assert (looked.samples, looked.first_s, looked.again_s) == (2, None, None)
    looked = look_at(open_split(make_recipe(earth_values(earth))), 0, 1e-9)
    assert looked.samples == 3 and looked.first_s is not None and looked.again_s is None


def test_rounds_that_there_is_no_time_for_are_not_begun() -> None:
    assert in_turn(lambda: 1.0, lambda: 1.0, -1.0) == ()
    assert in_turn(lambda: 3.0, lambda: 2.0, 60.0) == (1.5,) * 12


def test_what_is_advised_can_be_pasted(earth: Path, tmp_path: Path, found: Findings, refused: Findings) -> None:
    path = write_recipe(tmp_path / "recipe.yaml", earth_values(earth, pretrain={"batch": 4096}))
    assert refused.advice.overrides
    for override in {*refused.advice.overrides, *found.untried, *(trial.override for trial in found.trials)}:
        assert load_recipe(path, (override,)) is not None


def test_samples_held_in_memory_are_counted_twice(series: Path) -> None:
    said = examine(make_recipe(recipe_values(series)), Path("runs/tiny"), ranks=ALONE, seconds=QUICK_S)
    assert said.data.kept == "all" and said.data.held_bytes == 2 * said.data.sample_bytes * said.data.samples
    assert said.data.samples == 45 and said.data.splits == {"train": 30, "val": 15}


def test_trainings_of_an_evaluation_and_their_files_are_counted(series: Path) -> None:
    values = recipe_values(series, evaluate={"finetune": {"save_every_s": 1e-9, "peak_lrs": [1e-3, 2e-3]}})
    run = Run(make_recipe(values), Path(), "")
    said = estimate(run, run.model_spec().encoder, 1, lambda share: 0.0)
    steps = [(work.protocol, work.trainings, work.steps) for work in said.works if work.steps]
    assert steps == [("fine-tune", 3, 18), ("from scratch", 3, 18)]  # two rates are tried, then one is used
    state = 4 * said.model_bytes  # weights, the best of them, and two moments
    assert said.work_bytes == pytest.approx((3 + 2) * state, rel=0.05)


def test_a_run_is_its_steps_times_the_time_of_one(found: Findings) -> None:
    assert found.step is not None and found.run.pretrain_s == pytest.approx(6 * found.step.total_s)
    assert found.samples_per_s == pytest.approx(4 / found.step.total_s)
    assert found.run.steps == 6 and found.run.epochs == pytest.approx(6 * 4 / 12)


def test_waiting_is_that_of_new_samples_in_the_first_epoch(found: Findings) -> None:
    assert found.data.kept == "decoded" and found.step is not None
    step = found.step
    assert step.new_share == 0.5  # 12 of 24 visits
    assert step.wait_s == pytest.approx((step.first_wait_s + step.later_wait_s) / 2)


# ---- the command ----


def test_the_json_says_it_all(earth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path / "recipe.yaml", earth_values(earth))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(path), "pretrain.batch=2", "--seconds", "0.5", "--out", str(tmp_path / "found.json")])
    assert ended.value.code == 0
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "found.json"])
    said = json.loads((tmp_path / "found.json").read_text())
    assert said["format"] == FORMAT
    assert set(said) == {
        *("format", "name", "environment", "data", "step", "memory", "run", "trials", "advice", "elapsed_s"),
        *("untried", "samples_per_s"),
    }
    assert said["step"]["batch"] == 2 and said["memory"]["fits"] is True and said["advice"]["refusal"] is None
    numbers = [*said["memory"].values(), *said["run"].values(), *said["step"].values()]
    assert all(x >= 0 for x in numbers if isinstance(x, int | float))
    shown = capsys.readouterr().out
    assert "What limits it" in shown and "findings:" in shown


def test_a_run_that_cannot_work_gives_1(earth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path / "recipe.yaml", earth_values(earth))
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", str(path), "--seconds", "0.5", "--memory-gib", "0.01"])
    assert stopped.value.code == 1
    assert "It will not work" in capsys.readouterr().out


def test_an_error_of_the_recipe_is_the_usual_one(earth: Path) -> None:
    values = {key: value for key, value in earth_values(earth).items() if key != "pretrain"}
    with pytest.raises(SpecError, match="has no `pretrain`"):
        examine(make_recipe(values), Path("runs/earth"), ranks=ALONE, seconds=QUICK_S)


def test_two_ranks_print_one_page(series: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "recipe.yaml", without_evaluation(recipe_values(series)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "geomaestro"]
    command += ["doctor", str(path), "pretrain.parallel=fsdp", "--seconds=1", f"--out={tmp_path / 'found.json'}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("What limits it") == 1
    said = json.loads((tmp_path / "found.json").read_text())
    assert said["environment"]["ranks"] == 2 and said["step"]["ranks_s"] is not None
    shapes = shapes_of(Mae(Run(load_recipe(path), Path(), "").model_spec()))
    assert said["memory"]["weights_bytes"] == model_bytes(shapes, ranks=2).weights


# ---- the machine ----


def test_the_file_system_of_a_folder_that_is_not_there_yet_is_known(tmp_path: Path) -> None:
    said = machine.place(tmp_path / "not" / "yet")
    assert said.filesystem == machine.filesystem(tmp_path) and said.free_bytes > 0


@pytest.mark.parametrize(
    ("kind", "remote"),
    [("nfs4", True), ("lustre", True), ("fuse.sshfs", True), ("ext4", False), ("overlay", False), ("xfs", False)],
)
def test_file_systems_of_other_machines_are_told_apart(kind: str, remote: bool) -> None:
    assert bool(machine.REMOTE.search(kind)) is remote


def test_available_memory_is_between_what_is_used_and_what_there_is() -> None:
    available = machine.available_bytes(torch.device("cpu"))
    assert 0 < machine.resident_bytes() < available <= machine.ram_bytes()
