"""Tokens per second of the `vllm` engine, greedy, start-up excluded, against
- vLLM used directly: `LLM.chat` on the same messages, with the same arguments, in this process;
- the `transformers` engine.
All take the same questions in turn, new ones in every round, so that no cache has seen them. What differs from `LLM.chat`:
the engine renders and decodes by itself, outside the process that vLLM runs in, talks to it over a pipe, lets it measure
each request, and makes its records. With the zoo's teacher, a model of two million parameters, next to nothing is computed
and the rest shows; with SmolLM2-135M-Instruct it is as in earnest, if anything on a CPU is. Needs `make vllm`, and for
SmolLM2 the hub or `make smollm`.

    python benchmarks/vllm_engine.py [MODEL ...]
"""
import statistics, sys, time

from _shared import report
from distill_study.config import Data, Sampling, Vllm
from distill_study.data import load_data
from distill_study.engines import open_engine
from distill_study.local import context_length, render
from distill_study.models import SMOLLM, device, load_tokenizer, resolve_model
from distill_study.offline import arguments, generation_ends
from distill_study.teacher import requests

ITEMS, TOKENS, ROUNDS = {"zoo/teacher": 250, SMOLLM: 32}, 64, 3


def direct(model, asked):
    "A function that asks `LLM.chat` itself, and one that ends it."
    from vllm import LLM, SamplingParams
    folder = resolve_model(model)
    tokenizer = load_tokenizer(folder)
    settings = Vllm(gpu_memory_utilization=0.4)                          # there are two of them on one GPU
    args = arguments(folder, settings, context_length(folder, asked, render(tokenizer, asked, model), model), None, device(), 2**33)
    llm = LLM(**args | dict(disable_log_stats=True))                     # as it comes
    params = SamplingParams(temperature=0, max_tokens=TOKENS, stop_token_ids=sorted(generation_ends(folder, tokenizer)))
    def go(asked): return sum(len(o.outputs[0].token_ids) for o in llm.chat([list(r.messages) for r in asked], params, use_tqdm=False))
    return go, llm.llm_engine.engine_core.shutdown


def through(engine):
    "The same for one of our engines."
    return lambda asked: sum(r.completion_tokens for _, r in filter(None, engine.generate(asked))), engine.close


def measure(model):
    "Rows of the table for one model."
    items = ITEMS.get(model, 64)
    asked = requests(load_data(Data(name="tiny-math", train=items * (ROUNDS + 1), test=1)).train, "cot", Sampling(max_tokens=TOKENS))
    items = len(asked) // (ROUNDS + 1)
    ways = {"`LLM.chat`": direct(model, asked), "`vllm` engine": through(open_engine(f"vllm:{model}", settings=Vllm(gpu_memory_utilization=0.4))), "`transformers` engine": through(open_engine(f"transformers:{model}", batch_size=64))}
    rates = {name: [] for name in ways}
    for i in range(ROUNDS + 1):                                         # the first round starts everything
        batch = asked[i * items:(i + 1) * items]
        for name, (go, _) in ways.items():
            start = time.perf_counter()
            written = go(batch)
            if i: rates[name].append(written / (time.perf_counter() - start))
    for _, end in ways.values(): end()
    base = rates["`LLM.chat`"]
    return [[model, items, name, f"{statistics.median(r):.0f}", f"{statistics.median(a / b for a, b in zip(r, base)):.2f}"] for name, r in rates.items()]


if __name__ == "__main__":
    rows = [row for model in sys.argv[1:] or ITEMS for row in measure(model)]
    report("vllm_engine", f"vLLM: questions of tiny-math with chain of thought, all at once (`transformers`: 64 at once), at most {TOKENS} tokens",
           ["model", "questions a round", "way", f"tokens/s (median of {ROUNDS} rounds)", "of `LLM.chat`, round by round"], rows)
