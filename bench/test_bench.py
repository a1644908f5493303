"""The benchmark's own arithmetic, and the page it makes. Nothing is measured here."""

import re
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

import clients
import contenders
import page
import plots
import postgres
import run
import tables
import targets
from case import Case, step
from cases import CASES, loads, mixed, reads, rows, small, stalls
from contenders import end, late_ends, megabytes, serving
from results import OURS, CaseResult, Results, Spread, percentile, ratio
from sizes import SIZES

ABOUT = {
    "time": "2026-01-02T03:04:05+00:00",
    "commit": "abc",
    "command": "scripts/bench.sh",
    "mode": "quick",
    "turns": 2,
    "busy_percent_before": 3,
    "machine": {"system": "Linux", "processor": "a processor", "cores": 2, "memory_gib": 24, "file_system": "ext4"},
    "versions": {"duckdb": "1.5.5"},
}


def loads_result() -> CaseResult:
    result = CaseResult(ABOUT)
    for ours, theirs in ((2e6, 1e6), (6e6, 2e6)):
        result.add("puts-8x1000", OURS, {"rows_per_second": ours, "latency_ms_p99": None})
        result.add("puts-8x1000", "seed", {"rows_per_second": theirs})
    result.add("puts-1x1000", OURS, {"rows_per_second": 1e6})
    return result


@pytest.fixture
def results(tmp_path) -> Results:
    found = Results(tmp_path / "latest.json")
    found.cases["loads"] = loads_result()
    return found


def test_a_ratio_is_that_of_the_medians_and_its_spread_that_of_the_turns():
    assert ratio([2, 6], [1, 2]) == Spread(4 / 1.5, 2, 3)
    # Turns that did not measure both say nothing about each other.
    assert ratio([2, 6], [1]) == Spread(4, 4, 4)
    assert ratio([], [1]) is None
    assert ratio([1], [0]) is None


def test_a_percentile_is_a_value_that_was_seen():
    assert [percentile([4.0, 1.0, 3.0, 2.0], percent) for percent in (50, 99, 100)] == [2.0, 4.0, 4.0]
    assert percentile([7.0], 50) == 7.0


def test_the_longest_ack_is_judged_by_loads_of_a_minute_only():
    def row(seconds: float) -> list[str]:
        result = CaseResult(ABOUT)
        result.add("puts", OURS, {"seconds": seconds, "latency_ms_max": 84.0})
        found = Results(None)
        found.cases["stalls"] = result
        (target,) = (target for target in targets.TARGETS if "puts of 1,000 rows flat out" in target.name)
        return target.row(found)[2:]

    assert row(8) == ["–", "not measured"]
    assert row(60) == ["84 ms", "reached"]


def test_turns_are_one_at_least(capsys):
    with pytest.raises(SystemExit):
        run.arguments(["--turns", "0"])
    assert "0 is less than 1" in capsys.readouterr().err


def test_results_are_read_as_they_were_written(results):
    results.save()
    assert Results.load(results.path).cases == results.cases
    assert Results.load(results.path.with_name("missing")).cases == {}


def test_a_table_has_medians_spreads_and_ratios_and_leaves_out_what_was_not_measured():
    (table,) = (table for table in CASES["loads"].tables if table.name == "puts")
    assert tables.rows_of(table, loads_result()) == [
        ["a put for each batch", "seed", "Duck Flight"],
        ["1 loader × 1,000 rows", "–", "1.00 M"],
        ["8 loaders × 1,000 rows", "1.50 M (1.00 M–2.00 M) · ×2.67", "4.00 M (2.00 M–6.00 M)"],
    ]
    for nothing in (CaseResult(ABOUT), None):
        assert tables.markdown(table, nothing) == "*Not measured: a put for each batch.*"


def test_a_target_is_missed_reached_or_not_measured(results):
    verdicts = {(line[0], line[1]): line[2:] for line in targets.rows(results)}
    assert verdicts["8 loaders × 1,000-row puts, durable", "≥ 5 × seed"] == ["2.67 × (2.00 × to 3.00 ×)", "**missed**"]
    assert verdicts["8 loaders × 1,000-row puts, durable", "≥ 8 × Quack"] == ["–", "not measured"]
    for _ in range(3):
        results.cases["loads"].add("puts-8x1000", OURS, {"rows_per_second": 9e6})
    assert targets.TARGETS[0].row(results)[2:] == ["6.00 ×", "reached"]


def test_the_page_has_all_that_its_prose_asks_for(results):
    text = page.rendered(page.TEMPLATE.read_text(), results, set(page.drawn(results)))
    assert "{{" not in text
    assert "| 8 loaders × 1,000 rows |" in text
    assert "at commit `abc` on 2026-01-02: quick, 2 turns, 3 % of the cores busy before" in text
    assert "![1,000-row batches: rows a second by loaders](benchmarks/loaders.svg)" in text
    # A name that nobody knows is an error, not a gap.
    with pytest.raises(ValueError, match="nonsense"):
        page.rendered("{{table nonsense}}", results, set())


def test_the_page_shows_every_table_and_every_plot():
    template = page.TEMPLATE.read_text()
    for case in CASES.values():
        for table in case.tables:
            assert f"{{{{table {table.name}}}}}" in template
        for plot in case.plots:
            assert f"{{{{plot {plot.name}}}}}" in template


def test_plots_are_well_formed_and_stay_inside_their_frame(results):
    for name, picture in page.drawn(results).items():
        root = ElementTree.fromstring(picture)
        height = float(root.attrib["viewBox"].split()[3])
        for axis, most in (("x", plots.WIDTH), ("y", height)):
            for place in re.finditer(rf' c?{axis}[12]?="(-?[\d.]+)"', picture):
                assert 0 <= float(place[1]) <= most, (name, place[0])


@pytest.mark.parametrize(
    ("high", "ticks"), [(4.9, [0, 1, 2, 3, 4, 5]), (1e6, [0, 2e5, 4e5, 6e5, 8e5, 1e6]), (0.03, [0, 0.01, 0.02, 0.03])]
)
def test_an_axis_has_round_numbers_and_reaches_the_highest_value(high, ticks):
    assert plots.nice_ticks(high) == pytest.approx(ticks)


def test_a_load_is_known_by_its_name():
    assert loads.pair("puts", "puts-64x1000") == (64, 1000)
    assert loads.pair("batch", "puts-64x1000") is None
    assert loads.label("puts")("puts-1x1") == "1 loader × 1 row"


def test_each_mode_measures_what_the_targets_need():
    for mode in ("quick", "full"):
        size = SIZES[mode]
        for writers, rows in ((8, 1), (8, 1_000), (8, 10_000), (256, 1_000)):
            assert (writers, rows) in size.puts
        assert {(8, 1_000), (8, 10_000)} <= set(size.seed_puts)
        assert ("batch", 8, 1_000) in size.exactly_once


def test_the_floor_is_measured_where_a_client_or_the_transport_may_be_the_limit():
    floors = {
        test
        for case in (loads, reads, small)
        for step in case.CASE.steps(SIZES["quick"])
        for test in step.tests
        if step.contender == "floor"
    }
    assert {"puts-8x1", "puts-8x10000", "batch-8x1000", "batch-256x1000", "adbc-1", "rust-1", "pyarrow"} <= floors


def test_a_limit_with_a_most_for_its_commits_counts_for_one_kind_of_commit(monkeypatch):
    asked = []
    monkeypatch.setattr(loads, "working_directory", nullcontext)
    monkeypatch.setattr(clients, "bench", lambda *command: asked.append(command) or {"settings": []})
    most_of = {}
    for each in loads.CASE.steps(SIZES["full"]):
        if each.contender == "limit":
            each.measure()
            command = asked.pop()
            if "--max-commit-batches" in command:
                most_of[each.tests[1:]] = command[-1]
    # As many batches as eight loaders have on their way.
    assert most_of == {("puts-8x1",): 8, ("batch-8x1",): 1024}


def test_all_read_the_same_rows(monkeypatch):
    asked = []
    monkeypatch.setattr(reads, "step", lambda test, contender, measure, *given: asked.append((contender, given[-1])))
    for size in SIZES.values():
        asked.clear()
        list(reads.CASE.steps(size))
        assert {"limit", "floor", "seed", "quack", "postgres", OURS} == {contender for contender, _ in asked}
        assert {rows for _, rows in asked} == {size.read_rows}


def test_rows_loaded_before_and_after_a_call_do_not_count(monkeypatch):
    monkeypatch.setattr(clients, "flight", SimpleNamespace(connect=nullcontext))
    monkeypatch.setattr(clients, "count_loaded", lambda _, counts=iter((1_000, 4_000)): next(counts))
    monkeypatch.setattr(clients, "time", SimpleNamespace(perf_counter=iter((10.0, 12.0)).__next__))
    found = clients.with_rows_loaded(SimpleNamespace(url=""), lambda: {"queries_per_second": 7})
    assert found == {"queries_per_second": 7, "rows_per_second": 1_500}


@pytest.mark.parametrize(("once", "turns"), [((True, True), 1), ((True, False), 3), ((), 3)])
def test_a_case_tells_how_many_turns_it_took(once, turns):
    steps = [step(str(number), OURS, dict, once=is_once) for number, is_once in enumerate(once)]
    result = CaseResult({**ABOUT, "turns": 3})
    run.measure_case(Case("some", "", lambda _: steps), result, SIZES["tiny"], 3)
    assert result.about["turns"] == turns
    assert f"quick, {turns} turn" in page.turns(result.about)


def test_a_run_tells_how_many_minutes_it_took_and_keeps_them(results, monkeypatch, capsys):
    monkeypatch.setattr(run.machine, "about_run", lambda mode, turns, command: ABOUT)
    monkeypatch.setattr(run, "measure_case", lambda *_: None)
    monkeypatch.setattr(run, "allow_many_connections", lambda: None)
    monkeypatch.setattr(run.time, "perf_counter", iter((0.0, 1.0, 61.0, 62.0, 180.0, 210.4)).__next__)
    monkeypatch.setattr(sys, "argv", ["run.py", "--no-page", "--json", str(results.path), "--cases", "reads", "small"])
    assert run.main() == 0
    assert capsys.readouterr().out.endswith("\ntook 3.5 minutes\n")
    kept = Results.load(results.path).cases
    assert [kept[name].about["run_seconds"] for name in ("reads", "small")] == [210, 210]
    assert "busy before, 3.5 minutes for all of the run" in page.runs(Results.load(results.path))


def test_the_turns_of_a_target_may_differ():
    target = targets.TARGETS[0]
    assert target.verdict(Spread(5.1, 4.9, 5.3)) == "reached, turns differ"
    assert target.verdict(Spread(4.9, 4.8, 5.1)) == "**missed**, turns differ"
    assert target.verdict(Spread(6, 5, 7)) == "reached"


def test_cpu_is_what_the_server_and_the_clients_take_for_each_that_is_counted():
    class Busy:
        """A server that takes two seconds of CPU meanwhile."""

        def __init__(self):
            self.seconds = iter((1.0, 3.0))

        def cpu_seconds(self) -> float:
            return next(self.seconds)

    found = clients.with_cpu(Busy(), lambda: {"rows": 1000}, lambda found: found["rows"])
    assert found["rows"] == 1000
    assert found["server_cpu_ns"] == 2e6
    assert 0 <= found["clients_cpu_ns"] < 1e6
    assert clients.with_cpu(Busy(), dict, lambda _: 0) == {}


LOG = """
{"timestamp":"2026-01-02T03:04:05.000000Z","level":"INFO","fields":{"message":"listening"},"target":"server"}
{"timestamp":"2026-01-02T03:04:09.000000Z","fields":{"message":"checkpoint finished","elapsed_ms":"500"}}
{"timestamp":"2026-01-02T03:04:12.000000Z","fields":{"message":"checkpoint finished","elapsed_ms":"1000"}}
{"timestamp":"2026-01-02T03:04:21.000000Z","fields":{"message":"checkpoint finished","elapsed_ms":"2000"}}
error: in plain words
"""


def test_the_checkpoints_of_a_load_are_set_against_its_time_and_its_longest_ack():
    loading = stalls.Span.until("2026-01-02T03:04:20Z", millis=10_000)
    # A second of it is before the checkpoint began.
    longest_ack = stalls.Span.until("2026-01-02T03:04:11.250000Z", millis=1_250)
    assert stalls.beside(stalls.checkpoints_of(LOG), loading, longest_ack) == {
        # The first one was over before, the last one went on behind it.
        "checkpoints": 2,
        "checkpoint_ms_max": 2_000,
        "checkpoints_percent": 20,
        "longest_ack_checkpoints_percent": 20,
    }


def test_a_load_without_checkpoints_has_none_beside_it():
    loading = stalls.Span.until("2026-01-02T03:04:20Z", millis=10_000)
    found = stalls.beside(stalls.checkpoints_of(""), loading, loading)
    assert found["checkpoints"] == found["checkpoints_percent"] == found["longest_ack_checkpoints_percent"] == 0
    assert found["checkpoint_ms_max"] is None


def test_a_log_is_read_once_its_server_has_told_all(tmp_path, monkeypatch):
    at_the_end = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(os.environ['RUST_LOG']))"
    program = f"import os, signal, sys, time; {at_the_end}; print('listening on here', flush=True); time.sleep(60)"
    monkeypatch.setattr(contenders, "TARGET", tmp_path)
    with serving(lambda _: [sys.executable, "-c", program], "debug") as server:
        assert server.whole_log() == "debug\n"
    assert late_ends() == []


def test_memory_is_told_of_every_load_and_query_that_a_server_has(monkeypatch):
    server = SimpleNamespace(url="grpc://here", memory_peak_mb=lambda: 77.0)
    loaded = {"rows_per_second": 5.0}
    for case in (mixed, rows):
        monkeypatch.setattr(case, "running", lambda *_: nullcontext(server))
    monkeypatch.setattr(clients, "bench", lambda *_: loaded)
    for name in ("fill", "make_loaded_table"):
        monkeypatch.setattr(clients, name, lambda *_: None)
    monkeypatch.setattr(clients, "small", lambda *_, **__: {"queries_per_second": 5.0})
    monkeypatch.setattr(clients, "load", lambda *_: loaded)
    beside = SimpleNamespace(report=loaded, check_it_still_loads=lambda: None)
    monkeypatch.setattr(clients, "loading", lambda *_: nullcontext(beside))
    monkeypatch.setattr(clients, "with_rows_loaded", lambda _, call: call())
    for case in (mixed, rows):
        for each in case.CASE.steps(SIZES["tiny"]):
            # That of the second server says nothing: it does nothing.
            if each.contender in ("seed", OURS) and each.tests != ("small-beside",):
                assert each.measure()["memory_mb"] == 77, each.tests


def test_postgres_upserts_other_keys_in_each_batch_and_commits_each_by_itself():
    assert "postgres" in {each.contender for each in rows.CASE.steps(SIZES["quick"]) if each.tests == ("upsert",)}
    blocks = list(postgres.upsert_blocks(rows=100, keys=1_000_000, seed=1))
    assert len(blocks) == postgres.UPSERT_BATCHES == len(set(blocks))
    assert blocks != list(postgres.upsert_blocks(rows=100, keys=1_000_000, seed=2))
    begin, copy, *lines, end_of_copy, insert, update, commit = blocks[0].splitlines()
    assert (begin, end_of_copy, commit) == ("BEGIN;", "\\.", "COMMIT;")
    assert copy == "COPY incoming FROM STDIN;"
    assert len(lines) == 100
    assert "ORDER BY id ON CONFLICT (id)" in insert
    assert "DO UPDATE" in update


def test_a_client_sends_as_many_blocks_as_take_about_so_long():
    asked = []
    rate = postgres.blocks_per_second(lambda blocks: asked.append(blocks) or blocks / 50, seconds=1)
    assert asked == [1, 50]
    assert rate == 50


def test_a_tiny_run_leaves_the_published_figures_alone():
    assert run.arguments([]).json == run.arguments(["--full"]).json == run.LATEST
    assert run.arguments(["--tiny"]).json == run.TINY != run.LATEST
    assert str(run.arguments(["--tiny", "--json", "some.json"]).json) == "some.json"


def test_postgres_is_wanted_only_where_a_case_measures_it():
    for given, is_wanted in ((["--cases", "reads", "--tiny"], True), (["--cases", "tpch", "mixed"], False), ([], True)):
        assert run.wants("postgres", run.arguments(given)) == is_wanted


def test_a_megabyte_of_memory_is_a_million_bytes():
    assert megabytes("VmHWM:\t  524288 kB") == 536.870912


def test_a_server_that_ends_late_is_noted_and_its_figures_are_kept():
    def measure() -> dict:
        ignoring = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
        command = [sys.executable, "-c", f"import signal, time; {ignoring}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            end(process, seconds=0.1)
        return {"rows_per_second": 5}

    result = CaseResult(ABOUT)
    run.take(step("puts-1x1", OURS, measure), result)
    assert result.values("puts-1x1", OURS, "rows_per_second") == [5]
    assert result.failed == [f"puts-1x1, {OURS}: a server did not end within 0.1 s and was killed"]
    assert late_ends() == []
