"""Peak memory of a step against batch and number of dates, beside what the attention matrices alone would need.

    python -m benchmarks memory [--shapes pastis_hd] [--sizes tiny] [--phases infer] [--batch 1,2,4] [--dates 4,8,16]

Each row in its own process; the peak of steps after the first. On a CPU it is that of the process, less what that held
before the model was made; on a GPU that of torch's tensors. Training rows are also taken with activations recomputed in
the backward pass, where the model can; all rows for the baseline, which keeps all scores of attention. The dashed
reference is computed: the scores of every attention of the step at once in training, the largest one's in inference, at
4 bytes (bf16: 2).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import growth
from benchmarks.choices import make_console, settings_of
from benchmarks.figures import LABELS, new_figure, save, style_of
from benchmarks.models import Row
from benchmarks.running import Job, make_table, read, run_jobs
from geomaestro.nn.transformer import Transformer


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the chosen rows, store them, draw the figure."""
    parser = growth.make_parser("memory", str(__doc__).splitlines()[0])
    parser.add_argument("--only-ours", action="store_true", help="without the baseline and recomputation")
    chosen = parser.parse_args(arguments)
    jobs = [Job("memory", row) for row in variants(growth.choose_rows(chosen), only_ours=chosen.only_ours)]
    console = make_console()
    for path, rows in run_jobs(jobs, settings_of(chosen), console).items():
        console.print(make_table("Peak memory", rows))
        draw(path)
        console.print(f"wrote {path} and its figure")


def default_jobs(device: str, one_thread: bool) -> list[Job]:
    """All phases; memory hardly depends on threads."""
    del one_thread
    jobs = growth.default_jobs("memory", device, False, ("pretrain", "finetune", "infer"))
    return [Job("memory", row) for row in variants([job.row for job in jobs])]


def variants(rows: Sequence[Row], only_ours: bool = False) -> list[Row]:
    """Each row as it is, with recomputation where the model can, and of the baseline."""
    out = []
    for row in rows:
        out.append(row)
        if only_ours:
            continue
        if row.phase != "infer" and can_recompute():
            out.append(replace(row, recompute=True))
        if row.mode == "eager":
            out.append(replace(row, model="plain"))
    return out


def can_recompute() -> bool:
    """Whether this version of the model knows recomputation."""
    return hasattr(Transformer(8, 1, heads=1, head_dim=8, mlp_dim=8), "recompute")


def of_step(row: dict[str, Any]) -> float:
    """Memory of model and step in GiB: on a CPU without what the process held before."""
    return (row["peak_mib"] - (row["before_mib"] if row["device"] == "cpu" else 0)) / 1024


def draw(path: Path) -> None:
    """A panel per phase and axis: measured peaks, and the scores of attention as a dashed line."""
    rows = read(path)["rows"]
    phases = [phase for phase in LABELS if any(row["phase"] == phase and "failed" not in row for row in rows)]
    if not phases:
        return
    figure, panels = new_figure(2, len(phases))
    for line, along in enumerate(("batch", "dates")):
        for column, phase in enumerate(phases):
            panel = panels[line][column]
            curves = growth.series([row for row in rows if row["phase"] == phase], along)
            for name, points in curves:
                x = [row[along] for row in points]
                panel.plot(x, [of_step(row) for row in points], **style_of(name))
                if "score_mib" in points[0]:
                    scores = [row["score_mib"] / 1024 for row in points]
                    panel.plot(x, scores, color="0.4", linestyle="--", label="attention scores alone")
            panel.set_title(LABELS[phase])
            panel.set_xlabel("samples in a batch" if along == "batch" else f"optical dates (batch {_batch(curves)})")
            panel.set_ylabel("GiB")
    save(figure, path.with_suffix(".png"), _title(rows))


def _batch(curves: Sequence[tuple[str, list[dict[str, Any]]]]) -> str:
    return "/".join(sorted({str(row["batch"]) for _, rows in curves for row in rows}))


def _title(rows: Sequence[dict[str, Any]]) -> str:
    kinds = sorted({f"{row['shape']} {row['size']} {row['precision']}" for row in rows})
    return f"Peak memory of a step: {', '.join(kinds)}"


if __name__ == "__main__":
    main()
