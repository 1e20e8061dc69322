"""Layers on the CPU that keep little for the backward pass: what is cheap to make again is made again.

Numbers are those of torch's own layers. Other devices keep torch's kernels, which are fused there. Weights enter as
arguments, so that autograd owns their gradients (a sharded weight is whole only inside its block's own passes).

Axes: r sequence, l token, k asking token, h head, d width, e width out, n any leading axes.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

PART = 2**24  # scores formed at once, 64 MiB; measured: smaller parts, though they stay in the cache, are no faster
# Longest sequence, in tokens, whose scores are kept. Measured: to form them again is a fifth to a third of attention's
# time, more in bfloat16, whose softmax is slow; over longer sequences scores are what fills memory.
LONGEST_KEPT = {torch.float32: 256, torch.bfloat16: 1024}


def norm_linear(x: Tensor, norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear(norm(x), weight, bias)`, (n d) -> (n e)."""
    if _leave_to_torch(x):
        return functional.linear(norm(x), weight, bias)
    out: Tensor = _NormLinear.apply(x, norm.weight, norm.bias, weight, bias, norm.eps)
    return out


def gelu_linear(x: Tensor, linear: nn.Linear) -> Tensor:
    """`linear(gelu(x))`, (n d) -> (n e)."""
    out: Tensor
    if _leave_to_torch(x):
        out = linear(functional.gelu(x))
    else:
        out = _GeluLinear.apply(x, linear.weight, linear.bias)
    return out


def _leave_to_torch(x: Tensor) -> bool:
    """True on other devices, and under autocast: there torch keeps rounded tensors of half the size, and to make them
    again takes 5 % of a step (measured), for GELU is slow in bfloat16 and the norm has to be rounded again.
    """
    return not x.is_cpu or torch.is_autocast_enabled("cpu")


def attend_in_parts(q: Tensor, k: Tensor, v: Tensor, attendable: Tensor | None) -> Tensor:
    """Scaled dot-product attention, q (r h k d), keys and values (r h l d), attendable (r l) -> (r h k d).

    The answer lies in memory as (r k h d), the order in which the next layer reads it.
    """
    out: Tensor = _Attend.apply(q, k, v, attendable)
    return out


def _linear_backward(
    grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of `linear` in x, weight and bias, where needed."""
    flat = grad.flatten(0, -2)
    to_weight = flat.T @ x.flatten(0, -2) if needs[1] else None
    to_bias = flat.sum(dim=0) if needs[2] else None
    return grad @ weight if needs[0] else None, to_weight, to_bias


class _NormLinear(Function):
    """Keeps x and two numbers per token; the normalised tokens are made again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, weight: Tensor, bias: Tensor | None, eps: float
    ) -> Any:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, shift, eps)
        ctx.save_for_backward(x, mean, rstd, gain, shift, weight)
        ctx.eps = eps
        return functional.linear(normed, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, mean, rstd, gain, shift, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            normed = torch.native_layer_norm(x, x.shape[-1:], gain, shift, ctx.eps)[0]
            to_normed, to_weight, to_bias = _linear_backward(grad, normed, weight, (any(needs[:3]), *needs[3:5]))
            del normed
            to_x = to_gain = to_shift = None
            if to_normed is not None:
                to_x, to_gain, to_shift = torch.ops.aten.native_layer_norm_backward(
                    to_normed, x, x.shape[-1:], mean, rstd, gain, shift, needs[:3]
                )
        return to_x, to_gain, to_shift, to_weight, to_bias, None


class _GeluLinear(Function):
    """Keeps x alone; GELU is made again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        ctx.save_for_backward(x, weight)
        return functional.linear(functional.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            to_active, to_weight, to_bias = _linear_backward(grad, functional.gelu(x), weight, ctx.needs_input_grad)
            to_x = None if to_active is None else torch.ops.aten.gelu_backward(to_active, x)
        return to_x, to_weight, to_bias


class _Attend(Function):
    """Works part by part, so that scores stay in the cache; over long sequences they are formed again."""

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
