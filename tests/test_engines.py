"What a model in this process answers, what recorded files are refused for, and what a cached run leaves alone."
import json, os, signal, subprocess, sys, warnings
from pathlib import Path

import pytest

from distill_study.config import Sampling, StudyError
from distill_study.engines import ENGINES, Engine, EngineError, RecordedEngine, Request, TransformersEngine, complete, engine_list, open_engine, read_recorded
from distill_study.store import Store

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"

def ask(text, id=None, split=None, sample=0, **sampling): return Request(id or text, (dict(role="user", content=text),), Sampling(**dict(max_tokens=16) | sampling), split, sample)

def questions(n=12): return [ask(f"{i} + {i * 7 % 5}" + " please" * (i % 4) + " = ?", f"q{i}") for i in range(n)]

def tokenizer(template=TEMPLATE):
    "Byte-level, four special tokens, no merges."
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
    t = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[]))
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    t.add_special_tokens(special)
    f = PreTrainedTokenizerFast(tokenizer_object=t, pad_token="<|pad|>", eos_token="<|end|>", padding_side="left")
    f.chat_template = template
    return f

def save(folder, template=TEMPLATE, ends=(1,), **config):
    "A small random Llama that ends its answers with any of the tokens `ends`."
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    tok = tokenizer(template)
    torch.manual_seed(0)
    m = LlamaForCausalLM(LlamaConfig(**dict(vocab_size=len(tok), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                                            max_position_embeddings=128, bos_token_id=None, eos_token_id=1, pad_token_id=0, initializer_range=0.3) | config))
    m.generation_config.eos_token_id = list(ends)
    m.save_pretrained(folder); tok.save_pretrained(folder)
    return str(folder)

@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    "A model whose answers end at about every fourth token it could write."
    return save(tmp_path_factory.mktemp("models")/"small", ends=(1, *range(4, 260, 24)))

@pytest.fixture(scope="session")
def alone(folder):
    "What `generate` writes for each question by itself, without padding: (tokens, text, ended by itself)."
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    m, tok, out = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder), []
    for r in questions():
        ids = tok(tok.apply_chat_template(list(r.messages), add_generation_prompt=True, tokenize=False), add_special_tokens=False, return_tensors="pt").input_ids
        new = m.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)[0, ids.shape[1]:].tolist()
        ended = new[-1] in m.generation_config.eos_token_id
        out.append((len(new), tok.decode(new[:-1] if ended else new, skip_special_tokens=True), ended))
    return out

# ---------------------------------------------------------------- a model in this process

@pytest.mark.parametrize("batch_size", [1, 4, 5, 64])
def test_greedy_is_what_generate_writes_alone(folder, alone, tmp_path, batch_size):
    got = complete(TransformersEngine(folder, batch_size), questions(), Store(tmp_path))
    assert [(r.completion_tokens, r.text, r.finish_reason == "stop") for r in got] == alone
    assert {r.finish_reason for r in got} == {"stop", "length"}                     # the model does both here
    assert all(r.valid_key and r.latency > 0 and r.info["dtype"] == "float32" for r in got)

def test_little_memory_makes_small_batches_and_the_same_answers(folder, alone, tmp_path):
    got = complete(TransformersEngine(folder, 64, memory=1e-9), questions(), Store(tmp_path))
    assert [r.text for r in got] == [text for _, text, _ in alone]

def test_a_cache_that_cannot_be_rearranged(tmp_path):
    "Sliding windows: decoded batch by batch, with the same answers as one by one."
    from transformers import MistralConfig, MistralForCausalLM
    import torch
    torch.manual_seed(0)
    save(tmp_path/"m")
    (tmp_path/"m"/"model.safetensors").unlink()
    MistralForCausalLM(MistralConfig(vocab_size=260, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, sliding_window=8,
                                     max_position_embeddings=128, bos_token_id=None, eos_token_id=1, pad_token_id=0, initializer_range=0.3)).save_pretrained(tmp_path/"m")
    texts = [[r.text for r in complete(TransformersEngine(str(tmp_path/"m"), n), questions(6), Store(tmp_path/str(n)))] for n in (1, 4)]
    assert texts[0] == texts[1]

def test_limits_of_their_own(folder, tmp_path):
    got = complete(TransformersEngine(folder, 4), [ask("1 + 2 = ?", f"n{n}", max_tokens=n) for n in (1, 2, 3, 16)], Store(tmp_path))
    assert all(r.completion_tokens <= r.sampling["max_tokens"] for r in got)
    assert all(long.text.startswith(short.text.rstrip("\ufffd")) for short, long in zip(got, got[1:]))

def test_the_context_ends_an_answer_and_refuses_a_prompt(folder, tmp_path):
    e, long = TransformersEngine(folder, 4), "x" * 120
    got = complete(e, [ask(long, max_tokens=50)], Store(tmp_path))[0]
    assert got.prompt_tokens + got.completion_tokens <= 128
    with pytest.raises(StudyError, match=r"2 of 3 prompts don't fit into the model's 128 tokens; the longest, of request 'b', has 203"):
        complete(e, [ask("x" * 150, "a"), ask("x" * 200, "b"), ask("fine")], Store(tmp_path))

def test_stop_strings(folder, alone, tmp_path):
    i, text = next((i, t) for i, (_, t, _) in enumerate(alone) if len(t) > 5)
    stops = (text[3:5], text[2:4])
    got = complete(TransformersEngine(folder, 4), [Request("x", questions()[i].messages, Sampling(max_tokens=16, stop=stops))], Store(tmp_path))[0]
    assert got.finish_reason == "stop" and got.text == text[:min(text.find(s) for s in stops)] and got.completion_tokens < alone[i][0]

def test_sampling_depends_on_seed_and_request_only(folder, tmp_path):
    def requests(n, seed=0, sample=0): return [ask(f"{i} = ?", sample=sample, temperature=1.0, seed=seed) for i in range(n)]
    def draw(n, seed, batch_size=4, sample=0): return [r.text for r in complete(TransformersEngine(folder, batch_size), requests(n, seed, sample), Store(tmp_path/f"{n} {seed} {batch_size} {sample}"))]
    six = draw(6, 0)
    assert six == draw(6, 0, batch_size=1) and six[:2] == draw(2, 0) and len(set(six)) > 1
    assert six != draw(6, 1) and six != draw(6, 0, sample=1)
    store = Store(tmp_path/"part")                             # what is in the store already does not change the rest
    complete(TransformersEngine(folder, 4), requests(6)[3:], store)
    assert [r.text for r in complete(TransformersEngine(folder, 4), requests(6), store)] == six

def test_near_zero_temperature_is_greedy(folder, alone, tmp_path):
    got = complete(TransformersEngine(folder, 4), [Request(r.id, r.messages, Sampling(max_tokens=16, temperature=1e-4)) for r in questions()], Store(tmp_path))
    assert [r.text for r in got] == [text for _, text, _ in alone]

def test_a_model_without_a_chat_template(tmp_path):
    with pytest.raises(StudyError, match="no chat template"): complete(TransformersEngine(save(tmp_path/"m", template=None)), questions(1), Store(tmp_path))

def test_a_template_that_refuses_the_messages(tmp_path):
    e = TransformersEngine(save(tmp_path/"m", template="{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(EngineError, match="refuses the messages of request 'q0' .*roles must alternate"): complete(e, questions(1), Store(tmp_path))

def test_no_machine_path_in_what_is_stored(folder, tmp_path):
    complete(TransformersEngine(folder), questions(2), Store(tmp_path))
    text = next((tmp_path/"completions").iterdir()).read_text()
    assert str(Path(folder).parent.parent) not in text and "/small" in text

# ---------------------------------------------------------------- asking and the store

class Counting(Engine):
    "Says the question again and counts how often it is asked."
    name, weights = "counting", "none"
    def __init__(self, fail_after=None): super().__init__("x", 2); self.seen, self.fail_after = [], fail_after
    def generate(self, requests):
        for i, r in reversed(list(enumerate(requests))):
            if len(self.seen) == self.fail_after: raise KeyboardInterrupt
            self.seen.append(r.id)
            yield i, self.record(r, r.messages[-1]["content"], "stop")

def test_order_duplicates_and_counts(tmp_path):
    e, told = Counting(), []
    texts = ["a", "b", "a", "c", "a", "b", "d"]
    got = complete(e, [ask(t, f"{i}") for i, t in enumerate(texts)], Store(tmp_path), lambda *x: told.append(x))
    assert [r.text for r in got] == texts and len(e.seen) == 4
    assert (got.reused, got.new, told[0], told[-1]) == (0, 4, (0, 7), (7, 7))
    again = complete(e, [ask(t, "other id") for t in texts], Store(tmp_path))
    assert (again.reused, again.new, len(e.seen)) == (7, 0, 4)

def test_interrupted_keeps_what_was_finished(tmp_path):
    requests = [ask(f"{i}") for i in range(7)]
    with pytest.raises(KeyboardInterrupt): complete(Counting(fail_after=5), requests, Store(tmp_path))
    rest = complete(Counting(), requests, Store(tmp_path))
    assert (rest.reused, rest.new, [r.text for r in rest]) == (5, 2, [f"{i}" for i in range(7)])

def test_nothing_to_ask(tmp_path):
    assert list(complete(Counting(), [], Store(tmp_path))) == []

def run(code, *args): return subprocess.Popen([sys.executable, "-c", "import sys; sys.path.insert(0, 'tests'); from test_engines import *\n" + code, *map(str, args)], cwd=ROOT, env=os.environ | dict(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, text=True)

def test_killed_run_goes_on(folder, tmp_path):
    p = run("complete(TransformersEngine(sys.argv[1], 2), questions(400), Store(sys.argv[2]), lambda done, total: print(done, flush=True))", folder, tmp_path)
    told = [int(p.stdout.readline()) for _ in range(4)][-1]
    p.send_signal(signal.SIGKILL); p.communicate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rest = complete(TransformersEngine(folder, 64), questions(12), Store(tmp_path))
        found = sum(1 for _ in open(next((tmp_path/"completions").iterdir())))
    assert told > 0 and found >= told and len(rest) == 12

def test_a_cached_run_does_not_import_torch(folder, tmp_path):
    first = complete(TransformersEngine(folder), questions(3), Store(tmp_path))
    p = run("got = complete(open_engine('transformers:' + sys.argv[1]), questions(3), Store(sys.argv[2]))\n"
            "print(json.dumps([got.reused, [r.text for r in got], [m for m in ('torch', 'transformers', 'numpy') if m in sys.modules]]))", folder, tmp_path)
    assert json.loads(p.communicate()[0]) == [3, [r.text for r in first], []]

# ---------------------------------------------------------------- recorded completions

def recorded(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, rows in files.items(): (folder/f"{name}.jsonl").write_text("".join(json.dumps(dict(id=i, completion=t)) + "\n" for i, t in rows))
    return str(folder)

def test_ids_that_do_not_match_stop_everything(tmp_path):
    e = RecordedEngine(recorded(tmp_path/"r", train=[("a", "A"), ("b", "B")]))
    with pytest.raises(EngineError, match=r"2 of 4 ids have no recorded completion, first 'c' \(split 'train'\)\. train.jsonl has 2, first 'a'"): complete(e, [ask("?", i, "train") for i in "acbd"], Store(tmp_path/"s"))
    assert not list((tmp_path/"s"/"completions").iterdir())          # before anything was stored

def test_rows_with_the_same_wording_keep_their_own_answers(tmp_path):
    e = RecordedEngine(recorded(tmp_path/"r", train=[("a", "A"), ("b", "B")], test=[("a", "other")]))
    for _ in range(2):                                                # new, then from the store
        got = complete(e, [ask("?", "a", "train"), ask("?", "b", "train"), ask("?", "a", "test")], Store(tmp_path/"s"))
        assert [r.text for r in got] == ["A", "B", "other"]

def test_a_split_without_a_file_is_looked_for_in_all(tmp_path):
    e = RecordedEngine(recorded(tmp_path/"r", train=[("a", "A")], validation=[("v", "V"), ("a", "again")]))
    assert complete(e, [ask("?", "v", "test")], Store(tmp_path/"s"))[0].text == "V"
    with pytest.raises(EngineError, match="1 of 1 ids are in more than one file, first 'a'; there is no 'test' file"): complete(e, [ask("?", "a", "test")], Store(tmp_path/"s"))
    with pytest.raises(EngineError, match="1 of 1 ids have no"): complete(e, [ask("?", "v", "train")], Store(tmp_path/"s"))   # a row number of another split is another row

@pytest.mark.parametrize("text, why", [
    ('{"id": "a", "completion": "x"}\n{"id": "a", "completion": "y"}\n', "line 2: id 'a' is already on line 1"), ("", "no recorded completions"), ("\n", "line 1: empty line"),
    ('{"id": "a", "completion": "x"}\n\n{"id": "b", "completion": "y"}\n', "line 2: empty line"), ('{"id": "a", "text": "x"}', "line 1: no column 'completion'; it has 'id', 'text'"),
    ('{"completion": "x"}', "no column 'id'"), ('{"id": "a", "completion": 3}', "completion = 3 is not text"), ('{"id": true, "completion": "x"}', "id = True is not"), ('{"id": null, "completion": "x"}', "id = None"),
    ("[1]", "not a JSON object"), ("{'id': 1}", "not JSON"), ("[" * 100_000, "not JSON")])
def test_malformed_rows_name_file_and_line(tmp_path, text, why):
    (tmp_path/"r.jsonl").write_text(text)
    with pytest.raises(EngineError) as e: open_engine(f"recorded:{tmp_path/'r.jsonl'}")
    assert why in str(e.value) and "r.jsonl" in str(e.value)

def test_odd_but_readable_rows(tmp_path):
    (tmp_path/"r.jsonl").write_bytes(b'\xef\xbb\xbf{"id": 1, "completion": "a\\u2028b \\ud800"}\r\n{"completion": "", "id": "2", "more": 0}')
    assert read_recorded(tmp_path/"r.jsonl") == {"1": "a\u2028b ?", "2": ""}
    (tmp_path/"r.jsonl").write_bytes(b'{"id": 1, "completion": "\xff"}\n')
    with pytest.raises(EngineError, match="line 1: not UTF-8"): read_recorded(tmp_path/"r.jsonl")

def test_other_bytes_are_other_weights(tmp_path):
    path = recorded(tmp_path/"r", train=[("a", "A")])
    before = RecordedEngine(path).weights
    assert RecordedEngine(path).weights == before
    recorded(tmp_path/"r", train=[("a", "B")])
    assert RecordedEngine(path).weights != before

def test_names_are_found_under_the_data_folder(tmp_path, monkeypatch):
    recorded(tmp_path/"palm", train=[("a", "A")])
    monkeypatch.setenv("DISTILL_DATA_DIR", str(tmp_path))
    assert RecordedEngine("palm").rows == RecordedEngine("owner/palm").rows == {"train.jsonl": {"a": "A"}}
    with pytest.raises(EngineError, match="Did you mean 'palm'"): open_engine("recorded:plam")
    monkeypatch.delenv("DISTILL_DATA_DIR")
    with pytest.raises(EngineError, match="DISTILL_DATA_DIR is not set"): open_engine("recorded:palm")

def test_the_real_recorded_teachers(data_dir, tmp_path):
    "Both files of both teachers are read whole and join their data sets."
    for name, ids, splits in (("svamp", "ID", dict(train=800, test=200)), ("commonsense_qa", "id", dict(train=9741, validation=1221))):
        e = open_engine(f"recorded:{name}_palm540b")
        for split, n in splits.items():
            requests = [ask("?", json.loads(line)[ids], split) for line in open(data_dir/name/f"{split}.jsonl")]
            assert len(requests) == len(e.rows[f"{split}.jsonl"]) == n
            got = complete(e, requests, Store(tmp_path))
            assert (got.new, len(got)) == (n, n) and got[0].finish_reason is None

# ---------------------------------------------------------------- opening

@pytest.mark.parametrize("spec, why", [("transformer:x", "Did you mean 'transformers'?"), ("zzz:x", "Known: recorded, transformers"), ("transformers", "no model named"), ("transformers:", "no model named"), ("", "unknown")])
def test_engines_that_cannot_be_opened(spec, why):
    with pytest.raises(EngineError) as e: open_engine(spec)
    assert why in str(e.value)

def test_engines_are_listed():
    assert set(engine_list()) == set(ENGINES) and all(len(line) > 20 for line in engine_list().values())
