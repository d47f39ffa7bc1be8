"""What is replaced in LLaMA-Factory, once each of the two modules has been imported."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import OGPSAError
from ..released import translate
from . import compat


_MARK = "_ogpsa_patched"


def patch_parser(parser: Any) -> None:
    """Make every argument list understand OGPSA's arguments.

    The class is replaced inside the lists: a class of our own added to them would break ``get_train_args``, which
    unpacks exactly five.

    Args:
        parser: the module ``llamafactory.hparams.parser``.

    Raises:
        OGPSAError: naming each attribute that this version of LLaMA-Factory lacks.
    """
    _require(parser)
    from .hparams import OGPSAFinetuningArguments

    for argument_classes in (parser._TRAIN_ARGS, parser._INFER_ARGS, parser._EVAL_ARGS):
        for i, argument_class in enumerate(argument_classes):
            if argument_class is parser.FinetuningArguments:
                argument_classes[i] = OGPSAFinetuningArguments


def patch_tuner(tuner: Any) -> None:
    """Let training stages run with OGPSA where ``use_ogpsa`` is on.

    Args:
        tuner: the module ``llamafactory.train.tuner``.

    Raises:
        OGPSAError: naming each attribute that this version of LLaMA-Factory lacks.
    """
    _require(tuner)
    from .workflow import with_ogpsa

    if not hasattr(tuner, _MARK):
        # The other two stages do not work with OGPSA; they are wrapped so that idle arguments are reported there too.
        for stage in (*compat.STAGES, "rm", "ppo"):
            setattr(tuner, f"run_{stage}", with_ogpsa(stage, getattr(tuner, f"run_{stage}")))
        tuner.read_args = _refusing_mixtures(_reading_json(tuner.read_args))
        setattr(tuner, _MARK, True)


def _reading_json(read_args: Callable[..., Any]) -> Callable[..., Any]:
    """Read JSON files: LLaMA-Factory 0.9.5 hands a path to ``json.load``, so ``train config.json`` fails there."""

    def read(args: dict[str, Any] | list[str] | None = None) -> dict[str, Any] | list[str]:
        if args is None and len(sys.argv) > 1 and sys.argv[1].endswith(".json"):
            from omegaconf import OmegaConf

            config = OmegaConf.create(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
            args = OmegaConf.to_container(OmegaConf.merge(config, OmegaConf.from_cli(sys.argv[2:])))  # type: ignore
        return read_args(args)

    return read


def _refusing_mixtures(read_args: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse the released code's flags beside ours here, where it is still known which were given at all."""

    def read(args: dict[str, Any] | list[str] | None = None) -> dict[str, Any] | list[str]:
        given = read_args(args)
        translate(given if isinstance(given, dict) else _flags(given))
        return given

    return read


def _flags(words: list[str]) -> dict[str, Any]:
    """Names and values of ``--name value`` and ``--name=value``."""
    flags: dict[str, Any] = {}
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flags[name.replace("-", "_")] = value or after
    return flags


def _require(module: ModuleType) -> None:
    sentences = compat.missing_from(module)
    if sentences:
        raise OGPSAError(" ".join(sentences))
