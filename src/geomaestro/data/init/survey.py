"""A bounded look at a folder: which files are there. Nothing is opened but the lists of zip files."""

import heapq
import os
import zipfile
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from geomaestro.data.files.stored import RASTERS
from geomaestro.data.files.stores import NPZ_ERRORS
from geomaestro.errors import DataError

ARRAYS = (".npy", ".npz", ".h5", ".hdf5", ".nc", ".nc4", ".zarr")
TABLES = (".csv", ".tsv", ".parquet", ".geojson", ".gpkg", ".txt", ".json")
SIDECARS = (".aux.xml", ".ovr", ".tfw", ".prj", ".md", ".pdf", ".html", ".yaml", ".yml", ".py", ".ipynb", ".log")
MAX_ENTRIES = 2_000_000  # assumed; names looked at in all
MAX_KEPT = 20_000  # assumed; names kept of one folder: the first in order, the same in folders that name alike
MAX_FOLDERS = 50_000  # assumed


@dataclass
class Survey:
    """Files below `root`, as relative paths with `/`; a member of a zip is `archive.zip!member`."""

    root: Path
    files: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    entries: int = 0
    cut: list[str] = field(default_factory=list)
    """Why not everything was looked at; empty if everything was."""

    def leave(self, name: str, reason: str) -> None:
        """Note a file that is not used."""
        self.left_out.setdefault(reason, []).append(name)


def survey(folder: Path, *, entries: int = MAX_ENTRIES, kept: int = MAX_KEPT, folders: int = MAX_FOLDERS) -> Survey:
    """List the files of a folder, or of one zip file.

    Raises:
        DataError: if there is no such folder, or no file that could hold pixels in it.
    """
    if folder.is_file() and folder.suffix.lower() == ".zip":
        out = Survey(folder.parent)
        _zip(out, folder.name, kept)
    elif folder.is_dir() and folder.suffix == ".zarr":
        out = Survey(folder.parent, [folder.name])
    elif folder.is_file():
        out = Survey(folder.parent)
        _sort_in(out, folder.name, kept)
    elif folder.is_dir():
        out = Survey(folder)
        _walk(out, entries, kept, folders)
    else:
        raise DataError(f"{folder}: no such folder or zip file")
    if not out.files:
        shown = "; ".join(f"{reason}: {', '.join(names[:3])}" for reason, names in out.left_out.items())
        raise DataError(
            f"{folder}: holds no images or arrays ({', '.join((*RASTERS, *ARRAYS))}, or a .zip of images)"
            + (f"; {shown}" if shown else f"; {out.entries} entries were looked at")
        )
    return out


def _walk(out: Survey, entries: int, kept: int, folders: int) -> None:
    queue, seen = deque([""]), set[tuple[int, int]]()
    while queue:
        where = queue.popleft()
        at = os.stat(out.root / where)
        if (at.st_dev, at.st_ino) in seen:  # a link that leads in a circle
            continue
        seen.add((at.st_dev, at.st_ino))
        try:
            names, total = _names(out.root / where, kept, entries - out.entries)
        except OSError as error:
            out.leave(where or ".", f"folder can't be read ({error.strerror})")
            continue
        out.entries += total
        full = len(seen) > folders or out.entries >= entries
        if full:
            queue.clear()
            out.cut.append(f"more than {folders:,} folders or {entries:,} files: the rest was not looked at")
        if total > len(names):
            out.cut.append(f"{where or '.'}: the first {len(names):,} of {total:,} entries were looked at")
        for name, is_folder in names:
            path = f"{where}/{name}" if where else name
            if is_folder and not full and not name.startswith((".", "__")) and not name.endswith(".zarr"):
                queue.append(path)
            elif not is_folder or name.endswith(".zarr"):
                _sort_in(out, path, kept)


def _names(folder: Path, kept: int, most: int) -> tuple[list[tuple[str, bool]], int]:
    """The first names of a folder in order, each with whether it is a folder, and how many there are in all."""
    count = 0

    def entries() -> Iterator[tuple[str, bool]]:
        nonlocal count
        with os.scandir(folder) as listing:
            for entry in listing:
                count += 1
                yield entry.name, entry.is_dir()
                if count >= most:
                    return

    return heapq.nsmallest(kept, entries()), count


def _sort_in(out: Survey, path: str, kept: int) -> None:
    name = PurePosixPath(path).name
    lower, suffix = name.lower(), PurePosixPath(name).suffix.lower()
    if name.startswith("."):
        out.leave(path, "hidden")
    elif lower.endswith(SIDECARS):
        out.leave(path, "beside the data, not read")
    elif suffix in RASTERS or suffix in ARRAYS or lower.endswith(".zarr.zip"):
        out.files.append(path)
    elif suffix in TABLES:
        out.tables.append(path)
    elif suffix == ".zip":
        _zip(out, path, kept)
    else:
        out.leave(path, f"{suffix or 'no suffix'}: not a kind of file that is read")


def _zip(out: Survey, path: str, kept: int) -> None:
    try:
        with zipfile.ZipFile(out.root / path) as archive:
            names = sorted(name for name in archive.namelist() if not name.endswith("/"))
    except NPZ_ERRORS as error:
        out.leave(path, f"not a readable zip ({error})")
        return
    images = [n for n in names if PurePosixPath(n).suffix.lower() in RASTERS and "/." not in f"/{n}"]
    others = Counter(PurePosixPath(n).suffix.lower() or "no suffix" for n in set(names) - set(images))
    if not images:
        out.leave(path, "a zip without images; unpack it")
        return
    if others:
        out.leave(
            path, f"only images are read from a zip; in it also {', '.join(sorted(others))}; unpack it to use them"
        )
    if len(images) > kept * 50:
        out.cut.append(f"{path}: the first {kept * 50:,} of {len(images):,} images were looked at")
    out.entries += len(names)
    out.files += [f"{path}!{name}" for name in images[: kept * 50]]
