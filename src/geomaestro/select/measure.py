"""Samples of a dataset -> a table: place, date, spectral entropy and picture of each, measured piece by piece.

Memory does not grow with the dataset; a killed run goes on where it was; shares (`--shard i/n`) meet in one folder.
Axes: t date, c band, h row, w column.
"""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from geomaestro.config import Strict
from geomaestro.data.files.align import middle
from geomaestro.data.files.filespec import FilesSpec
from geomaestro.data.packing.plan import WORDS, Source, open_listing
from geomaestro.data.quality.dataset_stats import dated
from geomaestro.data.quality.likeness import COLS, NO_HASH, ROWS, mean_band, picture_hashes
from geomaestro.data.quality.placing import check_ground, extent_of, georeferences
from geomaestro.data.quality.refusals import reader_errors, reason_of
from geomaestro.data.sampling import Cut
from geomaestro.data.scenes import UNKNOWN, Scene, Series
from geomaestro.data.spec import Common
from geomaestro.data.specs import DatasetSpec
from geomaestro.errors import SpecError
from geomaestro.grid import Grid, Window
from geomaestro.select.entropy import Spectral, SpectralOptions, sentinel2_names
from geomaestro.select.geography import HEIGHT, WIDTH, Layers
from geomaestro.select.pieces import Item, Pieces, cut, digest, is_current
from geomaestro.select.stamps import stamp_of
from geomaestro.select.table import SCHEMA

FORMAT = 2  # of the pieces
Named = tuple[str | None, str]
"""Split and name of a sample."""
MEASURED = pa.schema(
    [(name, SCHEMA[name]) for name in ("id", "dataset", "split", "lon", "lat", "date", "dates")]
    + [("spectral_entropy", pa.float32()), ("picture_hash", pa.uint64()), (WIDTH, pa.float32()), (HEIGHT, pa.float32())]
)


class MeasureOptions(Strict):
    """What is measured of a sample. `sensor` is the one that spectral entropy is of; left out, it is chosen.

    With `crops` the samples are the crops that a tile is cut into for evaluation, not the tile.
    """

    spectral: SpectralOptions = SpectralOptions()
    sensor: str | None = None
    crops: bool = False


@dataclass(frozen=True)
class Meter:
    """What measures the scenes of a dataset: the sensors that entropy and picture are of."""

    spec: DatasetSpec
    name: str
    options: MeasureOptions
    spectral: Spectral
    sensor: str
    picture: str

    @classmethod
    def of(cls, spec: DatasetSpec, name: str, options: MeasureOptions) -> "Meter":
        """Of a dataset.

        Raises:
            SpecError: if it has no such sensor, no crops, or nothing tells the range of its numbers.
        """
        sensor = chosen_sensor(spec, options.sensor)
        if options.crops and spec.crop is None:
            raise SpecError(f"{name}: its spec cuts no crops (`crop`); leave out --crops")
        spectral = Spectral.of(sensor, spec.sensors[sensor].sensor(), options.spectral)
        return cls(spec, name, options, spectral, sensor, _picture_sensor(spec, sensor))

    def rows(self, scene: Scene, split: str | None) -> Iterator[dict[str, Any]]:
        """A row for the scene, or for each of its crops.

        Raises:
            GeomaestroError: for the first thing that is wrong with it.
        """
        found, told = georeferences(scene), scene.place
        check_ground(found, told, aligned=getattr(self.spec, "ground", None) is not None)
        grid = found[0].grid if found else None
        series = {name: _Read.of(scene.series[name]) for name in {self.sensor, self.picture} if name in scene.series}
        day, dates = self._day(series.get(self.sensor))
        parts = self.spec.crop.cover**2 if self.options.crops and self.spec.crop is not None else 1
        for part in range(parts):
            at = self._cut(scene, part)
            lon, lat = self._place(told, grid, at)
            width, height = self._extent(grid, series.get(self.sensor), at)
            crop = self.spec.crop if self.options.crops else None
            yield {
                "id": scene.id if crop is None else crop.name_of(scene.id, part),
                "dataset": self.name,
                "split": split,
                "lon": lon,
                "lat": lat,
                "date": day,
                "dates": dates,
                "spectral_entropy": self._entropy(series.get(self.sensor), at),
                "picture_hash": _picture(series.get(self.picture), at)[0],
                WIDTH: width,
                HEIGHT: height,
            }

    def shown(self, scene: Scene, part: int) -> np.ndarray | None:
        """The picture (h w) whose hash is in the table; None if there is none."""
        if self.picture not in scene.series:
            return None
        read, at = _Read.of(scene.series[self.picture]), self._cut(scene, part)
        found, date = _picture(read, at)
        images, states = read.part(at)
        unknown = None if states is None else states[date] & UNKNOWN > 0
        return None if found == NO_HASH else mean_band(images[date], unknown)

    def _cut(self, scene: Scene, part: int) -> Cut:
        return Cut.of(scene, self.spec, part, None) if self.options.crops else Cut((1, 1), (0, 0), (1, 1))

    def _day(self, read: "_Read | None") -> tuple[datetime.date | None, int]:
        """Day of the middle image, if images have dates of their own, and their number."""
        if read is None:
            return None, 0
        days = np.asarray(read.days)[np.asarray(read.days)[:, 0] > 0]
        if not dated(self.spec, self.sensor) or not len(days):
            return None, len(read.images)
        year, day = days[np.lexsort((days[:, 2], days[:, 1], days[:, 0]))][(len(days) - 1) // 2][:2].tolist()
        return datetime.date(year, 1, 1) + datetime.timedelta(max(day, 1) - 1), len(days)

    def _place(self, told: tuple[float, float] | None, grid: Grid | None, at: Cut) -> tuple[float | None, float | None]:
        if grid is not None and at.units != (1, 1):
            return middle(_part_of(grid, at))
        return told or ((None, None) if grid is None else middle(grid))

    def _extent(self, grid: Grid | None, read: "_Read | None", at: Cut) -> tuple[float | None, float | None]:
        """Width and height in metres."""
        if grid is not None:
            found = extent_of(_part_of(grid, at))
            return 1000 * found.width_km, 1000 * found.height_km
        if read is None:
            return None, None
        window = at.window((read.images.shape[2], read.images.shape[3]))
        gsd_m = self.spec.sensors[self.sensor].gsd_m
        return window.width * gsd_m, window.height * gsd_m

    def _entropy(self, read: "_Read | None", at: Cut) -> float | None:
        if read is None:
            return None
        images, states = read.part(at)
        value = self.spectral(images, None if states is None else states == 0)
        return None if np.isnan(value) else value


@dataclass(frozen=True)
class _Read:
    """A series that was read whole."""

    images: np.ndarray
    states: np.ndarray | None
    days: np.ndarray

    @classmethod
    def of(cls, series: Series) -> "_Read":
        whole = Window(0, 0, *series.shape[2:])
        return cls(np.asarray(series.read(None, whole)), series.state(whole), series.days)

    def part(self, at: Cut) -> tuple[np.ndarray, np.ndarray | None]:
        """Images (t c h w) and states (t h w) of a crop."""
        rows, cols = at.window((self.images.shape[2], self.images.shape[3])).slices
        return self.images[:, :, rows, cols], None if self.states is None else self.states[:, rows, cols]


def _picture(read: _Read | None, at: Cut) -> tuple[int, int]:
    """Hash and number of the image in the middle that shows something, or of the next to it that does."""
    if read is None:
        return int(NO_HASH), -1
    images, states = read.part(at)
    count = len(images)
    for date in sorted(range(count), key=lambda t: (abs(2 * t - count + 1), t)):
        unknown = None if states is None else states[date : date + 1] & UNKNOWN > 0
        found = picture_hashes(images[date : date + 1], unknown)[0]
        if found != NO_HASH:
            return int(found), date
    return int(NO_HASH), -1


def _part_of(grid: Grid, at: Cut) -> Grid:
    """The grid of a crop."""
    a, b, c, d, e, f = grid.transform
    (rows, cols), (row, col), (height, width) = at.units, at.start, at.size
    top, left = grid.height * row / rows, grid.width * col / cols
    corner = (a, b, c + a * left + b * top, d, e, f + d * left + e * top)
    return Grid(round(grid.height * height / rows), round(grid.width * width / cols), corner, grid.crs)


def chosen_sensor(spec: Common, wanted: str | None) -> str:
    """The sensor that spectral entropy is of: the first Sentinel-2; without one, that of most bands.

    Raises:
        SpecError: if there is none of the name that is wanted.
    """
    if wanted is not None:
        if wanted not in spec.sensors:
            raise SpecError(f"{spec.name}: has no sensor {wanted!r}; it has {', '.join(spec.sensors)}")
        return wanted
    optical = [name for name, entry in spec.sensors.items() if sentinel2_names(entry.sensor()) is not None]
    return optical[0] if optical else max(spec.sensors, key=lambda name: len(spec.sensors[name].bands))


def _picture_sensor(spec: Common, sensor: str) -> str:
    """The sensor that pictures are compared by: the same, unless its images are too small to hash."""

    def fits(name: str) -> bool:
        height, width = spec.image_px(name)
        return height >= ROWS and width >= COLS

    larger = [name for name in spec.sensors if fits(name)]
    return sensor if fits(sensor) or not larger else larger[0]


@dataclass(frozen=True)
class ImagesWork:
    """The pieces of a dataset of images, and all that they follow from. `measured` are the costly ones."""

    source: Source
    meter: Meter
    layers: Layers
    measured: Pieces
    rows: Pieces
    items: tuple[Item, ...]
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the dataset."""
        return self.meter.name

    @classmethod
    def of(cls, source: Source, meter: Meter, layers: Layers, folder: Path) -> "ImagesWork":
        """Of a dataset; nothing is read but the list of its samples.

        Raises:
            DataError: if that can't be made.
        """
        listing = open_listing(source)
        told = source.spec.model_dump(mode="json", exclude=WORDS)
        mark = digest([FORMAT, told, listing.digest(), meter.options.model_dump(mode="json"), meter.name])
        measured = Pieces(folder, "measured", mark)
        rows = Pieces(folder, "rows", digest([mark, layers.about()]))
        about = {
            "dataset": meter.name,
            "spec": source.spec.name,
            "splits": listing.splits,
            "sensor": meter.sensor,
            "picture_sensor": meter.picture,
            "bands": meter.spectral.bands,
            "options": meter.options.model_dump(mode="json"),
            "layers": layers.about(),
        }
        return cls(source, meter, layers, measured, rows, tuple(cut(len(listing.names))), about)

    def stamp(self, item: Item) -> str:
        """Digest of the files of a piece."""
        return stamp_of(open_listing(self.source), *item[1:])

    def piece(self, item: Item) -> pa.Table:
        """What was measured of a piece; one with unreadable samples, or of other files, is measured again."""
        number, start, stop = item
        found, stamp = self.measured.find(number), self.stamp(item)
        if found is None or not is_current(found, stamp):
            table, bad = self._measure(start, stop)
            found = self.measured.write(number, table, {"unreadable": bad, "stamp": stamp})
        return found

    def _measure(self, start: int, stop: int) -> tuple[pa.Table, list[dict[str, Any]]]:
        listing, rows, bad = open_listing(self.source), [], []
        errors = reader_errors(isinstance(self.source.spec, FilesSpec))
        for index in range(start, stop):
            group, place = listing.place[index]
            try:
                with listing.scenes[group].scene(place) as scene:
                    rows += list(self.meter.rows(scene, listing.of[index]))
            except errors as error:
                bad.append({"id": listing.names[index], "split": listing.of[index], "reason": reason_of(error)})
        return pa.Table.from_pylist(rows, schema=MEASURED), bad

    def shown(self, named: Sequence[Named]) -> Iterator[np.ndarray | None]:
        """Pictures (h w) of samples, by split and name, read again."""
        listing = open_listing(self.source)
        at = {key: index for index, key in enumerate(zip(listing.of, listing.names, strict=True))}
        for split, name in named:
            tile, _, rest = name.rpartition("/") if self.meter.options.crops else (name, "", "0-0")
            row, col = (int(x) for x in rest.split("-"))
            cover = 1 if self.source.spec.crop is None else self.source.spec.crop.cover
            group, place = listing.place[at[split, tile]]
            with listing.scenes[group].scene(place) as scene:
                yield self.meter.shown(scene, row * cover + col)
