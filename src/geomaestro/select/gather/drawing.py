"""Places drawn in a region: each follows from (seed, region, number) alone, and no two patches overlap.

The region is parted in cells of equal area (`cells.py`), each of which takes one patch; a permutation of the cells
puts them in a drawn order. A part of a set owns a stretch of that order and takes from it, one after the other, the
cells that are on land: parts need to know nothing of each other, and a larger set begins with the smaller.
Axes: n place.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, sqrt

import numpy as np

from geomaestro.errors import SpecError
from geomaestro.select.gather.cells import MAX_CELLS, Cells
from geomaestro.select.gather.draws import Permutation, key_of, uniform
from geomaestro.select.gather.regions import Region

PROBES = 8192  # assumed; cells that tell which share of a region is land, to one percent
ROUND = 1.01  # assumed; degrees of the ellipsoid and metres of a map differ from those of the sphere by less
ORDER, ACROSS, UPWARD, SPLIT = range(4)


def least_spacing_m(size_m: float, align_m: float) -> float:
    """Side of a cell in which a patch of `size_m`, turned any way and moved to whole steps of `align_m`, fits."""
    return sqrt(2) * (size_m + align_m) * ROUND


@dataclass(frozen=True)
class Place:
    """A drawn place, in degrees. `number` is that of its cell in the drawn order of its region."""

    region: str
    number: int
    key: int
    lon: float
    lat: float

    @property
    def id(self) -> str:
        """Name of its sample."""
        return f"{self.region}-{self.number:09d}"


@dataclass(frozen=True)
class Drawing:
    """The order of a region's places. A part of the set has `per_part` places and `reserve` times as many to replace
    those without a scene."""

    region: Region
    seed: int
    spacing_m: float
    patch_m: float
    per_part: int
    reserve: float

    @cached_property
    def cells(self) -> Cells:
        """The cells of the region's boxes."""
        found = Cells.within(self.region.boxes, self.spacing_m)
        if len(found) > MAX_CELLS:
            raise SpecError(f"region {self.region.name}: {len(found)} cells are too many; raise spacing_m")
        return found

    @cached_property
    def key(self) -> int:
        """What all draws follow from."""
        return key_of(self.seed, self.region.key, round(self.spacing_m * 1000))

    @cached_property
    def land_share(self) -> float:
        """About the share of cells whose place is in the region and on land; at least that of one cell."""
        count = min(PROBES, len(self.cells))
        return max(len(self._places(np.arange(count))[0]), 1) / max(count, 1)

    @property
    def capacity(self) -> int:
        """About how many places the region holds."""
        return round(len(self.cells) * self.land_share)

    @property
    def stretch(self) -> int:
        """Cells of a part."""
        return ceil(self.per_part * (1 + self.reserve) / self.land_share)

    def candidates(self, part: int) -> list[Place]:
        """The places of a part on land, in the order in which they are tried."""
        first = part * self.stretch
        numbers, lon, lat = self._places(np.arange(first, max(first, min(first + self.stretch, len(self.cells)))))
        drawn = zip(numbers.tolist(), lon.tolist(), lat.tolist(), strict=True)
        return [Place(self.region.name, n, key_of(self.key, n), x, y) for n, x, y in drawn]

    def _places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers, longitudes and latitudes of those of some cells, by number in the drawn order, that are on land."""
        free = 1 - self.patch_m / self.spacing_m  # of a cell, to move a patch in
        right, up = (0.5 + free * (uniform(self.key, numbers, stream) - 0.5) for stream in (ACROSS, UPWARD))
        cells = Permutation(key_of(self.key, ORDER), len(self.cells))(numbers) if len(numbers) else numbers
        lon, lat = self.cells.places(cells, right, up)
        here = self.region.contains(lon, lat)
        return numbers[here], lon[here], lat[here]

    def check(self, count: int) -> None:
        """Refuse more places than the region holds.

        Raises:
            SpecError: telling about how many it holds.
        """
        last = ceil(count / self.per_part) - 1
        wanted = count - last * self.per_part
        if len(self.cells) == 0 or len(self.candidates(last)) < wanted:
            held = f"about {self.capacity}" if len(self.cells) > PROBES else f"{len(self._all())}"
            raise SpecError(
                f"region {self.region.name} holds {held} places {self.spacing_m:.0f} m apart, too few for {count} with "
                f"{self.reserve:g} times as many in reserve; lower count or reserve, or choose a larger region"
            )

    def _all(self) -> np.ndarray:
        return self._places(np.arange(len(self.cells)))[0]


def split_of(lon: float, lat: float, seed: int, val_share: float, block_deg: float) -> str:
    """`val` in a drawn share of the blocks of ground, `train` in the others."""
    row, column = int((lat + 90) // block_deg), int((lon + 180) // block_deg)
    drawn = float(uniform(key_of(seed, "split", row, column), 0, SPLIT)[0])
    return "val" if drawn < val_share else "train"
