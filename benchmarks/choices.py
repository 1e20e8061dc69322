"""Options that the suites share."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.machine import find_device
from benchmarks.running import LIMIT_S, ORDERS, Settings
from benchmarks.shapes import OFFICIAL, SHAPES

PHASES, PRECISIONS, SIZES, MODES = (ORDERS[name] for name in ("phase", "precision", "size", "mode"))


def add_choices(parser: argparse.ArgumentParser, **defaults: Sequence[str]) -> None:
    """Which rows: shapes, sizes, phases, precisions, modes; a default of None leaves it to the suite."""
    known = {"shapes": tuple(SHAPES), "sizes": SIZES, "phases": PHASES, "precisions": PRECISIONS, "modes": MODES}
    usual = {"shapes": OFFICIAL, **defaults}
    for name, values in known.items():
        parser.add_argument(f"--{name}", type=several(values), default=usual.get(name), help=f"of {','.join(values)}")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """How rows are run."""
    parser.add_argument("--batch", type=numbers, help="samples of a batch; 0 has it found by doubling")
    parser.add_argument("--one-thread", action="store_true", help="time one thread in CPU seconds")
    parser.add_argument("--again", action="store_true", help="run rows again that this code has run")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds that one row may take")
    parser.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results/<suite>_<machine>.json")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=find_device().type)


def settings_of(chosen: argparse.Namespace) -> Settings:
    """How rows are run, as asked."""
    return Settings(out=chosen.out, again=chosen.again, limit_s=chosen.limit)


def make_console() -> Console:
    """A terminal, or wide enough lines for a file."""
    return Console(width=None if sys.stdout.isatty() else 200)


def numbers(text: str) -> tuple[int, ...]:
    """1,2,4 -> (1, 2, 4)."""
    return tuple(map(int, text.split(",")))


def several(known: Sequence[str]) -> Any:
    """A reader of names between commas that refuses unknown ones."""

    def names(text: str) -> tuple[str, ...]:
        unknown = set(text.split(",")) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not of {', '.join(known)}")
        return tuple(text.split(","))

    return names
