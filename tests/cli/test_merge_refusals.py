"""`anytrain merge`: one sentence and code 2 for what cannot be, and nothing half-written."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anytrain.averaging import merge
from anytrain.headers import INDEX, SINGLE
from anytrain.merging import output
from merges import kept_run, llama, tensors_of, write_file
from tiny import at, cli


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return kept_run(tmp_path_factory.mktemp("merge"), corpus)


@pytest.fixture
def llamas(tmp_path: Path) -> list[Path]:
    return [llama(tmp_path / f"llama-{seed}", seed) for seed in range(2)]


def refused(*arguments: str | Path, out: Path | None = None) -> str:
    """The sentence; no output, whole or not, is left."""
    there = {p for p in out.parent.iterdir() if p != out} if out else set()
    was = sorted(p.name for p in out.iterdir()) if out and out.is_dir() else None
    said = cli("merge", *arguments, *(["--out", out] if out else []))
    assert said.code == 2, said
    assert said.err.startswith("anytrain: ")
    assert said.err.endswith("\n")
    assert said.err.count("\n") == 1
    if out:
        assert {p for p in out.parent.iterdir() if p != out} == there
        assert (sorted(p.name for p in out.iterdir()) if out.is_dir() else None) == was
    return said.err


# --- inputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{run}x", "is not a run: it has no run.json"),
        ("{run}@99", "no checkpoint there; nearest:"),
        ("{run}@20..30", "has no checkpoint from 20-steps to 30-steps; the last are at steps"),
        ("{run}@6..3", "from 6-steps to 3-steps; an earlier and a later moment are valid"),
        ("{run}@3..3", "an earlier and a later moment are valid"),
        ("{run}@3-steps..600-tokens", "from 3-steps to 600-tokens; an earlier and a later"),
        ("{run}@1min..2min", "a checkpoint is named by its step or its tokens"),
        ("{run}@x..5", "is not a duration"),
        ("{run}:ema26", "has no weights 'ema26'"),
        ("{run}@3..5:nothing", "has no weights 'nothing'"),
        ("{run}/checkpoints/step-000000099", "is not a run"),
        ("{run}/checkpoints", "is not a run"),
        ("{run}/recipe.toml", "recipe.toml is damaged or no safetensors file"),
        ("nowhere.safetensors", "is not a run"),
    ],
)
def test_inputs_that_are_not_there(text: str, sentence: str, run: Path, tmp_path: Path) -> None:
    assert sentence in refused(text.format(run=run), out=tmp_path / "m")


def test_a_run_without_checkpoints(run: Path, tmp_path: Path) -> None:
    empty = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(empty / "checkpoints")
    assert "has no checkpoint yet" in refused(empty, "--dry-run")
    assert "has no checkpoint from 1-steps to 5-steps; the last are at steps none" in refused(
        f"{empty}@1..5", "--dry-run"
    )


def test_a_checkpoint_with_a_damaged_file(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    path = next(p for p in at(copy, 5).path.glob("*.safetensors"))
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    assert f"{path.name} has {len(content) - 4} bytes" in refused(f"{copy}@5", out=tmp_path / "m")
    path.write_bytes(b"\xff" * len(content))
    assert f"{path.name} is damaged" in refused(f"{copy}@5", out=tmp_path / "m")


@pytest.mark.parametrize("how", ["truncated", "garbage", "empty", "unreadable"])
def test_damaged_files(how: str, llamas: list[Path], tmp_path: Path) -> None:
    file = llamas[0] / SINGLE
    content = file.read_bytes()
    if how == "unreadable":
        file.unlink()
        file.symlink_to(file)  # a loop: there, and no file
        assert "holds no weights" in refused(*llamas, out=tmp_path / "m")
        return
    file.write_bytes({"truncated": content[:-8], "garbage": b"garbage!" * 100, "empty": b""}[how])
    for arguments in (llamas, llamas[::-1], [file]):
        said = refused(*arguments, out=tmp_path / "m")
        assert f"{file} is {'truncated or ' if how == 'truncated' else ''}damaged" in said


def test_pickles(tmp_path: Path, llamas: list[Path]) -> None:
    (llamas[0] / SINGLE).unlink()
    (llamas[0] / "pytorch_model.bin").touch()
    assert "holds pickled weights (pytorch_model.bin)" in refused(*llamas, out=tmp_path / "m")


def test_quantised_weights(tmp_path: Path, llamas: list[Path]) -> None:
    config = json.loads((llamas[1] / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (llamas[1] / "config.json").write_text(json.dumps(config))
    assert f"{llamas[1]} is quantised" in refused(*llamas, out=tmp_path / "m")


def test_inputs_that_are_not_alike(llamas: list[Path], tmp_path: Path) -> None:
    held = tensors_of(llamas[0])
    changed = dict(list(held.items())[8:])
    changed["lm_head.weight"] = held["lm_head.weight"].T.contiguous()
    changed["model.norm.weight"] = held["model.norm.weight"].bfloat16()
    write_file(llamas[1] / SINGLE, changed)
    said = refused(*llamas, out=tmp_path / "m")
    assert f"{llamas[0]} and {llamas[1]} are not alike: lm_head.weight is" in said
    assert said.count(" is ") == 5
    missing = len(held.keys() - changed.keys())
    assert f"(and {missing + 2 - 5} more)" in said


def test_a_run_and_another_model(run: Path, llamas: list[Path], tmp_path: Path) -> None:
    said = refused(f"{run}@3", llamas[0], out=tmp_path / "m")
    assert f"{run}@3:raw and {llamas[0]} are not alike" in said


@pytest.mark.parametrize("last", [True, False])
def test_nan(last: bool, llamas: list[Path], tmp_path: Path) -> None:
    held = tensors_of(llamas[last])
    held["model.norm.weight"][3] = torch.nan
    write_file(llamas[last] / SINGLE, held)
    said = refused(*llamas, out=tmp_path / "m")
    assert said == (
        f"anytrain: {llamas[last] / SINGLE}: tensor 'model.norm.weight' holds NaN; "
        "finite values are valid\n"
    )
    refused(*llamas, out=tmp_path / "m.safetensors")


def test_what_the_type_cannot_hold(llamas: list[Path], tmp_path: Path) -> None:
    held = tensors_of(llamas[0])
    held["model.norm.weight"][3] = 1e9
    write_file(llamas[0] / SINGLE, held)
    said = refused(*llamas, "--dtype", "float16", out=tmp_path / "m")
    assert "tensor 'model.norm.weight' holds 5e+08, beyond F16; another --dtype is valid" in said


# --- weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--weights", "0.5,0.4"), "the weights sum to 0.9; 1 is valid (or --any-sum)"),
        (("--weights", "0.5,0.500002"), "the weights sum to 1; 1 is valid"),
        (("--weights", "1"), "1 weights for 2 inputs; one each is valid"),
        (("--weights", "0.2,0.3,0.5"), "3 weights for 2 inputs"),
        (("--weights", "nan,1"), "the weights are [nan, 1.0]; finite ones, not all 0, are valid"),
        (("--weights", "0,0", "--any-sum"), "the weights are [0.0, 0.0]; finite ones, not all 0"),
        (("--weights", "inf,1", "--any-sum"), "finite ones, not all 0, are valid"),
        (("--weights", "half,half"), "--weights 'half,half': numbers with commas between"),
        (("--weights", "0.5,0.5", "--rule", "uniform"), "not allowed with argument"),
        (("--rule", "unifrom"), "unknown kind 'unifrom' (did you mean 'uniform'?)"),
        (("--rule", "last:k=3"), "last:k=3 of 2 inputs; at most 2 is valid"),
        (("--rule", "wsm:shape=round"), "valid are linear, sqrt, cosine, square"),
        (("--rule", "wsm", "--at", "5,5"), "each later than the one before is valid"),
        (("--rule", "wsm", "--at", "5"), "--at has 1 steps for 2 inputs; one each is valid"),
        (("--rule", "wsm", "--at", "-1,5"), "expected one argument"),
        (("--rule", "wsm", "--at=-1,5"), "--at has the steps [-1.0, 5.0]; 0 or more is valid"),
        (("--rule", "wsm", "--at", "nan,5"), "0 or more is valid"),
        (("--rule", "ema:half_life=5M-tokens"), "needs a batch size to become steps"),
        (("--dtype", "int8"), "invalid choice: 'int8'"),
        (("--import", "no_such_module"), "--import no_such_module"),
    ],
)
def test_weights_and_rules(
    arguments: tuple[str, ...], sentence: str, llamas: list[Path], tmp_path: Path
) -> None:
    assert sentence in refused(*llamas, *arguments, out=tmp_path / "m")


def test_no_input_and_no_output(llamas: list[Path]) -> None:
    assert "INPUT" in refused()
    assert "--out is missing; a new PATH, or --dry-run, is valid" in refused(*llamas)


# --- output ----------------------------------------------------------------------------------


def test_an_output_that_is_an_input(llamas: list[Path], tmp_path: Path) -> None:
    before = (llamas[0] / SINGLE).read_bytes()
    assert f"{llamas[0]} is an input" in refused(*llamas, out=llamas[0])
    assert f"{llamas[0] / SINGLE} is an input" in refused(*llamas, out=llamas[0] / SINGLE)
    (tmp_path / "link").symlink_to(llamas[0])
    assert "link is an input; another --out is valid" in refused(*llamas, out=tmp_path / "link")
    file = Path(shutil.copyfile(llamas[0] / SINGLE, tmp_path / "x.safetensors"))
    assert f"{file} is an input" in refused(file, llamas[1], out=file)
    assert (llamas[0] / SINGLE).read_bytes() == file.read_bytes() == before


def test_an_output_that_is_there(run: Path, llamas: list[Path], tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").write_text("precious")
    assert "is there already; a new name or an empty directory is valid" in refused(
        *llamas, out=tmp_path / "m"
    )
    (tmp_path / "m.safetensors").write_text("precious")
    assert "m.safetensors is there already; a new name is valid" in refused(
        *llamas, out=tmp_path / "m.safetensors"
    )
    assert (tmp_path / "m.safetensors").read_text() == "precious"
    assert "is there already" in refused(f"{run}@3", out=at(run, 3).path)
    (tmp_path / "empty").mkdir()
    assert cli("merge", *llamas, "--out", tmp_path / "empty").code == 0


def test_an_output_in_no_directory(llamas: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = cli("merge", *llamas, "--out", tmp_path / "file" / "m")
    assert (said.code, "file/m cannot be written" in said.err) == (2, True)


@pytest.mark.parametrize("name", ["m", "m.safetensors"])
def test_a_disk_that_is_full(
    name: str, llamas: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        said = refused(*llamas, out=tmp_path / name)
    assert f"{tmp_path / name} cannot be written: [Errno 28] No space left on device" in said
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        said = refused(*llamas, out=tmp_path / name)
    size = sum(tensor.nbytes for tensor in tensors_of(llamas[0]).values())
    assert f"has room for 1,000 bytes, the output has {size:,}" in said


def test_a_limit_of_the_system(llamas: list[Path], tmp_path: Path) -> None:
    """Not a pretended one: files of this process may have 30 kB."""
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "from anytrain.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["merge", *map(str, llamas), "--out", str(tmp_path / "m")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"anytrain: {tmp_path / 'm'} cannot be written: [Errno 27] File too large\n"  # fmt: skip # noqa: E501
    assert sorted(p.name for p in tmp_path.iterdir()) == ["llama-0", "llama-1"]


# --- interrupted -----------------------------------------------------------------------------

PLACES: dict[str, tuple[Any, str]] = {
    "in a block": (merge, "_block"),
    "before the first": (merge, "run"),
    "beside the weights": (output, "describe"),
}


@pytest.mark.parametrize("place", PLACES)
def test_interrupted(
    place: str, llamas: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C: code 130 and nothing left; the same command then goes through."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*PLACES[place], interrupt)
        assert cli("merge", *llamas, "--out", tmp_path / "m").code == 130
    assert sorted(p.name for p in tmp_path.iterdir()) == ["llama-0", "llama-1"]
    assert cli("merge", *llamas, "--out", tmp_path / "m").code == 0


KILLED = """
import os, signal, sys
from anytrain import files
from anytrain.averaging import merge
from anytrain.merging import output
from anytrain.cli.main import main
module, name, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
module = {"merge": merge, "output": output, "files": files}[module]
true, calls = getattr(module, name), []
def wrapped(*arguments):
    calls.append(1)
    if len(calls) > number:
        os.kill(os.getpid(), signal.SIGKILL)
    return true(*arguments)
setattr(module, name, wrapped)
sys.exit(main(sys.argv[4:]))
"""


@pytest.mark.parametrize(
    ("module", "name", "number"),
    [
        ("merge", "_block", 0),
        ("merge", "_block", 5),
        ("output", "describe", 0),
        ("files", "sync", 0),
        ("files", "sync", 3),
    ],
)
def test_killed(module: str, name: str, number: int, llamas: list[Path], tmp_path: Path) -> None:
    """Nothing bears the name, and what is left is hidden; the same command goes through."""
    for out in ("m", "m.safetensors"):
        if out == "m.safetensors" and name in ("describe", "sync"):
            continue
        arguments = [module, name, str(number), "merge", *map(str, llamas), "--out"]
        done = subprocess.run([sys.executable, "-c", KILLED, *arguments, str(tmp_path / out)])
        assert done.returncode == -signal.SIGKILL
        assert not (tmp_path / out).exists()
        left = {p for p in tmp_path.iterdir() if p.name.startswith(f".{out}.")}
        assert left
        assert not any(found.suffix == ".safetensors" for found in left)
        if name == "_block":
            assert not any((found / "config.json").exists() for found in left)
        assert cli("merge", *llamas, "--out", tmp_path / out).code == 0


def test_a_signal_to_a_process_at_work(llamas: list[Path], tmp_path: Path) -> None:
    """SIGINT while threads are busy: it ends soon, with code 130 and nothing left."""
    code = (
        "import os, signal, sys, time\n"
        "from anytrain.averaging import merge\n"
        "from anytrain.cli.main import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has none\n"
        "true = merge._block\n"
        "def slow(*arguments):\n"
        "    os.write(1, b'at work\\n'); time.sleep(0.2); true(*arguments)\n"
        "merge._block = slow\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["merge", *map(str, llamas), "--out", str(tmp_path / "m"), "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at work\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"anytrain: interrupted\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["llama-0", "llama-1"]


def test_two_at_once_do_not_meet(
    llamas: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second merge to the same name while the first is at work: one of them wins, whole."""
    true: Callable[..., None] = merge.run
    codes: list[int] = []

    def meanwhile(*arguments: Any) -> None:
        monkeypatch.setattr(merge, "run", true)
        codes.append(cli("merge", *llamas[::-1], "--out", out, "--weights", "0,1").code)
        true(*arguments)

    for name in ("m", "m.safetensors"):
        out = tmp_path / name
        monkeypatch.setattr(merge, "run", meanwhile)
        first = cli("merge", *llamas, "--out", out, "--weights", "0,1")
        assert codes.pop() == 0
        expected = tensors_of(llamas[0 if first.code else 1])
        found = tensors_of(out)
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_the_index_is_not_missing_a_file(llamas: list[Path], tmp_path: Path) -> None:
    sharded = llama(tmp_path / "sharded", 0, max_shard_bytes=20_000)
    first = sorted(sharded.glob("*.safetensors"))[0]
    first.unlink()
    assert f"{first}: No such file" in refused(llamas[0], sharded, out=tmp_path / "m")
    (sharded / INDEX).write_text("{}")
    assert f"{INDEX} is damaged" in refused(llamas[0], sharded, out=tmp_path / "m")
