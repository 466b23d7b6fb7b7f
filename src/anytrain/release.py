"""Any weights of a run as a Hugging Face directory, with a card that says what they are."""

from pathlib import Path

import torch

from anytrain import certificate
from anytrain.advice import Advice, card_rows
from anytrain.certificate import Certificate
from anytrain.files import sha256
from anytrain.grammar import short_count
from anytrain.models.huggingface import write_directory
from anytrain.origins import Origin
from anytrain.references import Weights
from anytrain.rundir import RunDir

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def release(
    weights: Weights,
    out: Path,
    dtype: str = "float32",
    shard: int = 5 * 10**9,
    advice: Advice | None = None,
) -> None:
    """Write config, weights, tokenizer and card to `out`, which appears complete or not at all.

    `advice` is what the weights were chosen by for a purpose, for the card. `shard` is the size in
    bytes above which the weights are split. Raises UserError where `out` is in use.
    """
    write_directory(
        out,
        weights.shape,
        weights.tensors,
        tokenizer=weights.tokenizer,
        eot=weights.eot,
        dtype=DTYPES[dtype],
        card=card(weights, out.name, advice),
        max_shard_bytes=shard,
    )


def card(weights: Weights, name: str, advice: Advice | None = None) -> str:
    """The model card, Markdown: every candidate, which was chosen and why, and where it is from."""
    head = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [anytrain, weight-averaging]",
        "---",
        f"# {name}",
        "",
        f"{_millions(weights.shape.parameters)} parameters "
        f"({_millions(weights.shape.non_embedding)} non-embedding), released by anytrain from "
        f"`{weights.source}`.",
    ]
    parts = [head]
    if (origin := weights.origin) is not None:
        chosen_for = [] if advice is None else [card_rows(advice)]
        parts += [*chosen_for, _candidates(origin), _training(origin), _lineage(origin.run)]
    parts.append(_loading(weights, name))
    return "\n".join("\n".join(part) + "\n" for part in parts)


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f}M" if count < 1e9 else f"{count / 1e9:,.2f}B"


def _candidates(origin: Origin) -> list[str]:
    averages = origin.run.identity.get("averages") or {}
    rows = ["## Which weights", ""]
    rows += ["| weights | rule | since step | validation loss, nats/token |", "|---|---|---|---|"]
    for name in origin.checkpoint.weights:
        rule = averages.get(name, {})
        shown = origin.evaluation.shown(name) if origin.evaluation else "not measured"
        mark = " **(released)**" if name == origin.chosen else ""
        since = f"{rule['since']:g}" if rule else ""
        rows.append(f"| {name}{mark} | {rule.get('rule', '')} | {since} | {shown} |")
    return [*rows, "", _reason(origin)]


def _reason(origin: Origin) -> str:
    found = origin.evaluation
    if found is None or origin.loss is None:
        return f"`{origin.chosen}` was named; its validation loss was not measured."
    best, lowest = found.best
    where = f"measured at step {found.step}"
    if found.step != origin.checkpoint.step:
        where += f", the last evaluation before step {origin.checkpoint.step}"
    if best == origin.chosen:
        return f"`{best}` has the lowest validation loss of all candidates ({where})."
    gap = origin.loss - lowest
    return f"`{origin.chosen}` was named; `{best}` is lower by {gap:.4f} nats/token ({where})."


def _training(origin: Origin) -> list[str]:
    recipe, identity = origin.run.recipe, origin.run.identity
    train = recipe["train"]
    lr = float(origin.checkpoint.manifest["lr"])
    rows = [
        "## Training",
        "",
        f"- recipe: {recipe['name']}",
        f"- tokens seen: {origin.checkpoint.tokens:,} ({origin.checkpoint.step:,} steps of "
        f"{train['batch']} × {train['context']})",
        f"- schedule: `{recipe['schedule']}`; learning rate at that step: {lr:.3g}",
        f"- optimizer: {recipe['optimizer']['kind']}, weight decay "
        f"{recipe['optimizer']['weight_decay']:g}",
        *(
            f"- data: `{pin['path']}`, manifest sha256 {pin['eras'][-1]['sha256']}"
            for pin in identity["data"]
        ),
        "- made with: " + ", ".join(f"{k} {v}" for k, v in identity["versions"].items()),
    ]
    return [*rows, *_certified(origin.run)]


def _certified(run: RunDir) -> list[str]:
    """What `anytrain doctor` found about the laws, where it was asked."""
    if not (path := run.path / certificate.NAME).is_file():
        return []
    found = Certificate.read(path)
    same = sha256(run.path / "recipe.toml") == found.recipe_sha256
    held = ", ".join(check.name for check in found.named("holds")) or "none"
    made = ", ".join(f"{k} {v}" for k, v in found.versions.items())
    rows = [
        f"- laws checked by `anytrain doctor` on {found.date[:10]} with "
        f"{'this recipe' if same else 'earlier settings of this recipe'} on {found.place} "
        f"({made}): {held} hold"
    ]
    return rows + [f"- **broken there**: {c.name}: {c.says}" for c in found.named("broken")]


def _lineage(run: RunDir) -> list[str]:
    rows = ["## Lineage", "", f"- `{run.path}` ({run.identity['id']})"]
    identity, seen = run.identity, {run.identity["id"]}
    while (parent := identity.get("parent")) and parent["id"] not in seen:
        seen.add(parent["id"])
        changed = identity.get("changes") or {}
        changes = ", ".join(f"{k}: {a} → {b}" for k, (a, b) in changed.items())
        tokens = short_count(parent["tokens"])
        stage = f" for {parent['stage']}-training" if parent.get("stage") == "mid" else ""
        rows.append(
            f"- forked{stage} from `{parent['path']}` ({parent['id']}) at step {parent['step']}, "
            f"{tokens} tokens" + (f"; {changes}" if changes else "")
        )
        above = RunDir(Path(parent["path"]))
        if not above.exists:
            break
        identity = above.identity
    return rows


def _loading(weights: Weights, name: str) -> list[str]:
    trust = "" if weights.shape.is_llama else ", trust_remote_code=True"
    return [
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{name}"{trust})',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        "```",
    ]
