"Asking through the store: failures, votes, JSON, further draws, conversations."

from dataclasses import replace

import pytest

from distill_study.config import Price, Sampling, StudyError
from distill_study.data.load import Example
from distill_study.data.world import items
from distill_study.models.engine import Engine, Failure
from distill_study.store.log import Store
from distill_study.tasks.families import Parsed, nli_turn
from distill_study.teach.sampling import Answer, Answers, elect, requests, sample_answers, summary, usage

EXAMPLES = [Example(f"e{i}", "math", (dict(role="user", content=f"{i}+2?"),), gold=str(i + 2)) for i in range(3)]


class Scripted(Engine):
    "Says what `script` gives for a request, or fails with it."

    name, weights = "scripted", "none"

    def __init__(self, script, name="scripted"):
        super().__init__("x")
        self.script, self.name = script, name

    def generate(self, requests):
        for i, r in enumerate(requests):
            said = self.script(r)
            if isinstance(said, Failure):
                yield i, said
            else:
                info = dict(dtype="bfloat16", share=0.5)
                yield i, self.record(r, said, finish_reason="stop", prompt_tokens=10, completion_tokens=1, info=info)


def four(request):
    return "4"


def ask(script, tmp_path, examples=EXAMPLES, strategy="vanilla", replay=False, **kw):
    return sample_answers(examples, strategy, engine=Scripted(script), store=Store(tmp_path, replay=replay), **kw)


def test_what_was_asked_is_not_asked_again(tmp_path):
    first, again = ask(four, tmp_path), ask(four, tmp_path)
    assert (first.new, first.reused, again.new, again.reused) == (3, 0, 0, 3)
    assert first.dtypes == again.dtypes == ("bfloat16",)
    assert [summary(first)[k] for k in ("n", "right", "tokens")] == [3, 1, 3]


def test_a_failed_request_is_a_wrong_answer_and_counted_by_itself(tmp_path):
    lines = []

    def lossy(r):
        return Failure("timeout", "ReadTimeout", 6) if r.id == "e0" else "4"

    got = ask(lossy, tmp_path, split="test", max_failures=0.5, say=lines.append)
    assert got.failed == dict(timeout=1) and [a.correct for a in got] == [False, False, True]
    assert [summary(got)[k] for k in ("n", "failed", "unreadable", "right", "new")] == [3, 1, 0, 1, 2]
    assert lines == ["first answer, to item 'e1': \"4\", read as '4'"]
    assert Store(tmp_path).ledger.entries()[0]["stage"] == "test, vanilla"


def test_what_answers_took():
    some = [
        Answer(str(i), "x", Parsed("4", "4"), True, "stop", 10, 100, float(i), 0.5, attempts=1 + (i == 3))
        for i in range(1, 21)
    ]
    u = usage(Answers("cot", some, 0, 20), Price(per_million_in=3, per_million_out=15))
    assert (u["prompt_tokens"], u["output_tokens"], u["tokens_per_second"]) == (2000, 200, 20.0)
    assert (u["requests"], u["attempts"]) == (20, 21)
    recorded = Answers("cot", [Answer("a", "x", Parsed("4", "4"), True, None, None, None, None)], 1, 0)
    assert usage(recorded)["output_tokens"] is None and usage(recorded, Price(per_hour=1))["cost"] is None


# --- several samples


def test_the_majority_decides_and_every_sample_is_paid_for(tmp_path):
    def wavering(r):
        return ("4", "5", "5", "Hm.", "4", "5")[r.sample]

    got = ask(wavering, tmp_path, sampling=Sampling(n=6, temperature=0.7))
    one = got.answers[0]
    assert (len(got), one.text, one.agreement, len(one.votes), got.new) == (3, "5", 0.5, 6, 18)
    assert (usage(got)["output_tokens"], usage(got)["prompt_tokens"]) == (18, 180)
    assert (summary(got)["samples"], summary(got)["agreement"]) == (6, 0.5)
    assert ask(wavering, tmp_path, sampling=Sampling(n=2, temperature=0.7)).reused == 6  # the first of more


def test_failures_alone_elect_a_failure():
    lost = Answer("e0", "", Parsed(None, None), False, None, None, None, None, failure=Failure("timeout"))
    none = elect((lost, replace(lost), replace(lost)))
    assert none.failure and none.agreement == 0


# --- asked again


def test_what_cannot_be_read_is_drawn_again(tmp_path):
    def slow(r):
        return "Hm." if r.sample < 2 or r.id == "e1" else "4"

    got = ask(slow, tmp_path, split="train", reasks=3)
    assert [(a.parsed.answer, len(a.unread)) for a in got] == [("4", 2), (None, 3), ("4", 2)]
    assert (got.new, summary(got)["asked_again"], usage(got)["output_tokens"]) == (3 + 3 + 3 + 1, 7, 10)
    replayed = ask(slow, tmp_path, split="train", reasks=3, replay=True)
    assert (replayed.new, [a.text for a in replayed]) == (0, [a.text for a in got])
    assert ask(slow, tmp_path, split="test").answers[0].unread == ()  # test answers are what they are


# --- as JSON


def test_json_is_read_in_whatever_state_it_comes(tmp_path):
    texts = ('{"reasoning": "0 + 2 = 2.", "answer": "2"}', "Sure: {'reasoning': '1 + 2', 'answer': 3,}", '{"reaso')
    got = ask(lambda r: texts[int(r.id[1])], tmp_path, strategy="cot", structured=True)
    read = [(a.parsed.answer, a.parsed.strict, a.correct) for a in got]
    assert read == [("2", "2", True), ("3", None, True), (None, None, False)]


@pytest.mark.parametrize(
    ("text", "field", "thought"),
    [("<think>Maybe 15?</think>\n\n4", "", "Maybe 15?"), ("4", "Maybe 15?", "Maybe 15?"), ("4", "", "")],
)
def test_a_bare_answer_after_reasoning_apart_is_a_stated_one(tmp_path, text, field, thought):
    class Thinking(Scripted):
        def generate(self, requests):
            for i, r in enumerate(requests):
                yield i, self.record(r, text, finish_reason="stop", info=dict(thought=field) if field else {})

    got = sample_answers(EXAMPLES, "cot", engine=Thinking(four), store=Store(tmp_path), reasks=1)
    assert got.answers[0].parsed.answer == "4"
    assert got.answers[0].parsed.thought == thought
    assert got.answers[0].parsed.stated is bool(thought)
    assert got.new == 3 if thought else 6  # without any reasoning it is asked again


def test_a_recipes_own_statements_are_read(tmp_path):
    def chatty(request):
        return "Of 7, 3 are gone. I pick 4."

    own, usual = (ask(chatty, tmp_path, strategy="cot", stated=s) for s in (("I pick",), ()))
    assert (own.answers[0].parsed.answer, own.answers[0].parsed.stated) == ("4", True)
    assert usual.answers[0].parsed.stated is False


def test_the_schema_is_that_of_the_family():
    assert requests(EXAMPLES, "cot", structured=True)[0].schema["required"] == ["reasoning", "answer"]
    pair = Example("p", "nli", (nli_turn("Tom sat.", "Tom stood."),), gold="contradiction")
    labels = requests([pair], "vanilla", structured=True)[0].schema["properties"]["answer"]["enum"]
    assert labels == ["entailment", "neutral", "contradiction"]


# --- summaries


def test_a_chain_of_density_is_read_and_cannot_be_put_to_the_vote(tmp_path):
    made = items("tiny-summ", "test", n=2)
    articles = [
        Example(f"s{i}", "summarization", (dict(role="user", content=x.question),), x.answer, None, x.meta)
        for i, x in enumerate(made)
    ]
    got = ask(lambda r: made[int(r.id[1])].rationale, tmp_path, articles, strategy="cod")
    assert [(len(a.parsed.rounds), a.correct, a.parsed.strict == a.parsed.answer) for a in got] == [(3, None, True)] * 2
    assert (summary(got)["accuracy"], summary(got)["format_failures"]) == (None, 0)
    with pytest.raises(StudyError, match="can't be put to the vote"):
        requests(articles, "cod", sampling=Sampling(n=3, temperature=0.7))
    assert requests(articles, "cod", structured=True)[0].schema is None


# --- conversations


def talk(i, n):
    turns = tuple(dict(role="user", content=f"{w} {i}?") for w in ("One", "Two", "Three")[:n])
    return Example(f"c{i}", "conversation", turns, meta=dict(reference=("Yes.",) * n))


def talker(r):
    "Says how many messages it sees; fails at the second turn of c1, and says nothing at the first one of c2."
    if r.id == "c1" and len(r.messages) == 4:
        return Failure("timeout", "ReadTimeout", 2)
    return "" if r.id == "c2" else f"That makes {len(r.messages)}."


def test_conversations_are_asked_in_waves(tmp_path):
    talks = [talk(i, n) for i, n in enumerate((3, 3, 2, 1))]
    got = ask(talker, tmp_path, talks, split="test", max_failures=0.5)
    two, four, six = (f"That makes {n}." for n in (2, 4, 6))
    assert [a.turns for a in got] == [(two, four, six), (two,), (), (two,)]
    ends = [(a.parsed.answer, a.failure and a.failure.reason) for a in got]
    assert ends == [(six, None), (None, "timeout"), (None, None), (two, None)]
    assert (got.new, got.failed, got.answers[0].tokens, got.answers[0].prompt_tokens) == (6, dict(timeout=1), 3, 30)
    assert [usage(got)[k] for k in ("output_tokens", "attempts", "requests")] == [6, 8, 7]
    assert (summary(got)["unreadable"], summary(got)["accuracy"]) == (1, None)
    assert Store(tmp_path).ledger.entries()[0]["stage"] == "test, vanilla, turn 2"
    more = ask(talker, tmp_path, talks, split="test", max_failures=0.5)
    assert (more.reused, more.new) == (6, 0)  # only what failed is asked
