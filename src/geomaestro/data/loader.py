"""Batches. What a step sees is a pure function of (seed, step): not of workers, ranks or restarts.

Axes: b sample.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from geomaestro.data.reading import Dataset, Kept, Visit
from geomaestro.errors import DataError, GeomaestroError
from geomaestro.samples import Batch, Sample, collate, take, to_torch

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


class _Steps:
    """Positions of the visits of each step from `start` to `stop`, listed when the step comes."""

    def __init__(self, batch: int, start: int, stop: int) -> None:
        self.batch, self.steps = batch, range(start, stop)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            yield list(range(step * self.batch, (step + 1) * self.batch))


class _Visits(TorchDataset[tuple[Sample[np.ndarray], int] | GeomaestroError]):
    """Item k is visit number k of an endless stream of epochs. A reader's error travels as a value."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, position: int) -> tuple[Sample[np.ndarray], int] | GeomaestroError:
        visit = visit_at(position, self.seed, len(self.dataset))
        try:
            return self.dataset.read(visit.index, visit), visit.key()
        except GeomaestroError as error:
            return error


def visit_at(position: int, seed: int, count: int) -> Visit:
    """Visit number `position` of the stream over `count` samples."""
    epoch, rank = divmod(position, count)
    return Visit(seed, epoch, int(order(seed, epoch, count)[rank]))


def _stack(items: list[tuple[Sample[np.ndarray], int] | GeomaestroError]) -> Batch[Tensor] | GeomaestroError:
    for item in items:
        if isinstance(item, GeomaestroError):
            return item
    good = [item for item in items if not isinstance(item, GeomaestroError)]
    return to_torch(collate([sample for sample, _ in good], [key for _, key in good]))


def training_batches(
    dataset: Dataset, *, batch: int, seed: int, start: int, steps: int, workers: int = 0
) -> Iterator[Batch[Tensor]]:
    """Batches of steps `start` to `steps`; step s holds visits s * batch to (s + 1) * batch, across epochs.

    Raises:
        DataError: if a sample can't be read.
    """
    if not dataset.draws and (held := _held(dataset)) is not None:
        yield from _from_memory(held, batch, seed, start, steps)
        return
    loader = DataLoader(
        _Visits(dataset, seed),
        batch_sampler=_Steps(batch, start, steps),
        num_workers=workers,
        collate_fn=_stack,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    for item in loader:
        if isinstance(item, GeomaestroError):
            raise item
        yield item


def _from_memory(held: Batch[Tensor], batch: int, seed: int, start: int, steps: int) -> Iterator[Batch[Tensor]]:
    for step in range(start, steps):
        visits = [visit_at(p, seed, len(held)) for p in range(step * batch, (step + 1) * batch)]
        index = torch.tensor([v.index for v in visits])
        yield replace(take(held, index), keys=torch.tensor([v.key() for v in visits]))


def _held(dataset: Dataset) -> Batch[Tensor] | None:
    """All samples in memory, or None if they take too much of it."""
    first = dataset.read(0)
    return read_all(dataset) if _sample_bytes(first) * len(dataset) <= MEMORY_LIMIT_BYTES else None


def read_all(dataset: Dataset) -> Batch[Tensor]:
    """Every sample, as in evaluation, in one batch in memory."""
    return to_torch(collate([dataset.read(i) for i in range(len(dataset))]))


class _Plain(TorchDataset[tuple[Sample[np.ndarray], int] | GeomaestroError]):
    """Samples in order, as in evaluation."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Sample[np.ndarray], int] | GeomaestroError:
        try:
            return self.dataset.read(index), 0
        except GeomaestroError as error:
            return error


def evaluation_batches(dataset: Dataset, *, batch: int, workers: int = 0) -> Iterator[Batch[Tensor]]:
    """Every sample once, in order, nothing drawn, nothing dropped.

    Raises:
        DataError: if a sample can't be read.
    """
    loader = DataLoader(_Plain(dataset), batch_size=batch, num_workers=workers, collate_fn=_stack)
    for item in loader:
        if isinstance(item, GeomaestroError):
            raise item
        yield item


def check_readable(dataset: Dataset) -> None:
    """Read the first sample, so that a wrong spec is known before anything is trained.

    Raises:
        DataError: naming the file and what is wrong.
    """
    if len(dataset) == 0:
        raise DataError("the dataset has no samples")
    dataset.read(0)
