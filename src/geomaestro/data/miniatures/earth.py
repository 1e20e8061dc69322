"""The land of the miniature Earth: what grows where, how it changes through a year, how it looks from the air.

Axes: f fields of a tile, t dates, c bands, h rows, w columns. Days count from 0 on 1 January.
Reflectance is 0..1 unless said; greenness is 0 (bare, leafless) to 1 (full cover).
All numbers in the tables are *assumed*: plausible for Lower Saxony, taken from no publication.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.random import Generator

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
AERIAL_BANDS = ("B08", "B04", "B03", "B02")  # what the aerial bands NIR, R, G, B see
SIDE = 304  # aerial pixels; the tile is the inner 300
MARGIN = 2
GSD_M = 0.2
CELLS = 6  # Sentinel pixels along a side
AERIAL_DAY = 170  # 19 June, when both cereals are equally green
SOIL = (700, 1000, 1350, 1650, 1850, 1980, 2150, 2300, 3000, 2600)
CROP = (270, 560, 270, 930, 2850, 3800, 4000, 4150, 1900, 900)
LEAFLESS = (450, 600, 750, 1050, 1500, 1700, 1850, 2000, 2050, 1500)
LEAFY = (220, 450, 220, 780, 2500, 3250, 3400, 3550, 1650, 750)
YELLOW = (0, 450, 600, 500, 200, 100, 100, 100, 0, 0)

# (random, direction of rows in radians) -> factor (h, w) or (4, h, w), float32, mean about 1 over the tile
Texture = Callable[[Generator, float], ndarray]


@dataclass(frozen=True, kw_only=True)
class Cover:
    """One class: two spectra (reflectance * 10000 in BANDS) and two backscatters (VV, VH; dB), mixed by greenness."""

    name: str
    bare: tuple[int, ...]
    green: tuple[int, ...]
    bare_db: tuple[float, float]
    green_db: tuple[float, float]
    texture: Texture
    floor: float  # greenness out of season
    rise_day: float = 100.0
    fall_day: float = 290.0
    pace_days: float = 9.0
    bloom_day: float | None = None  # middle of a yellow flowering
    snow_hold: float = 0.8  # share of the ground that snow whitens


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """60 m of land. `covers` index COVERS; `field_of` (SIDE, SIDE) says which field a pixel is in."""

    covers: tuple[int, ...]
    field_of: ndarray
    shift_days: ndarray  # (f,) the field's season against its class's
    vigour: ndarray  # (f,) factor of greenness
    tint: ndarray  # (f, c) factor of reflectance
    loudness_db: ndarray  # (f, 2) added to backscatter
    angle: ndarray  # (f,) direction of rows, radians
    wet_phase: ndarray = field(default_factory=lambda: np.zeros(3))  # (3,) of the moisture's three waves


def draw_tile(random: Generator) -> Tile:
    """One dominant field cut by 0 to 3 others of other classes; each has its own season, vigour and colour."""
    count = 1 + random.choice(4, p=(0.35, 0.35, 0.2, 0.1))
    tint = random.normal(0, 0.18, (count, 1)) + random.normal(0, 0.13, (count, len(BANDS)))
    return Tile(
        covers=tuple(int(cover) for cover in random.permutation(len(COVERS))[:count]),
        field_of=_cut_fields(random, count),
        shift_days=np.clip(random.normal(0, 10, count), -14, 14),
        vigour=random.uniform(0.45, 1.05, count),
        tint=np.exp(tint),
        loudness_db=random.normal(0, 1.2, (count, 1)) + random.normal(0, 0.5, (count, 2)),
        angle=random.uniform(0, np.pi, count),
        wet_phase=random.uniform(0, 2 * np.pi, 3),
    )


def _cut_fields(random: Generator, count: int) -> ndarray:
    """Cut `count - 1` wavy half-planes off the tile: (SIDE, SIDE) uint8, 0 where nothing was cut."""
    field_of = np.zeros((SIDE, SIDE), np.uint8)
    for index in range(1, count):
        across_m, along_m = _rotated(random.uniform(0, 2 * np.pi))
        wave_m = 1.5 * np.sin(along_m / random.uniform(5, 12) + random.uniform(0, 6))
        field_of[across_m + wave_m > random.uniform(7, 26)] = index
    return field_of


def field_shares(tile: Tile) -> ndarray:
    """Share of each field in each Sentinel cell: (f, CELLS, CELLS), summing to 1 over f."""
    inner = tile.field_of[MARGIN : SIDE - MARGIN, MARGIN : SIDE - MARGIN]
    cells = inner.reshape(CELLS, 50, CELLS, 50)
    return np.stack([(cells == index).mean((1, 3), dtype=np.float32) for index in range(len(tile.covers))])


def class_shares(tile: Tile) -> ndarray:
    """Share of each class in the tile: (classes,), summing to 1."""
    shares = np.zeros(len(COVERS))
    np.add.at(shares, list(tile.covers), field_shares(tile).mean((1, 2), dtype=np.float64))
    return shares


def greenness(tile: Tile, days: ndarray) -> ndarray:
    """Double-logistic season of each field, 0..1: (t, f).

    Gives `floor + (1 - floor) * (logistic(rise) - logistic(fall))` times vigour, in the field's own shifted time.
    """
    covers = [COVERS[cover] for cover in tile.covers]
    rise, fall, pace, floor = np.array([(c.rise_day, c.fall_day, c.pace_days, c.floor) for c in covers]).T
    own_days = days[:, None] - tile.shift_days
    season = _logistic((own_days - rise) / pace) - _logistic((own_days - fall) / pace)
    return np.clip((floor + (1 - floor) * season) * tile.vigour, 0, 1)


def _logistic(x: ndarray) -> ndarray:
    return 1 / (1 + np.exp(-x))


def moisture(tile: Tile, days: ndarray) -> ndarray:
    """Slow wetness of the soil, about -1..1: (t,)."""
    periods_days = np.array([365.0, 61.0, 23.0])
    return np.sin(2 * np.pi * days[:, None] / periods_days + tile.wet_phase) @ np.array([0.4, 0.35, 0.25])


def reflectance(tile: Tile, days: ndarray) -> ndarray:
    """Snow-free, cloud-free reflectance of each field in BANDS: (t, f, c)."""
    covers = [COVERS[cover] for cover in tile.covers]
    green = greenness(tile, days)[..., None]
    dry = 1 - 0.18 * (moisture(tile, days)[:, None, None] + 0.5) * (1 - green)
    bare, full = (np.array([getattr(c, state) for c in covers]) * 1e-4 for state in ("bare", "green"))
    return (bare * dry * (1 - green) + full * green + _bloom(tile, covers, days)) * tile.tint


def _bloom(tile: Tile, covers: list[Cover], days: ndarray) -> ndarray:
    """Flowering, added to reflectance for about three weeks: (t, f, c)."""
    middle = np.array([np.nan if c.bloom_day is None else c.bloom_day for c in covers]) + tile.shift_days
    strength = np.nan_to_num(np.exp(-0.5 * ((days[:, None] - middle) / 9) ** 2))
    return strength[..., None] * np.array(YELLOW) * 1e-4


def backscatter(tile: Tile, days: ndarray) -> ndarray:
    """Mean backscatter of each field at 38 degrees incidence, dB: (t, f, 2) for VV, VH."""
    green = greenness(tile, days)[..., None]
    bare, full = (np.array([getattr(COVERS[c], state) for c in tile.covers]) for state in ("bare_db", "green_db"))
    wet_db = 2.0 * moisture(tile, days)[:, None, None] * (1 - green)
    return bare + (full - bare) * green + wet_db + tile.loudness_db


def aerial_image(random: Generator, tile: Tile, day: int) -> ndarray:
    """The tile at 0.2 m: (4, SIDE, SIDE) uint8, NIR, R, G, B.

    Before the sample's light and haze, a field's mean reflectance is about what Sentinel-2 would see that day.
    """
    columns = [BANDS.index(band) for band in AERIAL_BANDS]
    means = reflectance(tile, np.array([day]))[0][:, columns, None, None].astype(np.float32)
    image = np.empty((4, SIDE, SIDE), np.float32)
    for index, cover in enumerate(tile.covers):
        texture = COVERS[cover].texture(random, tile.angle[index])
        np.copyto(image, means[index] * texture, where=tile.field_of == index)
    return _exposed(random, image)


def _exposed(random: Generator, image: ndarray) -> ndarray:
    """Reflectance to 8 bits by a square root, under a light, haze and colours of the sample's own; spoils `image`."""
    full_scale = np.array([0.75, 0.28, 0.28, 0.28])  # reflectance that saturates
    gain = np.exp(random.normal(0, 0.12) + random.normal(0, 0.06, 4)) / full_scale
    haze = random.uniform(0, 0.015) / full_scale
    grain = 1 + 0.04 * random.standard_normal((SIDE, SIDE), np.float32) + 0.04 * _clumps(random, 30)
    for band, (scale, offset) in enumerate(zip(gain, haze, strict=True)):  # in place: measured, half the time
        image[band] *= grain * np.float32(scale)
        image[band] += np.float32(offset)
    np.sqrt(np.minimum(image, 1, out=image), out=image)
    return (image * 255 + np.float32(0.5)).astype(np.uint8)


# ---- textures at 0.2 m ----


@lru_cache
def _ground() -> tuple[ndarray, ndarray]:
    """Metres east and south of the tile's centre: two (h, w)."""
    metres = (np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2) * np.float32(GSD_M)
    return np.broadcast_to(metres, (SIDE, SIDE)), np.broadcast_to(metres[:, None], (SIDE, SIDE))


def _rotated(angle: float) -> tuple[ndarray, ndarray]:
    """Metres across and along a direction: two (h, w)."""
    east, south = _ground()
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * east + sin * south, cos * south - sin * east


@lru_cache
def _between(knots: int) -> tuple[ndarray, ndarray, ndarray]:
    """For each of SIDE pixels the knot before it and the weights of that knot and the next: three (SIDE,)."""
    at = np.linspace(0, knots - 1, SIDE, endpoint=False)
    angle = (at % 1) * np.pi / 2
    return at.astype(int), np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def _clumps(random: Generator, knots: int) -> ndarray:
    """Noise of variance 1 with `knots` knots along a side, interpolated: (h, w).

    No matrix product: its threads wait for each other on a busy machine (measured: four times slower in all).
    """
    before, near, far = _between(knots)  # near**2 + far**2 == 1 keeps the variance
    coarse = random.standard_normal((knots, knots), np.float32)
    wide = coarse[:, before] * near + coarse[:, before + 1] * far
    return wide[before] * near[:, None] + wide[before + 1] * far[:, None]


def _evened(shade: ndarray, contrast: float) -> ndarray:
    """Scale to mean 1 and deviation `contrast`, so that only the pattern tells two textures apart."""
    return np.maximum(1 + contrast * (shade - shade.mean()) / shade.std(), 0.1)


@lru_cache
def _crown(radius_px: int, pointed: bool) -> ndarray:
    """One tree lit from the south-east, 0..1: (2r + 1, 2r + 1), 0 outside the crown."""
    x, y = np.meshgrid(*[np.arange(-radius_px, radius_px + 1) / (radius_px + 0.5)] * 2)
    away = np.hypot(x, y)
    height = 1 - away if pointed else np.sqrt(np.clip(1 - away**2, 0, 1))
    lit = 0.55 + 0.25 * height + 0.3 * (x + y) / np.sqrt(2)
    return np.where(away < 1, np.clip(lit, 0.05, None), 0).astype(np.float32)


def _canopy(random: Generator, centres_m: ndarray, radii_m: tuple[float, float], pointed: bool = False) -> ndarray:
    """Trees at `centres_m` (n, 2) over dark ground, the brighter on top: (h, w)."""
    shade = np.full((SIDE + 60, SIDE + 60), 0.12, np.float32)
    radii = np.round(random.uniform(*radii_m, len(centres_m)) / GSD_M).astype(int)
    pixels = np.round(centres_m / GSD_M + (SIDE - 1) / 2 + 30).astype(int)
    inside = ((pixels >= 14) & (pixels < SIDE + 46)).all(1)
    tones = random.uniform(0.7, 1.0, len(radii)).astype(np.float32)
    for (x, y), radius, tone in zip(pixels[inside].tolist(), radii[inside].tolist(), tones[inside], strict=True):
        under = shade[y - radius : y + radius + 1, x - radius : x + radius + 1]
        np.maximum(under, tone * _crown(radius, pointed), out=under)
    return shade[30:-30, 30:-30]


def _trees(random: Generator, angle: float, across_m: float, along_m: float, loose: float) -> ndarray:
    """Rows of trees turned by `angle` over the whole tile: (n, 2) metres east, south.

    Each tree stands up to `loose / 2` of the spacing from its place; at 1 nothing of the rows is left.
    """
    reach_m = 46  # half the tile's diagonal and a little
    u, v = np.meshgrid(np.arange(-reach_m, reach_m, across_m), np.arange(-reach_m, reach_m, along_m))
    u = u.ravel() + across_m * (random.uniform() + loose * random.uniform(-0.5, 0.5, u.size))
    v = v.ravel() + along_m * (random.uniform() + loose * random.uniform(-0.5, 0.5, v.size))
    return np.stack([np.cos(angle) * u - np.sin(angle) * v, np.sin(angle) * u + np.cos(angle) * v], 1)


def _broadleaf(random: Generator, angle: float) -> ndarray:
    return _evened(_canopy(random, _trees(random, angle, 5.2, 3.4, loose=1), (1.6, 2.8)), 0.42)


def _orchard(random: Generator, angle: float) -> ndarray:
    return _evened(_canopy(random, _trees(random, angle, 5.2, 3.4, loose=0.15), (1.6, 2.4)), 0.42)


def _conifers(random: Generator, angle: float) -> ndarray:
    return _evened(_canopy(random, _trees(random, angle, 2.8, 2.8, loose=1), (1.1, 1.9), pointed=True), 0.5)


def _meadow(random: Generator, angle: float) -> ndarray:
    return 1 + 0.07 * _clumps(random, 40) + 0.06 * _clumps(random, 12)


def _drilled(random: Generator, angle: float) -> ndarray:
    """A cereal or rape field: even, with tramlines every 15 to 21 m."""
    across, _ = _rotated(angle)
    from_line = np.abs((across + random.uniform(0, 9)) % random.uniform(15, 21) - 5)
    return 1 + 0.04 * _clumps(random, 60) + 0.05 * _clumps(random, 8) - 0.22 * (np.abs(from_line - 0.9) < 0.25)


def _maize(random: Generator, angle: float) -> ndarray:
    across, _ = _rotated(angle)
    return 1 + 0.16 * np.sin(across * np.float32(2 * np.pi / 0.8)) + 0.06 * _clumps(random, 50)


def _waves(random: Generator, angle: float) -> ndarray:
    return 1 + 0.05 * _clumps(random, 4)


def _town(random: Generator, angle: float) -> ndarray:
    """Streets every 34 m and a house or garden on each plot, in four colours: (4, h, w), mean 1 in each band."""
    across, along = _rotated(angle)
    across, along = across + random.uniform(40, 80), along + random.uniform(40, 80)
    plot = (across / 17).astype(int), (along / 14).astype(int)
    in_across, in_along = across - 17 * plot[0], along - 14 * plot[1]
    built = (np.abs(in_across - 8.5) < random.uniform(4, 6)) & (np.abs(in_along - 7) < random.uniform(3.5, 5.5))
    kind = np.where(built, random.integers(0, 4, (12, 12))[plot], 0)
    kind[(in_across < 4.5) & (plot[0] % 2 == 0)] = 4
    shaded = np.where(built & (in_along > 7), np.float32(0.8), np.float32(1)) * (1 + 0.06 * _clumps(random, 70))
    colours = ROOFS[:, kind] * shaded
    return colours / colours.mean((1, 2), keepdims=True)


ROOFS = np.array(  # columns: garden, red roof, dark roof, bright roof, street
    [
        (0.30, 0.25, 0.10, 0.30, 0.17),  # NIR
        (0.05, 0.20, 0.08, 0.27, 0.13),  # R
        (0.07, 0.10, 0.08, 0.26, 0.12),  # G
        (0.04, 0.07, 0.09, 0.25, 0.12),  # B
    ],
    np.float32,
)

_FIELD: dict[str, Any] = {"bare": SOIL, "bare_db": (-12.5, -20.0), "texture": _drilled, "floor": 0.08}
_TREES: dict[str, Any] = {
    "bare": LEAFLESS,
    "green": LEAFY,
    "bare_db": (-10.0, -16.0),
    "green_db": (-9.5, -14.8),
    "floor": 0.05,
}

COVERS = (
    Cover(
        name="water", bare=(420, 450, 320, 260, 210, 200, 190, 170, 80, 50),
        green=(480, 720, 480, 560, 480, 460, 430, 400, 130, 90), bare_db=(-18.0, -25.0), green_db=(-20.0, -27.0),
        texture=_waves, floor=0.1, snow_hold=0.1,
    ),
    Cover(
        name="built_up", bare=(950, 1100, 1250, 1400, 1600, 1700, 1800, 1850, 2100, 1850),
        green=(600, 820, 720, 1150, 2000, 2350, 2450, 2550, 2000, 1450), bare_db=(-6.5, -13.0), green_db=(-7.5, -14.0),
        texture=_town, floor=0.1, snow_hold=0.6,
    ),
    Cover(
        name="grassland", bare=(600, 850, 950, 1350, 1900, 2150, 2300, 2450, 2900, 1900),
        green=(340, 650, 370, 1050, 2650, 3350, 3550, 3700, 2150, 1100), bare_db=(-13, -20), green_db=(-11.8, -18.0),
        texture=_meadow, floor=0.45, rise_day=95, fall_day=285, pace_days=14,
    ),
    Cover(name="broadleaf_forest", texture=_broadleaf, rise_day=115, fall_day=295, **_TREES),
    Cover(
        name="conifer_forest", bare=(220, 320, 240, 520, 1250, 1500, 1600, 1700, 950, 480),
        green=(190, 330, 200, 520, 1500, 1850, 2000, 2100, 980, 460), bare_db=(-10.3, -15.8), green_db=(-9.8, -15.0),
        texture=_conifers, floor=0.6, rise_day=125, fall_day=285, pace_days=20, snow_hold=0.35,
    ),
    Cover(name="orchard", texture=_orchard, rise_day=115, fall_day=295, **_TREES),
    # The two cereals mirror each other about AERIAL_DAY: equal mean over the year, equal in the aerial image.
    Cover(name="winter_cereal", green=CROP, green_db=(-11.0, -17.0), rise_day=100, fall_day=190, **_FIELD),
    Cover(name="spring_cereal", green=CROP, green_db=(-11.0, -17.0), rise_day=150, fall_day=240, **_FIELD),
    Cover(
        name="maize", green=(300, 580, 290, 900, 2700, 3550, 3750, 3900, 1850, 850), green_db=(-10.2, -16.0),
        rise_day=165, fall_day=265, **(_FIELD | {"texture": _maize}),
    ),
    Cover(name="rapeseed", green=CROP, green_db=(-9.8, -15.0), rise_day=85, fall_day=190, bloom_day=128, **_FIELD),
)  # fmt: skip
CLASSES: tuple[str, ...] = tuple(cover.name for cover in COVERS)
