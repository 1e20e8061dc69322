"""What a packed dataset is to hold: decided, and written down, before anything is packed."""

import hashlib
import json
import math
import re
import shutil
import uuid
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from geomaestro.config import Strict, check
from geomaestro.data.files.filespec import FilesSpec
from geomaestro.data.opening import open_scenes
from geomaestro.data.packed.manifest import read_index, read_manifest, shard_path
from geomaestro.data.packing.indexing import read_content
from geomaestro.data.spec import ArraySpec, Common, PackedSpec, SensorEntry, Target
from geomaestro.data.specs import DatasetSpec
from geomaestro.errors import DataError, GeomaestroError, RunError, SpecError
from geomaestro.runs import write_atomically

PROBES = 8  # assumed; samples whose sizes tell how many fill a shard
NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")  # with key and ending at most the 100 letters of a name in a tar


WORDS = {"about", "source", "licence", "size_gb", "download"}  # of a spec; they may change while a store is packed


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """About how many bytes a shard has, and the share of unreadable samples above which packing stops."""

    shard_bytes: int = 256 << 20
    max_bad_share: float = 0.01

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise SpecError(f"shards of {self.shard_bytes} bytes: give 1 or more")
        if not 0 <= self.max_bad_share <= 1:
            raise SpecError(f"max_bad_share {self.max_bad_share} is no share between 0 and 1")


@dataclass(frozen=True)
class Source:
    """What is packed. `token` is one call's own, so that nothing that an earlier call looked up is trusted."""

    spec: DatasetSpec = field(compare=False)
    root: Path
    splits: tuple[str, ...]
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


class Listing:
    """The samples of all splits in one list; `splits` is None where the dataset has none."""

    def __init__(self, source: Source) -> None:
        named = has_splits(source.spec, source.root)
        self.splits = source.splits if named else None
        groups = [(split,) for split in source.splits] if named else [source.splits]
        self.scenes = [open_scenes(source.spec, source.root, group) for group in groups]
        self.names = [name for scenes in self.scenes for name in scenes.ids()]
        self.of = [
            split for split, scenes in zip(self.splits or (None,), self.scenes, strict=True) for _ in scenes.ids()
        ]
        self.place = [(n, i) for n, scenes in enumerate(self.scenes) for i in range(len(scenes))]

    def digest(self) -> str:
        """sha256 of names and splits, in order."""
        text = "\n".join(f"{split}\t{name}" for name, split in zip(self.names, self.of, strict=True))
        return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=1)
def open_listing(source: Source) -> Listing:
    return Listing(source)


class Plan(Strict):
    """What a store is to hold, written before anything else; shard k has samples k * per_shard and on."""

    format: int = 1
    spec: str
    listing: str
    samples: int
    splits: tuple[str, ...] | None
    shard_bytes: int
    per_shard: int

    @property
    def shards(self) -> int:
        """Number of shards."""
        return math.ceil(self.samples / self.per_shard)

    def count(self, shard: int) -> int:
        """Samples of a shard."""
        return min(self.per_shard, self.samples - shard * self.per_shard)

    def digest(self) -> str:
        """sha256 of the whole."""
        return _digest(self.model_dump(mode="json"))


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def has_splits(spec: DatasetSpec, root: Path) -> bool:
    """Whether a dataset's samples belong to splits; where not, each split means all of them."""
    if isinstance(spec, FilesSpec):
        how = spec.samples
        return how.one_list_per_split or any(x is not None for x in (how.split, how.blocks, how.drawn))
    if isinstance(spec, ArraySpec):
        return spec.split is not None
    folder = root / spec.directory
    column = read_index(folder, read_manifest(folder), ["split"])["split"]
    return bool(column.null_count < len(column))


def packed_spec(spec: DatasetSpec) -> PackedSpec:
    """The spec of the store that a dataset is packed into.

    Raises:
        SpecError: if a sensor or target has a name that can't be part of a file's name.
    """
    names = [*spec.sensors, *spec.targets]
    for name in names:
        if NAME.fullmatch(name) is None or names.count(name) > 1:
            raise SpecError(
                f"{spec.name}: {name!r} names members of tars: use each name once, of at most 40 letters, digits, "
                "_ and -; rename the sensor or target"
            )
    common = {name: getattr(spec, name) for name in Common.model_fields if name not in ("directory", "download")}
    for group in ("sensors", "left_out"):
        entries = getattr(spec, group).items()
        common[group] = {name: {key: getattr(x, key) for key in SensorEntry.model_fields} for name, x in entries}
    common["targets"] = {
        name: {key: getattr(target, key) for key in Target.model_fields} for name, target in spec.targets.items()
    }
    return check(PackedSpec, {"kind": "packed", **common, "size_gb": None}, spec.name)


def claim(out: Path, source: Source, stored: PackedSpec, options: PackOptions) -> Plan:
    """The plan of a new store, or of the one that is there."""
    path = out / "plan.json"
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; choose another folder")
    if out.is_dir() and not path.is_file() and (held := sorted(x.name for x in out.iterdir())):
        raise DataError(f"{out}: expected a new or empty folder, but it holds {held[0]!r}; choose another one")
    listing = open_listing(source)
    values: dict[str, Any] = {
        "spec": _digest(source.spec.model_dump(mode="json", exclude=WORDS)),
        "listing": listing.digest(),
        "samples": len(listing.names),
        "splits": listing.splits,
        "shard_bytes": options.shard_bytes,
    }
    if path.is_file():
        plan = _same_plan(path, values)
        size = plan.shard_bytes / plan.per_shard
    else:
        size = _sample_bytes(listing, stored)
        plan = Plan(**values, per_shard=max(1, int(options.shard_bytes // max(size, 1))))
    _check_room(out, size, plan)
    try:
        (out / "shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out}: can't be made ({error.strerror}); choose another folder") from None
    write_atomically(path, (plan.model_dump_json(indent=1) + "\n").encode())
    return plan


def _same_plan(path: Path, values: dict[str, Any]) -> Plan:
    try:
        plan = Plan.model_validate_json(path.read_bytes())
    except ValidationError:
        raise DataError(f"{path}: was edited or damaged; remove {path.parent} and pack again") from None
    changed = [key for key, value in values.items() if getattr(plan, key) != value]
    if changed:
        said = {"spec": "the spec", "listing": "the list of samples"}
        what = ", ".join(said.get(key, f"{key} ({getattr(plan, key)} then, {values[key]} now)") for key in changed)
        raise SpecError(f"{path.parent}: was begun with other settings: {what}; pack into another folder")
    return plan


def _sample_bytes(listing: Listing, stored: PackedSpec) -> float:
    """Mean size of a few samples."""
    count = len(listing.names)
    sizes, problem = [], None
    for number in dict.fromkeys(count * k // PROBES for k in range(PROBES)):
        group, index = listing.place[number]
        try:
            with listing.scenes[group].scene(index) as scene:
                content = read_content(scene, stored)
                sizes.append(content.nbytes + 1024 * (3 * len(content.sensors) + len(content.maps)))
        except (GeomaestroError, OSError) as error:
            problem = error
    if not sizes:
        raise DataError(f"none of {min(count, PROBES)} samples can be read; the last one: {problem}")
    return sum(sizes) / len(sizes)


def _check_room(out: Path, size: float, plan: Plan) -> None:
    missing = sum(plan.count(shard) for shard in range(plan.shards) if not sidecar(out, shard).is_file())
    folder = next(x for x in (out, *out.absolute().parents) if x.is_dir())
    need, free = missing * size * 1.02, shutil.disk_usage(folder).free
    if need > free:
        raise DataError(
            f"{out}: {missing} samples take about {need / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB left; "
            "free some space or choose another folder"
        )


def sidecar(out: Path, shard: int) -> Path:
    """The rows of a shard, and what it is; written after it."""
    return shard_path(out, shard).with_suffix(".parquet")
