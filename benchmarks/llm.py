"""380 ordered comparisons of 20 passages by a language model, side by side: ``python benchmarks/llm.py``.

    python benchmarks/llm.py                          # tiny and medium model on the CPU; real shapes too where CUDA is
    python benchmarks/llm.py --models tiny --rounds 3

One generated reply per comparison, the way published implementations of pairwise ranking prompting work, against
``LocalLM.label_logprobs``: all comparisons in one call, label log-probabilities, shared beginnings computed once. The
models are made on the fly: random weights, except that the output layer knows two words, A and B, so that every reply
is one of them and decisions can be counted. Each round runs all contestants; medians are printed. Two threads on a
CPU; seconds are those of the clock, so run it on a quiet machine.

Rows: ``reply`` generates 3 tokens (as many as "Passage A" and its end), one comparison at a time; ``one token`` only
one, which is all that a prompt ending in "Passage" needs; ``labels, no reuse`` batches, but computes every prompt
whole; ``labels`` is rerankit as it comes; ``labels, batch of 64`` also shows the bound on forward passes.
``decisions`` counts comparisons decided as in the row ``reply``; ``tokens`` are those really computed, less padding.
The tiny model reads passages of one sentence, so that calls and not arithmetic dominate, as they do on a GPU; the
others read 9 (``--sentences`` overrules both). On a CPU the medium model is bound by arithmetic: there the ratio comes
near that of the tokens.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from encoder_model import TOPICS, passage, question

from rerankit.models.causal_batches import Limits
from rerankit.models.causal_engine import CausalEngine
from rerankit.models.causal_load import Loaded
from rerankit.models.causal_tokens import PromptReader
from rerankit.models.checkpoint import Checkpoint
from rerankit.models.local import LocalModel
from rerankit.models.prompt import ChatPrompt, Data, Message, fill
from rerankit.models.work import Work

TEMPLATE = (
    'Given a query "{query}", which of the following two passages is more relevant to the query?\n\n'
    'Passage A: "{a}"\n\nPassage B: "{b}"\n\nOutput Passage A or Passage B:'
)
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LABELS = ("A", "B")
REPLY_TOKENS = 3
BAR = 10.0


@dataclass(frozen=True)
class Shape:
    """A model's dimensions (real ones are those of the named checkpoints), and how long its passages are."""

    kind: str
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    dtype: str = "float32"
    device: str = "cpu"
    sentences: int = 9


SHAPES = {
    "tiny": Shape("Llama", 4, 64, 256, 4, 2, 16, 2000, sentences=1),
    "medium": Shape("Llama", 8, 512, 1408, 8, 4, 64, 2000),
    "qwen3-0.6b": Shape("Qwen3", 28, 1024, 3072, 16, 8, 128, 151_936, "bfloat16", "cuda"),
    "llama-3.1-8b": Shape("Llama", 32, 4096, 14_336, 32, 8, 128, 128_256, "bfloat16", "cuda"),
}

Decisions = list[str]
Prompts = list[ChatPrompt]


@dataclass(frozen=True)
class Run:
    """What one contestant did in one round."""

    decisions: Decisions
    forwards: int
    tokens: int
    seconds: float


def tokenizer(texts: Sequence[str]) -> Any:
    """A byte-level tokenizer of 2,000 pieces, trained on the benchmark's own texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000 - len(special), special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([*texts, TEMPLATE], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = CHAT
    return made


def build(shape: Shape, made: Any, prompts: Prompts) -> LocalModel:
    """A model with random weights whose every reply is A or B."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{shape.kind}Config")(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=4096, initializer_range=shape.width**-0.5,
        tie_word_embeddings=False, eos_token_id=made.eos_token_id, pad_token_id=made.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    with torch.device(shape.device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.dtype)).eval()
    loaded = Loaded(model, made, Checkpoint(Path("-"), shape.kind, ()), shape.dtype)
    lm = LocalModel(loaded, CausalEngine(model, loaded.pad_id, Limits()), PromptReader(made, shape.kind))
    decide(model, lm, prompts[:: max(1, len(prompts) // 16)])
    return lm


def decide(model: Any, lm: LocalModel, prompts: Prompts) -> None:
    """An output layer that reads one direction of the last state: A on one side, B on the other, about half each."""
    import torch

    with torch.inference_mode():
        rows = [torch.tensor([ids], device=model.device) for ids in lm.reader.encode(prompts)]
        states = torch.cat([model.model(input_ids=ids).last_hidden_state[:, -1].float() for ids in rows])
    centre = states.mean(0)
    direction = torch.linalg.svd(states - centre, full_matrices=False)[2][0]
    direction = direction - (direction @ centre) / (centre @ centre) * centre
    with torch.no_grad():
        model.lm_head.weight.zero_()
        for label, sign in zip(LABELS, (1, -1), strict=True):
            for form in (label, f" {label}"):
                token = lm.reader.continuation([form])[0]
                model.lm_head.weight[token] = (sign * direction).to(model.dtype)


def comparisons(count: int, sentences: int) -> tuple[list[str], Prompts]:
    """Passages of so many sentences (about 16 tokens each), and a prompt per ordered pair."""
    rng = np.random.default_rng(0)
    topics = list(TOPICS)
    texts = [passage(rng, topics[i % len(topics)], 0.8, sentences) for i in range(count)]
    asked = Data(question(rng, topics[0]))
    pairs = itertools.permutations(texts, 2)
    parts = [fill(TEMPLATE, {"query": asked, "a": Data(a), "b": Data(b)}) for a, b in pairs]
    return texts, [ChatPrompt((Message("user", part),), "Passage") for part in parts]


def generated(tokens: int) -> Callable[[LocalModel, Prompts], Run]:
    """One reply of so many tokens per comparison, by transformers' own ``generate``."""

    def run(lm: LocalModel, prompts: Prompts) -> Run:
        import torch

        started, decisions, read = time.perf_counter(), [], 0
        for prompt in prompts:
            turns = [{"role": message.role, "content": message.text} for message in prompt.messages]
            text = lm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) + prompt.reply
            inputs = lm.tokenizer(text, return_tensors="pt", add_special_tokens=False).to(lm.model.device)
            inputs.pop("token_type_ids", None)
            with torch.inference_mode():
                output = lm.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
            size = inputs["input_ids"].shape[1]
            reply = lm.tokenizer.decode(output[0, size:], skip_special_tokens=True)
            decisions.append(reply.strip()[:1])
            read += size + tokens - 1
        return Run(decisions, len(prompts) * tokens, read, time.perf_counter() - started)

    return run


def labelled(*, reuse: bool = True, rows: int | None = None) -> Callable[[LocalModel, Prompts], Run]:
    """All comparisons in one call of ``label_logprobs``."""

    def run(lm: LocalModel, prompts: Prompts) -> Run:
        lm.engine.limits, lm.engine.reach = (Limits(rows=rows) if rows else fitting(lm)), None if reuse else 0
        work, started = Work(), time.perf_counter()
        scores = lm.label_logprobs(prompts, LABELS, work=work)
        spent = time.perf_counter() - started
        decisions = [LABELS[int(score.logprobs.argmax())] for score in scores]
        return Run(decisions, work.meter.forward_passes, work.meter.input_tokens, spent)

    return run


def fitting(lm: LocalModel) -> Limits:
    return CausalEngine(lm.model, lm.loaded.pad_id, Limits()).limits


CONTESTANTS: dict[str, Callable[[LocalModel, Prompts], Run]] = {
    "reply": generated(REPLY_TOKENS),
    "one token": generated(1),
    "labels, no reuse": labelled(reuse=False),
    "labels": labelled(),
    "labels, batch of 64": labelled(rows=64),
}


def measure(lm: LocalModel, prompts: Prompts, rounds: int) -> dict[str, Run]:
    """The median round of each contestant."""
    runs: dict[str, list[Run]] = {name: [] for name in CONTESTANTS}
    for contestant in CONTESTANTS.values():
        contestant(lm, prompts[:8])  # warm up
    for _ in range(rounds):
        for name, contestant in CONTESTANTS.items():
            runs[name].append(contestant(lm, prompts))
    return {name: sorted(done, key=lambda run: run.seconds)[len(done) // 2] for name, done in runs.items()}


def report(runs: dict[str, Run]) -> Iterator[str]:
    first = runs["reply"]
    yield f"{'':22}{'seconds':>9}{'forwards':>10}{'tokens':>10}{'ratio':>8}{'decisions':>12}"
    for name, run in runs.items():
        same = sum(a == b for a, b in zip(run.decisions, first.decisions, strict=True))
        decided = f"{same}/{len(first.decisions)}"
        ratio = first.seconds / run.seconds
        yield f"{name:22}{run.seconds:9.2f}{run.forwards:10}{run.tokens:10,}{ratio:7.1f}x{decided:>12}"


def main() -> None:
    import torch
    import transformers

    usable = [name for name, shape in SHAPES.items() if shape.device == "cpu" or torch.cuda.is_available()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(usable), help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--passages", type=int, default=20)
    parser.add_argument("--sentences", type=int, help="per passage")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    made = tokenizer(comparisons(100, SHAPES["medium"].sentences)[0])
    for name in given.models.split(","):
        if name not in usable:
            print(f"\n{name}: needs CUDA, which is not here")
            continue
        _, prompts = comparisons(given.passages, given.sentences or SHAPES[name].sentences)
        lm = build(SHAPES[name], made, prompts)
        size = sum(weights.numel() for weights in lm.model.parameters()) / 1e6
        length = statistics.mean(map(len, lm.reader.encode(prompts)))
        print(f"\n{name}: {size:,.1f} M parameters, {len(prompts)} comparisons of {length:.0f} tokens on average")
        runs = measure(lm, prompts, given.rounds)
        print("\n".join(report(runs)))
        share = runs["reply"].decisions.count("A") / len(prompts)
        print(f"A was chosen in {share:.0%} of the comparisons. Bar for 'labels' with the tiny model: {BAR:g}x")
        lm.close()


if __name__ == "__main__":
    main()
