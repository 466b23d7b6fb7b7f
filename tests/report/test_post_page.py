"""The page of a post-training study, from nothing to everything."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from anytrain.compare.post import PostResults
from anytrain.report import chart_matplotlib, study_page
from anytrain.report.post_sections import headline, key_figures, sections
from anytrain.study.post.reporting import rows
from tuned import results

pytest.importorskip("matplotlib")
pytest.importorskip("plotly")

STATES = {
    "whole": results(),
    "one seed": results((1,)),
    "nothing tuned": replace(results(), outcomes=()),
    "nothing sharp": replace(
        results(), pretrained=tuple(replace(p, trace=None) for p in results().pretrained)
    ),
    "nothing": replace(results(), outcomes=(), pretrained=(), steps=(0, 10), along=()),
    "one base": replace(results(), bases={"wso": "raw"}),
}


@pytest.mark.parametrize("state", STATES)
def test_the_page(state: str, tmp_path: Path) -> None:
    found: PostResults = STATES[state]
    top = study_page.Top(found.name, "which?", headline(found), key_figures(found))
    parts = sections(found, "anytrain report out")
    written = study_page.write(top, parts, tmp_path, "/* plotly */")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<h1>") == 1
    assert all(path.stat().st_size for path in written)
    charts = {chart.name for part in parts for chart in part.charts}
    expected = {
        "whole": {"score-against-loss", "score-against-trace", "score-differences", "rates-a",
                  "rates-b", "forgetting", "sharpness"},
        "nothing": set(), "nothing tuned": {"sharpness"},
    }  # fmt: skip
    assert charts == expected.get(state, charts)
    assert "−0.71 over n = 7" in page or "score-against-trace" not in charts


def test_the_traces_on_the_tasks_rows() -> None:
    """A column each, and r with the score: made up so that it is −1 on the first."""
    (section,) = [part for part in sections(results(), "again") if part.title == "Sharpness"]
    (table,) = section.tables
    assert table.columns[-2:] == ("a", "b")
    assert [row[-2].text[:3] for row in table.rows] == ["0.5", "0.6", "0.5", "0.5"]
    assert table.notes[0].startswith(
        "On the rows of a, r with its score is −1.00, n = 4, p < 0.001"
    )
    tidy = [row["task_trace"] for row in rows(results()) if row["task"] == "a"]
    assert fmean(tidy[:3]) == pytest.approx(0.5, abs=0.05)  # wso's, a seed each
    assert len(tidy) == 4 * 3
    bare = tuple(replace(p, task_traces={}) for p in results().pretrained)
    (section,) = [part for part in sections(replace(results(), pretrained=bare), "again")
                  if part.title == "Sharpness"]  # fmt: skip
    assert section.tables[0].columns == ("base", "pre-training text", "standard error over probes")


def test_differences_to_the_mean_of_the_decayed() -> None:
    """Task by task and leaving tasks out, which chooses nothing; averaged ones also together."""
    two = replace(results(), bases={**results().bases, "wso": "averaged"})
    (section,) = [part for part in sections(two, "again") if part.title.startswith("Loss before")]
    _, by_task, without = section.tables
    assert by_task.columns == ("base", "a", "b", "all tasks")
    assert without.columns == ("base", "all tasks", "without a", "without b")
    for table in (by_task, without):
        assert [row[0].text for row in table.rows] == [*two.bases, "mean of 2 averaged"]
        # made up as (0.50 + 0.49)/2 − (0.44 + 0.46)/2
        assert all(cell.text.startswith("+4.5") for cell in table.rows[-1][1:])


def test_the_paper_s_differences_are_beside_ours() -> None:
    arms = {"wso": "WSO", "cosine": "Cosine a=0.1", "wsd": "WSD a=0.1"}
    for found in (replace(results(), arms=arms), replace(results((1,)), arms=arms)):
        section = next(p for p in sections(found, "again") if "reports" in p.title)
        side, whole = section.tables
        assert [cell.text for cell in side.rows[0][1:]][:1] == ["WSO"]
        assert [cell.text for cell in side.rows[0][-2:]] == ["+0.3", "+1.1"]
        assert side.rows[0][2].text.startswith("+4.")
        assert "minus wsd's" in side.notes[0]
        assert len(whole.rows) == 14
    (only,) = [p for p in sections(results(), "again") if "reports" in p.title]
    assert len(only.tables) == 1


def test_every_base_is_beside_the_mean_of_the_decayed_ones() -> None:
    """Task by task, nothing chosen: raw weights are 5 points above 44% and 46% on both."""
    (section,) = [p for p in sections(results(), "again") if p.title.startswith("Loss before")]
    table = next(t for t in section.tables if "mean of the decayed" in t.caption)
    assert table.columns == ("base", "a", "b", "all tasks")
    assert [cell.text.split(" ±")[0][:4] for cell in table.rows[0][1:]] == ["+5.0"] * 3
    assert table.rows[1][1].text.startswith("−2.")  # cosine, beside wsd alone
    alone = replace(results(), bases={**results().bases, "cosine": "raw"})
    (section,) = [p for p in sections(alone, "again") if p.title.startswith("Loss before")]
    table = next(t for t in section.tables if "mean of the decayed" in t.caption)
    assert [cell.text for cell in table.rows[2]] == ["wsd", "—", "—", "—"]
    nobody = replace(results(), bases=dict.fromkeys(results().bases, "raw"))
    (section,) = [p for p in sections(nobody, "again") if p.title.startswith("Loss before")]
    assert not [t for t in section.tables if "mean of the decayed" in t.caption]


def test_the_headline() -> None:
    assert headline(STATES["nothing"]).startswith("0 of 10 steps are done")
    said = headline(results())
    assert said.startswith(
        "Do raw weights fine-tune better than decayed ones? Yes: wso − mean of 2"
    )


def test_every_figure_is_drawn() -> None:
    for part in sections(results(), "again"):
        for chart in part.charts:
            assert chart_matplotlib.drawn(chart, "png").startswith(b"\x89PNG")
