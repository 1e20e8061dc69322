"""The commands that choose data: diversity, choose, gather, audit. What a command needs is imported inside it."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from geomaestro.errors import SpecError
from geomaestro.select.gather.wishes import Wanted
from geomaestro.select.wishes import Columns, Counting, Ground, Reading, Running

select = App()

# --- diversity


@select.command
def diversity(
    data: Annotated[list[str], Parameter(negative="")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("diversity"),
    reading: Annotated[Reading | None, Parameter(name="*")] = None,
    counting: Annotated[Counting | None, Parameter(name="*")] = None,
    ground: Annotated[Ground | None, Parameter(name="*")] = None,
    columns: Annotated[Columns | None, Parameter(name="*")] = None,
    running: Annotated[Running | None, Parameter(name="*")] = None,
    model: str | None = None,
) -> None:
    """Measure how diverse datasets are: continents, biomes, land cover, seasons, pixel values, redundancy.

    The same command goes on where it was stopped.

    Args:
        data: built-in datasets, spec.yaml files, packed folders, or tables of places (Parquet, CSV).
        out: a folder for a table of samples per dataset, diversity.json and diversity.html.
        model: also embed the samples with this model (a folder, or owner/name), for `choose` and the effective rank.
    """
    from geomaestro.data.packing.jobs import Jobs
    from geomaestro.learn.log import counted
    from geomaestro.report.diversity_page import diversity_tables, write_page
    from geomaestro.select.asked import works
    from geomaestro.select.diversity import summarise
    from geomaestro.select.work import make_table

    reading, run = reading or Reading(), running or Running()
    jobs, summaries = Jobs.of(run.engine, run.workers, run.shard, run.scheduler), []
    asked = (counting or Counting(), ground or Ground(), columns or Columns())
    for work in works(data, reading, out, *asked):
        with counted(f"diversity {work.name}") as report:
            made = make_table(work, out, jobs=jobs, report=report, sea=asked[1].sea)
        if model is not None:
            embed_work(work, made, model, jobs)
        if made.table is None:
            print(f"{work.name}: {made.unfinished} pieces are left to other shares; the last to end writes the table")
        else:
            summaries.append(summarise(made.table, getattr(work, "shown", None)))
            say("table", made.table)
    if len(summaries) == len(data):
        show(diversity_tables(summaries))
        say("page", write_page(summaries, out / "diversity.html"))


def embed_work(work: Any, made: Any, model: str, jobs: Any) -> None:
    """Add the embeddings of a model to a table."""
    from geomaestro.errors import SpecError
    from geomaestro.learn.distributed import Ranks, choose_device
    from geomaestro.learn.embed import embed
    from geomaestro.learn.log import counted
    from geomaestro.models.hub import load
    from geomaestro.select.measure import ImagesWork
    from geomaestro.select.work import with_columns

    if not isinstance(work, ImagesWork):
        raise SpecError(f"{work.name}: a table of places has no images to embed; leave out --model")
    with counted(f"embed {work.name}") as report:
        ranks = Ranks(device=choose_device("auto"))
        pieces = embed(work, load(model), model, jobs=jobs, ranks=ranks, report=report)
    if made.table is not None and not pieces.missing(len(work.items)):
        with_columns(work, made.table, pieces, {"model": model})


# --- choose


@select.command
def choose(
    pools: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    budget: int,
    by: str,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("subset.parquet"),
    seed: int = 0,
    splits: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    apart_km: float = 10.0,
    clients: int | None = None,
) -> None:
    """Choose a part of a pool of samples, and show what it is beside the pool and beside chance.

    Args:
        pools: tables of samples, as `geomaestro diversity` writes them.
        budget: samples to choose.
        by: random, one-region:Europe, balanced:continent, or a mix of terms and weights to maximise, such as
            spectral_entropy=1,continent=0.5,embedding=1,redundancy=0.5; see docs/choose-data.md.
        out: the table of the chosen samples, with a page and its numbers beside it.
        seed: another seed draws other samples, and other ones of those worth the same.
        splits: choose from these only; all by default.
        apart_km: for the term `places`: side of the cells of which one sample is enough.
        clients: for the term `embedding`: samples that the choice is to stand for; 4 x budget by default, but at least
            2000 and at most 20000.
    """
    from geomaestro.learn.log import counted
    from geomaestro.report.choice_page import choice_tables, write_page
    from geomaestro.select.choose import Options, check_out, save
    from geomaestro.select.choose import choose as choose_samples
    from geomaestro.select.curve import summary

    check_out(pools, out)
    options = Options(seed=seed, splits=None if splits is None else tuple(splits), apart_km=apart_km, clients=clients)
    with counted("choose") as report:
        chosen = choose_samples(pools, budget, by, options, report=report)
    save(chosen, out)
    numbers = summary(chosen)
    show(choice_tables(numbers))
    say("subset", out)
    say("page", write_page(numbers, out.with_suffix(".html")))


# --- gather


@select.command
def gather(
    recipe: str | None = None,
    overrides: Annotated[list[str] | None, Parameter(negative="", show_default=False)] = None,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("store"),
    wanted: Annotated[Wanted | None, Parameter(name="*")] = None,
    running: Annotated[Running | None, Parameter(name="*")] = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Gather patches of a region from a STAC catalogue into a packed store; the same command goes on where it stopped.

    Args:
        recipe: a YAML file, such as recipes/gather/europe.yaml; see docs/choose-data.md. May be left out.
        overrides: settings to change, such as max_cloud_percent=10 dates.years=[2021].
        out: a new folder, or one that gathering was begun in.
        dry_run: draw places, tell how many a region holds and what they will take, and fetch nothing.
    """
    from geomaestro.data.packing.jobs import Jobs
    from geomaestro.learn.log import counted
    from geomaestro.select.gather.gathering import forecast
    from geomaestro.select.gather.gathering import gather as gather_set
    from geomaestro.select.gather.spec import load_gather

    how = running or Running()
    jobs = Jobs.of(how.engine, how.workers, how.shard, how.scheduler)
    spec = load_gather(recipe, tuple(overrides or ()), asdict(wanted or Wanted()))
    if dry_run:
        for line in forecast(spec, jobs).lines():
            print(line)
        return
    with counted(f"gather {spec.name}") as report:
        done = gather_set(spec, out, jobs=jobs, report=report)
    for line in done.lines():
        print(line)
    say("dataset", out)


# --- audit


@select.command
def audit(
    data: Annotated[list[str], Parameter(negative="")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("audit"),
    reading: Annotated[Reading | None, Parameter(name="*")] = None,
    test_splits: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    running: Annotated[Running | None, Parameter(name="*")] = None,
    model: str | None = None,
    recipe: Path | None = None,
) -> None:
    """Find what a test set shares with pretraining sets: ground, time and pictures; score a model without it.

    The same command goes on where it was stopped.

    Args:
        data: the pretraining sets and, last, the test set: datasets or tables of samples, as of `diversity`; --splits
            are those of the pretraining sets.
        out: a folder for the tables, audit.json and audit.html.
        test_splits: splits of the test set; all by default.
        model: also evaluate this model, with and without what leaked; by `recipe`.
        recipe: a recipe whose evaluation tests on the test set.
    """
    from geomaestro.data.packing.jobs import Jobs
    from geomaestro.learn.audited import score_by_leak
    from geomaestro.report.audit_page import audit_tables, write_audit
    from geomaestro.runs import make_folder
    from geomaestro.select.audited import audit_sets
    from geomaestro.select.table import write_table

    if (model is None) != (recipe is None):
        raise SpecError("--model and --recipe belong together: what is evaluated, and how")
    run, make_reading = running or Running(), reading or Reading()
    make_folder(out)
    jobs = Jobs.of(run.engine, run.workers, run.shard, run.scheduler)
    found = audit_sets(data, make_reading, tuple(test_splits or ()), out, jobs)
    write_table(out / "test.parquet", found.table(), {"audit": found.about()})
    rows = [] if model is None or recipe is None else score_by_leak(model, recipe, out)
    show(audit_tables(found, rows))
    say("test samples", out / "test.parquet")
    say("page", write_audit(found, rows, out))


# --- shared


def show(parts: Iterable[Any]) -> None:
    """Print tables and lines."""
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def say(what: str, path: Path) -> None:
    """Tell what was made, and where."""
    print(f"{what}: {path}")
