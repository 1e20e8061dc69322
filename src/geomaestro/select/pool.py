"""The pool to choose from: columns of one or more tables of samples, read one at a time and kept small.

Samples are put in an order that depends on their ids and a seed alone, not on the order of rows or files: the first of
it are a random choice, and where two samples are worth the same, the earlier one is chosen. Axis: n samples.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geomaestro.errors import DataError
from geomaestro.select.table import SCHEMA, read_table

MOST_STRATA = 10_000  # assumed; a column of more different values names samples rather than groups of them


@dataclass(frozen=True)
class Strata:
    """The stratum of each sample, (n) int32 into `names`; -1 where it is unknown."""

    codes: np.ndarray
    names: tuple[str, ...]

    def counts(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """How many samples of each stratum."""
        codes = self.codes[rows]
        return np.bincount(codes[codes >= 0], minlength=len(self.names))

    def take(self, rows: np.ndarray) -> "Strata":
        """Those of some rows."""
        return Strata(self.codes[rows], self.names)


@dataclass(frozen=True)
class Pool:
    """Tables of samples joined. `types` are of columns that all files have, `rows` (n) the samples in their order."""

    paths: tuple[Path, ...]
    types: Mapping[str, pa.DataType]
    total: int
    rows: np.ndarray
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, known: np.ndarray, lack: str) -> "Pool":
        """Leave out what is not known (n bool), and tell."""
        gone = int(len(known) - known.sum())
        if not gone:
            return self
        note = f"{gone} of {len(known)} samples have no {lack} and are left out"
        return Pool(self.paths, self.types, self.total, self.rows[known], (*self.notes, note))

    def strata(self, name: str) -> Strata:
        """A column as strata, in the pool's order; `year` may come from the date."""
        return read_strata(self.paths, name, self.types).take(self.rows)

    def numbers(self, name: str) -> np.ndarray:
        """(n) float64 of a column; NaN where it is null or not finite."""
        parts = [read_table(path, [name])[name].cast(pa.float64()) for path in self.paths]
        values = np.concatenate([part.to_numpy() for part in parts])[self.rows]
        return np.where(np.isfinite(values), values, np.nan)

    def hashes(self) -> np.ndarray:
        """(n) uint64 hashes of pictures; 0 where there is none."""
        parts = [read_table(path, ["picture_hash"])["picture_hash"].fill_null(0) for path in self.paths]
        return np.concatenate([part.to_numpy() for part in parts])[self.rows]

    def vectors(self) -> np.ndarray:
        """(n d) float32 embeddings of unit length; NaN where there is none.

        Raises:
            DataError: if they differ in length.
        """
        parts = [_vectors(path) for path in self.paths]
        if len(sizes := {part.shape[1] for part in parts}) > 1:
            raise DataError(
                f"{self.paths[0]} and others: embeddings of {sorted(sizes)} numbers; take those of one model"
            )
        vectors = np.concatenate(parts)[self.rows] if len(parts) > 1 else parts[0][self.rows]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        lengths[~(np.isfinite(lengths) & (lengths > 0))] = np.nan
        vectors /= lengths
        return vectors


def open_pool(paths: Sequence[Path], *, splits: Sequence[str] | None = None, seed: int = 0) -> Pool:
    """Join tables of samples and put their rows in the order of the seed.

    Raises:
        DataError: if a table can't be read, an id is there twice in a dataset, or no sample is in the splits.
    """
    columns = [read_table(path, ["id"])["id"].cast(pa.large_string()) for path in paths]
    ids = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.large_string())
    schemas = [pq.read_schema(path) for path in paths]
    shared = [name for name in schemas[0].names if all(name in schema.names for schema in schemas)]
    types = {name: SCHEMA.get(name, schemas[0].field(name).type) for name in shared}
    if len(ids) == 0:
        raise DataError(f"{paths[0]}: holds no sample")
    if ids.null_count:
        raise DataError(f"{', '.join(map(str, paths))}: {ids.null_count} rows have no id")
    order = _sorted(paths, ids, types)
    order = order[np.random.default_rng(seed).permutation(len(order))]
    pool = Pool(tuple(paths), types, len(ids), order)
    return pool if splits is None else _of_splits(pool, splits)


def _sorted(paths: Sequence[Path], ids: pa.ChunkedArray, types: Mapping[str, pa.DataType]) -> np.ndarray:
    """Rows in the order of dataset and id."""
    order = np.asarray(pc.sort_indices(ids)).astype(np.int64)
    sets = np.zeros(len(ids), np.int32)
    if "dataset" in types:
        sets = read_strata(paths, "dataset", types).codes
        order = order[np.argsort(sets[order], kind="stable")]
    for start in range(0, len(order) - 1, 1 << 20):  # in parts, so that the ids are never held twice
        part = order[start : start + (1 << 20) + 1]
        texts = ids.take(pa.array(part))
        twice = np.asarray(pc.equal(texts[1:], texts[:-1])) & (sets[part[1:]] == sets[part[:-1]])
        if twice.any():
            name = texts[int(np.flatnonzero(twice)[0])].as_py()
            raise DataError(
                f"{', '.join(map(str, paths))}: id {name!r} is there twice in a dataset; name each table once, or give "
                "tables a column `dataset`"
            )
    return order


def _of_splits(pool: Pool, splits: Sequence[str]) -> Pool:
    if "split" not in pool.types:
        raise DataError(f"{pool.paths[0]}: has no column 'split', so leave out --splits")
    found = pool.strata("split")
    missing = [split for split in splits if split not in found.names]
    if missing:
        raise DataError(f"--splits {' '.join(missing)}: no sample is in them; the pool has {', '.join(found.names)}")
    known = np.isin(found.codes, [found.names.index(split) for split in splits])
    return Pool(pool.paths, pool.types, pool.total, pool.rows[known])


def read_strata(paths: Sequence[Path], name: str, types: Mapping[str, pa.DataType]) -> Strata:
    """A column of words, whole numbers or truth values as strata, named in alphabetical order.

    Raises:
        DataError: if the column is of another kind, or has too many different values.
    """
    source = "date" if name == "year" and name not in types else name
    encoded = pa.chunked_array([c for path in paths for c in _encoded(path, source, name).chunks]).unify_dictionaries()
    if not encoded.num_chunks:
        return Strata(np.zeros(0, np.int32), ())
    names = [str(each) for each in encoded.chunk(0).dictionary.to_pylist()]
    if len(names) > MOST_STRATA:
        raise DataError(
            f"{paths[0]}: column {name!r} has {len(names)} different values, at most {MOST_STRATA} can be strata"
        )
    used = sorted({each for each in names if each})
    place = {each: nth for nth, each in enumerate(used)}
    table = np.array([place.get(each, -1) for each in names] + [-1], np.int32)
    codes = [chunk.indices.fill_null(len(names)).to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    return Strata(table[np.concatenate(codes)], tuple(used))


def _encoded(path: Path, source: str, name: str) -> pa.ChunkedArray:
    column = read_table(path, [source])[source]
    if pa.types.is_date(column.type) and name == "year":
        column = pc.year(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    if not any(kind(column.type) for kind in kinds):
        raise DataError(
            f"{path}: column {name!r} holds {column.type}, which are no strata; give words or whole numbers"
        )
    return column.cast(pa.string()).dictionary_encode()


def _vectors(path: Path) -> np.ndarray:
    """(n d) float32; NaN rows where there is no embedding."""
    column = read_table(path, ["embedding"])["embedding"].combine_chunks()
    column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
    sizes = np.asarray(pc.list_value_length(column).fill_null(0))
    if len(found := np.unique(sizes[sizes > 0])) > 1:
        raise DataError(f"{path}: embeddings of {found.tolist()} numbers; take those of one model")
    size = int(found[0]) if len(found) else 1
    out = np.full((len(column), size), np.nan, np.float32)
    out[sizes > 0] = pc.list_flatten(column).to_numpy(zero_copy_only=False).reshape(-1, size)
    return out


def file_hashes(paths: Sequence[Path]) -> dict[str, str]:
    """sha256 of each file."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            found[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def full_rows(paths: Sequence[Path], rows: np.ndarray) -> pa.Table:
    """All columns of some rows of the joined tables, in the order of `rows`, a row group at a time."""
    order = np.argsort(rows, kind="stable")
    wanted, parts, start = rows[order], [], 0
    for path in paths:
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            low, high = np.searchsorted(wanted, (start, stop))
            if high > low:
                parts.append(file.read_row_group(group).take(pa.array(wanted[low:high] - start)))
            start = stop
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    parts = [part.replace_schema_metadata(None) for part in parts]
    return pa.concat_tables(parts, promote_options="permissive").take(pa.array(back))


def where_found(pool: Pool) -> str:
    """The files of a pool, for a message."""
    return ", ".join(map(str, pool.paths))


def shares(available: np.ndarray, budget: int) -> np.ndarray:
    """How many to take of each of some strata so that counts are as equal as can be: `shares.sum() == budget`.

    Strata with fewer than their share give all; what is left over goes to the first strata that have more.
    """
    low, high = 0, int(available.max(initial=0))
    while low < high:  # the highest level that the budget fills
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(available, middle).sum() <= budget else (low, middle - 1)
    taken = np.minimum(available, low)
    more = np.flatnonzero(available > low)[: budget - int(taken.sum())]
    taken[more] += 1
    return np.asarray(taken)


def describe_of(pool: Pool) -> dict[str, Any]:
    """What a subset remembers of its pool."""
    return {"files": file_hashes(pool.paths), "rows": pool.total, "candidates": len(pool), "left_out": list(pool.notes)}
