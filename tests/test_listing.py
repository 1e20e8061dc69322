"""Lists of samples: from tables and from names of files, with splits that never share ground."""

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomaestro.data.files.filespec import Blocks
from geomaestro.data.files.listing import EARTH_KM, LAT, LON, by_blocks, list_rows, put_places, scan
from geomaestro.errors import GeomaestroError, SpecError
from tests.filesets import sensor, spec_of, write_csv


def listed(folder: Path, samples: Mapping[str, Any], *splits: str, path: str = "{id}.tif", **changes: Any) -> list[str]:
    """Names of the samples of some splits."""
    spec = spec_of(samples=dict(samples), sensors={"s2": sensor(path, **changes)})
    return [row["_id"] for row in list_rows(spec, folder, splits or ("train",))]


def refused(folder: Path, samples: Mapping[str, Any], *splits: str) -> str:
    with pytest.raises(GeomaestroError) as caught:
        listed(folder, samples, *splits)
    return str(caught.value)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


# ---- tables ----


def test_a_column_gives_the_splits_and_their_order_is_that_asked_for(tmp_path: Path) -> None:
    rows = [{"id": i, "part": part} for i, part in enumerate(["train", "test", "train", "val"])]
    write_csv(tmp_path / "t.csv", rows)
    how = {"table": "t.csv", "split": "part"}
    assert listed(tmp_path, how) == ["0", "2"]
    assert listed(tmp_path, how, "val", "train") == ["3", "0", "2"]
    assert refused(tmp_path, how, "pretrain") == "no split pretrain; the dataset has train, test, val"


def test_values_of_a_column_stand_for_splits(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [{"id": i, "fold": i % 5 + 1} for i in range(10)])
    how = {"table": "t.csv", "split": "fold", "splits": {"train": [1, 2, 3], "val": [4], "test": [5], "none": [9]}}
    parts = [set(listed(tmp_path, how, split)) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [6, 2, 2] and len(set.union(*parts)) == 10
    assert refused(tmp_path, how, "all") == "no split all; the dataset has train, val, test, none"
    assert refused(tmp_path, how, "none").endswith("no sample whose fold is 9; there are 1, 2, 3, 4, 5")


def test_a_missing_split_column_is_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [{"id": 1, "part": "train"}])
    text = refused(tmp_path, {"table": "t.csv", "split": "fold"})
    assert text.startswith(f"{tmp_path / 't.csv'}: lacks the column fold; it has id, part")


def test_a_table_for_each_split(tmp_path: Path) -> None:
    for split, ids in (("train", [3, 1]), ("val", [2])):
        write_csv(tmp_path / f"{split}.csv", [{"id": i} for i in ids])
    assert listed(tmp_path, {"table": "{split}.csv"}, "train", "val") == ["3", "1", "2"]
    assert refused(tmp_path, {"table": "{split}.csv"}, "test").startswith(f"{tmp_path / 'test.csv'}: no such file")


def test_two_samples_of_one_name_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [{"id": 1, "n": 1}, {"id": 1, "n": 2}])
    assert refused(tmp_path, {"table": "t.csv"}) == (
        f"{tmp_path / 't.csv'}: two samples are named '1'; `samples.id` must tell them apart"
    )
    assert listed(tmp_path, {"table": "t.csv", "id": "{id}-{n}"}) == ["1-1", "1-2"]


def test_columns_taken_apart_and_joined_name_the_samples(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [{"patch": "D1_UU_5"}, {"patch": "D2_AN_7"}])
    write_csv(tmp_path / "zones.csv", [{"zone": "D2_AN", "day": "20190202"}, {"zone": "D1_UU", "day": "20190101"}])
    join = [{"table": "zones.csv", "key": "{zone}", "on": "{domain}_{area}", "take": {"date": "day"}}]
    how = {"table": "t.csv", "parse": {"patch": "{domain}_{area}_{pos}"}, "id": "{area}{pos}-{date}", "join": join}
    assert listed(tmp_path, how) == ["UU5-20190101", "AN7-20190202"]


def test_a_name_of_unknown_columns_says_which_there_are(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [{"patch": 1}])
    assert refused(tmp_path, {"table": "t.csv"}) == "samples.id: '{id}' needs id; a sample has patch"


# ---- files found by their names ----


def test_files_are_found_by_their_names_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "s2/b_2.tif", "s2/a_1.tif", "s2/a_10.tif", "s2/notes.txt", "s1/c_3.tif")
    how = {"scan": "s2/{kind}_{id}.tif", "id": "{kind}{id}"}
    assert listed(tmp_path, how, path="s2/{kind}_{id}.tif") == ["a1", "a10", "b2"]


def test_dates_of_a_place_are_one_sample_and_their_field_is_no_column(tmp_path: Path) -> None:
    touch(tmp_path, "s2/a_20190101.tif", "s2/a_20190202.tif", "s2/b_20190303.tif")
    spec = spec_of(
        samples={"scan": "s2/{id}_{date}.tif"},
        sensors={"s2": sensor("s2/{id}_{date}.tif", dates={"field": "date"})},
    )
    rows = list_rows(spec, tmp_path, ("train",))
    assert [row["_id"] for row in rows] == ["a", "b"] and all("date" not in row for row in rows)
    each = spec_of(
        samples={"scan": "s2/{id}_{date}.tif", "id": "{id}_{date}"},
        sensors={"s2": sensor("s2/{id}_{date}.tif", dates={"field": "date"})},
    )
    assert [row["date"] for row in list_rows(each, tmp_path, ("train",))] == ["20190101", "20190202", "20190303"]


def test_folders_of_splits_are_scanned_each_for_itself(tmp_path: Path) -> None:
    touch(tmp_path, "train/x.png", "train/y.png", "val/x.png")
    how = {"scan": "{split}/{id}.png", "id": "{split}/{id}"}
    assert listed(tmp_path, how, "val", "train", path="{split}/{id}.png") == ["val/x", "train/x", "train/y"]


def test_a_scan_without_files_says_what_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path, "s2/a.jp2")
    assert refused(tmp_path, {"scan": "s2/{id}.tif"}) == (
        f"{tmp_path}: has no file of the form 's2/{{id}}.tif'; is `data.root` the folder of the dataset?"
    )


def test_members_of_a_zip_are_scanned(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        for name in ("2750/River/River_2.jpg", "2750/Forest/Forest_1.jpg", "2750/readme.txt"):
            file.writestr(name, b"x")
    how = {"scan": "all.zip!2750/{class}/{class}_{number}.jpg", "id": "{class}_{number}"}
    assert listed(tmp_path, how, path="all.zip!2750/{class}/{class}_{number}.jpg") == ["Forest_1", "River_2"]
    content = (tmp_path / "all.zip").read_bytes()
    (tmp_path / "all.zip").write_bytes(content[:-30])
    assert refused(tmp_path, how).startswith(f"{tmp_path / 'all.zip'}: not a readable zip: ")
    (tmp_path / "all.zip").unlink()
    assert refused(tmp_path, how).startswith(f"{tmp_path / 'all.zip'}: ")


def test_a_zarr_folder_counts_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "b.tif").mkdir()
    assert scan(tmp_path, "{id}.{kind}") == [{"id": "a", "kind": "zarr"}]


# ---- splits by chance ----


def test_drawn_splits_have_their_shares_and_hang_on_names_alone(tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(200)]
    how = {"table": "t.csv", "drawn": {"train": 0.7, "val": 0.1, "test": 0.2}}
    parts = []
    for order in (names, names[::-1]):
        write_csv(tmp_path / "t.csv", [{"id": name} for name in order])
        parts.append({split: set(listed(tmp_path, how, split)) for split in ("train", "val", "test")})
    assert parts[0] == parts[1]
    assert [len(part) for part in parts[0].values()] == [140, 20, 40]
    assert len(set.union(*parts[0].values())) == 200
    assert parts[0]["train"] != set(names[:140])


# ---- splits by blocks of ground ----


def block_of(lon: float, lat: float, size_km: float) -> tuple[int, int]:
    """Squares of about `size_km`, by the definition."""
    row = math.floor(lat * EARTH_KM / size_km)
    width = EARTH_KM * max(0.01, math.cos(math.radians((row + 0.5) * size_km / EARTH_KM)))
    return row, math.floor(lon * width / size_km)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([5.0, 50.0, 300.0]), st.integers(1, 300), st.integers(0, 5))
def test_no_block_is_in_two_splits_and_the_shares_are_kept(seed: int, size_km: float, count: int, chance: int) -> None:
    rng = np.random.default_rng(seed)
    places = list(zip(rng.uniform(-30, 60, count), rng.uniform(-80, 80, count), strict=True))
    how = Blocks(size_km=size_km, shares={"train": 0.6, "val": 0.15, "test": 0.25}, seed=chance)
    given = by_blocks(places, how)
    blocks: dict[tuple[int, int], set[str]] = {}
    sizes: dict[tuple[int, int], int] = {}
    for place, split in zip(places, given, strict=True):
        blocks.setdefault(block_of(*place, size_km), set()).add(split)
        sizes[block_of(*place, size_km)] = sizes.get(block_of(*place, size_km), 0) + 1
    assert all(len(splits) == 1 for splits in blocks.values())
    for split, share in how.shares.items():  # a split is off by at most one block
        assert abs(given.count(split) - share * count) <= max(sizes.values()) + 1
    assert given == by_blocks(places, how)
    order = rng.permutation(count)
    assert [given[i] for i in order] == by_blocks([places[i] for i in order], how)


def test_neighbours_fall_in_one_split_and_another_seed_gives_other_blocks() -> None:
    rng = np.random.default_rng(0)
    middles = list(zip(rng.uniform(-10, 30, 60), rng.uniform(35, 60, 60), strict=True))
    size = 50.0
    middles = [(lon, (block_of(lon, lat, size)[0] + 0.5) * size / EARTH_KM) for lon, lat in middles]
    near = [(lon, lat + 0.001) for lon, lat in middles]
    given = by_blocks([*middles, *near], Blocks(size_km=size))
    assert given[:60] == given[60:] and set(given) == {"train", "val", "test"}
    assert by_blocks([*middles, *near], Blocks(size_km=size, seed=1)) != given


def test_a_few_blocks_leave_no_split_empty() -> None:
    places = [(float(lon), 45.0) for lon in (0, 10, 20)]
    assert sorted(by_blocks(places, Blocks())) == ["test", "train", "val"]


def test_blocks_need_places_and_places_come_from_the_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [{"id": i, "lon": rng.uniform(0, 20), "lat": rng.uniform(40, 60)} for i in range(100)]
    write_csv(tmp_path / "t.csv", rows)
    how = {"table": "t.csv", "blocks": {"size_km": 30}, "place": ["lon", "lat"]}
    parts = [listed(tmp_path, how, split) for split in ("train", "val", "test")]
    assert sorted(int(name) for part in parts for name in part) == list(range(100))
    assert all(len(part) > 0 for part in parts)
    with pytest.raises(SpecError, match="`blocks` needs `place`"):
        listed(tmp_path, {"table": "t.csv", "blocks": {}})


def test_splits_said_twice_are_refused() -> None:
    for two in ({"split": "a", "drawn": {"train": 1}}, {"table": "{split}.csv", "split": "a"}):
        with pytest.raises(SpecError, match="splits are said twice"):
            spec_of(samples={"table": "t.csv", **two}, sensors={"s2": sensor("{id}.tif")})


# ---- places ----

SQUARE = [[10.0, 50.0], [12.0, 50.0], [12.0, 51.0], [10.0, 51.0], [10.0, 50.0]]


@pytest.mark.parametrize(
    ("place", "row"),
    [
        (["x", "y"], {"x": "11", "y": 50.5}),
        ("where", {"where": "POINT (11 50.5)"}),
        ("where", {"where": "POLYGON ((" + ", ".join(f"{x} {y}" for x, y in SQUARE) + "))"}),
        ("where", {"where": {"type": "Polygon", "coordinates": [SQUARE]}}),
        ("geometry", {"geometry": {"type": "Point", "coordinates": [11, 50.5]}}),
    ],
)
def test_a_place_is_longitude_and_latitude_however_it_is_written(place: Any, row: dict[str, Any]) -> None:
    how = spec_of(samples={"table": "t.csv", "place": place}, sensors={"s2": sensor("{id}.tif")}).samples
    rows = [{"_id": "a", **row}]
    put_places(how, rows, Path("root"))
    assert (rows[0][LON], rows[0][LAT]) == pytest.approx((11, 50.5))


@pytest.mark.parametrize(
    ("place", "row", "said"),
    [
        (["x", "y"], {"x": "", "y": "1"}, "sample 'a': place ['', '1'] is no longitude and latitude"),
        (["x", "y"], {"x": "1", "y": "91"}, "sample 'a': longitude 1.0, latitude 91.0 are not on Earth (degrees?)"),
        (["x", "y"], {"x": "431000", "y": "5"}, "are not on Earth (degrees?)"),
        (["x", "y"], {"x": "nan", "y": "5"}, "are not on Earth (degrees?)"),
        (["x", "z"], {"x": "1", "y": "5"}, "lacks the column z; it has _id, x, y"),
        ("where", {"where": "POINT 11"}, "sample 'a': place 'POINT 11' is no geometry"),
        ("where", {"where": "POINT EMPTY"}, "sample 'a'"),
        ("where", {"where": None}, "sample 'a': place 'None' is no geometry"),
        ("where", {"where": {"type": "Blob"}}, "sample 'a'"),
        ("where", {"where": {"type": "Point"}}, "sample 'a'"),
    ],
)
def test_a_place_that_is_none_names_the_sample(place: Any, row: dict[str, Any], said: str) -> None:
    how = spec_of(samples={"table": "t.csv", "place": place}, sensors={"s2": sensor("{id}.tif")}).samples
    with pytest.raises(GeomaestroError) as caught:
        put_places(how, [{"_id": "a", **row}], Path("root"))
    assert said in str(caught.value), str(caught.value)


def test_geojson_features_give_their_own_places(tmp_path: Path) -> None:
    features = [
        {
            "properties": {"id": i},
            "geometry": {"type": "Polygon", "coordinates": [[[x + 20 * i, y] for x, y in SQUARE]]},
        }
        for i in range(4)
    ]
    (tmp_path / "t.geojson").write_text(json.dumps({"features": features}))
    how = {"table": "t.geojson", "place": "geometry", "blocks": {"shares": {"train": 0.5, "test": 0.5}}}
    assert sorted(listed(tmp_path, how, "train", "test")) == ["0", "1", "2", "3"]
    assert len(listed(tmp_path, how)) == 2
