"""Corrupt real tiles in every way and count what the fingerprint says: `python -m benchmarks.fingerprint DATA`.

The table of scenes that band orders are judged by is refitted without the tiles it is tried on (8 folds; a scene of
TerraMesh, seen by two products, and all of EuroSAT stay together). `--fit` prints the table from all tiles, as in
src/geomaestro/data/quality/spectra.py.

Axes: n image, c band, h row, w column, s sample, k component.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import rasterio
from numpy import ndarray

from geomaestro.data.quality.bandstats import Statistics, Summary, measure
from geomaestro.data.quality.fingerprint import judge
from geomaestro.data.quality.spectra import BANDS, SCENES, Scenes
from geomaestro.sensors import Sensor

L1C = (*BANDS[:10], "B10", *BANDS[10:])
EUROSAT = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
TREESAT = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
# measured: cirrus (L1C) or infrared over water (74721, 8845) lies at 1000; 57755 and 766272 have no darker pixel
CARRIES_OFFSET = {
    "282D_485L_3_3 L1C",
    "609U_541L_3_0 L1C",
    "patch_74721",
    "patch_8845",
    "patch_57755",
    "patch_766272",
}
FOLDS = 8
COMPONENTS = 3
RIDGE = 2e-4  # assumed; of a mean variance of 1


@dataclass(frozen=True, eq=False)
class Tile:
    """One or more images (n c h w) of a place."""

    dataset: str
    name: str
    bands: tuple[str, ...]
    images: ndarray
    unit: str = "reflectance_1e4"
    weight: float = 1.0

    @property
    def place(self) -> str:
        """What must not be fitted and tried apart."""
        return self.dataset if self.dataset.startswith(("eurosat", "worldcereal")) else self.name.split(" ")[0]

    def sensor(self, **changes: object) -> Sensor:
        return Sensor.model_validate({"bands": self.bands, "gsd_m": 10, "unit": self.unit} | changes)


def read_tif(path: Path) -> ndarray:
    with rasterio.open(path) as source:
        return np.asarray(source.read())[None]


def read_tiles(data: Path) -> Iterator[Tile]:
    """The tiles that are corrupted."""
    for path in sorted(data.glob("s2_global/*.tif")):
        yield Tile("s2_global", path.stem, BANDS, read_tif(path))
    for kind, bands in (("S2L2A", BANDS), ("S2L1C", L1C)):
        for path in sorted(data.glob(f"terramesh/{kind}/*.tif")):
            yield Tile(f"terramesh {kind[2:]}", f"{path.stem} {kind[2:]}", bands, read_tif(path))
    for path in sorted(data.glob("eurosat_ms/*/*.tif")):
        yield Tile("eurosat_ms", path.stem, EUROSAT, read_tif(path))
    for path in sorted(data.glob("terramesh/S1RTC/*.tif")):
        yield Tile("terramesh S1", f"{path.stem} S1", ("VV", "VH"), read_tif(path), "dB")


def read_series(data: Path) -> Iterator[Tile]:
    """Series that only help to fit the table, and that false alarms are counted on."""
    import h5py

    for path in sorted(data.glob("treesatai_ts/sentinel-ts/*.h5")):
        with h5py.File(path) as file:
            yield Tile("treesatai_ts", path.stem, TREESAT, file["sen-2-data"][...], weight=4.0)
    for path in sorted(data.glob("worldcereal_cubes/*/S2_L2A_10m*.nc")):
        with h5py.File(path) as fine, h5py.File(str(path).replace("_10m_", "_20m_", 1)) as coarse:
            bands = [b for b in BANDS if b in fine or b in coarse]
            layers = [fine[b][...] if b in fine else coarse[b][...].repeat(2, 1).repeat(2, 2) for b in bands]
        stack = np.stack(layers, axis=1)
        for index, image in enumerate(stack):
            if (image > 0).all():
                yield Tile("worldcereal_cubes", f"date {index}", tuple(bands), image[None], weight=0.15)


def offset_of(tile: Tile) -> float:
    return -1000.0 if tile.name in CARRIES_OFFSET else 0.0


def samples_of(tile: Tile) -> tuple[ndarray, ndarray]:
    """Samples (s c) over BANDS, nan where the tile lacks a band, of unit length; and their weights, adding to 2."""
    statistics = measure(tile.images, None, tile.sensor(offset=offset_of(tile)))
    known = [tile.bands.index(band) for band in BANDS if band in tile.bands]
    rows, weights = [], []
    for kind in ("spectra", "contrasts"):
        values = np.concatenate([getattr(summary, kind) for summary in statistics.summaries])[:, known]
        values = values[np.linspace(0, len(values) - 1, min(len(values), 256)).astype(int)].astype(float)
        values = values[(values**2).sum(1) > 0]
        filled = np.full((len(values), len(BANDS)), np.nan)
        filled[:, [BANDS.index(tile.bands[index]) for index in known]] = values
        rows.append(filled / np.sqrt((values**2).mean(1, keepdims=True)))
        weights.append(np.full(len(values), tile.weight / len(values)))
    return np.concatenate(rows), np.concatenate(weights)


def fit(samples: ndarray, weights: ndarray, rounds: int = 40) -> Scenes:
    """Expectation maximisation for a mixture of angular central Gaussians, with missing bands."""
    shares = np.random.default_rng(0).dirichlet(np.full(COMPONENTS, 0.3), len(samples))
    covariances = np.tile(np.eye(len(BANDS)), (COMPONENTS, 1, 1))
    lacks, pattern = np.unique(np.isnan(samples), axis=0, return_inverse=True)
    scenes = Scenes(np.full(COMPONENTS, 1 / COMPONENTS), np.linalg.cholesky(covariances))
    for turn in range(rounds):
        scatter = np.zeros_like(covariances)
        for index, lack in enumerate(lacks):
            rows = pattern.ravel() == index
            have = np.flatnonzero(~lack)
            if turn:
                shares[rows] = _shares(scenes, samples[rows][:, have], [BANDS[i] for i in have])
            for k, covariance in enumerate(covariances):
                scatter[k] += _scatter(samples[rows][:, have], have, covariance, weights[rows] * shares[rows, k])
        mass = weights @ shares
        covariances = scatter / mass[:, None, None]
        covariances /= np.trace(covariances, axis1=1, axis2=2)[:, None, None] / len(BANDS)
        covariances += RIDGE * np.eye(len(BANDS))
        scenes = Scenes(mass / mass.sum(), np.linalg.cholesky(covariances))
    return scenes


def _shares(scenes: Scenes, samples: ndarray, bands: list[str]) -> ndarray:
    """Probability (s k) that a sample comes from a component."""
    alone = [replace(scenes, weights=scenes.weights[[k]], factors=scenes.factors[[k]]) for k in range(COMPONENTS)]
    logs = np.stack([one.log_likelihood(samples, bands) for one in alone], axis=1)
    odds = np.exp(logs - logs.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True))


def _scatter(samples: ndarray, have: ndarray, covariance: ndarray, weights: ndarray) -> ndarray:
    """Weighted sum of outer products over their Mahalanobis lengths; missing bands as expected from the rest."""
    inverse = np.linalg.inv(covariance[np.ix_(have, have)])
    form = (samples @ inverse * samples).sum(1)
    from_have = covariance[:, have] @ inverse  # identity where a band is there
    filled = samples @ from_have.T
    spread = covariance - from_have @ covariance[have]
    return np.asarray((filled.T * (weights * len(have) / form)) @ filled + weights.sum() * spread)


def print_table(scenes: Scenes) -> None:
    """Print SCENES as spectra.py has it."""
    print("SCENES = Scenes(\n    weights=np.array([" + ", ".join(f"{w:.4f}" for w in scenes.weights) + "]),")
    print("    factors=np.stack(\n        [")
    for factor in scenes.factors:
        rows = [" ".join(f"{value:.4f}" for value in values[: row + 1]) for row, values in enumerate(factor)]
        print("            _factor(\n" + "".join(f'                "{row}",\n' for row in rows) + "            ),")
    print("        ]\n    ),\n)")


def refit(tiles: list[Tile]) -> dict[str, Scenes]:
    """For each place, a table from the folds that it is not in."""
    samples = [samples_of(tile) for tile in tiles]
    fold_of = {place: index % FOLDS for index, place in enumerate(sorted({tile.place for tile in tiles}))}
    tables = []
    for fold in range(FOLDS):
        kept = [s for s, tile in zip(samples, tiles, strict=True) if fold_of[tile.place] != fold]
        tables.append(fit(np.concatenate([s[0] for s in kept]), np.concatenate([s[1] for s in kept])))
    return {place: tables[fold] for place, fold in fold_of.items()}


def without_dataset(tiles: list[Tile], dataset: str) -> Scenes:
    """A table from the other datasets; the two products of TerraMesh count as one."""
    kept = [
        samples_of(tile)
        for tile in tiles
        if tile.dataset.split(" ", maxsplit=1)[0] != dataset.split(" ", maxsplit=1)[0]
    ]
    return fit(np.concatenate([s[0] for s in kept]), np.concatenate([s[1] for s in kept]))


def harmonised(tile: Tile) -> Tile:
    """The tile without the offset that it carries as published."""
    return replace(tile, images=tile.images.astype(np.int32) - 1000) if offset_of(tile) else tile


EXPECTED = {
    "two bands swapped": {"order"},
    "all bands shuffled": {"order"},
    "order of another product": {"order"},
    "band zeroed": {"zero"},
    "band without a value": {"not finite", "empty"},
    "band copied over another": {"copy"},
    "reflectance for DN, DN for reflectance": {"unit"},
    "1000 DN added": {"offset"},
    "1000 DN subtracted": {"negative", "unit", "zero", "empty"},  # a dark scene becomes all negative or all zero
    "VV and VH swapped": {"order"},
    "dB for linear, linear for dB": {"unit"},
}


def reordered(statistics: Statistics, order: list[int]) -> Statistics:
    """What `measure` gives for images whose bands are in another order."""
    changed = {
        field.name: getattr(statistics, field.name)[..., order]
        for field in fields(Statistics)
        if isinstance(getattr(statistics, field.name), ndarray)
    }
    changed["twins"] = changed["twins"][order]
    summaries = tuple(
        Summary(s.key, *(getattr(s, field.name)[..., order] for field in fields(Summary) if field.name != "key"))
        for s in statistics.summaries
    )
    return replace(statistics, **changed, summaries=summaries)


def orders(bands: tuple[str, ...]) -> Iterator[tuple[str, str, list[int]]]:
    """(family, what, columns) of every swap, of ten shuffles and of the order of another product."""
    count = len(bands)
    for a, b in combinations(range(count), 2):
        order = list(range(count))
        order[a], order[b] = b, a
        yield ("two bands swapped" if count > 2 else "VV and VH swapped"), f"{bands[a]} {bands[b]}", order
    if count > 2:
        for seed in range(10):
            yield "all bands shuffled", f"seed {seed}", np.random.default_rng(seed).permutation(count).tolist()
        other = [b for b in (L1C if bands == EUROSAT else EUROSAT) if b in bands]
        yield "order of another product", "", [bands.index(band) for band in other]


def values(tile: Tile) -> Iterator[tuple[str, str, ndarray, Sensor]]:
    """(family, what, images, spec) of every other corruption."""
    images, sensor = tile.images, tile.sensor()
    for index, band in enumerate(tile.bands):
        zeroed, lost = images.copy(), images.astype(np.float32)
        zeroed[:, index], lost[:, index] = 0, np.nan
        yield "band zeroed", band, zeroed, sensor
        yield "band without a value", band, lost, sensor
        copied = images.copy()
        copied[:, (index + 1) % len(tile.bands)] = images[:, index]
        yield "band copied over another", band, copied, sensor
    if tile.unit == "dB":
        yield "dB for linear, linear for dB", "dB for linear", images, tile.sensor(unit="linear_power")
        yield "dB for linear, linear for dB", "linear for dB", 10 ** (images / 10), sensor
        return
    family = "reflectance for DN, DN for reflectance"
    yield family, "DN for reflectance", images, tile.sensor(unit="reflectance")
    yield family, "reflectance for DN", images / 1e4, sensor
    yield family, "scaled twice", images, tile.sensor(unit="reflectance", scale=1e-8)
    yield "1000 DN added", "", images.astype(np.int32) + 1000, sensor
    yield "1000 DN subtracted", "signed", images.astype(np.int32) - 1000, sensor
    yield "1000 DN subtracted", "clipped at 0", (images.astype(np.int32) - 1000).clip(0), sensor


def pooled(parts: list[Statistics]) -> Statistics:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


Score = dict[str, dict[str, list[str]]]  # family -> "caught" and "missed" -> what


def try_group(tiles: list[Tile], scenes: Scenes) -> Score:
    """Corrupt tiles of one kind together, each corruption in turn."""
    score: Score = defaultdict(lambda: {"caught": [], "missed": []})
    clean = pooled([measure(tile.images, None, tile.sensor()) for tile in tiles])
    cases = [
        (family, what, reordered(clean, order), tiles[0].sensor()) for family, what, order in orders(tiles[0].bands)
    ]
    for alike in zip(*(values(tile) for tile in tiles), strict=True):
        family, what, _, sensor = alike[0]
        cases.append((family, what, pooled([measure(images, None, sensor) for _, _, images, sensor in alike]), sensor))
    for family, what, statistics, sensor in cases:
        kinds = {finding.kind for finding in judge(statistics, sensor, "sensor", scenes)}
        score[family]["caught" if kinds & EXPECTED[family] else "missed"].append(f"{tiles[0].name}: {what}")
    return score


def alarms(tiles: list[Tile], scenes: Scenes) -> list[str]:
    statistics = pooled([measure(tile.images, None, tile.sensor()) for tile in tiles])
    return [f.kind for f in judge(statistics, tiles[0].sensor(), tiles[0].dataset, scenes)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder of real samples")
    parser.add_argument("--fit", action="store_true", help="only print the table from all tiles")
    options = parser.parse_args(arguments)
    tiles, series = list(read_tiles(options.data)), list(read_series(options.data))
    optical = [tile for tile in tiles if tile.unit != "dB"] + series
    if options.fit:
        parts = [samples_of(tile) for tile in optical]
        return print_table(fit(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])))
    tables = defaultdict(lambda: SCENES, refit(optical))
    result: dict[str, dict[str, object]] = {}
    for dataset in dict.fromkeys(tile.dataset for tile in tiles):
        mine = [tile for tile in tiles if tile.dataset == dataset]
        mended = [harmonised(tile) for tile in mine]
        held_out = without_dataset(optical, dataset)
        single: Score = defaultdict(lambda: {"caught": [], "missed": []})
        for tile in mended:
            for family, counts in try_group([tile], tables[tile.place]).items():
                single[family]["caught"] += counts["caught"]
                single[family]["missed"] += counts["missed"]
        result[dataset] = {
            "tiles": len(mine),
            "untouched": {tile.name: found for tile in mine if (found := alarms([tile], tables[tile.place]))},
            "harmonised": {tile.name: found for tile in mended if (found := alarms([tile], tables[tile.place]))},
            "untouched, pooled": alarms(mine, held_out),
            "harmonised, pooled": alarms(mended, held_out),
            "single": single,
            "pooled": try_group(mended, held_out),
        }
    quiet = {f"{t.dataset} {t.name}": found for t in series if (found := alarms([t], tables[t.place]))}
    print_results(result, quiet, len(series))
    path = Path(__file__).parent / "results" / "fingerprint.json"
    for scores in result.values():
        for way in ("single", "pooled"):
            scores[way] = {
                k: {"tried": sum(map(len, v.values())), "missed": v["missed"]} for k, v in scores[way].items()
            }
    path.write_text(json.dumps(result | {"alarms on other series": quiet}, indent=1) + "\n", encoding="utf-8")


def print_results(result: dict[str, dict[str, object]], quiet: dict[str, list[str]], others: int) -> None:
    """A Markdown table: caught of tried, tile by tile and (pooled over the dataset)."""
    print("| | " + " | ".join(f"{name} ({scores['tiles']} tiles)" for name, scores in result.items()) + " |")
    print("|---" * (len(result) + 1) + "|")
    for family in EXPECTED:
        cells = []
        for scores in result.values():
            one, all_ = scores["single"].get(family), scores["pooled"].get(family)
            text = [f"{len(s['caught'])}/{len(s['caught']) + len(s['missed'])}" for s in (one, all_) if s]
            cells.append(f"{text[0]} ({text[1]})" if text else "")
        print(f"| {family} | " + " | ".join(cells) + " |")
    for way in ("untouched", "harmonised"):
        counts = [f"{len(scores[way])} ({len(scores[f'{way}, pooled'])})" for scores in result.values()]
        print(f"| findings, {way} | " + " | ".join(counts) + " |")
    for name, scores in result.items():
        print(f"\n{name}: untouched {scores['untouched']} {scores['untouched, pooled']}")
        for way in ("single", "pooled"):
            for family, score in scores[way].items():
                if score["missed"]:
                    print(f"  {way}, {family}: missed {len(score['missed'])}: {'; '.join(score['missed'][:80])}")
    print(f"\nfindings in {others} other untouched images and series: {quiet}")


if __name__ == "__main__":
    main()
