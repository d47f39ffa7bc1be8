"""What is evaluated: a model by its folder or name on the hub, with the adapters on top of it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.records import hash_file
from ..errors import OGPSAError
from ..files import read_json, write_json


_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")
_TAKEN = ("answers", "judge_check", "report")  # folders beside those of models
_FINGERPRINTS = "fingerprints.json"  # of files that were hashed before, in the output folder


@dataclass(frozen=True)
class Model:
    """A model to evaluate.

    Attributes:
        name: in tables and folders; PIPELINE/METHOD, such as `SFT/ogpsa`, gives a row of Table 1.
        base: folder, or name on the hub.
        adapters: folders of adapters, in the order in which they were trained.
    """

    name: str
    base: str
    adapters: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """As on the command line."""
        return "+".join((self.base, *self.adapters))


def read_models(words: list[str], *, remote: bool = False) -> list[Model]:
    """Read MODEL, NAME=MODEL and NAME=BASE+ADAPTER+ADAPTER.

    Args:
        words: of the command line. Without NAME, a folder is called by its last part.
        remote: whether they are names that an endpoint knows, of which nothing is here.

    Returns:
        The models.

    Raises:
        OGPSAError: a folder holds no model, or two models have one name.
    """
    models: list[Model] = []
    for word in words:
        whole = Path(word.split("+")[0]).is_dir()  # a folder may have = in its name
        name, given, path = ("", "", word) if whole else word.partition("=")
        path = path if given or whole else word
        name = name if given else Path(path.split("+")[-1].rstrip("/")).name
        model = _named(name, path) if remote else _model(name, path)
        if any(model.name == other.name for other in models):
            raise OGPSAError(f"{word}: two models are called {model.name}. Give them names: NAME=MODEL.")
        nested = [other.name for other in models if f"{other.name}/".startswith(f"{model.name}/")]
        nested += [other.name for other in models if f"{model.name}/".startswith(f"{other.name}/")]
        if nested:
            raise OGPSAError(
                f"{word}: {model.name} and {nested[0]} would be folders inside of each other. Rename one."
            )
        models.append(model)
    return models


def _named(name: str, base: str, adapters: tuple[str, ...] = ()) -> Model:
    if not _NAME.fullmatch(name) or ".." in name.split("/") or not base:
        raise OGPSAError(f"{name!r} is no name for a model (letters, digits, . _ - and /). Give NAME=MODEL.")
    if name.split("/")[0] in _TAKEN:
        raise OGPSAError(f"{name!r} is the name of another folder in the results. Give another NAME=MODEL.")
    return Model(name, base, adapters)


def _model(name: str, path: str) -> Model:
    base, *adapters = path.split("+")
    if not adapters and (Path(base) / "adapter_config.json").is_file():
        adapters = [base]
        base = str(read_json(Path(base) / "adapter_config.json").get("base_model_name_or_path") or "")
        if not base:
            raise OGPSAError(f"{adapters[0]}/adapter_config.json names no base model. Give {name}=BASE+{adapters[0]}.")
    for adapter in adapters:
        if not (Path(adapter) / "adapter_config.json").is_file():
            raise OGPSAError(f"{adapter} holds no adapter (no adapter_config.json): see {path}.")
    _check_base(base)
    return _named(name, base, tuple(adapters))


def _check_base(base: str) -> None:
    folder = Path(base)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise OGPSAError(f"{base} holds no model (no config.json). Has its training ended?")
    elif not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base) or base.count("/") > 1:
        raise OGPSAError(f"{base} is neither a folder with a model nor a name on the hub (OWNER/NAME).")
    elif folder.parent.is_dir():  # saves/typo has the form of a name on the hub
        raise OGPSAError(f"{base} does not exist, though {folder.parent}/ does. Has its training ended?")


def fingerprint(model: Model, output: Path) -> dict[str, Any]:
    """Say which weights a model has, so that cached answers are never those of another.

    Args:
        model: which one.
        output: folder of the evaluation, where hashes of large files are kept.

    Returns:
        `fingerprint`, and for models of the hub `revision`.

    Raises:
        OGPSAError: the hub's revision cannot be found out.
    """
    revision = {} if Path(model.base).is_dir() else {"revision": _revision(model.base)}
    parts: list[Any] = [revision.get("revision")]
    known_file = output / _FINGERPRINTS
    known: dict[str, str] = read_json(known_file) if known_file.is_file() else {}
    before = dict(known)
    for folder in (model.base, *model.adapters):
        if Path(folder).is_dir():
            parts.append([_hash(path, known) for path in _content(Path(folder))])
    if known != before:
        write_json(known_file, known)
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return {"fingerprint": f"sha256:{digest}", **revision}


def _content(folder: Path) -> list[Path]:
    """What decides on a model's answers: weights, configuration, tokenizer and template."""
    suffixes = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".tiktoken")
    records = ("trainer_state.json", "all_results.json", "train_results.json", "ogpsa_report.json")
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in suffixes]
    return [path for path in found if path.name not in records and not path.name.startswith(("optimizer", "lab_"))]


def _hash(path: Path, known: dict[str, str]) -> list[str]:
    status = path.stat()
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    if key not in known:
        known[key] = hash_file(path)
    return [path.name, known[key]]


def _revision(name: str) -> str:
    from transformers import AutoConfig

    try:
        return str(AutoConfig.from_pretrained(name)._commit_hash)
    except Exception as error:  # the hub's client, its HTTP library and transformers each have their own
        reason = (str(error).strip().splitlines() or [""])[0]
        raise OGPSAError(f"The model {name} cannot be read from the hub: {reason}") from error
