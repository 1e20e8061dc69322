"""A chosen subset, for the line `data.subset` of a recipe."""

from pathlib import Path

import pyarrow.parquet as pq

from geomaestro.errors import DataError
from geomaestro.select.table import read_table


def ids_of_subset(path: Path, dataset_name: str) -> list[str]:
    """Ids of the samples of a dataset in a table, in its order; all ids where the table does not name datasets.

    Raises:
        DataError: if it can't be read, or none of its rows are of the dataset.
    """
    known = read_table(path, ["id"])
    if "dataset" not in pq.read_schema(path).names:
        ids = known["id"].to_pylist()
        if not ids:
            raise DataError(f"{path}: holds no sample")
        return list(ids)
    table = read_table(path, ["id", "dataset"]).to_pydict()
    ids = [each for each, name in zip(table["id"], table["dataset"], strict=True) if name in (dataset_name, None)]
    if not ids:
        names = sorted({str(name) for name in table["dataset"]})
        raise DataError(
            f"{path}: none of its {len(table['id'])} samples are of dataset {dataset_name!r}, but of "
            f"{', '.join(names) or 'none'}; `data.subset` goes with the spec that it was chosen from"
        )
    return ids
