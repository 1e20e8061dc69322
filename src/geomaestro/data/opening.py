"""Open any dataset by its spec."""

from pathlib import Path

from geomaestro.data.arrays import ArrayScenes
from geomaestro.data.files.filespec import FilesSpec
from geomaestro.data.files.reader import FileScenes
from geomaestro.data.sampling import SceneDataset
from geomaestro.data.scenes import Scenes
from geomaestro.data.spec import ArraySpec
from geomaestro.data.specs import DatasetSpec
from geomaestro.errors import DataError


def open_scenes(spec: DatasetSpec, root: Path, splits: tuple[str, ...]) -> Scenes:
    """The scenes of some splits, in a fixed order.

    Raises:
        DataError: if files or splits are missing, or there is no sample.
    """
    if isinstance(spec, FilesSpec):
        scenes: Scenes = FileScenes(spec, root, splits)
    elif isinstance(spec, ArraySpec):
        scenes = ArrayScenes(spec, root, splits)
    else:
        from geomaestro.data.packed.shards import PackedScenes

        scenes = PackedScenes(spec, root, splits)
    if len(scenes) == 0:
        raise DataError(f"{root}: no samples in split {', '.join(splits)}")
    return scenes


def open_dataset(spec: DatasetSpec, root: Path, splits: tuple[str, ...]) -> SceneDataset:
    """The samples of some splits, in a fixed order."""
    return SceneDataset(open_scenes(spec, root, splits), spec)
