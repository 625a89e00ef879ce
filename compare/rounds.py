"""Medians over rounds with bootstrap intervals. Ratios are paired: both sides come from the same round."""

import random
from statistics import median

RESAMPLES = 5000


def interval(values: list[float]) -> tuple[float, float]:
    """The bootstrap 95 % interval of the median of `values`, one value per round."""
    generator = random.Random(42)
    medians = sorted(median(generator.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


def summary(values: list[float]) -> tuple[float, float, float]:
    """`(median, lower, upper)` of `values`."""
    return (median(values), *interval(values))


def ratio(values: list[float], reference: list[float]) -> tuple[float, float, float]:
    """`(median, lower, upper)` of `values[round] / reference[round]`."""
    return summary([value / other for value, other in zip(values, reference, strict=True)])


def orders(count: int, rounds: int) -> list[list[int]]:
    """The order of turns in each round: rows of a Williams square, spread over the rounds, each followed by its reverse.

    So no contestant is always first, or always after the same one.
    """
    row = [index // 2 + 1 if index % 2 else -(index // 2) for index in range(count)]
    step = max(1, 2 * count // rounds)
    result = []
    for number in range(rounds):
        order = [(item + number // 2 * step) % count for item in row]
        result.append(order[::-1] if number % 2 else order)
    return result
