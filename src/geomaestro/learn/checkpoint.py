"""States of training on disk: safetensors and JSON in a folder per step, the JSON last; the newest whole one counts.

A state is model.safetensors, optimiser.safetensors and one file for each further group of tensors; or, of a model whose
parameters are shards, one file per rank in shards/ (torch's distributed checkpoint in its safetensors format). Either
is read by any number of ranks, sharded or not.
"""

import json
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from geomaestro.errors import CheckpointError, RunError
from geomaestro.learn.distributed import ALONE, Ranks
from geomaestro.models.hub import fill, require_fit, save_mae
from geomaestro.models.kinds import read_autoencoder
from geomaestro.runs import sync, write_atomically, write_json

KEEP = 2  # the one before the last is kept in case the last turns out damaged
SHARDS = "shards"
Tensors = Mapping[str, Tensor]


def save_state(
    folder: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    about: Mapping[str, Any],
    *,
    more: Mapping[str, Tensors] | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Write the state after `step` steps; older states than the last two are removed afterwards.

    All ranks call it. `about` is what JSON can hold, `more` further groups of tensors, such as averaged weights.

    Raises:
        RunError: if it can't be written; older states are untouched and nothing half-written stays.
    """
    groups = {"model": model.state_dict(), "optimiser": optimiser_tensors(model, optimiser), **(more or {})}
    target = folder / f"step-{step:08d}"
    (there,) = ranks.agree(ranks.first and (target / "state.json").is_file())
    if there:  # it is this very state, from before a resumption
        return
    if ranks.first:
        _make_room(folder, target)
    ranks.wait()
    try:
        if is_sharded(model):
            _save_shards(target / SHARDS, groups)
        elif ranks.first:
            for name, tensors in groups.items():
                write_atomically(target / f"{name}.safetensors", save({k: v.contiguous() for k, v in tensors.items()}))
        ranks.wait()
        if ranks.first:
            write_json(target / "state.json", {"step": step, "shards": _shards_in(target, ranks), **about})
            sync(folder)
    except RunError:
        shutil.rmtree(target, ignore_errors=True)
        raise
    if ranks.first:
        for old in _whole(folder)[:-KEEP]:
            with suppress(OSError):  # one state too many harms nobody
                _forget(folder / old)


def _make_room(folder: Path, target: Path) -> None:
    """Make the folder of a state; what a killed process left half-written goes."""
    whole = set(_whole(folder))
    try:
        for path in folder.glob("step-*"):
            if path.name not in whole:
                _forget(path)
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{target}: can't be made ({error.strerror}); choose a folder that can be written") from None


def _forget(path: Path) -> None:
    """Remove a state, first of all what says that it is whole: a kill may come between two files."""
    (path / "state.json").unlink(missing_ok=True)
    shutil.rmtree(path)


def _shards_in(state: Path, ranks: Ranks) -> dict[str, int]:
    """Names and bytes of the files of a state's shards; none if it has none.

    Raises:
        RunError: if the first rank does not see those of all.
    """
    files = {path.name: path.stat().st_size for path in sorted((state / SHARDS).glob("*"))}
    if files and len(files) != ranks.count:
        raise RunError(
            f"{state / SHARDS}: holds {len(files)} files of {ranks.count} ranks; the run folder has to lie on a file "
            "system that all ranks see"
        )
    return files


def _require_shards(state: Path, about: Mapping[str, Any]) -> None:
    """Refuse a state of which a file of shards is gone or cut short."""
    for name, size in about.get("shards", {}).items():
        path = state / SHARDS / name
        if not path.is_file() or path.stat().st_size != size:
            raise CheckpointError(f"{path}: missing or cut short; remove {state} to resume from the state before")


def newest(folder: Path) -> Path | None:
    """The newest whole state, or None."""
    whole = _whole(folder)
    return folder / whole[-1] if whole else None


def _whole(folder: Path) -> list[str]:
    return sorted(p.parent.name for p in folder.glob("step-*/state.json"))


def is_sharded(model: nn.Module) -> bool:
    """Whether the parameters are shards, of which each rank holds its own."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def load_state(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, *, more: Mapping[str, Tensors] | None = None
) -> dict[str, Any]:
    """Put a state back, bit by bit, tensors of `more` in place; gives what was saved beside it. All ranks call it.

    Raises:
        CheckpointError: naming the file that is unreadable or does not fit.
    """
    groups = {"model": model.state_dict(), **(more or {})}
    try:
        about: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
        _require_shards(path, about)
        if (path / SHARDS).is_dir() and is_sharded(model):
            moments = _load_shards(path, groups, dict(model.named_parameters()))
        else:
            moments = read_group(path, "optimiser")
            for name, ours in groups.items():
                theirs = read_group(path, name)
                require_fit(ours, theirs, f"{path}: {name}")
                for key, tensor in ours.items():
                    _put(tensor, theirs[key])
    except (SafetensorError, OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: unreadable state ({error}); remove this folder to resume from the one before"
        ) from None
    _fill_optimiser(model, optimiser, moments, path)
    return about


def _load_shards(path: Path, groups: Mapping[str, Tensors], parameters: Tensors) -> dict[str, Tensor]:
    """Each rank's shards of a state that ranks wrote, however many they were; gives the optimiser's tensors."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    found = HuggingFaceStorageReader(str(path / SHARDS)).read_metadata().state_dict_metadata
    prefix, moments = "optimiser.", {}
    for full_name in (name.removeprefix(prefix) for name in found if name.startswith(prefix)):
        name, _, key = full_name.rpartition(".")
        if name not in parameters:
            raise CheckpointError(f"{path}: the optimiser's state is of another model ({full_name})")
        moments[full_name] = (
            torch.zeros((), dtype=torch.float32) if key == "step" else torch.zeros_like(parameters[name])
        )
    for name, ours in groups.items():
        theirs = {key: torch.empty(about.size, device="meta") for key, about in found.items()}  # type: ignore[union-attr]
        mine = {key.removeprefix(f"{name}."): value for key, value in theirs.items() if key.startswith(f"{name}.")}
        require_fit(ours, mine, f"{path}: {name}")
    state = {f"{name}.{key}": value for name, part in groups.items() for key, value in part.items()}
    state |= {f"{prefix}{key}": value for key, value in moments.items()}
    load(state, storage_reader=HuggingFaceStorageReader(str(path / SHARDS)))
    return moments


def read_group(path: Path, name: str) -> dict[str, Tensor]:
    """One group of a state's tensors, whole, on the host."""
    if not (path / SHARDS).is_dir():
        return load_file(path / f"{name}.safetensors")
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    found = HuggingFaceStorageReader(str(path / SHARDS)).read_metadata().state_dict_metadata
    mine = {key: about for key, about in found.items() if key.startswith(f"{name}.")}
    whole = {key: torch.empty(about.size, dtype=about.properties.dtype) for key, about in mine.items()}  # type: ignore[union-attr]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # each rank reads all of it
        load(whole, storage_reader=HuggingFaceStorageReader(str(path / SHARDS)), no_dist=True)
    return {key.removeprefix(f"{name}."): value for key, value in whole.items()}


def convert_state(path: Path, out: Path) -> list[str]:
    """Write a state of a pretraining, of one file or of shards, as a model folder with one file of weights.

    Raises:
        CheckpointError: if it is no whole state of a pretraining.
    """
    if not (path / "state.json").is_file():
        states = ", ".join(sorted(str(p.parent) for p in path.rglob("state.json"))) if path.is_dir() else ""
        raise CheckpointError(f"{path}: no state of a training there{f'; below it are {states}' if states else ''}")
    try:
        about = json.loads((path / "state.json").read_text(encoding="utf-8"))
        _require_shards(path, about)
        weights = read_group(path, "model")
    except (SafetensorError, OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: unreadable state ({error})") from None
    if "mae" not in about:
        raise CheckpointError(f"{path}: a state of a training with labels; only those of a pretraining make a model")
    model = read_autoencoder(about, f"{path / 'state.json'}: mae")
    fill(model, weights, str(path))
    save_mae(out, model, origin={"state": path.name, "steps": about["step"]})
    return [f"{len(weights)} tensors of encoder and decoder after {about['step']} steps, every one in its place"]


@torch.no_grad()
def _put(ours: Tensor, theirs: Tensor) -> None:
    ours.copy_(shard_like(theirs, ours))


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's shard of a tensor that every rank has whole, if `like` is one; else, or of a shard, itself."""
    if isinstance(whole, DTensor) or not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _save_shards(folder: Path, groups: Mapping[str, Tensors]) -> None:
    from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageWriter
    from torch.distributed.checkpoint import save as save_distributed

    state = {f"{group}.{name}": value for group, tensors in groups.items() for name, value in tensors.items()}
    try:
        save_distributed(state, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
        for path in (*folder.iterdir(), folder):
            sync(path)
    except (CheckpointException, OSError) as error:
        raise RunError(f"{folder}: could not be written ({error}); free some space or choose another folder") from None


def optimiser_tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors, named by the parameters that they belong to."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(p)]}.{key}": value
        for group in optimiser.param_groups
        for p in group["params"]
        for key, value in optimiser.state[p].items()
        if isinstance(value, Tensor)
    }


def _fill_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, tensors: Tensors, path: Path) -> None:
    ours = dict(model.named_parameters())
    state: dict[str, dict[str, Tensor]] = {}
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition(".")
        if name not in ours or (value.ndim and value.shape != ours[name].shape):
            raise CheckpointError(f"{path}: the optimiser's state is of another model ({full_name})")
        like = ours[name]
        state.setdefault(name, {})[key] = shard_like(value, like) if value.ndim else value
    names = {id(p): name for name, p in ours.items()}
    order = [names[id(p)] for group in optimiser.param_groups for p in group["params"]]
    numbered = {number: state[name] for number, name in enumerate(order) if name in state}
    optimiser.load_state_dict({"state": numbered, "param_groups": optimiser.state_dict()["param_groups"]})
