"""Picking and placing tokens by index.

Axes: r sequence, l token, k picked token, d width.
"""

import torch
from torch import Tensor


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """(r l d), (r k) -> (r k d): `out[i, j] == tokens[i, index[i, j]]`.

    On a CPU whole rows are copied: measured, a third of the time of `gather` and its backward pass.
    """
    if not tokens.is_cpu:
        return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
    row = torch.arange(len(tokens))[:, None] * tokens.shape[1] + index
    return tokens.flatten(0, 1).index_select(0, row.flatten()).unflatten(0, index.shape)


def place(tokens: Tensor, index: Tensor, base: Tensor) -> Tensor:
    """Undo `pick` onto `base` (r l d): `out[i, index[i, j]] == tokens[i, j]`, and `base` elsewhere."""
    return base.scatter(1, index[..., None].expand(-1, -1, tokens.shape[-1]), tokens)
