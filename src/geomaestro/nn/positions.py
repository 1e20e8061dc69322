"""Fixed codes of place, date and band group, added to tokens.

Axes: b sample, t date, n place of a token (row-major), d width.
Source: official codes of MAESTRO, reproduced in float32, and of SatMAE (`line_codes`, `plane_codes`), in float64,
because published weights have learned with them.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

DATE_CHANNELS = 8  # official code; the last channels of a token
DAYS_PER_YEAR = 365.25  # official code, in leap years too


def sincos_grid(rows: int, cols: int, dim: int, date_channels: int = DATE_CHANNELS) -> Tensor:
    """Sine-cosine codes of a grid, (rows cols dim): [sin x, cos x, sin y, cos y, zeros for the date].

    Raises:
        ValueError: if dim or date_channels is not a multiple of 4, or dim leaves fewer than 8 channels for the place.
    """
    if dim % 4 or date_channels % 4 or dim - date_channels < 8:
        raise ValueError(f"width {dim} with {date_channels} date channels: need multiples of 4 and 8 or more left over")
    count = (dim - date_channels) // 4
    omega = 1.0 / 10000 ** (torch.arange(count) / (count - 1))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    x, y = x[..., None] * omega, y[..., None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos(), torch.zeros(rows, cols, date_channels)], dim=-1)


def pool_to_grid(codes: Tensor, rows: int, cols: int) -> Tensor:
    """Average codes (R C d) over the cells of a rows x cols grid, (n d).

    Where a side does not divide, the codes are first resized (bilinear) to the nearest multiple.
    """
    height, width = _multiple(codes.shape[0], rows), _multiple(codes.shape[1], cols)
    if (height, width) != tuple(codes.shape[:2]):
        channels_first = codes.permute(2, 0, 1)[None]
        codes = functional.interpolate(channels_first, (height, width), mode="bilinear")[0].permute(1, 2, 0)
    cells = codes.unflatten(0, (rows, -1)).unflatten(2, (cols, -1))
    return cells.mean(dim=(1, 3)).flatten(0, 1)


def _multiple(side: int, cells: int) -> int:
    """The multiple of `cells` nearest to a side, at least one."""
    return cells * max(1, round(side / cells))


@lru_cache(maxsize=256)
def place_codes(base: tuple[int, int], grid: tuple[int, int], dim: int, date_channels: int) -> Tensor:
    """Codes (n d) of a sensor's grid (rows, cols) on the common ground grid `base`; computed once per process."""
    with torch.inference_mode(False), torch.no_grad():
        return pool_to_grid(sincos_grid(*base, dim, date_channels), *grid)


def date_codes(dates: Tensor, reference: Tensor, channels: int = DATE_CHANNELS) -> Tensor:
    """Codes (b t channels) of dates (b t 3) = year, day of year, hour: [offset in years (channels - 4 times), sin and
    cos of the day of year, sin and cos of the hour]. `reference` (b 3) is the date that offsets are counted from.
    """
    year, day, hour = dates.float().unbind(-1)
    reference_year, reference_day, _ = reference.float()[:, None].unbind(-1)
    day, reference_day = day / DAYS_PER_YEAR, reference_day / DAYS_PER_YEAR
    offset = (year + day) - (reference_year + reference_day)
    day, hour = 2 * math.pi * day, 2 * math.pi * (hour / 24.0)
    return torch.stack([offset] * (channels - 4) + [day.sin(), day.cos(), hour.sin(), hour.cos()], dim=-1)


def line_codes(positions: Tensor, dim: int) -> Tensor:
    """Codes (n dim) of positions (n) on a line, float64: [sines, cosines] of dim / 2 frequencies 10000^(-2i / dim)."""
    omega = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angle = positions.double()[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def plane_codes(rows: int, cols: int, dim: int) -> Tensor:
    """Codes (n dim) of a grid, float64: the line code of the column in half of the channels, then the row's."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    return torch.cat([line_codes(x.flatten(), dim // 2), line_codes(y.flatten(), dim // 2)], dim=1)
