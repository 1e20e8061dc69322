"""How figures look."""

from pathlib import Path
from typing import Any

LABELS = {"pretrain": "pretraining", "finetune": "fine-tuning", "infer": "inference"}
STYLES = {"plain": ("C3", "baseline"), "recomputed": ("C2", "activations recomputed"), "compiled": ("C4", "compiled")}


def new_figure(rows: int, columns: int) -> tuple[Any, Any]:
    """A figure of rows x columns panels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(
        rows, columns, figsize=(max(3.6 * columns, 6.4), 3.0 * rows), squeeze=False, layout="constrained"
    )


def style_of(curve: str) -> dict[str, Any]:
    """Colour and label of a curve named "phase" or "phase, variant"."""
    variant = curve.split(", ", 1)[1] if ", " in curve else ""
    colour, label = STYLES.get(variant, ("C0", variant or "ours"))
    return {"color": colour, "label": label, "marker": "o", "markersize": 4}


def save(figure: Any, path: Path, title: str, *, legend_each: bool = False) -> None:
    """Axes from zero, a legend in each panel or one for all, a small PNG."""
    from matplotlib import pyplot

    labels: dict[str, Any] = {}
    for panel in figure.axes:
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            labels.setdefault(label, handle)
        if legend_each and panel.get_legend_handles_labels()[1]:
            panel.legend(fontsize=7, loc="upper left")
    if not legend_each:
        figure.legend(
            labels.values(),
            labels.keys(),
            loc="outside lower center",
            ncols=2 if figure.get_figwidth() < 10 else 4,
            fontsize=8,
        )
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
