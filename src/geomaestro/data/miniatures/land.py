"""The land of the miniatures: a square of rectangular fields and towns, and what each sensor sees of it.

Covers, seasons and spectra are those of the miniature Earth (`earth.py`); fields and towns are cut here for squares
of any size. Axes: f fields, t dates, c bands, h rows, w columns; days count from 0 on 1 January.
All numbers are *assumed*: plausible, taken from no publication.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from geomaestro.data.miniatures import earth
from geomaestro.data.miniatures.synthetic import CLOUD, HAZE, LOOKS

SPLITS = ("train", "val", "test")
COVER = {name: index for index, name in enumerate(earth.CLASSES)}
GARDEN, ROOFS, STREET = 0, (1, 2, 3), 4  # columns of earth.ROOFS
COUNTRYSIDE = (0.04, 0.06, 0.18, 0.1, 0.08, 0.08, 0.16, 0.12, 0.1, 0.08)  # chance of each cover of a field
CITY = (0.08, 0.52, 0.16, 0.12, 0.06, 0.02, 0.01, 0.01, 0.01, 0.01)
PLOT_M, STREET_M = 24.0, 7.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Land:
    """A square of `side` pixels of `gsd_m`. Unlike in earth.py, `tile.field_of` is (side, side)."""

    gsd_m: float
    tile: earth.Tile
    corners: ndarray  # (f, 4, 2) x, y around each field in pixels; may lie outside
    kind_of: ndarray  # (side, side) uint8: a column of earth.ROOFS; it holds where the cover is built-up
    houses: ndarray  # (houses, 4) top, left, bottom, right in pixels, all inside built-up fields

    @property
    def cover_of(self) -> ndarray:
        """Index of each pixel's cover in COVERS: (side, side) uint8."""
        return np.array(self.tile.covers, np.uint8)[self.tile.field_of]


def rng_of(seed: int, split: str, index: int, *more: int) -> Generator:
    """The generator of one sample, or with `more` of something it shares with others."""
    return np.random.default_rng(np.random.SeedSequence((seed, SPLITS.index(split), index, *more)))


def draw_land(random: Generator, *, side: int, gsd_m: float, field_m: float, chances: Sequence[float]) -> Land:
    """Fields about `field_m` wide, each of a cover drawn with its chance and with its own season and colour."""
    field_of, corners = _cut_fields(random, side, field_m / gsd_m)
    count = len(corners)
    tile = earth.Tile(
        covers=tuple(random.choice(len(COVER), count, p=chances).tolist()),
        field_of=field_of,
        shift_days=np.clip(random.normal(0, 5, count), -10, 10),
        vigour=random.uniform(0.75, 1.05, count),
        tint=np.exp(random.normal(0, 0.08, (count, 1)) + random.normal(0, 0.04, (count, len(earth.BANDS)))),
        loudness_db=random.normal(0, 0.5, (count, 2)),
        angle=random.uniform(0, np.pi, count),
        wet_phase=random.uniform(0, 2 * np.pi, 3),
    )
    kind_of, houses = _town(random, side, gsd_m)
    built = np.array(tile.covers) == COVER["built_up"]
    inside = built[field_of[[houses[:, 0], houses[:, 0], houses[:, 2] - 1, houses[:, 2] - 1],
                            [houses[:, 1], houses[:, 3] - 1, houses[:, 1], houses[:, 3] - 1]]].all(0)  # fmt: skip
    return Land(gsd_m=gsd_m, tile=tile, corners=corners, kind_of=kind_of, houses=houses[inside])


def _cut_fields(random: Generator, side: int, field_px: float) -> tuple[ndarray, ndarray]:
    """Strips at an angle, each cut across at places of its own: field of each pixel (side, side) and (f, 4, 2)."""
    angle = random.uniform(0, np.pi / 2)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    at = np.arange(side, dtype=np.float32) + np.float32(0.5 - side / 2)
    across, along = cos * at + sin * at[:, None], cos * at[:, None] - sin * at
    count = int(2 * side / field_px) + 4
    widths, lengths = (np.cumsum(random.uniform(0.6, 1.4, count)) * field_px for _ in range(2))
    widths, lengths = (edges - edges[count // 2] for edges in (widths, lengths))
    shifts = random.uniform(-0.5, 0.5, count) * field_px
    strip = np.searchsorted(widths.astype(np.float32), across)
    raw = strip * count + np.searchsorted(lengths.astype(np.float32), along + shifts.astype(np.float32)[strip])
    present = np.flatnonzero(np.bincount(raw.ravel(), minlength=count * count))
    number = np.zeros(count * count, np.uint16)
    number[present] = np.arange(len(present))
    i, j = np.divmod(present, count)
    u = np.stack([widths[i - 1], widths[i], widths[i], widths[i - 1]], 1)
    v = np.stack([lengths[j - 1], lengths[j - 1], lengths[j], lengths[j]], 1) - shifts[i][:, None]
    corners = np.stack([cos * u - sin * v, sin * u + cos * v], 2) + side / 2
    return number[raw], corners


def _town(random: Generator, side: int, gsd_m: float) -> tuple[ndarray, ndarray]:
    """Streets around blocks of plots with a house on most, everywhere: (side, side) kinds and (houses, 4)."""
    plot = round(PLOT_M / gsd_m)
    street, inset = round(STREET_M / gsd_m), max(round(4 / gsd_m), 1)
    kind_of = np.full((side, side), GARDEN, np.uint8)
    starts = np.arange(0, side, plot)
    houses = []
    for top in starts.tolist():
        for left in starts.tolist():
            size = np.round(random.uniform(0.3, 0.5, 2) * plot).astype(int).tolist()
            roof = int(random.choice(ROOFS))
            top_px, left_px = top + street + inset, left + inset
            bottom_px, right_px = top_px + size[0], left_px + size[1]
            if random.uniform() < 0.85 and bottom_px <= side and right_px <= side:
                houses.append((top_px, left_px, bottom_px, right_px))
                kind_of[top_px:bottom_px, left_px:right_px] = roof
    for top in starts.tolist():
        kind_of[top : top + street] = STREET
    return kind_of, np.array(houses).reshape(-1, 4)


# ---- what the satellites see ----


def sampled(values: ndarray, field_of: ndarray, cells: int, points: int = 2) -> ndarray:
    """Mean of the fields' values (t, f, c) in each of cells x cells, from points x points places: (t, c, h, w)."""
    at = ((np.arange(cells * points) + 0.5) * len(field_of) / (cells * points)).astype(int)
    fields = field_of[at[:, None], at]
    flat = np.ascontiguousarray(values.transpose(1, 0, 2), np.float32).reshape(values.shape[1], -1)
    total = sum(flat[fields[i::points, j::points]] for i in range(points) for j in range(points))
    mean = np.asarray(total, np.float32) / np.float32(points * points)
    return np.ascontiguousarray(mean.reshape(cells, cells, len(values), -1).transpose(2, 3, 0, 1))


def optical(random: Generator, land: Land, days: ndarray, cells: int) -> tuple[ndarray, ndarray]:
    """Reflectance in earth.BANDS (t, 10, h, w), 0 to about 1.2, and opacity of clouds (t, h, w), 0..1."""
    count = len(days)
    seen = sampled(earth.reflectance(land.tile, days), land.tile.field_of, cells)
    seen *= np.exp(random.normal(0, 0.04, (count, 1, 1, 1)) + random.normal(0, 0.02, (count, 10, 1, 1)))
    seen *= 1 + 0.02 * random.standard_normal((count, 1, cells, cells), np.float32)
    seen += random.exponential(0.3, (count, 1, 1, 1)) * np.array(HAZE)[:, None, None]
    opacity = _clouds(random, days, cells)
    bright = random.uniform(0.4, 1, (count, 1, 1, 1)) * np.array(CLOUD)[:, None, None]
    seen *= 1 - opacity[:, None]
    seen += (bright * opacity[:, None]).astype(np.float32)
    return seen, opacity


def _clouds(random: Generator, days: ndarray, cells: int) -> ndarray:
    """A date is overcast, broken (an edge crosses the square) or clear; winters are cloudier: (t, h, w) float32."""
    count = len(days)
    chance = 0.3 + 0.12 * np.cos(2 * np.pi * (days + 10) / 365)
    draw, full = random.uniform(size=count), random.uniform(0.7, 1, count)
    at = np.linspace(-1, 1, cells, dtype=np.float32)
    angle = random.uniform(0, 2 * np.pi, (count, 1, 1)).astype(np.float32)
    across = np.cos(angle) * at + np.sin(angle) * at[:, None] - random.uniform(-1, 1, (count, 1, 1)).astype(np.float32)
    edge = 0.9 / (1 + np.exp(-across / np.float32(0.1)))
    level = np.where(draw < 0.6 * chance, full, 0.0)[:, None, None]
    return np.where((draw < chance)[:, None, None], np.maximum(level, edge * (edge > 0.02)), 0).astype(np.float32)


def radar(random: Generator, land: Land, days: ndarray, cells: int, *, incidence_deg: float) -> ndarray:
    """Sentinel-1 VV, VH as linear power, with speckle: (t, 2, h, w) float32, above 0."""
    slope_db = -0.12 * (incidence_deg - 38)
    date_db = random.normal(0, 0.3, (len(days), 1, 2))
    power = sampled(10 ** ((earth.backscatter(land.tile, days) + slope_db + date_db) / 10), land.tile.field_of, cells)
    return power * random.standard_gamma(LOOKS, power.shape, np.float32) / np.float32(LOOKS)


def passes(random: Generator, first: int, last: int, *, repeat_days: int, count: int) -> ndarray:
    """`count` days of first..last (but last), ascending, all in one rhythm: (count,)."""
    every = np.arange(first + random.integers(repeat_days), last, repeat_days)
    return np.sort(random.choice(every, min(count, len(every)), replace=False))


# ---- what a camera sees ----


def image(random: Generator, land: Land, day: int) -> ndarray:
    """The land from the air on a day: (4, side, side) uint8, NIR, R, G, B."""
    columns = [earth.BANDS.index(band) for band in earth.AERIAL_BANDS]
    means = earth.reflectance(land.tile, np.array([day]))[0][:, columns].astype(np.float32)
    picture = means.T[:, land.tile.field_of]
    cover_of = land.cover_of
    for cover in sorted(set(land.tile.covers)):
        here = cover_of == cover
        if cover == COVER["built_up"]:
            np.copyto(picture, earth.ROOFS[:, land.kind_of], where=here)
        else:
            picture *= np.where(here, _texture(random, cover, land), np.float32(1))
    full_scale = np.array([0.6, 0.28, 0.28, 0.28], np.float32)[:, None, None]  # reflectance that saturates
    light = np.exp(random.normal(0, 0.06) + random.normal(0, 0.03, (4, 1, 1))).astype(np.float32)
    picture *= light / full_scale
    np.sqrt(np.minimum(picture, 1, out=picture), out=picture)
    return (picture * 255 + np.float32(0.5)).astype(np.uint8)


def _texture(random: Generator, cover: int, land: Land) -> ndarray:
    """The cover's texture of 60 m, averaged to the land's pixels and mirrored over it: (side, side), mean about 1."""
    fine = earth.COVERS[cover].texture(random, float(random.uniform(0, np.pi)))
    block = max(round(land.gsd_m / earth.GSD_M), 1)
    kept = earth.SIDE // block
    coarse = fine[: kept * block, : kept * block].reshape(kept, block, kept, block).mean((1, 3), dtype=np.float32)
    at = np.arange(len(land.kind_of)) % (2 * kept)
    at = np.where(at < kept, at, 2 * kept - 1 - at)
    return coarse[at[:, None], at]
