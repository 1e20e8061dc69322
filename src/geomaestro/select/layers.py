"""Biome and land cover of places, from a layer that the user names: polygons, rasters, or a STAC collection.

    FILE[:column]             polygons: GeoPackage, Shapefile, GeoJSON, FlatGeobuf (extra `geo`)
    FILE, FOLDER or GLOB      rasters of class codes: GeoTIFF, COG, VRT; one, or tiles beside each other
    stac:URL#collection/asset rasters of a STAC catalogue (extra `stac`)

Axes: n place, k class.
"""

import glob
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow.csv as pa_csv

from geomaestro.config import read_yaml
from geomaestro.errors import DataError, SpecError
from geomaestro.select.tiles import Footprints, Tiles

POLYGONS = (".gpkg", ".shp", ".geojson", ".json", ".fgb")
RASTERS = (".tif", ".tiff", ".vrt")
WORLDCOVER = {
    10: "tree cover", 20: "shrubland", 30: "grassland", 40: "cropland", 50: "built-up", 60: "bare or sparse vegetation",
    70: "snow and ice", 80: "permanent water", 90: "herbaceous wetland", 95: "mangroves", 100: "moss and lichen",
}  # fmt: skip
USUAL_COLUMNS = ("BIOME_NAME", "biome", "land_cover", "class", "name")  # the first is that of RESOLVE Ecoregions
AT_ONCE = 100_000  # places; assumed
Footprint = Literal["majority", "centre"]


@dataclass(frozen=True)
class LayerSource:
    """What a user says of a layer. `footprint` "majority" takes the class of most pixels under a sample."""

    text: str
    classes: Path | None = None
    crs: str | None = None
    footprint: Footprint = "majority"

    def about(self) -> dict[str, Any]:
        """As kept beside the numbers; a local file is told by size and date of change too."""
        path = Path(self.text.partition(":")[0])
        found = path.stat() if path.is_file() else None
        return {
            "layer": self.text,
            "classes": None if self.classes is None else hashlib.sha256(self.classes.read_bytes()).hexdigest()[:16],
            "crs": self.crs,
            "footprint": self.footprint,
            "bytes": None if found is None else found.st_size,
            "changed": None if found is None else found.st_mtime_ns,
        }


class Layer(Protocol):
    """Classes on the ground."""

    def classes(self, where: Footprints) -> np.ndarray:
        """(n) str names of the classes at places; "" where the layer says nothing."""
        ...


@lru_cache(maxsize=4)
def open_layer(source: LayerSource) -> Layer:
    """Open a layer, once in a process.

    Raises:
        DataError: if there is no such file, or it is no layer.
        SpecError: if the words can't be understood, or an extra is not installed.
    """
    if source.text.startswith("stac:"):
        from geomaestro.select.stac_layer import StacTiles

        return RasterLayer(source, StacTiles.of(source.text, crs=source.crs))
    name, column = _split(source.text)
    if Path(name).suffix.lower() in POLYGONS:
        if source.classes is not None:
            raise SpecError(f"{name}: --classes names codes of rasters; polygons have names in a column")
        return PolygonLayer(Path(name), column, source.crs)
    if column is not None:
        raise SpecError(f"{source.text}: only polygons ({', '.join(POLYGONS)}) have columns")
    return RasterLayer(source, Tiles.of_files(raster_paths(name), crs=source.crs))


def _split(text: str) -> tuple[str, str | None]:
    """File and column; a colon in a file's own name is told by the suffix before it."""
    name, colon, column = text.rpartition(":")
    return (name, column) if colon and Path(name).suffix.lower() in POLYGONS + RASTERS else (text, None)


def raster_paths(name: str) -> list[str]:
    """The rasters that a file, folder or glob stands for.

    Raises:
        DataError: if there is none.
    """
    path = Path(name)
    if path.is_file() and path.suffix.lower() in RASTERS:
        return [name]
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(name, recursive=True))
    rasters = sorted(str(each) for each in found if each.suffix.lower() in RASTERS and each.is_file())
    if not rasters:
        known = f"polygons ({', '.join(POLYGONS)}) or rasters ({', '.join(RASTERS)})"
        raise DataError(f"{name}: no such file, or nothing in it that is a layer: give {known}, or stac:URL#name/asset")
    return rasters


@dataclass(frozen=True)
class PolygonLayer:
    """Polygons with a class in a column. Of several at a place the first in the file counts."""

    path: Path
    column: str | None
    crs: str | None = None

    def classes(self, where: Footprints) -> np.ndarray:
        """(n) str names at the middles of places."""
        out = np.full(len(where.lon), "", dtype=object)
        for start in range(0, len(out), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            out[part] = self._some(where.lon[part], where.lat[part])
        return out.astype(str)

    def _some(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        import shapely

        tree, names, transform = self._loaded
        out = np.full(len(lon), "", dtype=object)
        known = np.flatnonzero(np.isfinite(lon) & np.isfinite(lat))
        x, y = transform(lon[known], lat[known])
        place, polygon = tree.query(shapely.points(x, y), predicate="intersects")
        order = np.lexsort((-polygon, place))  # the first polygon is written last
        out[known[place[order]]] = names[polygon[order]]
        return out

    @cached_property
    def _loaded(self) -> tuple[Any, np.ndarray, Callable[..., Any]]:
        """Index of the polygons, their names (k), and the way from longitude and latitude to their coordinates."""
        import shapely
        from pyproj import CRS, Transformer
        from pyproj.exceptions import CRSError

        about, shapes, column, values = _read_polygons(self.path, self.column)
        crs = self.crs or about["crs"]
        if crs is None:
            raise DataError(f"{self.path}: names no coordinate system; give --layer-crs, such as EPSG:4326")
        try:
            to_layer = Transformer.from_crs("EPSG:4326", CRS.from_user_input(crs), always_xy=True)
            polygons = shapely.from_wkb(shapes)
        except (CRSError, shapely.errors.ShapelyError) as error:
            raise DataError(f"{self.path}: its coordinate system or its shapes are unreadable ({error})") from None
        named = np.asarray([value not in (None, "") for value in values])
        kept = named & ~(shapely.is_missing(polygons) | shapely.is_empty(polygons))
        if not kept.any():
            raise DataError(f"{self.path}: no polygon has a value in column {column!r}")
        polygons = shapely.make_valid(polygons[kept])
        shapely.prepare(polygons)
        names = np.asarray([_word(value) for value in values[kept]], dtype=object)
        return shapely.STRtree(polygons), names, to_layer.transform


def _word(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _read_polygons(path: Path, column: str | None) -> tuple[Mapping[str, Any], np.ndarray, str, np.ndarray]:
    """Metadata, shapes (k) as WKB, the column, and its values (k)."""
    try:
        from pyogrio import read_info
        from pyogrio.errors import DataLayerError, DataSourceError
        from pyogrio.raw import read
    except ImportError:
        raise SpecError("pyogrio reads polygons and is not installed; `pip install geomaestro[geo]`") from None
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        fields = [str(name) for name in read_info(path)["fields"]]
        column = _column(path, column, fields)
        about, _, shapes, values = read(path, columns=[column], force_2d=True)
    except (DataSourceError, DataLayerError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: unreadable polygons, probably truncated ({error}); fetch the file again") from None
    if shapes is None or not len(shapes):
        raise DataError(f"{path}: holds no polygon")
    return about, shapes, column, values[0]


def _column(path: Path, wanted: str | None, fields: Sequence[str]) -> str:
    listed = ", ".join(fields) or "none"
    if wanted is not None:
        if wanted not in fields:
            raise DataError(f"{path}: has no column {wanted!r}; it has {listed}")
        return wanted
    lower = {name.lower(): name for name in fields}
    found = next((lower[name.lower()] for name in USUAL_COLUMNS if name.lower() in lower), None)
    if found is None and len(fields) != 1:
        raise DataError(f"{path}: say which column names the class, as {path.name}:COLUMN; it has {listed}")
    return found or fields[0]


class Finder(Protocol):
    """What finds the tiles over places first."""

    def over(self, where: Footprints) -> Tiles:
        """The tiles over places."""
        ...


@dataclass(frozen=True)
class RasterLayer:
    """Rasters whose pixels are codes of classes."""

    source: LayerSource
    tiles: Tiles | Finder

    def classes(self, where: Footprints) -> np.ndarray:
        """(n) str names: of the class of most pixels under a sample, or of the pixel at its middle."""
        tiles = self.tiles if isinstance(self.tiles, Tiles) else self.tiles.over(where)
        codes, known = tiles.codes(where, majority=self.source.footprint == "majority")
        return np.asarray([self._name(code, tiles) if k else "" for code, k in zip(codes.tolist(), known, strict=True)])

    def _name(self, code: int, tiles: Tiles) -> str:
        if self.source.classes is not None:
            return _refusing(self.source.classes, class_names(self.source.classes), code)
        told = WORLDCOVER if "worldcover" in self.source.text.lower() else tiles.names
        return told.get(code, f"code {code}")


def _refusing(path: Path, names: Mapping[int, str], code: int) -> str:
    if code not in names:
        raise DataError(f"{path}: names no class for the code {code}, which the raster has; add it")
    return names[code]


@lru_cache(maxsize=4)
def class_names(path: Path) -> Mapping[int, str]:
    """Names of classes by code: a YAML mapping `10: tree cover`, or a CSV whose first columns are code and name.

    Raises:
        DataError: if the file is no such list.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; it is to name the classes, one `code: name` per line")
    try:
        pairs: Iterable[tuple[Any, Any]]
        if path.suffix.lower() in (".yaml", ".yml"):
            pairs = read_yaml(path).items()
        else:
            table = pa_csv.read_csv(path)
            pairs = zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True)
        return {int(code): str(name).strip() for code, name in pairs}
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{path}: is no list of codes and names ({error}); write `10: tree cover` per line") from None
