"""Continents, seasons and impossible coordinates, against hand-worked places and Natural Earth's countries."""

import re

import numpy as np
import pytest

from geomaestro.errors import DataError
from geomaestro.select.places import CONTINENTS, check_places, continents, land_grid, seasons

HARD = {  # what a map says; islands, territories far from their countries, and countries on two continents
    "Réunion": (55.5, -21.1, "Africa"),
    "French Guiana": (-53.0, 4.0, "South America"),
    "Sinai": (33.8, 29.5, "Africa"),
    "Istanbul, Fatih": (28.95, 41.02, "Europe"),
    "Istanbul, Kadıköy": (29.03, 40.99, "Asia"),
    "Ankara": (32.85, 39.92, "Asia"),
    "Gallipoli": (26.67, 40.42, "Europe"),
    "Çanakkale": (26.42, 40.14, "Asia"),
    "Edirne": (26.56, 41.67, "Europe"),
    "Novosibirsk": (82.9, 55.0, "Asia"),
    "Moscow": (37.6, 55.75, "Europe"),
    "Perm": (56.2, 58.0, "Europe"),
    "Ufa": (55.95, 54.73, "Europe"),
    "Chelyabinsk": (61.4, 55.16, "Asia"),
    "Yekaterinburg": (60.6, 56.84, "Asia"),
    "Vladivostok": (131.9, 43.15, "Asia"),
    "Kaliningrad": (20.5, 54.7, "Europe"),
    "Hawaii": (-155.5, 19.6, "Oceania"),
    "Alaska": (-150.0, 64.0, "North America"),
    "Greenland": (-42.0, 70.0, "North America"),
    "Iceland": (-19.0, 65.0, "Europe"),
    "Svalbard": (16.0, 78.5, "Europe"),
    "Port Moresby": (147.2, -9.45, "Oceania"),
    "Jayapura": (140.6, -2.7, "Asia"),
    "Timor-Leste": (125.6, -8.6, "Asia"),
    "Lesbos": (26.3, 39.2, "Europe"),
    "Cyprus": (33.3, 35.1, "Asia"),
    "Canary Islands": (-16.6, 28.3, "Europe"),
    "Azores": (-25.5, 37.8, "Europe"),
    "Madagascar": (47.0, -19.0, "Africa"),
    "South Pole": (0.0, -90.0, "Antarctica"),
    "Antarctic Peninsula": (-63.0, -66.0, "Antarctica"),
    "McMurdo": (166.7, -77.85, "Antarctica"),
    "Galápagos": (-91.0, -0.5, "South America"),
    "Panama": (-80.0, 8.5, "North America"),
    "Medellín": (-75.6, 6.2, "South America"),
    "Trinidad": (-61.3, 10.4, "North America"),
    "Falklands": (-59.0, -51.8, "South America"),
    "Fiji east of 180": (-179.9, -16.8, "Oceania"),
    "Chukotka west of 180": (-175.0, 66.5, "Asia"),
    "Tasmania": (146.5, -42.0, "Oceania"),
    "Maldives": (73.51, 4.175, "Asia"),
    "Cape Verde": (-23.6, 15.1, "Africa"),
    "Bermuda": (-64.78, 32.3, "North America"),
    "Tbilisi": (44.8, 41.7, "Asia"),
    "Punta Arenas": (-70.9, -53.1, "South America"),
    "Ushuaia": (-68.3, -54.75, "South America"),
    "mid-Atlantic": (-30.0, 0.0, ""),
    "mid-Pacific": (-140.0, -30.0, ""),
    "North Pole": (10.0, 89.5, ""),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_places_lie_on_their_continent(name):
    lon, lat, wanted = HARD[name]
    assert continents(np.array([lon]), np.array([lat])).tolist() == [wanted]


def test_longitudes_beyond_180_are_the_same_place_and_nan_is_nowhere():
    assert continents(np.array([190.0, np.nan]), np.array([66.0, 0.0])).tolist() == ["Asia", ""]


def test_every_time_zone_has_a_continent():
    from tzfpy import timezonenames

    from geomaestro.select.places import _continent

    found = {zone: _continent(zone) for zone in timezonenames()}
    assert {name for zone, name in found.items() if not zone.startswith("Etc/")} == set(CONTINENTS)
    assert {zone.split("/")[0] for zone, name in found.items() if not name} == {"Etc"}


def test_seasons_are_those_of_the_month_and_hemisphere():
    months = np.arange(1, 13)
    north = ["winter"] * 2 + ["spring"] * 3 + ["summer"] * 3 + ["autumn"] * 3 + ["winter"]
    south = ["summer"] * 2 + ["autumn"] * 3 + ["winter"] * 3 + ["spring"] * 3 + ["summer"]
    assert seasons(months, np.full(12, 45.0)).tolist() == north
    assert seasons(months, np.full(12, -45.0)).tolist() == south
    assert seasons(np.array([0, 7, np.nan]), np.array([10.0, np.nan, 10.0])).tolist() == ["", "", ""]


def test_coordinates_off_the_earth_are_refused():
    with pytest.raises(
        DataError, match=re.escape("sites.csv: 'b' at longitude 45, latitude 120 is not on Earth: longitude and")
    ):
        check_places(np.array([9.0, 45.0]), np.array([45.0, 120.0]), where="sites.csv", names=["a", "b"])
    with pytest.raises(DataError, match="longitude 500000, latitude 5000000 is not on Earth: give degrees"):
        check_places(np.array([500000.0]), np.array([5e6]), where="sites.csv")


def test_swapped_coordinates_that_are_possible_are_told_by_the_sea():
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-55, -45, 200), rng.uniform(-15, -5, 200)  # Brazil; swapped, the South Atlantic
    check_places(lon, lat, where="sites.csv")
    with pytest.raises(DataError, match="on land if longitude and latitude are swapped"):
        check_places(lat, lon, where="sites.csv")


def test_missing_coordinates_are_left_to_the_caller():
    check_places(np.array([np.nan]), np.array([np.nan]), where="sites.csv")


def test_land_covers_about_the_known_share_of_the_earth():
    land = land_grid(1.0)
    weight = np.cos(np.radians(89.5 - np.arange(180)))[:, None] * np.ones(360)
    assert land.shape == (180, 360)
    # 29.2 % of the surface is land; 22 km of water along all coasts come to it
    assert 0.29 < (land * weight).sum() / weight.sum() < 0.35
    assert land[89 - 45, 180 + 8]  # Turin, 45 N 8 E
    assert not land[90 + 30, 180 - 140]
