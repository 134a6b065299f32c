"""LocalLM on models that do not take padding, lent beginnings or caches as most do: slower there, never wrong."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tiny_lm
import torch
import transformers

from rerankit.errors import BackendError, InputError, ModelError
from rerankit.models.causal import LocalLM
from rerankit.models.prompt import Data, RawPrompt
from rerankit.rerankers.in_context import InContext
from rerankit.rerankers.pointwise import Pointwise

TOLERANCE = 1e-3


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def save(folder, config_class, model_class, made=None, **settings):
    """A random model of any class of transformers with the byte tokenizer."""
    made = made or tiny_lm.tokenizer()
    config = getattr(transformers, config_class)(
        **{"vocab_size": len(made), "pad_token_id": 1, "eos_token_id": made.eos_token_id, "bos_token_id": 0, **settings}
    )
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    made.pad_token = None
    made.save_pretrained(folder)
    return folder


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
BART = {
    "d_model": 32, "max_position_embeddings": 256, "decoder_layers": 2, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64, "decoder_start_token_id": 0, "is_encoder_decoder": False,
}  # fmt: skip
KINDS = {
    "Bart": ("BartConfig", "BartForCausalLM", BART),
    "MBart": ("MBartConfig", "MBartForCausalLM", BART),
    "Roberta": ("RobertaConfig", "RobertaForCausalLM", {**SMALL, "intermediate_size": 64, "is_decoder": True}),
    "GPTNeo": (
        "GPTNeoConfig", "GPTNeoForCausalLM",
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 256, "window_size": 24,
         "attention_types": [[["global", "local"], 1]]},
    ),
    "Mamba": ("MambaConfig", "MambaForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "Rwkv": (
        "RwkvConfig", "RwkvForCausalLM",
        {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": 256},
    ),
    "RecurrentGemma": (
        "RecurrentGemmaConfig", "RecurrentGemmaForCausalLM",
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8,
         "intermediate_size": 64, "lru_width": 32, "attention_window_size": 64},
    ),
    "OpenAIGPT": (
        "OpenAIGPTConfig", "OpenAIGPTLMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    ),
    "Llama": ("LlamaConfig", "LlamaForCausalLM", {**SMALL, "intermediate_size": 64}),
}  # fmt: skip

BEGINNING = "Given a query how deep to sow maize, which passage is more relevant to it? "
ENDS = ["", "A", "goats browse on shrubs and need a dry shelter", "milk cow " * 5, "B", "Passage B: sow " * 3]
PROMPTS = [RawPrompt((BEGINNING, Data(end), ":")) for end in ENDS]


def truth(lm, prompt):
    """Logits after one prompt, straight from transformers."""
    (ids,) = lm.reader.encode([prompt])
    with torch.inference_mode():
        return lm.model(input_ids=torch.tensor([ids])).logits[0, -1].double()


def labels_alone(lm, prompts):
    tokens = [lm.reader.first_token(label) for label in ("A", "B")]
    return np.array([torch.log_softmax(truth(lm, prompt), -1)[tokens].numpy() for prompt in prompts])


def labels(lm, prompts):
    return np.array(lm.label_logits(prompts, ("A", "B"), variants=False))


def greedy(lm, prompt, count):
    """The tokens that follow when everything is computed anew for each."""
    (ids,) = lm.reader.encode([prompt])
    size = len(ids)
    with torch.inference_mode():
        for _ in range(count):
            ids = [*ids, int(lm.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
            if ids[-1] in lm.end_ids:
                return lm.decode(ids[size:-1])
    return lm.decode(ids[size:])


@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_replies_are_those_of_each_prompt_alone(tmp_path, kind):
    config_class, model_class, settings = KINDS[kind]
    lm = LocalLM(save(tmp_path / kind.lower(), config_class, model_class, **settings), batch_size=3)
    expected = labels_alone(lm, PROMPTS)
    assert np.abs(np.diff(labels(lm, PROMPTS)) - np.diff(expected)).max() < TOLERANCE
    found = [reply.text for reply in lm.generate_many(PROMPTS, max_tokens=6)]
    assert found == [greedy(lm, prompt, 6) for prompt in PROMPTS]


SWITCH = 60
LONGROPE = {
    "max_position_embeddings": 1024,
    "original_max_position_embeddings": SWITCH,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
        "original_max_position_embeddings": SWITCH,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def longrope(tmp_path_factory):
    return LocalLM(tiny_lm.save_lm(tmp_path_factory.mktemp("m") / "phi3", "phi3", **LONGROPE))


def of_length(lm, count, fill="a"):
    words = "cow " if fill == "a" else "hen "
    prompt = RawPrompt((Data(lm.cut(words * count, count)),))
    assert len(lm.reader.encode([prompt])[0]) == count
    return prompt


def test_longrope_prompts_do_not_depend_on_their_company(longrope):
    prompts = [of_length(longrope, n, fill) for n in (17, 69, 70, 20, 60, 61, 59) for fill in "ab"]
    expected = labels_alone(longrope, prompts)
    assert np.abs(np.diff(labels(longrope, prompts)) - np.diff(expected)).max() < TOLERANCE


def test_longrope_replies_that_cross_the_switch(longrope):
    prompts = [of_length(longrope, n, fill) for n in (50, 57, 60, 61) for fill in "ab"]
    found = longrope.generate_many(prompts, max_tokens=8)
    assert [reply.text for reply in found] == [greedy(longrope, prompt, 8) for prompt in prompts]


def test_longrope_lists_are_read_on_one_side_of_the_switch(longrope):
    reranker = InContext(longrope, heads="all", template="chat", query_tokens=6)
    passages = ["sow maize deep", "goats browse", "milk the cow", "wheat rust", "hens", "dry shelter", "calf"]
    sides = set()
    for count in range(1, len(passages) + 1):
        seen = []
        hook = longrope.model.base_model.register_forward_pre_hook(
            lambda _, args, kwargs, seen=seen: seen.append(int(kwargs["position_ids"].max()) + 1), with_kwargs=True
        )
        ranking = reranker.rank("how deep to sow", passages[:count])
        hook.remove()
        assert len(ranking) == count
        for prefix, tail in zip(seen[::2], seen[1::2], strict=True):
            assert (prefix > SWITCH) == (tail > SWITCH)
            sides.add(prefix > SWITCH)
    assert sides


def test_a_head_on_top_of_nothing_is_refused(tmp_path):
    """A tied LlamaModel has every weight that an LM wants, and was not trained as one."""
    config = transformers.LlamaConfig(
        vocab_size=len(tiny_lm.tokenizer()), tie_word_embeddings=True, **SMALL, intermediate_size=64
    )
    transformers.LlamaModel(config).save_pretrained(tmp_path)
    tiny_lm.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="LlamaModel"):
        LocalLM(tmp_path)


def test_weights_that_the_configuration_leaves_out_are_named(tmp_path, caplog):
    folder = tiny_lm.save_lm(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}), "utf-8")
    LocalLM(folder)
    assert "model.layers.1" in caplog.text


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return LocalLM(tiny_lm.save_lm(tmp_path_factory.mktemp("m") / "llama"))


async def test_whatever_is_asked_of_a_closed_model_says_so(tmp_path):
    for lm in (LocalLM(tiny_lm.save_lm(tmp_path / "a")), _seq2seq(tmp_path / "t5")):
        lm.close()
        for ask in (
            lambda lm=lm: lm.generate_many(["x"]),
            lambda lm=lm: lm.label_logprobs(["x"], "AB"),
            lambda lm=lm: lm.label_logits(["x"], "AB"),
            lambda lm=lm: lm.continuation_logprobs(["x"], ["y"]),
        ):
            with pytest.raises(ModelError, match="closed"):
                ask()
        with pytest.raises(ModelError, match="closed"):
            await lm.agenerate_many(["x"])


def _seq2seq(folder):
    from rerankit.models.seq2seq import Seq2SeqLM

    return Seq2SeqLM(tiny_lm.save_seq2seq(folder))


def test_a_reranker_closes_only_the_model_that_it_built(tmp_path):
    folder = tiny_lm.save_lm(tmp_path / "a")
    lm = LocalLM(folder)
    for family in (InContext, Pointwise):
        with family(lm) as reranker:
            reranker.rank("sow", ["maize", "goats"])
        assert lm.label_logprobs(["x"], "AB")
        with family(str(folder)) as own:
            inner = own.lm
        with pytest.raises(ModelError, match="closed"):
            inner.label_logprobs(["x"], "AB")
    reranker = InContext(lm)
    lm.close()
    with pytest.raises(ModelError, match="closed"):
        reranker.rank("sow", ["maize", "goats"])


def test_a_tokenizer_larger_than_the_embedding_spoils_its_own_prompts_only(tmp_path):
    made = tiny_lm.tokenizer()
    folder = save(tmp_path / "m", *KINDS["Llama"][:2], made, **KINDS["Llama"][2], tie_word_embeddings=False)
    made.add_tokens(["<beyond>"])
    made.save_pretrained(folder)
    lm = LocalLM(folder)
    bad = RawPrompt(("a<beyond>",))
    for results in (
        lm.label_logprobs(["x", bad], "AB"),
        lm.generate_many(["x", bad], max_tokens=2),
        lm.continuation_logprobs(["x", bad], ["y", "y"]),
    ):
        assert not isinstance(results[0], BackendError)
        assert isinstance(results[1], BackendError)
        assert "embedding" in str(results[1])


def test_replies_made_of_numbers_that_are_not_finite_are_refused(tmp_path):
    lm = LocalLM(tiny_lm.save_lm(tmp_path / "m"))
    with torch.no_grad():
        lm.model.lm_head.weight[5] = math.nan
    for options in ({}, {"temperature": 1.0, "top_p": 0.9}):
        with pytest.raises(ModelError, match="not finite"):
            lm.generate_many(["x"], max_tokens=3, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
        ({"deadline_s": math.nan}, "deadline_s"),
        ({"deadline_s": -1}, "deadline_s"),
        ({"stop": "end"}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop": 1}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"max_token": 5}, "did you mean 'max_tokens'"),
    ],
)
def test_options_of_a_reply_are_checked(llama, options, message):
    with pytest.raises(InputError, match=message):
        llama.generate_many(["x"], **options)


def test_what_is_no_model_or_prompt_is_refused(llama):
    for wrong in (None, "", " ", 3):
        with pytest.raises(ModelError, match="folder"):
            LocalLM(wrong)
    for wrong in (None, 3, [None]):
        with pytest.raises(InputError, match=r"prompt|message"):
            llama.label_logprobs([wrong], "AB")


def test_the_same_label_twice_is_refused(llama):
    with pytest.raises(InputError, match="twice"):
        llama.label_logprobs(["x"], ["A", " A"])


@pytest.mark.parametrize("kind", ["Mamba", "Rwkv"])
def test_attention_of_models_without_any_is_refused(tmp_path, kind):
    config_class, model_class, settings = KINDS[kind]
    with pytest.raises(ModelError, match="attention"):
        InContext(LocalLM(save(tmp_path / "m", config_class, model_class, **settings)))


def test_attention_that_is_told_nothing_is_refused(tmp_path):
    shape = {**SMALL, "intermediate_size": 64, "num_key_value_heads": 4}
    lm = LocalLM(save(tmp_path / "m", "NemotronConfig", "NemotronForCausalLM", **shape))
    with pytest.raises(ModelError, match="NemotronAttention"):
        InContext(lm, heads="all").rank("sow", ["maize", "goats"])


def test_attention_of_models_whose_positions_start_elsewhere_is_refused(tmp_path):
    lm = LocalLM(save(tmp_path / "m", *KINDS["Roberta"][:2], **KINDS["Roberta"][2]))
    assert not lm.engine.padded
    with pytest.raises(ModelError, match="cannot go on"):
        InContext(lm)


def test_most_models_take_padding(llama, longrope):
    assert llama.engine.padded
    assert longrope.engine.padded
    assert LocalLM(llama.loaded.checkpoint.folder, dtype="bfloat16").engine.padded
