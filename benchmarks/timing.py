"""How steps are timed: warm-ups, then rounds that each begin with a look at the machine's rate of products."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.machine import Clock, product_rates

WARM_UPS = 3  # measured: it takes as many until the memory kept is enough
LEAST_STEPS = 3
LEAST_S = 3.0
ROUND_S = 0.4  # a round is one look at the machine's speed, then steps for at least this long
GROWTH = 1.05
MOST_SAMPLES = 1024


@dataclass
class Taken:
    """Seconds of steps, and the machine's rates of products between them."""

    steps: list[float] = field(default_factory=list)
    rates: list[dict[str, float]] = field(default_factory=list)

    def product(self, precision: str) -> float:
        """The median rate of products, GFLOP/s."""
        return median(rate[precision] for rate in self.rates)


def time_in_turn(steps: Sequence[Callable[[], Any]], clock: Clock, least_s: float = LEAST_S) -> list[Taken]:
    """Time steps in turn, round after round, so that a change of the machine's speed meets them all."""
    taken = [Taken() for _ in steps]
    while any(len(t.steps) < LEAST_STEPS or sum(t.steps) < least_s for t in taken):
        rates = product_rates(clock)
        for step, one in zip(steps, taken, strict=True):
            one.rates.append(rates)
            first = clock.times(step, 1)
            more = 0 if first[0] >= ROUND_S else min(1000, round(ROUND_S / first[0]))
            one.steps += first + clock.times(step, more)
    return taken


def find_batch(rate_of: Callable[[int], float | None], most: int = MOST_SAMPLES) -> int:
    """The batch of the highest rate, found by doubling: until memory is full (a rate of None) or the rate grows by
    5 % or less.

    Raises:
        MemoryError: if not even one sample fits.
    """
    best, best_rate, batch = 0, 0.0, 1
    while batch <= most:
        rate = rate_of(batch)
        if rate is None:
            break
        grows = rate > GROWTH * best_rate
        if rate > best_rate:
            best, best_rate = batch, rate
        if not grows:
            break
        batch *= 2
    if not best:
        raise MemoryError("out of memory with a single sample")
    return best
