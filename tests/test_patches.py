"""Patches, tokens and pixels against convolutions, torch's own norms and loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from geomaestro.errors import SpecError
from geomaestro.nn.patches import Embedding, Tokeniser, patchify, unpatchify
from geomaestro.nn.pixels import make_patches, make_presence, resize_pixels, scale_pixels
from geomaestro.sensors import Scaling, Sensor
from tests.made import model_input, shaken


@settings(deadline=None, derandomize=True)
@given(
    samples=st.integers(1, 2), dates=st.integers(1, 3), bands=st.integers(1, 4),
    rows=st.integers(1, 3), cols=st.integers(1, 4), size=st.integers(1, 3),
)  # fmt: skip
def test_unpatchify_undoes_patchify(samples: int, dates: int, bands: int, rows: int, cols: int, size: int) -> None:
    images = torch.rand(samples, dates, bands, rows * size, cols * size)
    assert unpatchify(patchify(images, size), size, rows).equal(images)


def test_patches_lie_row_by_row_and_so_do_their_pixels() -> None:
    images = torch.rand(2, 3, 5, 8, 12)
    patches = patchify(images, 4)
    assert patches.shape == (2, 3, 2 * 3, 16, 5)
    for row in range(8):
        for col in range(12):
            patch, pixel = row // 4 * 3 + col // 4, row % 4 * 4 + col % 4
            assert patches[:, :, patch, pixel].equal(images[..., row, col])


def test_an_image_that_is_no_whole_number_of_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="image 8 x 10 is not a whole number of 4-pixel patches"):
        patchify(torch.rand(1, 1, 1, 8, 10), 4)


def made_embedding(norm: str, dim: int = 6) -> Embedding:
    return shaken(Embedding(5, 2, dim, norm))  # type: ignore[arg-type]


def convolved(layer: Embedding, images: Tensor) -> Tensor:
    """The layer's tokens before the norm, (b t d rows cols), by a convolution over the images."""
    weight = layer.project.weight.unflatten(1, (2, 2, 5)).permute(0, 3, 1, 2)
    out = functional.conv2d(images.flatten(0, 1), weight, layer.project.bias, stride=2)
    return out.unflatten(0, images.shape[:2])


def test_the_norm_over_a_date_equals_group_norm_of_the_convolved_map() -> None:
    layer, images = made_embedding("date"), torch.randn(2, 3, 5, 4, 6)
    expected = [functional.group_norm(convolved(layer, images)[:, t], 1, layer.weight, layer.bias) for t in range(3)]
    got = layer(patchify(images, 2), None)
    torch.testing.assert_close(got, torch.stack(expected, 1).flatten(-2).transpose(-2, -1))


def test_absent_tokens_stay_out_of_the_norm_over_a_date() -> None:
    layer, images = made_embedding("date"), torch.randn(2, 3, 5, 4, 6)
    present = torch.rand(2, 3, 6) < 0.5
    present[0, 0] = True
    present[1, 2] = torch.arange(6) == 3
    got, plain = layer(patchify(images, 2), present), convolved(layer, images).flatten(-2)
    for b in range(2):
        for t in range(3):
            here = present[b, t]
            alone = (
                functional.group_norm(plain[b, t][None, :, here], 1, layer.weight, layer.bias) if here.any() else None
            )
            assert alone is None or torch.allclose(got[b, t, here], alone[0].T, atol=1e-5)


def test_a_date_without_any_token_gives_numbers() -> None:
    layer = made_embedding("date")
    patches = torch.randn(1, 2, 6, 4, 5, requires_grad=True)
    out = layer(patches, torch.zeros(1, 2, 6, dtype=torch.bool))
    out.sum().backward()
    assert out.isfinite().all()
    assert patches.grad is not None
    assert patches.grad.isfinite().all()


def test_the_norm_over_a_token_equals_layer_norm_and_leaks_nothing() -> None:
    layer, images = made_embedding("token"), torch.randn(2, 3, 5, 4, 6)
    patches = patchify(images, 2)
    before = layer(patches, None)
    tokens = convolved(layer, images).flatten(-2).transpose(-2, -1)
    torch.testing.assert_close(before, functional.layer_norm(tokens, (6,), layer.weight, layer.bias))
    patches[:, :, ::2] += 7.0
    assert layer(patches, None)[:, :, 1::2].equal(before[:, :, 1::2])


def test_the_norm_over_a_date_leaks_within_the_date_alone() -> None:
    layer, patches = made_embedding("date"), torch.randn(2, 3, 6, 4, 5)
    before = layer(patches, None)
    patches[1, 2, 0] += 7.0
    after = layer(patches, None)
    assert not torch.allclose(after[1, 2, 1:], before[1, 2, 1:])
    assert after[0].equal(before[0])
    assert after[1, :2].equal(before[1, :2])


@pytest.mark.parametrize("norm", ["date", "token"])
def test_a_tokeniser_gives_each_band_group_its_own_bands(norm: str) -> None:
    layer = shaken(Tokeniser((2, 3), 2, 6, norm))  # type: ignore[arg-type]
    images = torch.randn(2, 3, 5, 4, 6)
    first, second = layer(patchify(images, 2), None)
    assert first.equal(layer.embeddings[0](patchify(images[:, :, :2], 2), None))
    assert second.equal(layer.embeddings[1](patchify(images[:, :, 2:], 2), None))


def bands(count: int, **settings: object) -> Sensor:
    return Sensor.model_validate({"bands": [f"B{i}" for i in range(count)], "gsd_m": 10, **settings})


def test_pixels_are_scaled_to_their_unit_then_by_the_band() -> None:
    images = torch.randint(0, 100, (2, 3, 2, 4, 5), dtype=torch.int32)
    scaling = Scaling(subtract=(1.0, 2.0), divide_by=(4.0, 5.0))
    got = scale_pixels(images, bands(2, scale=0.5, offset=-3.0, scaling=scaling))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got[:, :, 0], (images[:, :, 0] * 0.5 - 3 - 1) / 4)
    torch.testing.assert_close(got[:, :, 1], (images[:, :, 1] * 0.5 - 3 - 2) / 5)


def test_the_logarithm_of_a_dark_radar_pixel_has_a_floor() -> None:
    images = torch.tensor([0.0, -1.0, 1e-10, 1.0]).reshape(1, 1, 1, 2, 2)
    got = scale_pixels(images, bands(1, scaling=Scaling(log=True, divide_by=2.0)))
    floor = -10 * 2.302585 / 2
    torch.testing.assert_close(got.flatten(), torch.tensor([floor, floor, floor, 0.0]))


def test_heights_are_told_relative_to_the_first_band() -> None:
    images = torch.rand(2, 1, 3, 4, 5)
    got = scale_pixels(images, bands(3, scaling=Scaling(heights=True)))
    assert got[:, :, 0].equal(images[:, :, 0])
    for band in (1, 2):
        torch.testing.assert_close(got[:, :, band], 30 * (images[:, :, 0] - images[:, :, band]))


@pytest.mark.parametrize("resize", ["nearest", "bilinear", "bicubic"])
def test_images_are_resized_by_the_named_method(resize: str) -> None:
    how = model_input(3, (4, 6), 2, 2, resize=resize).input
    images = torch.rand(2, 2, 3, 5, 9)
    got = resize_pixels(images, how, "s2")
    expected = functional.interpolate(images[1], (4, 6), mode=resize)
    torch.testing.assert_close(got[1], expected)
    same = torch.rand(2, 2, 3, 4, 6)
    assert resize_pixels(same, how, "s2").equal(same)


def test_images_that_do_not_fit_the_patches_are_refused() -> None:
    how = model_input(3, (4, 6), 2).input
    assert resize_pixels(torch.rand(1, 1, 3, 8, 2), how, "s2").shape == (1, 1, 3, 8, 2)
    with pytest.raises(SpecError) as caught:
        resize_pixels(torch.rand(1, 1, 3, 5, 6), how, "s2")
    assert str(caught.value) == (
        "sensor 's2': images of 5 x 6 pixels are not a whole number of 2-pixel patches; crop them, "
        "or set `resize` of its model input to bring them to 4 x 6"
    )


def test_invalid_pixels_take_the_mean_of_their_patch_and_band() -> None:
    images = torch.randn(2, 3, 5, 4, 6)
    valid = torch.rand(2, 3, 4, 6) < 0.6
    valid[0, 1, :2, :2] = False
    present = torch.ones(2, 3, dtype=torch.bool)
    present[1, 0] = False
    cut = make_patches(images, model_input(5, (4, 6), 2, 3), "s2", present, valid)
    assert cut.valid is not None
    assert cut.present is not None
    for b, t, row, col in torch.cartesian_prod(*(torch.arange(n) for n in (2, 3, 2, 3))).tolist():
        patch = images[b, t, :, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].flatten(1)
        here = valid[b, t, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].flatten() & present[b, t]
        n = row * 3 + col
        assert cut.valid[b, t, n].equal(here)
        assert cut.present[b, t, n].item() == here.any().item()
        mean = patch[:, here].mean(1) if here.any() else torch.zeros(5)
        expected = torch.where(here[:, None], patch.T, mean)
        torch.testing.assert_close(cut.values[b, t, n], expected)


@pytest.mark.parametrize("resize", ["none", "nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("garbage", [-9999.0, float("nan")])
def test_what_stands_in_an_invalid_pixel_does_not_matter(resize: str, garbage: float) -> None:
    """Also where images are resized: an invalid pixel must not run into the valid ones beside it."""
    source = model_input(2, (4, 6), 2, 1, resize=resize)
    size = (4, 6) if resize == "none" else (7, 9)
    images, valid = torch.rand(2, 1, 2, *size), torch.ones(2, 1, *size, dtype=torch.bool)
    valid[0, 0, 1, 2] = valid[1, 0, :3, :3] = False
    present = torch.ones(2, 1, dtype=torch.bool)
    before = make_patches(images, source, "s2", present, valid)
    after = make_patches(torch.where(valid[:, :, None], images, garbage), source, "s2", present, valid)
    assert after.values.equal(before.values)
    assert before.valid is not None
    assert after.valid is not None
    assert after.valid.equal(before.valid)


@pytest.mark.parametrize("resize", ["none", "nearest", "bilinear", "bicubic"])
def test_all_valid_gives_the_same_patches_as_no_validity_at_all(resize: str) -> None:
    source = model_input(2, (4, 6), 2, 3, resize=resize)
    images = torch.rand(2, 3, 2, *((4, 6) if resize == "none" else (7, 9)))
    valid = torch.ones(2, 3, *images.shape[-2:], dtype=torch.bool)
    checked = make_patches(images, source, "s2", valid[..., 0, 0], valid)
    torch.testing.assert_close(checked.values, make_patches(images, source, "s2").values)
    assert checked.valid is not None
    assert checked.valid.all()
    assert checked.grid == (2, 3)


@pytest.mark.parametrize("resize", ["none", "nearest", "bilinear"])
@pytest.mark.parametrize("told", [False, True], ids=["complete", "with holes"])
def test_presence_is_that_of_the_patches(resize: str, told: bool) -> None:
    """What there is can be known without the pixels, also where images are resized."""
    size = (4, 6) if resize == "none" else (7, 5)
    source = model_input(5, (4, 6), 2, 3, resize=resize)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 5, *size, generator=generator)
    valid = torch.rand(2, 3, *size, generator=generator) > 0.4
    there = (torch.tensor([[True, True, False], [True, False, True]]), valid) if told else ()
    whole, told_of = make_patches(images, source, "s2", *there), make_presence(images, source, "s2", *there)
    assert told_of.grid == whole.grid and told_of.values.shape[:-1] == whole.values.shape[:-1]
    for ours, theirs in ((told_of.valid, whole.valid), (told_of.present, whole.present)):
        assert (ours is None and theirs is None) or (ours is not None and theirs is not None and ours.equal(theirs))
