"""The two examples of docs/in_pytorch.md and docs/in_lightning.md, shorter, and their tables."""

import sys
from pathlib import Path

import pytest
from test_trainer_examples import run

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bare_loop.py", "lightning_run.py"])
def test_the_examples(name: str, tmp_path: Path) -> None:
    if name == "lightning_run.py":
        pytest.importorskip("lightning")
    said = run(name, "--out", tmp_path, "--steps", 20)
    assert "of step 40" in said
    assert (tmp_path / "released" / "model.safetensors").is_file()


def test_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pages say of the peers at the pinned versions, and of ours."""
    pytest.importorskip("lightning")
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
    import measure_averages as measure

    for page, (peer, mine, rows) in measure.PAGES.items():
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert f"| | {peer} | {mine} |" in text
        for name, row in rows.items():
            assert f"| {name} | {row(False)} | {row(True)} |" in text
