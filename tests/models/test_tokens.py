"""Token ids: made once, special tokens inert, memory bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TOKENIZERS, bert_tokenizer

from rerankit.errors import ModelError
from rerankit.models.layout import probe
from rerankit.models.tokens import TokenCache, load_tokenizer, read_json


def test_a_known_text_is_not_tokenised_again():
    cache = TokenCache(bert_tokenizer())
    first = cache.encode(["sow maize", "soil", "sow maize"])
    assert cache.misses == 2
    again = cache.encode(["soil", "sow maize"])
    assert cache.misses == 2
    assert again[0] is first[1]
    assert again[1] is first[0] is first[2]


def test_special_tokens_in_a_text_are_plain_characters():
    cache = TokenCache(bert_tokenizer())
    (tokens,) = cache.encode(["maize [SEP] soil [CLS]"])
    assert cache.tokenizer.token_to_id("[SEP]") not in tokens.ids
    assert cache.tokenizer.token_to_id("[CLS]") not in tokens.ids
    assert len(tokens) > 4


def test_lone_surrogates_keep_the_offsets_of_what_follows():
    (tokens,) = TokenCache(bert_tokenizer()).encode(["\ud800\udfff maize"])
    assert tokens.offsets[-1].tolist() == [3, 8]


def test_the_cache_forgets_the_oldest_texts():
    cache = TokenCache(bert_tokenizer(), capacity=30)
    cache.encode(["maize"])
    cache.encode(["soil water cow " * 3])
    cache.encode(["seed season dry " * 3])
    assert cache.misses == 3
    cache.encode(["seed season dry " * 3])
    assert cache.misses == 3
    cache.encode(["maize"])
    assert cache.misses == 4


def test_a_text_larger_than_the_cache_is_still_encoded():
    cache = TokenCache(bert_tokenizer(), capacity=2)
    assert len(cache.encode(["maize " * 50])[0]) == 50


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(max_size=40))
def test_offsets_lie_inside_the_text(name, text):
    (tokens,) = TokenCache(TOKENIZERS[name]()).encode([text])
    assert tokens.offsets.shape == (len(tokens), 2)
    assert (tokens.offsets >= 0).all()
    assert (tokens.offsets <= len(text)).all()


@pytest.mark.parametrize("name", TOKENIZERS)
@given(query=st.text(max_size=30), passage=st.text(max_size=30))
def test_assembled_pairs_equal_the_tokenizers_own(name, query, passage):
    tokenizer = TOKENIZERS[name]()
    cache = TokenCache(tokenizer)
    layout = probe(tokenizer, pair=True)
    first, second = cache.encode([query, passage])
    head = layout.head(first.ids)
    ids = [*head.ids, *second.ids, *layout.suffix.ids]
    types = [*head.types, *[layout.second_type] * len(second), *layout.suffix.types]
    try:
        expected = tokenizer.encode(query, passage)
    except UnicodeEncodeError:  # hypothesis found a surrogate; the plain tokenizer cannot take it
        return
    assert ids == expected.ids
    assert types == expected.type_ids


@pytest.mark.parametrize("name", TOKENIZERS)
def test_assembled_single_texts_equal_the_tokenizers_own(name):
    tokenizer = TOKENIZERS[name]()
    layout = probe(tokenizer, pair=False)
    (tokens,) = TokenCache(tokenizer).encode(["how deep to sow"])
    assert [*layout.prefix.ids, *tokens.ids, *layout.suffix.ids] == tokenizer.encode("how deep to sow").ids
    assert len(layout.middle.ids) == 0


def test_a_pair_layout_with_the_passage_first_is_refused():
    from tokenizers.processors import TemplateProcessing

    tokenizer = bert_tokenizer()
    tokenizer.post_processor = TemplateProcessing(single="$A", pair="$B [SEP] $A", special_tokens=[("[SEP]", 3)])
    with pytest.raises(ModelError, match="passage before the query"):
        probe(tokenizer, pair=True)


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json is not a tokenizer file"):
        load_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="not valid JSON"):
        read_json(tmp_path / "tokenizer.json")
    assert read_json(tmp_path / "absent.json") == {}


def test_a_folder_without_any_tokenizer_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', "utf-8")
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
