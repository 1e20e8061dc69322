"""The MAESTRO masked autoencoder: an encoder of visible tokens, a decoder of hidden ones, and their loss.

Axes: b sample, t date, n place, r sequence, l token, k hidden token, p pixel of a patch, c band, d width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from geomaestro.config import Strict
from geomaestro.models.encoder import Encoder, EncoderSpec, Sequences, check_width, join_present, run_stacks
from geomaestro.nn.fusion import FUSIONS, SequenceSet, Strand, lay_out, make_strands
from geomaestro.nn.gather import pick, place
from geomaestro.nn.loss import LossName, TargetNorm, error_sum, target_groups, target_statistics
from geomaestro.nn.masking import Hidden, Hiding, from_hidden, hide, shown_tokens
from geomaestro.nn.patches import unpatchify
from geomaestro.nn.pixels import Patches
from geomaestro.nn.transformer import Transformer
from geomaestro.samples import Batch

DECODER_DEPTH: Mapping[str, int] = {"tiny": 1, "small": 2, "base": 3, "large": 4}  # official code


class DecoderSpec(Strict):
    """The decoder's size; `mlp_ratio` multiplies the *encoder's* width, as in the official code."""

    dim: int = 512
    depth: int = Field(default=1, ge=0)
    heads: int = 16
    head_dim: int = 32
    mlp_ratio: float = 4

    @classmethod
    def of_size(cls, size: Literal["tiny", "small", "base", "large"]) -> Self:
        """The decoder that goes with an encoder of a named size."""
        return cls(depth=DECODER_DEPTH[size])


class MaeSpec(Strict):
    """All that defines a masked autoencoder but its weights."""

    encoder: EncoderSpec
    decoder: DecoderSpec = DecoderSpec()
    hiding: Hiding = Hiding()
    target: TargetNorm = "group"
    loss: LossName = "l1"

    @model_validator(mode="after")
    def _can_learn(self) -> Self:
        check_width(self.decoder.dim, self.encoder.date_channels)
        check_hiding(self)
        check_targets(self)
        return self


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The reconstruction of a strand's tokens at `index` (r k): `values` and `target` (r k p c), and `weight` (r k p),
    0 where a pixel does not count (None: all count). `mean` and `deviation` (r k 1 c) lead from targets to pixels.
    """

    strand: Strand
    index: Tensor
    values: Tensor
    target: Tensor
    weight: Tensor | None
    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What the autoencoder made of a batch: its loss, the loss of each sensor, and the rebuilt hidden patches; what was
    hidden, the batch as it was `laid` out, and the encoder's `visible` tokens (r v d), per sequence set.
    """

    loss: Tensor
    per_sensor: Mapping[str, Tensor]
    rebuilt: tuple[Rebuilt, ...]
    hidden: Mapping[str, Hidden]
    laid: Sequences
    visible: Mapping[str, Tensor]


class Mae(nn.Module):
    """Encoder, decoder per set of weights, one learned token per strand, one linear pixel layer per embedding."""

    def __init__(self, spec: MaeSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec.encoder)
        inner, dim = spec.encoder, spec.decoder.dim
        keys = self.encoder.stacks.keys()
        self.narrow = nn.ModuleDict({k: nn.Linear(inner.dim, dim) if inner.dim != dim else nn.Identity() for k in keys})
        self.stacks = nn.ModuleDict({k: self._stack() for k in keys})
        self.hidden_tokens = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(len(source.token_bands), dim)) for name, source in inner.inputs.items()}
        )
        self.pixels = nn.ModuleDict()
        for name, source in inner.inputs.items():
            key = inner.embedding_key(name)
            if key not in self.pixels:
                area = source.input.patch_px**2
                self.pixels[key] = nn.ModuleList(nn.Linear(dim, area * bands) for bands in source.token_bands)

    @property
    def idles(self) -> bool:
        """Whether some sequences are too short to hide anything of, so that their decoders never learn."""
        return any(shown_tokens(s.length, self.spec.hiding.ratio_of(s)) == s.length for s in _full_sets(self.spec))

    def _stack(self) -> Transformer:
        size = self.spec.decoder
        mlp_dim = round(self.spec.encoder.dim * size.mlp_ratio)
        return Transformer(size.dim, size.depth, heads=size.heads, head_dim=size.head_dim, mlp_dim=mlp_dim)

    def forward(
        self,
        batch: Batch[Tensor],
        keys: Tensor | None = None,
        hidden: Mapping[str, Tensor] | None = None,
        total: Tensor | None = None,
    ) -> Reconstruction:
        """Hide, encode, decode, compare.

        `keys` (b) int64 decide what is hidden; or `hidden` gives it, per sensor (b s n) with s = band groups x dates.
        `total` is the sum of the tallies of all parts of a larger batch: losses of the parts then add up to its loss.
        """
        laid = self.encoder.lay_out(batch)
        split = self._split(laid, keys, hidden)
        visible = self.encoder.encode_visible(laid, split)
        loss, per_sensor, rebuilt = self._score(laid, split, self.decode(laid, split, visible), total)
        return Reconstruction(loss, per_sensor, rebuilt, split, laid, visible)

    @torch.no_grad()
    def tally(self, batch: Batch[Tensor], keys: Tensor) -> Tensor:
        """What losses are means over, (sensor 3) float64: values to rebuild, present tokens, samples.

        Of use where a batch is computed in parts: the sum of the parts' tallies is `forward`'s `total`.
        """
        patches, sets = self.encoder.cut(batch, pixels=False)
        split = hide(sets, join_present(sets, patches), self.spec.hiding, keys)
        out = torch.zeros(len(self.spec.encoder.inputs), 3, dtype=torch.float64, device=keys.device)
        out[:, 2] = len(batch)
        for row, name in enumerate(self.spec.encoder.inputs):
            cut = patches.get(name)
            if cut is not None:
                tokens = cut.values[..., 0, 0]
                out[row, 1] = tokens.numel() if cut.present is None else cut.present.sum()
                strands = [(s, strand) for s in sets for strand in s.strands if strand.sensor == name]
                out[row, 0] = sum(_values_to_rebuild(s, strand, split[s.key], cut) for s, strand in strands)
        return out

    def _split(self, laid: Sequences, keys: Tensor | None, hidden: Mapping[str, Tensor] | None) -> dict[str, Hidden]:
        if hidden is None:
            if keys is None:
                raise ValueError("give keys to draw what is hidden, or hidden tokens")
            return hide(laid.sets, laid.present, self.spec.hiding, keys)
        joined = {s.key: s.join([strand_of(hidden[x.sensor], x) for x in s.strands]) for s in laid.sets}
        return {key: from_hidden(x, laid.present[key]) for key, x in joined.items()}

    def decode(self, laid: Sequences, hidden: Mapping[str, Hidden], visible: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Visible tokens (r v d) -> decoded tokens (r k d) of the hidden slots, per sequence set."""
        x, keep = {}, {}
        sets = sets_with_hidden(laid.sets, hidden)
        for s in sets:
            x[s.key] = self._decoder_input(laid, s, hidden[s.key], visible[s.key])
            keep[s.key] = torch.cat([index for _, index in hidden_slots(s, hidden[s.key])], dim=1)
        return run_stacks(self.stacks, sets, x, laid.present, keep)

    def _decoder_input(self, laid: Sequences, s: SequenceSet, hidden: Hidden, visible: Tensor) -> Tensor:
        """Visible tokens in their places, learned tokens everywhere else, codes added."""
        learned = torch.cat([self.hidden_tokens[x.sensor][x.band_group].expand(self._run(s, x), -1) for x in s.strands])
        base = learned.to(visible.dtype).expand(len(visible), -1, -1)
        narrowed = self.narrow[s.weights](visible)
        if hidden.visible is not None:
            narrowed = torch.where(
                hidden.visible[..., None], narrowed, pick(base, hidden.visible_index).to(narrowed.dtype)
            )
        x = place(narrowed.to(base.dtype), hidden.visible_index, base)
        return self.encoder.add_codes(x, s, laid.dates.get(s.key), None)

    @staticmethod
    def _run(sequences: SequenceSet, strand: Strand) -> int:
        return strand.places if sequences.per_date else strand.tokens

    def _score(
        self, laid: Sequences, hidden: Mapping[str, Hidden], decoded: Mapping[str, Tensor], total: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], tuple[Rebuilt, ...]]:
        rebuilt: list[Rebuilt] = []
        for s in sets_with_hidden(laid.sets, hidden):
            slots = hidden_slots(s, hidden[s.key])
            parts = decoded[s.key].split([index.shape[1] for _, index in slots], dim=1)
            for (strand, index), tokens in zip(slots, parts, strict=True):
                rebuilt.append(self._rebuild(laid, s, strand, index, tokens, hidden[s.key]))
        per_sensor, weights = self._losses(laid, rebuilt, total)
        nothing = sum(x.sum() for x in decoded.values()) * 0.0 + laid.tokens[laid.sets[0].key].float().sum() * 0.0
        whole = sum(weights.values(), nothing.detach())
        loss = sum((per_sensor[name] * weights[name] for name in per_sensor), nothing)
        loss = loss / torch.where(whole > 0, whole, 1.0)
        return loss, per_sensor, tuple(rebuilt)

    def _rebuild(
        self, laid: Sequences, s: SequenceSet, strand: Strand, index: Tensor, tokens: Tensor, hidden: Hidden
    ) -> Rebuilt:
        """Pixels of one strand's hidden patches beside their targets, in float32."""
        start = sequence_start(s, strand)
        source = self.spec.encoder.inputs[strand.sensor]
        cut = laid.patches[strand.sensor]
        layer = self.pixels[self.spec.encoder.embedding_key(strand.sensor)][strand.band_group]  # type: ignore[index]
        values = layer(tokens).float().unflatten(-1, (source.input.patch_px**2, strand.bands))
        patches = _pick_patches(s.per_date, cut.values, index - start)
        valid = None if cut.valid is None else _pick_patches(s.per_date, cut.valid[..., None], index - start)[..., 0]
        groups = target_groups(self.spec.target, source.sensor.target_groups)
        bands = slice(strand.first_band, strand.first_band + strand.bands)
        if groups:
            mean, deviation = (x[..., bands] for x in target_statistics(patches, groups, valid))
            target = (patches[..., bands] - mean) / deviation
        else:
            target = patches[..., bands]
            mean, deviation = torch.zeros_like(target[..., :1, :]), torch.ones_like(target[..., :1, :])
        alone = len(s.strands) == 1
        weight = _weight(hidden, index, valid, patches, exact=alone and hidden.visible is None)
        return Rebuilt(strand, index - start, values, target, weight, mean, deviation)

    def _losses(
        self, laid: Sequences, rebuilt: list[Rebuilt], total: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Mean error per sensor, and the sensors' weights: their number of places, over present tokens alone.

        With `total` (sensor 3) an error is divided by what the whole batch counts, of which this is a part.
        """
        errors: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for part in rebuilt:
            errors.setdefault(part.strand.sensor, []).append(
                error_sum(part.values, part.target, part.weight, self.spec.loss)
            )
        losses, weights = {}, {}
        for name, parts in errors.items():
            if total is None:
                count, tokens = torch.stack([n for _, n in parts]).sum(), _tokens_per_sample(laid.patches[name])
            else:
                row = total[list(self.spec.encoder.inputs).index(name)]
                count, tokens = row[0].float(), (row[1] / row[2]).float()
            losses[name] = torch.stack([e for e, _ in parts]).sum() / count.clamp(min=1)
            weights[name] = tokens * (count > 0)
        return losses, weights

    def images_of(self, result: Reconstruction, batch: Batch[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Rebuilt pixels (b t c h w) in the scaled values of the input, and which were hidden, per sensor; for figures.

        Visible pixels are zero here. With normalised targets, mean and deviation of the true patch are put back.
        """
        out: dict[str, tuple[Tensor, Tensor]] = {}
        for part in result.rebuilt:
            strand, source = part.strand, self.spec.encoder.inputs[part.strand.sensor]
            size, rows = source.input.patch_px, strand.grid[0]
            pixels = part.values * part.deviation + part.mean
            known = torch.ones_like(pixels[..., 0]) if part.weight is None else part.weight
            pixels = pixels * (known > 0)[..., None]
            shape = (len(batch), strand.dates, strand.places)
            images = unpatchify(_scatter(pixels, part.index, shape), size, rows)
            shown = unpatchify(_scatter(known[..., None], part.index, shape), size, rows) > 0
            old = out.get(strand.sensor)
            images, shown = images.detach(), shown.expand_as(images)
            joined = (images, shown) if old is None else (torch.cat([old[0], images], 2), torch.cat([old[1], shown], 2))
            out[strand.sensor] = joined
        return out


def strand_of(maps: Tensor, strand: Strand) -> Tensor:
    """Part of a sensor's maps (b s n ...) that belongs to a strand, (b t n ...)."""
    first = strand.band_group * strand.dates
    return maps[:, first : first + strand.dates]


def sequence_start(sequences: SequenceSet, strand: Strand) -> int:
    """Position of a strand's first token in its sequence."""
    if sequences.per_date:
        return 0
    return sum(s.tokens for s in sequences.strands[: sequences.strands.index(strand)])


def sets_with_hidden(sets: Sequence[SequenceSet], hidden: Mapping[str, Hidden]) -> list[SequenceSet]:
    """Sequence sets of which something can be hidden; the others (a single token) are context alone."""
    return [s for s in sets if hidden[s.key].visible_index.shape[1] < s.length]


def hidden_slots(sequences: SequenceSet, hidden: Hidden) -> list[tuple[Strand, Tensor]]:
    """Per strand, indices (r k) into the sequence that cover all its hidden tokens, k fixed by shapes alone.

    Where several strands share a sequence their numbers of hidden tokens differ by sample, so some slots may be
    visible tokens; they have no weight in the loss.
    """
    most = hidden.hidden.shape[1] if hidden.most is None else hidden.most
    out, start = [], 0
    for strand in sequences.strands:
        length = strand.places if sequences.per_date else strand.tokens
        mine = hidden.hidden[:, start : start + length].to(torch.int8)
        slots = mine.argsort(dim=1, descending=True, stable=True)[:, : min(length, most)]
        out.append((strand, slots + start))
        start += length
    return out


def _tokens_per_sample(cut: Patches) -> Tensor:
    """Present tokens of a sensor in a sample, on average over the batch."""
    tokens = cut.values.new_full((), cut.values.shape[1] * cut.values.shape[2], dtype=torch.float32)
    return tokens if cut.present is None else tokens * cut.present.float().mean()


def _values_to_rebuild(sequences: SequenceSet, strand: Strand, hidden: Hidden, cut: Patches) -> Tensor:
    """Number of values of a strand that are hidden and measured."""
    start = sequence_start(sequences, strand)
    length = strand.places if sequences.per_date else strand.tokens
    mine = hidden.hidden[:, start : start + length].reshape(-1, strand.dates, strand.places)
    pixels = cut.values.shape[-2] if cut.valid is None else cut.valid.sum(dim=-1)
    return (mine.double() * pixels).sum() * strand.bands


def _weight(hidden: Hidden, index: Tensor, valid: Tensor | None, patches: Tensor, *, exact: bool) -> Tensor | None:
    """(r k p), 0 where a slot is not hidden or a pixel not valid; None where every slot counts by construction."""
    if exact and valid is None:
        return None
    weight = hidden.hidden.gather(1, index)[..., None].to(patches.dtype)
    return weight.expand(patches.shape[:-1]) if valid is None else weight * valid


def _pick_patches(per_date: bool, patches: Tensor, index: Tensor) -> Tensor:
    """Patches (b t n p c) at token positions (r k) -> (r k p c)."""
    flat = patches.flatten(0, 1) if per_date else patches.flatten(1, 2)
    return pick(flat.flatten(2), index).unflatten(-1, patches.shape[-2:])


def _scatter(values: Tensor, index: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(r k p c) at positions (r k) -> patches (b t n p c), zero elsewhere."""
    samples, dates, places = shape
    base = values.new_zeros(len(values), samples * dates * places // len(values), values.shape[-2] * values.shape[-1])
    return place(values.flatten(2), index, base).reshape(samples, dates, places, *values.shape[-2:])


def _full_sets(spec: MaeSpec) -> list[SequenceSet]:
    inputs = spec.encoder.inputs
    grids = {name: source.input.grid for name, source in inputs.items()}
    strands = make_strands(inputs, grids, {name: source.input.dates for name, source in inputs.items()})
    return lay_out(strands, inputs, FUSIONS[spec.encoder.fusion])


def check_hiding(spec: MaeSpec) -> None:
    """Refuse a recipe under which nothing would be hidden.

    Raises:
        ValueError: naming the longest sequence and the remedy.
    """
    sets = _full_sets(spec)
    if all(shown_tokens(s.length, spec.hiding.ratio_of(s)) == s.length for s in sets):
        longest = max(sets, key=lambda s: s.length)
        raise ValueError(
            f"hiding.ratio {spec.hiding.ratio} hides nothing: with fusion {spec.encoder.fusion!r} the "
            f"longest sequence, of {longest.key!r}, has {longest.length} tokens; "
            "use smaller patches, more dates, or a fusion over dates"
        )


def check_targets(spec: MaeSpec) -> None:
    """Refuse normalised targets of a single value, which are zero whatever the pixel.

    Raises:
        ValueError: naming the sensor and the remedy.
    """
    for name, source in spec.encoder.inputs.items():
        groups = target_groups(spec.target, source.sensor.target_groups)
        if source.input.patch_px == 1 and 1 in groups:
            raise ValueError(
                f"sensor {name!r}: a band group of one band with 1-pixel patches has a normalised target of zero; "
                "set `target: none`, or give `groups` of two or more bands"
            )
