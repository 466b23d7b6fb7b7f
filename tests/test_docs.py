"""Pages that are written from the code say what the code says; examples in them are run."""

import doctest
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def script(name: str) -> ModuleType:
    """A script beside the pages."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_recipe_page_is_what_the_code_gives() -> None:
    assert (DOCS / "recipe.md").read_text(encoding="utf-8") == script("make_recipe_page").page(), (
        "run python docs/make_recipe_page.py"
    )


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse writes its help another way")
def test_the_commands_page_is_what_the_verbs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "92")
    found = script("make_commands_page").page()
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == found, (
        "run python docs/make_commands_page.py"
    )


@pytest.mark.parametrize("name", ["anytrain.schedules", "anytrain.rules"])
def test_examples_in_docstrings(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert found.attempted >= 2
    assert found.failed == 0


def test_examples_in_pages() -> None:
    with_examples = [page for page in DOCS.rglob("*.md") if "\n>>> " in page.read_text("utf-8")]
    assert with_examples
    for page in with_examples:
        found = doctest.testfile(str(page), module_relative=False, optionflags=FLAGS)
        assert found.failed == 0, page


@pytest.mark.slow
def test_the_site(tmp_path: Path) -> None:
    """Every link and anchor leads somewhere; nothing is fetched from elsewhere."""
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, env={"PATH": "", "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        if page.name != "page.html":  # a study's own, tested with it
            fetched = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?(https?:[^\"> ]+)",
                                 page.read_text(encoding="utf-8"))  # fmt: skip
            assert not fetched, page
    assert "AnytimeEma" in (tmp_path / "reference/rules/index.html").read_text(encoding="utf-8")
    assert (tmp_path / "experiments/0006-every-horizon/page.html").is_file()
    assert "Two commands" in (tmp_path / "index.html").read_text(encoding="utf-8")
