"""Stop cleanly: Ctrl-C and SIGTERM let the step end and the state be saved; a second Ctrl-C stops at once.

Not so under torchrun, which hands a signal on that its processes may have got from the terminal already.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A run was stopped by the user and saved; the text says how to go on."""


class Stop:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal; a second Ctrl-C raises."""
        if self.asked and number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def catch_signals() -> Iterator[Stop]:
    """Take SIGINT and SIGTERM while inside."""
    stop = Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for handler in before.values():
        if stop.asked and isinstance(handler, Stop):  # nobody inside has heeded it, so who is outside should
            handler.asked = True
