"""What was measured, and its statistics."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

# Each contender by its name in the results, as the page and the tables call it.
CONTENDERS = {
    "limit": "in-process DuckDB",
    "floor": "the floor",
    "seed": "seed",
    "quack": "Quack",
    "postgres": "PostgreSQL",
    "duck-flight": "Duck Flight",
    "duck-flight-once": "Duck Flight, exactly once",
    "duck-flight-adbc": "Duck Flight, ADBC",
    "duck-flight-sql": "Duck Flight, Flight SQL",
    "duck-flight-prepared": "Duck Flight, prepared",
}
OURS = "duck-flight"


@dataclass(frozen=True)
class Spread:
    """A figure over all turns."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread | None":
        return cls(median(values), min(values), max(values)) if values else None


@dataclass
class CaseResult:
    """The figures of one case, all of one run: by test, contender and metric, a value for each turn."""

    about: dict
    figures: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    # What was not measured, and why.
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, test: str, contender: str, measured: dict[str, float | None]) -> None:
        metrics = self.figures.setdefault(test, {}).setdefault(contender, {})
        for metric, value in measured.items():
            if value is not None:
                metrics.setdefault(metric, []).append(value)

    def leave_out(self, reason: str) -> None:
        if reason not in self.left_out:
            self.left_out.append(reason)

    def values(self, test: str, contender: str, metric: str) -> list[float]:
        return self.figures.get(test, {}).get(contender, {}).get(metric, [])

    def spread(self, test: str, contender: str, metric: str) -> Spread | None:
        return Spread.of(self.values(test, contender, metric))

    def ratio(self, test: str, metric: str, contender: str, other: str) -> Spread | None:
        """How many times the other's figure a contender's is."""
        return ratio(self.values(test, contender, metric), self.values(test, other, metric))


def ratio(values: list[float], others: list[float]) -> Spread | None:
    """The ratio of the medians; its spread is that of the turns' own ratios, where each turn measured both."""
    if not values or not others or min(others) <= 0:
        return None
    middle = median(values) / median(others)
    pairs = [middle]
    if len(values) == len(others):
        pairs += [value / other for value, other in zip(values, others, strict=True)]
    return Spread(middle, min(pairs), max(pairs))


def percentile(values: list[float], percent: int) -> float:
    """The least of the values that so many percent of them do not exceed (nearest rank)."""
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def latency_report(millis: list[float]) -> dict:
    """As duck-bench reports latencies."""
    percents = {"p50": 50, "p99": 99, "max": 100}
    return {f"latency_ms_{name}": percentile(millis, percent) for name, percent in percents.items()}


class Results:
    """The cases of one or more runs; a file keeps them. Figures are only compared within a case, so within a run."""

    def __init__(self, path: Path):
        self.path = path
        self.cases: dict[str, CaseResult] = {}

    @classmethod
    def load(cls, path: Path) -> "Results":
        results = cls(path)
        if path.exists():
            cases = json.loads(path.read_text())["cases"]
            results.cases = {name: CaseResult(**case) for name, case in cases.items()}
        return results

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cases = {name: vars(case) for name, case in self.cases.items()}
        self.path.write_text(json.dumps({"cases": cases}, indent=1) + "\n")
