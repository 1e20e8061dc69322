"""What tells that files were replaced since they were measured: their sizes and dates of change."""

from collections.abc import Iterable
from pathlib import Path

from geomaestro.data.arrays import ArrayScenes
from geomaestro.data.files.reader import FileScenes
from geomaestro.data.packing.plan import Listing
from geomaestro.errors import GeomaestroError
from geomaestro.select.pieces import digest


def stamp_of(listing: Listing, start: int, stop: int) -> str:
    """Digest of the files that samples `start` to `stop` of a list are read from; of a store, that of its manifest."""
    paths: set[str] = set()
    for group, place in listing.place[start:stop]:
        paths.update(map(str, _files(listing.scenes[group], place)))
    return digest([[path, *_about(path)] for path in sorted(paths)])


def _files(scenes: object, index: int) -> Iterable[Path]:
    if isinstance(scenes, FileScenes):
        try:
            return scenes.files(index)
        except GeomaestroError:  # told when the sample is read
            return []
    if isinstance(scenes, ArrayScenes):
        return [scenes.path]
    return [scenes.folder / "manifest.json"]  # type: ignore[attr-defined]  # the third kind, a packed store


def _about(path: str) -> tuple[int, int]:
    try:
        found = Path(path).stat()
    except OSError:  # none there: one that comes later is a change
        return 0, 0
    return found.st_size, found.st_mtime_ns
