"""Load dataset specs by name or path."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from geomaestro.config import apply_overrides, check, merge, read_yaml
from geomaestro.data.files.filespec import FilesSpec
from geomaestro.data.spec import ArraySpec, PackedSpec
from geomaestro.errors import SpecError

DatasetSpec = FilesSpec | ArraySpec | PackedSpec
KINDS: Mapping[str, type[FilesSpec] | type[ArraySpec] | type[PackedSpec]] = {
    "files": FilesSpec,
    "arrays": ArraySpec,
    "packed": PackedSpec,
}


def load_spec(name_or_path: str | Path, overrides: Sequence[str] = ()) -> DatasetSpec:
    """The spec of a built-in dataset by name, of a YAML file or a packed store; `extends: NAME` starts from another.

    Raises:
        SpecError: listing every wrong key and value.
    """
    values, source = _read(str(name_or_path))
    values = apply_overrides(values, overrides)
    kind = str(values.get("kind"))
    if kind not in KINDS:
        raise SpecError(f"{source}: kind {kind!r} is not one of {', '.join(KINDS)}")
    return check(KINDS[kind], values, source)


def spec_path(name_or_path: str | Path) -> Path | None:
    """The YAML file that a user's spec lies in; None for a built-in one."""
    path = Path(name_or_path)
    if str(name_or_path) in builtin_specs():
        return None
    return path / "dataset.yaml" if path.is_dir() else path


def _read(name: str, depth: int = 0) -> tuple[dict[str, Any], str]:
    path = builtin_specs().get(name) or spec_path(name)
    assert path is not None, "a name is built in or a path"
    if not path.suffix:
        raise SpecError(
            f"no built-in dataset {name!r} ({', '.join(builtin_specs())}), and no path to a spec.yaml either"
        )
    values = read_yaml(path)
    base = values.pop("extends", None)
    if base is None:
        return values, str(path)
    if depth > 4:
        raise SpecError(f"{path}: `extends` goes in a circle")
    parent, _ = _read(str(base), depth + 1)
    if "targets" in values:
        parent.pop("targets", None)  # labels of another dataset are never meant
    merged = merge(parent, values)
    if isinstance(merged.get("sensors"), dict):  # a sensor of null is left out
        merged["sensors"] = {name: entry for name, entry in merged["sensors"].items() if entry is not None}
    return merged, str(path)


@cache
def builtin_specs() -> dict[str, Path]:
    """Built-in specs by name."""
    folder = Path(str(resources.files("geomaestro.data.datasets")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
