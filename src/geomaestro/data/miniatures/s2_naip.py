"""A miniature of S2-NAIP (urban) in its file layout: US tiles of 640 m with NAIP, Sentinels, Landsat and map data.

Layout: the allenai/s2-naip card and its MAESTRO reader, who stacked the bands of Sentinel-2 and Landsat at 10 m.
*Assumed*: the order of bands in those stacks (ascending wavelength; B1..B11), ascending dates, Landsat as level-1
numbers. Map data count x right and y down in pixels of the NAIP image. Axes: t dates, c bands, h rows, w columns.
"""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from geomaestro.data.miniatures import earth, files, land
from geomaestro.data.miniatures.land import COVER, SPLITS, Land

EPSG = 32612
SIDE_PX, TILE_M, CELLS = 512, 640, 64
YEARS = (2019, 2020, 2021)
LANDSAT_DATES = 4
MAPPED = {"water": "river", "grassland": "leisure"}  # cover -> category of the map data
DRAWN = ("Polygon", "MultiPolygon", "LineString", "MultiLineString")
BAND = {name: index for index, name in enumerate(earth.BANDS)}
Feature = dict[str, Any]


def write(folder: Path, samples: dict[str, int], seed: int) -> None:
    """Write the whole dataset; tile i of a split depends on (seed, split, i) alone."""
    dates = [f"dates/{sensor}" for sensor in ("naip", "s2", "s1", "landsat")]
    for name in ("naip", "sentinel2", "sentinel1", "landsat", "openstreetmap", *dates):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        names = [_write_tile(folder, seed, split, i) for i in range(samples.get(split, 0))]
        files.write_list(folder / f"{split}.csv", "name", names)


def place_of(split: str, index: int) -> tuple[str, files.Corner]:
    """Name "{epsg}_{column}_{row}" of a tile and its west and north edge.

    Columns and rows count tiles of 640 m east and *south* of the projection's origin: 32612_960_-6049 has its west
    and north edge at 614400 and 3871360.
    """
    column = 600 + 130 * SPLITS.index(split) + index % 130
    row = -6000 + index // 130
    return f"{EPSG}_{column}_{row}", (column * float(TILE_M), -row * float(TILE_M))


def _write_tile(folder: Path, seed: int, split: str, index: int) -> str:
    """Write all files of a tile and return its name."""
    random = land.rng_of(seed, split, index)
    name, corner = place_of(split, index)
    ground = land.draw_land(random, side=SIDE_PX, gsd_m=1.25, field_m=150, chances=land.CITY)
    start = date(int(random.choice(YEARS)), 1, 1)
    day = int(random.integers(140, 250))
    files.write_png(folder / "naip" / f"{name}.png", land.image(random, ground, day)[[1, 2, 3, 0]].transpose(1, 2, 0))
    days = {
        "s2": land.passes(random, day - 90, day + 90, repeat_days=5, count=int(random.integers(16, 33))),
        "s1": land.passes(random, day - 60, day + 60, repeat_days=12, count=int(random.integers(2, 9))),
        "landsat": land.passes(random, 0, 365, repeat_days=16, count=LANDSAT_DATES),
    }
    optical, _ = land.optical(random, ground, days["s2"], CELLS)
    stacks = {
        f"sentinel2/{name}_stacked.tif": np.round(optical * 1e4).astype(np.uint16),
        f"sentinel1/{name}.tif": 10 * np.log10(land.radar(random, ground, days["s1"], CELLS, incidence_deg=38)),
        f"landsat/{name}_stacked.tif": _landsat(random, ground, days["landsat"]),
    }
    for file, stack in stacks.items():
        flat = stack.reshape(-1, CELLS, CELLS)  # date by date, all bands of the first date first
        files.write_geotiff(folder / file, flat, epsg=EPSG, corner=corner, gsd_m=10.0)
    products = {sensor: _products(random, sensor, start, of) for sensor, of in days.items()}
    products["naip"] = [f"m_{3411800 + index % 64 + 1}_ne_12_060_{start + timedelta(days=day):%Y%m%d}"]
    for sensor, names in products.items():
        (folder / "dates" / sensor / f"{name}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    collection = {"type": "FeatureCollection", "features": _map_features(ground)}
    files.write_json(folder / "openstreetmap" / f"{name}.geojson", collection)
    return name


def _products(random: Generator, sensor: str, start: date, days: ndarray) -> list[str]:
    """Names as ESA and USGS write them; the date is field -5 (Sentinels) or -4 (Landsat) between underscores."""
    names = []
    for day in days.tolist():
        at, number = f"{start + timedelta(days=day):%Y%m%d}", int(random.integers(1 << 16))
        later = f"{start + timedelta(days=day + 14):%Y%m%d}"
        if sensor == "s2":
            names.append(f"S2{'AB'[number % 2]}_MSIL1C_{at}T182921_N0209_R027_T12SVC_{at}T220133")
        elif sensor == "s1":
            orbit = 20_000 + number % 20_000
            names.append(f"S1A_IW_GRDH_1SDV_{at}T013521_{at}T013546_{orbit:06d}_{orbit * 8:06X}_{number:04X}")
        else:
            names.append(f"LC08_L1TP_037036_{at}_{later}_02_T1")
    return names


def _landsat(random: Generator, ground: Land, days: ndarray) -> ndarray:
    """B1 to B11 of Landsat 8 as level-1 numbers, 2e-5 of a reflectance each: (t, 11, h, w) uint16."""
    seen, opacity = land.optical(random, ground, days, CELLS)
    blue, green, red, nir, swir1, swir2 = (seen[:, BAND[name]] for name in ("B02", "B03", "B04", "B8A", "B11", "B12"))
    warm = 0.45 + 0.1 * swir1 - 0.15 * opacity  # the two thermal bands have scales of their own
    bands = [0.95 * blue, blue, green, red, nir, swir1, swir2, (blue + green + red) / 3, 0.002 + 0.05 * opacity]
    numbers = (np.stack([*bands, warm, 0.9 * warm], 1) + 0.1) / 2e-5
    return np.round(numbers.clip(0, 65_535)).astype(np.uint16)


def _map_features(ground: Land) -> list[Feature]:
    """Waters, parks, then streets, then houses: the later lie on top."""
    import shapely

    window = shapely.box(0, 0, SIDE_PX, SIDE_PX)
    fields = [shapely.Polygon(ring).intersection(window) for ring in ground.corners]
    features = []
    for name, category in MAPPED.items():
        parts = [field for field, cover in zip(fields, ground.tile.covers, strict=True) if cover == COVER[name]]
        features += [_feature(category, part) for part in parts]
    built = [field for field, cover in zip(fields, ground.tile.covers, strict=True) if cover == COVER["built_up"]]
    streets = np.flatnonzero((ground.kind_of == land.STREET).all(1))
    middles = [part.mean() + 0.5 for part in np.split(streets, np.flatnonzero(np.diff(streets) > 1) + 1) if len(part)]
    lines = shapely.MultiLineString([[(0, float(y)), (SIDE_PX, float(y))] for y in middles])
    on_streets = lines.intersection(shapely.union_all(built))
    features += [_feature("road", part) for part in getattr(on_streets, "geoms", [on_streets])]
    for top, left, bottom, right in ground.houses.tolist():
        features.append(_feature("building", shapely.box(left, top, right, bottom)))
    return [feature for feature in features if feature["geometry"]["type"] in DRAWN]


def _feature(category: str, shape: Any) -> Feature:
    from shapely.geometry import mapping

    return {"type": "Feature", "properties": {"category": category}, "geometry": mapping(shape)}
