"""What Duck Flight is to reach, on two cores with clients and server on the same machine, and whether it does.

A target is a ratio or a limit of one run. One that is missed stays here: the page says why, and what limits it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from results import CONTENDERS, OURS, CaseResult, Results, Spread, ratio
from tables import print_aligned, shown, written


@dataclass(frozen=True)
class Target:
    """A figure that is to reach something; None where it was not measured."""

    name: str
    aim: str
    case: str
    found: Callable[[CaseResult], Spread | None]
    is_reached: Callable[[float], bool]
    show: Callable[[float], str]

    def row(self, results: Results) -> list[str]:
        result = results.cases.get(self.case)
        found = self.found(result) if result else None
        if found is None:
            return [self.name, self.aim, "–", "not measured"]
        return [self.name, self.aim, shown(found, self.show, " to "), self.verdict(found)]

    def verdict(self, found: Spread) -> str:
        """The median decides; where turns differ, that is said."""
        said = "reached" if self.is_reached(found.median) else "**missed**"
        is_sure = self.is_reached(found.least) == self.is_reached(found.most)
        return said if is_sure else f"{said}, turns differ"


def times(value: float) -> str:
    return f"{value:.2f} ×"


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def at_least(
    name: str,
    factor: float,
    other: str,
    case: str,
    test: str,
    metric: str,
    ours: str = OURS,
    other_test: str | None = None,
) -> Target:
    """Our figure is to be so many times another's in the same run."""

    def found(result: CaseResult) -> Spread | None:
        return ratio(result.values(test, ours, metric), result.values(other_test or test, other, metric))

    # A share of a limit reads best as such.
    if other == "limit":
        return Target(name, f"≥ {percent(factor)} of the limit", case, found, lambda share: share >= factor, percent)
    called = "" if other == OURS else f" {CONTENDERS[other]}"
    return Target(name, f"≥ {factor:g} ×{called}", case, found, lambda times: times >= factor, times)


def longest_ack(how: str, test: str) -> Target:
    """In a minute: a shorter load says nothing about it."""

    def found(result: CaseResult) -> Spread | None:
        lasted = result.values(test, OURS, "seconds")
        return result.spread(test, OURS, "latency_ms_max") if lasted and min(lasted) >= MINUTE_SECONDS else None

    aim, reached = f"≤ {LONGEST_ACK_MS} ms", lambda value: value <= LONGEST_ACK_MS
    return Target(f"longest ack in a minute, {how}", aim, "stalls", found, reached, lambda value: f"{value:,.0f} ms")


def slowed_down(name: str, most: float, busy: str, quiet: str) -> Target:
    """The p99 beside a load, as a multiple of that in quiet."""

    def found(result: CaseResult) -> Spread | None:
        return ratio(*(result.values(test, OURS, "latency_ms_p99") for test in (busy, quiet)))

    return Target(name, f"≤ {most:.0f} × quiet", "mixed", found, lambda value: value <= most, times)


def slow_reader(name: str, metric: str, other: str, most: float, aim: str, show: Callable[[float], str]) -> Target:
    def found(result: CaseResult) -> Spread | None:
        for contenders in result.figures.values():
            figures = contenders.get(OURS, {})
            if values := figures.get(metric):
                return ratio(values, figures[other]) if other else Spread.of(values)
        return None

    return Target(name, aim, "slow-reader", found, lambda value: value <= most, show)


LONGEST_ACK_MS, MINUTE_SECONDS = 100, 60
RATE, QUERIES = "rows_per_second", "queries_per_second"
PUTS, BIG_PUTS = "puts-8x1000", "puts-8x10000"
BATCH = "batch-8x1000"

TARGETS = (
    at_least("8 loaders × 1,000-row puts, durable", 5, "seed", "loads", PUTS, RATE),
    at_least("8 loaders × 1,000-row puts, durable", 8, "quack", "loads", PUTS, RATE),
    at_least("8 loaders × 1,000-row batches, exactly once", 0.85, "limit", "loads", BATCH, RATE, "duck-flight-once"),
    at_least("8 loaders × 10,000-row puts", 2.2, "seed", "loads", BIG_PUTS, RATE),
    at_least("8 loaders × 10,000-row puts", 0.85, "limit", "loads", BIG_PUTS, RATE),
    at_least("one-row puts, 8 clients", 1, "postgres", "loads", "puts-8x1", RATE),
    at_least("one-row puts, 8 clients", 20, "quack", "loads", "puts-8x1", RATE),
    at_least("read, Rust client", 0.75, "limit", "reads", "rust", RATE),
    at_least("read, pyarrow client", 2, "seed", "reads", "pyarrow", RATE),
    at_least("read, Rust client, against Quack's own", 5, "quack", "reads", "rust", RATE),
    at_least("read, pyarrow client, against Quack's own", 5, "quack", "reads", "pyarrow", RATE, other_test="rust"),
    at_least("read, ADBC against plain pyarrow", 1, OURS, "reads", "adbc", RATE, other_test="pyarrow"),
    at_least("small query, one connection", 3, "seed", "small", "rust-1", QUERIES),
    at_least("small query, one connection", 8, "quack", "small", "rust-1", QUERIES),
    at_least("small query, eight connections", 3, "seed", "small", "rust-8", QUERIES),
    at_least("small query, eight connections", 8, "quack", "small", "rust-8", QUERIES),
    at_least(
        "small query by ADBC, against the seed's by pyarrow",
        3,
        "seed",
        "small",
        "adbc-1",
        QUERIES,
        other_test="pyarrow-1",
    ),
    slowed_down("`SELECT 42`, p99 while loaders write flat out", 3, "small-loading", "small-quiet"),
    slowed_down(
        "GROUP BY over a million rows, p99 while loaders write flat out", 3, "aggregate-loading", "aggregate-quiet"
    ),
    longest_ack("puts of 1,000 rows flat out", "puts"),
    longest_ack("batch commit, 8 batches of each loader on their way", "batch"),
    longest_ack("batch commit, 32 batches of each loader on their way (the default)", "batch-default"),
    longest_ack("batch commit, 125 batches of each loader on their way", "batch-flat-out"),
    at_least("256 loaders against 8, 1,000-row puts", 1, OURS, "loads", "puts-256x1000", RATE, other_test=PUTS),
    at_least("256 loaders against 8, batch commit", 1, OURS, "loads", "batch-256x1000", RATE, other_test=BATCH),
    slow_reader("slow reader: memory peak", "memory_mb", "", 512, "≤ 512 MB", lambda value: f"{value:,.0f} MB"),
    slow_reader("slow reader: late memory against early", "late_memory_mb", "early_memory_mb", 1.1, "≤ 1.1 ×", times),
)

HEADER = ["case", "target", "found", ""]


def rows(results: Results) -> list[list[str]]:
    return [HEADER, *(target.row(results) for target in TARGETS if target.case in results.cases)]


def markdown(results: Results) -> str:
    return written(rows(results), ["---", "---:", "---:", "---"])


def print_for(results: Results, cases: list[str]) -> None:
    """Those of a few cases, if they have any."""
    lines = [target.row(results) for target in TARGETS if target.case in cases]
    if lines:
        print("== targets")
        print_aligned([[cell.replace("**", "") for cell in line] for line in [HEADER, *lines]])
