"""Sample and Batch: pixels, dates and validity of every sensor, generic over numpy and torch.

Axes: b sample, t date, c band, h row, w column.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

A = TypeVar("A")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample(Generic[A]):
    """One place: its pixels as stored, and what is known of them.

    `images[sensor]` (t c h w), `dates[sensor]` (t 3) = year, day of year, hour; `present[sensor]` (t) is True where
    the date exists; `valid[sensor]` (t h w) is True where the pixel was measured. A sensor that the sample lacks is
    there with `present` all False. `place` is (longitude, latitude) in degrees.
    """

    id: str
    images: Mapping[str, A]
    dates: Mapping[str, A]
    present: Mapping[str, A]
    valid: Mapping[str, A]
    reference_date: A
    labels: Mapping[str, A] = field(default_factory=dict)
    place: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch(Generic[A]):
    """Samples stacked along a first axis b; otherwise as `Sample`.

    `keys` (b) int64 decide what is hidden of each sample in pretraining; None outside training.
    `complete[sensor]` is True where nothing of that sensor is absent or invalid in any sample: known on the host, so
    that the model can leave out masks without asking the device.
    """

    ids: tuple[str, ...]
    images: Mapping[str, A]
    dates: Mapping[str, A]
    present: Mapping[str, A]
    valid: Mapping[str, A]
    reference_date: A
    complete: Mapping[str, bool]
    labels: Mapping[str, A] = field(default_factory=dict)
    keys: A | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, sensors: Sequence[str]) -> "Batch[A]":
        """The same batch with these sensors alone."""
        keep: dict[str, Any] = {key: {s: getattr(self, key)[s] for s in sensors} for key in PER_SENSOR}
        return replace(self, **keep)


PER_SENSOR = ("images", "dates", "present", "valid", "complete")


def collate(samples: Sequence[Sample[np.ndarray]], keys: Sequence[int] | None = None) -> Batch[np.ndarray]:
    """Stack samples of equal shapes, with their keys if they are visits of training.

    Raises:
        ValueError: if the samples differ in sensors or shapes.
    """
    first = samples[0]
    stacked: dict[str, dict[str, np.ndarray]] = {}
    for key in ("images", "dates", "present", "valid", "labels"):
        names = getattr(first, key)
        stacked[key] = {name: np.stack([getattr(s, key)[name] for s in samples]) for name in names}
    complete = {s: bool(stacked["present"][s].all() and stacked["valid"][s].all()) for s in first.images}
    return Batch(
        ids=tuple(s.id for s in samples),
        reference_date=np.stack([s.reference_date for s in samples]),
        complete=complete,
        keys=None if keys is None else np.asarray(keys, np.int64),
        **stacked,
    )


def take(batch: Batch[Any], index: Any) -> Batch[Any]:
    """Rows `index` of a batch held in memory; numpy indexes numpy, torch indexes torch."""
    ids = tuple(batch.ids[i] for i in index.tolist())
    return replace(each_tensor(batch, lambda value: value[index]), ids=ids)


def to_torch(batch: Batch[np.ndarray], device: "torch.device | str" = "cpu") -> "Batch[torch.Tensor]":
    """Move a batch to a device, values as stored (but 16-bit unsigned as 32-bit: torch has no arithmetic on it)."""
    import torch

    def move(value: np.ndarray) -> "torch.Tensor":
        if value.dtype == np.uint16:
            value = value.astype(np.int32)
        if value.dtype == np.float64:
            value = value.astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(value)).to(device, non_blocking=True)

    moved: dict[str, Any] = {
        key: {name: move(value) for name, value in getattr(batch, key).items()}
        for key in ("images", "dates", "present", "valid", "labels")
    }
    keys = None if batch.keys is None else move(batch.keys)
    return Batch(ids=batch.ids, complete=batch.complete, reference_date=move(batch.reference_date), keys=keys, **moved)


def to_device(batch: "Batch[torch.Tensor]", device: "torch.device") -> "Batch[torch.Tensor]":
    """Copy a batch of tensors to a device, asynchronously where its memory is pinned."""
    if batch.reference_date.device == device:
        return batch
    return each_tensor(batch, lambda value: value.to(device, non_blocking=True))


def each_tensor(batch: Batch[A], change: Callable[[A], A]) -> Batch[A]:
    """The same batch with every array or tensor changed alike."""
    changed: dict[str, Any] = {
        key: {name: change(value) for name, value in getattr(batch, key).items()}
        for key in ("images", "dates", "present", "valid", "labels")
    }
    keys = None if batch.keys is None else change(batch.keys)
    return replace(batch, reference_date=change(batch.reference_date), keys=keys, **changed)
