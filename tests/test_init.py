"""`data init`: made folders of each layout lead to a spec that opens them and gives back what was written."""

import json
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from geomaestro.data.init import init
from geomaestro.data.init.naming import find_layers
from geomaestro.data.init.notes import Note, plain_values, to_yaml
from geomaestro.data.init.sizes import Piece, make_plan
from geomaestro.data.init.survey import survey
from geomaestro.data.opening import open_dataset
from geomaestro.data.specs import load_spec
from geomaestro.errors import DataError, SpecError
from geomaestro.grid import Grid
from geomaestro.learn.recipe import load_recipe
from geomaestro.learn.run import run_recipe

SIDE = 16


def draw(seed: int, *shape: int, low: int = 500, high: int = 3000, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def write_tif(path: Path, x: np.ndarray, east: float | None = 500_000, crs: int = 32631, **options) -> Path:
    """Write (c h w) at 10 m; without `east` it has no place on the ground. `names` are descriptions of the bands."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.transform import from_origin

    path.parent.mkdir(parents=True, exist_ok=True)
    names, gsd = options.pop("names", None), options.pop("gsd", 10)
    placed = {} if east is None else {"crs": f"EPSG:{crs}", "transform": from_origin(east, 5_600_000, gsd, gsd)}
    size = {"count": len(x), "height": x.shape[1], "width": x.shape[2], "dtype": x.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # as meant
        with rasterio.open(path, "w", **{"driver": "GTiff", **size, **placed, **options}) as file:
            file.write(x)
            for number, name in enumerate(names or (), 1):
                file.set_band_description(number, name)
    return path


def write_nc(path: Path, arrays: dict[str, tuple[tuple[str, ...], np.ndarray]], **attrs: object) -> None:
    """Write arrays with named dimensions as NetCDF-4 does: HDF5 with scales."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update(attrs)
        for name, (dims, values) in arrays.items():
            file[name] = values
            if dims == (name,):
                file[name].make_scale(name)
        for name, (dims, _) in arrays.items():
            for axis, dim in enumerate(dims):
                if dims != (name,):
                    file[name].dims[axis].attach_scale(file[dim])


def made(folder: Path, out: Path, capsys=None):
    """Run init quietly; gives the spec, all samples by name, the YAML and what was said."""
    said: list[str] = []
    path = init(folder, out / "spec.yaml", report=lambda text: said.append(str(text)))
    spec = load_spec(path)
    root = folder if folder.is_dir() else folder.parent
    splits = said_splits(path) or ("train",)
    dataset = open_dataset(spec, root, splits)
    samples = {name: dataset.read(index) for index, name in enumerate(dataset.ids())}
    return spec, samples, path.read_text(), "\n".join(said)


def said_splits(path: Path) -> tuple[str, ...]:
    """The splits that the first comment names."""
    text = path.read_text().split("splits: ", 1)[1].split(". Written", 1)[0]
    return () if text == "none" else tuple(text.split(", "))


def far(number: int) -> float:
    """An easting in a block of its own."""
    return 200_000 + 30_000.0 * number


def test_one_folder_per_sensor_is_read_and_a_missing_sensor_is_optional(tmp_path):
    for n in range(6):
        write_tif(tmp_path / f"d/S2/tile_{n}.tif", draw(n, 12, SIDE, SIDE), far(n))
        write_tif(tmp_path / f"d/DEM/tile_{n}.tif", draw(n, 1, SIDE, SIDE, dtype="int16"), far(n))
        if n != 3:
            write_tif(
                tmp_path / f"d/S1/tile_{n}.tif", -draw(n, 2, SIDE, SIDE, low=5, high=25).astype("float32"), far(n)
            )
    spec, samples, text, said = made(tmp_path / "d", tmp_path)
    assert {name: entry.unit for name, entry in spec.sensors.items()} == {
        "s2": "reflectance_1e4", "s1": "dB", "dem": "m"
    }  # fmt: skip
    assert spec.sensors["s2"].bands[7:10] == ("B08", "B8A", "B09")
    assert spec.sensors["s1"].optional and not spec.sensors["s2"].optional
    assert "1 of 6 samples lack it" in text and "1 of 6" in said
    assert samples["2"].images["s2"][0].tolist() == draw(2, 12, SIDE, SIDE).tolist()
    assert samples["3"].present["s1"].tolist() == [False] and samples["2"].present["s1"].tolist() == [True]
    assert spec.samples.blocks is not None and "blocks of" in text


@pytest.mark.parametrize("pattern", ["{s}/{i}_{d}.tif", "{i}_{s}_{d}.tif", "{i}/{s}_{d}.tif", "{i}/{s}/{d}.tif"])
def test_dates_in_names_make_a_series(tmp_path, pattern):
    days = ["20200105", "20200301", "20200720"]
    for i in ("a1", "b2", "c3", "e4"):
        for s, count in (("s2", 5), ("s1", 2)):
            for number, day in enumerate(days):
                x = (
                    draw(number, count, SIDE, SIDE)
                    if s == "s2"
                    else draw(number, 2, SIDE, SIDE).astype("float32") / 1e4
                )
                write_tif(tmp_path / "d" / pattern.format(s=s, i=i, d=day), x, None)
    spec, samples, text, _ = made(tmp_path / "d", tmp_path)
    assert set(samples) == {"a1", "b2", "c3", "e4"} and set(spec.sensors) == {"s1", "s2"}
    assert samples["b2"].dates["s2"][:, :2].tolist() == [[2020, 5], [2020, 61], [2020, 202]]
    assert samples["b2"].images["s2"][1].tolist() == draw(1, 5, SIDE, SIDE).tolist()
    assert spec.sensors["s1"].unit == "linear_power" and spec.sensors["s1"].scaling.log
    assert spec.samples.drawn is not None and "WARNING: neighbours may fall into train and test" in " ".join(
        text.split()
    )


def test_names_of_several_words_before_a_date_are_taken_apart(tmp_path):
    for i in ("12U_34R", "56D_78L", "9U_1R"):
        for day in ("2019-01-02", "2019-05-06"):
            write_tif(tmp_path / f"d/{i}_{day}.tif", draw(1, 5, SIDE, SIDE), None)
    _, samples, _, _ = made(tmp_path / "d", tmp_path)
    assert set(samples) == {"12U_34R", "56D_78L", "9U_1R"}
    assert all(x.present[next(iter(x.present))].sum() == 2 for x in samples.values())


def test_one_file_per_band_is_joined_in_the_order_of_bands(tmp_path):
    bands = ["B10", "B02", "B8A", "B03", "B08"]
    for i in ("a", "b", "c"):
        for day in ("2020-01-02", "2020-06-07"):
            for number, band in enumerate(bands):
                write_tif(tmp_path / f"d/{i}/{day}/{band}.tif", draw(number, 1, SIDE, SIDE), None)
    spec, samples, _, _ = made(tmp_path / "d", tmp_path)
    (entry,) = spec.sensors.values()
    assert entry.bands == ("B02", "B03", "B08", "B8A", "B10")
    (images,) = samples["b"].images.values()
    assert images[1, 2].tolist() == draw(4, 1, SIDE, SIDE)[0].tolist()


def test_two_families_of_band_files_are_two_sensors_and_scl_tells_clouds(tmp_path):
    for i in ("p1", "p2", "p3"):
        for day in ("20200102", "20200607"):
            for band in ("B02", "B03", "B04", "B08"):
                write_tif(tmp_path / f"d/{i}/S2_{day}_{band}.tif", draw(1, 1, SIDE, SIDE), None)
            for band in ("VV", "VH"):
                x = -draw(2, 1, SIDE, SIDE, low=5, high=25).astype("float32")
                write_tif(tmp_path / f"d/{i}/S1_{day}_{band}.tif", x, None)
    spec, samples, _, _ = made(tmp_path / "d", tmp_path)
    assert sorted(entry.bands for entry in spec.sensors.values()) == [("B02", "B03", "B04", "B08"), ("VH", "VV")]
    assert all(x.shape[0] == 2 for x in samples["p1"].images.values())


def test_maps_of_labels_become_a_target_with_their_values(tmp_path):
    for n in range(5):
        write_tif(tmp_path / f"d/train/images/{n}.tif", draw(n, 3, SIDE, SIDE, high=200, low=0, dtype="uint8"), None)
        labels = draw(n, 1, SIDE, SIDE, low=0, high=3, dtype="uint8") * 10
        labels[0, 0] = 255
        write_tif(tmp_path / f"d/train/labels/{n}.tif", labels, None)
        for kind in ("images", "labels"):
            for split in ("validation", "test"):
                target = tmp_path / f"d/{split}/{kind}/{n}.tif"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((tmp_path / f"d/train/{kind}/{n}.tif").read_bytes())
    spec, samples, text, _ = made(tmp_path / "d", tmp_path)
    target = spec.targets["labels"]
    assert target.codes == {0: "class 0", 10: "class 10", 20: "class 20"} and target.ignore_codes == (255,)
    assert target.label_px == spec.sensors["rgb"].input.patch_px and "does 0 mean no label?" in text
    expected = draw(4, 1, SIDE, SIDE, low=0, high=3, dtype="uint8")[0].astype(int)
    expected[0] = -1
    assert samples["test/4"].labels["labels"].tolist() == expected.tolist()
    recipe = load_recipe(tmp_path / "spec-recipe.yaml")
    assert (recipe.data.val_split, recipe.data.test_split) == ("validation", "test")


def test_class_folders_in_a_zip_are_classes(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for label in ("forest", "lake", "town"):
            for n in range(4):
                x = draw(n, 3, SIDE, SIDE, low=0, high=255, dtype="uint8")
                png = write_tif(tmp_path / "one.png", x, None, driver="PNG")
                archive.write(png, f"photos/{label}/{n}.png")
        archive.writestr("photos/readme.txt", "hello")
    spec, samples, text, said = made(tmp_path / "photos.zip", tmp_path)
    assert spec.targets["label"].classes == ("forest", "lake", "town")
    assert len(samples) == 12 and samples["lake/2"].labels["label"] == 1
    assert (
        samples["lake/2"].images["rgb"][0].tolist() == draw(2, 3, SIDE, SIDE, low=0, high=255, dtype="uint8").tolist()
    )
    assert "assumed: folders or words of file names are classes" in text and "only images are read from a zip" in said


def test_a_table_gives_names_places_splits_and_labels(tmp_path):
    lines = ["file,lon,lat,part,crop,yield"]
    for n in range(8):
        write_tif(tmp_path / f"d/images/field_{n}.tif", draw(n, 12, SIDE, SIDE), None)
        split = "test" if n > 5 else "valid" if n > 4 else "train"
        lines.append(f"field_{n}.tif,{10 + n},50,{split},{'maize' if n % 2 else 'wheat'},{n / 2}")
    lines[0] = "file,lon,lat,split,crop,yield"
    (tmp_path / "d/index.csv").write_text("\n".join(lines) + "\n")
    spec, samples, _, _ = made(tmp_path / "d", tmp_path)
    assert spec.samples.table == "index.csv" and spec.samples.place == ("lon", "lat")
    assert spec.samples.splits == {"train": ("train",), "val": ("valid",), "test": ("test",)}
    assert spec.targets["crop"].classes == ("maize", "wheat") and spec.targets["yield"].kind == "regression"
    assert samples["3"].labels["crop"] == 0 and samples["3"].place == (13.0, 50.0)
    assert samples["3"].images["s2"][0].tolist() == draw(3, 12, SIDE, SIDE).tolist()


def test_a_geojson_of_samples_gives_places_for_blocks(tmp_path):
    features = []
    for n in range(6):
        write_tif(tmp_path / f"d/{n:03}.tif", draw(n, 12, SIDE, SIDE), None)
        ring = [[n, 50], [n + 0.1, 50], [n + 0.1, 50.1], [n, 50]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": {"id": f"{n:03}"}, "geometry": geometry})
    (tmp_path / "d/fields.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    spec, samples, _, _ = made(tmp_path / "d", tmp_path)
    assert spec.samples.table == "fields.geojson" and spec.samples.place == "geometry"
    assert spec.samples.blocks is not None and samples["004"].place == pytest.approx((4.0667, 50.0333), abs=1e-3)


def test_a_table_that_lacks_samples_is_refused_with_counts(tmp_path):
    for n in range(5):
        write_tif(tmp_path / f"d/{n}.tif", draw(n, 12, SIDE, SIDE), None)
    (tmp_path / "d/index.csv").write_text("id,label\n0,a\n1,b\n2,a\n9,b\n")
    _, samples, _, said = made(tmp_path / "d", tmp_path)
    assert len(samples) == 5 and "2 samples have no row in it, and 1 rows no file" in " ".join(said.split())


def test_a_larger_table_is_joined(tmp_path):
    for n in range(5):
        write_tif(tmp_path / f"d/{n}.tif", draw(n, 12, SIDE, SIDE), None)
    (tmp_path / "d/index.csv").write_text("id,label\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(8)))
    spec, samples, _, _ = made(tmp_path / "d", tmp_path)
    assert spec.samples.join[0].take == {"label": "label"} and samples["3"].labels["label"] == 1


def cube(path: Path, seed: int, times: np.ndarray, units: str | None, **more) -> None:
    arrays = {
        "time": (("time",), times),
        "y": (("y",), 5_600_000 - 10 * np.arange(SIDE) - 5.0),
        "x": (("x",), 400_000 + 10 * np.arange(SIDE) + 5.0),
        "B04": (("time", "y", "x"), draw(seed, len(times), SIDE, SIDE)),
        "B08": (("time", "y", "x"), draw(seed + 1, len(times), SIDE, SIDE)),
        "SCL": (("time", "y", "x"), draw(seed, len(times), SIDE, SIDE, low=4, high=10, dtype="uint8")),
    }
    write_nc(path, arrays | more, epsg=32631)
    import h5py

    with h5py.File(path, "a") as file:
        if units:
            file["time"].attrs["units"] = units
        for name in ("B04", "B08"):
            file[name].attrs["scale_factor"] = 0.0001
            file[name].attrs["_FillValue"] = np.uint16(0)


def test_cubes_are_read_by_the_names_of_their_dimensions(tmp_path):
    for n, i in enumerate(("p", "q", "r")):
        cube(tmp_path / f"d/cube_{i}.nc", n, np.arange(4 + n) * 10, "days since 2021-01-01")
    spec, samples, _, _ = made(tmp_path / "d", tmp_path)
    (entry,) = spec.sensors.values()
    assert entry.bands == ("B04", "B08") and entry.nodata == 0 and entry.unit == "reflectance_1e4"
    assert entry.clouds is not None and entry.clouds.values == (3, 8, 9, 10)
    (images,), (dates,) = samples["q"].images.values(), samples["q"].dates.values()
    assert dates[:5, 1].tolist() == [1, 11, 21, 31, 41]
    assert images[2, 1].tolist() == draw(2, 5, SIDE, SIDE)[2].tolist()
    assert samples["q"].place is not None


def test_a_time_of_text_and_labels_in_the_cube_are_found(tmp_path):
    days = np.asarray([b"2020-01-05", b"2020-02-06", b"2020-03-07"])
    for n, i in enumerate(("p", "q", "r")):
        labels = (("y", "x"), draw(n, SIDE, SIDE, low=1, high=4, dtype="uint8"))
        cube(tmp_path / f"d/{i}.nc", n, days, None, landcover=labels)
    spec, samples, _, _ = made(tmp_path / "d", tmp_path)
    assert spec.targets["landcover"].codes == {1: "class 1", 2: "class 2", 3: "class 3"}
    (dates,) = samples["p"].dates.values()
    assert dates[:3, 1].tolist() == [5, 37, 67]
    assert samples["q"].labels["landcover"].tolist() == (draw(1, SIDE, SIDE, low=1, high=4) - 1).tolist()


def test_zarr_cubes_are_read(tmp_path):
    zarr = pytest.importorskip("zarr")
    for n, i in enumerate(("p", "q", "r")):
        group = zarr.open_group(str(tmp_path / f"d/{i}.zarr"), mode="w")
        time = group.create_array("time", data=np.arange(3, dtype="int64") * 30, dimension_names=("time",))
        time.attrs["units"] = "days since 2020-01-01"
        group.create_array("band", data=np.arange(4), dimension_names=("band",))
        x = draw(n, 3, 4, SIDE, SIDE)
        group.create_array("s2", data=x, dimension_names=("time", "band", "y", "x"))
    spec, samples, _, _ = made(tmp_path / "d", tmp_path)
    assert spec.sensors["s2"].bands == ("B02", "B03", "B04", "B08")
    assert samples["r"].images["s2"].tolist() == draw(2, 3, 4, SIDE, SIDE).tolist()


def test_arrays_of_samples_are_an_arrays_spec(tmp_path):
    (tmp_path / "d").mkdir()
    x, y = draw(0, 30, 12, SIDE, SIDE), np.arange(30) % 3
    np.savez(tmp_path / "d/set.npz", s2=x, label=y, split=np.asarray(["train", "val", "test"])[np.arange(30) % 3])
    spec, samples, text, _ = made(tmp_path / "d", tmp_path)
    assert spec.kind == "arrays" and spec.sensors["s2"].bands[8] == "B8A"
    assert (
        spec.targets["label"].codes == {0: "class 0", 1: "class 1", 2: "class 2"}
        and "assumed: after the sample" in text
    )
    assert samples["7"].images["s2"][0].tolist() == x[7].tolist() and samples["7"].labels["label"] == 1


def test_stacked_dates_are_taken_apart_by_descriptions(tmp_path):
    names = [f"{band}_{day}" for day in ("20200101", "20200202") for band in ("B02", "B03", "B04")]
    for n in range(3):
        write_tif(tmp_path / f"d/{n}.tif", draw(n, 6, SIDE, SIDE), None, names=names)
    spec, samples, _, _ = made(tmp_path / "d", tmp_path)
    (entry,), (images,) = spec.sensors.values(), samples["1"].images.values()
    assert entry.bands == ("B02", "B03", "B04") and entry.input.dates == 2
    assert images.tolist() == draw(1, 6, SIDE, SIDE).reshape(2, 3, SIDE, SIDE).tolist()


def test_stacked_dates_without_descriptions_are_assumed_and_marked(tmp_path):
    for n in range(3):
        write_tif(tmp_path / f"d/s2/{n}.tif", draw(n, 24, SIDE, SIDE), None)
        write_tif(tmp_path / f"d/foo/{n}.tif", draw(n, 24, SIDE, SIDE), None)
    spec, samples, text, _ = made(tmp_path / "d", tmp_path)
    assert samples["0"].images["s2"].shape[:2] == (2, 12) and len(spec.sensors["foo"].bands) == 24
    flat = " ".join(text.replace("#", " ").split())
    assert "24 bands are 2 dates of 12 bands" in flat and "those below are made up" in flat
    assert "ambiguous: 24 bands could also be 2 dates of 12, or" in flat


def test_sensors_on_other_grids_are_brought_to_one_ground_and_the_plan_is_shown(tmp_path):
    for n in range(3):
        write_tif(tmp_path / f"d/S2/{n}.tif", draw(n, 12, 32, 32), far(n))
        write_tif(tmp_path / f"d/DEM/{n}.tif", draw(n, 1, 20, 20, dtype="int16"), far(n) - 100, gsd=30)
    spec, samples, text, said = made(tmp_path / "d", tmp_path)
    assert spec.ground is not None and spec.ground.sensor == "s2" and spec.sensors["dem"].fit == "bilinear"
    assert "alignment plan" in said and "dem covers another extent than s2" in " ".join(text.replace("#", "").split())
    size = spec.sensors["dem"].input.size_px
    assert samples["1"].images["dem"].shape[-2:] == size


def test_unknown_bands_get_plain_names_and_a_todo(tmp_path):
    for n in range(3):
        write_tif(tmp_path / f"d/{n}.tif", draw(n, 5, SIDE, SIDE, low=0, high=60000), None)
    spec, _, text, said = made(tmp_path / "d", tmp_path)
    (entry,) = spec.sensors.values()
    assert entry.bands == ("b1", "b2", "b3", "b4", "b5") and entry.unit == "other"
    assert "TODO: name the bands in the order of the files" in text and "TODO" in said


def test_a_guess_is_never_silent_about_the_order_of_four_colours(tmp_path):
    for n in range(3):
        write_tif(tmp_path / f"d/{n}.tif", draw(n, 4, SIDE, SIDE, low=1, high=250, dtype="uint8"), None)
    spec, _, text, _ = made(tmp_path / "d", tmp_path)
    assert (
        spec.sensors["rgbn"].bands == ("R", "G", "B", "NIR")
        and "NIR, R, G, B" in text
        and "TODO: check the order" in text
    )


def test_nodata_that_is_not_declared_is_found(tmp_path):
    for n in range(3):
        x = draw(n, 2, SIDE, SIDE, low=5, high=25).astype("float32") * -1
        x[:, :4] = -9999
        write_tif(tmp_path / f"d/S1/{n}.tif", x, None)
    spec, samples, text, _ = made(tmp_path / "d", tmp_path)
    assert spec.sensors["s1"].nodata == -9999 and "not declared in the files" in text
    assert samples["0"].valid["s1"][0, :5].all(axis=1).tolist() == [False] * 4 + [True]
    assert -26 < spec.sensors["s1"].scaling.subtract[0] < -4


def test_the_recipe_pretrains_and_evaluates(tmp_path):
    for label in ("forest", "water"):
        for n in range(12):
            x = draw(n, 3, SIDE, SIDE, low=0, high=120 if label == "water" else 250, dtype="uint8")
            write_tif(tmp_path / f"d/{label}/{n}.tif", x, far(n))
    path = init(tmp_path / "d", tmp_path / "spec.yaml", report=lambda text: None)
    small = ("pretrain.steps=2", "pretrain.batch=4", "evaluate.finetune.steps=2", "evaluate.finetune.validations=1")
    tiny = ("model.dim=32", "model.depth=2", "model.heads=1", "evaluate.protocols=[fine-tune]", "device=cpu")
    recipe = load_recipe(path.with_name("spec-recipe.yaml"), (*small, *tiny))
    run_recipe(recipe, tmp_path / "run", command="test")
    rows = (tmp_path / "run/evaluate/rows.jsonl").read_text().splitlines()
    assert {json.loads(row)["protocol"] for row in rows} == {"fine-tune", "from scratch", "random forest"}


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no images or arrays"):
        init(tmp_path, tmp_path / "s.yaml")
    with pytest.raises(DataError, match="no such folder or zip file"):
        init(tmp_path / "nowhere", tmp_path / "s.yaml")


def test_a_folder_of_unreadable_files_is_refused_with_the_reason(tmp_path):
    (tmp_path / "d").mkdir()
    for n in range(3):
        (tmp_path / f"d/{n}.tif").write_bytes(b"no image" * 10)
        (tmp_path / f"d/{n}.nc").write_bytes(b"no cube" * 10)
    with pytest.raises(DataError, match=r"none of its 6 files can be used.*unreadable"):
        init(tmp_path / "d", tmp_path / "s.yaml")


def test_damaged_files_among_good_ones_are_left_out_with_the_reason(tmp_path):
    for n in range(5):
        write_tif(tmp_path / f"d/S2/{n}.tif", draw(n, 12, SIDE, SIDE), None)
    (tmp_path / "d/S2/2.tif").write_bytes(b"")
    (tmp_path / "d/notes.docx").write_bytes(b"x")
    said: list[str] = []
    init(tmp_path / "d", tmp_path / "s.yaml", report=lambda text: said.append(str(text)))
    assert "is empty" in " ".join(said) and ".docx: not a kind of file" in " ".join(" ".join(said).split())


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "s.yaml").write_text("mine")
    with pytest.raises(SpecError, match="is there already"):
        init(tmp_path, tmp_path / "s.yaml")
    assert (tmp_path / "s.yaml").read_text() == "mine"


def test_the_survey_is_bounded_and_says_so(tmp_path):
    for name in ("S2", "S1"):
        (tmp_path / name).mkdir()
        for n in range(60):
            (tmp_path / name / f"{n:03}.tif").touch()
    found = survey(tmp_path, entries=1000, kept=50)
    assert len(found.files) == 100 and "the first 50 of 60 entries" in found.cut[0]
    assert {p.removeprefix("S1/") for p in found.files if p[:2] == "S1"} == {f"{n:03}.tif" for n in range(50)}
    few = survey(tmp_path, entries=70, kept=50)
    assert few.entries <= 72 and any("was not looked at" in text for text in few.cut)


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.tif").touch()
    os.symlink(tmp_path, tmp_path / "a/again")
    assert survey(tmp_path).files == ["a/x.tif"]


def test_hostile_names_stay_in_their_comments(tmp_path):
    for n in range(3):
        write_tif(tmp_path / "d" / "s2: {x}\n- y #z" / f"{n}.tif", draw(n, 12, SIDE, SIDE), None)
    (tmp_path / "d/bad\nname: evil.xyz").write_text("x")
    try:
        init(tmp_path / "d", tmp_path / "s.yaml", report=lambda text: None)
    except (DataError, SpecError) as error:
        assert "d" in str(error)
        return
    assert "evil" not in yaml.safe_load((tmp_path / "s.yaml").read_text())


def test_layers_of_unknown_products_are_told_by_what_files_hold():
    paths = [f"foo/{n}.tif" for n in range(5)] + [f"bar/{n}.tif" for n in range(5)]
    layers, _ = find_layers(paths, lambda path: path[:3])
    assert {layer.pattern for layer in layers} == {"foo/{id}.tif", "bar/{id}.tif"}
    layers, notes = find_layers(paths, lambda path: "alike")
    assert [layer.pattern for layer in layers] == ["{label}/{id}.tif"] and "taken for classes" in notes[0]


def test_yaml_with_comments_gives_the_values_back():
    values = {
        "a": Note([1.0, 2.5, "x: y"], "seen: here"),
        "b": {
            "c": Note({"d": "#no", 10: None}, "a comment that is far too long to stand at the end of this line"),
            "e": True,
        },
        "names": [f"class {n}" for n in range(60)],
        "text": Note("it's", "evil\nnext: 1"),
    }
    assert yaml.safe_load(to_yaml(values)) == plain_values(values)


def test_patches_give_25_to_400_tokens_and_grids_that_fit():
    for side in (30, 64, 100, 120, 224, 256, 264, 300, 512):
        plan = make_plan([Piece("a", (side, side), 10), Piece("b", (side // 2, side // 2), 20)], [])
        for chosen in plan.chosen.values():
            rows = chosen.size_px[0] // chosen.patch_px
            assert chosen.size_px[0] % chosen.patch_px == 0 and 25 <= rows * rows <= 400, (side, chosen)
    pixel = make_plan([Piece("a", (64, 64), 10, 200), Piece("w", (1, 1), 640, 500)], [])
    assert pixel.chosen["w"].patch_px == 1 and pixel.chosen["w"].dates <= 16


def test_one_ground_is_planned_where_systems_differ():
    here = Grid(32, 32, (10.0, 0.0, 5e5, 0.0, -10.0, 5.6e6), "EPSG:32631")
    there = Grid(32, 32, (10.0, 0.0, 5e5, 0.0, -10.0, 5.6e6), "EPSG:32632")
    plan = make_plan(
        [Piece("a", (32, 32), 10, grid=here), Piece("b", (32, 32), 10, grid=there)], [{"a": here, "b": there}]
    )
    assert plan.ground.value == {"sensor": "a"} and "another coordinate system" in plan.ground.comment
    same = make_plan(
        [Piece("a", (32, 32), 10, grid=here), Piece("b", (32, 32), 10, grid=here)], [{"a": here, "b": here}]
    )
    assert same.ground is None


ROOT = Path(__file__).parents[1]
FINISHED = sorted(path.stem for path in (ROOT / "recipes/data").glob("*.yaml"))


@pytest.mark.parametrize("name", FINISHED)
def test_the_finished_specs_open_the_real_files(data_dir, monkeypatch, name):
    monkeypatch.chdir(ROOT)
    folder = data_dir if name == "eurosat_rgb" else data_dir / name
    recipe = load_recipe(Path(f"recipes/{name}.yaml"), (f"data.root={folder}",))
    dataset = open_dataset(recipe.dataset(), recipe.data.root, (recipe.data.train_split,))
    sample = dataset.read(len(dataset) - 1)
    assert all(x.any() for x in sample.images.values()) and set(sample.labels) == set(recipe.dataset().targets)


def test_real_tiles_of_five_products_are_told_apart(data_dir, tmp_path):
    said: list[str] = []
    spec = load_spec(init(data_dir / "terramesh", tmp_path / "t.yaml", report=lambda text: said.append(str(text))))
    assert {name: (len(entry.bands), entry.unit) for name, entry in spec.sensors.items()} == {
        "dem": (1, "m"), "s1rtc": (2, "dB"), "s2l1c": (13, "reflectance_1e4"), "s2l2a": (12, "reflectance_1e4"),
    }  # fmt: skip
    assert spec.sensors["s2l1c"].bands[8] == "B8A" and list(spec.targets["lulc"].codes) == [1, 2, 4, 5, 6, 7, 9]
    assert "2 of 4 images carry the offset of 1000" in " ".join(" ".join(said).split())


def test_real_images_tell_that_their_last_band_is_b8a(data_dir, tmp_path):
    spec = load_spec(init(data_dir / "eurosat_ms", tmp_path / "t.yaml", report=lambda text: None))
    assert spec.sensors["s2"].bands[-1] == "B8A" and spec.targets["label"].classes == ("AnnualCrop", "Forest")


def test_real_cubes_of_many_products_are_read(data_dir, tmp_path):
    said: list[str] = []
    spec = load_spec(
        init(data_dir / "worldcereal_cubes", tmp_path / "t.yaml", report=lambda text: said.append(str(text)))
    )
    assert spec.sensors["s2_l2a_10m"].optional and spec.sensors["s2_l2a_10m"].clouds is not None
    assert spec.sensors["s1_grd_ascending_20m"].scale == 1e-4 and spec.sensors["s1_grd_ascending_20m"].unit == "dB"
    assert set(spec.targets) == {"lc", "ct"} and 1200 in spec.targets["ct"].codes
    assert "IRR" in said[0] and "names of its 1 files are none of the samples" in " ".join(said[0].split())


def test_a_real_file_of_samples_is_described_as_by_hand(data_dir, tmp_path):
    spec = load_spec(init(data_dir / "worldcereal_series", tmp_path / "t.yaml", report=lambda text: None))
    known = load_spec("worldcereal_series")
    assert {name: (e.bands, e.axes, e.nodata) for name, e in spec.sensors.items()} == {
        name: (e.bands, e.axes, e.nodata) for name, e in known.sensors.items()
    }
    assert (spec.id, spec.place, spec.length, spec.dates, spec.split) == (
        known.id, known.place, known.length, known.dates, known.split
    )  # fmt: skip
