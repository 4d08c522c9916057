"What a model in this process answers, what recorded files are refused for, and what a cached run leaves alone."

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import byte_tokenizer

from distill_study.config import Asked, Sampling, Student, StudyError, Teacher
from distill_study.models import local
from distill_study.models.engine import (
    ENGINES,
    Engine,
    EngineError,
    Failure,
    RecordedEngine,
    Request,
    complete,
    engine_class,
    open_engine,
    read_recorded,
)
from distill_study.models.local import TransformersEngine, finish, render
from distill_study.models.weights import load_tokenizer
from distill_study.store.log import Store

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def ask(text, id=None, split=None, sample=0, **sampling):
    return Request(
        id or text, (dict(role="user", content=text),), Sampling(**dict(max_tokens=16) | sampling), split, sample
    )


def questions(n=12):
    return [ask(f"{i} + {i * 7 % 5}" + " please" * (i % 4) + " = ?", f"q{i}") for i in range(n)]


def save(folder, template=TEMPLATE, ends=(1,), kind="Llama", **config):
    "A small random model that ends its answers with any of the tokens `ends`."
    import torch
    import transformers

    tok = byte_tokenizer(template)
    torch.manual_seed(0)
    shape = (
        dict(n_embd=64, n_layer=2, n_head=4, n_positions=128)
        if kind == "GPT2"
        else dict(
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=128,
        )
    )
    m = getattr(transformers, f"{kind}ForCausalLM" if kind != "GPT2" else "GPT2LMHeadModel")(
        getattr(transformers, f"{kind}Config")(
            **dict(vocab_size=len(tok), bos_token_id=None, eos_token_id=1, pad_token_id=0, initializer_range=0.3)
            | shape
            | config
        )
    )
    m.generation_config.eos_token_id = list(ends)
    m.save_pretrained(folder)
    tok.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    "A model whose answers end at about every twentieth token it could write."
    return save(tmp_path_factory.mktemp("models") / "small", ends=(1, *range(5, 261, 24)))


def by_generate(folder, requests):
    "What `generate` writes for each request by itself, without padding: (tokens, text, ended by itself)."
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    m, tok, out = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
        [],
    )
    for r in requests:
        ids = tok(
            tok.apply_chat_template(list(r.messages), add_generation_prompt=True, tokenize=False),
            add_special_tokens=False,
            return_tensors="pt",
        ).input_ids
        new = m.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=min(r.sampling.max_tokens, 128 - ids.shape[1]),
            do_sample=False,
        )[0, ids.shape[1] :].tolist()
        ended = new[-1] in m.generation_config.eos_token_id
        out.append((len(new), tok.decode(new[:-1] if ended else new, skip_special_tokens=True), ended))
    return out


def outcomes(records):
    return [(r.completion_tokens, r.text, r.finish_reason == "stop") for r in records]


@pytest.fixture(scope="session")
def alone(folder):
    return by_generate(folder, questions())


# ---------------------------------------------------------------- a model in this process


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_greedy_is_what_generate_writes_alone(folder, alone, tmp_path, batch_size):
    got = complete(TransformersEngine(folder, batch_size), questions(), store=Store(tmp_path))
    assert outcomes(got) == alone
    assert {r.finish_reason for r in got} == {"stop", "length"}  # the model does both here
    assert all(r.valid_key and r.latency > 0 and r.info["dtype"] == "float32" for r in got)


def test_little_memory_makes_small_batches_and_the_same_answers(folder, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "cache_room", lambda model: 0)
    assert outcomes(complete(TransformersEngine(folder, 64), questions(), store=Store(tmp_path))) == alone


def test_a_sliding_window(tmp_path):
    path = save(tmp_path / "m", kind="Mistral", sliding_window=8)
    assert outcomes(complete(TransformersEngine(path, 4), questions(6), store=Store(tmp_path))) == by_generate(
        path, questions(6)
    )


def test_a_model_that_knows_no_position_past_its_context(tmp_path):
    "Learned positions: a row led past the end by a longer or a shorter neighbour would fail."
    path, asked = save(tmp_path / "m", kind="GPT2"), [ask("x" * n, max_tokens=40) for n in (5, 116, 80, 90, 116, 20)]
    got = complete(TransformersEngine(path, 8), asked, store=Store(tmp_path))
    assert outcomes(got) == by_generate(path, asked)
    assert got[1].prompt_tokens + got[1].completion_tokens <= 128


def test_no_settings_of_the_models_own(folder, alone, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m" / "generation_config.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text())
            | dict(
                do_sample=True,
                temperature=2.0,
                top_k=1,
                top_p=0.1,
                min_p=0.9,
                repetition_penalty=5.0,
                no_repeat_ngram_size=1,
                max_length=3,
                suppress_tokens=[*range(5, 200)],
            )
        )
    )
    e = TransformersEngine(str(tmp_path / "m"), 4)
    assert outcomes(complete(e, questions(), store=Store(tmp_path))) == alone
    drawn = complete(e, [ask("1 = ?", sample=i, temperature=1.0) for i in range(8)], store=Store(tmp_path))
    assert len({r.text for r in drawn}) > 4  # top_k=1 would give one text


@pytest.mark.parametrize("lost", [("pad_token",), ("pad_token", "eos_token")])
def test_a_tokenizer_without_padding(folder, alone, tmp_path, lost):
    import shutil

    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m" / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in lost}))
    assert outcomes(complete(TransformersEngine(str(tmp_path / "m"), 4), questions(), store=Store(tmp_path))) == alone


def test_limits_of_their_own(folder, tmp_path):
    got = complete(
        TransformersEngine(folder, 4),
        [ask("1 + 2 = ?", f"n{n}", max_tokens=n) for n in (1, 2, 3, 16)],
        store=Store(tmp_path),
    )
    assert all(r.completion_tokens <= r.sampling["max_tokens"] for r in got)
    assert all(long.text.startswith(short.text.rstrip("\ufffd")) for short, long in zip(got, got[1:]))


def test_the_context_ends_an_answer_and_refuses_a_prompt(folder, tmp_path):
    e, long = TransformersEngine(folder, 4), "x" * 120
    got = complete(e, [ask(long, max_tokens=50)], store=Store(tmp_path))[0]
    assert got.prompt_tokens + got.completion_tokens <= 128
    with pytest.raises(
        StudyError, match=r"2 of 3 prompts don't fit into the model's 128 tokens; the longest, of request 'b', has 203"
    ):
        complete(e, [ask("x" * 150, "a"), ask("x" * 200, "b"), ask("fine")], store=Store(tmp_path))


def test_stop_strings(folder, alone, tmp_path):
    i, text = next((i, t) for i, (_, t, _) in enumerate(alone) if len(t) > 5)
    stops = (text[3:5], text[2:4])
    got = complete(
        TransformersEngine(folder, 4),
        [Request("x", questions()[i].messages, Sampling(max_tokens=16, stop=stops))],
        store=Store(tmp_path),
    )[0]
    assert (
        got.finish_reason == "stop"
        and got.text == text[: min(text.find(s) for s in stops)]
        and got.completion_tokens < alone[i][0]
    )


def test_a_stop_string_is_looked_for_in_the_answer_only(folder, alone, tmp_path):
    "One that the prompt's last character begins and the answer's first one ends must not stop it."
    i, text = next((i, t) for i, (_, t, _) in enumerate(alone) if len(t) > 5 and t[0] not in t[1:])
    got = complete(
        TransformersEngine(folder, 4),
        [Request(r.id, r.messages, Sampling(max_tokens=16, stop=(">" + text[0], "?"))) for r in questions()],
        store=Store(tmp_path),
    )
    assert got[i].text == text.split("?")[0]


def test_neighbours_do_not_change_where_a_stop_string_cuts(folder, alone, tmp_path):
    stop = tuple({c for _, t, _ in alone for c in t[2:4]})

    def each(n):
        asked = [Request(r.id, r.messages, Sampling(max_tokens=16, stop=stop)) for r in questions()]
        return outcomes(complete(TransformersEngine(folder, n), asked, store=Store(tmp_path / str(n))))

    assert each(1) == each(5) == each(64)
    for (n, text, _), (m, whole, _) in zip(each(1), alone):
        assert n <= m and whole.startswith(text) and not any(c in text for c in stop)


def test_sampling_is_repeatable_and_leaves_torch_alone(folder, tmp_path):
    import torch

    def requests(n, seed=0, sample=0):
        return [ask(f"{i} = ?", sample=sample, temperature=1.0, seed=seed) for i in range(n)]

    def draw(n=6, seed=0, sample=0, batch_size=4):
        before, store = torch.get_rng_state(), Store(tmp_path / f"{torch.rand(1).item()}")
        torch.set_rng_state(before)
        got = [r.text for r in complete(TransformersEngine(folder, batch_size), requests(n, seed, sample), store=store)]
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)  # what was drawn elsewhere does not matter
        return got

    six = draw()
    assert six == draw() and len(set(six)) > 1
    assert six != draw(seed=1) and six != draw(sample=1)
    assert (
        len(
            {
                r.text
                for r in complete(
                    TransformersEngine(folder, 8),
                    [ask("1 = ?", sample=i, temperature=1.0) for i in range(8)],
                    store=Store(tmp_path),
                )
            }
        )
        > 4
    )


def test_requests_of_many_settings_at_once(folder, alone, tmp_path):
    "Each is answered as it is when asked with its own kind only."
    other = [
        ask(f"{i} = ?", temperature=t, top_p=p, max_tokens=n)
        for i in range(4)
        for t, p, n in ((0.7, 1.0, 9), (0.7, 0.3, 9), (1.5, 1.0, 4))
    ]
    mixed = [r for pair in zip(questions(), other) for r in pair]
    got = complete(TransformersEngine(folder, 4), mixed, store=Store(tmp_path / "all"))
    assert outcomes(got[::2]) == alone
    for kind in {r.sampling for r in other}:
        same = [(r, a) for r, a in zip(mixed, got) if r.sampling == kind]
        assert outcomes(
            complete(TransformersEngine(folder, 4), [r for r, _ in same], store=Store(tmp_path / "one"))
        ) == outcomes(a for _, a in same)


def test_shares_add_up_to_the_busy_seconds(folder, tmp_path):
    (e := TransformersEngine(folder, 5)).load()
    start = time.perf_counter()
    got = complete(e, questions(), store=Store(tmp_path))
    busy = sum(r.info["share"] for r in got)
    assert 0.3 * (time.perf_counter() - start) < busy < time.perf_counter() - start
    assert busy == pytest.approx(sum({r.latency for r in got}), abs=1e-3)  # a latency is its batch's, three in all


def short_of_memory(engine, most):
    "Let the engine's model fail as a GPU does on more than `most` rows; returns the list of tried sizes."
    import torch

    generate, tried = engine.load().generate, []

    def failing(ids, **kw):
        if kw["past_key_values"] is None:
            tried.append(len(ids))  # else it goes on with what is left of a batch
        if len(ids) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return generate(ids, **kw)

    engine.loaded.generate = failing
    return tried


def test_too_little_memory_halves_the_batch(folder, alone, tmp_path, capsys):
    tried = short_of_memory(e := TransformersEngine(folder, 8), 3)
    assert outcomes(complete(e, questions(), store=Store(tmp_path))) == alone
    assert (
        tried[:3] == [8, 4, 2] and max(tried[2:]) <= 3 and sum(n for n in tried[2:]) == 12
    )  # what was learnt holds for the rest
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == [
        "8 answers at once don't fit into the GPU's memory; going on with 4.",
        "4 answers at once don't fit into the GPU's memory; going on with 2.",
    ]


def test_rows_that_have_ended_leave_the_batch(folder, alone, tmp_path):
    e, sizes = TransformersEngine(folder, 12), []
    generate = e.load().generate
    e.loaded.generate = lambda ids, **kw: (sizes.append(len(ids)), generate(ids, **kw))[1]
    assert outcomes(complete(e, questions(), store=Store(tmp_path))) == alone
    assert sizes[0] == 12 and sizes == sorted(sizes, reverse=True) and len(sizes) > 2


def test_too_little_memory_for_one(folder, tmp_path):
    short_of_memory(e := TransformersEngine(folder, 2), 0)
    with pytest.raises(
        EngineError,
        match=r"request 'q\d+' \(\d+ tokens, 16 more to write\) doesn't fit into the GPU's memory, even alone",
    ):
        complete(e, questions(3), store=Store(tmp_path))


def test_interrupted_in_a_batch_keeps_those_before(folder, alone, tmp_path):
    e = TransformersEngine(folder, 5)
    generate, calls = e.load().generate, []

    def third(*args, **kw):
        calls.append(kw["past_key_values"] is None)
        if sum(calls) == 3:
            raise KeyboardInterrupt
        return generate(*args, **kw)

    e.loaded.generate = third
    with pytest.raises(KeyboardInterrupt):
        complete(e, questions(), store=Store(tmp_path))
    rest = complete(TransformersEngine(folder, 5), questions(), store=Store(tmp_path))
    assert (rest.reused, rest.new, outcomes(rest)) == (10, 2, alone)


def test_every_batch_is_stored_before_the_next(folder, tmp_path, monkeypatch):
    "Small ones too, so that a kill costs one batch at most."
    monkeypatch.setattr(local, "cache_room", lambda model: int(1e-4 * 2**30 / local.token_bytes(model.config, 4)))
    e, seen = TransformersEngine(folder, 64), []
    generate = e.load().generate

    def counting(ids, **kw):
        if kw["past_key_values"] is None:
            seen.append((len(ids), sum(len(p.read_text().splitlines()) for p in (tmp_path / "completions").glob("*"))))
        return generate(ids, **kw)

    e.loaded.generate = counting
    complete(e, questions(), store=Store(tmp_path))
    sizes = [n for n, _ in seen]
    assert (
        len(sizes) > 2
        and max(sizes) > 2
        and sum(sizes) == 12
        and [stored for _, stored in seen] == [sum(sizes[:i]) for i in range(len(sizes))]
    )


def test_it_has_nothing_to_say(folder, tmp_path):
    "No warning and no bar on ordinary use."
    code = """
drawn = [ask(f'{i}', temperature=0.5, top_p=0.5, stop=('a',)) for i in range(3)]
complete(TransformersEngine(sys.argv[1], 4), [*questions(), ask('x' * 118), *drawn], store=Store(sys.argv[2]))"""
    p = run(code, folder, tmp_path, stderr=subprocess.STDOUT)
    assert (p.communicate()[0], p.returncode) == ("", 0)


def test_near_zero_temperature_is_greedy(folder, alone, tmp_path):
    got = complete(
        TransformersEngine(folder, 4),
        [Request(r.id, r.messages, Sampling(max_tokens=16, temperature=1e-4)) for r in questions()],
        store=Store(tmp_path),
    )
    assert [r.text for r in got] == [text for _, text, _ in alone]


def test_a_model_without_a_chat_template(tmp_path):
    with pytest.raises(StudyError, match="no chat template"):
        complete(TransformersEngine(save(tmp_path / "m", template=None)), questions(1), store=Store(tmp_path))


def test_a_template_that_refuses_the_messages(tmp_path):
    e = TransformersEngine(save(tmp_path / "m", template="{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(EngineError, match="refuses the messages of request 'q0' .*roles must alternate"):
        complete(e, questions(1), store=Store(tmp_path))


def test_no_machine_path_in_what_is_stored(folder, tmp_path):
    complete(TransformersEngine(folder), questions(2), store=Store(tmp_path))
    text = next((tmp_path / "completions").iterdir()).read_text()
    assert str(Path(folder).parent.parent) not in text and "/small" in text


@pytest.mark.parametrize(
    "text, stops, want",
    [
        ("$$$$", (), ("", "stop", 1)),  # the end token pads too
        ("So 4.$\n\n", ("\n\n",), ("So 4.", "stop", 6)),
        ("abcd", ("bc", "abcd"), ("a", "stop", 3)),  # what came after its end doesn't count
    ],
)
def test_where_an_answer_ends(text, stops, want):
    assert finish([*map(ord, text)], {ord("$")}, stops=stops, decode=lambda ids: "".join(map(chr, ids))) == want


# ---------------------------------------------------------------- asking and the store


class Counting(Engine):
    "Says the question again and counts how often it is asked."

    name, weights = "counting", "none"

    def __init__(self, fail_after=None):
        super().__init__("x", 2)
        self.seen, self.fail_after = [], fail_after

    def generate(self, requests):
        for i, r in reversed(list(enumerate(requests))):
            if len(self.seen) == self.fail_after:
                raise KeyboardInterrupt
            self.seen.append(r.id)
            yield i, self.record(r, r.messages[-1]["content"], finish_reason="stop")


def test_order_duplicates_and_counts(tmp_path):
    e, reported = Counting(), []
    texts = ["a", "b", "a", "c", "a", "b", "d"]
    got = complete(
        e, [ask(t, f"{i}") for i, t in enumerate(texts)], store=Store(tmp_path), progress=lambda *x: reported.append(x)
    )
    assert [r.text for r in got] == texts and len(e.seen) == 4
    assert (got.reused, got.new, reported[0], reported[-1]) == (0, 4, (0, 7), (7, 7))
    again = complete(e, [ask(t, "other id") for t in texts], store=Store(tmp_path))
    assert (again.reused, again.new, len(e.seen)) == (7, 0, 4)


def test_progress_is_told_while_nothing_comes_and_failures_are_none(tmp_path):
    class Slow(Counting):
        def generate(self, requests):
            yield None
            yield 0, Failure("timeout")
            yield None
            yield 1, self.record(requests[1], "b", finish_reason="stop")

    reported = []
    about = dict(progress=lambda *x: reported.append(x), max_failures=0.5)
    complete(Slow(), [ask("a"), ask("b")], store=Store(tmp_path), **about)
    assert reported[:2] == [(0, 2), (0, 2)]
    assert reported[-1] == (1, 2)


def test_interrupted_keeps_what_was_finished(tmp_path):
    requests = [ask(f"{i}") for i in range(7)]
    with pytest.raises(KeyboardInterrupt):
        complete(Counting(fail_after=5), requests, store=Store(tmp_path))
    rest = complete(Counting(), requests, store=Store(tmp_path))
    assert (rest.reused, rest.new, [r.text for r in rest]) == (5, 2, [f"{i}" for i in range(7)])


class Busy(Counting):
    "Can't answer some of the questions."

    def __init__(self, *lost):
        super().__init__()
        self.lost = lost

    def generate(self, requests):
        for i, a in super().generate(requests):
            yield i, Failure("http_429", "429: too many requests", 3) if requests[i].id in self.lost else a


def test_failures_are_written_down_and_asked_again(tmp_path):
    store, asked = Store(tmp_path), [ask("a"), ask("b"), ask("a"), ask("b")]
    got = complete(Busy("b"), asked, store=store, max_failures=0.5, stage="train, cot")
    assert repr(got) == "4 completions: 0 from the store, 1 new, 2 failed"
    assert [(e["id"], e["reason"], e["stage"]) for e in store.ledger.entries()] == [("b", "http_429", "train, cot")] * 2
    replayed = complete(Counting(), asked, store=Store(tmp_path, replay=True))
    assert (replayed.reused, list(replayed.failures)) == (2, [1, 3])  # a replay knows what failed
    with pytest.raises(EngineError, match="1 of 3 completions are not in the store, first that of item 'new'"):
        complete(Counting(), [*asked, ask("new")], store=Store(tmp_path, replay=True))
    assert repr(complete(Counting(), asked[:2], store=store)) == "2 completions: 1 from the store, 1 new, 0 failed"


def test_too_many_failures_end_the_run_and_what_is_answered_stays(tmp_path):
    why = "1 of 2 requests failed (1 http_429), more than max_failures = 0.3 allows. 1 are answered and stored"
    with pytest.raises(EngineError, match=re.escape(why)):
        complete(Busy("a"), [ask("a"), ask("b")], store=Store(tmp_path))
    assert complete(Counting(), [ask("b")], store=Store(tmp_path)).reused == 1
    many = [ask(f"{i}") for i in range(1000)]
    with pytest.raises(EngineError, match=r"20 of 1000 requests failed \(20 http_429\), and none was answered"):
        complete(Busy(*(r.id for r in many)), many, store=Store(tmp_path))


def test_two_runs_at_once_ask_once(tmp_path):
    class Slow(Counting):
        def generate(self, requests):
            for answer in super().generate(requests):
                time.sleep(0.05)
                yield answer

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: complete(Slow(), [ask("a"), ask("b")], store=Store(tmp_path)), range(2)))
    assert sorted(r.new for r in runs) == [0, 2] and list(runs[0]) == list(runs[1])


def test_none_stores_what_has_come(tmp_path):
    store = Store(tmp_path)

    class Stepwise(Counting):
        def generate(self, requests):
            for i, record in super().generate(requests):
                yield i, record
                yield None
                assert store.get(self.spec, self.weights, key=record.key).text == record.text

    assert complete(Stepwise(), [ask("a"), ask("b")], store=store).new == 2


def test_a_conversation_that_has_outgrown_the_context_ends(tmp_path):
    class Short(Counting):
        def generate(self, requests):
            for i, r in enumerate(requests):
                yield i, self.outgrown(r, 99) if r.goes_on else self.record(r, "a", finish_reason="stop")

    turns = (dict(role="user", content="a"), dict(role="assistant", content="b"), dict(role="user", content="c"))
    later = replace(ask("a", "later"), messages=turns, goes_on=True)
    got = complete(Short(), [ask("a"), later], store=Store(tmp_path))
    assert [(r.text, r.finish_reason, r.prompt_tokens) for r in got] == [("a", "stop", None), ("", "length", 99)]
    assert complete(Short(), [later], store=Store(tmp_path, replay=True)).reused == 1  # as any other answer


def test_nothing_to_ask(tmp_path):
    assert list(complete(Counting(), [], store=Store(tmp_path))) == []


def run(code, *args, **kw):
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; sys.path.insert(0, 'tests'); from test_engines import *\n" + code,
            *map(str, args),
        ],
        cwd=ROOT,
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        text=True,
        **kw,
    )


def test_killed_run_goes_on(folder, tmp_path):
    code = """
def progress(done, total):
    print(done, flush=True)
complete(TransformersEngine(sys.argv[1], 2), questions(400), store=Store(sys.argv[2]), progress=progress)"""
    p = run(code, folder, tmp_path)
    reported = [int(p.stdout.readline()) for _ in range(4)][-1]
    p.send_signal(signal.SIGKILL)
    p.communicate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rest = complete(TransformersEngine(folder, 64), questions(12), store=Store(tmp_path))
        found = sum(1 for _ in open(next((tmp_path / "completions").iterdir())))
    assert reported > 0 and found >= reported and len(rest) == 12


def test_a_cached_run_does_not_import_torch(folder, tmp_path):
    first = complete(TransformersEngine(folder), questions(3), store=Store(tmp_path))
    code = """
got = complete(open_engine('transformers:' + sys.argv[1]), questions(3), store=Store(sys.argv[2]))
heavy = [m for m in ('torch', 'transformers', 'numpy') if m in sys.modules]
print(json.dumps([got.reused, [r.text for r in got], heavy]))"""
    p = run(code, folder, tmp_path)
    assert json.loads(p.communicate()[0]) == [3, [r.text for r in first], []]


# ---------------------------------------------------------------- recorded completions


def recorded(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(dict(id=i, completion=t)) + "\n" for i, t in rows))
    return str(folder)


def test_ids_that_do_not_match_stop_everything(tmp_path):
    e = RecordedEngine(recorded(tmp_path / "r", train=[("a", "A"), ("b", "B")]))
    with pytest.raises(
        EngineError, match=r"2 of 4 ids have no recorded .*, first 'c' \(split 'train'\)\. train.jsonl has 2, first 'a'"
    ):
        complete(e, [ask("?", i, "train") for i in "acbd"], store=Store(tmp_path / "s"))
    assert not list((tmp_path / "s" / "completions").iterdir())  # before anything was stored


def test_rows_with_the_same_wording_keep_their_own_answers(tmp_path):
    e = RecordedEngine(recorded(tmp_path / "r", train=[("a", "A"), ("b", "B")], test=[("a", "other")]))
    for _ in range(2):  # new, then from the store
        got = complete(
            e, [ask("?", "a", "train"), ask("?", "b", "train"), ask("?", "a", "test")], store=Store(tmp_path / "s")
        )
        assert [r.text for r in got] == ["A", "B", "other"]


def test_a_split_without_a_file_is_looked_for_in_all(tmp_path):
    e = RecordedEngine(recorded(tmp_path / "own", train=[("a", "A")], test=[("b", "B")]))
    assert e.asked(ask("?", "b", "train")) == dict(id="b", file="test.jsonl")  # its data was split anew
    e = RecordedEngine(recorded(tmp_path / "r", train=[("a", "A")], validation=[("v", "V"), ("a", "again")]))
    assert complete(e, [ask("?", "v", "test")], store=Store(tmp_path / "s"))[0].text == "V"
    with pytest.raises(
        EngineError, match="first 'a' .*in train.jsonl and validation.jsonl, and there is no file of that split"
    ):
        complete(e, [ask("?", "a", "test")], store=Store(tmp_path / "s"))
    with pytest.raises(EngineError, match="1 of 1 ids have no"):
        complete(
            e, [ask("?", "v", "train")], store=Store(tmp_path / "s")
        )  # a row number of another split is another row


@pytest.mark.parametrize(
    "text, why",
    [
        ('{"id": "a", "completion": "x"}\n{"id": "a", "completion": "y"}\n', "row 2: id 'a' is there already"),
        ("", "has no rows"),
        ("\n", "has no rows"),
        ('{"id": "a", "completion": "x"}\n\n{"id": "a", "completion": "y"}\n', "row 2: id 'a' is there already"),
        ('{"id": "a", "text": "x"}', "row 1: completion = None is not text; its columns: id, text"),
        ('{"completion": "x"}', "id = None is not"),
        ('{"id": "a", "completion": 3}', "completion = 3 is not text"),
        ('{"id": true, "completion": "x"}', "id = True is not"),
        ('{"id": null, "completion": "x"}', "id = None"),
        ("[1]", "line 1: expected an object, got list"),
        ("{'id': 1}", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_malformed_rows_name_file_and_line(tmp_path, text, why):
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(StudyError) as e:
        open_engine(f"recorded:{tmp_path / 'r.jsonl'}")
    assert why in str(e.value) and "r.jsonl" in str(e.value)


def test_odd_but_readable_rows(tmp_path):
    (tmp_path / "r.jsonl").write_bytes(
        b'\xef\xbb\xbf{"id": 1, "completion": "a\\u2028b \\ud800"}\r\n{"completion": "", "id": "2", "more": 0}'
    )
    assert {id: text for id, (text, *_) in read_recorded(tmp_path / "r.jsonl").items()} == {"1": "a\u2028b ?", "2": ""}
    (tmp_path / "r.jsonl").write_bytes(b'{"id": 1, "completion": "\xff"}\n')
    with pytest.raises(StudyError, match="it is not in UTF-8"):
        read_recorded(tmp_path / "r.jsonl")


def test_recorded_endings_and_reasoning(tmp_path):
    rows = [
        dict(id="a", completion="4", finish_reason="max_tokens", reasoning="2 + 2"),
        dict(id="b", completion="12", finish_reason="error"),
        dict(id="c", completion="", finish_reason="stop"),
        dict(id="d", completion="", finish_reason=None),
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = [Request(x, (dict(role="user", content=x),), Sampling(max_tokens=8)) for x in "abcd"]
    a, b, c, d = complete(RecordedEngine(f"{tmp_path}/r.jsonl"), asked, store=Store(tmp_path / "s"), max_failures=1)
    assert (a.finish_reason, a.info) == ("length", dict(thought="2 + 2"))
    assert (b.reason, b.evidence) == ("aborted", "finish_reason 'error', '12'")
    assert c.reason == "empty"
    assert (d.text, d.finish_reason, d.info) == ("", None, {})


def test_other_bytes_are_other_weights(tmp_path):
    path = recorded(tmp_path / "r", train=[("a", "A")])
    before = RecordedEngine(path).weights
    assert RecordedEngine(path).weights == before
    recorded(tmp_path / "r", train=[("a", "B")])
    assert RecordedEngine(path).weights != before


def test_names_are_found_under_the_data_folder(tmp_path, monkeypatch):
    recorded(tmp_path / "palm", train=[("a", "A")])
    monkeypatch.setenv("DISTILL_DATA_DIR", str(tmp_path))
    assert RecordedEngine("palm").rows == RecordedEngine("owner/palm").rows == {"train.jsonl": {"a": ("A", None, "")}}
    with pytest.raises(EngineError, match="Did you mean 'palm'"):
        open_engine("recorded:plam")
    monkeypatch.delenv("DISTILL_DATA_DIR")
    with pytest.raises(EngineError, match="DISTILL_DATA_DIR is not set"):
        open_engine("recorded:palm")


def test_the_real_recorded_teachers(data_dir, tmp_path):
    "Both files of both teachers are read whole and join their data sets."
    for name, ids, splits in (
        ("svamp", "ID", dict(train=800, test=200)),
        ("commonsense_qa", "id", dict(train=9741, validation=1221)),
    ):
        e = open_engine(f"recorded:{name}_palm540b")
        for split, n in splits.items():
            requests = [ask("?", json.loads(line)[ids], split) for line in open(data_dir / name / f"{split}.jsonl")]
            assert len(requests) == len(e.rows[f"{split}.jsonl"]) == n
            got = complete(e, requests, store=Store(tmp_path))
            assert (got.new, len(got)) == (n, n) and got[0].finish_reason is None


# ---------------------------------------------------------------- opening


@pytest.mark.parametrize(
    "spec, why",
    [
        ("transformer:x", "Did you mean 'transformers'?"),
        ("zzz:x", "recorded, rules, transformers"),
        ("transformers", "no model named"),
        ("transformers:", "no model named"),
        ("", "unknown"),
    ],
)
def test_engines_that_cannot_be_opened(spec, why):
    with pytest.raises(EngineError) as e:
        open_engine(spec)
    assert why in str(e.value)


def test_engines_are_listed():
    assert all(issubclass(engine_class(name), Engine) and engine_class(name).name == name for name in ENGINES)


def test_log_probabilities_are_those_of_one_pass_over_prompt_and_answer(tmp_path):
    "Also of rows that leave the batch early, of drawn tokens (before the temperature), and with a stop string."
    import torch

    engine = TransformersEngine("zoo/student-s", 8)
    plain = complete(engine, questions(), store=Store(tmp_path))
    asked = [replace(q, sampling=q.sampling.model_copy(update=dict(logprobs=3))) for q in questions()]
    drawn = [ask(q.messages[0]["content"], q.id, logprobs=1, temperature=1.5) for q in questions(4)]
    stopping = [ask("2 + 3 = ?", "s", logprobs=2, stop=("=",), max_tokens=40)]
    got = complete(engine, [*asked, *drawn, *stopping], store=Store(tmp_path))
    assert [r.text for r in got[:12]] == [r.text for r in plain] and "logprobs" not in plain[0].info
    assert not {r.key for r in got} & {r.key for r in plain}
    tokenizer, model = load_tokenizer(engine.folder), engine.load()
    for q, r in zip([*asked, *drawn, *stopping], got):
        steps = r.info["logprobs"]
        [prompt] = render(tokenizer, [q], spec="")
        answer = tokenizer("".join(t for t, _, _ in steps), add_special_tokens=False).input_ids
        assert len(steps) == r.completion_tokens == len(answer)
        whole = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
        expected = whole.gather(1, torch.tensor(answer)[:, None])[:, 0].tolist()
        assert [p for _, p, _ in steps] == pytest.approx(expected, abs=2e-3)
        assert all(len(top) == q.sampling.logprobs for _, _, top in steps)
        assert all(max(top.values()) == pytest.approx(max(w.tolist()), abs=2e-3) for (*_, top), w in zip(steps, whole))
    assert all(p == max(top.values()) for r in got[:12] for _, p, top in r.info["logprobs"])  # greedy
    assert any(p < max(top.values()) for r in got[12:16] for _, p, top in r.info["logprobs"])  # drawn


@pytest.mark.parametrize("engine", ["recorded:x", "rules:world"])
def test_an_engine_without_log_probabilities_refuses_them(engine):
    with pytest.raises(StudyError, match="does not tell how likely its tokens were; leave logprobs out"):
        Asked.parse(dict(engine=engine, sampling=dict(logprobs=5)), "teacher")
    with pytest.raises(StudyError, match="logprobs"):
        Sampling.parse(dict(logprobs=21), "sampling")


def test_confidence_stands_in_the_labelling_table_where_log_probabilities_are(tmp_path):
    from distill_study.analyse.results import surety  # here: what stands above is to load without numpy
    from distill_study.study.run import Run, labels_table

    teacher = dict(engine="transformers:zoo/teacher", strategies=["vanilla"], sampling=dict(logprobs=1))
    data = dict(name="tiny-math", train=60, test=10)
    run = Run(teacher, "zoo/student-s", data=data, store=tmp_path, arms=["distilled/vanilla"])
    found, answers = labels_table(run), list(run.labels["vanilla"])
    [area] = [r["confidence"] for r in found.rows]
    right, wrong = ([surety(a) for a in answers if a.correct is kind] for kind in (True, False))
    pairs = [(x > y) + (x == y) / 2 for x in right for y in wrong]
    assert area.value == pytest.approx(sum(pairs) / len(pairs)) and area.low < area.value < area.high
    assert "Confidence" in found.html() and "mean log-probability" in found.sub
    plain = Run("transformers:zoo/teacher", "zoo/student-s", data=data, store=tmp_path, arms=["distilled/vanilla"])
    assert "Confidence" not in labels_table(plain).html()


def test_a_number_format_that_is_set_has_keys_of_its_own(tmp_path):
    "Unset, keys and settings are as ever; a replay finds both kinds by the one note of the weights."
    from distill_study.study.run import engine_for

    q, store = ask("1 + 1 = ?"), Store(tmp_path)
    usual, half = TransformersEngine("zoo/student-s"), open_engine("transformers:zoo/student-s", dtype="bfloat16")
    assert usual.asked(q) == {} and usual.key(q) != half.key(q) and usual.weights == half.weights
    formats = [complete(e, [q], store=store)[0].info["dtype"] for e in (usual, half)]
    assert formats == ["float32", "bfloat16"]
    for cls in (Teacher, Student):
        name = dict(engine="transformers:a") if cls is Teacher else dict(model="a")
        assert (
            cls(**name).model_dump() == cls(**name, dtype=None).model_dump() and "dtype" not in cls(**name).model_dump()
        )
    with pytest.raises(StudyError, match="dtype is for 'transformers:' engines"):
        Teacher.parse(dict(engine="openai:m", dtype="float32"), "teacher")
    settings = [Teacher(engine="transformers:zoo/student-s", dtype=d) for d in (None, "bfloat16")]
    for who in settings:
        engine_for(who, store)
    replay = Store(tmp_path, replay=True)
    kept = [complete(engine_for(who, replay), [q], store=replay)[0] for who in settings]
    assert [r.info["dtype"] for r in kept] == formats
