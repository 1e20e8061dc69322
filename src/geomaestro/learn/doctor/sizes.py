"""Bytes: of weights, optimiser and files exactly, from shapes alone; of a step, on the line through probes."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from geomaestro.learn.checkpoint import KEEP
from geomaestro.learn.pictures import PICTURES
from geomaestro.models.base import TokenEncoderSpec
from geomaestro.models.hub import FORMAT

Shape = tuple[int, ...]
FLOAT_BYTES = 4
MOMENTS = 2  # of AdamW, for each weight; and a counter of steps for each tensor
ROW_BYTES = 280  # measured; a row of metrics, and about 60 more for each sensor's loss and signs
PAGE_BYTES = 150_000  # measured; the report, and about 100,000 more for each sensor


@dataclass(frozen=True, slots=True)
class ModelBytes:
    """What a rank holds of a model in training, in bytes."""

    weights: int
    gradients: int
    optimiser: int


def shapes_of(model: nn.Module) -> dict[str, Shape]:
    """Names and shapes of a model's tensors; make the model under `torch.device("meta")` to allocate nothing."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def model_bytes(shapes: Mapping[str, Shape], *, ranks: int = 1, idle: Collection[str] = ()) -> ModelBytes:
    """Bytes of a model that is cut into shards for so many ranks, on the rank with the most.

    Tensors that are `idle` get no gradient, and nothing is kept of them.
    """
    counts = {name: _largest_shard(shape, ranks) for name, shape in shapes.items()}
    learning = [count for name, count in counts.items() if name not in idle]
    gradients = FLOAT_BYTES * sum(learning)
    return ModelBytes(FLOAT_BYTES * sum(counts.values()), gradients, MOMENTS * gradients + FLOAT_BYTES * len(learning))


def _largest_shard(shape: Shape, ranks: int) -> int:
    """Numbers in the largest of the shards that FSDP2 cuts along the first axis."""
    return -(-shape[0] // ranks) * torch.Size(shape[1:]).numel() if shape else 1


def gathered_bytes(shapes: Mapping[str, Shape]) -> int:
    """What a rank has gathered at once of a model in shards: all but the blocks, and two of these."""
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        head, found, tail = name.partition(".blocks.")
        block = head + found + tail.partition(".")[0] if found else ""
        sizes[block] = sizes.get(block, 0) + FLOAT_BYTES * torch.Size(shape).numel()
    return sizes.pop("", 0) + 2 * max(sizes.values(), default=0)


# ---- files ----


def safetensors_bytes(shapes: Mapping[str, Shape], metadata: Mapping[str, str] | None = None) -> int:
    """Bytes of a safetensors file of float32 tensors: 8, a header padded to a multiple of 8, the tensors by name."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    start = 0
    for name in sorted(shapes):
        end = start + FLOAT_BYTES * torch.Size(shapes[name]).numel()
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + start


def state_bytes(shapes: Mapping[str, Shape], idle: Collection[str] = (), *, copies: int = 0) -> int:
    """Bytes of the tensors of a state of training: model, optimiser, so many copies of the weights (best, average)."""
    learning = {name: shape for name, shape in shapes.items() if name not in idle}
    moments = {f"{name}.{key}": shape for name, shape in learning.items() for key in ("exp_avg", "exp_avg_sq")}
    counters: dict[str, Shape] = {f"{name}.step": () for name in learning}
    return (1 + copies) * safetensors_bytes(shapes) + safetensors_bytes({**moments, **counters})


def saved_model_bytes(shapes: Mapping[str, Shape]) -> int:
    """Bytes of the model.safetensors of a model folder."""
    return safetensors_bytes(shapes, {"format": FORMAT})


def states_bytes(state: int, saved: int) -> tuple[int, int]:
    """Bytes of a training's states while the last is written, and after it, if it saves one so many times."""
    return min(KEEP + 1, saved) * state, min(KEEP, saved) * state


def other_bytes(encoder: TokenEncoderSpec, rows: int, seeds: int) -> int:
    """About what metrics, pictures and report take beside the tensors."""
    pixels = 0
    for source in encoder.inputs.values():
        height, width = source.input.size_px
        plain = source.input.dates * height * width
        pixels += PICTURES * plain * (2 * FLOAT_BYTES * len(source.sensor.bands) + 2)  # input, rebuilt, hidden, valid
    return seeds * rows * (ROW_BYTES + 60 * len(encoder.inputs)) + pixels + PAGE_BYTES + 100_000 * len(encoder.inputs)


# ---- a step of another size ----


def line_through(probes: Mapping[int, float]) -> tuple[float, float]:
    """(constant, slope) of bytes against samples, through the two largest probes."""
    *_, low, high = sorted({0, *probes}) if len(probes) == 1 else sorted(probes)
    slope = max(0.0, (probes[high] - probes.get(low, 0.0)) / (high - low))
    return max(0.0, probes[high] - slope * high), slope


def at(probes: Mapping[int, int], samples: int) -> int:
    """Bytes of a step over so many samples: as measured, or on the line through what was measured."""
    if samples in probes:
        return probes[samples]
    constant, slope = line_through(probes)
    return round(constant + slope * samples)


def largest(probes: Mapping[int, int], room: int) -> int:
    """Most samples whose step takes no more than `room` bytes; 0 if not even one."""
    constant, slope = line_through(probes)
    if constant > room:
        return 0
    return int((room - constant) / slope) if slope > 0 else max(probes)


def gib(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
