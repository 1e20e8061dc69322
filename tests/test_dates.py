"""One date per bin, against the rule restated with loops.

Axes: t date, c band, h row, w column.
"""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geomaestro.data.dates import draw_dates, nearest_dates, random_start
from geomaestro.data.sampling import choose
from geomaestro.data.scenes import CLOUDY, UNKNOWN, MemorySeries
from geomaestro.grid import Window


def chosen_with_loops(images: np.ndarray, bins: int, cloudy: np.ndarray | None, start: int) -> list[int]:
    """The rule of the docstring, date by date and pixel by pixel."""
    per_bin = len(images) // bins
    out = []
    for first in range(start, start + bins * per_bin, per_bin):
        dates = range(first, first + per_bin)
        some_clear = cloudy is not None and any(not cloudy[d].any() for d in dates)
        known = {d: ~np.isnan(images[d]) & (~cloudy[d] if some_clear and cloudy is not None else True) for d in dates}
        seen = np.any([known[d].all(axis=0) for d in dates], axis=0)  # pixels that some date of the bin shows
        usable = [d for d in dates if known[d][:, seen].all()]
        if not usable:
            out.append(
                min(dates, key=lambda d: (int((~known[d]).any(axis=0)[seen].sum()), d))
            )  # pixels, not bands of them
            continue
        distance = dict.fromkeys(usable, 0.0)
        for place in (p for p in np.ndindex(*images.shape[1:]) if seen[p[1:]]):
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
@example(20, 1, 21, 0.3, 0.5, True, 0)  # a cloudy pixel that lacks one band
def test_the_date_of_each_bin_follows_the_rule(
    seed: int, bins: int, more: int, gaps: float, clouds: float, look: bool, start: int
) -> None:
    count = bins + 1 + more
    start = min(start, count % bins)
    images, cloudy = drawn_series(seed, count, gaps, clouds)
    chosen = nearest_dates(images, bins, cloudy=cloudy if look else None, start=start)
    assert chosen.tolist() == chosen_with_loops(images, bins, cloudy if look else None, start)


def test_stored_integers_are_chosen_as_their_float_copies() -> None:
    images = np.random.default_rng(0).integers(0, 5000, (13, 3, 4, 5)).astype(np.uint16)
    assert (nearest_dates(images, 3, start=1) == nearest_dates(images.astype(np.float64), 3, start=1)).all()


def chosen(images: np.ndarray, bins: int, rng: np.random.Generator | None) -> np.ndarray | None:
    """What a reader takes of a series whose gaps are unknown pixels."""
    days = np.zeros((len(images), 3), np.int16)
    states = np.isnan(images).any(axis=1).astype(np.uint8) * np.uint8(UNKNOWN)
    return choose(MemorySeries(images, days, states), Window(0, 0, *images.shape[2:]), states, bins, rng)


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_dates_that_fit_in_the_bins_are_all_kept_in_order(count: int) -> None:
    images = np.full((count, 1, 2, 2), np.nan, np.float32)  # not even missing pixels drop one
    days, states = np.zeros((count, 3), np.int16), np.full((count, 2, 2), UNKNOWN | CLOUDY, np.uint8)
    series = MemorySeries(images, days, states)
    for rng in (None, np.random.default_rng(0)):
        assert choose(series, Window(0, 0, 2, 2), states, 4, rng) is None  # None: all of them


@pytest.mark.parametrize("drawn", [False, True])
def test_a_bin_of_missing_dates_gives_the_one_with_the_fewest_gaps(drawn: bool) -> None:
    images = np.zeros((6, 1, 2, 2), np.float32)
    images[:3] = np.nan
    images[1, 0, 0, 0] = 1.0
    index = chosen(images, 2, np.random.default_rng(0) if drawn else None)
    assert index is not None and index[0] == 1


def test_a_bin_of_nothing_but_gaps_still_gives_a_date_of_that_bin() -> None:
    images = np.full((6, 1, 2, 2), np.nan, np.float32)
    for rng in (None, np.random.default_rng(0)):
        index = chosen(images, 2, rng)
        assert index is not None and 0 <= index[0] < 3 <= index[1] < 6


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 12), st.sampled_from([0, 0.3, 0.8]))
def test_nodata_told_as_unknown_gives_the_date_that_nan_gives(seed: int, bins: int, more: int, gaps: float) -> None:
    """In integers, where no NaN can stand: a pixel that lacks one band is left out of the median in all bands."""
    images = np.random.default_rng(seed).integers(0, 9, (bins + more, 2, 2, 3)).astype(np.float32)
    unknown = np.random.default_rng(seed + 1).random((bins + more, 2, 3)) < gaps / 3
    with_nan = np.where(unknown[:, None], np.nan, images)
    stored = np.where(unknown[:, None], 65535, images).astype(np.uint16)
    assert (nearest_dates(stored, bins, unknown=unknown) == nearest_dates(with_nan, bins)).all()


def test_clouds_count_only_beside_a_cloudless_date() -> None:
    images = np.asarray([0, 5, 9, 0, 5, 9], np.float32).reshape(6, 1, 1, 1)  # the median is the second of each bin
    cloudy = np.asarray([True, True, True, False, True, False]).reshape(6, 1, 1)
    assert nearest_dates(images, 2, cloudy=cloudy).tolist() == [1, 3]  # the second bin: 0 and 9 equally far, 0 first


def test_a_drawn_date_is_any_usable_one_with_equal_chance() -> None:
    unknown = np.zeros((11, 1, 1), bool)
    unknown[3] = True
    cloudy = np.zeros((11, 1, 1), bool)
    cloudy[8] = True
    rng = np.random.default_rng(0)
    drawn = np.asarray([draw_dates(11, 2, rng, unknown=unknown, cloudy=cloudy, start=1) for _ in range(4000)])
    assert set(drawn[:, 0]) == {1, 2, 4, 5} and set(drawn[:, 1]) == {6, 7, 9, 10}
    shares = np.asarray([(drawn == d).sum() / 4000 for d in (1, 2, 4, 5, 6, 7, 9, 10)])
    assert np.abs(shares - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 4000)  # four standard errors


def test_a_start_that_leaves_no_full_bins_is_refused() -> None:
    with pytest.raises(ValueError, match="start 2 leaves too few of 7 dates for 3 bins of 2"):
        nearest_dates(np.zeros((7, 1, 1, 1)), 3, start=2)
    with pytest.raises(ValueError, match="start 2 leaves too few of 7 dates for 3 bins of 2"):
        draw_dates(7, 3, np.random.default_rng(0), start=2)


def test_starts_are_drawn_evenly_among_those_that_leave_full_bins() -> None:
    rng = np.random.default_rng(0)
    drawn = np.bincount([random_start(11, 4, rng) for _ in range(4000)])
    assert len(drawn) == 4  # 11 dates, 4 bins of 2: 3 dates to spare
    assert np.abs(drawn / 4000 - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 4000)


def test_the_start_is_zero_where_nothing_is_drawn_or_spared() -> None:
    assert random_start(11, 4, None) == random_start(3, 4, np.random.default_rng(0)) == 0
    assert {random_start(12, 4, np.random.default_rng(i)) for i in range(20)} == {0}


def test_pixels_that_no_date_shows_do_not_decide() -> None:
    images = np.asarray([0, 5, 9, 9, 0, 5], np.float32)[:, None, None, None] * np.ones((1, 1, 3, 3), np.float32)
    unknown = np.zeros((6, 3, 3), bool)
    unknown[:, 0] = True  # padding
    unknown[4, 1, 1] = True  # a gap that counts
    images[:, :, 0] = np.random.default_rng(0).random((6, 1, 3))
    stored = np.where(unknown[:, None], np.nan, images)
    for x in (images, stored):
        assert nearest_dates(x, 2, unknown=unknown).tolist() == [1, 5]  # medians 5 and 5; the fifth date has a gap
    drawn = np.asarray([draw_dates(6, 2, np.random.default_rng(i), unknown=unknown) for i in range(50)])
    assert set(drawn[:, 0]) == {0, 1, 2} and set(drawn[:, 1]) == {3, 5}
