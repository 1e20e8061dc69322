"""Where the files of a scene say that they lie: on Earth, at the place that the table tells, and on the same ground?

Only files with a georeference tell; arrays and the packed store have none.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import asin, cos, hypot, isfinite, nan, radians, sin, sqrt
from typing import Any

from geomaestro.data.files.align import Aligned, Padded, Repeated, describe, middle, same_crs
from geomaestro.data.files.stored import Joined
from geomaestro.data.quality.refusals import PLACE, RefusedError
from geomaestro.data.scenes import Scene
from geomaestro.errors import DataError
from geomaestro.grid import Grid

RADIUS_KM = 6371.0
FAR_KM = 5.0  # assumed; a place in a table may be that much rounded, beside the extent of the image
SAME_GROUND = 0.9  # assumed; overlap, as a share of the larger extent, below which pixels are not the same ground
Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Extent:
    """Of an image on the ground."""

    height_km: float
    width_km: float


@dataclass(frozen=True, slots=True)
class Reference:
    """What one file says: `who` is "sensor 's2'" or the like."""

    who: str
    where: str
    grid: Grid


def georeferences(scene: Scene) -> list[Reference]:
    """What the files of a scene say, each different grid of a sensor or map once."""
    found = []
    for kind, group in (("sensor", scene.series), ("target", scene.maps)):
        for name, holder in group.items():
            stored = getattr(holder, "stored", None)
            grids: dict[Grid, str] = {}
            for path, grid in _grids(stored, getattr(holder, "where", "")):
                grids.setdefault(grid, path)
            found += [Reference(f"{kind} {name!r}", path, grid) for grid, path in grids.items()]
    return found


def _grids(stored: Any, where: str) -> Iterator[tuple[str, Grid]]:
    """Grids of the files behind stored pixels, before they were brought to the ground or size of the scene."""
    if isinstance(stored, Joined):
        for part in stored.parts:
            yield from _grids(part, where)
    elif isinstance(stored, Padded):
        rows, cols = (inner - outer for inner, outer in zip(stored.stored.shape[2:], stored.size, strict=True))
        for path, grid in _grids(stored.stored, where):
            yield path, _moved(grid, int(rows / 2), int(cols / 2), stored.size)
    elif isinstance(stored, Aligned | Repeated):
        yield from _grids(stored.stored, where)
    elif stored is not None:
        grid = stored.grid()
        if grid is not None:
            yield getattr(stored, "path", where), grid


def _moved(grid: Grid, row: int, col: int, size: tuple[int, int]) -> Grid:
    a, b, c, d, e, f = grid.transform
    corner = (a, b, c + a * col + b * row, d, e, f + d * col + e * row)
    return replace(grid, height=size[0], width=size[1], transform=corner)


def check_ground(found: list[Reference], told: Place | None, *, aligned: bool) -> None:
    """Compare what files say with Earth, with the place that the table tells, and, unless `aligned`, with each other.

    Raises:
        RefusedError: naming the file, both sides and the remedy.
    """
    for reference in found:
        lon, lat = _middle(reference)
        if told is not None:
            extent = extent_of(reference.grid)
            far = distance_km((lon, lat), told)
            if far > FAR_KM + max(extent.height_km, extent.width_km):
                raise RefusedError(
                    PLACE,
                    f"{reference.where}: {reference.who} lies at longitude {lon:.4f}, latitude {lat:.4f}, but the "
                    f"table tells {told[0]:.4f}, {told[1]:.4f}, {far:.0f} km away; one of them is of another sample "
                    "(longitude and latitude swapped?)",
                )
    if not aligned:
        for reference in found[1:]:
            _check_same(found[0], reference)


def _middle(reference: Reference) -> Place:
    try:
        lon, lat = middle(reference.grid)
    except DataError:
        lon, lat = nan, nan
    if not (isfinite(lon) and isfinite(lat) and -180 <= lon <= 360 and -90 <= lat <= 90):
        raise RefusedError(
            PLACE,
            f"{reference.where}: {reference.who} does not lie on Earth ({describe(reference.grid)}); its coordinate "
            "system does not fit its coordinates: write the right one into the file",
        )
    return lon, lat


def _check_same(first: Reference, other: Reference) -> None:
    if same_crs(first.grid.crs, other.grid.crs) and shared(first.grid, other.grid) >= SAME_GROUND:
        if same_way(first.grid, other.grid):
            return
        raise RefusedError(
            PLACE,
            f"{other.where}: rows and columns of {other.who} run another way over the ground than those of {first.who} "
            f"({first.where}): one is upside down, mirrored or turned; set `ground` in the spec",
        )
    raise RefusedError(
        PLACE,
        f"{other.where}: {other.who} lies on {describe(other.grid)}, but {first.who} on {describe(first.grid)} "
        f"({first.where}), so that their pixels would wrongly be taken for the same ground; set `ground` in the spec "
        "to have them brought to one extent",
    )


def shared(one: Grid, other: Grid) -> float:
    """Area that two grids of one coordinate system share, over that of the larger."""
    left, right = one.bounds, other.bounds
    width = min(left[2], right[2]) - max(left[0], right[0])
    height = min(left[3], right[3]) - max(left[1], right[1])
    largest = max((b[2] - b[0]) * (b[3] - b[1]) for b in (left, right))
    return max(width, 0.0) * max(height, 0.0) / largest


def same_way(one: Grid, other: Grid) -> bool:
    """True if rows run the same way over the ground in both, and columns too, within 45 degrees."""
    (a, b, _, d, e, _), (a2, b2, _, d2, e2, _) = one.transform, other.transform
    return all(
        x * x2 + y * y2 > sqrt(0.5) * hypot(x, y) * hypot(x2, y2) for x, y, x2, y2 in ((a, d, a2, d2), (b, e, b2, e2))
    )


def extent_of(grid: Grid) -> Extent:
    """Height and width of a grid through its middle."""
    from rasterio.warp import transform

    west, south, east, north = grid.bounds
    x, y = (west + east) / 2, (south + north) / 2
    lon, lat = transform(grid.crs, "EPSG:4326", [west, east, x, x], [y, y, south, north])
    left, right, low, high = zip(lon, lat, strict=True)
    return Extent(height_km=distance_km(low, high), width_km=distance_km(left, right))


def distance_km(one: Place, other: Place) -> float:
    """Great-circle distance of two places (longitude, latitude). Source: the haversine formula."""
    (lon, lat), (lon2, lat2) = one, other
    up, across = radians(lat2 - lat) / 2, radians(lon2 - lon) / 2
    square = sin(up) ** 2 + cos(radians(lat)) * cos(radians(lat2)) * sin(across) ** 2
    return 2 * RADIUS_KM * asin(min(1.0, sqrt(square)))
