"Joules by the devices' own counters: folders and modules stand in for devices that are not here, and their faults."

import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings, strategies as st

from distill_study.config import Train
from distill_study.train import methods as energy
from distill_study.train.methods import Meter, added, gpu_counters, rapl_counters
from distill_study.train.sft import TrainedStudent, fit_student

M = 1_000_000


def zone(root, name="intel-rapl:0", called="package-0", used=0, most=100 * M):
    "A powercap zone."
    (root / name).mkdir(parents=True, exist_ok=True)
    for f, x in dict(name=called, energy_uj=used, max_energy_range_uj=most).items():
        (root / name / f).write_text(f"{x}\n")


class Nvml:
    "A stand-in for pynvml; `used` are millijoules by UUID, what is missing raises as the library does."

    class NVMLError(Exception):
        pass

    def __init__(self, **used):
        self.used = used

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in self.used:
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if self.used[handle] is None:
            raise self.NVMLError("Not Supported")
        return self.used[handle]


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 10**9), st.lists(st.floats(0, 0.999), max_size=12), st.floats(0, 0.999))
def test_a_counter_that_comes_round_loses_nothing(tmp_path_factory, most, steps, start):
    "Whatever is used between two readings, if it is less than the counter's range."
    root = tmp_path_factory.mktemp("powercap")
    now, used = int(start * most), 0
    zone(root, used=now % most, most=most)
    meter = Meter(root=root, every=0)
    for s in steps:
        used += int(s * most)
        zone(root, used=(now + used) % most, most=most)
        meter.look()
    assert meter.joules().get("cpu", 0) == pytest.approx(used / M)


def test_processors_and_their_memory_are_added_up(tmp_path):
    for name, called in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "dram"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl-mmio:0", "package-0"),
        ("dtpm", "x"),
    ):
        zone(tmp_path, name, called)
    meter = Meter(root=tmp_path)
    for n, name in enumerate(
        ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0", "intel-rapl:0:1", "intel-rapl:2", "intel-rapl-mmio:0")
    ):
        zone(tmp_path, name, (tmp_path / name / "name").read_text().strip(), used=10**n * M, most=10**12)
    assert meter.joules() == dict(cpu=1 + 10 + 1000)


@pytest.mark.parametrize("fault", ["unreadable", "no number", "no range", "gone"])
def test_a_part_does_not_pass_for_the_whole(tmp_path, monkeypatch, fault):
    zone(tmp_path)
    zone(tmp_path, "intel-rapl:1", "package-1")
    bad = tmp_path / "intel-rapl:1" / ("max_energy_range_uj" if fault == "no range" else "energy_uj")
    if fault == "gone":
        bad.unlink()
    elif fault == "unreadable":
        read = energy.Path.read_text

        def closed(self, *a, **kw):
            if self == bad:
                raise PermissionError(13, "Permission denied")
            return read(self, *a, **kw)

        monkeypatch.setattr(
            energy.Path, "read_text", closed
        )  # root, who runs tests in a container, may read everything
    else:
        bad.write_text("none of this")
    assert rapl_counters(tmp_path) == [] and Meter(root=tmp_path).joules() == {}


def test_a_counter_that_goes_away_later(tmp_path):
    zone(tmp_path)
    meter = Meter(root=tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.joules() == {} and meter.joules() == {}


def test_gpus(tmp_path):
    nvml = Nvml(**{"GPU-a": 5000, "GPU-b": 100})
    meter = Meter(("GPU-a", "GPU-b"), root=tmp_path, nvml=nvml)
    nvml.used |= {"GPU-a": 7500, "GPU-b": 101}
    assert meter.joules() == dict(gpu=2.501)
    nvml.used["GPU-b"] = 3  # the driver was loaded anew
    assert meter.joules() == {}


@pytest.mark.parametrize(
    "nvml",
    [Nvml(), Nvml(**{"GPU-a": None}), SimpleNamespace(), None],
    ids=["another GPU", "no counter", "an old library", "not installed"],
)
def test_gpus_that_tell_nothing(nvml, monkeypatch):
    monkeypatch.setattr(
        energy.importlib, "import_module", lambda name: (_ for _ in ()).throw(ModuleNotFoundError(name))
    )
    assert gpu_counters(["GPU-a"], nvml) == []


def test_it_is_read_now_and_then_only(tmp_path):
    zone(tmp_path)
    meter = Meter(root=tmp_path, every=1000)
    zone(tmp_path, used=9 * M)
    meter.look()
    assert meter.used == dict(cpu=0) and meter.joules() == dict(cpu=9.0)


def test_sums_hold_only_what_all_know():
    assert (
        added([dict(gpu=1.0, cpu=1.0), dict(cpu=2.0)]) == dict(cpu=3.0)
        and added([dict(gpu=1.0), dict(cpu=1.0)]) is None
        and added([]) is None
    )


def rows(n):
    return [
        dict(
            id=str(i), messages=[dict(role="user", content=f"{i} + 1 = ?"), dict(role="assistant", content=str(i + 1))]
        )
        for i in range(n)
    ]


class Counting:
    "A meter of a made-up device: one joule a look."

    def __init__(self):
        self.n = 0

    def look(self):
        self.n += 1

    def joules(self):
        return dict(gpu=float(self.n))


def test_a_run_and_one_that_was_interrupted_count_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "own_meter", Counting)
    settings = Train(method="full", epochs=1, batch_size=4, save_steps=2)

    def stop(step, total, loss):
        if step == 4:
            raise KeyboardInterrupt

    assert fit_student(rows(24), "zoo/student-s", settings=settings, out=tmp_path / "a", seed=0).energy == dict(gpu=6.0)
    with pytest.raises(KeyboardInterrupt):
        fit_student(rows(24), "zoo/student-s", settings=settings, out=tmp_path / "b", seed=0, progress=stop)
    done = fit_student(
        rows(24), "zoo/student-s", settings=settings, out=tmp_path / "b", seed=0
    )  # from step 2 on: the looks at 3 and 4 were lost with the kill
    assert done.starts == (0, 2) and done.energy == dict(gpu=6.0) and "0.01 kJ GPU" in done._repr_markdown_()
    assert TrainedStudent.load(tmp_path / "b").energy == dict(gpu=6.0)


def test_a_part_of_a_run_that_is_unknown_makes_the_whole_unknown(tmp_path, monkeypatch):
    settings = Train(method="full", epochs=1, batch_size=4, save_steps=2)

    def stop(step, total, loss):
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(energy, "own_meter", lambda: Meter(root=tmp_path / "none"))
    with pytest.raises(KeyboardInterrupt):
        fit_student(rows(24), "zoo/student-s", settings=settings, out=tmp_path / "b", seed=0, progress=stop)
    monkeypatch.setattr(energy, "own_meter", Counting)
    assert fit_student(rows(24), "zoo/student-s", settings=settings, out=tmp_path / "b", seed=0).energy is None
    record = json.loads((tmp_path / "b" / "fit.json").read_text())
    del record["energy"]
    (tmp_path / "b" / "fit.json").write_text(json.dumps(record))
    assert TrainedStudent.load(tmp_path / "b").energy is None
