"""Tasks: heads on an encoder's tokens, and losses that leave out what is not known."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from geomaestro.errors import SpecError
from geomaestro.learn.losses import task_loss
from geomaestro.models.encoder import Tokens
from geomaestro.models.task import HeadSpec, Task, TaskModel, apply_head, make_head, maps_on_grid
from geomaestro.nn.heads import PixelHead, VectorHead, resize_maps
from tests.made import batch, encoder, encoder_spec, shaken, with_images, without_dates, without_pixels

CLASSES = ("oak", "beech", "pine", "spruce", "larch")
POOLINGS = ("attentive", "mean")


def task(kind: str = "classes", **settings: object) -> Task:
    pixels = {"reference_sensor": "s2", "patch_px": 4} if kind == "pixels" else {}
    return Task.model_validate({"name": "trees", "kind": kind, "classes": CLASSES, **pixels, **settings})


def task_model(kind: str = "classes", pooling: str = "attentive", fusion: str = "group") -> TaskModel:
    return shaken(TaskModel(encoder(fusion), task(kind), HeadSpec.model_validate({"pooling": pooling})))


def tokens(*, some_absent: bool = True) -> Tokens:
    """Two sensors on grids 2 x 3 (4 maps) and 4 x 6 (1 map)."""
    maps = {"s2": torch.randn(2, 4, 6, 24), "aerial": torch.randn(2, 1, 24, 24)}
    present: dict[str, Tensor | None] = {"s2": None, "aerial": None}
    if some_absent:
        present["s2"] = torch.rand(2, 4, 6) < 0.7
        present["s2"][:, 0] = True
    return Tokens(maps, {"s2": (2, 3), "aerial": (4, 6)}, present)


def test_flat_tokens_list_sensor_after_sensor() -> None:
    t = tokens()
    flat, present = t.flat()
    assert present is not None
    assert t.present["s2"] is not None
    assert flat[:, :24].equal(t.maps["s2"].flatten(1, 2))
    assert flat[:, 24:].equal(t.maps["aerial"].flatten(1, 2))
    assert present[:, :24].equal(t.present["s2"].flatten(1, 2))
    assert present[:, 24:].all()
    assert tokens(some_absent=False).flat()[1] is None


def test_the_pooled_embedding_counts_every_sensor_alike_and_absent_tokens_not_at_all() -> None:
    t = tokens()
    assert t.present["s2"] is not None
    for b in range(2):
        means = [t.maps["s2"][b][t.present["s2"][b]].mean(0), t.maps["aerial"][b].mean((0, 1))]
        torch.testing.assert_close(t.pooled()[b], torch.stack(means).mean(0))


def test_the_pooled_embedding_leaves_out_a_sensor_that_a_sample_lacks() -> None:
    t = tokens()
    assert t.present["s2"] is not None
    t.present["s2"][1] = False
    torch.testing.assert_close(t.pooled()[1], t.maps["aerial"][1].mean((0, 1)))
    assert t.pooled().isfinite().all()


def test_maps_come_to_one_grid_sensor_after_sensor() -> None:
    t = tokens(some_absent=False)
    maps, present = maps_on_grid(t, (2, 3))
    assert present is None
    assert maps[:, :4].equal(t.maps["s2"])
    torch.testing.assert_close(maps[:, 4:], resize_maps(t.maps["aerial"], (4, 6), (2, 3)))


def test_presence_comes_to_the_grid_with_the_maps() -> None:
    t = tokens()
    assert t.present["s2"] is not None
    _, present = maps_on_grid(t, (2, 3))
    assert present is not None
    assert present[:, :4].equal(t.present["s2"])
    assert present[:, 4:].all()
    assert present.shape == (2, 5, 6)


@pytest.mark.parametrize("grid", [(4, 6), (1, 2), (3, 5)])
def test_absent_tokens_do_not_run_into_their_neighbours_on_another_grid(grid: tuple[int, int]) -> None:
    t = tokens()
    known = t.present["s2"]
    assert known is not None
    maps, present = maps_on_grid(t, grid)
    garbage = torch.where(known[..., None], t.maps["s2"], 1e3 * torch.randn_like(t.maps["s2"]))
    other, _ = maps_on_grid(Tokens({**t.maps, "s2": garbage}, t.grids, t.present), grid)
    assert present is not None
    assert other[present].equal(maps[present])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_vector_task_pools_all_tokens(pooling: str) -> None:
    model, b = task_model(pooling=pooling), without_dates(batch(2), "s2", 1, 2)
    assert isinstance(model.head, VectorHead)
    with torch.no_grad():
        t = model.encoder(b)
        torch.testing.assert_close(model(b), model.head(*t.flat()))
    assert model(b).shape == (2, len(CLASSES))


def test_a_pixel_task_answers_on_the_ground_of_its_reference_sensor() -> None:
    """A patch of s2 is answered by 4 x 4 label pixels: 2 x 3 patches make 8 x 12."""
    model, b = task_model("pixels", "mean"), batch(2)
    assert isinstance(model.head, PixelHead)
    with torch.no_grad():
        got, t = model(b), model.encoder(b)
    assert got.shape == (2, len(CLASSES), 8, 12)
    pooled = torch.cat([resize_maps(x, t.grids[s], (2, 3)) for s, x in t.maps.items()], dim=1).mean(1)
    pixels = model.head.linear(pooled).unflatten(-1, (4, 4, len(CLASSES)))  # (b n y x o)
    torch.testing.assert_close(got[:, 3, 4:8, 8:12], pixels[:, 5, :, :, 3])


@pytest.mark.parametrize("kind", ["classes", "pixels"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_stands_in_absent_dates_and_pixels_never_reaches_the_logits(kind: str, pooling: str) -> None:
    model, b = task_model(kind, pooling, "inter-group"), without_dates(batch(2), "s2", 1, 2)
    invalid = torch.rand(2, 1, 16, 24) < 0.3
    b = without_pixels(b, "aerial", invalid)
    s2 = b.images["s2"].clone()
    s2[1, 2] = -9999.0
    with torch.no_grad():
        before = model(b)
        after = model(with_images(b, s2=s2, aerial=torch.where(invalid[:, :, None], torch.nan, b.images["aerial"])))
    assert after.equal(before)


@pytest.mark.parametrize("kind", ["classes", "pixels"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_logits_and_gradients_are_numbers_where_a_sample_has_nothing(kind: str, pooling: str) -> None:
    model, b = task_model(kind, pooling, "inter-group"), batch(2)
    for name in b.images:
        b = without_dates(b, name, 1, slice(None))
    logits = model(b)
    logits[0].sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_pixel_task_says_what_it_needs() -> None:
    with pytest.raises(ValidationError) as caught:
        Task(name="trees", kind="pixels", classes=CLASSES)
    assert "task 'trees' predicts pixels: give reference_sensor and patch_px" in str(caught.value)


def test_a_task_needs_a_class() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        Task(name="trees", kind="classes", classes=())


def test_an_unknown_reference_sensor_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        make_head(task("pixels", reference_sensor="spot"), HeadSpec(), encoder_spec())
    assert str(caught.value) == "task 'trees': reference_sensor 'spot' is not one of aerial, s2, s1_up, s1_down"


def test_a_batch_without_the_reference_sensor_is_refused_by_name() -> None:
    model = task_model("pixels")
    with pytest.raises(SpecError, match="s2"):
        model(batch(1).only(["aerial"]))


def test_apply_head_equals_the_model() -> None:
    model, b = task_model("pixels"), batch(1)
    with torch.no_grad():
        assert apply_head(model.head, model.task, model.encoder(b)).equal(model(b))


def worked_cross_entropy(logits: Tensor, label: int) -> float:
    scores = [math.exp(x) for x in logits.double().tolist()]
    return -math.log(scores[label] / sum(scores))


def test_the_loss_of_classes_leaves_out_ignored_samples() -> None:
    logits, labels = torch.randn(4, 5), torch.tensor([3, -1, 0, -1])
    expected = (worked_cross_entropy(logits[0], 3) + worked_cross_entropy(logits[2], 0)) / 2
    assert task_loss(logits, labels, task()).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_pixels_leaves_out_ignored_pixels() -> None:
    logits, labels = torch.randn(2, 5, 2, 3), torch.randint(0, 5, (2, 2, 3))
    labels[0, 1] = labels[1, 0, 2] = 255
    pixels = [(b, y, x) for b in range(2) for y in range(2) for x in range(3) if labels[b, y, x] != 255]
    expected = sum(worked_cross_entropy(logits[b, :, y, x], int(labels[b, y, x])) for b, y, x in pixels) / len(pixels)
    assert task_loss(logits, labels, task("pixels", ignore=255)).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_labels_leaves_out_samples_with_an_unknown_label() -> None:
    logits, labels = torch.randn(3, 5), torch.randint(0, 2, (3, 5))
    labels[1, 2] = -1
    chance = logits[[0, 2]].double().sigmoid()
    expected = -torch.where(labels[[0, 2]] == 1, chance.log(), (1 - chance).log()).mean()
    assert task_loss(logits, labels, task("multilabel")).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_of_regression_leaves_out_labels_that_are_not_numbers() -> None:
    logits, labels = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[2.0, math.nan], [0.0, math.inf]])
    assert task_loss(logits, labels, task("regression", classes=("height", "age"))).item() == pytest.approx((1 + 9) / 2)
    column = task("regression", classes=("height",))
    assert task_loss(torch.tensor([[1.0], [4.0]]), torch.tensor([3.0, math.nan]), column).item() == pytest.approx(4.0)


def test_classes_may_weigh_differently() -> None:
    logits, labels, weights = torch.randn(4, 5), torch.tensor([3, -1, 0, 4]), torch.rand(5)
    losses = {i: worked_cross_entropy(logits[i], int(labels[i])) for i in (0, 2, 3)}
    total = sum(float(weights[labels[i]]) * loss for i, loss in losses.items())
    expected = total / sum(float(weights[labels[i]]) for i in losses)
    assert task_loss(logits, labels, task(), weights).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "logits", "labels"),
    [
        ("classes", (3, 5), torch.full((3,), -1)),
        ("pixels", (2, 5, 2, 3), torch.full((2, 2, 3), -1)),
        ("multilabel", (3, 5), torch.full((3, 5), -1)),
        ("regression", (3, 5), torch.full((3, 5), math.nan)),
    ],
)
def test_a_batch_where_nothing_counts_has_no_loss_but_a_gradient(
    kind: str, logits: tuple[int, ...], labels: Tensor
) -> None:
    x = torch.randn(logits, requires_grad=True)
    loss = task_loss(x, labels, task(kind))
    loss.backward()
    assert loss == 0
    assert x.grad is not None
    assert x.grad.eq(0).all()


@pytest.mark.parametrize("kind", ["classes", "pixels", "multilabel"])
def test_ignored_labels_send_no_gradient(kind: str) -> None:
    shape = (2, 5, 2, 3) if kind == "pixels" else (2, 5)
    labels = torch.randint(0, 2, {"classes": (2,), "pixels": (2, 2, 3), "multilabel": (2, 5)}[kind])
    labels[1] = -1
    x = torch.randn(shape, requires_grad=True)
    task_loss(x, labels, task(kind)).backward()
    assert x.grad is not None
    assert x.grad[1].eq(0).all()
    assert x.grad[0].ne(0).all()


def test_half_precision_logits_are_scored_in_full() -> None:
    logits = torch.randn(4, 5).half()
    got = task_loss(logits, torch.tensor([0, 1, 2, 3]), task())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, functional.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 3])))
