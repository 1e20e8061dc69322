"""The fingerprint finds what was corrupted on purpose and is silent on what was not.

Axes: n image, c band, h row, w column.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray

from geomaestro.data.quality.bandstats import KEPT, Statistics, measure
from geomaestro.data.quality.fingerprint import Finding, is_sentinel2, judge, normal_name
from geomaestro.data.quality.spectra import BANDS, SCENES
from geomaestro.sensors import Sensor

L1C = (*BANDS[:10], "B10", *BANDS[10:])
S2 = Sensor(bands=BANDS, gsd_m=10, unit="reflectance_1e4")
S1 = Sensor(bands=("VV", "VH"), gsd_m=10, unit="dB")
SOIL = (631, 1040, 1792, 2730, 3041, 3253, 3405, 3584, 3658, 3683, 4340, 3694)  # measured: patch_33188 of s2_global
LEAF = (250, 261, 443, 325, 757, 1634, 1892, 2002, 2169, 2170, 1478, 718)  # measured: patch_502692
WATER = (420, 380, 300, 180, 150, 120, 110, 100, 90, 85, 40, 25)  # assumed


def scene(seed: int = 0, size: int = 60) -> ndarray:
    """A made image (1 c h w) of soil, leaves and water, coarse bands copied into blocks of their native pixels."""
    random = np.random.default_rng(seed)
    share = np.repeat(np.repeat(random.dirichlet((1, 1, 0.2), (size // 6, size // 6)), 6, 0), 6, 1)
    share = np.clip(share + random.normal(0, 0.02, share.shape), 0, None)
    image = np.moveaxis(share @ np.array([SOIL, LEAF, WATER], float), -1, 0)
    for index, step in enumerate((6, 1, 1, 1, 2, 2, 2, 1, 2, 6, 2, 2)):
        image[index] = np.repeat(np.repeat(image[index, ::step, ::step], step, 0), step, 1)
    return np.rint(image)[None].astype(np.uint16)


def found(images: ndarray, sensor: Sensor = S2, valid: ndarray | None = None) -> list[Finding]:
    return judge(measure(images, valid, sensor), sensor, "s2")


def only(images: ndarray, sensor: Sensor = S2) -> Finding:
    findings = found(images, sensor)
    assert len(findings) == 1, findings
    return findings[0]


def swapped(images: ndarray, a: str, b: str, bands: tuple[str, ...] = BANDS) -> ndarray:
    order = list(range(len(bands)))
    i, j = bands.index(a), bands.index(b)
    order[i], order[j] = j, i
    return images[:, order]


def with_cirrus(images: ndarray) -> ndarray:
    clear = np.random.default_rng(0).integers(8, 16, (10, 10)).repeat(6, 0).repeat(6, 1)
    return np.insert(images, 10, clear.astype(images.dtype), axis=1)


def backscatter(seed: int = 0) -> ndarray:
    random = np.random.default_rng(seed)
    return np.stack([random.normal(-11, 2, (3, 20, 20)), random.normal(-18, 2, (3, 20, 20))], axis=1)


def test_a_scene_as_its_spec_says_raises_nothing():
    assert found(scene()) == []
    assert found(np.concatenate([scene(1), scene(2), scene(3)])) == []


def test_bands_of_other_resolution_are_known_by_their_detail():
    finding = only(swapped(scene(), "B03", "B06"))
    assert finding.kind == "order" and finding.certain
    assert "B03 were expected to show finer detail than B06" in finding.message
    assert "correct the order of `sensors.s2.bands`" in finding.message


@pytest.mark.parametrize("pair", [("B02", "B08"), ("B04", "B08"), ("B05", "B12"), ("B8A", "B11"), ("B01", "B09")])
def test_bands_of_one_resolution_are_known_by_their_spectrum(pair):
    finding = only(swapped(np.concatenate([scene(1), scene(2), scene(3)]), *pair))
    assert finding.kind == "order" and finding.certain
    assert f"{', '.join(pair)} were expected, but the pixels are like {', '.join(reversed(pair))}" in finding.message


def test_the_three_cycle_is_named_as_what_the_pixels_are():
    order = list(range(12))
    order[1], order[7], order[3] = 7, 3, 1  # B02 holds B08, B08 holds B04, B04 holds B02
    finding = only(np.concatenate([scene(1), scene(2), scene(3)])[:, order])
    assert "B02, B04, B08 were expected, but the pixels are like B08, B02, B04" in finding.message


def test_no_band_is_darker_than_cirrus():
    images = with_cirrus(scene())
    sensor = S2.model_copy(update={"bands": L1C})
    assert found(images, sensor) == []
    finding = only(swapped(images, "B09", "B10", L1C), sensor)
    assert "no band was expected to be darker than B10 (cirrus), but B09 is" in finding.message


def test_digital_numbers_are_no_reflectance():
    finding = only(scene(), S2.model_copy(update={"unit": "reflectance"}))
    assert finding.kind == "unit" and finding.certain
    assert "reflectance was expected below 3, but the brightest band reaches 4" in finding.message
    assert "correct `sensors.s2.unit`, `scale` (1) or `offset` (0)" in finding.message


def test_reflectance_is_no_digital_number():
    finding = only(scene() / 1e4)
    assert finding.kind == "unit"
    assert "expected to reach 0.001 somewhere, but the brightest band stays at 4" in finding.message


def test_scale_and_offset_are_applied_before_judging():
    sensor = S2.model_copy(update={"unit": "reflectance", "scale": 1e-4, "offset": -0.1})
    assert found(scene() + 1000, sensor) == []
    assert [f.kind for f in found(scene(), sensor)] == ["negative"]


def test_an_offset_left_in_is_seen_over_water():
    images = scene()
    images[:, :, :24, :24] = np.array(WATER, np.uint16)[:, None, None] + np.random.default_rng(0).integers(
        0, 20, (12, 24, 24)
    ).astype(np.uint16)
    finding = only(images + 1000)
    assert finding.kind == "offset" and finding.certain
    assert "dark pixels were expected near 0, but lie near 1000 in 1 of 1 images" in finding.message
    assert "set `sensors.s2.offset` to -1000" in finding.message
    mixed = only(np.concatenate([images + 1000, scene(1), scene(2)]))
    assert mixed.kind == "mixed offset" and "1 of 3 images carry the offset of 1000" in mixed.message


def test_an_offset_left_in_is_seen_in_cirrus():
    images = with_cirrus(scene())
    assert only(images + 1000, S2.model_copy(update={"bands": L1C})).kind == "offset"


def test_an_offset_taken_off_twice_is_seen():
    leaves = np.array(LEAF)[:, None, None] + scene(3).astype(np.int32) // 50 - 1000
    finding = only(leaves)
    assert finding.kind == "negative" and "in 1 of 1 images most of a band is below it or clipped" in finding.message
    assert "add it to `sensors.s2.offset` (0)" in finding.message
    assert "zero" in {f.kind for f in found(leaves.clip(0))}


def test_a_band_of_zeros_or_of_one_value_or_of_none_is_named():
    images = scene()
    images[:, 3] = 0
    finding = only(images)
    assert finding.kind == "zero" and "B04 hold nothing but zeros in up to 1 of 1 images" in finding.message
    images[:, 3] = 7
    finding = only(images)
    assert finding.kind == "constant" and "B04 hold a single value" in finding.message
    images[:, 3] = 65535
    finding = only(images, S2.model_copy(update={"nodata": 65535.0}))
    assert finding.kind == "empty" and "B04 hold no value but nodata" in finding.message


def test_nan_is_no_value_unless_it_is_not_valid():
    images = scene().astype(np.float32)
    images[:, :, :5] = np.nan
    finding = only(images)
    assert finding.kind == "not finite" and "hold NaN or infinity in up to 1 of 1 images" in finding.message
    assert found(images, valid=np.isfinite(images).all(1)) == []
    images[:] = np.nan
    assert {f.kind for f in found(images)} == {"not finite", "empty"}


def test_images_without_any_value_are_reported():
    finding = only(np.zeros((2, 12, 60, 60), np.uint16), S2.model_copy(update={"nodata": 0.0}))
    assert finding.kind == "empty" and "none of 2 images has pixels that differ" in finding.message


def test_a_band_copied_over_another_is_found():
    images = scene()
    images[:, 8] = images[:, 7]
    finding = only(images)
    assert finding.kind == "copy" and finding.certain
    assert "bands B08, B8A were expected to differ, but are equal in every pixel of 1 of 1 images" in finding.message


def test_decibel_and_linear_power_are_told_apart():
    linear = S1.model_copy(update={"unit": "linear_power"})
    assert found(backscatter(), S1) == [] and found(10 ** (backscatter() / 10), linear) == []
    assert "these look like decibel" in only(backscatter(), linear).message
    assert "as linear power" in only(10 ** (backscatter() / 10), S1).message


@pytest.mark.parametrize("unit", ["dB", "linear_power", "other"])
def test_vv_is_stronger_than_vh(unit):
    values = backscatter() if unit == "dB" else 10 ** (backscatter() / 10)
    sensor = S1.model_copy(update={"unit": unit})
    assert found(values, sensor) == []
    finding = only(values[:, ::-1], sensor)
    assert finding.kind == "order" and "VV was expected to be stronger than VH" in finding.message


def test_other_units_have_ranges():
    random = np.random.default_rng(0)
    kelvin = Sensor(bands=("temperature",), gsd_m=1000, unit="K")
    assert found(random.normal(285, 5, (2, 1, 20, 20)), kelvin) == []
    assert "medians from 130 to 380 were expected in K" in only(random.normal(12, 5, (2, 1, 20, 20)), kelvin).message
    aerial = Sensor(bands=("R", "G", "B"), gsd_m=0.2, unit="dn8")
    pixels = random.integers(0, 256, (1, 3, 20, 20))
    assert found(pixels, aerial) == []
    assert "but fractions up to" in only(pixels / 255, aerial).message
    assert "values from 0 to 255 were expected" in only(pixels * 40, aerial).message


def test_a_flat_terrain_is_no_finding():
    dem = Sensor(bands=("altitude",), gsd_m=10, unit="m")
    assert found(np.concatenate([np.zeros((1, 1, 20, 20)), np.eye(20)[None, None]]), dem) == []


def test_landsat_names_are_not_taken_for_sentinel():
    landsat = Sensor(bands=("B2", "B3", "B4", "B5", "B6", "B7"), gsd_m=30, unit="reflectance")
    assert not is_sentinel2(landsat) and is_sentinel2(S2)
    centres = (482.0, 561.0, 654.0, 865.0, 1609.0, 2201.0)
    assert not is_sentinel2(landsat.model_copy(update={"wavelengths_nm": centres, "gsd_m": 10}))


def test_other_satellites_are_judged_by_their_wavelengths():
    columns = [BANDS.index(band) for band in ("B02", "B03", "B04", "B8A", "B11", "B12")]
    images = np.concatenate([scene(1), scene(2), scene(3)])[:, columns]
    names = ("blue", "green", "red", "nir", "swir16", "swir22")
    sensor = Sensor(bands=names, gsd_m=30, unit="reflectance_1e4", wavelengths_nm=(482, 561, 654, 865, 1609, 2201))
    assert found(images, sensor) == []
    images[:, [2, 3]] = images[:, [3, 2]]
    assert "red, nir were expected, but the pixels are like B8A, B04" in only(images, sensor).message


@pytest.mark.parametrize(
    ("name", "normal"), [("B2", "B02"), ("b02", "B02"), ("08A", "B8A"), ("B12", "B12"), ("R", "R")]
)
def test_band_names_are_normalised(name, normal):
    assert normal_name(name) == normal


def test_series_of_single_pixels_are_judged_over_their_dates():
    series = scene().reshape(12, -1).T[::36, :, None, None]  # (100 12 1 1)
    assert found(series) == []
    assert only(swapped(series, "B04", "B08")).kind == "order"
    assert found(series[:5]) == []  # too few to say anything


def test_pooling_neither_depends_on_order_nor_grows():
    parts = [measure(scene(seed, 24), None, S2) for seed in range(KEPT + 6)]
    forth, back = parts[0], parts[-1]
    for part in parts[1:]:
        forth = forth + part
    for part in reversed(parts[:-1]):
        back = back + part
    assert forth.images == back.images == KEPT + 6 and len(forth.summaries) == KEPT
    assert [s.key for s in forth.summaries] == [s.key for s in back.summaries]
    assert np.array_equal(forth.high, back.high) and np.array_equal(forth.zero, back.zero)


def test_images_of_another_number_of_bands_are_refused():
    with pytest.raises(ValueError, match=r"images of shape \(1, 3, 8, 8\) do not have \(n, 12, h, w\)"):
        measure(np.zeros((1, 3, 8, 8)), None, S2)


def test_the_density_of_directions_is_that_of_the_formula():
    one = replace(SCENES, weights=np.ones(1), factors=np.eye(12)[None])
    samples = np.random.default_rng(0).normal(size=(5, 12))
    assert np.allclose(one.log_likelihood(samples, BANDS), 0)  # uniform on the sphere
    several = SCENES.log_likelihood(samples, BANDS)
    assert np.allclose(SCENES.log_likelihood(7 * samples, BANDS), several)


def tif(path: Path) -> ndarray:
    import rasterio

    with rasterio.open(path) as source:
        return np.asarray(source.read())[None]


def statistics_of(path: Path, sensor: Sensor, *, lower: bool) -> Statistics:
    return measure(tif(path).astype(np.int32) - 1000 if lower else tif(path), None, sensor)


def pooled(parts: list[Statistics]) -> Statistics:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


EUROSAT = (*L1C[:8], "B09", "B10", "B11", "B12", "B8A")
REAL = {  # folder, bands, unit, files that carry the offset as published (docs/results.md)
    "s2_global": ("s2_global/*.tif", BANDS, "reflectance_1e4", ("patch_74721", "patch_8845")),
    "L2A": ("terramesh/S2L2A/*.tif", BANDS, "reflectance_1e4", ()),
    "L1C": ("terramesh/S2L1C/*.tif", L1C, "reflectance_1e4", ("282D_485L_3_3", "609U_541L_3_0")),
    "eurosat": ("eurosat_ms/*/*.tif", EUROSAT, "reflectance_1e4", ()),
    "S1": ("terramesh/S1RTC/*.tif", ("VV", "VH"), "dB", ()),
}


@pytest.mark.parametrize("name", REAL)
def test_real_tiles_raise_nothing_but_an_offset_that_is_there(data_dir, name):
    pattern, bands, unit, carrying = REAL[name]
    sensor = Sensor(bands=bands, gsd_m=10, unit=unit)
    paths = sorted(data_dir.glob(pattern))
    assert len(paths) >= 4
    parts = {path.stem: statistics_of(path, sensor, lower=False) for path in paths}
    for stem, statistics in parts.items():
        kinds = [f.kind for f in judge(statistics, sensor, name)]
        assert kinds == (["offset"] if stem in carrying else []), stem
    mended = {path.stem: statistics_of(path, sensor, lower=True) for path in paths if path.stem in carrying}
    assert judge(pooled(list((parts | mended).values())), sensor, name) == []


@pytest.mark.parametrize("name", ["L2A", "L1C", "eurosat"])
def test_every_swap_of_two_bands_is_found_in_a_real_dataset(data_dir, name):
    pattern, bands, unit, carrying = REAL[name]
    sensor = Sensor(bands=bands, gsd_m=10, unit=unit)
    clean = pooled([statistics_of(p, sensor, lower=p.stem in carrying) for p in sorted(data_dir.glob(pattern))])
    for i in range(len(bands)):
        for j in range(i + 1, len(bands)):
            named = list(bands)  # the same pixels under a spec that names two bands the wrong way round
            named[i], named[j] = named[j], named[i]
            wrong = sensor.model_copy(update={"bands": tuple(named)})
            assert [f.kind for f in judge(clean, wrong, name)] == ["order"], (bands[i], bands[j])


def test_geobench_publishes_eurosat_under_the_wrong_band_names(data_dir):
    import h5py

    with h5py.File(data_dir / "geobench/classification_v1.0/m-eurosat/id_1905.hdf5") as file:
        names = tuple(sorted(file))
        image = np.stack([file[name][...] for name in names])[None]
    sensor = Sensor(bands=tuple(name.split(" ")[0] for name in names), gsd_m=10, unit="reflectance_1e4")
    assert "order" in {f.kind for f in judge(measure(image, None, sensor), sensor, "s2")}
