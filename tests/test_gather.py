"""Gathering from a STAC API on localhost: what the store holds, and what it does when the server fails."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.warp import transform

from geomaestro.data.opening import open_dataset, open_scenes
from geomaestro.data.packing.jobs import Jobs
from geomaestro.data.packing.verify import verify
from geomaestro.data.specs import load_spec
from geomaestro.errors import DataError, SpecError
from geomaestro.grid import Window
from geomaestro.runs import read_rows
from geomaestro.select.gather.gathering import gather
from geomaestro.select.gather.spec import GatherSpec, load_gather
from geomaestro.select.table import read_table
from tests.stac_server import BANDS, HERE, Api, Look, add_tile, serving

SIDE = 900  # pixels of a made tile
CORNER = HERE[1:]
BOX = (10.36, 48.66, 10.48, 48.74)  # within it


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    (tmp_path / "files").mkdir()
    with serving(tmp_path / "files") as found:
        yield found


def made(seed: int = 0, low: int = 1) -> np.ndarray:
    """(12 h w) numbers in which no two pixels of a band are alike by more than chance."""
    return np.random.default_rng(seed).integers(low, 9000, (12, SIDE, SIDE)).astype(np.uint16)


def recipe(api: Api, **more: Any) -> GatherSpec:
    values = {"region": BOX, "count": 6, "stac": api.url, "dates": {"years": [2020], "window_days": 366}, "threads": 2,
              "backoff_s": 0.01, "timeout_s": 5, "places_per_shard": 4, "tries": 3, "reserve": 1}  # fmt: skip
    return load_gather(None, (), {**values, **more})


SERIAL = Jobs(engine="serial")


def stored(out: Path) -> list[tuple[str, np.ndarray, tuple[float, float]]]:
    """Name, image (c h w) and place of all samples, as a training would see them."""
    spec = load_spec(out)
    scenes = open_scenes(spec, out, ("train",))
    found = []
    for index in range(len(scenes)):
        with scenes.scene(index) as scene:
            (series,) = scene.series.values()
            window = Window(0, 0, *series.shape[2:])
            found.append((scene.id, np.array(series.read(None, window))[0], scene.place))
    return found


def truth(images: np.ndarray, bands: tuple[str, ...], row: int, col: int, size: int = 96) -> np.ndarray:
    return np.stack([images[BANDS.index(band), row : row + size, col : col + size] for band in bands])


def test_the_store_holds_the_very_pixels_around_each_place(api: Api, tmp_path: Path) -> None:
    images = made()
    add_tile(api, "S2A_1", images)
    spec = recipe(api, val_share=0)
    done = gather(spec, tmp_path / "store", jobs=SERIAL)
    assert (done.samples, done.missing, done.unfinished) == (6, 0, 0)
    assert verify(tmp_path / "store") == []
    rows = {row["id"]: row for row in read_table(tmp_path / "store" / "places.parquet").to_pylist()}
    for name, pixels, (lon, lat) in stored(tmp_path / "store"):
        (x,), (y,) = transform("EPSG:4326", "EPSG:32632", [lon], [lat])
        col, row = (x - CORNER[0]) / 10 - 48, (CORNER[1] - y) / 10 - 48
        assert abs(rows[name]["col"] - col) <= 0.5
        assert abs(rows[name]["row"] - row) <= 0.5
        assert np.array_equal(pixels, truth(images, spec.band_names, rows[name]["row"], rows[name]["col"]))
        assert rows[name]["item"] == "S2A_1"
        assert rows[name]["continent"] == "Europe"
        assert rows[name]["date"].isoformat() == "2020-06-15"
        assert rows[name]["offset_dn"] == 0


def test_bands_of_wider_pixels_are_repeated_and_nothing_is_interpolated(api: Api, tmp_path: Path) -> None:
    images = made()
    coarse = {"B05": 2, "B11": 2, "B01": 6, "SCL": 2}
    add_tile(api, "S2A_1", images, look=Look(coarse=coarse))
    spec = recipe(api, bands=("B04", "B05", "B01", "B11"), val_share=0)
    gather(spec, tmp_path / "store", jobs=SERIAL)
    rows = {row["id"]: row for row in read_table(tmp_path / "store" / "places.parquet").to_pylist()}
    for name, pixels, _ in stored(tmp_path / "store"):
        row, col = rows[name]["row"], rows[name]["col"]
        assert (row % 6, col % 6) == (0, 0)
        wanted = [images[BANDS.index(b)][::k, ::k].repeat(k, 0).repeat(k, 1) for b, k in
                  (("B04", 1), ("B05", 2), ("B01", 6), ("B11", 2))]  # fmt: skip
        assert np.array_equal(pixels, np.stack(wanted)[:, row : row + 96, col : col + 96])


def test_the_offset_of_new_baselines_is_taken_off_and_nodata_stays_nodata(api: Api, tmp_path: Path) -> None:
    images = made()
    images[:, :, 350:550] = 0  # no data
    shifted = np.where(images == 0, 0, images + 1000).astype(np.uint16)
    shifted[3, 500:600, 600:] = 900  # a reflectance of -0.01
    add_tile(api, "S2B_1", shifted, baseline="05.00", look=Look(words=True))
    spec = recipe(api, count=16, val_share=0, max_unknown_share=1, reserve=1)
    gather(spec, tmp_path / "store", jobs=SERIAL)
    rows = {row["id"]: row for row in read_table(tmp_path / "store" / "places.parquet").to_pylist()}
    wanted = images.copy()
    wanted[3, 500:600, 600:] = 1  # the least number that is not nodata
    wanted[:, :, 350:550] = 0
    for name, pixels, _ in stored(tmp_path / "store"):
        assert np.array_equal(pixels, truth(wanted, spec.band_names, rows[name]["row"], rows[name]["col"]))
        assert (rows[name]["offset_dn"], rows[name]["baseline"]) == (1000, "05.00")
    assert max(row["unknown_share"] for row in rows.values()) > 0
    index = pq.read_table(tmp_path / "store" / "index.parquet").to_pylist()
    for row in index:
        assert row["sensors"]["s2"]["unknown"] == pytest.approx(rows[row["id"]]["unknown_share"])


def test_an_offset_that_the_pixels_contradict_is_not_taken_off_again(api: Api, tmp_path: Path) -> None:
    dark = np.full((12, SIDE, SIDE), 300, np.uint16)
    add_tile(api, "S2B_1", dark, baseline="05.00", **{"earthsearch:boa_offset_applied": False})
    with pytest.raises(DataError, match=r"none of .* places gave a sample: S2B_1: .*it was taken off already"):
        gather(recipe(api), tmp_path / "store", jobs=SERIAL)
    assert "offset_dn=0" in read_rows(tmp_path / "store" / "quarantine.jsonl")[0]["reason"]


def test_an_unknown_offset_stops_before_anything_is_fetched(api: Api, tmp_path: Path) -> None:
    add_tile(api, "S2B_1", made(), baseline=None)
    with pytest.raises(SpecError, match=r"item S2B_1: has no s2:processing_baseline.*offset_dn=0 or offset_dn=1000"):
        gather(recipe(api), tmp_path / "store", jobs=SERIAL)
    assert gather(recipe(api, offset_dn=0), tmp_path / "other", jobs=SERIAL).samples == 6


def test_clouds_of_the_scene_class_raster_are_told_per_pixel(api: Api, tmp_path: Path) -> None:
    flags = np.full((SIDE, SIDE), 4, np.uint8)
    flags[:, : SIDE // 2] = 9
    add_tile(api, "S2A_1", made(), look=Look(flags=flags))
    gather(recipe(api, count=8, val_share=0), tmp_path / "store", jobs=SERIAL)
    rows = read_table(tmp_path / "store" / "places.parquet").to_pylist()
    for row in rows:
        covered = np.clip(SIDE // 2 - row["col"], 0, 96) / 96
        assert row["cloudy_share"] == pytest.approx(covered)
    assert len({row["cloudy_share"] for row in rows}) > 1
    flags[flags == 4] = 6
    api.items.clear()
    add_tile(api, "S2A_1", made(), look=Look(flags=flags))
    dry = gather(recipe(api, count=2, max_water_share=0.5, places_per_shard=8), tmp_path / "dry", jobs=SERIAL)
    assert (dry.samples, dry.failed) == (2, 0)
    assert {row["water_share"] <= 0.5 for row in read_table(dry.out / "places.parquet").to_pylist()} == {True}
    clear = gather(recipe(api, count=4, max_cloudy_share=0, places_per_shard=8), tmp_path / "clear", jobs=SERIAL)
    assert clear.samples == 4
    assert {row["cloudy_share"] for row in read_table(tmp_path / "clear" / "places.parquet").to_pylist()} == {0.0}


def test_only_scenes_of_few_clouds_wanted_days_and_whole_patches_are_taken(api: Api, tmp_path: Path) -> None:
    images = made()
    api.page = 2
    add_tile(api, "cloudy", images, **{"eo:cloud_cover": 60})
    add_tile(api, "winter", images, taken="2020-12-20T10:00:00Z")
    add_tile(api, "small", images[:, :90, :90])
    for day in range(1, 6):
        add_tile(api, f"S2A_{day}", images, taken=f"2020-07-0{day}T10:00:00Z")
    spec = recipe(api, dates={"years": [2020], "seasons": ["summer"], "window_days": 366}, count=12)
    gather(spec, tmp_path / "store", jobs=SERIAL)
    items = [row["item"] for row in read_table(tmp_path / "store" / "places.parquet").to_pylist()]
    assert set(items) <= {f"S2A_{day}" for day in range(1, 6)}
    assert len(set(items)) > 1, "the scene is drawn for each place"
    assert any("token" in body for body in api.bodies), "the search has pages"


def test_the_real_tiles_are_stored_bit_for_bit_under_either_baseline(api: Api, tmp_path: Path, data_dir: Path) -> None:
    tiles, boxes = {}, []
    for number, path in enumerate(sorted((data_dir / "s2_global").glob("*.tif"))[:8]):
        with rasterio.open(path) as file:
            images, crs, place = file.read(), str(file.crs.to_epsg()), file.transform
        tiles[path.stem] = images
        new = number % 2 == 1
        shown = np.where(images == 0, 0, images + 1000).astype(np.uint16) if new else images
        item = add_tile(api, path.stem, shown, (f"EPSG:{crs}", place.c, place.f), baseline="05.09" if new else "03.01")
        west, south, east, north = item["bbox"]
        boxes.append({"type": "Polygon", "coordinates": [[[west, south], [east, south], [east, north], [west, north],
                                                          [west, south]]]})  # fmt: skip
    region = tmp_path / "tiles.geojson"
    region.write_text(json.dumps({"type": "FeatureCollection", "features": [
        {"type": "Feature", "properties": {}, "geometry": box} for box in boxes]}))  # fmt: skip
    spec = recipe(api, region=str(region), count=2, val_share=0, max_unknown_share=1, reserve=30)
    done = gather(spec, tmp_path / "store", jobs=SERIAL)
    rows = {row["id"]: row for row in read_table(tmp_path / "store" / "places.parquet").to_pylist()}
    assert done.samples == len(rows) > 0
    for name, pixels, _ in stored(tmp_path / "store"):
        images = tiles[rows[name]["item"]]
        wanted = truth(images, spec.band_names, rows[name]["row"], rows[name]["col"])
        assert np.array_equal(pixels, wanted)


def test_a_recipe_reads_the_store_with_its_measured_scaling(api: Api, tmp_path: Path) -> None:
    add_tile(api, "S2A_1", made())
    gather(recipe(api, val_share=0.5, block_deg=0.05), tmp_path / "store", jobs=SERIAL)
    spec = load_spec(tmp_path / "store")
    entry = spec.sensors["s2"]
    assert entry.bands == ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
    assert entry.groups == (4, 4, 2)
    assert entry.scaling.subtract == pytest.approx([4500] * 10, rel=0.02)  # of numbers from 1 to 9000, all alike
    assert entry.scaling.divide_by == pytest.approx([9000 / 12**0.5] * 10, rel=0.02)
    both = [open_dataset(spec, tmp_path / "store", (split,)) for split in ("train", "val")]
    assert sum(map(len, both)) == 6
    assert both[0].read(0).images["s2"].shape == (1, 10, 96, 96)


def test_the_command_tells_what_it_will_take_and_gathers(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from geomaestro.cli import app

    monkeypatch.chdir(tmp_path)
    add_tile(api, "S2A_1", made())
    box = ",".join(map(str, BOX))
    dates = ("dates.years=[2020]", "dates.window_days=366")
    said = ["gather", *dates, "--region", box, "--count", "3", "--stac", api.url, "--engine", "serial", "-o", "store"]
    app([*said, "--dry-run"], result_action="return_value")
    told = capsys.readouterr().out
    assert "box: 3 places of about 34 that it holds; the first: 10.4" in told
    assert "3 places in 1 shards, 0.00 GB on the disk" in told
    assert not (tmp_path / "store").exists()
    app(said, result_action="return_value")
    told = capsys.readouterr().out
    assert re.fullmatch(r"3 samples; \d places replaced, 0 of them for faults in reading\ndataset: store\n", told)
    (tmp_path / "base.yaml").write_text(f"stac: {api.url}\ncount: 3\nthreads: 2\n")
    (tmp_path / "box.yaml").write_text(f"extends: base.yaml\nname: bavaria\nregion: [{box}]\n")
    again = ["gather", "box.yaml", "count=2", *dates, "--engine", "serial", "-o", "other"]
    app(again, result_action="return_value")
    assert load_spec(tmp_path / "other").name == "bavaria"
    assert "2 samples" in capsys.readouterr().out
