"""Dates as files write them: names of products, columns, lists, time axes of NetCDF -> (year, day of year, hour)."""

import datetime
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from geomaestro.data.files.filespec import Dates
from geomaestro.data.files.stores import whole
from geomaestro.data.reading import decoded
from geomaestro.errors import DataError

Triple = tuple[int, int, int]
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})(?:T(\d{2}))?")  # official code: what follows the day is not looked at
_ISO = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}))?")
_SINCE = re.compile(r"(day|hour|minute|second|millisecond|microsecond|nanosecond)s? since (.+)$", re.IGNORECASE)
_SECONDS = {
    "day": 86400.0, "hour": 3600.0, "minute": 60.0, "second": 1.0, "millisecond": 1e-3, "microsecond": 1e-6,
    "nanosecond": 1e-9,
}  # fmt: skip
MAX_DATES = 100_000  # assumed


@lru_cache(maxsize=200_000)
def moment(text: str, part: int | None, form: str | None, hours: bool) -> Triple:
    """One written date; day 00 counts as 01 (official code).

    Raises:
        ValueError: if it is none.
    """
    if part is not None:
        pieces = text.split("_")
        if not -len(pieces) <= part < len(pieces):
            raise ValueError(f"{text!r} has {len(pieces)} pieces between underscores, none is number {part}")
        text = pieces[part]
    if form is not None:
        at = datetime.datetime.strptime(text, form)
        return at.year, at.timetuple().tm_yday, at.hour if hours else 0
    found = _COMPACT.match(text) or _ISO.match(text)
    if found is None:
        raise ValueError(f"{text!r} is no date such as 20190701 or 2019-07-01")
    year, month, day, hour = found.groups()
    at_day = datetime.date(int(year), int(month), max(1, int(day)))
    return at_day.year, at_day.timetuple().tm_yday, int(hour or 0) if hours else 0


def moments(texts: Iterable[Any], how: Dates, where: str) -> np.ndarray:
    """(t 3) int16 of written dates.

    Raises:
        DataError: naming the file and the text, if one is none.
    """
    out = []
    for text in texts:
        try:
            out.append(moment(str(text).strip(), how.part, how.format, how.hours))
        except ValueError as error:
            raise DataError(f"{where}: no date in {str(text)!r} ({error}); see `dates` of the sensor") from None
    return np.asarray(out, np.int16).reshape(-1, 3)


def of_cell(value: Any, how: Dates, where: str) -> np.ndarray:
    """(t 3) of a table's cell: a date, or a list or JSON object (by number) of dates."""
    if isinstance(value, datetime.date | datetime.datetime):
        value = value.isoformat()
    if isinstance(value, str) and value.startswith(("[", "{")):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError(f"{where}: {value[:40]!r} is not readable JSON") from None
    if isinstance(value, dict):
        try:
            value = [value[key] for key in sorted(value, key=int)]
        except ValueError:
            raise DataError(
                f"{where}: dates are numbered by {', '.join(list(value)[:3])}, which are no numbers"
            ) from None
    if isinstance(value, list | tuple | np.ndarray):
        if len(value) > MAX_DATES:
            raise DataError(f"{where}: {len(value)} dates are too many")
        return moments(value, how, where)
    return moments([value], how, where)


def of_lines(path: Path, how: Dates) -> np.ndarray:
    """(t 3) of a text file with one date, or name that holds one, per line."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size > MAX_DATES * 100:
        raise DataError(f"{path}: {path.stat().st_size} bytes are too many for a list of dates")
    try:
        lines = path.read_text(encoding="utf-8-sig").split()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: holds text that is not UTF-8 ({error})") from None
    return moments(lines, how, str(path))


def days_of_names(values: np.ndarray, how: Dates) -> np.ndarray | None:
    """(t 3) of product names in bytes, a piece of each starting with 8 digits; None where `moment` must look at them.

    Measured: 13 us for 16 names and 90 us for 120, instead of 60 and 450 us through `moment`, to which all are new.
    """
    if values.dtype.kind != "O" or how.part is None or how.format is not None or how.hours or len(values) == 0:
        return None
    try:
        days = [_day(name.split(b"_")[how.part][:8]) for name in values.tolist()]
    except (AttributeError, IndexError, TypeError, ValueError):  # other than bytes, a piece too few, or no such day
        return None
    return np.asarray(days, np.int16)


@lru_cache(maxsize=20_000)
def _day(digits: bytes) -> Triple:
    """Of a date written YYYYMMDD; day 00 counts as 01. Names differ in every sample, their days hardly.

    Raises:
        ValueError: if it is in no calendar.
    """
    if len(digits) != 8 or not digits.isdigit():
        raise ValueError(f"{digits!r} is no date such as 20190701")
    at = datetime.date(int(digits[:4]), int(digits[4:6]), max(1, int(digits[6:])))
    return at.year, at.timetuple().tm_yday, 0


class WrittenDays:
    """Names with dates in an open HDF5 file, of which only those that are asked for are read.

    Measured: 40 us for 16 of 146 names, 200 us for all of them.
    """

    def __init__(self, array: Any, how: Dates, where: str) -> None:
        self.array, self.how, self.where, self.count = array, how, where, int(array.shape[0])

    def __len__(self) -> int:
        return self.count

    def of(self, dates: np.ndarray | None) -> np.ndarray:
        """(d 3) of some dates, or of all."""
        if dates is None:
            return of_array(whole(Path(self.where), self.array), None, self.how, self.where)
        return of_array(self._some(dates), None, self.how, self.where)

    def _some(self, dates: np.ndarray) -> np.ndarray:
        import h5py

        names = np.empty(len(dates), self.array.dtype)
        if len(dates) == 0:
            return names
        chosen = self.array.id.get_space()
        chosen.select_elements(np.asarray(dates, np.uint64)[:, None])
        try:
            self.array.id.read(h5py.h5s.create_simple((len(dates),)), chosen, names)
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"{self.where}: unreadable, probably truncated ({error}); fetch the file again") from None
        return names


def all_days(days: np.ndarray | WrittenDays) -> np.ndarray:
    """(t 3), read if they are not yet."""
    return days if isinstance(days, np.ndarray) else days.of(None)


def _start(text: str, where: str) -> datetime.datetime:
    """The moment that times are counted from, in UTC; CF allows 1970-1-1 and a zone."""
    plain = re.sub(r"\s*(UTC|GMT|Z)$", "", text.strip(), flags=re.IGNORECASE)
    plain = re.sub(r"^(\d{4})-(\d{1,2})-(\d{1,2})", lambda m: f"{m[1]}-{int(m[2]):02}-{int(m[3]):02}", plain)
    try:
        start = datetime.datetime.fromisoformat(plain)
    except ValueError:
        raise DataError(f"{where}: times are counted since {text!r}, which is no date") from None
    return start if start.tzinfo is None else start.astimezone(datetime.UTC).replace(tzinfo=None)


def of_array(values: np.ndarray, units: str | None, how: Dates, where: str) -> np.ndarray:
    """(t 3) of an array: text, or numbers in CF `units` such as "days since 1990-01-01"."""
    if values.dtype.kind not in "SUOMiuf":
        raise DataError(f"{where}: holds dates of type {values.dtype}; text, numbers and datetime64 are read")
    quick = days_of_names(values, how)
    if quick is not None:
        return quick
    if values.dtype.kind in "SUO":
        return moments(decoded(Path(where), values.ravel()).tolist(), how, where)
    if values.dtype.kind == "M":
        return moments(np.datetime_as_string(values.ravel(), "s"), how, where)
    found = _SINCE.match(units or "")
    if found is None:
        if np.all((values > 19000101) & (values < 22000101)):
            return moments(values.ravel().astype(np.int64), how, where)
        raise DataError(f"{where}: times are numbers with units {units!r}; expected such as 'days since 1990-01-01'")
    start = _start(found.group(2), where)
    seconds = np.asarray(values, np.float64).ravel() * _SECONDS[found.group(1).lower()]
    try:
        at = [start + datetime.timedelta(seconds=float(s)) for s in seconds]
    except (OverflowError, ValueError):
        raise DataError(f"{where}: times {units!r} leave the calendar") from None
    days = [(x.year, x.timetuple().tm_yday, x.hour if how.hours else 0) for x in at]
    return np.asarray(days, np.int16).reshape(-1, 3)
