"""Groups of samples of which one is enough: the same picture, or the same place."""

from itertools import combinations

import numpy as np

from geomaestro.data.quality.likeness import NEAR_BITS, NO_HASH

KM_PER_DEG = 111.195  # of a great circle on a sphere of 6371 km
PARTS = tuple((2**13 - 1) << start & 2**64 - 1 for start in range(0, 64, 13))


def alike(hashes: np.ndarray) -> np.ndarray:
    """(n) group of each picture hash (n): hashes that differ in at most NEAR_BITS, and those that are near to such.

    A picture without a hash is alone.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    known = hashes != NO_HASH
    values, place = np.unique(hashes[known], return_inverse=True)
    left, right = links(values)
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(len(values), len(values)))
    groups = np.arange(len(values), len(values) + len(hashes))
    groups[known] = connected_components(graph, directed=False)[1][place]
    return _numbered(groups)


def links(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the pairs of different hashes (n) that differ in at most NEAR_BITS, some of them repeatedly.

    Bits that differ lie in at most three of five parts, so two parts of near hashes are equal: a key of 25 bits, that
    few others of ten million share.
    """
    assert len(PARTS) - 2 == NEAR_BITS, "two parts stay equal"
    found = [np.zeros((2, 0), np.int64)]
    for one, other in combinations(PARTS, 2):
        key = hashes & np.uint64(one | other)
        order = np.argsort(key)
        key = key[order]
        at, apart = np.arange(len(key) - 1), 1
        while len(at):  # neighbours in the sorted keys, then those two apart, ...
            at = at[key[at] == key[at + apart]]
            left, right = order[at], order[at + apart]
            near = np.bitwise_count(hashes[left] ^ hashes[right]) <= NEAR_BITS
            found.append(np.stack([left[near], right[near]]))
            apart += 1
            at = at[at + apart < len(key)]
    left, right = np.concatenate(found, axis=1)
    return left, right


def cells(lon: np.ndarray, lat: np.ndarray, km: float) -> np.ndarray:
    """(n) group of each place: cells of about km x km, in rows of equal latitude; near places may lie in two cells."""
    height = km / KM_PER_DEG
    row = np.floor((lat + 90) / height).astype(np.int64)
    middle = np.clip((row + 0.5) * height - 90, -90, 90)
    columns = np.maximum(np.floor(360 * np.cos(np.radians(middle)) / height), 1).astype(np.int64)
    column = np.floor((lon + 180) % 360 / 360 * columns).astype(np.int64)
    return _numbered(row * (int(columns.max()) + 1) + column)


def _numbered(groups: np.ndarray) -> np.ndarray:
    return np.unique(groups, return_inverse=True)[1].astype(np.int32)
