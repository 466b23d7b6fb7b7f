"""What a post-training study does: verbs in an order, each once. No torch.

A step is a name, the verbs that make it, and the steps it needs. It is done when its verbs ended
well; a marker holds a digest of them, so a step whose design changed is done again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anytrain.grammar import Quantity
from anytrain.study.jobs import digest
from anytrain.study.post.design import Base, Design
from anytrain.study.work import STOPPED
from anytrain.training import recipes

_PREEMPTED = ("--preempted-exit-code", str(STOPPED))  # stopped by a signal is not done
_KEPT = 8  # checkpoints of a run, evenly, and over a span that is merged


@dataclass(frozen=True)
class Step:
    """Verbs, run one after another in one process."""

    name: str
    verbs: tuple[tuple[str, ...], ...]
    needs: tuple[str, ...] = ()
    rank: float = 0.0  # the highest begins first: tokens of a run

    def to_json(self) -> dict[str, Any]:
        """What the process that does it reads."""
        return {"name": self.name, "verbs": self.verbs, "digest": self.digest}

    @property
    def digest(self) -> str:
        return digest(self.verbs)

    def marker(self, out: Path) -> Path:
        """Where its digest is once it is done."""
        return out / "steps" / f"{self.name}.done"

    def done(self, out: Path) -> bool:
        marker = self.marker(out)
        return marker.is_file() and marker.read_text(encoding="utf-8").strip() == self.digest


def weights(design: Design, out: Path, name: str, seed: int) -> str:
    """A base as every verb names weights."""
    base = design.table.bases[name]
    if base.way == "merge":
        return str(out / "merged" / f"{name}-s{seed}")
    run, chosen = (base.of, base.weights) if base.way == "average" else (name, "raw")
    return f"{_run(out, str(run), seed)}@{int(design.ends(name).amount)}-tokens:{chosen}"


def _run(out: Path, name: str, seed: int) -> Path:
    return out / "runs" / f"{name}-s{seed}"


def steps(design: Design, out: Path) -> dict[str, Step]:
    """Every step by its name."""
    made: dict[str, Step] = {}
    for seed in design.table.seeds:
        for name, base in design.table.bases.items():
            made |= {s.name: s for s in _base(design, out, name, base, seed)}
    for seed in design.table.seeds:
        for name in design.table.bases:
            made |= {s.name: s for s in _uses(design, out, name, seed)}
    return made


def _base(design: Design, out: Path, name: str, base: Base, seed: int) -> Iterator[Step]:
    run, end = _run(out, name, seed), design.ends(name)
    label = f"base-{name}-s{seed}"
    if base.way == "train":
        file = out / "recipes" / f"{name}-s{seed}.toml"
        train: tuple[str, ...] = ("train", str(file), "--run", str(run), "--until", str(end),
                                  *_PREEMPTED)  # fmt: skip
        yield Step(label, (train,), rank=end.amount)
        return
    of = f"base-{base.of}-s{seed}"
    trunk = _run(out, str(base.of), seed)
    if base.way == "merge":
        start = Quantity(round(end.amount * (1 - base.span)), "tokens")
        merge = ("merge", f"{trunk}@{int(start.amount)}..{int(end.amount)}-tokens", "--rule",
                 str(base.merge), "--out", weights(design, out, name, seed))  # fmt: skip
        yield Step(label, (merge,), (of,), rank=end.amount)  # its tuning waits for it
    elif base.way != "average":
        train = ("train", "--run", str(run), "--until", str(end), *_PREEMPTED)
        yield Step(label, (_fork(base, trunk, run, end), train), (of,), rank=end.amount)


def _fork(base: Base, trunk: Path, run: Path, end: Quantity) -> tuple[str, ...]:
    words = ("fork", str(trunk), "--out", str(run))
    if base.way == "decay":
        final = 0.0 if base.final is None else base.final
        return (*words, "--cooldown", f"{100 * float(base.cooldown or 0):g}%", "--end", str(end),
                "--shape", base.shape, "--final", f"{final:g}")  # fmt: skip
    decay = () if base.final in (None, 1.0) else ("--final", f"{base.final:g}", "--end", str(end))
    return (*words, "--stage", "mid", *decay, f"data.path={base.data}")


def _needs(design: Design, name: str, seed: int) -> tuple[str, ...]:
    base = design.table.bases[name]
    return (f"base-{base.of if base.way == 'average' else name}-s{seed}",)


def _uses(design: Design, out: Path, name: str, seed: int) -> Iterator[Step]:
    """Fine-tuning and curvature of one base."""
    table, needs = design.table, _needs(design, name, seed)
    what = weights(design, out, name, seed)
    corpus = design.recipe(_root(design, name), seed).data.path
    # every task in one process: what fine-tuning imports takes longer than a small sweep
    by = design.tuned_by(seed)
    sweeps = tuple(_sweep(design, out, f"{name}-s{seed}", task, what, corpus,
                          None if by == seed else f"{name}-s{by}")
                   for task in table.tasks)  # fmt: skip
    tuned = () if by == seed else (f"tune-{name}-s{by}",)
    # after every base, before curvature
    yield Step(f"tune-{name}-s{seed}", sweeps, (*needs, *tuned), rank=1.0)
    if (measure := table.sharpness) is not None and corpus is not None:
        how_much = ("--probes", str(measure.probes), "--tokens", measure.tokens, "--out")
        also = tuple(how.data for how in table.tasks.values()) if measure.tasks else ()
        words = ("sharpness", what, "--data", corpus, *also, *(("--drop-long",) if also else ()),
                 *how_much, str(out / "sharpness" / f"{name}-s{seed}.jsonl"))  # fmt: skip
        yield Step(f"sharpness-{name}-s{seed}", (words,), needs)
        if seed == table.seeds[0] and table.bases[name].way in ("train", "decay", "mid"):
            span = f"{_run(out, name, seed)}@1..{int(design.ends(name).amount)}-tokens:raw"
            along = ("sharpness", span, "--data", corpus, *how_much,
                     str(out / "sharpness" / f"along-{name}.jsonl"))  # fmt: skip
            yield Step(f"along-{name}", (along,), needs)


def _sweep(
    design: Design, out: Path, base: str, task: str, what: str, corpus: str | None, by: str | None
) -> tuple[str, ...]:
    """Fine-tuning on one task, at every rate, or at the rate that was chosen for `by`."""
    how, finetune = design.table.tasks[task], design.table.finetune
    options = {**finetune.settings, **how.settings}
    if corpus is not None:
        options.setdefault("retention", corpus)
    folder = out / "finetuned" / task
    rates = ("--lr", ",".join(f"{rate:g}" for rate in how.lr or finetune.lr))
    if by is not None:
        rates = ("--lr-of", str(folder / by))
    return ("finetune", what, "--data", how.data, "--metric", how.metric, *rates,
            "--out", str(folder / base), *_options(options))  # fmt: skip


def _root(design: Design, name: str) -> str:
    """The base whose run a base began as: what it was pre-trained on."""
    base = design.table.bases[name]
    return name if base.of is None else _root(design, base.of)


def _options(settings: dict[str, Any]) -> tuple[str, ...]:
    """`{"batch": 32, "drop-long": true, "sft.x": true}` -> --batch 32 --drop-long sft.x=true."""
    words: list[str] = []
    for key, value in settings.items():
        if "." in key:
            words.append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
        elif isinstance(value, bool):
            words += [f"--{key}"] if value else []
        else:
            words += [f"--{key}", str(value)]
    return tuple(words)


def recipe_files(design: Design, out: Path) -> Iterator[tuple[Path, str]]:
    """The recipe of every run of its own, with checkpoints where it is merged and forked."""
    for seed in design.table.seeds:
        for name, base in design.table.bases.items():
            if base.way != "train":
                continue
            made = design.recipe(name, seed).table()
            end = design.ends(name).amount
            at = {round(end * k / _KEPT) for k in range(1, _KEPT + 1)}
            at |= {round(end * (1 - other.span * k / _KEPT))
                   for other in design.table.bases.values()
                   if other.of == name and other.merge is not None
                   for k in range(_KEPT + 1)}  # fmt: skip
            at |= {round(end * (1 - float(other.cooldown)))
                   for other in design.table.bases.values()
                   if other.of == name and other.cooldown is not None}  # fmt: skip
            made["checkpoint"]["at"] = [f"{tokens}-tokens" for tokens in sorted(at)]
            recipe = recipes.recipe(made, name)
            yield out / "recipes" / f"{name}-s{seed}.toml", recipe.toml()
