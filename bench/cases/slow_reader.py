"""A result of 100 million rows for a client that rests after each message: the server's memory meanwhile."""

import subprocess
import threading
from collections.abc import Iterator

from case import MEGABYTES, SECONDS, Case, Step, Table, by_metric, step
from contenders import BINARIES, Server, running
from sizes import Size

MEMORY_LIMIT_MB = 512
PAUSE_MS = 1
SAMPLE_SECONDS = 0.05


class MemorySamples:
    """The resident memory of a server, again and again, until told to stop."""

    def __init__(self, server: Server):
        self.server = server
        self.megabytes: list[float] = []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._sample)

    def __enter__(self) -> "MemorySamples":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stopped.set()
        self.thread.join()

    def _sample(self) -> None:
        while not self.stopped.wait(SAMPLE_SECONDS):
            if (now := self.server.memory_mb()) is not None:
                self.megabytes.append(now)


def read(rows: int) -> dict:
    sql = f"SELECT range AS id, range / 2 AS value, chr((65 + range % 4)::INTEGER) AS category FROM range({rows})"
    with running("duck-flight", "--memory-limit", f"{MEMORY_LIMIT_MB}MB") as server:
        command = [BINARIES / "duck-bench", "read", "--server", server.url, "--sql", sql, "--pause-ms", str(PAUSE_MS)]
        with MemorySamples(server) as samples, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
            said, _ = reader.communicate()
        if reader.returncode != 0:
            raise RuntimeError(f"the reader ended with {reader.returncode}: {said}")
        return {**flatness(samples.megabytes), "memory_mb": server.memory_peak_mb()}


def flatness(megabytes: list[float]) -> dict:
    """The most memory in the second and in the last quarter of the time; the first is the way up."""
    quarter = len(megabytes) // 4
    if quarter == 0:
        return {}
    return {
        "seconds": len(megabytes) * SAMPLE_SECONDS,
        "early_memory_mb": max(megabytes[quarter : 2 * quarter]),
        "late_memory_mb": max(megabytes[-quarter:]),
    }


def steps(size: Size) -> Iterator[Step]:
    yield step(f"{size.slow_reader_rows}", "duck-flight", read, size.slow_reader_rows, once=True)


def label(test: str) -> str:
    return f"{int(test):,} rows"


COLUMNS = by_metric(
    "duck-flight",
    memory_mb=("memory peak, MB", MEGABYTES),
    early_memory_mb=("in the second quarter, MB", MEGABYTES),
    late_memory_mb=("in the last quarter, MB", MEGABYTES),
    seconds=("time, s", SECONDS),
)

CASE = Case(
    name="slow-reader",
    about=(
        f"a result of 100 million rows, read by a client that rests {PAUSE_MS} ms after each message; "
        f"--memory-limit {MEMORY_LIMIT_MB}MB"
    ),
    steps=steps,
    tables=(Table("slow-reader", "the server's memory", label, COLUMNS),),
)
