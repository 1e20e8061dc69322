"""Files as in TreeSatAI-TS: read as they are, and refused by name where they are damaged.

Axes: t date, c band, h row, w column.
"""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio

from geomaestro.data.files.filespec import FilesSpec
from geomaestro.data.opening import open_dataset
from geomaestro.data.reading import Visit
from geomaestro.data.sampling import SceneDataset
from geomaestro.data.specs import load_spec
from geomaestro.errors import DataError, GeomaestroError
from tests.worlds import make_earth

SERIES = {"s2": "sen-2", "s1_asc": "sen-1-asc", "s1_des": "sen-1-des"}


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_earth(tmp_path_factory)


@pytest.fixture
def one(earth: Path, tmp_path: Path) -> Path:
    """A dataset whose training split has a single sample, free to be damaged."""
    table = (earth / "train.csv").read_text().splitlines()
    row = table[1].split(",")
    for folder, name in (("aerial", row[0]), ("sentinel-ts", row[1])):
        (tmp_path / folder).mkdir()
        shutil.copy(earth / folder / name, tmp_path / folder / name)
    (tmp_path / "train.csv").write_text("\n".join(table[:2]) + "\n")
    shutil.copy(earth / "dataset.yaml", tmp_path)
    return tmp_path


def opened(folder: Path, *overrides: str) -> SceneDataset:
    spec = load_spec(folder / "dataset.yaml", overrides)
    assert isinstance(spec, FilesSpec)
    return open_dataset(spec, folder, ("train",))


def refused(folder: Path, *overrides: str) -> str:
    with pytest.raises(GeomaestroError) as caught:
        opened(folder, *overrides).read(0)
    return str(caught.value)


def tif(folder: Path) -> Path:
    return next((folder / "aerial").iterdir())


def h5(folder: Path) -> Path:
    return next((folder / "sentinel-ts").iterdir())


def rewrite(path: Path, **change: Callable[[np.ndarray], Any]) -> None:
    """Replace datasets of an HDF5 file; underscores stand for the hyphens of their names."""
    with h5py.File(path, "a") as file:
        for key, make in change.items():
            name = key.replace("_", "-").replace("sen-1asc", "sen-1-asc")
            values = file[name][...]
            del file[name]
            text = h5py.string_dtype() if values.dtype == object else None
            file.create_dataset(name, data=make(values), dtype=text)


def edit_table(folder: Path, column: str, value: str | None) -> None:
    """Set a column of the only row; None removes the column."""
    with (folder / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if value is None:
            del row[column]
        else:
            row[column] = value
    with (folder / "train.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


# ---- what is read ----


def test_the_aerial_image_is_the_middle_of_its_file(one: Path) -> None:
    with rasterio.open(tif(one)) as file:
        truth = file.read()
    image = opened(one).read(0).images["aerial"]
    assert (image[0] == truth[:, 2:302, 2:302]).all() and image.dtype == np.uint8


def test_images_dates_and_names_of_a_sample_belong_together(one: Path) -> None:
    sample = opened(one).read(0)
    with h5py.File(h5(one)) as file:
        for name, prefix in SERIES.items():
            images, products = file[f"{prefix}-data"][...], file[f"{prefix}-products"].asstr()[...]
            for image, day in zip(sample.images[name], sample.dates[name], strict=True):
                index = int(np.flatnonzero((images == image).all(axis=(1, 2, 3)))[0])
                stamp = np.datetime64(f"{day[0]}-01-01") + int(day[1]) - 1
                assert products[index].split("_")[-5].startswith(str(stamp).replace("-", ""))
                assert day[2] == 0
    assert sample.id == tif(one).stem


def test_hours_are_read_where_they_are_asked_for(one: Path) -> None:
    hours = opened(one, "sensors.s1_asc.dates.hours=true").read(0).dates["s1_asc"][:, 2]
    assert set(hours.tolist()) <= {16, 17, 18} and (opened(one).read(0).dates["s1_asc"][:, 2] == 0).all()


def test_dates_ascend_and_the_aerial_day_is_the_reference(one: Path) -> None:
    sample = opened(one).read(0)
    for name in SERIES:
        days = sample.dates[name][:, 0].astype(int) * 1000 + sample.dates[name][:, 1]
        assert (np.diff(days) > 0).all(), name
    assert (sample.reference_date == sample.dates["aerial"][0]).all()


def test_a_visit_draws_and_reading_without_never_does(one: Path) -> None:
    dataset = opened(one)
    plain, again = dataset.read(0), dataset.read(0)
    drawn, same = dataset.read(0, Visit(1, 2, 0)), dataset.read(0, Visit(1, 2, 0))
    for name in plain.images:
        assert (plain.images[name] == again.images[name]).all()
        assert (drawn.images[name] == same.images[name]).all() and (drawn.dates[name] == same.dates[name]).all()
    others = [dataset.read(0, Visit(1, epoch, 0)) for epoch in range(4)]
    assert len({x.dates["s2"].tobytes() for x in others}) == 4
    assert len({x.images["aerial"].tobytes() for x in others}) > 1


def test_all_sensors_of_a_visit_are_flipped_alike(one: Path) -> None:
    ramp = np.arange(36, dtype=np.float32).reshape(6, 6)
    rewrite(
        h5(one),
        sen_2_data=lambda x: np.broadcast_to(ramp, x.shape),
        sen_1asc_data=lambda x: np.broadcast_to(ramp, x.shape),
    )
    dataset = opened(one)
    still = dataset.read(0).images["aerial"][0]
    seen = set()
    for epoch in range(30):
        sample = dataset.read(0, Visit(0, epoch, 0))
        turned = sample.images["s2"][0, 0]
        assert (sample.images["s1_asc"] == turned).all()
        options = {}
        for k, swap in enumerate((still, still.swapaxes(-1, -2))):
            options |= {
                (k, 0): swap,
                (k, 1): swap[..., ::-1, :],
                (k, 2): swap[..., ::-1],
                (k, 3): swap[..., ::-1, ::-1],
            }
        how = next(k for k, x in options.items() if np.array_equal(x, sample.images["aerial"][0]))
        small = ramp.T if how[0] else ramp
        small = {0: small, 1: small[::-1], 2: small[:, ::-1], 3: small[::-1, ::-1]}[how[1]]
        assert (small == turned).all()
        seen.add(how)
    assert len(seen) == 8


def test_fewer_dates_than_bins_are_all_kept_and_the_rest_is_absent(one: Path) -> None:
    rewrite(h5(one), sen_1asc_data=lambda x: x[:3], sen_1asc_products=lambda x: x[:3])
    with h5py.File(h5(one)) as file:
        truth = file["sen-1-asc-data"][...]
    for visit in (None, Visit(0, 0, 0)):
        sample = opened(one).read(0, visit)
        assert sample.present["s1_asc"].tolist() == [True, True, True, False]
        assert not sample.valid["s1_asc"][3].any() and sample.valid["s1_asc"][:3].all()
        assert np.sort(sample.images["s1_asc"][:3].ravel()).tolist() == np.sort(truth.ravel()).tolist()


def test_a_sensor_without_any_date_is_absent(one: Path) -> None:
    rewrite(h5(one), sen_1asc_data=lambda x: x[:0], sen_1asc_products=lambda x: x[:0])
    sample = opened(one).read(0)
    assert not sample.present["s1_asc"].any() and not sample.valid["s1_asc"].any()
    assert sample.images["s1_asc"].shape == (4, 2, 6, 6) and sample.present["s1_des"].all()


def test_missing_radar_pixels_are_invalid_where_they_cannot_be_avoided(one: Path) -> None:
    def holed(x: np.ndarray) -> np.ndarray:
        x[:, 1, 2, 3] = np.nan
        return x

    rewrite(h5(one), sen_1asc_data=holed)
    valid = opened(one).read(0).valid["s1_asc"]
    assert (~valid).sum(axis=0).tolist() == [[4 * (r == 2 and c == 3) for c in range(6)] for r in range(6)]


def test_a_date_with_missing_pixels_is_avoided_where_it_can_be(one: Path) -> None:
    def holed(x: np.ndarray) -> np.ndarray:
        x[::2, 0, 0, 0] = np.nan
        return x

    rewrite(h5(one), sen_1asc_data=holed)
    for visit in (None, Visit(0, 0, 0), Visit(0, 1, 0)):
        assert opened(one).read(0, visit).valid["s1_asc"].all()


def test_two_images_of_one_date_are_both_kept(one: Path) -> None:
    def doubled(x: np.ndarray) -> np.ndarray:
        return np.repeat(x[:2], 2, axis=0)

    rewrite(h5(one), sen_1asc_data=doubled, sen_1asc_products=doubled)
    sample = opened(one).read(0)
    days = sample.dates["s1_asc"]
    assert sample.present["s1_asc"].all() and (days[0] == days[1]).all() and (days[1] != days[2]).any()


def test_labels_are_the_shares_of_the_table(earth: Path) -> None:
    dataset = opened(earth)
    with (earth / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    classes = dataset.spec.targets["cover"].classes
    shares = np.asarray([[float(row[name]) for name in classes] for row in rows])
    assert (dataset.labels("cover") == shares.argmax(axis=1)).all()
    assert (dataset.labels("cover_share") == (shares > 0.07)).all()
    assert dataset.read(3).labels["cover"] == dataset.labels("cover")[3]


# ---- damaged files ----


@pytest.mark.parametrize("keep", [0, 0.5, 0.95])
def test_a_truncated_aerial_image_is_named(one: Path, keep: float) -> None:
    content = tif(one).read_bytes()
    tif(one).write_bytes(content[: int(keep * len(content))])
    text = refused(one)
    said = "unreadable GeoTIFF, probably truncated (" if keep else "is empty (0 bytes)"
    assert text.startswith(f"{tif(one)}: {said}")
    assert text.endswith("fetch the file again")


@pytest.mark.parametrize("keep", [0, 0.01, 0.5, 0.95])
def test_a_truncated_series_is_named(one: Path, keep: float) -> None:
    content = h5(one).read_bytes()
    h5(one).write_bytes(content[: int(keep * len(content))])
    text = refused(one)
    assert text.startswith(f"{h5(one)}: unreadable HDF5, probably truncated (")
    assert text.endswith("fetch the file again")


@pytest.mark.parametrize("find", [tif, h5])
def test_a_missing_file_is_named(one: Path, find: Callable[[Path], Path]) -> None:
    path = find(one)
    path.unlink()
    assert refused(one) == f"{path}: no such file"


def test_another_kind_of_file_is_not_opened_as_an_image(one: Path) -> None:
    path = tif(one)
    path.write_text('<VRTDataset rasterXSize="304" rasterYSize="304"></VRTDataset>')
    assert refused(one).startswith(f"{path}: unreadable GeoTIFF")


def test_an_image_that_is_too_small_or_has_other_bands_says_both_sizes(one: Path) -> None:
    assert refused(one, "sensors.aerial.part=[5, 5, 300, 300]") == (
        f"{tif(one)}: is 304 x 304 pixels, but rows to 305 and columns to 305 are needed"
    )
    text = refused(
        one, "sensors.aerial.bands=[R, G, B]", "sensors.aerial.groups=[3]", "sensors.aerial.wavelengths_nm=null"
    )
    assert text == f"{tif(one)}: sensor 'aerial' has 4 bands, its spec says 3"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: x[:, :, :5], "sensor 's1_asc' has 5 rows, its spec says 6"),
        (lambda x: x[:, :, :, :4], "sensor 's1_asc' has 4 columns, its spec says 6"),
        (lambda x: x[:, :1], "sensor 's1_asc' has 1 bands, its spec says 2"),
    ],
)
def test_a_series_of_another_shape_says_both_sizes(one: Path, make: Callable[[np.ndarray], Any], said: str) -> None:
    rewrite(h5(one), sen_1asc_data=make)
    assert refused(one) == f"{h5(one)}: {said}"


def test_a_series_without_an_axis_says_what_its_axes_were_taken_for(one: Path) -> None:
    with h5py.File(h5(one)) as file:
        dates = len(file["sen-1-asc-data"])
    rewrite(h5(one), sen_1asc_data=lambda x: x[:, 0])
    assert refused(one) == (
        f"{h5(one)}: sensor 's1_asc' has 1 images (bands, rows, columns: ({dates}, 6, 6)) but {dates} dates; "
        "see `axes` and `dates` of the sensor"
    )
    assert refused(one, "sensors.s1_asc.axes=[date, band, row, col]") == (
        f"{h5(one)}: array sen-1-asc-data has 3 axes ({dates}, 6, 6), `axes` names 4 (date, band, row, col)"
    )


def test_a_missing_dataset_is_named_with_those_that_are_there(one: Path) -> None:
    with h5py.File(h5(one), "a") as file:
        del file["sen-2-masks"]
        held = ", ".join(sorted(file))
    assert refused(one) == f"{h5(one)}: has no dataset 'sen-2-masks'; it has {held}"


def test_a_product_without_a_date_is_named(one: Path) -> None:
    rewrite(h5(one), sen_1asc_products=lambda x: ["S1A_IW"] * len(x))
    assert refused(one) == (
        f"{h5(one)}: no date in 'S1A_IW' ('S1A_IW' has 2 pieces between underscores, none is number -5); "
        "see `dates` of the sensor"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"sen_1asc_products": lambda x: x[:2]},
        {"sen_1asc_products": lambda x: [b"S1_\xff\xfe_1_2_3_4_5"] * len(x)},
        {"sen_2_masks": lambda x: x[:-1]},
        {"sen_2_masks": lambda x: x[:, :, :3]},
        {"sen_2_masks": lambda x: x[:, :, :5, :5]},
        {"sen_2_masks": lambda x: x[:, 0]},
    ],
    ids=["fewer products", "no text", "fewer masks", "flat masks", "smaller masks", "masks without an axis"],
)
def test_parts_that_do_not_fit_together_are_refused_by_name(one: Path, change: dict[str, Any]) -> None:
    rewrite(h5(one), **change)
    assert refused(one).startswith(f"{h5(one)}: ")


def test_a_hostile_declared_size_is_refused_before_memory_is_given(one: Path) -> None:
    with h5py.File(h5(one), "a") as file:  # 1.4 petabytes on paper
        del file["sen-2-data"]
        file.create_dataset("sen-2-data", (10**12, 10, 6, 6), np.float32, chunks=(1, 10, 6, 6))
    assert refused(one).startswith(f"{h5(one)}: ")


# ---- the table ----


def test_a_missing_table_says_what_to_check(one: Path) -> None:
    (one / "train.csv").unlink()
    assert refused(one) == (
        f"{one / 'train.csv'}: no such file; is `data.root` the folder of the dataset, and the split spelled right?"
    )


def test_a_missing_column_is_named(one: Path) -> None:
    edit_table(one, "sen_name", None)
    text = refused(one)
    assert text.startswith(
        f"{one / '{split}.csv'}: lacks the column sen_name, which 'sentinel-ts/{{sen_name}}' needs; "
    )
    assert "it has aerial_name, aerial_date, " in text


def test_a_class_without_a_column_is_named(one: Path) -> None:
    name = opened(one).spec.targets["cover"].classes[2]
    edit_table(one, name, None)
    assert f"{one}: class {name!r} is no column of the table; its columns are aerial_name, " in refused(one)


@pytest.mark.parametrize(
    ("share", "said"),
    [
        ("1.2", "is outside 0 to 1"),
        ("-0.1", "is outside 0 to 1"),
        ("nan", "is not a number"),
        ("x", "is not a number"),
        ("", "is not a number"),
    ],
)
def test_a_share_that_is_none_names_sample_and_class(one: Path, share: str, said: str) -> None:
    name = opened(one).spec.targets["cover"].classes[1]
    edit_table(one, name, share)
    text = refused(one)
    assert text.startswith(f"{one}: sample '{tif(one).stem}': ")
    assert (f"share {share} of {name} {said}" if "outside" in said else f"{share!r} of {name} {said}") in text


def test_a_table_without_rows_is_refused(one: Path) -> None:
    header = (one / "train.csv").read_text().splitlines()[0]
    (one / "train.csv").write_text(header + "\n")
    assert refused(one) == f"{one / 'train.csv'}: has no samples"


@pytest.mark.parametrize("day", ["", "2019/07/01", "20191301"])
def test_an_aerial_date_that_is_none_names_the_sample(one: Path, day: str) -> None:
    edit_table(one, "aerial_date", day)
    with pytest.raises(DataError, match=tif(one).stem):
        opened(one).read(0)


def test_a_row_that_was_cut_short_is_refused(one: Path) -> None:
    header, row = (one / "train.csv").read_text().splitlines()
    (one / "train.csv").write_text(f"{header}\n{row.split(',')[0]}\n")
    assert refused(one) == (
        f"{one / 'train.csv'}: line 2 has another number of columns than the first; was it cut short?"
    )
