"""What readers share: the draw of a visit, flips, validity, and safe opening of files.

Axes: t date, c band, h row, w column.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from geomaestro.errors import DataError
from geomaestro.samples import Sample

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Visit:
    """One look at a sample in training: all that is drawn follows from (seed, epoch, index)."""

    seed: int
    epoch: int
    index: int

    def rng(self) -> np.random.Generator:
        """A generator of this visit's draws: start, dates, flips."""
        return np.random.default_rng((self.seed, self.epoch, self.index))

    def key(self) -> int:
        """64 bits that decide what is hidden, independent of `rng`."""
        state = np.random.SeedSequence((self.seed, self.epoch, self.index, 1)).generate_state(1, np.uint64)
        return int(state.astype(np.int64)[0])


class Kept(Generic[T]):
    """Values that were dear to make, kept up to a number of bytes; what comes later is made anew each time."""

    def __init__(self, limit_bytes: int) -> None:
        self._room = limit_bytes
        self._values: dict[Hashable, T] = {}

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """The value of a key."""
        if key in self._values:
            return self._values[key]
        value = make()
        if size(value) <= self._room:
            self._room -= size(value)
            self._values[key] = value
        return value


class Dataset(Protocol):
    """Samples by index. `read` with a visit draws as in training; without, the answer is always the same."""

    draws: bool
    """True if `read` with a visit differs from `read` without: dates or flips are drawn."""

    def __len__(self) -> int: ...

    def ids(self) -> list[str]:
        """Names of the samples, in order."""
        ...

    def places(self) -> list[tuple[float, float] | None]:
        """Longitude and latitude of the samples in degrees, where they are known without reading images."""
        ...

    def labels(self, target: str) -> np.ndarray:
        """Labels of all samples of a target, in order."""
        ...

    def read(self, index: int, visit: Visit | None = None) -> Sample[np.ndarray]:
        """One sample."""
        ...


def fixed_dates(values: np.ndarray, dates: int) -> np.ndarray:
    """Pad the first axis with zeros (absent dates) to a fixed number of dates; readers never hand over more."""
    assert len(values) <= dates, f"{len(values)} dates for an input of {dates}"
    if len(values) == dates:
        return values
    return np.concatenate([values, np.zeros((dates - len(values), *values.shape[1:]), values.dtype)])


@contextmanager
def open_h5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file to read.

    Raises:
        DataError: naming the file, if it is missing, empty or truncated.
    """
    import h5py

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:  # measured: damaged links raise the latter
        raise DataError(f"{path}: unreadable HDF5, probably truncated ({error}); fetch the file again") from None


def check_bytes(path: Path, declared: int, limit: int) -> None:
    """Compare the size that a file declares for its arrays with what may be read, before memory is given.

    Raises:
        DataError: naming the file and both sizes in bytes.
    """
    if declared > limit:
        raise DataError(f"{path}: declares {declared} bytes of arrays, more than the {limit} that are read into memory")


def decoded(path: Path, values: np.ndarray) -> np.ndarray:
    """Text as it is meant; bytes, of a fixed or a variable length, are UTF-8.

    Raises:
        DataError: naming the file, if bytes are not UTF-8.
    """
    try:
        if values.dtype.kind == "S":
            return np.char.decode(values, "utf-8")
        if values.dtype.kind == "O":
            return np.asarray([x.decode("utf-8") if isinstance(x, bytes) else str(x) for x in values.tolist()], object)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: holds text that is not UTF-8 ({error})") from None
    return values.astype(str)


def label_error(path: Path, target: str, sample: str, value: object, classes: Sequence[str]) -> DataError:
    """The error of a label outside the classes."""
    return DataError(
        f"{path}: sample {sample!r} has the label {value!r}, which is none of the {len(classes)} classes of target "
        f"{target!r}; add it to `targets.{target}`, or ignore it there"
    )


def check_sizes(name: str, path: Path | str, shape: Sequence[int], wanted: Mapping[str, int]) -> None:
    """Compare the sizes a spec promises with those of a file.

    Raises:
        DataError: naming file, sensor and both sizes.
    """
    for number, (axis, size) in enumerate(wanted.items()):
        if shape[number] != size:
            raise DataError(f"{path}: sensor {name!r} has {shape[number]} {axis}, its spec says {size}")
