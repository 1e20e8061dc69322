"""What the fast store holds of one sample: its arrays, and its row of the index with statistics of each band.

Axes: t date, c band, h row, w column.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from geomaestro.data.packed.columns import DTYPES
from geomaestro.data.packing.tars import TarWriter
from geomaestro.data.sampling import Cut, check_shape
from geomaestro.data.scenes import CLOUDY, UNKNOWN, Scene, Series
from geomaestro.data.spec import PackedSpec, Target
from geomaestro.errors import DataError
from geomaestro.grid import Window

STATISTICS = ("mean", "std", "min", "max")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_SLUG_LETTERS = 36  # key, sensor and ending fit the 100 letters of a name in a tar


def key_of(number: int, name: str) -> str:
    """Name of a sample in the tars: no dots, which end a name for WebDataset, no slashes, and never the same twice."""
    return f"{number:09d}-{_NOT_IN_NAMES.sub('_', name)[:_SLUG_LETTERS]}"


def stored_labels(spec: PackedSpec) -> list[str]:
    """Targets whose labels the index holds: neither maps nor what maps show."""
    return [name for name, target in spec.targets.items() if target.kind != "pixels" and target.present_in is None]


def index_schema(spec: PackedSpec) -> pa.Schema:
    """Columns of the index. What a sample lacks is null. Offsets count from the beginning of the shard; `days` are the
    same as in the shard, which is what training reads.

    `offset`, `bytes` and `sha256` are of all of a sample's blocks in its shard.
    """
    numbers = pa.list_(pa.float64())
    array = [("offset", pa.int64()), ("dtype", pa.string()), ("shape", pa.list_(pa.int32()))]
    series = pa.struct(
        [
            *array,
            ("state_offset", pa.int64()),
            ("days_offset", pa.int64()),
            ("days", pa.list_(pa.list_(pa.int16()))),
            *((name, numbers) for name in STATISTICS),
            ("unknown", pa.float64()),
            ("cloudy", pa.float64()),
        ]
    )
    kinds = {"classes": pa.int64(), "multilabel": pa.list_(pa.int64()), "regression": pa.list_(pa.float32())}
    groups = {
        "sensors": dict.fromkeys(spec.sensors, series),
        "maps": {name: pa.struct(array) for name, target in spec.targets.items() if target.kind == "pixels"},
        "labels": {name: kinds[spec.targets[name].kind] for name in stored_labels(spec)},
    }
    text = ("id", "key", "split", "source", "sha256")
    return pa.schema(
        [
            *((name, pa.string()) for name in text),
            ("shard", pa.int32()),
            ("offset", pa.int64()),
            ("bytes", pa.int64()),
            ("lon", pa.float64()),
            ("lat", pa.float64()),
            ("reference_date", pa.list_(pa.int16())),
            *((name, pa.struct(list(fields.items()))) for name, fields in groups.items() if fields),
        ]
    )


@dataclass(frozen=True, slots=True)
class Content:
    """Arrays of a sample by the ending of their name, and what is known of it beside."""

    sensors: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]]
    """Images, days, state."""
    maps: Mapping[str, np.ndarray]
    row: dict[str, Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = [x for parts in self.sensors.values() for x in parts if x is not None] + list(self.maps.values())
        return sum(x.nbytes for x in arrays)


def read_content(scene: Scene, spec: PackedSpec) -> Content:
    """All of a scene.

    Raises:
        DataError: if it can't be read, is not what the spec promises, or has not one measured pixel.
    """
    cut = Cut.of(scene, spec, 0, None)
    sensors, rows = {}, {}
    for name, series in scene.series.items():
        check_shape(spec, name, scene.id, series, cut.window(series.shape[2:]))
        images, days, state = sensors[name] = _read_series(scene.id, name, series)
        rows[name] = {"days": days.tolist(), **_statistics(images, state)}
    if all(row["unknown"] == 1 for row in rows.values()):
        raise DataError(f"sample {scene.id!r} has no measured pixel in any of its sensors")
    maps = {name: _map(spec.targets[name], raster.read(_whole(raster.shape))) for name, raster in scene.maps.items()}
    labels = {name: _label(scene.id, name, spec.targets[name], value) for name, value in scene.labels.items()}
    lon, lat = scene.place or (None, None)
    about = {"id": scene.id, "source": spec.name, "lon": lon, "lat": lat}
    row = {**about, "reference_date": scene.reference_date.tolist(), "sensors": rows, "labels": labels}
    return Content(sensors, maps, row)


def _whole(shape: tuple[int, ...]) -> Window:
    return Window(0, 0, shape[-2], shape[-1])


def _read_series(scene: str, name: str, series: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    window = _whole(series.shape)
    images = series.read(None, window)
    if images.dtype.newbyteorder("<") not in DTYPES:
        raise DataError(f"sample {scene!r}: sensor {name!r} is stored as {images.dtype}, which shards do not take")
    if images.shape != series.shape or series.days.shape != (len(images), 3):
        raise DataError(
            f"sample {scene!r}: sensor {name!r} has images of {images.shape} and dates of {series.days.shape}, "
            f"expected {series.shape}"
        )
    return images, series.days.astype(np.int16), series.state(window)


def _statistics(images: np.ndarray, state: np.ndarray | None) -> dict[str, Any]:
    """Of each band over all measured pixels, clouds and all; null where there is none."""
    known = None if state is None else state & UNKNOWN == 0
    columns: dict[str, list[float]] = {name: [] for name in STATISTICS}
    pixels = images[:, 0].size if known is None else int(np.count_nonzero(known))
    total = max(images[:, 0].size, 1)
    for band in range(images.shape[1] if pixels else 0):
        values = (images[:, band] if known is None else images[:, band][known]).astype(np.float64)
        for name in STATISTICS:
            columns[name].append(float(getattr(values, name)()))
    cloudy = 0 if state is None else int(np.count_nonzero(state & CLOUDY))
    shares = {"unknown": 1 - pixels / total if pixels else 1.0, "cloudy": cloudy / total}
    return {**{name: values or None for name, values in columns.items()}, **shares}


def _map(target: Target, values: np.ndarray) -> np.ndarray:
    """Class numbers in the smallest type that holds all that the target can have."""
    low, high = min(target.ignore, 0), max(target.ignore, len(target.classes) - 1)
    kinds = (np.uint8, np.int16, np.int32, np.int64)
    kind = next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    return values.astype(kind)


def _label(scene: str, name: str, target: Target, value: np.ndarray) -> Any:
    if np.ndim(value) != (0 if target.kind == "classes" else 1):
        raise DataError(f"sample {scene!r}: the label of {name!r} has the shape {np.shape(value)}")
    return value.tolist()


def write_content(tar: TarWriter, key: str, content: Content) -> dict[str, Any]:
    """Append a sample to a tar; gives its row of the index but for split and shard."""
    row = {**content.row, "key": key, "sensors": {}, "maps": {}}
    for name, (images, days, state) in content.sensors.items():
        row["sensors"][name] = {
            **_write(tar, f"{key}.{name}.npy", images),
            "days_offset": tar.add(f"{key}.{name}.days.npy", days),
            "state_offset": None if state is None else tar.add(f"{key}.{name}.state.npy", state),
            **content.row["sensors"][name],
        }
    for name, values in content.maps.items():
        row["maps"][name] = _write(tar, f"{key}.{name}.npy", values)
    row["offset"], row["bytes"], row["sha256"] = tar.cut()
    return row


def _write(tar: TarWriter, name: str, array: np.ndarray) -> dict[str, Any]:
    offset = tar.add(name, array)
    return {"offset": offset, "dtype": array.dtype.newbyteorder("<").str, "shape": list(array.shape)}
