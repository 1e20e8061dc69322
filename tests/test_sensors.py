"""What a sensor may say of itself, and when data and model mean the same."""

import pytest
from pydantic import ValidationError

from geomaestro.errors import SpecError
from geomaestro.sensors import Input, ModelInput, Scaling, Sensor, check_sensors, require_same
from tests.made import model_input

S2 = {"bands": ("B02", "B03", "B04"), "gsd_m": 10.0, "unit": "reflectance_1e4"}


def sensor(**changes: object) -> Sensor:
    return Sensor.model_validate({**S2, **changes})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"bands": ()}, "at least 1 item"),
        ({"bands": ("B02", "B03", "B02")}, "bands are named twice: B02, B03, B02"),
        (
            {"unit": "refl"},
            "unit 'refl' is not one of reflectance_1e4, reflectance, linear_power, dB, dn8, m, K, mm, degree, other",
        ),
        ({"groups": (1, 1)}, r"groups \[1, 1\] cover 2 bands, but 3 are listed"),
        ({"groups": (4, -1)}, "groups"),
        ({"groups": (3, 0)}, "groups"),
        ({"scaling": Scaling(subtract=(1.0, 2.0))}, "scaling.subtract has 2 numbers for 3 bands"),
        ({"scaling": Scaling(divide_by=(1.0, 2.0, 3.0, 4.0))}, "scaling.divide_by has 4 numbers for 3 bands"),
        ({"scaling": {"divide_by": 0.0}}, "divide_by"),
        ({"scaling": {"divide_by": (1.0, 0.0, 2.0)}}, "divide_by"),
        ({"wavelengths_nm": (490.0,)}, "wavelengths_nm has 1 numbers for 3 bands"),
        ({"gsd_m": 0}, "greater than 0"),
        ({"gsd": 10}, "Extra inputs are not permitted"),
    ],
)
def test_an_impossible_sensor_is_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        sensor(**changes)


def test_a_sensor_without_groups_has_one_of_all_bands() -> None:
    assert sensor().target_groups == (3,)
    assert sensor(groups=(1, 2)).target_groups == (1, 2)


def test_one_number_gives_a_square_and_the_grid_has_rows_first() -> None:
    assert Input.model_validate({"size_px": 6, "patch_px": 2}).size_px == (6, 6)
    assert Input(size_px=(8, 12), patch_px=4).grid == (2, 3)


def test_a_size_that_is_no_whole_number_of_patches_names_those_that_fit() -> None:
    with pytest.raises(ValidationError) as caught:
        Input(size_px=(12, 18), patch_px=5)
    assert "size_px 12 x 18 is not a whole number of 5-pixel patches; patch_px could be 1, 2, 3, 6" in str(caught.value)
    with pytest.raises(ValidationError, match=r"size_px 4 x 8 is not a whole number of 8-pixel patches"):
        Input(size_px=(4, 8), patch_px=8)


def test_token_bands_have_to_cover_the_bands() -> None:
    with pytest.raises(ValidationError, match=r"token_bands \[2, 2\] do not add up to 5 bands"):
        model_input(5, (4, 6), 2, token_bands=(2, 2))


@pytest.mark.parametrize("token_bands", [(6, -1), (5, 0)])
def test_a_token_has_at_least_one_band(token_bands: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="token_bands"):
        model_input(5, (4, 6), 2, token_bands=token_bands)


def test_tokens_are_counted_over_band_groups_dates_and_patches() -> None:
    assert model_input(5, (8, 12), 4, dates=7, token_bands=(2, 3)).tokens == 2 * 7 * 2 * 3
    assert model_input(5, (8, 12), 4, dates=7).tokens == 7 * 2 * 3


def test_equal_sensors_are_accepted_whatever_their_scaling() -> None:
    require_same("s2", sensor(), sensor(scaling=Scaling(divide_by=5000.0), groups=(1, 2)))


def test_swapped_bands_are_named_as_such() -> None:
    with pytest.raises(SpecError) as caught:
        require_same("s2", sensor(), sensor(bands=("B04", "B03", "B02")))
    assert str(caught.value) == (
        "sensor 's2': the data's bands (B02, B03, B04) are in another order from the model's (B04, B03, B02); "
        "correct `sensors.s2.bands` in the dataset spec"
    )


def test_other_bands_are_refused() -> None:
    with pytest.raises(
        SpecError, match=r"the data's bands \(B02, B03, B04\) are different from the model's \(B02, B03\)"
    ):
        require_same("s2", sensor(), sensor(bands=("B02", "B03")))


def test_another_unit_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        require_same("s2", sensor(), sensor(unit="reflectance"))
    assert str(caught.value) == (
        "sensor 's2': the data is in reflectance_1e4 but the model was trained on reflectance; "
        "set `sensors.s2.scale`, `offset` and `unit` in the dataset spec"
    )


@pytest.mark.parametrize("gsd_m", [6.7, 10.24, 14.9])
def test_a_modest_change_of_resolution_is_accepted(gsd_m: float) -> None:
    require_same("s2", sensor(gsd_m=gsd_m), sensor())


@pytest.mark.parametrize("gsd_m", [6.6, 15.1, 1000.0])
def test_another_resolution_is_refused_on_either_side(gsd_m: float) -> None:
    with pytest.raises(SpecError) as caught:
        require_same("s2", sensor(gsd_m=gsd_m), sensor())
    assert str(caught.value) == (
        f"sensor 's2': the data has a ground sampling distance of {gsd_m} m, the model 10.0 m; "
        "resample the data, or pretrain at its resolution"
    )


def known(**sensors: Sensor) -> dict[str, ModelInput]:
    return {name: ModelInput(sensor=value, input=Input(size_px=(4, 6), patch_px=2)) for name, value in sensors.items()}


def test_a_sensor_the_model_lacks_is_named_where_all_are_needed() -> None:
    data = {"s2": sensor(), "spot": sensor()}
    check_sensors(data, known(s2=sensor(), s1=sensor()), need_all=False)
    with pytest.raises(SpecError) as caught:
        check_sensors(data, known(s2=sensor(), s1=sensor()), need_all=True)
    assert str(caught.value) == (
        "the checkpoint has no sensor spot (it knows s1, s2); drop it from `data.sensors`, or pretrain with it"
    )


def test_data_and_model_without_a_common_sensor_are_refused() -> None:
    with pytest.raises(SpecError) as caught:
        check_sensors({"spot": sensor()}, known(s2=sensor()), need_all=False)
    assert str(caught.value) == "data (spot) and model (s2) share no sensor"


def test_every_shared_sensor_is_compared() -> None:
    with pytest.raises(SpecError, match="sensor 'b'"):
        check_sensors({"a": sensor(), "b": sensor()}, known(a=sensor(), b=sensor(unit="K")), need_all=True)
