"""Models on disk: a folder with `model.safetensors` and `model.json`. Loading is strict: every name, every shape."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from geomaestro.config import check
from geomaestro.errors import CheckpointError
from geomaestro.models.autoencoder import Autoencoder
from geomaestro.models.base import TokenEncoder
from geomaestro.models.kinds import kind_of, read_autoencoder, read_encoder
from geomaestro.models.task import HeadSpec, Task, TaskModel
from geomaestro.runs import write_atomically

FORMAT = "geomaestro-model-1"
PARTS = {"mae": ("mae",), "encoder": ("encoder",), "task": ("encoder", "task", "head")}
MAX_JSON_BYTES = 20_000_000  # assumed; a spec of hundreds of hyperspectral bands stays far below


def save_mae(
    folder: Path,
    model: Autoencoder,
    *,
    origin: Mapping[str, Any],
    heads: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write an autoencoder; `origin` says where it comes from. `heads` keeps imported heads beside it."""
    extra = {f"heads.{task}.{k}": v for task, part in (heads or {}).items() for k, v in part.items()}
    _write(
        folder,
        {
            "kind": "mae",
            "model": kind_of(model.spec),
            "mae": model.spec.model_dump(mode="json"),
            "origin": dict(origin),
        },
        {**model.state_dict(), **extra},
    )


def save_encoder(folder: Path, encoder: TokenEncoder, *, origin: Mapping[str, Any]) -> None:
    """Write an encoder that came without a decoder and without a head."""
    about = {"kind": "encoder", "model": kind_of(encoder.spec), "encoder": encoder.spec.model_dump(mode="json")}
    _write(folder, {**about, "origin": dict(origin)}, encoder.state_dict())


def save_task_model(folder: Path, model: TaskModel, head: HeadSpec, *, origin: Mapping[str, Any]) -> None:
    """Write an encoder with the head of its task."""
    about = {
        "kind": "task",
        "model": kind_of(model.encoder.spec),
        "encoder": model.encoder.spec.model_dump(mode="json"),
        "task": model.task.model_dump(mode="json"),
        "head": head.model_dump(mode="json"),
        "origin": dict(origin),
    }
    _write(folder, about, model.state_dict())


def _write(folder: Path, about: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    write_atomically(folder / "model.safetensors", save(tensors, metadata={"format": FORMAT}))
    write_atomically(folder / "model.json", json.dumps({"format": FORMAT, **about}, indent=1).encode())


def load(path_or_hub_id: str | os.PathLike[str]) -> TokenEncoder:
    """The encoder of a model folder, or of a model on the Hugging Face hub ("owner/name").

    Raises:
        CheckpointError: if there is no such model, or a tensor is missing, unknown or of another shape.
    """
    folder = find(path_or_hub_id)
    about = read_about(folder)
    if about["kind"] == "mae":
        return load_mae(folder).encoder
    if about["kind"] == "encoder":
        encoder = read_encoder(about, str(folder / "model.json"))
        fill(encoder, _read_weights(folder), str(folder / "model.safetensors"))
        return encoder
    return load_task_model(folder).encoder


def load_mae(path_or_hub_id: str | os.PathLike[str]) -> Autoencoder:
    """The autoencoder of a model folder, to be pretrained further."""
    folder = find(path_or_hub_id)
    about = read_about(folder)
    if about["kind"] != "mae":
        what = "a fine-tuned encoder" if about["kind"] == "task" else "an encoder"
        raise CheckpointError(f"{folder}: holds {what} without its decoder; it can't be pretrained further")
    model = read_autoencoder(about, str(folder / "model.json"))
    weights = {k: v for k, v in _read_weights(folder).items() if not k.startswith("heads.")}
    fill(model, weights, str(folder / "model.safetensors"))
    return model


def load_task_model(path_or_hub_id: str | os.PathLike[str]) -> TaskModel:
    """An encoder with its task's head."""
    folder = find(path_or_hub_id)
    about = read_about(folder)
    if about["kind"] != "task":
        raise CheckpointError(f"{folder}: holds a pretrained encoder without a head; fine-tune it first")
    source = str(folder / "model.json")
    encoder = read_encoder(about, source)
    model = TaskModel(encoder, check(Task, about["task"], source), check(HeadSpec, about["head"], source))
    fill(model, _read_weights(folder), str(folder / "model.safetensors"))
    return model


def fill(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a model; both sides must agree in every name and shape.

    Raises:
        CheckpointError: naming what is unknown, missing, or of another shape.
    """
    require_fit(model.state_dict(), weights, source)
    model.load_state_dict(dict(weights), strict=True)


def require_fit(ours: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    """Both sides must agree in every name and shape.

    Raises:
        CheckpointError: naming what is unknown, missing, or of another shape.
    """
    problems = [f"unknown {name}" for name in sorted(weights.keys() - ours.keys())]
    problems += [f"missing {name}" for name in sorted(ours.keys() - weights.keys())]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, the model needs {tuple(ours[name].shape)}"
        for name in sorted(weights.keys() & ours.keys())
        if weights[name].shape != ours[name].shape
    ]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(f"{source}: weights do not fit the model: {'; '.join(problems[:8])}{more}")


def find(path_or_hub_id: str | os.PathLike[str]) -> Path:
    """The folder of a model: a local one, one below a run folder, or a download from the hub."""
    folder = Path(path_or_hub_id)
    for candidate in (folder, folder / "model", folder / "pretrain" / "seed0" / "model"):
        if (candidate / "model.json").is_file():
            return candidate
    name = str(path_or_hub_id)
    if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(
            f"{name}: no model.json there; expected a model folder, a run folder, or a hub id owner/name"
        )
    return _download(name)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["model.json", "model.safetensors"]))
    except Exception as error:  # the hub's client raises many kinds
        raise CheckpointError(f"{hub_id}: neither a local folder nor a model that could be fetched ({error})") from None


def read_about(folder: Path) -> dict[str, Any]:
    """The checked content of `model.json`."""
    path = folder / "model.json"
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path}: too big for a model description")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT or about.get("kind") not in PARTS:
        raise CheckpointError(f"{path}: not a {FORMAT} description")
    for part in PARTS[about["kind"]]:
        if not isinstance(about.get(part), dict):
            raise CheckpointError(f"{path}: `{part}` is missing or no mapping; the description is damaged")
    return about


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / "model.safetensors"
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: unreadable weights: {error}") from None
