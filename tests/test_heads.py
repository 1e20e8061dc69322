"""Pooling and heads against their plain forms."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from geomaestro.nn.heads import AttentivePool, DateHead, MeanPool, PixelHead, VectorHead, make_pool, resize_maps
from tests.made import shaken

DIM = 24


def plain_attentive(pool: AttentivePool, tokens: Tensor, present: Tensor | None) -> Tensor:
    """Keys and values projected first, one head after the other, as the official code does."""
    x = functional.layer_norm(tokens, (DIM,), pool.norm.weight, pool.norm.bias)
    keys, values = (x @ pool.to_kv.weight.T).chunk(2, dim=-1)
    out = []
    for head in torch.arange(DIM).chunk(pool.heads):
        score = keys[..., head] @ pool.query[head] / math.sqrt(len(head))
        weight = score.exp() if present is None else score.exp() * present
        out.append(((weight / weight.sum(1, keepdim=True))[..., None] * values[..., head]).sum(1))
    return functional.layer_norm(torch.cat(out, -1), (DIM,), pool.out_norm.weight, pool.out_norm.bias)


def tokens() -> tuple[Tensor, Tensor]:
    """(b l d), and which exist: some, all, one."""
    present = torch.rand(3, 7) < 0.6
    present[1] = True
    present[2] = torch.arange(7) == 4
    present[0, 0] = True
    return torch.randn(3, 7, DIM), present


@pytest.mark.parametrize("some_absent", [False, True])
def test_attentive_pooling_equals_its_plain_form(some_absent: bool) -> None:
    pool = shaken(AttentivePool(DIM))
    x, present = tokens()
    here = present if some_absent else None
    torch.testing.assert_close(pool(x, here), plain_attentive(pool, x, here), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["attentive", "mean"])
def test_absent_tokens_are_ignored(pooling: str) -> None:
    pool = shaken(make_pool(pooling, DIM))  # type: ignore[arg-type]
    x, present = tokens()
    other = torch.where(present[..., None], x, 1e3 * torch.randn_like(x))
    assert pool(other, present).equal(pool(x, present))
    for b in range(3):
        torch.testing.assert_close(
            pool(x, present)[b : b + 1], pool(x[b : b + 1, present[b]], None), rtol=1e-4, atol=1e-5
        )


def test_mean_pooling_is_the_mean() -> None:
    x, present = tokens()
    torch.testing.assert_close(MeanPool()(x, None), x.sum(1) / 7)
    torch.testing.assert_close(MeanPool()(x, present)[0], x[0, present[0]].mean(0))


@pytest.mark.parametrize("pooling", ["attentive", "mean"])
def test_a_sample_without_any_token_gives_numbers_and_gradients(pooling: str) -> None:
    head = VectorHead(pooling, DIM, 5)  # type: ignore[arg-type]
    x = torch.randn(2, 7, DIM, requires_grad=True)
    out = head(x, torch.zeros(2, 7, dtype=torch.bool))
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_a_vector_head_is_linear_in_the_pooled_token() -> None:
    head = shaken(VectorHead("mean", DIM, 5))
    x, _ = tokens()
    torch.testing.assert_close(head(x, None), x.mean(1) @ head.linear.weight.T + head.linear.bias)


@pytest.mark.parametrize("some_absent", [False, True])
def test_a_pixel_head_lays_out_rows_columns_then_classes(some_absent: bool) -> None:
    rows, cols, size, outputs = 2, 3, 4, 5
    head = shaken(PixelHead("mean", DIM, outputs, size))
    maps, present = torch.randn(2, 7, rows * cols, DIM), torch.rand(2, 7, rows * cols) < 0.7
    present[:, 0] = True
    got = head(maps, present if some_absent else None, rows)
    assert got.shape == (2, outputs, rows * size, cols * size)
    for b in range(2):
        for row in range(rows):
            for col in range(cols):
                here = maps[b, :, row * cols + col]
                mean = here[present[b, :, row * cols + col]].mean(0) if some_absent else here.mean(0)
                pixels = (head.linear.weight @ mean + head.linear.bias).reshape(size, size, outputs)  # p1 p2 c
                window = got[b, :, row * size : (row + 1) * size, col * size : (col + 1) * size]
                torch.testing.assert_close(window, pixels.permute(2, 0, 1), rtol=1e-4, atol=1e-5)


def test_maps_are_resized_as_images_of_their_grid() -> None:
    maps = torch.randn(2, 5, 2 * 3, 4)
    assert resize_maps(maps, (2, 3), (2, 3)).equal(maps)
    got = resize_maps(maps, (2, 3), (4, 9))
    expected = functional.interpolate(maps[1].transpose(1, 2).unflatten(-1, (2, 3)), (4, 9), mode="bilinear")
    torch.testing.assert_close(got[1], expected.flatten(2).transpose(1, 2))


def test_a_linear_map_stays_linear_when_resized() -> None:
    ramp = torch.arange(3.0).repeat(2, 1).reshape(1, 1, 6, 1)
    got = resize_maps(ramp, (2, 3), (2, 9)).reshape(2, 9)
    torch.testing.assert_close(got[1], torch.tensor([0, 0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2, 2]))


def test_a_date_head_is_a_linear_layer_over_the_dates_side_by_side_and_ignores_absent_ones() -> None:
    head = DateHead(dates=5, dim=3, outputs=2)
    tokens, present = torch.randn(4, 5, 3), torch.rand(4, 5) > 0.4
    plain = torch.stack([head.linear(torch.cat([x if p else 0 * x for x, p in zip(*row, strict=True)])) for row in
                         zip(tokens, present, strict=True)])  # fmt: skip
    assert torch.allclose(head(tokens, present), plain, atol=1e-6)
    elsewhere = torch.where(present[..., None], tokens, 99.0)
    assert head(elsewhere, present).equal(head(tokens, present))
