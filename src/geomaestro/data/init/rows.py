"""The list of samples: which table or file names give it, and what its columns tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from geomaestro.data.files.patterns import fields_of, parse
from geomaestro.data.files.tables import GEOMETRY, Row, read_table
from geomaestro.data.init.naming import File
from geomaestro.data.init.notes import Note
from geomaestro.data.init.streams import Leave, Stream
from geomaestro.data.init.survey import Survey
from geomaestro.data.init.words import DATE, DATES, GEOMETRIES, LATITUDES, LONGITUDES, plain, split_of
from geomaestro.errors import GeomaestroError, SpecError

MAX_TABLE_BYTES = 500 << 20  # assumed
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "fold", "dataset_split")


@dataclass
class Columns:
    """What the columns of a table tell."""

    split: str | None = None
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    place: tuple[str, str] | str | None = None
    date: str | None = None
    others: list[str] = field(default_factory=list)


@dataclass
class Table:
    """A table of samples, or one per split, and how its rows name files."""

    path: str
    rows: list[Row]
    columns: Columns
    parse: dict[str, str] = field(default_factory=dict)
    key: str = ""
    """The pattern of columns that equals a sample's name."""


@dataclass
class Listing:
    """The samples: values of `samples`, their names, and what was found out."""

    values: dict[str, Any]
    primary: Stream
    fields: tuple[str, ...]
    ids: list[tuple[str, ...]]
    splits: dict[str, str] = field(default_factory=dict)
    """train, val, test -> what the dataset calls them."""
    table: Table | None = None
    notes: list[str] = field(default_factory=list)


def id_fields(stream: Stream) -> tuple[str, ...]:
    """The fields of a stream's path that name the sample."""
    names = dict.fromkeys(fields_of(stream.path.rpartition("!")[2]))
    return tuple(name for name in names if name.startswith("id"))


def list_samples(streams: Sequence[Stream], survey: Survey, name: str, leave: Leave) -> Listing:
    """The list of samples: a table that names the files where there is one, else the files of the fullest sensor.

    Raises:
        SpecError: if no stream is a sensor.
    """
    sensors = [stream for stream in streams if stream.kind == "sensor"]
    if not sensors:
        raise SpecError(
            f"{survey.root}: holds no images that could be a sensor; found only "
            + ", ".join(f"{s.path} ({s.kind})" for s in streams)
        )
    every = {f: None for s in sensors for f in id_fields(s)}
    fields = max((id_fields(s) for s in sensors), key=len) if every else ()
    own = [stream for stream in sensors if id_fields(stream) == fields]
    primary = max(own, key=lambda s: (len(s.samples(fields)), s.size[0] * s.size[1], s.count))
    ids = sorted(primary.samples(fields))
    table = _find_table(survey, primary, fields, leave)
    out = Listing({}, primary, fields, ids, table=table)
    if table is not None and table.key:
        _by_table(out, table, leave)
    if "table" not in out.values:
        _by_scan(out, name)
    return out


def _by_scan(out: Listing, name: str) -> None:
    """Values of `samples` where file names list them."""
    stream = out.primary
    has_label = "label" in fields_of(stream.path)
    split = "split" in fields_of(stream.path)
    scan = stream.path.replace("{band}", stream.bands[0] if stream.bands else "*")
    out.values = {"scan": Note(scan, f"seen: {len(stream.files):,} files named so") if not has_label else scan}
    text = "_".join(f"{{{f}}}" for f in out.fields) or name
    unique = len({file.fields.get("label") for file in stream.files}) < 2 or len(out.ids) == len(
        {(file.fields.get("label"), *(file.fields.get(f) for f in out.fields)) for file in stream.files}
    )
    if has_label and not unique:
        text = f"{{label}}/{text}"
    if split:
        by_split = {(file.fields["split"], *(file.fields.get(f) for f in out.fields)) for file in stream.files}
        text = text if len(by_split) == len(out.ids) else f"{{split}}/{text}"
        found = list(dict.fromkeys(file.fields["split"] for file in stream.files))
        out.splits = {meant: there for there in found if (meant := split_of(there))}
        out.notes.append(f"splits are folders: {', '.join(found)}")
    out.values["id"] = text
    if out.table is not None and out.table.key and not out.values.get("table"):
        _join(out, out.table)


def _by_table(out: Listing, table: Table, leave: Leave) -> None:
    """Values of `samples` where every row of a table has its file."""
    rows = {_filled(table, row, out.fields) for row in table.rows}
    files = set(out.ids)
    if rows - files:
        return
    if files - rows:
        some = sorted(files - rows)[0]
        leave("_".join(some), f"{len(files - rows):,} samples have files but no row in {table.path}")
    out.ids = sorted(rows)
    out.values = {"table": Note(table.path, f"seen: {len(table.rows):,} rows, each with its file")}
    if table.parse:
        out.values["parse"] = table.parse
    out.values["id"] = "_".join(f"{{{name}}}" for name in out.fields)
    if "{split}" in table.path:
        out.splits = {meant: str(v) for v in {row["split"]: 0 for row in table.rows} if (meant := split_of(str(v)))}


def _filled(table: Table, row: Mapping[str, Any], fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(row.get(name, "")) for name in fields)


def _join(out: Listing, table: Table) -> None:
    """Take columns of a table whose rows name all files, and others."""
    rows = {_filled(table, row, out.fields) for row in table.rows}
    if set(out.ids) - rows or "{split}" in table.path:
        missing = len(set(out.ids) - rows)
        lone = len(rows - set(out.ids))
        out.notes.append(
            f"TODO: {table.path} is not used: {missing:,} samples have no row in it, and {lone:,} rows no file; "
            "complete it, or remove what has no partner, and run this again"
        )
        out.table = None
        return
    c = table.columns
    places = list(c.place) if isinstance(c.place, tuple) else [c.place] if c.place else []
    wanted = [*([c.split] if c.split else []), *places, *([c.date] if c.date else []), *c.others]
    key = "_".join(f"{{{name}}}" for name in out.fields)
    join = {"table": table.path, "key": key, "on": key, "take": {name: name for name in wanted}}
    if table.parse:
        join["parse"] = table.parse
    out.values["join"] = [join]
    out.notes.append(f"{table.path} has rows without files; its columns are joined to the files that there are")


def _find_table(survey: Survey, primary: Stream, fields: tuple[str, ...], leave: Leave) -> Table | None:
    """The table whose rows name most files of the primary stream."""
    best: tuple[float, Table] | None = None
    for path, paths in _by_split(survey.tables).items():
        try:
            rows = _rows(survey.root, paths)
        except GeomaestroError as error:
            leave(path, f"no table of samples: {str(error).split(': ', 1)[-1][:120]}")
            continue
        table = Table(path, rows, Columns())
        share = _link(table, primary, fields)
        if best is None or share > best[0]:
            if best is not None:
                leave(best[1].path, "another table names more of the files")
            best = (share, table)
        else:
            leave(path, "names no files, or another table names more of them")
    if best is None:
        return None
    if best[0] < 0.5:
        leave(best[1].path, "none of its columns names the files; add one, or name files by its ids")
        return None
    best[1].columns = read_columns(best[1].rows, used=set(best[1].parse) | set(fields))
    return best[1]


def adopt(streams: Sequence[Stream], listing: Listing) -> None:
    """Let columns of the table name the files of streams whose own names are of no sample."""
    if listing.table is None or "table" not in listing.values:
        return
    rows, ids = listing.table.rows, set(listing.ids)
    for stream in streams:
        pattern = stream.path.rpartition("!")[2]
        shared = id_fields(stream) == listing.fields and stream.samples(listing.fields) & ids
        if shared or not id_fields(stream) or {"date", "band"} & set(fields_of(pattern)):
            continue
        pure = PurePosixPath(pattern)
        by_name = {PurePosixPath(file.path.rpartition("!")[2]).name: file for file in stream.files}
        for column in [c for c in rows[0] if str(c).isidentifier()]:
            for suffix in ("", stream.suffix):
                named = [by_name.get(f"{row[column]}{suffix}") for row in rows]
                if sum(file is not None for file in named) * 2 < len(rows):
                    continue
                stream.path = str(pure.with_name(f"{{{column}}}{suffix}"))
                stream.files = [
                    File(file.path, {**{n: str(row[n]) for n in listing.fields}, str(column): str(row[column])})
                    for row, file in zip(rows, named, strict=True)
                    if file is not None
                ]
                stream.adopted = True
                stream.notes.append(f"seen: column {column!r} names its files")
                break
            if stream.adopted:
                break


def _by_split(tables: Sequence[str]) -> dict[str, list[str]]:
    """Tables, those that differ in a split's name as one."""
    out: dict[str, list[str]] = {}
    for path in tables:
        pure = PurePosixPath(path)
        pattern = str(pure.with_name(f"{{split}}{pure.suffix}")) if split_of(pure.stem) else path
        out.setdefault(pattern, []).append(path)
    return {pattern if len(paths) > 1 else paths[0]: paths for pattern, paths in out.items()}


def _rows(root: Path, paths: Sequence[str]) -> list[Row]:
    out = []
    for path in paths:
        if (root / path).stat().st_size > MAX_TABLE_BYTES:
            raise SpecError(f"{path}: too big to look through")
        rows = read_table(root / path)
        out += [{**row, "split": PurePosixPath(path).stem} for row in rows] if len(paths) > 1 else rows
    return out


def _link(table: Table, primary: Stream, fields: tuple[str, ...]) -> float:
    """Find the column that names the files, and how; gives the share of rows whose file is there."""
    ids = primary.samples(fields)
    pattern = primary.path.rpartition("!")[2]
    best = 0.0
    forms = []
    if not {"date", "band"} & set(fields_of(pattern)):
        name = PurePosixPath(pattern).name
        forms = [pattern, name, name.removesuffix(primary.suffix), pattern.removesuffix(primary.suffix)]
    joined = "_".join(f"{{{name}}}" for name in fields)
    for column in list(table.rows[0]):
        if not isinstance(table.rows[0][column], str | int) or not str(column).isidentifier():
            continue
        for form in [joined, *forms]:
            share = _share(table.rows, column, form, fields, ids)
            if share > best:
                best, table.key = share, form
                table.parse = {} if (column,) == fields and form == joined else {column: form}
    if best and table.parse:
        column, form = next(iter(table.parse.items()))
        for row in table.rows:
            row.update(parse(form, str(row[column])) or {})
    return best


def _share(rows: Sequence[Row], column: str, form: str, fields: tuple[str, ...], ids: set[tuple[str, ...]]) -> float:
    if not fields or not set(fields) <= set(fields_of(form)):
        return 0.0
    found = 0
    for row in rows:
        parsed = parse(form, str(row.get(column, "")))
        found += parsed is not None and tuple(parsed[name] for name in fields) in ids
    return found / len(rows)


def read_columns(rows: Sequence[Row], used: set[str]) -> Columns:
    """What columns tell by their names and values."""
    out = Columns()
    names = {plain(str(name)): str(name) for name in rows[0] if str(name) not in used}
    lon, lat = _first(names, LONGITUDES), _first(names, LATITUDES)
    if lon and lat and all(_is_degree(rows[i][c], m) for i in _some(rows) for c, m in ((lon, 360), (lat, 90))):
        out.place = (lon, lat)
    elif geometry := _first(names, (GEOMETRY, *GEOMETRIES)):
        value = rows[0][geometry]
        if isinstance(value, dict) or (isinstance(value, str) and "(" in value):
            out.place = geometry
    for low, name in names.items():
        values = [row.get(name) for row in rows]
        kinds = {str(value) for value in values}
        if low in SPLIT_COLUMNS and len(kinds) <= 12:
            meant = {value: split_of(value) for value in sorted(kinds)}
            if any(meant.values()):
                out.split = name
                out.splits = {s: tuple(v for v, m in meant.items() if m == s) for s in ("train", "val", "test")}
                out.splits = {split: values for split, values in out.splits.items() if values}
                continue
        if (low in DATES or "date" in low.split("_")) and all(DATE.match(str(rows[i][name])) for i in _some(rows)):
            out.date = out.date or name
        elif name not in (lon, lat, out.place) and name.isidentifier():
            out.others.append(name)
    return out


def _first(names: Mapping[str, str], wanted: Sequence[str]) -> str | None:
    return next((names[name] for name in wanted if name in names), None)


def _some(rows: Sequence[Row]) -> range:
    return range(0, len(rows), max(1, len(rows) // 200))


def _is_degree(value: Any, most: float) -> bool:
    try:
        return abs(float(value)) <= most
    except (TypeError, ValueError):
        return False
