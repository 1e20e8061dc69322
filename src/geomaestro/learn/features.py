"""Frozen features, computed once: pooled for neighbours and linear probes, all tokens for attentive ones.

Axes: n sample, d width, l token.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from geomaestro.data.loader import evaluation_batches
from geomaestro.data.reading import Dataset
from geomaestro.models.encoder import Encoder, Tokens
from geomaestro.models.task import HeadInput, Task, head_input
from geomaestro.samples import to_device


@torch.no_grad()
def encode(encoder: Encoder, dataset: Dataset, *, batch: int, device: torch.device) -> Iterator[Tokens]:
    """Tokens of every sample, in order."""
    encoder.to(device).eval()
    for item in evaluation_batches(dataset, batch=batch):
        moved = to_device(item, device)
        yield encoder(moved)


def pooled_features(encoder: Encoder, dataset: Dataset, *, batch: int, device: torch.device) -> Tensor:
    """Mean features (n d) of every sample, on the host."""
    return torch.cat([t.pooled().float().cpu() for t in encode(encoder, dataset, batch=batch, device=device)])


def date_features(encoder: Encoder, dataset: Dataset, *, batch: int, device: torch.device) -> Tensor:
    """Mean features of every sensor and date side by side, (n f), on the host; an absent date counts as zero."""
    parts = []
    for tokens in encode(encoder, dataset, batch=batch, device=device):
        x, present = tokens.by_date()
        parts.append((x if present is None else x * present[..., None]).flatten(1).float().cpu())
    return torch.cat(parts)


def head_inputs(
    encoder: Encoder, dataset: Dataset, head: nn.Module, task: Task, *, batch: int, device: torch.device
) -> HeadInput:
    """What the task's head looks at, of every sample, on the device."""
    parts = [head_input(head, task, tokens) for tokens in encode(encoder, dataset, batch=batch, device=device)]
    tokens = torch.cat([p.tokens.float() for p in parts])
    if all(p.present is None for p in parts):
        return HeadInput(tokens, None, parts[0].grid)
    known = [
        p.tokens.new_ones(p.tokens.shape[:-1], dtype=torch.bool) if p.present is None else p.present for p in parts
    ]
    return HeadInput(tokens, torch.cat(known), parts[0].grid)
