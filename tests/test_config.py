"""Settings files: read, overridden, and refused with every error at once."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from geomaestro.config import MAX_YAML_BYTES, Strict, apply_overrides, check, load, merge, read_yaml
from geomaestro.errors import SpecError


class Adam(Strict):
    kind: Literal["adam"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)


class Sgd(Strict):
    kind: Literal["sgd"] = "sgd"
    momentum: float = 0.0


class Crop(Strict):
    size_px: int
    stride_px: int | None = None


class Recipe(Strict):
    name: str
    steps: int = 10
    optimiser: Annotated[Adam | Sgd, Field(discriminator="kind")] = Adam()
    crops: dict[str, Crop] = Field(default_factory=dict)
    stages: tuple[Crop, ...] = ()
    schedules: list[Annotated[Adam | Sgd, Field(discriminator="kind")]] = Field(default_factory=list)
    extra: Crop | None = None


def said(values: dict[str, object]) -> str:
    with pytest.raises(SpecError) as caught:
        check(Recipe, values, "recipe.yaml")
    return str(caught.value)


def test_all_errors_come_at_once_each_with_its_place() -> None:
    text = said({"stepps": 3, "steps": "many", "optimiser": {"kind": "adam", "lr": "fast"}, "crops": {"s2": {}}})
    assert text.splitlines() == [
        "recipe.yaml: 5 errors",
        "  name: required, but not given",
        "  steps: Input should be a valid integer, unable to parse string as an integer (got 'many')",
        "  optimiser.adam.lr: Input should be a valid number, unable to parse string as a number (got 'fast')",
        "  crops.s2.size_px: required, but not given",
        "  stepps: unknown key; did you mean 'steps'?",
    ]


def test_one_error_is_counted_as_one() -> None:
    assert said({}) == "recipe.yaml: 1 error\n  name: required, but not given"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"crops": {"s2": {"size_px": 3, "stride": 1}}}, "crops.s2.stride: unknown key; did you mean 'stride_px'?"),
        ({"stages": [{"size_px": 3, "sise_px": 4}]}, "stages.0.sise_px: unknown key; did you mean 'size_px'?"),
        (
            {"optimiser": {"kind": "sgd", "momentun": 1}},
            "optimiser.sgd.momentun: unknown key; did you mean 'momentum'?",
        ),
        (
            {"schedules": [{"kind": "adam"}, {"kind": "adam", "beta": 1}]},
            "schedules.1.adam.beta: unknown key; did you mean 'betas'?",
        ),
        ({"extra": {"size_px": 3, "stride_p": 1}}, "extra.stride_p: unknown key; did you mean 'stride_px'?"),
        ({"optimiser": {"kind": "sgd", "lr": 1}}, "optimiser.sgd.lr: unknown key; known keys: kind, momentum"),
    ],
)
def test_a_misspelt_key_is_corrected_wherever_it_stands(values: dict[str, object], line: str) -> None:
    assert said({"name": "a", **values}) == f"recipe.yaml: 1 error\n  {line}"


def test_settings_can_not_be_changed_after_the_check() -> None:
    recipe = check(Recipe, {"name": "a"}, "recipe.yaml")
    with pytest.raises(ValueError, match="frozen"):
        recipe.steps = 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("lr=3e-4", {"lr": 3e-4}),
        ("lr=3.0e-4", {"lr": 3e-4}),
        ("steps=1e3", {"steps": 1000.0}),
        ("deep.er.flag=true", {"deep": {"er": {"flag": True}}}),
        ("sizes=[1, 2]", {"sizes": [1, 2]}),
        ("name=a=b", {"name": "a=b"}),
        ("name=", {"name": None}),
    ],
)
def test_an_override_means_what_it_looks_like(override: str, expected: dict[str, object]) -> None:
    assert apply_overrides({}, [override]) == expected


def test_overrides_keep_their_neighbours_and_the_last_one_wins() -> None:
    values = {"optimiser": {"kind": "adam", "lr": 1.0}, "steps": 1}
    assert apply_overrides(values, ["optimiser.lr=2.5", "steps=4", "steps=5"]) == {
        "optimiser": {"kind": "adam", "lr": 2.5},
        "steps": 5,
    }
    assert values["steps"] == 1, "the values handed in stay as they are"


def test_an_override_of_a_learning_rate_reaches_the_settings() -> None:
    values = apply_overrides({"name": "a"}, ["optimiser.kind=adam", "optimiser.lr=3e-4", "steps=1e3"])
    recipe = check(Recipe, values, "recipe.yaml")
    assert recipe.optimiser == Adam(lr=3e-4)
    assert recipe.steps == 1000


def test_another_kind_drops_the_settings_of_the_old_kind() -> None:
    old = {"optimiser": {"kind": "adam", "lr": 1.0}}
    assert merge(old, {"optimiser": {"kind": "sgd", "momentum": 0.5}}) == {
        "optimiser": {"kind": "sgd", "momentum": 0.5}
    }
    assert merge(old, {"optimiser": {"kind": "adam", "betas": [0, 1]}}) == {
        "optimiser": {"kind": "adam", "lr": 1.0, "betas": [0, 1]}
    }


@pytest.mark.parametrize("override", ["steps", "=3"])
def test_an_override_without_key_or_value_is_refused(override: str) -> None:
    with pytest.raises(SpecError) as caught:
        apply_overrides({}, [override])
    assert str(caught.value) == f"override {override!r} is not key=value, for instance model.size=small"


def test_an_override_that_is_not_yaml_is_refused_by_its_text() -> None:
    with pytest.raises(SpecError, match=r"sizes=\[1,"):
        apply_overrides({}, ["sizes=[1,"])


def test_a_file_is_read_overridden_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\ncrops: {s2: {size_px: 7}}\n")
    assert load(Recipe, path, ["crops.s2.stride_px=2"]) == Recipe(name="a", crops={"s2": Crop(size_px=7, stride_px=2)})


def test_a_missing_file_names_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "treesat.yaml").write_text("a: 1")
    with pytest.raises(SpecError) as caught:
        read_yaml(tmp_path / "tresat.yaml")
    assert str(caught.value) == f"{tmp_path / 'tresat.yaml'}: no such file; did you mean {tmp_path / 'treesat.yaml'}?"
    with pytest.raises(SpecError) as caught:
        read_yaml(tmp_path / "zzz.yaml")
    assert str(caught.value) == f"{tmp_path / 'zzz.yaml'}: no such file"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a: [1, 2", "not valid YAML"),
        (b"a: \xff\xfe", "not valid YAML"),
        (b"- 1\n- 2\n", "expected `key: value` lines, got list"),
        (b"", "expected `key: value` lines, got NoneType"),
        (b"a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: {text}")


def test_a_deeply_nested_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text("a: " + "[" * 5000)
    with pytest.raises(SpecError, match="not valid YAML"):
        read_yaml(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_YAML_BYTES + 1)
    with pytest.raises(SpecError) as caught:
        read_yaml(path)
    assert str(caught.value) == f"{path}: {MAX_YAML_BYTES + 1} bytes is too big for a settings file"
