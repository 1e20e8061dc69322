"""Files whose arrays have the sample as their first axis: the draft of an `arrays` spec.

Axes: n sample, t date, c band, h row, w column.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy import ndarray

from geomaestro.data.files.stored import Opener, to_tchw
from geomaestro.data.init.contents import Array, Content, look
from geomaestro.data.init.draft import Draft
from geomaestro.data.init.entries import Known, entry
from geomaestro.data.init.known import guess
from geomaestro.data.init.measure import levels_from
from geomaestro.data.init.naming import File
from geomaestro.data.init.notes import Note
from geomaestro.data.init.sizes import Piece, make_plan
from geomaestro.data.init.streams import Stream
from geomaestro.data.init.survey import Survey
from geomaestro.data.init.targets import MOST_CLASSES
from geomaestro.data.init.words import (
    DATES,
    IDS,
    LABELS,
    LATITUDES,
    LONGITUDES,
    TIME_AXES,
    has,
    plain,
    split_of,
)  # fmt: skip
from geomaestro.data.reading import decoded
from geomaestro.errors import DataError, GeomaestroError

SUFFIXES = (".h5", ".hdf5", ".npz", ".zarr")
LOOKED = 400  # samples measured, evenly spread
SPLITS = ("split", "set", "subset", "partition", "fold")
LENGTHS = ("length", "lengths", "n_dates", "num_dates", "seq_length")


def file_of_samples(survey: Survey) -> Content | None:
    """The one file of samples, if the folder holds such; others of its kind (one per split) are left out."""
    files = [path for path in survey.files if PurePosixPath(path).suffix.lower() in SUFFIXES]
    if len(files) != len(survey.files) or not files:
        return None
    named = {path: split_of(PurePosixPath(path).stem) for path in files}
    if len(files) > 1 and not all(named.values()):
        return None
    path = next((path for path, split in named.items() if split == "train"), files[0])
    try:
        content = look(survey.root, path)
    except GeomaestroError:
        return None
    if _count(content) is None:
        return None
    for other in files:
        if other != path:
            survey.leave(other, "kind `arrays` reads one file: join the splits in one file with an array `split`")
    return content


def _count(content: Content) -> int | None:
    """The number of samples; None if the first axes are no samples."""
    arrays = [a for a in content.arrays if a.shape and not (a.said and set(a.axes[:1]) & {"date", "row", "col"})]
    if not arrays or any("sample" not in a.axes and a.said for a in arrays if len(a.shape) > 1):
        return None
    count, number = Counter(a.shape[0] for a in arrays).most_common(1)[0]
    same = [a for a in arrays if a.shape[0] == count]
    flat = [a for a in same if len(a.shape) == 1 and not has(str(a.name), TIME_AXES | set(DATES))]
    deep = [a for a in same if len(a.shape) > 1]
    return count if number > 1 and flat and deep and count > 1 else None


class _Arrays:
    """Reads some samples of arrays."""

    def __init__(self, root: Path, content: Content) -> None:
        self.path = root / content.path
        self.count = _count(content) or 0
        self.arrays = {str(a.name): a for a in content.arrays if a.shape and a.shape[0] == self.count}
        self.index = np.unique(np.linspace(0, self.count - 1, min(self.count, LOOKED)).astype(int))

    def read(self, name: str, *, whole: bool = False) -> ndarray:
        """An array, of some samples or of all."""
        with Opener() as opener:
            array = opener.array(self.path, name)
            if whole or isinstance(array, ndarray):
                return np.asarray(array[...] if whole else array[self.index])
            return np.stack([np.asarray(array[int(i)]) for i in self.index])


def draft_arrays(survey: Survey, content: Content, name: str) -> Draft:
    """The draft of an `arrays` spec.

    Raises:
        DataError: if no array could be a sensor.
    """
    arrays = _Arrays(survey.root, content)
    values: dict[str, Any] = {
        "name": name,
        "kind": "arrays",
        "about": Note("", "TODO: say what it is"),
        "file": content.path,
    }
    columns = [a for a in arrays.arrays.values() if len(a.shape) == 1]
    found = _columns(values, arrays, columns)
    steps = _dates(values, arrays)
    labels: dict[str, Any] = {}
    streams: list[tuple[Stream, ndarray]] = []
    used = {str(v) for v in found} | set(_date_arrays(arrays))
    for array in arrays.arrays.values():
        if array.name in used or array.dtype.kind not in "iufb" or len(array.shape) < 2:
            continue
        if len(array.shape) in (3, 4) and array.dtype.kind in "iub" and has(str(array.name), LABELS):
            _pixels(labels, arrays, array, survey)
        elif (axes := axes_of(array, steps)) is not None:
            streams.append(_stream(content, arrays, array, axes))
        else:
            survey.leave(f"{content.path}: {array.name}", f"shape {array.shape} has no axes that could be told")
    labels |= _labels(arrays, [a for a in columns if str(a.name) not in used], survey, content)
    sensors = [_known(stream, x, name) for stream, x in streams]
    if not sensors:
        raise DataError(f"{survey.root / content.path}: no array could be a sensor")
    return _finish(survey, values, arrays, sensors, labels)


def _finish(
    survey: Survey, values: dict[str, Any], arrays: _Arrays, sensors: list[Known], labels: dict[str, Any]
) -> Draft:
    pieces = [Piece(k.stream.name, k.stream.size, k.gsd_m, k.stream.number_of_dates) for k in sensors]
    plan = make_plan(pieces, [])
    if plan.crop is not None:
        values["crop"] = plan.crop
    dated = "dates" in values
    for known in sensors:
        if not dated:  # without dates none can be chosen: the model takes all
            plan.chosen[known.stream.name].dates = known.stream.number_of_dates
        known.stream.dates = None
    values["reference_date"] = Note([2020, 1, 0], "assumed: year, day of year, hour that dates are counted from")
    if dated:
        years = arrays.read(str(values["dates"].value["year"]))
        first = int(years[years > 1900].min()) if (years > 1900).any() else 2020
        values["reference_date"] = Note([first, 1, 0], "measured: the first year")
    out = {}
    for known in sensors:
        said = entry(known, plan.chosen[known.stream.name])
        del said["path"]
        note = "\n".join([*known.stream.notes, *(f"TODO: {t}" for t in known.guess.todo)])
        out[known.stream.name] = Note(said, "\n".join([note, *(f"WARNING: {t}" for t in known.guess.warnings)]).strip())
    values["sensors"] = out
    for target in labels.values():
        _reference(target.value, sensors, plan)
    labels = {k: v for k, v in labels.items() if v.value.get("kind") != "pixels" or v.value.get("label_px")}
    if labels:
        values["targets"] = labels
    splits: dict[str, str] = {}
    if "split" in values:
        found = sorted(set(decoded(arrays.path, arrays.read(str(values["split"].value), whole=True)).tolist()))
        splits = {meant: text for text in found if (meant := split_of(text))}
    notes = list(plan.notes)
    if not splits:
        notes.append("TODO: no array of splits: every split is the whole file, so no score is honest; add one")
    kinds = {key: str(value.value["kind"]) for key, value in labels.items()}
    warned = [text for k in sensors for text in k.guess.warnings]
    return Draft(values["name"], values, survey, sensors, arrays.count, splits, plan, kinds, notes, warned)


def _columns(values: dict[str, Any], arrays: _Arrays, columns: Sequence[Array]) -> list[str]:
    """Say which arrays hold names, places, splits and lengths; gives those arrays."""
    names = {plain(str(a.name)): a for a in columns}
    texts = [a for a in columns if a.dtype.kind in "SUO"]
    ids = [a for a in texts if plain(str(a.name)) in IDS] or [a for a in texts if "id" in plain(str(a.name))]
    for array in ids:
        if len(np.unique(arrays.read(str(array.name), whole=True))) == arrays.count:
            values["id"] = Note(str(array.name), "seen: a name for each sample")
            break
    lon = next((names[n] for n in LONGITUDES if n in names), None)
    lat = next((names[n] for n in LATITUDES if n in names), None)
    if lon is not None and lat is not None:
        values["place"] = Note([str(lon.name), str(lat.name)], "seen: arrays of degrees")
    for key, words in (("split", SPLITS), ("length", LENGTHS)):
        found = next((names[w] for w in words if w in names), None)
        if found is not None and (key != "split" or found.dtype.kind in "SUO"):
            values[key] = Note(str(found.name), "seen: by its name")
    taken = [values[key].value for key in ("id", "place", "split", "length") if key in values]
    return [name for value in taken for name in (value if isinstance(value, list) else [value])]


def _date_arrays(arrays: _Arrays) -> dict[str, str]:
    found = {plain(n): n for n, a in arrays.arrays.items() if len(a.shape) == 2 and a.dtype.kind in "iu"}
    parts = {part: found[w] for part in ("year", "month", "day") for w in (part, f"{part}s") if w in found}
    return parts if {"year", "month"} <= set(parts) else {}


def _dates(values: dict[str, Any], arrays: _Arrays) -> int | None:
    """Say which arrays hold dates; gives the number of dates."""
    parts = _date_arrays(arrays)
    if not parts:
        return None
    day = parts.get("day", 15)
    note = "seen: by their names" if "day" in parts else "seen: by their names; assumed: the 15th of the month"
    values["dates"] = Note({"year": parts["year"], "month": parts["month"], "day": day}, note)
    return arrays.arrays[parts["year"]].shape[1]


def axes_of(array: Array, steps: int | None) -> tuple[str, ...] | None:
    """Axes after the sample: as the file names them, or by sizes (assumed)."""
    shape = array.shape[1:]
    if array.said:
        return array.axes[1:] if set(array.axes[1:]) <= {"date", "band", "row", "col"} else None
    ways = {1: _one_axis, 2: _two_axes, 3: _three_axes, 4: _four_axes}
    return ways[len(shape)](shape, steps, len(array.bands)) if len(shape) in ways else None


def _one_axis(shape: tuple[int, ...], steps: int | None, named: int) -> tuple[str, ...]:
    return ("date",) if shape[0] == steps and steps != named else ("band",)


def _two_axes(shape: tuple[int, ...], steps: int | None, named: int) -> tuple[str, ...]:
    if named in shape and shape[0] != shape[1]:
        return ("band", "date") if shape[0] == named else ("date", "band")
    if steps in shape:
        return ("date", "band") if shape[0] == steps else ("band", "date")
    return ("row", "col") if min(shape) > 20 or shape[0] == shape[1] > 4 else ("date", "band")


def _three_axes(shape: tuple[int, ...], steps: int | None, named: int) -> tuple[str, ...]:
    if steps == shape[0] != named and min(shape[1:]) > 1:
        return ("date", "row", "col")
    return ("row", "col", "band") if shape[2] <= 20 < min(shape[:2]) else ("band", "row", "col")


def _four_axes(shape: tuple[int, ...], steps: int | None, named: int) -> tuple[str, ...]:
    return ("date", "row", "col", "band") if shape[3] <= 20 < min(shape[1:3]) else ("date", "band", "row", "col")


def _stream(content: Content, arrays: _Arrays, array: Array, axes: tuple[str, ...]) -> tuple[Stream, ndarray]:
    """A stream, and some of its images (n t c h w)."""
    x = np.stack([to_tchw(one, axes) for one in arrays.read(str(array.name))])  # type: ignore[arg-type]
    t, c, h, w = x.shape[1:]
    stream = Stream(
        name=plain(str(array.name)),
        kind="sensor",
        path=content.path,
        files=[File(content.path, {})],
        suffix="",
        size=(h, w),
        count=c,
        bands=array.bands if len(array.bands) == c else (),
        arrays=str(array.name),
        axes=axes,
        number_of_dates=t,
        head=array,
        nodata=array.nodata,
    )
    stream.sizes[h, w] += 1
    if not array.said:
        stream.notes.append(f"assumed: after the sample, the axes of shape {array.shape} are {', '.join(axes)}")
    if array.unit:
        stream.notes.append(f"seen: the file says {array.unit!r}")
    return stream, x


def _known(stream: Stream, x: ndarray, hints: str) -> Known:
    n, c, h = x.shape[0], x.shape[2], x.shape[3]
    pixels = np.moveaxis(x, 2, -1).reshape(-1, c).astype(np.float64)
    step = max(1, len(pixels) // 200_000)
    levels = levels_from(pixels[::step], stream, list(x[:: max(1, n // 16), 0]) if h > 1 else [])
    found = guess(stream, replace(levels, images=n), hints, 10.0)
    levels = replace(levels, images=n)
    known = {"s2": 10.0, "s1": 10.0, "landsat": 30.0}.get(found.family)
    note = "assumed: usual for this sensor" if known else "TODO: metres per pixel; 10 is made up"
    return Known(stream, found, levels, known or 10.0, note, samples=n)


def _pixels(labels: dict[str, Any], arrays: _Arrays, array: Array, survey: Survey) -> None:
    values, numbers = np.unique(arrays.read(str(array.name)), return_counts=True)
    kept = [int(v) for v in values if v >= 0 and not (v == 255 and array.dtype == np.uint8)]
    if not 2 <= len(kept) <= MOST_CLASSES or len(array.shape) != 3:
        survey.leave(f"{array.name}", f"holds {len(kept)} values in shape {array.shape}: no maps of classes")
        return
    target: dict[str, Any] = {"kind": "pixels", "array": array.name}
    if kept == list(range(len(kept))):
        target["classes"] = Note([f"class {v}" for v in kept], "TODO: name the classes")
    else:
        target["codes"] = Note({v: f"class {v}" for v in kept}, "TODO: name the classes")
    others = sorted({int(v) for v in values} - set(kept))
    if others:
        target["ignore"] = others[0]
    total = numbers.sum()
    shown = ", ".join(f"{v:g} {m / total:.1%}" for v, m in zip(values, numbers, strict=True))
    target["_px"] = array.shape[1]
    labels[plain(str(array.name))] = Note(target, f"measured on {len(arrays.index)} samples: {shown}")


def _reference(target: dict[str, Any], sensors: Sequence[Known], plan: Any) -> None:
    """Give a target of pixels its reference sensor, if there is one whose patches hold whole label pixels."""
    side = target.pop("_px", None)
    if side is None:
        return
    for known in sorted(sensors, key=lambda k: k.stream.size != (side, side)):
        chosen = plan.chosen[known.stream.name]
        if known.stream.size[0] > 1 and side * chosen.patch_px % known.stream.size[0] == 0:
            target["reference_sensor"] = known.stream.name
            target["label_px"] = side * chosen.patch_px // known.stream.size[0]
            return


def _labels(arrays: _Arrays, columns: Sequence[Array], survey: Survey, content: Content) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for array in columns:
        name = str(array.name)
        labelled = has(name, LABELS | {"y", "crop", "category", "croptype", "landcover", "species"})
        if array.dtype.kind == "f" and labelled:
            note = "assumed: a number for each sample, by its name"
            out[plain(name)] = Note({"kind": "regression", "array": name, "classes": [name]}, note)
        elif array.dtype.kind in "iu" and labelled:
            values, numbers = np.unique(arrays.read(name, whole=True), return_counts=True)
            kept = [int(v) for v in values if v >= 0]
            if not 2 <= len(kept) <= MOST_CLASSES:
                survey.leave(
                    f"{content.path}: {name}", f"holds {len(kept)} codes; choose some with `codes`, `others: ignore`"
                )
                continue
            target: dict[str, Any] = {"kind": "classes", "array": name}
            target["codes"] = Note({v: f"class {v}" for v in kept}, "TODO: name the classes")
            target["others"] = "ignore" if len(kept) < len(values) else "refuse"
            most = ", ".join(f"{values[i]} {numbers[i]:,}" for i in np.argsort(-numbers)[:8])
            out[plain(name)] = Note(target, f"assumed: classes, by its name; measured, most often: {most}")
        else:
            survey.leave(f"{content.path}: {name}", "a number or text for each sample; its name tells no use")
    return out
