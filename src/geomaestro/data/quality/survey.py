"""One look at all that is stored: every scene once, with all its dates, labels and maps.

A scene gives a `Record`; what pools (values of bands, fingerprints) is pooled as it comes, in the order of the scenes,
so that the answer does not depend on the number of workers.
Axes: t date, c band, h row, w column, k class.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from geomaestro.data.arrays import MAX_BYTES
from geomaestro.data.files.align import middle
from geomaestro.data.files.filespec import FilesSpec
from geomaestro.data.files.listing import list_rows, scan
from geomaestro.data.files.reader import FileScenes
from geomaestro.data.files.stores import read_arrays
from geomaestro.data.files.tables import column_of
from geomaestro.data.packing.jobs import Jobs, run
from geomaestro.data.packing.plan import Source, open_listing
from geomaestro.data.quality.bandstats import LEAST_PIXELS, Statistics, measure
from geomaestro.data.quality.fingerprint import judge
from geomaestro.data.quality.likeness import content_hash, picture_hashes
from geomaestro.data.quality.placing import Extent, check_ground, extent_of, georeferences
from geomaestro.data.quality.refusals import BLANK, RefusedError, kind_of, reader_errors, reason_of
from geomaestro.data.quality.spread import Spread, spread_of
from geomaestro.data.reading import decoded
from geomaestro.data.sampling import Cut, check_shape
from geomaestro.data.scenes import CLOUDY, UNKNOWN, Scene, Series
from geomaestro.data.spec import ArraySpec, Common
from geomaestro.data.specs import DatasetSpec
from geomaestro.errors import DataError
from geomaestro.grid import Window

MOST_CHUNK, CHUNKS = 64, 256  # assumed; scenes that a worker takes at once, and pieces that a small dataset is cut in
FINGERPRINTED = 4  # assumed; dates of a scene that its fingerprint is taken of, evenly spread (measured: 0.07 s each)
FINGERPRINTED_PX = 256  # assumed; of larger images the middle is taken
TOLD_BY_ONE = ("zero", "empty", "not finite", "unit", "offset", "negative", "copy")  # findings that one scene can give
IGNORED = "/ignored"  # after the name of a target whose map has pixels without a label

USUAL = ("pretrain", "train", "val", "dev", "test")  # what names of splits begin with

Report = Callable[[int, int, str], None]
"""Called with the samples done, the samples in all, and a note."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is looked for beside readability: the fingerprint of each sensor, the spread of its values."""

    fingerprint: bool = False
    spread: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One sensor of one scene."""

    days: np.ndarray  # (t 3) int16
    size: tuple[int, int]
    pixels: int  # of all dates
    unknown: int
    cloudy: int
    even: int  # images of more than a pixel whose bands each hold a single value, though pixels were measured
    hashes: np.ndarray  # (t) uint64, of the sensor that pictures are compared by; else (0)
    content: np.uint64


@dataclass(frozen=True, slots=True)
class Record:
    """One scene. `reason` says why it can't be used, `odd` what of its pixels contradicts the spec, by sensor."""

    number: int
    id: str
    split: str | None
    kind: str = ""
    reason: str = ""
    place: tuple[float, float] | None = None
    extent: Extent | None = None
    sensors: Mapping[str, Seen] = field(default_factory=dict)
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)  # the label, of a map the pixels (k) of each class
    maps: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    odd: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # sensor: {kind of finding: message}


Prints = dict[tuple[str, tuple[str, ...]], Statistics]
Spreads = dict[tuple[str, str | None], Spread]


@dataclass(frozen=True)
class Survey:
    """All that was seen. `prints` are fingerprints by sensor and by what is odd about the scenes pooled in them."""

    source: Source
    splits: tuple[str | None, ...]
    total: int
    records: tuple[Record, ...]
    spreads: Spreads
    prints: Prints

    @property
    def compared_by(self) -> str:
        """The sensor that pictures are compared by."""
        return _compared_by(self.source.spec)

    @property
    def good(self) -> list[Record]:
        """Of the scenes that could be read."""
        return [record for record in self.records if not record.reason]


def survey(
    spec: DatasetSpec,
    root: Path,
    splits: Sequence[str],
    *,
    look: Look,
    jobs: Jobs | None = None,
    report: Report | None = None,
) -> Survey:
    """Look at every scene of some splits, or at a share of them.

    Raises:
        DataError: if the list of samples can't be made: a table is missing, a label in it is none.
    """
    source, jobs = Source(spec, root, tuple(splits)), jobs or Jobs()
    listing = open_listing(source)
    total = len(listing.names)
    size = min(MOST_CHUNK, max(1, total // CHUNKS))
    items = jobs.share(
        [(number, start, min(start + size, total)) for number, start in enumerate(range(0, total, size))]
    )
    records: list[Record] = []
    spreads: Spreads = {}
    prints: Prints = {}
    done = bad = 0
    wanted = sum(stop - start for _, start, stop in items)
    order = [number for number, *_ in items]
    for chunk in _in_order(run(partial(survey_chunk, source, look), items, jobs), order):
        records += chunk.records
        _pool(spreads, chunk.spreads)
        _pool(prints, chunk.prints)
        done, bad = done + len(chunk.records), bad + sum(bool(record.reason) for record in chunk.records)
        if report is not None:
            report(done, wanted, f"{bad} bad" if bad else "")
    return Survey(source, listing.splits or (None,), total, tuple(records), spreads, prints)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What came of a piece of the scenes."""

    number: int
    records: list[Record]
    spreads: Spreads
    prints: Prints


def survey_chunk(source: Source, look: Look, item: tuple[int, int, int]) -> Chunk:
    """Look at the scenes from `start` to `stop`."""
    number, start, stop = item
    listing = open_listing(source)
    told = _compared_by(source.spec)
    chunk = Chunk(number, [], {}, {})
    errors = reader_errors(isinstance(source.spec, FilesSpec))
    for index in range(start, stop):
        group, place = listing.place[index]
        empty = Record(index, listing.names[index], listing.of[index])
        try:
            with listing.scenes[group].scene(place) as scene:
                seen = _Looking(source.spec, scene, look, empty, told)
                record = seen.record()
        except errors as error:
            reason = reason_of(error)
            chunk.records.append(replace(empty, kind=kind_of(error, reason), reason=reason))
            continue
        chunk.records.append(record)
        _pool(chunk.spreads, seen.spreads)
        _pool(chunk.prints, seen.prints)
    return chunk


def _compared_by(spec: Common) -> str:
    """The sensor that pictures are compared by: of those that no place lacks, one of the most pixels, then dates."""

    def richness(name: str) -> tuple[bool, int, int]:
        entry, (rows, cols) = spec.sensors[name], spec.image_px(name)
        return not getattr(entry, "optional", False), rows * cols, entry.input.dates * len(entry.bands)

    return max(spec.sensors, key=richness)  # of equals the first


def splits_of(spec: DatasetSpec, root: Path) -> tuple[str, ...]:
    """The splits that a dataset has samples of: train, val, test first; a name that stands for all where it has none.

    Raises:
        DataError: if the table or the files that name them are missing.
    """
    names = _split_names(spec, root)
    if not names:
        return ("all",)

    def rank(name: str) -> tuple[int, str]:
        return next((n for n, usual in enumerate(USUAL) if name.startswith(usual)), len(USUAL)), name

    return tuple(sorted(set(names), key=rank))


def _split_names(spec: DatasetSpec, root: Path) -> list[str]:
    if isinstance(spec, ArraySpec):
        path = root / spec.directory / spec.file
        return (
            [] if spec.split is None else decoded(path, read_arrays(path, [spec.split], MAX_BYTES)[spec.split]).tolist()
        )
    if not isinstance(spec, FilesSpec):
        path = root / spec.directory / "index.parquet"
        if not path.is_file():
            raise DataError(f"{path}: no such file; `geomaestro data pack` writes it last")
        return [name for name in pq.read_table(path, columns=["split"])["split"].unique().to_pylist() if name]
    how, folder = spec.samples, root / spec.directory
    if how.one_list_per_split:
        return _main_lists([row["split"] for row in scan(folder, how.table or how.scan or "")])
    if how.split is not None:
        every = spec.model_copy(update={"samples": how.model_copy(update={"split": None})})
        found = {str(column_of(row, how.split, folder)) for row in list_rows(every, folder, ())}
        return [name for name, values in how.splits.items() if found & {str(x) for x in values}] or list(found)
    shares = how.blocks.shares if how.blocks is not None else how.drawn or {}
    return [name for name, share in shares.items() if share > 0 and len(FileScenes(spec, root, (name,)))]


def _main_lists(names: Sequence[str]) -> list[str]:
    """Of lists that may overlap (folds, parts): one for each usual split; all where there is none of these."""
    found = []
    for role in ("pretrain", "train", "val", "test"):
        fitting = sorted({name for name in names if name.startswith(role)}, key=lambda name: (len(name), name))
        found += fitting[:1]
    return found or list(names)


class _Looking:
    """Looks at one scene while its files are open."""

    def __init__(self, spec: DatasetSpec, scene: Scene, look: Look, empty: Record, compared_by: str) -> None:
        self.spec, self.scene, self.look, self.empty, self.compared_by = spec, scene, look, empty, compared_by
        self.spreads: Spreads = {}
        self.prints: Prints = {}
        self.odd: dict[str, dict[str, str]] = {}

    def record(self) -> Record:
        """All that is kept of the scene.

        Raises:
            GeomaestroError: for the first thing that is wrong with it.
        """
        for name, series in self.scene.series.items():
            self._check_shape(name, series)
        found, place = georeferences(self.scene), self.scene.place
        check_ground(found, place, aligned=getattr(self.spec, "ground", None) is not None)
        sensors = {name: self._sensor(name, series) for name, series in self.scene.series.items()}
        if not any(seen.unknown < seen.pixels for seen in sensors.values()):
            raise RefusedError(BLANK, f"{self._where(*self.scene.series.values())}: no sensor has a measured pixel")
        return replace(
            self.empty,
            place=place if place is not None or not found else middle(found[0].grid),
            extent=extent_of(found[0].grid) if found else self._extent(sensors),
            sensors=sensors,
            labels=self._labels(),
            maps={name: raster.shape for name, raster in self.scene.maps.items()},
            odd=self.odd,
        )

    def _where(self, *series: Series) -> str:
        return next((one.where for one in series if one.where), self.scene.id)

    def _check_shape(self, name: str, series: Series) -> None:
        """What training would refuse."""
        cut = Cut.of(self.scene, self.spec, 0, None)
        check_shape(self.spec, name, self.scene.id, series, cut.window((series.shape[2], series.shape[3])))

    def _sensor(self, name: str, series: Series) -> Seen:
        t, _, h, w = series.shape
        whole = Window(0, 0, h, w)
        states = series.state(whole)
        images = np.asarray(series.read(None, whole))
        unknown = None if states is None else states & UNKNOWN > 0
        missing = 0 if unknown is None else int(unknown.sum())
        # arrays have no other way to say that a place lacks a sensor
        if t * h * w and missing == t * h * w and isinstance(self.spec, FilesSpec):
            raise RefusedError(
                BLANK,
                f"{self._where(series)}: sensor {name!r} has no measured pixel in {t} x {h} x {w} (dates, rows, "
                f"columns); fetch it again, or leave it out of this place (`sensors.{name}.optional`)",
            )
        self._measure(name, images, unknown)
        compared = name == self.compared_by
        return Seen(
            days=np.asarray(series.days, np.int16),
            size=(h, w),
            pixels=t * h * w,
            unknown=missing,
            cloudy=0 if states is None else int((states & CLOUDY > 0).sum()),
            even=_even(images, unknown),
            hashes=picture_hashes(images, unknown) if compared else np.zeros(0, np.uint64),
            content=content_hash(images) if compared else np.uint64(0),
        )

    def _measure(self, name: str, images: np.ndarray, unknown: np.ndarray | None) -> None:
        sensor = self.spec.sensors[name].sensor()
        if self.look.spread:
            self.spreads[name, self.empty.split] = spread_of(images, unknown, f"{self.scene.id}/{name}")
        if self.look.fingerprint and (unknown is None or not unknown.all()):
            part = _few(images.shape)
            pooled = measure(images[part], None if unknown is None else ~unknown[part[0], *part[2:]], sensor)
            findings = {found.kind: found.message for found in judge(_orderless(pooled), sensor, name) if found.certain}
            findings = {kind: message for kind, message in findings.items() if kind in TOLD_BY_ONE}
            self.prints[name, tuple(sorted(findings))] = pooled
            if findings:
                self.odd[name] = findings

    def _labels(self) -> dict[str, np.ndarray]:
        labels = {name: np.atleast_1d(value) for name, value in self.scene.labels.items()}
        for name, raster in self.scene.maps.items():
            target = self.spec.targets[name]
            values = raster.read(Window(0, 0, *raster.shape)).ravel()
            kept = values[(values != target.ignore) & (values >= 0)]
            labels[name] = np.bincount(kept, minlength=len(target.classes))
            labels[f"{name}{IGNORED}"] = np.asarray([len(values) - len(kept)])
        return labels

    def _extent(self, sensors: Mapping[str, Seen]) -> Extent:
        """Of the largest image, by its pixels, where no file tells."""
        sides = [
            (seen.size[0] * self.spec.sensors[name].gsd_m, seen.size[1] * self.spec.sensors[name].gsd_m)
            for name, seen in sensors.items()
        ]
        height, width = max(sides, default=(0.0, 0.0))
        return Extent(height / 1000, width / 1000)


def _even(images: np.ndarray, unknown: np.ndarray | None) -> int:
    if images.shape[2] * images.shape[3] < 2:
        return 0
    even = (images == images[:, :, :1, :1]).all(axis=(1, 2, 3))
    if unknown is not None:
        even &= ~unknown.all(axis=(1, 2))
    return int(even.sum())


def _few(shape: Sequence[int]) -> tuple[Any, ...]:
    """The dates, bands, rows and columns of images (t c h w) that the fingerprint is taken of."""
    t, _, h, w = shape
    many = t > FINGERPRINTED and h * w >= LEAST_PIXELS  # dates of a few pixels are looked at as one image
    dates = np.linspace(0, t - 1, FINGERPRINTED).astype(int) if many else slice(None)
    top, left = max(0, h - FINGERPRINTED_PX) // 2, max(0, w - FINGERPRINTED_PX) // 2
    return dates, slice(None), slice(top, top + FINGERPRINTED_PX), slice(left, left + FINGERPRINTED_PX)


def _orderless(pooled: Statistics) -> Statistics:
    """Without what tells the order of bands: a single scene tells too little of it (measured), and takes long."""
    return replace(pooled, summaries=tuple(replace(each, contrasts=each.contrasts[:0]) for each in pooled.summaries))


def _pool(into: dict[Any, Any], more: Mapping[Any, Any]) -> None:
    for key, value in more.items():
        into[key] = into[key] + value if key in into else value


def _in_order(chunks: Iterable[Chunk], order: Sequence[int]) -> Iterator[Chunk]:
    """Chunks in the order of their numbers, held back until it is their turn."""
    waiting: dict[int, Chunk] = {}
    turn = iter(order)
    wanted = next(turn, None)
    for chunk in chunks:
        waiting[chunk.number] = chunk
        while wanted in waiting:
            assert wanted is not None, "no chunk is None"
            yield waiting.pop(wanted)
            wanted = next(turn, None)
