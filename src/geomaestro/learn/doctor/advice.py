"""What limits a run and what to change, from findings; overrides were tried, or added up."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from geomaestro.learn.doctor.findings import Advice, Findings, StepFacts
from geomaestro.learn.doctor.measure import GAIN
from geomaestro.learn.doctor.sizes import gib
from geomaestro.learn.recipe import PretrainRecipe

WAITING, TALKING = 0.15, 0.2  # assumed; shares of a step from which on waiting, or ranks, are what limits it


NO_ADVICE = Advice("not measured", (), (), None)


def advise(case: Findings, settings: PretrainRecipe, remedies: Sequence[tuple[str, int]]) -> Advice:
    """The bottleneck, sentences, overrides, and the reason why the run cannot work if there is one.

    `remedies` are overrides with which it would fit, and its peak then.
    """
    memory, run = case.memory, case.run
    if not memory.fits:
        needs = f"the run needs about {gib(memory.total_bytes)} of memory, {gib(memory.available_bytes)} are available"
        said = [f"{text} (then about {gib(total)})" for text, total in remedies]
        remedy = f"set {', or '.join(said)}" if said else "choose a smaller model.size, or a machine with more memory"
        return Advice("memory", (), tuple(text for text, _ in remedies), f"{needs}; {remedy}")
    refusal = None
    if run.disk_bytes > run.free_bytes:
        refusal = (
            f"the run folder needs {gib(run.disk_bytes)} and {gib(run.free_bytes)} are free on "
            f"{case.environment.run.path}; free some space, or choose another folder with --run"
        )
    if case.step is None:
        return replace(NO_ADVICE, refusal=refusal)
    bottleneck, first = _limit(case, case.step, settings)
    better = sorted((trial for trial in case.trials if trial.better), key=lambda trial: -trial.gain)
    said = [f"{trial.override} is {trial.gain:.2f} times as fast (measured)." for trial in better]
    if case.trials and not better:
        said = [f"Nothing that was tried was faster in every round, and by {100 * (GAIN - 1):.0f} %."]
    return Advice(bottleneck, (first, *said), tuple(trial.override for trial in better), refusal)


def _limit(case: Findings, step: StepFacts, settings: PretrainRecipe) -> tuple[str, str]:
    """The name of what limits a step, and a sentence with its numbers."""
    waits = step.wait_s / step.total_s
    if waits >= WAITING:
        what = f"{100 * waits:.0f} % of a step is waiting for data ({step.wait_s:.3f} of {step.total_s:.3f} s)"
        return (
            "waiting for data",
            f"{what}: {', or '.join(_faster_data(case, settings)) or 'a faster disk would help'}.",
        )
    if step.ranks_s is not None and step.ranks_s / step.total_s >= TALKING:
        return "exchange between ranks", (
            f"{100 * step.ranks_s / step.total_s:.0f} % of a step goes to the exchange between ranks; a larger "
            "pretrain.batch makes it rarer for each sample."
        )
    env = case.environment
    if env.device == "cpu" and env.threads * env.ranks < env.cores:
        return "few threads", (
            f"Computing on {env.threads * env.ranks} of {env.cores} cores: "
            f"try OMP_NUM_THREADS={env.cores // env.ranks}."
        )
    return "computing", f"{100 * (1 - waits):.0f} % of a step is computing ({step.compute_s:.3f} s)."


def _faster_data(case: Findings, settings: PretrainRecipe) -> Iterator[str]:
    if not case.data.packed:
        yield "pack the samples with `geomaestro data pack`"
    if case.environment.data.remote:
        yield f"copy the data from {case.environment.data.filesystem} to a local disk"
    if case.data.kept != "all" and settings.workers < case.environment.cores:
        yield f"read ahead with pretrain.workers={more_workers(settings, case.environment.cores)}"


def more_workers(settings: PretrainRecipe, cores: int) -> int:
    """The next number of workers to try."""
    return min(max(2, cores), max(2, 2 * settings.workers))
