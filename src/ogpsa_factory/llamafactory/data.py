"""Reference sets through LLaMA-Factory's own data pipeline: its files, formats, templates and collators."""

import copy
import difflib
import json
import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llamafactory.data import get_template_and_fix_tokenizer
from llamafactory.data.loader import _get_dataset_processor, _get_merged_dataset, _get_preprocessed_dataset
from llamafactory.data.parser import get_dataset_list
from llamafactory.hparams import DataArguments, ModelArguments
from llamafactory.model import load_tokenizer

from ..arguments import OGPSAArguments
from ..errors import OGPSAError
from ..reference import ReferenceSet, count_label_tokens, isolated_randomness, make_reference_set


logger = logging.getLogger(__name__)

# What shapes the training set must not touch a reference set; ``tokenized_path`` would even return the training set.
_NEUTRAL = {
    "tokenized_path": None,
    "eval_dataset": None,
    "val_size": 0.0,
    "streaming": False,
    "max_samples": None,
    "packing": False,
    "neat_packing": False,
    "mix_strategy": "concat",
    "interleave_probs": None,
    "train_on_prompt": False,
}


def load_reference_sets(
    arguments: OGPSAArguments, model_args: Any, data_args: Any, training_args: Any
) -> list[ReferenceSet]:
    """Load, sample and tokenise every reference set; global random numbers are left as they were.

    Args:
        arguments: OGPSA's arguments.
        model_args: LLaMA-Factory's model arguments (which tokenizer).
        data_args: its data arguments (folder, template, cut-off length).
        training_args: its training arguments (who loads first).

    Returns:
        One set per name in ``ogpsa_reference_dataset``.

    Raises:
        OGPSAError: if a set is unknown, unreadable, empty or not of the kind that the stage needs.
    """
    check_names(arguments.reference_names, data_args, arguments.ogpsa_reference_loss)
    with isolated_randomness(arguments.ogpsa_seed):
        tokenizer_module = load_tokenizer(model_args)
        neutral = copy.copy(data_args)
        for name, value in _NEUTRAL.items():
            setattr(neutral, name, value)
        template = get_template_and_fix_tokenizer(tokenizer_module["tokenizer"], neutral)
        return [
            _load(name, arguments, (model_args, neutral, training_args), template, tokenizer_module)
            for name in arguments.reference_names
        ]


def _load(
    name: str, arguments: OGPSAArguments, args: tuple[Any, Any, Any], template: Any, tokenizer_module: dict[str, Any]
) -> ReferenceSet:
    model_args, data_args, training_args = args
    with training_args.main_process_first(desc="load reference set", local=not data_args.data_shared_file_system):
        try:
            entry = get_dataset_list([name], data_args.dataset_dir)[0]
            if arguments.ogpsa_reference_loss != "sft" and not entry.ranking:  # on a hub, so not checked by its entry
                raise OGPSAError(
                    f"it has no pairs, which ogpsa_reference_loss: {arguments.ogpsa_reference_loss} needs"
                )
            rows = _get_merged_dataset(
                [name], model_args, data_args, training_args, stage="rm" if entry.ranking else "sft"
            )
            if len(rows) == 0:
                raise OGPSAError("it is empty; add rows or remove the set")
            rows = _select(name, rows, arguments)
            kind = _kind(entry, arguments)
            if kind == "sft" and entry.ranking:
                rows = rows.map(lambda row: {"_response": row["_response"][:1]}, desc="Taking the chosen answers")
            tokenised = _get_preprocessed_dataset(
                rows, data_args, training_args, stage=kind, template=template, **tokenizer_module
            )
            if kind == "pt":
                tokenised = tokenised.map(lambda row: {"labels": row["input_ids"]}, desc="Labelling the text")
        except Exception as error:  # whatever a reader, converter or tokenizer raises, the user needs the set's name
            where = f"Reference set {name} ({_location(name, data_args.dataset_dir)}) cannot be used"
            raise OGPSAError(f"{where}: {type(error).__name__}: {error}".replace("OGPSAError: ", "")) from error
    reference = make_reference_set(
        name,
        tokenised,
        arguments.ogpsa_rank,
        loss=arguments.ogpsa_reference_loss,
        average=arguments.ogpsa_reference_average,
    )
    if not reference.chunks:
        raise OGPSAError(
            f"Reference set {name} has no row with an answer inside cutoff_len: {data_args.cutoff_len}. "
            "Raise cutoff_len or give it shorter rows."
        )
    if len(reference.chunks) < arguments.ogpsa_rank:
        logger.warning(
            "Reference set %s gives %d directions, ogpsa_rank: %d were asked for: it has too few rows with answers.",
            name,
            len(reference.chunks),
            arguments.ogpsa_rank,
        )
    logger.info(
        "Reference set %s: %d rows, %d label tokens, %s.",
        name,
        len(tokenised),
        reference.label_tokens,
        reference.fingerprint,
    )
    return reference


def _select(name: str, rows: Any, arguments: OGPSAArguments) -> Any:
    wanted = arguments.ogpsa_reference_samples
    if len(rows) < wanted:
        logger.warning("Reference set %s has %d rows, %d were asked for: all are used.", name, len(rows), wanted)
        return rows
    if arguments.ogpsa_reference_selection == "first":
        return rows.select(range(wanted))
    return rows.select(sorted(random.Random(f"{arguments.ogpsa_seed}:{name}").sample(range(len(rows)), wanted)))


def _kind(entry: Any, arguments: OGPSAArguments) -> str:
    """By which of LLaMA-Factory's processors the rows become token ids: pairs, plain text, or prompts with answers."""
    if entry.ranking and arguments.ogpsa_reference_loss != "sft":
        return "rm"
    return "pt" if entry.formatting == "alpaca" and not entry.ranking and entry.response is None else "sft"


def tokenise_pool(name: str, model: str, **data: Any) -> list[dict[str, Any] | None]:
    """Tokenise every row of a set as a reference set's rows are, each by itself, so that every row keeps its place.

    Args:
        name: its name in dataset_info.json.
        model: name or folder of the model, whose tokenizer is taken.
        data: LLaMA-Factory's data arguments (``dataset_dir``, ``template``, ``cutoff_len``).

    Returns:
        One feature per row, or None where LLaMA-Factory drops the row or leaves no answer inside ``cutoff_len``.
    """
    data_args = DataArguments(**data, overwrite_cache=True)
    vars(data_args).update(_NEUTRAL)
    model_args = ModelArguments(model_name_or_path=model)
    training_args = SimpleNamespace(local_process_index=0, seed=0)
    tokenizer_module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(tokenizer_module["tokenizer"], data_args)
    entry = get_dataset_list([name], data_args.dataset_dir)[0]
    stage, kind = "rm" if entry.ranking else "sft", _kind(entry, OGPSAArguments())
    rows = _get_merged_dataset([name], model_args, data_args, training_args, stage=stage)
    processor = _get_dataset_processor(data_args, kind, template, **tokenizer_module)
    features: list[dict[str, Any] | None] = []
    for row in rows:
        taken = {**row, "_response": row["_response"][:1]}  # the chosen answer of a pair
        columns = processor.preprocess_dataset({key: [value] for key, value in taken.items()})
        feature = {key: values[0] for key, values in columns.items() if values}
        if kind == "pt":
            feature["labels"] = feature["input_ids"]
        features.append(feature if count_label_tokens(feature.get("labels", [])) else None)
    return features


def check_names(names: list[str], data_args: Any, loss: str = "sft") -> None:
    """Check every reference set's entry in dataset_info.json, as far as it can be checked without reading its data.

    Args:
        names: names of the reference sets.
        data_args: LLaMA-Factory's data arguments.
        loss: ``ogpsa_reference_loss``.

    Raises:
        OGPSAError: for an unknown name (with the nearest ones), an unreadable file, or data without the pairs that the
            loss needs.
    """
    info = _dataset_info(data_args.dataset_dir)
    if info is None:  # on a hub: LLaMA-Factory reports what it cannot find
        return
    where = _info_file(data_args.dataset_dir)
    for name in names:
        if name not in info:
            near = difflib.get_close_matches(name, info, n=3, cutoff=0.4) or sorted(info)[:10]
            raise OGPSAError(
                f"ogpsa_reference_dataset names {name}, which is not in {where}. "
                + (f"The nearest names there are: {', '.join(near)}." if near else "That file has no entries.")
            )
        if loss != "sft" and not info[name].get("ranking"):
            raise OGPSAError(
                f"ogpsa_reference_loss: {loss} needs a chosen and a rejected answer in each row, and reference set "
                f"{name} has none (no ranking: true in {where}). Name such a set, or use ogpsa_reference_loss: sft."
            )
        if (info[name].get("columns") or {}).get("kto_tag"):
            raise OGPSAError(
                f"Reference set {name} is labelled data (kto_tag in {where}), which says what not to answer too. "
                "Register its good answers as a set of their own, without kto_tag."
            )
    for name in names:
        same = [other for other in data_args.dataset or [] if _source(info.get(other, {})) == _source(info[name])]
        if same:
            logger.warning(
                "Reference set %s is the training set %s: projecting against it removes what training is to learn.",
                name,
                same[0],
            )


def _source(entry: dict[str, Any]) -> tuple[Any, ...]:
    """What decides which rows an entry stands for."""
    keys = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
    return tuple(entry.get(key) for key in (*keys, "subset", "folder", "split"))


def _dataset_info(dataset_dir: Any) -> dict[str, Any] | None:
    if isinstance(dataset_dir, dict):
        return dataset_dir
    if dataset_dir == "ONLINE" or str(dataset_dir).startswith("REMOTE:"):
        return None
    path = _info_file(dataset_dir)
    try:
        info = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OGPSAError(f"{path} does not exist. Set dataset_dir to the folder with dataset_info.json.") from None
    except ValueError as error:
        raise OGPSAError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(info, dict) or not all(isinstance(entry, dict) for entry in info.values()):
        raise OGPSAError(f"{path} must map names of datasets to entries in braces.")
    return info


def _info_file(dataset_dir: Any) -> str:
    return "dataset_dir" if isinstance(dataset_dir, dict) else str(Path(dataset_dir) / "dataset_info.json")


def _location(name: str, dataset_dir: Any) -> str:
    entry = (_dataset_info(dataset_dir) or {}).get(name, {})
    file_name = entry.get("file_name")
    return str(Path(dataset_dir) / file_name) if file_name and isinstance(dataset_dir, str) else "from a hub"
