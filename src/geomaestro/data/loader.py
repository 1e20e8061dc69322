"""Batches. What a step sees is a pure function of (seed, step): not of workers, ranks or restarts.

Axes: b sample.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from geomaestro.data.quarantine import BadSample, Quarantine
from geomaestro.data.reading import Dataset, Kept, Visit
from geomaestro.errors import DataError, GeomaestroError, SpecError
from geomaestro.samples import Batch, Sample, collate, each_tensor, take, to_torch

GRACE_S = 60  # assumed; a training that was told to stop needs no more batches after that long
MEMORY_LIMIT_BYTES = 2 << 30  # assumed; what is kept of one split in evaluation, or where nothing is drawn


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order in which an epoch visits `count` samples."""
    return np.random.default_rng((seed, epoch)).permutation(count)


class Subset:
    """Some samples of a dataset, by index."""

    def __init__(self, dataset: Dataset, index: Sequence[int]) -> None:
        self.dataset, self.index, self.draws = dataset, list(index), dataset.draws

    def __len__(self) -> int:
        return len(self.index)

    def ids(self) -> list[str]:
        """Names of the samples, in order."""
        names = self.dataset.ids()
        return [names[i] for i in self.index]

    def places(self) -> list[tuple[float, float] | None]:
        """Longitude and latitude of the samples, in order."""
        places = self.dataset.places()
        return [places[i] for i in self.index]

    def labels(self, target: str) -> np.ndarray:
        """Labels of the samples, in order."""
        return self.dataset.labels(target)[self.index]

    def read(self, index: int, visit: Visit | None = None) -> Sample[np.ndarray]:
        """One sample."""
        return self.dataset.read(self.index[index], visit)


class Remembered:
    """A dataset that keeps what it reads in evaluation, up to a number of bytes; visits of training are read anew."""

    def __init__(self, dataset: Dataset, limit_bytes: int = MEMORY_LIMIT_BYTES) -> None:
        self.dataset, self.draws = dataset, dataset.draws
        self._kept: Kept[Sample[np.ndarray]] = Kept(limit_bytes)

    def __len__(self) -> int:
        return len(self.dataset)

    def ids(self) -> list[str]:
        """Names of the samples, in order."""
        return self.dataset.ids()

    def places(self) -> list[tuple[float, float] | None]:
        """Longitude and latitude of the samples, in order."""
        return self.dataset.places()

    def labels(self, target: str) -> np.ndarray:
        """Labels of the samples, in order."""
        return self.dataset.labels(target)

    def read(self, index: int, visit: Visit | None = None) -> Sample[np.ndarray]:
        """One sample."""
        if visit is not None:
            return self.dataset.read(index, visit)
        return self._kept.get(index, lambda: self.dataset.read(index), _sample_bytes)


def _sample_bytes(sample: Sample[np.ndarray]) -> int:
    return sum(x.nbytes + sample.valid[name].nbytes for name, x in sample.images.items())


@dataclass(frozen=True, slots=True)
class Share:
    """What a rank, `number` of `count`, reads of each step, in so many `parts` that are computed one after another."""

    number: int = 0
    count: int = 1
    parts: int = 1


WHOLE = Share()


class _Steps:
    """Positions of the visits of each part of each step from `start` to `stop`, listed when it comes."""

    def __init__(self, batch: int, start: int, stop: int, share: Share) -> None:
        self.batch, self.steps, self.share = batch, range(start, stop), share

    def __len__(self) -> int:
        return len(self.steps) * self.share.parts

    def __iter__(self) -> Iterator[list[int]]:
        number, count, parts = self.share.number, self.share.count, self.share.parts
        for step in self.steps:
            for part in range(parts):
                yield list(visits_of(step, self.batch, (number * parts + part, count * parts)))


_Item = tuple[Sample[np.ndarray], int] | GeomaestroError | BadSample


class _Visits(TorchDataset[_Item]):
    """Item k is visit number k of an endless stream of epochs. A reader's error travels as a value; data that cannot be
    read is a `BadSample` where that is tolerated.
    """

    def __init__(self, dataset: Dataset, seed: int, *, tolerant: bool) -> None:
        self.dataset, self.seed, self.tolerant = dataset, seed, tolerant

    def __getitem__(self, position: int) -> "_Item":
        visit = visit_at(position, self.seed, len(self.dataset))
        try:
            return self.dataset.read(visit.index, visit), visit.key()
        except DataError as error:
            return BadSample(self.dataset.ids()[visit.index], str(error)) if self.tolerant else error
        except GeomaestroError as error:
            return error


def visits_of(step: int, batch: int, rank: tuple[int, int] = (0, 1)) -> range:
    """Positions of a step's visits that rank (number, count) takes: together the ranks take what one would alone.

    Raises:
        SpecError: if the batch, which is that of all ranks and parts, cannot be shared evenly.
    """
    number, count = rank
    if batch % count:
        raise SpecError(f"a batch of {batch} cannot be shared by {count} ranks x parts; choose a multiple")
    share = batch // count
    return range(step * batch + number * share, step * batch + (number + 1) * share)


def visit_at(position: int, seed: int, count: int) -> Visit:
    """Visit number `position` of the stream over `count` samples."""
    epoch, rank = divmod(position, count)
    return Visit(seed, epoch, int(order(seed, epoch, count)[rank]))


@dataclass(frozen=True, slots=True)
class _Stack:
    """The readable samples of a step in one batch (None if there is none), and the others."""

    batch: Batch[Tensor] | None
    bad: tuple[BadSample, ...]

    def pin_memory(self) -> "_Stack":
        """For the loader: memory that an accelerator copies from on its own."""
        return self if self.batch is None else _Stack(each_tensor(self.batch, Tensor.pin_memory), self.bad)


def _stack(items: list[_Item]) -> _Stack | GeomaestroError:
    good, bad = [], []
    for item in items:
        if isinstance(item, GeomaestroError):
            return item
        if isinstance(item, BadSample):
            bad.append(item)
        else:
            good.append(item)
    if not good:
        return _Stack(None, tuple(bad))
    try:
        return _Stack(to_torch(_collated([sample for sample, _ in good], [key for _, key in good])), tuple(bad))
    except DataError as error:
        return error


def _collated(samples: list[Sample[np.ndarray]], keys: list[int] | None = None) -> Batch[np.ndarray]:
    """As `collate`; samples of other sizes, which only a model input that resizes lets through, are told by name."""
    first = samples[0]
    for sample in samples:
        for kind in ("images", "labels"):
            for name, values in getattr(sample, kind).items():
                other = getattr(first, kind)[name]
                if values.shape != other.shape:
                    raise DataError(
                        f"samples {first.id!r} and {sample.id!r}: {kind} of {name!r} have the sizes {other.shape} and "
                        f"{values.shape}, but those of a batch are alike; give it `to_px`, and `fit` if it is a sensor"
                    )
    return collate(samples, keys)


def _outlive_signals(worker: int) -> None:
    """In a process that reads ahead: Ctrl-C and SIGTERM, which torchrun and SLURM send to the whole group, are for the
    training to act on; torch would take the end of this process for a crash before the state is saved.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_S))


def training_batches(
    dataset: Dataset,
    *,
    batch: int,
    seed: int,
    start: int,
    steps: int,
    workers: int = 0,
    share: Share = WHOLE,
    quarantine: Quarantine | None = None,
) -> Iterator[Batch[Tensor]]:
    """Batches of steps `start` to `steps`; step s holds visits s * batch to (s + 1) * batch, across epochs.

    `share` takes a rank's share of each step, in parts. With a `quarantine`, a step goes without
    the samples that cannot be read, and they are listed there; a part may then be a batch of no sample.

    Raises:
        DataError: if a sample can't be read, or too many of them; or if a step has no readable sample.
        SpecError: if the batch cannot be shared evenly.
    """
    positions = _Steps(batch, start, steps, share)
    if not dataset.draws and (held := _held(dataset, tolerant=quarantine is not None)) is not None:
        yield from _from_memory(held, seed, positions)
        return
    loader = DataLoader(
        _Visits(dataset, seed, tolerant=quarantine is not None),
        batch_sampler=positions,
        num_workers=workers,
        worker_init_fn=_outlive_signals,
        collate_fn=_stack,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    last: Batch[Tensor] | None = None
    for item in loader:
        if isinstance(item, GeomaestroError):
            raise item
        if quarantine is not None:
            quarantine.add(item.bad)
        if item.batch is None and share.count * share.parts == 1:
            raise DataError(f"none of the {batch} samples of a step can be read; the first: {item.bad[0].reason}")
        last = item.batch if item.batch is not None else without_samples(dataset, last)
        yield last


def without_samples(dataset: Dataset, like: Batch[Tensor] | None = None) -> Batch[Tensor]:
    """A batch of no sample, for who has nothing to compute while others have; `like` saves the reading of one.

    Raises:
        DataError: if no sample of the dataset can be read.
    """
    nothing, problem = torch.tensor([], dtype=torch.int64), None
    if like is not None:
        return take(like, nothing)
    for index in range(len(dataset)):
        try:
            return take(to_torch(collate([dataset.read(index)], [0])), nothing)
        except DataError as error:
            problem = problem or error
    raise DataError(f"no sample can be read; the first: {problem}")


def _from_memory(held: Batch[Tensor], seed: int, positions: _Steps) -> Iterator[Batch[Tensor]]:
    for part in positions:
        visits = [visit_at(p, seed, len(held)) for p in part]
        index = torch.tensor([v.index for v in visits])
        yield replace(take(held, index), keys=torch.tensor([v.key() for v in visits]))


def _held(dataset: Dataset, *, tolerant: bool) -> Batch[Tensor] | None:
    """All samples in memory, or None if they take too much of it, or if one cannot be read and that is tolerated."""
    try:
        first = dataset.read(0)
        return read_all(dataset) if _sample_bytes(first) * len(dataset) <= MEMORY_LIMIT_BYTES else None
    except DataError:
        if tolerant:
            return None
        raise


def read_all(dataset: Dataset) -> Batch[Tensor]:
    """Every sample, as in evaluation, in one batch in memory."""
    return to_torch(_collated([dataset.read(i) for i in range(len(dataset))]))


class _Plain(TorchDataset[_Item]):
    """Samples in order, as in evaluation."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> _Item:
        try:
            return self.dataset.read(index), 0
        except GeomaestroError as error:
            return error


def names_of(dataset: Dataset, seed: int, step: int, batch: int) -> list[str]:
    """Names of the samples that a step visits, over all ranks and parts."""
    names = dataset.ids()
    return [names[visit_at(p, seed, len(names)).index] for p in visits_of(step, batch)]


def evaluation_batches(
    dataset: Dataset, *, batch: int, workers: int = 0, share: tuple[int, int] = (0, 1)
) -> Iterator[Batch[Tensor]]:
    """Every sample once, in order, nothing drawn, nothing dropped; of the batches, those of `share` (number, count).

    Raises:
        DataError: if a sample can't be read.
    """
    number, count = share
    starts = range(0, len(dataset), batch)
    mine = starts[len(starts) * number // count : len(starts) * (number + 1) // count]
    indices = [list(range(start, min(start + batch, len(dataset)))) for start in mine]
    loader = DataLoader(
        _Plain(dataset),
        batch_sampler=indices,
        num_workers=workers,
        worker_init_fn=_outlive_signals,
        collate_fn=_stack,
        pin_memory=torch.cuda.is_available(),
    )
    for item in loader:
        if isinstance(item, GeomaestroError):
            raise item
        yield item.batch


def check_readable(dataset: Dataset, tries: int = 1) -> None:
    """Read the first sample, so that a wrong spec is known before anything is trained; if it is damaged, the next, up
    to `tries` samples.

    Raises:
        DataError: naming the file and what is wrong.
    """
    if len(dataset) == 0:
        raise DataError("the dataset has no samples")
    problem = None
    for index in range(min(tries, len(dataset))):
        try:
            dataset.read(index)
            return
        except DataError as error:
            problem = problem or error
    if problem is not None:
        raise problem
