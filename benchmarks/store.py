"""A store of 1,000,000 completions: the first lookup of a process, further ones, appending, listing, verifying.

The alternative is the same code with everything kept in memory and one process, which is how it was before the index.

    python benchmarks/store.py [RECORDS, 1000000 if left out]
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _shared import report

ENGINE, MODEL, WEIGHTS = "transformers:zoo/teacher", "zoo/teacher", "0123456789abcdef"
HITS = 2000


def record(i, rng, words):
    from distill_study.store.log import Record, request_key

    turns = [
        dict(role="system", content="Answer."),
        dict(role="user", content=f"{i} {' '.join(rng.choices(words, k=20))}"),
    ]
    q = dict(messages=turns, sampling=dict(temperature=0.0, top_p=1.0, max_tokens=256, seed=0), sample=0)
    how = dict(prompt_tokens=30, completion_tokens=30, latency=1.5, created="2026-01-01T00:00:00.000+00:00")
    how |= dict(text=" ".join(rng.choices(words, k=20)), finish_reason="stop", info=dict(device="cpu", dtype="float32"))
    return Record(key=request_key(MODEL, WEIGHTS, **q), engine=ENGINE, model=MODEL, weights=WEIGHTS, **how, **q)


def fill(folder, n):
    "Write n records; some of their keys, and the file."
    from distill_study.store.log import Store, seal

    path = Store(folder).log(ENGINE, WEIGHTS).path
    rng, keys = random.Random(0), []
    words = [f"{rng.choice('bcdfgklmnprst')}{rng.choice('aeiou')}{rng.choice('bcdfgklmnprst')}{i}" for i in range(999)]
    with open(path, "wb") as f:
        for i in range(n):
            r = record(i, rng, words)
            f.write(seal(vars(r)))
            keys += [r.key] if i % (n // HITS or 1) == 0 else []
    return rng.sample(keys, len(keys)), path


def timed(what, clock=time.process_time):
    start = clock()
    what()
    return clock() - start


def look_up(folder, keys):
    "Seconds of processor to the first record of a process, to the next ones, to misses; seconds of an append; MiB."
    from distill_study.store.log import Store

    store = Store(folder)
    first = timed(lambda: store.get(ENGINE, WEIGHTS, key=keys[0]))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    hits = timed(lambda: [store.get(ENGINE, WEIGHTS, key=k).key == k or sys.exit("wrong") for k in keys]) / len(keys)
    misses = timed(lambda: [store.get(ENGINE, WEIGHTS, key=k[::-1] + "x") for k in keys]) / len(keys)
    new = [record(-i - 1, random.Random(i), [f"{time.time_ns()}"]) for i in range(100)]
    return dict(
        first=first, memory=memory, hit=hits, miss=misses, append=timed(lambda: [store.add([r]) for r in new]) / 100
    )


def measure(what, way, folder):
    "What a process of its own measures, as JSON."
    from distill_study.store import log
    from distill_study.tools import archive

    if way == "before":
        log.HELD = archive.LARGE = 1 << 60
    if what == "look_up":
        return look_up(folder, json.loads((Path(folder) / "keys.json").read_text()))
    start = sum(os.times()[:4])
    clock = timed(lambda: dict(list=archive.contents, verify=archive.check_store)[what](folder), time.perf_counter)
    return dict(clock=clock, processor=sum(os.times()[:4]) - start)


def in_process(*args):
    done = subprocess.run([sys.executable, __file__, "--", *args], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def compare(folder, path):
    "Name → (now, before), each as text."
    now, before = (dict(first_ever=in_process("look_up", way, folder)) for way in ("now", "before"))
    for way, got in dict(now=now, before=before).items():
        got |= in_process("look_up", way, folder)
        got |= {f"{w} {kind}": s for w in ("list", "verify") for kind, s in in_process(w, way, folder).items()}
    ever = [got.pop("first_ever") for got in (now, before)]
    forms = {
        "first lookup of a process, s": ("first", "{:.2f}", 1),
        "memory of that process then, MB": ("memory", "{:,.0f}", 1),
        "a further lookup (found), µs": ("hit", "{:.1f}", 1e6),
        "a further lookup (not there), µs": ("miss", "{:.1f}", 1e6),
        "appending one record, ms": ("append", "{:.2f}", 1e3),
        "`store list`, s by the clock": ("list clock", "{:.1f}", 1),
        "`store list`, s of all processors": ("list processor", "{:.1f}", 1),
        "`store verify`, s by the clock": ("verify clock", "{:.1f}", 1),
        "`store verify`, s of all processors": ("verify processor", "{:.1f}", 1),
    }
    rows = [
        [name, *(form.format(got[key] * scale) for got in (now, before))] for name, (key, form, scale) in forms.items()
    ]
    rows.insert(2, ["the first time, when the index is made, s", *(f"{got['first']:.1f}" for got in ever)])
    rows.insert(3, ["memory of that process, MB", *(f"{got['memory']:,.0f}" for got in ever)])
    return rows, path.with_suffix(".index").stat().st_size


def main(n):
    with tempfile.TemporaryDirectory() as d:
        keys, path = fill(d, n)
        (Path(d) / "keys.json").write_text(json.dumps(keys))
        size = path.stat().st_size
        rows, index = compare(d, path)
    notes = [
        f"{n:,} records, {size / 2**20:,.0f} MiB; the index {index / 2**20:.0f} MiB. A fresh Python for each line;",
        "what it imports is in its memory, not in its seconds. Lookups in processor time. Where a machine is busy with",
        "other work, a second process gains nothing by the clock; with two idle cores it halves the processors' time.",
    ]
    title = f"A store of {n:,} records"
    report("store", title, ["", "index", "all in memory, one process"], rows, notes)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main(int((sys.argv[1:] or ["1000000"])[0]))
