"""The masked autoencoder of SatMAE with band groups (Cong et al. 2022): encoder, decoder of hidden tokens, loss.

Axes: b sample, t date, g band group, n place, r sequence (one date of a sample), l token, v visible token, k hidden
token, p pixel of a patch, c band, d width.
"""

from collections.abc import Mapping
from typing import Self

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
    split_tokens,
)
from geomaestro.models.encoder import Sequences, join_present
from geomaestro.models.satmae_encoder import (
    DEVIATION,
    EPS,
    SatMaeEncoder,
    SatMaeEncoderSpec,
    Sizes,
    check_shares,
    code_table,
    make_stack,
    sequences_of,
    start_weights,
    with_class,
)
from geomaestro.nn.fusion import SequenceSet, Strand
from geomaestro.nn.gather import place
from geomaestro.nn.loss import LossName, TargetNorm, token_error_sum
from geomaestro.nn.masking import Hidden, Hiding, hide, shown_tokens
from geomaestro.nn.transformer import Style
from geomaestro.samples import Batch

SATMAE_DECODERS: Sizes = {
    "tiny": {"dim": 128, "depth": 2, "heads": 4, "channel_dim": 32},
    "small": {"dim": 256, "depth": 4, "heads": 8, "channel_dim": 64},
    "base": {"dim": 512, "depth": 8, "heads": 16, "channel_dim": 128},
    "large": {"dim": 512, "depth": 8, "heads": 16, "channel_dim": 128},
}


class SatMaeDecoderSpec(Strict):
    """The decoder's size; `mlp_ratio` multiplies its own width."""

    dim: int = 512
    depth: int = Field(default=8, ge=1)
    heads: int = Field(default=16, ge=1)
    mlp_ratio: float = Field(default=4, gt=0)
    channel_dim: int = Field(default=128, ge=2)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_shares("decoder.", self.dim, self.heads, self.channel_dim)
        return self


class SatMaeSpec(AutoencoderSpec):
    """All that defines the autoencoder but its weights.

    `ratio` of the tokens of a date is hidden, each by itself. `target` "patch" is the official `norm_pix_loss`.
    """

    encoder: SatMaeEncoderSpec
    decoder: SatMaeDecoderSpec = SatMaeDecoderSpec()
    ratio: float = Field(default=0.75, gt=0, lt=1)
    target: TargetNorm = "none"
    loss: LossName = "l2"

    @property
    def hiding(self) -> Hiding:
        """No structure, the ratio alone."""
        return Hiding(ratio=self.ratio, sensor=0, dates=0, places=0, bands=0)

    @model_validator(mode="after")
    def _can_learn(self) -> Self:
        check_targets(self)
        source = self.encoder.inputs[self.encoder.sensor]
        tokens = sequences_of(self.encoder, source.input.grid, 1).length
        if shown_tokens(tokens, self.ratio) == tokens:
            raise ValueError(f"hiding.ratio {self.ratio} hides none of {tokens} tokens; use smaller patches")
        return self


class SatMae(Autoencoder):
    """The encoder, a decoder with one hidden token for all, and one linear pixel layer per band group."""

    spec: SatMaeSpec
    encoder: SatMaeEncoder

    def __init__(self, spec: SatMaeSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = SatMaeEncoder(spec.encoder)
        size, source = spec.decoder, spec.encoder.inputs[spec.encoder.sensor]
        self.narrow = nn.Linear(spec.encoder.dim, size.dim)
        self.hidden_token = nn.Parameter(DEVIATION * torch.randn(1, size.dim))
        self.stack = make_stack(size.dim, size.depth, size.heads, size.mlp_ratio, Style(qkv_bias=True, eps=EPS))
        area = source.input.patch_px**2
        self.pixels = nn.ModuleList(nn.Linear(size.dim, area * bands) for bands in source.token_bands)
        for part in (self.narrow, self.stack, self.pixels):
            start_weights(part)

    @property
    def idles(self) -> bool:
        """Whether some parameters may never get a gradient: none."""
        return False

    def forward(
        self,
        batch: Batch[Tensor],
        keys: Tensor | None = None,
        hidden: Mapping[str, Tensor] | None = None,
        total: Tensor | None = None,
    ) -> Reconstruction:
        """Hide, encode, decode, compare; see `Autoencoder`. The loss is the mean of hidden tokens' mean errors."""
        laid = self.encoder.lay_out(batch)
        split = split_tokens(laid, self.spec.hiding, keys, hidden)
        (s,) = laid.sets
        visible = self.encoder.encode_visible(laid, split[s.key])
        rebuilt = self._rebuild(laid, split[s.key], visible)
        sums = [token_error_sum(x.values, x.target, x.weight, self.spec.loss) for x in rebuilt]
        count = torch.stack([n for _, n in sums]).sum() if total is None else total[0].float()
        loss = torch.stack([error for error, _ in sums]).sum() / count.clamp(min=1)
        return Reconstruction(loss, {s.key: loss}, rebuilt, split, laid, {s.key: visible[:, 1:]})

    @torch.no_grad()
    def tally(self, batch: Batch[Tensor], keys: Tensor) -> Tensor:
        """What the loss is a mean over, (1) float64: hidden tokens with a pixel to rebuild."""
        patches, s = self.encoder.cut(batch, pixels=False)
        present = join_present([s], patches)
        return hide([s], present, self.spec.hiding, keys)[s.key].hidden.sum(dtype=torch.float64)[None]

    def decode(self, s: SequenceSet, hidden: Hidden, visible: Tensor, present: Tensor | None, keep: Tensor) -> Tensor:
        """Visible tokens (r 1+v d) -> decoded tokens at the slots `keep` (r k), (r k d)."""
        size = self.spec.decoder
        narrowed = self.narrow(visible)
        base = self.hidden_token.to(narrowed.dtype).expand(len(visible), s.length, -1)
        shown = narrowed[:, 1:]
        if hidden.visible is not None:
            shown = torch.where(hidden.visible[..., None], shown, base[:, :1])
        x = torch.cat([narrowed[:, :1], place(shown, hidden.visible_index, base)], dim=1)
        x = x + code_table(len(s.strands), s.strands[0].grid, size.dim, size.channel_dim, x.device)
        out: Tensor = self.stack(x, with_class(present), keep + 1)
        return out

    def _rebuild(self, laid: Sequences, hidden: Hidden, visible: Tensor) -> tuple[Rebuilt, ...]:
        (s,) = laid.sets
        slots = hidden_slots(s, hidden)
        index = torch.cat([i for _, i in slots], dim=1)
        decoded = self.decode(s, hidden, visible, laid.present[s.key], index)
        parts = decoded.split([i.shape[1] for _, i in slots], dim=1)
        return tuple(
            self._compare(laid, s, strand, i, layer(tokens), hidden)
            for (strand, i), tokens, layer in zip(slots, parts, self.pixels, strict=True)
        )

    def _compare(
        self, laid: Sequences, s: SequenceSet, strand: Strand, index: Tensor, values: Tensor, hidden: Hidden
    ) -> Rebuilt:
        return compare(
            s,
            strand,
            index,
            values,
            cut=laid.patches[strand.sensor],
            source=self.spec.encoder.inputs[strand.sensor],
            target_norm=self.spec.target,
            hidden=hidden,
        )
