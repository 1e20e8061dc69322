"""Batches on their way to the device: the parts of a step together, and the seconds that were waited for them."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from geomaestro.learn.augment import Change
from geomaestro.samples import Batch, each_tensor, to_device


class Feed:
    """The parts of each step on the device, changed there if told how; on CUDA those of the next step are copied while
    this one is computed.
    """

    def __init__(
        self, batches: Iterator[Batch[Tensor]], device: torch.device, parts: int = 1, change: Change | None = None
    ) -> None:
        self.batches, self.device, self.parts, self.change = batches, device, parts, change
        self.waited_s = 0.0
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __iter__(self) -> Iterator[list[Batch[Tensor]]]:
        if self._stream is None:
            while step := self._fetch():
                yield step
            return
        coming = self._copied(self._stream)
        while coming:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
            step = [each_tensor(part, self._in_use) for part in coming]
            yield step  # the host comes back while the device still computes
            coming = self._copied(self._stream)

    def _fetch(self) -> list[Batch[Tensor]]:
        started_at = time.monotonic()
        step = [to_device(part, self.device) for _, part in zip(range(self.parts), self.batches)]  # noqa: B905
        self.waited_s += time.monotonic() - started_at
        return step if self.change is None else [self.change(part) for part in step]

    def _copied(self, stream: torch.cuda.Stream) -> list[Batch[Tensor]]:
        with torch.cuda.stream(stream):
            return self._fetch()

    def _in_use(self, value: Tensor) -> Tensor:
        """Tell the allocator that another stream reads this tensor."""
        value.record_stream(torch.cuda.current_stream(self.device))
        return value
