"""How diverse datasets are: tables of samples against what was written into the files, refusals by their text."""

import datetime
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import shapely
from rasterio.warp import transform
from scipy import stats

from geomaestro.cli import app
from geomaestro.data.packing.jobs import Jobs
from geomaestro.data.packing.plan import Source
from geomaestro.data.quality.likeness import picture_hashes
from geomaestro.errors import DataError, GeomaestroError, SpecError
from geomaestro.report.diversity_page import diversity_tables, method, notes, render, unlike
from geomaestro.select.asked import works
from geomaestro.select.diversity import classes, spectral, summarise
from geomaestro.select.entropy import SpectralOptions
from geomaestro.select.geography import Layers
from geomaestro.select.layers import LayerSource
from geomaestro.select.measure import ImagesWork, MeasureOptions, Meter, chosen_sensor
from geomaestro.select.placelist import TableWork
from geomaestro.select.redundancy import Gram, twins
from geomaestro.select.table import about_of, read_table, write_table
from geomaestro.select.wishes import Columns, Counting, Ground, Reading
from geomaestro.select.work import make_table
from tests.filesets import CORNER, CRS, sensor, spec_of, write_csv, write_tif

ROME, LIMA, SEA = (12.5, 41.9), (-77.0, -12.0), (-30.0, 30.0)
IMAGE = SpectralOptions(range="image", bins=16)
SERIAL = Jobs(engine="serial")


def smooth(seed: int, side: int = 32, bands: int = 2) -> np.ndarray:
    """A picture (c h w) whose hash is its own."""
    coarse = np.random.default_rng(seed).normal(size=(9, 9))
    rows = np.linspace(0, 8, side)
    picture = np.stack([np.interp(rows, np.arange(9), line) for line in coarse])
    picture = np.stack([np.interp(rows, np.arange(9), line) for line in picture.T]).T
    return np.stack([3000 + 500 * picture + 10 * band for band in range(bands)]).astype(np.uint16)


def write_images(folder: Path, pictures: dict[str, np.ndarray], **rows: Any) -> dict[str, Any]:
    """Images side by side, two days apart; gives the values of their spec."""
    table = []
    for nth, (name, picture) in enumerate(pictures.items()):
        write_tif(folder / f"{name}.tif", picture, corner=(CORNER[0] + 5000 * nth, CORNER[1]))
        day = datetime.date(2020, 2, 27) + datetime.timedelta(2 * nth)
        table.append({"id": name, "date": day.isoformat(), "part": "train" if nth % 2 else "test", **rows})
    write_csv(folder / "table.csv", table)
    side = next(iter(pictures.values())).shape[1]
    return {
        "samples": {"table": "table.csv", "split": "part", "place": "s2"},
        "sensors": {"s2": sensor("{id}.tif", px=side, dates={"column": "date"})},
        "reference_date": "s2",
    }


def images_work(
    folder: Path, out: Path, values: dict[str, Any], layers: Layers | None = None, **options: Any
) -> ImagesWork:
    spec = spec_of(**values)
    measure = MeasureOptions(**{"spectral": IMAGE, **options})
    source = Source(spec, folder, ("train", "test"))
    return ImagesWork.of(source, Meter.of(spec, "made", measure), layers or Layers(), out / "pieces")


def made(folder: Path, out: Path, values: dict[str, Any], jobs: Jobs = SERIAL, **options: Any) -> Path:
    done = make_table(images_work(folder, out, values, **options), out, jobs=jobs)
    assert done.table is not None
    return done.table


def places_work(path: Path, folder: Path, layers: Layers | None = None, **columns: str) -> TableWork:
    return TableWork.of(path, path.stem, columns, layers or Layers(), folder / "pieces")


def write_places(path: Path, *places: tuple[float, float], **more: Any) -> Path:
    return write_csv(path, [{"id": f"p{n}", "lon": x, "lat": y, **more} for n, (x, y) in enumerate(places)])


def table_of(path: Path, out: Path, layers: Layers | None = None, *, sea: bool = False, **columns: str) -> pa.Table:
    done = make_table(places_work(path, out, layers, **columns), out, jobs=SERIAL, sea=sea)
    assert done.table is not None
    return read_table(done.table)


def command(*words: object) -> str:
    """Run the command in this process; gives the message where it refuses."""
    try:
        app(["diversity", *map(str, words)], result_action="return_value")
    except GeomaestroError as error:
        return str(error)
    return ""


# --- samples of images


def test_the_table_has_what_was_written_into_the_files(tmp_path):
    pictures = {name: smooth(seed) for seed, name in enumerate("abcd")}
    values = write_images(tmp_path / "data", pictures)
    table = read_table(made(tmp_path / "data", tmp_path, values))
    rows = {row["id"]: row for row in table.to_pylist()}
    assert [row["id"] for row in table.to_pylist()] == ["b", "d", "a", "c"]  # train, then test
    for nth, (name, picture) in enumerate(pictures.items()):
        row = rows[name]
        (lon,), (lat,) = transform(CRS, "EPSG:4326", [CORNER[0] + 5000 * nth + 160], [CORNER[1] - 160])
        assert (row["lon"], row["lat"]) == (pytest.approx(lon, abs=1e-5), pytest.approx(lat, abs=1e-5))
        assert row["date"] == datetime.date(2020, 2, 27) + datetime.timedelta(2 * nth)
        assert row["season"] == ("winter" if nth < 2 else "spring")  # 27 and 29 February, 2 and 4 March
        assert row["continent"] == "Europe" and row["biome"] is None and row["dates"] == 1
        wanted = np.mean([stats.entropy(np.histogram(band, 16)[0]) for band in picture])
        assert row["spectral_entropy"] == pytest.approx(wanted, abs=0.02)
        assert row["picture_hash"] == int(picture_hashes(picture[None], None)[0]) != 0
        assert row["width_m"] == pytest.approx(320, rel=0.01) and row["height_m"] == pytest.approx(320, rel=0.01)


def test_how_it_was_measured_stands_beside_the_numbers(tmp_path):
    values = write_images(tmp_path / "data", {name: smooth(seed) for seed, name in enumerate("abcd")})
    path = made(tmp_path / "data", tmp_path, values)
    about = about_of(path)
    assert about["options"]["spectral"] == IMAGE.model_dump(mode="json")
    assert (about["sensor"], about["bands"], about["samples"]) == ("s2", ["b0", "b1"], 4)
    assert method(summarise(path)).startswith("sensor s2, bands b0, b1; 16 bins over the range of each image and band;")


def test_clouds_and_nodata_do_not_count(tmp_path):
    picture, flags = smooth(1), np.zeros((1, 32, 32), np.uint8)
    flags[0, :, :16] = 9
    picture[:, 30:] = 0
    values = write_images(tmp_path / "data", {"a": picture, "b": smooth(2)})
    for name in "ab":
        write_tif(tmp_path / f"data/{name}_flags.tif", flags)
    values["sensors"]["s2"] |= {"nodata": 0, "clouds": {"path": "{id}_flags.tif", "values": [9]}}
    rows = {row["id"]: row for row in read_table(made(tmp_path / "data", tmp_path, values)).to_pylist()}
    wanted = np.mean([stats.entropy(np.histogram(band[:30, 16:], 16)[0]) for band in picture])
    assert rows["a"]["spectral_entropy"] == pytest.approx(wanted, abs=0.02)


def test_crops_are_samples_of_their_own(tmp_path):
    picture = smooth(3, side=64)
    values = write_images(tmp_path / "data", {"a": picture, "b": smooth(4, side=64)})
    values |= {"crop": {"size_m": 320, "tile_m": 640, "cover": 2}}
    values["sensors"]["s2"]["input"]["size_px"] = 32
    values["sensors"]["s2"]["to_px"] = 64
    path = made(tmp_path / "data", tmp_path, values, crops=True)
    rows = {row["id"]: row for row in read_table(path).to_pylist()}
    assert len(rows) == 8 and set(rows) == {f"{name}/{r}-{c}" for name in "ab" for r in (0, 1) for c in (0, 1)}
    (lon,), (lat,) = transform(CRS, "EPSG:4326", [CORNER[0] + 480], [CORNER[1] - 160])  # upper right quarter
    assert rows["a/0-1"]["lon"] == pytest.approx(lon, abs=1e-6) and rows["a/0-1"]["lat"] == pytest.approx(lat, abs=1e-6)
    wanted = np.mean([stats.entropy(np.histogram(band[:32, 32:], 16)[0]) for band in picture])
    assert rows["a/0-1"]["spectral_entropy"] == pytest.approx(wanted, abs=0.02)
    assert rows["a/0-1"]["width_m"] == pytest.approx(320, rel=0.01)
    with pytest.raises(SpecError, match="made: its spec cuts no crops"):
        images_work(tmp_path / "data", tmp_path, {**values, "crop": None}, crops=True)


def test_the_sensor_is_the_first_sentinel_2_or_the_one_named(tmp_path):
    values = write_images(tmp_path / "data", {"a": smooth(0), "b": smooth(1)})
    sentinel = sensor("{id}.tif", px=32, unit="reflectance_1e4") | {"bands": ["B8A", "B12"]}
    spec = spec_of(
        **values
        | {"sensors": {"many": sensor("{id}.tif", bands=5, px=32), "s2": sentinel}, "reference_date": [2020, 1, 0]}
    )
    assert chosen_sensor(spec, None) == "s2" and chosen_sensor(spec, "many") == "many"
    with pytest.raises(SpecError, match="made: has no sensor 's3'; it has many, s2"):
        chosen_sensor(spec, "s3")


def test_samples_without_a_place_still_have_a_spectral_entropy(tmp_path):
    values = write_images(tmp_path / "data", {"a": smooth(0), "b": smooth(1)})
    del values["samples"]["place"]
    for seed, name in enumerate("ab"):
        write_tif(tmp_path / f"data/{name}.tif", smooth(seed), corner=None)
    summary = summarise(made(tmp_path / "data", tmp_path, values))
    assert summary["placed"] == 0 and summary["continent"] is None and summary["places"] == []
    assert summary["spectral_entropy"]["known"] == 2
    assert "2 samples of 2 without a place: no continent, biome, season" in list(notes(summary))
    assert "No places are known" in render([summary])


def test_unreadable_samples_are_listed_with_reasons_and_measured_once_mended(tmp_path):
    pictures = {name: smooth(seed) for seed, name in enumerate("abcd")}
    values = write_images(tmp_path / "data", pictures)
    whole = (tmp_path / "data/c.tif").read_bytes()
    (tmp_path / "data/c.tif").write_bytes(whole[:900])
    (tmp_path / "data/b.tif").unlink()
    path = made(tmp_path / "data", tmp_path, values)
    assert read_table(path)["id"].to_pylist() == ["d", "a"]
    listed = [json.loads(line) for line in (tmp_path / "made-unreadable.jsonl").read_text().splitlines()]
    assert [(row["id"], row["split"]) for row in listed] == [("b", "train"), ("c", "test")]
    assert "no such file" in listed[0]["reason"] and "c.tif: unreadable" in listed[1]["reason"]
    assert "2 samples can't be read, listed in made-unreadable.jsonl" in list(notes(summarise(path)))
    (tmp_path / "data/c.tif").write_bytes(whole)
    assert read_table(made(tmp_path / "data", tmp_path, values))["id"].to_pylist() == ["d", "a", "c"]


def test_where_nothing_can_be_read_the_first_reason_is_told(tmp_path):
    values = write_images(tmp_path / "data", {"a": smooth(0), "b": smooth(1)})
    for name in "ab":
        (tmp_path / f"data/{name}.tif").write_bytes(b"no raster")
    with pytest.raises(DataError, match=r"made: none of 2 samples can be read; the first: .*b.tif: unreadable"):
        made(tmp_path / "data", tmp_path, values)


# --- pieces


def many(folder: Path) -> dict[str, Any]:
    return write_images(folder, {f"n{n:03d}": smooth(n, side=16) for n in range(24)})


@pytest.mark.parametrize("engine", ["processes", "dask"])
def test_every_engine_gives_the_same_table_bit_for_bit(tmp_path, engine):
    values = many(tmp_path / "data")
    alone = made(tmp_path / "data", tmp_path / "one", values).read_bytes()
    assert made(tmp_path / "data", tmp_path / "two", values, Jobs(engine=engine, workers=2)).read_bytes() == alone


def test_shares_meet_in_one_folder_and_the_last_writes_the_table(tmp_path):
    values = many(tmp_path / "data")
    alone = made(tmp_path / "data", tmp_path / "one", values).read_bytes()
    work = images_work(tmp_path / "data", tmp_path / "two", values)
    first = make_table(work, tmp_path / "two", jobs=Jobs(engine="serial", shard=(1, 2)))
    assert first.table is None and first.unfinished == 12
    last = make_table(work, tmp_path / "two", jobs=Jobs(engine="serial", shard=(0, 2)))
    assert last.table is not None and last.table.read_bytes() == alone


def test_a_killed_run_goes_on_and_gives_the_same_table(tmp_path):
    """Killed after some pieces: these are not made again, and the table is that of a run left alone, bit for bit."""
    values = many(tmp_path / "data")
    alone = made(tmp_path / "data", tmp_path / "one", values).read_bytes()
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import time
from pathlib import Path
import tests.test_diversity as t
from geomaestro.select.measure import ImagesWork
whole = ImagesWork.piece
def slow(self, item):
    time.sleep(0.1)
    return whole(self, item)
ImagesWork.piece = slow
folder = Path({str(tmp_path)!r})
t.made(folder / "data", folder / "two", {values!r})
"""
    running = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    pieces = tmp_path / "two/pieces"
    while not pieces.is_dir() or len(list(pieces.glob("rows-*.parquet"))) < 3:
        assert running.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "two/made.parquet").exists()
    kept = {path: path.stat().st_mtime_ns for path in pieces.glob("measured-*.parquet")}
    assert 3 <= len(kept) < 24
    assert made(tmp_path / "data", tmp_path / "two", values).read_bytes() == alone
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_another_layer_does_not_measure_the_images_again(tmp_path):
    values = many(tmp_path / "data")
    made(tmp_path / "data", tmp_path, values)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "pieces").glob("measured-*")}
    layer = tmp_path / "layer.geojson"
    write_square(layer, "meadow", (0, 40, 20, 60))
    work = images_work(tmp_path / "data", tmp_path, values, Layers(biome=LayerSource(str(layer))))
    done = make_table(work, tmp_path, jobs=SERIAL)
    assert done.table is not None and set(read_table(done.table)["biome"].to_pylist()) == {"meadow"}
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "pieces").glob("measured-*")}


def write_square(path: Path, name: str, box: tuple[float, float, float, float]) -> Path:
    shape = json.loads(shapely.to_geojson(shapely.box(*box)))
    feature = {"type": "Feature", "properties": {"name": name}, "geometry": shape}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


# --- tables of places


def test_the_labels_of_worldstrat_have_scipys_entropy(data_dir, tmp_path):
    path = data_dir / "geography/worldstrat.csv"
    labels = pa_csv.read_csv(path, parse_options=pa_csv.ParseOptions(newlines_in_values=True))["IPCC"].to_pylist()
    make_table(places_work(path, tmp_path, land_cover="IPCC"), tmp_path, jobs=SERIAL)
    found = summarise(tmp_path / "worldstrat.parquet")
    assert found["land_cover"]["counts"] == dict(Counter(labels))
    assert found["land_cover"]["entropy"] == pytest.approx(stats.entropy(list(Counter(labels).values())), abs=1e-12)
    assert found["samples"] == 3449 and found["at_sea"] <= 2


def test_sites_of_ssl4eo_are_placed_by_their_shapes_and_dated(data_dir, tmp_path):
    path = data_dir / "geography/ssl4eo_s12_v11_val.parquet"
    table = table_of(path, tmp_path)
    told = pq.read_table(path, columns=["idx", "geometry", "time"])
    assert table["id"].to_pylist() == told["idx"].to_pylist()  # not `sample_id`, which four seasons share
    middle = shapely.centroid(shapely.from_wkb(told["geometry"].to_pylist()[5]))
    assert (table["lon"][5].as_py(), table["lat"][5].as_py()) == pytest.approx((middle.x, middle.y), abs=1e-9)
    assert table["date"][5].as_py() == told["time"][5].as_py().date()
    seasons = Counter(table["season"].to_pylist())
    assert sum(seasons.values()) == 8704 and min(seasons.values()) > 2100


@pytest.mark.parametrize(
    "heads", [("lon", "lat"), ("Longitude", "Latitude"), ("center_lon", "center_lat"), ("LNG", "LAT")]
)
def test_usual_names_of_columns_are_recognised(tmp_path, heads):
    write_csv(tmp_path / "p.csv", [dict(zip(heads, place, strict=True)) for place in (ROME, LIMA)])
    table = table_of(tmp_path / "p.csv", tmp_path)
    assert table["continent"].to_pylist() == ["Europe", "South America"]
    assert table["id"].to_pylist() == ["0", "1"]  # no column names the rows


def test_columns_that_could_each_be_meant_are_asked_for(tmp_path):
    path = write_csv(tmp_path / "p.csv", [{"longitude": 0, "center_lon": 12.5, "lat": 41.9}])
    said = r"p.csv: longitude, center_lon could each be the lon; say which with --lon COLUMN"
    with pytest.raises(DataError, match=said):
        table_of(path, tmp_path)
    assert table_of(path, tmp_path, lon="center_lon")["continent"].to_pylist() == ["Europe"]


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([{"x": 1, "y": 2}], {}, r"p.csv: no column is recognised as lon and lat; say which with --lon COLUMN --lat"),
        ([{"lon": 1, "y": 2}], {}, r"p.csv: no column is recognised as lat; .*; it has lon, y"),
        ([{"lon": 1, "lat": 2}], {"lon": "x"}, r"p.csv: has no column 'x'; it has lon, lat"),
        ([{"lon": 1, "lat": 2}], {"colour": "lon"}, r"--column colour=lon: 'colour' is none of lon, lat, id"),
        ([{"lon": "east", "lat": 2}], {}, r"p.csv: row 1: lon is 'east', not a number of degrees"),
        ([{"lon": 12, "lat": 42, "date": "soon"}], {}, r"p.csv: column 'date' holds 'soon', no date such as 2020"),
        ([{"lon": 12, "lat": 42, "k": "a"}] * 2, {"id": "k"}, r"p.csv: column 'k' holds 1 names twice"),
        ([{"lon": 512_000, "lat": 42}], {}, r"p: '0' at longitude 512000, latitude 42 is not on Earth: give degrees"),
        ([{"lon": 41.9, "lat": 112.5}], {}, r"p: '0' at longitude 41.9, latitude 112.5 is not on Earth: longitude and"),
        ([{"lon": y, "lat": x} for x, y in [ROME, (2.3, 48.8), (13.4, 52.5), (-3.7, 40.4), (21, 52.2)]], {},
         r"p: .* of the places lie at sea, and 100% on land if longitude and latitude are swapped"),
        ([{"lon": SEA[0], "lat": SEA[1] + n} for n in range(3)], {},
         r"p: 3 of 3 places lie at sea; check their coordinates, or say --sea if they are meant to"),
    ],
)  # fmt: skip
def test_a_table_that_can_not_be_meant_is_refused(tmp_path, rows, columns, said):
    path = write_csv(tmp_path / "p.csv", rows)
    with pytest.raises((DataError, SpecError), match=said):
        table_of(path, tmp_path, **columns)


def test_a_place_at_sea_is_counted_and_kept(tmp_path):
    path = write_places(tmp_path / "p.csv", ROME, LIMA, SEA)
    table = table_of(path, tmp_path)
    assert table["continent"].to_pylist() == ["Europe", "South America", ""]
    summary = summarise(tmp_path / "p.parquet")
    assert (summary["placed"], summary["at_sea"], summary["continent"]["known"]) == (3, 1, 2)
    assert "1 sample at sea, on no continent" in list(notes(summary))
    at_sea = write_places(tmp_path / "s.csv", SEA)
    assert table_of(at_sea, tmp_path, sea=True)["continent"].to_pylist() == [""]


def test_missing_coordinates_are_counted(tmp_path):
    write_csv(tmp_path / "p.csv", [{"lon": 12.5, "lat": 41.9}, {"lon": "", "lat": 3}, {"lon": "", "lat": ""}])
    assert table_of(tmp_path / "p.csv", tmp_path)["continent"].to_pylist() == ["Europe", None, None]
    assert "2 samples of 3 without a place: no continent, biome, season" in list(
        notes(summarise(tmp_path / "p.parquet"))
    )


def test_tables_that_are_damaged_or_empty_are_refused(tmp_path):
    pq.write_table(pa.table({"lon": pa.array([1.0] * 5000), "lat": pa.array([2.0] * 5000)}), tmp_path / "w.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "w.parquet").read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cut.parquet: unreadable table, probably cut short"):
        table_of(tmp_path / "cut.parquet", tmp_path)
    (tmp_path / "cut.csv").write_text("id,lon,lat\na,12.5,41.9\nb,12")
    with pytest.raises(DataError, match=r"cut.csv: unreadable table, probably cut short"):
        table_of(tmp_path / "cut.csv", tmp_path)
    (tmp_path / "head.csv").write_text("id,lon,lat\n")
    with pytest.raises(DataError, match=r"head.csv: has no rows"):
        table_of(tmp_path / "head.csv", tmp_path)
    (tmp_path / "none.csv").write_text("")
    with pytest.raises(DataError, match=r"none.csv: is empty \(0 bytes\)"):
        table_of(tmp_path / "none.csv", tmp_path)
    with pytest.raises(DataError, match=r"gone.csv: no such file"):
        table_of(tmp_path / "gone.csv", tmp_path)


def test_a_layer_that_covers_no_place_is_refused(tmp_path):
    path = write_places(tmp_path / "p.csv", ROME, LIMA)
    layer = write_square(tmp_path / "far.geojson", "taiga", (100, 60, 110, 70))
    with pytest.raises(DataError, match=r"far.geojson: covers none of the 2 places of p; is it of another region\?"):
        table_of(path, tmp_path, Layers(biome=LayerSource(str(layer))))
    near = write_square(tmp_path / "near.geojson", "maquis", (10, 40, 14, 44))
    assert table_of(path, tmp_path, Layers(biome=LayerSource(str(near))))["biome"].to_pylist() == ["maquis", None]
    assert "1 sample without biome" in list(notes(summarise(tmp_path / "p.parquet")))


def test_a_table_that_was_measured_keeps_what_it_has(tmp_path):
    values = write_images(tmp_path / "data", {name: smooth(seed) for seed, name in enumerate("abcd")})
    whole = read_table(made(tmp_path / "data", tmp_path, values))
    write_table(tmp_path / "subset.parquet", whole.slice(1, 2), about_of(whole))
    again = table_of(tmp_path / "subset.parquet", tmp_path / "again")
    for column in ("id", "split", "lon", "date", "season", "continent", "spectral_entropy", "picture_hash"):
        assert again[column].to_pylist() == whole[column].to_pylist()[1:3]
    assert method(summarise(tmp_path / "again/subset.parquet")).startswith("sensor s2, bands b0, b1; 16 bins")


# --- numbers


def test_classes_by_hand():
    found = classes({"a": 2, "b": 1, "c": 1, "at sea": 3}, samples=9)
    assert found is not None
    assert found["entropy"] == pytest.approx(1.5 * np.log(2)) and (found["known"], found["unknown"]) == (4, 2)
    assert found["effective"] == pytest.approx(2**1.5)
    assert classes({"at sea": 3}, samples=3) is None


def test_spectral_summary_by_hand():
    found = spectral(np.asarray([1.0, 2.0, 3.0, np.nan], np.float32))
    assert found is not None and (found["known"], found["unknown"], found["mean"], found["std"]) == (3, 1, 2.0, 1.0)
    assert found["standard_error"] == pytest.approx(1 / 3**0.5)
    assert sum(found["histogram"]["counts"]) == 3
    assert spectral(np.asarray([np.nan], np.float32)) is None


def test_copies_are_found_by_hash_and_confirmed_by_pixels(tmp_path):
    pictures = {name: smooth(seed) for seed, name in enumerate("abcdef")}
    noise = np.random.default_rng(0).integers(0, 6, pictures["a"].shape).astype(np.uint16)
    pictures |= {"a2": pictures["a"] + noise, "a3": pictures["a"].copy()}
    values = write_images(tmp_path / "data", pictures)
    work = images_work(tmp_path / "data", tmp_path, values)
    done = make_table(work, tmp_path, jobs=SERIAL)
    assert done.table is not None
    found = summarise(done.table, work.shown)["redundancy"]
    assert (found["hashed"], found["redundant"], found["certain"]) == (8, 2, True)
    assert found["share"] == pytest.approx(2 / 8) and found["alike_pairs"] == found["near_pairs"] >= 2
    assert all(set(pair) <= {"a", "a2", "a3"} for pair in found["examples"])


def test_the_same_hash_of_other_pictures_is_no_copy():
    hashes = np.asarray([5, 5, 5, 0, 0], np.uint64)
    by_hash = twins(hashes, None)
    assert (by_hash.hashed, by_hash.redundant, by_hash.certain) == (3, 2, False)
    shown = [smooth(seed)[0] for seed in range(5)]
    apart = twins(hashes, lambda rows: [shown[row] for row in rows])
    assert (apart.redundant, apart.alike, apart.compared, apart.certain) == (0, 0, 2, True)


def test_linked_samples_count_once_less_than_they_are():
    """1 and 2 differ in a bit, 2 and 4 in another: one picture of the three could stay."""
    hashes = np.asarray([0b0001, 0b0011, 0b0111, 1 << 40, 0b1111 << 50], np.uint64)
    found = twins(hashes, None)
    assert found.redundant == 2 + 1  # 1 << 40 is two bits from 0b0001
    brute = {(i, j) for i in range(5) for j in range(i) if bin(int(hashes[i] ^ hashes[j])).count("1") <= 3}
    assert found.near == len(brute)


def test_effective_rank_is_that_of_the_singular_values():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 12)) * np.geomspace(1, 0.01, 12) + rng.normal(size=12)
    gram = Gram()
    for part in np.array_split(x, 7):
        gram.add(part)
    for centred, matrix in ((False, x), (True, x - x.mean(axis=0))):
        singular = np.linalg.svd(matrix, compute_uv=False)
        wanted = np.exp(stats.entropy(singular))
        assert gram.effective_rank(centred=centred) == pytest.approx(wanted, rel=1e-6)
    even = Gram()
    even.add(np.eye(8))
    assert even.effective_rank(centred=False) == pytest.approx(8)
    line = Gram()
    line.add(np.outer(np.arange(1, 9), np.ones(5)))
    assert line.effective_rank(centred=False) == pytest.approx(1)


# --- the command


def test_the_command_writes_tables_numbers_and_a_page(tmp_path, capsys):
    values = write_images(tmp_path / "data", {name: smooth(seed) for seed, name in enumerate("abcd")})
    (tmp_path / "data/dataset.yaml").write_text(json.dumps({"name": "made", "kind": "files", **values}))
    write_places(tmp_path / "<b>sites.csv", ROME, LIMA, SEA)
    data = [tmp_path / "data/dataset.yaml", tmp_path / "<b>sites.csv"]
    assert command(*data, "--range", "image", "--bins", "16", "-o", tmp_path / "out", "--engine", "serial") == ""
    said = capsys.readouterr().out
    assert "note" in said and "1 sample at sea" in said
    numbers = json.loads((tmp_path / "out/diversity.json").read_text())
    assert [each["name"] for each in numbers] == ["made", "<b>sites"]
    assert read_table(tmp_path / "out/made.parquet").num_rows == 4
    page = (tmp_path / "out/diversity.html").read_text()
    assert "<b>sites" not in page and "&lt;b&gt;sites" in page
    assert not re.search(r'(src|href)="(?!#|data:)', page) and "<script" not in page


def test_entropies_measured_in_different_ways_are_not_to_be_compared(tmp_path):
    values = write_images(tmp_path / "data", {"a": smooth(0), "b": smooth(1)})
    other = SpectralOptions(range="image", bins=8)
    found = [
        summarise(made(tmp_path / "data", tmp_path / str(n), values, spectral=how))
        for n, how in enumerate((IMAGE, other))
    ]
    said = "were measured in different ways and can't be compared"
    assert unlike(found[:1]) is None and said in str(unlike(found))
    assert said.replace("'", "&#39;") in render(found)


def test_bad_words_of_the_command_are_refused(tmp_path):
    sites = write_places(tmp_path / "p.csv", ROME, LIMA)
    out = ("-o", tmp_path / "out", "--engine", "serial")
    assert "--base: 'two' is no number" in command(sites, "--base", "two", *out)
    assert "spectral.bins" in command(sites, "--bins", "1", *out)
    assert "--column biome: write it as land_cover=COLUMN" in command(sites, "--column", "biome", *out)
    assert "--range: 'a' is no number" in command(sites, "--range", "a,b", *out)
    assert "say with --root where the files of eurosat_ms are" in command("eurosat_ms", *out)
    assert "2 --root for 1 datasets" in command("eurosat_ms", "--root", "a", "--root", "b", *out)
    assert "no built-in dataset 'nothing'" in command("nothing", *out)
    assert "p: a table of places has no images to embed" in command(sites, "--model", "m", *out)


def test_datasets_of_one_name_are_numbered(tmp_path):
    sites = write_places(tmp_path / "p.csv", ROME)
    found = works([str(sites), str(sites)], Reading(), tmp_path, Counting(), Ground(), Columns())
    assert [work.name for work in found] == ["p", "p-2"]


def test_series_of_single_pixels_need_their_dates_pooled(data_dir, tmp_path):
    root = data_dir / "worldcereal_series"
    counting = Counting(pooled=True, least_pixels=12)
    reading = Reading(root=(root,), splits=("val",))
    plain, pooled = (
        works(["worldcereal_series"], reading, tmp_path / str(n), each, Ground(), Columns())[0]
        for n, each in enumerate((Counting(), counting))
    )
    without = summarise(make_table(plain, tmp_path / "0", jobs=SERIAL).table)
    assert without["spectral_entropy"] is None
    assert any("no image has 32 valid pixels" in note for note in notes(without))
    found = summarise(make_table(pooled, tmp_path / "1", jobs=SERIAL).table)
    assert 1 < found["spectral_entropy"]["mean"] < np.log(24)
    assert "\n".join(map(str, diversity_tables([found])))


def test_the_store_gives_what_the_files_give(tmp_path):
    from geomaestro.data.packing.pack import pack

    values = write_images(tmp_path / "data", {name: smooth(seed) for seed, name in enumerate("abcd")})
    pack(spec_of(**values), tmp_path / "data", tmp_path / "store", ("train", "test"), jobs=SERIAL)
    counting = Counting(range="image", bins=16)
    work = works([str(tmp_path / "store")], Reading(), tmp_path / "out", counting, Ground(), Columns())[0]
    packed = read_table(make_table(work, tmp_path / "out", jobs=SERIAL).table)
    files = read_table(made(tmp_path / "data", tmp_path, values))
    for column in ("id", "split", "date", "season", "continent", "spectral_entropy", "picture_hash"):
        assert packed[column].to_pylist() == files[column].to_pylist()
    assert packed["lon"].to_pylist() == pytest.approx(files["lon"].to_pylist(), abs=1e-6)


def test_a_model_embeds_the_samples(tmp_path):
    from geomaestro.learn.distributed import Ranks, choose_device
    from geomaestro.learn.embed import embed
    from geomaestro.models.mae import Mae, MaeSpec
    from geomaestro.select.work import with_columns

    values = write_images(tmp_path / "data", {name: smooth(seed) for seed, name in enumerate("abcdefgh")})
    values["sensors"]["s2"]["input"] = {"size_px": 32, "patch_px": 8, "dates": 1}
    work = images_work(tmp_path / "data", tmp_path, values)
    spec = work.source.spec
    inputs = {"s2": spec.sensors["s2"].model_input().model_dump(mode="json")}
    encoder = {"inputs": inputs, "dim": 16, "depth": 2, "heads": 2, "head_dim": 8, "mlp_ratio": 2.0, "joint_blocks": 0}
    model = Mae(MaeSpec.model_validate({"encoder": encoder, "decoder": {"dim": 16, "heads": 2, "depth": 1}})).encoder
    done = make_table(work, tmp_path, jobs=SERIAL)
    assert done.table is not None
    before = read_table(done.table)
    pieces = embed(work, model, "made", jobs=SERIAL, ranks=Ranks(device=choose_device("cpu")))
    with_columns(work, done.table, pieces, {"model": "made"})
    after = read_table(done.table)
    assert after.drop_columns(["embedding"]).to_pydict() == before.to_pydict()
    vectors = np.asarray(after["embedding"].to_pylist())
    assert vectors.shape == (8, 16) and len(np.unique(vectors.round(5), axis=0)) == 8
    found = summarise(done.table)["embeddings"]
    assert found["effective_rank"] == pytest.approx(np.exp(stats.entropy(np.linalg.svd(vectors)[1])), rel=1e-4)
    assert about_of(done.table)["model"] == "made"
