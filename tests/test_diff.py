"What changed between two reports: nothing in itself, what was changed and nothing else; other items are refused."

import json
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from distill_study.analyse.stats import Interval, interval_difference, wilson
from distill_study.cli import app
from distill_study.config import StudyError
from distill_study.tools import compare as diffs
from distill_study.tools.compare import Change, changes, compare_numbers, compare_reports, diff, print_diff, tables
from distill_study.tools.explore import read_report

TINY = Path(__file__).parent.parent / "reports" / "examples" / "tiny"
QA = TINY / "tiny-qa--teacher--student-s"
ALL = len(diffs.numbers(read_report(QA)))  # that two reports like it are compared in
ATTACK = "<script>alert(1)</script>\x1b[31m[bold]red\u202e"


@pytest.fixture
def one():
    return read_report(QA)


@pytest.fixture
def written(tmp_path, one):
    "Writes a changed copy of a report's numbers, and gives its folder."

    def write(change, name="other"):
        numbers = deepcopy(one.metrics)
        change(numbers)
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(numbers))
        return tmp_path / name

    return write


def call(*args):
    done = CliRunner().invoke(app, ["diff", *map(str, args)])
    return done.exit_code, done.output, done.exception


def setting(name, value):
    def change(m):
        *path, last = name.split(".")
        at = m["provenance"]["settings"]
        for k in path:
            at = at[k]
        at[last] = value

    return change


def right(arm, k, n=300):
    def change(m):
        m["arms"][arm]["accuracy"] = vars(wilson(k, n))

    return change


# --- what is compared


def test_a_report_and_itself():
    code, out, _ = call(QA, QA)
    assert code == 0
    assert f"None of {ALL} numbers changed beyond noise." in out
    assert "same settings, versions and counts" in out


def test_every_committed_report_is_its_own_twin():
    found = diff(TINY, TINY)
    assert (found.code, len(found.pairs)) == (0, 10)
    for p in found.pairs:
        assert not (p.settings or p.versions or p.counts or p.only_a or p.only_b)
        assert p.numbers
    assert all(n.p_holm == 1 for n in found.compared)


def test_another_seed_is_named_and_minded(written):
    found = diff(QA, written(setting("seed", 1)))
    assert found.pairs[0].settings == [Change("seed", 0, 1)]
    assert found.code == 0
    assert "within that of seeds" in found.pairs[0].note


@pytest.mark.parametrize(
    "name, value",
    [
        ("student.train.learning_rate", 1e-4),
        ("teacher.sampling.temperature", 0.5),
        ("min_rows", 30),
        ("arms", ["student/vanilla"]),
    ],
)
def test_another_setting_is_named_with_both_values(written, one, name, value):
    found = diff(QA, written(setting(name, value)))
    was = one.settings
    for k in name.split("."):
        was = was[k]
    assert found.pairs[0].settings == [Change(name, was, value)]


def test_settings_that_an_older_version_did_not_know_are_no_change(written):
    def older(m):
        for k in ("schedule", "packing", "choose"):
            m["provenance"]["settings"]["student"]["train"].pop(k, None)
        m["provenance"]["settings"].pop("rubric", None)

    assert diff(QA, written(older)).pairs[0].settings == []


def test_settings_that_no_version_knows_are_shown_as_they_are(written):
    found = diff(QA, written(setting("student.train.magic", ATTACK)))
    assert Change("student.train.magic", "not there", ATTACK) in found.pairs[0].settings


def test_versions_and_hashes(written):
    def change(m):
        m["provenance"]["versions"]["torch"] = "3.0"
        m["provenance"]["prompt_hashes"]["cot"] = "0"
        m["provenance"]["data_hashes"]["train"] = "1"
        m["provenance"]["generated"] = "later"
        m["provenance"]["durations"]["data"] = 9

    assert {c.what for c in diff(QA, written(change)).pairs[0].versions} == {
        "torch",
        "prompt_hashes.cot",
        "data_hashes.train",
    }


def test_a_number_that_moved_far_is_found_and_the_exit_code_says_so(written):
    folder = written(right("student/cot", 280))
    code, out, _ = call(QA, folder)
    assert code == 1
    assert f"1 of {ALL} numbers changed beyond noise" in out
    assert "beyond noise" in out
    code, out, _ = call(QA, folder, "--json")
    told = json.loads(out)
    number = next(n for n in told["reports"][0]["numbers"] if n["beyond"])
    assert code == told["code"] == 1
    assert (number["arm"], number["what"], number["method"]) == ("student/cot", "accuracy", "intervals")
    assert number["difference"]["low"] > 0


def test_a_number_that_moved_little_is_not(written):
    code, out, _ = call(QA, written(right("student/cot", 190)))
    assert code == 0
    assert "within noise" in out


def test_holm_counts_every_number_of_every_pair(tmp_path, one, written):
    found = diff(QA, written(right("student/cot", 240)))
    n = next(n for n in found.compared if (n.arm, n.what) == ("student/cot", "accuracy"))
    assert n.p < 0.05
    assert n.p_holm == pytest.approx(min(1, n.p * len(found.compared)))
    assert not n.beyond
    assert found.code == 0


def test_a_missing_arm(written):
    def gone(m):
        del m["arms"]["student/cot"]

    found = diff(QA, written(gone))
    assert found.pairs[0].only_a == ["student/cot, accuracy", "student/cot, accuracy, strict"]
    assert found.code == 0
    back = diff(written(gone, "back"), QA)
    assert back.pairs[0].only_b == found.pairs[0].only_a
    assert "only in the second: student/cot" in back.html()


def test_an_arm_that_did_not_run_has_no_number(written):
    def gone(m):
        m["arms"]["student/cot"] = dict(
            arm="student/cot",
            n=0,
            accuracy=dict(value=None, low=None, high=None, n=0, reason="no items"),
            missing="left out",
        )

    assert diff(QA, written(gone)).pairs[0].only_a == ["student/cot, accuracy", "student/cot, accuracy, strict"]


# --- what is refused


def test_other_data_is_refused_with_the_reason():
    code, out, _ = call(QA, TINY / "tiny-math--teacher--student-s")
    assert code == 2
    assert "other test items" in " ".join(out.split())
    assert "tiny-qa, hash" in " ".join(out.split())
    assert "can't be compared" in out


def test_other_items_of_the_same_data_are_refused(written):
    def change(m):
        m["provenance"]["data_hashes"]["test"] = "0" * 16

    found = diff(QA, written(change))
    assert found.code == 2
    assert found.compared == []
    assert "No number could be compared. 1 of 1 pairs" in found.verdict()


def test_reports_that_do_not_name_their_items_are_refused(written):
    def change(m):
        m["provenance"]["data_hashes"] = None

    assert "or don't say which: tiny-qa, hash" in diff(QA, written(change)).pairs[0].refused


def test_damaged_numbers_are_named_with_the_file(tmp_path):
    (tmp_path / "metrics.json").write_text("{")
    code, _, error = call(QA, tmp_path)
    assert isinstance(error, StudyError)
    assert "damaged" in str(error)
    assert str(tmp_path / "metrics.json") in str(error)


def test_a_folder_without_reports(tmp_path):
    with pytest.raises(StudyError, match="no metrics.json in this folder or below it"):
        diff(QA, tmp_path)
    with pytest.raises(StudyError, match="no such folder"):
        diff(tmp_path / "none", QA)


def test_mistakes_exit_with_2(monkeypatch, capsys, tmp_path):
    from distill_study import cli

    monkeypatch.setattr("sys.argv", ["distill-study", "diff", str(tmp_path / "none"), str(QA)])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == 2
    assert "no such folder" in capsys.readouterr().err


# --- recipes


def test_two_recipes_combination_by_combination(tmp_path, one):
    for name in ("tiny-qa--teacher--student-s", "tiny-nli--teacher--student-m", "tiny-qa--teacher--student-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text((TINY / name.replace("-x", "-s") / "metrics.json").read_text())
    found = diff(TINY, tmp_path)
    assert [p.name for p in found.pairs] == ["tiny-nli--teacher--student-m", "tiny-qa--teacher--student-s"]
    assert len(found.only_a) == 8
    assert found.only_b == ["tiny-qa--teacher--student-x"]
    assert found.code == 0


def test_one_refused_pair_does_not_hide_the_others(tmp_path, one):
    for name, source in (
        ("tiny-qa--teacher--student-s", "tiny-nli--teacher--student-s"),
        ("tiny-math--teacher--student-s", "tiny-math--teacher--student-s"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text((TINY / source / "metrics.json").read_text())
    found = diff(TINY, tmp_path)
    assert found.code == 2
    assert len(found.compared) == len(diffs.numbers(read_report(TINY / "tiny-math--teacher--student-s")))
    assert "1 of 2 pairs of reports can't be compared" in found.verdict()


def test_the_same_name_twice_in_one_folder(tmp_path):
    for run in "ab":
        (tmp_path / run / "tiny-qa--teacher--student-s").mkdir(parents=True)
        (tmp_path / run / "tiny-qa--teacher--student-s" / "metrics.json").write_text((QA / "metrics.json").read_text())
    with pytest.raises(diffs.StudyError, match="no combination in common: a/tiny-qa"):
        diff(tmp_path, TINY)


# --- items


def drawn(n, skill, seed):
    "Grades of `n` items for arms that are right with these probabilities."
    rng = np.random.default_rng(seed)
    frames = [pd.DataFrame(dict(arm=arm, id=range(n), correct=rng.random(n) < p)) for arm, p in skill.items()]
    return pd.concat(frames, ignore_index=True).assign(correct_strict=lambda d: d.correct)


def with_items(monkeypatch, *graded):
    "Reports whose stores hold these grades."
    found = iter(graded)
    monkeypatch.setattr(diffs, "rebuild", lambda r, store: SimpleNamespace(graded=next(found)))


def test_items_find_what_intervals_miss(monkeypatch, one):
    before = drawn(300, {"student/cot": 0.5, "student/vanilla": 0.3}, 1)
    mended = (before.groupby("arm").cumcount() % 9 == 0) & (before.arm == "student/cot")
    with_items(monkeypatch, before, before.assign(correct=before.correct | mended))
    p = compare_reports(one, one, stores=("here", "there"))
    paired = {(n.arm, n.what): n for n in p.numbers if n.method == "paired"}
    assert set(paired) == {(a, w) for a in ("student/cot", "student/vanilla") for w in ("accuracy", "accuracy, strict")}
    assert p.note == ""
    assert paired["student/cot", "accuracy"].p < 1e-3
    assert paired["student/vanilla", "accuracy"].p == 1
    assert {n.method for n in p.numbers if "gap" in n.what} == {"intervals"}


def test_items_are_matched_by_id(monkeypatch, one):
    before = drawn(50, {"student/cot": 0.5}, 2)
    after = before.sample(frac=1, random_state=0).iloc[:40]
    number = next(
        n for n in compare_numbers(one, one, graded=(before, after)) if (n.arm, n.what) == ("student/cot", "accuracy")
    )
    assert number.p == 1
    assert number.difference.n == 40
    assert number.difference.value == 0


def test_a_store_that_is_not_there_leaves_the_intervals(one):
    p = compare_reports(one, one, stores=("nowhere", None))
    assert p.note.startswith("No paired test: store 'nowhere'")
    assert {n.method for n in p.numbers} == {"intervals"}


# --- two intervals


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 80), st.integers(0, 120))
def test_p_is_below_5_percent_where_the_interval_excludes_zero(k, j):
    a, b = wilson(k, 80), wilson(j, 120)
    d, p = interval_difference(a, b)
    back, q = interval_difference(b, a)
    assert d.low <= d.value <= d.high
    assert 0 <= p <= 1
    assert p == pytest.approx(q)
    assert back.value == -d.value
    assert (p < 0.05) == d.excludes_zero or abs(p - 0.05) < 1e-9


@settings(max_examples=30, deadline=None)
@given(*[st.one_of(st.none(), st.floats(-5, 5))] * 6)
def test_any_intervals_give_a_p_or_a_reason(a, b, al, ah, bl, bh):
    def whole(v, low, high):
        low = low if v is None or low is None else min(v, low)
        return Interval(v, low, high if v is None or high is None else max(v, high), 5)

    d, p = interval_difference(whole(a, al, ah), whole(b, bl, bh))
    assert (p is None) == bool(d.reason)
    assert p is None or 0 <= p <= 1


def test_the_difference_of_two_shares_covers_the_truth():
    "Newcombe's interval of independent samples covers the difference in about 95 % of draws."
    rng = np.random.default_rng(0)
    hits = [
        (d := interval_difference(wilson(int(x), 60), wilson(int(y), 60))[0]).low <= 0.2 <= d.high
        for x, y in zip(rng.binomial(60, 0.4, 400), rng.binomial(60, 0.6, 400))
    ]
    assert 0.91 < np.mean(hits) < 0.99


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)),
)
def test_changes_are_those_and_no_others(a, b):
    both = {k: (a.get(k, "not there"), b.get(k, "not there")) for k in a | b}
    assert {c.what: (c.a, c.b) for c in changes(a, b)} == {k: (x, y) for k, (x, y) in both.items() if x != y}
    assert changes(a, a) == []


# --- what is shown


def test_text_of_a_report_does_nothing_in_terminal_and_page(written, capsys):
    folder = written(lambda m: (setting("data.name", ATTACK)(m), m["provenance"]["versions"].update({ATTACK: ATTACK})))
    found = diff(QA, folder)
    page = found.html()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    print_diff(found)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]red" in text.replace("\n", "")


def test_numbers_that_changed_stand_first(written):
    found = diff(QA, written(lambda m: (right("student/cot", 280)(m), right("control/gold", 63)(m))))
    rows = next(t for t in tables(found) if getattr(t, "caption", "").endswith("numbers that differ")).rows
    assert [r["verdict"] for r in rows] == ["beyond noise", "within noise"]


def test_json_is_plain_and_whole(written):
    told = json.loads(json.dumps(diff(QA, written(right("student/cot", 280))).to_dict(), allow_nan=False))
    assert told["reports"][0]["numbers"][0].keys() >= {
        "arm",
        "what",
        "a",
        "b",
        "difference",
        "p",
        "p_holm",
        "method",
        "beyond",
    }
    assert told["compared"] == ALL
