"""Learning rates against torch's OneCycleLR, averaged weights and layer-wise shares against their equations."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from geomaestro.learn.optim import (
    Average,
    layer_groups,
    make_adamw,
    one_cycle,
    set_learning_rate,
    total_gradient_norm,
)
from geomaestro.learn.recipe import Optimiser
from tests import made


def torch_rates(total: int, peak: float, warmup: float, final_factor: float) -> list[float]:
    """Rates of torch's OneCycleLR with the same ends."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, peak, total_steps=total, pct_start=warmup, div_factor=1000.0, final_div_factor=final_factor / 1000.0,
        cycle_momentum=False,
    )  # fmt: skip
    rates = []
    for _ in range(total):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if len(rates) < total:
                schedule.step()
    return rates


@pytest.mark.parametrize("total", [6, 7, 10, 37, 100, 501])
@pytest.mark.parametrize(("warmup", "final_factor"), [(0.2, 1e7), (0.2, 2.0), (0.35, 1e4)])
def test_every_step_has_the_rate_of_torch(total: int, warmup: float, final_factor: float) -> None:
    ours = [one_cycle(s, total=total, peak=3e-4, warmup=warmup, final_factor=final_factor) for s in range(total)]
    np.testing.assert_allclose(ours, torch_rates(total, 3e-4, warmup, final_factor), rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("total", range(1, 7))
@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.5, 0.99])
def test_the_shortest_trainings_have_rates_too(total: int, warmup: float) -> None:
    rates = [one_cycle(s, total=total, peak=1.0, warmup=warmup, final_factor=1e4) for s in range(total)]
    assert all(1e-4 * (1 - 1e-9) <= rate <= 1 for rate in rates)
    assert total == 1 or rates[-1] == pytest.approx(1e-4) or warmup * total - 1 > total - 2
    turn = int(np.argmax(rates))
    assert (np.diff(rates[: turn + 1]) > 0).all() and (np.diff(rates[turn:]) < 0).all()


def test_one_step_alone_has_the_peak_rate() -> None:
    assert one_cycle(0, total=1, peak=0.7, warmup=0.2, final_factor=10) == 0.7


def test_adamw_steps_as_torchs_plain_one() -> None:
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = Optimiser(betas=(0.8, 0.9), weight_decay=0.3)
    mine = make_adamw([{"params": [ours], "share": 0.5}], settings)
    set_learning_rate(mine, 0.02)
    other = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.9), weight_decay=0.3, fused=False, foreach=False)
    for _ in range(4):
        gradient = torch.randn(5, 3)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_gradient_norm_is_that_of_all_gradients_together() -> None:
    parameters = [nn.Parameter(torch.zeros(n)) for n in (3, 4, 5)]
    for p in parameters[:2]:
        p.grad = torch.randn_like(p)
    flat = torch.cat([p.grad for p in parameters[:2] if p.grad is not None])
    assert total_gradient_norm(parameters).item() == pytest.approx(flat.square().sum().sqrt().item())


@pytest.mark.parametrize("decay", [0.3, 0.98])
def test_the_average_follows_its_recurrence(decay: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = Average(model, decay)
    expected = [p.detach().clone().double() for p in model.parameters()]
    for n in range(1, 8):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        average.update(model)
        held = min(decay, (1 + n) / (10 + n))
        expected = [
            held * e + (1 - held) * p.detach().double() for e, p in zip(expected, model.parameters(), strict=True)
        ]
    for mine, theirs in zip(average.weights, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-6)


def test_swapping_twice_undoes_it() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = Average(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    trained, averaged = model.weight.detach().clone(), average.weights[0].clone()
    average.swap(model)
    assert model.weight.equal(averaged) and average.weights[0].equal(trained)
    average.swap(model)
    assert model.weight.equal(trained) and average.weights[0].equal(averaged)


@pytest.mark.parametrize(("fusion", "joint"), [("inter-group", 1), ("group", 0), ("shared", 0)])
def test_every_parameter_learns_once_and_slower_the_deeper_it_lies(fusion: str, joint: int) -> None:
    encoder, head = made.encoder(fusion), nn.Linear(24, 3)
    depth, decay = encoder.spec.depth, 0.5
    groups = list(layer_groups(encoder, head, depth, decay))
    share = {id(p): group["share"] for group in groups for p in group["params"]}  # type: ignore[attr-defined]
    listed = [id(p) for group in groups for p in group["params"]]  # type: ignore[attr-defined]
    everything = [*encoder.parameters(), *head.parameters()]
    assert len(listed) == len(set(listed)) == len(everything) and set(listed) == {id(p) for p in everything}
    assert all(share[id(p)] == 1.0 for p in head.parameters())
    assert all(share[id(p)] == decay ** (depth + 1) for p in encoder.tokenisers.parameters())
    for stack in encoder.stacks.values():
        for number, block in enumerate(stack.blocks):  # type: ignore[arg-type, union-attr]
            assert all(share[id(p)] == decay ** (depth - number) for p in block.parameters())
    if encoder.joint is not None:
        for number, block in enumerate(encoder.joint.blocks):
            assert all(share[id(p)] == decay ** (joint - number) for p in block.parameters())


def test_without_layer_decay_everything_learns_alike() -> None:
    groups = list(layer_groups(made.encoder(), nn.Linear(24, 3), 2, 1.0))
    assert [group["share"] for group in groups] == [1.0, 1.0]
