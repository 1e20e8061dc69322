"""Whole arrays from files of different kinds, their declared sizes checked before memory is given."""

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from geomaestro.data.reading import check_bytes, open_h5
from geomaestro.errors import DataError, SpecError

NPZ_ERRORS = (
    *(OSError, EOFError, ValueError, SyntaxError, tokenize.TokenError),  # truncated data and damaged headers
    *(OverflowError, MemoryError),  # hostile headers
    *(RuntimeError, zipfile.BadZipFile, zlib.error),  # encrypted, packed in an unknown way, or damaged
)


def read_arrays(path: Path, names: list[str], limit_bytes: int) -> dict[str, np.ndarray]:
    """The named arrays of an HDF5 or npz file or a Zarr group.

    Raises:
        DataError: if the file is missing, damaged, of unknown kind, too big, or lacks an array.
        SpecError: if it is Zarr and the extra that reads Zarr is not installed.
    """
    if not path.exists():
        raise DataError(
            f"{path}: no such file; correct `file` and `directory` of the dataset spec, or `data.root` of the recipe"
        )
    if path.suffix in (".h5", ".hdf5"):
        with open_h5(path) as file:
            return _take(path, file, names, limit_bytes)
    if path.suffix == ".npz":
        return _read_npz(path, names, limit_bytes)
    if path.suffix == ".zarr":
        return _read_zarr(path, names, limit_bytes)
    raise DataError(
        f"{path}: arrays are read from .h5, .hdf5, .npz and .zarr, not {path.suffix or 'a file without suffix'}"
    )


def _take(path: Path, group: Any, names: list[str], limit_bytes: int) -> dict[str, np.ndarray]:
    """Arrays of an open HDF5 file or Zarr group."""
    arrays = {name: group.get(name) for name in names}
    _check_names(path, [name for name in names if getattr(arrays[name], "shape", None) is None], list(group.keys()))
    check_bytes(path, sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays.values()), limit_bytes)
    return {name: np.asarray(x[...]) for name, x in arrays.items()}


def _check_names(path: Path, missing: list[str], held: list[str]) -> None:
    if missing:
        raise DataError(f"{path}: has no array {', '.join(missing)}; it has {', '.join(sorted(held))}")


def _read_zarr(path: Path, names: list[str], limit_bytes: int) -> dict[str, np.ndarray]:
    try:
        import zarr
    except ImportError:
        raise SpecError(f"{path}: Zarr is not installed; `pip install geomaestro[zarr]`") from None
    try:
        return _take(path, zarr.open_group(str(path), mode="r"), names, limit_bytes)
    except DataError:
        raise
    except Exception as error:  # measured: each codec and each part of the metadata fails with its own kind
        raise DataError(f"{path}: not a readable Zarr group: {error}") from None


def _read_npz(path: Path, names: list[str], limit_bytes: int) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as file:
            held = {item.filename.removesuffix(".npy"): item for item in file.infolist()}
            _check_names(path, [name for name in names if name not in held], list(held))
            check_bytes(path, sum(held[name].file_size for name in names), limit_bytes)
            return {name: _member(file, held[name]) for name in names}
    except DataError:
        raise
    except NPZ_ERRORS as error:
        raise DataError(f"{path}: not a readable npz file: {error}") from None


def _member(file: zipfile.ZipFile, item: zipfile.ZipInfo) -> np.ndarray:
    with file.open(item) as member:
        _check_header(member, item)
    with file.open(item) as member:
        return np.asarray(np.lib.format.read_array(member, allow_pickle=False))


def _check_header(member: IO[bytes], item: zipfile.ZipInfo) -> None:
    """Compare the size that an array's header declares with what the archive holds of it.

    Raises:
        ValueError: naming the member, if there is less or more, or the header is none.
    """
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    held = item.file_size - member.tell()
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{item.filename} declares {dtype} values of shape {shape}, but holds {held} bytes of them")
