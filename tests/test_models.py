"Names, folders and adapters: what is no model, or an adapter of another base, is refused before anything is loaded."

import json
import shutil

import pytest
from hypothesis import given, settings, strategies as st
from jinja2 import UndefinedError

from distill_study.config import Vllm
from distill_study.models import weights as models
from distill_study.models.vllm import VLLMEngine
from distill_study.models.weights import (
    ModelError,
    adapter_folder,
    check_model,
    load_model,
    load_parts,
    local_model,
    resolve_model,
)

QPROJ = "model.layers.0.self_attn.q_proj"


def adapter(folder, named=None, modules=None):
    "An adapter folder of zeros; `modules` says what it changes: name → (outputs, inputs)."
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(
        json.dumps(dict(r=2) | (dict(base_model_name_or_path=named) if named is not None else {}))
    )
    tensors = {
        f"base_model.model.{k}.lora_{x}.weight": torch.zeros(2, i) if x == "A" else torch.zeros(o, 2)
        for k, (o, i) in (modules or {}).items()
        for x in "AB"
    }
    if tensors:
        save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def put_on(folder, base):
    return adapter_folder(str(folder), base)


def shape(name, base="teacher"):
    from safetensors import safe_open

    with safe_open(models.ZOO / base / "model.safetensors", "np") as f:
        return f.get_slice(f"{name}.weight").get_shape()


@pytest.mark.parametrize(
    "named",
    [
        "zoo/teacher",
        "teacher",
        "meta/Teacher",
        "/gone/from/here/teacher",
        "/gone/from/here/teacher/",
        "C/models--meta--teacher/snapshots/0a1b",
        None,
        "",
    ],
)
def test_names_of_the_same_base(tmp_path, named):
    put_on(adapter(tmp_path, named, {QPROJ: shape(QPROJ)}), "zoo/teacher")


@pytest.mark.parametrize("named", ["zoo/student-m", "meta-llama/Llama-3.1-8B", "/gone/base", "./base"])
def test_another_base_is_refused_with_both_names(tmp_path, named):
    with pytest.raises(ModelError) as e:
        put_on(adapter(tmp_path, named, {QPROJ: shape(QPROJ)}), "zoo/teacher")
    assert repr(named) in str(e.value) and "'zoo/teacher'" in str(e.value) and "Use it on the model" in str(e.value)


def test_a_copy_under_another_name_is_the_same_base(tmp_path):
    shutil.copytree(models.ZOO / "teacher", tmp_path / "copied")
    put_on(adapter(tmp_path / "a", str(tmp_path / "copied"), {QPROJ: shape(QPROJ)}), "zoo/teacher")
    shutil.copytree(models.ZOO / "teacher", tmp_path / "a" / "base")  # as `distill-study students` writes it
    put_on(adapter(tmp_path / "a", "./base", {QPROJ: shape(QPROJ)}), "zoo/teacher")
    (tmp_path / "copied" / "config.json").write_text((tmp_path / "copied" / "config.json").read_text() + " ")
    with pytest.raises(ModelError, match="copied' *, and not on|trained on"):
        put_on(adapter(tmp_path / "a", str(tmp_path / "copied"), {QPROJ: shape(QPROJ)}), "zoo/teacher")


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["base_model_name_or_path", "r", "peft_type"]),
        st.one_of(st.none(), st.integers(), st.text(max_size=8), st.lists(st.text(max_size=3), max_size=2)),
    )
)
def test_any_configuration_gives_an_answer_or_a_sentence(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("a")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    try:
        put_on(folder, "zoo/teacher")
    except ModelError as e:
        assert "'zoo/teacher'" in str(e)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_configuration_that_can_not_be_read(tmp_path, text):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match="adapter_config.json can't be read"):
        put_on(tmp_path, "zoo/teacher")


def test_an_adapter_is_no_model(tmp_path, monkeypatch):
    folder = adapter(tmp_path / "mine", "zoo/teacher", {QPROJ: shape(QPROJ)})
    monkeypatch.setenv("DISTILL_MODEL_DIR", str(tmp_path))
    for name in (str(folder), "someone/mine"):
        with pytest.raises(ModelError, match="an adapter of 'zoo/teacher', and no whole model"):
            resolve_model(name)
    assert local_model("someone/mine") is None


def test_vllm_refuses_it_before_it_starts(tmp_path):
    folder = adapter(tmp_path / "mine", "zoo/student-s", {QPROJ: shape(QPROJ, "student-s")})
    with pytest.raises(ModelError, match="vllm.lora = .*mine'.*trained on 'zoo/student-s', and not on 'zoo/teacher'"):
        VLLMEngine("zoo/teacher", settings=Vllm(lora=str(folder)))
    VLLMEngine("zoo/student-s", settings=Vllm(lora=str(folder)))


# ---- what can't be used is found before it is loaded


def test_a_folder_that_is_no_usable_model(tmp_path):
    with pytest.raises(ModelError, match="not a hub id 'owner/name'. Built in: zoo/"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert resolve_model(str(tmp_path)) == local_model(str(tmp_path)) == tmp_path
    with pytest.raises(ModelError, match="no chat template"):
        check_model(str(tmp_path))
    (tmp_path / "chat_template.jinja").write_text("x")
    with pytest.raises(ModelError, match="no \\*.safetensors"):
        check_model(str(tmp_path))


@pytest.mark.parametrize("page", ["weights.j2", "engine.j2", "vllm.j2", "openai.j2", "batch.j2"])
def test_every_sentence_is_one_line_without_gaps(page):
    "Whatever it is filled in with: conditions leave no blanks behind."
    macros = {k: m for k, m in vars(models._macros(page)).items() if callable(m)}
    assert macros
    for name, macro in macros.items():
        for value in (7, None):
            try:
                text = models.sentence(name, page, **dict.fromkeys(macro.arguments, value))
            except (TypeError, UndefinedError):  # a number is formatted, a list joined, an attribute shown
                continue
            assert text and "\n" not in text and "  " not in text, (name, text)


def test_an_adapter_is_merged_in_32_bits_and_rounded_once(tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(models.ZOO / "student-s", base)
    load_model(base, torch.bfloat16, device="cpu").save_pretrained(base)
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", use_dora=True, init_lora_weights=False, task_type="CAUSAL_LM")
    both = get_peft_model(load_model(base, torch.float32, device="cpu"), lora)
    both.save_pretrained(adapter)
    want = both.merge_and_unload().to(torch.bfloat16).state_dict()
    got = load_parts(base, adapter, device="cpu")
    assert got.dtype == torch.bfloat16 and not hasattr(got, "peft_config")
    assert all(torch.equal(t, want[k]) for k, t in got.state_dict().items())
    assert load_parts(base, adapter, dtype=torch.float32, device="cpu").dtype == torch.float32


# ---- what is on this machine is used first


class Online(Exception):
    "Something looked for a model elsewhere."


@pytest.fixture
def no_network(monkeypatch):
    "Every connection is an error; the hub's client believes that it is online."
    import socket

    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)

    def refuse(*a, **kw):
        raise Online(a)

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_wheel_s_model_is_not_looked_for_elsewhere(smollm, no_network):
    from distill_study.study.resources import model_config

    assert model_config(smollm).num_hidden_layers == 30 and local_model(smollm) == resolve_model(smollm)


def test_a_configuration_in_the_hub_s_cache_is_enough_for_an_estimate(tmp_path, monkeypatch, no_network):
    import huggingface_hub.file_download as hub

    from distill_study.study.resources import model_config

    snapshot = tmp_path / "models--someone--cached" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--someone--cached" / "refs").mkdir()
    (tmp_path / "models--someone--cached" / "refs" / "main").write_text("a" * 40)
    shutil.copy(models.ZOO / "student-m" / "config.json", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert model_config("someone/cached").hidden_size == model_config("zoo/student-m").hidden_size
    assert local_model("someone/cached") is None  # without weights it is no model
