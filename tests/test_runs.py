"""Run folders: whole files or none, one writer, and a resumed run is the same run."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from geomaestro.errors import RunError
from geomaestro.runs import append_row, lock, open_run, read_rows, write_atomically, write_json, write_rows

RECIPE = {"name": "demo", "model": {"size": "tiny", "lr": 3e-4}, "bands": ["B02", "B03"]}


def test_a_file_is_written_whole_and_readable(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.bin", b"one")
    write_atomically(tmp_path / "a.bin", b"two")
    assert (tmp_path / "a.bin").read_bytes() == b"two"
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("step", ["replace", "fsync", "chmod"])
def test_a_full_disk_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(RunError) as caught:
        write_atomically(path, b"new")
    assert str(caught.value) == (
        f"{path}: could not be written (No space left on device); free some space or choose another folder"
    )
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_stopped_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is no OSError."""
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_folder_that_is_not_there_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a\.bin: could not be written \(No such file or directory\)"):
        write_atomically(tmp_path / "none" / "a.bin", b"new")


def test_json_is_written_with_a_last_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"loss": 0.1})
    text = (tmp_path / "result.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == {"loss": 0.1}


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_rows(path) == []
    for step in range(3):
        append_row(path, {"step": step, "loss": 1 / (step + 1)})
    assert read_rows(path) == [{"step": i, "loss": 1 / (i + 1)} for i in range(3)]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_last_line_cut_short_by_a_kill_is_left_out(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    append_row(path, {"step": 0})
    append_row(path, {"step": 1})
    path.write_bytes(path.read_bytes()[:-cut])
    kept = [{"step": 0}, {"step": 1}] if cut == 1 else [{"step": 0}]  # a cut of 1 takes the newline alone
    assert read_rows(path) == kept
    write_rows(path, read_rows(path))
    append_row(path, {"step": 2})
    assert read_rows(path) == [*kept, {"step": 2}]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": \n{"step": 2}\n')
    with pytest.raises(RunError) as caught:
        read_rows(path)
    assert str(caught.value) == f"{path}: line 2 is not JSON; the file was edited or damaged"


def test_a_run_is_made_once_and_entered_again_only_on_demand(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    open_run(folder, RECIPE, resume=False)
    assert (folder / "recipe.yaml").read_text().startswith("name: demo\n")
    with pytest.raises(RunError) as caught:
        open_run(folder, RECIPE, resume=False)
    assert str(caught.value) == f"{folder}: already holds a run; go on with --resume, or choose another --out"
    open_run(folder, RECIPE, resume=True)


def test_a_recipe_with_tuples_and_small_numbers_is_the_same_after_reading(tmp_path: Path) -> None:
    recipe = {**RECIPE, "lr": 3e-4, "tiny": 1e-20, "size_px": [4, 6], "none": None, "place": "Tromsø"}
    open_run(tmp_path, recipe, resume=False)
    open_run(tmp_path, recipe, resume=True)


def test_another_recipe_is_refused_and_its_differences_named(tmp_path: Path) -> None:
    open_run(tmp_path, RECIPE, resume=False)
    other = {"name": "demo", "model": {"size": "base", "lr": 3e-4, "depth": 4}, "bands": ["B02"]}
    with pytest.raises(RunError) as caught:
        open_run(tmp_path, other, resume=True)
    assert str(caught.value) == (
        f"{tmp_path}: holds a run of another recipe (model.size: 'tiny' then, 'base' now, "
        "model.depth: None then, 4 now, bands: ['B02', 'B03'] then, ['B02'] now); choose another --out"
    )


def test_there_has_to_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        open_run(tmp_path / "none", RECIPE, resume=True)
    assert str(caught.value) == f"{tmp_path / 'none'}: nothing to resume there"


def test_a_folder_that_can_not_be_made_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError) as caught:
        open_run(tmp_path / "file" / "run", RECIPE, resume=False)
    assert str(caught.value) == f"{tmp_path / 'file' / 'run'}: can't be made (Not a directory); choose another folder"


def test_a_damaged_recipe_is_a_run_error(tmp_path: Path) -> None:
    open_run(tmp_path, RECIPE, resume=False)
    (tmp_path / "recipe.yaml").write_text("name: [1, 2")
    with pytest.raises(RunError, match=r"recipe\.yaml"):
        open_run(tmp_path, RECIPE, resume=True)


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    text = f"{tmp_path}: another process is writing this run; wait for it, or choose another --out"
    with lock(tmp_path), pytest.raises(RunError) as caught, lock(tmp_path):
        pass
    assert str(caught.value) == text
    with lock(tmp_path):
        pass


def test_another_process_is_refused_too(tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path; from geomaestro.runs import lock\nwith lock(Path({str(tmp_path)!r})): print('held')"
    )
    with lock(tmp_path):
        refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another process is writing this run" in refused.stderr
    free = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert free.stdout == "held\n"


def test_a_failure_inside_lets_the_lock_go(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock(tmp_path):
        raise KeyError
    with lock(tmp_path):
        pass


def test_locking_a_folder_that_is_not_there_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError), lock(tmp_path / "none"):
        pass
