"""Compiling, recomputing and sharing out: what a recipe may ask of the blocks, in one process."""

import pytest
import torch

from geomaestro.errors import SpecError
from geomaestro.learn.distributed import ALONE, Ranks, choose_device
from geomaestro.learn.parallel import check_shares, compile_blocks, gathered, recompute_blocks, spread
from geomaestro.learn.recipe import PretrainRecipe
from geomaestro.nn.transformer import Transformer

CPU = torch.device("cpu")


def made() -> Transformer:
    torch.manual_seed(0)
    return Transformer(16, 1, heads=2, head_dim=8, mlp_dim=32)


def gradients(model: Transformer, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    model(x).square().sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses what torch advises against
def test_compiled_blocks_give_the_same_numbers() -> None:
    x, model = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1)), made()
    expected, before = gradients(model, x), [name for name, _ in model.named_parameters()]
    compile_blocks(model, "on", CPU)
    for ours, theirs in zip(gradients(model, x), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert [name for name, _ in model.named_parameters()] == before


def test_nothing_is_compiled_on_a_cpu_unless_asked_for() -> None:
    for when in ("auto", "off"):
        model = made()
        compile_blocks(model, when, CPU)  # type: ignore[arg-type]
        assert model.blocks[0]._compiled_call_impl is None


def test_recomputed_blocks_give_the_same_bits() -> None:
    x, model = torch.randn(2, 5, 16), made()
    expected = gradients(model, x)
    recompute_blocks(model, True)
    assert all(a.equal(b) for a, b in zip(gradients(model, x), expected, strict=True))


def test_one_process_is_the_plain_case() -> None:
    model = made()
    assert spread(model, ALONE, "fsdp", precision="fp32") is model
    assert gathered(model, made) is model
    x = torch.arange(3)
    assert ALONE.add(x) is x and ALONE.join(x).equal(x) and ALONE.join_lists([1, "a"]) == [1, "a"]
    assert ALONE.agree(True, False) == [True, False] and ALONE.first


def test_a_batch_that_cannot_be_shared_is_refused_with_the_numbers() -> None:
    recipe = PretrainRecipe(steps=1, batch=10, accumulate=2)
    check_shares("pretrain", recipe, Ranks(0, 5))
    with pytest.raises(SpecError, match=r"pretrain\.batch: 10 can't be shared evenly by 2 ranks x accumulate 2"):
        check_shares("pretrain", recipe, Ranks(0, 2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_cuda_where_there_is_none_is_refused() -> None:
    with pytest.raises(SpecError, match="device: cuda was asked for"):
        choose_device("cuda")
