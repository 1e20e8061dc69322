"""The demo: generate a miniature Earth, pretrain on it, evaluate with few labels, write a report."""

from importlib import resources
from pathlib import Path

from geomaestro.config import check, merge, read_yaml
from geomaestro.data.miniatures.synthetic import EarthOptions, synthesise
from geomaestro.learn.log import bar
from geomaestro.learn.recipe import Recipe
from geomaestro.learn.run import run_recipe
from geomaestro.report.html import write_report

SAMPLES = {"train": 500, "val": 100, "test": 200}


def run_demo(out: Path, *, seed: int, command: str) -> Path:
    """Do what is not done yet in folder `out`; gives the report."""
    earth = out / "data"
    if not (earth / "dataset.yaml").is_file():
        options = EarthOptions(**SAMPLES, seed=seed)
        with bar("generate a miniature Earth", sum(SAMPLES.values())) as shown:
            synthesise(earth, options, report=lambda done, _: shown.update(done))
    run = out / "run"
    run_recipe(demo_recipe(earth, seed), run, command=command, resume=(run / "recipe.yaml").is_file())
    return write_report(run)


def demo_recipe(earth: Path, seed: int) -> Recipe:
    """The demo's recipe on a dataset folder."""
    path = Path(str(resources.files("geomaestro") / "demo.yaml"))
    own = {"seed": seed, "data": {"spec": str(earth / "dataset.yaml"), "root": str(earth)}}
    return check(Recipe, merge(read_yaml(path), own), str(path))
