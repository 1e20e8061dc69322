"""Show what is in a dataset: one HTML page that loads nothing, from the numbers of `geomaestro data stats`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from geomaestro.report import figures
from geomaestro.report.figures import CYCLE, INK, MUTED, shorten, svg
from geomaestro.report.html import count
from geomaestro.report.page import render_page
from geomaestro.runs import write_atomically

MOST_CLASSES = 60  # assumed; more bars would not be looked at, and the table has the rest
DRAWN_AS_PIXELS = 2000  # assumed; points of a map above which they are one picture in the figure
MONTHS = "JFMAMJJASOND"
OWN = "between training samples"


def write_page(stats: Mapping[str, Any], out: Path) -> Path:
    """Write the page to `out`, and the numbers beside it as JSON.

    Raises:
        RunError: if a file can't be written.
    """
    write_atomically(out, render(stats).encode())
    write_atomically(out.with_suffix(".json"), (json.dumps(stats, indent=1) + "\n").encode())
    return out


def render(stats: Mapping[str, Any]) -> str:
    """Give the page; every text in it is escaped."""
    return render_page("dataset.html.j2", context(stats), {"count": count, "brief": brief, "percent": percent})


def context(stats: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the template shows."""
    colours = {split: CYCLE[nth % len(CYCLE)] for nth, split in enumerate(stats["splits"])}
    placed = {split: points for split, points in stats["places"].items() if points}
    dated = {
        name: each["dates"] for name, each in stats["sensors"].items() if each["dates"] and each["dates"]["images"]
    }
    leaks = stats["leakage"]
    return {
        "stats": stats,
        "total": sum(each["samples"] for each in stats["splits"].values()),
        "unreadable": sum(each["unreadable"] for each in stats["splits"].values()),
        "map": map_figure(placed, colours) if placed else None,
        "dates": dates_figure(dated) if dated else None,
        "bands": {
            name: bands_figure(nth, name, sensor["bands"])
            for nth, (name, sensor) in enumerate(stats["sensors"].items())
            if sensor["bands"] and sensor["bands"][0]["count"]
        },
        "scalings": {name: scaling_text(name, sensor) for name, sensor in stats["sensors"].items()},
        "classes": {
            name: classes_figure(nth, name, target, colours)
            for nth, (name, target) in enumerate(stats["targets"].items())
            if target.get("counts")
        },
        "distances": distance_figure(leaks, colours) if leaks and any(each["km"] for each in leaks["apart"]) else None,
    }


def scaling_text(name: str, sensor: Mapping[str, Any]) -> str | None:
    """The suggested scaling, to be pasted into a spec."""
    if sensor["scaling"] is None:
        return None
    lines = [f"sensors:\n  {name}:\n    scaling:"]
    lines += [f"      {key}: {yaml.safe_dump(value, default_flow_style=True, width=10**6).split(chr(10))[0]}"
              for key, value in sensor["scaling"].items()]  # fmt: skip
    return "\n".join(lines)


def brief(value: float | None) -> str:
    """Write a number in four significant digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}".replace(",", "\u202f") if abs(value) >= 10_000 else f"{value:.4g}"


def percent(share: float | None) -> str:
    """Write a share; what is above nothing never reads 0 %."""
    if share is None:
        return "–"
    return "< 0.1 %" if 0 < share < 0.001 else f"{share:.1%}".replace("%", " %") if share else "none"


def map_figure(places: Mapping[str, Sequence[Sequence[float]]], colours: Mapping[str, str]) -> str:
    """Draw where the samples lie, by split, on a graticule of degrees."""
    points = {split: np.asarray(each, float).reshape(-1, 2) for split, each in places.items()}
    every = np.concatenate(list(points.values()))
    (west, south), (east, north) = every.min(axis=0), every.max(axis=0)
    stretch = 1 / max(np.cos(np.radians(np.clip((south + north) / 2, -75, 75))), 0.2)
    pad = max(0.06 * max(east - west, (north - south) * stretch), 0.02)
    tall = max(0.0, 0.35 * (east - west + 2 * pad) / stretch - (north - south) - 2 * pad) / 2  # never a mere strip
    box = west - pad, east + pad, max(south - pad - tall, -90), min(north + pad + tall, 90)
    height = float(np.clip(8 * (box[3] - box[2]) * stretch / (box[1] - box[0]), 2.2, 5.5))

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        many = len(every) > DRAWN_AS_PIXELS
        for split, each in sorted(points.items(), key=lambda item: -len(item[1])):
            axes.scatter(each[:, 0], each[:, 1], s=6 if many else 16, lw=0, alpha=0.75, color=colours[split],
                         label=f"{split} ({count(len(each))})", rasterized=many)  # fmt: skip
        axes.set(xlim=box[:2], ylim=box[2:], aspect=stretch)
        axes.locator_params(nbins=8)
        axes.xaxis.set_major_formatter(lambda value, _: degrees(value, "EW"))
        axes.yaxis.set_major_formatter(lambda value, _: degrees(value, "NS"))
        axes.spines[["top", "right"]].set_visible(True)
        figure.legend(loc="outside right upper", markerscale=2.2 if many else 1.4)

    return svg("map", "Map of the samples by split", height, draw)


def degrees(value: float, letters: str) -> str:
    """Write a longitude or latitude."""
    shown = (value + 180) % 360 - 180 if letters == "EW" and abs(value) > 180 else value
    size = f"{abs(round(shown, 4)):g}°"
    return f"{size}\u2009{letters[int(shown < 0)]}" if shown else size


def dates_figure(dates: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw images by month, by year, and per sample: a row of panels for each sensor."""

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(dates), 3, squeeze=False, width_ratios=(3, 3, 3))
        for row, (name, each) in zip(panels, dates.items(), strict=True):
            _bars(row[0], list(MONTHS), each["per_month"])
            _bars(row[1], list(each["per_year"]), list(each["per_year"].values()))
            _histogram(row[2], each["samples_by_images"])
            row[0].set_ylabel(shorten(name, 18))
        for axes, title in zip(panels[0], ("images by month", "images by year", "samples by number of images"),
                               strict=True):  # fmt: skip
            axes.set_title(title)

    return svg("dates", "Images by month, by year and per sample", 0.6 + 1.25 * len(dates), draw)


def _bars(axes: Any, names: list[str], values: Sequence[float]) -> None:
    axes.bar(range(len(names)), values, 0.8, color=CYCLE[0])
    every = -(-len(names) // 12)
    axes.set_xticks(range(0, len(names), every), names[::every], fontsize=8)
    axes.set_xlim(-0.7, max(len(names), 6) - 0.3)
    _plain(axes)


def _histogram(axes: Any, counts: Mapping[str, int]) -> None:
    numbers = np.asarray([int(key) for key in counts])
    if len(numbers):
        span = int(numbers.max() - numbers.min()) + 1
        bins = min(span, 24)
        edges = numbers.min() - 0.5 + span / bins * np.arange(bins + 1)
        axes.hist(numbers, edges, weights=list(counts.values()), rwidth=0.85 if bins < 16 else 1, color=CYCLE[0])
        least = max(0, 6 - span) / 2
        axes.set_xlim(max(edges[0] - 0.2 - least, -0.7), edges[-1] + 0.2 + least)
    axes.locator_params(axis="x", nbins=6, integer=True, min_n_ticks=1)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.grid(axis="x", visible=False)
    axes.tick_params(labelsize=8, length=0)
    axes.locator_params(axis="y", nbins=3, integer=True, min_n_ticks=1)
    axes.yaxis.set_major_formatter(lambda value, _: figures.compact(round(value)))


def bands_figure(nth: int, name: str, bands: Sequence[Mapping[str, Any]]) -> str:
    """Draw, for each band, 2nd to 98th percentile as a bar, median, and mean with its deviation."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        low, middle, high = (np.array([band[key] for band in bands], float) for key in ("p2", "p50", "p98"))
        mean, std = (np.array([band[key] for band in bands], float) for key in ("mean", "std"))
        at = np.arange(len(bands))
        axes.bar(at, high - low, 0.5, low, color=CYCLE[5], alpha=0.55, lw=0, label="2 to 98 % of pixels")
        axes.hlines(middle, at - 0.25, at + 0.25, color=CYCLE[0], lw=2, label="median")
        axes.errorbar(at, mean, std, fmt="D", ms=3.5, lw=1.1, color=INK, label="mean ± deviation")
        axes.set_xticks(
            at,
            [shorten(str(band["band"]), 24 if len(bands) < 5 else 12) for band in bands],
            rotation=0 if len(bands) < 14 else 60,
        )
        axes.set(xlim=(-0.7, max(len(bands), 4) - 0.3), ylabel="stored number")
        axes.grid(axis="x", visible=False)
        axes.tick_params(axis="x", length=0)
        figure.legend(loc="outside right upper")

    return svg(f"bands-{nth}", f"Values of the bands of {name}", 2.6, draw)


def classes_figure(nth: int, name: str, target: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    """Draw the share of each class in each split; rare classes stay visible on a logarithmic scale."""
    shares = {split: np.asarray(each, float) / max(sum(each), 1) for split, each in target["counts"].items()}
    classes = target["classes"][:MOST_CLASSES]
    found = np.concatenate(list(shares.values()))
    found = found[found > 0]
    uneven = len(found) > 0 and found.max() > 50 * found.min()

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        thick = 0.8 / len(shares)
        for place, (split, share) in enumerate(shares.items()):
            shown = np.where(share > 0, share, np.nan)[: len(classes)]
            axes.barh(np.arange(len(classes)) + (place - (len(shares) - 1) / 2) * thick, 100 * shown, thick * 0.9,
                      color=colours[split], label=split)  # fmt: skip
        axes.set_yticks(range(len(classes)), [shorten(each, 40) for each in classes])
        axes.set(xlabel=f"% of the labelled {target['unit']} of a split", ylim=(len(classes) - 0.4, -0.6))
        if uneven:
            axes.set_xscale("log")
            figures.decades(axes)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside right upper")

    return svg(
        f"classes-{nth}", f"Share of each class of {name}", 0.9 + len(classes) * (0.1 + 0.09 * len(shares)), draw
    )


def distance_figure(leaks: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    """Draw the share of samples that have a training sample within a distance."""
    lines = {each["split"]: each["km"] for each in leaks["apart"] if each["km"]}

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        least = 1e-3  # a metre: nearer is the same place
        for split, km in lines.items():
            axes.step(np.maximum(km, least), range(len(km)), where="post", color=colours[split], lw=2,
                      label=f"from {split} to {leaks['training']}")  # fmt: skip
        if leaks["own_km"]:
            own = np.maximum(leaks["own_km"], least)
            axes.step(own, range(len(own)), where="post", color=MUTED, ls="--", label=OWN)
        axes.set(
            xscale="log", ylim=(0, 102), xlabel="distance to the nearest training sample (km)", ylabel="% of samples"
        )
        nearest = [km[1] for km in (*lines.values(), leaks["own_km"]) if km]
        axes.set_xlim(left=max(min(nearest) * 0.7, least))  # one near pair would squeeze all others
        figures.decades(axes)
        figure.legend(loc="outside right upper")

    return svg("distances", "Distance to the nearest training sample", 2.9, draw)
