"""RerankitEmbedding: rerankit's vectors, as LlamaIndex asks for them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from llama_index.postprocessor.rerankit import RerankitEmbedding

from rerankit import InputError
from rerankit.models.embedded import embedder

TEXTS = ["Leaf rust on wheat.", "Sheep are shorn.", ""]


@pytest.fixture(scope="module")
def embedding():
    return RerankitEmbedding()


def test_class():
    assert BaseEmbedding.__name__ in [base.__name__ for base in RerankitEmbedding.__mro__]


def test_vectors_are_those_of_the_embedder(embedding):
    expected = embedder().encode(TEXTS)
    batch = embedding.get_text_embedding_batch(TEXTS)
    np.testing.assert_allclose(batch, expected, atol=1e-6)
    np.testing.assert_allclose(embedding.get_text_embedding(TEXTS[0]), expected[0], atol=1e-6)
    np.testing.assert_allclose(embedding.get_query_embedding("rust"), embedder().encode(["rust"], kind="query")[0])
    assert {type(number) for vector in batch for number in vector} == {float}


async def test_async_gives_the_same(embedding):
    assert await embedding.aget_query_embedding("rust") == embedding.get_query_embedding("rust")
    assert await embedding.aget_text_embedding(TEXTS[0]) == embedding.get_text_embedding(TEXTS[0])
    assert await embedding.aget_text_embedding_batch(TEXTS) == embedding.get_text_embedding_batch(TEXTS)


def test_it_embeds_nodes(embedding):
    (node,) = embedding([TextNode(text="Leaf rust on wheat.")])
    assert len(node.embedding) == 384


def test_serialised_and_back(embedding):
    again = RerankitEmbedding.from_json(embedding.to_json())
    assert again.to_dict() == embedding.to_dict()
    assert again.model_name == embedder().model_id
    assert pickle.loads(pickle.dumps(again)).get_query_embedding("rust") == embedding.get_query_embedding("rust")


class Constant:
    model_id, dim = "constant", 2

    def encode(self, texts, *, kind="passage"):
        return np.tile(np.float32([1, 0] if kind == "passage" else [0, 1]), (len(texts), 1))


def test_an_embedder_of_ones_own():
    own = RerankitEmbedding(Constant(), embed_batch_size=2)
    assert own.get_text_embedding_batch(["a", "b", "c"]) == [[1.0, 0.0]] * 3
    assert own.get_query_embedding("a") == [0.0, 1.0]
    with pytest.raises(InputError, match="'constant'"):
        RerankitEmbedding.from_dict(own.to_dict())
    assert RerankitEmbedding(Constant(), model_name="constant").dict() == RerankitEmbedding(Constant()).dict()
