"""A run's average of any rule at a past step, as a sum of the snapshots that it kept.

A checkpoint holds the same few averages, and those that are evaluated, so it is one more snapshot:
an average can be rebuilt at every step that has the one or the other.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from anytrain import rules
from anytrain.averaging import posthoc
from anytrain.averaging.merge import Source
from anytrain.averaging.posthoc import Fit
from anytrain.averaging.snapshots import StoredSnapshot, snapshots
from anytrain.errors import UserError
from anytrain.grammar import Quantity, WeightsName
from anytrain.headers import of_checkpoint
from anytrain.layout import Entry, select
from anytrain.merging.inputs import Input
from anytrain.merging.weighing import reference_tokens
from anytrain.rules import Rule
from anytrain.rundir import Checkpoint, RunDir, Stored

ENOUGH = 0.05  # relative L2 error of the profile above which a rebuild is refused


@dataclass(frozen=True)
class Kept:
    """One stored average, begun at step 0."""

    t: float  # steps at the reference batch
    rule: Rule
    name: str  # for the table
    place: StoredSnapshot | Checkpoint
    track: str  # its name in a snapshot, or the prefix of its tensors in a checkpoint

    def entries(self) -> dict[str, Entry]:
        """Its tensors and where their bytes are."""
        self.place.verify(checksums=False)
        if isinstance(self.place, StoredSnapshot):
            return self.place.entries(self.track)
        return select(of_checkpoint(self.place), self.track)


@dataclass(frozen=True)
class Rebuilt:
    """What to add up, how much of each, and how near the profile comes."""

    inputs: list[Input]
    weights: list[float]
    fit: Fit


@dataclass(frozen=True)
class History:
    """What a run kept up to a moment."""

    run: RunDir
    t: float  # steps at the reference batch
    kept: tuple[Kept, ...]

    def rebuild(self, rule: Rule) -> Rebuilt:
        """The sum nearest to the average of `rule` at the moment."""
        profiles = [posthoc.Snapshot(one.t, one.rule) for one in self.kept]
        fit = posthoc.fit(profiles, rule, self.t)
        inputs = [self._input(self.kept[i]) for i in fit.used]
        return Rebuilt(inputs, [fit.coefficients[i] for i in fit.used], fit)

    def _input(self, one: Kept) -> Input:
        return Input(Source.of(one.name, one.entries()), one.t, run=self.run)

    def check(self, rebuilt: Rebuilt, rule: str, most: float) -> None:
        """Raise a UserError where the profile is further than `most` from the asked one."""
        if rebuilt.fit.error > most:
            times = sorted({one.t for one in self.kept})
            raise UserError(
                f"the nearest sum of snapshots is {rebuilt.fit.error:.1%} from {rule} at step "
                f"{self.t:g} (relative L2 error of the profile); at most {most:.1%} is valid "
                f"(--max-error), and the last moments that were kept are {times[-4:]}"
            )


@contextmanager
def history(name: WeightsName) -> Iterator[History]:
    """What a run kept up to a moment, by default the last; its checkpoints stay meanwhile."""
    run = RunDir.open(name.run)
    checkpoints, found = run.checkpoints(), snapshots(run)
    kept = [one for snapshot in found for one in _of_snapshot(run, snapshot)]
    known = {one.t for one in kept}
    held = (one for c in checkpoints for one in _of_checkpoint(run, c))
    kept += [one for one in held if one.t not in known or one.track.startswith("average/")]
    if not kept:
        raise UserError(
            f"{run.path} keeps no snapshots and no averages begun at step 0, so none can be "
            "rebuilt; a run whose recipe has [snapshots] or averages from its start is valid"
        )
    last = isinstance(name.when, str)
    t = max(one.t for one in kept) if last else _t(run, name.when, (*found, *checkpoints))
    kept = sorted((one for one in kept if one.t <= t), key=lambda one: one.t)
    if not kept:
        raise UserError(f"{run.path}@{name.when}: its first snapshot is later")
    with ExitStack() as stack:
        for place in {one.place.path: one.place for one in kept}.values():
            if isinstance(place, Checkpoint):
                stack.enter_context(place.pinned())
        yield History(run, t, tuple(kept))


def _of_snapshot(run: RunDir, snapshot: StoredSnapshot) -> Iterator[Kept]:
    for name, track in snapshot.tracks.items():
        if track.since == 0:
            label = f"{run.path}/snapshots@{snapshot.step}:{name}"
            yield Kept(snapshot.t, track.rule, label, snapshot, name)


def _of_checkpoint(run: RunDir, checkpoint: Checkpoint) -> Iterator[Kept]:
    """Its tracks and its averages: those of a rule of ours that began at step 0."""
    moved_every_step = checkpoint.state["recipe"]["train"].get("average_every", 1) == 1
    for kind, key in (("track", "tracks"), ("average", "averages")):
        if kind == "average" and not moved_every_step:
            continue
        held = checkpoint.state.get(key, {"rules": {}})
        for name, spec in held["rules"].items():
            if held["since"][name] == 0 and spec.partition(":")[0] in rules.KINDS:
                rule, place = rules.rule(spec), f"{kind}/{name}/"
                label = f"{run.path}@{checkpoint.step}:{name}"
                yield Kept(float(held["t"]), rule, label, checkpoint, place)


def _t(run: RunDir, when: Quantity | str, found: Sequence[Stored]) -> float:
    """A moment in steps at the reference batch."""
    assert isinstance(when, Quantity)
    for stored in found:
        if when.unit == "steps" and stored.step == when.amount:
            return float(stored.manifest["t"])
    if when.unit == "steps" and any("train.batch" in c["settings"] for c in run.changes()):
        raise UserError(
            f"{run.path}@{when}: its batch changed, so a step without a checkpoint does not say "
            "how far it was; a number of tokens is valid"
        )
    return when.steps(reference_tokens(run))
