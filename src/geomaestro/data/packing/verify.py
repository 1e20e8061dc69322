"""Check a packed dataset against its own hashes and headers; every damage is told, none ends the search."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geomaestro.data.packed.manifest import Manifest, read_manifest, sha256_of, shard_path
from geomaestro.data.packing.tars import Member, read_members
from geomaestro.errors import DataError

NAMED = 3  # damaged things of a kind that are named one by one
AGAIN = "copy the file again, or remove it and run `geomaestro data pack` again"


def verify(out: Path, *, workers: int = 2, report: Callable[[int, int], None] | None = None) -> list[str]:
    """All that is wrong with a packed dataset, one line for each; nothing if it is whole.

    `report(done, total)` is called after each shard.
    """
    try:
        manifest = read_manifest(out)
    except DataError as error:
        return [str(error)]
    found = [*_small_files(out, manifest), *_unknown_files(out, manifest)]
    index, problems = _index(out, manifest)
    found += problems
    total = len(manifest.shards)
    with ThreadPoolExecutor(workers) as pool:  # hashing leaves the interpreter to other threads
        for shard, problems in enumerate(pool.map(partial(_shard, out, manifest, index), range(total))):
            found += problems
            if report is not None:
                report(shard + 1, total)
    return found


def _small_files(out: Path, manifest: Manifest) -> Iterator[str]:
    for name, told in (("dataset.yaml", manifest.dataset), ("index.parquet", manifest.index)):
        path = out / name
        if not path.is_file():
            yield f"{path}: missing; {AGAIN}"
        elif path.stat().st_size != told.bytes or sha256_of(path) != told.sha256:
            yield f"{path}: edited or damaged: sha256 differs from the manifest's; {AGAIN}"


def _unknown_files(out: Path, manifest: Manifest) -> Iterator[str]:
    known = {shard_path(out, number).name for number in range(len(manifest.shards))}
    for path in sorted((out / "shards").glob("*.tar")):
        if path.name not in known:
            yield f"{path}: not in the manifest; remove it"


def _index(out: Path, manifest: Manifest) -> tuple[pa.Table | None, list[str]]:
    path = out / "index.parquet"
    if not path.is_file():
        return None, []
    try:
        table = pq.ParquetFile(path).read()
        rows = table.column("shard").to_numpy()
    except (pa.ArrowException, KeyError, OSError) as error:
        return None, [f"{path}: unreadable Parquet ({error})"]
    found = []
    if len(table) != manifest.samples:
        found.append(f"{path}: has {len(table)} rows, the manifest tells of {manifest.samples} samples")
    counts = [int((rows == shard).sum()) for shard in range(len(manifest.shards))]
    wrong = [k for k, shard in enumerate(manifest.shards) if counts[k] != shard.samples]
    if wrong:
        found.append(f"{path}: shards {_some(wrong)} have other numbers of samples than the manifest tells")
    return table, found


def _shard(out: Path, manifest: Manifest, index: pa.Table | None, shard: int) -> list[str]:
    path, told = shard_path(out, shard), manifest.shards[shard]
    if not path.is_file():
        return [f"{path}: missing ({told.samples} samples); {AGAIN}"]
    size = path.stat().st_size
    if size != told.bytes:
        what = "truncated" if size < told.bytes else "too long"
        return [f"{path}: {what}: {size} bytes, the manifest tells of {told.bytes}; {AGAIN}"]
    rows = [] if index is None else index.filter(pc.equal(index.column("shard"), shard)).to_pylist()
    if sha256_of(path) != told.sha256:
        ids = [row["id"] for row in rows if not _whole(path, row)]
        where = f"samples {_some(ids)}" if ids else "between samples, or the index is wrong"
        return [f"{path}: damaged: sha256 differs from the manifest's ({where}); {AGAIN}"]
    if index is None:
        return []
    try:
        members = dict(read_members(path))
    except DataError as error:
        return [str(error)]
    return _compare(out / "index.parquet", path, rows, members)


def _whole(path: Path, row: dict[str, Any]) -> bool:
    return sha256_of(path, row["offset"], row["bytes"]) == row["sha256"]


def _compare(index: Path, path: Path, rows: list[dict[str, Any]], members: dict[str, Member]) -> list[str]:
    """Where the index tells other than the headers of a shard that is whole."""
    told = {name: (row["id"], member) for row in rows for name, member in told_members(row)}
    found = [
        f"{index}: sample {sample!r}: {name} is {_say(member)}, but {path.name} has {_say(members.get(name))}"
        for name, (sample, member) in told.items()
        if members.get(name) != member
    ]
    found += [
        f"{index}: sample {row['id']!r}: its sha256 is not that of its bytes in {path.name}"
        for row in rows
        if not _whole(path, row)
    ]
    if missing := sorted(set(members) - set(told)):
        found.append(f"{index}: does not tell of {_some(missing)} in {path.name}")
    return found


def told_members(row: dict[str, Any]) -> Iterator[tuple[str, Member]]:
    """Name, and what the index tells, of each array of a sample."""
    for group in ("sensors", "maps"):
        for name, told in (row.get(group) or {}).items():
            if told is not None and told["offset"] is not None:
                shape = tuple(told["shape"])
                yield f"{row['key']}.{name}.npy", Member(told["offset"], told["dtype"], shape)
                if told.get("days_offset") is not None:
                    yield f"{row['key']}.{name}.days.npy", Member(told["days_offset"], "<i2", (shape[0], 3))
                if told.get("state_offset") is not None:
                    states = Member(told["state_offset"], "|u1", (shape[0], *shape[2:]))
                    yield f"{row['key']}.{name}.state.npy", states


def _say(member: Member | None) -> str:
    return "nothing of that name" if member is None else f"{member.dtype} {member.shape} at byte {member.offset}"


def _some(values: list[Any]) -> str:
    more = len(values) - NAMED
    return ", ".join(str(value) for value in values[:NAMED]) + (f" and {more} more" if more > 0 else "")
