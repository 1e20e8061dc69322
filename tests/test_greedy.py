"""The worth of a choice and the greedy algorithms, against all subsets of small pools and equations written out."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomaestro.data.quality.likeness import near_pairs
from geomaestro.select.greedy import choose_greedily
from geomaestro.select.groups import alike, cells, links
from geomaestro.select.objective import Amount, Coverage, Firsts, Objective, Spread, State, Term, coverage_worth
from geomaestro.select.pool import Strata, shares
from geomaestro.select.stochastic import EPSILON, choose_among_some

SHARE = 1 - 1 / math.e


def random_terms(seed: int, size: int, kinds: Sequence[str]) -> list[Term]:
    """Terms of a small pool, with few different values so that there are ties."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(size, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    clients = vectors[rng.choice(size, max(size // 2, 1), replace=False)]

    def strata(count: int) -> Strata:
        return Strata(rng.integers(0, count, size).astype(np.int32), tuple(map(str, range(count))))

    made: dict[str, Term] = {
        "amount": Amount("amount", 1.3, rng.integers(0, 4, size) / 3.0 + 2),
        "coverage": Coverage("coverage", 0.7, strata(3)),
        "more": Coverage("more", 0.5, strata(2)),
        "firsts": Firsts("firsts", 0.4, np.unique(rng.integers(0, size, size), return_inverse=True)[1]),
        "spread": Spread("spread", 1.1, vectors, clients),
    }
    return [made[kind] for kind in kinds]


KINDS = ("amount", "coverage", "more", "firsts", "spread")
SOME_KINDS = st.lists(st.sampled_from(KINDS), min_size=1, max_size=5, unique=True)


def worth_of(objective: Objective, chosen: Sequence[int]) -> float:
    """The worth of a set, from the equations and nothing else."""
    rows, budget, total = list(chosen), objective.budget, 0.0
    for term in objective.terms:
        if isinstance(term, Amount):
            above = term.values - term.values.min()
            most = np.sort(above)[::-1][:budget].sum()
            total += term.weight * above[rows].sum() / most if most else 0.0
        elif isinstance(term, Coverage):
            counts = [[int((term.strata.codes[part] == g).sum()) for g in range(len(term.strata.names))]
                      for part in (rows, slice(None))]  # fmt: skip
            best = max(sum(map(lambda n: phi(n, budget), split)) for split in splits(counts[1], budget))
            total += term.weight * sum(phi(n, budget) for n in counts[0]) / best
        elif isinstance(term, Firsts):
            total += term.weight * len(set(term.groups[rows])) / min(budget, len(set(term.groups)))
        else:
            like = (1 + term.clients @ term.vectors[rows].T) / 2
            total += term.weight * float(like.max(axis=1).mean()) if rows else 0.0
    return total


def phi(n: int, budget: int) -> float:
    return n * (1 + math.log(budget / n)) if 0 < n < budget else float(min(n, budget))


def splits(available: Sequence[int], budget: int) -> list[tuple[int, ...]]:
    """All ways to take a budget from strata."""
    ways = itertools.product(*(range(min(n, budget) + 1) for n in available))
    return [way for way in ways if sum(way) == budget]


def plain_greedy(objective: Objective) -> list[int]:
    """Look at every candidate in every step; the first of equals."""
    state, chosen = State(objective), []
    everyone = np.arange(objective.size)
    for _ in range(objective.budget):
        gains = state.bucket_gains()[objective.bucket] + state.own_gains(everyone)
        gains[chosen] = -np.inf
        chosen.append(int(np.argmax(gains)))
        state.add(np.array(chosen[-1:]))
    return chosen


@given(st.integers(0, 10**6), st.integers(4, 9), st.data(), SOME_KINDS)
@settings(deadline=None, max_examples=150)
def test_greedy_keeps_its_guarantee_and_its_bound_lies_above_the_optimum(seed, size, data, kinds):
    budget = data.draw(st.integers(1, size))
    objective = Objective(random_terms(seed, size, kinds), budget)
    picks = choose_greedily(objective)
    best = max(worth_of(objective, each) for each in itertools.combinations(range(size), budget))
    got = worth_of(objective, picks.candidates)
    assert len(set(picks.candidates.tolist())) == budget
    assert sum(picks.worth.values()) == pytest.approx(got, rel=1e-5)
    assert picks.gains.sum() == pytest.approx(got, rel=1e-5)
    assert got >= SHARE * best - 1e-6
    assert picks.bound >= best - 1e-5
    if objective.greedy_is_optimal:
        assert got == pytest.approx(best, rel=1e-6)


@given(st.integers(0, 10**6), st.integers(4, 40), st.data(), SOME_KINDS)
@settings(deadline=None, max_examples=100)
def test_lazy_greedy_in_buckets_picks_what_plain_greedy_picks(seed, size, data, kinds):
    budget = data.draw(st.integers(1, size))
    objective = Objective(random_terms(seed, size, kinds), budget)
    got, wanted = choose_greedily(objective), plain_greedy(objective)
    if "spread" not in kinds:  # likenesses are rounded to float32, by the number of samples that are looked at together
        assert got.candidates.tolist() == wanted
    state = State(objective)
    for candidate in got.candidates:  # each pick was worth as much as any could be at its time
        gains = state.bucket_gains()[objective.bucket] + state.own_gains(np.arange(size))
        gains[got.candidates[: state.picks]] = -np.inf
        assert gains[candidate] >= gains.max() - 1e-5
        state.add(np.array([candidate]))


@given(st.integers(0, 10**6), st.integers(3, 12), st.data(), SOME_KINDS)
@settings(deadline=None, max_examples=100)
def test_the_objective_is_monotone_and_submodular(seed, size, data, kinds):
    objective = Objective(random_terms(seed, size, kinds), data.draw(st.integers(1, size)))
    large = data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
    small = data.draw(st.sets(st.sampled_from(sorted(large)))) if large else set()
    more = data.draw(st.sampled_from(sorted(set(range(size)) - large)))
    gains = []
    for chosen in (small, large):
        state = State(objective)
        state.add(np.array(sorted(chosen), np.int64))
        before = sum(state.worth().values())
        bucket = state.bucket_gains()[objective.bucket[more]]
        expected = float(bucket + state.own_gains(np.array([more]))[0])
        state.add(np.array([more]))
        gains.append(sum(state.worth().values()) - before)
        assert gains[-1] == pytest.approx(expected, abs=1e-6)
    assert gains[0] >= gains[1] - 1e-6
    assert gains[1] >= -1e-6


@given(st.integers(0, 10**6), st.integers(4, 9), st.data(), SOME_KINDS)
@settings(deadline=None, max_examples=60)
def test_looking_at_some_candidates_gives_a_choice_whose_bound_holds(seed, size, data, kinds):
    budget = data.draw(st.integers(1, size))
    objective = Objective(random_terms(seed, size, kinds), budget)
    picks = choose_among_some(objective, seed=seed, sample=2)
    best = max(worth_of(objective, each) for each in itertools.combinations(range(size), budget))
    got = worth_of(objective, picks.candidates)
    assert len(set(picks.candidates.tolist())) == budget
    assert sum(picks.worth.values()) == pytest.approx(got, rel=1e-5)
    assert picks.gains.sum() == pytest.approx(got, rel=1e-5)
    assert picks.bound >= best - 1e-5


def test_looking_at_some_candidates_keeps_its_guarantee_on_the_mean_of_draws():
    objective = Objective(random_terms(4, 12, KINDS), 4)
    best = max(worth_of(objective, each) for each in itertools.combinations(range(12), 4))
    reached = [sum(choose_among_some(objective, seed=seed).worth.values()) for seed in range(20)]
    assert np.mean(reached) >= (SHARE - EPSILON) * best
    assert max(reached) <= best + 1e-6
    assert len({round(each, 9) for each in reached}) > 1


def test_the_heads_of_rare_strata_are_looked_at_whatever_is_drawn():
    codes = np.zeros(5000, np.int32)
    codes[4321] = 1
    objective = Objective([Coverage("x", 1, Strata(codes, ("common", "rare")))], 10)
    assert 4321 in choose_among_some(objective, seed=0, sample=1).candidates


def test_the_worth_of_coverage_is_one_more_than_the_shannon_entropy_in_nats():
    counts = np.array([5, 3, 0, 2])
    share = counts[counts > 0] / 10
    assert coverage_worth(10)[counts].sum() / 10 == pytest.approx(1 - (share * np.log(share)).sum(), abs=1e-12)


def test_each_term_is_its_weight_at_its_own_optimum():
    for kind in ("amount", "coverage", "firsts"):
        objective = Objective(random_terms(3, 30, [kind]), 7)
        assert sum(choose_greedily(objective).worth.values()) == pytest.approx(objective.weights, rel=1e-12)


def test_spread_is_the_likeness_of_each_client_to_its_nearest_chosen_sample():
    (term,) = random_terms(5, 20, ["spread"])
    assert isinstance(term, Spread)
    state = State(Objective([term], 4))
    state.add(np.array([3, 11, 19]))
    nearest = [max((1 + float(np.dot(client, term.vectors[i]))) / 2 for i in (3, 11, 19)) for client in term.clients]
    assert state.worth()["spread"] == pytest.approx(1.1 * np.mean(nearest), rel=1e-6)


def test_a_single_amount_takes_the_greatest_and_a_single_coverage_takes_equal_counts():
    values = np.array([0.1, 0.9, 0.5, 0.8, 0.5])
    assert choose_greedily(Objective([Amount("x", 1, values)], 3)).candidates.tolist() == [1, 3, 2]
    codes = np.array([0, 0, 0, 0, 1, 1, 2], np.int32)
    found = choose_greedily(Objective([Coverage("x", 1, Strata(codes, ("a", "b", "c")))], 5)).candidates
    assert np.bincount(codes[found]).tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    ("available", "budget", "taken"),
    [
        ([10, 10, 10], 9, [3, 3, 3]),
        ([10, 10, 10], 11, [4, 4, 3]),
        ([1, 10, 10], 11, [1, 5, 5]),
        ([1, 2, 50], 20, [1, 2, 17]),
        ([4, 0, 4], 8, [4, 0, 4]),
        ([5, 5, 5], 2, [1, 1, 0]),
    ],
)
def test_shares_are_equal_short_strata_give_all_and_the_rest_goes_on(available, budget, taken):
    assert shares(np.array(available), budget).tolist() == taken


# --- groups


def test_pictures_in_a_group_differ_in_few_bits_and_those_without_a_hash_are_alone():
    hashes = np.array([0b1111, 0b1110, 2**63 + 5 * 2**30, 0, 0, 0b1111 << 40, 0b1111], np.uint64)
    groups = alike(hashes)
    assert groups[0] == groups[1] == groups[6]
    assert len({int(g) for g in groups[[0, 2, 3, 4, 5]]}) == 5


def test_pairs_of_near_hashes_are_those_of_a_full_comparison():
    rng = np.random.default_rng(0)
    hashes = rng.integers(1, 2**63, 400).astype(np.uint64)
    for nth in range(200):  # copies of which 1 to 5 bits are turned
        bits = rng.choice(64, 1 + nth % 5, replace=False)
        hashes[200 + nth] = hashes[nth] ^ np.uint64(sum(1 << int(bit) for bit in bits))
    hashes = np.unique(hashes)
    left, right, _ = near_pairs(hashes, hashes)
    wanted = {(a, b) for a, b in zip(left.tolist(), right.tolist(), strict=True) if a < b}
    assert {(min(a, b), max(a, b)) for a, b in zip(*map(np.ndarray.tolist, links(hashes)), strict=True)} == wanted
    assert len(wanted) == 120


def test_cells_are_as_wide_as_said_at_any_latitude():
    for lat in (0.2, 45.2, -70.2):
        lon = np.arange(0, 2, 0.001)
        found = cells(lon, np.full(len(lon), lat), 20.0)
        km = 2 * 111.195 * math.cos(math.radians(lat)) / len(np.unique(found))
        assert km == pytest.approx(20, rel=0.25)
    assert len(np.unique(cells(np.array([179.999, -179.999, 180.0, -180.0]), np.zeros(4), 1.0))) == 2
