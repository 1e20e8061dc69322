"""Embeddings of the samples of a dataset by a pretrained model, in pieces beside those of `select/measure.py`.

Axes: n sample, d width.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa

from geomaestro.config import check
from geomaestro.data.loader import Subset
from geomaestro.data.packing.jobs import Jobs
from geomaestro.data.packing.plan import Listing, Source
from geomaestro.data.sampling import SceneDataset
from geomaestro.data.specs import DatasetSpec
from geomaestro.errors import GeomaestroError
from geomaestro.learn.distributed import Ranks
from geomaestro.learn.features import pooled_features
from geomaestro.models.base import TokenEncoder
from geomaestro.select.measure import ImagesWork
from geomaestro.select.pieces import Item, Pieces, digest, notes_of
from geomaestro.sensors import check_sensors

BATCH = 64  # assumed
Report = Callable[[int, int, str], None]


def embed(
    work: ImagesWork, encoder: TokenEncoder, model: str, *, jobs: Jobs, ranks: Ranks, report: Report | None = None
) -> Pieces:
    """Make pieces with a column `embedding` (d), a row for each row of the finished pieces of this share.

    A sample that can't be read whole gets none. A tile that is cut gets the mean of its crops.

    Raises:
        SpecError: if the dataset's sensors are not the model's.
    """
    pieces = Pieces(work.rows.folder, "embedded", digest([work.rows.mark, model, _weights(encoder)]))
    spec = _as_model(work.source.spec, encoder)
    listing = Listing(Source(spec, work.source.root, work.source.splits))
    worker = _Embedding(work, encoder, listing, [SceneDataset(scenes, spec) for scenes in listing.scenes], ranks)
    mine = jobs.share(work.items)
    total, done, lost = sum(stop - start for _, start, stop in mine), 0, 0
    for item in mine:
        stamp = notes_of(work.rows.get(item[0]))["stamp"]
        found = pieces.find(item[0])
        if found is None or notes_of(found).get("stamp") != stamp:
            pieces.write(item[0], worker.piece(item), {"stamp": stamp})
        lost += pieces.get(item[0])["embedding"].null_count
        done += item[2] - item[1]
        if report is not None:
            report(done, total, f"{lost} without" if lost else "")
    return pieces


def _weights(encoder: TokenEncoder) -> str:
    """What tells weights of one name apart: sums of all tensors."""
    return digest({name: float(tensor.double().sum()) for name, tensor in encoder.state_dict().items()})


def _as_model(spec: DatasetSpec, encoder: TokenEncoder) -> DatasetSpec:
    """The dataset with the model's sensors alone, brought to the model's inputs, without labels."""
    inputs = encoder.spec.inputs
    check_sensors({name: entry.sensor() for name, entry in spec.sensors.items()}, inputs, need_all=False)
    values = spec.model_dump()
    taken, others = {}, dict(values["left_out"])
    for name, entry in values["sensors"].items():
        if name in inputs:
            taken[name] = {**entry, "input": inputs[name].input.model_dump()}
        else:
            others[name] = entry
    return check(type(spec), {**values, "sensors": taken, "targets": {}, "left_out": others}, spec.name)


class _Embedding:
    """Embeds the samples of pieces."""

    def __init__(
        self,
        work: ImagesWork,
        encoder: TokenEncoder,
        listing: Listing,
        datasets: Sequence[SceneDataset],
        ranks: Ranks,
    ) -> None:
        self.work, self.encoder, self.listing, self.datasets, self.ranks = work, encoder, listing, datasets, ranks
        self.crops = work.meter.options.crops

    def piece(self, item: Item) -> pa.Table:
        """Embeddings of the rows of a finished piece."""
        rows: list[np.ndarray | None] = []
        for group, run in groupby(self._wanted(item), key=lambda each: each[0]):
            rows += self._some(self.datasets[group], [parts for _, parts in run])
        kind = pa.list_(pa.float32(), self.encoder.spec.dim)
        return pa.table({"embedding": pa.array([None if row is None else row.tolist() for row in rows], kind)})

    def _wanted(self, item: Item) -> Iterator[tuple[int, list[int]]]:
        """Number of a dataset, and parts in it, of each scene of a piece that has rows there."""
        number, start, stop = item
        found = self.work.rows.get(number)
        kept = set(zip(found["split"].to_pylist(), found["id"].to_pylist(), strict=True))
        for index in range(start, stop):
            group, place = self.listing.place[index]
            parts = self.datasets[group].parts
            name = self.listing.names[index]
            if (self.listing.of[index], f"{name}/0-0" if self.crops else name) in kept:
                yield group, list(range(place * parts, (place + 1) * parts))

    def _some(self, dataset: SceneDataset, scenes: Sequence[Sequence[int]]) -> Iterator[np.ndarray | None]:
        """A row (d) for each scene, or for each of its parts; None for those of a scene that can't be read."""
        together = self._features(dataset, [part for parts in scenes for part in parts])
        first = 0
        for parts in scenes:
            own = self._features(dataset, parts) if together is None else together[first : first + len(parts)]
            first += len(parts)
            if own is None:
                yield from [None] * (len(parts) if self.crops else 1)
            else:
                yield from own if self.crops else own.mean(axis=0, keepdims=True)

    def _features(self, dataset: SceneDataset, parts: Sequence[int]) -> np.ndarray | None:
        """(parts d); None if one can't be read."""
        try:
            found = pooled_features(self.encoder, Subset(dataset, parts), batch=BATCH, ranks=self.ranks)
        except GeomaestroError:
            return None
        return np.asarray(found.numpy(), np.float32)
