"""Columns of the index of a packed dataset as arrays; a column that can't be right is refused.

Axes: n sample, k entry of a list.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geomaestro.data.packed.manifest import Manifest, read_index
from geomaestro.errors import DataError, SpecError

DTYPES = tuple(np.dtype(x) for x in ("?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"))


class Columns:
    """Columns of the index, of the samples of some splits, as arrays."""

    def __init__(self, folder: Path, manifest: Manifest, columns: list[str], splits: tuple[str, ...]) -> None:
        self.path = folder / "index.parquet"
        self.table = read_index(folder, manifest, columns)
        chosen = self._of_splits(splits)
        if chosen is not None:
            self.table = self.table.take(pa.array(chosen))

    def _of_splits(self, splits: tuple[str, ...]) -> np.ndarray | None:
        """Row numbers of the splits, in their order; None for all, where the dataset has no splits."""
        column = self.column("split")
        if column.null_count == len(column):
            return None
        there = sorted(x for x in column.unique().to_pylist() if x is not None)
        missing = [split for split in splits if split not in there]
        if missing:
            raise SpecError(f"{self.path}: no split {', '.join(missing)}; the dataset has {', '.join(there)}")
        found = [np.flatnonzero(pc.fill_null(pc.equal(column, split), False).to_numpy(False)) for split in splits]
        return np.concatenate(found)

    def refuse(self, what: str) -> None:
        """Raise the error of an index that can't be right."""
        raise DataError(f"{self.path}: {what}; the store was edited or damaged: pack the dataset again")

    def column(self, name: str) -> Any:
        """One column; a dot leads into a struct."""
        outer, *inner = name.split(".")
        try:
            found = self.table.column(outer).combine_chunks()
            for part in inner:
                found = pc.struct_field(found, part)
            return found
        except (KeyError, pa.ArrowException):
            self.refuse(f"has no column {name}")

    def integers(self, name: str, limit: int) -> np.ndarray:
        """(n) int64 from 0 to below a limit."""
        values = self._numbers(name, pa.int64())
        if len(values) and not 0 <= values.min() <= values.max() < limit:
            self.refuse(f"{name} holds a number outside 0 to {limit - 1}")
        return values

    def offsets(self, name: str) -> np.ndarray:
        """(n) int64; -1 where there is none."""
        values = self._numbers(name, pa.int64(), -1)
        if len(values) and values.min() < -1:
            self.refuse(f"{name} holds a negative offset")
        return values

    def floats(self, name: str) -> np.ndarray:
        """(n) float64; NaN where there is none."""
        return self._numbers(name, pa.float64(), float("nan"))

    def _numbers(self, name: str, kind: Any, missing: float | None = None) -> np.ndarray:
        column = self.column(name)
        if missing is not None:
            column = pc.fill_null(column, pa.scalar(missing, column.type))
        try:
            return np.ascontiguousarray(column.cast(kind).to_numpy(zero_copy_only=False))
        except pa.ArrowException:
            self.refuse(f"{name} holds no numbers")
            raise

    def dtypes(self, name: str, here: np.ndarray) -> np.ndarray:
        """(n) number in DTYPES of a column of names such as <i2."""
        column = self.column(name).dictionary_encode()
        known = {dtype.str: number for number, dtype in enumerate(DTYPES)}
        words = column.dictionary.to_pylist()
        if unknown := [word for word in words if word not in known]:
            self.refuse(f"{name} holds the type {unknown[0]!r}, which is none of {', '.join(known)}")
        codes = pc.fill_null(column.indices, len(words)).to_numpy(zero_copy_only=False)
        if (codes[here] == len(words)).any():
            self.refuse(f"{name} lacks a type")
        return np.asarray([*(known[word] for word in words), 0])[codes]

    def lists(self, name: str, length: int, dtype: Any, here: np.ndarray | None = None) -> np.ndarray:
        """(n length) of a column of lists of one length; only the rows `here` if they are given."""
        column = self.column(name)
        if here is not None and not here.all():
            column = column.filter(pa.array(here))
        counts = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
        if (counts != length).any():
            self.refuse(f"{name} does not hold {length} numbers in every row")
        return column.flatten().to_numpy(zero_copy_only=False).astype(dtype).reshape(-1, length)

    def labels(self, name: str) -> np.ndarray:
        """(n) numbers, or (n k) of lists."""
        column = self.column(name)
        if not pa.types.is_list(column.type):
            return self._numbers(name, column.type)
        length = len(column[0]) if len(column) else 0
        return self.lists(name, length, column.type.value_type.to_pandas_dtype())
