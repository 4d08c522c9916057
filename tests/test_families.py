"Families that are scored, from the first question to the numbers: turn by turn, graded, compared, shown."

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from made_up import first_screen, made_up_grades, made_up_scores
from rouge_score.rouge_scorer import RougeScorer

from distill_study.analyse.findings import findings, headline
from distill_study.analyse.results import analyse, confusions, to_plain
from distill_study.analyse.stats import holm
from distill_study.config import ARMS, Curate, Sampling, StudyError, arms_under
from distill_study.data.load import Example, resolved
from distill_study.data.world import items
from distill_study.grading.truth import METRICS, _lines, distinct, grade, known_entities, main_metric, rouge
from distill_study.models.engine import Engine, EngineError, Failure
from distill_study.report.figures import accuracy_alt, accuracy_figure, png
from distill_study.report.grid import sections
from distill_study.report.render import check_page, entry, index_page, metrics, provenance
from distill_study.report.tables import arm_table, cases, cost_table, label_table, score_tables, test_table as tests_of
from distill_study.store.log import Store
from distill_study.study.plan import combination_from
from distill_study.tasks.families import NLI, TASKS, arms_of
from distill_study.teach.curate import curate
from distill_study.teach.sampling import Answer, Answers, sample_answers, summary as counts, usage
from distill_study.utils import ReportError

ATTACK = "<script>alert(1)</script>"
SUMM, CHAT = arms_under(("vanilla", "cod")), arms_under(("vanilla",))


def talk(id, n, reference=True):
    return Example(
        id,
        "conversation",
        tuple(dict(role="user", content=f"{w} of {id}?") for w in ("One", "Two", "Three", "Four")[:n]),
        meta=dict(reference=("Yes, it is.",) * n) if reference else {},
    )


class Parrot(Engine):
    "Says what it was told last, and counts how often it was asked; `odd` maps (id, turn) to something else."

    name, weights = "parrot", "none"

    def __init__(self, odd=None, stop_at=None):
        super().__init__("x", 4)
        self.odd, self.heard, self.stop_at = odd or {}, [], stop_at

    def generate(self, requests):
        for i, r in enumerate(requests):
            if self.stop_at == len(self.heard):
                raise KeyboardInterrupt
            self.heard.append((r.id, tuple(m["content"] for m in r.messages)))
            said = self.odd.get((r.id, len(r.messages) // 2), f"You said: {r.messages[-1]['content']}")
            yield (
                i,
                said
                if isinstance(said, Failure)
                else self.record(
                    r,
                    said,
                    finish_reason="length" if said.endswith("…") else "stop",
                    prompt_tokens=10 * len(r.messages),
                    completion_tokens=5,
                ),
            )


# --- conversations, turn by turn


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_the_model_sees_its_own_turns_and_never_the_references(tmp_path_factory, lengths):
    engine, ex = Parrot(), [talk(f"c{i}", n) for i, n in enumerate(lengths)]
    got = sample_answers(ex, "vanilla", engine=engine, store=Store(tmp_path_factory.mktemp("s")), split="test")
    assert [len(a.turns) for a in got] == lengths and got.new == sum(lengths) == len(engine.heard)
    for _, said in engine.heard:
        assert not any("Yes, it is" in s for s in said) and list(said[2::2]) == [f"You said: {s}" for s in said[1:-1:2]]
    assert usage(got)["prompt_tokens"] == sum(20 * k for n in lengths for k in range(1, n + 1)) and usage(got)[
        "n"
    ] == len(lengths)


def test_an_interrupted_conversation_goes_on_where_it_was(tmp_path):
    ex, first = [talk(f"c{i}", 3) for i in range(4)], Parrot(stop_at=6)
    with pytest.raises(KeyboardInterrupt):
        sample_answers(ex, "vanilla", engine=first, store=Store(tmp_path), split="train")
    second = Parrot()
    got = sample_answers(ex, "vanilla", engine=second, store=Store(tmp_path), split="train")
    assert len(second.heard) == 12 - 6 and got.reused == 6 and [len(a.turns) for a in got] == [3] * 4
    assert (
        sample_answers(ex, "vanilla", engine=Parrot(), store=Store(tmp_path, replay=True), split="train").reused == 12
    )


def test_a_failed_turn_ends_its_conversation_and_is_asked_again_next_time(tmp_path):
    ex = [talk(f"c{i}", 3) for i in range(4)]
    broken = Parrot({("c1", 2): Failure("http_500", "oops", 3)})
    got = sample_answers(ex, "vanilla", engine=broken, store=Store(tmp_path), split="test")
    assert (
        got.failed == {"http_500": 1}
        and [len(a.turns) for a in got] == [3, 1, 3, 3]
        and not any(id == "c1" and len(s) > 4 for id, s in broken.heard)
    )
    assert got.answers[1].parsed.answer is None and counts(got)["failed"] == 1
    mended = Parrot()
    again = sample_answers(ex, "vanilla", engine=mended, store=Store(tmp_path), split="test")
    assert (
        not again.failed
        and [id for id, _ in mended.heard] == ["c1", "c1"]
        and Store(tmp_path).ledger.entries()[0]["stage"] == "test, vanilla, turn 2"
    )


def test_a_conversation_that_outgrows_the_context_ends_and_the_others_go_on(tmp_path):
    class Short(Parrot):
        def generate(self, requests):
            long = {i: r for i, r in enumerate(requests) if r.id == "c1" and len(r.messages) > 4}
            yield from ((i, self.outgrown(r, 99)) for i, r in long.items())
            left = [i for i in range(len(requests)) if i not in long]
            for i, (_, answer) in zip(left, super().generate([requests[i] for i in left])):
                yield i, answer

    ex, engine = [talk(f"c{i}", 4) for i in range(3)], Short()
    got = sample_answers(ex, "vanilla", engine=engine, store=Store(tmp_path), split="test", reasks=2)
    assert (
        [len(a.turns) for a in got] == [4, 2, 4]
        and [a.truncated for a in got] == [False, True, False]
        and not got.failed
        and not any(i == "c1" and len(m) > 4 for i, m in engine.heard)
    )
    assert [
        d.reason for d in curate(ARMS["distilled/vanilla"], ex, answers=got, test=[], settings=Curate(near=None)).drops
    ] == ["truncated"] and usage(got)["output_tokens"] == 50
    assert grade(ex, {"student/vanilla": got})["overlap"][1] == grade(ex, {"student/vanilla": got})["overlap"][0] / 2
    assert (
        sample_answers(ex, "vanilla", engine=Short(), store=Store(tmp_path, replay=True), split="test", reasks=2).new
        == 0
    )


def test_too_many_failures_stop_in_the_wave_they_come_in(tmp_path):
    ex = [talk(f"c{i}", 2) for i in range(4)]
    with pytest.raises(EngineError, match="requests failed"):
        sample_answers(
            ex,
            "vanilla",
            engine=Parrot({(f"c{i}", 2): Failure("timeout") for i in range(3)}),
            store=Store(tmp_path),
            split="test",
        )


@pytest.mark.parametrize(
    "odd, reason, turns",
    [("", "unreadable", 1), ("it goes on…", "truncated", 3), (Failure("timeout"), "failed: timeout", 1)],
)
def test_a_conversation_with_a_bad_turn_is_no_training_row(tmp_path, odd, reason, turns):
    got = sample_answers(
        [talk("c0", 3), talk("c1", 3)],
        "vanilla",
        engine=Parrot({("c0", 2): odd}),
        store=Store(tmp_path),
        split="train",
        max_failures=0.5,
    )
    done = curate(
        ARMS["distilled/vanilla"],
        [talk("c0", 3), talk("c1", 3)],
        answers=got,
        test=[],
        settings=Curate(near=None, ngram=None),
    )
    assert [(d.id, d.reason) for d in done.drops] == [("c0", reason)] and len(got.answers[0].turns) == turns
    assert [m["role"] for m in done.rows[0]["messages"]] == ["system"] + ["user", "assistant"] * 3


def test_a_vote_over_texts_is_refused_before_anything_is_asked(tmp_path):
    engine = Parrot()
    with pytest.raises(StudyError, match="can't be put to the vote"):
        sample_answers(
            [talk("c", 2)], "vanilla", engine=engine, store=Store(tmp_path), sampling=Sampling(n=3, temperature=0.7)
        )
    assert not engine.heard


def test_recorded_answers_have_no_turns(tmp_path):
    recorded = Parrot()
    recorded.name = "recorded"
    with pytest.raises(StudyError, match="asked turn by turn"):
        sample_answers([talk("c", 2)], "vanilla", engine=recorded, store=Store(tmp_path))
    assert sample_answers([talk("c", 1)], "vanilla", engine=recorded, store=Store(tmp_path)).answers[0].turns


# --- grades


def graded_chat(tmp_path, odd=None, reference=True):
    ex = [talk(f"c{i}", 2, reference) for i in range(6)]
    return ex, grade(
        ex,
        {
            "student/vanilla": sample_answers(
                ex, "vanilla", engine=Parrot(odd), store=Store(tmp_path), split="test", max_failures=0.9
            )
        },
    )


def test_a_conversation_is_scored_over_all_the_turns_it_should_have(tmp_path):
    ex, whole = graded_chat(
        tmp_path / "a",
        {
            ("c0", 1): "Yes, it is.",
            ("c0", 2): "Yes, it is.",
            ("c1", 1): "Yes, it is.",
            ("c1", 2): Failure("timeout"),
            ("c2", 1): "",
        },
    )
    assert (
        whole["overlap"].tolist()[:3] == [1, 0.5, 0]
        and whole["failed"].tolist()[:3] == [False, True, False]
        and whole["overlap_strict"].tolist()[:3] == [1, 0, 0]
    )
    assert "correct" not in whole and whole["repetition"].notna().sum() >= 3


def test_without_references_there_is_no_overlap(tmp_path):
    ex, g = graded_chat(tmp_path, reference=False)
    assert main_metric("conversation", ex).key == "distinct2" and g["overlap"].isna().all()
    r = analyse(g, resamples=100, metric=METRICS["distinct2"], arms=CHAT)
    assert (
        "Not available without references: ROUGE-L overlap" in score_tables(r, "conversation")[0].note
        and "how varied" in headline(r).caveats
    )


def summaries(n=12):
    its = items("tiny-summ", "test", n=n)
    return [
        Example(f"s{i}", "summarization", (dict(role="user", content=it.question),), it.answer, None, it.meta)
        for i, it in enumerate(its)
    ], its


def answered(ex, strategy, texts):
    return Answers(
        strategy,
        [
            Answer(
                e.id,
                t,
                TASKS["summarization"].parse(t, strategy, choices=None, words=e.meta.get("words")),
                None,
                "stop",
                len(t.split()),
                9,
                0.1,
            )
            for e, t in zip(ex, texts)
        ],
        0,
        len(ex),
    )


def test_summaries_of_the_world_need_no_spacy(monkeypatch):
    ex, its = summaries()
    monkeypatch.setattr("distill_study.grading.truth._ner", lambda: pytest.fail("spaCy was asked"))
    g = grade(
        ex,
        {
            "teacher/cod": answered(ex, "cod", [it.rationale for it in its]),
            "teacher/vanilla": answered(ex, "vanilla", [it.meta["plain"] for it in its]),
        },
    )
    d = g.groupby("arm")["density"].mean()
    assert d["teacher/cod"] >= 1.3 * d["teacher/vanilla"] and (g["supported"] == 1).all()


def test_summaries_elsewhere_are_read_by_spacy():
    ex, its = summaries(3)
    ex = [replace(e, meta=dict(words=25)) for e in ex]
    assert known_entities(ex) is None and known_entities([]) is None
    g = grade(ex, {"teacher/vanilla": answered(ex, "vanilla", [it.meta["plain"] for it in its])})
    assert (g["density"] > 0).all()


@pytest.mark.parametrize("text", ["", "…", ATTACK, "a" * 10_000, "word " * 3000, "Ω 猫", "1. one\n2. two"])
def test_any_summary_has_a_row_without_faults(text):
    ex, _ = summaries(2)
    g = grade(ex, {"student/vanilla": answered(ex, "vanilla", [text, text])})
    assert len(g) == 2 and g["rougeLsum"].between(0, 1).all() and g["density"].between(0, 1).all()
    r = analyse(g, resamples=100, metric=METRICS["rougeLsum"])
    assert (
        check_page(
            "<h1>x</h1>"
            + "".join(t.html() for t in score_tables(r))
            + cases(
                g.assign(arm="student/vanilla"),
                ex,
                wrong="student/vanilla",
                right="teacher/vanilla",
                k=2,
                metric=METRICS["rougeLsum"],
            ).html()
        )
        == []
    )


@pytest.mark.parametrize(
    "a, b, most",
    [
        ("2023年经济增长了", "他在2023年出生", 0.4),
        ("В 2023 году экономика выросла", "Он родился в 2023", 0.5),
        ("อากาศดี 2023", "เขาเกิด 2023", 0.6),
        ("경제가 2023 성장했다", "그는 2023 태어났다", 0.4),
        ("भारत 2023 में बढ़ा", "वह 2023 जन्मा", 0.4),
    ],
)
def test_two_sentences_of_any_script_are_not_the_same_for_a_number(a, b, most):
    assert 0 < rouge(a, b)["rouge1"] < most
    assert rouge(a, a)["rougeLsum"] == pytest.approx(1)
    assert distinct([f"{a} {a}"], 1) == pytest.approx(distinct([a], 1) / 2)


@given(st.text(st.characters(max_codepoint=126), max_size=60), st.text("the cat’s _1.5, Cats–…“”\n", max_size=60))
def test_english_scores_are_those_of_rouge_score(a, b):
    usual = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    for reference in (a, b, "The cat sat on the running mat. Cats aren't dogs!"):
        if found := rouge(b, reference):
            expected = usual.score(_lines(reference), _lines(b))
            assert found == {k: v.fmeasure for k, v in expected.items()}


def test_dialogsum_is_scored_against_its_references(data_dir):
    from distill_study.config import Data
    from distill_study.data.load import load_data

    splits = load_data(Data(name="knkarthick/dialogsum", train=4, test=6))
    told = answered(splits.test, "vanilla", [e.gold if i % 2 else e.question for i, e in enumerate(splits.test)])
    g = grade(splits.test, {"teacher/vanilla": told})
    assert (
        main_metric("summarization", splits.test).key == "rougeLsum"
        and g["rougeLsum"].iloc[1::2].min() > 0.999
        and g["copied4"].iloc[::2].min() == 1
        and g["rougeLsum"].iloc[::2].max() < 0.6
    )


# --- results, sentences and pages of scored families


@pytest.fixture(scope="module")
def dense():
    return analyse(
        made_up_scores(), {"control/gold": f"no references {ATTACK}"}, resamples=200, metric=METRICS["rougeLsum"]
    )


def every(r, task="summarization"):
    f = findings(r, {"cod": dict(output_tokens=900)}, training={"distilled/cod": dict(seconds=3.0)})
    return f, [
        arm_table(r),
        *score_tables(r, task),
        tests_of(r),
        *(tests_of(r, key=k) for k in r.also),
        cost_table(r, {}, training={}),
        f,
        first_screen(r, f),
    ]


def test_nobody_is_right_in_a_scored_family(dense):
    f, shown = every(dense)
    text = " ".join(x.html() for x in shown) + accuracy_alt(dense)
    for word in ("accuracy", "Accuracy", " is right", "right answers", "McNemar", "Wilson", "nan"):
        assert word not in text, word
    assert (
        "ROUGE-Lsum" in text
        and "permutation" in text
        and "bootstrap" in text
        and check_page("<h1>x</h1><h2>y</h2>" + text.replace("h1>", "h2>")) == []
    )
    assert ATTACK not in text


def test_a_right_or_wrong_family_says_what_it_said():
    r = analyse(made_up_grades(), resamples=200)
    f = findings(r)
    text = " ".join(x.html() for x in (arm_table(r), tests_of(r), cost_table(r), f, first_screen(r, f)))
    for word in ("Accuracy", "Wilson", "McNemar", "right more often", "trained on reasoned answers"):
        assert word in text, word
    assert (
        not re.search(r"\bcod\b", text)
        and "ROUGE" not in text
        and "score" not in text.replace("Wilson's score", "")
        and not r.also
    )


@pytest.mark.parametrize(
    "arms",
    [
        ["student/vanilla"],
        ["teacher/cod"],
        ["distilled/cod", "student/vanilla"],
        ["teacher/vanilla", "student/vanilla", "distilled/vanilla"],
    ],
)
@pytest.mark.parametrize("n", [1, 30])
def test_hardly_anything_ran(arms, n):
    r = analyse(
        made_up_scores(n=n, level={a: 0.2 + 0.05 * i for i, a in enumerate(arms)}),
        resamples=100,
        metric=METRICS["rougeLsum"],
    )
    f, shown = every(r)
    assert (
        check_page("<h1>x</h1><h2>y</h2>" + "".join(x.html() for x in shown).replace("h1>", "h2>")) == []
        and len(f.entries) == 5
    )
    png(accuracy_figure(r))
    json.dumps(to_plain(list(shown)), allow_nan=False)
    if n < 3:
        assert f.entries[0].verdict.startswith(("Undefined", "None shown", "Not available"))


def test_scores_that_are_not_known_stay_unknown():
    g = made_up_scores()
    r = analyse(g.assign(rougeLsum=np.nan, rougeLsum_strict=np.nan), resamples=100, metric=METRICS["rougeLsum"])
    f, shown = every(r)
    assert r.gap(r.primary).value is None and "nan" not in "".join(x.html() for x in shown).lower().replace(
        "finance", ""
    )
    some = g.copy()
    some.loc[some["id"].isin([f"q{i}" for i in range(60)]), ["rougeLsum", "rougeLsum_strict"]] = np.nan
    assert analyse(some, resamples=100, metric=METRICS["rougeLsum"]).test("student/vanilla", "distilled/cod").n == 60


def test_where_density_is_the_main_measure_its_tests_are_counted_once():
    scores = made_up_scores()
    r = analyse(scores.assign(density_strict=scores["density"]), resamples=100, metric=METRICS["density"])
    made = [t for t in r.tests if t.p is not None]
    also = [t for t in r.also["grounded"] if t.p is not None]
    assert {t.family for t in made} == {len(made) + len(also)}
    assert [t.p_holm for t in made] == holm([t.p for t in made + also])[: len(made)]


def test_density_as_the_main_measure_is_written_in_its_own_unit():
    g = made_up_scores(
        level={"teacher/cod": 0.34, "student/vanilla": 0.18, "distilled/cod": 0.3, "distilled/vanilla": 0.2}
    )
    d = analyse(
        g.assign(density_strict=g["density"], rougeLsum=np.nan, rouge1=np.nan, rouge2=np.nan),
        resamples=200,
        metric=METRICS["density"],
    )
    f, shown = every(d)
    assert (
        "entities per token" in shown[0].html()
        and "points" not in " ".join(f.entries[0].sentences)
        and set(d.also) == {"grounded"}
    )
    assert f.entries[2].verdict.startswith("Yes: at once it writes more supported entities per token")
    assert "how much a summary names" in headline(d).caveats


def test_metrics_and_index_carry_the_measure(tmp_path, dense):
    made = provenance(combination_from("transformers:zoo/teacher", "zoo/student-s", data="tiny-summ"))
    m = to_plain(metrics(dense, made, found=findings(dense)))
    assert (
        m["metric"]["key"] == "rougeLsum"
        and set(m["arms"]) == set(SUMM)
        and m["arms"]["teacher/cod"]["scores"]["density"]["low"]
        and set(m["also"]) == {"rouge1", "rouge2", "density", "grounded"}
    )
    page = index_page(
        "demo",
        "",
        entries=[entry(m, "a/index.html")],
        path=tmp_path / "i.html",
        sections=sections([m | dict(serving={})]),
    )
    assert check_page(text := page.read_text(encoding="utf-8")) == [] and "ROUGE-Lsum, F1 × 100" in text


def test_cases_of_scores_show_both_and_escape(dense):
    ex = [replace(talk(f"q{i}", 2), id=f"q{i}") for i in range(120)]
    ex[0] = replace(ex[0], turns=(dict(role="user", content=ATTACK),) * 2)
    c = cases(dense.graded, ex, wrong="student/vanilla", right="distilled/cod", k=3, metric=METRICS["rougeLsum"])
    assert (
        c.total > 100
        and "lower" in c.html()
        and ATTACK not in c.html()
        and "1. &lt;script&gt;" in c.html()
        and c.to_dict()["measure"] == "ROUGE-Lsum"
    )


# --- labels


def nli(gold, **said):
    return pd.concat(
        [
            pd.DataFrame(
                dict(
                    arm=a.replace("__", "/"),
                    id=range(len(gold)),
                    gold=gold,
                    answer=x,
                    correct=[g == y for g, y in zip(gold, x)],
                    correct_strict=False,
                    format_ok=True,
                    parsed=True,
                    truncated=False,
                    stopped=True,
                    failed=False,
                    tokens=2.0,
                )
            )
            for a, x in said.items()
        ]
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NLI), st.sampled_from([*NLI, None])), min_size=1, max_size=40))
def test_macro_f1_is_the_mean_of_f1_by_hand(pairs):
    gold, said = map(list, zip(*pairs))
    c = confusions(nli(gold, student__vanilla=said), NLI, resamples=100)["student/vanilla"]
    total = {label: gold.count(label) + said.count(label) for label in NLI}
    each = [2 * sum(g == s == label for g, s in pairs) / n for label, n in total.items() if n]
    assert (
        c.macro_f1.value == pytest.approx(sum(each) / len(each))
        and c.macro_f1.low <= c.macro_f1.value <= c.macro_f1.high
        and c.counts.sum() == len(pairs)
    )


def test_labels_are_shown_and_strange_ones_refused():
    g = nli(["entailment", "neutral", "neutral"], student__vanilla=["entailment", None, "contradiction"])
    found = confusions(g, NLI, resamples=100)
    t = label_table(analyse(g, resamples=100), found)
    assert "Gold labels of the test items: entailment 33.3 %, neutral 66.7 %, contradiction 0.0 %" in t.note and t.rows[
        2
    ]["none"] == pytest.approx(1 / 3)
    assert found["student/vanilla"].counts.tolist() == [[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    with pytest.raises(ReportError, match="'maybe' is not in"):
        confusions(nli(["maybe"], student__vanilla=["neutral"]), NLI, resamples=100)


# --- what a family can have


@pytest.mark.parametrize(
    "name, arms, strategies",
    [("tiny-nli", 8, ("vanilla", "cot")), ("tiny-summ", 6, ("vanilla", "cod")), ("tiny-chat", 4, ("vanilla",))],
)
def test_default_arms_of_a_family(name, arms, strategies):
    c = resolved(combination_from("transformers:zoo/teacher", "zoo/student-s", data=name))
    assert (
        len(c.arms) == arms
        and c.teacher.strategies == strategies
        and resolved(c) == c
        and set(c.arms)
        <= set(arms_of(TASKS["nli" if arms == 8 else "summarization" if arms == 6 else "conversation"].name))
    )


def test_arms_of_another_family_are_left_out_and_none_at_all_is_an_error():
    c = combination_from(
        "transformers:zoo/teacher",
        "zoo/student-s",
        data="tiny-chat",
        options=dict(arms=["teacher/cot", "teacher/vanilla"]),
    )
    assert resolved(c).arms == ("teacher/vanilla",)
    with pytest.raises(StudyError, match="none of them is one of task conversation"):
        resolved(c.model_copy(update=dict(arms=("teacher/cot",))))
