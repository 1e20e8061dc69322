"""Made files in many layouts, and specs that describe them.

Axes: t date, c band, h row, w column, n stored band.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp

from geomaestro.config import check, merge
from geomaestro.data.files.filespec import FilesSpec
from geomaestro.data.opening import open_dataset
from geomaestro.data.sampling import SceneDataset

CRS = "EPSG:32632"
CORNER = (500_000.0, 5_600_000.0)  # west, north; on the central meridian, 9 degrees east


def write_tif(
    path: Path,
    images: np.ndarray,
    *,
    gsd: float = 10.0,
    corner: tuple[float, float] | None = CORNER,
    crs: str = CRS,
    alpha: bool = False,
    **options: Any,
) -> Path:
    """Write bands (n h w); the last one is alpha where `alpha`. Without `corner` the file has no place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {} if corner is None else {"crs": crs, "transform": rasterio.Affine(gsd, 0, corner[0], 0, -gsd, corner[1])}
    count, height, width = images.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": images.dtype}
    with quiet(), rasterio.open(path, "w", **profile, **place, **options) as file:
        if alpha:
            file.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (count - 2), ColorInterp.alpha]
        file.write(images)
    return path


def write_picture(path: Path, images: np.ndarray, driver: str, **options: Any) -> Path:
    """Write bands (n h w) of 8 bits as PNG or JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = images.shape
    profile = {"driver": driver, "count": count, "height": height, "width": width, "dtype": "uint8"}
    with quiet(), rasterio.open(path, "w", **profile, **options) as file:
        file.write(images)
    return path


def quiet() -> Any:
    """Let files be without a place."""
    import warnings

    from rasterio.errors import NotGeoreferencedWarning

    context = warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning)
    return context


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows of equal columns."""
    import csv

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def sensor(path: str, bands: int = 2, px: int | tuple[int, int] = 8, take: int = 1, **changes: Any) -> dict[str, Any]:
    """An entry of bands b0, b1, ..., as its YAML holds it."""
    values: dict[str, Any] = {
        "path": path,
        "bands": [f"b{i}" for i in range(bands)],
        "gsd_m": 10,
        "input": {"size_px": px, "patch_px": 1, "dates": take},
    }
    return merge(values, changes)


def spec_of(**values: Any) -> FilesSpec:
    """A checked spec; one sample named a, unless `samples` says another."""
    given = {"name": "made", "kind": "files", "reference_date": [2020, 1, 0], "samples": {"table": "table.csv"}}
    return check(FilesSpec, {**given, **values}, "made")


def open_files(folder: Path, *splits: str, **values: Any) -> SceneDataset:
    """The samples of a spec in `folder`; its table lists a and b unless one is there."""
    if "samples" not in values and not (folder / "table.csv").exists():
        write_csv(folder / "table.csv", [{"id": "a"}, {"id": "b"}])
    return open_dataset(spec_of(**values), folder, splits or ("all",))


def numbers(*shape: int, dtype: Any = np.uint16, seed: int = 0) -> np.ndarray:
    """Numbers that all differ, in a drawn order, so that no two places can be swapped unseen."""
    order = np.random.default_rng(seed).permutation(int(np.prod(shape)))
    return (order + 1).reshape(shape).astype(dtype)
