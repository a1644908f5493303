"""Measures Duck Flight beside other servers and beside DuckDB's own limits, prints the ratios, and writes the page.

Contenders take turns, each time on a fresh database; what is shown is the median of all turns, the least and the most.
Without --quick or --full it is quick: a part of everything, in less than ten minutes on two cores.
"""

import argparse
import os
import shlex
import sys
import time
import traceback
from pathlib import Path

import machine
import page
import tables
import targets
from case import Case, Step
from cases import CASES
from contenders import REPOSITORY, TARGET, LeftOut, allow_many_connections, late_ends
from results import CaseResult, Results
from sizes import SIZES, Size

LATEST = REPOSITORY / "bench" / "results" / "latest.json"
# Figures that mean nothing must not take the place of those.
TINY = TARGET / "bench-tiny.json"

# How much of the cores something else may take before a run: it has its share of every figure.
BUSY_PERCENT = 10


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    about = "\n".join(f"  {case.name:12} {case.about}" for case in CASES.values())
    parser = argparse.ArgumentParser(
        prog="scripts/bench.sh",
        description=__doc__,
        epilog=f"cases:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--quick",
        dest="mode",
        action="store_const",
        const="quick",
        help="a part of the grid, short loads, two turns (default)",
    )
    mode.add_argument(
        "--full", dest="mode", action="store_const", const="full", help="everything, and long enough to trust"
    )
    mode.add_argument(
        "--tiny",
        dest="mode",
        action="store_const",
        const="tiny",
        help="whether every case runs; the figures mean nothing",
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=list(CASES),
        metavar="CASE",
        default=list(CASES),
        help="what to measure (default: all)",
    )
    parser.add_argument("--turns", type=positive, help="turns of each contender (default: 2 quick, 3 full)")
    parser.add_argument(
        "--json",
        type=Path,
        help=f"where results are kept; cases not measured now stay (default: {LATEST}; with --tiny {TINY})",
    )
    parser.add_argument("--no-page", action="store_true", help="only print, and write the JSON")
    parser.add_argument(
        "--page-only", action="store_true", help="measure nothing: make the page and its plots from the JSON"
    )
    # Whether PostgreSQL is needed, as the exit code: for scripts/bench.sh, which gets it.
    parser.add_argument("--wants-postgres", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(mode="quick")
    options = parser.parse_args(given)
    options.json = options.json or (TINY if options.mode == "tiny" else LATEST)
    return options


def main() -> int:
    options = arguments()
    if options.wants_postgres:
        return 0 if wants("postgres", options) else 1
    results = Results.load(options.json)
    # Cases that there are no more.
    results.cases = {name: case for name, case in results.cases.items() if name in CASES}
    seconds = None if options.page_only else measure(results, options)
    for name in options.cases:
        if name in results.cases:
            tables.print_case(CASES[name], results.cases[name])
    targets.print_for(results, options.cases)
    # A tiny run's figures are nothing to show anyone.
    if not options.no_page and options.mode != "tiny":
        page.write(results)
    if seconds is not None:
        print(f"took {page.minutes(seconds)}")
    return report_failures(results, options)


def wants(contender: str, options: argparse.Namespace) -> bool:
    """Whether a case that was chosen measures this one."""
    size = SIZES[options.mode]
    return any(step.contender == contender for name in options.cases for step in CASES[name].steps(size))


def measure(results: Results, options: argparse.Namespace) -> float:
    """All cases that were chosen; answers how many seconds they took."""
    allow_many_connections()
    size = SIZES[options.mode]
    turns = options.turns or size.turns
    command = shlex.join(["scripts/bench.sh", *sys.argv[1:]])
    start_of_run = time.perf_counter()
    about = machine.about_run(size.mode, turns, command)
    busy = about["busy_percent_before"]
    if busy is not None and busy > BUSY_PERCENT:
        print(f"bench: something else takes {busy} % of the cores: the figures will tell of it", file=sys.stderr)
    for name in options.cases:
        results.cases[name] = CaseResult({**about, "time": machine.now()})
        start = time.perf_counter()
        measure_case(CASES[name], results.cases[name], size, turns)
        results.cases[name].about["seconds"] = round(time.perf_counter() - start)
        results.save()
    seconds = time.perf_counter() - start_of_run
    for name in options.cases:
        results.cases[name].about["run_seconds"] = round(seconds)
    results.save()
    return seconds


def measure_case(case: Case, result: CaseResult, size: Size, turns: int) -> None:
    """All steps, one after the other, as often as there are turns: A B A B."""
    steps = list(case.steps(size))
    turns = result.about["turns"] = turns_of(steps, turns)
    for turn in range(turns):
        for number, step in enumerate(steps, 1):
            if turn == 0 or not step.once:
                place = f"turn {turn + 1} of {turns}, step {number} of {len(steps)}"
                say(f"{case.name}, {place}: {step.tests[0]}, {step.contender}")
                take(step, result)
    say("")


def turns_of(steps: list[Step], turns: int) -> int:
    """As many as were asked for, unless all steps are taken in the first one only."""
    return 1 if steps and all(step.once for step in steps) else turns


def take(step: Step, result: CaseResult) -> None:
    """One step; what fails is noted, and the run goes on: there may be an hour of it."""
    # What the one before has left to be written is not to be this one's burden.
    os.sync()
    try:
        measured = step.measure()
    except LeftOut as reason:
        result.leave_out(f"{step.contender}: {reason}")
    except Exception as error:
        traceback.print_exc()
        result.failed.append(f"{step.tests[0]}, {step.contender}: {error}")
    else:
        for test in step.tests:
            result.add(test, step.contender, measured)
    # What was measured stands all the same.
    result.failed += [f"{step.tests[0]}, {step.contender}: {late}" for late in late_ends()]


def say(progress: str) -> None:
    """Shows how far it is: in one line at a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end="", file=sys.stderr, flush=True)
    elif progress:
        print(progress, file=sys.stderr, flush=True)


def report_failures(results: Results, options: argparse.Namespace) -> int:
    failed = [
        f"{name}: {line}" for name in options.cases if name in results.cases for line in results.cases[name].failed
    ]
    for line in failed:
        print(f"bench: failed: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
