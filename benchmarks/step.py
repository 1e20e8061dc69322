"""Times training and inference steps on random pixels beside the official code's stored numbers.

    python -m benchmarks.step [--shapes treesatai_ts,flair] [--sizes tiny] [--phases infer] [--precisions bf16]

A step is forward, loss, backward and fused AdamW (inference: forward alone) on one batch in memory, with torch's
matrix products at "medium" as in the official code, and freed memory kept as in our programs
(`geomaestro.learn.allocator`). Each row runs in a process of its own. A look at the machine's rate of matrix products
comes before each round of steps, so that rows compare although the machine is shared: `corrected` is the ratio to the
official code of samples per product of the machine. GFLOP/s count the matrix products of our own model
(`torch.utils.flop_counter`), which leaves out some that the official code makes. Rows already in the output file stay
there until they are timed again. Where others use the machine too, `--one-thread` times one thread in CPU seconds; then
only `corrected` can be compared with the official numbers, which are of two threads.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.one_row import Row
from benchmarks.shapes import SHAPES

HERE = Path(__file__).parent
PHASES = ("pretrain", "finetune", "infer")
PRECISIONS = ("fp32", "bf16")
SIZES = ("tiny", "small", "base")
KEY = ("shape", "size", "phase", "precision", "batch")
DEFAULT_BATCH = 2  # for what the official table lacks
TARGETS = {"pretrain": 1.8, "finetune": 1.3, "infer": 1.3}
TARGET_NEAR_PEAK, NEAR_PEAK = 1.15, 0.55  # where the official code already has this share of the product's rate
ALLOCATOR_ROWS = (
    ("treesatai_ts", "tiny", "pretrain", "fp32", 32),
    ("pastis_hd", "base", "pretrain", "fp32", 1),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the chosen rows, print them as they come, store them."""
    chosen = _parser().parse_args(arguments)
    official = json.loads((HERE / "official_step.json").read_text())
    rows = choose_rows(chosen, official["rows"])
    console = Console(width=None if sys.stdout.isatty() else 200)
    results = []
    for number, row in enumerate(rows, start=1):
        results.append({**compare(run(row), official), **state_of_code()})
        console.print(f"{number}/{len(rows)} {one_line(results[-1])}", highlight=False)
    gains = [allocator_gain(row) for row in rows if _key(row) in ALLOCATOR_ROWS]
    kind = "_one_thread" if chosen.one_thread else ""
    path = Path(chosen.out) if chosen.out else HERE / "results" / f"step_{machine_slug()}{kind}.json"
    stored = store(path, results, gains)
    console.print(make_table(stored["rows"]))
    console.print(f"wrote {path}")


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(getattr(row, k) for k in KEY)


def store(path: Path, results: Sequence[dict[str, Any]], gains: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write results to a file, keeping its rows that were not timed again; gives the file's content."""
    before = json.loads(path.read_text()) if path.exists() else {"allocator_gain": [], "rows": []}
    content = {
        **about(),
        "allocator_gain": merge(before["allocator_gain"], gains),
        "rows": merge(before["rows"], results),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    return content


def merge(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Old and new rows in the order of shape, size, phase, precision and batch; a new row replaces its old one."""
    rows = {tuple(row[k] for k in KEY): row for row in (*old, *new)}
    orders = (tuple(SHAPES), SIZES, PHASES, PRECISIONS)
    return [rows[key] for key in sorted(rows, key=lambda key: (*map(_place, orders, key), key[-1]))]


def _place(order: tuple[str, ...], value: str) -> int:
    return order.index(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=str(__doc__).splitlines()[0])
    for name, values in (("shapes", tuple(SHAPES)), ("sizes", SIZES), ("phases", PHASES), ("precisions", PRECISIONS)):
        parser.add_argument(f"--{name}", type=_several(values), default=values, help=f"of {','.join(values)}")
    parser.add_argument("--batch", type=_numbers, help="default: the official rows'")
    parser.add_argument("--one-thread", action="store_true", help="time one thread in CPU seconds")
    parser.add_argument("--out", help="JSON file; default: benchmarks/results/step_<machine>[_one_thread].json")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _several(known: tuple[str, ...]) -> Any:
    def names(text: str) -> tuple[str, ...]:
        unknown = set(text.split(",")) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not of {', '.join(known)}")
        return tuple(text.split(","))

    return names


def choose_rows(chosen: argparse.Namespace, official: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows asked for: at the official batch sizes, or at the given ones."""
    rows = []
    for shape in chosen.shapes:
        for size in chosen.sizes:
            for phase in chosen.phases:
                batches = chosen.batch or _official_batches(official, shape, size, phase)
                rows += [
                    Row(shape, size, phase, p, batch, one_thread=chosen.one_thread)
                    for batch in batches
                    for p in chosen.precisions
                ]
    return rows


def _official_batches(official: Sequence[dict[str, Any]], shape: str, size: str, phase: str) -> list[int]:
    wanted = (shape, size, phase)
    found = {row["batch"] for row in official if (row["shape"], row["size"], row["phase"]) == wanted}
    return sorted(found) or [DEFAULT_BATCH]


def run(row: Row) -> dict[str, Any]:
    """Time one row in its own process."""
    command = [sys.executable, "-m", "benchmarks.one_row", json.dumps(asdict(row))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, check=False)
    if done.returncode:
        raise SystemExit(f"{row} failed with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(ours: dict[str, Any], official: dict[str, Any]) -> dict[str, Any]:
    """A result beside the official code's, if it has the same row."""
    theirs = next((row for row in official["rows"] if all(row[k] == ours[k] for k in KEY)), None)
    if theirs is None:
        return ours
    precision = ours["precision"]
    ratio = ours["samples_per_s_median"] / theirs["samples_per_s_median"]
    machine = ours[f"product_{precision}_gflops"] / official["product_gflops"][precision]
    near_peak = ours["phase"] != "pretrain" and theirs["share_of_product"] > NEAR_PEAK
    return {
        **ours,
        "official_samples_per_s_median": theirs["samples_per_s_median"],
        "official_share_of_product": theirs["share_of_product"],
        "official_peak_rss_mib": theirs["peak_rss_mib"],
        "ratio": ratio,
        "corrected_ratio": ratio / machine,
        "target": TARGET_NEAR_PEAK if near_peak else TARGETS[ours["phase"]],
    }


def allocator_gain(row: Row) -> dict[str, Any]:
    """The same row with and without freed memory kept, in samples per product of the machine."""
    speeds = {}
    for kept in (True, False):
        result = run(Row(**{**asdict(row), "keep_freed": kept}))
        speeds[kept] = result["samples_per_s_median"] / result[f"product_{row.precision}_gflops"]
    return {**asdict(row), "gain": speeds[True] / speeds[False]}


def machine_slug() -> str:
    """CPU model and cores, fit for a file name."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    model = found.group(1) if found else platform.processor() or platform.machine()
    return re.sub(r"[^a-z0-9]+", "_", f"{model} {os.cpu_count()} cores".lower()).strip("_")


def about() -> dict[str, Any]:
    """Where and with what the rows were timed."""
    import torch

    return {
        "machine": machine_slug(),
        "torch": torch.__version__,
        "threads": "one, in CPU seconds, where a row says `one_thread`; else torch's default",
        "settings": 'matmul precision "medium"; freed memory kept (geomaestro.learn.allocator); fused AdamW',
    }


def state_of_code() -> dict[str, Any]:
    """The commit and the time of a row."""
    describe = ["git", "describe", "--always", "--dirty"]
    git = subprocess.run(describe, capture_output=True, text=True, cwd=HERE, check=False)
    return {"git": git.stdout.strip() or None, "date": datetime.now(UTC).isoformat(timespec="seconds")}


def one_line(result: dict[str, Any]) -> str:
    """A result in a line."""
    name = " ".join(str(result[k]) for k in KEY)
    ratios = f", ratio {result['ratio']:.2f}, corrected {result['corrected_ratio']:.2f}" if "ratio" in result else ""
    return f"{name}: {result['samples_per_s_median']:.2f} samples/s{ratios}"


def make_table(results: Sequence[dict[str, Any]]) -> Table:
    """All results; a ratio under its target is marked."""
    table = Table(title="Training and inference steps, samples/s (freed memory kept, matmul precision medium)")
    numbers = ("median", "best", "GFLOP/s", "product", "share", "RSS/MiB", "official", "share", "ratio", "corrected")
    for head in KEY:
        table.add_column(head)
    for head in numbers:
        table.add_column(head, justify="right")
    for r in results:
        theirs = _official_cells(r) if "ratio" in r else [""] * 4
        product = r[f"product_{r['precision']}_gflops"]
        table.add_row(
            *(str(r[k]) for k in KEY),
            f"{r['samples_per_s_median']:.2f}",
            f"{r['samples_per_s_best']:.2f}",
            f"{r['gflops']:.0f}",
            f"{product:.0f}",
            f"{r['share_of_product']:.0%}",
            f"{r['peak_rss_mib']:.0f}",
            *theirs,
        )
    return table


def _official_cells(r: dict[str, Any]) -> list[str]:
    missed = " !" if r["corrected_ratio"] < r["target"] else ""
    theirs = f"{r['official_samples_per_s_median']:.2f}", f"{r['official_share_of_product']:.0%}"
    return [*theirs, f"{r['ratio']:.2f}", f"{r['corrected_ratio']:.2f}{missed}"]


if __name__ == "__main__":
    main()
