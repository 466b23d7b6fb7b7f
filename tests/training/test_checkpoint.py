"""A checkpoint is there whole or not at all, wherever the process ends while it is written."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from anytrain.rundir import RunDir
from anytrain.training import checkpoint
from tiny import Tiny, bits, differing, recipe


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    (tmp_path / "checkpoints").mkdir()
    return RunDir(tmp_path)


@pytest.fixture
def tiny(corpus: Path) -> Tiny:
    made = Tiny.begin(recipe(corpus))
    made.take(2)
    return made


def names(rundir: RunDir) -> list[str]:
    return sorted(path.name for path in rundir.checkpoint_root.iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux what a file is called")
def test_everything_is_on_disk_before_the_name_is(
    tiny: Tiny, rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file, then the manifest, then the folder; then the rename, then its parent."""
    log: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        log.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Any:
        log.append(f"{self.name} -> {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    saved = checkpoint.save(tiny.run, rundir)
    at = log.index(".writing-step-000000002 -> step-000000002")
    files = {path.name for path in saved.path.iterdir()}
    assert files - {"manifest.json"} <= set(log[: log.index("manifest.json")])
    assert log[log.index("manifest.json") + 1 : at] == [".writing-step-000000002"]
    assert log[at + 1 :] == ["checkpoints"]
    assert set(saved.manifest["files"]) == files - {"manifest.json"}


class Ended(BaseException):
    """The process ends here."""


STAGES = ["_write_tensors", "_write_manifest", "sha256", "sync"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_end_at_any_stage(
    stage: str, call: int, tiny: Tiny, rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint before is the newest good one, what is half-written is cleaned away."""
    first = checkpoint.save(tiny.run, rundir)
    before = bits(checkpoint.read_tensors(first.path), first.state)
    tiny.take(1)
    whole, calls = getattr(checkpoint, stage), 0

    def ending(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Ended
        return whole(*arguments)

    monkeypatch.setattr(checkpoint, stage, ending)
    try:
        checkpoint.save(tiny.run, rundir)
    except Ended:
        found = checkpoint.newest_good(rundir, pytest.fail)
        assert found is not None
        assert found.step == 2
    else:
        assert calls < call  # it is not called so often
    monkeypatch.undo()
    checkpoint.clean(rundir)
    assert [n for n in names(rundir) if n.startswith(".")] == []
    assert differing(bits(checkpoint.read_tensors(first.path), first.state), before) == []
    checkpoint.save(tiny.run, rundir).verify()
    assert names(rundir) == ["step-000000002", "step-000000003"]


def test_a_step_is_saved_once(tiny: Tiny, rundir: RunDir) -> None:
    saved = checkpoint.save(tiny.run, rundir)
    before = saved.path.stat().st_ino, (saved.path / "manifest.json").stat().st_mtime_ns
    again = checkpoint.save(tiny.run, rundir)
    assert before == (again.path.stat().st_ino, (again.path / "manifest.json").stat().st_mtime_ns)


def test_a_folder_without_a_manifest_is_written_over(tiny: Tiny, rundir: RunDir) -> None:
    folder = rundir.checkpoint_path(2)
    folder.mkdir()
    (folder / "junk").write_text("x")
    checkpoint.save(tiny.run, rundir).verify()
    assert not (folder / "junk").exists()


def test_groups_lie_in_files_of_their_own(tiny: Tiny, rundir: RunDir) -> None:
    """Reading one average reads one file: raw, each average, optimizer, random numbers."""
    from safetensors import safe_open

    saved = checkpoint.save(tiny.run, rundir)
    groups = []
    for path in sorted(saved.path.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            groups.append({checkpoint._group(key) for key in file.keys()})  # noqa: SIM118
    assert all(len(group) == 1 for group in groups)
    assert set().union(*groups) == {"raw", "average/ema25", "average/uniform", "optimizer", "rng"}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # there is one process
def test_files_are_those_of_pytorchs_writer(tiny: Tiny, rundir: RunDir, tmp_path: Path) -> None:
    """The same names, heads and bytes, so that whatever reads its checkpoints reads ours."""
    from torch.distributed.checkpoint import save
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    saved, tensors = checkpoint.save(tiny.run, rundir), tiny.run.tensors()
    groups = list(dict.fromkeys(map(checkpoint._group, tensors)))
    index = {name: groups.index(checkpoint._group(name)) + 1 for name in tensors}
    theirs = tmp_path / "theirs"
    writer = HuggingFaceStorageWriter(str(theirs), index, save_distributed=True)
    save(tensors, storage_writer=writer, no_dist=True)
    assert {p.name for p in theirs.iterdir()} == {p.name for p in saved.path.glob("*.safetensors")}
    for path in theirs.iterdir():
        (a, ours), (b, other) = parts(saved.path / path.name), parts(path)
        for head in (a, b):  # the library writes its metadata in any order
            meta = head["__metadata__"]
            meta["DCP_SHARDING_INFO"] = json.loads(meta["DCP_SHARDING_INFO"])
        assert a == b
        assert ours == other


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """Head and tensors of a safetensors file."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def test_what_is_read_is_what_was_written(tiny: Tiny, rundir: RunDir) -> None:
    saved = checkpoint.save(tiny.run, rundir)
    written = tiny.run.tensors()
    assert any(tensor.ndim == 0 for tensor in written.values())
    found = checkpoint.read_tensors(saved.path)
    assert differing(bits(found, {}), bits(written, {})) == []
    assert json.loads((saved.path / "state.json").read_text()) == saved.state
    moved = shutil.copytree(saved.path, saved.path.with_name("elsewhere"))
    assert differing(bits(checkpoint.read_tensors(Path(moved)), {}), bits(written, {})) == []
    assert all(not isinstance(t, torch.nn.Parameter) for t in found.values())
