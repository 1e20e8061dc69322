"""What a user can ask `geomaestro diversity` for, as groups of options; the texts below fields are its help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Reading:
    """Which samples."""

    root: tuple[Path, ...] = ()
    """Folder of the files; one for all datasets, or one for each in order; that of the spec by default."""
    splits: tuple[str, ...] = ()
    """Which splits to read; all by default."""


@dataclass(frozen=True)
class Counting:
    """How pixel values are counted for the spectral entropy."""

    sensor: str | None = None
    """The sensor to count; the first Sentinel-2 by default, without one that of most bands."""
    bins: int = 64
    """Bins of a band's values."""
    range: str = "normalised"
    """What the bins span: normalised (8 bits, mean less to plus two deviations), image, or LOW,HIGH in the unit."""
    trim: float = 0.0
    """With --range image: percentiles left out at either end."""
    bands: tuple[str, ...] = ()
    """Bands to count; of Sentinel-2 ten by default (without B01, B09, B10), else all."""
    joint: bool = False
    """Count combinations of all bands, instead of each band for itself."""
    pooled: bool = False
    """Count the pixels of all dates together, for series of single pixels."""
    base: str = "e"
    """Base of the logarithm: e, 2 or 10."""
    least_pixels: int = 32
    """Fewer valid pixels give no entropy."""
    crops: bool = False
    """Measure the crops that tiles are cut into for evaluation, instead of whole tiles."""


@dataclass(frozen=True)
class Ground:
    """What tells biome and land cover."""

    biome: str | None = None
    """Polygons as FILE:COLUMN, rasters as FILE, FOLDER or GLOB, or stac:URL#collection/asset."""
    land_cover: str | None = None
    """The same for land cover."""
    classes: Path | None = None
    """Names of a raster's codes: a YAML of `10: tree cover`, or a CSV of code and name."""
    layer_crs: str | None = None
    """Coordinate system of a layer that names none, such as EPSG:4326."""
    footprint: Literal["majority", "centre"] = "majority"
    """The class of most pixels under a sample, or that at its centre."""
    sea: bool = False
    """Let most places lie at sea."""


@dataclass(frozen=True)
class Columns:
    """Columns of a table of places that can't be guessed."""

    lon: str | None = None
    """Column of the longitude."""
    lat: str | None = None
    """Column of the latitude."""
    column: tuple[str, ...] = ()
    """Others, as land_cover=IPCC; of id, date, split, biome, land_cover, dataset. `date=` leaves one out."""


@dataclass(frozen=True)
class Running:
    """How the work is run."""

    workers: int | None = None
    """Processes; as many as there are processors by default."""
    shard: str = "0/1"
    """Share i/n of the work, for machines that know nothing of each other."""
    engine: str = "processes"
    """processes, serial or dask (an extra)."""
    scheduler: str | None = None
    """Address of a running Dask scheduler."""
