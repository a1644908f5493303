"""What the documentation shows works: its Python runs, in its order, and the flags that it names exist."""

import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY, server_binary

# Where the examples have their server. A test's has a port of its own.
LOCATION = "grpc://127.0.0.1:8815"
WITH_PYTHON = ["README.md", "docs/operations.md"]
WITH_COMMANDS = [*WITH_PYTHON, "docs/protocol.md"]
COMMANDS = ["duck-flight-server", "duck-load", "duck-query"]
FLAG = r"(?<![\w-])--[a-z][a-z-]*"
EVENTS = "id,name\n1,mallard\n2,teal\n"


def text_of(document: str) -> str:
    return (REPOSITORY / document).read_text()


@pytest.mark.parametrize("document", WITH_PYTHON)
def test_the_python_of_a_document_runs_and_prints_what_it_says(server, tmp_path, document):
    (tmp_path / "events.csv").write_text(EVENTS)
    blocks = re.findall(r"^```python\n(.*?)^```$", text_of(document), re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        assert LOCATION in block
        command = [sys.executable, "-c", block.replace(LOCATION, server.location)]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, f"{block}\n{run.stderr}"
        # A comment behind a print begins with what it prints.
        for expected in re.findall(r"^ *print\(.*\) +# (.*)$", block, re.MULTILINE):
            printed = [line for line in run.stdout.splitlines() if line and expected.startswith(line)]
            assert printed, f"{block}\n{run.stdout}"


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    """The flags that the help of each command tells."""

    def told_by(command: str) -> set[str]:
        binary = server_binary().with_name(command)
        told = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True).stdout
        return set(re.findall(FLAG, told))

    return {command: told_by(command) for command in COMMANDS}


@pytest.mark.parametrize("document", WITH_COMMANDS)
def test_the_commands_of_a_document_have_flags_that_exist(flags, document):
    commands = re.findall(rf"\b({'|'.join(COMMANDS)}) ([^`\n]*)", text_of(document))
    assert commands
    for command, arguments in commands:
        assert set(re.findall(FLAG, arguments)) <= flags[command], (command, arguments)


@pytest.mark.parametrize(
    ("command", "heading"),
    [("duck-flight-server", "## The server's flags\n"), ("duck-load", "## The loader's flags\n")],
)
def test_the_readme_tells_every_flag(flags, command, heading):
    section = text_of("README.md").split(heading)[1].split("\n## ")[0]
    rows = re.findall(r"^\| `--.*$", section, re.MULTILINE)
    assert set(re.findall(FLAG, "\n".join(rows))) == flags[command] - {"--help", "--version"}
