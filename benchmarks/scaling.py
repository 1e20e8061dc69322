"""Time per step against batch and number of dates, beside what counted operations predict.

    python -m benchmarks scaling [--shapes pastis_hd] [--sizes tiny] [--phases infer] [--batch 1,2,4] [--dates 4,8,16]

The prediction is a step's counted operations over the machine's measured rate of products: the least time it can take.
`law` says how well that describes growth: the exponent that time grows with over the one that operations grow with (1:
as predicted), and along the batch the largest relative distance from the straight line through the points.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import growth
from benchmarks.choices import make_console, settings_of
from benchmarks.figures import LABELS, new_figure, save
from benchmarks.running import Job, make_table, read, run_jobs, store


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the chosen rows, store them, draw the figure."""
    chosen = growth.make_parser("scaling", str(__doc__).splitlines()[0]).parse_args(arguments)
    jobs, console = [Job("scaling", row) for row in growth.choose_rows(chosen)], make_console()
    for path, rows in run_jobs(jobs, settings_of(chosen), console).items():
        console.print(make_table("Time per step", rows))
        finish(path)
        console.print(f"wrote {path} and its figure")


def default_jobs(device: str, one_thread: bool) -> list[Job]:
    """The encoder (inference) and pretraining."""
    return growth.default_jobs("scaling", device, one_thread, ("pretrain", "infer"))


def finish(path: Path) -> None:
    """Store the laws of growth and draw the figure."""
    rows = read(path)["rows"]
    store(path, [], {"laws": [law for along in ("batch", "dates") for law in laws(rows, along)]})
    draw(path)


def laws(rows: Sequence[dict[str, Any]], along: str) -> list[dict[str, Any]]:
    """How time grows along batch or dates, per phase of three rows or more."""
    return [law(name, along, points) for name, points in growth.series(rows, along) if len(points) > 2]


def law(name: str, along: str, points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The law of one curve."""
    x = np.array([row[along] for row in points], float)
    product = np.array([row[f"product_{row['precision']}_gflops"] for row in points])
    seconds = np.array([row["step_s_median"] for row in points]) * product / np.median(product)  # at one speed
    work = np.array([row["gflop_per_step"] for row in points])
    exponent = np.polyfit(np.log(work), np.log(seconds), 1)[0]
    found = {"curve": name, "along": along, "exponent_in_operations": float(exponent)}
    if along == "batch":
        weights = 1 / seconds  # relative distances
        line = np.polyval(np.polyfit(x, seconds, 1, w=weights), x)
        found |= {"furthest_from_line": float(np.abs(seconds / line - 1).max())}
    return found


def draw(path: Path) -> None:
    """A panel per phase and axis: measured steps, and the prediction."""
    rows = read(path)["rows"]
    phases = [phase for phase in LABELS if any(row["phase"] == phase and "failed" not in row for row in rows)]
    if not phases:
        return
    figure, panels = new_figure(2, len(phases))
    for line, along in enumerate(("batch", "dates")):
        for column, phase in enumerate(phases):
            panel = panels[line][column]
            curves = growth.series([row for row in rows if row["phase"] == phase], along)
            for number, (name, points) in enumerate(curves):
                _curve(panel, name, points, along, f"C{number}")
            fixed = "/".join(sorted({str(row["batch"]) for _, points in curves for row in points}))
            panel.set_title(LABELS[phase])
            panel.set_xlabel("samples in a batch" if along == "batch" else f"optical dates (batch {fixed})")
            panel.set_ylabel("seconds per step")
    kinds = sorted({f"{row['shape']} {row['size']} {row['precision']}" for row in rows})
    save(figure, path.with_suffix(".png"), f"Time per step: {', '.join(kinds)}", legend_each=True)


def _curve(panel: Any, name: str, points: Sequence[dict[str, Any]], along: str, colour: str) -> None:
    x = [row[along] for row in points]
    seconds = np.array([row["step_s_median"] for row in points])
    floor = np.array([row["floor_product_s"] for row in points])
    label = "measured" + (f" ({name.split(', ', 1)[1]})" if ", " in name else "")
    panel.plot(x, seconds, "o", color=colour, label=label)
    panel.plot(x, floor, "--", color=colour, label="operations / product rate")
    slower = float(np.median(seconds / floor))
    panel.plot(x, slower * floor, "-", color=colour, alpha=0.4, label=f"the same x {slower:.2f}")


if __name__ == "__main__":
    main()
