"""What Duck Flight is to reach, on two cores with clients and server on the same machine, and whether it does.

A target is a ratio or a limit of one run. One that is missed stays here: the page says why, and what limits it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from results import CONTENDERS, OURS, CaseResult, Results, Spread
from tables import print_aligned


@dataclass(frozen=True)
class Target:
    """A figure that is to reach something; None where it was not measured."""

    name: str
    aim: str
    case: str
    found: Callable[[CaseResult], float | None]
    is_reached: Callable[[float], bool]
    show: Callable[[float], str]

    def row(self, results: Results) -> list[str]:
        result = results.cases.get(self.case)
        found = self.found(result) if result else None
        if found is None:
            return [self.name, self.aim, "–", "not measured"]
        return [self.name, self.aim, self.show(found), "reached" if self.is_reached(found) else "**missed**"]


def times(value: float) -> str:
    return f"{value:.2f} ×"


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def middle(spread: Spread | None) -> float | None:
    return spread.median if spread else None


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

    def found(result: CaseResult) -> float | None:
        mine, theirs = result.spread(test, ours, metric), result.spread(other_test or test, other, metric)
        return mine.median / theirs.median if mine and theirs else None

    # A share of a limit reads best as such.
    if other == "limit":
        return Target(name, f"≥ {percent(factor)} of the limit", case, found, lambda share: share >= factor, percent)
    called = "" if other == OURS else f" {CONTENDERS[other]}"
    return Target(name, f"≥ {factor:g} ×{called}", case, found, lambda ratio: ratio >= factor, times)


def at_most(name: str, most: float, case: str, test: str, metric: str) -> Target:
    def found(result: CaseResult) -> float | None:
        return middle(result.spread(test, OURS, metric))

    return Target(name, f"≤ {most:,.0f} ms", case, found, lambda value: value <= most, lambda value: f"{value:,.0f} ms")


def slowed_down(name: str, most: float, busy: str, quiet: str) -> Target:
    """The p99 beside a load, as a multiple of that in quiet."""

    def found(result: CaseResult) -> float | None:
        loaded, alone = (result.spread(test, OURS, "latency_ms_p99") for test in (busy, quiet))
        return loaded.median / alone.median if loaded and alone else None

    return Target(name, f"≤ {most:.0f} × quiet", "mixed", found, lambda value: value <= most, times)


def slow_reader(name: str, metric: str, other: str, most: float, aim: str, show: Callable[[float], str]) -> Target:
    def found(result: CaseResult) -> float | None:
        for contenders in result.figures.values():
            found = contenders.get(OURS, {})
            if metric in found:
                return found[metric][0] / (found[other][0] if other else 1)
        return None

    return Target(name, aim, "slow-reader", found, lambda value: value <= most, show)


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
    at_least("read, against Quack's own client", 5, "quack", "reads", "rust", RATE),
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
        "python-1",
        QUERIES,
        "duck-flight-adbc",
    ),
    slowed_down("`SELECT 42`, p99 while loaders write flat out", 3, "small-loading", "small-quiet"),
    slowed_down(
        "GROUP BY over a million rows, p99 while loaders write flat out", 3, "aggregate-loading", "aggregate-quiet"
    ),
    at_most("longest ack, puts of 1,000 rows flat out", 100, "stalls", "puts", "latency_ms_max"),
    at_most("longest ack, batch commit flat out", 100, "stalls", "batch", "latency_ms_max"),
    at_least("256 loaders against 8, 1,000-row puts", 1, OURS, "loads", "puts-256x1000", RATE, other_test=PUTS),
    at_least("256 loaders against 8, batch commit", 1, OURS, "loads", "batch-256x1000", RATE, other_test=BATCH),
    slow_reader("slow reader: memory peak", "memory_mb", "", 512, "≤ 512 MB", lambda value: f"{value:,.0f} MB"),
    slow_reader("slow reader: late memory against early", "late_memory_mb", "early_memory_mb", 1.1, "≤ 1.1 ×", times),
)

HEADER = ["case", "target", "found", ""]


def rows(results: Results) -> list[list[str]]:
    return [HEADER, *(target.row(results) for target in TARGETS if target.case in results.cases)]


def markdown(results: Results) -> str:
    header, *rest = rows(results)
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---", "---:", "---:", "---"], *rest])


def print_for(results: Results, cases: list[str]) -> None:
    """Those of a few cases, if they have any."""
    lines = [target.row(results) for target in TARGETS if target.case in cases]
    if lines:
        print("== targets")
        print_aligned([[cell.strip("*") for cell in line] for line in [HEADER, *lines]])
