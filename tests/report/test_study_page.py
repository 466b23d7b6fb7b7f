"""The page of a study: one file that needs nothing else, whatever is measured so far."""

import json
import re
import sys
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from anytrain.compare.findings import findings, headline
from anytrain.compare.results import Results
from anytrain.errors import UserError
from anytrain.report.charts import Axis, Chart, Series
from anytrain.report.key_figures import key_figures
from anytrain.report.sections import Cell, Section, Table
from anytrain.report.study_page import Top, anchor, html, write_page
from anytrain.report.study_sections import facts, own_sections
from studies import begun, study

pytest.importorskip("matplotlib")
pytest.importorskip("plotly")

NASTY = "</script><b>&"
MORE = Section(
    f"A law {NASTY}",
    ("It is predicted.",),
    (Chart("law", NASTY, Axis("tokens"), Axis("loss"), (Series(NASTY, (1.0,), (2.0,)),)),),
    (Table(("a", "b"), ((Cell("x"), Cell("1", 1.0)),), f"A table {NASTY}"),),
)


class Page(HTMLParser):
    """Elements that must be closed are; ids, links and what is loaded from elsewhere."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag not in self.VOID:
            self.stack.append(tag)
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a":
            self.links.append(found["href"])
        self.loaded += [found[k] for k in ("src", "href") if k in found and tag != "a"]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def page(results: Results) -> str:
    found = findings(results)
    parts = (*own_sections(found), MORE, facts(found, "anytrain study report"))
    top = Top("made-up", "one run for every horizon?", headline(found), key_figures(found))
    return html(top, parts, "/* plotly */")


def states() -> dict[str, Results]:
    """From nothing to everything."""
    whole = study()
    return {
        "whole": whole,
        "begun": begun(),
        "nothing": replace(begun(), observations=(), choices=(), spent=(), jobs=(0, 0), facts={}),
        "one seed": replace(
            whole,
            report_seeds=(11,),
            observations=tuple(o for o in whole.observations if o.seed in (0, 11)),
            curves=tuple(c for c in whole.curves if c.seed == 11),
        ),
        "no branch": replace(
            whole,
            arms={name: arm for name, arm in whole.arms.items() if name != "wsd"},
            observations=tuple(o for o in whole.observations if o.arm != "wsd"),
            choices=tuple(c for c in whole.choices if c.arm != "wsd"),
            spent=tuple(s for s in whole.spent if s.arm != "wsd"),
        ),
        "no baseline": replace(
            whole, observations=tuple(o for o in whole.observations if o.arm != "cosine")
        ),
        "one horizon": replace(whole, horizons=(2.0,)),
        "diverged": replace(
            whole,
            observations=tuple(
                replace(o, loss=float("nan") if o.arm == "constant" else 9.0)
                if "0.008" in o.setting or (o.phase, o.weights) == ("report", "ema50")
                else o
                for o in whole.observations
            ),
            curves=tuple(
                replace(
                    c,
                    losses={w: (float("nan"), *losses[1:]) for w, losses in c.losses.items()},
                )
                for c in whole.curves
            ),
        ),
    }


@pytest.mark.parametrize("state", list(states()))
def test_every_state_of_a_study_has_a_page(state: str) -> None:
    found = Page(page(states()[state]))
    assert len(found.ids) == len(set(found.ids))
    assert found.links
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert found.loaded == ["data:,"]


def test_what_others_wrote_stays_text() -> None:
    text = page(replace(study(), name=NASTY, facts={"data": NASTY}))
    assert NASTY not in text
    drawn = re.search(r'id="charts">(.*?)</script>', text, re.S)
    assert drawn is not None
    assert json.loads(drawn[1])["law"]["data"][0]["name"] == escape(NASTY)


def test_the_files(tmp_path: Path) -> None:
    written = write_page(study(), [MORE], tmp_path / "out", "anytrain study report s.toml")
    assert len(written) == len(set(written)) == 2 * 16 + 2
    assert all(path.is_file() and path.stat().st_size > 500 for path in written)
    summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert "| Is it ahead of a tuned cosine on average? | **Yes** |" in summary
    assert "anytrain study report s.toml" in summary
    for picture in re.findall(r"\((figures/[^)]*)\)", summary):
        assert (tmp_path / "out" / picture).is_file()
    assert (tmp_path / "out" / "page.html").stat().st_size < 6e6


def test_missing_plotly_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UserError, match=r"needs plotly: pip install 'anytrain\[report\]'"):
        write_page(study(), [], tmp_path / "out", "anytrain")
    assert not (tmp_path / "out").exists()


def test_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="--out"):
        write_page(begun(), [], tmp_path / "out", "anytrain")
    assert (tmp_path / "out").read_text() == "mine"


def test_anchor() -> None:
    assert anchor("Which average wins when?") == "which-average-wins-when"


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells"):
        Table(("a", "b"), ((Cell("x"),),), "wrong")
