"""What a dataset holds, as stored: scenes of series. Where it lies (files, arrays, shards) is the reader's matter;
what a visit takes of it (crop, dates, flips) is `sampling.py`'s.

Axes: t date, d chosen date, c band, h row, w column.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from geomaestro.grid import Window

UNKNOWN, CLOUDY = 1, 2  # bits of a pixel's state; 0 is measured and clear


class Series(Protocol):
    """One sensor of one place: all its images, read no further than asked."""

    @property
    def where(self) -> str:
        """The file, for messages; empty where the scene's name says it."""
        ...

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(t c h w)"""
        ...

    @property
    def days(self) -> np.ndarray:
        """(t 3) int16: year, day of year, hour."""
        ...

    def days_of(self, dates: np.ndarray | None) -> np.ndarray:
        """(d 3) of some dates, or of all (None)."""
        ...

    def read(self, dates: np.ndarray | None, window: Window) -> np.ndarray:
        """Stored numbers (d c h w) of some dates, or of all (None)."""
        ...

    def state(self, window: Window, *, clouds: bool = True) -> np.ndarray | None:
        """(t h w) uint8: UNKNOWN where no number was measured, CLOUDY where it shows no ground; None if all is well.

        Without `clouds` they may be left out.
        """
        ...


class Raster(Protocol):
    """A map of labels."""

    @property
    def shape(self) -> tuple[int, int]:
        """(h w)"""
        ...

    def read(self, window: Window) -> np.ndarray:
        """Class numbers (h w) int64."""
        ...


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is stored of one place. A sensor that the place lacks is not in `series`."""

    id: str
    series: Mapping[str, Series]
    reference_date: np.ndarray
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    maps: Mapping[str, Raster] = field(default_factory=dict)
    place: tuple[float, float] | None = None


class Scenes(Protocol):
    """The scenes of some splits, in a fixed order."""

    draws_dates: bool
    """True if a series may have more dates than its model input."""

    def __len__(self) -> int: ...

    def ids(self) -> list[str]:
        """Names of the scenes, in order."""
        ...

    def places(self) -> list[tuple[float, float] | None]:
        """Longitude and latitude of the scenes in degrees, where they are known without reading images."""
        ...

    def labels(self, target: str) -> np.ndarray:
        """Labels of all scenes of a target that is no map, in order."""
        ...

    def scene(self, index: int) -> AbstractContextManager[Scene]:
        """One scene; its files are open inside the context alone."""
        ...


@dataclass(frozen=True, slots=True)
class MemorySeries:
    """A series in memory, or mapped from a file."""

    images: np.ndarray
    days: np.ndarray
    states: np.ndarray | None = None
    where: str = ""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(t c h w)"""
        t, c, h, w = self.images.shape
        return t, c, h, w

    def days_of(self, dates: np.ndarray | None) -> np.ndarray:
        """(d 3) of some dates, or of all."""
        return self.days if dates is None else self.days[dates]

    def read(self, dates: np.ndarray | None, window: Window) -> np.ndarray:
        """Stored numbers (d c h w) of some dates, or of all."""
        rows, cols = window.slices
        return self.images[slice(None) if dates is None else dates, :, rows, cols]

    def state(self, window: Window, *, clouds: bool = True) -> np.ndarray | None:
        """(t h w) bits, or None."""
        rows, cols = window.slices
        return None if self.states is None else self.states[:, rows, cols]


@dataclass(frozen=True, slots=True)
class MemoryRaster:
    """A map of labels in memory, or mapped from a file."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(h w)"""
        return self.values.shape[0], self.values.shape[1]

    def read(self, window: Window) -> np.ndarray:
        """Class numbers (h w) int64."""
        return self.values[window.slices].astype(np.int64)


def unknown_pixels(images: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """(t h w) bool: True where any band is NaN, infinite or nodata; None where none is."""
    if images.dtype.kind != "f" and nodata is None:
        return None
    unknown = ~np.isfinite(images) if images.dtype.kind == "f" else np.zeros(images.shape, bool)
    if nodata is not None:
        with np.errstate(over="ignore"):  # a nodata that a type of 16 bits cannot hold is infinite there
            unknown |= images == nodata
    return np.asarray(unknown.any(axis=1)) if unknown.any() else None


def state_of(unknown: np.ndarray | None, cloudy: np.ndarray | None) -> np.ndarray | None:
    """Bits (t h w) of two boolean arrays; None if nothing is True."""
    parts = [
        part.astype(np.uint8) * np.uint8(bit)
        for part, bit in ((unknown, UNKNOWN), (cloudy, CLOUDY))
        if part is not None and part.any()
    ]
    return None if not parts else np.bitwise_or.reduce(parts)
