"""Continent, season, biome and land cover of samples whose place and date are known.

Axes: n sample.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geomaestro.select.layers import LayerSource, open_layer
from geomaestro.select.places import check_places, continents, seasons
from geomaestro.select.table import numbers, words
from geomaestro.select.tiles import Footprints

WIDTH, HEIGHT = "width_m", "height_m"  # extent of a sample on the ground


@dataclass(frozen=True)
class Layers:
    """The layers that a user names."""

    biome: LayerSource | None = None
    land_cover: LayerSource | None = None

    def about(self) -> dict[str, Any]:
        """As kept beside the numbers."""
        named = {"biome": self.biome, "land_cover": self.land_cover}
        return {name: None if layer is None else layer.about() for name, layer in named.items()}


def located(table: pa.Table, layers: Layers, *, where: str) -> pa.Table:
    """The table with continent, season, and the classes of the layers; null where nothing is known, "" at sea.

    A class that the table brings is kept where no layer is named for it, a continent where the place is unknown.

    Raises:
        DataError: if coordinates are not degrees of longitude and latitude, or a layer can't be read.
    """
    lon, lat = numbers(table, "lon"), numbers(table, "lat")
    check_places(lon, lat, where=where, names=table["id"].to_pylist())
    placed = np.isfinite(lon) & np.isfinite(lat)
    there = words(table, "continent") if "continent" in table.column_names else np.full(len(table), "")
    found = np.where(placed, continents(lon, lat), there)
    table = _with(table, "continent", found, placed | (there != ""))
    month = np.asarray(pc.month(table["date"]).cast(pa.float64()).to_numpy(), np.float64)
    table = _with(table, "season", seasons(month, lat), np.isfinite(month) & np.isfinite(lat))
    ground = Footprints(lon, lat, numbers(table, WIDTH), numbers(table, HEIGHT))
    for name, layer in (("biome", layers.biome), ("land_cover", layers.land_cover)):
        if layer is not None:
            found = open_layer(layer).classes(ground)
            table = _with(table, name, found, found != "")
        elif name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    return table


def _with(table: pa.Table, name: str, values: np.ndarray, known: np.ndarray) -> pa.Table:
    column = pa.array(values.tolist(), pa.string(), mask=~known)
    at = table.column_names.index(name) if name in table.column_names else len(table.column_names)
    return (table.remove_column(at) if name in table.column_names else table).add_column(at, name, column)
