"""What tests/test_ranks.py and tests/test_interruption.py launch with torchrun: many trainings in one start.

Each goes to a folder of its own. Beside what a training writes, rank r leaves `rank{r}.json` there: the samples it
read, the error it ended with, and what else is of interest.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geomaestro.data.loader import names_of
from geomaestro.data.reading import Dataset, Visit
from geomaestro.errors import DataError, GeomaestroError
from geomaestro.learn.checkpoint import load_state, newest
from geomaestro.learn.distributed import ALONE, Ranks, join_ranks
from geomaestro.learn.optim import make_adamw
from geomaestro.learn.parallel import gathered, spread
from geomaestro.learn.pretrain import pretrain
from geomaestro.learn.recipe import PretrainRecipe
from geomaestro.learn.run import Run, run_recipe
from geomaestro.learn.stopping import Interrupted
from geomaestro.models.mae import Mae
from geomaestro.samples import Sample
from tests.worlds import earth_values, make_recipe, open_split

SEED, STEPS, BATCH = 3, 4, 8
MODES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp in parts": {"accumulate": 2},
    "fsdp": {"parallel": "fsdp"},
    "fsdp in parts": {"parallel": "fsdp", "accumulate": 2},
    "fsdp bf16": {"parallel": "fsdp", "precision": "bf16"},
}


class Trapped:
    """A dataset that notes what is read, cannot read some samples, has too large values in others, and calls
    `before_read(number)`.
    """

    draws = True

    def __init__(self, dataset: Dataset, *, unreadable: Sequence[str] = (), huge: Sequence[str] = ()) -> None:
        self.dataset, self.unreadable, self.huge = dataset, unreadable, huge
        self.read_names: list[str] = []
        self.before_read: Callable[[int], None] = lambda number: None

    def __len__(self) -> int:
        return len(self.dataset)

    def ids(self) -> list[str]:
        return self.dataset.ids()

    def labels(self, target: str) -> np.ndarray:
        return self.dataset.labels(target)

    def read(self, index: int, visit: Visit | None = None) -> Sample[np.ndarray]:
        name = self.dataset.ids()[index]
        if visit is not None:
            self.before_read(len(self.read_names))
            self.read_names.append(name)
        if name in self.unreadable:
            raise DataError(f"{name}: made unreadable")
        sample = self.dataset.read(index, visit)
        if name not in self.huge:
            return sample
        images = {key: np.full(x.shape, 3e30, np.float32) for key, x in sample.images.items()}
        return replace(sample, images=images)


def begin(earth: Path, **settings: Any) -> tuple[Mae, Dataset, PretrainRecipe]:
    """A new model, its data, and how to train."""
    recipe = make_recipe(earth_values(earth))
    assert recipe.pretrain is not None
    settings = {"steps": STEPS, "batch": BATCH, **settings}
    return Run(recipe, Path(), "").new_model(0), open_split(recipe), recipe.pretrain.model_copy(update=settings)


def names_of_step(earth: Path, step: int, batch: int = BATCH) -> list[str]:
    """The samples of a step, in order."""
    return names_of(begin(earth)[1], SEED, step, batch)


def train(
    earth: Path,
    folder: Path,
    ranks: Ranks = ALONE,
    *,
    unreadable: Sequence[str] = (),
    huge: Sequence[str] = (),
    stop_at: int | None = None,
    **settings: Any,
) -> Mae:
    """Train, and leave what was read and how it ended. SIGTERM comes to the last rank before its read `stop_at`."""
    model, dataset, recipe = begin(earth, **settings)
    trapped = Trapped(dataset, unreadable=unreadable, huge=huge)
    if stop_at is not None and ranks.number == ranks.count - 1:
        trapped.before_read = lambda number: os.kill(os.getpid(), signal.SIGTERM) if number == stop_at else None
    ended: dict[str, Any] = {"error": None}
    try:
        pretrain(model, trapped, recipe, folder, seed=SEED, ranks=ranks)
    except (GeomaestroError, Interrupted) as error:
        ended = {"error": type(error).__name__, "text": str(error)}
    leave(folder, ranks, {**ended, "read": trapped.read_names})
    return model


def leave(folder: Path, ranks: Ranks, values: dict[str, Any]) -> None:
    """Write what a rank has to tell."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank{ranks.number}.json").write_text(json.dumps(values))


def told(folder: Path) -> list[dict[str, Any]]:
    """What all ranks left."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


def whole(model: Mae) -> dict[str, Tensor]:
    """The weights, not in shards."""
    return dict(gathered(model, lambda: Mae(model.spec)).state_dict())


def check_modes(out: Path, earth: Path, ranks: Ranks) -> None:
    """Each way to spread a model, and a stop in the middle that is to be gone on with by one process."""
    for name, settings in MODES.items():
        train(earth, out / name, ranks, **settings)
    for how in ("ddp", "fsdp"):
        train(earth, out / f"{how} stopped", ranks, parallel=how, stop_at=5)
        train(earth, out / f"alone, then {how}", ranks, parallel=how)  # begun by the test


def check_states(out: Path, earth: Path, ranks: Ranks) -> None:
    """A state that either kind of training wrote is read by the other."""
    same = {}
    for how, wrote in (("fsdp", "ddp"), ("ddp", "fsdp")):
        model, _, recipe = begin(earth, parallel=how)
        spread(model, ranks, recipe.parallel, precision="fp32")
        optimiser = make_adamw([{"params": list(model.parameters())}], recipe)
        path = newest(out / wrote / "checkpoints")
        assert path is not None
        load_state(path, model, optimiser)
        plain, _, _ = begin(earth)
        load_state(path, plain, make_adamw([{"params": list(plain.parameters())}], recipe))
        theirs = plain.state_dict()
        same[f"{wrote} read by {how}"] = all(torch.equal(x, theirs[name]) for name, x in whole(model).items())
    leave(out / "states", ranks, same)


def check_failures(out: Path, earth: Path, ranks: Ranks) -> None:
    """What goes wrong on one rank alone."""
    first, half = names_of_step(earth, 0), BATCH // 2
    train(earth, out / "one unreadable", ranks, unreadable=first[-1:], max_bad_share=0.5)
    train(earth, out / "a part unreadable", ranks, unreadable=first[half:], max_bad_share=0.9)
    train(earth, out / "too many unreadable", ranks, unreadable=first[-1:], max_bad_share=0.01)
    train(earth, out / "none readable", ranks, unreadable=first[:4], max_bad_share=0.9, batch=4)
    train(earth, out / "not a number", ranks, huge=first[-1:])
    train(earth, out / "not a number, fsdp", ranks, huge=first[-1:], parallel="fsdp")
    error = None
    try:
        recipe = make_recipe(earth_values(earth, pretrain={"steps": 1, "batch": 5}))
        run_recipe(recipe, out / "not shareable", command="", ranks=ranks)
    except GeomaestroError as raised:
        error = str(raised)
    leave(out / "not shareable, told", ranks, {"text": error, "made": (out / "not shareable").exists()})


def main(out: Path, earth: Path) -> None:
    """Run all of it."""
    torch.set_num_threads(1)
    with join_ranks("cpu") as ranks:
        check_modes(out, earth, ranks)
        check_states(out, earth, ranks)
        check_failures(out, earth, ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
