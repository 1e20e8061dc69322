"""What a check and the numbers of a dataset say, for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from geomaestro.data.quality.checking import CheckResult
from geomaestro.data.quality.leakage import Leakage
from geomaestro.report.dataset_page import brief, percent
from geomaestro.report.html import count

MOST_TOLD = 5  # bad samples that are named one by one


def check_tables(result: CheckResult) -> Iterator[Table | str]:
    """A table and lines, as rich prints them."""
    table = _table("", "samples", right=1)
    table.add_row("read", count(result.read))
    for kind, number in result.kinds.items():
        table.add_row(f"[red]{kind}[/red]", count(number))
    table.add_row("usable", count(result.read - len(result.bad)))
    yield table
    for record in result.bad[:MOST_TOLD]:
        yield f"[red]bad[/red]     {escape(record.id)}: {escape(record.reason)}"
    if len(result.bad) > MOST_TOLD:
        yield f"        ... and {len(result.bad) - MOST_TOLD} more, all in {escape(str(result.out))}"
    for finding in result.findings:
        word = "[red]wrong[/red]  " if finding.certain else "[yellow]improbable[/yellow]"
        yield f"{word} {escape(finding.message)}"
    for name, (even, images) in result.even.items():
        yield f"[yellow]note[/yellow]    sensor {name!r}: {even} of {images} images hold a single value in each band"
    yield from _leaks(result.leakage)
    if result.ok:
        doubt = "nothing certain speaks against the spec" if result.findings else "no pixel contradicts the spec"
        yield f"[green]all samples can be used, and {doubt}[/green]"


def _leaks(leaks: Leakage | None) -> Iterator[str]:
    if leaks is not None:
        for said in leaks.verdicts:
            word = "[red]leak[/red]   " if "MIXED" in said or "of another split" in said else "[dim]splits[/dim] "
            yield f"{word} {escape(said)}"


def stats_tables(stats: Mapping[str, Any]) -> Iterator[Table | str]:
    """Tables and lines, as rich prints them."""
    table = _table("split", "samples", "unreadable", "with place", right=3)
    for split, each in stats["splits"].items():
        table.add_row(split, *(count(each[key]) for key in ("samples", "unreadable", "placed")))
    yield table
    table = _table("sensor", "band", "mean", "std", "min", "2 %", "median", "98 %", "max", right=7)
    for name, sensor in stats["sensors"].items():
        for nth, band in enumerate(sensor["bands"]):
            values = (brief(band[key]) for key in ("mean", "std", "min", "p2", "p50", "p98", "max"))
            table.add_row("" if nth else name, band["band"], *values)
        table.add_section()
    yield table
    yield _sensors(stats)
    for name, target in stats["targets"].items():
        if target.get("counts"):
            yield _classes(name, target)
    if stats["leakage"] is not None:
        yield escape(stats["leakage"]["headline"])
        yield from (f"  {escape(said)}" for said in stats["leakage"]["verdicts"])


def _sensors(stats: Mapping[str, Any]) -> Table:
    table = _table("sensor", "samples", "without", "size", "not measured", "cloudy", "images per sample", right=6)
    for name, each in stats["sensors"].items():
        size = each["sizes"][0] if each["sizes"] else None
        dates = each["dates"] and each["dates"]["per_sample"]
        many = "1" if not dates else f"{dates['least']}"
        if dates and dates["most"] > dates["least"]:
            many += f" to {dates['most']}, median {dates['median']:g}"
        table.add_row(
            name,
            count(each["samples"]),
            count(each["absent"]),
            "–" if size is None else f"{size['height']} x {size['width']}" + (" ..." if len(each["sizes"]) > 1 else ""),
            percent(each["unknown_share"]),
            percent(each["cloudy_share"]),
            many,
        )
    return table


def _classes(name: str, target: Mapping[str, Any]) -> Table:
    table = _table(f"{name} ({target['unit']})", *target["counts"], right=len(target["counts"]))
    for nth, label in enumerate(target["classes"]):
        table.add_row(label, *(count(each[nth]) for each in target["counts"].values()))
    return table


def _table(*heads: str, right: int) -> Table:
    """A table whose last columns stand to the right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for nth, head in enumerate(heads):
        table.add_column(escape(head), justify="right" if nth >= len(heads) - right else "left")
    return table
