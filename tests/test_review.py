"""What a review of the data layer as a new user found: each of these was silent, a traceback, or failed too late.

Axes: t date, c band, h row, w column.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from geomaestro import cli
from geomaestro.config import merge
from geomaestro.data.dates import nearest_dates
from geomaestro.data.files.align import about_middle
from geomaestro.data.loader import training_batches
from geomaestro.data.opening import open_dataset
from geomaestro.data.packing.jobs import Jobs
from geomaestro.data.packing.pack import pack
from geomaestro.data.quality.placing import Reference, check_ground
from geomaestro.data.quarantine import Quarantine
from geomaestro.data.spec import ArraySpec
from geomaestro.data.specs import load_spec
from geomaestro.errors import DataError, SpecError
from geomaestro.grid import Grid
from geomaestro.learn.recipe import Recipe
from geomaestro.learn.run import run_recipe
from tests.filesets import numbers, open_files, sensor, spec_of, write_csv, write_tif
from tests.worlds import series_arrays, series_values

MODEL = {"dim": 16, "depth": 2, "heads": 2, "head_dim": 8, "joint_blocks": 1, "decoder": {"dim": 16, "depth": 1}}
PIXELS = {"kind": "pixels", "source": {"path": "map/{id}.tif"}, "codes": {1: "x", 2: "y"}, "reference_sensor": "s2"}


def dataset(folder: Path, count: int = 12, **changes: Any) -> Path:
    """Places of one sensor and a map each, all in the split train; their spec."""
    for i in range(count):
        write_tif(folder / f"s2/p{i:02d}.tif", numbers(2, 8, 8, seed=i))
        write_tif(folder / f"map/p{i:02d}.tif", numbers(1, 8, 8, seed=i).astype(np.uint8) % 2 + 1)
    write_csv(folder / "table.csv", [{"id": f"p{i:02d}", "split": "train"} for i in range(count)])
    values = {
        "name": "made",
        "kind": "files",
        "reference_date": [2020, 1, 0],
        "samples": {"table": "table.csv", "split": "split"},
        "sensors": {"s2": sensor("s2/{id}.tif", input={"patch_px": 4})},
    }
    path = folder / "made.yaml"
    path.write_text(yaml.safe_dump(merge(values, changes)), encoding="utf-8")
    return path


def pretrain(path: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Pretrain for a few steps; the result that the run folder holds."""
    values: dict[str, Any] = {
        "name": "made",
        "device": "cpu",
        "data": {"spec": str(path), "pretrain_splits": ["train"], "fingerprint": "off"},
        "model": MODEL,
        "pretrain": {"steps": 3, "batch": 6, "max_bad_share": 0.2},
    }
    run_recipe(Recipe.model_validate(merge(values, changes)), out, command="")
    found: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return found


def test_pretraining_needs_no_split_that_it_does_not_use(tmp_path: Path) -> None:
    """It ended, and failed then, because pictures and counts asked for val and test."""
    result = pretrain(dataset(tmp_path / "data"), tmp_path / "run")
    assert result["status"] == "complete" and result["dataset"]["samples"] == {"train": 12}
    assert (tmp_path / "run/pretrain/seed0/reconstructions.npz").is_file()


def test_an_unreadable_first_sample_is_left_out_like_any_other(tmp_path: Path) -> None:
    path = dataset(tmp_path / "data")
    (tmp_path / "data/s2/p00.tif").write_bytes(b"II*\0")
    (tmp_path / "data/s2/p11.tif").write_bytes(b"II*\0")  # one of the pictures
    result = pretrain(path, tmp_path / "run")
    assert len(result["warnings"]) == 1 and "2 samples could not be read" in result["warnings"][0]
    with pytest.raises(DataError, match=r"p00\.tif: unreadable GeoTIFF"):
        pretrain(path, tmp_path / "strict", pretrain={"max_bad_share": 0.0})


def test_an_unreadable_sample_is_left_out_where_nothing_is_drawn(tmp_path: Path) -> None:
    """Single pixels of one date are held in memory, which read all samples at once."""
    for i in range(4):
        write_tif(tmp_path / f"s2/p{i}.tif", numbers(2, 1, 1, seed=i))
    (tmp_path / "s2/p2.tif").write_bytes(b"II*\0")
    write_csv(tmp_path / "table.csv", [{"id": f"p{i}"} for i in range(4)])
    made = open_files(tmp_path, sensors={"s2": sensor("s2/{id}.tif", px=1)})
    assert not made.draws
    listed = Quarantine(tmp_path / "bad.jsonl", 4, 0.5)
    batches = list(training_batches(made, batch=4, seed=0, start=0, steps=2, quarantine=listed))
    assert [len(batch) for batch in batches] == [3, 3] and list(listed.known) == ["p2"]
    with pytest.raises(DataError, match=r"p2\.tif"):
        list(training_batches(made, batch=4, seed=0, start=0, steps=2))


def test_images_of_other_sizes_are_told_by_name(tmp_path: Path) -> None:
    write_tif(tmp_path / "s2/a.tif", numbers(2, 8, 8))
    write_tif(tmp_path / "s2/b.tif", numbers(2, 9, 9))
    made = open_files(tmp_path, sensors={"s2": sensor("s2/{id}.tif", input={"resize": "bilinear"})})
    with pytest.raises(DataError, match=r"samples '.' and '.': images of 's2' have the sizes .*`to_px`"):
        list(training_batches(made, batch=2, seed=0, start=0, steps=1))


def test_arrays_and_their_store_give_the_same_samples_of_several_splits(tmp_path: Path) -> None:
    """The array's rows came in the order of the file, the store's split by split."""
    arrays = series_arrays()
    arrays["split"] = np.random.default_rng(0).permutation(arrays["split"])
    np.savez(tmp_path / "series.npz", **arrays)
    spec = ArraySpec.model_validate(series_values(file="series.npz"))
    pack(spec, tmp_path, tmp_path / "packed", ("train", "val", "test"), jobs=Jobs.of("serial", 1, "0/1", None))
    packed = load_spec(tmp_path / "packed")
    for splits in (("train", "val"), ("test", "train")):
        one, two = open_dataset(spec, tmp_path, splits), open_dataset(packed, tmp_path / "packed", splits)
        assert one.ids() == two.ids()


def test_an_ignored_number_is_no_class(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"ignore 0 is the number of the class 'x'.*`ignore_codes`"):
        spec_of(sensors={"s2": sensor("s2/{id}.tif")}, targets={"map": {**PIXELS, "ignore": 0}})


def test_a_sample_without_any_share_has_no_class(tmp_path: Path) -> None:
    write_csv(tmp_path / "table.csv", [{"id": "a", "x": 0, "y": 0}, {"id": "b", "x": 0.1, "y": 0.5}])
    target = {"kind": "classes", "classes": ["x", "y"]}
    made = open_files(tmp_path, sensors={"s2": sensor("s2/{id}.tif")}, targets={"kind": target})
    assert made.labels("kind").tolist() == [-1, 1]


def test_an_empty_cell_of_an_optional_multilabel_is_no_label(tmp_path: Path) -> None:
    write_csv(tmp_path / "table.csv", [{"id": "a", "has": "x;y"}, {"id": "b", "has": ""}])
    target = {"kind": "multilabel", "column": "has", "classes": ["x", "y"], "optional": True}
    made = open_files(tmp_path, sensors={"s2": sensor("s2/{id}.tif")}, targets={"has": target})
    assert made.labels("has").tolist() == [[1, 1], [-1, -1]]
    made = open_files(tmp_path, sensors={"s2": sensor("s2/{id}.tif")}, targets={"has": {**target, "optional": False}})
    assert made.labels("has").tolist() == [[1, 1], [0, 0]]


def test_a_target_may_be_named_kind(tmp_path: Path) -> None:
    """An override of it was taken for a change of the kind of all targets."""
    target = {"kind": "classes", "column": "cover", "classes": ["x", "y"]}
    path = dataset(tmp_path, targets={"kind": target})
    assert load_spec(path, ["targets.kind.column=other"]).targets["kind"].classes == ("x", "y")


@pytest.mark.parametrize("given", [[2020, 400, 0], [2020, 0, 0], [0, 1, 0], [2020, 1, 24], [99999, 1, 0]])
def test_a_reference_date_is_a_date(given: list[int]) -> None:
    with pytest.raises(SpecError, match=r"reference_date: .* is no \[year, day of year, hour\]"):
        spec_of(reference_date=given, sensors={"s2": sensor("s2/{id}.tif")})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_px": 3}, r"label_px: 3 label pixels .* make 6 x 6, but its maps are 8 x 8"),
        ({}, "give its `reference_sensor`, and in `label_px`"),
        ({"reference_sensor": "s3", "label_px": 4}, "reference_sensor 's3' is no sensor"),
    ],
)
def test_maps_that_do_not_suit_the_head_are_refused_before_training(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = dataset(tmp_path / "data", 24, targets={"map": {**PIXELS, **changes}})
    rows = [{"id": f"p{i:02d}", "split": ("train", "val", "test")[i % 3]} for i in range(24)]
    write_csv(tmp_path / "data/table.csv", rows)
    with pytest.raises(SpecError, match=message):
        pretrain(path, tmp_path / "run", evaluate={"target": "map", "protocols": ["fine-tune"]})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dtype", ["float16", "bool", "int64", "uint64", "uint8"])
@pytest.mark.parametrize("fit", ["nearest", "bilinear"])
def test_any_type_is_resampled_to_itself(tmp_path: Path, dtype: str, fit: str) -> None:
    stored = np.repeat(np.repeat(np.arange(4).reshape(1, 2, 2), 4, 1), 4, 2)
    big = stored * (1 << 40) if dtype.endswith("int64") else stored
    np.save(tmp_path / "a.npy", big.astype(dtype))
    write_csv(tmp_path / "table.csv", [{"id": "a"}])
    entry = sensor("{id}.npy", bands=1, px=6, fit=fit, axes=["band", "row", "col"])
    images = open_files(tmp_path, sensors={"s2": entry}).read(0).images["s2"]
    assert images.dtype == dtype
    assert (
        images[0, 0, [0, 0, 5, 5], [0, 5, 0, 5]].tolist() == big[0, [0, 0, 7, 7], [0, 7, 0, 7]].astype(dtype).tolist()
    )


def test_a_size_in_metres_is_no_size_in_degrees_or_feet() -> None:
    degrees = about_middle(Grid(10, 10, (0.001, 0, 9.0, 0, -0.001, 60.0), "EPSG:4326"), 222.64)
    west, south, east, north = degrees.bounds
    assert (east - west, north - south) == (pytest.approx(0.004, rel=1e-3), pytest.approx(0.002))
    feet = about_middle(Grid(10, 10, (100.0, 0, 0.0, 0, -100.0, 0.0), "EPSG:2263"), 304.8006)
    assert (feet.height, feet.width) == (10, 10)


def test_a_square_is_cut_of_a_grid_that_lies_on_its_side() -> None:
    """Its columns run south: the pixel's width along x is 0."""
    turned = about_middle(Grid(8, 8, (0.0, 10.0, 500_000.0, -10.0, 0.0, 5_600_000.0), "EPSG:32632"), 40)
    assert (turned.height, turned.width) == (4, 4)
    assert turned.bounds == (500_020.0, 5_599_940.0, 500_060.0, 5_599_980.0)


def test_an_image_upside_down_is_on_no_other_ground_but_refused(tmp_path: Path) -> None:
    """Both have the same bounds; without `ground` pixels would be taken as they are stored."""
    grid = Grid(8, 8, (10.0, 0, 500_000.0, 0, -10.0, 5_600_000.0), "EPSG:32632")
    flipped = Grid(8, 8, (10.0, 0, 500_000.0, 0, 10.0, 5_599_920.0), "EPSG:32632")
    found = [Reference("sensor 's2'", "a.tif", grid), Reference("sensor 's1'", "b.tif", flipped)]
    check_ground(found, None, aligned=True)
    with pytest.raises(DataError, match=r"b\.tif: rows and columns of sensor 's1' run another way"):
        check_ground(found, None, aligned=False)
    check_ground([found[0], found[0]], None, aligned=False)


def test_a_sample_without_any_chosen_sensor_is_refused_in_a_store_too(tmp_path: Path) -> None:
    """From files it was an error, from the store an empty sample."""
    write_csv(tmp_path / "table.csv", [{"id": "a"}, {"id": "b"}])
    for name in "ab":
        write_tif(tmp_path / f"s2/{name}.tif", numbers(2, 8, 8))
    write_tif(tmp_path / "s1/a.tif", numbers(2, 8, 8))
    spec = spec_of(sensors={"s2": sensor("s2/{id}.tif"), "s1": sensor("s1/{id}.tif", optional=True)})
    pack(spec, tmp_path, tmp_path / "packed", ("all",), jobs=Jobs.of("serial", 1, "0/1", None))
    packed = load_spec(tmp_path / "packed")
    chosen = packed.model_copy(update={"sensors": {"s1": packed.sensors["s1"]}})
    for made, root in ((spec.model_copy(update={"sensors": {"s1": spec.sensors["s1"]}}), "."), (chosen, "packed")):
        samples = open_dataset(made, tmp_path / root, ("all",))
        assert samples.read(0).present["s1"].all()
        with pytest.raises(DataError, match="sample 'b' has none of the sensors"):
            samples.read(1)


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_infinity_is_as_unknown_as_nan_where_a_date_is_chosen(hole: float) -> None:
    images = np.asarray([1.0, 2.0, 4.0, 3.0], np.float32)[:, None, None, None] * np.ones((1, 1, 2, 2), np.float32)
    images[3, 0, 0, 0] = hole
    assert nearest_dates(images, 1).tolist() == [1]


def test_a_sample_without_the_sensor_of_the_reference_date_says_so(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tif(tmp_path / f"dem/{name}.tif", numbers(1, 8, 8))
    write_tif(tmp_path / "s2/a_20200105.tif", numbers(2, 8, 8))
    entries = {
        "dem": sensor("dem/{id}.tif", bands=1, input={"patch_px": 4}),  # its date is that of s2
        "s2": sensor("s2/{id}_{date}.tif", dates={"field": "date"}, optional=True, input={"patch_px": 4}),
    }
    values = {"kind": "files", "name": "made", "reference_date": "s2", "samples": {"scan": "dem/{id}.tif"}}
    (tmp_path / "made.yaml").write_text(yaml.safe_dump({**values, "sensors": entries}), encoding="utf-8")
    made = open_dataset(load_spec(tmp_path / "made.yaml"), tmp_path, ("train",))
    assert made.read(0).reference_date.tolist() == [2020, 5, 0]
    with pytest.raises(DataError, match="sample 'b' has no date of 's2', which `reference_date` names"):
        made.read(1)


def test_classes_present_in_a_map_that_samples_may_lack_are_refused(tmp_path: Path) -> None:
    targets = {
        "cover": {**PIXELS, "optional": True},
        "any": {"kind": "multilabel", "classes": ["x"], "present_in": "cover"},
    }
    with pytest.raises(SpecError, match="present_in names 'cover', which samples may lack"):
        load_spec(dataset(tmp_path, 1, targets=targets))


def test_a_packed_dataset_is_verified_whole_or_not_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = load_spec(dataset(tmp_path / "files", 2))
    pack(spec, tmp_path / "files", tmp_path / "store", ("train",), jobs=Jobs(engine="serial"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "check", str(tmp_path / "store"), "--shard", "0/2"])
    assert ended.value.code == 1
    assert "a packed dataset is verified whole; leave out --splits, --out and --shard" in capsys.readouterr().err
