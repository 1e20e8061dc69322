"""Which training samples keep their labels: counts, nesting, purity.

Axes: n sample, k class.
"""

from itertools import pairwise

import numpy as np
import pytest

from geomaestro.errors import DataError
from geomaestro.learn.labels import draw_labels, labelled
from geomaestro.learn.recipe import LabelCount
from geomaestro.models.task import Task
from tests.worlds import task

FEW = task("classes", 4)


def few(count: int) -> LabelCount:
    return LabelCount(per_class=count)


def classes() -> np.ndarray:
    """200 labels: 100, 60, 30 and 3 of a class, 7 without."""
    return np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3, -1], [100, 60, 30, 3, 7]))


def drawn(labels: np.ndarray, of: Task, count: LabelCount, *, draw: int = 0, seed: int = 0) -> np.ndarray:
    return draw_labels(labels, of, count, seed=seed, draw=draw)


@pytest.mark.parametrize("count", [1, 5, 40, 1000])
def test_every_class_gets_the_asked_number_or_all_it_has(count: int) -> None:
    index = drawn(classes(), FEW, few(count))
    assert np.bincount(classes()[index]).tolist() == [min(count, have) for have in (100, 60, 30, 3)]
    assert (np.diff(index) > 0).all()


def test_more_labels_of_a_draw_contain_the_fewer() -> None:
    for draw in range(5):
        sets = [set(drawn(classes(), FEW, few(n), draw=draw).tolist()) for n in (1, 2, 5, 20, 100)]
        assert all(small < large for small, large in pairwise(sets))
        shares = [LabelCount(share=s) for s in (0.01, 0.1, 0.5, 1.0)]
        sets = [set(drawn(classes(), FEW, s, draw=draw).tolist()) for s in shares]
        assert all(small < large for small, large in pairwise(sets))


def test_a_draw_follows_from_seed_and_number_alone() -> None:
    first = drawn(classes(), FEW, few(5), seed=1, draw=2)
    np.random.default_rng(0).random()
    assert (first == drawn(classes(), FEW, few(5), seed=1, draw=2)).all()
    others = {tuple(drawn(classes(), FEW, few(5), seed=s, draw=d).tolist()) for s in range(3) for d in range(3)}
    assert len(others) == 9


def test_every_sample_of_a_class_has_the_same_chance() -> None:
    labels = np.repeat([0, 1], [20, 5])
    hits = sum(np.bincount(drawn(labels, task("classes", 2), few(5), draw=d), minlength=25) for d in range(2000))
    assert np.abs(hits[:20] / 2000 - 0.25).max() < 4.5 * np.sqrt(0.25 * 0.75 / 2000) and (hits[20:] == 2000).all()


def test_samples_without_a_label_are_never_drawn() -> None:
    known = set(np.flatnonzero(classes() != -1).tolist())
    for count in (few(1000), LabelCount(share=1.0), LabelCount()):
        assert set(drawn(classes(), FEW, count).tolist()) == known


def test_a_share_is_of_the_labelled_samples_and_at_least_one() -> None:
    assert len(drawn(classes(), FEW, LabelCount(share=0.1))) == 19  # of 193
    assert len(drawn(classes(), FEW, LabelCount(share=0.001))) == 1


def test_every_label_of_several_gets_its_positives() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 3)) < [0.5, 0.1, 0.01]).astype(np.int64)
    labels[:20, 1] = -1  # one unknown label makes a sample unlabelled
    index = drawn(labels, task("multilabel", 3), few(10))
    usable = labels[20:].sum(axis=0)
    assert (labels[index].sum(axis=0) >= np.minimum(10, usable)).all() and len(index) <= 30
    assert index.min() >= 20
    assert set(drawn(labels, task("multilabel", 3), few(3)).tolist()) <= set(index.tolist())


def test_numbers_and_pixels_are_counted_by_sample() -> None:
    numbers = np.random.default_rng(0).random((50, 2))
    numbers[::5, 1] = np.nan
    index = drawn(numbers, task("regression", 2), few(8))
    assert len(index) == 8 and np.isfinite(numbers[index]).all()
    pixels = np.zeros((9, 2, 2), np.int64)
    pixels[3] = -1
    pixels[4, 0] = -1  # half of an image is enough
    of = task("pixels", 2, reference_sensor="a", patch_px=1)
    assert labelled(pixels, of).tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert len(drawn(pixels, of, few(3))) == 3


def test_a_split_without_a_label_is_refused() -> None:
    with pytest.raises(DataError, match="task 't': no sample of the training split has a label"):
        drawn(np.full(5, -1), FEW, few(1))
