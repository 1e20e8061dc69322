"""Put all findings together: the values of a `files` spec, with comments."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomaestro.data.files.stored import RASTERS
from geomaestro.data.init.contents import look
from geomaestro.data.init.entries import Known, attach_clouds, entry, gsd
from geomaestro.data.init.known import guess
from geomaestro.data.init.measure import Reader, label_values, levels_of
from geomaestro.data.init.naming import Layer, agrees, find_layers
from geomaestro.data.init.notes import Note
from geomaestro.data.init.places import add_splits, places_of
from geomaestro.data.init.rows import Listing, adopt, id_fields, list_samples
from geomaestro.data.init.sizes import Piece, Plan, gsd_of, make_plan
from geomaestro.data.init.stacks import unstack
from geomaestro.data.init.streams import Leave, Stream, merge_same, streams_of
from geomaestro.data.init.survey import Survey
from geomaestro.data.init.targets import class_folders, label_px, map_target, of_columns
from geomaestro.data.init.words import DATE, HEIGHTS, has, plain
from geomaestro.errors import DataError, GeomaestroError
from geomaestro.grid import Grid

FEW_VALUES = 20  # assumed; a map of so few whole numbers is of classes
COMPARED = 4  # samples whose grids are compared


@dataclass
class Draft:
    """A spec to be: its values with comments, and what the summary shows."""

    name: str
    values: dict[str, Any]
    survey: Survey
    sensors: list[Known] = field(default_factory=list)
    samples: int = 0
    splits: dict[str, str] = field(default_factory=dict)
    plan: Plan | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Targets and their kind."""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def draft_files(survey: Survey, name: str) -> Draft:
    """The draft of a `files` spec.

    Raises:
        DataError, SpecError: if nothing is there that could be a sensor.
    """
    root, leave = survey.root, survey.leave
    layers, notes = find_layers(survey.files, _signatures(root))
    streams = merge_same([s for layer in layers for s in _streams(layer, root, leave)])
    if not streams:
        shown = "; ".join(f"{names[0]}: {reason}" for reason, names in list(survey.left_out.items())[:3])
        raise DataError(f"{root}: none of its {len(survey.files):,} files can be used; {shown}")
    reader = Reader(root)
    _find_labels(streams, reader, leave)
    listing = list_samples(streams, survey, name, leave)
    listing.notes += notes
    adopt(streams, listing)
    streams = _of_samples(streams, listing, leave)
    rows = listing.table.rows if listing.table is not None else []
    _dates_of_column(streams, listing)
    sensors = _know(streams, reader, rows, f"{name} {root.name}", leave)
    if not sensors:
        raise DataError(f"{root}: no sensor could be read; {_reasons(survey)}")
    _mark_missing(sensors, listing)
    flags = [s for s in streams if s.kind in ("clouds", "quality")]
    for flag, reason in attach_clouds(sensors, flags, listing.fields, root):
        leave(f"{flag.path} {flag.arrays or ''}".strip(), reason)
    return _assemble(survey, name, listing, sensors, [s for s in streams if s.kind == "label"], reader)


def _signatures(root: Path) -> Any:
    known: dict[str, Any] = {}

    def signature(path: str) -> Any:
        if path not in known:
            try:
                known[path] = look(root, path).signature()
            except GeomaestroError:
                known[path] = None
        return known[path]

    return signature


def _streams(layer: Layer, root: Path, leave: Leave) -> list[Stream]:
    if not agrees(layer):
        leave(
            layer.pattern,
            "names can't be taken apart: parts of one name vary in their number of words; give a table of samples, or "
            "rename the files",
        )
        return []
    return streams_of(layer, root, leave)


def _reasons(survey: Survey) -> str:
    return "; ".join(f"{names[0]}: {reason}" for reason, names in list(survey.left_out.items())[:3])


def _find_labels(streams: Sequence[Stream], reader: Reader, leave: Leave) -> None:
    """Take single bands of few whole numbers for maps of labels, unless their name says what they measure."""
    for stream in streams:
        head = stream.head
        if stream.kind != "sensor" or stream.count != 1 or head is None or head.dtype.kind not in "iu":
            continue
        if stream.number_of_dates > 1 or stream.size == (1, 1) or any(has(w, HEIGHTS) for w in stream.name.split("_")):
            continue
        counts, _ = label_values(reader, stream, leave)
        if 2 <= len(counts) <= FEW_VALUES and len([s for s in streams if s.kind == "sensor"]) > 1:
            stream.kind = "label"
            stream.notes.append(f"assumed: {len(counts)} whole numbers are classes")


def _of_samples(streams: Sequence[Stream], listing: Listing, leave: Leave) -> list[Stream]:
    """The streams that belong to listed samples; others are left out, with the reason."""
    out = []
    ids = set(listing.ids)
    for stream in streams:
        named = id_fields(stream) == listing.fields or stream.adopted
        shared = stream.samples(listing.fields) & ids if named else set()
        if listing.fields and (id_fields(stream) or stream.adopted) and not shared:
            leave(
                stream.path,
                f"names of its {len(stream.files):,} files are none of the samples of {listing.primary.path}",
            )
            continue
        extra = stream.samples(listing.fields) - ids if id_fields(stream) else set()
        if extra and stream is not listing.primary:
            leave(
                stream.path,
                f"{len(extra):,} samples have it but are not listed; the first: {'_'.join(sorted(extra)[0])}",
            )
            stream.files = [f for f in stream.files if tuple(f.fields.get(n, "") for n in listing.fields) in ids]
        out.append(stream)
    return out


def _dates_of_column(streams: Sequence[Stream], listing: Listing) -> None:
    column = listing.table.columns.date if listing.table is not None else None
    for stream in streams:
        if column is not None and stream.dates is None and stream.number_of_dates == 1 and stream.kind == "sensor":
            stream.dates = {"column": column}


def _know(streams: Sequence[Stream], reader: Reader, rows: Sequence[Any], hints: str, leave: Leave) -> list[Known]:
    """Measure and guess every sensor, those with a georeference first."""
    out: list[Known] = []
    for stream in sorted((s for s in streams if s.kind == "sensor"), key=lambda s: s.grid is None):
        words = plain(f"{stream.name} {hints}")
        unstack(stream, words, rows)
        if stream.suffix in RASTERS and stream.dates is None:
            stream.number_of_dates = 1
        try:
            levels = levels_of(reader, stream, leave)
        except GeomaestroError as error:
            leave(stream.path, f"can't be read: {error}")
            continue
        if levels is None or (levels.least == levels.most and stream.number_of_dates > 0):
            leave(f"{stream.path} {stream.arrays or ''}".strip(), "holds one value, or nothing but nodata")
            continue
        first, _ = gsd(stream, "", out)
        found = guess(stream, levels, hints, first)
        metres, note = gsd(stream, found.family, out)
        out.append(Known(stream, found, levels, metres, note))
    _rename(out)
    return out


def _rename(sensors: Sequence[Known]) -> None:
    """Sensors without a name of their own are named after what they are."""
    taken = {k.stream.name for k in sensors}
    for known in sensors:
        if known.stream.name.startswith("image") and known.guess.family not in (known.stream.name, "image", ""):
            wanted = known.guess.family
            name = wanted if wanted not in taken else f"{wanted}_{len(taken)}"
            taken = taken - {known.stream.name} | {name}
            old = known.stream.name
            known.guess.warnings = [
                text.replace(repr(old), repr(name)).replace(f"sensors.{old}.", f"sensors.{name}.")
                for text in known.guess.warnings
            ]
            known.stream.name = name


def _mark_missing(sensors: Sequence[Known], listing: Listing) -> None:
    for known in sensors:
        known.samples = len(listing.ids)
        if id_fields(known.stream) or known.stream.adopted:
            known.missing = len(set(listing.ids) - known.stream.samples(listing.fields))


def _assemble(
    survey: Survey, name: str, listing: Listing, sensors: list[Known], labels: list[Stream], reader: Reader
) -> Draft:
    pieces = _pieces(sensors, labels)
    plan = make_plan(pieces, _grids(survey.root, [k.stream for k in sensors] + labels, listing))
    places, place = places_of(listing, survey.root)
    add_splits(listing.values, listing, places, place)
    values: dict[str, Any] = {
        "name": name,
        "kind": "files",
        "about": Note("", "TODO: say what it is, and where it is from in `source` and `licence`"),
        "reference_date": _reference(sensors),
        "samples": listing.values,
    }
    for key, value in (("crop", plan.crop), ("ground", plan.ground)):
        if value is not None:
            values[key] = value
    values["sensors"] = {k.stream.name: Note(entry(k, plan.chosen[k.stream.name]), _said(k)) for k in sensors}
    targets = _targets(listing, sensors, labels, plan, reader, survey.leave)
    kept = {k.stream.name for k in sensors} | {name.removesuffix("_map") for name in targets}
    plan.table = [row for row in plan.table if row[0] in kept]
    if targets:
        values["targets"] = targets
    return Draft(
        name=name,
        values=values,
        survey=survey,
        sensors=sensors,
        samples=len(listing.ids),
        splits=listing.splits,
        plan=plan,
        labels={key: _kind(value) for key, value in targets.items()},
        notes=[*listing.notes, *plan.notes],
        warnings=[text for k in sensors for text in k.guess.warnings],
    )


def _pieces(sensors: Sequence[Known], labels: Sequence[Stream]) -> list[Piece]:
    """Sensors and maps of labels, as the plan sees them."""
    pieces = [
        Piece(k.stream.name, k.stream.size, k.gsd_m, k.stream.number_of_dates, len(k.stream.sizes) > 1, k.stream.grid)
        for k in sensors
    ]
    pieces += [
        Piece(s.name, s.size, gsd_of(s.grid) if s.grid else 0.0, 1, len(s.sizes) > 1, s.grid, is_label=True)
        for s in labels
    ]
    for piece in pieces:
        if piece.is_label and not piece.gsd_m:
            piece.gsd_m = max(p.size[0] * p.gsd_m for p in pieces if not p.is_label) / piece.size[0]
    return pieces


def _said(known: Known) -> str:
    """The comment above a sensor: notes, tags worth knowing, what to decide, and what the pixels contradict."""
    stream = known.stream
    lines = [*stream.notes, *(f"TODO: {text}" for text in (*stream.todo, *known.guess.todo))]
    dated = {
        key: value
        for key, value in stream.tags.items()
        if DATE.search(value[:40]) and key.lower() in ("datetime", "date")
    }
    if stream.dates is None and dated:
        key, value = next(iter(dated.items()))
        lines.append(f"seen: the files carry {key} = {value[:19]}; put dates into a column of a table to use them")
    if len(stream.sizes) > 1:
        shown = ", ".join(f"{h} x {w} ({n})" for (h, w), n in stream.sizes.most_common(4))
        lines.append(f"seen: sizes differ: {shown}")
    lines += [f"WARNING: {text}" for text in known.guess.warnings]
    return "\n".join(lines)


def _grids(root: Path, streams: Sequence[Stream], listing: Listing) -> list[dict[str, Grid | None]]:
    """Grids of the streams of some samples."""
    first: dict[str, dict[tuple[str, ...], str]] = {}
    for stream in streams:
        names = {tuple(f.fields.get(n, "") for n in listing.fields): f.path for f in reversed(stream.files)}
        first[stream.name] = names
    out = []
    for sample in listing.ids[:: max(1, len(listing.ids) // COMPARED)][:COMPARED]:
        grids: dict[str, Grid | None] = {}
        for stream in streams:
            path = first[stream.name].get(sample)
            if path is not None and stream.grid is not None:
                try:
                    grids[stream.name] = look(root, path).grid
                except GeomaestroError:
                    continue
        out.append(grids)
    return out


def _reference(sensors: Sequence[Known]) -> Note:
    """The date that others are counted from."""
    always = [k for k in sensors if k.stream.dates is not None and not k.missing]
    if always:
        best = max(always, key=lambda k: len(k.guess.bands))
        return Note(best.stream.name, "assumed: dates are counted from its first image")
    days = sorted(
        found.group()[:10].replace("_", "").replace("-", "")[:8]
        for k in sensors for f in k.stream.files if (found := DATE.match(f.fields.get("date", "")))
    )  # fmt: skip
    if days:
        day = datetime.datetime.strptime(days[0], "%Y%m%d").timetuple()
        return Note(
            [day.tm_year, day.tm_yday, 0], "measured: year and day of the first date; no sensor is in all samples"
        )
    return Note([2020, 1, 0], "assumed: no dates were found; year, day of year, hour")


def _targets(
    listing: Listing, sensors: Sequence[Known], labels: Sequence[Stream], plan: Plan, reader: Reader, leave: Leave
) -> dict[str, Any]:
    out = class_folders(listing)
    if listing.table is not None:
        found, hints = of_columns(listing.table.rows, listing.table.columns.others)
        out |= found
        listing.notes += hints
    for stream in labels:
        same = [k for k in sensors if k.stream.size == stream.size and not k.missing] or list(sensors)
        known = max(same, key=lambda k: (not k.missing, k.stream.size[0], len(k.guess.bands)))
        made = map_target(stream, reader, known.stream.name, leave)
        if made is None:
            continue
        values, note = made
        values["label_px"], wrong = label_px(stream, plan, known.stream.size, known.stream.name)
        lacking = len(set(listing.ids) - stream.samples(listing.fields)) if id_fields(stream) else 0
        if lacking:
            values["optional"] = Note(True, f"seen: {lacking:,} samples lack it")
        if wrong or (len(stream.sizes) > 1 and plan.ground is None):
            leave(stream.path, wrong or "maps differ in size and have no georeference: bring them to one size first")
            continue
        name = stream.name if stream.name not in {k.stream.name for k in sensors} else f"{stream.name}_map"
        out[name] = Note(values, "; ".join([*stream.notes, note]))
    return out


def _kind(value: Any) -> str:
    while isinstance(value, Note):
        value = value.value
    return str(value["kind"])
