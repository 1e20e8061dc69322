"""Scores against scikit-learn, or an equation where it defines a score otherwise; intervals against theory.

Axes: n sample, k class.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from geomaestro.learn.metrics import (
    average_precision,
    class_scores,
    confusion_matrix,
    headline,
    known_metrics,
    label_counts,
    label_scores,
    regression_scores,
    score,
)
from tests.worlds import task

SEEDS = st.integers(0, 10**6)


def drawn_classes(seed: int, classes: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes; some true ones are ignored (-1), some classes never occur."""
    rng = np.random.default_rng(seed)
    there = rng.choice(classes, rng.integers(1, classes + 1), replace=False)
    true = rng.choice(there, count)
    predicted = np.where(rng.random(count) < 0.4, true, rng.integers(0, classes, count))
    true[rng.random(count) < 0.2] = -1
    true[0] = there[0]
    return true, predicted


@settings(deadline=None, max_examples=100)
@given(SEEDS, st.integers(2, 6), st.integers(1, 60))
def test_scores_of_classes_equal_those_of_scikit_learn(seed: int, classes: int, count: int) -> None:
    true, predicted = drawn_classes(seed, classes, count)
    ours = class_scores(confusion_matrix(true, predicted, classes, ignore=-1))
    y, p = true[true != -1], predicted[true != -1]
    there = np.unique(y)
    macro = {"labels": there, "average": "macro", "zero_division": 0}
    assert ours["overall_accuracy"] == pytest.approx(sk.accuracy_score(y, p))
    assert ours["balanced_accuracy"] == pytest.approx(sk.recall_score(y, p, **macro))
    assert ours["average_f1"] == pytest.approx(sk.f1_score(y, p, **macro))
    assert ours["average_iou"] == pytest.approx(sk.jaccard_score(y, p, **macro))
    weighted = sk.f1_score(y, p, labels=range(classes), average="weighted", zero_division=0)
    assert ours["weighted_f1"] == pytest.approx(weighted)
    if set(p) <= set(there) and len(there) > 1:
        assert ours["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, p))


def test_the_confusion_has_true_classes_in_its_rows() -> None:
    counts = confusion_matrix(np.asarray([0, 0, 1, 2, 255]), np.asarray([0, 2, 1, 1, 1]), 3, ignore=255)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]


@settings(deadline=None, max_examples=100)
@given(SEEDS, st.integers(1, 5), st.integers(2, 40), st.sampled_from([3, 1000]))
def test_scores_of_labels_equal_those_of_scikit_learn(seed: int, classes: int, count: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, classes)) < rng.random(classes) * 0.8).astype(np.int64)
    share = rng.integers(0, levels, (count, classes)) / levels  # three levels: many ties
    ours = label_scores(label_counts(labels, share > 0.5).sum(axis=1)) | average_precision(labels, share)
    positive = (share > 0.5).astype(int)
    each = np.asarray([sk.f1_score(labels[:, k], positive[:, k], zero_division=0) for k in range(classes)])
    support, known = labels.sum(axis=0), (labels + positive).sum(axis=0) > 0
    assert ours["average_f1"] == pytest.approx(each[known].mean() if known.any() else 0)
    assert ours["weighted_f1"] == pytest.approx((each * support).sum() / max(support.sum(), 1e-12))
    if not support.any():
        return
    precision = np.asarray([precision_by_levels(labels[:, k], share[:, k]) for k in range(classes)])
    assert ours["average_ap"] == pytest.approx(precision.mean())
    assert ours["weighted_ap"] == pytest.approx((precision * support).sum() / support.sum())


def precision_by_levels(labels: np.ndarray, share: np.ndarray) -> float:
    """Average precision: the sum over levels of share, from high to low, of the gain in recall times the precision."""
    if not labels.any():
        return 0.0
    total, recall = 0.0, 0.0
    for level in np.unique(share)[::-1]:
        said = share >= level
        now = labels[said].sum() / labels.sum()
        total += (now - recall) * labels[said].mean()
        recall = now
    return total


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(2, 40), st.integers(1, 3))
def test_scores_of_numbers_equal_those_of_scikit_learn(seed: int, count: int, quantities: int) -> None:
    rng = np.random.default_rng(seed)
    y, p = rng.normal(2, 3, (2, count, quantities))
    ours = regression_scores(y, p)
    assert ours["r2"] == pytest.approx(sk.r2_score(y, p))
    assert ours["rmse"] == pytest.approx(np.sqrt(sk.mean_squared_error(y, p)))
    assert ours["mae"] == pytest.approx(sk.mean_absolute_error(y, p))


# ---- whole scores of a task ----


def noisy_logits(labels: np.ndarray, classes: int, strength: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.eye(classes)[labels] * strength + rng.normal(0, 1, (len(labels), classes))


def test_every_sample_counts_once_and_ignored_ones_not_at_all() -> None:
    labels = np.asarray([0, 1, -1, 2, 1, -1])
    scored = score(task("classes", 3), labels, np.eye(3)[[0, 1, 0, 1, 1, 2]], "balanced_accuracy")
    assert scored.count == 4 and scored.confusion is not None and scored.confusion.sum() == 4
    assert scored.scores["balanced_accuracy"] == pytest.approx(2 / 3)
    assert scored.per_class == {"c0": 1.0, "c1": pytest.approx(0.8), "c2": 0.0}


def test_the_interval_of_accuracy_is_that_of_a_proportion() -> None:
    labels = np.random.default_rng(0).integers(0, 2, 600)
    scored = score(task("classes", 2), labels, noisy_logits(labels, 2, 1.2), "overall_accuracy")
    share = scored.scores["overall_accuracy"]
    half = 1.96 * np.sqrt(share * (1 - share) / 600)
    assert scored.low == pytest.approx(share - half, abs=0.15 * half)
    assert scored.high == pytest.approx(share + half, abs=0.15 * half)


def test_the_interval_of_an_error_is_that_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.normal(size=(2, 500, 1))
    scored = score(task("regression", 1), y, p, "mae")
    error = np.abs(y - p)
    half = 1.96 * error.std() / np.sqrt(500)
    assert (scored.low, scored.high) == pytest.approx((error.mean() - half, error.mean() + half), abs=0.15 * half)


def test_the_interval_of_pixels_resamples_images() -> None:
    """Pixels of one image are not independent: images all right or all wrong spread as their number."""
    labels = np.zeros((100, 4, 4), np.int64)
    labels[::2] = 1
    logits = np.stack([labels == 0, labels == 1], axis=1).astype(float)
    logits[:20] = logits[:20, ::-1]
    scored = score(task("pixels", 2, reference_sensor="a", patch_px=1), labels, logits, "overall_accuracy")
    half = 1.96 * np.sqrt(0.8 * 0.2 / 100)
    assert scored.scores["overall_accuracy"] == 0.8 and scored.count == 1600
    assert scored.low == pytest.approx(0.8 - half, abs=0.15 * half)


def drawn_labels(kind: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    if kind == "classes":
        return rng.integers(0, 3, count)
    return rng.integers(0, 2, (count, 3)) if kind == "multilabel" else rng.random((count, 3))


@pytest.mark.parametrize("kind", ["classes", "multilabel", "regression"])
def test_a_score_is_a_pure_function_of_its_seed_and_lies_in_its_interval(kind: str) -> None:
    rng = np.random.default_rng(2)
    labels = drawn_labels(kind, 80)
    logits = rng.normal(size=(80, 3))
    for name in known_metrics(kind):  # type: ignore[arg-type]
        one, two = (score(task(kind, 3), labels, logits, name, seed=4) for _ in range(2))
        assert one.scores == two.scores
        assert (one.low, one.high) == pytest.approx((two.low, two.high), abs=0, rel=0, nan_ok=True)
        if not name.endswith("_ap"):
            assert one.low <= one.scores[name] <= one.high


@pytest.mark.parametrize("kind", ["classes", "multilabel", "regression"])
def test_the_headline_is_the_score_with_errors_turned_round(kind: str) -> None:
    rng = np.random.default_rng(3)
    labels = drawn_labels(kind, 40)
    logits = rng.normal(size=(40, 3))
    for name in known_metrics(kind):  # type: ignore[arg-type]
        scored = score(task(kind, 3), labels, logits, name).scores[name]
        assert headline(task(kind, 3), labels, logits, name) == pytest.approx(
            -scored if name in ("rmse", "mae") else scored
        )


def test_samples_with_an_ignored_label_or_a_missing_number_do_not_count() -> None:
    labels = np.asarray([[1, 0], [0, 1], [-1, 1], [1, 1]])
    logits = np.asarray([[2.0, -1], [-2, 3], [-9, -9], [1, 1]])
    scored = score(task("multilabel", 2), labels, logits, "weighted_f1")
    assert (scored.scores["weighted_f1"], scored.count) == (1.0, 3)
    numbers = np.asarray([[1.0], [np.nan], [3.0]])
    assert score(task("regression", 1), numbers, np.asarray([[1.0], [99], [3]]), "r2").scores["rmse"] == 0.0


def test_a_constant_quantity_says_nothing_about_r2() -> None:
    y = np.asarray([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    assert regression_scores(y, y + np.asarray([[0.0, 1.0]]))["r2"] == 1.0
    assert regression_scores(y[:, 1:], y[:, 1:])["r2"] == 0.0


def test_large_logits_are_ranked_and_raise_no_warning() -> None:
    labels = np.asarray([[1], [0], [1], [0]])
    logits = np.asarray([[900.0], [-900.0], [70.0], [60.0]])  # shares of the last two are 1 to float precision
    scored = score(task("multilabel", 1), labels, logits, "average_ap")
    assert scored.scores["average_ap"] == pytest.approx(1.0)
    assert scored.scores["average_ap"] == headline(task("multilabel", 1), labels, logits, "average_ap")
