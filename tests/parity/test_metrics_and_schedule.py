"""Metrics, position and date codes, and learning rates against the stored arrays of the official code."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from geomaestro.learn.metrics import average_precision, class_scores, confusion_matrix, label_counts, label_scores
from geomaestro.learn.optim import one_cycle
from geomaestro.learn.recipe import Optimiser
from geomaestro.nn.positions import date_codes, pool_to_grid, sincos_grid
from tests.parity.cases import assert_close


def test_scores_equal_the_stored_ones(golden_dir: Path) -> None:
    stored = json.loads((golden_dir / "metrics" / "metrics.json").read_text())
    with np.load(golden_dir / "metrics" / "metrics.npz", allow_pickle=False) as file:
        arrays = {k: file[k] for k in file.files}
    labels, logits = (arrays[k].reshape(-1, arrays[k].shape[-1]) for k in ("mlc_targets", "mlc_logits"))
    share = 1 / (1 + np.exp(-logits.astype(np.float64)))
    ours = label_scores(label_counts(labels, share > 0.5).sum(axis=1)) | average_precision(labels, share)
    for name, value in stored["multilabel"].items():
        assert ours[name] == pytest.approx(value, rel=1e-5), name
    logits, labels = arrays["seg_logits"], arrays["seg_targets"].ravel()
    counts = confusion_matrix(labels, logits.argmax(axis=1 if logits.shape[1] == 19 else -1).ravel(), 19, ignore=-1)
    assert (counts == arrays["seg_confusion"]).all()
    scores = class_scores(counts)
    for name, value in (stored["segment"] | stored["classif"]).items():
        assert scores[name] == pytest.approx(value, rel=1e-5), name


def test_learning_rates_equal_the_stored_ones(golden_dir: Path) -> None:
    stored = json.loads((golden_dir / "schedule" / "schedule.json").read_text())
    phases = [phase for phase in stored.values() if "lr_every_10" in phase]
    assert phases, "the file holds schedules"
    for phase in phases:
        peak = Optimiser(base_lr=phase["base_lr"]).peak(phase["batch"])
        assert peak == pytest.approx(phase["max_lr"], rel=1e-9)

        def rate(step: int, phase: dict[str, float] = phase, peak: float = peak) -> float:
            total, final = int(phase["total_steps"]), phase["final_factor"]
            return one_cycle(step, total=total, peak=peak, warmup=0.2, final_factor=final)

        ours = [rate(step) for step in range(0, phase["total_steps"], 10)]
        assert ours == pytest.approx(phase["lr_every_10"], rel=1e-5)
        assert rate(phase["total_steps"] - 1) == pytest.approx(phase["last"], rel=1e-5)


@pytest.fixture
def encodings(golden_dir: Path) -> dict[str, np.ndarray]:
    with np.load(golden_dir / "encodings" / "encodings.npz", allow_pickle=False) as file:
        return {k: file[k] for k in file.files}


def test_place_codes_equal_the_stored_ones(encodings: dict[str, np.ndarray]) -> None:
    checked = 0
    for name, expected in encodings.items():
        if found := re.fullmatch(r"posemb_h(\d+)_w(\d+)_dim(\d+)_datedim(\d+)", name):
            rows, cols, dim, channels = (int(x) for x in found.groups())
            assert_close(sincos_grid(rows, cols, dim, channels), expected, name)
        elif found := re.fullmatch(r"reshape_base(\d+)_dim(\d+)_grid(\d+)", name):
            base, dim, grid = (int(x) for x in found.groups())
            assert_close(pool_to_grid(sincos_grid(base, base, dim), grid, grid), expected[0, 0], name)
        else:
            continue
        checked += 1
    assert checked >= 2


def test_date_codes_equal_the_stored_ones(encodings: dict[str, np.ndarray]) -> None:
    dates, reference = torch.from_numpy(encodings["dates_in"]), torch.from_numpy(encodings["ref_in"])[:, 0]
    pattern = r"encode_dates_grid(\d+)_lenbands(\d+)_fac([\d.]+)_dim(\d+)_datedim(\d+)"
    names = [name for name in encodings if re.fullmatch(pattern, name)]
    assert names
    for name in names:
        found = re.fullmatch(pattern, name)
        assert found is not None
        grid, groups, dim, channels = (int(found.group(i)) for i in (1, 2, 4, 5))
        codes = float(found.group(3)) * date_codes(dates, reference, channels)
        full = torch.cat([codes.new_zeros(*codes.shape[:2], dim - channels), codes], dim=-1)
        ours = full[:, :, None].expand(-1, -1, grid**2, -1).repeat(1, groups, 1, 1)
        assert_close(ours, encodings[name], name)
