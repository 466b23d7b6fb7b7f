"""Pages that are written from the code say what the code says."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_recipe_page_is_what_the_code_gives() -> None:
    spec = importlib.util.spec_from_file_location("page", DOCS / "make_recipe_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "recipe.md").read_text(encoding="utf-8") == module.page(), (
        "run python docs/make_recipe_page.py"
    )
