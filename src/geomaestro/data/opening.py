"""Open any dataset by its spec."""

from pathlib import Path

from geomaestro.data.arrays import ArrayDataset
from geomaestro.data.reading import Dataset
from geomaestro.data.spec import ArraySpec, DatasetSpec
from geomaestro.data.treesat import TreeSatDataset
from geomaestro.errors import DataError


def open_dataset(spec: DatasetSpec, root: Path, splits: tuple[str, ...]) -> Dataset:
    """The samples of some splits, in a fixed order.

    Raises:
        DataError: if files or splits are missing, or there is no sample.
    """
    dataset = ArrayDataset(spec, root, splits) if isinstance(spec, ArraySpec) else TreeSatDataset(spec, root, splits)
    if len(dataset) == 0:
        raise DataError(f"{root}: no samples in split {', '.join(splits)}")
    return dataset
