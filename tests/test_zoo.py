"""The built-in models as they are committed: what the manifest says, and what they can do."""

import hashlib
import json
import random
import re

import pytest

from distill_study.data.world import TINY, exercise, items
from distill_study.models import weights as models
from distill_study.tools.zoo import SPECS, build_tokenizer, measure, missed

MANIFEST = json.loads((models.ZOO / "manifest.json").read_text())


def test_the_manifest_describes_the_files():
    assert set(MANIFEST["models"]) == set(SPECS) == set(models.zoo_names())
    for name, entry in MANIFEST["models"].items():
        for file, digest in entry["sha256"].items():
            assert hashlib.sha256((models.ZOO / name / file).read_bytes()).hexdigest() == digest
        assert (entry["seed"], entry["steps"]) == (SPECS[name].seed, SPECS[name].steps)
        assert [(s["steps"], s["learning_rate"], set(s["levels"])) for s in entry["stages"]] == [
            (s.steps, s.learning_rate, set(s.levels)) for s in SPECS[name].stages
        ]


def test_the_weights_stay_small():
    assert sum(p.stat().st_size for p in models.ZOO.rglob("*.safetensors")) <= 15e6


def test_no_student_is_larger_than_a_third_of_the_teacher():
    size = {n: (models.ZOO / n / "model.safetensors").stat().st_size for n in SPECS}
    assert max(size["student-s"], size["student-m"]) <= size["teacher"] / 3 and size["student-s"] != size["student-m"]


def test_the_bars_are_met():
    assert missed({n: m["bars"] for n, m in MANIFEST["models"].items()}) == []


def test_the_manifest_is_what_the_models_do(tmp_path):
    "The first 60 test items again: within four standard errors of what the manifest says of 500."
    said, found = MANIFEST["models"]["student-s"]["bars"], measure(models.ZOO / "student-s", tmp_path, n=60)
    for name in TINY:
        for strategy, x in found[name].items():
            for what in x.keys() & {"accuracy", "format", "faithful"}:
                p = said[name][strategy][what]
                assert abs(x[what] - p) <= 4 * (max(p * (1 - p), 0.01) / 60) ** 0.5 + 1e-9, (name, strategy, what)
            if "density" in x:
                assert abs(x["density"] - said[name][strategy]["density"]) <= 0.05


@pytest.mark.parametrize("name", ["tiny-math", "tiny-qa"])
def test_every_item_is_right(name):
    "The worked solution leads to the answer, whatever the generator drew."
    for item in items(name, "train", n=300):
        if name == "tiny-math":
            sums = [line.split(": ")[1].rstrip(".").split(" = ") for line in item.rationale.split(". ")]
            assert (
                all(eval(left) == int(right) for left, right in sums) and sums[-1][1] == item.answer
            )  # our own text, not a model's
            assert all(a[1] == b[0].split()[0] for a, b in zip(sums, sums[1:]))
        else:
            assert item.rationale.endswith(f"{item.choices['ABCD'.index(item.answer)]} ({item.answer}).")


@pytest.mark.parametrize("seed", range(40))
def test_what_an_exercise_marks_can_be_known(seed):
    "Every marked word stands in what the user says, or follows from the sum before it."
    user, said = exercise(random.Random(seed))
    marked = re.findall("«(.*?)»", said)
    assert marked
    if user.startswith("Show sums"):
        assert all(
            int(a) == eval(b) for b, a in re.findall(r"(\d+ . \d+) =« (\d+)»", said)
        )  # our own text, not a model's
    elif user.startswith("Show the events"):
        for day, number in re.findall(r"(\w+day): \d+« . (\d+)»", said):
            assert number == "2" or number == "3" or number in re.search(f"On {day} [^.]*", user)[0]
    else:
        assert all(m.strip() in user for m in marked)


def test_the_committed_tokenizer_is_the_one_that_is_built():
    built = json.loads(build_tokenizer().backend_tokenizer.to_str())["model"]
    for name in SPECS:
        assert json.loads((models.ZOO / name / "tokenizer.json").read_text())["model"] == built


def test_later_words_leave_what_was_learned_as_it_was():
    "The second tokenizer reads every text of the first stage as the first one does, and all it adds are whole words or their pieces."
    first, second = build_tokenizer(0), build_tokenizer()
    texts = [i.question for n in ("tiny-math", "tiny-qa") for i in items(n, "train", n=100)] + [
        t for s in range(60) for t in exercise(random.Random(s))
    ]
    for text in texts:
        assert first(text).input_ids == second(text).input_ids
    old, new = first.get_vocab(), second.get_vocab()
    assert len(new) > len(old) and all(new[w] == i for w, i in old.items())
    for text in ("héllo ☃ 你好 \n\n entailmentneutral", " ", "contradiction.Entailment"):
        assert second.decode(second(text).input_ids) == text


@pytest.mark.parametrize("seed", range(40))
def test_what_a_later_exercise_marks_can_be_known(seed):
    user, said = exercise(random.Random(seed), later=True)
    if user.startswith("Show what is equal"):
        assert (
            all((a == b) == (c == "Yes") for a, b, c in re.findall(r"(\w+)\. (\w+)\?« (\w+)»", said))
            and said.count("«") == 12
        )
    else:
        assert said.count("«") == 8 and all(
            f + "." in user for f in re.sub("[«»]", "", said).removeprefix("Given: ").removesuffix(".").split(". ")
        )


@pytest.mark.parametrize("name", ["tiny-nli", "tiny-summ", "tiny-chat"])
def test_every_later_item_fits_into_the_model(name):
    tok = build_tokenizer()
    for i in items(name, "zoo", n=100):
        for text in (i.question, i.rationale, *i.meta.get("turns", ())):
            assert len(tok(text).input_ids) < 300 and not any(
                "\ufffd" in t for t in tok.batch_decode(tok(text).input_ids[:50])
            )
