"""The subspace in a checkpoint: one safetensors file per shard, never pickle, written whole or not at all.

And which checkpoint of a folder is whole, so that a run can go on from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open


if TYPE_CHECKING:  # `ogpsa pipeline` asks for checkpoints and does not want to load torch for it
    from torch import Tensor


FOLDER = "ogpsa_subspace"
_FORMAT = 3


def fingerprint(**facts: Any) -> str:
    """Hash of the facts a stored subspace depends on (layout, reference sets, settings)."""
    text = json.dumps({"format": _FORMAT, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def save(folder: Path, shard: str, state: dict[str, Tensor], stamp: str, origin: str) -> None:
    """Write one shard.

    Args:
        folder: the checkpoint's folder; made if it does not exist.
        shard: name of the shard, the same at loading.
        state: tensors of the subspace.
        stamp: the run's :func:`fingerprint`.
        origin: what wrote it, for people: engine and number of ranks.
    """
    from safetensors.torch import save_file

    target = folder / FOLDER / f"{shard}.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        partial,
        {"fingerprint": stamp, "origin": origin},
    )
    os.replace(partial, target)


def load(folder: Path, shard: str, stamp: str, origin: str) -> tuple[dict[str, Tensor] | None, str]:
    """Read one shard.

    Args:
        folder: the checkpoint's folder.
        shard: name of the shard.
        stamp: the :func:`fingerprint` it must carry.
        origin: what reads it, for people: engine and number of ranks.

    Returns:
        The tensors, in host memory, or None with the reason why there are none.
    """
    source = folder / FOLDER / f"{shard}.safetensors"
    if not source.is_file():
        others = sorted(source.parent.glob("*.safetensors"))
        writer = _metadata(others[0]).get("origin", "another layout") if others else None
        if writer not in (None, origin):
            return None, f"{source.parent} was written by {writer}, and this run is {origin}"
        return None, f"{folder} holds no {FOLDER}/{source.name}"
    try:
        with safe_open(source, framework="pt") as stored:
            known = stored.metadata() or {}
            if known.get("fingerprint") != stamp and known.get("origin", origin) != origin:
                return None, f"{source} was written by {known['origin']}, and this run is {origin}"
            if known.get("fingerprint") != stamp:
                return None, f"{source} was made with other parameters, reference sets or OGPSA settings"
            return {name: stored.get_tensor(name) for name in stored.keys()}, ""
    except (SafetensorError, OSError) as error:
        return None, f"{source} cannot be read ({error})"


def _metadata(source: Path) -> dict[str, str]:
    try:
        with safe_open(source, framework="pt") as stored:
            return stored.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def last_whole(folder: Path) -> Path | None:
    """Find the last checkpoint that is whole.

    Args:
        folder: the output folder of a run.

    Returns:
        The one with the most steps among the whole ones; None if there is none.
    """
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return max(filter(is_whole, numbered), key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has a readable ``trainer_state.json``, which is written when all ranks have written theirs.

    Args:
        checkpoint: its folder.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def holds_optimizer(checkpoint: Path) -> bool:
    """Whether a checkpoint holds the optimizer's state, without which a resumed run goes on to other weights.

    Args:
        checkpoint: its folder.
    """
    # optimizer.pt; optimizer.bin or a folder optimizer_0 with FSDP; global_step* with DeepSpeed
    return any(any(checkpoint.glob(pattern)) for pattern in ("optimizer*", "global_step*"))
