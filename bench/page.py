"""The page docs/benchmarks.md: the prose of bench/page.md with tables, plots and the circumstances put in.

In the prose, `{{targets}}`, `{{runs}}`, `{{cases}}`, `{{left_out}}`, `{{table NAME}}` and `{{plot NAME}}` stand for
what a run found, so that making the page anew loses nothing. The few figures that the prose has itself are of profiles and of
single comparisons, which no run makes; it says when they were found.
"""

import re

import plots
import tables
import targets
from case import Bars, Plot, Table
from cases import CASES
from contenders import REPOSITORY
from results import CaseResult, Results

TEMPLATE = REPOSITORY / "bench" / "page.md"
PAGE = REPOSITORY / "docs" / "benchmarks.md"
PICTURES = REPOSITORY / "docs" / "benchmarks"

NOTE = "<!-- Made by scripts/bench.sh from bench/page.md and bench/results/latest.json: change those, not this. -->"


def write(results: Results) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    pictures = drawn(results)
    for name, picture in pictures.items():
        (PICTURES / f"{name}.svg").write_text(picture)
    PAGE.write_text(rendered(TEMPLATE.read_text(), results, set(pictures)))
    print(f"wrote {PAGE.relative_to(REPOSITORY)} and {len(pictures)} plots")


def drawn(results: Results) -> dict[str, str]:
    """The plots that have something to show, by name."""
    found = {}
    for name, result in results.cases.items():
        for plot in CASES[name].plots:
            if picture := plots.draw(plot, result):
                found[plot.name] = picture
    return found


def rendered(template: str, results: Results, pictures: set[str]) -> str:
    def put(match: re.Match) -> str:
        kind, _, name = match[1].partition(" ")
        match kind:
            case "targets":
                return targets.markdown(results)
            case "runs":
                return runs(results)
            case "cases":
                return cases()
            case "left_out":
                return left_out(results)
            case "table":
                table, result = find(name, "tables", results)
                return tables.markdown(table, result)
            case "plot":
                plot, _ = find(name, "plots", results)
                return f"![{plot.title}](benchmarks/{name}.svg)" if name in pictures else tables.NOT_MEASURED
        raise ValueError(f"page.md asks for {match[0]}, which nobody knows")

    return NOTE + "\n\n" + re.sub(r"\{\{([^}]+)\}\}", put, template)


def find(name: str, kind: str, results: Results) -> tuple[Table | Plot | Bars, CaseResult | None]:
    """What has this name, and the results of its case."""
    for case in CASES.values():
        for item in getattr(case, kind):
            if item.name == name:
                return item, results.cases.get(case.name)
    raise ValueError(f"page.md asks for {name}, which is not among the {kind} of any case")


def cases() -> str:
    lines = [[f"`{case.name}`", case.about] for case in CASES.values()]
    return tables.written([["case", "what it does"], *lines], ["---", "---"])


def runs(results: Results) -> str:
    """Where and with what the cases were measured, and by which commands; what is the same is said once."""
    places: dict[str, dict[str, list[str]]] = {}
    for name, result in results.cases.items():
        about = result.about
        place = f"{machine(about)}; {versions(about)}"
        run = f"`{about['command']}` at commit `{about['commit']}` on {about['time'][:10]}: {turns(about)}"
        places.setdefault(place, {}).setdefault(run, []).append(name)
    blocks = []
    for place, commands in places.items():
        lines = [f"- {', '.join(names)}: {run}" for run, names in commands.items()]
        blocks.append("\n".join([f"{place}:", "", *lines]))
    return "\n\n".join(blocks) or tables.NOT_MEASURED


def turns(about: dict) -> str:
    said = f"{about['mode']}, {about['turns']} turn{'' if about['turns'] == 1 else 's'}"
    if (busy := about.get("busy_percent_before")) is not None:
        said += f", {busy} % of the cores busy before"
    if (seconds := about.get("run_seconds")) is not None:
        said += f", {minutes(seconds)} for all of the run"
    return said


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"


def machine(about: dict) -> str:
    found = about["machine"]
    processor = f"{found['processor']}, {found['cores']} cores, {found['memory_gib']} GiB"
    return f"{found['system']}, {processor}, on {found['file_system']}"


def versions(about: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in about["versions"].items())


def left_out(results: Results) -> str:
    lines = [f"- {name}: {reason}" for name, result in results.cases.items() for reason in result.left_out]
    lines += [f"- {name}: failed: {reason}" for name, result in results.cases.items() for reason in result.failed]
    return "\n".join(lines) or "Nothing."
