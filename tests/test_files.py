"""Datasets in files: a made one whose sensors, dates, gaps, clouds and labels lie in files of their own.

Axes: t date, c band, h row, w column.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomaestro.data.files.reader import FileScenes
from geomaestro.data.sampling import SceneDataset
from geomaestro.errors import GeomaestroError, SpecError
from tests.filesets import CORNER, numbers, open_files, sensor, spec_of, write_csv, write_picture, write_tif

WEST, NORTH = CORNER
PX = 8
DAYS = {"a": ["20200105", "20200210", "20200615", "20200901"], "b": ["20200303"], "c": ["20200105", "20200404"]}
NODATA = 65535


@dataclass(frozen=True)
class Made:
    """The folder and what was written into it, by sensor and sample."""

    folder: Path
    truth: Mapping[str, Mapping[str, np.ndarray]]
    values: dict[str, Any]

    def open(self, **changes: Any) -> SceneDataset:
        from geomaestro.config import merge

        return open_files(self.folder, **merge(self.values, changes))

    def refused(self, index: int = 0, **changes: Any) -> str:
        with pytest.raises(GeomaestroError) as caught:
            self.open(**changes).read(index)
        return str(caught.value)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """a has 4 dates of s2 and 2 of s1; b one of s2, no s1; c 2 of s2 and 3 of s1. All have an aerial image."""
    s2, s1, aerial, clouds = {}, {}, {}, {}
    for seed, (name, days) in enumerate(DAYS.items()):
        s2[name] = numbers(len(days), 3, PX, PX, seed=seed)
        clouds[name] = np.zeros((len(days), 1, PX // 2, PX // 2), np.uint8)
        aerial[name] = numbers(3, 16, 16, dtype=np.uint8, seed=seed)
        for day, image, cloud in zip(days, s2[name], clouds[name], strict=True):
            write_tif(tmp_path / f"s2/{name}_{day}.tif", image)
            write_tif(tmp_path / f"clouds/{name}_{day}.tif", cloud, gsd=20)
        write_tif(tmp_path / f"aerial/{name}.tif", aerial[name], gsd=5, corner=(WEST, NORTH))
    for name, days in (("a", ["20200106", "20200710"]), ("c", ["20200106", "20200506", "20200710"])):
        s1[name] = numbers(len(days), 2, 4, 4, dtype=np.float32)
        for day, image in zip(days, s1[name], strict=True):
            write_tif(tmp_path / f"s1/S1A_{name}_{day}T1730.tif", image, gsd=20)
    rows = [{"id": name, "crop": crop, "yield": y} for name, crop, y in zip("abc", "123", (1.5, 2.5, ""), strict=True)]
    write_csv(tmp_path / "table.csv", rows)
    flags = {"path": "clouds/{id}_{date}.tif", "values": [3, 8]}
    values = {
        "reference_date": "s2",
        "sensors": {
            "s2": sensor("s2/{id}_{date}.tif", 3, PX, 4, dates={"field": "date"}, clouds=flags, nodata=NODATA),
            "s1": sensor("s1/S1A_{id}_{date}.tif", 2, 4, 3, dates={"field": "date"}, optional=True, gsd_m=20),
            "aerial": sensor("aerial/{id}.tif", 3, 16, dates={"fixed": "2019-07-01"}, gsd_m=5),
        },
    }
    return Made(tmp_path, {"s2": s2, "s1": s1, "aerial": aerial}, values)


# ---- what is read ----


def test_images_and_dates_are_those_of_the_files_and_the_rest_is_absent(made: Made) -> None:
    dataset = made.open()
    assert dataset.ids() == ["a", "b", "c"] and dataset.draws
    for index, name in enumerate(dataset.ids()):
        sample = dataset.read(index)
        for key, truth in made.truth.items():
            x = truth.get(name, np.zeros((0, 1, 1, 1)))
            x = x[None] if key == "aerial" else x
            assert (sample.images[key][: len(x)] == x).all() and not sample.images[key][len(x) :].any()
            there = np.arange(len(sample.present[key])) < len(x)
            assert (sample.present[key] == there).all()
            assert (sample.valid[key] == there[:, None, None]).all()
        assert sample.images["s1"].shape == (3, 2, 4, 4) and sample.images["s2"].dtype == np.uint16
        assert (sample.reference_date == sample.dates["s2"][0]).all()
    assert dataset.read(0).dates["s2"][:, 1].tolist() == [5, 41, 167, 245]
    assert dataset.read(0).dates["s1"].tolist() == [[2020, 6, 0], [2020, 192, 0], [0, 0, 0]]
    assert dataset.read(0).dates["aerial"].tolist() == [[2019, 182, 0]]
    hours = made.open(sensors={"s1": {"dates": {"hours": True}}})
    assert hours.read(0).dates["s1"][:2, 2].tolist() == [17, 17]


def test_nodata_in_any_band_nan_and_alpha_are_invalid_and_nothing_else(made: Made) -> None:
    s2, s1 = made.truth["s2"]["b"][0].copy(), made.truth["s1"]["c"].copy()
    s2[1, 2, 3] = s2[2, 7, 7] = NODATA
    s1[1, 0, 3, 0], s1[2, 1, 1, 1] = np.nan, np.inf
    write_tif(made.folder / "s2/b_20200303.tif", s2)
    for day, image in zip(("20200106", "20200506", "20200710"), s1, strict=True):
        write_tif(made.folder / f"s1/S1A_c_{day}T1730.tif", image, gsd=20)
    alpha = np.full((1, 16, 16), 255, np.uint8)
    alpha[0, :3] = 0
    with_alpha = np.concatenate([made.truth["aerial"]["b"], alpha])
    write_tif(made.folder / "aerial/b.tif", with_alpha, gsd=5, alpha=True)
    dataset = made.open(sensors={"aerial": {"pick": [0, 1, 2]}})
    b, c = dataset.read(1), dataset.read(2)
    assert np.argwhere(~b.valid["s2"][:1]).tolist() == [[0, 2, 3], [0, 7, 7]]
    assert np.argwhere(~c.valid["s1"]).tolist() == [[1, 3, 0], [2, 1, 1]]
    assert np.argwhere(~b.valid["aerial"]).tolist() == np.argwhere(alpha == 0).tolist()
    assert c.valid["aerial"].all() and c.valid["s2"][:2].all()


def test_pixels_told_invalid_by_another_raster_are_not_measured(made: Made) -> None:
    for day in DAYS["a"]:
        write_tif(made.folder / f"gaps/a_{day}.tif", np.zeros((1, PX, PX), np.uint8))
    gap = np.zeros((1, PX, PX), np.uint8)
    gap[0, 1, 2] = 9
    write_tif(made.folder / f"gaps/a_{DAYS['a'][2]}.tif", gap)
    told = {"path": "gaps/{id}_{date}.tif", "above": 8}
    sample = made.open(sensors={"s2": {"invalid": told}}).read(0)
    assert np.argwhere(~sample.valid["s2"]).tolist() == [[2, 1, 2]]


# ---- clouds ----


def cloudy(made: Made, *dates: int, code: int = 3) -> None:
    """Put a cloud over one coarse pixel of some dates of sample a."""
    for date in dates:
        cloud = np.zeros((1, PX // 2, PX // 2), np.uint8)
        cloud[0, 1, 2] = code
        write_tif(made.folder / f"clouds/a_{DAYS['a'][date]}.tif", cloud, gsd=20)


def chosen(made: Made, bins: int = 2) -> list[int]:
    sample = made.open(sensors={"s2": {"input": {"dates": bins}}}).read(0)
    images = made.truth["s2"]["a"]
    return [int(np.flatnonzero((images == x).all(axis=(1, 2, 3)))[0]) for x in sample.images["s2"]]


@pytest.mark.parametrize("clear", [0, 1])
def test_cloudy_dates_are_chosen_last(made: Made, clear: int) -> None:
    cloudy(made, 1 - clear, 2 + clear)
    assert chosen(made) == [clear, 3 - clear]
    cloudy(made, 1 - clear, 2 + clear, code=5)  # no cloud by the spec
    plain = chosen(made)
    cloudy(made, 0, 1, 2, 3, code=8)  # a bin of clouds alone is chosen of as if there were none
    assert chosen(made) == plain


def test_coarse_clouds_cover_the_pixels_under_them(made: Made) -> None:
    cloudy(made, 1)
    scenes = made.open().scenes
    assert isinstance(scenes, FileScenes)
    with scenes.scene(0) as scene:
        from geomaestro.data.scenes import CLOUDY
        from geomaestro.grid import Window

        state = scene.series["s2"].state(Window(0, 0, PX, PX))
        assert state is not None
        expected = np.zeros((4, PX, PX), bool)
        expected[1, 2:4, 4:6] = True
        assert ((state == CLOUDY) == expected).all()
        assert scene.series["s2"].state(Window(0, 0, PX, PX), clouds=False) is None
        assert scene.series["s2"].state(Window(4, 0, 2, PX)) is None


def test_clouds_go_with_their_images_where_images_are_padded_or_resampled(made: Made) -> None:
    cloudy(made, 1)
    from geomaestro.data.scenes import CLOUDY
    from geomaestro.grid import Window

    for fit, size, rows, cols in (("pad", 12, slice(4, 6), slice(6, 8)), ("bilinear", 16, slice(4, 8), slice(8, 12))):
        with made.open(sensors={"s2": {"fit": fit, "input": {"size_px": size}}}).scenes.scene(0) as scene:
            state = scene.series["s2"].state(Window(0, 0, size, size))
            expected = np.zeros((4, size, size), bool)
            expected[1, rows, cols] = True
            assert state is not None and ((state & CLOUDY > 0) == expected).all(), fit


def test_clouds_of_another_size_are_refused(made: Made) -> None:
    path = made.folder / "clouds/a_20200105.tif"
    for size in ((5, 5), (4, 8)):
        for day in DAYS["a"]:
            write_tif(made.folder / f"clouds/a_{day}.tif", np.zeros((1, *size), np.uint8))
        assert made.refused() == (
            f"{path}: is {size[0]} x {size[1]} pixels, which does not divide the 8 x 8 of its images"
        )


def test_clouds_of_other_dates_are_refused(made: Made) -> None:
    old, new = made.folder / "clouds/a_20200210.tif", made.folder / "clouds/a_20200211.tif"
    old.rename(new)
    assert made.refused() == (
        f"{made.folder / 'clouds/a_20200105.tif'}: the dates of its 4 files are not those of the 4 images"
    )
    new.unlink()
    assert "the dates of its 3 files are not those of the 4 images" in made.refused()


def test_dates_ascend_whatever_the_names_sort_by_and_clouds_follow(tmp_path: Path) -> None:
    names = ["S2A_20200301", "S2B_20200101", "S2A_20200501", "S2B_20200201"]
    images = numbers(4, 2, PX, PX)
    for number, (name, image) in enumerate(zip(names, images, strict=True)):
        write_tif(tmp_path / f"s2/a_{name}.tif", image)
        write_tif(tmp_path / f"clouds/a_{name}.tif", np.full((1, PX, PX), number, np.uint8))
    write_csv(tmp_path / "table.csv", [{"id": "a"}])
    entry = sensor("s2/{id}_{name}.tif", 2, PX, 2, dates={"field": "name", "part": 1})
    entry["clouds"] = {"path": "clouds/{id}_{name}.tif", "values": [1, 2]}  # cloudy: January and May
    sample = open_files(tmp_path, sensors={"s2": entry}, reference_date="s2").read(0)
    assert sample.reference_date.tolist() == [2020, 1, 0]
    assert sample.dates["s2"][:, 1].tolist() == [32, 61] and (sample.images["s2"] == images[[3, 0]]).all()


# ---- files that are not there ----


def test_a_missing_file_is_refused_unless_its_sensor_is_optional(made: Made) -> None:
    (made.folder / "aerial/b.tif").unlink()
    assert made.refused(1) == f"{made.folder / 'aerial/b.tif'}: no such file"
    sample = made.open(sensors={"aerial": {"optional": True}}).read(1)
    assert not sample.present["aerial"].any() and sample.present["s2"][0]


def test_a_sensor_without_any_file_of_a_sample_is_refused_by_the_name_of_the_sample(made: Made) -> None:
    assert made.refused(1, sensors={"s1": {"optional": False}}) == (
        f"{made.folder}: sample 'b': s1/S1A_{{id}}_{{date}}.tif: no such file"
    )


def test_a_sample_without_any_sensor_is_refused_by_name(made: Made) -> None:
    values = {"sensors": {name: {"optional": True} for name in made.values["sensors"]}, "reference_date": [2020, 1, 0]}
    for path in made.folder.rglob("b*.tif"):
        path.unlink()
    assert made.refused(1, **values) == f"{made.folder}: sample 'b' has none of the sensors of its spec"


def test_an_absent_reference_sensor_is_refused_by_name(made: Made) -> None:
    (made.folder / "s2/b_20200303.tif").unlink()
    text = made.refused(1, sensors={"s2": {"optional": True}})
    assert text == (
        f"{made.folder}: sample 'b' has no date of 's2', which `reference_date` names; name a sensor that all samples "
        "have, or a date"
    )


def test_a_place_with_one_date_does_not_hand_it_to_other_sensors(made: Made) -> None:
    """Scanned by s2, b has one date; its s1 images have others."""
    write_tif(made.folder / "s1/S1A_b_20201231T1730.tif", numbers(2, 4, 4, dtype=np.float32), gsd=20)
    (made.folder / "table.csv").unlink()
    sample = made.open(samples={"table": None, "scan": "s2/{id}_{date}.tif"}).read(1)
    assert sample.id == "b" and sample.dates["s1"][0].tolist() == [2020, 366, 0]


# ---- dates, however they are written ----


@pytest.mark.parametrize(
    "how",
    [
        {"column": "days"},
        {"file": "days/{id}.txt", "part": 1},
        {"array": "time"},
        {"array": "names", "part": 1},
    ],
    ids=["column", "file", "time axis", "names"],
)
def test_dates_of_a_stack_are_found_where_they_are_written(tmp_path: Path, how: dict[str, Any]) -> None:
    import h5py

    days = ["20200105", "20200210", "20200615"]
    names = [f"S2A_{day}_T32" for day in days]
    write_csv(tmp_path / "table.csv", [{"id": "a", "days": json.dumps({str(i): d for i, d in enumerate(days)})}])
    (tmp_path / "days").mkdir()
    (tmp_path / "days/a.txt").write_text("\n".join(names))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = numbers(3, 2, PX, PX)
        file["time"] = np.asarray([4, 40, 166])
        file["time"].attrs["units"] = "days since 2020-01-01"
        file["names"] = names
    entry = sensor("{id}.h5", 2, PX, 3, array="x", dates=how)
    sample = open_files(tmp_path, sensors={"s2": entry}).read(0)
    assert sample.dates["s2"].tolist() == [[2020, 5, 0], [2020, 41, 0], [2020, 167, 0]]


def test_a_file_of_dates_that_is_not_there_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers(1, 2, PX, PX))
    for how, said in (
        ("days_{id}.txt", f"{tmp_path / 'days_a.txt'}: no such file"),
        ("days_{id}_*.txt", f"{tmp_path / 'a.npy'}: 0 files fit 'days_{{id}}_*.txt', which holds its dates; one is "),
    ):
        with pytest.raises(GeomaestroError) as caught:
            open_files(tmp_path, sensors={"s2": sensor("{id}.npy", dates={"file": how})}).read(0)
        assert str(caught.value).startswith(said)


# ---- one extent on the ground ----


def coordinates(height: int, width: int, gsd: float, west: float, north: float) -> np.ndarray:
    """x and y (2 h w) in metres from the corner, of the middles of pixels."""
    rows, cols = np.mgrid[:height, :width] + 0.5
    return np.stack([west - WEST + gsd * cols, NORTH - north + gsd * rows]).astype(np.float32)


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """Two sensors whose pixels hold their own place, and a map of labels, on three grids."""
    write_tif(tmp_path / "s2/a.tif", coordinates(12, 12, 10, WEST, NORTH))
    west, north = WEST - 57, NORTH + 38
    write_tif(tmp_path / "air/a.tif", coordinates(100, 120, 2.5, west, north), gsd=2.5, corner=(west, north))
    x, _ = coordinates(60, 60, 5, WEST - 90, NORTH + 90)
    write_tif(tmp_path / "map/a.tif", (x[None] > 60).astype(np.uint8), gsd=5, corner=(WEST - 90, NORTH + 90))
    write_csv(tmp_path / "table.csv", [{"id": "a"}])
    return tmp_path


def on_ground(**changes: Any) -> dict[str, Any]:
    pixels = {"kind": "pixels", "classes": ["west", "east"], "source": {"path": "map/{id}.tif"}, "to_px": [24, 24]}
    return {
        "ground": {"sensor": "s2"},
        "samples": {"table": "table.csv", "place": "s2"},
        "sensors": {
            "s2": sensor("s2/{id}.tif", 2, 12),
            "air": sensor("air/{id}.tif", 2, 48, fit="bilinear", gsd_m=2.5),
        },
        "targets": {"side": pixels},
        **changes,
    }


def test_sensors_and_labels_show_one_extent_on_the_ground(apart: Path) -> None:
    dataset = open_files(apart, **on_ground())
    sample = dataset.read(0)
    assert (sample.images["s2"][0] == coordinates(12, 12, 10, WEST, NORTH)).all()
    assert np.abs(sample.images["air"][0] - coordinates(48, 48, 2.5, WEST, NORTH)).max() < 0.01
    assert sample.valid["air"].all()
    truth = coordinates(24, 24, 5, WEST, NORTH)[0] > 60
    assert (sample.labels["side"] == truth).all() and (dataset.labels("side")[0] == truth).all()


def test_a_square_about_the_middle_of_a_sensor_is_taken(apart: Path) -> None:
    values = on_ground(ground={"sensor": "s2", "size_m": 60})
    values["sensors"]["s2"] = sensor("s2/{id}.tif", 2, 6, fit="nearest")
    sample = open_files(apart, **values).read(0)
    assert (sample.images["s2"][0] == coordinates(6, 6, 10, WEST + 30, NORTH - 30)).all()
    assert np.abs(sample.images["air"][0] - coordinates(48, 48, 1.25, WEST + 30, NORTH - 30)).max() < 0.01
    assert (sample.labels["side"] == (coordinates(24, 24, 2.5, WEST + 30, NORTH - 30)[0] > 60)).all()


def test_what_a_sensor_does_not_cover_is_not_measured(apart: Path) -> None:
    write_tif(apart / "air/a.tif", coordinates(48, 48, 2.5, WEST + 60, NORTH), gsd=2.5, corner=(WEST + 60, NORTH))
    valid = open_files(apart, **on_ground()).read(0).valid["air"][0]
    assert valid[:, 24:].all() and not valid[:, :24].any()


def test_files_that_cannot_be_brought_to_one_extent_are_refused_by_name(apart: Path) -> None:
    def refused(**changes: Any) -> str:
        with pytest.raises(GeomaestroError) as caught:
            open_files(apart, **on_ground(**changes)).read(0)
        return str(caught.value)

    values = on_ground()["sensors"]
    text = refused(sensors={**values, "air": {**values["air"], "fit": "none"}})
    assert text.startswith(f"{apart / 'air/a.tif'}: lies on another grid (100 x 120 pixels in EPSG:32632")
    write_tif(apart / "air/a.tif", numbers(2, 9, 9), gsd=2.5, corner=(WEST + 5000, NORTH))
    assert refused().startswith(f"{apart / 'air/a.tif'}: does not overlap the extent of its sample")
    write_tif(apart / "air/a.tif", numbers(2, 9, 9), corner=None)
    assert refused().startswith(f"{apart / 'air/a.tif'}: has no georeference, but `ground` of its spec needs one")
    write_tif(apart / "s2/a.tif", numbers(2, 12, 12), corner=None)
    assert refused() == (
        f"{apart / 's2/a.tif'}: has no georeference, but `ground` of its spec needs one; leave `ground` out"
    )
    with pytest.raises(SpecError, match=r"sensors\.s2: `ground` and `crop` need `to_px`"):
        spec_of(**on_ground(crop={"size_m": 60, "tile_m": 120, "cover": 2}))


def test_a_sensor_that_is_left_out_still_tells_extent_place_and_date(apart: Path) -> None:
    values = on_ground()
    values["sensors"]["s2"]["dates"] = {"fixed": "2020-06-15"}
    values["reference_date"] = "s2"
    both = open_files(apart, **values).read(0)
    values["left_out"] = {"s2": values["sensors"].pop("s2")}
    values["targets"]["side"]["reference_sensor"] = "s2"
    alone = open_files(apart, **values).read(0)
    assert list(alone.images) == ["air"] and (alone.images["air"] == both.images["air"]).all()
    assert alone.place == both.place is not None and (alone.reference_date == both.reference_date).all()
    assert alone.reference_date.tolist() == [2020, 167, 0]


def test_the_place_is_that_of_the_file_however_its_images_are_fitted(apart: Path) -> None:
    from rasterio.warp import transform

    lon, lat = transform("EPSG:32632", "EPSG:4326", [WEST + 60], [NORTH - 60])
    for fit, size in (("none", 12), ("bilinear", 20), ("pad", 20)):
        values = on_ground(sensors={"s2": sensor("s2/{id}.tif", 2, size, fit=fit)}, ground=None, targets={})
        assert open_files(apart, **values).read(0).place == pytest.approx((lon[0], lat[0]), abs=1e-9)


# ---- labels ----


def target(kind: str, **changes: Any) -> dict[str, Any]:
    return {"kind": kind, "classes": ["wheat", "maize", "grass"], **changes}


def test_labels_of_columns_are_classes_by_name_or_code(made: Made) -> None:
    codes = {1: "wheat", 2: "maize", 3: "grass"}
    dataset = made.open(targets={"crop": target("classes", column="crop", codes=codes)})
    assert dataset.labels("crop").tolist() == [0, 1, 2] and dataset.read(1).labels["crop"] == 1
    few = {1: "wheat", 3: "grass"}
    text = made.refused(targets={"crop": {"kind": "classes", "column": "crop", "codes": few}})
    assert "sample 'b' has the label '2', which is none of the 2 classes of target 'crop'" in text
    for way in ({"others": "ignore"}, {"ignore_codes": [2]}):
        entry = {"kind": "classes", "column": "crop", "codes": few, "ignore": 255, **way}
        assert made.open(targets={"crop": entry}).labels("crop").tolist() == [0, 255, 1]


def test_a_missing_number_is_nan_where_it_may_be(made: Made) -> None:
    entry = {"kind": "regression", "classes": ["yield"], "column": "yield"}
    assert "sample 'c': '' of yield is not a number" in made.refused(targets={"y": entry})
    labels = made.open(targets={"y": {**entry, "optional": True}}).labels("y")
    np.testing.assert_array_equal(labels, np.asarray([[1.5], [2.5], [np.nan]], np.float32))


def test_several_classes_of_a_cell_become_ones(made: Made) -> None:
    rows = [{"id": name, "all": text} for name, text in zip("abc", ("wheat; grass", "", "maize,wheat"), strict=True)]
    write_csv(made.folder / "table.csv", rows)
    labels = made.open(targets={"all": target("multilabel", column="all")}).labels("all")
    assert labels.tolist() == [[1, 0, 1], [0, 0, 0], [1, 1, 0]]


def maps(made: Made, names: str = "abc") -> dict[str, np.ndarray]:
    codes = np.asarray([10, 20, 30, 99], np.uint8)
    out = {name: codes[np.random.default_rng(i).integers(0, 4, (PX, PX))] for i, name in enumerate(names)}
    for name, values in out.items():
        write_tif(made.folder / f"map/{name}.tif", values[None])
    return out


MAP = {"kind": "pixels", "codes": {10: "wheat", 20: "maize", 30: "grass"}, "source": {"path": "map/{id}.tif"}}


def test_maps_of_codes_are_classes_and_other_codes_are_refused_or_ignored(made: Made) -> None:
    truth = maps(made)
    assert made.refused(targets={"map": MAP}).startswith(f"{made.folder / 'map/a.tif'}: ")
    assert "has the label 99, which is none of the 3 classes of target 'map'" in made.refused(targets={"map": MAP})
    for way in ({"others": "ignore"}, {"ignore_codes": [99]}):
        sample = made.open(targets={"map": {**MAP, "ignore": 255, **way}}).read(0)
        expected = np.select([truth["a"] == code for code in (10, 20, 30)], [0, 1, 2], 255)
        assert (sample.labels["map"] == expected).all() and sample.labels["map"].dtype == np.int64


def test_a_map_that_is_not_there_is_ignored_where_it_may_be(made: Made) -> None:
    maps(made, "ac")
    entry = {**MAP, "others": "ignore", "reference_sensor": "s2"}
    assert made.refused(1, targets={"map": entry}) == f"{made.folder / 'map/b.tif'}: no such file"
    labels = made.open(targets={"map": {**entry, "optional": True}}).labels("map")
    assert labels.shape == (3, PX, PX) and (labels[1] == -1).all() and (labels[0] != -1).any()


def test_a_map_of_several_bands_needs_a_pick(made: Made) -> None:
    for name in "abc":
        write_tif(made.folder / f"map/{name}.tif", np.stack([np.full((PX, PX), v, np.uint8) for v in (10, 20)]))
    text = made.refused(targets={"map": MAP})
    assert text.startswith(f"{made.folder / 'map/a.tif'}: a map of labels has one band, this has ")
    assert text.endswith("set `pick`")
    entry = {**MAP, "source": {"path": "map/{id}.tif", "pick": [1]}}
    assert (made.open(targets={"map": entry}).read(0).labels["map"] == 1).all()


def test_pictures_of_any_kind_make_a_sensor(made: Made) -> None:
    for name in "abc":
        write_picture(made.folder / f"pictures/{name}.png", made.truth["aerial"][name], "PNG")
    sample = made.open(sensors={"aerial": {"path": "pictures/{id}.png"}}).read(2)
    assert (sample.images["aerial"][0] == made.truth["aerial"]["c"]).all()
