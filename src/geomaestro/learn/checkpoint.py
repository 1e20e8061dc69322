"""States of training on disk: safetensors and JSON in a folder per step, the JSON last; the newest whole one counts."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from geomaestro.errors import CheckpointError
from geomaestro.models.hub import fill
from geomaestro.runs import write_atomically, write_json

KEEP = 2  # the one before the last is kept in case the last turns out damaged


def save_state(
    folder: Path, step: int, model: nn.Module, optimiser: torch.optim.Optimizer, extra: Mapping[str, Any]
) -> None:
    """Write the state after `step` steps; older states than the last two are removed afterwards."""
    target = folder / f"step-{step:08d}"
    target.mkdir(parents=True, exist_ok=True)
    write_atomically(target / "model.safetensors", save({k: v.contiguous() for k, v in model.state_dict().items()}))
    write_atomically(target / "optimiser.safetensors", save(_optimiser_tensors(optimiser)))
    write_json(target / "state.json", {"step": step, **extra})
    for old in _whole(folder)[:-KEEP]:
        shutil.rmtree(folder / old)


def newest(folder: Path) -> Path | None:
    """The newest whole state, or None."""
    whole = _whole(folder)
    return folder / whole[-1] if whole else None


def _whole(folder: Path) -> list[str]:
    return sorted(p.parent.name for p in folder.glob("step-*/state.json"))


def load_state(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a state back, bit by bit; gives what was saved beside it.

    Raises:
        CheckpointError: naming the file that is unreadable or does not fit.
    """
    try:
        fill(model, load_file(path / "model.safetensors"), str(path / "model.safetensors"))
        _fill_optimiser(optimiser, load_file(path / "optimiser.safetensors"), path)
        about: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path}: unreadable state ({error}); remove this folder to resume from the one before"
        ) from None
    return about


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {f"{number}.{name}": value.contiguous() for number, part in state.items() for name, value in part.items()}


def _fill_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], path: Path) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    count = sum(len(group["params"]) for group in optimiser.param_groups)
    if state and max(state) >= count:
        raise CheckpointError(f"{path}: the optimiser's state is of another model")
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
