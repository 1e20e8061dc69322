"""`geomaestro data init`: look at a folder of files, and write a dataset spec and a recipe to edit."""

from collections.abc import Callable
from pathlib import Path

from geomaestro.data.init.words import plain
from geomaestro.errors import GeomaestroError, SpecError

__all__ = ["init"]


def init(folder: Path, out: Path | None = None, *, report: Callable[[str], object] = print) -> Path:
    """Write a spec with comments for the files in `folder` (or a zip of images), and a recipe beside it.

    The spec is `out`, NAME.yaml in the current folder by default; the recipe ends in -recipe.yaml. `report` is told
    what was found, assumed and left out. Gives the path of the spec.

    Raises:
        DataError: if the folder is missing, empty, or holds nothing that can be read.
        SpecError: if a file is in the way, or what was found can't be said in a spec.
    """
    from geomaestro.data.init.draft import draft_files
    from geomaestro.data.init.samples import draft_arrays, file_of_samples
    from geomaestro.data.init.show import summary
    from geomaestro.data.init.survey import survey
    from geomaestro.data.init.write import write_both

    name = plain(folder.resolve().stem if folder.is_file() else folder.resolve().name) or "dataset"
    out = out or Path(f"{name}.yaml")
    recipe = out.with_name(f"{out.stem}-recipe.yaml")
    for path in (out, recipe):
        if path.exists():
            raise SpecError(f"{path}: is there already; remove it, or choose another name with --out")
    found = survey(folder)
    content = file_of_samples(found)
    draft = draft_arrays(found, content, name) if content is not None else draft_files(found, name)
    write_both(draft, out, recipe, found.root)
    report(summary(draft))
    try:
        report(_tried(out, found.root, draft.splits.get("train", "train")))
    except GeomaestroError as error:
        report(f"TODO: the spec does not open these files yet: {error}")
    report(f"spec: {out}\nrecipe: {recipe}\nLook for TODO and assumed in the spec before you trust a score.")
    return out


def _tried(out: Path, root: Path, split: str) -> str:
    """Open the dataset as the spec says and read a sample."""
    from geomaestro.data.opening import open_dataset
    from geomaestro.data.specs import load_spec

    dataset = open_dataset(load_spec(out), root, (split,))
    sample = dataset.read(0)
    shown = ", ".join(f"{name} {tuple(x.shape)}" for name, x in sample.images.items())
    return f"tried: {len(dataset):,} samples in {split}; the first has (dates, bands, rows, columns) {shown}"
