"""Turn raw scores into probabilities, and keep only what is probably relevant. Needs rerankit[embedded,calibration]."""

from __future__ import annotations

import rerankit
from rerankit.samples import farm

reranker = rerankit.load("lexical")
passages, questions = farm.passages(), farm.questions()[:60]
rankings = reranker.rank_many([(question.text, passages) for question in questions])
qrels = {question.text: farm.qrels().get(question.id, {}) for question in questions}

calibrator = rerankit.Calibrator.fit_rankings(rankings, qrels, reranker=reranker, relevant_from=2)
print("held out:", calibrator.cross_validated)

sure = rerankit.load("lexical", calibrator=calibrator)
threshold = calibrator.threshold(precision=0.5)
for question in questions[:3]:
    ranking = sure.rank(question.text, passages).above(threshold)
    print(f"\n{question.text}")
    for hit in ranking[:3]:
        print(f"  {hit.probability:.2f}  {hit.passage.title}")
