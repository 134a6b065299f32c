"""Each loss against values worked out by hand, against other implementations, and what stands beside the losses."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import WORDS, save_cross_encoder
from torch.nn import functional

from rerankit.evaluation.metrics import ranking_metrics
from rerankit.training import losses
from rerankit.training.losses_policy import _sample, ndcg

SEEDS = st.integers(0, 2**31)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def real(count: int) -> torch.Tensor:
    return torch.ones(1, count, dtype=torch.bool)


# By hand


def test_info_nce_contrasts_each_positive_with_the_negatives_alone():
    a, b, x, y = (math.exp(score / 0.5) for score in (1.0, 0.5, 0.25, -1.0))
    wanted = -(math.log(a / (a + x + y)) + math.log(b / (b + x + y))) / 2
    value = losses.info_nce(row(1.0, 0.5, 0.25, -1.0), row(3, 1, 0, 0), real(4), 0.5)
    assert value.item() == pytest.approx(wanted, rel=1e-12)


def test_rank_net_is_the_mean_over_the_ordered_pairs():
    scores, target = (0.3, -0.2, 0.9), (2, 1, 1)
    wanted = sum(math.log1p(math.exp(-(scores[0] - scores[j]) / 0.1)) for j in (1, 2)) / 2
    assert losses.rank_net(row(*scores), row(*target), real(3), 0.1).item() == pytest.approx(wanted, rel=1e-12)


def test_list_mle_is_the_likelihood_of_the_order():
    scores, target = (0.5, -1.0, 2.0), (0.2, 0.9, 0.1)  # the order is passage 1, 0, 2
    e = [math.exp(score) for score in scores]
    wanted = -math.log(e[1] / sum(e)) - math.log(e[0] / (e[0] + e[2]))
    assert losses.list_mle(row(*scores), row(*target), real(3)).item() == pytest.approx(wanted, rel=1e-12)


def test_list_mle_leaves_tied_passages_out_of_each_others_choice():
    scores, grades, mask = row(0.5, -1.0, 2.0, 0.1), row(1, 1, 0, 0), real(4)
    twice = 2 * losses.info_nce(scores, grades, mask)
    torch.testing.assert_close(losses.list_mle(scores, grades, mask), twice)


def test_kl_is_scaled_by_the_temperature_squared():
    student, teacher = row(1.0, 0.0), row(0.0, 2.0)
    p, q = 1 / (1 + math.e), 1 / (1 + math.exp(-0.5))
    wanted = 4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    assert losses.kl(student, teacher, real(2), 2.0).item() == pytest.approx(wanted, rel=1e-12)


def test_margin_mse_takes_every_positive_with_every_negative():
    value = losses.margin_mse(row(2.0, 1.0, 0.5), row(5.0, 1.0, 3.0), real(3), row(1, 0, 2))
    assert value.item() == pytest.approx(((1 - 4) ** 2 + (-0.5 - 2) ** 2) / 2)
    value = losses.margin_mse(row(2.0, 1.0, 0.5), row(5.0, 1.0, 3.0), real(3))
    assert value.item() == pytest.approx(((1 - 4) ** 2 + (1.5 - 2) ** 2 + (0.5 + 2) ** 2) / 3)


def test_the_ordinal_loss_adds_up_the_thresholds():
    logits = torch.tensor([[[2.0, 1.0, -1.0]]], dtype=torch.float64)
    probability = [1 / (1 + math.exp(-z)) for z in (2.0, 1.0, -1.0)]
    wanted = -math.log(probability[0]) - math.log(probability[1]) - math.log(1 - probability[2])
    assert losses.ordinal(logits, row(2), real(1)).item() == pytest.approx(wanted, rel=1e-12)
    half = wanted - (1 - 0.5) * math.log(1 - probability[1]) + 0.5 * math.log(probability[1])
    assert losses.ordinal(logits, row(1.5), real(1)).item() == pytest.approx(half, rel=1e-12)
    both = losses.ordinal(logits.expand(1, 2, 3), row(2, 1.5), real(2))
    assert both.item() == pytest.approx((wanted + half) / 2, rel=1e-12)


def test_the_loss_is_the_mean_over_the_lists_that_teach():
    scores, grades = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]]), torch.tensor([[1.0, 0], [1, 0], [0, 0]])
    mask = torch.ones(3, 2, dtype=torch.bool)
    easy, hard = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    assert losses.info_nce(scores, grades, mask).item() == pytest.approx((easy + hard) / 2)
    weighted = losses.info_nce(scores, grades, mask, weights=torch.tensor([1.0, 0.5, 9.0]))
    assert weighted.item() == pytest.approx((easy + 0.5 * hard) / 2)


# Against others


def test_equal_to_torch():
    scores, teacher = torch.randn(2, 5, 6, generator=seeded()) * 2
    mask, grades = torch.ones(5, 6, dtype=torch.bool), functional.one_hot(torch.tensor([0, 5, 2, 3, 1]), 6)
    cross_entropy = functional.cross_entropy(scores / 0.03, torch.tensor([0, 5, 2, 3, 1]))
    torch.testing.assert_close(losses.info_nce(scores, grades, mask, 0.03), cross_entropy)
    student, other = (scores / 3).log_softmax(-1), (teacher / 3).log_softmax(-1)
    divergence = 9 * functional.kl_div(student, other, reduction="batchmean", log_target=True)
    torch.testing.assert_close(losses.kl(scores, teacher, mask, 3.0), divergence)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(save_cross_encoder(tmp_path_factory.mktemp("tiny") / "model")), device="cpu")


def test_equal_to_sentence_transformers(cross_encoder):
    from sentence_transformers.cross_encoder import losses as theirs

    query, passages = "how deep to sow maize", [" ".join(WORDS[i : i + 3]) for i in range(5)]
    cross_encoder.eval()
    with torch.no_grad():
        inputs = cross_encoder.preprocess([(query, passage) for passage in passages])
        scores = cross_encoder(inputs)["scores"].view(1, -1)
        target, mask = torch.tensor([[0.3, 2.0, 1.0, -1.0, 0.7]]), torch.ones(1, 5, dtype=torch.bool)
        lists = ([query], [passages]), [target[0]]
        rank_net = theirs.RankNetLoss(cross_encoder, sigma=4.0, reduction_log="natural")(*lists)
        torch.testing.assert_close(losses.rank_net(scores, target, mask, 0.25), rank_net)
        list_mle = theirs.ListMLELoss(cross_encoder, respect_input_order=False)(*lists)
        torch.testing.assert_close(losses.list_mle(scores, target, mask), list_mle)
        columns = [[query], *([passage] for passage in passages)]
        margin_mse = theirs.MarginMSELoss(cross_encoder)(columns, target)
        grades = torch.tensor([[1, 0, 0, 0, 0]])
        torch.testing.assert_close(losses.margin_mse(scores, target, mask, grades), margin_mse)


@given(seed=SEEDS, depth=st.sampled_from([1, 3, 10]))
@settings(max_examples=20)
def test_the_reward_is_the_ndcg_of_the_evaluation(seed, depth):
    grades = torch.randint(0, 4, (1, 12), generator=seeded(seed)).float()
    grades[0, 0] = 1  # trec_eval leaves out queries without anything relevant
    order = torch.randperm(12, generator=seeded(seed))
    names = [f"p{place:02}" for place in range(12)]
    qrels = {"q": {name: int(grade) for name, grade in zip(names, grades[0], strict=True)}}
    wanted = ranking_metrics({"q": [names[place] for place in order]}, qrels, [f"nDCG@{depth}"])
    assert ndcg(grades, order[None, None], depth).item() == pytest.approx(wanted[f"nDCG@{depth}"]["q"], abs=1e-5)


# The head of grades


@given(seed=SEEDS, grades=st.integers(2, 6), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=50)
def test_probabilities_never_rise_with_the_grade(seed, grades, dtype):
    head = losses.OrdinalHead(grades)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=3.0, generator=seeded(seed))
    scores = (torch.randn(3, 7, generator=seeded(seed)) * 4).to(dtype)
    logits = head(scores)
    assert logits.shape == (3, 7, grades - 1)
    assert (logits.sigmoid().diff(dim=-1) <= 0).all()
    expected = losses.expected_grade(logits)
    assert ((expected >= 0) & (expected <= grades - 1)).all()
    order = scores.argsort(-1)
    assert (expected.gather(-1, order).diff(dim=-1) >= -1e-6).all()


def test_an_untrained_head_puts_the_score_0_in_the_middle():
    head = losses.OrdinalHead(4)
    torch.testing.assert_close(head.biases(), torch.tensor([1.0, 0.0, -1.0]))
    assert losses.expected_grade(head(torch.zeros(1))).item() == pytest.approx(1.5)


def test_the_head_learns_what_grades_mean():
    scores, grades = torch.tensor([[-0.9, -0.2, 0.3, 0.8]]), torch.tensor([[0.0, 1, 2, 3]])
    head = losses.OrdinalHead()
    optimiser = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        losses.ordinal(head(scores), grades, real(4)).backward()
        optimiser.step()
    torch.testing.assert_close(losses.expected_grade(head(scores)), grades, atol=0.1, rtol=0)


# The policy gradient


def exact_gradient(scores, grades, depth):
    """Of minus the expected nDCG, over all rankings of one list."""
    scores = scores.clone().requires_grad_()
    expected = torch.zeros((), dtype=scores.dtype)
    for order in itertools.permutations(range(len(scores))):
        ranked = scores[list(order)]
        chance = torch.stack([ranked[i:].softmax(0)[0] for i in range(len(order))]).prod()
        expected = expected + chance * ndcg(grades[None], torch.tensor(order)[None, None], depth).item()
    (-expected).backward()
    return scores.grad


@pytest.mark.parametrize("samples", [2, 5])
@pytest.mark.parametrize("depth", [1, 2, None])
def test_the_policy_gradient_is_unbiased(samples, depth):
    count = 20_000
    scores = torch.tensor([0.4, -0.7, 1.1], dtype=torch.float64)
    grades = torch.tensor([2.0, 3.0, 0.0], dtype=torch.float64)
    # Each row is an estimate of its own; two places of padding must not take part.
    rows = functional.pad(scores, (0, 2)).repeat(count, 1).requires_grad_()
    mask = torch.tensor([True] * 3 + [False] * 2).repeat(count, 1)
    losses.policy_gradient(
        rows,
        functional.pad(grades, (0, 2), value=3.0).repeat(count, 1),
        mask,
        generator=seeded(7),
        samples=samples,
        depth=depth,
    ).backward()
    estimates = rows.grad[:, :3] * count
    exact = exact_gradient(scores, grades, depth)
    error = (estimates.mean(0) - exact).abs()
    assert (error < 4 * estimates.std(0) / math.sqrt(count)).all()
    assert error.norm() < 0.05 * exact.norm()  # the bound is a sharp one


def test_choices_below_the_depth_take_no_part():
    scores = row(0.4, -0.7, 1.1).requires_grad_()
    losses.policy_gradient(scores, row(1, 0, 0), real(3), generator=seeded(), samples=8, depth=1).backward()
    # The gradient of one choice's log-probability is what was chosen, less the softmax.
    order = _sample(scores.detach(), real(3), 8, seeded())[:, 0]
    reward = (order[:, 0] == 0).double()
    advantage = reward - (reward.sum() - reward) / 7
    wanted = -(advantage[:, None] * (functional.one_hot(order[:, 0], 3) - scores.detach().softmax(-1))).mean(0)
    assert wanted.any()
    torch.testing.assert_close(scores.grad[0], wanted)


def test_the_generator_alone_decides_the_samples():
    def value(seed):
        return losses.policy_gradient(row(0.3, 0.2, 0.1), row(2, 0, 1), real(3), generator=seeded(seed)).item()

    torch.manual_seed(1)
    first = value(0)
    torch.manual_seed(2)
    assert value(0) == first != value(1)


# The curriculum


def test_difficulty_follows_the_hardest_pair():
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    grades = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1]])
    looks = losses.reciprocal_rank(torch.tensor([[1, 4, 2, 3], [1, 2, 3, 4]]), mask)
    assert looks.tolist() == [[1.0, 0.25, 0.5, 0.0], [1.0, 0.5, 0.0, 0.0]]
    assert losses.list_difficulty(looks, grades, mask).tolist() == [(1 - 0.25 + 1) / 2, 0.0]


def test_scores_are_normalised_within_their_list():
    mask = torch.tensor([[True, True, True, False], [True, True, False, False], [False] * 4])
    scores = torch.tensor([[10.0, 30, 15, 99], [7, 7, 0, 0], [1, 2, 3, 4]])
    assert losses.min_max(scores, mask).tolist() == [[0.0, 1.0, 0.25, 0.0], [0.0] * 4, [0.0] * 4]


def test_weights_grow_from_ease_to_1():
    difficulty = torch.tensor([0.0, 0.25, 1.0])
    assert losses.curriculum_weight(difficulty, 0, 20).tolist() == [1.0, 0.75, 0.0]
    assert losses.curriculum_weight(difficulty, 10, 20).tolist() == [1.0, 0.875, 0.5]
    for late in (20, 21.5):
        assert losses.curriculum_weight(difficulty, late, 20).tolist() == [1.0, 1.0, 1.0]
