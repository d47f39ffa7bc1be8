"""All stages are checked by LLaMA-Factory's own parser before one of them runs.

That happens in a process of its own (``python -m ogpsa_factory.pipeline.check``): it initialises CUDA, and a pipeline
that waits for its stages must not hold memory on their devices.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import os
import subprocess
import sys
import tempfile
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from .chain import Stage, adapters_of


_UNKNOWN = "Some keys are not used by the HfArgumentParser: "


@dataclass
class Findings:
    """What there is to say about stages, one line each."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_stages(stages: list[Stage]) -> list[str]:
    """Check the arguments of stages without loading a model.

    Args:
        stages: those that will run.

    Returns:
        Remarks, one line each, on arguments that do not mean what one may think.

    Raises:
        OGPSAError: with one line per problem, over all stages.
    """
    command = [sys.executable, "-m", "ogpsa_factory.pipeline.check"]
    process = subprocess.run(
        command, input=json.dumps([dataclasses.asdict(stage) for stage in stages]), capture_output=True, text=True
    )
    if process.returncode != 0:
        tail = "\n".join(process.stderr.strip().splitlines()[-15:])
        raise OGPSAError(f"The stages could not be checked, {command[2]} ended with {process.returncode}:\n{tail}")
    found = Findings(**json.loads(process.stdout))
    if found.problems:
        raise OGPSAError("nothing was started:\n" + "\n".join(found.problems))
    return found.notes


def main() -> None:
    """Read stages as JSON from standard input and write the findings to standard output."""
    stages = [Stage(**stage) for stage in json.load(sys.stdin)]
    result = os.dup(1)
    os.dup2(2, 1)  # LLaMA-Factory and its libraries log to standard output
    everything = Findings()
    for stage in stages:
        found = examine(stage)
        everything.problems += [f"stage {stage.name}: {problem}" for problem in found.problems]
        everything.notes += [f"stage {stage.name}: note: {note}" for note in found.notes]
    os.write(result, json.dumps(dataclasses.asdict(everything)).encode())


def examine(stage: Stage) -> Findings:
    """Check one stage in this process.

    Args:
        stage: which one.

    Returns:
        What was found, whatever it is.
    """
    found = Findings(problems=list(_missing_paths(stage)))
    if stage.merges:
        return found
    variables = dict(os.environ)
    try:
        if not _act_as_torchrun() and stage.config.get("deepspeed"):
            raise ValueError("deepspeed needs torchrun: set FORCE_TORCHRUN=1 in the environment, or remove deepspeed")
        with tempfile.TemporaryDirectory() as folder:
            config = {**stage.config, "output_dir": folder, "overwrite_output_dir": True}
            for problem in _check_arguments(config, found.notes):
                found.problems.append(problem)  # one by one, so that those before a check that raises are kept
    except Exception as error:  # whatever a check of LLaMA-Factory raises, the other stages are checked all the same
        found.problems.append(_readable(error))
    finally:
        _leave_group()
        os.environ.clear()  # TrainingArguments leaves variables behind, which the next stage must not see
        os.environ.update(variables)
    return found


def _missing_paths(stage: Stage) -> Iterator[str]:
    named = [(key, str(stage.config.get(key) or "")) for key in ("model_name_or_path", "merge_base")]
    named += [("adapter_name_or_path", name) for name in adapters_of(stage.config)]
    checkpoint = stage.config.get("resume_from_checkpoint")
    if isinstance(checkpoint, str):  # true is "the last one"
        named.append(("resume_from_checkpoint", checkpoint))
    for key, name in named:
        path = Path(name).expanduser()
        local = name.startswith((".", "/", "~")) or (len(path.parts) > 1 and Path(path.parts[0]).exists())
        on_hub = not local and key != "resume_from_checkpoint"
        to_be_made = path.resolve().is_relative_to(stage.output.parent.resolve())
        if not on_hub and not to_be_made and not path.exists():
            yield f"{key}: {name} does not exist"


def _check_arguments(config: dict[str, Any], notes: list[str]) -> Iterator[str]:
    from llamafactory.hparams import get_train_args
    from transformers.integrations import is_deepspeed_zero3_enabled

    handed_on = config.get("adapter_name_or_path") and config.get("create_new_adapter")
    if handed_on:
        _refuse_unmergeable(
            next((key for key in ("quantization_bit", "use_unsloth", "use_kt") if config.get(key)), None)
        )
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(config)
    if handed_on:
        _refuse_unmergeable("DeepSpeed ZeRO-3" if is_deepspeed_zero3_enabled() else None)
    notes += getattr(finetuning_args, "released_notes", [])
    for arguments in (data_args, finetuning_args):
        yield from _unknown_values(arguments)
    if not data_args.tokenized_path:
        yield from _check_data(data_args, finetuning_args.stage)
    if getattr(finetuning_args, "use_ogpsa", False) and training_args.do_train:
        from ..llamafactory.data import check_names
        from ..llamafactory.preflight import check_supported

        check_supported(model_args, data_args, training_args, finetuning_args)
        check_names(finetuning_args.reference_names, data_args, finetuning_args.ogpsa_reference_loss)
        if _is_local(data_args.dataset_dir):
            for name in finetuning_args.reference_names:
                yield from _missing_file("ogpsa_reference_dataset", name, data_args.dataset_dir)


def _unknown_values(arguments: Any) -> Iterator[str]:
    """Where a fixed choice of values is declared, LLaMA-Factory takes any other one from a file all the same."""
    for name, kind in typing.get_type_hints(type(arguments)).items():
        choices = [part for part in (kind, *typing.get_args(kind)) if typing.get_origin(part) is typing.Literal]
        known = [value for choice in choices for value in typing.get_args(choice)]
        value = getattr(arguments, name, None)
        if known and value is not None and value not in known:
            yield f"{name}: {value} is unknown. It can be: {', '.join(map(str, known))}."


def _refuse_unmergeable(obstacle: str | None) -> None:
    """Under these, LLaMA-Factory refuses or ignores create_new_adapter (hparams/parser.py, model/adapter.py)."""
    if obstacle is not None:
        raise OGPSAError(
            f"with {obstacle}, the adapter of the stage before cannot be merged. Export that stage with "
            "`llamafactory-cli export`, or set create_new_adapter: false to go on training its adapter (a DPO stage "
            "then compares with the base model)"
        )


def _check_data(data_args: Any, stage: str) -> Iterator[str]:
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.data.template import TEMPLATES

    if data_args.template is not None and data_args.template not in TEMPLATES:
        yield f"template: {data_args.template} is unknown. {_nearest(data_args.template, list(TEMPLATES))}"
    folder = data_args.dataset_dir
    if not _is_local(folder):
        return
    for name in [*(data_args.dataset or []), *(data_args.eval_dataset or [])]:
        try:
            (entry,) = get_dataset_list([name], folder)
        except ValueError as error:
            yield f"dataset: {str(error).removesuffix('.')}{_nearest_set(name, Path(folder))}"
            continue
        yield from _missing_file("dataset", name, folder)
        if bool(entry.ranking) != (stage in ("rm", "dpo")):
            wanted = "needs" if stage in ("rm", "dpo") else "does not take"
            yield f"dataset: stage {stage} {wanted} preference data (ranking: true), see {name} in {folder}"


def _is_local(folder: Any) -> bool:
    """Whether data sets are on this machine and not on a hub, which is asked only when it is needed."""
    return isinstance(folder, str) and folder != "ONLINE" and not folder.startswith("REMOTE:")


def _missing_file(key: str, name: str, folder: str) -> Iterator[str]:
    from llamafactory.data.parser import get_dataset_list

    (entry,) = get_dataset_list([name], folder)
    path = Path(folder) / entry.dataset_name
    if entry.load_from == "file" and not path.exists():
        yield f"{key}: the file of {name}, {path}, does not exist"


def _nearest_set(name: str, folder: Path) -> str:
    try:
        known = list(json.loads((folder / "dataset_info.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ""
    return f" of {folder}. {_nearest(name, known)}"


def _readable(error: Exception) -> str:
    text = str(error)
    if not text.startswith(_UNKNOWN):
        return text if isinstance(error, (ValueError, AssertionError)) and text else f"{type(error).__name__}: {text}"
    from llamafactory.hparams import parser

    known = [field.name for group in parser._TRAIN_ARGS for field in dataclasses.fields(group)]
    unknown = ast.literal_eval(text.removeprefix(_UNKNOWN))
    return " ".join(f"there is no argument {key}. {_nearest(key, known)}" for key in unknown)


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3)
    return f"The nearest: {', '.join(near)}." if near else "Nothing there is called anything like it."


def _act_as_torchrun() -> bool:
    """Where ``llamafactory-cli`` would start torchrun, be its only rank: some arguments are refused without one.

    Returns:
        Whether it would.
    """
    from llamafactory.extras.misc import find_available_port, get_device_count, is_env_enabled, use_kt, use_ray

    forced = is_env_enabled("FORCE_TORCHRUN") or is_env_enabled("USE_MCA")
    starts = forced or (get_device_count() > 1 and not use_ray() and not use_kt())
    if starts:
        ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ.update(ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(find_available_port()))
    return starts


def _leave_group() -> None:
    import torch.distributed
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
