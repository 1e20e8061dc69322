"""Hiding: exact counts, structure first, the surplus at random, draws that depend on the sample alone."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from geomaestro.nn.draws import uniform
from geomaestro.nn.fusion import FUSIONS, SequenceSet, Strand, lay_out, make_strands
from geomaestro.nn.masking import Hidden, Hiding, from_hidden, hide
from tests.made import DATES, MODES, inputs

KEYS = torch.arange(64) * 7919


def strand(sensor: str, dates: int, grid: tuple[int, int], band_group: int = 0) -> Strand:
    return Strand(sensor, band_group, 0, 2, dates, grid)


def together(*strands: Strand, key: str = "s1") -> list[SequenceSet]:
    return [SequenceSet(key, key, strands, per_date=False)]


def made_sets(mode: str) -> list[SequenceSet]:
    grids = {name: source.input.grid for name, source in inputs().items()}
    return lay_out(make_strands(inputs(), grids, DATES), inputs(), FUSIONS[mode])


def nothing_absent(sets: list[SequenceSet]) -> dict[str, Tensor | None]:
    return {s.key: None for s in sets}


def unstructured(ratio: float) -> Hiding:
    return Hiding(ratio=ratio, sensor=0, dates=0, places=0)


def check_split(h: Hidden, present: Tensor | None) -> None:
    """Hidden, visible and absent tokens are all tokens, each once."""
    seen = torch.zeros(h.hidden.shape, dtype=torch.int64)
    real = torch.ones_like(h.visible_index) if h.visible is None else h.visible.long()
    seen.scatter_add_(1, h.visible_index, real)
    absent = torch.zeros_like(h.hidden) if present is None else ~present
    assert (h.hidden.long() + seen + absent.long()).eq(1).all()
    assert (h.visible_index.diff(dim=1) > 0).all(), "increasing, so every place is there once"


def hides(ratio: float, count: int) -> int:
    """round(ratio * count), but one token always stays visible."""
    return max(0, min(round(ratio * count), count - 1))


def splitmix64(key: int, counter: int) -> int:
    """SplitMix64 in Python's whole numbers: the reference for `uniform`."""
    whole = (1 << 64) - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & whole
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & whole
        return x ^ (x >> 31)

    return mix((mix(key & whole) + (counter + 1) * 0x9E3779B97F4A7C15) & whole)


@settings(deadline=None, derandomize=True)
@given(key=st.integers(-(2**63), 2**63 - 1), stream=st.integers(0, 200))
def test_draws_equal_splitmix64_worked_in_whole_numbers(key: int, stream: int) -> None:
    got = uniform(torch.tensor([key]), 5, stream)[0].tolist()
    assert got == [(splitmix64(key, j + (stream << 40)) >> 40) / 2**24 for j in range(5)]


def test_draws_are_even_and_uncorrelated_over_places_keys_and_streams() -> None:
    x = uniform(torch.arange(400), 500, 3)
    assert x.min() >= 0
    assert x.max() < 1
    assert abs(x.mean().item() - 0.5) < 4 * (1 / 12 / x.numel()) ** 0.5
    assert abs(x.var().item() - 1 / 12) < 1e-3
    for shifted in (x.roll(1, 1), x.roll(1, 0), uniform(torch.arange(400), 500, 4)):
        assert abs(torch.corrcoef(torch.stack([x.flatten(), shifted.flatten()]))[0, 1].item()) < 0.01
    counts = torch.histc(x, 20, 0, 1)
    assert (counts / x.numel() * 20 - 1).abs().max() < 0.04


def test_a_draw_depends_on_key_stream_and_place_alone() -> None:
    x = uniform(torch.tensor([5, 9]), 4, 1)
    assert uniform(torch.tensor([9, 3, 5]), 7, 1)[[2, 0], :4].equal(x)
    assert not uniform(torch.tensor([5, 9]), 4, 2).eq(x).any()
    assert x.unique().numel() == 8


@settings(deadline=None, derandomize=True)
@given(dates=st.integers(1, 5), rows=st.integers(1, 6), cols=st.integers(1, 7), percent=st.integers(1, 99))
def test_exactly_the_ratio_is_hidden_of_complete_sequences(dates: int, rows: int, cols: int, percent: int) -> None:
    sets = together(strand("up", dates, (rows, cols)), strand("down", dates + 1, (rows, cols)))
    length = (2 * dates + 1) * rows * cols
    h = hide(sets, nothing_absent(sets), Hiding(ratio=percent / 100), KEYS[:5])["s1"]
    assert h.hidden.sum(1).tolist() == [hides(percent / 100, length)] * 5
    assert h.visible is None
    check_split(h, None)


@pytest.mark.parametrize("mode", MODES)
def test_every_sequence_of_every_mode_hides_its_exact_share(mode: str) -> None:
    sets = made_sets(mode)
    for key, h in hide(sets, nothing_absent(sets), Hiding(), KEYS).items():
        length = next(s.length for s in sets if s.key == key)
        assert h.hidden.sum(1).unique().tolist() == [round(0.75 * length)]
        check_split(h, None)


@settings(deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), percent=st.integers(1, 99), share=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_exactly_the_ratio_is_hidden_of_the_tokens_that_exist(seed: int, percent: int, share: float) -> None:
    sets = together(strand("up", 2, (2, 3)), strand("down", 4, (2, 3)))
    present = torch.rand(5, 36, generator=torch.Generator().manual_seed(seed)) < share
    h = hide(sets, {"s1": present}, Hiding(ratio=percent / 100), KEYS[:5])["s1"]
    assert h.hidden.sum(1).tolist() == [hides(percent / 100, n) for n in present.sum(1).tolist()]
    check_split(h, present)


def test_one_token_always_stays_visible() -> None:
    sets = together(strand("up", 1, (1, 3)))
    assert hide(sets, nothing_absent(sets), unstructured(0.99), KEYS)["s1"].hidden.sum(1).unique().tolist() == [2]
    present = torch.tensor([[False, True, False], [False, False, False], [True, False, True]])
    h = hide(sets, {"s1": present}, unstructured(0.99), KEYS[:3])["s1"]
    assert h.hidden.sum(1).tolist() == [0, 0, 1]
    check_split(h, present)


@pytest.mark.parametrize(("ratio", "length"), [(0.07, 150), (0.13, 950), (0.09, 650)])
def test_counts_of_complete_data_do_not_depend_on_how_it_is_told(ratio: float, length: int) -> None:
    """These products end in .5 in float32 but not in float64 (or the other way round)."""
    sets = together(strand("up", 1, (1, length)))
    free = hide(sets, nothing_absent(sets), unstructured(ratio), KEYS[:3])["s1"]
    told = hide(sets, {"s1": torch.ones(3, length, dtype=torch.bool)}, unstructured(ratio), KEYS[:3])["s1"]
    check_split(told, torch.ones(3, length, dtype=torch.bool))
    assert told.hidden.equal(free.hidden)


@settings(deadline=None, derandomize=True)
@given(scale=st.sampled_from([0.0, 0.5, 1.0]), dates=st.integers(1, 6))
def test_scale_shows_less_of_long_series(scale: float, dates: int) -> None:
    sequences = together(strand("s2", dates, (4, 6), 0), strand("s2", dates, (4, 6), 1))[0]
    assume(dates * 48 * 0.4 / (2 * dates) ** scale > 1)
    assert abs(1 - Hiding(ratio=0.6, scale=scale).ratio_of(sequences) - 0.4 / (2 * dates) ** scale) < 1e-12
    per_date = SequenceSet("s2.0", "s2", (strand("s2", dates, (4, 6)),), per_date=True)
    assert Hiding(ratio=0.6, scale=scale).ratio_of(per_date) == 0.6


def test_a_sample_hides_the_same_tokens_in_any_batch() -> None:
    sets = made_sets("inter-group")
    order = torch.randperm(len(KEYS))[:9]
    everyone = hide(sets, nothing_absent(sets), Hiding(), KEYS)
    some = hide(sets, nothing_absent(sets), Hiding(), KEYS[order])
    for key, h in some.items():
        assert h.hidden.equal(everyone[key].hidden[order])
        assert h.visible_index.equal(everyone[key].visible_index[order])
        assert h.hidden.unique(dim=0).shape[0] > 1, "samples differ"


def test_a_sample_hides_the_same_tokens_in_any_batch_where_each_date_is_a_sequence() -> None:
    sets = made_sets("monotemp")
    everyone = hide(sets, nothing_absent(sets), Hiding(), KEYS)
    some = hide(sets, nothing_absent(sets), Hiding(), KEYS[[7, 2]])
    for s in sets:
        dates = s.strands[0].dates
        assert (
            some[s.key].hidden.unflatten(0, (2, dates)).equal(everyone[s.key].hidden.unflatten(0, (64, dates))[[7, 2]])
        )


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("structure", ["sensor", "dates", "places", "bands", "none"])
def test_all_places_are_hidden_alike(ratio: float, structure: str) -> None:
    """The surplus of structurally hidden tokens is shown at random, not by place: with probability 1 all is surplus."""
    sets = together(strand("s2", 3, (2, 5), 0), strand("s2", 3, (2, 5), 1), strand("s1", 3, (2, 5)))
    how = Hiding.model_validate(
        {"ratio": ratio, "sensor": 0, "dates": 0, "places": 0, structure: 1}
        if structure != "none"
        else unstructured(ratio).model_dump()
    )
    if structure == "bands":
        sets = together(*sets[0].strands[:2])  # s1 has one band group, of which nothing is hidden
    keys = torch.arange(4000)
    share = hide(sets, nothing_absent(sets), how, keys)["s1"].hidden.float().mean(0)
    assert (share - ratio).abs().max() < 5 * (ratio * (1 - ratio) / len(keys)) ** 0.5
    place = torch.linspace(0, 1, len(share))
    assert abs((share * place).sum().item() / share.sum().item() - 0.5) < 0.01


def fully_hidden(h: Hidden, shape: tuple[int, ...], dims: tuple[int, ...]) -> Tensor:
    return h.hidden.unflatten(1, shape).float().amin(dim=dims).bool()


def test_whole_sensors_dates_and_places_are_hidden_as_often_as_asked() -> None:
    """Rates are far above those of an unstructured draw, where a whole date or place is hidden by chance alone."""
    keys, sets = torch.arange(4000), together(strand("s2", 5, (3, 4)))
    none = dict.fromkeys(("sensor", "dates", "places"), 0.0)
    dates = hide(sets, nothing_absent(sets), Hiding(**{**none, "ratio": 0.8, "dates": 0.2}), keys)["s1"]
    assert 0.18 < fully_hidden(dates, (5, 12), (2,)).float().mean() < 0.28
    places = hide(sets, nothing_absent(sets), Hiding(**{**none, "ratio": 0.6, "places": 0.2}), keys)["s1"]
    assert 0.18 < fully_hidden(places, (5, 12), (1,)).float().mean() < 0.28
    plain = hide(sets, nothing_absent(sets), unstructured(0.6), keys)["s1"]
    assert fully_hidden(plain, (5, 12), (1,)).float().mean() < 0.1


def test_a_sensor_is_hidden_whole_only_where_its_group_has_another() -> None:
    keys, how = torch.arange(4000), Hiding(ratio=0.75, sensor=0.5, dates=0, places=0)
    pair = together(strand("up", 2, (2, 3)), strand("down", 2, (2, 3)))
    h = hide(pair, nothing_absent(pair), how, keys)["s1"]
    one_alone = fully_hidden(h, (2, 12), (2,)).float().mean(0)  # up and not down hidden, or down and not up: 1/4 each
    assert (one_alone - 0.25).abs().max() < 0.04
    lone = together(strand("up", 2, (2, 3), 0), strand("up", 2, (2, 3), 1))
    sure, never = (
        hide(lone, nothing_absent(lone), Hiding(ratio=0.75, sensor=p, dates=0.4, places=0), keys)["s1"] for p in (1, 0)
    )
    assert sure.hidden.equal(never.hidden), "the dates drawn still count"


def test_structurally_hidden_tokens_come_first_and_none_is_lost() -> None:
    """A place is hidden for all dates or for none."""
    keys, sets = torch.arange(500), together(strand("s2", 4, (3, 5)))
    h = hide(sets, nothing_absent(sets), Hiding(ratio=0.75, sensor=0, dates=0, places=0.6), keys)["s1"]
    drawn = (
        uniform(keys, 1 + 1 + 4 + 15, stream=1)[:, -15:] < 0.6
    )  # sensor, band group, dates, places of the first sensor
    structural = drawn[:, None].expand(-1, 4, -1).flatten(1)
    few = structural.sum(1) <= 45
    assert few.any()
    assert (~few).any()
    assert h.hidden[few][structural[few]].all(), "all structurally hidden tokens are hidden where they are few enough"
    assert structural[~few][h.hidden[~few]].all(), "nothing else is hidden where they are too many"


def test_nothing_but_exact_shares_is_drawn_where_each_date_is_a_sequence() -> None:
    sets = made_sets("shared")
    with_structure = hide(sets, nothing_absent(sets), Hiding(dates=1, places=1, sensor=1), KEYS)
    plain = hide(sets, nothing_absent(sets), unstructured(0.75), KEYS)
    assert all(with_structure[s.key].hidden.equal(plain[s.key].hidden) for s in sets)


def test_given_hidden_tokens_are_taken_as_they_are() -> None:
    hidden = torch.tensor([[True, False, True, False, True], [False, True, True, True, False]])
    h = from_hidden(hidden, None)
    assert h.hidden.equal(hidden)
    assert h.visible_index.tolist() == [[1, 3], [0, 4]]
    assert h.visible is None


def test_given_hidden_tokens_may_be_uneven_where_some_are_absent() -> None:
    hidden = torch.tensor([[True, False, True, False, True], [False, False, True, True, False]])
    present = torch.tensor([[True, True, True, True, True], [False, True, True, False, False]])
    h = from_hidden(hidden, present)
    check_split(h, present)
    assert h.hidden.tolist() == [[True, False, True, False, True], [False, False, True, False, False]]
    assert h.visible is not None
    assert h.visible.sum(1).tolist() == [2, 1]


def test_uneven_hidden_tokens_of_complete_data_are_refused() -> None:
    hidden = torch.tensor([[True, False, True], [False, False, True]])
    with pytest.raises(ValueError) as caught:
        from_hidden(hidden, None)
    assert str(caught.value) == "hidden tokens leave 1 to 2 visible; all sequences need the same number"


@pytest.mark.parametrize("values", [{"ratio": 0}, {"ratio": 1}, {"scale": -1}, {"dates": 1.5}, {"places": -0.1}])
def test_impossible_shares_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Input should be"):
        Hiding.model_validate(values)
