"""Shares of runs that end in a bad local minimum (Safran & Shamir 2018, arXiv 1712.08968, table 1), beside ours."""

import numpy as np

import landscape as ls

PUBLISHED_RUNS = 1000
Z_BAND = 2.5758293  # of the normal distribution at 99 %

_EQUAL = (0.3, 5.5, 12.6, 21.8, 34.6, 45.5, 58.5, 73.0, 73.6, 80.3, 85.1, 89.7, 90.0, 93.4, 94.0)
PUBLISHED = {(k, k): share / 100 for k, share in enumerate(_EQUAL, start=6)}
PUBLISHED |= {(8, 9): 0.001, (13, 14): 0.015, (14, 15): 0.055, (16, 17): 0.18, (19, 20): 0.491}
"""Shares of bad runs by (k, n)."""


def band(share: float, count: int, published: int = PUBLISHED_RUNS) -> tuple[float, float]:
    """Shares of `count` runs that a two-proportion z test does not tell from a published share at 1 %."""
    hits = np.arange(count + 1)
    expected = round(share * published)
    pooled = (hits + expected) / (count + published)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / count + 1 / published))
    inside = hits[np.abs(hits / count - expected / published) <= Z_BAND * spread]
    return float(inside[0] / count), float(inside[-1] / count)


def beside_published(published: float | None, bad: np.ndarray, still: np.ndarray) -> tuple[str, str]:
    """The published share of bad runs with its band, and the one found, with whether it lies inside.

    Runs that were not followed to the end count as bad, but one of them may become good. Where that decides the matter
    it is open.

    Args:
        published: share of `PUBLISHED_RUNS`, or `None` where none is listed.
        bad: runs at a loss of at least 1e-3.
        still: runs that are not at rest.
    """
    hits, count = int(bad.sum()), len(bad)
    sure = hits - int(np.sum(bad & still))
    low, high = ls.analysis.wilson_interval(hits, count)
    text = f"{100 * hits / count:.1f} (95 % {100 * low:.1f} ... {100 * high:.1f}), {hits} of {count}"
    text += f", {hits - sure} of them not at rest" * (hits > sure)
    if published is None:
        return "not listed", text
    least, most = band(published, count)
    inside = [least <= number / count <= most for number in (sure, hits)]
    apart = hits / count < least or sure / count > most
    verdict = "inside" if all(inside) else "OUTSIDE" if apart else "open"
    return f"{100 * published:.1f} (99 % band {100 * least:.1f} ... {100 * most:.1f})", f"{text}: {verdict}"
