"""What holds for every loss: masks, padding, order, derivatives, dull lists, precision, refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from rerankit import InputError
from rerankit.training import losses

SEEDS = st.integers(0, 2**31)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policy(scores, grades, mask, temperature=1.0, **options):
    return losses.policy_gradient(scores, grades, mask, temperature, generator=seeded(), samples=4, **options)


def ordinal(scores, grades, mask, **options):
    return losses.ordinal(losses.OrdinalHead().to(scores.dtype)(scores), grades, mask, **options)


# Each as f(scores, grades, teacher, mask), so that one law is checked for all.
LOSSES = {
    "info_nce": lambda s, g, t, m, **o: losses.info_nce(s, g, m, 0.5, **o),
    "rank_net": lambda s, g, t, m, **o: losses.rank_net(s, g, m, 0.5, **o),
    "rank_net of a teacher": lambda s, g, t, m, **o: losses.rank_net(s, t, m, 0.5, **o),
    "list_mle": lambda s, g, t, m, **o: losses.list_mle(s, g, m, 0.5, **o),
    "list_mle of a teacher": lambda s, g, t, m, **o: losses.list_mle(s, t, m, 0.5, **o),
    "kl": lambda s, g, t, m, **o: losses.kl(s, t, m, 2.0, **o),
    "margin_mse": lambda s, g, t, m, **o: losses.margin_mse(s, t, m, g, **o),
    "margin_mse without grades": lambda s, g, t, m, **o: losses.margin_mse(s, t, m, **o),
    "two_tower": lambda s, g, t, m, **o: losses.two_tower(s, t, m, 2.0, **o),
    "ordinal": lambda s, g, t, m, **o: ordinal(s, g, m, **o),
    "policy_gradient": lambda s, g, t, m, **o: policy(s, g, m, 0.5, **o),
    "policy_gradient at depth 2": lambda s, g, t, m, **o: policy(s, g, m, 0.5, depth=2, **o),
}
SAMPLED = {name for name in LOSSES if name.startswith("policy")}
every_loss = pytest.mark.parametrize("name", LOSSES)


def random_lists(seed: int, *, lists: int = 4, places: int = 6, dtype=torch.float32):
    """Scores, grades 0 to 3, teacher's scores and a mask with at least one real passage per list."""
    generator = seeded(seed)
    scores, teacher = torch.randn(2, lists, places, generator=generator, dtype=dtype) * 2
    grades = torch.randint(0, 4, (lists, places), generator=generator).to(dtype)
    mask = torch.rand(lists, places, generator=generator) < 0.7
    mask[:, 0] = True
    return scores, grades, teacher, mask


def value_and_gradient(name, scores, *rest, **options):
    scores = scores.detach().clone().requires_grad_()
    value = LOSSES[name](scores, *rest, **options)
    value.backward()
    return value.detach(), scores.grad


@every_loss
@given(seed=SEEDS, junk=st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -7.0]))
@settings(max_examples=25)
def test_masked_places_never_matter(name, seed, junk):
    scores, grades, teacher, mask = random_lists(seed)
    value, gradient = value_and_gradient(name, scores, grades, teacher, mask)
    spoiled = [one.masked_fill(~mask, junk) for one in (scores, grades, teacher)]
    again, gradient_again = value_and_gradient(name, *spoiled, mask)
    assert torch.equal(value, again)
    assert torch.equal(gradient, gradient_again)
    assert gradient.isfinite().all()
    assert not gradient[~mask].any()


@pytest.mark.parametrize("name", sorted(set(LOSSES) - SAMPLED))
@given(seed=SEEDS)
@settings(max_examples=25)
def test_neither_padding_nor_order_matters(name, seed):
    lists = random_lists(seed, dtype=torch.float64)
    value, gradient = value_and_gradient(name, *lists)
    order = torch.randperm(9, generator=seeded(seed))
    moved = [functional.pad(one, (0, 3))[:, order] for one in lists]
    again, gradient_again = value_and_gradient(name, *moved)
    torch.testing.assert_close(value, again)
    torch.testing.assert_close(functional.pad(gradient, (0, 3))[:, order], gradient_again)


@every_loss
def test_the_derivative_is_right(name):
    scores, grades, teacher, mask = random_lists(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda s: LOSSES[name](s, grades, teacher, mask, weights=torch.rand(4, generator=seeded())),
        scores.requires_grad_(),
    )


@every_loss
def test_no_gradient_goes_into_targets(name):
    scores, grades, teacher, mask = random_lists(4)
    LOSSES[name](scores.requires_grad_(), grades.requires_grad_(), teacher.requires_grad_(), mask).backward()
    assert grades.grad is None
    assert teacher.grad is None


DULL = {
    "nothing real": ([0, 0, 0], [1, 2, 0]),
    "one positive alone": ([1, 0, 0], [1, 0, 0]),
    "one negative alone": ([0, 1, 0], [1, 0, 0]),
    "negatives": ([1, 1, 1], [0, 0, 0]),
    "positives": ([1, 1, 1], [2, 2, 2]),
}


def is_dull(name, dull):
    """Grades teach without rivals, and a teacher's distribution and margins teach without grades."""
    if name == "ordinal":
        return dull == "nothing real"
    return sum(DULL[dull][0]) < 2 or name not in ("kl", "two_tower", "margin_mse without grades")


@pytest.mark.parametrize(("name", "dull"), [pair for pair in itertools.product(LOSSES, DULL) if is_dull(*pair)])
@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
def test_a_list_that_teaches_nothing_adds_exactly_nothing(name, dull, low):
    places, grade = DULL[dull]
    mask, grades = torch.tensor([places, [1, 1, 1]], dtype=torch.bool), torch.tensor([grade, [2.0, 1, 0]])
    scores, teacher = torch.tensor([[0.3, 0.2, 0.1], [0.1, 0.2, 0.3]]), grades * 2
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        value, gradient = value_and_gradient(name, scores[:1], grades[:1], teacher[:1], mask[:1])
        both, both_gradients = value_and_gradient(name, scores, grades, teacher, mask)
        lively, _ = value_and_gradient(name, scores[1:], grades[1:], teacher[1:], mask[1:])
    assert value.item() == 0.0
    assert not gradient.any()
    assert not both_gradients[0].any()
    assert both_gradients[1].any()
    if name not in SAMPLED:  # another number of lists draws other samples
        assert torch.equal(both, lively)


@every_loss
def test_mixed_precision_computes_in_float32(name):
    states, weight = torch.randn(4, 6, 8, generator=seeded()), torch.randn(1, 8, generator=seeded(1))
    _, grades, teacher, mask = random_lists(5)
    with torch.autocast("cpu", torch.bfloat16):
        scores = functional.linear(states, weight)[..., 0]
        assert scores.dtype == torch.bfloat16
        value = LOSSES[name](scores, grades, teacher, mask)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, LOSSES[name](scores.float(), grades, teacher, mask))


@pytest.mark.parametrize("name", sorted(set(LOSSES) - SAMPLED))
def test_far_apart_scores_stay_finite(name):
    scores = torch.tensor([[-1e4, 1e4, 0.0]])
    value, gradient = value_and_gradient(name, scores, torch.tensor([[1, 0, 0]]), -scores, torch.ones_like(scores) > 0)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"two_tower"}))
def test_descent_finds_the_order(name):
    grades = torch.tensor([[0.0, 3, 1, 0], [2, 0, 1, 3]])
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    scores = torch.zeros(2, 4, requires_grad=True)
    optimiser, generator = torch.optim.Adam([scores], lr=0.1), seeded()
    for _ in range(150):
        optimiser.zero_grad()
        if name in SAMPLED:
            loss = losses.policy_gradient(scores, grades, mask, generator=generator, samples=32, depth=None)
        else:
            loss = LOSSES[name](scores, grades, grades, mask)
        loss.backward()
        optimiser.step()
    found = scores.detach()
    wanted = (grades > 0).float() if name in ("info_nce", "margin_mse") else grades
    better = (wanted[:, :, None] > wanted[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    assert (found[:, :, None] > found[:, None, :])[better].all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, True, "1"])
def test_a_temperature_out_of_range_is_refused(temperature):
    scores, grades, teacher, mask = random_lists(0)
    for loss in (losses.info_nce, losses.rank_net, losses.list_mle, losses.kl, losses.two_tower):
        with pytest.raises(InputError, match="temperature"):
            loss(scores, teacher, mask, temperature)
    with pytest.raises(InputError, match="temperature"):
        losses.policy_gradient(scores, grades, mask, temperature, generator=seeded())


@every_loss
def test_tensors_that_do_not_fit_are_refused(name):
    scores, grades, teacher, mask = random_lists(0)
    with pytest.raises(InputError, match="bool mask"):
        LOSSES[name](scores, grades, teacher, mask.float())
    with pytest.raises(InputError, match="shape"):
        LOSSES[name](scores, grades[:, :3], teacher[:, :3], mask)
    with pytest.raises(InputError, match="weights"):
        LOSSES[name](scores, grades, teacher, mask, weights=torch.ones(3))


def test_options_out_of_range_are_refused():
    scores, grades, _, mask = random_lists(0)
    for wrong in ({"samples": 1}, {"depth": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            losses.policy_gradient(scores, grades, mask, generator=seeded(), **wrong)
    with pytest.raises(InputError, match="grades"):
        losses.OrdinalHead(1)
    with pytest.raises(InputError, match="K - 1"):
        losses.ordinal(scores, grades, mask)
    with pytest.raises(InputError, match="curriculum"):
        losses.curriculum_weight(scores[:, 0], 1, 0)
