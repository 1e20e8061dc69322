"""How near places lie to others, and how much ground their images share. Distances are on a sphere.

Axes: n place, m other place, k neighbour.
"""

from collections.abc import Iterator

import numpy as np

from geomaestro.data.quality.placing import RADIUS_KM

SLACK = 1.1  # assumed; an extent that looks north on the ellipsoid reaches less beyond that on the sphere
LEAST_KM = 0.01  # so that samples without an extent meet at the same place
PAIRS_AT_ONCE = 1 << 22


def nearest_km(places: np.ndarray, others: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(n k) distances in km of places (n 2: longitude, latitude) to their nearest of others (m 2), and its indices."""
    from scipy.spatial import cKDTree

    chord, index = cKDTree(_on_sphere(others)).query(_on_sphere(places), k=np.arange(1, count + 1))
    return 2 * RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1)), index


def touching(
    places: np.ndarray, sides_km: np.ndarray, others: np.ndarray, their_sides_km: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices (k) of places and (k) of others, in parts, of all pairs whose extents (n 2), (m 2) may share ground."""
    from scipy.spatial import cKDTree

    points, theirs = _on_sphere(places), _on_sphere(others)
    reach, their_reach = (np.hypot(*sides.T) / 2 for sides in (sides_km, their_sides_km))
    level = np.ceil(np.log2(np.maximum(their_reach, 1e-3))).astype(int)  # others of like size are looked for together
    for each in np.unique(level):
        some = np.flatnonzero(level == each)
        tree = cKDTree(theirs[some])
        radius = (SLACK * (reach + their_reach[some].max()) + LEAST_KM) / RADIUS_KM  # an arc is longer than its chord
        ends = np.cumsum(tree.query_ball_point(points, radius, return_length=True))
        start = 0
        while start < len(points):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + PAIRS_AT_ONCE, "right")))
            found = tree.query_ball_point(points[start:stop], radius[start:stop])
            counts = np.asarray([len(indices) for indices in found])
            if counts.any():
                yield np.repeat(np.arange(start, stop), counts), some[np.concatenate(found).astype(np.int64)]
            start = stop


def _on_sphere(places: np.ndarray) -> np.ndarray:
    """(n 3) points on the unit sphere."""
    lon, lat = np.radians(places).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def shared_ground(
    places: np.ndarray, sides_km: np.ndarray, others: np.ndarray, their_sides_km: np.ndarray, index: np.ndarray
) -> np.ndarray:
    """(n k) ground that images share with those of others at `index` (n k), over the smaller extent; extents
    (n 2: width, height) are taken for rectangles that look north. An image without an extent is a point: 1 inside the
    other's extent, or, if that has none either, at the same place.
    """
    here, there = places[:, None], others[index]
    east = (there[..., 0] - here[..., 0] + 180) % 360 - 180
    dx = np.radians(east) * np.cos(np.radians(here[..., 1])) * RADIUS_KM
    dy = np.radians(there[..., 1] - here[..., 1]) * RADIUS_KM
    own, other = sides_km[:, None], their_sides_km[index]
    away = np.abs(np.stack([dx, dy], axis=-1))
    shared = np.clip(np.minimum((own + other) / 2 - away, np.minimum(own, other)), 0, None).prod(axis=-1)
    smaller = np.minimum(own.prod(axis=-1), other.prod(axis=-1))
    inside = (away <= np.maximum(own, other) / 2 + 1e-3).all(axis=-1)  # a metre
    return np.asarray(np.where(smaller > 0, shared / np.maximum(smaller, 1e-12), inside))
