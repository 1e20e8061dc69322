"""What the arms of a study are pretrained on: the pool of each model, measured once, and the sets chosen out of it."""

from collections.abc import Callable
from pathlib import Path

from geomaestro.data.packing.jobs import Jobs
from geomaestro.data.packing.plan import Source
from geomaestro.errors import SpecError
from geomaestro.learn.recipe import load_recipe
from geomaestro.runs import make_folder
from geomaestro.select.choose import Options, choose, save
from geomaestro.select.geography import Layers
from geomaestro.select.measure import ImagesWork, MeasureOptions, Meter
from geomaestro.select.table import read_table
from geomaestro.select.work import make_table
from geomaestro.study.grid import Arm, Unit, overrides
from geomaestro.study.spec import Study, samples_of

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
    return folder / "sets" / unit.model / f"{_file_of(unit.arm)}-seed{unit.seed}.parquet"


def _file_of(arm: Arm) -> str:
    return arm.name.replace(", ", "-")


def make_pool(study: Study, name: str, folder: Path, report: Report) -> Path:
    """Measure a model's pool, unless it is there."""
    path = pool_of(study, name, folder)
    if study.models[name].pool is not None and not path.is_file():
        raise SpecError(f"models.{name}.pool: {path} is no file; `geomaestro diversity` makes one, or leave it out")
    if not path.is_file():
        make_folder(path.parent)
        model = study.models[name]
        recipe = load_recipe(model.recipe, overrides(model.change))
        spec = recipe.dataset()
        meter = Meter.of(spec, spec.name, MeasureOptions(crops=spec.crop is not None))
        source = Source(spec, recipe.data.folder, recipe.data.pretrain_splits)
        work = ImagesWork.of(source, meter, Layers(), path.parent / "work")
        make_table(work, path.parent, jobs=Jobs(engine="serial"), report=report)
    return path


def make_set(study: Study, unit: Unit, folder: Path) -> Path | None:
    """Choose what a unit is pretrained on, unless that was done; another seed of a study draws anew."""
    out = set_of(study, unit, folder)
    if out is None or out.is_file():
        return out
    value = None if unit.arm is None else unit.arm.choice
    how = None if value is None else value.choose
    assert value is not None and how is not None, "set_of looks"
    pool = pool_of(study, unit.model, folder)
    budget = value.budget if value.budget is not None else study.models[unit.model].budget
    assert budget is not None, "checked by Study"
    rows = read_table(pool, ["id"]).num_rows
    chosen = choose([pool], samples_of(budget, rows), how, Options(seed=study.seed + unit.seed))
    make_folder(out.parent)
    save(chosen, out)
    return out
