"""Codes of place and date against numbers worked by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geomaestro.nn.positions import date_codes, place_codes, pool_to_grid, sincos_grid
from tests.made import encoder_spec


def test_place_codes_equal_numbers_worked_by_hand() -> None:
    codes = sincos_grid(3, 5, 16)
    assert codes.shape == (3, 5, 16)
    for row in range(3):
        for col in range(5):
            x = [math.sin(col), math.sin(col / 1e4), math.cos(col), math.cos(col / 1e4)]
            y = [math.sin(row), math.sin(row / 1e4), math.cos(row), math.cos(row / 1e4)]
            torch.testing.assert_close(codes[row, col], torch.tensor([*x, *y, *[0.0] * 8]), rtol=0, atol=1e-6)


def test_wavelengths_fall_evenly_on_a_logarithmic_scale() -> None:
    codes = sincos_grid(1, 2, 24)  # 4 wavelengths: 10000 ** (0, 1/3, 2/3, 1)
    expected = [math.sin(10000 ** (-i / 3)) for i in range(4)]
    torch.testing.assert_close(codes[0, 1, :4], torch.tensor(expected), rtol=1e-5, atol=0)


def test_the_last_channels_are_left_to_the_date() -> None:
    assert sincos_grid(3, 5, 24, 12)[..., 12:].eq(0).all()
    assert sincos_grid(3, 5, 24, 12)[1, 2, :12].ne(0).all()


@pytest.mark.parametrize(("dim", "date_channels"), [(18, 8), (24, 6), (12, 8), (8, 8)])
def test_a_width_that_leaves_no_room_is_refused(dim: int, date_channels: int) -> None:
    with pytest.raises(ValueError) as caught:
        sincos_grid(2, 3, dim, date_channels)
    assert str(caught.value) == (
        f"width {dim} with {date_channels} date channels: need multiples of 4 and 8 or more left over"
    )


@settings(deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 4),
    cols=st.integers(1, 5),
    down=st.integers(1, 3),
    across=st.integers(1, 4),
    finer=st.integers(1, 3),
)
def test_grids_agree_where_they_look_at_the_same_ground(
    rows: int, cols: int, down: int, across: int, finer: int
) -> None:
    """The mean code of the fine cells inside a coarse cell is the coarse cell's code."""
    base = rows * down * finer, cols * across * finer
    fine = place_codes(base, (rows * down, cols * across), 24, 8).unflatten(0, (rows, down, cols, across))
    torch.testing.assert_close(
        fine.mean(dim=(1, 3)).flatten(0, 1), place_codes(base, (rows, cols), 24, 8), rtol=0, atol=1e-5
    )


def test_pooling_averages_cells_row_by_row() -> None:
    codes = torch.arange(4 * 6 * 2.0).reshape(4, 6, 2)
    pooled = pool_to_grid(codes, 2, 3)
    for row in range(2):
        for col in range(3):
            cell = codes[2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
            assert pooled[row * 3 + col].equal(cell.mean(dim=(0, 1)))


@pytest.mark.parametrize(("base", "grid"), [((7, 9), (2, 3)), ((3, 2), (6, 8)), ((5, 6), (4, 6))])
def test_grids_that_do_not_divide_still_follow_the_ground(base: tuple[int, int], grid: tuple[int, int]) -> None:
    """A linear field comes back linear and centred: no half-cell shift. Ends are flat in torch's bilinear resize."""
    rows, cols = torch.meshgrid(torch.arange(base[0]) + 0.5, torch.arange(base[1]) + 0.5, indexing="ij")
    field = torch.stack([rows / base[0], cols / base[1]], dim=-1)
    pooled = pool_to_grid(field, *grid).unflatten(0, grid)
    assert pooled.shape == (*grid, 2)
    torch.testing.assert_close(pooled.mean(dim=(0, 1)), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(pooled + pooled.flip((0, 1)), torch.ones(*grid, 2))
    assert (pooled[1:, :, 0] >= pooled[:-1, :, 0]).all()
    assert (pooled[:, 1:, 1] >= pooled[:, :-1, 1]).all()
    assert pooled[0, 0].lt(pooled[-1, -1]).all()


def test_place_codes_are_plain_tensors_even_if_first_asked_for_in_inference() -> None:
    with torch.inference_mode():
        codes = place_codes((11, 13), (11, 13), 24, 8)
    assert not codes.is_inference()


def test_date_codes_equal_numbers_worked_by_hand() -> None:
    dates = torch.tensor([[[2019, 166, 6], [2018, 300, 18]], [[2020, 1, 0], [2021, 366, 23]]])
    reference = torch.tensor([[2019, 100, 12], [2020, 1, 3]])
    codes = date_codes(dates, reference)
    assert codes.shape == (2, 2, 8)
    for b in range(2):
        for t in range(2):
            year, day, hour = dates[b, t].tolist()
            offset = year - reference[b, 0].item() + (day - reference[b, 1].item()) / 365.25
            angle, clock = 2 * math.pi * day / 365.25, 2 * math.pi * hour / 24
            expected = [offset] * 4 + [math.sin(angle), math.cos(angle), math.sin(clock), math.cos(clock)]
            torch.testing.assert_close(codes[b, t], torch.tensor(expected), rtol=0, atol=2e-4)  # float32 years


def test_the_hour_of_the_reference_date_does_not_count() -> None:
    dates = torch.tensor([[[2019, 166, 6]]])
    early, late = (date_codes(dates, torch.tensor([[2019, 100, hour]])) for hour in (0, 23))
    assert early.equal(late)


def test_more_date_channels_repeat_the_offset() -> None:
    codes = date_codes(torch.tensor([[[2020, 10, 0]]]), torch.tensor([[2018, 10, 0]]), 12)
    torch.testing.assert_close(codes[0, 0, :8], torch.full((8,), 2.0))
    torch.testing.assert_close(codes[0, 0, 10:], torch.tensor([0.0, 1.0]))


def test_the_common_ground_is_the_least_common_multiple_and_grows_with_the_images() -> None:
    spec = encoder_spec()  # grids 4 x 6 and 2 x 3
    assert spec.ground_grid("s2", (2, 3)) == (4, 6)
    assert spec.ground_grid("aerial", (4, 6)) == (4, 6)
    assert spec.ground_grid("s2", (4, 9)) == (8, 18)
    fixed = encoder_spec(position_grid=(12, 10))
    assert fixed.ground_grid("s2", (1, 6)) == (6, 20)
    assert fixed.ground_grid("aerial", (4, 6)) == (12, 10)
