"""One part of a set: its places one after the other, each with a scene and a patch, written as a shard.

Several places are fetched at once, but taken in their order: what a shard holds follows from the recipe and from what
the server has, not from which answer came first.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geomaestro.data.packed.manifest import sha256_of, shard_path
from geomaestro.data.packing.indexing import index_schema, key_of, read_content, write_content
from geomaestro.data.packing.pack import parquet_bytes, replacing
from geomaestro.data.packing.plan import sidecar
from geomaestro.data.packing.tars import TarWriter
from geomaestro.data.scenes import MemorySeries
from geomaestro.data.scenes import Scene as StoredScene
from geomaestro.errors import DataError, RunError
from geomaestro.runs import write_atomically, write_rows
from geomaestro.select.gather.dates import intervals_of
from geomaestro.select.gather.drawing import Place, split_of
from geomaestro.select.gather.faults import Log, Passing, Patience, Refused, Unusable
from geomaestro.select.gather.planning import GatherPlan, Part
from geomaestro.select.gather.reading import Read, Reader
from geomaestro.select.gather.searching import Catalogue, Patch, Scene
from geomaestro.select.gather.spec import GatherSpec

NO_SCENE = "no scene"


@dataclass(frozen=True)
class Job:
    """What a worker needs to make any part. `token` is one call's own, so that connections are not kept beyond it."""

    spec: GatherSpec = field(compare=False)
    out: Path
    token: str


@dataclass(frozen=True)
class DonePart:
    """A finished shard: its samples, and the places that were replaced, with reasons."""

    part: Part
    samples: int
    bytes: int
    sha256: str
    replaced: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Outcome:
    """What came of a place: a patch of a scene, or why there is none. `failed`: scenes there were, but unreadable."""

    place: Place
    log: Log
    scene: Scene | None = None
    read: Read | None = None
    reason: str = ""
    failed: bool = False


class Fetcher:
    """Finds and reads patches; shared by the threads of a process."""

    def __init__(self, spec: GatherSpec) -> None:
        self.spec = spec
        self.catalogue, self.reader = Catalogue(spec), Reader(spec)
        self.patience = Patience(spec.tries, spec.backoff_s)

    def fetch(self, place: Place) -> Outcome:
        """A patch of the first of the drawn scenes that can be used.

        Raises:
            RunError: if the server refuses the search.
        """
        log, reason, failed, seen = Log(place.id, place.key), "", False, set[str]()
        patch = Patch(place.lon, place.lat, self.spec.size_px * self.spec.gsd_m)
        for interval in intervals_of(self.spec.dates, place.key, place.lat):
            try:
                scenes = self.catalogue.scenes(patch, interval, place.key, log, self.patience)
            except Passing as fault:
                return Outcome(place, log, reason=f"search: {fault}", failed=True)
            fresh = [scene for scene in scenes if scene.id not in seen][: self.spec.items_per_interval]
            seen.update(scene.id for scene in fresh)
            for scene in fresh:
                try:
                    read = self.patience.persist(lambda found=scene: self._read(found, place), "read", log)  # type: ignore[misc]
                    return Outcome(place, log, scene, read)
                except (Passing, Unusable) as fault:
                    reason, failed = f"{scene.id}: {fault}", failed or isinstance(fault, Passing)
                    log.add("scene", reason)
        return Outcome(place, log, reason=reason or NO_SCENE, failed=failed)

    def _read(self, scene: Scene, place: Place) -> Read:
        """A patch; a refusal is answered with a new signature, once."""
        try:
            return self.reader.read(scene, place.lon, place.lat)
        except Refused:
            if not self.reader.signer.wanted:
                raise
            self.reader.signer.forget()
            return self.reader.read(scene, place.lon, place.lat)


@lru_cache(maxsize=1)
def _prepared(job: Job) -> tuple[GatherPlan, Fetcher]:
    return GatherPlan.of(job.spec), Fetcher(job.spec)


def gather_part(job: Job, part: Part) -> DonePart:
    """Make one shard, unless it is there and whole.

    Raises:
        RunError: if another process writes it, or too many places one after the other can't be read.
    """
    plan, fetcher = _prepared(job)
    found = finished(job.out, plan, part)
    if found is not None and sha256_of(shard_path(job.out, part.number)) == found.sha256:
        return found
    for path in (sidecar(job.out, part.number), places_path(job.out, part.number)):
        path.unlink(missing_ok=True)
    with replacing(shard_path(job.out, part.number)) as file:
        shard = _Shard(job.spec, part, TarWriter(file))
        _fill(shard, fetcher, plan.drawings[part.region].candidates(part.part))
        size, sha256 = shard.tar.close()
    done = DonePart(part, len(shard.rows), size, sha256, tuple(shard.replaced))
    _write_tables(job.out, plan, shard, done)
    return done


def _fill(shard: "_Shard", fetcher: Fetcher, candidates: Sequence[Place]) -> None:
    """Take places in their order until the shard is full: never more at once than it still needs."""
    at, in_a_row = 0, 0
    with ThreadPoolExecutor(shard.spec.threads) as pool:
        while at < len(candidates) and (missing := shard.part.count - len(shard.rows)) > 0:
            wave = candidates[at : at + min(missing, shard.spec.threads)]
            at += len(wave)
            try:
                outcomes = list(pool.map(fetcher.fetch, wave))
            except BaseException:
                fetcher.patience.stopped.set()
                raise
            for outcome in outcomes:
                shard.take(outcome)
                in_a_row = in_a_row + 1 if outcome.failed else 0
            if in_a_row >= shard.spec.max_in_a_row:
                raise RunError(
                    f"{shard.spec.stac}: {in_a_row} places one after the other could not be fetched; the last: "
                    f"{outcomes[-1].reason}. What is finished is kept: run the same command again later"
                )


class _Shard:
    """A shard as it fills."""

    def __init__(self, spec: GatherSpec, part: Part, tar: TarWriter) -> None:
        self.spec, self.part, self.tar, self.stored = spec, part, tar, spec.stored()
        self.rows: list[dict[str, Any]] = []
        self.places: list[dict[str, Any]] = []
        self.replaced: list[dict[str, Any]] = []
        self.attempts: list[dict[str, Any]] = []

    def take(self, outcome: Outcome) -> None:
        """Store a patch, or note why the place has none."""
        self.attempts += outcome.log.rows
        place, reason, failed = outcome.place, outcome.reason, outcome.failed
        if outcome.read is not None and outcome.scene is not None:
            try:
                self._store(place, outcome.scene, outcome.read)
                return
            except DataError as error:  # a patch without one measured pixel
                reason, failed = f"{outcome.scene.id}: {error}", False
        where = {"id": place.id, "lon": place.lon, "lat": place.lat}
        self.replaced.append({**where, "reason": reason, "failed": failed})

    def _store(self, place: Place, scene: Scene, read: Read) -> None:
        split = split_of(place.lon, place.lat, self.spec.seed, self.spec.val_share, self.spec.block_deg)
        number = self.part.number * self.spec.places_per_shard + len(self.rows)
        content = read_content(_stored_scene(self.spec.known.name, place, scene, read), self.stored)
        row = write_content(self.tar, key_of(number, place.id), content)
        self.rows.append({**row, "split": split, "shard": self.part.number})
        self.places.append(_place_row(self.spec, place, scene, read, split))


def _stored_scene(sensor: str, place: Place, scene: Scene, read: Read) -> StoredScene:
    day = np.asarray([[scene.taken.year, scene.taken.timetuple().tm_yday, scene.taken.hour]], np.int16)
    series = {sensor: MemorySeries(read.images[None], day, read.state)}
    return StoredScene(id=place.id, series=series, reference_date=day[0], place=(place.lon, place.lat))


def _place_row(spec: GatherSpec, place: Place, scene: Scene, read: Read, split: str) -> dict[str, Any]:
    return {
        "id": place.id,
        "dataset": spec.name,
        "split": split,
        "lon": place.lon,
        "lat": place.lat,
        "date": scene.taken.date(),
        "dates": 1,
        "item": scene.id,
        "cloud_percent": scene.cloud_percent,
        **{f"{word}_share": share for word, share in read.shares.items()},
        "baseline": read.offset.baseline,
        "offset_dn": read.offset.dn,
        "offset_told_by": read.offset.told_by,
        "crs": read.crs,
        "row": read.row,
        "col": read.col,
    }


PLACES = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "dataset", "split")),
        ("lon", pa.float64()),
        ("lat", pa.float64()),
        ("date", pa.date32()),
        ("dates", pa.int32()),
        ("item", pa.string()),
        *((name, pa.float64()) for name in ("cloud_percent", "cloudy_share", "unknown_share", "water_share")),
        ("baseline", pa.string()),
        ("offset_dn", pa.int32()),
        ("offset_told_by", pa.string()),
        ("crs", pa.string()),
        ("row", pa.int32()),
        ("col", pa.int32()),
    ]
)


def places_path(out: Path, shard: int) -> Path:
    """The table of a shard's places."""
    return shard_path(out, shard).with_suffix(".places.parquet")


def attempts_path(out: Path, shard: int) -> Path:
    """The faults that a shard's places met."""
    return shard_path(out, shard).with_suffix(".attempts.jsonl")


def _write_tables(out: Path, plan: GatherPlan, shard: _Shard, done: DonePart) -> None:
    """What is to be known of a shard; its sidecar last, which makes it finished."""
    number = shard.part.number
    attempts_path(out, number).unlink(missing_ok=True)
    if shard.attempts:
        write_rows(attempts_path(out, number), shard.attempts)
    write_atomically(places_path(out, number), parquet_bytes(pa.Table.from_pylist(shard.places, schema=PLACES)))
    about = {
        "plan": plan.digest(shard.part),
        "samples": done.samples,
        "bytes": done.bytes,
        "sha256": done.sha256,
        "replaced": shard.replaced,
    }
    schema = index_schema(shard.stored).with_metadata({"geomaestro": json.dumps(about)})
    write_atomically(sidecar(out, number), parquet_bytes(pa.Table.from_pylist(shard.rows, schema=schema)))


def finished(out: Path, plan: GatherPlan, part: Part) -> DonePart | None:
    """A shard that its sidecar tells of; None if there is none of this plan and size."""
    try:
        about = json.loads((pq.read_schema(sidecar(out, part.number)).metadata or {})[b"geomaestro"])
        size = shard_path(out, part.number).stat().st_size
        if about["plan"] != plan.digest(part) or about["bytes"] != size or not places_path(out, part.number).is_file():
            return None
        return DonePart(part, about["samples"], size, about["sha256"], tuple(about["replaced"]))
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None
