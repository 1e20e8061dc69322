"""The miniatures of PASTIS-HD, FLAIR-HUB and S2-NAIP: their files are laid out as the published ones, and their
labels are true of their pixels.

What is published was taken from the readers and cards of the datasets, by hand.
"""

import csv
import json
import sqlite3
from contextlib import closing
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.errors import NotGeoreferencedWarning
from rasterio.features import rasterize

from geomaestro.data.miniatures import flair_hub, pastis_hd, s2_naip

COUNTS = {"train": 4, "val": 1, "test": 2}
SPOT = Path("DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019")


@pytest.fixture(scope="module")
def pastis(tmp_path_factory) -> Path:
    return written(tmp_path_factory, pastis_hd, {"train": 3, "val": 1, "test": 1})


@pytest.fixture(scope="module")
def flair(tmp_path_factory) -> Path:
    return written(tmp_path_factory, flair_hub, COUNTS)


@pytest.fixture(scope="module")
def naip(tmp_path_factory) -> Path:
    return written(tmp_path_factory, s2_naip, COUNTS)


def written(factory, dataset, counts: dict[str, int]) -> Path:
    folder = factory.mktemp("miniatures") / "made"
    dataset.write(folder, counts, 5)
    return folder


def listed(folder: Path, name: str, column: str) -> list[str]:
    with (folder / f"{name}.csv").open() as file:
        return [row[column] for row in csv.DictReader(file)]


def load(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def digests(folder: Path, suffixes: set[str]) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.suffix in suffixes)
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def parsed(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%d")


def ascending(dates: list[datetime]) -> bool:
    return dates == sorted(set(dates))


@pytest.mark.parametrize("dataset", [pastis_hd, flair_hub, s2_naip])
def test_a_bigger_miniature_begins_with_the_smaller_byte_for_byte_and_a_seed_changes_it(dataset, tmp_path):
    for name, count, seed in (("one", 1, 7), ("two", 2, 7), ("other", 1, 8)):
        dataset.write(tmp_path / name, {"train": count}, seed)
    images = {".tif", ".npy", ".png", ".txt"}
    one, two, other = (digests(tmp_path / name, images) for name in ("one", "two", "other"))
    assert len(one) > 5 and len(two) > len(one)
    assert one.items() <= two.items()
    assert not one.items() & other.items()


@pytest.mark.parametrize("dataset", [pastis_hd, flair_hub, s2_naip])
def test_the_same_seed_gives_the_same_bytes_in_every_file(dataset, tmp_path):
    for name in ("a", "b"):
        dataset.write(tmp_path / name, {"val": 1}, 3)
    everything = {".tif", ".npy", ".png", ".txt", ".csv", ".geojson", ".gpkg"}
    assert digests(tmp_path / "a", everything) == digests(tmp_path / "b", everything)


def looks_like_sentinel2(series: np.ndarray) -> bool:
    """Whether (t, 10, h, w) has, on its clearest dates, the order of bands of land in leaf, and white clouds."""
    blue = series[:, 0].mean((1, 2))
    clear = series[np.argsort(blue)[: len(blue) // 3]].mean((0, 2, 3), dtype=np.float64)
    cloudy = series[blue.argmax()].mean((1, 2), dtype=np.float64)
    visible, edge, near, short = clear[:3], clear[3], clear[4:8], clear[8:]
    vegetation = visible.max() < edge < near.min() and (np.diff(near) > 0).all() and short[1] < short[0] < near.max()
    return bool(vegetation and cloudy[:3].min() > 2000 > clear[0])


def test_series_run_date_by_date_with_bands_in_order_of_wavelength(pastis, flair, naip):
    for name in features(pastis):
        assert looks_like_sentinel2(load(pastis / "DATA_S2" / f"S2_{name}.npy"))
    for name in naip_names(naip):
        with rasterio.open(naip / "sentinel2" / f"{name}_stacked.tif") as file:
            assert looks_like_sentinel2(file.read().reshape(-1, 10, 64, 64))
        with rasterio.open(naip / "landsat" / f"{name}_stacked.tif") as file:
            reflectance = file.read().reshape(4, 11, 64, 64) * 2e-5 - 0.1
        np.testing.assert_allclose(reflectance[:, 7], reflectance[:, 1:4].mean(1), atol=1e-4)  # B8 spans B2 to B4
    for patch in flair_patches(flair):
        series = flair_image(flair, patch, "SENTINEL2_TS").reshape(-1, 10, 10, 10)
        snow, cloud = flair_image(flair, patch, "SENTINEL2_MSK-SC").reshape(-1, 2, 10, 10).swapaxes(0, 1)
        assert max(snow.max(), cloud.max()) <= 100
        assert series[:, 0][np.maximum(snow, cloud) == 0].max() < 3000 < series[:, 0][cloud == 100].min()
        for orbit in ("ASC", "DESC"):
            power = flair_image(flair, patch, f"SENTINEL1-{orbit}_TS").reshape(-1, 2, 10, 10)
            assert 0 < power.min() and np.median(power[:, 1]) < np.median(power[:, 0]) < 0.7  # linear


PASTIS = {"S2": (10, "int16", 30, 45), "S1A": (3, "float16", 28, 32), "S1D": (3, "float16", 28, 32)}


def features(folder: Path) -> dict[str, dict]:
    return {feature["id"]: feature for feature in json.loads((folder / "metadata.geojson").read_text())["features"]}


def test_pastis_arrays_have_the_shapes_and_types_of_the_release(pastis):
    for name, feature in features(pastis).items():
        assert feature["properties"]["ID_PATCH"] == int(name)
        for sensor, (bands, kind, fewest, most) in PASTIS.items():
            array = load(pastis / f"DATA_{sensor}" / f"{sensor}_{name}.npy")
            dates = feature["properties"][f"dates-{sensor}"]
            assert list(dates) == [str(i) for i in range(len(dates))]
            assert fewest <= len(dates) <= most
            assert array.shape == (len(dates), bands, 128, 128) and array.dtype == kind
            assert ascending([parsed(str(day)) for day in dates.values()])
        target, parcels = (load(pastis / "ANNOTATIONS" / f"{kind}_{name}.npy") for kind in ("TARGET", "ParcelIDs"))
        assert target.shape == (3, 128, 128) and target.dtype == np.uint8 and target[0].max() <= 19
        assert parcels.shape == (128, 128) and parcels.dtype == np.int32
        np.testing.assert_array_equal(parcels == 0, target[0] == 0)
        assert feature["properties"]["N_Parcel"] == len(set(parcels[parcels > 0].tolist()))


def test_pastis_radar_is_in_decibels_with_the_ratio_last(pastis):
    for name in features(pastis):
        vv, vh, ratio = load(pastis / "DATA_S1A" / f"S1A_{name}.npy").astype(np.float32).swapaxes(0, 1)
        np.testing.assert_allclose(ratio, vv - vh, atol=0.04)  # float16 near 30 has steps of 1/64
        assert -25 < np.median(vh) < np.median(vv) < -5


def test_pastis_spot_covers_the_patch_of_the_metadata_at_1_metre(pastis):
    crs = json.loads((pastis / "metadata.geojson").read_text())["crs"]
    assert crs == {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2154"}}
    places = set()
    for name, feature in features(pastis).items():
        with rasterio.open(pastis / SPOT / f"SPOT6_RVB_1M00_2019_{name}.tif") as file:
            assert (file.count, file.height, file.width, file.dtypes[0]) == (3, 1280, 1280, "uint8")
            assert file.crs.to_epsg() == 2154 and file.res == (1, 1)
            assert shapely.geometry.shape(feature["geometry"]).equals(shapely.box(*file.bounds))
            places.add(tuple(file.bounds))
    assert len(places) == 5


def test_pastis_lists_are_the_five_rotations_of_the_folds(pastis):
    fold_of = {name: feature["properties"]["Fold"] for name, feature in features(pastis).items()}
    assert sorted(fold_of.values()) == [1, 2, 3, 4, 5]
    for rotation, folds in enumerate(["123", "234", "345", "451", "512"], start=1):
        lists = [listed(pastis, f"{split}_fold_{rotation}", "image") for split in ("train", "val", "test")]
        assert [len(names) for names in lists] == [3, 1, 1]
        assert {fold_of[name] for name in lists[0]} == {int(fold) for fold in folds}
        assert fold_of[lists[1][0]] == int(folds[2]) % 5 + 1 and fold_of[lists[2][0]] == (int(folds[2]) + 1) % 5 + 1
    for split in ("train", "val", "test"):
        assert listed(pastis, split, "image") == listed(pastis, f"{split}_fold_1", "image")
    few, more = (listed(pastis, f"train_filtered_{percent}", "image") for percent in (5, 20))
    assert few == more and len(few) == 1 and few[0] in listed(pastis, "train", "image")


def crop_series(folder: Path, name: str) -> np.ndarray:
    """Of four seasons each pixel's date of the darkest blue, for clouds are bright: (pixels, 40)."""
    days = features(folder)[name]["properties"]["dates-S2"].values()
    months = np.array([day // 100 for day in days])
    images = load(folder / "DATA_S2" / f"S2_{name}.npy")
    clear = []
    for first, last in [(201809, 201903), (201904, 201905), (201906, 201907), (201908, 201910)]:
        season = images[(months >= first) & (months <= last)]
        clear.append(np.take_along_axis(season, season[:, :1].argmin(0)[None], axis=0)[0])
    return np.concatenate(clear).reshape(40, -1).T


def test_pastis_crops_can_be_told_from_the_series_of_other_patches(pastis):
    """The nearest class mean of three patches names most pixels of a fourth; water, towns and woods are class 0."""
    names = sorted(features(pastis))
    truth = {name: load(pastis / "ANNOTATIONS" / f"TARGET_{name}.npy")[0].ravel() for name in names}
    x = np.concatenate([crop_series(pastis, name) for name in names[:3]])
    y = np.concatenate([truth[name] for name in names[:3]])
    classes = sorted(set(y.tolist()) - {0, 19})
    means = np.stack([x[y == number].mean(0) for number in classes])
    spread = np.concatenate([x[y == number] - mean for number, mean in zip(classes, means, strict=True)]).std(0)
    test_x, test_y = crop_series(pastis, names[3]), truth[names[3]]
    crops = np.isin(test_y, classes)
    distance = (((test_x[crops][:, None] - means) / spread) ** 2).sum(2)
    right = np.array(classes)[distance.argmin(1)] == test_y[crops]
    assert len(classes) >= 5
    assert right.mean() > 0.6
    assert np.bincount(test_y[crops]).max() / crops.sum() < 0.4  # what naming the commonest would reach
    assert 19 in np.concatenate(list(truth.values()))


FLAIR = {  # type -> (bands of a date, pixels, type of number, metres of a pixel, sensor of the dates)
    "AERIAL_RGBI": (4, 512, "uint8", 0.2, None),
    "DEM_ELEV": (2, 512, "float32", 0.2, None),
    "SPOT_RGBI": (4, 64, "uint16", 1.6, None),
    "AERIAL_LABEL-COSIA": (1, 512, "uint8", 0.2, None),
    "ALL_LABEL-LPIS": (3, 512, "uint8", 0.2, None),
    "SENTINEL2_TS": (10, 10, "uint16", 10.24, "SENTINEL2"),
    "SENTINEL2_MSK-SC": (2, 10, "uint8", 10.24, "SENTINEL2"),
    "SENTINEL1-ASC_TS": (2, 10, "float32", 10.24, "SENTINEL1-ASC"),
    "SENTINEL1-DESC_TS": (2, 10, "float32", 10.24, "SENTINEL1-DESC"),
}


def flair_path(folder: Path, patch: str, kind: str) -> Path:
    domain, area, position = patch.split("_")
    return folder / f"{domain}_{kind}" / area / f"{domain}_{kind}_{area}_{position}.tif"


def flair_image(folder: Path, patch: str, kind: str) -> np.ndarray:
    with rasterio.open(flair_path(folder, patch, kind)) as file:
        return file.read()


def flair_patches(folder: Path) -> list[str]:
    return [patch for split in COUNTS for patch in listed(folder, split, "patch_id")]


def flair_dates(folder: Path, sensor: str) -> dict[str, str]:
    layer, column = f"GLOBAL_{sensor}_MTD_DATES", "acquisition_dates" if "SENTINEL" in sensor else "date"
    with closing(sqlite3.connect(folder / "GLOBAL_ALL_MTD" / f"{layer}.gpkg")) as base:
        return dict(base.execute(f'SELECT patch_id, {column} FROM "{layer}"'))  # noqa: S608 - our names


def test_flair_images_have_the_names_shapes_and_types_of_the_release(flair):
    for patch in flair_patches(flair):
        bounds = set()
        for kind, (bands, side, number, gsd_m, sensor) in FLAIR.items():
            dates = json.loads(flair_dates(flair, sensor)[patch]) if sensor else {"1": ""}
            with rasterio.open(flair_path(flair, patch, kind)) as file:
                assert (file.count, file.height, file.width) == (len(dates) * bands, side, side), kind
                assert set(file.dtypes) == {number} and file.crs.to_epsg() == 2154
                assert file.res == pytest.approx((gsd_m, gsd_m))
                bounds.add(tuple(np.round(file.bounds, 6)))
        assert len(bounds) == 1
    (historic,) = (flair / "D012-195X_AERIAL-RLT_PAN").rglob("D012-195X_AERIAL-RLT_PAN_*_0-0.tif")  # the decade
    with rasterio.open(historic) as file:
        assert (file.count, file.height, file.width, file.res) == (1, 256, 256, (0.4, 0.4))


def test_flair_patches_of_a_zone_lie_side_by_side_and_share_their_dates(flair):
    first, second = listed(flair, "train", "patch_id")[:2]
    assert (first.rsplit("_", 1)[0], first[-3:], second[-3:]) == (second.rsplit("_", 1)[0], "0-0", "0-1")
    paths = [flair_path(flair, patch, "AERIAL_RGBI") for patch in (first, second)]
    with rasterio.open(paths[0]) as left, rasterio.open(paths[1]) as right:
        assert (left.bounds.right, left.bounds.top) == pytest.approx((right.bounds.left, right.bounds.top))
    for sensor in ("SENTINEL2", "SENTINEL1-ASC", "SENTINEL1-DESC", "AERIAL", "SPOT"):
        dates = flair_dates(flair, sensor)
        assert set(dates) == set(flair_patches(flair)) and dates[first] == dates[second]


def test_flair_dates_are_of_the_domains_year_and_count_from_1(flair):
    for sensor in ("SENTINEL2", "SENTINEL1-ASC", "SENTINEL1-DESC"):
        for patch, text in flair_dates(flair, sensor).items():
            dates = json.loads(text)
            assert list(dates) == [str(i + 1) for i in range(len(dates))]
            days = [parsed(day) for day in dates.values()]
            assert ascending(days) and {f"{day:%Y}" for day in days} == {patch[5:9]}
    for sensor in ("AERIAL", "SPOT"):
        assert all(parsed(day).year == int(patch[5:9]) for patch, day in flair_dates(flair, sensor).items())
    old = flair_dates(flair, "AERIAL-RLT").values()
    assert all(day.endswith("00") and 1947 <= parsed(day[:6] + "01").year < 1960 for day in old)  # the day is unknown


def test_flair_geopackages_say_where_the_patches_are(flair):
    for path in (flair / "GLOBAL_ALL_MTD").iterdir():
        with closing(sqlite3.connect(path)) as base:
            assert base.execute("PRAGMA application_id").fetchone() == (0x47504B47,)
            assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            content = "SELECT table_name, data_type, srs_id FROM gpkg_contents"
            assert base.execute(content).fetchall() == [(path.stem, "features", 2154)]
            where = "SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns"
            assert base.execute(where).fetchall() == [(path.stem, "geom", 2154)]
            for patch, blob in base.execute(f'SELECT patch_id, geom FROM "{path.stem}"'):  # noqa: S608
                assert blob[:8] == b"GP\0\1" + (2154).to_bytes(4, "little")
                with rasterio.open(flair_path(flair, patch, "AERIAL_RGBI")) as file:
                    np.testing.assert_allclose(shapely.from_wkb(blob[8:]).bounds, file.bounds, atol=1e-6)


def test_flair_lists_name_existing_patches_and_flair2_fewer_of_them(flair):
    for split, count in COUNTS.items():
        patches = listed(flair, split, "patch_id")
        assert len(patches) == len(set(patches)) == count
        assert all(flair_path(flair, patch, kind).is_file() for patch in patches for kind in FLAIR)
        flair2 = listed(flair, f"{split}_flair2", "patch_id")
        assert flair2 and set(flair2) <= set(patches)
    assert len(listed(flair, "train_flair2", "patch_id")) < COUNTS["train"]


def test_flair_labels_follow_the_images(flair):
    seen: dict[int, list[np.ndarray]] = {}
    for patch in flair_patches(flair):
        cosia = flair_image(flair, patch, "AERIAL_LABEL-COSIA")[0]
        red, _, _, nir = flair_image(flair, patch, "AERIAL_RGBI").astype(np.float32)
        surface, terrain = flair_image(flair, patch, "DEM_ELEV")
        level1, level2, level3 = flair_image(flair, patch, "ALL_LABEL-LPIS")
        assert level1.max() <= 22 and level2.max() <= 30 and level3.max() <= 45
        np.testing.assert_array_equal(level1 == 22, level3 == 45)
        assert set(level1[np.isin(cosia, (9, 10))].tolist()) <= {1, 2, 3, 8}  # cereals, maize, rapeseed
        assert set(level1[np.isin(cosia, (0, 3, 6, 12, 13))].tolist()) <= {22}
        for number in np.unique(cosia).tolist():
            here = cosia == number
            means = [(surface - terrain)[here].mean(), (nir / (red + 1))[here].mean(), nir[here].mean()]
            seen.setdefault(number, []).append(np.array(means))
    means = {number: np.mean(parts, axis=0) for number, parts in seen.items()}
    assert set(means) <= {0, 3, 6, 8, 9, 10, 11, 12, 13, 18} and {0, 3, 6, 8, 9, 12, 13, 18} <= set(means)
    height_m, vigour, nir = ({number: mean[i] for number, mean in means.items()} for i in range(3))
    assert height_m[0] == pytest.approx(6.5, abs=0.06) and height_m[13] > height_m[12] > 6 > 1 > height_m[9]
    assert min(vigour[8], vigour[9], vigour[12]) > 1.5 > max(vigour[0], vigour[3])
    assert nir[6] < min(mean for number, mean in nir.items() if number != 6)


NAIP = [
    ("sentinel2/{}_stacked.tif", "s2", 10, "uint16"),
    ("sentinel1/{}.tif", "s1", 2, "float32"),
    ("landsat/{}_stacked.tif", "landsat", 11, "uint16"),
]


def naip_names(folder: Path) -> list[str]:
    return [name for split in COUNTS for name in listed(folder, split, "name")]


def products(folder: Path, sensor: str, name: str) -> list[str]:
    return (folder / "dates" / sensor / f"{name}.txt").read_text().split()


def naip_image(folder: Path, name: str) -> np.ndarray:
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(folder / "naip" / f"{name}.png") as file:
        return file.read()


def test_naip_images_have_the_names_shapes_and_types_of_the_dataset(naip):
    names = naip_names(naip)
    assert len(names) == len(set(names)) == sum(COUNTS.values())
    for name in names:
        image = naip_image(naip, name)
        assert image.shape == (4, 512, 512) and image.dtype == np.uint8
        for path, sensor, bands, kind in NAIP:
            with rasterio.open(naip / path.format(name)) as file:
                assert file.count == bands * len(products(naip, sensor, name))
                assert (file.height, file.width, file.dtypes[0], file.res) == (64, 64, kind, (10, 10))
                epsg, column, row = (int(part) for part in name.split("_"))
                assert file.crs.to_epsg() == epsg
                assert (file.bounds.left, file.bounds.top) == (640 * column, -640 * row)
                if sensor == "s1":  # in decibels
                    vv, vh = np.median(file.read().reshape(-1, 2, 64, 64), axis=(0, 2, 3))
                    assert -30 < vh < vv < 0


def test_naip_product_names_hold_their_dates_where_the_reader_looks(naip):
    counts: dict[str, set[int]] = {"s2": set(), "s1": set(), "landsat": set()}
    for name in naip_names(naip):
        (flight,) = products(naip, "naip", name)
        flown = parsed(flight.split("_")[-1][:8])
        assert flown.year in (2019, 2020, 2021)
        for sensor, field, days in (("s2", -5, 92), ("s1", -5, 62), ("landsat", -4, 366)):
            dates = [parsed(product.split("_")[field][:8]) for product in products(naip, sensor, name)]
            assert ascending(dates) and max(abs((day - flown).days) for day in dates) <= days
            counts[sensor].add(len(dates))
    assert min(counts["s2"]) >= 16 and max(counts["s2"]) <= 32 and counts["landsat"] == {4}
    assert 2 <= min(counts["s1"]) < 4 < max(counts["s1"]) <= 8  # fewer dates than the 4 bins happen


def test_naip_map_data_lie_on_what_the_image_shows(naip):
    colours: dict[str, list[np.ndarray]] = {"building": [], "road": [], "leisure": [], "river": []}
    window = shapely.box(0, 0, 512, 512)
    for name in naip_names(naip):
        collection = json.loads((naip / "openstreetmap" / f"{name}.geojson").read_text())
        image = naip_image(naip, name).astype(np.float32)
        assert collection["type"] == "FeatureCollection" and collection["features"]
        shapes = [(f["properties"]["category"], shapely.geometry.shape(f["geometry"])) for f in collection["features"]]
        assert all(shape.is_valid and window.covers(shape) for _, shape in shapes)
        assert {shape.geom_type for category, shape in shapes if category == "road"} <= {"LineString"}
        for category in {category for category, _ in shapes}:
            parts = [shape for other, shape in shapes if other == category]
            here = rasterize(parts, (512, 512)).astype(bool)
            colours[category].append(image[:, here].mean(1))
    means = {category: np.mean(parts, axis=0) for category, parts in colours.items()}
    greenness = {category: mean[3] / mean[0] for category, mean in means.items()}  # NIR over red
    assert min(greenness["leisure"], 1.4) == 1.4 > max(greenness["building"], greenness["road"])
    assert means["river"][3] < min(means[other][3] for other in ("building", "road", "leisure"))
