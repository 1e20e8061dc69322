"""What a visit takes of a scene: crops that show one ground in all sensors, dates, flips; the visit alone decides.

Pixels hold the place of their middle, in metres from the corner of the tile, so that a sample tells where it lies.
Axes: t date, d chosen date, c band (x, y), h row, w column.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomaestro.data.files.filespec import FilesSpec
from geomaestro.data.reading import Visit
from geomaestro.data.sampling import SceneDataset
from geomaestro.data.scenes import UNKNOWN, MemoryRaster, MemorySeries, Scene
from geomaestro.errors import DataError, SpecError
from geomaestro.grid import Grid, Window, common_units, window_of
from geomaestro.samples import Sample
from tests.filesets import open_files, sensor, spec_of, write_csv, write_tif

TILE_M = 240
S2, AIR, MAP = 10.0, 2.5, 5.0  # metres to a pixel


def places(gsd: float, height_m: int = TILE_M, width_m: int = TILE_M) -> np.ndarray:
    """x and y (2 h w) of the middles of pixels; y runs down."""
    rows, cols = np.mgrid[: int(height_m / gsd), : int(width_m / gsd)] + 0.5
    return np.stack([gsd * cols, gsd * rows]).astype(np.float32)


@dataclass
class Tiles:
    """Scenes of two sensors and a map of labels, whose pixels hold their place; s2 has `dates` dates."""

    dates: int = 1
    height_m: int = TILE_M
    lacking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    draws_dates: bool = True

    def __len__(self) -> int:
        return 2

    def ids(self) -> list[str]:
        return ["p", "q"]

    def places(self) -> list[tuple[float, float] | None]:
        return [None, None]

    def labels(self, target: str) -> np.ndarray:
        return np.asarray([3, 4])

    @contextmanager
    def scene(self, index: int) -> Iterator[Scene]:
        days = np.asarray([(2020, 1 + n, 0) for n in range(self.dates)], np.int16)
        s2, air = places(S2, self.height_m), places(AIR, self.height_m)
        far = (air[0] + air[1] > 300)[None].astype(np.uint8) * np.uint8(UNKNOWN)
        label = np.arange(int(self.height_m / MAP) * int(TILE_M / MAP)).reshape(-1, int(TILE_M / MAP))
        series = {
            "s2": MemorySeries(s2[None] + 1000.0 * np.arange(self.dates, dtype=np.float32)[:, None, None, None], days),
            "air": MemorySeries(air[None], days[:1], far),
        }
        name = self.ids()[index]
        kept = {key: x for key, x in series.items() if key not in self.lacking.get(name, ())}
        yield Scene(
            id=name,
            series=kept,
            reference_date=days[0],
            labels={"class": np.asarray([3, 4])[index]},
            maps={"map": MemoryRaster(label)},
        )


def spec(size_m: float | None, cover: int = 1, take: int = 1, **changes: Any) -> FilesSpec:
    crop = None if size_m is None else {"size_m": size_m, "tile_m": TILE_M, "cover": cover}
    pixels = {"kind": "pixels", "classes": ["a"], "source": {"path": "{id}.tif"}}
    part = size_m or TILE_M
    dates = {"fixed": "20200101"}
    values = {
        "crop": crop,
        "sensors": {
            "s2": sensor("{id}", 2, round(part / S2), take, to_px=round(TILE_M / S2), dates=dates),
            "air": sensor("{id}", 2, round(part / AIR), to_px=round(TILE_M / AIR)),
        },
        "targets": {"map": pixels, "class": {"kind": "classes", "classes": ["x"], "column": "c"}},
    }
    return spec_of(**{**values, **changes})


def corner(sample: Sample[np.ndarray]) -> tuple[float, float, float, float]:
    """West, north, east and south edge of what s2 shows."""
    x, y = sample.images["s2"][0] % 1000
    return float(x.min() - S2 / 2), float(y.min() - S2 / 2), float(x.max() + S2 / 2), float(y.max() + S2 / 2)


def pooled(x: np.ndarray, by: int) -> np.ndarray:
    """Means of squares of pixels (c h w)."""
    c, h, w = x.shape
    return np.asarray(x.reshape(c, h // by, by, w // by, by).mean(axis=(2, 4)))


def assert_one_ground(sample: Sample[np.ndarray]) -> None:
    """s2, the aerial image, its validity and the map of labels show the same ground, turned alike."""
    s2, air = sample.images["s2"][0] % 1000, sample.images["air"][0]
    np.testing.assert_allclose(pooled(air, 4), s2, atol=1e-3)
    assert (sample.valid["air"][0] == (air[0] + air[1] <= 300)).all()
    rows, cols = np.divmod(sample.labels["map"], int(TILE_M / MAP))
    np.testing.assert_allclose(pooled(np.stack([cols + 0.5, rows + 0.5]) * MAP, 2), s2, atol=1e-3)


# ---- evaluation ----


@pytest.mark.parametrize(
    ("size_m", "cover"), [(60, 4), (120, 2), (240, 1), (80, 3), (30, 8), (90, 3), (200, 2), (100, 4)]
)
def test_crops_of_an_evaluation_cover_the_tile(size_m: int, cover: int) -> None:
    dataset = SceneDataset(Tiles(), spec(size_m, cover))
    assert len(dataset) == 2 * cover**2
    seen = np.zeros((24, 24), int)
    for index in range(cover**2):
        sample = dataset.read(index)
        assert_one_ground(sample)
        west, north, east, south = corner(sample)
        assert 0 <= west and 0 <= north and (east - west, south - north) == (size_m, size_m)
        assert east <= TILE_M and south <= TILE_M
        seen[int(north / S2) : int(south / S2), int(west / S2) : int(east / S2)] += 1
    assert (seen >= 1).all()
    if size_m * cover == TILE_M:
        assert (seen == 1).all()


def test_crops_are_named_by_their_row_and_column_and_carry_the_labels_of_their_tile() -> None:
    dataset = SceneDataset(Tiles(), spec(120, 2))
    assert dataset.ids() == [f"{tile}/{row}-{col}" for tile in "pq" for row in (0, 1) for col in (0, 1)]
    assert dataset.labels("class").tolist() == [3] * 4 + [4] * 4
    maps = dataset.labels("map")
    for index, name in enumerate(dataset.ids()):
        sample = dataset.read(index)
        assert sample.id == name and sample.labels["class"] == dataset.labels("class")[index]
        assert (maps[index] == sample.labels["map"]).all()
        row, col = (int(part) for part in name[2:].split("-"))
        assert corner(sample)[:2] == (120 * col, 120 * row)


def test_without_a_crop_a_sample_is_the_whole_tile() -> None:
    dataset = SceneDataset(Tiles(), spec(None))
    assert dataset.ids() == ["p", "q"] and len(dataset) == 2
    assert corner(dataset.read(1)) == (0, 0, TILE_M, TILE_M)
    assert_one_ground(dataset.read(0))


def test_reading_without_a_visit_never_draws() -> None:
    dataset = SceneDataset(Tiles(dates=9), spec(60, 4, take=3))
    for index in (0, 7, 31):
        one, other = dataset.read(index), dataset.read(index)
        assert all((one.images[name] == other.images[name]).all() for name in one.images)
        assert (one.dates["s2"] == other.dates["s2"]).all()


# ---- training ----


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 50), st.sampled_from([(30, 2), (60, 4), (90, 1), (240, 1)]))
def test_a_drawn_crop_shows_one_ground_in_all_sensors_and_labels(seed: int, epoch: int, how: tuple[int, int]) -> None:
    dataset = SceneDataset(Tiles(), spec(*how))
    sample = dataset.read(0, Visit(seed, epoch, 0))
    assert_one_ground(sample)
    west, north, east, south = corner(sample)
    assert 0 <= west < east <= TILE_M and 0 <= north < south <= TILE_M
    assert (east - west, south - north) == (how[0], how[0]) and west % S2 == north % S2 == 0


def test_all_places_and_turns_are_drawn_evenly() -> None:
    dataset = SceneDataset(Tiles(), spec(210, 1))  # 21 of 24 units: four starts in each direction
    corners, turns = [], []
    for epoch in range(600):
        sample = dataset.read(0, Visit(1, epoch, 0))
        x = sample.images["s2"][0, 0]
        corners.append(corner(sample)[:2])
        turns.append((bool(x[0, 0] != x[0, 1]), bool(x[0, 0] > x[-1, -1])))
    counts = [corners.count(place) for place in product((0.0, 10.0, 20.0, 30.0), repeat=2)]
    assert sum(counts) == 600 and min(counts) > 600 / 16 - 4 * np.sqrt(600 / 16)
    counts = [turns.count(turn) for turn in product((False, True), repeat=2)]
    assert sum(counts) == 600 and min(counts) > 150 - 4 * np.sqrt(600 * 3 / 16)


def test_a_sample_is_a_function_of_its_visit_alone() -> None:
    dataset, again = (SceneDataset(Tiles(dates=9), spec(60, 4, take=3)) for _ in range(2))
    visits = [Visit(seed, epoch, index) for seed in (0, 1) for epoch in range(3) for index in (0, 5, 20)]
    first = [dataset.read(visit.index, visit) for visit in visits]
    for visit, sample in reversed(list(zip(visits, first, strict=True))):  # in another order, by another object
        other = again.read(visit.index, visit)
        for part in ("images", "dates", "valid", "labels"):
            for name, x in getattr(sample, part).items():
                assert np.array_equal(x, getattr(other, part)[name]), (visit, part, name)
    assert len({sample.images["air"].tobytes() + sample.dates["s2"].tobytes() for sample in first}) == len(visits)


def test_a_tile_that_is_not_square_is_turned_but_never_swapped() -> None:
    values = spec(None).model_dump()
    for name, gsd in (("s2", S2), ("air", AIR)):
        values["sensors"][name]["to_px"] = values["sensors"][name]["input"]["size_px"] = (
            int(120 / gsd),
            int(240 / gsd),
        )
    dataset = SceneDataset(Tiles(height_m=120), FilesSpec.model_validate(values))
    seen = set()
    for epoch in range(40):
        sample = dataset.read(0, Visit(0, epoch, 0))
        assert_one_ground(sample)
        x, y = sample.images["s2"][0]
        assert x.shape == (12, 24) and x[0, 0] == x[1, 0]
        seen.add((bool(x[0, 0] < x[0, 1]), bool(y[0, 0] < y[1, 0])))
    assert len(seen) == 4


def test_a_place_that_lacks_a_sensor_is_cropped_by_those_it_has() -> None:
    dataset = SceneDataset(Tiles(lacking={"p": ("air",)}), spec(60, 4))
    for visit in (None, Visit(0, 3, 2)):
        lacking, whole = dataset.read(2, visit), dataset.read(18, visit)
        assert not lacking.present["air"].any() and not lacking.valid["air"].any()
        assert lacking.images["air"].shape == whole.images["air"].shape
        assert (lacking.images["s2"] == whole.images["s2"]).all()


# ---- dates ----


@pytest.mark.parametrize(("stored", "take"), [(1, 1), (2, 4), (4, 4), (9, 4), (9, 1)])
def test_dates_have_a_fixed_number_and_ascend(stored: int, take: int) -> None:
    dataset = SceneDataset(Tiles(dates=stored), spec(None, take=take))
    for visit in (None, Visit(0, 0, 0), Visit(0, 1, 0)):
        sample = dataset.read(0, visit)
        there = min(stored, take)
        assert sample.images["s2"].shape[0] == sample.dates["s2"].shape[0] == take
        assert sample.present["s2"].tolist() == [True] * there + [False] * (take - there)
        assert not sample.images["s2"][there:].any() and not sample.dates["s2"][there:].any()
        assert not sample.valid["s2"][there:].any() and sample.valid["s2"][:there].all()
        numbers = (sample.images["s2"][:there, 0, 0, 0] // 1000).astype(int)  # each image holds the number of its date
        assert (sample.dates["s2"][:there, 1] == 1 + numbers).all() and (np.diff(numbers) > 0).all()
        if stored <= take:
            assert numbers.tolist() == list(range(stored))


def test_one_date_of_each_bin_is_drawn() -> None:
    dataset = SceneDataset(Tiles(dates=9), spec(None, take=4))  # four bins of two; one date to spare, first or last
    seen = {tuple(dataset.read(0, Visit(0, epoch, 0)).dates["s2"][:, 1] - 1) for epoch in range(300)}
    assert seen == {
        tuple(start + 2 * number + pick for number, pick in enumerate(picks))
        for start in (0, 1)
        for picks in product((0, 1), repeat=4)
    }


# ---- what is refused ----


def test_a_crop_that_cuts_pixels_is_refused_with_the_remedy() -> None:
    with pytest.raises(DataError) as caught:
        SceneDataset(Tiles(), spec(65, 1)).read(0)
    assert str(caught.value) == (
        "made, p: a crop of 0.2708 of a tile is not a whole number of the 24 parts that all images of it can be cut "
        "into; choose a multiple of 1/24 of the tile"
    )


def test_a_crop_larger_than_its_tile_is_refused() -> None:
    with pytest.raises(SpecError, match="size_m 300 is more than the tile's 240"):
        spec(300, 1)


def test_images_of_another_size_name_sensor_and_both_sizes() -> None:
    values = spec(60, 4).model_dump()
    values["sensors"]["air"]["to_px"] = (100, 96)
    with pytest.raises(DataError, match=r"^p: sensor 'air' has 24 rows, its spec says 25$"):
        SceneDataset(Tiles(), FilesSpec.model_validate(values)).read(0)


# ---- from files ----


def test_crops_of_files_are_those_of_arrays_in_memory(tmp_path: Path) -> None:
    for name, gsd in (("s2", S2), ("air", AIR)):
        write_tif(tmp_path / f"{name}/p.tif", places(gsd), tiled=True, blockxsize=16, blockysize=16)
    label = np.arange(48 * 48, dtype=np.int32).reshape(1, 48, 48)
    write_tif(tmp_path / "map/p.tif", label)
    write_csv(tmp_path / "table.csv", [{"id": "p"}])
    pixels = {"kind": "pixels", "classes": [str(i) for i in range(48 * 48)], "source": {"path": "map/{id}.tif"}}
    dataset = open_files(
        tmp_path,
        crop={"size_m": 60, "tile_m": TILE_M, "cover": 4},
        sensors={"s2": sensor("s2/{id}.tif", 2, 6, to_px=24), "air": sensor("air/{id}.tif", 2, 24, to_px=96)},
        targets={"map": pixels},
    )
    memory = SceneDataset(Tiles(), spec(60, 4))
    assert len(dataset) == 16 and dataset.labels("map").shape == (16, 12, 12)
    for index, visit in ((5, None), (15, None), (0, Visit(0, 1, 0)), (0, Visit(0, 2, 0))):
        ours, theirs = dataset.read(index, visit), memory.read(index, visit)
        for name in ("s2", "air"):
            assert (ours.images[name] == theirs.images[name]).all()
        assert (ours.labels["map"] == theirs.labels["map"]).all()


# ---- windows and grids ----


def test_windows_of_common_units_cover_the_same_share_of_every_image() -> None:
    shapes = [(24, 24), (96, 96), (60, 36)]
    assert common_units(shapes) == (12, 12)
    windows = [window_of(shape, (12, 12), (3, 5), (2, 4)) for shape in shapes]
    assert windows == [Window(6, 10, 4, 8), Window(24, 40, 16, 32), Window(15, 15, 10, 12)]
    assert windows[0].slices == (slice(6, 10), slice(10, 18))
    assert Window(1, 2, 3, 4).inside(Window(10, 20, 30, 40)) == Window(11, 22, 3, 4)


def test_a_grid_in_other_pixels_has_the_same_bounds() -> None:
    turned = Grid(4, 6, (3.0, 1.0, 100.0, 0.5, -2.0, 50.0), "EPSG:32632")
    assert turned.resampled(8, 3).bounds == pytest.approx(turned.bounds)
    assert Grid(2, 3, (10.0, 0.0, 5.0, 0.0, -10.0, 7.0), "EPSG:32632").bounds == (5, -13, 35, 7)
