"""Models on disk: bit-equal round trips, and refusals that name what does not fit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import geomaestro
from geomaestro.errors import CheckpointError, GeomaestroError
from geomaestro.models import hub
from geomaestro.models.hub import (
    MAX_JSON_BYTES,
    fill,
    find,
    load,
    load_mae,
    load_task_model,
    read_about,
    save_mae,
    save_task_model,
)
from geomaestro.models.mae import Mae
from geomaestro.models.task import HeadSpec, Task, TaskModel
from tests.made import batch, encoder, inputs, mae, model_input, shaken


def task_model(kind: str = "pixels") -> TaskModel:
    task = Task(name="trees", kind=kind, classes=("oak", "pine"), reference_sensor="s2", patch_px=3)  # type: ignore[arg-type]
    return shaken(TaskModel(encoder("inter-group"), task, HeadSpec(pooling="mean")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved autoencoder."""
    save_mae(tmp_path / "model", mae("group"), origin={"made_by": "a test"})
    return tmp_path / "model"


def rewrite(folder: Path, **changes: Tensor | None) -> None:
    """Change tensors of a saved model; None takes one away."""
    weights = {**load_file(folder / "model.safetensors"), **changes}
    save_file({k: v for k, v in weights.items() if v is not None}, folder / "model.safetensors")


def assert_bit_equal(a: nn.Module, b: nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    assert all(ours[k].equal(theirs[k]) and ours[k].dtype == theirs[k].dtype for k in ours)


@pytest.mark.parametrize("mode", ["shared", "inter-group"])
def test_an_autoencoder_comes_back_bit_equal(tmp_path: Path, mode: str) -> None:
    model, b = mae(mode), batch(2)
    save_mae(tmp_path / "m", model, origin={"made_by": "a test", "steps": 7})
    back = load_mae(tmp_path / "m")
    assert back.spec == model.spec
    assert_bit_equal(back, model)
    with torch.no_grad():
        assert back(b, keys=b.keys).loss.equal(model(b, keys=b.keys).loss)
        alone, whole = geomaestro.load(tmp_path / "m")(b).maps, model.encoder(b).maps
    assert all(alone[s].equal(whole[s]) for s in whole)
    assert read_about(tmp_path / "m")["origin"] == {"made_by": "a test", "steps": 7}


@pytest.mark.parametrize("kind", ["pixels", "multilabel"])
def test_a_task_model_comes_back_bit_equal(tmp_path: Path, kind: str) -> None:
    model, b = task_model(kind), batch(2)
    save_task_model(tmp_path / "m", model, HeadSpec(pooling="mean"), origin={})
    back = load_task_model(tmp_path / "m")
    assert back.task == model.task
    assert_bit_equal(back, model)
    with torch.no_grad():
        assert back.eval()(b).equal(model(b))
    assert_bit_equal(load(tmp_path / "m"), model.encoder)


def test_settings_with_fractions_and_infinite_nodata_come_back(tmp_path: Path) -> None:
    settings = {"nodata": float("-inf"), "scaling": {"log": True, "subtract": (0.1, 1 / 3), "divide_by": 7.0}}
    sensors = {"s1": model_input(2, (4, 6), 2, 3, sensor=settings)}
    model = mae("mod", sensors, encoder={"position_grid": (4, 9)})
    save_mae(tmp_path, model, origin={})
    assert load_mae(tmp_path).spec == model.spec


def test_heads_kept_beside_an_autoencoder_do_not_disturb_it(tmp_path: Path) -> None:
    model = mae("group")
    save_mae(tmp_path, model, origin={}, heads={"trees": {"linear.weight": torch.ones(2, 3)}})
    assert load_file(tmp_path / "model.safetensors")["heads.trees.linear.weight"].equal(torch.ones(2, 3))
    assert_bit_equal(load_mae(tmp_path), model)


@pytest.mark.parametrize("below", ["", "model", "pretrain/seed0/model"])
def test_a_model_is_found_in_its_folder_and_below_a_run(tmp_path: Path, below: str) -> None:
    save_mae(tmp_path / "run" / below, mae("group"), origin={})
    assert find(tmp_path / "run") == tmp_path / "run" / below
    assert find(str(tmp_path / "run")) == tmp_path / "run" / below


def test_the_wrong_kind_of_model_is_refused_with_the_remedy(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_task_model(folder)
    assert str(caught.value) == f"{folder}: holds a pretrained encoder without a head; fine-tune it first"
    save_task_model(tmp_path / "t", task_model(), HeadSpec(pooling="mean"), origin={})
    with pytest.raises(CheckpointError) as caught:
        load_mae(tmp_path / "t")
    expected = f"{tmp_path / 't'}: holds a fine-tuned encoder without its decoder; it can't be pretrained further"
    assert str(caught.value) == expected


def test_a_missing_an_unknown_and_a_wrong_tensor_are_all_named(folder: Path) -> None:
    rewrite(
        folder,
        **{
            "hidden_tokens.s2": None,
            "encoder.stacks.s3.norm.weight": torch.ones(24),
            "narrow.aerial.bias": torch.zeros(15),
        },
    )
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert str(caught.value) == (
        f"{folder / 'model.safetensors'}: weights do not fit the model: unknown encoder.stacks.s3.norm.weight; "
        "missing hidden_tokens.s2; narrow.aerial.bias is (15,), the model needs (16,)"
    )


def test_the_first_eight_problems_are_named_and_the_rest_counted() -> None:
    weights = {f"x{i:02}": torch.zeros(1) for i in range(11)}
    with pytest.raises(CheckpointError) as caught:
        fill(nn.Module(), weights, "here")
    names = "; ".join(f"unknown x{i:02}" for i in range(8))
    assert str(caught.value) == f"here: weights do not fit the model: {names}; and 3 more"


def test_a_refused_file_leaves_the_model_as_it_was() -> None:
    model = mae("group")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    wrong = {k: torch.zeros_like(v) for k, v in before.items()} | {"narrow.s2.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError):
        fill(model, wrong, "here")
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("kept", [0, 5, 100, -7])
def test_truncated_weights_are_refused(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{path}: unreadable weights: ")


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{folder / 'model.safetensors'}: unreadable weights: ")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "not valid JSON: Expecting property name"),
        (b"\xff\xfe", "not valid JSON: 'utf-8' codec"),
        (b"[]", "not a geomaestro-model-1 description"),
        (b'{"format": "geomaestro-model-0", "kind": "mae"}', "not a geomaestro-model-1 description"),
        (b'{"format": "geomaestro-model-1", "kind": "gan"}', "not a geomaestro-model-1 description"),
    ],
)
def test_a_description_that_is_none_is_refused(folder: Path, content: bytes, text: str) -> None:
    (folder / "model.json").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{folder / 'model.json'}: {text}")


@pytest.mark.parametrize("content", [{}, {"mae": None}, {"mae": 5}, {"mae": {"encoder": {}}}, {"mae": {"sizze": 1}}])
@pytest.mark.parametrize("read", [load, load_mae])
def test_a_description_without_its_settings_is_refused_by_name(
    folder: Path, read: object, content: dict[str, object]
) -> None:
    about = {"format": "geomaestro-model-1", "kind": "mae", **content}
    (folder / "model.json").write_text(json.dumps(about))
    with pytest.raises(GeomaestroError) as caught:
        read(folder)  # type: ignore[operator]
    assert str(folder / "model.json") in str(caught.value)


def test_a_deeply_nested_description_is_refused(folder: Path) -> None:
    (folder / "model.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load(folder)


def test_a_huge_description_is_refused_before_it_is_read(folder: Path) -> None:
    with (folder / "model.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert str(caught.value) == f"{folder / 'model.json'}: too big for a model description"


@pytest.mark.parametrize("name", ["./nowhere/model", "nowhere", "a/b/c", "~/model", "/nowhere"])
def test_what_is_no_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load(name)
    assert (
        str(caught.value)
        == f"{name}: no model.json there; expected a model folder, a run folder, or a hub id owner/name"
    )


def test_a_folder_without_a_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"owner/name: no model\.json there"):
        load("owner/name")


def test_a_hub_id_is_never_fetched_offline() -> None:
    with pytest.raises(CheckpointError) as caught:
        load("geomaestro-tests/no-such-model")
    text = str(caught.value)
    assert text.startswith("geomaestro-tests/no-such-model: neither a local folder nor a model that could be fetched (")


def test_a_model_is_written_whole_weights_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two files, a folder is not yet a model."""
    written: list[str] = []
    plain = hub.write_atomically
    monkeypatch.setattr(
        hub, "write_atomically", lambda path, content: (written.append(path.name), plain(path, content))
    )
    save_mae(tmp_path, mae("group"), origin={})
    assert written == ["model.safetensors", "model.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_every_sensor_of_a_saved_model_is_known_again(folder: Path) -> None:
    assert load(folder).spec.inputs == inputs()
    assert isinstance(load_mae(folder), Mae)
