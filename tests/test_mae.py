"""The masked autoencoder: what counts in its loss, what leaks, and that nothing is ever not a number."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from geomaestro.models.mae import DecoderSpec, Mae, MaeSpec, Rebuilt, Reconstruction
from geomaestro.nn.masking import Hiding
from geomaestro.nn.patches import patchify
from geomaestro.samples import Batch
from tests.made import (
    MODES,
    batch,
    encoder_spec,
    hidden_maps,
    inputs,
    mae,
    mae_spec,
    model_input,
    rows,
    with_images,
    without_dates,
    without_pixels,
)


def with_spec(model: Mae, **changes: Any) -> Mae:
    """The same weights with another loss or target."""
    model.spec = model.spec.model_copy(update=changes)
    return model


def parts(result: Reconstruction) -> dict[tuple[str, int], Rebuilt]:
    return {(r.strand.sensor, r.strand.band_group): r for r in result.rebuilt}


def weight_of(part: Rebuilt) -> Tensor:
    """(r k p), ones where everything counts."""
    return torch.ones(part.target.shape[:-1]) if part.weight is None else part.weight


def only_hidden(model: Mae, b: Batch[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Rebuilt pixels and which were hidden, with those that were not set to zero."""
    with torch.no_grad():
        made = model.images_of(model(b, hidden=hidden_maps(len(b))), b)
    return {s: (images * hidden, hidden) for s, (images, hidden) in made.items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_the_loss_equals_one_worked_from_the_rebuilt_images(mode: str, loss: str) -> None:
    """Mean error per sensor over hidden pixels; sensors weigh as their number of places."""
    model, b = with_spec(mae(mode), target="none", loss=loss), batch(2)
    hidden = hidden_maps(2)
    with torch.no_grad():
        result = model(b, hidden=hidden)
        images = model.images_of(result, b)
    losses, weights = {}, {"aerial": 24, "s2": 18, "s1_up": 12, "s1_down": 24}
    for name, (rebuilt, shown) in images.items():
        source = inputs()[name]
        size, dates, groups = source.input.patch_px, source.input.dates, source.token_bands
        cell = torch.ones(size, size)
        maps = hidden[name].unflatten(1, (len(groups), dates)).unflatten(-1, source.input.grid).float()
        pixels = torch.kron(maps, cell).bool()  # (b g t h w)
        expected = torch.cat([pixels[:, g, :, None].expand(-1, -1, n, -1, -1) for g, n in enumerate(groups)], dim=2)
        assert shown.equal(expected), name
        error = (rebuilt - b.images[name])[expected].abs()
        losses[name] = (error if loss == "l1" else error**2).mean()
        torch.testing.assert_close(result.per_sensor[name], losses[name])
    total = sum(losses[s] * weights[s] for s in losses) / sum(weights.values())
    torch.testing.assert_close(result.loss, total)


@pytest.mark.parametrize("target", ["group", "patch", "none"])
@pytest.mark.parametrize("mode", ["group", "monotemp"])
def test_the_loss_of_a_perfect_reconstruction_is_zero(mode: str, target: str) -> None:
    """Targets, put back by mean and deviation, are the images themselves; errors against them are zero."""
    model, b = with_spec(mae(mode), target=target), batch(2)
    with torch.no_grad():
        result = model(b, hidden=hidden_maps(2))
        perfect = replace(result, rebuilt=tuple(replace(r, values=r.target) for r in result.rebuilt))
        for name, (images, hidden) in model.images_of(perfect, b).items():
            torch.testing.assert_close(images[hidden], b.images[name][hidden], rtol=1e-4, atol=1e-5)
        laid = model.encoder.lay_out(b)
        losses, _ = model._losses(laid, list(perfect.rebuilt), None)
    assert all(value == 0 for value in losses.values())


def test_group_targets_have_zero_mean_and_unit_unbiased_variance() -> None:
    model, b = mae("group"), batch(2)
    with torch.no_grad():
        found = parts(model(b, keys=b.keys))
    for key, size in {("aerial", 0): (1, 2), ("s2", 0): (2,), ("s2", 1): (3,), ("s1_up", 0): (2,)}.items():
        for group in found[key].target.split(size, dim=-1):
            torch.testing.assert_close(group.mean(dim=(-2, -1)), torch.zeros(group.shape[:2]), rtol=0, atol=1e-5)
            torch.testing.assert_close(group.var(dim=(-2, -1)), torch.ones(group.shape[:2]), rtol=0, atol=1e-3)


def test_target_groups_may_cut_across_token_band_groups() -> None:
    sensors = {"s2": model_input(5, (4, 6), 2, 3, sensor={"groups": (3, 2)}, token_bands=(2, 3))}
    model, b = mae("mod", sensors), batch(2, sensors)
    with torch.no_grad():
        found = parts(model(b, keys=b.keys))
    patches = patchify(b.images["s2"], 2).flatten(1, 2)
    for band_group, bands in ((0, slice(0, 2)), (1, slice(2, 5))):
        part = found["s2", band_group]
        for r, k in (weight_of(part)[..., 0] > 0).nonzero().tolist():
            patch = patches[r, part.index[r, k]]
            split = [(x - x.mean()) / (x.var() + 1e-6).sqrt() for x in patch.split((3, 2), dim=-1)]
            torch.testing.assert_close(part.target[r, k], torch.cat(split, -1)[:, bands])


@pytest.mark.parametrize("mode", MODES)
def test_every_hidden_token_is_rebuilt_once_and_no_other_counts(mode: str) -> None:
    model, b = mae(mode), without_dates(batch(2), "s2", 1, 2)
    with torch.no_grad():
        result = model(b, keys=b.keys)
    laid = model.encoder.lay_out(b)
    for s in laid.sets:
        counted = torch.zeros(result.hidden[s.key].hidden.shape)
        start = 0
        for strand in s.strands:
            part = parts(result)[strand.sensor, strand.band_group]
            assert part.index.sort(dim=1).values.diff(dim=1).gt(0).all(), "every slot once"
            counted.scatter_add_(1, part.index + start, weight_of(part)[..., 0])
            start += strand.places if s.per_date else strand.tokens
        assert counted.bool().equal(result.hidden[s.key].hidden)


@pytest.mark.parametrize("mode", MODES)
def test_what_hidden_pixels_hold_never_reaches_the_reconstruction(mode: str) -> None:
    """With the norm over a token: bit-equal predictions when every hidden pixel changes."""
    model, b = with_spec(mae(mode), target="none"), batch(2)
    before = only_hidden(model, b)
    others = {s: torch.where(hidden, b.images[s] * 3 + 5, b.images[s]) for s, (_, hidden) in before.items()}
    after = only_hidden(model, with_images(b, **others))
    for name, (images, hidden) in before.items():
        assert after[name][0].equal(images), name
        assert hidden.any()


def test_the_norm_over_a_date_leaks_hidden_pixels() -> None:
    """The published weights' norm: a visible token knows the statistics of the hidden ones (see Embedding)."""
    model, b = with_spec(mae("group", encoder={"token_norm": "date"}), target="none"), batch(2)
    before = only_hidden(model, b)
    others = {s: torch.where(hidden, b.images[s] * 3 + 5, b.images[s]) for s, (_, hidden) in before.items()}
    after = only_hidden(model, with_images(b, **others))
    assert not any(after[s][0].equal(before[s][0]) for s in before)


def test_visible_pixels_are_zero_in_rebuilt_images() -> None:
    model, b = mae("group"), batch(2)
    with torch.no_grad():
        made = model.images_of(model(b, keys=b.keys), b)
    for name, (images, hidden) in made.items():
        assert images.shape == b.images[name].shape
        assert images[~hidden].eq(0).all(), name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm", ["token", "date"])
def test_what_stands_in_an_invalid_pixel_leaves_the_loss_bit_equal(mode: str, norm: str) -> None:
    invalid = torch.rand(2, 3, 4, 6) < 0.3
    model, b = mae(mode, encoder={"token_norm": norm}), without_pixels(batch(2), "s2", invalid)
    with torch.no_grad():
        before = model(b, keys=b.keys).loss
        for garbage in (0.0, -9999.0, float("nan")):
            other = torch.where(invalid[:, :, None], garbage, b.images["s2"])
            assert model(with_images(b, s2=other), keys=b.keys).loss.equal(before)


def test_invalid_pixels_have_no_weight_in_the_loss() -> None:
    invalid = torch.zeros(2, 3, 4, 6, dtype=torch.bool)
    invalid[0, 1, :2, :3] = True  # one patch whole, half of the next
    model, b = mae("mod"), without_pixels(batch(2), "s2", invalid)
    with torch.no_grad():
        found = parts(model(b, hidden={**hidden_maps(2), "s2": torch.ones(2, 6, 6, dtype=torch.bool)}))
    for band_group in (0, 1):
        part = found["s2", band_group]
        weight = torch.zeros(2, 18, 4).scatter(1, part.index[..., None].expand(-1, -1, 4), weight_of(part))
        expected = patchify((~invalid)[:, :, None].float(), 2)[..., 0].flatten(1, 2)
        assert weight.equal(expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("norm", ["token", "date"])
def test_an_absent_sensor_leaves_the_loss_of_a_batch_without_it(mode: str, norm: str) -> None:
    model, b = mae(mode, encoder={"token_norm": norm}), batch(2)
    absent = without_dates(b, "s1_up", slice(None), slice(None))
    rest = ["aerial", "s2", "s1_down"]
    hidden = hidden_maps(2)
    with torch.no_grad():
        told = model(absent, hidden=hidden)
        left_out = model(b.only(rest), hidden=hidden)
    torch.testing.assert_close(told.loss, left_out.loss)
    for name in rest:
        torch.testing.assert_close(told.per_sensor[name], left_out.per_sensor[name])
    assert told.per_sensor["s1_up"] == 0


@pytest.mark.parametrize("mode", MODES)
def test_an_absent_date_leaves_the_loss_of_a_shorter_series(mode: str) -> None:
    model, b, hidden = mae(mode), batch(2), hidden_maps(2)
    padded = without_dates(b, "s2", slice(None), 2)
    cut = {
        key: {**getattr(b, key), "s2": getattr(b, key)["s2"][:, :2]} for key in ("images", "dates", "present", "valid")
    }
    fewer = {**hidden, "s2": hidden["s2"].unflatten(1, (2, 3))[:, :, :2].flatten(1, 2)}
    with torch.no_grad():
        told, short = model(padded, hidden=hidden), model(replace(b, **cut), hidden=fewer)
    torch.testing.assert_close(told.loss, short.loss)
    for name, value in short.per_sensor.items():
        torch.testing.assert_close(told.per_sensor[name], value)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_told_to_be_complete_gives_the_same_loss(mode: str) -> None:
    """The paths with and without masks agree, so a batch need not know that it is complete."""
    model = mae(mode, encoder={"token_norm": "date"})
    free, told = batch(2), batch(2, complete=False)
    with torch.no_grad():
        a, b = model(free, keys=free.keys), model(told, keys=told.keys)
    for key, hidden in a.hidden.items():
        assert b.hidden[key].hidden.equal(hidden.hidden)
    torch.testing.assert_close(a.loss, b.loss)


@pytest.mark.parametrize("mode", ["inter-group", "monotemp"])
def test_a_sample_is_rebuilt_alike_in_any_batch(mode: str) -> None:
    model, b = mae(mode), without_dates(batch(4), "s1_down", 2, slice(None))
    picked = rows(b, [2, 0])
    with torch.no_grad():
        everyone, some = (
            model.images_of(model(b, keys=b.keys), b),
            model.images_of(model(picked, keys=picked.keys), picked),
        )
    for name, (images, hidden) in some.items():
        whole, shown = everyone[name]
        assert hidden.equal(shown[[2, 0]])
        torch.testing.assert_close(images * hidden, (whole * shown)[[2, 0]], rtol=1e-4, atol=1e-5)


def emptied(b: Batch[Tensor], sensors: tuple[str, ...], sample: int | slice) -> Batch[Tensor]:
    for name in sensors:
        b = without_dates(b, name, sample, slice(None))
    return b


def single_token(b: Batch[Tensor]) -> Batch[Tensor]:
    """Sample 0 has one token: one patch of one date of s1_up."""
    b = emptied(b, ("aerial", "s2", "s1_down"), 0)
    invalid = torch.zeros(len(b), 2, 4, 6, dtype=torch.bool)
    invalid[0] = True
    invalid[0, 1, 2:, 4:] = False
    return without_pixels(b, "s1_up", invalid)


LACKING = {
    "a sensor": lambda b: emptied(b, ("s2",), 0),
    "a sensor in all samples": lambda b: emptied(b, ("s2",), slice(None)),
    "a whole group": lambda b: emptied(b, ("s1_up", "s1_down"), 1),
    "a whole group in all samples": lambda b: emptied(b, ("s1_up", "s1_down"), slice(None)),
    "all but one token": single_token,
    "everything in one sample": lambda b: emptied(b, tuple(inputs()), 0),
    "all but one sensor": lambda b: emptied(b, ("aerial", "s2", "s1_up"), slice(None)),
}


@pytest.mark.parametrize("lacking", LACKING)
@pytest.mark.parametrize("norm", ["token", "date"])
@pytest.mark.parametrize("mode", MODES)
def test_loss_and_gradients_are_numbers_whatever_is_absent(mode: str, norm: str, lacking: str) -> None:
    model = mae(mode, encoder={"token_norm": norm})
    b = LACKING[lacking](batch(2))
    result = model(b, keys=b.keys)
    result.loss.backward()
    assert result.loss.isfinite()
    assert result.loss > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    tokens = model.encoder(b)
    assert all(maps.isfinite().all() for maps in tokens.maps.values())


@pytest.mark.parametrize("mode", ["group", "monotemp"])
def test_a_batch_with_nothing_to_hide_has_no_loss_but_a_number(mode: str) -> None:
    b = emptied(batch(2), tuple(inputs()), slice(None))
    model = mae(mode)
    loss = model(b, keys=b.keys).loss
    assert loss == 0
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_of_few_tokens_has_a_loss_that_is_a_number() -> None:
    """One date where the model has three: round(0.75 * 1) would hide the only token."""
    sensors = {"s2": model_input(2, (2, 2), 2, 3)}
    model, full = mae("mod", sensors), batch(2, sensors)
    b = replace(
        full, **{key: {"s2": getattr(full, key)["s2"][:, :1]} for key in ("images", "dates", "present", "valid")}
    )
    assert model(full, keys=full.keys).loss > 0
    assert model(b, keys=b.keys).loss.isfinite()


@pytest.mark.parametrize("cuts", [[0, 1, 4], [0, 2, 2, 4]], ids=["uneven", "one empty"])
@pytest.mark.parametrize("lacking", ["a sensor", "all but one token", "everything in one sample"])
@pytest.mark.parametrize("mode", MODES)
def test_losses_of_the_parts_of_a_batch_add_up_to_its_own(mode: str, lacking: str, cuts: list[int]) -> None:
    """However unevenly absent pixels and samples lie: losses, losses per sensor and gradients."""
    b = LACKING[lacking](batch(4))
    whole, parted = mae(mode), mae(mode)
    parted.load_state_dict(whole.state_dict(), strict=True)
    expected = whole(b, keys=b.keys)
    expected.loss.backward()
    parts = [rows(b, list(range(*ends))) for ends in itertools.pairwise(cuts)]
    total = torch.stack([parted.tally(part, part.keys) for part in parts]).sum(dim=0)
    torch.testing.assert_close(total, whole.tally(b, b.keys), rtol=0, atol=0)
    results = [parted(part, keys=part.keys, total=total) for part in parts]
    for result in results:
        result.loss.backward()
    torch.testing.assert_close(sum(r.loss for r in results), expected.loss)
    for name, value in expected.per_sensor.items():
        torch.testing.assert_close(sum(r.per_sensor[name] for r in results), value)
    for (name, a), c in zip(whole.named_parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(c.grad, a.grad, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_every_weight_learns() -> None:
    model, b = mae("inter-group"), batch(2)
    model(b, keys=b.keys).loss.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize("mode", MODES)
def test_other_tile_sizes_and_fewer_dates_are_taken_as_they_come(mode: str) -> None:
    model = mae(mode)
    sensors = {"s2": model_input(5, (6, 10), 2, 2), "s1_down": model_input(2, (6, 10), 2, 3)}
    b = batch(2, sensors)
    with torch.no_grad():
        result = model(b, keys=b.keys)
        images = model.images_of(result, b)
    assert result.loss.isfinite()
    assert {s: tuple(x.shape) for s, (x, _) in images.items()} == {s: tuple(x.shape) for s, x in b.images.items()}
    for _, hidden in images.values():
        assert 0.5 < hidden.float().mean() < 1


def test_the_decoder_may_be_as_wide_as_the_encoder() -> None:
    model = Mae(mae_spec("group", decoder=DecoderSpec(dim=24, depth=1, heads=2, head_dim=3, mlp_ratio=1)))
    assert not any(name.startswith("narrow") for name, _ in model.named_parameters())
    b = batch(2)
    assert model(b, keys=b.keys).loss.isfinite()


def test_the_decoder_mlp_is_measured_in_widths_of_the_encoder() -> None:
    """Official code: dim of the encoder times the decoder's mlp_ratio."""
    model = Mae(mae_spec("shared", decoder=DecoderSpec(dim=16, depth=1, heads=2, head_dim=3, mlp_ratio=3)))
    assert model.stacks["shared"].blocks[0].mlp.up.weight.shape == (3 * 24, 16)  # type: ignore[union-attr, index]


def test_without_keys_or_hidden_tokens_nothing_can_be_rebuilt() -> None:
    with pytest.raises(ValueError) as caught:
        mae("group")(batch(1))
    assert str(caught.value) == "give keys to draw what is hidden, or hidden tokens"


def test_a_recipe_that_hides_nothing_is_refused() -> None:
    sensors = {"s2": model_input(2, (2, 4), 2, 1), "s1": model_input(2, (2, 2), 2, 1)}
    with pytest.raises(ValidationError) as caught:
        MaeSpec(encoder=encoder_spec("mod", sensors), hiding=Hiding(ratio=0.2))
    assert (
        "hiding.ratio 0.2 hides nothing: with fusion 'mod' the longest sequence, of 's2', has 2 tokens; "
        "use smaller patches, more dates, or a fusion over dates"
    ) in str(caught.value)


def test_a_target_that_is_always_zero_is_refused() -> None:
    sensors = {"s2": model_input(3, (2, 4), 1, 3, sensor={"groups": (1, 2)})}
    with pytest.raises(ValidationError) as caught:
        MaeSpec(encoder=encoder_spec("mod", sensors))
    assert (
        "sensor 's2': a band group of one band with 1-pixel patches has a normalised target of zero; "
        "set `target: none`, or give `groups` of two or more bands"
    ) in str(caught.value)
    MaeSpec(encoder=encoder_spec("mod", sensors), target="none")
    MaeSpec(encoder=encoder_spec("mod", sensors), target="patch")


@pytest.mark.parametrize("dim", [8, 18])
def test_a_decoder_too_narrow_for_the_codes_is_refused_with_the_spec(dim: int) -> None:
    with pytest.raises(ValidationError, match=f"dim {dim}|width {dim}"):
        MaeSpec(encoder=encoder_spec("mod"), decoder=DecoderSpec(dim=dim, heads=2, head_dim=3))
