"""Samples in arrays: HDF5, npz and Zarr give the same; what is wrong with a file is said by name.

Axes: n sample, t date, c band, h row, w column.
"""

import datetime
import io
import itertools
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomaestro.config import check
from geomaestro.data import arrays as module
from geomaestro.data.opening import open_dataset
from geomaestro.data.reading import Visit
from geomaestro.data.sampling import SceneDataset
from geomaestro.data.spec import ArraySpec
from geomaestro.errors import DataError, GeomaestroError, SpecError
from tests.worlds import CODES, DATES, NODATA, SPLITS, series_arrays, series_values, write_h5

ALL = tuple(SPLITS)


def opened(folder: Path, arrays: Mapping[str, np.ndarray] | None = None, **changes: Any) -> SceneDataset:
    """The dataset of these arrays, written as HDF5 unless `changes` name a file that is there."""
    if "file" not in changes:
        write_h5(folder / "series.h5", series_arrays() if arrays is None else arrays)
    return open_dataset(check(ArraySpec, series_values(**changes), "made"), folder, ALL)


def refused(folder: Path, arrays: Mapping[str, np.ndarray] | None = None, **changes: Any) -> str:
    with pytest.raises(GeomaestroError) as caught:
        opened(folder, arrays, **changes)
    return str(caught.value)


def image_entry(axes: tuple[str, ...]) -> dict[str, Any]:
    size = {"size_px": [3, 4], "patch_px": 1, "dates": 2}
    return {"array": "image", "axes": list(axes), "bands": ["a", "b", "c", "d", "e"], "gsd_m": 10, "input": size}


# ---- values ----


@pytest.mark.parametrize("axes", list(itertools.permutations(("date", "band", "row", "col"))))
def test_axes_in_any_order_give_the_same_sample(tmp_path: Path, axes: tuple[str, ...]) -> None:
    count = sum(SPLITS.values())
    truth = np.arange(count * 2 * 5 * 3 * 4, dtype=np.float32).reshape(count, 2, 5, 3, 4)  # n t c h w
    order = [1 + ("date", "band", "row", "col").index(axis) for axis in axes]
    arrays = {**series_arrays(), "image": truth.transpose(0, *order)}
    dataset = opened(tmp_path, arrays, sensors={"image": image_entry(axes)})
    assert (dataset.read(7).images["image"] == truth[7]).all()


def test_axes_that_are_not_there_have_one_entry(tmp_path: Path) -> None:
    arrays = series_arrays()
    dataset = opened(tmp_path, arrays)
    sample = dataset.read(2)
    assert (sample.images["dem"] == arrays["dem"][2].reshape(1, 2, 1, 1)).all()
    there = np.arange(DATES)[:, None] < arrays["length"][2]
    assert (sample.images["s2"][..., 0, 0] == np.where(there, arrays["s2"][2], 0)).all()
    assert sample.images["s2"].shape == (DATES, 3, 1, 1) and sample.images["s2"].dtype == np.uint16
    assert np.array_equal(sample.images["s1"][..., 0, 0], np.where(there, arrays["s1"][2].T, 0), equal_nan=True)
    assert arrays["length"][2] < DATES  # or the test says nothing of absent dates


def test_nodata_nan_and_absent_dates_are_invalid_and_nothing_else(tmp_path: Path) -> None:
    arrays = series_arrays()
    arrays["s2"][0, 1, 2] = NODATA  # one band is enough
    arrays["s1"][0, 1, 2] = np.nan
    dataset = opened(tmp_path, arrays)
    for i in range(len(dataset)):
        sample = dataset.read(i)
        there = np.arange(DATES) < arrays["length"][i]
        assert (sample.present["s2"] == there).all() and (sample.present["s1"] == there).all()
        known = there & (arrays["s2"][i] != NODATA).all(axis=1)
        assert (sample.valid["s2"][:, 0, 0] == known).all()
        assert (sample.valid["s1"][:, 0, 0] == (there & np.isfinite(arrays["s1"][i]).all(axis=0))).all()
        assert sample.present["dem"].all() and sample.valid["dem"].all()  # a single date has no length


def test_infinite_values_are_invalid(tmp_path: Path) -> None:
    arrays = series_arrays()
    arrays["dem"][4, 1] = np.inf
    assert not opened(tmp_path, arrays).read(4).valid["dem"].any()


def test_dates_are_year_and_day_of_year_and_zero_where_absent(tmp_path: Path) -> None:
    arrays = series_arrays()
    arrays["month"][9] = [1, 2, 3, 12, 0, 77]
    arrays["length"][9] = DATES
    days = opened(tmp_path, arrays).read(9).dates["s2"]
    assert days.tolist() == [[2020, 15, 0], [2020, 46, 0], [2020, 75, 0], [2020, 350, 0], [0, 0, 0], [0, 0, 0]]


def test_a_day_array_is_used_and_dates_may_be_the_reference(tmp_path: Path) -> None:
    arrays = {**series_arrays(), "day": np.full((60, DATES), 28)}
    sample = opened(tmp_path, arrays, dates={"day": "day"}, reference_date="s2").read(0)
    assert sample.dates["s2"][0].tolist() == [2020, 31 + 29 + 28, 0] == sample.reference_date.tolist()
    assert sample.dates["dem"].tolist() == [sample.reference_date.tolist()]


def test_fewer_dates_than_the_model_takes_are_padded_as_absent(tmp_path: Path) -> None:
    sample = opened(tmp_path, sensors={"s2": {"input": {"dates": 9}}}).read(0)
    assert sample.images["s2"].shape == (9, 3, 1, 1) and sample.dates["s2"].shape == (9, 3)
    assert not sample.present["s2"][DATES:].any() and not sample.valid["s2"][DATES:].any()


def test_splits_come_as_they_are_asked_for_and_places_and_names_follow_the_file(tmp_path: Path) -> None:
    arrays = series_arrays()
    write_h5(tmp_path / "series.h5", arrays)
    spec = check(ArraySpec, series_values(), "made")
    dataset = open_dataset(spec, tmp_path, ("test", "val"))
    assert dataset.ids() == [f"field {i}" for i in (*range(45, 60), *range(30, 45))]  # split by split
    assert dataset.read(0).place == (pytest.approx(arrays["lon"][45]), pytest.approx(arrays["lat"][45]))
    assert dataset.read(3).id == "field 48"


def test_without_split_and_id_every_row_is_a_sample_named_by_its_number(tmp_path: Path) -> None:
    dataset = opened(tmp_path, split=None, id=None, place=None)
    assert dataset.ids() == [str(i) for i in range(60)] and dataset.read(0).place is None


def test_variable_length_text_keeps_its_letters(tmp_path: Path) -> None:
    import h5py

    arrays = series_arrays()
    names = [f"Äcker {i}" for i in range(60)]
    write_h5(tmp_path / "texts.h5", {name: x for name, x in arrays.items() if name not in ("name", "split")})
    with h5py.File(tmp_path / "texts.h5", "a") as file:
        file.create_dataset("name", data=names, dtype=h5py.string_dtype())
        file.create_dataset("split", data=arrays["split"].astype(str).tolist(), dtype=h5py.string_dtype())
    dataset = opened(tmp_path, file="texts.h5")
    assert dataset.ids() == names


def test_a_visit_flips_images_and_leaves_series_alone(tmp_path: Path) -> None:
    truth = np.random.default_rng(0).random((60, 2, 5, 3, 4)).astype(np.float32)
    changes = {"sensors": {"image": image_entry(("date", "band", "row", "col"))}}
    dataset = opened(tmp_path, {**series_arrays(), "image": truth}, **changes)
    assert dataset.draws and not opened(tmp_path).draws
    seen = set()
    for epoch in range(40):
        sample = dataset.read(0, Visit(0, epoch, 0))
        options = {"plain": truth[0], "up": truth[0, ..., ::-1, :], "left": truth[0, ..., ::-1]}
        options["both"] = options["up"][..., ::-1]
        seen |= {name for name, x in options.items() if np.array_equal(sample.images["image"], x)}
        assert np.array_equal(sample.images["s2"], dataset.read(0).images["s2"])
    assert seen == {"plain", "up", "left", "both"}


# ---- labels ----


def test_codes_become_classes_and_numbers_stay(tmp_path: Path) -> None:
    arrays = series_arrays()
    dataset = opened(tmp_path, arrays)
    assert (np.asarray(CODES)[dataset.labels("crop")] == arrays["crop"]).all()
    assert (dataset.labels("height") == arrays["height"][:, None]).all()
    assert dataset.read(8).labels["crop"] == dataset.labels("crop")[8]


def test_an_unknown_code_names_file_sample_label_and_remedy(tmp_path: Path) -> None:
    arrays = series_arrays()
    arrays["crop"][17] = 99
    assert refused(tmp_path, arrays) == (
        f"{tmp_path / 'series.h5'}: sample 'field 17' has the label 99, which is none of the 3 classes "
        "of target 'crop'; add it to `targets.crop`, or ignore it there"
    )


def test_other_codes_can_be_left_without_a_label(tmp_path: Path) -> None:
    arrays = series_arrays()
    arrays["crop"][17] = 99
    labels = opened(tmp_path, arrays, targets={"crop": {"others": "ignore"}}).labels("crop")
    assert np.flatnonzero(labels == -1).tolist() == [17]


def test_class_numbers_outside_the_classes_are_refused_but_the_ignored_one(tmp_path: Path) -> None:
    arrays = series_arrays()
    arrays["plain"] = arrays["crop"] // 10 - 1
    arrays["plain"][4] = -1
    plain = {"kind": "classes", "array": "plain", "classes": ["wheat", "maize", "grass"]}
    assert opened(tmp_path, arrays, targets={"plain": plain}).labels("plain")[4] == -1
    arrays["plain"][4] = 3
    assert "sample 'field 4' has the label 3, which is none of the 3 classes" in refused(
        tmp_path, arrays, targets={"plain": plain}
    )


# ---- files ----


def as_npz(folder: Path, arrays: Mapping[str, np.ndarray]) -> str:
    np.savez(folder / "series.npz", **{k: v.astype(str) if v.dtype.kind == "S" else v for k, v in arrays.items()})  # type: ignore[arg-type]
    return "series.npz"


def as_zarr(folder: Path, arrays: Mapping[str, np.ndarray]) -> str:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(folder / "series.zarr"), mode="w")
    for name, values in arrays.items():
        if values.dtype.kind != "S":
            group.create_array(name, data=values)
    return "series.zarr"


@pytest.mark.parametrize("written", [as_npz, as_zarr])
def test_npz_and_zarr_give_the_samples_of_hdf5(tmp_path: Path, written: Any) -> None:
    truth = opened(tmp_path, id=None, split=None)
    dataset = opened(tmp_path, file=written(tmp_path, series_arrays()), id=None, split=None)
    for i in (0, 3, 5, 59):
        ours, theirs = dataset.read(i), truth.read(i)
        for key in ("images", "dates", "present", "valid", "labels"):
            for name, x in getattr(theirs, key).items():
                assert np.array_equal(getattr(ours, key)[name], x, equal_nan=x.dtype.kind == "f"), (key, name)


def test_a_missing_file_says_where_it_is_looked_for(tmp_path: Path) -> None:
    assert refused(tmp_path, file="other.h5") == (
        f"{tmp_path / 'other.h5'}: no such file; correct `file` and `directory` of the dataset spec, "
        "or `data.root` of the recipe"
    )


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "series.csv").write_text("1")
    assert refused(tmp_path, file="series.csv") == (
        f"{tmp_path / 'series.csv'}: arrays are read from .h5, .hdf5, .npz and .zarr, not .csv"
    )


@pytest.mark.parametrize("keep", [0, 0.2, 0.9])
def test_a_truncated_h5_is_named(tmp_path: Path, keep: float) -> None:
    write_h5(tmp_path / "whole.h5", series_arrays())
    content = (tmp_path / "whole.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: int(keep * len(content))])
    text = refused(tmp_path, file="cut.h5")
    assert text.startswith(f"{tmp_path / 'cut.h5'}: unreadable") and "truncated" in text


@pytest.mark.parametrize("keep", [0, 0.2, 0.9])
def test_a_truncated_npz_is_named(tmp_path: Path, keep: float) -> None:
    content = (tmp_path / as_npz(tmp_path, series_arrays())).read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: int(keep * len(content))])
    assert refused(tmp_path, file="cut.npz").startswith(f"{tmp_path / 'cut.npz'}: not a readable npz file: ")


def test_a_damaged_member_of_an_npz_is_named(tmp_path: Path) -> None:
    path = tmp_path / as_npz(tmp_path, series_arrays())
    content = bytearray(path.read_bytes())
    content[content.index(b"s2.npy") + 300] ^= 0xFF
    path.write_bytes(bytes(content))
    assert refused(tmp_path, file="series.npz").startswith(f"{path}: not a readable npz file: ")


def test_objects_in_an_npz_are_never_unpacked(tmp_path: Path) -> None:
    arrays = {**series_arrays(), "dem": np.asarray([{"a": 1}] * 60, object)}
    np.savez(tmp_path / "objects.npz", **arrays)  # type: ignore[arg-type]
    assert "not a readable npz file: Object arrays cannot be loaded" in refused(tmp_path, file="objects.npz")


def test_a_damaged_zarr_is_named(tmp_path: Path) -> None:
    as_zarr(tmp_path, series_arrays())
    chunk = max((tmp_path / "series.zarr" / "s1" / "c").rglob("*"), key=lambda p: p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:20])
    text = refused(tmp_path, file="series.zarr", id=None, split=None)
    assert text.startswith(f"{tmp_path / 'series.zarr'}: ")


def test_a_folder_that_is_no_zarr_is_named(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    (tmp_path / "empty.zarr").mkdir()
    assert refused(tmp_path, file="empty.zarr").startswith(f"{tmp_path / 'empty.zarr'}: ")


def test_without_the_zarr_extra_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "series.zarr").mkdir()
    monkeypatch.setitem(sys.modules, "zarr", None)
    assert "pip install geomaestro[zarr]" in refused(tmp_path, file="series.zarr")


def test_a_missing_array_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    arrays = series_arrays()
    del arrays["s1"]
    held = ", ".join(sorted(arrays))
    assert refused(tmp_path, arrays) == f"{tmp_path / 'series.h5'}: has no array s1; it has {held}"


def test_arrays_of_different_numbers_of_samples_are_refused(tmp_path: Path) -> None:
    arrays = series_arrays()
    arrays["dem"] = arrays["dem"][:59]
    text = refused(tmp_path, arrays)
    assert "arrays differ in their number of samples" in text and "'dem': 59" in text and "'s2': 60" in text


def test_wrong_bands_and_wrong_axes_name_sensor_and_both_sides(tmp_path: Path) -> None:
    assert refused(tmp_path, sensors={"s2": {"bands": ["B02"]}}).startswith(
        f"{tmp_path / 'series.h5'}: sensor 's2' lists 1 bands, the file has 3"
    )
    assert refused(tmp_path, sensors={"s2": {"axes": ["date"]}}) == (
        f"{tmp_path / 'series.h5'}: sensor 's2': array 's2' has 2 axes after the sample, `axes` names 1 (date)"
    )


def test_more_dates_than_the_model_takes_name_the_sensor(tmp_path: Path) -> None:
    assert refused(tmp_path, sensors={"s2": {"input": {"dates": 4}}}, dates=None) == (
        f"{tmp_path / 'series.h5'}: sensor 's2' has 6 images for an input of 4 and no `dates` to choose by; say where "
        "they are written, or set its `input.dates` to at least that"
    )


def test_of_more_dates_than_the_model_takes_one_per_bin_is_chosen(tmp_path: Path) -> None:
    arrays = series_arrays()
    arrays["length"][:] = DATES
    dataset = opened(tmp_path, arrays, sensors={"s2": {"input": {"dates": 2}}})
    assert dataset.draws
    for i in range(20):
        plain = dataset.read(i)
        for sample in (plain, dataset.read(i, Visit(0, i, i))):
            for chosen, day, dates in zip(
                sample.images["s2"], sample.dates["s2"], (range(3), range(3, 6)), strict=True
            ):
                same = [d for d in dates if (arrays["s2"][i, d] == chosen[:, 0, 0]).all()]
                when = [datetime.date(2020, d + 3, 15).timetuple().tm_yday for d in same]
                assert day[1] in when, (i, chosen)
        for bin_of, chosen in zip((slice(0, 3), slice(3, 6)), plain.images["s2"], strict=True):
            known = (arrays["s2"][i, bin_of] != NODATA).all(axis=1)
            if known.any():
                x = arrays["s2"][i, bin_of][known].astype(float)
                distance = np.abs(x - np.median(x, axis=0)).mean(axis=1)
                assert (chosen[:, 0, 0] == x[distance.argmin()]).all()
        assert (plain.images["s1"] == dataset.read(i, Visit(0, 0, i)).images["s1"]).all() or i == 3


def test_a_missing_split_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    write_h5(tmp_path / "series.h5", series_arrays())
    with pytest.raises(DataError, match="no sample of split pretrain; the file has test, train, val"):
        open_dataset(check(ArraySpec, series_values(), "made"), tmp_path, ("pretrain", "train"))


def test_a_reference_sensor_needs_dates(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="fields: reference_date 's2' needs `dates`; give a date instead"):
        values = series_values(reference_date="s2") | {"dates": None}
        write_h5(tmp_path / "series.h5", series_arrays())
        open_dataset(check(ArraySpec, values, "made"), tmp_path, ALL)


def test_a_day_that_does_not_exist_is_refused_with_its_file(tmp_path: Path) -> None:
    arrays = {**series_arrays(), "day": np.full((60, DATES), 31)}  # April has 30 days
    assert refused(tmp_path, arrays, dates={"day": "day"}).startswith(f"{tmp_path / 'series.h5'}: ")


def test_a_hostile_declared_size_is_refused_before_memory_is_given(tmp_path: Path) -> None:
    import h5py

    arrays = series_arrays()
    del arrays["s2"]
    write_h5(tmp_path / "huge.h5", arrays)
    with h5py.File(tmp_path / "huge.h5", "a") as file:  # 8.6 TB on paper, 2 kB on disk
        file.create_dataset("s2", (60, DATES, 3, 4_000_000_000), np.uint16, chunks=(1, 1, 1, 1024))
    assert (tmp_path / "huge.h5").stat().st_size < 100_000
    text = refused(tmp_path, file="huge.h5")
    assert "declares 86400000" in text and f"more than the {module.MAX_BYTES} that are read into memory" in text


def test_a_hostile_npy_header_is_refused_before_memory_is_given(tmp_path: Path) -> None:
    arrays = series_arrays()
    del arrays["dem"]
    path = tmp_path / as_npz(tmp_path, arrays)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (60, 2, 10**13)}
    )  # 10 petabytes on paper
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("dem.npy", header.getvalue() + bytes(80))
    assert refused(tmp_path, file="series.npz").startswith(f"{path}: ")


def test_an_npz_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / as_npz(tmp_path, series_arrays())
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    text = refused(tmp_path, file="series.npz")
    assert text.startswith(f"{path}: ") and "more than the 1000 that are read into memory" in text
