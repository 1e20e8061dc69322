"""Dates as files write them: names of products, cells of tables, lists, and times counted since a day.

The truth is Python's calendar.
"""

import datetime
import json
import re
from pathlib import Path

import numpy as np
import pytest

from geomaestro.data.files.filespec import Dates
from geomaestro.data.files.moments import days_of_names, moment, moments, of_array, of_cell, of_lines
from geomaestro.errors import DataError

COLUMN = Dates(column="date")


@pytest.mark.parametrize(
    ("text", "hours", "triple"),
    [
        ("20190701", False, (2019, 182, 0)),
        ("20200301", False, (2020, 61, 0)),  # a leap year
        ("20190301", False, (2019, 60, 0)),
        ("20190701T173021", False, (2019, 182, 0)),
        ("20190701T173021", True, (2019, 182, 17)),
        ("20190701", True, (2019, 182, 0)),
        ("20110700", False, (2011, 182, 0)),  # some aerial dates give no day
        ("20191231T235959", True, (2019, 365, 23)),
        ("2019-07-01", True, (2019, 182, 0)),
        ("2019-07-01T17:30:21Z", True, (2019, 182, 17)),
        ("2019-07-01 17:30", True, (2019, 182, 17)),
        ("2019-07-01 17:30", False, (2019, 182, 0)),
    ],
)
def test_a_date_is_year_day_of_year_and_hour(text: str, hours: bool, triple: tuple[int, int, int]) -> None:
    assert moment(text, None, None, hours) == triple


@pytest.mark.parametrize("text", ["", "July 2019", "2019070", "01/07/2019"])
def test_text_that_is_no_date_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{text!r} is no date such as 20190701 or 2019-07-01")):
        moment(text, None, None, False)


@pytest.mark.parametrize("text", ["20191301", "20190230", "2019-02-30"])
def test_a_day_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"month|day"):
        moment(text, None, None, False)


@pytest.mark.parametrize(("part", "day"), [(-1, 60), (-3, 182), (1, 182), (3, 60)])
def test_a_piece_of_a_name_is_counted_from_either_end(part: int, day: int) -> None:
    assert moment("S2A_20190701T103021_N0207_20190301", part, None, False) == (2019, day, 0)


@pytest.mark.parametrize("part", [4, -5])
def test_a_piece_that_a_name_lacks_is_named_with_those_it_has(part: int) -> None:
    with pytest.raises(ValueError, match=f"has 4 pieces between underscores, none is number {part}"):
        moment("S2A_20190701T103021_N0207_20190301", part, None, False)


def test_another_form_is_read_as_it_says() -> None:
    assert moment("01.07.2019 17", None, "%d.%m.%Y %H", True) == (2019, 182, 17)
    assert moment("x_2019182", 1, "%Y%j", False) == (2019, 182, 0)
    with pytest.raises(ValueError, match="does not match format"):
        moment("2019-07-01", None, "%d.%m.%Y", False)


def test_many_dates_become_rows_and_a_wrong_one_names_file_and_text() -> None:
    assert moments([" 20190701 ", 20190301], COLUMN, "a.csv").tolist() == [[2019, 182, 0], [2019, 60, 0]]
    assert moments([], COLUMN, "a.csv").shape == (0, 3)
    with pytest.raises(DataError) as caught:
        moments(["20190701", "soon"], COLUMN, "a.csv")
    assert str(caught.value) == (
        "a.csv: no date in 'soon' ('soon' is no date such as 20190701 or 2019-07-01); see `dates` of the sensor"
    )


DAYS = ["2019-07-01", "2019-03-01", "2020-03-01"]
TRIPLES = [[2019, 182, 0], [2019, 60, 0], [2020, 61, 0]]


@pytest.mark.parametrize(
    "cell",
    [
        DAYS,
        tuple(DAYS),
        np.asarray(DAYS),
        json.dumps(DAYS),
        json.dumps({"2": 20200301, "10": 20190701, "0": 20190701, "1": 20190301}),  # by number: 10 after 2
        {"0": "20190701", "1": "20190301", "2": "20200301", "10": "20190701"},
    ],
    ids=["list", "tuple", "array", "JSON list", "JSON object", "dict"],
)
def test_a_cell_holds_a_list_or_an_object_of_dates_in_order(cell: object) -> None:
    assert of_cell(cell, COLUMN, "a.csv").tolist()[:3] == TRIPLES


@pytest.mark.parametrize("cell", ["2019-07-01", 20190701, datetime.date(2019, 7, 1), datetime.datetime(2019, 7, 1, 9)])
def test_a_cell_of_one_date_is_one_row(cell: object) -> None:
    assert of_cell(cell, COLUMN, "a.csv").tolist() == [[2019, 182, 0]]


def test_the_hour_of_a_time_is_taken_where_it_is_asked_for() -> None:
    at = datetime.datetime(2019, 7, 1, 9, 30)
    assert of_cell(at, Dates(column="date", hours=True), "a.csv").tolist() == [[2019, 182, 9]]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("[20190701", "is not readable JSON"),
        ("[" * 5000, "is not readable JSON"),
        ('{"first": 20190701}', "dates are numbered by first, which are no numbers"),
        ("[null]", "no date in 'None'"),
        (None, "no date in 'None'"),
        ("", "no date in ''"),
        ([20190701] * 100_001, "100001 dates are too many"),
    ],
)
def test_a_cell_that_holds_no_dates_is_refused_with_its_file(cell: object, said: str) -> None:
    with pytest.raises(DataError) as caught:
        of_cell(cell, COLUMN, "a.csv")
    assert str(caught.value).startswith("a.csv: ") and said in str(caught.value)


def test_a_text_file_has_a_date_per_line(tmp_path: Path) -> None:
    path = tmp_path / "dates.txt"
    path.write_text("S2_20190701\nS2_20190301\n\n")
    how = Dates(file="dates.txt", part=1)
    assert of_lines(path, how).tolist() == TRIPLES[:2]
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'none.txt'}: no such file")):
        of_lines(tmp_path / "none.txt", how)


# ---- time axes ----


@pytest.mark.parametrize(
    ("units", "per_day"),
    [
        ("days since 1990-01-01", 1),
        ("days since 1990-01-01 00:00:00", 1),
        ("days since 1990-01-01T00:00:00Z", 1),
        ("hours since 1990-01-01", 24),
        ("minutes since 1990-01-01 00:00", 1440),
        ("seconds since 1990-01-01", 86400),
        ("nanoseconds since 1990-01-01", 86400 * 10**9),
    ],
)
def test_times_are_counted_in_the_units_of_cf_conventions(units: str, per_day: int) -> None:
    start = datetime.date(1990, 1, 1)
    numbers = np.asarray([(datetime.date.fromisoformat(day) - start).days * per_day for day in DAYS])
    assert of_array(numbers, units, Dates(array="time"), "a.nc").tolist() == TRIPLES


def test_the_hour_of_a_time_axis_is_taken_where_it_is_asked_for() -> None:
    times = np.asarray([0.5, 1.25])
    assert of_array(times, "days since 2019-07-01", Dates(array="time"), "a.nc")[:, 2].tolist() == [0, 0]
    how = Dates(array="time", hours=True)
    assert of_array(times, "days since 2019-07-01", how, "a.nc").tolist() == [[2019, 182, 12], [2019, 183, 6]]
    assert of_array(times, "days since 2019-07-01 06:00", how, "a.nc").tolist() == [[2019, 182, 18], [2019, 183, 12]]


@pytest.mark.parametrize(
    "values",
    [
        np.asarray(DAYS),
        np.asarray([day.encode() for day in DAYS]),
        np.asarray([day.encode() for day in DAYS], object),
        np.asarray(DAYS, "datetime64[D]"),
        np.asarray(DAYS, "datetime64[ns]"),
        np.asarray([20190701, 20190301, 20200301]),
    ],
    ids=["text", "bytes", "objects", "days", "nanoseconds", "numbers YYYYMMDD"],
)
def test_an_array_of_dates_in_any_form_gives_the_same(values: np.ndarray) -> None:
    assert of_array(values, None, Dates(array="time"), "a.nc").tolist() == TRIPLES


@pytest.mark.parametrize(
    ("values", "units", "said"),
    [
        ([1, 2], None, "times are numbers with units None; expected such as 'days since 1990-01-01'"),
        ([1, 2], "fortnights since 1990-01-01", "times are numbers with units 'fortnights since"),
        ([1, 2], "days since yesterday", "times are counted since 'yesterday', which is no date"),
        ([1e12], "days since 1990-01-01", "leave the calendar"),
        ([np.nan], "days since 1990-01-01", "leave the calendar"),
    ],
)
def test_times_that_are_none_are_refused_with_their_file(values: list[float], units: str | None, said: str) -> None:
    with pytest.raises(DataError) as caught:
        of_array(np.asarray(values), units, Dates(array="time"), "a.nc")
    assert str(caught.value).startswith("a.nc: ") and said in str(caught.value)


@pytest.mark.parametrize("part", [-5, 2, 0])
def test_names_alike_are_read_at_once_and_as_one_by_one(part: int) -> None:
    days = ["20190103", "20200229", "20191231", "20181000", "20160101"]
    names = [f"S2A_MSIL2A_{day}T104431_N0211_R008_T32UMD_20190103T115449".encode() for day in days]
    if part == 0:
        names = [name[11:] for name in names]
    how = Dates(array="products", part=part)
    quick = days_of_names(np.asarray(names, object), how)
    assert quick is not None
    assert (quick == moments([name.decode() for name in names], how, "made")).all()


@pytest.mark.parametrize(
    "names",
    [
        [b"a_20190103_b", b"a_2019010_bb"],  # underscores elsewhere
        [b"a_20190103_b", b"a"],  # a piece too few
        [b"a_20190103_b", b"a_20190230_b"],  # no such day
        [b"a_20190103_b", b"a_2019x103_b"],
        [b"a_20190103_b", "a_20190103_b"],
    ],
)
def test_names_that_differ_are_looked_at_one_by_one(names: list[bytes | str]) -> None:
    assert days_of_names(np.asarray(names, object), Dates(array="products", part=1)) is None


@pytest.mark.parametrize(
    ("units", "first"),
    [
        ("days since 1970-1-1", (1970, 2, 0)),
        ("Days since 1970-01-01 00:00:00 UTC", (1970, 2, 0)),
        ("day since 1970-01-01T00:00:00Z", (1970, 2, 0)),
        ("hours since 1970-01-01 12:00:00+14:00", (1969, 365, 23)),
    ],
)
def test_times_are_counted_as_cf_allows(units: str, first: tuple[int, int, int]) -> None:
    found = of_array(np.asarray([1]), units, Dates(array="time", hours=True), "made")
    assert tuple(found[0].tolist()) == first
