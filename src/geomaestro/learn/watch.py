"""A loss or gradient that is not a number stops a training before its weights move, on all ranks.

A CPU knows at once. An accelerator is not waited for at every step: the optimiser skips, by itself, the first such step
and all after it, and the host learns of it when it next looks.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from geomaestro.errors import NonFiniteError, RunError
from geomaestro.runs import write_json

REPORT = "non_finite.json"  # in the folder of a training


@dataclass(frozen=True, slots=True)
class NonFinite:
    """A step whose loss or gradient norm is not a number."""

    step: int
    loss: float
    grad_norm: float


def report_non_finite(
    found: NonFinite, folder: Path | None, names: Sequence[str], *, writes: bool, remedy: str = ""
) -> NonFiniteError:
    """List the samples of a step in `folder`, if there is one; gives the error to raise."""
    listed = ""
    if folder is not None:
        path = folder / REPORT
        listed = f" and the samples are listed in {path}"
        if writes:
            write_json(path, {**asdict(found), "ids": list(names)})
    return NonFiniteError(
        f"loss {found.loss} and gradient norm {found.grad_norm} at step {found.step}; the weights were not changed"
        f"{listed}; {remedy}look at their pixels, lower the learning rate, or set clip_norm"
    )


def saved_or_why(save: Callable[[], None]) -> str:
    """Save the state before a step that is not a number; if that fails, the step is still to be told of."""
    try:
        save()
    except RunError as error:
        return f"its state could not be saved ({error}); "
    return ""


class Watch:
    """Sees every step's loss and gradient norm, which are the same on all ranks.

    `stop` makes the error to raise; weights and optimiser are then those before the step.
    """

    def __init__(
        self, optimiser: torch.optim.Optimizer, device: torch.device, stop: Callable[[NonFinite], NonFiniteError]
    ) -> None:
        self.at_once = device.type == "cpu"
        self._stop = stop
        self._unseen: list[tuple[int, Tensor, Tensor]] = []
        self.held: Tensor | None = None
        """On an accelerator 1 from the first step on that is not a number, else 0."""
        if not self.at_once:
            self.held = torch.zeros((), device=device)
            # torch's fused optimisers skip a step where this is 1, as they do for its gradient scaler
            optimiser.grad_scale, optimiser.found_inf = None, self.held  # type: ignore[attr-defined]

    def see(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Look at a step whose gradients are there and whose weights have not moved.

        Raises:
            NonFiniteError: on a CPU.
        """
        self._unseen.append((step, loss, norm))
        if self.held is None:
            self.look()
        else:
            finite = torch.isfinite(loss) & torch.isfinite(norm)
            self.held.copy_(torch.maximum(self.held, (~finite).to(self.held.dtype)))

    def look(self) -> None:
        """Wait for the device, and look at what it computed since the last time.

        Raises:
            NonFiniteError: for the first step that is not a number.
        """
        if self.held is not None and not self.held:
            self._unseen.clear()
        for step, loss, norm in self._unseen:
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                raise self._stop(NonFinite(step, loss.item(), norm.item()))
        self._unseen.clear()
