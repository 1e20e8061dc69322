"""Small datasets are decoded once; what a visit sees does not change by that."""

import shutil
from pathlib import Path

import pytest

from geomaestro.data.holding import HeldScenes, held
from geomaestro.data.miniatures.miniature import Size, write_miniature
from geomaestro.data.opening import open_scenes
from geomaestro.data.reading import Visit
from geomaestro.data.sampling import SceneDataset
from geomaestro.data.specs import load_spec


@pytest.mark.parametrize("name", ["treesatai_ts", "s2_naip"])
def test_scenes_in_memory_give_the_same_samples_without_their_files(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    write_miniature(name, folder, Size(train=2, val=0, test=0))
    spec = load_spec(folder / "dataset.yaml")
    scenes = open_scenes(spec, folder, ("train",))
    plain, kept = SceneDataset(scenes, spec), SceneDataset(held(scenes), spec)
    visits = [None, Visit(0, 0, 0), Visit(0, 1, 0), Visit(3, 7, 0)]
    wanted = [plain.read(index, visit) for index in range(len(plain)) for visit in visits]
    for index in range(len(kept)):
        kept.read(index)
    shutil.rmtree(folder)
    found = [kept.read(index, visit) for index in range(len(kept)) for visit in visits]
    for one, other in zip(wanted, found, strict=True):
        assert one.id == other.id
        for part in ("images", "dates", "present", "valid", "labels"):
            for key, values in getattr(one, part).items():
                assert values.dtype == getattr(other, part)[key].dtype
                assert (values == getattr(other, part)[key]).all()


def test_a_dataset_that_would_not_fit_is_read_as_it_comes(tmp_path: Path) -> None:
    write_miniature("eurosat_ms", tmp_path / "e", Size(train=3, val=0, test=0))
    scenes = open_scenes(load_spec(tmp_path / "e" / "dataset.yaml"), tmp_path / "e", ("train",))
    size = 3 * 13 * 64 * 64 * 2
    assert held(scenes, size - 1) is scenes
    assert isinstance(held(scenes, size), HeldScenes)
