"""The least a step can take: its operations over the machine's product rate, and its bytes over the memory's rate.

Operations are the matrix products of our own model, two per multiply-add. Bytes are what has to move once: float32
weights read forward and backward, gradients written and read, weights and two moments read and written by AdamW, and
each activation that is kept for the backward pass written and read once. In inference: weights read, and what each
layer puts out written and read. A fused kernel can't avoid these; what a program moves beyond them is not counted.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import Row, Step, batch_of, make_model
from geomaestro.nn.transformer import Attention

PASSES_OVER_WEIGHTS = 10  # weights 2, gradients 2 (w, r), AdamW: weights r, w and two moments r, w
SCORE_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Work:
    """What a step must do."""

    flops: int
    bytes: int
    score_bytes: int
    """Memory of all attention scores at once, had they been kept (in inference: of the largest matrix)."""

    def floor(self, product_gflops: float, copy_gb_s: float) -> dict[str, float]:
        """Seconds that operations and bytes take at these rates."""
        return {"floor_product_s": self.flops / product_gflops / 1e9, "floor_bytes_s": self.bytes / copy_gb_s / 1e9}


def count_work(row: Row, model: nn.Module, step: Step, samples: int) -> Work:
    """Count a step of our model, which has to be run eagerly once; its operations are those of `count_flops`."""
    infer, batch = row.phase == "infer", batch_of(row, samples)
    run = partial(step, batch)
    scores: list[int] = []
    kept: dict[int, int] = {}
    hooks = [m.register_forward_pre_hook(partial(_note_scores, scores)) for m in model.modules() if _is_attention(m)]
    if infer:
        leaves = [m for m in model.modules() if not list(m.children())]
        moved: list[int] = []
        hooks += [m.register_forward_hook(partial(_note_output, moved)) for m in leaves]
        run()
        total = weight_bytes(model) + 2 * sum(moved)
    else:
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(partial(_note_kept, kept, own), lambda x: x):
            run()
        total = PASSES_OVER_WEIGHTS * weight_bytes(model) + 2 * sum(kept.values())
    for hook in hooks:
        hook.remove()
    each = SCORE_BYTES[row.precision]
    return Work(count_flops(row, samples), total, each * (max(scores, default=0) if infer else sum(scores)))


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _is_attention(module: nn.Module) -> bool:
    return isinstance(module, Attention)


def _note_scores(scores: list[int], module: nn.Module, args: tuple[Any, ...]) -> None:
    rows, length = args[0].shape[:2]
    scores.append(rows * module.heads * length * length)  # type: ignore[operator]


def _note_output(moved: list[int], _module: nn.Module, _args: Any, out: Any) -> None:
    if isinstance(out, Tensor):
        moved.append(out.numel() * out.element_size())


def _note_kept(kept: dict[int, int], own: set[int], x: Tensor) -> Tensor:
    storage = x.untyped_storage()
    if storage.data_ptr() not in own:
        kept[storage.data_ptr()] = storage.nbytes()
    return x


def count_flops(row: Row, samples: int) -> int:
    """Operations of the matrix products of a step of our model, two per multiply-add, counted by torch.

    Counted without computing (on torch's device "meta", for one sample and for two), where the model runs torch's own
    layers: what a CPU or recomputation makes twice in the backward pass counts once.
    """
    model = make_model(replace(row, device="meta"))
    first, second = (_flops_of(row, model, count) for count in (1, 2))
    return first + (samples - 1) * (second - first)


def _flops_of(row: Row, model: nn.Module, samples: int) -> int:
    batch = batch_of(replace(row, device="meta"), samples)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(row.phase != "infer"):
        out = model(batch, batch.keys).loss if row.phase == "pretrain" else model(batch).sum()
        if row.phase != "infer":
            out.backward()
    return counter.get_total_flops()
