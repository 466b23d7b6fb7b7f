"""Bases × rates on seed 0, the best rate of each base, then seeds at that rate.

The rate is chosen on the selection part and the seeds are measured on the report part, so what
is reported was not chosen on. In the words of arXiv:2603.16127, section 4: the best rate for each
base, by the downstream metric. Points do not depend on each other: a sweep that was killed goes
on with those that are missing, and gives the same table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from anytrain.errors import UserError
from anytrain.files import sha256
from anytrain.posttrain import keeping, measure, tuner
from anytrain.posttrain.bases import Base
from anytrain.posttrain.choices import with_choices
from anytrain.posttrain.points import Key, Phase, Point, Points, chosen
from anytrain.posttrain.quiet import quiet
from anytrain.posttrain.rows import PARTS, Part, Rows
from anytrain.posttrain.settings import Keep, Settings
from anytrain.posttrain.tokens import EncodedRow, encode

HELD: tuple[Part, ...] = ("selection", "report")
_RETENTION = 65_536  # tokens of plain text, at most

Encoded = dict[Part, list[EncodedRow]]


@dataclass(frozen=True)
class Plan:
    """What a sweep goes through."""

    bases: Sequence[Base]
    rows: Rows
    settings: Settings
    rates: Sequence[float]
    seeds: int  # for the report, 1, 2, …: 0 is the one the rate was chosen with
    keep: Keep = "chosen"
    retention: Path | None = None  # a prepared corpus, to see what is forgotten
    drop_long: bool = False
    given: float | None = None  # a rate that was chosen elsewhere, in place of `rates`

    def rate(self, points: Mapping[Key, Point], base: str) -> float | None:
        """Of the report."""
        return self.given or chosen(points, base, self.settings.metric)


class Sweep:
    """A plan at work in a directory."""

    def __init__(self, plan: Plan, points: Points, say: Callable[[str], Any]) -> None:
        from accelerate import PartialState

        self.plan, self.points, self.say = plan, points, say
        self.process = PartialState()
        self.encoded = self._encode()

    def run(self) -> None:
        """Every point that is not there yet."""
        for base in self.plan.bases:
            at_work = _AtBase(self, base)
            at_work.point(Key(base.name), "before")
            for rate in self.plan.rates:
                at_work.point(Key(base.name, rate, 0), "tune")
            rate_chosen = self.plan.rate(self.points.read(), base.name)
            if rate_chosen is None:
                self.say(f"{base.name}: diverged at every rate; a lower --lr is worth trying")
                continue
            for seed in range(1, self.plan.seeds + 1):
                at_work.point(Key(base.name, rate_chosen, seed), "report")

    def _encode(self) -> dict[str, Encoded]:
        """The rows as every base's tokens; what is too long for one base no base gets.

        Raises UserError for rows that are too long, where they are not to be left out.
        """
        made: dict[tuple[str, str], Encoded] = {}
        long: dict[str, str] = {}  # key of a row -> what is wrong with it
        found: dict[str, Encoded] = {}
        for base in self.plan.bases:
            reader = sha256(base.path / "tokenizer.json"), base.template
            if reader not in made:
                made[reader] = self._read_by(base.tokenizer())
            found[base.name] = made[reader]
            for rows in made[reader].values():
                for row in rows:
                    if row.longest > base.shape.context:
                        says = f"{row.row.where} has {row.longest} tokens, {base.name} "
                        long.setdefault(row.row.key, f"{says}has a context of {base.shape.context}")
        return self._without(found, long) if long else found

    def _read_by(self, tokenizer: Any) -> Encoded:
        with quiet():  # of rows past the context this verb speaks itself
            found = {p: [encode(row, tokenizer) for row in self.plan.rows[p]] for p in PARTS}
            if self.plan.settings.metric == "choice":
                found |= {p: with_choices(self.plan.rows[p], tokenizer) for p in HELD}
            return found

    def _without(self, found: dict[str, Encoded], long: dict[str, str]) -> dict[str, Encoded]:
        count = sum(row.key in long for rows in self.plan.rows.values() for row in rows)
        says = f"{count} rows are too long, the first: {next(iter(long.values()))}"
        if not self.plan.drop_long:
            raise UserError(f"{says}; shorter rows, or --drop-long to leave them out, are valid")
        self.say(f"{says}; left out")
        short = {
            name: {p: [r for r in rows if r.row.key not in long] for p, rows in encoded.items()}
            for name, encoded in found.items()
        }
        for part, rows in next(iter(short.values())).items():
            if not rows:
                raise UserError(f"no row of the {part} part is short enough; {says}")
        return short


class _AtBase:
    """The points of one base: its rows, and what is made once for all of them."""

    def __init__(self, sweep: Sweep, base: Base) -> None:
        self.sweep, self.base = sweep, base
        self.plan, self.encoded = sweep.plan, sweep.encoded[base.name]
        self.tokenizer = base.tokenizer()
        self.reference: dict[Part, list[float]] | None = None  # log-ratios of the base, for DPO
        self.data: Any = None
        self.windows: Any = None

    def point(self, key: Key, phase: Phase) -> None:
        """One point, if it is not there yet: all processes train and measure, the first writes."""
        process = self.sweep.process
        process.wait_for_everyone()
        if key in self.sweep.points.read():
            return
        model = self.base.model().to(process.device)
        made: dict[str, Any] = {}
        if key.lr is not None:
            model, made = self._tuned(model, key.lr, key.seed or 0)
        self._record(model, key, phase, made)
        process.wait_for_everyone()

    def _tuned(self, model: Any, lr: float, seed: int) -> tuple[Any, dict[str, Any]]:
        rows = self.encoded["train"]
        if self.data is None:
            self.data = tuner.dataset(rows)
        dpo = self.plan.settings.method == "dpo"
        done = tuner.tune(
            model,
            self.tokenizer,
            rows,
            self.data,
            self.plan.settings,
            lr=lr,
            seed=seed,
            context=self.base.shape.context,
            out=self.sweep.points.path,
            reference=self.base.model() if dpo else None,
        )
        return done.model, {
            "steps": done.steps,
            "tokens": done.tokens,
            "train_loss": done.train_loss,
            "seconds": round(done.seconds, 3),
        }

    def _record(self, model: Any, key: Key, phase: Phase, made: dict[str, Any]) -> None:
        """Measure a point; on the first process, write it."""
        model.eval()
        beta = float(self.plan.settings.trl.get("beta", 0.1))
        rows = {
            part: measure.measured(model, self.encoded[part], self._reference(part), beta)
            for part in HELD
        }
        losses = {part: measure.mean_loss(found) for part, found in rows.items()}
        point: Point = {
            "base": key.base,
            "lr": key.lr,
            "seed": key.seed,
            "phase": phase,
            **made,
            **{f"{part}_loss": loss for part, loss in losses.items()},
            **{f"{part}_score": measure.score(found) for part, found in rows.items()},
            "retention_loss": self._retention(model),
            "diverged": key.lr is not None and self._diverged(losses["selection"], made),
        }
        if not self.sweep.process.is_main_process:
            return
        if key.lr is not None and keeping.keeps(self.plan.keep, phase):
            keeping.keep(self.sweep.points.path / "models" / key.name, model, self.base, point)
        self.sweep.points.add(key, point, rows)
        self.sweep.say(_line(key, point, self.plan.settings))

    def _diverged(self, loss: float | None, made: dict[str, Any]) -> bool:
        """Not finite; or answers are worse predicted than before, and than by a uniform guess."""
        if loss is None or made["train_loss"] is None:
            return True
        before = self.sweep.points.read()[Key(self.base.name)]["selection_loss"] or 0.0
        uniform = log(self.base.shape.tokens)
        return self.plan.settings.method == "sft" and loss > max(before, uniform)

    def _reference(self, part: Part) -> list[float]:
        if self.plan.settings.method == "sft":
            return []
        if self.reference is None:
            model = self.base.model().to(self.sweep.process.device)
            self.reference = {p: measure.log_ratios(model, self.encoded[p]) for p in HELD}
        return self.reference[part]

    def _retention(self, model: Any) -> float | None:
        """Loss of held-out pre-training text, nats/token."""
        if self.plan.retention is None:
            return None
        if self.windows is None:
            self.windows = held_out(self.plan.retention, self.base)
        return measure.text_loss(model, self.windows)


def held_out(corpus: Path, base: Base) -> Any:
    """Held-out text of a prepared corpus in windows of the base's context: (N, T + 1).

    Raises UserError for a corpus that has none, or of another tokenizer.
    """
    import torch

    from anytrain.data.stream import TrainingData
    from anytrain.training.start import check_tokenizer

    data = TrainingData.open({str(corpus): 1.0}, context=base.shape.context, seed=0)
    check_tokenizer(data, base.path / "tokenizer.json", base.source)
    return torch.from_numpy(data.validation(max(_RETENTION, base.shape.context)))


def _line(key: Key, point: Point, settings: Settings) -> str:
    loss = point["report_loss"]
    shown = "not finite" if loss is None else f"{loss:.4f}"
    end = ", diverged" if point["diverged"] else ""
    speed = f", {point['seconds']:.1f} s" if "seconds" in point else ""
    return f"{key.name}: loss {shown}, score {point['report_score']:.3f}{speed}{end}"
