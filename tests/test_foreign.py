"""Checkpoints of torch.distributed: read in place without torch, merged, loaded by torch again."""

import io
import os
import pickle
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata

from anytrain import foreign
from anytrain.errors import UserError
from anytrain.layout import Entry
from exact import TORCH, weighted, worst
from merges import assert_same, tensors_of, write_file
from tiny import as_bytes, cli

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

LAST = "last"  # what only the last checkpoint has


def state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """As trainers save it: a model's weights, buffers and counters, and the trainer's own state."""
    torch.manual_seed(seed)
    return {
        "model": {
            "embed.weight": torch.randn(20, 6).to(dtype),
            "large": torch.randn(300_000).to(dtype),
            "norm.weight": torch.randn(6).to(dtype),
            "scale": torch.randn(()).to(dtype),
            "rope.inv_freq": torch.randn(4),
            "ids": torch.randint(0, 99, (5,)),
            "none": torch.zeros(0, 3),
        },
        "optimizer": {
            "state": {"embed.weight": {"exp_avg": torch.randn(20, 6), "step": torch.tensor(seed)}},
            "param_groups": [{"lr": 0.1 * seed, "betas": (0.9, 0.95)}],
        },
        "lr_scheduler": {"last_epoch": seed},
        "train_state": {"step": torch.tensor(seed), "losses": [1.5, float(seed)]},
    }


def save(path: Path, held: dict[str, Any]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(held, checkpoint_id=path, no_dist=True)
    return path


def load(path: Path, like: dict[str, Any]) -> dict[str, Any]:
    """What torch reads, into places that hold something else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(like, checkpoint_id=path, no_dist=True)
    return like


def values(entry: Entry) -> bytes:
    """The bytes of a tensor, read where the entry says they are."""
    size = entry.bytes // max(entry.elements, 1)
    found = bytearray(entry.bytes)
    for file, offset, runs in entry.parts(0, entry.elements):
        content = file.read_bytes()
        for low, high in runs:
            length = (high - low) * size
            found[low * size : high * size] = content[offset : offset + length]
            offset += length
    return bytes(found)


@pytest.fixture
def saved(tmp_path: Path) -> list[Path]:
    return [save(tmp_path / f"step-{seed}", state(seed)) for seed in (1, 2, 3)]


# --- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TORCH.values())
def test_the_models_tensors(dtype: torch.dtype, tmp_path: Path) -> None:
    path = save(tmp_path / "c", state(1, dtype))
    found = foreign.read(path)
    expected = {f"model.{name}": tensor for name, tensor in state(1, dtype)["model"].items()}
    assert found.entries.keys() == expected.keys()
    for name, tensor in expected.items():
        entry = found.entries[name]
        assert (entry.shape, values(entry)) == (tuple(tensor.shape), as_bytes(tensor)[2]), name


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64", "int8", "int16", "bool"])
def test_types_that_are_copied(kind: str, tmp_path: Path) -> None:
    tensor = torch.tensor([0, 1, 1], dtype=getattr(torch, kind))
    found = foreign.read(save(tmp_path / "c", {"x": tensor}))
    assert values(found.entries["x"]) == as_bytes(tensor)[2]


def test_what_is_not_the_models(tmp_path: Path) -> None:
    names = ["optim.a", "app.optim.state.a", "model.a", "a", "lr_schedulers.0.x", "dataloader.x",
             "optimizers.x", "optimus.weight", "model.scheduler_head"]  # fmt: skip
    path = save(tmp_path / "c", {name: torch.zeros(2) for name in names})
    assert set(foreign.read(path).entries) == {"model.a", "a", "optimus.weight",
                                               "model.scheduler_head"}  # fmt: skip
    alone = save(tmp_path / "d", {"optimizer": {"a": torch.zeros(2)}, "step": 5})
    with pytest.raises(UserError, match="holds no tensor of a model"):
        foreign.read(alone)


TWO_RANKS = """
import os, sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
for seed in (1, 2):
    torch.manual_seed(seed)
    held = {
        "rows": distribute_tensor(torch.randn(7, 4), mesh, [Shard(0)]),
        "columns": distribute_tensor(torch.randn(6, 5, 2), mesh, [Shard(1)]),
        "same": distribute_tensor(torch.randn(3), mesh, [Replicate()]),
        "plain": torch.full((2,), float(seed)),
        "optimizer": {"m": distribute_tensor(torch.randn(7, 4), mesh, [Shard(0)])},
    }
    dcp.save(held, checkpoint_id=f"{folder}/step-{seed}")
dist.barrier()
os._exit(0)  # gloo's threads may abort at an ordinary end
"""


def whole(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    shapes = {"rows": (7, 4), "columns": (6, 5, 2), "same": (3,)}
    made = {name: torch.randn(shape) for name, shape in shapes.items()}
    return made | {"plain": torch.full((2,), float(seed))}


def test_two_ranks(tmp_path: Path) -> None:
    """Rows, columns and copies as two real processes leave them; patched, torch loads the whole."""
    code = [sys.executable, "-c", TWO_RANKS, str(tmp_path)]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([*code, str(rank)], env=quiet) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    paths = [tmp_path / "step-1", tmp_path / "step-2"]
    assert len(list(paths[0].glob("*.distcp"))) == 2
    found = foreign.read(paths[0]).entries
    assert {name: values(entry) for name, entry in found.items()} == {
        name: as_bytes(tensor)[2] for name, tensor in whole(1).items()
    }
    assert (len(found["rows"].boxes), len(found["columns"].boxes)) == (2, 2)
    said = cli("merge", *paths, "--foreign", "--weights", "0.25,0.75", "--out", tmp_path / "m")
    assert said.code == 0, said.err
    like = {name: torch.zeros_like(tensor) for name, tensor in whole(1).items()}
    read = load(tmp_path / "m", {**like, "optimizer": {"m": torch.zeros(7, 4)}})
    for name in like:
        exact = weighted([0.25, 0.75], [whole(1)[name], whole(2)[name]])
        assert worst(read[name], exact, "F32") <= 1.0
    last = load(paths[1], {"optimizer": {"m": torch.ones(7, 4)}})
    assert torch.equal(read["optimizer"]["m"], last["optimizer"]["m"])


# --- merging ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", TORCH)
def test_a_merge_in_its_own_layout(code: str, tmp_path: Path) -> None:
    """torch loads it: the model is the mean, everything else the last one's."""
    dtype = TORCH[code]
    paths = [save(tmp_path / f"{seed}", state(seed, dtype)) for seed in (1, 2, 3)]
    before = {p.name: p.read_bytes() for p in paths[-1].iterdir()}
    weights = [0.5, 0.3, 0.2]
    said = cli("merge", *paths, "--foreign", "--weights", "0.5,0.3,0.2", "--out", tmp_path / "m")
    assert said.code == 0, said.err
    assert {p.name for p in (tmp_path / "m").iterdir()} == {*before, "merge.json"}
    assert {p.name: p.read_bytes() for p in paths[-1].iterdir()} == before
    found, last = load(tmp_path / "m", state(9, dtype)), state(3, dtype)
    for name in ("embed.weight", "norm.weight", "scale", "large"):
        of = slice(None) if name != "large" else slice(None, None, 61)  # fractions are slow
        inputs = [state(seed, dtype)["model"][name].flatten()[of] for seed in (1, 2, 3)]
        merged = found["model"][name].flatten()[of]
        assert worst(merged, weighted(weights, inputs), code) <= 1.0
    for name in ("rope.inv_freq", "ids", "none"):
        assert torch.equal(found["model"][name], last["model"][name])
    assert torch.equal(found["optimizer"]["state"]["embed.weight"]["exp_avg"],
                       last["optimizer"]["state"]["embed.weight"]["exp_avg"])  # fmt: skip
    assert found["optimizer"]["param_groups"] == last["optimizer"]["param_groups"]
    assert found["lr_scheduler"] == last["lr_scheduler"]
    assert found["train_state"]["losses"] == last["train_state"]["losses"]


def test_the_archives_are_whole(saved: list[Path], tmp_path: Path) -> None:
    """Every zip has the checksums of what is in it, and torch.load opens each."""
    assert cli("merge", *saved, "--foreign", "--out", tmp_path / "m").code == 0
    metadata: Metadata = pickle.loads((tmp_path / "m" / ".metadata").read_bytes())
    checked = 0
    for info in metadata.storage_data.values():
        content = (tmp_path / "m" / info.relative_path).read_bytes()
        piece = content[info.offset : info.offset + info.length]
        with zipfile.ZipFile(io.BytesIO(piece)) as archive:
            assert archive.testzip() is None
            for member in archive.infolist():  # the descriptor behind the bytes, too
                name, extra = (int.from_bytes(piece[member.header_offset + 26 + i :][:2], "little")
                               for i in (0, 2))  # fmt: skip
                end = member.header_offset + 30 + name + extra + member.file_size
                if member.flag_bits & 8:
                    assert piece[end : end + 8] == b"PK\x07\x08" + member.CRC.to_bytes(4, "little")
        torch.load(io.BytesIO(piece), weights_only=False)
        checked += 1
    assert checked == len(metadata.storage_data) > 8


def test_a_merge_of_one_changes_no_byte(saved: list[Path], tmp_path: Path) -> None:
    assert cli("merge", saved[0], "--foreign", "--out", tmp_path / "m").code == 0
    for file in saved[0].iterdir():
        assert (tmp_path / "m" / file.name).read_bytes() == file.read_bytes()


def test_into_one_file(saved: list[Path], tmp_path: Path) -> None:
    """A safetensors file takes the model alone, in any type, and mixes with what has its names."""
    out = tmp_path / "m.safetensors"
    said = cli("merge", *saved, "--foreign", "--out", out, "--dtype", "bfloat16")
    assert said.code == 0, said.err
    found = tensors_of(out)
    assert found.keys() == {f"model.{name}" for name in state(1)["model"]}
    assert found["model.embed.weight"].dtype == torch.bfloat16
    assert torch.equal(found["model.ids"], state(3)["model"]["ids"])
    plain = {f"model.{k}": v for k, v in state(7)["model"].items()}
    single = write_file(tmp_path / "single.safetensors", plain)
    mixed = tmp_path / "mixed.safetensors"
    assert cli("merge", saved[0], single, "--foreign", "--out", mixed).code == 0
    a, b = state(1)["model"]["norm.weight"], plain["model.norm.weight"]
    assert torch.equal(tensors_of(mixed)["model.norm.weight"], (a.double() / 2 + b / 2).float())
    # and the other way round: the layout is the last one's
    assert cli("merge", single, saved[0], "--foreign", "--out", tmp_path / "m").code == 0
    read = load(tmp_path / "m", state(5))["model"]["norm.weight"]
    assert_same({"": read}, {"": tensors_of(mixed)["model.norm.weight"]})


def test_files_that_nobody_may_write_to(saved: list[Path], tmp_path: Path) -> None:
    for file in saved[-1].iterdir():
        file.chmod(0o444)
    (saved[-1] / "notes").mkdir()
    (saved[-1] / "notes" / "mine.txt").write_text("kept")
    assert cli("merge", *saved, "--foreign", "--out", tmp_path / "m").code == 0
    assert all(p.stat().st_mode & 0o200 for p in (tmp_path / "m").iterdir())
    assert (tmp_path / "m" / "notes" / "mine.txt").read_text() == "kept"


# --- refusals --------------------------------------------------------------------------------


def refused(*arguments: str | Path, out: Path) -> str:
    before = set(out.parent.iterdir())
    said = cli("merge", *arguments, "--out", out)
    assert (said.code, said.err.count("\n")) == (2, 1), said
    assert set(out.parent.iterdir()) == before
    return said.err


def test_only_where_it_is_allowed(saved: list[Path], tmp_path: Path) -> None:
    said = refused(*saved, out=tmp_path / "m")
    assert f"{saved[0]} is a checkpoint of torch.distributed, and its .metadata a pickle" in said
    assert "--foreign reads it" in said


def test_outputs(saved: list[Path], tmp_path: Path) -> None:
    assert "is an input" in refused(*saved, "--foreign", out=saved[1])
    said = refused(*saved, "--foreign", "--dtype", "bfloat16", out=tmp_path / "m")
    assert "copied and patched, so --dtype is not valid; a FILE.safetensors" in said


def test_nan_and_inputs_not_alike(saved: list[Path], tmp_path: Path) -> None:
    held = state(2)
    held["model"]["norm.weight"][2] = torch.nan
    save(tmp_path / "nan", held)
    said = refused(saved[0], tmp_path / "nan", "--foreign", out=tmp_path / "m")
    assert "nan/__0_0.distcp: tensor 'model.norm.weight' holds NaN" in said
    del held["model"]["norm.weight"]
    save(tmp_path / "other", held)
    said = refused(saved[0], tmp_path / "other", "--foreign", out=tmp_path / "m")
    assert "not alike: model.norm.weight is only in" in said


def edited(path: Path, change: Any) -> Path:
    """Its metadata, changed by a function."""
    metadata: Metadata = pickle.loads((path / ".metadata").read_bytes())
    change(metadata)
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    return path


def test_metadata_that_is_wrong(saved: list[Path]) -> None:
    def first(metadata: Metadata) -> Any:
        return next(s for i, s in metadata.storage_data.items() if i.fqn == "model.embed.weight")

    def of(change: Any) -> Path:
        shutil.copytree(saved[0], saved[0].parent / "c", dirs_exist_ok=True)
        return edited(saved[0].parent / "c", change)

    path = of(lambda m: setattr(first(m), "relative_path", "../step-2/__0_0.distcp"))
    with pytest.raises(UserError, match=r"names '\.\./step-2/__0_0\.distcp', outside the check"):
        foreign.read(path)
    path = of(lambda m: setattr(first(m), "relative_path", "gone.distcp"))
    with pytest.raises(UserError, match=r"gone\.distcp: No such file"):
        foreign.read(path)
    path = of(lambda m: setattr(first(m), "transform_descriptors", ["zstd"]))
    with pytest.raises(UserError, match="is compressed"):
        foreign.read(path)
    path = of(lambda m: setattr(first(m), "length", first(m).length - 700))
    with pytest.raises(UserError, match="is truncated or damaged at byte"):
        foreign.read(path)
    path = of(lambda m: setattr(first(m), "offset", "no number"))
    with pytest.raises(UserError, match=r"\.metadata is damaged"):
        foreign.read(path)
    path = of(lambda m: m.state_dict_metadata["model.embed.weight"].chunks.clear())
    with pytest.raises(
        UserError, match=r"shards of 'model\.embed\.weight' do not fill its \[20, 6"
    ):
        foreign.read(path)
    path = of(lambda m: setattr(m.state_dict_metadata["model.embed.weight"].properties, "dtype",
                                torch.int32))  # fmt: skip
    with pytest.raises(UserError, match=r"is not I32 \[20, 6\]"):
        foreign.read(path)
    path = of(lambda m: setattr(m.state_dict_metadata["model.embed.weight"].properties, "dtype",
                                torch.float8_e4m3fn))  # fmt: skip
    with pytest.raises(UserError, match="a tensor of type F8_E4M3; F64, F32"):
        foreign.read(path)
    path = of(lambda m: m.storage_data.clear())
    with pytest.raises(UserError, match=r"\.metadata is damaged"):
        foreign.read(path)


def test_pieces_that_are_not_plain(tmp_path: Path) -> None:
    """A piece whose bytes are not the tensor's in order is refused, not misread."""
    path = save(tmp_path / "c", {"w": torch.randn(4, 6)})
    wrong = [torch.randn(6, 4).T, torch.randn(5, 6)[1:], torch.randn(5, 6)[:4], torch.randn(2, 12),
             torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 7)[:, :6]]  # fmt: skip
    for tensor in wrong:
        stream = io.BytesIO()
        torch.save(tensor, stream)
        (path / "__0_0.distcp").write_bytes(stream.getvalue())
        size = len(stream.getvalue())
        edited(path, lambda m, n=size: [setattr(s, "length", n) for s in m.storage_data.values()])
        with pytest.raises(UserError, match=r"the piece at byte 0 is not F32 \[4, 6\]"):
            foreign.read(path)


def test_the_stride_of_a_dimension_of_one(tmp_path: Path) -> None:
    """It says nothing about where elements are, and may be anything."""
    odd = torch.arange(6.0).as_strided((1, 6, 1), (99, 1, 5))
    entry = foreign.read(save(tmp_path / "c", {"w": odd})).entries["w"]
    assert (entry.shape, values(entry)) == ((1, 6, 1), as_bytes(odd)[2])


def test_every_truncation_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / "c", {"a": torch.randn(4), "b": torch.randn(3)})
    content = (path / "__0_0.distcp").read_bytes()
    for length in range(0, len(content), 37):
        (path / "__0_0.distcp").write_bytes(content[:length])
        with pytest.raises(UserError, match=r"__0_0\.distcp is truncated or damaged"):
            foreign.read(path)
    metadata = (path / ".metadata").read_bytes()
    for length in range(0, len(metadata), 29):
        (path / ".metadata").write_bytes(metadata[:length])
        with pytest.raises(UserError, match=r"\.metadata is damaged"):
            foreign.read(path)


def test_checksums_that_torch_left_out(tmp_path: Path) -> None:
    """torch.serialization.set_crc32_options(False): the archives are read and sealed anyway."""
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / "c", {"w": torch.randn(4, 6)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert foreign.read(path).entries["w"].shape == (4, 6)
    said = cli("merge", path, path, "--foreign", "--weights", "1,1", "--any-sum",
               "--out", tmp_path / "m")  # fmt: skip
    assert said.code == 0, said.err
    once = load(path, {"w": torch.zeros(4, 6)})["w"]
    assert torch.equal(load(tmp_path / "m", {"w": torch.zeros(4, 6)})["w"], 2 * once)
