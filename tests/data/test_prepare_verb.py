"""`anytrain prepare` as a person and as a script meet it."""

import json
from pathlib import Path

import pytest

from anytrain.cli.main import main


def test_for_a_person(tmp_path: Path, bpe: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "src").mkdir()
    for name, data in (("a.txt", b"some text " * 500), ("b.txt", b""), ("c.txt", b"\xe9")):
        (tmp_path / "src" / name).write_bytes(data)
    out = tmp_path / "out"
    assert main(["prepare", str(tmp_path / "src"), "--out", str(out), "--tokenizer", bpe]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: prepared\n  2 documents, ")
    assert "left out: 1 empty" in said
    assert f"not UTF-8, not read: 1\n    {tmp_path}/src/c.txt" in said
    assert f"anytrain train demo --run runs/first data.path={out}" in said


def test_for_a_script(tmp_path: Path, bpe: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("text " * 300)
    arguments = ["prepare", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out"), "--json"]
    assert main([*arguments, "--tokenizer", bpe, "--validation", "0.1"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["outcome"] == "prepared"
    assert said["bytes_per_token"] == 1500 / (said["train_tokens"] + said["validation_tokens"])
    (tmp_path / "b.txt").write_text("more")
    arguments[1] = str(tmp_path / "b.txt")
    assert main([*arguments, "--append"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["outcome"], said["segments"]) == ("appended", 2)


def test_bad_input_is_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["prepare", "nowhere.txt", "--out", str(tmp_path / "o"), "--tokenizer", "bpe:300"])
        == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("anytrain: nowhere.txt: no such file or folder")
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()
