"""LocalLM: its answers do not depend on batch, order, padding or reuse; forwards are bounded; work can be stopped."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_lm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit.errors import BackendError, InputError, ModelError
from rerankit.models.causal import LocalLM
from rerankit.models.language import LanguageModel, language_model
from rerankit.models.prompt import ChatPrompt, Data, Message, RawPrompt
from rerankit.models.work import Work

TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """One tiny model per architecture."""
    folder = tmp_path_factory.mktemp("models")
    return {name: tiny_lm.save_lm(folder / name, name) for name in tiny_lm.ARCHITECTURES}


@pytest.fixture(scope="session")
def llama(models):
    return LocalLM(models["llama"])


def comparison(a: str, b: str, query: str = "how deep to sow maize") -> ChatPrompt:
    words = (
        "Given a query ",
        Data(query),
        ", which is better? Passage A: ",
        Data(a),
        "\nPassage B: ",
        Data(b),
        "\nA or B:",
    )
    return ChatPrompt((Message("user", words),), "Passage")


PASSAGES = ["sow maize five centimetres deep " * 3, "goats browse on shrubs", "", "milk the cow", "wheat rust " * 12]
PAIRS = [comparison(a, b) for a, b in itertools.permutations(PASSAGES, 2)]


def alone(lm, prompt, labels):
    """The labels' log-probabilities straight from transformers, one prompt without cache or padding."""
    ids = torch.tensor([lm.reader.encode([prompt])[0]])
    with torch.inference_mode():
        logprobs = torch.log_softmax(lm.model(input_ids=ids).logits[0, -1].double(), -1)
    tokens = [[lm.reader.first_token(form + label) for form in ("", " ")] for label in labels]
    return np.array([torch.logsumexp(logprobs[sorted(set(ids))], 0).item() for ids in tokens])


def logprobs(lm, prompts, labels=("A", "B"), **options):
    return np.array([scores.logprobs for scores in lm.label_logprobs(prompts, labels, **options)])


@pytest.mark.parametrize("architecture", tiny_lm.ARCHITECTURES)
def test_label_logprobs_are_those_of_each_prompt_alone(models, architecture):
    whole = LocalLM(models[architecture])
    truth = np.array([alone(whole, prompt, "AB") for prompt in PAIRS])
    for size in (1, 3, 8, 40):
        lm, work = LocalLM(models[architecture], batch_size=size), Work()
        assert np.abs(logprobs(lm, PAIRS, work=work) - truth).max() < TOLERANCE
        assert work.meter.forward_passes == math.ceil(len(PAIRS) / size)
        assert work.meter.llm_calls == len(PAIRS)
        total = sum(map(len, lm.reader.encode(PAIRS)))
        reused = lm.engine.reach != 0 and 1 < size < len(PAIRS)
        assert (work.meter.input_tokens < 0.8 * total) if reused else (work.meter.input_tokens <= total)


texts = st.text("ab the\n", max_size=40).map(lambda text: text * 3)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
@settings(max_examples=15)
@given(passages=st.lists(texts, min_size=1, max_size=4), rows=st.integers(1, 9), seed=st.integers(0, 99))
def test_scores_do_not_depend_on_company_or_order(models, architecture, passages, rows, seed):
    lm = _cached(models[architecture], rows)
    prompts = [comparison(a, b) for a in passages for b in passages] + ["a", RawPrompt(("x", Data("y")))]
    truth = np.array([alone(lm, prompt, "AB") for prompt in prompts])
    order = np.random.default_rng(seed).permutation(len(prompts))
    work = Work()
    mixed = logprobs(lm, [prompts[i] for i in order], work=work)
    assert np.abs(mixed - truth[order]).max() < TOLERANCE
    assert work.meter.forward_passes <= math.ceil(len(prompts) / rows)


_known: dict[tuple[Path, int], LocalLM] = {}


def _cached(folder, rows):
    return _known.setdefault((folder, rows), LocalLM(folder, batch_size=rows))


@pytest.mark.parametrize("window", [40, 300])
@pytest.mark.parametrize("architecture", ["mistral", "gemma2"])
def test_a_sliding_window_is_respected(tmp_path, architecture, window):
    lm = LocalLM(tiny_lm.save_lm(tmp_path / "m", architecture, sliding_window=window), batch_size=4)
    work = Work()
    truth = np.array([alone(lm, prompt, "AB") for prompt in PAIRS])
    assert np.abs(logprobs(lm, PAIRS, work=work) - truth).max() < TOLERANCE
    total = sum(map(len, lm.reader.encode(PAIRS)))
    assert (work.meter.input_tokens < total) == (window == 300)
    long = lm.generate_many(PAIRS[:3], max_tokens=40)
    assert [reply.text for reply in long] == [greedy(lm, prompt, 40) for prompt in PAIRS[:3]]


def test_380_comparisons_take_no_more_forwards_than_batches(llama, models):
    passages = [f"{i} goats browse on {'dry ' * (i % 7)}shrubs" for i in range(20)]
    prompts = [comparison(a, b) for a, b in itertools.permutations(passages, 2)]
    assert len(prompts) == 380
    for size in (7, 64, 379, 380):
        work = Work()
        _cached(models["llama"], size).label_logprobs(prompts, "AB", work=work)
        assert work.meter.forward_passes <= math.ceil(380 / size)


def test_logits_of_labels_differ_as_their_logprobs_do_without_the_vocabulary(models):
    for architecture in ("llama", "granite", "gemma2", "gpt2"):  # scaled, soft-capped and tied heads among them
        lm = LocalLM(models[architecture])
        widths = []
        lm.model.register_forward_hook(lambda *args, widths=widths: widths.append(args[2].logits.shape[-1]))
        logits = np.array(lm.label_logits(PAIRS, ("A", "B")))
        assert max(widths) == 4
        assert np.abs(np.diff(logits) - np.diff(logprobs(lm, PAIRS))).max() < TOLERANCE
        ids = torch.tensor([lm.reader.encode(PAIRS[:1])[0]])
        with torch.inference_mode():
            own = lm.model(input_ids=ids).logits[0, -1, lm.reader.first_token("A")].item()
        assert lm.label_logits(PAIRS[:1], ["A"], variants=False)[0][0] == pytest.approx(own, abs=TOLERANCE)


def test_continuations_have_the_likelihood_of_the_joint_text(llama):
    after = ["how deep", "milk", "A", "how deep to sow maize and wheat"] * 5
    found = llama.continuation_logprobs(PAIRS, after)
    for prompt, text, (logprob, tokens) in zip(PAIRS, after, found, strict=True):
        start, more = llama.reader.encode([prompt])[0], llama.reader.continuation([Data(text)])
        with torch.inference_mode():
            scores = torch.log_softmax(llama.model(input_ids=torch.tensor([start + more])).logits[0].double(), -1)
        truth = sum(scores[len(start) - 1 + i, token].item() for i, token in enumerate(more))
        assert logprob == pytest.approx(truth, abs=TOLERANCE)
        assert tokens == len(more)


def greedy(lm, prompt, tokens):
    """What transformers' own generation says."""
    ids = torch.tensor([lm.reader.encode([prompt])[0]])
    output = lm.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
    )
    return lm.decode(output[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3"])
def test_replies_are_those_of_transformers(models, architecture):
    lm, work = LocalLM(models[architecture], batch_size=4), Work()
    prompts = [comparison(a, b, query) for query in ("sow", "milk") for a, b in itertools.pairwise(PASSAGES)]
    replies = lm.generate_many(prompts, max_tokens=12, work=work)
    assert [reply.text for reply in replies] == [greedy(lm, prompt, 12) for prompt in prompts]
    assert work.meter.output_tokens == sum(reply.output_tokens for reply in replies)
    assert [reply.input_tokens for reply in replies] == list(map(len, lm.reader.encode(prompts)))


def test_a_reply_ends_at_a_stop_text_the_end_token_or_the_limit(llama):
    (whole,) = llama.generate_many(PAIRS[:1], max_tokens=12)
    assert (whole.finish_reason, whole.output_tokens) == ("length", 12)
    stop = whole.text[5:9]
    (cut,) = llama.generate_many(PAIRS[:1], max_tokens=12, stop=[stop, "never"])
    assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
    (ids,) = llama.reader.encode(PAIRS[:1])
    ended = LocalLM.__new__(LocalLM)
    ended.__dict__.update(
        llama.__dict__, end_ids=frozenset({llama.model(torch.tensor([ids])).logits[0, -1].argmax().item()})
    )
    (reply,) = ended.generate_many(PAIRS[:1], max_tokens=12)
    assert (reply.text, reply.finish_reason, reply.output_tokens) == ("", "stop", 1)


def test_sampling_repeats_with_a_seed_whatever_the_batch(models):
    options = {"max_tokens": 8, "temperature": 1.5, "top_p": 0.9}
    one, many = _cached(models["llama"], 1), _cached(models["llama"], 7)
    first = many.generate_many(PAIRS, seed=3, **options)
    assert first == one.generate_many(PAIRS, seed=3, **options)
    assert first != many.generate_many(PAIRS, seed=4, **options)
    assert many.generate_many(PAIRS[:3], max_tokens=4, temperature=1.0, top_p=1e-9) == many.generate_many(
        PAIRS[:3], max_tokens=4
    )


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 1.5}])
def test_impossible_options_are_refused(llama, options):
    with pytest.raises(InputError, match=next(iter(options))):
        llama.generate_many(["x"], **options)


def test_what_does_not_fit_the_context_fails_alone(llama):
    long = comparison("goats " * 600, "x")
    for results, word in (
        (llama.label_logprobs([PAIRS[0], long], "AB"), "512"),
        (llama.generate_many([PAIRS[0], long], max_tokens=2), "512"),
        (llama.continuation_logprobs([PAIRS[0], long], ["a", "b"]), "512"),
        (llama.label_logits([PAIRS[0], RawPrompt(())], "AB"), "empty"),
    ):
        assert not isinstance(results[0], BackendError)
        assert isinstance(results[1], BackendError)
        assert word in str(results[1])


def test_nothing_is_asked_after_the_deadline(llama, models):
    over = Work(deadline=time.monotonic() - 1)
    assert llama.label_logprobs(PAIRS, "AB", work=over) == [None] * len(PAIRS)
    assert llama.generate_many(PAIRS, work=over) == [None] * len(PAIRS)
    assert over.meter.llm_calls == over.meter.forward_passes == 0
    assert llama.label_logprobs([], "AB") == llama.generate_many([]) == []


def test_cancelling_keeps_what_is_done(models):
    lm, work = LocalLM(models["llama"], batch_size=4), Work()
    hook = lm.model.register_forward_hook(lambda *_: work.cancelled.set())
    scores = lm.label_logprobs(PAIRS, "AB", work=work)
    assert sum(score is not None for score in scores) == work.meter.llm_calls == 4
    hook.remove()
    (reply,) = lm.generate_many(PAIRS[:1], max_tokens=50, deadline_s=1e-9)
    assert (reply.finish_reason, reply.output_tokens) == ("deadline", 1)


def test_memory_that_does_not_suffice_halves_the_batch(models):
    lm, sizes = LocalLM(models["llama"], batch_size=8), []

    def full(_, args, kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if len(kwargs["input_ids"]) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = lm.model.register_forward_pre_hook(full, with_kwargs=True)
    truth = np.array([alone(lm, prompt, "AB") for prompt in PAIRS])
    assert np.abs(logprobs(lm, PAIRS) - truth).max() < TOLERANCE
    assert max(sizes) == 8
    hook.remove()

    def none(_, args, kwargs):
        raise RuntimeError("can't allocate memory")

    lm.model.register_forward_pre_hook(none, with_kwargs=True)
    with pytest.raises(ModelError, match="one prompt of"):
        lm.label_logprobs(PAIRS, "AB")


def saved(tmp_path, kind):
    return tiny_lm.save_seq2seq(tmp_path / kind, kind) if kind == "t5" else tiny_lm.save_lm(tmp_path / kind, kind)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_rows_of_a_batch_leave_memory_for_their_replies(tmp_path, kind):
    folder, rows = saved(tmp_path, kind), []
    for lm in (language_model(str(folder)), language_model(str(folder), batch_size=60)):
        lm.model.register_forward_pre_hook(
            lambda _, args, kwargs: rows.append(len(kwargs["attention_mask"])), with_kwargs=True
        )
        lm.generate_many([f"milk {i}" for i in range(60)], max_tokens=2000, deadline_s=1e-9)
    *bounded, own = rows
    assert sum(bounded) == own == 60  # a batch size of the user's own stays
    assert 1 < max(bounded) <= 8  # 16384 tokens of keys and values


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_replies_that_outgrow_the_memory_say_what_to_lower(tmp_path, kind):
    lm, calls = language_model(str(saved(tmp_path, kind))), []
    lm.end_ids = frozenset()

    def full(_, args, kwargs):
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    lm.model.register_forward_pre_hook(full, with_kwargs=True)
    with pytest.raises(ModelError, match="max_tokens, batch_tokens"):
        lm.generate_many(["milk"] * 4, max_tokens=20)


def test_numbers_that_are_not_finite_are_refused(models):
    lm = LocalLM(models["llama"])
    with torch.no_grad():
        lm.model.lm_head.weight[lm.reader.first_token("A")] = math.nan
    for ask in (lm.label_logprobs, lm.label_logits):
        with pytest.raises(ModelError, match="not finite"):
            ask(PAIRS[:2], "AB")


async def test_async_callers_and_threads_share_one_model(llama):
    truth = logprobs(llama, PAIRS)
    replies = llama.generate_many(PAIRS, max_tokens=4)
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(logprobs(llama, PAIRS))) for _ in range(3)]
    logits = threading.Thread(target=lambda: llama.label_logits(PAIRS, "AB"))
    for thread in [*threads, logits]:
        thread.start()
    scores, again = await asyncio.gather(llama.alabel_logprobs(PAIRS, "AB"), llama.agenerate_many(PAIRS, max_tokens=4))
    for thread in [*threads, logits]:
        thread.join()
    assert all(np.abs(one - truth).max() < TOLERANCE for one in found)
    assert np.abs(np.array([score.logprobs for score in scores]) - truth).max() < TOLERANCE
    assert again == replies


async def test_cancelling_an_async_call_stops_the_work(models):
    lm, work, started = LocalLM(models["llama"], batch_size=1), Work(), threading.Event()
    lm.model.register_forward_hook(lambda *_: (started.set(), work.cancelled.wait(10)))
    task = asyncio.create_task(lm.alabel_logprobs(PAIRS, "AB", work=work))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    lm.close()
    assert work.meter.forward_passes == 1


def test_a_closed_model_says_so(models):
    lm = LocalLM(models["llama"])
    lm.close()
    with pytest.raises(ModelError, match="closed"):
        lm.label_logprobs(["x"], "AB")


def test_identity(models, tmp_path):
    lm = language_model(str(models["llama"]), dtype="bfloat16")
    assert isinstance(lm, LanguageModel)
    assert isinstance(lm, LocalLM)
    assert lm.model_id.startswith("llama@")
    assert lm.model_id.endswith(":bfloat16")
    assert lm.context == 512
    full = LocalLM(models["llama"])
    other = LocalLM(
        tiny_lm.save_lm(tmp_path / "llama", made=tiny_lm.tokenizer(template="{{ messages[0]['content'] }}"))
    )
    assert other.model_id == full.model_id  # the same weights
    assert len({lm.fingerprint, full.fingerprint, other.fingerprint}) == 3
    assert np.abs(logprobs(lm, PAIRS[:4]) - logprobs(full, PAIRS[:4])).max() < 0.5


def test_sharded_and_tied_weights_load(models, tmp_path):
    lm = LocalLM(models["gpt2"])  # tied
    folder = tmp_path / "sharded"
    lm.model.save_pretrained(folder, max_shard_size="20KB")
    lm.tokenizer.save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").is_file()
    assert np.abs(logprobs(LocalLM(folder), PAIRS) - logprobs(lm, PAIRS)).max() < TOLERANCE


def test_what_cannot_be_a_judge_is_refused(models, tmp_path):
    from tiny_models import save_cross_encoder
    from transformers import AutoModel

    with pytest.raises(ModelError, match="masked language model"):
        LocalLM(save_cross_encoder(tmp_path / "bert"))
    headless = tmp_path / "headless"
    AutoModel.from_pretrained(models["llama"]).save_pretrained(headless)
    tiny_lm.tokenizer().save_pretrained(headless)
    with pytest.raises(ModelError, match="saved as LlamaModel"):
        LocalLM(headless)
    config = json.loads((headless / "config.json").read_text("utf-8"))
    (headless / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}), "utf-8")
    with pytest.raises(ModelError, match=r"lm_head"):
        LocalLM(headless)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((models["llama"] / "config.json").read_text("utf-8"), "utf-8")
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        LocalLM(pickled)
    config = json.loads((models["llama"] / "config.json").read_text("utf-8"))
    own_code = tmp_path / "own"
    tiny_lm.save_lm(own_code)
    config |= {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "code.Model", "AutoConfig": "code.Config"}}
    (own_code / "config.json").write_text(json.dumps(config), "utf-8")
    (own_code / "code.py").write_text("raise SystemExit('ran')", "utf-8")
    with pytest.raises(ModelError, match="cannot be loaded"):
        LocalLM(own_code)
    with pytest.raises(InputError, match="batch_size"):
        LocalLM(models["llama"], batch_size=0)


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_encoder_decoders_do_the_same(tmp_path, architecture):
    folder = tiny_lm.save_seq2seq(tmp_path / architecture, architecture)
    lm, work = language_model(str(folder), batch_size=4), Work()
    one = language_model(str(folder), batch_size=1)
    assert type(lm).__name__ == "Seq2SeqLM"
    prompts = [*PAIRS[:9], RawPrompt(("Query: sow Document: ", Data("deep </s> wheat"), " Relevant:"))]
    scores = logprobs(lm, prompts, work=work)
    for prompt, score in zip(prompts, scores, strict=True):
        (entry,) = lm.engine.entries(lm.reader, [prompt])
        ids, reply = torch.tensor([entry.prompt]), torch.tensor([entry.reply])
        assert entry.prompt.count(lm.tokenizer.eos_token_id) == 1
        with torch.inference_mode():
            truth = torch.log_softmax(lm.model(input_ids=ids, decoder_input_ids=reply).logits[0, -1].double(), -1)
            spoken = lm.model.generate(ids, decoder_input_ids=reply, max_new_tokens=6, do_sample=False, num_beams=1)
        tokens = [lm.reader.first_token(label) for label in "AB"]
        assert np.abs(score - truth[tokens].numpy()).max() < TOLERANCE
        (said,) = one.generate_many([prompt], max_tokens=6)
        assert said.text == lm.decode(spoken[0, reply.shape[1] :].tolist())
    assert work.meter.forward_passes == 4  # two lengths of decoder input: 9 and 1 prompts
    assert lm.generate_many(prompts, max_tokens=6) == one.generate_many(prompts, max_tokens=6)
    assert np.abs(np.diff(np.array(lm.label_logits(prompts, "AB"))) - np.diff(scores)).max() < TOLERANCE
    many, single = (m.continuation_logprobs(prompts, ["sow deep"] * 10) for m in (lm, one))
    assert np.abs(np.array(many) - np.array(single)).max() < TOLERANCE
    with pytest.raises(ModelError, match="Seq2SeqLM"):
        LocalLM(folder)
