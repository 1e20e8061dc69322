"""The study: many runs that differ in what their axes say, as one YAML checked whole before anything runs."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from geomaestro.config import Strict
from geomaestro.learn.recipe import LabelCount, Protocol
from geomaestro.select.rule import read_rule

BASELINE = "baselines"  # of the folder beside those of arms
MEAN = "mean of tasks"
RESERVED = ("pretrained", "untrained", MEAN)  # folders beside those of tasks, and the last column of tables
LONGEST = 240  # bytes of the name of a folder; a file in it may add to it


class Value(Strict):
    """One value of an axis: what it changes in the pretraining recipe (`model.fusion: mod`), and what is pretrained on.

    `choose` picks the pretraining samples out of the pool, as `--by` of `geomaestro choose` says it, and `budget` says
    how many: a number, or a share of the pool ("10 %"). Without, all of the pool is pretrained on. `pretrained: false`
    keeps random weights: what a model can do without having seen anything.
    """

    change: dict[str, Any] = Field(default_factory=dict)
    choose: str | None = None
    budget: int | str | None = None
    pretrained: bool = True
    about: str = ""

    @field_validator("choose")
    @classmethod
    def _says_how(cls, value: str | None) -> str | None:
        if value is not None:
            read_rule(value)
        return value

    @field_validator("budget")
    @classmethod
    def _is_a_number_or_share(cls, value: int | str | None) -> int | str | None:
        return value if value is None else check_budget(value)


class StudiedModel(Strict):
    """A pretraining recipe that all arms share, some settings changed.

    `pool` is a table of the recipe's pretraining samples, as `geomaestro diversity` writes it; else it is measured.
    """

    recipe: Path
    change: dict[str, Any] = Field(default_factory=dict)
    pool: Path | None = None
    budget: int | str | None = None

    @field_validator("budget")
    @classmethod
    def _is_a_number_or_share(cls, value: int | str | None) -> int | str | None:
        return value if value is None else check_budget(value)


class StudiedTask(Strict):
    """A recipe with an evaluation, of the `model` of that name (the only one where it is left out).

    Tables and correlations look at the scores of `protocol` and `labels`: by default the linear probe, or the last
    protocol that the recipe names, with most labels.
    """

    recipe: Path
    change: dict[str, Any] = Field(default_factory=dict)
    model: str | None = None
    protocol: Protocol | None = None
    labels: str | None = None

    @field_validator("labels", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return value if value is None else LabelCount.parse(str(value)).describe()[0]


class Published(Strict):
    """Scores that others have published, in place of runs: CSV with a column `arm` and one for each task; diversity is
    CSV with `arm`, a column for each measure, and `performance` for arms whose single scores are not known.
    """

    scores: Path
    diversity: Path | None = None


class Study(Strict):
    """Everything that a study needs. Each arm is a value of every axis; each is pretrained with `seeds` seeds.

    With `baselines` a random forest and the same network from scratch are scored once for each task and seed.
    """

    name: str
    about: str = ""
    models: dict[str, StudiedModel] = Field(default_factory=dict)
    axes: dict[str, dict[str, Value]] = Field(default_factory=dict)
    tasks: dict[str, StudiedTask] = Field(default_factory=dict)
    published: Published | None = None
    seeds: int = Field(default=3, ge=1)
    seed: int = Field(default=0, ge=0)
    baselines: bool = True
    decimals: int | None = Field(default=None, ge=0)

    @field_validator("axes", mode="before")
    @classmethod
    def _lists_of_names(cls, axes: Any) -> Any:
        """Values without settings may be null."""
        if not isinstance(axes, Mapping):
            return axes
        full = lambda values: {k: {} if v is None else v for k, v in values.items()}  # noqa: E731
        return {name: full(values) if isinstance(values, Mapping) else values for name, values in axes.items()}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        given = [name for name in ("models", "axes", "tasks") if getattr(self, name)]
        if self.published is not None:
            if given:
                raise ValueError(
                    f"published: scores are given, so that {', '.join(given)} would not be run; leave one out"
                )
            return self
        missing = [name for name in ("models", "axes", "tasks") if name not in given]
        if missing:
            raise ValueError(f"{', '.join(missing)}: a study needs models, axes and tasks (or `published` scores)")
        for axis, values in self.axes.items():
            if len(values) < 2:
                raise ValueError(f"axes.{axis}: has {len(values)} values; what differs needs two or more")
        self._check_tasks()
        self._check_choices()
        self._check_names()
        return self

    def _check_names(self) -> None:
        """Each name can be that of a folder, and no two arms share one."""
        names = [*self.models, *self.axes, *self.tasks, *(v for values in self.axes.values() for v in values)]
        bad = [name for name in names if not name.isprintable() or not name.strip() or set(name) & set("/\\")]
        if bad := bad + [name for name in names if name.startswith(".")]:
            raise ValueError(
                f"{bad[0]!r}: names of models, tasks, axes and values become folders; no slashes or dots first"
            )
        taken = {BASELINE: BASELINE}
        for parts in product(*self.axes.values()):
            name, folder = ", ".join(parts), folder_of(", ".join(parts))
            if folder in taken:
                raise ValueError(
                    f"arms {taken[folder]!r} and {name!r} would share the folder {folder!r}; rename a value"
                )
            taken[folder] = name
        long = [name for name in [*taken, *self.models, *self.tasks] if len(name.encode()) > LONGEST]
        if long:
            raise ValueError(f"{long[0][:40]!r} ...: is too long for the name of a folder; shorten names of values")

    def _check_tasks(self) -> None:
        for name, task in self.tasks.items():
            if task.model is None and len(self.models) > 1:
                raise ValueError(f"tasks.{name}.model: say of which model ({', '.join(self.models)})")
            if task.model is not None and task.model not in self.models:
                raise ValueError(f"tasks.{name}.model: {task.model!r} is not one of {', '.join(self.models)}")
            if name in RESERVED:
                raise ValueError(f"tasks.{name}: is a name that a study needs itself; take another")
        idle = [name for name in self.models if not any(self.model_of(task) == name for task in self.tasks)]
        if idle:
            raise ValueError(f"models.{idle[0]}: no task evaluates it")

    def _check_choices(self) -> None:
        for axis, values in self.axes.items():
            for name, value in values.items():
                if value.choose is None and value.budget is not None:
                    raise ValueError(f"axes.{axis}.{name}.budget: is of no effect without `choose`")
                unbudgeted = [m for m, model in self.models.items() if model.budget is None]
                if value.choose is not None and value.budget is None and unbudgeted:
                    raise ValueError(
                        f"axes.{axis}.{name}.choose: say how many, in `budget` here or in models.{unbudgeted[0]}.budget"
                    )
        choosing = [axis for axis, values in self.axes.items() if any(v.choose for v in values.values())]
        if len(choosing) > 1:
            raise ValueError(f"axes {' and '.join(choosing)} both choose pretraining samples; only one can")

    def model_of(self, task: str) -> str:
        """The model that a task evaluates."""
        return self.tasks[task].model or next(iter(self.models))


def folder_of(arm: str) -> str:
    """The name of an arm's folder and files."""
    return arm.replace(", ", "-")


def check_budget(value: int | str) -> int | str:
    """A number of samples, or a share of the pool."""
    if isinstance(value, int):
        if value < 1:
            raise ValueError(f"{value} samples: give 1 or more, or a share such as '10 %'")
        return value
    if LabelCount.parse(value).share is None:
        raise ValueError(f"{value!r} is not a number of samples, or a share of the pool such as '10 %'")
    return value


def samples_of(budget: int | str, pool: int) -> int:
    """A budget in samples, of a pool of so many; at least one."""
    if isinstance(budget, int):
        return budget
    share = LabelCount.parse(budget).share
    assert share is not None, "checked in check_budget"
    return max(1, round(share * pool))
