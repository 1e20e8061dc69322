"""What the arms of a study are pretrained on: the pool of each model, measured once, and the sets chosen out of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from geomaestro.data.packing.jobs import Jobs
from geomaestro.data.packing.plan import Source
from geomaestro.errors import SpecError
from geomaestro.learn.recipe import load_recipe
from geomaestro.runs import make_folder, open_run
from geomaestro.select.choose import Options, choose, save
from geomaestro.select.geography import Layers
from geomaestro.select.measure import ImagesWork, MeasureOptions, Meter
from geomaestro.select.table import read_table
from geomaestro.select.work import make_table
from geomaestro.study.grid import Unit, overrides
from geomaestro.study.spec import Study, folder_of, samples_of

Report = Callable[[int, int, str], None]


def pool_of(study: Study, name: str, folder: Path) -> Path:
    """The table of a model's pretraining samples: the study's, or one measured into its folder."""
    model = study.models[name]
    if model.pool is not None:
        return model.pool
    return folder / "pools" / name / f"{load_recipe(model.recipe, overrides(model.change)).dataset().name}.parquet"


def set_of(study: Study, unit: Unit, folder: Path) -> Path | None:
    """The table of what a unit is pretrained on; None where nothing was chosen."""
    if unit.arm is None or unit.arm.choice is None or not unit.arm.pretrained:
        return None
    return folder / "sets" / unit.model / f"{folder_of(unit.arm.name)}-seed{unit.seed}.parquet"


def make_pool(study: Study, name: str, folder: Path, report: Report) -> Path:
    """Measure a model's pool, unless it is there."""
    path = pool_of(study, name, folder)
    if study.models[name].pool is not None and not path.is_file():
        raise SpecError(f"models.{name}.pool: {path} is no file; `geomaestro diversity` makes one, or leave it out")
    if not path.is_file():
        open_run(path.parent, asked_of_pool(study, name), resume=path.parent.exists())
        model = study.models[name]
        recipe = load_recipe(model.recipe, overrides(model.change))
        spec = recipe.dataset()
        meter = Meter.of(spec, spec.name, MeasureOptions(crops=spec.crop is not None))
        source = Source(spec, recipe.data.folder, recipe.data.pretrain_splits)
        work = ImagesWork.of(source, meter, Layers(), path.parent / "work")
        make_table(work, path.parent, jobs=Jobs(engine="serial"), report=report)
    return path


def asked_of_pool(study: Study, name: str) -> dict[str, Any]:
    """What a measured pool follows from."""
    model = study.models[name]
    data = load_recipe(model.recipe, overrides(model.change)).data
    return {"data": data.model_dump(mode="json", include={"spec", "root", "sensors", "settings", "pretrain_splits"})}


def asked_of_set(study: Study, unit: Unit, folder: Path) -> dict[str, Any]:
    """How many samples are chosen for a unit, how, and with which seed; its pool is there."""
    value = None if unit.arm is None else unit.arm.choice
    budget = study.models[unit.model].budget if value is None or value.budget is None else value.budget
    assert value is not None and budget is not None, "checked by Study; set_of looks"
    rows = read_table(pool_of(study, unit.model, folder), ["id"]).num_rows
    return {"by": value.choose, "budget": samples_of(budget, rows), "seed": study.seed + unit.seed}


def make_set(study: Study, unit: Unit, folder: Path) -> Path | None:
    """Choose what a unit is pretrained on, unless that was done; another seed of a study draws anew."""
    out = set_of(study, unit, folder)
    if out is None or out.is_file():
        return out
    asked = asked_of_set(study, unit, folder)
    pool = pool_of(study, unit.model, folder)
    chosen = choose([pool], asked["budget"], asked["by"], Options(seed=asked["seed"]))
    make_folder(out.parent)
    save(chosen, out)
    return out
