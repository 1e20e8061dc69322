"""The fast store, written: a dataset of any kind in plain tars with one index; see `shards.py`.

Every date and the whole of every tile is stored, in the numbers of the original files: what is scaled, cropped, chosen
and flipped is decided in reading. Each shard is a work item (`jobs.py`) that follows from the dataset alone.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from geomaestro.data.packed.manifest import Manifest, Shard, StoredFile, sha256_of, shard_path
from geomaestro.data.packing.indexing import index_schema, key_of, read_content, write_content
from geomaestro.data.packing.jobs import Jobs, run
from geomaestro.data.packing.plan import PackOptions, Plan, Source, claim, open_listing, packed_spec, sidecar
from geomaestro.data.packing.tars import TarWriter
from geomaestro.data.spec import PackedSpec
from geomaestro.data.specs import DatasetSpec
from geomaestro.errors import DataError, GeomaestroError, RunError
from geomaestro.runs import write_atomically, write_rows

__all__ = ["Jobs", "PackOptions", "Packed", "pack"]

Report = Callable[[int, int, str], None]
"""Called with the samples done, the samples in all, and a note."""


@dataclass(frozen=True)
class Packed:
    """What came of it. `unfinished` are shards that other shares have to make."""

    out: Path
    samples: int
    quarantined: int
    unfinished: int


def pack(
    spec: DatasetSpec,
    root: Path,
    out: Path,
    splits: Sequence[str],
    *,
    jobs: Jobs | None = None,
    options: PackOptions | None = None,
    report: Report | None = None,
) -> Packed:
    """Pack a dataset, or a share of it, into `out`; goes on where an earlier call was stopped.

    Once all shards are there, the index and the manifest are written; until then the store can't be opened.

    Raises:
        DataError: if `out` holds something else, the disk is too small, or too many samples are unreadable.
        SpecError: if spec, samples, splits or options are others than when the store was begun.
    """
    jobs, options = jobs or Jobs(), options or PackOptions()
    source = Source(spec, root, tuple(splits))
    stored = packed_spec(spec)
    plan = claim(out, source, stored, options)
    (out / "manifest.json").unlink(missing_ok=True)  # no store is complete while one of its shards is made
    write_atomically(out / "dataset.yaml", dataset_yaml(stored))
    mine = jobs.share(range(plan.shards))
    total, done = sum(plan.count(shard) for shard in mine), 0
    bad: list[dict[str, Any]] = []
    for result in run(partial(pack_shard, source, stored, out, plan), mine, jobs):
        done += plan.count(result.shard)
        bad += result.quarantined
        if report is not None:
            report(done, total, f"{len(bad)} unreadable" if bad else "")
        _refuse_many(out, bad, plan, options)
    return _merge(out, stored, plan, options)


@dataclass(frozen=True)
class Done:
    """A finished shard, and its samples that could not be read."""

    shard: int
    bytes: int
    sha256: str
    quarantined: tuple[dict[str, Any], ...]


def pack_shard(source: Source, stored: PackedSpec, out: Path, plan: Plan, shard: int) -> Done:
    """Make one shard, unless it is there and whole; one with unreadable samples is tried again."""
    found = _finished(out, plan, shard)
    if found is not None and not found.quarantined and sha256_of(shard_path(out, shard)) == found.sha256:
        return found
    listing, rows, bad = open_listing(source), [], []
    path = shard_path(out, shard)
    with replacing(path) as file:
        tar = TarWriter(file)
        for number in range(shard * plan.per_shard, shard * plan.per_shard + plan.count(shard)):
            group, index = listing.place[number]
            name, split = listing.names[number], listing.of[number]
            try:
                with listing.scenes[group].scene(index) as scene:
                    content = read_content(scene, stored)
            except (GeomaestroError, OSError) as error:
                bad.append({"id": name, "split": split, "reason": str(error)})
                continue
            rows.append({**write_content(tar, key_of(number, name), content), "split": split, "shard": shard})
        size, sha256 = tar.close()
    about = {"plan": plan.digest(), "bytes": size, "sha256": sha256, "quarantined": bad}
    table = pa.Table.from_pylist(rows, schema=index_schema(stored).with_metadata({"geomaestro": json.dumps(about)}))
    write_atomically(sidecar(out, shard), parquet_bytes(table))
    return Done(shard, size, sha256, tuple(bad))


def dataset_yaml(stored: PackedSpec) -> bytes:
    """The spec of a store as its `dataset.yaml`."""
    values = {"kind": "packed", **stored.model_dump(mode="json", exclude_defaults=True)}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as the content of a Parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def _finished(out: Path, plan: Plan, shard: int) -> Done | None:
    """A shard that its sidecar, written after it, tells of; None if there is none of this plan and size."""
    try:
        metadata = pq.read_schema(sidecar(out, shard)).metadata or {}
        about = json.loads(metadata[b"geomaestro"])
        size = shard_path(out, shard).stat().st_size
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None
    if about["plan"] != plan.digest() or about["bytes"] != size:
        return None
    return Done(shard, size, about["sha256"], tuple(about["quarantined"]))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is whole and on disk.

    Raises:
        RunError: if it can't be written, or another process is writing it.
    """
    import fcntl

    partial_path = path.with_name(f".{path.name}.part")
    try:
        with partial_path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial_path, path)
    except BlockingIOError:
        raise RunError(f"{path}: another process is writing it; give each its own --shard i/n") from None
    except OSError as error:
        raise RunError(f"{path}: could not be written ({error.strerror}); free some space, then run again") from None


def _refuse_many(out: Path, bad: Sequence[dict[str, Any]], plan: Plan, options: PackOptions) -> None:
    if len(bad) > options.max_bad_share * plan.samples:
        write_rows(out / "quarantine.jsonl", list(bad))
        reasons = "; ".join(f"{row['id']}: {row['reason']}" for row in bad[:3])
        raise DataError(
            f"{out}: {len(bad)} of {plan.samples} samples can't be read, more than the share of "
            f"{options.max_bad_share:g} that may be left out (max_bad_share): {reasons}; all are in quarantine.jsonl. "
            "Mend the files and run again: what is packed is kept"
        )


def _merge(out: Path, stored: PackedSpec, plan: Plan, options: PackOptions) -> Packed:
    """Write index and manifest, if all shards are there."""
    found = [_finished(out, plan, shard) for shard in range(plan.shards)]
    done = [shard for shard in found if shard is not None]
    bad = [row for shard in done for row in shard.quarantined]
    samples = sum(plan.count(shard.shard) for shard in done) - len(bad)
    if len(done) < plan.shards:
        return Packed(out, samples, len(bad), plan.shards - len(done))
    _refuse_many(out, bad, plan, options)
    tables = [pq.read_table(sidecar(out, shard)).replace_schema_metadata(None) for shard in range(plan.shards)]
    (out / "quarantine.jsonl").unlink(missing_ok=True)
    if bad:
        write_rows(out / "quarantine.jsonl", bad)
    shards = [Finished(x.bytes, x.sha256, len(table)) for x, table in zip(done, tables, strict=True)]
    write_manifest(out, stored, pa.concat_tables(tables), plan=plan.spec, shards=shards, quarantined=len(bad))
    return Packed(out, samples, len(bad), 0)


class Finished(NamedTuple):
    """A shard that is whole: its bytes, their sha256, its samples."""

    bytes: int
    sha256: str
    samples: int


def write_manifest(
    out: Path, stored: PackedSpec, index: pa.Table, *, plan: str, shards: Sequence[Finished], quarantined: int
) -> None:
    """Write the index, and the manifest last: the store can be read from then on. `plan` is the sha256 of what it was
    made from; `dataset.yaml` is there.
    """
    contents = {"dataset": dataset_yaml(stored), "index": parquet_bytes(index)}
    write_atomically(out / "index.parquet", contents["index"])
    hashes = {
        name: StoredFile(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    }
    manifest = Manifest(
        format=1,
        geomaestro=version("geomaestro"),
        spec=plan,
        samples=len(index),
        quarantined=quarantined,
        bands={name: entry.bands for name, entry in stored.sensors.items()},
        targets=tuple(stored.targets),
        shards=tuple(Shard(bytes=x.bytes, sha256=x.sha256, samples=x.samples) for x in shards),
        **hashes,
    )
    write_atomically(out / "manifest.json", (manifest.model_dump_json(indent=1) + "\n").encode())
