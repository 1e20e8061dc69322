"""Do the splits of a dataset know each other? Distances, overlapping ground, and the same picture in two splits.

Distances are between the middles of scenes, on a sphere. A split made by chance from clustered scenes puts each test
scene as near to a training scene as these are to each other; a split by blocks keeps them apart.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geomaestro.data.quality.likeness import ALIKE, NO_HASH, near_pairs
from geomaestro.data.quality.nearness import nearest_km, shared_ground
from geomaestro.data.quality.survey import Record

NEIGHBOURS = 8  # assumed; training scenes whose ground is compared with that of a test scene
OVERLAPS = 0.02  # assumed; of the smaller extent; scenes that touch share less, whatever their map projection
SHARED = 0.01  # assumed; share of scenes that may lie over training scenes before splits are called mixed
CORRELATED_KM = 25.0  # assumed; farther apart, scenes drawn by chance are no neighbours
BY_CHANCE = 1.5  # assumed; of the median distance between training scenes
MOST_COMPARED = 2000  # assumed; pairs of pictures whose pixels are compared
PERCENT = tuple(range(101))

Likeness = Callable[[int, int, int, int], float]
"""How alike pictures are: scene, its date, another scene, its date -> 1 if equal, 0 if not alike."""


@dataclass(frozen=True)
class Apart:
    """How far a split lies from the training split. `km` are percentiles 0 to 100."""

    split: str
    samples: int
    placed: int
    km: tuple[float, ...] = ()
    within_1_km: float = 0.0
    within_block: float | None = None
    overlapping: int = 0
    example: tuple[str, str] | None = None  # two scenes that overlap
    mixed: bool = False
    verdict: str = ""


@dataclass(frozen=True)
class Twins:
    """Two scenes of different splits that show the same picture."""

    split: str
    id: str
    other_split: str
    other_id: str
    likeness: float


@dataclass(frozen=True)
class Leakage:
    """What the splits know of each other. `own_km` are percentiles of the distance between training scenes."""

    training: str
    own_km: tuple[float, ...]
    apart: tuple[Apart, ...]
    twins: tuple[Twins, ...]
    uncompared: int
    verdicts: tuple[str, ...]

    @property
    def mixed(self) -> bool:
        """True if any split is mixed with the training split, or shows one of its pictures."""
        return bool(self.twins) or any(one.mixed for one in self.apart)

    @property
    def headline(self) -> str:
        """The answer in a sentence."""
        mixed = [one.split for one in self.apart if one.mixed]
        known = [one for one in self.apart if one.km]
        if mixed:
            return f"The splits leak: {' and '.join(mixed)} can't be told apart on the ground from {self.training}."
        if self.twins:
            return "The splits leak: they share pictures."
        return "The splits are apart." if known else "No leak was found, but no places are known to tell by."


def training_split(splits: Iterable[str | None]) -> str | None:
    """The split that others are compared with: train, or the first whose name begins so."""
    names = sorted(name for name in splits if name is not None and name.startswith("train"))
    return "train" if "train" in names else next(iter(names), None)


def leakage(records: Sequence[Record], *, block_km: float | None = None, likeness: Likeness) -> Leakage | None:
    """Compare the splits; None where there are no two, or none to train on."""
    by_split: dict[str, list[Record]] = {}
    for record in records:
        if record.split is not None:
            by_split.setdefault(record.split, []).append(record)
    training = training_split(by_split)
    if training is None or len(by_split) < 2:
        return None
    train = [record for record in by_split[training] if record.place is not None]
    own = _among(train)
    others = [name for name in by_split if name != training]
    apart = tuple(_apart(name, by_split[name], train, own, block_km) for name in others)
    twins, uncompared = _twins(by_split, likeness)
    return Leakage(training, _percentiles(own), apart, twins, uncompared, _verdicts(apart, twins))


def _apart(name: str, records: list[Record], train: list[Record], own: np.ndarray, block_km: float | None) -> Apart:
    placed = [record for record in records if record.place is not None]
    if not placed or not train:
        said = f"{name}: no places are known, so that nothing is known of its distance from training samples"
        return Apart(name, len(records), len(placed), verdict=said)
    km, index = _nearest(placed, train, min(NEIGHBOURS, len(train)))
    over = shared_ground(_places(placed), _sides(placed), _places(train), _sides(train), index) > OVERLAPS
    hits = np.flatnonzero(over.any(axis=1))
    example = None
    if len(hits):
        example = (placed[hits[0]].id, train[index[hits[0], int(over[hits[0]].argmax())]].id)
    near = km[:, 0]
    median, usual = float(np.median(near)), float(np.median(own)) if len(own) else np.inf
    by_chance = median <= min(BY_CHANCE * usual, CORRELATED_KM)
    mixed = len(hits) > SHARED * len(placed) or by_chance
    return Apart(
        name,
        len(records),
        len(placed),
        _percentiles(near),
        float((near < 1).mean()),
        None if block_km is None else float((near < block_km).mean()),
        len(hits),
        example,
        mixed,
        _say(name, near, usual, len(hits), by_chance=by_chance, mixed=mixed),
    )


def _say(name: str, near: np.ndarray, usual: float, hits: int, *, by_chance: bool, mixed: bool) -> str:
    own = f" ({_km(usual)} among training samples)" if np.isfinite(usual) else ""
    told = f"the median distance of its {len(near)} sample{'s' * (len(near) > 1)} to the nearest training sample is "
    told += f"{_km(float(np.median(near)))}{own}" + _over(hits)
    if not mixed:
        return f"{name} is apart from training: {told}"
    why = "as if drawn by chance among neighbours" if by_chance else "on the same ground"
    told = f"{name} is MIXED with training, {why}: {told}; its scores will flatter the model"
    return told + ". Split by blocks of ground (`samples.blocks`)"


def _over(hits: int) -> str:
    return f"; {hits} overlap{'s' if hits == 1 else ''} one" if hits else ""


def _km(km: float) -> str:
    return f"{km * 1000:.0f} m" if km < 1 else f"{km:.3g} km" if km < 100 else f"{km:.0f} km"


def _verdicts(apart: Sequence[Apart], twins: Sequence[Twins]) -> tuple[str, ...]:
    said = [one.verdict for one in apart]
    if not twins:
        return (*said, "no picture was found in two splits")
    first = twins[0]
    same = "the same picture" if first.likeness == 1 else "almost the same picture"
    count = "1 sample shows" if len(twins) == 1 else f"{len(twins)} samples show"
    found = f"{count} a picture of another split: {first.id} ({first.split}) is {same} as {first.other_id}"
    return (*said, f"{found} ({first.other_split}); remove one of the two")


def _percentiles(km: np.ndarray) -> tuple[float, ...]:
    return tuple(np.percentile(km, PERCENT).tolist()) if len(km) else ()


def _among(records: Sequence[Record]) -> np.ndarray:
    """(n) km from each place to the next; several scenes of one place, as of several dates, count once."""
    _, first = np.unique(_places(records).round(4), axis=0, return_index=True)
    apart = [records[index] for index in first]
    return _nearest(apart, apart, 2)[0][:, 1] if len(apart) > 1 else np.zeros(0)


def _nearest(records: Sequence[Record], others: Sequence[Record], count: int) -> tuple[np.ndarray, np.ndarray]:
    """(n count) distances in km and indices of the nearest others."""
    return nearest_km(_places(records), _places(others), count)


def _places(records: Sequence[Record]) -> np.ndarray:
    return np.asarray([record.place for record in records], np.float64).reshape(-1, 2)


def _sides(records: Sequence[Record]) -> np.ndarray:
    """(n 2) width and height in km."""
    extents = [record.extent for record in records]
    return np.asarray([(0.0, 0.0) if e is None else (e.width_km, e.height_km) for e in extents]).reshape(-1, 2)


def _twins(by_split: dict[str, list[Record]], likeness: Likeness) -> tuple[tuple[Twins, ...], int]:
    """Scenes that show a picture of another split, one pair for each; and how many there was no time to compare."""
    names, pairs = list(by_split), []
    for nth, name in enumerate(names):
        for other in names[nth + 1 :]:
            pairs += [(bits, other, name, *rest) for bits, *rest in _candidates(by_split[other], by_split[name])]
    found: list[Twins] = []
    seen: set[tuple[str, int]] = set()
    compared = 0
    for _, split, other, one, date, two, its_date in sorted(pairs, key=lambda pair: (pair[0], pair[3].number)):
        if (split, one.number) in seen or compared >= MOST_COMPARED:
            continue
        compared += date >= 0
        alike = 1.0 if date < 0 else likeness(one.number, date, two.number, its_date)
        if alike >= ALIKE:
            seen.add((split, one.number))
            found.append(Twins(split, one.id, other, two.id, round(alike, 4)))
    left = len({(pair[1], pair[3].number) for pair in pairs} - seen) if compared >= MOST_COMPARED else 0
    return tuple(found), left


def _candidates(records: Sequence[Record], others: Sequence[Record]) -> list[tuple[Any, ...]]:
    """(bits that differ, record, date, other, date): pictures that may be the same; date -1 where all numbers are."""
    hashes, owners = _listed(records)
    their_hashes, their_owners = _listed(others)
    left, right, bits = near_pairs(hashes, their_hashes)
    found: list[tuple[Any, ...]] = [
        (int(b), *owners[i], *their_owners[j]) for i, j, b in zip(left.tolist(), right.tolist(), bits, strict=True)
    ]
    known = {record_content: record for record in others if (record_content := _content(record)) != NO_HASH}
    for record in records:
        twin = known.get(_content(record))
        if twin is not None:
            found.append((0, record, -1, twin, -1))
    return found


def _listed(records: Sequence[Record]) -> tuple[np.ndarray, list[tuple[Record, int]]]:
    every = [
        (value, (record, date))
        for record in records
        for seen in record.sensors.values()
        for date, value in enumerate(seen.hashes.tolist())
        if value
    ]
    return np.asarray([value for value, _ in every], np.uint64), [owner for _, owner in every]


def _content(record: Record) -> np.uint64:
    return next((seen.content for seen in record.sensors.values() if seen.content != NO_HASH), NO_HASH)
