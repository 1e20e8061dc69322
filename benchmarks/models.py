"""What is timed: our model or the baseline, and its step from a batch in memory to the next."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baseline import PlainMae, PlainTaskModel
from benchmarks.shapes import SHAPES, inputs_of, random_batch, task_of
from geomaestro.learn.losses import task_loss
from geomaestro.models.encoder import SIZES, Encoder, EncoderSpec
from geomaestro.models.mae import DecoderSpec, Mae, MaeSpec
from geomaestro.models.task import HeadSpec, TaskModel
from geomaestro.nn.masking import Hiding
from geomaestro.nn.transformer import Block, Transformer
from geomaestro.samples import Batch, to_device

TOY = {"dim": 32, "depth": 3, "heads": 2, "head_dim": 8, "mlp_ratio": 2, "joint_blocks": 1}
MOST_COMPILED = 64  # assumed; kinds of sequence (length, width, with or without kept tokens) are about a dozen
Step = Callable[[Batch[Tensor]], Any]


@dataclass(frozen=True)
class Row:
    """What to time."""

    shape: str
    size: str
    phase: str
    precision: str
    batch: int
    """Samples; 0 has it found by doubling."""
    keep_freed: bool = True
    one_thread: bool = False
    """Time one thread in CPU seconds, which hold on a machine that others use too."""
    mode: str = "eager"
    dates: int | None = None
    """Optical dates; None leaves the shape's."""
    recompute: bool = False
    model: str = "ours"
    """Or "plain", the baseline."""
    device: str = "cpu"

    @property
    def where(self) -> torch.device:
        """The device to run on."""
        return torch.device(self.device)


def identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells stored rows apart: all that was asked for."""
    fields = Row.__dataclass_fields__
    values = {name: row.get(name, field.default) for name, field in fields.items()}
    values["batch"] = row.get("batch_asked", row["batch"])
    return tuple(values[name] for name in fields)


def batch_of(row: Row, samples: int) -> Batch[Tensor]:
    """A batch of random samples on the row's device."""
    return to_device(random_batch(row.shape, samples, torch.Generator().manual_seed(1), row.dates), row.where)


def encoder_spec(row: Row) -> EncoderSpec:
    """The encoder of a row's size for its shape."""
    inputs, grid = inputs_of(row.shape, row.dates), (SHAPES[row.shape].position_grid,) * 2
    size = TOY if row.size == "toy" else SIZES[row.size]  # type: ignore[index]
    return EncoderSpec.model_validate({"inputs": inputs, "position_grid": grid, **size})


def mae_spec(row: Row) -> MaeSpec:
    """The autoencoder of a row."""
    toy = DecoderSpec(dim=16, depth=2, heads=2, head_dim=8, mlp_ratio=1)
    decoder = toy if row.size == "toy" else DecoderSpec.of_size(row.size)  # type: ignore[arg-type]
    return MaeSpec(encoder=encoder_spec(row), decoder=decoder, hiding=Hiding(ratio=0.75), target="group", loss="l1")


def make_model(row: Row) -> nn.Module:
    """Our model of a row, on its device."""
    torch.manual_seed(0)
    if row.phase == "pretrain":
        return Mae(mae_spec(row)).to(row.where)
    return TaskModel(Encoder(encoder_spec(row)), task_of(row.shape), HeadSpec()).to(row.where)


def new_plain(row: Row) -> nn.Module:
    """The baseline with weights of its own, on its device."""
    if row.phase == "pretrain":
        return PlainMae(mae_spec(row)).to(row.where)
    return PlainTaskModel(encoder_spec(row), task_of(row.shape)).to(row.where)


def make_plain(row: Row, ours: nn.Module) -> nn.Module:
    """The baseline with the weights of our model."""
    plain = new_plain(row)
    plain.load_state_dict(ours.state_dict())
    return plain


def ready(row: Row, model: nn.Module) -> nn.Module:
    """Our model with the row's mode: compiled block by block, or with blocks recomputed in the backward pass.

    Raises:
        RuntimeError: if activations are to be recomputed and this version of the model can't.
    """
    stacks = [m for m in model.modules() if isinstance(m, Transformer)]
    if row.recompute:
        if not all(hasattr(stack, "recompute") for stack in stacks):
            raise RuntimeError("geomaestro.nn.transformer.Transformer has no `recompute`")
        for stack in stacks:
            stack.recompute = True  # type: ignore[assignment]
    if row.mode == "compiled":
        torch._dynamo.config.recompile_limit = MOST_COMPILED
        for block in (m for m in model.modules() if isinstance(m, Block)):
            block.compile(dynamic=False)
    return model


def make_step(row: Row, model: nn.Module, *, fused: bool = True) -> Step:
    """A step of a model: forward, loss, backward and AdamW; in inference, forward alone."""
    kind = row.where.type
    autocast = partial(torch.autocast, kind, torch.bfloat16) if row.precision == "bf16" else nullcontext
    if row.phase == "infer":
        return _inference_step(model.eval(), autocast)
    if row.phase == "pretrain":
        return _training_step(model, lambda batch: model(batch, batch.keys).loss, autocast, fused)
    task = task_of(row.shape)
    return _training_step(model, lambda batch: task_loss(model(batch), batch.labels[row.shape], task), autocast, fused)


def _training_step(
    model: nn.Module, loss_of: Callable[[Batch[Tensor]], Tensor], autocast: Callable[[], Any], fused: bool
) -> Step:
    settings = {"fused": True} if fused else {}
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, **settings)

    def step(batch: Batch[Tensor]) -> None:
        optimiser.zero_grad(set_to_none=True)
        with autocast():
            loss = loss_of(batch)
        loss.backward()
        optimiser.step()

    return step


def _inference_step(model: nn.Module, autocast: Callable[[], Any]) -> Step:
    def step(batch: Batch[Tensor], without_gradients: Callable[[], Any] = torch.inference_mode) -> Tensor:
        with without_gradients(), autocast():
            return model(batch)

    return step
