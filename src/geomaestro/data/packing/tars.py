"""Plain tars of `.npy` members whose bytes follow from their contents alone; any tar reads them.

Members begin on blocks of 512 bytes and numpy pads its headers, so that all data begin at multiples of 64 bytes.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from geomaestro.errors import DataError

BLOCK = 512
MAX_MEMBER_BYTES = 8 << 30  # of a plain tar
MAX_NAME = 100  # of a plain tar


class Member(NamedTuple):
    """An array in a tar, as its own headers tell."""

    offset: int
    dtype: str
    shape: tuple[int, ...]


class TarWriter:
    """Appends arrays to an open file, with sha256 of all and of parts."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.position = file, 0
        self._all, self._part, self._start = hashlib.sha256(), hashlib.sha256(), 0

    def add(self, name: str, array: np.ndarray) -> int:
        """Append an array; gives the offset of its data in the tar."""
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        size = header.tell() + array.nbytes
        if size >= MAX_MEMBER_BYTES:
            raise DataError(f"{name}: {size} bytes are too many for a member of a tar")
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        self._write(info.tobuf(tarfile.USTAR_FORMAT) + header.getvalue())
        offset = self.position
        self._write(array.data.cast("B") if array.nbytes else b"")
        self._write(bytes(-self.position % BLOCK))
        return offset

    def cut(self) -> tuple[int, int, str]:
        """First byte, number of bytes and sha256 of what came since the last cut."""
        found = self._start, self.position - self._start, self._part.hexdigest()
        self._part, self._start = hashlib.sha256(), self.position
        return found

    def close(self) -> tuple[int, str]:
        """End the tar; gives its bytes and sha256."""
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self.position % tarfile.RECORDSIZE))
        return self.position, self._all.hexdigest()

    def _write(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self._all.update(data)
        self._part.update(data)
        self.position += len(data)


def read_members(path: Path) -> Iterator[tuple[str, Member]]:
    """Name, and what the headers tell, of each array in a tar.

    Raises:
        DataError: if it is no tar of arrays.
    """
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as file:
            for info in tar:
                file.seek(info.offset_data)
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError(f"{info.name} is not of version 1.0")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                yield info.name, Member(file.tell(), dtype.str, shape)
    except (tarfile.TarError, ValueError, OSError) as error:
        raise DataError(f"{path}: no readable tar of arrays ({error})") from None
