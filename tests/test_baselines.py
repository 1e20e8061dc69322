"""Nearest neighbours, linear probes and the random forest against loops, scikit-learn and closed forms.

Axes: n sample, d width, k class.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from geomaestro.data.opening import open_dataset
from geomaestro.data.specs import load_spec
from geomaestro.learn import forest as forest_module
from geomaestro.learn import probe as probe_module
from geomaestro.learn.forest import fit_forest, raw_features, raw_pixels
from geomaestro.learn.knn import neighbours
from geomaestro.learn.probe import fit_linear
from tests.worlds import (
    DATES,
    earth_values,
    make_earth,
    make_recipe,
    make_series,
    open_series,
    open_split,
    task,
    write_images,
)

LABELS = {
    "classes": np.random.default_rng(0).integers(0, 3, 40),
    "multilabel": np.random.default_rng(0).integers(0, 2, (40, 3)),
    "regression": np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32),
}


def features(count: int, width: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + 2


# ---- nearest neighbours ----


@pytest.mark.parametrize("kind", list(LABELS))
def test_neighbours_answer_as_loops_do(kind: str) -> None:
    train, test, labels = features(40).double().numpy(), features(9, seed=2).double().numpy(), LABELS[kind]
    ours = neighbours(features(40), labels, features(9, seed=2), task(kind, 3), 5, batch=4)
    values = np.eye(3)[labels] if kind == "classes" else labels
    centre = train.mean(axis=0)
    for row, x in enumerate(test):
        near = []
        for y, value in zip(train, values, strict=True):
            a, b = x - centre, y - centre
            near.append((a @ b / np.linalg.norm(a) / np.linalg.norm(b), value))
        near = sorted(near, key=lambda pair: -pair[0])[:5]
        weights = np.exp([similarity / 0.07 for similarity, _ in near])
        share = sum(w * v for w, (_, v) in zip(weights, near, strict=True)) / weights.sum()
        expected = (
            np.log(share.clip(1e-6, 1 - 1e-6) / (1 - share.clip(1e-6, 1 - 1e-6))) if kind == "multilabel" else share
        )
        np.testing.assert_allclose(ours[row], expected, rtol=2e-3, atol=2e-4)


def test_fewer_samples_than_neighbours_are_all_used() -> None:
    ours = neighbours(features(3), np.asarray([0, 1, 2]), features(2, seed=2), task("classes", 3), 20)
    np.testing.assert_allclose(ours.sum(axis=1), 1, rtol=1e-5)
    assert (ours > 0).all()


def test_a_training_sample_is_its_own_nearest_neighbour() -> None:
    labels = LABELS["classes"]
    ours = neighbours(features(40, 30), labels, features(40, 30), task("classes", 3), 10)
    assert (ours.argmax(axis=1) == labels).all()


# ---- linear probes ----


def learnable(kind: str) -> np.ndarray:
    """Labels that follow from features(40), with noise."""
    x = features(40).numpy() @ np.random.default_rng(5).normal(size=(6, 3)) + np.random.default_rng(6).normal(
        size=(40, 3)
    )
    if kind == "classes":
        return x.argmax(axis=1)
    return x.astype(np.float32) if kind == "regression" else (x > np.median(x, axis=0)).astype(np.int64)


@pytest.mark.parametrize("penalty", [1e-3, 0.1])
def test_a_probe_of_classes_is_scikit_learns_logistic_regression(
    penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "PENALTIES", (penalty,))
    x, y = features(40), learnable("classes")
    ours = fit_linear(x, y, x, y, task("classes", 3), "overall_accuracy")
    standard = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    theirs = LogisticRegression(C=1 / (2 * penalty * 40), tol=1e-8, max_iter=5000).fit(standard, y)
    share = torch.from_numpy(ours.predict(x)).softmax(dim=1).numpy()
    np.testing.assert_allclose(share, theirs.predict_proba(standard), atol=2e-3)

    def loss(share: np.ndarray, weight: np.ndarray) -> float:
        return float(-np.log(share[np.arange(40), y]).mean() + penalty * np.square(weight).sum())

    assert loss(share, ours.weight.numpy()) == pytest.approx(
        loss(theirs.predict_proba(standard), theirs.coef_), rel=1e-4
    )


def test_a_probe_of_several_labels_is_one_logistic_regression_per_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "PENALTIES", (0.01,))
    x, y = features(40), learnable("multilabel")
    ours = fit_linear(x, y, x, y, task("multilabel", 3), "weighted_f1")
    standard = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    for k in range(3):  # the loss is the mean over labels too
        theirs = LogisticRegression(C=1 / (2 * 0.01 * 40 * 3), tol=1e-8, max_iter=5000).fit(standard, y[:, k])
        np.testing.assert_allclose(ours.predict(x)[:, k], theirs.decision_function(standard), atol=2e-2)


def test_a_probe_of_numbers_is_ridge_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "PENALTIES", (0.3,))
    x, y = features(40), learnable("regression")
    ours = fit_linear(x, y, x, y, task("regression", 3), "r2")
    standard = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    theirs = Ridge(alpha=0.3 * 40).fit(standard, y)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(standard), rtol=1e-4, atol=1e-4)


def test_the_penalty_that_is_best_on_validation_is_kept() -> None:
    x = features(30, 60)
    rng = np.random.default_rng(0)
    y = (x[:, :1].numpy() + rng.normal(0, 2, (30, 1))).astype(np.float32)  # more features than samples, much noise
    val = features(200, 60, seed=3)
    val_labels = val[:, :1].numpy()
    of = task("regression", 1)
    chosen = fit_linear(x, y, val, val_labels, of, "rmse")
    errors = {}
    standard = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    for penalty in probe_module.PENALTIES:
        theirs = Ridge(alpha=penalty * 30).fit(standard, y)
        guess = theirs.predict(((val - x.mean(0)) / x.std(0, correction=0)).double().numpy())
        errors[penalty] = np.square(guess.ravel() - val_labels.ravel()).mean()
    assert chosen.penalty == min(errors, key=lambda p: errors[p])


def test_a_feature_that_never_changes_is_harmless() -> None:
    x = features(40)
    x[:, 2] = 7.0
    fitted = fit_linear(x, learnable("classes"), x, learnable("classes"), task("classes", 3), "overall_accuracy")
    assert np.isfinite(fitted.predict(x)).all()


# ---- the random forest ----


@pytest.fixture
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest_module, "TREES", 30)


@pytest.mark.usefixtures("_few_trees")
@pytest.mark.parametrize("kind", list(LABELS))
def test_a_forest_learns_with_values_missing(kind: str) -> None:
    x, y = features(40).numpy().copy(), learnable(kind)
    x[np.random.default_rng(0).random(x.shape) < 0.2] = np.nan
    metric = {"classes": "overall_accuracy", "multilabel": "weighted_f1", "regression": "r2"}[kind]
    fitted = fit_forest(x, y, x, y, task(kind, 3), metric=metric, seed=0)
    logits = fitted.predict(x)
    assert logits.shape == (40, 3) and np.isfinite(logits).all()
    if kind == "regression":
        right = np.corrcoef(logits.ravel(), y.ravel())[0, 1]
    else:
        right = ((logits.argmax(axis=1) if kind == "classes" else logits > 0) == y).mean()
    assert right > 0.9


@pytest.mark.usefixtures("_few_trees")
def test_a_class_absent_from_training_is_never_likely() -> None:
    x, y = features(40).numpy(), np.where(learnable("classes") == 1, 2, learnable("classes"))
    logits = fit_forest(x, y, x, y, task("classes", 4), metric="overall_accuracy", seed=0).predict(x)
    assert logits.shape == (40, 4) and set(logits.argmax(axis=1).tolist()) == {0, 2}
    assert (logits[:, [1, 3]] == np.log(1e-6)).all()
    shares = np.exp(logits[:, [0, 2]]).sum(axis=1)
    np.testing.assert_allclose(shares, 1, rtol=1e-4)


@pytest.mark.usefixtures("_few_trees")
def test_labels_that_training_never_or_always_has_are_answered_so() -> None:
    y = learnable("multilabel").copy()
    y[:, 0], y[:, 2] = 0, 1
    x = features(40).numpy()
    logits = fit_forest(x, y, x, y, task("multilabel", 3), metric="weighted_f1", seed=0).predict(x)
    assert (logits[:, 0] < -10).all() and (logits[:, 2] > 10).all()


@pytest.mark.usefixtures("_few_trees")
def test_a_single_label_of_several_kinds_is_answered_too() -> None:
    y, x = learnable("multilabel")[:, :1], features(40).numpy()
    logits = fit_forest(x, y, x, y, task("multilabel", 1), metric="weighted_f1", seed=0).predict(x)
    assert ((logits > 0) == y).mean() > 0.9
    number = learnable("regression")[:, :1]
    guess = fit_forest(x, number, x, number, task("regression", 1), metric="r2", seed=0).predict(x)
    assert guess.shape == (40, 1) and np.corrcoef(guess.ravel(), number.ravel())[0, 1] > 0.9


@pytest.mark.usefixtures("_few_trees")
def test_a_forest_of_pixels_answers_each_pixel_from_its_own_values() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10, 3, 5, 2)).astype(np.float32)  # n h w f
    y = (x[..., 0] > 0).astype(np.int64) + (x[..., 1] > 1)
    y[0, 0] = -1
    of = task("pixels", 4, reference_sensor="a", patch_px=1)
    logits = fit_forest(x, y, x, y, of, metric="overall_accuracy", seed=0).predict(x)
    assert logits.shape == (10, 4, 3, 5)
    assert (logits.argmax(axis=1) == y)[y != -1].mean() > 0.95
    assert (logits[:, 3] == np.log(1e-6)).all()  # no training pixel has it


def test_raw_pixels_are_the_values_under_each_label_pixel(tmp_path: Path) -> None:
    dataset = open_dataset(load_spec(write_images(tmp_path)), tmp_path, ("val",))
    made, sample = raw_pixels(dataset, 4, 4), dataset.read(6)
    assert made.shape == (10, 4, 4, 2 * 2)
    for row, col in np.ndindex(4, 4):
        truth = sample.images["x"][:, :, 2 * row, 2 * col].copy()
        truth[~sample.valid["x"][:, 2 * row, 2 * col]] = np.nan
        np.testing.assert_array_equal(made[6, row, col], truth.ravel())


def test_raw_features_of_series_are_their_values_missing_where_invalid(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    dataset = open_series(make_series(tmp_path_factory), "train")
    made = raw_features(dataset)
    assert made.shape == (30, DATES * 3 + DATES * 2 + 2)
    for i in (0, 3, 5):
        sample = dataset.read(i)
        parts = []
        for name, x in sample.images.items():
            parts += [
                v if sample.valid[name][t, 0, 0] else np.nan for t in range(len(x)) for v in x[t, :, 0, 0].tolist()
            ]
        np.testing.assert_allclose(made[i], parts, rtol=1e-6)


@pytest.fixture(scope="module")
def earth_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_earth(tmp_path_factory)


def test_raw_features_of_images_are_mean_spread_and_roughness(earth_folder: Path) -> None:
    values = earth_values(earth_folder)
    values["data"] |= {"sensors": ["s2"], "inputs": {"s2": {"dates": 4}}}
    dataset = open_split(make_recipe(values))
    x = dataset.read(0).images["s2"].astype(np.float64)
    down, across = np.abs(x[:, :, 1:] - x[:, :, :-1]), np.abs(x[..., 1:] - x[..., :-1])
    pixels = (-2, -1)
    truth = [x.mean(axis=pixels), x.std(axis=pixels), across.mean(axis=pixels), down.mean(axis=pixels)]
    np.testing.assert_allclose(raw_features(dataset)[0], np.concatenate([v.ravel() for v in truth]), rtol=1e-4)


def test_invalid_pixels_have_no_part_in_the_statistics() -> None:
    x = np.full((1, 1, 4, 4), 1000.0)
    x[..., 2:] = np.nan
    mean, spread, across, down = (float(v[0]) for v in forest_module._statistics(x))
    assert (mean, spread) == (1000.0, 0.0)
    assert (across, down) == (0.0, 0.0)  # a flat image is not rough where it ends
