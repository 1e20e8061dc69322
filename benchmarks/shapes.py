"""The inputs and tasks that steps are timed on: the official code's default dataset configurations, random pixels.

Axes: b sample, t date, c band, h row, w column.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geomaestro.models.convert import official_sensors
from geomaestro.models.task import Task
from geomaestro.samples import Batch
from geomaestro.sensors import ModelInput

S2 = {"dates": 16, "patch_px": 2, "groups": [4, 4, 2]}
S1 = {"dates": 4, "patch_px": 2, "groups": [1, 1], "fusion_group": "s1"}
SENSORS: dict[str, dict[str, dict[str, Any]]] = {  # official code, conf/dataset/*.py
    "treesatai_ts": {
        "aerial": {"size_px": 300, "patch_px": 20, "groups": [1, 3], "scaling": {"divide_by": 255}},
        "s2": {**S2, "size_px": 6, "scaling": {"divide_by": 5000}},
        "s1_asc": {**S1, "size_px": 6, "scaling": {"log": True, "divide_by": 5}},
        "s1_des": {**S1, "size_px": 6, "scaling": {"log": True, "divide_by": 5}},
    },
    "pastis_hd": {
        "spot": {"size_px": 160, "patch_px": 16, "scaling": {"divide_by": 255}},
        "s2": {**S2, "size_px": 16, "scaling": {"divide_by": 10000}},
        "s1_asc": {**S1, "size_px": 16, "scaling": {"divide_by": 20}},
        "s1_des": {**S1, "size_px": 16, "scaling": {"divide_by": 20}},
    },
    "flair": {
        "aerial": {"size_px": 512, "patch_px": 16, "groups": [1, 3], "scaling": {"divide_by": 255}},
        "dem": {"size_px": 512, "patch_px": 32, "scaling": {"divide_by": 1000, "heights": True}},
        "s2": {**S2, "size_px": 10, "scaling": {"divide_by": 5000}},
        "s1_asc": {**S1, "size_px": 10, "scaling": {"log": True, "divide_by": 5}},
        "s1_des": {**S1, "size_px": 10, "scaling": {"log": True, "divide_by": 5}},
    },
    "toy": {  # a few tokens, to try the programs themselves
        "aerial": {"size_px": 40, "patch_px": 20, "groups": [1, 3], "scaling": {"divide_by": 255}},
        "s2": {**S2, "size_px": 4, "dates": 3, "scaling": {"divide_by": 5000}},
        "s1_asc": {**S1, "size_px": 4, "dates": 2, "scaling": {"log": True, "divide_by": 5}},
        "s1_des": {**S1, "size_px": 4, "dates": 2, "scaling": {"log": True, "divide_by": 5}},
    },
}
SENSORS["toy_pixels"] = SENSORS["toy"]
SPECS_OF = {"toy": "treesatai_ts", "toy_pixels": "treesatai_ts"}  # whose sensors a toy has


@dataclass(frozen=True)
class Shape:
    """One dataset's position grid, task kind, number of outputs, and for pixels reference sensor and label pixels."""

    position_grid: int
    kind: str
    outputs: int
    reference_sensor: str | None = None
    patch_px: int | None = None


SHAPES = {  # official code; labels of the 160 m crop of PASTIS-HD are 16 x 16 pixels
    "treesatai_ts": Shape(96, "multilabel", 15),
    "pastis_hd": Shape(256, "pixels", 19, "s2", 2),
    "flair": Shape(160, "pixels", 15, "aerial", 16),
    "toy": Shape(12, "multilabel", 3),
    "toy_pixels": Shape(12, "pixels", 3, "aerial", 2),
}
OFFICIAL = tuple(name for name in SHAPES if name not in SPECS_OF)


def inputs_of(shape: str, dates: int | None = None) -> dict[str, ModelInput]:
    """The sensors of a shape as a model takes them in.

    `dates` is the number of optical dates; radar series then have a quarter of it each, as in the published shapes.
    """
    inputs = {}
    for name, values in SENSORS[shape].items():
        changed = {}
        if dates is not None and "dates" in values:
            changed = {"dates": dates if name == "s2" else max(1, dates // 4)}
        inputs[name] = _model_input(shape, name, {**values, **changed})
    return inputs


def _model_input(shape: str, name: str, values: dict[str, Any]) -> ModelInput:
    about = {key: values[key] for key in ("groups", "scaling") if key in values}
    how = {key: value for key, value in values.items() if key not in about}
    sensor = official_sensors()[SPECS_OF.get(shape, shape)][name]
    return ModelInput.model_validate({"sensor": {**sensor, **about}, "input": how})


def task_of(shape: str) -> Task:
    """The task that a shape is fine-tuned on."""
    about = SHAPES[shape]
    values = {
        "name": shape,
        "kind": about.kind,
        "classes": [f"class {i}" for i in range(about.outputs)],
        "reference_sensor": about.reference_sensor,
        "patch_px": about.patch_px,
    }
    return Task.model_validate(values)


def random_batch(shape: str, samples: int, generator: torch.Generator, dates: int | None = None) -> Batch[Tensor]:
    """A batch of complete samples with pixels, dates and labels drawn at random; `dates` as in `inputs_of`."""
    inputs = inputs_of(shape, dates)
    images = {name: _images(source, samples, generator) for name, source in inputs.items()}
    days = {name: _dates((samples, x.shape[1]), generator) for name, x in images.items()}
    return Batch(
        ids=tuple(map(str, range(samples))),
        images=images,
        dates=days,
        present={s: torch.ones(x.shape[:2], dtype=torch.bool) for s, x in images.items()},
        valid={s: torch.ones(*x.shape[:2], *x.shape[-2:], dtype=torch.bool) for s, x in images.items()},
        reference_date=_dates((samples,), generator),
        complete=dict.fromkeys(images, True),
        labels={shape: _labels(shape, samples, generator)},
        keys=torch.randint(2**62, (samples,), generator=generator),
    )


def _images(source: ModelInput, samples: int, generator: torch.Generator) -> Tensor:
    """(b t c h w) between 1 and 255, as 8-bit numbers where the sensor stores these."""
    shape = (samples, source.input.dates, len(source.sensor.bands), *source.input.size_px)
    stored = torch.uint8 if source.sensor.unit == "dn8" else torch.float32
    return torch.randint(1, 256, shape, generator=generator).to(stored)


def _dates(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    day = torch.randint(1, 366, shape, generator=generator)
    return torch.stack([torch.full_like(day, 2019), day, torch.full_like(day, 10)], dim=-1)


def _labels(shape: str, samples: int, generator: torch.Generator) -> Tensor:
    about = SHAPES[shape]
    if about.kind == "multilabel":
        return torch.randint(2, (samples, about.outputs), generator=generator)
    assert about.reference_sensor is not None and about.patch_px is not None, "a task of pixels has both"
    grid = inputs_of(shape)[about.reference_sensor].input.grid
    size = (samples, grid[0] * about.patch_px, grid[1] * about.patch_px)
    return torch.randint(about.outputs, size, generator=generator)
