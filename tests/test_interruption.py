"""A run survives what ends it: kill -9 between any two writes, a full disk, a folder that can't be written or is gone.

After each there is one clear error, nothing is lost, and the run goes on to the very bits of one that was left alone.
What goes wrong does so in a process of its own (tests/faults.py), with the errors of the real operating system.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from geomaestro.learn.checkpoint import newest, read_group
from geomaestro.runs import append_row, clear_unfinished, lock, read_rows
from tests.faults import NO_DISK, READ_ONLY
from tests.worlds import earth_values, make_earth, write_recipe

ROOT = Path(__file__).parents[1]
STEPS = 5
TIMES = {"samples_per_s", "elapsed_s", "waited_s"}
SEED0 = Path("pretrain") / "seed0"

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="signals, limits and mounts are those of Linux"),
]


class Machine:
    """A process that runs commands, each with something that goes wrong."""

    def __init__(self, folder: Path) -> None:
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        program, pipe = [sys.executable, "-m", "tests.faults"], subprocess.PIPE
        self.process = subprocess.Popen(program, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, text=True)
        self.out = folder / "out"

    def ask(self, *steps: tuple[list[str], dict[str, Any]], **more: Any) -> tuple[int, int]:
        """Id and status of the process that ran these commands, each with its fault."""
        assert self.process.stdin is not None and self.process.stdout is not None
        listed = [{"tokens": tokens, "fault": fault} for tokens, fault in steps]
        self.process.stdin.write(json.dumps({"steps": listed, "out": str(self.out), **more}) + "\n")
        self.process.stdin.flush()
        pid, status = json.loads(self.process.stdout.readline())
        return pid, status

    def run(self, tokens: list[str], **fault: Any) -> tuple[int, str]:
        """Exit code and output of one command."""
        assert self.ask((tokens, fault))[1] == 0
        return self.codes()[0], self.out.read_text()

    def codes(self) -> list[int]:
        """The exit codes of the last request."""
        return list(json.loads(Path(f"{self.out}.codes").read_text()))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("machine"))
    yield made
    assert made.process.stdin is not None and made.process.stdout is not None
    made.process.stdin.close()
    made.process.stdout.close()
    made.process.wait(timeout=30)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that saves after every step."""
    values = earth_values(make_earth(tmp_path_factory), pretrain={"steps": STEPS, "save_every_s": 1e-9})
    return write_recipe(tmp_path_factory.mktemp("recipe") / "earth.yaml", values)


@pytest.fixture(scope="module")
def alone(machine: Machine, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert machine.run(pretrain(recipe, folder))[0] == 0
    return folder


def pretrain(recipe: Path, folder: Path, *more: str) -> list[str]:
    return ["pretrain", str(recipe), *more, "--out", str(folder)]


def resume(recipe: Path, folder: Path, *more: str) -> list[str]:
    return [*pretrain(recipe, folder, *more), "--resume"]


def content(folder: Path) -> dict[str, bytes]:
    """All that a run holds, but for its lock."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Weights, optimiser and model byte by byte, rows digit by digit, and no file too many or too few."""
    one, two = content(ours), content(theirs)
    assert one.keys() == two.keys()
    assert {k for k in one if k.endswith(".safetensors") and one[k] != two[k]} == set()
    rows = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(folder / SEED0 / "metrics.jsonl")]
        for folder in (ours, theirs)
    ]
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == list(range(1, STEPS + 1))


def step_of(folder: Path) -> int:
    """The step of the newest whole state."""
    path = newest(folder / SEED0 / "checkpoints")
    return 0 if path is None else int(path.name.removeprefix("step-"))


def unfinished(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*.unfinished")]


# ---- kill -9 ----


def test_a_run_killed_while_it_writes_goes_on_bit_for_bit(
    machine: Machine, recipe: Path, tmp_path: Path, alone: Path
) -> None:
    """os.replace ends each write: two of them start a run, then come three for each state, its state.json last."""
    folder = tmp_path / "run"
    code, _ = machine.run(pretrain(recipe, folder), call="replace", number=7, signal=signal.SIGKILL)
    assert code == -signal.SIGKILL and step_of(folder) == 1
    half = folder / SEED0 / "checkpoints" / "step-00000002"
    assert (half / "model.safetensors").is_file() and not (half / "state.json").exists()
    assert [name for name in unfinished(folder) if name.startswith(".optimiser")]
    with (folder / SEED0 / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # what a kill may leave of a row

    code, _ = machine.run(resume(recipe, folder), call="replace", number=4, signal=signal.SIGKILL)
    assert code == -signal.SIGKILL and step_of(folder) == 1  # before the state.json of step 2
    assert [name.split(".")[1] for name in unfinished(folder)] == ["state"]  # those of the first kill are gone

    code, _ = machine.run(resume(recipe, folder), call="fsync", number=12, signal=signal.SIGKILL)
    assert code == -signal.SIGKILL and step_of(folder) == 2
    code, text = machine.run(resume(recipe, folder))
    assert code == 0, text
    assert_same_run(folder, alone)


def test_a_kill_before_anything_is_written_leaves_a_folder_to_go_on_with(
    machine: Machine, recipe: Path, tmp_path: Path, alone: Path
) -> None:
    folder = tmp_path / "run"
    code, _ = machine.run(pretrain(recipe, folder), call="replace", number=1, signal=signal.SIGKILL)
    assert code == -signal.SIGKILL and not (folder / "recipe.yaml").exists()
    assert machine.run(resume(recipe, folder))[0] == 0
    assert_same_run(folder, alone)


# ---- a disk that is full, read-only or gone ----


def test_a_file_that_the_system_refuses_is_one_error_and_the_run_goes_on_later(
    machine: Machine, recipe: Path, tmp_path: Path, alone: Path
) -> None:
    folder = tmp_path / "run"
    machine.run(pretrain(recipe, folder), call="replace", number=10, signal=signal.SIGKILL)
    before = content(newest(folder / SEED0 / "checkpoints") or folder)
    code, text = machine.run(resume(recipe, folder), file_bytes=50_000)
    assert code == 1 and "Traceback" not in text
    assert "model.safetensors: could not be written (File too large); free some space" in " ".join(text.split())
    assert unfinished(folder) == [] and content(newest(folder / SEED0 / "checkpoints") or folder) == before
    assert machine.run(resume(recipe, folder))[0] == 0
    assert_same_run(folder, alone)


def on_a_disk(machine: Machine, tmp_path: Path, options: str, *steps: Any) -> Path:
    """Run commands on a disk of their own, and give a copy of it."""
    disk = {"folder": str(tmp_path / "disk"), "options": options, "copy": str(tmp_path / "copy")}
    Path(disk["folder"]).mkdir()
    if machine.ask(*steps, disk=disk)[1] == NO_DISK:
        pytest.skip("this system lets nobody mount a disk in memory")
    return tmp_path / "copy"


def test_a_full_disk_is_one_error_and_the_run_goes_on_when_there_is_room(
    machine: Machine, recipe: Path, tmp_path: Path, alone: Path
) -> None:
    state = sum(len(x) for x in content(newest(alone / SEED0 / "checkpoints") or alone).values())
    folder, size = tmp_path / "disk" / "run", f"size={int(2.5 * state)}"  # the third state finds no room
    more = {"disk": str(tmp_path / "disk"), "options": "size=64m"}
    copy = on_a_disk(machine, tmp_path, size, (pretrain(recipe, folder), {}), (resume(recipe, folder), more))
    text = " ".join(machine.out.read_text().split())
    assert machine.codes() == [1, 0], text
    assert "could not be written (No space left on device); free some space" in text and "Traceback" not in text
    assert_same_run(copy / "run", alone)


def test_a_disk_that_turned_read_only_is_one_error_and_the_run_goes_on_after(
    machine: Machine, recipe: Path, tmp_path: Path, alone: Path
) -> None:
    folder, disk = tmp_path / "disk" / "run", str(tmp_path / "disk")
    killed = {"call": "replace", "number": 9, "signal": signal.SIGKILL}
    locked, free = ({"disk": disk, "options": "size=64m", "flags": flags} for flags in (READ_ONLY, 0))
    go_on = resume(recipe, folder)
    copy = on_a_disk(machine, tmp_path, "size=64m", (pretrain(recipe, folder), killed), (go_on, locked), (go_on, free))
    text = " ".join(machine.out.read_text().split())
    assert machine.codes() == [-signal.SIGKILL, 1, 0], text
    assert "can't be locked (Read-only file system)" in text and "Traceback" not in text
    assert_same_run(copy / "run", alone)


def test_a_folder_below_a_file_is_refused(machine: Machine, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, text = machine.run(pretrain(recipe, tmp_path / "file" / "run"))
    assert code == 1 and "can't be made (Not a directory); choose another folder" in " ".join(text.split())
    assert "Traceback" not in text


def test_a_folder_that_is_gone_is_one_error_and_the_run_goes_on_when_it_is_back(
    machine: Machine, recipe: Path, tmp_path: Path, alone: Path
) -> None:
    folder = tmp_path / "run"
    code, text = machine.run(pretrain(recipe, folder), call="replace", number=9, vanish=str(folder))
    assert code == 1 and "could not be written (No such file or directory)" in " ".join(text.split())
    assert "Traceback" not in text and not folder.exists()
    (tmp_path / "run elsewhere").rename(folder)
    assert machine.run(resume(recipe, folder))[0] == 0
    assert_same_run(folder, alone)


# ---- the wrong run, or one that is held ----


def test_a_run_of_another_recipe_is_refused_and_left_as_it_was(machine: Machine, recipe: Path, alone: Path) -> None:
    before = content(alone)
    code, text = machine.run(resume(recipe, alone, "pretrain.batch=2"))
    assert code == 1 and "holds a run of another recipe (pretrain.batch: 4 then, 2 now)" in " ".join(text.split())
    assert content(alone) == before


def test_a_second_process_is_refused_and_the_first_does_not_notice(
    machine: Machine, recipe: Path, tmp_path: Path, alone: Path
) -> None:
    folder, fault = tmp_path / "run", {"call": "replace", "number": 7, "signal": signal.SIGSTOP}
    first, out = machine.ask((pretrain(recipe, folder), fault), background=True)[0], machine.out
    machine.out = out.with_name("second")
    Path(f"{out}.codes").unlink(missing_ok=True)
    wait_until(lambda: bool(children := children_of(first)) and state_of(children[0]) == "T")
    code, text = machine.run(resume(recipe, folder))
    assert code == 1 and "another process is writing this run; wait for it" in " ".join(text.split())
    os.kill(children_of(first)[0], signal.SIGCONT)
    wait_until(Path(f"{out}.codes").is_file)
    machine.out = out
    assert machine.codes() == [0]
    assert_same_run(folder, alone)


def children_of(pid: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state_of(pid: int) -> str:
    """R runs, S sleeps, T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_until(true: Any) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "waited for two minutes"
        time.sleep(0.02)


# ---- readers ahead, and ranks ----


def test_a_forked_reader_does_not_hold_the_run_of_a_killed_process(tmp_path: Path) -> None:
    pids = tmp_path / "reader"
    code = (
        "import os, signal, sys, time; from pathlib import Path; from geomaestro.runs import lock\n"
        "with lock(Path(sys.argv[1])):\n"
        "    if os.fork() == 0: time.sleep(60); os._exit(0)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    code = code.replace("time.sleep(60)", "open(sys.argv[2], 'w').write(str(os.getpid())); time.sleep(60)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(pids)], check=False)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: pids.is_file() and pids.read_text())
    with lock(tmp_path):
        os.kill(int(pids.read_text()), signal.SIGKILL)


def test_sigterm_under_torchrun_saves_the_state_though_readers_get_it_too(recipe: Path, tmp_path: Path) -> None:
    """torchrun hands a signal on to the whole group of each rank."""
    folder, torchrun = tmp_path / "run", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    tokens = pretrain(recipe, folder, "pretrain.steps=5000", "pretrain.workers=1")
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *torchrun, "-m", "geomaestro", *tokens], env=env, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(read_rows(folder / SEED0 / "metrics.jsonl")) > 1)
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=120)[1]
    rows = read_rows(folder / SEED0 / "metrics.jsonl")
    assert f"stopped after step {len(rows)} of 5000, state saved; go on with: geomaestro pretrain" in text
    assert "[rank0]: Traceback" not in text and "[rank1]: Traceback" not in text
    state = newest(folder / SEED0 / "checkpoints")
    assert state is not None and step_of(folder) == len(rows) and read_group(state, "model")


# ---- what a kill leaves ----


def test_a_row_takes_the_place_of_one_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for cut in ('{"step": 1}\n{"st', '{"st', '{"step": 1}\n', ""):
        path.write_text(cut)
        append_row(path, {"step": 2})
        assert read_rows(path) == [{"step": 1}, {"step": 2}][-cut.count("\n") - 1 :]


def test_files_that_were_being_written_are_cleared_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    kept = [tmp_path / ".lock", tmp_path / "a" / "metrics.jsonl", tmp_path / "unfinished"]
    for path in [*kept, tmp_path / ".x.json.abc.unfinished", tmp_path / "a" / ".y.12.unfinished"]:
        path.write_text("")
    clear_unfinished(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
