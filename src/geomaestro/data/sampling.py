"""What a visit takes of a scene: a crop, one date per bin, a flip. All of it follows from (seed, epoch, index).

Axes: t date, d chosen date, c band, h row, w column.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from geomaestro.data.dates import nearest_dates, random_start
from geomaestro.data.reading import Visit, check_sizes, fixed_dates
from geomaestro.data.scenes import CLOUDY, UNKNOWN, Scene, Scenes, Series
from geomaestro.data.spec import Common, SensorEntry, Target
from geomaestro.grid import Window, common_units, whole_units, window_of
from geomaestro.samples import Sample

Shape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Turn:
    """Flip rows, flip columns, then swap them where everything is square. Source: official code."""

    up: bool
    left: bool
    swap: bool

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Turn the last two axes."""
        x = x[..., ::-1, :] if self.up else x
        x = x[..., ::-1] if self.left else x
        return np.ascontiguousarray(x.swapaxes(-1, -2) if self.swap else x)


class SceneDataset:
    """Samples of scenes. `read` with a visit draws as in training; without, the answer is always the same."""

    def __init__(self, scenes: Scenes, spec: Common) -> None:
        self.scenes, self.spec = scenes, spec
        self.parts = 1 if spec.crop is None else spec.crop.cover**2
        larger = any(entry.input.size_px != (1, 1) for entry in spec.sensors.values())
        self.draws = spec.crop is not None or larger or scenes.draws_dates

    def __len__(self) -> int:
        return len(self.scenes) * self.parts

    def ids(self) -> list[str]:
        """Names of the samples, in order; a crop adds its row and column in the cover."""
        if self.spec.crop is None:
            return self.scenes.ids()
        side = self.spec.crop.cover
        return [f"{name}/{row}-{col}" for name in self.scenes.ids() for row in range(side) for col in range(side)]

    def places(self) -> list[tuple[float, float] | None]:
        """Longitude and latitude of the samples in degrees, where they are known; of a crop those of its scene."""
        return [place for place in self.scenes.places() for _ in range(self.parts)]

    def labels(self, target: str) -> np.ndarray:
        """Labels of all samples of a target, in order."""
        how = self.spec.targets[target]
        if how.kind == "pixels":
            return np.stack([self._map(index, target) for index in range(len(self))])
        if how.present_in is not None:
            shown = self.spec.targets[how.present_in]
            return np.stack([shown_in(self._map(i, how.present_in), shown, how) for i in range(len(self))])
        return np.repeat(self.scenes.labels(target), self.parts, axis=0)

    def read(self, index: int, visit: Visit | None = None) -> Sample[np.ndarray]:
        """One sample."""
        number, part = divmod(index, self.parts)
        rng = None if visit is None else visit.rng()
        with self.scenes.scene(number) as scene:
            cut = Cut.of(scene, self.spec, part, rng)
            taken = {
                name: _take(self.spec, name, scene, cut, rng) for name in self.spec.sensors if name in scene.series
            }
            maps = {name: raster.read(cut.window(raster.shape)) for name, raster in scene.maps.items()}
            turn = None if rng is None else _draw_turn(rng, self.spec, [x.images for x in taken.values()])
            return self._sample(scene, part, taken, maps, turn)

    def _sample(
        self,
        scene: Scene,
        part: int,
        taken: Mapping[str, "_Taken"],
        maps: Mapping[str, np.ndarray],
        turn: Turn | None,
    ) -> Sample[np.ndarray]:
        images, dates, present, valid = {}, {}, {}, {}
        for name, entry in self.spec.sensors.items():
            got = taken.get(name) or _nothing(entry, self.spec.image_px(name))
            steps = entry.input.dates
            images[name] = fixed_dates(turn(got.images) if turn else got.images, steps)
            dates[name] = fixed_dates(got.days, steps)
            present[name] = np.arange(steps) < len(got.images)
            valid[name] = fixed_dates(got.measured(turn), steps)
        return Sample(
            id=scene.id if self.spec.crop is None else self.spec.crop.name_of(scene.id, part),
            images=images,
            dates=dates,
            present=present,
            valid=valid,
            reference_date=scene.reference_date,
            labels={**scene.labels, **{name: turn(x) if turn else x for name, x in maps.items()}, **self._shown(maps)},
            place=scene.place,
        )

    def _shown(self, maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        targets = self.spec.targets
        return {
            name: shown_in(maps[target.present_in], targets[target.present_in], target)
            for name, target in targets.items()
            if target.present_in is not None
        }

    def _map(self, index: int, target: str) -> np.ndarray:
        number, part = divmod(index, self.parts)
        with self.scenes.scene(number) as scene:
            raster = scene.maps[target]
            return raster.read(Cut.of(scene, self.spec, part, None).window(raster.shape))


def shown_in(values: np.ndarray, shown: Target, target: Target) -> np.ndarray:
    """(k) 1 for the classes of `target` that a map of the classes of `shown` has anywhere. Source: official code."""
    there = {shown.classes[number] for number in np.unique(values).tolist() if number != shown.ignore}
    return np.asarray([name in there for name in target.classes], np.int64)


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a scene that is read, in units that all its images share."""

    units: Shape
    start: Shape
    size: Shape

    @classmethod
    def of(cls, scene: Scene, spec: Common, part: int, rng: np.random.Generator | None) -> "Cut":
        """The whole scene; or a crop, drawn with `rng`, number `part` of the cover without. Source: official code."""
        if spec.crop is None:
            return cls((1, 1), (0, 0), (1, 1))
        shapes = [(s.shape[2], s.shape[3]) for s in scene.series.values()] + [m.shape for m in scene.maps.values()]
        rows, cols = common_units(shapes)
        share = spec.crop.size_m / spec.crop.tile_m
        height, width = (whole_units(share, n, f"{spec.name}, {scene.id}") for n in (rows, cols))
        if rng is not None:
            start = int(rng.integers(0, rows - height + 1)), int(rng.integers(0, cols - width + 1))
        else:
            start = spec.crop.start_of(part, rows, height), spec.crop.start_of(part, cols, width, column=True)
        return cls((rows, cols), start, (height, width))

    def window(self, shape: Shape) -> Window:
        """The pixels of an image of this shape."""
        return window_of(shape, self.units, self.start, self.size)


@dataclass(frozen=True, slots=True)
class _Taken:
    """Chosen images (d c h w), their days (d 3), and their unknown pixels (d h w), None where there is none."""

    images: np.ndarray
    days: np.ndarray
    unknown: np.ndarray | None

    def measured(self, turn: Turn | None) -> np.ndarray:
        """(d h w) True where a number was measured, turned as the images are."""
        if self.unknown is not None:
            known = ~self.unknown
            return turn(known) if turn else known
        height, width = self.images.shape[-2:]
        swapped = turn is not None and turn.swap
        return np.ones((len(self.images), *((width, height) if swapped else (height, width))), bool)


def _nothing(entry: SensorEntry, size: Shape) -> _Taken:
    """What is taken of a sensor that a place lacks."""
    shape = (0, len(entry.bands), *size)
    return _Taken(np.zeros(shape, np.uint8), np.zeros((0, 3), np.int16), None)


def _take(spec: Common, name: str, scene: Scene, cut: Cut, rng: np.random.Generator | None) -> _Taken:
    series, entry = scene.series[name], spec.sensors[name]
    window = cut.window((series.shape[2], series.shape[3]))
    check_shape(spec, name, scene.id, series, window)
    states = series.state(window, clouds=series.shape[0] > entry.input.dates)
    index = choose(series, window, states, entry.input.dates, rng)
    images = series.read(index, window)
    unknown = None
    if states is not None:
        unknown = (states if index is None else states[index]) & UNKNOWN > 0
    days = series.days_of(index)
    return _Taken(images, days, unknown if unknown is not None and unknown.any() else None)


def check_shape(spec: Common, name: str, scene: str, series: Series, window: Window) -> None:
    """Compare bands, and the pixels that a window takes, with what the spec promises.

    Raises:
        DataError: naming sensor, file or scene, and both sizes.
    """
    entry = spec.sensors[name]
    wanted = {"bands": len(entry.bands)}
    if entry.input.resize == "none" or entry.to_px is not None:
        height, width = spec.image_px(name)
        wanted |= {"rows": height, "columns": width}
    check_sizes(name, series.where or scene, (series.shape[1], window.height, window.width), wanted)


def choose(
    series: Series, window: Window, states: np.ndarray | None, bins: int, rng: np.random.Generator | None
) -> np.ndarray | None:
    """Indices (d) of the dates taken, or None for all: one per bin where there are more dates than bins.

    Only without `rng` are images read for it: the date nearest the median of its bin is found in them.
    """
    count = series.shape[0]
    if count <= bins:
        return None
    start = random_start(count, bins, rng)
    if rng is not None:
        return draw(states, count, bins, start, rng)
    unknown, cloudy = (None, None) if states is None else (states & UNKNOWN > 0, states & CLOUDY > 0)
    return nearest_dates(series.read(None, window), bins, unknown=unknown, cloudy=cloudy, start=start)


def draw(states: np.ndarray | None, count: int, bins: int, start: int, rng: np.random.Generator) -> np.ndarray:
    """As `dates.draw_dates`, of bits (t h w); the share of unseen pixels is taken only in bins without a clear date."""
    per_bin = count // bins
    distance = rng.random((bins, per_bin))
    if states is not None:
        bits = states[start : start + bins * per_bin].reshape(bins, per_bin, -1)
        found = np.bitwise_or.reduce(bits, axis=2)
        drawn, distance = distance, np.where(found == 0, distance, 2.0)
        lacking = np.flatnonzero(np.logical_and.reduce(found, axis=1))
        if len(lacking):
            share = _share_unseen(bits[lacking], found[lacking])
            distance[lacking] = np.where(share == 0, drawn[lacking], 2 + share)
    return np.asarray(start + np.arange(0, bins * per_bin, per_bin) + distance.argmin(axis=1))


def _share_unseen(bits: np.ndarray, found: np.ndarray) -> np.ndarray:
    """(bins dates) of bits (bins dates pixels), `found` in any pixel; the rule of `dates.share_unseen`."""
    hopeless = np.logical_and.reduce(found & CLOUDY, axis=1)
    unseen = bits & np.where(hopeless, UNKNOWN, UNKNOWN | CLOUDY).astype(np.uint8)[:, None, None] > 0
    unseen = unseen & ~np.logical_and.reduce(unseen, axis=1, keepdims=True)  # pixels that no date shows
    return np.asarray(unseen.mean(axis=2))


def _draw_turn(rng: np.random.Generator, spec: Common, images: list[np.ndarray]) -> Turn:
    """Rows and columns change places where all images are square, those of absent sensors too."""
    up, left, swap = (bool(x) for x in rng.random(3) < 0.5)
    sizes = [*(x.shape[-2:] for x in images), *(spec.image_px(name) for name in spec.sensors)]
    return Turn(up, left, swap and all(height == width for height, width in sizes))
