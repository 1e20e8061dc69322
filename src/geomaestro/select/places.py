"""Where on Earth samples lie: continents, seasons, land; offline.

Continents follow time zones (tzfpy; borders within about 111 m), which know coasts, islands and territories far from
their countries; what zones mix is parted by lines. A territory goes with where it lies (French Guiana: South America),
a country on two continents as a whole (Egypt: Africa) but for Turkey and Russia, which lines part. Waters within 22 km
of a coast belong to its country's zone (measured: 33.5 % of the Earth has a continent, 29.2 % is land).
Axes: n place.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from geomaestro.errors import DataError

CONTINENTS = ("Africa", "Antarctica", "Asia", "Europe", "North America", "Oceania", "South America")
SEASONS = ("winter", "spring", "summer", "autumn")
NAMED = 3  # places that a message names

_OF_PREFIX = {
    "Africa": "Africa", "America": "North America", "Antarctica": "Antarctica", "Arctic": "Europe", "Asia": "Asia",
    "Australia": "Oceania", "Europe": "Europe", "Pacific": "Oceania", "Etc": "",
}  # fmt: skip
_OF_ZONE = {
    zone: continent
    for continent, zones in {
        "Africa": "Atlantic/Cape_Verde Atlantic/St_Helena Indian/Antananarivo Indian/Chagos Indian/Comoro Indian/Mahe "
        "Indian/Mauritius Indian/Mayotte Indian/Reunion",
        "Antarctica": "Indian/Kerguelen",
        "Asia": "Indian/Maldives",
        "Europe": "Atlantic/Azores Atlantic/Canary Atlantic/Faroe Atlantic/Madeira Atlantic/Reykjavik",
        "North America": "Atlantic/Bermuda",
        "Oceania": "Antarctica/Macquarie Indian/Christmas Indian/Cocos",
        "South America": "Atlantic/South_Georgia Atlantic/Stanley Pacific/Easter Pacific/Galapagos",
    }.items()
    for zone in zones.split()
}
_SOUTH_AMERICAN = (
    "Araguaina Asuncion Bahia Belem Boa_Vista Bogota Campo_Grande Caracas Cayenne Coyhaique Cuiaba Eirunepe Fortaleza "
    "Guayaquil Guyana La_Paz Lima Maceio Manaus Montevideo Noronha Paramaribo Porto_Velho Punta_Arenas Recife "
    "Rio_Branco Santarem Santiago Sao_Paulo"
)
ANTARCTIC_LAT = -60.0
# European Turkey lies north of this line (longitude, latitude) through the Dardanelles, Marmara and the Bosporus.
_STRAITS = ((26.18, 26.75, 27.5, 28.99, 29.13), (40.03, 40.43, 40.70, 40.98, 41.20))
# European Russia lies west of this line (latitude, longitude) along the Urals; it parts the zone of Yekaterinburg.
_URALS = (
    (51.2, 53.4, 55.0, 57.0, 59.0, 62.0, 65.0, 67.0, 68.5),
    (58.5, 59.0, 59.6, 60.0, 59.2, 59.2, 61.0, 65.5, 66.0),
)


def continents(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """(n) names of the continents of places in degrees, of `CONTINENTS`; "" at sea and where a coordinate is NaN."""
    from tzfpy import get_tz

    lon, lat = np.asarray(lon, float), np.asarray(lat, float)
    known = np.isfinite(lon) & np.isfinite(lat)
    east = np.where(known, (lon + 180) % 360 - 180, 0.0)
    zones = [get_tz(x, y) if k else "" for x, y, k in zip(east.tolist(), lat.tolist(), known.tolist(), strict=True)]
    names, which = np.unique(np.asarray(zones, dtype=str), return_inverse=True)
    out = np.asarray([_continent(name) for name in names], dtype="U13")[which]
    zone = names[which]
    turkey, ural = zone == "Europe/Istanbul", zone == "Asia/Yekaterinburg"
    asian = turkey & ((lat <= np.interp(east, *_STRAITS)) | (east > _STRAITS[0][-1]))
    out[asian] = "Asia"
    out[ural & (east < np.interp(lat, *_URALS))] = "Europe"
    out[(out != "") & (lat < ANTARCTIC_LAT)] = "Antarctica"
    return np.asarray(out)


def _continent(zone: str) -> str:
    """Of a time zone."""
    if not zone:
        return ""
    prefix, _, rest = zone.partition("/")
    if prefix == "America" and (rest in _SOUTH_AMERICAN.split() or rest.startswith("Argentina/")):
        return "South America"
    found = _OF_ZONE.get(zone, _OF_PREFIX.get(prefix))
    assert found is not None, f"time zone {zone!r} has no continent: add it to _OF_ZONE"
    return found


def seasons(month: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """(n) meteorological seasons of the hemisphere, of `SEASONS`; "" where month (1 to 12) or latitude is unknown."""
    month, lat = np.asarray(month, float), np.asarray(lat, float)
    known = (month >= 1) & (month <= 12) & np.isfinite(lat)
    quarter = np.where(known, month, 1).astype(int) % 12 // 3  # December, January, February are 0
    out = np.asarray(SEASONS)[(quarter + 2 * (lat < 0)) % 4]
    return np.asarray(np.where(known, out, ""))


def check_places(lon: np.ndarray, lat: np.ndarray, *, where: str, names: Sequence[str] | None = None) -> None:
    """Refuse coordinates that are not degrees of longitude and latitude; those that are NaN are left to the caller.

    Raises:
        DataError: naming what holds them, some of the places, and the remedy.
    """
    lon, lat = np.asarray(lon, float), np.asarray(lat, float)
    known = np.isfinite(lon) & np.isfinite(lat)
    wrong = np.flatnonzero((np.abs(lat) > 90) | (np.abs(lon) > 180))  # infinity too
    if len(wrong):
        fits = bool((np.abs(lon[wrong]) <= 90).all())
        remedy = "longitude and latitude look swapped" if fits else "give degrees, longitude from -180 to 180"
        raise DataError(f"{where}: {_some(lon, lat, wrong, names)} not on Earth: {remedy}")
    _refuse_swapped(lon[known], lat[known], where)


def _refuse_swapped(lon: np.ndarray, lat: np.ndarray, where: str) -> None:
    """Both orders may be possible coordinates; then land tells: hardly any sample is of the open sea."""
    if len(lon) == 0 or (np.abs(lon) > 90).any():
        return
    some = np.linspace(0, len(lon) - 1, min(len(lon), 1000)).astype(int)
    share, swapped = ((continents(a[some], b[some]) != "").mean() for a, b in ((lon, lat), (lat, lon)))
    if len(some) >= 5 and share < 0.5 and swapped > 0.9:
        raise DataError(
            f"{where}: {1 - share:.0%} of the places lie at sea, and {swapped:.0%} on land if longitude and latitude "
            "are swapped: name the columns the other way round"
        )


def _some(lon: np.ndarray, lat: np.ndarray, index: np.ndarray, names: Sequence[str] | None) -> str:
    told = [
        f"{'' if names is None else f'{names[i]!r} at '}longitude {lon[i]:.8g}, latitude {lat[i]:.8g}"
        for i in index[:NAMED]
    ]
    more = f" and {len(index) - NAMED} others" if len(index) > NAMED else ""
    return f"{'; '.join(told)}{more} {'is' if len(index) == 1 else 'are'}"


@lru_cache(maxsize=2)
def land_grid(step_deg: float = 1.0) -> np.ndarray:
    """(rows cols) bool of the whole Earth in cells of `step_deg`, north first; True where a continent is."""
    rows, cols = round(180 / step_deg), round(360 / step_deg)
    lat, lon = 90 - step_deg * (np.arange(rows) + 0.5), -180 + step_deg * (np.arange(cols) + 0.5)
    grid_lon, grid_lat = (x.ravel() for x in np.meshgrid(lon, lat))
    return (continents(grid_lon, grid_lat) != "").reshape(rows, cols)
