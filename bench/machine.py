"""Where a run took place, and with what: so that anyone can tell why their figures differ."""

import os
import platform
import re
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import postgres
from contenders import REPOSITORY, TARGET, LeftOut

WRITTEN = ("bench/results", "docs/benchmarks", "docs/benchmarks.md")
NUMBERS = {"family": "cpu family", "model": "model", "stepping": "stepping", "cache": "cache size"}
PACKAGES = ("duckdb", "duckdb-extension-httpfs", "duckdb-extension-quack", "duckdb-extension-tpch", "pyarrow", "adbc-driver-flightsql")


def about_run(mode: str, turns: int, command: str) -> dict:
    """What a case's figures carry with them, beside the time at which it began."""
    return {
        "commit": commit(),
        "command": command,
        "mode": mode,
        "turns": turns,
        "busy_percent_before": busy_percent(),
        "machine": machine(),
        "versions": versions(),
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str:
    """The commit, and whether anything was changed but what a run writes itself."""
    changed = output_of("git", "status", "--porcelain", "--", ".", *(f":!{path}" for path in WRITTEN))
    return output_of("git", "rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")


def machine() -> dict:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "system": f"{distribution()}{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "file_system": output_of("df", "--output=fstype", str(TARGET)).split()[-1],
    }


def busy_percent(seconds: float = 1) -> int | None:
    """How much of the cores is taken just now; absent where the system does not tell.

    The load average would tell of the build that came before.
    """
    try:
        before = cpu_ticks()
        time.sleep(seconds)
        after = cpu_ticks()
    except FileNotFoundError:
        return None
    # The fourth and the fifth are those without work, and without work until the disk answers.
    idle, every = (sum(after[part]) - sum(before[part]) for part in (slice(3, 5), slice(None)))
    return round(100 * (1 - idle / every)) if every else None


def cpu_ticks() -> list[int]:
    """What the cores have spent with each kind of work, and with none. Guests' time is in that of users."""
    line = Path("/proc/stat").read_text().splitlines()[0]
    return [int(ticks) for ticks in line.split()[1:9]]


def distribution() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, "
    except (OSError, KeyError):
        return ""


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    # Of the first core.
    about = {}
    for line in lines:
        name, _, value = line.partition(":")
        about.setdefault(name.strip(), value.strip())
    if "model name" not in about:
        return platform.processor()
    # Virtual machines' names do not tell one processor from another.
    numbers = [f"{name} {about[key]}" for name, key in NUMBERS.items() if key in about]
    return f"{about['model name']} ({', '.join(numbers)})" if numbers else about["model name"]


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "rustc": number_in(output_of("rustc", "--version"))}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    try:
        found["postgresql"] = number_in(output_of(str(postgres.binaries() / "postgres"), "--version"))
    except LeftOut:
        pass
    return found


def number_in(version_line: str) -> str:
    found = re.search(r"\d+(\.\d+)+", version_line)
    return found[0] if found else version_line


def output_of(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
