"""What a set is gathered from: a continent, the world's land, a bounding box, or the polygons of a file.

Axes: n place.
"""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geomaestro.errors import SpecError
from geomaestro.select.gather.cells import Box
from geomaestro.select.places import CONTINENTS, continents

WORLD = "world"
MAX_POLYGONS_BYTES = 1 << 28  # assumed; polygons of coasts in the finest detail are smaller
# Boxes that hold all of a continent's places (tested on places all over the Earth).
_BOXES: dict[str, tuple[Box, ...]] = {
    "Africa": ((-26, -48, 60, 38), (60, -26, 74, 0)),
    "Antarctica": ((-180, -90, 180, -45), (76, -40, 79, -37)),
    "Asia": ((25, -13, 180, 82), (-180, 60, -168, 73)),
    "Europe": ((-32, 27, 70, 83),),
    "North America": ((-180, 5, -10, 84), (165, 49, 180, 56)),
    "Oceania": ((94, -56, 180, 29), (-180, -52, -120, 32)),
    "South America": ((-112, -60, -25, 17),),
}
_EVERYWHERE: tuple[Box, ...] = ((-180, -90, 180, 90),)


@dataclass(frozen=True)
class Region:
    """A part of the Earth's surface. `key` names it in draws: the same words draw the same places.

    `polygons` are the text of a GeoJSON geometry; without, places of a box or of the world are on land.
    """

    name: str
    key: str
    boxes: tuple[Box, ...]
    continent: str | None = None
    polygons: str | None = None

    def contains(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """(n) bool: True where a place in degrees is in the region and on land."""
        if self.polygons is not None:
            import shapely

            shape = shapely.from_geojson(self.polygons)
            shapely.prepare(shape)
            inside = np.asarray(shapely.contains_xy(shape, lon, lat))
            return inside & _on_land(lon, lat, inside)
        found = continents(lon, lat)
        return found == self.continent if self.continent is not None else found != ""


def _on_land(lon: np.ndarray, lat: np.ndarray, asked: np.ndarray) -> np.ndarray:
    out = np.zeros(len(lon), bool)
    out[asked] = continents(lon[asked], lat[asked]) != ""
    return out


def region_of(said: str | Sequence[float], folder: Path = Path()) -> Region:
    """The region of what a recipe says; a path counts from `folder`.

    Raises:
        SpecError: if it is no continent, no box and no file of polygons, with the nearest name.
    """
    if not isinstance(said, str):
        return _box(said)
    word = said.replace("_", " ").replace("-", " ").strip().lower()
    if word == WORLD:
        return Region(WORLD, WORLD, _EVERYWHERE)
    for name in CONTINENTS:
        if word == name.lower():
            return Region(word.replace(" ", "_"), name, _BOXES[name], continent=name)
    if said.lower().endswith((".geojson", ".json")):
        return _polygons(folder / said)
    numbers = said.replace(",", " ").split()
    try:
        return _box([float(number) for number in numbers])
    except ValueError as error:
        if isinstance(error, SpecError):
            raise
    known = [WORLD, *(name.lower().replace(" ", "_") for name in CONTINENTS)]
    near = difflib.get_close_matches(word.replace(" ", "_"), known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SpecError(
        f"region {said!r} is none of {', '.join(known)}, no box (west, south, east, north) and no .geojson file{hint}"
    )


def _box(numbers: Sequence[float]) -> Region:
    said = ", ".join(f"{number:g}" for number in numbers)
    if len(numbers) != 4:
        raise SpecError(f"region [{said}]: a box is four numbers: west, south, east, north in degrees")
    west, south, east, north = (float(number) for number in numbers)
    if abs(south) > 90 or abs(north) > 90:
        swapped = max(abs(west), abs(east)) <= 90 and max(abs(south), abs(north)) <= 180
        hint = "longitude and latitude look swapped" if swapped else "latitudes go from -90 to 90"
        raise SpecError(f"region [{said}]: no box on Earth: {hint}; give west, south, east, north")
    if not (abs(west) <= 180 and abs(east) <= 180):
        raise SpecError(f"region [{said}]: longitudes go from -180 to 180")
    if south >= north:
        raise SpecError(f"region [{said}]: south is not below north; give west, south, east, north")
    if west == east:
        raise SpecError(f"region [{said}]: has no width; give west, south, east, north")
    boxes = (
        ((west, south, east, north),) if west < east else ((west, south, 180.0, north), (-180.0, south, east, north))
    )
    return Region("box", f"box {said}", boxes)


def _polygons(path: Path) -> Region:
    import shapely

    if not path.is_file():
        raise SpecError(f"{path}: no such file of polygons")
    if path.stat().st_size > MAX_POLYGONS_BYTES:
        raise SpecError(f"{path}: {path.stat().st_size} bytes are too many for a file of polygons; simplify them")
    try:
        shapes = [shapely.from_geojson(json.dumps(part)) for part in _geometries(json.loads(path.read_bytes()))]
    except (ValueError, TypeError, KeyError, shapely.errors.GEOSException) as error:
        raise SpecError(f"{path}: no readable GeoJSON ({error})") from None
    flat = [part for shape in shapes for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    if not flat:
        raise SpecError(f"{path}: holds no polygons")
    whole = shapely.union_all([shapely.make_valid(part) for part in flat])
    west, south, east, north = shapely.bounds(whole)
    if not (west >= -180 and east <= 180 and south >= -90 and north <= 90):
        raise SpecError(
            f"{path}: goes from {west:g}, {south:g} to {east:g}, {north:g}: no degrees of longitude and latitude "
            "(in this order); project it to EPSG:4326"
        )
    boxes = tuple(tuple(float(x) for x in shapely.bounds(part)) for part in flat)
    text = shapely.to_geojson(whole)
    return Region(path.stem.lower(), f"polygons {text}", boxes, polygons=text)  # type: ignore[arg-type]


def _geometries(found: Any) -> list[Any]:
    if found["type"] == "FeatureCollection":
        return [feature["geometry"] for feature in found["features"]]
    return [found["geometry"]] if found["type"] == "Feature" else [found]
