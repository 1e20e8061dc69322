"""Small made inputs whose sizes all differ, so that no two axes can be swapped unseen.

aerial 3 bands on 4 x 6 patches; s2 5 bands in two band groups (2 + 3) on 2 x 3 patches, 3 dates; s1_up and s1_down
2 bands each on 2 x 3 patches, 2 and 4 dates, one fusion group.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from geomaestro.models.encoder import Encoder, EncoderSpec
from geomaestro.models.mae import DecoderSpec, Mae, MaeSpec
from geomaestro.nn.fusion import FUSIONS
from geomaestro.nn.masking import Hiding
from geomaestro.samples import Batch
from geomaestro.sensors import ModelInput

SIZES = {"aerial": (16, 24), "s2": (4, 6), "s1_up": (4, 6), "s1_down": (4, 6)}
DATES = {"aerial": 1, "s2": 3, "s1_up": 2, "s1_down": 4}
BANDS = {"aerial": 3, "s2": 5, "s1_up": 2, "s1_down": 2}
GROUPS = {"aerial": (1, 2), "s2": (2, 3), "s1_up": (2,), "s1_down": (2,)}
MODES = tuple(FUSIONS)
M = TypeVar("M", bound=nn.Module)


def model_input(
    bands: int,
    size_px: tuple[int, int],
    patch_px: int,
    dates: int = 1,
    *,
    sensor: Mapping[str, Any] | None = None,
    **settings: Any,
) -> ModelInput:
    """A ModelInput of `bands` bands named B1, B2, ..."""
    names = [f"B{i + 1}" for i in range(bands)]
    return ModelInput.model_validate(
        {
            "sensor": {"bands": names, "gsd_m": 10.0, **(sensor or {})},
            "input": {"size_px": size_px, "patch_px": patch_px, "dates": dates, **settings},
        }
    )


def inputs() -> dict[str, ModelInput]:
    """The four sensors named above."""
    return {
        "aerial": model_input(3, (16, 24), 4, sensor={"groups": (1, 2)}),
        "s2": model_input(5, (4, 6), 2, 3, sensor={"groups": (2, 3)}, token_bands=(2, 3)),
        "s1_up": model_input(2, (4, 6), 2, 2, fusion_group="s1"),
        "s1_down": model_input(2, (4, 6), 2, 4, fusion_group="s1"),
    }


def encoder_spec(
    fusion: str = "inter-group", sensors: Mapping[str, ModelInput] | None = None, **settings: Any
) -> EncoderSpec:
    """An encoder of width 24 and depth 2, one of them joint where the mode has joint blocks."""
    values: dict[str, Any] = {
        "dim": 24,
        "depth": 2,
        "heads": 2,
        "head_dim": 5,
        "mlp_ratio": 2,
        "joint_blocks": 1 if fusion == "inter-group" else 0,
        "token_norm": "token",
    }
    return EncoderSpec.model_validate({"inputs": dict(sensors or inputs()), "fusion": fusion, **values, **settings})


def mae_spec(fusion: str = "inter-group", sensors: Mapping[str, ModelInput] | None = None, **settings: Any) -> MaeSpec:
    """An autoencoder of that encoder; settings of the encoder go in `encoder`."""
    decoder = DecoderSpec(dim=16, depth=1, heads=2, head_dim=3, mlp_ratio=1)
    encoder = encoder_spec(fusion, sensors, **settings.pop("encoder", {}))
    return MaeSpec(**{"encoder": encoder, "decoder": decoder, "hiding": Hiding(), **settings})


def shaken(model: M) -> M:
    """Move every scale, bias and query away from one and zero, so that leaving one out is seen."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def encoder(fusion: str = "inter-group", sensors: Mapping[str, ModelInput] | None = None, **settings: Any) -> Encoder:
    """An encoder with random weights."""
    return shaken(Encoder(encoder_spec(fusion, sensors, **settings)))


def mae(fusion: str = "inter-group", sensors: Mapping[str, ModelInput] | None = None, **settings: Any) -> Mae:
    """An autoencoder with random weights."""
    return shaken(Mae(mae_spec(fusion, sensors, **settings)))


def batch(
    samples: int = 2, sensors: Mapping[str, ModelInput] | None = None, *, complete: bool = True, seed: int = 0
) -> Batch[Tensor]:
    """Normal pixels of `sensors`, everything present; `complete` says whether the batch knows that."""
    rng = torch.Generator().manual_seed(seed)
    made = sensors or inputs()
    shapes = {s: (samples, x.input.dates, len(x.sensor.bands), *x.input.size_px) for s, x in made.items()}
    days = {s: torch.randint(1, 366, (samples, x.input.dates), generator=rng) for s, x in made.items()}
    return Batch(
        ids=tuple(f"sample {i}" for i in range(samples)),
        images={s: torch.randn(shape, generator=rng) for s, shape in shapes.items()},
        dates={s: torch.stack([torch.full_like(d, 2019), d, torch.full_like(d, 10)], dim=-1) for s, d in days.items()},
        present={s: torch.ones(shape[:2], dtype=torch.bool) for s, shape in shapes.items()},
        valid={s: torch.ones(*shape[:2], *shape[3:], dtype=torch.bool) for s, shape in shapes.items()},
        reference_date=torch.tensor([[2019, 100, 0]]).expand(samples, -1).clone(),
        complete=dict.fromkeys(made, complete),
        keys=torch.arange(samples) + 1000,
    )


def with_images(b: Batch[Tensor], **images: Tensor) -> Batch[Tensor]:
    """The same batch with other pixels of some sensors."""
    return replace(b, images={**b.images, **images})


def without_dates(b: Batch[Tensor], sensor: str, sample: int | slice, dates: int | slice) -> Batch[Tensor]:
    """The same batch where these dates of a sensor are absent; their pixels and dates stay as they are."""
    present, valid = b.present[sensor].clone(), b.valid[sensor].clone()
    present[sample, dates] = False
    valid[sample, dates] = False
    return replace(
        b,
        present={**b.present, sensor: present},
        valid={**b.valid, sensor: valid},
        complete={**b.complete, sensor: False},
    )


def without_pixels(b: Batch[Tensor], sensor: str, invalid: Tensor) -> Batch[Tensor]:
    """The same batch where the pixels `invalid` (b t h w) of a sensor were not measured."""
    return replace(b, valid={**b.valid, sensor: b.valid[sensor] & ~invalid}, complete={**b.complete, sensor: False})


def rows(b: Batch[Tensor], index: list[int]) -> Batch[Tensor]:
    """The samples `index` of a batch, in that order."""
    picked = {
        key: {s: value[index] for s, value in getattr(b, key).items()}
        for key in ("images", "dates", "present", "valid")
    }
    keys = None if b.keys is None else b.keys[index]
    return replace(b, ids=tuple(b.ids[i] for i in index), reference_date=b.reference_date[index], keys=keys, **picked)


def hidden_maps(samples: int, share: float = 0.5, seed: int = 1) -> dict[str, Tensor]:
    """Tokens to hide, (b s n) per sensor of `inputs`: the same number in every sequence of every mode."""
    rng = torch.Generator().manual_seed(seed)
    out = {}
    for name, source in inputs().items():
        maps, places = len(source.token_bands) * source.input.dates, source.input.grid[0] * source.input.grid[1]
        order = torch.rand(samples, maps, places, generator=rng).argsort(dim=-1)
        out[name] = order < round(share * places)
    return out
