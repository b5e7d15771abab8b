"""The programs behind docs/performance.md: they run, and their pages show what they measured."""

import json
from pathlib import Path

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
    assert page == performance_page.machine_page(noted)
