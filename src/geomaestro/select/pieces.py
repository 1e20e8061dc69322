"""Pieces of a table of samples: small Parquet files in a work folder, each written whole, joined when all are there.

A piece bears the digest of all that its numbers follow from, so what is found again is never of other options.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from geomaestro.errors import RunError
from geomaestro.runs import UNFINISHED, make_folder, sync
from geomaestro.select.table import KEY

MOST, PIECES = 4096, 64  # assumed; samples of a piece at most; pieces of a smaller dataset
GROUP = 1 << 14  # assumed; rows that are written together
Item = tuple[int, int, int]
"""Number of a piece, first sample, and the one after its last."""


def cut(total: int) -> list[Item]:
    """The pieces of a dataset of so many samples."""
    size = min(MOST, -(-total // PIECES))
    return [(n, start, min(start + size, total)) for n, start in enumerate(range(0, total, size))]


def digest(values: Any) -> str:
    """64 bits of what JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Pieces:
    """Pieces of one kind in a work folder. `mark` is their digest."""

    folder: Path
    kind: str
    mark: str

    def path(self, number: int) -> Path:
        """The file of a piece."""
        return self.folder / f"{self.kind}-{self.mark}-{number:06d}.parquet"

    def find(self, number: int) -> pa.Table | None:
        """A finished piece; None if it isn't there, or damaged."""
        try:
            found = pq.read_table(self.path(number), page_checksum_verification=True)
        except (OSError, pa.ArrowException):
            return None
        return found if notes_of(found).get("mark") == self.mark else None

    def write(self, number: int, table: pa.Table, notes: Mapping[str, Any]) -> pa.Table:
        """Write a piece with notes on it. Its disk is not waited for: what an outage spoils, its checksums tell.

        Raises:
            RunError: if it can't be written.
        """
        whole = table.replace_schema_metadata({KEY: json.dumps({**notes, "mark": self.mark})})
        part = self.folder / f".{self.path(number).name}.{os.getpid()}{UNFINISHED}"
        make_folder(self.folder)
        try:
            pq.write_table(whole, part, compression="zstd", write_page_checksum=True)
            os.replace(part, self.path(number))
        except OSError as error:
            raise RunError(f"{part}: could not be written ({error.strerror}); free some space, run again") from None
        finally:
            part.unlink(missing_ok=True)
        return whole

    def missing(self, count: int) -> int:
        """How many of so many pieces are not there."""
        return sum(not self.path(number).is_file() for number in range(count))

    def get(self, number: int) -> pa.Table:
        """A finished piece.

        Raises:
            RunError: if it was damaged since it was written.
        """
        found = self.find(number)
        if found is None:
            raise RunError(f"{self.path(number)}: is damaged; remove it and run the same command again")
        return found

    def each(self, count: int) -> Iterator[pa.Table]:
        """All pieces, in order."""
        return map(self.get, range(count))


def notes_of(table: pa.Table) -> dict[str, Any]:
    """The notes on a piece."""
    found: dict[str, Any] = json.loads((table.schema.metadata or {}).get(KEY, b"{}"))
    return found


def is_current(piece: pa.Table, stamp: str) -> bool:
    """Whether a piece is of the files of that stamp, and lacks none of its samples."""
    notes = notes_of(piece)
    return not notes["unreadable"] and notes["stamp"] == stamp


def join(tables: Iterable[pa.Table], path: Path, about: Mapping[str, Any]) -> int:
    """Write tables one below the other, holding few at a time; gives the number of rows.

    Raises:
        RunError: if it can't be written; an old file is untouched then.
    """
    part, rows, writer = path.with_name(f".{path.name}.{uuid.uuid4().hex}{UNFINISHED}"), 0, None
    make_folder(path.parent)
    try:
        for table in _grouped(tables):
            whole = table.replace_schema_metadata({KEY: json.dumps(about, default=str)})
            if writer is None:
                writer = pq.ParquetWriter(part, whole.schema, compression="zstd")
            writer.write_table(whole)
            rows += len(whole)
        assert writer is not None, "a dataset has a piece"
        writer.close()
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    except OSError as error:
        raise RunError(f"{path}: could not be written ({error.strerror}); free some space and run again") from None
    finally:
        part.unlink(missing_ok=True)
    return rows


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of at least `GROUP` rows, but for the last."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table.replace_schema_metadata(None))
        if sum(map(len, held)) >= GROUP:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()
