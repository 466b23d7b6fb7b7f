"""Run directories written by hand, as the trainer would leave them. No torch."""

import json
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

from anytrain.rundir import RunDir

BATCH, CONTEXT = 16, 256
PER_STEP = BATCH * CONTEXT  # tokens
UNIT = 250  # steps
TRUNK = "constant:peak=5e-3,warmup=100-steps"
NAMES = ("ema6.25", "ema12.5", "ema25", "ema50", "ema100")
# what raw and f = 25 reach at 250, 500, 1000, 2000 steps of the demo's recipe, nats/token
RAW_AT = {1: 8.3, 60: 5.9, 125: 4.75, 250: 4.27, 500: 3.76, 1000: 3.15, 2000: 2.67, 4000: 2.35}
EMA_AT = {1: 8.3, 60: 6.1, 125: 4.78, 250: 4.19, 500: 3.65, 1000: 3.05, 2000: 2.55, 4000: 2.24}
OFF = {"ema6.25": 0.075, "ema12.5": 0.021, "ema25": 0.0, "ema50": 0.013, "ema100": 0.034}


def curve(at: dict[int, float], step: int) -> float:
    """Interpolated in log steps."""
    steps = sorted(at)
    for a, b in pairwise(steps):
        if a <= step <= b:
            return at[a] + (at[b] - at[a]) * log(step / a) / log(b / a)
    return at[steps[-1]]


def losses(step: int) -> dict[str, float]:
    """Raw and five averages at a step."""
    raw = curve(RAW_AT, step) + 0.012 * ((step * 7919) % 13 / 6 - 1)
    return {"raw": raw} | {n: curve(EMA_AT, step) + OFF[n] * (1 + 60 / step) for n in NAMES}


def moments(end: int) -> list[int]:
    """Ten a decade, every doubling of the unit, and the end."""
    spaced = {round(10 ** (k / 10)) for k in range(60)} - {0}
    units = {UNIT << k for k in range(12)}
    return sorted(step for step in spaced | units | {end} if step <= end)


def training(step: int, tokens: int) -> dict[str, Any]:
    return {
        "step": step,
        "tokens": tokens,
        "t": float(step),
        "lr": 5e-3,
        "loss": curve(RAW_AT, step),
        "grad_norm": 0.5,
        "seconds": step * 0.1,
        "tokens_per_second": PER_STEP / 0.1,
        "flops_per_second": 1e9,
    }


def evaluation(step: int, values: dict[str, float], why: str = "spaced") -> dict[str, Any]:
    record: dict[str, Any] = {"step": step, "tokens": step * PER_STEP, "t": float(step)}
    for name, loss in values.items():
        record |= {f"val/loss/{name}": loss, f"val/stderr/{name}": 0.011}
    return record | {"val/tokens": 500_000, "eval_seconds": 0.4, "eval_why": why}


def write_run(
    path: Path,
    *,
    end: int = 2000,
    start: int = 0,
    schedule: str = TRUNK,
    evaluated: dict[int, dict[str, float]] | None = None,
    checkpoints: tuple[int, ...] = (),
    events: list[dict[str, Any]] | None = None,
    run_id: str | None = None,
    **identity: Any,
) -> RunDir:
    """A run from `start` to `end` steps; `evaluated` maps steps to losses."""
    path.mkdir(parents=True)
    path.joinpath("recipe.toml").write_text(
        f'name = "demo"\nunit = "{UNIT}-steps"\nschedule = "{schedule}"\n'
        f"[train]\nbatch = {BATCH}\ncontext = {CONTEXT}\n[model]\nlayers = 1\nwidth = 16\n"
        'heads = 2\n[optimizer]\nkind = "adamw"\nbeta1 = 0.9\nweight_decay = 0.1\n[averages]\n'
        + "".join(f'"{n}" = "anytime_ema:f={n[3:]}"\n' for n in NAMES)
    )
    run = RunDir(path)
    about = {
        "format": 1,
        "id": run_id or path.name,
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {"anytrain": "0.1.0", "torch": "2.13.0"},
        "imports": {},
        "parent": None,
        "changes": {},
        "data": [],
        "decisions": {"micro_batch": 16, "device": "cpu", "threads": 2},
        "averages": {n: {"rule": f"anytime_ema:f={n[3:]}", "since": 0} for n in NAMES},
    }
    path.joinpath("run.json").write_text(json.dumps(about | identity))
    if evaluated is None:
        evaluated = {step: losses(step) for step in moments(end) if step > start}
    records = []
    for step in range(start + 1, end + 1):
        records.append(training(step, step * PER_STEP))
        if step in evaluated:
            records.append(evaluation(step, evaluated[step]))
    path.joinpath("metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    for event in events or []:
        run.event(event)
    for step in checkpoints:
        write_checkpoint(run, step)
    return run


def write_checkpoint(run: RunDir, step: int, weights: tuple[str, ...] = ("raw", *NAMES)) -> None:
    path = run.checkpoint_path(step)
    path.mkdir(parents=True)
    state = {
        "clock": {
            "step": step, "t": float(step), "tokens": step * PER_STEP, "samples": step * BATCH
        },
        "averages": {"t": float(step), "since": {}, "rules": {}},
        "optimizer": [],
        "recipe": run.recipe,
    }  # fmt: skip
    path.joinpath("state.json").write_text(json.dumps(state))
    manifest = {
        "format": 1,
        "step": step,
        "tokens": step * PER_STEP,
        "t": float(step),
        "lr": 5e-3,
        "weights": list(weights),
        "files": {"model.safetensors": {"bytes": 20_000_000, "sha256": "0" * 64}},
    }
    with path.joinpath("model.safetensors").open("wb") as file:
        file.truncate(20_000_000)  # a hole: its length is all that is looked at
    path.joinpath("manifest.json").write_text(json.dumps(manifest))


def write_cooldown(path: Path, horizon: int, loss: float, **more: Any) -> RunDir:
    """A branch over the last tenth of `horizon` steps that ends at `loss`."""
    start = horizon * 9 // 10
    trunk = curve(RAW_AT, start)
    steps = [start + (horizon - start) * k // 4 for k in (1, 2, 3)]
    path_losses = {
        s: {"raw": trunk + (loss - trunk) * ((s - start) / (horizon - start)) ** 0.7} for s in steps
    }
    return write_run(
        path,
        start=start,
        end=horizon,
        schedule=f"cooldown:horizon={horizon}-steps,trunk=({TRUNK}),start={start}-steps,shape=sqrt",
        evaluated=path_losses | {horizon: {"raw": loss}},
        parent={"path": "trunk", "id": "trunk", "step": start, "tokens": start * PER_STEP},
        changes={"schedule": [TRUNK, f"cooldown:horizon={horizon}-steps"]},
        **more,
    )
