"""A small dataset is decoded once and kept in memory; a large one is read as it comes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import numpy as np

from geomaestro.data.scenes import MemoryRaster, MemorySeries, Scene, Scenes
from geomaestro.errors import DataError
from geomaestro.grid import Window

LIMIT_BYTES = 512 << 20  # assumed; of each process that reads


class HeldScenes:
    """Scenes that are kept once they were read."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes, self.draws_dates = scenes, scenes.draws_dates
        self._kept: dict[int, Scene] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def ids(self) -> list[str]:
        """Names of the scenes, in order."""
        return self.scenes.ids()

    def places(self) -> list[tuple[float, float] | None]:
        """Longitude and latitude of the scenes, where they are known."""
        return self.scenes.places()

    def labels(self, target: str) -> np.ndarray:
        """Labels of all scenes, in order."""
        return self.scenes.labels(target)

    def scene(self, index: int) -> AbstractContextManager[Scene]:
        """One scene."""
        return nullcontext(self._kept[index]) if index in self._kept else self._read(index)

    @contextmanager
    def _read(self, index: int) -> Iterator[Scene]:
        with self.scenes.scene(index) as scene:
            kept = self._kept[index] = in_memory(scene)
        yield kept


def held(scenes: Scenes, limit_bytes: int = LIMIT_BYTES) -> Scenes:
    """Scenes that stay in memory if all of them would fit; by the size of the first."""
    try:
        with scenes.scene(0) as scene:
            first = sum(x.nbytes for x in arrays_of(in_memory(scene)))
    except DataError:  # whoever reads it will say so
        return scenes
    return HeldScenes(scenes) if first * len(scenes) <= limit_bytes else scenes


def in_memory(scene: Scene) -> Scene:
    """A scene whose files may be closed."""
    series = {}
    for name, each in scene.series.items():
        window = Window(0, 0, each.shape[2], each.shape[3])
        images = np.array(each.read(None, window))
        series[name] = MemorySeries(images, np.array(each.days), each.state(window), each.where)
    maps = {name: MemoryRaster(each.read(Window(0, 0, *each.shape))) for name, each in scene.maps.items()}
    return replace(scene, series=series, maps=maps)


def arrays_of(scene: Scene) -> Iterator[np.ndarray]:
    """What a scene in memory takes."""
    for series in scene.series.values():
        assert isinstance(series, MemorySeries), "in_memory makes them"
        yield from (x for x in (series.images, series.states) if x is not None)
    yield from (each.values for each in scene.maps.values() if isinstance(each, MemoryRaster))
