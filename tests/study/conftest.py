"""A trunk of eight units with cooldowns at 1, 2, 4 and 8, as files."""

from pathlib import Path

import pytest
from fake_runs import TRUNK, write_cooldown, write_run

from anytrain.rundir import RunDir

COOLDOWNS = {250: 4.22, 500: 3.68, 1000: 3.07, 2000: 2.55}


@pytest.fixture
def trunk(tmp_path: Path) -> RunDir:
    return write_run(tmp_path / "trunk", schedule=TRUNK, checkpoints=(225, 450, 1800, 2000))


@pytest.fixture
def cooldowns(tmp_path: Path) -> list[RunDir]:
    return [write_cooldown(tmp_path / f"cd{h}", h, loss) for h, loss in COOLDOWNS.items()]
