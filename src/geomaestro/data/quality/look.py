"""Before training: do the pixels look like what the spec says they are?"""

from collections.abc import Mapping

import numpy as np

from geomaestro.data.quality.bandstats import Statistics, measure
from geomaestro.data.quality.fingerprint import Finding, judge
from geomaestro.data.reading import Dataset
from geomaestro.errors import DataError
from geomaestro.sensors import Sensor

LOOKED_AT = 24  # assumed; samples whose pixels are pooled before a training, seconds at most


def look(dataset: Dataset, sensors: Mapping[str, Sensor], count: int = LOOKED_AT) -> list[Finding]:
    """What contradicts the spec in the pixels of `count` samples, evenly spread; samples that cannot be read are passed
    over (the training lists them).
    """
    pooled: dict[str, Statistics] = {}
    for index in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist():
        try:
            sample = dataset.read(index)
        except DataError:
            continue
        for name, sensor in sensors.items():
            here = sample.present[name]
            if here.any():
                found = measure(sample.images[name][here], sample.valid[name][here], sensor)
                pooled[name] = pooled[name] + found if name in pooled else found
    return [finding for name, found in pooled.items() for finding in judge(found, sensors[name], name)]
