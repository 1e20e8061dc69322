"""Signs that a pretraining does not learn, though its loss is a number: measured at rows of metrics, judged from them.

`beyond_mean/SENSOR` is the share of the error of a constant per band that the reconstruction takes away: 0 where it is
no better than that, 1 where it is perfect. `likeness` is how alike the encoder's tokens of different samples are at the
same slot: 1 where they do not depend on the pixels. Warnings follow from the rows alone, so that a resumed run ends
with those of an uninterrupted one.

Axes: r sequence, l slot of a sequence, v visible token, k hidden token, p pixel of a patch, c band, d width.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from geomaestro.learn.log import JsonRows, console
from geomaestro.learn.recipe import PretrainRecipe
from geomaestro.models.autoencoder import Rebuilt, Reconstruction
from geomaestro.nn.gather import pick
from geomaestro.nn.loss import LossName, error_sum
from geomaestro.nn.masking import Hidden
from geomaestro.runs import read_rows

SUMS = "sums/"  # before the names of what is added over parts and ranks, and never stands in a row
BEYOND, LIKENESS = "beyond_mean/", "likeness"
MOST_VALUES = 4096  # assumed; values of a band that its median is taken from
FLAT = 1e-9  # assumed; directions of date codes with less than this share of the largest variance are rounding
DEAD = 0.02  # assumed: a fiftieth of the error of a constant is within what a batch varies by
ALIKE = 0.99
EXPLODED = 100.0  # times the median of the rows before
LAST_ROWS, FEWEST_ROWS, MEDIAN_ROWS = 10, 10, 100  # assumed


@torch.no_grad()
def sums_of(result: Reconstruction, loss: LossName) -> dict[str, Tensor]:
    """What the signs are made of, to be added over parts and ranks, float32."""
    sums = {
        f"{SUMS}{what}/{name}": result.loss.new_zeros(())
        for what in ("error", "constant")
        for name in result.per_sensor
    }
    for part in result.rebuilt:
        name = part.strand.sensor
        sums[f"{SUMS}error/{name}"] += error_sum(part.values, part.target, part.weight, loss)[0]
        sums[f"{SUMS}constant/{name}"] += error_sum(_constant(part, loss), part.target, part.weight, loss)[0]
    spreads = [_spread(x, result.hidden[key], result.laid.dates.get(key)) for key, x in result.visible.items()]
    spread = torch.stack(spreads).sum(dim=0).float()
    names = ("content", "freedom", "energy", "tokens")
    return sums | {f"{SUMS}{name}": value for name, value in zip(names, spread.unbind(), strict=True)}


def _constant(part: Rebuilt, loss: LossName) -> Tensor:
    """The constant per band (c) with the least error on this part of a batch: its mean, or its median for "l1".

    Targets that were normalised in groups of bands keep differences between bands, so zero would be too easily beaten.
    """
    target = part.target.flatten(0, 2)
    weight = None if part.weight is None else part.weight.flatten()[:, None]
    if loss == "l2":
        count = len(target) if weight is None else weight.sum()
        total = (target if weight is None else target * weight).sum(dim=0)
        return total / max(count, 1) if weight is None else total / weight.sum().clamp(min=1)
    every = max(1, len(target) // MOST_VALUES)
    some = target[::every] if weight is None else target[::every].where(weight[::every] > 0, math.nan)
    return some.nanmedian(dim=0).values.nan_to_num() if len(some) else target.new_zeros(target.shape[-1])


def _spread(x: Tensor, hidden: Hidden, dates: Tensor | None) -> Tensor:
    """Of visible tokens (r v d): squared deviations from the mean of their slot, their degrees of freedom, squares of
    tokens, and number of tokens, (4) float64.

    A slot has the same codes of place, sensor and band in all rows. What codes of date explain of the deviations, by
    least squares, is taken off; the rest is due to pixels.
    """
    count, width = hidden.hidden.shape[1], x.shape[-1]
    slot = hidden.visible_index.flatten()
    known = torch.ones_like(slot, dtype=torch.float32) if hidden.visible is None else hidden.visible.flatten().float()
    tokens = x.float() if dates is None else torch.cat([x.float(), pick(dates, hidden.visible_index).float()], dim=-1)
    flat = tokens.flatten(0, 1) * known[:, None]
    seen = known.new_zeros(count).index_add_(0, slot, known)
    means = flat.new_zeros(count, flat.shape[1]).index_add_(0, slot, flat) / seen.clamp(min=1)[:, None]
    deviation, codes = ((flat - means[slot]) * known[:, None]).split([width, flat.shape[1] - width], dim=1)
    variances, directions = torch.linalg.eigh((codes.T @ codes).double())
    kept = variances > FLAT * variances.amax().clamp(min=FLAT) if len(variances) else variances > 0
    along = (directions.T @ (codes.T @ deviation).double()).square().sum(dim=1)
    content = deviation.square().sum().double() - (along / variances.where(kept, 1.0)).where(kept, 0.0).sum()
    freedom = (seen - 1).clamp(min=0).sum() - kept.sum()
    return torch.stack([content, freedom.double(), flat[:, :width].square().sum().double(), known.sum().double()])


def in_row(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Losses and sums of a step as a row has them: sums become signs, left out where nothing can be said."""
    numbers = {name: value.item() for name, value in losses.items()}
    row = {name: value for name, value in numbers.items() if not name.startswith(SUMS)}
    sums = {name.removeprefix(SUMS): value for name, value in numbers.items() if name.startswith(SUMS)}
    for name, constant in sums.items():
        if name.startswith("constant/") and constant > 0:
            sensor = name.removeprefix("constant/")
            row[f"{BEYOND}{sensor}"] = 1 - sums[f"error/{sensor}"] / constant
    if sums.get("freedom", 0) >= 1 and sums["energy"] > 0:
        row[LIKENESS] = 1 - (sums["content"] / sums["freedom"]) / (sums["energy"] / sums["tokens"])
    return row


class Signs:
    """Judges the rows of a pretraining of `total` steps as they come."""

    def __init__(self, recipe: PretrainRecipe, total: int, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._warm = recipe.warmup * total
        self._rows: deque[Mapping[str, Any]] = deque(maxlen=MEDIAN_ROWS)
        self._found: dict[str, str] = {}
        self._standing: set[str] = set()
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> list[str]:
        """Take a row; gives the warnings that are new."""
        now = {**self._explosion(row)}
        self._rows.append(row)
        if row["step"] > self._warm:
            now |= {**self._dead(row), **self._collapse(row)}
        new = {sign: f"step {row['step']}: {text}" for sign, text in now.items() if sign not in self._found}
        self._found |= new
        self._standing = set(now)
        return list(new.values())

    def at_end(self) -> list[str]:
        """All warnings, each once; those of a state that did not last say so."""
        lasting = self._standing | {"explosion"}
        return [text if sign in lasting else f"{text}. It did not last" for sign, text in self._found.items()]

    def _last(self, key: str) -> list[float]:
        """The last values of a key after the warm-up, if there are enough."""
        values = [row[key] for row in self._rows if key in row and row["step"] > self._warm][-LAST_ROWS:]
        return values if len(values) == LAST_ROWS else []

    def _dead(self, row: Mapping[str, Any]) -> dict[str, str]:
        found = {}
        for key in (key for key in row if key.startswith(BEYOND)):
            if (last := self._last(key)) and fmean(last) <= DEAD:  # a mean: rows of small batches scatter
                sensor = key.removeprefix(BEYOND)
                found[key] = (
                    f"sensor {sensor!r} is rebuilt no better than by its mean ({key} is {fmean(last):.3f}), so nothing "
                    "is learned from it; check its scaling, nodata and patch_px, train longer, or leave it out with "
                    "`data.sensors`"
                )
        return found

    def _collapse(self, row: Mapping[str, Any]) -> dict[str, str]:
        last = self._last(LIKENESS)
        if not last or min(last) < ALIKE:
            return {}
        return {
            LIKENESS: f"the encoder's tokens hardly depend on the pixels ({LIKENESS} is {last[-1]:.4f}: samples differ "
            "almost only in their codes of place and date); lower the learning rate (`pretrain.peak_lr`), lengthen "
            "`pretrain.warmup`, or check the scaling of the sensors"
        }

    def _explosion(self, row: Mapping[str, Any]) -> dict[str, str]:
        norms = [earlier["grad_norm"] for earlier in self._rows]
        if len(norms) < FEWEST_ROWS or not row["grad_norm"] > EXPLODED * median(norms):
            return {}
        return {
            "explosion": f"the gradient norm {row['grad_norm']:.3g} is more than {EXPLODED:.0f} times its median before"
            f" ({median(norms):.3g}); lower the learning rate (`pretrain.peak_lr`), or set `pretrain.clip_norm`"
        }


class JudgedRows(JsonRows):
    """Rows of a pretraining; a warning is printed when a row is the first to show it."""

    def __init__(self, path: Path, recipe: PretrainRecipe, total: int, *, tensorboard: bool = False) -> None:
        super().__init__(path, tensorboard=tensorboard)
        self._signs = Signs(recipe, total, read_rows(path))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        super().add(row)
        for text in self._signs.add(row):
            console.print(f"warning: {text}", style="yellow", markup=False)


def warnings_of(folder: Path, recipe: PretrainRecipe) -> list[str]:
    """Warnings of a finished pretraining in `folder`, from its rows."""
    rows = read_rows(folder / "metrics.jsonl")
    return Signs(recipe, rows[-1]["step"] if rows else 0, rows).at_end()
