"""What a look at a recipe finds out, as JSON and as a page for a terminal. `_s` are seconds, `_bytes` bytes."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from geomaestro.learn.doctor.sizes import gib

FORMAT = "geomaestro-doctor-1"
Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Place:
    """A folder's file system: its type, whether it lies on another machine, and its free bytes."""

    path: str
    filesystem: str
    remote: bool
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Environment:
    """What a run would run on. Memory is that of the device, and what of it a process of ours may still take."""

    device: str
    name: str
    memory_bytes: int
    available_bytes: int
    cores: int
    threads: int
    bf16: str | None
    versions: dict[str, str]
    ranks: int
    data: Place
    run: Place


@dataclass(frozen=True, slots=True)
class DataFacts:
    """The samples. `kept`: all are read before the first step; or decoded once by each process; or read anew each time.

    `first_s` are seconds to read one, `again_s` once more, one at a time; None: too few were read to tell.
    """

    splits: dict[str, int]
    samples: int
    sample_bytes: int
    kept: Literal["all", "decoded", "nothing"]
    held_bytes: int
    first_s: float | None
    again_s: float | None
    looked_at: int
    unreadable: int
    packed: bool


@dataclass(frozen=True, slots=True)
class StepFacts:
    """A step of the recipe's whole batch. `measured_batch` is smaller where the whole takes too long.

    What is waited for data differs between samples that are read for the first time, `new_share` of all, and later.
    A tenth of the steps computed for less than `low_s`, a tenth for more than `high_s`; several ranks add `ranks_s`.
    """

    batch: int
    measured_batch: int
    steps: int
    compute_s: float
    first_wait_s: float
    later_wait_s: float
    new_share: float
    low_s: float
    high_s: float
    ranks_s: float | None

    @property
    def wait_s(self) -> float:
        """Waiting of a step, on average over the run."""
        return self.new_share * self.first_wait_s + (1 - self.new_share) * self.later_wait_s

    @property
    def total_s(self) -> float:
        """Seconds of a step, on average over the run."""
        return self.compute_s + self.wait_s


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """Predicted peak of one rank, by what takes it; the largest batch that would fit as the recipe is."""

    process_bytes: int
    data_bytes: int
    weights_bytes: int
    gradients_bytes: int
    optimiser_bytes: int
    activations_bytes: int
    other_bytes: int
    available_bytes: int
    largest_batch: int

    @property
    def total_bytes(self) -> int:
        """The predicted peak."""
        return sum(getattr(self, name) for name in self.__slots__[:7])

    @property
    def fits(self) -> bool:
        """Whether the peak stays below what is available."""
        return self.total_bytes <= self.available_bytes


@dataclass(frozen=True, slots=True)
class Work:
    """What an evaluation's protocol will take, as an estimate: trainings, their steps, seconds."""

    protocol: str
    trainings: int
    steps: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The whole run. `read_in_s` is spent before the first step. Of disk, most is needed at the worst moment."""

    steps: int
    seeds: int
    epochs: float
    read_in_s: float
    pretrain_s: float | None
    evaluation: tuple[Work, ...]
    state_bytes: int
    model_bytes: int
    disk_bytes: int
    kept_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Trial:
    """An alternative, tried in turn with the recipe itself: how many times as fast it was, by rounds, and typically.

    It is better only if it was in every round: other programs may slow either.
    """

    override: str
    gains: tuple[float, ...]
    gain: float
    better: bool


@dataclass(frozen=True, slots=True)
class Advice:
    """What limits the run in a few sentences, overrides to paste, and why it cannot work (None: it can)."""

    bottleneck: str
    sentences: tuple[str, ...]
    overrides: tuple[str, ...]
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Findings:
    """All of it; `untried` names what there was no time for."""

    name: str
    environment: Environment
    data: DataFacts
    step: StepFacts | None
    memory: MemoryFacts
    run: RunFacts
    trials: tuple[Trial, ...]
    untried: tuple[str, ...]
    advice: Advice
    elapsed_s: float

    @property
    def samples_per_s(self) -> float | None:
        """Samples per second of pretraining, over the whole run."""
        if self.step is None or self.run.pretrain_s is None:
            return None
        return self.run.seeds * self.run.steps * self.step.batch / self.run.pretrain_s

    def as_json(self) -> dict[str, Any]:
        """What `--out` writes."""
        values: dict[str, Any] = {"format": FORMAT, **asdict(self), "samples_per_s": self.samples_per_s}
        values["memory"] |= {"total_bytes": self.memory.total_bytes, "fits": self.memory.fits}
        if self.step is not None:
            values["step"] |= {"wait_s": self.step.wait_s, "total_s": self.step.total_s}
        return values


def page(found: Findings) -> RenderableType:
    """All sections, the verdict last."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    sections = {
        "machine": _machine(found.environment),
        "data": _data(found.data),
        "step": _step(found),
        "memory": _memory(found.memory),
        "run": _run(found),
    }
    for title, rows in sections.items():
        table.add_row(Text(title, style="bold"))
        for name, value in rows:
            table.add_row(Text(f"  {name}", style="dim"), Text(value))
    advice = found.advice
    lines = [Text(f"What limits it: {advice.bottleneck}", style="bold"), *(Text(s) for s in advice.sentences)]
    if advice.overrides:
        lines.append(Text(f"to paste, one or several: {'  '.join(advice.overrides)}"))
    if found.untried:
        lines.append(Text(f"No time for: {', '.join(found.untried)}; ask with more --seconds."))
    if advice.refusal:
        lines.append(Text(f"It will not work: {advice.refusal}", style="bold red"))
    return Group(table, Panel(Group(*lines), title=f"{found.name}: looked at in {found.elapsed_s:.0f} s"))


def _machine(env: Environment) -> Iterator[Row]:
    bf16, versions = env.bf16 or "not in this device", ", ".join(f"{k} {v}" for k, v in env.versions.items())
    yield "device", f"{env.device}: {env.name}, {gib(env.memory_bytes)}, bfloat16: {bf16}"
    yield "processes", f"{env.ranks} of {env.threads} threads, on {env.cores} cores; {versions}"
    for name, place in (("data lies on", env.data), ("run goes to", env.run)):
        kind = f"{place.filesystem}, on another machine" if place.remote else place.filesystem
        yield name, f"{kind}, {gib(place.free_bytes)} free ({place.path})"


def _data(data: DataFacts) -> Iterator[Row]:
    splits = ", ".join(f"{k} {v}" for k, v in data.splits.items())
    bad = f"; {data.unreadable} of {data.looked_at} looked at can't be read" if data.unreadable else ""
    yield "samples", f"{data.samples} ({splits}) of {data.sample_bytes} bytes, as read{bad}"
    kept = {
        "all": f"all in memory ({gib(data.held_bytes)}), read before the first step",
        "decoded": f"decoded once by each process that reads, then in its memory ({gib(data.held_bytes)})",
        "nothing": "nothing: each sample is read anew",
    }
    yield "kept", kept[data.kept]
    first = f"{1 / data.first_s:.0f} samples/s in one process" if data.first_s else "not measured"
    again = f", {1 / data.again_s:.0f} when read before" if data.again_s and data.kept == "decoded" else ""
    yield "reading alone", first + again


def _step(found: Findings) -> Iterator[Row]:
    step = found.step
    if step is None:
        yield "", "not measured"
        return
    at = "" if step.measured_batch == step.batch else f", scaled from a batch of {step.measured_batch}"
    yield "a step", f"{step.total_s:.3f} s for {step.batch} samples, on average over the run"
    yield "computing", f"{step.compute_s:.3f} s ({step.low_s:.3f} to {step.high_s:.3f}, {step.steps} timed{at})"
    new = f" ({step.first_wait_s:.3f} where samples are new)" if found.data.kept == "decoded" else ""
    yield "waiting for data", f"{step.wait_s:.3f} s{new}"
    if step.ranks_s is not None:
        yield "exchange", f"{step.ranks_s:.3f} s between ranks"
    for trial in found.trials:
        rounds = f"{min(trial.gains):.2f} to {max(trial.gains):.2f} in {len(trial.gains)} rounds"
        yield "tried", f"{trial.override}: {trial.gain:.2f} times as fast ({rounds})"


def _memory(memory: MemoryFacts) -> Iterator[Row]:
    for name in memory.__slots__[:7]:
        yield name.removesuffix("_bytes"), gib(getattr(memory, name))
    verdict = "fits" if memory.fits else "does not fit"
    most = f"; largest batch about {memory.largest_batch}" if memory.largest_batch else ""
    yield "peak of a rank", f"{gib(memory.total_bytes)} of {gib(memory.available_bytes)}: {verdict}{most}"


def _run(found: Findings) -> Iterator[Row]:
    run, step, rate = found.run, found.step, found.samples_per_s
    seeds = f" for each of {run.seeds} seeds" if run.seeds > 1 else ""
    yield "steps", f"{run.steps}{seeds}, {run.epochs:.1f} epochs"
    if run.pretrain_s is not None and step is not None and rate is not None:
        low, high = (rate * step.total_s / (step.wait_s + x) for x in (step.high_s, step.low_s))
        yield "pretraining", f"{hours(run.pretrain_s)}, {rate:.1f} samples/s ({low:.1f} to {high:.1f})"
        for work in run.evaluation:
            yield work.protocol, f"about {hours(work.elapsed_s)}: {work.trainings} trainings, {work.steps} steps"
        more = ", roughly, without random forests and heads of probes" if run.evaluation else ""
        yield "in all", f"{hours(run.pretrain_s + sum(work.elapsed_s for work in run.evaluation))}{more}"
    yield "disk", f"{gib(run.disk_bytes)} at most, {gib(run.kept_bytes)} stay; {gib(run.free_bytes)} are free"


def hours(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
