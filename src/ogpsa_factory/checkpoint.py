"""The subspace in a checkpoint: one safetensors file per shard, never pickle, written whole or not at all."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


FOLDER = "ogpsa_subspace"
_FORMAT = 2


def fingerprint(**facts: Any) -> str:
    """Hash of the facts a stored subspace depends on (layout, reference sets, settings)."""
    text = json.dumps({"format": _FORMAT, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def save(folder: Path, shard: str, state: dict[str, Tensor], stamp: str) -> None:
    """Write one shard.

    Args:
        folder: the checkpoint's folder; made if it does not exist.
        shard: name of the shard, the same at loading.
        state: tensors of the subspace.
        stamp: the run's :func:`fingerprint`.
    """
    target = folder / FOLDER / f"{shard}.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial, {"fingerprint": stamp})
    os.replace(partial, target)


def load(folder: Path, shard: str, stamp: str) -> tuple[dict[str, Tensor] | None, str]:
    """Read one shard.

    Args:
        folder: the checkpoint's folder.
        shard: name of the shard.
        stamp: the :func:`fingerprint` it must carry.

    Returns:
        The tensors, in host memory, or None with the reason why there are none.
    """
    source = folder / FOLDER / f"{shard}.safetensors"
    if not source.is_file():
        return None, f"{folder} holds no {FOLDER}/{source.name}"
    try:
        with safe_open(source, framework="pt") as stored:
            if (stored.metadata() or {}).get("fingerprint") != stamp:
                return None, f"{source} was made with other parameters, reference sets or OGPSA settings"
            return {name: stored.get_tensor(name) for name in stored.keys()}, ""
    except (SafetensorError, OSError) as error:
        return None, f"{source} cannot be read ({error})"
