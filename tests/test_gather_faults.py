"""A STAC server that fails, hangs, or sends what it should not; gathering that is killed, shared out, or misled."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomaestro.data.packing.jobs import Jobs
from geomaestro.data.packing.verify import verify
from geomaestro.errors import DataError, RunError, SpecError
from geomaestro.runs import read_rows
from geomaestro.select.gather.faults import Log, Passing, Patience
from geomaestro.select.gather.gathering import Gathered, gather
from geomaestro.select.gather.searching import wait_of
from geomaestro.select.gather.spec import GatherSpec, load_gather
from geomaestro.select.table import read_table
from tests.stac_server import Api, Fault, add_tile, serving

SIDE = 900
BOX = (10.36, 48.66, 10.48, 48.74)
SERIAL = Jobs(engine="serial")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    (tmp_path / "files").mkdir()
    with serving(tmp_path / "files") as found:
        images = np.random.default_rng(0).integers(1, 9000, (12, SIDE, SIDE)).astype(np.uint16)
        add_tile(found, "S2A_1", images)
        yield found


def recipe(api: Api, **more: Any) -> GatherSpec:
    values = {"region": BOX, "count": 3, "stac": api.url, "dates": {"years": [2020], "window_days": 366}, "threads": 2,
              "bands": ["B02", "B05"], "backoff_s": 0.01, "timeout_s": 5, "places_per_shard": 2, "tries": 3,
              "reserve": 2, "val_share": 0}  # fmt: skip
    return load_gather(None, (), {**values, **more})


def content(out: Path) -> dict[str, bytes]:
    """All of a store that follows from recipe and server alone."""
    names = ("dataset.yaml", "index.parquet", "manifest.json", "places.parquet")
    paths = [*(out / name for name in names), *sorted((out / "shards").glob("*.tar"))]
    return {path.name: path.read_bytes() for path in paths}


def whole(done: Gathered) -> None:
    assert (done.missing, done.unfinished) == (0, 0)
    assert verify(done.out) == []


def test_a_search_that_fails_is_repeated_and_told(api: Api, tmp_path: Path) -> None:
    gather(recipe(api), tmp_path / "well", jobs=SERIAL)
    api.faults = [("/search", Fault(500)), ("/search", Fault(503)), ("/search", Fault(200, body=b"<html>busy</html>"))]
    whole(gather(recipe(api, tries=5), tmp_path / "ill", jobs=SERIAL))
    assert content(tmp_path / "ill") == content(tmp_path / "well"), "faults that pass change nothing"


def test_a_server_that_is_busy_is_asked_again_when_it_says(api: Api, tmp_path: Path) -> None:
    spec = recipe(api, count=1, threads=1)
    api.faults = [("files/S2A_1/B05", Fault(503))]
    started = time.monotonic()
    api.asked.clear()
    whole(gather(spec, tmp_path / "first", jobs=SERIAL))
    (row,) = read_rows(tmp_path / "first" / "attempts.jsonl")
    assert (row["what"], row["tried"]) == ("read", 1)
    assert "503" in row["reason"]
    api.faults = [("^/$", Fault(429, {"Retry-After": "1"}))]
    started = time.monotonic()
    whole(gather(spec, tmp_path / "second", jobs=SERIAL))
    assert time.monotonic() - started >= 1, "as long as it asked for"


def test_retry_after_is_seconds_or_a_date() -> None:
    assert wait_of("7") == 7
    assert wait_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert 3600 < (wait_of("Wed, 21 Oct 2099 07:28:00 GMT") or 0)
    assert wait_of("soon") is None
    assert wait_of(None) is None


def test_waits_double_and_are_drawn_by_the_place() -> None:
    def fails() -> None:
        raise Passing("down")

    logs = [Log("place", key) for key in (1, 1, 2)]
    for log in logs:
        with pytest.raises(Passing, match="down"):
            Patience(5, 0.001).persist(fails, "read", log)
    first, again, other = ([row["waited_s"] for row in log.rows[:-1]] for log in logs)
    assert first == again != other
    assert all(0.5 * 0.001 * 2**n - 5e-4 <= wait <= 1.5 * 0.001 * 2**n + 5e-4 for n, wait in enumerate(first))
    assert logs[0].rows[-1] == {"id": "place", "what": "read", "tried": 5, "reason": "down"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(hang_s=3, stays=False), "timed out|Timeout|Operation"),
        (Fault(cut=0.02), "B05"),
        (Fault(body=b"<html>log in</html>"), "not recognized|S2A_1/B05.tif"),
    ],
    ids=["hangs", "truncated", "no raster"],
)
def test_a_file_that_comes_badly_once_is_read_again(api: Api, tmp_path: Path, fault: Fault, words: str) -> None:
    spec = recipe(api, count=1, threads=1, timeout_s=1)
    gather(spec, tmp_path / "well", jobs=SERIAL)
    api.faults = [("files/S2A_1/B05", fault)]
    if fault.cut is not None:  # as many requests as the first try makes
        api.faults *= 8
    whole(gather(spec, tmp_path / "ill", jobs=SERIAL))
    rows = read_rows(tmp_path / "ill" / "attempts.jsonl")
    assert rows
    assert all(row["what"] == "read" for row in rows)
    assert any(re.search(words, row["reason"]) for row in rows)
    assert content(tmp_path / "ill") == content(tmp_path / "well")


def test_a_file_that_stays_truncated_is_quarantined_and_another_date_taken(api: Api, tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(1, 9000, (12, SIDE, SIDE)).astype(np.uint16)
    add_tile(api, "S2A_2", images, taken="2020-08-01T10:00:00Z")
    api.faults = [("files/S2A_1/B05", Fault(cut=0.02, stays=True))]
    done = gather(recipe(api), tmp_path / "store", jobs=SERIAL)
    whole(done)
    assert {row["item"] for row in read_table(tmp_path / "store" / "places.parquet").to_pylist()} == {"S2A_2"}
    told = [row for row in read_rows(tmp_path / "store" / "attempts.jsonl") if row["what"] == "scene"]
    assert told
    assert all("S2A_1" in row["reason"] and "B05" in row["reason"] for row in told)


def test_places_that_cannot_be_read_are_quarantined_with_reasons(api: Api, tmp_path: Path) -> None:
    api.faults = [("files/S2A_1/B05", Fault(cut=0.02, stays=True))]
    with pytest.raises(DataError, match=r"none of \d+ places gave a sample: S2A_1: .*B05.tif"):
        gather(recipe(api, max_in_a_row=1000), tmp_path / "store", jobs=SERIAL)
    rows = read_rows(tmp_path / "store" / "quarantine.jsonl")
    assert all(row["failed"] and "B05.tif" in row["reason"] for row in rows)
    with pytest.raises(RunError, match=r"2 places one after the other could not be fetched; the last: S2A_1"):
        gather(recipe(api, max_in_a_row=2), tmp_path / "down", jobs=SERIAL)


def test_an_item_without_bands_is_passed_over(api: Api, tmp_path: Path) -> None:
    bare = {**api.items[0], "id": "S2A_0", "assets": {"thumbnail": {"href": "x.png"}}}
    api.items.append(bare)
    whole(gather(recipe(api), tmp_path / "store", jobs=SERIAL))
    assert {row["item"] for row in read_table(tmp_path / "store" / "places.parquet").to_pylist()} == {"S2A_1"}
    api.items.insert(0, bare)
    with pytest.raises(SpecError, match=r"item S2A_0: has no B02, B05, flags among its assets \(thumbnail\)"):
        gather(recipe(api), tmp_path / "other", jobs=SERIAL)


def test_places_without_a_scene_are_replaced_and_counted(api: Api, tmp_path: Path) -> None:
    half = SIDE // 2
    images = np.random.default_rng(0).integers(1, 9000, (12, SIDE, half)).astype(np.uint16)
    api.items.clear()
    add_tile(api, "S2A_half", images)
    done = gather(recipe(api, count=4, places_per_shard=8, reserve=3), tmp_path / "store", jobs=SERIAL)
    whole(done)
    rows = read_rows(tmp_path / "store" / "replaced.jsonl")
    assert len(rows) == done.replaced > 0
    assert {row["reason"] for row in rows} == {"no scene"}
    api.items.clear()
    with pytest.raises(SpecError, match="collection 'sentinel-2-l2a' has no item on the wanted dates"):
        gather(recipe(api), tmp_path / "none", jobs=SERIAL)


def test_a_refused_search_ends_it_at_once(api: Api, tmp_path: Path) -> None:
    api.faults = [("/search", Fault(400, body=b"bad collection", stays=True))]
    with pytest.raises(RunError, match=r"refused the search \(HTTP 400: bad collection\)"):
        gather(recipe(api), tmp_path / "store", jobs=SERIAL)
    assert sum("/search" in path for path in api.asked) == 1


def test_files_of_this_disk_are_not_read_for_a_server(api: Api, tmp_path: Path) -> None:
    api.items[0]["assets"]["B02"]["href"] = "/etc/hostname.tif"
    api.items[0]["assets"]["B05"]["href"] = "/vsizip//etc/x.tif"
    with pytest.raises(DataError, match=r"files are read over http\(s\), not from this disk"):
        gather(recipe(api), tmp_path / "store", jobs=SERIAL)


def test_shares_and_engines_make_the_same_store(api: Api, tmp_path: Path) -> None:
    spec = recipe(api, count=5)
    gather(spec, tmp_path / "one", jobs=SERIAL)
    for number in (0, 1):
        done = gather(spec, tmp_path / "two", jobs=Jobs(engine="serial", shard=(number, 2)))
        assert done.unfinished == (1 - number)
    assert content(tmp_path / "two") == content(tmp_path / "one")
    gather(spec, tmp_path / "dask", jobs=Jobs(engine="dask", workers=2))
    assert content(tmp_path / "dask") == content(tmp_path / "one")


def test_a_larger_set_begins_with_the_smaller_and_takes_up_its_folder(api: Api, tmp_path: Path) -> None:
    gather(recipe(api, count=4), tmp_path / "grown", jobs=SERIAL)
    small = read_table(tmp_path / "grown" / "places.parquet").to_pylist()
    before = len(api.asked)
    gather(recipe(api, count=6), tmp_path / "grown", jobs=SERIAL)
    assert len(api.asked) - before < before, "what is there is not fetched again"
    gather(recipe(api, count=6), tmp_path / "new", jobs=SERIAL)
    assert content(tmp_path / "grown") == content(tmp_path / "new")
    assert read_table(tmp_path / "new" / "places.parquet").to_pylist()[:4] == small
    with pytest.raises(SpecError, match=r"begun with another recipe: count \(6 then, 2 now; it can only grow\)"):
        gather(recipe(api, count=2), tmp_path / "grown", jobs=SERIAL)
    with pytest.raises(SpecError, match=r"max_cloud_percent \(20.0 then, 10.0 now\); gather into another folder"):
        gather(recipe(api, max_cloud_percent=10, count=6), tmp_path / "grown", jobs=SERIAL)


PROGRAM = """
import sys
from pathlib import Path
from geomaestro.data.packing.jobs import Jobs
from geomaestro.select.gather.gathering import gather
from geomaestro.select.gather.spec import load_gather

if __name__ == "__main__":
    import json
    values = json.loads(sys.argv[2])
    gather(load_gather(None, (), values), Path(sys.argv[1]), jobs=Jobs(engine=sys.argv[3], workers=2))
"""


def test_a_killed_run_goes_on_to_the_same_store(api: Api, tmp_path: Path) -> None:
    spec = recipe(api, count=6)
    gather(spec, tmp_path / "well", jobs=SERIAL)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    values = spec.model_dump_json(exclude_defaults=True)
    command = [sys.executable, str(program), str(tmp_path / "killed"), values]
    (tmp_path / "killed").mkdir()
    first = subprocess.Popen([*command, "serial"], start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "shards" / "00000.parquet").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    with pytest.raises(DataError, match="gathering was not finished; run `geomaestro gather` again"):
        from geomaestro.data.packed.manifest import read_manifest

        read_manifest(tmp_path / "killed")
    subprocess.run([*command, "processes"], check=True)
    assert content(tmp_path / "killed") == content(tmp_path / "well")


def test_two_processes_do_not_write_one_shard(api: Api, tmp_path: Path) -> None:
    from geomaestro.data.packing.pack import replacing

    spec = recipe(api)
    gather(recipe(api, count=1), tmp_path / "store", jobs=SERIAL)
    with (
        replacing(tmp_path / "store" / "shards" / "00001.tar"),
        pytest.raises(RunError, match="another process is writing it; give each its own --shard"),
    ):
        gather(spec, tmp_path / "store", jobs=SERIAL)


def test_a_server_that_only_knows_get_is_asked_so(api: Api, tmp_path: Path) -> None:
    api.posts = False
    whole(gather(recipe(api), tmp_path / "store", jobs=SERIAL))
    assert not api.bodies


def test_addresses_are_signed_where_the_catalogue_wants_it(api: Api, tmp_path: Path) -> None:
    api.tokens = True
    with pytest.raises(DataError, match="HTTP response code: 403"):
        gather(recipe(api), tmp_path / "unsigned", jobs=SERIAL)
    signed = recipe(api, sign="planetary-computer", token_url=f"{api.url}/token")
    whole(gather(signed, tmp_path / "signed", jobs=SERIAL))
    assert any(path.startswith("/token/sentinel-2-l2a") for path in api.asked)
    assert "secret" not in "".join(path.read_text() for path in (tmp_path / "signed").glob("*.json*"))


def test_a_static_catalogue_is_walked_through(api: Api, tmp_path: Path) -> None:
    import pystac

    catalogue = pystac.Catalog("static", "tiles")
    for item in api.items:
        found = pystac.Item.from_dict(item)
        for asset in found.assets.values():
            asset.href = str(api.folder / asset.href.split("/files/")[1])
        catalogue.add_item(found)
    catalogue.normalize_and_save(str(tmp_path / "catalogue"), pystac.CatalogType.SELF_CONTAINED)
    served = gather(recipe(api), tmp_path / "served", jobs=SERIAL)
    whole(served)
    spec = recipe(api, stac=str(tmp_path / "catalogue" / "catalog.json"))
    whole(gather(spec, tmp_path / "static", jobs=SERIAL))
    tars = [content(tmp_path / name)["00000.tar"] for name in ("served", "static")]
    assert tars[0] == tars[1]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"region": "europ"}, "region 'europ' is none of world, africa.*did you mean 'europe'"),
        ({"region": (48.6, 100.3, 48.7, 100.4)}, "longitude and latitude look swapped"),
        ({"region": (10.0, 48.0, 11.0, 47.0)}, "south is not below north"),
        ({"region": (-30.0, 40.0, -29.5, 40.5)}, "region box holds 0 places"),
        ({"count": 0}, "count: Input should be greater than or equal to 1"),
        ({"count": 1000}, r"region box holds 34 places \d+ m apart, too few for 1000"),
        ({"spacing_m": 100}, "spacing_m 100: patches would overlap; give 14[0-9][0-9] or more"),
        ({"sensor": "sentinel-2"}, "sensor 'sentinel-2' is not one of .*did you mean 'sentinel-2-l"),
        ({"bands": ["B02", "B99"]}, "bands: B99 not among B01, B02"),
        ({"dates": {}}, "give either years"),
        ({"dates": {"years": [2020], "seasons": ["sommer"]}}, "seasons: sommer not among winter"),
        ({"stac": "http://127.0.0.1:9/none"}, "no answer: .*is it the address of a STAC API, and is it up"),
        ({"gsd_m": 20}, "B02: has pixels of 10 m, not 20; give gsd_m=10"),
    ],
)
def test_what_cannot_be_gathered_is_refused_in_words(
    api: Api, tmp_path: Path, said: dict[str, Any], words: str
) -> None:
    with pytest.raises((SpecError, RunError, DataError), match=words):
        gather(recipe(api, **said), tmp_path / "store", jobs=SERIAL)
