"Training rows that must be refused, runs that are killed, adapters that are merged, and the loss that is taught."

import json
import shutil
import signal
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import byte_tokenizer

from distill_study.config import Sampling, StudyError, Train, fingerprint
from distill_study.models import weights
from distill_study.models.engine import Request
from distill_study.models.local import render
from distill_study.models.weights import ModelError, load_tokenizer, model_fingerprint, resolve_model
from distill_study.train import save
from distill_study.train.methods import mean_loss, shared_prompt, target_loss
from distill_study.train.rows import (
    TrainingDataError,
    check_template,
    fit_length,
    padded,
    render_row,
    seen_row,
    tokenize_rows,
)
from distill_study.train.save import TrainingFailed, last_checkpoint, write_merged
from distill_study.train.sft import TrainedStudent, fit_student, run_fingerprint

OPENS = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
ROLES = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + CONTENT }}{% endfor %}" + OPENS
PLAIN = ROLES.replace("CONTENT", "m['content'] + '<|end|>' + '\\n'")


def tokenizer(template=PLAIN):
    return byte_tokenizer(template)


def row(id, target, user="2 + 2?"):
    return dict(id=id, messages=[dict(role="user", content=user), dict(role="assistant", content=target)])


def rows(n=40):
    return [row(f"sum-{i}", str(i % 7 + i % 5), f"{i % 7} + {i % 5} = ?" + " please" * (i % 3)) for i in range(n)]


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    "Folder of a small random Llama, saved in bf16 as pretrained models are."
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder, tok = tmp_path_factory.mktemp("student") / "base", tokenizer()
    torch.manual_seed(0)
    cfg = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(cfg).to(torch.bfloat16).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


FULL = Train(method="full", learning_rate=3e-3, epochs=2, batch_size=8)
PICKLES = (".bin", ".pt", ".pth", ".pkl")
LORA = Train(learning_rate=3e-3, epochs=2, batch_size=8, r=4, alpha=8, dropout=0.1)
OPEN = LORA.model_copy(update=dict(learning_rate=None))


def same_weights(a: Path, b: Path):
    "Are all safetensors of two folders equal, bit for bit?"
    return (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


# ---- rows that would teach something else

BAD = {
    "no content at all": (row("bad-7", ""), PLAIN, "no supervised token"),
    "nothing rendered for the assistant": (
        row("bad-7", "4"),
        ROLES.replace(
            "{{ '<|' + m['role'] + '|>' + CONTENT }}",
            "{% if m['role'] == 'user' %}{{ '<|user|>' + m['content'] + '<|end|>' }}{% endif %}",
        ).replace("{{ '<|assistant|>' }}", ""),
        "no supervised token",
    ),
    "no end of turn": (row("bad-7", "4"), ROLES.replace("CONTENT", "m['content']"), "end of turn is not supervised"),
    "reasoning stripped": (
        row("bad-7", "<think>two twos</think>4"),
        ROLES.replace("CONTENT", "m['content'].split('</think>')[-1] + '<|end|>'"),
        "not recovered",
    ),
    "target cut": (
        row("bad-7", "a long target"),
        ROLES.replace("CONTENT", "m['content'][:6] + '<|end|>'"),
        "not recovered",
    ),
    "end of turn inside": (row("bad-7", "4<|end|> and more"), PLAIN, "contains an end-of-turn mark"),
    "earlier turns rendered anew": (
        row("bad-7", "4"),
        "{% if messages[-1]['role'] == 'assistant' %}{{ 'done:' }}{% endif %}" + PLAIN,
        "no prefix",
    ),
    "template refuses the roles": (
        row("bad-7", "4"),
        "{{ raise_exception('roles must alternate') }}",
        "roles must alternate",
    ),
    "user speaks last": (
        dict(id="bad-7", messages=[dict(role="assistant", content="hello"), dict(role="user", content="2 + 2?")]),
        PLAIN,
        "the last of which is the assistant's",
    ),
    "content is no text": (
        dict(id="bad-7", messages=[dict(role="user", content=None), dict(role="assistant", content="4")]),
        PLAIN,
        "text in both",
    ),
    "messages is no list": (dict(id="bad-7", messages="hello"), PLAIN, "at least two 'messages'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_refused_by_name(case):
    bad, template, says = BAD[case]
    good = [row("good-1", "4")] if template == PLAIN else []
    with pytest.raises(TrainingDataError, match="bad-7") as e:
        tokenize_rows([*good, bad], tokenizer(template))
    assert says in str(e.value) and "good-1" not in str(e.value)


def test_a_refused_row_leaves_no_folder(base, tmp_path):
    with pytest.raises(TrainingDataError, match="bad-7"):
        fit_student([*rows(8), row("bad-7", " ")], str(base), settings=FULL, out=tmp_path / "run", seed=0)
    assert not (tmp_path / "run").exists()


def test_no_rows(base, tmp_path):
    with pytest.raises(TrainingDataError, match="no training rows"):
        fit_student([], str(base), settings=FULL, out=tmp_path / "run", seed=0)


def test_long_rows_are_dropped_by_name_or_refused(base, tmp_path):
    long = [*rows(16), row("long-1", "4", "please " * 20)]
    with pytest.raises(TrainingDataError, match="1 of 17 .* 'long-1'"):
        fit_student(long, str(base), settings=FULL.model_copy(update=dict(max_length=60)), out=tmp_path / "a", seed=0)
    done = fit_student(
        long,
        str(base),
        settings=FULL.model_copy(update=dict(max_length=60, max_truncated=0.1, epochs=0.5)),
        out=tmp_path / "b",
        seed=0,
    )
    assert done.dropped_long == ("long-1",) and done.rows == 16 and done.max_length == 60


def test_longer_than_the_context(base, tmp_path):
    with pytest.raises(TrainingDataError, match="'long-1' has .* context of 512"):
        fit_student(
            [*rows(8), row("long-1", "4", "please " * 90)], str(base), settings=FULL, out=tmp_path / "a", seed=0
        )
    with pytest.raises(TrainingDataError, match="train.max_length = 600"):
        fit_student(
            rows(8), str(base), settings=FULL.model_copy(update=dict(max_length=600)), out=tmp_path / "a", seed=0
        )


def test_all_rows_too_long():
    some = tokenize_rows(rows(3), tokenizer())
    with pytest.raises(TrainingDataError, match="no training rows left"):
        fit_length(some, Train(max_length=8, max_truncated=1.0), context=512)


@pytest.mark.parametrize(
    "template",
    [
        PLAIN,
        ROLES.replace("CONTENT", "m['content']|trim + '<|end|>'"),
        ROLES.replace(
            "CONTENT", "('<think>\\n\\n</think>\\n\\n' if m['role'] == 'assistant' else '') + m['content'] + '<|end|>'"
        ),
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}"
        "{% else %}{{ m['content'] + '<|end|>' }}{% endif %}{% endfor %}" + OPENS,
    ],
    ids=["newline after the turn", "trims", "empty thought", "generation marks"],
)
def test_common_templates_teach_target_and_end(template):
    tok = tokenizer(template)
    for text in ("four", "vier ½ 四 🙂", "two\nlines ", "Answer: 4"):
        r = tokenize_rows([row("a", text)], tok)[0]
        taught = tok.decode([t for t in r["labels"] if t != -100], clean_up_tokenization_spaces=False)
        assert taught.removesuffix("<|end|>").strip().endswith(text.strip()) and taught.endswith("<|end|>")
        start = tok.apply_chat_template(row("a", text)["messages"][:-1], add_generation_prompt=True, tokenize=False)
        assert tok.decode(r["input_ids"], clean_up_tokenization_spaces=False).startswith(start)


def test_which_turns_are_taught():
    roles, texts = ("user", "assistant", "user", "assistant"), ("2 + 2?", "4", "and 1?", "5")
    talk = dict(id="talk", messages=[dict(role=r, content=c) for r, c in zip(roles, texts)])
    tok = tokenizer()
    rows = tokenize_rows([talk, talk | dict(turns="all")], tok)
    taught = [tok.decode([t for t in r["labels"] if t != -100]) for r in rows]
    assert taught == ["5<|end|>", "4<|end|>5<|end|>"]
    fades = "(m['content'] if loop.last or m['role'] != 'assistant' else '…') + '<|end|>'"
    with pytest.raises(TrainingDataError, match="reads otherwise once the conversation goes on"):
        tokenize_rows([talk | dict(turns="all")], tokenizer(ROLES.replace("CONTENT", fades)))


def test_a_rendered_row_is_escaped():
    tok = tokenizer()
    text = render_row(
        seen_row(tokenize_rows([row("<script>", "</mark><script>alert(1)</script>", "<img src=x>")], tok)[0], tok)
    )
    assert "<script" not in text and "<img" not in text and text.count("<mark") == text.count("</mark>") == 1


# ---- what public templates do, in words of our own, on the zoo's tokenizer

ENDS = "{% for m in messages %}{{ '<|' + m.role + '|>' + TEXT + '<|end|>' }}{% endfor %}" + OPENS
USUAL = ENDS.replace("TEXT", "m.content")
KEEPS = "(m.content.split('</think>')[-1] if m.role == 'assistant' else m.content)"
TEMPLATES = {
    "gemma": "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + USUAL,
    "mistral": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + USUAL,
    "llama": "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|system|>Today: ' + date_string + '<|end|>' }}" + USUAL,
    "qwen": ENDS.replace(
        "TEXT", "('<think>\\n\\n</think>\\n\\n' if m.role == 'assistant' and loop.last else '') + " + KEEPS
    ),
    "r1": ENDS.replace("TEXT", KEEPS),
    "r1 that thinks aloud": ENDS.replace("TEXT", KEEPS).replace("'<|assistant|>' }}", "'<|assistant|><think>\\n' }}"),
    "qwen that thinks aloud": ENDS.replace(
        "TEXT", "('<think>\\n\\n</think>\\n\\n' if m.role == 'assistant' else '') + " + KEEPS
    ).replace("'<|assistant|>' }}", "'<|assistant|><think>\\n' }}"),
    "drops": USUAL.replace("in messages", "in messages if m.role != 'system'"),
    "asks nothing": USUAL.replace("in messages", "in messages if m.role != 'user'"),
    "refuses": "{{ raise_exception('only tools') }}",
    "begins twice": "{{ bos_token + bos_token }}" + USUAL,
    "never begins": USUAL,
    "never ends": USUAL.replace(" + '<|end|>'", ""),
}


@pytest.fixture
def dressed(tmp_path):
    "A function of (name of a template, further settings of the tokenizer) that gives a zoo model under that template."

    def dress(name, **settings):
        folder = tmp_path / name.replace(" ", "-")
        shutil.copytree(resolve_model("zoo/student-s"), folder)
        (folder / "chat_template.jinja").write_text(TEMPLATES.get(name, USUAL))
        own = folder / "tokenizer_config.json"
        own.write_text(json.dumps(json.loads(own.read_text()) | settings))
        return str(folder)

    return dress


def asked_and_taught(model, target="4"):
    "(The text that a model is asked with, what a student sees before its target, what it is taught)."
    tok = load_tokenizer(Path(model))
    talk = [dict(role="system", content="Add."), dict(role="user", content="2 + 2?")]
    r = seen_row(tokenize_rows([dict(id="a", messages=[*talk, dict(role="assistant", content=target)])], tok)[0], tok)
    ids = render(tok, [Request("a", talk, Sampling(max_tokens=1))], spec="transformers:x")[0]
    return tok.decode(ids, clean_up_tokenization_spaces=False), r["context"], r["target"]


@pytest.mark.parametrize(
    "name, notes",
    {
        "usual": [],
        "gemma": ["no system turn of its own"],
        "mistral": ["no system turn of its own", "refuses two turns of the user"],
        "llama": ["is told 26 Jul 2024"],
        "qwen": ["writes an empty reasoning block", "takes the reasoning block out"],
        "r1": ["takes the reasoning block out"],
    }.items(),
)
def test_what_a_template_does_otherwise_is_noted(dressed, name, notes):
    model = dressed(name)
    found = check_template(model, taught=True)
    assert len(found) == len(notes) and all(n in f for n, f in zip(notes, found.values()))
    asked, context, target = asked_and_taught(model)
    assert asked == context and target == "4<|end|>" and "Add." in asked


@pytest.mark.parametrize(
    "name, says",
    {
        "drops": "drops the system turn",
        "asks nothing": "drops the user turn",
        "refuses": "refuses turns of system, user .only tools",
        "never ends": "the end of turn is not supervised",
        "r1 that thinks aloud": "opens a block <think> for the answer",
        "qwen that thinks aloud": "opens a block <think> for the answer",
    }.items(),
)
def test_templates_that_are_refused(dressed, name, says):
    model = dressed(name)
    with pytest.raises(ModelError, match=f"{Path(model).name}.*{says}"):
        check_template(model, taught=True)


def test_a_template_that_can_be_told_not_to_think(dressed):
    "The remedy that is named: then the empty block is part of what the model is asked with, in training too."
    own = Path(dressed("usual")) / "chat_template.jinja"
    block = "{{ '<think>\\n' if enable_thinking | default(true) else '<think>\\n\\n</think>\\n\\n' }}"
    whole = "('<think>\\n\\n</think>\\n\\n' if m.role == 'assistant' else '') + m.content"
    own.write_text(ENDS.replace("TEXT", whole).replace("{{ '<|assistant|>' }}", "{{ '<|assistant|>' }}" + block))
    with pytest.raises(ModelError) as e:
        check_template(str(own.parent), taught=True)
    remedy = "{% set enable_thinking = false %}"
    assert f"Put {remedy} at the head of the chat_template.jinja" in str(e.value)
    own.write_text(remedy + own.read_text())
    assert check_template(str(own.parent), taught=True) == {}
    asked, context, target = asked_and_taught(str(own.parent))
    assert asked == context and asked.endswith("<think>\n\n</think>\n\n") and target == "4<|end|>"


def test_only_a_student_has_to_be_taught(dressed):
    assert check_template(dressed("never ends")) == {}
    assert check_template(dressed("r1 that thinks aloud")) == {}


def test_one_mark_of_the_beginning(dressed):
    with pytest.raises(ModelError, match="'<.user.>', twice"):
        check_template(dressed("begins twice", bos_token="<|user|>"))
    folder = Path(dressed("never begins", bos_token="<|system|>"))
    path = folder / "tokenizer.json"
    adds = dict(
        type="TemplateProcessing",
        single=[dict(SpecialToken=dict(id="<|system|>", type_id=0)), dict(Sequence=dict(id="A", type_id=0))],
        pair=[dict(Sequence=dict(id="A", type_id=0)), dict(Sequence=dict(id="B", type_id=1))],
        special_tokens={"<|system|>": dict(id="<|system|>", ids=[2], tokens=["<|system|>"])},
    )
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(post_processor=adds)))
    (folder / "chat_template.jinja").write_text("{{ '<|user|>' }}" + USUAL)
    assert list(check_template(str(folder))) == ["no_beginning"]
    (folder / "chat_template.jinja").write_text(USUAL)  # looked at again, since it is another now
    assert check_template(str(folder)) == {}


def test_a_refused_system_turn_leads_the_first_user_turn(dressed):
    assert asked_and_taught(dressed("gemma"))[0] == "<|user|>Add.\n\n2 + 2?<|end|><|assistant|>"


def test_turns_in_an_order_that_a_template_refuses(dressed):
    model = dressed("mistral")
    check_template(model, orders=(("system", "user", "assistant", "user"),))
    with pytest.raises(ModelError, match="refuses turns of system, user, user .roles must alternate"):
        check_template(model, orders=(("system", "user", "user"),))


def test_a_block_that_is_taught_on_purpose(dressed):
    assert asked_and_taught(dressed("usual"), "<think></think>4")[2] == "<think></think>4<|end|>"
    with pytest.raises(TrainingDataError, match="not recovered"):
        asked_and_taught(dressed("r1"), "<think>two twos</think>4")


def test_a_date_is_part_of_the_models_that_ask_for_it_alone(dressed, monkeypatch):
    dated, usual = Path(dressed("llama")), Path(dressed("usual"))
    before = model_fingerprint(dated), model_fingerprint(usual)
    monkeypatch.setattr(weights, "TODAY", date(2025, 1, 1))
    assert model_fingerprint(dated) != before[0]
    assert model_fingerprint(usual) == before[1]
    assert "Today: 01 Jan 2025" in asked_and_taught(str(dated))[0]


def test_what_was_trained_under_a_usual_template_stays(dressed):
    def key(model):
        return run_fingerprint(rows(2), model, settings=FULL, seed=0)

    stack = {p: version(p) for p in ("torch", "transformers", "trl", "peft")}
    usual = dressed("usual")
    assert key(usual) == fingerprint("student", rows(2), FULL, model_fingerprint(Path(usual)), 0, [], stack)
    qwen = dressed("qwen")
    assert key(qwen) != fingerprint("student", rows(2), FULL, model_fingerprint(Path(qwen)), 0, [], stack)


def test_the_check_needs_no_torch(dressed):
    code = (
        f"import sys; from distill_study.train.rows import check_template as c; c({dressed('gemma')!r}, taught=True); "
    )
    assert subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"]).returncode == 0


# ---- the loss


def test_loss_is_that_of_the_target_tokens_only(base):
    import torch

    from distill_study.models.weights import load_model

    tok, model = tokenizer(), load_model(base, torch.float32, device="cpu")
    some = tokenize_rows(rows(7), tok)
    batch = padded(some, tok.pad_token_id)
    manual, n = 0.0, 0
    with torch.no_grad():
        for r in some:  # one row at a time, no padding, no mask
            logp = model(input_ids=torch.tensor([r["input_ids"]])).logits[0].log_softmax(-1)
            for i, label in enumerate(r["labels"]):
                if label != -100:
                    manual, n = manual - logp[i - 1, label].item(), n + 1
        assert n == sum(len(r["messages"][-1]["content"]) + 1 for r in rows(7))
        assert target_loss(model, batch).item() == pytest.approx(manual / n, abs=1e-5)
        assert mean_loss(model, some, pad=tok.pad_token_id, batch_size=3) == pytest.approx(manual / n, abs=1e-5)


@pytest.mark.parametrize("shared", [0, 5])
def test_gradient_is_that_of_trl(base, shared):
    "Our loss on a CPU and TRL's own give one gradient, also where the rows' first tokens are read once."
    import torch
    from trl.trainer.utils import add_fused_lm_head

    from distill_study.models.weights import load_model

    tok, grads = tokenizer(), []
    some = [row(f"sum-{i}", str(i + 1), f"Add {i} + 1" + " please" * (i % 3)) for i in range(6)]
    batch = padded(tokenize_rows(some, tok), tok.pad_token_id)
    for ours in (True, False):
        model = load_model(base, torch.float32, device="cpu")
        if not ours:
            add_fused_lm_head(model)
        loss = target_loss(model, batch, shared=shared) if ours else model(**batch, fused_lm_head=True).loss
        loss.backward()
        grads.append((loss.item(), [p.grad for p in model.parameters()]))
    assert grads[0][0] == pytest.approx(grads[1][0], abs=1e-5)
    for a, b in zip(grads[0][1], grads[1][1]):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_what_is_read_once_is_what_all_rows_begin_with():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(vocab_size=9, hidden_size=512, intermediate_size=8, num_hidden_layers=1, num_attention_heads=8)
    model = LlamaForCausalLM(LlamaConfig(**sizes))
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 8, 6]])
    batch = dict(input_ids=ids, labels=torch.where(torch.arange(6) > 4, ids, -100))
    assert shared_prompt(model, batch) == 3
    assert shared_prompt(model, batch | dict(labels=torch.where(torch.arange(6) > 1, ids, -100))) == 1
    assert shared_prompt(model, {k: v[:1] for k, v in batch.items()}) == 0
    assert shared_prompt(model, batch | dict(position_ids=ids)) == 0  # packed
    assert shared_prompt(LlamaForCausalLM(LlamaConfig(**sizes, attention_dropout=0.1)), batch) == 0
    assert shared_prompt(LlamaForCausalLM(LlamaConfig(**sizes | dict(hidden_size=64))), batch) == 0


def test_first_loss_of_a_run_is_that_of_its_first_batch(base, tmp_path):
    "With one batch of all rows it is the untouched model's, also when it is accumulated over uneven parts."
    import torch

    from distill_study.models.weights import load_model

    tok = tokenizer()
    want = mean_loss(load_model(base, torch.float32, device="cpu"), tokenize_rows(rows(11), tok), pad=tok.pad_token_id)
    for i, (size, parts) in enumerate(((11, 1), (4, 3))):
        done = fit_student(
            rows(11),
            str(base),
            settings=FULL.model_copy(update=dict(batch_size=size, gradient_accumulation=parts, epochs=1)),
            out=tmp_path / str(i),
            seed=0,
        )
        assert done.steps == 1 and done.history[0][1] == pytest.approx(want, abs=1e-4)


# ---- results


def test_same_settings_same_weights_other_seed_other_weights(base, tmp_path):
    a, b, c = (
        fit_student(rows(), str(base), settings=FULL, out=tmp_path / n, seed=s)
        for n, s in (("a", 0), ("b", 0), ("c", 1))
    )
    assert same_weights(a.path, b.path) and not same_weights(a.path, c.path)
    assert a.history == b.history and a.fingerprint == b.fingerprint != c.fingerprint


def test_merged_model_gives_the_adapters_output(base, tmp_path):
    import torch
    from peft import PeftModel

    from distill_study.models.weights import load_model

    tok, done = (
        tokenizer(),
        fit_student(
            rows(), str(base), settings=LORA.model_copy(update=dict(learning_rate=2e-2)), out=tmp_path / "run", seed=0
        ),
    )
    adapted = PeftModel.from_pretrained(
        load_model(base, torch.float32, device="cpu"), tmp_path / "run" / "adapter"
    ).eval()
    batch = padded(tokenize_rows(rows(6), tok), tok.pad_token_id)

    def logits(m):
        return m(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()

    with torch.no_grad():
        with adapted.disable_adapter():
            plain = logits(adapted)
        want, saved = logits(adapted), logits(load_model(done.path, torch.float32, device="cpu"))
    moved, off = (want - plain).abs().max(), (want - saved).abs().max()
    assert moved > 0.1 and off < 0.1 * moved  # rounding to bf16 is all that is left
    assert (done.path / "config.json").read_bytes() == (base / "config.json").read_bytes() and (
        done.path / "tokenizer.json"
    ).read_bytes() == (base / "tokenizer.json").read_bytes()
    assert load_model(done.path, device="cpu").dtype == torch.bfloat16 and 0 < done.merge["mean_change"] < 0.1


@pytest.mark.parametrize("switch", [dict(dora=True), dict(method="qlora")], ids=["dora", "qlora"])
def test_without_a_merged_copy_the_answers_are_the_same(tmp_path, switch):
    "The adapter alone, merged when it is loaded: the same weights to the last bit, and the same completions."
    from distill_study.config import Sampling
    from distill_study.models.engine import Request, complete
    from distill_study.models.local import TransformersEngine
    from distill_study.models.weights import resolve_model
    from distill_study.store.log import Store

    base = "zoo/student-s"
    settings = LORA.model_copy(update=dict(learning_rate=2e-2) | switch)
    a, b = (
        fit_student(rows(), base, settings=settings.model_copy(update=dict(merged=m)), out=tmp_path / str(m), seed=0)
        for m in (True, False)
    )
    assert (
        a.path == tmp_path / "True" / "model"
        and b.path == tmp_path / "False" / "adapter"
        and not (tmp_path / "False" / "model").exists()
    )
    assert (
        a.merge
        and b.merge is None
        and a.fingerprint == b.fingerprint
        and TrainedStudent.load(tmp_path / "False") == b
        and TrainedStudent.load(tmp_path / "False").path == b.path
    )
    engines = [TransformersEngine(str(f.path)) for f in (a, b)]
    for (k, x), (_, y) in zip(*(e.load().state_dict().items() for e in engines)):
        assert x.equal(y), k
    asked = [Request(r["id"], tuple(r["messages"][:-1]), Sampling(max_tokens=12)) for r in rows()]
    said, plain = (
        [[r.text for r in complete(e, asked, store=Store(tmp_path / f"s{i}"))] for i, e in enumerate(engines)],
        [r.text for r in complete(TransformersEngine(base), asked, store=Store(tmp_path / "p"))],
    )
    assert said[0] == said[1] != plain and len({e.weights for e in (*engines, TransformersEngine(base))}) == 3
    if switch.get("method") != "qlora":
        assert same_weights(write_merged(resolve_model(base), b.path, folder=tmp_path / "late", name=base), a.path)


def test_what_rounding_the_saved_weights_changes_is_measured(base, tmp_path):
    "Steps too small for 16 bits are lost; without rounding there is nothing to measure."
    import torch
    from safetensors.torch import load_file

    from distill_study.models.weights import load_model

    load_model(base, torch.float32).save_pretrained(tmp_path / "whole")
    for p in base.iterdir():
        if not (tmp_path / "whole" / p.name).exists():
            shutil.copy(p, tmp_path / "whole" / p.name)
    full = Train(
        method="full", batch_size=8, steps=3, learning_rate=1e-9, warmup_ratio=0, schedule="constant", bf16=False
    )
    done = fit_student(rows(), str(base), settings=full, out=tmp_path / "small", seed=0)
    before, after = load_file(base / "model.safetensors"), load_file(done.path / "model.safetensors")
    changed = sum(int((before[k] != after[k]).sum()) for k in before) / sum(t.numel() for t in before.values())
    assert changed < 0.01 and done.merge["dtype"] == "bfloat16" and done.merge["tokens"] > 8
    done = fit_student(
        rows(), str(base), settings=full.model_copy(update=dict(learning_rate=1e-2)), out=tmp_path / "large", seed=0
    )
    assert done.merge["max_change"] > 0 and load_model(done.path).dtype == torch.bfloat16
    assert fit_student(rows(), str(tmp_path / "whole"), settings=full, out=tmp_path / "out", seed=0).merge is None


def test_a_finished_run_without_a_merged_copy_is_found_again(base, tmp_path):
    settings = LORA.model_copy(update=dict(merged=False, epochs=1))
    done = fit_student(rows(16), str(base), settings=settings, out=tmp_path / "run", seed=0)

    def never(*_):
        raise AssertionError("trained again")

    merging = settings.model_copy(update=dict(merged=True))
    assert fit_student(rows(16), str(base), settings=merging, out=tmp_path / "run", seed=0, progress=never) == done
    (tmp_path / "run" / "adapter" / "adapter_config.json").unlink()
    assert fit_student(rows(16), str(base), settings=settings, out=tmp_path / "run", seed=0).steps == done.steps


def test_a_large_base_is_kept_once(base, tmp_path, monkeypatch):
    monkeypatch.setattr(save, "MERGED", 1000)
    assert (
        fit_student(
            rows(16), str(base), settings=LORA.model_copy(update=dict(epochs=1)), out=tmp_path / "run", seed=0
        ).path.name
        == "adapter"
    )
    with pytest.raises(StudyError, match="merged is for adapters"):
        Train.parse(dict(method="full", merged=True))


@pytest.fixture(scope="session")
def lora(base, tmp_path_factory):
    "A run of an adapter, its learning rate left open, for all tests that only look at one."
    folder = tmp_path_factory.mktemp("lora") / "run"
    return fit_student(rows(16), str(base), settings=OPEN, out=folder, seed=0)


def test_what_is_left_behind(lora, tmp_path):
    out = lora.path.parent
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    weights = {"adapter/adapter_model.safetensors", "model/model.safetensors", "model/chat_template.jinja"}
    assert {"run.json", "fit.json"} | weights <= names
    assert not [n for n in names if n.endswith((*PICKLES, ".partial")) or "checkpoint" in n]
    assert TrainedStudent.load(out) == lora and "| loss |" in lora._repr_markdown_()
    assert lora.learning_rate == pytest.approx(5e-4 * (2000 / 64) ** 0.781, rel=0.02)
    shutil.copytree(out, tmp_path / "moved")
    assert TrainedStudent.load(tmp_path / "moved").path == tmp_path / "moved" / "model"


def test_versions_are_those_of_when_it_was_trained(lora, tmp_path):
    from importlib.metadata import version

    assert lora.versions == {p: version(p) for p in ("torch", "transformers", "trl", "accelerate", "peft")}
    record = json.loads((lora.path.parent / "fit.json").read_text())
    (tmp_path / "fit.json").write_text(json.dumps(record | dict(versions=dict(torch="1.0"))))
    assert "torch 1.0" in TrainedStudent.load(tmp_path)._repr_markdown_()
    (tmp_path / "fit.json").write_text(json.dumps({k: v for k, v in record.items() if k != "versions"}))
    older = TrainedStudent.load(tmp_path)
    assert older.versions is None and "trained with" not in older._repr_markdown_()


# ---- kills, resumption, other people's folders

KILLED = """
import json, os, signal, sys
from distill_study.config import StudyError, Train
from distill_study.train.sft import fit_student
rows, base, settings, out, at = json.load(open(sys.argv[1]))
def progress(step, total, loss):
    if step == at: os.kill(os.getpid(), signal.SIGKILL)
fit_student(rows, base, settings=Train(**settings), out=out, seed=0, progress=progress)
"""


def test_killed_and_resumed_gives_the_same_weights(base, tmp_path):
    "The newest checkpoint was torn: the one before it serves."
    settings, killed = LORA.model_copy(update=dict(save_steps=2)), tmp_path / "killed"
    whole = fit_student(rows(), str(base), settings=settings, out=tmp_path / "whole", seed=0)
    job = tmp_path / "job.json"
    job.write_text(json.dumps([rows(), str(base), settings.model_dump(), str(killed), 7]))
    ended = subprocess.run([sys.executable, "-c", KILLED, str(job)], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    newest = last_checkpoint(killed)
    assert newest.name == "checkpoint-6" and not (killed / "model").exists()
    assert not [p for p in killed.rglob("*") if p.suffix in PICKLES]
    weights = newest / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert last_checkpoint(killed).name == "checkpoint-4"
    (killed / "checkpoint-8.partial").mkdir()  # a kill in the middle of a save
    done = fit_student(rows(), str(base), settings=settings, out=killed, seed=0)
    assert done.starts == (0, 4) and done.history == whole.history
    assert same_weights(done.path, whole.path)
    assert not list(killed.glob("checkpoint*"))


def test_killed_at_an_epochs_end(base, tmp_path):
    "The default saves once per epoch; the next start begins with a whole epoch."

    def stop(step, total, loss):
        if step == 7:
            raise KeyboardInterrupt

    whole = fit_student(rows(), str(base), settings=LORA, out=tmp_path / "whole", seed=0, validation=rows(3))
    with pytest.raises(KeyboardInterrupt):
        fit_student(rows(), str(base), settings=LORA, out=tmp_path / "again", seed=0, validation=rows(3), progress=stop)
    done = fit_student(rows(), str(base), settings=LORA, out=tmp_path / "again", seed=0, validation=rows(3))
    assert done.starts == (0, 5) and done.validation == whole.validation and same_weights(done.path, whole.path)


def test_another_runs_folder_is_refused_and_left_alone(base, tmp_path):
    def stop(step, total, loss):
        if step == 4:
            raise KeyboardInterrupt

    settings = FULL.model_copy(update=dict(save_steps=1))
    with pytest.raises(KeyboardInterrupt):
        fit_student(rows(), str(base), settings=settings, out=tmp_path / "run", seed=0, progress=stop)
    with pytest.raises(StudyError, match="holds another run"):
        fit_student(
            rows(),
            str(base),
            settings=settings.model_copy(update=dict(learning_rate=1e-3)),
            out=tmp_path / "run",
            seed=0,
        )
    assert fit_student(rows(), str(base), settings=settings, out=tmp_path / "run", seed=0).starts == (0, 3)


def test_a_finished_run_is_not_trained_again(base, tmp_path):
    done = fit_student(rows(16), str(base), settings=FULL, out=tmp_path / "run", seed=0)

    def never(*_):
        raise AssertionError("trained again")

    assert fit_student(rows(16), str(base), settings=FULL, out=tmp_path / "run", seed=0, progress=never) == done


def test_fingerprint_follows_everything_that_matters(base):
    keys = {
        run_fingerprint(rows(8), str(base), settings=FULL, seed=0),
        run_fingerprint(rows(9), str(base), settings=FULL, seed=0),
        run_fingerprint(rows(8), str(base), settings=LORA, seed=0),
        run_fingerprint(rows(8), str(base), settings=FULL, seed=1),
        run_fingerprint(rows(8)[::-1], str(base), settings=FULL, seed=0),
    }
    assert len(keys) == 5 and run_fingerprint(rows(8), str(base), settings=FULL, seed=0) in keys


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(base, tmp_path):
    import torch

    def poison(step, total, loss):
        if step == 3:
            torch.nn.Embedding.forward, poison.kept = (
                (lambda self, ids: poison.kept(self, ids) * float("nan")),
                torch.nn.Embedding.forward,
            )

    poison.kept = None
    try:
        with pytest.raises(TrainingFailed, match="step 4: the loss is nan. The checkpoint of step 3 is kept"):
            fit_student(
                rows(),
                str(base),
                settings=FULL.model_copy(update=dict(save_steps=1)),
                out=tmp_path / "run",
                seed=0,
                progress=poison,
            )
    finally:
        torch.nn.Embedding.forward = poison.kept
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-3" and not (tmp_path / "run" / "model").exists()


def test_a_folder_that_is_a_file(base, tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(StudyError, match="run': a file is in the way"):
        fit_student(rows(8), str(base), settings=FULL, out=tmp_path / "run", seed=0)


FAULTS = {
    "CUDA": "CUDA out of memory. Tried to allocate 2 GiB",
    "the CPU's allocator": "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
}


@pytest.mark.parametrize("who", FAULTS)
def test_memory_that_runs_out_is_told(base, tmp_path, who):
    "In the middle of a run; the same settings go on."
    import torch

    def full(step, total, loss):
        if step == 5:
            raise torch.OutOfMemoryError(FAULTS[who]) if who == "CUDA" else RuntimeError(FAULTS[who])

    run = dict(settings=LORA.model_copy(update=dict(save_steps=3)), out=tmp_path, seed=0)
    with pytest.raises(TrainingFailed, match=r"out of memory, at a peak of [\d.]+ GiB") as e:
        fit_student(rows(), str(base), progress=full, **run)
    assert "The checkpoint of step 3 is kept" in str(e.value) and "train.method to qlora" in str(e.value)
    if who == "CUDA":
        assert fit_student(rows(), str(base), **run).starts == (0, 3)


def test_a_full_disk(base, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save, "save_weights", full)
    with pytest.raises(StudyError, match="run': no room left to write"):
        fit_student(rows(8), str(base), settings=LORA, out=tmp_path / "run", seed=0)


# ---- a real pretrained student


def test_smollm_rows_and_a_few_steps(smollm, tmp_path):
    "Its template has no generation marks, writes a newline after the turn and a system prompt of its own."
    from distill_study.models.weights import load_tokenizer, resolve_model

    tok = load_tokenizer(resolve_model(smollm))
    r = tokenize_rows(rows(3), tok)[2]
    assert tok.decode([t for t in r["labels"] if t != -100]) == "4<|im_end|>"
    done = fit_student(
        rows(4), smollm, settings=Train(epochs=2, batch_size=4, r=4, warmup_ratio=0), out=tmp_path / "run", seed=0
    )  # a warm-up's first step has rate 0
    assert done.steps == 2 and done.history[1][1] < done.history[0][1] and done.trainable < done.parameters / 50


# ---- methods, packing, and which weights are kept

QLORA = LORA.model_copy(update=dict(method="qlora", bf16=False))


def test_an_adapter_learns_on_four_bits_and_a_kill_changes_nothing(base, tmp_path):
    import torch

    from distill_study.models.weights import load_model

    def stop(step, total, loss):
        if step == 7:
            raise KeyboardInterrupt

    settings = QLORA.model_copy(update=dict(save_steps=3))
    done = fit_student(rows(), str(base), settings=settings, out=tmp_path / "q", seed=0)
    lora = fit_student(rows(), str(base), settings=LORA, out=tmp_path / "l", seed=0)
    assert done.method == "qlora" and done.trainable == lora.trainable
    assert done.history[-1][1] < done.history[0][1] - 0.3
    assert done.history[-1][1] == pytest.approx(lora.history[-1][1], abs=0.1)
    assert sorted(p.name for p in (tmp_path / "q").iterdir()) == ["adapter", "fit.json", "model", "run.json"]
    # The merged model stands on the weights as they were, the adapter learned on 4 bits.
    assert done.merge["max_change"] > lora.merge["max_change"] and 0 < done.merge["mean_change"] < 0.5
    assert load_model(done.path).dtype == torch.bfloat16
    assert "quantization" not in (done.path / "config.json").read_text()
    with pytest.raises(KeyboardInterrupt):
        fit_student(rows(), str(base), settings=settings, out=tmp_path / "k", seed=0, progress=stop)
    again = fit_student(rows(), str(base), settings=settings, out=tmp_path / "k", seed=0)
    assert again.starts == (0, 6) and again.history == done.history and same_weights(again.path, done.path)


def test_switches_of_the_adapter_change_what_is_learned(base, lora, tmp_path):
    settings = OPEN.model_copy(update=dict(dora=True, rslora=True))
    other = fit_student(rows(16), str(base), settings=settings, out=tmp_path / "b", seed=0)
    assert lora.history[0] == pytest.approx(other.history[0], rel=1e-4)
    assert lora.history[-1] != other.history[-1] and other.merge["same_choice"] > 0.95


def test_packs_teach_what_rows_teach(base, tmp_path):
    "One step over all rows: the same loss and the same weights, packed or not."
    once = FULL.model_copy(update=dict(batch_size=64, epochs=1, bf16=False))
    a, b = (
        fit_student(rows(), str(base), settings=once, out=tmp_path / "a", seed=0),
        fit_student(
            rows(),
            str(base),
            settings=once.model_copy(update=dict(packing=True, max_length=200)),
            out=tmp_path / "b",
            seed=0,
        ),
    )
    assert (
        a.packs == 0
        and 1 < b.packs < 40
        and (a.rows, a.tokens, a.supervised_tokens) == (b.rows, b.tokens, b.supervised_tokens)
    )
    assert a.history[0][1] == pytest.approx(b.history[0][1], rel=1e-5)
    from safetensors.torch import load_file

    x, y = (load_file(f.path / "model.safetensors") for f in (a, b))
    assert all(
        (x[k].float() - y[k].float()).abs().max() <= 2 * FULL.learning_rate / 100 + x[k].float().abs().max() * 2**-7
        for k in x
    )  # half a step of bf16


def test_so_many_steps_or_tokens(base, tmp_path):
    a = fit_student(rows(), str(base), settings=FULL.model_copy(update=dict(steps=7)), out=tmp_path / "a", seed=0)
    assert a.steps == 7 and a.epochs == pytest.approx(7 / 5)
    mean = a.tokens / a.rows
    b = fit_student(
        rows(),
        str(base),
        settings=FULL.model_copy(update=dict(epochs=2, batch_size=4, tokens_per_step=round(12 * mean))),
        out=tmp_path / "b",
        seed=0,
    )
    assert b.steps == 2 * 4  # ten batches of four, three a step


def test_the_best_weights_are_kept(base, tmp_path):
    "A score that falls after the second look: its weights are those of a run that ended there."
    values = iter([0.5, 0.7, 0.6, 0.6])
    kept = FULL.model_copy(update=dict(epochs=4, choose="gold", schedule="constant", warmup_ratio=0))
    done = fit_student(
        rows(),
        str(base),
        settings=kept,
        out=tmp_path / "a",
        seed=0,
        validation=rows(5),
        score=lambda model: next(values),
    )
    plain = fit_student(
        rows(), str(base), settings=kept.model_copy(update=dict(epochs=2, choose="last")), out=tmp_path / "b", seed=0
    )
    assert (
        done.looks == ((5, 0.5), (10, 0.7), (15, 0.6), (20, 0.6))
        and done.chosen == 10
        and len(done.validation) == 4
        and done.steps == 20
    )
    assert same_weights(done.path, plain.path) and not list((tmp_path / "a").glob("check*")) and plain.chosen is None


def test_patience_ends_a_run_and_a_kill_changes_nothing(base, tmp_path):
    settings = LORA.model_copy(update=dict(epochs=5, choose="gold", patience=2, eval_steps=2, save_steps=3))
    seen = []

    def scored(model):
        seen.append(1)
        return [0.1, 0.9, 0.3, 0.2, 0.1][len(seen) - 1]

    a = fit_student(rows(), str(base), settings=settings, out=tmp_path / "a", seed=0, score=scored)
    assert (a.steps, a.chosen, [s for s, _ in a.looks]) == (8, 4, [2, 4, 6, 8]) and a.epochs < 5

    def stop(step, total, loss):
        if step == 5:
            raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        fit_student(rows(), str(base), settings=settings, out=tmp_path / "b", seed=0, score=scored, progress=stop)
    seen = [1, 1]  # goes on from step 4, the best until then
    b = fit_student(rows(), str(base), settings=settings, out=tmp_path / "b", seed=0, score=scored)
    assert (
        b.starts == (0, 4)
        and (b.steps, b.chosen, b.looks) == (a.steps, a.chosen, a.looks)
        and same_weights(a.path, b.path)
    )


def interrupted(base, out, scores):
    "A run that chooses by `scores`, looks every second step, saves every third, ended at step 5; its settings."
    settings, seen = (
        FULL.model_copy(
            update=dict(epochs=2, choose="gold", eval_steps=2, save_steps=3, schedule="constant", warmup_ratio=0)
        ),
        iter(scores),
    )

    def stop(step, total, loss):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_student(
            rows(), str(base), settings=settings, out=out, seed=0, score=lambda model: next(seen), progress=stop
        )
    return settings


def test_a_kill_leaves_the_best_weights_that_the_state_names(base, tmp_path):
    "Going on from the last checkpoint finds nothing better than step 2, which is kept beside the last two."
    settings = interrupted(base, tmp_path / "a", [0.5, 0.1])
    assert last_checkpoint(tmp_path / "a").name == "checkpoint-3"
    done = fit_student(rows(), str(base), settings=settings, out=tmp_path / "a", seed=0, score=lambda model: 0.1)
    plain = fit_student(
        rows(),
        str(base),
        settings=settings.model_copy(update=dict(steps=2, choose="last", eval_steps=None)),
        out=tmp_path / "b",
        seed=0,
    )
    assert done.chosen == 2 and done.starts == (0, 3) and same_weights(done.path, plain.path)


def test_weights_that_are_best_no_more_are_dropped(base, tmp_path):
    there, values = [], iter([0.1, 0.2, 0.3, 0.4, 0.5])
    settings = FULL.model_copy(update=dict(epochs=2, choose="gold", eval_steps=2, save_steps=10))
    fit_student(
        rows(),
        str(base),
        settings=settings,
        out=tmp_path / "a",
        seed=0,
        score=lambda model: next(values),
        progress=lambda *_: there.append(sorted(p.name for p in (tmp_path / "a").glob("check*"))),
    )
    assert max(map(len, there)) == 2 and there[-1] == ["checkpoint-6", "checkpoint-8"]


def test_best_weights_that_are_gone(base, tmp_path):
    settings = interrupted(base, tmp_path / "a", [0.5, 0.1])
    shutil.rmtree(tmp_path / "a" / "checkpoint-2")
    with pytest.raises(StudyError, match="checkpoint-2: gone or empty.*delete .*a to train anew"):
        fit_student(rows(), str(base), settings=settings, out=tmp_path / "a", seed=0, score=lambda model: 0.1)
    assert last_checkpoint(tmp_path / "a").name == "checkpoint-3"


def test_the_loss_chooses(base, tmp_path):
    done = fit_student(
        rows(),
        str(base),
        settings=FULL.model_copy(update=dict(choose="loss", epochs=3)),
        out=tmp_path / "a",
        seed=0,
        validation=rows(5),
    )
    assert done.chosen == min(done.validation, key=lambda x: x[1])[0] and done.looks == ()


@pytest.mark.parametrize("choose", ["gold", "loss"])
def test_nothing_to_choose_by(base, tmp_path, choose):
    with pytest.raises(StudyError, match=f"train.choose = {choose}: there is nothing to choose by"):
        fit_student(
            rows(16), str(base), settings=FULL.model_copy(update=dict(choose=choose)), out=tmp_path / "a", seed=0
        )
    assert not (tmp_path / "a").exists()


def test_a_tokenizer_of_another_model(base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(**{**config, "vocab_size": 90})).save_pretrained(folder)
    with pytest.raises(TrainingDataError, match="its weights know 90: they don't belong together"):
        fit_student(rows(16), str(folder), settings=FULL, out=tmp_path / "run", seed=0)
    assert not (tmp_path / "run").exists()
