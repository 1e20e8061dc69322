"""A miniature of FLAIR-HUB in its file layout: French patches of 102.4 m with aerial, elevation, SPOT and Sentinels.

Layout: the FLAIR-HUB release and its readers. As there, a zone ("{domain}_{area}") shares its dates and has two
patches here, and LPIS counts "background" last and "grasses" 0 in each of three levels. *Assumed*: uint8 for snow
and cloud, all label values beyond the class tables, "{row}-{column}" as the position. Real zones have about 90 dates
of each Sentinel series. Axes: t dates, c bands, h rows, w columns.
"""

import json
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from geomaestro.data.miniatures import earth, files, land
from geomaestro.data.miniatures.land import COVER, SPLITS, Land
from geomaestro.data.miniatures.synthetic import SNOW

EPSG = 2154
SIDE_PX, SIDE_M, CELLS, SPOT_PX, PAN_PX = 512, 102.4, 10, 64, 256
DOMAINS = {"train": ("D005-2018", "D033-2021"), "val": ("D012-2019",), "test": ("D022-2020",)}
PATCHES_OF_ZONE = 2
AREAS = ("AA", "AF", "FF", "NN", "UA", "UN", "UU")  # assumed; two letters of the kind of land
HERBACEOUS, CROPLAND, PLOUGHED, UNDEFINED = 8, 9, 10, 18
COSIA = {"water": 6, "built_up": 3, "grassland": 8, "broadleaf_forest": 12, "conifer_forest": 13, "orchard": 11}
LPIS_BACKGROUND = (22, 30, 45)
LPIS = {
    "grassland": (0, 0, 1), "winter_cereal": (1, 1, 2), "spring_cereal": (2, 2, 5), "maize": (3, 3, 6),
    "rapeseed": (8, 12, 21), "orchard": (16, 23, 37),
}  # fmt: skip
HEIGHTS_M = {"broadleaf_forest": 16.0, "conifer_forest": 21.0, "orchard": 3.5}
HOUSE_M, HERBS_M = 6.5, 0.3
FILES = {  # type -> side of a pixel, metres
    "AERIAL_RGBI": 0.2, "DEM_ELEV": 0.2, "SPOT_RGBI": 1.6, "AERIAL-RLT_PAN": 0.4, "AERIAL_LABEL-COSIA": 0.2,
    "ALL_LABEL-LPIS": 0.2, "SENTINEL2_TS": 10.24, "SENTINEL2_MSK-SC": 10.24, "SENTINEL1-ASC_TS": 10.24,
    "SENTINEL1-DESC_TS": 10.24,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Zone:
    """Neighbouring patches of one area: what they share."""

    domain: str
    area: str
    corner: files.Corner
    level_m: float  # of the ground
    days: dict[str, ndarray]  # sensor as in the names of the metadata -> days of the domain's year

    def told(self, sensor: str) -> str:
        """The sensor's dates as the metadata says them: one date, or a JSON object of dates from "1"."""
        start = date(int(self.domain[-4:]), 1, 1)
        dates = [f"{start + timedelta(days=day):%Y%m%d}" for day in self.days[sensor].tolist()]
        if sensor.startswith("SENTINEL"):
            return json.dumps({str(i): day for i, day in enumerate(dates, start=1)})
        return f"19{int(dates[0][4:]) % 13 + 47}{dates[0][4:6]}00" if sensor == "AERIAL-RLT" else dates[0]


def write(folder: Path, samples: dict[str, int], seed: int) -> None:
    """Write the whole dataset; patch i of a split depends on (seed, split, i) alone."""
    (folder / "GLOBAL_ALL_MTD").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[files.Row]] = {}
    for split in SPLITS:
        patches = [_write_patch(folder, seed, split, i, rows) for i in range(samples.get(split, 0))]
        files.write_list(folder / f"{split}.csv", "patch_id", patches)
        flair2 = [patch for i, patch in enumerate(patches) if i % 3 != 1]  # the original keeps about a third
        files.write_list(folder / f"{split}_flair2.csv", "patch_id", flair2)
    for sensor, told in rows.items():
        column = "acquisition_dates" if sensor.startswith("SENTINEL") else "date"
        path = folder / "GLOBAL_ALL_MTD" / f"GLOBAL_{sensor}_MTD_DATES.gpkg"
        files.write_geopackage(path, column, told, epsg=EPSG)


def draw_zone(seed: int, split: str, number: int) -> Zone:
    """Zone `number` of a split; its domains take turns."""
    random = land.rng_of(seed, split, number, 1)
    domain = DOMAINS[split][number % len(DOMAINS[split])]
    area = f"{random.choice(AREAS)}-S{random.integers(1, 3)}-{number + 1}"
    west = 200_000.0 + 200_000 * SPLITS.index(split) + 2000 * (number % 90)
    days = {"AERIAL": random.integers(165, 240, 1), "SPOT": random.integers(90, 260, 1)}
    days["AERIAL-RLT"] = days["AERIAL"]
    days["SENTINEL2"] = land.passes(random, 0, 365, repeat_days=5, count=int(random.integers(20, 41)))
    for orbit in ("ASC", "DESC"):
        days[f"SENTINEL1-{orbit}"] = land.passes(random, 0, 365, repeat_days=6, count=int(random.integers(20, 31)))
    corner = (west, 6_800_000.0 - 2000 * (number // 90))
    return Zone(domain=domain, area=area, corner=corner, level_m=random.uniform(20, 600), days=days)


def _write_patch(folder: Path, seed: int, split: str, index: int, rows: dict[str, list[files.Row]]) -> str:
    """Write all images of a patch, note its dates in `rows` (sensor -> rows) and return its name."""
    number, column = divmod(index, PATCHES_OF_ZONE)
    zone = draw_zone(seed, split, number)
    corner = (zone.corner[0] + SIDE_M * column, zone.corner[1])
    patch = f"{zone.domain}_{zone.area}_0-{column}"
    for kind, bands in _images(land.rng_of(seed, split, index), zone).items():
        domain = zone.domain[:5] + "195X" if kind == "AERIAL-RLT_PAN" else zone.domain
        path = folder / f"{domain}_{kind}" / zone.area / f"{domain}_{kind}_{zone.area}_0-{column}.tif"
        files.write_geotiff(path, bands, epsg=EPSG, corner=corner, gsd_m=FILES[kind])
    for sensor in zone.days:
        rows.setdefault(sensor, []).append((patch, zone.told(sensor), corner, SIDE_M))
    return patch


def _images(random: Generator, zone: Zone) -> dict[str, ndarray]:
    """Type -> (bands, h, w); bands of a series are t * c, all of the first date first."""
    ground = land.draw_land(random, side=SIDE_PX, gsd_m=0.2, field_m=42, chances=land.COUNTRYSIDE)
    flight_day = int(zone.days["AERIAL"][0])
    aerial = land.image(random, ground, flight_day)[[1, 2, 3, 0]]
    spot = land.image(random, ground, int(zone.days["SPOT"][0]))[[1, 2, 3, 0]]
    images = {
        "AERIAL_RGBI": aerial,
        "SPOT_RGBI": np.round(8 * _blocks(spot, SPOT_PX)).astype(np.uint16),
        "AERIAL-RLT_PAN": np.round(_blocks(aerial[:3].mean(0, keepdims=True), PAN_PX)).astype(np.uint8),
        "DEM_ELEV": _elevation(random, ground, aerial[3], zone.level_m),
        "AERIAL_LABEL-COSIA": _cosia(random, ground, flight_day)[None],
        "ALL_LABEL-LPIS": _lpis(ground),
    }
    images["SENTINEL2_TS"], images["SENTINEL2_MSK-SC"] = _optical(random, ground, zone.days["SENTINEL2"])
    for orbit in ("ASC", "DESC"):
        power = land.radar(random, ground, zone.days[f"SENTINEL1-{orbit}"], CELLS, incidence_deg=38)
        images[f"SENTINEL1-{orbit}_TS"] = power.reshape(-1, CELLS, CELLS)
    return images


def _blocks(image: ndarray, side: int) -> ndarray:
    """Block means of (c, h, w): (c, side, side)."""
    block = image.shape[1] // side
    mean: ndarray = image.reshape(len(image), side, block, side, block).mean((2, 4), dtype=np.float32)
    return mean


def _optical(random: Generator, ground: Land, days: ndarray) -> tuple[ndarray, ndarray]:
    """Reflectance * 10000 (t * 10, h, w) uint16, and snow, cloud in percent (t * 2, h, w) uint8."""
    seen, opacity = land.optical(random, ground, days, CELLS)
    winter = (days < 60) | (days > 330)
    snow = np.where(winter & (random.uniform(size=len(days)) < 0.2), 0.8, 0.0)[:, None, None] * (opacity < 0.5)
    seen = seen * (1 - snow[:, None]) + np.array(SNOW)[:, None, None] * snow[:, None]
    percent = np.stack([100 * snow, np.minimum(130 * opacity, 100)], 1)
    flat = (-1, CELLS, CELLS)
    return np.round(seen * 1e4).astype(np.uint16).reshape(flat), np.round(percent).astype(np.uint8).reshape(flat)


def _elevation(random: Generator, ground: Land, nir: ndarray, level_m: float) -> ndarray:
    """Surface and terrain in metres: (2, h, w) float32, to the decimetre; trees stand where they are bright."""
    at = np.arange(SIDE_PX) / SIDE_PX
    waves = [np.sin(2 * np.pi * (at * random.uniform(0.3, 1.5) + random.uniform())) for _ in range(2)]
    terrain = level_m + random.uniform(-6, 6) * at + 2.5 * waves[0] + 2.5 * waves[1][:, None]
    heights = np.array([HEIGHTS_M.get(name, HERBS_M) for name in COVER])
    heights[COVER["water"]] = 0
    cover_of = ground.cover_of
    above = heights[cover_of] * np.where(heights[cover_of] > 1, 0.4 + 0.8 * (nir / 255), 1)
    above[_built(ground, *land.ROOFS)] = HOUSE_M
    return np.round(np.stack([terrain + above, terrain]), 1).astype(np.float32)


def _built(ground: Land, *kinds: int) -> ndarray:
    """Which built-up pixels are of some kinds: (h, w) bool."""
    return (ground.cover_of == COVER["built_up"]) & np.isin(ground.kind_of, kinds)


def _cosia(random: Generator, ground: Land, day: int) -> ndarray:
    """Land cover classes (h, w) uint8; crops that are not green that day are ploughed land, odd corners undefined."""
    tile = ground.tile
    green = earth.greenness(tile, np.array([day]))[0]
    crops = [CROPLAND if share > 0.25 else PLOUGHED for share in green]
    table = [COSIA.get(earth.CLASSES[cover], crop) for cover, crop in zip(tile.covers, crops, strict=True)]
    classes = np.array(table, np.uint8)[tile.field_of]
    classes[_built(ground, land.GARDEN)] = HERBACEOUS
    classes[_built(ground, *land.ROOFS)] = 0
    if random.uniform() < 0.5:
        height, width = random.integers(20, 60, 2).tolist()
        classes[:height, :width] = UNDEFINED
    return classes


def _lpis(ground: Land) -> ndarray:
    """Crops declared, in three levels of detail: (3, h, w) uint8."""
    table = np.array([LPIS.get(name, LPIS_BACKGROUND) for name in COVER], np.uint8)
    return table.T[:, ground.cover_of]
