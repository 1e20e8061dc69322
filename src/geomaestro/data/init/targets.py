"""Targets: classes of folders, columns, and maps of labels."""

import math
from collections.abc import Sequence
from typing import Any

from geomaestro.data.files.tables import Row
from geomaestro.data.init.measure import Reader, label_values
from geomaestro.data.init.notes import Note
from geomaestro.data.init.rows import Listing
from geomaestro.data.init.sizes import Plan
from geomaestro.data.init.streams import Leave, Stream
from geomaestro.data.init.words import LABELS, has, plain

MOST_CLASSES = 120  # assumed; more values are no classes
WORLDCOVER = {
    10: "tree cover", 20: "shrubland", 30: "grassland", 40: "cropland", 50: "built-up", 60: "bare", 70: "snow and ice",
    80: "water", 90: "herbaceous wetland", 95: "mangroves", 100: "moss and lichen",
}  # fmt: skip
VALUES = (
    "yield",
    "biomass",
    "agb",
    "height",
    "fraction",
    "cover",
    "carbon",
    "score",
    "value",
    "y",
    "count",
    "population",
)


def class_folders(listing: Listing) -> dict[str, Any]:
    """The target of class folders."""
    classes = sorted({file.fields["label"] for file in listing.primary.files if "label" in file.fields})
    if len(classes) < 2:
        return {}
    note = "assumed: folders or words of file names are classes"
    return {"label": Note({"kind": "classes", "column": "label", "classes": classes}, note)}


def of_columns(rows: Sequence[Row], columns: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Targets of columns, and what else might be one."""
    out: dict[str, Any] = {}
    hints: list[str] = []
    shares = _shares(rows, columns)
    if shares:
        note = f"assumed: {len(shares)} columns of 0 to 1 that add up to at most 1 are shares of classes; any counts"
        out["shares"] = Note({"kind": "multilabel", "threshold": 0.0, "classes": shares}, note)
    for column in columns:
        if column not in shares:
            values, note = _of_column(column, [row.get(column) for row in rows])
            if values is not None:
                out[plain(column)] = Note(values, note)
            elif note:
                hints.append(note)
    more = [f"and {len(hints) - 3} more columns"] if len(hints) > 3 else []
    return out, hints[:3] + more


def _shares(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """Columns of numbers between 0 and 1 that add up to 1 in every row."""
    numeric = [c for c in columns if all((x := _number(row.get(c))) is not None and 0 <= x <= 1 for row in rows)]
    if len(numeric) < 3:
        return []
    sums = [sum(float(row[c]) for c in numeric) for row in rows]
    return numeric if max(sums) <= 1.02 and sum(sums) > 0.3 * len(sums) else []


def _of_column(column: str, values: Sequence[Any]) -> tuple[dict[str, Any] | None, str]:
    """A target of a column, with its comment; or None, with a hint or nothing."""
    labelled = has(column, LABELS | {"category", "type", "species", "crop", "genus", "landuse", "lu"})
    if any(isinstance(value, list) for value in values) or (labelled and any(";" in str(v) for v in values)):
        found = sorted({part.strip() for v in values for part in _parts(v) if part.strip()})
        if 2 <= len(found) <= MOST_CLASSES:
            return {"kind": "multilabel", "column": column, "classes": found}, "assumed: a column of several classes"
        return None, ""
    filled = [value for value in values if value not in (None, "")]
    kinds = sorted({str(value) for value in filled})
    numbers = [_number(value) for value in filled]
    whole = all(n is not None and n == int(n) for n in numbers)
    few = 2 <= len(kinds) <= min(MOST_CLASSES, max(2, len(filled) // 2))
    optional = {"optional": True} if len(filled) < len(values) else {}
    if all(n is None for n in numbers) or (whole and labelled):
        if few and labelled:
            return _coded(column, kinds, whole) | optional, "assumed: a column of classes, by its name"
        return (
            None,
            f"column {column!r} has {len(kinds)} different texts and could be a target of classes" if few else "",
        )
    if all(n is not None and math.isfinite(n) for n in numbers) and (labelled or has(column, set(VALUES))):
        return {"kind": "regression", "column": column, "classes": [column]} | optional, "assumed: a column of numbers"
    return None, f"column {column!r} holds numbers and could be a target of kind regression"


def _parts(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else str(value or "").replace(";", ",").split(",")


def _coded(column: str, kinds: Sequence[str], whole: bool) -> dict[str, Any]:
    if not whole:
        return {"kind": "classes", "column": column, "classes": list(kinds)}
    codes = {int(float(kind)): f"class {int(float(kind))}" for kind in sorted(kinds, key=float)}
    return {"kind": "classes", "column": column, "codes": Note(codes, "TODO: name the classes")}


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def map_target(stream: Stream, reader: Reader, sensor: str, leave: Leave) -> tuple[dict[str, Any], str] | None:
    """The target of a map of labels, without sizes, and what was measured; None where it is none."""
    counts, read = label_values(reader, stream, leave)
    if not counts:
        return None
    dtype = stream.head.dtype if stream.head is not None else None
    ignored = sorted(v for v in counts if v == stream.nodata or v < 0 or (v == 255 and dtype == "uint8"))
    kept = {int(v): n for v, n in counts.items() if v not in ignored}
    if len(kept) > MOST_CLASSES or any(v != int(v) for v in counts):
        leave(stream.path, f"holds {len(kept)} values: no map of classes; to use it as a sensor, add it to `sensors`")
        return None
    if len(kept) < 2:
        leave(stream.path + (f" {stream.arrays}" if stream.arrays else ""), f"holds no two classes ({list(counts)})")
        return None
    everything = "all" if read == len(stream.files) else f"{read} of {len(stream.files)}"
    total = sum(counts.values())
    note = f"measured on {everything} maps: " + ", ".join(f"{v:g} {n / total:.1%}" for v, n in counts.items())
    values: dict[str, Any] = {"kind": "pixels", "source": _source(stream), "reference_sensor": sensor}
    named = set(kept) <= set(WORLDCOVER) and "worldcover" in stream.name
    codes = {v: WORLDCOVER[v] if named else f"class {v}" for v in kept}
    say = "assumed: the legend of ESA WorldCover" if named else "TODO: name the classes"
    if 0 in kept:
        say += "; does 0 mean no label? then move it to ignore_codes"
    values["codes"] = Note(codes, say)
    if ignored:
        values["ignore_codes"] = Note([int(v) for v in ignored], "seen: nodata, or assumed: 255 and negative values")
    return values, note


def _source(stream: Stream) -> dict[str, Any]:
    out: dict[str, Any] = {"path": stream.path}
    if stream.arrays is not None:
        out["array"] = stream.arrays
    if stream.axes:
        out["axes"] = list(stream.axes)
    return out


def label_px(stream: Stream, plan: Plan, size: tuple[int, int], name: str) -> tuple[int, str]:
    """Label pixels to a side of one patch of a sensor, and what does not fit."""
    chosen = plan.chosen[name]
    exact = chosen.patch_px * stream.size[0] / size[0]
    if plan.ground is not None:
        return chosen.patch_px, ""
    return max(1, round(exact)), "" if exact == round(exact) and exact >= 1 else (
        f"a patch of {name} covers {exact:g} label pixels, which is no whole number"
    )
