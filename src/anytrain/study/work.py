"""Training one job of a study: what `anytrain study --out OUT --job NAME` does, in a process alone.

Safe to start again: what is there goes on, what is done ends at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anytrain.files import read_json, write_atomic
from anytrain.grammar import Quantity, WeightsName
from anytrain.rundir import RunDir
from anytrain.training import recipes

if TYPE_CHECKING:
    from anytrain.training.config import Recipe

STOPPED = 3  # by a signal; what is there goes on when it is started again


def work(out: Path, name: str) -> int:
    """Train a job to its end. 0: done; STOPPED: to be started again."""
    from anytrain.selection.rebuilt import rebuild
    from anytrain.training.pretrain import Request, pretrain
    from anytrain.training.stopping import Interrupted, Stop

    job = read_json(out / "jobs" / f"{name}.json")
    rundir = RunDir(out / "runs" / name)
    rundir.path.parent.mkdir(parents=True, exist_ok=True)
    if job["rebuilds"]:
        whole, of = RunDir(out / "later" / name), RunDir(out / "runs" / name.partition("~")[0])
        rebuild(of, whole, job["rebuilds"], job["keeps"])
        return 0
    recipe = recipes.recipe(job["recipe"], name)
    until = None if job["leave"] else Quantity(float(job["until"]), "tokens")
    if job["leave"] and not rundir.exists:
        _leave(out, rundir, recipe, job)
    if rundir.exists:
        recipe = _as_begun(rundir, recipe)
    file = out / "jobs" / f"{name}.toml"
    write_atomic(file, recipe.toml())
    source = None if job["leave"] else str(file)
    try:
        outcome = pretrain(Request(rundir.path, source), Stop(until=until), _say)
    except Interrupted:
        return STOPPED
    return STOPPED if outcome.signalled else 0


def _leave(out: Path, rundir: RunDir, recipe: "Recipe", job: dict[str, Any]) -> None:
    """Fork the trunk where its decay begins; a branch has no averages of its own."""
    from anytrain.training.fork import fork
    from anytrain.training.stage import Cooldown

    leave = job["leave"]
    end = Quantity(float(job["until"]), "tokens")
    branch = Cooldown(leave["cooldown"], end, leave["shape"], leave["final"])
    table = recipe.table()
    settings = {"name": job["name"], "averages": {}} | {
        f"{key}.{name}": value
        for key in ("evaluate", "checkpoint")
        for name, value in table[key].items()
    }
    trunk = WeightsName(str(out / "runs" / leave["trunk"]))
    fork(trunk, rundir.path, recipes.settings_of(settings), branch, _say)


def _as_begun(rundir: RunDir, recipe: "Recipe") -> "Recipe":
    """With the averages the run began with: one that is added later is not of its whole past."""
    begun = recipes.recipe(rundir.recipe, str(rundir.path))
    table = recipe.table()
    for key in ("averages", "snapshots"):
        table.pop(key, None)
        if key in begun.table():
            table[key] = begun.table()[key]
    return recipes.recipe(table, str(rundir.path))


def _say(line: str) -> None:
    print(line, flush=True)
