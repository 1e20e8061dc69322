"""What goes wrong in fetching: faults that may pass are tried again, with longer and longer waits; all are told."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from geomaestro.select.gather.draws import uniform

T = TypeVar("T")
LONGEST_WAIT_S = 300.0  # assumed; a server that asks for more is down
JITTER = 20  # stream of draws


class Passing(Exception):  # noqa: N818  # it is caught, never shown to a user
    """A fault that may pass: no answer, too many requests, a file that came in part."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Unusable(Exception):  # noqa: N818
    """An item that can't be used, however often it is asked for."""


class Refused(Unusable):
    """The server does not allow it: a signature may have run out."""


@dataclass
class Log:
    """The faults that one place met, in order; one thread fills it."""

    place: str
    key: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    tried: int = 0

    def add(self, what: str, reason: str, **more: Any) -> None:
        """Take note of a fault."""
        self.rows.append({"id": self.place, "what": what, **more, "reason": reason})


@dataclass(frozen=True)
class Patience:
    """How often a thing is tried, and how long the first wait is; `stopped` ends all waits."""

    tries: int
    backoff_s: float
    stopped: threading.Event = field(default_factory=threading.Event, compare=False)

    def persist(self, action: Callable[[], T], what: str, log: Log) -> T:
        """The result of `action`; faults that may pass are logged and waited for, the last is raised.

        The n-th wait is backoff_s * 2^n, times a number between 0.5 and 1.5 that is drawn by the place's key; it is as
        long as the server asks, if that is longer.
        """
        for number in range(self.tries):
            try:
                return action()
            except Passing as fault:
                if number == self.tries - 1 or self.stopped.is_set():
                    log.add(what, str(fault), tried=number + 1)
                    raise
                log.tried += 1
                wait = self.backoff_s * 2**number * (0.5 + float(uniform(log.key, log.tried, JITTER)[0]))
                wait = min(max(wait, fault.wait_s or 0.0), LONGEST_WAIT_S)
                log.add(what, str(fault), tried=number + 1, waited_s=round(wait, 3))
                self.stopped.wait(wait)
        raise AssertionError("tries is at least 1")
