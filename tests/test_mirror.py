"A store at a URL: two machines, object storage, and what goes wrong between them."

import json

import fsspec
import pytest
from smallrun import SMALL
from test_store import ENGINE, WEIGHTS, keys, python, record

from distill_study.config import Combination, StudyError
from distill_study.store.log import MANIFEST, Store
from distill_study.store.remote import mirror_of, working_copy
from distill_study.study.run import Run
from distill_study.tools import archive
from distill_study.utils import StoreError


@pytest.fixture(scope="module")
def s3():
    "The URL of a bucket on a server of this machine that speaks S3's protocol."
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for k, v in dict(
        AWS_ENDPOINT_URL=f"http://{host}:{port}",
        AWS_ACCESS_KEY_ID="a-name",
        AWS_SECRET_ACCESS_KEY="marked-s3-key",
        AWS_DEFAULT_REGION="us-east-1",
    ).items():
        patch.setenv(k, v)
    fsspec.filesystem("s3").mkdir("team")
    yield "s3://team"
    patch.undo()
    server.stop()


@pytest.fixture(params=["s3", "memory", "file"])
def url(request, tmp_path):
    "A store that is not there yet, on each kind of file system."
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    return f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/far"


@pytest.fixture
def at(tmp_path, monkeypatch):
    "Go to a machine, by name."

    def go(name):
        monkeypatch.setenv("DISTILL_CACHE_DIR", str(tmp_path / name))
        return name

    return go


def make_stage(store, name="student", fp="ab12", text="weights"):
    with store.new_stage(name, fp) as folder:
        (folder / "model").write_text(text)


def test_what_one_machine_did_the_other_finds(url, at):
    at("a")
    ours = Store(url)
    ours.add([record(0), record(1)])
    with ours.asking(ENGINE, WEIGHTS, keys=["x"]):
        ours.add([record(2)])
    ours.ledger.append([dict(id="q", reason="http_429")])
    make_stage(ours)
    ours.put_json("metrics", "ab12", obj=dict(n=3))
    at("b")
    theirs = Store(url)
    assert keys(url) == {record(i).key for i in range(3)}
    assert theirs.get(ENGINE, WEIGHTS, key=record(2).key) == ours.get(ENGINE, WEIGHTS, key=record(2).key)
    assert (theirs.stage("student", "ab12") / "model").read_text() == "weights" and theirs.stage(
        "student", "ab13"
    ) is None
    assert theirs.get_json("metrics", "ab12") == dict(n=3) and [e["id"] for e in theirs.ledger.entries()] == ["q"]
    assert archive.check_store(url) == []


def test_answers_of_both_are_kept_and_none_is_sent_twice(url, at):
    at("a")
    ours = Store(url)
    at("b")
    theirs = Store(url)
    at("a")
    ours.add([record(0), record(1)])
    at("b")
    theirs.add([record(1), record(2)])
    for machine in "abab":
        at(machine)
        Store(url)
    sent = mirror_of(working_copy(url))._list("completions")
    for machine in "ab":
        at(machine)
        assert keys(url) == {record(i).key for i in range(3)}
    assert mirror_of(working_copy(url))._list("completions") == sent and len(sent) == 2


def test_two_machines_at_once(s3, tmp_path, at):
    url = f"{s3}/{tmp_path.name}"
    code = (
        "store = Store(sys.argv[1])\n"
        "for i in range(4): store.add([record(f'{sys.argv[2]} {i}'), record(f'both {i}')]); store.mirror.sync()"
    )
    procs = [at(m) and python(code, url, m) for m in "ab"]
    assert [(p.communicate()[1], p.returncode) for p in procs] == [("", 0)] * 2
    for machine in "ab":
        at(machine)
        Store(url)
    for machine in "abc":
        at(machine)
        assert keys(url) == {record(f"{m} {i}").key for m in ("a", "b", "both") for i in range(4)}
        assert [p for p in archive.check_store(url) if p.lost] == []


def test_a_machine_that_goes_away_before_it_has_sent_sends_at_its_next_start(url, at, monkeypatch):
    at("a")
    store = Store(url)
    for how in ("put", "put_file"):
        monkeypatch.setattr(
            store.mirror.fs, how, lambda *a, **k: (_ for _ in ()).throw(ConnectionError("the line is cut"))
        )
    store.add([record(0)])
    with pytest.raises(
        StoreError, match=r"can't be reached \(ConnectionError: the line is cut\).*sent by the next run"
    ):
        make_stage(store)
    with pytest.raises(StoreError, match="can't be reached"):
        store.put_json("metrics", "ab12", obj=1)
    monkeypatch.undo()
    at("a")
    Store(url)
    at("b")
    theirs = Store(url)
    assert keys(url) == {record(0).key} and theirs.stage("student", "ab12") and theirs.get_json("metrics", "ab12") == 1


def test_without_the_network_what_is_here_is_replayed(url, at, monkeypatch):
    at("a")
    Store(url).add([record(0)])
    monkeypatch.setattr(Store(url).mirror.fs, "find", lambda *a, **k: (_ for _ in ()).throw(TimeoutError()))
    with pytest.raises(StoreError, match="TimeoutError: no reason given"):
        Store(url)
    with pytest.warns(UserWarning, match="can't be reached"):
        kept = Store(url, replay=True)
    assert kept.get(ENGINE, WEIGHTS, key=record(0).key)


def test_a_segment_and_a_stage_that_are_still_being_written_are_left_for_later(url, at):
    at("a")
    store = Store(url)
    store.add([record(0), record(1)])
    make_stage(store)
    m = store.mirror
    segment, manifest = next(iter(m._list("completions"))), f"{m.at}/stages/student-ab12/{MANIFEST}"
    whole, listed = m.fs.cat_file(f"{m.at}/{segment}"), m.fs.cat_file(manifest)
    m.fs.pipe_file(f"{m.at}/{segment}", whole[:100])
    m.fs.pipe_file(manifest, listed[:10])
    at("b")
    theirs = Store(url)
    assert keys(url) == set() and theirs.stage("student", "ab12") is None
    m.fs.pipe_file(f"{m.at}/{segment}", whole)
    m.fs.pipe_file(manifest, listed)
    theirs = Store(url)
    assert keys(url) == {record(0).key, record(1).key} and theirs.stage("student", "ab12")


@pytest.mark.parametrize(
    "name",
    [
        "results/../../evil.json",
        "completions/../../evil/20261123120000000-0123abcd-3.jsonl",
        "results/sub/evil.json",
        "results/evil.html",
        "stages/student-ab12/../../../evil",
    ],
)
def test_a_hostile_bucket_writes_nothing_outside(s3, tmp_path, at, name):
    at("a")
    store = Store(url := f"{s3}/{tmp_path.name}")
    make_stage(store)
    import boto3

    boto3.client("s3").put_object(Bucket="team", Key=f"{tmp_path.name}/{name}", Body=b"{}\n")
    at("b")
    theirs = Store(url)
    theirs.stage("student", "ab12")
    assert not list((tmp_path / "b").rglob("*evil*")) and not list(tmp_path.glob("*evil*"))


def test_a_manifest_that_points_outside_is_refused(url, at):
    at("a")
    store = Store(url)
    make_stage(store)
    where = f"{store.mirror.at}/stages/student-ab12/{MANIFEST}"
    store.mirror.fs.pipe_file(
        where,
        json.dumps(json.loads(store.mirror.fs.cat_file(where)) | dict(files={"../../etc/passwd": "00000000"})).encode(),
    )
    at("b")
    with pytest.raises(StoreError, match="damaged or missing"):
        Store(url).stage("student", "ab12")


def test_pruned_here_is_pruned_there(url, at):
    at("a")
    store = Store(url)
    store.add([record(0)])
    make_stage(store)
    archive.prune(url, archive.to_prune(url, [ENGINE], stages=["student-ab12"]))
    at("b")
    assert keys(url) == set() and Store(url).stage("student", "ab12") is None
    at("a")
    Store(url).add([record(5)])
    Store(url)
    assert keys(url) == {record(5).key}


@pytest.mark.parametrize(
    "bad, says",
    [
        ("s3://name:secret@team/x", "a key in a URL ends up in reports"),
        ("nowhere://team/x", "Protocol not known: nowhere"),
        ("gs://team/x", "gcsfs"),
    ],
)
def test_urls_that_will_not_do(bad, says, at):
    at("a")
    with pytest.raises(StudyError, match=says) as e:
        Store(bad)
    assert "secret" not in str(e.value)


def test_nobody_there(at, monkeypatch):
    at("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "marked-s3-key")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(StoreError, match="can't be reached") as e:
        Store("s3://nobody/there")
    assert "marked-s3-key" not in str(e.value)
    fsspec.filesystem("s3").clear_instance_cache()


def test_what_one_machine_asked_and_trained_another_takes(s3, tmp_path, at):
    url = f"{s3}/{tmp_path.name}"
    settings = SMALL | dict(data=dict(name="tiny-qa", train=4, test=2))

    def answers():
        run = Run.of(Combination.parse(settings), Store(url))
        return {arm: [a.text for a in got.answers] for arm, got in run.answers.items()}

    at("a")
    ours = answers()
    counted = {e.name: e.count for e in archive.contents(url)}
    at("b")
    assert answers() == ours
    assert {e.name: e.count for e in archive.contents(url)} == counted
    assert len([*working_copy(url).glob("stages/*/stage.json")]) == 1
    logs = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert logs and not [x for x in logs if b"marked-s3-key" in x]
