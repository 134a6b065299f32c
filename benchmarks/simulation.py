"""Coverage, false positives and power of the statistics, on simulated per-query differences.

python benchmarks/simulation.py [--experiments 2000] [--queries 30 50 100 200]
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rerankit.evaluation.arena import next_match
from rerankit.evaluation.power import power
from rerankit.evaluation.ratings import Vote, fit_ratings
from rerankit.evaluation.resampling import mean_interval, sign_flip_p
from rerankit.evaluation.sequential import log_wealth, signed_observations
from rerankit.evaluation.simulation import SHAPES

RESAMPLES = 1999


def covered(intervals: NDArray[np.float64], mean: float) -> float:
    return float(((intervals[:, 0] <= mean) & (mean <= intervals[:, 1])).mean())


def others(values: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The intervals that were not chosen: Student's t, BCa, equal-tailed bootstrap-t."""
    experiments, queries = values.shape
    mean, error = values.mean(1), values.std(1, ddof=1) / math.sqrt(queries)
    t = stats.t.ppf(0.975, queries - 1)
    picks = np.random.default_rng(5).multinomial(queries, np.full(queries, 1 / queries), size=RESAMPLES) / queries
    shifted = values @ picks.T
    spread = np.maximum((values**2) @ picks.T - shifted**2, 1e-12)
    tails = np.quantile((shifted - mean[:, None]) / np.sqrt(spread / (queries - 1)), [0.025, 0.975], axis=1)
    below = (shifted < mean[:, None]).mean(1) + 0.5 * (shifted == mean[:, None]).mean(1)
    bias = stats.norm.ppf(np.clip(below, 1e-4, 1 - 1e-4))
    centred = values - mean[:, None]
    moment = np.maximum((centred**2).sum(1), 1e-12)
    skew = (centred**3).sum(1) / (6 * moment**1.5)
    ends, ordered = [], np.sort(shifted, axis=1)
    for z in stats.norm.ppf([0.025, 0.975]):
        rank = stats.norm.cdf(bias + (bias + z) / (1 - skew * (bias + z)))
        ends.append(ordered[np.arange(experiments), (rank * (RESAMPLES - 1)).round().astype(int)])
    return {
        "t": np.stack([mean - t * error, mean + t * error], 1),
        "BCa": np.stack(ends, 1),
        "boot-t": np.stack([mean - tails[1] * error, mean - tails[0] * error], 1),
    }


def paired(experiments: int, sizes: list[int]) -> None:
    print(f"Paired comparison, {experiments} experiments each; nominal coverage 0.95, level 0.05")
    print("  effect: mean difference in standard deviations; rejected: interval leaves 0 out | sign-flip p <= 0.05")
    print("shape        n effect coverage      t    BCa boot-t      rejected  planned")
    for name, shape in SHAPES.items():
        for queries in sizes:
            for effect in (0.0, 0.3):
                rng = np.random.default_rng([queries, round(10 * effect)])
                mean = effect * shape.spread()
                values = shape.draw(rng, experiments, queries, mean)
                intervals = mean_interval(values, resamples=RESAMPLES, seed=rng)
                rejected = 1 - covered(intervals, 0.0)
                flips = float((sign_flip_p(values, resamples=RESAMPLES, seed=rng) <= 0.05).mean())
                rest = " ".join(f"{covered(item, mean):6.3f}" for item in others(values).values())
                planned = power(mean, shape.spread(mean), queries)
                print(
                    f"{name:9} {queries:4} {effect:6.1f} {covered(intervals, mean):8.3f} {rest} "
                    f"{rejected:6.3f} {flips:6.3f} {planned:8.3f}"
                )


def peeking(experiments: int, units: int = 1000) -> None:
    print(f"\nLive A/B test looked at after each of {units} units, {experiments} experiments; level 0.05")
    print("click rate  lift always-valid z-test, peeking z-test, once median stop")
    for rate, lift in ((0.3, 0.0), (0.05, 0.0), (0.3, 0.05), (0.3, 0.1), (0.3, 0.15)):
        rng = np.random.default_rng(7)
        treated = rng.random((experiments, units)) < 0.5
        clicks = (rng.random(treated.shape) < np.where(treated, rate + lift, rate)).astype(float)
        signed, bound = signed_observations(clicks, treated, share=0.5)
        unit = (signed + bound) / (2 * bound)
        wealth = np.concatenate([block[..., 0] for block in log_wealth(unit, np.array([0.5]))], axis=1)
        found = wealth >= math.log(20)
        stops = np.where(found.any(1), found.argmax(1) + 1, units)
        count = np.arange(1, units + 1)
        mean = np.cumsum(signed, 1) / count
        z = np.abs(mean) / np.sqrt(np.maximum(np.cumsum(signed**2, 1) / count - mean**2, 1e-9) / count)
        peeked = (z[:, 30:] > 1.96).any(1).mean()
        print(
            f"{rate:10.2f} {lift:5.2f} {found.any(1).mean():12.3f} {peeked:15.3f} {(z[:, -1] > 1.96).mean():12.3f} "
            f"{np.median(stops):11.0f}"
        )


def arena(repeats: int = 40, votes: int = 240) -> None:
    truth = {f"arm{place}": strength for place, strength in enumerate((-1.5, -1.2, -0.2, 0.1, 1.2, 1.5))}
    print(f"\nArena: {len(truth)} arms, {votes} duels, {repeats} repeats")
    for active in (False, True):
        errors, inside = [], []
        for repeat in range(repeats):
            rng = np.random.default_rng(repeat)
            cast: list[Vote] = []
            for number in range(votes):
                if number % 20 == 0:
                    ratings = fit_ratings(cast, arms=list(truth))
                pair = (
                    next_match(ratings, seed=rng)
                    if active
                    else tuple(rng.choice(list(truth), 2, replace=False).tolist())
                )
                first = rng.random() < 1 / (1 + math.exp(truth[pair[1]] - truth[pair[0]]))
                cast.append(Vote(pair, ((pair[0 if first else 1],),)))
            ratings = fit_ratings(cast, arms=list(truth))
            for low, high in ((0, 1), (2, 3), (4, 5)):
                gap, *interval = ratings.difference(f"arm{high}", f"arm{low}")
                errors.append(gap - truth[f"arm{high}"] + truth[f"arm{low}"])
                inside.append(interval[0] <= truth[f"arm{high}"] - truth[f"arm{low}"] <= interval[1])
        how = "active" if active else "random"
        rmse = math.sqrt(np.mean(np.square(errors)))
        print(f"  {how} matches: error {rmse:.3f} between neighbours (RMSE, log-odds), coverage {np.mean(inside):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--queries", type=int, nargs="+", default=[30, 50, 100, 200])
    options = parser.parse_args()
    paired(options.experiments, options.queries)
    peeking(options.experiments)
    arena()


if __name__ == "__main__":
    main()
