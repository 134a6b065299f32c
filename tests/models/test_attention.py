"""The attention reader against transformers' own attention matrices."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from in_context_models import KINDS, SHAPE, holding, tiny

from rerankit.errors import ModelError
from rerankit.models import attention_rows
from rerankit.models.attention import AttentionReader, Tail
from rerankit.models.attention_rows import Rows, add_attention
from rerankit.models.work import Work

IDS = [int(i) for i in np.random.default_rng(0).integers(3, SHAPE["vocab_size"], 80)]
PREFIX, FIRST, SECOND = IDS[:50], IDS[50:60], IDS[60:67]
COLUMNS = slice(5, 40)
HEADS = [(0, 1), (1, 3), (2, 0), (2, 3)]


def matrices(kind: str, ids: list[int], **settings) -> list[np.ndarray]:
    """Per layer ``[heads, queries, keys]``, by eager attention."""
    model = tiny(kind, "eager", **settings)
    with torch.no_grad():
        return [layer[0].numpy() for layer in model(torch.tensor([ids]), output_attentions=True).attentions]


@pytest.mark.parametrize("kind", KINDS)
def test_every_supported_class_reads_as_its_eager_attention(kind):
    reader = AttentionReader(holding(tiny(kind)), HEADS, per_head=True)
    prefix = reader.read_prefix(PREFIX, COLUMNS, rows=6)
    tails = reader.read_tails(prefix, [Tail(FIRST), Tail(SECOND, 2, 5)])
    one, two = matrices(kind, PREFIX + FIRST), matrices(kind, PREFIX + SECOND)
    for slot, (layer, head) in enumerate(HEADS):
        assert np.allclose(prefix.sums[slot], one[layer][head, 44:50, COLUMNS].sum(0), atol=1e-5)
        assert np.allclose(tails[0, slot], one[layer][head, 50:, COLUMNS].sum(0), atol=1e-5)
        assert np.allclose(tails[1, slot], two[layer][head, 52:55, COLUMNS].sum(0), atol=1e-5)


def test_heads_are_added_up_unless_asked_for_one_by_one():
    lm = holding(tiny("Llama"))
    apart, together = AttentionReader(lm, HEADS, per_head=True), AttentionReader(lm, HEADS)
    one = apart.read_tails(apart.read_prefix(PREFIX, COLUMNS), [Tail(FIRST)])
    sum_ = together.read_tails(together.read_prefix(PREFIX, COLUMNS), [Tail(FIRST)])
    assert one.shape == (1, 4, 35)
    assert np.allclose(one.sum(1), sum_[:, 0], atol=1e-5)


def test_a_tail_does_not_see_the_others_and_the_prefix_is_not_used_up():
    reader = AttentionReader(holding(tiny("Qwen3")), HEADS)
    prefix = reader.read_prefix(PREFIX, COLUMNS)
    together = reader.read_tails(prefix, [Tail(FIRST), Tail(SECOND)])
    alone = [reader.read_tails(prefix, [Tail(ids)])[0] for ids in (FIRST, SECOND)]
    assert np.allclose(together, alone, atol=1e-5)
    assert {layer.get_seq_length() for layer in prefix.cache.layers} == {len(PREFIX)}


@settings(max_examples=40)
@given(
    block=st.integers(1, 300),
    groups=st.integers(1, 3),
    rows=st.integers(1, 6),
    keys=st.integers(6, 40),
    per_head=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_size_of_the_blocks_changes_nothing(block, groups, rows, keys, per_head, seed):
    torch.manual_seed(seed)
    query, key = torch.randn(4, rows, 8), torch.randn(2, keys, 8)
    wanted = Rows((torch.rand(groups, rows) > 0.4).float(), torch.ones(rows, rows).tril().bool(), slice(0, keys - rows))
    slots = [0, 1, 2] if per_head else [0, 0, 0]
    sums = torch.zeros(max(slots) + 1, groups, keys - rows)
    expected = torch.zeros_like(sums)
    mask = torch.cat([torch.ones(rows, keys - rows), torch.ones(rows, rows).tril()], 1).bool()
    for head, slot in zip([0, 1, 3], slots, strict=True):
        logits = (0.7 * query[head] @ key[head // 2].T).masked_fill(~mask, float("-inf"))
        expected[slot] += wanted.weights @ logits.softmax(-1)[:, : keys - rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_rows, "BLOCK", block)
        add_attention(sums, query, key, wanted, [0, 1, 3], slots, 0.7)
    assert torch.allclose(sums, expected, atol=1e-5)


class Counted(torch.nn.Module):
    """Counts how often a module is run."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.runs = inner, 0

    def forward(self, *arguments, **options):
        self.runs += 1
        return self.inner(*arguments, **options)


def test_only_the_layers_that_are_needed_run():
    model = tiny("Llama")
    for layer in model.model.layers:
        layer.mlp = Counted(layer.mlp)
    reader = AttentionReader(holding(model), [(1, 0)])
    reader.read_tails(reader.read_prefix(PREFIX, COLUMNS), [Tail(FIRST)])
    assert [layer.mlp.runs for layer in model.model.layers] == [2, 0, 0, 0]
    assert reader.depth == 2


def test_the_model_is_given_back_as_it_was():
    model = tiny("Llama")
    with torch.no_grad():
        before = model(torch.tensor([PREFIX])).logits
        reader = AttentionReader(holding(model), HEADS)
        reader.read_prefix(PREFIX, COLUMNS)
        after = model(torch.tensor([PREFIX])).logits
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(before, after)


def test_an_error_in_the_model_leaves_it_as_it_was():
    model = tiny("Llama")
    model.model.layers[1].mlp = torch.nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match="shape"):
        AttentionReader(holding(model), HEADS).read_prefix(PREFIX, COLUMNS)
    assert model.config._attn_implementation == "sdpa"


class Full(torch.nn.Module):
    """Memory has run out."""

    def forward(self, *arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_too_little_memory_is_said_with_a_way_out():
    model = tiny("Llama")
    model.model.layers[0].mlp = Full()
    with pytest.raises(ModelError, match=r"together with 50 tokens.*max_tokens"):
        AttentionReader(holding(model), HEADS).read_prefix(PREFIX, COLUMNS)


def test_no_square_of_the_length_is_ever_held():
    model, length = tiny("Llama", num_hidden_layers=2, max_position_embeddings=4096), 3000
    ids = [3 + i % 90 for i in range(length)]
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            nonlocal largest
            result = function(*arguments, **(options or {}))
            for tensor in result if isinstance(result, tuple) else (result,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return result

    reader = AttentionReader(holding(model), [(0, 0), (1, 1)])
    with Watch():
        reader.read_tails(reader.read_prefix(ids, slice(0, 2900), rows=20), [Tail(FIRST), Tail(SECOND)])
    assert length * 20 < largest < length * length / 8


def test_expired_work_gives_nothing():
    reader = AttentionReader(holding(tiny("Llama")), HEADS)
    prefix = reader.read_prefix(PREFIX, COLUMNS)
    late = Work(deadline=0.0)
    assert reader.read_prefix(PREFIX, COLUMNS, work=late) is None
    assert reader.read_tails(prefix, [Tail(FIRST)], work=late) is None
    assert late.meter.forward_passes == 0


def test_work_is_counted():
    reader, work = AttentionReader(holding(tiny("Llama")), HEADS), Work()
    reader.read_tails(reader.read_prefix(PREFIX, COLUMNS, work=work), [Tail(FIRST), Tail(SECOND)], work=work)
    assert (work.meter.forward_passes, work.meter.input_tokens) == (2, 67)


def test_threads_take_turns():
    reader = AttentionReader(holding(tiny("Llama")), HEADS)
    alone = [reader.read_prefix(IDS[i : i + 40], slice(0, 30), rows=5).sums for i in range(8)]
    found: dict[int, np.ndarray] = {}

    def read(i: int) -> None:
        found[i] = reader.read_prefix(IDS[i : i + 40], slice(0, 30), rows=5).sums

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.allclose(found[i], alone[i], atol=1e-6) for i in range(8))


@pytest.mark.parametrize("heads", [[(4, 0)], [(0, 4)], [(-1, 0)], []])
def test_heads_that_do_not_exist_are_refused(heads):
    with pytest.raises(ModelError, match=r"4 layers of 4 heads"):
        AttentionReader(holding(tiny("Llama")), heads)


def test_a_window_shorter_than_the_prompt_is_refused_and_a_longer_one_is_not():
    lm = holding(tiny("Mistral", sliding_window=55))
    reader = AttentionReader(lm, HEADS)
    prefix = reader.read_prefix(PREFIX, COLUMNS)
    with pytest.raises(ModelError, match="last 55 tokens only"):
        reader.read_tails(prefix, [Tail(FIRST)])
    plain = AttentionReader(holding(tiny("Mistral")), HEADS)
    assert np.allclose(
        reader.read_tails(prefix, [Tail(FIRST[:5])]),
        plain.read_tails(plain.read_prefix(PREFIX, COLUMNS), [Tail(FIRST[:5])]),
        atol=1e-5,
    )


def test_a_window_above_the_layers_that_are_read_does_not_matter():
    kinds = ["full_attention", "full_attention", "full_attention", "sliding_attention"]
    model = tiny("Qwen2", use_sliding_window=True, sliding_window=8, layer_types=kinds)
    AttentionReader(holding(model), [(2, 0)]).read_prefix(PREFIX, COLUMNS)
    with pytest.raises(ModelError, match="sliding window"):
        AttentionReader(holding(model), [(3, 0)]).read_prefix(PREFIX, COLUMNS)


def test_hybrid_models_are_refused():
    model = tiny("Llama")
    model.config.layer_types = ["linear_attention", *["full_attention"] * 3]
    with pytest.raises(ModelError, match="'linear_attention'"):
        AttentionReader(holding(model), HEADS)


def test_capped_logits_are_refused():
    gemma = transformers.Gemma2Config(**{**SHAPE, "sliding_window": 512, "head_dim": 16})
    model = transformers.Gemma2ForCausalLM._from_config(gemma, attn_implementation="eager")
    with pytest.raises(ModelError, match="caps its attention logits"):
        AttentionReader(holding(model), HEADS)
