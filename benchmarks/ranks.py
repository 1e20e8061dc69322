"""Two processes that train one model (torch's DistributedDataParallel) against one, each with one thread or one GPU.

    python -m benchmarks ranks [--shapes treesatai_ts] [--sizes tiny] [--batch 8]

Each process has the same number of samples, so the step of two is of twice the batch: `speed_up` is the ratio of
samples per second. One and two processes take turns. The share of communication is what a step takes longer than one
whose gradients stay where they are (`no_sync`), in the same two processes, taken in turn.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.machine import is_out_of_memory, matmul_precision, peak_mib
from benchmarks.models import Row, batch_of, make_model
from geomaestro.learn.allocator import keep_freed_memory
from geomaestro.samples import Batch

ROOT = Path(__file__).parents[1]
TURNS = 3
STEPS, WARM_UPS, LEAST_S = 3, 2, 3.0
TARGET = 1.6
RANKS = 2


class Loss(nn.Module):
    """The loss of a batch as a module's answer."""

    def __init__(self, mae: nn.Module) -> None:
        super().__init__()
        self.mae = mae

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        return self.mae(batch, batch.keys).loss


def measure_ranks(row: Row) -> dict[str, Any]:
    """Run one and two processes in turn; medians."""
    alone, together = [], []
    for _ in range(TURNS):
        alone.append(_launch(row, 1))
        together.append(_launch(row, RANKS))
    one, two = (median(r["samples_per_s_median"] for r in results) for results in (alone, together))
    return {
        **asdict(row),
        "batch_asked": row.batch,
        "ranks": RANKS,
        "one_process_samples_per_s": one,
        "samples_per_s_median": two,
        "samples_per_s_best": max(r["samples_per_s_best"] for r in together),
        "speed_up": two / one,
        "target": TARGET,
        "communication_share": median(r["communication_share"] for r in together),
        "step_s_median": median(r["step_s_median"] for r in together),
        "peak_mib": max(r["peak_mib"] for r in together),
    }


def _launch(row: Row, ranks: int) -> dict[str, Any]:
    """What rank 0 of a fresh run says."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, "-m", "benchmarks.ranks", "--process", json.dumps(asdict(row))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env=env)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{ranks} processes ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(lines[-1])


def train(row: Row) -> dict[str, Any] | None:
    """What each process does; the figures are rank 0's, and only it gives them."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_float32_matmul_precision(matmul_precision(row.where))
    if row.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.set_num_threads(1)
        keep_freed_memory()
    model: nn.Module = Loss(make_model(row))
    if ranks > 1:
        distributed.init_process_group("nccl" if row.device == "cuda" else "gloo")
        model = DistributedDataParallel(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batch = batch_of(row, row.batch)
    try:
        times = _time(_step(row, model, optimiser, batch), model, row, ranks)
    finally:
        if ranks > 1:
            distributed.destroy_process_group()
    return _figures(row, ranks, *times) if rank == 0 else None


def _step(row: Row, model: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch[Tensor]) -> Callable[[], None]:
    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(row.device, torch.bfloat16, enabled=row.precision == "bf16"):
            loss = model(batch)
        loss.backward()
        optimiser.step()
        if row.device == "cuda":
            torch.cuda.synchronize()

    return step


def _time(step: Callable[[], None], model: nn.Module, row: Row, ranks: int) -> tuple[list[float], list[float]]:
    """Seconds of steps as they are, and of steps that send nothing; all ranks take the same number."""
    from torch import distributed

    for _ in range(WARM_UPS):
        step()
    started_at = perf_counter()
    step()
    least_s = 0.0 if row.size == "toy" else LEAST_S
    count = max(STEPS, round(least_s / (perf_counter() - started_at)))
    if ranks > 1:
        agreed = torch.tensor([count], device=row.where)
        distributed.broadcast(agreed, 0)
        count = int(agreed)
    synced: list[float] = []
    silent: list[float] = []
    for _ in range(count):
        for times, context in ((synced, contextlib.nullcontext), (silent, getattr(model, "no_sync", None))):
            if context is not None:
                if ranks > 1:
                    distributed.barrier()
                started_at = perf_counter()
                with context():
                    step()
                times.append(perf_counter() - started_at)
    return synced, silent


def _figures(row: Row, ranks: int, synced: list[float], silent: list[float]) -> dict[str, Any]:
    typical = median(synced)
    return {
        "step_s_median": typical,
        "samples_per_s_median": ranks * row.batch / typical,
        "samples_per_s_best": ranks * row.batch / min(synced),
        "communication_share": max(0.0, 1 - median(silent) / typical) if silent else 0.0,
        "peak_mib": peak_mib(row.where),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the chosen rows, store them; or be one of the processes."""
    from benchmarks.choices import add_choices, add_settings, make_console, settings_of
    from benchmarks.running import Job, make_table, run_jobs

    parser = argparse.ArgumentParser(prog="python -m benchmarks ranks", description=str(__doc__).splitlines()[0])
    add_choices(parser, shapes=("treesatai_ts",), sizes=("tiny",), precisions=("fp32",))
    add_settings(parser)
    chosen = parser.parse_args(arguments)
    jobs = [
        Job("ranks", Row(shape, size, "pretrain", precision, batch, device=chosen.device))
        for shape in chosen.shapes
        for size in chosen.sizes
        for precision in chosen.precisions
        for batch in chosen.batch or (8,)
    ]
    console = make_console()
    for path, rows in run_jobs(jobs, settings_of(chosen), console).items():
        console.print(make_table(f"{RANKS} processes", rows))
        for row in rows:
            if "failed" not in row:
                console.print(f"share of communication in a step: {row['communication_share']:.1%}")
        console.print(f"wrote {path}")


def default_jobs(device: str, one_thread: bool) -> list[Any]:
    """One row; none on a single GPU. Processes have one thread each whatever was asked for."""
    from benchmarks.running import Job

    if device == "cuda":
        fits = torch.cuda.device_count() >= RANKS
        return [Job("ranks", Row("treesatai_ts", "base", "pretrain", "bf16", 64, device=device))] if fits else []
    return [Job("ranks", Row("treesatai_ts", "tiny", "pretrain", "fp32", 8))]


def be_process(row: Row) -> None:
    """Train, and print the figures on rank 0."""
    try:
        figures = train(row)
    except RuntimeError as error:
        if is_out_of_memory(error):
            sys.exit("out of memory")
        raise
    if figures is not None:
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        be_process(Row(**json.loads(sys.argv[2])))
    else:
        main()
