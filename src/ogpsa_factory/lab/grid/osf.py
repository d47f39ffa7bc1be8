"""Orthogonal subspace fine-tuning (OSF) of PEFT inside LLaMA-Factory's runs, which offer LoRA and OFT only.

OSF freezes the leading singular directions of every weight matrix and keeps the gradient of the others orthogonal to
them. It needs no reference data, so it is the baseline that shows what those are worth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def osf(arguments: dict[str, Any] | None) -> Iterator[None]:
    """Let the runs of full fine-tuning within the block train OSF's parameters instead.

    Args:
        arguments: of PEFT's `OSFConfig`, which `before.check_osf` has checked; None changes nothing.
    """
    if arguments is None:
        yield
        return
    from llamafactory.train.dpo import workflow as dpo
    from llamafactory.train.sft import workflow as sft
    from peft import OSFConfig, get_peft_model

    config = OSFConfig(task_type="CAUSAL_LM", **arguments)
    original = sft.load_model

    def load(*given: Any, **named: Any) -> Any:
        return get_peft_model(original(*given, **named), config)

    try:
        # The reference model of DPO is loaded by another module, and stays as it is.
        sft.load_model = dpo.load_model = load
        yield
    finally:
        sft.load_model = dpo.load_model = original
