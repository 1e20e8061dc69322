"""The benchmark programs: that the comparison is fair, that rows are kept, and that a row runs end to end."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import growth, memory, scaling, step, tables
from benchmarks.floor import PASSES_OVER_WEIGHTS, count_work, weight_bytes
from benchmarks.machine import forget_peak, recent_peak_mib
from benchmarks.models import Row, batch_of, identity, make_model, make_plain, make_step
from benchmarks.running import Job, Settings, merge, name_of, reason, run_jobs, store, stored_result
from benchmarks.shapes import inputs_of
from benchmarks.timing import find_batch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from geomaestro.learn.losses import task_loss
from geomaestro.nn.transformer import Transformer
from geomaestro.samples import Batch

TOY = Row("toy", "toy", "pretrain", "fp32", 2)
RESULTS = Path(step.HERE) / "results"


def incomplete(batch: Batch[torch.Tensor]) -> Batch[torch.Tensor]:
    """A batch of which a date, and a corner of another, were not measured."""
    present = {name: x.clone() for name, x in batch.present.items()}
    valid = {name: x.clone() for name, x in batch.valid.items()}
    present["s2"][0, 1] = False
    valid["s2"][0, 1] = False
    valid["aerial"][1, 0, :7, :9] = False
    return replace(batch, present=present, valid=valid, complete=dict.fromkeys(batch.complete, False))


@pytest.mark.parametrize("whole", [True, False])
def test_the_baseline_has_the_loss_and_the_gradients_of_our_autoencoder(whole: bool) -> None:
    ours = make_model(TOY)
    plain = make_plain(TOY, ours)
    batch = batch_of(TOY, 3)
    batch = batch if whole else incomplete(batch)
    a, b = ours(batch, batch.keys), plain(batch, batch.keys)
    assert a.per_sensor.keys() == b.per_sensor.keys()
    for name, loss in a.per_sensor.items():
        torch.testing.assert_close(b.per_sensor[name], loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(b.loss, a.loss, rtol=1e-4, atol=1e-5)
    a.loss.backward()
    b.loss.backward()
    theirs = dict(plain.named_parameters())
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(theirs[name].grad, weight.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", ["toy", "toy_pixels"])
def test_the_baseline_has_the_logits_and_the_loss_of_our_task_model(shape: str) -> None:
    row = replace(TOY, shape=shape, phase="finetune")
    ours = make_model(row)
    plain = make_plain(row, ours)
    batch = batch_of(row, 3)
    a, b = ours(batch), plain(batch)
    torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
    losses = [task_loss(x, batch.labels[shape], ours.task) for x in (a, b)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


def test_the_baseline_moves_weights_as_ours_does() -> None:
    """Two steps of plain AdamW and of the fused one."""
    ours = make_model(TOY)
    plain = make_plain(TOY, ours)
    batch = batch_of(TOY, 2)
    for model, fused in ((ours, True), (plain, False)):
        run = make_step(TOY, model, fused=fused)
        run(batch)
        run(batch)
    theirs = plain.state_dict()
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-3, atol=5e-5)


def test_dates_of_a_shape_can_be_chosen() -> None:
    dates = {name: source.input.dates for name, source in inputs_of("pastis_hd", 32).items()}
    assert dates == {"spot": 1, "s2": 32, "s1_asc": 8, "s1_des": 8}
    assert batch_of(replace(TOY, dates=6), 1).images["s2"].shape[1] == 6


def test_a_batch_is_doubled_until_memory_is_full() -> None:
    asked = []

    def rate(batch: int) -> float | None:
        asked.append(batch)
        return None if batch > 8 else float(batch)

    assert find_batch(rate) == 8
    assert asked == [1, 2, 4, 8, 16]


def test_a_batch_is_doubled_until_the_rate_stops_growing() -> None:
    rates = {1: 10.0, 2: 18.0, 4: 25.0, 8: 25.5, 16: 99.0}
    assert find_batch(rates.get) == 8  # 2 % more than at 4, so 16 is not tried
    assert find_batch({1: 10.0, 2: 9.0, 4: 99.0}.get) == 1
    assert find_batch(float, most=4) == 4


def test_a_single_sample_that_does_not_fit_is_said() -> None:
    with pytest.raises(MemoryError, match="single sample"):
        find_batch(lambda batch: None)


def chosen(**changes: Any) -> argparse.Namespace:
    values = {
        "shapes": ("treesatai_ts", "flair"), "sizes": ("tiny",), "phases": ("pretrain",), "precisions": None,
        "modes": None, "batch": None, "one_thread": True, "device": "cpu",
    }  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


def test_rows_on_a_cpu_have_the_official_batches() -> None:
    rows = step.choose_rows(chosen(), step.read_official()["rows"])
    assert {(r.shape, r.batch, r.precision) for r in rows if r.shape == "treesatai_ts"} == {
        ("treesatai_ts", batch, precision) for batch in (8, 32) for precision in ("fp32", "bf16")
    }
    assert all(r.one_thread and r.mode == "eager" for r in rows)
    assert [r.batch for r in step.choose_rows(chosen(batch=(3,), precisions=("fp32",)), [])] == [3, 3]


def test_rows_on_a_gpu_search_their_batch_eagerly_and_compiled() -> None:
    jobs = step.default_jobs("cuda", one_thread=False)
    rows = {(j.row.shape, j.row.size, j.row.phase, j.row.mode) for j in jobs}
    assert len(rows) == len(jobs) == 3 * 2 * 3 * 2
    assert {(j.row.batch, j.row.precision, j.row.device) for j in jobs} == {(0, "bf16", "cuda")}


def test_a_row_with_a_searched_batch_is_known_by_what_was_asked() -> None:
    row = replace(TOY, batch=0, device="cuda")
    found = {**row.__dict__, "batch": 64, "batch_asked": 0}
    assert identity(found) == identity(row.__dict__)
    assert identity(found) != identity({**found, "mode": "compiled"})


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A file of three rows as the first version of these programs wrote them."""
    path = tmp_path / "step_machine.json"
    rows = json.loads((RESULTS / "step_amd_epyc_2_cores_one_thread.json").read_text())["rows"][:3]
    keys = ("shape", "size", "phase", "precision", "batch", "keep_freed", "one_thread")
    rows = [{k: row[k] for k in keys} | {"samples_per_s_median": 1.0} for row in rows]
    path.write_text(json.dumps({"machine": "m", "allocator_gain": [{"gain": 2.0}], "rows": rows}))
    return path


def test_new_rows_replace_old_ones_and_nothing_else(stored: Path) -> None:
    old = json.loads(stored.read_text())["rows"]
    again = {**old[1], "mode": "eager", "samples_per_s_median": 2.0}
    other = {**old[0], "mode": "compiled", "samples_per_s_median": 3.0}
    content = store(stored, [other, again], {"torch": "9"})
    assert content == json.loads(stored.read_text())
    assert (content["machine"], content["torch"], content["allocator_gain"]) == ("m", "9", [{"gain": 2.0}])
    assert len(content["rows"]) == 4
    speeds = {(r["phase"], r["precision"], r.get("mode", "eager")): r["samples_per_s_median"] for r in content["rows"]}
    assert speeds[old[1]["phase"], old[1]["precision"], "eager"] == 2.0
    assert speeds[old[0]["phase"], old[0]["precision"], "compiled"] == 3.0
    assert list(stored.parent.iterdir()) == [stored]


def test_merged_rows_are_in_order() -> None:
    rows = [Row("flair", "tiny", "infer", "fp32", 2), Row("treesatai_ts", "base", "infer", "fp32", 8)]
    rows += [replace(rows[1], batch=2), replace(rows[1], phase="pretrain"), replace(rows[1], mode="compiled")]
    merged = merge([], [r.__dict__ for r in rows])
    assert [(r["shape"], r["phase"], r["mode"], r["batch"]) for r in merged] == [
        ("treesatai_ts", "pretrain", "eager", 8),
        ("treesatai_ts", "infer", "eager", 2),
        ("treesatai_ts", "infer", "eager", 8),
        ("treesatai_ts", "infer", "compiled", 8),
        ("flair", "infer", "eager", 2),
    ]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"code": "now", "samples_per_s_median": 1.0}, True),
        ({"code": "before", "samples_per_s_median": 1.0}, False),
        ({"code": "now", "failed": "out of memory"}, True),
        ({"code": "now", "failed": "KeyError: 'x'"}, False),
    ],
)
def test_a_row_of_this_code_is_not_run_again(tmp_path: Path, values: dict[str, Any], kept: bool) -> None:
    path = tmp_path / "step.json"
    store(path, [{**TOY.__dict__, **values}], {})
    assert (stored_result(path, Job("step", TOY), "now") is not None) == kept
    assert stored_result(path, Job("step", replace(TOY, batch=3)), "now") is None


def test_why_a_process_failed_is_said_in_a_line() -> None:
    assert reason(-9, "") == "out of memory (killed)"
    assert reason(-11, "") == "killed by signal 11"
    assert reason(1, "Traceback\n  File\nKeyError: 'x'\n\n") == "KeyError: 'x'"


def test_a_row_runs_end_to_end_and_a_failed_one_is_tried_again(tmp_path: Path) -> None:
    """In no time at all a row fails, which is said in its table; then it is run, and has its rate, floor and memory."""
    job, path = Job("step", replace(TOY, phase="infer", one_thread=True)), tmp_path / "step.json"
    with (tmp_path / "log").open("w") as log:
        console = Console(file=log, width=200)
        run_jobs([job], Settings(out=path, limit_s=0.01), console)
        assert "Not run: toy toy infer fp32 batch 2: took longer than 0 s." in tables.tables_of(path)
        ((row,),) = run_jobs([job], Settings(out=path), console).values()
    assert "failed" not in row
    assert row["samples_per_s_best"] >= row["samples_per_s_median"] > 0
    assert math.isclose(row["samples_per_s_median"] * row["step_s_median"], 2)
    share = row["gflop_per_step"] / row["step_s_median"] / row["product_fp32_gflops"]
    assert math.isclose(row["share_of_product"], share)
    assert math.isclose(row["floor_product_s"], row["gflop_per_step"] / row["product_fp32_gflops"])
    assert math.isclose(row["floor_bytes_s"], row["gb_per_step"] / row["copy_gb_s"])
    assert 50 < row["peak_rss_mib"] < 5000
    assert stored_result(path, job, row["code"]) == row
    assert "share of product" in tables.tables_of(path)


def test_operations_and_bytes_are_those_worked_by_hand() -> None:
    """A single attention's scores, and weights that move ten times, are among what is counted."""
    row = replace(TOY, phase="infer")
    model = make_model(row)
    work = count_work(row, model, make_step(row, model), 2)
    tokens = 4 + 3 * 4 + 2 * 2 * 4  # aerial, optical, radar
    assert work.score_bytes == 2 * 2 * tokens**2 * 4  # samples x heads x tokens^2 x 4 bytes of the joint blocks
    assert work.bytes > weight_bytes(model)
    row = replace(TOY, phase="finetune")
    trained = count_work(row, model, make_step(row, model.train()), 2)
    assert 2.5 * work.flops < trained.flops <= 3 * work.flops  # backward: twice the forward, but inputs need none
    assert trained.bytes > PASSES_OVER_WEIGHTS * weight_bytes(model)
    assert trained.score_bytes > work.score_bytes


@pytest.mark.parametrize("trained", [True, False])
def test_operations_are_counted_as_in_a_transformer_worked_by_hand(trained: bool) -> None:
    """Linear layers 2 x in x out a token, scores and their product with values 4 x length x width a token."""
    stack = Transformer(16, 2, heads=2, head_dim=8, mlp_dim=32).to("meta")
    x = torch.zeros(3, 10, 16, device="meta", requires_grad=trained)
    with FlopCounterMode(display=False) as counter:
        out = stack(x)
        if trained:
            out.sum().backward()
    forward = 2 * 3 * 10 * (2 * 16 * (48 + 16 + 32 + 32) + 4 * 10 * 16)
    assert counter.get_total_flops() == (3 if trained else 1) * forward


def test_growing_rows_change_one_thing_at_a_time() -> None:
    jobs = growth.default_jobs("scaling", "cpu", True, ("infer",))
    assert [(j.row.batch, j.row.dates) for j in jobs] == [(1, None), (2, None), (4, None), (2, 8), (2, 16), (2, 32)]
    rows = memory.variants([jobs[0].row])
    assert [row.model for row in rows] == ["ours", "plain"]


def test_memory_is_drawn_with_the_baseline_and_the_scores(tmp_path: Path) -> None:
    path, rows = tmp_path / "memory.json", []
    for batch in (1, 2):
        for model in ("ours", "plain"):
            row = {**Row("pastis_hd", "tiny", "infer", "fp32", batch, model=model).__dict__, "before_mib": 200.0}
            rows.append(row | {"peak_mib": 200.0 + 1024.0 * batch} | ({"score_mib": 512.0} if model == "ours" else {}))
    store(path, rows, {"machine": "m", "torch": "9"})
    assert [memory.of_step(row) for row in rows] == [1, 1, 2, 2]
    assert [name for name, _ in growth.series(rows, "batch")] == ["infer", "infer, plain"]
    memory.draw(path)
    assert 1000 < path.with_suffix(".png").stat().st_size < 150_000
    assert "| pastis_hd tiny infer fp32 batch 2 | 2.00 | 0.50 |" in tables.tables_of(path)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux takes a peak back")
def test_a_peak_can_be_forgotten() -> None:
    cpu = torch.device("cpu")
    forget_peak(cpu)
    before = recent_peak_mib(cpu)
    held = torch.ones(2**26)
    assert recent_peak_mib(cpu) > before + 200
    del held
    forget_peak(cpu)
    assert recent_peak_mib(cpu) < before + 100


def point(batch: int, seconds: float, work: float, dates: int | None = None) -> dict[str, Any]:
    row = {**Row("pastis_hd", "tiny", "infer", "fp32", batch, dates=dates).__dict__, "step_s_median": seconds}
    return row | {"gflop_per_step": work, "product_fp32_gflops": 100.0, "floor_product_s": work / 100}


def test_the_law_of_growth_is_found(tmp_path: Path) -> None:
    """Time that is proportional to operations has exponent 1; a straight line has no distance from itself."""
    rows = [point(b, 0.2 * b, 10.0 * b) for b in (1, 2, 4)]
    rows += [point(2, 0.01 * d**2, float(d**2), d) for d in (4, 8, 16)]
    batch, dates = scaling.laws(rows, "batch"), scaling.laws(rows, "dates")
    assert math.isclose(batch[0]["exponent_in_operations"], 1, rel_tol=1e-6)
    assert batch[0]["furthest_from_line"] < 1e-9
    assert math.isclose(dates[0]["exponent_in_operations"], 1, rel_tol=1e-6)
    path = tmp_path / "scaling.json"
    store(path, rows, {"machine": "m", "torch": "9"})
    scaling.finish(path)
    assert 1000 < path.with_suffix(".png").stat().st_size < 150_000
    assert "time grows as operations^1.00" in tables.tables_of(path)


def test_the_table_of_steps_marks_what_misses_its_target(tmp_path: Path) -> None:
    path = tmp_path / "step_x.json"
    row = Row("treesatai_ts", "tiny", "pretrain", "fp32", 8).__dict__
    result = {"samples_per_s_median": 5.0, "share_of_product": 0.5, "peak_rss_mib": 900.4, "samples_per_s_best": 6.0}
    result |= {"product_fp32_gflops": 383.0, "product_bf16_gflops": 756.0}
    rows = [step.compare({**row, **result}), step.compare({**row, **result, "precision": "bf16"})]
    rows.append({**row, "batch": 32, "failed": "out of memory"})
    store(path, rows, {"machine": "m", "torch": "9"})
    text = tables.tables_of(path)
    ours, theirs = 5.0 / 10.68, 5.0 / 10.56  # the machine's rate is that of the official table
    assert (
        f"| **{ours:.2f}** / **{theirs:.2f}** | 2.5 / 3 | 0.50 / 0.50 (0.26 / 0.13) | 900 / 900 (1275 / 1185) |" in text
    )
    assert "Not run: treesatai_ts tiny pretrain fp32 batch 32: out of memory." in text
    assert text.count("\n|") == 3


def test_the_committed_results_have_tables() -> None:
    for path in RESULTS.glob("*.json"):
        text = tables.tables_of(path)
        assert path.stem == "fingerprint" or path.name in text


def test_a_row_has_a_name_in_words() -> None:
    row = replace(TOY, mode="compiled", dates=8, batch=0, recompute=True)
    assert name_of(row.__dict__) == "toy toy pretrain fp32 compiled recomputed 8 dates batch searched"
