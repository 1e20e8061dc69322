"""A miniature Earth in the file layout of TreeSatAI-TS: generated aerial images, Sentinel series and labels.

Two questions are built in that one sensor cannot answer: orchard or broadleaf forest (only the aerial texture tells),
winter or spring cereal (only the dates tell). Axes: f fields, t dates, c bands, h rows, w columns.
"""

import csv
import os
from calendar import isleap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from geomaestro.data.miniatures.earth import (
    AERIAL_DAY,
    CELLS,
    CLASSES,
    COVERS,
    GSD_M,
    MARGIN,
    SIDE,
    Tile,
    aerial_image,
    backscatter,
    class_shares,
    draw_tile,
    field_shares,
    reflectance,
)
from geomaestro.errors import DataError

__all__ = ["CLASSES", "EarthOptions", "synthesise"]

SPLITS = ("train", "val", "test")
YEARS = (2017, 2018, 2019, 2020)
CRS = "EPSG:25832"
CORNER_M = (400_000.0, 5_900_000.0)  # of the whole Earth: west, north
EARTH_ROWS, EARTH_COLUMNS = 3000, 4000  # tiles of 60 m
STRIDE = 7_416_407  # assumed; coprime to the number of tiles, so that no two samples share a place
LOOKS = 4.4  # of a Sentinel-1 GRD product in IW mode
CLOUD = (1.05, 0.98, 0.97, 1.0, 1.0, 1.0, 1.0, 0.98, 0.5, 0.4)
SNOW = (0.85, 0.85, 0.84, 0.83, 0.82, 0.8, 0.78, 0.75, 0.1, 0.08)
HAZE = (0.03, 0.02, 0.013, 0.01, 0.007, 0.005, 0.004, 0.003, 0.0, 0.0)
SPEC = """\
# A generated miniature Earth in the file layout of TreeSatAI-TS.
extends: treesatai_ts
name: synthetic
licence: none (generated)
generated: true
targets:
  cover:
    kind: classes
    classes: [{classes}]
  cover_share:
    kind: multilabel
    classes: [{classes}]
    threshold: 0.07
"""


@dataclass(frozen=True, kw_only=True)
class EarthOptions:
    """How many samples each split has, and the seed they are drawn from."""

    train: int = 400
    val: int = 100
    test: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*SPLITS, "seed"):
            if getattr(self, name) < 0:
                raise DataError(f"EarthOptions: {name} is {getattr(self, name)}; give 0 or more")


def synthesise(folder: Path, options: EarthOptions, *, report: Callable[[int, int], None] | None = None) -> None:
    """Write the whole dataset into a new or empty folder; its csv files and `dataset.yaml` come last.

    Sample i of a split depends on (seed, split, i) alone, so a bigger dataset begins with the smaller one.
    `report(done, total)` is called after each sample.

    Raises:
        DataError: if the folder holds something, or is a file.
    """
    folder = Path(folder)
    claim(folder)
    for name in ("aerial", "sentinel-ts"):
        (folder / name).mkdir()
    total = options.train + options.val + options.test
    done = 0
    tables: dict[str, list[list[str]]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for index in range(getattr(options, split)):
            tables[split].append(_write_sample(folder, options.seed, split, index))
            done += 1
            if report:
                report(done, total)
    for split, rows in tables.items():
        _write_table(folder / f"{split}.csv", rows)
    with _finished(folder / "dataset.yaml") as partial:
        partial.write_text(SPEC.format(classes=", ".join(CLASSES)))


def claim(folder: Path) -> None:
    """Make a new folder, or refuse.

    Raises:
        DataError: if it holds something, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: expected a new or empty folder but this is a file; choose another name")
    held = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    if held:
        raise DataError(
            f"{folder}: expected a new or empty folder but it holds {held[0]!r} ({len(held)} in all); "
            "delete it (without dataset.yaml it is an interrupted run) or choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _finished(path: Path) -> Iterator[Path]:
    """A name to write to; the file gets its real name only once it is whole."""
    partial = path.with_name(path.name + ".partial")
    yield partial
    os.replace(partial, path)


def _write_sample(folder: Path, seed: int, split: str, index: int) -> list[str]:
    """Write one sample's two files and return its row of the csv."""
    number = SPLITS.index(split)
    random = np.random.default_rng(np.random.SeedSequence((seed, number, index)))
    tile = draw_tile(random)
    year = int(random.choice(YEARS))
    day = AERIAL_DAY + int(random.integers(-12, 13))
    name = f"earth_{split}_{index:05d}"
    with _finished(folder / "aerial" / f"{name}.tif") as partial:
        _write_aerial(partial, aerial_image(random, tile, day), _corner(number, index))
    with _finished(folder / "sentinel-ts" / f"{name}_{year}.h5") as partial:
        _write_series(partial, _series(random, tile, year))
    taken = date(year, 1, 1) + timedelta(days=day)
    shares = [f"{share:.5f}" for share in class_shares(tile)]
    return [f"{name}.tif", f"{name}_{year}.h5", f"{taken:%Y%m%d}", *shares]


def _corner(number: int, index: int) -> tuple[float, float]:
    """West and north edge of the aerial image, metres in CRS; a place of its own for each (split, index)."""
    place = (1_000_003 * number + index) * STRIDE % (EARTH_ROWS * EARTH_COLUMNS)
    row, column = divmod(place, EARTH_COLUMNS)
    margin_m = MARGIN * GSD_M
    return CORNER_M[0] + 60 * column - margin_m, CORNER_M[1] - 60 * row + margin_m


def _write_aerial(path: Path, image: ndarray, corner: tuple[float, float]) -> None:
    """Write (4, h, w) uint8 as a GeoTIFF, interleaved by pixel as the real files are."""
    import rasterio

    profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 4, "dtype": "uint8", "crs": CRS}
    # measured: 30 % smaller than unpacked for 1.5 ms; LZW takes 4 ms and saves 20 %
    packing = {"compress": "deflate", "zlevel": 1, "predictor": 2, "interleave": "pixel"}
    transform = rasterio.Affine(GSD_M, 0, corner[0], 0, -GSD_M, corner[1])
    with rasterio.open(path, "w", transform=transform, **profile, **packing) as file:
        file.write(image)


def _write_series(path: Path, series: dict[str, ndarray | list[bytes]]) -> None:
    """Write one HDF5 with a dataset for each entry; names become variable-length strings."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in series.items():
            text = h5py.string_dtype() if isinstance(values, list) else None
            file.create_dataset(name, data=values, dtype=text)


def _write_table(path: Path, rows: list[list[str]]) -> None:
    with _finished(path) as partial, partial.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["aerial_name", "sen_name", "aerial_date", *CLASSES])
        table.writerows(rows)


# ---- what the satellites see in a year ----


def _series(random: Generator, tile: Tile, year: int) -> dict[str, ndarray | list[bytes]]:
    """All datasets of one HDF5 file, dates ascending."""
    series: dict[str, ndarray | list[bytes]] = {}
    for side, hours in (("asc", 17.15), ("des", 5.65)):
        days, odd = _passes(random, year, repeat_days=6, fewest=20, most=40)
        series[f"sen-1-{side}-data"] = _radar(random, tile, days, incidence_deg=random.uniform(31, 45))
        series[f"sen-1-{side}-products"] = _radar_names(random, year, days, odd, hours)
    days, odd = _passes(random, year, repeat_days=5, fewest=30, most=60)
    series["sen-2-data"], series["sen-2-masks"] = _optical(random, tile, days)
    series["sen-2-products"] = _optical_names(random, year, days, odd)
    return series


def _passes(random: Generator, year: int, *, repeat_days: int, fewest: int, most: int) -> tuple[ndarray, ndarray]:
    """Days of year (from 0) with an image, ascending, and whether satellite B took it: two (t,)."""
    offset = random.integers(repeat_days)
    every = np.arange(offset, 365 + isleap(year), repeat_days)
    kept = np.sort(random.choice(len(every), random.integers(fewest, most + 1), replace=False))
    return every[kept], kept % 2 == 1


def _radar_names(random: Generator, year: int, days: ndarray, odd: ndarray, hours: float) -> list[bytes]:
    """Product names as ESA writes them; the minute is the orbit's own, and so stays within a series."""
    start = date(year, 1, 1)
    seconds = int(hours * 3600 + random.integers(-600, 600))
    names = []
    for day, is_b in zip(days.tolist(), odd.tolist(), strict=True):
        at = start + timedelta(days=day)
        orbit = int((at - date(2014, 10, 3)).days * 175 / 12) - 10_900 * is_b  # assumed: 175 orbits in 12 days
        unique = int(random.integers(1 << 16))
        clocks = f"{at:%Y%m%d}T{_clock(seconds)}_{at:%Y%m%d}T{_clock(seconds + 25)}"
        names.append(f"S1{'AB'[is_b]}_IW_GRDH_1SDV_{clocks}_{orbit:06d}_{orbit * 8:06X}_{unique:04X}".encode())
    return names


def _optical_names(random: Generator, year: int, days: ndarray, odd: ndarray) -> list[bytes]:
    start = date(year, 1, 1)
    cell, orbit = "T32U" + str(random.choice(("MD", "NC", "ND", "PC"))), random.choice((8, 65, 108))
    names = []
    for day, is_b in zip(days.tolist(), odd.tolist(), strict=True):
        at = start + timedelta(days=day)
        taken, made = (f"{at:%Y%m%d}T{_clock(seconds)}" for seconds in (38_400, 43_200 + int(random.integers(9_000))))
        names.append(f"S2{'AB'[is_b]}_MSIL2A_{taken}_N0211_R{orbit:03d}_{cell}_{made}".encode())
    return names


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"


def _radar(random: Generator, tile: Tile, days: ndarray, *, incidence_deg: float) -> ndarray:
    """Sentinel-1 VV, VH as linear power: (t, 2, h, w) float32, with gamma speckle of LOOKS looks."""
    slope_db = -0.12 * (incidence_deg - 38)  # assumed; darker at grazing angles
    date_db = random.normal(0, 0.3, (len(days), 1, 2))
    fields = 10 ** ((backscatter(tile, days) + slope_db + date_db) / 10)
    power = np.einsum("tfc,fhw->tchw", fields, field_shares(tile))
    return (power * random.gamma(LOOKS, 1 / LOOKS, power.shape)).astype(np.float32)


def _optical(random: Generator, tile: Tile, days: ndarray) -> tuple[ndarray, ndarray]:
    """Sentinel-2 reflectance * 10000 (t, c, h, w) and snow, cloud in 0..100 (t, 2, h, w), both whole float32."""
    snow = _snow(random, tile, days)
    fields = reflectance(tile, days) * (1 - snow[..., None]) + np.array(SNOW) * snow[..., None]
    shares = _shifted(random, field_shares(tile), len(days))
    haze = random.exponential(0.4, (len(days), 1, 1, 1)) * np.array(HAZE)[:, None, None]
    land = np.einsum("tfc,tfhw->tchw", fields, shares) * _unevenness(random, len(days)) + haze
    opacity, shadow = _clouds(random, days)
    bright = random.uniform(0.35, 1.1, (len(days), 1, 1, 1)) * np.array(CLOUD)[:, None, None]
    seen = land * (1 - shadow[:, None]) * (1 - opacity[:, None]) + bright * opacity[:, None]
    snow_percent = 100 * np.einsum("tf,tfhw->thw", snow, shares) * (opacity < 0.5)
    flags = np.stack([snow_percent, _cloud_percent(random, opacity)], 1)
    return np.maximum(np.round(seen * 1e4), 1).astype(np.float32), np.round(flags.clip(0, 100)).astype(np.float32)


def _shifted(random: Generator, shares: ndarray, count: int) -> ndarray:
    """Field shares misplaced by about 2 m each date, to first order: (t, f, h, w), summing to 1 over f."""
    down, right = np.gradient(shares, axis=(1, 2))
    cells = random.normal(0, 0.2, (2, count, 1, 1, 1))
    moved = np.clip(shares + cells[0] * down + cells[1] * right, 0, None)
    return moved / moved.sum(1, keepdims=True)


def _unevenness(random: Generator, count: int) -> ndarray:
    """Factor of reflectance from lasting patches, light of the day and noise: (t, c, h, w)."""
    patches = random.normal(0, 0.05, (1, 1, CELLS, CELLS)) + random.normal(0, 0.02, (1, 10, CELLS, CELLS))
    light = random.normal(0, 0.05, (count, 1, 1, 1)) + random.normal(0, 0.03, (count, 10, 1, 1))
    return np.exp(patches + light + random.normal(0, 0.015, (count, 10, CELLS, CELLS)))


def _snow(random: Generator, tile: Tile, days: ndarray) -> ndarray:
    """Share of each field that is white: (t, f); none to three spells of a winter."""
    cover = np.zeros(len(days))
    for middle in random.normal(15, 25, random.poisson(0.7)):
        away = np.abs((days - middle + 182) % 365 - 182)
        cover = np.maximum(cover, random.uniform(0.4, 1) * (away < random.uniform(3, 10)))
    return cover[:, None] * np.array([COVERS[index].snow_hold for index in tile.covers])


def _clouds(random: Generator, days: ndarray) -> tuple[ndarray, ndarray]:
    """Opacity of clouds and the share of light their shadows take: two (t, h, w) in 0..1.

    A date is overcast, broken (an edge crosses the tile) or clear; winters are cloudier, evenly about the solstices.
    """
    count = len(days)
    chance = 0.43 + 0.2 * np.cos(2 * np.pi * (days + 10) / 365)
    draw = random.uniform(size=count)
    edge = _edges(random, count)
    level = np.where(draw < 0.75 * chance, random.uniform(0.75, 1, count), 0.0)[:, None, None]
    opacity = np.where((draw < chance)[:, None, None], np.maximum(level, 0.9 * edge), 0.0)
    shaded = (random.uniform(size=count) < 0.1)[:, None, None]
    return opacity, np.where(shaded, random.uniform(0.3, 0.6, (count, 1, 1)) * _edges(random, count), 0.0)


def _edges(random: Generator, count: int) -> ndarray:
    """A soft edge at a random place and angle of each date: (t, h, w) in 0..1."""
    at = np.linspace(-1, 1, CELLS)
    angle = random.uniform(0, 2 * np.pi, (count, 1, 1))
    across = np.cos(angle) * at + np.sin(angle) * at[:, None]
    return 1 / (1 + np.exp(-(across - random.uniform(-1, 1, (count, 1, 1))) / 0.15))


def _cloud_percent(random: Generator, opacity: ndarray) -> ndarray:
    """The cloud probability a detector would give: misses 5 % of the cloudy dates, accuses 3 % of the clear."""
    draw = random.uniform(size=(len(opacity), 1, 1))
    noise = random.normal(0, 3, opacity.shape)
    percent = np.where(draw < 0.05, 10 * opacity, 130 * opacity) + noise
    accused = (draw > 0.97) & (opacity.max((1, 2), keepdims=True) < 0.05)
    return np.where(accused, random.uniform(30, 90, draw.shape), percent)
