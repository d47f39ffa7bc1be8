"""Losses of the miniature world's model: mean cross-entropy of the answers, in nats a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .model import IGNORE, encode
from .themes.theme import Question


@torch.inference_mode()
def mean_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Question], batch_size: int = 256
) -> float:
    """Measure the mean loss of some answers.

    Args:
        model: a causal language model.
        tokenizer: the world's tokenizer.
        rows: questions with the answers whose loss is wanted.
        batch_size: rows at a time.

    Returns:
        Sum of the answers' token losses over the number of their tokens, the token that ends an answer included; in
        nats.
    """
    tokens, labels, lengths = encode(tokenizer, rows)
    total, count = 0.0, 0
    for chosen in lengths.argsort(stable=True).split(batch_size):
        width = int(lengths[chosen].max())
        target = labels[chosen, 1:width]
        logits = model(input_ids=tokens[chosen, : width - 1], use_cache=False).logits
        total += float(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).double(), target.flatten(), ignore_index=IGNORE, reduction="sum"
            )
        )
        count += int((target != IGNORE).sum())
    return total / count
