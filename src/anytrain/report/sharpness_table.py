"""What a person reads of measured curvature: a record in lines, its difference to the first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import fmean, stdev
from typing import Any

from anytrain.words import signed

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """A trace minus another's on the same data."""

    mean: float
    stderr: float
    ratio: float  # of the traces
    paired: bool  # by the same probes of the same parameters on the same tokens

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "stderr": self.stderr, "ratio": self.ratio,
                "paired": self.paired}  # fmt: skip


def change(first: Record, found: Record) -> Change:
    """Of `found` against `first`; probe by probe where both had the same ones."""
    a, b = first["trace"], found["trace"]
    mean, ratio = b["mean"] - a["mean"], b["mean"] / a["mean"] if a["mean"] else float("nan")
    paired = all(first[key] == found[key] for key in ("batches", "parameters", "settings"))
    if not paired:
        return Change(mean, hypot(a["stderr"], b["stderr"]), ratio, False)
    apart = [y - x for x, y in zip(a["samples"], b["samples"], strict=True)]
    return Change(fmean(apart), stdev(apart) / sqrt(len(apart)), ratio, True)


def lines(found: Record, first: Record | None) -> Iterator[str]:
    """A record, and its difference to the first weights' on the same data."""
    trace, settings = found["trace"], found["settings"]
    yield f"{found['weights']} on {found['data']}, {found['targets']:,} targets"
    yield f"  loss         {found['loss']:.4f} nats/token"
    yield (
        f"  trace        {_shown(trace['mean'], trace['stderr'])} ({settings['probes']} probes, "
        f"{found['method']})"
    )
    if first is not None:
        apart = change(first, found)
        how = "by the same probes" if apart.paired else "not paired"
        both = trace["mean"] > 0 < first["trace"]["mean"]  # else a ratio says nothing
        ratio = f"; {apart.ratio:.3g} of it" if both else ""
        sign = "+" if apart.mean > 0 else ""
        yield (
            f"  difference   {sign}{_shown(apart.mean, apart.stderr)} to {first['weights']} "
            f"({how}{ratio})"
        )
    if found["critical"] is not None:
        yield f"  critical     {found['critical']['sharpness']:.4g}, along the gradient"
    if "eigenvalues" in found:
        yield f"  eigenvalues  {', '.join(f'{value:.4g}' for value in found['eigenvalues'])}"
    if "density" in found:
        pairs = zip(found["density"]["values"], found["density"]["weights"], strict=True)
        below = sum(weight for value, weight in pairs if value < 0)
        yield f"  density      {below:.1%} of eigenvalues are below 0"
    for rise in found.get("noise", ()):
        yield f"  noise {rise['sigma']:<6g} {signed(rise['mean'], 4)} ± {rise['stderr']:.2g} nats"
    if "slice" in found:
        losses = found["slice"]["losses"]
        rise = (losses[0] + losses[-1]) / 2 - losses[len(losses) // 2]
        yield f"  slice        {signed(rise, 4)} nats a whole random direction away"
    if "barrier" in found:
        yield f"  barrier      {found['barrier']['height']:.4f} nats to {settings['barrier']}"


def _shown(mean: float, stderr: float) -> str:
    """A mean and its standard error, to the error's first two digits."""
    digits = next((k for k in range(9) if stderr * 10**k >= 10), 9)
    return f"{mean:,.{digits}f} ± {stderr:,.{digits}f}".replace("-", "−")
