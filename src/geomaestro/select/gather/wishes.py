"""What a user can say on the command line of `geomaestro gather`; the texts below fields are its help."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wanted:
    """What is gathered, in place of what the recipe says."""

    region: str | None = None
    """A continent, world, a box as WEST,SOUTH,EAST,NORTH in degrees, or a .geojson file."""
    count: int | None = None
    """Places."""
    sensor: str | None = None
    """sentinel-2-l2a or sentinel-2-l1c."""
    stac: str | None = None
    """Address of a STAC API, or path of a static catalogue."""
