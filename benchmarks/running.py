"""Runs jobs one after another, each in its own process, and keeps their results in one JSON file per suite and machine.

A result is stored as soon as it is there. A job is left out if its result of the same code (package, programs, torch:
`machine.code_state`) is stored; failures other than want of memory are tried again.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.machine import code_state, machine_slug, state_of_code
from benchmarks.models import Row, identity
from benchmarks.shapes import SHAPES
from benchmarks.worker import OUT_OF_MEMORY

HERE = Path(__file__).parent
RESULTS = HERE / "results"
LIMIT_S = 1800.0
ORDERS = {
    "shape": tuple(SHAPES),
    "size": ("toy", "tiny", "small", "base", "large"),
    "phase": ("pretrain", "finetune", "infer"),
    "precision": ("fp32", "bf16"),
    "mode": ("eager", "compiled"),
    "model": ("ours", "plain"),
}
DEFAULTS = {"mode": "eager", "model": "ours"}


@dataclass(frozen=True)
class Job:
    """A row of a suite."""

    suite: str
    row: Row

    def path(self, folder: Path = RESULTS) -> Path:
        """Where the result belongs."""
        kind = "_one_thread" if self.row.one_thread else ""
        return folder / f"{self.suite}_{machine_slug(self.row.device)}{kind}.json"


@dataclass(frozen=True)
class Settings:
    """How jobs are run: `out` overrides the file, `finish` completes a result of a suite."""

    out: Path | None = None
    again: bool = False
    limit_s: float = LIMIT_S
    folder: Path = RESULTS

    def path_of(self, job: Job) -> Path:
        """The file of a job's result."""
        return self.out or job.path(self.folder)


Finish = Callable[[dict[str, Any]], dict[str, Any]]


def run_jobs(
    jobs: Sequence[Job], settings: Settings, console: Console, finish: Mapping[str, Finish] | None = None
) -> dict[Path, list[dict[str, Any]]]:
    """Run what has no result yet; gives the results of all these jobs by file."""
    code = code_state()
    known = {job: None if settings.again else stored_result(settings.path_of(job), job, code) for job in jobs}
    missing = [job for job in known if known[job] is None]
    with _progress(console) as progress:
        task = progress.add_task("", total=len(missing))
        for job in missing:
            progress.update(task, description=f"{job.suite}: {name_of(asdict(job.row))}")
            state = state_of_code()
            result = run_job(job, settings.limit_s)
            if finish and job.suite in finish and "failed" not in result:
                result = finish[job.suite](result)
            known[job] = result = {**result, **state}
            store(settings.path_of(job), [result], about(job.row))
            console.print(one_line(job.suite, result), highlight=False)
            progress.advance(task)
    done: dict[Path, list[dict[str, Any]]] = {}
    for job, result in known.items():
        done.setdefault(settings.path_of(job), []).append(result or {})
    return done


def _progress(console: Console) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(
        TextColumn("{task.description}"), *columns, console=console, transient=True, speed_estimate_period=1e9
    )


def run_job(job: Job, limit_s: float) -> dict[str, Any]:
    """The result of a job, or its row with what went wrong in `failed`."""
    row = asdict(job.row)
    asked = {**row, "batch_asked": row["batch"]}
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps({"suite": job.suite, "row": row})]
    env = {**os.environ, **({"OMP_NUM_THREADS": "1"} if job.row.one_thread else {})}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=HERE.parent, check=False, timeout=limit_s, env=env
        )
    except subprocess.TimeoutExpired:
        return {**asked, "failed": f"took longer than {limit_s:.0f} s"}
    if done.returncode:
        return {**asked, "failed": reason(done.returncode, done.stderr)}
    return {**asked, **json.loads(done.stdout.splitlines()[-1])}


def reason(code: int, stderr: str) -> str:
    """Why a process failed, in a line."""
    if code < 0:
        return OUT_OF_MEMORY + " (killed)" if code == -9 else f"killed by signal {-code}"
    lines = [line for line in stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit status {code}"


def stored_result(path: Path, job: Job, code: str) -> dict[str, Any] | None:
    """The result of a job from this code, None if it has to be run."""
    for row in read(path)["rows"]:
        if identity(row) == identity(asdict(job.row)) and row.get("code") == code:
            failed = row.get("failed", "")
            return None if failed and not failed.startswith(OUT_OF_MEMORY) else row
    return None


def read(path: Path) -> dict[str, Any]:
    """What a file of results holds; nothing if there is none."""
    return json.loads(path.read_text()) if path.exists() else {"rows": []}


def store(path: Path, rows: Sequence[dict[str, Any]], head: Mapping[str, Any]) -> dict[str, Any]:
    """Write rows to a file, keeping its rows that were not run again, whole or not at all; gives the content."""
    before = read(path)
    content = {**before, **head, "rows": merge(before["rows"], rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".json.part")
    half.write_text(json.dumps(content, indent=1) + "\n")
    half.replace(path)
    return content


def merge(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Old and new rows in order; a new row replaces its old one."""
    rows = {identity(row): row for row in (*old, *new)}
    return sorted(rows.values(), key=_order)


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    places = [order.index(row.get(name, DEFAULTS.get(name))) for name, order in ORDERS.items()]
    return *places, row.get("recompute", False), row.get("dates") or 0, row["batch"]


def about(row: Row) -> dict[str, Any]:
    """Where and with what rows were run."""
    import torch

    if row.device == "cuda":
        settings = 'matmul precision "high"; fused AdamW; batch found by doubling where `batch_asked` is 0'
        return {"machine": machine_slug("cuda"), "torch": torch.__version__, "settings": settings}
    return {
        "machine": machine_slug(),
        "torch": torch.__version__,
        "threads": "one, in CPU seconds, where a row says `one_thread`; else torch's default",
        "settings": 'matmul precision "medium"; freed memory kept (geomaestro.learn.allocator); fused AdamW',
    }


def name_of(row: Mapping[str, Any]) -> str:
    """What a row is, in words."""
    words = [str(row[name]) for name in ("shape", "size", "phase", "precision")]
    words += [row[name] for name, default in DEFAULTS.items() if row.get(name, default) != default]
    words += ["recomputed"] if row.get("recompute") else []
    words += [f"{row['dates']} dates"] if row.get("dates") else []
    return " ".join([*words, f"batch {row['batch'] or 'searched'}"])


def one_line(suite: str, result: Mapping[str, Any]) -> str:
    """A result in a line."""
    cells = zip(cells_of(result)[1:], UNITS, strict=True)
    return f"{suite}: {name_of(result)}: {', '.join(f'{cell} {unit}'.strip() for cell, unit in cells if cell)}"


HEADS = ("what", "samples/s", "best", "of product", "of floor", "peak MiB", "ratio")
UNITS = ("samples/s", "at best", "of product", "of floor", "MiB", "")


def cells_of(result: Mapping[str, Any]) -> list[str]:
    """A result as the cells of a table under HEADS."""
    if "failed" in result:
        return [name_of(result), *[""] * 5, result["failed"]]
    peak = result.get("peak_mib", result.get("peak_rss_mib"))
    share, floor = result.get("share_of_product"), share_of_floor(result)
    speeds = [result.get("samples_per_s_median"), result.get("samples_per_s_best")]
    return [
        name_of(result),
        *("" if speed is None else f"{speed:.2f}" for speed in speeds),
        f"{share:.0%}" if share else "",
        f"{floor:.0%}" if floor else "",
        f"{peak:.0f}" if peak else "",
        ratio_of(result),
    ]


def share_of_floor(result: Mapping[str, Any]) -> float | None:
    """The greater of the two floors over the step's time."""
    if "floor_product_s" not in result:
        return None
    return max(result["floor_product_s"], result["floor_bytes_s"]) / result["step_s_median"]


def ratio_of(result: Mapping[str, Any]) -> str:
    """What a row is compared with, if anything."""
    if "gain" in result:
        return f"{result['gain']:.2f} x baseline"
    if "corrected_ratio" in result:
        missed = " !" if result["corrected_ratio"] < result["target"] else ""
        return f"{result['corrected_ratio']:.2f} x official{missed}"
    if "speed_up" in result:
        return f"{result['speed_up']:.2f} x one process"
    return ""


def make_table(suite: str, results: Sequence[Mapping[str, Any]]) -> Table:
    """All results; a ratio under its target is marked."""
    table = Table(title=suite)
    for head in HEADS:
        table.add_column(head, justify="left" if head == "what" else "right")
    for result in results:
        table.add_row(*cells_of(result))
    return table
