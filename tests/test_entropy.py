"""Entropies against scipy, np.histogram and numbers worked by hand; what real tiles give against what was published."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from geomaestro.data.opening import open_scenes
from geomaestro.data.specs import load_spec
from geomaestro.errors import SpecError
from geomaestro.grid import Window
from geomaestro.select.entropy import (
    SATMAE,
    TEN,
    Spectral,
    SpectralOptions,
    effective_number,
    evenness,
    sentinel2_names,
    shannon,
)
from geomaestro.sensors import Scaling, Sensor

S2 = Sensor(bands=("B02", "B03", "B8A", "B12"), gsd_m=10, unit="reflectance_1e4")
RECIPES = Path(__file__).parents[1] / "recipes/data"
LN2 = float(np.log(2))


def sensor(bands: int = 2, **changes: object) -> Sensor:
    return Sensor(bands=tuple(f"x{c}" for c in range(bands)), gsd_m=10, **changes)


def measured(images: np.ndarray, valid: np.ndarray | None = None, **options: object) -> float:
    given = SpectralOptions(**{"range": (0.0, 64.0), "least_pixels": 1, **options})
    return Spectral.of("s", sensor(images.shape[1]), given)(images, valid)


@pytest.mark.parametrize("counts", [[1], [5, 5], [1, 2, 3, 4], [0, 7, 0, 1, 1000], [3] * 14])
def test_shannon_is_scipys(counts):
    assert shannon(np.asarray(counts)) == pytest.approx(stats.entropy(counts), abs=1e-12)


def test_shannon_by_hand():
    assert shannon(np.asarray([2, 1, 1])) == pytest.approx(1.5 * LN2)
    assert shannon(np.asarray([])) == 0 and shannon(np.asarray([0, 9])) == 0
    assert effective_number(np.asarray([4, 4, 4])) == pytest.approx(3)
    assert evenness(np.asarray([4, 0, 4])) == pytest.approx(1)
    assert evenness(np.asarray([8, 0])) is None


def test_the_entropy_of_equal_shares_of_six_continents_is_that_of_the_published_global_set():
    assert shannon(np.full(6, 116_667)) == pytest.approx(1.79, abs=0.005)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("bins", [2, 64, 256, 1000])
def test_the_bins_of_a_fixed_range_are_those_of_a_histogram(dtype, bins):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (1, 3, 11, 7)).astype(dtype)  # an odd number of pixels
    wanted = [stats.entropy(np.histogram(band, bins, (0.0, 128.0))[0]) for band in images[0]]
    assert measured(images, range=(0.0, 128.0), bins=bins) == pytest.approx(np.mean(wanted), abs=1e-12)


def test_bands_then_dates_are_averaged_by_hand():
    images = np.zeros((2, 2, 2, 2), np.uint16)
    images[0, 0] = [[0, 0], [10, 20]]  # shares 1/2, 1/4, 1/4: 1.5 ln 2
    images[1] = [[[0, 10], [20, 30]]]  # both bands: ln 4
    assert measured(images) == pytest.approx(((1.5 * LN2 + 0) / 2 + 2 * LN2) / 2)
    assert measured(images, base=2.0) == pytest.approx((0.75 + 2) / 2)
    assert measured(images, bands=("x1",)) == pytest.approx((0 + 2 * LN2) / 2)


def test_pooled_dates_are_counted_together():
    series = np.arange(8, dtype=np.uint16).reshape(8, 1, 1, 1) * 8  # a pixel on eight dates
    assert np.isnan(measured(series, least_pixels=2))
    assert measured(series, dates="pooled", least_pixels=2) == pytest.approx(np.log(8))
    halves = np.repeat([True, False], 4).reshape(8, 1, 1)
    assert measured(series, halves, dates="pooled") == pytest.approx(np.log(4))


def test_joint_entropy_is_that_of_combinations():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 8, (1, 3, 16, 16)).astype(np.uint8)
    found = np.unique(images[0].reshape(3, -1) // 2, axis=1, return_counts=True)[1]
    assert measured(images, range=(0.0, 8.0), bins=4, joint=True) == pytest.approx(stats.entropy(found))
    combinations = np.asarray(list(product(range(4), repeat=3)), np.uint8).T.reshape(1, 3, 8, 8) * 2
    assert measured(combinations, range=(0.0, 8.0), bins=4, joint=True) == pytest.approx(np.log(64))


def test_combinations_beyond_64_bits_are_kept_apart():
    images = np.zeros((1, 12, 64, 64), np.uint16)
    images[0, 0] = np.arange(4096).reshape(64, 64) * 16  # the first band alone differs
    found = measured(images, range=(0.0, 65_536.0), bins=65_536, joint=True)
    assert found == pytest.approx(np.log(4096))


def test_an_image_spans_its_own_range():
    rng = np.random.default_rng(2)
    images = rng.normal(5, 3, (1, 2, 20, 20)).astype(np.float32)
    wanted = [stats.entropy(np.histogram(band.astype(float), 32)[0]) for band in images[0]]
    assert measured(images, range="image", bins=32) == pytest.approx(np.mean(wanted), abs=1e-9)
    assert measured(7 * images - 4, range="image", bins=32) == pytest.approx(np.mean(wanted), abs=1e-3)
    trimmed = np.clip(images[0, 0], *np.percentile(images[0, 0].astype(float), (5, 95))).astype(float)
    one = measured(images, range="image", bins=32, trim=5.0, bands=("x0",))
    assert one == pytest.approx(stats.entropy(np.histogram(trimmed, 32)[0]), abs=1e-6)
    assert measured(np.full((1, 1, 9, 9), 3.5, np.float32), range="image") == 0


def test_satmae_normalisation_pixel_by_pixel():
    rng = np.random.default_rng(3)
    images = rng.integers(0, 9000, (1, 4, 32, 32)).astype(np.uint16)
    wanted = []
    for band, name in zip(images[0], ("B2", "B3", "B8A", "B12"), strict=True):
        mean, std = SATMAE[name]
        # the code of SatMAE, written out
        byte = (np.clip((band.astype(float) - (mean - 2 * std)) / (4 * std), 0, 1) * 255).astype(np.uint8)
        wanted.append([stats.entropy(np.bincount(byte.ravel() // width)) for width in (1, 4)])
    for bins, answer in zip((256, 64), np.mean(wanted, axis=0), strict=True):
        assert Spectral.of("s2", S2, SpectralOptions(bins=bins))(images) == pytest.approx(answer, abs=1e-12)


def test_the_unit_of_the_stored_numbers_does_not_matter():
    rng = np.random.default_rng(4)
    stored = rng.integers(0, 9000, (1, 4, 32, 32)).astype(np.uint16)
    wanted = Spectral.of("s2", S2, SpectralOptions())(stored)
    shares = S2.model_copy(update={"unit": "reflectance", "scale": 1e-4})
    shifted = S2.model_copy(update={"offset": -1000.0})
    assert Spectral.of("s2", shares, SpectralOptions())(stored) == pytest.approx(wanted)
    assert Spectral.of("s2", shifted, SpectralOptions())(stored + np.uint16(1000)) == pytest.approx(wanted)
    fixed = SpectralOptions(range=(0.0, 0.5))
    plain = SpectralOptions(range=(0.0, 5000.0))
    assert Spectral.of("s2", shares, fixed)(stored) == pytest.approx(Spectral.of("s2", S2, plain)(stored), abs=1e-3)


def test_another_sensor_takes_the_scaling_of_its_spec():
    rng = np.random.default_rng(5)
    power = np.exp(rng.normal(-3, 1, (1, 2, 40, 40))).astype(np.float32)
    radar = sensor(scaling=Scaling(log=True, subtract=-3.0, divide_by=1.0))
    byte = (np.clip((np.log(power.astype(float)) + 5) / 4, 0, 1) * 255).astype(np.uint8) // 4
    wanted = np.mean([stats.entropy(np.bincount(band.ravel())) for band in byte[0]])
    assert Spectral.of("s1", radar, SpectralOptions())(power) == pytest.approx(wanted)


def test_negative_numbers_of_16_bits_find_their_bin():
    images = np.asarray([-300, -200, 100, 200], np.int16).reshape(1, 1, 2, 2)
    assert measured(images, range=(-400.0, 400.0), bins=8) == pytest.approx(np.log(4))


def test_invalid_pixels_do_not_count():
    rng = np.random.default_rng(6)
    images = rng.integers(0, 64, (1, 2, 16, 16)).astype(np.uint16)
    valid = rng.random((1, 16, 16)) < 0.6
    wanted = np.mean([stats.entropy(np.bincount(band[valid[0]])) for band in images[0]])
    assert measured(images, valid) == pytest.approx(wanted)
    spoiled = np.where(valid[:, None], images, np.uint16(63))
    assert measured(spoiled, valid) == pytest.approx(wanted)
    assert np.isnan(measured(images, np.zeros_like(valid)))
    assert np.isnan(measured(images, valid, least_pixels=int(valid.sum()) + 1))


def test_a_date_with_too_few_pixels_is_left_out_of_the_mean():
    images = np.zeros((2, 1, 4, 4), np.uint16)
    images[0] = np.arange(16).reshape(4, 4) * 4
    valid = np.stack([np.ones((4, 4), bool), np.arange(16).reshape(4, 4) < 3])
    assert measured(images, valid, least_pixels=4) == pytest.approx(np.log(16))


def test_sentinel_2_is_told_from_landsat_by_wavelengths_or_names_that_it_alone_has():
    landsat = Sensor(bands=("B02", "B03", "B05"), gsd_m=30, unit="reflectance_1e4", wavelengths_nm=(482, 561, 865))
    assert sentinel2_names(landsat) is None
    assert sentinel2_names(landsat.model_copy(update={"wavelengths_nm": (492, 560, 704)})) == ("B2", "B3", "B5")
    assert sentinel2_names(landsat.model_copy(update={"wavelengths_nm": None})) is None
    assert sentinel2_names(S2) == ("B2", "B3", "B8A", "B12")


def test_of_thirteen_bands_ten_count_by_default():
    names = tuple(SATMAE)
    thirteen = Sensor(bands=names, gsd_m=10, unit="reflectance_1e4")
    assert Spectral.of("s2", thirteen, SpectralOptions()).bands == TEN
    assert Spectral.of("s2", thirteen, SpectralOptions(bands=("B10",))).bands == ("B10",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bins": 1}, "greater than or equal to 2"),
        ({"range": (5.0, 5.0)}, "range: [5.0, 5.0] is empty"),
        ({"trim": 2.0}, "trim belongs to range image"),
        ({"bins": 512}, "8-bit numbers fill at most 256 bins, not 512"),
        ({"base": 3.0}, "base: 3 is none of e, 2, 10"),
    ],
)
def test_options_that_contradict_are_refused(options, said):
    with pytest.raises(ValueError, match=said.replace("[", r"\[").replace("]", r"\]")):
        SpectralOptions(**options)


def test_a_sensor_without_a_known_range_is_refused():
    with pytest.raises(SpecError, match=r"sensor 's1': nothing tells the mean .* give `scaling` .* or choose --range"):
        Spectral.of("s1", sensor(), SpectralOptions())


def test_an_unknown_band_is_refused():
    with pytest.raises(SpecError, match="sensor 's1' has no band B99; it has x0, x1"):
        Spectral.of("s1", sensor(), SpectralOptions(bands=("B99",), range="image"))


REAL = {"s2_global": "s2", "terramesh": "s2l2a"}


@pytest.mark.parametrize(("name", "key"), REAL.items())
def test_the_default_gives_real_tiles_the_published_order_of_magnitude(data_dir, name, key):
    """Means of ten pretraining sets lie from 1.6 to 3.2 nats (arXiv 2604.21104); 256 bins give too much."""
    spec = load_spec(RECIPES / f"{name}.yaml")
    scenes = open_scenes(spec, data_dir / name, ("train", "val", "test") if name == "s2_global" else ("train", "test"))
    means = {}
    for bins in (64, 256):
        spectral = Spectral.of(key, spec.sensors[key].sensor(), SpectralOptions(bins=bins))
        found = []
        for number in range(len(scenes)):
            with scenes.scene(number) as scene:
                series = scene.series[key]
                found.append(spectral(series.read(None, Window(0, 0, *series.shape[2:]))))
        means[bins] = float(np.mean(found))
    assert 1.6 < means[64] < 3.2
    assert means[256] > 3.0
