"""The run folder: files written whole or not at all, one writer at a time, `result.json` last."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from geomaestro.errors import RunError

UNFINISHED = ".unfinished"  # ends the names of files that are being written


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, sync, rename: a reader sees the old file or the new one.

    Raises:
        RunError: if the folder can't be written (full disk, no permission); the old file is untouched.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED, delete=False
        ) as file:
            temporary = file.name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise RunError(
            f"{path}: could not be written ({error.strerror or error}); free some space or choose another folder"
        ) from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise RunError(f"{path}: could not be written ({error.strerror}); go on when it is back") from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def clear_unfinished(folder: Path) -> None:
    """Remove what killed processes left half-written below a folder; for who holds its lock."""
    for path in folder.rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line of JSON, in place of a last line that was cut short by a kill or a full disk.

    Raises:
        RunError: if it can't be written.
    """
    try:
        with path.open("ab+") as file:
            _drop_cut_line(file)
            file.write((json.dumps(row) + "\n").encode())
    except OSError as error:
        raise RunError(f"{path}: could not be written ({error.strerror}); free some space and go on") from None


def _drop_cut_line(file: BinaryIO) -> None:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - 1, 0))
    if file.read(1) in (b"", b"\n"):
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            if line:
                rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number == len(lines):
                break
            raise RunError(f"{path}: line {number} is not JSON; the file was edited or damaged") from None
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace a JSON-lines file atomically."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def open_run(folder: Path, recipe: Mapping[str, Any], *, resume: bool) -> None:
    """Make or re-enter a run folder. `recipe` is written as `recipe.yaml`, and a resumed run must have the same.

    Raises:
        RunError: if the folder holds a run and `resume` is False, or holds another recipe, or can't be made.
    """
    path = folder / "recipe.yaml"
    content = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
    if path.is_file():
        if not resume:
            raise RunError(f"{folder}: already holds a run; go on with --resume, or choose another --out")
        changed = differences(read_recipe(folder), yaml.safe_load(content))
        if changed:
            raise RunError(f"{folder}: holds a run of another recipe ({', '.join(changed[:5])}); choose another --out")
        return
    if resume and not folder.exists():
        raise RunError(f"{folder}: nothing to resume there")
    make_folder(folder)
    write_atomically(path, content.encode())


def read_recipe(folder: Path) -> dict[str, Any] | None:
    """The recipe of a run folder; None where no run was begun.

    Raises:
        RunError: if it can't be read.
    """
    path = folder / "recipe.yaml"
    if not path.is_file():
        return None
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise RunError(f"{path}: not valid YAML; the file was edited or damaged")
    return found


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        RunError: if it can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: can't be made ({error.strerror}); choose another folder") from None


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """What two recipes say otherwise: "key: old then, new now"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{place}.{k}" if place else str(k))]
    return [] if old == new else [f"{place}: {old!r} then, {new!r} now"]


@contextmanager
def lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a run folder for this process.

    Raises:
        RunError: if another process holds it, unless this one shall `wait`.
    """
    import fcntl

    path = folder / ".lock"
    try:
        opened = path.open("w")
    except OSError as error:
        raise RunError(f"{folder}: can't be locked ({error.strerror})") from None
    with opened as file:
        # a forked process, such as one that reads ahead, would hold the lock for seconds after this one is killed
        os.register_at_fork(after_in_child=file.close)
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"{folder}: another process is writing this run; wait for it, or choose another --out"
            ) from None
        yield
