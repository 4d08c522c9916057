"Answers in JSON, in whatever state they come."

import json
import time

import pytest
from hypothesis import given, settings, strategies as st

from distill_study.tasks.families import TASKS
from distill_study.tasks.reading import MOST, json_fields

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
    assert json_fields(around.format(said), "cot") == (reasoning, answer, around == "{0}")


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
            '{{"final_answer": "{0}"}}',
            '{{"answer_choice": "{0}"}}',
            '{{"note": "", "answer": "{0}"}}',
            '{{"answer": "{0}"}}{{"answer": "Z"}}',
        ]
    ),
)
def test_bad_json_with_one_answer(letter, form):
    assert json_fields(form.format(letter), "vanilla") == ("", letter, False)


@given(words)
@settings(deadline=None)
def test_what_was_cut_off_before_its_answer_has_none(reasoning):
    whole = json.dumps(dict(reasoning=reasoning, answer="B"))
    for end in range(1, whole.index('"answer": "') + len('"answer": "') + 1):
        fields = json_fields(whole[:end], "cot")
        assert fields is None or fields[1] is None


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
    fields = json_fields(text, "vanilla")
    assert fields is None or fields[1:] == (None, False)
    assert TASKS["nlu_qa"].parse(text, "vanilla", choices=("x", "y"), form=True).answer in (
        None,
        "B" if text == '"B"' else None,
    )


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
    json_fields(text, "vanilla")
    assert time.process_time() - start < 5 and MOST < 100_000
