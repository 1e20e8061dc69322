"""Stored pixels -> model input, on the model's device: unit, normalisation, size, invalid pixels, patches.

Axes: b sample, t date, c band, h row, w column, n patch, p pixel of a patch.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from geomaestro.errors import SpecError
from geomaestro.nn.patches import patchify
from geomaestro.sensors import Input, ModelInput, Sensor

LOG_FLOOR = 1e-10  # official code; keeps the logarithm of a zero-filled radar pixel finite
HEIGHT_FACTOR = 30.0  # official code; surface minus terrain is tens of metres where heights are hundreds
LEVELS = 255  # of an 8-bit image


@dataclass(frozen=True, slots=True)
class Patches:
    """A sensor's patches `values` (b t n p c) on a `grid` (rows, cols) of patches.

    `valid` (b t n p) is True for measured pixels and `present` (b t n) for patches with at least one; None stands for
    all True.
    """

    values: Tensor
    grid: tuple[int, int]
    valid: Tensor | None
    present: Tensor | None


def scale_pixels(images: Tensor, sensor: Sensor) -> Tensor:
    """Stored numbers (b t c h w) -> normalised float32, by the sensor's unit, then its scaling."""
    scaling = sensor.scaling
    x = images.double() if scaling.eight_bit else images.float()  # float32 rounds some pixels to the level below
    if sensor.scale != 1.0 or sensor.offset != 0.0:
        x = x * sensor.scale + sensor.offset
    if scaling.log:
        x = x.clamp(min=LOG_FLOOR).log()
    if scaling.subtract != 0.0:
        x = x - _per_band(scaling.subtract, x)
    if scaling.divide_by != 1.0:
        x = x / _per_band(scaling.divide_by, x)
    if scaling.heights:
        x = torch.cat([x[:, :, :1], HEIGHT_FACTOR * (x[:, :, :1] - x[:, :, 1:])], dim=2)
    if scaling.eight_bit:
        x = (x * LEVELS).clamp(0, LEVELS).floor().float() / LEVELS
    return x


def _per_band(value: float | tuple[float, ...], like: Tensor) -> Tensor | float:
    return _bands(value, like.device, like.dtype) if isinstance(value, tuple) else value


@lru_cache(maxsize=256)
def _bands(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Values per band (c 1 1), copied to a device once: a copy at each step would wait for it."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.tensor(values, device=device, dtype=dtype)[:, None, None]


def resize_pixels(images: Tensor, how: Input, name: str) -> Tensor:
    """Bring images (b t c h w) to the model's size where its input says so.

    Raises:
        SpecError: if `resize` is "none" and a side is not a whole number of patches.
    """
    size = tuple(images.shape[-2:])
    if how.resize == "none":
        if size[0] % how.patch_px or size[1] % how.patch_px:
            raise SpecError(
                f"sensor {name!r}: images of {size[0]} x {size[1]} pixels are not a whole number of "
                f"{how.patch_px}-pixel patches; crop them, or set `resize` of its model input to bring them to "
                f"{how.size_px[0]} x {how.size_px[1]}"
            )
        return images
    if size == how.size_px:
        return images
    flat = functional.interpolate(images.flatten(0, 1), how.size_px, mode=how.resize)
    return flat.unflatten(0, images.shape[:2])


def make_patches(
    images: Tensor, source: ModelInput, name: str, present: Tensor | None = None, valid: Tensor | None = None
) -> Patches:
    """Scale, resize and cut a sensor's images (b t c h w).

    `present` (b t) and `valid` (b t h w) come together, or not at all where everything is there; invalid pixels take
    the mean of their patch and band, which leaks nothing to other tokens.
    """
    size = source.input.patch_px
    x = scale_pixels(images, source.sensor)
    if present is not None and valid is not None:
        return _checked_patches(x, source, name, present, valid)
    x = resize_pixels(x, source.input, name)
    return Patches(patchify(x, size), (x.shape[-2] // size, x.shape[-1] // size), None, None)


def make_presence(
    images: Tensor, source: ModelInput, name: str, present: Tensor | None = None, valid: Tensor | None = None
) -> Patches:
    """As `make_patches` without the pixels: `values` (b t n p 1) have their shape alone."""
    size = source.input.patch_px
    measured = torch.ones_like(images[:, :1, :1, :, :]) if valid is None else valid[:, :, None]
    share = resize_pixels(measured.float(), source.input, name)
    grid = share.shape[-2] // size, share.shape[-1] // size
    values = share.new_empty(()).expand(*images.shape[:2], grid[0] * grid[1], size**2, 1)
    if present is None:
        return Patches(values, grid, None, None)
    known = _known_pixels(share, present, size)
    return Patches(values, grid, known, known.any(dim=-1))


def _known_pixels(share: Tensor, present: Tensor, size: int) -> Tensor:
    """Which pixels (b t n p) of present dates (b t) were measured, by more than half of what they were resized from."""
    return rearrange(patchify(share > 0.5, size), "b t n p 1 -> b t n p") & present[:, :, None, None]


def _checked_patches(x: Tensor, source: ModelInput, name: str, present: Tensor, valid: Tensor) -> Patches:
    """As `make_patches`, where not every pixel was measured; an invalid pixel never runs into a valid one."""
    size = source.input.patch_px
    measured = valid[:, :, None]
    x, share = (resize_pixels(part, source.input, name) for part in (x.masked_fill(~measured, 0.0), measured.float()))
    if source.input.resize in ("bilinear", "bicubic") and tuple(valid.shape[-2:]) != source.input.size_px:
        x = x / share.clamp(min=0.5)  # the mean of the measured pixels alone
    grid = x.shape[-2] // size, x.shape[-1] // size
    known = _known_pixels(share, present, size)
    values = patchify(x, size)
    return Patches(_fill(values, known), grid, known, known.any(dim=-1))


def _fill(values: Tensor, known: Tensor) -> Tensor:
    values = values.masked_fill(~known[..., None], 0.0)
    count = known.sum(dim=-1)[..., None, None].clamp(min=1)
    return torch.where(known[..., None], values, values.sum(dim=-2, keepdim=True) / count)
