"""From what a user asks `geomaestro diversity` for to work: one piece of it per dataset."""

from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from geomaestro.config import check
from geomaestro.data.packing.plan import Source
from geomaestro.data.quality.survey import splits_of
from geomaestro.data.specs import load_spec, spec_path
from geomaestro.errors import DataError, SpecError
from geomaestro.select.geography import Layers
from geomaestro.select.layers import LayerSource
from geomaestro.select.measure import ImagesWork, MeasureOptions, Meter
from geomaestro.select.placelist import SUFFIXES, TableWork
from geomaestro.select.wishes import Columns, Counting, Ground, Reading

PIECES = "pieces"  # folder of finished pieces, in the folder of the results


def works(
    data: Sequence[str], reading: Reading, out: Path, counting: Counting, ground: Ground, columns: Columns
) -> list[ImagesWork | TableWork]:
    """The work of each dataset; nothing is read but lists of samples. Datasets of one name are numbered.

    Raises:
        SpecError, DataError: if a dataset, or what is asked of it, can't be.
    """
    options, layers, named = measure_options(counting), layers_of(ground), columns_of(columns)
    tables = [Path(text).suffix.lower() in SUFFIXES for text in data]
    places = [text for text, table in zip(data, tables, strict=True) if table]
    _check_meant(places, reading, columns, images=len(places) < len(data))
    folders = iter(_roots([text for text, table in zip(data, tables, strict=True) if not table], reading.root))
    specs = [None if table else load_spec(text) for text, table in zip(data, tables, strict=True)]
    names = _names([Path(text).stem if spec is None else spec.name for text, spec in zip(data, specs, strict=True)])
    refuse_overwriting(places, [out / f"{name}.parquet" for name in names])
    found: list[ImagesWork | TableWork] = []
    for text, spec, name in zip(data, specs, names, strict=True):
        folder = out / PIECES / name
        if spec is None:
            found.append(TableWork.of(Path(text), name, named, layers, folder))
        else:
            root = next(folders)
            source = Source(spec, root, reading.splits or splits_of(spec, root))
            found.append(ImagesWork.of(source, Meter.of(spec, name, options), layers, folder))
    return found


def _names(wanted: Sequence[str]) -> list[str]:
    """Names that differ: the second of a name gets -2, or the next number that is free."""
    found: list[str] = []
    for name in wanted:
        taken = {*found, *wanted}
        others = (f"{name}-{number}" for number in count(2))
        found.append(name if name not in found else next(other for other in others if other not in taken))
    return found


def refuse_overwriting(read: Iterable[str | Path], written: Iterable[Path]) -> None:
    """Refuse to write over what is read.

    Raises:
        SpecError: naming the file and the remedy.
    """
    targets = {path.resolve() for path in written}
    for text in read:
        if Path(text).resolve() in targets:
            raise SpecError(f"{text}: would be written over by what is made of it; name another place with --out")


def _check_meant(places: Sequence[str], reading: Reading, columns: Columns, *, images: bool) -> None:
    """Refuse words that would be passed over."""
    if places and reading.splits:
        raise SpecError(
            f"--splits: {places[0]} is a table, of which all rows are measured; take the rows that you want of it first"
        )
    if not places and columns != Columns():
        raise SpecError("--lon, --lat and --column name columns of a table of places, and none is given")
    if not images and reading.root:
        raise SpecError("--root: tables of places have no other files; leave it out")


def measure_options(counting: Counting) -> MeasureOptions:
    """The options of measuring.

    Raises:
        SpecError: listing all that can't be.
    """
    spectral: dict[str, Any] = {
        "bins": counting.bins,
        "range": counting.range,
        "trim": counting.trim,
        "bands": counting.bands,
        "joint": counting.joint,
        "dates": "pooled" if counting.pooled else "mean",
        "base": counting.base if counting.base == "e" else _number(counting.base, "--base"),
        "least_pixels": counting.least_pixels,
    }
    if "," in counting.range:
        spectral["range"] = tuple(_number(end, "--range") for end in counting.range.split(","))
    values = {"spectral": spectral, "sensor": counting.sensor, "crops": counting.crops}
    return check(MeasureOptions, values, "geomaestro diversity")


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"{option}: {text!r} is no number") from None


def layers_of(ground: Ground) -> Layers:
    """The layers that are named."""
    biome, land_cover = (
        None if text is None else LayerSource(text, ground.classes, ground.layer_crs, ground.footprint)
        for text in (ground.biome, ground.land_cover)
    )
    return Layers(biome, land_cover)


def columns_of(columns: Columns) -> dict[str, str]:
    """Names of columns in the table by ours.

    Raises:
        SpecError: if one is not written as ours=theirs.
    """
    found = {ours: theirs for ours, theirs in (("lon", columns.lon), ("lat", columns.lat)) if theirs is not None}
    for text in columns.column:
        ours, equals, theirs = text.partition("=")
        if not equals:
            raise SpecError(f"--column {text}: write it as land_cover=COLUMN")
        found[ours] = theirs
    return found


def _roots(specs: Sequence[str], given: Sequence[Path]) -> list[Path]:
    """The folder of each spec's files: one given for all, or one each; else that of the spec."""
    if given and len(given) not in (1, len(specs)):
        raise SpecError(f"{len(given)} --root for {len(specs)} datasets: give one for all, or one for each, in order")
    if given:
        return list(given) * (len(specs) if len(given) == 1 else 1)
    paths = [spec_path(text) for text in specs]
    for text, path in zip(specs, paths, strict=True):
        if path is None:
            raise DataError(f"say with --root where the files of {text} are")
    return [path if path.is_dir() else path.parent for path in paths if path is not None]
