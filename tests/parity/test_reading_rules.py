"""Reading PASTIS-HD, FLAIR-HUB, FLAIR#2 and S2-NAIP against the official code's rules, told here a second time.

The reference reads the same files with rasterio, numpy, json, csv and sqlite3 alone. *Measured*: on miniatures and on
random numbers in their layout it equals what the official code makes of them with its draw of the first date at 0.
Left out is what the official code cannot do: fewer dates than bins, and bins without a date that is known everywhere.

Axes: t date, d chosen date, c band, h row, w column.
"""

import csv
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from geomaestro.data.miniatures.miniature import Size, write_miniature
from geomaestro.data.opening import open_dataset
from geomaestro.data.sampling import SceneDataset
from geomaestro.data.specs import load_spec
from geomaestro.nn.pixels import scale_pixels

SPLITS = ("train", "val", "test")
HUB_VOID, FLAIR2_VOID = {15, 16, 17, 18}, {1, 2, 7, 15, 16, 17, 18}


@dataclass(frozen=True)
class Part:
    """`size` of `whole` equal shares of a tile's sides, from share `row` down and `col` right."""

    row: int
    col: int
    size: int
    whole: int

    def of(self, x: np.ndarray) -> np.ndarray:
        """Its pixels (... h w)."""
        down, right = x.shape[-2] // self.whole, x.shape[-1] // self.whole
        rows = np.arange(self.row * down, (self.row + self.size) * down)
        cols = np.arange(self.col * right, (self.col + self.size) * right)
        return x[..., rows, :][..., cols]


@dataclass(frozen=True)
class Wanted:
    """What a model is to see of a sample: scaled images (d c h w) and days (d 3) by sensor, class numbers by target."""

    images: dict[str, np.ndarray]
    days: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    reference: np.ndarray


def day(text: Any) -> list[int]:
    at = datetime.strptime(str(text)[:8], "%Y%m%d")
    return [at.year, at.timetuple().tm_yday, 0]


def numbered(told: dict[str, Any]) -> np.ndarray:
    """Dates (t 3) that an object gives by number."""
    return np.array([day(told[key]) for key in sorted(told, key=int)])


def raster(path: Path, dates: int = 1) -> np.ndarray:
    """(t c h w): all bands of the first date first."""
    with rasterio.open(path) as file:
        x = file.read()
    return x.reshape(dates, -1, *x.shape[1:])


def one_per_bin(x: np.ndarray, bins: int, cloudy: np.ndarray | None = None) -> list[int]:
    """Numbers of the dates taken of images (t c h w): of each bin of equal length the one whose mean distance to the
    bin's median pixels is least, among those that are known everywhere. The dates that are left over count for nothing.
    """
    if len(x) == bins:
        return list(range(bins))
    taken, length = [], len(x) // bins
    for first in range(0, bins * length, length):
        images = x[first : first + length]
        images = images.astype(np.float64) if images.dtype.kind in "iu" else images.copy()
        fog = np.zeros((length, *x.shape[2:]), bool) if cloudy is None else cloudy[first : first + length]
        if any(not date.any() for date in fog):  # else each date has a cloud, and clouds are not looked at
            for image, veil in zip(images, fog, strict=True):
                image[:, veil] = np.nan
        middle = np.nanmedian(images, axis=0)
        far = [np.inf if np.isnan(image).any() else np.abs(image - middle).mean() for image in images]
        assert np.isfinite(far).any(), "the official code fails here"
        taken.append(first + int(np.argmin(far)))
    return taken


class Reader:
    """Takes the sensors of one sample apart."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.images: dict[str, np.ndarray] = {}
        self.days: dict[str, np.ndarray] = {}

    def add(
        self,
        name: str,
        x: np.ndarray,
        days: np.ndarray,
        *,
        bands: Sequence[int],
        bins: int = 1,
        divide: float,
        log: bool = False,
        cloudy: np.ndarray | None = None,
    ) -> None:
        if len(days) < bins:
            return
        x = self.part.of(x)[:, list(bands)]
        taken = one_per_bin(x, bins, None if cloudy is None else self.part.of(cloudy))
        values = x[taken].astype(np.float32)
        if log:
            values = np.log(np.where(values > 1e-10, values, np.float32(1e-10)))
        self.images[name], self.days[name] = values / np.float32(divide), days[taken]


def pastis(root: Path, tile: str, part: Part) -> Wanted:
    told = json.loads((root / "metadata.geojson").read_text())["features"]
    about = next(one["properties"] for one in told if one["id"] == tile)
    reader, summer = Reader(part), np.array([[2019, 182, 0]])
    spot = root / "DATA_SPOT" / "PASTIS_SPOT6_RVB_1M00_2019" / f"SPOT6_RVB_1M00_2019_{tile}.tif"
    reader.add("spot", raster(spot), summer, bands=(0, 1, 2), divide=255)
    s2 = np.load(root / "DATA_S2" / f"S2_{tile}.npy", mmap_mode="r", allow_pickle=False)
    reader.add("s2", s2, numbered(about["dates-S2"]), bands=range(10), bins=16, divide=10_000)
    for name, short in (("s1_asc", "S1A"), ("s1_des", "S1D")):
        x = np.load(root / f"DATA_{short}" / f"{short}_{tile}.npy", mmap_mode="r", allow_pickle=False)
        reader.add(name, x, numbered(about[f"dates-{short}"]), bands=(0, 1), bins=4, divide=20)
    crops = part.of(np.load(root / "ANNOTATIONS" / f"TARGET_{tile}.npy", allow_pickle=False)[0]).astype(int)
    shown = np.array([number in crops for number in range(1, 19)]).astype(int)
    labels = {"crop": np.where(crops == 19, -1, crops), "crops_present": shown}
    return Wanted(reader.images, reader.days, labels, summer[0])


def gpkg(path: Path, column: str) -> dict[str, str]:
    """Patch -> what is said of it."""
    with closing(sqlite3.connect(path)) as base:
        return dict(base.execute(f'select patch_id, {column} from "{path.stem}"'))  # noqa: S608 -- names of this test


def flair(root: Path, patch: str, part: Part, void: set[int] = HUB_VOID) -> Wanted:
    domain, area, place = patch.split("_")
    tables = root / "GLOBAL_ALL_MTD"

    def file(kind: str) -> Path:
        return root / f"{domain}_{kind}" / area / f"{domain}_{kind}_{area}_{place}.tif"

    def zone_days(sensor: str) -> np.ndarray:
        told = gpkg(tables / f"GLOBAL_{sensor}_MTD_DATES.gpkg", "acquisition_dates")
        return numbered(json.loads(next(text for name, text in told.items() if name.startswith(f"{domain}_{area}_"))))

    flown = np.array([day(gpkg(tables / "GLOBAL_AERIAL_MTD_DATES.gpkg", "date")[patch])])
    seen = np.array([day(gpkg(tables / "GLOBAL_SPOT_MTD_DATES.gpkg", "date")[patch])])
    reader = Reader(part)
    reader.add("aerial", raster(file("AERIAL_RGBI")), flown, bands=(3, 0, 1, 2), divide=255)
    reader.add("dem", raster(file("DEM_ELEV")), flown, bands=(0, 1), divide=1000)
    heights = reader.images["dem"]
    heights[:, 1] = 30 * (heights[:, 0] - heights[:, 1])
    reader.add("spot", raster(file("SPOT_RGBI")), seen, bands=(0, 1, 2, 3), divide=2000)
    days = zone_days("SENTINEL2")
    cloudy = (raster(file("SENTINEL2_MSK-SC"), len(days)) > 0).any(axis=1)
    s2 = raster(file("SENTINEL2_TS"), len(days))
    reader.add("s2", s2, days, bands=range(10), bins=16, divide=5000, cloudy=cloudy)
    for name, kind in (("s1_asc", "SENTINEL1-ASC"), ("s1_des", "SENTINEL1-DESC")):
        days = zone_days(kind)
        reader.add(name, raster(file(f"{kind}_TS"), len(days)), days, bands=(0, 1), bins=4, divide=5, log=True)
    cover, crops = (raster(file(kind))[0, 0].astype(int) for kind in ("AERIAL_LABEL-COSIA", "ALL_LABEL-LPIS"))
    labels = {"cosia": np.where(np.isin(cover, list(void)), -1, cover), "lpis": np.where(crops == 0, -1, crops)}
    return Wanted(reader.images, reader.days, labels, flown[0])


def flair2(root: Path, patch: str, part: Part) -> Wanted:
    """Classes keep their numbers of FLAIR-HUB in the official code; ours are counted without those left out."""
    wanted = flair(root, patch, part, FLAIR2_VOID)
    kept = [number for number in range(15) if number not in FLAIR2_VOID]
    cover = wanted.labels["cosia"]
    ours = np.array(
        [-1 if number < 0 else kept.index(number) for number in range(-1, 15) if number < 0 or number in kept]
    )
    order = np.searchsorted([-1, *kept], cover)
    return Wanted(wanted.images, wanted.days, {"cosia": ours[order]}, wanted.reference)


def naip(root: Path, tile: str, part: Part) -> Wanted:
    def dates(sensor: str, piece: int) -> np.ndarray:
        lines = (root / "dates" / sensor / f"{tile}.txt").read_text().split()
        return np.array([day(line.split("_")[piece]) for line in lines])

    reader, flown, photo = Reader(part), dates("naip", -1), raster(root / "naip" / f"{tile}.png")
    reader.add("aerial", photo, flown, bands=(3, 0, 1, 2), divide=255)
    reader.add("spot", photo, flown, bands=(0, 1, 2), divide=255)
    series = (
        ("s2", f"sentinel2/{tile}_stacked.tif", -5, range(10), 16, 5000),
        ("s1", f"sentinel1/{tile}.tif", -5, range(2), 4, 20),
        ("landsat", f"landsat/{tile}_stacked.tif", -4, range(11), 16, 5000),
    )
    for name, file, piece, bands, bins, divide in series:
        days = dates(name, piece)
        reader.add(name, raster(root / file, len(days)), days, bands=bands, bins=bins, divide=divide)
    return Wanted(reader.images, reader.days, {}, flown[0])


# dataset: its reference, repeats to a side, crop and tile in shares of the sides that all images have
RULES: dict[str, tuple[Callable[[Path, str, Part], Wanted], int, int, int]] = {
    "pastis_hd": (pastis, 8, 16, 128),
    "flair_hub": (flair, 1, 2, 2),
    "flair2": (flair2, 1, 2, 2),
    "s2_naip": (naip, 5, 12, 64),
}


def patchy(rng: np.random.Generator, shape: tuple[int, ...], bins: int) -> np.ndarray:
    """(t h w) True in some pixels of some dates; each full bin has a date without."""
    found = rng.random(shape) < rng.choice([0.01, 0.4], size=(shape[0], 1, 1))
    length = shape[0] // bins
    for first in range(0, bins * length, length):
        found[first + rng.integers(length)] = False
    return found


def overwrite(path: Path, x: np.ndarray) -> None:
    with rasterio.open(path) as file:
        profile = {key: file.profile[key] for key in ("driver", "crs", "transform")}
    count, height, width = x.shape
    profile |= {"count": count, "height": height, "width": width, "dtype": x.dtype.name}
    with rasterio.open(path, "w", **profile) as file:
        file.write(x)


def retold(path: Path, counts: list[int]) -> dict[str, int]:
    """Give each zone of a table of dates another number of them, in mixed order; zone -> how many."""
    zones = sorted({name.rpartition("_")[0] for name in gpkg(path, "acquisition_dates")})
    given = {zone: counts[number % len(counts)] for number, zone in enumerate(zones)}
    with closing(sqlite3.connect(path)) as base, base:
        for zone, count in given.items():
            told = {str(n): f"2021{1 + n % 12:02}{1 + n // 12:02}" for n in range(count, 0, -1)}
            base.execute(
                f'update "{path.stem}" set acquisition_dates = ? where substr(patch_id, 1, ?) = ?',  # noqa: S608
                (json.dumps(told), len(zone) + 1, zone + "_"),
            )
    return given


def harden_flair(root: Path) -> None:
    """Random numbers: just enough and uneven dates; bins that are cloudy on each date; NaN; labels of all kinds."""
    rng = np.random.default_rng(1)
    tables = root / "GLOBAL_ALL_MTD"
    optical = retold(tables / "GLOBAL_SENTINEL2_MTD_DATES.gpkg", [50, 16, 33])
    radar = {
        kind: retold(tables / f"GLOBAL_SENTINEL1-{kind}_MTD_DATES.gpkg", counts)
        for kind, counts in (("ASC", [4, 5, 30]), ("DESC", [14, 19, 4]))
    }
    for path in sorted(root.glob("*_SENTINEL2_TS/*/*.tif")):
        zone = f"{path.parent.parent.name.split('_')[0]}_{path.parent.name}"
        dates = optical[zone]
        overwrite(path, rng.integers(0, 9000, (dates * 10, 10, 10)).astype(np.uint16))
        percent = 40 * patchy(rng, (2 * dates, 10, 10), 16).reshape(dates, 2, 10, 10).astype(np.uint8)
        percent[: 2 * (dates // 16), 1, 3, 4] = 1  # the first two bins have a cloud on each date
        overwrite(Path(str(path).replace("SENTINEL2_TS", "SENTINEL2_MSK-SC")), percent.reshape(-1, 10, 10))
        for kind, given in radar.items():
            x = rng.lognormal(-2, 1, (given[zone], 2, 10, 10)).astype(np.float32)
            x[:, 0, 0, 0] = 0
            if given[zone] > 4:
                x[:, 1][patchy(rng, (given[zone], 10, 10), 4)] = np.nan
            overwrite(Path(str(path).replace("SENTINEL2_TS", f"SENTINEL1-{kind}_TS")), x.reshape(-1, 10, 10))
        for kind, count, codes in (("AERIAL_LABEL-COSIA", 1, 19), ("ALL_LABEL-LPIS", 3, 74)):
            labels = rng.integers(0, codes, (count, 512, 512)).astype(np.uint8)
            overwrite(Path(str(path).replace("SENTINEL2_TS", kind)), labels)


def harden_pastis(root: Path) -> None:
    """Unknown radar pixels in the numbers as they are stored, and every class on each map."""
    rng = np.random.default_rng(2)
    for path in sorted(root.glob("DATA_S1A/*.npy")):
        x = np.load(path, allow_pickle=False)
        x[np.broadcast_to(patchy(rng, (len(x), 128, 128), 4)[:, None], x.shape)] = np.nan
        np.save(path, x)
    for path in sorted(root.glob("ANNOTATIONS/TARGET_*.npy")):
        fields = rng.integers(0, 20, (3, 16, 16)).repeat(8, axis=1).repeat(8, axis=2)
        np.save(path, fields.astype(np.uint8))


def harden_naip(root: Path) -> None:
    """As many dates as bins of Landsat, which real tiles lack."""
    rng = np.random.default_rng(3)
    for path in sorted(root.glob("landsat/*.tif")):
        names = [f"LC08_L1TP_037036_2020{1 + n // 2:02}{1 + n:02}_20201231_02_T1" for n in range(16)]
        (root / "dates" / "landsat" / f"{path.stem.removesuffix('_stacked')}.txt").write_text("\n".join(names))
        overwrite(path, rng.integers(0, 20_000, (16 * 11, 64, 64)).astype(np.uint16))


HARDEN = {"pastis_hd": harden_pastis, "flair_hub": harden_flair, "flair2": harden_flair, "s2_naip": harden_naip}


def opened(name: str, folder: Path) -> SceneDataset:
    dataset = open_dataset(load_spec(name), folder, SPLITS)
    assert isinstance(dataset, SceneDataset)
    return dataset


def check(name: str, folder: Path, step: int) -> set[str]:
    """Compare every sample of number `step` with the reference; the names of the sensors that were."""
    reference, repeats, size, whole = RULES[name]
    dataset, compared = opened(name, folder), set()
    assert len(dataset) % repeats**2 == 0
    for index, sample_name in list(enumerate(dataset.ids()))[::step]:
        tile, _, place = sample_name.partition("/")
        down, right = divmod(index % repeats**2, repeats)
        assert place in ("", f"{down}-{right}")
        wanted = reference(folder, tile, Part(down * whole // repeats, right * whole // repeats, size, whole))
        sample = dataset.read(index)
        for sensor, images in wanted.images.items():
            scaled = scale_pixels(torch.from_numpy(np.array(sample.images[sensor]))[None], dataset.spec.sensors[sensor])
            assert scaled.shape[1:] == images.shape, (sample_name, sensor)
            log = dataset.spec.sensors[sensor].scaling.log
            assert np.allclose(scaled[0], images, rtol=1e-6 if log else 0, atol=1e-6 if log else 0), (
                sample_name,
                sensor,
            )
            assert (sample.dates[sensor] == wanted.days[sensor]).all(), (sample_name, sensor)
            assert sample.present[sensor].all() and sample.valid[sensor].all()
        for target, values in wanted.labels.items():
            assert (np.asarray(sample.labels[target]) == values).all(), (sample_name, target)
        assert (sample.reference_date == wanted.reference).all()
        assert set(sample.labels) == set(wanted.labels)
        compared |= wanted.images.keys()
    return compared


@pytest.fixture(scope="module", params=RULES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A dataset's name, and the folder of its miniature."""
    name = request.param
    folder = tmp_path_factory.mktemp("rules") / name
    write_miniature(name, folder, Size(train=1 if name == "pastis_hd" else 4, val=1, test=1))
    return name, folder


def test_samples_come_in_the_order_of_the_list_of_their_split(made: tuple[str, Path]) -> None:
    name, folder = made
    column, suffix = {"pastis_hd": ("image", ""), "s2_naip": ("name", "")}.get(name, ("patch_id", ""))
    suffix = "_flair2" if name == "flair2" else suffix
    spec = load_spec("pastis_hd_lists" if name == "pastis_hd" else name)
    for split in SPLITS:
        assert open_dataset(spec, folder, (split,)).scenes.ids() == listed(folder / f"{split}{suffix}.csv", column)
    if name == "pastis_hd":
        spec = load_spec("pastis_hd_lists", ["samples.table='{split}_fold_2.csv'"])
        assert open_dataset(spec, folder, ("test",)).scenes.ids() == listed(folder / "test_fold_2.csv", "image") != []


def listed(path: Path, column: str) -> list[str]:
    with path.open(newline="") as file:
        return [row[column] for row in csv.DictReader(file)]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_samples_are_read_by_the_rules(made: tuple[str, Path]) -> None:
    name, folder = made
    cropped = RULES[name][1] > 1
    check(name, folder, 13 if cropped else 1)
    HARDEN[name](folder)
    assert check(name, folder, 11 if cropped else 1) == set(load_spec(name).sensors)
