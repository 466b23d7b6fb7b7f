"""Answers to instructions in AlpacaEval's format, for a judge that the user brings.

AlpacaEval asks a larger model which of two answers is better; that model, and its cost, are the
user's. What is written here is the file it reads: `alpaca_eval --model_outputs FILE`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance

from anytrain.errors import UserError
from anytrain.files import parsed, write_atomic
from anytrain.posttrain.candidates import Candidate
from anytrain.posttrain.scoring import Model

LONGEST = 2048  # tokens of an answer, and half of the model's context at most


@dataclass(frozen=True)
class Instructions:
    """Instructions, and where the answers go."""

    rows: Sequence[dict[str, Any]]
    folder: Path
    chat: bool

    @classmethod
    def read(cls, file: Path, folder: Path, chat: bool) -> "Instructions":
        """A JSON list, or JSON lines, of tables with the text `instruction`."""
        try:
            text = file.read_text(encoding="utf-8")
            rows = parsed(text) if text.lstrip().startswith("[") else [
                parsed(line) for line in text.splitlines() if line.strip()
            ]  # fmt: skip
        except OSError as error:
            raise UserError(f"--instructions {file}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"--instructions {file} is no JSON: {error}") from error
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
                raise UserError(f"{file}, row {number} has no text 'instruction', which is valid")
        if not rows:
            raise UserError(f"--instructions {file} has no rows; one or more is valid")
        return cls(rows, folder, chat)

    def file(self, candidate: Candidate) -> Path:
        name = hashlib.sha256(candidate.identity.encode()).hexdigest()[:12]
        return self.folder / f"answers-{name}" / "model_outputs.json"

    def __call__(self, candidate: Candidate, model: Model) -> None:
        """Answer all of them greedily and write the file."""
        most = min(LONGEST, model.max_length // 2)
        requests = [
            Instance(
                "generate_until", row,
                (self._prompt(row["instruction"], model), {"until": [], "max_gen_toks": most}),
                number, ("instructions", number, 1),
            )
            for number, row in enumerate(self.rows)
        ]  # fmt: skip
        answers = model.generate_until(requests)
        outputs = [
            {
                "dataset": str(row.get("dataset", "instructions")),
                "instruction": row["instruction"],
                "output": answer.strip(),
                "generator": candidate.source,
            }
            for row, answer in zip(self.rows, answers, strict=True)
        ]
        path = self.file(candidate)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(outputs, indent=1, ensure_ascii=False) + "\n")

    def _prompt(self, text: str, model: Model) -> str:
        if not self.chat:
            return text
        prompt: str = model.apply_chat_template([{"role": "user", "content": text}])
        return prompt
