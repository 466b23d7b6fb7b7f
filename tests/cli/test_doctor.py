"""`anytrain doctor`: what is missing, and whether the laws hold; a broken one is found."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from anytrain.certificate import Certificate
from anytrain.cli.main import SUMMARIES
from anytrain.doctor import filesystem, laws, needs
from anytrain.doctor.bench import Bench, Broken
from anytrain.doctor.laws import LAWS
from anytrain.files import sha256
from anytrain.rundir import RunDir
from tiny import cli, recipe, write_recipe

HELD = ["filesystem", "resume", "prefix", "kernel", "checkpoint"]


# --- the table -------------------------------------------------------------------------------


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = lambda name: None if name == package else find_spec(name)  # noqa: E731
    monkeypatch.setattr(needs, "find_spec", found)


def test_every_verb_is_in_the_table() -> None:
    assert needs.NEEDS.keys() == SUMMARIES.keys() - {"doctor"}
    said = cli("doctor")
    assert said.code == 0, said.out
    for verb in needs.NEEDS:
        assert f"\n{verb:<11} ready" in said.out


def test_a_missing_extra_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    without("matplotlib", monkeypatch)
    said = cli("doctor")
    assert said.code == 0
    assert "--out needs matplotlib: pip install 'anytrain[report]'" in said.out


def test_a_missing_dependency_is_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    without("torch", monkeypatch)
    said = cli("doctor", "--json")
    verbs = {row["verb"]: row for row in json.loads(said.out)["verbs"]}
    assert said.code == 1
    assert verbs["train"]["missing"]["torch"].startswith("pip install 'torch")
    assert not verbs["prepare"]["missing"]
    assert "train       NOT READY" in cli("doctor").out


# --- the laws, with the training processes' work done in this one ----------------------------


class Here(Bench):
    """The bench whose runs are trained in this process; a kill is a stop that comes soon."""

    def command(self, name: str, *more: str) -> list[str]:
        alone = list(more)
        if "--devices" in alone:
            del alone[(i := alone.index("--devices")) : i + 2]
        return super().command(name, *alone)

    def train(self, name: str, until: int, *more: str) -> RunDir:
        said = cli(*self.command(name, *more)[3:], "--until", until)
        assert said.code == 0, said.err
        return RunDir(self.folder / name)

    def kill(self, name: str, *more: str) -> int:
        said = cli(*self.command(name, *more)[3:], "--for", "3-steps")
        assert said.code == 0, said.err
        return int(RunDir(self.folder / name).checkpoints()[-1].step)


class Forgets(Here):
    """What a resume would be that lost its place in the data."""

    def kill(self, name: str, *more: str) -> int:
        step = super().kill(name, *more)
        folder = RunDir(self.folder / name).checkpoint_path(step)
        state = json.loads((folder / "state.json").read_text())
        state["clock"]["samples"] -= 4
        (folder / "state.json").write_text(json.dumps(state))
        manifest = json.loads((folder / "manifest.json").read_text())
        size = (folder / "state.json").stat().st_size
        entry = {"bytes": size, "sha256": sha256(folder / "state.json")}
        manifest["files"]["state.json"] = entry
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return step


class Drifts(Here):
    """A run that stops early is another one."""

    def train(self, name: str, until: int, *more: str) -> RunDir:
        more = (*more, "train.seed=1") if name == "stopped" else more
        return super().train(name, until, *more)


class Averages(Here):
    """Averages by another rule than the recipe's."""

    def command(self, name: str, *more: str) -> list[str]:
        return super().command(name, *more, "averages.ema25=anytime_ema:f=24")


class Reorders(Here):
    """Two processes that read other samples than one."""

    def train(self, name: str, until: int, *more: str) -> RunDir:
        more = (*more, "train.seed=1") if name == "two" else more
        return super().train(name, until, *more)


class Damages(Here):
    """A disk that changes a byte of the last checkpoint."""

    def train(self, name: str, until: int, *more: str) -> RunDir:
        run = super().train(name, until, *more)
        if name == "undisturbed":
            file = next(run.checkpoints()[-1].path.glob("*.safetensors"))
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
        return run


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Choose the bench; the current directory is empty, but for the recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(filesystem, "WRITES", 5)

    def use(kind: type[Bench]) -> None:
        monkeypatch.setattr("anytrain.doctor.examine.Bench", kind)

    use(Here)
    return use


def test_the_laws_hold_and_are_certified(recipe_file: Path, bench: Any) -> None:
    said = cli("doctor", recipe_file, "schedule.peak=2e-2")
    found = Certificate.read(Path("anytrain-certificate.json"))
    assert said.code == 0, said.out
    assert [check.name for check in found.checks] == [law.name for law in LAWS]
    assert [check.name for check in found.named("holds")][: len(HELD)] == HELD
    assert not found.named("broken")
    assert (found.recipe, found.data) == ("tiny", "its own data")
    numbers = {check.name: check.numbers for check in found.checks}
    assert numbers["checkpoint"]["bytes"] > 10_000
    assert numbers["kernel"]["off"].keys() == {"ema25", "uniform"}
    assert found.machine["filesystem"]
    left = [path.name for path in Path().iterdir()]
    assert sorted(left) == ["anytrain-certificate.json", recipe_file.name]


def test_other_processes_are_compared_where_train_has_them(
    recipe_file: Path, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for offered, result in ((False, "not available"), (True, "holds")):
        monkeypatch.setattr(laws, "_offers", lambda option, answer=offered: answer)
        assert cli("doctor", recipe_file).code == 0
        found = Certificate.read(Path("anytrain-certificate.json"))
        assert found.checks[-1].result == result
        assert found.checks[-1].numbers.get("off", 0) <= 1e-4  # half of the micro-batch: rounding


def test_without_its_data_a_recipe_is_checked_on_random_tokens(
    recipe_file: Path, bench: Any
) -> None:
    said = cli("doctor", recipe_file, "data.path=gone", "model.vocab=50", "--json")
    assert said.code == 0, said.out
    assert json.loads(said.out)["data"] == "random tokens"


@pytest.mark.parametrize(
    ("kind", "law", "sentence"),
    [
        (Forgets, "resume", "differ, such as"),
        (Drifts, "prefix", "differ, such as"),
        (Averages, "kernel", "average ema25 at step 4 is"),
        (Damages, "checkpoint", "was altered"),
        (Reorders, "devices", "the loss is off by"),
    ],
)
def test_a_broken_law_is_found(
    kind: type[Bench],
    law: str,
    sentence: str,
    recipe_file: Path,
    bench: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(laws, "_offers", lambda option: True)
    bench(kind)
    said = cli("doctor", recipe_file, "--out", "found.json")
    found = Certificate.read(Path("found.json"))
    says = {check.name: check.says for check in found.named("broken")}
    assert (said.code, law in says) == (1, True), said.out
    assert sentence in says[law]
    assert ". So " in says[law]
    assert "broken: " in said.out
    assert sorted(path.name for path in Path().iterdir()) == ["found.json", recipe_file.name]


@pytest.mark.parametrize(
    "settings",
    [
        ("train.average_every=2",),
        ("optimizer.kind=schedule_free", "snapshots={}"),
        ("train.reference_batch=8", "model.tied=true"),
    ],
    ids=" ".join,
)
def test_other_ways_of_training_hold_too(
    settings: tuple[str, ...], recipe_file: Path, bench: Any
) -> None:
    assert cli("doctor", recipe_file, *settings).code == 0


def test_what_is_not_promised_is_not_checked(recipe_file: Path, bench: Any) -> None:
    assert cli("doctor", recipe_file, "train.deterministic=false", "averages={}").code == 0
    found = Certificate.read(Path("anytrain-certificate.json"))
    absent = {check.name for check in found.named("not available")}
    assert {"resume", "prefix", "kernel"} <= absent


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--steps", "1"), "--steps 1; 2 or more is valid"),
        (("schedule=cosine:peak=1e-3,horizon=10-steps",), "2 to 5 is valid"),
        (("train.batch=0",), "train.batch = 0"),
        (("--run", "runs/a"), "not both"),
    ],
)
def test_a_wrong_argument(
    arguments: tuple[str, ...], sentence: str, recipe_file: Path, bench: Any
) -> None:
    said = cli("doctor", recipe_file, *arguments)
    assert (said.code, sentence in said.err) == (2, True), said.err
    assert [path.name for path in Path().iterdir()] == [recipe_file.name]


# --- release cards ---------------------------------------------------------------------------


def test_a_card_cites_the_certificate_of_its_run(recipe_file: Path, bench: Any) -> None:
    run = Path("runs/a")
    assert cli("train", recipe_file, "--run", run, "--until", "8").code == 0
    assert cli("release", run, "--out", "plain").code == 0
    assert "doctor" not in Path("plain/README.md").read_text()
    assert cli("doctor", "--run", run).code == 0
    assert cli("release", run, "--out", "cited").code == 0
    card = Path("cited/README.md").read_text()
    found = Certificate.read(run / "certificate.json")
    assert f"- laws checked by `anytrain doctor` on {found.date[:10]} with this recipe on " in card
    assert f"): {', '.join(HELD)}" in card
    assert found.machine["filesystem"] in card

    assert cli("train", "--run", run, "--until", "9", "log.every=2").code == 0
    bench(Drifts)
    assert cli("release", f"{run}:raw", "--out", "later").code == 0
    assert "with earlier settings of this recipe" in Path("later/README.md").read_text()
    assert cli("doctor", "--run", run).code == 1
    assert cli("release", f"{run}:raw", "--out", "broken").code == 0
    assert "- **broken there**: prefix: " in Path("broken/README.md").read_text()


def test_a_damaged_certificate_is_one_sentence(recipe_file: Path, bench: Any) -> None:
    assert cli("train", recipe_file, "--run", "run", "--until", "2").code == 0
    fields = dict.fromkeys(("recipe", "recipe_sha256", "data", "place"), "x")
    no_date = {"format": 1, "date": 5, **fields, "versions": {}, "machine": {}, "checks": []}
    for text in ("{", "{}", '{"format": 1, "checks": [{}]}', json.dumps(no_date)):
        Path("run/certificate.json").write_text(text)
        said = cli("release", "run:raw", "--out", "model")
        assert (said.code, "certificate.json" in said.err) == (2, True)
        assert len(said.err.strip().splitlines()) == 1


# --- filesystems and processes ---------------------------------------------------------------


def test_a_filesystem_without_locks_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert filesystem.check(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("anytrain.rundir.fcntl.flock", lambda *_: None)
    with pytest.raises(Broken, match="two processes hold one lock"):
        filesystem.locks(tmp_path)


def test_a_filesystem_whose_files_appear_bit_by_bit_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = (
        "import sys, time\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    file.write('1'); file.flush(); time.sleep(0.5)\n"
    )
    monkeypatch.setattr(filesystem, "_WRITER", slow)
    with pytest.raises(Broken, match="was read with"):
        filesystem.atomic_files(tmp_path)


def test_a_process_that_fails_says_why(corpus: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path, recipe(corpus))
    with pytest.raises(Broken, match=r"exit code 2: .*unknown key train\.bach"):
        bench.train("run", 2, "train.bach=2")


@pytest.mark.slow
def test_real_processes_are_killed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toml = write_recipe(tmp_path / "r.toml", corpus)
    said = cli("doctor", toml, "--json")
    found = json.loads(said.out)
    assert said.code == 0, said.out
    assert Certificate.read(Path("anytrain-certificate.json")).json == said.out
    (resumed,) = [check for check in found["checks"] if check["name"] == "resume"]
    assert resumed["result"] == "holds"
    first, second = resumed["numbers"]["kills"]
    assert 2 <= first < resumed["numbers"]["step"] > second >= 2
