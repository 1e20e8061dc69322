"""Tables of samples: every kind of file gives the same rows; what is wrong with one is said by name."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geomaestro.data.files import tables as module
from geomaestro.data.files.tables import column_of, join, only, parse_columns, read_table
from geomaestro.errors import DataError, GeomaestroError, SpecError

ROWS = [{"id": "a1", "class": "Äcker", "split": "train"}, {"id": "b2", "class": "wood, dry", "split": "test"}]


def write_csv(path: Path, comma: str = ",", encoding: str = "utf-8") -> Path:
    quoted = [comma.join(f'"{value}"' for value in row.values()) for row in ROWS]
    path.write_text("\n".join([comma.join(ROWS[0]), *quoted]) + "\n", encoding=encoding)
    return path


def write_geojson(path: Path) -> Path:
    point = {"type": "Point", "coordinates": [10.0, 50.0]}
    features = [{"type": "Feature", "id": 9, "properties": row, "geometry": point} for row in ROWS]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


def write_gpkg(path: Path, tables: tuple[str, ...] = ("tiles",)) -> Path:
    database = sqlite3.connect(path)
    database.execute("create table gpkg_contents (table_name text)")
    for name in tables:
        database.execute("insert into gpkg_contents values (?)", (name,))
        database.execute(f'create table "{name}" (id text, class text, split text)')
        database.executemany(f'insert into "{name}" values (?, ?, ?)', [tuple(row.values()) for row in ROWS])  # noqa: S608 -- made here
    database.commit()
    database.close()
    return path


def write_parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def refused(path: Path) -> str:
    with pytest.raises(GeomaestroError) as caught:
        read_table(path)
    return str(caught.value)


def test_every_kind_of_table_gives_the_same_rows(tmp_path: Path) -> None:
    paths = [
        write_csv(tmp_path / "t.csv"),
        write_csv(tmp_path / "bom.CSV", encoding="utf-8-sig"),  # as spreadsheets write it
        write_csv(tmp_path / "t.tsv", "\t"),
        write_parquet(tmp_path / "t.parquet"),
        write_geojson(tmp_path / "t.geojson"),
        write_geojson(tmp_path / "t.json"),
        write_gpkg(tmp_path / "t.gpkg"),
        write_gpkg(tmp_path / "odd #1?.gpkg", ("my tiles",)),
    ]
    for path in paths:
        assert [{k: row[k] for k in ROWS[0]} for row in read_table(path)] == ROWS, path


def test_a_feature_keeps_its_geometry_and_its_own_id(tmp_path: Path) -> None:
    row = read_table(write_geojson(tmp_path / "t.geojson"))[0]
    assert row["geometry"]["coordinates"] == [10.0, 50.0] and row["id"] == "a1"
    path = tmp_path / "bare.geojson"
    path.write_text(json.dumps([{"id": 9, "properties": {"class": "x"}}]))
    assert read_table(path) == [{"class": "x", "id": 9, "geometry": None}]


def test_a_plain_list_has_a_name_per_line(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("Forest_1.tif\n\n  River_2.tif \n")
    assert read_table(path) == [{"name": "Forest_1.tif"}, {"name": "River_2.tif"}]


def test_types_of_parquet_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": [7], "dates": [["20190701", "20190702"]], "lon": [1.5]}), path)
    assert read_table(path) == [{"id": 7, "dates": ["20190701", "20190702"], "lon": 1.5}]


# ---- what is wrong ----


def test_a_missing_table_says_what_to_check(tmp_path: Path) -> None:
    assert refused(tmp_path / "t.csv") == (
        f"{tmp_path / 't.csv'}: no such file; is `data.root` the folder of the dataset, and the split spelled right?"
    )


def test_a_table_of_an_unknown_kind_names_the_known_ones(tmp_path: Path) -> None:
    for name, said in (("t.xlsx", ".xlsx"), ("t", "a file without suffix")):
        (tmp_path / name).write_text("x")
        text = refused(tmp_path / name)
        assert text.startswith(f"{tmp_path / name}: tables are read from .csv, .tsv, ") and text.endswith(f"not {said}")


@pytest.mark.parametrize("text", ["id,class\n", "id,class", ""])
def test_a_table_without_rows_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert refused(tmp_path / "t.csv") == f"{tmp_path / 't.csv'}: has no samples"


@pytest.mark.parametrize("line", ["a1", "a1,x,y"])
def test_a_row_of_another_length_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "t.csv").write_text(f"id,class\nb2,x\n{line}\n")
    assert refused(tmp_path / "t.csv") == (
        f"{tmp_path / 't.csv'}: line 3 has another number of columns than the first; was it cut short?"
    )


@pytest.mark.parametrize("name", ["t.csv", "t.txt", "t.geojson"])
def test_text_that_is_not_utf8_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes('id\n"Äcker"\n'.encode("latin-1"))
    assert refused(tmp_path / name).startswith(f"{tmp_path / name}: ")
    assert "utf-8" in refused(tmp_path / name)


@pytest.mark.parametrize("keep", [0, 0.3, 0.9])
@pytest.mark.parametrize(
    ("write", "name", "said"),
    [
        (write_parquet, "t.parquet", "not a readable Parquet file"),
        (write_geojson, "t.geojson", "not a readable GeoJSON"),
        (write_gpkg, "t.gpkg", "not a readable GeoPackage"),
    ],
)
def test_a_truncated_table_is_named(tmp_path: Path, write: Any, name: str, said: str, keep: float) -> None:
    path = write(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert refused(path).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    "text", ['{"type": "Point"}', "7", "[7]", '[{"properties": null}]', '[{"properties": "ab"}]', "[" * 100_000]
)
def test_json_that_is_no_list_of_features_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    assert refused(tmp_path / "t.json").startswith(f"{tmp_path / 't.json'}: not a readable GeoJSON feature collection")


def test_a_geopackage_of_several_tables_is_refused_with_their_names(tmp_path: Path) -> None:
    path = write_gpkg(tmp_path / "t.gpkg", ("tiles", "zones"))
    assert refused(path) == f"{path}: has the tables tiles, zones; one is expected"


def test_a_table_of_text_that_is_too_big_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEXT_BYTES", 10)
    path = write_csv(tmp_path / "t.csv")
    assert refused(path) == f"{path}: {path.stat().st_size} bytes is too big for a table; write it as Parquet"


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(DataError) as caught:
        column_of({"id": 1, "class": 2}, "klass", "t.csv")
    assert str(caught.value) == "t.csv: lacks the column klass; it has id, class"


# ---- columns taken apart, rows joined and chosen ----


def test_columns_are_taken_apart_as_their_patterns_say() -> None:
    rows: list[dict[str, Any]] = [{"patch": "D001_UU_3-4"}, {"patch": "D002_AN_10-2"}]
    parse_columns(rows, {"patch": "{domain}_{area}_{pos}", "pos": "{row}-{col}"}, Path("t.csv"))
    assert [row["domain"] + row["area"] + row["row"] + row["col"] for row in rows] == ["D001UU34", "D002AN102"]


def test_a_value_of_another_form_is_named() -> None:
    with pytest.raises(DataError) as caught:
        parse_columns([{"patch": "D001"}], {"patch": "{domain}_{area}"}, Path("t.csv"))
    assert str(caught.value) == "t.csv: column 'patch' holds 'D001', which is not of the form '{domain}_{area}'"


def test_columns_of_a_second_table_come_by_key() -> None:
    rows: list[dict[str, Any]] = [{"id": "2"}, {"id": "1"}, {"id": "2"}]
    second = [{"number": 1, "day": "20190101"}, {"number": 2, "day": "20190202"}]
    join(rows, second, "{number}", "{id}", {"date": "day"}, Path("b.csv"))
    assert [row["date"] for row in rows] == ["20190202", "20190101", "20190202"]


def test_a_row_that_a_second_table_lacks_is_named() -> None:
    second = [{"number": n, "day": n} for n in range(9)]
    with pytest.raises(DataError) as caught:
        join([{"id": "12"}], second, "{number}", "{id}", {"date": "day"}, Path("b.csv"))
    assert str(caught.value) == "b.csv: has no row for '12'; it has 0, 1, 2 ... (9)"


def test_a_column_that_a_second_table_lacks_is_named() -> None:
    with pytest.raises(DataError, match=r"b\.csv: lacks the column date; it has number, day"):
        join([{"id": "1"}], [{"number": 1, "day": 1}], "{number}", "{id}", {"date": "date"}, Path("b.csv"))


def test_rows_are_chosen_by_a_column_whatever_its_type() -> None:
    rows = [{"fold": 1}, {"fold": "2"}, {"fold": 3}]
    assert only(rows, "fold", (2, 3), "t.csv") == rows[1:]
    with pytest.raises(SpecError) as caught:
        only(rows, "fold", (4, 5), "t.csv")
    assert str(caught.value) == "t.csv: no sample whose fold is 4, 5; there are 1, 2, 3"
