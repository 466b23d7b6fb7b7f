"""Reading the snapshots of a run: a few power-function averages at log-spaced steps. No torch.

RUN/snapshots/step-000001585/manifest.json           counters, tracks, sizes, checksums
RUN/snapshots/step-000001585/track-0.1.safetensors   one track, its tensors named as in the model
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from anytrain import forms
from anytrain.errors import UserError, nearest
from anytrain.headers import read_header
from anytrain.layout import Entry
from anytrain.rules import PowerEma
from anytrain.rundir import RunDir, Stored, stored


@dataclass(frozen=True)
class Track:
    """One average in a snapshot."""

    rule: PowerEma
    since: float  # t at which it began as a copy of the weights; 0: its profile is a power of s
    file: Path


class StoredSnapshot(Stored):
    """The tracks of a run after a step."""

    form = forms.SNAPSHOT

    @property
    def t(self) -> float:
        """Steps at the reference batch."""
        return float(self.manifest["t"])

    @cached_property
    def tracks(self) -> dict[str, Track]:
        """By name, the width as text, in the order of the recipe."""
        found = {}
        for name, row in self.manifest["tracks"].items():
            if row["file"] not in self.manifest["files"]:
                raise UserError(f"{self.path}: its manifest has no file of track {name!r}")
            try:
                rule = PowerEma(float(row["sigma_rel"]))
            except ValueError as error:
                raise UserError(f"{self.path}: track {name!r}: {error}") from error
            found[name] = Track(rule, float(row["since"]), self.path / row["file"])
        return found

    def entries(self, track: str) -> dict[str, Entry]:
        """The tensors of a track and where their bytes are."""
        if track not in self.tracks:
            raise UserError(f"{self.path} has no track {track!r}{nearest(track, self.tracks)}")
        return read_header(self.tracks[track].file).entries


def snapshots(run: RunDir) -> list[StoredSnapshot]:
    """Complete snapshots of a run, oldest first."""
    return stored(run.snapshot_root, StoredSnapshot)
