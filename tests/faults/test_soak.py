"""A short soak; `make soak` is a long one."""

from pathlib import Path

import pytest
from soak import recipe, soak


@pytest.mark.slow
def test_killed_ten_times(corpus: Path, tmp_path: Path) -> None:
    soak(recipe(tmp_path / "r.toml", corpus), tmp_path, kills=10, seed=0)
