"The arm that goes beyond fine-tuning: pairs of a right and a wrong sample, what DPO makes of them, what is refused."

import contextlib

import pandas as pd
import pytest
from test_curate import example, voted

from distill_study.config import ARMS, Combination, ConfigError, Contrast, Train, fingerprint
from distill_study.store.log import Store
from distill_study.study import plan as planner, workers
from distill_study.study.plan import parse_recipe
from distill_study.study.run import Run, students_parts
from distill_study.teach.curate import Curated, paired
from distill_study.teach.sampling import Answers
from distill_study.tools.share import write_rows
from distill_study.train import save
from distill_study.train.sft import TrainedStudent, fit_student

ARM, FIRST = ARMS["distilled/cot-contrast"], "distilled/cot-rationale"
RAW = dict(
    name="contrast",
    teachers=[
        dict(engine="transformers:zoo/teacher", strategies=["cot"], sampling=dict(n=4, temperature=1.5, max_tokens=96))
    ],
    students=[dict(model="zoo/student-s", train=dict(method="full", learning_rate=1e-3, steps=20, batch_size=16))],
    data=[dict(name="tiny-math", train=40, test=8)],
    arms=["student/cot", ARM.name, FIRST],
    min_rows=3,
    bootstrap=100,
)
SAMPLES = {
    "e0": ["Blue.\nAnswer: B", "No end.", "Red.\nAnswer: A", "It is red.\nAnswer: A", "Green.\nAnswer: C"],
    "e1": ["Red.\nAnswer: A", "So red.\nAnswer: A"],
    "e2": ["Blue.\nAnswer: B", "Answer: A"],  # a right one that reasons nothing
    "e3": ["Red.\nAnswer: A", "Blue.\nAnswer: B"],  # not among the rows
}


def test_a_pair_is_the_first_right_and_the_first_wrong_sample_and_inputs_without_both_are_counted():
    examples = [example(int(i[1:]), f"Where is cat {i}?") for i in SAMPLES]
    answers = Answers("cot", [voted(e, SAMPLES[e.id]) for e in examples], 0, 11)
    before = Curated(
        ARM.name,
        [dict(id=e.id, messages=e.ask("cot") + [dict(role="assistant", content="")]) for e in examples[:3]],
        [],
        chosen=dict(e0="drawn", e1="drawn"),
    )
    done = paired(before, ARM, answers=answers, which="visible")
    (row,) = done.rows
    assert (row["messages"][-1]["content"], row["rejected"]) == ("Red.\nAnswer: A", "Blue.\nAnswer: B")
    assert row["messages"][:-1] == examples[0].ask("cot") and done.chosen == dict(e0="drawn")
    assert done.attrition == dict(inputs=3, rows=1, dropped={"no wrong sample": 1, "no right sample": 1})


def sums(n):
    "Small additions, each with its result and with one that is wrong."
    said = [(i % 7, i % 5) for i in range(n)]
    asked = [dict(role="user", content=f"What is {a} plus {b}?") for a, b in said]
    right = [dict(role="assistant", content=f"The answer is {a + b}.") for a, b in said]
    wrong = [f"The answer is {a + b + 1}." for a, b in said]
    return [dict(id=f"s{i}", messages=[asked[i], right[i]], rejected=wrong[i]) for i in range(n)]


def stop(step, total, loss):
    if step == 5:
        raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["full", "lora"])
def test_right_texts_gain_on_wrong_ones_and_a_killed_training_ends_in_the_same_weights(tmp_path, method):
    rate = dict(full=5e-4, lora=5e-3)[method]
    contrast = Contrast(epochs=4, learning_rate=rate)
    settings = Train(method=method, learning_rate=rate, epochs=1, batch_size=8, save_steps=2, contrast=contrast)
    plain = [{k: v for k, v in row.items() if k != "rejected"} for row in sums(24)]
    first = fit_student(plain, "zoo/student-s", settings=settings, out=tmp_path / "first", seed=0)
    how = dict(settings=settings, seed=0, start=first)
    done = fit_student(sums(24), "zoo/student-s", out=tmp_path / "done", **how)
    before, after = done.contrast["margin"]
    assert after > before + 1 and done.contrast["preferred"][1] > done.contrast["preferred"][0]
    assert (done.rows, done.steps, done.history[0][1]) == (24, 24, pytest.approx(0.6931, abs=1e-4)), (
        "it starts as it was"
    )
    assert done.trainable == first.trainable and TrainedStudent.load(tmp_path / "done") == done
    with contextlib.suppress(KeyboardInterrupt):
        fit_student(sums(24), "zoo/student-s", out=tmp_path / "again", progress=stop, **how)
    assert save.last_checkpoint(tmp_path / "again").name == "checkpoint-4"
    again = fit_student(sums(24), "zoo/student-s", out=tmp_path / "again", **how)
    assert (again.starts, again.history, again.contrast) == ((0, 4), done.history, done.contrast)
    for path in (tmp_path / "done").rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "done")).read_bytes()


def test_its_settings_leave_the_fingerprints_of_other_arms_as_they_were():
    other = Train(contrast=Contrast(beta=0.5))
    assert "contrast" not in Train().model_dump() and fingerprint(other) == fingerprint(Train())
    assert "after" not in ARMS[FIRST].model_dump()


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(arms=[ARM.name]), "name that arm, too"),
        (dict(teachers=["transformers:zoo/teacher"]), "is asked once; set teacher.sampling.n"),
        (dict(train=dict(launch="cpu2")), "trained in one process"),
        (dict(train=dict(contrast=dict(beta=0))), "greater than 0"),
        (dict(train=dict(contrast=dict(gamma=1))), "unknown setting"),
    ],
)
def test_what_cant_make_pairs_is_refused_before_anything_runs(change, says):
    with pytest.raises(ConfigError, match=says):
        parse_recipe(RAW | change)


def test_a_recipe_trains_it_after_its_first_training_and_the_page_says_what_it_is(tmp_path):
    recipe, store = parse_recipe(RAW), Store(tmp_path)
    stages = {s.arm or s.kind: s for s in planner.plan(recipe)}
    assert stages[FIRST].key in stages[ARM.name].needs
    for kind in ("label", "base", FIRST, ARM.name):
        assert not workers.run_stage(stages[kind], store)
    run = Run.of(recipe.combinations()[0], Store(tmp_path, replay=True))
    fit, attrition = run.students[ARM.name], run.attrition[ARM.name]
    assert fit.rows == attrition["rows"] == fit.contrast["pairs"] and attrition["dropped"]["no wrong sample"]
    assert sum(attrition["dropped"].values()) + fit.rows == attrition["inputs"]
    notes = " ".join(p.data for p in students_parts(run) if hasattr(p, "data"))
    assert f"{ARM.name} is the one arm that isn't plain supervised fine-tuning" in notes
    assert ARM.name in run.numbers["arms"] and "DPO" in str(run.method.to_dict())
    run.write(tmp_path / "page")
    assert (tmp_path / "page" / "items.html").stat().st_size
    shared = write_rows(tmp_path / "rows", run.combination, splits=run.data, done=run.rows[ARM.name])
    table = pd.read_parquet(next(shared.rglob("*.parquet")))
    assert list(table["rejected"]) == [row["rejected"] for row in run.rows[ARM.name].rows]
    few = run.combination.model_copy(update=dict(min_rows=fit.rows + 1))
    short = Run.of(few, Store(tmp_path, replay=True)).untrained
    assert list(short) == [ARM.name] and f"fewer than min_rows = {fit.rows + 1}" in short[ARM.name]
    assert Combination.parse(few.model_dump()) == few
