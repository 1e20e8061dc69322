"""A miniature of PASTIS-HD in its file layout: French fields of 1280 m with SPOT, Sentinel-1 and Sentinel-2.

Layout: PASTIS-R and PASTIS-HD releases as their readers use them. *Assumed*: S1 as float16, parcel numbers as int32,
the second and third channel of the target, lower-case tile names. Real series have 38-61 (S2) and about 70 (S1)
dates; here 30-45 and 28-32. Axes: t dates, c bands, h rows, w columns.
"""

import math
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from geomaestro.data.miniatures import files, land
from geomaestro.data.miniatures.land import COVER, SPLITS, Land

EPSG = 2154
SIDE_PX, CELLS = 1280, 128  # of SPOT at 1 m and of the Sentinels at 10 m
FIRST_DAY, LAST_DAY = 259, 664  # 17 September 2018 to 26 October 2019, from 1 January 2018
SPOT_DAY = 181  # 1 July
VOID = 19
SEEN_ENOUGH = 0.4  # assumed; a parcel of which less lies in the patch is void
CLASS_OF = {
    "grassland": 1, "winter_cereal": 2, "maize": 3, "rapeseed": 5, "spring_cereal": 6, "orchard": 16,
}  # fmt: skip
TILES = ("t30uxv", "t31tfj", "t32ulu")
TRAIN_FOLDS = 3
FRACTIONS = (5, 20)  # percent of the training labels
Feature = dict[str, object]


def write(folder: Path, samples: dict[str, int], seed: int) -> None:
    """Write the whole dataset; patch i of a split depends on (seed, split, i) alone."""
    for name in ("DATA_S2", "DATA_S1A", "DATA_S1D", "ANNOTATIONS", "DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    features = [_write_patch(folder, seed, split, i) for split in SPLITS for i in range(samples.get(split, 0))]
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{EPSG}"}}
    files.write_json(
        folder / "metadata.geojson",
        {"type": "FeatureCollection", "name": "metadata", "crs": crs, "features": features},
    )
    _write_lists(folder, samples, seed)


def fold_of(split: str, index: int) -> int:
    """Official fold of a patch, 1..5; the default split trains on 1 to 3, validates on 4 and tests on 5."""
    return {"train": 1 + index % TRAIN_FOLDS, "val": 4, "test": 5}[split]


def number_of(split: str, index: int) -> int:
    """A patch's five-digit name; as in the original the first digit stands for the Sentinel-2 tile."""
    return 10_000 * (1 + SPLITS.index(split)) + index


def _write_lists(folder: Path, samples: dict[str, int], seed: int) -> None:
    """Write the default split, its five rotations and the fractions of the training labels."""
    patches = [(number_of(split, i), fold_of(split, i)) for split in SPLITS for i in range(samples.get(split, 0))]
    for rotation in range(5):
        folds = [(rotation + k) % 5 + 1 for k in range(5)]
        for split, used in zip(SPLITS, (folds[:TRAIN_FOLDS], folds[3:4], folds[4:]), strict=True):
            names = [str(number) for number, fold in patches if fold in used]
            files.write_list(folder / f"{split}_fold_{rotation + 1}.csv", "image", names)
            if rotation == 0:
                files.write_list(folder / f"{split}.csv", "image", names)
    train = [str(number) for number, fold in patches if fold <= TRAIN_FOLDS]
    order = np.random.default_rng(seed).permutation(len(train))
    for percent in FRACTIONS:
        kept = sorted(order[: math.ceil(len(train) * percent / 100)].tolist())
        files.write_list(folder / f"train_filtered_{percent}.csv", "image", [train[i] for i in kept])


def _write_patch(folder: Path, seed: int, split: str, index: int) -> Feature:
    """Write all files of a patch and return its feature of the metadata."""
    random = land.rng_of(seed, split, index)
    number = number_of(split, index)
    ground = land.draw_land(random, side=SIDE_PX, gsd_m=1.0, field_m=170, chances=land.COUNTRYSIDE)
    dates: dict[str, dict[str, int]] = {}
    days, dates["dates-S2"] = _dates(random, repeat_days=5, count=int(random.integers(30, 46)))
    reflectance, _ = land.optical(random, ground, days, CELLS)
    np.save(folder / "DATA_S2" / f"S2_{number}.npy", np.round(reflectance * 1e4).astype(np.int16))
    for orbit in "AD":
        days, dates[f"dates-S1{orbit}"] = _dates(random, repeat_days=6, count=int(random.integers(28, 33)))
        power = land.radar(random, ground, days, CELLS, incidence_deg=random.uniform(32, 44))
        np.save(folder / f"DATA_S1{orbit}" / f"S1{orbit}_{number}.npy", _decibels(power))
    target, parcels = _annotations(random, ground)
    np.save(folder / "ANNOTATIONS" / f"TARGET_{number}.npy", target)
    np.save(folder / "ANNOTATIONS" / f"ParcelIDs_{number}.npy", parcels)
    west, north = 300_000.0 + 300_000 * SPLITS.index(split) + 1280 * (index % 200), 6_900_000.0 - 1280 * (index // 200)
    files.write_geotiff(
        folder / "DATA_SPOT" / "PASTIS_SPOT6_RVB_1M00_2019" / f"SPOT6_RVB_1M00_2019_{number}.tif",
        land.image(random, ground, SPOT_DAY)[1:], epsg=EPSG, corner=(west, north), gsd_m=1.0,
    )  # fmt: skip
    properties = {
        "Fold": fold_of(split, index), "ID_PATCH": number, "N_Parcel": len(np.unique(parcels[parcels > 0])),
        "Parcel_Cover": round(float((parcels > 0).mean()), 4), "TILE": TILES[SPLITS.index(split)], **dates,
    }  # fmt: skip
    return {"id": str(number), "type": "Feature", "properties": properties, "geometry": _square(west, north)}


def _square(west: float, north: float) -> Feature:
    east, south = west + SIDE_PX, north - SIDE_PX
    ring = [[west, south], [west, north], [east, north], [east, south], [west, south]]
    return {"type": "MultiPolygon", "coordinates": [[ring]]}


def _dates(random: Generator, *, repeat_days: int, count: int) -> tuple[ndarray, dict[str, int]]:
    """Days of the year (t,) and the same dates as the metadata tells them: index -> YYYYMMDD."""
    since = land.passes(random, FIRST_DAY, LAST_DAY, repeat_days=repeat_days, count=count)
    dates = [date(2018, 1, 1) + timedelta(days=days) for days in since.tolist()]
    told = {str(i): int(f"{day:%Y%m%d}") for i, day in enumerate(dates)}
    return np.array([day.timetuple().tm_yday - 1 for day in dates]), told


def _decibels(power: ndarray) -> ndarray:
    """VV, VH and VV - VH in dB (t, 3, h, w), from linear VV, VH."""
    db = 10 * np.log10(power)
    return np.concatenate([db, db[:, :1] - db[:, 1:]], axis=1).astype(np.float16)


def _annotations(random: Generator, ground: Land) -> tuple[ndarray, ndarray]:
    """Target (3, h, w) uint8, its first channel the crop class; and parcel numbers (h, w) int32, 0 outside parcels.

    The other channels of the target say crop or not and the field's number, so a reader of a wrong channel is caught.
    """
    tile = ground.tile
    at = slice(5, None, SIDE_PX // CELLS)
    field_of = tile.field_of[at, at]
    classes = _crop_classes(tile.covers)
    seen_px = np.bincount(tile.field_of.ravel(), minlength=len(classes))
    whole_px = _areas(ground.corners)
    drawn = 1_000_000 + random.choice(8_000_000, len(classes), replace=False)
    numbers = np.where(classes > 0, drawn, 0).astype(np.int32)
    classes = np.where((classes > 0) & (seen_px < SEEN_ENOUGH * whole_px), VOID, classes)
    target = np.stack([classes[field_of], classes[field_of] > 0, field_of]).astype(np.uint8)
    return target, numbers[field_of]


def _crop_classes(covers: Sequence[int]) -> ndarray:
    """Class of each field: (f,), 0 where no crop grows."""
    table = np.zeros(len(COVER), int)
    for name, number in CLASS_OF.items():
        table[COVER[name]] = number
    return table[list(covers)]


def _areas(corners: ndarray) -> ndarray:
    """Area of each field (f,), square pixels, by the shoelace formula."""
    x, y = corners[..., 0], corners[..., 1]
    twice: ndarray = (x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(1)
    return np.abs(twice) / 2
