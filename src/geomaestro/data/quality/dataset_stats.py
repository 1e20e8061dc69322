"""Describe a dataset in numbers: values of bands, dates, sizes, places, labels, and what its splits know of each other.

Axes: t date, c band, k class.
"""

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from geomaestro.data.files.filespec import FilesSpec
from geomaestro.data.packing.jobs import Jobs
from geomaestro.data.quality.checking import block_km, reader_of
from geomaestro.data.quality.leakage import leakage, training_split
from geomaestro.data.quality.spread import KEPT, Spread
from geomaestro.data.quality.survey import IGNORED, Look, Record, Report, Survey, splits_of, survey
from geomaestro.data.spec import ArraySpec, Target
from geomaestro.data.specs import DatasetSpec
from geomaestro.sensors import Sensor

QUANTILES = {"p2": 0.02, "p50": 0.5, "p98": 0.98}
SEASONS = ("winter", "spring", "summer", "autumn")
MOST_PLACES, MOST_BAD = 20_000, 100  # assumed; more are counted, but not listed one by one
DIGITS = 4  # significant, of suggested scalings
METHOD = (
    "count, mean, standard deviation, least and greatest value: of all measured pixels, cloudy ones too; percentiles: "
    f"of a drawn sample of up to {KEPT} pixels per sensor and split, the same at every run"
)


def stats(
    spec: DatasetSpec,
    root: Path,
    splits: Sequence[str] | None = None,
    *,
    jobs: Jobs | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Numbers about some splits (default: all), as JSON holds them; unreadable samples are counted and left out.

    Raises:
        DataError: if the list of samples can't be made.
    """
    chosen = tuple(splits or splits_of(spec, root))
    seen = survey(spec, root, chosen, look=Look(spread=True), jobs=jobs, report=report)
    good, bad = seen.good, [record for record in seen.records if record.reason]
    leaks = leakage(good, block_km=block_km(spec), likeness=reader_of(seen))
    return {
        "name": spec.name,
        "about": spec.about,
        "licence": spec.licence,
        "splits": {str(split or "all"): _counts(split, seen) for split in seen.splits},
        "unreadable": [{"id": record.id, "reason": record.reason} for record in bad[:MOST_BAD]],
        "sensors": {name: _sensor(spec, name, seen, good) for name in spec.sensors},
        "targets": {name: _target(spec, name, target, good) for name, target in spec.targets.items()},
        "places": {str(split or "all"): _places([r for r in good if r.split == split]) for split in seen.splits},
        "leakage": None if leaks is None else {**asdict(leaks), "mixed": leaks.mixed, "headline": leaks.headline},
        "block_km": block_km(spec),
        "method": METHOD,
    }


def _counts(split: str | None, seen: Survey) -> dict[str, int]:
    mine = [record for record in seen.records if record.split == split]
    return {
        "samples": len(mine),
        "unreadable": sum(bool(record.reason) for record in mine),
        "placed": sum(record.place is not None for record in mine),
    }


def _places(records: Sequence[Record]) -> list[list[float]]:
    placed = [[round(value, 5) for value in record.place] for record in records if record.place is not None]
    return placed[:: -(-len(placed) // MOST_PLACES) or 1]


def _sensor(spec: DatasetSpec, name: str, seen: Survey, good: Sequence[Record]) -> dict[str, Any]:
    entry = spec.sensors[name]
    having = [record for record in good if name in record.sensors and record.sensors[name].pixels]
    pixels = sum(record.sensors[name].pixels for record in having)
    spreads = {split: spread for (sensor, split), spread in seen.spreads.items() if sensor == name and spread.count}
    pooled = reduce(add, spreads.values(), Spread.nothing(len(entry.bands)))
    sizes = Counter(record.sensors[name].size for record in having)
    training = training_split(split for split in spreads) if len(spreads) > 1 else next(iter(spreads), None)
    measured = spreads.get(training)
    return {
        "unit": entry.unit,
        "gsd_m": entry.gsd_m,
        "samples": len(having),
        "absent": len(good) - len(having),
        "unmeasured": sum(record.sensors[name].unknown == record.sensors[name].pixels for record in having),
        "sizes": [{"height": h, "width": w, "samples": n} for (h, w), n in sizes.most_common(10)],
        "unknown_share": _share(sum(record.sensors[name].unknown for record in having), pixels),
        "cloudy_share": _share(sum(record.sensors[name].cloudy for record in having), pixels),
        "even_images": sum(record.sensors[name].even for record in having),
        "dates": _dates(having, name) if dated(spec, name) else None,
        "bands": _bands(entry.bands, pooled),
        "by_split": {str(split or "all"): _bands(entry.bands, spread) for split, spread in spreads.items()},
        "scaling": None if measured is None else suggested(entry.sensor(), measured),
        "scaling_from": str(training or "all"),
        "scaling_now": entry.scaling.model_dump(exclude_defaults=True),
    }


def dated(spec: DatasetSpec, name: str) -> bool:
    """Whether a sensor's images have dates of their own, as far as the spec tells."""
    entry = spec.sensors[name]
    if isinstance(spec, FilesSpec):
        return spec.sensors[name].dates is not None
    if isinstance(spec, ArraySpec):
        return spec.dates is not None and "date" in spec.sensors[name].axes
    return isinstance(spec.reference_date, str) or entry.input.dates > 1


def _bands(names: Sequence[str], spread: Spread) -> list[dict[str, Any]]:
    """Numbers of each band, as stored."""
    rows = {"mean": spread.mean, "std": spread.std, "min": spread.low, "max": spread.high}
    rows |= dict(zip(QUANTILES, spread.quantiles(list(QUANTILES.values())), strict=True))
    return [
        {"band": band, "count": spread.count, **{key: _number(values[c]) for key, values in rows.items()}}
        for c, band in enumerate(names)
    ]


def suggested(sensor: Sensor, spread: Spread) -> dict[str, Any] | None:
    """`scaling` that gives each band mean 0 and deviation 1; of logarithms where the spec takes them.

    Where it turns surface and terrain into heights, both get the same two numbers. None where a band has one value.
    """
    mean, std = spread.mean, spread.std
    if sensor.scaling.log:
        logs = np.log(np.maximum(spread.pixels, 1e-10))
        mean, std = logs.mean(axis=0), logs.std(axis=0)
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        return None
    both: dict[str, Any] = {"subtract": _rounded(mean), "divide_by": _rounded(std)}
    if sensor.scaling.heights or len(mean) == 1:
        both = {key: values[0] for key, values in both.items()}
    kept = {key: True for key in ("log", "heights") if getattr(sensor.scaling, key)}
    return {**kept, **both}


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _dates(records: Sequence[Record], name: str) -> dict[str, Any]:
    """Images per sample, by month, by year, and by season, which is that of the hemisphere of the place."""
    per_sample, months, years, seasons = Counter[int](), [0] * 12, Counter[int](), Counter[str]()
    for record in records:
        days = record.sensors[name].days
        days = days[days[:, 0] > 0]
        per_sample[len(days)] += 1
        for year, day in days[:, :2].tolist():
            month = (datetime.date(2001, 1, 1) + datetime.timedelta(min(max(day, 1), 365) - 1)).month
            months[month - 1] += 1
            years[year] += 1
            seasons[season(month, record.place)] += 1
    counts = np.repeat(list(per_sample), list(per_sample.values())) if per_sample else np.zeros(1, int)
    return {
        "images": sum(months),
        "per_sample": {"least": int(counts.min()), "median": float(np.median(counts)), "most": int(counts.max())},
        "samples_by_images": {str(key): per_sample[key] for key in sorted(per_sample)},
        "per_month": months,
        "per_season": {key: seasons[key] for key in (*SEASONS, "unknown") if key in seasons or key in SEASONS},
        "per_year": {str(year): years[year] for year in sorted(years)},
    }


def season(month: int, place: tuple[float, float] | None) -> str:
    """Of a month, 1 to 12; winter is December to February in the north, June to August in the south."""
    if place is None:
        return "unknown"
    return SEASONS[(month % 12 // 3 + (2 if place[1] < 0 else 0)) % 4]


def _target(spec: DatasetSpec, name: str, target: Target, good: Sequence[Record]) -> dict[str, Any]:
    shown = name if target.present_in is None else target.present_in
    by_split: dict[str, list[np.ndarray]] = {}
    for record in good:
        if shown in record.labels:
            by_split.setdefault(record.split or "all", []).append(record.labels[shown])
    kind = target.kind
    out: dict[str, Any] = {"kind": kind, "classes": list(target.classes)}
    if kind == "regression":
        return out | {"values": {split: _values(np.stack(rows)) for split, rows in by_split.items()}}
    counts = {split: _classes(spec, name, rows) for split, rows in by_split.items()}
    ignored = _ignored(target, name, good, by_split)
    return out | {"unit": "pixels" if kind == "pixels" else "samples", "counts": counts, "unlabelled": ignored}


def _classes(spec: DatasetSpec, name: str, rows: Sequence[np.ndarray]) -> list[int]:
    """(k) pixels, or samples, of each class."""
    target = spec.targets[name]
    if target.present_in is not None:
        shown = spec.targets[target.present_in].classes
        present = (np.stack(rows) > 0).sum(axis=0)
        return [int(present[shown.index(label)]) for label in target.classes]
    if target.kind == "classes":
        numbers = np.concatenate(rows)
        return np.bincount(numbers[numbers >= 0], minlength=len(target.classes))[: len(target.classes)].tolist()
    total = np.stack(rows).astype(np.int64)
    return np.asarray((total if target.kind == "pixels" else total == 1).sum(axis=0)).tolist()


def _ignored(
    target: Target, name: str, good: Sequence[Record], by_split: Mapping[str, Sequence[np.ndarray]]
) -> dict[str, int]:
    """Pixels, or samples, without a label."""
    if target.kind == "classes":
        return {split: int((np.concatenate(rows) == target.ignore).sum()) for split, rows in by_split.items()}
    found = dict.fromkeys(by_split, 0)
    for record in good:
        left = record.labels.get(f"{name}{IGNORED}")
        if left is not None:
            found[record.split or "all"] += int(left[0])
    return found


def _values(x: np.ndarray) -> dict[str, Any]:
    """Of numbers (n k), the known ones of each."""
    known = [column[np.isfinite(column)] for column in x.T]
    out: dict[str, Any] = {"samples": [len(column) for column in known]}
    for key, how in (("mean", np.mean), ("std", np.std), ("min", np.min), ("max", np.max)):
        out[key] = [_number(how(column)) if len(column) else None for column in known]
    return out
