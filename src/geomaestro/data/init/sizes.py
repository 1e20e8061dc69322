"""Sizes: what a model takes in of each sensor, and how images are brought onto each other.

A sensor gets 25 to 400 tokens a date where its size allows, and at most 16 dates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import cos, gcd, lcm, log, radians
from typing import Any

from geomaestro.data.files.align import same_crs
from geomaestro.data.init.notes import Note
from geomaestro.grid import Grid, common_units

METRES_PER_DEGREE = 111_320.0
CROP_FROM, CROP_TO = 160, 128  # pixels; assumed: larger images are seen in parts
DATES, TOKENS = 16, 1600  # assumed; tokens of a sample that one CPU core can train on
FEW, MANY, GOAL = 25, 400, 64  # tokens of one date


@dataclass
class Piece:
    """A sensor or a map of labels, as the plan sees it."""

    name: str
    size: tuple[int, int]
    gsd_m: float
    dates: int = 1
    varies: bool = False
    grid: Grid | None = None
    is_label: bool = False


@dataclass
class Chosen:
    """What was chosen for a piece."""

    size_px: tuple[int, int]
    patch_px: int
    dates: int = 1
    to_px: tuple[int, int] | None = None
    fit: str = "none"
    note: str = ""


@dataclass
class Plan:
    """Sizes of all sensors, and the crop or the ground that joins them."""

    chosen: dict[str, Chosen]
    reference: str
    crop: Any = None
    ground: Any = None
    table: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Per sensor: name, own grid, target grid, resampling."""
    notes: list[str] = field(default_factory=list)


def gsd_of(grid: Grid) -> float:
    """Metres of a pixel; of geographic coordinates at the latitude of its middle."""
    a, b = grid.transform[0], grid.transform[3]
    size = (a * a + b * b) ** 0.5
    if _geographic(grid):
        _, south, _, north = grid.bounds
        return size * METRES_PER_DEGREE * max(0.01, cos(radians((south + north) / 2)))
    return float(size)


def _geographic(grid: Grid) -> bool:
    from rasterio.crs import CRS

    return bool(CRS.from_user_input(grid.crs).is_geographic)


def make_plan(pieces: Sequence[Piece], grids: Sequence[Mapping[str, Grid | None]]) -> Plan:
    """The plan for sensors and label maps; `grids` are those of some samples, by name."""
    sensors = [piece for piece in pieces if not piece.is_label]
    reference = max(sensors, key=lambda p: (min(p.size), -p.gsd_m))
    plan = Plan({}, reference.name)
    apart = _apart(reference.name, grids)
    varied = [piece.name for piece in pieces if piece.varies]
    located = all(piece.grid is not None for piece in pieces)
    whole = {piece.name: piece.size for piece in pieces}
    if apart and located:
        whole = _on_ground(plan, pieces, reference, f"grids differ: {apart}")
    elif varied and located:
        whole = _on_ground(plan, pieces, reference, f"sizes differ from sample to sample ({', '.join(varied)})", True)
    elif apart or varied:
        why = apart or f"sizes of {', '.join(varied)} differ from sample to sample"
        plan.notes.append(
            f"TODO: {why}, and not all files have a georeference; images are cut or padded about the middle"
        )
    share = _crop(plan, pieces, whole, reference, padded=bool(varied) and plan.ground is None)
    grid = None
    for piece in sorted(sensors, key=lambda p: p.name != reference.name):
        height, width = whole[piece.name]
        size = (round(height * share[0]), round(width * share[1]))
        chosen = _sized(size, grid, cut=plan.crop is None and plan.ground is None)
        chosen.dates = min(DATES, piece.dates)
        if plan.ground is not None:
            chosen.fit = "average" if piece.gsd_m * 1.5 < _target_gsd(piece, whole, reference) else "bilinear"
            chosen.to_px = whole[piece.name] if plan.crop is not None else None
        elif piece.varies or chosen.size_px != size:
            chosen.fit = "pad"
        grid = grid or (chosen.size_px[0] // chosen.patch_px, chosen.size_px[1] // chosen.patch_px)
        plan.chosen[piece.name] = chosen
    _fewer_dates(plan)
    plan.table = [_row(piece, plan, whole) for piece in pieces]
    return plan


def _apart(reference: str, grids: Sequence[Mapping[str, Grid | None]]) -> str:
    """In what the extents of a sample's sensors differ; empty where they do not."""
    for sample in grids:
        base = sample.get(reference)
        for name, grid in sample.items():
            if base is None or grid is None or grid is base:
                continue
            if not same_crs(base.crs, grid.crs):
                return f"{name} has another coordinate system than {reference}"
            pixel = max(abs(base.transform[0]), abs(grid.transform[0]))
            if any(abs(a - b) > 0.5 * pixel for a, b in zip(base.bounds, grid.bounds, strict=True)):
                return f"{name} covers another extent than {reference}"
    return ""


def _on_ground(
    plan: Plan, pieces: Sequence[Piece], reference: Piece, why: str, smallest: bool = False
) -> dict[str, tuple[int, int]]:
    """Put samples on one extent; gives the size of every piece there."""
    height, width = reference.size[0] * reference.gsd_m, reference.size[1] * reference.gsd_m
    values: dict[str, Any] = {"sensor": reference.name}
    if smallest or _geographic_any(pieces):
        side = min(height, width)
        height = width = side
        if reference.grid is not None and not _geographic(reference.grid):
            values["size_m"] = float(f"{side:.6g}")
    plan.ground = Note(
        values, f"seen: {why}. Every sensor is resampled to the extent of {reference.name} as its `fit` says"
    )
    return {p.name: (max(1, round(height / p.gsd_m)), max(1, round(width / p.gsd_m))) for p in pieces}


def _geographic_any(pieces: Sequence[Piece]) -> bool:
    return any(piece.grid is not None and _geographic(piece.grid) for piece in pieces if not piece.is_label)


def _target_gsd(piece: Piece, whole: Mapping[str, tuple[int, int]], reference: Piece) -> float:
    return reference.size[0] * reference.gsd_m / whole[piece.name][0]


def _crop(
    plan: Plan, pieces: Sequence[Piece], whole: Mapping[str, tuple[int, int]], reference: Piece, *, padded: bool
) -> tuple[float, float]:
    """Choose to see large tiles in parts; gives the share of a tile to a side."""
    height, width = whole[reference.name]
    units = common_units(list(whole.values()))
    nothing = (1.0, 1.0)
    large = min(height, width) > CROP_FROM
    awkward = _best_patch((height, width), None) is None
    if padded or units[0] != units[1] or not (large or awkward):
        return nothing
    fits = []
    for part in range(1, units[0]):
        share = part / units[0]
        side = round(height * share)
        others = [round(min(whole[p.name]) * share) for p in pieces if not p.is_label and whole[p.name] != (1, 1)]
        if _best_patch((side, side), None) is None or (large and side > CROP_TO) or min(others) < 5:
            continue
        fits.append((abs(log(side / (CROP_TO if large else height))) + (0.3 if large and height % side else 0), part))
    if not fits:
        return nothing
    share = min(fits)[1] / units[0]
    gsd = reference.gsd_m
    tile, size = float(f"{height * gsd:.8g}"), float(f"{height * gsd * share:.8g}")
    cover = -(-height // round(height * share)) if large else 1
    plan.crop = Note(
        {"size_m": size, "tile_m": tile, "cover": cover},
        f"assumed: of a tile of {height} x {width} pixels the model sees {round(height * share)} to a side; "
        f"a tile counts as {cover} x {cover} samples",
    )
    return share, share


def _best_patch(size: tuple[int, int], grid: tuple[int, int] | None) -> int | None:
    """The patch that gives about 64 tokens, on a grid that fits the reference's; None if none gives 25 to 400."""
    best: tuple[float, int] | None = None
    for patch in range(1, gcd(*size) + 1):
        if size[0] % patch or size[1] % patch:
            continue
        rows, cols = size[0] // patch, size[1] // patch
        tokens = rows * cols
        if tokens > MANY or (tokens < FEW and min(size) > 4):
            continue
        cost = abs(log(tokens / GOAL)) + (0.3 if patch == 1 and min(size) > 4 else 0)
        if grid is not None and max(grid) % rows and rows % max(grid):
            cost += 0.5 + 0.1 * log(lcm(rows, *grid))
        if best is None or cost < best[0]:
            best = (cost, patch)
    return None if best is None else best[1]


def _sized(size: tuple[int, int], grid: tuple[int, int] | None, *, cut: bool) -> Chosen:
    """Pixels and patch; a size that has no fitting patch is cut to a multiple of 8, or less where it is small."""
    patch = _best_patch(size, grid)
    if patch is not None:
        return Chosen(size, patch)
    for step in (16, 8, 4, 2, 1):
        smaller = (size[0] // step * step, size[1] // step * step)
        patch = _best_patch(smaller, grid) if min(smaller) else None
        if patch is not None:
            how = "cut about the middle" if cut else "resampled"
            return Chosen(smaller, patch, note=f"assumed: {size[0]} x {size[1]} is {how} to whole patches")
    return Chosen(size, gcd(*size), note="assumed: no patch gives 25 to 400 tokens")


def _fewer_dates(plan: Plan) -> None:
    """Halve the dates of the longest series until a sample has not too many tokens."""

    def tokens(c: Chosen) -> int:
        return c.dates * (c.size_px[0] // c.patch_px) * (c.size_px[1] // c.patch_px)

    while sum(map(tokens, plan.chosen.values())) > TOKENS:
        longest = max(plan.chosen.values(), key=lambda c: (c.dates > 4, tokens(c)))
        if longest.dates <= 4:
            break
        longest.dates = max(4, longest.dates // 2)
    total = sum(map(tokens, plan.chosen.values()))
    plan.notes.append(f"a sample has {total:,} tokens: patches x dates of all sensors")


def _row(piece: Piece, plan: Plan, whole: Mapping[str, tuple[int, int]]) -> tuple[str, str, str, str]:
    own = f"{piece.size[0]} x {piece.size[1]} at {piece.gsd_m:.4g} m"
    if piece.grid is not None:
        own += f", {crs_name(piece.grid)}"
    if piece.is_label:
        return piece.name, own, "x".join(map(str, whole[piece.name])), "nearest" if plan.ground is not None else "-"
    chosen = plan.chosen[piece.name]
    target = f"{chosen.size_px[0]} x {chosen.size_px[1]}, patches of {chosen.patch_px}"
    return piece.name, own, target, {"none": "-", "pad": "cut or padded"}.get(chosen.fit, chosen.fit)


def crs_name(grid: Grid) -> str:
    """The code of a coordinate system."""
    from rasterio.crs import CRS

    code = CRS.from_user_input(grid.crs).to_epsg()
    return f"EPSG:{code}" if code else "no EPSG code"
