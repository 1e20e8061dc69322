"""A miniature of fMoW-Sentinel: Sentinel-2 composites of places with a function, several times each.

Layout (the dataset's README at purl.stanford.edu/vg497cb6002 and SatMAE's code, unless *assumed*):
    fmow-sentinel/<split>/<category>/<category>_<location>/<category>_<location>_<image>.tif
        13 bands in the order of L1C (SatMAE's constants), reflectance * 10000; sizes differ between locations;
        uint16, EPSG:4326 with square pixels of 10 m at the equator, and `test_gt` as the folder of test: *assumed*
    train.csv, val.csv, test_gt.csv: an unnamed index, category, location_id, image_id, timestamp, polygon
        timestamp is the middle of 90 days, `YYYY-MM-DDThh:mm:ssZ`; polygon is WKT, longitude before latitude (assumed),
        the same for all images of a location; image_id below 100 is the image of fMoW, from 100 on a step of six
        months (which number stands for which step is assumed).
Location ids begin anew in each split. An image that could not be fetched is a file with one null band and no row
in the table (README; that the index keeps its gap is assumed): each third location has one here.
"""

import csv
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from geomaestro.data.miniatures import earth
from geomaestro.data.miniatures.sites import (
    L1C,
    METRES_PER_DEGREE,
    SPLITS,
    Recipe,
    blob,
    blocks,
    check_samples,
    claim,
    day_of_season,
    draw_land,
    draw_place,
    random_of,
    resampled,
    strip,
    surface,
    to_uint16,
    top_of_atmosphere,
)

FOLDERS = {"train": "train", "val": "val", "test": "test_gt"}  # also the names of the tables
COLUMNS = ("", "category", "location_id", "image_id", "timestamp", "polygon")
IMAGES = 3  # of a location; the real ones have about eleven
STEPS = 9  # half years from July 2015 to December 2019
DEGREES = 10 / METRES_PER_DEGREE  # of a pixel
_MEADOW = ("grassland", "broadleaf_forest")
RECIPES = {  # six of the 62 categories; two share a beginning, one has a hyphen
    "airport": Recipe(("grassland",), 3, "built_up", strip(9)),
    "airport_hangar": Recipe(("built_up", "built_up", "grassland"), 9),
    "crop_field": Recipe(("winter_cereal", "spring_cereal", "maize", "rapeseed"), 6),
    "lake_or_pond": Recipe(_MEADOW, 4, "water", blob),
    "park": Recipe(("broadleaf_forest",), 3),
    "single-unit_residential": Recipe(_MEADOW, 6, "built_up", blocks),
}
CATEGORIES = tuple(RECIPES)


@dataclass(frozen=True)
class Location:
    """One place; `times` are IMAGES pairs of image id and time, and one more for the image that failed."""

    category: str
    number: int
    land: earth.Tile
    north_west: tuple[float, float]  # longitude, latitude
    times: tuple[tuple[int, datetime], ...]
    failed: bool

    def path(self, image: int) -> Path:
        name = f"{self.category}_{self.number}"
        return Path(self.category, name, f"{name}_{image}.tif")

    def row(self, image: int, at: datetime) -> tuple[str, int, int, str, str]:
        return (self.category, self.number, image, f"{at:%Y-%m-%dT%H:%M:%SZ}", self.polygon())

    def polygon(self) -> str:
        """The ground the raster just covers: its corners lie in the middle of the raster's corner pixels."""
        height, width = self.land.field_of.shape
        west, north = self.north_west[0] + DEGREES / 2, self.north_west[1] - DEGREES / 2
        east, south = west + (width - 1) * DEGREES, north - (height - 1) * DEGREES
        corners = ((west, north), (east, north), (east, south), (west, south), (west, north))
        return f"POLYGON (({', '.join(f'{lon} {lat}' for lon, lat in corners)}))"


def write(folder: Path, samples: dict[str, int], seed: int) -> None:
    """Write fmow-sentinel/ and its three tables; `samples` counts images by split, IMAGES of each location.

    Image i of a split depends on (seed, split, i) alone; location i is of category i modulo 6.

    Raises:
        DataError: if fmow-sentinel/ holds something, or a count is not one.
    """
    check_samples(samples)
    root = claim(Path(folder) / "fmow-sentinel")
    for split in SPLITS:
        rows: list[tuple[tuple[str, int, int, str, str], bool]] = []
        for index in range(samples.get(split, 0)):
            rows += _write_image(root / FOLDERS[split], seed, split, index)
        _write_table(Path(folder) / f"{FOLDERS[split]}.csv", rows)


def _write_image(root: Path, seed: int, split: str, index: int) -> list[tuple[tuple[str, int, int, str, str], bool]]:
    """Write an image, and before the first of some locations the failed one; give their rows, and which failed."""
    number, turn = divmod(index, IMAGES)
    place = _location(random_of(seed, split, 0, number), number)
    rows = []
    if place.failed and turn == 0:
        image, at = place.times[IMAGES]
        null = np.zeros((1, *place.land.field_of.shape), np.uint16)
        _write_geotiff(root / place.path(image), null, place.north_west)
        rows.append((place.row(image, at), True))
    image, at = place.times[turn]
    random = random_of(seed, split, 1, index)
    ground = surface(random, place.land, day_of_season(at.date(), place.north_west[1]))
    seen = to_uint16(resampled(top_of_atmosphere(random, ground), L1C))
    _write_geotiff(root / place.path(image), seen, place.north_west)
    return [*rows, (place.row(image, at), False)]


def _location(random: Generator, number: int) -> Location:
    """The corner is a whole number of pixels from 0, 0, as Earth Engine exports do."""
    category = CATEGORIES[number % len(CATEGORIES)]
    height, width = (int(side) for side in random.integers((40, 40), (56, 71)))
    corner = tuple(float(np.round(degrees / DEGREES) * DEGREES) for degrees in draw_place(random))
    return Location(
        category=category,
        number=number // len(CATEGORIES),
        land=draw_land(random, RECIPES[category], height, width),
        north_west=(corner[0], corner[1]),
        times=_times(random),
        failed=number % 3 == 0,
    )


def _times(random: Generator) -> tuple[tuple[int, datetime], ...]:
    """An image of fMoW and IMAGES of the six-month steps that have none, in the order of their ids."""
    steps = random.choice(STEPS, 1 + IMAGES, replace=False)
    begin, end = _half_year(int(steps[0]))
    own = begin + timedelta(seconds=int(random.integers((end - begin) // timedelta(seconds=1))))
    times = [(int(random.integers(0, 12)), own)]
    for step in sorted(steps[1:].tolist()):
        begin, end = _half_year(step)
        times.append((100 + step, begin + (end - begin) / 2))
    return tuple(times)


def _half_year(step: int) -> tuple[datetime, datetime]:
    """Beginning and end of a half year, counted from July 2015."""
    starts = [datetime(2015 + (number + 1) // 2, 7 if number % 2 == 0 else 1, 1) for number in (step, step + 1)]
    return starts[0], starts[1]


def _write_geotiff(path: Path, image: ndarray, north_west: tuple[float, float]) -> None:
    import rasterio

    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = image.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": "uint16"}
    transform = rasterio.Affine(DEGREES, 0, north_west[0], 0, -DEGREES, north_west[1])
    with rasterio.open(path, "w", crs="EPSG:4326", transform=transform, compress="deflate", **profile) as file:
        file.write(image)


def _write_table(path: Path, rows: list[tuple[tuple[str, int, int, str, str], bool]]) -> None:
    """Number the rows by category, location and image, and leave out those that failed."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([number, *row] for number, (row, failed) in enumerate(sorted(rows)) if not failed)
