"""Biome and land cover under samples: made polygons and rasters worked by hand, and the countries of Natural Earth."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin
from rasterio.warp import transform

from geomaestro.errors import DataError, SpecError
from geomaestro.select.layers import LayerSource, class_names, open_layer
from geomaestro.select.places import continents
from geomaestro.select.tiles import Footprints
from tests.stac_server import serving

SQUARES = {"forest": (0, 0, 10, 10), "desert": (10, 0, 20, 10), "again": (5, 5, 15, 15)}


def ground(*places: tuple[float, float], side_m: float = np.nan) -> Footprints:
    lon, lat = np.asarray(places, float).T
    return Footprints(lon, lat, np.full(len(lon), side_m), np.full(len(lon), side_m))


def names(source: LayerSource | str, where: Footprints) -> list[str]:
    return open_layer(source if isinstance(source, LayerSource) else LayerSource(source)).classes(where).tolist()


def write_polygons(path: Path, *, crs: str | None = "EPSG:4326", column: str = "biome", **more: list[str]) -> Path:
    shapes = np.asarray([shapely.box(*box) for box in SQUARES.values()])
    if crs not in (None, "EPSG:4326"):
        flat = shapely.get_coordinates(shapes)
        shapes = shapely.set_coordinates(shapes, np.stack(transform("EPSG:4326", crs, *flat.T), axis=1))
    values = {column: list(SQUARES), **more}
    driver = {".gpkg": "GPKG", ".shp": "ESRI Shapefile"}.get(path.suffix, "GeoJSON")
    with pytest.warns(UserWarning, match="crs") if crs is None else nullcontext():
        pyogrio.raw.write(
            path, shapely.to_wkb(shapes), [np.asarray(v, object) for v in values.values()], list(values),
            geometry_type="Polygon", crs=crs, driver=driver,
        )  # fmt: skip
    return path


def write_codes(path: Path, codes: np.ndarray, *, corner=(0.0, 1.0), step=0.1, crs="EPSG:4326", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"transform": from_origin(*corner, step, step), **({"crs": crs} if crs else {})}
    with rasterio.open(
        path, "w", driver="GTiff", height=codes.shape[0], width=codes.shape[1], count=1, dtype=codes.dtype, **place,
        **options,
    ) as file:  # fmt: skip
        file.write(codes, 1)
    return path


@pytest.mark.parametrize(
    ("suffix", "crs"),
    [(".geojson", "EPSG:4326"), *((s, crs) for s in (".gpkg", ".shp") for crs in ("EPSG:4326", "EPSG:3857"))],
)
def test_a_place_has_the_class_of_its_polygon_the_first_of_several(tmp_path, suffix, crs):
    path = write_polygons(tmp_path / f"p{suffix}", crs=crs)
    where = ground((2, 2), (18, 2), (7, 7), (12, 14), (-5, 5), (np.nan, 3))
    assert names(f"{path}:biome", where) == ["forest", "desert", "forest", "again", "", ""]


def test_the_only_column_and_a_usual_one_need_not_be_named(tmp_path):
    assert names(str(write_polygons(tmp_path / "one.gpkg", column="kind")), ground((2, 2))) == ["forest"]
    two = write_polygons(tmp_path / "two.gpkg", column="BIOME_NAME", realm=["x", "y", "z"])
    assert names(str(two), ground((2, 2))) == ["forest"]


def test_polygons_that_do_not_say_enough_are_refused(tmp_path):
    path = write_polygons(tmp_path / "p.gpkg", column="kind", other=["x", "y", "z"])
    with pytest.raises(DataError, match=r"p.gpkg: has no column 'biome'; it has kind, other"):
        names(f"{path}:biome", ground((2, 2)))
    with pytest.raises(DataError, match=r"say which column names the class, as p.gpkg:COLUMN; it has kind, other"):
        names(str(path), ground((2, 2)))
    with pytest.raises(SpecError, match="--classes names codes of rasters"):
        names(LayerSource(str(path), classes=tmp_path), ground((2, 2)))
    cut = tmp_path / "cut.gpkg"
    cut.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cut.gpkg: unreadable polygons, probably truncated"):
        names(str(cut), ground((2, 2)))
    with pytest.raises(DataError, match=r"gone.gpkg: no such file"):
        names(str(tmp_path / "gone.gpkg"), ground((2, 2)))


def test_polygons_without_a_coordinate_system_need_to_be_told_one(tmp_path):
    path = write_polygons(tmp_path / "p.shp", crs=None)
    with pytest.raises(DataError, match=r"p.shp: names no coordinate system; give --layer-crs"):
        names(str(path), ground((2, 2)))
    assert names(LayerSource(str(path), crs="EPSG:4326"), ground((2, 2))) == ["forest"]
    with pytest.raises(DataError, match="its coordinate system or its shapes are unreadable"):
        names(LayerSource(str(path), crs="EPSG:nonsense"), ground((2, 2)))


def test_a_bow_tie_is_mended_before_it_is_asked(tmp_path):
    tie = {"type": "Polygon", "coordinates": [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]]}
    path = tmp_path / "tie.geojson"
    feature = {"type": "Feature", "properties": {"name": "tie"}, "geometry": tie}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert names(str(path), ground((0.3, 1), (1, 0.1))) == ["tie", ""]


def test_places_in_countries_are_those_that_shapely_finds(data_dir):
    path = data_dir / "geography/ne_50m_admin_0_countries.shp"
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-180, 180, 600), np.degrees(np.arcsin(rng.uniform(-1, 1, 600)))
    where = Footprints(lon, lat, np.full(600, np.nan), np.full(600, np.nan))
    found = names(LayerSource(f"{path}:NAME", crs="EPSG:4326"), where)
    _, _, shapes, (told,) = pyogrio.raw.read(path, columns=["NAME"])
    shapes = shapely.from_wkb(shapes)
    for place, name in zip(shapely.points(lon, lat), found, strict=True):
        hits = told[shapely.contains(shapes, place)].tolist()
        assert name == (hits[0] if hits else "")
    assert 100 < sum(map(bool, found)) < 300


def test_continents_are_those_of_natural_earth_but_where_these_keep_countries_whole(data_dir):
    """Its CONTINENT goes by country: Russia is Europe, French Guiana France's. Elsewhere both agree on dry land."""
    path = data_dir / "geography/ne_50m_admin_0_countries.shp"
    rng = np.random.default_rng(1)
    lon, lat = rng.uniform(-180, 180, 4000), np.degrees(np.arcsin(rng.uniform(-0.86, 0.99, 4000)))
    where = Footprints(lon, lat, np.full(4000, np.nan), np.full(4000, np.nan))
    theirs = np.asarray(names(LayerSource(f"{path}:CONTINENT", crs="EPSG:4326"), where))
    country = np.asarray(names(LayerSource(f"{path}:NAME", crs="EPSG:4326"), where))
    ours = continents(lon, lat)
    both = (theirs != "") & ~np.isin(country, ["Russia", "Turkey", "France", "Kazakhstan"])
    assert both.sum() > 700
    assert (ours[both] == theirs[both]).mean() > 0.995
    russia = country == "Russia"
    assert set(ours[russia]) == {"Asia", "Europe"} and set(theirs[russia]) == {"Europe"}


CODES = np.asarray([[10] * 5 + [40] * 5] * 5 + [[80] * 5 + [0] * 5] * 5, np.uint8)  # quarters; 0 is nodata
NAMED = {10: "trees", 40: "crops", 80: "water"}


def with_names(folder: Path, path: Path, **settings: str) -> LayerSource:
    (folder / "names.yaml").write_text("\n".join(f"{code}: {name}" for code, name in NAMED.items()))
    return LayerSource(str(path), classes=folder / "names.yaml", **settings)


@pytest.mark.parametrize("footprint", ["majority", "centre"])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_a_place_has_the_class_of_its_pixel(tmp_path, crs, footprint):
    corner, step = ((0.0, 1.0), 0.1) if crs == "EPSG:4326" else ((0.0, 111_325.0), 11_132.0)
    path = write_codes(tmp_path / "codes.tif", CODES, crs=crs, corner=corner, step=step, nodata=0)
    where = ground((0.25, 0.75), (0.75, 0.75), (0.25, 0.25), (0.75, 0.25), (3, 3), (np.nan, np.nan))
    assert names(with_names(tmp_path, path, footprint=footprint), where) == ["trees", "crops", "water", "", "", ""]


def test_a_sample_has_the_class_of_most_pixels_under_it(tmp_path):
    codes = np.full((100, 100), 10, np.uint8)
    codes[:, 55:] = 40  # 55 columns of trees, 45 of crops
    path = write_codes(tmp_path / "codes.tif", codes, step=0.01)
    side_m = 0.2 * 111_320.0  # 20 pixels
    at = {"mostly trees": (0.54, 0.5), "mostly crops": (0.56, 0.5)}
    assert names(with_names(tmp_path, path), ground(*at.values(), side_m=side_m)) == ["trees", "crops"]
    middle = names(with_names(tmp_path, path, footprint="centre"), ground((0.549, 0.5), (0.551, 0.5), side_m=side_m))
    assert middle == ["trees", "crops"]
    # at 0.46 rows 45 to 55 the footprint 0.36 to 0.56 holds 19 columns of trees and one of crops
    counts = np.unique(codes[40:60, 36:56], return_counts=True)[1]
    assert counts.tolist() == [380, 20]
    assert names(with_names(tmp_path, path), ground((0.46, 0.5), side_m=side_m)) == ["trees"]


def test_a_sample_smaller_than_the_pixels_has_that_at_its_middle(tmp_path):
    path = write_codes(tmp_path / "codes.tif", CODES, nodata=0)
    assert names(with_names(tmp_path, path), ground((0.45, 0.95), (0.55, 0.95), side_m=10_000)) == ["trees", "crops"]


def test_tiles_beside_each_other_are_one_layer(tmp_path):
    for name, (left, top) in {"w/a": (0, 0), "w/b": (5, 0), "w/c": (0, 5), "w/d": (5, 5)}.items():
        part = CODES[top : top + 5, left : left + 5]
        write_codes(tmp_path / f"{name}.tif", part, corner=(left / 10, 1 - top / 10), nodata=0)
    where = ground((0.25, 0.75), (0.75, 0.75), (0.25, 0.25), (0.75, 0.25), (3, 3))
    for text in (tmp_path / "w", tmp_path / "w/*.tif"):
        assert names(with_names(tmp_path, text), where) == ["trees", "crops", "water", "", ""]
    astride = ground((0.45, 0.75), (0.55, 0.75), side_m=0.4 * 111_320)  # over the border of two tiles
    assert names(with_names(tmp_path, tmp_path / "w"), astride) == ["trees", "crops"]


def test_a_vrt_is_read_and_its_categories_name_the_classes(tmp_path):
    write_codes(tmp_path / "codes.tif", np.asarray([[0, 1], [2, 2]], np.uint8), step=0.5)
    (tmp_path / "codes.vrt").write_text(
        '<VRTDataset rasterXSize="2" rasterYSize="2"><SRS>EPSG:4326</SRS>'
        "<GeoTransform>0, 0.5, 0, 1, 0, -0.5</GeoTransform>"
        '<VRTRasterBand dataType="Byte" band="1"><CategoryNames><Category>sea</Category><Category>land &amp; sand'
        "</Category><Category/></CategoryNames><SimpleSource>"
        '<SourceFilename relativeToVRT="1">codes.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    where = ground((0.25, 0.75), (0.75, 0.75), (0.25, 0.25))
    assert names(str(tmp_path / "codes.vrt"), where) == ["sea", "land & sand", "code 2"]


def test_the_codes_of_worldcover_are_known_by_the_name_of_its_files(tmp_path):
    path = write_codes(tmp_path / "ESA_WorldCover_10m_2021_v200_N00E000_Map.tif", CODES, nodata=0)
    where = ground((0.25, 0.75), (0.75, 0.75), (0.25, 0.25))
    assert names(str(path), where) == ["tree cover", "cropland", "permanent water"]


def test_names_come_from_a_csv_too_and_a_code_without_one_is_refused(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("code,name\n10,trees\n40,crops\n")
    assert class_names(path) == {10: "trees", 40: "crops"}
    codes = write_codes(tmp_path / "codes.tif", CODES, nodata=0)
    with pytest.raises(DataError, match=r"names.csv: names no class for the code 80, which the raster has; add it"):
        names(LayerSource(str(codes), classes=path), ground((0.25, 0.25)))
    path.write_text("name\ntrees\n")
    class_names.cache_clear()
    with pytest.raises(DataError, match=r"names.csv: is no list of codes and names"):
        names(LayerSource(str(codes), classes=path), ground((0.25, 0.75)))


def test_rasters_that_are_no_layer_are_refused(tmp_path):
    plain = write_codes(tmp_path / "plain.tif", CODES, crs=None)
    with pytest.raises(DataError, match=r"plain.tif: names no coordinate system; give --layer-crs, such as EPSG:4326"):
        names(str(plain), ground((0.2, 0.2)))
    told = with_names(tmp_path, plain, crs="EPSG:4326")
    assert names(told, ground((0.25, 0.75))) == ["trees"]
    with pytest.raises(DataError, match=r"'EPSG:x' is no coordinate system"):
        names(LayerSource(str(plain), crs="EPSG:x"), ground((0.2, 0.2)))
    heights = write_codes(tmp_path / "heights.tif", CODES.astype(np.float32))
    with pytest.raises(
        DataError, match=r"heights.tif: has 1 band of float32; a layer of classes has one band of whole"
    ):
        names(str(heights), ground((0.2, 0.2)))
    whole = write_codes(tmp_path / "whole.tif", np.kron(CODES, np.ones((40, 40), np.uint8)), step=0.0025)
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"cut.tif: unreadable GeoTIFF, probably truncated"):
        names(str(cut), ground((0.9, 0.1)))
    with pytest.raises(DataError, match=r"nothing in it that is a layer: give polygons \(.gpkg"):
        names(str(tmp_path / "empty"), ground((0.2, 0.2)))
    with pytest.raises(SpecError, match=r"only polygons .* have columns"):
        names(f"{plain}:biome", ground((0.2, 0.2)))


def stac_item(api, name: str, path: Path, box: list[float]) -> None:
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    api.items.append(
        {
            "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "cover", "bbox": box,
            "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"datetime": "2021-01-01T00:00:00Z"},
            "assets": {"map": {"href": f"{api.url}/files/{path.name}"}}, "links": [],
        }
    )  # fmt: skip


def test_tiles_of_a_stac_collection_are_found_where_places_lie(tmp_path):
    with serving(tmp_path) as api:
        for nth in range(4):  # side by side, one degree each
            codes = np.full((10, 10), 10 * (nth + 1), np.uint8)
            path = write_codes(tmp_path / f"t{nth}.tif", codes, corner=(float(nth), 1.0))
            stac_item(api, f"t{nth}", path, [nth, 0, nth + 1, 1])
        where = ground((0.5, 0.5), (3.5, 0.5), (0.6, 0.5), (50, 50))
        found = names(f"stac:{api.url}#cover/map", where)
        assert found == ["code 10", "code 40", "code 10", ""]
        searches = sum(path.startswith("/search") for path in api.asked)
        assert searches == 3  # a cell of three degrees once, wherever its places are
        with pytest.raises(DataError, match=r"item 't0' has no asset 'other'; it has map"):
            names(f"stac:{api.url}#cover/other", where)


def test_a_stac_layer_that_fails_is_told(tmp_path):
    with pytest.raises(SpecError, match=re.escape("is not stac:URL#collection/asset, such as")):
        open_layer(LayerSource("stac:http://127.0.0.1/api"))
    with pytest.raises(DataError, match="no STAC catalogue answers there"):
        names("stac:http://127.0.0.1:9#cover/map", ground((0.5, 0.5)))
    with serving(tmp_path) as api:
        (tmp_path / "cut.tif").write_bytes(b"II*\0nothing")
        stac_item(api, "cut", tmp_path / "cut.tif", [0, 0, 1, 1])
        with pytest.raises(DataError, match=r"cut.tif: unreadable raster, probably truncated"):
            names(f"stac:{api.url}#cover/map", ground((0.5, 0.5)))
