"""`check_laws` accepts what keeps the laws and names what does not; the example uses it."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from anytrain.rundir import RunDir
from anytrain.schedules import Cosine, HorizonBound, Schedule
from anytrain.testing import check_laws
from tiny import cli, evaluations, steps_kept, write_recipe

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_rule.py"


@dataclasses.dataclass(frozen=True)
class Sound:
    """The rule that the broken ones differ from."""

    p: float = 1.0

    def __call__(self, t: float, dt: float = 1.0, /) -> float:
        return min(1.0, dt / t)


@dataclasses.dataclass(frozen=True)
class Outside(Sound):
    def __call__(self, t: float, dt: float = 1.0, /) -> float:
        return 2 * dt / t


@dataclasses.dataclass(frozen=True)
class NotANumber(Sound):
    def __call__(self, t: float, dt: float = 1.0, /) -> float:
        return float("nan")


@dataclasses.dataclass(frozen=True)
class Counting(Sound):
    def __call__(self, t: float, dt: float = 1.0, /) -> float:
        object.__setattr__(self, "p", self.p + 1)
        return min(1.0, 1 / self.p)


@dataclasses.dataclass
class Thawed:
    p: float = 1.0

    def __call__(self, t: float, dt: float = 1.0, /) -> float:
        return min(1.0, dt / t)


@dataclasses.dataclass(frozen=True)
class Unwritable(Sound):
    inside: object = dataclasses.field(default_factory=object)


@dataclasses.dataclass(frozen=True)
class SecretlyPlanned:
    peak: float
    horizon: float = 100.0

    def __call__(self, t: float, /) -> float:
        return max(0.0, self.peak * (1 - t / self.horizon))


@dataclasses.dataclass(frozen=True)
class Negative:
    peak: float

    def __call__(self, t: float, /) -> float:
        return self.peak * (1 - t / 500)


@dataclasses.dataclass(frozen=True)
class Ends:
    trunk: Schedule

    def __call__(self, t: float, /) -> float:
        return self.trunk(min(t, 10))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overstays(HorizonBound):
    def __call__(self, t: float, /) -> float:
        return 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeverArrives(HorizonBound):
    peak: float = 1e-3
    final: float = 0.0

    def __call__(self, t: float, /) -> float:
        return self.peak * (1 - 0.999 * self.within(t) / self.horizon)


def test_check_laws_accepts_what_keeps_them() -> None:
    check_laws(Sound())


BROKEN = {
    "rho above 1": (Outside(), "0 to 1 is valid"),
    "rho is NaN": (NotANumber(), "0 to 1 is valid"),
    "counts its calls": (Counting(), "depending on what it was asked before"),
    "can be changed": (Thawed(), "not a frozen dataclass"),
    "is a function": (lambda t: 1e-3, "not a frozen dataclass"),
    "holds an object": (Unwritable(), "address in memory"),
    "a plan in disguise": (SecretlyPlanned(1e-3), "knows a horizon"),
    "a plan inside": (Ends(Cosine(horizon=100, peak=1e-3)), "knows a horizon"),
    "rates below 0": (Negative(1e-3), "a finite rate of 0 or more"),
    "goes on past its end": (Overstays(horizon=10), "BeyondHorizon is valid"),
    "does not reach its end": (NeverArrives(horizon=10), "exactly 0.0 is valid"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_check_laws_names_what_is_broken(name: str) -> None:
    thing, sentence = BROKEN[name]
    with pytest.raises(AssertionError, match=sentence):
        check_laws(thing)


# --- a class of the user's, with the package around it ---------------------------------------


def test_the_example_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "keeps the laws" in done.stdout
    raw, merged = (
        float(line.split()[1]) for line in done.stdout.splitlines() if line[:3] in ("raw", "mer")
    )
    assert merged < raw / 5


@pytest.fixture
def beside_the_example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working directory holds own_rule.py; nothing of this is left in the process."""
    from anytrain import grammar

    (tmp_path / "own_rule.py").write_text(EXAMPLE.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grammar, "_USER_MODULES", {})
    monkeypatch.delitem(sys.modules, "own_rule", raising=False)
    yield tmp_path
    sys.modules.pop("own_rule", None)


MINE = "averages.mine=own_rule.Merged:every=128-tokens"  # two steps


def test_own_rule_on_the_command_line(beside_the_example: Path, corpus: Path) -> None:
    toml = write_recipe(beside_the_example / "r.toml", corpus)
    said = cli("train", toml, "--run", "a", "--for", "4-steps", MINE)
    assert (said.code, said.err.count("--import own_rule")) == (2, 1)
    assert not Path("a").exists()

    said = cli("train", toml, "--run", "a", "--for", "4-steps", "--import", "own_rule", MINE)
    assert said.code == 0, said.err
    assert RunDir(Path("a")).recipe["averages"]["mine"] == "own_rule.Merged:every=128-tokens"
    assert len(RunDir(Path("a")).identity["imports"]["own_rule"]) == 64
    assert "val/loss/mine" in evaluations(Path("a"))[-1]

    said = cli("train", "--run", "a", "--for", "4-steps", "--import", "own_rule")
    assert said.code == 0, said.err
    assert steps_kept(Path("a"))[-1] == 8


def test_a_run_remembers_the_source_of_its_rules(beside_the_example: Path, corpus: Path) -> None:
    toml = write_recipe(beside_the_example / "r.toml", corpus)
    assert cli("train", toml, "--run", "a", "--for", "4-steps", "--import", "own_rule",
               MINE).code == 0  # fmt: skip
    source = Path("own_rule.py").read_text()
    Path("own_rule.py").write_text(source.replace("1 / k", "1 / (k + 1)") + "\n")
    said = cli("train", "--run", "a", "--for", "4-steps", "--import", "own_rule")
    assert (said.code, said.err.count("its source has changed since")) == (2, 1)


def test_what_cannot_be_imported(beside_the_example: Path, corpus: Path) -> None:
    toml = write_recipe(beside_the_example / "r.toml", corpus)
    said = cli("train", toml, "--run", "a", "--import", "no_such_module")
    assert (said.code, said.err.count("no_such_module")) == (2, 2)
    said = cli("train", toml, "--run", "a", "--import", "own_rule",
               "averages.x=own_rule.main")  # fmt: skip
    assert said.code == 2
    assert "has no dataclass 'main'" in said.err
    assert not Path("a").exists()
