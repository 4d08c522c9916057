"A run of a few items, with the report's numbers and the store it leaves."

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from distill_study.analyse.graders import assess_judge
from distill_study.analyse.results import analyse
from distill_study.config import Combination, to_yaml
from distill_study.data.load import load_data, resolved
from distill_study.grading.truth import grade, main_metric
from distill_study.report.findings import findings
from distill_study.report.render import metrics, provenance
from distill_study.store.log import Store
from distill_study.study.run import answer_arms, curate_arms, judge_arms, label_inputs, train_arms
from distill_study.tasks.families import arms_of
from distill_study.utils import write_json

SMALL = dict(
    teacher=dict(engine="transformers:zoo/teacher"),
    student=dict(model="zoo/student-s", train=dict(method="full", learning_rate=1e-3, epochs=1, batch_size=8)),
    data=dict(name="tiny-qa", train=16, test=8),
    min_rows=2,
    bootstrap=100,
    arms=("teacher/cot", "student/vanilla", "distilled/cot-rationale"),
)


def small_run(
    folder,  # gets the report
    store,  # gets completions and students
    **changes,  # of `SMALL`
) -> Path:
    "The stages of one combination in this process."
    c = Combination.parse(SMALL | changes)
    splits, kept = load_data(c.data), Store(store)
    c = resolved(c, splits.task)
    with redirect_stderr(StringIO()):
        labels = label_inputs(c, splits, store=kept)
        curated, missing = curate_arms(c, splits, labels=labels, store=kept)
        fits = train_arms(c, curated, store=kept, splits=splits)
        answers, absent = answer_arms(c, splits, fits=fits, store=kept)
        metric = main_metric(splits.task, splits.test)
        graded = grade(splits.test, answers)
        results = analyse(
            graded, absent | missing, resamples=c.bootstrap, seed=c.seed, metric=metric, arms=arms_of(splits.task)
        )
        said = judge_arms(c, splits, answers=answers, store=kept, best=results.best)
    training = {
        a: dict(rows=f.rows, steps=f.steps, losses=[dict(step=s, loss=l) for s, l in f.history])
        for a, f in fits.items()
    }
    made = provenance(c, splits.hashes, durations={})
    judged = said and assess_judge(said, graded, key=metric.key, resamples=c.bootstrap, seed=c.seed)
    write_json(
        metrics(
            results,
            made,
            found=findings(results, {}, training=training),
            attrition={a: d.attrition for a, d in curated.items()},
            labelling={},
            training=training,
            judge=judged,
        ),
        folder / "metrics.json",
    )
    (folder / "params.yaml").write_text(to_yaml(c), encoding="utf-8")
    return folder
