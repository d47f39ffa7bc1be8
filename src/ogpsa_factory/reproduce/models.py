"""Parameters of the models that the tables are about, without the hub: from their shapes."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..files import write_json
from ..footprint.model import Parameters, read_parameters
from ..footprint.settings import Tuning
from ..lab.cli import DEFAULT_BASE


# The sizes in the config.json of each model on the hub: all that its parameters' shapes follow from.
_QWEN = {"model_type": "qwen2", "tie_word_embeddings": False}
_SHAPES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-7B-Instruct": {
        **_QWEN,
        **{"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064},
        **{"num_attention_heads": 28, "num_key_value_heads": 4},
    },
    "Qwen/Qwen2.5-3B-Instruct": {
        **_QWEN,
        **{"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "vocab_size": 151936},
        **{"num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True},
    },
    "Qwen/Qwen2.5-0.5B-Instruct": {
        **_QWEN,
        **{"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "vocab_size": 151936},
        **{"num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True},
    },
    "meta-llama/Llama-3.1-8B-Instruct": {
        **{"model_type": "llama", "tie_word_embeddings": False},
        **{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256},
        **{"num_attention_heads": 32, "num_key_value_heads": 8},
    },
}


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters.

    Attributes:
        trained: of them trained.
        total: all, adapters included.
    """

    trained: int
    total: int


@cache
def parameters_of(model: str, method: str = "full", rank: int = 8, targets: str = "all") -> Parameters:
    """The parameters of a model as they would be trained.

    Args:
        model: a name on the hub or a folder. Those of the tables need no network.
        method: `full`, `freeze` or `lora`.
        rank: of adapters.
        targets: modules with adapters, by commas.

    Returns:
        Their shapes.

    Raises:
        OGPSAError: the model's configuration cannot be read.
    """
    tuning = Tuning(method, rank, [word.strip() for word in targets.split(",")])
    shapes = _SHAPES.get(model) or _mini_shapes(Path(model))
    if shapes is None:
        return read_parameters(model, tuning)
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", shapes)
        return read_parameters(folder, tuning)


def count(parameters: Parameters) -> Counts:
    """Count parameters.

    Args:
        parameters: by their shapes.

    Returns:
        The numbers.
    """
    trained = sum(map(math.prod, parameters.trained))
    return Counts(trained, trained + sum(map(math.prod, parameters.frozen)))


def _mini_shapes(path: Path) -> dict[str, Any] | None:
    """The configuration of the miniature world's model where `ogpsa lab build` has not made it yet."""
    if path != DEFAULT_BASE or path.exists():
        return None
    from ..lab.model import make_model, make_tokenizer

    return dict(make_model(make_tokenizer(), 0).config.to_dict())
