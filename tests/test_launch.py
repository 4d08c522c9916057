"Training in several processes: the curve of one, errors as they are, nothing left running."

import contextlib
import json
import random
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
from conftest import ROOT
from hypothesis import given, settings as fast, strategies as st

from distill_study.config import ConfigError, Train
from distill_study.train import launch as module, rows as batches
from distill_study.train.launch import check_launch, launch, shipped
from distill_study.train.rows import GroupedOrder, batches_at_once, share_of
from distill_study.train.save import TrainingFailed, last_checkpoint
from distill_study.train.sft import fit_student

MODEL = "zoo/student-s"
# Largest difference between one process and several: of a step's loss, and of a weight beyond its rounding.
CURVE, WEIGHTS = 1e-5, 2e-5


def row(i, a, b):
    return dict(
        id=f"r{i}",
        messages=[
            dict(role="user", content=f"What is {a} plus {b}?" + " Tell me." * (i % 3)),
            dict(role="assistant", content=f"The answer is {a + b}."),
        ],
    )


def rows(n=21):
    rng = random.Random(5)
    return [row(i, rng.randint(1, 9), rng.randint(1, 9)) for i in range(n)]


# 21 rows at 4 × 2 a step: two whole steps, and one of batches of 4 and of 1, which leaves a process without a row
FULL = Train(method="full", epochs=2, batch_size=4, gradient_accumulation=2, learning_rate=1e-3, save_steps=2)
LORA = Train(epochs=2, batch_size=8, r=4, alpha=8, learning_rate=5e-3, warmup_ratio=0)


def two(settings, **more):
    return settings.model_copy(update=dict(launch="cpu2", **more))


def tensors(folder):
    from safetensors.torch import load_file

    return {k: v for p in folder.glob("*.safetensors") for k, v in load_file(p).items()}


def far(a, b):
    "The largest difference between the weights of two folders, the last bit of their format not counted."
    import torch

    a, b = tensors(a), tensors(b)
    assert a.keys() == b.keys() and all(a[k].dtype == b[k].dtype for k in a)

    def beyond(x, y):
        rounding = torch.finfo(x.dtype).eps * x.float().abs()
        return ((x.float() - y.float()).abs() - rounding).clamp(min=0).max().item()

    return max(beyond(a[k], b[k]) for k in a)


def curves(a, b):
    "The largest difference between the losses of two runs."
    steps, others = ([step for step, _ in f.history] for f in (a, b))
    assert steps == others
    return max(abs(x - y) for (_, x), (_, y) in zip(a.history, b.history))


def workers():
    "Rank → process of the training that this process has launched."
    out = {}
    for p in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RANK" in p.environ() and any(
                "distill_study.train.launch" in c or c.endswith("entry.py") for c in p.cmdline()
            ):
                out[int(p.environ()["RANK"])] = p
    return out


# ---- the batches of one process


@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 6), st.integers(2, 6))
@fast(max_examples=60, deadline=None)
def test_every_step_has_the_rows_it_has_in_one_process(n, batch, accumulation, processes):
    lengths = [1 + i * 7 % 13 for i in range(n)]
    order = list(GroupedOrder(lengths, batch, seed=3, epoch=lambda: 0))
    one = [order[i : i + batch * accumulation] for i in range(0, n, batch * accumulation)]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(batches, "ranks", lambda: (0, processes))
        joined = batches_at_once(accumulation)
        assert accumulation % joined == 0 and processes % joined == 0
        micro = [order[i : i + batch * joined] for i in range(0, n, batch * joined)]
        per_step = accumulation // joined
        steps = [micro[i : i + per_step] for i in range(0, len(micro), per_step)]
        assert len(steps) == len(one)
        for step, want in zip(steps, one):
            seen = []
            for rank in range(processes):
                m.setattr(batches, "ranks", lambda rank=rank: (rank, processes))
                for part in step:
                    mine = share_of([dict(id=i, input_ids=[0] * lengths[i], labels=[1] * lengths[i]) for i in part])
                    assert mine  # every process has something to compute, or the others would wait for it
                    seen += [r["id"] for r in mine if set(r["labels"]) != {-100}]
            assert sorted(seen) == sorted(want)


# ---- configurations


@pytest.mark.parametrize("name", shipped())
def test_accelerates_own_reader_and_launcher_take_every_configuration(name, monkeypatch):
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import launch as accelerates
    from accelerate.utils.launch import prepare_multi_gpu_env

    monkeypatch.setattr(accelerates, "is_port_in_use", lambda port: False)
    path = shipped()[name]
    assert isinstance(load_config_from_file(str(path)), ClusterConfig)
    args, found, _ = _validate_launch_command(
        launch_command_parser().parse_args(
            ["--config_file", str(path), "--num_processes", "2", "-m", "distill_study.train.launch", "job.json"]
        )
    )
    assert args.num_processes == 2 and found.num_machines == 1
    if args.use_fsdp:
        env = prepare_multi_gpu_env(args)
        assert (
            env["ACCELERATE_USE_FSDP"] == "true"
            and env["FSDP_VERSION"] == "2"
            and env["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
            and env["FSDP_RESHARD_AFTER_FORWARD"] == "true"
        )
    else:
        assert args.multi_gpu and args.use_cpu == (name == "cpu2")
        assert prepare_multi_gpu_env(args)["ACCELERATE_MIXED_PRECISION"] == "no"


def test_fsdp_configuration_makes_accelerates_plugin(monkeypatch):
    import yaml
    from accelerate.utils import FullyShardedDataParallelPlugin

    for key, value in yaml.safe_load(shipped()["fsdp"].read_text())["fsdp_config"].items():
        monkeypatch.setenv(key.upper(), str(value).lower() if isinstance(value, bool) else str(value))
    plugin = FullyShardedDataParallelPlugin()
    assert (
        plugin.fsdp_version == 2
        and plugin.reshard_after_forward is True
        and plugin.cpu_ram_efficient_loading
        and not plugin.activation_checkpointing
    )


FSDP = "distributed_type: FSDP\nnum_processes: 2\nfsdp_config:\n  fsdp_version: 2\n"
REFUSED = {
    "a name": ("fsdb", {}, "Did you mean 'fsdp'"),
    "no file": ("some/where.yaml", {}, "neither a configuration of this package nor a file"),
    "unknown key": ("distributed_type: MULTI_GPU\nnum_procs: 2\n", {}, "unknown keys"),
    "no YAML": ("distributed_type: [", {}, "accelerate can't use it"),
    "unknown type": ("distributed_type: MANY\n", {}, "accelerate can't use it"),
    "one process of CPU": (
        "distributed_type: MULTI_CPU\nuse_cpu: true\nnum_processes: 2\n",
        {},
        "leaves the others to mpirun",
    ),
    "TPU": ("distributed_type: XLA\nnum_processes: 2\n", {}, "not supported"),
    "FSDP on the CPU": (FSDP + "use_cpu: true\n", {}, "without a word"),
    "FSDP1": ("distributed_type: FSDP\nnum_processes: 2\nfsdp_config:\n  fsdp_version: 1\n", {}, "fsdp_version: 2"),
    "checkpointed twice": (
        FSDP + "  fsdp_activation_checkpointing: true\n",
        dict(gradient_checkpointing=True),
        "checkpointed twice",
    ),
    "no GPU": ("ddp", {}, "no GPU here"),
    "fewer rows than processes": ("cpu2", dict(batch_size=2, processes=3), "fewer than processes"),
    "several machines": (
        "distributed_type: MULTI_GPU\nuse_cpu: true\nnum_machines: 2\nnum_processes: 4\n",
        {},
        "runs on one machine",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_work_is_refused_before_anything_starts(case, tmp_path, monkeypatch):
    text, changes, why = REFUSED[case]
    if "\n" in text or "[" in text:
        (tmp_path / "own.yaml").write_text(text)
        text = str(tmp_path / "own.yaml")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(module.subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(ConfigError, match="train") as e:
        launch(rows(), MODEL, settings=Train(launch=text, **changes), out=tmp_path / "run", seed=0)
    assert why.lower() in str(e.value).lower() and not (tmp_path / "run").exists(), e.value


def test_fsdp_and_qlora(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ConfigError, match="4-bit weights.*'ddp'"):
        check_launch(Train(launch="fsdp").model_copy(update=dict(method="qlora")))
    assert check_launch(Train(launch="ddp").model_copy(update=dict(method="qlora")))[1] == 2


def test_own_configuration_by_path(tmp_path):
    (tmp_path / "mine.yaml").write_text(shipped()["cpu2"].read_text().replace("num_processes: 2", "num_processes: 3"))
    assert check_launch(Train(launch=str(tmp_path / "mine.yaml")))[1:] == (3, True)


# ---- two processes


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    "The same full fine-tuning in one process and in two."
    folder, held, steps = tmp_path_factory.mktemp("full"), rows(5), []
    how = dict(seed=0, validation=held)
    return SimpleNamespace(
        one=fit_student(rows(), MODEL, settings=FULL, out=folder / "one", **how),
        two=launch(rows(), MODEL, settings=two(FULL), out=folder / "two", progress=lambda *a: steps.append(a), **how),
        steps=steps,
    )


def test_full_fine_tuning_in_two_processes_is_that_of_one(full):
    assert full.two.steps == full.one.steps == 6 and curves(full.one, full.two) < CURVE
    assert full.one.history[0][1] > full.one.history[-1][1] + 0.1  # it learns something that could differ
    assert far(full.one.path, full.two.path) < WEIGHTS
    assert max(abs(a - b) for (_, a), (_, b) in zip(full.one.validation, full.two.validation, strict=True)) < CURVE
    assert (full.two.processes, full.two.trainable, full.two.tokens) == (2, full.one.trainable, full.one.tokens)
    assert sorted(p.name for p in full.two.path.parent.iterdir()) == sorted(
        p.name for p in full.one.path.parent.iterdir()
    )


def test_steps_are_told_and_a_finished_run_starts_nothing(full, monkeypatch):
    assert [(s, n) for s, n, _ in full.steps] == [(s, 6) for s in range(1, 7)]
    assert [loss for _, _, loss in full.steps] == [loss for _, loss in full.two.history]
    monkeypatch.setattr(module.subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    out = full.two.path.parent
    assert launch(rows(), MODEL, settings=two(FULL), out=out, seed=0, validation=rows(5)) == full.two


def test_an_error_inside_is_the_error_it_is_and_ends_all(tmp_path):
    with pytest.raises(TrainingFailed, match="^training stopped at step .* Lower train.learning_rate"):
        launch(
            rows(),
            MODEL,
            settings=two(FULL, learning_rate=1e9, schedule="constant", warmup_ratio=0),
            out=tmp_path / "run",
            seed=0,
        )
    assert not workers()


PARENT = """
import json, sys
from distill_study.config import Train
from distill_study.train.launch import launch
job = json.load(open(sys.argv[1]))
settings, tell = Train(**job["settings"]), lambda *a: print(a[0], flush=True)
launch(job["rows"], job["model"], settings=settings, out=job["out"], seed=0, progress=tell)
"""


def test_nothing_is_left_when_the_starting_process_is_killed(tmp_path):
    (tmp_path / "job").write_text(
        json.dumps(
            dict(rows=rows(), model=MODEL, settings=two(FULL, epochs=200.0).model_dump(), out=str(tmp_path / "run"))
        )
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "job")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert parent.stdout.readline().strip() == "1"
        started = psutil.Process(parent.pid).children(recursive=True)
        assert len(started) >= 3
        parent.kill()
        gone, left = psutil.wait_procs(started, timeout=20)
        assert not left, [p.cmdline() for p in left]
    finally:
        parent.kill()


# ---- sharded

ENTRY = """
"accelerate shards on the devices of a list that the CPU is not in; FSDP2 itself runs there."
"So its state is told, and all the rest is as on GPUs."
import sys
from accelerate.state import AcceleratorState, DistributedType, PartialState
init = AcceleratorState.__init__
def tell(self, *args, fsdp_plugin=None, **kw):
    init(self, *args, fsdp_plugin=fsdp_plugin, **kw)
    if fsdp_plugin is not None: self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
AcceleratorState.__init__ = tell
from distill_study.train import save
whole = save.whole_tensor
def full(t):
    if hasattr(t, "full_tensor") and t.to_local().numel() < t.numel(): open(__file__ + ".sharded", "w").close()
    return whole(t)
save.whole_tensor = full
from distill_study.train.launch import work
work(sys.argv[1])
"""


@pytest.fixture
def fsdp(tmp_path, monkeypatch):
    "Settings changed such that they train under the shipped FSDP configuration, on two CPU processes."
    (tmp_path / "entry.py").write_text(ENTRY)
    config = tmp_path / "fsdp.yaml"
    config.write_text(shipped()["fsdp"].read_text() + "\nuse_cpu: true\n")
    monkeypatch.setattr(module, "_ENTRY", [str(tmp_path / "entry.py")])
    monkeypatch.setattr(module, "_unfit", lambda *_: {})
    return lambda s: s.model_copy(update=dict(launch=str(config), processes=2))


def test_a_killed_process_is_explained_and_sharded_training_goes_on_as_in_one_process(full, fsdp, tmp_path):
    "Weights and an optimizer of which each process holds a part are saved whole and given out again."

    def kill(step, total, loss):
        if step == 5:
            workers()[1].kill()

    killed = r"process 1 of 2 was ended from outside \(SIGKILL\).*The checkpoint of step 4 is kept.*lower"
    with pytest.raises(TrainingFailed, match=killed):
        launch(rows(), MODEL, settings=fsdp(FULL), out=tmp_path / "run", seed=0, validation=rows(5), progress=kill)
    assert not workers() and (tmp_path / "entry.py.sharded").exists()
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-4" and not list((tmp_path / "run").rglob("*.pt"))
    done = launch(rows(), MODEL, settings=fsdp(FULL), out=tmp_path / "run", seed=0, validation=rows(5))
    assert done.starts == (0, 4) and curves(full.one, done) < CURVE and far(full.one.path, done.path) < WEIGHTS
    assert max(abs(a - b) for (_, a), (_, b) in zip(full.one.validation, done.validation, strict=True)) < CURVE
    assert (done.trainable, done.parameters) == (full.one.trainable, full.one.parameters)


def test_lora_with_fsdp_is_that_of_one_process(fsdp, tmp_path):
    one, done = (
        fit_student(rows(), MODEL, settings=LORA, out=tmp_path / "one", seed=0),
        launch(rows(), MODEL, settings=fsdp(LORA), out=tmp_path / "run", seed=0),
    )
    assert (tmp_path / "entry.py.sharded").exists() and (done.trainable, done.parameters) == (
        one.trainable,
        one.parameters,
    )
    assert (
        curves(one, done) < CURVE
        and far(one.path.parent / "adapter", done.path.parent / "adapter") < WEIGHTS
        and far(one.path, done.path) < WEIGHTS
    )


# ---- started by a recipe


def test_a_recipe_starts_it_and_lora_is_that_of_one_process(tmp_path):
    from distill_study.store.log import Store
    from distill_study.study.plan import parse_recipe
    from distill_study.study.run import train_one

    train = LORA.model_dump(mode="json", exclude_unset=True) | dict(launch="cpu2")
    recipe = parse_recipe(
        dict(name="r", teachers="transformers:zoo/teacher", students=MODEL, data="arithmetic", train=train)
    )
    done = train_one(recipe.combinations()[0], "control/gold", rows=rows(), store=Store(tmp_path / "store"))
    one = fit_student(rows(), MODEL, settings=LORA, out=tmp_path / "one", seed=0)
    assert done.processes == 2 and curves(one, done) < CURVE and done.merge["same_choice"] == 1
    assert far(one.path.parent / "adapter", done.path.parent / "adapter") < WEIGHTS
    assert far(one.path, done.path) < WEIGHTS
