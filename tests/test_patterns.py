"""Paths with fields in braces: what is filled in comes out again, and what is looked for is what is there."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomaestro.data.files.patterns import fields_of, fill, parse, partly, to_glob
from geomaestro.errors import SpecError

WORDS = st.text("abc09-.", min_size=1, max_size=6)


def test_fields_are_named_in_order() -> None:
    assert fields_of("{split}/S2_{id}_{date}.tif") == ("split", "id", "date")
    assert fields_of("plain/*.tif") == fields_of("a{{b}}") == ()


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{}.tif", "{} is no field"),
        ("{0}.tif", "{0} is no field"),
        ("{row.__class__}", "{row.__class__} is no field"),
        ("{row[0]}", "{row[0]} is no field"),
        ("{id:05d}", "{id:05d} is no field"),
        ("{id!r}", "{id!r} is no field"),
        ("{id", "expected '}' before end of string"),
        ("id}", "Single '}' encountered"),
    ],
)
def test_braces_that_hold_no_plain_name_are_refused(pattern: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        fields_of(pattern)
    assert str(caught.value).startswith(f"pattern {pattern!r}: {said}") and str(caught.value).endswith(
        "fields are plain names such as {id}"
    )


def test_columns_are_put_in_and_a_missing_one_is_named_with_those_there_are() -> None:
    assert fill("S2_{id}_{year}.tif", {"id": 7, "year": "2019", "other": 1}, "here") == "S2_7_2019.tif"
    with pytest.raises(SpecError) as caught:
        fill("S2_{id}_{date}.tif", {"id": 7, "day": 1}, "samples.id")
    assert str(caught.value) == "samples.id: 'S2_{id}_{date}.tif' needs date; a sample has id, day"


def test_a_value_is_never_read_as_a_pattern() -> None:
    assert fill("{id}.tif", {"id": "{other}", "other": 1}, "here") == "{other}.tif"
    pattern = partly("{split}/{id}.tif", {"split": "a{b}"}, ["id"])
    assert fields_of(pattern) == ("id",) and fill(pattern, {"id": 1}, "here") == "a{b}/1.tif"


@given(WORDS, WORDS, st.integers(0, 99))
def test_what_was_put_in_is_found_again(split: str, name: str, number: int) -> None:
    pattern, row = "{split}/S2_{name}_n{number}.tif", {"split": split, "name": name, "number": str(number)}
    assert parse(pattern, fill(pattern, row, "here")) == row


@pytest.mark.parametrize(
    ("pattern", "text", "fields"),
    [
        ("S2_{id}.tif", "S2_7.tif", {"id": "7"}),
        ("S2_{id}.tif", "S2_7xtif", None),  # a dot stands for itself
        ("S2_{id}.tif", "S2_.tif", None),  # a field is never empty
        ("S2_{id}.tif", "S2_a/b.tif", None),  # nor does it run over folders
        ("S2_{id}.tif", "deep/S2_7.tif", None),
        ("{id}/{id}_B2.tif", "7/7_B2.tif", {"id": "7"}),
        ("{id}/{id}_B2.tif", "7/8_B2.tif", None),  # twice the same
        ("{id}_*.tif", "7_anything_2019.tif", {"id": "7"}),
        (
            "{class}_{number}.*",
            "Annual_Crop_12.jpg",
            {"class": "Annual", "number": "Crop_12"},
        ),  # the shortest that fits
        ("{a}-{b}", "x-y-z", {"a": "x", "b": "y-z"}),
        ("a+{id}(1)", "a+7(1)", {"id": "7"}),
    ],
)
def test_a_text_is_taken_apart_as_its_pattern_says(pattern: str, text: str, fields: dict[str, str] | None) -> None:
    assert parse(pattern, text) == fields


def test_a_glob_finds_all_files_of_a_pattern(tmp_path: Path) -> None:
    names = ["a/S2_1_x.tif", "a/S2_2_y.tif", "b/S2_1_z.tif", "b/S1_1_z.tif", "a/[1]_x.tif", "a/S2_1_x.npy"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern: str, row: dict[str, object]) -> set[str]:
        return {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob(to_glob(pattern, row))}

    assert found("{split}/S2_{id}_{date}.tif", {}) == set(names[:3])
    assert found("{split}/S2_{id}_{date}.tif", {"id": 1}) == {names[0], names[2]}
    assert found("{split}/S2_{id}_{date}.tif", {"id": 1, "split": "b"}) == {names[2]}
    assert names[4] in found("a/{id}_x.tif", {"id": "[1]"})  # brackets are no choice of letters
