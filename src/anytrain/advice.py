"""Which weights to publish for which purpose, and what that was decided by. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Purpose = Literal["finetuning", "use"]


@dataclass(frozen=True)
class Candidate:
    """One set of weights of a checkpoint, as far as it was measured."""

    name: str  # raw, ema25, …
    loss: float | None  # validation loss, nats/token
    trace: float | None = None  # of the Hessian of the validation loss
    trace_stderr: float | None = None  # over probes
    lr: float | None = None  # the best rate of the fine-tuning probe
    score: float | None = None  # after it: the share of exact answers on rows kept for choosing
    tuned_loss: float | None = None  # after it, nats/token of those answers


@dataclass(frozen=True)
class Advice:
    """The choice among candidates of one checkpoint."""

    purpose: Purpose
    candidates: tuple[Candidate, ...]
    chosen: str
    reason: str  # a sentence


def for_use(candidates: Sequence[Candidate]) -> Advice | None:
    """To be used as they are: the lowest validation loss; None where none was measured."""
    known = [c for c in candidates if c.loss is not None]
    if not known:
        return None
    best = min(known, key=lambda c: float(c.loss or 0))
    return Advice(
        "use", tuple(candidates), best.name,
        f"`{best.name}` has the lowest validation loss, {best.loss:.4f} nats/token, which is what "
        "counts where the model is used as it is.",
    )  # fmt: skip


def for_finetuning(candidates: Sequence[Candidate]) -> Advice | None:
    """To be fine-tuned: what the probe made best, and not the loss before it.

    By exact answers where the best two differ in them, else by the loss of the answers. None where
    no candidate was probed.
    """
    probed = [c for c in candidates if c.tuned_loss is not None]
    if not probed:
        return None
    ranked = sorted(probed, key=lambda c: (-(c.score or 0.0), float(c.tuned_loss or 0)))
    best = ranked[0]
    told = len(ranked) > 1 and ranked[0].score != ranked[1].score
    by = (f"{100 * float(best.score or 0):.1f}% of the probe's answers right"
          if told else f"{best.tuned_loss:.4f} nats/token on the probe's answers")  # fmt: skip
    reason = f"`{best.name}` is best after a short fine-tuning: {by}, at a rate of {best.lr:g}."
    lowest = min((c for c in probed if c.loss is not None), key=lambda c: float(c.loss or 0),
                 default=None)  # fmt: skip
    if lowest is not None and lowest.name != best.name:
        reason += f" `{lowest.name}` has the lower validation loss before it."
    flattest = min((c for c in probed if c.trace is not None), key=lambda c: float(c.trace or 0),
                   default=None)  # fmt: skip
    if flattest is not None:
        same = "It" if flattest.name == best.name else f"`{flattest.name}`"
        reason += f" {same} has the flattest loss, trace {flattest.trace:.3g}."
    return Advice("finetuning", tuple(candidates), best.name, reason)


def card_rows(advice: Advice) -> list[str]:
    """The section of a model card."""
    head = ["weights", "validation loss"]
    probed = any(c.tuned_loss is not None for c in advice.candidates)
    if probed:
        head += ["trace of the Hessian", "probe's rate", "right after it", "loss after it"]
    what = {"finetuning": "fine-tuning", "use": "use as it is"}[advice.purpose]
    rows = [f"## Released for {what}", "", advice.reason, "", f"| {' | '.join(head)} |",
            f"|{'---|' * len(head)}"]  # fmt: skip
    for c in advice.candidates:
        cells = [c.name + (" **(released)**" if c.name == advice.chosen else ""), _text(c.loss)]
        if probed:
            trace = "" if c.trace is None else f"{c.trace:.4g} ± {c.trace_stderr:.2g}"
            score = "" if c.score is None else f"{100 * c.score:.1f}%"
            rate = "" if c.lr is None else f"{c.lr:g}"
            cells += [trace, rate, score, _text(c.tuned_loss)]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
