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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import OGPSAError
from .chain import Stage


_UNKNOWN = "Some keys are not used by the HfArgumentParser: "


def check_stages(stages: list[Stage]) -> None:
    """Check the arguments of stages without loading a model.

    Args:
        stages: those that will run.

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
    problems = json.loads(process.stdout)
    if problems:
        raise OGPSAError("nothing was started:\n" + "\n".join(problems))


def main() -> None:
    """Read stages as JSON from standard input and write the problems, a list of lines, to standard output."""
    stages = [Stage(**stage) for stage in json.load(sys.stdin)]
    result = os.dup(1)
    os.dup2(2, 1)  # LLaMA-Factory and its libraries log to standard output
    problems = [f"stage {stage.name}: {problem}" for stage in stages for problem in _problems(stage)]
    os.write(result, json.dumps(problems).encode())


def _problems(stage: Stage) -> list[str]:
    found = list(_missing_model(stage))
    variables = dict(os.environ)
    try:
        _act_as_torchrun()
        with tempfile.TemporaryDirectory() as folder:
            for problem in _check_arguments({**stage.config, "output_dir": folder, "overwrite_output_dir": True}):
                found.append(problem)  # one by one, so that those before a check that raises are kept
    except Exception as error:  # whatever a check of LLaMA-Factory raises, the other stages are checked all the same
        found.append(_readable(error))
    finally:
        _leave_group()
        os.environ.clear()  # TrainingArguments leaves variables behind, which the next stage must not see
        os.environ.update(variables)
    return found


def _missing_model(stage: Stage) -> Iterator[str]:
    name = str(stage.config.get("model_name_or_path") or "")
    path = Path(name).expanduser()
    local = name.startswith((".", "/", "~")) or (len(path.parts) > 1 and Path(path.parts[0]).exists())
    to_be_made = path.resolve().is_relative_to(stage.output.parent.resolve())
    if local and not to_be_made and not path.exists():
        yield f"model_name_or_path: {name} does not exist"


def _check_arguments(config: dict[str, Any]) -> Iterator[str]:
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
    kinds = typing.get_args({field.name: field.type for field in dataclasses.fields(finetuning_args)}["stage"])
    if finetuning_args.stage not in kinds:
        yield f"stage: {finetuning_args.stage} is unknown. {_nearest(finetuning_args.stage, kinds)}"
    if not data_args.tokenized_path:
        yield from _check_data(data_args, finetuning_args.stage)
    if getattr(finetuning_args, "use_ogpsa", False) and training_args.do_train:
        from ..llamafactory.data import check_names
        from ..llamafactory.preflight import check_supported

        check_supported(model_args, data_args, training_args, finetuning_args)
        check_names(finetuning_args.reference_names, data_args, finetuning_args.ogpsa_reference_loss)


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
    if not isinstance(folder, str) or folder == "ONLINE" or folder.startswith("REMOTE:"):
        return  # on a hub, which is asked only when it is needed
    for name in [*(data_args.dataset or []), *(data_args.eval_dataset or [])]:
        try:
            (entry,) = get_dataset_list([name], folder)
        except ValueError as error:
            yield f"dataset: {str(error).removesuffix('.')}{_nearest_set(name, Path(folder))}"
            continue
        path = Path(folder) / entry.dataset_name
        if entry.load_from == "file" and not path.exists():
            yield f"dataset: the file of {name}, {path}, does not exist"
        if bool(entry.ranking) != (stage in ("rm", "dpo")):
            wanted = "needs" if stage in ("rm", "dpo") else "does not take"
            yield f"dataset: stage {stage} {wanted} preference data (ranking: true), see {name} in {folder}"


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


def _nearest(word: str, known: typing.Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3)
    return f"The nearest: {', '.join(near)}." if near else "Nothing there is called anything like it."


def _act_as_torchrun() -> None:
    """Where ``llamafactory-cli`` would start torchrun, be its only rank: some arguments are refused without one."""
    from llamafactory.extras.misc import find_available_port, get_device_count, is_env_enabled, use_kt, use_ray

    forced = is_env_enabled("FORCE_TORCHRUN") or is_env_enabled("USE_MCA")
    if forced or (get_device_count() > 1 and not use_ray() and not use_kt()):
        ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ.update(ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(find_available_port()))


def _leave_group() -> None:
    import torch.distributed
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
