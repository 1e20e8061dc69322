"""Write the spec and a recipe that pretrains and evaluates with it, both with comments."""

from pathlib import Path
from typing import Any

from geomaestro.data.init.draft import Draft
from geomaestro.data.init.notes import Note, comment_lines, to_yaml
from geomaestro.runs import write_atomically

LEGEND = (
    "Comments say how sure each value is: *seen* in the files, *measured* on a sample of pixels, *assumed* from usage; "
    "TODO is for you to decide. See docs/own-data.md."
)
SHOWN = 12  # reasons, notes and examples shown
PREFERRED = ("classes", "pixels", "multilabel", "regression")


def spec_text(draft: Draft) -> str:
    """The spec as YAML with comments."""
    survey = draft.survey
    splits = ", ".join(draft.splits.values()) or "none"
    lines = comment_lines(
        f"{draft.name}: {draft.samples:,} samples; splits: {splits}. Written by `geomaestro data init`."
    )
    lines += comment_lines(LEGEND)
    for text in survey.cut:
        lines += comment_lines(f"Not everything was looked at: {text}")
    for text in draft.notes[:SHOWN]:
        lines += comment_lines(f"- {text}")
    if survey.left_out:
        lines += comment_lines("Left out:")
        for reason, names in list(survey.left_out.items())[:SHOWN]:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            lines += comment_lines(f"  {names[0]}{more}: {reason}")
    if draft.plan is not None and len(draft.plan.table) > 1:
        lines += comment_lines("Alignment (own grid -> what the model gets, resampling):")
        for name, own, target, how in draft.plan.table:
            lines += comment_lines(f"  {name}: {own} -> {target}, {how}")
    return "\n".join(lines) + "\n" + to_yaml(draft.values)


def recipe_text(draft: Draft, spec: Path, root: Path) -> str:
    """A small recipe for the spec: minutes on one core, to be made larger once it runs."""
    splits = draft.splits
    train = splits.get("train", "train")
    batch = max(2, min(16, draft.samples // 2))
    data: dict[str, Any] = {"spec": spec.as_posix(), "root": Note(root.as_posix(), "the folder of the files")}
    data["pretrain_splits"] = Note([train], "never val or test")
    values: dict[str, Any] = {
        "name": draft.name,
        "data": data,
        "model": Note(
            {
                "dim": 96,
                "depth": 4,
                "heads": 3,
                "head_dim": 32,
                "joint_blocks": 1,
                "decoder": {"dim": 96, "heads": 3, "depth": 1},
            },
            "small, for a first run on a CPU; `size: small` or base on a GPU, then without the numbers",
        ),
        "pretrain": Note({"steps": 300, "batch": batch, "peak_lr": 5e-4}, "raise `steps` once it runs"),
    }
    if _flat(draft):
        model = values["model"].value
        model["target"] = Note("none", "a patch of one pixel and one band has no spread to normalise by")
    target = min(draft.labels, key=lambda name: PREFERRED.index(draft.labels[name]), default=None)
    why = _no_score(draft, target)
    if target is not None and not why:
        _split_names(data, splits)
        values["evaluate"] = _evaluate(target, draft.labels[target], batch)
    lines = comment_lines(
        f"Pretrains{'' if why else ' and evaluates'} on {draft.name}; written by `geomaestro data init`."
    )
    lines += comment_lines("Paths are relative to the folder that the command is run in.")
    if why:
        lines += comment_lines(f"No evaluation: {why}")
    return "\n".join(lines) + "\n" + to_yaml(values)


def _flat(draft: Draft) -> bool:
    """Whether a group of one band has patches of one pixel."""
    if draft.plan is None:
        return False
    return any(
        draft.plan.chosen[k.stream.name].patch_px == 1 and 1 in (k.guess.groups or (len(k.guess.bands),))
        for k in draft.sensors
    )


def _no_score(draft: Draft, target: str | None) -> str:
    if target is None:
        return "no labels were found; add `targets` to the spec, and `evaluate` here"
    if "train" not in draft.splits or "test" not in draft.splits:
        return f"target {target!r} is there, but no splits train and test; say in the spec how samples are split"
    return ""


def _split_names(data: dict[str, Any], splits: dict[str, str]) -> None:
    for split in ("train", "test"):
        if splits[split] != split:
            data[f"{split}_split"] = splits[split]
    if "val" not in splits:
        data["val_split"] = Note(
            splits["train"], "assumed: no validation split, so settings are chosen on the training split"
        )
    elif splits["val"] != "val":
        data["val_split"] = splits["val"]


def _evaluate(target: str, kind: str, batch: int) -> dict[str, Any]:
    training = {"steps": 200, "batch": batch, "peak_lr": 5e-4, "validations": 4}
    protocols = ["fine-tune"] if kind == "pixels" else ["k-NN", "linear probe", "fine-tune"]
    return {
        "target": target,
        "labels": ["all"],
        "protocols": Note(protocols, "from scratch and a random forest are always beside them"),
        "finetune": training,
    }


def write_both(draft: Draft, out: Path, recipe: Path, root: Path) -> None:
    """Write spec and recipe."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, spec_text(draft).encode())
    write_atomically(recipe, recipe_text(draft, out, root).encode())
