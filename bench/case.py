"""What a case is: steps that are taken in turns, and how their figures are shown."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from results import CONTENDERS
from sizes import Size


@dataclass(frozen=True)
class Step:
    """One measuring of one contender. What it finds counts for each of its tests."""

    tests: tuple[str, ...]
    contender: str
    measure: Callable[[], dict[str, float | None]]
    # For long steps, whose worst moment counts and not their median: taken in the first turn only.
    once: bool = False


def step(test: str, contender: str, measure: Callable, *arguments, once: bool = False) -> Step:
    return Step((test,), contender, lambda: measure(*arguments), once)


@dataclass(frozen=True)
class Unit:
    """How a figure is shown."""

    show: Callable[[float], str]
    axis: str


def significant(value: float) -> str:
    """Three digits that say something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def rate(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 100_000 else f"{value:,.0f}"


ROWS_PER_SECOND = Unit(rate, "rows/s")
QUERIES_PER_SECOND = Unit(lambda value: f"{value:,.0f}", "queries/s")
MILLISECONDS = Unit(significant, "ms")
SECONDS = Unit(significant, "s")
NANOSECONDS = Unit(lambda value: f"{significant(value)} ns", "ns")
MICROSECONDS = Unit(lambda value: f"{significant(value / 1e3)} µs", "µs")
COUNT = Unit(lambda value: f"{value:,.0f}", "count")
PERCENT = Unit(lambda value: f"{value:.0f} %", "%")
MEGABYTES = Unit(lambda value: f"{value:,.0f}", "MB")


@dataclass(frozen=True)
class Column:
    """A column of a table: a metric of a contender, for each test."""

    label: str
    contender: str
    metric: str
    unit: Unit
    # Whether another contender's figure says how many times it ours is.
    is_compared: bool = True


def by_contender(metric: str, unit: Unit, *contenders: str) -> tuple[Column, ...]:
    """A column for each contender, ours last, for the eye to end on."""
    return tuple(Column(CONTENDERS[name], name, metric, unit) for name in contenders)


def by_metric(contender: str, **units: tuple[str, Unit]) -> tuple[Column, ...]:
    """A column for each metric of one contender: its label and its unit."""
    return tuple(Column(label, contender, metric, unit) for metric, (label, unit) in units.items())


def cpu_of(what: str, unit: Unit, *contenders: str) -> tuple[Column, ...]:
    """What a row or a query takes of the cores' time, as `clients.with_cpu` finds it."""
    metrics = (
        ("server_cpu_ns", f"server's CPU a {what}", unit),
        ("clients_cpu_ns", f"clients' CPU a {what}", unit),
        ("busy_percent", "cores busy", PERCENT),
    )
    return tuple(
        Column(f"{CONTENDERS[name]}: {label}", name, metric, unit, is_compared=False)
        for name in contenders
        for metric, label, unit in metrics
    )


@dataclass(frozen=True)
class Table:
    """A table of the page: a row for each test that the label knows."""

    name: str
    heading: str
    label: Callable[[str], str | None]
    columns: tuple[Column, ...]
    # What the rows are sorted by; as they were measured where there is nothing.
    order: Callable[[str], tuple] | None = None


@dataclass(frozen=True)
class Series:
    """A line of a plot."""

    label: str
    contender: str
    metric: str
    # Where a test stands on the horizontal axis; None for the tests that are not of this line.
    place: Callable[[str], float | None]


@dataclass(frozen=True)
class Plot:
    """A picture of the page: lines over a logarithmic axis."""

    name: str
    title: str
    axis: str
    unit: Unit
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Bars:
    """A picture of the page: a bar for each contender, in groups by test."""

    name: str
    title: str
    unit: Unit
    metric: str
    label: Callable[[str], str | None]
    contenders: tuple[str, ...]
    log_scale: bool = False
    order: Callable[[str], tuple] | None = None


@dataclass(frozen=True)
class Case:
    """Something that is measured: its steps, and how its figures are shown."""

    name: str
    about: str
    steps: Callable[[Size], Iterable[Step]]
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot | Bars, ...] = field(default=())


def shown_tests(item: Table | Bars, tests: Iterable[str]) -> list[str]:
    """The tests that a table or a picture shows, in its order."""
    known = [test for test in tests if item.label(test)]
    return sorted(known, key=item.order) if item.order else known


def named(labels: dict[str, str]) -> Callable[[str], str | None]:
    """The labels of a few tests, by name."""
    return labels.get
