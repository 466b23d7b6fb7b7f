"""The picture and the page: complete, offline, in both colours."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from anytrain.compare.frontier import Frontier, frontier
from anytrain.errors import UserError
from anytrain.report.axes import DARK, decimals, spread
from anytrain.report.figures import inline, png, svg
from anytrain.report.page import page
from anytrain.rundir import RunDir
from fake_runs import write_run

pytest.importorskip("matplotlib")


@pytest.fixture
def found(trunk: RunDir, cooldowns: list[RunDir]) -> Frontier:
    return frontier(trunk, cooldowns)


class Elements(HTMLParser):
    """Every element with its attributes, and whether tags that must be closed are."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_png_is_a_picture(found: Frontier) -> None:
    assert png(found).startswith(b"\x89PNG")


def test_svg_names_every_line_and_knows_the_dark(found: Frontier) -> None:
    text = svg(found)
    for name in [*found.weights, "cooldown", "8×", "8.19M"]:
        assert name in text
    assert "prefers-color-scheme: dark" in text
    assert all(dark in text for dark in DARK.values())
    colours = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", text))
    assert colours <= set(DARK), "a colour without its dark twin"
    assert text == svg(found), "the same run, another file"


def test_the_page_is_whole_and_makes_no_request(found: Frontier) -> None:
    text = page(found, "anytrain report trunk --out <here>")
    parsed = Elements(text)
    assert parsed.stack == []
    for tag, attributes in parsed.found:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed")
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    ids = [a["id"] for _, a in parsed.found if a.get("id")]
    assert len(ids) == len(set(ids))
    refs = {a["xlink:href"] for _, a in parsed.found if a.get("xlink:href")}
    refs |= set(re.findall(r"url\((#[^)]*)\)", text))
    assert {ref.removeprefix("#") for ref in refs if ref} <= set(ids)
    assert [tag for tag, _ in parsed.found].count("svg") == 2
    assert "anytrain release" in text
    assert "--out &lt;here&gt;" in text
    assert 'name="viewport"' in text


def test_the_page_escapes_what_runs_are_called(tmp_path: Path) -> None:
    found = frontier(write_run(tmp_path / "a<b>&c", end=300, checkpoints=(300,)))
    text = page(found, "x")
    assert "<b>" not in text
    assert Elements(text).stack == []


@pytest.mark.parametrize("end", [1, 40, 250, 251, 700])
def test_short_runs_are_drawn(tmp_path: Path, end: int) -> None:
    found = frontier(write_run(tmp_path / "a", end=end))
    assert png(found)
    assert inline(found, "difference", "x").startswith("<svg")


def test_raw_alone_and_other_runs_are_drawn(tmp_path: Path, cooldowns: list[RunDir]) -> None:
    bare = write_run(tmp_path / "bare", evaluated={s: {"raw": 900 / s} for s in (250, 500, 1000)})
    other = write_run(tmp_path / "a-run-with-a-very-long-name", end=1000)
    assert "a-run-with-a-v…" in svg(frontier(bare, [other, *cooldowns]))
    assert png(frontier(bare))


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    found = frontier(write_run(tmp_path / "a", evaluated={}))
    with pytest.raises(UserError, match="no evaluation yet"):
        png(found)


def test_labels_are_spread_as_little_as_possible() -> None:
    assert spread([0, 20, 40], 10) == [0, 20, 40]
    assert spread([0, 0], 10) == [-5, 5]
    assert spread([0, 1, 2, 100], 10) == pytest.approx([-9, 1, 11, 100])
    assert spread([], 10) == []
    crowded = spread([0, 3, 9, 9, 30, 31], 8)
    assert all(b - a > 8 - 1e-9 for a, b in pairwise(crowded))


@pytest.mark.parametrize(
    ("step", "wanted"), [(0.5, 2), (0.02, 2), (0.025, 3), (0.25, 2), (0.0025, 4), (0.1 + 0.2, 2)]
)
def test_ticks_are_not_rounded(step: float, wanted: int) -> None:
    """A tick at 0.025 that said 0.03 stood halfway between 0.00 and 0.05."""
    assert decimals(step) == wanted
    assert float(f"{3 * step:.{decimals(step)}f}") == pytest.approx(3 * step)
