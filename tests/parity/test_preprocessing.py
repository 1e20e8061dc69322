"""Reading TreeSatAI-TS against the arrays that the official code made of the same files."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geomaestro.data.dates import nearest_dates
from geomaestro.data.opening import open_dataset
from geomaestro.data.sampling import SceneDataset
from geomaestro.data.specs import load_spec
from geomaestro.nn.pixels import scale_pixels
from tests.parity.cases import folder

SERIES = {"s2": "sen-2", "s1_asc": "sen-1-asc", "s1_des": "sen-1-des"}


def stored_samples() -> list[str]:
    root = folder()
    path = None if root is None else root / "preprocessing_treesatai_ts" / "summary.json"
    return sorted(json.loads(path.read_text())) if path is not None and path.is_file() else []


@pytest.fixture(params=stored_samples() or ["no stored samples"])
def stored(request: pytest.FixtureRequest, golden_dir: Path) -> dict[str, Any]:
    root = golden_dir / "preprocessing_treesatai_ts"
    about = json.loads((root / "summary.json").read_text())[request.param]
    with np.load(root / f"{request.param}.npz", allow_pickle=False) as file:
        return {**about, "arrays": {k: file[k] for k in file.files}}


def open_all(data_dir: Path) -> SceneDataset:
    dataset = open_dataset(load_spec("treesatai_ts"), data_dir / "treesatai_ts", ("train", "val", "test"))
    assert isinstance(dataset, SceneDataset)
    return dataset


def row_of(about: dict[str, Any], dataset: SceneDataset) -> int:
    """The row is found by name: the stored number counts rows of the official test files."""
    return dataset.ids().index(about["aerial_name"].removesuffix(".tif"))


def official_starts(about: dict[str, Any]) -> dict[str, int]:
    """First dates of the bins, by sensor, in the order in which the official code drew them after the crop."""
    draws = about["rng_draws_in_order"]
    if isinstance(draws, str):
        return dict.fromkeys(["aerial", *SERIES], 0)
    return dict(zip(["aerial", *SERIES], [value for _, _, value in draws[1:]], strict=True))


def test_dates_and_values_equal_the_stored_ones(
    stored: dict[str, Any], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_all(data_dir)
    starts = [official_starts(stored)[name] for name in SERIES]
    monkeypatch.setattr("geomaestro.data.sampling.random_start", lambda *_: starts.pop(0))
    sample = dataset.read(row_of(stored, dataset))
    for name, entry in dataset.spec.sensors.items():
        if name not in stored["arrays"]:
            continue
        expected = stored["arrays"][name]
        pixels = scale_pixels(torch.from_numpy(sample.images[name])[None], entry)[0].numpy()
        assert np.abs(pixels - expected).max() <= 1e-5 * np.abs(expected).max(), name
        assert (sample.dates[name] == stored["arrays"][f"{name}_dates"]).all(), name
    assert (sample.reference_date == stored["arrays"]["ref_date"][0]).all()


def test_labels_equal_the_stored_ones(stored: dict[str, Any], data_dir: Path) -> None:
    dataset = open_all(data_dir)
    with (data_dir / "treesatai_ts" / "train.csv").open() as file:
        columns = next(csv.reader(file))[3:]
    order = [columns.index(name) for name in dataset.spec.targets["genus"].classes]
    sample = dataset.read(row_of(stored, dataset))
    assert (sample.labels["genus"] == stored["arrays"]["treesat_mlc_thresh"][order]).all()
    assert (sample.labels["genus_any"] == stored["arrays"]["treesat_mlc"][order]).all()
    assert np.allclose(sample.labels["genus_share"], np.asarray(stored["target_raw"])[order], atol=1e-6)


def test_chosen_position_in_each_bin_equals_the_stored_one(stored: dict[str, Any], data_dir: Path) -> None:
    import h5py

    starts = official_starts(stored)
    with h5py.File(data_dir / "treesatai_ts" / "sentinel-ts" / stored["sen_name"]) as file:
        for name, prefix in SERIES.items():
            expected = stored["chosen_index_in_bin"][name]
            images = file[f"{prefix}-data"][:]
            cloudy = (file["sen-2-masks"][:] > 0).any(axis=1) if name == "s2" else None
            index = nearest_dates(images, len(expected), cloudy=cloudy, start=starts[name])
            per_bin = len(images) // len(expected)
            assert ((index - starts[name]) % per_bin).tolist() == expected, name
