"""What a checkpoint, a corpus, a release holds is data: nothing in it runs or leads elsewhere."""

import ast
import contextlib
import json
import pickle
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import originals
import pytest

import anytrain
from anytrain import foreign
from anytrain.data.shards import Corpus
from anytrain.errors import UserError
from anytrain.files import sha256
from anytrain.headers import of_directory
from anytrain.references import open_weights
from anytrain.rundir import RunDir
from merges import llama
from tiny import cli, write_recipe

ROOT = Path(anytrain.__file__).parent

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_SETTINGS = {"trust_remote_code", "allow_pickle"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
FORBIDDEN_METHODS = {"torch.load", "torch.save", "np.load", "numpy.load"}
# the restricted unpickler, which lists the names that it knows, is the one reader of pickles
ALLOWED = {("pickles.py", "pickle")}


# --- the source ------------------------------------------------------------------------------


def dangers(source: str) -> Iterator[str]:
    """What in a module could run what a file holds."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module).split(".")[0]]
        yield from (name for name in names if name in FORBIDDEN_MODULES)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN_CALLS | FORBIDDEN_METHODS:
                yield called
            for word in node.keywords:
                if word.arg in FORBIDDEN_SETTINGS and ast.unparse(word.value) != "False":
                    yield word.arg


def test_no_module_runs_what_it_reads() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), what)
        for path in ROOT.rglob("*.py")
        for what in dangers(path.read_text(encoding="utf-8"))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    ("source", "what"),
    [("import pickle as p", "pickle"), ("from marshal import loads", "marshal"),
     ("def f():\n    torch.load('x', weights_only=False)", "torch.load"), ("eval('1')", "eval"),
     ("m.from_pretrained('x', trust_remote_code=yes)", "trust_remote_code"),
     ("np.memmap(p, allow_pickle=True)", "allow_pickle"), ("exec(text)", "exec")],
)  # fmt: skip
def test_the_reader_of_source(source: str, what: str) -> None:
    assert list(dangers(source)) == [what]


# --- planted code ----------------------------------------------------------------------------


class Bomb:
    """A pickle that leaves a mark where it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A file that is there once planted code has run."""
    path = tmp_path / "mark"
    pickle.loads(pickle.dumps(Bomb(path)))
    assert path.exists(), "the bomb works where it is let"
    path.unlink()
    yield path
    assert not path.exists(), "planted code was run"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return originals.run(tmp_path_factory.mktemp("trusting"), corpus)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_a_checkpoint_with_pickles(run: Path, mark: Path) -> None:
    """Tensors exchanged for a pickle, the manifest forged, more pickles beside them."""
    folder = run / "checkpoints/step-000000016"
    bomb = pickle.dumps(Bomb(mark))
    manifest = json.loads((folder / "manifest.json").read_text())
    for file in folder.glob("*.safetensors"):
        file.write_bytes(bomb)
        manifest["files"][file.name] = {"bytes": len(bomb), "sha256": sha256(file)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name in (".metadata", "optimizer.pt", "pytorch_model.bin", "data.pkl"):
        (folder / name).write_bytes(bomb)
        (run / name).write_bytes(bomb)
    for verb in (["release", f"{run}@16:raw", "--out", run.parent / "out"], ["status", run],
                 ["generate", f"{run}:raw", "x"], ["merge", f"{run}@8..16", "--rule", "uniform",
                 "--out", run.parent / "out"]):  # fmt: skip
        assert cli(*verb).code in (0, 2)


def test_a_distributed_checkpoint(tmp_path: Path, mark: Path) -> None:
    path = originals.foreign(tmp_path)
    (path / ".metadata").write_bytes(pickle.dumps({"a": Bomb(mark)}))
    with pytest.raises(UserError, match=r"asks for builtins.exec"):
        foreign.read(path)
    assert cli("merge", path, "--rule", "uniform", "--out", tmp_path / "m").code == 2
    forced = cli("merge", path, "--rule", "uniform", "--foreign", "--out", tmp_path / "m")
    assert "builtins.exec" in forced.err


def test_a_key_that_takes_for_ever_to_hash(tmp_path: Path) -> None:
    """Sixty bytes that spell a tuple of 2^50 tuples, as a key of a dict."""
    path = originals.foreign(tmp_path)
    nested = b"\x80\x02}" + b")" + b"2\x86" * 50 + b"K\x01s."
    for content in (nested, b"\x80\x02(" + b")" + b"2\x86" * 50 + b"K\x01d."):
        (path / ".metadata").write_bytes(content)
        with pytest.raises(UserError, match="damaged: a key"):
            foreign.read(path)


CODE = "open({mark!r}, 'w').close()\nclass C: pass\n"


def test_a_release_with_code(tmp_path: Path, corpus: Path, mark: Path) -> None:
    """`auto_map` and modules beside the weights are for transformers, if its user says so."""
    path = llama(tmp_path / "m", tokenizer=corpus / "tokenizer.json")
    config = json.loads((path / "config.json").read_text())
    for kind in ("llama", "anytrain"):
        mapped = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}
        forged = {**config, "model_type": kind, "auto_map": mapped}
        (path / "config.json").write_text(json.dumps(forged))
        for name in ("evil.py", "modeling_anytrain.py", "__init__.py", "conftest.py"):
            (path / name).write_text(CODE.format(mark=str(mark)))
        (path / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "C", "auto_map": {"AutoTokenizer": ["evil.C", None]}})
        )
        cli("generate", path, "the", "--tokens", "1")
        cli("release", path, "--out", tmp_path / f"out-{kind}")
        cli("merge", path, "--rule", "uniform", "--out", tmp_path / f"merged-{kind}")
        with contextlib.suppress(UserError), open_weights(str(path)) as weights:
            _ = dict(weights.tensors)


def test_pickled_weights_and_arrays(tmp_path: Path, mark: Path) -> None:
    bomb = pickle.dumps(Bomb(mark))
    model = llama(tmp_path / "m")
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(bomb)
    assert "can run code" in cli("release", model, "--out", tmp_path / "out").err
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bomb
    (tokens / "train.npy").write_bytes(content)
    with pytest.raises(UserError, match="no NumPy file"):
        Corpus.open(tokens)
    np.save(tokens / "train.npy", np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="no NumPy file"):
        Corpus.open(tokens)


def test_a_recipe_imports_nothing(tmp_path: Path, corpus: Path, mark: Path) -> None:
    (tmp_path / "evil.py").write_text(CODE.format(mark=str(mark)))
    recipe = write_recipe(tmp_path / "r.toml", corpus, schedule="evil.C:x=1")
    for spec in ("evil.C:x=1", "os.system:command=x", "builtins.eval:x=1"):
        recipe.write_text(recipe.read_text().replace("evil.C:x=1", spec))
        assert "--import" in cli("plan", recipe).err


# --- paths -----------------------------------------------------------------------------------

OUTSIDE = ["../secret", "/etc/hostname", "a/../../secret", "..", ".", "", "link", "a\\b", "\0"]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("mine")
    return path


def planted(folder: Path, name: str, secret: Path) -> str:
    """`name`; where it is `link`, a symbolic link of that name that leads to the secret."""
    if name == "link":
        (folder / "link").symlink_to(secret)
    return name


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["checkpoints/step-000000016", "snapshots/step-000000010"])
def test_a_manifest_of_a_run(kind: str, name: str, run: Path, secret: Path) -> None:
    folder = run / kind
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    name = planted(folder, name, secret)
    manifest["files"][name] = {"bytes": 4, "sha256": sha256(secret)}
    file.write_text(json.dumps(manifest))
    found = RunDir(run).checkpoints()[-1]
    if kind.startswith("snapshots"):
        from anytrain.averaging.snapshots import snapshots

        found = next(s for s in snapshots(RunDir(run)) if s.step == 10)  # type: ignore[assignment]
    with pytest.raises(UserError, match="names"):
        found.verify()


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_of_a_corpus(name: str, tmp_path: Path, corpus: Path, secret: Path) -> None:
    folder = originals.copy(corpus, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = {"path": planted(folder, name, secret), "bytes": 4, "sha256": sha256(secret)}
    manifest["segments"][0]["train"].append(entry)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"names|is missing"):
        Corpus.open(folder)


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_of_a_model(name: str, tmp_path: Path, secret: Path) -> None:
    folder = llama(tmp_path / "m", max_shard_bytes=20_000)
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"]["model.norm.weight"] = planted(folder, name, secret)
    index.write_text(json.dumps(table))
    with pytest.raises(UserError, match=r"names|the name of a file beside it"):
        of_directory(folder)


def test_links_of_the_cache_are_followed(tmp_path: Path) -> None:
    """Hugging Face's cache links a model's files to its own store, two folders up."""
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "a1b2"
    blobs.mkdir()
    llama(folder, max_shard_bytes=20_000)
    before = of_directory(folder).keys()
    for file in folder.iterdir():
        file.rename(blobs / file.name)
        file.symlink_to(Path("../../blobs") / file.name)
    assert of_directory(folder).keys() == before


def test_a_merge_takes_no_private_file_along(tmp_path: Path, secret: Path) -> None:
    folder = llama(tmp_path / "m")
    (folder / "notes.txt").symlink_to(secret)
    said = cli("merge", folder, "--rule", "uniform", "--out", tmp_path / "out")
    assert said.code == 2
    assert "notes.txt" in said.err
    path = originals.foreign(tmp_path)
    (path / "notes.txt").symlink_to(secret)
    said = cli("merge", path, "--foreign", "--rule", "uniform", "--out", tmp_path / "out")
    assert said.code == 2
    assert "notes.txt" in said.err


def test_a_run_that_is_its_own_parent(run: Path, tmp_path: Path) -> None:
    """A lineage in a circle ends."""
    identity = json.loads((run / "run.json").read_text())
    identity["parent"] = {"path": str(run), "id": "another", "step": 1, "tokens": 1}
    (run / "run.json").write_text(json.dumps(identity))
    assert cli("status", run).code == 0
    assert cli("release", run, "--out", tmp_path / "out").code == 0


# --- secrets ---------------------------------------------------------------------------------

KEY = "0123456789abcdef0123456789abcdefdeadbeef"


@pytest.mark.parametrize("project", [None, "mine"])
def test_a_key_never_reaches_a_run(
    project: str | None, tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from the environment nor from ~/.netrc, W&B asked for or not."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    log = {"log": {"wandb": project}} if project else {}
    recipe = write_recipe(tmp_path / "r.toml", corpus, **log)
    said = cli("train", recipe, "--run", tmp_path / "run", "--for", "3-steps")
    if project is None:
        assert said.code == 0, said.err
    assert said.code in (0, 2), said.err  # 2: wandb is not installed
    cli("release", f"{tmp_path / 'run'}:raw", "--out", tmp_path / "run" / "release")
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != netrc]
    assert files
    leaked = [path for path in files if KEY.encode() in path.read_bytes()]
    assert not leaked
    assert KEY not in said.out + said.err
