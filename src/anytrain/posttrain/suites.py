"""What the words after `--tasks` ask for: suites of the paper, single tasks, files. No harness.

The suites are those of arXiv:2603.16127 with its numbers of shots: what is measured after
pre-training, after mid-training and after fine-tuning. Three names are this file's reading of the
paper: TruthfulQA is the harness's `truthfulqa_mc2`, AGIEval is its English half, and tasks that the
paper gives no number for after mid-training have 0 shots, as after pre-training. AlpacaEval needs a
judge and is no task of the harness: see `instructions.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anytrain.errors import UserError

_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Asked:
    """A task that somebody wants measured."""

    task: str  # its name in the harness, or the path of its YAML file
    shots: int | None = None  # solved examples before each question; None: the task's own number

    @property
    def path(self) -> Path | None:
        """The file, where a file is named."""
        return Path(self.task) if self.task.endswith(_YAML) else None


def _at(shots: int, *tasks: str) -> tuple[Asked, ...]:
    return tuple(Asked(task, shots) for task in tasks)


_SFT = (Asked("truthfulqa_mc2", 0), Asked("mmlu", 5))

SUITES: dict[str, tuple[Asked, ...]] = {
    "wso-pretrain": _at(
        0,
        *("arc_easy", "arc_challenge", "openbookqa", "boolq", "hellaswag", "piqa", "winogrande"),
    ),
    "wso-midtrain": (
        *_at(0, "arc_challenge", "hellaswag", "winogrande"),
        Asked("drop", 5),
        Asked("gsm8k_cot", 8),
    ),
    "wso-sft": _SFT,
    "wso-sft-mid": (
        *_SFT,
        Asked("gsm8k", 1),
        Asked("drop", 5),
        Asked("agieval_en", 3),
        Asked("bbh_cot_fewshot", 3),
    ),
}


def asked(words: Sequence[str], shots: int | None = None) -> list[Asked]:
    """The tasks of words such as `wso-pretrain,gsm8k:8`, `my/task.yaml` and `my/tasks/`, once each.

    `shots` is for those that are asked for by themselves and without a number.
    """
    texts = [text.strip() for word in words for text in word.split(",")]
    found: list[Asked] = []
    for text in texts:
        single = text not in SUITES
        found += (replace(one, shots=shots) if single and one.shots is None else one
                  for one in _of(text, words))  # fmt: skip
    return list(dict.fromkeys(found))


def _of(text: str, words: Sequence[str]) -> tuple[Asked, ...]:
    if not text:
        valid = f"names with a comma between them are valid, also {', '.join(SUITES)}"
        raise UserError(f"--tasks {' '.join(words)!r} has an empty name; {valid}")
    if text in SUITES:
        return SUITES[text]
    name, colon, shots = text.rpartition(":")
    if not colon:
        return _files(text, None) or (Asked(text),)
    if name in SUITES:
        raise UserError(f"--tasks {text}: {name} has its own numbers of shots; {name} is valid")
    if not name or not shots.isascii() or not shots.isdigit():
        raise UserError(f"--tasks {text}: {shots!r} is no number of shots; NAME:5 is valid")
    return _files(name, int(shots)) or (Asked(name, int(shots)),)


def _files(name: str, shots: int | None) -> tuple[Asked, ...]:
    """The YAML files of a folder, which has a / in its name; () where it is not a folder's name."""
    if "/" not in name or name.endswith(_YAML):
        return ()
    if not (folder := Path(name)).is_dir():
        raise UserError(f"--tasks {name}: no such folder; a folder or a YAML file is valid")
    found = sorted(path for path in folder.iterdir() if path.name.endswith(_YAML))
    if not found:
        raise UserError(f"--tasks {name}: no .yaml file is in this folder")
    return tuple(Asked(str(path), shots) for path in found)
