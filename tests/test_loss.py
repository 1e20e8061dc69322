"""Reconstruction targets and errors against Python's own statistics."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from geomaestro.nn.loss import error_sum, target_groups, target_statistics

GROUPS = (2, 1, 3)


def worked(patch: Tensor, groups: tuple[int, ...], valid: Tensor) -> tuple[list[float], list[float]]:
    """Mean and deviation per band of one patch (p c): unbiased variance plus 1e-6, over the valid pixels of a group."""
    means, deviations, first = [], [], 0
    for size in groups:
        values = patch[valid, first : first + size].double().flatten().tolist()
        mean = statistics.fmean(values) if values else 0.0
        variance = statistics.variance(values) if len(values) > 1 else 0.0
        means += [mean] * size
        deviations += [math.sqrt(variance + 1e-6)] * size
        first += size
    return means, deviations


def check(patches: Tensor, groups: tuple[int, ...], valid: Tensor | None) -> None:
    mean, deviation = target_statistics(patches, groups, valid)
    for r in range(patches.shape[0]):
        for k in range(patches.shape[1]):
            here = torch.ones(patches.shape[2], dtype=torch.bool) if valid is None else valid[r, k]
            means, deviations = worked(patches[r, k], groups, here)
            torch.testing.assert_close(mean[r, k, 0], torch.tensor(means))
            torch.testing.assert_close(deviation[r, k, 0], torch.tensor(deviations))


@pytest.mark.parametrize("groups", [GROUPS, (6,), (1,) * 6])
def test_groups_are_normalised_by_their_own_mean_and_unbiased_spread(groups: tuple[int, ...]) -> None:
    check(torch.randn(2, 3, 4, 6) * 5 + 2, groups, None)


def test_only_valid_pixels_count_in_the_statistics() -> None:
    valid = torch.rand(2, 3, 4) < 0.6
    valid[0, 0] = True
    valid[0, 1] = torch.arange(4) == 2
    valid[1, 2] = False
    check(torch.randn(2, 3, 4, 6), GROUPS, valid)


def test_a_single_value_has_no_spread() -> None:
    check(torch.randn(2, 3, 1, 6), GROUPS, None)
    mean, deviation = target_statistics(torch.full((1, 1, 1, 1), 7.0), (1,), None)
    assert mean.item() == 7.0
    assert deviation.item() == pytest.approx(1e-3)


def test_ratios_within_a_group_survive() -> None:
    patches = torch.randn(1, 2, 9, 5)
    mean, deviation = target_statistics(patches, (2, 3), None)
    target = (patches - mean) / deviation
    for band in (3, 4):
        step, original = target[..., band] - target[..., 2], patches[..., band] - patches[..., 2]
        torch.testing.assert_close(step / original, (1 / deviation[..., 2]).expand_as(step))


def test_a_constant_patch_has_finite_targets_and_gradients() -> None:
    patches = torch.full((1, 1, 4, 3), 0.3, requires_grad=True)
    mean, deviation = target_statistics(patches, (3,), None)
    ((patches - mean) / deviation).sum().backward()
    assert patches.grad is not None
    assert patches.grad.isfinite().all()


def test_normalisation_is_by_group_by_patch_or_not_at_all() -> None:
    assert target_groups("group", (2, 1, 3)) == (2, 1, 3)
    assert target_groups("patch", (2, 1, 3)) == (6,)
    assert target_groups("none", (2, 1, 3)) == ()


@pytest.mark.parametrize(("loss", "power"), [("l1", 1), ("l2", 2)])
def test_errors_are_summed_over_what_counts(loss: str, power: int) -> None:
    rebuilt, target = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    weight = (torch.rand(2, 3, 4) < 0.5).float()
    error = (rebuilt - target).abs() ** power
    total, count = error_sum(rebuilt, target, None, loss)  # type: ignore[arg-type]
    torch.testing.assert_close(total, error.sum())
    assert count == 2 * 3 * 4 * 5
    total, count = error_sum(rebuilt, target, weight, loss)  # type: ignore[arg-type]
    torch.testing.assert_close(total, sum(error[tuple(i)].sum() for i in weight.nonzero().tolist()))
    assert count == weight.sum() * 5


def test_the_error_of_the_target_itself_is_zero() -> None:
    target = torch.randn(2, 3, 4, 5)
    assert error_sum(target.clone(), target, None, "l1")[0] == 0
    assert error_sum(target.clone(), target, torch.ones(2, 3, 4), "l2")[0] == 0
