"""Sensors that can be gathered: their bands, and by which names catalogues have them.

Sources: the band table of ESA's Sentinel-2 documentation; asset names of Earth Search v1 and the Planetary Computer as
their items show them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownBand:
    """A band, its centre in nanometres, its ground sampling distance, and other names that catalogues give it."""

    name: str
    nm: int
    gsd_m: int
    others: tuple[str, ...]


@dataclass(frozen=True)
class KnownSensor:
    """A sensor as a catalogue's collection has it.

    `usual` are the bands that are gathered if nothing is said, in groups of similar ones; `flags` names the raster of
    classes per pixel, of which `cloudy` show no ground, `unknown` nothing at all and `water` water. `shifted`
    tells that newer processing adds 1000 to the numbers (`offsets.py`).
    """

    collection: str
    name: str
    unit: str
    bands: tuple[KnownBand, ...]
    usual: tuple[tuple[str, ...], ...]
    nodata: float = 0
    flags: tuple[str, ...] = ()
    cloudy: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    water: tuple[int, ...] = ()
    shifted: bool = False


_S2 = (
    KnownBand("B01", 443, 60, ("coastal",)),
    KnownBand("B02", 492, 10, ("blue",)),
    KnownBand("B03", 560, 10, ("green",)),
    KnownBand("B04", 665, 10, ("red",)),
    KnownBand("B05", 704, 20, ("rededge1", "rededge")),
    KnownBand("B06", 740, 20, ("rededge2",)),
    KnownBand("B07", 783, 20, ("rededge3",)),
    KnownBand("B08", 833, 10, ("nir",)),
    KnownBand("B8A", 865, 20, ("nir08",)),
    KnownBand("B09", 945, 60, ("nir09",)),
    KnownBand("B11", 1614, 20, ("swir16",)),
    KnownBand("B12", 2202, 20, ("swir22",)),
)
# The ten bands of the study and its groups, B01, B09 and B10 left out. Source: papers.md B3, from SatMAE's settings
_TEN = (("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A"), ("B11", "B12"))
_CLOUDS = {"flags": ("SCL", "scl"), "cloudy": (3, 8, 9, 10), "unknown": (0,), "water": (6,)}  # 3: shadow; 10: cirrus

SENSORS: dict[str, KnownSensor] = {
    "sentinel-2-l2a": KnownSensor("sentinel-2-l2a", "s2", "reflectance_1e4", _S2, _TEN, shifted=True, **_CLOUDS),  # type: ignore[arg-type]
    "sentinel-2-l1c": KnownSensor(
        "sentinel-2-l1c",
        "s2",
        "reflectance_1e4",
        (*_S2[:10], KnownBand("B10", 1374, 60, ("cirrus",)), *_S2[10:]),
        _TEN,
        shifted=True,
    ),
}
