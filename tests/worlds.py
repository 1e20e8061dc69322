"""Made data: a miniature Earth of a few samples, and pixel series in one file with a class that can be learned.

The series: 60 samples (train 30, val 15, test 15) of up to 6 dates; s2 (date, band) with nodata 65535, s1 (band, date)
with NaN, dem (band). Sample 3 has no s1 at all, sample 5 has no date at all. The class is the phase of the season.
Axes: n sample, t date, c band.
"""

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from geomaestro.config import check, merge
from geomaestro.data.miniatures.synthetic import EarthOptions, synthesise
from geomaestro.data.opening import open_dataset
from geomaestro.data.reading import Dataset, Visit
from geomaestro.data.specs import load_spec
from geomaestro.learn.recipe import Recipe
from geomaestro.models.task import Task
from geomaestro.samples import Sample

DATES, NODATA, CODES = 6, 65535, (10, 20, 30)
SPLITS = {"train": 30, "val": 15, "test": 15}
MODEL: Mapping[str, Any] = {
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "head_dim": 16,
    "joint_blocks": 1,
    "decoder": {"dim": 16, "depth": 1, "heads": 2, "head_dim": 8, "mlp_ratio": 1},
}
COARSE: Mapping[str, Any] = {
    "aerial": {"patch_px": 50},
    "s2": {"dates": 4, "patch_px": 3},
    "s1_asc": {"dates": 2, "patch_px": 3},
    "s1_des": {"dates": 2, "patch_px": 3},
}


def series_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays described above."""
    rng = np.random.default_rng(seed)
    count = sum(SPLITS.values())
    kind = rng.integers(0, len(CODES), count)
    when = np.arange(DATES)
    season = np.cos(2 * np.pi * (when[None] - 2 * kind[:, None]) / DATES)
    s2 = 3000 + 1500 * season[..., None] * np.asarray([1, -1, 0.5]) + rng.normal(0, 200, (count, DATES, 3))
    s2 = s2.round().astype(np.uint16)
    s2[rng.random((count, DATES)) < 0.1] = NODATA
    s1 = (season[:, None] + rng.normal(0, 0.5, (count, 2, DATES))).astype(np.float32)
    s1[3] = np.nan
    length = rng.integers(3, DATES + 1, count)
    length[5] = 0
    month = np.broadcast_to(when + 3, (count, DATES))
    return {
        "s2": s2,
        "s1": s1,
        "dem": rng.normal(300, 50, (count, 2)).astype(np.float32),
        "length": length,
        "year": np.full((count, DATES), 2020),
        "month": month.copy(),
        "crop": np.asarray(CODES)[kind],
        "height": (kind + rng.normal(0, 0.1, count)).astype(np.float32),
        "split": np.repeat(list(SPLITS), list(SPLITS.values())).astype("S"),
        "name": np.asarray([f"field {i}" for i in range(count)]).astype("S"),
        "lon": np.linspace(-10, 10, count),
        "lat": np.linspace(40, 50, count),
    }


def series_values(**changes: Any) -> dict[str, Any]:
    """The spec of the series, as its YAML holds it; `changes` lie over it."""
    pixel = {"size_px": 1, "patch_px": 1}
    series = {**pixel, "dates": DATES}
    values: dict[str, Any] = {
        "name": "fields",
        "kind": "arrays",
        "file": "series.h5",
        "id": "name",
        "place": ["lon", "lat"],
        "length": "length",
        "dates": {"year": "year", "month": "month", "day": 15},
        "split": "split",
        "reference_date": [2020, 1, 0],
        "sensors": {
            "s2": {
                "array": "s2",
                "axes": ["date", "band"],
                "bands": ["B02", "B04", "B08"],
                "gsd_m": 10,
                "unit": "reflectance_1e4",
                "nodata": NODATA,
                "scaling": {"subtract": 3000, "divide_by": 1000},
                "input": series,
            },
            "s1": {"array": "s1", "axes": ["band", "date"], "bands": ["VV", "VH"], "gsd_m": 10, "input": series},
            "dem": {
                "array": "dem",
                "axes": ["band"],
                "bands": ["altitude", "slope"],
                "gsd_m": 10,
                "scaling": {"subtract": 300, "divide_by": 50},
                "input": pixel,
            },
        },
        "targets": {
            "crop": {"kind": "classes", "array": "crop", "codes": {10: "wheat", 20: "maize", 30: "grass"}},
            "height": {"kind": "regression", "array": "height", "classes": ["height"]},
        },
    }
    return merge(values, changes)


def write_images(folder: Path) -> Path:
    """Write 40 images (2 dates, 2 bands, 8 x 8 pixels) with maps (4 x 4) of where the first band is high on average.

    Some image pixels are NaN and some labels 255, to be ignored. Gives the path of the spec.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    level = rng.normal(size=(40, 1, 1, 4, 4))
    images = level.repeat(2, axis=-1).repeat(2, axis=-2) * np.asarray([1, -1])[:, None, None]
    images = (images + rng.normal(0, 0.1, (40, 2, 2, 8, 8))).astype(np.float32)
    images[:, 0, :, :2, 5] = np.nan
    maps = (level[:, 0, 0] > 0).astype(np.int64)
    maps[rng.random(maps.shape) < 0.05] = 255
    write_h5(
        folder / "images.h5", {"x": images, "map": maps, "split": np.repeat([b"train", b"val", b"test"], [20, 10, 10])}
    )
    sensor = {"array": "x", "axes": ["date", "band", "row", "col"], "bands": ["a", "b"], "gsd_m": 10}
    sensor["input"] = {"size_px": 8, "patch_px": 4, "dates": 2}
    target = {
        "kind": "pixels",
        "array": "map",
        "classes": ["low", "high"],
        "ignore": 255,
        "reference_sensor": "x",
        "label_px": 2,
    }
    values = {"name": "images", "kind": "arrays", "file": "images.h5", "split": "split", "reference_date": [2020, 1, 0]}
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({**values, "sensors": {"x": sensor}, "targets": {"map": target}}))
    return path


def write_h5(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays into one HDF5 file."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)


def write_series(folder: Path, arrays: Mapping[str, np.ndarray] | None = None, **changes: Any) -> Path:
    """Write series.h5 and spec.yaml into `folder`; gives the path of the spec."""
    folder.mkdir(parents=True, exist_ok=True)
    write_h5(folder / "series.h5", series_arrays() if arrays is None else arrays)
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(series_values(**changes), sort_keys=False))
    return path


def make_series(factory: pytest.TempPathFactory) -> Path:
    """The folder of the series, made once; read it only."""
    return _series(factory.getbasetemp() / "worlds")


def make_earth(factory: pytest.TempPathFactory) -> Path:
    """The folder of a miniature Earth (train 8, val 4, test 4), made once; read it only."""
    return _earth(factory.getbasetemp() / "worlds")


@cache
def _series(base: Path) -> Path:
    write_series(base / "series")
    return base / "series"


@cache
def _earth(base: Path) -> Path:
    synthesise(base / "earth", EarthOptions(train=8, val=4, test=4, seed=3))
    return base / "earth"


def recipe_values(folder: Path, **changes: Any) -> dict[str, Any]:
    """A tiny recipe for the series in `folder`, as its YAML holds it."""
    values: dict[str, Any] = {
        "name": "tiny",
        "device": "cpu",
        "data": {"spec": str(folder / "spec.yaml"), "root": str(folder), "pretrain_splits": ["train", "val"]},
        "model": {**deepcopy(dict(MODEL)), "token_norm": "token", "target": "none", "loss": "l2"},
        "pretrain": {"steps": 6, "batch": 8, "peak_lr": 1e-3, "log_every": 1},
        "evaluate": {
            "target": "crop",
            "labels": [4],
            "finetune": {"steps": 6, "batch": 8, "peak_lr": 1e-3, "validations": 2},
            "probe": {"steps": 6, "batch": 8, "peak_lr": 1e-3, "validations": 2},
        },
    }
    return merge(values, changes)


def earth_values(folder: Path, **changes: Any) -> dict[str, Any]:
    """A tiny recipe for a miniature Earth in `folder`."""
    values: dict[str, Any] = {
        "name": "earth",
        "device": "cpu",
        "data": {"spec": str(folder / "dataset.yaml"), "root": str(folder), "inputs": deepcopy(dict(COARSE))},
        "model": deepcopy(dict(MODEL)),
        "pretrain": {"steps": 6, "batch": 4, "peak_lr": 1e-3, "log_every": 1},
    }
    return merge(values, changes)


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """A checked recipe."""
    return check(Recipe, values, "made")


def write_recipe(path: Path, values: Mapping[str, Any]) -> Path:
    """Write a recipe as YAML."""
    path.write_text(yaml.safe_dump(dict(values), sort_keys=False))
    return path


def open_split(recipe: Recipe, *splits: str) -> Dataset:
    """The samples of some splits of a recipe's data."""
    return open_dataset(recipe.dataset(), recipe.data.root, splits or ("train",))


def open_series(folder: Path, *splits: str) -> Dataset:
    """The samples of some splits of the series in `folder`."""
    return open_dataset(load_spec(folder / "spec.yaml"), folder, splits or tuple(SPLITS))


def task(kind: str, classes: int, **settings: Any) -> Task:
    """A task of classes c0, c1, ..."""
    return Task.model_validate({"name": "t", "kind": kind, "classes": [f"c{i}" for i in range(classes)], **settings})


class Watched:
    """A dataset that calls `before_read(number)` before each read, counted from 0; nothing of it is held in memory."""

    draws = True

    def __init__(self, dataset: Dataset, before_read: Any) -> None:
        self.dataset, self.before_read, self.reads = dataset, before_read, 0

    def __len__(self) -> int:
        return len(self.dataset)

    def ids(self) -> list[str]:
        return self.dataset.ids()

    def labels(self, target: str) -> np.ndarray:
        return self.dataset.labels(target)

    def read(self, index: int, visit: Visit | None = None) -> Sample[np.ndarray]:
        self.before_read(self.reads)
        self.reads += 1
        return self.dataset.read(index, visit)
