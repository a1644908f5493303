"""The tables of figures, for a terminal and for the page."""

from collections.abc import Callable

from case import Case, Column, Table, shown_tests
from results import OURS, CaseResult, Spread

NOT_MEASURED = "*Not measured.*"


def cell(column: Column, test: str, result: CaseResult) -> str:
    """The median with the least and the most; for another contender, also how many times its figure ours is."""
    spread = result.spread(test, column.contender, column.metric)
    if spread is None:
        return "–"
    text = shown(spread, column.unit.show, "–")
    if column.contender == OURS or not column.is_compared:
        return text
    ratio = result.ratio(test, column.metric, OURS, column.contender)
    return f"{text} · {ratio_shown(ratio)}" if ratio else text


def shown(spread: Spread, show: Callable[[float], str], between: str) -> str:
    least, middle, most = (show(value) for value in (spread.least, spread.median, spread.most))
    return middle if least == most else f"{middle} ({least}{between}{most})"


def ratio_shown(ratio: Spread) -> str:
    digits = 0 if ratio.median >= 100 else 1 if ratio.median >= 10 else 2
    return f"×{ratio.median:,.{digits}f}"


def rows_of(table: Table, result: CaseResult) -> list[list[str]]:
    """The header and the rows; columns and rows without any figure are left out."""
    tests = shown_tests(table, result.figures)
    columns = [
        column
        for column in table.columns
        if any(result.values(test, column.contender, column.metric) for test in tests)
    ]
    lines = []
    for test in tests:
        cells = [cell(column, test, result) for column in columns]
        if any(text != "–" for text in cells):
            lines.append([table.label(test), *cells])
    return [[table.heading, *(column.label for column in columns)], *lines] if lines else []


def markdown(table: Table, result: CaseResult | None) -> str:
    lines = rows_of(table, result) if result else []
    if not lines:
        return f"*Not measured: {table.heading}.*"
    return written(lines, ["---"] + ["---:"] * (len(lines[0]) - 1))


def written(lines: list[list[str]], rule: list[str]) -> str:
    """A header and rows in Markdown, whose rule says to which side each column is aligned."""
    header, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *rest])


def print_aligned(lines: list[list[str]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        first = line[0].ljust(widths[0])
        rest = [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join([first, *rest]).rstrip())
    print()


def print_case(case: Case, result: CaseResult) -> None:
    about = result.about
    print(f"== {case.name}: {about['mode']}, turns: {about['turns']}, {about['time']}, commit {about['commit']}")
    for table in case.tables:
        if lines := rows_of(table, result):
            print_aligned(lines)
    for reason in result.left_out:
        print(f"left out: {reason}")
