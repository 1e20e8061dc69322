"""The spectral fingerprint: do the pixels contradict what the dataset spec says of them?

`judge` compares pooled `Statistics` with a `Sensor`. What physics cannot tell is not judged: no finding is no proof.
`certain` is True where the spec cannot be right, False where something is improbable.
Band names and units are the spec's. DN is reflectance times 10,000.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy import ndarray

from geomaestro.data.quality.bandstats import Statistics, Summary
from geomaestro.data.quality.spectra import BANDS, SCENES, Scenes, likeliest_order
from geomaestro.sensors import Sensor

OPTICAL = {"reflectance": 1e4, "reflectance_1e4": 1.0}  # unit -> DN
IMAGING = {*OPTICAL, "linear_power", "dB", "dn8"}  # units whose bands vary within an image
NATIVE_M = dict.fromkeys(("B02", "B03", "B04", "B08"), 10) | dict.fromkeys(("B01", "B09", "B10"), 60)  # ESA; else 20
CENTRES_NM = (443, 492, 560, 665, 704, 740, 783, 833, 865, 945, 1614, 2202)  # ESA, Sentinel-2A; in the order of BANDS
NEAR_NM = 20.0  # assumed; further off, a band of another satellite is not compared
RANGES = {  # physics and assumed margins: least and greatest value a median may have
    "linear_power": (0.0, 10.0),
    "dB": (-60.0, 20.0),
    "dn8": (0.0, 255.0),
    "m": (-600.0, 9000.0),
    "K": (130.0, 380.0),
    "mm": (0.0, 20000.0),
    "degree": (-360.0, 360.0),
}
BRIGHTEST_DN, DARKEST_DN = 30000.0, 5.0  # physics: saturation is below 2.9; even black water scatters above 0.001
WHITE_DN = 5000.0  # assumed; dense cloud and snow, which are alike in most bands
LEAST_SAMPLES, LEAST_BANDS = 16, 4  # assumed; fewer tell no order


@dataclass(frozen=True)
class Finding:
    """One contradiction: the sensor, its kind in one word, and what was expected, what came and the remedy."""

    sensor: str
    kind: str
    message: str
    certain: bool


def judge(statistics: Statistics, sensor: Sensor, name: str, scenes: Scenes = SCENES) -> list[Finding]:
    """All that the pixels say against the spec of sensor `name`; empty where nothing does."""
    found = [*_missing(statistics, sensor, name), *_copied(statistics, sensor, name), *_units(statistics, sensor, name)]
    found += _radar(statistics, sensor, name)
    if sensor.unit not in OPTICAL or any(f.kind == "unit" for f in found):
        return found
    usable = [s for s in statistics.summaries if np.isfinite(s.levels).all()]
    known = _sentinel_names(sensor)
    if is_sentinel2(sensor):
        states = [_offset_state(summary, sensor, known) for summary in usable]
        found += _offsets(states, sensor, name)
        usable = [_without_offset(s, state, sensor) for s, state in zip(usable, states, strict=True) if state != "low"]
        resolution = _resolution_order(statistics.summaries, known, sensor, name)
        found += resolution or _cirrus(statistics.summaries, known, sensor, name)
    broken = {f.kind for f in found} & {"order", "zero", "empty", "copy", "constant"}
    return found if broken else found + _spectral_order(usable, known, sensor, name, scenes)


def is_sentinel2(sensor: Sensor) -> bool:
    """Whether the bands carry Sentinel-2's names in their meaning; Landsat's B05 is another band."""
    names = [normal_name(band) for band in sensor.bands]
    if any(name not in (*BANDS, "B10") for name in names):
        return False
    if sensor.wavelengths_nm is not None:
        centres = dict(zip((*BANDS, "B10"), (*CENTRES_NM, 1374), strict=True))
        return all(abs(centres[b] - nm) < NEAR_NM for b, nm in zip(names, sensor.wavelengths_nm, strict=True))
    return bool({"B8A", "B12"} & set(names)) or (sensor.gsd_m <= 20 and set(names) <= {"B02", "B03", "B04", "B08"})


def normal_name(band: str) -> str:
    """B2, b02, 02 -> B02; B08A, 8a -> B8A; other names stay."""
    found = re.fullmatch(r"B?0*([1-9]\d?)(A?)", band.strip().upper())
    if not found:
        return band
    return f"B{found[1]}A" if found[2] else f"B{int(found[1]):02d}"


def _sentinel_names(sensor: Sensor) -> list[str | None]:
    """The Sentinel-2 band each band is or, by wavelength, is like; None where there is none."""
    if is_sentinel2(sensor):
        return [normal_name(band) for band in sensor.bands]
    if sensor.wavelengths_nm is None:
        return [None] * len(sensor.bands)
    gaps = np.abs(np.subtract.outer(np.array(sensor.wavelengths_nm), np.array(CENTRES_NM)))
    like = [BANDS[i] if gap[i] <= NEAR_NM else None for gap, i in zip(gaps, gaps.argmin(1), strict=True)]
    return [band if band is not None and like.count(band) == 1 else None for band in like]


def _listed(sensor: Sensor, chosen: Sequence[int] | ndarray) -> str:
    return ", ".join(sensor.bands[int(i)] for i in chosen)


def _find(name: str, kind: str, text: str, *, certain: bool = True) -> Finding:
    return Finding(name, kind, f"sensor {name!r}: {text}", certain)


def _missing(statistics: Statistics, sensor: Sensor, name: str) -> Iterator[Finding]:
    """Bands that hold nothing: no value, only zeros, a single value, or values that are not finite."""
    key, looked = f"sensors.{name}", statistics.looked
    holes = np.flatnonzero(statistics.holes)
    if len(holes):
        text = f"valid pixels were expected to be numbers, but {_listed(sensor, holes)} hold NaN or infinity in up to "
        text += f"{int(statistics.holes.max())} of {statistics.images} images; set `{key}.nodata` or mend the files"
        yield _find(name, "not finite", text)
    if statistics.images and statistics.blank == statistics.images:
        text = f"none of {statistics.images} images has pixels that differ; is `{key}.nodata` ({sensor.nodata}) right, "
        yield _find(name, "empty", text + "and were the files written to the end?", certain=sensor.unit in IMAGING)
    if sensor.unit not in IMAGING:
        return
    # a small image may hold one value of a coarse band: such bands have to be constant everywhere
    single = statistics.constant if statistics.large else np.where(statistics.constant == looked, looked, 0)
    for kind, counts, what in (
        ("empty", statistics.empty, "no value but nodata"),
        ("zero", statistics.zero, "nothing but zeros"),
        ("constant", np.where(statistics.zero == 0, single, 0), "a single value"),
    ):
        bands = np.flatnonzero(counts)
        if len(bands):
            text = f"bands were expected to vary, but {_listed(sensor, bands)} hold {what} in up to "
            text += f"{int(counts.max())} of {looked} images where others vary; drop what was not measured "
            sure = kind != "constant" or bool((counts[bands] == looked).any())
            yield _find(name, kind, text + f"from `{key}.bands`, or declare its value as `{key}.nodata`", certain=sure)


def _copied(statistics: Statistics, sensor: Sensor, name: str) -> Iterator[Finding]:
    for pair in np.argwhere(np.triu(statistics.twins)):
        count = int(statistics.twins[tuple(pair)])
        text = f"bands {_listed(sensor, pair)} were expected to differ, but are equal in every pixel of {count} of "
        text += (
            f"{statistics.looked} images: one was copied over the other; correct `sensors.{name}.bands` or the files"
        )
        yield _find(name, "copy", text)


def _units(statistics: Statistics, sensor: Sensor, name: str) -> Iterator[Finding]:
    """Values that the unit cannot have."""
    if not statistics.summaries:
        return
    levels = np.stack([summary.levels for summary in statistics.summaries], axis=1)
    middle, bright = _median(levels[2]), float(np.nanmax(_median(levels[4])))
    remedy = f"correct `sensors.{name}.unit`, `scale` ({sensor.scale:g}) or `offset` ({sensor.offset:g})"
    said = None
    if sensor.unit in OPTICAL:
        dn = bright * OPTICAL[sensor.unit]
        if dn > BRIGHTEST_DN:
            said = f"reflectance was expected below 3, but the brightest band reaches {dn / 1e4:.4g}"
        elif dn < DARKEST_DN:
            said = f"reflectance was expected to reach 0.001 somewhere, but the brightest band stays at {dn / 1e4:.3g}"
    elif sensor.unit == "dn8" and bright <= 2 and not statistics.whole.all():
        said = f"whole numbers up to 255 were expected, but fractions up to {bright:.3g} came"
    elif sensor.unit == "dn8" and (np.nanmin(statistics.low) < 0 or np.nanmax(statistics.high) > 255):
        low, high = np.nanmin(statistics.low), np.nanmax(statistics.high)
        said = f"values from 0 to 255 were expected, but {low:g} to {high:g} came"
    elif sensor.unit in RANGES:
        low, high = RANGES[sensor.unit]
        if np.nanmin(middle) < low or np.nanmax(middle) > high:
            got = f"{np.nanmin(middle):.4g} to {np.nanmax(middle):.4g}"
            said = f"medians from {low:g} to {high:g} were expected in {sensor.unit}, but {got} came"
            said += "; these look like decibel" if sensor.unit == "linear_power" and np.nanmax(middle) < 0 else ""
    if said is None and sensor.unit == "dB" and np.nanmin(_median(levels[0])) >= 0:
        said = f"decibels were expected below 0 almost everywhere, but all are from 0 to {bright:.3g}, as linear power"
    if said is not None:
        yield _find(name, "unit", f"{said}; {remedy}")


def _radar(statistics: Statistics, sensor: Sensor, name: str) -> Iterator[Finding]:
    """VV is stronger than VH over every natural surface: by 3 to 15 dB (physics; measured 4.9 to 8.6)."""
    for strong, weak in (("VV", "VH"), ("HH", "HV")):
        names = [band.strip().upper() for band in sensor.bands]
        if strong not in names or weak not in names or not statistics.summaries:
            continue
        co, cross = names.index(strong), names.index(weak)
        swapped = [bool((s.levels[1:4, co] < s.levels[1:4, cross]).all()) for s in statistics.summaries]
        if np.mean(swapped) > 0.5:
            text = f"{strong} was expected to be stronger than {weak}, but it is weaker in {sum(swapped)} of "
            yield _find(name, "order", text + f"{len(swapped)} images; swap them in `sensors.{name}.bands`")


def _offset_state(summary: Summary, sensor: Sensor, known: Sequence[str | None]) -> str:
    """Whether an image is 1000 DN too "high", "likely" so, or too "low", "right", or "unknown".

    Source: ESA, processing baseline 04.00 (2022-01-25): DN carry +1000, to be taken off. Physics: cirrus (B10) is black
    in a clear sky; infrared is black over water; red is dark in dense green, but under haze it is not (measured), so
    that alone is no proof; some pixel of most scenes is dark in some band.
    """
    dn, of = summary.levels * OPTICAL[sensor.unit], {band: i for i, band in enumerate(known)}
    others = [i for i, band in enumerate(known) if band != "B10"]
    dark = [i for band, i in of.items() if band in ("B02", "B03", "B04", "B05")]
    clipped = len(dark) > 1 and (dn[2, dark] <= 0).sum() > 1 and dn[3].max() > 500
    if dn[2].min() < -300 or (dn[1, others] < -400).sum() > 1 or clipped:
        return "low"
    floor = dn[0, others].min()
    cirrus = dn[:, of["B10"]] if "B10" in of else np.full(len(dn), np.nan)
    if 900 <= cirrus[0] <= floor + 100 and cirrus[2] < 1500:  # no band is darker, so that it is cirrus
        return "high"
    if floor < 900:
        return "right"
    spectra = summary.spectra * OPTICAL[sensor.unit]
    if floor > 1700:
        return "unknown"
    return "high" if _grey_water(spectra, of) else "likely" if _grey_leaves(spectra, of) else "unknown"


def _grey_water(spectra: ndarray, of: dict[str | None, int]) -> bool:
    """Whether near and short-wave infrared are both 1000 DN where green is more, as over water 1000 DN too high."""
    if not {"B03", "B8A", "B11", "B12"} <= set(of):
        return False
    flat = spectra[:, [of["B8A"], of["B11"], of["B12"]]]
    water = (np.ptp(flat, axis=1) < 150) & (flat.max(1) < spectra[:, of["B03"]]) & (abs(flat.mean(1) - 1000) < 120)
    return bool(water.mean() > 0.02 and water.sum() > 2)


def _grey_leaves(spectra: ndarray, of: dict[str | None, int]) -> bool:
    """Whether red stays above 1000 DN in dense green vegetation."""
    infrared = of.get("B8A", of.get("B08"))
    if infrared is None or not {"B03", "B04"} <= set(of):
        return False
    red, green = spectra[:, of["B04"]], spectra[:, of["B03"]]
    leaves = (spectra[:, infrared] - red > 2000) & (green >= red)  # differences: the offset plays no part
    return bool(leaves.mean() > 0.02 and leaves.sum() > 2 and np.quantile(red[leaves], 0.05) >= 1000)


def _offsets(states: Sequence[str], sensor: Sensor, name: str) -> Iterator[Finding]:
    high, low, right, count = (*map(states.count, ("high", "low", "right")), len(states))
    step, key = 1000 / OPTICAL[sensor.unit], f"sensors.{name}.offset"
    likely = count >= 4 and "likely" in states  # assumed: four scenes are not all hazy
    if not right and not low and (high or likely):
        text = f"dark pixels were expected near 0, but lie near {step:g} in {high or count} of {count} images, and "
        text += "none is free of it: the offset of Sentinel-2 baseline 04.00 was not applied; "
        yield _find(name, "offset", text + f"set `{key}` to {sensor.offset - step:g}")
    elif high:
        text = (
            f"{high} of {count} images carry the offset of {step:g} of Sentinel-2 baseline 04.00 and {right} do not; "
        )
        yield _find(
            name,
            "mixed offset",
            text + f"no `{key}` suits both: subtract it from the files that carry it",
            certain=False,
        )
    elif count >= 10 and states.count("unknown") == count:
        text = f"a value below {0.9 * step:g} was expected in some band of some image, but none of {count} has one; if "
        text += f"Sentinel-2 baseline 04.00 wrote the files, set `{key}` to {sensor.offset - step:g}"
        yield _find(name, "offset", text, certain=False)
    if low:
        text = (
            f"reflectance was expected above 0, but in {low} of {count} images most of a band is below it or clipped: "
        )
        text += f"{step:g} was subtracted once too often; add it to `{key}` ({sensor.offset:g})"
        yield _find(name, "negative", text)


def _without_offset(summary: Summary, state: str, sensor: Sensor) -> Summary:
    shift = 1000 / OPTICAL[sensor.unit] if state == "high" else 0.0
    return replace(summary, spectra=summary.spectra - np.float32(shift))


def _median(rows: Sequence[ndarray] | ndarray) -> ndarray:
    """Median over images (c,), nan where a band is unknown in all."""
    columns = [column[np.isfinite(column)] for column in np.array(rows).T]
    return np.array([np.median(column) if len(column) else np.nan for column in columns])


def _native_m(known: Sequence[str | None]) -> ndarray:
    return np.array([NATIVE_M.get(str(band), 20) for band in known])


def _resolution_order(
    summaries: Sequence[Summary], known: Sequence[str | None], sensor: Sensor, name: str
) -> list[Finding]:
    """Bands measured at 10 m that were enlarged where bands measured at 20 or 60 m were not, and the like.

    Resampling all bands to one grid copies or smooths the pixels of coarse bands, never of fine ones alone.
    """
    if not summaries:
        return []
    native, steps = _native_m(known), _median([s.steps for s in summaries])
    sharpness = _median([s.sharpness for s in summaries])
    pairs = []
    for fine, coarse in np.argwhere(np.less.outer(native, native)):
        blocks = steps[fine] > steps[coarse]
        limit, factor = (0.06, 4) if native[fine] == 10 else (0.02, 2)  # measured: the true order differs by 10 and 2
        smooth = steps[fine] == steps[coarse] == 1 and sharpness[fine] < min(limit, sharpness[coarse] / factor)
        if blocks or smooth:
            pairs.append((int(fine), int(coarse)))
    if not pairs:
        return []
    fine, coarse = sorted({pair[0] for pair in pairs}), sorted({pair[1] for pair in pairs})
    text = f"{_listed(sensor, fine)} were expected to show finer detail than {_listed(sensor, coarse)}, as Sentinel-2 "
    text += "measures them, but were enlarged from coarser pixels and the others were not: bands are permuted; "
    return [_find(name, "order", text + f"correct the order of `sensors.{name}.bands`")]


def _cirrus(summaries: Sequence[Summary], known: Sequence[str | None], sensor: Sensor, name: str) -> list[Finding]:
    """No band is darker than B10, which sees only the high cloud that all bands see (top-of-atmosphere physics)."""
    if "B10" not in known or not summaries:
        return []
    dn = np.stack([s.levels[2] for s in summaries]) * OPTICAL[sensor.unit]
    above = _median(dn - dn[:, [known.index("B10")]])
    if not (above < -150).any():  # assumed; a difference has no offset
        return []
    cirrus, darkest = sensor.bands[known.index("B10")], sensor.bands[int(np.nanargmin(above))]
    text = f"no band was expected to be darker than {cirrus} (cirrus), but {darkest} is: bands are permuted; "
    return [_find(name, "order", text + f"correct the order of `sensors.{name}.bands`")]


def _spectral_order(
    summaries: Sequence[Summary], known: Sequence[str | None], sensor: Sensor, name: str, scenes: Scenes
) -> list[Finding]:
    """Another order of bands under which the pixels are more like known scenes than under the stated one.

    Where detail has been judged before, only bands of the same detail are exchanged.
    """
    columns = [i for i, band in enumerate(known) if band in BANDS]
    summaries = [s for s in summaries if len(s.contrasts) >= LEAST_SAMPLES and len(s.spectra) >= LEAST_SAMPLES]
    if len(columns) < LEAST_BANDS or not summaries:
        return []
    steps = _median([s.steps for s in summaries])[columns]
    sharpness = _median([s.sharpness for s in summaries])[columns]
    pairs = combinations(range(len(columns)), 2)
    detail = is_sentinel2(sensor)  # else detail has not been judged
    swaps = [(a, b) for a, b in pairs if not detail or _alike(a, b, steps, sharpness)]
    images = [(s.contrasts[:, columns], s.spectra[:, columns]) for s in summaries]
    bands = [str(known[i]) for i in columns]
    bright = np.array([np.median(s.levels[2, columns]) * OPTICAL[sensor.unit] > WHITE_DN for s in summaries])
    better = likeliest_order(images, bands, swaps=swaps, doubtful=bright, scenes=scenes)
    if better is None:
        return []
    moved = [i for i, source in enumerate(better.order) if i != source]
    like = ", ".join(bands[better.order.index(i)] for i in moved)
    text = (
        f"{_listed(sensor, [columns[i] for i in moved])} were expected, but the pixels are like {like}, in this order "
    )
    text += f"(a gain of {better.gain:.1f} nats per sample over {better.images} images): bands are permuted; "
    return [_find(name, "order", text + f"correct the order of `sensors.{name}.bands`", certain=better.images >= 3)]


def _alike(a: int, b: int, steps: ndarray, sharpness: ndarray) -> bool:
    """Whether two bands may have been resampled alike, so that swapping them leaves detail as it was."""
    if steps[a] != steps[b]:
        return bool(np.isnan(steps[a]) or np.isnan(steps[b]))
    low, high = sorted((sharpness[a], sharpness[b]))
    return not (steps[a] == 1 and low < 0.06 and high > 4 * low)
