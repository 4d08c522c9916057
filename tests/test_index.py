"The index beside a log: what it saves, and that it is never believed over the log."

import os
import random
import subprocess
import zlib

import pytest
from test_store import ENGINE, WEIGHTS, file_of, python, record

from distill_study.store import log as log_module
from distill_study.store.log import Index, Log, Store, from_line, seal
from distill_study.utils import StoreError


@pytest.fixture
def indexed(tmp_path, monkeypatch):
    "A log of 40 records with an index, which takes over every 4,500 bytes (eleven records)."
    monkeypatch.setattr(log_module, "HELD", 4500)
    monkeypatch.setenv("HELD", "4500")
    store = Store(tmp_path)
    for i in range(40):
        store.add([record(i, f"answer {i}")])
    file = file_of(tmp_path)
    assert file.with_suffix(".index").exists() and 0 < len(store.log(ENGINE, WEIGHTS).recent) < 12
    return file


def texts(file, n=40):
    "What a process that opens the store finds."
    store = Store(file.parent.parent)
    found = [store.get(ENGINE, WEIGHTS, key=record(i).key) for i in range(n)]
    return [r and r.text for r in found]


RIGHT = [f"answer {i}" for i in range(40)]


def test_an_index_is_behind_its_log_and_the_rest_is_read(indexed, monkeypatch):
    read = []
    monkeypatch.setattr(log_module, "from_line", lambda line: read.append(line) or from_line(line))
    log = Log(indexed)
    log.refresh()
    assert 0 < len(read) < 12 and log.lines == 40  # what the index doesn't have is parsed, and nothing else
    assert texts(indexed) == RIGHT and texts(indexed, 41)[40] is None


@pytest.mark.parametrize(
    "harm",
    [
        lambda data, draw: b"",
        lambda data, draw: data[: draw.randrange(len(data))],
        lambda data, draw: data + b"x",
        lambda data, draw: (at := draw.randrange(len(data))) and data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :],
        lambda data, draw: data[: draw.randrange(len(data))] + b"\0" * 500,
        lambda data, draw: b"\n" + data,
        lambda data, draw: b"[" * 100_000,
        lambda data, draw: seal(dict(size=-4, lines="2", crc=None, table=0)),
        lambda data, draw: seal(dict(size=0, lines=0, crc=0, table=0, more=1)),
    ],
)
def test_a_damaged_index_is_seen_and_made_again(indexed, harm):
    index = indexed.with_suffix(".index")
    whole = index.read_bytes()
    for seed in range(10):
        index.write_bytes(harm(whole, random.Random(seed)))
        assert texts(indexed) == RIGHT
        assert Index.load(index, os.open(indexed, os.O_RDONLY)).lines > 30


def test_stores_of_before_have_no_index(indexed):
    indexed.with_suffix(".index").unlink()
    assert texts(indexed) == RIGHT and indexed.with_suffix(".index").exists()


@pytest.mark.parametrize("way", ["another log", "records the other way round", "shorter"])
def test_an_index_of_another_log_is_not_believed(indexed, tmp_path, way):
    lines = indexed.read_bytes().splitlines(keepends=True)
    if way == "another log":
        indexed.write_bytes(b"".join(seal(vars(record(i, f"other {i}"))) for i in range(40)))
        assert texts(indexed) == [f"other {i}" for i in range(40)]
    elif way == "shorter":
        indexed.write_bytes(b"".join(lines[:20]))
        assert texts(indexed) == RIGHT[:20] + [None] * 20
    else:
        indexed.write_bytes(b"".join(lines[::-1]))
        assert texts(indexed) == RIGHT


def test_an_index_that_lies_costs_one_reading_of_the_log(indexed):
    "Its checksums fit, its places are wrong: somebody made it so."
    with open(indexed, "rb") as f:
        index = Index.load(indexed.with_suffix(".index"), f.fileno())
    index.table = index.table.copy()
    index.table[1] += 3
    about = dict(size=index.size, lines=index.lines, crc=index.crc, table=zlib.crc32(index.table))
    lie = seal(about) + index.table.tobytes()
    indexed.with_suffix(".index").write_bytes(lie)
    assert texts(indexed) == RIGHT
    indexed.with_suffix(".index").write_bytes(lie)
    assert Store(indexed.parent.parent).add([record(0, "again"), record(99)]) == 1  # seen under the lock of an append


def test_damage_under_an_open_log_is_named(indexed):
    store = Store(indexed.parent.parent)
    assert store.get(ENGINE, WEIGHTS, key=record(2).key).text == "answer 2"
    data = indexed.read_bytes()
    indexed.write_bytes(data.replace(b'answer 2"', b'answer 3"'))
    for _ in range(2):
        with pytest.raises(StoreError, match="line 3: damaged .its checksum does not fit"):
            store.get(ENGINE, WEIGHTS, key=record(2).key)
    indexed.write_bytes(data)
    assert store.get(ENGINE, WEIGHTS, key=record(2).key).text == "answer 2"
    indexed.unlink()
    assert store.get(ENGINE, WEIGHTS, key=record(2).key) is None


def test_keys_of_one_hash_are_told_apart(indexed, monkeypatch):
    monkeypatch.setattr(log_module, "key_hash", lambda key: 7)
    indexed.with_suffix(".index").unlink()
    assert texts(indexed) == RIGHT
    again = seal(vars(record(3, "later")))
    indexed.write_bytes(indexed.read_bytes() + again * 20)
    assert texts(indexed) == RIGHT  # the first record of a key counts, in the index too


def test_an_index_that_can_not_be_written(indexed):
    "As in a read-only folder, and on a full disk."
    index = indexed.with_suffix(".index")
    index.unlink()
    index.mkdir()
    assert texts(indexed) == RIGHT and Store(indexed.parent.parent).add([record(i) for i in range(60)]) == 20
    index.rmdir()
    code = (
        "from test_index import *; import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "log = Log(Path(sys.argv[1])); print([log.get(record(i).key).text for i in range(40)])"
    )
    out, err = python(code, indexed).communicate()
    assert out.strip() == str(RIGHT), err
    assert [p.name for p in indexed.parent.iterdir()] == [indexed.name]


def test_two_processes_make_the_index_at_once(indexed):
    "And one of them is killed while it writes."
    index = indexed.with_suffix(".index")
    index.unlink()
    code = (
        "from test_index import *\n"
        "from distill_study import utils\n"
        "utils.replace_file = lambda data, path, real=utils.replace_file: (input(), real(data, path))\n"
        "print(Log(Path(sys.argv[1])).get(record(int(sys.argv[2])).key).text)"
    )
    killed = (
        "from test_index import *\nos.fsync = lambda fd: (print('there', flush=True), __import__('time').sleep(60))\n"
    )
    killed = python(killed + "Log(Path(sys.argv[1])).refresh()", indexed)
    assert killed.stdout.readline() == "there\n"
    killed.kill()
    killed.communicate()
    assert not index.exists()
    procs = [python(code, indexed, i, stdin=subprocess.PIPE) for i in (3, 4)]
    assert [p.communicate("\n")[0] for p in procs] == ["answer 3\n", "answer 4\n"]
    assert index.exists() and texts(indexed) == RIGHT


def test_an_interrupt_while_a_log_is_read_loses_nothing(indexed, monkeypatch):
    indexed.with_suffix(".index").unlink()
    log, left = Log(indexed), iter(range(25))

    def until_interrupted(line):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return from_line(line)

    monkeypatch.setattr(log_module, "from_line", until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        log.refresh()
    monkeypatch.setattr(log_module, "from_line", from_line)
    assert [log.get(record(i).key).text for i in range(40)] == RIGHT
    log.append([record(50)])
    assert Log(indexed).get(record(50).key)
