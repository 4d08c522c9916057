"Two processes at once, processes that are killed, files that are damaged, disks that are full."

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from distill_study.config import StudyError
from distill_study.store import log as log_module
from distill_study.store.log import FORMAT, MANIFEST, Record, Store, from_line, request_key, seal, unseal
from distill_study.utils import StoreError, write_all

ROOT = Path(__file__).resolve().parent.parent
ENGINE, WEIGHTS = "transformers:zoo/teacher", "0123456789abcdef"


@pytest.fixture(params=["kept in memory", "found by the index"], autouse=True)
def held(request, monkeypatch):
    "Every test of this page once as in a small store, and once with an index that takes over each record at once."
    if request.param == "found by the index":
        monkeypatch.setenv("HELD", "0")
        monkeypatch.setattr(log_module, "HELD", 0)


def record(n=0, text="4", **kw):
    q = dict(
        model="zoo/teacher",
        weights=WEIGHTS,
        messages=[dict(role="user", content=f"question {n}")],
        sampling=dict(temperature=0.0, max_tokens=16),
        sample=0,
    )
    return Record(key=request_key(**q), engine=ENGINE, text=text, finish_reason="stop", **q | kw)


def python(code, *args, **kw):
    "A process that runs `code` with this file's helpers at hand."
    head = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); from test_store import *\n"
    head += "log_module.HELD = int(os.environ.get('HELD', log_module.HELD))\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, args)],
        cwd=ROOT,
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kw,
    )


def file_of(root):
    return next((Path(root) / "completions").glob("*.jsonl"))


def fill(root, n=5):
    Store(root).add([record(i) for i in range(n)])
    return file_of(root)


def keys(root):
    "The keys that a store gives a record for."
    log = Store(root).log(ENGINE, WEIGHTS)
    log.refresh()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was torn, too, when it was refreshed
        lines = log.path.read_bytes().splitlines(keepends=True) if log.path.exists() else []
        stored = [unseal(line)["key"] for line in lines if line.endswith(b"}\n")]
        return {key for key in stored if log.get(key).key == key}


# ---------------------------------------------------------------- records and lines


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\r\n",
        "\u2028\u2029\x85\x0b",
        "\x00\x1b[31m",
        "\ud800",
        "</script>",
        "你好 🙂",
        '{"sum":"00000000",',
        "a" * 200_000,
    ],
)
def test_any_text_survives(tmp_path, text):
    store = Store(tmp_path)
    store.add([record(0, text), record(1)])
    again = Store(tmp_path).get(ENGINE, WEIGHTS, key=record(0).key)
    assert again.text == text and again.valid_key


def test_every_field_survives(tmp_path):
    r = record(0, prompt_tokens=3, completion_tokens=2, latency=0.25, info=dict(device="cpu"))
    r = Record(
        **{
            **vars(r),
            "asked": dict(id="a"),
            "key": request_key(
                r.model, r.weights, messages=r.messages, sampling=r.sampling, sample=r.sample, asked=dict(id="a")
            ),
        }
    )
    Store(tmp_path).add([r])
    assert Store(tmp_path).get(ENGINE, WEIGHTS, key=r.key) == r and r.valid_key


def test_what_the_key_depends_on():
    base = dict(model="m", weights="w", messages=[dict(role="user", content="x")], sampling=dict(seed=0), sample=0)
    others = [
        dict(model="n"),
        dict(weights="v"),
        dict(messages=[dict(role="system", content="x")]),
        dict(sampling=dict(seed=1)),
        dict(sample=1),
        dict(asked=dict(id="a")),
    ]
    assert len({request_key(**base | o) for o in [{}, *others]}) == len(others) + 1


def test_first_record_of_a_key_counts(tmp_path):
    store = Store(tmp_path)
    assert store.add([record(0, "first"), record(0, "second")]) == 1
    assert Store(tmp_path).add([record(0, "third"), record(1)]) == 1
    assert Store(tmp_path).get(ENGINE, WEIGHTS, key=record(0).key).text == "first"
    assert file_of(tmp_path).read_bytes().count(b"\n") == 2


def test_other_weights_are_another_file(tmp_path):
    store = Store(tmp_path)
    store.add([record(0), Record(**{**vars(record(0)), "weights": "f" * 16})])
    assert len(list((tmp_path / "completions").glob("*.jsonl"))) == 2


def test_a_very_long_engine_name(tmp_path):
    store, r = Store(tmp_path), Record(**{**vars(record(0)), "engine": "transformers:" + "x/" * 400 + "y"})
    store.add([r])
    assert Store(tmp_path).get(r.engine, WEIGHTS, key=r.key) == r


# ---------------------------------------------------------------- torn and damaged files


@pytest.mark.parametrize("cut", [1, 2, 10, 200])
def test_torn_last_line_is_dropped_then_cut_away(tmp_path, cut):
    file = fill(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    with pytest.warns(UserWarning, match=r"its last line, 5, is torn .* is dropped"):
        assert len(keys(tmp_path)) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Store(tmp_path).add([record(9)])
    lines = file.read_bytes().splitlines()
    assert len(lines) == 5 and from_line(lines[-1] + b"\n") == record(9, created=from_line(lines[-1] + b"\n").created)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(keys(tmp_path)) == 5


def test_last_line_of_zeros_after_a_power_cut(tmp_path):
    file = fill(tmp_path)
    with open(file, "ab") as f:
        f.write(b"\0" * 300)
    with pytest.warns(UserWarning, match="torn"):
        assert len(keys(tmp_path)) == 5


def test_torn_first_line(tmp_path):
    file = fill(tmp_path, 1)
    file.write_bytes(file.read_bytes()[:30])
    with pytest.warns(UserWarning, match="its last line, 1, is torn"):
        Store(tmp_path).add([record(0)])
    assert len(keys(tmp_path)) == 1


@pytest.mark.parametrize(
    "harm, why",
    [
        (lambda line: b"garbage\n", "not a record"),
        (lambda line: b"\n", "not a record"),
        (lambda line: line[:50] + b"\n", "not a record"),
        (lambda line: line.replace(b'"text":"4"', b'"text":"5"'), "checksum"),
        (lambda line: line[:50] + b"\xff" + line[51:], "checksum"),
        (lambda line: with_fields(line, drop="weights"), "fields do not fit"),
        (lambda line: with_fields(line, extra=1), "fields do not fit"),
    ],
)
def test_damage_in_the_middle_names_file_and_line(tmp_path, harm, why):
    file = fill(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[2] = harm(lines[2])
    file.write_bytes(b"".join(lines))
    before = file.read_bytes()
    with pytest.raises(StoreError, match=rf"{file.name}', line 3: damaged \(.*{why}.*\)\. Restore the file"):
        keys(tmp_path)
    with pytest.raises(StoreError, match="line 3"):
        Store(tmp_path).add([record(9)])
    assert file.read_bytes() == before  # nothing is written to, or cut from, a damaged file


def with_fields(line, drop=None, **more):
    "A line with other fields and a checksum that fits them."
    import zlib

    row = json.loads(line)
    row.pop("sum"), row.pop(drop, None)
    body = json.dumps(row | more, separators=(",", ":"))[1:-1].encode()
    return b'{"sum":"%08x",%s}\n' % (zlib.crc32(body), body)


def test_another_format_version_is_refused_even_on_the_last_line(tmp_path):
    file = fill(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]) + with_fields(lines[-1], v=FORMAT + 1))
    with pytest.raises(
        StoreError, match=f"line 5: written in format {FORMAT + 1}; this version of distill-study reads format {FORMAT}"
    ):
        keys(tmp_path)


# ---------------------------------------------------------------- two processes at once


def test_two_processes_append_to_one_file(tmp_path):
    Store(tmp_path)
    code = (
        "s = Store(sys.argv[1])\n"
        "for i in range(40): s.add([record(f'{sys.argv[2]} {i}'), record(f'both {i}', 'x' * 9000)])"
    )
    procs = [python(code, tmp_path, me) for me in "ab"]
    assert [p.wait() for p in procs] == [0, 0]
    log = Store(tmp_path).log(ENGINE, WEIGHTS)
    log.refresh()
    assert [len(keys(tmp_path)), log.lines] == [120, 120]


def test_a_reader_sees_what_another_process_appends(tmp_path):
    store = Store(tmp_path)
    assert store.get(ENGINE, WEIGHTS, key=record(7).key) is None
    assert python("Store(sys.argv[1]).add([record(7)])", tmp_path).wait() == 0
    assert store.get(ENGINE, WEIGHTS, key=record(7).key).text == "4"


def test_killed_in_the_middle_of_appends(tmp_path):
    Store(tmp_path)
    code = (
        "s = Store(sys.argv[1])\n"
        "for i in range(10**6): s.add([record(f'{sys.argv[2]} {i}', 'x' * 3000)]); print(i, flush=True)"
    )
    told = 0
    for round in range(3):
        p = python(code, tmp_path, round)
        for _ in range(20):
            last = int(p.stdout.readline())
        p.send_signal(signal.SIGKILL)
        rest = p.stdout.read().split()  # what was read ahead of the lines above, too
        p.communicate()
        told += int(rest[-1] if rest else last) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a torn line is allowed, a lost one is not
        assert told <= len(keys(tmp_path)) <= told + 3
        Store(tmp_path).add([record("after")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert record("after").key in keys(tmp_path)


# ---------------------------------------------------------------- disks and folders


def test_full_disk_takes_back_what_was_half_written(tmp_path):
    "A process may write 20 kB to a file: the batch that does not fit leaves no trace, those before it stay."
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "s = Store(sys.argv[1]); s.add([record(0)])\n"
        "try: s.add([record(i, 'x' * 3000) for i in range(1, 10)])\n"
        "except StoreError as e: print(e)\n"
        "s.add([record(99)])"
    )
    p = python(code, tmp_path)
    out, err = p.communicate()
    assert p.returncode == 0, err
    assert "no room left to write. Free some disk space" in out and str(tmp_path) in out
    assert keys(tmp_path) == {record(0).key, record(99).key}


def test_full_device(tmp_path):
    "A file on a device without room."
    with pytest.raises(OSError) as e, open("/dev/full", "ab", buffering=0) as f:
        write_all(f.fileno(), b"x")
    assert e.value.errno == errno.ENOSPC


def test_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="file/store': a file is in the way"):
        Store(tmp_path / "file" / "store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path):
    Store(tmp_path / "store")
    for folder in ("completions", "locks", "."):
        (tmp_path / "store" / folder).chmod(0o500)
    try:
        with pytest.raises(StudyError, match="can't be read or written .* Mend its permissions"):
            Store(tmp_path / "store").add([record(0)])
    finally:
        for folder in (".", "locks", "completions"):
            (tmp_path / "store" / folder).chmod(0o700)


# ---------------------------------------------------------------- stages


def test_a_killed_stage_goes_on_from_its_checkpoints(tmp_path):
    code = (
        "with Store(sys.argv[1]).new_stage('student', 'ab12') as folder:\n"
        "    (folder/'checkpoint-1').write_text('half way'); print('there', flush=True); __import__('time').sleep(60)"
    )
    p = python(code, tmp_path)
    assert p.stdout.readline() == "there\n"
    p.kill()
    p.wait()
    stages = Store(tmp_path)
    assert stages.stage("student", "ab12") is None
    with stages.new_stage("student", "ab12", info=dict(steps=3)) as folder:
        assert (folder / "checkpoint-1").read_text() == "half way"
        (folder / "model").write_text("done")
    done = stages.stage("student", "ab12")
    assert (done / "model").read_text() == "done" and json.loads((done / MANIFEST).read_text())["info"] == dict(steps=3)
    assert sorted(os.listdir(tmp_path / "stages")) == ["student-ab12"]


def test_the_second_builder_waits_and_finds_it_done(tmp_path):
    code = (
        "with Store(sys.argv[1]).new_stage('student', 'ab12') as folder:\n"
        "    if folder: print('building', flush=True); input(); (folder/'model').write_text('made')\n"
        "    else: print('found', flush=True)"
    )
    first = python(code, tmp_path, stdin=subprocess.PIPE)
    assert first.stdout.readline() == "building\n"
    second = python(code, tmp_path)
    assert "Waiting for another process that is making stage student-ab12" in second.stderr.readline()
    first.communicate("go on\n")
    assert second.communicate()[0] == "found\n"
    assert first.wait() == 0 and (Store(tmp_path).stage("student", "ab12") / "model").read_text() == "made"


def test_where_locks_do_not_hold_the_first_to_finish_wins(tmp_path):
    stages = Store(tmp_path)
    with stages.new_stage("student", "ab12") as folder:
        (folder / "model").write_text("ours")
        shutil.copytree(folder, tmp_path / "stages" / "student-ab12")
        (tmp_path / "stages" / "student-ab12" / "model").write_text("theirs")
        (tmp_path / "stages" / "student-ab12" / MANIFEST).write_text(json.dumps(dict(fp="ab12")))
    assert (stages.stage("student", "ab12") / "model").read_text() == "theirs" and not folder.exists()


def test_stages_of_other_fingerprints_are_apart(tmp_path):
    stages = Store(tmp_path)
    with stages.new_stage("student", "ab12"):
        pass
    assert stages.stage("student", "ab13") is None and stages.stage("teacher", "ab12") is None


def test_damaged_stage_says_what_to_delete(tmp_path):
    stages = Store(tmp_path)
    with stages.new_stage("student", "ab12"):
        pass
    (tmp_path / "stages" / "student-ab12" / MANIFEST).unlink()
    with pytest.raises(StoreError, match="stage.json': damaged or unreadable .* Delete its folder"):
        stages.stage("student", "ab12")


def test_errors_of_the_work_pass_and_a_full_disk_is_named(tmp_path):
    stages = Store(tmp_path)
    with pytest.raises(FileNotFoundError):
        with stages.new_stage("student", "ab12"):
            open(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="student-ab12': no room left"):
        with stages.new_stage("student", "ab12"):
            raise RuntimeError("SafetensorError: No space left on device (os error 28)")


@pytest.mark.parametrize(
    "name, fp", [("../x", "ab"), ("x/y", "ab"), ("", "ab"), ("x", "../ab"), ("x", ""), ("X", "ab")]
)
def test_stage_names_stay_in_the_folder(tmp_path, name, fp):
    with pytest.raises(StoreError, match="a stage is named by"):
        Store(tmp_path).stage(name, fp)


def test_small_results(tmp_path):
    stages = Store(tmp_path)
    assert stages.get_json("metrics", "ab") is None
    for value in (None, [1, 2.5], dict(é="ü")):
        stages.put_json("metrics", "ab", obj=value)
        assert Store(tmp_path).get_json("metrics", "ab") == value
    next((tmp_path / "results").iterdir()).write_text("{")
    with pytest.raises(StoreError, match="Delete it: the result is then made again"):
        stages.get_json("metrics", "ab")


# --- a store that came from somebody else

GOOD = dict(
    key="k",
    engine="e:m",
    model="m",
    weights="w",
    messages=[dict(role="user", content="q")],
    sampling={},
    sample=0,
    text="a",
    finish_reason="stop",
)


@pytest.mark.parametrize(
    "hostile",
    [
        dict(text=5),
        dict(text=None),
        dict(key=["k"]),
        dict(messages="abc"),
        dict(messages=[["role"]]),
        dict(messages=[dict(role="user", content=5)]),
        dict(messages=None),
        dict(messages=[{}]),
        dict(sampling=[]),
        dict(sample="0"),
        dict(prompt_tokens="7"),
        dict(latency="soon"),
        dict(info="x"),
        dict(asked=None),
        dict(weights=1),
        dict(more=1),
        dict(finish_reason=["stop"]),
        dict(self=1),
    ],
)
def test_records_of_other_types_are_refused_with_file_and_line(tmp_path, hostile):
    log = Store(tmp_path).log("e:m", "w")
    log.path.write_bytes(seal(GOOD) + seal(GOOD | hostile) + seal(GOOD | dict(key="z")))
    with pytest.raises(StoreError, match="line 2: damaged .its fields do not fit") as e:
        Store(tmp_path).get("e:m", "w", key="k")
    assert len(str(e.value)) < 600


def test_giant_lines_are_refused_in_a_few_words(tmp_path):
    log = Store(tmp_path).log("e:m", "w")
    for line in (
        b"x" * 4_000_000,
        b'{"sum":"00000000","v":1,' + b'"a":' * 1_000_000 + b"}",
        seal(GOOD | dict(text=["x" * 4_000_000])),
    ):
        log.path.write_bytes(line.rstrip(b"\n") + b"\n" + seal(GOOD))
        with pytest.raises(StoreError, match="line 1: damaged") as e:
            Store(tmp_path).get("e:m", "w", key="k")
        assert len(str(e.value)) < 600
    log.path.write_bytes(seal(GOOD) + b"x" * 4_000_000)  # torn: without an end
    with pytest.warns(UserWarning, match="torn"):
        assert Store(tmp_path).get("e:m", "w", key="k").text == "a"
    log.path.write_bytes(seal(GOOD | dict(text="x" * 4_000_000)))  # long, and what it says it is
    assert len(Store(tmp_path).get("e:m", "w", key="k").text) == 4_000_000


@pytest.mark.parametrize("text", ["[]", "5", "null", '{"fp": "ab12"}', "[" * 100_000, "{", "\xff"])
def test_results_and_manifests_that_are_something_else(tmp_path, text):
    s = Store(tmp_path)
    s.put_json("numbers", "ab12", obj=1)
    (tmp_path / "results" / "numbers-ab12.json").write_text(text)
    with pytest.raises(StoreError, match="damaged or unreadable"):
        s.get_json("numbers", "ab12")
    (tmp_path / "stages" / "student-ab12").mkdir()
    (tmp_path / "stages" / "student-ab12" / "stage.json").write_text(text)
    if "fp" not in text:
        with pytest.raises(StoreError, match="damaged|another stage"):
            s.stage("student", "ab12")


@pytest.mark.parametrize("key", ["../../../etc", "/etc", ["ab"], 5, dict(a=1), "", "AB", "ab\n"])
def test_a_result_that_points_out_of_the_store_is_refused(tmp_path, key):
    "What says which trained student is meant comes from a file."
    s = Store(tmp_path)
    s.put_json("trained", "ab12", obj=key)
    with pytest.raises(StoreError, match="changed by hand"):
        s.stage("student", s.get_json("trained", "ab12"))
