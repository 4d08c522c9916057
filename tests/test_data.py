"Data sets as they come: other columns, wrong labels, useless rows, and what the reader says about them."

import json
import re

import pytest
from hypothesis import given, settings, strategies as st

from distill_study.config import Data
from distill_study.data.load import FAMILIES, KNOWN, DataError, known, load_data, task_of, to_examples
from distill_study.study.plan import to_yaml
from distill_study.tasks.families import NLI, TASKS

ORDERS = (
    ("entailment", "neutral", "contradiction"),
    ("contradiction", "neutral", "entailment"),
    ("neutral", "contradiction", "entailment"),
)


def user(text):
    return dict(role="user", content=text)


def said(text):
    return dict(role="assistant", content=text)


def pair(label, i=0):
    return dict(premise=f"Tom sat {i}.", hypothesis=f"He sat {i}.", label=label)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("DISTILL_DATA_DIR", raising=False)

    def write(name="mine.jsonl", rows=(), text=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text is not None else "\n".join(map(json.dumps, rows)), encoding="utf-8")
        return str(path)

    write.at = tmp_path
    return write


def fails(message, data=None, **kw):
    with pytest.raises(DataError, match=re.escape(message)) as e:
        load_data(data or Data(**kw))
    assert "Traceback" not in str(e.value) and len(str(e.value)) < 1200
    return str(e.value)


# --- labels


@pytest.mark.parametrize("names", ORDERS)
def test_numbers_are_read_by_the_names_that_a_set_has_for_them(names, folder):
    "Parquet files carry the names of a ClassLabel along; the wrong order is refused where a map says otherwise."
    import datasets

    kinds = datasets.Features(
        premise=datasets.Value("string"),
        hypothesis=datasets.Value("string"),
        label=datasets.ClassLabel(names=list(names)),
    )
    for place in ("mine", "snli"):
        for split in ("train", "test"):
            (folder.at / place).mkdir(exist_ok=True)
            datasets.Dataset.from_list([pair(i % 3, i) for i in range(6)] + [pair(-1, 9)], features=kinds).to_parquet(
                folder.at / place / f"{split}.parquet"
            )
    s = load_data(Data(name=str(folder.at / "mine"), task="nli"))
    assert [e.gold for e in s.train] == list(names) * 2 and s.left_out == {"unlabelled": 2}
    right = Data(name=str(folder.at / "mine"), task="nli", labels=dict(enumerate(names)))
    assert [e.gold for e in load_data(right).train] == list(names) * 2
    wrong = dict(enumerate(names[::-1]))
    fails(
        f"the data set itself says that label 0 is {names[0]!r}, data.labels says {names[2]!r}",
        name=str(folder.at / "mine"),
        task="nli",
        labels=wrong,
    )
    if names == NLI:
        assert [e.gold for e in load_data(Data(name=str(folder.at / "snli"))).train] == list(names) * 2
    else:
        fails("the map for this set says", name=str(folder.at / "snli"))


def test_numbers_without_names_are_not_guessed(folder):
    for split in ("train", "test"):
        folder(f"mine/{split}.jsonl", [pair(i % 3, i) for i in range(6)])
    place = str(folder.at / "mine")
    hint = "{0: entailment, 1: neutral, 2: contradiction}, if that is their order"
    assert hint in fails("label 0 is outside the map", name=place, task="nli")
    labels = {2: "entailment", "1": "Neutral ", 0: "contradiction"}
    assert load_data(Data(name=place, task="nli", labels=labels)).train[0].gold == "contradiction"
    fails("every value must be a label of task nli", name=place, task="nli", labels={0: "yes"})


@pytest.mark.parametrize("name", ["snli", "facebook/anli", "cestwc/conjnli"])
@pytest.mark.parametrize(
    "value, gold",
    [
        ("entailment", "entailment"),
        ("Neutral", "neutral"),
        (" CONTRADICTION ", "contradiction"),
        (None, None),
        ("", None),
        (-1, None),
        ("-", None),
        ("-1", None),
        (-1.0, None),
    ],
)
def test_labels_as_text(name, value, gold):
    examples, left = to_examples([pair(value)], Data(name=name, task="nli"), split="train")
    assert [e.gold for e in examples] == ([gold] if gold else []) and left == ({} if gold else {"unlabelled": 1})


@pytest.mark.parametrize(
    "value", ["maybe", "not_entailment", 3, 1.5, True, ["entailment"], {"a": 1}, "entailment, neutral"]
)
def test_labels_outside_the_map_are_an_error(value):
    with pytest.raises(DataError, match="outside the map"):
        to_examples([pair("neutral"), pair(value)], Data(name="snli", task="nli"), split="train")


def test_the_public_sets_with_numbers_have_the_usual_order():
    for name in ("stanfordnlp/snli", "facebook/anli"):
        assert [
            to_examples([pair(i)], Data(name=name, task="nli"), split="train")[0][0].gold for i in range(3)
        ] == list(NLI)
    with pytest.raises(DataError, match="outside the map"):
        to_examples([pair(0)], Data(name="cestwc/conjnli", task="nli"), split="train")


# --- the public sets, row by row as the hub gives them

ROWS = {
    "openai/gsm8k": (dict(question="2 + 2?", answer="So <<2+2=4>>4\n#### 1,004"), "1004", None),
    "ChilleD/MultiArith": (dict(question=" 2 + 2? ", final_ans="4"), "4", None),
    "ChilleD/SVAMP": (dict(ID="c-1", question_concat="2 + 2?", Answer="4.0"), "4", "c-1"),
    "tau/commonsense_qa": (
        dict(
            id="q",
            question="Where?",
            question_concept="x",
            choices=dict(label=list("ABCDE"), text=["a", "b", "c", "d", "e"]),
            answerKey="E",
        ),
        "E",
        "q",
    ),
    "allenai/openbookqa": (
        dict(
            id="7-1",
            question_stem="Where",
            choices=dict(text=["hall", "barn", "attic", "cellar"], label=list("ABCD")),
            answerKey="D",
        ),
        "D",
        "7-1",
    ),
    "deepmind/aqua_rat": (
        dict(
            question="How far?",
            options=["A)21", "B) 21.5", "(C) 22", "D)22.5", "E)none of these: 3"],
            rationale="So E.",
            correct="E",
        ),
        "E",
        None,
    ),
    "cestwc/conjnli": (pair("neutral"), "neutral", None),
    "stanfordnlp/snli": (pair(2), "contradiction", None),
    "facebook/anli": (pair(0) | dict(uid="u-1", reason=""), "entailment", "u-1"),
    "griffin/chain_of_density": (
        dict(
            article="Tom sat.",
            highlights="Tom sat .\nHe stood .",
            id="h-1",
            prediction=["a", "b"],
            missing=["", "c"],
            model="gpt-4",
        ),
        "Tom sat .\nHe stood .",
        "h-1",
    ),
    "knkarthick/dialogsum": (
        dict(id="train_0", dialogue="#Person1#: Hi.", summary="They greet.", topic="hi"),
        "They greet.",
        "train_0",
    ),
    "EdinburghNLP/xsum": (dict(document="Tom sat.", summary="He sat.", id="123"), "He sat.", "123"),
    "HuggingFaceH4/ultrachat_200k": (
        dict(prompt="Hi", prompt_id="p-1", messages=[user("Hi"), said("Hello"), user("Bye"), said("Bye!")]),
        None,
        "p-1",
    ),
    "sgd_chat": (dict(id="3_0", services=["x"], messages=[user("Hi"), said("Hello")]), None, "3_0"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_rows_of_the_public_sets(name):
    row, gold, id = ROWS[name]
    k = known(name)
    (e,), left = to_examples([row], Data(name=name, task=k.task), split="train")
    assert (
        (e.gold, left) == (gold, {})
        and e.id == (id or f"{name.split('/')[-1].lower()}-train-0")
        and e.task == task_of(Data(name=name.upper()))
    )
    for strategy in TASKS[k.task].strategies:
        assert e.ask(strategy)[0]["role"] == "system" and e.ask(strategy)[1]["role"] == "user"
    if k.task == "nlu_qa":
        assert e.question.splitlines()[-1].startswith(f"{'ABCDE'[len(e.choices) - 1]}. ") and not any(
            re.match(r"\(?[A-E]\)", c) for c in e.choices
        )
    for column in k.columns:
        with pytest.raises(DataError, match=re.escape(f"no column {column!r}")):
            to_examples([{c: v for c, v in row.items() if c != column}], Data(name=name, task=k.task), split="train")


def test_a_folder_written_as_a_path_is_that_folder(folder, monkeypatch):
    "A copy of the same name under DISTILL_DATA_DIR stands for the hub's set, not for the folder."
    for at, n in (("copies/svamp", 3), ("own/svamp", 2)):
        for split in ("train", "test"):
            folder(
                f"{at}/{split}.jsonl",
                [dict(ID=f"{split}{i}", question_concat=f"{split} {i} + 0?", Answer=i) for i in range(n)],
            )
    monkeypatch.setenv("DISTILL_DATA_DIR", str(folder.at / "copies"))
    monkeypatch.chdir(folder.at)
    assert [
        len(load_data(Data(name=n)).train)
        for n in ("ChilleD/SVAMP", "svamp", "own/svamp", "./own/svamp", str(folder.at / "own" / "svamp"))
    ] == [3, 3, 3, 2, 2]


def test_splits_of_the_public_sets(folder, monkeypatch):
    "Several splits make one, a folder may stand for a subset, and a split that isn't there has a stand-in."
    for r in (1, 2, 3):
        folder(f"anli/train_r{r}.jsonl", [pair(0, i) | dict(uid=f"{r}-{i}") for i in range(2)])
        folder(f"anli/test_r{r}.jsonl", [pair(2, 10 + i) | dict(uid=f"t{r}-{i}") for i in range(2)])
    folder(
        "chain_of_density/unannotated/train.jsonl",
        [dict(id=str(i), article=f"Text {i}.", highlights="x") for i in range(3)],
    )
    folder(
        "chain_of_density/annotated/test.jsonl",
        [dict(id=str(i), article=f"Test {i}.", highlights="x") for i in range(2)],
    )
    folder("dialogsum/validation.jsonl", [dict(id=str(i), dialogue=f"Hi {i}.", summary="x") for i in range(3)])
    folder("dialogsum/test.jsonl", [dict(id=str(i), dialogue=f"Ho {i}.", summary="x") for i in range(2)])
    monkeypatch.setenv("DISTILL_DATA_DIR", str(folder.at))
    a, c, d = (load_data(Data(name=n)) for n in ("facebook/anli", "griffin/chain_of_density", "knkarthick/dialogsum"))
    assert [(len(s.train), len(s.test)) for s in (a, c, d)] == [(6, 6), (3, 2), (3, 2)]
    assert (a.used["train"], c.used, d.used["train"]) == (
        "train_r1+train_r2+train_r3",
        dict(train="unannotated/train", test="annotated/test"),
        "validation",
    )
    one = load_data(Data(name="facebook/anli", splits=dict(train="train_r2", test="test_r1+test_r3")))
    assert [e.id for e in one.train] == ["2-0", "2-1"] and len(one.test) == 4
    fails(
        "data.splits.test = 'test_r9': 'facebook/anli' has no such split",
        name="facebook/anli",
        splits=dict(test="test_r9"),
    )
    fails(
        "'train_r1' can't serve as train and as test",
        name="facebook/anli",
        splits=dict(train="train_r1", test="train_r1"),
    )


def test_what_begins_alike_stands_in_one_split(folder):
    "Of a set with splits of its own, training rows that share their opening with a held-out item are left out."
    said = [
        "Ann had 3 big cups.",
        "Ann had 7 big bowls.",
        "Bo had 12 big cups.",
        "Cy gave 1,000 cups.",
        "Di lost 2.5 cups.",
    ]
    rows = [dict(question=q, answer=str(i)) for i, q in enumerate(said)]
    folder("own/train.jsonl", rows)
    folder("own/test.jsonl", [dict(question="Ann had 99 big plates.", answer="1")])
    s = load_data(Data(name=str(folder.at / "own"), task="math", opening=3, validation=1))
    kept = [e.source for e in s.train + s.validation]
    assert sorted(kept) == ["bo had big", "cy gave cups", "di lost cups"] and s.test[0].source == "ann had big"
    fails("opening", name="tiny-math", opening=3)


def test_huge_splits_are_thinned_out_before_they_are_read(folder, monkeypatch):
    import datasets

    import distill_study.data.load as module

    monkeypatch.setattr(module, "_MOST", 40)
    (folder.at / "mine").mkdir()
    for split, n in (("train", 500), ("test", 30)):
        datasets.Dataset.from_list([dict(text=f"{split} {i}", summary="x") for i in range(n)]).to_parquet(
            folder.at / "mine" / f"{split}.parquet"
        )
    settings = dict(name=str(folder.at / "mine"), task="summarization", train=20, test=10)
    seen = []
    monkeypatch.setattr(
        module, "to_examples", lambda rows, *a, **kw: seen.append(len(rows)) or to_examples(rows, *a, **kw)
    )
    s = load_data(Data(**settings))
    assert (
        seen == [80, 30]
        and len(s.train) == 20
        and s.hashes == load_data(Data(**settings)).hashes != load_data(Data(**settings, seed=1)).hashes
    )
    assert len(load_data(Data(**settings | dict(train=None))).train) == 500


# --- columns of one's own

OWN = {
    "nli": (dict(s1="Tom sat.", s2="He sat.", y="neutral"), dict(premise="s1", hypothesis="s2", label="y"), "neutral"),
    "nlu_qa": (dict(q="Where?", opts=["hall", "barn"], a="B"), dict(question="q", choices="opts", answer="a"), "B"),
    "math": (dict(q="2 + 2?", a="so\n#### 4"), dict(question="q", answer="a"), "4"),
    "summarization": (dict(doc="Tom sat.", short="He sat."), dict(text="doc", summary="short"), "He sat."),
    "conversation": (dict(chat=[user("Hi"), said("Hello")]), dict(messages="chat"), None),
}


@pytest.mark.parametrize("task", TASKS)
def test_columns_can_be_mapped(task, folder):
    row, columns, gold = OWN[task]
    for split in ("train", "test"):
        folder(f"mine/{split}.jsonl", [row | dict(id=f"{split}{i}") for i in range(2)])
    data = Data(name=str(folder.at / "mine"), task=task, columns=columns)
    s = load_data(data)
    assert (
        [e.gold for e in s.train + s.test] == [gold] * 4
        and s.train[0].id == "train0"
        and Data.parse(__import__("yaml").safe_load(to_yaml(data))) == data
    )
    message = fails("no column", name=data.name, task=task)
    for column in FAMILIES[task].columns if task in FAMILIES else ("messages",):
        assert column in message
    for column in row:
        assert column in message
    fails(
        "no column 'nowhere', which data.columns names for",
        name=data.name,
        task=task,
        columns=columns | {next(iter(columns)): "nowhere"},
    )


def test_families_are_read_from_columns_of_their_own_names(folder):
    for split in ("train", "test"):
        folder(
            f"mine/{split}.jsonl",
            [
                dict(question=f"{i} + 1?", choices=dict(text=["1", "2"], label=["1", "2"]), answer="2", id=i)
                for i in range(2)
            ],
        )
    assert [e.gold for e in load_data(Data(name=str(folder.at / "mine"), task="nlu_qa")).train] == ["B", "B"]
    for split in ("train", "test"):
        folder(f"ints/{split}.jsonl", [dict(question="x?", choices=["a", "b"], answer=1)])
    assert load_data(Data(name=str(folder.at / "ints"), task="nlu_qa", labels={0: "A", 1: "B"})).train[0].gold == "B"
    assert load_data(Data(name=str(folder.at / "ints"), task="nlu_qa")).train[0].gold == "B"  # numbers count from 0


# --- a file of one's own

GOLD = {"math": "4", "nlu_qa": "B", "nli": "neutral", "summarization": "Short.", "conversation": None}


@pytest.mark.parametrize("task", TASKS)
def test_messages_of_any_task_in_three_lines_of_a_recipe(task, folder):
    rows = [
        dict(messages=[user(f"Question {i}?")], id=i)
        | (dict(choices=["x", "y"]) if task == "nlu_qa" else {})
        | (dict(gold=GOLD[task]) if GOLD[task] else {})
        for i in range(6)
    ]
    s = load_data(Data(name=folder(rows=rows), task=task, test=2))
    assert (
        {e.gold for e in s.train + s.test} == {GOLD[task]}
        and len(s.train) == 4
        and s.used == dict(train="train", test="train")
    )
    without = [{k: v for k, v in r.items() if k != "gold"} for r in rows]
    assert all(
        e.gold is None for e in load_data(Data(name=folder(rows=without), task=task, test=2)).train
    )  # a teacher needs no gold
    answered = [r | dict(messages=[*r["messages"], said(GOLD[task] or "Hello")]) for r in without]
    s = load_data(Data(name=folder(rows=answered), task=task, test=2))
    assert (
        s.train[0].gold == GOLD[task]
        and s.train[0].turns[-1]["role"] == "user"
        and s.train[0].meta.get("reference") == (("Hello",) if task == "conversation" else None)
    )


def test_the_rules_of_a_data_set_stay_under_every_strategy(folder):
    for task in TASKS:
        rows = [
            dict(messages=[dict(role="system", content="Amounts are in euros."), user(f"{i}?")])
            | (dict(choices=["x", "y"]) if task == "nlu_qa" else {})
            for i in range(4)
        ]
        e = load_data(Data(name=folder(rows=rows), task=task, test=1)).train[0]
        for how in TASKS[task].strategies:
            assert e.ask(how)[0]["content"].startswith("Amounts are in euros.") and [t["role"] for t in e.ask(how)] == [
                "system",
                "user",
            ]


def test_a_summary_has_the_words_that_the_recipe_allows(folder):
    for words, want in ((None, 80), (30, 30)):
        s = load_data(
            Data(
                name=folder(rows=[dict(text=f"Tom sat {i}.") for i in range(4)]),
                task="summarization",
                test=1,
                words=words,
            )
        )
        assert all(
            e.meta["words"] == want and f"{want} words" in e.messages[0]["content"] for e in s.train
        ) and s.max_tokens == TASKS["summarization"].limits(words)
        assert all(e.gold is None for e in s.train)  # no references: nothing to compare with, but all can be asked


# --- conversations

CHATS = {
    "starts with the assistant": [
        [said("Hi"), user("Hello")],
        [dict(role="system", content="x"), said("Hi"), user("Hello")],
    ],
    "roles don't alternate": [
        [user("a"), user("b")],
        [user("a"), said("b"), said("c")],
        [user("a"), dict(role="system", content="x"), said("b")],
    ],
    "no user turn": [[dict(role="system", content="x")], [said("a")]],
}


@pytest.mark.parametrize("reason", CHATS)
def test_useless_conversations_are_left_out_and_counted(reason, folder):
    good = [dict(messages=[user(f"a{i}"), said("b"), user("c")]) for i in range(3)]
    bad = [dict(messages=m) for m in CHATS[reason]]
    s = load_data(Data(name=folder(rows=good + bad), task="conversation", test=1))
    assert s.left_out == {reason: len(bad)} and len(s.train) == 2
    fails(f"Left out: {len(bad)} rows, {reason}", name=folder(rows=bad), task="conversation", test=1)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.booleans(), st.booleans())
def test_the_teacher_sees_its_own_turns_and_never_the_data_sets(n, system, open_end):
    turns = [t for i in range(n) for t in (user(f"u{i}"), said(f"theirs{i}"))][: -1 if open_end else None]
    (e,), _ = to_examples(
        [dict(messages=([dict(role="system", content="Be kind.")] if system else []) + turns)],
        Data(name="sgd_chat"),
        split="train",
    )
    assert len(e.meta["reference"]) == n - open_end
    for k in range(n):
        asked = e.ask("vanilla", tuple(f"mine{i}" for i in range(k)))
        assert [t["content"] for t in asked[1:]] == [x for i in range(k) for x in (f"u{i}", f"mine{i}")] + [
            f"u{k}"
        ] and "theirs" not in str(asked)
        assert asked[0]["content"] == "Be kind." if system else "next turn" in asked[0]["content"]


# --- bad input

SHAPES = [
    None,
    3,
    "text",
    [],
    {},
    [3],
    [{}],
    [dict(role="user")],
    [dict(role="user", content=None)],
    [dict(role="user", content=3)],
    [dict(role="user", content=["x"])],
    [dict(role="tool", content="x")],
    [user("")],
    [user("\u200b \n")],
    [user("a"), said(" ")],
]


@pytest.mark.parametrize("messages", SHAPES, ids=repr)
@pytest.mark.parametrize("task", ["math", "conversation"])
def test_messages_of_another_shape(messages, task, folder):
    fails(
        "row 2: 'messages' must be a list of {role: system|user|assistant, content: text} with no empty text",
        name=folder(rows=[dict(messages=[user("a")]), dict(messages=messages)]),
        task=task,
        test=1,
    )


@pytest.mark.parametrize(
    "rows, task, message",
    [
        ([], "math", "has no rows"),
        (
            [dict(messages=[user("1?")], gold=1)],
            "math",
            "data.test = 1: there are only 1 rows, and some must be left to train on",
        ),
        ([dict(messages=[user("1?")], id="a")] * 2, "math", "row 2: id 'a' is there twice"),
        (
            [dict(messages=[user("1?")], id=1), dict(messages=[user("2?")], id="1")],
            "math",
            "row 2: id '1' is there twice",
        ),
        ([dict(messages=[user("1?")], id=["a"])], "math", "row 1: id = ['a'] is neither text nor a whole number"),
        ([dict(messages=[user("1?")], id=" ")], "math", "is neither text nor a whole number"),
        ([dict(messages=[user("1?")], gold="many")] * 3, "math", "Left out: 3 rows, unreadable gold"),
        ([dict(messages=[said("1")])], "math", "the last turn to answer must be the user's"),
        (
            [dict(messages=[user("x")], gold="C", choices=["a", "b"])],
            "nlu_qa",
            "gold = 'C' is neither a letter from A to B nor one of the choices",
        ),
        ([dict(messages=[user("x")], gold="A", choices="ab")], "nlu_qa", "'choices' must be a list of 2 to 10 texts"),
        ([dict(messages=[user("x")], gold="A")], "nlu_qa", "task nlu_qa needs 'choices'"),
        ([dict(messages=[user("x")], gold="so-so")], "nli", "label 'so-so' is outside the map"),
        ([dict(text=["a"], summary="x")], "summarization", "row 1: the text is list (['a']), expected text"),
        ([dict(text="a", summary=3)], "summarization", "row 1: the summary is int (3), expected text"),
        ([dict(question=3, answer="3")], "math", "row 1: the question is int (3), expected text"),
        ([dict(question="a", choices=[1, 2], answer="A")], "nlu_qa", "'choices' must be a list of 2 to 10 texts"),
        ([dict(question="a", choices=3, answer="A")], "nlu_qa", "don't hold what is expected of them"),
        ([dict(premise="a", hypothesis=dict(a=1), label="neutral")], "nli", "the sentence is dict"),
        ([dict(other=1)], "math", "no column 'question' or 'messages'; there are other"),
        (
            [dict(question="a")],
            "math",
            "no column 'answer'. Expected question, answer; there are question. Where a column has another name, map "
            "it in the recipe: data.columns: {answer: NAME}",
        ),
    ],
)
def test_what_is_wrong_is_said(rows, task, message, folder):
    fails(message, name=folder(rows=rows), task=task, test=1)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1]", "line 1: expected an object, got list"),
        ('{"a": 1}\n{"a"', "line 2: not JSON"),
        ("\n", "has no rows"),
        ("[" * 10**5, "nested too deeply"),
        ("{'a': 1}", "line 1: not JSON"),
    ],
)
def test_files_that_are_no_jsonl(text, message, folder):
    fails(message, name=folder(text=text), task="math", test=1)


def test_empty_texts_of_sets_with_columns_are_left_out(folder):
    rows = [dict(text=t, summary="x", id=i) for i, t in enumerate(["Tom.", "", None, " \u200b\n", "He.", "So."])]
    s = load_data(Data(name=folder(rows=rows), task="summarization", test=1))
    assert s.left_out == {"empty text": 3} and len(s.train) == 2


def test_an_empty_choice_makes_a_row_of_a_set_with_columns_useless():
    rows = [
        dict(question="x?", options=["A)1", "B)2"], correct="A"),
        dict(question="x?", options=["A)1", "B) "], correct="A"),
    ]
    aqua = Data(name="deepmind/aqua_rat", task="nlu_qa")
    examples, left = to_examples(rows, aqua, split="train")
    assert [e.choices for e in examples] == [("1", "2")] and left == {"empty text": 1}
    with pytest.raises(DataError, match="row 1: gold = 'C' is neither a letter from A to B nor one of the choices"):
        to_examples([rows[0] | dict(correct="C")], aqua, split="train")


def test_one_file_has_no_splits(folder):
    fails(
        "is one file without splits",
        name=folder(rows=[dict(messages=[user("x")])]),
        task="math",
        test=1,
        splits=dict(train="train"),
    )


def test_rows_that_are_left_out_do_not_move_the_ids_of_others():
    rows = [
        dict(question="1?", answer="#### 1"),
        dict(question="", answer="#### 1"),
        dict(question="3?", answer="#### 3"),
    ]
    assert [e.id for e in to_examples(rows, Data(name="openai/gsm8k", task="math"), split="train")[0]] == [
        "gsm8k-train-0",
        "gsm8k-train-2",
    ]


def test_ids_that_a_public_set_has_twice_are_told_apart():
    rows = [dict(id="a", document=f"Text {i}.", summary="x") for i in range(3)]
    assert [
        e.id for e in to_examples(rows, Data(name="EdinburghNLP/xsum", task="summarization"), split="train")[0]
    ] == ["a", "a#2", "a#3"]


ODD = [
    "é" * 10,
    "e\u0301",
    "\u202eabc",
    "日本語の文",
    "a\u0000b",
    "\U0001f600" * 5,
    "a\ud800b",
    "\ufeffa",
    "x" * 100_000,
    "a\u2028b",
    "<|im_end|>",
    "{{x}}",
    "<script>",
]


@pytest.mark.parametrize("text", ODD, ids=lambda t: ascii(t[:6]))
@pytest.mark.parametrize("task", TASKS)
def test_odd_texts_pass_through(text, task, folder):
    rows = [
        dict(messages=[user(text + str(i))]) | (dict(choices=["x" + text, "y"]) if task == "nlu_qa" else {})
        for i in range(3)
    ]
    s = load_data(Data(name=folder(rows=rows), task=task, test=1))
    e = s.train[0]
    assert (
        text.replace("\ud800", "?") in e.question
        and s.hashes["train"]
        and e.key
        and json.dumps(e.messages).encode()
        and e.question.encode()
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "gold",
                    "id",
                    "choices",
                    "premise",
                    "hypothesis",
                    "label",
                    "question",
                    "answer",
                    "text",
                    "summary",
                ]
            ),
            st.none()
            | st.booleans()
            | st.integers(-2, 5)
            | st.floats()
            | st.text(max_size=5)
            | st.lists(st.text(max_size=3) | st.integers(), max_size=3)
            | st.just([dict(role="user", content="x")])
            | st.just([dict(role="assistant", content="1")]),
            max_size=8,
        ),
        max_size=4,
    ),
    st.sampled_from(list(TASKS)),
)
def test_any_rows_give_examples_or_one_clear_error(rows, task):
    "Whatever JSON holds, nothing but `DataError` comes out."
    for name in ("mine", next(n for n, k in KNOWN.items() if k.task == task)):
        try:
            examples, left = to_examples(rows, Data(name=name, task=task), split="train")
        except DataError as e:
            assert str(e).startswith("data ")
        else:
            assert len(examples) + sum(left.values()) == len(rows)
            for e in examples:
                assert e.messages[-1]["role"] == "user"
                assert e.gold is None or (TASKS[task].gold(e.gold, e.choices) if TASKS[task].graded else e.gold.strip())


# --- the real sets


@pytest.mark.parametrize(
    "name, task, train, test, left",
    [
        ("openai/gsm8k", "math", 7473, 1319, {}),
        ("ChilleD/MultiArith", "math", 420, 180, {}),
        ("ChilleD/SVAMP", "math", 800, 200, {}),
        ("tau/commonsense_qa", "nlu_qa", 9741, 1221, {}),
        ("cestwc/conjnli", "nli", 15000, 623, {}),
        ("knkarthick/dialogsum", "summarization", 500, 500, {}),
        ("sgd_chat", "conversation", 324, 255, {"empty text": 1}),
    ],
)
def test_the_local_copies_load(name, task, train, test, left, data_dir, monkeypatch):
    monkeypatch.setenv("DISTILL_DATA_DIR", str(data_dir))
    s = load_data(Data(name=name))
    assert (s.task, s.source, len(s.train), len(s.test), s.left_out) == (task, "local", train, test, left)
    assert all((e.gold is None) == (task == "conversation") for e in s.train + s.test)
    assert len({e.id for e in s.train}) == train
    if task == "nli":
        assert {e.gold for e in s.train} == set(NLI)
    if task == "conversation":
        assert all(e.meta["reference"] and all(t["role"] == "user" for t in e.turns) for e in s.train)
    if task == "math":
        assert all(
            TASKS["math"].correct(TASKS["math"].parse(f"Answer: {e.gold}", "cot").answer, e.gold) for e in s.train
        )
    few = load_data(Data(name=name, train=50, validation=10, test=50))
    assert [len(x) for x in (few.train, few.validation, few.test)] == [50, 10, 50] and not {e.id for e in few.train} & {
        e.id for e in few.validation
    }
