"""Samples that cannot be read: listed with the reason, left out, counted, and never replaced.

The list is one JSON object per line, {"id", "split", "reason"}, as `geomaestro data check` and a run write it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geomaestro.data.reading import Dataset
from geomaestro.errors import DataError
from geomaestro.runs import append_row, read_rows

CROP = re.compile(r"/\d+-\d+$")  # what a crop adds to the name of its tile
QUARANTINE = "quarantine.jsonl"  # in the folder of a pretraining


@dataclass(frozen=True, slots=True)
class BadSample:
    """A sample that could not be read, and why."""

    id: str
    reason: str


@dataclass
class Quarantine:
    """The unreadable samples that a training meets, written to `path` as they come.

    More than `max_share` of `total` samples stop it: something is wrong with the whole then. Where it is `shared` by
    several processes, what one of them meets is `untold` until all take note of it, which may stop them all; only one
    of them `writes`.
    """

    path: Path
    total: int
    max_share: float
    writes: bool = True
    shared: bool = False
    known: dict[str, str] = field(default_factory=dict)
    untold: list[BadSample] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path.is_file():
            self.known = read_quarantine(self.path)

    def add(self, bad: Sequence[BadSample]) -> None:
        """Take note of samples that this process met.

        Raises:
            DataError: with the share, the list and the first reason, if they are too many now and it is not shared.
        """
        if self.shared:
            self.untold += [sample for sample in bad if sample.id not in self.known]
        else:
            self.note(bad)

    def note(self, bad: Sequence[BadSample]) -> None:
        """Take note of samples.

        Raises:
            DataError: as `add`.
        """
        for sample in bad:
            if sample.id not in self.known:
                self.known[sample.id] = sample.reason
                if self.writes:
                    append_row(self.path, {"id": sample.id, "reason": sample.reason})
        if len(self.known) > self.max_share * self.total:
            first = next(iter(self.known.values()))
            raise DataError(
                f"{len(self.known)} of {self.total} samples cannot be read, more than "
                f"`pretrain.max_bad_share` allows ({self.max_share:.2%}); the first: {first}. All are listed in "
                f"{self.path}; mend the files, or leave the samples out with `data.quarantine`"
            )


def read_quarantine(path: Path) -> dict[str, str]:
    """Reasons by sample name.

    Raises:
        DataError: if the file is missing or no such list.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; `geomaestro data check` writes the list of unreadable samples")
    try:
        return {str(row["id"]): str(row["reason"]) for row in read_rows(path)}
    except (KeyError, TypeError):
        raise DataError(
            f"{path}: is no list of unreadable samples (one JSON object with id and reason per line)"
        ) from None


def readable(dataset: Dataset, listed: Mapping[str, str]) -> list[int]:
    """Indices of the samples that are not listed; a crop is left out with its tile."""
    return [i for i, name in enumerate(dataset.ids()) if name not in listed and CROP.sub("", name) not in listed]
