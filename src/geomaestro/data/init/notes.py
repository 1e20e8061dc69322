"""Values with comments, and YAML of them: what was seen, measured, assumed, and what is left to decide."""

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

WIDTH = 118
INLINE = 46  # assumed; longer comments stand on lines of their own, above


@dataclass(frozen=True)
class Note:
    """A value and what is to be said of it."""

    value: Any
    comment: str


def plain_values(values: Any) -> Any:
    """The values without comments, as YAML gives them back."""
    if isinstance(values, Note):
        return plain_values(values.value)
    if isinstance(values, Mapping):
        return {key: plain_values(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain_values(value) for value in values]
    return values


def to_yaml(values: Mapping[Any, Any], indent: int = 0) -> str:
    """Block YAML; what fits on a line and has no comments inside is written there."""
    lines: list[str] = []
    for key, value in values.items():
        lines += _entry(_scalar(key), value, indent)
    return "\n".join(lines) + "\n"


def comment_lines(text: str, indent: int = 0) -> list[str]:
    """A comment, wrapped."""
    out = []
    for paragraph in text.split("\n"):
        out += textwrap.wrap(clean(paragraph), WIDTH - indent - 2, break_long_words=False) or [""]
    return [f"{' ' * indent}# {line}".rstrip() for line in out]


def clean(text: str) -> str:
    """A text from a file without what would end a comment or confuse a terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text)


def _entry(key: str, value: Any, indent: int) -> list[str]:
    pad, comment = " " * indent, ""
    while isinstance(value, Note):
        comment, value = "; ".join(part for part in (comment, value.comment) if part), value.value
    flow = None if _has_notes(value) else _flow(value)
    if (
        (flow is not None and len(pad) + len(key) + len(flow) + 2 <= WIDTH)
        or not isinstance(value, Mapping)
        or not value
    ):
        body = _wrapped(pad, key, value, flow if flow is not None else _flow(plain_values(value)))
    else:
        body = [f"{pad}{key}:", *to_yaml(value, indent + 2).rstrip("\n").split("\n")]
    if not comment:
        return body
    if len(body) == 1 and "\n" not in comment and len(comment) <= INLINE and len(body[0]) + len(comment) + 5 <= WIDTH:
        return [f"{body[0]}   # {clean(comment)}"]
    return [*comment_lines(comment, indent), *body]


def _wrapped(pad: str, key: str, value: Any, flow: str) -> list[str]:
    line = f"{pad}{key}: {flow}"
    if len(line) <= WIDTH or not isinstance(value, list | tuple):
        return [line]
    inner = pad + "  "
    pieces, current = [], inner
    for number, item in enumerate(value):
        text = _flow(plain_values(item)) + ("," if number + 1 < len(value) else "")
        if len(current) + len(text) + 1 > WIDTH and current.strip():
            pieces.append(current)
            current = inner
        current += ("" if current == inner else " ") + text
    return [f"{pad}{key}: [", *pieces, current, f"{pad}]"]


def _has_notes(value: Any) -> bool:
    if isinstance(value, Note):
        return True
    if isinstance(value, Mapping):
        return any(_has_notes(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_has_notes(item) for item in value)


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """One value as YAML writes it inside brackets, quoted where it has to be."""
    if isinstance(value, float) and value == int(value) and abs(value) < 1e9:
        return str(int(value))
    text = yaml.safe_dump([value], default_flow_style=True, width=10**9, allow_unicode=True).strip()
    return text[1:-1].strip()
