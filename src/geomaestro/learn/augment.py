"""Augmentation on the device, drawn from the batch's keys: a pure function of the visit.

Axes: b sample, t date.
"""

from dataclasses import replace

from torch import Tensor

from geomaestro.nn.draws import uniform
from geomaestro.samples import Batch

_STREAM = 5000  # far from the streams that hiding draws from


def drop_dates(batch: Batch[Tensor], share: float) -> Batch[Tensor]:
    """Make each date of a series absent with probability `share`; where all dates would go, all stay."""
    assert batch.keys is not None, "batches of training have keys"
    present, complete = dict(batch.present), dict(batch.complete)
    for number, (name, there) in enumerate(batch.present.items()):
        if there.shape[1] == 1:
            continue
        kept = there & (uniform(batch.keys, there.shape[1], _STREAM + number) >= share)
        present[name] = kept | (there & ~kept.any(dim=1, keepdim=True))
        complete[name] = False
    return replace(batch, present=present, complete=complete)
