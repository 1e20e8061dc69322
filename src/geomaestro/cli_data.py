"""The commands of `geomaestro data`; what a command needs is imported inside it."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from geomaestro.errors import DataError

data = App(name="data", help="Make and look at datasets.")
Splits = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]


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
    say("dataset", out / "dataset.yaml")


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
    say("dataset", folder)


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
    say("dataset", out)


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
    say("list of bad samples", result.out)
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
    say("page", write_page(numbers, out or Path(f"stats-{given.name}.html")))


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


def say(what: str, path: Path) -> None:
    """Tell what was made, and where."""
    print(f"{what}: {path}")
