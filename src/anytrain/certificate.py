"""What `anytrain doctor` found: which laws were checked, on what, when. Release cards cite it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from anytrain.errors import UserError
from anytrain.files import read_json, write_atomic

NAME = "certificate.json"  # in a run directory
FORMAT = 1

Result = Literal["holds", "broken", "not available"]


@dataclass(frozen=True)
class Check:
    """One law on this machine."""

    name: str
    result: Result
    says: str  # what was seen; where it is broken, what that means
    numbers: Mapping[str, Any]  # units are in the names
    seconds: float


@dataclass(frozen=True)
class Certificate:
    """Every check of one recipe on one machine."""

    date: str  # ISO 8601, UTC
    recipe: str  # its name
    recipe_sha256: str  # of its TOML, every setting written out
    data: str  # its own data, or random tokens
    place: str  # the machine in a few words: devices and filesystem
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    checks: tuple[Check, ...]

    def named(self, result: Result) -> list[Check]:
        """The checks that came out so."""
        return [check for check in self.checks if check.result == result]

    @property
    def json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    def write(self, path: Path) -> None:
        """Put it in place, whole."""
        write_atomic(path, self.json)

    @classmethod
    def read(cls, path: Path) -> "Certificate":
        """The certificate in a file; a UserError names the file where it is none."""
        record = read_json(path)
        if record.pop("format", None) != FORMAT:
            raise UserError(f"{path} is no certificate that this version reads")
        try:
            checks = tuple(Check(**check) for check in record.pop("checks"))
            made = cls(**record, checks=checks)
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged: {error}") from error
        texts = [made.date, made.recipe, made.recipe_sha256, made.data, made.place]
        texts += [text for check in checks for text in (check.name, check.result, check.says)]
        if not (all(isinstance(text, str) for text in texts) and isinstance(made.versions, dict)):
            raise UserError(f"{path} is damaged: a text is none")
        return made
