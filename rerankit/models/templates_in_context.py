"""Prompts of in-context reranking, as data; the first one is for any model with or without a chat template.

``{passages}`` stands for the list, ``{query}`` for the query, ``{bos}`` for what the tokenizer puts before a text by
itself. In ``item``, ``{passage}`` comes last. What lies between the list and the query is read once for all queries.
"""

from __future__ import annotations

from rerankit.models.templates import Template

__all__ = ["INSTRUCTIONS", "TEMPLATES"]

_PAPER = "Chen et al., arXiv:2410.02642, template 'instruct'"

INSTRUCTIONS = {
    "answer": "Please answer the following question based on the information in the paragraphs above.",
    "find": "Please find information that are relevant to the following query in the paragraphs above.",
}
"""The paper's two wordings: for questions, and for topics and claims. The second is printed as it was published."""

_HEAD, _TAIL = "Here are some paragraphs:{passages}", "{instruction}"


def _instruct(name: str, models: tuple[str, ...], before: str, after: str, separator: str, source: str) -> Template:
    body = f"{_HEAD}{separator}{_TAIL}{separator}Query: {{query}}"
    return Template(
        name=name,
        source=source,
        models=models,
        raw=f"{{bos}}{before} {body}{after}",
        item="[{number}] {passage}",
        separator=separator,
        instruction=INSTRUCTIONS["answer"],
    )


TEMPLATES = [
    Template(
        name="chat",
        source=f"{_PAPER}, inside the model's own chat template",
        user=f"{_HEAD}\n\n{_TAIL}\n\nQuery: {{query}}",
        item="[{number}] {passage}",
        separator="\n\n",
        thinking=False,
        instruction=INSTRUCTIONS["answer"],
    ),
    _instruct(
        "llama-3", ("*llama-3*", "*llama3*"), "<|start_header_id|>user<|end_header_id|>",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>", " \n\n", _PAPER,
    ),
    _instruct("mistral", ("*mistral*",), "[INST]", "[/INST]", "\n\n", _PAPER),
    _instruct(
        "qwen2.5", ("*qwen2.5*", "*qwen2-*"), "<|im_start|>user", "<|im_end|>\n<|im_start|>assistant", "\n\n",
        "Wu et al., arXiv:2506.09944 (QRHead), code of the paper",
    ),
    _instruct(
        "qwen3", ("*qwen3*",), "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", " \n\n",
        "arXiv:2602.22591 (Selective-ICR), code of the paper",
    ),
]  # fmt: skip
