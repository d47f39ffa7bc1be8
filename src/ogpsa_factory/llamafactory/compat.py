"""Which attributes of LLaMA-Factory are patched or called, and whether the installed version has them.

An unknown version is not refused by its number: what counts is that every attribute below is where it is expected.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType


PARSER = "llamafactory.hparams.parser"
TUNER = "llamafactory.train.tuner"

# Stage -> name of its trainer class. A stage is the tuner's `run_<stage>` and a package `llamafactory.train.<stage>`.
STAGES = {
    "pt": "CustomTrainer",
    "sft": "CustomSeq2SeqTrainer",
    "dpo": "CustomDPOTrainer",
    "kto": "CustomKTOTrainer",
}

REQUIRED = {
    PARSER: ["_TRAIN_ARGS", "_INFER_ARGS", "_EVAL_ARGS", "FinetuningArguments"],
    TUNER: [*(f"run_{stage}" for stage in STAGES), "run_rm", "run_ppo", "read_args"],
    **{f"llamafactory.train.{stage}.trainer": [trainer] for stage, trainer in STAGES.items()},
    "llamafactory.data": ["get_template_and_fix_tokenizer"],
    "llamafactory.data.collator": ["MultiModalDataCollatorForSeq2Seq", "SFTDataCollatorWith4DAttentionMask"],
    "llamafactory.data.loader": ["_get_merged_dataset", "_get_preprocessed_dataset"],
    "llamafactory.data.parser": ["get_dataset_list"],
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
