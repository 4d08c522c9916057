"Answers in JSON, in whatever state they come."

import json
import time

import pytest
from hypothesis import given, settings, strategies as st

from distill_study.tasks.prompts import MOST, unpack

words = (
    st.text(st.characters(codec="utf-8", exclude_characters="{}[]\"'`\\\n\r"), min_size=1, max_size=40)
    .map(str.strip)
    .filter(bool)
)
LOOSE = (
    "{0}",
    "Sure, here it is:\n{0}",
    "```json\n{0}\n```",
    "```\n{0}\n```\nAnything else?",
    "{0}\n\nI hope this helps.",
    "\ufeff {0} ",
)


@given(words, words, st.sampled_from(LOOSE), st.integers(0, 4))
@settings(max_examples=150, deadline=None)
def test_what_was_answered_is_read_back(reasoning, answer, around, indent):
    said = json.dumps(dict(reasoning=reasoning, answer=answer), ensure_ascii=bool(indent % 2), indent=indent or None)
    text, exact = unpack(around.format(said), "cot")
    assert text == f"{reasoning}\nAnswer: {answer}" and exact == (around == "{0}")


@given(
    st.sampled_from("ABCD"),
    st.sampled_from(
        [
            "{{'answer': '{0}'}}",
            '{{"answer": "{0}",}}',
            '{{"answer": "{0}"',
            '{{"Answer" : "{0}"}}',
            '{{answer: "{0}"}}',
            '[{{"answer": "{0}"}}]',
            '{{"note": "", "answer": "{0}"}}',
            '{{"answer": "{0}"}}{{"answer": "Z"}}',
        ]
    ),
)
def test_bad_json_with_one_answer(letter, form):
    text, exact = unpack(form.format(letter), "vanilla")
    assert text == letter and not exact


@given(words)
def test_what_was_cut_off_before_its_answer_has_none(reasoning):
    whole = json.dumps(dict(reasoning=reasoning, answer="B"))
    for end in range(1, whole.index('"answer": "') + len('"answer": "') + 1):
        assert "B" not in unpack(whole[:end], "cot")[0].replace(reasoning, "").replace(whole[:end], "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "{}",
        "[]",
        "null",
        "true",
        "7",
        '"B"',
        '{"answer": null}',
        '{"answer": true}',
        '{"answer": {"a": 1}}',
        '{"other": "B"}',
        "{",
        "}{",
        "\ud800{",
    ],
)
def test_nothing_is_made_up(text):
    said, exact = unpack(text, "vanilla")
    assert said in ("", text) and not exact


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 20_000,
        "[" * 100_000,
        '{"answer": "' + "x" * 200_000,
        "{" + " " * 200_000,
        '{"answer": "B", ' * 5_000,
        "{'" * 50_000,
    ],
)
def test_no_text_takes_long(text):
    start = time.process_time()
    unpack(text, "vanilla")
    assert time.process_time() - start < 5 and MOST < 100_000
