"""The `geomaestro` command: one function per command; what a command needs is imported inside it."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from geomaestro import __version__
from geomaestro.errors import DataError, GeomaestroError

app = App(name="geomaestro", version=__version__, help="Pretrain, evaluate and apply geospatial foundation models.")
data = App(name="data", help="Make and look at datasets.")
app.command(data)

Overrides = Annotated[list[str] | None, Parameter(negative="", show_default=False)]
Splits = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]
Resume = Annotated[bool, Parameter(negative="")]


@app.command
def demo(out: Path = Path("runs/demo"), *, seed: int = 0) -> None:
    """Generate a miniature Earth, pretrain on it, evaluate with few labels, write a report. About 4 minutes on 2 cores.

    Args:
        out: folder of data and run; an unfinished demo is taken up where it stopped.
        seed: another seed makes another Earth and other weights.
    """
    from geomaestro.demo import run_demo

    _say("report", run_demo(out, seed=seed, command=_command()))


@app.command
def pretrain(
    recipe: Path,
    overrides: Overrides = None,
    /,
    *,
    out: Path | None = None,
    resume: Resume = False,
    tensorboard: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Pretrain, and evaluate if the recipe says how; writes a run folder with a report.

    Args:
        recipe: a YAML file; see docs/pretrain.md.
        overrides: settings to change, such as pretrain.epochs=10 model.size=small.
        out: the run folder; runs/NAME by default.
        resume: go on with an unfinished run.
        tensorboard: write events for TensorBoard too (an extra).
    """
    from geomaestro.learn.recipe import load_recipe
    from geomaestro.learn.run import run_recipe
    from geomaestro.report.html import write_report

    settings = load_recipe(recipe, tuple(overrides or ()))
    folder = out or Path("runs") / settings.name
    run_recipe(settings, folder, command=_command(), resume=resume, tensorboard=tensorboard)
    _say("report", write_report(folder))


@app.command
def evaluate(
    model: str, recipe: Path, overrides: Overrides = None, /, *, out: Path | None = None, resume: Resume = False
) -> None:
    """Evaluate a pretrained model on a recipe's task, beside training from scratch and a random forest.

    Args:
        model: a model folder, a run folder, or a model on the Hugging Face hub (owner/name).
        recipe: a YAML file with `data` and `evaluate`.
        overrides: settings to change, such as evaluate.draws=3.
        out: the run folder; runs/NAME-evaluated by default.
        resume: go on with an unfinished evaluation.
    """
    from geomaestro.learn.recipe import load_recipe
    from geomaestro.learn.run import evaluate_model
    from geomaestro.report.html import write_report

    settings = load_recipe(recipe, tuple(overrides or ()))
    folder = out or Path("runs") / f"{settings.name}-evaluated"
    evaluate_model(model, settings, folder, command=_command(), resume=resume)
    _say("report", write_report(folder))


@app.command
def convert(
    checkpoint: Path, out: Path, /, *, config: Path, ema: bool = False, heads: tuple[int, int] | None = None
) -> None:
    """Convert an official MAESTRO checkpoint to safetensors and JSON, executing nothing of it.

    Args:
        checkpoint: the Lightning file (.ckpt).
        out: the model folder to write.
        config: the config_resolved.yaml beside it.
        ema: take the averaged weights instead of the trained ones.
        heads: attention heads of encoder and decoder, where the weights are of no published size.
    """
    from geomaestro.models.convert import convert_official, write_converted

    report = write_converted(convert_official(checkpoint, config, ema=ema, heads=heads), out, checkpoint)
    for line in report:
        print(line)
    _say("model", out)


@app.command
def report(run: Path, out: Path | None = None, /) -> None:
    """Write a run's report again.

    Args:
        run: a run folder.
        out: the page to write; RUN/report.html by default.
    """
    from geomaestro.report.html import write_report

    _say("report", write_report(run, out))


@data.command
def synth(
    name: str,
    out: Path,
    /,
    *,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    seed: int = 0,
) -> None:
    """Generate a miniature of a published dataset in its very file layout.

    Args:
        name: a built-in dataset; treesatai_ts is a miniature Earth of any size, the others are for trying things out.
        out: a new folder.
        train: samples (tiles, images, places) of the training split; 400 of treesatai_ts, 12 of the others.
        val: samples of the validation split; 100, or 6.
        test: samples of the test split; 200, or 6.
        seed: another seed makes other images; a larger miniature begins with the smaller.
    """
    from geomaestro.data.miniatures.miniature import Size, write_miniature
    from geomaestro.learn.log import bar

    size = Size.usual(name, seed=seed, train=train, val=val, test=test)
    with bar(f"synthesise {name}", size.total) as shown:
        write_miniature(name, out, size, report=lambda done, _: shown.update(done))
    _say("dataset", out / "dataset.yaml")


@data.command(name="get")
def get_published(name: str, out: Path | None = None, /, *, endpoint: str | None = None) -> None:
    """Download a published dataset from the Hugging Face hub; run it again to go on with a stopped download.

    Args:
        name: a built-in dataset, a spec.yaml, or a dataset on the hub (owner/name or owner/name@revision).
        out: the folder to fill; data/NAME by default.
        endpoint: another hub than HF_ENDPOINT or huggingface.co.
    """
    from geomaestro.data.get import get_dataset
    from geomaestro.data.specs import load_spec
    from geomaestro.learn.log import transfer

    on_hub = name.count("/") == 1 and not name.endswith((".yaml", ".yml"))
    wanted = (name,) if on_hub else load_spec(name).download
    if not wanted:
        raise DataError(
            f"{name}: its files are not on the Hugging Face hub; see `source` in its spec, and docs/datasets.md"
        )
    folder = out or Path("data") / Path(name.partition("@")[0]).stem
    for part in wanted:
        with transfer() as report:
            get_dataset(part, folder, endpoint=endpoint, report=report)
    _say("dataset", folder)


@data.command(name="init")
def init_dataset(folder: Path, /, *, out: Path | None = None) -> None:
    """Look at a folder of files (or a zip of images) and write a dataset spec and a recipe, with comments, to edit.

    Args:
        folder: the folder of the files.
        out: the spec to write; NAME.yaml in the current folder by default. The recipe ends in -recipe.yaml.
    """
    from geomaestro.data.init import init

    init(folder, out)


@data.command
def pack(
    spec: str,
    out: Path,
    /,
    *,
    root: Path | None = None,
    splits: Splits = None,
    workers: int | None = None,
    shard: str = "0/1",
    engine: str = "processes",
    scheduler: str | None = None,
) -> None:
    """Pack a dataset into the fast store; the same command goes on where it was stopped.

    Args:
        spec: a built-in dataset, a spec.yaml or a packed folder.
        out: a new folder, or one that packing was begun in.
        root: the folder of the files; that of the spec by default.
        splits: which to pack; train, val and test by default.
        workers: processes; as many as there are processors by default.
        shard: share i/n of the shards, for machines that know nothing of each other.
        engine: processes, serial or dask (an extra).
        scheduler: address of a running Dask scheduler.
    """
    from geomaestro.data.packing.jobs import Jobs
    from geomaestro.data.packing.pack import pack as pack_dataset
    from geomaestro.data.specs import load_spec
    from geomaestro.learn.log import counted

    with counted("pack") as report:
        jobs = Jobs.of(engine, workers, shard, scheduler)
        chosen = tuple(splits or ("train", "val", "test"))
        done = pack_dataset(load_spec(spec), _root_of(spec, root), out, chosen, jobs=jobs, report=report)
    if done.unfinished:
        print(f"{done.unfinished} shards are left to other shares; the last to end writes the index")
    print(f"{done.samples} samples, {done.quarantined} unreadable")
    _say("dataset", out)


@data.command
def check(
    spec: str,
    root: Path | None = None,
    /,
    *,
    splits: Splits = None,
    out: Path | None = None,
    workers: int | None = None,
    shard: str = "0/1",
    engine: str = "processes",
    scheduler: str | None = None,
) -> None:
    """Read everything of a dataset once; list what can't be used, and compare the pixels with the spec.

    Exit code 1 if a sample is bad, the spec contradicts the pixels with certainty, or a picture is in two splits.

    Args:
        spec: a built-in dataset, a spec.yaml, or the folder of a packed dataset, whose hashes are checked.
        root: the folder of the files; that of the spec by default.
        splits: which to read; all by default.
        out: the list of bad samples, for `data.quarantine` of a recipe; quarantine-NAME.jsonl by default.
        workers: processes; as many as there are processors by default.
        shard: i/n reads a share of the samples, into a list of its own, and compares no splits.
        engine: processes, serial or dask.
        scheduler: address of a running Dask scheduler.
    """
    from geomaestro.data.packing.jobs import Jobs
    from geomaestro.data.quality.checking import check as check_dataset
    from geomaestro.data.spec import PackedSpec
    from geomaestro.data.specs import load_spec
    from geomaestro.learn.log import counted
    from geomaestro.report.dataset_tables import check_tables

    jobs, given, folder = Jobs.of(engine, workers, shard, scheduler), load_spec(spec), _root_of(spec, root)
    if isinstance(given, PackedSpec):
        if splits or out or shard != "0/1":
            raise DataError(f"{folder}: a packed dataset is verified whole; leave out --splits, --out and --shard")
        _verify(folder / given.directory, jobs.workers)
        return
    with counted(f"check {given.name}") as report:
        result = check_dataset(given, folder, splits, out=out, jobs=jobs, report=report)
    _print(check_tables(result))
    _say("list of bad samples", result.out)
    if not result.ok:
        raise SystemExit(1)


@data.command
def stats(
    spec: str,
    root: Path | None = None,
    /,
    *,
    splits: Splits = None,
    out: Path | None = None,
    workers: int | None = None,
    engine: str = "processes",
    scheduler: str | None = None,
) -> None:
    """Describe a dataset: values of bands, dates, places, labels, what its splits know of each other, a scaling.

    Args:
        spec: a built-in dataset, a spec.yaml, or the folder of a packed dataset.
        root: the folder of the files; that of the spec by default.
        splits: which to read; all by default.
        out: the page to write, with the numbers beside it as JSON; stats-NAME.html by default.
        workers: processes; as many as there are processors by default.
        engine: processes, serial or dask.
        scheduler: address of a running Dask scheduler.
    """
    from geomaestro.data.packing.jobs import Jobs
    from geomaestro.data.quality.dataset_stats import stats as describe
    from geomaestro.data.specs import load_spec
    from geomaestro.learn.log import counted
    from geomaestro.report.dataset_page import write_page
    from geomaestro.report.dataset_tables import stats_tables

    jobs, given = Jobs.of(engine, workers, scheduler=scheduler), load_spec(spec)
    with counted(f"stats {given.name}") as report:
        numbers = describe(given, _root_of(spec, root), splits, jobs=jobs, report=report)
    _print(stats_tables(numbers))
    _say("page", write_page(numbers, out or Path(f"stats-{given.name}.html")))


@data.command(name="list")
def list_datasets() -> None:
    """List the built-in datasets."""
    from geomaestro.data.specs import builtin_specs, load_spec

    for name in builtin_specs():
        spec = load_spec(name)
        size = f", {spec.size_gb:g} GB" if spec.size_gb else ""
        print(f"{name}: {spec.about} [{spec.licence}{size}]")


def _verify(folder: Path, workers: int) -> None:
    from geomaestro.data.packing.verify import verify

    found = verify(folder, workers=workers)
    for problem in found:
        print(problem)
    print(f"{folder}: {len(found)} problems" if found else f"{folder}: whole, every hash as in the manifest")
    if found:
        raise SystemExit(1)


def _print(parts: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def _root_of(spec: str, root: Path | None) -> Path:
    """The folder of a dataset's files; that of the spec where none is named."""
    from geomaestro.data.specs import spec_path

    path = spec_path(spec)
    if root is None and path is None:
        raise DataError(f"say with --root where the files of {spec} are")
    return root or (Path() if path is None else path.parent)


def _say(what: str, path: Path) -> None:
    print(f"{what}: {path}")


def _command() -> str:
    return shlex.join(["geomaestro", *sys.argv[1:]])


def main(tokens: list[str] | None = None) -> None:
    """Run a command; errors that a user can mend are one message and exit code 1."""
    # Read when torch is loaded. Threads that wait by spinning starve a machine that does anything else beside
    # training (measured on 2 busy cores: 3 samples/s spinning, 19 sleeping).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from geomaestro.learn.stopping import Interrupted

    try:
        app(tokens)
    except GeomaestroError as error:
        _fail(str(error), 1)
    except Interrupted as stopped:
        _fail(f"{stopped}; go on with: {_resume_command()}", 130)
    except KeyboardInterrupt:
        _fail(f"stopped at once; go on from the last saved state with: {_resume_command()}", 130)


def _resume_command() -> str:
    command = _command()
    goes_on = "--resume" in sys.argv or sys.argv[1:2] in (["demo"], ["data"])
    return command if goes_on else f"{command} --resume"


def _fail(message: str, code: int) -> Any:
    print(f"error: {message}" if code == 1 else message, file=sys.stderr)
    raise SystemExit(code)
