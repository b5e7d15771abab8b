"""The figures on the page are those that the programs have counted."""

import json

import reliability


def test_the_page_shows_what_was_counted() -> None:
    page = reliability.PAGE.read_text(encoding="utf-8")
    assert reliability.render(page) == page
    assert all(f"<!-- {name}:begin -->" in page for name in reliability.SECTIONS)


def test_no_count_speaks_of_a_defect() -> None:
    for path in (reliability.DOCS / "reliability").glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        if path.stem == "kills":
            assert found["survived"] == found["kills"] > 0
            assert found["most_epochs_lost"] <= 1
        else:
            assert found["failed"] == 0 < found.get("tried", found.get("verbs", 0)), path
