"""The machine that is timed: its name, its rates of matrix products and of copying, its clock and its memory."""

import contextlib
import gc
import hashlib
import os
import platform
import re
import resource
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
STATUS = Path("/proc/self/status")
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}  # many times the caches
NOMINAL_BF16_TFLOPS = {  # vendor's data sheets, dense; other models of a family (NVL, PCIe) have other numbers
    "NVIDIA H200": 989,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
}
TIMING_FILES = ("baseline", "floor", "machine", "models", "one_row", "ranks", "scaling", "shapes", "timing", "versus")


def find_device() -> torch.device:
    """The first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine_slug(device: str = "cpu") -> str:
    """GPU model, or CPU model and cores, fit for a file name."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
        name = f"{found.group(1) if found else platform.processor() or platform.machine()} {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def nominal_gflops(device: torch.device) -> float | None:
    """What the vendor promises for dense bf16 products, None where that is not known here."""
    if device.type != "cuda":
        return None
    promised = NOMINAL_BF16_TFLOPS.get(torch.cuda.get_device_name(device))
    return None if promised is None else 1e3 * promised


def matmul_precision(device: torch.device) -> str:
    """torch's setting of float32 products: "medium" on a CPU as in the official code, TF32 on a GPU."""
    return "medium" if device.type == "cpu" else "high"


def code_state() -> str:
    """A hash of what decides a timing: the package, these programs and torch's version."""
    files = sorted((HERE.parent / "src").rglob("*.py")) + [HERE / f"{name}.py" for name in TIMING_FILES]
    digest = hashlib.sha256(torch.__version__.encode())
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def state_of_code() -> dict[str, Any]:
    """The commit, the code and the time of a row."""
    describe = ["git", "describe", "--always", "--dirty"]
    try:
        git = subprocess.run(describe, capture_output=True, text=True, cwd=HERE, check=False).stdout.strip()
    except OSError:  # no git here
        git = ""
    return {"git": git or None, "code": code_state(), "date": datetime.now(UTC).isoformat(timespec="seconds")}


class Clock:
    """Times calls: with CUDA events on a GPU, else in wall seconds, or in CPU seconds of one thread."""

    def __init__(self, device: torch.device, one_thread: bool = False) -> None:
        self.device = device
        self.now = time.process_time if one_thread else time.perf_counter

    def times(self, run: Callable[[], Any], count: int) -> list[float]:
        """Seconds of each of `count` calls; on a GPU they are queued without waiting in between."""
        if self.device.type == "cuda":
            return self._cuda_times(run, count)
        seconds = []
        for _ in range(count):
            started_at = self.now()
            run()
            seconds.append(self.now() - started_at)
        return seconds

    def _cuda_times(self, run: Callable[[], Any], count: int) -> list[float]:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        events[0].record()
        for event in events[1:]:
            run()
            event.record()
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]


def product_rates(clock: Clock, precisions: tuple[str, ...] = tuple(TYPES)) -> dict[str, float]:
    """The machine's rate of matrix products now, in GFLOP/s by precision: the best of a few looks after one."""
    side = PRODUCT_SIDE[clock.device.type]
    rates = {}
    for name in precisions:
        a, b = (torch.ones(side, side, dtype=TYPES[name], device=clock.device) for _ in range(2))
        a.normal_()  # a GPU draws less power, and so runs faster, on equal numbers
        rates[name] = 2 * side**3 / min(clock.times(lambda a=a, b=b: a @ b, 3)[1:]) / 1e9
    return rates


def copy_rate(clock: Clock) -> float:
    """The machine's memory bandwidth in GB/s, read and written: the best of a few copies of a large array."""
    count = COPY_BYTES[clock.device.type] // 4
    source = torch.ones(count, device=clock.device)
    target = torch.zeros_like(source)
    return 2 * COPY_BYTES[clock.device.type] / min(clock.times(lambda: target.copy_(source), 4)[1:]) / 1e9


def forget_peak(device: torch.device) -> None:
    """Let what was freed count no more (on a CPU for `recent_peak_mib` alone, and where the kernel lets us)."""
    gc.collect()
    if device.type == "cpu" and STATUS.exists():
        with contextlib.suppress(OSError):
            STATUS.with_name("clear_refs").write_text("5")  # Linux: begin the high-water mark anew
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mib(device: torch.device) -> float:
    """Peak memory so far, MiB: of tensors on a GPU, of the process (torch included) on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def recent_peak_mib(device: torch.device) -> float:
    """Peak memory since `forget_peak`, MiB; on a CPU without Linux that of all time."""
    found = re.search(r"VmHWM:\s*(\d+)", STATUS.read_text()) if device.type == "cpu" and STATUS.exists() else None
    return int(found.group(1)) / 1024 if found else peak_mib(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a call failed for want of memory, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = ("out of memory", "allocate memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)
