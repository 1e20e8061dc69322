"""Batches: what a step sees follows from (seed, step), not from workers or restarts; samples are stacked as they are.

Axes: b sample, t date, c band, h row, w column.
"""

import tracemalloc
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from geomaestro.data.loader import (
    Subset,
    check_readable,
    evaluation_batches,
    read_all,
    training_batches,
    visit_at,
)
from geomaestro.data.reading import Dataset
from geomaestro.errors import DataError
from geomaestro.samples import Batch, Sample, collate, take, to_device, to_torch
from tests.worlds import Watched, earth_values, make_earth, make_recipe, make_series, open_series, open_split

PARTS = ("images", "dates", "present", "valid", "labels")


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """8 samples whose dates and flips are drawn."""
    return open_split(make_recipe(earth_values(make_earth(tmp_path_factory))))


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """15 pixel series, held in memory."""
    return open_series(make_series(tmp_path_factory), "val")


def nothing(number: int) -> None:
    """Let a read be."""


def assert_same(ours: Batch[Tensor], theirs: Batch[Tensor]) -> None:
    assert ours.ids == theirs.ids
    assert ours.keys is not None and theirs.keys is not None and ours.keys.equal(theirs.keys)
    assert ours.reference_date.equal(theirs.reference_date)
    for part in PARTS:
        mine, other = getattr(ours, part), getattr(theirs, part)
        assert mine.keys() == other.keys()
        for name in mine:
            assert torch.equal(mine[name].nan_to_num(), other[name].nan_to_num()), (part, name)


def batches(dataset: Dataset, *, start: int = 0, workers: int = 0, seed: int = 5) -> list[Batch[Tensor]]:
    return list(training_batches(dataset, batch=3, seed=seed, start=start, steps=7, workers=workers))


@pytest.fixture(scope="module")
def truth(earth: Dataset) -> list[Batch[Tensor]]:
    return batches(earth)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more than cores
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_step_sees_the_same_for_any_number_of_workers(
    earth: Dataset, truth: list[Batch[Tensor]], workers: int
) -> None:
    for ours, theirs in zip(batches(earth, workers=workers), truth, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize(("start", "workers"), [(1, 0), (4, 2), (7, 0)])
def test_a_step_sees_the_same_when_started_in_the_middle(
    earth: Dataset, truth: list[Batch[Tensor]], start: int, workers: int
) -> None:
    for ours, theirs in zip(batches(earth, start=start, workers=workers), truth[start:], strict=True):
        assert_same(ours, theirs)


def test_a_step_is_made_of_its_visits_read_one_by_one(earth: Dataset, truth: list[Batch[Tensor]]) -> None:
    visits = [visit_at(p, 5, len(earth)) for p in range(6, 9)]  # step 2 of 3 samples ends epoch 0 and begins epoch 1
    assert [v.epoch for v in visits] == [0, 0, 1]
    expected = to_torch(collate([earth.read(v.index, v) for v in visits], [v.key() for v in visits]))
    assert_same(truth[2], expected)


def test_another_seed_gives_another_order_dates_and_keys(earth: Dataset, truth: list[Batch[Tensor]]) -> None:
    other = batches(earth, seed=6)
    assert [b.ids for b in other] != [b.ids for b in truth]
    keys = [set(torch.cat([b.keys for b in x if b.keys is not None]).tolist()) for x in (truth, other)]
    assert not keys[0] & keys[1] and len(keys[0]) == 21  # no key comes twice


def test_every_epoch_visits_every_sample_once_in_its_own_order() -> None:
    orders = [[visit_at(p, 3, 50).index for p in range(50 * epoch, 50 * (epoch + 1))] for epoch in range(4)]
    assert all(sorted(o) == list(range(50)) for o in orders)
    assert len({tuple(o) for o in orders}) == 4


def test_draws_of_a_sample_change_from_epoch_to_epoch(earth: Dataset) -> None:
    seen = [earth.read(0, visit) for visit in (visit_at(p, 0, 1) for p in range(4))]
    assert len({x.dates["s2"].tobytes() for x in seen}) == 4


def test_samples_held_in_memory_are_those_read_from_files(fields: Dataset) -> None:
    for workers in (0, 2):
        from_files = training_batches(Watched(fields, nothing), batch=4, seed=2, start=3, steps=9, workers=workers)
        from_memory = training_batches(fields, batch=4, seed=2, start=3, steps=9)
        for ours, theirs in zip(from_memory, from_files, strict=True):
            assert_same(ours, theirs)


def test_a_split_too_big_for_memory_is_read_from_files(fields: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batches(fields)
    monkeypatch.setattr("geomaestro.data.loader.MEMORY_LIMIT_BYTES", 100)
    for ours, theirs in zip(batches(fields), expected, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_gives_every_sample_once_in_order_with_a_last_partial_batch(earth: Dataset, workers: int) -> None:
    made = list(evaluation_batches(earth, batch=3, workers=workers))
    assert [len(b) for b in made] == [3, 3, 2]
    assert [i for b in made for i in b.ids] == earth.ids()
    for number, batch in enumerate(made):
        plain = to_torch(collate([earth.read(i) for i in range(3 * number, 3 * number + len(batch))]))
        assert all(torch.equal(batch.images[name], plain.images[name]) for name in plain.images)


def fail_at(last: int, number: int) -> None:
    if number == last:
        raise DataError("earth/0007.h5: unreadable HDF5, probably truncated")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_sample_stops_the_stream_with_its_message(fields: Dataset, workers: int) -> None:
    fail = partial(fail_at, 4 // max(1, workers))
    streams: list[Iterator[Batch[Tensor]]] = [
        training_batches(Watched(fields, fail), batch=2, seed=0, start=0, steps=9, workers=workers),
        evaluation_batches(Watched(fields, fail), batch=2, workers=workers),
    ]
    for stream in streams:
        with pytest.raises(DataError) as caught:
            list(stream)
        assert str(caught.value) == "earth/0007.h5: unreadable HDF5, probably truncated"


def test_a_dataset_is_checked_by_its_first_sample(fields: Dataset) -> None:
    check_readable(fields)
    with pytest.raises(DataError, match="the dataset has no samples"):
        check_readable(Subset(fields, []))


def test_a_long_training_takes_no_memory_for_steps_to_come(fields: Dataset) -> None:
    tracemalloc.start()
    stream = training_batches(Watched(fields, nothing), batch=4, seed=0, start=0, steps=200_000)
    next(stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_a_subset_renames_nothing_and_reads_what_it_lists(fields: Dataset) -> None:
    part = Subset(fields, [7, 2, 2])
    assert part.ids() == [fields.ids()[i] for i in (7, 2, 2)]
    assert (part.labels("crop") == fields.labels("crop")[[7, 2, 2]]).all()
    assert part.read(0).id == fields.ids()[7]


# ---- samples and batches ----


def sample(number: int, *, present: bool = True, valid: bool = True) -> Sample[np.ndarray]:
    rng = np.random.default_rng(number)
    return Sample(
        id=f"s{number}",
        images={"a": rng.integers(60_000, 65_535, (2, 3, 4, 5)).astype(np.uint16), "b": rng.random((1, 1, 1, 1))},
        dates={"a": np.full((2, 3), number, np.int16), "b": np.zeros((1, 3), np.int16)},
        present={"a": np.asarray([True, present]), "b": np.ones(1, bool)},
        valid={"a": np.ones((2, 4, 5), bool), "b": np.full((1, 1, 1), valid)},
        reference_date=np.asarray([2020, number, 0], np.int16),
        labels={"t": np.asarray(number)},
    )


def test_collate_stacks_samples_in_order() -> None:
    samples = [sample(4), sample(9)]
    batch = collate(samples, [11, 12])
    assert (len(batch), batch.ids) == (2, ("s4", "s9"))
    for number, part in enumerate(samples):
        assert (batch.images["a"][number] == part.images["a"]).all()
        assert (batch.dates["a"][number] == part.dates["a"]).all() and batch.labels["t"][number] == part.labels["t"]
        assert (batch.reference_date[number] == part.reference_date).all()
    assert batch.keys is not None and batch.keys.tolist() == [11, 12] and batch.keys.dtype == np.int64
    assert collate(samples).keys is None


def test_a_sensor_is_complete_where_nothing_is_absent_or_invalid() -> None:
    assert collate([sample(0), sample(1)]).complete == {"a": True, "b": True}
    assert collate([sample(0), sample(1, present=False)]).complete == {"a": False, "b": True}
    assert collate([sample(0, valid=False), sample(1)]).complete == {"a": True, "b": False}


def test_samples_of_different_shapes_are_not_stacked() -> None:
    other = sample(1)
    wrong = Sample(
        **{f: getattr(other, f) for f in other.__slots__} | {"images": {**other.images, "a": np.zeros((2, 3, 4, 4))}}
    )
    with pytest.raises(ValueError, match="same shape"):
        collate([sample(0), wrong])


def test_take_picks_rows_in_numpy_and_torch() -> None:
    batch = collate([sample(i) for i in range(5)], list(range(10, 15)))
    for part in (take(batch, np.asarray([3, 1, 3])), take(to_torch(batch), torch.tensor([3, 1, 3]))):
        assert part.ids == ("s3", "s1", "s3") and part.keys is not None and part.keys.tolist() == [13, 11, 13]
        assert part.dates["a"][:, 0, 0].tolist() == [3, 1, 3] and part.labels["t"].tolist() == [3, 1, 3]
        assert part.reference_date[:, 1].tolist() == [3, 1, 3]
        for row, number in enumerate((3, 1, 3)):
            assert (np.asarray(part.images["a"][row]) == sample(number).images["a"]).all()


def test_to_torch_keeps_every_value() -> None:
    batch = collate([sample(0), sample(1)])
    moved = to_torch(batch)
    assert moved.images["a"].dtype == torch.int32 and (moved.images["a"].numpy() == batch.images["a"]).all()
    assert moved.images["b"].dtype == torch.float32
    assert np.allclose(moved.images["b"].numpy(), batch.images["b"], rtol=1e-7)
    assert moved.present["a"].dtype == torch.bool and moved.complete == batch.complete
    assert to_device(moved, torch.device("cpu")) is moved


def test_only_leaves_out_the_other_sensors() -> None:
    part = collate([sample(0)]).only(["b"])
    assert (
        list(part.images) == list(part.dates) == list(part.present) == list(part.valid) == list(part.complete) == ["b"]
    )


def test_reading_everything_keeps_the_order(fields: Dataset) -> None:
    whole = read_all(fields)
    assert list(whole.ids) == fields.ids() and (whole.labels["crop"].numpy() == fields.labels("crop")).all()
