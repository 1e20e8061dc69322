"""A table of samples: one Parquet file that diversity writes, and choose, gather, audit and study read.

Every column but `id` may be absent or null. How each was measured stands in the file's metadata (`about`).
"""

import difflib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geomaestro.errors import DataError
from geomaestro.runs import write_atomically

KEY = b"geomaestro"
SCHEMA: Mapping[str, pa.DataType] = {
    "id": pa.string(),
    "dataset": pa.string(),
    "split": pa.string(),
    "lon": pa.float64(),  # degrees
    "lat": pa.float64(),
    "date": pa.date32(),  # of the middle image
    "dates": pa.int32(),  # number of images
    "season": pa.string(),
    "continent": pa.string(),
    "biome": pa.string(),
    "land_cover": pa.string(),
    "spectral_entropy": pa.float32(),
    "picture_hash": pa.uint64(),  # data/quality/likeness.py; 0 tells nothing
    "embedding": pa.list_(pa.float32()),  # of one length; a file may fix it
}
CATEGORIES = ("continent", "biome", "land_cover", "season", "split", "dataset")


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A table of samples, or some of its columns, with `about` in its metadata.

    Raises:
        DataError: if it can't be read, is no table of samples, lacks a column, or a column holds something else.
    """
    try:
        schema = pq.read_schema(path)
        _check_columns(path, schema, columns)
        table = pq.read_table(path, columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: is no readable Parquet file ({error})") from None
    wanted = pa.schema([_kept(path, field) for field in table.schema], table.schema.metadata)
    try:
        return table.cast(wanted)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: holds a value that its column can't have ({error}); mend or rename it") from None


def _check_columns(path: Path, schema: pa.Schema, columns: Sequence[str] | None) -> None:
    if "id" not in schema.names:
        raise DataError(f"{path}: is no table of samples, as it has no column `id`; `geomaestro diversity` makes one")
    for name in columns or ():
        if name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(schema.names)}"
            raise DataError(f"{path}: has no column {name!r}{hint} `geomaestro diversity` measures what is missing")


def _kept(path: Path, field: pa.Field) -> pa.Field:
    """A known column in its type, whatever near type the file has it in; others as they are."""
    wanted = SCHEMA.get(field.name)
    if wanted is None:
        return field
    if field.name == "embedding":
        inner = getattr(field.type, "value_type", None)
        if inner is None or not pa.types.is_floating(inner):
            raise DataError(f"{path}: column 'embedding' holds {field.type}, not lists of numbers")
        size = getattr(field.type, "list_size", -1)
        return field.with_type(pa.list_(pa.float32(), size))
    if pa.types.is_dictionary(field.type) and field.type.value_type == wanted:
        return field.with_type(wanted)
    families = (pa.types.is_integer, pa.types.is_floating)
    alike = any(family(field.type) and family(wanted) for family in families) or field.type in (wanted, pa.null())
    if not alike and not (wanted == pa.string() and pa.types.is_large_string(field.type)):
        raise DataError(f"{path}: column {field.name!r} holds {field.type}, not {wanted}")
    return field.with_type(wanted)


def write_table(path: Path, table: pa.Table, about: Mapping[str, Any]) -> None:
    """Write a table of samples with what is to be known of it.

    Raises:
        RunError: if it can't be written.
    """
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({KEY: json.dumps(about)}), file, compression="zstd")
    write_atomically(path, file.getvalue())


def about_of(found: Path | pa.Table) -> dict[str, Any]:
    """What stands beside a table of samples; nothing where another program wrote it."""
    schema = found.schema if isinstance(found, pa.Table) else pq.read_schema(found)
    about: dict[str, Any] = json.loads((schema.metadata or {}).get(KEY, b"{}"))
    return about


def words(table: pa.Table, column: str) -> np.ndarray:
    """(n) str of a column of words; "" where it is null."""
    return np.asarray(table[column].fill_null("").to_numpy(zero_copy_only=False), dtype=str)


def numbers(table: pa.Table, column: str) -> np.ndarray:
    """(n) float64 of a column of numbers; NaN where it is null."""
    return np.asarray(table[column].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
