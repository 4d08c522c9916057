"A report made again: same, within noise, beyond it, failed, and what is refused before anything runs."

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from distill_study.analyse.stats import wilson
from distill_study.cli import app
from distill_study.config import StudyError
from distill_study.study import schedule as grid
from distill_study.study.schedule import Outcome
from distill_study.tools.compare import differing, reproduce
from distill_study.tools.explore import read_report

TINY = Path(__file__).parent.parent / "reports" / "examples" / "tiny"
QA = TINY / "tiny-qa--teacher--student-s"
MINE = read_report(QA).metrics


@pytest.fixture
def again(monkeypatch, tmp_path):
    "Stands for the run: what it writes are the published numbers, but for a change. Gives (exit code, output)."

    def go(change=lambda m: None, *args, error=None, report=QA):
        def run(c, out, store, replay=False):
            numbers = deepcopy(MINE)
            change(numbers)
            out.mkdir(parents=True)
            (out / "metrics.json").write_text(json.dumps(numbers))
            return Outcome(c, out, 61.0, error)

        monkeypatch.setattr(grid, "run_combination", run)
        done = CliRunner().invoke(app, ["reproduce", str(report), "--fresh", *args])
        if isinstance(done.exception, StudyError):
            return 2, str(done.exception)
        assert isinstance(done.exception, SystemExit) or done.exception is None, done.exception
        return done.exit_code, done.output

    return go


def little(m):
    m["arms"]["student/vanilla"]["accuracy"]["value"] += 1e-3


def much(m):
    m["arms"]["student/vanilla"]["accuracy"] = vars(wilson(290, 300))


def newer(m):
    m["provenance"]["versions"]["torch"] = "9.9"
    m["provenance"]["git_sha"] = "f" * 40


def slower(m):
    m["training"]["distilled/vanilla"]["seconds"] = 1e6
    m["serving"]["student/vanilla"]["seconds"] = 9.0


def test_the_same_numbers_are_reproduced_whatever_the_time_they_took(again):
    code, out = again(slower)
    assert code == 0
    assert "reproduced. Made again from nothing" in out
    assert "but times are the same" in out


def test_losses_that_are_rounded_otherwise_are_no_difference(again):
    def rounded(m):
        for e in m["training"]["distilled/vanilla"]["losses"]:
            e["loss"] *= 1 + 3e-6

    code, out = again(rounded)
    assert code == 0
    assert "of the training log up to rounding" in out

    def other(m):
        m["training"]["distilled/vanilla"]["last_loss"] *= 1.5

    assert again(other)[0] == 1


def test_versions_that_differ_are_named(again):
    code, out = again(newer)
    assert code == 0
    assert "versions" in out
    assert "9.9" in out
    assert "git_sha" in out


def test_other_numbers_are_not_reproduced_on_a_processor_even_within_noise(again):
    code, out = again(little)
    assert code == 1
    assert "not reproduced" in out
    assert "arms.student/vanilla.accuracy.value" in out
    assert "OMP_NUM_THREADS=1" in out
    assert again(much)[0] == 1


def test_elsewhere_noise_is_allowed(again, tmp_path):
    shutil.copytree(QA, tmp_path / "r")
    numbers = deepcopy(MINE)
    numbers["provenance"]["versions"]["torch"] = "2.0.0"
    (tmp_path / "r" / "metrics.json").write_text(json.dumps(numbers))
    assert again(little, report=tmp_path / "r")[0] == 0
    assert again(much, report=tmp_path / "r")[0] == 1


def test_a_run_that_fails_is_not_reproduced(again):
    code, out = again(error="RuntimeError: no memory")
    assert code == 1
    assert "not reproduced" in out
    assert "no memory" in out


def test_json_is_plain_and_whole(again):
    code, out = again(much, "--json")
    said = json.loads(out[out.index("{") :])
    assert code == 1 == said["code"]
    assert said["expected"] == "identical"
    assert said["differs"]
    assert said["diff"]["beyond"] >= 1


def test_nothing_is_left_and_out_keeps_the_new_report(again, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in QA.iterdir()}
    assert again(lambda m: None, "--out", str(tmp_path / "new"))[0] == 0
    assert (tmp_path / "new" / QA.name / "metrics.json").exists()
    assert {p: p.stat().st_mtime_ns for p in QA.iterdir()} == before
    code, said = again(lambda m: None, "--out", str(tmp_path / "new"))
    assert code == 2
    assert "nothing is written over" in said


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda p: "a: [", "not readable as YAML"),
        (lambda p: [1], "expected a mapping"),
        (lambda p: yaml.safe_load(p) | dict(sead=7), "Did you mean 'seed'?"),
    ],
)
def test_params_that_are_not_those_of_the_numbers(again, tmp_path, change, says):
    shutil.copytree(QA, tmp_path / "r")
    made = change((tmp_path / "r" / "params.yaml").read_text())
    (tmp_path / "r" / "params.yaml").write_text(made if isinstance(made, str) else yaml.safe_dump(made))
    code, said = again(report=tmp_path / "r")
    assert code == 2
    assert says in said


def test_without_params_the_numbers_tell(again, tmp_path):
    shutil.copytree(QA, tmp_path / "r")
    (tmp_path / "r" / "params.yaml").unlink()
    assert again(report=tmp_path / "r")[0] == 0


@pytest.mark.parametrize("path, says", [(TINY, "one is made again at a time"), (TINY / "nowhere", "no such folder")])
def test_what_is_no_report(again, path, says):
    code, said = again(report=path)
    assert code == 2
    assert says in said


def test_data_that_is_not_here_or_not_the_same(again, tmp_path):
    shutil.copytree(QA, tmp_path / "r")
    changed = MINE["provenance"] | dict(data_hashes=dict(test="0" * 16))
    (tmp_path / "r" / "metrics.json").write_text(json.dumps(MINE | dict(provenance=changed)))
    code, said = again(report=tmp_path / "r")
    assert (code, "its test examples" in said) == (2, True)
    code, said = again(lambda m: None, "--data", "mine.jsonl", report=tmp_path / "r")
    assert code == 2
    assert "mine.jsonl" in said


def test_a_store_without_what_the_report_was_made_from(tmp_path):
    with pytest.raises(StudyError, match="there is no store in this folder"):
        reproduce(QA, tmp_path / "none")


def test_committed_settings_name_no_folder():
    for p in TINY.glob("*/params.yaml"):
        assert not any(isinstance(v, str) and v.startswith(("/", "~")) for v in str(p.read_text()).split())


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
trees = st.recursive(
    leaves,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text("abcxyz", min_size=1, max_size=3), x, max_size=3),
    max_leaves=12,
)


@settings(max_examples=30, deadline=None)
@given(a=st.dictionaries(st.text("abc", min_size=1, max_size=3), trees, max_size=4), timed=trees)
def test_any_numbers_equal_themselves_and_times_do_not_count(a, timed):
    assert differing(a, deepcopy(a))[1] == []
    assert differing(a, a | dict(seconds=timed, findings=timed))[1] == []
    grown = differing(dict(x=[a]), dict(x=[a, a]))[1]
    assert [c.what for c in grown] == ["x: entries"]
    assert len(differing(dict(x=1, y=a), dict(y=a))[1]) == 1
