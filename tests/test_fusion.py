"""Which tokens meet: sequences, weights, and how far one changed pixel is heard in each mode of the table."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from geomaestro.errors import SpecError
from geomaestro.models.encoder import Encoder, EncoderSpec
from geomaestro.nn.fusion import FUSIONS, lay_out, make_strands, weights_key
from tests.made import DATES, MODES, batch, encoder, encoder_spec, inputs, model_input, with_images, without_dates

SEQUENCES = {  # key: weights, sensors and band groups in order
    "shared": {
        "aerial.0": ("shared", [("aerial", 0)]),
        "s2.0": ("shared", [("s2", 0)]),
        "s2.1": ("shared", [("s2", 1)]),
        "s1_up.0": ("shared", [("s1_up", 0)]),
        "s1_down.0": ("shared", [("s1_down", 0)]),
    },
    "monotemp": {
        "aerial.0": ("aerial", [("aerial", 0)]),
        "s2.0": ("s2", [("s2", 0)]),
        "s2.1": ("s2", [("s2", 1)]),
        "s1_up.0": ("s1_up", [("s1_up", 0)]),
        "s1_down.0": ("s1_down", [("s1_down", 0)]),
    },
    "mod": {
        "aerial": ("aerial", [("aerial", 0)]),
        "s2": ("s2", [("s2", 0), ("s2", 1)]),
        "s1_up": ("s1_up", [("s1_up", 0)]),
        "s1_down": ("s1_down", [("s1_down", 0)]),
    },
    "group": {
        "aerial": ("aerial", [("aerial", 0)]),
        "s2": ("s2", [("s2", 0), ("s2", 1)]),
        "s1": ("s1", [("s1_up", 0), ("s1_down", 0)]),
    },
}
SEQUENCES["inter-group"] = SEQUENCES["group"]


def grids() -> dict[str, tuple[int, int]]:
    return {name: source.input.grid for name, source in inputs().items()}


@pytest.mark.parametrize("mode", MODES)
def test_tokens_meet_as_the_table_says(mode: str) -> None:
    sets = lay_out(make_strands(inputs(), grids(), DATES), inputs(), FUSIONS[mode])
    got = {s.key: (s.weights, [(x.sensor, x.band_group) for x in s.strands]) for s in sets}
    assert got == SEQUENCES[mode]


def test_strands_know_their_bands() -> None:
    strands = make_strands(inputs(), grids(), DATES)
    assert [(s.sensor, s.first_band, s.bands, s.tokens) for s in strands] == [
        ("aerial", 0, 3, 24),
        ("s2", 0, 2, 18),
        ("s2", 2, 3, 18),
        ("s1_up", 0, 2, 12),
        ("s1_down", 0, 2, 24),
    ]


@pytest.mark.parametrize("mode", MODES)
def test_split_undoes_join(mode: str) -> None:
    for sequences in lay_out(make_strands(inputs(), grids(), DATES), inputs(), FUSIONS[mode]):
        parts = [torch.rand(2, s.dates, s.places, 7) for s in sequences.strands]
        joined = sequences.join(parts)
        samples = 2 * (sequences.strands[0].dates if FUSIONS[mode].per_date else 1)
        assert joined.shape == (samples, sequences.length, 7)
        back = sequences.split(joined)
        assert all(a.equal(b) for a, b in zip(parts, back, strict=True))


@pytest.mark.parametrize("mode", ["mod", "group"])
def test_a_sequence_lists_strands_then_dates_then_places(mode: str) -> None:
    for sequences in lay_out(make_strands(inputs(), grids(), DATES), inputs(), FUSIONS[mode]):
        parts = [torch.rand(2, s.dates, s.places, 7) for s in sequences.strands]
        joined = sequences.join(parts)
        start = 0
        for part in parts:
            for t in range(part.shape[1]):
                for n in range(part.shape[2]):
                    assert joined[:, start].equal(part[:, t, n])
                    start += 1
        assert start == sequences.length


def changed(before: Tensor, after: Tensor) -> Tensor:
    """Tokens (b s n) that are not bit-equal."""
    return before.ne(after).any(dim=-1)


def heard(mode: str, sensor: str, band_group: int, date: int, other: str) -> Tensor:
    """Maps (s) of `other` that hear a change of one pixel of sensor, band group and date, worked from the table."""
    maps = torch.zeros(len(inputs()[other].token_bands), DATES[other], dtype=torch.bool)
    if mode == "inter-group":
        maps[:] = True
    elif mode == "group":
        maps[:] = sensor == other or {sensor, other} == {"s1_up", "s1_down"}
    elif sensor == other:
        maps[slice(None) if mode == "mod" else band_group, slice(None) if mode == "mod" else date] = True
    return maps.flatten()


@pytest.mark.parametrize(
    ("sensor", "band", "band_group", "date"),
    [("aerial", 1, 0, 0), ("s2", 4, 1, 2), ("s1_up", 0, 0, 1), ("s1_down", 1, 0, 3)],
)
@pytest.mark.parametrize("mode", MODES)
def test_a_changed_pixel_is_heard_exactly_as_far_as_the_mode_says(
    mode: str, sensor: str, band: int, band_group: int, date: int
) -> None:
    model, b = encoder(mode), batch(2)
    other = b.images[sensor].clone()
    other[1, date, band, 1, 3] += 10.0
    with torch.no_grad():
        before, after = model(b), model(with_images(b, **{sensor: other}))
    for name, maps in before.maps.items():
        difference = changed(maps, after.maps[name])
        assert not difference[0].any(), "the other sample is not touched"
        expected = heard(mode, sensor, band_group, date, name)
        assert difference[1].equal(expected[:, None].expand_as(difference[1])), f"{mode}: {sensor} on {name}"


@pytest.mark.parametrize("mode", ["shared", "monotemp"])
def test_the_norm_over_a_date_stays_within_its_date(mode: str) -> None:
    model, b = encoder(mode, token_norm="date"), batch(2)
    other = b.images["s2"].clone()
    other[1, 2, 4, 1, 3] += 10.0
    with torch.no_grad():
        difference = changed(model(b).maps["s2"], model(with_images(b, s2=other)).maps["s2"])
    assert difference[1, 5].all(), "band group 1, date 2"
    assert difference.sum() == 6


@pytest.mark.parametrize("mode", ["shared", "monotemp", "mod", "group"])
def test_weights_are_shared_as_the_table_says(mode: str) -> None:
    """Changing one set of weights changes exactly the sensors that the table gives it to."""
    model, b = encoder(mode), batch(1)
    users = {
        "shared": {"shared": set(inputs())},
        "monotemp": {name: {name} for name in inputs()},
        "mod": {name: {name} for name in inputs()},
        "group": {"aerial": {"aerial"}, "s2": {"s2"}, "s1": {"s1_up", "s1_down"}},
    }[mode]
    assert set(model.stacks) == set(users)
    assert model.joint is None
    with torch.no_grad():
        before = model(b).maps
        for weights, sensors in users.items():
            stack = model.stacks[weights]
            kept = {name: p.clone() for name, p in stack.named_parameters()}
            stack.norm.bias += 1.0
            after = model(b).maps
            assert {s for s in before if not before[s].equal(after[s])} == sensors
            stack.load_state_dict(kept)


def test_joint_blocks_are_the_last_of_the_depth() -> None:
    model = Encoder(encoder_spec("inter-group", depth=5, joint_blocks=None))
    assert model.joint is not None
    assert len(model.joint.blocks) == 3
    assert all(len(stack.blocks) == 2 for stack in model.stacks.values())  # type: ignore[union-attr, arg-type]
    assert Encoder(encoder_spec("group", depth=5, joint_blocks=None)).joint is None
    assert len(Encoder(encoder_spec("mod", depth=5, joint_blocks=3)).joint.blocks) == 3  # type: ignore[union-attr]


def test_the_tokeniser_is_shared_where_the_inputs_say_so() -> None:
    sensors = {**inputs(), "s1_down": model_input(2, (4, 6), 2, 4, fusion_group="s1", shares_embedding="s1_up")}
    model = Encoder(encoder_spec(sensors=sensors))
    assert set(model.tokenisers) == {"aerial", "s2", "s1_up"}


def test_sensors_may_come_in_any_order_and_may_be_missing() -> None:
    model, b = encoder("group"), batch(2)
    with torch.no_grad():
        everything = model(b)
        some = model(b.only(["s1_up", "aerial"]))
        reordered = model(b.only(["s1_down", "s2", "aerial", "s1_up"]))
    assert list(some.maps) == ["aerial", "s1_up"]
    assert list(reordered.maps) == list(everything.maps)
    assert all(reordered.maps[s].equal(everything.maps[s]) for s in everything.maps)
    torch.testing.assert_close(some.maps["aerial"], everything.maps["aerial"])


@pytest.mark.parametrize("norm", ["token", "date"])
@pytest.mark.parametrize("mode", MODES)
def test_an_absent_sensor_changes_nothing_but_being_there(mode: str, norm: str) -> None:
    model, b = encoder(mode, token_norm=norm), batch(2)
    absent = without_dates(b, "s1_up", slice(None), slice(None))
    with torch.no_grad():
        told, left_out = model(absent), model(b.only(["aerial", "s2", "s1_down"]))
    assert told.present["s1_up"] is not None
    assert not told.present["s1_up"].any()
    for name, maps in left_out.maps.items():
        torch.testing.assert_close(told.maps[name], maps)


@pytest.mark.parametrize("norm", ["token", "date"])
@pytest.mark.parametrize("mode", MODES)
def test_absent_dates_equal_a_shorter_series(mode: str, norm: str) -> None:
    """T < D: two of three dates of s2, told by absence or by a batch of two dates."""
    model, b = encoder(mode, token_norm=norm), batch(2)
    padded = without_dates(b, "s2", slice(None), 2)
    short = {
        key: {**getattr(b, key), "s2": getattr(b, key)["s2"][:, :2]} for key in ("images", "dates", "present", "valid")
    }
    with torch.no_grad():
        told, cut = model(padded), model(type(b)(**{**{f: getattr(b, f) for f in b.__dataclass_fields__}, **short}))
    for name, maps in cut.maps.items():
        known = told.present[name]
        same = told.maps[name] if known is None else told.maps[name].unflatten(1, (2, 3))[:, :, :2].flatten(1, 2)
        torch.testing.assert_close(same, maps)
    assert told.present["s2"] is not None
    assert told.present["s2"].unflatten(1, (2, 3))[0, :, :, 0].tolist() == [[True, True, False]] * 2


@pytest.mark.parametrize("mode", MODES)
def test_what_stands_in_an_absent_date_does_not_matter(mode: str) -> None:
    model, b = encoder(mode, token_norm="date"), without_dates(batch(2), "s2", 1, 2)
    garbage = b.images["s2"].clone()
    garbage[1, 2] = float("nan")
    dates = b.dates["s2"].clone()
    dates[1, 2] = 0
    with torch.no_grad():
        before, after = model(b), model(with_images(b, s2=garbage))
        moved = model(
            type(b)(**{**{f: getattr(b, f) for f in b.__dataclass_fields__}, "dates": {**b.dates, "s2": dates}})
        )
    for name in before.maps:
        assert after.maps[name].equal(before.maps[name])
        known = before.present[name]
        here = torch.ones(before.maps[name].shape[:-1], dtype=torch.bool) if known is None else known
        assert moved.maps[name][here].equal(before.maps[name][here])


def test_a_batch_without_a_known_sensor_is_refused() -> None:
    other = {"modis": model_input(2, (4, 6), 2), "gedi": model_input(1, (4, 6), 2)}
    with pytest.raises(SpecError) as caught:
        encoder()(batch(1, other))
    assert str(caught.value) == "the batch holds modis, gedi; this encoder knows aerial, s2, s1_up, s1_down"


def test_a_batch_with_other_bands_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        encoder()(batch(1, {"s2": model_input(4, (4, 6), 2, 3)}))
    assert str(caught.value) == "sensor 's2': the batch has 4 bands, the encoder 5"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"fusion": "shared", "joint_blocks": 1}, "joint_blocks needs fusion mod, group or inter-group, not 'shared'"),
        ({"depth": 3, "joint_blocks": 3}, "joint_blocks 3 must be fewer than depth 3"),
        ({"depth": 3, "joint_blocks": None}, "joint_blocks 3 must be fewer than depth 3"),
        ({"dim": 20}, "dim 20 must be a multiple of 8"),
        ({"dim": 8}, "dim 8"),
        ({"date_channels": 6}, "date_channels 6"),
        ({"date_channels": 24}, "24 date channels|date_channels 24"),
        ({"fusion": "intergroup"}, "'shared', 'monotemp', 'mod', 'group' or 'inter-group'"),
        ({"inputs": {}}, "at least 1 item"),
        ({"inputs": {"s2.l2a": inputs()["s2"]}}, "s2.l2a"),
    ],
)
def test_an_impossible_encoder_is_refused(settings: dict[str, object], text: str) -> None:
    values = {**encoder_spec().model_dump(), **settings}
    with pytest.raises(ValidationError, match=text):
        EncoderSpec.model_validate(values)


@pytest.mark.parametrize("owner", ["s1_up", "radar"])
def test_sensors_that_share_an_embedding_have_equal_bands_and_patches(owner: str) -> None:
    """Also where they share one under a name that is no sensor, as the official code allows."""
    sensors = {
        "s1_up": model_input(2, (4, 6), 2, 2, shares_embedding=None if owner == "s1_up" else owner),
        "s1_down": model_input(2, (4, 6), 1, 4, shares_embedding=owner),
    }
    with pytest.raises(
        ValidationError, match=f"s1_down shares the embedding of {owner}, but their bands or patch_px differ"
    ):
        encoder_spec(sensors=sensors)


def test_published_sizes_are_those_of_the_official_code() -> None:
    base = EncoderSpec.of_size("base", inputs(), fusion="group")
    assert (base.dim, base.depth, base.heads, base.head_dim, base.mlp_ratio) == (768, 12, 12, 64, 4)
    assert weights_key("s1_up", inputs()["s1_up"], FUSIONS["group"]) == "s1"
