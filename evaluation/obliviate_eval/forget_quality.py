"""Forget quality (TOFU, arXiv:2401.06121, section 2.2): is the model told from one that never saw the forget set?"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, exp, lcm, log, log10

from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate_eval.metrics.truth_ratio import log_truth_ratio
from obliviate_eval.records import Record, asked_again

COUNTED = 10**6  # pairs of items, up to which paths are counted in integers


@dataclass(frozen=True)
class ForgetQuality:
    """Two-sample Kolmogorov-Smirnov test of the forget set's truth ratios: the model's against the retain model's.

    The p-value is high where the two can't be told apart. It saturates: once the samples don't overlap (statistic 1)
    it is 2 / C(2n, n) for n items whatever the model does, so the statistic is to be read beside it, and values of
    sets of different sizes don't compare.
    """

    p_value: float  # exact; 0 below 1e-323, where log10_p goes on
    log10_p: float
    statistic: float  # largest distance of the two distribution functions, in [0, 1]
    smallest_log10_p: float  # what it saturates at
    scored: int  # items of the model
    unscored: int
    reference_scored: int  # items of the retain model
    reference_unscored: int


def forget_quality(records: Sequence[Record], reference_records: Sequence[Record]) -> ForgetQuality | None:
    """None where one of the two has no truth ratio at all. Raises UserError if they were asked different questions.

    The test knows only the order of the values, so that the ratio's logarithm and its inverse give the same result.
    Items that are asked twice, in other words, count once.
    """
    forget, reference = (
        [record for record in each if record.role is Role.FORGET and not asked_again(record.set)]
        for each in (records, reference_records)
    )
    if {(r.set, r.question) for r in forget} != {(r.set, r.question) for r in reference}:
        raise UserError(
            f"forget quality: the model has {len(forget)} forget records and the retain model {len(reference)}, "
            "not of the same questions; evaluate both on the same data"
        )
    own = [value for record in forget if (value := log_truth_ratio(record)) is not None]
    other = [value for record in reference if (value := log_truth_ratio(record)) is not None]
    if not own or not other:
        return None
    from scipy.stats import ks_2samp  # half a second, which reading figures from a file need not wait for

    n, m = len(own), len(other)
    statistic = float(ks_2samp(own, other).statistic)
    p_value, log10_p = p_of(statistic, n, m)
    return ForgetQuality(
        p_value=p_value,
        log10_p=log10_p,
        statistic=statistic,
        smallest_log10_p=log10(2) - log10(comb(n + m, n)),
        scored=n,
        unscored=len(forget) - n,
        reference_scored=m,
        reference_unscored=len(reference) - m,
    )


def p_of(statistic: float, n: int, m: int) -> tuple[float, float]:
    """The exact two-sided p-value of samples of n and m items (without ties); its log10, which does not underflow."""
    if n * m > COUNTED:
        log_p = log_share_of_equal(statistic, n) if n == m else log_share_of_paths(statistic, n, m)
        return exp(log_p), log_p / log(10)
    reaching, total = count_paths(statistic, n, m)
    return reaching / total, log10(reaching) - log10(total)


def log_share_of_equal(statistic: float, n: int) -> float:
    """As `log_share_of_paths` of two samples of n items, in n steps: by reflection (Gnedenko and Korolyuk 1951) the
    share is 2 (T_1 - T_2 + T_3 - ...), T_k = C(2n, n - kh) / C(2n, n), for a largest difference of h in n. Taken from
    the last term on, each a factor of the one before, all partial results lie in [0, 1]."""
    import numpy as np

    h = round(statistic * n)
    if h <= 0:
        return 0.0
    j = np.arange(n)
    log_T = np.concatenate([[0.0], np.cumsum(np.log((n - j) / (n + j + 1)))])[h::h]
    rest = 1.0
    for ratio in np.exp(np.diff(log_T))[::-1]:
        rest = 1.0 - float(ratio) * rest
    return min(0.0, log(2) + float(log_T[0]) + log(rest))


def log_share_of_paths(statistic: float, n: int, m: int) -> float:
    """The log of `count_paths`' quotient, to a relative error of some (n + m) 2^-52: a random path's last step into
    (i, j) comes from (i - 1, j) with probability i / (i + j), so that the share of those to (i, j) that have reached
    the statistic is a mean of two such shares. Nothing cancels; in logs nothing underflows. n + m steps over vectors.
    """
    import numpy as np

    scale = lcm(n, m)
    reach, own, other = round(statistic * scale), scale // n, scale // m
    share_I = np.full(n + 2, -np.inf)  # of paths to (i, d - i) at I = i + 1
    share_I[1] = 0.0 if reach <= 0 else -np.inf
    with np.errstate(divide="ignore"):
        logs = np.log(np.arange(n + m + 1))
    for d in range(1, n + m + 1):
        i = np.arange(max(0, d - m), min(n, d) + 1)
        mean = np.logaddexp(logs[i] + share_I[i], logs[d - i] + share_I[i + 1]) - logs[d]
        share_I[i + 1] = np.where(np.abs(i * own - (d - i) * other) >= reach, 0.0, mean)
    return float(share_I[n + 1])


def count_paths(statistic: float, n: int, m: int) -> tuple[int, int]:
    """Merged orders of samples of n and m items (without ties) that reach the statistic, and all C(n + m, n) orders.

    Their quotient is the exact two-sided p-value (Hodges 1958). An order is a lattice path from (0, 0) to (n, m).
    Counted in integers, so that nothing underflows or cancels; n x m additions of numbers of n + m bits.
    """
    scale = lcm(n, m)
    reach = round(statistic * scale)  # a path reaches the statistic where |i/n - j/m| >= statistic
    row = [1] + [0] * m  # paths to (i, j) that stay below it; before the first row, the one path that starts there
    for i in range(n + 1):
        below = [abs(i * (scale // n) - j * (scale // m)) < reach for j in range(m + 1)]
        row = _next_row(row, below)
    total = comb(n + m, n)
    return total - row[m], total


def _next_row(above: Sequence[int], below: Sequence[bool]) -> list[int]:
    """Paths to each point of a row: from the row above or from the left, none to a point that isn't below."""
    row, left = [], 0
    for paths, allowed in zip(above, below, strict=True):
        left = left + paths if allowed else 0
        row.append(left)
    return row
