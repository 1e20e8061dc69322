"""YAML checked by pydantic, with `a.b=value` overrides; every error is reported at once, with its place and remedy."""

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from geomaestro.errors import SpecError

MAX_YAML_BYTES = 5_000_000  # assumed; a recipe is a few kilobytes, and a hostile file must not fill the memory
MAX_YAML_VALUES = 1_000_000  # assumed; nine anchors of nine anchors each stand for a billion


class Strict(BaseModel):
    """Base of all settings: frozen, and a key that is not a field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which, as in YAML 1.2, `3e-4` is a number, and `on`, `no` and `yes` are words."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that is given twice, of which YAML would silently take the last."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(None, None, f"the key {key.value!r} is given twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node


_MERGE = "tag:yaml.org,2002:merge"
_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != _BOOL]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Plain values of a YAML text.

    Raises:
        yaml.YAMLError: if it is not YAML, gives a key twice, or is nested too deeply.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _weight(node, {}) > MAX_YAML_VALUES:
            raise yaml.YAMLError(f"its anchors stand for more than {MAX_YAML_VALUES} values")
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except ValueError as error:  # measured: 2019-02-30, or a number of 5,000 digits
        raise yaml.YAMLError(f"a value cannot be read: {error}") from None


def _weight(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, where every anchor is written out."""
    if id(node) not in known:
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
        known[id(node)] = 1 + sum(_weight(part, known) for part in parts)
    return known[id(node)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        SpecError: if the file is missing, too big, not YAML, or not a mapping.
    """
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise SpecError(f"{path}: no such file{hint}")
    if path.stat().st_size > MAX_YAML_BYTES:
        raise SpecError(f"{path}: {path.stat().st_size} bytes is too big for a settings file")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise SpecError(f"{path}: expected `key: value` lines, got {type(values).__name__}")
    return values


def merge(base: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `new` over `base`, mapping by mapping; where `kind` changes, the old kind's settings are dropped."""
    out = dict(base)
    for key, value in new.items():
        old = out.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and _kind(value, old) == _kind(old, old):
            out[key] = merge(old, value)
        else:
            out[key] = value
    return out


def _kind(values: Mapping[str, Any], otherwise: Mapping[str, Any]) -> Any:
    """What `kind` says, which may also be the name of a sensor or target: that is no kind."""
    kind = values.get("kind", otherwise.get("kind"))
    return None if isinstance(kind, Mapping) else kind


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=value` overrides; values are read as YAML, so `3e-4`, `true` and `[1, 2]` mean what they look like.

    Raises:
        SpecError: if an override has no `=`, or a value that is not YAML.
    """
    out = dict(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise SpecError(f"override {override!r} is not key=value, for instance model.size=small")
        try:
            nested: Any = parse_yaml(text)
        except yaml.YAMLError as error:
            raise SpecError(f"override {override!r}: the value is not valid YAML: {error}") from None
        for part in reversed(key.split(".")):
            nested = {part: nested}
        out = merge(out, nested)
    return out


def check(cls: type[M], values: Mapping[str, Any], source: str) -> M:
    """Make a `cls` from plain values.

    Raises:
        SpecError: listing every wrong key and value of `source` at once.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        lines = [f"  {_describe(cls, item)}" for item in error.errors()]
        count = f"{len(lines)} error{'s' if len(lines) > 1 else ''}"
        raise SpecError("\n".join([f"{source}: {count}", *lines])) from None


def load(cls: type[M], path: Path, overrides: Sequence[str] = ()) -> M:
    """Read, override and check a settings file."""
    return check(cls, apply_overrides(read_yaml(path), overrides), str(path))


def _describe(cls: type[BaseModel], item: Any) -> str:
    place = tuple(item["loc"])
    key = ".".join(str(part) for part in place)
    if item["type"] == "missing":
        return f"{key}: required, but not given"
    if item["type"] != "extra_forbidden":
        text = item["msg"].removeprefix("Value error, ")
        return f"{key}: {text}" + ("" if item["type"] == "value_error" else f" (got {item['input']!r})")
    known = _known_keys(cls, place[:-1])
    near = difflib.get_close_matches(str(place[-1]), known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}" if known else ""
    return f"{key}: unknown key{hint}"


def _known_keys(kind: Any, place: Sequence[Any]) -> list[str]:
    """Field names that are legal at `place`, walking through unions (by their tag), dictionaries and lists."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not place:
            return list(kind.model_fields)
        field = kind.model_fields.get(str(place[0]))
        return _known_keys(field.annotation, place[1:]) if field else []
    arguments, origin = typing.get_args(kind), typing.get_origin(kind)
    if origin is Annotated:
        return _known_keys(arguments[0], place)
    if origin in (typing.Union, types.UnionType):
        return _known_in_union(arguments, place)
    if origin in (dict, list, tuple, Mapping) and place:
        return _known_keys(arguments[-1] if origin in (dict, Mapping) else arguments[0], place[1:])
    return []


def _known_in_union(kinds: Sequence[Any], place: Sequence[Any]) -> list[str]:
    models = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
    for model in models:
        tag = model.model_fields.get("kind")
        if place and tag is not None and place[0] in typing.get_args(tag.annotation):
            return _known_keys(model, place[1:])
    found = (_known_keys(kind, place) for kind in kinds)
    return next((keys for keys in found if keys), [])
