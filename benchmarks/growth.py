"""The rows of the suites that follow a step as batch or number of dates grow, and what they have in common.

Of the published shapes PASTIS-HD has the longest series (64 places a date), so it is the one that is grown.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.choices import add_choices, add_settings, numbers
from benchmarks.models import Row
from benchmarks.running import Job

USUAL: dict[str, dict[str, Any]] = {
    "cpu": {
        "shapes": ("pastis_hd",),
        "sizes": ("tiny",),
        "phases": ("pretrain", "finetune", "infer"),
        "precisions": ("fp32",),
        "batches": (1, 2, 4),
        "dates": (8, 16, 32),
        "fixed": 2,
    },
    "cuda": {
        "shapes": ("pastis_hd",),
        "sizes": ("base",),
        "phases": ("pretrain", "finetune", "infer"),
        "precisions": ("bf16",),
        "batches": (4, 8, 16, 32, 64, 128),
        "dates": (4, 8, 16, 32, 64, 128),
        "fixed": 16,
    },
}


def make_parser(suite: str, about: str) -> argparse.ArgumentParser:
    """Options of a suite of growth."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {suite}", description=about)
    add_choices(parser, shapes=("pastis_hd",))
    add_settings(parser)
    parser.add_argument("--dates", type=numbers, help="numbers of optical dates; radar series have a quarter of it")
    parser.add_argument("--fixed", type=int, help="batch at which dates grow")
    return parser


def choose_rows(chosen: argparse.Namespace) -> list[Row]:
    """Rows along the batch at the shape's own dates, then rows along dates at a fixed batch."""
    usual = USUAL[chosen.device]
    rows = []
    for shape in chosen.shapes:
        for size in chosen.sizes or usual["sizes"]:
            for phase in chosen.phases or usual["phases"]:
                for precision in chosen.precisions or usual["precisions"]:
                    for mode in chosen.modes or ("eager",):
                        row = Row(
                            shape, size, phase, precision, 1,
                            one_thread=chosen.one_thread, mode=mode, device=chosen.device,
                        )  # fmt: skip
                        rows += [replace(row, batch=batch) for batch in chosen.batch or usual["batches"]]
                        fixed = chosen.fixed or usual["fixed"]
                        rows += [replace(row, batch=fixed, dates=dates) for dates in chosen.dates or usual["dates"]]
    return rows


def default_jobs(suite: str, device: str, one_thread: bool, phases: Sequence[str]) -> list[Job]:
    """The usual rows of a device."""
    chosen = argparse.Namespace(
        shapes=("pastis_hd",), sizes=None, phases=phases, precisions=None, modes=None,
        batch=None, dates=None, fixed=None, one_thread=one_thread, device=device,
    )  # fmt: skip
    return [Job(suite, row) for row in choose_rows(chosen)]


def series(results: Sequence[dict[str, Any]], along: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """Results without failures, per curve of a figure along "batch" or "dates", each in growing order."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for row in results:
        if "failed" in row or (row.get("dates") is None) != (along == "batch"):
            continue
        extra = [row["model"]] if row.get("model", "ours") != "ours" else []
        extra += ["recomputed"] if row.get("recompute") else []
        extra += ["compiled"] if row.get("mode") == "compiled" else []
        curves.setdefault(", ".join([row["phase"], *extra]), []).append(row)
    return [(name, sorted(rows, key=lambda row: row[along])) for name, rows in curves.items()]
