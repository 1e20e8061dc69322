"""Check a dataset: read everything once, list what can't be used, and compare the pixels with the spec."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geomaestro.data.files.filespec import FilesSpec
from geomaestro.data.packing.jobs import Jobs
from geomaestro.data.packing.plan import open_listing
from geomaestro.data.quality.fingerprint import Finding, judge
from geomaestro.data.quality.leakage import Leakage, leakage
from geomaestro.data.quality.likeness import likeness, mean_band
from geomaestro.data.quality.refusals import KINDS, ODD, SIZE
from geomaestro.data.quality.survey import Look, Prints, Record, Report, Survey, splits_of, survey
from geomaestro.data.scenes import UNKNOWN
from geomaestro.data.spec import Common
from geomaestro.data.specs import DatasetSpec
from geomaestro.grid import Window
from geomaestro.runs import write_rows

OUTLIERS = 0.1  # assumed; an oddity of more samples than this is the spec's fault, not the files'


@dataclass(frozen=True)
class CheckResult:
    """What a check found. `bad` are the samples that can't be used; they are listed in `out`."""

    name: str
    splits: tuple[str, ...]
    read: int
    bad: tuple[Record, ...]
    findings: tuple[Finding, ...]
    even: dict[str, tuple[int, int]]  # sensor: images that hold a single value, images
    leakage: Leakage | None
    out: Path

    @property
    def kinds(self) -> dict[str, int]:
        """Number of bad samples of each kind of damage."""
        counts = Counter(record.kind for record in self.bad)
        return {kind: counts[kind] for kind in KINDS if counts[kind]}

    @property
    def ok(self) -> bool:
        """True if every sample can be used, no finding is certain, and no picture is in two splits.

        Splits that lie too near each other are told but are no damage: a published dataset comes with its splits.
        """
        certain = any(finding.certain for finding in self.findings)
        return not self.bad and not certain and not (self.leakage is not None and self.leakage.twins)


def check(
    spec: DatasetSpec,
    root: Path,
    splits: Sequence[str] | None = None,
    *,
    out: Path | None = None,
    jobs: Jobs | None = None,
    report: Report | None = None,
) -> CheckResult:
    """Read all samples of some splits (default: all), and write the list of those that can't be used to `out`.

    A share of the samples (`jobs.shard`) is checked without comparing splits.

    Raises:
        DataError: if the list of samples can't be made.
        RunError: if the list can't be written.
    """
    chosen, jobs = tuple(splits or splits_of(spec, root)), jobs or Jobs()
    seen = survey(spec, root, chosen, look=Look(fingerprint=True), jobs=jobs, report=report)
    bad = [*_mixed_sizes(seen.records), *(record for record in seen.records if record.reason)]
    out = out or quarantine_path(spec, jobs)
    left = {record.number for record in bad}
    good = [record for record in seen.records if record.number not in left]
    odd = _outliers(good)
    bad = sorted([*bad, *odd], key=lambda record: record.number)
    write_rows(out, [{"id": record.id, "split": record.split, "reason": record.reason} for record in bad])
    left = {record.number for record in bad}
    good = [record for record in good if record.number not in left]
    whole = jobs.shard[1] == 1
    return CheckResult(
        name=spec.name,
        splits=chosen,
        read=len(seen.records),
        bad=tuple(bad),
        findings=tuple(_findings(spec, seen.prints, good)),
        even=_even(good),
        leakage=leakage(good, block_km=block_km(spec), likeness=reader_of(seen)) if whole else None,
        out=out,
    )


def quarantine_path(spec: Common, jobs: Jobs) -> Path:
    """Where the list of a dataset is written by default: in the current folder, one for each share."""
    number, count = jobs.shard
    return Path(f"quarantine-{spec.name}{'' if count == 1 else f'-{number}-of-{count}'}.jsonl")


def block_km(spec: DatasetSpec) -> float | None:
    """Width of the blocks that a dataset's splits are made of, if they are."""
    return spec.samples.blocks.size_km if isinstance(spec, FilesSpec) and spec.samples.blocks is not None else None


def reader_of(seen: Survey) -> Callable[[int, int, int, int], float]:
    """Compares pictures of two scenes by reading them again."""
    listing, name = open_listing(seen.source), seen.compared_by

    def picture(number: int, date: int) -> Any:
        group, place = listing.place[number]
        with listing.scenes[group].scene(place) as scene:
            series = scene.series[name]
            whole = Window(0, 0, *series.shape[2:])
            states = series.state(whole)
            return mean_band(series.read(None, whole)[date], None if states is None else states[date] & UNKNOWN > 0)

    return lambda one, date, other, its_date: likeness(picture(one, date), picture(other, its_date))


def _mixed_sizes(records: Sequence[Record]) -> list[Record]:
    """Records whose map of labels has another size than most."""
    found = []
    for target in dict.fromkeys(name for record in records for name in record.maps):
        having = [record for record in records if target in record.maps]
        (usual, count), *_ = Counter(record.maps[target] for record in having).most_common()
        for record in having:
            if record.maps[target] != usual and count > len(having) / 2:
                size = f"{record.maps[target][0]} x {record.maps[target][1]}"
                reason = f"{record.id}: the map of target {target!r} has {size} pixels, but {usual[0]} x {usual[1]} in "
                found.append(replace(record, kind=SIZE, reason=f"{reason}{count} of {len(having)} samples"))
    return list({record.number: record for record in found}.values())


def _outliers(records: Sequence[Record]) -> list[Record]:
    """Records whose own pixels contradict the spec with certainty where those of almost all others do not."""
    rare = _rare(records)
    found = []
    for record in records:
        said = [text for name, odd in record.odd.items() for kind, text in odd.items() if (name, kind) in rare]
        if said:
            reason = f"{record.id}: unlike the other samples, {'; '.join(said)}"
            found.append(replace(record, kind=ODD, reason=reason))
    return found


def _rare(records: Sequence[Record]) -> set[tuple[str, str]]:
    """(sensor, kind of oddity) of few samples."""
    having = Counter(name for record in records for name in record.sensors)
    odd = Counter((name, kind) for record in records for name, kinds in record.odd.items() for kind in kinds)
    return {
        (name, kind) for (name, kind), n in odd.items() if n <= max(1, OUTLIERS * having[name]) and having[name] > 2
    }


def _findings(spec: Common, prints: Prints, good: Sequence[Record]) -> list[Finding]:
    """What the pixels of all samples that are not listed say against the spec."""
    kept = {(name, tuple(sorted(record.odd.get(name, ())))) for record in good for name in record.sensors}
    found = []
    for name, entry in spec.sensors.items():
        parts = [each for key, each in prints.items() if key[0] == name and key in kept]
        if parts:
            pooled = parts[0]
            for part in parts[1:]:
                pooled = pooled + part
            found += judge(pooled, entry.sensor(), name)
    return found


def _even(records: Sequence[Record]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for record in records:
        for name, seen in record.sensors.items():
            even, total = found.get(name, (0, 0))
            found[name] = even + seen.even, total + len(seen.days)
    return {name: counts for name, counts in found.items() if counts[0]}
