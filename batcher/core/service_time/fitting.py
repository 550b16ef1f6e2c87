"""Fits a curve through measured batch times: pure functions over sizes and times."""

from __future__ import annotations

from itertools import accumulate


def isotonic(values: list[float], weights: list[int]) -> list[float]:
    """Returns the nearest values that never decrease (isotonic regression by pooling violators)."""
    pools: list[tuple[float, int, int]] = []
    for value, weight in zip(values, weights, strict=True):
        pool = (value, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, heavy, count = pools.pop()
            total = heavy + pool[1]
            pool = ((mean * heavy + pool[0] * pool[1]) / total, total, count + pool[2])
        pools.append(pool)
    return [value for value, _, count in pools for _ in range(count)]


def curve_through(sizes: list[int], times: list[float], max_rows: int) -> list[float]:
    """Returns the times of 0 to `max_rows` rows: linear between the points, a fitted line beyond.

    `sizes` ascend and are not empty; `times` do not decrease.
    """
    slope, base = fit_line(sizes, times)
    curve = [0.0]
    place = 0
    for rows in range(1, max_rows + 1):
        while place < len(sizes) and sizes[place] < rows:
            place += 1
        if place < len(sizes) and sizes[place] == rows:
            curve.append(times[place])
        elif place == 0:
            curve.append(min(times[0], max(base + slope * rows, times[0] * rows / sizes[0])))
        elif place == len(sizes):
            curve.append(times[-1] + slope * (rows - sizes[-1]))
        else:
            left, right = sizes[place - 1], sizes[place]
            share = (rows - left) / (right - left)
            curve.append(times[place - 1] + share * (times[place] - times[place - 1]))
    return list(accumulate(curve, max))


def fit_line(sizes: list[int], times: list[float]) -> tuple[float, float]:
    """Returns (slope, intercept) by least squares, neither below zero.

    One size alone does not tell overhead from cost per row. It counts as half of each.
    """
    if len(sizes) == 1:
        return times[0] / 2 / sizes[0], times[0] / 2
    mean_size = sum(sizes) / len(sizes)
    mean_time = sum(times) / len(times)
    spread = sum((size - mean_size) ** 2 for size in sizes)
    slope = (
        sum((s - mean_size) * (t - mean_time) for s, t in zip(sizes, times, strict=True)) / spread
    )
    slope = max(0.0, min(slope, mean_time / mean_size))
    return slope, mean_time - slope * mean_size
