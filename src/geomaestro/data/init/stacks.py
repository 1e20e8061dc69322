"""Rasters whose bands are dates x bands stacked: found by descriptions, by lists of dates, or by words of the name."""

import datetime
import json
import re
from collections.abc import Sequence

from geomaestro.data.files.stored import RASTERS
from geomaestro.data.files.tables import Row
from geomaestro.data.init.streams import Stream
from geomaestro.data.init.words import DATE

S2_COUNTS, S1_COUNTS = (13, 12, 10), (2,)  # bands of one date


def unstack(stream: Stream, words: str, rows: Sequence[Row]) -> None:
    """Say in the stream that its bands are dates x bands, where that is so or likely."""
    if stream.suffix not in RASTERS or stream.dates is not None or stream.count < 4 or stream.kind != "sensor":
        return
    if _by_descriptions(stream) or _by_lists(stream, rows):
        return
    if stream.bands:
        return
    counts: tuple[int, ...] = ()
    if re.search(r"s(en(tinel)?)?_?2", words):
        counts = S2_COUNTS
    elif re.search(r"s(en(tinel)?)?_?1|(^|_)sar", words):
        counts = S1_COUNTS
    ways = [(stream.count // c, c) for c in counts if stream.count % c == 0 and stream.count > c]
    if not ways:
        _mention(stream)
        return
    dates, bands = ways[0]
    days = _assumed_days(dates)
    stream.count, stream.number_of_dates = bands, dates
    stream.dates = {"fixed": json.dumps(days)}
    other = f" or {ways[1][0]} dates of {ways[1][1]} bands" if len(ways) > 1 else ""
    stream.notes.append(
        f"assumed: {dates * bands} bands are {dates} dates of {bands} bands{other}, a date after the other"
    )
    stream.todo.append(
        "the files do not say their dates; those below are made up, one a month or evenly spread: write the true ones. "
        "If a band's dates stand together, add axes: [band, date, row, col]"
    )


def _mention(stream: Stream) -> None:
    """Say which stacks the number of bands allows, and how to write one."""
    ways = [
        f"{stream.count // c} dates of {c}" for c in (13, 12, 10, 4, 3, 2) if stream.count % c == 0 and stream.count > c
    ]
    if stream.count > 13 and ways:
        stream.notes.append(
            f"ambiguous: {stream.count} bands could also be {', or '.join(ways)} bands; if so, list the bands of one "
            "date and say the dates in `dates` (fixed takes a JSON list)"
        )


def _by_descriptions(stream: Stream) -> bool:
    """Descriptions such as B02_20190701."""
    found = [DATE.search(band) for band in stream.bands]
    if not found or not all(found):
        return False
    days = [match.group() for match in found if match]
    names = [band.replace(day, "").strip("_-. ") or "b1" for band, day in zip(stream.bands, days, strict=True)]
    dates, bands = list(dict.fromkeys(days)), list(dict.fromkeys(names))
    if len(dates) * len(bands) != stream.count:
        return False
    if names == bands * len(dates):
        order = "a date after the other"
    elif days == dates * len(bands):
        order, stream.axes = "a band after the other", ("band", "date", "row", "col")
    else:
        return False
    stream.bands, stream.count, stream.number_of_dates = tuple(bands), len(bands), len(dates)
    stream.dates = {"fixed": json.dumps([day[:10] for day in dates])}
    stream.notes.append(f"seen: descriptions of the bands are {len(dates)} dates of {len(bands)} bands, {order}")
    stream.notes.append("assumed: all files have the dates of the first")
    return True


def _by_lists(stream: Stream, rows: Sequence[Row]) -> bool:
    """A column of the table that lists as many dates as divide the bands."""
    for column in rows[0] if rows else ():
        lists = [_as_list(row[column]) for row in rows[:50]]
        sizes = {len(values) for values in lists}
        if len(sizes) != 1 or not all(DATE.match(str(v)) for values in lists for v in values):
            continue
        number = sizes.pop()
        if number > 1 and stream.count % number == 0:
            stream.dates, stream.number_of_dates = {"column": str(column)}, number
            stream.count //= number
            stream.bands = ()
            stream.notes.append(f"seen: column {column!r} lists {number} dates; assumed: a date after the other")
            return True
    return False


def _as_list(value: object) -> list[object]:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            return []
    return list(value) if isinstance(value, list) else []


def _assumed_days(count: int) -> list[str]:
    """Made-up dates of 2020: the 15th of each month for twelve, else evenly spread."""
    if count == 12:
        return [f"2020-{month:02}-15" for month in range(1, 13)]
    first = datetime.date(2020, 1, 1)
    return [(first + datetime.timedelta(days=(366 * n) // count)).isoformat() for n in range(count)]
