"""The numbers of a dataset are those of numpy, and the page shows them all."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from geomaestro.data.packing.jobs import Jobs
from geomaestro.data.packing.pack import pack
from geomaestro.data.quality.dataset_stats import season, stats, suggested
from geomaestro.data.quality.spread import KEPT, spread_of
from geomaestro.data.specs import load_spec
from geomaestro.report.dataset_page import brief, degrees, percent, render, write_page
from geomaestro.report.dataset_tables import stats_tables
from geomaestro.sensors import Scaling, Sensor
from tests.filesets import sensor, spec_of, write_csv
from tests.worlds import NODATA, make_earth, make_series, series_arrays, write_images

REAL = Path(os.environ.get("GEOMAESTRO_DATA", ""))


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> dict[str, Any]:
    folder = make_series(tmp_path_factory)
    return stats(load_spec(folder / "spec.yaml"), folder)


def measured() -> np.ndarray:
    """(n c) stored numbers of s2 that were measured, before `length`."""
    arrays = series_arrays()
    kept = np.concatenate([x[:n] for x, n in zip(arrays["s2"], arrays["length"], strict=True)]).astype(float)
    return kept[(kept != NODATA).all(axis=1)]


def test_numbers_of_bands_are_those_of_numpy(series):
    expected = measured()
    for c, band in enumerate(series["sensors"]["s2"]["bands"]):
        x = expected[:, c]
        assert band["band"] == ("B02", "B04", "B08")[c] and band["count"] == len(x)
        wanted = {"mean": x.mean(), "std": x.std(), "min": x.min(), "max": x.max()}
        wanted |= dict(zip(("p2", "p50", "p98"), np.quantile(x, (0.02, 0.5, 0.98)), strict=True))
        assert {key: band[key] for key in wanted} == pytest.approx(wanted, rel=1e-12)


def test_what_is_absent_is_counted(series):
    arrays = series_arrays()
    s2, s1 = series["sensors"]["s2"], series["sensors"]["s1"]
    total = int(arrays["length"].sum())
    assert s2["unknown_share"] == pytest.approx(1 - len(measured()) / total) and s2["cloudy_share"] == 0
    assert (s2["samples"], s2["absent"]) == (59, 1)  # sample 5 has no date
    assert s1["unmeasured"] == 1  # sample 3 has no s1
    assert s2["sizes"] == [{"height": 1, "width": 1, "samples": 59}]
    assert {name: each["samples"] for name, each in series["splits"].items()} == {"train": 30, "val": 15, "test": 15}


def test_dates_are_counted_by_month_year_and_season_of_the_hemisphere(series):
    length = series_arrays()["length"]
    dates = series["sensors"]["s2"]["dates"]
    by_month = [int((length > month - 3).sum()) if 3 <= month <= 8 else 0 for month in range(1, 13)]
    assert dates["per_month"] == by_month and dates["per_year"] == {"2020": int(length.sum())}
    assert dates["per_sample"] == {"least": 3, "median": float(np.median(length[length > 0])), "most": 6}
    spring, summer = sum(by_month[2:5]), sum(by_month[5:8])
    assert dates["per_season"] == {"winter": 0, "spring": spring, "summer": summer, "autumn": 0}
    assert series["sensors"]["dem"]["dates"] is None
    assert [season(month, (0, 50)) for month in (12, 2, 3, 6, 9, 11)] == [
        "winter", "winter", "spring", "summer", "autumn", "autumn"
    ]  # fmt: skip
    assert [season(month, (0, -50)) for month in (1, 4, 7, 10)] == ["summer", "autumn", "winter", "spring"]
    assert season(1, None) == "unknown"


def test_labels_are_counted_by_split(series, tmp_path):
    arrays = series_arrays()
    counts = series["targets"]["crop"]["counts"]
    for split in ("train", "val", "test"):
        kept = arrays["crop"][arrays["split"] == split.encode()]
        assert counts[split] == [int((kept == code).sum()) for code in (10, 20, 30)]
    heights = series["targets"]["height"]["values"]["train"]
    assert heights["mean"][0] == pytest.approx(arrays["height"][:30].astype(float).mean(), rel=1e-5)
    write_images(tmp_path)
    shown = stats(load_spec(tmp_path / "spec.yaml"), tmp_path)["targets"]["map"]
    assert sum(sum(each) for each in shown["counts"].values()) + sum(shown["unlabelled"].values()) == 40 * 16
    assert sum(shown["unlabelled"].values()) > 0 and shown["unit"] == "pixels"


def test_the_suggested_scaling_is_that_of_the_training_split_and_fits_a_spec(series):
    length, s2 = series_arrays()["length"][:30], series_arrays()["s2"][:30]
    kept = np.concatenate([x[:n] for x, n in zip(s2, length, strict=True)]).astype(float)
    kept = kept[(kept != NODATA).all(axis=1)]
    given = series["sensors"]["s2"]["scaling"]
    assert given == {
        "subtract": pytest.approx(kept.mean(axis=0), rel=1e-3),
        "divide_by": pytest.approx(kept.std(axis=0), rel=1e-3),
    }
    assert series["sensors"]["s2"]["scaling_from"] == "train"
    page = render(series)
    text = re.search(r"<pre>(sensors:\n  s2:.*?)</pre>", page, re.DOTALL)
    assert text is not None
    assert Scaling.model_validate(yaml.safe_load(text[1])["sensors"]["s2"]["scaling"]).divide_by == tuple(
        given["divide_by"]
    )


def test_scalings_of_logarithms_and_heights_keep_their_kind():
    pixels = np.exp(np.random.default_rng(0).normal(3, 0.5, (1, 2, 30, 30)))
    spread = spread_of(pixels, None, "a")
    given = suggested(Sensor(bands=("a", "b"), gsd_m=1, scaling=Scaling(log=True)), spread)
    assert given is not None and given["log"] is True
    assert given["subtract"] == pytest.approx(np.log(pixels[0]).mean(axis=(1, 2)), rel=1e-3)
    given = suggested(Sensor(bands=("a", "b"), gsd_m=1, scaling=Scaling(heights=True)), spread)
    assert given is not None and given["heights"] is True and isinstance(given["subtract"], float)
    assert suggested(Sensor(bands=("a", "b"), gsd_m=1), spread_of(np.ones((1, 2, 4, 4)), None, "a")) is None


def test_a_spread_is_that_of_numpy_in_whatever_parts_it_is_pooled():
    rng = np.random.default_rng(0)
    images, unknown = rng.normal(5, 2, (6, 3, 80, 90)), rng.random((6, 80, 90)) < 0.3
    parts = [spread_of(images[n : n + 2], unknown[n : n + 2], f"part {n}") for n in (0, 2, 4)]
    one, other = parts[0] + parts[1] + parts[2], parts[2] + (parts[1] + parts[0])
    x = np.moveaxis(images, 1, -1)[~unknown]
    assert one.count == len(x) and len(one.pixels) == KEPT
    assert one.mean == pytest.approx(x.mean(axis=0)) and one.std == pytest.approx(x.std(axis=0))
    assert (one.low, one.high) == (pytest.approx(x.min(axis=0)), pytest.approx(x.max(axis=0)))
    assert one.quantiles([0.02, 0.5, 0.98]) == pytest.approx(np.quantile(x, (0.02, 0.5, 0.98), axis=0), abs=0.1)
    assert np.array_equal(one.pixels, other.pixels)
    assert {tuple(row) for row in one.pixels[:50].tolist()} <= {tuple(row) for row in x.tolist()}


def test_a_packed_store_has_the_numbers_of_its_source(tmp_path, tmp_path_factory):
    folder = make_earth(tmp_path_factory)
    spec = load_spec(folder / "dataset.yaml")
    pack(spec, folder, tmp_path / "store", ("train", "val", "test"), jobs=Jobs())
    stored = load_spec(tmp_path / "store")
    one, two = stats(spec, folder), stats(stored, tmp_path / "store")
    for name, each in one["sensors"].items():
        stored_too = two["sensors"][name]
        assert stored_too["bands"] == each["bands"]
        for key in ("per_sample", "per_month", "per_year"):
            assert each["dates"] is None or stored_too["dates"][key] == each["dates"][key]
    assert two["targets"] == one["targets"]
    for split, counts in one["splits"].items():  # a store keeps no georeference
        assert two["splits"][split] == counts | {"placed": 0}


def test_the_page_shows_everything_and_loads_nothing(series, tmp_path):
    out = write_page(series, tmp_path / "page.html")
    page = out.read_text()
    assert json.loads((tmp_path / "page.json").read_text()) == json.loads(json.dumps(series))
    for name in ("map", "dates", "bands-0", "bands-1", "bands-2", "classes-0", "distances"):
        assert f'aria-label="{ARIA[name]}"' in page, name
    assert page.count("<svg ") == len(ARIA)
    assert not re.search(r"""(src|href)=["'](?!data:|\#)""", page)
    for word in ("B02", "wheat", "fields", "train (30)", "stored number"):
        assert word in page, word
    shown = list(stats_tables(series))
    assert len(shown) >= 4


ARIA = {
    "map": "Map of the samples by split",
    "dates": "Images by month, by year and per sample",
    "bands-0": "Values of the bands of s2",
    "bands-1": "Values of the bands of s1",
    "bands-2": "Values of the bands of dem",
    "classes-0": "Share of each class of crop",
    "distances": "Distance to the nearest training sample",
}


def test_a_page_of_almost_nothing_says_so(series):
    bare = series | {"places": {}, "leakage": None, "targets": {}, "unreadable": [{"id": "<a>", "reason": "b & c"}]}
    bare["sensors"] = {"s2": series["sensors"]["s2"] | {"dates": None, "scaling": None, "bands": []}}
    page = render(bare)
    for said in (
        "No places are known",
        "There are no two splits of which one is for training.",
        "No pixel was measured.",
        "No dates of images are known.",
        "The spec names no labels.",
        "&lt;a&gt;: b &amp; c",
    ):
        assert said in page, said


def test_a_dataset_of_which_nothing_can_be_read_is_described_too(tmp_path):
    write_csv(tmp_path / "table.csv", [{"id": name, "split": name, "day": "2020-01-01"} for name in ("train", "test")])
    entry = sensor("{id}.tif", dates={"column": "day"})
    target = {"kind": "classes", "classes": ["train", "test"], "column": "split"}
    samples = {"table": "table.csv", "split": "split"}
    found = stats(spec_of(samples=samples, sensors={"s2": entry}, targets={"kind": target}), tmp_path)
    assert [each["unreadable"] for each in found["splits"].values()] == [1, 1]
    page = render(found)
    assert "2 samples can&#39;t be used" in page or "2 samples can't be used" in page
    assert "train.tif: no such file" in page and page.count("<svg ") == 0
    assert list(stats_tables(found))


def test_numbers_are_written_for_readers():
    assert [brief(x) for x in (None, 0.0, 12.34567, 1234567.0)] == ["–", "0", "12.35", "1\u202f234\u202f567"]
    assert [percent(x) for x in (None, 0, 0.0001, 0.5)] == ["–", "none", "< 0.1 %", "50.0 %"]
    assert [degrees(x, "EW") for x in (-10.0, 0.0, 20.5, 200.0)] == ["10°\u2009W", "0°", "20.5°\u2009E", "160°\u2009W"]


@pytest.mark.skipif("GEOMAESTRO_DATA" not in os.environ, reason="needs GEOMAESTRO_DATA")
def test_a_real_dataset_is_described():
    bands = [f"B{n:02}" for n in range(1, 14)]
    entry = {**sensor("eurosat_ms/{kind}/{id}.tif", px=64, unit="reflectance_1e4", bands=13), "bands": bands}
    target = {"kind": "classes", "classes": ["AnnualCrop", "Forest"], "column": "kind"}
    samples = {"scan": "eurosat_ms/{kind}/{id}.tif", "drawn": {"train": 2, "test": 1}, "place": "s2"}
    found = stats(spec_of(samples=samples, sensors={"s2": entry}, targets={"kind": target}), REAL)
    assert [each["samples"] for each in found["splits"].values()] == [4, 2]
    assert found["sensors"]["s2"]["bands"][0]["count"] == 6 * 64 * 64
    assert sum(sum(each) for each in found["targets"]["kind"]["counts"].values()) == 6
    assert render(found).count("<svg ") == 4 - (not any(found["places"].values()))
