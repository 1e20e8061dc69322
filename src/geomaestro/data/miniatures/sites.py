"""Sites of the miniature Earth at 10 m, some hundred metres wide: what the Sentinel-2 miniatures share.

Axes: f fields, c bands, h rows, w columns. Sentinel-2 is reflectance * 10000; days count from 0 on 1 January.
All numbers are *assumed* unless said: plausible, taken from no publication.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy import ndarray
from numpy.random import Generator, SeedSequence

from geomaestro.data.miniatures import earth
from geomaestro.errors import DataError

SPLITS = ("train", "val", "test")
L1C = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
L2A = tuple(band for band in L1C if band != "B10")
PIXEL_M = {band: 10 for band in ("B2", "B3", "B4", "B8")} | {band: 60 for band in ("B1", "B9", "B10")}  # others 20
# Top of atmosphere = PATH + REACH * surface; chosen to meet the real EuroSAT tiles of one forest and one field
PATH = (930, 560, 270, 150, 110, 90, 80, 70, 50, 20, 10, 10, 10)
REACH = (0.75, 0.85, 0.88, 0.9, 0.92, 0.94, 0.95, 0.95, 0.96, 0.28, 0.0007, 0.97, 0.95)
LOOKS = 4.4  # of a Sentinel-1 GRD product in IW mode
METRES_PER_DEGREE = 111_319.49079327357  # of the equator, as Earth Engine's scale in EPSG:4326
PLACES = (  # longitude, latitude of inland towns on six continents
    (-3.70, 40.42), (13.40, 52.52), (30.52, 50.45), (21.01, 52.23), (32.85, 39.93), (77.21, 28.61), (104.07, 30.67),
    (113.6, 34.75), (36.82, -1.29), (28.05, -26.20), (8.52, 12.00), (-99.13, 19.43), (-104.99, 39.74), (-96.80, 32.78),
    (-47.88, -15.79), (-64.18, -31.42), (-74.07, 4.71), (149.13, -35.28), (133.88, -23.70),
)  # fmt: skip

Shape = Callable[[Generator, int, int], ndarray]  # (random, h, w) -> (h, w) bool: the pixels of the feature


@dataclass(frozen=True)
class Recipe:
    """What a class looks like: parcels of the `ground` covers and, in the pixels of `shape`, the `feature` cover."""

    ground: tuple[str, ...]
    parcels: int
    feature: str | None = None
    shape: Shape | None = None


def random_of(seed: int, split: str, *numbers: int) -> Generator:
    """The random numbers of one sample, whatever the other samples are."""
    return np.random.default_rng(SeedSequence((seed, SPLITS.index(split), *numbers)))


def claim(folder: Path) -> Path:
    """Make a folder, or refuse one that holds something.

    Raises:
        DataError: naming the folder, if it is a file or not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: expected a new or empty folder but it holds something; delete it or choose another")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_samples(samples: dict[str, int]) -> None:
    """Raise a DataError unless `samples` gives a count of 0 or more for some of the splits."""
    for split, count in samples.items():
        if split not in SPLITS or count < 0:
            raise DataError(f"samples: {split!r} is {count}; expected 0 or more of {', '.join(SPLITS)}")


# ---- what lies where ----


def draw_land(random: Generator, recipe: Recipe, height: int, width: int) -> earth.Tile:
    """Parcels and a feature. Unlike in earth.py, `field_of` is (h, w) pixels of 10 m."""
    names = [str(name) for name in random.choice(recipe.ground, recipe.parcels)]
    field_of = _parcels(random, recipe.parcels, height, width)
    if recipe.feature and recipe.shape:
        field_of[recipe.shape(random, height, width)] = len(names)
        names.append(recipe.feature)
    count = len(names)
    tint = random.normal(0, 0.07, (count, 1)) + random.normal(0, 0.04, (count, len(earth.BANDS)))
    return earth.Tile(
        covers=tuple(earth.CLASSES.index(name) for name in names),
        field_of=field_of,
        shift_days=random.normal(0, 5, count),
        vigour=random.uniform(0.8, 1.05, count),
        tint=np.exp(tint),
        loudness_db=random.normal(0, 0.6, (count, 2)),
        angle=np.zeros(count),
        wet_phase=random.uniform(0, 2 * np.pi, 3),
    )


def _parcels(random: Generator, count: int, height: int, width: int) -> ndarray:
    """The nearest of `count` random points: (h, w) uint8 below `count`."""
    rows, columns = np.arange(height)[:, None], np.arange(width)
    points = random.uniform(0, 1, (count, 2)) * (height, width)
    away = [(rows - row) ** 2 + (columns - column) ** 2 for row, column in points]
    return np.argmin(away, axis=0).astype(np.uint8)


def strip(wide_px: float) -> Shape:
    """A wavy strip through the middle, of some width, in any direction: a road, a runway, a river."""

    def draw(random: Generator, height: int, width: int) -> ndarray:
        rows, columns = np.arange(height)[:, None] - height / 2, np.arange(width) - width / 2
        angle = random.uniform(0, 2 * np.pi)
        across, along = np.cos(angle) * rows + np.sin(angle) * columns, np.cos(angle) * columns - np.sin(angle) * rows
        wave = 3 * np.sin(along / random.uniform(8, 20) + random.uniform(0, 6))
        return np.abs(across + wave + random.uniform(-5, 5)) < wide_px / 2

    return draw


def blob(random: Generator, height: int, width: int) -> ndarray:
    """A disc over a quarter to a half of the land: a lake."""
    rows, columns = np.arange(height)[:, None] - height / 2, np.arange(width) - width / 2
    radius = random.uniform(0.28, 0.4) * np.sqrt(height * width)
    return rows**2 + columns**2 < radius**2


def blocks(random: Generator, height: int, width: int) -> ndarray:
    """Houses of 2 pixels between gardens and streets of 1, some of them missing."""
    rows, columns = np.arange(height) + random.integers(3), np.arange(width) + random.integers(3)
    standing = random.uniform(size=(height // 3 + 2, width // 3 + 2)) < 0.9
    return (rows % 3 < 2)[:, None] & (columns % 3 < 2) & standing[rows // 3][:, columns // 3]


def stripes(random: Generator, height: int, width: int) -> ndarray:
    """Every third row or column: bare ground between the trees of a plantation."""
    rows, columns = np.arange(height)[:, None], np.arange(width)
    line = rows + 0 * columns if random.uniform() < 0.5 else columns + 0 * rows
    return line % 3 == 0


# ---- how it looks from space ----


def day_of_season(day: date, lat_deg: float) -> int:
    """Day of the year as the north counts it: half a year is added south of the equator."""
    return (day.timetuple().tm_yday - 1 + (182 if lat_deg < 0 else 0)) % 365


def surface(random: Generator, land: earth.Tile, day: int) -> ndarray:
    """Surface reflectance * 10000 in L1C: (c, h, w) float32, all bands at 10 m; B10 is that of B11."""
    spectra = earth.reflectance(land, np.array([day]))[0] * 1e4
    known = dict(zip(earth.BANDS, spectra.T, strict=True))
    known |= {"B01": 0.8 * known["B02"], "B09": 0.97 * known["B8A"], "B10": known["B11"]}
    fields = np.stack([known[f"B{band[1:]:0>2}"] for band in L1C]).astype(np.float32)  # (c, f)
    light = 1 + 0.05 * random.standard_normal(land.field_of.shape, np.float32)
    noise = 1 + 0.015 * random.standard_normal((len(L1C), *land.field_of.shape), np.float32)
    return np.asarray(fields[:, land.field_of] * light * noise)


def top_of_atmosphere(random: Generator, ground: ndarray) -> ndarray:
    """L1C reflectance * 10000 above a `surface` (c, h, w), through the haze of one day."""
    path, reach = (np.array(values, np.float32)[:, None, None] for values in (PATH, REACH))
    return np.asarray(path * np.float32(random.uniform(0.85, 1.2)) + reach * ground)


def to_uint16(image: ndarray) -> ndarray:
    return np.asarray(np.clip(np.round(image), 1, 65535).astype(np.uint16))


def backscatter_db(random: Generator, land: earth.Tile, day: int) -> ndarray:
    """Sentinel-1 VV, VH in dB with gamma speckle: (2, h, w) float32."""
    fields = earth.backscatter(land, np.array([day]))[0].T  # (2, f)
    speckle = random.standard_gamma(LOOKS, (2, *land.field_of.shape), np.float32) / LOOKS
    return np.asarray((fields[:, land.field_of] + 10 * np.log10(speckle + 1e-6)).astype(np.float32))


def coarsened(image: ndarray, factor: int) -> ndarray:
    """Means of blocks of `factor` x `factor` pixels: (..., ceil(h / factor), ceil(w / factor)); edges are repeated."""
    height, width = image.shape[-2:]
    around = [(0, 0)] * (image.ndim - 2) + [(0, -height % factor), (0, -width % factor)]
    whole = np.pad(image, around, mode="edge")
    rows, columns = whole.shape[-2] // factor, whole.shape[-1] // factor
    return np.asarray(whole.reshape(*image.shape[:-2], rows, factor, columns, factor).mean((-3, -1)))


def resampled(image: ndarray, bands: Sequence[str]) -> ndarray:
    """Bands (c, h, w) at 10 m as a product gives them: each pixel of 20 or 60 m repeated."""
    height, width = image.shape[-2:]
    result = np.empty_like(image)
    for index, band in enumerate(bands):
        factor = PIXEL_M.get(band, 20) // 10
        coarse = coarsened(image[index], factor)
        result[index] = coarse.repeat(factor, 0).repeat(factor, 1)[:height, :width]
    return result


def draw_place(random: Generator) -> tuple[float, float]:
    """Longitude and latitude within some 20 km of one of PLACES."""
    lon, lat = PLACES[int(random.integers(len(PLACES)))]
    return lon + float(random.normal(0, 0.06)), lat + float(random.normal(0, 0.06))
