"""How much of a dataset is there twice: samples that show the same picture, and directions that embeddings fill.

Axes: n sample, d width of an embedding.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geomaestro.data.quality.likeness import ALIKE, NO_HASH, likeness
from geomaestro.select.groups import links

MOST_COMPARED = 2000  # assumed; pairs whose pixels are compared; of more, as many evenly spread ones
EXAMPLES = 10

Pictures = Callable[[Sequence[int]], Iterable[np.ndarray | None]]
"""Pictures (h w) of samples by their row in the table."""


@dataclass(frozen=True)
class Twins:
    """Samples that show a picture of another. `near` are pairs by hash, `alike` those whose pixels agree."""

    hashed: int
    near: int
    compared: int
    alike: int
    redundant: int
    certain: bool
    pairs: tuple[tuple[int, int], ...] = ()

    def about(self) -> dict[str, Any]:
        """As kept in JSON."""
        return {
            "hashed": self.hashed,
            "near_pairs": self.near,
            "compared_pairs": self.compared,
            "alike_pairs": self.alike,
            "redundant": self.redundant,
            "share": self.redundant / self.hashed if self.hashed else None,
            "certain": self.certain,
        }


def twins(hashes: np.ndarray, pictures: Pictures | None) -> Twins:
    """Near-duplicates among samples, by their hashes (n), then by their pixels where `pictures` are to be had.

    `redundant` is the number of samples that could go and leave one of each picture. It is `certain` if all pairs were
    compared; otherwise it is that of the hashes, times the share of compared pairs that are alike.
    """
    left, right = _pairs(hashes)
    hashed, near = int((hashes != NO_HASH).sum()), len(left)
    if pictures is None or not near:
        return Twins(hashed, near, 0, 0, _spare(left, right), near == 0, _first(left, right))
    some = np.unique(np.linspace(0, near - 1, min(near, MOST_COMPARED)).astype(int))
    alike = some[_alike(left[some], right[some], pictures)]
    certain = len(some) == near
    spare = _spare(left[alike], right[alike])
    if not certain:
        spare = round(_spare(left, right) * len(alike) / len(some))
    return Twins(hashed, near, len(some), len(alike), spare, certain, _first(left[alike], right[alike]))


def _first(left: np.ndarray, right: np.ndarray) -> tuple[tuple[int, int], ...]:
    return tuple(zip(left[:EXAMPLES].tolist(), right[:EXAMPLES].tolist(), strict=True))


def _pairs(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of pairs that link all samples with a hash within three bits; equal hashes are chained, not crossed."""
    known = np.flatnonzero(hashes != NO_HASH)
    order = known[np.argsort(hashes[known], kind="stable")]
    equal = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    values, first = np.unique(hashes[known], return_index=True)
    one, other = np.unique(np.sort(links(values), axis=0), axis=1)  # each pair once
    left = np.concatenate([order[equal], known[first[one]]])
    right = np.concatenate([order[equal + 1], known[first[other]]])
    left, right = np.minimum(left, right), np.maximum(left, right)
    by_row = np.lexsort((right, left))
    return left[by_row], right[by_row]


def _spare(left: np.ndarray, right: np.ndarray) -> int:
    """Samples that could go: those in groups of linked ones, less one for each group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(left):
        return 0
    names, where = np.unique(np.concatenate([left, right]), return_inverse=True)
    ends = where.reshape(2, -1)
    links = coo_array((np.ones(len(left), np.int8), (ends[0], ends[1])), shape=(len(names),) * 2)
    groups, _ = connected_components(links, directed=False)
    return len(names) - int(groups)


def _alike(left: np.ndarray, right: np.ndarray, pictures: Pictures) -> np.ndarray:
    """(k) True for pairs whose pixels agree."""
    both = np.stack([left, right], axis=1).ravel().tolist()
    shown = iter(pictures(both))
    out = []
    for one in shown:
        other = next(shown)
        out.append(one is not None and other is not None and likeness(one, other) >= ALIKE)
    return np.asarray(out, bool)


@dataclass
class Gram:
    """Sums over embeddings (n d) that come a part at a time: number, sum, and products of every two dimensions."""

    count: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(0))
    products: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, embeddings: np.ndarray) -> None:
        """Take in some embeddings."""
        x = embeddings.astype(np.float64)
        if not self.count:
            self.total, self.products = np.zeros(x.shape[1]), np.zeros((x.shape[1],) * 2)
        self.count += len(x)
        self.total += x.sum(axis=0)
        self.products += x.T @ x

    def effective_rank(self, *, centred: bool) -> float:
        """exp(H) of the singular values of the embeddings as shares of their sum; `centred`, less their mean.

        Source: Roy & Vetterli 2007.
        """
        products = self.products
        if centred:
            products = products - np.outer(self.total, self.total) / max(self.count, 1)
        singular = np.sqrt(np.clip(np.linalg.eigvalsh(products), 0, None))
        share = singular[singular > 1e-7 * singular.max()] / singular.sum() if singular.max() > 0 else np.ones(1)
        return float(np.exp(-(share * np.log(share)).sum()))
