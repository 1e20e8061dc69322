"""The fast store, read: plain tars of `.npy` members, mapped into memory, and one index of where each array begins.

    OUT/dataset.yaml       the dataset's spec (kind: packed)
    OUT/shards/00000.tar   {key}.{sensor}.npy (t c h w), {key}.{sensor}.days.npy (t 3) and, where something is unknown
                           or cloudy, {key}.{sensor}.state.npy (t h w); {key}.{target}.npy (h w)
    OUT/index.parquet      a row per sample
    OUT/manifest.json      sizes and sha256 of all of it, written last

Numbers are those of the original files. No header is parsed in reading: offsets, types and shapes come from the index,
and are checked against the files' sizes before anything is mapped. Training needs neither GDAL nor HDF5.
Axes: n sample, t date, c band, h row, w column.
"""

import math
import mmap
import os
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from geomaestro.data.packed.columns import DTYPES, Columns
from geomaestro.data.packed.manifest import Manifest, read_manifest, shard_path
from geomaestro.data.scenes import MemoryRaster, MemorySeries, Scene
from geomaestro.data.spec import PackedSpec
from geomaestro.errors import DataError, SpecError

DAYS = np.dtype("<i2")
MAX_OPEN_MAPS = 256  # assumed; each keeps a file open, and systems allow a process 1024


class Maps:
    """Shards mapped into memory when they are first read; of too many the one least lately used is let go."""

    def __init__(self, folder: Path, sizes: np.ndarray, limit: int = MAX_OPEN_MAPS) -> None:
        self.folder, self.sizes, self.limit = folder, sizes, limit
        self._open: OrderedDict[int, mmap.mmap] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps: another process opens its own."""
        return {"folder": self.folder, "sizes": self.sizes, "limit": self.limit, "_open": OrderedDict()}

    def __getitem__(self, number: int) -> mmap.mmap:
        found = self._open.get(number)
        if found is None:
            if len(self._open) >= self.limit:
                self._open.popitem(last=False)  # closed once no array shows it
            found = self._open[number] = self._map(number)
        elif len(self.sizes) > self.limit:
            self._open.move_to_end(number)
        return found

    def __len__(self) -> int:
        return len(self._open)

    def _map(self, number: int) -> mmap.mmap:
        path = shard_path(self.folder, number)
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != self.sizes[number]:
                    raise DataError(f"{path}: is {size} bytes, should be {self.sizes[number]}; copy or pack it again")
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error.strerror}); copy or pack it again") from None


class PackedScenes:
    """The scenes of some splits of a packed dataset."""

    def __init__(self, spec: PackedSpec, root: Path, splits: tuple[str, ...]) -> None:
        self.spec, self.folder = spec, root / spec.directory
        manifest = read_manifest(self.folder)
        _check_names(spec, manifest, self.folder)
        maps = [name for name, target in spec.targets.items() if target.kind == "pixels"]
        labels = [name for name, target in spec.targets.items() if name not in maps and target.present_in is None]
        sizes = np.asarray([shard.bytes for shard in manifest.shards], np.int64)
        rows = Columns(self.folder, manifest, _columns(spec, maps, labels), splits)
        self._ids = rows.column("id")
        self._shards = rows.integers("shard", len(sizes))
        self._reference = rows.lists("reference_date", 3, np.int16)
        self._lon, self._lat = rows.floats("lon"), rows.floats("lat")
        limits = sizes[self._shards]
        self._series = {name: Members(rows, f"sensors.{name}", limits, 4) for name in spec.sensors}
        self._rasters = {name: Members(rows, f"maps.{name}", limits, 2) for name in maps}
        self._labels = {name: rows.labels(f"labels.{name}") for name in labels}
        self.draws_dates = any(
            int(found.at[:, _FIRST_AXIS].max(initial=0)) > spec.sensors[name].input.dates
            for name, found in self._series.items()
        )
        self._maps = Maps(self.folder, sizes)

    def __len__(self) -> int:
        return len(self._shards)

    def ids(self) -> list[str]:
        """Names of the scenes, in order."""
        return list(self._ids.to_pylist())

    def places(self) -> list[tuple[float, float] | None]:
        """Longitude and latitude, where they are known."""
        return [self._place(index) for index in range(len(self))]

    def labels(self, target: str) -> np.ndarray:
        """Labels of all scenes, in order."""
        return self._labels[target]

    def scene(self, index: int) -> AbstractContextManager[Scene]:
        """One scene: views of mapped files, of which only what is looked at is read."""
        data = self._maps[int(self._shards[index])]
        series = {}
        for name, members in self._series.items():
            found = members.series(index, data)
            if found is not None:
                series[name] = found
        if not series:
            name = self._ids[index].as_py()
            raise DataError(f"{self.folder}: sample {name!r} has none of the sensors {', '.join(self._series)}")
        scene = Scene(
            id=self._ids[index].as_py(),
            series=series,
            reference_date=self._reference[index],
            labels={name: values[index] for name, values in self._labels.items()},
            maps={name: members.raster(index, data) for name, members in self._rasters.items()},
            place=self._place(index),
        )
        return nullcontext(scene)

    def _place(self, index: int) -> tuple[float, float] | None:
        lon, lat = float(self._lon[index]), float(self._lat[index])
        return None if math.isnan(lon) else (lon, lat)


_OFFSET, _STATE, _DAYS, _DTYPE, _FIRST_AXIS = range(5)


class Members:
    """Where the arrays of one sensor (4 axes) or of one map (2) lie.

    `at` (n 4+axes) int64 holds per sample the offset (-1: absent), the offsets of the state (-1: none) and of the days,
    the number of the dtype, and the shape.
    """

    def __init__(self, rows: Columns, name: str, limits: np.ndarray, axes: int) -> None:
        self.at = np.full((len(limits), _FIRST_AXIS + axes), -1, np.int64)
        self.at[:, _OFFSET] = rows.offsets(f"{name}.offset")
        here = self.at[:, _OFFSET] >= 0
        self.at[:, _DTYPE] = rows.dtypes(f"{name}.dtype", here)
        self.at[:, _FIRST_AXIS:] = 0
        self.at[here, _FIRST_AXIS:] = rows.lists(f"{name}.shape", axes, np.int64, here)
        shape = self.at[:, _FIRST_AXIS:]
        pixel_bytes = np.asarray([dtype.itemsize for dtype in DTYPES])[self.at[:, _DTYPE]]
        self._check(rows, name, shape, pixel_bytes, self.at[:, _OFFSET], limits)
        if axes == 4:
            self.at[:, _STATE] = rows.offsets(f"{name}.state_offset")
            self.at[:, _DAYS] = rows.offsets(f"{name}.days_offset")
            if (self.at[here, _DAYS] < 0).any():
                rows.refuse(f"{name}.days_offset is missing")
            self._check(rows, name, shape[:, [0, 2, 3]], np.ones_like(pixel_bytes), self.at[:, _STATE], limits)
            self._check(rows, name, shape[:, [0]], np.full_like(pixel_bytes, 6), self.at[:, _DAYS], limits)

    @staticmethod
    def _check(
        rows: Columns, name: str, shape: np.ndarray, items: np.ndarray, offsets: np.ndarray, limits: np.ndarray
    ) -> None:
        """Refuse arrays that leave their file, before it is mapped."""
        end = offsets + shape.prod(axis=1, dtype=np.float64) * items  # float: no product can wrap round
        bad = (offsets >= 0) & ((end > limits) | (shape < 0).any(axis=1) | (shape > 2**31).any(axis=1))
        if bad.any():
            rows.refuse(f"{name} of sample {rows.column('id')[int(bad.argmax())].as_py()!r} lies outside its shard")

    def series(self, index: int, data: mmap.mmap) -> MemorySeries | None:
        """The series of a sample, or None if it has none."""
        offset, state, days, dtype, t, c, h, w = self.at[index].tolist()
        if offset < 0:
            return None
        images = np.ndarray((t, c, h, w), DTYPES[dtype], data, offset)
        states = None if state < 0 else np.ndarray((t, h, w), np.uint8, data, state)
        return MemorySeries(images, np.ndarray((t, 3), DAYS, data, days), states)

    def raster(self, index: int, data: mmap.mmap) -> MemoryRaster:
        """The map of a sample."""
        offset, _, _, dtype, h, w = self.at[index].tolist()
        if offset < 0:
            raise DataError(f"the index tells of no map of labels for sample number {index}; pack the dataset again")
        return MemoryRaster(np.ndarray((h, w), DTYPES[dtype], data, offset))


def _columns(spec: PackedSpec, maps: list[str], labels: list[str]) -> list[str]:
    found = ["id", "split", "shard", "reference_date", "lon", "lat"]
    for name in spec.sensors:
        found += [f"sensors.{name}.{part}" for part in ("offset", "dtype", "shape", "state_offset", "days_offset")]
    for name in maps:
        found += [f"maps.{name}.{part}" for part in ("offset", "dtype", "shape")]
    return found + [f"labels.{name}" for name in labels]


def _check_names(spec: PackedSpec, manifest: Manifest, folder: Path) -> None:
    if unknown := sorted(set(spec.targets) - set(manifest.targets)):
        known = ", ".join(manifest.targets) or "none"
        raise SpecError(f"{folder}: was packed without the target {', '.join(unknown)}; it has {known}")
    for name, entry in spec.sensors.items():
        bands = manifest.bands.get(name)
        if bands is None:
            raise SpecError(f"{folder}: has no sensor {name!r}; it has {', '.join(manifest.bands)}")
        if bands != entry.bands:
            raise SpecError(
                f"{folder}: sensor {name!r} was packed with the bands {', '.join(bands)}, its spec says "
                f"{', '.join(entry.bands)}; the numbers stay as they were packed"
            )
