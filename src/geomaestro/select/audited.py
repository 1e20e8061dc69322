"""Audit datasets, not only tables: measure both sides, compare, and read pictures again where hashes are near."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from geomaestro.data.packing.jobs import Jobs
from geomaestro.errors import DataError, SpecError
from geomaestro.select.asked import refuse_overwriting, works
from geomaestro.select.audit import Audit, Side, audit
from geomaestro.select.measure import ImagesWork
from geomaestro.select.placelist import TableWork
from geomaestro.select.wishes import Columns, Counting, Ground, Reading
from geomaestro.select.work import make_table

KEPT_PICTURES = 256


def audit_sets(data: Sequence[str], reading: Reading, test_splits: Sequence[str], out: Path, jobs: Jobs) -> Audit:
    """Compare the last of some datasets with the others.

    Raises:
        SpecError: if there are fewer than two, or a dataset would be compared with itself.
        DataError: if one can't be read.
    """
    if len(data) < 2:
        raise SpecError("give at least one pretraining set and, last, the test set")
    if data[-1] in data[:-1] and not (reading.splits and test_splits):
        raise SpecError(f"{data[-1]}: is on both sides; say which splits, with --splits and --test-splits")
    refuse_overwriting(data, [out / "test.parquet"])
    once = list(dict.fromkeys(data))  # a dataset on both sides is measured once, and its splits are taken of the table
    each = len(reading.root) == len(data) > 1
    roots = tuple(reading.root[data.index(text)] for text in once) if each else reading.root
    counting = Counting(range="image")  # of no account here, and to be had where nothing tells a sensor's range
    made = dict(zip(once, works(once, Reading(root=roots), out, counting, Ground(sea=True), Columns()), strict=True))
    tables = {text: make_table(work, out, jobs=jobs, sea=True).table for text, work in made.items()}
    unfinished = [text for text, table in tables.items() if table is None]
    if unfinished:
        raise DataError(f"{unfinished[0]}: --shard leaves pieces to others; run the command without it to audit")
    splits = [*(reading.splits for _ in data[:-1]), test_splits]
    found = [tables[text] for text in data]
    sides = [Side.read(table, names) for table, names in zip(found, splits, strict=True) if table is not None]
    pictures = any(isinstance(work, ImagesWork) for work in made.values())
    return audit(sides[:-1], sides[-1], _Pictures([made[text] for text in data]) if pictures else None)


class _Pictures:
    """Pictures of samples, by the number of their side (-1: the test set), split and name; those last seen are kept."""

    def __init__(self, made: Sequence[ImagesWork | TableWork]) -> None:
        self._made = made
        self._read = lru_cache(KEPT_PICTURES)(self._shown)

    def __call__(self, number: int, split: str, name: str) -> np.ndarray | None:
        """The picture (h w); None if it can't be had."""
        return self._read(number, split, name)

    def _shown(self, number: int, split: str, name: str) -> np.ndarray | None:
        work = self._made[number]
        return next(iter(work.shown([(split or None, name)]))) if isinstance(work, ImagesWork) else None
