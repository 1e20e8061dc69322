"""The sphere in cells of equal area, each wide enough for one patch: two places in two cells never overlap.

Axes: n cell or place, r run of cells in one row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import numpy as np

EARTH_M = 6_371_008.8  # mean radius
MAX_CELLS = 1 << 40  # assumed; a permutation of as many is still quick
Box = tuple[float, float, float, float]
"""West, south, east, north in degrees, west below east."""


def rows_of(side_m: float) -> int:
    """Rows of cells of `side_m` from pole to pole."""
    return max(1, int(pi * EARTH_M / side_m))


@dataclass(frozen=True)
class Cells:
    """The cells whose centres lie in some boxes, numbered row by row from the south.

    Rows are of equal height in degrees, and each holds as many cells of that height as fit along its parallel that is
    nearer to a pole, so no cell is narrower than `side_m` and their areas differ by less than one cell in a row.
    `row`, `first` and `total` (r): row, first column and number of cells of all runs up to and with this one.
    """

    rows: int
    row: np.ndarray
    first: np.ndarray
    total: np.ndarray

    @classmethod
    def within(cls, boxes: Sequence[Box], side_m: float) -> "Cells":
        """Cells of at least `side_m` to a side."""
        rows, found = rows_of(side_m), []
        for west, south, east, north in boxes:
            low, high = (int(np.ceil((lat + 90) / 180 * rows - 0.5)) for lat in (south, north))
            row = np.arange(max(low, 0), min(high, rows))
            columns = columns_of(row, rows)
            first, end = (np.ceil((lon + 180) / 360 * columns - 0.5).astype(np.int64) for lon in (west, east))
            found.append(np.stack([row, np.clip(first, 0, columns), np.clip(end, 0, columns)], axis=1))
        runs = _joined(np.concatenate(found))
        return cls(rows, runs[:, 0], runs[:, 1], np.cumsum(runs[:, 2] - runs[:, 1]))

    def __len__(self) -> int:
        return int(self.total[-1]) if len(self.total) else 0

    def places(self, cells: np.ndarray, right: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Longitude and latitude (n) in cells by number, at shares `right` and `up` of their width and height."""
        run = np.searchsorted(self.total, cells, side="right")
        before = np.where(run > 0, self.total[run - 1], 0)
        row = self.row[run]
        column = self.first[run] + cells - before
        lon = (column + right) / columns_of(row, self.rows) * 360 - 180
        return np.asarray(lon), np.asarray((row + up) / self.rows * 180 - 90)


def columns_of(row: np.ndarray, rows: int) -> np.ndarray:
    """(n) cells along rows: as many as fit along the shorter of a row's two parallels, and at least one."""
    edges = np.abs(np.stack([row, row + 1]) / rows * pi - pi / 2).max(axis=0)
    return np.maximum(np.floor(2 * rows * np.cos(edges) + 1e-9), 1).astype(np.int64)


def _joined(runs: np.ndarray) -> np.ndarray:
    """Runs (row, first, end) in order, those of one row that touch or overlap made one."""
    runs = runs[runs[:, 2] > runs[:, 1]]
    runs = runs[np.lexsort((runs[:, 1], runs[:, 0]))]
    out: list[list[int]] = []
    for row, first, end in runs.tolist():
        if out and out[-1][0] == row and first <= out[-1][2]:
            out[-1][2] = max(out[-1][2], end)
        else:
            out.append([row, first, end])
    return np.asarray(out, np.int64).reshape(-1, 3)
