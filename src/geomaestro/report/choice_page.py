"""Show what was chosen of a pool of samples: tables for the terminal, and one HTML page that loads nothing."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from geomaestro.report.dataset_page import brief, percent
from geomaestro.report.figures import CYCLE, MUTED, shorten, svg
from geomaestro.report.html import count
from geomaestro.report.maps import draw_points, draw_world
from geomaestro.report.page import render_page
from geomaestro.runs import write_atomically
from geomaestro.select.curve import REPEATED, WORTH

MOST_STRATA = 14  # assumed; rows of a table on the terminal
WIDE_DEG = 100.0  # a pool that is wider is shown on the whole world


def write_page(summary: Mapping[str, Any], out: Path) -> Path:
    """Write the page to `out`, and the numbers beside it as JSON.

    Raises:
        RunError: if a file can't be written.
    """
    write_atomically(out, render(summary).encode())
    write_atomically(out.with_suffix(".json"), (json.dumps(summary, indent=1) + "\n").encode())
    return out


def render(summary: Mapping[str, Any]) -> str:
    """Give the page; every text in it is escaped."""
    drawn = len(summary["budgets"]) > 1 and any(map(_is_drawn, summary["curves"].values()))
    context = {
        "summary": summary,
        "headline": headline(summary),
        "map": map_figure(summary["places"]) if summary["places"] else None,
        "curves": curves_figure(summary) if drawn else None,
    }
    return render_page(
        "choice.html.j2", context, {"count": count, "brief": brief, "percent": percent, "value": value_text}
    )


def headline(summary: Mapping[str, Any]) -> str:
    """Say how it was chosen, and what it is worth beside chance."""
    said = f"Chosen by {summary['by'].replace(',', ', ')}."
    for row in summary["rows"]:
        if row["name"].startswith("mean "):
            said += (
                f" {row['name'].replace('_', ' ').capitalize()} {value_text(row['chosen'], row['name'])}, of a random "
                f"choice {value_text(row['random']['mean'], row['name'])}."
            )
    return said


def value_text(value: float | None, name: str) -> str:
    """Write a measure's value."""
    return percent(value) if name == REPEATED else "–" if value is None else f"{value:.3f}"


def map_figure(places: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Draw those chosen over the pool."""
    pool, chosen = (np.asarray(places[name], float).reshape(-1, 2) for name in ("pool", "chosen"))
    every = np.concatenate([pool, chosen])
    (west, south), (east, north) = every.min(axis=0), every.max(axis=0)
    whole = max(east - west, 2 * (north - south)) > WIDE_DEG
    pad = 1.0 + 0.05 * max(east - west, north - south)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        draw_world(axes, south=min(-60.0, south - 1))
        if not whole:
            axes.set(xlim=(west - pad, east + pad), ylim=(south - pad, north + pad))
        sizes = (3, 7) if len(chosen) > 500 else (5, 14)
        draw_points(axes, pool[:, 0], pool[:, 1], colour=MUTED, size=sizes[0], label="pool")
        draw_points(axes, chosen[:, 0], chosen[:, 1], colour=CYCLE[1], size=sizes[1], label="chosen")
        figure.legend(loc="outside lower center", ncols=2, markerscale=2)

    return svg("map", "Map of the samples chosen over the pool", 4.1 if whole else 5.0, draw)


def curves_figure(summary: Mapping[str, Any]) -> str:
    """Draw each measure against the budget, with the range of random choices."""
    budgets, curves = summary["budgets"], {name: x for name, x in summary["curves"].items() if _is_drawn(x)}
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)

    def draw(figure: Any) -> None:
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (name, curve) in zip(panels[: len(curves)], curves.items(), strict=True):
            drawn = {key: np.array(each, float) for key, each in curve["random"].items()}
            axes.fill_between(budgets, drawn["low"], drawn["high"], color=MUTED, alpha=0.25, lw=0)
            axes.plot(budgets, drawn["mean"], color=MUTED, label="random (mean and range)")
            axes.plot(budgets, np.array(curve["chosen"], float), color=CYCLE[1], lw=2, label="chosen")
            pool = next(row["pool"] for row in summary["rows"] if row["name"] == name)
            if pool is not None:
                axes.axhline(pool, color=MUTED, lw=0.8, ls=":", label="whole pool")
            axes.set(xscale="linear" if name == WORTH else "log", title=shorten(name, 34))
            axes.xaxis.set_major_formatter(lambda value, _: count(value))
            axes.xaxis.set_minor_formatter(lambda value, _: "")
            axes.locator_params(axis="y", nbins=4)
            if name == REPEATED:
                axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        for axes in panels[len(curves) :]:
            axes.set_visible(False)
        handles = {label: handle for axes in figure.axes
                   for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
        figure.supxlabel("budget (samples)", fontsize=9, color=MUTED)
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=3)

    return svg("curves", "Measures of diversity against the budget", 0.9 + 1.9 * rows, draw)


def _is_drawn(curve: Mapping[str, Any]) -> bool:
    """Whether any value is known, at any budget."""
    return any(value is not None for value in (*curve["chosen"], *curve["random"]["mean"]))


def choice_tables(summary: Mapping[str, Any]) -> Iterator[Table | str]:
    """Tables and lines, as rich prints them."""
    yield f"{count(summary['budget'])} of {count(summary['candidates'])} samples, by {escape(summary['by'])}"
    yield from (f"[yellow]note[/yellow] {escape(note)}" for note in (*summary["pool"]["left_out"], *summary["notes"]))
    table = _table("", "pool", "random", "chosen")
    for row in summary["rows"]:
        name = row["name"]
        table.add_row(
            escape(name),
            value_text(row["pool"], name),
            value_text(row["random"]["mean"], name),
            value_text(row["chosen"], name),
        )
    yield table
    for column, strata in summary["strata"].items():
        table = _table(column, "pool", "chosen", "of the stratum")
        for each in strata[:MOST_STRATA]:
            part = percent(each["chosen"] / each["pool"])
            table.add_row(escape(each["name"]), count(each["pool"]), count(each["chosen"]), part)
        yield table
        if len(strata) > MOST_STRATA:
            yield f"... and {len(strata) - MOST_STRATA} more, all on the page"
    yield escape(summary["guarantee"])


def _table(*heads: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for nth, head in enumerate(heads):
        table.add_column(escape(head), justify="right" if nth else "left")
    return table
