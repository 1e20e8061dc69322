"""SatMAE with band groups, from the published equations and tensor names alone: loops over samples, tokens and heads.

Nothing of the library is used. Axes: g band group, n place and p pixel of a patch (row-major), c band, d width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; `groups` are the bands of each, as the file holds them."""

    groups: tuple[tuple[int, ...], ...] = ((0, 2), (1, 3, 4))
    side: int = 3
    patch: int = 4
    dim: int = 24
    heads: int = 2
    depth: int = 2
    channels: int = 8
    decoder_dim: int = 16
    decoder_heads: int = 2
    decoder_depth: int = 1
    decoder_channels: int = 4


def wave(position: float, dim: int) -> list[float]:
    """Sines then cosines of a position."""
    angles = [position / 10000 ** (i / (dim / 2)) for i in range(dim // 2)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def places(side: int, dim: int) -> Tensor:
    """(1 1+n dim): zeros for the class token, then the column's wave beside the row's."""
    rows = [[0.0] * dim] + [wave(x, dim // 2) + wave(y, dim // 2) for y in range(side) for x in range(side)]
    return torch.tensor(np.asarray([rows]), dtype=torch.float32)


def codes_of_groups(count: int, dim: int) -> Tensor:
    """(1 count dim)."""
    return torch.tensor(np.asarray([[wave(g, dim) for g in range(count)]]), dtype=torch.float32)


def blocks(prefix: str, dim: int, depth: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Random weights of blocks by their official names."""
    shapes = {
        "norm1.weight": (dim,), "norm1.bias": (dim,), "attn.qkv.weight": (3 * dim, dim), "attn.qkv.bias": (3 * dim,),
        "attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,), "norm2.weight": (dim,), "norm2.bias": (dim,),
        "mlp.fc1.weight": (4 * dim, dim), "mlp.fc1.bias": (4 * dim,), "mlp.fc2.weight": (dim, 4 * dim),
        "mlp.fc2.bias": (dim,),
    }  # fmt: skip
    return {f"{prefix}.{i}.{k}": 0.3 * torch.randn(v, generator=rng) for i in range(depth) for k, v in shapes.items()}


def encoder_state(shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    """The encoder's tensors with its closing norm, by official names."""
    rng = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {
        "cls_token": torch.randn(1, 1, shape.dim, generator=rng),
        "pos_embed": places(shape.side, shape.dim - shape.channels),
        "channel_embed": codes_of_groups(len(shape.groups), shape.channels),
    }
    for g, group in enumerate(shape.groups):
        size = (shape.dim, len(group), shape.patch, shape.patch)
        made[f"patch_embed.{g}.proj.weight"] = 0.2 * torch.randn(size, generator=rng)
        made[f"patch_embed.{g}.proj.bias"] = torch.randn(shape.dim, generator=rng)
    made |= blocks("blocks", shape.dim, shape.depth, rng)
    return made | {k: torch.randn(shape.dim, generator=rng) for k in ("norm.weight", "norm.bias")}


def pretraining_state(shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    """All tensors of a pretraining's checkpoint, by official names."""
    rng = torch.Generator().manual_seed(seed + 1)
    dim, count = shape.decoder_dim, len(shape.groups)
    made = encoder_state(shape, seed) | {
        "decoder_embed.weight": 0.3 * torch.randn(dim, shape.dim, generator=rng),
        "decoder_embed.bias": torch.randn(dim, generator=rng),
        "mask_token": torch.randn(1, 1, dim, generator=rng),
        "decoder_pos_embed": places(shape.side, dim - shape.decoder_channels),
        "decoder_channel_embed": codes_of_groups(count + 1, shape.decoder_channels),
        "decoder_norm.weight": torch.randn(dim, generator=rng),
        "decoder_norm.bias": torch.randn(dim, generator=rng),
    }
    made |= blocks("decoder_blocks", dim, shape.decoder_depth, rng)
    for g, group in enumerate(shape.groups):
        answers = len(group) * shape.patch**2
        made[f"decoder_pred.{g}.weight"] = 0.3 * torch.randn(answers, dim, generator=rng)
        made[f"decoder_pred.{g}.bias"] = torch.randn(answers, generator=rng)
    return made


def run_blocks(x: Tensor, state: dict[str, Tensor], prefix: str, depth: int, heads: int) -> Tensor:
    """One sequence (l d) through pre-norm blocks."""
    dim = x.shape[1]
    for i in range(depth):
        w = {k.removeprefix(f"{prefix}.{i}."): v for k, v in state.items() if k.startswith(f"{prefix}.{i}.")}
        y = functional.layer_norm(x, (dim,), w["norm1.weight"], w["norm1.bias"], EPS)
        q, k, v = (y @ w["attn.qkv.weight"].T + w["attn.qkv.bias"]).split(dim, dim=1)
        each, heard = dim // heads, []
        for h in range(heads):
            mine = slice(h * each, (h + 1) * each)
            heard.append(torch.softmax(q[:, mine] @ k[:, mine].T / math.sqrt(each), dim=1) @ v[:, mine])
        x = x + torch.cat(heard, dim=1) @ w["attn.proj.weight"].T + w["attn.proj.bias"]
        y = functional.layer_norm(x, (dim,), w["norm2.weight"], w["norm2.bias"], EPS)
        y = functional.gelu(y @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"])
        x = x + y @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]
    return x


def embed(image: Tensor, state: dict[str, Tensor], shape: Shape) -> Tensor:
    """An image (c h w), bands as the file holds them -> tokens (g*n d) with their codes."""
    parts = []
    for g, group in enumerate(shape.groups):
        weight, bias = state[f"patch_embed.{g}.proj.weight"], state[f"patch_embed.{g}.proj.bias"]
        tokens = functional.conv2d(image[None, list(group)], weight, bias, stride=shape.patch)[0].flatten(1).T
        code = state["channel_embed"][0, g].expand(len(tokens), -1)
        parts.append(tokens + torch.cat([state["pos_embed"][0, 1:], code], dim=1))
    return torch.cat(parts)


def encode(image: Tensor, state: dict[str, Tensor], shape: Shape, seen: Sequence[int] | None = None) -> Tensor:
    """Class token and tokens (1+v d) of an image, of those `seen` alone if given."""
    tokens = embed(image, state, shape)
    tokens = tokens if seen is None else tokens[list(seen)]
    first = state["cls_token"][0]
    if "channel_cls_embed" in state:
        first = first + torch.cat([state["pos_embed"][0, :1], state["channel_cls_embed"][0]], dim=1)
    x = run_blocks(torch.cat([first, tokens]), state, "blocks", shape.depth, shape.heads)
    if "norm.weight" not in state:
        return x
    return functional.layer_norm(x, (shape.dim,), state["norm.weight"], state["norm.bias"], EPS)


def rebuild(image: Tensor, hidden: Tensor, state: dict[str, Tensor], shape: Shape) -> list[Tensor]:
    """Answers (n c p) of each group for an image whose tokens `hidden` (g n) are not seen."""
    seen = torch.nonzero(~hidden.flatten()).flatten().tolist()
    x = encode(image, state, shape, seen) @ state["decoder_embed.weight"].T + state["decoder_embed.bias"]
    whole = state["mask_token"][0].repeat(hidden.numel(), 1)
    for slot, token in zip(seen, x[1:], strict=True):
        whole[slot] = token
    count, places_of = len(shape.groups), state["decoder_pos_embed"][0]
    groups = state["decoder_channel_embed"][0]
    codes = [torch.cat([places_of[0], groups[count]])]
    codes += [torch.cat([place, groups[g]]) for g in range(count) for place in places_of[1:]]
    x = torch.cat([x[:1], whole]) + torch.stack(codes)
    x = run_blocks(x, state, "decoder_blocks", shape.decoder_depth, shape.decoder_heads)
    x = functional.layer_norm(x, (shape.decoder_dim,), state["decoder_norm.weight"], state["decoder_norm.bias"], EPS)
    answers, each = [], shape.side**2
    for g, group in enumerate(shape.groups):
        mine = x[1 + g * each : 1 + (g + 1) * each]
        answer = mine @ state[f"decoder_pred.{g}.weight"].T + state[f"decoder_pred.{g}.bias"]
        answers.append(answer.reshape(each, len(group), -1))
    return answers


def patches(image: Tensor, shape: Shape) -> Tensor:
    """(n c p) of an image (c h w)."""
    size, out = shape.patch, []
    for row in range(shape.side):
        for col in range(shape.side):
            part = image[:, row * size : (row + 1) * size, col * size : (col + 1) * size]
            out.append(part.flatten(1))
    return torch.stack(out)


def loss(images: Tensor, hidden: Tensor, state: dict[str, Tensor], shape: Shape, *, normalised: bool = False) -> float:
    """Mean over hidden tokens of all images (b c h w) of each one's mean squared error over its bands and pixels."""
    errors = []
    for image, hides in zip(images, hidden, strict=True):
        truth = patches(image, shape)
        if normalised:
            flat = truth.flatten(1)
            scale = (flat.var(dim=1, unbiased=True) + 1e-6).sqrt()
            truth = (truth - flat.mean(dim=1)[:, None, None]) / scale[:, None, None]
        for g, (group, answer) in enumerate(zip(shape.groups, rebuild(image, hides, state, shape), strict=True)):
            error = (answer - truth[:, list(group)]).square().mean(dim=(1, 2))
            errors += error[hides[g]].tolist()
    return float(np.mean(errors))
