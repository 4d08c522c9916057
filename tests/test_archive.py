"Stores that are looked into from outside: while others write, after damage, under names that nothing has."

import subprocess
import sys

import pytest
from test_store import ENGINE, WEIGHTS, file_of, fill, python, record
from typer.testing import CliRunner

from distill_study.cli import app
from distill_study.store.log import Store, seal
from distill_study.tools import archive
from distill_study.tools.archive import Problem, check_store, contents, prune, to_prune


def call(*args):
    return CliRunner().invoke(app, ["store", *map(str, args)])


@pytest.mark.parametrize(
    "damage, line, lost, what",
    [
        (lambda b: b[:-10], 5, False, "torn"),
        (lambda b: b + b'{"sum":"0', 6, False, "torn"),
        (lambda b: b.replace(b"question 2", b"question 7"), 3, True, "checksum"),
        (lambda b: b.replace(b"\n", b"\nnonsense\n", 1), 2, True, "not a record"),
        (lambda b: b + b.splitlines(keepends=True)[0], 6, False, "repeats the key"),
    ],
)
def test_damage_is_named_by_line(tmp_path, damage, line, lost, what):
    path = fill(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    (problem,) = check_store(tmp_path)
    assert (problem.path, problem.line, problem.lost) == (path, line, lost) and what in problem.text
    result = call("verify", "--store", tmp_path)
    assert result.exit_code == int(lost) and f"line {line}" in result.output
    assert path.read_bytes() == before  # looking changes nothing


@pytest.mark.parametrize("cores", [2, 3])
def test_a_large_file_is_looked_at_in_parts(tmp_path, monkeypatch, cores):
    "In processes that see what one process sees, by the same lines."
    lines = fill(tmp_path, 12).read_bytes().splitlines(keepends=True)
    wrong = seal(vars(record(99)) | dict(key=record(98).key))
    for harmed in (
        lines,
        [*lines[:3], b"nonsense\n", *lines[3:], lines[1], wrong, lines[10], b'{"sum":"0'],
        [],
        lines[:1],
    ):
        file_of(tmp_path).write_bytes(b"".join(harmed))
        monkeypatch.setattr(archive, "LARGE", 1 << 30)
        whole = contents(tmp_path), check_store(tmp_path)
        monkeypatch.setattr(archive, "LARGE", 100)
        monkeypatch.setattr(archive.os, "cpu_count", lambda: cores)
        assert (contents(tmp_path), check_store(tmp_path)) == whole
        assert [(p.line, p.lost) for p in whole[1]] == (
            [(4, True), (14, False), (15, True), (16, False), (17, False)] if len(harmed) > 12 else []
        )


def test_a_key_that_is_not_of_its_contents(tmp_path):
    good = record(1)
    Store(tmp_path).add([type(good)(**{**vars(good), "key": record(2).key})])
    assert [p.text.split(".")[0] for p in check_store(tmp_path)] == ["its key is not the fingerprint of its contents"]


def test_a_stage_is_verified_file_by_file(tmp_path):
    store = Store(tmp_path)
    for fp in ("aa11", "bb22", "cc33"):
        with store.new_stage("student", fp) as folder:
            (folder / "model").mkdir()
            (folder / "model" / "w").write_bytes(b"1234")
    (store.stage("student", "aa11") / "model" / "w").unlink()
    (store.stage("student", "bb22") / "model" / "w").write_bytes(b"1235")
    (store.stage("student", "cc33") / "stage.json").write_text("{")
    found = [p.text.removesuffix(" Delete the folder: the stage is then made again.") for p in check_store(tmp_path)]
    assert found == ["missing.", "its checksum does not fit.", "no readable stage.json (JSONDecodeError)."]


def test_pruning_shows_before_it_removes(tmp_path):
    fill(tmp_path)
    shown = call("prune", "--engine", ENGINE, "--store", tmp_path)
    assert "1 would be removed" in shown.output and len(contents(tmp_path)) == 1
    assert (
        "1 removed" in call("prune", "--engine", ENGINE, "--yes", "--store", tmp_path).output
        and contents(tmp_path) == []
    )
    store = Store(tmp_path)
    assert (
        store.get(ENGINE, WEIGHTS, key=record(0).key) is None and store.add([record(0)]) == 1
    )  # and it is a store still


def test_a_stage_being_made_elsewhere_stays(tmp_path):
    busy = python(
        "import time\n"
        "with Store(sys.argv[1]).new_stage('student', 'ab12') as f: print('in', flush=True); time.sleep(60)",
        tmp_path,
    )
    try:
        assert busy.stdout.readline() == "in\n"
        assert [e.info for e in contents(tmp_path)] == ["interrupted; a run goes on from here"]
        assert (
            "left alone" in call("prune", "--interrupted", "--yes", "--store", tmp_path).output
            and len(contents(tmp_path)) == 1
        )
    finally:
        busy.kill()
        busy.wait()
    assert [e.name for e in prune(tmp_path, to_prune(tmp_path, interrupted=True))] == ["student-ab12.partial"]


@pytest.mark.parametrize("command", ["list", "verify", "prune"])
def test_no_store_there(tmp_path, command):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from distill_study.cli import main; main()",
            "store",
            command,
            "--store",
            str(tmp_path / "none"),
        ],
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2 and "there is no store in this folder" in done.stderr and not (tmp_path / "none").exists()
    )


def test_reading_while_another_process_writes(tmp_path):
    fill(tmp_path, 1)
    writer = python("s = Store(sys.argv[1])\nfor i in range(400): s.add([record(i)])", tmp_path)
    while writer.poll() is None:
        assert [p for p in check_store(tmp_path) if isinstance(p, Problem)] == []
    assert writer.returncode == 0 and contents(tmp_path)[0].count == 400
