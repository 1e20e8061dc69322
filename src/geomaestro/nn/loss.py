"""Reconstruction targets and their loss, on hidden patches alone.

Axes: r sequence, k hidden patch, p pixel, c band.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

TargetNorm = Literal["group", "patch", "none"]
LossName = Literal["l1", "l2"]
EPS = 1e-6  # official code; added to the variance, not to the deviation


def target_statistics(patches: Tensor, groups: Sequence[int], valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and deviation (..., 1, c) of each patch (..., p, c) and band group, over valid pixels (..., p).

    The variance is unbiased and a group shares both numbers, so ratios between its bands survive.
    Source: paper, section 3.3 (patch-group-wise normalisation); official code for the constants.
    """
    parts = [_statistics(part, valid) for part in patches.split(list(groups), dim=-1)]
    mean = torch.cat([m.expand(*m.shape[:-1], g) for (m, _), g in zip(parts, groups, strict=True)], dim=-1)
    deviation = torch.cat([d.expand(*d.shape[:-1], g) for (_, d), g in zip(parts, groups, strict=True)], dim=-1)
    return mean, deviation


def _statistics(part: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    if valid is None:
        flat = part.flatten(-2)  # whole rows: measured, a sixth of the time of `var` over two axes
        mean = flat.mean(dim=-1, keepdim=True)
        square = torch.linalg.vector_norm(flat - mean, dim=-1, keepdim=True).square()
        variance = square / max(1, flat.shape[-1] - 1)  # zero for a patch of a single value
        return mean[..., None], (variance + EPS).sqrt()[..., None]
    weight = valid[..., None].to(part.dtype)
    count = weight.sum(dim=(-2, -1), keepdim=True) * part.shape[-1]
    mean = (part * weight).sum(dim=(-2, -1), keepdim=True) / count.clamp(min=1)
    variance = ((part - mean).square() * weight).sum(dim=(-2, -1), keepdim=True) / (count - 1).clamp(min=1)
    return mean, (variance + EPS).sqrt()


def target_groups(norm: TargetNorm, groups: Sequence[int]) -> tuple[int, ...]:
    """Band groups normalised together: the sensor's, or all its bands ("patch"), or none for raw values."""
    return {"group": tuple(groups), "patch": (sum(groups),), "none": ()}[norm]


def error_sum(rebuilt: Tensor, target: Tensor, weight: Tensor | None, loss: LossName) -> tuple[Tensor, Tensor]:
    """Sum of errors and number of values (r k p c) counted; `weight` (r k p) is 0 where a pixel does not count."""
    error = (rebuilt - target).abs() if loss == "l1" else (rebuilt - target).square()
    if weight is None:
        return error.sum(), error.new_full((), float(error.numel()))
    return (error * weight[..., None]).sum(), weight.sum() * error.shape[-1]


def token_error_sum(rebuilt: Tensor, target: Tensor, weight: Tensor | None, loss: LossName) -> tuple[Tensor, Tensor]:
    """As `error_sum`, of each token's mean error: a token with a pixel to rebuild counts once, whatever its bands."""
    error = ((rebuilt - target).abs() if loss == "l1" else (rebuilt - target).square()).mean(dim=-1)
    if weight is None:
        return error.mean(dim=-1).sum(), error.new_full((), float(error.shape[0] * error.shape[1]))
    count = weight.sum(dim=-1)
    return ((error * weight).sum(dim=-1) / count.clamp(min=1)).sum(), (count > 0).sum().to(error.dtype)
