"""What benchmarks/encoder.py runs on: a MiniLM-L6-shaped cross-encoder and generated passages, all seeded.

The cross-encoder has the weights of the embedded model and a fresh classifier head: a ridge regression on generated
training pairs (not the benchmark's), target: how much of the passage is on the query's topic. It is no good ranker,
and the scores of a query's passages lie close together, so the benchmark's Kendall tau is a harder test of precision
than a trained cross-encoder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

TOPICS = {
    "maize": "maize corn kernel hybrid silage tassel seedling sowing row plant cob armyworm borer stalk harvest",
    "soil": "soil clay loam humus compost erosion tillage lime acidity drainage subsoil compaction worm mulch crust",
    "dairy": "cow milk udder mastitis calf heifer parlour colostrum lactation hoof herd barn bull ration pasture",
    "irrigation": "irrigation drip pump canal furrow sprinkler valve reservoir water pipe pressure flow meter",
    "wheat": "wheat rust ear straw grain stem tiller sheaf flour combine gluten lodging fungicide awn mildew",
    "poultry": "hen broiler egg coop litter brooder chick feather roost ventilation feed laying molt rooster perch",
    "machinery": "tractor hitch gearbox hydraulic tyre plough implement axle engine diesel clutch belt bearing grease",
    "orchard": "apple pear orchard pruning graft blossom rootstock scab codling thinning canopy branch bark fruit",
    "rice": "rice paddy transplanting flood seedbed panicle blast bund puddling hull milling variety nursery weeding",
    "goats": "goat kid browse tether shed worm deworming horn doe fleece fodder fence weaning kidding parasite",
}
FRAMES = (
    "In most seasons the {a} needs more {b} than the {c} can give.",
    "Farmers who check the {a} every week see fewer problems with {b} and {c}.",
    "When the {a} is too dry, the {b} suffers first and the {c} follows some days later.",
    "A simple rule is to look at the {a}, then at the {b}, before anything is done about the {c}.",
    "The cost of {a} is often smaller than the loss caused by poor {b} or a neglected {c}.",
    "Trials over three years showed that {a} and {b} improved where the {c} had been managed early.",
    "Keep the {a} away from the {b} until the {c} has recovered.",
)
QUESTIONS = ("How should I manage {a} and {b} on my farm?", "What is wrong when the {a} shows trouble with the {b}?")


def passage(rng: np.random.Generator, topic: str, purity: float, sentences: int) -> str:
    """Sentences whose words come from ``topic`` with probability ``purity``, else from any topic."""
    own, everything = TOPICS[topic].split(), " ".join(TOPICS.values()).split()

    def word() -> str:
        return str(rng.choice(own if rng.random() < purity else everything))

    return " ".join(str(rng.choice(FRAMES)).format(a=word(), b=word(), c=word()) for _ in range(sentences))


def question(rng: np.random.Generator, topic: str) -> str:
    """A question with two words of ``topic``."""
    first, second = rng.choice(TOPICS[topic].split(), 2, replace=False)
    return str(rng.choice(QUESTIONS)).format(a=first, b=second)


def examples(
    rng: np.random.Generator, topic: str, count: int, sentences: tuple[int, int]
) -> list[tuple[str, str, float]]:
    """One question and ``count`` passages: (query, passage, how much of the passage is on the query's topic)."""
    query, result = question(rng, topic), []
    for _ in range(count):
        purity = float(rng.random())
        about = topic if rng.random() < 0.5 else str(rng.choice(list(TOPICS)))
        text = passage(rng, about, purity, int(rng.integers(*sentences)))
        result.append((query, text, purity if about == topic else 0.0))
    return result


def save_cross_encoder(source: Path, target: Path, seed: int = 0) -> None:
    """Write the cross-encoder to ``target``."""
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + 1)
    model = BertForSequenceClassification.from_pretrained(source, num_labels=1, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    features, labels = [], []
    for topic in TOPICS:
        part = examples(rng, topic, 16, (2, 6))
        batch = tokenizer([q for q, _, _ in part], [p for _, p, _ in part], padding=True, return_tensors="pt")
        with torch.inference_mode():
            pooled = model.bert(**batch).pooler_output.double().numpy()
        features.append(pooled - pooled.mean(axis=0))  # only differences between passages of one query matter
        labels.append(np.array([label for *_, label in part]))
        labels[-1] -= labels[-1].mean()
    x, y = np.concatenate(features), np.concatenate(labels)
    weight = np.linalg.solve(x.T @ x + 10.0 * np.eye(x.shape[1]), x.T @ y)
    weight *= 4.0 / (x @ weight).std()
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(weight)[None].float())
        model.classifier.bias.zero_()
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, target)
