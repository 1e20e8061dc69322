"""The fast store gives what the original files give, is the same however it was made, and damage to it is found.

Axes: n sample, t date, c band, h row, w column.
"""

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from geomaestro.data.dates import draw_dates
from geomaestro.data.loader import evaluation_batches, training_batches
from geomaestro.data.opening import open_dataset
from geomaestro.data.packed.shards import Maps, PackedScenes
from geomaestro.data.packing.jobs import run
from geomaestro.data.packing.pack import Jobs, Packed, PackOptions, pack
from geomaestro.data.packing.verify import verify
from geomaestro.data.reading import Dataset, Visit
from geomaestro.data.sampling import draw
from geomaestro.data.scenes import CLOUDY, UNKNOWN
from geomaestro.data.specs import load_spec
from geomaestro.errors import DataError, RunError, SpecError
from geomaestro.learn.recipe import Recipe
from geomaestro.samples import Sample
from tests.worlds import COARSE, MODEL, make_earth, make_series, write_images, write_series

EARTH_SPLITS = ("train", "val", "test")
SMALL = PackOptions(shard_bytes=1_500_000)  # 3 samples of the miniature Earth
PROGRAM = """
import sys
from pathlib import Path
from geomaestro.data.packing.pack import *
from geomaestro.data.specs import load_spec
root, out = Path(sys.argv[1]), Path(sys.argv[2])
def run(**how):
    return pack(load_spec(root / sys.argv[3]), root, out, ("train", "val", "test"),
                options=PackOptions(shard_bytes=1_500_000), **how)
"""


def write_tiles(folder: Path) -> Path:
    """Write 8 tiles of 240 m in npy files, with maps of labels; gives the path of the spec.

    s2 has 5 to 9 dates with clouds, nodata 0 in a corner of some; the map 255 where nobody looked; every third place
    has no dem.
    """
    rng = np.random.default_rng(1)
    for name in ("s2", "cloud", "dem", "cover"):
        (folder / name).mkdir(parents=True)
    with (folder / "samples.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "split", "days", "lon", "lat"])
        for number in range(8):
            dates = 5 + number % 5
            days = json.dumps([f"2020{1 + i:02d}10" for i in range(dates)])
            table.writerow([f"t.{number}/é", "train" if number < 5 else "val", days, 7 + number / 10, 50])
            s2 = rng.integers(1, 9000, (dates, 3, 24, 24)).astype("<u2")
            s2[1, :, : number % 3, :5] = 0
            cloud = rng.integers(0, 100, (dates, 24, 24)) * (rng.random((dates, 1, 1)) < 0.5)
            cover = rng.integers(0, 4, (24, 24)).astype(np.uint8)
            cover[rng.random((24, 24)) < 0.1] = 255
            arrays = {"s2": s2, "cloud": cloud.astype(np.uint8), "cover": cover}
            if number % 3:
                arrays["dem"] = rng.normal(300, 50, (1, 48, 48)).astype("<f4")
                arrays["dem"][0, 0, number] = np.nan
            for key, values in arrays.items():
                np.save(folder / key / f"{number}.npy", values)
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(tile_values(), sort_keys=False))
    return path


def tile_values() -> dict[str, Any]:
    """The spec of the tiles."""
    return {
        "name": "tiles",
        "kind": "files",
        "reference_date": [2020, 1, 0],
        "crop": {"size_m": 120, "tile_m": 240, "cover": 2},
        "samples": {
            "table": "samples.csv",
            "id": "{name}",
            "parse": {"name": "t.{n}/é"},
            "split": "split",
            "place": ["lon", "lat"],
        },
        "sensors": {
            "s2": {
                "path": "s2/{n}.npy",
                "axes": ["date", "band", "row", "col"],
                "dates": {"column": "days"},
                "clouds": {"path": "cloud/{n}.npy", "axes": ["date", "row", "col"], "above": 50},
                "bands": ["a", "b", "c"],
                "gsd_m": 10,
                "nodata": 0,
                "input": {"size_px": 12, "patch_px": 3, "dates": 3},
            },
            "dem": {
                "path": "dem/{n}.npy",
                "axes": ["band", "row", "col"],
                "bands": ["z"],
                "gsd_m": 5,
                "optional": True,
                "input": {"size_px": 24, "patch_px": 6},
            },
        },
        "targets": {
            "cover": {
                "kind": "pixels",
                "source": {"path": "cover/{n}.npy", "axes": ["row", "col"]},
                "classes": ["w", "x", "y", "z"],
                "ignore": 255,
                "reference_sensor": "s2",
                "label_px": 3,
            },
            "seen": {"kind": "multilabel", "classes": ["w", "x", "y", "z"], "present_in": "cover"},
        },
    }


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Original files: a miniature Earth."""
    return make_earth(tmp_path_factory)


@pytest.fixture(scope="module")
def store(earth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That Earth, packed; read it only."""
    out = tmp_path_factory.mktemp("packed") / "earth"
    pack_earth(earth, out)
    return out


def pack_earth(earth: Path, out: Path, **how: Any) -> Packed:
    return pack(load_spec(earth), earth, out, EARTH_SPLITS, options=SMALL, **{"jobs": Jobs(), **how})


def opened(folder: Path, *splits: str, spec: str = "dataset.yaml") -> Dataset:
    return open_dataset(load_spec(folder / spec), folder, splits)


def assert_equal_samples(ours: Sample[np.ndarray], theirs: Sample[np.ndarray]) -> None:
    """All of two samples, bit by bit and type by type."""
    assert (ours.id, ours.place) == (theirs.id, theirs.place)
    assert bits(ours.reference_date) == bits(theirs.reference_date)
    for part in ("images", "dates", "present", "valid", "labels"):
        mine, other = getattr(ours, part), getattr(theirs, part)
        assert list(mine) == list(other)
        for name in mine:
            assert bits(mine[name]) == bits(other[name]), (ours.id, part, name)


def bits(values: np.ndarray) -> tuple[Any, ...]:
    return np.asarray(values).dtype.str, np.shape(values), np.asarray(values).tobytes()


def assert_equal_datasets(ours: Dataset, theirs: Dataset, targets: Mapping[str, Any]) -> None:
    """In evaluation and in two epochs of training."""
    assert ours.ids() == theirs.ids()
    assert len(ours) > 0
    for index in range(len(theirs)):
        assert_equal_samples(ours.read(index), theirs.read(index))
        for epoch in range(2):
            visit = Visit(3, epoch, index)
            assert_equal_samples(ours.read(index, visit), theirs.read(index, visit))
    for target in targets:
        assert bits(ours.labels(target)) == bits(theirs.labels(target))


def files_of(out: Path) -> dict[str, str]:
    """sha256 of all files of a store but those that name the way it was made."""
    found = {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in out.rglob("*.*")}
    return {name: digest for name, digest in found.items() if "/" not in name or name.endswith(".tar")}


def test_a_packed_earth_gives_the_samples_of_its_files(earth, store):
    for splits in (("train",), ("test", "val")):
        ours, theirs = opened(store, *splits), opened(earth, *splits)
        assert_equal_datasets(ours, theirs, load_spec(earth).targets)
        assert ours.scenes.places() == pytest.approx(np.asarray([theirs.read(i).place for i in range(len(theirs))]))
        assert ours.draws and theirs.draws


def test_packed_tiles_give_the_crops_and_maps_of_their_files(tmp_path):
    spec = load_spec(write_tiles(tmp_path / "tiles"))
    done = pack(spec, tmp_path / "tiles", tmp_path / "out", ("train", "val"), options=PackOptions(shard_bytes=20_000))
    assert (done.samples, done.quarantined, done.unfinished) == (8, 0, 0)
    theirs = opened(tmp_path / "tiles", "val", "train", spec="spec.yaml")
    ours = opened(tmp_path / "out", "val", "train")
    assert len(ours) == 32  # four crops of each tile
    assert_equal_datasets(ours, theirs, spec.targets)
    with tarfile.open(tmp_path / "out/shards/00000.tar") as tar:
        assert "000000000-t_0__.cover.npy" in tar.getnames()  # dots and slashes would mean something to others
        assert tar.getmember("000000000-t_0__.cover.npy").size == 128 + 24 * 24  # one byte for a class number


@pytest.mark.parametrize("splits", [("train",), ("test",)])
def test_packed_series_give_the_samples_of_their_arrays(tmp_path, tmp_path_factory, splits):
    fields = make_series(tmp_path_factory)  # sample 3 has no number of s1, sample 5 no date
    pack(load_spec(fields / "spec.yaml"), fields, tmp_path / "out", EARTH_SPLITS, options=PackOptions(shard_bytes=4000))
    assert len(list((tmp_path / "out/shards").glob("*.tar"))) > 5
    theirs = opened(fields, *splits, spec="spec.yaml")
    assert_equal_datasets(opened(tmp_path / "out", *splits), theirs, {"crop": 0, "height": 0})


def test_packed_images_keep_what_is_not_a_number(tmp_path):
    spec = load_spec(write_images(tmp_path / "images"))
    pack(spec, tmp_path / "images", tmp_path / "out", EARTH_SPLITS)
    ours, theirs = opened(tmp_path / "out", "val"), opened(tmp_path / "images", "val", spec="spec.yaml")
    assert_equal_datasets(ours, theirs, spec.targets)
    assert not ours.read(0).valid["x"].all()


def test_a_dataset_without_splits_stays_one(tmp_path):
    write_series(tmp_path / "fields", split=None)
    spec = load_spec(tmp_path / "fields/spec.yaml")
    pack(spec, tmp_path / "fields", tmp_path / "out", EARTH_SPLITS)
    ours, theirs = opened(tmp_path / "out", "any"), opened(tmp_path / "fields", "any", spec="spec.yaml")
    assert ours.ids() == theirs.ids()
    assert len(ours) == 60


def test_a_store_is_packed_again_into_shards_of_another_size(store, tmp_path):
    pack(load_spec(store), store, tmp_path / "out", ("val", "train"))
    assert len(list((tmp_path / "out/shards").glob("*.tar"))) == 1
    assert_equal_datasets(opened(tmp_path / "out", "train"), opened(store, "train"), load_spec(store).targets)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker:UserWarning")  # on a machine of 2 processors
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_batches_do_not_depend_on_workers_or_on_the_store(earth, store, workers):
    ours, theirs = opened(store, "train"), opened(earth, "train")
    pairs = [
        (training_batches(ours, batch=4, seed=5, start=1, steps=5, workers=workers),
         training_batches(theirs, batch=4, seed=5, start=1, steps=5)),
        (evaluation_batches(ours, batch=3, workers=workers), evaluation_batches(theirs, batch=3)),
    ]  # fmt: skip
    for mine, other in pairs:
        for a, b in zip(mine, other, strict=True):
            assert a.ids == b.ids
            for part in ("images", "dates", "present", "valid", "labels"):
                for name, values in getattr(a, part).items():
                    assert torch.equal(values, getattr(b, part)[name]), (part, name)


def member_of(tar: tarfile.TarFile, name: str) -> np.ndarray:
    """An array, read by none of our code."""
    member = tar.extractfile(name)
    assert member is not None
    return np.asarray(np.load(io.BytesIO(member.read()), allow_pickle=False))


def test_shards_are_plain_tars_of_npy_whose_data_are_aligned(store):
    index = pq.read_table(store / "index.parquet").to_pylist()
    seen = 0
    for row in index:
        path = store / "shards" / f"{row['shard']:05d}.tar"
        with tarfile.open(path, "r:") as tar:
            for name, told in row["sensors"].items():
                array = member_of(tar, f"{row['key']}.{name}.npy")
                assert (array.dtype.str, list(array.shape)) == (told["dtype"], told["shape"])
                assert path.read_bytes()[told["offset"] :][: array.nbytes] == array.tobytes()
                assert told["offset"] % 64 == 0
                assert told["days"] == member_of(tar, f"{row['key']}.{name}.days.npy").tolist()
                assert len(told["days"]) == len(array)
                seen += 1
        block = path.read_bytes()[row["offset"] :][: row["bytes"]]
        assert hashlib.sha256(block).hexdigest() == row["sha256"]
    assert seen == 4 * 16
    assert [row["labels"]["cover"] for row in index[:8]] == opened(store, "train").labels("cover").tolist()


def test_the_index_tells_statistics_of_measured_pixels_and_shares_of_others(tmp_path):
    folder = tmp_path / "tiles"
    spec = load_spec(write_tiles(folder))
    pack(spec, folder, tmp_path / "out", ("train", "val"))
    row = pq.read_table(tmp_path / "out/index.parquet").to_pylist()[2]
    s2, cloud = (np.load(folder / name / "2.npy", allow_pickle=False) for name in ("s2", "cloud"))
    known = (s2 != 0).all(axis=1)
    told = row["sensors"]["s2"]
    for band in range(3):
        values = s2[:, band][known].astype(float)
        want = [values.mean(), values.std(), values.min(), values.max()]
        assert [told[name][band] for name in ("mean", "std", "min", "max")] == pytest.approx(want)
    assert told["unknown"] == pytest.approx(1 - known.mean())
    assert told["cloudy"] == pytest.approx((cloud > 50).mean())
    with tarfile.open(tmp_path / "out/shards/00000.tar") as tar:
        states = member_of(tar, f"{row['key']}.s2.state.npy")
    assert np.array_equal(states, ~known * np.uint8(UNKNOWN) + (cloud > 50) * np.uint8(CLOUDY))
    assert (row["split"], row["id"], row["lon"], row["source"]) == ("train", "t.2/é", 7.2, "tiles")
    assert pq.read_table(tmp_path / "out/index.parquet")["sensors"][0].as_py()["dem"] is None  # place 0 has none


def test_engines_and_shares_make_the_same_bytes(earth, store, tmp_path):
    want = files_of(store)
    assert len([name for name in want if name.endswith(".tar")]) == 6
    pack_earth(earth, tmp_path / "processes", jobs=Jobs(workers=2))
    assert files_of(tmp_path / "processes") == want
    for share in ("0/2", "1/2"):
        done = pack_earth(earth, tmp_path / "shares", jobs=Jobs.of("serial", shard=share))
        if share == "0/2":
            assert done.unfinished == 3
            with pytest.raises(DataError, match="packing was not finished; run `geomaestro data pack` again"):
                opened(tmp_path / "shares", "train")
    assert done.unfinished == 0
    assert files_of(tmp_path / "shares") == want


def test_dask_makes_the_same_bytes(earth, store, tmp_path):
    from distributed import LocalCluster

    local = {"processes": False, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(n_workers=2, **local) as cluster:
        jobs = Jobs(engine="dask", scheduler=cluster.scheduler_address)
        assert pack_earth(earth, tmp_path / "out", jobs=jobs).samples == 16
    assert files_of(tmp_path / "out") == files_of(store)


def killed(line: str, earth: Path, out: Path, spec: str = "dataset.yaml") -> None:
    """Pack in another process that kills itself as `line` says."""
    command = [sys.executable, "-c", PROGRAM + line, str(earth), str(out), spec]
    env = os.environ | {"GEOMAESTRO_TEST": str(out)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env)
    assert done.returncode == -9, done.stderr
    for _ in range(100):
        if not left_over(str(out)):
            return
        time.sleep(0.1)
    raise AssertionError("worker processes outlived the one that started them")


def left_over(token: str) -> list[str]:
    """Processes that such a program started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"GEOMAESTRO_TEST={token}".encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


KILL = "import os, signal\ndef die(): os.kill(os.getpid(), signal.SIGKILL)\n"
AT_MEMBER = """
from geomaestro.data.packing import tars
add, left = tars.TarWriter.add, [{count}]
def counted(*args):
    left[0] -= 1
    if left[0] < 0: die()
    return add(*args)
tars.TarWriter.add = counted
run()
"""
AT_CALL = """
from geomaestro.data.packing import pack as program
call, left = program.{name}, [{count}]
def counted(*args, **kwargs):
    left[0] -= 1
    if left[0] < 0: die()
    return call(*args, **kwargs)
program.{name} = counted
run()
"""


@pytest.mark.parametrize(
    "line",
    [
        AT_MEMBER.format(count=60),  # in the midst of a shard
        AT_CALL.format(name="write_atomically", count=2),  # a shard is there, but not what tells of it
        AT_CALL.format(name="write_atomically", count=8),  # all but the manifest is there
        "run(jobs=Jobs(workers=2), report=lambda *_: die())",
    ],
)
def test_a_kill_at_any_moment_loses_no_finished_shard_and_changes_no_byte(earth, store, tmp_path, line):
    out = tmp_path / "out"
    killed(KILL + line, earth, out)
    kept = {
        path: path.stat().st_mtime_ns for path in out.glob("shards/0*.tar") if path.with_suffix(".parquet").exists()
    }
    assert kept
    with pytest.raises(DataError, match="packing was not finished"):
        opened(out, "train")
    pack_earth(earth, out)
    assert files_of(out) == files_of(store)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert list(out.rglob("*.part")) == []


def test_a_finished_store_is_left_as_it_is_but_for_damaged_shards(earth, store, tmp_path):
    out = tmp_path / "out"
    copytree(store, out)
    damage(out / "shards/00001.tar", 5000)
    before = (out / "shards/00000.tar").stat().st_mtime_ns
    assert pack_earth(earth, out).samples == 16
    assert files_of(out) == files_of(store)
    assert (out / "shards/00000.tar").stat().st_mtime_ns == before


def test_a_store_of_other_settings_or_another_list_is_refused(earth, store, tmp_path):
    out = tmp_path / "out"
    copytree(store, out)
    spec = load_spec(earth)
    with pytest.raises(SpecError, match="begun with other settings: the spec; pack into another folder"):
        pack(load_spec(earth, ["sensors.s2.gsd_m=20"]), earth, out, EARTH_SPLITS, options=SMALL)
    with pytest.raises(SpecError, match="the list of samples, samples \\(16 then, 12 now\\)"):
        pack(spec, earth, out, ("train", "val"), options=SMALL)
    with pytest.raises(SpecError, match="shard_bytes \\(1500000 then, 268435456 now\\)"):
        pack(spec, earth, out, EARTH_SPLITS)
    (out / "plan.json").write_text("{")
    with pytest.raises(DataError, match=r"plan.json: was edited or damaged; remove"):
        pack_earth(earth, out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").touch()
    with pytest.raises(DataError, match=r"expected a new or empty folder, but it holds 'thesis.tex'"):
        pack_earth(earth, tmp_path / "other")
    with pytest.raises(DataError, match=r"thesis.tex: is a file"):
        pack_earth(earth, tmp_path / "other/thesis.tex")


def test_a_disk_that_is_too_small_is_told_before(earth, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    with pytest.raises(DataError, match=r"16 samples take about 0.0 GB, the disk has 0.0 GB left; free some space"):
        pack_earth(earth, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.b", "a/b", "x" * 41, "cover"])
def test_names_that_tars_do_not_take_are_refused(tmp_path, name):
    path = write_tiles(tmp_path / "tiles")
    values = tile_values()
    values["sensors"][name] = values["sensors"].pop("dem")
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(SpecError, match="names members of tars: use each name once"):
        pack(load_spec(path), tmp_path / "tiles", tmp_path / "out", ("train",))


def broken_earth(earth: Path, folder: Path) -> Path:
    copytree(earth, folder)
    path = sorted((folder / "aerial").glob("*train*.tif"))[2]
    path.write_bytes(path.read_bytes()[:3000])
    return path


def test_samples_that_cannot_be_read_are_quarantined_with_their_reason(earth, tmp_path):
    path = broken_earth(earth, tmp_path / "earth")
    notes = []
    done = pack(
        load_spec(earth),
        tmp_path / "earth",
        tmp_path / "out",
        EARTH_SPLITS,
        options=PackOptions(shard_bytes=1_500_000, max_bad_share=0.1),
        report=lambda done, total, note: notes.append((done, total, note)),
    )
    assert (done.samples, done.quarantined) == (15, 1)
    assert notes[-1] == (16, 16, "1 unreadable")
    (row,) = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert (row["id"], row["split"]) == (path.stem, "train")
    assert "probably truncated" in row["reason"]
    assert verify(tmp_path / "out") == []
    ours = opened(tmp_path / "out", "train")
    assert path.stem not in ours.ids()
    assert len(ours) == 7


def test_too_many_unreadable_samples_stop_it_and_mended_files_are_read_on_return(earth, store, tmp_path):
    path = broken_earth(earth, tmp_path / "earth")
    how = {"options": SMALL}
    said = r"1 of 16 samples can't be read, more than the share of 0.01 .*earth_train_00002: .*probably truncated"
    with pytest.raises(DataError, match=said):
        pack(load_spec(earth), tmp_path / "earth", tmp_path / "out", EARTH_SPLITS, **how)
    assert (tmp_path / "out/quarantine.jsonl").is_file()
    path.write_bytes((earth / "aerial" / path.name).read_bytes())
    pack(load_spec(earth), tmp_path / "earth", tmp_path / "out", EARTH_SPLITS, **how)
    assert files_of(tmp_path / "out") == files_of(store)


def test_a_sample_without_a_measured_pixel_is_quarantined(tmp_path):
    path = write_images(tmp_path / "images")
    import h5py

    with h5py.File(tmp_path / "images/images.h5", "r+") as file:
        file["x"][4] = np.nan
    how = PackOptions(max_bad_share=0.05)
    assert pack(load_spec(path), tmp_path / "images", tmp_path / "out", EARTH_SPLITS, options=how).quarantined == 1
    assert "sample '4' has no measured pixel in any of its sensors" in (tmp_path / "out/quarantine.jsonl").read_text()


def damage(path: Path, at: int) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def edit_index(out: Path, change: Callable[[dict[str, Any]], None], *, honest: bool = True) -> None:
    """Change the first row of the index; unless `honest`, the manifest is made to fit it."""
    path = out / "index.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    if not honest:
        manifest = json.loads((out / "manifest.json").read_text())
        content = path.read_bytes()
        manifest["index"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (out / "manifest.json").write_text(json.dumps(manifest))


def test_every_damage_is_found_and_named(store, tmp_path):
    out = tmp_path / "out"
    copytree(store, out)
    assert verify(out) == []
    row = pq.read_table(out / "index.parquet").to_pylist()[1]
    damage(out / "shards/00000.tar", row["sensors"]["s2"]["offset"] + 100)
    (out / "shards/00001.tar").write_bytes((out / "shards/00001.tar").read_bytes()[:-10240])
    (out / "shards/00002.tar").unlink()
    with (out / "shards/00003.tar").open("ab") as file:
        file.write(b"more")
    (out / "shards/00009.tar").touch()
    edit_index(out, lambda row: row["sensors"]["s2"].update(shape=[1, 2, 3, 4]))
    (out / "dataset.yaml").write_text("kind: packed")
    found = verify(out)
    want = [
        "dataset.yaml: edited or damaged",
        "index.parquet: edited or damaged",
        "00009.tar: not in the manifest",
        f"00000.tar: damaged: sha256 differs from the manifest's (samples {row['id']})",
        "00001.tar: truncated",
        "00002.tar: missing (3 samples)",
        "00003.tar: too long",
    ]
    assert len(found) == len(want)
    assert all(text in line for text, line in zip(want, found, strict=True)), found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": [2, 10, 6, 6]}, "but 00000.tar has <f4 ("),
        ({"offset": 64}, "at byte 64, but 00000.tar has"),
        ({"dtype": "<i4"}, "s2.npy is <i4"),
        ({"state_offset": None}, "does not tell of 000000000-earth_train_00000.s2.state.npy"),
    ],
)
def test_an_index_that_tells_other_than_the_headers_is_found(store, tmp_path, change, said):
    out = tmp_path / "out"
    copytree(store, out)
    edit_index(out, lambda row: row["sensors"]["s2"].update(change), honest=False)
    found = verify(out)
    assert said in found[0], found
    assert all("index.parquet: " in line for line in found)
    if "shape" in change:
        assert len(found) == 3  # of images, days and states


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2}', '{"format": 1}'])
def test_a_manifest_that_is_none_is_refused(store, tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    (tmp_path / "dataset.yaml").write_bytes((store / "dataset.yaml").read_bytes())
    assert "manifest.json: was edited or damaged" in verify(tmp_path)[0]
    with pytest.raises(DataError, match=r"manifest.json: was edited or damaged"):
        opened(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"offset": 10**9}, "sensors.s2 of sample 'earth_train_00000' lies outside its shard"),
        ({"offset": -5}, "sensors.s2.offset holds a negative offset"),
        ({"shape": [2**30, 2**30, 2**30, 2**30]}, "lies outside its shard"),
        ({"shape": [-1, 10, 6, 6]}, "lies outside its shard"),
        ({"shape": [1, 10, 6]}, "sensors.s2.shape does not hold 4 numbers in every row"),
        ({"state_offset": 10**12}, "lies outside its shard"),
        ({"dtype": "|O"}, "sensors.s2.dtype holds the type '|O', which is none of"),
        ({"dtype": None}, "sensors.s2.dtype lacks a type"),
        ({"days_offset": None}, "sensors.s2.days_offset is missing"),
        ({"days_offset": 10**8}, "lies outside its shard"),
    ],
)
def test_a_hostile_index_is_refused_before_anything_is_mapped(store, tmp_path, change, said):
    out = tmp_path / "out"
    copytree(store, out)
    edit_index(out, lambda row: row["sensors"]["s2"].update(change), honest=False)
    with pytest.raises(DataError) as raised:
        opened(out, "train")
    assert said in str(raised.value)


def test_an_index_of_another_shard_or_that_is_none_is_refused(store, tmp_path):
    out = tmp_path / "out"
    copytree(store, out)
    edit_index(out, lambda row: row.update(shard=99), honest=False)
    with pytest.raises(DataError, match="shard holds a number outside 0 to 5"):
        opened(out, "train")
    edit_index(out, lambda row: row.update(shard=0))
    with pytest.raises(DataError, match=r"index.parquet: was edited or damaged: it is not the file"):
        opened(out, "train")
    (out / "index.parquet").write_bytes(b"PAR1")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["index"] = {"bytes": 4, "sha256": hashlib.sha256(b"PAR1").hexdigest()}
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"index.parquet: unreadable Parquet"):
        opened(out, "train")
    (out / "index.parquet").unlink()
    with pytest.raises(DataError, match=r"index.parquet: no such file"):
        opened(out, "train")


def test_a_shard_that_is_gone_or_cut_short_is_told_when_it_is_read(store, tmp_path):
    out = tmp_path / "out"
    copytree(store, out)
    (out / "shards/00000.tar").unlink()
    (out / "shards/00001.tar").write_bytes((out / "shards/00001.tar").read_bytes()[:-512])
    dataset = opened(out, "train")
    with pytest.raises(DataError, match=r"00000.tar: can't be read \(No such file"):
        dataset.read(0)
    with pytest.raises(DataError, match=r"00001.tar: is \d+ bytes, should be \d+; copy or pack it again"):
        dataset.read(3)


def test_what_a_store_lacks_is_told(store, tmp_path):
    with pytest.raises(SpecError, match="no split tset; the dataset has test, train, val"):
        opened(store, "tset")
    values = yaml.safe_load((store / "dataset.yaml").read_text())
    spec = load_spec(store).model_copy(update={"directory": str(store)})
    swapped = spec.sensors["s2"].model_copy(update={"bands": spec.sensors["s2"].bands[::-1]})
    with pytest.raises(SpecError, match=r"'s2' was packed with the bands B02, .*, its spec says B12"):
        PackedScenes(spec.model_copy(update={"sensors": {"s2": swapped}}), tmp_path, ("train",))
    with pytest.raises(SpecError, match="has no sensor 's3'; it has aerial, s2, s1_asc, s1_des"):
        PackedScenes(spec.model_copy(update={"sensors": {"s3": swapped}}), tmp_path, ("train",))
    more = {**spec.targets, "age": spec.targets["cover"]}
    with pytest.raises(SpecError, match="was packed without the target age; it has"):
        PackedScenes(spec.model_copy(update={"targets": more}), tmp_path, ("train",))
    with pytest.raises(DataError, match="no packed dataset"):
        PackedScenes(spec.model_copy(update={"directory": "."}), tmp_path, ("train",))
    assert next(iter(values)) == "kind"


def test_few_shards_are_open_at_a_time_and_a_pickled_dataset_reads_on(store, earth):
    dataset, theirs = opened(store, "train"), opened(earth, "train")
    held = dataset.scenes._maps
    dataset.scenes._maps = Maps(held.folder, held.sizes, limit=1)
    first = dataset.read(0)
    for index in (7, 0, 3, 7, 1):
        assert_equal_samples(dataset.read(index), theirs.read(index))
        assert len(dataset.scenes._maps) == 1
    assert_equal_samples(first, theirs.read(0))  # its file was let go long ago
    assert len(held) == 0
    assert dataset.scenes._maps.__getstate__()["_open"] == {}


def test_training_looks_at_no_date_that_it_does_not_take(store, tmp_path):
    out = tmp_path / "out"
    copytree(store, out)
    visit = Visit(0, 0, 0)
    want = opened(store, "train").read(0, visit)
    row = pq.read_table(out / "index.parquet").to_pylist()[0]
    content = bytearray((out / "shards/00000.tar").read_bytes())
    for name in ("s2", "s1_asc", "s1_des"):
        told = row["sensors"][name]
        size = 4 * int(np.prod(told["shape"][1:]))
        taken = want.dates[name].tolist()
        for number, day in enumerate(told["days"]):
            if day not in taken:
                content[told["offset"] + number * size : told["offset"] + (number + 1) * size] = b"\xff" * size
    (out / "shards/00000.tar").write_bytes(content)
    assert any("00000.tar: damaged" in line for line in verify(out))
    assert_equal_samples(opened(out, "train").read(0, visit), want)


@pytest.mark.parametrize("seed", range(20))
def test_dates_are_drawn_by_bits_as_by_flags(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        bins, (height, width) = int(rng.integers(1, 6)), rng.integers(1, 5, 2)
        count = bins + int(rng.integers(0, 15))
        some = rng.random((count, 1, 1)) < rng.random()
        states = (rng.integers(0, 4, (count, height, width)) * some).astype(np.uint8)
        states[:, : rng.integers(0, 2), 0] |= UNKNOWN  # padding
        start = int(rng.integers(0, count % bins + 1))
        flags = {"unknown": states & UNKNOWN > 0, "cloudy": states & CLOUDY > 0}
        want = draw_dates(count, bins, np.random.default_rng(seed), start=start, **flags)
        assert np.array_equal(draw(states, count, bins, start, np.random.default_rng(seed)), want)
        assert np.array_equal(
            draw(None, count, bins, start, np.random.default_rng(seed)),
            draw_dates(count, bins, np.random.default_rng(seed), start=start),
        )


def test_the_index_is_held_in_arrays_not_in_objects(tmp_path):
    """A store of 3,000 samples takes less than one Python object's worth of memory for each array of each sample."""
    count = 3000
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(count, 3)).astype(np.float32), "y": rng.integers(0, 2, count)}
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
    sensor = {"array": "x", "axes": ["band"], "bands": list("abc"), "gsd_m": 10, "input": {"size_px": 1, "patch_px": 1}}
    values = {"name": "a", "kind": "arrays", "file": "a.h5", "reference_date": [2020, 1, 0], "sensors": {"x": sensor}}
    values["targets"] = {"y": {"kind": "classes", "array": "y", "classes": ["n", "p"]}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(values))
    pack(load_spec(tmp_path / "spec.yaml"), tmp_path, tmp_path / "out", ("all",))
    opened(tmp_path / "out", "all")
    tracemalloc.start()
    dataset = opened(tmp_path / "out", "all")
    held = tracemalloc.take_snapshot()
    dataset.read(count - 1)
    for index in range(0, count, 10):
        dataset.read(index)
    grown, blocks = tracemalloc.get_traced_memory()[0], sum(s.count for s in held.statistics("filename"))
    tracemalloc.stop()
    assert blocks < count  # not one object for each sample
    assert grown < 400 * count


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"rasterio", "shapely", "pyproj", "tzfpy", "h5py"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def test_pretraining_needs_no_geo_library(store, tmp_path):
    values = {
        "name": "blocked",
        "device": "cpu",
        "data": {"spec": str(store), "root": str(store), "inputs": dict(COARSE)},
        "model": dict(MODEL),
        "pretrain": {"steps": 3, "batch": 4, "peak_lr": 1e-3, "log_every": 1, "workers": 1},
    }
    Recipe.model_validate(values)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    code = """
from pathlib import Path
from geomaestro.learn.recipe import load_recipe
from geomaestro.learn.run import run_recipe
run_recipe(load_recipe(Path("recipe.yaml")), Path("run"), command="test")
"""
    command = [sys.executable, "-W", "error", "-c", BLOCKED + code]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/result.json").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"shard": "2/2"}, "shard 2/2: give i/n with i from 0 to n - 1"),
        ({"shard": "1"}, "shard '1' is not i/n, such as 0/4"),
        ({"shard": "-1/2"}, "is not i/n"),
        ({"engine": "ray"}, "engine 'ray' is not one of processes, serial, dask"),
        ({"workers": 0}, "0 workers: give 1 or more"),
    ],
)
def test_wrong_words_for_jobs_are_refused(words, said):
    with pytest.raises(SpecError, match=said):
        Jobs.of(**words)


def test_a_killed_worker_and_a_missing_dask_are_told(monkeypatch):
    with pytest.raises(RunError, match="a worker process was killed, perhaps for want of memory; what is finished"):
        list(run(signal.raise_signal, [9, 9], Jobs(workers=2)))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SpecError, match=r"Dask is not installed; `pip install geomaestro\[dask\]`"):
        list(run(abs, [1, 2], Jobs(engine="dask")))


def test_two_processes_do_not_write_one_shard(earth, tmp_path):
    import fcntl

    pack_earth(earth, tmp_path / "out", jobs=Jobs(engine="serial", shard=(1, 6)))
    with (tmp_path / "out/shards/.00000.tar.part").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=r"00000.tar: another process is writing it; give each its own --shard"):
            pack_earth(earth, tmp_path / "out")
