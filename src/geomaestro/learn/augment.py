"""Augmentation on the device, drawn from the batch's keys: a pure function of the visit.

Axes: b sample, t date, c band, h row, w column, i tap.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from geomaestro.learn.recipe import PretrainRecipe
from geomaestro.nn.draws import uniform
from geomaestro.samples import Batch

_STREAM = 5000  # far from the streams that hiding draws from
_CROP_STREAM = 6000
_TRIES = 10  # torchvision's
_RATIO = 4 / 3  # torchvision's; of the sides of a crop, either way round
_SHARPNESS = -0.75  # of torch's bicubic interpolation

Change = Callable[[Batch[Tensor]], Batch[Tensor]]


def augmenting(recipe: PretrainRecipe) -> Change:
    """What pretraining does to a batch on the device before it is used."""
    return partial(random_crop, share=recipe.random_crop) if recipe.random_crop else lambda batch: batch


def random_crop(batch: Batch[Tensor], share: tuple[float, float]) -> Batch[Tensor]:
    """Take a drawn part of each sample, the same ground of all its sensors and dates, and resize it to the whole.

    `share` is the least and the largest share of the area. Sensors of one pixel stay; labels are not looked at. A pixel
    is valid where valid ones have more than half its weight. Source: torchvision's RandomResizedCrop, bicubic, without
    antialiasing, as SatMAE uses it; but stored numbers are resized, not normalised ones, and stay within the range that
    they had in the image.
    """
    sizes = {name: (x.shape[-2], x.shape[-1]) for name, x in batch.images.items() if x.shape[-2:] != (1, 1)}
    if not sizes or not len(batch):
        return batch
    assert batch.keys is not None, "batches of training have keys"
    grid = min(size[0] for size in sizes.values()), min(size[1] for size in sizes.values())
    box = draw_boxes(batch.keys, grid, share)
    images, valid = dict(batch.images), dict(batch.valid)
    for name, size in sizes.items():
        taps = [_taps(*box[side], grid[side], size[side]) for side in (0, 1)]
        known = None if batch.complete[name] else batch.valid[name]
        images[name], kept = _cropped(images[name].float(), known, taps)
        if kept is not None:
            valid[name] = kept
    return replace(batch, images=images, valid=valid)


def draw_boxes(keys: Tensor, size: tuple[int, int], share: tuple[float, float]) -> list[tuple[Tensor, Tensor]]:
    """(first, length) of a crop's rows and of its columns, whole pixels (b) of images of `size` (height, width).

    The first of ten drawn shapes that fits is taken; the whole image where none does.
    """
    height, width = size
    area, ratio, start = uniform(keys, 2 * _TRIES + 2, _CROP_STREAM).split([_TRIES, _TRIES, 2], dim=1)
    area = (share[0] + (share[1] - share[0]) * area) * height * width
    ratio = ((2 * ratio - 1) * math.log(_RATIO)).exp()
    rows, cols = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
    fits = (rows >= 1) & (cols >= 1) & (rows <= height) & (cols <= width)
    first = fits.to(torch.int8).argmax(dim=1, keepdim=True)
    out = []
    for number, (lengths, full) in enumerate(((rows, height), (cols, width))):
        length = lengths.gather(1, first)[:, 0].where(fits.any(dim=1), float(full))
        out.append(((start[:, number] * (full - length + 1)).floor(), length))
    return out


def _taps(first: Tensor, length: Tensor, base: int, side: int) -> tuple[Tensor, Tensor]:
    """Where each of `side` new pixels is taken from, (b side i), and with which weights; along one axis of an image of
    `side` pixels, of which the crop is given on one of `base`.
    """
    start, extent = first * side / base, length * side / base
    at = start[:, None] + (torch.arange(side, device=first.device) + 0.5) * extent[:, None] / side - 0.5
    left = at.floor()
    offset = (at - left)[..., None] - torch.arange(-1, 3, device=first.device)
    near, a = offset.abs(), _SHARPNESS
    inner, outer = ((a + 2) * near - (a + 3)) * near**2 + 1, ((near - 5) * near + 8) * near * a - 4 * a
    index = left[..., None] + torch.arange(-1, 3, device=first.device)
    index = index.maximum(start.floor()[:, None, None]).minimum((start + extent).ceil()[:, None, None] - 1)
    return index.long(), torch.where(near <= 1, inner, outer)


def _cropped(images: Tensor, valid: Tensor | None, taps: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor | None]:
    """Images (b t c h w) and their valid pixels (b t h w), resized; no product of matrices, which may be rounded."""
    if valid is None:
        return _within(_resized(images.flatten(1, 2), taps).view_as(images), images), None
    known = valid[:, :, None].expand_as(images)
    share = _resized(valid.float(), taps)
    new = _resized(images.masked_fill(~known, 0.0).flatten(1, 2), taps).view_as(images)
    new = new / share.clamp(min=0.5)[:, :, None]
    return _within(new, images.where(known, images.new_zeros(()))), share > 0.5


def _within(new: Tensor, old: Tensor) -> Tensor:
    """No value beyond those of the image and band: a logarithm of radar could not bear it."""
    return new.clamp(old.amin(dim=(-2, -1), keepdim=True), old.amax(dim=(-2, -1), keepdim=True))


def _resized(x: Tensor, taps: list[tuple[Tensor, Tensor]]) -> Tensor:
    """(b m h w) along its rows, then along its columns."""
    for axis, (index, weight) in zip((2, 3), taps, strict=True):
        shape = (len(x), 1, -1, 1) if axis == 2 else (len(x), 1, 1, -1)
        parts = (
            x.gather(axis, index[..., i].view(shape).expand_as(x)) * weight[..., i].view(shape)
            for i in range(index.shape[-1])
        )
        x = sum(parts, torch.zeros((), device=x.device))
    return x


def drop_dates(batch: Batch[Tensor], share: float) -> Batch[Tensor]:
    """Make each date of a series absent with probability `share`; where all dates would go, all stay."""
    assert batch.keys is not None, "batches of training have keys"
    present, complete = dict(batch.present), dict(batch.complete)
    for number, (name, there) in enumerate(batch.present.items()):
        if there.shape[1] == 1:
            continue
        kept = there & (uniform(batch.keys, there.shape[1], _STREAM + number) >= share)
        present[name] = kept | (there & ~kept.any(dim=1, keepdim=True))
        complete[name] = False
    return replace(batch, present=present, complete=complete)
