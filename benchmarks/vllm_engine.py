"""Tokens per second of the `vllm` engine, greedy, start-up excluded, against - vLLM used directly: `LLM.chat` on the
same messages, with the same arguments, in this process; - the `transformers` engine. All take the same questions in
turn, in changing order, new ones in every round, so that no cache has seen them. On a machine with other work, tokens
per second of processor time (this process and all of vLLM's) say more than the clock does. What differs from
`LLM.chat`: the engine renders and decodes by itself, outside the process that vLLM runs in, talks to it over a pipe,
lets it measure each request, and makes its records. With the zoo's teacher, a model of two million parameters, next to
nothing is computed and the rest shows; with SmolLM2-135M-Instruct it is as in earnest, if anything on a CPU is. Needs
`make vllm`, and for SmolLM2 the hub or `make smollm`.

    python benchmarks/vllm_engine.py [MODEL ...]
"""

import os
import statistics
import sys
import time

import psutil
from _shared import report

from distill_study.config import Data, Sampling, Vllm
from distill_study.data.load import load_data
from distill_study.models.engine import open_engine
from distill_study.models.local import context_length, render
from distill_study.models.vllm import arguments, generation_ends
from distill_study.models.weights import SMOLLM, device, load_tokenizer, resolve_model
from distill_study.teach.sampling import requests

ITEMS, TOKENS, ROUNDS = {"zoo/teacher": 140, SMOLLM: 24}, 64, 6


def direct(model, asked):
    "A function that asks `LLM.chat` itself, and one that ends it."
    from vllm import LLM, SamplingParams

    folder = resolve_model(model)
    tokenizer = load_tokenizer(folder)
    settings = Vllm(gpu_memory_utilization=0.4)  # there are two of them on one GPU
    args = arguments(
        folder,
        settings,
        context=context_length(folder, asked, prompts=render(tokenizer, asked, spec=model), spec=model),
        adapter=None,
        device=device(),
        free=2**33,
    )
    llm = LLM(**args | dict(disable_log_stats=True))  # as it comes
    params = SamplingParams(temperature=0, max_tokens=TOKENS, stop_token_ids=sorted(generation_ends(folder, tokenizer)))

    def go(asked):
        return sum(
            len(o.outputs[0].token_ids) for o in llm.chat([list(r.messages) for r in asked], params, use_tqdm=False)
        )

    return go, llm.llm_engine.engine_core.shutdown


def through(engine):
    "The same for one of our engines."
    return lambda asked: sum(r.completion_tokens for _, r in filter(None, engine.generate(asked))), engine.close


def busy(processes):
    "Processor seconds that they have used."
    return sum(sum(p.cpu_times()[:2]) for p in processes)


def measure(model):
    "Rows of the table for one model."
    items = ITEMS.get(model, 64)
    asked = requests(
        load_data(Data(name="tiny-math", train=items * (ROUNDS + 1), test=1)).train,
        "cot",
        sampling=Sampling(max_tokens=TOKENS),
    )
    engines = [
        open_engine(f"vllm:{model}", settings=Vllm(gpu_memory_utilization=0.4)),
        open_engine(f"transformers:{model}", batch_size=64),
    ]
    ways, own, me = {"`LLM.chat`": direct(model, asked)}, {}, psutil.Process()
    own["`LLM.chat`"] = [me, *me.children(recursive=True)]
    for e in engines:
        ways[name := f"`{e.name}` engine"] = through(e)
        ways[name][0](asked[:2])  # starts it
        own[name] = [
            me,
            *(
                psutil.Process(e.worker.process.pid).children(recursive=True) + [psutil.Process(e.worker.process.pid)]
                if e.name == "vllm"
                else []
            ),
        ]
    rates = {name: [] for name in ways}
    for i in range(ROUNDS + 1):  # the first round warms up
        batch = asked[i * items : (i + 1) * items]
        for name in list(ways)[:: -1 if i % 2 else 1]:
            start, before = time.perf_counter(), busy(own[name])
            written = ways[name][0](batch)
            if i:
                rates[name].append((written / (time.perf_counter() - start), written / (busy(own[name]) - before)))
    for _, end in ways.values():
        end()

    def shown(name, k):
        return (
            f"{statistics.median(r[k] for r in rates[name]):.0f}",
            f"{statistics.median(r[k] / base[k] for r, base in zip(rates[name], rates['`LLM.chat`'])):.2f}",
        )

    return [[model, items, name, *shown(name, 0), *shown(name, 1)] for name in ways]


if __name__ == "__main__":
    rows = [row for model in sys.argv[1:] or ITEMS for row in measure(model)]
    report(
        "vllm_engine",
        "vLLM: questions of tiny-math with chain of thought, all at once (`transformers`: 64 at once), at most"
        f" {TOKENS} tokens",
        [
            "model",
            "questions a round",
            "way",
            f"tokens/s (median of {ROUNDS} rounds)",
            "of `LLM.chat`, round by round",
            "tokens per processor second",
            "of `LLM.chat`",
        ],
        rows,
        [f"Load of the machine while it ran: {os.getloadavg()[2]:.1f} (15 minutes)."],
    )
