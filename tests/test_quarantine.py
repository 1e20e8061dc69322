"""Samples that cannot be read: left out, listed and counted in training; ranks share a step without a gap.

Axes: b sample.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from geomaestro.data.loader import Share, training_batches
from geomaestro.data.miniatures.miniature import Size, write_miniature
from geomaestro.data.opening import open_dataset
from geomaestro.data.quarantine import Quarantine, read_quarantine, readable
from geomaestro.data.sampling import SceneDataset
from geomaestro.data.specs import load_spec
from geomaestro.errors import DataError, RunError, SpecError
from geomaestro.learn.recipe import load_recipe
from geomaestro.learn.run import run_recipe
from geomaestro.runs import read_rows

ROOT = Path(__file__).parent.parent
SMALL = (
    *("model.dim=32", "model.depth=2", "model.heads=2", "model.joint_blocks=0", "model.head_dim=16", "device=cpu"),
    *("model.decoder={dim: 32, depth: 1, heads: 2}", "evaluate=null"),
    "pretrain={epochs: null, steps: 6, batch: 4, precision: fp32, workers: 0}",
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """20 images of EuroSAT's layout, free to be damaged."""
    write_miniature("eurosat_rgb", tmp_path / "made", Size(train=20, val=2, test=2))
    return tmp_path / "made"


def opened(folder: Path) -> SceneDataset:
    return open_dataset(load_spec(folder / "dataset.yaml"), folder, ("train",))


def damage(folder: Path, dataset: SceneDataset, index: int) -> str:
    name = dataset.ids()[index]
    (folder / "EuroSAT_RGB" / name.split("_")[0] / f"{name}.jpg").write_bytes(b"")
    return name


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_goes_without_an_unreadable_sample_and_lists_it(images: Path, tmp_path: Path, workers: int) -> None:
    dataset = opened(images)
    truth = list(training_batches(dataset, batch=5, seed=1, start=0, steps=8))
    bad = damage(images, dataset, 3)
    quarantine = Quarantine(tmp_path / "q.jsonl", len(dataset), 0.05)
    found = list(training_batches(dataset, batch=5, seed=1, start=0, steps=8, workers=workers, quarantine=quarantine))
    for ours, theirs in zip(found, truth, strict=True):
        kept = [i for i, name in enumerate(theirs.ids) if name != bad]
        assert list(ours.ids) == [theirs.ids[i] for i in kept]
        assert torch.equal(ours.images["rgb"], theirs.images["rgb"][kept])
    assert sum(len(x) for x in truth) - sum(len(x) for x in found) == 2  # two epochs
    assert list(read_quarantine(tmp_path / "q.jsonl")) == [bad]
    assert "is empty (0 bytes)" in quarantine.known[bad]


def test_more_than_the_share_stops_with_the_list_and_the_first_reason(images: Path, tmp_path: Path) -> None:
    dataset = opened(images)
    damage(images, dataset, 3), damage(images, dataset, 4)
    quarantine = Quarantine(tmp_path / "q.jsonl", len(dataset), 0.05)
    with pytest.raises(DataError, match=r"2 of 20 samples cannot be read, more than `pretrain.max_bad_share` allows"):
        list(training_batches(dataset, batch=5, seed=1, start=0, steps=8, quarantine=quarantine))


def test_a_list_of_data_check_is_left_out_with_its_crops(images: Path, tmp_path: Path) -> None:
    dataset = opened(images)
    names = dataset.ids()
    (tmp_path / "q.jsonl").write_text(json.dumps({"id": names[2], "split": "train", "reason": "damaged"}) + "\n")
    listed = read_quarantine(tmp_path / "q.jsonl")
    assert readable(dataset, listed) == [i for i in range(20) if i != 2]
    (tmp_path / "other.jsonl").write_text('{"name": "a"}\n')
    with pytest.raises(DataError, match="is no list of unreadable samples"):
        read_quarantine(tmp_path / "other.jsonl")
    (tmp_path / "other.jsonl").write_text("[1, 2\n")
    with pytest.raises(RunError, match="line 1 is not JSON"):
        read_quarantine(tmp_path / "other.jsonl")


def test_a_run_counts_what_it_left_out(images: Path, tmp_path: Path) -> None:
    damage(images, opened(images), 3)
    data = (f"data.spec={images / 'dataset.yaml'}", f"data.root={images}", "pretrain.max_bad_share=0.1")
    run_recipe(load_recipe(ROOT / "recipes" / "eurosat.yaml", (*SMALL, *data)), tmp_path / "run", command="test")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert any("1 samples could not be read" in text for text in result["warnings"])
    losses = [row["loss"] for row in read_rows(tmp_path / "run" / "pretrain" / "seed0" / "metrics.jsonl")]
    assert losses and np.isfinite(losses).all()


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_each_step_without_a_gap(images: Path, ranks: int) -> None:
    dataset = opened(images)
    alone = list(training_batches(dataset, batch=8, seed=4, start=2, steps=7))
    shares = [
        list(training_batches(dataset, batch=8, seed=4, start=2, steps=7, share=Share(number, ranks)))
        for number in range(ranks)
    ]
    for step, whole in enumerate(alone):
        parts = [share[step] for share in shares]
        assert tuple(name for part in parts for name in part.ids) == whole.ids
        assert torch.equal(torch.cat([part.images["rgb"] for part in parts]), whole.images["rgb"])
        assert torch.equal(torch.cat([part.keys for part in parts if part.keys is not None]), whole.keys)
    with pytest.raises(SpecError, match="a batch of 8 cannot be shared by 3 ranks"):
        next(iter(training_batches(dataset, batch=8, seed=4, start=0, steps=1, share=Share(0, 3))))
