"""Windows of pixels, and grids of pixels on the ground.

Rows before columns; world coordinates are x, y and never share a tuple with rows.
"""

from dataclasses import dataclass
from math import gcd

from geomaestro.errors import DataError

ALIKE_PX = 0.05  # assumed; grids whose corners differ by less than this share of a pixel are the same grid


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels."""

    row: int
    col: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    def inside(self, outer: "Window") -> "Window":
        """The same pixels, counted from the corner that `outer` is counted from."""
        return Window(self.row + outer.row, self.col + outer.col, self.height, self.width)


@dataclass(frozen=True, slots=True)
class Grid:
    """`height` x `width` pixels on the ground: the affine transform (a, b, c, d, e, f) leads from (col, row) to (x, y)
    in the coordinate system `crs`, given as WKT or EPSG:n.
    """

    height: int
    width: int
    transform: tuple[float, float, float, float, float, float]
    crs: str

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north."""
        a, b, c, d, e, f = self.transform
        xs = [c + a * col + b * row for row in (0, self.height) for col in (0, self.width)]
        ys = [f + d * col + e * row for row in (0, self.height) for col in (0, self.width)]
        return min(xs), min(ys), max(xs), max(ys)

    def resampled(self, height: int, width: int) -> "Grid":
        """The same extent in other pixels."""
        a, b, c, d, e, f = self.transform
        down, right = self.height / height, self.width / width
        return Grid(height, width, (a * right, b * down, c, d * right, e * down, f), self.crs)


def common_units(shapes: list[tuple[int, int]]) -> tuple[int, int]:
    """The most equal parts that the rows, and the columns, of all images can be cut into along whole pixels."""
    return gcd(*(h for h, _ in shapes)), gcd(*(w for _, w in shapes))


def window_of(shape: tuple[int, int], units: tuple[int, int], start: tuple[int, int], size: tuple[int, int]) -> Window:
    """Pixels of an image of `shape` that `size` units from unit `start` cover, of `units` in all."""
    rows, cols = shape[0] // units[0], shape[1] // units[1]
    return Window(start[0] * rows, start[1] * cols, size[0] * rows, size[1] * cols)


def whole_units(share: float, units: int, what: str) -> int:
    """`share` of `units`.

    Raises:
        DataError: if that is no whole number.
    """
    size = round(share * units)
    if size < 1 or abs(share * units - size) > 1e-6 * units:
        raise DataError(
            f"{what}: a crop of {share:.4g} of a tile is not a whole number of the {units} parts that all images of it "
            f"can be cut into; choose a multiple of 1/{units} of the tile"
        )
    return size
