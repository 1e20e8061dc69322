"""Run a study: unit by unit, skipping what is finished; any number of processes share the work.

A unit is a run folder of its own, locked while it is worked on: a kill loses at most what a training had not saved. The
spec may grow by seeds, arms and tasks between calls; a unit that was begun with other settings is refused.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from geomaestro.errors import GeomaestroError, RunError
from geomaestro.learn.log import bar, counted
from geomaestro.learn.run import Run, evaluate_model, run_recipe
from geomaestro.learn.stopping import Interrupted
from geomaestro.models.hub import save_mae
from geomaestro.runs import append_row, lock, make_folder, open_run, write_atomically
from geomaestro.study.begun import UNTRAINED, asked_of_untrained, place_of_model, require_same
from geomaestro.study.checking import check_study
from geomaestro.study.grid import Unit, pretraining_recipe, task_recipe, tasks_of, units_of
from geomaestro.study.pools import make_pool, make_set
from geomaestro.study.spec import Study

FAILED = "failed.jsonl"


@dataclass(frozen=True)
class Outcome:
    """What a call came to: units that are finished now, of all; what failed in this call."""

    finished: int
    total: int
    failed: tuple[str, ...]


def run_study(
    study: Study, folder: Path, *, command: str, shard: tuple[int, int] = (0, 1), show: Callable[[str], None] = print
) -> Outcome:
    """Work on every unit of this share that is not finished.

    A unit that fails is noted and the others go on; the same command tries it again.

    Raises:
        SpecError: if a recipe of any unit can't be meant, before anything runs.
        RunError: if the folder can't be written, or holds what was made with other settings.
        Interrupted: after Ctrl-C or SIGTERM, once the state is saved.
    """
    check_study(study)
    require_same(study, folder)
    make_folder(folder)
    spec = yaml.safe_dump(study.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)
    write_atomically(folder / "study.yaml", spec.encode())
    if any(value.choose for values in study.axes.values() for value in values.values()):
        _make_pools(study, folder)
    every = units_of(study)
    mine = [unit for unit in every[shard[0] :: shard[1]] if not finished(study, unit, folder)]
    failed = []
    with bar(f"study {study.name}", len(mine)) as shown:
        for number, unit in enumerate(mine, start=1):
            try:
                _work_on(study, unit, folder, command)
            except Interrupted:
                raise
            except GeomaestroError as error:
                failed.append(f"{unit.name}: {error}")
                append_row(folder / FAILED, {"unit": unit.name, "at": time.time(), "error": str(error)})
                show(f"failed: {failed[-1]}")
            shown.update(number, unit.name)
    done = sum(finished(study, unit, folder) for unit in every)
    return Outcome(done, len(every), tuple(failed))


def finished(study: Study, unit: Unit, folder: Path) -> bool:
    """True if all evaluations of a unit are complete."""
    return all(result_of(folder, unit, name).is_file() for name in tasks_of(study, unit))


def result_of(folder: Path, unit: Unit, task: str) -> Path:
    """What is written last of an evaluation."""
    return folder / unit.folder / task / "result.json"


def _make_pools(study: Study, folder: Path) -> None:
    make_folder(folder / "pools")
    with lock(folder / "pools", wait=True):  # another share may be measuring them
        for name in study.models:
            with counted(f"measure {name}") as report:
                make_pool(study, name, folder, report)


def _work_on(study: Study, unit: Unit, folder: Path, command: str) -> None:
    place = folder / unit.folder
    make_folder(place)
    try:
        with lock(place):
            model = _pretrained(study, unit, folder, command)
            for name in tasks_of(study, unit):
                if not result_of(folder, unit, name).is_file():
                    recipe = task_recipe(study, unit, name)
                    begun = (place / name / "recipe.yaml").is_file()
                    evaluate_model(str(model), recipe, place / name, command=command, resume=begun)
    except RunError as error:
        if "another process is writing" not in str(error):
            raise
        raise RunError(f"another process is working on it: give each its own --shard i/n ({error})") from None


def _pretrained(study: Study, unit: Unit, folder: Path, command: str) -> Path:
    """The model of a unit: pretrained, or with random weights."""
    subset = make_set(study, unit, folder)
    recipe = pretraining_recipe(study, unit, subset)
    place = place_of_model(unit, folder)
    begun = (place / "recipe.yaml").is_file()
    if place.name == UNTRAINED:
        if not (place / "model" / "model.json").is_file():
            open_run(place, asked_of_untrained(recipe), resume=begun)
            model = Run(recipe, place, command).new_model(recipe.seed)
            save_mae(place / "model", model, origin={"recipe": recipe.name, "steps": 0, "seed": recipe.seed})
        return place
    if not (place / "result.json").is_file():
        run_recipe(recipe, place, command=command, resume=begun)
    return place
