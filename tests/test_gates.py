"A report says what it found in every outcome, and knows when it can't know: students that learned the form alone."

import numpy as np
import pandas as pd
import pytest
from made_up import LEVEL, made_up_scores

from distill_study.analyse.findings import findings, headline, outcome, power
from distill_study.analyse.results import Table, analyse, confusions
from distill_study.analyse.stats import BASE, CONSTANT, FORM, Interval, primary_of
from distill_study.config import arms_under
from distill_study.grading.truth import METRICS
from distill_study.report.figures import accuracy_figure
from distill_study.report.tables import arm_table, label_table

LABELS = ("entailment", "neutral", "contradiction")
N = 300
GOLD = [LABELS[i % 3] for i in range(N)]
RNG = np.random.default_rng(0)
SHUFFLED = list(RNG.permutation(GOLD))
COPIED = GOLD[-1:] + GOLD[:-1]  # the label of the item before
UNREADABLE = [None] * N


def always(label):
    return [label] * N


def right(share):
    "Answers of which so many are right, and the others wrong."
    return [g if i < share * N else LABELS[(LABELS.index(g) + 1) % 3] for i, g in enumerate(GOLD)]


def graded(**answers):
    "Grades of arms with these answers; `teacher`, `base`, `plain`, `short`, `long`, `gold` name them."
    names = dict(
        teacher="teacher/cot",
        base=BASE,
        plain="distilled/vanilla",
        short="distilled/cot-answer",
        long="distilled/cot-rationale",
        gold="control/gold",
        form="control/format",
    )
    fine = dict(format_ok=True, truncated=False, stopped=True, failed=False, tokens=3.0, text="")
    frames = []
    for name, given in answers.items():
        correct = [a == g for a, g in zip(given, GOLD)]
        parsed = [a is not None for a in given]
        rows = dict(arm=names[name], id=range(N), answer=given, gold=GOLD, parsed=parsed)
        frames.append(pd.DataFrame(rows | dict(correct=correct, correct_strict=correct) | fine))
    return pd.concat(frames, ignore_index=True)


def study(**answers):
    return analyse(graded(**dict(teacher=right(0.9), base=UNREADABLE) | answers), resamples=200)


def test_a_student_that_only_learned_the_form_closed_no_gap():
    r = study(plain=always("neutral"), short=always("neutral"), gold=always("neutral"))
    assert (r.gap_base, r.constant.level.value) == (CONSTANT, 1 / 3)
    assert r.gap("distilled/cot-answer").value == pytest.approx(0)
    first = findings(r).entries[0]
    assert first.verdict.startswith("None shown") and "measured from the best constant answer" in first.verdict
    text = " ".join(first.sentences)
    assert "The best constant answer, “contradiction” to every item, is right on 33.3 %" in text
    assert "closes 37.0 % of the way from student/vanilla to the teacher" in text
    assert "from the best constant answer (0) to teacher/cot (100)" in arm_table(r).note


@pytest.mark.parametrize("gold", [always("neutral"), SHUFFLED, COPIED, UNREADABLE])
def test_where_gold_teaches_nothing_no_claim_about_labels_is_tested(gold):
    r = study(plain=always("neutral"), short=right(0.6), long=right(0.7), gold=gold)
    assert CONSTANT in r.control_not_above
    _, labels, internalised, *_ = findings(r).entries
    assert labels.verdict == (
        "Not testable with answers alone: even gold answers bring no gain here. "
        "Written out, the reasoning takes the student from 0.0 % to 70.0 %."
    )
    assert internalised.verdict.startswith(
        "Not testable here, as in question 2: 60.0 % when it answers at once, 70.0 %"
    )
    assert sum("this run can't show what answers teach" in s for s in (*labels.sentences, *internalised.sentences)) == 1


@pytest.mark.parametrize("student", [always("neutral"), SHUFFLED, COPIED])
def test_a_student_that_knows_the_form_alone_gains_nothing(student):
    r = study(plain=student, short=student, long=student, gold=right(0.7))
    assert all(outcome(r, a) in ("form", "none") for a in r.distilled) and outcome(r, "control/gold") == "gain"
    gap, labels, internalised, *_ = findings(r).entries
    assert gap.verdict.startswith("None") and not labels.verdict.startswith("Yes")
    assert internalised.verdict.startswith(("Not shown", "No gain shown"))
    assert headline(r).sentence.startswith("Training on gold answers takes")


def test_labels_teach_something_where_they_teach_more_than_shuffled_ones():
    form = right(0.6)
    above = study(plain=right(0.6), short=right(0.7), gold=right(0.75), form=form)
    assert outcome(above, "distilled/cot-answer") == "gain" and outcome(above, "distilled/vanilla") == "form"
    assert findings(above).entries[1].verdict.startswith("Yes: trained on reasoned answers 70.0 %")
    assert (
        "Training on the teacher's plain answers takes it no further than shuffled answers (60 %)."
        in headline(above).more
    )
    no_more = study(plain=right(0.4), short=right(0.61), gold=right(0.75), form=form)
    _, labels, internalised, *_ = findings(no_more).entries
    assert labels.verdict.startswith(
        "Not shown, as they teach no more than the form: trained on reasoned answers 61.0 %"
    )
    assert internalised.verdict.startswith("Not shown: 61.0 % is no more than knowing the form of an answer brings.")
    nothing = study(plain=right(0.4), short=right(0.7), gold=right(0.6), form=form)
    assert nothing.control_not_above == (FORM,)
    assert "not significantly better than the student trained on shuffled answers" in " ".join(
        findings(nothing).entries[1].sentences
    )


def test_the_arm_that_a_report_leads_with_is_named_before_it_is_seen():
    r = study(plain=right(0.5), short=right(0.5), long=right(0.8))
    assert (r.primary, primary_of(r.ran, "distilled/vanilla")) == ("distilled/cot-rationale", "distilled/vanilla")
    assert (primary_of(["distilled/cot-answer"]), primary_of([BASE])) == ("distilled/cot-answer", None)
    verdict = findings(r).entries[0].verdict
    assert "by the student trained on reasoning; plain answers" in verdict and "best of" not in verdict
    named = analyse(r.graded, resamples=50, primary="distilled/vanilla")
    assert "by the student trained on plain answers; reasoned answers" in findings(named).entries[0].verdict


def test_what_arms_score_item_by_item_is_kept_for_other_seeds():
    r = study(plain=right(0.5))
    kept = r.per_item()
    assert (
        list(kept["arms"]) == ["teacher/cot", BASE, "distilled/vanilla", CONSTANT] and len(kept["sources"].split()) == N
    )
    assert [x == "1" for x in kept["arms"]["distilled/vanilla"].split()] == [a == g for a, g in zip(right(0.5), GOLD)]
    assert kept["arms"][CONSTANT].split().count("1") == N / 3


def test_where_gold_teaches_something_the_numbers_decide():
    r = study(plain=right(0.45), short=right(0.6), long=right(0.61), gold=right(0.65))
    assert r.control_not_above == ()
    _, labels, internalised, *_ = findings(r).entries
    assert labels.verdict.startswith("Yes: trained on reasoned answers 60.0 %, on plain ones 45.0 %.")
    assert internalised.verdict.startswith("Yes") and "As good as writing the reasoning out" in internalised.verdict
    worse = study(plain=right(0.45), short=right(0.6), long=right(0.8), gold=right(0.65))
    assert "it gives up 20.0 points" in findings(worse).entries[2].verdict


def test_an_untouched_student_above_the_constant_stays_what_gaps_are_measured_from():
    r = study(base=right(0.5), plain=right(0.6))
    assert r.gap_base == BASE
    assert r.gap("distilled/vanilla").value == pytest.approx(0.25)


def test_constants_are_named_and_no_number_of_items_is_promised():
    r = study(base=always("contradiction"), short=always("neutral"), plain=right(0.5), gold=always("neutral"))
    assert r.fixed_arms == [BASE, "distilled/cot-answer", "control/gold"]
    text = " ".join(findings(r).entries[0].sentences)
    assert "student/vanilla answers “contradiction” to 100.0 % of the items" in text
    assert power(r).value is None
    assert power(study(base=right(0.4), plain=right(0.5))).value is not None
    table = arm_table(r)
    assert table.rows[-1] == dict(table.rows[-1], arm="the best constant answer", accuracy=r.constant.level)
    assert {row["arm"]: row["common"] for row in table.rows if row["n"]}[BASE] == "contradiction (100.0 %)"
    assert len(accuracy_figure(r).axes[0].lines) > 0


@pytest.mark.parametrize("a_wins, b_wins, p", [(94, 4, 0.001), (4, 94, 0.001), (50, 48, 0.9)])
def test_a_judge_that_says_the_opposite_stands_in_the_finding(a_wins, b_wins, p):
    r = study(plain=right(0.5), gold=right(0.6))
    rate = Interval(b_wins / (a_wins + b_wins))
    win = dict(a=BASE, b="distilled/vanilla", n=a_wins + b_wins, a_wins=a_wins, b_wins=b_wins, rate=rate, p_holm=p)
    opposite = "The judge says the opposite: it prefers the untouched student, 94 to 4 of 98 comparisons."
    assert (opposite in findings(r, wins=[win]).entries[0].verdict) == (a_wins == 94)


def test_labels_that_are_never_given_are_named():
    r = study(plain=always("neutral"), short=right(0.5))
    found = confusions(r.graded, LABELS, resamples=100)
    table = label_table(r, found)
    assert "distilled/vanilla never answers entailment or contradiction." in table.note
    recall = {row["arm"]: row.get("recall") for row in table.rows}
    assert recall["distilled/vanilla"] == 0 and recall["teacher/cot"] == pytest.approx(0.9)


# --- the finding, in every outcome: read them aloud

ANSWERS = {  # what teacher, untouched and trained students answer, by outcome → the finding
    "the teacher's reasoning alone": (
        dict(base=right(0.3), plain=right(0.3), short=right(0.3), long=right(0.7), gold=right(0.3)),
        "Training on the teacher's reasoning takes the student from 30 % to 70 %, teacher 90 %. "
        "Training on answers alone, the teacher's or gold, shows no gain.",
    ),
    "all labels": (
        dict(base=right(0.4), plain=right(0.5), short=right(0.6), long=right(0.7), gold=right(0.8)),
        "Training on the teacher's reasoning takes the student from 40 % to 70 %, teacher 90 %. Training on the "
        "teacher's plain answers (50 %), the teacher's reasoned answers (60 %) or gold answers (80 %) helps as well.",
    ),
    "gold alone": (
        dict(base=right(0.4), plain=right(0.4), short=right(0.4), long=right(0.4), gold=right(0.8)),
        "Training on gold answers takes the student from 40 % to 80 %, teacher 90 %. Training on the teacher's "
        "reasoning, its plain answers or its reasoned answers shows no gain.",
    ),
    "some learn the form alone": (
        dict(base=right(0.1), plain=always("neutral"), short=right(0.6), gold=always("neutral")),
        "Training on the teacher's reasoned answers takes the student from 10 % to 60 %, teacher 90 %, the "
        "constant answer “contradiction” 33 %. Training on the teacher's plain answers or gold answers takes it no "
        "further than always answering “contradiction” (33 %).",
    ),
    "one gets worse": (
        dict(base=right(0.5), plain=right(0.2), short=right(0.8)),
        "Training on the teacher's reasoned answers takes the student from 50 % to 80 %, teacher 90 %. Training on the "
        "teacher's plain answers (20 %) makes it worse.",
    ),
    "an unreadable student": (
        dict(plain=right(0.5)),
        "Training on the teacher's plain answers takes the student from 0 % (100 % of its answers can't be read) to "
        "50 %, teacher 90 %, the constant answer “contradiction” 33 %.",
    ),
    "constant students": (
        dict(base=always("neutral"), plain=always("neutral"), gold=always("neutral")),
        "No student trained here does better than always answering “contradiction” (33 %): the best, trained on the "
        "teacher's plain answers, is right on 33 %, teacher 90 %.",
    ),
    "constant students, unreadable before": (
        dict(plain=always("neutral"), short=SHUFFLED),
        "No student trained here does better than always answering “contradiction” (33 %): the best, trained on the "
        "teacher's plain answers, is right on 33 %, teacher 90 %. Before training, 100 % of the student's answers "
        "can't be read.",
    ),
    "no gain": (
        dict(base=right(0.5), plain=right(0.5), short=right(0.51), long=right(0.52), gold=right(0.5)),
        "No training significantly improves the student: untouched 50 %, at best 52 % when trained on the teacher's "
        "reasoning, teacher 90 %.",
    ),
    "no gain, and one worse": (
        dict(base=right(0.5), plain=right(0.2), short=right(0.5)),
        "No training significantly improves the student: untouched 50 %, at best 50 % when trained on the teacher's "
        "reasoned answers, teacher 90 %. Training on the teacher's plain answers (20 %) makes it worse.",
    ),
    "a loss": (
        dict(base=right(0.5), plain=right(0.2)),
        "Training makes the student worse: from 50 % to 20 % (trained on the teacher's plain answers), teacher 90 %.",
    ),
    "losses": (
        dict(base=right(0.5), plain=right(0.2), short=right(0.3)),
        "Training makes the student worse: from 50 % to 30 % at best (trained on the teacher's reasoned answers), "
        "teacher 90 %.",
    ),
    "a student that is never read again": (
        dict(base=right(0.5), plain=UNREADABLE),
        "Training makes the student worse: from 50 % to 0 % (trained on the teacher's plain answers), teacher 90 %. Of "
        "the answers of the student trained on the teacher's plain answers, 100 % can't be read.",
    ),
    "a teacher that is not better": (
        dict(teacher=right(0.5), base=right(0.5), plain=right(0.49)),
        "The teacher (50 %) is not significantly better than the untouched student (50 %): there is nothing to distil "
        "here.",
    ),
    "a constant teacher": (
        dict(teacher=always("neutral"), plain=always("neutral")),
        "The teacher (33 %) is not significantly better than always answering “contradiction” (33 %): there is nothing "
        "to distil here.",
    ),
    "a gain without the teacher": (
        dict(teacher=right(0.5), base=right(0.5), plain=right(0.5), gold=right(0.8)),
        "Training on gold answers takes the student from 50 % to 80 %, though the teacher (50 %) is not significantly "
        "better than the untouched student (50 %). Training on the teacher's plain answers shows no gain.",
    ),
}
CHAT = {"teacher/vanilla": 0.3, "student/vanilla": 0.2}
SCORES = {  # family, level of each arm → the finding
    "dense summaries": (
        ("summarization", LEVEL),
        "Training on the teacher's dense summaries takes the student's ROUGE-Lsum from 18.7 to 29.4, teacher 34.5. "
        "Training on the teacher's plain summaries (26.6) helps as well.",
    ),
    "no better summaries": (
        ("summarization", LEVEL | {"distilled/cod": 0.18, "distilled/vanilla": 0.18}),
        "No training significantly improves the student's ROUGE-Lsum: untouched 18.7, at best 18.6 when trained on the "
        "teacher's plain summaries, teacher 34.5.",
    ),
    "summaries no better than before": (
        ("summarization", dict.fromkeys(("teacher/vanilla", "teacher/cod", BASE, "distilled/vanilla"), 0.2)),
        "The teacher (ROUGE-Lsum 20.5) is not significantly better than the untouched student (20.7): there is nothing "
        "to distil here.",
    ),
    "replies": (
        ("conversation", CHAT | {"distilled/vanilla": 0.28}),
        "Training on the teacher's replies takes the student's ROUGE-L overlap from 20.4 to 28.5, teacher 30.1.",
    ),
    "worse replies": (
        ("conversation", CHAT | {"distilled/vanilla": 0.12}),
        "Training makes the student's ROUGE-L overlap worse: from 20.4 to 12.5 (trained on the teacher's replies), "
        "teacher 30.1.",
    ),
}


def whole(found):
    "A headline's finding and what else came out, as one text."
    return f"{found.sentence} {found.more}".strip()


def scored(task, level):
    key, strategies = dict(summarization=("rougeLsum", ("vanilla", "cod")), conversation=("overlap", ("vanilla",)))[
        task
    ]
    return analyse(made_up_scores(task, level=level), resamples=200, metric=METRICS[key], arms=arms_under(strategies))


@pytest.mark.parametrize("answers, sentence", ANSWERS.values(), ids=ANSWERS)
def test_the_finding_of_a_family_that_is_graded(answers, sentence):
    found = headline(study(**answers))
    print(f"{found.sentence}\n  {found.more}\n  {found.caveats}")
    assert whole(found) == sentence and ". " not in found.sentence
    assert found.caveats.startswith("300 test items, one training run per student (seed 0).")


@pytest.mark.parametrize("of, sentence", SCORES.values(), ids=SCORES)
def test_the_finding_of_a_family_that_is_scored(of, sentence):
    found = headline(scored(*of))
    print(f"{found.sentence}\n  {found.more}\n  {found.caveats}")
    assert whole(found) == sentence and ". " not in found.sentence and ("words shared" in found.caveats)


@pytest.mark.parametrize(
    "arms, sentence",
    [
        (("teacher", "base"), "No student was trained here: teacher, reasoning first 90 %; untouched student 30 %."),
        (
            ("teacher", "long"),
            "Whether training helps was not measured, as the untouched student was not asked: the best student, "
            "trained on the teacher's reasoning, is right on 70 %, teacher 90 %.",
        ),
    ],
)
def test_the_finding_where_something_did_not_run(arms, sentence):
    given = dict(teacher=right(0.9), base=right(0.3), long=right(0.7))
    assert headline(analyse(graded(**{a: given[a] for a in arms}), resamples=50)).sentence == sentence


def test_the_finding_where_nothing_can_be_graded():
    none = graded(base=right(0.3)).iloc[:0]
    assert headline(analyse(none, resamples=50)).sentence == "Nothing could be graded: no arm has answers."
    scores = made_up_scores().assign(rougeLsum=np.nan, rougeLsum_strict=np.nan)
    found = headline(analyse(scores, resamples=50, metric=METRICS["rougeLsum"]))
    assert (found.kind, found.sentence) == ("nothing", "Nothing could be scored: no answer has a reference.")


def test_what_asking_alone_brings_is_part_of_the_finding():
    asked = graded(teacher=right(0.9), base=right(0.2), long=right(0.8))
    cot = graded(base=right(0.6)).assign(arm="student/cot")
    found = headline(analyse(pd.concat([asked, cot]), resamples=200)).more
    assert found.endswith("Asking the untouched student to reason first, without training, already gives 60 %.")


def test_caveats_say_where_it_fails_what_is_never_answered_and_what_a_judge_prefers():
    r = study(base=right(0.2), plain=[x if x != "entailment" else "neutral" for x in right(0.9)])
    ends = dict(easy=Interval(0.8, 0.7, 0.9), hard=Interval(0.1, 0.0, 0.2))
    levels = Table("", (), (dict(arm="distilled/vanilla") | ends,))
    win = dict(a=BASE, b="distilled/vanilla", n=98, a_wins=94, b_wins=4, rate=Interval(4 / 98), p_holm=0.001)
    found = headline(r, wins=[win], levels=levels, labels=confusions(r.graded, LABELS, resamples=50))
    assert found.more.endswith(
        "The judge says the opposite: it prefers the untouched student, 94 to 4 of 98 comparisons."
    )
    assert found.caveats == (
        "300 test items, one training run per student (seed 0). Trained on the teacher's plain answers, the student is "
        "right on 80 % of the “easy” items and 10 % of the “hard” items. The trained student never answers entailment."
    )
    balanced = headline(r, levels=Table("", (), (dict(arm="distilled/vanilla", easy=ends["easy"], hard=ends["easy"]),)))
    assert "items and" not in balanced.caveats
