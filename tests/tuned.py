"""Made-up outcomes of fine-tuning, so that every answer is known."""

from anytrain.compare.post import Kind, Outcome, PostResults, Pretrained

KINDS: dict[str, Kind] = {
    "wso": "raw", "cosine": "decayed", "wsd": "decayed", "ema": "averaged"
}  # fmt: skip
LOSS = {"wso": 3.0, "cosine": 2.9, "wsd": 2.92, "ema": 2.88}
SCORE = {"wso": 0.50, "cosine": 0.44, "wsd": 0.46, "ema": 0.49}
TRACE = {"wso": 100.0, "cosine": 300.0, "wsd": 250.0, "ema": 150.0}


def results(seeds: tuple[int, ...] = (1, 2, 3)) -> PostResults:
    """Two tasks, the second 0.2 above the first; a seed moves every base by as much."""
    outcomes = tuple(
        Outcome(
            base, seed, task, 1e-3,
            (score + 0.2 * (task == "b") + 0.01 * seed + 0.001 * ((seed * 7 + k) % 3 - 1),),
            ((1e-4, 0.1), (1e-3, 0.4), (1e-2, None)), LOSS[base] + 0.5,
        )
        for k, (base, score) in enumerate(SCORE.items()) for seed in seeds for task in "ab"
    )  # fmt: skip
    before = tuple(
        Pretrained(base, seed, LOSS[base] + 0.02 * seed, TRACE[base] + seed, 2.0,
                   {"a": 1.0 - SCORE[base], "b": TRACE[base]})
        for base in KINDS for seed in seeds
    )  # fmt: skip
    along = tuple(
        {
            "data": "data", "run": f"runs/{base}", "name": "raw", "tokens": tokens,
            "weights": f"runs/{base}@{tokens}", "batches": "1f", "parameters": 9, "settings": {},
            "trace": {"mean": trace * tokens, "stderr": 1.0,
                      "samples": [trace * tokens - 1, trace * tokens + 1]},
        }
        for base, trace in TRACE.items() for tokens in (1, 2, 4)
    )  # fmt: skip
    return PostResults("made-up", KINDS, seeds, ("a", "b"), outcomes, before, {}, (10, 10), along)
