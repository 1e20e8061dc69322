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
MAX_LINKS = 16  # assumed; soft links to soft links


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
    arrays = {name: lookup(path, group, name) for name in names}
    _check_names(path, [name for name in names if getattr(arrays[name], "shape", None) is None], list(group.keys()))
    check_bytes(path, sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays.values()), limit_bytes)
    for name, array in arrays.items():
        check_array(path, name, array, limit_bytes)
    return {name: whole(path, x) for name, x in arrays.items()}


def lookup(path: Path, group: Any, name: str) -> Any:
    """What a name leads to in an open HDF5 file or Zarr group, its values not read yet; None if nothing.

    Raises:
        DataError: naming the file, if that lies in another file, is damaged, or could run code when it is read.
    """
    try:
        if hasattr(group, "store"):
            found = group.get(name)
            _check_codecs(path, name, getattr(found, "metadata", None))
            return found
        import h5py

        found = _within(path, group, name, MAX_LINKS)
        if isinstance(found, h5py.Dataset):
            _check_storage(path, name, found)
        return found
    except DataError:
        raise
    except Exception as error:  # measured: damaged links and metadata fail with many kinds
        raise DataError(f"{path}: {name!r} is unreadable ({error}); fetch the file again") from None


def _within(path: Path, group: Any, name: str, links: int) -> Any:
    """Follow a name step by step: a link to another file would open whatever path the file's author wrote."""
    import h5py

    if "/" not in name and (plain := _plain_dataset(group, name)) is not None:
        return plain
    at = group
    for part in (p for p in name.split("/") if p not in ("", ".")):
        if not isinstance(at, h5py.Group) or part not in at:
            return None
        kind = at.id.links.get_info(part.encode()).type
        if kind == h5py.h5l.TYPE_HARD:
            at = at[part]
            continue
        link = at.get(part, getlink=True)
        if not isinstance(link, h5py.SoftLink):
            raise DataError(f"{path}: {name!r} lies in another file, {link.filename!r}; copy it into this one")
        if links == 0:
            raise DataError(f"{path}: {name!r} is a link that goes in a circle")
        at = _within(path, at.file if link.path.startswith("/") else at, link.path, links - 1)
    return at


def _plain_dataset(group: Any, name: str) -> Any:
    """A dataset that lies in this group itself, in a quarter of the time; None if it is anything else."""
    import h5py

    try:
        if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            return None
        found = h5py.h5o.open(group.id, name.encode())
    except (KeyError, RuntimeError, ValueError):  # measured: RuntimeError if there is none
        return None
    if not isinstance(found, h5py.h5d.DatasetID):
        return None
    return h5py.Dataset(found, readonly=True)  # remembers its shape; measured: asking for it costs 5 us each time


def _check_storage(path: Path, name: str, found: Any) -> None:
    """Refuse a dataset of HDF5 whose numbers lie in other files."""
    elsewhere = [str(item[0]) for item in found.external or ()]
    if found.is_virtual:
        elsewhere += [source.file_name for source in found.virtual_sources() if source.file_name != "."]
    if elsewhere:
        raise DataError(
            f"{path}: {name!r} keeps its numbers in another file, {elsewhere[0]!r}; copy them into this one"
        )


def _check_codecs(path: Path, name: str, metadata: Any) -> None:
    """Refuse an array of Zarr that is stored as Python objects: old versions of its library run them."""
    codecs = (*(getattr(metadata, "filters", None) or ()), getattr(metadata, "compressor", None))
    if any(getattr(codec, "codec_id", None) == "pickle" for codec in codecs):
        raise DataError(f"{path}: {name!r} is stored as Python objects, which can run code; store numbers or text")


def check_array(path: Path, name: str, array: Any, limit_bytes: int) -> None:
    """Compare the size that an array, and each of its chunks, declares with what may be read.

    Raises:
        DataError: naming the file and both sizes in bytes.
    """
    item = np.dtype(array.dtype).itemsize
    check_bytes(path, math.prod(array.shape) * item, limit_bytes)
    chunk = math.prod(getattr(array, "shards", None) or getattr(array, "chunks", None) or (0,))
    if chunk * item > limit_bytes:
        raise DataError(
            f"{path}: a chunk of {name!r} has {chunk * item} bytes, more than {limit_bytes}; write smaller ones"
        )


def whole(path: Path, array: Any) -> np.ndarray:
    """All values of an array whose size was checked.

    Raises:
        DataError: naming the file, if they are damaged.
    """
    try:
        return np.asarray(array[...])
    except Exception as error:  # measured: each codec fails with its own kind
        raise DataError(f"{path}: unreadable, probably truncated ({error}); fetch the file again") from None


def chosen(path: Path | str, array: Any, parts: tuple[Any, ...]) -> np.ndarray:
    """A part of an array whose size was checked, a slice or numbers for each axis.

    Raises:
        DataError: naming the file, if it is damaged.
    """
    try:
        if hasattr(array, "virtual_sources") and array.dtype.kind in "iuf" and _all_of(array.shape, parts):
            return _all_numbers(array)
        return np.asarray(array[parts])
    except Exception as error:  # measured: each codec of Zarr and HDF5 fails with its own kind
        raise DataError(f"{path}: unreadable, probably truncated ({error}); fetch the file again") from None


def _all_of(shape: tuple[int, ...], parts: tuple[Any, ...]) -> bool:
    """True if slices take everything of an array that has anything."""
    return 0 not in shape and all(
        part == slice(None) or part == slice(0, size) for size, part in zip(shape, parts, strict=True)
    )


def _all_numbers(array: Any) -> np.ndarray:
    """All numbers of a dataset of HDF5. Measured: 23 us; 37 us where h5py looks which part is meant."""
    import h5py

    values = np.empty(array.shape, array.dtype)
    array.id.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


def _check_names(path: Path, missing: list[str], held: list[str]) -> None:
    if missing:
        raise DataError(f"{path}: has no array {', '.join(missing)}; it has {', '.join(sorted(held)[:40])}")


def open_zarr(path: Path) -> Any:
    """A Zarr group, in a folder or in one zip file.

    Raises:
        DataError: naming the file, if it is none.
        SpecError: if the extra that reads Zarr is not installed.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file")
    try:
        import zarr
    except ImportError:
        raise SpecError(f"{path}: Zarr is not installed; `pip install geomaestro[zarr]`") from None
    try:
        store = zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else str(path)
        return zarr.open_group(store, mode="r")
    except Exception as error:  # measured: each codec and each part of the metadata fails with its own kind
        raise DataError(f"{path}: not a readable Zarr group: {error}") from None


def _read_zarr(path: Path, names: list[str], limit_bytes: int) -> dict[str, np.ndarray]:
    group = open_zarr(path)
    try:
        return _take(path, group, names, limit_bytes)
    except DataError:
        raise
    except Exception as error:  # measured: as above
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
