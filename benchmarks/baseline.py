"""The same model written the straightforward way, for comparison; it loads our weights and gives the same numbers.

Attention is written out: all scores, softmax, product. The decoder computes all tokens to the end, the pixel layer all
patches, and errors are taken over whole images, then weighted by what was hidden. Pixels are cut into patches twice,
codes of position are computed in every step, masks are applied whether anything is absent or not, attentive pooling
forms keys and values of every token, token maps are resized by torch's interpolation. What decides the numbers (units
of pixels, which tokens meet, which are hidden) comes from the package. It knows the default fusion, norm and loss,
and tasks of pixels for complete samples alone.

Axes: b sample, t date, n patch, p pixel of a patch, c band, l token, h head, d width, s token map.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from geomaestro.models.encoder import EncoderSpec
from geomaestro.models.mae import MaeSpec
from geomaestro.models.task import Task
from geomaestro.nn.fusion import FUSIONS, SequenceSet, Strand, lay_out, make_strands, weights_key
from geomaestro.nn.masking import Hidden, hide
from geomaestro.nn.pixels import scale_pixels
from geomaestro.nn.positions import date_codes, pool_to_grid, sincos_grid
from geomaestro.samples import Batch
from geomaestro.sensors import ModelInput


class PlainAttention(nn.Module):
    """Attention by its formula."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_dim**-0.5
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor, attendable: Tensor) -> Tensor:
        """(b l d), attendable (b l) -> (b l d)."""
        q, k, v = rearrange(self.qkv(self.norm(x)), "b l (three h e) -> three b h l e", three=3, h=self.heads)
        scores = q @ k.transpose(-1, -2) * self.scale
        scores = scores.masked_fill(~attendable[:, None, None, :], float("-inf"))
        return self.out(rearrange(scores.softmax(dim=-1) @ v, "b h l e -> b l (h e)"))


class PlainMlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, hidden_dim)
        self.down = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(self.norm(x))))


class PlainBlock(nn.Module):
    """Attention and MLP, each added to its input."""

    def __init__(self, dim: int, heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.attention = PlainAttention(dim, heads, head_dim)
        self.mlp = PlainMlp(dim, mlp_dim)

    def forward(self, x: Tensor, attendable: Tensor) -> Tensor:
        x = x + self.attention(x, attendable)
        return x + self.mlp(x)


class PlainTransformer(nn.Module):
    """Blocks and a closing LayerNorm."""

    def __init__(self, dim: int, depth: int, *, heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(PlainBlock(dim, heads, head_dim, mlp_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, attendable: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, attendable)
        return self.norm(x)


class PlainEmbedding(nn.Module):
    """Patches -> tokens of zero mean and unit variance over the present tokens of a date."""

    def __init__(self, bands: int, patch_px: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(bands * patch_px**2, dim)
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, patches: Tensor, present: Tensor) -> Tensor:
        """(b t n p c), present (b t n) -> (b t n d)."""
        x = self.project(patches.flatten(-2))
        known = present[..., None].to(x.dtype)
        count = (known.sum(dim=(-2, -1), keepdim=True) * x.shape[-1]).clamp(min=1)
        mean = (x * known).sum(dim=(-2, -1), keepdim=True) / count
        variance = ((x - mean).square() * known).sum(dim=(-2, -1), keepdim=True) / count
        return (x - mean) / (variance + 1e-5).sqrt() * self.weight + self.bias


class PlainTokeniser(nn.Module):
    """One embedding per band group."""

    def __init__(self, source: ModelInput, dim: int) -> None:
        super().__init__()
        self.bands = list(source.token_bands)
        self.embeddings = nn.ModuleList(PlainEmbedding(b, source.input.patch_px, dim) for b in self.bands)

    def forward(self, patches: Tensor, present: Tensor) -> list[Tensor]:
        parts = patches.split(self.bands, dim=-1)
        return [embed(part, present) for embed, part in zip(self.embeddings, parts, strict=True)]


def cut(images: Tensor, size: int) -> Tensor:
    """(b t c h w) -> (b t n p c)."""
    return rearrange(images, "b t c (rows y) (cols x) -> b t (rows cols) (y x) c", y=size, x=size)


def sew(patches: Tensor, size: int, rows: int) -> Tensor:
    """Undo `cut`."""
    return rearrange(patches, "b t (rows cols) (y x) c -> b t c (rows y) (cols x)", y=size, x=size, rows=rows)


@dataclass(frozen=True)
class Laid:
    """A batch in sequences: tokens (b l d), presence (b l) and date codes (b l 8) per sequence set."""

    sets: list[SequenceSet]
    tokens: dict[str, Tensor]
    present: dict[str, Tensor]
    dates: dict[str, Tensor]


class PlainEncoder(nn.Module):
    """All tokens, or the visible ones, through the blocks of their sensors and the joint ones."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec, self.fusion = spec, FUSIONS[spec.fusion]
        assert not self.fusion.per_date and spec.token_norm == "date", "the baseline has the default mode alone"
        self.tokenisers = nn.ModuleDict()
        for name, source in spec.inputs.items():
            key = spec.embedding_key(name)
            if key not in self.tokenisers:
                self.tokenisers[key] = PlainTokeniser(source, spec.dim)
        keys = dict.fromkeys(weights_key(name, source, self.fusion) for name, source in spec.inputs.items())
        self.stacks = nn.ModuleDict({key: self._stack(spec.depth - spec.joint) for key in keys})
        self.joint = self._stack(spec.joint) if spec.joint else None

    def _stack(self, depth: int) -> PlainTransformer:
        spec = self.spec
        mlp_dim = round(spec.dim * spec.mlp_ratio)
        return PlainTransformer(spec.dim, depth, heads=spec.heads, head_dim=spec.head_dim, mlp_dim=mlp_dim)

    def lay_out(self, batch: Batch[Tensor]) -> Laid:
        tokens: dict[tuple[str, int], Tensor] = {}
        present: dict[str, Tensor] = {}
        inputs = self.spec.inputs
        for name, source in inputs.items():
            size = source.input.patch_px
            valid = cut(batch.valid[name][:, :, None].float(), size)[..., 0] > 0
            valid = valid & batch.present[name][:, :, None, None]
            present[name] = valid.any(dim=-1)
            patches = fill(cut(scale_pixels(batch.images[name], source.sensor), size), valid)
            parts = self.tokenisers[self.spec.embedding_key(name)](patches, present[name])
            tokens |= {(name, group): part for group, part in enumerate(parts)}
        grids = {name: source.input.grid for name, source in inputs.items()}
        dates = {name: batch.images[name].shape[1] for name in inputs}
        sets = lay_out(make_strands(inputs, grids, dates), inputs, self.fusion)
        return Laid(
            sets,
            {s.key: s.join([tokens[x.sensor, x.band_group] for x in s.strands]) for s in sets},
            {s.key: s.join([present[x.sensor] for x in s.strands]) for s in sets},
            {s.key: s.join([self._date_codes(x, batch) for x in s.strands]) for s in sets},
        )

    def _date_codes(self, strand: Strand, batch: Batch[Tensor]) -> Tensor:
        codes = date_codes(batch.dates[strand.sensor], batch.reference_date, self.spec.date_channels)
        return codes[:, :, None].expand(-1, -1, strand.places, -1)

    def codes(self, sequences: SequenceSet, dates: Tensor, dim: int) -> Tensor:
        """Codes of place and date (b l dim), computed anew."""
        parts = []
        for strand in sequences.strands:
            base = self.spec.ground_grid(strand.sensor, strand.grid)
            grid = pool_to_grid(sincos_grid(*base, dim, self.spec.date_channels), *strand.grid)
            parts.append(grid.repeat(strand.dates, 1))
        place = torch.cat(parts).to(dates.device)
        return place + functional.pad(dates, (dim - dates.shape[-1], 0))

    def attend(self, sets: list[SequenceSet], x: Mapping[str, Tensor], seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = {s.key: self.stacks[s.weights](x[s.key], seen[s.key]) for s in sets}
        if self.joint is None:
            return out
        lengths = [out[s.key].shape[1] for s in sets]
        everything = torch.cat([out[s.key] for s in sets], dim=1)
        parts = self.joint(everything, torch.cat([seen[s.key] for s in sets], dim=1)).split(lengths, dim=1)
        return {s.key: part for s, part in zip(sets, parts, strict=True)}

    def forward(self, batch: Batch[Tensor]) -> tuple[Laid, dict[str, Tensor]]:
        """All tokens of a batch, encoded."""
        laid = self.lay_out(batch)
        x = {s.key: laid.tokens[s.key] + self.codes(s, laid.dates[s.key], self.spec.dim) for s in laid.sets}
        return laid, self.attend(laid.sets, x, laid.present)

    def encode_visible(self, laid: Laid, hidden: Mapping[str, Hidden]) -> dict[str, Tensor]:
        x, seen = {}, {}
        for s in laid.sets:
            coded = laid.tokens[s.key] + self.codes(s, laid.dates[s.key], self.spec.dim)
            index = hidden[s.key].visible_index
            x[s.key] = coded.gather(1, index[..., None].expand(-1, -1, coded.shape[-1]))
            slots = hidden[s.key].visible
            seen[s.key] = torch.ones_like(index, dtype=torch.bool) if slots is None else slots
        return self.attend(laid.sets, x, seen)


def fill(patches: Tensor, valid: Tensor) -> Tensor:
    """Patches (b t n p c) with invalid pixels (b t n p) set to the mean of the valid ones."""
    known = valid[..., None].to(patches.dtype)
    mean = (patches * known).sum(dim=-2, keepdim=True) / known.sum(dim=-2, keepdim=True).clamp(min=1)
    return torch.where(valid[..., None], patches, mean)


def normalise(patches: Tensor, groups: tuple[int, ...], valid: Tensor) -> Tensor:
    """Targets: every patch (b t n p c) and band group with zero mean and unit variance over valid pixels (b t n p)."""
    parts = []
    for part in patches.split(list(groups), dim=-1):
        known = valid[..., None].to(part.dtype)
        count = known.sum(dim=(-2, -1), keepdim=True) * part.shape[-1]
        mean = (part * known).sum(dim=(-2, -1), keepdim=True) / count.clamp(min=1)
        variance = ((part - mean).square() * known).sum(dim=(-2, -1), keepdim=True) / (count - 1).clamp(min=1)
        parts.append((part - mean) / (variance + 1e-6).sqrt())
    return torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class PlainResult:
    """The loss of a batch, and of each sensor."""

    loss: Tensor
    per_sensor: dict[str, Tensor]


class PlainMae(nn.Module):
    """Hide, encode, decode everything, compare whole images."""

    def __init__(self, spec: MaeSpec) -> None:
        super().__init__()
        assert spec.target == "group" and spec.loss == "l1", "the baseline has the default loss alone"
        self.spec, inner, dim = spec, spec.encoder, spec.decoder.dim
        self.encoder = PlainEncoder(inner)
        keys = self.encoder.stacks.keys()
        self.narrow = nn.ModuleDict({k: nn.Linear(inner.dim, dim) if inner.dim != dim else nn.Identity() for k in keys})
        size, mlp_dim = spec.decoder, round(inner.dim * spec.decoder.mlp_ratio)
        self.stacks = nn.ModuleDict(
            {
                k: PlainTransformer(dim, size.depth, heads=size.heads, head_dim=size.head_dim, mlp_dim=mlp_dim)
                for k in keys
            }
        )
        self.hidden_tokens = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(len(source.token_bands), dim)) for name, source in inner.inputs.items()}
        )
        self.pixels = nn.ModuleDict()
        for name, source in inner.inputs.items():
            area = source.input.patch_px**2
            layers = nn.ModuleList(nn.Linear(dim, area * bands) for bands in source.token_bands)
            if inner.embedding_key(name) not in self.pixels:
                self.pixels[inner.embedding_key(name)] = layers

    def forward(self, batch: Batch[Tensor], keys: Tensor) -> PlainResult:
        laid = self.encoder.lay_out(batch)
        hidden = hide(laid.sets, laid.present, self.spec.hiding, keys)
        visible = self.encoder.encode_visible(laid, hidden)
        decoded = {s.key: self._decode(s, laid, hidden[s.key], visible[s.key]) for s in laid.sets}
        return self._score(batch, laid, hidden, decoded)

    def _decode(self, s: SequenceSet, laid: Laid, hidden: Hidden, visible: Tensor) -> Tensor:
        """All tokens (b l d) of a set from its visible ones."""
        learned = [self.hidden_tokens[x.sensor][x.band_group].expand(len(visible), x.tokens, -1) for x in s.strands]
        base = torch.cat(learned, dim=1).to(visible.dtype)
        narrowed = self.narrow[s.weights](visible).to(base.dtype)
        index = hidden.visible_index[..., None].expand(-1, -1, base.shape[-1])
        if hidden.visible is not None:
            narrowed = torch.where(hidden.visible[..., None], narrowed, base.gather(1, index))
        x = base.scatter(1, index, narrowed) + self.encoder.codes(s, laid.dates[s.key], base.shape[-1])
        return self.stacks[s.weights](x, laid.present[s.key])

    def _score(
        self, batch: Batch[Tensor], laid: Laid, hidden: Mapping[str, Hidden], decoded: Mapping[str, Tensor]
    ) -> PlainResult:
        """Mean error per sensor over hidden, measured pixels of whole images; sensors weigh as their tokens."""
        rebuilt: dict[str, list[Tensor]] = {}
        gone: dict[str, list[Tensor]] = {}
        for s in laid.sets:
            flags = s.split(hidden[s.key].hidden)
            for strand, tokens, flag in zip(s.strands, s.split(decoded[s.key]), flags, strict=True):
                layer = self.pixels[self.spec.encoder.embedding_key(strand.sensor)][strand.band_group]
                area = self.spec.encoder.inputs[strand.sensor].input.patch_px ** 2
                rebuilt.setdefault(strand.sensor, []).append(layer(tokens).float().unflatten(-1, (area, strand.bands)))
                gone.setdefault(strand.sensor, []).append(flag[..., None, None].expand(-1, -1, -1, area, strand.bands))
        losses, weights = {}, {}
        for name, parts in rebuilt.items():
            losses[name], weights[name] = self._loss(batch, name, torch.cat(parts, -1), torch.cat(gone[name], -1))
        total = sum(weights.values()) if weights else torch.zeros(())
        return PlainResult(sum(losses[n] * weights[n] for n in losses) / total, losses)

    def _loss(self, batch: Batch[Tensor], name: str, rebuilt: Tensor, gone: Tensor) -> tuple[Tensor, Tensor]:
        source = self.spec.encoder.inputs[name]
        size, rows = source.input.patch_px, source.input.grid[0]
        valid = cut(batch.valid[name][:, :, None].float(), size)[..., 0] > 0
        valid = valid & batch.present[name][:, :, None, None]
        target = fill(cut(scale_pixels(batch.images[name], source.sensor), size), valid)
        target = normalise(target, tuple(source.sensor.target_groups), valid)
        error = (sew(target, size, rows) - sew(rebuilt, size, rows)).abs()
        weight = sew((gone & valid[..., None]).float(), size, rows)
        count = weight.sum()
        tokens = valid.any(dim=-1).float().sum() / len(batch)
        return (error * weight).sum() / count.clamp(min=1), tokens * (count > 0)


class PlainPool(nn.Module):
    """One learned query looks at the keys of all tokens."""

    def __init__(self, dim: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.query = nn.Parameter(torch.randn(dim))
        self.out_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """(b l d), present (b l) -> (b d)."""
        k, v = rearrange(self.to_kv(self.norm(tokens)), "b l (two h e) -> two b h l e", two=2, h=self.heads)
        query = rearrange(self.query, "(h e) -> h 1 e", h=self.heads).to(k.dtype)
        scores = query @ k.transpose(-1, -2) * query.shape[-1] ** -0.5
        scores = scores.masked_fill(~present[:, None, None, :], float("-inf"))
        return self.out_norm(rearrange(scores.softmax(dim=-1).to(v.dtype) @ v, "b h 1 e -> b (h e)"))


class PlainHead(nn.Module):
    """Pooled tokens -> outputs."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.pool = PlainPool(dim)
        self.linear = nn.Linear(dim, outputs)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        return self.linear(self.pool(tokens, present))


class PlainTaskModel(nn.Module):
    """Encoder and head; logits (b classes), or (b classes h w) for pixels."""

    def __init__(self, spec: EncoderSpec, task: Task) -> None:
        super().__init__()
        self.task = task
        self.encoder = PlainEncoder(spec)
        self.head = PlainHead(spec.dim, len(task.classes) * (task.patch_px or 1) ** 2)

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        laid, encoded = self.encoder(batch)
        if self.task.kind != "pixels":
            tokens = torch.cat([encoded[s.key] for s in laid.sets], dim=1)
            return self.head(tokens, torch.cat([laid.present[s.key] for s in laid.sets], dim=1))
        return self._pixels(laid, encoded)

    def _pixels(self, laid: Laid, encoded: Mapping[str, Tensor]) -> Tensor:
        grid = self.encoder.spec.inputs[self.task.reference_sensor].input.grid
        maps = []
        for s in laid.sets:
            for strand, x in zip(s.strands, s.split(encoded[s.key]), strict=True):
                images = rearrange(x, "b t (rows cols) d -> (b t) d rows cols", rows=strand.grid[0])
                images = functional.interpolate(images, grid, mode="bilinear")
                maps.append(rearrange(images, "(b t) d rows cols -> (b rows cols) t d", b=len(x)))
        tokens = torch.cat(maps, dim=1)
        size = self.task.patch_px
        return rearrange(
            self.head(tokens, torch.ones_like(tokens[..., 0], dtype=torch.bool)),
            "(b rows cols) (y x o) -> b o (rows y) (cols x)", rows=grid[0], cols=grid[1], y=size, x=size,
        )  # fmt: skip
