"""What a spec says of each sensor, with comments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomaestro.data.init.contents import look
from geomaestro.data.init.known import Guess
from geomaestro.data.init.measure import Levels
from geomaestro.data.init.notes import Note
from geomaestro.data.init.sizes import Chosen, gsd_of
from geomaestro.data.init.streams import Stream

SCL_UNCLEAR = [3, 8, 9, 10]  # ESA Scene Classification: shadow of cloud, cloud of medium and high probability, cirrus
USUAL_GSD_M = {"s2": 10.0, "s1": 10.0, "landsat": 30.0}


@dataclass
class Known:
    """A stream that is a sensor, and all that is known of it."""

    stream: Stream
    guess: Guess
    levels: Levels
    gsd_m: float
    gsd_note: str
    samples: int = 0
    missing: int = 0
    clouds: Stream | None = None


def gsd(stream: Stream, family: str, pieces: Sequence[Known]) -> tuple[float, str]:
    """Metres per pixel, and how it is known."""
    if stream.grid is not None:
        return float(f"{gsd_of(stream.grid):.6g}"), "seen: georeference"
    other = next((k for k in pieces if k.gsd_note.startswith("seen")), None)
    if other is not None:
        ratio = other.stream.size[0] / stream.size[0]
        return float(f"{other.gsd_m * ratio:.6g}"), f"assumed: the same extent as {other.stream.name}"
    if family in USUAL_GSD_M:
        return USUAL_GSD_M[family], "assumed: usual for this sensor; the files have no georeference"
    return 10.0, "TODO: metres per pixel; the files have no georeference, and 10 is made up"


def entry(known: Known, chosen: Chosen) -> dict[str, Any]:
    """The values of one sensor."""
    return _stored(known) | _measured(known) | _taken(known, chosen)


def _stored(known: Known) -> dict[str, Any]:
    """Where it lies."""
    stream = known.stream
    out: dict[str, Any] = {"path": stream.path}
    if stream.arrays is not None:
        out["array"] = list(stream.arrays) if isinstance(stream.arrays, tuple) else stream.arrays
    if stream.axes:
        out["axes"] = list(stream.axes)
    if stream.dates is not None:
        dates: dict[str, Any] = dict(stream.dates)
        if "part" in dates:
            dates["part"] = int(dates["part"])
        out["dates"] = Note(dates, f"seen: {stream.number_of_dates} dates of a typical sample")
    if known.clouds is not None:
        out["clouds"] = _clouds(known.clouds)
    return out


def _measured(known: Known) -> dict[str, Any]:
    """What it measures."""
    g = known.guess
    out: dict[str, Any] = {}
    out["bands"] = Note(list(g.bands), g.bands_note)
    if g.wavelengths is not None:
        out["wavelengths_nm"] = list(g.wavelengths)
    out["gsd_m"] = Note(known.gsd_m, known.gsd_note)
    out["unit"] = Note(g.unit, g.unit_note)
    for name, usual in (("scale", 1.0), ("offset", 0.0)):
        if getattr(g, name) != usual:
            out[name] = getattr(g, name)
    if g.nodata is not None:
        out["nodata"] = Note(g.nodata, g.nodata_note)
    if len(g.groups) > 1:
        out["groups"] = Note(list(g.groups), "assumed: bands that vary together share statistics of the target")
    out["scaling"] = _scaling(known)
    return out


def _taken(known: Known, chosen: Chosen) -> dict[str, Any]:
    """What a model takes of it."""
    out: dict[str, Any] = {}
    if chosen.fit != "none":
        out["fit"] = Note(chosen.fit, chosen.note or "assumed")
    if chosen.to_px is not None:
        out["to_px"] = list(chosen.to_px)
    if known.missing:
        out["optional"] = Note(True, f"seen: {known.missing:,} of {known.samples:,} samples lack it")
    height, width = chosen.size_px
    rows, cols = height // chosen.patch_px, width // chosen.patch_px
    values = {"size_px": height if height == width else [height, width], "patch_px": chosen.patch_px}
    values["dates"] = chosen.dates
    size = "" if chosen.fit != "none" or not chosen.note else f"; {chosen.note}"
    out["input"] = Note(values, f"assumed: {rows} x {cols} patches a date{size}")
    return out


def _clouds(stream: Stream) -> Note:
    values: dict[str, Any] = {"path": stream.path}
    if stream.arrays is not None:
        values["array"] = stream.arrays
    if stream.axes:
        values["axes"] = list(stream.axes)
    if "scl" in stream.name or "SCL" in str(stream.arrays):
        return Note({**values, "values": SCL_UNCLEAR}, "assumed: ESA scene classification; shadow, clouds, cirrus")
    return Note({**values, "above": 0.0}, "assumed: any number above 0 means cloud")


def _scaling(known: Known) -> Note:
    s = known.guess.scaling
    values: dict[str, Any] = {"log": True} if s.log else {}
    values |= {"subtract": list(_tuple(s.subtract)), "divide_by": list(_tuple(s.divide_by))}
    l = known.levels  # noqa: E741
    what = "mean and deviation of the logarithm" if s.log else "mean and deviation"
    return Note(
        values,
        f"measured: {what}, 1st to 99th percentile, of {l.images} images; values from {l.least:.6g} to {l.most:.6g}",
    )


def _tuple(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _same_dates(root: Path, stream: Stream, flag: Stream, fields: Sequence[str]) -> bool:
    """Whether a sample's flags have as many dates as its images."""
    sample = tuple(stream.files[0].fields.get(n, "") for n in fields)
    counts = []
    for one in (stream, flag):
        files = [f for f in one.files if tuple(f.fields.get(n, "") for n in fields) == sample]
        if not files:
            return False
        if one.dates is not None and "field" in one.dates:
            counts.append(len({f.fields.get("date") for f in files}))
        else:
            name = one.arrays if isinstance(one.arrays, str) or one.arrays is None else one.arrays[0]
            counts.append(next((a.size("date") for a in look(root, files[0].path).arrays if a.name == name), 0))
    return counts[0] == counts[1]


def attach_clouds(
    sensors: Sequence[Known], flags: Sequence[Stream], fields: Sequence[str], root: Path
) -> list[tuple[Stream, str]]:
    """Give optical sensors the cloud maps that fit them; gives the others with the reason."""
    used: set[str] = set()
    for known in sensors:
        if known.guess.family not in ("s2", "landsat", "optical", "rgb", "rgbn"):
            continue
        for flag in flags:
            stream = known.stream
            fits = not (stream.size[0] % flag.size[0] or stream.size[1] % flag.size[1])
            words = set(flag.path.replace("/", "_").split("_")) & set(stream.path.replace("/", "_").split("_"))
            everywhere = flag.samples(fields) >= stream.samples(fields)
            if flag.kind == "clouds" and fits and words and everywhere and _same_dates(root, stream, flag, fields):
                known.clouds = flag
                used.add(flag.name)
                break
    reasons: Mapping[str, str] = {
        "clouds": "cloud map that fits no optical sensor in dates and size",
        "quality": "quality flags; if you know their values, use them as `clouds` or `invalid` of a sensor",
    }
    return [(flag, reasons[flag.kind]) for flag in flags if flag.name not in used]
