"""Attention on the CPU with all scores of some heads in memory at a time.

Scores of short sequences are kept for the backward pass, those of long ones are formed again. Other devices have
torch's fused kernels.

Axes: r sequence, l token, k asking token, h head, d width.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

PART = 2**24  # scores formed at once, 64 MiB; measured: smaller parts, though they stay in the cache, are no faster
# Longest sequence, in tokens, whose scores are kept. Measured: to form them again is a fifth to a third of attention's
# time, more in bfloat16, whose softmax is slow; over longer sequences scores are what fills memory.
LONGEST_KEPT = {torch.float32: 256, torch.bfloat16: 1024}


def attend_in_parts(q: Tensor, k: Tensor, v: Tensor, attendable: Tensor | None) -> Tensor:
    """Scaled dot-product attention, q (r h k d), keys and values (r h l d), attendable (r l) -> (r h k d).

    The answer lies in memory as (r k h d), the order in which the next layer reads it.
    """
    out: Tensor = _Attend.apply(q, k, v, attendable)
    return out


class _Attend(Function):
    """Works part by part; over long sequences scores are formed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, attendable: Tensor | None) -> Tensor:
        keep = any(ctx.needs_input_grad) and k.shape[2] <= LONGEST_KEPT.get(q.dtype, 0)
        kept = []
        out = _empty_like(q)
        with torch.autocast("cpu", enabled=False):
            for at in _parts(q, k):
                weight = _weights(_flat(q, at), _flat(k, at), attendable, at)
                out[at] = torch.bmm(weight, _flat(v, at)).view(out[at].shape)
                kept += [weight] if keep else []
        ctx.save_for_backward(q, k, v, attendable, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, attendable, *kept = ctx.saved_tensors
        out = [torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v)]
        with torch.autocast("cpu", enabled=False):
            for number, at in enumerate(_parts(q, k)):
                asked, q_part, k_part, v_part = (_flat(x, at) for x in (grad, q, k, v))
                weight = kept[number] if kept else _weights(q_part, k_part, attendable, at)
                for whole, part in zip(out, _attend_backward(asked, q_part, k_part, v_part, weight), strict=True):
                    whole[at] = part.view(whole[at].shape)
        return *out, None


def _attend_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in q, k and v of one part, all (r*h l d)."""
    to_weight = torch.bmm(grad, v.transpose(1, 2))
    to_score = torch.ops.aten._softmax_backward_data(to_weight, weight, -1, weight.dtype)
    return (
        _scaled(to_score, k, q.shape[-1]),
        _scaled(to_score.transpose(1, 2), q, q.shape[-1]),
        torch.bmm(weight.transpose(1, 2), grad),
    )


def _scaled(a: Tensor, b: Tensor, width: int) -> Tensor:
    """a @ b / sqrt(width), a (n k l), b (n l d)."""
    nothing = a.new_empty(()).expand(len(a), a.shape[1], b.shape[2])
    return torch.baddbmm(nothing, a, b, beta=0, alpha=width**-0.5)


def _weights(q: Tensor, k: Tensor, attendable: Tensor | None, at: tuple[slice, slice]) -> Tensor:
    """Softmax of the scores of one part, (r*h k l)."""
    scores = _scaled(q, k.transpose(1, 2), q.shape[-1])
    if attendable is not None:
        allowed = attendable[at[0], None, None, :]
        scores.unflatten(0, (len(allowed), -1)).masked_fill_(~allowed, float("-inf"))
    return scores.softmax(dim=-1)


def _parts(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of sequences and heads with about PART scores each."""
    rows, heads, asking = q.shape[:3]
    scores = max(1, asking * k.shape[2])
    some_heads = min(heads, max(1, PART // scores))
    some_rows = max(1, PART // (scores * heads))
    for row in range(0, rows, some_rows):
        for head in range(0, heads, some_heads):
            yield slice(row, row + some_rows), slice(head, head + some_heads)


def _flat(x: Tensor, at: tuple[slice, slice]) -> Tensor:
    return x[at].flatten(0, 1)


def _empty_like(x: Tensor) -> Tensor:
    """(r h l d), in memory as (r l h d)."""
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)
