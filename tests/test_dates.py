"""Date strings, and one date per bin, against the rule restated with loops.

Axes: t date, c band, h row, w column.
"""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomaestro.data.dates import choose_dates, date_triple, random_start


def chosen_with_loops(images: np.ndarray, bins: int, cloudy: np.ndarray | None, start: int) -> list[int]:
    """The rule of the docstring, date by date and pixel by pixel."""
    per_bin = len(images) // bins
    out = []
    for first in range(start, start + bins * per_bin, per_bin):
        dates = range(first, first + per_bin)
        some_clear = cloudy is not None and any(not cloudy[d].any() for d in dates)
        known = {d: ~np.isnan(images[d]) & (~cloudy[d] if some_clear and cloudy is not None else True) for d in dates}
        usable = [d for d in dates if known[d].all()]
        if not usable:
            out.append(min(dates, key=lambda d: (int((~known[d]).sum()), d)))
            continue
        distance = dict.fromkeys(usable, 0.0)
        for place in np.ndindex(*images.shape[1:]):
            middle = np.median([images[d][place] for d in dates if known[d][place]])
            for d in usable:
                distance[d] += abs(float(images[d][place]) - float(middle))
        out.append(min(usable, key=lambda d: (distance[d], d)))
    return out


def drawn_series(seed: int, count: int, gaps: float, clouds: float) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers, so that medians and sums are exact; some are NaN, some cloudy."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 9, (count, 2, 2, 3)).astype(np.float32)
    images[rng.random(count) < gaps, rng.integers(0, 2), :, rng.integers(0, 3)] = np.nan
    images[rng.random(images.shape) < gaps / 10] = np.nan
    return images, (rng.random((count, 1, 1)) < clouds) & (rng.random((count, 2, 3)) < 0.7)


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 24), st.sampled_from([0, 0.3, 0.8]),
    st.sampled_from([0, 0.5, 1]), st.booleans(), st.integers(0, 4),
)  # fmt: skip
def test_the_date_of_each_bin_follows_the_rule(
    seed: int, bins: int, more: int, gaps: float, clouds: float, look: bool, start: int
) -> None:
    count = bins + 1 + more
    start = min(start, count % bins)
    images, cloudy = drawn_series(seed, count, gaps, clouds)
    chosen = choose_dates(images, bins, cloudy=cloudy if look else None, start=start)
    assert chosen.tolist() == chosen_with_loops(images, bins, cloudy if look else None, start)


def test_stored_integers_are_chosen_as_their_float_copies() -> None:
    images = np.random.default_rng(0).integers(0, 5000, (13, 3, 4, 5)).astype(np.uint16)
    assert (choose_dates(images, 3, start=1) == choose_dates(images.astype(np.float64), 3, start=1)).all()


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_dates_that_fit_in_the_bins_are_all_kept_in_order(count: int) -> None:
    images = np.full((count, 1, 2, 2), np.nan, np.float32)  # not even missing pixels drop one
    for rng in (None, np.random.default_rng(0)):
        cloudy = np.ones((count, 2, 2), bool)
        assert choose_dates(images, 4, cloudy=cloudy, rng=rng).tolist() == list(range(count))


@pytest.mark.parametrize("drawn", [False, True])
def test_a_bin_of_missing_dates_gives_the_one_with_the_fewest_gaps(drawn: bool) -> None:
    images = np.zeros((6, 1, 2, 2), np.float32)
    images[:3] = np.nan
    images[1, 0, 0, 0] = 1.0
    rng = np.random.default_rng(0) if drawn else None
    assert choose_dates(images, 2, rng=rng)[0] == 1


def test_a_bin_of_nothing_but_gaps_still_gives_a_date_of_that_bin() -> None:
    images = np.full((6, 1, 2, 2), np.nan, np.float32)
    for rng in (None, np.random.default_rng(0)):
        chosen = choose_dates(images, 2, rng=rng)
        assert 0 <= chosen[0] < 3 <= chosen[1] < 6


def test_clouds_count_only_beside_a_cloudless_date() -> None:
    images = np.asarray([0, 5, 9, 0, 5, 9], np.float32).reshape(6, 1, 1, 1)  # the median is the second of each bin
    cloudy = np.asarray([True, True, True, False, True, False]).reshape(6, 1, 1)
    assert choose_dates(images, 2, cloudy=cloudy).tolist() == [1, 3]  # the second bin: 0 and 9 are equally far, 0 first


def test_a_drawn_date_is_any_usable_one_with_equal_chance() -> None:
    images = np.zeros((11, 1, 1, 1), np.float32)
    images[3] = np.nan
    cloudy = np.zeros((11, 1, 1), bool)
    cloudy[8] = True
    rng = np.random.default_rng(0)
    drawn = np.asarray([choose_dates(images, 2, cloudy=cloudy, start=1, rng=rng) for _ in range(4000)])
    assert set(drawn[:, 0]) == {1, 2, 4, 5} and set(drawn[:, 1]) == {6, 7, 9, 10}
    shares = np.asarray([(drawn == d).sum() / 4000 for d in (1, 2, 4, 5, 6, 7, 9, 10)])
    assert np.abs(shares - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 4000)  # four standard errors


def test_a_start_that_leaves_no_full_bins_is_refused() -> None:
    with pytest.raises(ValueError, match="start 2 leaves too few of 7 dates for 3 bins of 2"):
        choose_dates(np.zeros((7, 1, 1, 1)), 3, start=2)


def test_starts_are_drawn_evenly_among_those_that_leave_full_bins() -> None:
    rng = np.random.default_rng(0)
    drawn = np.bincount([random_start(11, 4, rng) for _ in range(4000)])
    assert len(drawn) == 4  # 11 dates, 4 bins of 2: 3 dates to spare
    assert np.abs(drawn / 4000 - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 4000)


def test_the_start_is_zero_where_nothing_is_drawn_or_spared() -> None:
    assert random_start(11, 4, None) == random_start(3, 4, np.random.default_rng(0)) == 0
    assert {random_start(12, 4, np.random.default_rng(i)) for i in range(20)} == {0}


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
    ],
)
def test_a_product_date_is_year_day_of_year_and_hour(text: str, hours: bool, triple: tuple[int, int, int]) -> None:
    assert date_triple(text, hours=hours) == triple


@pytest.mark.parametrize("text", ["", "2019-07-01", "July 2019", "2019070"])
def test_text_that_is_no_date_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{text!r} does not begin with a date YYYYMMDD")):
        date_triple(text)


@pytest.mark.parametrize("text", ["20191301", "20190230"])
def test_a_day_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"month|day"):
        date_triple(text)
