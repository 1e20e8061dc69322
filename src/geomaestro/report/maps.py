"""World maps: land in the background, points of samples on it. Offline; land comes from time zones.

Axes: n point.
"""

from typing import Any

import numpy as np

from geomaestro.report.figures import MUTED
from geomaestro.select.places import land_grid

LAND = (0.55, 0.58, 0.62, 0.25)  # grey that shows on light and dark pages
STEP_DEG = 0.5
MANY = 2000  # assumed; points above which they are one picture in the figure


def draw_world(axes: Any, *, south: float = -60.0, north: float = 84.0) -> None:
    """Prepare axes in degrees with all land between two latitudes."""
    land = np.zeros((*land_grid(STEP_DEG).shape, 4))
    land[land_grid(STEP_DEG)] = LAND
    axes.imshow(land, extent=(-180, 180, -90, 90), interpolation="nearest", zorder=0)
    axes.set(xlim=(-180, 180), ylim=(south, north), aspect="equal", xticks=[], yticks=[])
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.grid(visible=False)


def draw_points(
    axes: Any, lon: np.ndarray, lat: np.ndarray, *, colour: str = MUTED, size: float = 6, label: str | None = None
) -> None:
    """Draw places (n) on axes of `draw_world`; those without coordinates are left out."""
    known = np.isfinite(lon) & np.isfinite(lat)
    axes.scatter(lon[known], lat[known], s=size, lw=0, alpha=0.8, color=colour, label=label, zorder=2,
                 rasterized=int(known.sum()) > MANY)  # fmt: skip
