"""Replaying a step: sample and sensor, precision, or weights are found to blame; a healthy step is itself again."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geomaestro import cli
from geomaestro.data.loader import training_batches
from geomaestro.data.quarantine import read_quarantine
from geomaestro.errors import NonFiniteError
from geomaestro.learn.blame import first_not_finite, look_at_each, singles
from geomaestro.learn.replay import replay
from geomaestro.learn.run import Run, run_recipe
from geomaestro.models.hub import save_mae
from geomaestro.models.mae import Mae
from geomaestro.runs import read_rows
from tests.worlds import make_recipe, make_series, merge, open_split, recipe_values, series_arrays, write_series

ALONE: dict[str, Any] = {"evaluate": None, "data": {"fingerprint": "off", "pretrain_splits": ["train"]}}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_series(tmp_path_factory)


def run(values: dict[str, Any], folder: Path) -> Path:
    """Run a recipe to its end, or to a loss that is not a number; gives the folder of its pretraining."""
    try:
        run_recipe(make_recipe(values), folder, command="")
    except NonFiniteError as stopped:
        assert f"`geomaestro replay {folder / 'pretrain/seed0'}`" in str(stopped)
    return folder / "pretrain/seed0"


def poisoned(folder: Path, sensor: str, value: float, **changes: Any) -> dict[str, Any]:
    """A recipe for a series of which sample 8 holds a value that is no measurement."""
    arrays = series_arrays()
    arrays[sensor][8] = value
    write_series(folder / "data", arrays)
    return merge(recipe_values(folder / "data", **ALONE), changes)


def started_from(folder: Path, values: dict[str, Any], change: Any) -> dict[str, Any]:
    """The same recipe with weights that are changed before it starts."""
    model: Mae = Run(make_recipe(values), Path(), "").new_model(0)
    with torch.no_grad():
        change(model)
    save_mae(folder / "model", model, origin={})
    return merge(values, {"model": {"start_from": str(folder / "model")}})


# ---- pixels ----


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_poisoned_sample_is_found_by_name_and_sensor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    folder = run(poisoned(tmp_path, "s1", 3e30, pretrain={"precision": precision}), tmp_path / "run")
    said = replay(folder)
    assert said.startswith("bad pixels: sample 'field 8', sensor s1 (first not finite: ")
    assert said.endswith(f"data.quarantine={folder / 'replay.jsonl'}")
    table = capsys.readouterr().out
    assert "field 8" in table and "3e+30 to 3e+30" in table and "0 of 12" in table
    kept = json.loads((folder / "replay.json").read_text())
    bad = [each for each in kept["samples"] if not math.isfinite(each["in_fp32"]["losses"]["loss"])]
    assert [each["id"] for each in bad] == ["field 8"] and bad[0]["sensors"] == ["s1"]
    assert len(kept["samples"]) == 8 and bad[0]["pixels"]["s1"]["largest"] == pytest.approx(3e30)


def test_the_list_that_is_written_leaves_the_sample_out(tmp_path: Path) -> None:
    values = poisoned(tmp_path, "s1", 3e30)
    before = tmp_path / "before.jsonl"
    before.write_text(json.dumps({"id": "field 2", "reason": "cut in half"}) + "\n")
    folder = run(merge(values, {"data": {"quarantine": str(before)}}), tmp_path / "run")
    replay(folder)
    listed = read_quarantine(folder / "replay.jsonl")
    assert list(listed) == ["field 2", "field 8"] and "sensor s1" in listed["field 8"]
    again = run(merge(values, {"data": {"quarantine": str(folder / "replay.jsonl")}}), tmp_path / "again")
    assert [row["step"] for row in read_rows(again / "metrics.jsonl")][-1] == 6


def test_pixels_that_are_no_numbers_are_counted(series: Path) -> None:
    recipe = make_recipe(recipe_values(series))
    batch = next(training_batches(open_split(recipe), batch=4, seed=0, start=0, steps=1))
    batch.images["dem"][2, 0, 1] = math.inf
    model = Run(recipe, Path(), "").new_model(0)
    found = look_at_each(model, batch, "fp32")
    assert [each.sensors for each in found] == [(), (), ("dem",), ()]
    assert (found[2].pixels["dem"].not_finite, found[2].pixels["dem"].count) == (1, 2)
    assert found[2].pixels["dem"].largest == batch.images["dem"][2, 0, 0].item()
    assert first_not_finite(model, singles(batch)[2], "fp32").startswith("the output of encoder.tokenisers.dem")


# ---- precision and weights ----


def test_what_only_bfloat16_cannot_hold_is_told_from_bad_pixels(tmp_path: Path) -> None:
    """A weight that bfloat16 rounds to infinity meets an input of zero: 0 in float32, not a number in bfloat16."""
    arrays = series_arrays()
    arrays["dem"][:, 0] = 300  # scaled to 0
    write_series(tmp_path / "data", arrays)
    values = recipe_values(tmp_path / "data", **merge(ALONE, {"pretrain": {"precision": "bf16"}}))

    def change(model: Mae) -> None:
        weight = next(p for n, p in model.encoder.tokenisers["dem"].named_parameters() if p.ndim == 2)
        weight[:, 0] = 3.4e38

    folder = run(started_from(tmp_path, values, change), tmp_path / "run")
    said = replay(folder)
    assert said.startswith("8 of 8 samples, ") and said.endswith("set pretrain.precision=fp32")
    assert "finite in float32 and not in bf16 (first not finite: the output of encoder.tokenisers.dem" in said
    assert not (folder / "replay.jsonl").exists()


def test_weights_that_are_no_numbers_are_named(series: Path, tmp_path: Path) -> None:
    values = recipe_values(series, **merge(ALONE, {"pretrain": {"peak_lr": math.inf}}))
    said = replay(run(values, tmp_path / "run"))
    assert "weights were not finite before this step, " in said and "at step 1" in said
    assert said.endswith("lower the learning rate (pretrain.peak_lr) or set pretrain.clip_norm")


def test_weights_that_are_too_large_are_told_from_bad_pixels(series: Path, tmp_path: Path) -> None:
    values = started_from(
        tmp_path, recipe_values(series, **ALONE), lambda model: model.pixels["s1"][0].weight.fill_(1e25)
    )
    said = replay(run(values, tmp_path / "run"))
    assert said.startswith(
        "most samples fail with these weights, but not with new ones: the largest weight is 1e+25, in "
    )
    assert "pixels.s1.0.weight; no step was made before; lower the learning rate" in said


# ---- steps that were like others ----


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"precision": "bf16"}])
def test_a_healthy_step_gives_the_loss_that_was_logged(
    series: Path, tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    values = recipe_values(series, **merge(ALONE, {"pretrain": {"save_every_s": 1e-9, **changes}}))
    folder = run(values, tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        cli.main(["replay", str(tmp_path / "run"), "--step", "5"])
    assert not ended.value.code
    loss = read_rows(folder / "metrics.jsonl")[5]["loss"]
    assert f"its loss {loss!r} and gradient norm are those that were logged, bit for bit" in capsys.readouterr().out
    assert json.loads((folder / "replay.json").read_text())["whole"]["losses"]["loss"] == loss


def test_what_cannot_be_replayed_is_said(series: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(recipe_values(series, **ALONE), tmp_path / "run")

    def refused(*tokens: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["replay", *tokens])
        assert stopped.value.code == 1
        return capsys.readouterr().err

    assert "no non_finite.json, so nothing stopped this run; say with --step which step" in refused(str(folder))
    assert "the state before step 3 is not kept; kept are 6" in refused(str(folder), "--step", "3")
    assert "the last step is 5" in refused(str(folder), "--step", "6")
    assert "no pretraining there; give a run folder, or RUN/pretrain/seed0" in refused(str(tmp_path))


def test_data_that_moved_or_changed_are_said(tmp_path: Path) -> None:
    folder = run(poisoned(tmp_path, "s1", 3e30), tmp_path / "run")
    (tmp_path / "data/series.h5").rename(tmp_path / "series.h5")
    with pytest.raises(ValueError, match=r"can't be read again: .*no such file.* if the data moved, say where: "):
        replay(folder)
    assert "field 8" in replay(folder, overrides=[f"data.root={tmp_path}"])
    arrays = series_arrays()
    arrays["name"] = np.asarray([f"plot {i}" for i in range(len(arrays["name"]))]).astype("S")
    write_series(tmp_path / "data", arrays)
    with pytest.raises(ValueError, match="holds other samples than then, 'field"):
        replay(folder)
