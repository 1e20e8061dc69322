"""Seconds and memory of `geomaestro choose` against the number of candidates: `python -m benchmarks choose`.

    python -m benchmarks choose [--most 1e7] [--budget 10000]

Pools are drawn from a seed: strata as uneven as those of published datasets, entropies, near duplicates, embeddings in
clusters. Each row is a process of its own: reading the table and choosing are timed, in wall seconds and in CPU seconds
of all threads (which compare although a machine is shared; set OMP_NUM_THREADS=1), and its peak of memory is its own.
Writing the subset and its page are not counted. Choices by embeddings go on to a tenth of the candidates of others.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
STRATA = {"continent": 6, "biome": 14, "land_cover": 11, "season": 4}
ENTROPY, COVERAGE = "spectral_entropy=1", "continent=0.5,biome=0.5,land_cover=0.5,season=0.2"
CHOICES = {
    "random": "random",
    "balanced": "balanced:continent",
    "entropy and strata": f"{ENTROPY},{COVERAGE}",
    "and near duplicates": f"{ENTROPY},{COVERAGE},redundancy=0.5",
    "and embeddings": f"{ENTROPY},{COVERAGE},redundancy=0.5,embedding=1",
}
WITH_EMBEDDINGS = "and embeddings"
NUMBERS = 64  # of an embedding
AT_ONCE = 250_000  # rows of a row group
FEWER = 10


def write_pool(path: Path, size: int, *, embedded: bool, seed: int = 0) -> None:
    """Draw a pool and write it, a row group at a time."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(500, NUMBERS)).astype(np.float32)
    shares = {name: rng.dirichlet(np.ones(count)) for name, count in STRATA.items()}
    writer = None
    for start in range(0, size, AT_ONCE):
        table = _rows(rng, np.arange(start, min(start + AT_ONCE, size)), shares, centres if embedded else None)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None, "a pool has rows"
    writer.close()


def _rows(rng: np.random.Generator, ids: np.ndarray, shares: dict[str, np.ndarray], centres: np.ndarray | None) -> Any:
    count = len(ids)
    hashes = rng.integers(1, 2**63, count).astype(np.uint64)
    again = rng.random(count) < 0.05  # one in twenty is the picture before it, but for a bit
    hashes[1:][again[1:]] = hashes[:-1][again[1:]] ^ np.uint64(1)
    columns: dict[str, Any] = {
        "id": np.char.add("tile_", ids.astype(str)),
        "spectral_entropy": rng.gamma(25, 0.1, count).astype(np.float32),
        "picture_hash": hashes,
        **{name: np.char.add(name, rng.choice(len(p), count, p=p).astype(str)) for name, p in shares.items()},
    }
    if centres is not None:
        near = centres[rng.integers(0, len(centres), count)] + 0.5 * rng.normal(size=(count, NUMBERS))
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(near.astype(np.float32).ravel(), NUMBERS)
    return pa.table(columns)


def run_here(path: Path, budget: int, by: str) -> dict[str, Any]:
    """Choose in this process."""
    from geomaestro.select.choose import choose

    started_at, before = time.perf_counter(), time.process_time()
    found = choose([path], budget, by)
    row: dict[str, Any] = {"seconds": round(time.perf_counter() - started_at, 3)}
    row["cpu_seconds"] = round(time.process_time() - before, 3)
    row["peak_mib"] = peak_mib()
    if found.picks is not None:
        row["algorithm"] = found.picks.algorithm
        row |= {"share_of_optimum": round(found.picks.share_of_optimum, 4), "looked_at": found.picks.looked_at}
    return row


def peak_mib() -> int:
    """Peak memory of this process, MiB; what getrusage gives counts the process that started it too."""
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found, "Linux tells it"
    return round(int(found.group(1)) / 1024)


def run_apart(path: Path, budget: int, by: str) -> dict[str, Any]:
    """Choose in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.choose", "--here", str(path), "--budget", str(budget), "--by", by]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Time all choices, store the rows, draw the figure."""
    chosen = _parser().parse_args(arguments)
    if chosen.here:
        print(json.dumps(run_here(Path(chosen.here), chosen.budget, chosen.by)))
        return
    from benchmarks.machine import machine_slug, state_of_code  # it loads torch, which is no memory of a choice

    sizes = [int(each) for each in np.geomspace(1e4, chosen.most, round(np.log10(chosen.most / 1e4)) + 1).round()]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.parquet"
        for size in sizes:
            embedded = size * FEWER <= chosen.most
            write_pool(path, size, embedded=embedded)
            for name, by in CHOICES.items():
                if name == WITH_EMBEDDINGS and not embedded:
                    continue
                budget = min(chosen.budget, size // 2)
                rows.append({"candidates": size, "choice": name, "by": by, "budget": budget})
                rows[-1] |= run_apart(path, budget, by)
                print(json.dumps(rows[-1]), flush=True)
    result = {"machine": machine_slug(), **state_of_code(), "numbers_per_embedding": NUMBERS, "rows": rows}
    out = HERE / "results" / "choose.json"
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(rows, out.with_suffix(".png"))
    print(f"wrote {out}")


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """CPU seconds and memory against candidates, on logarithmic axes."""
    from benchmarks.figures import new_figure

    figure, panels = new_figure(1, 2)
    for name in CHOICES:
        mine = [row for row in rows if row["choice"] == name]
        for panel, key, scale in ((panels[0][0], "cpu_seconds", 1), (panels[0][1], "peak_mib", 1024)):
            panel.plot([row["candidates"] for row in mine], [row[key] / scale for row in mine], "o-", ms=4, label=name)
    for panel, title in zip(panels[0], ("CPU seconds", "peak memory, GiB"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel="candidates", title=title)
        panel.grid(alpha=0.3)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks choose", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most", type=float, default=1e7, help="candidates of the largest pool")
    parser.add_argument("--budget", type=int, default=10_000, help="samples to choose; at most half of the pool")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    parser.add_argument("--by", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
