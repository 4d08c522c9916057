"Joules by the GPU's own counter: a module stands in for a device that is not here, and for its faults."

import json
from types import SimpleNamespace

import pytest

from distill_study.config import Train
from distill_study.train import methods as energy
from distill_study.train.methods import gpu_joules
from distill_study.train.sft import TrainedStudent, fit_student

SETTINGS = Train(method="full", epochs=1, batch_size=4, save_steps=2)


class Nvml:
    "A stand-in for pynvml; `used` are millijoules by UUID, what is missing raises as the library does."

    def __init__(self, **used):
        self.used = used

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self.used[handle] + 0


@pytest.mark.parametrize(
    "nvml, joules",
    [(Nvml(**{"GPU-a": 5500}), 5.5), (Nvml(), None), (Nvml(**{"GPU-a": None}), None), (SimpleNamespace(), None)],
    ids=["counts", "another GPU", "no counter", "an old library"],
)
def test_a_gpu_tells_or_nothing_is_known(nvml, joules, monkeypatch):
    import torch

    monkeypatch.setattr(energy.importlib, "import_module", lambda name: nvml)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid="GPU-a"))
    assert gpu_joules() == joules


def rows(n):
    said = [(dict(role="user", content=f"{i} + 1 = ?"), dict(role="assistant", content=str(i + 1))) for i in range(n)]
    return [dict(id=str(i), messages=list(messages)) for i, messages in enumerate(said)]


def fit(out, stop_at=None):
    def stop(step, total, loss):
        if step == stop_at:
            raise KeyboardInterrupt

    return fit_student(rows(24), "zoo/student-s", settings=SETTINGS, out=out, seed=0, progress=stop)


def test_a_run_that_was_interrupted_counts_all_its_starts(tmp_path, monkeypatch):
    "One joule a look at the counter; the looks after the last checkpoint are lost with the kill."
    looks = iter(range(100))
    monkeypatch.setattr(energy, "gpu_joules", lambda: float(next(looks)))
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, stop_at=4)
    done = fit(tmp_path)  # the first start took 1 until its checkpoint; this one has looked twice more, for its own
    assert done.starts == (0, 2) and done.energy == dict(gpu=1.0 + 3.0)
    assert "0.00 kJ GPU" in done._repr_markdown_()
    assert TrainedStudent.load(tmp_path).energy == done.energy


def test_a_part_of_a_run_that_is_unknown_makes_the_whole_unknown(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, stop_at=4)
    monkeypatch.setattr(energy, "gpu_joules", lambda: 1.0)
    assert fit(tmp_path).energy is None
    record = json.loads((tmp_path / "fit.json").read_text())
    del record["energy"]
    (tmp_path / "fit.json").write_text(json.dumps(record))
    assert TrainedStudent.load(tmp_path).energy is None
