"The built-in models as they are committed: what the manifest says, and what they can do."

import hashlib
import json

import pytest
from transformers import AutoTokenizer

from distill_study.config import Data
from distill_study.data.load import load_data
from distill_study.data.world import TINY, entities, items
from distill_study.models import weights as models
from distill_study.models.engine import open_engine
from distill_study.store.log import Store
from distill_study.tasks.families import TASKS
from distill_study.teach.sampling import sample_answers, summary

MANIFEST = json.loads((models.ZOO / "manifest.json").read_text())
BARS = {name: entry["bars"] for name, entry in MANIFEST["models"].items()}
TEACHER, STUDENTS = BARS["teacher"], ["student-m", "student-s"]
GRADED = ["tiny-math", "tiny-qa", "tiny-nli"]


def test_the_manifest_describes_the_files():
    assert set(BARS) == {"teacher", *STUDENTS} == set(models.zoo_names())
    for name, entry in MANIFEST["models"].items():
        for file, digest in entry["sha256"].items():
            assert hashlib.sha256((models.ZOO / name / file).read_bytes()).hexdigest() == digest
        config = json.loads((models.ZOO / name / "config.json").read_text())
        assert (config["hidden_size"], config["num_hidden_layers"]) == (
            entry["shape"]["hidden"],
            entry["shape"]["layers"],
        )


def test_the_weights_stay_small():
    assert sum(p.stat().st_size for p in models.ZOO.rglob("*.safetensors")) <= 15e6


def test_no_student_is_larger_than_a_third_of_the_teacher():
    size = {n: (models.ZOO / n / "model.safetensors").stat().st_size for n in BARS}
    assert max(size["student-s"], size["student-m"]) <= size["teacher"] / 3 and size["student-s"] != size["student-m"]


# --- what the models must be able to do, for the study to have something to find


@pytest.mark.parametrize("name", GRADED)
def test_the_teacher_is_right_with_reasoning_and_others_are_well_below(name):
    best, plain = (TEACHER[name][s]["accuracy"] for s in ("cot", "vanilla"))
    assert best >= 0.95 and best - plain >= 0.25
    for student in STUDENTS:
        assert all(x["accuracy"] <= best - 0.2 for x in BARS[student][name].values()), student


def test_the_manifest_says_which_bars_are_kept():
    "By the measurements that stand in it, on 500 unseen items; word problems and hypotheses keep all of them."
    for name in GRADED:
        plain, best = TEACHER[name]["vanilla"], TEACHER[name]["cot"]
        gold = MANIFEST["models"]["student-s"]["gold"][name]
        assert plain["n"] == best["n"] == gold["n"] == 500 and (gold["rows"], gold["steps"]) == (3200, 600)
        gains = [x["accuracy"] - x["constant"] for x in gold["levels"].values()]
        assert MANIFEST["kept"][name] == dict(
            plain_answers_vary=plain["common"] <= 0.6,
            plain_25_points_below=best["accuracy"] - plain["accuracy"] >= 0.25,
            right_labels_teach_at_a_level=max(gains) >= 0.2,
            and_not_at_another=min(gains) < 0.2,
        )
    assert all(MANIFEST["kept"]["tiny-math"].values()) and all(MANIFEST["kept"]["tiny-nli"].values())


def test_the_teachers_chains_of_density_are_dense_and_true():
    plain, dense = (TEACHER["tiny-summ"][s] for s in ("vanilla", "cod"))
    assert dense["density"] >= 1.3 * plain["density"]
    assert 0.85 <= dense["words"] / plain["words"] <= 1.15
    assert dense["faithful"] >= 0.95


def test_the_teacher_can_talk():
    assert TEACHER["tiny-chat"]["vanilla"]["accuracy"] >= 0.9


@pytest.mark.parametrize("student", STUDENTS)
def test_students_keep_the_format(student):
    for name, by_strategy in BARS[student].items():
        for strategy, x in by_strategy.items():
            assert strategy == "cod" or x["format"] >= 0.95, (name, strategy)


def within_four_standard_errors(found, p, n=60):
    return abs(found - p) <= 4 * (max(p * (1 - p), 0.01) / n) ** 0.5 + 1e-9


def test_the_manifest_is_what_the_models_do(tmp_path):
    "The first 60 test items again: within four standard errors of what the manifest says of 500."
    engine = open_engine(f"transformers:{models.ZOO / 'student-s'}", batch_size=128)
    for name, tiny in TINY.items():
        test, store = load_data(Data(name=name, train=1, test=60)), Store(tmp_path)
        for strategy in TASKS[tiny.task].strategies:
            bars = BARS["student-s"][name][strategy]
            answers = sample_answers(test.test, strategy, engine=engine, store=store, max_tokens=test.max_tokens)
            if tiny.task == "conversation":
                pairs = [(p.text, r) for e, a in zip(test.test, answers) for p, r in zip(a.parts, e.meta["reference"])]
                assert within_four_standard_errors(sum(a == b for a, b in pairs) / len(pairs), bars["accuracy"])
                continue
            counts = summary(answers)
            assert within_four_standard_errors(1 - counts["format_failures"] / 60, bars["format"]), (name, strategy)
            if tiny.task == "summarization":
                texts = [a.parsed.answer or "" for a in answers]
                density = sum(len(entities(t)) for t in texts) / max(sum(len(t.split()) for t in texts), 1)
                assert abs(density - bars["density"]) <= 0.05
            else:
                assert within_four_standard_errors(counts["accuracy"], bars["accuracy"]), (name, strategy)


@pytest.mark.parametrize("name", ["tiny-nli", "tiny-summ", "tiny-chat"])
def test_every_later_item_fits_into_the_model(name):
    tok = AutoTokenizer.from_pretrained(models.ZOO / "student-s")
    for i in items(name, "zoo", n=100):
        for text in (i.question, i.rationale, *i.meta.get("turns", ())):
            ids = tok(text).input_ids
            assert len(ids) < 300 and not any("\ufffd" in t for t in tok.batch_decode(ids[:50]))


@pytest.mark.parametrize("text", ["héllo ☃ 你好 \n\n entailmentneutral", " ", "contradiction.Entailment"])
def test_the_tokenizer_reads_any_text_and_writes_it_back(text):
    tok = AutoTokenizer.from_pretrained(models.ZOO / "teacher")
    assert tok.decode(tok(text).input_ids) == text
