"""Entropies: of classes over samples, and of the pixel values of a sample.

The published measure (arXiv 2604.21104) is "per-sample spectral entropy", averaged over a dataset; its formula, bins,
range, bands and base were not released, only means from 1.6 to 3.2 of ten datasets. So all of them are options here,
kept beside the values. By default a band's pixels are brought to 8 bits as SatMAE does, counted in 64 bins, and
H = -sum p ln p is averaged over bands, then dates: measured, that gives dataset means of 2.1 to 2.8 on real Sentinel-2
tiles of four sources, where 256 bins give 3.1 to 3.9, above all that was published.

Axes: t date, c band, h row, w column, k class or bin, p valid pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from geomaestro.config import Strict
from geomaestro.errors import SpecError
from geomaestro.sensors import Sensor

# Mean and deviation of fMoW-Sentinel by band, in reflectance times 10,000. Source: SatMAE code.
SATMAE: Mapping[str, tuple[float, float]] = {
    "B1": (1370.19, 633.15), "B2": (1184.38, 650.28), "B3": (1120.77, 712.13), "B4": (1136.26, 965.23),
    "B5": (1263.74, 948.98), "B6": (1645.40, 1108.07), "B7": (1846.87, 1258.36), "B8": (1762.60, 1233.15),
    "B8A": (1972.62, 1364.39), "B9": (582.73, 472.38), "B10": (14.77, 14.31), "B11": (1732.16, 1310.37),
    "B12": (1247.92, 1087.60),
}  # fmt: skip
CENTRES_NM = {
    "B1": 443, "B2": 492, "B3": 560, "B4": 665, "B5": 704, "B6": 740, "B7": 783, "B8": 833, "B8A": 865, "B9": 945,
    "B10": 1374, "B11": 1614, "B12": 2202,
}  # fmt: skip
TEN = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")  # what SatMAE keeps of thirteen bands
NEAR_NM = 30  # assumed; a band farther from its Sentinel-2 namesake is of another instrument (Landsat's B05: 160 nm)
ONLY_HERE = {"B8A", "B12"}  # names that no other usual instrument has
TO_REFLECTANCE_1E4 = {"reflectance_1e4": 1.0, "reflectance": 1e4}
BYTE_LEVELS = 256


def shannon(counts: np.ndarray) -> float:
    """H = -sum p ln p in nats of the shares p of counts (k); 0 of nothing. Empty classes add nothing."""
    found = np.asarray(counts, np.float64)
    found = found[found > 0]
    share = found / found.sum() if len(found) else found
    return abs(float((share * np.log(share)).sum()))


def effective_number(counts: np.ndarray) -> float:
    """exp(H): as many equally frequent classes have the same entropy. Source: Hill 1973."""
    return float(np.exp(shannon(counts)))


def evenness(counts: np.ndarray) -> float | None:
    """H / ln k of the k classes that occur, 1 if all are equally frequent; None of fewer. Source: Pielou 1966."""
    found = int((np.asarray(counts) > 0).sum())
    return shannon(counts) / log(found) if found > 1 else None


class SpectralOptions(Strict):
    """How the pixel values of a sample are counted.

    `range`: "normalised" brings a band to 8 bits, from two deviations below its mean to two above (Sentinel-2: SatMAE's
    numbers; other sensors: the spec's own scaling); "image" spans each image and band, from its percentile `trim` to
    100 - `trim`; (low, high) is in the sensor's unit. Pixels beyond count in the first or last bin. `joint` counts the
    combinations of the bins of all bands, instead of each band for itself. `dates` "pooled" counts the pixels of all
    dates together: for series of single pixels.
    """

    bins: int = Field(default=64, ge=2, le=65_536)
    range: Literal["normalised", "image"] | tuple[float, float] = "normalised"
    trim: float = Field(default=0.0, ge=0, lt=50)
    bands: tuple[str, ...] = ()
    joint: bool = False
    dates: Literal["mean", "pooled"] = "mean"
    base: Literal["e"] | float = "e"
    least_pixels: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.range, tuple) and not self.range[0] < self.range[1]:
            raise ValueError(f"range: {list(self.range)} is empty; give the lower end first")
        if self.trim and self.range != "image":
            raise ValueError("trim belongs to range image")
        if self.range == "normalised" and self.bins > BYTE_LEVELS:
            raise ValueError(f"bins: 8-bit numbers fill at most {BYTE_LEVELS} bins, not {self.bins}")
        if self.base != "e" and self.base not in (2.0, 10.0):
            raise ValueError(f"base: {self.base:g} is none of e, 2, 10")
        return self


def sentinel2_names(sensor: Sensor) -> tuple[str, ...] | None:
    """The bands as SatMAE names them, if the sensor is a Sentinel-2; None otherwise. Names alone may be Landsat's."""
    names = tuple(band.upper().replace("B0", "B") for band in sensor.bands)
    if not set(names) <= set(SATMAE) or sensor.unit not in TO_REFLECTANCE_1E4:
        return None
    if sensor.wavelengths_nm is None:
        return names if ONLY_HERE & set(names) else None
    near = all(abs(CENTRES_NM[n] - nm) <= NEAR_NM for n, nm in zip(names, sensor.wavelengths_nm, strict=True))
    return names if near else None


@dataclass(frozen=True, eq=False)
class Spectral:
    """Spectral entropy of one sensor: the bands that count, and their bins.

    `low` and `high` (c) are the ends of the range in stored numbers (`log`: in their logarithms), None if images span
    it themselves; `byte` is True where values pass 8 bits first, as SatMAE's do.
    """

    options: SpectralOptions
    bands: tuple[str, ...]
    picked: tuple[int, ...]
    low: np.ndarray | None
    high: np.ndarray | None
    byte: bool
    log: bool
    tables: dict[tuple[str, int], np.ndarray]

    @classmethod
    def of(cls, name: str, sensor: Sensor, options: SpectralOptions) -> Self:
        """Of a sensor, called `name` in messages.

        Raises:
            SpecError: if it has no such band, or nothing tells the range of its numbers.
        """
        picked = _picked(name, sensor, options.bands)
        low = high = None
        if options.range == "normalised":
            low, high = _normalised(name, sensor)
        elif isinstance(options.range, tuple):
            ends = (np.asarray(options.range) - sensor.offset) / sensor.scale
            low, high = (np.full(len(sensor.bands), end) for end in (ends.min(), ends.max()))
        chosen = list(picked)
        return cls(
            options=options,
            bands=tuple(sensor.bands[c] for c in picked),
            picked=picked,
            low=None if low is None else low[chosen],
            high=None if high is None else high[chosen],
            byte=options.range == "normalised",
            log=options.range == "normalised" and sensor.scaling.log and sentinel2_names(sensor) is None,
            tables={},
        )

    def __call__(self, images: np.ndarray, valid: np.ndarray | None = None) -> float:
        """Of a sample (t c h w) and its valid pixels (t h w), None if all are; NaN of too few valid pixels."""
        parts = [self._pixels(image, None if valid is None else valid[t]) for t, image in enumerate(images)]
        if self.options.dates == "pooled" and parts:
            parts = [[np.concatenate(bands) for bands in zip(*parts, strict=True)]]
        known = [value for value in map(self._of_pixels, parts) if value is not None]
        unit = 1.0 if self.options.base == "e" else log(self.options.base)
        return float(np.mean(known)) / unit if known else float("nan")

    def _pixels(self, image: np.ndarray, valid: np.ndarray | None) -> list[np.ndarray]:
        """Valid pixels (p) of each band that counts, of an image (c h w)."""
        if valid is None or valid.all():
            return [image[c].ravel() for c in self.picked]
        return [image[c][valid] for c in self.picked]

    def _of_pixels(self, pixels: list[np.ndarray]) -> float | None:
        """Nats of the pixels (p) of each band; None of too few."""
        if len(pixels[0]) < self.options.least_pixels:
            return None
        bins_of = [self._binned(band, c) for c, band in enumerate(pixels)]
        if self.options.joint:
            return float(_entropies(_joint_counts(bins_of, self.options.bins)[None])[0])
        return float(_entropies(np.stack([_counts(each, self.options.bins) for each in bins_of])).mean())

    def _binned(self, band: np.ndarray, number: int) -> np.ndarray:
        """(p) bin of each pixel; through a table where stored numbers have at most 16 bits."""
        small = band.dtype.kind in "ui" and band.dtype.itemsize <= 2
        if self.low is None or self.high is None:
            return self._in_own_range(band, small=small)
        if not small:
            return self._bins(self._values(band), float(self.low[number]), float(self.high[number]))
        # a negative number becomes a large index
        return np.take(self._table(band.dtype, number), band.view(f"u{band.dtype.itemsize}"))

    def _in_own_range(self, band: np.ndarray, *, small: bool) -> np.ndarray:
        """(p) bins between the least and the greatest pixel, or two percentiles."""
        trim, least, most = self.options.trim, band.min(), band.max()
        ends = np.percentile(band.astype(np.float64), (trim, 100 - trim)) if trim else (float(least), float(most))
        if not small:
            return self._bins(band.astype(np.float64), *ends)
        table = self._bins(np.arange(int(least), int(most) + 1, dtype=np.float64), *ends)
        return np.take(table, band.astype(np.int32) - int(least))

    def _table(self, dtype: np.dtype, band: int) -> np.ndarray:
        """Bins of all numbers that a type of 16 bits can hold, by their bits."""
        key = (dtype.str, band)
        if key not in self.tables:
            assert self.low is not None and self.high is not None, "the range is known"
            bits = np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
            self.tables[key] = self._bins(self._values(bits.view(dtype)), float(self.low[band]), float(self.high[band]))
        return self.tables[key]

    def _values(self, x: np.ndarray) -> np.ndarray:
        """Stored numbers, or their logarithms where the scaling takes them."""
        return np.log(np.maximum(x, 1e-10, dtype=np.float64)) if self.log else x.astype(np.float64)

    def _bins(self, values: np.ndarray, low: float, high: float) -> np.ndarray:
        """(p) bins of values between two ends."""
        bins = self.options.bins
        share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
        if self.byte:
            whole = (share * 255).astype(np.uint8).astype(np.int64) * bins // BYTE_LEVELS
        else:
            whole = np.minimum((share * bins).astype(np.int64), bins - 1)
        return whole.astype(np.uint8 if bins <= BYTE_LEVELS else np.uint16)


def _counts(bins_of: np.ndarray, bins: int) -> np.ndarray:
    """(k) pixels in each bin. Bytes are counted two at a time, which halves the time (measured)."""
    even = len(bins_of) // 2 * 2
    if bins_of.dtype != np.uint8 or not bins_of.flags.c_contiguous or even == 0:
        return np.bincount(bins_of, minlength=bins)
    pairs = np.bincount(bins_of[:even].view("<u2"), minlength=BYTE_LEVELS * bins).reshape(bins, BYTE_LEVELS)
    counts = pairs.sum(axis=1) + pairs.sum(axis=0)[:bins]
    counts[bins_of[even:]] += 1
    return np.asarray(counts)


def _joint_counts(bins_of: Sequence[np.ndarray], bins: int) -> np.ndarray:
    """Pixels of each combination of the bands' bins (p) that occurs; mixed where 64 bits overflow."""
    factor = np.uint64(bins if len(bins_of) * log(bins) < 63 * log(2) else 0x9E3779B97F4A7C15)
    key = np.zeros(len(bins_of[0]), np.uint64)
    for row in bins_of:
        key = key * factor + row.astype(np.uint64) + np.uint64(1 if factor > bins else 0)
    return np.unique(key, return_counts=True)[1]


def _entropies(counts: np.ndarray) -> np.ndarray:
    """ln n - sum c ln c / n of counts (m k) that are not all 0: `shannon` of each row with one division."""
    total = counts.sum(axis=1)
    return np.maximum(0.0, np.log(total) - (counts * np.log(np.maximum(counts, 1))).sum(axis=1) / total)


def _picked(name: str, sensor: Sensor, wanted: Sequence[str]) -> tuple[int, ...]:
    """Positions of the bands that count: those wanted; of a Sentinel-2 those that SatMAE keeps; else all."""
    unknown = sorted(set(wanted) - set(sensor.bands))
    if unknown:
        raise SpecError(f"sensor {name!r} has no band {', '.join(unknown)}; it has {', '.join(sensor.bands)}")
    if wanted:
        return tuple(sensor.bands.index(band) for band in wanted)
    names = sentinel2_names(sensor) or ()
    return tuple(c for c, band in enumerate(names) if band in TEN) or tuple(range(len(sensor.bands)))


def _normalised(name: str, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
    """(c) stored numbers two deviations below and above the mean of each band."""
    names = sentinel2_names(sensor)
    if names is not None:
        unit = TO_REFLECTANCE_1E4[sensor.unit]
        told = np.asarray([SATMAE[band] for band in names])
        mean, std = (told[:, 0] / unit - sensor.offset) / sensor.scale, told[:, 1] / unit / sensor.scale
        return mean - 2 * std, mean + 2 * std
    scaling, count = sensor.scaling, len(sensor.bands)
    if (scaling.subtract, scaling.divide_by) == (0.0, 1.0) or scaling.heights:
        raise SpecError(
            f"sensor {name!r}: nothing tells the mean and deviation of its bands, so its values can't be brought to 8 "
            "bits; give `scaling` in the spec (`geomaestro data stats` measures one), or choose --range image, or "
            "--range LOW,HIGH"
        )
    mean, std = (np.broadcast_to(np.asarray(x, float), count) for x in (scaling.subtract, scaling.divide_by))
    if scaling.eight_bit:  # then these are the lower end and the width of the range themselves
        return np.minimum(mean, mean + std), np.maximum(mean, mean + std)
    return mean - 2 * np.abs(std), mean + 2 * np.abs(std)
