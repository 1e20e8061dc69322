"""Frozen features, computed once: pooled for neighbours and linear probes, all tokens for attentive ones.

Axes: n sample, d width, l token.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from geomaestro.data.loader import evaluation_batches
from geomaestro.data.reading import Dataset
from geomaestro.models.encoder import Encoder, Tokens
from geomaestro.models.task import HeadInput, Task, head_input
from geomaestro.samples import to_device


@torch.no_grad()
def encode(
    encoder: Encoder, dataset: Dataset, *, batch: int, device: torch.device, precision: str = "fp32"
) -> Iterator[Tokens]:
    """Tokens of every sample, in order."""
    encoder.to(device).eval()
    for item in evaluation_batches(dataset, batch=batch):
        moved = to_device(item, device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield encoder(moved)


def pooled_features(
    encoder: Encoder, dataset: Dataset, *, batch: int, device: torch.device, precision: str = "fp32"
) -> Tensor:
    """Mean features (n d) of every sample, on the host."""
    parts = [
        tokens.pooled().float().cpu()
        for tokens in encode(encoder, dataset, batch=batch, device=device, precision=precision)
    ]
    return torch.cat(parts)


def head_inputs(
    encoder: Encoder, dataset: Dataset, task: Task, *, batch: int, device: torch.device, precision: str = "fp32"
) -> HeadInput:
    """What the task's head looks at, of every sample, on the device."""
    parts = [
        head_input(task, tokens) for tokens in encode(encoder, dataset, batch=batch, device=device, precision=precision)
    ]
    tokens = torch.cat([p.tokens.float() for p in parts])
    if all(p.present is None for p in parts):
        return HeadInput(tokens, None, parts[0].grid)
    known = [
        p.tokens.new_ones(p.tokens.shape[:-1], dtype=torch.bool) if p.present is None else p.present for p in parts
    ]
    return HeadInput(tokens, torch.cat(known), parts[0].grid)
