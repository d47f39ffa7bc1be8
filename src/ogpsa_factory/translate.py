"""`ogpsa translate`: the released code's flags or file in, the equivalent new YAML out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .errors import OGPSAError


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `ogpsa translate` to the command line.

    Args:
        subparsers: of the parser of `ogpsa`.
    """
    parser = subparsers.add_parser(
        "translate",
        help="turn the released code's flags (stage sft_pg, base_dataset, ...) into a new YAML file",
        description="Print the YAML file that is equivalent to a configuration or command line of the released code.",
        usage="ogpsa translate FILE [KEY=VALUE ...]\n"
        "       ogpsa translate [llamafactory-cli train] --stage sft_pg --base_dataset ...",
        prefix_chars="+",  # words like --stage are the released code's, not ours
        add_help=False,
    )
    parser.add_argument("words", nargs="*", help="a YAML or JSON file with changes behind it, or a whole command line")
    parser.set_defaults(handler=lambda args: parser.print_help() if args.words in (["-h"], ["--help"]) else run(args))


def run(args: argparse.Namespace) -> int:
    """Print the translation to standard output, and remarks to standard error.

    Args:
        args: `words`.

    Returns:
        0.

    Raises:
        OGPSAError: the words are neither a readable file nor flags, or a flag cannot be translated.
    """
    from omegaconf import OmegaConf

    from .released import translate

    config, notes = translate(read(args.words))
    _check(config)
    print(OmegaConf.to_yaml(OmegaConf.create(config)), end="")
    for note in notes:
        print(f"ogpsa: note: {note}", file=sys.stderr)
    return 0


def _check(config: dict[str, Any]) -> None:
    """Refuse what a run with these arguments would refuse."""
    from .arguments import OGPSAArguments

    stage = str(config.get("stage", ""))
    if stage.startswith("ogpsa_"):
        own = {name: value for name, value in config.items() if name in OGPSAArguments.__dataclass_fields__}
        OGPSAArguments(**own).validate_ogpsa(stage.removeprefix("ogpsa_"))


def read(words: list[str]) -> dict[str, Any]:
    """Read a configuration as `llamafactory-cli train` would.

    Args:
        words: a file and changes, or flags, with or without `llamafactory-cli train` in front.

    Returns:
        Arguments by name.

    Raises:
        OGPSAError: the words are neither a readable file nor flags.
    """
    from omegaconf import OmegaConf

    rest = words[1:] if words and Path(words[0]).name in ("llamafactory-cli", "lmf") else words
    rest = rest[1:] if rest[:1] == ["train"] else rest
    if not rest:
        raise OGPSAError("Name a file, or give the flags of the released code: ogpsa translate --stage sft_pg ...")
    if rest[0].startswith("--"):
        rest = _flags_as_changes(rest)
        config: Any = OmegaConf.create({})
    else:
        file, rest = Path(rest[0]), rest[1:]
        if file.suffix.lower() not in (".yaml", ".yml", ".json"):
            raise OGPSAError(f"{file} is neither a YAML or JSON file nor a flag.")
        try:
            config = OmegaConf.load(file)
        except Exception as error:  # YAML's and OmegaConf's own errors have no common ancestor
            raise OGPSAError(f"{file} cannot be read: {error}") from None
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(config, OmegaConf.from_dotlist(rest)))
    except Exception as error:  # as above, of a value
        raise OGPSAError(f"A value cannot be read: {error}") from None
    if not isinstance(merged, dict):
        raise OGPSAError("The file must map names of arguments to values.")
    return {str(name): value for name, value in merged.items()}


def _flags_as_changes(words: list[str]) -> list[str]:
    """Turn `--name value`, `--name=value` and `--name` (true) into `name=value`."""
    changes: list[str] = []
    for word in words:
        if word.startswith("--"):
            name, *value = word[2:].split("=", 1)
            changes.append("=".join([name.replace("-", "_"), *value]))
        elif changes and "=" not in changes[-1]:
            changes[-1] += f"={word}"
        else:
            raise OGPSAError(f"{word} follows no flag: flags are --name value.")
    changes = [change if "=" in change else f"{change}=true" for change in changes]
    if any(change.startswith("stage=true") for change in changes):
        raise OGPSAError("--stage has no value; the released code's are sft_pg and dpo_pg.")
    return changes
