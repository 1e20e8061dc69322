"""Rasters of a STAC catalogue as a layer of classes: items are looked for where places lie, cell by cell.

Axes: n place.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geomaestro.errors import DataError, SpecError
from geomaestro.select.tiles import Footprints, Tile, Tiles

CELL_DEG = 3.0  # assumed; places of one cell are asked for together, and a cell once
TIMEOUT_S = 60  # assumed; of an answer of the catalogue
BEYOND_DEG = 0.05  # assumed; half a sample may stand out of its cell


@dataclass
class StacTiles:
    """One asset of the items of a collection. What was found for a cell is kept."""

    url: str
    collection: str
    asset: str
    crs: str | None = None
    cells: dict[tuple[int, int], list[Tile]] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, *, crs: str | None = None) -> "StacTiles":
        """From stac:URL#collection/asset.

        Raises:
            SpecError: if it is not written so.
        """
        url, _, rest = text.removeprefix("stac:").partition("#")
        collection, _, asset = rest.partition("/")
        if not (url and collection and asset):
            raise SpecError(
                f"{text!r} is not stac:URL#collection/asset, such as stac:https://host/api#esa-worldcover/map"
            )
        return cls(url, collection, asset, crs)

    def over(self, where: Footprints) -> Tiles:
        """The tiles of all cells that hold places, each once."""
        known = np.isfinite(where.lon) & np.isfinite(where.lat)
        places = np.stack([where.lon[known], where.lat[known]], axis=1)
        cells = np.unique(np.floor(places / CELL_DEG).astype(int), axis=0)
        missing = [cell for cell in map(tuple, cells.tolist()) if cell not in self.cells]
        if missing:
            client = self._client()
            for col, row in missing:
                self.cells[col, row] = self._search(client, col, row)
        found = {tile.path: tile for cell in map(tuple, cells.tolist()) for tile in self.cells[cell]}
        return Tiles([found[path] for path in sorted(found)], crs=self.crs)

    def _client(self) -> Any:
        try:
            from pystac_client import Client
        except ImportError:
            raise SpecError("pystac-client is not installed; `pip install geomaestro[stac]`") from None
        try:
            return Client.open(self.url, timeout=TIMEOUT_S)
        except Exception as error:  # whatever requests, json and pystac raise
            raise DataError(f"{self.url}: no STAC catalogue answers there ({error})") from None

    def _search(self, client: Any, col: int, row: int) -> list[Tile]:
        west, south = col * CELL_DEG - BEYOND_DEG, row * CELL_DEG - BEYOND_DEG
        side = CELL_DEG + 2 * BEYOND_DEG
        box = [max(west, -180), max(south, -90), min(west + side, 180), min(south + side, 90)]
        try:
            items = list(client.search(collections=[self.collection], bbox=box).items())
        except Exception as error:  # as above
            raise DataError(f"{self.url}: search in collection {self.collection!r} failed ({error})") from None
        tiles = []
        for item in items:
            if self.asset not in item.assets:
                known = ", ".join(item.assets) or "none"
                raise DataError(f"{self.url}: item {item.id!r} has no asset {self.asset!r}; it has {known}")
            href = item.assets[self.asset].get_absolute_href() or item.assets[self.asset].href
            tiles.append(Tile(href.removeprefix("file://"), tuple(item.bbox)))
        return tiles
