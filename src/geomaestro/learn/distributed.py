"""Processes that work on one run together, as torchrun starts them; a program without torchrun is alone.

Every rank goes through the same program in the same order: what one decides alone (a stop, the time to save), all are
told before they act on it. Only the first writes files and shows progress.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from geomaestro.errors import GeomaestroError, RunError, SpecError

# assumed; the first rank may score or fit alone for long while the others wait. torchrun ends all when one is gone.
PATIENCE = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's `number` among `count`, and the device that sums of all of them lie on."""

    number: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a device is a constant

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.number == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.count == 1

    def add(self, mine: Tensor) -> Tensor:
        """Sum over all ranks of tensors of equal shape; a new tensor where there are several."""
        if self.alone:
            return mine
        total = mine.clone()
        dist.all_reduce(total)
        return total

    def add_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all ranks of numbers that the host knows; no accelerator is waited for."""
        if self.alone:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def agree(self, *wishes: bool) -> list[bool]:
        """For each wish, whether any rank has it."""
        return [number > 0 for number in self.add_numbers([float(wish) for wish in wishes])]

    def join(self, mine: Tensor) -> Tensor:
        """All ranks' rows in order, on the host; `mine` (n ...) may have another n on each."""
        mine = mine.detach().cpu().contiguous()
        if self.alone:
            return mine
        lengths = [int(n) for n in self._gather(torch.tensor([len(mine)]))]
        padded = mine.new_zeros(max(lengths), *mine.shape[1:])
        padded[: len(mine)] = mine
        parts = self._gather(padded)
        return torch.cat([part[:n] for part, n in zip(parts, lengths, strict=True)])

    def join_lists(self, mine: Sequence[Any]) -> list[Any]:
        """All ranks' values in order, such as JSON can hold."""
        if self.alone:
            return list(mine)
        text = torch.from_numpy(np.frombuffer(json.dumps([*mine, None]).encode(), np.uint8).copy())
        lengths = [int(n) for n in self._gather(torch.tensor([len(text)]))]
        joined = self.join(text).split(lengths)
        return [value for part in joined for value in json.loads(part.numpy().tobytes())[:-1]]

    def _gather(self, mine: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(parts, mine)
        return parts

    def follow(self, model: nn.Module) -> None:
        """Take over the weights of the first rank; equal trainings on accelerators may differ by rounding."""
        if not self.alone:
            for p in model.parameters():
                dist.broadcast(p.data, 0)

    def told(self, number: float) -> float:
        """The first rank's number."""
        return self.add_numbers([number if self.first else 0.0])[0]

    def wait(self) -> None:
        """Until all ranks are here."""
        self.add_numbers([0.0])


ALONE = Ranks()


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Take this process's place among those that torchrun started, on `device` ("auto", "cpu", "cuda").

    Raises:
        SpecError: if CUDA is asked for where there is none, or more processes share a machine than it has devices.
        RunError: if another process is gone.
    """
    count, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if count == 1:
        yield Ranks(device=choose_device(device))
        return
    chosen = choose_device(device, local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # host numbers go through gloo, so that agreeing on a stop does not wait for the accelerator
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), count, chosen)
    except (RuntimeError, dist.DistError) as error:
        if isinstance(error, GeomaestroError) or not _is_of_connection(error):
            raise
        raise RunError(
            "another rank is gone, and its own message says why; go on from the last saved state with --resume"
        ) from None
    finally:
        dist.destroy_process_group()


def _is_of_connection(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def choose_device(name: str, local: int = 0) -> torch.device:
    """The device a recipe asks for, of the process number `local` on this machine.

    Raises:
        SpecError: if it asks for CUDA where there is none, or there are fewer devices than processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise SpecError("device: cuda was asked for, but torch sees no CUDA device; set device=cpu")
    if name != "cuda" or "LOCAL_RANK" not in os.environ:
        return torch.device(name)
    if local >= torch.cuda.device_count():
        raise SpecError(
            f"process {local} of this machine finds only {torch.cuda.device_count()} CUDA devices; start torchrun with "
            f"--nproc-per-node {torch.cuda.device_count()} or fewer"
        )
    return torch.device("cuda", local)
