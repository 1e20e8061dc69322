"""What all tests share: real samples, golden arrays, one thread per worker, one random state.

torch and numpy are never imported here: a test that needs neither stays fast.
"""

import os
import random
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that wants the network is wrong
os.environ.setdefault("MPLBACKEND", "Agg")
SEED = 0


def folder_named_by(variable: str) -> Path:
    """Give the folder an environment variable names; skip, or fail where it has to be there."""
    value = os.environ.get(variable)
    if value is None:
        reason = f"{variable} is not set; let it name the folder to run this test"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"{reason} (CI=true, so this is no reason to skip)", pytrace=False)
        pytest.skip(reason)
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable}={value}: no such folder", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real samples, from GEOMAESTRO_DATA."""
    return folder_named_by("GEOMAESTRO_DATA")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of arrays made by the official code, from GEOMAESTRO_GOLDEN."""
    return folder_named_by("GEOMAESTRO_GOLDEN")


@pytest.fixture(scope="session", autouse=True)
def _one_thread_per_worker() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Put the global random states of Python, numpy and torch at the same place before each test."""
    random.seed(SEED)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)
    return SEED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
