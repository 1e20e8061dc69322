"""Show how diverse datasets are: tables for the terminal, and one HTML page that loads nothing.

Axes: n place.
"""

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

KINDS = {"continent": "Continents", "biome": "Biomes", "land_cover": "Land cover", "season": "Seasons"}
MOST_CLASSES = 24  # assumed; bars that would still be looked at
PUBLISHED = (1.6, 3.2)  # means of ten datasets, arXiv 2604.21104
WORDS = {"land_cover": "land cover"}
PALETTE = (*CYCLE, "#f0e442", MUTED)  # the yellow of Okabe & Ito
MOST_NAMED = 3  # assumed; datasets that a heading names
Summary = Mapping[str, Any]


def write_page(summaries: Sequence[Summary], out: Path) -> Path:
    """Write the page to `out`, and the numbers beside it as JSON.

    Raises:
        RunError: if a file can't be written.
    """
    write_atomically(out, render(summaries).encode())
    write_atomically(out.with_suffix(".json"), (json.dumps(list(summaries), indent=1) + "\n").encode())
    return out


def render(summaries: Sequence[Summary]) -> str:
    """Give the page; every text in it is escaped."""
    return render_page(
        "diversity.html.j2", context(summaries), {"count": count, "brief": brief, "percent": percent, "nats": nats}
    )


def context(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Give what the template shows."""
    colours = {each["name"]: PALETTE[nth % len(PALETTE)] for nth, each in enumerate(summaries)}
    measured = [each for each in summaries if each["spectral_entropy"]]
    return {
        "summaries": summaries,
        "title": title(summaries),
        "unlike": unlike(summaries),
        "kinds": KINDS,
        "map": map_figure(summaries, colours) if any(each["places"] for each in summaries) else None,
        "bars": {
            kind: shares_figure(kind, [each for each in summaries if each[kind]], colours)
            for kind in KINDS
            if any(each[kind] for each in summaries)
        },
        "spectral": spectral_figure(measured, colours) if measured else None,
        "methods": {each["name"]: method(each) for each in measured},
        "notes": {each["name"]: list(notes(each)) for each in summaries},
    }


def title(summaries: Sequence[Summary]) -> str:
    """Name the datasets, or count them where they are many."""
    names = [each["name"] for each in summaries]
    return ", ".join(names) if len(names) <= MOST_NAMED else f"{len(names)} datasets"


def unlike(summaries: Sequence[Summary]) -> str | None:
    """Warn where spectral entropies that stand beside each other were measured in different ways."""
    found = {
        json.dumps(each["about"].get("options", {}).get("spectral"), sort_keys=True): each["name"]
        for each in summaries
        if each["spectral_entropy"]
    }
    if len(found) < 2:
        return None
    names = " and ".join(list(found.values())[:2])
    return f"the spectral entropies of {names} were measured in different ways and can't be compared; see Method"


def nats(value: float | None) -> str:
    """Write an entropy."""
    return "–" if value is None else f"{value:.3f}"


def method(summary: Summary) -> str:
    """Say in a sentence how spectral entropy was measured."""
    about = summary["about"]
    if "options" not in about:
        return "as measured before: the table does not say how"
    how = about["options"]["spectral"]
    if how["range"] == "normalised":
        span = "8-bit values, from two deviations below a band's mean to two above"
    elif how["range"] == "image":
        span = "the range of each image and band" + (f" without {how['trim']:g} % at either end" if how["trim"] else "")
    else:
        span = f"{how['range'][0]:g} to {how['range'][1]:g} in the sensor's unit"
    counted = "combinations of bands" if how["joint"] else "each band, then the mean over bands"
    dates = "the pixels of all dates together" if how["dates"] == "pooled" else "the mean over dates"
    unit = "nats" if how["base"] == "e" else f"logarithm to base {how['base']:g}"
    bands = f"sensor {about['sensor']}, bands {', '.join(about['bands'])}"
    return f"{bands}; {how['bins']} bins over {span}; {counted}; {dates}; {unit}"


def notes(summary: Summary) -> Iterator[str]:
    """Give what a reader must know of the numbers: what they leave out."""
    samples, entropy, redundancy = summary["samples"], summary["spectral_entropy"], summary["redundancy"]
    if summary["unreadable"]:
        yield f"{some(summary['unreadable'])} can't be read, listed in {summary['name']}-unreadable.jsonl"
    if summary["about"].get("columns", {}).get("id") == "":
        yield "no column names each row once, so the ids are the numbers of rows"
    if samples > summary["placed"]:
        yield f"{some(samples - summary['placed'])} of {count(samples)} without a place: no continent, biome, season"
    if summary["at_sea"]:
        yield f"{some(summary['at_sea'])} at sea, on no continent"
    if entropy and entropy["unknown"]:
        yield f"{some(entropy['unknown'])} with too few valid pixels for a spectral entropy"
    if entropy is None and "options" in summary["about"]:
        least = summary["about"]["options"]["spectral"]["least_pixels"]
        yield (
            f"no image has {least} valid pixels, so there is no spectral entropy; of series of single pixels take "
            "--pooled --least-pixels 12, or another number that they have"
        )
    for kind in ("biome", "land_cover"):
        if summary[kind] and summary[kind]["unknown"]:
            yield f"{some(summary[kind]['unknown'])} without {WORDS.get(kind, kind)}"
    if redundancy and not redundancy["certain"]:
        done = f"{count(redundancy['compared_pairs'])} of {count(redundancy['near_pairs'])} pairs"
        yield f"the share of near-duplicates is an estimate: by pixels {done} were compared"


def some(number: int) -> str:
    """Count samples."""
    return f"{count(number)} sample{'s' * (number != 1)}"


def map_figure(summaries: Sequence[Summary], colours: Mapping[str, str]) -> str:
    """Draw where the samples of each dataset lie."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        every = np.concatenate([np.asarray(each["places"], float).reshape(-1, 2) for each in summaries])
        draw_world(axes, south=min(-60.0, float(every[:, 1].min()) - 2))
        for each in sorted(summaries, key=lambda each: -len(each["places"])):
            places = np.asarray(each["places"], float).reshape(-1, 2)
            if len(places):
                draw_points(axes, places[:, 0], places[:, 1], colour=colours[each["name"]],
                            size=4 if len(places) > 500 else 14, label=shorten(each["name"]))  # fmt: skip
        figure.legend(loc="outside lower center", ncols=4, markerscale=2)

    return svg("map", "Map of the samples by dataset", 4.4, draw)


def shares_figure(kind: str, summaries: Sequence[Summary], colours: Mapping[str, str]) -> str:
    """Draw the share of each class in each dataset."""
    totals: dict[str, float] = {}
    for each in summaries:
        for name, number in each[kind]["counts"].items():
            totals[name] = totals.get(name, 0.0) + number / each[kind]["known"]
    ordered = kind in ("continent", "season")
    names = (
        (list(totals) if kind == "season" else sorted(totals)) if ordered else sorted(totals, key=lambda n: -totals[n])
    )
    names = names[:MOST_CLASSES]
    thick = 0.8 / len(summaries)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for nth, each in enumerate(summaries):
            share = [100 * each[kind]["counts"].get(name, 0) / each[kind]["known"] for name in names]
            at = np.arange(len(names)) + (nth - (len(summaries) - 1) / 2) * thick
            axes.barh(at, share, thick * 0.9, color=colours[each["name"]], label=shorten(each["name"]))
        axes.set_yticks(range(len(names)), [shorten(name, 40) for name in names])
        axes.set(xlabel="% of the samples whose class is known", ylim=(len(names) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        if len(summaries) > 1:
            figure.legend(loc="outside right upper")

    return svg(
        f"shares-{kind}", f"Shares of {KINDS[kind].lower()}", 0.8 + len(names) * (0.14 + 0.1 * len(summaries)), draw
    )


def spectral_figure(summaries: Sequence[Summary], colours: Mapping[str, str]) -> str:
    """Draw the distribution of spectral entropies of each dataset, its mean as a line; published means as a band."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.axvspan(*PUBLISHED, color=MUTED, alpha=0.13, lw=0, label="published means")
        for each in summaries:
            entropy = each["spectral_entropy"]
            counts = np.asarray(entropy["histogram"]["counts"], float)
            colour = colours[each["name"]]
            axes.stairs(100 * counts / counts.sum(), entropy["histogram"]["edges"], color=colour, lw=1.4,
                        label=f"{shorten(each['name'])} ({count(entropy['known'])})")  # fmt: skip
            axes.axvline(entropy["mean"], color=colour, lw=1.2, ls="--")
        axes.set(xlabel="spectral entropy of a sample", ylabel="% of samples")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside right upper")

    return svg("spectral", "Distribution of spectral entropy", 3.2, draw)


def diversity_tables(summaries: Sequence[Summary]) -> Iterator[Table | str]:
    """Tables and lines, as rich prints them."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    embedded = any(each["embeddings"] for each in summaries)
    table.add_column("dataset", overflow="fold")
    heads = ("samples", "continent", "biome", "cover", "season", "spectral", "twins")
    for head in (*heads, *(["rank"] if embedded else [])):
        table.add_column(head, justify="right", no_wrap=True)
    for each in summaries:
        classes = [nats(each[kind]["entropy"]) if each[kind] else "–" for kind in KINDS]
        twins = percent((each["redundancy"] or {}).get("share"))
        values = [*classes, nats((each["spectral_entropy"] or {}).get("mean")), twins]
        rank = [_rank(each["embeddings"])] if embedded else []
        table.add_row(escape(each["name"]), count(each["samples"]), *values, *rank)
    yield table
    yield "[dim]Shannon entropies in nats; spectral: mean of the samples; twins: share of near-duplicates[/dim]"
    for each in summaries:
        yield from (f"[yellow]note[/yellow] {escape(each['name'])}: {escape(said)}" for said in notes(each))
    if (warning := unlike(summaries)) is not None:
        yield f"[yellow]note[/yellow] {escape(warning)}"


def _rank(found: Mapping[str, Any] | None) -> str:
    return "–" if found is None else f"{found['effective_rank']:.1f}"
