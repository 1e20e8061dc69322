"""Streams: what a layer of files, or some arrays of it, measures or labels: sensors, flags and targets to be.

Axes: t date, c band, h row, w column.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from geomaestro.data.files.coordinates import text_of
from geomaestro.data.files.patterns import fields_of
from geomaestro.data.files.stored import Opener
from geomaestro.data.init.contents import Array, Content, look
from geomaestro.data.init.naming import File, Layer
from geomaestro.data.init.words import (
    CLOUDS,
    DATE,
    DATES,
    HEIGHTS,
    LABELS,
    QUALITY,
    TIME_AXES,
    date_format,
    has,
    is_band,
    plain,
)  # fmt: skip
from geomaestro.data.quality.fingerprint import normal_name
from geomaestro.errors import GeomaestroError
from geomaestro.grid import Grid

LOOKED = 12  # files of a layer that are opened, evenly spread
FAMILIES = {  # words of band names that belong together
    "s1": {"vv", "vh", "hh", "hv"},
    "s2": {f"b{n}" for n in range(1, 14)} | {f"b0{n}" for n in range(1, 10)} | {"b8a", "b08a"},
    "weather": {
        *("temperature", "precipitation", "radiation", "wind", "vapour", "dewpoint", "precip", "tmean", "humidity"),
        *("pressure", "tmin", "tmax", "evaporation", "t2m", "tp"),
    },
    "terrain": {"elevation", "slope", "aspect", "altitude", "dem"},
}


@dataclass
class Stream:
    """Pixels of one product. `kind` is sensor, label, clouds or quality."""

    name: str
    kind: str
    path: str
    files: list[File]
    suffix: str
    size: tuple[int, int]
    count: int
    bands: tuple[str, ...] = ()
    arrays: tuple[str, ...] | str | None = None
    axes: tuple[str, ...] = ()
    dates: dict[str, str] | None = None
    """The `dates` of the spec; None where no date is known."""
    number_of_dates: int = 1
    head: Array | None = None
    grid: Grid | None = None
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    nodata: float | None = None
    tags: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    todo: list[str] = field(default_factory=list)
    adopted: bool = False
    """True where a column of the table names its files."""

    def samples(self, fields: Sequence[str]) -> set[tuple[str, ...]]:
        """Samples that have a file."""
        return {tuple(file.fields.get(name, "") for name in fields) for file in self.files}


Leave = Callable[[str, str], None]


def streams_of(layer: Layer, root: Path, leave: Leave) -> list[Stream]:
    """The streams of a layer; unreadable files are left out, with the reason."""
    contents = _look_at(layer, root, leave)
    if not contents:
        return []
    first = contents[0]
    usual = Counter(content.signature() for content in contents).most_common(1)[0][0]
    odd = [content.path for content in contents if content.signature() != usual]
    if odd and len(first.arrays) == 1:
        leave(odd[0], "has other bands or another type than the files named like it; TODO in the spec's notes")
    first = next(content for content in contents if content.signature() == usual)
    if len(first.arrays) == 1 and first.arrays[0].name is None:
        return _of_images(layer, first, contents)
    return _of_arrays(layer, root, first, contents, leave)


def _look_at(layer: Layer, root: Path, leave: Leave) -> list[Content]:
    """Contents of some files, evenly spread; where one can't be read it is left out."""
    step = max(1, len(layer.files) // LOOKED)
    out, bad = [], []
    for file in layer.files[::step][: LOOKED + 1]:
        try:
            out.append(look(root, file.path))
        except GeomaestroError as error:
            bad.append(file.path)
            leave(file.path, f"can't be read: {str(error).split(': ', 1)[-1][:160]}")
    gone = set(bad)
    layer.files = [file for file in layer.files if file.path not in gone]
    return out if layer.files else []


def _of_images(layer: Layer, first: Content, contents: list[Content]) -> list[Stream]:
    """Rasters and npy files: one stream, or one per family of bands where each band is a file."""
    head = first.arrays[0]
    if not head.axes:
        return []
    if "{band}" in layer.pattern:
        return _of_band_files(layer, first)
    name = _name(layer)
    stream = Stream(
        name=name,
        kind=kind_of(layer.kind, head, name),
        path=layer.pattern,
        files=layer.files,
        suffix=_suffix(layer.pattern),
        size=(head.size("row"), head.size("col")),
        count=head.size("band"),
        bands=tuple(_own(band) for band in head.bands),
        axes=() if head.name is None and _suffix(layer.pattern) != ".npy" else head.axes,
        head=head,
        grid=first.grid,
        nodata=head.nodata,
        tags=first.tags,
        number_of_dates=head.size("date"),
    )
    stream.sizes.update((c.arrays[0].size("row"), c.arrays[0].size("col")) for c in contents if c.arrays)
    stream.size = stream.sizes.most_common(1)[0][0]
    if not head.said:
        stream.notes.append(f"assumed: axes {', '.join(head.axes)} from the shape {head.shape}; the file does not say")
    _date_by_name(stream)
    return [stream]


def _own(band: str) -> str:
    return band.strip().replace("{", "(").replace("}", ")")


def _date_by_name(stream: Stream) -> None:
    """Take dates from the field of the path, where there is one."""
    dated = [file for file in stream.files if "date" in file.fields]
    if "date" in fields_of(stream.path) and dated:
        stream.dates = {"field": "date"}
        form = date_format(dated[0].fields["date"])
        if form:
            stream.dates["format"] = form
        per = Counter(tuple(sorted((k, v) for k, v in f.fields.items() if k not in ("date", "band"))) for f in dated)
        counts = sorted(per.values())
        bands = max(1, len({f.fields.get("band") for f in dated}))
        stream.number_of_dates = max(1, round(counts[len(counts) // 2] / bands))


def _of_band_files(layer: Layer, first: Content) -> list[Stream]:
    families: dict[str, list[str]] = defaultdict(list)
    for band in dict.fromkeys(file.fields["band"] for file in layer.files):
        families[family_of(band)].append(band)
    out = []
    for family, bands in families.items():
        files = [file for file in layer.files if file.fields["band"] in bands]
        stem = _name(layer, default="")
        stream = Stream(
            name=plain(f"{stem}_{family}") if stem and len(families) > 1 else stem or family or "image",
            kind="sensor",
            path=layer.pattern,
            files=files,
            suffix=_suffix(layer.pattern),
            size=(first.arrays[0].size("row"), first.arrays[0].size("col")),
            count=len(bands),
            bands=tuple(sorted(bands, key=band_order)),
            head=first.arrays[0],
            grid=first.grid,
            nodata=first.arrays[0].nodata,
        )
        stream.sizes[stream.size] += 1
        _date_by_name(stream)
        out.append(stream)
    return out


def band_order(band: str) -> tuple[float, str]:
    """B02 before B10, B8A after B08; other names as they are."""
    low = band.lower().lstrip("b").lstrip("0")
    digits = "".join(c for c in low if c.isdigit())
    return (float(digits) + (0.5 if low.endswith("a") else 0) if digits else 99.0, band)


def tidy(name: str) -> str:
    """A band's name; of "08A - Vegetation Red Edge" (GEO-Bench) B8A."""
    found = re.match(r"(\d{1,2}A?) - ", name)
    return normal_name(found[1]) if found else name


def family_of(band: str) -> str:
    """The family of a band's name; empty for none."""
    words = set(plain(tidy(band)).split("_"))
    return next((family for family, known in FAMILIES.items() if words & known), "")


def kind_of(kinds: Sequence[str], head: Array, name: str) -> str:
    """sensor, label, clouds or quality: by names first, then by type."""
    words = [plain(kind) for kind in kinds] + [plain(name)]
    single = head.size("band") == 1 and head.dtype.kind in "iub"
    if any(has(word, CLOUDS) for word in words):
        return "clouds"
    if any(has(word, QUALITY) for word in words) and head.dtype.kind in "iub":
        return "quality"
    if any(has(word, HEIGHTS) for word in words):
        return "sensor"
    dated = head.size("date") > 1
    if dated and any(has(word, LABELS) for word in words):
        return "quality"
    return "label" if single and any(has(word, LABELS) for word in words) else "sensor"


def _of_arrays(layer: Layer, root: Path, first: Content, contents: list[Content], leave: Leave) -> list[Stream]:
    """Cubes: arrays of one file that have the same axes and family are bands of one stream."""
    groups: dict[tuple[object, ...], list[Array]] = defaultdict(list)
    coordinates = {a.name for a in first.arrays if len(a.shape) < 2}
    for array in first.arrays:
        if len(array.shape) >= 2 and array.name not in coordinates:
            _sort(array, layer, groups, leave)
    out = []
    for key, arrays in groups.items():
        out.append(_of_group(layer, root, contents, str(key[0]), arrays))
        out[-1].grid = _its_grid(first, arrays[0])
    names = Counter(stream.name for stream in out)
    for stream in out:
        if names[stream.name] > 1:
            stream.name = plain(f"{stream.name}_{stream.arrays if isinstance(stream.arrays, str) else stream.bands[0]}")
    return out


def _sort(array: Array, layer: Layer, groups: dict[tuple[object, ...], list[Array]], leave: Leave) -> None:
    name = str(array.name)
    strange = [axis for axis in array.axes if axis not in ("date", "band", "row", "col")]
    if array.dtype.kind not in "iufb" or strange or not array.axes:
        leave(f"{layer.files[0].path}: {name}", f"axes ({', '.join(array.axes) or array.shape}) are none of an image")
        return
    kind = kind_of((), array, name)
    if kind == "sensor" and array.dtype.kind in "iub" and any(has(plain(k), LABELS | {"output"}) for k in layer.kind):
        kind = "label"
    if kind != "sensor":
        groups[kind, name].append(array)
    elif "band" in array.axes:
        groups["sensor", name].append(array)
    else:
        groups["sensor", array.shape, array.axes, family_of(name), array.nodata, array.scale].append(array)


def _of_group(layer: Layer, root: Path, contents: list[Content], kind: str, arrays: list[Array]) -> Stream:
    head = arrays[0]
    names = sorted((str(a.name) for a in arrays), key=lambda n: band_order(plain(tidy(n)).split("_")[-1]))
    whole = "band" in head.axes
    stem = _name(layer, default="")
    prefix = plain(_common([str(a.name) for a in arrays])) if len(arrays) > 1 else ""
    own = plain(names[0]) if whole or kind != "sensor" or len(arrays) == 1 else prefix or family_of(names[0]) or "cube"
    stream = Stream(
        name=stem if kind == "sensor" and stem and not whole and not prefix else own or stem,
        kind=kind,
        path=layer.pattern,
        files=layer.files,
        suffix=_suffix(layer.pattern),
        size=(head.size("row"), head.size("col")),
        count=head.size("band") if whole else len(arrays),
        bands=head.bands if whole else tuple(_short(n, prefix) for n in names),
        arrays=names[0] if whole or (len(arrays) == 1) else tuple(names),
        axes=head.axes,
        head=head,
        nodata=head.nodata,
        number_of_dates=_usual_dates(contents, str(head.name)),
        tags=contents[0].tags,
    )
    stream.sizes.update((a.size("row"), a.size("col")) for c in contents for a in c.arrays if a.name == head.name)
    if head.time is not None:
        stream.dates = {"array": head.time}
    elif "date" in head.axes and not _times_beside(stream, head, contents[0], root):
        stream.todo.append("the axis of dates has no array of times: say in `dates` where they are written")
    if not head.said:
        stream.notes.append(f"assumed: axes {', '.join(head.axes)} from the shape {head.shape}; the file does not say")
    return stream


def _times_beside(stream: Stream, head: Array, content: Content, root: Path) -> bool:
    """Find an array of dates, or of names with dates, as long as the series; of several that named most alike."""
    own = set(plain(str(head.name)).split("_"))
    fits = [a for a in content.arrays if len(a.shape) == 1 and a.shape[0] == head.size("date") and a.name]
    for array in sorted(fits, key=lambda a: -len(own & set(plain(str(a.name)).split("_")))):
        with Opener() as opener:
            values = np.asarray(opener.array(root / content.path, array.name)[:1]).ravel()
        pieces = text_of(values[0]).split("_") if values.dtype.kind in "SUO" and len(values) else []
        places = [number for number, piece in enumerate(pieces) if DATE.match(piece)]
        whole = has(str(array.name), TIME_AXES | set(DATES)) and (array.dtype.kind in "SUO" or "since" in array.unit)
        if whole or places:
            stream.dates = {"array": str(array.name)}
            if len(pieces) > 1 and places:
                stream.dates["part"] = str(places[0] - len(pieces))
            stream.notes.append(f"assumed: dates are in {array.name}, which is as long as the series")
            return True
    return False


def _usual_dates(contents: list[Content], name: str) -> int:
    counts = sorted(a.size("date") for c in contents for a in c.arrays if a.name == name)
    return counts[len(counts) // 2]


def _its_grid(content: Content, head: Array) -> Grid | None:
    grid = content.grid
    return grid if grid is not None and (grid.height, grid.width) == (head.size("row"), head.size("col")) else None


def _common(names: list[str]) -> str:
    """The words that all names begin with."""
    pieces = [plain(name).split("_") for name in names]
    out = []
    for number in range(min(map(len, pieces))):
        words = {words[number] for words in pieces}
        if len(words) > 1:
            break
        out.append(words.pop())
    return "_".join(out)


def _short(name: str, prefix: str) -> str:
    """A band's name without the words that all have."""
    if tidy(name) != name:
        return tidy(name)
    words = plain(name).split("_")
    last = words[-1].upper()
    if prefix and plain(name) != prefix and is_band(last):
        return last
    return name.replace("{", "(").replace("}", ")")


def _name(layer: Layer, default: str = "image") -> str:
    return plain("_".join(layer.kind)) or default


def _suffix(pattern: str) -> str:
    return ".zarr.zip" if pattern.endswith(".zarr.zip") else PurePosixPath(pattern).suffix.lower()


def merge_same(streams: list[Stream]) -> list[Stream]:
    """Give streams names of their own."""
    seen: Counter[str] = Counter()
    out = []
    for stream in streams:
        seen[stream.name] += 1
        number = seen[stream.name]
        out.append(stream if number == 1 else replace(stream, name=f"{stream.name}_{number}"))
    return out
