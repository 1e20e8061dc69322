"""`geomaestro doctor`: in half a minute, what a run of a recipe would take here, what limits it and what to change.

Nothing is written. Several ranks do the same together. Each stage may use the seconds up to a share of the whole; what
there was no time for is told.
"""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

from geomaestro.data.loader import Subset
from geomaestro.data.reading import Dataset
from geomaestro.data.spec import PackedSpec
from geomaestro.learn.checkpoint import KEEP
from geomaestro.learn.distributed import Ranks
from geomaestro.learn.doctor import measure, sizes
from geomaestro.learn.doctor.advice import NO_ADVICE, advise, more_workers
from geomaestro.learn.doctor.findings import DataFacts, Findings, MemoryFacts, RunFacts, StepFacts, Trial
from geomaestro.learn.doctor.machine import describe, forget_peak, resident_bytes
from geomaestro.learn.doctor.measure import Evaluation, Patient, first_of, follow, some
from geomaestro.learn.parallel import recompute_blocks
from geomaestro.learn.pretrain import Rebuilding
from geomaestro.learn.recipe import Recipe
from geomaestro.learn.run import Run, check_all
from geomaestro.models.kinds import make_autoencoder

# Shares of the seconds at which a stage ends: looking at samples, probing memory, steps, trials, steps with labels.
LOOK, PROBE, STEP, TRY, WHOLE = 0.1, 0.25, 0.6, 0.85, 1.0
COPIES = 2  # of samples in memory: those that were read, and the one batch that they are stacked in
PREFETCHED = 4  # batches that each worker reads ahead (data/loader.py)
ENOUGH = 0.95  # assumed; of what is available, to leave the machine room to breathe
LEAST, MOST = 3, 200  # steps that are timed
WAITS = 0.1  # assumed; below that share of waiting more workers are not tried


class Exam:
    """A look at a recipe: what is known so far, and the clock."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        ranks: Ranks,
        seconds: float,
        *,
        opened: Callable[[], Dataset] | None,
        memory_bytes: int | None,
    ) -> None:
        self.started_at, self.seconds, self.ranks, self.recipe = time.monotonic(), seconds, ranks, recipe
        self.run = Run(recipe, folder, "", ranks)
        check_all(self.run)
        assert recipe.pretrain is not None, "check_all refuses that"
        self.settings, self.seed = recipe.pretrain, recipe.seed
        # opened anew for each stage: what was read before may be kept in memory
        self.opened = opened or self.run.splits.listed_for_pretraining
        self.environment = describe(ranks, recipe.data.folder, folder, memory_bytes)
        self.spec = self.run.model_spec()
        with torch.device("meta"):
            self.shapes = sizes.shapes_of(make_autoencoder(self.spec))
        self.part = self.settings.batch // ranks.count // self.settings.accumulate
        self.shards = self.settings.parallel == "fsdp" and not ranks.alone
        self.cuda = ranks.device.type == "cuda"
        self.process = torch.cuda.memory_allocated(ranks.device) if self.cuda else resident_bytes()
        self.probes: dict[int, int] = {}
        self.sample_s = self.step_s = 0.0
        self.other, self.next_step = 0, 0
        self.untried: list[str] = []
        self.know_idle(())

    def left(self, share: float) -> float:
        """Seconds until this share of them is over."""
        return self.started_at + share * self.seconds - time.monotonic()

    def know_idle(self, idle: Collection[str]) -> None:
        """Count bytes of the model anew, once it is known which of its tensors get no gradient."""
        self.idle = idle
        self.whole = sizes.model_bytes(self.shapes, idle=idle)
        self.sharded = sizes.model_bytes(self.shapes, ranks=self.ranks.count, idle=idle)

    def look(self) -> DataFacts:
        """Read some samples; keep a few of them to step on where a run would read them all into memory first."""
        self.seen = self.opened()  # what is not timed is read from here
        looked = measure.look_at(self.seen, self.seed, self.left(LOOK))
        self.dataset = self.opened()
        count, each = len(self.dataset), looked.sample_bytes
        in_memory, self.decoded = measure.is_in_memory(self.dataset, each), measure.decoded_bytes(self.dataset)
        if in_memory:
            affordable = int(LOOK * self.seconds / (looked.first_s or 1e-3))
            self.seen = self.dataset = Subset(self.dataset, range(max(1, min(count, affordable))))
        self.kept_here = COPIES * each if in_memory else self.decoded
        copies = 1 if in_memory else max(1, self.settings.workers)
        self.data = DataFacts(
            splits={name: len(self.run.splits.listed(name)) for name in self.recipe.data.pretrain_splits},
            samples=count,
            sample_bytes=each,
            kept="all" if in_memory else "decoded" if self.decoded else "nothing",
            held_bytes=copies * count * self.kept_here,
            first_s=looked.first_s,
            again_s=looked.again_s,
            looked_at=looked.samples,
            unreadable=looked.unreadable,
            packed=isinstance(self.run.spec, PackedSpec),
        )
        return self.data

    def memory(
        self, *, part: int | None = None, shards: bool | None = None, probes: dict[int, int] | None = None
    ) -> MemoryFacts:
        """The predicted peak of a rank, as the recipe is or with something else; without probes activations are 0.

        Probes were taken of a whole model, so that they hold the gradients of all of it.
        """
        part, probes = part or self.part, probes or self.probes
        shards = self.shards if shards is None else shards
        model = self.sharded if shards else self.whole
        other = self.other + (sizes.gathered_bytes(self.shapes) if shards else 0)
        on_way = (2 if self.cuda else PREFETCHED * self.settings.workers + 2) * part * self.data.sample_bytes
        data = on_way + (0 if self.cuda else self.data.held_bytes)
        fixed = self.process + data + model.weights + model.optimiser + model.gradients - self.whole.gradients + other
        available = self.environment.available_bytes
        most = sizes.largest(probes, round(ENOUGH * available) - fixed) if probes else 0
        return MemoryFacts(
            process_bytes=self.process,
            data_bytes=data,
            weights_bytes=model.weights,
            gradients_bytes=model.gradients,
            optimiser_bytes=model.optimiser,
            activations_bytes=max(0, sizes.at(probes, part) - self.whole.gradients) if probes else 0,
            other_bytes=other,
            available_bytes=available,
            largest_batch=most * self.ranks.count * self.settings.accumulate,
        )

    def probe(self) -> None:
        """Bytes of steps of few samples, and of more as long as there is time and memory for them."""
        forgotten = forget_peak()
        self.patient = patient = Patient(self.run.new_model(self.seed), self.settings, self.ranks)
        size, read_s = min(2, self.part), self.data.first_s or 0.0
        while True:
            parts = some(self.seen, self.settings, size, self.ranks.device)
            patient.step(parts)
            self.probes[size], seconds = patient.peak(parts), patient.seconds(parts)
            self.sample_s = seconds / size
            self.know_idle(patient.idle())
            size *= 4
            too_slow = size * (3 * self.sample_s + read_s) > self.left(PROBE)
            if 2 * size > self.part or too_slow or not self.memory(part=size).fits:
                break
        self.counts_peak = forgotten and not self.cuda

    def measured_batch(self) -> int:
        """The recipe's batch, or a smaller one where too few steps of that could be taken."""
        steps = 1 + self.settings.workers + LEAST
        share = self.part * self.settings.accumulate
        read_s = (self.data.first_s or 0.0) / max(1, self.settings.workers) if self.data.kept != "all" else 0.0
        affordable = int(max(0.0, self.left(STEP)) / steps / (self.sample_s + read_s))
        mine = share if share <= 1.5 * affordable else max(*self.probes, min(affordable, self.part))
        return int(self.ranks.join_lists([mine])[0]) * self.ranks.count

    def step(self) -> StepFacts:
        """Real steps, data on the way."""
        patient, ranks, whole = self.patient, self.ranks, self.settings
        batch = self.measured_batch()
        settings = whole if batch == whole.batch else whole.model_copy(update={"batch": batch, "accumulate": 1})
        parts = some(self.seen, settings, batch // ranks.count, ranks.device) if self.cuda or not ranks.alone else []
        alone_s = None if ranks.alone else median(patient.seconds(parts) for _ in range(LEAST))
        patient.spread()
        most = max(2, min(MOST, self.data.samples // batch)) if self.decoded else MOST
        pace = follow(patient, self.dataset, settings, seed=self.seed, seconds=self.left(STEP), most=most)
        self.next_step = len(pace.waits) + 1 + (1 + PREFETCHED) * settings.workers
        compute_s, wait_s = pace.compute_s, pace.wait_s
        if self.cuda:
            compute_s = median(patient.seconds(parts) for _ in range(LEAST + 2))
            wait_s = max(0.0, pace.compute_s - compute_s)
        if self.counts_peak:
            counted = self.memory(part=batch // ranks.count // settings.accumulate)
            here = min(self.data.samples, self.next_step * batch + self.data.looked_at) * self.kept_here
            self.other = max(0, resident_bytes(peak=True) - counted.total_bytes + counted.data_bytes - here)
        scale = whole.batch / batch
        visits = whole.in_steps(self.data.samples, whole.batch) * whole.batch
        new = self.data.samples * whole.workers if whole.workers else self.data.samples / whole.seeds
        return StepFacts(
            batch=whole.batch,
            measured_batch=batch,
            steps=len(pace.waits),
            compute_s=scale * compute_s,
            first_wait_s=scale * wait_s,
            later_wait_s=scale * self._later_wait(pace.compute_s, wait_s, batch),
            new_share=min(1.0, new / visits),
            low_s=scale * pace.spread_s[0],
            high_s=scale * pace.spread_s[-1],
            ranks_s=None if alone_s is None else scale * max(0.0, compute_s - alone_s),
        )

    def _later_wait(self, compute_s: float, wait_s: float, batch: int) -> float:
        """Waiting of a step whose samples were read before: measured, or what workers can't read while it computes."""
        if not self.decoded:
            return wait_s
        if self.settings.workers:
            read_s = batch / self.ranks.count * (self.data.again_s or 0.0) / self.settings.workers
            return min(wait_s, max(0.0, read_s - compute_s))
        settings = self.settings.model_copy(update={"batch": batch, "accumulate": 1})
        most = max(2, min(LEAST + 1, self.next_step))
        again = follow(self.patient, self.dataset, settings, seed=self.seed, seconds=self.left(STEP), most=most)
        return min(wait_s, again.wait_s)

    def trials(self, step: StepFacts) -> Iterator[Trial]:
        """The obvious alternatives, in turn with the recipe itself. Only alone: shards can't step alone."""
        if not self.ranks.alone:
            return
        patient, settings = self.patient, self.settings
        if step.wait_s > WAITS * step.total_s and self.data.kept != "all":
            workers = more_workers(settings, self.environment.cores)
            if workers != settings.workers:
                cost_s = 2 * (1 + workers + LEAST) * step.total_s
                now, then = partial(self._pace_s, step, settings.workers), partial(self._pace_s, step, workers)
                yield from self._try(f"pretrain.workers={workers}", now, then, cost_s, 0.0)
        if self.environment.bf16 is not None or settings.precision == "bf16":
            count = max(1, min(step.measured_batch // settings.accumulate, int(self.left(TRY) / 20 / self.sample_s)))
            parts = some(self.seen, settings, count, self.ranks.device)
            precision = "fp32" if settings.precision == "bf16" else "bf16"
            now, then = (
                partial(patient.seconds, parts),
                partial(patient.seconds, parts, Rebuilding(patient.model, precision)),
            )
            yield from self._try(f"pretrain.precision={precision}", now, then, 2 * count * self.sample_s, step.wait_s)

    def _pace_s(self, step: StepFacts, workers: int) -> float:
        """Seconds of a step with so many workers, on samples that were not read before."""
        settings = self.settings.model_copy(update={"workers": workers, "batch": step.measured_batch, "accumulate": 1})
        most = 1 + workers + LEAST
        pace = follow(
            self.patient, self.dataset, settings, seed=self.seed, first=self.next_step, seconds=1e9, most=most
        )
        self.next_step += most + PREFETCHED * workers
        return pace.compute_s + pace.wait_s

    def _try(
        self, override: str, one: Callable[[], float], other: Callable[[], float], cost_s: float, wait_s: float
    ) -> Iterator[Trial]:
        """An alternative, unless enough rounds of `cost_s` would take too long; both wait for data `wait_s`."""
        left_s = self.left(TRY)
        gains = measure.in_turn(one, other, left_s / 2) if (measure.ROUNDS + 1) * cost_s < left_s / 2 else ()
        if not gains:
            self.untried.append(override)
            return
        compute_s = self.step_s - wait_s
        whole = tuple(self.step_s / (compute_s / gain + wait_s) for gain in gains)
        yield Trial(override, whole, median(whole), better=min(whole) > 1 and median(whole) > measure.GAIN)

    def remedies(self) -> Iterator[tuple[str, int]]:
        """Overrides that take less memory, and what the run would need with them."""
        settings, ranks = self.settings, self.ranks.count
        if self.probes:
            share = settings.batch // ranks
            for count in (n for n in range(settings.accumulate + 1, share + 1) if share % n == 0):
                if self.memory(part=share // count).fits:
                    yield f"pretrain.accumulate={count}", self.memory(part=share // count).total_bytes
                    break
            if not settings.recompute and self.ranks.alone:
                recompute_blocks(self.patient.model, True)
                parts = some(self.seen, settings, max(self.probes), self.ranks.device)
                probes = {size: self.patient.peak(first_of(parts, size)) for size in sorted(self.probes)[-2:]}
                recompute_blocks(self.patient.model, False)
                yield "pretrain.recompute=true", self.memory(probes=probes).total_bytes
            batch = self.memory().largest_batch
            if 0 < batch < settings.batch:
                yield f"pretrain.batch={batch}", self.memory(part=batch // ranks // settings.accumulate).total_bytes
        if ranks > 1 and not self.shards:
            yield "pretrain.parallel=fsdp", self.memory(shards=True).total_bytes

    def predict(self, step: StepFacts | None, evaluation: Evaluation, free_bytes: int) -> RunFacts:
        """Steps, seconds and disk of all seeds and the evaluation."""
        settings, samples = self.settings, self.data.samples
        steps, seeds = settings.in_steps(samples, settings.batch), settings.seeds
        read_in_s = samples * (self.data.first_s or 0.0) if self.data.kept == "all" else 0.0
        pretrain_s = None if step is None else seeds * steps * step.total_s + read_in_s
        saved = KEEP + 1 if pretrain_s is None else 1 + int(pretrain_s / seeds // settings.save_every_s)
        state, model = sizes.state_bytes(self.shapes, self.idle), sizes.saved_model_bytes(self.shapes)
        most, kept = sizes.states_bytes(state, saved)
        other = sizes.other_bytes(self.spec.encoder, steps // settings.log_every + 1, seeds)
        pretrained = seeds * (kept + model)
        training = pretrained - kept - model + max(most, kept + model)
        return RunFacts(
            steps=steps,
            seeds=seeds,
            epochs=steps * settings.batch / samples,
            read_in_s=read_in_s,
            pretrain_s=pretrain_s,
            evaluation=evaluation.works,
            state_bytes=state,
            model_bytes=model,
            disk_bytes=max(training, pretrained + evaluation.work_bytes + evaluation.model_bytes) + other,
            kept_bytes=pretrained + evaluation.model_bytes + other,
            free_bytes=free_bytes,
        )


def examine(
    recipe: Recipe,
    folder: Path,
    *,
    ranks: Ranks,
    seconds: float = 30.0,
    memory_bytes: int | None = None,
    disk_bytes: int | None = None,
    opened: Callable[[], Dataset] | None = None,
) -> Findings:
    """Look at a recipe for about so many seconds, as if it were to run in `folder`; all ranks call it.

    `memory_bytes` and `disk_bytes` stand for what may be used, in place of what the machine has; `opened` gives samples
    in place of the recipe's.

    Raises:
        GeomaestroError: for anything wrong with recipe or data, as `pretrain` raises it.
    """
    exam = Exam(recipe, folder, ranks, seconds, opened=opened, memory_bytes=memory_bytes)
    environment, data = exam.environment, exam.look()
    step, trials, evaluation = None, tuple[Trial, ...](), Evaluation()
    if exam.memory().fits:
        exam.probe()
    (refused,) = ranks.agree(not exam.probes or not exam.memory().fits)  # all step, or none
    if not refused:
        step = exam.step()
        exam.step_s = step.total_s
        trials = tuple(exam.trials(step))
        if recipe.evaluate is not None and exam.left(WHOLE) > 0:
            evaluation = measure.estimate(exam.run, exam.spec.encoder, exam.settings.seeds, exam.left)
        elif recipe.evaluate is not None:
            exam.untried.append("the evaluation")
    memory = exam.memory()
    remedies = [] if memory.fits else [each for each in exam.remedies() if each[1] <= memory.available_bytes]
    run = exam.predict(step, evaluation, environment.run.free_bytes if disk_bytes is None else disk_bytes)
    found = Findings(recipe.name, environment, data, step, memory, run, trials, tuple(exam.untried), NO_ADVICE, 0.0)
    advice = advise(found, exam.settings, remedies)
    return replace(found, advice=advice, elapsed_s=time.monotonic() - exam.started_at)
