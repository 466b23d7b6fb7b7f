"""What a study trained: model, data, batch, device, versions; for the end of its page."""

from anytrain.compare.supplies import corpora
from anytrain.files import Record
from anytrain.rundir import RunDir
from anytrain.study.design import Design
from anytrain.words import tokens


def facts(design: Design, begun: RunDir | None) -> dict[str, str]:
    """Names and values; device, versions and passes over the data from any run that is there."""
    recipe = design.shared()
    train, shape = recipe.train, recipe.model
    identity = begun.identity if begun else {}
    found = {
        "model": f"{shape.layers} layers of width {shape.width}, {shape.norm}, {shape.activation}, "
        f"{shape.non_embedding:,} parameters without the embedding",
        "data": _data(identity, design.horizons[-1] // train.context, train.context)
        or ", ".join(recipe.data.sources),
        "batch": f"{train.batch} × {train.context} = {train.tokens_per_step:,} tokens a step",
        "steps": f"{design.unit / train.tokens_per_step:,.0f} a unit",
        "optimizer": f"{recipe.optimizer.kind}, β {recipe.optimizer.beta1:g} "
        f"{recipe.optimizer.beta2:g}, weight decay {recipe.optimizer.weight_decay:g}, "
        f"clip {train.clip}",
        "validation": f"{recipe.evaluate.tokens}, one half to choose, the other to report",
        **{f"{name} alone": _pairs(arm.settings) for name, arm in design.table.arms.items()},
        "decided once": _pairs(identity.get("decisions") or {}),
        "versions": _pairs(identity.get("versions") or {}),
    }
    return {key: value for key, value in found.items() if value}


def _pairs(values: Record) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _data(identity: Record, samples: int, context: int) -> str:
    """`data/text, 77.1M tokens, 0.1 passes`: how often the longest run reads each corpus."""
    return "; ".join(
        f"{one.path}, {tokens(one.windows * context)} tokens, "
        f"{one.turn - 1 + one.read / one.windows:.2g} passes in the longest run"
        for one in corpora(identity, samples)
    )
