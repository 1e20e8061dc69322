"""Samples in the files of TreeSatAI-TS: an aerial GeoTIFF, one HDF5 of Sentinel-1 and -2 series, a CSV per split.

Axes: t date, c band, h row, w column. Source: official code for the rules; the files themselves for the layout.
"""

import csv
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from geomaestro.data.dates import choose_dates, date_triple, random_start
from geomaestro.data.raster import read_window
from geomaestro.data.reading import Kept, Visit, check_bytes, check_sizes, decoded, fixed_dates, flip, measured, open_h5
from geomaestro.data.spec import SensorEntry, Target, TreeSatSpec
from geomaestro.errors import DataError
from geomaestro.samples import Sample

SERIES = {"s2": "sen-2", "s1_asc": "sen-1-asc", "s1_des": "sen-1-des"}
KEPT_BYTES = 512 << 20  # assumed; a small dataset is decoded once, a large one as it comes
OTHER_COLUMNS = ("aerial_name", "sen_name", "aerial_date")
DATE_FIELD = -5  # official code: the acquisition date in a product's name, counted in fields between underscores
MAX_BYTES = 2 << 30  # assumed; one series of a sample is a few megabytes, and a hostile header must not fill memory


class TreeSatDataset:
    """Splits of a dataset in the files of TreeSatAI-TS."""

    draws = True

    def __init__(self, spec: TreeSatSpec, root: Path, splits: tuple[str, ...]) -> None:
        self.spec = spec
        self.root = root / spec.directory
        tables = {path: _read_csv(path) for path in (self.root / f"{split}.csv" for split in splits)}
        self._rows = [row for rows in tables.values() for row in rows]
        self._days = np.asarray([_aerial_day(path, row) for path, rows in tables.items() for row in rows], np.int16)
        self._images: Kept[np.ndarray] = Kept(KEPT_BYTES)
        self._whole: Kept[dict[str, _Series]] = Kept(KEPT_BYTES)
        self._labels = {name: self._label(target) for name, target in spec.targets.items()}

    def __len__(self) -> int:
        return len(self._rows)

    def ids(self) -> list[str]:
        """Names of the samples, in order."""
        return [row["aerial_name"].rsplit(".", 1)[0] for row in self._rows]

    def labels(self, target: str) -> np.ndarray:
        """Labels of all samples, in order."""
        return self._labels[target]

    def read(self, index: int, visit: Visit | None = None) -> Sample[np.ndarray]:
        """One sample. With a visit, dates and flips are drawn; without, dates nearest the median and no flips."""
        row = self._rows[index]
        rng = None if visit is None else visit.rng()
        images, dates = {}, {}
        if "aerial" in self.spec.sensors:
            images["aerial"], dates["aerial"] = self._aerial(row), self._days[index][None]
        if any(name in self.spec.sensors for name in SERIES):
            series = self._series(self.root / "sentinel-ts" / row["sen_name"], rng)
            images.update({name: x for name, (x, _) in series.items()})
            dates.update({name: d for name, (_, d) in series.items()})
        sample = self._sample(index, images, dates)
        return sample if rng is None else flip(sample, rng, ())

    def _sample(self, index: int, images: dict[str, Any], dates: dict[str, Any]) -> Sample[np.ndarray]:
        entries = {name: self.spec.sensors[name] for name in self.spec.sensors}
        steps = {name: entry.input.dates for name, entry in entries.items()}
        valid = {name: measured(images[name], entry.nodata) for name, entry in entries.items()}
        given = self.spec.reference_date
        return Sample(
            id=self._rows[index]["aerial_name"].rsplit(".", 1)[0],
            images={name: fixed_dates(images[name], steps[name]) for name in entries},
            dates={name: fixed_dates(dates[name], steps[name]) for name in entries},
            present={name: np.arange(steps[name]) < len(images[name]) for name in entries},
            valid={name: fixed_dates(valid[name], steps[name]) for name in entries},
            reference_date=self._days[index] if isinstance(given, str) else np.asarray(given, np.int16),
            labels={name: labels[index] for name, labels in self._labels.items()},
        )

    def _aerial(self, row: dict[str, str]) -> np.ndarray:
        path = self.root / "aerial" / row["aerial_name"]
        return self._images.get(path, lambda: self._read_aerial(path), lambda x: x.nbytes)

    def _read_aerial(self, path: Path) -> np.ndarray:
        entry = self.spec.sensors["aerial"]
        height, width = entry.input.size_px
        shift = self.spec.aerial_shift_px
        x = read_window(path, row=shift, col=shift, height=height, width=width)
        check_sizes("aerial", path, x.shape, {"bands": len(entry.bands), "rows": height, "columns": width})
        return x[None]

    def _series(self, path: Path, rng: np.random.Generator | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Chosen images (d c h w) and dates (d 3) of each sensor."""
        whole = self._whole.get(path, lambda: self._read_series(path), lambda x: sum(s.nbytes for s in x.values()))
        return {name: self._choose(path, name, series, rng) for name, series in whole.items()}

    def _read_series(self, path: Path) -> dict[str, "_Series"]:
        with open_h5(path) as file:
            names = [name for name in SERIES if name in self.spec.sensors]
            return {name: self._one_series(path, file, SERIES[name], name) for name in names}

    def _one_series(self, path: Path, file: Any, prefix: str, name: str) -> "_Series":
        entry = self.spec.sensors[name]
        images = _images(path, file, prefix, name, entry)
        products = _products(path, file, prefix, len(images))
        cloudy = None
        if name == "s2" and self.spec.cloudy_above is not None and len(images) > entry.input.dates:
            cloudy = np.any(_masks(path, file, images.shape) > self.spec.cloudy_above, axis=1)
        return _Series(images, products, cloudy)

    def _choose(
        self, path: Path, name: str, series: "_Series", rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        bins = self.spec.sensors[name].input.dates
        start = random_start(len(series.images), bins, rng)
        index = choose_dates(series.images, bins, cloudy=series.cloudy, start=start, rng=rng)
        days = [_product_date(path, series.products[i], hours=self.spec.hours) for i in index]
        return series.images[index], np.asarray(days, np.int16).reshape(-1, 3)

    def _label(self, target: Target) -> np.ndarray:
        shares = np.asarray(
            [[_share(self.root, row, name) for name in target.classes] for row in self._rows], np.float32
        )
        shares = shares.reshape(len(self._rows), len(target.classes))
        if target.kind == "regression":
            return shares
        if target.kind == "classes":
            return shares.argmax(axis=1).astype(np.int64)
        threshold = 0.0 if target.threshold is None else target.threshold
        return (shares.astype(np.float64) > threshold).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Series:
    """One sensor's series as stored: images (t c h w), product names (t), clouds (t h w) where they are asked for."""

    images: np.ndarray
    products: np.ndarray
    cloudy: np.ndarray | None

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.images.nbytes + self.products.nbytes + (0 if self.cloudy is None else self.cloudy.nbytes)


def _images(path: Path, file: Any, prefix: str, name: str, entry: SensorEntry) -> np.ndarray:
    """All images (t c h w) of one sensor."""
    stored = _dataset(path, file, f"{prefix}-data")
    if len(stored.shape) != 4:
        raise DataError(f"{path}: {prefix}-data has {len(stored.shape)} axes, expected date, band, row, column")
    height, width = entry.input.size_px
    check_sizes(name, path, stored.shape[1:], {"bands": len(entry.bands), "rows": height, "columns": width})
    return np.asarray(stored[...])


def _products(path: Path, file: Any, prefix: str, count: int) -> np.ndarray:
    """Names (t) of the products that the images were cut from."""
    stored = _dataset(path, file, f"{prefix}-products")
    if stored.shape != (count,):
        raise DataError(f"{path}: {prefix}-products has shape {stored.shape}, expected {(count,)}, a name per image")
    return decoded(path, stored[...])


def _masks(path: Path, file: Any, images: tuple[int, ...]) -> np.ndarray:
    """Percentages (t k h w) of snow and of cloud in images of shape (t c h w)."""
    stored = _dataset(path, file, "sen-2-masks")
    count, _, height, width = images
    if len(stored.shape) != 4 or (stored.shape[0], *stored.shape[2:]) != (count, height, width):
        raise DataError(
            f"{path}: sen-2-masks has shape {stored.shape}, expected ({count}, any, {height}, {width}) as the images"
        )
    return np.asarray(stored[...])


def _dataset(path: Path, file: Any, name: str) -> Any:
    """A stored array whose size has been checked and whose values are not read yet."""
    stored = file.get(name)
    if getattr(stored, "shape", None) is None:
        raise DataError(f"{path}: has no dataset {name!r}; it has {', '.join(sorted(file))}")
    check_bytes(path, math.prod(stored.shape) * stored.dtype.itemsize, MAX_BYTES)
    return stored


@lru_cache(maxsize=200_000)
def _date_of(text: str, hours: bool) -> tuple[int, int, int]:
    return date_triple(text, hours=hours)


def _product_date(path: Path, product: str, *, hours: bool) -> tuple[int, int, int]:
    try:
        return _date_of(product.split("_")[DATE_FIELD], hours)
    except (IndexError, ValueError):
        raise DataError(f"{path}: no date in the product name {str(product)!r}") from None


def _aerial_day(path: Path, row: dict[str, str]) -> tuple[int, int, int]:
    try:
        return _date_of(row["aerial_date"], False)
    except (TypeError, ValueError):  # a row that was cut short has None
        raise DataError(
            f"{path}: sample {row['aerial_name']!r}: aerial_date {row['aerial_date']!r} is no date YYYYMMDD"
        ) from None


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; is `data.root` the folder of the dataset, and the split spelled right?")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    missing = [c for c in OTHER_COLUMNS if c not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{path}: lacks the column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ())}")
    if not rows:
        raise DataError(f"{path}: has no samples")
    return rows


def _share(root: Path, row: dict[str, str], name: str) -> float:
    try:
        share = float(row[name])
    except KeyError:
        classes = [c for c in row if c not in OTHER_COLUMNS]
        raise DataError(
            f"{root}: class {name!r} is no column of the CSV; its classes are {', '.join(classes)}"
        ) from None
    except (TypeError, ValueError):
        raise DataError(
            f"{root}: sample {row['aerial_name']!r}: share {row[name]!r} of {name} is not a number"
        ) from None
    if not 0 <= share <= 1 + 1e-6:
        raise DataError(f"{root}: sample {row['aerial_name']!r}: share {share} of {name} is outside 0 to 1")
    return share
