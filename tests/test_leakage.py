"""Splits that know each other: distances, overlapping ground, the same picture twice; and those that do not."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomaestro.data.files.filespec import Blocks
from geomaestro.data.files.listing import by_blocks
from geomaestro.data.quality.checking import check
from geomaestro.data.quality.leakage import Leakage, leakage, training_split
from geomaestro.data.quality.likeness import NO_HASH, averaged, content_hash, likeness, near_pairs, picture_hashes
from geomaestro.data.quality.placing import Extent, Reference, check_ground, distance_km, extent_of
from geomaestro.data.quality.survey import Record, Seen
from geomaestro.errors import DataError
from geomaestro.grid import Grid
from tests.filesets import sensor, spec_of, write_csv, write_tif

SIDE = Extent(0.64, 0.64)


def never(*_: int) -> float:
    raise AssertionError("no picture is to be compared")


def clustered(count: int = 1200) -> list[tuple[float, float]]:
    """Places in forty clusters of a few kilometres, over a continent."""
    rng = np.random.default_rng(0)
    centres = rng.uniform((0, 42), (20, 55), (40, 2))
    return [tuple(x) for x in (centres[np.arange(count) % 40] + rng.normal(0, 0.02, (count, 2))).tolist()]


def records(places: Sequence[tuple[float, float] | None], splits: Sequence[str]) -> list[Record]:
    pairs = enumerate(zip(places, splits, strict=True))
    return [Record(n, f"i{n}", split, place=place, extent=SIDE) for n, (place, split) in pairs]


def found(places: Sequence[tuple[float, float] | None], splits: Sequence[str], **options: Any) -> Leakage:
    leaks = leakage(records(places, splits), likeness=never, **options)
    assert leaks is not None
    return leaks


def test_a_split_by_chance_of_clustered_places_is_flagged():
    places = clustered()
    splits = np.random.default_rng(1).choice(["train", "val", "test"], len(places), p=[0.7, 0.1, 0.2]).tolist()
    leaks = found(places, splits, block_km=50.0)
    assert leaks.mixed and [one.split for one in leaks.apart] == list(dict.fromkeys(s for s in splits if s != "train"))
    assert all(one.mixed and one.within_block == 1 for one in leaks.apart)
    assert leaks.headline.startswith("The splits leak: ")
    assert (
        "is MIXED with training, as if drawn by chance among neighbours: the median distance of its"
        in leaks.verdicts[0]
    )
    assert leaks.verdicts[0].endswith("will flatter the model. Split by blocks of ground (`samples.blocks`)")


def test_a_split_by_blocks_of_clustered_places_is_not():
    places = clustered()
    leaks = found(places, by_blocks(places, Blocks(size_km=100)))
    assert not leaks.mixed and leaks.headline == "The splits are apart."
    assert leaks.verdicts[0].split(":")[0].endswith("is apart from training")
    assert leaks.verdicts[-1] == "no picture was found in two splits"


def test_places_that_are_far_from_each_other_may_be_split_by_chance():
    rng = np.random.default_rng(2)
    places = [tuple(x) for x in rng.uniform((-180, -60), (180, 70), (500, 2)).tolist()]
    assert not found(places, rng.choice(["train", "test"], 500).tolist()).mixed


def test_distances_are_those_of_the_haversine_formula_even_across_the_date_line():
    train, test = [(179.99, 10.0), (20.0, -45.0)], [(-179.99, 10.0), (20.0, -46.0), (20.5, -45.0)]
    leaks = found([*train, *test], ["train"] * 2 + ["test"] * 3)
    nearest = sorted(min(distance_km(a, b) for b in train) for a in test)
    assert leaks.apart[0].km[0] == pytest.approx(nearest[0]) and leaks.apart[0].km[100] == pytest.approx(nearest[2])
    assert nearest[2] == pytest.approx(6371.0 * math.radians(1)) and leaks.own_km[0] == pytest.approx(
        distance_km(*train)
    )


@pytest.mark.parametrize(("shift_km", "count"), [(0.0, 1), (0.3, 1), (0.62, 1), (0.635, 0), (0.64, 0), (1.0, 0)])
def test_overlapping_ground_is_counted_and_touching_is_not(shift_km, count):
    places = [(9.0, 50.0), (12.0, 50.0), (9.0, 50.0 + math.degrees(shift_km / 6371.0))]
    one = found(places, ["train", "train", "test"]).apart[0]
    assert one.overlapping == count and one.example == (("i2", "i0") if count else None)
    assert one.within_1_km == float(shift_km < 1)


def test_several_dates_of_one_place_count_once_between_training_samples():
    places = [(9.0, 50.0)] * 5 + [(9.0, 51.0)] * 5 + [(9.0, 50.0)]
    leaks = found(places, ["train"] * 10 + ["test"])
    assert leaks.own_km[50] == pytest.approx(distance_km((9.0, 50.0), (9.0, 51.0)), rel=1e-6)
    assert leaks.mixed and leaks.apart[0].overlapping == 1


def test_without_places_or_splits_nothing_is_claimed():
    leaks = found([None] * 3, ["train", "train", "val"])
    assert not leaks.mixed and leaks.headline == "No leak was found, but no places are known to tell by."
    assert leaks.verdicts[0].startswith("val: no places are known")
    assert leakage(records([(0, 0)] * 2, ["train", "train"]), likeness=never) is None
    assert leakage(records([(0, 0)] * 2, ["a", "b"]), likeness=never) is None
    assert training_split(["val", "train_fold_1", "pretrain"]) == "train_fold_1"


def picture(seed: int, size: int = 64) -> np.ndarray:
    """(2 h w) smooth hills."""
    rng = np.random.default_rng(seed)
    hills = averaged(rng.normal(size=(size, size)), size // 4, size // 4).repeat(4, axis=0).repeat(4, axis=1)
    return np.asarray([1.0, 0.5])[:, None, None] * (3000 + 4000 * hills) + rng.normal(0, 5, (2, size, size))


def bits(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.bitwise_count(picture_hashes(one[None], None)[0] ^ picture_hashes(other[None], None)[0]))


def test_a_hash_hardly_changes_with_noise_and_much_with_another_picture():
    one = picture(0)
    again = one * 1.7 + 200 + np.random.default_rng(9).normal(0, 30, one.shape)
    assert bits(one, one) == 0 and bits(one, again) <= 3
    assert min(bits(one, picture(seed)) for seed in range(1, 30)) > 10


def test_a_hash_is_made_of_the_signs_of_steps_between_cells():
    steps = np.random.default_rng(0).choice([-1.0, 1.0], (8, 8))
    cells = np.concatenate([np.zeros((8, 1)), steps.cumsum(axis=1)], axis=1)
    image = cells.repeat(5, axis=0).repeat(3, axis=1)[None, None]
    expected = np.packbits(steps > 0).tobytes()
    assert picture_hashes(image, None).tobytes() == expected


def test_pictures_that_tell_nothing_have_no_hash():
    flat = np.full((1, 2, 16, 16), 7)
    assert picture_hashes(flat, None).tolist() == [0] and content_hash(flat) == NO_HASH
    assert picture_hashes(np.random.default_rng(0).normal(size=(3, 2, 4, 16)), None).tolist() == [0, 0, 0]
    unknown = np.arange(16)[None, None] < np.full((1, 16, 1), 9)
    assert picture_hashes(picture(0, 16)[None], unknown).tolist() == [0]
    assert content_hash(np.full((2, 1, 1, 1), np.nan)) == NO_HASH


def test_all_near_pairs_are_found_and_no_other():
    rng = np.random.default_rng(0)
    one = rng.integers(1, 2**63, 300).astype(np.uint64)
    other = rng.integers(1, 2**63, 400).astype(np.uint64)
    for n in range(60):
        for bit in rng.choice(64, n % 6, replace=False):
            one[n] ^= np.uint64(1) << np.uint64(bit)
        other[n] = one[n]
        for bit in rng.choice(64, n % 6, replace=False):
            other[n] ^= np.uint64(1) << np.uint64(bit)
    one[70] = other[70] = NO_HASH
    distance = np.bitwise_count(one[:, None] ^ other[None])
    distance[70], distance[:, 70] = 64, 64
    left, right, differ = near_pairs(one, other)
    assert {*zip(left.tolist(), right.tolist(), strict=True)} == {*map(tuple, np.argwhere(distance <= 3).tolist())}
    assert (differ == distance[left, right]).all() and len(left) == 40


def test_likeness_tells_equal_noisy_and_other_pictures_apart():
    one = picture(0).mean(axis=0)
    noisy = one + np.random.default_rng(1).normal(0, 20, one.shape)
    assert likeness(one, one.copy()) == 1.0
    assert 0.98 < likeness(one, noisy) < 1.0
    assert likeness(one, picture(1).mean(axis=0)) == 0.0
    ramp = np.linspace(0, 100, 64)[None] + np.zeros((64, 1))
    slopes = [ramp + np.random.default_rng(seed).normal(0, 3, (64, 64)) for seed in (1, 2)]
    assert np.corrcoef(slopes[0].ravel(), slopes[1].ravel())[0, 1] > 0.98 and likeness(*slopes) == 0.0


def write_splits(folder: Path, copies: dict[str, tuple[str, float]]) -> dict[str, Any]:
    """Twelve pictures far from each other; `copies` are {name: (of which, noise)}."""
    rows = []
    for n in range(12):
        name = f"i{n}"
        source, noise = copies.get(name, (name, 0.0))
        images = picture(int(source[1:])) + np.random.default_rng(n).normal(0, 1, (2, 64, 64)) * noise
        write_tif(
            folder / f"{name}.tif", images.clip(1).astype(np.uint16), corner=(300_000.0 + 30_000 * n, 5_600_000.0)
        )
        rows.append({"id": name, "split": "train" if n < 8 else "val" if n < 10 else "test"})
    write_csv(folder / "table.csv", rows)
    return {
        "samples": {"table": "table.csv", "split": "split", "place": "s2"},
        "sensors": {"s2": sensor("{id}.tif", px=64)},
    }


def test_a_planted_duplicate_is_found_whether_equal_or_noisy(tmp_path):
    values = write_splits(tmp_path, {"i9": ("i2", 0.0), "i11": ("i4", 25.0)})
    result = check(spec_of(**values), tmp_path, out=tmp_path / "bad.jsonl")
    assert result.leakage is not None and not result.ok and result.bad == ()
    twins = {(each.id, each.split, each.other_id, each.other_split): each.likeness for each in result.leakage.twins}
    assert twins[("i9", "val", "i2", "train")] == 1.0
    assert 0.98 < twins[("i11", "test", "i4", "train")] < 1.0 and len(twins) == 2
    assert result.leakage.verdicts[-1].endswith("; remove one of the two")
    assert result.leakage.headline == "The splits leak: they share pictures."


def test_pictures_that_differ_are_no_duplicates(tmp_path):
    result = check(spec_of(**write_splits(tmp_path, {})), tmp_path, out=tmp_path / "bad.jsonl")
    assert result.ok and result.leakage is not None and result.leakage.twins == () and not result.leakage.mixed


def test_equal_series_of_single_pixels_are_found():
    rng = np.random.default_rng(0)
    made = records([None] * 4, ["train", "train", "val", "test"])
    values = [rng.integers(0, 9, (5, 2, 1, 1)) for _ in range(3)]
    values.append(values[1])

    def seen(images: np.ndarray) -> Seen:
        return Seen(np.zeros((5, 3)), (1, 1), 5, 0, 0, 0, picture_hashes(images, None), content_hash(images))

    filled = [replace(record, sensors={"x": seen(x)}) for record, x in zip(made, values, strict=True)]
    leaks = leakage(filled, likeness=never)
    assert leaks is not None
    assert [(each.id, each.other_id, each.likeness) for each in leaks.twins] == [("i3", "i1", 1.0)]
    assert leaks.verdicts[-1].startswith(
        "1 sample shows a picture of another split: i3 (test) is the same picture as i1"
    )


def test_twenty_thousand_places_and_hashes_are_compared():
    rng = np.random.default_rng(0)
    places = [tuple(x) for x in rng.uniform((0, 40), (20, 55), (20_000, 2)).tolist()]
    hashes = rng.integers(1, 2**63, 20_000).astype(np.uint64)
    hashes[-1] = hashes[0] ^ np.uint64(5)
    made = records(places, ["train"] * 16_000 + ["test"] * 4_000)
    empty = Seen(np.zeros((1, 3)), (64, 64), 4096, 0, 0, 0, np.zeros(0, np.uint64), NO_HASH)
    filled = [replace(record, sensors={"x": replace(empty, hashes=hashes[n : n + 1])}) for n, record in enumerate(made)]
    leaks = leakage(filled, likeness=lambda *_: 0.99)
    assert leaks is not None and [(each.id, each.other_id) for each in leaks.twins] == [("i19999", "i0")]


def test_ground_is_compared_in_kilometres_of_any_coordinate_system():
    metric = Grid(64, 128, (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_600_000.0), "EPSG:32632")
    extent = extent_of(metric)
    assert extent.height_km == pytest.approx(0.64, rel=0.005) and extent.width_km == pytest.approx(1.28, rel=0.005)
    degrees = Grid(100, 100, (0.01, 0.0, 9.0, 0.0, -0.01, 60.5), "EPSG:4326")
    extent = extent_of(degrees)
    assert extent.height_km == pytest.approx(111.19, rel=0.001)
    assert extent.width_km == pytest.approx(111.19 / 2, rel=0.001)
    check_ground([Reference("sensor 'a'", "a.tif", metric)], (9.01, 50.55), aligned=True)
    with pytest.raises(DataError, match=r"a\.tif: sensor 'a' lies at longitude 9\.\d+, latitude 50\.\d+, but"):
        check_ground([Reference("sensor 'a'", "a.tif", metric)], (50.55, 9.01), aligned=True)
