"""Choose which tokens the encoder may not see: structure first, then a correction to an exact share.

A boolean is named for what True means: `hidden` tokens are not seen and are to be rebuilt, `present` ones exist.
Axes: b sample, g band group, t date, n place, r sequence, l token of a sequence, v visible token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from geomaestro.config import Strict
from geomaestro.nn.draws import uniform
from geomaestro.nn.fusion import SequenceSet, Strand


class Hiding(Strict):
    """How much is hidden. `ratio` of every sequence set, of which first whole sensors (where their group has others),
    dates, places and band groups, each with its probability.

    `scale` s shows a share (1 - ratio) / (dates x band groups)^s instead of 1 - ratio. Source: paper, section 3; the
    probabilities are the official defaults.
    """

    ratio: float = Field(default=0.75, gt=0, lt=1)
    scale: float = Field(default=0.0, ge=0)
    sensor: float = Field(default=0.25, ge=0, le=1)
    dates: float = Field(default=0.25, ge=0, le=1)
    places: float = Field(default=0.25, ge=0, le=1)
    bands: float = Field(default=0.0, ge=0, le=1)

    def ratio_of(self, sequences: SequenceSet) -> float:
        """Share of a set's tokens that is hidden."""
        if sequences.per_date or self.scale == 0:
            return self.ratio  # not 1 - (1 - ratio), which differs by rounding
        return 1 - (1 - self.ratio) / sum(s.dates for s in sequences.strands) ** self.scale


@dataclass(frozen=True, slots=True)
class Hidden:
    """A split of sequences (r l) into seen tokens, hidden ones, and absent ones.

    `visible_index` (r v) lists the tokens the encoder gets, increasing. `visible` (r v) is False in slots that only
    fill up a sequence with fewer than v tokens to see; None means that all slots count.
    """

    hidden: Tensor
    visible_index: Tensor
    visible: Tensor | None
    most: int | None = None
    """No sequence hides more tokens; None: not known."""


def hide(
    sets: Sequence[SequenceSet], present: Mapping[str, Tensor | None], how: Hiding, keys: Tensor
) -> dict[str, Hidden]:
    """Draw what is hidden in each sequence set, by key of the set.

    `present` (r l) per set, None where all tokens exist; `keys` (b) int64 make the draw a pure function of the sample.
    Of the present tokens of a sequence exactly round(ratio * count) are hidden, but one always stays visible;
    structurally hidden tokens go first, and if these are more, the surplus is shown at random. No loop, no
    synchronisation of host and device.
    """
    structure = {} if sets[0].per_date else _structure(sets, how, keys)
    out = {}
    for number, sequences in enumerate(sets):
        count = sequences.length * (sequences.strands[0].dates if sequences.per_date else 1)
        noise = uniform(keys, count, stream=100 + number).reshape(-1, sequences.length)
        if structure:
            noise = noise + sequences.join([structure[s] for s in sequences.strands])
        out[sequences.key] = _select(noise, present[sequences.key], how.ratio_of(sequences))
    return out


def _select(noise: Tensor, present: Tensor | None, ratio: float) -> Hidden:
    """Show the tokens with the least noise."""
    length = noise.shape[1]
    shown = shown_tokens(length, ratio)
    if present is not None:
        noise = noise.masked_fill(~present, float("inf"))
    index = noise.argsort(dim=1, stable=True)[:, :shown].sort(dim=1).values
    if present is None:
        hidden = torch.ones_like(noise, dtype=torch.bool).scatter(1, index, False)
        return Hidden(hidden, index, None, length - shown)
    count = present.sum(dim=1, keepdim=True)
    to_show = (count - (ratio * count.double()).round().to(count.dtype)).clamp(min=1).minimum(count)
    rank = noise.argsort(dim=1, stable=True).argsort(dim=1)
    seen = present & (rank < to_show)
    return Hidden(present & ~seen, index, seen.gather(1, index), length - shown)  # fewer present, fewer hidden


def shown_tokens(length: int, ratio: float) -> int:
    """How many tokens of a sequence stay visible: what round(ratio * length) leaves, at least one."""
    return max(1, length - round(ratio * length))


def from_hidden(hidden: Tensor, present: Tensor | None) -> Hidden:
    """Make a split from given hidden tokens (r l); every sequence must hide the same number if nothing is absent.

    Raises:
        ValueError: if sequences differ in how much they show.
    """
    seen = ~hidden if present is None else present & ~hidden
    counts = seen.sum(dim=1)
    shown = int(counts.max())
    even = bool((counts == shown).all())
    if present is None and not even:
        raise ValueError(
            f"hidden tokens leave {int(counts.min())} to {shown} visible; all sequences need the same number"
        )
    index = seen.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :shown].sort(dim=1).values
    target = hidden if present is None else hidden & present
    most = max(1, int(target.sum(dim=1).max()))
    return Hidden(target, index, None if even else seen.gather(1, index), most)


def _structure(sets: Sequence[SequenceSet], how: Hiding, keys: Tensor) -> dict[Strand, Tensor]:
    """1.0 where a whole sensor, date, place or band group is hidden, else 0.0, (b t n) per strand."""
    out: dict[Strand, Tensor] = {}
    number = 0
    for sequences in sets:
        for sensor in dict.fromkeys(s.sensor for s in sequences.strands):
            strands = [s for s in sequences.strands if s.sensor == sensor]
            alone = len(strands) == len(sequences.strands)
            drawn = _structure_of_sensor(strands, how, keys, stream=1 + number, alone=alone)
            out.update(zip(strands, drawn.unbind(1), strict=True))
            number += 1
    return out


def _structure_of_sensor(strands: Sequence[Strand], how: Hiding, keys: Tensor, *, stream: int, alone: bool) -> Tensor:
    """(b g t n) float: which tokens of a sensor are hidden together."""
    groups, dates, places = len(strands), strands[0].dates, strands[0].places
    draws = uniform(keys, 1 + groups + dates + places, stream=stream)
    sensor, band, date, place = draws.split([1, groups, dates, places], dim=1)
    hidden = place[:, None, None, :] < how.places
    if not alone:
        hidden = hidden | (sensor[:, :, None, None] < how.sensor)
    if groups > 1:
        hidden = hidden | (band[:, :, None, None] < how.bands)
    if dates > 1:
        hidden = hidden | (date[:, None, :, None] < how.dates)
    return hidden.expand(-1, groups, dates, places).float()
