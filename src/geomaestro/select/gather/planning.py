"""What a set is to consist of: its parts, decided and written down before anything is fetched."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from geomaestro.config import Strict
from geomaestro.data.packing.plan import sidecar
from geomaestro.errors import DataError, RunError, SpecError
from geomaestro.runs import write_atomically
from geomaestro.select.gather.drawing import Drawing
from geomaestro.select.gather.spec import GatherSpec

PLAN = "gather.json"
ROOM = 1.05  # assumed; headers and the index


@dataclass(frozen=True)
class Part:
    """One shard: `count` places of part `part` of a region. `number` is that of the shard."""

    number: int
    region: int
    part: int
    count: int


@dataclass(frozen=True)
class GatherPlan:
    """The parts of a set. A larger set begins with the parts of a smaller one, the last of each region apart."""

    spec: GatherSpec
    drawings: tuple[Drawing, ...]
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, spec: GatherSpec) -> "GatherPlan":
        """The plan of a recipe.

        Raises:
            SpecError: if a region is unknown, or holds too few places.
        """
        drawings, size = tuple(spec.drawings()), spec.places_per_shard
        each, more = divmod(spec.count, len(drawings))
        counts = [each + (number < more) for number in range(len(drawings))]
        if min(counts) == 0:
            raise SpecError(f"count {spec.count}: fewer places than the {len(drawings)} regions; ask for more")
        for drawing, count in zip(drawings, counts, strict=True):
            drawing.check(count)
        found = sorted((k, region) for region, count in enumerate(counts) for k in range(ceil(count / size)))
        parts = tuple(
            Part(number, region, k, min(size, counts[region] - k * size)) for number, (k, region) in enumerate(found)
        )
        return cls(spec, drawings, parts)

    def digest(self, part: Part) -> str:
        """sha256 of all that a shard follows from."""
        content = {key: value for key, value in self.spec.content().items() if key not in ("count", "scaling", "name")}
        return _digest([content, part.number, self.drawings[part.region].region.key, part.part, part.count])

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample in the store, all of its pixels measured, in numbers of 16 bits."""
        return 2 * len(self.spec.band_names) * self.spec.size_px**2 + 3 * 1024


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class Written(Strict):
    """The plan as written: the recipe's content, and what it makes of regions (files of polygons may change)."""

    format: int = 1
    content: dict[str, Any]
    regions: tuple[str, ...]


def claim(out: Path, plan: GatherPlan) -> None:
    """Make a new store, or take up one of the same recipe; it may be of fewer places. A recipe that nothing was
    gathered by yet gives way: its catalogue may have been the wrong one.

    Raises:
        DataError: if the folder holds something else, or the disk is too small.
        SpecError: if the store was begun with another recipe, naming what differs.
    """
    path = out / PLAN
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; choose another folder")
    if out.is_dir() and not path.is_file() and (held := sorted(x.name for x in out.iterdir())):
        raise DataError(f"{out}: expected a new or empty folder, but it holds {held[0]!r}; choose another one")
    now = Written(content=plan.spec.content(), regions=tuple(_digest(x.region.key) for x in plan.drawings))
    if path.is_file() and _is_begun(out):
        _check_same(path, now)
    _check_room(out, plan)
    try:
        (out / "shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out}: can't be made ({error.strerror}); choose another folder") from None
    write_atomically(path, (now.model_dump_json(indent=1) + "\n").encode())


def _is_begun(out: Path) -> bool:
    """Whether there is a shard, or part of one."""
    return (out / "shards").is_dir() and any((out / "shards").iterdir())


def _check_same(path: Path, now: Written) -> None:
    try:
        then = Written.model_validate_json(path.read_bytes())
    except ValidationError:
        raise DataError(f"{path}: was edited or damaged; remove {path.parent} and gather again") from None
    free = ("scaling", "name")
    told = [
        f"{key} ({then.content.get(key)!r} then, {value!r} now)"
        for key, value in now.content.items()
        if then.content.get(key) != value and key not in ("count", *free)
    ]
    if not told and then.regions != now.regions:
        told = ["the polygons of its region"]
    if not told and then.content["count"] > now.content["count"]:
        told = [f"count ({then.content['count']} then, {now.content['count']} now; it can only grow)"]
    if told:
        raise SpecError(f"{path.parent}: was begun with another recipe: {', '.join(told)}; gather into another folder")


def _check_room(out: Path, plan: GatherPlan) -> None:
    missing = sum(part.count for part in plan.parts if not sidecar(out, part.number).is_file())
    folder = next(x for x in (out, *out.absolute().parents) if x.is_dir())
    need, free = missing * plan.sample_bytes * ROOM, shutil.disk_usage(folder).free
    if need > free:
        raise DataError(
            f"{out}: {missing} samples take about {need / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB left; "
            "free some space or choose another folder"
        )
