"""Times training and inference steps on random pixels beside the official code's stored numbers.

    python -m benchmarks step [--shapes treesatai_ts,flair] [--sizes tiny] [--phases infer] [--precisions bf16]

A step is forward, loss, backward and fused AdamW (inference: forward alone) on one batch in memory. On a CPU torch's
float32 products are at "medium" as in the official code and freed memory is kept as in our programs
(`geomaestro.learn.allocator`); on a GPU the batch is found by doubling and blocks are run eagerly and compiled.
Each row runs in a process of its own. A look at the machine's rate of matrix products comes before each round of steps,
so that rows compare although the machine is shared: `corrected` is the ratio to the official code of samples per
product of the machine. GFLOP/s count the matrix products of our own model (`torch.utils.flop_counter`), which leaves
out some that the official code makes. Rows already in the output file stay there until they are timed again. Where
others use the machine too, `--one-thread` times one thread in CPU seconds; then only `corrected` can be compared with
the official numbers, which are of two threads.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.choices import add_choices, add_settings, make_console, settings_of
from benchmarks.machine import state_of_code
from benchmarks.models import Row, identity
from benchmarks.running import Job, Settings, about, make_table, read, run_job, run_jobs, store
from benchmarks.shapes import OFFICIAL

HERE = Path(__file__).parent
KEY = ("shape", "size", "phase", "precision", "batch")
DEFAULT_BATCH = 2  # for what the official table lacks
TARGETS = {
    "fp32": {"pretrain": 2.5, "finetune": 1.4, "infer": 1.4},
    "bf16": {"pretrain": 3.0, "finetune": 2.0, "infer": 2.0},
}
TARGET_AT_BASE = 1.8  # pretraining in float32
TARGET_NEAR_PEAK, NEAR_PEAK = (
    1.25,
    0.55,
)  # float32, where the official code already has this share of the product's rate
ALLOCATOR_ROWS = (
    ("treesatai_ts", "tiny", "pretrain", "fp32", 32),
    ("pastis_hd", "base", "pretrain", "fp32", 1),
)
USUAL = {
    "cpu": {
        "sizes": ("tiny", "small", "base"),
        "phases": ("pretrain", "finetune", "infer"),
        "precisions": ("fp32", "bf16"),
        "modes": ("eager",),
    },
    "cuda": {
        "sizes": ("base", "large"),
        "phases": ("pretrain", "finetune", "infer"),
        "precisions": ("bf16",),
        "modes": ("eager", "compiled"),
    },
}
SHORT = (  # of the default suite on a CPU
    ("treesatai_ts", "tiny", "pretrain", 8),
    ("treesatai_ts", "tiny", "finetune", 8),
    ("treesatai_ts", "tiny", "infer", 8),
    ("treesatai_ts", "small", "pretrain", 4),
    ("pastis_hd", "tiny", "infer", 2),
    ("flair", "tiny", "finetune", 2),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the chosen rows, print them as they come, store them."""
    chosen = _parser().parse_args(arguments)
    rows, settings, console = choose_rows(chosen, read_official()["rows"]), settings_of(chosen), make_console()
    jobs = [Job("step", row) for row in rows]
    results = run_jobs(jobs, settings, console, {"step": compare})
    for job in jobs:
        if _key(job.row) in ALLOCATOR_ROWS:
            store_gain(settings.path_of(job), job.row, settings)
    for path, stored in results.items():
        console.print(make_table("Training and inference steps", stored))
        console.print(f"wrote {path}")


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(getattr(row, k) for k in KEY)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks step", description=str(__doc__).splitlines()[0])
    add_choices(parser)
    add_settings(parser)
    return parser


def read_official() -> dict[str, Any]:
    """What was measured of the official code."""
    return json.loads((HERE / "official_step.json").read_text())


def default_jobs(device: str, one_thread: bool) -> list[Job]:
    """The rows of the default suite: a few on a CPU, all of base and large on a GPU."""
    if device == "cuda":
        chosen = argparse.Namespace(
            shapes=OFFICIAL,
            sizes=None,
            phases=None,
            precisions=None,
            modes=None,
            batch=None,
            one_thread=False,
            device=device,
        )
        return [Job("step", row) for row in choose_rows(chosen, [])]
    return [
        Job("step", Row(shape, size, phase, precision, batch, one_thread=one_thread))
        for shape, size, phase, batch in SHORT
        for precision in ("fp32", "bf16")
    ]


def choose_rows(chosen: argparse.Namespace, official: Sequence[dict[str, Any]]) -> list[Row]:
    """The rows asked for: at the official batch sizes (on a GPU at one that is found), or at the given ones."""
    usual = USUAL[chosen.device]
    sizes, phases, precisions, modes = (
        getattr(chosen, name) or usual[name] for name in ("sizes", "phases", "precisions", "modes")
    )
    rows = []
    for shape in chosen.shapes:
        for size in sizes:
            for phase in phases:
                found = [0] if chosen.device == "cuda" else _official_batches(official, shape, size, phase)
                rows += [
                    Row(shape, size, phase, p, batch, one_thread=chosen.one_thread, mode=mode, device=chosen.device)
                    for batch in chosen.batch or found
                    for p in precisions
                    for mode in modes
                ]
    return rows


def _official_batches(official: Sequence[dict[str, Any]], shape: str, size: str, phase: str) -> list[int]:
    wanted = (shape, size, phase)
    found = {row["batch"] for row in official if (row["shape"], row["size"], row["phase"]) == wanted}
    return sorted(found) or [DEFAULT_BATCH]


def compare(ours: dict[str, Any]) -> dict[str, Any]:
    """A result beside the official code's, if it was taken on a CPU and that has the same row."""
    official = read_official()
    theirs = next((row for row in official["rows"] if all(row[k] == ours[k] for k in KEY)), None)
    if theirs is None or ours["device"] != "cpu" or ours["mode"] != "eager":
        return ours
    precision = ours["precision"]
    ratio = ours["samples_per_s_median"] / theirs["samples_per_s_median"]
    machine = ours[f"product_{precision}_gflops"] / official["product_gflops"][precision]
    return {
        **ours,
        "official_samples_per_s_median": theirs["samples_per_s_median"],
        "official_share_of_product": theirs["share_of_product"],
        "official_peak_rss_mib": theirs["peak_rss_mib"],
        "ratio": ratio,
        "corrected_ratio": ratio / machine,
        "target": target_of(ours, theirs["share_of_product"]),
    }


def target_of(row: dict[str, Any], official_share: float) -> float:
    """The ratio to the official code that a row is to reach."""
    if row["precision"] == "fp32" and official_share > NEAR_PEAK:
        return TARGET_NEAR_PEAK
    if (row["precision"], row["phase"], row["size"]) == ("fp32", "pretrain", "base"):
        return TARGET_AT_BASE
    return TARGETS[row["precision"]][row["phase"]]


def store_gain(path: Path, row: Row, settings: Settings) -> None:
    """Time a row with and without freed memory kept, in samples per product of the machine; store the gain."""
    state, before = state_of_code(), read(path).get("allocator_gain", [])
    mine = [gain for gain in before if identity(gain) == identity(asdict(row))]
    if not settings.again and any(gain.get("code") == state["code"] for gain in mine):
        return
    speeds = {}
    for kept in (True, False):
        result = run_job(Job("step", replace(row, keep_freed=kept)), settings.limit_s)
        if "failed" in result:
            return
        speeds[kept] = result["samples_per_s_median"] / result[f"product_{row.precision}_gflops"]
    gains = [gain for gain in before if gain not in mine]
    gains.append({**asdict(row), "gain": speeds[True] / speeds[False], **state})
    store(path, [], {**about(row), "allocator_gain": gains})


if __name__ == "__main__":
    main()
