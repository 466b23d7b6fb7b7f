"""What the plain Trainer does, measured: the page's table says what these versions do."""

import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def peer() -> Any:
    sys.path.insert(0, str(DOCS))
    try:
        import measure_trainer
    finally:
        sys.path.remove(str(DOCS))
    return measure_trainer


def test_the_trainer_demands_a_number_of_steps(peer: Any, tmp_path: Path) -> None:
    assert "max_steps has to be specified" in peer.stream(False, tmp_path / "theirs")
    assert peer.stream(True, tmp_path / "ours") == "trains to its end, 12 steps"


def test_its_cosine_jumps_where_it_is_extended(peer: Any, tmp_path: Path) -> None:
    found, equal = peer.extended(False, tmp_path, lr_scheduler_type="cosine", warmup_steps=2)
    assert found[9] < 0.05 * peer.PEAK
    assert found[10] == 0  # the old curve's end, taken over with the optimizer's state
    assert found[11] > 0.4 * peer.PEAK
    assert not equal


def test_its_inverse_square_root_does_not(peer: Any, tmp_path: Path) -> None:
    found, equal = peer.extended(False, tmp_path, lr_scheduler_type="inverse_sqrt")
    assert found[10] < found[9] < 1.1 * found[10]
    assert equal


def test_it_stops_at_a_checkpoint_that_was_not_finished(peer: Any, tmp_path: Path) -> None:
    peer.made(False, tmp_path, 10, save_steps=5).train()
    (tmp_path / "checkpoint-10" / "trainer_state.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"trainer_state\.json"):
        peer.made(False, tmp_path, 12).train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_the_page_says_what_is_measured(peer: Any, tmp_path: Path) -> None:
    page = (DOCS / "in_transformers.md").read_text(encoding="utf-8")
    for number, name in enumerate(peer.ROWS):
        assert peer.row(name, tmp_path / str(number)) in page, "run python docs/measure_trainer.py"
