"""Places drawn for gathering: uniform on land, the same for all who draw them, and never overlapping."""

from datetime import date

import numpy as np
import pytest

from geomaestro.errors import SpecError
from geomaestro.select.gather.cells import EARTH_M, Cells
from geomaestro.select.gather.dates import Dates, intervals_of
from geomaestro.select.gather.drawing import Drawing, split_of
from geomaestro.select.gather.draws import Permutation, uniform
from geomaestro.select.gather.faults import Unusable
from geomaestro.select.gather.offsets import Offset, offset_of, without_offset
from geomaestro.select.gather.planning import GatherPlan
from geomaestro.select.gather.regions import region_of
from geomaestro.select.gather.spec import load_gather
from geomaestro.select.places import CONTINENTS, continents

ALL = ("africa", "asia", "europe", "north_america", "oceania", "south_america")


def drawing(region: str, **more: float) -> Drawing:
    values = {"seed": 0, "spacing_m": 1600.0, "patch_m": 1500.0, "per_part": 256, "reserve": 3, **more}
    return Drawing(region_of(region), **values)  # type: ignore[arg-type]


def metres_apart(lon: np.ndarray, lat: np.ndarray) -> float:
    """Least distance of any two places on the sphere, by the chord."""
    from scipy.spatial import cKDTree

    a, b = np.radians(lon), np.radians(lat)
    points = np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], axis=1) * EARTH_M
    return float(cKDTree(points).query(points, k=2)[0][:, 1].min())


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_a_permutation_meets_every_number_once(size: int) -> None:
    assert sorted(Permutation(7, size)(np.arange(size)).tolist()) == list(range(size))


def test_a_part_of_a_permutation_is_known_without_the_rest() -> None:
    turn = Permutation(3, 10_000)
    assert np.array_equal(turn(np.arange(10_000))[500:600], turn(np.arange(500, 600)))
    assert not np.array_equal(turn(np.arange(100)), Permutation(4, 10_000)(np.arange(100)))


def test_draws_are_uniform_and_independent_between_streams() -> None:
    a, b = (uniform(1, np.arange(100_000), stream) for stream in (0, 1))
    counts = np.histogram(a, 100, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 148.2  # chi-square of 99 degrees of freedom at 0.999
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.015
    assert 0 <= a.min() < a.max() < 1


def test_cells_are_of_one_area_and_wide_enough() -> None:
    cells = Cells.within([(-180, -90, 180, 90)], 50_000)
    assert len(cells) == pytest.approx(4 * np.pi * EARTH_M**2 / 50_000**2, rel=0.01)
    numbers = np.arange(len(cells))
    south, north = (cells.places(numbers, np.zeros(1), np.asarray([up]))[1] for up in (0.0, 1.0))
    west, east = (cells.places(numbers, np.asarray([right]), np.zeros(1))[0] for right in (0.0, 1.0))
    area = np.radians(east - west) * (np.sin(np.radians(north)) - np.sin(np.radians(south))) * EARTH_M**2
    middle = np.abs(south) < 70
    assert area[middle].max() / area[middle].min() < 1.06
    narrow = np.minimum(np.cos(np.radians(south)), np.cos(np.radians(north))) * np.radians(east - west) * EARTH_M
    assert narrow[np.abs(south) < 89].min() > 49_990


def test_boxes_hold_all_places_of_their_continents() -> None:
    numbers = np.arange(300_000)
    lon, lat = 360 * uniform(1, numbers, 0) - 180, np.degrees(np.arcsin(2 * uniform(1, numbers, 1) - 1))
    found = continents(lon, lat)
    for name in CONTINENTS:
        inside = np.zeros(len(lon), bool)
        for west, south, east, north in region_of(name.lower()).boxes:
            inside |= (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
        assert not (~inside & (found == name)).any(), name


@pytest.mark.parametrize("region", [*ALL, "world"])
def test_places_lie_in_their_continent_and_apart(region: str) -> None:
    places = [place for part in (0, 1, 7) for place in drawing(region).candidates(part)]
    lon, lat = (np.asarray([getattr(place, name) for place in places]) for name in ("lon", "lat"))
    name = region.replace("_", " ").title()
    assert set(continents(lon, lat)) <= ({name} if region != "world" else set(CONTINENTS))
    assert len({place.id for place in places}) == len(places)
    assert metres_apart(lon, lat) > 1400


def test_neighbouring_cells_keep_their_patches_apart() -> None:
    spec = load_gather(None, (), {"region": (10.0, 48.0, 10.3, 48.2), "count": 100, "stac": "x", "reserve": 0.3})
    (drawn,) = spec.drawings()
    places = drawn.candidates(0)
    assert len(places) > 150, "nearly every cell of the box"
    lon, lat = (np.asarray([getattr(place, name) for place in places]) for name in ("lon", "lat"))
    turned_m = 960 * 2**0.5  # a patch reaches no further from its middle than half of this
    assert metres_apart(lon, lat) > turned_m


def test_places_are_uniform_by_area() -> None:
    places = drawing("world", spacing_m=30_000.0, per_part=20_000, reserve=0).candidates(0)
    lat = np.asarray([place.lat for place in places])
    numbers = np.arange(200_000)
    free_lon, free_lat = 360 * uniform(9, numbers, 0) - 180, np.degrees(np.arcsin(2 * uniform(9, numbers, 1) - 1))
    free_lat = free_lat[continents(free_lon, free_lat) != ""]
    edges = np.arange(-90, 91, 15)
    a, b = (np.histogram(x, edges)[0] / len(x) for x in (lat, free_lat))
    assert np.abs(a - b).max() < 0.01


def test_a_larger_set_begins_with_the_smaller() -> None:
    def ids(count: int) -> list[tuple[int, int, int]]:
        spec = load_gather(None, (), {"region": ["europe", "asia"], "count": count, "stac": "x"})
        return [(part.number, part.region, part.part) for part in GatherPlan.of(spec).parts]

    assert ids(5000)[: len(ids(2001))] == ids(2001)
    assert drawing("europe").candidates(3) == drawing("europe").candidates(3)
    assert drawing("europe").candidates(3) != drawing("europe", seed=1).candidates(3)


def test_the_recipes_of_the_study_are_sets_of_equal_size() -> None:
    from pathlib import Path

    folder = Path(__file__).parents[1] / "recipes" / "gather"
    for name in ALL:
        spec = load_gather(folder / f"{name}.yaml", (), {})
        assert (spec.regions, spec.count, spec.size_px, spec.gsd_m) == ((name,), 700_000, 96, 10)
        assert spec.name == name
    whole = load_gather(folder / "global.yaml", (), {})
    assert set(whole.regions) == set(ALL)
    plan = GatherPlan.of(whole)
    counts = [sum(part.count for part in plan.parts if part.region == k) for k in range(6)]
    assert counts == [116_667] * 6


def test_dates_are_drawn_from_years_and_seasons_of_the_hemisphere() -> None:
    how = Dates(years=(2019, 2021), seasons=("summer",), window_days=30, intervals=4)
    for key in range(60):
        for lat, months in ((50.0, {6, 7, 8}), (-30.0, {12, 1, 2})):
            for interval in intervals_of(how, key, lat):
                assert {interval.first.year, interval.last.year} <= {2019, 2021}
                assert (interval.last - interval.first).days <= 29
                numbers = range(interval.first.toordinal(), interval.last.toordinal() + 1)
                days = [day for day in map(date.fromordinal, numbers) if interval.holds(day)]
                assert days
                assert {d.month for d in days} <= months


def test_all_days_are_drawn_alike() -> None:
    how = Dates(ranges=((date(2019, 1, 1), date(2019, 12, 31)),), window_days=1, intervals=1)
    days = [intervals_of(how, key, 0.0)[0].first.timetuple().tm_yday for key in range(7300)]
    counts = np.histogram(days, 73, (0.5, 365.5))[0]
    assert ((counts - 100) ** 2 / 100).sum() < 114.8  # chi-square of 72 degrees of freedom at 0.999


def test_a_block_of_ground_is_of_one_split() -> None:
    splits = {split_of(10.1 + x / 100, 48.1 + x / 100, 3, 0.5, 1.0) for x in range(80)}
    assert len(splits) == 1
    drawn = [split_of(lon + 0.5, lat + 0.5, 0, 0.05, 1.0) for lon in range(-180, 180, 2) for lat in range(-60, 60, 2)]
    assert drawn.count("val") / len(drawn) == pytest.approx(0.05, abs=0.007)


BANDS = {"B02": {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}}


@pytest.mark.parametrize(
    ("told", "assets", "said", "dn"),
    [
        ({"s2:processing_baseline": "02.14"}, {}, "auto", 0),
        ({"s2:processing_baseline": "04.00"}, {}, "auto", 1000),
        ({"s2:processing_baseline": "05.11", "earthsearch:boa_offset_applied": True}, BANDS, "auto", 0),
        ({"s2:processing_baseline": "05.11", "earthsearch:boa_offset_applied": False}, BANDS, "auto", 1000),
        ({"processing:version": "05.09"}, BANDS, "auto", 1000),
        ({}, BANDS, "auto", 1000),
        ({}, {"B02": {"bands": [{"raster:scale": 0.0001, "raster:offset": 0}]}}, "auto", 0),
        ({"s2:processing_baseline": "99.99"}, {}, 1000, 1000),
    ],
)
def test_offsets_are_told_by_items(told: dict, assets: dict, said: int | str, dn: int) -> None:
    assert offset_of({"id": "x", "properties": told}, assets, said).dn == dn


@pytest.mark.parametrize(
    ("told", "assets", "words"),
    [
        ({"s2:processing_baseline": "99.99"}, {}, "item x: is of baseline 99.99 and no raster:bands"),
        ({"s2:processing_baseline": "03.01"}, BANDS, "baseline 03.01 means an offset of 0, raster:bands 1000"),
        ({}, {**BANDS, "B03": {"raster:bands": [{"scale": 0.0001, "offset": 0}]}}, "tell different offsets"),
    ],
)
def test_an_offset_is_never_guessed(told: dict, assets: dict, words: str) -> None:
    with pytest.raises(Unusable, match=words):
        offset_of({"id": "x", "properties": told}, assets, "auto")


def test_numbers_never_become_nodata_or_wrap_round() -> None:
    images = np.asarray([[[0, 1, 999, 1000, 1001, 65535]]], np.uint16)
    out = without_offset(images, images[0] == 0, Offset(1000, "05.00", "x"), 0)
    assert out.tolist() == [[[0, 1, 1, 1, 1, 64535]]]
    assert out.dtype == np.uint16


def test_a_region_across_the_date_line_is_two_boxes() -> None:
    assert region_of("170,-20,-170,-10").boxes == ((170.0, -20.0, 180.0, -10.0), (-180.0, -20.0, -170.0, -10.0))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("atlantis", "region 'atlantis' is none of world"),
        ("10,20,30", "a box is four numbers"),
        ("48,100,49,101", "longitude and latitude look swapped"),
        ("no.geojson", "no.geojson: no such file of polygons"),
    ],
)
def test_a_region_that_is_none_is_told(said: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        region_of(said)


def test_a_spec_needs_somewhere_to_gather_from() -> None:
    with pytest.raises(SpecError, match="stac: required, but not given"):
        load_gather(None, (), {"region": "europe", "count": 3})
    spec = load_gather(None, ("dates.years=[2022]",), {"region": "europe", "count": 3, "stac": "x"})
    assert spec.dates.years == (2022,)
