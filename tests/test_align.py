"""Images brought to another grid, against values worked out from a field that is linear in x and y.

Axes: t date, c band, h row, w column.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.warp import transform

from geomaestro.data.files.align import Padded, about_middle, fitted, middle, on_ground, same_grid
from geomaestro.data.files.filespec import Fit
from geomaestro.data.files.stored import Stored
from geomaestro.errors import DataError
from geomaestro.grid import Grid, Window
from tests.filesets import CORNER, CRS, numbers

WEST, NORTH = CORNER


@dataclass(frozen=True)
class Held:
    """Pixels in memory that lie somewhere."""

    images: np.ndarray
    place: Grid | None
    away: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        t, c, h, w = self.images.shape
        return t, c, h, w

    @property
    def dtype(self) -> np.dtype:
        return self.images.dtype

    def read(self, dates: np.ndarray | None, window: Window) -> np.ndarray:
        rows, cols = window.slices
        return self.images[slice(None) if dates is None else dates, :, rows, cols]

    def grid(self) -> Grid | None:
        return self.place

    def unmeasured(self, window: Window) -> np.ndarray | None:
        rows, cols = window.slices
        return None if self.away is None else self.away[:, rows, cols]


def grid(height: int, width: int, gsd: float = 10.0, *, west: float = WEST, north: float = NORTH) -> Grid:
    return Grid(height, width, (gsd, 0.0, west, 0.0, -gsd, north), CRS)


def centres(where: Grid) -> tuple[np.ndarray, np.ndarray]:
    """x and y (h w) of the middles of pixels, in the grid's own system."""
    a, b, c, d, e, f = where.transform
    rows, cols = np.mgrid[: where.height, : where.width] + 0.5
    return c + a * cols + b * rows, f + d * cols + e * rows


def field(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A plane: 0.3 per metre eastward, 0.7 per metre southward."""
    return 1000 + 0.3 * (x - WEST) + 0.7 * (NORTH - y)


def of_field(where: Grid, dtype: Any = np.float64) -> Held:
    return Held(field(*centres(where))[None, None].astype(dtype), where)


def whole(stored: Stored) -> Window:
    return Window(0, 0, stored.shape[2], stored.shape[3])


def resampled(stored: Stored, target: Grid, how: Fit, nodata: float | None = None) -> np.ndarray:
    """All of a source on a grid (t c h w)."""
    aligned = on_ground("a.tif", stored, target, how, nodata)
    return aligned.read(None, whole(aligned))


# ---- known shifts, other resolutions, other systems ----


@pytest.mark.parametrize(("rows", "cols"), [(0, 0), (2, 3), (-1, 4), (5, -2)])
def test_a_shift_by_whole_pixels_moves_the_numbers(rows: int, cols: int) -> None:
    source = Held(numbers(2, 3, 12, 15), grid(12, 15))
    target = grid(6, 7, west=WEST + 10 * cols, north=NORTH - 10 * rows)
    x = resampled(source, target, "nearest", nodata=0)
    padded = np.pad(source.images, ((0, 0), (0, 0), (9, 9), (9, 9)))
    assert (x == padded[:, :, 9 + rows : 15 + rows, 9 + cols : 16 + cols]).all()


EASY = [
    (how, gsd, shift) for how in ("bilinear", "cubic") for gsd in (2.5, 5.0, 10.0, 20.0, 12.5) for shift in (0.0, 3.0)
]


@pytest.mark.parametrize(("how", "gsd", "shift"), [*EASY, ("bilinear", 10.0, 5.0), ("average", 20.0, 0.0)])
def test_a_linear_field_stays_itself_inside(how: Fit, gsd: float, shift: float) -> None:
    source = of_field(grid(60, 60))
    target = grid(int(200 / gsd), int(240 / gsd), gsd, west=WEST + 150 + shift, north=NORTH - 200 - shift)
    truth = field(*centres(target))
    exact = gsd in (2.5, 5.0, 10.0, 20.0)  # GDAL stretches its kernel to coarser pixels: not quite a plane's for others
    assert np.abs(resampled(source, target, how)[0, 0] - truth).max() < (1e-3 if exact else 0.05 * gsd)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3857", "EPSG:4326"])
def test_another_system_shows_the_same_ground(crs: str) -> None:
    """A field is read from a grid in another system at the places where that grid's pixels truly lie."""
    target = grid(12, 16, 20.0, west=WEST + 200, north=NORTH - 200)
    xs, ys = transform(CRS, crs, [WEST, WEST + 800, WEST, WEST + 800], [NORTH, NORTH, NORTH - 800, NORTH - 800])
    step = (max(xs) - min(xs)) / 80, (max(ys) - min(ys)) / 80
    source = Grid(80, 80, (step[0], 0.0, min(xs), 0.0, -step[1], max(ys)), crs)
    x, y = transform(crs, CRS, *(v.ravel().tolist() for v in centres(source)))
    values = field(np.asarray(x), np.asarray(y)).reshape(1, 1, 80, 80)
    found = resampled(Held(values, source), target, "bilinear")[0, 0]
    off_by_a_pixel = 20 * 0.3
    assert np.abs(found - field(*centres(target))).max() < 0.15 * off_by_a_pixel  # GDAL places pixels to an eighth


def test_a_grid_that_runs_north_is_turned() -> None:
    rising = Grid(12, 15, (10.0, 0.0, WEST, 0.0, 10.0, NORTH - 120), CRS)  # first row in the south
    truth = numbers(1, 1, 12, 15)
    assert (resampled(Held(truth[:, :, ::-1], rising), grid(12, 15), "nearest") == truth).all()


def test_any_window_and_dates_are_a_slice_of_the_whole() -> None:
    source = Held(numbers(4, 2, 20, 20).astype(np.float32), grid(20, 20))
    aligned = on_ground("a.tif", source, grid(11, 13, 7.0, west=WEST + 31, north=NORTH - 12), "bilinear", None)
    everything = aligned.read(None, whole(aligned))
    for dates, window in ((None, Window(2, 3, 5, 6)), (np.asarray([3, 1]), Window(0, 0, 11, 13))):
        rows, cols = window.slices
        chosen = everything if dates is None else everything[dates]
        assert np.array_equal(aligned.read(dates, window), chosen[:, :, rows, cols], equal_nan=True)


def test_the_same_grid_is_not_touched() -> None:
    source = Held(numbers(1, 1, 12, 15), grid(12, 15))
    almost = grid(12, 15, west=WEST + 0.4, north=NORTH - 0.4)  # a twenty-fifth of a pixel
    assert on_ground("a.tif", source, almost, "none", None) is source
    assert same_grid(grid(12, 15), Grid(12, 15, grid(12, 15).transform, f"  {CRS}".strip()))
    assert not same_grid(grid(12, 15), grid(12, 15, west=WEST + 0.6))
    assert not same_grid(grid(12, 15), Grid(12, 15, grid(12, 15).transform, "EPSG:32633"))


# ---- what was not measured ----


@pytest.mark.parametrize("how", ["nearest", "bilinear", "cubic", "average"])
@pytest.mark.parametrize("told", ["number", "NaN", "alpha", "alpha beside a number"])
@pytest.mark.parametrize("gsd", [4.0, 10.0, 25.0])
def test_what_was_not_measured_does_not_run_into_other_pixels(how: Fit, told: str, gsd: float) -> None:
    images = np.full((2, 1, 30, 30), 100, np.float32 if told == "NaN" else np.uint16)
    gone = np.zeros((2, 30, 30), bool)
    gone[0, 6:16, 4:14] = gone[1, 20, 20] = True
    nodata = {"number": 65535.0, "alpha beside a number": 65535.0}.get(told)
    fill = {"number": 65535, "NaN": np.nan, "alpha": 0, "alpha beside a number": 7}[told]
    images[gone[:, None]] = fill
    source = Held(images, grid(30, 30), gone if told.startswith("alpha") else None)
    target = grid(int(300 / gsd), int(300 / gsd), gsd, west=WEST + 3, north=NORTH - 3)
    aligned = on_ground("a.tif", source, target, how, nodata)
    x, away = aligned.read(None, whole(aligned))[:, 0], aligned.unmeasured(whole(aligned))
    unknown = (
        np.broadcast_to(False if away is None else away, x.shape)
        | np.isnan(x)
        | (x == nodata if nodata is not None else False)
    )
    assert (x[~unknown] == 100).all(), set(x[~unknown].tolist())
    assert unknown[0].any() and not unknown[:, 40 // int(gsd), 150 // int(gsd)].any()


def test_beyond_the_source_nothing_is_measured() -> None:
    source = Held(numbers(1, 1, 10, 10), grid(10, 10))
    aligned = on_ground("a.tif", source, grid(10, 10, west=WEST + 40, north=NORTH + 30), "bilinear", None)
    away = aligned.unmeasured(whole(aligned))
    expected = np.ones((10, 10), bool)
    expected[3:, :6] = False
    assert away is not None and (away[0] == expected).all()
    part = aligned.unmeasured(Window(2, 4, 3, 4))
    assert part is not None and (part[0] == expected[2:5, 4:8]).all()
    assert aligned.unmeasured(Window(5, 0, 5, 6)) is None


def test_floats_beyond_the_source_are_nan_and_integers_their_nodata() -> None:
    beyond = grid(4, 4, west=WEST - 20)
    for dtype, nodata, expected in ((np.float32, None, np.nan), (np.float32, -9.0, -9.0), (np.int16, -9.0, -9)):
        source = Held(np.ones((1, 1, 4, 4), dtype), grid(4, 4))
        x = resampled(source, beyond, "bilinear", nodata)[0, 0]
        assert x.dtype == dtype
        np.testing.assert_array_equal(x[:, :2], np.full((4, 2), expected, dtype))
        assert (x[:, 2:] == 1).all()


# ---- what is refused ----


def test_files_that_lie_elsewhere_are_refused_with_both_places() -> None:
    source = Held(numbers(1, 1, 10, 10), grid(10, 10, west=WEST + 5000))
    with pytest.raises(DataError) as caught:
        on_ground("a.tif", source, grid(10, 10), "bilinear", None)
    assert str(caught.value) == (
        "a.tif: does not overlap the extent of its sample (10 x 10 pixels in EPSG:32632, x 505000 to 505100, y "
        "5.5999e+06 to 5.6e+06; 10 x 10 pixels in EPSG:32632, x 500000 to 500100, y 5.5999e+06 to 5.6e+06)"
    )


@pytest.mark.parametrize("how", ["none", "pad"])
def test_another_grid_is_refused_where_nothing_may_be_resampled(how: Fit) -> None:
    source = Held(numbers(1, 1, 10, 10), grid(10, 10, 20.0))
    with pytest.raises(DataError) as caught:
        on_ground("a.tif", source, grid(10, 10), how, None)
    text = str(caught.value)
    assert text.startswith("a.tif: lies on another grid (10 x 10 pixels in EPSG:32632, x 500000 to 500200, ")
    assert text.endswith("set `fit` of the sensor to nearest, bilinear, cubic, average or mode to have it resampled")


def test_a_file_without_a_place_is_refused() -> None:
    with pytest.raises(DataError, match=r"a\.tif: has no georeference, but `ground` of its spec needs one"):
        on_ground("a.tif", Held(numbers(1, 1, 2, 2), None), grid(2, 2), "nearest", None)


# ---- to a size, wherever they lie ----


@pytest.mark.parametrize(
    ("size", "rows", "cols"),
    [
        ((6, 8), slice(2, 7), slice(1, 8)),  # 5 x 7 padded: one row below, one column right
        ((3, 5), slice(0, 3), slice(0, 5)),
        ((9, 3), slice(0, 9), slice(0, 3)),
    ],
)
def test_padding_and_cropping_keep_the_middle(size: tuple[int, int], rows: slice, cols: slice) -> None:
    truth = numbers(2, 3, 5, 7)
    stored = fitted("a.tif", Held(truth, None), size, "pad", None)
    assert isinstance(stored, Padded) and stored.shape == (2, 3, *size)
    x, away = stored.read(None, whole(stored)), stored.unmeasured(whole(stored))
    top, left = max(0, (size[0] - 5) // 2), max(0, (size[1] - 7) // 2)
    row, col = max(0, (5 - size[0]) // 2), max(0, (7 - size[1]) // 2)
    height, width = min(5, size[0]), min(7, size[1])
    expected, hole = np.zeros((2, 3, *size), truth.dtype), np.ones(size, bool)
    expected[:, :, top : top + height, left : left + width] = truth[:, :, row : row + height, col : col + width]
    hole[top : top + height, left : left + width] = False
    assert (x == expected).all()
    assert (away is None and not hole.any()) or (away is not None and (away[0] == hole).all())
    window = Window(1, 1, 2, 2)
    assert (stored.read(np.asarray([1]), window) == expected[1:, :, 1:3, 1:3]).all()


def test_padding_keeps_what_was_unmeasured_inside() -> None:
    away = np.zeros((2, 4, 4), bool)
    away[1, 0, 3] = True
    stored = fitted("a.tif", Held(numbers(2, 1, 4, 4), None, away), (6, 6), "pad", None)
    found = stored.unmeasured(whole(stored))
    assert found is not None and found[0].sum() == 36 - 16 and found[1].sum() == 36 - 15 and found[1, 1, 4]


def test_images_of_any_size_are_resampled_to_one() -> None:
    """A ramp keeps its ends: pixel i of n shows the place (i + 0.5) / n of the way."""
    ramp = (np.arange(12) + 0.5)[None, :] / 12 * np.ones((9, 1)) + (np.arange(9) + 0.5)[:, None] / 9
    stored = fitted("a.tif", Held(ramp[None, None], None), (18, 24), "bilinear", None)
    x = stored.read(None, whole(stored))[0, 0]
    truth = (np.arange(24) + 0.5)[None, :] / 24 + (np.arange(18) + 0.5)[:, None] / 18
    assert np.abs(x - truth)[1:-1, 1:-1].max() < 1e-6
    assert fitted("a.tif", Held(ramp[None, None], None), (9, 12), "bilinear", None).read(None, Window(0, 0, 1, 1))
    repeated = fitted("a.tif", Held(numbers(1, 1, 3, 4), None), (6, 8), "nearest", None)
    assert (repeated.read(None, whole(repeated))[0, 0] == numbers(3, 4).repeat(2, 0).repeat(2, 1)).all()


def test_a_size_that_is_right_and_one_that_may_not_change_are_left_alone() -> None:
    source = Held(numbers(1, 1, 5, 7), None)
    assert fitted("a.tif", source, (5, 7), "bilinear", None) is source
    assert fitted("a.tif", source, (9, 9), "none", None) is source  # its size is refused later, by name


# ---- grids ----


def test_the_middle_of_a_grid_on_earth() -> None:
    lon, lat = middle(grid(20, 20, west=WEST - 100))  # on the central meridian of zone 32
    assert lon == pytest.approx(9.0, abs=1e-9)
    x, y = transform("EPSG:4326", CRS, [lon], [lat])
    assert (x[0], y[0]) == pytest.approx((WEST, NORTH - 100), abs=1e-3)


def test_a_square_about_the_middle() -> None:
    square = about_middle(grid(30, 50), 120.0)
    assert (square.height, square.width) == (12, 12)
    assert square.bounds == pytest.approx((WEST + 190, NORTH - 210, WEST + 310, NORTH - 90))
    assert square.resampled(6, 24).bounds == pytest.approx(square.bounds)


def test_the_place_is_told_by_a_file(tmp_path: Path) -> None:
    from geomaestro.data.files.raster import grid_of, open_raster
    from tests.filesets import write_tif

    write_tif(tmp_path / "a.tif", numbers(1, 4, 6))
    with open_raster(tmp_path / "a.tif") as source:
        found = grid_of(source)
    assert found is not None and same_grid(found, grid(4, 6))
