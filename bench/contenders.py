"""The servers that are measured, each on a fresh database of its own."""

import os
import resource
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from pyarrow import flight

REPOSITORY = Path(__file__).resolve().parents[1]
TARGET = REPOSITORY / os.environ.get("CARGO_TARGET_DIR", "target")
BINARIES = TARGET / "release"

COLUMNS = "batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE, category VARCHAR"

# A server that takes longer to end is broken: ours gives its clients 20 seconds and some, and then makes a checkpoint.
STOP_SECONDS = 60
# Files and connections of one process that are enough for every case.
MANY_FILES = 10_240
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

_late_ends: list[str] = []


class LeftOut(Exception):
    """What cannot be measured here, and why; the run goes on without it."""


class Server:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen, log: Path):
        self.process = process
        self.log = log
        ready = process.stdout.readline()
        if not ready.startswith("listening on "):
            raise RuntimeError(f"{process.args} did not start")
        self.address = ready.removeprefix("listening on ").strip()
        self.url = f"grpc://{self.address}"

    def memory_peak_mb(self) -> float | None:
        """The most resident memory so far; absent where the system does not tell."""
        return self._memory_mb("VmHWM:")

    def memory_mb(self) -> float | None:
        """The resident memory now."""
        return self._memory_mb("VmRSS:")

    def cpu_seconds(self) -> float | None:
        """What it has used of the cores so far; absent where the system does not tell."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except FileNotFoundError:
            return None
        # The name of the program, which may hold anything, is in parentheses.
        fields = stat.rpartition(")")[2].split()
        user, system = fields[11:13]
        return (int(user) + int(system)) / CLOCK_TICKS

    def _memory_mb(self, field: str) -> float | None:
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except FileNotFoundError:
            return None
        (line,) = (line for line in status.splitlines() if line.startswith(field))
        return megabytes(line)

    def whole_log(self) -> str:
        """What it has told, once it has ended, for which it is asked here."""
        end(self.process)
        return self.log.read_text()

    def execute(self, sql: str) -> None:
        with flight.connect(self.url) as client:
            list(client.do_action(("query", sql.encode())))


def megabytes(line: str) -> float:
    """Of a line such as `VmRSS:  1024 kB`, which says kB and means KiB."""
    return int(line.split()[1]) * 1024 / 1e6


@contextmanager
def working_directory():
    """On the file system of the build, for a system's temporary directory may be in memory."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=TARGET) as directory:
        yield Path(directory)


def running(name: str, *flags: str, database: Path | None = None, log: str = ""):
    """The server `name` (`seed`, `duck-flight` or `floor`) while it runs, on a new database or a given one.

    `log` is what ours is to log, as `RUST_LOG` has it.
    """

    def command(new: Path) -> list:
        file = database or new
        if name == "seed":
            return [sys.executable, REPOSITORY / "bench" / "seed_server.py", file]
        if name == "floor":
            return [BINARIES / "duck-bench", "floor", *flags]
        return [BINARIES / "duck-flight-server", "--database", file, "--listen", "127.0.0.1:0", *flags]

    return serving(command, log)


@contextmanager
def serving(command_for, log_filter: str = ""):
    """A server while it runs; `command_for` a database is what starts it."""
    # Whatever the log of the one who measures is to tell, figures are not to depend on it.
    environment = {**os.environ, "RUST_LOG": log_filter}
    with working_directory() as directory, (directory / "log").open("w+") as log:
        command = command_for(directory / "bench.db")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        try:
            yield Server(process, Path(log.name))
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read())
            raise
        finally:
            end(process)


def end(process: subprocess.Popen, seconds: float = STOP_SECONDS) -> None:
    """Ends a server. Not by an interrupt, which whatever a shell runs in the background ignores."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        # Not an error, with which the figures would be lost that were just measured.
        _late_ends.append(f"a server did not end within {seconds} s and was killed")


def late_ends() -> list[str]:
    """The servers that did not end in time since this was last asked."""
    found = _late_ends.copy()
    _late_ends.clear()
    return found


def allow_many_connections() -> None:
    """Lets this process and those it starts have as many files and connections as the system allows."""
    some, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS refuses what it says would be allowed, where that is without limit.
    wanted = MANY_FILES if most == resource.RLIM_INFINITY or sys.platform == "darwin" else most
    if some != resource.RLIM_INFINITY and some < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
