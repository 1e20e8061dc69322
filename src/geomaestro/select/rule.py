"""What `--by` says: a method, or terms with their weights."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from geomaestro.errors import SpecError

METHODS = ("random", "one-region", "balanced")
SPECIAL = ("embedding", "redundancy", "places")  # terms that are not the name of a column
HOW = "give random, one-region:Europe, balanced:continent, or terms such as spectral_entropy=1,continent=0.5"


@dataclass(frozen=True)
class Rule:
    """A method; the column and the value that it needs; or the terms of a mix and their weights."""

    method: str
    column: str | None = None
    value: str | None = None
    weights: tuple[tuple[str, float], ...] = ()


def read_rule(text: str) -> Rule:
    """Read `--by`.

    Raises:
        SpecError: if it is no method, or a weight is no number above 0.
    """
    method, colon, rest = (part.strip() for part in text.strip().partition(":"))
    if method == "random" and not rest:
        return Rule("random")
    if method == "balanced" and rest:
        return Rule("balanced", column=rest)
    if method == "one-region" and rest:
        column, equals, value = (part.strip() for part in rest.partition("="))
        return Rule("one-region", column=column, value=value) if equals else Rule("one-region", value=column)
    if colon or method in METHODS or not method:
        near = difflib.get_close_matches(method, METHODS, 1) if method not in METHODS else []
        raise SpecError(f"--by {text!r}: " + (f"did you mean {near[0]!r}? " if near else "") + HOW)
    weights = [_weight(text, part) for part in text.split(",")]
    names = [name for name, _ in weights]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SpecError(f"--by {text!r}: {twice[0]!r} is named twice")
    return Rule("mix", weights=tuple(weights))


def _weight(text: str, part: str) -> tuple[str, float]:
    name, equals, number = (each.strip() for each in part.partition("="))
    if not name:
        raise SpecError(f"--by {text!r}: a term has no name; {HOW}")
    try:
        weight = float(number) if equals else 1.0
    except ValueError:
        raise SpecError(f"--by {text!r}: the weight of {name!r} is {number!r}, not a number") from None
    if not (weight > 0 and math.isfinite(weight)):
        raise SpecError(
            f"--by {text!r}: the weight of {name!r} is {number}; weights lie above 0, as a penalty would void the "
            "guarantee of the greedy choice; leave out a term that is not to count"
        )
    return name, weight


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known."""
    near = difflib.get_close_matches(name, tuple(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
