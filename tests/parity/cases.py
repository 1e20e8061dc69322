"""The stored cases of the official code: discovered, never listed; everything is read from each `config.json`."""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from geomaestro.models.convert import LOSSES, hiding_values, model_input, rename
from geomaestro.models.hub import fill
from geomaestro.models.mae import Mae, MaeSpec
from geomaestro.models.task import HeadSpec, Task, make_head
from geomaestro.samples import Batch

KINDS = {"multilabel_classif": "multilabel", "classif": "classes", "segment": "pixels"}


def folder() -> Path | None:
    """The folder of stored cases, if the environment names one."""
    name = os.environ.get("GEOMAESTRO_GOLDEN")
    return Path(name) if name else None


def case_names() -> list[str]:
    """Every case that lies in the folder of stored cases."""
    root = folder()
    if root is None:
        return []
    return sorted(p.parent.name for p in root.glob("*/config.json"))


@dataclass(frozen=True)
class Case:
    """One case: its configuration, our model with its weights, its batch and its arrays."""

    path: Path
    config: dict[str, Any]
    mae: Mae
    heads: dict[str, tuple[Task, torch.nn.Module]]
    batch: Batch[torch.Tensor]

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.path / f"{name}.npz", allow_pickle=False) as file:
            return {k: file[k] for k in file.files}


@cache
def load_case(name: str) -> Case:
    root = folder()
    assert root is not None, "only called where cases were found"
    path = root / name
    config = json.loads((path / "config.json").read_text())
    spec = mae_spec(config)
    weights, heads = rename(load_file(path / "weights.safetensors"), spec)
    mae = Mae(spec)
    fill(mae, weights, name)
    made = {}
    for task, values in heads.items():
        about, head = official_head(config, task, spec)
        fill(head, values, f"{name}: head {task}")
        made[task] = (about, head.eval())
    return Case(path, config, mae.eval(), made, read_batch(path / config["inputs"], spec))


def mae_spec(config: dict[str, Any], loss: str = "l1_norm") -> MaeSpec:
    """The spec of a stored case; pixels are stored after scaling, so only heights are left to do."""
    data, arch = config["dataset_config"], config["arch"]
    inputs = {}
    for sensor, official in data["inputs"].items():
        values = model_input(config["dataset"], sensor, official, config["interpolate"])
        values["sensor"]["scaling"] = {"heights": official["rescale_elev"]}
        inputs[sensor] = values
    grid = data["grid_pos_enc"]
    name, target = LOSSES[loss]
    return MaeSpec.model_validate(
        {
            "encoder": {
                "inputs": inputs,
                "dim": arch["embed_dim"],
                "depth": arch["depth"],
                "heads": arch["heads"],
                "head_dim": arch["dim_head"],
                "mlp_ratio": arch["mlp_ratio"],
                "fusion": config["fusion_mode"],
                "joint_blocks": config["inter_depth"],
                "position_grid": None if grid is None else (grid, grid),
                "date_channels": config["date_dim"],
                "use_dates": config.get("use_date_enc", "nodate" not in config["case"]),
            },
            "decoder": {
                "dim": arch["decoder_dim"],
                "depth": arch["decoder_depth"],
                "heads": arch["decoder_heads"],
                "head_dim": arch["decoder_dim_head"],
                "mlp_ratio": arch["decoder_mlp_ratio"],
            },
            "hiding": hiding_values(config["mask"]),
            "loss": name,
            "target": target,
        }
    )


def official_head(config: dict[str, Any], task: str, spec: MaeSpec) -> tuple[Task, torch.nn.Module]:
    data = config["dataset_config"]
    target = data["targets"][task]
    kind = KINDS[target["type_target"]]
    pixels = {}
    if kind == "pixels":
        rows = spec.encoder.inputs[data["ref_input"]].input.grid[0]
        size = round(data["crop_meters"] / target["resolution_meters"])
        pixels = {"reference_sensor": data["ref_input"], "patch_px": size // rows}
    classes = [f"class {i}" for i in range(target["num_classes"])]
    about = Task.model_validate(
        {"name": task, "kind": kind, "classes": classes, "ignore": target["missing_val"], **pixels}
    )
    pooling = "attentive" if config["type_head"] == "attentive" else "mean"
    return about, make_head(about, HeadSpec(pooling=pooling), spec.encoder)


def read_batch(path: Path, spec: MaeSpec) -> Batch[torch.Tensor]:
    with np.load(path.resolve(), allow_pickle=False) as file:
        arrays = {k: torch.from_numpy(file[k]) for k in file.files}
    names = list(spec.encoder.inputs)
    images = {s: arrays[s] for s in names}
    labels = {k: v for k, v in arrays.items() if k not in names and not k.endswith("_dates") and k != "ref_date"}
    return Batch(
        ids=tuple(str(i) for i in range(len(images[names[0]]))),
        images=images,
        dates={s: arrays[f"{s}_dates"] for s in names},
        present={s: torch.ones(x.shape[:2], dtype=torch.bool) for s, x in images.items()},
        valid={s: torch.ones(*x.shape[:2], *x.shape[-2:], dtype=torch.bool) for s, x in images.items()},
        reference_date=arrays["ref_date"][:, 0],
        complete=dict.fromkeys(names, True),
        labels=labels,
    )


def assert_close(ours: torch.Tensor, theirs: np.ndarray | float, what: str, tolerance: float = 1e-5) -> None:
    """Largest difference relative to the largest stored value."""
    theirs = torch.as_tensor(theirs, dtype=torch.float64)
    ours = ours.detach().double()
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} against {tuple(theirs.shape)}"
    scale = theirs.abs().max().clamp(min=1e-12)
    worst = ((ours - theirs).abs().max() / scale).item()
    assert worst <= tolerance, f"{what}: differs by {worst:.2e} of the largest value"
