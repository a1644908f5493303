"""Loading and querying at the same time: how long each waits for the other."""

from collections.abc import Iterator

import clients
from case import MEGABYTES, MILLISECONDS, ROWS_PER_SECOND, Bars, Case, Step, Table, by_contender, step
from contenders import Server, running
from sizes import Size

QUERIES = {
    "small": "SELECT 42",
    "aggregate": "SELECT category, count(*), avg(value) FROM readings GROUP BY category",
}
LABELS = {
    "small-quiet": "`SELECT 42`, nothing else going on",
    "small-loading": "`SELECT 42`, 8 loaders flat out",
    "small-beside": "`SELECT 42` of a second server that is idle but for it, 8 loaders flat out on the first",
    "aggregate-quiet": "GROUP BY over a million rows, nothing else going on",
    "aggregate-loading": "GROUP BY over a million rows, 8 loaders flat out",
    "acks-quiet": "ack of a put of 1,000 rows, 8 loaders, no queries",
    "acks-querying": "ack of a put of 1,000 rows, 8 loaders, one client querying flat out",
}
LOAD = ("puts", 8, 1_000)

# The loaders go on so long after the queries, which take a moment to connect.
MARGIN_SECONDS = 2.0


def query(name: str, sql: str, size: Size, *, while_loading: bool) -> dict:
    with running(name) as server:
        clients.fill(server, size.mixed_rows)
        if while_loading:
            found = query_while_loading(server, server, sql, size)
        else:
            found = clients.small(server, size.seconds, sql=sql)
        return {**found, "memory_mb": server.memory_peak_mb()}


def query_beside(sql: str, size: Size) -> dict:
    """What it costs a query alone that loaders and their server keep the same cores busy."""
    with running("duck-flight") as loaded, running("duck-flight") as idle:
        return query_while_loading(idle, loaded, sql, size)


def query_while_loading(asked: Server, loaded: Server, sql: str, size: Size) -> dict:
    clients.make_loaded_table(loaded)
    with clients.loading(loaded, *LOAD, size.seconds + MARGIN_SECONDS) as load:
        found = clients.with_rows_loaded(loaded, lambda: clients.small(asked, size.seconds, sql=sql))
        load.check_it_still_loads()
    return found


def acks(name: str, size: Size, *, while_querying: bool) -> dict:
    with running(name) as server:
        clients.fill(server, size.mixed_rows)
        clients.make_loaded_table(server)
        if while_querying:
            with clients.loading(server, *LOAD, size.seconds) as load:
                # Queries begin after the loaders have and go on until they end.
                clients.small(server, size.seconds + MARGIN_SECONDS, sql=QUERIES["aggregate"])
            found = load.report
        else:
            found = clients.load(server, *LOAD, size.seconds)
        return {**found, "memory_mb": server.memory_peak_mb()}


def steps(size: Size) -> Iterator[Step]:
    yield step("small-beside", "duck-flight", query_beside, QUERIES["small"], size)
    for name in ("seed", "duck-flight"):
        for kind, sql in QUERIES.items():
            for suffix, loading in (("quiet", False), ("loading", True)):
                yield Step(
                    (f"{kind}-{suffix}",),
                    name,
                    lambda name=name, sql=sql, loading=loading: query(name, sql, size, while_loading=loading),
                )
        for suffix, querying in (("quiet", False), ("querying", True)):
            yield Step(
                (f"acks-{suffix}",),
                name,
                lambda name=name, querying=querying: acks(name, size, while_querying=querying),
            )


RATES = by_contender("rows_per_second", ROWS_PER_SECOND, "seed", "duck-flight")
MEMORY = by_contender("memory_mb", MEGABYTES, "seed", "duck-flight")


def columns(metric: str):
    return by_contender(metric, MILLISECONDS, "seed", "duck-flight")


CASE = Case(
    name="mixed",
    about="queries while loaders write flat out, and acks while queries run, against the same in quiet",
    steps=steps,
    tables=(
        Table("mixed-p50", "p50 in ms", LABELS.get, columns("latency_ms_p50")),
        Table("mixed-p99", "p99 in ms", LABELS.get, columns("latency_ms_p99")),
        Table("mixed-rate", "rows a second meanwhile", LABELS.get, RATES),
        Table("mixed-memory", "the server's memory peak in MB", LABELS.get, MEMORY),
    ),
    plots=(
        Bars(
            "mixed",
            "p99 in ms: less is better",
            MILLISECONDS,
            "latency_ms_p99",
            lambda test: LABELS[test].replace("`", ""),
            ("duck-flight", "seed"),
            log_scale=True,
        ),
    ),
)
