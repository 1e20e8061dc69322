"""The set-up installs the right torch and never CUDA by accident, and what it installed runs."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_PACKAGE = re.compile(r"nvidia-|cuda-|triton|torchvision")


def put_program(folder: Path, name: str, script: str) -> None:
    """Write an executable shell script that stands in for a program."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of what the set-up reads, and an empty folder `bin` that comes first on its PATH."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/setup.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    return tmp_path


def setup(copy: Path, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if key not in {"TORCH", "PYTHON"}}
    env = inherited | {"PATH": f"{copy / 'bin'}{os.pathsep}{os.environ['PATH']}"} | variables
    command = ["bash", str(copy / "scripts" / "setup.sh"), *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def put_fake_python(copy: Path, pip: str) -> Path:
    """Put a Python that makes an empty venv, notes each pip call in a file, and lets pip end as told."""
    log = copy / "pip.log"
    script = f"""
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"-m pip"*) echo "$*" >>"{log}"; {pip} ;;
  *version*torch*) [ -e .venv/torch-is-there ] && echo 2.13.0+cpu ;;
esac"""
    put_program(copy / "bin", "python3", script)
    return log


def test_a_cpu_build_of_torch_brings_no_cuda_package():
    import torch

    if torch.version.cuda is not None:
        pytest.skip("torch is a CUDA build here")
    names = {(dist.metadata["Name"] or "").lower() for dist in metadata.distributions()}
    assert "torch" in names
    assert [name for name in sorted(names) if CUDA_PACKAGE.match(name)] == []


def test_the_installed_commands_say_the_version():
    version = metadata.version("geomaestro")
    script = shutil.which("geomaestro", path=str(Path(sys.executable).parent))
    assert script, "no geomaestro command beside this Python; run `make setup`"
    for command in ([sys.executable, "-m", "geomaestro"], [script]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert version in done.stdout


@pytest.mark.parametrize(
    ("driver", "system", "torch", "said"),
    [
        ("exit 9", "Linux", "", "torch==2.13.0+cpu"),
        ("echo GPU 0: H200", "Linux", "", "torch==2.13.0"),
        ("echo GPU 0: H200", "Linux", "cpu", "torch==2.13.0+cpu"),
        ("exit 9", "Linux", "cuda", "torch==2.13.0"),
        ("exit 9", "Linux", "skip", "the base Python's torch"),
        ("exit 9", "Darwin", "", "torch==2.13.0"),
        ("exit 9", "Darwin", "cpu", "torch==2.13.0"),
        ("exit 9", "MINGW64_NT-10.0", "", "torch==2.13.0"),
    ],
)
def test_torch_fits_the_machine(copy, driver, system, torch, said):
    put_program(copy / "bin", "nvidia-smi", driver)
    put_program(copy / "bin", "uname", f"echo {system}")
    done = setup(copy, "--print-torch", TORCH=torch)
    assert (done.returncode, done.stdout) == (0, f"{said}\n"), done.stderr
    assert not (copy / ".venv").exists()


def test_an_unknown_torch_is_refused_before_anything_is_made(copy):
    done = setup(copy, TORCH="foo")
    assert done.returncode == 1
    assert done.stderr == ("setup: TORCH=foo is unknown; use TORCH=cpu, TORCH=cuda or TORCH=skip, or leave it unset\n")
    assert not (copy / ".venv").exists()


def test_an_old_python_is_refused_before_anything_is_made(copy):
    put_program(copy / "bin", "old", "exit 1")
    done = setup(copy, PYTHON="old", TORCH="cpu")
    assert done.returncode == 1
    assert "no Python 3.11 or newer found (looked for: old)" in done.stderr
    assert not (copy / ".venv").exists()


def test_without_a_cpu_wheel_the_set_up_fails_and_never_asks_for_plain_torch(copy):
    put_program(copy / "bin", "uname", "echo Linux")
    log = put_fake_python(copy, pip="exit 1")
    done = setup(copy, TORCH="cpu")
    assert done.returncode == 1
    assert "Plain torch is not tried, since it would download CUDA" in done.stderr
    first, second = log.read_text().splitlines()
    assert first.endswith(" torch==2.13.0+cpu") and "index" not in first
    assert second.endswith(f" --index-url {CPU_INDEX} torch==2.13.0+cpu")
    assert not (copy / ".venv/.ready").exists()


def test_a_finished_set_up_is_not_repeated_until_its_sources_change(copy):
    log = put_fake_python(copy, pip="touch .venv/torch-is-there")
    assert setup(copy, TORCH="cpu").returncode == 0
    torch, project = log.read_text().splitlines()
    assert "torch==2.13.0" in torch
    assert project.endswith("-e .[dev] -c .venv/constraints.txt -c constraints.txt")
    assert (copy / ".venv/constraints.txt").read_text() == "torch==2.13.0+cpu\n"

    assert setup(copy).returncode == 0
    assert len(log.read_text().splitlines()) == 2

    ready = (copy / ".venv/.ready").stat().st_mtime
    os.utime(copy / "constraints.txt", (ready + 5, ready + 5))
    assert setup(copy).returncode == 0
    assert len(log.read_text().splitlines()) == 3  # the project again; torch is left as it is


def test_another_torch_in_a_finished_venv_is_refused_with_the_way_out(copy):
    put_fake_python(copy, pip="touch .venv/torch-is-there")
    assert setup(copy, TORCH="cpu").returncode == 0
    done = setup(copy, TORCH="cuda")
    assert done.returncode == 1
    assert done.stderr == "setup: .venv was made with TORCH=cpu; to change to TORCH=cuda, first run: rm -r .venv\n"
