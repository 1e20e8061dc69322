"""Splits: those the dataset has; else by blocks of ground where places are known; else drawn."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geomaestro.data.files.align import middle
from geomaestro.data.files.filespec import Blocks
from geomaestro.data.files.listing import by_blocks
from geomaestro.data.init.contents import look
from geomaestro.data.init.naming import File
from geomaestro.data.init.notes import Note
from geomaestro.data.init.rows import Listing
from geomaestro.data.init.streams import Stream
from geomaestro.errors import GeomaestroError

SIZES_KM = (100.0, 50.0, 25.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.25)
ENOUGH = 20  # blocks; assumed: fewer make the test split a matter of chance
MOST_OPENED = 2000  # files opened for their places
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
Place = tuple[float, float]


def places_of(listing: Listing, root: Path) -> tuple[list[Place], Any]:
    """Places (longitude, latitude) of samples, and the value of `place`; none where they are unknown."""
    table = listing.table
    if table is not None and isinstance(table.columns.place, tuple):
        lon, lat = table.columns.place
        return [(float(row[lon]), float(row[lat])) for row in table.rows], [lon, lat]
    if table is not None and table.columns.place is not None:
        from geomaestro.data.files.listing import _centroid

        column = str(table.columns.place)
        try:
            points = [_centroid(row[column], row) for row in table.rows[:MOST_OPENED]]
        except GeomaestroError:
            points = []
        if points and all(abs(x) <= 360 and abs(y) <= 90 for x, y in points):
            return [(x, y) for x, y in points], column
    return _by_georeference(listing.primary, root)


def _by_georeference(stream: Stream, root: Path) -> tuple[list[Place], Any]:
    if stream.grid is None:
        return [], None
    out = []
    seen: dict[tuple[str, ...], File] = {}
    for file in stream.files:
        seen.setdefault(tuple(v for k, v in file.fields.items() if k.startswith("id")), file)
    for file in list(seen.values())[:: max(1, len(seen) // MOST_OPENED)]:
        try:
            grid = look(root, file.path).grid
        except GeomaestroError:
            continue
        if grid is None:
            return [], None
        out.append(middle(grid))
    return out, stream.name


def add_splits(values: dict[str, Any], listing: Listing, places: Sequence[Place], place: Any) -> None:
    """Say in the values of `samples` how samples fall into splits; `listing.splits` then has their names."""
    if place is not None and (places or listing.table is not None):
        where = "seen: columns of the table" if not isinstance(place, str) else "seen: georeference of the files"
        values["place"] = Note(place, where)
    count = len(listing.ids)
    columns = listing.table.columns if listing.table is not None else None
    if listing.splits:
        listing.notes.append("splits are the dataset's own")
    elif columns is not None and columns.split is not None:
        values["split"] = Note(columns.split, "seen: a column with splits")
        values["splits"] = {name: list(found) for name, found in columns.splits.items()}
        listing.splits = {name: name for name in columns.splits}
    elif count < 3:
        listing.notes.append(
            f"TODO: {count} sample(s) can't be split; every split is all of them, so no score is honest"
        )
    elif len(set(places)) >= 3:
        _blocks(values, listing, places)
    else:
        values["drawn"] = Note(
            SHARES,
            "assumed: drawn by name, since places are not known. WARNING: neighbours may fall into train and test, "
            "and scores then look better than they are; name a column or sensor in `place` and use `blocks` if you can",
        )
        listing.splits = {name: name for name in SHARES}


def _blocks(values: dict[str, Any], listing: Listing, places: Sequence[Place]) -> None:
    """Blocks as large as leaves enough of them; each split has to have some."""
    best: tuple[int, float, Counter[str]] | None = None
    for size in SIZES_KM:
        split = by_blocks(places, Blocks(size_km=size, shares=SHARES))
        number = len(set(_cells(places, size)))
        if len(set(split)) == len(SHARES) and (best is None or number > best[0] * 1.2):
            best = (number, size, Counter(split))
            if number >= ENOUGH:
                break
    if best is None:
        values["drawn"] = Note(SHARES, "assumed: drawn by name; samples lie too close together for blocks of ground")
        listing.splits = {name: name for name in SHARES}
        return
    number, size, counts = best
    few = "" if number >= ENOUGH else "; few, so another seed may give another score"
    shown = ", ".join(f"{name} {counts[name]}" for name in SHARES)
    values["blocks"] = Note(
        {"size_km": size, "shares": SHARES},
        f"assumed: {number} blocks of {size:g} km{few} ({shown}), so that neighbours are in one split",
    )
    listing.splits = {name: name for name in SHARES}


def _cells(places: Sequence[Place], size_km: float) -> list[tuple[int, int]]:
    """About the blocks of `by_blocks`, to count them."""
    import math

    from geomaestro.data.files.listing import EARTH_KM

    out = []
    for lon, lat in places:
        row = math.floor(lat * EARTH_KM / size_km)
        width = EARTH_KM * max(math.cos(math.radians((row + 0.5) * size_km / EARTH_KM)), 0.01)
        out.append((row, math.floor(lon * width / size_km)))
    return out
