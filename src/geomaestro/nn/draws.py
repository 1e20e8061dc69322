"""Random numbers as a pure function of a key per sample, so that a sample's draws don't depend on its batch.

Axes: b sample, k draw.
"""

import torch
from torch import Tensor

_STEP = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer: the golden-ratio increment of SplitMix64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def uniform(keys: Tensor, count: int, stream: int) -> Tensor:
    """Numbers in [0, 1), float32 (b count): number j of sample i depends on keys[i] (int64), `stream` and j alone.

    Source: SplitMix64 (Steele, Lea and Flood 2014) run as a counter; int64 products wrap on CPU and GPU alike.
    """
    counter = torch.arange(count, device=keys.device, dtype=torch.int64) + (stream << 40)
    bits = _mix(_mix(keys)[:, None] + (counter + 1) * _STEP)
    return _shift(bits, 40).to(torch.float32) * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, by: int) -> Tensor:
    """Logical shift to the right of signed integers."""
    return (x >> by) & ((1 << (64 - by)) - 1)
