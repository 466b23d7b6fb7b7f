"""`RUN@WHEN:WEIGHTS` -> tensors: which weights a name means, and what is said if none."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from anytrain.averaging import schedule_free
from anytrain.errors import UserError
from anytrain.files import sha256
from anytrain.models.decoder import Decoder
from anytrain.references import open_weights
from anytrain.rundir import RunDir
from anytrain.training.checkpoint import read_tensors
from tiny import at, cli, evaluations, steps_kept, write_recipe


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """Six steps of Schedule-Free with checkpoints at 3 and 6."""
    folder = tmp_path_factory.mktemp("weights")
    recipe = write_recipe(folder / "r.toml", corpus, checkpoint={"every": "1h", "at": [3]},
                          evaluate={"tokens": "512-tokens", "at": [3]},
                          optimizer={"kind": "schedule_free", "beta2": 0.99})  # fmt: skip
    assert cli("train", recipe, "--run", folder / "run", "--until", "6").code == 0
    assert steps_kept(folder / "run") == [3, 6]
    return folder / "run"


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "run"))


def values(name: str) -> dict[str, torch.Tensor]:
    with open_weights(name) as weights:
        return dict(weights.tensors)


@pytest.mark.parametrize("step", [3, 6])
@pytest.mark.parametrize("name", ["raw", "ema25", "uniform"])
def test_each_name_is_what_was_saved(name: str, step: int, run: Path) -> None:
    saved = read_tensors(at(run, step).path)
    prefix = "raw/" if name == "raw" else f"average/{name}/"
    found = values(f"{run}@{step}:{name}")
    assert found.keys() == {k.removeprefix(prefix) for k in saved if k.startswith(prefix)}
    assert all(torch.equal(tensor, saved[prefix + key]) for key, tensor in found.items())
    assert len(found) == 12


def test_schedule_free_is_computed_from_what_was_saved(run: Path) -> None:
    saved = read_tensors(at(run, 6).path)
    for key, tensor in values(f"{run}@6:schedule_free").items():
        expected = schedule_free(saved[f"raw/{key}"], saved[f"optimizer/z/{key}"], 0.9)
        assert torch.equal(tensor, expected)
        assert not torch.equal(tensor, saved[f"raw/{key}"])


def test_latest_and_best(run: Path) -> None:
    """Best is the lowest validation loss at or last before the checkpoint, whichever weights."""
    record = evaluations(run)[-1]
    losses = {n: record[f"val/loss/{n}"] for n in ("raw", "schedule_free", "ema25", "uniform")}
    with open_weights(str(run)) as weights:
        assert weights.source == f"{run}@6:{min(losses, key=losses.__getitem__)}"
        assert weights.origin is not None
        assert weights.origin.evaluation.step == 6
        assert weights.origin.evaluation.losses == losses
        assert weights.origin.loss == min(losses.values())
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    last["val/loss/uniform"] = 0.001
    (run / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    with open_weights(f"{run}@latest:best") as weights:
        assert weights.source == f"{run}@6:uniform"
    with open_weights(f"{run}@3") as weights:  # what came later says nothing about it
        assert weights.origin is not None
        assert weights.origin.evaluation.step == 3
        assert weights.origin.chosen != "uniform"


def test_they_fit_the_model(run: Path) -> None:
    with open_weights(f"{run}:ema25") as weights:
        model = Decoder.loaded(weights.shape, weights.tensors, torch.device("cpu"))
        assert weights.eot == 0
        assert weights.tokenizer is not None
        assert weights.tokenizer.is_file()
    assert torch.equal(model.lm_head.weight, values(f"{run}:ema25")["lm_head.weight"])


def test_an_unknown_name(run: Path) -> None:
    with pytest.raises(UserError, match=r"no weights 'ema52' \(did you mean 'ema25'\?\)"):
        values(f"{run}:ema52")
    everything = r"\(known: best, ema25, raw, schedule_free, uniform\)"
    with pytest.raises(UserError, match=f"no weights 'xyzzy' {everything}"):
        values(f"{run}:xyzzy")


def test_a_moment_without_a_checkpoint(run: Path) -> None:
    for when in ("5", "320-tokens", "1B-tokens"):
        with pytest.raises(UserError, match=r"no checkpoint there; nearest: 3 \(192-tokens\), 6"):
            values(f"{run}@{when}")
    assert values(f"{run}@130-tokens").keys() == values(f"{run}@3").keys()


def test_nothing_was_evaluated(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"none is best; name the weights: raw, schedule_free, ema"):
        values(str(run))
    assert values(f"{run}:raw")


def test_what_is_read_is_not_deleted(run: Path) -> None:
    with open_weights(f"{run}@3:raw") as weights:
        assert not at(run, 3).delete()
        assert len(dict(weights.tensors)) == 12
    assert at(run, 3).delete()


@pytest.mark.parametrize("how", ["truncated", "missing", "garbage"])
def test_a_damaged_file(how: str, run: Path) -> None:
    path = next(at(run, 6).path.glob("*00001-of*.safetensors"))
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if how == "truncated" else b"\xff" * len(content))
    with pytest.raises(UserError, match=path.name):
        values(f"{run}@6:raw")


def test_shards_of_several_ranks_are_put_together(run: Path) -> None:
    """As two ranks leave them: rows 0–9 of a tensor in one file, 10–279 in another."""
    folder = at(run, 6).path
    expected = values(f"{run}@6:raw")
    path = next(p for p in folder.glob("*.safetensors") if "raw/lm_head.weight" in load_file(p))
    tensors = load_file(path)
    whole = tensors.pop("raw/lm_head.weight")
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, part, offset in ((path.name, whole[:10], 0), ("shard-2.safetensors", whole[10:], 10)):
        held = {**(tensors if offset == 0 else {}), "raw/lm_head.weight": part.clone()}
        places = {k: {"saved_offsets": [offset if "lm_head" in k else 0] + [0] * (t.ndim - 1)}
                  for k, t in held.items()}  # fmt: skip
        save_file(held, folder / name, {"DCP_SHARDING_INFO": json.dumps(places)})
        manifest["files"][name] = {"bytes": (folder / name).stat().st_size,
                                   "sha256": sha256(folder / name)}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = values(f"{run}@6:raw")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_hugging_face_directory(run: Path, tmp_path: Path) -> None:
    """Wherever a run is accepted; it has one set of weights and no moments."""
    said = cli("release", f"{run}@6:uniform", "--out", tmp_path / "hf")
    assert said.code == 0, said.err
    with open_weights(str(tmp_path / "hf")) as weights:
        assert weights.origin is None
        assert weights.shape.vocab == 280
        released = {key: tensor.float() for key, tensor in weights.tensors.items()}
    expected = values(f"{run}@6:uniform")
    assert released.keys() == expected.keys()
    for key, tensor in released.items():
        torch.testing.assert_close(tensor, expected[key], rtol=2**-7, atol=1e-6)
    for name in (f"{tmp_path / 'hf'}:raw", f"{tmp_path / 'hf'}@5"):
        with pytest.raises(UserError, match="is one model, it has no moments and no averages"):
            values(name)


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a run: it has no run\.json"):
        values(str(tmp_path / "nowhere"))
    assert not RunDir(tmp_path / "nowhere").exists
