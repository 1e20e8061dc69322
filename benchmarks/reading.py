"""Times reading the same samples from TreeSatAI-TS files in the official way, from those files in ours, and packed.

    python -m benchmarks.reading [--samples 200] [--rounds 7] [--data FOLDER [--spec SPEC] [--splits train]]

Without `--data` a miniature Earth in the files of TreeSatAI-TS is generated. The official way is written here after the
description of what the official code does (reading everything, each HDF5 file opened four times, a date parsed for
every image, medians in training too), not after the code; its time per stage stands beside what was measured of the
official code elsewhere. One process and one thread, files in the page cache. The ways take turns, and CPU seconds are
counted, so that rows compare although the machine is shared; a result is the median of the rounds.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
from numpy import ndarray
from rasterio.windows import Window

from benchmarks.machine import machine_slug, state_of_code
from geomaestro.data.loader import training_batches
from geomaestro.data.miniatures.synthetic import EarthOptions, synthesise
from geomaestro.data.opening import open_dataset
from geomaestro.data.packing.pack import Jobs, pack
from geomaestro.data.reading import Visit
from geomaestro.data.sampling import SceneDataset
from geomaestro.data.specs import load_spec

HERE = Path(__file__).parent
SERIES = {"s2": ("sen-2", 16), "s1_asc": ("sen-1-asc", 4), "s1_des": ("sen-1-des", 4)}
OFFICIAL_MS = {
    "aerial open": 2.09, "aerial read": 0.53, "h5 open": 0.64, "h5 read": 0.87, "parse dates": 1.79,
    "median": 2.42, "choose": 0.23, "transform": 0.36, "all": 11.14,
}  # fmt: skip
"""Milliseconds per sample of the official code on real samples, of about twice the dates; measured on other cores."""
TARGETS = {"files": 3.0, "packed": 20.0}
BATCH, EPOCHS = 32, 20


class OfficialWay:
    """Reads as the official code is described to, in training, and keeps the time of each stage."""

    def __init__(self, dataset: SceneDataset, root: Path) -> None:
        self.rows = [dataset.scenes.rows[i] for i in range(len(dataset))]  # type: ignore[attr-defined]
        self.root, self.rng = root, np.random.default_rng(0)
        self.stages: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of a stage."""
        start = time.process_time()
        yield
        self.stages[name] += time.process_time() - start

    def read(self, index: int) -> dict[str, ndarray]:
        """A sample as float32."""
        row = self.rows[index]
        series = self.root / "sentinel-ts" / row["sen_name"]
        images = {"aerial": self.aerial(self.root / "aerial" / row["aerial_name"])}
        images |= {name: self.series(series, name) for name in SERIES}
        dates = self.dates(series)
        with self.stage("transform"):
            flips, swap = [axis for axis in (-1, -2) if self.rng.random() < 0.5], self.rng.random() < 0.5
            for name, x in images.items():
                x = np.flip(x, flips)
                images[name] = np.ascontiguousarray(x.swapaxes(-1, -2) if swap else x, np.float32)
        return images | dates

    def aerial(self, path: Path) -> ndarray:
        """(1 c h w) between 0 and 1."""
        with self.stage("aerial open"):
            source = rasterio.open(path)
        with self.stage("aerial read"), source:
            return np.asarray(source.read(window=Window(2, 2, 300, 300)), np.float32)[None] / 255

    def series(self, path: Path, name: str) -> ndarray:
        """(d c h w) of one date per bin, drawn among those without NaN and, for s2, without clouds."""
        prefix, bins = SERIES[name]
        with self.stage("h5 open"):
            file = h5py.File(path)
        with self.stage("h5 read"), file:
            x = file[f"{prefix}-data"][:].astype(np.float32)
            flags = file["sen-2-masks"][:] if name == "s2" else None
        each = len(x) // bins
        start = int(self.rng.integers(0, len(x) - bins * each + 1))
        x = x[start : start + bins * each].reshape(bins, each, *x.shape[1:])
        with self.stage("choose"):
            seen = x
            if flags is not None:
                bad = (flags[start : start + bins * each] > 0).any(axis=(1, 2, 3)).reshape(bins, each)
                bad &= ~bad.all(axis=1, keepdims=True)
                seen = np.where(bad[:, :, None, None, None], np.nan, x)
        with self.stage("median"):
            median = np.nanmedian(seen, axis=1, keepdims=True)
        with self.stage("choose"):
            far = np.abs(seen - median).mean(axis=(2, 3, 4))
            far = np.where(np.isnan(far), np.nan, self.rng.random(far.shape))
            best = np.nanargmin(far, axis=1)
            return np.take_along_axis(x, best[:, None, None, None, None], axis=1)[:, 0]

    def dates(self, path: Path) -> dict[str, ndarray]:
        """Dates of all images."""
        with self.stage("h5 open"):
            file = h5py.File(path)
        with self.stage("h5 read"), file:
            names = {name: file[f"{prefix}-products"][:] for name, (prefix, _) in SERIES.items()}
        with self.stage("parse dates"):
            days = {}
            for name, texts in names.items():
                at = [datetime.strptime(text.decode().split("_")[-5][:8], "%Y%m%d") for text in texts]
                days[f"{name} dates"] = np.asarray([(d.year, d.timetuple().tm_yday, d.hour) for d in at])
            return days


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all ways, print a table, store it."""
    chosen = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(chosen.data) if chosen.data else make_earth(Path(folder) / "earth", chosen.samples)
        spec = load_spec(chosen.spec or root)
        splits, store = tuple(chosen.splits.split(",")), Path(folder) / "packed"
        pack(spec, root, store, splits, jobs=Jobs(workers=1))
        files = open_dataset(spec, root, splits)
        packed = open_dataset(load_spec(store), store, splits)
        official = OfficialWay(files, root)
        count = min(chosen.samples, len(files))
        rows = time_all(official, files, packed, count, chosen.rounds)
        stages = {name: 1e3 * s / (count * (chosen.rounds + 1)) for name, s in official.stages.items()}
        result = {
            "machine": machine_slug(),
            **state_of_code(),
            "data": "real samples" if chosen.data else "a miniature Earth (geomaestro data synth)",
            "samples": count,
            "rows": rows,
            "official_way_ms_per_stage": stages,
            "batches": batches(packed, files),
            "soak": soak(packed),
        }
    name = f"reading_{machine_slug()}{'_real_samples' if chosen.data else ''}.json"
    path = Path(chosen.out) if chosen.out else HERE / "results" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print_markdown(result)
    print(f"\nwrote {path}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder in the layout of TreeSatAI-TS")
    parser.add_argument("--spec", help="its spec, if the folder holds none")
    parser.add_argument("--splits", default="train")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", help="JSON to write; by default in benchmarks/results")
    return parser


def make_earth(folder: Path, samples: int) -> Path:
    """Files of a miniature Earth."""
    synthesise(folder, EarthOptions(train=samples, val=0, test=0))
    return folder


def time_all(
    official: OfficialWay, files: SceneDataset, packed: SceneDataset, count: int, rounds: int
) -> list[dict[str, Any]]:
    """CPU milliseconds per sample of each way, and how many times the official way's speed that is."""
    turn = [0]

    def visit(dataset: SceneDataset) -> Callable[[int], object]:
        return lambda index: dataset.read(index, Visit(0, turn[0], index))

    ways: dict[tuple[str, str], Callable[[int], object]] = {
        ("official", "training"): official.read,
        ("files", "training"): visit(files),
        ("packed", "training"): visit(packed),
        ("files", "evaluation"): files.read,
        ("packed", "evaluation"): packed.read,
    }
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        turn[0] = number
        for way, read in ways.items():
            start = time.process_time()
            for index in range(count):
                read(index)
            if number:  # the first round fills caches
                taken[way].append(1e3 * (time.process_time() - start) / count)
    base = statistics.median(taken["official", "training"])
    return [
        {
            "way": way,
            "mode": mode,
            "ms": statistics.median(ms),
            "ms_best": min(ms),
            "samples_per_s": 1e3 / statistics.median(ms),
            "ratio": base / statistics.median(ms),
            "target": TARGETS.get(way) if mode == "training" else None,
        }
        for (way, mode), ms in taken.items()
    ]


def batches(packed: SceneDataset, files: SceneDataset) -> list[dict[str, Any]]:
    """Collated training batches per second of wall time, at 0 and 2 workers."""
    found = []
    for name, dataset, steps in (("packed", packed, 150), ("files", files, 30)):
        for workers in (0, 2):
            stream = training_batches(dataset, batch=BATCH, seed=0, start=0, steps=steps + 10, workers=workers)
            for _ in range(10):
                next(stream)
            start = time.perf_counter()
            for _ in stream:
                pass
            speed = steps / (time.perf_counter() - start)
            found.append({"way": name, "workers": workers, "batch": BATCH, "batches_per_s": speed})
    return found


def soak(dataset: SceneDataset) -> dict[str, Any]:
    """Memory of this process and 2 workers after each of 20 epochs, MiB: `own`, and with the mapped files' pages."""
    each = max(1, len(dataset) // BATCH)
    own, resident = [], []
    stream = training_batches(dataset, batch=BATCH, seed=0, start=0, steps=EPOCHS * each, workers=2)
    for step, _ in enumerate(stream, start=1):
        if step % each == 0 and step < EPOCHS * each:
            own.append(memory_mib("RssAnon"))
            resident.append(memory_mib("VmRSS"))
    return {"epochs": EPOCHS, "workers": 2, "own_mib": own, "resident_mib": resident}


def memory_mib(field: str) -> float:
    """A field of /proc/PID/status, of this process and its children together."""
    children = [n for path in Path("/proc/self/task").glob("*/children") for n in path.read_text().split()]
    total = 0
    for pid in ("self", *children):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)
    return total / 1024


def print_markdown(result: dict[str, Any]) -> None:
    """The results as tables."""
    print(f"One process, one thread, CPU time; {result['samples']} samples of {result['data']}; {result['machine']}.\n")
    print("| way | mode | ms/sample | samples/s | to the official way | target |\n|---|---|---:|---:|---:|---:|")
    for row in result["rows"]:
        target = (
            "" if row["target"] is None else f">= {row['target']:g}" + ("" if row["ratio"] >= row["target"] else " !")
        )
        numbers = f"{row['ms']:.2f} | {row['samples_per_s']:.0f} | {row['ratio']:.1f} | {target}"
        print(f"| {row['way']} | {row['mode']} | {numbers} |")
    print("\n| stage of the official way | ms/sample here | measured of the official code |\n|---|---:|---:|")
    stages = result["official_way_ms_per_stage"]
    base = next(row["ms"] for row in result["rows"] if row["way"] == "official")
    for name, ms in {**stages, "all": base}.items():
        print(f"| {name} | {ms:.2f} | {OFFICIAL_MS[name]:.2f} |")
    print("\n| batches of 32, collated | workers | batches/s |\n|---|---:|---:|")
    for row in result["batches"]:
        print(f"| {row['way']} | {row['workers']} | {row['batches_per_s']:.1f} |")
    own, resident = result["soak"]["own_mib"], result["soak"]["resident_mib"]
    print(
        f"\n{EPOCHS} epochs with 2 workers, all three processes: own memory {own[1]:.0f} MiB after 2 epochs, "
        f"{own[-1]:.0f} MiB at the end; with pages of mapped files {resident[1]:.0f} and {resident[-1]:.0f} MiB."
    )


if __name__ == "__main__":
    main()
