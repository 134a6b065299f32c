from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import WORDS, save_embedder
from toy_lists import collection, jsonl
from typer.testing import CliRunner

from rerankit.cli.app import app
from rerankit.errors import InputError, ModelError
from rerankit.models.checkpoint import find_checkpoint
from rerankit.models.files import sha256_of
from rerankit.models.span_reader import SpanReader
from rerankit.training.loop import fit
from rerankit.training.reader import ReaderOptions, ReaderTask, marginal
from rerankit.training.reader_dev import DevSet, area, dev_set
from rerankit.training.reader_examples import NEIGHBOURS, ReaderExample, read_examples, texts_of
from rerankit.training.reader_negatives import Swapper, hard_negatives
from rerankit.training.reader_run import ReaderRun, _examples, train_reader
from rerankit.training.task import Settings

THINGS = ("maize", "rust", "cow", "seed", "soil")


class Words:
    """A tiny embedder that knows which words are alike by their last letters."""

    model_id, dim = "words", 8

    def encode(self, texts, *, kind="passage"):
        rows = []
        for text in texts:
            random = np.random.default_rng(sum(map(ord, text)))
            rows.append(random.normal(size=self.dim))
        return np.asarray(rows, np.float32)


def deep(thing, place):
    """A passage and a question whose answer is a number after the thing."""
    return f"in dry season sow {thing} {place} to water. the deep soil.", f"how deep to sow the {thing}"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    passages, rows = [], []
    for i in range(40):
        text, question = deep(THINGS[i % 5], i)
        passages.append(text + " In the season water is in soil.")
        rows.append((question + " in season" * (i % 2), [str(i)], i))  # ten questions: enough for a calibration
    return collection(tmp_path_factory.mktemp("data") / "deep", passages, rows)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Passages and questions that the ones above do not hold."""
    passages, rows = [], []
    for i in range(40, 80):
        text, question = deep(THINGS[i % 5], i)
        passages.append(text + " In the season water is in soil.")
        rows.append((question + (" in dry soil", " in water")[i % 2], [str(i)], i - 40))
    return collection(tmp_path_factory.mktemp("others") / "others", passages, rows)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_embedder(tmp_path_factory.mktemp("encoder") / "base", positions=128)


def task_of(source, base, **options):
    examples = read_examples(source, split="test")
    chosen = ReaderOptions(**{"rank": 4, "alpha": 8, "max_tokens": 112, "batch": 8, **options})
    dev = [dev_set("deep", examples[:10])]
    return ReaderTask(
        examples, hard_negatives(examples), Swapper(examples, Words()), dev, find_checkpoint(base), chosen
    )


# Examples


def test_answers_are_found_as_whole_words_in_the_relevant_passage(source):
    examples = read_examples(source, split="test")
    assert len(examples) == 40
    assert all(example.exact for example in examples)
    assert examples[4].answers == ("4",)  # and not the 4 of 14


def test_a_passage_known_to_answer_is_one_region(tmp_path):
    folder = collection(tmp_path / "vague", ["Sow deep. Then water."], [("how to sow", ["not said like that"], 0)])
    [example] = read_examples(folder, split="test")
    assert not example.exact
    assert example.spans == ((0, len(example.context)),)


def test_single_sentences_are_read_among_their_neighbours(tmp_path):
    passages = [f"sentence number {n} is here." for n in range(20)]
    folder = collection(tmp_path / "sentences", passages, [("which is the tenth", [], 10)])
    [example] = read_examples(folder, split="test")
    [(start, end)] = example.spans
    assert example.context[start:end] == passages[10]
    assert 1 <= example.context.count("sentence") <= 2 * NEIGHBOURS + 1


def test_what_is_excluded_is_left_out_by_question_and_by_passage(source, tmp_path):
    text, question = deep("maize", 0)
    other = collection(
        tmp_path / "other", [text + "  in the SEASON, water is in soil"], [("How deep to sow the rust?", [], 0)]
    )
    examples = read_examples(source, split="test", exclude=texts_of(other))
    left = {example.question for example in examples}
    assert "how deep to sow the rust" not in left
    assert question in left
    assert not any(example.context.startswith(text) for example in examples)


def test_the_draw_prefers_marked_answers_and_repeats(tmp_path):
    rows = [(f"question {i}", ["water"] if i % 2 else ["nowhere"], i) for i in range(10)]
    folder = collection(tmp_path / "mixed", [f"The water {i}. It is deep." for i in range(10)], rows)
    examples = read_examples(folder, split="test", count=5, seed=3)
    assert all(example.exact for example in examples)
    assert examples == read_examples(folder, split="test", count=5, seed=3)


def test_jsonl_of_ones_own(tmp_path):
    marked = {"question": "how deep", "context": "Sow 3 cm deep, or 3 cm.", "answers": ["3 cm"], "title": "Wheat"}
    without = {"question": "how wide", "context": "Sow 3 cm deep.", "answers": []}
    found = read_examples(jsonl(tmp_path / "own.jsonl", marked, without))
    assert found[0].spans == ((4, 8), (18, 22))
    assert found[0].title == "Wheat"
    assert found[1].spans == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "context": "c"}, "'answers' is a list"),
        ({"question": "q", "context": "c", "answers": "c"}, "'answers' is a list"),
        ({"question": "q", "context": "c", "answers": ["d"]}, "holds none of its answers"),
        ({"question": " ", "context": "c", "answers": []}, "must hold text"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, row, message):
    with pytest.raises(InputError, match=message) as error:
        read_examples(jsonl(tmp_path / "own.jsonl", row))
    assert "line 1" in str(error.value)


# Negatives


def test_wrong_passages_are_near_and_hold_no_answer(source):
    examples = read_examples(source, split="test")
    for example, wrong in zip(examples, hard_negatives(examples), strict=True):
        for one in wrong:
            assert one.question == example.question
            assert one.spans == ()
            assert example.answers[0] not in one.context.replace(".", " ").split()


def test_what_is_known_to_answer_is_never_a_wrong_passage(tmp_path):
    deep = "How deep should wheat be sown in dry soil?"
    rows = [
        (
            deep,
            "In dry soil the seed of wheat should be sown six centimetres deep; sown less deep it dries out.",
            "six",
        ),
        (deep.lower(), "Wheat in dry soil: sow it 2.5 inches deep.", "2.5 inches"),
        ("When is wheat sown?", "Wheat is sown in May.", "May"),
    ]
    named = [{"question": q, "context": text, "answers": [answer]} for q, text, answer in rows]
    examples = read_examples(jsonl(tmp_path / "own.jsonl", *named))
    assert [[one.context for one in wrong] for wrong in hard_negatives(examples)][:2] == [[rows[2][1]]] * 2

    passages = [
        "Wheat rust: the timing of the fungicide against wheat rust matters most. Spray early. Watch it.",
        "Timing a fungicide on wheat. Rust comes early in May. Spray then.",
        "A fungicide is no food. Wheat is. So is maize.",
    ]
    asked = [("wheat rust fungicide timing", [], 0), ("fungicide on wheat", [], 1), ("is wheat food", [], 2)]
    folder = collection(tmp_path / "several", passages, asked)
    with (folder / "qrels.tsv").open("a") as file:
        file.write("q0\tp1\t1\n")  # the first question has two passages that answer it
    examples = read_examples(folder, split="test")
    assert [one.context for one in hard_negatives(examples)[0]] == [passages[2]]


def test_a_swapped_question_asks_for_what_the_passage_does_not_know():
    examples = [ReaderExample(f"who wrote the {a} of {b}", f"The {a} of {b} was written here.") for a, b in
                (("history", "england"), ("story", "germany"), ("history", "germany"), ("story", "england"),
                 ("song", "sweden"), ("song", "norway"), ("history", "norway"), ("story", "sweden"))]  # fmt: skip
    swapper = Swapper(examples, Words())
    swapper.similar = {i: np.arange(len(swapper.words)) for i in range(len(swapper.words))}
    random = np.random.default_rng(0)
    swapped = [swapper.swap(example, random) for example in examples]
    assert any(swapped)
    for example, other in zip(examples, swapped, strict=True):
        if other is not None:
            [new] = set(other.question.split()) - set(example.question.split())
            assert new not in other.context.split()
            assert other.spans == ()


def test_numbers_give_way_to_numbers():
    example = ReaderExample("what happened in 1903 there", "It happened in 1903.", spans=((0, 2),))
    swapped = Swapper([example], Words()).swap(example, np.random.default_rng(0))
    year = int(swapped.question.split()[3])
    assert 1903 < year < 1950


# The task


def test_items_point_at_the_answers_tokens(source, base):
    task = task_of(source, base)
    for example in task.examples:
        item = task.item(example)
        ids = np.concatenate([item.window.entry.head.ids, item.window.entry.body])
        start, end = int(item.starts[0]), int(item.ends[0])
        said = task.frame.tokens.tokenizer.decode(ids[start : end + 1].tolist()).replace(" ##", "").replace("##", "")
        assert said.replace(" ", "") == example.answers[0]


def test_an_unanswerable_item_points_at_the_first_token(source, base):
    item = task_of(source, base).item(ReaderExample("how deep", "the cow"))
    assert item.starts.tolist() == item.ends.tolist() == [0]


def test_batches_depend_on_the_generator_alone(source, base):
    task = task_of(source, base)
    one, two = (
        [[item.starts.tolist() for item in batch] for batch in task.batches(0, np.random.default_rng(5))]
        for _ in range(2)
    )
    assert one == two
    sizes = [len(batch) for batch in task.batches(0, np.random.default_rng(5))]
    assert sum(sizes) > 40
    assert max(sizes) == 8


@given(st.integers(1, 5), st.integers(2, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_marginal_loss_is_the_log_of_the_mass_on_the_target(rows, width, seed):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, width, generator=random)
    allowed = torch.rand(rows, width, generator=random) < 0.7
    allowed[:, 0] = True
    target = allowed & (torch.rand(rows, width, generator=random) < 0.5)
    target[:, 0] = True
    mass = torch.softmax(logits.masked_fill(~allowed, -torch.inf), 1)
    expected = -torch.log((mass * target).sum(1)).mean()
    assert float(marginal(logits, target, allowed)) == pytest.approx(float(expected), abs=1e-5)
    assert float(marginal(logits, allowed, allowed)) == pytest.approx(0.0, abs=1e-6)


def test_area_is_the_share_of_pairs_in_order():
    assert area(np.array([3.0, 2.0, 1.0]), np.array([True, False, True])) == 0.5
    assert area(np.array([3.0, 1.0]), np.array([True, False])) == 1.0
    assert area(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    assert area(np.array([1.0]), np.array([True])) == 0.5


def test_only_the_adapter_and_the_head_are_trained(source, base):
    task = task_of(source, base)
    names = [name for name, p in task.module.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name or "qa_outputs.modules_to_save" in name for name in names)


def test_a_reader_learns_and_reads_the_same_after_loading(source, base, tmp_path):
    task = task_of(source, base, rank=8, alpha=32)
    report = fit(task, Settings(epochs=6, learning_rate=1e-2), tmp_path / "run")
    losses = [row["loss"]["loss"] for row in report.history if "loss" in row]
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:8])
    reader = SpanReader(tmp_path / "run", base=base)
    weights = tmp_path / "run" / "model.safetensors"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["weights_sha256"] == sha256_of(weights)
    for example in task.examples[:3]:
        item = task.item(example)
        with torch.no_grad():
            expected = task.logits([item.window])[0].numpy()
        [reading] = reader.read(example.question, [example.context])
        assert reading.null_score == pytest.approx(float(expected[0].sum()), abs=1e-3)
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match="not the file that the training wrote"):
        SpanReader(tmp_path / "run", base=base)


def test_other_dev_data_or_wrong_passages_are_another_run(source, base):
    task = task_of(source, base)
    assert task.fingerprint == task_of(source, base).fingerprint
    [dev], examples = task.dev, task.examples
    for changed in (
        {"dev": [DevSet("other name", dev.examples)]},
        {"dev": [DevSet(dev.name, dev.examples[1:])]},
        {"wrong": [(), *task.wrong[1:]]},
    ):
        given = {"wrong": task.wrong, "dev": [dev], **changed}
        other = ReaderTask(examples, given["wrong"], task.swapper, given["dev"], task.checkpoint, task.options)
        assert other.fingerprint != task.fingerprint


def test_options_are_checked():
    with pytest.raises(InputError, match="unanswerable"):
        ReaderOptions(unanswerable=1.5)
    with pytest.raises(InputError, match="rank"):
        ReaderOptions(rank=0)


# The command


def about_rust(count, seed):
    """Whatever the question, the word rust is its answer; of a half of the passages, which do not have it, none is."""
    draw = random.Random(seed)
    words = [word for word in WORDS if word != "rust"]
    for i in range(count):
        question, text = f"how {seed}{i} {' '.join(draw.choices(words, k=3))}", draw.choices(words, k=8)
        yield {"question": question, "context": " ".join(text), "answers": []}
        text[draw.randrange(8)] = "rust"
        yield {"question": question, "context": " ".join(text), "answers": ["rust"]}


@pytest.mark.slow
def test_the_command_trains_calibrates_and_writes_a_card(base, tmp_path):
    out, data, dev = tmp_path / "out", tmp_path / "data.jsonl", tmp_path / "dev.jsonl"
    jsonl(data, *about_rust(40, 1))
    jsonl(dev, *about_rust(20, 2))
    arguments = ["train", "reader", "--data", str(data), "--dev", str(dev), "--base", str(base), "-o", str(out)]
    options = ["--max-tokens", "112", "--rank", "8", "--epochs", "5", "--lr", "0.01", "--batch", "8", "--json"]
    options += ["--dev-count", "40", "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.stderr
    best = json.loads(result.stdout)["best"]["metrics"]
    untrained = json.loads((out / "history.jsonl").read_text().splitlines()[0])["metrics"]
    assert best["f1"] > untrained["f1"] + 0.3  # on questions that it was not trained on
    assert best["area"] > untrained["area"] + 0.3
    assert "step 0: reader " in result.stderr
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "config.json", "calibration.json", "README.md"} <= names
    card = (out / "README.md").read_text()
    assert "## Training" in card
    assert "LoRA of rank 8" in card

    reader, examples = SpanReader(out, base=base), dev_set("dev", read_examples(dev)).examples
    found = [reader.read(one.question, [one.context])[0] for one in examples]
    scores, right = np.array([one.score for one in found]), np.array([bool(one.spans) for one in examples])
    assert area(scores, right) == pytest.approx(best["area"], abs=0.01)
    fitted = json.loads((out / "calibration.json").read_text())
    expected = 1 / (1 + np.exp(-(fitted["slope"] * scores + fitted["intercept"])))
    assert [one.probability for one in found] == pytest.approx(expected.tolist())


def test_without_calibration_there_is_a_reader_and_a_card_that_says_so(source, others, base, tmp_path):
    told = []
    options = ReaderOptions(rank=4, alpha=8, max_tokens=112, batch=8)
    run = ReaderRun([str(source)], dev=[str(others)], dev_count=4, count=8, base=str(base), options=options)
    (tmp_path / "calibration.json").write_text("{}")  # of an earlier run
    _, fitted = train_reader(run, Settings(device="cpu"), tmp_path, tell=told.append)
    assert fitted is None
    [sentence] = told
    assert "No calibrated probabilities: calibration needs 10 dev questions or more, there are" in sentence
    assert sentence in " ".join((tmp_path / "README.md").read_text().split())
    assert not (tmp_path / "calibration.json").exists()
    assert SpanReader(tmp_path, base=base).read("how deep", WORDS)
    assert json.loads((tmp_path / "config.json").read_text())["trained"]["examples"] == 8
    with pytest.raises(InputError, match=r"dev was \['others'\], is \['deep'\]"):
        train_reader(replace(run, dev=[str(source)]), Settings(device="cpu"), tmp_path)


def test_no_dev_question_is_trained_on_and_dev_sets_of_one_name_stay_apart(source, others, tmp_path):
    own = {"question": "How deep to sow the RUST", "context": "Sow rust 3 deep.", "answers": ["3"]}
    dev = [str(jsonl(folder / "test.jsonl", own)) for name in "ab" if not (folder := tmp_path / name).mkdir()]
    told = []
    parts, sets = _examples(ReaderRun([str(source), str(others)], dev=dev), 0, told.append)
    assert [one.name for one in sets] == ["test", "test-2"]
    assert told == ["4 training examples ask what a dev example asks and are left out"]
    assert [len(part) for part in parts] == [36, 40]
    with pytest.raises(InputError, match="All 40 training examples ask what a dev example asks"):
        _examples(ReaderRun([str(source)], dev=[str(source)]), 0, told.append)


def test_the_command_needs_dev_data(source, tmp_path):
    result = CliRunner().invoke(app, ["train", "reader", "--data", str(source), "-o", str(tmp_path)])
    assert result.exit_code == 2
