"""Everything is read once: what can't be used is listed with its reason, and pixels are compared with the spec."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.warp import transform

from geomaestro.data.miniatures.miniature import Size, write_miniature
from geomaestro.data.packing.jobs import Jobs
from geomaestro.data.quality.checking import CheckResult, check
from geomaestro.data.quality.survey import Look, splits_of, survey
from geomaestro.data.quarantine import read_quarantine
from geomaestro.data.specs import load_spec
from geomaestro.errors import DataError
from geomaestro.report.dataset_tables import check_tables
from tests.filesets import CORNER, numbers, sensor, spec_of, write_csv, write_picture, write_tif
from tests.worlds import make_series, series_arrays, write_series

NAMES = ("a", "b", "c", "d")
PLACE = {"lon": 9.000572, "lat": 50.551}  # of the corner that `filesets` writes images at


def made(folder: Path, **row: Any) -> dict[str, Any]:
    """Four scenes of two sensors, a column of classes and a map; gives the values of their spec."""
    write_csv(folder / "table.csv", [{"id": name, "kind": "x", **PLACE, **row} for name in NAMES])
    for seed, name in enumerate(NAMES):
        write_tif(folder / f"s2/{name}.tif", numbers(2, 16, 16, seed=seed))
        write_tif(folder / f"s1/{name}.tif", numbers(1, 8, 8, seed=seed + 9).astype(np.float32), gsd=20.0)
        write_tif(folder / f"map/{name}.tif", (numbers(1, 16, 16, seed=seed) % 2).astype(np.uint8))
    return {
        "samples": {"table": "table.csv", "place": ["lon", "lat"]},
        "sensors": {
            "s2": sensor("s2/{id}.tif", px=16, nodata=0),
            "s1": sensor("s1/{id}.tif", bands=1, px=8, gsd_m=20),
        },
        "targets": {
            "kind": {"kind": "classes", "classes": ["x", "y"], "column": "kind"},
            "map": {"kind": "pixels", "classes": ["no", "yes"], "source": {"path": "map/{id}.tif"}},
        },
    }


def checked(folder: Path, values: Mapping[str, Any], **options: Any) -> CheckResult:
    return check(spec_of(**values), folder, out=folder / "bad.jsonl", **options)


def refused(folder: Path, values: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and reason of the only bad scene, b, which is also the only one listed."""
    result = checked(folder, values)
    assert [record.id for record in result.bad] == ["b"]
    assert read_quarantine(folder / "bad.jsonl") == {"b": result.bad[0].reason}
    assert not result.ok and result.read == 4
    return result.bad[0].kind, result.bad[0].reason


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def small(path: Path) -> None:
    write_tif(path, numbers(2, 12, 16))


def banded(path: Path) -> None:
    write_tif(path, numbers(3, 16, 16))


def blank(path: Path) -> None:
    write_tif(path, np.zeros((2, 16, 16), np.uint16))


def moved(path: Path) -> None:
    write_tif(path, numbers(2, 16, 16), corner=(CORNER[0] + 40_000, CORNER[1]))


def nowhere(path: Path) -> None:
    write_tif(path, numbers(2, 16, 16), corner=(1e15, 1e15))


def lost(path: Path) -> None:
    write_tif(path, numbers(2, 16, 16), crs="EPSG:4326")


def shifted(path: Path) -> None:
    write_tif(path, numbers(2, 16, 16), corner=(CORNER[0] + 80, CORNER[1]))


def foreign(path: Path) -> None:
    write_tif(path, numbers(2, 16, 16), crs="EPSG:32633", corner=(74_900.0, 5_613_500.0))


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [
        (Path.unlink, "missing", "s2/b.tif: no such file"),
        (empty, "empty file", "s2/b.tif: is empty (0 bytes); fetch the file again"),
        (cut_short, "unreadable", "s2/b.tif: unreadable GeoTIFF, probably truncated"),
        (small, "wrong size", "s2/b.tif: sensor 's2' has 12 rows, its spec says 16"),
        (banded, "wrong size", "s2/b.tif: sensor 's2' has 3 bands, its spec says 2"),
        (blank, "no pixels", "s2/b.tif: sensor 's2' has no measured pixel in 1 x 16 x 16 (dates, rows, columns)"),
        (moved, "wrong place", "but the table tells 9.0006, 50.5510, 40 km away; one of them is of another sample"),
        (lost, "wrong place", "s2/b.tif: sensor 's2' does not lie on Earth (16 x 16 pixels in EPSG:4326"),
        (
            nowhere,
            "wrong place",
            "its coordinate system does not fit its coordinates: write the right one into the file",
        ),
        (shifted, "wrong place", "sensor 's1' lies on 8 x 8 pixels in EPSG:32632"),
        (foreign, "wrong place", "wrongly be taken for the same ground; set `ground` in the spec"),
    ],
)
def test_a_damaged_image_is_listed_with_its_reason(tmp_path, damage: Callable[[Path], Any], kind, said):
    values = made(tmp_path)
    damage(tmp_path / "s2/b.tif")
    found, reason = refused(tmp_path, values)
    assert (found, said in reason) == (kind, True), reason


def test_clean_data_gives_an_empty_list(tmp_path):
    result = checked(tmp_path, made(tmp_path))
    assert result.ok and result.bad == () and result.kinds == {} and result.splits == ("all",)
    assert (tmp_path / "bad.jsonl").read_text() == "" and read_quarantine(tmp_path / "bad.jsonl") == {}
    shown = [line for line in check_tables(result) if isinstance(line, str)]
    assert any("all samples can be used" in line for line in shown)


def test_a_map_with_a_foreign_value_or_another_size_is_listed(tmp_path):
    values = made(tmp_path)
    write_tif(tmp_path / "map/b.tif", np.full((1, 16, 16), 7, np.uint8))
    kind, reason = refused(tmp_path, values)
    assert kind == "wrong label" and "has the label 7, which is none of the 2 classes" in reason
    write_tif(tmp_path / "map/b.tif", np.zeros((1, 32, 32), np.uint8), gsd=5.0)
    kind, reason = refused(tmp_path, values)
    assert kind == "wrong size"
    assert reason == "b: the map of target 'map' has 32 x 32 pixels, but 16 x 16 in 3 of 4 samples"


def test_an_optional_sensor_may_be_missing_and_a_needed_one_not(tmp_path):
    values = made(tmp_path)
    (tmp_path / "s1/b.tif").unlink()
    assert refused(tmp_path, values)[0] == "missing"
    values["sensors"]["s1"]["optional"] = True
    assert checked(tmp_path, values).ok


def test_images_that_ground_brings_together_may_differ_in_crs(tmp_path):
    values = made(tmp_path) | {"ground": {"sensor": "s2"}}
    values["sensors"]["s1"]["fit"] = "nearest"
    for target in ("kind", "map"):
        values["targets"].pop(target)
    (x,), (y,) = transform("EPSG:32632", "EPSG:32633", [CORNER[0] + 80], [CORNER[1] - 80])
    image = numbers(1, 8, 8).astype(np.float32)
    write_tif(tmp_path / "s1/b.tif", image, gsd=20.0, crs="EPSG:32633", corner=(x - 80, y + 80))
    assert checked(tmp_path, values).ok
    values.pop("ground")
    assert refused(tmp_path, values)[0] == "wrong place"


@pytest.mark.parametrize("driver", ["PNG", "JPEG"])
def test_a_picture_that_ends_too_early_is_listed(tmp_path, driver):
    suffix = {"PNG": "png", "JPEG": "jpg"}[driver]
    for seed, name in enumerate(NAMES):
        picture = np.random.default_rng(seed).integers(0, 255, (3, 64, 64)).astype(np.uint8)
        write_picture(tmp_path / f"{name}.{suffix}", picture, driver)
    write_csv(tmp_path / "table.csv", [{"id": name} for name in NAMES])
    cut_short(tmp_path / f"b.{suffix}")
    kind, reason = refused(tmp_path, {"sensors": {"rgb": sensor(f"{{id}}.{suffix}", bands=3, px=64)}})
    assert kind == "unreadable" and f"b.{suffix}: unreadable {driver}" in reason


def test_an_array_file_without_a_byte_is_called_empty(tmp_path):
    for name in NAMES:
        np.save(tmp_path / f"{name}.npy", numbers(2, 8, 8))
    write_csv(tmp_path / "table.csv", [{"id": name} for name in NAMES])
    empty(tmp_path / "b.npy")
    kind, reason = refused(tmp_path, {"sensors": {"x": sensor("{id}.npy")}})
    assert kind == "empty file" and reason.endswith("b.npy: is empty (0 bytes); fetch the file again")


def optical(folder: Path, change: Callable[[int, np.ndarray], np.ndarray]) -> dict[str, Any]:
    """Twelve images of four Sentinel-2 bands with dark and bright pixels; `change` does something to each."""
    write_csv(folder / "table.csv", [{"id": f"i{n}"} for n in range(12)])
    for n in range(12):
        rng = np.random.default_rng(n)
        soil = rng.normal(size=(1, 24, 24)).repeat(4, axis=0) * np.asarray([150, 250, 300, 900])[:, None, None]
        images = np.clip(
            soil + np.asarray([400, 650, 600, 2800])[:, None, None] + rng.normal(0, 40, soil.shape), 1, None
        )
        write_tif(folder / f"i{n}.tif", change(n, images.astype(np.uint16)))
    entry = sensor("{id}.tif", bands=4, px=24, unit="reflectance_1e4")
    return {"sensors": {"s2": {**entry, "bands": ["B02", "B03", "B04", "B08"]}}}


def test_a_file_unlike_all_others_is_listed_and_leaves_no_trace_in_the_findings(tmp_path):
    def spoil(number: int, images: np.ndarray) -> np.ndarray:
        images[2] = 0 if number == 5 else images[2]
        return images

    result = checked(tmp_path, optical(tmp_path, spoil))
    assert [(record.id, record.kind) for record in result.bad] == [("i5", "odd pixels")]
    assert result.bad[0].reason.startswith("i5: unlike the other samples, sensor 's2': ")
    assert "B04 hold nothing but zeros" in result.bad[0].reason
    assert [finding for finding in result.findings if finding.kind == "zero"] == []


def test_what_all_files_share_is_the_fault_of_the_spec(tmp_path):
    def scale(number: int, images: np.ndarray) -> np.ndarray:
        return (images / 10_000).astype(np.float32)

    result = checked(tmp_path, optical(tmp_path, scale))
    assert result.bad == () and not result.ok
    assert [finding.kind for finding in result.findings] == ["unit"]
    assert "correct `sensors.s2.unit`" in result.findings[0].message


def test_an_image_of_one_value_is_noted(tmp_path):
    values = made(tmp_path)
    write_tif(tmp_path / "s1/b.tif", np.full((1, 8, 8), 3, np.float32), gsd=20.0)
    result = checked(tmp_path, values)
    assert result.even == {"s1": (1, 4)}
    assert any("1 of 4 images hold a single value" in line for line in check_tables(result) if isinstance(line, str))


def test_arrays_may_lack_sensors_and_dates(tmp_path):
    folder = write_series(tmp_path).parent
    result = check(load_spec(tmp_path / "spec.yaml"), folder, out=tmp_path / "bad.jsonl")
    assert result.bad == () and result.read == 60 and result.splits == ("train", "val", "test")


def test_a_scene_in_which_nothing_was_measured_is_listed(tmp_path):
    arrays = series_arrays()
    for name in ("s1", "dem"):
        arrays[name][7] = np.nan
    arrays["s2"][7] = 65535
    write_series(tmp_path, arrays)
    result = check(load_spec(tmp_path / "spec.yaml"), tmp_path, out=tmp_path / "bad.jsonl")
    assert [(record.id, record.kind) for record in result.bad] == [("field 7", "no pixels")]
    assert "no sensor has a measured pixel" in result.bad[0].reason
    row = json.loads((tmp_path / "bad.jsonl").read_text())
    assert row == {"id": "field 7", "split": "train", "reason": result.bad[0].reason}


def test_two_processes_and_one_find_the_same(tmp_path):
    values = made(tmp_path)
    cut_short(tmp_path / "s2/c.tif")
    spec = spec_of(**values)
    look = Look(fingerprint=True, spread=True)
    one = survey(spec, tmp_path, ("all",), look=look)
    two = survey(spec, tmp_path, ("all",), look=look, jobs=Jobs(workers=2))
    assert [(r.id, r.reason) for r in one.records] == [(r.id, r.reason) for r in two.records]
    for key, spread in one.spreads.items():
        assert np.array_equal(spread.pixels, two.spreads[key].pixels)
        assert np.array_equal(spread.mean, two.spreads[key].mean)


def test_shares_together_read_everything_and_are_listed_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = made(tmp_path)
    empty(tmp_path / "s2/b.tif")
    shares = [check(spec_of(**values), tmp_path, jobs=Jobs(shard=(n, 2))) for n in range(2)]
    assert sum(share.read for share in shares) == 4 and all(share.leakage is None for share in shares)
    assert [share.out.name for share in shares] == [f"quarantine-made-{n}-of-2.jsonl" for n in range(2)]
    assert [len(read_quarantine(share.out)) for share in shares] == [0, 1]


def test_progress_is_told(tmp_path):
    told: list[tuple[int, int, str]] = []
    values = made(tmp_path)
    empty(tmp_path / "s2/b.tif")
    checked(tmp_path, values, report=lambda done, total, note: told.append((done, total, note)))
    assert told == [(1, 4, ""), (2, 4, "1 bad"), (3, 4, "1 bad"), (4, 4, "1 bad")]


def test_splits_are_found_wherever_a_spec_tells_them(tmp_path, tmp_path_factory):
    rows = [{"id": f"i{n}", "fold": n % 3, "lon": 10.0 * n, "lat": 45} for n in range(6)]
    write_csv(tmp_path / "table.csv", rows)
    for name in ("test", "train", "val_fold", "train_fold", "notes"):
        write_csv(tmp_path / f"list-{name}.csv", rows)
    one = {"sensors": {"s2": sensor("{id}.tif")}}

    def found(**samples: Any) -> tuple[str, ...]:
        return splits_of(spec_of(samples=samples, **one), tmp_path)

    assert found(table="table.csv") == ("all",)
    assert found(table="table.csv", split="fold") == ("0", "1", "2")
    named = {"test": [2], "train": [0, 1], "val": [9]}
    assert found(table="table.csv", split="fold", splits=named) == ("train", "test")
    assert found(table="table.csv", drawn={"test": 1, "train": 2, "val": 0}) == ("train", "test")
    assert found(table="table.csv", blocks={"shares": {"train": 1}}, place=["lon", "lat"]) == ("train",)
    assert found(table="list-{split}.csv") == ("train", "val_fold", "test")
    folder = make_series(tmp_path_factory)
    assert splits_of(load_spec(folder / "spec.yaml"), folder) == ("train", "val", "test")


@pytest.mark.parametrize("name", ["eurosat_ms", "eurosat_rgb", "fmow_sentinel", "treesatai_ts"])
def test_a_miniature_is_clean_until_a_file_is_cut(tmp_path, name):
    write_miniature(name, tmp_path / "made", Size(train=4, val=2, test=2))
    spec = load_spec(tmp_path / "made/dataset.yaml")
    result = check(spec, tmp_path / "made", out=tmp_path / "bad.jsonl")
    assert result.bad == () and result.read == 8 and not any(f.certain for f in result.findings), result.findings
    images = sorted(p for p in (tmp_path / "made").rglob("*.tif") if "aerial" in str(p) or name != "treesatai_ts")
    if images:
        cut_short(images[0])
        result = check(spec, tmp_path / "made", out=tmp_path / "bad.jsonl")
        assert [record.kind for record in result.bad] == ["unreadable"]


def test_a_list_that_can_not_be_made_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"table\.csv: no such file"):
        checked(tmp_path, {"sensors": {"s2": sensor("{id}.tif")}})


REAL = Path(os.environ.get("GEOMAESTRO_DATA", ""))
real = pytest.mark.skipif("GEOMAESTRO_DATA" not in os.environ, reason="needs GEOMAESTRO_DATA")
L2A = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]


@real
@pytest.mark.parametrize("name", ["eurosat_ms", "s2_global", "terramesh", "worldcereal_cubes"])
def test_real_data_are_as_their_specs_say(name, tmp_path):
    path = Path(__file__).parents[1] / f"recipes/data/{name}.yaml"
    if not path.is_file():
        pytest.skip("there is no such spec")
    result = check(load_spec(path), REAL / name, out=tmp_path / "bad.jsonl")
    assert result.read == {"eurosat_ms": 6, "s2_global": 19, "terramesh": 4, "worldcereal_cubes": 2}[name]
    assert result.bad == () and [f.message for f in result.findings if f.certain] == []
    assert result.leakage is not None and not result.leakage.mixed


@real
def test_a_real_image_that_was_cut_is_found(tmp_path):
    for path in sorted((REAL / "s2_global").glob("*.tif"))[:5]:
        shutil.copy(path, tmp_path)
    path = sorted(tmp_path.glob("*.tif"))[3]
    cut_short(path)
    entry = sensor("{id}.tif", unit="reflectance_1e4", input={"resize": "bilinear"}, bands=12)
    values = {"samples": {"scan": "{id}.tif", "place": "s2"}, "sensors": {"s2": {**entry, "bands": L2A}}}
    result = check(spec_of(**values), tmp_path, out=tmp_path / "bad.jsonl")
    assert [(record.id, record.kind) for record in result.bad] == [(path.stem, "unreadable")]
