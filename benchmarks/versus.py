"""Times our model and the baseline (benchmarks/baseline.py) in turn, in one process: the gain in one run.

python -m benchmarks versus [--shapes flair] [--sizes base] [--phases finetune] [--precisions bf16] [--batch 4]
"""

import argparse
from collections.abc import Sequence

from benchmarks.choices import add_choices, add_settings, make_console, settings_of
from benchmarks.models import Row
from benchmarks.running import Job, make_table, run_jobs
from benchmarks.shapes import OFFICIAL

BATCH = {"treesatai_ts": 8}  # on a CPU
OTHER_BATCH = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the chosen rows, print them as they come, store them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks versus", description=str(__doc__).splitlines()[0])
    add_choices(parser)
    add_settings(parser)
    chosen = parser.parse_args(arguments)
    gpu = chosen.device == "cuda"
    jobs = [
        Job("versus", Row(shape, size, phase, p, batch, one_thread=chosen.one_thread, mode=mode, device=chosen.device))
        for shape in chosen.shapes
        for size in chosen.sizes or (("base", "large") if gpu else ("tiny",))
        for phase in chosen.phases or ("pretrain", "finetune", "infer")
        for batch in chosen.batch or ((0,) if gpu else (BATCH.get(shape, OTHER_BATCH),))
        for p in chosen.precisions or (("bf16",) if gpu else ("fp32",))
        for mode in chosen.modes or (("eager", "compiled") if gpu else ("eager",))
    ]
    console = make_console()
    for path, rows in run_jobs(jobs, settings_of(chosen), console).items():
        console.print(make_table("Ours and the baseline in turn", rows))
        console.print(f"wrote {path}")


def default_jobs(device: str, one_thread: bool) -> list[Job]:
    """Pretraining and fine-tuning at each shape: tiny on a CPU, base and large on a GPU."""
    if device == "cuda":
        return [
            Job("versus", Row(shape, size, phase, "bf16", 0, mode=mode, device=device))
            for shape in OFFICIAL
            for size in ("base", "large")
            for phase in ("pretrain", "finetune", "infer")
            for mode in ("eager", "compiled")
        ]
    return [
        Job("versus", Row(shape, "tiny", phase, "fp32", BATCH.get(shape, OTHER_BATCH), one_thread=one_thread))
        for shape in OFFICIAL
        for phase in ("pretrain", "finetune")
    ]


if __name__ == "__main__":
    main()
