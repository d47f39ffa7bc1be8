"""`ogpsa merge`: the paper's baseline "merged", the linear average of the base's and the aligned model's weights.

Tensors are read one by one and written shard by shard, so one shard is in memory and never a whole model of several.
Heavy imports stay inside the functions, so `ogpsa --help` is instant.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import OGPSAError
from .files import read_json, replaced_model_folder, write_json


if TYPE_CHECKING:
    from torch import Tensor

RECORD_FILE = "ogpsa_merge.json"  # in the folder of every merged model: what it was made of
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_ADAPTER = "adapter_config.json"
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_BESIDE_WEIGHTS = (  # configuration, tokenizer and processor: all that loading a model reads besides its weights
    *(_INDEX, "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.model", "chat_template*", "*processor_config.json", "*.py"),
)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `merge` to a command line; it sets `handler`: from arguments to exit code.

    Args:
        subparsers: of the parser of `ogpsa`.
    """
    parser = subparsers.add_parser("merge", help="average the weights of a base and an aligned model (a baseline)")
    _add_arguments(parser)
    parser.set_defaults(handler=run)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="BASE", help="folder of the model before alignment, or its name on the hub")
    parser.add_argument("aligned", type=Path, metavar="ALIGNED", help="folder of the aligned model")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder to write; an earlier result of this command is replaced"
    )
    parser.add_argument("--weight", type=float, default=0.5, help="share of the aligned model (%(default)s)")
    parser.add_argument("--revision", help="of the base on the hub (the newest)")


def run(args: argparse.Namespace) -> int:
    """Merge two models.

    Args:
        args: `base`, `aligned`, `output`, `weight` and `revision`.

    Returns:
        0.

    Raises:
        OGPSAError: the models cannot be averaged.
    """
    tensors = merge(args.base, args.aligned, args.output, args.weight, args.revision)
    share = f"{1 - args.weight:g} x {args.base} + {args.weight:g} x {args.aligned}"
    print(f"{args.output}: {tensors} tensors, {share}")
    return 0


def merge(base: str, aligned: Path, output: Path, weight: float = 0.5, revision: str | None = None) -> int:
    """Write (1 - weight) · base + weight · aligned, computed in float32 and saved in the aligned model's types.

    Configuration and tokenizer are the aligned model's, as are names and shards of the weights.

    Args:
        base: folder of a model, or its name on the hub.
        aligned: folder of a model.
        output: the folder to write; it appears whole or not at all.
        weight: share of the aligned model, from 0 to 1.
        revision: of the base on the hub.

    Returns:
        The number of tensors.

    Raises:
        OGPSAError: a model is missing, is an adapter or has no safetensors, or a tensor of one does not fit the other.
    """
    if not 0 <= weight <= 1:
        raise OGPSAError(f"--weight {weight:g} is not possible: it is the aligned model's share, from 0 to 1.")
    _check_model(aligned)
    _check_output(output, aligned)
    before = _local(base, revision)
    _check_output(output, before)
    theirs, ours = _tensor_files(before), _tensor_files(aligned)
    names = _partners(theirs, ours, aligned)
    from safetensors.torch import save_file  # brings torch along: not before all is found to be right

    record = {"base": base, "revision": revision, "aligned": str(aligned), "weight": weight}
    with replaced_model_folder(output) as folder, ExitStack() as stack:
        sources: dict[Path, Any] = {}
        for path in {*theirs.values(), *ours.values()}:
            sources[path] = stack.enter_context(_opened(path))
        for shard in dict.fromkeys(ours.values()):
            mixed = {}
            for name in [name for name, path in ours.items() if path == shard]:
                there = names[name]
                tensors = sources[theirs[there]].get_tensor(there), sources[shard].get_tensor(name)
                mixed[name] = _average(name, *tensors, weight)
            save_file(mixed, folder / shard.name, {"format": "pt"})
        for path in _beside_weights(aligned):
            shutil.copyfile(path, folder / path.name)
        write_json(folder / RECORD_FILE, record)
    return len(ours)


def _average(name: str, base: Tensor, aligned: Tensor, weight: float) -> Tensor:
    if base.shape != aligned.shape:
        raise OGPSAError(
            f"{name} has the shape {list(base.shape)} in the base and {list(aligned.shape)} in the aligned model: "
            "only models of one architecture and one vocabulary can be averaged."
        )
    if aligned.is_floating_point() != base.is_floating_point():
        raise OGPSAError(f"{name} is {base.dtype} in the base and {aligned.dtype} in the aligned model.")
    if not aligned.is_floating_point():
        if not bool((base == aligned).all()):
            raise OGPSAError(
                f"{name} is of whole numbers ({aligned.dtype}), which have no average: quantised weights?"
            )
        return aligned
    return (base.float() * (1 - weight)).add_(aligned.float(), alpha=weight).to(aligned.dtype)


def _partners(theirs: dict[str, Path], ours: dict[str, Path], aligned: Path) -> dict[str, str]:
    """The base's name of each of our tensors: a tied output layer may be saved in one model and not in the other."""
    names = {name: name for name in ours}
    try:
        tied = bool(read_json(aligned / "config.json").get("tie_word_embeddings"))
    except AttributeError:
        raise OGPSAError(f"{aligned / 'config.json'} holds no mapping of names to values.") from None
    if tied and _HEAD in ours and _HEAD not in theirs:
        names[_HEAD] = _EMBEDDING
    missing = [name for name, there in names.items() if there not in theirs]
    extra = [name for name in theirs if name not in ours and not (tied and name == _HEAD)]
    for found, where in ((missing, "base"), (extra, "aligned model")):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise OGPSAError(f"The {where} has no tensor {found[0]}{more}: both must be of one architecture.")
    return names


def _tensor_files(folder: Path) -> dict[str, Path]:
    """The file of every tensor of a model."""
    if (folder / _INDEX).is_file():
        try:
            files = {str(name): folder / file for name, file in read_json(folder / _INDEX)["weight_map"].items()}
        except (TypeError, KeyError, AttributeError):
            raise OGPSAError(f"{folder / _INDEX} has no weight_map of tensors to files.") from None
        absent = [path for path in files.values() if not path.is_file()]
        if absent:
            raise OGPSAError(f"{absent[0]} does not exist, and {_INDEX} beside it names it: the model is not whole.")
        return files
    single = folder / _SINGLE
    if not single.is_file():
        raise OGPSAError(f"{folder} holds neither {_SINGLE} nor {_INDEX}. Save the model as safetensors first.")
    with _opened(single) as source:
        return dict.fromkeys(source.keys(), single)


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise OGPSAError(f"{path} cannot be read: {error}") from None


def _local(base: str, revision: str | None) -> Path:
    """The base's folder, fetched from the hub where it is no folder."""
    folder = Path(base).expanduser()
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", base):
        _check_model(folder)
        return folder
    from huggingface_hub import snapshot_download

    try:
        fetched = Path(snapshot_download(base, revision=revision, allow_patterns=["*.safetensors", "*.json"]))
    except Exception as error:  # the hub's client raises what it likes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OGPSAError(f"{base} is neither a folder here nor can it be fetched from the hub: {lines[0]}") from None
    _check_model(fetched)
    return fetched


def _check_model(folder: Path) -> None:
    if (folder / _ADAPTER).is_file():
        raise OGPSAError(
            f"{folder} is an adapter, not a model. Merge it into its model with `llamafactory-cli export` first, and "
            "name the result."
        )
    if not (folder / "config.json").is_file():
        what = "holds no config.json, so it is no model" if folder.is_dir() else "does not exist"
        raise OGPSAError(f"{folder} {what}. Name a model's folder.")


def _check_output(output: Path, model: Path) -> None:
    """What is at `output` is removed: nothing but a model that was made here may be there, and no model below it."""
    if model.resolve().is_relative_to(output.resolve()):
        where = "is" if model.resolve() == output.resolve() else "holds"
        raise OGPSAError(f"--output {output} {where} one of the two models, {model}. Choose another folder.")
    if (output / "config.json").exists() and not (output / RECORD_FILE).exists():
        raise OGPSAError(
            f"{output} holds a model that `ogpsa merge` has not made: it is not replaced. Choose another --output, or "
            "remove it."
        )


def _beside_weights(folder: Path) -> Iterator[Path]:
    found = {path for pattern in _BESIDE_WEIGHTS for path in folder.glob(pattern) if path.is_file()}
    yield from sorted(found)


def main() -> int:
    """Run as a module, which is how a pipeline starts it.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="ogpsa merge")
    _add_arguments(parser)
    try:
        return run(parser.parse_args())
    except OGPSAError as error:
        print(f"OGPSAError: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
