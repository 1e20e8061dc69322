"""Write the report of a run: one HTML file that loads nothing, from result files alone.

Axes: k samples, t dates, c bands, h rows, w columns of pixels.
"""

import zipfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from geomaestro.errors import RunError
from geomaestro.report import figures, summary
from geomaestro.report.summary import Row, Run, is_number, number
from geomaestro.runs import write_atomically

RGB_NAMES = (("r", "g", "b"), ("red", "green", "blue"), ("b04", "b03", "b02"), ("b4", "b3", "b2"))
MOST_SAMPLES, MOST_STRIPS, MOST_DATES, MOST_BANDS = 6, 2, 8, 5  # assumed; more would not be looked at
MOST_CLASSES, MOST_ROWS = 60, 500  # assumed; tables and result files have the rest
PICTURE_KEYS = ("input", "hidden", "rebuilt", "valid", "dates", "bands", "ids")
MOST_PIXELS = 192  # assumed; the side of a tile, in pixels; larger images are averaged
HIDDEN_GREY = 0.55
GREYS = {"true": "True", "seen": "Seen by the encoder", "rebuilt": "Rebuilt", "difference": "Difference"}


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of the run folder to `out` (default: report.html in it), whole or not at all; give its path.

    Raises:
        RunError: if the run folder is missing or malformed, or the report can't be written.
    """
    run = Path(run)
    out = Path(out) if out else run / "report.html"
    write_atomically(out, render(summary.read_run(run)).encode())
    return out


def render(run: Run) -> str:
    """Give the page; every text in it is escaped."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "signed": summary.signed,
        "duration": duration,
        "count": count,
        "svg": Markup,
    }
    template = resources.files("geomaestro.report").joinpath("template.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(context(run))


def context(run: Run) -> dict[str, Any]:
    """Give what the template shows."""
    tasks, result = task_sections(run.scores or []), run.result
    empty: dict[str, Any] = {"dataset": {}, "model": {}, "environment": {}, "timings": []}
    filled = empty | {key: value for key, value in result.items() if value is not None}
    return {
        "run": run,
        "result": filled,
        "name": f"{filled['dataset'].get('name', 'unnamed dataset')}",
        "headline": headline(run, tasks),
        "curves": curve_section(run),
        "sensors": [sensor_section(nth, *each) for nth, each in enumerate(read_pictures(run.folder).items())],
        "tasks": tasks,
        "timing_svg": timing_svg(filled["timings"]),
    }


def headline(run: Run, tasks: Sequence[Row]) -> str:
    """Say the main result in a sentence or two: that of the first task, else that of pretraining."""
    if tasks:
        name, said = tasks[0]["name"], tasks[0]["conclusion"]
        return f"{name[:1].upper()}{name[1:]}: {said[:1].lower()}{said[1:]}"
    losses = [row["loss"] for row in next(iter(run.metrics.values()), []) if is_number(row["loss"])]
    if not losses:
        return "Nothing was pretrained and nothing was scored."
    return f"Pretraining brought the loss from {number(losses[0])} to {number(losses[-1])}; no model was scored."


def curve_section(run: Run) -> Row | None:
    """Give the figures and end values of pretraining, or None without any."""
    if not run.metrics:
        return None
    ends = [{"seed": seed, "row": rows[-1]} for seed, rows in run.metrics.items()]
    return {
        "loss": figures.loss_figure(run.metrics),
        "signs": figures.signs_figure(run.metrics),
        "schedule": figures.schedule_figure(run.metrics),
        "ends": ends,
    }


def timing_svg(timings: Sequence[Row]) -> str | None:
    """Give the figure of the stages, or None without any."""
    speed = [f" · {number(each['samples_per_s'])} samples/s" if each.get("samples_per_s") else "" for each in timings]
    written = [duration(each["elapsed_s"]) + text for each, text in zip(timings, speed, strict=True)]
    return figures.timing_figure(timings, written) if timings else None


def task_sections(rows: Sequence[Row]) -> list[Row]:
    """Give a section per task and metric: figure, tables, conclusion, and detail of classes where there are any."""
    means, pairs, found = summary.summarise(rows), summary.paired(rows), []
    for nth, (task, metric) in enumerate(dict.fromkeys((row["task"], row["metric"]) for row in rows)):
        here, mean, pair = (
            [r for r in table if (r["task"], r["metric"]) == (task, metric)] for table in (rows, means, pairs)
        )
        several = len({row["metric"] for row in rows if row["task"] == task}) > 1
        found.append({
            "id": f"task-{nth + 1}", "name": f"{task}, {metric}" if several else task, "metric": metric,
            "rows": here[:MOST_ROWS], "n_rows": len(here), "pairs": pair, "conclusion": summary.conclude(pair),
            "svg": figures.score_figure(f"score-{nth}", here, mean) if mean else None, "table": score_table(mean),
        } | class_detail(nth, here))  # fmt: skip
    return found


def score_table(means: Sequence[Row]) -> Row:
    """Give the means as a table: a row per protocol and model, a column per labels."""
    labels = list(dict.fromkeys(row["labels"] for row in sorted(means, key=lambda row: row["labels_order"])))
    lines: dict[str, dict[str, Row]] = {}
    for row in sorted(means, key=summary.protocol_order):
        lines.setdefault(figures.protocol_name(row), {})[row["labels"]] = row
    return {"labels": labels, "lines": lines}


def class_detail(nth: int, rows: Sequence[Row]) -> Row:
    """Give confusion matrices and F1 at the most labels at which fine-tuning was scored; first draw and seed."""
    chosen: dict[str, list[Row]] = {}
    tuned = [row for row in rows if row["protocol"] == summary.FINE_TUNE and row["model"] == "pretrained"]
    most = max((row["labels_order"] for row in tuned), default=None)
    for protocol in (summary.FINE_TUNE, *summary.BASELINES):
        same = [row for row in (tuned if protocol == summary.FINE_TUNE else rows) if row["protocol"] == protocol]
        chosen[protocol] = sorted((r for r in same if r["labels_order"] == most),
                                  key=lambda r: (r["draw"], r["pretraining_seed"] or 0))  # fmt: skip
    first = {name: chosen[name][0] for name in (summary.FINE_TUNE, "random forest") if chosen[name]}
    matrices = {
        name: (row["classes"], np.array(row["confusion"])) for name, row in first.items() if row.get("confusion")
    }
    bars = {name: mean_f1(each) for name, each in chosen.items() if mean_f1(each)}
    classes = list(next(iter(bars.values()), {}))
    return {
        "detail_labels": tuned and next(row["labels"] for row in tuned if row["labels_order"] == most),
        "confusion": figures.confusion_figure(f"confusion-{nth}", matrices) if matrices else None,
        "f1": figures.f1_figure(f"f1-{nth}", classes[:MOST_CLASSES], bars) if bars else None,
        "classes": classes, "bars": bars, "most_classes": MOST_CLASSES,
    }  # fmt: skip


def mean_f1(rows: Sequence[Row]) -> dict[str, float]:
    """Give the mean F1 of each class over rows; a class absent from every row is absent."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, f1 in (row.get("per_class") or {}).items():
            values.setdefault(name, []).append(f1 if is_number(f1) else np.nan)
    return {name: float(np.mean(each)) for name, each in values.items()}


def read_pictures(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read the stored reconstructions by sensor, nothing where there are none; raise RunError where they are broken."""
    path = folder / "pretrain/seed0/reconstructions.npz"
    pictures: dict[str, dict[str, np.ndarray]] = {}
    if not path.is_file():
        return pictures
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for name in arrays.files:
                sensor, _, part = name.rpartition("/")
                pictures.setdefault(sensor, {})[part] = arrays[name]
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path}: not an archive of plain arrays ({error})") from error
    for sensor, parts in pictures.items():
        summary.need(f"{path}: sensor {sensor!r}", parts, PICTURE_KEYS)
        shape, others = parts["input"].shape, [parts["hidden"].shape, parts["valid"].shape]
        if len(shape) not in (4, 5) or others != [shape[:-3] + shape[-2:]] * 2:
            raise RunError(f"{path}: sensor {sensor!r}: {shape} must be (k c h w) or (k t c h w); hidden, valid lack c")
    return pictures


def sensor_section(nth: int, name: str, parts: dict[str, np.ndarray]) -> Row:
    """Give what was hidden from and rebuilt for a sensor: a figure for pixel series, else tables of tiles."""
    section: Row = {"id": f"rebuilt-{nth}", "name": name, "svg": None, "tables": [], "n": len(parts["input"])}
    samples = range(min(len(parts["input"]), MOST_SAMPLES))
    hidden = float(np.mean(parts["hidden"][parts["valid"]])) if parts["valid"].any() else 0.0
    section |= {"shown": len(samples), "hidden": hidden, "gaps": not parts["valid"].all()}
    if parts["input"].shape[-2:] == (1, 1):
        count = len(parts["bands"])
        bands = spread(count, MOST_BANDS)
        timed = parts if parts["input"].ndim == 5 else parts | {k: parts[k][:, None] for k in ("input", "rebuilt")}
        drawn = figures.series_figure(name, timed, samples, bands) if samples and bands else None
        return section | {"svg": drawn, "caption": f"{len(bands)} of {count} bands. " if len(bands) < count else ""}
    section["caption"] = band_colours(parts["bands"].tolist())[1]
    if parts["input"].ndim == 4:
        lines = [(label(parts, k), tiles(parts, (k,))) for k in samples]
        return section | {"tables": [table("", list(GREYS.values()), lines)] if lines else []}
    strips = [film_strip(parts, k) for k in samples[:MOST_STRIPS]]
    return section | {"tables": strips, "shown": len(strips)}


def spread(count: int, most: int) -> list[int]:
    """Give at most `most` indices of `count` things, evenly spread, the first and the last among them."""
    return sorted({int(each) for each in np.linspace(0, count - 1, min(count, most))})


def film_strip(parts: dict[str, np.ndarray], k: int) -> Row:
    """Give a table for a sample: a column per date, a row per kind of tile."""
    count = parts["input"].shape[1]
    dates = spread(count, MOST_DATES)
    columns = [tiles(parts, (k, t)) for t in dates]
    lines = [(kind, [column[nth] for column in columns]) for nth, kind in enumerate(GREYS.values())]
    note = f" ({len(dates)} of {count} dates)" if len(dates) < count else ""
    return table(f"{parts['ids'][k]}{note}", [date_text(parts["dates"][k, t]) for t in dates], lines)


def table(title: str, heads: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> Row:
    """Name the parts of a table of tiles."""
    return {"title": title, "heads": heads, "lines": lines}


def label(parts: dict[str, np.ndarray], k: int) -> str:
    """Name a sample by its id and date."""
    return f"{parts['ids'][k]} · {date_text(parts['dates'][k].reshape(-1, 3)[0])}"


def date_text(date: np.ndarray) -> str:
    """Write a date, with its hour where it is known."""
    day = figures.day_of(date)
    return "no date" if np.isnat(day) else f"{day} {int(date[2]):02d} h"


def band_colours(bands: Sequence[str]) -> tuple[list[int], str]:
    """Give the three bands that are shown as red, green and blue (-1: the first minus the second), and say so."""
    names = [str(band).lower() for band in bands]
    for wanted in RGB_NAMES:
        if all(band in names for band in wanted):
            return [names.index(band) for band in wanted], "True colour"
    if names[:2] == ["vv", "vh"]:
        return [0, 1, -1], "False colour: VV, VH and VV − VH (a ratio where the unit is dB) as red, green and blue"
    if len(names) == 1:
        return [0, 0, 0], f"{bands[0]} in grey"
    picked = [0, 1, 2] if len(names) > 2 else [0, 1, 0]
    return picked, f"False colour: {', '.join(str(bands[i]) for i in picked)} as red, green and blue"


def tiles(parts: dict[str, np.ndarray], at: tuple[int, ...]) -> list[str]:
    """Give the tiles true, seen, rebuilt and difference of the image at (k,) or (k, t), as data URIs.

    All share one stretch per band: the 2nd to 98th percentile of true and rebuilt. Pixels that were not measured are
    transparent, and so is the difference where the encoder saw the pixel.
    """
    pixels, hidden = parts["input"][at], parts["hidden"][at]
    rebuilt = np.where(hidden, parts["rebuilt"][at], pixels)
    valid = parts["valid"][at] & np.isfinite(pixels).all(axis=0) & np.isfinite(rebuilt).all(axis=0)
    picked, _ = band_colours(parts["bands"].tolist())
    shown = [np.stack([x[0] - x[1] if i < 0 else x[i] for i in picked], axis=-1) for x in (pixels, rebuilt)]
    if valid.any():
        low, high = np.percentile(np.concatenate([x[valid] for x in shown]), (2, 98), axis=0)
        shown = [(x - low) / np.maximum(high - low, 1e-9) for x in shown]
    true, again = shown
    difference = np.abs(rebuilt - pixels).mean(axis=0)
    seen = np.where(hidden[..., None], HIDDEN_GREY, true)
    images = [(true, valid), (seen, valid), (again, valid), (heat(difference, hidden & valid), hidden & valid)]
    return [png(colour, opaque) for colour, opaque in images]


def heat(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Colour values from 0 to the 98th percentile of those in `where`."""
    from matplotlib import colormaps

    top = np.percentile(values[where], 98) if where.any() else 1.0
    return np.asarray(colormaps["viridis"](np.nan_to_num(values) / max(top, 1e-9)))[..., :3]


def png(colour: np.ndarray, opaque: np.ndarray) -> str:
    """Give a data URI of colours (h w 3) in [0, 1], transparent where not opaque, at most MOST_PIXELS a side."""
    return figures.data_uri(np.dstack([np.nan_to_num(np.clip(colour, 0, 1)), opaque]), MOST_PIXELS)


def duration(seconds: float | None) -> str:
    """Write a time in its two largest units."""
    if not is_number(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def count(value: float | None) -> str:
    """Write a count with thin spaces between thousands."""
    return f"{value:,.0f}".replace(",", "\u202f") if is_number(value) else "–"
