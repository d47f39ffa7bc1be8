"""Which attributes of LLaMA-Factory are patched or called, and whether the installed version has them.

An unknown version is not refused by its number: what counts is that every attribute below is where it is expected.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType


PARSER = "llamafactory.hparams.parser"
TUNER = "llamafactory.train.tuner"

REQUIRED = {
    PARSER: ["_TRAIN_ARGS", "_INFER_ARGS", "_EVAL_ARGS", "FinetuningArguments"],
    TUNER: ["run_sft", "read_args"],
    "llamafactory.train.sft.workflow": ["CustomSeq2SeqTrainer", "run_sft"],
    "llamafactory.data": ["get_template_and_fix_tokenizer"],
    "llamafactory.data.loader": ["_get_merged_dataset", "_get_preprocessed_dataset"],
    "llamafactory.model": ["load_tokenizer"],
}


def llamafactory_version() -> str:
    """Version of the installed LLaMA-Factory, or "unknown"."""
    try:
        return version("llamafactory")
    except PackageNotFoundError:
        return "unknown"


def missing_from(module: ModuleType) -> list[str]:
    """List, as sentences, the attributes that one imported module lacks."""
    return [
        f"LLaMA-Factory {llamafactory_version()} has no {module.__name__}.{name}, which ogpsa_factory needs."
        for name in REQUIRED[module.__name__]
        if not hasattr(module, name)
    ]


def missing() -> list[str]:
    """Import LLaMA-Factory and list, as sentences, what of it is missing; empty if everything is there."""
    sentences = []
    for name in REQUIRED:
        try:
            sentences += missing_from(importlib.import_module(name))
        except ImportError as error:
            sentences.append(f"LLaMA-Factory {llamafactory_version()}: {name} cannot be imported ({error}).")
    return sentences
