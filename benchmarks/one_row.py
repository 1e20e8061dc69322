"""Times one row in a process of its own, so that its peak memory is its own. Reads a JSON row, prints a JSON result."""

import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.shapes import SHAPES, inputs_of, random_batch, task_of
from geomaestro.learn.allocator import keep_freed_memory
from geomaestro.learn.losses import task_loss
from geomaestro.models.encoder import Encoder, EncoderSpec
from geomaestro.models.mae import DecoderSpec, Mae, MaeSpec
from geomaestro.models.task import HeadSpec, TaskModel
from geomaestro.nn.masking import Hiding

PRODUCT_SIDE = 2048
WARM_UPS = 3  # measured: it takes as many until the memory kept is enough
LEAST_STEPS = 3
LEAST_S = 3.0
ROUND_S = 0.4  # a round is one look at the machine's speed, then steps for at least this long
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Row:
    """What to time."""

    shape: str
    size: str
    phase: str
    precision: str
    batch: int
    keep_freed: bool = True
    one_thread: bool = False
    """Time one thread in CPU seconds, which hold on a machine that others use too."""

    @property
    def clock(self) -> Callable[[], float]:
        """What steps and products are timed with."""
        return time.process_time if self.one_thread else time.perf_counter


def make_step(row: Row) -> Callable[[], Any]:
    """The step of a row: everything between one batch in memory and the next."""
    batch = random_batch(row.shape, row.batch, torch.Generator().manual_seed(1))
    encoder = EncoderSpec.of_size(row.size, inputs_of(row.shape), position_grid=(SHAPES[row.shape].position_grid,) * 2)
    autocast = torch.autocast("cpu", torch.bfloat16) if row.precision == "bf16" else nullcontext()
    torch.manual_seed(0)
    if row.phase == "pretrain":
        decoder = DecoderSpec.of_size(row.size)
        mae = Mae(MaeSpec(encoder=encoder, decoder=decoder, hiding=Hiding(ratio=0.75), target="group", loss="l1"))
        return _training_step(mae, lambda: mae(batch, batch.keys).loss, autocast)
    task = task_of(row.shape)
    model = TaskModel(Encoder(encoder), task, HeadSpec())
    if row.phase == "finetune":
        return _training_step(model, lambda: task_loss(model(batch), batch.labels[row.shape], task), autocast)
    return _inference_step(model.eval(), batch, autocast)


def _training_step(model: torch.nn.Module, loss_of: Callable[[], torch.Tensor], autocast: Any) -> Callable[[], Any]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with autocast:
            loss = loss_of()
        loss.backward()
        optimiser.step()

    return step


def _inference_step(model: torch.nn.Module, batch: Any, autocast: Any) -> Callable[[], Any]:
    def step(without_gradients: Callable[[], Any] = torch.inference_mode) -> torch.Tensor:
        with without_gradients(), autocast:
            return model(batch)

    return step


def count_flops(step: Callable[[], Any]) -> int:
    """Operations of the matrix products of one step of our model, two per multiply-add, counted by torch."""
    aten = torch.ops.aten
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        step()
    return counter.get_total_flops()


def _attention_flops(q: Any, k: Any, v: Any, *rest: Any, out_shape: Any = None, **more: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_backward_flops(grad: Any, q: Any, k: Any, v: Any, *rest: Any, out_shape: Any = None, **more: Any) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


def product_rates(clock: Callable[[], float]) -> dict[str, float]:
    """The machine's rate of matrix products now, in GFLOP/s by precision: the better of two looks."""
    rates = {}
    for name, kind in TYPES.items():
        a, b = (torch.ones(PRODUCT_SIDE, PRODUCT_SIDE, dtype=kind) for _ in range(2))
        times = [_seconds(lambda a=a, b=b: a @ b, clock) for _ in range(3)]
        rates[name] = 2 * PRODUCT_SIDE**3 / min(times[1:]) / 1e9
    return rates


def _seconds(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    started_at = clock()
    run()
    return clock() - started_at


def measure(row: Row) -> dict[str, Any]:
    """Time a row; a look at the machine's rate of products comes right before each round of steps."""
    torch.set_float32_matmul_precision("medium")
    if row.one_thread:
        torch.set_num_threads(1)
    kept = keep_freed_memory() if row.keep_freed else False
    step = make_step(row)
    flops = count_flops(
        partial(step, torch.no_grad) if row.phase == "infer" else step
    )  # torch can't count in inference mode
    for _ in range(WARM_UPS - 1):
        step()
    times: list[float] = []
    rates: list[dict[str, float]] = []
    while len(times) < LEAST_STEPS or sum(times) < LEAST_S:
        rates.append(product_rates(row.clock))
        round_times = [_seconds(step, row.clock)]
        while sum(round_times) < ROUND_S:
            round_times.append(_seconds(step, row.clock))
        times += round_times
    return {**asdict(row), **summary(row, times, rates, flops), "freed_memory_kept": kept}


def summary(row: Row, times: list[float], rates: list[dict[str, float]], flops: int) -> dict[str, Any]:
    """Rates of steps and of the machine."""
    typical = median(times)
    product = {f"product_{name}_gflops": median(r[name] for r in rates) for name in TYPES}
    achieved = flops / typical / 1e9
    return {
        "steps": len(times),
        "step_s_median": typical,
        "samples_per_s_median": row.batch / typical,
        "samples_per_s_best": row.batch / min(times),
        "gflop_per_step": flops / 1e9,
        "gflops": achieved,
        **product,
        "share_of_product": achieved / product[f"product_{row.precision}_gflops"],
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Row(**json.loads(sys.argv[1])))))
