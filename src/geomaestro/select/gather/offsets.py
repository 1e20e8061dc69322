"""The 1000 that Sentinel-2 processing from baseline 04.00 on adds to all numbers: what an item tells of it.

Since 25 January 2022 products hold reflectance times 10,000 plus 1000, 0 being no data. Catalogues differ: the
Planetary Computer has products as they are and tells the baseline alone; Earth Search took the offset off most of its
`sentinel-2-l2a`, tells so by `earthsearch:boa_offset_applied`, and leaves `offset: -0.1` in `raster:bands` all the
same, where the flag is right; of some items the flag says false though it is off (Element84/earth-search issues 9, 66
and 71). So what an item tells is checked against its pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geomaestro.select.gather.faults import Unusable

SHIFT_DN = 1000
SHIFTED_FROM = 4.0  # baseline
UNKNOWN_BASELINE = 99.0  # 99.99: processed by others than ESA, before and after the change
FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
BASELINES = ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline")
LEAST_MEDIAN_DN = -200  # assumed; the median of a band over a patch is no reflectance below -0.02
REMEDY = "give offset_dn=0 or offset_dn=1000 if you know it, or choose another collection"


@dataclass(frozen=True)
class Offset:
    """What is to be taken off the stored numbers; the baseline as told, and what told the offset."""

    dn: int
    baseline: str | None
    told_by: str


def offset_of(item: Mapping[str, Any], assets: Mapping[str, Mapping[str, Any]], said: int | str) -> Offset:
    """The offset of an item's bands, or the one that the recipe says.

    Raises:
        Unusable: naming the item and the remedy, if it is not told, or told in two ways that contradict each other.
    """
    told = item.get("properties") or {}
    baseline = next((str(told[key]) for key in BASELINES if told.get(key) is not None), None)
    if said != "auto":
        return Offset(int(said), baseline, "the recipe")
    name = item.get("id")
    flag = next((told[key] for key in FLAGS if told.get(key) is not None), None)
    if flag is True:
        return Offset(0, baseline, "boa_offset_applied")
    by_baseline, by_bands = _of_baseline(baseline), _of_bands(assets)
    if by_baseline is None and by_bands is None:
        shown = "has no s2:processing_baseline" if baseline is None else f"is of baseline {baseline}"
        raise Unusable(f"item {name}: {shown} and no raster:bands, so whether 1000 was added is unknown; {REMEDY}")
    if by_baseline is not None and by_bands is not None and by_baseline != by_bands:
        raise Unusable(
            f"item {name}: baseline {baseline} means an offset of {by_baseline}, raster:bands {by_bands}; {REMEDY}"
        )
    if by_bands is not None:
        return Offset(by_bands, baseline, "raster:bands")
    assert by_baseline is not None, "one of the two is told"
    return Offset(by_baseline, baseline, "the baseline")


def _of_baseline(baseline: str | None) -> int | None:
    try:
        number = float(baseline or "")
    except ValueError:
        return None
    if not 0 < number < UNKNOWN_BASELINE:
        return None
    return SHIFT_DN if number >= SHIFTED_FROM else 0


def _of_bands(assets: Mapping[str, Mapping[str, Any]]) -> int | None:
    """From scale and offset of bands (STAC raster extension, or `bands` of STAC 1.1); None where none tells."""
    found = set()
    for asset in assets.values():
        bands = asset.get("raster:bands") or asset.get("bands") or [{}]
        band = {**bands[0], **{key: asset[f"raster:{key}"] for key in ("scale", "offset") if f"raster:{key}" in asset}}
        scale, offset = (band.get(key, band.get(f"raster:{key}")) for key in ("scale", "offset"))
        if isinstance(scale, int | float) and isinstance(offset, int | float) and scale > 0:
            found.add(round(-offset / scale))
    if len(found) > 1:
        raise Unusable(
            f"raster:bands tell different offsets ({', '.join(map(str, sorted(found)))}) of one item's bands"
        )
    return found.pop() if found else None


def without_offset(images: np.ndarray, unknown: np.ndarray, offset: Offset, nodata: float) -> np.ndarray:
    """Images (c h w) with the offset taken off what was measured; (h w) `unknown` pixels and nodata stay as they are.

    What would fall to nodata or below becomes the least number above it: 1 where nodata is 0.

    Raises:
        Unusable: if the numbers contradict the offset: it was taken off already.
    """
    if offset.dn == 0:
        return images
    measured = ~unknown & (images != nodata)
    shifted = images.astype(np.int64) - offset.dn
    for band, here in zip(shifted, measured, strict=True):
        if here.any() and np.median(band[here]) < LEAST_MEDIAN_DN:
            raise Unusable(
                f"its item tells by {offset.told_by} of an offset of {offset.dn}, but half of a band would fall below "
                f"{LEAST_MEDIAN_DN}: it was taken off already; {REMEDY}"
            )
    out = np.where(measured, np.clip(shifted, int(nodata) + 1, np.iinfo(images.dtype).max), images)
    return out.astype(images.dtype)
