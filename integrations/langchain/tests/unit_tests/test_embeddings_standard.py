"""LangChain's standard tests for embeddings."""

from __future__ import annotations

import numpy as np
from langchain_rerankit import RerankitEmbeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from rerankit.models.embedded import embedder


class TestUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return RerankitEmbeddings


class TestIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return RerankitEmbeddings


def test_vectors_are_those_of_the_embedder():
    texts = ["Leaf rust on wheat.", ""]
    vectors = RerankitEmbeddings().embed_documents(texts)
    np.testing.assert_allclose(vectors, embedder().encode(texts), atol=1e-6)
    assert {type(number) for vector in vectors for number in vector} == {float}
    question = embedder().encode(["rust"], kind="query")[0]
    np.testing.assert_allclose(RerankitEmbeddings().embed_query("rust"), question, atol=1e-6)


class Constant:
    model_id, dim = "constant", 2

    def encode(self, texts, *, kind="passage"):
        return np.tile(np.float32([1, 0] if kind == "passage" else [0, 1]), (len(texts), 1))


def test_an_embedder_of_ones_own():
    own = RerankitEmbeddings(Constant())
    assert own.embed_documents(["a", "b"]) == [[1.0, 0.0]] * 2
    assert own.embed_query("a") == [0.0, 1.0]
