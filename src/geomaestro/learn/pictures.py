"""Pictures of what a pretrained model rebuilds, for the report."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from geomaestro.data.loader import Subset, read_all
from geomaestro.data.reading import Dataset
from geomaestro.errors import DataError
from geomaestro.models.autoencoder import Autoencoder
from geomaestro.nn.pixels import resize_pixels, scale_pixels
from geomaestro.runs import write_atomically
from geomaestro.samples import Batch, to_device

PICTURES = 4  # samples whose reconstructions are kept for the report


def pictured(dataset: Dataset) -> Subset:
    """A few samples, evenly spread, without those that cannot be read."""
    chosen = []
    for index in np.linspace(0, len(dataset) - 1, min(PICTURES, len(dataset))).astype(int).tolist():
        try:
            dataset.read(index)
        except DataError:  # pretraining has listed it
            continue
        chosen.append(index)
    return Subset(dataset, chosen)


@torch.no_grad()
def write_pictures(model: Autoencoder, dataset: Dataset, path: Path, device: torch.device) -> None:
    """Reconstructions of a few samples never trained on labels of, for the report."""
    import io

    if len(dataset) == 0:
        return
    batch = to_device(read_all(dataset), device)
    model.to(device).eval()
    result = model(batch, torch.arange(1, len(batch) + 1, device=device))
    arrays: dict[str, np.ndarray] = {}
    for name, (rebuilt, hidden) in model.images_of(result, batch).items():
        arrays.update({f"{name}/{key}": value for key, value in _pictures(model, batch, name, rebuilt, hidden).items()})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def _pictures(
    model: Autoencoder, batch: Batch[torch.Tensor], name: str, rebuilt: torch.Tensor, hidden: torch.Tensor
) -> Mapping[str, np.ndarray]:

    source = model.spec.encoder.inputs[name]
    truth = resize_pixels(scale_pixels(batch.images[name], source.sensor), source.input, name)
    valid = resize_pixels(batch.valid[name][:, :, None].float(), source.input, name)[:, :, 0] > 0.5
    shown = torch.where(hidden, rebuilt, truth)
    hidden_pixels = hidden.any(dim=2)
    single = truth.shape[1] == 1

    def plain(x: torch.Tensor) -> np.ndarray:
        return (x[:, 0] if single else x).cpu().numpy()

    return {
        "input": plain(torch.where(valid[:, :, None], truth, torch.nan)),
        "hidden": plain(hidden_pixels),
        "rebuilt": plain(shown),
        "valid": plain(valid),
        "dates": plain(batch.dates[name]),
        "bands": np.asarray(source.sensor.bands),
        "ids": np.asarray(batch.ids),
    }
