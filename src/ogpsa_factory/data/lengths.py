"""How many tokens a row has in training: LLaMA-Factory's own templates with the model's tokenizer."""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import OGPSAError
from .examples import Example
from .quiet import quiet_libraries


class LengthMeter:
    """Counts tokens as LLaMA-Factory does before it cuts at `cutoff_len`."""

    def __init__(self, model: str, template: str) -> None:
        """Load a tokenizer, from a folder or the hub's cache; no weights.

        Args:
            model: `model_name_or_path`.
            template: LLaMA-Factory's template.

        Raises:
            OGPSAError: there is no tokenizer, or no such template.
        """
        from llamafactory.data.template import TEMPLATES, get_template_and_fix_tokenizer
        from llamafactory.hparams import DataArguments
        from transformers import AutoTokenizer

        if template not in TEMPLATES:
            raise OGPSAError(f"template: {template} is unknown to LLaMA-Factory")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model)
            self._tokenizer.model_max_length = sys.maxsize  # it would warn of long rows, which are counted here
        except Exception as error:  # a folder without one, the hub's client, a broken file: each has its own
            hub = "" if Path(model).is_dir() else ": it is no folder, and the hub did not give it"
            raise OGPSAError(f"no tokenizer could be loaded from {model}{hub} ({type(error).__name__})") from error
        with quiet_libraries():
            self._template = get_template_and_fix_tokenizer(self._tokenizer, DataArguments(template=template))

    def count(self, example: Example) -> int:
        """Count tokens.

        Args:
            example: a row without problems.

        Returns:
            Those of prompt and answer, of a pair with the longer answer.
        """
        roles = ("user", "assistant")
        prompt = [{"role": roles[i % 2], "content": text} for i, text in enumerate(example.turns)]
        longest = 0
        for answer in example.answers or [""]:
            messages = [*prompt, {"role": "assistant", "content": answer}]
            pairs = self._template.encode_multiturn(self._tokenizer, messages, example.system or None)
            longest = max(longest, sum(len(source) + len(target) for source, target in pairs))
        return longest + (1 if self._template.efficient_eos else 0)  # a last end that the turns do not have
