"""How near places lie to others, and how much ground their images share. Distances are on a sphere.

Axes: n place, m other place, k neighbour.
"""

import numpy as np

from geomaestro.data.quality.placing import RADIUS_KM


def nearest_km(places: np.ndarray, others: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(n k) distances in km of places (n 2: longitude, latitude) to their nearest of others (m 2), and its indices."""
    from scipy.spatial import cKDTree

    chord, index = cKDTree(_on_sphere(others)).query(_on_sphere(places), k=np.arange(1, count + 1))
    return 2 * RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1)), index


def _on_sphere(places: np.ndarray) -> np.ndarray:
    """(n 3) points on the unit sphere."""
    lon, lat = np.radians(places).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def shared_ground(
    places: np.ndarray, sides_km: np.ndarray, others: np.ndarray, their_sides_km: np.ndarray, index: np.ndarray
) -> np.ndarray:
    """(n k) ground that images share with those of others at `index` (n k), over the smaller extent; extents
    (n 2: width, height) are taken for rectangles that look north. Of images without an extent 1 at the same place.
    """
    here, there = places[:, None], others[index]
    east = (there[..., 0] - here[..., 0] + 180) % 360 - 180
    dx = np.radians(east) * np.cos(np.radians(here[..., 1])) * RADIUS_KM
    dy = np.radians(there[..., 1] - here[..., 1]) * RADIUS_KM
    own, other = sides_km[:, None], their_sides_km[index]
    away = np.abs(np.stack([dx, dy], axis=-1))
    shared = np.clip(np.minimum((own + other) / 2 - away, np.minimum(own, other)), 0, None).prod(axis=-1)
    smaller = np.minimum(own.prod(axis=-1), other.prod(axis=-1))
    same = np.hypot(dx, dy) < 1e-3  # a metre
    return np.asarray(np.where(smaller > 0, shared / np.maximum(smaller, 1e-12), same))
