"""The greedy choice, without looking at every candidate in every step.

Candidates of the same strata share what coverage gains, so they lie in a bucket in the order of what they gain of their
own, and only the heads of buckets are compared. Gains can but fall: one found earlier bounds that of now from above,
and is found again only for a head ("lazy"). Picks are those of the plain greedy algorithm, the first of equals.
Sources: Minoux 1978; Nemhauser, Wolsey & Fisher 1978.
Axes: n candidates, b buckets.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from geomaestro.select.objective import Objective, State

AT_ONCE = 32  # measured; heads of a bucket whose gains are found together
ROUNDS = 50  # assumed; of making the bound tighter
SHOWN = 100  # picks between two reports

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Picks:
    """Candidates in the order chosen, what each gained, the worth of terms, and what no choice can exceed."""

    candidates: np.ndarray
    gains: np.ndarray
    worth: dict[str, float]
    bound: float
    looked_at: int
    algorithm: str

    @property
    def share_of_optimum(self) -> float:
        """The least share of the optimum that this is worth."""
        return min(sum(self.worth.values()) / self.bound, 1.0) if self.bound > 0 else 1.0


class Queue:
    """Candidates `among` (in rising order) all n in buckets, by bounds (n) of their own gains."""

    def __init__(self, objective: Objective, among: np.ndarray, bounds: np.ndarray, seen_at: int) -> None:
        self.bounds, self.seen_at = bounds, np.full(len(bounds), seen_at, np.int32)
        order = among[np.argsort(-bounds[among], kind="stable")]
        order = order[np.argsort(objective.bucket[order], kind="stable")]
        self.order = order
        self.next = np.searchsorted(objective.bucket[order], np.arange(len(objective.strata)))
        self.last = np.append(self.next[1:], len(order))
        self.again: list[list[tuple[float, int]]] = [[] for _ in self.next]
        self.head = np.full(len(self.next), -1, np.int64)
        self.bound = np.full(len(self.next), -np.inf)
        for bucket in range(len(self.next)):
            self.look(bucket)

    def look(self, bucket: int) -> None:
        """Find the head of a bucket."""
        heap, at = self.again[bucket], self.next[bucket]
        first = (-np.inf, -1)
        if at < self.last[bucket]:
            candidate = int(self.order[at])
            first = (float(self.bounds[candidate]), candidate)
        if heap and (first[1] < 0 or heap[0] < (-first[0], first[1])):
            first = (-heap[0][0], heap[0][1])
        self.bound[bucket], self.head[bucket] = first

    def pop(self, bucket: int) -> int:
        """Take the head of a bucket out."""
        candidate, heap = int(self.head[bucket]), self.again[bucket]
        if heap and heap[0][1] == candidate:
            heapq.heappop(heap)
        else:
            self.next[bucket] += 1
        self.look(bucket)
        return candidate

    def push(self, bucket: int, candidates: np.ndarray, bounds: np.ndarray, seen_at: int) -> None:
        """Put candidates back with what was found anew."""
        self.bounds[candidates], self.seen_at[candidates] = bounds, seen_at
        for candidate, bound in zip(candidates.tolist(), bounds.tolist(), strict=True):
            heapq.heappush(self.again[bucket], (-bound, candidate))
        self.look(bucket)


def choose_greedily(objective: Objective, report: Report = lambda done, total, note: None) -> Picks:
    """Choose `budget` candidates, the one that gains most each time."""
    state, everyone = State(objective), np.arange(objective.size, dtype=np.int32)
    bounds = state.own_gains(everyone)
    queue, gains = Queue(objective, everyone, bounds, 0), np.zeros(objective.budget)
    candidates, looked_at = np.zeros(objective.budget, np.int64), objective.size
    for nth in range(objective.budget):
        if nth == 1 and objective.spread:  # any first sample is like all clients somewhat: older bounds tell nothing
            left = np.delete(everyone, candidates[0])
            queue, looked_at = _queue_anew(objective, state, left, bounds, report), looked_at + objective.size
        shared = state.bucket_gains()
        while True:
            bucket = _best(shared + queue.bound, queue.head)
            if not objective.changes or queue.seen_at[queue.head[bucket]] == nth:
                break
            looked_at += _look_again(queue, bucket, state, nth)
        gains[nth] = shared[bucket] + queue.bound[bucket]
        candidates[nth] = queue.pop(bucket)
        state.add(candidates[nth : nth + 1])
        if nth % SHOWN == SHOWN - 1 or nth == objective.budget - 1:
            report(nth + 1, objective.budget, "chosen")
    if objective.greedy_is_optimal:
        bound = sum(state.worth().values())
    else:
        old = queue.seen_at != state.picks if objective.changes else np.zeros(objective.size, bool)
        bound = upper_bound(state, queue.bounds, old)
    return Picks(candidates, gains, state.worth(), bound, looked_at, "lazy greedy")


def _best(gains: np.ndarray, heads: np.ndarray) -> int:
    """The bucket of the greatest gain; of equals the one with the earliest head."""
    best = np.flatnonzero(gains == gains.max())
    return int(best[np.argmin(heads[best])])


def _queue_anew(objective: Objective, state: State, left: np.ndarray, bounds: np.ndarray, report: Report) -> Queue:
    """Look at all candidates once more, in parts so that there is something to report."""
    for part in np.array_split(left, max(len(left) // 20_000, 1)):
        bounds[part] = state.own_gains(part)
        report(int(part[-1]) + 1, objective.size, "candidates looked at")
    return Queue(objective, left, bounds, state.picks)


def _look_again(queue: Queue, bucket: int, state: State, nth: int) -> int:
    """Find the gains of the first few of a bucket anew; how many."""
    found: list[int] = []
    while queue.head[bucket] >= 0 and len(found) < AT_ONCE and queue.seen_at[queue.head[bucket]] != nth:
        found.append(queue.pop(bucket))
    again = np.asarray(found)
    queue.push(bucket, again, state.own_gains(again), nth)
    return len(again)


def upper_bound(state: State, own: np.ndarray, old: np.ndarray) -> float:
    """What no choice of the budget can exceed, as far as can be known: the least of two bounds.

    The sum of the weights, and the bound from the gains of all candidates at this state (`State.constant_of_bound`), in
    which own gains (n) found earlier, where `old`, stand for those of now until the greatest are all of now.
    """
    of, budget = state.of, state.of.budget
    shared, constant = state.bucket_gains()[of.bucket], state.constant_of_bound()
    for rounds_left in reversed(range(ROUNDS)):
        gains = shared + own
        top = np.argpartition(-gains, budget - 1)[:budget]
        again = top[old[top]]
        if not (len(again) and rounds_left):
            break
        own[again], old[again] = state.own_gains(again), False
    return float(min(constant + np.sort(gains[top]).sum(), of.weights))
