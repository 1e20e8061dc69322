"""Two processes train as one does: same samples, same rows, same weights, one error where one of them fails.

All trainings run in one start of torchrun (tests/ranks.py), on gloo, and are compared with one process here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from geomaestro.learn.checkpoint import load_state, newest, read_group
from geomaestro.learn.optim import make_adamw
from geomaestro.runs import read_rows
from tests import ranks
from tests.worlds import make_earth

ROOT = Path(__file__).parents[1]
TIMES = {"samples_per_s", "elapsed_s", "waited_s"}
SIGNS = ("beyond_mean/", "likeness")  # statistics of each part of a batch by itself, so they depend on its size
# One process and two add the same numbers in another order. Measured: 3e-7.
ROWS = 1e-5
# One step of the peak learning rate: Adam divides by the size of a gradient, so that rounding moves a weight whose
# gradient is almost nothing. Measured: 1.2e-5, and 3.2e-4 for 159 of 320,000 weights of a tensor; moments 1e-9.
WEIGHTS, MOMENTS = 1e-3, 1e-6
BF16_ROWS = 2e-2  # weights of shards are gathered in bf16, whose spacing is 0.8 %. Measured: 3e-3; weights 4e-3

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_earth(tmp_path_factory)


@pytest.fixture(scope="module")
def trained(earth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all trainings, of one process and of two."""
    out = tmp_path_factory.mktemp("ranks")
    ranks.train(earth, out / "alone")
    ranks.train(earth, out / "alone bf16", precision="bf16")
    for how in ("ddp", "fsdp"):
        ranks.train(earth, out / f"alone, then {how}", stop_at=12)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.ranks"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *launch, str(out), str(earth)],
        cwd=ROOT,
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    for how in ("ddp", "fsdp"):
        ranks.train(earth, out / f"{how} stopped")
    return out


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows = read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMES and not k.startswith(SIGNS)} for row in rows]


def group(folder: Path, name: str) -> dict[str, Tensor]:
    path = newest(folder / "checkpoints")
    assert path is not None and path.name == f"step-{ranks.STEPS:08d}"
    return read_group(path, name)


def assert_alike(
    ours: Path, theirs: Path, *, rows: float = ROWS, weights: float = WEIGHTS, moments: float = MOMENTS
) -> None:
    """Rows to a relative tolerance, weights to an absolute one."""
    mine, other = rows_of(ours), rows_of(theirs)
    assert [row["step"] for row in mine] == list(range(1, ranks.STEPS + 1))
    for one, two in zip(mine, other, strict=True):
        assert one == pytest.approx(two, rel=rows, abs=rows * 1e-3)
    for name, near in (("model", weights), ("optimiser", moments)):
        one_group, two_group = group(ours, name), group(theirs, name)
        assert one_group.keys() == two_group.keys()
        for key, value in one_group.items():
            torch.testing.assert_close(value, two_group[key], rtol=0, atol=near)


# ---- what two processes compute ----


@pytest.mark.parametrize("mode", [name for name in ranks.MODES if "bf16" not in name])
def test_two_ranks_compute_what_one_process_does(trained: Path, mode: str) -> None:
    assert_alike(trained / mode, trained / "alone")


def test_shards_in_bf16_stay_near_one_process_in_bf16(trained: Path) -> None:
    assert_alike(trained / "fsdp bf16", trained / "alone bf16", rows=BF16_ROWS, weights=1e-2, moments=1e-3)
    assert all(value.dtype == torch.float32 for value in group(trained / "fsdp bf16", "model").values())


@pytest.mark.parametrize("mode", list(ranks.MODES))
def test_the_ranks_share_each_step_and_read_no_sample_twice(trained: Path, earth: Path, mode: str) -> None:
    read = [about["read"] for about in ranks.told(trained / mode)]
    half = ranks.BATCH // 2
    assert [len(names) for names in read] == [half * ranks.STEPS] * 2
    for step in range(ranks.STEPS):
        both = [name for names in read for name in names[step * half : (step + 1) * half]]
        assert both == ranks.names_of_step(earth, step)


def test_copies_and_shards_give_the_same_bits(trained: Path) -> None:
    """The sum of two ranks' gradients does not depend on how it is cut into pieces; Adam's squares do in their last
    bit, since what is left over when a shard is cut into vectors is rounded otherwise (measured: 2 of 375 tensors).
    """
    for one, two in (("ddp", "fsdp"), ("ddp in parts", "fsdp in parts")):
        ours, theirs = group(trained / one, "model"), group(trained / two, "model")
        assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
        squares = group(trained / two, "optimiser")
        for name, value in group(trained / one, "optimiser").items():
            torch.testing.assert_close(value, squares[name], rtol=1e-6, atol=1e-12)


# ---- states ----


def test_a_state_of_copies_or_shards_is_read_by_the_other(trained: Path) -> None:
    assert ranks.told(trained / "states") == [{"ddp read by fsdp": True, "fsdp read by ddp": True}] * 2


def test_one_process_reads_the_shards_of_two(trained: Path, earth: Path) -> None:
    path = newest(trained / "fsdp" / "checkpoints")
    assert path is not None and (path / "shards").is_dir() and not (path / "model.safetensors").exists()
    model, _, recipe = ranks.begin(earth)
    load_state(path, model, make_adamw([{"params": list(model.parameters())}], recipe))
    theirs = group(trained / "ddp", "model")
    assert all(value.equal(theirs[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_one_process_goes_on_with_what_two_began(trained: Path, how: str) -> None:
    two, one = ranks.told(trained / f"{how} stopped")[1], ranks.told(trained / f"{how} stopped")[0]
    assert two["text"] == f"stopped after step 2 of {ranks.STEPS}, state saved"  # the signal came to the second alone
    assert len(one["read"]) == 2 * ranks.BATCH  # one process read what was left
    assert_alike(trained / f"{how} stopped", trained / "alone")


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_go_on_with_what_one_began(trained: Path, earth: Path, how: str) -> None:
    folder, half = trained / f"alone, then {how}", ranks.BATCH // 2
    read = [about["read"] for about in ranks.told(folder)]
    for number, step in enumerate(range(2, ranks.STEPS)):
        both = [name for names in read for name in names[number * half : (number + 1) * half]]
        assert both == ranks.names_of_step(earth, step)
    assert_alike(folder, trained / "alone")


# ---- failures of one rank ----


def test_a_sample_that_one_rank_cannot_read_is_known_to_all_and_listed_once(trained: Path, earth: Path) -> None:
    folder, name = trained / "one unreadable", ranks.names_of_step(earth, 0)[-1]
    assert [about["error"] for about in ranks.told(folder)] == [None, None]
    assert read_rows(folder / "quarantine.jsonl") == [{"id": name, "reason": f"{name}: made unreadable"}]
    assert len(rows_of(folder)) == ranks.STEPS


def test_a_rank_without_any_readable_sample_takes_part_in_the_step(trained: Path, earth: Path) -> None:
    folder, names = trained / "a part unreadable", ranks.names_of_step(earth, 0)[ranks.BATCH // 2 :]
    assert [about["error"] for about in ranks.told(folder)] == [None, None]
    assert {row["id"] for row in read_rows(folder / "quarantine.jsonl")} == set(names)
    assert len(rows_of(folder)) == ranks.STEPS


def test_too_many_unreadable_samples_stop_all_ranks_with_one_text(trained: Path) -> None:
    folder = trained / "too many unreadable"
    one, two = ranks.told(folder)
    assert one["error"] == "DataError" and one["text"] == two["text"]
    assert one["text"].startswith("1 of 8 samples cannot be read, more than `pretrain.max_bad_share` allows (1.00%)")
    assert len(read_rows(folder / "quarantine.jsonl")) == 1 and rows_of(folder) == []


def test_a_step_without_any_readable_sample_says_so_on_all_ranks(trained: Path) -> None:
    for about in ranks.told(trained / "none readable"):
        assert about["error"] == "DataError"
        assert about["text"].startswith("no sample of a step can be read; the first: earth_train_0000")


@pytest.mark.parametrize("name", ["not a number", "not a number, fsdp"])
def test_a_loss_that_is_not_a_number_on_one_rank_stops_all_before_the_weights_move(
    trained: Path, earth: Path, name: str
) -> None:
    one, two = ranks.told(trained / name)
    assert one["error"] == two["error"] == "NonFiniteError" and one["text"] == two["text"]
    assert "at step 0; the weights were not changed" in one["text"]
    state = newest(trained / name / "checkpoints")
    assert state is not None
    ours, theirs = read_group(state, "model"), ranks.begin(earth)[0].state_dict()
    assert all(value.equal(theirs[key]) for key, value in ours.items())
    assert set(ranks.names_of_step(earth, 0)) == set(read_ids(trained / name))


def read_ids(folder: Path) -> list[str]:
    return list(json.loads((folder / "non_finite.json").read_text())["ids"])


def test_a_batch_that_cannot_be_shared_is_refused_before_a_folder_is_made(trained: Path) -> None:
    text = "pretrain.batch: 5 can't be shared evenly by 2 ranks x accumulate 1; choose a multiple of 2"
    assert ranks.told(trained / "not shareable, told") == [{"text": text, "made": False}] * 2
