"""A table of samples -> how diverse they are: shares and entropies of classes, spectral entropy, redundancy.

Read a part at a time; what is kept of a sample are 24 bytes: entropy, hash, number of images, place.
Axes: n sample, d width of an embedding.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geomaestro.errors import DataError
from geomaestro.select.entropy import effective_number, evenness, shannon
from geomaestro.select.places import CONTINENTS, SEASONS
from geomaestro.select.redundancy import Gram, Twins, twins
from geomaestro.select.table import about_of, numbers, words

CLASSES = ("continent", "biome", "land_cover", "season")
AT_SEA = "at sea"
MOST_PLACES = 20_000  # assumed; more are counted, but not drawn
AT_ONCE = 1 << 14
QUANTILES = (0, 5, 25, 50, 75, 95, 100)

Shown = Callable[[Sequence[tuple[str | None, str]]], Iterable[np.ndarray | None]]
"""Pictures (h w) of samples by split and name."""


def summarise(path: Path, shown: Shown | None = None) -> dict[str, Any]:
    """Numbers about a table of samples, as JSON holds them; `shown` reads pictures again, to confirm what hashes say.

    Raises:
        DataError: if the table can't be read, or is empty.
    """
    seen = _Seen()
    try:
        stored = pq.ParquetFile(path)
        for batch in stored.iter_batches(AT_ONCE):
            seen.add(pa.table(batch))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: unreadable table, probably cut short ({error}); run the same command again") from None
    if not seen.samples:
        raise DataError(f"{path}: has no samples")
    about = about_of(path)
    return {
        "name": about.get("dataset", path.stem),
        "table": path.name,
        "samples": seen.samples,
        "unreadable": about.get("unreadable", 0),
        "placed": seen.placed,
        "at_sea": seen.classes["continent"].get(AT_SEA, 0),
        "splits": dict(sorted(seen.splits.items())),
        **{name: classes(seen.classes[name], seen.samples, order=_ORDER.get(name, ())) for name in CLASSES},
        "years": {str(year): seen.years[year] for year in sorted(seen.years)},
        "images": _images(np.concatenate(seen.images)),
        "spectral_entropy": spectral(np.concatenate(seen.entropies)),
        "redundancy": _redundancy(path, np.concatenate(seen.hashes), shown),
        "embeddings": seen.embeddings(),
        "places": seen.drawn(),
        "about": about,
    }


_ORDER: Mapping[str, Sequence[str]] = {"continent": CONTINENTS, "season": SEASONS}


def classes(counts: Mapping[str, int], samples: int, *, order: Sequence[str] = ()) -> dict[str, Any] | None:
    """Shannon entropy of classes and what goes with it; None where no sample has one. The sea is no class."""
    names = sorted((name for name in counts if name != AT_SEA), key=lambda name: (-counts[name], name))
    names = [name for name in order if name in counts] if order else names
    known = np.asarray([counts[name] for name in names], np.int64)
    if not known.sum():
        return None
    return {
        "counts": {name: counts[name] for name in names},
        "known": int(known.sum()),
        "unknown": samples - int(known.sum()) - counts.get(AT_SEA, 0),
        "entropy": shannon(known),
        "evenness": evenness(known),
        "effective": effective_number(known),
    }


def spectral(values: np.ndarray) -> dict[str, Any] | None:
    """Of entropies (n) with NaN where they are unknown: mean, deviation, standard error, quantiles, histogram."""
    known = values[np.isfinite(values)].astype(np.float64)
    if not len(known):
        return None
    std = float(known.std(ddof=1)) if len(known) > 1 else None
    counts, edges = np.histogram(known, bins=40, range=(0.0, max(float(known.max()), 1e-9)))
    return {
        "known": len(known),
        "unknown": len(values) - len(known),
        "mean": float(known.mean()),
        "std": std,
        "standard_error": None if std is None else std / len(known) ** 0.5,
        "quantiles": dict(zip(map(str, QUANTILES), np.percentile(known, QUANTILES).tolist(), strict=True)),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _images(dates: np.ndarray) -> dict[str, float] | None:
    """Images per sample."""
    known = dates[np.isfinite(dates)]
    if not len(known):
        return None
    return {"least": float(known.min()), "median": float(np.median(known)), "most": float(known.max())}


def _redundancy(path: Path, hashes: np.ndarray, shown: Shown | None) -> dict[str, Any] | None:
    """Near-duplicates; None where no picture has a hash."""
    if not hashes.any():
        return None

    def named(rows: Sequence[int]) -> list[tuple[str | None, str]]:
        taken = pq.read_table(path, columns=["split", "id"]).take(pa.array(rows, pa.int64()))
        return list(zip(taken["split"].to_pylist(), taken["id"].to_pylist(), strict=True))

    found: Twins = twins(hashes, None if shown is None else lambda rows: shown(named(rows)))
    names = named([row for pair in found.pairs for row in pair])
    examples = [[one[1], other[1]] for one, other in zip(names[::2], names[1::2], strict=True)]
    return {**found.about(), "examples": examples}


class _Seen:
    """What is gathered from the parts of a table."""

    def __init__(self) -> None:
        self.samples = self.placed = 0
        self.classes: dict[str, Counter[str]] = {name: Counter() for name in CLASSES}
        self.splits, self.years = Counter[str](), Counter[int]()
        self.entropies: list[np.ndarray] = []
        self.hashes: list[np.ndarray] = []
        self.images: list[np.ndarray] = []
        self.places: list[np.ndarray] = []
        self.gram = Gram()

    def add(self, part: pa.Table) -> None:
        """Take in a part."""
        self.samples += len(part)
        for name in CLASSES:
            self._count_classes(part, name)
        if "split" in part.column_names:
            self.splits.update(words(part, "split").tolist())
        if "date" in part.column_names:
            self.years.update(pc.year(part["date"]).drop_null().to_pylist())
        self.entropies.append(self._numbers(part, "spectral_entropy").astype(np.float32))
        self.images.append(self._numbers(part, "dates").astype(np.float32))
        none = pa.scalar(0, pa.uint64())
        known = "picture_hash" in part.column_names
        self.hashes.append(
            part["picture_hash"].cast(pa.uint64()).fill_null(none).to_numpy() if known else np.zeros(len(part), "u8")
        )
        lon, lat = self._numbers(part, "lon"), self._numbers(part, "lat")
        placed = np.isfinite(lon) & np.isfinite(lat)
        self.placed += int(placed.sum())
        self.places.append(np.stack([lon[placed], lat[placed]], axis=1).astype(np.float32))
        if "embedding" in part.column_names:
            self._add_embeddings(part["embedding"])

    def _count_classes(self, part: pa.Table, name: str) -> None:
        if name not in part.column_names:
            return
        for value in pc.value_counts(part[name]).to_pylist():
            if value["values"] is not None and (value["values"] or name == "continent"):
                self.classes[name][value["values"] or AT_SEA] += value["counts"]

    @staticmethod
    def _numbers(part: pa.Table, name: str) -> np.ndarray:
        return numbers(part, name) if name in part.column_names else np.full(len(part), np.nan)

    def _add_embeddings(self, column: pa.ChunkedArray) -> None:
        kept = column.drop_null()
        if len(kept):
            flat = pc.list_flatten(kept).to_numpy()
            self.gram.add(flat.reshape(len(kept), -1))

    def embeddings(self) -> dict[str, Any] | None:
        """Effective rank of the embeddings."""
        if not self.gram.count:
            return None
        return {
            "samples": self.gram.count,
            "width": len(self.gram.total),
            "effective_rank": self.gram.effective_rank(centred=False),
            "effective_rank_centred": self.gram.effective_rank(centred=True),
        }

    def drawn(self) -> list[list[float]]:
        """Places to draw, evenly spread over the table."""
        every = np.concatenate(self.places)
        some = every[:: -(-len(every) // MOST_PLACES) or 1]
        return np.round(some.astype(float), 3).tolist()
