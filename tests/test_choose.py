"""`geomaestro choose`: what it takes from tables, what it writes and shows, and what it says of bad tables."""

import json
import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks.choose import CHOICES, run_here, write_pool

from geomaestro.cli import app
from geomaestro.errors import DataError, SpecError
from geomaestro.select import stochastic
from geomaestro.select.choose import Options, about, choose, save
from geomaestro.select.curve import summary
from geomaestro.select.places import continents, seasons
from geomaestro.select.subset import ids_of_subset
from geomaestro.select.table import about_of, write_table

CONTINENTS = ("Africa", "Asia", "Europe", "Oceania")
MIX = "spectral_entropy=1,continent=0.5,biome=0.5,season=0.2,embedding=1,redundancy=0.5,places=0.1"


def make_pool(path: Path, size: int = 60, *, seed: int = 0, **changes: object) -> Path:
    """A table of samples as `geomaestro diversity` writes it; a change of None leaves a column out."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(size, 4)).astype(np.float32)
    columns: dict[str, object] = {
        "id": [f"s{seed}_{i:05d}" for i in range(size)],
        "dataset": ["made"] * size,
        "split": ["train" if i % 3 else "test" for i in range(size)],
        "lon": rng.uniform(-170, 170, size),
        "lat": rng.uniform(-50, 70, size),
        "continent": [CONTINENTS[i] for i in rng.choice(4, size, p=[0.1, 0.2, 0.6, 0.1])],
        "biome": [f"biome {i}" for i in rng.integers(0, 5, size)],
        "season": [("winter", "summer")[i] for i in rng.integers(0, 2, size)],
        "spectral_entropy": pa.array(rng.gamma(9, 0.25, size), pa.float32()),
        "picture_hash": pa.array(rng.integers(1, 2**62, size), pa.uint64()),
        "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32(), 4)),
        "colour": [("red", "green")[i] for i in rng.integers(0, 2, size)],
    } | changes
    write_table(path, pa.table({name: x for name, x in columns.items() if x is not None}), {"spectral": {"bins": 256}})
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return make_pool(tmp_path / "pool.parquet")


def chosen_ids(paths: Sequence[Path], budget: int, by: str, **options: object) -> list[str]:
    out = paths[0].parent / "chosen.parquet"
    return save(choose(paths, budget, by, Options(**options)), out)["id"].to_pylist()  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["random", "one-region:Europe", "balanced:continent", MIX])
def test_a_choice_depends_on_ids_and_seed_and_not_on_the_order_of_rows(pool, tmp_path, by):
    table = pq.read_table(pool)
    turned = tmp_path / "turned.parquet"
    write_table(turned, table.take(pa.array(np.random.default_rng(1).permutation(len(table)))), {})
    first = chosen_ids([pool], 12, by)
    assert len(set(first)) == 12
    assert chosen_ids([pool], 12, by) == first
    assert chosen_ids([turned], 12, by) == first
    if by != MIX:  # random, but for the seed
        assert chosen_ids([pool], 12, by, seed=1) != first


def test_a_table_cut_in_two_gives_the_same_choice(pool, tmp_path):
    table = pq.read_table(pool)
    parts = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for path, part in zip(parts, (table[:20], table[20:]), strict=True):
        write_table(path, part, {})
    assert chosen_ids(parts, 10, MIX) == chosen_ids([pool], 10, MIX)
    assert chosen_ids(parts[::-1], 10, MIX) == chosen_ids([pool], 10, MIX)


def test_a_random_choice_is_part_of_a_larger_one(pool):
    assert chosen_ids([pool], 30, "random")[:10] == chosen_ids([pool], 10, "random")


def test_the_subset_holds_the_rows_in_the_order_chosen_with_rank_gain_and_how(pool, tmp_path):
    out = tmp_path / "subset.parquet"
    choice = choose([pool], 15, MIX, Options(seed=3))
    save(choice, out)
    table, source = pq.read_table(out), {row["id"]: row for row in pq.read_table(pool).to_pylist()}
    assert table["rank"].to_pylist() == list(range(1, 16))
    gains = table["gain"].to_pylist()
    assert sum(gains) == pytest.approx(sum(choice.picks.worth.values()), rel=1e-5)
    for row in table.drop_columns(["rank", "gain"]).to_pylist():
        assert row == source[row["id"]]
    found = about_of(out)["choose"]
    assert found["weights"]["places"] == 0.1
    assert found["seed"] == 3
    assert found["algorithm"] == "lazy greedy"
    assert list(found["pool"]["files"]) == [str(pool)]
    assert len(found["pool"]["files"][str(pool)]) == 64
    assert json.dumps(found)


def test_balanced_takes_equal_counts_and_tells_of_what_is_short(tmp_path):
    pool = make_pool(tmp_path / "pool.parquet", 40, continent=["Africa"] * 2 + ["Asia"] * 8 + ["Europe"] * 30)
    choice = choose([pool], 19, "balanced:continent")
    table = save(choice, tmp_path / "out.parquet")
    counts = {row["values"]: row["counts"] for row in table["continent"].value_counts().to_pylist()}
    assert counts == {"Africa": 2, "Asia": 8, "Europe": 9}
    assert choice.notes == (
        "an equal share of continent is 6.33333 samples; counts lie between 2 and 9",
        "all that there is was taken of Africa (2), Asia (8), and what they lack of the others",
    )
    assert set(choose([pool], 3, "balanced:continent").pool.strata("continent").codes[:1]) <= {0, 1, 2}


def test_one_region_takes_from_the_named_stratum_alone(pool, tmp_path):
    for by, column, value in (
        ("one-region:Europe", "continent", "Europe"),
        ("one-region:biome 3", "biome", "biome 3"),
        ("one-region:colour=red", "colour", "red"),
    ):
        table = save(choose([pool], 5, by), tmp_path / "out.parquet")
        assert set(table[column].to_pylist()) == {value}


def test_only_the_named_splits_are_chosen_from(pool, tmp_path):
    table = save(choose([pool], 30, "spectral_entropy", Options(splits=("train",))), tmp_path / "out.parquet")
    assert set(table["split"].to_pylist()) == {"train"}


def test_year_is_read_from_the_date(tmp_path):
    days = [date(2018 + i // 25, 6, 1) for i in range(60)]
    pool = make_pool(tmp_path / "pool.parquet", date=pa.array(days, pa.date32()))
    table = save(choose([pool], 9, "year"), tmp_path / "out.parquet")
    years = [day.year for day in table["date"].to_pylist()]
    assert sorted(years.count(year) for year in (2018, 2019, 2020)) == [3, 3, 3]


def test_null_and_not_finite_values_are_left_out_counted_and_told(tmp_path):
    entropy = [None, float("nan"), float("inf"), *[2.0] * 17]
    pool = make_pool(tmp_path / "pool.parquet", 20, spectral_entropy=pa.array(entropy, pa.float32()),
                     continent=["", None, *["Asia"] * 18])  # fmt: skip
    choice = choose([pool], 17, "spectral_entropy,continent")
    assert choice.pool.notes == ("3 of 20 samples have no `spectral_entropy` and are left out",)
    assert choice.notes == (
        "spectral_entropy is the same for all samples and decides nothing",
        "continent is 'Asia' for all samples and decides nothing",
    )
    found = choose([pool], 5, "redundancy").notes
    assert found == ("no two samples share a group of redundancy, so it decides nothing",)
    with pytest.raises(
        DataError, match=r"holds 17 samples to choose from \(3 of 20 samples have no `spectral_entropy`"
    ):
        choose([pool], 18, "spectral_entropy,continent")


def test_embeddings_that_are_null_zero_or_nan_are_left_out(tmp_path):
    rows = [None, [0.0, 0.0], [float("nan"), 1.0], *[[1.0, float(i)] for i in range(7)]]
    pool = make_pool(tmp_path / "pool.parquet", 10, embedding=pa.array(rows, pa.list_(pa.float32())))
    choice = choose([pool], 2, "embedding", Options(clients=2))
    assert choice.pool.notes == ("3 of 10 samples have no `embedding` and are left out",)
    assert choice.notes[0].startswith("embedding looks at 2 of 7 samples, no more than are chosen; give --clients")


def test_of_pictures_that_are_alike_one_is_chosen_first(tmp_path):
    hashes = np.repeat(np.random.default_rng(0).integers(1, 2**62, 10).astype(np.uint64), 6)
    pool = make_pool(tmp_path / "pool.parquet", picture_hash=pa.array(hashes))
    table = save(choose([pool], 10, "redundancy"), tmp_path / "out.parquet")
    assert len(set(table["picture_hash"].to_pylist())) == 10


@pytest.mark.parametrize(
    ("by", "budget", "error", "said"),
    [
        ("random", 61, DataError, "holds 60 samples to choose from, fewer than --budget 61"),
        ("random", 0, SpecError, "--budget 0: give 1 or more"),
        ("random", -3, SpecError, "--budget -3: give 1 or more"),
        (
            "spectral_entrpy",
            5,
            SpecError,
            "there is no term or column 'spectral_entrpy'; did you mean 'spectral_entropy'?",
        ),
        ("land_cover", 5, DataError, "has no column 'land_cover'; `geomaestro diversity` measures it"),
        ("year", 5, DataError, "has no column 'year'; `geomaestro diversity` measures it"),
        ("balanced:biom", 5, SpecError, "there is no term or column 'biom'; did you mean 'biome'?"),
        ("balanced:spectral_entropy", 5, DataError, "holds float, which are no strata"),
        ("balance:continent", 5, SpecError, "did you mean 'balanced'?"),
        ("balanced", 5, SpecError, "give random, one-region:Europe, balanced:continent"),
        ("", 5, SpecError, "give random, one-region:Europe"),
        (
            "one-region:Atlantis",
            5,
            DataError,
            "no sample has continent or biome or season or split or dataset 'Atlantis'",
        ),
        ("one-region:Eurpe", 5, DataError, "did you mean 'Europe'?"),
        ("one-region:Antarctica", 5, DataError, "'Antarctica'"),
        ("one-region:Europe", 59, DataError, "samples have continent 'Europe', fewer than --budget 59"),
        ("lat=1", 5, SpecError, "`places` spreads a choice over the ground"),
        ("continent=-1", 5, SpecError, "the weight of 'continent' is -1; weights lie above 0"),
        ("continent=0", 5, SpecError, "the weight of 'continent' is 0"),
        ("continent=nan", 5, SpecError, "the weight of 'continent' is nan"),
        ("continent=much", 5, SpecError, "the weight of 'continent' is 'much', not a number"),
        ("continent=1,continent=2", 5, SpecError, "'continent' is named twice"),
        ("continent=1,=2", 5, SpecError, "a term has no name"),
    ],
)
def test_what_cannot_be_is_told_in_one_message(pool, by, budget, error, said):
    with pytest.raises(error) as caught:
        choose([pool], budget, by)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "values", "by", "said"),
    [
        ("continent", pa.nulls(60, pa.string()), "continent", "no sample has `continent`, which --by continent needs"),
        ("continent", pa.nulls(60, pa.string()), "balanced:continent", "no sample has `continent`"),
        ("spectral_entropy", pa.nulls(60, pa.float32()), "spectral_entropy", "no sample has `spectral_entropy`"),
        ("spectral_entropy", pa.nulls(60), "spectral_entropy", "no sample has `spectral_entropy`"),
        ("embedding", pa.nulls(60, pa.list_(pa.float32())), "embedding", "no sample has `embedding`"),
        ("picture_hash", pa.array([0] * 60, pa.uint64()), "redundancy", "no sample has a picture hash"),
        ("lon", pa.nulls(60, pa.float64()), "places", "no sample has a place"),
        ("embedding", None, "embedding", "has no column 'embedding'; `geomaestro diversity` measures it"),
        ("picture_hash", None, "redundancy", "has no column 'picture_hash'"),
        ("lat", None, "places", "has no column 'lat'"),
        ("id", ["a"] * 60, "random", "id 'a' is there twice in a dataset; name each table once"),
        ("id", None, "random", "is no table of samples, as it has no column `id`"),
        ("id", [None, *map(str, range(59))], "random", "1 rows have no id"),
        (
            "embedding",
            [[1.0]] * 59 + [[1.0, 2.0]],
            "embedding",
            "embeddings of [1, 2] numbers; take those of one model",
        ),
    ],
)
def test_a_table_that_lacks_what_is_needed_is_told(tmp_path, column, values, by, said):
    pool = make_pool(tmp_path / "pool.parquet", **{column: values})
    with pytest.raises(DataError) as caught:
        choose([pool], 5, by)
    assert said in str(caught.value)


def test_tables_of_two_datasets_may_share_ids_but_not_two_of_one(pool, tmp_path):
    other = make_pool(tmp_path / "other.parquet", dataset=["another"] * 60)
    assert len(choose([pool, other], 120, "random").chosen) == 120
    with pytest.raises(DataError, match="is there twice in a dataset"):
        choose([pool, pool], 5, "random")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"apart_km": 0}, "--apart-km 0: give a distance above 0"),
        ({"clients": 0}, "--clients 0: give at least 1"),
        ({"seed": -1}, "--seed -1: give 0 or more"),
    ],
)
def test_impossible_options_are_told(options, said):
    with pytest.raises(SpecError, match=said):
        Options(**options)


def test_a_split_that_is_not_there_is_told(pool):
    with pytest.raises(DataError, match="--splits trian: no sample is in them; the pool has test, train"):
        choose([pool], 5, "random", Options(splits=("trian",)))


def test_a_large_pool_with_embeddings_is_chosen_from_by_samples_and_says_so(pool, monkeypatch):
    monkeypatch.setattr(stochastic, "MOST_LIKENESSES", 100)
    choice = choose([pool], 10, MIX)
    assert "stochastic greedy choice has at least 53.2 % (1 - 1/e - 0.1) in expectation" in choice.guarantee
    assert about(choice)["algorithm"] == "stochastic greedy"
    assert choose([pool], 10, MIX).chosen.tolist() == choice.chosen.tolist()
    assert "lazy greedy choice has at least 63.2 %" in choose([pool], 10, "spectral_entropy,continent,biome").guarantee


# --- a subset in a recipe


def test_ids_of_a_subset_are_those_of_the_dataset(tmp_path):
    path = tmp_path / "subset.parquet"
    write_table(path, pa.table({"id": ["b", "a", "c"], "dataset": ["one", "two", "one"]}), {})
    assert ids_of_subset(path, "one") == ["b", "c"]
    with pytest.raises(DataError, match="none of its 3 samples are of dataset 'three', but of one, two"):
        ids_of_subset(path, "three")
    write_table(path, pa.table({"id": ["b", "a"]}), {})
    assert ids_of_subset(path, "any") == ["b", "a"]
    write_table(path, pa.table({"id": pa.array([], pa.string())}), {})
    with pytest.raises(DataError, match="holds no sample"):
        ids_of_subset(path, "any")


# --- what is shown


def test_the_summary_holds_measures_worked_by_hand(tmp_path):
    hashes = pa.array([1 << 60] * 5 + [0xFF << 20, 0xFF << 40, 0], pa.uint64())
    entropy = pa.array([1, 1, 1, 1, 1, 3, 2, 4], pa.float32())
    absent = dict.fromkeys(("biome", "season", "split", "colour", "embedding"))
    pool = make_pool(tmp_path / "pool.parquet", 8, **absent, continent=["Asia"] * 6 + ["Europe"] * 2,
                     picture_hash=hashes, spectral_entropy=entropy)  # fmt: skip
    found = summary(choose([pool], 4, "spectral_entropy=1,redundancy=3"))
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["mean spectral_entropy"]["pool"] == 14 / 8
    assert rows["mean spectral_entropy"]["chosen"] == (4 + 3 + 2 + 1) / 4
    assert rows["entropy of continent"]["pool"] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert rows["entropy of continent"]["chosen"] == pytest.approx(math.log(2))
    assert rows["near-duplicate share"]["pool"] == 4 / 8
    assert rows["near-duplicate share"]["chosen"] == 0
    assert rows["objective"]["chosen"] == pytest.approx(4.0)
    assert found["strata"]["continent"] == [
        {"name": "Asia", "pool": 6, "chosen": 2},
        {"name": "Europe", "pool": 2, "chosen": 2},
    ]
    assert found["notes"] == ["1 samples have no picture hash and count as like no other"]
    assert found["budgets"] == [1, 2, 3, 4]
    assert found["curves"]["mean spectral_entropy"]["chosen"] == [4, 3.5, 3, 2.5]
    assert found["curves"]["objective"]["chosen"] == pytest.approx(
        np.cumsum(choose([pool], 4, found["by"]).picks.gains)
    )
    assert all(low <= mean <= high for low, mean, high in zip(
        *(found["curves"]["objective"]["random"][end] for end in ("low", "mean", "high")), strict=True))  # fmt: skip


def test_the_command_writes_a_subset_its_page_and_its_numbers(pool, tmp_path, capsys):
    out = tmp_path / "few.parquet"
    app(
        ["choose", str(pool), "--budget", "12", "--by", MIX, "-o", str(out), "--seed", "2"],
        result_action="return_value",
    )
    said = capsys.readouterr().out
    assert "12 of 60 samples, by spectral_entropy=1" in said
    assert "% of the optimum, as a bound computed afterwards shows" in said
    assert f"subset: {out}" in said
    assert f"page: {tmp_path / 'few.html'}" in said
    page = (tmp_path / "few.html").read_text()
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    numbers = json.loads((tmp_path / "few.json").read_text())
    assert numbers["seed"] == 2
    assert len(numbers["places"]["chosen"]) == 12
    assert ids_of_subset(out, "made") == pq.read_table(out)["id"].to_pylist()


@pytest.mark.parametrize("by", ["random", "balanced:biome", "one-region:Europe"])
def test_a_page_is_made_where_little_is_known(tmp_path, capsys, by):
    known = {"biome", "continent", "id"} if by != "random" else {"id"}
    columns = dict.fromkeys(set(pq.read_schema(make_pool(tmp_path / "all.parquet")).names) - known)
    pool = make_pool(tmp_path / "pool.parquet", **columns)
    app(
        ["choose", str(pool), "--budget", "1", "--by", by, "-o", str(tmp_path / "s.parquet")],
        result_action="return_value",
    )
    page = (tmp_path / "s.html").read_text()
    assert "No places are known." in page
    assert "No objective was maximised" in page
    assert "samples, by" in capsys.readouterr().out


def test_texts_of_the_pool_are_escaped_on_the_page(tmp_path, capsys):
    pool = make_pool(tmp_path / "pool.parquet", continent=["<b>[red]", "&x"] * 30)
    app(["choose", str(pool), "--budget", "9", "--by", "continent", "-o", str(tmp_path / "s.parquet")],
        result_action="return_value")  # fmt: skip
    page = (tmp_path / "s.html").read_text()
    assert "<b>[red]" not in page
    assert "&lt;b&gt;[red]" in page
    assert "<b>[red]" in capsys.readouterr().out


def test_real_sites_are_spread_over_continents_seasons_and_cells(data_dir, tmp_path):
    """The validation places of SSL4EO-S12 v1.1: four dates of each of 2,176."""
    source = pq.read_table(data_dir / "geography" / "ssl4eo_s12_v11_val.parquet")
    corner = np.array([np.frombuffer(text, "<f8", 2, offset=13) for text in source["geometry"].to_pylist()])
    lon, lat = corner.T
    days = source["time"].to_numpy().astype("datetime64[D]")
    month = days.astype("datetime64[M]").astype(int) % 12 + 1
    pool = tmp_path / "sites.parquet"
    write_table(pool, pa.table({"id": source["idx"], "lon": lon, "lat": lat, "continent": continents(lon, lat),
                                "season": seasons(month, lat)}), {})  # fmt: skip
    choice = choose([pool], 600, "continent,season=0.5,places", Options(apart_km=50))
    table = save(choice, tmp_path / "out.parquet")
    assert sum(choice.picks.worth.values()) > 0.98 * choice.picks.bound
    assert sorted(each["counts"] for each in table["season"].value_counts().to_pylist()) == [150] * 4
    by_chance = save(choose([pool], 600, "random"), tmp_path / "out.parquet")
    places = [len({(row["lon"] // 0.1, row["lat"] // 0.1) for row in each.to_pylist()}) for each in (by_chance, table)]
    assert places[0] < 540 < 580 < places[1]


def test_the_benchmark_times_each_choice_of_a_pool(tmp_path):
    write_pool(tmp_path / "pool.parquet", 500, embedded=True)
    for by in CHOICES.values():
        assert run_here(tmp_path / "pool.parquet", 50, by)["seconds"] > 0
    assert pq.read_metadata(tmp_path / "pool.parquet").num_rows == 500
