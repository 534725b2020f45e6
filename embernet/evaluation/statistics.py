"""How far a measured share can be trusted, and whether two models differ."""

import math

CONFIDENCE = 0.95
_Z = 1.959963984540054  # the standard normal's quantile at (1 + CONFIDENCE) / 2


def wilson_interval(successes: float, count: int) -> tuple[float, float]:
    """Wilson's score interval, at CONFIDENCE, of the share `successes / count`; (0, 1) of nothing.

    Successes may be fractions: of all scores in 0..1 with one mean, those that are 0 or 1 vary most, so that the
    interval is never too narrow. (Wilson, JASA 22, 1927.)
    """
    if count == 0:
        return 0.0, 1.0
    share, z2 = successes / count, _Z * _Z
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: that two equally good models part at least so unevenly.

    only_first, only_second: questions that only one of the models answered rightly. (McNemar, Psychometrika 12, 1947.)
    """
    count = only_first + only_second
    ways = term = 1
    for k in range(min(only_first, only_second)):
        term = term * (count - k) // (k + 1)
        ways += term
    return min(1.0, 2 * ways / 2**count)
