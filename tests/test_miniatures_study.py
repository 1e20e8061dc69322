"""Miniatures of fMoW-Sentinel, EuroSAT and SSL4EO-S12: files as in the originals, classes that their pixels show.

Names, types and shapes were copied by hand from the sources named in each module; where real samples are at hand
(GEOMAESTRO_DATA) the miniatures are compared with them.
"""

import csv
import io
import json
import re
import warnings
import zipfile
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.errors import NotGeoreferencedWarning

from geomaestro.data.miniatures import eurosat, fmow_sentinel, ssl4eo_s12
from geomaestro.errors import DataError

FEW = {"train": 4, "val": 1, "test": 1}
PX = 72
S1_NAME = re.compile(r"S1[AB]_IW_GRDH_1SDV_(\d{8}T\d{6})_\d{8}T\d{6}_\d{6}_[0-9A-F]{6}_[0-9A-F]{4}")
S2_NAME = re.compile(r"(\d{8}T\d{6})_\d{8}T\d{6}_T\d{2}[C-X][A-Z]{2}")
# Side of each band of SSL4EO-S12 v1.0, where 10 m give 264: the table in its downloader.
SIDES = {"B2": 264, "B3": 264, "B4": 264, "B8": 264, "B1": 44, "B9": 44, "B10": 44}
SIDES |= dict.fromkeys(("B5", "B6", "B7", "B8A", "B11", "B12"), 132)


@pytest.fixture(scope="module")
def euro(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("eurosat")
    eurosat.write_ms(made, {"train": 100, "val": 6, "test": 100}, 1)
    eurosat.write_rgb(made, {"train": 100, "val": 6, "test": 100}, 1)
    return made


@pytest.fixture(scope="module")
def fmow(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("fmow")
    fmow_sentinel.write(made, {"train": 108, "val": 5, "test": 72}, 1)
    return made


@pytest.fixture(scope="module")
def ssl4eo(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("ssl4eo")
    ssl4eo_s12.write(made, {"train": 3, "val": 1, "test": 1}, 1, px=PX)
    return made


def pixels(source: Path | io.BytesIO) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(source) as file:
            return file.read()


def split(folder: Path, name: str) -> list[str]:
    return (folder / f"eurosat-{name}.txt").read_text().split()


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def fmow_path(folder: Path, name: str, row: dict[str, str]) -> Path:
    """The path as the README of SatMAE builds it."""
    location = f"{row['category']}_{row['location_id']}"
    return folder / "fmow-sentinel" / name / row["category"] / location / f"{location}_{row['image_id']}.tif"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def accuracy(train: list[tuple[Path, str]], test: list[tuple[Path, str]]) -> float:
    """Nearest class mean on the mean and deviation of each band, whitened by band."""

    def described(paths: list[tuple[Path, str]]) -> np.ndarray:
        images = [pixels(path).astype(float) for path, _ in paths]
        return np.log([[*image.mean((1, 2)), *(image.std((1, 2)) + 1)] for image in images])

    known, asked = described(train), described(test)
    labels = np.array([label for _, label in train])
    names = sorted(set(labels.tolist()))
    centres = np.array([known[labels == name].mean(0) for name in names]) / known.std(0)
    nearest = ((asked[:, None] / known.std(0) - centres) ** 2).sum(-1).argmin(1)
    return float(np.mean([names[index] == label for index, (_, label) in zip(nearest, test, strict=True)]))


# ---- EuroSAT ----


def test_eurosat_tiles_have_the_layout_of_the_zenodo_record(euro):
    for line in split(euro, "val"):
        assert re.fullmatch(r"([A-Z][A-Za-z]+)_\d+\.jpg", line)
        label = line.split("_")[0]
        with rasterio.open(euro / "EuroSAT_MS" / label / line.replace(".jpg", ".tif")) as file:
            assert (file.count, file.height, file.width, set(file.dtypes)) == (13, 64, 64, {"uint16"})
            assert file.profile["interleave"] == "pixel"
            assert file.crs.to_epsg() in range(32630, 32636)
            assert file.transform.a != 10
            assert abs(file.transform.a - 10) < 0.03
        jpeg = euro / "EuroSAT_RGB" / label / line
        assert jpeg.read_bytes()[:3] == b"\xff\xd8\xff"
        assert (pixels(jpeg).shape, pixels(jpeg).dtype) == ((3, 64, 64), np.uint8)


def test_eurosat_splits_are_disjoint_and_name_every_image(euro):
    lines = [line for name in ("train", "val", "test") for line in split(euro, name)]
    assert len(lines) == len(set(lines)) == 206
    assert {path.name for path in euro.glob("EuroSAT_RGB/*/*.jpg")} == set(lines)
    assert {path.name.replace(".tif", ".jpg") for path in euro.glob("EuroSAT_MS/*/*.tif")} == set(lines)
    assert sorted({line.split("_")[0] for line in lines}) == sorted(eurosat.CLASSES)


def test_eurosat_rgb_shows_the_land_of_the_bands_up_to_2750(euro):
    for line in split(euro, "train")[:20]:
        label = line.split("_")[0]
        bands = pixels(euro / "EuroSAT_MS" / label / line.replace(".jpg", ".tif"))[[3, 2, 1]]
        grey = np.minimum(bands * (255 / 2750), 255)
        assert np.abs(pixels(euro / "EuroSAT_RGB" / label / line) - grey).mean() < 6  # what JPEG loses of noise


@pytest.mark.parametrize(("top", "suffix", "least"), [("EuroSAT_MS", ".tif", 0.7), ("EuroSAT_RGB", ".jpg", 0.55)])
def test_eurosat_classes_differ_in_mean_and_deviation(euro, top, suffix, least):
    paths = {
        name: [(euro / top / (label := line.split("_")[0]) / line.replace(".jpg", suffix), label) for line in lines]
        for name, lines in ((name, split(euro, name)) for name in ("train", "test"))
    }
    assert accuracy(paths["train"], paths["test"]) > least  # chance is 0.1


def test_eurosat_bands_have_the_order_and_the_values_of_real_tiles(euro, data_dir):
    for label in ("AnnualCrop", "Forest"):
        real, made = (
            np.mean([pixels(path).mean((1, 2)) for path in sorted(folder.glob("*.tif"))], axis=0)
            for folder in (data_dir / "eurosat_ms" / label, euro / "EuroSAT_MS" / label)
        )
        for means in (real, made):
            assert means.argmin() == eurosat.BANDS.index("B10") == 9
            assert means[12] > means[7] > means[8]  # B8A > B08 > B09
        assert np.all((made / real > 0.6) & (made / real < 1.5)), made / real


def test_eurosat_real_jpeg_files_are_real_bands_up_to_2750(data_dir):
    with zipfile.ZipFile(data_dir / "eurosat_rgb.zip") as archive:
        for name in ("AnnualCrop_1", "Forest_1"):
            label = name.split("_")[0]
            bands = pixels(data_dir / "eurosat_ms" / label / f"{name}.tif")[[3, 2, 1]]
            grey = pixels(io.BytesIO(archive.read(f"eurosat_rgb/{label}/{name}.jpg")))
            assert np.abs(grey - np.minimum(bands * (255 / 2750), 255)).mean() < 2


def test_eurosat_classes_are_dark_and_bright_as_the_real_ones(euro, data_dir):
    with zipfile.ZipFile(data_dir / "eurosat_rgb.zip") as archive:
        real, made = [], []
        for label in eurosat.CLASSES:
            names = [name for name in archive.namelist() if f"/{label}_" in name][:30]
            real.append(np.mean([pixels(io.BytesIO(archive.read(name))).mean((1, 2)) for name in names], axis=0))
            paths = (euro / "EuroSAT_RGB" / label).iterdir()
            made.append(np.mean([pixels(path).mean((1, 2)) for path in paths], axis=0))
    assert np.abs(np.mean(made, axis=0) - np.mean(real, axis=0)).max() < 40, (made, real)  # of 255
    assert np.corrcoef(np.ravel(made), np.ravel(real))[0, 1] > 0.6


# ---- fMoW-Sentinel ----


@pytest.mark.parametrize(("name", "count"), [("train", 108), ("val", 5), ("test_gt", 72)])
def test_fmow_tables_name_existing_files_of_13_bands(fmow, name, count):
    rows = table(fmow, name)
    assert list(rows[0]) == ["", "category", "location_id", "image_id", "timestamp", "polygon"]
    assert len(rows) == count
    for row in rows:
        with rasterio.open(fmow_path(fmow, name, row)) as file:
            assert (file.count, set(file.dtypes), file.crs.to_epsg()) == (13, {"uint16"}, 4326)
            assert 40 <= file.height <= 70
            assert 40 <= file.width <= 70


def test_fmow_images_of_a_location_share_its_polygon_and_size_but_not_their_time(fmow):
    locations: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in table(fmow, "train"):
        locations.setdefault((row["category"], row["location_id"]), []).append(row)
    assert len(locations) == 36
    for rows in locations.values():
        assert len(rows) == len({row["timestamp"] for row in rows}) == 3
        assert len({row["polygon"] for row in rows}) == 1
        polygon = shapely.from_wkt(rows[0]["polygon"])
        for row in rows:
            with rasterio.open(fmow_path(fmow, "train", row)) as file:
                raster = shapely.box(*file.bounds)
            assert raster.contains(polygon)
            assert polygon.area > 0.9 * raster.area


def test_fmow_added_steps_lie_in_the_middle_of_half_years(fmow):
    rows = table(fmow, "train")
    middles = {(10, 1, 0), (4, 1, 0), (4, 1, 12)}  # month, day and hour; noon in years that are not leap years
    for row in rows:
        at = datetime.strptime(row["timestamp"], "%Y-%m-%dT%H:%M:%SZ")
        assert datetime(2015, 7, 1) <= at < datetime(2020, 1, 1)
        if int(row["image_id"]) >= 100:
            assert (at.month, at.day, at.hour) in middles
    assert sum(int(row["image_id"]) < 100 for row in rows) == 36


def test_fmow_failed_images_are_files_of_one_null_band_without_a_row(fmow):
    named = {fmow_path(fmow, "train", row) for row in table(fmow, "train")}
    others = set((fmow / "fmow-sentinel" / "train").rglob("*.tif")) - named
    assert len(others) == 12
    for path in others:
        assert pixels(path).shape[0] == 1
        assert not pixels(path).any()
    numbers = [int(row[""]) for row in table(fmow, "train")]
    assert numbers == sorted(set(numbers))
    assert len(set(range(108 + 12)) - set(numbers)) == 12  # the index keeps their gaps


def test_fmow_splits_count_their_locations_anew_on_other_ground(fmow):
    first = {name: table(fmow, name)[0] for name in ("train", "val", "test_gt")}
    assert {(row["category"], row["location_id"]) for row in first.values()} == {("airport", "0")}
    assert len({row["polygon"] for row in first.values()}) == 3


def test_fmow_categories_differ_in_mean_and_deviation(fmow):
    paths = {n: [(fmow_path(fmow, n, row), row["category"]) for row in table(fmow, n)] for n in ("train", "test_gt")}
    assert accuracy(paths["train"], paths["test_gt"]) > 0.7  # chance is 0.17


def test_fmow_bands_have_the_order_of_satmaes_constants(fmow):
    means = np.mean([pixels(fmow_path(fmow, "train", row)).mean((1, 2)) for row in table(fmow, "train")], axis=0)
    satmae = (1370, 1184, 1121, 1136, 1264, 1645, 1847, 1763, 1973, 583, 15, 1732, 1248)
    assert means.argmin() == 10  # B10
    assert np.corrcoef(means, satmae)[0, 1] > 0.8
    assert np.argsort(means)[:2].tolist() == np.argsort(satmae)[:2].tolist() == [10, 9]


# ---- SSL4EO-S12 ----


def test_ssl4eo_folders_hold_four_seasons_of_three_products(ssl4eo):
    ids = ["0000000", "0000001", "0000002", "0200000", "0225000"]
    for sensor, pattern in (("s1", S1_NAME), ("s2c", S2_NAME), ("s2a", S2_NAME)):
        assert sorted(path.name for path in (ssl4eo / sensor).iterdir()) == ids
        for number in ids:
            found = [pattern.fullmatch(path.name) for path in (ssl4eo / sensor / number).iterdir()]
            days = sorted(datetime.strptime(match[1], "%Y%m%dT%H%M%S") for match in found if match)
            assert len(found) == len(days) == 4
            assert all(45 < (later - day).days < 140 for day, later in pairwise(days))
            assert date(2019, 12, 1) < days[0].date() < days[-1].date() < date(2021, 10, 31)
    assert (ssl4eo / "50k_ids_random.csv").read_text() == "0\n1\n2\n"


def test_ssl4eo_bands_have_the_types_and_sides_of_the_original(ssl4eo):
    for product in ssl4eo.glob("s2?/*/*"):
        level = product.parts[-3]
        bands = {path.stem: pixels(path) for path in product.glob("*.tif")}
        assert set(bands) == set(SIDES) - ({"B10"} if level == "s2a" else set())
        for band, image in bands.items():
            assert (image.shape, image.dtype) == ((1, SIDES[band] * PX // 264, SIDES[band] * PX // 264), np.uint16)
        assert json.loads((product / "metadata.json").read_text())["system:index"] == product.name
    for product in ssl4eo.glob("s1/*/*"):
        for band in ("VV", "VH"):
            image = pixels(product / f"{band}.tif")
            assert (image.shape, image.dtype) == ((1, PX, PX), np.float32)
            assert -35 < image.mean() < -3  # dB


def test_ssl4eo_bands_are_half_their_own_pixel_off_as_in_the_original(ssl4eo):
    product = next(ssl4eo.glob("s2c/0000000/*"))
    places = {}
    for band in ("B2", "B5", "B1"):
        with rasterio.open(product / f"{band}.tif") as file:
            assert file.crs.is_geographic
            places[band] = file.transform
    assert places["B1"].a == pytest.approx(6 * places["B2"].a)
    assert places["B2"].c - places["B1"].c == pytest.approx(2.5 * places["B2"].a, rel=1e-4)
    assert places["B2"].c - places["B5"].c == pytest.approx(0.5 * places["B2"].a, rel=1e-4)


def test_ssl4eo_atmosphere_brightens_the_blue_of_l1c(ssl4eo):
    shared = [path for path in ssl4eo.glob("s2c/*/*") if (ssl4eo / "s2a" / path.parent.name / path.name).exists()]
    assert 10 <= len(shared) < 20  # some seasons have L2A of another date
    for product in shared:
        level2 = ssl4eo / "s2a" / product.parent.name / product.name
        assert pixels(product / "B1.tif").mean() > pixels(level2 / "B1.tif").mean() + 200


def test_ssl4eo_full_size_is_264_pixels(tmp_path):
    ssl4eo_s12.write(tmp_path, {"train": 1}, 0)
    for band, side in SIDES.items():
        assert pixels(next(tmp_path.glob(f"s2c/*/*/{band}.tif"))).shape == (1, side, side)


# ---- all ----


def write_ssl4eo_small(folder: Path, samples: dict[str, int], seed: int) -> None:
    ssl4eo_s12.write(folder, samples, seed, px=12)


WRITERS = [eurosat.write_ms, eurosat.write_rgb, fmow_sentinel.write, write_ssl4eo_small]


@pytest.mark.parametrize("write", WRITERS)
def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, write):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write(tmp_path / name, FEW, seed)
    assert files(tmp_path / "a") == files(tmp_path / "b") != files(tmp_path / "c")


@pytest.mark.parametrize("write", WRITERS)
def test_a_bigger_miniature_holds_the_images_of_the_smaller(tmp_path, write):
    write(tmp_path / "small", {"train": 2, "val": 1}, 7)
    write(tmp_path / "big", FEW, 7)
    big = files(tmp_path / "big")
    for name, content in files(tmp_path / "small").items():
        assert name.endswith((".csv", ".txt")) or big[name] == content


@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_that_holds_something_is_refused(tmp_path, write):
    write(tmp_path, {"train": 1}, 0)
    with pytest.raises(DataError, match="expected a new or empty folder but it holds something"):
        write(tmp_path, {"train": 1}, 0)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("samples", [{"train": -1}, {"dev": 3}])
def test_counts_of_unknown_splits_or_below_zero_are_refused(tmp_path, write, samples):
    with pytest.raises(DataError, match="expected 0 or more of train, val, test"):
        write(tmp_path, samples, 0)


@pytest.mark.parametrize("px", [0, 70])
def test_ssl4eo_refuses_sizes_that_leave_part_of_a_pixel(tmp_path, px):
    with pytest.raises(DataError, match=f"px is {px}; expected a multiple of 6"):
        ssl4eo_s12.write(tmp_path, {"train": 1}, 0, px=px)
