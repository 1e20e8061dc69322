"""Times one row in a process of its own, so that its peak memory is its own. Reads a JSON row, prints a JSON result."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.floor import Work, count_work, weight_bytes
from benchmarks.machine import (
    TYPES,
    Clock,
    copy_rate,
    forget_peak,
    is_out_of_memory,
    matmul_precision,
    nominal_gflops,
    peak_mib,
    recent_peak_mib,
)
from benchmarks.models import Row, Step, batch_of, make_model, make_plain, make_step, new_plain, ready
from benchmarks.timing import LEAST_S, WARM_UPS, Taken, find_batch, time_in_turn
from geomaestro.learn.allocator import keep_freed_memory

RESERVE_BYTES = 3 * 2**30  # of GPU memory, for looks at the machine between steps


def measure(row: Row) -> dict[str, Any]:
    """Time a row of our model; a look at the machine's rate of products comes right before each round of steps."""
    kept, clock = _set_up(row), Clock(row.where, row.one_thread)
    model = make_model(row)
    step = make_step(row, model)
    samples = row.batch or find_batch(partial(_rate, row, step, clock))
    work, samples = _halved_until_it_fits(row, model, step, samples)
    ready(row, model)
    forget_peak(row.where)
    batch = batch_of(row, samples)
    _warm_up(lambda: step(batch))
    peak = peak_mib(row.where)
    taken = time_in_turn([lambda: step(batch)], clock, least_s(row))[0]
    result = summary(row, samples, taken, work)
    if row.device == "cuda":
        result["peak_mib"] = peak  # without what the looks at the machine took
    return {**result, **floors(result, work, clock, row), "freed_memory_kept": kept}


def measure_versus(row: Row) -> dict[str, Any]:
    """Time our model and the baseline in turn, in one process, with the same weights and batches.

    The batch is found for the baseline; memory is that of both.
    """
    kept, clock = _set_up(row), Clock(row.where, row.one_thread)
    ours = make_model(row)
    plain = make_plain(row, ours)
    step, plain_step = make_step(row, ours), make_step(row, plain, fused=False)
    if not row.batch:
        step(batch_of(row, 1))  # its gradients and moments take their room before the batch is searched for
    samples = row.batch or find_batch(partial(_rate, row, plain_step, clock))
    work, samples = _halved_until_it_fits(row, ours, step, samples)
    batch = batch_of(row, samples)
    _warm_up(lambda: plain_step(batch))
    ready(row, ours)
    _warm_up(lambda: step(batch))
    taken, plain_taken = time_in_turn([lambda: step(batch), lambda: plain_step(batch)], clock, least_s(row))
    result = summary(row, samples, taken, work)
    theirs = summary(row, samples, plain_taken, work)
    result |= {f"plain_{k}": theirs[k] for k in ("samples_per_s_median", "samples_per_s_best", "step_s_median")}
    result["gain"] = theirs["step_s_median"] / result["step_s_median"]
    return {**result, **floors(result, work, clock, row), "freed_memory_kept": kept}


def _set_up(row: Row) -> bool:
    """Settings of the process; whether freed memory is kept."""
    torch.set_float32_matmul_precision(matmul_precision(row.where))
    if row.one_thread:
        torch.set_num_threads(1)
    return keep_freed_memory() if row.keep_freed and row.device == "cpu" else False


def least_s(row: Row) -> float:
    """Seconds that steps are timed for; a toy only shows that it runs."""
    return 0.0 if row.size == "toy" else LEAST_S


def _warm_up(run: Callable[[], Any]) -> None:
    for _ in range(WARM_UPS):
        run()


def _rate(row: Row, step: Step, clock: Clock, samples: int) -> float | None:
    """Samples per second of a few steps, None where memory is full."""
    forget_peak(row.where)
    try:
        reserve = torch.empty(RESERVE_BYTES if row.device == "cuda" else 0, dtype=torch.uint8, device=row.where)
        batch = batch_of(row, samples)
        step(batch)
        del reserve
        return samples / min(clock.times(lambda: step(batch), 3)[1:])
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


def _halved_until_it_fits(row: Row, model: nn.Module, step: Step, samples: int) -> tuple[Work, int]:
    """Count the work of a step, with half the samples where a batch that was searched for does not fit twice."""
    while True:
        try:
            return count_work(row, model, step, samples), samples
        except (RuntimeError, MemoryError) as error:
            if row.batch or samples == 1 or not is_out_of_memory(error):
                raise
        forget_peak(row.where)
        samples //= 2


def summary(row: Row, samples: int, taken: Taken, work: Work) -> dict[str, Any]:
    """Rates of steps and of the machine."""
    times = sorted(taken.steps)
    typical = (times[len(times) // 2] + times[(len(times) - 1) // 2]) / 2
    achieved = work.flops / typical / 1e9
    nominal = nominal_gflops(row.where)
    shares = {"share_of_product": achieved / taken.product(row.precision)}
    if nominal is not None and row.precision == "bf16":
        shares |= {"nominal_bf16_gflops": nominal, "share_of_nominal": achieved / nominal}
    peak = peak_mib(row.where)
    return {
        **asdict(row),
        "batch": samples,
        "batch_asked": row.batch,
        "steps": len(times),
        "step_s_median": typical,
        "samples_per_s_median": samples / typical,
        "samples_per_s_best": samples / times[0],
        "gflop_per_step": work.flops / 1e9,
        "gflops": achieved,
        **{f"product_{name}_gflops": taken.product(name) for name in TYPES},
        **shares,
        "peak_rss_mib" if row.device == "cpu" else "peak_mib": peak,
    }


def floors(result: dict[str, Any], work: Work, clock: Clock, row: Row) -> dict[str, float]:
    """The floor of a step at the machine's rates, taken after its peak memory: the copy needs some of its own."""
    copy = copy_rate(clock)
    floor = work.floor(result[f"product_{row.precision}_gflops"], copy)
    return {"gb_per_step": work.bytes / 1e9, "copy_gb_s": copy, **floor, "score_mib": work.score_bytes / 2**20}


def measure_memory(row: Row) -> dict[str, Any]:
    """Peak memory of a few steps; nothing is kept beyond them, and the work is counted afterwards."""
    torch.set_float32_matmul_precision(matmul_precision(row.where))
    if row.one_thread:
        torch.set_num_threads(1)
    forget_peak(row.where)
    before = peak_mib(row.where)
    plain = row.model == "plain"
    model = new_plain(row) if plain else ready(row, make_model(row))
    step = make_step(row, model, fused=not plain)
    batch = batch_of(row, row.batch)
    step(batch)  # what is computed once per process, such as codes of position, is not a step's
    forget_peak(row.where)
    _warm_up(lambda: step(batch))
    result = {**asdict(row), "batch_asked": row.batch, "before_mib": before, "peak_mib": recent_peak_mib(row.where)}
    if plain or row.mode == "compiled" or row.recompute:
        return result
    work = count_work(row, model, step, row.batch)
    return {**result, "score_mib": work.score_bytes / 2**20, "weights_mib": weight_bytes(model) / 2**20}


if __name__ == "__main__":
    print(json.dumps(measure(Row(**json.loads(sys.argv[1])))))
