"""Words that file names and columns are made of, and what they tell."""

import re

SPLITS = {
    "train": ("train", "training", "tr", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "eval"),
}
LABELS = {
    *("label", "labels", "mask", "masks", "target", "targets", "gt", "annotation", "annotations", "reference", "truth"),
    *(
        "lulc",
        "lc",
        "landcover",
        "land_cover",
        "ct",
        "croptype",
        "crop_type",
        "class",
        "classes",
        "seg",
        "segmentation",
    ),
    *("lpis", "irr", "worldcover", "clc", "corine", "cdl", "nlcd", "groundtruth", "ground_truth", "lbl"),
}
CLOUDS = {"scl", "cloud", "clouds", "cloudmask", "cloud_mask", "clm", "cld", "qa60", "snow_mask", "cloudprob"}
QUALITY = {"qa", "pixel_qa", "qa_pixel", "fmask", "quality", "invalid", "dataMask", "datamask"}
HEIGHTS = {"dem", "dsm", "dtm", "elevation", "altitude", "height", "srtm", "chm", "ndsm", "copdem", "heights", "alos"}
IDS = ("id", "sample_id", "name", "patch", "patch_id", "tile", "tile_id", "fn", "file", "filename", "file_name", "path")
LONGITUDES, LATITUDES = ("lon", "longitude", "lng", "long", "x_lon"), ("lat", "latitude", "y_lat")
GEOMETRIES = ("geometry", "wkt", "geom")
DATES = ("date", "dates", "datetime", "timestamp", "acquisition_date", "time", "day", "acquired")
TIME_AXES = {"time", "t", "date", "dates", "timestamp", "timestamps", "times", "datetime", "valid_time"}
BAND_AXES = {
    "band",
    "bands",
    "channel",
    "channels",
    "c",
    "wavelength",
    "wavelengths",
    "variable",
    "feature",
    "features",
}
ROW_AXES = {"y", "lat", "latitude", "row", "rows", "height", "northing", "h"}
COL_AXES = {"x", "lon", "longitude", "col", "cols", "width", "easting", "w"}
SAMPLE_AXES = {"sample", "samples", "n", "index", "id", "ids", "patch", "pixel", "point", "points", "obs", "batch"}

_SENSOR = re.compile(
    r"(s1|s2|s3)(?![0-9])|sen(tinel)?[-_]?[123](?![0-9])|l[45789]$|l[cet]0[45789]|landsat|hls|modis|viirs|spot|planet|"
    r"pleiades|naip|aerial|ortho|rgb|rgbn|nir|optical|sar|radar|palsar|hyper|enmap|prisma|agera5|era5|weather|meteo|"
    r"climate|terrain|ndvi|multispectral|msi|image|images|img",
    re.IGNORECASE,
)
_BAND = re.compile(
    r"(b0?[1-9]|b1[0-3]|b8a|b08a|b0?9|vv|vh|hh|hv|red|green|blue|nir0?8?|nir_?2|coastal|swir_?(1|2|16|22)?|"
    r"rededge_?[1-4]?|re[1-4]|pan|tir_?[12]?|aerosol|wvp|watervapou?r|cirrus|panchromatic)",
    re.IGNORECASE,
)
DATE = re.compile(
    r"(?<![0-9])((?:19|20)\d{2})([-_]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(T\d{4,6}Z?)?(?![0-9])", re.IGNORECASE
)


def plain(text: str) -> str:
    """Lower case, with underscores between words: `S2-L2A 10m` -> s2_l2a_10m; a name that YAML and models take."""
    return re.sub(r"[^0-9a-z]+", "_", text.lower()).strip("_")


def split_of(text: str) -> str | None:
    """train, val or test, if a word means one."""
    return next((split for split, words in SPLITS.items() if text.lower() in words), None)


def is_band(text: str) -> bool:
    """Whether a word names a band."""
    return _BAND.fullmatch(text.strip()) is not None


def is_sensor(text: str) -> bool:
    """Whether a word names an instrument or product."""
    return _SENSOR.match(text) is not None or plain(text) in HEIGHTS


def has(text: str, words: set[str]) -> bool:
    """Whether a name, or one of its words, is in `words`."""
    name = plain(text)
    return name in words or bool(set(name.split("_")) & words)


def is_kind(text: str) -> bool:
    """Whether a word tells what is stored: an instrument, labels, clouds, heights."""
    return is_sensor(text) or any(has(text, words) for words in (LABELS, CLOUDS, QUALITY, HEIGHTS))


def date_format(text: str) -> str | None:
    """The strptime format of a date with underscores; None where the usual ways to write one fit."""
    found = DATE.fullmatch(text)
    return "%Y_%m_%d" if found and found.group(2) == "_" else None
