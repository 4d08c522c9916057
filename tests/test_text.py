"The measures of texts against figures worked out by hand, against each other, and on text of every kind."

import re
from types import SimpleNamespace

import pytest
from hypothesis import given, settings, strategies as st

from distill_study.config import StudyError
from distill_study.grading import truth as textstats
from distill_study.grading.truth import (
    FAMILY,
    METRICS,
    chat_scores,
    copied,
    density,
    entities,
    find_entities,
    main_metric,
    ngrams,
    rouge,
    summary_scores,
    supported,
    tokens,
    words,
)

ODD = [
    "",
    " \n\t",
    "…!?",
    "\u200b",
    "\x00\x07",
    "Ωmega Ünïcode ١٢٣ 猫は寝る",
    "a" * 5000,
    "<script>alert(1)</script>",
    "1. 2. 3.",
    "'s",
    "’",
    "\ud800",
    "A\u0301da",
    "🙂 🙂",
    "the the the the the",
]
listed = st.lists(st.sampled_from("abcdef"), max_size=25)


@pytest.mark.parametrize("text", ODD)
def test_odd_text_has_measures_and_no_faults(text):
    for known in (set(), {"Ada", "", " ", text}):
        s = summary_scores(text, text or "x", reference=text, known=known)
        assert list(s) == list(FAMILY["summarization"])
        assert all(v is None or 0 <= v for v in s.values()) and all(
            s[k] is None or s[k] <= 1 for k in s if k not in ("words", "compression")
        )
    assert set(chat_scores((text,), (text,), asked=1)) == set(FAMILY["conversation"])


@pytest.mark.parametrize("text", ODD)
def test_spacy_reads_odd_text(text):
    assert isinstance(entities(text), tuple)


@given(listed, listed, st.integers(1, 4))
def test_shares_stay_between_0_and_1(summary, source, n):
    share = copied(summary, source, n=n)
    assert (share is None) == (len(summary) < n) and (share is None or 0 <= share <= 1)
    assert copied(summary, summary, n=n) in (None, 1.0)
    if share == 1 and n > 1:
        assert copied(summary, source, n=n - 1) == 1  # copied runs are copied words


@given(st.text(max_size=200))
@settings(max_examples=60)
def test_words_are_tokens_that_are_no_punctuation(text):
    assert len(words(text)) <= len(tokens(text)) and "".join(tokens(text)) == re.sub(r"\s+", "", text)


def test_density_is_entities_over_tokens_and_counts_each_once():
    known = {"Ada Brown", "Elm House"}
    assert density("Ada Brown bought Elm House.", known) == 2 / 6
    assert density("Ada Brown, Ada Brown, Ada Brown!", known) == 1 / 9
    assert density("", known) == 0 == density("Nobody came.", known)


@pytest.mark.parametrize(
    "text, found",
    [
        ("Ada Brown's house", ("Ada Brown",)),
        ("Ada Brown’s house", ("Ada Brown",)),
        ("Ada Browning", ()),
        ("Brown Ada", ("Brown",)),
        ("(Ada Brown)", ("Ada Brown",)),
        ("Ada\nBrown", ("Ada Brown",)),
        ("ADA BROWN", ()),
        ("1,250 of 250", ("1,250", "250")),
        ("on 3 May", ("3 May",)),
    ],
)
def test_known_entities_are_found_as_whole_words_longest_first(text, found):
    assert entities(text, ["Brown", "Ada Brown", "250", "1,250", "3 May", "May", "3"]) == found


def test_entities_are_a_collection_of_any_kind():
    for kind in (list, tuple, set, frozenset):
        assert entities("Ada and Ben", kind(["Ben", "Ada"])) == ("Ada", "Ben")


def test_the_longest_known_entity_wins_and_its_parts_are_not_counted_again():
    assert entities("The Bank of Elm Town", {"Bank", "Bank of Elm Town", "Elm Town"}) == ("Bank of Elm Town",)


def test_spacy_reads_each_text_once_and_in_batches(monkeypatch):
    class Pipe:
        calls = 0

        def pipe(self, parts, as_tuples, batch_size):
            Pipe.calls += 1
            return [
                (SimpleNamespace(ents=[SimpleNamespace(text=w) for w in p.split() if w[0].isupper()]), t)
                for p, t in parts
            ]

    monkeypatch.setattr(textstats, "_FOUND", {})
    monkeypatch.setattr(textstats, "_ner", lambda: Pipe())
    find_entities(["Ada met Ben", "Ben left", "Ada met Ben"])
    assert (Pipe.calls, entities("Ada met Ben"), entities("Ben left")) == (
        1,
        ("Ada", "Ben"),
        ("Ben",),
    ) and Pipe.calls == 1
    assert entities("the Ada " + "x " * 15_000 + "Cora") == ("Ada",)  # the first 20,000 characters are read


@pytest.mark.parametrize("gone", [("spacy",), textstats._MODELS])
def test_a_missing_model_is_one_message_before_any_work(monkeypatch, gone):
    real = textstats.find_spec
    monkeypatch.setattr(textstats, "find_spec", lambda n: None if n in gone else real(n) if n == "spacy" else object())
    with pytest.raises(StudyError, match="spaCy with its English model is not installed") as e:
        textstats.need_ner()
    assert "spacy download en_core_web_sm" in str(e.value) and "[ner]" in str(e.value) and "\n" not in str(e.value)


def test_rouge_is_what_the_package_gives():
    from rouge_score.rouge_scorer import RougeScorer

    a, b = (
        "The quick brown fox jumps over the lazy dog. It was quick.",
        "The quick brown dog jumps on the log. It was slow.",
    )
    ours, theirs = rouge(a, b), RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(b, a)
    assert all(ours[k] == pytest.approx(v.fmeasure) for k, v in theirs.items())
    assert (
        rouge("Cora left. Ada came.", "Ada came. Cora left.")["rougeLsum"]
        == 1
        > rouge("Cora left. Ada came.", "Ada came. Cora left.")["rougeL"]
    )  # sentence by sentence


@pytest.mark.parametrize(
    "text, source, share",
    [
        ("It cost 1,250.", "1,250 coins", 1),
        ("It cost 1,250.", "250 coins", 0),
        ("Brown came.", "Ada Brown came.", 1),
        ("Ada Brown came.", "Ada and Brown came.", 0),
        ("ADA BROWN and Dan", "Ada Brown", 0),
        ("Nobody came.", "x", None),
        ("", "x", None),
    ],
)
def test_support_is_word_for_word(text, source, share):
    assert supported(text, source, known={"Ada Brown", "Brown", "Dan"} if text.isascii() else set()) == share


def test_a_missing_turn_counts_as_nothing_shared():
    assert (
        chat_scores(("Yes please",), ("Yes please", "Bye"), asked=2)["overlap"] == 0.5
        and chat_scores(("Yes please",), ("Yes please", "Bye"), asked=2)["words"] == 1
    )
    assert (
        chat_scores(("Yes please", "and more", "turns"), ("Yes please",), asked=3)["overlap"] == 1
    )  # turns without a reference don't count


def test_main_metric_needs_references_on_half_of_the_items():
    def items(k, n):
        return [
            SimpleNamespace(gold="x" if i < k else None, meta=dict(reference=("x",)) if i < k else {}) for i in range(n)
        ]

    assert [main_metric("summarization", items(k, 10)).key for k in (0, 4, 5, 10)] == [
        "density",
        "density",
        "rougeLsum",
        "rougeLsum",
    ]
    assert [main_metric("conversation", items(k, 4)).key for k in (0, 2)] == ["distinct2", "overlap"] and main_metric(
        "nli", items(0, 4)
    ).key == "correct"


def test_every_measure_has_a_heading_and_a_name():
    assert all(m.head and m.name and m.scale in (1, 100) for m in METRICS.values()) and ngrams([], 1) == []
