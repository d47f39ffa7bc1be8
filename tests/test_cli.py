"""The command `ogpsa`: dispatch and exit codes."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from ogpsa_factory import OGPSAError, __version__, cli


@pytest.fixture
def add_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[argparse.Namespace], Any]], None]:
    """Let `ogpsa go [--times N]` be the only command, with a given handler."""

    def add(handler: Callable[[argparse.Namespace], Any]) -> None:
        def register(subparsers: Any) -> None:
            parser = subparsers.add_parser("go")
            parser.add_argument("--times", type=int, default=1)
            parser.set_defaults(handler=handler)

        module = ModuleType("tests_go")
        module.register = register  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tests_go", module)
        monkeypatch.setattr(cli, "COMMANDS", ("tests_go",))

    return add


@pytest.mark.parametrize("returned, code", [(0, 0), (None, 0), (3, 3)])
def test_exit_code_is_what_the_handler_returns(add_command: Any, returned: int | None, code: int) -> None:
    seen = []

    def handler(args: argparse.Namespace) -> int | None:
        seen.append(args.times)
        return returned

    add_command(handler)
    assert cli.main(["go", "--times", "5"]) == code
    assert seen == [5]


def test_a_mistake_of_the_user_is_a_message(add_command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def handler(args: argparse.Namespace) -> int:
        raise OGPSAError("no such set: facts. Did you mean fact?")

    add_command(handler)
    assert cli.main(["go"]) == 1
    assert capsys.readouterr() == ("", "ogpsa: no such set: facts. Did you mean fact?\n")


def test_a_mistake_of_ours_is_a_traceback(add_command: Any) -> None:
    def handler(args: argparse.Namespace) -> int:
        raise ValueError("ours")

    add_command(handler)
    with pytest.raises(ValueError, match="ours"):
        cli.main(["go"])


def test_interruption(add_command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def handler(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    add_command(handler)
    assert cli.main(["go"]) == 130
    assert capsys.readouterr() == ("", "ogpsa: interrupted\n")


def test_without_a_command_it_prints_help(add_command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    add_command(lambda args: 0)
    assert cli.main([]) == 0
    assert "usage: ogpsa" in capsys.readouterr().out


def test_an_unknown_command_is_refused(add_command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    add_command(lambda args: 0)
    with pytest.raises(SystemExit) as stop:
        cli.main(["went"])
    assert stop.value.code == 2
    assert "'went'" in capsys.readouterr().err


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ogpsa_factory import cli\n"
        "cli.main([])\n"
        "print(sorted({'torch', 'llamafactory', 'transformers', 'numpy', 'rich'} & set(sys.modules)))\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "[]"
    assert {"doctor", "lab"} <= set(process.stdout.split())


def test_version() -> None:
    process = subprocess.run([sys.executable, "-m", "ogpsa_factory.cli", "--version"], capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (0, f"ogpsa_factory {__version__}\n")
