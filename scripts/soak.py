"""Kill a real pretraining with SIGKILL again and again, resume it, and compare it with one that was never stopped.

`python scripts/soak.py --kills 50 --seed 0` makes a miniature Earth, then runs `geomaestro pretrain` in processes of
its own, with each setting of SETTINGS in turn. Weights, optimiser, rows of metrics and the samples of every step must
be those of the uninterrupted run, bit by bit. Prints a table; exit code 1 at any difference.

The seed fixes which moments are aimed at; when a kill really comes depends on the machine, so kills differ from run to
run. Linux only: processes are found in /proc.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMES = {"samples_per_s", "elapsed_s", "waited_s"}  # of a row of metrics; all else has to be equal
STEPS, BATCH = 12, 8
ORDER = "GEOMAESTRO_SOAK_ORDER"  # the file that a child lists its samples in
LIMIT_S = 300  # a launch that takes longer hangs


@dataclass(frozen=True)
class Setting:
    """One way to train, and how often it saves; 1e-9 is after every step."""

    name: str
    ranks: int = 1
    overrides: tuple[str, ...] = ()
    save_every_s: float = 1e-9


SETTINGS = (
    Setting("plain"),
    Setting("2 workers", overrides=("workers=2",)),
    Setting("2 parts, saves every 0.2 s", overrides=("accumulate=2",), save_every_s=0.2),
    Setting("2 workers, 2 parts, bf16", overrides=("workers=2", "accumulate=2", "precision=bf16")),
    Setting("ddp", ranks=2),
    Setting("ddp, 2 workers, 2 parts, saves every 0.2 s", 2, ("workers=2", "accumulate=2"), 0.2),
    Setting("fsdp", ranks=2, overrides=("parallel=fsdp",)),
    Setting("fsdp, 2 parts, bf16", ranks=2, overrides=("parallel=fsdp", "accumulate=2", "precision=bf16")),
)


@dataclass
class Tally:
    """What happened to a setting."""

    kills: int = 0
    ranks_alone: int = 0  # kills of one rank of several
    writing: int = 0  # kills that left a half-written state or a temporary file
    finished: int = 0
    differences: list[str] = field(default_factory=list)


# ---- the child: a real pretraining that also lists the samples of each step ----


def child(tokens: Sequence[str]) -> None:
    """Run the command, and append what each step of this rank holds to the file named by ORDER."""
    from geomaestro.cli import main
    from geomaestro.learn import pretrain

    batches, path, rank = pretrain.training_batches, Path(os.environ[ORDER]), int(os.environ.get("RANK", "0"))

    def listed(dataset: Any, **settings: Any) -> Iterator[Any]:
        parts = settings["share"].parts
        for number, batch in enumerate(batches(dataset, **settings)):
            step, part = settings["start"] + number // parts, number % parts
            row = [step, rank, part, list(batch.ids), batch.keys.tolist()]
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            yield batch

    pretrain.training_batches = listed
    main(list(tokens))


# ---- the parent ----


def write_world(folder: Path) -> Path:
    """Make a miniature Earth and a recipe for it."""
    import yaml

    from geomaestro.data.miniatures.synthetic import EarthOptions, synthesise

    synthesise(folder / "earth", EarthOptions(train=8, val=4, test=4, seed=3))
    radar = {"dates": 2, "patch_px": 3}
    sensors = {"aerial": {"patch_px": 50}, "s2": {"dates": 4, "patch_px": 3}, "s1_asc": radar, "s1_des": radar}
    decoder = {"dim": 16, "depth": 1, "heads": 2, "head_dim": 8, "mlp_ratio": 1}
    recipe = {
        "name": "soak",
        "device": "cpu",
        "data": {"spec": str(folder / "earth" / "dataset.yaml"), "root": str(folder / "earth"), "inputs": sensors},
        "model": {"dim": 32, "depth": 2, "heads": 2, "head_dim": 16, "joint_blocks": 1, "decoder": decoder},
        "pretrain": {"steps": STEPS, "batch": BATCH, "peak_lr": 1e-3, "log_every": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def launch(setting: Setting, recipe: Path, folder: Path) -> subprocess.Popen[str]:
    """Start or resume a pretraining."""
    python = [sys.executable]
    if setting.ranks > 1:
        python += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(setting.ranks)]
    values = [f"pretrain.{text}" for text in (*setting.overrides, f"save_every_s={setting.save_every_s}")]
    command = [*python, __file__, "child", "pretrain", str(recipe), *values, "--out", str(folder)]
    if (folder / "recipe.yaml").is_file():
        command.append("--resume")
    env = os.environ | {"OMP_NUM_THREADS": "1", ORDER: str(folder.with_suffix(".order"))}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def children(pid: int) -> list[int]:
    """The processes that a process started and that still run."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(number) for number in text.split()]


def half_written(folder: Path) -> bool:
    """Whether a write is under way, or was when the writer was killed."""
    states = folder / "pretrain" / "seed0" / "checkpoints"
    return any(not (state / "state.json").is_file() for state in states.glob("step-*")) or any(folder.rglob(".*.*.*"))


def rows_in(folder: Path) -> int:
    """How many rows of metrics there are."""
    path = folder / "pretrain" / "seed0" / "metrics.jsonl"
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def wait_for_moment(process: subprocess.Popen[str], folder: Path, dice: random.Random) -> None:
    """Come back at the moment that the dice choose, or when the process ends."""
    kind, delay_s, more = dice.choice(("time", "step", "step", "write", "write")), dice.random(), dice.randrange(1, 4)
    rows, deadline = rows_in(folder), time.monotonic() + LIMIT_S
    if kind == "time":  # any moment: while it is loaded, too
        deadline = time.monotonic() + 8 * delay_s
    while process.poll() is None and time.monotonic() < deadline:
        begun = rows_in(folder) >= rows + more or (kind == "write" and more == 1 and rows_in(folder) > 0)
        if kind == "step" and begun:
            time.sleep(0.1 * delay_s)
            return
        if kind == "write" and begun and half_written(folder):
            return
        time.sleep(0.0005)
    if process.poll() is None and kind != "time":
        kill(process, [process.pid, *children(process.pid)])
        raise SystemExit(f"{folder}: a launch took more than {LIMIT_S} s")


def kill(process: subprocess.Popen[str], pids: Sequence[int]) -> None:
    """End processes outright, and wait for the one that was started here."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate(timeout=LIMIT_S)


def run_killed(setting: Setting, recipe: Path, folder: Path, dice: random.Random, tally: Tally, kills: int) -> None:
    """Run a setting to its end, killed at most `kills` times on the way."""
    for left in range(kills, -1, -1):
        process = launch(setting, recipe, folder)
        if left:
            wait_for_moment(process, folder, dice)
        else:
            process.wait(timeout=LIMIT_S)
        if process.poll() is not None:
            error = process.communicate()[1]
            if process.returncode:
                tally.differences.append(f"{folder}: exit code {process.returncode}: {error[-2000:]}")
            else:
                tally.finished += 1
            return
        ranks = children(process.pid) if setting.ranks > 1 else []
        alone = len(ranks) == setting.ranks and dice.random() < 0.3
        kill(process, [dice.choice(ranks)] if alone else [process.pid, *ranks])
        tally.kills += 1
        tally.ranks_alone += alone
        tally.writing += half_written(folder)


def compare(ours: Path, theirs: Path) -> list[str]:
    """What differs between a run that was killed and the one that was not."""
    import torch

    from geomaestro.learn.checkpoint import newest, read_group
    from geomaestro.runs import read_rows

    found = []
    states = [newest(f / "pretrain" / "seed0" / "checkpoints") for f in (ours, theirs)]
    if states[0] is None or states[1] is None or states[0].name != states[1].name:
        return [f"{ours}: ends at {states[0]}, not {states[1]}"]
    for group in ("model", "optimiser"):
        mine, other = read_group(states[0], group), read_group(states[1], group)
        names = [n for n in mine.keys() | other.keys() if n not in mine or n not in other]
        names += [n for n in mine.keys() & other.keys() if not torch.equal(mine[n], other[n])]
        if names:
            found.append(f"{ours}: {group}: {len(names)} of {len(other)} tensors differ, {min(names)} for one")
    for name in ("model.safetensors", "model.json"):
        if (ours / "pretrain/seed0/model" / name).read_bytes() != (theirs / "pretrain/seed0/model" / name).read_bytes():
            found.append(f"{ours}: {name} differs")
    rows = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(f / "pretrain/seed0/metrics.jsonl")]
        for f in (ours, theirs)
    ]
    if rows[0] != rows[1] or [row["step"] for row in rows[0]] != list(range(1, STEPS + 1)):
        found.append(f"{ours}: rows of metrics differ")
    return found + compare_order(ours.with_suffix(".order"), theirs.with_suffix(".order")) + rubbish(ours)


def compare_order(ours: Path, theirs: Path) -> list[str]:
    """Each part of each step that was ever read, and all of them, must hold what it did without a kill."""
    wanted = {tuple(row[:3]): row[3:] for row in map(json.loads, theirs.read_text().splitlines())}
    seen = set()
    for line in ours.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # a line that a kill cut short, and the one after it
            continue
        seen.add(tuple(row[:3]))
        if wanted.get(tuple(row[:3])) != row[3:]:
            return [f"{ours}: step {row[0]} held other samples"]
    return [] if len(wanted) - len(seen) <= 0 else [f"{ours}: {len(wanted) - len(seen)} parts of steps were never read"]


def rubbish(folder: Path) -> list[str]:
    """Temporary files that kills left behind and nobody removed."""
    left = [p for p in folder.rglob(".*") if p.name != ".lock"]
    return [f"{folder}: left behind: {', '.join(str(p.relative_to(folder)) for p in left[:5])}"] if left else []


def soak(base: Path, kills: int, seed: int, names: Sequence[str]) -> list[tuple[Setting, Tally]]:
    """Kill until all kills are used up, each setting in turn."""
    dice, recipe = random.Random(seed), write_world(base)
    settings = [s for s in SETTINGS if not names or s.name in names]
    tallies = [(setting, Tally()) for setting in settings]
    round_number = 0
    while sum(tally.kills for _, tally in tallies) < kills:
        for number, (setting, tally) in enumerate(tallies):
            left = kills - sum(t.kills for _, t in tallies)
            if left <= 0:
                break
            theirs, ours = base / f"{number}-whole", base / f"{number}-killed-{round_number}"
            if not theirs.exists():
                run_killed(setting, recipe, theirs, dice, Tally(), 0)
            run_killed(setting, recipe, ours, dice, tally, min(left, 4))
            if not tally.differences:
                tally.differences += compare(ours, theirs)
            print(f"{setting.name}: {tally.kills} kills, {len(tally.differences)} differences", flush=True)
        round_number += 1
    return tallies


def main() -> None:
    """Soak, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--setting", action="append", default=[], help="only this one; may be given again")
    parser.add_argument("--keep", type=Path, help="a folder for the runs; a temporary one by default")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.kills} kills")
    with tempfile.TemporaryDirectory() as temporary:
        tallies = soak(options.keep or Path(temporary), options.kills, options.seed, options.setting)
    print("| setting | kills | of them one rank alone | while writing | runs finished | differences |")
    print("|---|---:|---:|---:|---:|---:|")
    for setting, tally in tallies:
        numbers = (tally.kills, tally.ranks_alone, tally.writing, tally.finished, len(tally.differences))
        print(f"| {setting.name} | {' | '.join(map(str, numbers))} |")
    problems = [text for _, tally in tallies for text in tally.differences]
    for text in problems:
        print(text)
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2:])
    else:
        main()
