"What is read of completions of every kind: `readings.jsonl` has a line each, with what a careful person reads."

import time
from pathlib import Path

import pytest

from distill_study.data.load import read_file
from distill_study.tasks.families import RULES, TASKS
from distill_study.tasks.reading import LONGEST, cut_run_on, own_turn, split_reasoning, statements

READINGS = read_file(Path(__file__).parent / "readings.jsonl")
ROOMS = ("hall", "barn", "attic", "wine cellar", "cellar")


def read(case):
    how = dict(choices=tuple(case.get("choices") or ()) or None, prompt=case.get("prompt", ""))
    return TASKS[case["task"]].parse(case["text"], case["strategy"], **how)


@pytest.mark.parametrize("task", ["math", "nlu_qa", "nli"])
def test_completions_are_read_as_a_careful_person_would(task):
    wrong = []
    for case in READINGS:
        if case["task"] != task:
            continue
        answer = read(case).answer
        expected, found = case.get("answer"), answer
        if "gold" in case:
            gold = TASKS[task].gold(case["gold"])
            assert gold is not None, case
            expected, found = case["right"], TASKS[task].correct(answer, gold)
        if found != expected:
            wrong.append((case["text"], expected, answer))
    assert not wrong, "\n".join(map(str, wrong))


def test_every_reading_has_a_rule():
    for case in READINGS:
        parsed = read(case)
        assert parsed.rule in RULES
        assert (parsed.rule == "") == (parsed.answer is None), case


@pytest.mark.parametrize(
    "text, thought, reply",
    [
        ("<think>a</think>b", "a", "b"),
        ("<think>\n\n</think>\n\nb", "", "b"),
        ("a</think>b", "a", "b"),
        ("<think>a", "a", ""),
        ("b\n<think>a", "a", ""),
        ("<think>a<think>b</think>c</think>d", "a<think>b\nc", "d"),
        ("<think>write `<think>` first</think>b", "write `<think>` first", "b"),
        ("Use the `<think>` tag.", "", "Use the `<think>` tag."),
        ("[THINK]a[/THINK]b", "a", "b"),
        ("<|channel|>analysis<|message|>a<|end|>", "a", ""),
        ("analysisWe add.assistantfinal12", "We add.", "12"),
        ("analysisWe add", "We add", ""),
        ("analysis: we add, 12", "", "analysis: we add, 12"),
        ("no block", "", "no block"),
    ],
)
def test_reasoning_is_set_apart(text, thought, reply):
    assert split_reasoning(text) == (thought, reply)


def test_a_guess_in_the_reasoning_is_no_answer_and_stays_beside_it():
    p = TASKS["math"].parse("<think>The answer is 15? No.</think>3 * 4 = 12.\nAnswer: 12", "cot")
    assert (p.answer, p.strict, p.rationale, p.thought) == ("12", "12", "3 * 4 = 12.", "The answer is 15? No.")


def test_what_belongs_to_the_next_question_is_cut_and_kept():
    p = TASKS["nli"].parse("It is neutral.\n\nPremise: A.\nHypothesis: B.\nThe answer is entailment.", "cot")
    assert p.answer == "neutral"
    assert p.ignored.lstrip().startswith("Premise: A.")
    assert cut_run_on("Question: how many?\nAnswer: 12")[1] == "", "the question itself, restated first"
    assert own_turn("B<|eot_id|>C") == ("B", "<|eot_id|>C")


def test_statements_that_differ_are_told():
    p = TASKS["math"].parse("Answer: 15\nWait, I forgot the tip. Answer: 18", "cot")
    assert (p.answer, p.differs) == ("18", True)
    assert not TASKS["math"].parse("Answer: 18\nThe answer is 18.0.", "cot").differs


def test_a_recipe_names_statements_of_its_own():
    text = "3 boxes of 4: 12. Verdict >> 12\nThere were 15 of them once."
    assert TASKS["math"].parse(text, "cot").answer != "12"
    assert TASKS["math"].parse(text, "cot", stated=(r"verdict\s*>>",)).answer == "12"
    assert statements("Verdict >> 12", (r"verdict\s*>>",))[0].content == "12"


def test_the_reasoning_of_a_very_long_reply_is_kept_to_its_statement():
    before = "so " * LONGEST
    p = TASKS["math"].parse(f"{before}\nAnswer: 12", "cot")
    assert p.answer == "12"
    assert p.rationale == before.strip()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "word", ["word", "12", "Answer:", "not entailment", "if", "$1$", r"\boxed{1}", "</think>", "B is", "final best"]
)
def test_twenty_thousand_words_are_read_at_once(task, word):
    text = f"{word} " * 20_000
    start = time.process_time()
    TASKS[task].parse(text, TASKS[task].strategies[-1], choices=ROOMS)
    assert time.process_time() - start < 1  # 0.05 s on a quiet machine: benchmarks/reading.py


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_published_solutions_are_read_right(data_dir, split):
    math, nli = TASKS["math"], TASKS["nli"]
    for row in read_file(data_dir / "gsm8k" / f"{split}.jsonl"):
        gold = math.gold(row["answer"].split("####")[1])
        assert math.correct(math.parse(row["answer"], "cot").answer, gold), row["answer"]
    labels = {row["id"]: row["label"] for row in read_file(data_dir / "esnli" / f"{split}.jsonl")}
    for row in read_file(data_dir / "esnli_human" / f"{split}.jsonl"):
        assert nli.parse(row["completion"], "cot").answer == labels[row["id"]], row["completion"]
