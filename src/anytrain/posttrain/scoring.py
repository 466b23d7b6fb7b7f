"""One task measured on one model by the harness: its score, and that of every document.

A task's score is the mean over its documents of one metric, the first that all of its parts have
of acc_norm, acc, exact_match and f1; a metric that several filters of an answer give is that of the
first filter. A group is the mean over all documents of its tasks.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import torch
import transformers
from lm_eval.models.huggingface import HFLM

from anytrain.errors import UserError
from anytrain.models.modeling_anytrain import AnytrainForCausalLM
from anytrain.posttrain.harness import Task

PRIMARY = ("acc_norm", "acc", "exact_match", "f1")
_CPU = 4 * 10**9  # bytes of logits
SEED = 1234  # of the choice of solved examples

Record = dict[str, Any]


@dataclass(frozen=True)
class Score:
    """What one task says about one model."""

    metric: str  # exact_match,strict-match: a metric and the filter of answers it is for
    in_mean: bool  # whether it is one of PRIMARY, which means over tasks are of
    score: float
    stderr: float | None
    documents: list[Record]  # task, doc, hash, score, answer
    truncated: int  # requests cut on the left to fit the model's context
    metrics: dict[str, float]  # everything the harness reports of a single task
    version: str
    seconds: float


class Model(HFLM):
    """A model as the harness runs it, which counts what it cuts and refuses what cannot fit."""

    truncated = 0

    def _loglikelihood_tokens(self, requests: Any, *rest: Any, **named: Any) -> Any:
        # HFLM feeds a context and its continuation without the last token
        room = self.max_length
        for _, context, continuation in requests:
            if len(continuation) > room:
                raise UserError(
                    f"an answer has {len(continuation)} tokens; {room} fit the model's context"
                )
            self.truncated += len(context) + len(continuation) > room + 1
        return super()._loglikelihood_tokens(requests, *rest, **named)

    def generate_until(self, requests: Any, *rest: Any, **named: Any) -> Any:
        for request in requests:
            text, options = request.args
            most = options.get("max_gen_toks", self.max_gen_toks)
            if most >= self.max_length:
                raise UserError(
                    f"task {request.task_name} generates up to {most} tokens; less than the "
                    f"model's context of {self.max_length} is valid"
                )
            self.truncated += len(self.tok_encode(text)) > self.max_length - most
        return super().generate_until(requests, *rest, **named)


def open_model(folder: Path, name: str, own_code: bool, device: str, batch: int | None) -> Model:
    """The model of a directory; no code in it is run: of `own_code` the package has a copy."""
    transformers.logging.set_verbosity_error()  # what is too long is counted here
    tokenizer = open_tokenizer(folder, name)
    try:
        kind: Any = AnytrainForCausalLM if own_code else transformers.AutoModelForCausalLM
        model: Any = kind.from_pretrained(folder, dtype="auto", local_files_only=True)
        model = model.to(torch.device(device))
        return Model(pretrained=model, tokenizer=tokenizer, batch_size=batch or fitting(model))
    except (RuntimeError, AssertionError) as error:  # torch's word for a device that is not there
        raise UserError(f"{name} cannot be loaded on device {device!r}: {error}") from error


def fitting(model: Any) -> int:
    """Requests at a time, from 1 to 64: logits of whole contexts take half of a GPU's free memory.

    Four copies are there at once, at most in fp32: logits, in fp32, log-softmax, a scratch. On a
    CPU, whose memory is not the model's alone, they take 4 GB.
    """
    free = _CPU
    if model.device.type == "cuda":
        free = torch.cuda.mem_get_info(model.device)[0] // 2
    config = model.config
    vocab, context = int(config.vocab_size), int(config.max_position_embeddings)
    return max(1, min(64, free // (4 * 4 * vocab * context)))


def open_tokenizer(folder: Path, name: str) -> Any:
    """The tokenizer of a directory, without running code in it; UserError where there is none."""
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{name} has no tokenizer.json; tasks are text, so weights need one")
    try:
        found = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"{name}: its tokenizer cannot be loaded: {error}") from error
    if found.eos_token_id is None:
        raise UserError(f"{name}: its tokenizer names no end-of-text token, which tasks need")
    return found


def score(model: Model, task: Task, loaded: Sequence[Any], limit: int | None, chat: bool) -> Score:
    """Measure `loaded`, the task's objects, on the first `limit` documents of each."""
    began, model.truncated = time.monotonic(), 0
    _prepare(task, loaded)
    found = lm_eval.evaluate(
        model,
        {"tasks": {one.task_name: one for one in loaded}},
        limit=limit,
        bootstrap_iters=1000,  # only for metrics that are no mean
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        log_samples=True,
    )
    assert found is not None  # of another rank only
    metric = _primary([found["results"][name] for name in found["samples"]])
    documents = _documents(found["samples"], *metric.split(","))
    results = next(iter(found["results"].values())) if len(loaded) == 1 else {}
    value, stderr = _summary(documents, results, metric)
    return Score(
        metric=metric.removesuffix(",none"),
        in_mean=metric.partition(",")[0] in PRIMARY,
        score=value,
        stderr=stderr,
        documents=documents,
        truncated=model.truncated,
        metrics={k: float(v) for k, v in results.items() if "," in k and _is_number(v)},
        version=str(max(str(version) for version in found["versions"].values())),
        seconds=time.monotonic() - began,
    )


def _prepare(task: Task, loaded: Sequence[Any]) -> None:
    """The number of solved examples, and the same choice of them for every model."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - the harness draws from it
    torch.manual_seed(SEED)
    for one in loaded:
        own = one.get_config("num_fewshot")
        # a part of a group that is defined with 0 stays at it, as in the harness's own command
        if own is None or (task.forced and own != 0):
            one.set_config(key="num_fewshot", value=task.shots or 0)
        one.set_fewshot_seed(seed=SEED)


def _primary(results: Sequence[Record]) -> str:
    """The metric, with its filter, that all of the results have."""
    keys = [k for k in results[0] if "," in k and "_stderr" not in k]
    shared = [k for k in keys if all(k in result for result in results)]
    for name in PRIMARY:
        for key in shared:
            if key.partition(",")[0] == name:
                return key
    if not shared:
        raise UserError(f"the tasks of the group share no metric: {', '.join(keys)}")
    return shared[0]


def _documents(samples: dict[str, list[Record]], metric: str, kept: str) -> list[Record]:
    """Every document under its task, with the metric of one filter and what the model answered."""
    return [
        {
            "task": name,
            "doc": sample["doc_id"],
            "hash": sample["doc_hash"],
            "score": float(sample[metric]) if _is_number(sample.get(metric)) else None,
            "answer": [_answer(responses[0]) for responses in sample["resps"]],
        }
        for name, found in samples.items()
        for sample in found
        if sample["filter"] == kept
    ]


def _answer(response: Any) -> Any:
    """A generated text, or the log-likelihood of a choice, nats."""
    return float(response[0]) if isinstance(response, tuple | list) else response


def _summary(documents: Sequence[Record], results: Record, metric: str) -> tuple[float, Any]:
    """Score and standard error: of the documents, or the harness's where these have no number."""
    scores = [document["score"] for document in documents]
    if None in scores:
        name, _, kept = metric.partition(",")
        error = results.get(f"{name}_stderr,{kept}")
        return float(results[metric]), error if _is_number(error) else None
    values = np.asarray(scores, dtype=np.float64)
    if len(values) == 1:
        return float(values[0]), None
    return float(values.mean()), float(values.std(ddof=1)) / sqrt(len(values))


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float | np.number)
