"""Samples of a step, one by one: which of them are not numbers, through which sensor, and where in the model first.

Axes: t date, c band, h row, w column.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from geomaestro.learn.distributed import ALONE
from geomaestro.learn.optim import total_gradient_norm
from geomaestro.learn.pretrain import Rebuilding, gradients
from geomaestro.models.autoencoder import Autoencoder
from geomaestro.samples import Batch, take


@dataclass(frozen=True, slots=True)
class Pixels:
    """Measured values of a sensor in a sample, as stored: how many, how many of them not finite, and the others'
    least, largest and mean.
    """

    count: int
    not_finite: int
    least: float
    largest: float
    mean: float


@dataclass(frozen=True, slots=True)
class Pass:
    """Losses and gradient norm of samples in a precision."""

    losses: Mapping[str, float]
    grad_norm: float

    @property
    def finite(self) -> bool:
        """Whether a step could be made of it."""
        return math.isfinite(self.losses["loss"]) and math.isfinite(self.grad_norm)


@dataclass(frozen=True, slots=True)
class Alone:
    """A sample of the step, computed alone in the recipe's precision and in float32; `sensors` are those to blame."""

    id: str
    pixels: Mapping[str, Pixels]
    as_trained: Pass
    in_fp32: Pass
    sensors: tuple[str, ...] = ()


def compute(model: Autoencoder, parts: Sequence[Batch[Tensor]], precision: str) -> Pass:
    """Losses and gradients as in a step of training; the gradients stay in the parameters."""
    model.zero_grad(set_to_none=True)
    losses = gradients(Rebuilding(model, precision), model, parts, ALONE)
    return Pass({name: value.item() for name, value in losses.items()}, total_gradient_norm(model.parameters()).item())


def singles(part: Batch[Tensor]) -> list[Batch[Tensor]]:
    """Each sample of a part as a batch of its own, with what the part hides of it."""
    return [take(part, torch.tensor([row], device=part.reference_date.device)) for row in range(len(part))]


def look_at_each(model: Autoencoder, part: Batch[Tensor], precision: str) -> list[Alone]:
    """Every sample of a part, alone."""
    found = []
    for one in singles(part):
        plain = compute(model, [one], "fp32")
        trained = plain if precision == "fp32" else compute(model, [one], precision)
        pixels = {sensor: _pixels(one, sensor) for sensor in one.images}
        sensors = () if plain.finite else to_blame(model, one, pixels)
        found.append(Alone(one.ids[0], pixels, trained, plain, sensors))
    return found


def _pixels(one: Batch[Tensor], sensor: str) -> Pixels:
    measured = (one.valid[sensor] & one.present[sensor][..., None, None])[:, :, None].expand_as(one.images[sensor])
    values = one.images[sensor][measured].double()
    good = values[values.isfinite()]
    if not len(good):
        return Pixels(len(values), len(values), math.nan, math.nan, math.nan)
    return Pixels(len(values), len(values) - len(good), good.min().item(), good.max().item(), good.mean().item())


def to_blame(model: Autoencoder, one: Batch[Tensor], pixels: Mapping[str, Pixels]) -> tuple[str, ...]:
    """Sensors of a sample whose pixels are not numbers; or else those that suffice for a loss that is none, the others'
    pixels being 0.
    """
    if wrong := tuple(sensor for sensor, each in pixels.items() if each.not_finite):
        return wrong
    blamed = []
    for sensor in one.images:
        images = {name: x if name == sensor else torch.zeros_like(x) for name, x in one.images.items()}
        if not compute(model, [replace(one, images=images)], "fp32").finite:
            blamed.append(sensor)
    return tuple(blamed) if len(blamed) < len(one.images) or len(blamed) == 1 else ()


def first_not_finite(model: Autoencoder, one: Batch[Tensor], precision: str) -> str:
    """Where a sample's numbers stop being finite: a module's output, a loss, or a gradient."""
    seen: list[str] = []

    def hook(name: str) -> Any:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            if not _finite(output):
                seen.append(name)

        return look

    handles = [part.register_forward_hook(hook(name)) for name, part in model.named_modules() if name]
    try:
        with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
            warnings.simplefilter("ignore")  # torch says that anomaly detection is slow
            done = compute(model, [one], precision)
    except RuntimeError as error:  # torch's anomaly detection; it finds NaN, not infinity
        return f"the output of {seen[0]}" if seen else f"a gradient ({str(error).splitlines()[0]})"
    finally:
        for handle in handles:
            handle.remove()
    if seen:
        return f"the output of {seen[0]}"
    wrong = [name for name, value in done.losses.items() if not math.isfinite(value)]
    if wrong:
        return f"the loss of {wrong[-1].removeprefix('loss/')}"
    lost = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return f"the gradient of {lost[-1]}" if lost else "the norm of all gradients"


def _finite(output: Any) -> bool:
    if isinstance(output, Tensor):
        return not output.is_floating_point() or bool(output.isfinite().all())
    if isinstance(output, Mapping):
        return all(_finite(each) for each in output.values())
    return not isinstance(output, list | tuple) or all(_finite(each) for each in output)
