"""The summary of what was found, as tables for a terminal."""

import io

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from geomaestro.data.init.draft import Draft
from geomaestro.data.init.notes import clean

SHOWN = 10
WIDTH = 118


def summary(draft: Draft) -> str:
    """Samples, sensors, alignment, targets, what was left out and why."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    survey = draft.survey
    splits = ", ".join(draft.splits.values()) or "none"
    console.print(
        escape(f"{draft.name}: {draft.samples:,} samples in {len(survey.files):,} files; splits: {splits}"),
        highlight=False,
    )
    console.print(_sensors(draft))
    if draft.plan is not None and len(draft.plan.table) > 1:
        console.print(_alignment(draft))
    if draft.labels:
        console.print(escape("targets: " + ", ".join(f"{name} ({kind})" for name, kind in draft.labels.items())))
    for text in [*survey.cut, *draft.notes[:SHOWN]]:
        console.print(escape(clean(f"- {text}")), highlight=False)
    for text in draft.warnings[:SHOWN]:
        console.print(escape(clean(f"WARNING: {text}")), highlight=False)
    if survey.left_out:
        console.print(_left_out(draft))
    out = console.file
    assert isinstance(out, io.StringIO), "made above"
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="", title_style="")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _sensors(draft: Draft) -> Table:
    table = _table("", "sensor", "bands", "unit", "pixels", "metres", "dates", "absent in")
    for known in draft.sensors:
        bands = ", ".join(known.guess.bands)
        todo = " (TODO)" if known.guess.todo or known.stream.todo else ""
        sizes = f"{known.stream.size[0]} x {known.stream.size[1]}" + (
            " and others" if len(known.stream.sizes) > 1 else ""
        )
        table.add_row(
            escape(known.stream.name + todo),
            escape(clean(bands)),
            known.guess.unit,
            sizes,
            f"{known.gsd_m:.4g}",
            str(known.stream.number_of_dates) if known.stream.dates or known.stream.number_of_dates > 1 else "-",
            f"{known.missing:,} of {known.samples:,}" if known.missing else "-",
        )
    return table


def _alignment(draft: Draft) -> Table:
    table = _table("alignment plan", "sensor", "own grid", "the model gets", "resampling")
    assert draft.plan is not None, "the caller looks"
    for row in draft.plan.table:
        table.add_row(*(escape(clean(cell)) for cell in row))
    return table


def _left_out(draft: Draft) -> Table:
    table = _table("left out", "files", "the first", "why")
    for reason, names in list(draft.survey.left_out.items())[: 2 * SHOWN]:
        table.add_row(f"{len(names):,}", escape(clean(names[0])), escape(clean(reason)))
    return table
