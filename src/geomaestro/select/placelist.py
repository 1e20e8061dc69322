"""A table of places (Parquet or CSV, of any program) as a dataset: its columns recognised, read a part at a time.

A table of samples that was measured before keeps what it has: spectral entropies, pictures, embeddings.
Axes: n row.
"""

import datetime
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from geomaestro.errors import DataError, SpecError
from geomaestro.runs import make_folder
from geomaestro.select.geography import HEIGHT, WIDTH, Layers
from geomaestro.select.pieces import Item, Pieces, digest, join
from geomaestro.select.table import SCHEMA, about_of

SUFFIXES = (".parquet", ".pq", ".csv")
USUAL: Mapping[str, tuple[str, ...]] = {
    "lon": ("lon", "longitude", "lng", "long", "center_lon", "centre_lon", "center_longitude", "centroid_lon"),
    "lat": ("lat", "latitude", "center_lat", "centre_lat", "center_latitude", "centroid_lat"),
    "id": ("id", "idx", "sample_id", "patch_id", "tile_id", "name", "fn", "file", "filename", "path"),
    "date": ("date", "time", "datetime", "timestamp", "acquired", "acquisition_date", "sensing_time", "start_datetime"),
    "split": ("split", "subset", "partition"),
    "biome": ("biome", "biome_name"),
    "land_cover": ("land_cover", "landcover", "lulc", "land_use"),
    "dataset": ("dataset",),
}  # fmt: skip
KEPT = ("dates", "spectral_entropy", "picture_hash", "embedding", "continent", WIDTH, HEIGHT)
PLACED = "geometry"  # a column of shapes, of GeoParquet
AT_ONCE = 1 << 14  # rows of a piece; assumed
FORMAT = 2


@dataclass(frozen=True)
class TableWork:
    """The pieces of a table of places: row groups of a copy with known columns."""

    name: str
    copy: Path
    layers: Layers
    rows: Pieces
    items: tuple[Item, ...]
    about: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path, name: str, columns: Mapping[str, str], layers: Layers, folder: Path) -> "TableWork":
        """Of a table; `columns` names those that can't be guessed, such as {"land_cover": "IPCC"}.

        Raises:
            DataError: if it can't be read, has no rows, or columns are ambiguous or not what they should be.
        """
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        stat = path.stat()
        mark = digest([FORMAT, str(path.resolve()), stat.st_size, stat.st_mtime_ns, dict(columns)])
        copy = folder / f"places-{mark}.parquet"
        if not copy.is_file():
            make_folder(folder)
            _copy(path, name, columns, copy)
        stored = pq.ParquetFile(copy)
        starts = np.cumsum([0] + [stored.metadata.row_group(n).num_rows for n in range(stored.num_row_groups)]).tolist()
        items = tuple((n, a, b) for n, (a, b) in enumerate(itertools.pairwise(starts)))
        about = {**about_of(copy), "layers": layers.about()}
        return cls(name, copy, layers, Pieces(folder, "rows", digest([mark, layers.about()])), items, about)

    def stamp(self, item: Item) -> str:
        """Nothing: the name of the copy tells of which file it is."""
        return ""

    def piece(self, item: Item) -> pa.Table:
        """A row group."""
        return pq.ParquetFile(self.copy).read_row_group(item[0]).replace_schema_metadata(None)


def _copy(path: Path, name: str, wanted: Mapping[str, str], out: Path) -> None:
    """Write the known columns of a table, in their types, to `out`."""
    reader = _Reader(path)
    taken = recognised(path, reader.names, wanted)
    ids = _id_column(path, reader, taken, given="id" in taken)
    kept = [column for column in KEPT if column in reader.names and column not in taken]
    told = about_of(path) if path.suffix.lower() != ".csv" else {}
    about = {**told, "dataset": name, "table": path.name, "columns": {**taken, "id": ids}}
    needed = [*dict.fromkeys([*taken.values(), *kept, *([ids] if ids else [])])]

    def parts() -> Iterator[pa.Table]:
        start = 0
        for batch in reader.batches(needed):
            yield _part(path, batch, {**taken, "id": ids}, kept, name, start)
            start += len(batch)
        if start == 0:
            raise DataError(f"{path}: has no rows")

    join(parts(), out, about)


def recognised(path: Path, names: Sequence[str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Which column of the table is which of ours.

    Raises:
        SpecError: if a name that was given is no column.
        DataError: if longitude or latitude is missing, or could be several columns.
    """
    listed = ", ".join(names)
    for ours, theirs in wanted.items():
        if ours not in USUAL:
            raise SpecError(f"--column {ours}={theirs}: {ours!r} is none of {', '.join(USUAL)}")
        if theirs and theirs not in names:
            raise SpecError(f"{path}: has no column {theirs!r}; it has {listed}")
    taken = {ours: theirs for ours, theirs in wanted.items() if theirs}
    for ours, usual in USUAL.items():
        fitting = [name for name in names if name.strip().lower() in usual]
        exact = [name for name in fitting if name == ours]
        if ours in wanted or ours == "id" or not fitting:
            continue
        if len(fitting) > 1 and len(exact) != 1 and ours in ("lon", "lat"):
            raise DataError(f"{path}: {', '.join(fitting)} could each be the {ours}; say which with --{ours} COLUMN")
        taken[ours] = (exact or fitting)[0]
    if PLACED in names and not {"lon", "lat"} & set(taken):
        return {**taken, PLACED: PLACED}
    missing = [ours for ours in ("lon", "lat") if ours not in taken]
    if missing:
        raise DataError(
            f"{path}: no column is recognised as {' and '.join(missing)}; say which with --lon COLUMN --lat COLUMN; "
            f"it has {listed}"
        )
    return taken


def _id_column(path: Path, reader: "_Reader", taken: Mapping[str, str], *, given: bool) -> str:
    """The column that names rows: the one given, or the first usual one without a repetition; "" for row numbers."""
    usual = USUAL["id"]
    lower = {name.strip().lower(): name for name in reader.names}
    candidates = [taken["id"]] if given else [lower[name] for name in usual if name in lower]
    group = taken.get("dataset")
    for column in candidates:
        seen: set[int] = set()
        rows = nameless = 0
        for batch in reader.batches([column, *([group] if group else [])]):
            names = [_words(batch[name]).to_pylist() for name in batch.column_names]
            seen.update(map(hash, zip(*names, strict=True)))
            rows, nameless = rows + len(batch), nameless + names[0].count(None)
        if len(seen) == rows and not nameless:
            return column
        if given and nameless:
            raise DataError(f"{path}: column {column!r} is empty in {nameless} rows; name samples by another")
        if given:
            raise DataError(f"{path}: column {column!r} holds {rows - len(seen)} names twice; name samples by another")
    return ""


class _Reader:
    """Batches of columns of a Parquet or CSV file; values of a CSV are text."""

    def __init__(self, path: Path) -> None:
        self.path, self.text = path, path.suffix.lower() == ".csv"
        if path.stat().st_size == 0:
            raise DataError(f"{path}: is empty (0 bytes); fetch the file again")
        self.names = self._guarded(self._names)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Tables of at most `AT_ONCE` rows."""
        try:
            for batch in self._batches(list(columns)):
                table = pa.table(batch) if isinstance(batch, pa.RecordBatch) else batch
                for start in range(0, len(table), AT_ONCE):
                    yield table.slice(start, AT_ONCE)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from None

    def _guarded(self, read: Any) -> Any:
        try:
            return read()
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(f"{self.path}: unreadable table, probably cut short ({error}); fetch the file again")

    def _names(self) -> list[str]:
        if not self.text:
            return list(pq.read_schema(self.path).names)
        with pa_csv.open_csv(self.path, parse_options=_PARSING) as stream:
            return list(stream.schema.names)

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        if not self.text:
            yield from pq.ParquetFile(self.path).iter_batches(AT_ONCE, columns=columns)
            return
        types = pa_csv.ConvertOptions(
            column_types=dict.fromkeys(self.names, pa.string()), include_columns=columns, strings_can_be_null=True
        )
        with pa_csv.open_csv(self.path, parse_options=_PARSING, convert_options=types) as stream:
            yield from stream


_PARSING = pa_csv.ParseOptions(newlines_in_values=True)


def _part(
    path: Path, batch: pa.Table, taken: Mapping[str, str], kept: Sequence[str], name: str, start: int
) -> pa.Table:
    """Rows with our columns in their types."""
    count = len(batch)
    rows = [str(start + n) for n in range(count)]
    out: dict[str, Any] = {"id": pa.array(rows) if not taken["id"] else _words(batch[taken["id"]])}
    out["dataset"] = _words(batch[taken["dataset"]]) if "dataset" in taken else pa.array([name] * count)
    for column in ("split", "biome", "land_cover"):
        out[column] = _words(batch[taken[column]]) if column in taken else pa.nulls(count, pa.string())
    if PLACED in taken:
        out["lon"], out["lat"] = _middles(path, batch[taken[PLACED]])
    else:
        out |= {column: _degrees(path, batch[taken[column]], taken[column], start) for column in ("lon", "lat")}
    out["date"] = _dates(path, batch[taken["date"]], taken["date"]) if "date" in taken else pa.nulls(count, pa.date32())
    for column in kept:
        out[column] = _kept(path, column, batch[column])
    for column in ("dates", "spectral_entropy", "picture_hash", WIDTH, HEIGHT):
        out.setdefault(column, pa.nulls(count, SCHEMA.get(column, pa.float32())))
    return pa.table(out)


def _kept(path: Path, name: str, column: Any) -> Any:
    """A column of a table of samples, in its type."""
    if name == "embedding" and not pa.types.is_string(column.type):
        return column
    try:
        return column.cast(SCHEMA.get(name, pa.float32()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{path}: column {name!r} is not what a table of samples has by this name ({error}); rename it"
        ) from None


def _words(column: Any) -> Any:
    return pa.array([None if value in (None, "") else str(value).strip() for value in column.to_pylist()], pa.string())


def _degrees(path: Path, column: Any, name: str, start: int) -> Any:
    out = []
    for number, value in enumerate(column.to_pylist(), start=start + 1):
        try:
            out.append(None if value in (None, "") else float(value))
        except (ValueError, TypeError):
            raise DataError(f"{path}: row {number}: {name} is {value!r}, not a number of degrees") from None
    return pa.array(out, pa.float64())


def _dates(path: Path, column: Any, name: str) -> Any:
    out: list[datetime.date | None] = []
    if pa.types.is_timestamp(column.type):  # Python has no nanoseconds
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    for value in column.to_pylist():
        if value in (None, ""):
            out.append(None)
        elif isinstance(value, datetime.date):
            out.append(value.date() if isinstance(value, datetime.datetime) else value)
        else:
            try:
                out.append(datetime.date.fromisoformat(str(value).strip()[:10]))
            except ValueError:
                raise DataError(
                    f"{path}: column {name!r} holds {value!r}, no date such as 2020-07-31; leave it out with "
                    "--column date= , or mend it"
                ) from None
    return pa.array(out, pa.date32())


def _middles(path: Path, column: Any) -> tuple[Any, Any]:
    """Middles of shapes in degrees; GeoParquet without a coordinate system is in degrees."""
    import shapely
    from pyproj import CRS, Transformer
    from pyproj.exceptions import CRSError

    told = json.loads((pq.read_schema(path).metadata or {}).get(b"geo", b"{}"))
    crs = told.get("columns", {}).get(PLACED, {}).get("crs")
    try:
        middles = shapely.centroid(shapely.from_wkb(column.to_numpy()))
        way = Transformer.from_crs(
            CRS.from_user_input("OGC:CRS84" if crs is None else crs), "OGC:CRS84", always_xy=True
        )
    except (shapely.errors.ShapelyError, CRSError, TypeError) as error:
        raise DataError(f"{path}: column {PLACED!r} holds no shapes as WKB ({error}); name --lon and --lat") from None
    lon, lat = way.transform(shapely.get_x(middles), shapely.get_y(middles))
    return pa.array(lon, pa.float64(), mask=~np.isfinite(lon)), pa.array(lat, pa.float64(), mask=~np.isfinite(lat))
