"Parsers read back what their prompts ask for, however it is dressed, and never invent an answer."

import json
import os
import re
import signal
import threading
import time

import pytest
from hypothesis import given, settings, strategies as st

from distill_study.tasks.families import NLI, PARAPHRASES, SYSTEM, TASKS, Checker, Parsed, target
from distill_study.tasks.reading import arithmetic, from_json, normal, number, read_label, read_letter, rounds

few = settings(max_examples=100, deadline=None)
ROOMS = ("hall", "barn", "attic", "wine cellar", "cellar")
SCRIPTS = ("0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９", "۰۱۲۳۴۵۶۷۸۹", "๐๑๒๓๔๕๖๗๘๙", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗")
WIDE = {i: i + 0xFEE0 for i in range(0x21, 0x7F)}

script = st.sampled_from(SCRIPTS)
space = st.sampled_from(["", " ", "\n", "  \n\n", "\t", "\u00a0", "\u3000"])
casing = st.sampled_from([str, str.upper, str.lower, str.title])


def same(x):
    return x


wrap = st.sampled_from(
    [
        same,
        "**{}**".format,
        "*{}*".format,
        "`{}`".format,
        "_{}_".format,
        '"{}"'.format,
        "({})".format,
        "[{}]".format,
        "{}.".format,
        "**{}.**".format,
        "“{}”".format,
        "```\n{}\n```".format,
        "```text\n{}\n```".format,
        "~~~\n{}\n~~~".format,
    ]
)
lead = st.sampled_from(
    [
        "",
        "Answer: ",
        "answer: ",
        "ANSWER:\n",
        "**Answer:** ",
        "**Answer**: ",
        "### Answer: ",
        "The answer is ",
        "So the final answer is: ",
        "Because of it.\nAnswer: ",
        "Thus, the correct answer is ",
    ]
)
strategy = st.sampled_from(["vanilla", "cot"])


def digits(text, script):
    return text.translate({ord(a): b for a, b in zip("0123456789", script)})


# --- what the prompt asks for, in any dress


@few
@given(
    st.integers(-(10**9), 10**9) | st.decimals(-(10**6), 10**6, places=2), script, space, space, wrap, lead, strategy
)
def test_a_number_is_read_in_any_dress(value, script, before, after, wrap, lead, how):
    text = digits(f"{value}", script)
    p = TASKS["math"].parse(before + lead + wrap(text) + after, how)
    assert TASKS["math"].correct(p.answer, str(value))


@few
@given(
    st.integers(1000, 10**9), script, st.sampled_from(",") | st.sampled_from(["_", "'", " ", "\u202f", "\u00a0"]), lead
)
def test_thousands_may_be_set_apart(value, script, mark, lead):
    text = digits(f"{value:,}".replace(",", mark), script)
    assert TASKS["math"].parse(lead + text + ".", "cot").answer == str(value) or not lead


@few
@given(st.sampled_from(range(5)), casing, st.booleans(), space, space, wrap, lead, strategy, st.booleans())
def test_a_letter_is_read_in_any_dress(at, casing, with_text, before, after, wrap, lead, how, wide):
    said = wrap("ABCDE"[at]) if not with_text else f"({'ABCDE'[at]}) {casing(ROOMS[at])}"
    text = before + lead + said + after
    assert (
        TASKS["nlu_qa"]
        .parse(
            text.translate(WIDE) if wide and not lead and "`" not in text and "~" not in text else text,
            how,
            choices=ROOMS,
        )
        .answer
        == "ABCDE"[at]
    )


WORDS_OF = {
    "entailment": ("entailment", "entails", "entailed"),
    "neutral": ("neutral", "undetermined"),
    "contradiction": ("contradiction", "contradicts", "contradictory", "contradicted"),
}


@few
@given(st.sampled_from(NLI), st.data(), casing, space, space, wrap, lead, strategy, st.booleans())
def test_a_label_is_read_in_any_dress(gold, data, casing, before, after, wrap, lead, how, wide):
    text = before + lead + wrap(casing(data.draw(st.sampled_from(WORDS_OF[gold])))) + after
    assert (
        TASKS["nli"].parse(text.translate(WIDE) if wide and "`" not in text and "~" not in text else text, how).answer
        == gold
    )


line = (
    st.text(st.characters(codec="utf-8", categories=["L", "N", "Zs"]), min_size=1, max_size=60)
    .map(lambda t: "Tom " + " ".join(t.split()))
    .map(str.strip)
)
four = st.lists(line, min_size=4, max_size=4)
number_of = st.sampled_from(
    [
        "{i}. {t}",
        "{i}) {t}",
        "{i}: {t}",
        "({i}) {t}",
        "Round {i}: {t}",
        "**Round {i}:** {t}",
        "**Round {i}:**\n{t}",
        "### Round {i}\n{t}",
        "{i}.\n{t}",
        "**{i}.** {t}",
        "- {i}. {t}",
        "Summary {i}: {t}",
        "**{i}. {t}**",
        "ROUND {i} - {t}",
    ]
)


@few
@given(
    four,
    number_of,
    script,
    st.sampled_from(["\n", "\n\n", "\r\n"]),
    st.sampled_from(["", "Here are the four rounds:\n\n", "Sure!\n"]),
    st.booleans(),
)
def test_a_chain_is_read_in_any_dress(texts, form, script, between, intro, fenced):
    chain = between.join(form.format(i=digits(str(i), script), t=t) for i, t in enumerate(texts, 1))
    said = intro + (f"```\n{chain}\n```" if fenced else chain)
    p = TASKS["summarization"].parse(said, "cod")
    assert (p.answer, p.rounds) == (texts[3], tuple(texts[:3]))


@few
@given(
    four, st.sampled_from([None, 1, "  "]), st.sampled_from(["list", "objects", "rounds", "numbered"]), st.booleans()
)
def test_a_chain_is_read_from_json(texts, indent, shape, fenced):
    value = dict(
        list=texts,
        objects=[dict(missing="Rome; 1990", summary=t) for t in texts],
        rounds=dict(rounds=texts),
        numbered={str(i): t for i, t in enumerate(texts, 1)},
    )[shape]
    said = json.dumps(value, indent=indent, ensure_ascii=False)
    assert rounds(f"```json\n{said}\n```" if fenced else said) == tuple(texts)


@pytest.mark.parametrize(
    "text, want",
    [
        (
            "1. a cat\n2. Tom\n3. Tom sat\n4. Tom sat in\nRome.",
            ("a cat", "Tom", "Tom sat", "Tom sat in Rome."),
        ),  # a line that was broken
        ("1. a\n2. b\n3. c\n4. d\n\n1. e\n2. f", ("a", "b", "c", "d")),  # a second chain of its own
        ("1. a\n2. b\n4. d", ("a", "b", "d")),
        ("Missing entities: Rome\n1. a\nMissing_Entities: Tom\n2. b", ("a", "b")),
        (
            "1. In 1990 it rained.\n2. In 1990, 12 came.\n3. c\n4. 12 came in 1990.",
            ("In 1990 it rained.", "In 1990, 12 came.", "c", "12 came in 1990."),
        ),
        ("a\n\nb\n\nc\n\nd", ("a", "b", "c", "d")),
        ("[", ("[",)),
        ("[]", ()),
        ("{}", ()),
        ("[1, 2]", ()),
        ("", ()),
        ("1.", ()),
        ("```\n```", ()),
    ],
)
def test_odd_chains(text, want):
    assert rounds(text) == want


@few
@given(
    line,
    st.sampled_from(
        [
            "{}",
            "Summary: {}",
            "**Summary:** {}",
            '"{}"',
            "“{}”",
            "Here is a summary of the text:\n\n{}",
            "Sure! Here's the summary:\n{}",
            "```\n{}\n```",
            "\n{}\n",
            "## Summary:\n{}",
        ]
    ),
)
def test_a_summary_is_read_in_any_dress(text, form):
    assert TASKS["summarization"].parse(form.format(text), "vanilla").answer == text


@few
@given(
    line,
    st.sampled_from(
        [
            "{}",
            "Assistant: {}",
            "**Assistant:** {}",
            "{}\nUser: and then?",
            "{}\n\nHuman: no\nAssistant: yes",
            "{}<|im_end|>\n<|im_start|>user",
        ]
    ),
)
def test_a_reply_ends_where_the_user_speaks(text, form):
    p = TASKS["conversation"].parse(form.format(text), "vanilla")
    assert p.answer == text and p.strict == (text if form == "{}" else None)


SAID = {
    "math": st.integers(0, 10**6).map(str),
    "nlu_qa": st.sampled_from("ABCDE"),
    "nli": st.sampled_from(NLI),
    "summarization": line,
    "conversation": line,
}


@pytest.mark.parametrize("task, strategy", SYSTEM)
def test_the_strict_reader_reads_what_the_prompt_asks_for(task, strategy):
    @few
    @given(SAID[task], st.lists(line, min_size=3, max_size=3))
    def check(answer, earlier):
        before = "\n".join(f"{i}. {t}" for i, t in enumerate(earlier, 1)) if strategy == "cod" else earlier[0]
        p = TASKS[task].parse(target(strategy, answer, rationale=before), strategy, choices=ROOMS)
        assert p.strict == p.answer == answer and p.stated and p.rationale == ("" if strategy == "vanilla" else before)
        if strategy == "cod":
            assert p.rounds == tuple(earlier)

    check()


# --- nothing is invented

anything = st.text(max_size=200) | st.lists(
    st.sampled_from(
        [
            "Answer:",
            "the answer is",
            "not",
            "A",
            "b)",
            "(c)",
            "hall",
            "cellar",
            "entailment",
            "neutral",
            "contradicts",
            "\n",
            "12",
            "3/4",
            "-",
            "\\frac{1}{2}",
            "\\boxed{7}",
            "1.",
            "2.",
            "4.",
            "```",
            "?",
            ",",
            "[",
            "{",
            "User:",
            "\u0664",
            "**",
        ]
    ),
    max_size=12,
).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(anything, st.sampled_from([(t.name, s) for t in TASKS.values() for s in t.strategies]))
def test_any_text_gives_a_canonical_answer_or_none(text, asked):
    task, how = TASKS[asked[0]], asked[1]
    p = task.parse(text, how, choices=ROOMS)
    assert isinstance(p, Parsed) and (p.strict is None or p.strict == p.answer)
    if p.answer is None:
        return
    if task.name == "nli":
        assert p.answer in NLI and re.search(p.answer[:6], normal(text), re.I)
    if task.name == "nlu_qa":
        assert p.answer in "ABCDE"
    if task.name == "math":
        assert task.gold(p.answer) == p.answer
    if task.name in ("summarization", "conversation"):
        assert (
            p.answer.split() == p.answer.split(" ")
            or set(p.answer.split()) <= set(re.split(r"\s+", text))
            or p.answer in text
            or json.dumps(p.answer)
        )
    if not task.graded:
        assert task.correct(p.answer, "x") is None


@few
@given(
    st.lists(st.sampled_from(NLI), min_size=2, max_size=3, unique=True),
    st.sampled_from([" or ", " and ", ", ", "/", "\n", ". ", " - ", "; ", " vs. "]),
    lead,
    casing,
    st.sampled_from(["", "either ", "It is "]),
)
def test_two_labels_are_none(labels, between, lead, casing, start):
    if between in ("\n", ". "):
        start = ""  # 'It is neutral.' and then another label alone is a correction
    assert TASKS["nli"].parse(lead + start + casing(between.join(labels)), "cot").answer is None


NO = [
    "not {}",
    "no {}",
    "It is not {}.",
    "there is no {}",
    "This is not an {}",
    "it isn't {}",
    "It’s not {}",
    "neither {} nor anything",
    "non-{}",
    "{}? No.",
    "{}: no",
    "{} is ruled out",
    "{} is not given",
    "{} can't be shown",
    "without {}",
    "not really {}",
    "not, I think, {}",
    "It is certainly not what one would call {}",
    "hardly {}",
    "{} would be wrong",
    "Is it {}?",
    "rather than {}",
    "cannot be {}",
]


@pytest.mark.parametrize("form", NO)
@pytest.mark.parametrize("word", NLI)
def test_a_label_that_is_denied_is_none(form, word):
    for lead in ("", "Answer: ", "The answer is "):
        for how in ("vanilla", "cot"):
            assert TASKS["nli"].parse(lead + form.format(word), how).answer is None


@pytest.mark.parametrize(
    "text",
    [
        "The premise doesn't entail the hypothesis.",
        "It does not contradict it.",
        "entailment nothing",
        "Yes",
        "No.",
        "true",
        "false",
        "I can't tell",
        "0",
        "E",
        "contra",
        "The hypothesis fails to be entailed",
        "Not necessarily entailed",
    ],
)
def test_no_label_is_guessed(text):
    assert TASKS["nli"].parse(text, "vanilla").answer is None


@pytest.mark.parametrize(
    "text, want",
    [
        ("It is not entailment but neutral.", "neutral"),
        ("The premise neither entails nor contradicts it.", "neutral"),
        ("No, it's a contradiction.", "contradiction"),
        ("The premise does not say so. Neutral", "neutral"),
        ("It can't be entailed, so it is neutral.", "neutral"),
        ("entailment (not neutral)", "entailment"),
        ("Neutral: it neither entails nor contradicts it.", "neutral"),
        ("**Neutral**\n\nThe premise could entail it or contradict it.", "neutral"),
        ("The premise contradicts the hypothesis.", "contradiction"),
        ("Label: ENTAILMENT", "entailment"),
        ("If she sang it would be entailment.\nShe didn't, so this contradicts it.", "contradiction"),
        ("Contradiction - the cat can't be both.", "contradiction"),
    ],
)
def test_prose_is_read_as_a_person_would(text, want):
    assert TASKS["nli"].parse(text, "vanilla").answer == want


@few
@given(
    st.lists(st.sampled_from("ABCDE"), min_size=2, max_size=3, unique=True),
    st.sampled_from([" or ", " and ", ", ", "/", "\n", " & ", "; ", " + "]),
    lead,
    st.sampled_from(["{}", "({})", "option {}"]),
)
def test_two_letters_are_none(letters, between, lead, form):
    assert TASKS["nlu_qa"].parse(lead + between.join(map(form.format, letters)), "cot", choices=ROOMS).answer is None


@few
@given(
    st.lists(st.sampled_from("these words name none of them because nobody knows".split()), max_size=8), lead, strategy
)
def test_words_without_an_answer_are_none(words, lead, how):
    text = lead + " ".join(words)
    assert [t.parse(text, how, choices=ROOMS).answer for t in (TASKS["math"], TASKS["nlu_qa"], TASKS["nli"])] == [
        None
    ] * 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n",
        "\u200b",
        "?",
        "The answer is not 42.",
        "Answer: \\frac{1}{0}",
        "Answer: 1/0",
        "Answer:",
        "####",
        "\\boxed{}",
        "\\boxed{",
        "nan",
        "inf",
        "Infinity",
        "9" * 400,
    ],
)
def test_no_number_is_guessed(text):
    assert TASKS["math"].parse(text, "cot").answer is None


@pytest.mark.parametrize(
    "text, want",
    [
        (r"\boxed{42}", "42"),
        (r"So $x = \boxed{\frac{3}{4}}$.", "0.75"),
        (r"Answer: $\dfrac{1}{2}$", "0.5"),
        (r"The answer is \(12\)", "12"),
        (r"Answer: \$1{,}250", "1250"),
        ("Answer: 3 1/2", "3.5"),
        ("Answer: 3½", "3.5"),
        ("Answer: -7", "-7"),
        ("Answer: −7", "-7"),
        ("Answer: 50%", "50"),
        ("Answer: 12 apples and 3 pears", "12"),
        ("Answer: 1,00,000", "100000"),
        (r"\boxed{42\text{ apples}}", "42"),
        (r"\[\boxed{7}\]", "7"),
        ("Answer: 1.5e3", "1500"),
        (r"Answer: $\sqrt{2}$", r"\sqrt{2}"),
        (r"\boxed{2\pi}", r"2\pi"),
        (r"The answer is $x = \frac{\sqrt{3}}{2}$.", r"\frac{\sqrt{3}}{2}"),
    ],
)
def test_numbers_as_models_write_them(text, want):
    assert TASKS["math"].parse(text, "cot").answer == want


@pytest.mark.parametrize("task", TASKS)
def test_a_long_text_is_read_in_no_time(task):
    for text in (
        "a " * 50_000,
        "1" * 100_000,
        "(" * 100_000,
        "not entailment " * 3_000,
        "Answer: " * 12_000,
        "\n" * 100_000,
        "1. x\n" * 20_000,
        "\\frac{" * 15_000,
        "\\frac{1}{2}" * 9_000,
        "*" * 100_000,
        "A or B " * 14_000,
        "1 1/2 " * 16_000,
        "the " * 25_000,
        "Sure! " * 16_000,
        "1,11," * 20_000,
        "٤" * 100_000,
    ):
        for how in TASKS[task].strategies:
            start = time.perf_counter()
            TASKS[task].parse(text, how, choices=ROOMS)
            assert time.perf_counter() - start < 20, (text[:20], how)


def test_every_family_says_what_it_is():
    for t in TASKS.values():
        assert "vanilla" in t.strategies and set(t.strategies) <= set(t.limits()) and t.__doc__
        assert 2 <= len(PARAPHRASES[t.name]) <= 3 and len({SYSTEM[t.name, "vanilla"], *PARAPHRASES[t.name]}) == 1 + len(
            PARAPHRASES[t.name]
        )
    assert [t.name for t in TASKS.values() if not t.graded] == ["summarization", "conversation"]
    assert TASKS["summarization"].limits(80)["cod"] >= 4 * 80 * 2  # four rounds fit, at two tokens a word


def test_words_are_limited():
    s, text = TASKS["summarization"], "one two three four five six"
    chain = "\n".join(f"{i}. {text}" for i in range(1, 5))
    assert [s.parse(text, "vanilla", words=n).strict for n in (5, 6)] == [None, text] and [
        s.parse(chain, "cod", words=n).strict for n in (5, 6)
    ] == [None, text]
    assert s.parse("word " * 80, "vanilla").strict and s.parse("word " * 81, "vanilla").strict is None
    assert [
        s.parse(t, "cod").strict
        for t in (chain + "\n5. more", chain[3:], chain.replace("3.", "3)"), "Rounds:\n" + chain)
    ] == [None] * 4


# --- math-verify in its worker


@pytest.fixture
def checker():
    c = Checker(seconds=60)
    yield c
    c.stop()


def test_a_worker_that_hangs_or_dies_is_replaced(checker):
    checker.seconds = 1
    assert checker.same("1", "9^{9^{9^{9}}}") is None and checker.worker is None
    checker.seconds = 60
    assert checker.same(r"\frac{1}{2}", "0.5") is True
    os.kill(checker.worker.pid, signal.SIGKILL)
    checker.worker.wait()
    assert checker.same("1", "1") is None and checker.same("1", "1") is True


def test_a_worker_answers_many_at_once(checker):
    got = {}
    threads = [
        threading.Thread(target=lambda i=i: got.__setitem__(i, checker.same(rf"\sqrt{{{i * i}}}", str(i + i % 2))))
        for i in range(8)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == {i: i % 2 == 0 for i in range(8)}


def test_nothing_that_a_model_writes_is_run_or_ends_the_worker(checker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in (
        "__import__('os').system('touch hacked')",
        "\n",
        '"',
        "\x00",
        "\ud800",
        "}{",
        "\\",
        "$",
        "(" * 100,
        "é" * 300,
    ):
        assert checker.same(r"\sqrt{2}", text) is False and checker.same("2", "2")
    assert not list(tmp_path.iterdir())


def test_numbers_are_compared_without_it():
    t = TASKS["math"]
    assert (
        t.correct("0.3333", "0.33333")
        and not t.correct("0.333", "0.33333")
        and not t.correct("100001", "100000")
        and not t.correct(None, "1")
    )
    assert t.correct(r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt3}") and not t.correct(r"\sqrt{2}", "1")


# --- the pieces that the families share


@pytest.mark.parametrize(
    "texts, want",
    [
        (("0.01", "0.05", "1.005", "00.5", ".5"), ["0.01", "0.05", "1.005", "0.5", "0.5"]),
        (("-7.", "007", "1 250", "４２", "450.0"), ["-7", "7", "1250", "42", "450"]),
        (("", "nan", "1 2", "four", "9**9**9"), [None] * 5),
    ],
)
def test_canonical_numbers(texts, want):
    assert [number(t) for t in texts] == want


def test_gold_numbers_are_canonical_too():
    golds = ("1,250", r"\frac{1}{2}", r"$\sqrt{2}$", "many")
    assert [TASKS["math"].gold(g) for g in golds] == ["1250", "0.5", r"\sqrt{2}", None]
    assert [number(arithmetic(t)) for t in (r"2\frac{1}{2}", "2½", r"50\%")] == ["2.5", "2.5", "50"]


@pytest.mark.parametrize(
    "text", ["D", "hall or barn", "", "Because", "(a) barns", "either (a) hall or (b) barn", "A/B"]
)
def test_statements_that_name_no_single_choice(text):
    assert read_letter(text, ("hall", "barn", "attic")) is None


@pytest.mark.parametrize(
    "text",
    [
        "non-entailment",
        "entailment: no",
        "entailment is ruled out",
        "not, in my view, entailment",
        "neutral\ncontradiction",
    ],
)
def test_statements_that_name_no_single_label(text):
    assert read_label(text) is None


def test_chains_in_odd_forms():
    assert rounds("٤. Tom") == ("Tom",) and rounds("1990 was cold.") == ("1990 was cold.",) and rounds("") == ()
    assert rounds("['One.', 'Two.']") == ("One.", "Two.")
    assert (from_json("[1"), from_json('["a"]'), from_json('A ["a"]')) == ([1], ["a"], None)
