"""`anytrain merge`: inputs of every kind, rules, and outputs that load."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from anytrain.averaging import schedule_free
from anytrain.cli.main import main
from anytrain.files import sha256
from anytrain.headers import INDEX, SINGLE, read_header
from anytrain.merging import DTYPES, opened
from anytrain.models.shape import DecoderShape
from anytrain.references import open_weights
from anytrain.rules import weights
from anytrain.training.checkpoint import read_tensors
from cases import RULES
from exact import weighted, worst
from merges import (
    STEPS,
    assert_same,
    kept_run,
    llama,
    merged_json,
    tensors_of,
    weighted_sum,
    write_file,
)
from tiny import at, cli


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return kept_run(tmp_path_factory.mktemp("merge"), corpus)


@pytest.fixture
def llamas(tmp_path: Path) -> list[Path]:
    return [llama(tmp_path / f"llama-{seed}", seed) for seed in range(3)]


def raw(run: Path, step: int) -> dict[str, torch.Tensor]:
    with open_weights(f"{run}@{step}:raw") as found:
        return {name: tensor.clone() for name, tensor in found.tensors.items()}


# --- inputs ----------------------------------------------------------------------------------


def test_one_checkpoint_is_its_release(run: Path, tmp_path: Path) -> None:
    """Tensors and every file beside them but the card."""
    assert cli("release", f"{run}@5:raw", "--out", tmp_path / "released").code == 0
    merged_json(f"{run}@5", "--out", tmp_path / "merged")
    assert_same(tensors_of(tmp_path / "merged"), tensors_of(tmp_path / "released"))
    released = {p.name: p.read_bytes() for p in (tmp_path / "released").iterdir()}
    merged = {p.name: p.read_bytes() for p in (tmp_path / "merged").iterdir()}
    assert merged.keys() - released.keys() == {"merge.json"}
    assert {name for name in released if merged[name] != released[name]} <= {SINGLE, "README.md"}


@pytest.mark.parametrize("name", ["raw", *sorted(RULES)[:2]])
def test_any_weights_of_a_checkpoint(name: str, run: Path, tmp_path: Path) -> None:
    found = merged_json(f"{run}@3:{name}", f"{run}@7:{name}", "--out", tmp_path / "m")
    assert found["inputs"] == [
        {"input": f"{run}@3:{name}", "step": 3.0, "weight": 0.5},
        {"input": f"{run}@7:{name}", "step": 7.0, "weight": 0.5},
    ]
    expected = []
    for step in (3, 7):
        with open_weights(f"{run}@{step}:{name}") as opened:
            expected.append(dict(opened.tensors))
    assert_same(tensors_of(tmp_path / "m"), weighted_sum(expected, [0.5, 0.5]))


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("@3..6", [3, 4, 5, 6]),
        ("@192..384-tokens", [3, 4, 5, 6]),
        ("@3-steps..4-steps", [3, 4]),
        ("@2.5..4.5-steps", [3, 4]),
        ("@0..1M-tokens", list(range(9))),
        ("@3..4:raw", [3, 4]),
    ],
)
def test_a_span_of_moments(text: str, steps: list[int], run: Path, tmp_path: Path) -> None:
    found = merged_json(f"{run}{text}", "--out", tmp_path / "m")
    assert [row["step"] for row in found["inputs"]] == steps
    count = len(steps)
    expected = weighted_sum([raw(run, step) for step in steps], [1 / count] * count)
    assert_same(tensors_of(tmp_path / "m"), expected)


def test_a_span_of_averages(run: Path, tmp_path: Path) -> None:
    name = sorted(RULES)[0]
    found = merged_json(f"{run}@3..5:{name}", "--dry-run")
    assert [row["input"] for row in found["inputs"]] == [f"{run}@{s}:{name}" for s in (3, 4, 5)]


def test_checkpoints_in_place(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = at(run, 4).path
    name = sorted(RULES)[0]
    for text, weights_name in (
        (folder, "raw"),
        (f"{folder}:{name}", name),
        (f"{folder}/", "raw"),
    ):
        (row,) = merged_json(text, "--dry-run")["inputs"]
        assert row == {"input": f"{run}@4:{weights_name}", "step": 4.0, "weight": 1.0}
    monkeypatch.chdir(folder)
    (row,) = merged_json(".", "--dry-run")["inputs"]
    assert row["step"] == 4.0


def test_what_is_read_is_not_deleted(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    with opened([f"{copy}@3..4", f"{copy}@6"]):
        assert [at(copy, step).delete() for step in (3, 4, 5, 6)] == [False, False, True, False]
    assert at(copy, 3).delete()


def test_a_run_alone_is_its_last_checkpoint(run: Path) -> None:
    (row,) = merged_json(run, "--dry-run")["inputs"]
    assert (row["input"], row["step"]) == (f"{run}@{STEPS}:raw", float(STEPS))
    (best,) = merged_json(f"{run}:best", "--dry-run")["inputs"]
    with open_weights(str(run)) as chosen:
        assert best["input"] == chosen.source


def test_shards_of_several_ranks(run: Path, tmp_path: Path) -> None:
    """As four ranks leave them: rows, and in another tensor columns, in a file each."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    folder = at(copy, 6).path
    manifest = json.loads((folder / "manifest.json").read_text())
    path = next(p for p in folder.glob("*.safetensors") if "raw/lm_head.weight" in tensors_of(p))
    tensors = tensors_of(path)
    head, embedding = (tensors.pop(f"raw/{n}") for n in ("lm_head.weight", "model.embed_tokens.weight"))  # fmt: skip # noqa: E501
    ranks = [
        {**tensors, "raw/lm_head.weight": (head[:10], [0, 0])},
        {"raw/lm_head.weight": (head[10:280], [10, 0]),
         "raw/model.embed_tokens.weight": (embedding[:, 5:], [0, 5])},
        {"raw/model.embed_tokens.weight": (embedding[:, :5], [0, 0])},
    ]  # fmt: skip
    for number, held in enumerate(ranks, 1):
        pairs = {k: v if isinstance(v, tuple) else (v, [0] * v.ndim) for k, v in held.items()}
        name = path.name if number == 1 else f"shard-{number}.safetensors"
        places = {k: {"saved_offsets": place} for k, (_, place) in pairs.items()}
        write_file(folder / name, {k: v.contiguous() for k, (v, _) in pairs.items()},
                   DCP_SHARDING_INFO=json.dumps(places))  # fmt: skip
        manifest["files"][name] = {"bytes": (folder / name).stat().st_size,
                                   "sha256": sha256(folder / name)}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    merged_json(f"{copy}@5", f"{copy}@6", "--out", tmp_path / "m")
    assert_same(tensors_of(tmp_path / "m"), weighted_sum([raw(run, 5), raw(run, 6)], [0.5, 0.5]))


def test_schedule_free_weights(tmp_path: Path, corpus: Path) -> None:
    run = kept_run(tmp_path, corpus, optimizer={"kind": "schedule_free", "beta2": 0.99})
    merged_json(f"{run}@4..6:schedule_free", "--out", tmp_path / "m")
    expected = []
    for step in (4, 5, 6):
        saved = read_tensors(at(run, step).path)
        names = [k.removeprefix("raw/") for k in saved if k.startswith("raw/")]
        expected.append(
            {n: schedule_free(saved[f"raw/{n}"].double(), saved[f"optimizer/z/{n}"].double(), 0.9)
             for n in names}
        )  # fmt: skip
    found = tensors_of(tmp_path / "m")
    for name, tensor in weighted_sum(expected, [1 / 3] * 3).items():
        torch.testing.assert_close(found[name].double(), tensor, rtol=2**-23, atol=1e-12)


def test_directories_and_files(llamas: list[Path], tmp_path: Path) -> None:
    """Whole and sharded ones, and single files, all in one merge."""
    sharded = llama(tmp_path / "sharded", 3, max_shard_bytes=20_000)
    assert len(list(sharded.glob("*.safetensors"))) > 2
    single = tmp_path / "epoch3.safetensors"
    shutil.copyfile(llamas[1] / SINGLE, single)
    inputs = [llamas[0], single, sharded, llamas[2]]
    given = [0.4, 0.3, 0.2, 0.1]
    expected = weighted_sum([tensors_of(path) for path in inputs], given)
    text = ",".join(map(str, given))
    found = merged_json(*inputs, "--weights", text, "--out", tmp_path / "m")
    assert found["read"] == 4 * sum(t.nbytes for t in expected.values())
    assert [row["weight"] for row in found["inputs"]] == given
    assert_same(tensors_of(tmp_path / "m"), expected)


def test_a_run_with_a_directory(run: Path, tmp_path: Path) -> None:
    """A rule that goes by order alone needs no steps; one that goes by steps asks for them."""
    released = tmp_path / "released"
    assert cli("release", f"{run}@2:raw", "--out", released).code == 0
    expected = weighted_sum([raw(run, 2), raw(run, 6)], [0.5, 0.5])
    merged_json(released, f"{run}@6", "--out", tmp_path / "m")
    assert_same(tensors_of(tmp_path / "m"), expected)
    assert (tmp_path / "m" / "tokenizer.json").is_file()
    said = cli("merge", released, f"{run}@6", "--rule", "wsm", "--dry-run")
    assert (said.code, "--at says it for all" in said.err) == (2, True)
    rows = merged_json(released, f"{run}@6", "--rule", "wsm", "--at", "2,6", "--dry-run")["inputs"]
    assert [row["weight"] for row in rows] == [0.5, 0.5]
    # the last input's layout
    assert cli("merge", f"{run}@6", released, "--out", tmp_path / "n").code == 0
    assert (tmp_path / "n" / "config.json").read_bytes() == (released / "config.json").read_bytes()


# --- rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_kernel_law(name: str, run: Path, tmp_path: Path) -> None:
    """Merging every step's checkpoint = weights(rule, T) by hand = the online average."""
    spec = "uniform:start=0-steps" if name == "uniform" else None
    from anytrain import rules

    spec = spec or rules.spec(RULES[name])
    found = merged_json(f"{run}@0..8", "--rule", spec, "--out", tmp_path / "m")
    kernel = weights(RULES[name], STEPS)
    np.testing.assert_allclose([r["weight"] for r in found["inputs"]], kernel, rtol=0, atol=1e-14)
    iterates = [raw(run, step) for step in range(STEPS + 1)]
    by_hand = weighted_sum(iterates, kernel.tolist())
    with open_weights(f"{run}@{STEPS}:{name}") as online:
        running = dict(online.tensors)
    for key, tensor in tensors_of(tmp_path / "m").items():
        torch.testing.assert_close(tensor, by_hand[key], rtol=2**-23, atol=0)
        largest = max(float(x[key].abs().max()) for x in iterates)
        assert (tensor - running[key]).abs().max() <= 2 * STEPS * 2**-24 * largest


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("uniform", [0.2] * 5),
        ("last:k=2", [0, 0, 0, 0.5, 0.5]),
        ("spaced:n=3", [1 / 3, 0, 1 / 3, 0, 1 / 3]),
        ("wsm", [1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8]),
        ("uniform:start=5-steps", [0, 0, 1 / 3, 1 / 3, 1 / 3]),
        ("uniform:start=320-tokens", [0, 0, 1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_rules(rule: str, expected: list[float], run: Path, tmp_path: Path) -> None:
    found = merged_json(f"{run}@4..8", "--rule", rule, "--out", tmp_path / "m")
    np.testing.assert_allclose([row["weight"] for row in found["inputs"]], expected, atol=1e-15)
    assert found["rule"] == rule
    own = [row["weight"] for row in found["inputs"]]
    assert_same(tensors_of(tmp_path / "m"), weighted_sum([raw(run, s) for s in range(4, 9)], own))


def test_inputs_that_say_no_steps_are_1_2_3(llamas: list[Path]) -> None:
    rows = merged_json(*llamas, "--rule", "wsm", "--dry-run")["inputs"]
    assert [(row["step"], row["weight"]) for row in rows] == [(None, 0.25), (None, 0.5), (None, 0.25)]  # fmt: skip # noqa: E501
    rows = merged_json(*llamas, "--rule", "polynomial:p=1", "--at", "1,2,4", "--dry-run")["inputs"]
    np.testing.assert_allclose([row["weight"] for row in rows], [0.1, 0.2, 0.7])


def test_weights_by_hand(llamas: list[Path], tmp_path: Path) -> None:
    """A task vector: base + 0.5·(a − b)."""
    merged_json(*llamas, "--weights", "0.5,-0.5,1", "--out", tmp_path / "m")
    expected = weighted_sum([tensors_of(path) for path in llamas], [0.5, -0.5, 1.0])
    found = tensors_of(tmp_path / "m")
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=2**-23, atol=1e-12)
    merged_json(*llamas[:2], "--weights=-1,1", "--any-sum", "--out", tmp_path / "n")
    expected = weighted_sum([tensors_of(path) for path in llamas[:2]], [-1.0, 1.0])
    assert_same(tensors_of(tmp_path / "n"), expected)


def test_a_rule_of_ones_own(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "newest.py").write_text(
        "from dataclasses import dataclass\n\n"
        "@dataclass(frozen=True)\nclass Newest:\n    after: float\n"
        "    def __call__(self, t, dt=1.0):\n        return 1.0 if t <= self.after else 0.0\n"
    )
    monkeypatch.chdir(tmp_path)
    rows = merged_json(f"{run}@2..6", "--import", "newest", "--rule", "newest.Newest:after=4",
                       "--dry-run")["inputs"]  # fmt: skip
    assert [row["weight"] for row in rows] == [0, 0, 1, 0, 0]


# --- output ----------------------------------------------------------------------------------


def test_it_says_what_it_does(run: Path, tmp_path: Path) -> None:
    said = cli("merge", f"{run}@7..8", "--out", tmp_path / "m")
    assert said.out.splitlines() == [
        f"{run}@7:raw   0.500000",
        f"{run}@8:raw   0.500000",
        f"wrote {tmp_path / 'm'}",
    ]
    record = json.loads((tmp_path / "m" / "merge.json").read_text())
    assert record["rule"] == "uniform"
    assert [row["weight"] for row in record["inputs"]] == [0.5, 0.5]
    assert f"| `{run}@7:raw` | 7 | 0.5 |" in (tmp_path / "m" / "README.md").read_text()
    assert (tmp_path / "m" / SINGLE).stat().st_mode & 0o777 == 0o644
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_progress_in_bytes(
    llamas: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where somebody looks on, and nowhere else."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    size = 2 * sum(tensor.nbytes for tensor in tensors_of(llamas[0]).values())
    for looked_at in (True, False):
        err = Terminal() if looked_at else io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            main(["merge", *map(str, llamas[:2]), "--out", str(tmp_path / f"{looked_at}")])
        last = err.getvalue().rpartition("\r")[2]
        assert last.startswith("100%") is looked_at
        assert (f"{size / 1000:.0f}k/{size / 1000:.0f}k" in last) is looked_at
        assert ("B/s" in last) is looked_at


def test_a_dry_run_writes_nothing(run: Path, tmp_path: Path) -> None:
    said = cli("merge", f"{run}@7..8", "--dry-run", "--out", tmp_path / "m")
    assert (said.code, len(said.out.splitlines())) == (0, 2)
    assert not (tmp_path / "m").exists()
    assert cli("merge", f"{run}@7..8", "--dry-run").code == 0


def test_one_file_out(llamas: list[Path], tmp_path: Path) -> None:
    """Of sharded inputs too: one file, with the metadata that theirs have."""
    sharded = llama(tmp_path / "sharded", 3, max_shard_bytes=20_000)
    out = tmp_path / "new" / "soup.safetensors"
    merged_json(llamas[0], sharded, "--out", out)
    expected = weighted_sum([tensors_of(llamas[0]), tensors_of(sharded)], [0.5, 0.5])
    assert_same(tensors_of(out), expected)
    assert read_header(out).metadata == {"format": "pt"}
    assert out.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in out.parent.iterdir()] == ["soup.safetensors"]


def test_files_into_a_directory(llamas: list[Path], tmp_path: Path) -> None:
    files = [shutil.copyfile(p / SINGLE, tmp_path / f"{i}.safetensors") for i, p in enumerate(llamas)]  # fmt: skip # noqa: E501
    merged_json(*files, "--out", tmp_path / "m")
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["merge.json", SINGLE]


def test_the_layout_is_the_last_inputs(llamas: list[Path], tmp_path: Path) -> None:
    sharded = llama(tmp_path / "sharded", 3, max_shard_bytes=20_000)
    index = json.loads((sharded / INDEX).read_text())
    index["metadata"]["total_parameters"] = 42
    (sharded / INDEX).write_text(json.dumps(index))
    (sharded / "tokenizer.model").write_bytes(b"pieces")
    (sharded / "LICENSE").write_text("mine")
    (sharded / "modeling_x.py").write_text("code = 1")
    for name in ("optimizer.pt", "pytorch_model.bin", "pytorch_model.bin.index.json", "x.gguf"):
        (sharded / name).write_bytes(b"left behind")
    for number, file in enumerate(sorted(sharded.glob("*.safetensors"))):
        write_file(file, tensors_of(file), format="pt", number=str(number))
    merged_json(llamas[0], sharded, "--out", tmp_path / "m")
    left = {"optimizer.pt", "pytorch_model.bin", "pytorch_model.bin.index.json", "x.gguf"}
    expected = {p.name for p in sharded.iterdir()} - left | {"merge.json"}
    assert {p.name for p in (tmp_path / "m").iterdir()} == expected
    for name in ("config.json", "generation_config.json", "tokenizer.model", "LICENSE",
                 "modeling_x.py"):  # fmt: skip
        assert (tmp_path / "m" / name).read_bytes() == (sharded / name).read_bytes(), name
    assert "# A merge" in (tmp_path / "m" / "README.md").read_text()
    made = json.loads((tmp_path / "m" / INDEX).read_text())
    assert made == index
    for file in sharded.glob("*.safetensors"):
        ours, theirs = read_header(tmp_path / "m" / file.name), read_header(file)
        assert ours.metadata == theirs.metadata
        assert list(ours.entries) == list(theirs.entries)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_the_type_is_as_asked(dtype: str, llamas: list[Path], tmp_path: Path) -> None:
    for path in llamas:
        held = tensors_of(path)
        held |= {"a.inv_freq": torch.rand(3), "a.ids": torch.arange(4)}
        write_file(path / SINGLE, held, format="pt")
    merged_json(*llamas[:2], "--out", tmp_path / "m", "--dtype", dtype)
    found = tensors_of(tmp_path / "m")
    for name in ("a.inv_freq", "a.ids"):  # copied, in the type they have
        assert_same({name: found.pop(name)}, {name: tensors_of(llamas[1])[name]})
    inputs = [tensors_of(path) for path in llamas[:2]]
    for name, tensor in found.items():
        assert tensor.dtype == getattr(torch, dtype)
        exact = weighted([0.5, 0.5], [tensors[name] for tensors in inputs])
        assert worst(tensor, exact, DTYPES[dtype]) <= 0.5  # where torch rounds twice, we do not
    before = json.loads((llamas[1] / "config.json").read_text())
    made = json.loads((tmp_path / "m" / "config.json").read_text())
    assert made == before | {"dtype": dtype}


def test_the_type_stays(run: Path, tmp_path: Path) -> None:
    half = llama(tmp_path / "half", 0, dtype=torch.bfloat16)
    merged_json(half, half, "--out", tmp_path / "m")
    assert_same(tensors_of(tmp_path / "m"), tensors_of(half))
    merged_json(f"{run}@8", "--out", tmp_path / "n", "--dtype", "bfloat16")
    assert {t.dtype for t in tensors_of(tmp_path / "n").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "n" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_large_run_is_split(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anytrain.merging import output

    monkeypatch.setattr(output, "SHARD", 20_000)
    merged_json(f"{run}@8", "--out", tmp_path / "m")
    assert_same(tensors_of(tmp_path / "m"), raw(run, 8))
    index = json.loads((tmp_path / "m" / INDEX).read_text())
    files = sorted(p.name for p in (tmp_path / "m").glob("*.safetensors"))
    assert len(files) > 1
    assert sorted(set(index["weight_map"].values())) == files
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in raw(run, 8).values())
    with open_weights(str(tmp_path / "m")) as opened:
        assert_same(dict(opened.tensors), raw(run, 8))


# --- transformers loads it -------------------------------------------------------------------


def test_transformers_computes_with_the_mean(tmp_path: Path) -> None:
    """Tied and sharded, as transformers itself saves them: tied weights stay tied."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(transformers.LlamaForCausalLM(config))
        models[-1].save_pretrained(tmp_path / f"{seed}", max_shard_size="5KB")
    merged_json(tmp_path / "0", tmp_path / "1", "--out", tmp_path / "m", "--weights", "0.25,0.75")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 1
    with torch.no_grad():
        for ours, a, b in zip(*(m.parameters() for m in (models[0], *models)), strict=True):
            ours.copy_((0.25 * a.double() + 0.75 * b.double()).float())
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
        tokens = torch.arange(12)[None]
        assert torch.equal(loaded(tokens).logits, models[0](tokens).logits)
    assert "lm_head.weight" not in tensors_of(tmp_path / "m")


def test_tied_weights_that_are_stored_twice(tmp_path: Path) -> None:
    paths = []
    for seed in range(3):
        path = llama(tmp_path / f"{seed}", seed)
        held = tensors_of(path)
        held["lm_head.weight"] = held["model.embed_tokens.weight"].clone()
        write_file(path / SINGLE, held)
        paths.append(path)
    merged_json(*paths, "--weights", "0.5,0.3,0.2", "--out", tmp_path / "m")
    found = tensors_of(tmp_path / "m")
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])


def test_a_tied_run(tmp_path: Path, corpus: Path) -> None:
    model = {"layers": 1, "width": 16, "heads": 2, "tied": True}
    run = kept_run(tmp_path, corpus, model=model)
    merged_json(f"{run}@6..8", "--out", tmp_path / "m")
    assert "lm_head.weight" not in tensors_of(tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["tie_word_embeddings"] is True
    said = cli("generate", tmp_path / "m", "the of", "--tokens", "3", "--json")
    assert said.code == 0, said.err


def test_a_model_of_our_own_shape(tmp_path: Path, corpus: Path) -> None:
    """Not a Llama: the code that runs it goes with it."""
    model = {"layers": 1, "width": 16, "heads": 2, "norm": "layernorm", "activation": "gelu"}
    run = kept_run(tmp_path, corpus, model=model)
    merged_json(f"{run}@6..8", "--out", tmp_path / "m")
    assert (tmp_path / "m" / "modeling_anytrain.py").is_file()
    with open_weights(str(tmp_path / "m")) as opened:
        assert isinstance(opened.shape, DecoderShape)
        assert opened.shape.norm == "layernorm"
    # and a merge of merges carries it on
    merged_json(tmp_path / "m", tmp_path / "m", "--out", tmp_path / "n")
    assert (tmp_path / "n" / "modeling_anytrain.py").is_file()
    assert_same(tensors_of(tmp_path / "n"), tensors_of(tmp_path / "m"))
