"""What every benchmark shares: interleaved timing, rows with targets, one table, one JSON form."""

import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, Literal

REPEATS = 7


@dataclass(frozen=True)
class Target:
    """What one ratio has to be: `ours / peer` at most or at least so much.

    A `peer` of "floor" is the row's floor, one of "" is the figure itself.
    """

    peer: str
    sense: Literal["≤", "≥"]
    value: float

    def __str__(self) -> str:
        return f"{self.sense} {self.value:g}" + (f" of {self.peer}" if self.peer else "")

    def met(self, ratio: float) -> bool:
        return ratio <= self.value if self.sense == "≤" else ratio >= self.value


@dataclass(frozen=True)
class Row:
    """One workload: our figure, each peer's and the floor, all from interleaved runs."""

    name: str
    unit: str
    ours: float | None  # None: not measured here, and `check` says why
    check: str  # what was found equal to what, and to how much
    peers: Mapping[str, float] = field(default_factory=dict)
    floor: float | None = None
    targets: tuple[Target, ...] = ()

    @property
    def ratios(self) -> dict[str, float]:
        """Ours over each peer and over the floor."""
        if self.ours is None:
            return {}
        others = {**self.peers, **({"floor": self.floor} if self.floor else {})}
        return {name: self.ours / value for name, value in others.items()}

    @property
    def met(self) -> bool | None:
        """Whether every target is; None where there is none or nothing was measured."""
        if self.ours is None or not self.targets:
            return None
        ratios = self.ratios | {"": self.ours}
        return all(target.met(ratios[target.peer]) for target in self.targets)

    def to_json(self) -> dict[str, Any]:
        found = asdict(self) | {"ratio": self.ratios, "met": self.met}
        found["target"] = found.pop("targets")
        return found

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Row":
        """The row that `to_json` wrote; ratios and `met` follow from the rest."""
        kept = {key: row[key] for key in ("name", "unit", "ours", "check", "peers", "floor")}
        return cls(**kept, targets=tuple(Target(**target) for target in row["target"]))

    def __str__(self) -> str:
        """A line of the table."""
        if self.ours is None:
            return f"{self.name:44}  not measured: {self.check}"
        met = {None: "", True: "yes", False: "NO"}[self.met]
        others = [f"{name} {value:.4g}" for name, value in self.peers.items()]
        if self.floor:
            others.append(f"floor {self.floor:.4g}")
        ratios = ", ".join(f"{ratio:.3f} of {name}" for name, ratio in self.ratios.items())
        wanted = ", ".join(map(str, self.targets)) or "none"
        return (
            f"{self.name:44}{self.ours:10.4g} {self.unit}; {', '.join(others)}\n"
            f"{'':4}{met:4} ratio: {ratios or '-'}; target: {wanted}; equal: {self.check}"
        )


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    repeats: int = REPEATS,
    clock: Callable[[], float] = process_time,
) -> dict[str, float]:
    """Median seconds by name, one after another in turn; a first round is a rehearsal."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return {name: median(values[1:]) for name, values in seconds.items()}


def cpu_name() -> str:
    """The processor as the system calls it, with the number of cores this process may use."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def device_name() -> str:
    """The GPU's name where there is one, else the processor's."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()


def save(rows: list[Row], out: str) -> None:
    Path(out).write_text(json.dumps([row.to_json() for row in rows]), encoding="utf-8")


def report(rows: list[Row], device: str) -> None:
    """Print the table."""
    print(f"{device}; load average {os.getloadavg()[0]:.1f}")
    for row in rows:
        print(row)


def record(found: Mapping[str, list[Row]], device: str, out: Path) -> None:
    """Put the rows of some benchmarks into a device's file, in place of what it had of them."""
    there = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"device": device}
    for name, rows in found.items():
        there[name] = [row.to_json() for row in rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(there, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
