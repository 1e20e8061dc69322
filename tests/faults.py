"""A program that runs `geomaestro` commands in forked processes of its own, each with something that goes wrong.

It imports all there is once, then takes a request per line of JSON on stdin: {"steps": [{"tokens", "fault"}], "out",
"disk"}, and answers with the process's id, and once it has ended (not "background") with its exit codes. What is wrong
is real: a signal, a limit of the operating system, a disk that is full or read-only.
"""

import ctypes
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import geomaestro.learn.run
import geomaestro.report.html  # noqa: F401 - loaded here, so that no process has to
from geomaestro.cli import main

NEW_MOUNTS, NEW_USER = 0x20000, 0x10000000  # linux/sched.h
READ_ONLY, REMOUNT, RECURSIVE, PRIVATE = 1, 32, 1 << 14, 1 << 18  # sys/mount.h
NO_DISK = 77


def at_call(name: str, number: int, act: Callable[[], Any]) -> None:
    """Do something right before the call `number` of a function of `os`."""
    real, count = getattr(os, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            act()
        return real(*args, **kwargs)

    setattr(os, name, counted)


def arm(fault: dict[str, Any]) -> None:
    """Prepare what is to go wrong in this process."""
    if "signal" in fault:
        at_call(fault["call"], fault["number"], lambda: os.kill(os.getpid(), fault["signal"]))
    if "vanish" in fault:
        at_call(fault["call"], fault["number"], lambda: os.rename(fault["vanish"], fault["vanish"] + " elsewhere"))
    if "file_bytes" in fault:  # a larger file is refused by the kernel (EFBIG)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_bytes"], resource.RLIM_INFINITY))
    if "disk" in fault:
        mount(fault["disk"], fault["options"], fault.get("flags", 0) | REMOUNT)


def mount(folder: str, options: str, flags: int = 0) -> None:
    """Mount a disk in memory, or change one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", folder.encode(), b"tmpfs", flags, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")


def new_disk(folder: str, options: str) -> None:
    """Mount a disk that this process alone sees; leave with NO_DISK where that is not allowed."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(NEW_MOUNTS | (NEW_USER if user else 0)):
        os._exit(NO_DISK)
    try:
        if user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None)
        mount(folder, options)
    except OSError:
        os._exit(NO_DISK)


def run(tokens: list[str], fault: dict[str, Any]) -> int:
    """Run a command in a process of its own; gives its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        arm(fault)
        sys.argv = ["geomaestro", *tokens]
        code = 0
        try:
            main(tokens)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def serve(request: dict[str, Any]) -> None:
    """Run the commands of a request, in a process of its own; what they say goes to `out`."""
    handle = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    disk = request.get("disk")
    if disk:
        new_disk(disk["folder"], disk["options"])
    codes = [run(step["tokens"], step.get("fault", {})) for step in request["steps"]]
    if disk:
        shutil.copytree(disk["folder"], disk["copy"])
    Path(request["out"] + ".codes").write_text(json.dumps(codes))
    os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            serve(asked)
        status = 0 if asked.get("background") else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sys.stdout.write(json.dumps([pid, status]) + "\n")
        sys.stdout.flush()
