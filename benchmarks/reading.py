"""Reading answers: ours beside the filters of lm-evaluation-harness, written anew, and math-verify.

A reader is right where it finds what was concluded, unread where it finds nothing, and wrong where it finds another
answer. The texts: published GSM8K rationales in ten dresses, the recorded answers of PaLM-540B, and the cases of
`tests/readings.jsonl`.

    python benchmarks/reading.py [ITEMS of GSM8K, 300 if left out [FOLDER]]

FOLDER is `tests/` of a checkout of Math-Verify: its own pairs of gold and answer, in how many of them ours agrees.
"""

import ast
import json
import re
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

from _shared import report
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

from distill_study.data.load import local_folder, read_file
from distill_study.tasks.families import TASKS

ITEMS = int((sys.argv[1:] or ["300"])[0])
MATH, QA, NLI = TASKS["math"], TASKS["nlu_qa"], TASKS["nli"]
CASES = Path(__file__).parent.parent / "tests" / "readings.jsonl"


# --- the readers


def ours(case):
    how = dict(choices=case.get("choices"), prompt=case.get("prompt", ""))
    return TASKS[case["task"]].parse(case["text"], case["strategy"], **how).answer


def flexible_extract(case):
    "The harness's `flexible-extract` of gsm8k, its multiple-choice filter, and the first label for nli."
    text = case["text"]
    if case["task"] == "math":
        found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)
        last = next(filter(None, found[-1]), "") if found else ""
        return re.sub(r"[,$]|\.$", "", last) or None
    if case["task"] == "nli":
        found = re.findall(r"entailment|neutral|contradiction", text.lower())
        return found[0] if found else None
    letters = "ABCDEFGHIJ"[: len(case["choices"])]
    if m := re.search(rf"\(([{letters}])\)", text):
        return m[1]
    low = text.lower()
    named = [x for x, choice in zip(letters, case["choices"]) if choice.lower() in low]
    if named:
        return named[0]
    m = re.search(rf":\s*([{letters}])", text)
    return m[1] if m else None


def strict_match(case):
    "The harness's `strict-match` of gsm8k."
    m = re.search(r"#### (-?[0-9.,]+)", case["text"])
    return m[1].replace(",", "").rstrip(".") if m else None


def math_verify(case):
    found = parse(case["text"], [LatexExtractionConfig(), ExprExtractionConfig()])
    return str(found[-1]) if found else None


READERS = {"ours": ours, "flexible-extract": flexible_extract, "strict-match": strict_match, "math-verify": math_verify}


# --- the texts


def dresses(rationale, gold):
    "(name, text) of one published rationale in ten dresses."
    why = re.sub(r"<<[^>]*>>", "", rationale.split("####")[0]).strip()
    wrong = str(int(float(gold.replace(",", ""))) + 7)
    yield "as published", rationale
    yield "the answer is", f"{why} The answer is {gold}."
    yield "box", f"{why}\n\n$$\\boxed{{{gold}}}$$"
    yield "markdown, money", f"{why}\n\n**Answer:** ${gold}"
    yield "reasoning block", f"<think>{why} So the answer is {wrong}? Let me check.</think>\n\n{gold}"
    yield "invented question", f"{why} The answer is {gold}.\n\nQ: Tom has {wrong} pens.\nA: The answer is {wrong}."
    yield "JSON", json.dumps(dict(reasoning=why, answer=gold))
    yield "remark after", f"{why}\nAnswer: {gold}\n\nLet me know if you have {wrong} more questions."
    yield "taken back", f"{why} The answer is not {wrong}, but {gold}."
    yield "special tokens", f"Answer: {gold}<|im_end|>\n<|im_start|>user\nAnd {wrong} + 1?"


def lines(folder, name):
    return read_file(local_folder(folder) / name)


def gsm8k():
    for row in lines("gsm8k", "test.jsonl")[:ITEMS]:
        gold = row["answer"].split("####")[1].strip()
        for name, text in dresses(row["answer"], gold):
            yield f"GSM8K, {name}", dict(task="math", strategy="cot", text=text, gold=gold)


def palm():
    known = {r["ID"]: r["Answer"] for r in lines("svamp", "train.jsonl")}
    for r in lines("svamp_palm540b", "train.jsonl"):
        yield "PaLM on SVAMP", dict(task="math", strategy="cot", text=r["completion"], gold=known[r["id"]])
    known = {r["id"]: r for r in lines("commonsense_qa", "validation.jsonl")}
    for r in lines("commonsense_qa_palm540b", "validation.jsonl"):
        item = known[r["id"]]
        case = dict(task="nlu_qa", strategy="cot", text=r["completion"], answer=item["answerKey"])
        yield "PaLM on CommonsenseQA", case | dict(choices=tuple(item["choices"]["text"]))


def cases():
    for case in read_file(CASES):
        yield f"cases, {case['task']}", case | dict(choices=tuple(case.get("choices") or ()) or None)


# --- right, unread, wrong


def verdict(case, answer):
    "For a case without an answer, and for one that must not be read as gold, reading nothing is right."
    if case["task"] == "math":
        gold = MATH.gold(case["gold"])
        right = answer is not None and MATH.correct(str(answer), gold)
        if not case.get("right", True):
            return "wrong" if right else "right"
    else:
        right = answer == case["answer"]
    return "right" if right else "unread" if answer is None else "wrong"


def applies(reader, case):
    return case["task"] == "math" or reader in ("ours", "flexible-extract")


def measured():
    "(source, reader) → counts of verdicts, and reader → seconds of every text."
    counts, seconds = {}, {name: [] for name in READERS}
    for source, case in [*gsm8k(), *palm(), *cases()]:
        for name, read in READERS.items():
            if not applies(name, case):
                continue
            start = time.perf_counter()
            answer = read(case)
            seconds[name].append(time.perf_counter() - start)
            counts.setdefault(source, {}).setdefault(name, Counter())[verdict(case, answer)] += 1
    return counts, seconds


def pairs(folder):
    "(gold, answer, are they the same?) of the parametrized tests in a folder, as far as they are literals."
    for path in sorted(Path(folder).glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or getattr(node.func, "attr", "") != "parametrize":
                continue
            try:
                names, rows = map(ast.literal_eval, node.args)
            except ValueError:
                continue
            names = [name.strip() for name in names.split(",")]
            same = next((names.index(n) for n in ("expected", "result") if n in names), None)
            yield from ((row[0], row[1], bool(row[same])) for row in rows if same and names[:2] == ["gold", "pred"])


def agreement(folder):
    "In how many pairs ours comes to the same, of those whose gold it reads."
    read = [(MATH.gold(gold), MATH.parse(answer, "cot").answer, same) for gold, answer, same in pairs(folder)]
    known = [(gold, answer, same) for gold, answer, same in read if gold is not None]
    right = sum(MATH.correct(answer, gold) == same for gold, answer, same in known)
    return f"Math-Verify's own pairs: ours agrees in {right} of {len(known)} whose gold it reads, {len(read)} in all."


def longest_reply():
    "Milliseconds for a reply of 20,000 repeated words, the worst of a few words and of all families."
    worst = 0
    for word in ("word", "12", "Answer:", "not entailment", "$1$"):
        for task in (MATH, QA, NLI):
            start = time.process_time()
            task.parse(f"{word} " * 20_000, "cot", choices=("hall", "barn"))
            worst = max(worst, time.process_time() - start)
    return 1000 * worst


def main():
    counts, seconds = measured()
    rows = []
    for source, by_reader in counts.items():
        found = [by_reader.get(name) for name in READERS]
        cells = ["–" if c is None else " · ".join(str(c[v]) for v in ("right", "unread", "wrong")) for c in found]
        rows.append([source, by_reader["ours"].total(), *cells])
    medians = ", ".join(f"{name} {1e6 * statistics.median(s):.0f}" for name, s in seconds.items())
    notes = (
        "Right · unread · wrong; where a text has no answer, reading nothing is right.",
        "",
        f"Microseconds for one text, median: {medians}.",
        f"A reply of 20,000 repeated words takes ours {longest_reply():.0f} ms at most.",
        *(["", agreement(sys.argv[2])] if len(sys.argv) > 2 else []),
    )
    report("reading", "Reading answers", ["texts", "n", *READERS], rows, notes)


if __name__ == "__main__":
    main()
