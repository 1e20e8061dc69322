"""`geomaestro gather`: a set of patches of a recipe, collected part by part into a packed store."""

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geomaestro.data.packing.jobs import Jobs, run
from geomaestro.data.packing.pack import Finished, dataset_yaml, write_manifest
from geomaestro.data.packing.plan import sidecar
from geomaestro.errors import DataError, SpecError
from geomaestro.runs import read_rows, write_atomically, write_rows
from geomaestro.select.gather.collecting import (
    NO_SCENE,
    DonePart,
    Fetcher,
    Job,
    attempts_path,
    finished,
    gather_part,
    places_path,
)
from geomaestro.select.gather.drawing import Place
from geomaestro.select.gather.faults import Log, Unusable
from geomaestro.select.gather.offsets import offset_of
from geomaestro.select.gather.planning import PLAN, GatherPlan, claim
from geomaestro.select.gather.reading import assets_of
from geomaestro.select.gather.spec import GatherSpec
from geomaestro.select.places import continents, seasons
from geomaestro.select.table import write_table
from geomaestro.sensors import Scaling

PLACES_TABLE = "places.parquet"
SECONDS_PER_PATCH = 3.0  # assumed; one search and about two dozen small requests of 0.1 s each, one after the other
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Gathered:
    """What came of it. `missing` places could not be replaced; `unfinished` shards are left to other shares."""

    out: Path
    samples: int
    replaced: int
    failed: int
    missing: int
    unfinished: int

    def lines(self) -> list[str]:
        """What to tell of it."""
        found = [
            f"{self.samples} samples; {self.replaced} places replaced, {self.failed} of them for faults in reading"
        ]
        if self.missing:
            found.append(
                f"{self.missing} places are missing, as the reserve of their shards was used up: see replaced.jsonl "
                "and quarantine.jsonl; more dates, clouds or `reserve` would fill them, in another folder"
            )
        if self.unfinished:
            found.append(f"{self.unfinished} shards are left to other shares; the last to end writes the index")
        return found


@dataclass(frozen=True)
class Forecast:
    """What a recipe will take: places by region (those of its first shard), disk and time."""

    places: dict[str, list[Place]]
    counts: dict[str, int]
    capacities: dict[str, int]
    shards: int
    bytes: int
    hours: float

    def lines(self) -> list[str]:
        """What to tell of it."""
        found = [
            f"{name}: {self.counts[name]} places of about {self.capacities[name]} that it holds; the first: "
            + ", ".join(f"{place.lon:.4f} {place.lat:.4f}" for place in places[:3])
            for name, places in self.places.items()
        ]
        total = sum(self.counts.values())
        return [
            *found,
            f"{total} places in {self.shards} shards, {self.bytes / 1e9:.2f} GB on the disk",
            f"about {self.hours:.1f} hours if a place takes {SECONDS_PER_PATCH:g} s (assumed; try a hundred first)",
        ]


def forecast(spec: GatherSpec, jobs: Jobs) -> Forecast:
    """Draw places, and estimate; asks no server.

    Raises:
        SpecError: if a region is unknown, or holds too few places.
    """
    plan, places, counts = GatherPlan.of(spec), {}, {}
    for region, drawing in enumerate(plan.drawings):
        mine = [part for part in plan.parts if part.region == region]
        places[drawing.region.name] = drawing.candidates(0)[: mine[0].count]
        counts[drawing.region.name] = sum(part.count for part in mine)
    capacities = {drawing.region.name: drawing.capacity for drawing in plan.drawings}
    at_once = min(jobs.workers, len(plan.parts)) * spec.threads * jobs.shard[1]
    hours = spec.count * SECONDS_PER_PATCH / at_once / 3600
    return Forecast(places, counts, capacities, len(plan.parts), spec.count * plan.sample_bytes, hours)


def gather(spec: GatherSpec, out: Path, *, jobs: Jobs | None = None, report: Report | None = None) -> Gathered:
    """Gather a set, or a share of it, into `out`; goes on where an earlier call was stopped.

    Once all shards are there, the index and the manifest are written; until then the store can't be opened.

    Raises:
        DataError: if `out` holds something else, or nothing could be gathered.
        RunError: if the server does not answer, refuses, or fails too many times.
        SpecError: if the recipe is impossible, or another one than when the store was begun.
    """
    jobs, plan = jobs or Jobs(), GatherPlan.of(spec)
    claim(out, plan)
    mine = jobs.share(plan.parts)
    if any(finished(out, plan, part) is None for part in mine):
        check_source(spec)
        (out / "manifest.json").unlink(missing_ok=True)  # no store is complete while one of its shards is made
    done, replaced, total = 0, 0, sum(part.count for part in mine)
    for result in run(partial(gather_part, Job(spec, out, uuid.uuid4().hex)), mine, jobs):
        done += result.part.count
        replaced += len(result.replaced)
        if report is not None:
            report(done, total, f"{replaced} places replaced" if replaced else "")
    return _merge(out, plan)


def check_source(spec: GatherSpec) -> None:
    """Look at one item before all begins.

    Raises:
        RunError: if the server does not answer.
        SpecError: if the catalogue has no such items, or they lack bands, or do not tell their offset.
    """
    fetcher = Fetcher(spec)
    item = fetcher.catalogue.any_item(fetcher.patience, Log("", spec.seed))
    if item is None:
        raise SpecError(
            f"{spec.stac}: collection {fetcher.catalogue.collection!r} has no item on the wanted dates; look at "
            "`collection` and `dates`"
        )
    try:
        assets = assets_of(item, spec)
        if spec.known.shifted:
            offset_of(item, {name: assets[name] for name in spec.band_names}, spec.offset_dn)
    except Unusable as fault:
        raise SpecError(f"{spec.stac}: {fault}") from None


def _merge(out: Path, plan: GatherPlan) -> Gathered:
    """Write tables, index and manifest, if all shards are there."""
    found = [finished(out, plan, part) for part in plan.parts]
    done = [part for part in found if part is not None]
    samples, replaced = sum(part.samples for part in done), [row for part in done for row in part.replaced]
    failed = [row for row in replaced if row["failed"]]
    missing = sum(part.part.count for part in done) - samples
    gathered = Gathered(out, samples, len(replaced), len(failed), missing, len(plan.parts) - len(done))
    if gathered.unfinished:
        return gathered
    _write_rows(out, done, replaced)
    if samples == 0:
        reasons = "; ".join(dict.fromkeys(str(row["reason"]) for row in replaced[:50]))[:600]
        raise DataError(f"{out}: none of {len(replaced)} places gave a sample: {reasons}; all are in quarantine.jsonl")
    tables = [pq.read_table(sidecar(out, part.number)).replace_schema_metadata(None) for part in plan.parts]
    index = pa.concat_tables(tables)
    stored = plan.spec.stored(measured_scaling(index, plan.spec.known.name))
    write_atomically(out / "dataset.yaml", dataset_yaml(stored))
    _write_places(out, plan)
    shards = [Finished(part.bytes, part.sha256, part.samples) for part in done]
    write_manifest(out, stored, index, plan=_plan_sha256(out), shards=shards, quarantined=len(failed))
    return gathered


def _plan_sha256(out: Path) -> str:
    from geomaestro.data.packed.manifest import sha256_of

    return sha256_of(out / PLAN)


def _write_rows(out: Path, done: Sequence[DonePart], replaced: Sequence[dict[str, Any]]) -> None:
    """Lists of what went otherwise: `quarantine.jsonl`, `replaced.jsonl` (no scene), `attempts.jsonl`."""
    lists = {
        "quarantine.jsonl": [row for row in replaced if row["reason"] != NO_SCENE],
        "replaced.jsonl": [row for row in replaced if row["reason"] == NO_SCENE],
        "attempts.jsonl": [row for part in done for row in read_rows(attempts_path(out, part.part.number))],
    }
    for name, rows in lists.items():
        (out / name).unlink(missing_ok=True)
        if rows:
            write_rows(out / name, rows)


def _write_places(out: Path, plan: GatherPlan) -> None:
    """One table of all places, with continent and season."""
    table = pa.concat_tables([pq.read_table(places_path(out, part.number)) for part in plan.parts])
    lon, lat = (table[name].to_numpy() for name in ("lon", "lat"))
    month = np.asarray([value.month for value in table["date"].to_pylist()])
    table = table.append_column("season", pa.array(seasons(month, lat).tolist(), pa.string()))
    table = table.append_column("continent", pa.array(continents(lon, lat).tolist(), pa.string()))
    write_table(out / PLACES_TABLE, table, {"gathered": plan.spec.content()})


def measured_scaling(index: pa.Table, sensor: str) -> Scaling:
    """Mean and deviation of each band over all measured pixels of a store's samples, to three digits.

    From the means m and deviations s of samples of n pixels: mean = sum(n m) / sum(n),
    deviation^2 = sum(n (s^2 + m^2)) / sum(n) - mean^2.
    """
    rows = index.column("sensors").combine_chunks().field(sensor)
    mean, std = (np.asarray([value for value in rows.field(name).to_pylist()], float) for name in ("mean", "std"))
    share = (1 - rows.field("unknown").to_numpy(zero_copy_only=False))[:, None]
    total = (share * mean).sum(axis=0) / share.sum()
    spread = np.sqrt(np.maximum((share * (std**2 + mean**2)).sum(axis=0) / share.sum() - total**2, 0))
    return Scaling(subtract=tuple(map(_short, total)), divide_by=tuple(_short(x) or 1.0 for x in spread))


def _short(value: float) -> float:
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return round(float(value), digits)
