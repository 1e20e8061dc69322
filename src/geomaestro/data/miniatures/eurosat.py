"""A miniature of EuroSAT in the layout of Zenodo record 7711810, as RGB or with all bands.

Layout (that record; measured on real tiles unless said):
    EuroSAT_RGB/<Class>/<Class>_<n>.jpg   64 x 64 JPEG; grey level = 255 * L1C / 2750 of B04, B03, B02 (within 2)
    EuroSAT_MS/<Class>/<Class>_<n>.tif    13 bands uint16 (h, w = 64), interleaved by pixel, not packed, in a UTM zone;
                                          pixels of not quite 10 m; L1C reflectance * 10000; no band names in the file
    eurosat-{train,val,test}.txt          one `<Class>_<n>.jpg` per line, for both (Neumann et al. 2019, as TorchGeo)
The split files are no part of the Zenodo record; *assumed* is that they lie beside its folders. n counts from 1.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy import ndarray

from geomaestro.data.miniatures.sites import (
    L1C,
    SPLITS,
    Recipe,
    blocks,
    check_samples,
    claim,
    draw_land,
    random_of,
    resampled,
    strip,
    stripes,
    surface,
    to_uint16,
    top_of_atmosphere,
)

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")  # B8A last
SIDE = 64
WHITE = 2750  # L1C value of the grey level 255; measured
ZONES = (30, 31, 32, 33, 34, 35)  # UTM, north; the zones of Europe
_CEREALS = ("winter_cereal", "spring_cereal", "maize", "rapeseed")
RECIPES = {
    "AnnualCrop": Recipe(_CEREALS, 7),
    "Forest": Recipe(("broadleaf_forest", "conifer_forest"), 4),
    "HerbaceousVegetation": Recipe(("orchard", "grassland", "grassland"), 16),
    "Highway": Recipe(("grassland", "winter_cereal"), 5, "built_up", strip(7)),
    "Industrial": Recipe(("built_up",), 14),
    "Pasture": Recipe(("grassland",), 3),
    "PermanentCrop": Recipe(("orchard",), 5, "spring_cereal", stripes),
    "Residential": Recipe(("grassland", "broadleaf_forest"), 6, "built_up", blocks),
    "River": Recipe(("grassland", "broadleaf_forest"), 4, "water", strip(18)),
    "SeaLake": Recipe(("water",), 1),
}
CLASSES = tuple(RECIPES)


def write_rgb(folder: Path, samples: dict[str, int], seed: int) -> None:
    """Write EuroSAT_RGB/ and the split files; `samples` counts images by split.

    Sample i of a split depends on (seed, split, i) alone and is of class i modulo 10.

    Raises:
        DataError: if EuroSAT_RGB/ holds something, or a count is not one.
    """
    _write(folder, "EuroSAT_RGB", samples, seed, _write_jpeg)


def write_ms(folder: Path, samples: dict[str, int], seed: int) -> None:
    """Write EuroSAT_MS/ and the split files: the same land as `write_rgb` shows for the same seed.

    Raises:
        DataError: if EuroSAT_MS/ holds something, or a count is not one.
    """
    _write(folder, "EuroSAT_MS", samples, seed, _write_geotiff)


Writer = Callable[[Path, ndarray, np.random.Generator], None]


def _write(folder: Path, top: str, samples: dict[str, int], seed: int, write_image: Writer) -> None:
    check_samples(samples)
    root = claim(Path(folder) / top)
    for split in SPLITS:
        names = [_name(split, index) for index in range(samples.get(split, 0))]
        for index, (label, name) in enumerate(names):
            random = random_of(seed, split, index)
            image = _image(random, label)
            (root / label).mkdir(exist_ok=True)
            write_image(root / label / name, image, random)
        lines = "".join(f"{name}.jpg\n" for _, name in names)
        (Path(folder) / f"eurosat-{split}.txt").write_text(lines)


def _name(split: str, index: int) -> tuple[str, str]:
    """Class and `<Class>_<n>`; the numbers of a class take turns between the splits."""
    label = CLASSES[index % len(CLASSES)]
    return label, f"{label}_{len(SPLITS) * (index // len(CLASSES)) + SPLITS.index(split) + 1}"


def _image(random: np.random.Generator, label: str) -> ndarray:
    """One summer day of a class: (13, h, w) uint16 in BANDS."""
    land = draw_land(random, RECIPES[label], SIDE, SIDE)
    seen = top_of_atmosphere(random, surface(random, land, int(random.integers(120, 260))))
    order = [L1C.index("B" + band[1:].lstrip("0")) for band in BANDS]
    return to_uint16(resampled(seen, L1C))[order]


def _write_jpeg(stem: Path, image: ndarray, random: np.random.Generator) -> None:
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    colours = [BANDS.index(band) for band in ("B04", "B03", "B02")]
    grey = np.minimum(np.round(image[colours] * (255 / WHITE)), 255).astype(np.uint8)
    profile = {"driver": "JPEG", "height": SIDE, "width": SIDE, "count": 3, "dtype": "uint8", "quality": 90}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # the real JPEG files have no place either
        with rasterio.open(stem.with_suffix(".jpg"), "w", **profile) as file:
            file.write(grey)


def _write_geotiff(stem: Path, image: ndarray, random: np.random.Generator) -> None:
    import rasterio

    west_m, north_m = random.uniform(300_000, 700_000), random.uniform(4_200_000, 6_000_000)
    wide_m, high_m = random.uniform(9.98, 10.01, 2)
    profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": len(BANDS), "dtype": "uint16"}
    place = {
        "crs": f"EPSG:{32600 + int(random.choice(ZONES))}",
        "transform": rasterio.Affine(wide_m, 0, west_m, 0, -high_m, north_m),
    }
    with rasterio.open(stem.with_suffix(".tif"), "w", interleave="pixel", **profile, **place) as file:
        file.write(image)
