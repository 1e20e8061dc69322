"""What `diversity`, `choose` and `audit` once got wrong without a word, or with a traceback: inputs written over, words
passed over, pieces of files that were replaced, ground shared with more than the nearest few.
"""

import datetime
import hashlib
import json
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geomaestro.cli import app
from geomaestro.data.quality.nearness import touching
from geomaestro.errors import DataError, SpecError
from geomaestro.report.diversity_page import notes
from geomaestro.select.asked import works
from geomaestro.select.audit import audit
from geomaestro.select.audited import audit_sets
from geomaestro.select.choose import Options, choose, save
from geomaestro.select.curve import summary
from geomaestro.select.diversity import summarise
from geomaestro.select.entropy import Spectral, SpectralOptions
from geomaestro.select.gather.planning import GatherPlan, claim
from geomaestro.select.gather.spec import load_gather
from geomaestro.select.pieces import Pieces
from geomaestro.select.redundancy import twins
from geomaestro.select.table import read_table
from geomaestro.select.wishes import Columns, Counting, Ground, Reading
from geomaestro.select.work import make_table
from geomaestro.sensors import Scaling, Sensor
from tests.filesets import CORNER, spec_of, write_csv, write_tif
from tests.test_audit import KM, side
from tests.test_choose import make_pool
from tests.test_diversity import (
    LIMA,
    ROME,
    SERIAL,
    command,
    images_work,
    made,
    places_work,
    smooth,
    table_of,
    write_images,
    write_places,
)


def fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refusal(*words: object) -> str:
    """The message of a command that is refused."""
    with pytest.raises((SpecError, DataError)) as told:
        app(list(map(str, words)), result_action="return_value")
    return str(told.value)


# --- nothing is written over what is read


def test_a_table_is_not_measured_over_itself(tmp_path):
    table_of(write_places(tmp_path / "p.csv", ROME, LIMA), tmp_path)
    before = fingerprint(tmp_path / "p.parquet")
    said = refusal("diversity", tmp_path / "p.parquet", "-o", tmp_path)
    assert said.endswith("p.parquet: would be written over by what is made of it; name another place with --out")
    assert fingerprint(tmp_path / "p.parquet") == before
    (tmp_path / "other").mkdir()  # nor over another dataset's table
    write_places(tmp_path / "other/p.csv", ROME)
    assert "written over" in refusal("diversity", tmp_path / "other/p.csv", tmp_path / "p.parquet", "-o", tmp_path)


def test_an_audit_is_not_written_over_its_test_set(tmp_path):
    table_of(write_places(tmp_path / "a.csv", ROME), tmp_path / "tables")
    table_of(write_places(tmp_path / "test.csv", LIMA), tmp_path)
    said = refusal("audit", tmp_path / "tables/a.parquet", tmp_path / "test.parquet", "-o", tmp_path)
    assert "test.parquet: would be written over" in said


@pytest.mark.parametrize(("out", "said"), [("pool.parquet", "is the pool itself"), ("s.json", "ends in .parquet")])
def test_a_subset_is_not_written_over_its_pool_nor_under_its_page(tmp_path, out, said):
    pool = make_pool(tmp_path / "pool.parquet")
    before = fingerprint(pool)
    assert said in refusal("choose", pool, "--budget", 5, "--by", "random", "-o", tmp_path / out)
    with pytest.raises(SpecError, match=said):
        save(choose([pool], 5, "random"), tmp_path / out)
    assert fingerprint(pool) == before and sorted(x.name for x in tmp_path.iterdir()) == ["pool.parquet"]


def test_numbered_names_never_meet(tmp_path):
    for folder in "xy":
        (tmp_path / folder).mkdir()
        write_places(tmp_path / folder / "p.csv", ROME)
    write_places(tmp_path / "p-2.csv", ROME)
    data = [str(tmp_path / name) for name in ("x/p.csv", "y/p.csv", "p-2.csv")]
    found = works(data, Reading(), tmp_path / "out", Counting(), Ground(), Columns())
    assert [work.name for work in found] == ["p", "p-3", "p-2"]


# --- no word is passed over


def test_words_that_a_table_can_not_follow_are_refused(tmp_path):
    sites = write_places(tmp_path / "p.csv", ROME)
    assert "is a table, of which all rows are measured" in command(sites, "--splits", "train", "-o", tmp_path / "o")
    assert "--root: tables of places have no other files" in command(sites, "--root", tmp_path, "-o", tmp_path / "o")
    said = command("worldcereal_series", "--root", tmp_path, "--lon", "x", "-o", tmp_path / "o")
    assert said == "--lon, --lat and --column name columns of a table of places, and none is given"


def test_each_split_that_is_asked_for_must_be_there(tmp_path):
    pool = make_pool(tmp_path / "pool.parquet")
    with pytest.raises(DataError, match="--splits trian: no sample is in them; the pool has test, train"):
        choose([pool], 5, "random", Options(splits=("test", "trian")))
    side(tmp_path / "a.parquet", [(0.0, 0.0)], split=["train"])
    with pytest.raises(DataError, match="has no sample of split vall; it has train"):
        type(side(tmp_path / "b.parquet", [(0.0, 0.0)])).read(tmp_path / "a.parquet", ["train", "vall"])


# --- pieces follow the files


def test_replaced_files_are_measured_again_and_others_are_not(tmp_path):
    values = write_images(tmp_path / "data", {"a": smooth(0), "b": smooth(1), "c": smooth(2)})
    before = read_table(made(tmp_path / "data", tmp_path, values)).to_pylist()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "pieces").glob("*.parquet")}
    write_tif(tmp_path / "data/b.tif", smooth(7), corner=(CORNER[0] + 5000, CORNER[1]))
    after = read_table(made(tmp_path / "data", tmp_path, values)).to_pylist()
    fresh = read_table(made(tmp_path / "data", tmp_path / "fresh", values)).to_pylist()
    assert after == fresh and {row["id"] for row in after if row not in before} == {"b"}
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "pieces").glob("*.parquet")}
    assert len(now) == 6 and sum(now[path] != written[path] for path in now) == 2  # measured and located, of b


def test_a_share_does_not_join_pieces_that_another_made_of_older_files(tmp_path):
    values = write_images(tmp_path / "data", {"a": smooth(0), "b": smooth(1), "c": smooth(2)})
    made(tmp_path / "data", tmp_path, values)
    for nth, name in enumerate("abc"):
        write_tif(tmp_path / f"data/{name}.tif", smooth(7 + nth), corner=(CORNER[0] + 5000 * nth, CORNER[1]))
    shares = [type(SERIAL)(engine="serial", shard=(n, 2)) for n in range(2)]
    first, last = (make_table(images_work(tmp_path / "data", tmp_path, values), tmp_path, jobs=j) for j in shares)
    assert (first.table, first.unfinished) == (None, 1) and last.table is not None
    fresh = made(tmp_path / "data", tmp_path / "fresh", values)
    assert read_table(last.table).to_pylist() == read_table(fresh).to_pylist()


def test_more_shares_than_pieces_leave_some_with_nothing(tmp_path):
    sites = write_places(tmp_path / "p.csv", ROME)
    shares = [type(SERIAL)(engine="serial", shard=(n, 3)) for n in (2, 1, 0)]
    found = [make_table(places_work(sites, tmp_path), tmp_path, jobs=jobs).unfinished for jobs in shares]
    assert found == [1, 1, 0]


def test_tables_of_one_name_size_and_date_are_told_apart(tmp_path):
    found = []
    for folder, place in (("x", ROME), ("y", (12.5, 41.8))):
        (tmp_path / folder).mkdir()
        path = write_places(tmp_path / folder / "p.csv", place)
        path.touch()
        os.utime(path, ns=(10**18, 10**18))
        found.append(places_work(path, tmp_path).copy)
    assert found[0] != found[1]


# --- tables of other programs


@pytest.mark.parametrize(
    ("name", "value"), [("dates", "2020-01-01;2020-02-01"), ("picture_hash", "abc"), ("embedding", "[0.1, 0.2]")]
)
def test_a_column_of_a_known_name_and_other_content_is_told(tmp_path, name, value):
    path = write_places(tmp_path / "p.csv", ROME, LIMA, **{name: value})
    assert f"column '{name}' is not what a table of samples has by this name" in command(path, "-o", tmp_path / "o")


def test_a_column_that_is_there_twice_and_infinite_degrees_are_refused(tmp_path):
    (tmp_path / "twice.csv").write_text("id,lon,lon,lat\na,12.5,13.5,41.9\n")
    assert "lon, lon could each be the lon" in command(tmp_path / "twice.csv", "-o", tmp_path / "o")
    path = write_places(tmp_path / "p.csv", ROME, (float("inf"), 41.9))
    assert "'p1' at longitude inf, latitude 41.9 is not on Earth" in command(path, "-o", tmp_path / "o")


def test_numbers_name_rows_and_rows_without_a_name_are_told(tmp_path):
    # in Python -1 and -2 have one hash
    pq.write_table(pa.table({"id": [-1, -2], "lon": [12.5, 12.6], "lat": [41.9, 41.9]}), tmp_path / "p.parquet")
    assert table_of(tmp_path / "p.parquet", tmp_path / "o")["id"].to_pylist() == ["-1", "-2"]
    path = write_csv(tmp_path / "q.csv", [{"id": name, "lon": 12.5, "lat": 41.9} for name in ("a", "NA", " b")])
    assert table_of(path, tmp_path / "o")["id"].to_pylist() == ["0", "1", "2"]
    assert "no column names each row once, so the ids are the numbers of rows" in list(
        notes(summarise(tmp_path / "o/q.parquet"))
    )
    assert "column 'id' is empty in 1 rows" in command(path, "--column", "id=id", "-o", tmp_path / "n")


def test_dates_in_nanoseconds_and_hashes_below_zero(tmp_path):
    day = pa.array([1_577_836_800_000_000_001], pa.timestamp("ns"))
    pq.write_table(pa.table({"id": ["a"], "lon": [12.5], "lat": [41.9], "date": day}), tmp_path / "p.parquet")
    assert table_of(tmp_path / "p.parquet", tmp_path / "o")["date"].to_pylist() == [datetime.date(2020, 1, 1)]
    pq.write_table(pa.table({"id": ["a"], "picture_hash": pa.array([-1], pa.int64())}), tmp_path / "q.parquet")
    with pytest.raises(DataError, match="holds a value that its column can't have"):
        read_table(tmp_path / "q.parquet")


def test_a_continent_that_is_told_stays_where_the_place_is_unknown(tmp_path):
    columns = {"id": ["a", "b"], "lon": [12.5, None], "lat": [41.9, None], "continent": ["Asia", "Africa"]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    assert table_of(tmp_path / "p.parquet", tmp_path / "o")["continent"].to_pylist() == ["Europe", "Africa"]


# --- choose


def test_a_measure_that_no_sample_has_is_not_drawn(tmp_path, capsys):
    pool = make_pool(tmp_path / "pool.parquet", spectral_entropy=pa.nulls(60, pa.float32()))
    found = summary(choose([pool], 20, "random"))
    assert not any(row["name"].startswith("mean") for row in found["rows"])
    app(
        ["choose", str(pool), "--budget", "20", "--by", "random", "-o", str(tmp_path / "s.parquet")],
        result_action="return_value",
    )
    assert "<svg" in (tmp_path / "s.html").read_text()
    one = [2.0 if nth == 7 else None for nth in range(60)]  # in the pool, in no draw of one
    rare = make_pool(tmp_path / "rare.parquet", spectral_entropy=pa.array(one, pa.float32()))
    app(
        ["choose", str(rare), "--budget", "2", "--by", "random", "-o", str(tmp_path / "r.parquet")],
        result_action="return_value",
    )
    assert json.loads((tmp_path / "r.json").read_text())["rows"]


# --- spectral entropy


def test_a_scaling_to_8_bits_tells_the_range_itself():
    images = np.random.default_rng(0).normal(100, 20, (1, 2, 64, 64)).clip(0, 255).astype(np.uint8)
    known = {"bands": ("r", "g"), "gsd_m": 10.0, "unit": "dn8"}
    plain = Sensor(**known, scaling=Scaling(subtract=100.0, divide_by=20.0))
    eight = Sensor(**known, scaling=Scaling(subtract=60.0, divide_by=80.0, eight_bit=True))
    wanted = Spectral.of("s", plain, SpectralOptions())(images)
    assert Spectral.of("s", eight, SpectralOptions())(images) == pytest.approx(wanted, rel=1e-12)


# --- shared ground


def test_ground_is_shared_with_a_wide_tile_whose_middle_lies_behind_those_of_narrow_ones(tmp_path):
    around = np.linspace(0, 6, 20)
    places = [(10 + 1.3 * KM * np.cos(t), 1.3 * KM * np.sin(t)) for t in around] + [(10 + 4 * KM, 0.0)]
    sides = pa.array([200.0] * 20 + [10_000.0])
    wide = side(tmp_path / "a.parquet", places, width_m=sides, height_m=sides)
    crop = pa.array([200.0])
    found = audit([wide], side(tmp_path / "b.parquet", [(10.0, 0.0)], width_m=crop, height_m=crop))
    assert found.overlaps.tolist() == pytest.approx([1.0]) and found.km[0] == pytest.approx(1.3, rel=1e-3)


def test_the_nearest_day_is_found_among_many_at_one_place(tmp_path):
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(10 * n) for n in range(30)]
    series = side(tmp_path / "a.parquet", [(10.0, 0.0)] * 30, date=days)
    tests = [side(tmp_path / f"{n}.parquet", [(10.0, 0.0)], date=[days[n]]) for n in (0, 17, 29)]
    assert [audit([series], test).days.tolist() for test in tests] == [[0.0]] * 3


@pytest.mark.parametrize("swapped", [False, True])
def test_a_place_without_an_extent_leaks_from_the_tile_that_it_lies_in(tmp_path, swapped):
    point: dict[str, Any] = {name: pa.array([None] * 2, pa.float64()) for name in ("width_m", "height_m")}
    tile = side(tmp_path / "a.parquet", [(10.0, 0.0), (30.0, 0.0)], width_m=[10_000.0] * 2, height_m=[10_000.0] * 2)
    points = side(tmp_path / "b.parquet", [(10 + 4.9 * KM, 0.0), (30 + 5.1 * KM, 0.0)], **point)
    found = audit([points], tile) if swapped else audit([tile], points)
    assert found.overlaps.tolist() == [1.0, 0.0] and found.leaked.tolist() == [True, False]


def test_all_extents_that_overlap_are_among_those_that_may_touch():
    rng = np.random.default_rng(0)
    places = np.stack(
        [np.where(rng.random(300) < 0.5, 179.9, -179.9) + rng.normal(0, 0.03, 300), rng.normal(60, 0.2, 300)], 1
    )
    places[:, 0] = (places[:, 0] + 180) % 360 - 180
    sides = rng.choice([0.0, 0.5, 3.0, 25.0], (300, 1)).repeat(2, axis=1)
    found = {
        pair
        for one, other in touching(places, sides, places, sides)
        for pair in zip(one.tolist(), other.tolist(), strict=True)
    }
    for i, j in combinations(range(300), 2):
        east = abs((places[i, 0] - places[j, 0] + 180) % 360 - 180) / KM * np.cos(np.radians(places[i, 1]))
        north = abs(places[i, 1] - places[j, 1]) / KM
        if max(east, north) < (sides[i, 0] + sides[j, 0]) / 2:
            assert (i, j) in found and (j, i) in found


def test_samples_of_one_name_in_two_splits_leak_each_for_itself(tmp_path):
    hashes = pa.array([0x0F0F0F0F0F0F0F0F, 0x3333333333333333], pa.uint64())
    pretraining = side(tmp_path / "a.parquet", [(50.0, 0.0)], picture_hash=hashes[:1])
    test = side(tmp_path / "b.parquet", [(0.0, 0.0)] * 2, id=["x", "x"], split=["one", "two"], picture_hash=hashes)
    assert audit([pretraining], test).leaked.tolist() == [True, False]


def test_an_audit_needs_no_range_of_a_sensor(tmp_path):
    values = write_images(tmp_path / "data", {"a": smooth(0), "b": smooth(0)})
    (tmp_path / "data/made.yaml").write_text(spec_of(**values).model_dump_json(exclude_defaults=True))
    spec = tmp_path / "data/made.yaml"
    assert "nothing tells the mean and deviation" in command(spec, "-o", tmp_path / "d")
    found = audit_sets([str(spec)] * 2, Reading(splits=("train",)), ("test",), tmp_path / "o", SERIAL)
    assert len(found.twins) == 1 and found.uncompared == 0


# --- gather


def test_a_folder_in_which_nothing_was_gathered_takes_another_recipe(tmp_path):
    plans = [GatherPlan.of(load_gather(None, (), {"region": "0,45,1,46", "count": 3, "stac": x})) for x in "ab"]
    claim(tmp_path / "o", plans[0])
    claim(tmp_path / "o", plans[1])
    assert json.loads((tmp_path / "o/gather.json").read_text())["content"]["stac"] == "b"
    (tmp_path / "o/shards/00000.tar").touch()
    with pytest.raises(SpecError, match=r"begun with another recipe: stac \('b' then, 'a' now\)"):
        claim(tmp_path / "o", plans[0])


# --- redundancy and pieces


def test_pairs_of_near_hashes_are_counted_once():
    rng = np.random.default_rng(1)
    hashes = rng.integers(1, 2**63, 200).astype(np.uint64)
    hashes[100:150] = hashes[:50] ^ np.uint64(0b101)  # near in all ways in which two are looked for
    hashes[150:160] = hashes[:10]
    by_hand = sum(bin(int(a ^ b)).count("1") <= 3 for a, b in combinations(np.unique(hashes), 2))
    found = twins(hashes, None)
    assert (found.near, found.redundant) == (by_hand + 10, 60)


def test_two_that_join_a_table_at_once_do_not_write_one_file(tmp_path, monkeypatch):
    from geomaestro.select import pieces

    opened: list[str] = []
    writer = pq.ParquetWriter

    def noted(path: Path, *rest: Any, **more: Any) -> Any:
        opened.append(str(path))
        return writer(path, *rest, **more)

    monkeypatch.setattr(pieces.pq, "ParquetWriter", noted)
    table = pa.table({"id": ["a"]})
    for _ in range(2):
        pieces.join([table], tmp_path / "t.parquet", {})
    assert len(set(opened)) == 2 and [x.name for x in tmp_path.iterdir()] == ["t.parquet"]
    assert Pieces(tmp_path, "rows", "x").find(0) is None
