"""The machine that a run would run on: device, cores, memory and its limits, file systems; and its clock."""

import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from geomaestro.learn.distributed import Ranks
from geomaestro.learn.doctor.findings import Environment, Place

REMOTE = re.compile(r"nfs|cifs|smb|lustre|gpfs|ceph|beegfs|9p|afs|sshfs|s3|gcs|blob|fuse\.(?!overlayfs)")
BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")  # of /proc/cpuinfo; the last one is ARM's


def describe(ranks: Ranks, data: Path, run: Path, memory_bytes: int | None = None) -> Environment:
    """Look at the machine; `memory_bytes` stands for what a process may take, where that is given."""
    device = ranks.device
    cuda = device.type == "cuda"
    processor = (*re.findall(r"model name\s*:\s*(.+)", _text("/proc/cpuinfo")), platform.machine())[0]
    return Environment(
        device=device.type,
        name=torch.cuda.get_device_name(device) if cuda else processor,
        memory_bytes=torch.cuda.get_device_properties(device).total_memory if cuda else ram_bytes(),
        available_bytes=available_bytes(device) if memory_bytes is None else memory_bytes,
        cores=cores(),
        threads=torch.get_num_threads(),
        bf16=bf16(device),
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "geomaestro": version("geomaestro"),
            **({"CUDA": str(torch.version.cuda)} if cuda else {}),
        },
        ranks=ranks.count,
        data=place(data),
        run=place(run),
    )


def cores() -> int:
    """Cores that this process may use, by its affinity and by the limit of its control group."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _text("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit():
        mine = max(1, min(mine, int(quota) // int(period)))
    return mine


def bf16(device: torch.device) -> str | None:
    """What computes in bfloat16, None where nothing does, and it would be slow."""
    if device.type == "cuda":
        return "tensor cores" if torch.cuda.is_bf16_supported(including_emulation=False) else None
    flags = set(re.findall(r"\w+", "".join(re.findall(r"(?:flags|Features)\s*:(.+)", _text("/proc/cpuinfo"))[:1])))
    return ", ".join(name for name in BF16_FLAGS if name in flags) or None


def ram_bytes() -> int:
    """Memory of the machine, or of the control group that this process is in, whichever is less."""
    limit = _cgroup()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total if limit is None else min(total, limit[0])


def available_bytes(device: torch.device) -> int:
    """What this process may take in all, that which it has taken included; a share where ranks share a machine."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    mine = resident_bytes()
    found = re.search(r"MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"))
    available = ram_bytes() if found is None else int(found.group(1)) * 1024 + mine
    limit = _cgroup()
    if limit is not None:
        available = min(available, limit[0] - limit[1] + mine)
    return available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _cgroup() -> tuple[int, int] | None:
    """Limit and present use in bytes of the control group; None without a limit."""
    limit, used = (_text(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    return (int(limit), int(used)) if limit.isdigit() and used.isdigit() else None


def resident_bytes(*, peak: bool = False) -> int:
    """What this process has in memory, or the most that it had since `forget_peak`."""
    found = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", _text("/proc/self/status"))
    if found:
        return int(found.group(1)) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # no /proc: the peak is the nearest there is
    return most if sys.platform == "darwin" else most * 1024


def forget_peak() -> bool:
    """Count the peak of this process's memory from now on; False where the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def place(folder: Path) -> Place:
    """The file system of a folder, or of the nearest one above it that exists."""
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    kind = filesystem(there)
    return Place(str(folder), kind, bool(REMOTE.search(kind)), shutil.disk_usage(there).free)


def filesystem(folder: Path) -> str:
    """Type of the file system that holds a folder, "unknown" where the system does not say."""
    best, kind = "", "unknown"
    for line in _text("/proc/mounts").splitlines():
        _, point, name, *_ = line.split()
        inside = point == "/" or f"{folder}/".startswith(f"{point}/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of a call, with all that it started on the device."""
    wait_for(device)
    started_at = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - started_at


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
