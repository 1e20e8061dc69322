"""Which bands and which unit: from names, counts, wavelengths and levels. What is not certain says so."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from geomaestro.data.init.measure import Levels
from geomaestro.data.init.streams import Stream, family_of
from geomaestro.data.init.words import HEIGHTS, has, plain
from geomaestro.data.quality.bandstats import measure
from geomaestro.data.quality.fingerprint import CENTRES_NM, Finding, judge, normal_name
from geomaestro.data.quality.spectra import BANDS
from geomaestro.sensors import Scaling, Sensor

S2_NM = dict(zip((*BANDS, "B10"), (*CENTRES_NM, 1374), strict=True))
LANDSAT_NM = {  # USGS, Landsat 8 and 9
    "B01": 443, "B02": 482, "B03": 561, "B04": 655, "B05": 865, "B06": 1609, "B07": 2201, "B09": 1373, "B10": 10895,
    "B11": 12005,
}  # fmt: skip
COLOURS_NM = {  # assumed; typical centres
    "coastal": 443, "blue": 490, "b": 490, "green": 560, "g": 560, "red": 665, "r": 665, "nir": 842, "nir08": 865,
    "rededge1": 704, "rededge2": 740, "rededge3": 783, "swir16": 1610, "swir22": 2200, "swir1": 1610, "swir2": 2200,
}  # fmt: skip
L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
L1C_LAST = (*(b for b in L1C if b != "B8A"), "B8A")  # EuroSAT, SEN12MS
L2A = tuple(b for b in L1C if b != "B10")
TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
TEN_BY_SIZE = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")  # 10 m bands first; SEN12MS-like
ORDERS = {13: (L1C, L1C_LAST), 12: (L2A,), 10: (TEN, TEN_BY_SIZE), 4: (("B02", "B03", "B04", "B08"),)}
S2_GSD_M = 10.0


@dataclass
class Guess:
    """What a stream is taken to be. `seen` came from the files, `assumed` did not, `todo` is for the user to decide."""

    family: str
    bands: tuple[str, ...]
    unit: str = "other"
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    wavelengths: tuple[float, ...] | None = None
    groups: tuple[int, ...] = ()
    scaling: Scaling = field(default_factory=Scaling)
    bands_note: str = ""
    unit_note: str = ""
    nodata_note: str = ""
    todo: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    findings: list[Finding] | None = None
    """What the spectral fingerprint says, where it has been asked already."""

    def sensor(self, gsd_m: float) -> Sensor:
        """As the dataset spec will say it."""
        return Sensor(
            bands=self.bands, gsd_m=gsd_m, unit=self.unit, scale=self.scale, offset=self.offset, nodata=self.nodata,
            wavelengths_nm=self.wavelengths, groups=self.groups, scaling=self.scaling,
        )  # fmt: skip


def guess(stream: Stream, levels: Levels, hints: str, gsd_m: float) -> Guess:
    """The sensor of a stream; `hints` are words of its path and of the dataset's folder."""
    words = plain(f"{stream.name} {hints}")
    if stream.bands and stream.head is not None and not _is_alpha(stream, levels):
        out = _named(stream, levels, words)
    else:
        out = _counted(stream, levels, words, gsd_m)
    _nodata(out, stream, levels)
    out.scaling = scaling(out, levels)
    found = out.findings if out.findings is not None else _findings(out, levels, stream.name, gsd_m)
    out.warnings = [finding.message for finding in found]
    return out


def _is_alpha(stream: Stream, levels: Levels) -> bool:
    """Whether the "alpha" of four colour bands holds more than shown and not shown: then it is a measured band."""
    return stream.bands == ("R", "G", "B", "A") and float(levels.std[3]) > 0 and levels.median[3] not in (0, 255)


def _named(stream: Stream, levels: Levels, words: str) -> Guess:
    """A guess for bands that have names."""
    bands, low = stream.bands, [plain(band) for band in stream.bands]
    where = "seen: names in the files" if "band" not in stream.path or not stream.arrays else "seen: names of files"
    s2 = [normal_name(band) for band in bands]
    out = Guess("", bands, bands_note=where)
    waves = stream.head.wavelengths if stream.head is not None else ()
    if set(s2) <= set(S2_NM) and not re.search(r"(^|_)(l[45789]|landsat|l[ct]0\d|hls)", words):
        out.family, out.bands = "s2", tuple(s2)
        out.wavelengths, out.groups = tuple(float(S2_NM[b]) for b in s2), groups_of([S2_NM[b] for b in s2])
        _optical(out, stream, levels)
    elif set(s2) <= set(LANDSAT_NM) and len(bands) > 1:
        out.family, out.bands = "landsat", tuple(s2)
        out.wavelengths = tuple(float(LANDSAT_NM[b]) for b in s2)
        out.groups = groups_of(list(out.wavelengths))
        _optical(out, stream, levels)
    elif set(low) <= {"vv", "vh", "hh", "hv"}:
        out.family, out.groups = "s1", (1,) * len(bands)
        _radar(out, stream, levels)
    elif set(low) <= set(COLOURS_NM):
        out.family = "rgb" if len(bands) == 3 else "optical"
        out.wavelengths = tuple(float(COLOURS_NM[name]) for name in low)
        _optical(out, stream, levels)
    elif waves:
        out.family, out.wavelengths, out.groups = "optical", waves, groups_of(list(waves))
        _optical(out, stream, levels)
    else:
        _other(out, stream, levels, words)
    return out


def _counted(stream: Stream, levels: Levels, words: str, gsd_m: float) -> Guess:
    """A guess for bands without names, by their number and levels."""
    count = stream.count
    s2, s1 = re.search(r"s(en(tinel)?)?_?2", words), re.search(r"s(en(tinel)?)?_?1|(^|_)sar|radar", words)
    if any(has(word, HEIGHTS) for word in words.split("_")) and count == 1:
        return Guess(
            "dem", (_height_name(words),), "m", bands_note="assumed: from the name", unit_note="assumed: metres"
        )
    if count == 2 and (s1 or (float(levels.median.max()) < 0 and not s2)):
        return _radar_pair(stream, levels)
    if count in (3, 4) and levels.most <= 255 and levels.least >= 0 and stream.head is not None:
        return _colours(stream, levels)
    if count in ORDERS and _like_reflectance(levels) and (s2 or count > 4):
        return _sentinel2(stream, levels, gsd_m, told=bool(s2))
    bands = tuple(f"b{number}" for number in range(1, count + 1)) if count > 1 else (plain(stream.name),)
    out = Guess("image", bands, bands_note="TODO: name the bands in the order of the files")
    if count == 1:
        out.bands_note = "assumed: one band, named like its files"
    _other(out, stream, levels, words)
    if _like_reflectance(levels) and count > 2:
        out.todo.append("values look like reflectances; if they are, set `unit` to reflectance_1e4 or reflectance")
    return out


def _height_name(words: str) -> str:
    return next((word for word in words.split("_") if word in HEIGHTS), "elevation")


def _colours(stream: Stream, levels: Levels) -> Guess:
    """Three or four bands of 8 bits."""
    if stream.count == 3:
        out = Guess("rgb", ("R", "G", "B"), bands_note="assumed: three bands of 8 bits are red, green, blue")
    else:
        out = Guess("rgbn", ("R", "G", "B", "NIR"))
        out.bands_note = "assumed: red, green, blue, near infrared; aerial files also come as NIR, R, G, B"
        out.todo.append("check the order of the bands: vegetation is bright in NIR and dark in R")
    out.wavelengths = tuple(float(COLOURS_NM[band.lower()]) for band in out.bands)
    _optical(out, stream, levels)
    return out


def _sentinel2(stream: Stream, levels: Levels, gsd_m: float, *, told: bool) -> Guess:
    """Sentinel-2 by the number of bands; of known orders the one that the pixels contradict least."""
    tried: list[tuple[int, int, Guess]] = []
    for order in ORDERS[stream.count]:
        out = Guess("s2", order, wavelengths=tuple(float(S2_NM[b]) for b in order))
        out.groups = groups_of([S2_NM[b] for b in order])
        _optical(out, stream, levels)
        _nodata(out, stream, levels)
        out.findings = _findings(out, levels, stream.name, gsd_m)
        tried.append((sum(f.kind == "order" for f in out.findings), len(tried), out))
    wrong, number, best = min(tried)[0], min(tried, key=lambda t: t[:2])[1], min(tried, key=lambda t: t[:2])[2]
    level = {13: "Level-1C", 12: "Level-2A", 10: "its 10 and 20 m bands", 4: "its 10 m bands"}[stream.count]
    why = "named so" if told else f"{stream.count} bands that look like reflectances"
    best.bands_note = f"assumed: Sentinel-2, {level} ({why}), in this order"
    if len(tried) > 1 or wrong:
        said = "the pixels contradict it" if wrong else "the pixels agree with it"
        others = "; ".join(", ".join(o) for n, o in enumerate(ORDERS[stream.count]) if n != number)
        best.bands_note += f"; {said}" + (f"; the other usual order is {others}" if others else "")
    if wrong or stream.count == 4:
        best.todo.append("check the order of the bands")
    return best


def _radar_pair(stream: Stream, levels: Levels) -> Guess:
    first = bool(levels.median[0] >= levels.median[1])
    out = Guess("s1", ("VV", "VH") if first else ("VH", "VV"), groups=(1, 1))
    out.bands_note = "assumed: Sentinel-1; the brighter band is VV (VH is weaker over land)"
    _radar(out, stream, levels)
    return out


def _radar(out: Guess, stream: Stream, levels: Levels) -> None:
    out.scale = stream.head.scale if stream.head is not None else 1.0
    middle = float(levels.median.max()) * out.scale
    if middle < 0:
        out.unit, out.unit_note = "dB", "assumed: values are negative"
    elif levels.least >= 0 and middle < 2:
        out.unit, out.unit_note = "linear_power", "assumed: values are positive and small"
    else:
        out.unit, out.unit_note = "other", "TODO: neither decibel nor linear power; say what the numbers mean"
    if out.scale != 1:
        out.unit_note += f"; scale {out.scale:g} seen in the files"


def _optical(out: Guess, stream: Stream, levels: Levels) -> None:
    """Unit of reflectances and digital numbers."""
    scale = stream.head.scale if stream.head is not None else 1.0
    if stream.head is not None and stream.head.dtype == np.uint8:
        out.unit, out.unit_note = "dn8", "seen: 8 bits"
    elif _thermal(out):
        out.scale, out.unit, out.unit_note = scale, "other", "assumed: thermal bands; TODO: K if scale says so"
        out.groups = ()
    elif abs(scale - 1e-4) < 1e-9 and levels.most > 3:
        out.unit, out.unit_note = "reflectance_1e4", "seen: scale_factor 0.0001 in the files"
    elif float(levels.high.max()) <= 3.0:
        out.unit, out.unit_note = "reflectance", "assumed: values lie between 0 and about 1"
    elif _like_reflectance(levels):
        out.unit, out.unit_note = "reflectance_1e4", "assumed: values lie between 0 and about 10,000"
    else:
        out.unit, out.unit_note = "other", f"TODO: median {float(np.median(levels.median)):.4g}; what unit is that?"


def _thermal(out: Guess) -> bool:
    return out.wavelengths is not None and min(out.wavelengths) > 4000


def _other(out: Guess, stream: Stream, levels: Levels, words: str) -> None:
    """Bands that no table knows: the unit of the file's attributes, or none."""
    head = stream.head
    out.family = out.family or family_of(" ".join(out.bands)) or "image"
    out.scale = head.scale if head is not None else 1.0
    out.offset = head.offset if head is not None else 0.0
    unit = head.unit.strip() if head is not None else ""
    known = {"k": "K", "kelvin": "K", "m": "m", "metre": "m", "meters": "m", "mm": "mm", "degree": "degree", "db": "dB"}
    heights = [plain(band) for band in out.bands]
    if all(name in HEIGHTS for name in heights):
        out.unit, out.unit_note = "m", "assumed: heights are in metres"
    elif len(out.bands) == 1 and unit.lower() in known:
        out.unit, out.unit_note = known[unit.lower()], f"seen: units {unit!r}"
    else:
        out.unit, out.unit_note = (
            "other",
            "not comparable with other data"
            + (f"; the file says {unit!r}" if unit and (len(out.bands) == 1 or "band" in stream.axes) else ""),
        )
    if out.unit == "other" and levels.most > 0 and out.scale == 1:
        out.todo.append("say the unit if you know it: it guards against mixing data that differ")


def _like_reflectance(levels: Levels) -> bool:
    median, high = float(np.median(levels.median)), float(levels.high.max())
    if levels.most <= 255 and levels.least >= 0 and high > 3:
        return False
    return (30 <= median <= 12000 and 300 <= high <= 30000) or (0.003 <= median <= 1.2 and high <= 3)


def groups_of(waves: Sequence[float]) -> tuple[int, ...]:
    """Sizes of runs of neighbouring bands that vary together: visible to first red edge, near, shortwave infrared."""
    regions = [sum(nm > edge for edge in (720, 1000, 3000)) for nm in waves]
    sizes = [1] if regions else []
    for one, other in pairwise(regions):
        if one == other:
            sizes[-1] += 1
        else:
            sizes.append(1)
    return tuple(sizes)


def _nodata(out: Guess, stream: Stream, levels: Levels) -> None:
    if stream.nodata is not None:
        out.nodata, out.nodata_note = stream.nodata, "seen: declared in the files"
    elif levels.nothing is not None:
        if levels.nothing == 0 and out.unit not in ("reflectance_1e4", "reflectance", "linear_power", "dB"):
            return
        out.nodata = levels.nothing
        out.nodata_note = f"assumed: {levels.share:.1%} of the pixels hold it in all bands; not declared in the files"


def scaling(out: Guess, levels: Levels) -> Scaling:
    """Zero mean and unit deviation, band by band, from the measured levels; of logarithms for linear power."""
    log = out.unit == "linear_power"
    mean, std = levels.log if log else (levels.mean * out.scale + out.offset, levels.std * abs(out.scale))
    std = np.where(std > 0, std, 1.0)
    return Scaling(log=log, subtract=_digits(mean), divide_by=_digits(std))


def _digits(values: np.ndarray) -> tuple[float, ...]:
    """Three digits; enough for a scaling, and readable."""
    return tuple(float(f"{value:.3g}") for value in values)


def _findings(out: Guess, levels: Levels, name: str, gsd_m: float) -> list[Finding]:
    sensor = out.sensor(gsd_m)
    total = None
    for picture in levels.pictures:
        one = measure(picture[None], None, sensor)
        total = one if total is None else total + one
    return [] if total is None else list(judge(total, sensor, name))
