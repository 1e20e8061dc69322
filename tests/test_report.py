"""The report: intervals against scipy and hand-worked numbers, verdicts on made rows, the page as a browser gets it."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from geomaestro.errors import RunError
from geomaestro.report import figures, html, summary

SCRIPT = "<script>alert('class')</script>"
LONG = "A very long class name of 1.23456789 words that no axis can hold & nobody wants to read"
RESULT = {
    "status": "complete", "command": "geomaestro demo", "started_at": "2026-10-20T10:12:44", "elapsed_s": 75.0,
    "dataset": {"name": "Trees & <b>co</b>", "samples": {"train": 12, "val": 4, "test": 30}, "sensors": {
        "aerial": {"bands": ["NIR", "R"], "gsd_m": 0.2, "dates": 1, "size_px": [8, 12], "patch_px": 4, "tokens": 6},
    }},
    "model": {"size": "tiny", "fusion": "group", "encoder_parameters": 1234567, "decoder_parameters": 8},
    "environment": {"torch": "2", "device": "cpu", "git": None},
    "timings": [{"stage": "pretrain seed 0", "elapsed_s": 12.3, "samples_per_s": 31.0},
                {"stage": "k-NN", "elapsed_s": 0.5, "samples_per_s": None}],
    "warnings": [],
}  # fmt: skip
SECTIONS = ("data", "pretraining", "reconstructions", "evaluation", "time", "reproduce")


def score_row(protocol: str, draw: int, score: float, **changed: object) -> dict:
    model = {"from scratch": "untrained", "random forest": "baseline"}.get(protocol, "pretrained")
    row = {
        "task": "species", "kind": "classes", "protocol": protocol, "model": model, "labels": "5 per class",
        "labels_order": 5.0, "draw": draw, "pretraining_seed": None, "metric": "accuracy", "score": score,
        "low": score - 0.05, "high": score + 0.05, "scores": {"accuracy": score, "kappa": 0.5}, "n_train": 10,
        "n_test": 30, "elapsed_s": 1.0, "classes": ["oak", SCRIPT, LONG],
        "confusion": [[5, 1, 0], [0, 4, 0], [0, 0, 0]], "per_class": {"oak": 0.9, SCRIPT: 0.8, LONG: math.nan},
    }  # fmt: skip
    return row | changed


def pictures(sensor: str, bands: list[str], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Make arrays for (k [t]) + (h w), all in one date unless t is given."""
    *lead, h, w = shape
    pixels = np.random.default_rng(0).normal(size=(*lead, len(bands), h, w)).astype(np.float32)
    hidden = np.zeros(shape, bool)
    hidden[..., : max(h // 2, 1), :] = True
    dates = np.broadcast_to([2020, 60, 10], (*lead, 3))
    parts = {"input": pixels, "hidden": hidden, "rebuilt": pixels + 1, "valid": np.ones(shape, bool), "dates": dates,
             "bands": np.array(bands), "ids": np.array([f"id{k}" for k in range(lead[0])])}  # fmt: skip
    return {f"{sensor}/{name}": values for name, values in parts.items()}


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_bare_run(folder: Path) -> Path:
    (folder / "recipe.yaml").write_text("data: <trees>\n", encoding="utf-8")
    (folder / "result.json").write_text(json.dumps(RESULT), encoding="utf-8")
    return folder


def make_full_run(folder: Path) -> Path:
    make_bare_run(folder)
    steps = [{"step": n, "samples": 4 * n, "epoch": n / 3, "loss": 1 / n, "loss/aerial": 1 / n, "lr": 1e-3,
              "grad_norm": 1.0, "samples_per_s": 9.0, "elapsed_s": n / 9} for n in range(1, 9)]  # fmt: skip
    steps[-1] |= {"val_loss": 0.2, "val_loss/aerial": 0.2}
    for seed in (0, 1):
        write_lines(folder / f"pretrain/seed{seed}/metrics.jsonl", steps)
    arrays = pictures("aerial", ["NIR", "R", "G", "B"], (3, 8, 12)) | pictures("s1", ["VV", "VH"], (2, 3, 8, 8))
    arrays |= pictures("pixels", [f"b{n}" for n in range(200)], (2, 5, 1, 1)) | pictures("dem", ["z"], (1, 4, 4))
    np.savez(folder / "pretrain/seed0/reconstructions.npz", **arrays)
    tuned = [score_row("fine-tune", d, 0.8 + 0.01 * d, pretraining_seed=s) for d in range(3) for s in (0, 1)]
    forest = [score_row("random forest", d, 0.5 + 0.012 * d) for d in range(3)]
    write_lines(folder / "evaluate/rows.jsonl", tuned + forest + [score_row("from scratch", 0, 0.7)])
    return folder


@pytest.fixture
def bare_run(tmp_path: Path) -> Path:
    return make_bare_run(tmp_path)


@pytest.fixture
def full_run(tmp_path: Path) -> Path:
    return make_full_run(tmp_path)


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(make_full_run(tmp_path_factory.mktemp("run")))


class Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def report(run: Path) -> str:
    return html.write_report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize(("df", "printed"), [(1, 12.706), (2, 4.303), (3, 3.182), (9, 2.262), (30, 2.042)])
def test_t_quantiles_are_those_of_the_printed_table(df, printed):
    assert summary.t_quantile(df) == pytest.approx(printed, abs=5e-4)


def test_t_quantiles_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for df in (*range(1, 40), 501):
        assert summary.t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-9)


def test_no_degree_of_freedom_has_no_quantile():
    with pytest.raises(ValueError, match="degrees of freedom must be at least 1, not 0"):
        summary.t_quantile(0)


def test_the_interval_of_a_mean_is_the_one_worked_by_hand():
    # 1, 2, 3: mean 2, deviation 1, t(2) = 4.30265, half width 4.30265 / sqrt(3) = 2.48414
    assert summary.mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2, -0.48414, 4.48414), abs=1e-5)


def test_a_mean_says_over_how_many_rows_and_never_mixes_models():
    rows = [score_row("linear probe", d, s) for d, s in enumerate((1.0, 2.0, 3.0))]
    rows.append(score_row("linear probe", 0, 9.0, model="untrained"))
    several, single = summary.summarise(rows)
    assert (several["mean"], several["n"], several["interval"]) == (2.0, 3, "t over 3 rows")
    assert several["high"] == pytest.approx(4.48414, abs=1e-5)
    assert (single["mean"], single["low"], single["high"]) == (9.0, 8.95, 9.05)
    assert single["interval"] == "bootstrap over test samples"


def test_a_row_repeated_for_a_draw_and_seed_adds_no_confidence():
    found = summary.summarise([score_row("k-NN", 0, 0.5, pretraining_seed=1)] * 5)
    assert [(row["n"], row["interval"]) for row in found] == [(1, "bootstrap over test samples")]


def test_scores_that_are_not_numbers_are_left_out_of_means():
    found = summary.summarise([score_row("k-NN", 0, math.nan), score_row("k-NN", 1, 0.5, low=None)])
    assert [(row["mean"], row["low"], row["interval"]) for row in found] == [(0.5, None, "none")]
    assert summary.summarise([]) == []


def test_seeds_of_a_draw_are_averaged_before_the_pairs_are_compared():
    seeds = ((0, 0.6, 0.8), (1, 0.8, 0.8), (2, 0.8, 1.0))  # means 0.7, 0.8, 0.9
    rows = [score_row("fine-tune", d, s, pretraining_seed=k) for d, *both in seeds for k, s in enumerate(both)]
    rows += [score_row("random forest", d, s) for d, s in enumerate((0.6, 0.6, 0.6))]
    (pair,) = summary.paired(rows)
    # differences 0.1, 0.2, 0.3: mean 0.2, half width 0.248414
    assert (pair["mean"], pair["low"], pair["high"]) == pytest.approx((0.2, -0.048414, 0.448414), abs=1e-6)
    assert (pair["n"], pair["over"], pair["verdict"]) == (3, "draws", "not separable")


@pytest.mark.parametrize(
    ("metric", "ours", "verdict"),
    [
        ("accuracy", (0.70, 0.71, 0.72), "better"),
        ("accuracy", (0.30, 0.31, 0.32), "worse"),
        ("RMSE", (0.30, 0.31, 0.32), "better"),
        ("rmse_m", (0.70, 0.71, 0.72), "worse"),
        ("accuracy", (0.50, 0.51, 0.52), "not separable"),
        ("accuracy", (0.30, 0.71, 0.70), "not separable"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(metric, ours, verdict):
    rows = [score_row("fine-tune", d, s, metric=metric) for d, s in enumerate(ours)]
    rows += [score_row("from scratch", d, 0.5 + 0.01 * d, metric=metric) for d in range(3)]
    assert [pair["verdict"] for pair in summary.paired(rows)] == [verdict]


def test_one_draw_is_compared_over_pretraining_seeds_and_one_pair_not_at_all():
    rows = [score_row("fine-tune", 0, s, pretraining_seed=k) for k, s in enumerate((0.7, 0.8, 0.9))]
    (pair,) = summary.paired([*rows, score_row("random forest", 0, 0.6)])
    assert (pair["mean"], pair["high"]) == pytest.approx((0.2, 0.448414), abs=1e-6)
    assert (pair["n"], pair["over"]) == (3, "pretraining seeds")
    (pair,) = summary.paired([rows[0], score_row("random forest", 0, 0.1)])
    assert (pair["low"], pair["over"], pair["verdict"]) == (None, "one pair", "not separable")


def test_draws_and_labels_without_a_partner_are_not_compared():
    rows = [score_row("fine-tune", 0, 0.9), score_row("random forest", 1, 0.1)]
    assert summary.paired(rows) == []
    assert summary.paired([rows[0], score_row("random forest", 0, 0.1, labels="all")]) == []


def pair_row(
    baseline: str, mean: float, low: float | None, high: float | None, verdict: str, **changed: object
) -> dict:
    row = {"labels": "20 per class", "labels_order": 20.0, "metric": "macro F1", "baseline": baseline}
    return row | {"mean": mean, "low": low, "high": high, "verdict": verdict} | changed


def test_the_conclusion_names_labels_baseline_and_interval():
    pairs = [
        pair_row("from scratch", 0.01, -0.02, 0.04, "not separable"),
        pair_row("random forest", 0.07, 0.03, 0.11, "better"),
        pair_row("random forest", -0.05, -0.08, -0.02, "worse", labels="all", labels_order=90.0),
    ]
    assert summary.conclude(pairs) == (
        "At 20 labels per class, fine-tuning the pretrained encoder is 0.070 [0.030, 0.110] above the random forest "
        "and not separable from training from scratch (+0.010 [−0.020, +0.040]); with all labels, it is "
        "0.050 [0.020, 0.080] below the random forest (macro F1, more is better)."
    )


def test_the_conclusion_is_silent_about_what_was_not_compared():
    assert summary.conclude([]).startswith("Fine-tuning was not scored beside a baseline")
    one = [pair_row("random forest", 0.3, None, None, "not separable", labels="10 %")]
    assert summary.conclude(one).startswith(
        "At 10 % of the labels, fine-tuning the pretrained encoder is not separable"
    )
    assert "(+0.300 on one pair, without an interval)" in summary.conclude(one)


def test_the_page_has_every_section_and_a_contents_entry_for_it(full_page):
    for section in SECTIONS:
        assert f'id="{section}"' in full_page
        assert f'href="#{section}"' in full_page
    assert "Not run" not in full_page
    assert "Fine-tuning minus" in full_page
    assert full_page.count("<svg ") == 7  # loss, schedule, series, score, confusion, F1, timings
    # 3 aerial and 1 dem sample of 4 tiles, 2 Sentinel-1 samples of 3 dates and 4 tiles
    assert full_page.count("data:image/png;base64,") == 4 * 4 + 2 * 3 * 4 + 2  # and the two confusion matrices


def test_the_page_loads_nothing(full_page):
    tags = Tags(full_page)
    links = [value or "" for name, value in tags.attributes if name in {"src", "href", "xlink:href", "srcset", "data"}]
    assert len(links) > 20
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not {"script", "link", "iframe", "object"} & set(tags.tags)
    assert not re.search(r"https?://|@import|url\((?!#)", full_page)


def test_every_anchor_of_the_page_leads_somewhere_and_ids_are_unique(full_page):
    tags = Tags(full_page)
    ids = [value for name, value in tags.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in tags.attributes if name == "href" and value and value[0] == "#"} <= set(ids)


def test_text_is_escaped_in_the_page_and_in_its_figures(full_page):
    assert "<script" not in full_page
    assert "&lt;script&gt;alert(&#39;class&#39;)&lt;/script&gt;" in full_page
    assert "<b>co</b>" not in full_page
    assert "Trees &amp; &lt;b&gt;co&lt;/b&gt;" in full_page
    assert "data: &lt;trees&gt;" in full_page


def test_the_page_names_each_part_that_was_not_run(bare_run):
    page = report(bare_run)
    for section in SECTIONS:
        assert f'id="{section}"' in page
    assert "Not run: the run folder has no rows in pretrain/seed*/metrics.jsonl." in page
    assert "Not run: the run folder has no pretrain/seed0/reconstructions.npz." in page
    assert "Not run: the run folder has no evaluate/rows.jsonl." in page
    assert "Nothing was pretrained and nothing was scored." in page


def test_a_result_with_only_what_is_required_still_gives_a_page(bare_run):
    (bare_run / "result.json").write_text('{"status": "complete", "dataset": {}, "model": {}}', encoding="utf-8")
    page = report(bare_run)
    assert "No stage was timed." in page
    assert "The sensors were not recorded." in page


def test_zero_scores_are_told_from_no_evaluation(bare_run):
    write_lines(bare_run / "evaluate/rows.jsonl", [])
    assert "evaluate/rows.jsonl holds no rows yet: no model was scored." in report(bare_run)


def test_an_interrupted_run_says_how_to_resume(bare_run):
    result = RESULT | {"status": "interrupted", "resume": "geomaestro demo --resume 'runs/a<b'"}
    (bare_run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    page = report(bare_run)
    assert "This run was interrupted" in page
    assert "geomaestro demo --resume &#39;runs/a&lt;b&#39;" in page
    assert "This run was interrupted" not in html.render(summary.Run(bare_run, "", RESULT, {}, None, ()))


def test_values_that_are_not_numbers_become_warnings_and_gaps(full_run):
    steps = [{"step": n, "loss": value} for n, value in enumerate((1.0, math.nan, None, 0.5))]
    write_lines(full_run / "pretrain/seed0/metrics.jsonl", steps)
    rows = [score_row("fine-tune", 0, math.nan), score_row("random forest", 0, 0.5)]
    write_lines(full_run / "evaluate/rows.jsonl", rows)
    page = report(full_run)
    assert "pretrain/seed0/metrics.jsonl: loss is not a number in 2 of 4 rows; gaps in the curve" in page
    assert "evaluate/rows.jsonl: score is not a number in 1 of 2 rows; left out of every mean" in page
    assert np.isnan(figures.curve(steps, "loss")[1]).tolist() == [False, True, True, False]


def test_a_long_curve_is_averaged_in_bins_that_keep_its_mean():
    rows = [{"step": n, "loss": float(n)} for n in range(1001)]
    steps, values = figures.curve(rows, "loss")
    assert len(steps) == math.ceil(1001 / 3)  # bins of 3
    assert (values[0], values[1], values[-1]) == (1.0, 4.0, 999.5)
    assert steps.tolist() == values.tolist()


def test_a_line_torn_by_a_kill_is_left_out_and_said(full_run):
    path = full_run / "evaluate/rows.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"task": "spec', encoding="utf-8")
    page = report(full_run)
    assert "rows.jsonl: the last line was cut off while it was written" in page
    assert "Every scored model (10)" in page


def test_one_class_one_row_and_an_empty_sensor_are_drawn(bare_run):
    row = score_row("fine-tune", 0, 1.0, classes=["only"], confusion=[[7]], per_class={"only": 1.0})
    write_lines(bare_run / "evaluate/rows.jsonl", [row])
    (bare_run / "pretrain/seed0").mkdir(parents=True)
    np.savez(bare_run / "pretrain/seed0/reconstructions.npz", **pictures("none", ["a"], (0, 4, 4)))
    page = report(bare_run)
    assert ">7<" in re.sub(r"\s+", "", page)
    assert "No sample was stored for this sensor." in page


def break_json(run: Path) -> None:
    (run / "result.json").write_text("{", encoding="utf-8")


def lose_a_key(run: Path) -> None:
    (run / "result.json").write_text('{"status": "complete", "model": {}}', encoding="utf-8")


def lose_the_recipe(run: Path) -> None:
    (run / "recipe.yaml").unlink()


def break_a_line(run: Path) -> None:
    path = run / "evaluate/rows.jsonl"
    path.write_text("oops\n" + path.read_text(encoding="utf-8"), encoding="utf-8")


def give_text_for_a_step(run: Path) -> None:
    write_lines(run / "pretrain/seed1/metrics.jsonl", [{"step": "one", "loss": 1.0}])


def break_the_archive(run: Path) -> None:
    (run / "pretrain/seed0/reconstructions.npz").write_bytes(b"PK\x03\x04 not an archive")


def lose_an_axis(run: Path) -> None:
    arrays = pictures("aerial", ["R"], (1, 4, 4))
    np.savez(run / "pretrain/seed0/reconstructions.npz", **arrays | {"aerial/valid": np.ones((4, 4), bool)})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (break_json, r"result\.json: not JSON"),
        (lose_a_key, r"result\.json: dataset missing"),
        (lose_the_recipe, r"recipe\.yaml: can't be read"),
        (break_a_line, r"rows\.jsonl:1: not JSON"),
        (give_text_for_a_step, r"seed1/metrics\.jsonl:1: step must be a number, not 'one'"),
        (break_the_archive, r"reconstructions\.npz: not an archive of plain arrays"),
        (lose_an_axis, r"reconstructions\.npz: sensor 'aerial': \(1, 1, 4, 4\) must be"),
    ],
)
def test_a_damaged_run_folder_is_named_and_the_old_report_stays(full_run, damage, said):
    (full_run / "report.html").write_text("old", encoding="utf-8")
    damage(full_run)
    with pytest.raises(RunError, match=said):
        html.write_report(full_run)
    assert (full_run / "report.html").read_text(encoding="utf-8") == "old"


def test_a_missing_run_folder_is_named(tmp_path):
    with pytest.raises(RunError, match="nowhere: no such run folder"):
        html.write_report(tmp_path / "nowhere")


def test_the_report_is_written_whole_where_it_was_asked_for(bare_run, tmp_path, monkeypatch):
    out = tmp_path / "page.html"
    assert html.write_report(bare_run, out) == out
    before = out.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(RunError, match=r"page\.html"):
        html.write_report(bare_run, out)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "recipe.yaml", "result.json"]


def pixels_of(uri: str) -> np.ndarray:
    """Decode a PNG data URI with Pillow."""
    import base64
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_tiles_grey_what_was_hidden_and_leave_out_what_was_not_measured():
    stored = pictures("a", ["R", "G", "B"], (1, 4, 6))
    parts = {name.removeprefix("a/"): values for name, values in stored.items()}
    parts["valid"][0, 3, 5] = False
    true, seen, rebuilt, difference = (pixels_of(uri) for uri in html.tiles(parts, (0,)))
    assert (seen[:2, :, :3] == int(255 * html.HIDDEN_GREY)).all()
    assert (seen[2:] == true[2:]).all()
    assert (rebuilt[2:] == true[2:]).all()  # what the encoder saw is kept
    assert (rebuilt[:2].astype(int) >= true[:2]).all()  # rebuilt is 1 above, under one stretch
    assert [tile[3, 5, 3] for tile in (true, seen, rebuilt)] == [0, 0, 0]
    assert (difference[2:, :, 3] == 0).all()
    assert (difference[:2, :, 3] == 255).all()


def test_a_large_tile_is_averaged_in_blocks():
    colour = np.zeros((400, 200, 3))
    colour[::3] = 1.0
    tile = pixels_of(html.png(colour, np.ones((400, 200), bool)))  # 400 / 192: blocks of 3
    assert tile.shape == (133, 66, 4)
    assert (tile[..., :3] == 255 // 3).all()


@pytest.mark.parametrize(
    ("bands", "picked", "said"),
    [
        (["B02", "B03", "B04", "B08"], [2, 1, 0], "True colour"),
        (["NIR", "Red", "Green", "Blue"], [1, 2, 3], "True colour"),
        (["VV", "VH"], [0, 1, -1], "False colour: VV, VH and VV − VH"),
        (["HH", "HV"], [0, 1, 0], "False colour: HH, HV, HH as red, green and blue"),
        (["B05", "B06", "B07", "B11"], [0, 1, 2], "False colour: B05, B06, B07"),
        (["z"], [0, 0, 0], "z in grey"),
    ],
)
def test_colours_come_from_band_names_and_are_said(bands, picked, said):
    found, text = html.band_colours(bands)
    assert found == picked
    assert text.startswith(said)


def test_dates_durations_counts_and_scores_are_written_for_people():
    assert html.date_text(np.array([2020, 60, 9])) == "2020-02-29 09 h"
    assert html.date_text(np.array([0, 0, 0])) == "no date"
    assert [html.duration(s) for s in (None, 8.27, 59, 75, 3725)] == ["–", "8.3 s", "59 s", "1 min 15 s", "1 h 2 min"]
    assert html.count(1234567) == "1\u202f234\u202f567"
    assert [summary.number(x) for x in (-0.5, 123.456, math.nan)] == ["−0.500", "123.5", "–"]
    assert summary.signed(0.5) == "+0.500"
    assert [figures.compact(n) for n in (999, 1500, 12345, 3_400_000)] == ["999", "1.5k", "12k", "3.4M"]


def test_a_long_name_is_cut_in_its_middle():
    assert figures.shorten("short", 10) == "short"
    assert figures.shorten("abcdefghijklmnop", 10) == "abcdef…nop"


def test_the_days_of_a_series_count_from_the_first_of_january():
    assert figures.day_of(np.array([2021, 1, 0])) == np.datetime64("2021-01-01")
    assert figures.day_of(np.array([2020, 366, 0])) == np.datetime64("2020-12-31")
