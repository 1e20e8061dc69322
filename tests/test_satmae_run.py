"""SatMAE through recipes: what they may say, the published schedule and crops, and a run that is resumed and scored."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional

from geomaestro.errors import SpecError
from geomaestro.learn import forest
from geomaestro.learn.augment import augmenting, draw_boxes, random_crop
from geomaestro.learn.checkpoint import convert_state
from geomaestro.learn.distributed import Ranks
from geomaestro.learn.doctor.examine import examine
from geomaestro.learn.optim import half_cosine, layer_groups, learning_rate, make_adamw
from geomaestro.learn.pretrain import pretrain
from geomaestro.learn.recipe import Optimiser, PretrainRecipe
from geomaestro.learn.replay import replay
from geomaestro.learn.run import Run, evaluate_model, run_recipe
from geomaestro.learn.stopping import Interrupted
from geomaestro.models.hub import load, load_mae, load_task_model
from geomaestro.models.satmae import SatMae, SatMaeSpec
from geomaestro.models.satmae_encoder import SatMaeEncoder
from geomaestro.runs import read_rows
from tests.made import batch, model_input, rows, without_pixels
from tests.test_satmae import made, small
from tests.worlds import Watched, make_recipe, merge, open_split, write_h5

TINY = {
    "kind": "satmae", "dim": 32, "depth": 2, "heads": 2, "channel_dim": 16,
    "decoder": {"dim": 16, "depth": 1, "heads": 2, "channel_dim": 8},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest, "TREES", 10)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of 4 bands and 2 dates, 12 x 12 pixels, whose stripes run along rows (class 0) or columns (1)."""
    folder = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 60)
    phase = rng.uniform(0, 2 * np.pi, (60, 2, 4, 1, 1))
    y, x = np.mgrid[:12, :12]
    along = np.where(kind[:, None, None, None, None] == 0, y, x)
    values = 2000 + 800 * np.sin(2 * np.pi * along / 6 + phase) + rng.normal(0, 100, (60, 2, 4, 12, 12))
    values[7, 1] = np.nan
    values[9, 0, :, :5, 3:9] = np.nan
    arrays = {
        "x": values.astype(np.float32),
        "kind": kind,
        "split": np.repeat([b"train", b"val", b"test"], [30, 15, 15]),
    }
    write_h5(folder / "images.h5", arrays)
    scaling = {"subtract": 0, "divide_by": 4000, "eight_bit": True}
    sensor = {"array": "x", "axes": ["date", "band", "row", "col"], "bands": ["a", "b", "c", "d"], "gsd_m": 10}
    shape = {"size_px": 12, "patch_px": 4, "dates": 2, "token_bands": [3, 1]}
    values_of_spec = {
        "name": "stripes", "kind": "arrays", "file": "images.h5", "split": "split", "reference_date": [2020, 1, 0],
        "sensors": {"x": {**sensor, "scaling": scaling, "input": shape}},
        "targets": {"kind": {"kind": "classes", "array": "kind", "classes": ["rows", "columns"]}},
    }  # fmt: skip
    (folder / "spec.yaml").write_text(yaml.safe_dump(values_of_spec))
    return folder


def values_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """A tiny recipe."""
    training = {"steps": 4, "batch": 8, "peak_lr": 1e-3, "validations": 2}
    values = {
        "name": "stripes",
        "device": "cpu",
        "data": {"spec": str(folder / "spec.yaml"), "root": str(folder), "fingerprint": "off"},
        "model": TINY,
        "pretrain": {
            "steps": 6, "batch": 8, "log_every": 1, "rule": "linear", "base_lr": 0.03, "schedule": "cosine",
            "warmup": 0.5, "betas": [0.9, 0.95], "weight_decay": 0.05, "decay": "matrices", "random_crop": [0.4, 1.0],
        },
        "evaluate": {"target": "kind", "protocols": ["k-NN", "linear probe", "fine-tune"], "finetune": training},
    }  # fmt: skip
    return merge(values, changes)


# ---- a run ----


def test_a_recipe_pretrains_and_scores_it(images: Path, tmp_path: Path) -> None:
    run_recipe(make_recipe(values_of(images)), tmp_path / "run", command="")
    scored = read_rows(tmp_path / "run/evaluate/rows.jsonl")
    found = {row["protocol"] for row in scored}
    assert found == {"k-NN", "linear probe", "fine-tune", "from scratch", "random forest"}
    assert isinstance(load_mae(tmp_path / "run"), SatMae)
    again = load_task_model(tmp_path / "run/evaluate")
    assert isinstance(again.encoder, SatMaeEncoder) and isinstance(load(tmp_path / "run/evaluate"), SatMaeEncoder)
    evaluate_model(str(tmp_path / "run"), make_recipe(values_of(images)), tmp_path / "again", command="")
    scores = [
        {row["protocol"]: row["scores"] for row in read_rows(folder / "evaluate/rows.jsonl")}
        for folder in (tmp_path / "run", tmp_path / "again")
    ]
    assert scores[0] == scores[1], "the saved model is the pretrained one"


def test_its_rows_have_the_published_learning_rates_and_signs(images: Path, tmp_path: Path) -> None:
    run_recipe(make_recipe(values_of(images, evaluate=None)), tmp_path / "run", command="")
    logged = read_rows(tmp_path / "run/pretrain/seed0/metrics.jsonl")
    peak = 0.03 * 8 / 256
    wanted = [
        0,
        peak / 3,
        2 * peak / 3,
        peak,
        peak * (1 + math.cos(math.pi / 3)) / 2,
        peak * (1 + math.cos(2 * math.pi / 3)) / 2,
    ]
    np.testing.assert_allclose([row["lr"] for row in logged], wanted, rtol=1e-5, atol=1e-9)
    assert all(np.isfinite(row[key]) for row in logged for key in ("loss", "loss/x", "beyond_mean/x", "likeness"))
    pictures = np.load(tmp_path / "run/pretrain/seed0/reconstructions.npz", allow_pickle=False)
    assert pictures["x/rebuilt"].shape == (4, 2, 4, 12, 12)


def train(images: Path, folder: Path, *, before_read: Any = None, **settings: Any) -> SatMae:
    recipe = make_recipe(values_of(images))
    model = Run(recipe, Path(), "").new_model(0)
    dataset = open_split(recipe)
    assert recipe.pretrain is not None and isinstance(model, SatMae)
    watched = dataset if before_read is None else Watched(dataset, before_read)
    pretrain(model, watched, recipe.pretrain.model_copy(update=settings), folder, seed=3)
    return model


def test_the_loss_falls(images: Path, tmp_path: Path) -> None:
    train(images, tmp_path, steps=80, batch=16, peak_lr=5e-3, warmup=0.1)
    losses = [row["loss"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_a_resumed_pretraining_ends_with_the_same_weights(images: Path, tmp_path: Path) -> None:
    train(images, tmp_path / "whole")

    def stop(number: int) -> None:
        if number == 3 * 8 - 1:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped after step 3 of 6"):
        train(images, tmp_path / "cut", before_read=stop)
    train(images, tmp_path / "cut")
    for name in ("model.safetensors", "optimiser.safetensors"):
        one, two = (tmp_path / f / "checkpoints/step-00000006" / name for f in ("whole", "cut"))
        assert one.read_bytes() == two.read_bytes(), name
    convert_state(tmp_path / "cut/checkpoints/step-00000006", tmp_path / "model")
    assert isinstance(load_mae(tmp_path / "model"), SatMae)


def test_parts_of_a_batch_train_as_the_whole_does(images: Path, tmp_path: Path) -> None:
    whole, parts = train(images, tmp_path / "one"), train(images, tmp_path / "two", accumulate=4)
    logged = [[row["loss"] for row in read_rows(tmp_path / f / "metrics.jsonl")] for f in ("one", "two")]
    np.testing.assert_allclose(logged[0], logged[1], rtol=1e-5)
    for name, value in whole.state_dict().items():
        # the bias of keys has no gradient but for rounding, of which Adam makes steps
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_half_precision_and_recomputing_train_too(images: Path, tmp_path: Path) -> None:
    train(images, tmp_path / "plain")
    train(images, tmp_path / "half", precision="bf16")
    train(images, tmp_path / "again", recompute=True)
    logged = [[row["loss"] for row in read_rows(tmp_path / f / "metrics.jsonl")] for f in ("plain", "half", "again")]
    np.testing.assert_allclose(logged[1], logged[0], rtol=0.05)
    assert logged[2] == logged[0]


def test_a_step_is_replayed_bit_by_bit(images: Path, tmp_path: Path) -> None:
    run_recipe(make_recipe(values_of(images, evaluate=None, pretrain={"save_every_s": 1e-6})), tmp_path, command="")
    said = replay(tmp_path / "pretrain/seed0", 5)
    assert "are those that were logged, bit for bit" in said


def test_the_doctor_looks_at_it(images: Path, tmp_path: Path) -> None:
    found = examine(make_recipe(values_of(images)), tmp_path / "run", ranks=Ranks(), seconds=2.0)
    assert found.advice.refusal is None


# ---- what a recipe may say ----


def spec_of(images: Path, **model: Any) -> SatMaeSpec:
    spec = Run(make_recipe(values_of(images, model=model)), Path(), "").model_spec()
    assert isinstance(spec, SatMaeSpec)
    return spec


def test_a_recipe_has_the_published_defaults_of_its_kind(images: Path) -> None:
    spec = spec_of(images)
    assert (spec.target, spec.loss, spec.ratio) == ("none", "l2", 0.75)
    assert (spec.encoder.dim, spec.encoder.mlp_ratio, spec.decoder.mlp_ratio) == (32, 4, 4)
    assert spec.hiding.model_dump() == {"ratio": 0.75, "scale": 0, "sensor": 0, "dates": 0, "places": 0, "bands": 0}
    assert spec_of(images, hiding={"ratio": 0.5}, target="patch").model_dump()["ratio"] == 0.5
    recipe = make_recipe(values_of(images))
    assert make_recipe(recipe.model_dump(mode="json")) == recipe, "a resolved recipe is read back"
    base = spec_of(
        images,
        size="base",
        dim=None,
        depth=None,
        heads=None,
        channel_dim=None,
        decoder={"dim": 512, "depth": 8, "heads": 16, "channel_dim": 128},
    )
    assert (base.encoder.dim, base.encoder.depth, base.encoder.heads, base.encoder.channel_dim) == (768, 12, 12, 256)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"fusion": "group", "joint_blocks": 0, "token_norm": "none"}, "fusion, joint_blocks, token_norm; leave it"),
        ({"use_dates": False, "head_dim": 16}, "kind 'satmae': head_dim, use_dates; leave it out"),
        ({"hiding": {"dates": 0.25, "scale": 1}}, "kind 'satmae': hiding.scale, hiding.dates; leave it out"),
        ({"decoder": {"head_dim": 8}}, r"decoder.head_dim: unknown key; did you mean 'channel_dim'"),
        ({"kind": "vit"}, "model.kind"),
    ],
)  # fmt: skip
def test_what_its_kind_does_not_heed_is_refused(images: Path, model: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        spec_of(images, **model)


def test_maestro_heeds_no_keys_of_satmae(images: Path) -> None:
    values = values_of(images)
    values["model"] = {"channel_dim": 16}
    with pytest.raises(SpecError, match=r"without effect on a model of kind 'maestro': channel_dim; leave it out"):
        make_recipe(values)


def test_several_sensors_are_refused_with_the_remedy(images: Path, tmp_path: Path) -> None:
    spec = yaml.safe_load((images / "spec.yaml").read_text())
    spec["sensors"]["y"] = spec["sensors"]["x"]
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    recipe = make_recipe(values_of(images, data={"spec": str(tmp_path / "spec.yaml")}))
    with pytest.raises(SpecError, match=r"SatMAE knows one sensor, not x, y; choose it with `data.sensors`"):
        Run(recipe, Path(), "").model_spec()


@pytest.mark.parametrize("share", [[0.0, 1.0], [0.5, 0.2], [0.5, 1.5]])
def test_shares_that_are_none_are_refused(images: Path, share: list[float]) -> None:
    with pytest.raises(SpecError, match="give two shares of the area, such as"):
        make_recipe(values_of(images, pretrain={"random_crop": share}))


# ---- schedule and optimiser ----


def test_the_learning_rate_rises_as_a_line_and_falls_as_half_a_cosine() -> None:
    """50 epochs of 4 steps, 5 of them warm-up, at epoch e: peak e / 5, then peak (1 + cos(pi (e - 5) / 45)) / 2."""
    settings = Optimiser(schedule="cosine", rule="linear", base_lr=1e-4, warmup=0.1)
    assert settings.peak(4096) == pytest.approx(1.6e-3)
    for step in range(200):
        epoch = step / 4
        wanted = epoch / 5 if epoch < 5 else (1 + math.cos(math.pi * (epoch - 5) / 45)) / 2
        assert learning_rate(step, 200, 1.6e-3, settings) == pytest.approx(1.6e-3 * wanted, rel=1e-5, abs=1e-9)
    assert half_cosine(0, total=1, peak=0.7, warmup=0.0, final_factor=10) == 0.7


def test_matrices_alone_decay_where_the_recipe_says_so() -> None:
    model = made(small())
    adamw = make_adamw([{"params": list(model.parameters())}], Optimiser(decay="matrices", weight_decay=0.05))
    decays = {id(p): group["weight_decay"] for group in adamw.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        kept = name.endswith("bias") or "norm" in name
        assert decays[id(parameter)] == (0.0 if kept else 0.05), name
    assert decays[id(model.encoder.class_token)] == 0.05, "as in the official code, whose tokens have three axes"


def test_layer_decay_counts_the_class_token_with_the_embeddings() -> None:
    encoder, head = made(small()).encoder, torch.nn.Linear(24, 2)
    shares = {id(p): g["share"] for g in layer_groups(encoder, head, 2, 0.5) for p in g["params"]}
    by_name = {name: shares[id(p)] for name, p in encoder.named_parameters()}
    assert by_name["class_token"] == by_name["tokenisers.s2.embeddings.0.project.weight"] == 0.5**3
    assert by_name["stack.blocks.0.mlp.up.weight"] == 0.5**2 and by_name["stack.norm.weight"] == 0.5


# ---- crops ----


def test_a_crop_is_torchs_bicubic_interpolation_of_the_drawn_part() -> None:
    b = batch(6, {"s2": model_input(3, (24, 16), 4, 2)})
    assert b.keys is not None
    cut = random_crop(b, (0.2, 1.0))
    (tops, heights), (lefts, widths) = draw_boxes(b.keys, (24, 16), (0.2, 1.0))
    for i, x in enumerate(b.images["s2"]):
        top, height, left, width = (int(v[i]) for v in (tops, heights, lefts, widths))
        wanted = functional.interpolate(x[..., top : top + height, left : left + width], (24, 16), mode="bicubic")
        wanted = wanted.clamp(x.amin(dim=(-2, -1), keepdim=True), x.amax(dim=(-2, -1), keepdim=True))
        torch.testing.assert_close(cut.images["s2"][i], wanted, rtol=1e-5, atol=2e-5)
    assert cut.complete == b.complete and cut.valid["s2"].all()


def test_crops_have_the_shares_and_shapes_that_were_asked_for() -> None:
    (tops, heights), (lefts, widths) = draw_boxes(torch.arange(20_000), (96, 96), (0.2, 1.0))
    share, ratio = heights * widths / 96**2, widths / heights
    assert 0.18 < share.min() < 0.23 and share.max() == 1
    assert ratio.min() >= 0.7 and ratio.max() <= 1.43
    assert ratio.log().mean().abs() < 0.01
    assert (tops >= 0).all() and (tops + heights <= 96).all() and (lefts >= 0).all() and (lefts + widths <= 96).all()
    inner = heights < 60
    where = tops[inner] / (96 - heights[inner])
    assert where.mean() == pytest.approx(0.5, abs=0.02) and where.min() == 0 and where.max() == 1


def test_a_crop_follows_from_the_key_of_the_visit_alone() -> None:
    inputs = {"s2": model_input(2, (8, 8), 4, 2), "s1": model_input(2, (16, 16), 4), "dem": model_input(1, (1, 1), 1)}
    b = batch(5, inputs)
    whole, alone = random_crop(b, (0.3, 0.6)), random_crop(rows(b, [3]), (0.3, 0.6))
    assert all(alone.images[s].equal(whole.images[s][3:4]) for s in inputs)
    assert not whole.images["s2"].equal(b.images["s2"])
    assert whole.images["dem"] is b.images["dem"]
    other = random_crop(replace(b, keys=b.keys + 1), (0.3, 0.6))  # type: ignore[operator]
    assert not other.images["s2"].equal(whole.images["s2"])
    assert augmenting(PretrainRecipe(steps=1))(b) is b
    assert len(random_crop(rows(b, []), (0.3, 0.6))) == 0


def test_all_sensors_are_cropped_on_the_same_ground() -> None:
    """Images that are each other's enlargement still are it, away from the edges of crop and pixels."""
    inputs = {"s2": model_input(1, (12, 12), 4), "s1": model_input(1, (24, 24), 4)}
    b = batch(3, inputs)
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    fine_y, fine_x = torch.meshgrid(*[(torch.arange(24.0) + 0.5) / 2 - 0.5] * 2, indexing="ij")
    plane, fine = 3 * y - 2 * x, 3 * fine_y - 2 * fine_x
    b = replace(b, images={"s2": plane.expand(3, 1, 1, 12, 12), "s1": fine.expand(3, 1, 1, 24, 24)})
    cut = random_crop(b, (0.3, 0.5))
    pooled = functional.avg_pool2d(cut.images["s1"][:, 0], 2)
    torch.testing.assert_close(pooled[..., 2:-2, 2:-2], cut.images["s2"][:, 0, :, 2:-2, 2:-2], rtol=0, atol=0.35)


def test_invalid_pixels_never_run_into_valid_ones_of_a_crop() -> None:
    inputs = {"s2": model_input(2, (12, 12), 4)}
    b = batch(4, inputs)
    b = replace(b, images={"s2": torch.full_like(b.images["s2"], 7.0)})
    invalid = torch.zeros(4, 1, 12, 12, dtype=torch.bool)
    invalid[:, :, 3:8, 2:6] = True
    b = without_pixels(b, "s2", invalid)
    garbage = torch.where(invalid[:, :, None], torch.full_like(b.images["s2"], 1e6), b.images["s2"])
    cut = random_crop(replace(b, images={"s2": garbage}), (0.4, 1.0))
    valid = cut.valid["s2"][:, :, None].expand_as(cut.images["s2"])
    assert 0.3 < valid.float().mean() < 1
    torch.testing.assert_close(cut.images["s2"][valid], torch.full_like(cut.images["s2"][valid], 7.0), rtol=0.3, atol=0)
    assert cut.images["s2"].max() <= 7.0
