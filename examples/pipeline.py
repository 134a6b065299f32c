"""From your own files to a cited answer, offline. Needs rerankit[embedded,chroma].

python pipeline.py "When are sheep shorn?" notes/ (without arguments: a question to the sample corpus)
"""

from __future__ import annotations

import sys
import tempfile

import rerankit
from rerankit.rag.loading import load
from rerankit.samples import farm

SAMPLE = (
    "The top is powder but there is good moisture at about 10 cm and nothing forecast. "
    "Is there a wheat I can put down there?"
)
question = sys.argv[1] if len(sys.argv) > 1 else SAMPLE
passages = load(sys.argv[2:]).passages if len(sys.argv) > 2 else farm.passages()

with tempfile.TemporaryDirectory() as folder, rerankit.ChromaRetriever(folder) as retriever:
    retriever.index(passages)
    pipeline = rerankit.RagPipeline(retriever, rerankit.load("default"), fetch_k=30, top_k=5)
    result = pipeline.ask(question)

for hit in result.ranking[:5]:
    print(f"{hit.rank:2} (was {hit.prior_rank:2})  {hit.passage.title or hit.id}")
print("\n" + result.answer.text)
for citation in result.answer.citations:
    print(f"[{citation.number}] {citation.passage_id}: {citation.quote}")
