"""Pretraining on a chosen subset, and scores by region of the test samples."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geomaestro.errors import DataError, RunError
from geomaestro.learn import forest, metrics
from geomaestro.learn.regions import by_region, regions_of
from geomaestro.learn.run import Run, run_recipe
from geomaestro.learn.splits import chosen
from geomaestro.runs import read_rows
from geomaestro.select.table import write_table
from tests.worlds import make_recipe, make_series, recipe_values, series_arrays, task, write_series

THREE = task("classes", 3)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_series(tmp_path_factory)


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest, "TREES", 10)


def write_subset(path: Path, ids: list[str], **columns: list[object]) -> Path:
    write_table(path, pa.table({"id": ids, **columns}), {})
    return path


def test_only_the_samples_of_a_subset_are_pretrained_on(series, tmp_path):
    ids = Run(make_recipe(recipe_values(series)), tmp_path, "").splits.open("train").ids()
    wanted = [ids[7], ids[2], ids[11]]
    subset = write_subset(tmp_path / "subset.parquet", wanted, dataset=["fields"] * 3)
    recipe = make_recipe(recipe_values(series, data={"subset": str(subset)}, evaluate=None))
    dataset = Run(recipe, tmp_path / "run", "").splits.for_pretraining()
    assert dataset.ids() == [ids[2], ids[7], ids[11]]
    run_recipe(recipe, tmp_path / "run", command="")
    told = json.loads((tmp_path / "run" / "result.json").read_text())["dataset"]["samples"]
    assert told["pretraining subset"] == 3 and told["train"] > 3
    assert (tmp_path / "run" / "subset.parquet").read_bytes() == subset.read_bytes()


class Named:
    """A dataset of which only names are asked."""

    draws = False

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def ids(self) -> list[str]:
        return self.names


def test_a_tile_in_a_subset_stands_for_its_crops_and_a_crop_for_itself(tmp_path):
    names = [f"{tile}/{row}-{col}" for tile in ("alps", "po") for row in (0, 1) for col in (0, 1)]
    subset = write_subset(tmp_path / "subset.parquet", ["po/1-0", "alps"])
    assert chosen(Named(names), subset, "tiles").ids() == [*names[:4], "po/1-0"]


def test_a_subset_of_another_dataset_or_split_is_refused(series, tmp_path):
    recipe = recipe_values(series, data={"subset": str(tmp_path / "subset.parquet")}, evaluate=None)
    write_subset(tmp_path / "subset.parquet", ["field 0"], dataset=["forests"])
    with pytest.raises(DataError, match=re.escape("none of its 1 samples are of dataset 'fields', but of forests")):
        Run(make_recipe(recipe), tmp_path, "").splits.for_pretraining()
    write_subset(tmp_path / "subset.parquet", ["field 0", "nowhere"])
    with pytest.raises(DataError, match="1 of its 2 samples, 'nowhere' for one, are not in the splits"):
        Run(make_recipe(recipe), tmp_path, "").splits.for_pretraining()


def test_a_subset_that_changed_since_the_run_was_begun_is_refused(series, tmp_path):
    subset = write_subset(tmp_path / "subset.parquet", ["field 0", "field 1"])
    recipe = make_recipe(recipe_values(series, data={"subset": str(subset)}, evaluate=None))
    run_recipe(recipe, tmp_path / "run", command="")
    write_subset(subset, ["field 0", "field 2"])
    with pytest.raises(RunError, match="was changed since"):
        run_recipe(recipe, tmp_path / "run", command="", resume=True)


def halved(tmp_path: Path) -> Path:
    """The series, every second of them in Kenya instead of Europe and the Atlantic."""
    arrays = series_arrays()
    count = len(arrays["lon"])
    kenya = np.arange(count) % 2 == 0
    arrays["lon"], arrays["lat"] = np.where(kenya, 37.0, 10.0), np.where(kenya, 0.5, 50.0)
    write_series(tmp_path / "world", arrays)
    return tmp_path / "world"


def test_scores_of_regions_are_those_of_their_samples_alone(tmp_path):
    values = recipe_values(halved(tmp_path), evaluate={"protocols": ["k-NN"], "labels": ["all"]})
    run_recipe(make_recipe(values), tmp_path / "run", command="")
    for row in read_rows(tmp_path / "run" / "evaluate" / "rows.jsonl"):
        regions = row["regions"]
        assert sorted(regions) == ["Africa", "Europe"]
        assert sum(each["n_test"] for each in regions.values()) == row["n_test"]
        assert all(0 <= each["low"] <= each["score"] <= each["high"] <= 1 for each in regions.values())


def test_a_region_is_scored_as_if_it_were_the_whole_test_split():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 3, 40), rng.normal(size=(40, 3))
    here = np.arange(40) < 15

    class Bench:
        task = THREE
        metric = "balanced_accuracy"
        regions = np.where(here, "Asia", "")

        def labels(self, split: str) -> np.ndarray:
            return {"test": labels}[split]

    found = by_region(Bench(), logits)
    alone = metrics.score(THREE, labels[here], logits[here], "balanced_accuracy")
    assert found == {
        "Asia": {"score": alone.scores["balanced_accuracy"], "low": alone.low, "high": alone.high, "n_test": 15}
    }


def test_regions_may_be_told_by_a_table_of_samples(series, tmp_path):
    dataset = Run(make_recipe(recipe_values(series)), tmp_path, "").splits.open("test")
    table = write_subset(tmp_path / "where.parquet", dataset.ids()[:2], biome=["tundra", None])
    assert regions_of(dataset, table, "biome").tolist()[:3] == ["tundra", "", ""]
    write_subset(table, ["nobody"], biome=["tundra"])
    with pytest.raises(DataError, match="column 'biome' knows none of the"):
        regions_of(dataset, table, "biome")


def test_baselines_may_be_left_to_another_evaluation(series, tmp_path):
    values = recipe_values(series, evaluate={"protocols": ["k-NN"], "baselines": False})
    run_recipe(make_recipe(values), tmp_path / "run", command="")
    assert {row["protocol"] for row in read_rows(tmp_path / "run" / "evaluate" / "rows.jsonl")} == {"k-NN"}
