"""The MAESTRO encoder: sensors in, tokens out. It knows nothing of datasets or tasks.

Axes: b sample, t date, s token map (band group x date), n place, r sequence, l token of a sequence, d width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import lcm
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from geomaestro.models.base import TokenEncoder, TokenEncoderSpec, Tokens, known_tokens
from geomaestro.nn.fusion import FUSIONS, Fusion, FusionName, SequenceSet, Strand, lay_out, make_strands, weights_key
from geomaestro.nn.gather import pick
from geomaestro.nn.masking import Hidden
from geomaestro.nn.patches import Tokeniser, TokenNorm
from geomaestro.nn.pixels import Patches
from geomaestro.nn.positions import DATE_CHANNELS, date_codes, place_codes
from geomaestro.nn.transformer import Transformer
from geomaestro.samples import Batch
from geomaestro.sensors import ModelInput

SizeName = Literal["tiny", "small", "base", "large"]
SIZES: Mapping[str, Mapping[str, float]] = {  # official code, where base is called medium
    "tiny": {"dim": 192, "depth": 12, "heads": 3, "head_dim": 64, "mlp_ratio": 2},
    "small": {"dim": 384, "depth": 12, "heads": 6, "head_dim": 64, "mlp_ratio": 2},
    "base": {"dim": 768, "depth": 12, "heads": 12, "head_dim": 64, "mlp_ratio": 4},
    "large": {"dim": 1024, "depth": 24, "heads": 16, "head_dim": 64, "mlp_ratio": 4},
}


def check_width(dim: int, date_channels: int) -> None:
    """Refuse a width that leaves no room for the codes of place (see `sincos_grid`).

    Raises:
        ValueError: naming both.
    """
    if dim % 4 or date_channels % 4 or dim - date_channels < 8:
        raise ValueError(f"dim {dim} with date_channels {date_channels}: need multiples of 4, and 8 or more left over")


class EncoderSpec(TokenEncoderSpec):
    """All that defines an encoder but its weights.

    `joint_blocks` is the number of last blocks over all tokens of a sample; None takes it from the fusion mode.
    `position_grid` is the common ground grid (rows, cols) that `size_px` of every sensor covers; None takes the least
    common multiple of the sensors' grids. `token_norm` "date" is needed by published weights; "token" hides truly.
    """

    heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    mlp_ratio: float = Field(gt=0)
    fusion: FusionName = "inter-group"
    joint_blocks: int | None = Field(default=None, ge=0)
    position_grid: tuple[int, int] | None = None
    date_channels: int = DATE_CHANNELS
    use_dates: bool = True
    token_norm: TokenNorm = "date"

    @classmethod
    def of_size(cls, size: SizeName, inputs: Mapping[str, ModelInput], **settings: Any) -> Self:
        """An encoder of a named size; other settings by name."""
        return cls(inputs=dict(inputs), **{**SIZES[size], **settings})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if FUSIONS[self.fusion].per_date and self.joint_blocks:
            raise ValueError(f"joint_blocks needs fusion mod, group or inter-group, not {self.fusion!r}")
        if self.joint >= self.depth and self.joint:
            raise ValueError(f"joint_blocks {self.joint} must be fewer than depth {self.depth}")
        if self.dim % 8:
            raise ValueError(f"dim {self.dim} must be a multiple of 8")
        check_width(self.dim, self.date_channels)
        for name, source in self.inputs.items():
            if "." in name:
                raise ValueError(f"inputs: the name {name!r} must not hold a dot")
            self._check_sharing(name, source)
        return self

    def _check_sharing(self, name: str, source: ModelInput) -> None:
        owner = source.input.shares_embedding
        if owner is None:
            return
        other = next(s for n, s in self.inputs.items() if owner in (n, s.input.shares_embedding))
        if (other.token_bands, other.input.patch_px) != (source.token_bands, source.input.patch_px):
            raise ValueError(f"inputs.{name} shares the embedding of {owner}, but their bands or patch_px differ")

    @property
    def joint(self) -> int:
        """Number of last blocks over all tokens of a sample."""
        return FUSIONS[self.fusion].joint_blocks if self.joint_blocks is None else self.joint_blocks

    def embedding_key(self, sensor: str) -> str:
        """Name of the tokeniser and pixel layer of a sensor."""
        return self.inputs[sensor].input.shares_embedding or sensor

    def ground_grid(self, sensor: str, grid: tuple[int, int]) -> tuple[int, int]:
        """The common ground grid under a sensor's grid of patches, larger or smaller where its images are."""
        own = self.inputs[sensor].input.grid
        base = self.position_grid
        if base is None:
            grids = [source.input.grid for source in self.inputs.values()]
            base = lcm(*(g[0] for g in grids)), lcm(*(g[1] for g in grids))
        return max(1, round(base[0] * grid[0] / own[0])), max(1, round(base[1] * grid[1] / own[1]))


@dataclass(frozen=True, slots=True)
class Sequences:
    """A batch laid out for attention: per sequence set tokens (r l d), date codes (r l 8) and presence (r l)."""

    sets: Sequence[SequenceSet]
    tokens: Mapping[str, Tensor]
    dates: Mapping[str, Tensor]
    present: Mapping[str, Tensor | None]
    patches: Mapping[str, Patches]


class Encoder(TokenEncoder):
    """Tokenisers, one stack of blocks per set of weights, and joint blocks over everything."""

    spec: EncoderSpec

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.fusion: Fusion = FUSIONS[spec.fusion]
        self.tokenisers = nn.ModuleDict()
        for name, source in spec.inputs.items():
            key = spec.embedding_key(name)
            if key not in self.tokenisers:
                self.tokenisers[key] = Tokeniser(source.token_bands, source.input.patch_px, spec.dim, spec.token_norm)
        keys = dict.fromkeys(weights_key(name, source, self.fusion) for name, source in spec.inputs.items())
        self.stacks = nn.ModuleDict({key: self._stack(spec.depth - spec.joint) for key in keys})
        self.joint = self._stack(spec.joint) if spec.joint else None

    def _stack(self, depth: int) -> Transformer:
        spec = self.spec
        mlp_dim = round(spec.dim * spec.mlp_ratio)
        return Transformer(spec.dim, depth, heads=spec.heads, head_dim=spec.head_dim, mlp_dim=mlp_dim)

    def forward(self, batch: Batch[Tensor]) -> Tokens:
        """Encode every token of the batch's sensors, as stored, that this encoder knows."""
        laid = self.lay_out(batch)
        x = {s.key: self._coded(laid, s, None) for s in laid.sets}
        x = self.attend(laid.sets, x, laid.present)
        return gather_maps(laid, x)

    def lay_out(self, batch: Batch[Tensor]) -> Sequences:
        """Pixels -> tokens without codes, in the sequences of the fusion mode."""
        patches, sets = self.cut(batch)
        tokens: dict[Strand, Tensor] = {}
        for name, cut in patches.items():
            mine = [strand for s in sets for strand in s.strands if strand.sensor == name]
            tokens.update(
                zip(mine, self.tokenisers[self.spec.embedding_key(name)](cut.values, cut.present), strict=True)
            )
        return Sequences(
            sets=sets,
            tokens={s.key: s.join([tokens[strand] for strand in s.strands]) for s in sets},
            dates={s.key: self._dates(s, batch) for s in sets} if self.spec.use_dates else {},
            present=join_present(sets, patches),
            patches=patches,
        )

    def cut(self, batch: Batch[Tensor], *, pixels: bool = True) -> tuple[dict[str, Patches], list[SequenceSet]]:
        """Pixels -> patches per sensor, and the sequences that their tokens will be laid out in; without `pixels` the
        patches only say what there is.
        """
        patches = {name: self.patches_of(batch, name, pixels=pixels) for name in self.known_sensors(batch)}
        dates = {name: batch.images[name].shape[1] for name in patches}
        strands = make_strands(self.spec.inputs, {name: p.grid for name, p in patches.items()}, dates)
        return patches, lay_out(strands, self.spec.inputs, self.fusion)

    def _dates(self, sequences: SequenceSet, batch: Batch[Tensor]) -> Tensor:
        parts = []
        for strand in sequences.strands:
            codes = date_codes(batch.dates[strand.sensor], batch.reference_date, self.spec.date_channels)
            parts.append(codes[:, :, None].expand(-1, -1, strand.places, -1))
        return sequences.join(parts)

    def _coded(self, laid: Sequences, sequences: SequenceSet, index: Tensor | None) -> Tensor:
        """Tokens with their codes of place and date; only those at `index` (r v) if given."""
        x = laid.tokens[sequences.key]
        x = x if index is None else pick(x, index)
        return self.add_codes(x, sequences, laid.dates.get(sequences.key), index)

    def add_codes(self, x: Tensor, sequences: SequenceSet, dates: Tensor | None, index: Tensor | None) -> Tensor:
        """Add codes of place and date to tokens (r l d) of any width, or to those at `index`."""
        table = code_table(sequences, self.spec, x.shape[-1], x.device)
        x = x + (table if index is None else table[index])
        if dates is None:
            return x
        dates = dates if index is None else pick(dates, index)
        width = x.shape[-1] - dates.shape[-1]
        return torch.cat([x[..., :width], x[..., width:] + dates], dim=-1)

    def attend(
        self, sets: Sequence[SequenceSet], x: Mapping[str, Tensor], attendable: Mapping[str, Tensor | None]
    ) -> dict[str, Tensor]:
        """Run every sequence through the blocks of its weights, then all of a sample through the joint ones."""
        out = run_stacks(self.stacks, sets, x, attendable)
        if self.joint is None:
            return out
        lengths = [out[s.key].shape[1] for s in sets]
        everything = torch.cat([out[s.key] for s in sets], dim=1)
        allowed = _join_attendable([attendable[s.key] for s in sets], [out[s.key] for s in sets])
        parts = self.joint(everything, allowed).split(lengths, dim=1)
        return {s.key: part for s, part in zip(sets, parts, strict=True)}

    def encode_visible(self, laid: Sequences, hidden: Mapping[str, Hidden]) -> dict[str, Tensor]:
        """Encode the tokens that are not hidden, (r v d) per sequence set."""
        x = {s.key: self._coded(laid, s, hidden[s.key].visible_index) for s in laid.sets}
        return self.attend(laid.sets, x, {key: h.visible for key, h in hidden.items()})


def run_stacks(
    stacks: nn.ModuleDict,
    sets: Sequence[SequenceSet],
    x: Mapping[str, Tensor],
    attendable: Mapping[str, Tensor | None],
    keep: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Each sequence set through the blocks of its weights; sets of equal shape that share weights go in one call."""
    together: dict[tuple[str, int, bool, int], list[str]] = {}
    for s in sets:
        kept = -1 if keep is None else keep[s.key].shape[1]
        together.setdefault((s.weights, x[s.key].shape[1], attendable[s.key] is None, kept), []).append(s.key)
    out: dict[str, Tensor] = {}
    for (weights, _, free, _), keys in together.items():
        rows = [len(x[key]) for key in keys]
        allowed = None if free else _some(torch.cat([attendable[key] for key in keys]))  # type: ignore[misc]
        kept_index = None if keep is None else torch.cat([keep[key] for key in keys])
        done = stacks[weights](torch.cat([x[key] for key in keys]), allowed, kept_index)
        out.update(zip(keys, done.split(rows), strict=True))
    return out


def _some(attendable: Tensor) -> Tensor:
    """A sequence with nothing to attend to attends to everything: its answer is never used, but must not be NaN."""
    return attendable | ~attendable.any(dim=-1, keepdim=True)


def _join_attendable(attendable: Sequence[Tensor | None], tokens: Sequence[Tensor]) -> Tensor | None:
    if all(a is None for a in attendable):
        return None
    return _some(torch.cat([known_tokens(a, x) for a, x in zip(attendable, tokens, strict=True)], dim=1))


def join_present(sets: Sequence[SequenceSet], patches: Mapping[str, Patches]) -> dict[str, Tensor | None]:
    """Which tokens exist, (r l) per sequence set, None where all do."""
    return {s.key: _join_present(s, patches) for s in sets}


def _join_present(sequences: SequenceSet, patches: Mapping[str, Patches]) -> Tensor | None:
    cuts = [patches[s.sensor] for s in sequences.strands]
    if all(cut.present is None for cut in cuts):
        return None
    return sequences.join([known_tokens(cut.present, cut.values[..., 0]) for cut in cuts])


def gather_maps(laid: Sequences, x: Mapping[str, Tensor]) -> Tokens:
    """Sequences (r l d) back to maps (b s n d) per sensor."""
    parts: dict[str, list[Tensor]] = {}
    for sequences in laid.sets:
        for strand, tokens in zip(sequences.strands, sequences.split(x[sequences.key]), strict=True):
            parts.setdefault(strand.sensor, []).append(tokens)
    names = list(laid.patches)
    maps = {name: torch.cat(parts[name], dim=1) if len(parts[name]) > 1 else parts[name][0] for name in names}
    present = {name: _repeat(laid.patches[name].present, len(parts[name])) for name in names}
    return Tokens(maps, {name: laid.patches[name].grid for name in names}, present)


def _repeat(present: Tensor | None, groups: int) -> Tensor | None:
    return None if present is None else present.repeat(1, groups, 1)


def code_table(sequences: SequenceSet, spec: EncoderSpec, dim: int, device: torch.device) -> Tensor:
    """Codes of place (l d) of a sequence's tokens: a constant, computed once per process."""
    bases = tuple(spec.ground_grid(strand.sensor, strand.grid) for strand in sequences.strands)
    return _code_table(sequences, bases, dim, spec.date_channels, device)


@lru_cache(maxsize=128)
def _code_table(
    sequences: SequenceSet, bases: tuple[tuple[int, int], ...], dim: int, date_channels: int, device: torch.device
) -> Tensor:
    parts = []
    with torch.inference_mode(False), torch.no_grad():
        for strand, base in zip(sequences.strands, bases, strict=True):
            codes = place_codes(base, strand.grid, dim, date_channels)
            parts.append(codes if sequences.per_date else codes.repeat(strand.dates, 1))
        return torch.cat(parts).to(device)
