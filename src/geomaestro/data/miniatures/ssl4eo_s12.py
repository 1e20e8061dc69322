"""A miniature of SSL4EO-S12 v1.0: four seasons of Sentinel-1, Sentinel-2 L1C and L2A at each place, no labels.

Layout (the downloader in zhu-xlab/SSL4EO-S12, TorchGeo's reader and its test files, unless *assumed*):
    s1/<id>/<product>/{VV,VH}.tif                       float32 dB
    s2c/<id>/<taken>_<made>_<tile>/{B1,..,B8,B8A,..,B12}.tif   L1C, 13 bands
    s2a/<id>/<taken>_<made>_<tile>/...                  L2A, the same without B10
    <sensor>/<id>/<product>/metadata.json               properties of Earth Engine; here a few of them
ids have seven digits. One band a file, uint16 reflectance * 10000, 264, 132 or 44 pixels a side for 10, 20 or 60 m, not
packed, in longitude and latitude. The corner is half a pixel *of each band* too far north and west, as in the
original: the bands of one place do not share a corner. s2a and s2c differ in some dates, as they do there, and names
of s1 do not sort by date, for S1A comes before S1B. The original has no splits; its repository lists a random subset
as one id a line in 50k_ids_random.csv, and such a file with the ids of train is written here (its place is assumed).
"""

import json
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from geomaestro.data.miniatures import earth
from geomaestro.data.miniatures.sites import (
    L1C,
    L2A,
    METRES_PER_DEGREE,
    PIXEL_M,
    SPLITS,
    Recipe,
    backscatter_db,
    blocks,
    check_samples,
    claim,
    coarsened,
    day_of_season,
    draw_land,
    draw_place,
    random_of,
    strip,
    surface,
    to_uint16,
    top_of_atmosphere,
)
from geomaestro.errors import DataError

FIRST_ID = {"train": 0, "val": 200_000, "test": 225_000}  # ids of the original have gaps and end at about 251,150
SEASONS = (date(2021, 9, 22), date(2021, 6, 21), date(2021, 3, 20), date(2020, 12, 21))  # their code
LAUNCHES = {"A": date(2014, 4, 3), "B": date(2016, 4, 25)}
ORBITS_PER_DAY = 175 / 12
OTHER_DATE = 0.3  # assumed; chance that L2A of a season is of another date than L1C
SQUARE = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # letters of MGRS
GROUND = ("grassland", "broadleaf_forest", "conifer_forest", "winter_cereal", "maize", "orchard")
RECIPES = (
    Recipe((*GROUND, "built_up"), 12),
    Recipe(GROUND, 9, "water", strip(14)),
    Recipe(GROUND[:3], 7, "built_up", blocks),
)


def write(folder: Path, samples: dict[str, int], seed: int, px: int = 264) -> None:
    """Write s1/, s2c/, s2a/ and the ids of train; `samples` counts places by split, `px` pixels of a band of 10 m.

    Place i of a split depends on (seed, split, i, px) alone.

    Raises:
        DataError: if `px` is no multiple of 6, a folder holds something, or a count is not one.
    """
    check_samples(samples)
    if px < 6 or px % 6:
        raise DataError(f"px is {px}; expected a multiple of 6, so that bands of 20 and 60 m have whole pixels")
    for sensor in ("s1", "s2c", "s2a"):
        claim(Path(folder) / sensor)
    for split in SPLITS:
        for index in range(samples.get(split, 0)):
            _write_place(Path(folder), FIRST_ID[split] + index, random_of(seed, split, index), px)
    ids = (f"{FIRST_ID['train'] + index}\n" for index in range(samples.get("train", 0)))
    (Path(folder) / "50k_ids_random.csv").write_text("".join(ids))


def _write_place(folder: Path, number: int, random: Generator, px: int) -> None:
    lon, lat = draw_place(random)
    land = draw_land(random, RECIPES[int(random.integers(len(RECIPES)))], px, px)
    back = timedelta(days=int(random.integers(365)))  # their code: one year back at most, the same for all seasons
    tile = _tile(random, lon, lat)
    for season in SEASONS:
        for sensor, name, at, bands in _products(random, land, (lon, lat), season - back, tile):
            product = folder / sensor / f"{number:07d}" / name
            product.mkdir(parents=True)
            for band, image in bands.items():
                _write_geotiff(product / f"{band}.tif", image, lon, lat, px)
            (product / "metadata.json").write_text(json.dumps(_metadata(sensor, name, at)))


Product = tuple[str, str, datetime, dict[str, ndarray]]  # sensor, name, time, band -> (h, w)


def _products(
    random: Generator, land: earth.Tile, place: tuple[float, float], season: date, tile: str
) -> Iterator[Product]:
    """One image of each sensor within 15 days of a date."""
    lon, lat = place
    made_s = random.integers(200, 700, 2).tolist()
    taken = _local(season + timedelta(days=int(random.integers(-15, 16))), 10.5, lon)
    ground = surface(random, land, day_of_season(taken.date(), lat))
    seen = top_of_atmosphere(random, ground)
    yield "s2c", _optical_name(taken, made_s[0], tile), taken, _bands(seen, L1C)
    if random.uniform() < OTHER_DATE:
        taken, made_s[0] = taken + timedelta(days=10), made_s[1]
        ground = surface(random, land, day_of_season(taken.date(), lat))
    yield "s2a", _optical_name(taken, made_s[0], tile), taken, _bands(ground[[L1C.index(band) for band in L2A]], L2A)
    hour = 6.1 if random.uniform() < 0.5 else 18.1
    taken = _local(season + timedelta(days=int(random.integers(-15, 16))), hour, lon)
    radar = backscatter_db(random, land, day_of_season(taken.date(), lat))
    yield "s1", _radar_name(random, taken), taken, {"VV": radar[0], "VH": radar[1]}


def _bands(image: ndarray, bands: tuple[str, ...]) -> dict[str, ndarray]:
    """Each band at its own pixel size, uint16."""
    return {band: to_uint16(coarsened(image[index], PIXEL_M.get(band, 20) // 10)) for index, band in enumerate(bands)}


def _local(day: date, hours: float, lon: float) -> datetime:
    """UTC of a solar time of day at a longitude."""
    return datetime(day.year, day.month, day.day) + timedelta(hours=round(hours - lon / 15, 3))


def _optical_name(taken: datetime, made_s: int, tile: str) -> str:
    return f"{taken:%Y%m%dT%H%M%S}_{taken + timedelta(seconds=made_s):%Y%m%dT%H%M%S}_{tile}"


def _tile(random: Generator, lon: float, lat: float) -> str:
    """Zone and latitude band of MGRS are true, the letters of the 100 km square are drawn."""
    zone, band = int((lon + 180) // 6) + 1, "CDEFGHJKLMNPQRSTUVWX"[int((lat + 80) // 8)]
    return f"T{zone:02d}{band}" + "".join(random.choice(list(SQUARE), 2))


def _radar_name(random: Generator, taken: datetime) -> str:
    satellite = str(random.choice(list(LAUNCHES)))
    orbit = int((taken.date() - LAUNCHES[satellite]).days * ORBITS_PER_DAY)
    clocks = f"{taken:%Y%m%dT%H%M%S}_{taken + timedelta(seconds=25):%Y%m%dT%H%M%S}"
    return f"S1{satellite}_IW_GRDH_1SDV_{clocks}_{orbit:06d}_{orbit * 8 % 0x1000000:06X}_{random.integers(1 << 16):04X}"


def _metadata(sensor: str, name: str, at: datetime) -> dict[str, Any]:
    common = {"system:index": name, "system:time_start": int((at - datetime(1970, 1, 1)) / timedelta(milliseconds=1))}
    if sensor == "s1":
        return common | {"instrumentMode": "IW", "transmitterReceiverPolarisation": ["VV", "VH"]}
    return common | {"MGRS_TILE": name[-5:], "CLOUDY_PIXEL_PERCENTAGE": 0.0}


def _write_geotiff(path: Path, image: ndarray, lon: float, lat: float, px: int) -> None:
    """Write one band (h, w) of `px` times 10 m around a place, half of its own pixel too far north and west."""
    import rasterio

    high, wide = 10 * px / METRES_PER_DEGREE, 10 * px / METRES_PER_DEGREE / np.cos(np.radians(lat))  # degrees
    side = len(image)
    west, north = lon - wide / 2 - wide / side / 2, lat + high / 2 + high / side / 2
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": image.dtype.name}
    transform = rasterio.Affine(wide / side, 0, west, 0, -high / side, north)
    with rasterio.open(path, "w", crs="EPSG:4326", transform=transform, **profile) as file:
        file.write(image, 1)
