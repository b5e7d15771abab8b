"""The programs behind docs/performance.md: they run, and their pages show what they measured."""

import doctest
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import performance
import performance_page
import protocol
import pytest
from protocol import Comparison, Row


def test_baseline_and_candidate_take_turns() -> None:
    calls: list[str] = []
    found = protocol.compare(
        lambda: calls.append("b"), lambda: calls.append("c"), rounds=4, warm_up=1
    )
    assert "".join(calls) == "bc" + "bccbbccb"
    assert len(found.baseline) == len(found.candidate) == len(found.ratios) == 4


def test_a_candidate_that_changes_the_threads_is_refused() -> None:
    import torch

    before = torch.get_num_threads()
    try:
        with pytest.raises(RuntimeError, match="threads changed"):
            protocol.compare(
                lambda: None, lambda: torch.set_num_threads(before + 1), rounds=1, warm_up=0
            )
    finally:
        torch.set_num_threads(before)


def test_garbage_of_before_counts_neither_as_time_nor_as_busy_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def burn() -> None:
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass

    monkeypatch.setattr(protocol.gc, "collect", burn)
    found = protocol.compare(lambda: time.sleep(0.02), burn, rounds=3, warm_up=0)
    assert found.cores is not None
    assert found.cores[0] < 0.1 < found.cores[1]  # others may take a part of the processor


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    found = Comparison((2.0, 9.0, 4.0), (1.0, 3.0, 4.0), threads=1)  # one round was disturbed
    assert found.ratios == [2.0, 3.0, 1.0]
    assert found.ratio == 2.0
    assert found.quartiles == (1.5, 2.5)


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "holds"),
    [
        (2.0, 2.0, True, True),
        (1.9, 2.0, True, False),
        (2.0, 2.0, False, True),
        (2.1, 2.0, False, False),
        (9.0, None, True, None),
    ],
)
def test_a_row_knows_whether_its_limit_is_kept(value, limit, at_least, holds) -> None:
    assert Row("1", "speed", value, "x", limit, at_least).holds is holds


@pytest.mark.parametrize("module", [performance, performance_page, protocol])
def test_the_examples_of_the_programs_are_right(module) -> None:
    found = doctest.testmod(module)
    assert found.failed == 0 < found.attempted


def test_little_effort_never_goes_where_results_are_published() -> None:
    with pytest.raises(SystemExit):
        performance.main(["--effort", "tiny"])


def test_everything_runs_at_its_smallest(tmp_path: Path) -> None:
    assert performance.main(["--effort", "tiny", "--out", str(tmp_path)]) == 0
    (store,) = tmp_path.glob("*.json")
    noted = json.loads(store.read_text(encoding="utf-8"))
    assert list(noted["measurements"]) == list(performance.MEASUREMENTS)
    for name, measured in noted["measurements"].items():
        assert measured["rows"], name
        assert f"--only {name} --effort tiny" in measured["command"]
    page = store.with_suffix(".md").read_text(encoding="utf-8")
    assert page == performance_page.machine_page(noted, ".")
    shown = performance_page.DOCS_PAGE.read_text(encoding="utf-8")
    filled = performance_page.render(shown, [noted])
    assert all(
        row["what"] in filled for part in noted["measurements"].values() for row in part["rows"]
    )


def test_the_pages_show_what_was_measured() -> None:
    found = performance_page.machines()
    page = performance_page.DOCS_PAGE.read_text(encoding="utf-8")
    assert performance_page.render(page, found) == page
    for machine in found:
        path = performance_page.RESULTS / f"{machine['name']}.md"
        assert path.read_text(encoding="utf-8") == performance_page.machine_page(machine)
        assert {part["effort"] for part in machine["measurements"].values()} == {"full"}


def test_the_time_to_score_is_shown_for_machines_with_nothing_else() -> None:
    row = protocol.Row("time", "minutes to 0.77", 2.5, "x", 2.0, at_least=True)
    measured = {"rows": [row.to_json()], "figures": {}, "tables": [], "command": "it"}
    machine = {"machine": "a slow one", "name": "slow", "measurements": {"time_to_score": measured}}
    page = performance_page.render(
        performance_page.DOCS_PAGE.read_text(encoding="utf-8"), [machine]
    )
    section = page.partition("<!-- time_to_score:begin -->")[2].partition("<!--")[0]
    assert "**a slow one**" in section
    assert "| minutes to 0.77 | 2.5x |" in section
    assert page.count("minutes to 0.77") == 1


def test_other_loops_take_as_many_steps_as_the_product() -> None:
    from performance_training import Turns

    taken: list[int] = []
    turns = Turns({"other": lambda: taken.append(1)}, steps=2, warm_up=1)
    turns.on_train_start()
    for _ in range(6):
        turns.on_train_batch_start()
        turns.on_train_batch_end()
    assert len(taken) == 6
    assert {name: len(found) for name, found in turns.seconds.items()} == {"product": 2, "other": 2}
    assert len(turns.compared("other", "product").ratios) == len(turns.data_shares) == 2


def test_operations_share_the_whole_time_of_a_pass(model: Path) -> None:
    from performance_operations import operations_table

    images = np.zeros((2, 32, 32), np.uint8)
    table = operations_table(model, images, "float32", "a tiny network")
    kinds, _, shares = zip(*table.cells, strict=True)
    assert "Convolution" in kinds
    assert sum(float(str(share).rstrip("%")) for share in shares) == pytest.approx(100, abs=1)


def test_slopes_are_those_of_the_upper_half() -> None:
    from performance_growth import Series

    sizes = [1, 2, 4, 8, 16]
    assert Series("", "", sizes, [100, 100, 4, 16, 64]).slope == pytest.approx(2)
    assert Series("", "", [1, 2], [3, 6]).slope == pytest.approx(1)


def test_tiles_come_back_from_the_network_of_the_baseline_as_they_were() -> None:
    import torch
    from baseline import enlarged, shrunk

    tile = torch.rand(1, 101, 67)
    assert enlarged(tile).shape == (1, 128, 96)
    assert torch.equal(shrunk(enlarged(tile)[None], (101, 67))[0], tile)


def test_the_bare_loop_makes_the_steps_of_the_product(tmp_path: Path) -> None:
    import numpy as np
    import torch
    from performance_training import BareLoop

    from diapir.config import ModelConfig, Recipe, TrainConfig
    from diapir.data.splits import Split
    from diapir.data.synthetic import generate_tiles
    from diapir.training.fit import fit
    from diapir.training.hardware import Hardware

    small = ModelConfig(encoder="scratch", scratch_channels=(2, 4), decoder_channels=(2,))
    train = TrainConfig(epochs=1, batch_size=2, tiles_per_epoch=2, precision="float32")
    recipe = Recipe(model=small, train=train)
    tiles = generate_tiles(4, seed=0)
    places = np.arange(4, dtype=np.intp)
    fitted = fit(
        tiles,
        Split(places, places[:0], places[:0], None, 0, "none"),
        recipe,
        tmp_path,
        hardware=Hardware("cpu", progress=False),
    )
    bare = BareLoop(tiles, recipe, "cpu")
    names = [name for name, _ in bare.net.named_parameters()]
    assert names == [name for name, _ in fitted.net.named_parameters()]
    before = [p.detach().clone() for p in bare.net.parameters()]
    bare()
    assert any(not torch.equal(a, b) for a, b in zip(before, bare.net.parameters(), strict=True))
    assert bare.next_batch()[0].shape == (2, 1, 101, 101)


def test_the_exact_path_of_a_card_is_held_to_the_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import numpy as np
    import performance_inference as inference
    from performance_setting import Setting

    from diapir.data.synthetic import generate_tiles
    from diapir.inference.predict import PredictOptions

    off = {"cpu": 0.0, "cuda": 0.01}

    def answer(_: Path, images: np.ndarray, chosen: PredictOptions) -> SimpleNamespace:
        probs = np.full(images.shape, 0.5 + off[chosen.device], np.float32)
        predictor = SimpleNamespace(predict_probs=lambda *_: probs)
        return SimpleNamespace(predictor=predictor, engine=chosen.engine)

    monkeypatch.setattr(inference, "ready", answer)
    setting = Setting(protocol.TINY, None, tmp_path, tmp_path, device="cuda")
    error, share, _ = inference._logit_error(setting, tmp_path, generate_tiles(2, seed=0))
    assert error == pytest.approx(0.04, abs=0.001)
    assert share == 1


def test_submissions_take_turns_with_their_predictor_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dataclasses import replace

    import performance_submission as submission
    from performance_setting import Setting

    turns: list[str] = []

    def submit(*_: object) -> submission.Submitted:
        turns.append("submitted")
        return submission.Submitted(2, 3.0 * len(turns), 1.0, 0.5, 100.0 * len(turns))

    alone = SimpleNamespace(predict_probs=lambda images: turns.append(f"{len(images)} alone"))
    monkeypatch.setattr(submission, "submit_apart", submit)
    monkeypatch.setattr(
        submission, "ready", lambda *_: SimpleNamespace(predictor=alone, engine="eager")
    )
    monkeypatch.setattr(submission, "keep_freed_memory", lambda: None)
    effort = replace(protocol.TINY, rounds=3)
    found = submission.measure_submission(Setting(effort, None, tmp_path, tmp_path)).rows
    assert turns == ["submitted", "2 alone", "2 alone", "submitted", "submitted", "2 alone"]
    assert [row.rounds for row in found[:4]] == [3, 3, 3, 3]
    assert (found[2].value, found[2].quartiles) == (24.0, (15.0, 27.0))
    assert found[4].value == 500


def test_memory_of_the_packaged_model_is_taken_with_a_cold_and_with_a_warm_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import os

    import performance_growth as growth
    from performance_setting import Setting
    from performance_submission import Submitted

    from diapir.io.digests import file_sha256

    calls: list[tuple[int, str]] = []

    def submit(_: Setting, models: list[Path], __: Path) -> Submitted:
        calls.append((len({file_sha256(model) for model in models}), os.environ["DIAPIR_CACHE"]))
        return Submitted(22_000, 1.0, 1.0, 1.0, 100.0 * len(calls))

    monkeypatch.setattr(growth, "submit_apart", submit)
    monkeypatch.setattr(growth, "draw_competition", lambda folder, count: folder)
    (tmp_path / "data").mkdir()
    setting = Setting(protocol.FULL, None, tmp_path, tmp_path)
    rows = growth.measure_memory(setting).rows
    assert [models for models, _ in calls] == [1, 1, 2, 2]
    caches = [cache for _, cache in calls]
    assert caches[0] == caches[1] != caches[2] == caches[3]
    assert [row.value for row in rows] == [100, 200, 300, 400]
    assert [row.what.partition(" by ")[2] for row in rows] == [
        "the packaged model, cold cache",
        "the packaged model, warm cache",
        "an ensemble of two of its kind, cold cache",
        "an ensemble of two of its kind, warm cache",
    ]


def test_tables_of_growth_say_what_computed(tmp_path: Path) -> None:
    from performance_growth import _models, _table
    from performance_setting import Setting

    found = _models(Setting(protocol.TINY, None, tmp_path, tmp_path))
    assert "recipe `demo`, computed by eager, float32" in _table(found).note


def test_a_note_says_which_tiles_flips_and_scores_are_of() -> None:
    from performance_inference import _counted_on

    from diapir.data.synthetic import generate_tiles

    fresh, labelled = generate_tiles(3, seed=0), generate_tiles(2, seed=1)
    assert _counted_on(fresh, fresh, "drawn") == (
        "Flips and scores are of 3 drawn tiles that did not train it."
    )
    assert _counted_on(fresh, labelled, "real") == (
        "Flips are counted on 3 real test tiles; the scores are of 2 labelled tiles that trained "
        "it, so only their difference counts."
    )


def test_a_note_says_that_untrained_networks_have_no_pixel_near_the_threshold() -> None:
    from performance_inference import _Candidate, _told

    from diapir.models.packaged import packaged_model

    untrained = _told(_Candidate("resnet34", packaged_model(), trained=False), 64)
    assert untrained.startswith("resnet34, untrained, with a head bias of 5 so that no engine")
    trained = _told(_Candidate("the packaged model", packaged_model(), trained=True), 64)
    assert trained.startswith("the packaged model: one pass without mirroring over 64 tiles")


def test_predicting_is_measured_with_the_engine_that_is_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dataclasses import replace

    from performance_inference import measure_inference
    from performance_setting import Setting

    from diapir.inference.engine import installed_backends

    monkeypatch.setenv("DIAPIR_CACHE", str(tmp_path / "cache"))
    effort = replace(protocol.TINY, encoders=(), engine="auto")  # the packaged model alone
    found = measure_inference(Setting(effort, None, tmp_path, tmp_path))
    assert [row.what.partition(" path")[0] for row in found.rows] == ["fast", "exact"]
    _, fast, exact = found.tables[0].cells
    assert {fast[2].partition(", ")[0], exact[2].partition(", ")[0]} <= set(installed_backends())
    assert ", float32, " in exact[2]
    assert len(json.loads((tmp_path / "cache" / "engines.json").read_text())) >= 2


def test_the_peak_is_the_best_of_torch_and_of_the_engine_that_is_used() -> None:
    from performance_peak import Peak, find_peak

    from diapir.inference.engine import installed_backends

    peak = Peak({"float32": 1.0, "bf16": 5.0}, {"float32": 2.0, "bf16": 4.0}, {"float32": 3.0})
    assert (peak.of("float32"), peak.of("bf16")) == (3.0, 5.0)
    found = find_peak(16, 1, "cpu")
    assert set(found.engine) == (set(found.matrix) if "openvino" in installed_backends() else set())
    assert all(rate > 0 for rate in found.engine.values())
