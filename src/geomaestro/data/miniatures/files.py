"""Files of the miniatures: GeoTIFF, PNG, GeoPackage and lists of samples. The same input gives the same bytes."""

import csv
import json
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy import ndarray

Corner = tuple[float, float]
"""West and north edge of an image, metres."""
Row = tuple[str, str, Corner, float]
"""Patch, what is said of it, its corner and side in metres."""

GPKG_ID, GPKG_VERSION = 0x47504B47, 10200
GPKG_TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER NOT NULL PRIMARY KEY,
  organization TEXT NOT NULL, organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
  description TEXT DEFAULT '', last_change DATETIME NOT NULL, min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE,
  srs_id INTEGER REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL REFERENCES gpkg_contents(table_name),
  column_name TEXT NOT NULL, geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL
  REFERENCES gpkg_spatial_ref_sys(srs_id), z TINYINT NOT NULL, m TINYINT NOT NULL,
  PRIMARY KEY (table_name, column_name));
"""


def write_geotiff(path: Path, bands: ndarray, *, epsg: int, corner: Corner, gsd_m: float) -> None:
    """Write (c, h, w) as a deflated GeoTIFF, band after band, north up."""
    import rasterio

    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": bands.dtype.name}
    packing = {"compress": "deflate", "zlevel": 1, "predictor": 3 if bands.dtype.kind == "f" else 2}
    transform = rasterio.Affine(gsd_m, 0, corner[0], 0, -gsd_m, corner[1])
    with rasterio.open(path, "w", crs=f"EPSG:{epsg}", transform=transform, **profile, **packing) as file:
        file.write(bands)


def write_png(path: Path, image: ndarray) -> None:
    """Write (h, w, 4) uint8 as an RGBA PNG; each row is stored as differences to its left (filter 1)."""
    height, width, _ = image.shape
    left = np.zeros_like(image)
    left[:, 1:] = image[:, :-1]
    rows = np.concatenate([np.ones((height, 1), np.uint8), (image - left).reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 3)), (b"IEND", b"")):
            checksum = zlib.crc32(kind + content)
            file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum))


def write_list(path: Path, column: str, names: Iterable[str]) -> None:
    """Write a csv of one column."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([[column], *([name] for name in names)])


def write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def write_geopackage(path: Path, column: str, rows: Sequence[Row], *, epsg: int) -> None:
    """Write squares with a `patch_id` and one more text column as a GeoPackage of one layer, named as the file."""
    from pyproj import CRS

    layer, wkt = path.stem, CRS.from_epsg(epsg).to_wkt("WKT1_GDAL")
    frame = _bounds([row[2:] for row in rows]) if rows else (None,) * 4
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as base:
        base.execute(f"PRAGMA application_id = {GPKG_ID}")
        base.execute(f"PRAGMA user_version = {GPKG_VERSION}")
        base.executescript(GPKG_TABLES)
        systems = [
            ("Undefined cartesian SRS", -1, "NONE", -1, "undefined", None),
            ("Undefined geographic SRS", 0, "NONE", 0, "undefined", None),
            ("WGS 84", 4326, "EPSG", 4326, CRS.from_epsg(4326).to_wkt("WKT1_GDAL"), None),
            (f"EPSG {epsg}", epsg, "EPSG", epsg, wkt, None),
        ]
        base.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, ?)", systems)
        content = (layer, "features", layer, "", "2025-01-01T00:00:00.000Z", *frame, epsg)
        base.execute("INSERT INTO gpkg_contents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", content)
        base.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'POLYGON', ?, 0, 0)", (layer, epsg))
        base.execute(
            f'CREATE TABLE "{layer}" (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom POLYGON, '
            f'"patch_id" TEXT, "{column}" TEXT)'
        )
        filled = [(_blob(corner, side_m, epsg), patch, text) for patch, text, corner, side_m in rows]
        insert = f'INSERT INTO "{layer}" (geom, "patch_id", "{column}") VALUES (?, ?, ?)'  # noqa: S608 - our names
        base.executemany(insert, filled)
        base.commit()


def _bounds(squares: Sequence[tuple[Corner, float]]) -> tuple[float, float, float, float]:
    west, south = (min(values) for values in zip(*[(c[0], c[1] - side) for c, side in squares], strict=True))
    east, north = (max(values) for values in zip(*[(c[0] + side, c[1]) for c, side in squares], strict=True))
    return west, south, east, north


def _blob(corner: Corner, side_m: float, epsg: int) -> bytes:
    """A square as a GeoPackage geometry: a little-endian header without envelope, then well-known binary."""
    west, north = corner
    east, south = west + side_m, north - side_m
    ring = [(west, north), (west, south), (east, south), (east, north), (west, north)]
    points = b"".join(struct.pack("<dd", *point) for point in ring)
    return struct.pack("<2sBBi", b"GP", 0, 1, epsg) + struct.pack("<BIII", 1, 3, 1, len(ring)) + points
