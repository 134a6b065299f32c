"""How to ask a model which of two passages is more relevant.

Places: ``{query}``, ``{first}``, ``{second}``. The first label stands for the first passage.
"""

from __future__ import annotations

from rerankit.models.templates import Template

__all__ = ["TEMPLATES"]

_QUESTION = (
    'Given a query "{query}", which of the following two passages is more relevant to the query?\n\n'
    'Passage A: "{first}"\n\nPassage B: "{second}"\n\n'
)
_PRP = f"{_QUESTION}Output Passage A or Passage B:"

TEMPLATES = (
    Template(
        name="prp",
        source="Qin et al., arXiv:2306.17563, figure 2; the reply is begun as in ielab/llm-rankers",
        user=_PRP,
        reply="Passage",
        labels=("A", "B"),
        thinking=False,
        passage_tokens=512,
    ),
    Template(
        name="prp-letter",
        source="the same question; the letter comes first, for endpoints that do not let the reply be begun",
        user=f'{_QUESTION}Output only the letter of that passage, "A" or "B":',
        labels=("A", "B"),
        thinking=False,
        passage_tokens=512,
    ),
    Template(
        name="prp-reasoning",
        source="Qin et al., arXiv:2306.17563, figure 2; for mode='text' with models that reason before they answer",
        user=_PRP,
        labels=("A", "B"),
        thinking=True,
        max_tokens=4096,
        passage_tokens=512,
    ),
    Template(
        name="duot5",
        source="Pradeep et al., arXiv:2101.05667; wording of castorini/duot5-base-msmarco as in castorini/rank_llm",
        models=("*duot5*",),
        raw="Query: {query} Document0: {first} Document1: {second} Relevant:",
        labels=("true", "false"),
        query_tokens=64,
        passage_tokens=200,
    ),
)
