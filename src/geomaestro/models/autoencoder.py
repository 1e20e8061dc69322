"""What every masked autoencoder is to the rest of the library, and how hidden patches are compared with the true ones.

Axes: b sample, t date, n place, r sequence, l token, k hidden token, p pixel of a patch, c band, d width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geomaestro.config import Strict
from geomaestro.models.base import TokenEncoder, TokenEncoderSpec
from geomaestro.models.encoder import Sequences
from geomaestro.nn.fusion import SequenceSet, Strand
from geomaestro.nn.gather import pick, place
from geomaestro.nn.loss import LossName, TargetNorm, target_groups, target_statistics
from geomaestro.nn.masking import Hidden, Hiding, from_hidden, hide
from geomaestro.nn.patches import unpatchify
from geomaestro.nn.pixels import Patches
from geomaestro.samples import Batch
from geomaestro.sensors import ModelInput


class AutoencoderSpec(Strict):
    """What the rest of the library asks of an autoencoder's spec."""

    encoder: TokenEncoderSpec
    target: TargetNorm
    loss: LossName


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


class Autoencoder(nn.Module):
    """Hides tokens of a batch, rebuilds them, and compares."""

    spec: AutoencoderSpec
    encoder: TokenEncoder

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
        raise NotImplementedError

    def tally(self, batch: Batch[Tensor], keys: Tensor) -> Tensor:
        """What losses are means over, whole numbers in float64.

        Of use where a batch is computed in parts: the sum of the parts' tallies is `forward`'s `total`.
        """
        raise NotImplementedError

    @property
    def idles(self) -> bool:
        """Whether some parameters may never get a gradient."""
        raise NotImplementedError

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


def split_tokens(
    laid: Sequences, how: Hiding, keys: Tensor | None, hidden: Mapping[str, Tensor] | None
) -> dict[str, Hidden]:
    """What is hidden in each sequence set: drawn by `keys`, or as `hidden` (b s n) per sensor says.

    Raises:
        ValueError: if neither is given.
    """
    if hidden is None:
        if keys is None:
            raise ValueError("give keys to draw what is hidden, or hidden tokens")
        return hide(laid.sets, laid.present, how, keys)
    joined = {s.key: s.join([strand_of(hidden[x.sensor], x) for x in s.strands]) for s in laid.sets}
    return {key: from_hidden(x, laid.present[key]) for key, x in joined.items()}


def compare(
    s: SequenceSet,
    strand: Strand,
    index: Tensor,
    values: Tensor,
    *,
    cut: Patches,
    source: ModelInput,
    target_norm: TargetNorm,
    hidden: Hidden,
) -> Rebuilt:
    """Rebuilt pixels (r k p*c) of one strand at `index` (r k) of its sequence, beside their targets, in float32."""
    start = sequence_start(s, strand)
    values = values.float().unflatten(-1, (source.input.patch_px**2, strand.bands))
    patches = _pick_patches(s.per_date, cut.values, index - start)
    valid = None if cut.valid is None else _pick_patches(s.per_date, cut.valid[..., None], index - start)[..., 0]
    groups = target_groups(target_norm, source.sensor.target_groups)
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


def strand_of(maps: Tensor, strand: Strand) -> Tensor:
    """Part of a sensor's maps (b s n ...) that belongs to a strand, (b t n ...)."""
    first = strand.band_group * strand.dates
    return maps[:, first : first + strand.dates]


def sequence_start(sequences: SequenceSet, strand: Strand) -> int:
    """Position of a strand's first token in its sequence."""
    return sum(
        s.places if sequences.per_date else s.tokens for s in sequences.strands[: sequences.strands.index(strand)]
    )


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


def check_targets(spec: AutoencoderSpec) -> None:
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
