"""A cascade within a budget: cheap stages see many passages, the dear one few, and a deadline bounds them all.

Needs rerankit[embedded].
"""

from __future__ import annotations

import rerankit
from rerankit.samples import farm

QUESTION = "Wheat wilts early every spring and the root ends are short and thick. What is going on?"
passages = farm.passages()

cascade = rerankit.load("lexical[:60] | dense[:20] | late-interaction")
cascade.rank(QUESTION, passages[:20])  # the models are loaded now, not on the user's time

for seconds in (None, 0.5, 0.001):
    ranking = cascade.rank(QUESTION, passages, top_k=3, deadline_s=seconds)
    print(f"\nbudget {seconds or 'none'}: {ranking.status} in {ranking.usage.seconds:.3f} s {ranking.reason}")
    for stage in ranking.stages:
        print(f"  {stage.model:40.40} {stage.usage.input_tokens:6} tokens")
    for hit in ranking:
        print(f"  {hit.rank} (was {hit.prior_rank:3})  {hit.passage.title}")
