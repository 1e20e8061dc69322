"""From pieces of samples to one table: run them, count, refuse what can't be meant, join.

Axes: n sample.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from geomaestro.data.packing.jobs import Jobs, run
from geomaestro.errors import DataError
from geomaestro.runs import write_rows
from geomaestro.select.geography import Layers, located
from geomaestro.select.pieces import Item, Pieces, is_current, join, notes_of
from geomaestro.select.places import check_places
from geomaestro.select.table import about_of, numbers

Report = Callable[[int, int, str], None]
"""Called with the samples done, the samples in all, and a note."""

MOST_AT_SEA = 0.5  # assumed; of the places
LOOKED_AT = 10_000  # assumed; places that swapped columns are looked for among


class Work(Protocol):
    """The pieces of one dataset."""

    @property
    def name(self) -> str:
        """Of the dataset."""
        ...

    @property
    def layers(self) -> Layers:
        """What tells biome and land cover."""
        ...

    @property
    def rows(self) -> Pieces:
        """The finished pieces."""
        ...

    @property
    def items(self) -> Sequence[Item]:
        """What the pieces are made of."""
        ...

    @property
    def about(self) -> Mapping[str, Any]:
        """How the samples were measured."""
        ...

    def stamp(self, item: Item) -> str:
        """What changes with the files of a piece."""
        ...

    def piece(self, item: Item) -> pa.Table:
        """The samples of a piece with what is known but continent, season and classes."""
        ...


@dataclass(frozen=True)
class Made:
    """What came of a dataset: its table, None while `unfinished` pieces are left to other shares."""

    name: str
    table: Path | None
    samples: int
    placed: int
    at_sea: int
    unreadable: int
    unfinished: int = 0


def make_table(work: Work, out: Path, *, jobs: Jobs, report: Report | None = None, sea: bool = False) -> Made:
    """Make the pieces of this share; once all are there, NAME.parquet and the list of unreadable samples in `out`.

    Raises:
        DataError: if no sample can be read, coordinates are swapped, most places lie at sea (unless `sea`), or a layer
            covers none of them.
    """
    mine = jobs.share(work.items)
    total, done, bad = sum(stop - start for _, start, stop in mine), 0, 0
    for size, unreadable in run(partial(finish, work), mine, jobs):
        done, bad = done + size, bad + unreadable
        if report is not None:
            report(done, total, f"{bad} unreadable" if bad else "")
    missing = sum(not _is_there(work, item) for item in set(work.items) - set(mine))
    if missing:
        return Made(work.name, None, done - bad, 0, 0, bad, missing)
    return _joined(work, out, sea=sea)


def _is_there(work: Work, item: Item) -> bool:
    """Whether a piece that another share makes is there, and of the files as they are now."""
    found = work.rows.find(item[0])
    return found is not None and notes_of(found)["stamp"] == work.stamp(item)


def finish(work: Work, item: Item) -> tuple[int, int]:
    """Make one piece, unless it is there; one with unreadable samples, or of files that were replaced since, is made
    again. Gives scenes and unreadable.
    """
    number, start, stop = item
    found, stamp = work.rows.find(number), work.stamp(item)
    if found is None or not is_current(found, stamp):
        piece = work.piece(item)
        notes = {"unreadable": notes_of(piece).get("unreadable", []), "stamp": stamp}
        found = work.rows.write(number, located(piece, work.layers, where=work.name), notes)
    return stop - start, len(notes_of(found)["unreadable"])


def _joined(work: Work, out: Path, *, sea: bool) -> Made:
    count = len(work.items)
    seen = _Seen()
    for piece in work.rows.each(count):
        seen.add(piece)
    bad = seen.unreadable
    path = out / f"{work.name}.parquet"
    if not seen.samples:
        raise DataError(f"{work.name}: none of {len(bad)} samples can be read; the first: {bad[0]['reason']}")
    _refuse(work, seen, sea=sea)
    about = {**work.about, "samples": seen.samples, "unreadable": len(bad), "at_sea": seen.at_sea}
    join(work.rows.each(count), path, about)
    listed = out / f"{work.name}-unreadable.jsonl"
    listed.unlink(missing_ok=True)
    if bad:
        write_rows(listed, bad)
    return Made(work.name, path, seen.samples, seen.placed, seen.at_sea, len(bad))


def with_columns(work: Work, table: Path, more: Pieces, about: Mapping[str, Any]) -> None:
    """Write the table again with the columns of other pieces beside its own, row by row.

    Raises:
        RunError: if it can't be written.
    """
    count = len(work.items)

    def beside() -> Iterator[pa.Table]:
        for own, other in zip(work.rows.each(count), more.each(count), strict=True):
            wide = own
            for name in other.column_names:
                wide = wide.append_column(other.schema.field(name), other[name])
            yield wide

    join(beside(), table, {**about_of(table), **about})


class _Seen:
    """Counts over pieces."""

    def __init__(self) -> None:
        self.samples = self.placed = self.at_sea = 0
        self.covered = {"biome": 0, "land_cover": 0}
        self.unreadable: list[dict[str, Any]] = []
        self.places: list[np.ndarray] = []

    def add(self, piece: pa.Table) -> None:
        """Count a piece."""
        self.samples += len(piece)
        self.placed += len(piece) - piece["continent"].null_count
        self.at_sea += sum(value == "" for value in piece["continent"].to_pylist())
        for name in self.covered:
            self.covered[name] += len(piece) - piece[name].null_count
        self.unreadable += notes_of(piece)["unreadable"]
        if sum(map(len, self.places)) < LOOKED_AT:
            self.places.append(np.stack([numbers(piece, "lon"), numbers(piece, "lat")], axis=1))


def _refuse(work: Work, seen: _Seen, *, sea: bool) -> None:
    """Refuse what can't be meant."""
    places = np.concatenate(seen.places)
    check_places(places[:, 0], places[:, 1], where=work.name)
    if seen.placed and seen.at_sea > MOST_AT_SEA * seen.placed and not sea:
        raise DataError(
            f"{work.name}: {seen.at_sea} of {seen.placed} places lie at sea; check their coordinates, or say --sea if "
            "they are meant to"
        )
    for name, layer in (("biome", work.layers.biome), ("land_cover", work.layers.land_cover)):
        if layer is not None and seen.placed and not seen.covered[name]:
            where = f"the {seen.placed} places of {work.name}"
            raise DataError(f"{layer.text}: covers none of {where}; is it of another region?")
