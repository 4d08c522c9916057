"A run of a few items, with the report's numbers and the store it leaves."

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from distill_study.analyse.results import write_numbers
from distill_study.config import Combination
from distill_study.store.log import Store
from distill_study.study.plan import to_yaml
from distill_study.study.run import Run

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
    run = Run.of(Combination.parse(SMALL | changes), Store(store))
    with redirect_stderr(StringIO()):
        write_numbers(run.numbers, folder / "metrics.json")
    (folder / "params.yaml").write_text(to_yaml(run.combination), encoding="utf-8")
    return folder
