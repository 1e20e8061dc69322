"""Spectral entropy against the memory of the machine: `python -m benchmarks diversity`.

How many tiles of 12 x 256 x 256 numbers of 16 bits one process measures in a second, beside what copying their bytes
takes (`memcpy`) and what np.histogram takes; how memory grows with the number of samples; how long near-duplicates
among a million hashes take. Writes benchmarks/results/diversity.json.
Axes: c band, h row, w column.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.machine import STATUS, machine_slug, state_of_code
from geomaestro.data.packing.jobs import Jobs
from geomaestro.select.diversity import summarise
from geomaestro.select.entropy import Spectral, SpectralOptions, shannon
from geomaestro.select.geography import Layers
from geomaestro.select.placelist import TableWork
from geomaestro.select.redundancy import twins
from geomaestro.select.work import make_table
from geomaestro.sensors import Sensor

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
SHAPE = (12, 256, 256)
TILES = 64  # 100 MB: more than the caches hold, as in a dataset that is read once
ROUNDS = 7
RESULTS = Path(__file__).parent / "results"


def made_tiles() -> np.ndarray:
    """Tiles (n c h w) of reflectances that vary as those of land do: a mean per band and tile, details within."""
    rng = np.random.default_rng(0)
    means = rng.uniform(500, 4000, (TILES, SHAPE[0], 1, 1))
    spread = rng.uniform(50, 900, (TILES, SHAPE[0], 1, 1))
    return np.clip(means + spread * rng.normal(size=(TILES, *SHAPE)), 0, 20_000).astype(np.uint16)


def rate(work: Callable[[np.ndarray], Any], tiles: np.ndarray) -> float:
    """Tiles per second of one processor: the median of some rounds over all tiles."""
    work(tiles[0])
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()  # others may use the machine
        for tile in tiles:
            work(tile)
        taken.append((time.process_time() - start) / len(tiles))
    return 1 / median(taken)


def by_histogram(tile: np.ndarray) -> float:
    """What the default measures, with np.histogram in place of tables: for the price of a plain solution."""
    return float(np.mean([shannon(np.histogram(band, 64, (0, 10_000))[0]) for band in tile]))


def kernels() -> dict[str, Any]:
    """Rates of the kernel with several options."""
    tiles = made_tiles()
    sensor = Sensor(bands=BANDS, gsd_m=10, unit="reflectance_1e4")
    options = {
        "default: 64 bins of 8 bits, ten bands": SpectralOptions(),
        "all twelve bands": SpectralOptions(bands=BANDS),
        "256 bins, all twelve bands": SpectralOptions(bins=256, bands=BANDS),
        "fixed range, all twelve bands": SpectralOptions(range=(0.0, 10_000.0), bands=BANDS),
        "range of each image, all twelve bands": SpectralOptions(range="image", bands=BANDS),
        "joint, 8 bins": SpectralOptions(joint=True, bins=8),
    }
    into = np.empty(SHAPE, np.uint16)
    copies = rate(lambda tile: np.copyto(into, tile), tiles)
    found: dict[str, Any] = {"memcpy": {"tiles_per_s": copies, "gb_per_s": copies * tiles[0].nbytes / 1e9}}
    found["np.histogram, all twelve bands"] = {"tiles_per_s": rate(by_histogram, tiles)}
    for name, each in options.items():
        spectral = Spectral.of("s2", sensor, each)
        speed = rate(lambda tile, measure=spectral: measure(tile[None]), tiles)  # type: ignore[misc]
        found[name] = {"tiles_per_s": speed, "gb_per_s": speed * tiles[0].nbytes / 1e9, "of_memcpy": speed / copies}
    return found


def memory(samples: int) -> dict[str, float]:
    """Peak memory and seconds of a table of places, in a process of its own."""
    code = f"from benchmarks.diversity import places; places({samples})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def places(samples: int) -> None:
    """Measure a table of places drawn on the sphere; print the peak of memory before and after."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with pq.ParquetWriter(folder / "p.parquet", pa.schema([("lon", pa.float64()), ("lat", pa.float64())])) as file:
            for seed in range(0, samples, 100_000):
                rng = np.random.default_rng(seed)
                count = min(100_000, samples - seed)
                lon, lat = rng.uniform(-180, 180, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
                file.write_table(pa.table({"lon": lon, "lat": lat}))
        start = time.process_time()
        work = TableWork.of(folder / "p.parquet", "p", {}, Layers(), folder)
        made = make_table(work, folder, jobs=Jobs(engine="serial"), sea=True)
        tabled = peak_mb()
        assert made.table is not None, "all pieces are there"
        summarise(made.table)
        print(json.dumps({"table_mb": tabled, "summary_mb": peak_mb(), "cpu_s": time.process_time() - start}))


def peak_mb() -> float:
    """Peak of memory of this process so far, without that of the one that started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    assert found is not None, "Linux tells it"
    return int(found[1]) / 1024


def duplicates(count: int) -> dict[str, float]:
    """Seconds that near-duplicates among hashes take, of which one in a hundred is a copy with a bit changed."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(1, 2**64 - 1, count, dtype=np.uint64, endpoint=True)
    copies = rng.choice(count, count // 100, replace=False)
    hashes[copies] = hashes[(copies + 1) % count] ^ (np.uint64(1) << rng.integers(0, 64, len(copies), dtype=np.uint64))
    start = time.process_time()
    found = twins(hashes, None)
    return {"hashes": count, "cpu_s": time.process_time() - start, "redundant": found.redundant}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all, print and write it."""
    argparse.ArgumentParser(prog="benchmarks diversity", description=__doc__).parse_args(arguments)
    found = {
        "machine": machine_slug(),
        **state_of_code(),
        "kernels": kernels(),
        "memory": {str(count): memory(count) for count in (10_000, 100_000, 1_000_000)},
        "near_duplicates": duplicates(1_000_000),
    }
    print(json.dumps(found, indent=1))
    (RESULTS / "diversity.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
