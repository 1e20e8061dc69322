"""The miniature Earth: its files are those of TreeSatAI-TS, and its labels are true of its pixels.

Layout, types and name formats were copied by hand from four real samples of TreeSatAI-TS.
"""

import csv
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import yaml

from geomaestro.data.miniatures import earth
from geomaestro.data.miniatures.synthetic import CLASSES, EarthOptions, synthesise
from geomaestro.errors import DataError

SERIES = {"sen-1-asc-data": 2, "sen-1-des-data": 2, "sen-2-data": 10, "sen-2-masks": 2}  # name -> bands
PRODUCTS = {
    "sen-1-asc-products": rb"S1[AB]_IW_GRDH_1SDV_\d{8}T\d{6}_\d{8}T\d{6}_\d{6}_[0-9A-F]{6}_[0-9A-F]{4}",
    "sen-1-des-products": rb"S1[AB]_IW_GRDH_1SDV_\d{8}T\d{6}_\d{8}T\d{6}_\d{6}_[0-9A-F]{6}_[0-9A-F]{4}",
    "sen-2-products": rb"S2[AB]_MSIL2A_\d{8}T\d{6}_N\d{4}_R\d{3}_T32U[A-Z]{2}_\d{8}T\d{6}",
}
DATES = {"sen-1-asc": (20, 40), "sen-1-des": (20, 40), "sen-2": (30, 60)}  # sensor -> fewest, most


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("synthetic") / "earth"
    synthesise(made, EarthOptions(train=70, val=6, test=6, seed=5))
    return made


def rows(folder: Path, split: str = "train") -> list[dict[str, str]]:
    with (folder / f"{split}.csv").open() as file:
        return list(csv.DictReader(file))


def shares(row: dict[str, str]) -> np.ndarray:
    return np.array([float(row[name]) for name in CLASSES])


def series(folder: Path, row: dict[str, str]) -> dict[str, np.ndarray]:
    with h5py.File(folder / "sentinel-ts" / row["sen_name"]) as file:
        return {name: values[()] for name, values in file.items()}


def plain_tile(cover: str) -> earth.Tile:
    """One field of one class, of average season, vigour and colour."""
    return earth.Tile(
        covers=(CLASSES.index(cover),),
        field_of=np.zeros((304, 304), np.uint8),
        shift_days=np.zeros(1),
        vigour=np.ones(1),
        tint=np.ones((1, 10)),
        loudness_db=np.zeros((1, 2)),
        angle=np.full(1, 0.6),
    )


def test_hdf5_files_have_the_names_ranks_and_types_of_the_real_ones(folder):
    for row in rows(folder):
        with h5py.File(folder / "sentinel-ts" / row["sen_name"]) as file:
            assert set(file) == set(SERIES) | set(PRODUCTS)
            for name, bands in SERIES.items():
                count = len(file[name.rsplit("-", 1)[0] + "-products"])
                assert file[name].shape == (count, bands, 6, 6)
                assert file[name].dtype == np.float32
                assert np.isfinite(file[name][()]).all()
            for name in PRODUCTS:
                assert h5py.check_string_dtype(file[name].dtype) == ("utf-8", None)


def test_products_are_named_as_esa_does_and_ascend_through_the_files_year(folder):
    for row in rows(folder):
        stored = series(folder, row)
        year = int(row["sen_name"].removesuffix(".h5").rsplit("_", 1)[1])
        for name, pattern in PRODUCTS.items():
            assert all(re.fullmatch(pattern, product) for product in stored[name])
            dates = [datetime.strptime(product.decode().split("_")[-5][:8], "%Y%m%d") for product in stored[name]]
            assert dates == sorted(set(dates))
            assert {date.year for date in dates} == {year} <= {2017, 2018, 2019, 2020}
            fewest, most = DATES[name.removesuffix("-products")]
            assert fewest <= len(dates) <= most


def test_values_have_the_units_of_the_real_files(folder):
    for row in rows(folder):
        stored = series(folder, row)
        assert 0 < stored["sen-1-asc-data"].min() and np.median(stored["sen-1-asc-data"]) < 0.7  # linear power
        assert stored["sen-2-data"].min() >= 1 and stored["sen-2-data"].max() < 20_000
        assert (stored["sen-2-data"] == stored["sen-2-data"].round()).all()
        assert stored["sen-2-masks"].min() >= 0 and stored["sen-2-masks"].max() <= 100


def test_aerial_images_are_georeferenced_like_the_real_ones_and_never_overlap(folder):
    corners = set()
    for row in (row for split in ("train", "val", "test") for row in rows(folder, split)):
        with rasterio.open(folder / "aerial" / row["aerial_name"]) as file:
            assert (file.count, file.height, file.width, file.dtypes[0]) == (4, 304, 304, "uint8")
            assert file.crs.to_epsg() == 25832
            assert file.res == pytest.approx((0.2, 0.2))
            inner = np.array([file.bounds.left + 0.4 - 400_000, 5_900_000 - (file.bounds.top - 0.4)]) / 60
        np.testing.assert_allclose(inner, inner.round(), atol=1e-6)  # the inner 300 x 300 fill a lattice of 60 m
        corners.add(tuple(inner.round().astype(int).tolist()))
    assert len(corners) == 82


def test_tables_have_the_columns_of_treesatai_and_dates_near_midsummer(folder):
    for split, count in (("train", 70), ("val", 6), ("test", 6)):
        table = rows(folder, split)
        assert len(table) == count
        assert list(table[0]) == ["aerial_name", "sen_name", "aerial_date", *CLASSES]
        for row in table:
            assert row["sen_name"].startswith(row["aerial_name"].removesuffix(".tif") + "_")
            assert row["aerial_date"][:4] == row["sen_name"][-7:-3]
            assert "0601" <= row["aerial_date"][4:] <= "0710"


def test_the_spec_names_the_classes_of_the_tables(folder):
    spec = yaml.safe_load((folder / "dataset.yaml").read_text())
    assert spec["extends"] == "treesatai_ts"
    assert spec["targets"]["cover"] == {"kind": "classes", "classes": list(CLASSES)}
    assert spec["targets"]["cover_share"] == {"kind": "multilabel", "classes": list(CLASSES), "threshold": 0.07}


def test_shares_sum_to_one_and_one_class_dominates_most_tiles(folder):
    table = np.array([shares(row) for row in rows(folder)])
    np.testing.assert_allclose(table.sum(1), 1, atol=5e-5)
    assert np.mean(table.max(1) > 0.5) > 0.8
    assert np.mean((table > 0.07).sum(1) > 1) > 0.3  # and yet many tiles have several labels


def test_field_shares_are_areas_of_the_inner_tile():
    field_of = np.zeros((304, 304), np.uint8)
    field_of[:, :77] = 1  # 2 pixels of margin, then one and a half cells of 50 pixels
    tile = replace(plain_tile("maize"), covers=(CLASSES.index("maize"), CLASSES.index("water")), field_of=field_of)
    np.testing.assert_array_equal(earth.field_shares(tile)[1], np.tile([1, 0.5, 0, 0, 0, 0], (6, 1)))
    assert earth.class_shares(tile)[CLASSES.index("water")] == 0.25
    assert earth.class_shares(tile)[CLASSES.index("maize")] == 0.75


def test_water_by_the_table_is_dark_in_the_near_infrared_of_both_sensors(folder):
    seen = []
    for row in rows(folder):
        stored = series(folder, row)
        clear = stored["sen-2-masks"].max((1, 2, 3)) < 10
        with rasterio.open(folder / "aerial" / row["aerial_name"]) as file:
            aerial = file.read(1).mean()
        seen.append((shares(row)[CLASSES.index("water")], np.median(stored["sen-2-data"][clear, 6]), aerial))
    water, infrared, aerial = np.array(seen).T
    assert (water > 0.9).sum() == 4
    assert infrared[water > 0.9].max() < 900 < 1000 < infrared[water == 0].min()
    assert aerial[water > 0.9].max() < aerial[water == 0].min()


def test_dates_flagged_cloudy_are_brighter_in_blue(folder):
    brighter = []
    for row in rows(folder):
        stored = series(folder, row)
        cloud, blue = stored["sen-2-masks"][:, 1].mean((1, 2)), stored["sen-2-data"][:, 0].mean((1, 2))
        snowy = stored["sen-2-masks"][:, 0].mean((1, 2)) > 5
        brighter.extend(blue[cloud > 80] > np.median(blue[(cloud < 10) & ~snowy]))
    assert len(brighter) > 500
    assert 0.95 < np.mean(brighter)


def test_clouds_are_commoner_in_winter(folder):
    months, cloud = [], []
    for row in rows(folder):
        stored = series(folder, row)
        months.extend(int(product.decode().split("_")[-5][4:6]) for product in stored["sen-2-products"])
        cloud.extend(stored["sen-2-masks"][:, 1].mean((1, 2)))
    winter = np.isin(months, (11, 12, 1))
    summer = np.isin(months, (5, 6, 7))
    assert np.mean(np.array(cloud)[winter]) > 1.3 * np.mean(np.array(cloud)[summer])


def test_speckle_of_an_even_field_has_4_4_looks(folder):
    ratios = []
    for row in rows(folder):
        if shares(row).max() == 1:
            power = series(folder, row)["sen-1-asc-data"].astype(np.float64)
            ratios.append((power.var((2, 3), ddof=1) / power.mean((2, 3)) ** 2).mean())
    # For gamma noise of L looks the expected ratio of sample variance to squared sample mean of n is n / (n L + 1).
    assert np.mean(ratios) == pytest.approx(36 / (36 * 4.4 + 1), rel=0.05)


def test_greenness_is_the_double_logistic_worked_by_hand():
    green = earth.greenness(plain_tile("winter_cereal"), np.array([170]))
    assert green.item() == pytest.approx(0.08 + 0.92 * (0.999581 - 0.097774), abs=1e-5)


def test_a_field_two_weeks_late_shows_the_same_season_two_weeks_later():
    tile, days = plain_tile("maize"), np.arange(20, 340)
    late = replace(tile, shift_days=np.full(1, 14.0))
    np.testing.assert_array_equal(earth.greenness(late, days + 14), earth.greenness(tile, days))


def test_the_two_cereals_differ_only_in_when_they_are_green():
    winter, spring = (plain_tile(f"{season}_cereal") for season in ("winter", "spring"))
    seen_in_air = [earth.reflectance(tile, np.array([170]))[0, 0] for tile in (winter, spring)]
    np.testing.assert_allclose(*seen_in_air, rtol=1e-3)
    year = [earth.reflectance(tile, np.arange(365))[:, 0] for tile in (winter, spring)]
    np.testing.assert_allclose(year[0].mean(0), year[1].mean(0), rtol=0.03)
    early, late = ((nir - red) / (nir + red) for nir, red in ((spectra[:, 6], spectra[:, 2]) for spectra in year))
    assert early[125] - late[125] > 0.3
    assert late[215] - early[215] > 0.3


def strongest_echo(band: np.ndarray) -> float:
    """Highest autocorrelation at a shift of 3.2 to 12 m: trees planted in rows meet their neighbours again."""
    centred = band - band.mean()
    echo = np.fft.ifft2(np.abs(np.fft.fft2(centred)) ** 2).real
    away = np.hypot(*np.meshgrid(*[np.fft.fftfreq(304, 1 / 304) * 0.2] * 2))
    return float(echo[(away > 3.2) & (away < 12)].max() / echo[0, 0])


def test_orchard_and_broadleaf_forest_differ_only_in_texture():
    forest, orchard = plain_tile("broadleaf_forest"), plain_tile("orchard")
    days = np.arange(365)
    np.testing.assert_array_equal(earth.reflectance(forest, days), earth.reflectance(orchard, days))
    np.testing.assert_array_equal(earth.backscatter(forest, days), earth.backscatter(orchard, days))
    pairs = [[earth.aerial_image(np.random.default_rng(seed), t, 170) for t in (forest, orchard)] for seed in range(12)]
    images = np.array(pairs, dtype=np.float64)  # (12, 2, 4, h, w)
    means, deviations = images.mean((0, 3, 4)), images.std((3, 4)).mean(0)
    np.testing.assert_allclose(means[0], means[1], rtol=0.03)
    np.testing.assert_allclose(deviations[0], deviations[1], rtol=0.1)
    echoes = np.array([[strongest_echo(image[0]) for image in pair] for pair in images])
    assert echoes[:, 0].max() < 0.25 < 0.4 < echoes[:, 1].min()


def test_equal_options_give_equal_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        synthesise(tmp_path / name, EarthOptions(train=2, val=1, test=0, seed=seed))
    content = [
        {path.relative_to(tmp_path / name).as_posix(): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two", "other")
    ]
    assert content[0] == content[1]
    assert len(content[0]) == 3 * 2 + 3 + 1
    assert content[0]["aerial/earth_train_00000.tif"] != content[2]["aerial/earth_train_00000.tif"]


def test_a_bigger_dataset_begins_with_the_smaller_one(tmp_path):
    synthesise(tmp_path / "small", EarthOptions(train=2, val=0, test=2))
    synthesise(tmp_path / "big", EarthOptions(train=4, val=1, test=3))
    for split in ("train", "test"):
        small, big = rows(tmp_path / "small", split), rows(tmp_path / "big", split)
        assert big[:2] == small
        for row in small:
            for kind, name in (("aerial", row["aerial_name"]), ("sentinel-ts", row["sen_name"])):
                assert (tmp_path / "small" / kind / name).read_bytes() == (tmp_path / "big" / kind / name).read_bytes()
    assert rows(tmp_path / "small", "val") == []


def test_progress_counts_every_sample(tmp_path):
    heard = []
    synthesise(tmp_path / "earth", EarthOptions(train=2, val=1, test=1), report=lambda *now: heard.append(now))
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_interrupted_run_has_no_tables_and_is_not_written_over(tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise(tmp_path, EarthOptions(train=2, val=0, test=0), report=stop)
    assert not list(tmp_path.glob("*.csv")) and not (tmp_path / "dataset.yaml").exists()
    expected = "expected a new or empty folder but it holds 'aerial' (2 in all); delete it (without dataset.yaml it is"
    with pytest.raises(DataError, match=re.escape(expected)):
        synthesise(tmp_path, EarthOptions(train=2, val=0, test=0))


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "earth").write_text("")
    with pytest.raises(DataError, match="expected a new or empty folder but this is a file; choose another name"):
        synthesise(tmp_path / "earth", EarthOptions())


def test_a_negative_count_is_refused():
    with pytest.raises(DataError, match="EarthOptions: val is -1; give 0 or more"):
        EarthOptions(val=-1)


def test_importing_the_module_loads_no_geo_library():
    heavy = {"rasterio", "h5py", "torch"}
    code = f"import sys, geomaestro.data.miniatures.synthetic; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
