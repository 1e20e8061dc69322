"""Which dates a place is looked for on: intervals drawn from years, ranges and seasons."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from geomaestro.config import Strict
from geomaestro.select.gather.draws import uniform
from geomaestro.select.places import SEASONS, seasons

DAY = 10  # stream of draws; one more for each interval
TRIES = 64  # assumed; a quarter of the year is met in far fewer draws


class Dates(Strict):
    """Days on which images may have been taken: of `years`, or of `ranges` of first and last day, in `seasons` of the
    place's hemisphere. A place is looked for in `intervals` drawn intervals of `window_days`, one after the other.
    """

    years: tuple[int, ...] = ()
    ranges: tuple[tuple[date, date], ...] = ()
    seasons: tuple[str, ...] = ()
    window_days: int = Field(default=60, ge=1, le=3660)
    intervals: int = Field(default=3, ge=1, le=50)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if bool(self.years) == bool(self.ranges):
            raise ValueError("give either years, such as [2019, 2020], or ranges of first and last day")
        for first, last in self.ranges:
            if first > last:
                raise ValueError(f"ranges: {first} comes after {last}")
        for year in self.years:
            if not 1972 <= year <= 2100:
                raise ValueError(f"years: {year} is no year of satellite images")
        unknown = sorted(set(self.seasons) - set(SEASONS))
        if unknown:
            raise ValueError(f"seasons: {', '.join(unknown)} not among {', '.join(SEASONS)}")
        return self

    def spans(self) -> list[tuple[date, date]]:
        """First and last days."""
        return list(self.ranges) or [(date(year, 1, 1), date(year, 12, 31)) for year in self.years]


@dataclass(frozen=True)
class Interval:
    """Days from `first` to `last`, both included, of which those of some seasons count."""

    first: date
    last: date
    seasons: tuple[str, ...]
    lat: float

    def holds(self, day: date) -> bool:
        """Whether an image of that day is wanted."""
        return self.first <= day <= self.last and _in_season(day, self.seasons, self.lat)


def intervals_of(how: Dates, key: int, lat: float) -> list[Interval]:
    """The intervals of a place, in the order in which they are tried: windows around days drawn from all that count."""
    spans = how.spans()
    lengths = np.asarray([(last - first).days + 1 for first, last in spans])
    found = []
    for number in range(how.intervals):
        first, day, last = _draw(spans, lengths, uniform(key, np.arange(TRIES), DAY + number), how.seasons, lat)
        length = timedelta(days=how.window_days - 1)
        start = max(first, min(day - timedelta(days=how.window_days // 2), last - length))
        found.append(Interval(start, min(last, start + length), how.seasons, lat))
    return found


def _draw(
    spans: Sequence[tuple[date, date]], lengths: np.ndarray, draws: np.ndarray, wanted: tuple[str, ...], lat: float
) -> tuple[date, date, date]:
    """First day of a span, a day of it, its last day: the first draw that is in season, or the last one."""
    ends = np.cumsum(lengths)
    for drawn in draws:
        number = int(drawn * ends[-1])
        span = int(np.searchsorted(ends, number, side="right"))
        day = spans[span][0] + timedelta(days=number - int(ends[span] - lengths[span]))
        if _in_season(day, wanted, lat):
            break
    return spans[span][0], day, spans[span][1]


def _in_season(day: date, wanted: tuple[str, ...], lat: float) -> bool:
    if not wanted:
        return True
    return bool(seasons(np.asarray([day.month]), np.asarray([lat]))[0] in wanted)
