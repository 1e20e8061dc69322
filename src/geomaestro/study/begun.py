"""Refuse to mix: what a study's folder holds was made with the settings that are asked for now, or nothing runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from geomaestro.errors import RunError
from geomaestro.learn.recipe import Recipe
from geomaestro.runs import differences, read_recipe
from geomaestro.select.pool import file_hashes
from geomaestro.select.table import about_of
from geomaestro.study.grid import Unit, pretraining_recipe, task_recipe, tasks_of, units_of
from geomaestro.study.pools import asked_of_pool, asked_of_set, pool_of, set_of
from geomaestro.study.spec import Study

Asked = tuple[Path, Mapping[str, Any], Mapping[str, Any]]  # a folder or file, what it was made with, what is asked for
TRAINED, UNTRAINED = "pretrained", "untrained"  # folders of a unit's model


def require_same(study: Study, folder: Path) -> None:
    """Compare every run folder, pool and set that is there with what the study asks for now.

    Raises:
        RunError: naming the first that was made with other settings.
    """
    every = [*_pools(study, folder), *_sets(study, folder), *_runs(study, folder)]
    found = [(place, changed) for place, old, new in every if (changed := differences(old, new))]
    if found:
        place, changed = found[0]
        more = f", and {len(found) - 1} more were" if len(found) > 1 else ""
        raise RunError(
            f"{place}: was made with other settings ({'; '.join(changed[:3])}){more}; put the settings back, choose "
            "another --out, or remove what is to be made anew"
        )


def asked_of_untrained(recipe: Recipe) -> dict[str, Any]:
    """What random weights follow from."""
    return recipe.model_dump(mode="json", include={"name", "seed", "data", "model"})


def place_of_model(unit: Unit, folder: Path) -> Path:
    """The folder of a unit's model."""
    return folder / unit.folder / (TRAINED if unit.arm is not None and unit.arm.pretrained else UNTRAINED)


def _pools(study: Study, folder: Path) -> Iterator[Asked]:
    for name, model in study.models.items():
        place = pool_of(study, name, folder).parent
        if model.pool is None and (old := read_recipe(place)) is not None:
            yield place, old, asked_of_pool(study, name)


def _sets(study: Study, folder: Path) -> Iterator[Asked]:
    hashes: dict[Path, str] = {}
    for unit in units_of(study):
        path, pool = set_of(study, unit, folder), pool_of(study, unit.model, folder)
        if path is not None and path.is_file() and pool.is_file():
            if pool not in hashes:
                (hashes[pool],) = file_hashes([pool]).values()
            about = about_of(path).get("choose", {})
            (old,) = about.get("pool", {}).get("files", {}).values() or (None,)
            new = asked_of_set(study, unit, folder)
            yield path, {**{key: about.get(key) for key in new}, "pool": old}, {**new, "pool": hashes[pool]}


def _runs(study: Study, folder: Path) -> Iterator[Asked]:
    for unit in units_of(study):
        model = place_of_model(unit, folder)
        recipe = pretraining_recipe(study, unit, set_of(study, unit, folder))
        dump = recipe.model_dump(mode="json") if model.name == TRAINED else asked_of_untrained(recipe)
        wanted = {model: dump}
        for task in tasks_of(study, unit):
            content = task_recipe(study, unit, task).model_dump(mode="json")
            wanted[folder / unit.folder / task] = {**content, "evaluated_model": str(model)}
        for place, new in wanted.items():
            if (old := read_recipe(place)) is not None:
                yield place, _without_folders(old), _without_folders(new)


def _without_folders(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe in which files of the study are named alike wherever its folder lies."""
    data, out = dict(recipe["data"]), dict(recipe)
    if data.get("subset") is not None:
        data["subset"] = Path(data["subset"]).name
    if "evaluated_model" in out:
        out["evaluated_model"] = UNTRAINED if UNTRAINED in Path(out["evaluated_model"]).parts[-2:] else TRAINED
    return {**out, "data": data}
