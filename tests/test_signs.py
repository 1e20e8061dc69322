"""Signs of how a pretraining learns: against equations, on runs that fail in one way, and on one that does not."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geomaestro.data.loader import training_batches
from geomaestro.learn.distributed import ALONE
from geomaestro.learn.pretrain import gradients, make_net, pretrain
from geomaestro.learn.recipe import PretrainRecipe
from geomaestro.learn.run import run_recipe
from geomaestro.learn.signs import DEAD, Signs, _spread, in_row, warnings_of
from geomaestro.nn.masking import Hidden
from geomaestro.report.html import write_report
from geomaestro.runs import read_rows
from geomaestro.samples import Sample, take
from tests.test_pretrain import start
from tests.worlds import Watched, make_recipe, make_series, recipe_values

LONG: dict[str, Any] = {"steps": 70, "batch": 16, "peak_lr": 1e-2, "log_every": 2}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_series(tmp_path_factory)


# ---- what is measured ----


def likeness(sums: torch.Tensor) -> float:
    content, freedom, energy, tokens = sums.tolist()
    return 1 - (content / freedom) / (energy / tokens)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3])
def test_likeness_sees_pixels_and_not_codes_of_place_and_date(share: float) -> None:
    """Tokens are a code per slot, a linear function of the date, and noise that stands for pixels."""
    rng = torch.Generator().manual_seed(0)
    rows, slots, seen, width = 400, 12, 5, 32
    index = torch.stack([torch.randperm(slots, generator=rng)[:seen].sort().values for _ in range(rows)])
    dates = torch.randn(rows, slots, 4, generator=rng)
    code, slope = torch.randn(slots, width, generator=rng), torch.randn(4, width, generator=rng)
    noise = torch.randn(rows, seen, width, generator=rng)
    x = code[index] + dates.gather(1, index[..., None].expand(-1, -1, 4)) @ slope
    x = x + noise * math.sqrt(share / (1 - share) * x.square().mean().item())
    hidden = Hidden(torch.zeros(rows, slots, dtype=torch.bool), index, None)
    assert likeness(_spread(x, hidden, dates)) == pytest.approx(1 - share, abs=0.01 * share + 1e-6)
    assert share == 0 or likeness(_spread(x, hidden, None)) < 0.8  # dates, if not told of, look like pixels


def test_slots_that_only_fill_up_do_not_count() -> None:
    x = torch.randn(50, 3, 8)
    index = torch.arange(3).expand(50, -1)
    visible = torch.ones(50, 3, dtype=torch.bool)
    visible[:, 2] = False
    filled = _spread(x, Hidden(torch.zeros(50, 3, dtype=torch.bool), index, visible), None)
    bare = _spread(x[:, :2], Hidden(torch.zeros(50, 3, dtype=torch.bool), index[:, :2], None), None)
    assert filled.tolist() == pytest.approx(bare.tolist())


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_beyond_mean_is_the_share_of_the_error_of_the_best_constant(series: Path, loss: str) -> None:
    model, dataset, _ = start(recipe_values(series, model={"loss": loss}))
    batch = next(training_batches(dataset, batch=16, seed=0, start=0, steps=1))
    row = in_row(
        gradients(make_net(model, make_recipe(recipe_values(series)).pretrain, ALONE), model, [batch], ALONE, look=True)
    )
    for sensor in ("s1", "s2"):
        parts = [p for p in model(batch, batch.keys).rebuilt if p.strand.sensor == sensor]
        assert len(parts) == 1
        known = parts[0].weight.bool()
        values, target = parts[0].values[known].detach().numpy(), parts[0].target[known].numpy()
        if loss == "l1":
            low = np.sort(target, axis=0)[(len(target) - 1) // 2]  # torch takes the lower of two middle values
            wanted = 1 - np.abs(values - target).sum() / np.abs(target - low).sum()
        else:
            wanted = 1 - ((values - target) ** 2).sum() / ((target - target.mean(axis=0)) ** 2).sum()
        assert row[f"beyond_mean/{sensor}"] == pytest.approx(wanted, rel=1e-4)
    assert "beyond_mean/dem" not in row and 0 < row["likeness"] < 0.9


def test_looking_changes_no_loss_and_no_gradient(series: Path) -> None:
    model, dataset, recipe = start(recipe_values(series))
    batch = next(training_batches(dataset, batch=8, seed=0, start=0, steps=1))
    net, found = make_net(model, recipe, ALONE), []
    for look in (False, True):
        model.zero_grad()
        losses = gradients(net, model, [batch], ALONE, look=look)
        found.append(
            {n: v for n, v in losses.items() if n.startswith("loss")} | {n: p.grad for n, p in model.named_parameters()}
        )
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert value is found[1][name] is None or value.equal(found[1][name]), name
    assert "encode_visible" not in vars(model.encoder)


def test_signs_of_parts_are_near_those_of_the_whole(series: Path) -> None:
    model, dataset, recipe = start(recipe_values(series))
    batch = next(training_batches(dataset, batch=30, seed=0, start=0, steps=1))
    net = make_net(model, recipe, ALONE)
    whole = in_row(gradients(net, model, [batch], ALONE, look=True))
    halves = [take(batch, torch.arange(0, 15)), take(batch, torch.arange(15, 30)), take(batch, torch.arange(0))]
    parts = in_row(gradients(net, model, halves, ALONE, look=True))
    assert parts["likeness"] == pytest.approx(whole["likeness"], abs=0.05)
    assert parts["beyond_mean/s2"] == pytest.approx(whole["beyond_mean/s2"], abs=0.05)


# ---- runs ----


class Noisy(Watched):
    """Other noise in s1 at every visit, so that there is nothing to learn and nothing to remember."""

    draws = True

    def read(self, index: int, visit: Any = None) -> Sample[np.ndarray]:
        sample = super().read(index, visit)
        rng = np.random.default_rng((visit.epoch, index))
        return replace(sample, images={**sample.images, "s1": rng.normal(size=sample.images["s1"].shape).astype("f4")})


def test_a_sensor_of_noise_is_warned_of_and_a_sensor_with_a_season_is_not(series: Path, tmp_path: Path) -> None:
    model, dataset, recipe = start(recipe_values(series), **LONG)
    pretrain(model, Noisy(dataset, lambda _: None), recipe, tmp_path, seed=0)
    found = [text for text in warnings_of(tmp_path, recipe) if not text.endswith("It did not last")]
    assert len(found) == 1 and "sensor 's1' is rebuilt no better than by its mean (beyond_mean/s1 is " in found[0]
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert all(row["likeness"] < 0.9 for row in rows) and np.mean([r["beyond_mean/s2"] for r in rows[-10:]]) > DEAD


def test_warnings_reach_the_result_and_the_report(
    series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At such a learning rate nothing is learned of any sensor."""
    settings = {"steps": 14, "peak_lr": 1e-12}
    values = recipe_values(series, evaluate=None, pretrain=settings, data={"fingerprint": "off"})
    folder = run_recipe(make_recipe(values), tmp_path / "run", command="")
    assert capsys.readouterr().err.count("warning: ") == 2
    result = json.loads((folder / "result.json").read_text())["warnings"]
    assert [text[: text.index(" is rebuilt")] for text in result] == [
        f"seed0: step 12: sensor {s!r}" for s in ("s2", "s1")
    ]
    run_recipe(make_recipe(values), folder, command="", resume=True)
    assert json.loads((folder / "result.json").read_text())["warnings"] == result
    page = write_report(folder).read_text()
    assert "2 warnings" in page and "Does it learn?" in page and "Signs of learning against step" in page


def test_an_encoder_that_does_not_see_is_warned_of(
    series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tokens differ by place and date still, and reconstruction learns what these allow."""
    model, dataset, recipe = start(recipe_values(series, model={"fusion": "mod", "joint_blocks": None}), **LONG)
    for p in model.encoder.tokenisers.parameters():
        p.requires_grad_(False).zero_()
    pretrain(model, dataset, recipe, tmp_path, seed=0)
    found = [text for text in warnings_of(tmp_path, recipe) if "tokens" in text]
    assert len(found) == 1 and "the encoder's tokens hardly depend on the pixels (likeness is " in found[0]
    assert "the encoder's tokens hardly depend" in " ".join(capsys.readouterr().err.split())


# ---- what is judged ----

RECIPE = PretrainRecipe(steps=100, warmup=0.2)


def row(step: int, **changes: float) -> dict[str, float]:
    return {"step": step, "grad_norm": 1.0, "lr": 1e-3, "beyond_mean/s1": 0.5, "likeness": 0.5, **changes}


def test_a_gradient_that_explodes_is_warned_of_once() -> None:
    rows = [row(step, grad_norm=500.0 if step in (20, 30) else 1 + step % 2) for step in range(1, 40)]
    signs = Signs(RECIPE, 100)
    said = [text for each in rows for text in signs.add(each)]
    assert said == signs.at_end() and len(said) == 1
    assert said[0].startswith("step 20: the gradient norm 500 is more than 100 times its median before (")


def test_warnings_wait_for_the_warm_up_and_for_ten_rows() -> None:
    signs = Signs(RECIPE, 100)
    said = {step: signs.add(row(step, **{"beyond_mean/s1": 0.0})) for step in range(1, 60)}
    assert [step for step, texts in said.items() if texts] == [30]


def test_a_sensor_that_wakes_up_is_said_to() -> None:
    signs = Signs(RECIPE, 100, [row(step, **{"beyond_mean/s1": 0.0 if step < 50 else 0.3}) for step in range(1, 100)])
    assert [text.endswith(". It did not last") for text in signs.at_end()] == [True]


def test_a_resumed_run_warns_of_nothing_twice_and_forgets_nothing() -> None:
    rows = [row(step, likeness=0.999) for step in range(1, 60)]
    whole = Signs(RECIPE, 100, rows)
    resumed = Signs(RECIPE, 100, rows[:40])
    assert [text for each in rows[40:] for text in resumed.add(each)] == []
    assert resumed.at_end() == whole.at_end() and len(whole.at_end()) == 1
