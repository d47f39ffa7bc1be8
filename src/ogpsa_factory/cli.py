"""The command `ogpsa`."""

import argparse
import sys
from importlib import import_module

from . import __version__
from .errors import OGPSAError


# One line per subcommand: a module with `register(subparsers)`, which adds its parser and sets its default `handler`,
# a function from the parsed arguments to the exit code. These modules are imported whatever the subcommand, for the
# help texts, so they import what is heavy inside their handlers.
COMMANDS = (
    "ogpsa_factory.data.cli",
    "ogpsa_factory.doctor",
    "ogpsa_factory.evaluation.cli",
    "ogpsa_factory.lab.cli",
    "ogpsa_factory.merge",
    "ogpsa_factory.pipeline.cli",
    "ogpsa_factory.reproduce.cli",
    "ogpsa_factory.reports",
    "ogpsa_factory.translate",
)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser with every subcommand in it."""
    parser = argparse.ArgumentParser(
        prog="ogpsa",
        description="Safety alignment that keeps general capabilities: the tools around the LLaMA-Factory plugin. "
        "Training itself is `llamafactory-cli train some.yaml`.",
    )
    parser.add_argument("--version", action="version", version=f"ogpsa_factory {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="<command>")
    for name in COMMANDS:
        import_module(name).register(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: what follows `ogpsa` on the command line; taken from `sys.argv` if None.

    Returns:
        The exit code: 0, 1 after a mistake that the user can mend, 130 after Ctrl-C.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    # argparse gives a list of positional words one place only: those behind an option are left over.
    misplaced = [word for word in rest if word.startswith("-") or not hasattr(args, "overrides")]
    if misplaced:
        parser.error(f"unrecognized arguments: {' '.join(misplaced)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    if not hasattr(args, "handler"):
        parser.print_help()
        return 0

    try:
        return int(args.handler(args) or 0)
    except OGPSAError as error:
        print(f"ogpsa: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ogpsa: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
