"""Nearest neighbours in feature space.

Axes: n sample, m neighbour, d width, k class.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from geomaestro.models.task import Task

TEMPERATURE = 0.07  # as usual since Wu et al. 2018


def neighbours(
    train: Tensor, labels: np.ndarray, test: Tensor, task: Task, count: int, batch: int = 1024
) -> np.ndarray:
    """Logits (n k) of test features from the `count` most similar training features, weighted by exp(cosine / 0.07).

    Multilabel answers are positive where the weighted share of positive neighbours exceeds one half.
    """
    known = functional.normalize(train - train.mean(0), dim=1)
    wanted = functional.normalize(test - train.mean(0), dim=1)
    values = _values(labels, task)
    out = []
    for part in wanted.split(batch):
        similarity, index = (part @ known.T).topk(min(count, len(known)), dim=1)
        weight = (similarity / TEMPERATURE).softmax(dim=1)
        out.append((weight[..., None] * values[index]).sum(dim=1))
    share = torch.cat(out)
    if task.kind == "multilabel":
        share = torch.logit(share, eps=1e-6)
    return share.numpy()


def _values(labels: np.ndarray, task: Task) -> Tensor:
    if task.kind == "classes":
        return functional.one_hot(torch.as_tensor(labels), len(task.classes)).float()
    return torch.as_tensor(labels, dtype=torch.float32).reshape(len(labels), -1)
