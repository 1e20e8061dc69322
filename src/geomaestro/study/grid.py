"""Arms of a study, and the units of work that they make: pure lists that follow from its spec."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from geomaestro.config import check
from geomaestro.errors import SpecError
from geomaestro.learn.metrics import BETTER_IF_LESS
from geomaestro.learn.recipe import LabelCount, Protocol, Recipe, load_recipe
from geomaestro.study.spec import BASELINE, Study, Value, folder_of


@dataclass(frozen=True)
class Arm:
    """A value of every axis."""

    names: Mapping[str, str]  # axis: name of the value
    values: tuple[Value, ...]

    @property
    def name(self) -> str:
        """Of tables and folders."""
        return ", ".join(self.names.values())

    @property
    def pretrained(self) -> bool:
        """False where a value keeps random weights."""
        return all(value.pretrained for value in self.values)

    @property
    def choice(self) -> Value | None:
        """The value that chooses pretraining samples, if one does."""
        return next((value for value in self.values if value.choose is not None), None)

    @property
    def choice_name(self) -> str:
        """The name of that value, or of the arm."""
        chosen = (name for name, value in zip(self.names.values(), self.values, strict=True) if value is self.choice)
        return next(chosen, self.name)


@dataclass(frozen=True)
class Unit:
    """One pretraining and its evaluations (`arm` None: the baselines), the smallest piece of work."""

    arm: Arm | None
    model: str
    seed: int

    @property
    def folder(self) -> Path:
        """Below the study's folder."""
        name = BASELINE if self.arm is None else folder_of(self.arm.name)
        return Path("arms") / name / self.model / f"seed{self.seed}"

    @property
    def name(self) -> str:
        """For messages."""
        arm = BASELINE if self.arm is None else self.arm.name
        return f"{arm}, {self.model}, seed {self.seed}"


def arms_of(study: Study) -> list[Arm]:
    """All arms, in the order of the spec."""
    axes = study.axes.items()
    return [
        Arm(
            dict(zip(study.axes, names, strict=True)),
            tuple(values[name] for (_, values), name in zip(axes, names, strict=True)),
        )
        for names in product(*(values for _, values in axes))
    ]


def arms_by_set(study: Study) -> dict[str, list[Arm]]:
    """Name of a chosen pretraining set: the arms that are pretrained on it, which may differ in other axes."""
    found: dict[tuple[str | None, int | str | None], list[Arm]] = {}
    for arm in arms_of(study):
        if arm.pretrained and arm.choice is not None:
            found.setdefault((arm.choice.choose, arm.choice.budget), []).append(arm)
    return {" = ".join(dict.fromkeys(arm.choice_name for arm in arms)): arms for arms in found.values()}


def units_of(study: Study) -> list[Unit]:
    """All units, one seed of every arm before the next seed, so that a stopped study compares whole seeds."""
    out = []
    for seed in range(study.seeds):
        if study.baselines:
            out += [Unit(None, model, seed) for model in study.models]
        out += [Unit(arm, model, seed) for arm in arms_of(study) for model in study.models]
    return out


def tasks_of(study: Study, unit: Unit) -> list[str]:
    """The tasks that a unit's model is evaluated on."""
    return [name for name in study.tasks if study.model_of(name) == unit.model]


def pretraining_recipe(study: Study, unit: Unit, subset: Path | None) -> Recipe:
    """What a unit pretrains; of the baselines the first arm's model.

    Raises:
        SpecError: naming what is wrong in the recipe or the changes.
    """
    model = study.models[unit.model]
    changes = dict(model.change)
    for value in (unit.arm or arms_of(study)[0]).values:
        changes |= value.change
    if subset is not None:
        changes["data.subset"] = str(subset)
    recipe = load_recipe(model.recipe, overrides(changes))
    values = recipe.model_dump() | {"seed": study.seed + unit.seed, "evaluate": None}
    return check(Recipe, values, str(model.recipe))


def task_recipe(study: Study, unit: Unit, name: str) -> Recipe:
    """How a unit's model is evaluated on a task: by the protocols that its recipe names; the baselines by theirs.

    Raises:
        SpecError: naming what is wrong in the recipe or the changes.
    """
    task = study.tasks[name]
    only = "evaluate.protocols=[]" if unit.arm is None else "evaluate.baselines=false"
    recipe = load_recipe(task.recipe, (*overrides(task.change), only))
    values = recipe.model_dump() | {"seed": study.seed + unit.seed, "pretrain": None}
    return check(Recipe, values, str(task.recipe))


def headline_of(study: Study, name: str) -> tuple[str, str]:
    """The protocol and the number of labels of a task that tables and correlations look at.

    Raises:
        SpecError: if its recipe names no protocols, or not these.
    """
    task = study.tasks[name]
    recipe = load_recipe(task.recipe, (*overrides(task.change), "evaluate.baselines=false"))
    found = recipe.evaluate
    if found is None or "protocols" not in found.model_fields_set or not found.protocols:
        raise SpecError(f"{task.recipe}: a task of a study names the `evaluate.protocols` that it is scored by")
    if found.metric in BETTER_IF_LESS:
        raise SpecError(f"{task.recipe}: a study ranks by metrics of which more is better; {found.metric} is an error")
    labels = [LabelCount.parse(text).describe()[0] for text in found.labels]
    usual: Protocol = "linear probe" if "linear probe" in found.protocols else found.protocols[-1]
    protocol, count = task.protocol or usual, task.labels or labels[-1]
    if protocol not in found.protocols or count not in labels:
        raise SpecError(
            f"tasks.{name}: the study looks at {protocol!r} with {count} labels, but {task.recipe} asks for "
            f"{', '.join(found.protocols)} with {', '.join(labels)}"
        )
    return protocol, count


def overrides(changes: Mapping[str, Any]) -> tuple[str, ...]:
    """Changes as a command line says them; JSON is YAML."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in changes.items())
