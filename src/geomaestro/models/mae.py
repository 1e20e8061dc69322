"""The MAESTRO masked autoencoder: an encoder of visible tokens, a decoder of hidden ones, and their loss.

Axes: b sample, t date, n place, r sequence, l token, k hidden token, p pixel of a patch, c band, d width.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from geomaestro.config import Strict
from geomaestro.models.autoencoder import (
    Autoencoder,
    AutoencoderSpec,
    Rebuilt,
    Reconstruction,
    check_targets,
    compare,
    hidden_slots,
    sequence_start,
    split_tokens,
)
from geomaestro.models.encoder import Encoder, EncoderSpec, Sequences, check_width, join_present, run_stacks
from geomaestro.nn.fusion import FUSIONS, SequenceSet, Strand, lay_out, make_strands
from geomaestro.nn.gather import pick, place
from geomaestro.nn.loss import LossName, TargetNorm, error_sum
from geomaestro.nn.masking import Hidden, Hiding, hide, shown_tokens
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


class MaeSpec(AutoencoderSpec):
    """All that defines a MAESTRO autoencoder but its weights."""

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


class Mae(Autoencoder):
    """Encoder, decoder per set of weights, one learned token per strand, one linear pixel layer per embedding."""

    spec: MaeSpec
    encoder: Encoder

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
        """Hide, encode, decode, compare; see `Autoencoder`."""
        laid = self.encoder.lay_out(batch)
        split = split_tokens(laid, self.spec.hiding, keys, hidden)
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
        """Pixels of one strand's hidden patches beside their targets."""
        layer = self.pixels[self.spec.encoder.embedding_key(strand.sensor)][strand.band_group]  # type: ignore[index]
        return compare(
            s,
            strand,
            index,
            layer(tokens),
            cut=laid.patches[strand.sensor],
            source=self.spec.encoder.inputs[strand.sensor],
            target_norm=self.spec.target,
            hidden=hidden,
        )

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


def sets_with_hidden(sets: Sequence[SequenceSet], hidden: Mapping[str, Hidden]) -> list[SequenceSet]:
    """Sequence sets of which something can be hidden; the others (a single token) are context alone."""
    return [s for s in sets if hidden[s.key].visible_index.shape[1] < s.length]


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
