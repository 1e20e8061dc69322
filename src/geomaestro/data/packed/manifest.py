"""What a packed dataset consists of: its manifest, which tells the sha256 of all of it, and its index."""

import hashlib
import os
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from geomaestro.config import Strict
from geomaestro.errors import DataError

MAX_MANIFEST_BYTES = 64 << 20  # assumed; a million shards
MAX_INDEX_BYTES = 16 << 30  # assumed; unpacked
HASHED_BYTES = 4 << 20


class StoredFile(Strict):
    """Size and content of a file."""

    bytes: int = Field(ge=0)
    sha256: str


class Shard(StoredFile):
    """One tar."""

    samples: int = Field(ge=0)


class Manifest(Strict):
    """What a store consists of. `spec` is the sha256 of the spec that it was packed from."""

    format: Literal[1]
    geomaestro: str
    spec: str
    dataset: StoredFile
    index: StoredFile
    samples: int
    quarantined: int
    bands: dict[str, tuple[str, ...]]
    targets: tuple[str, ...]
    shards: tuple[Shard, ...]


def shard_path(folder: Path, number: int) -> Path:
    """The tar of shard `number`."""
    return folder / "shards" / f"{number:05d}.tar"


def sha256_of(path: Path, first: int = 0, count: int | None = None) -> str:
    """Of a file, or of `count` bytes of it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(first)
        left = os.fstat(file.fileno()).st_size if count is None else count
        while left > 0 and (piece := file.read(min(left, HASHED_BYTES))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """What a store consists of.

    Raises:
        DataError: if there is none, or packing was never finished.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        if (folder / "plan.json").is_file():
            raise DataError(f"{folder}: packing was not finished; run `geomaestro data pack` again, it goes on")
        if (folder / "gather.json").is_file():
            raise DataError(f"{folder}: gathering was not finished; run `geomaestro gather` again, it goes on")
        raise DataError(f"{folder}: no packed dataset (it has no manifest.json); is `data.root` its folder?")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise DataError(f"{path}: {path.stat().st_size} bytes are too many for a manifest")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise DataError(f"{path}: was edited or damaged ({place}: {first['msg']}); pack the dataset again") from None


def read_index(folder: Path, manifest: Manifest, columns: list[str] | None = None) -> pa.Table:
    """The index, or some columns of it.

    Raises:
        DataError: if it is missing, was edited or damaged, or lacks a column.
    """
    path = folder / "index.parquet"
    if not path.is_file():
        raise DataError(f"{path}: no such file; pack the dataset again")
    found = path.stat().st_size
    if found != manifest.index.bytes or sha256_of(path) != manifest.index.sha256:
        raise DataError(f"{path}: was edited or damaged: it is not the file that the manifest tells of")
    try:
        file = pq.ParquetFile(path)
        about = file.metadata
        unpacked = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        if about.num_rows != manifest.samples or unpacked > MAX_INDEX_BYTES:
            raise DataError(f"{path}: has {about.num_rows} rows, the manifest {manifest.samples}; pack it again")
        return file.read(columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: unreadable Parquet ({error}); pack the dataset again") from None
