"""Mined negatives: near, never known to be right, below the margin, the same every time; and teachers' scores."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rerankit
from rerankit.errors import InputError
from rerankit.rag.chroma import ChromaRetriever
from rerankit.rerankers.lexical import Lexical
from rerankit.training.lists import TrainingList
from rerankit.training.lists_files import query_key
from rerankit.training.mining import mine, with_teacher
from rerankit.types import Passage

DIM = 16


class WordVectors:
    """An embedder: every word has a direction of its own, a text is the sum of its words."""

    model_id, dim = "words@1", DIM

    def __init__(self):
        self.encoded: list[str] = []

    def encode(self, texts, *, kind="passage"):
        self.encoded += texts
        return np.array([sum((self.word(word) for word in text.lower().split()), np.zeros(DIM)) for text in texts])

    @staticmethod
    def word(word):
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
        return np.random.default_rng(seed).normal(size=DIM)


def one(text="wheat rust", relevant=("p0", "wheat rust spots"), *more):
    passages = (Passage(*relevant), *(passage for passage, _ in more))
    return TrainingList(text, passages, (1.0, *(grade for _, grade in more)))


def added(new, old):
    known = {passage.id for passage in old.passages}
    return [passage for passage in new.passages if passage.id not in known]


def by_text(text):
    return Passage(text.replace(" ", "-"), text)


CORPUS = [
    by_text(text)
    for text in (
        "wheat rust spots here", "wheat rust", "rust", "rust on iron", "wheat sown deep", "sheep shorn", "cows in calf",
        "rain", "hay bales", "wool prices",
    )
]  # fmt: skip


def test_the_nearest_below_the_margin_are_taken():
    item = one()
    all_of_them = mine([item], CORPUS, embedder=WordVectors(), margin=None, negatives=4, tell=print)[0]
    cosines = {passage.id: passage.score for passage in mine([item], CORPUS, embedder=WordVectors(), margin=None,
                                                             negatives=99, tell=print)[0].passages}  # fmt: skip
    nearest = sorted((name for name in cosines if name != "p0"), key=lambda name: -cosines[name])
    assert [passage.id for passage in added(all_of_them, item)] == nearest[:4]
    assert nearest[0] == "wheat-rust"  # as near as can be: probably right, and nobody judged it
    limited = mine([item], CORPUS, embedder=WordVectors(), margin=0.95, negatives=4, tell=print)[0]
    limit = 0.95 * cosines["p0"]
    assert [passage.id for passage in added(limited, item)] == [n for n in nearest if cosines[n] <= limit][:4]
    assert "wheat-rust" not in {passage.id for passage in limited.passages}


def test_mined_lists_come_in_the_order_of_their_scores_with_vectors_and_without_a_teacher():
    old = TrainingList(
        "wheat rust", (Passage("a", "sheep"), Passage("b", "wheat rust")), (0.0, 2.0), (0.1, 0.2), "s", 3.0
    )
    (new,) = mine([old], CORPUS, embedder=WordVectors(), negatives=3)
    grades = dict(zip((passage.id for passage in new.passages), new.grades, strict=True))
    assert grades.pop("b") == 2.0
    assert set(grades.values()) == {0.0}
    assert len(grades) == 4
    assert (new.query, new.teacher, new.source, new.weight) == ("wheat rust", None, "s", 3.0)
    scores = [passage.score for passage in new.passages]
    assert scores == sorted(scores, reverse=True)
    query = WordVectors().encode(["wheat rust"])[0]
    for passage in new.passages:
        assert passage.embedding_model == "words@1"
        assert passage.embedding @ query / np.linalg.norm(query) == pytest.approx(passage.score, abs=1e-5)
    assert old.passages[0].score is None


def test_vectors_that_passages_carry_are_used_and_those_of_others_are_not():
    embedder = WordVectors()
    vectors = embedder.encode([passage.text for passage in CORPUS])
    own = [p.replace(embedding=v, embedding_model="words@1") for p, v in zip(CORPUS, vectors, strict=True)]
    foreign = [p.replace(embedding=v, embedding_model="other") for p, v in zip(CORPUS, -vectors, strict=True)]
    fresh = WordVectors()
    expected = mine([one()], CORPUS, embedder=embedder)
    assert mine([one()], own, embedder=fresh) == expected == mine([one()], foreign, embedder=WordVectors())
    assert sorted(fresh.encoded) == ["wheat rust", "wheat rust spots"]  # the query and its own passage
    broken = [own[0].replace(embedding=np.full(DIM, np.nan)), *own[1:]]
    assert mine([one()], broken, embedder=WordVectors()) == expected


def test_the_first_places_may_be_skipped_and_the_depth_bounds_what_is_looked_at():
    def names(**options):
        return [
            p.id
            for p in added(mine([one()], CORPUS, embedder=WordVectors(), margin=None, tell=print, **options)[0], one())
        ]

    everything = names(negatives=99)
    assert names(negatives=3, skip_top=2) == everything[2:5]
    assert names(negatives=99, skip_top=1, depth=4) == everything[1:5]


def test_random_negatives_come_from_outside_the_candidates_and_from_the_seed_alone():
    corpus = [by_text(f"word{n} other{n}") for n in range(300)]
    lists = [one(f"word{n}", (f"p{n}", f"word{n} right")) for n in range(4)]
    options = {"embedder": WordVectors(), "margin": None, "depth": 10, "negatives": 8}
    hard = mine(lists, corpus, **options)
    mixed = mine(lists, corpus, random_share=0.5, **options)
    for item, nearest, both in zip(lists, hard, mixed, strict=True):
        near = {passage.id for passage in added(nearest, item)}
        names = [passage.id for passage in added(both, item)]
        assert len(names) == 8
        assert len(near.intersection(names)) == 4
    assert mine(lists, corpus, random_share=0.5, **options) == mixed
    assert mine(lists, corpus, random_share=0.5, batch=1, **options) == mixed
    assert mine(lists[::-1], corpus, random_share=0.5, **options) == mixed[::-1]
    assert mine(lists, corpus, random_share=0.5, seed=1, **options) != mixed


def test_lists_that_got_too_few_are_told_and_those_without_a_relevant_passage_left_alone():
    told, done = [], []
    bare = TrainingList("anything", (Passage("x", "x y"),), (0.0,), (1.0,))
    lists = [bare, one("sheep", ("s", "sheep shorn short")), one()]
    mined = mine(lists, CORPUS, embedder=WordVectors(), negatives=50, batch=2, tell=told.append, progress=done.append)
    assert mined[0] is bare
    (said,) = told
    assert said.startswith("2 of 2 lists got fewer than 50 negatives, 0 of them none: raise depth or margin")
    assert done == [2, 1]
    assert mine([], CORPUS, embedder=WordVectors()) == []


words = st.sampled_from(["wheat", "rust", "sheep", "hay"])
texts = st.lists(words, min_size=1, max_size=3).map(" ".join)
passages = st.builds(lambda number, text, shout: Passage(f"p{number}", text.upper() if shout else text),
                     st.integers(0, 9), texts, st.booleans())  # fmt: skip


@st.composite
def training_lists(draw):
    chosen = draw(st.lists(passages, min_size=1, max_size=4, unique_by=lambda passage: passage.id))
    grades = draw(st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=len(chosen), max_size=len(chosen)))
    return TrainingList(draw(st.sampled_from(["wheat", "Wheat ", "sheep rust"])), tuple(chosen), tuple(grades))


@settings(max_examples=60)
@given(
    st.lists(training_lists(), min_size=1, max_size=4),
    st.lists(passages, min_size=1, max_size=12),
    st.sampled_from([None, 0.5, 0.95, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.booleans(),
)
def test_known_positives_and_copies_are_never_negatives(lists, corpus, margin, random_share, taught):
    teacher = Lexical(language="") if taught else None
    options = {"margin": margin, "random_share": random_share, "negatives": 4, "depth": 3, "tell": lambda _: None}
    mined = mine(lists, corpus, embedder=WordVectors(), teacher=teacher, **options)
    right: dict[str, list[Passage]] = {}
    for item in lists:
        right.setdefault(query_key(item.query), []).extend(item.relevant)
    for new, old in zip(mined, lists, strict=True):
        pairs = list(zip(new.passages, new.grades, strict=True))
        left = list(pairs)
        for passage, grade in zip(old.passages, old.grades, strict=True):  # what was there is there, graded as before
            left.remove(
                next(pair for pair in left if (pair[0].id, pair[0].text, pair[1]) == (passage.id, passage.text, grade))
            )
        assert len(left) <= 4
        assert {grade for _, grade in left} <= {0.0}
        forbidden = [*right[query_key(old.query)], *old.passages] if old.relevant else []
        taken = [passage for passage, _ in left]
        assert not {p.id for p in taken} & {p.id for p in forbidden}
        assert not {query_key(p.text) for p in taken} & {query_key(p.text) for p in forbidden}
        assert len({query_key(p.text) for p in taken}) == len({p.id for p in taken}) == len(taken)


class Judge(rerankit.Reranker):
    """A teacher with an opinion on every text, on whatever scale."""

    model = "judge"

    def __init__(self, opinions, scale):
        super().__init__()
        self.opinions, self.scale = opinions, scale

    def score_lists(self, requests, call):
        from rerankit.rerankers.call import Scored

        return [Scored(np.array([self.opinions[passage.text] for passage in request.passages])) for request in requests]


OPINIONS = {"right": 0.8, "as good": 0.79, "near": 0.7, "far": 0.4, "off": 0.0}


@pytest.mark.parametrize("scale", ["probability", "cosine", "relevance"])
def test_on_scales_with_a_zero_the_margin_is_a_share_of_the_score(scale):
    assert judged(OPINIONS, scale, 0.95) == {"near", "far", "off"}
    assert judged(OPINIONS, scale, 0.6) == {"far", "off"}
    assert judged(OPINIONS, scale, 1.0) == {"as good", "near", "far", "off"}


@pytest.mark.parametrize("scale", ["logit", "z-score", "bm25", "cosine"])
@given(stretch=st.floats(0.5, 50), shift=st.floats(-100, -60))
def test_on_other_scales_neither_shift_nor_stretch_matters(scale, stretch, shift):
    """Cosines too, once that of the relevant passage is negative."""
    moved = {text: stretch * value + shift for text, value in OPINIONS.items()}
    assert judged(moved, scale, 0.95) == {"near", "far", "off"}
    assert judged(moved, scale, 0.6) == {"far", "off"}


def judged(opinions, scale, margin):
    item = one("question", ("r", "right"))
    corpus = [by_text(text) for text in opinions if text != "right"]
    with Judge(opinions, scale) as teacher:
        (new,) = mine([item], corpus, embedder=WordVectors(), teacher=teacher, margin=margin, tell=lambda _: None)
    return {passage.text for passage in added(new, item)}


def test_the_relevant_passage_to_stay_below_is_the_lowest_of_the_best():
    opinions = {**OPINIONS, "best": 0.9, "partly": 0.1}
    item = TrainingList("question", tuple(map(by_text, ("best", "right", "partly"))), (2.0, 2.0, 1.0))
    with Judge(opinions, "probability") as teacher:
        (new,) = mine([item], list(map(by_text, opinions)), embedder=WordVectors(), teacher=teacher, tell=print)
    assert {passage.text for passage in added(new, item)} == {"near", "far", "off"}


def test_negatives_come_from_a_chroma_store():
    item = one()
    with ChromaRetriever("memory", embedder=WordVectors(), collection="mining") as store:
        store.index([*CORPUS, Passage("copy", "wheat rust spots"), Passage("p0", "wheat rust spots")])
        mined = mine([item], store, margin=None, negatives=6, random_share=0.5, depth=4)
        with pytest.raises(InputError, match="its own embedder 'words@1'"):
            mine([item], store, embedder=Foreign())
    expected = mine([item], CORPUS, embedder=WordVectors(), margin=None, negatives=3, depth=4)
    near = {passage.id for passage in added(expected[0], item)}
    names = [passage.id for passage in added(mined[0], item)]
    assert len(names) == 6
    assert near < set(names)
    assert not {"copy", "p0"} & set(names)


class Foreign(WordVectors):
    model_id = "other@1"


@pytest.mark.slow
def test_plain_strings_and_the_bundled_embedder_will_do():
    item = one("When are sheep shorn?", ("p", "Sheep are shorn in spring."))
    corpus = ["Goats are shorn twice a year.", "Interest rates rose again.", "sheep are SHORN  in spring.", " "]
    (new,) = mine([item], iter(corpus), negatives=1)
    assert [passage.text for passage in added(new, item)] == ["Goats are shorn twice a year."]


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin": 1.5},
        {"margin": float("nan")},
        {"random_share": -0.1},
        {"negatives": 0},
        {"depth": 0},
        {"skip_top": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        mine([one()], CORPUS, embedder=WordVectors(), **wrong)


def test_an_empty_corpus_is_refused():
    with pytest.raises(InputError, match="no passage with a text"):
        mine([one()], ["", " "], embedder=WordVectors())


# Teachers


def test_a_teachers_scores_stand_beside_the_passages():
    lists = [one("wheat rust", ("p", "wheat rust"), (Passage("q", "hay"), 0.0)), one("sheep", ("s", "sheep"))] * 2
    done = []
    with Lexical(language="", top_k=1) as teacher:
        taught = with_teacher(lists, teacher, batch=3, progress=done.append)
        expected = {hit.id: hit.score for hit in teacher.rank("wheat rust", lists[0].passages, top_k=2)}
    assert taught[0].teacher == (expected["p"], expected["q"])
    assert taught[0].teacher[0] > taught[0].teacher[1] == 0.0
    assert [(item.query, item.passages, item.grades) for item in taught] == [
        (item.query, item.passages, item.grades) for item in lists
    ]
    assert done == [3, 1]


@pytest.mark.slow
def test_the_default_teacher_needs_nothing():
    item = one("when are sheep shorn", ("a", "Interest rates rose."), (Passage("b", "Sheep are shorn in spring."), 0.0))
    (taught,) = with_teacher([item])
    assert taught.teacher[1] > taught.teacher[0]


def test_a_teacher_that_leaves_passages_unscored_is_refused():
    item = one("rust", ("a", "rust"), (Passage("b", "hay"), 0.0), (Passage("c", "rain"), 0.0))
    with pytest.raises(InputError, match=r"scored 1 of 3 passages of 'rust' \(an earlier stage cut the rest\)"):
        with_teacher([item], rerankit.load("lexical[:1] | lexical"))
