"""Which tokens meet in one attention sequence, and which weights they meet.

The modes are rows of a table, so no other module branches on a mode's name. The unit is the strand: the tokens of one
band group of one sensor. Axes: b sample, t date, n place, r sequence, l token of a sequence, d width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

from geomaestro.sensors import ModelInput

FusionName = Literal["shared", "monotemp", "mod", "group", "inter-group"]


@dataclass(frozen=True, slots=True)
class Fusion:
    """One way to lay tokens out in sequences."""

    per_date: bool
    """True: every date of a strand is its own sequence. False: all dates share one."""
    sequence: Literal["sensor", "group"]
    """A sequence holds one sensor, or all sensors of a group of similar ones."""
    weights: Literal["all", "sensor", "group"]
    joint_blocks: int
    """Number of last encoder blocks that see all tokens of a sample at once."""


FUSIONS: Mapping[str, Fusion] = {  # paper, figure 2; official code: fusion_mode and inter_depth
    "shared": Fusion(per_date=True, sequence="sensor", weights="all", joint_blocks=0),
    "monotemp": Fusion(per_date=True, sequence="sensor", weights="sensor", joint_blocks=0),
    "mod": Fusion(per_date=False, sequence="sensor", weights="sensor", joint_blocks=0),
    "group": Fusion(per_date=False, sequence="group", weights="group", joint_blocks=0),
    "inter-group": Fusion(per_date=False, sequence="group", weights="group", joint_blocks=3),
}


@dataclass(frozen=True, slots=True)
class Strand:
    """The tokens of one band group of one sensor: `dates` maps of `grid` = (rows, cols)."""

    sensor: str
    band_group: int
    first_band: int
    bands: int
    dates: int
    grid: tuple[int, int]

    @property
    def places(self) -> int:
        """Tokens of one date."""
        return prod(self.grid)

    @property
    def tokens(self) -> int:
        """Tokens of one sample."""
        return self.dates * self.places


@dataclass(frozen=True, slots=True)
class SequenceSet:
    """Strands that share sequences, the key of the weights they meet, and how sequences are cut: where every date is a
    sequence, strands that share it are of one sensor.
    """

    key: str
    weights: str
    strands: tuple[Strand, ...]
    per_date: bool

    @property
    def length(self) -> int:
        """Tokens l of one sequence."""
        return sum(s.places if self.per_date else s.tokens for s in self.strands)

    def join(self, tokens: Sequence[Tensor]) -> Tensor:
        """One (b t n ...) per strand -> (r l ...); r = b t if every date is a sequence, else r = b."""
        if self.per_date:
            return (torch.cat(list(tokens), dim=2) if len(tokens) > 1 else tokens[0]).flatten(0, 1)
        return torch.cat([x.flatten(1, 2) for x in tokens], dim=1) if len(tokens) > 1 else tokens[0].flatten(1, 2)

    def split(self, sequences: Tensor) -> list[Tensor]:
        """Undo `join`."""
        if self.per_date:
            maps = sequences.unflatten(0, (-1, self.strands[0].dates))
            return list(maps.split([s.places for s in self.strands], dim=2))
        parts = sequences.split([s.tokens for s in self.strands], dim=1)
        return [x.unflatten(1, (s.dates, s.places)) for x, s in zip(parts, self.strands, strict=True)]


def fusion_group(sensor: str, source: ModelInput) -> str:
    """The group of similar sensors that a sensor belongs to; its own name if none is given."""
    return source.input.fusion_group or sensor


def make_strands(
    inputs: Mapping[str, ModelInput], grids: Mapping[str, tuple[int, int]], dates: Mapping[str, int]
) -> list[Strand]:
    """All strands of the sensors in `grids`, in the order of `inputs`; `dates` are those of the batch."""
    strands = []
    for sensor in (s for s in inputs if s in grids):
        first = 0
        for group, bands in enumerate(inputs[sensor].token_bands):
            strands.append(Strand(sensor, group, first, bands, dates[sensor], grids[sensor]))
            first += bands
    return strands


def weights_key(sensor: str, source: ModelInput, fusion: Fusion) -> str:
    """Name of the weights that a sensor's tokens meet; "shared" where there is one set for all (official code)."""
    return {"all": "shared", "sensor": sensor, "group": fusion_group(sensor, source)}[fusion.weights]


def lay_out(strands: Sequence[Strand], inputs: Mapping[str, ModelInput], fusion: Fusion) -> list[SequenceSet]:
    """Distribute strands over sequence sets. Where each date is a sequence, so is each of its band groups, as in the
    official code; but of a single place, where a token would be alone, the band groups of a date share one.
    """
    members: dict[str, list[Strand]] = {}
    for strand in strands:
        key = fusion_group(strand.sensor, inputs[strand.sensor]) if fusion.sequence == "group" else strand.sensor
        apart = fusion.per_date and strand.places > 1
        members.setdefault(f"{key}.{strand.band_group}" if apart else key, []).append(strand)
    return [
        SequenceSet(key, weights_key(group[0].sensor, inputs[group[0].sensor], fusion), tuple(group), fusion.per_date)
        for key, group in members.items()
    ]
