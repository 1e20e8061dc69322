"""Picking and placing tokens by index.

Axes: r sequence, l token, k picked token, d width.
"""

from torch import Tensor


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """(r l d), (r k) -> (r k d): `out[i, j] == tokens[i, index[i, j]]`."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def place(tokens: Tensor, index: Tensor, base: Tensor) -> Tensor:
    """Undo `pick` onto `base` (r l d): `out[i, index[i, j]] == tokens[i, j]`, and `base` elsewhere."""
    return base.scatter(1, index[..., None].expand(-1, -1, tokens.shape[-1]), tokens)
