"""A language model for lm-eval that remembers: what was generated once is read from disk.

lm-eval has a cache of its own, which keeps nothing where answers are sampled, and pickled data. This one is a JSON
Lines file that only grows, for every local backend alike; the model is loaded when the first answer is missing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from ..endpoint import ReplyCache


OnProgress = Callable[[int, int], None]


class RecordedLM(LM):
    """Answers from a file, or from a model whose answers go into the file as soon as a batch of them is there.

    Args:
        path: the file; one for each model and way of running it.
        load: loads the model.
        template: renders messages to a prompt, as lm-eval's `apply_chat_template`.
        block: requests that are handed to the model at a time; backends that keep their batches to themselves lose so
            many when the process is killed.
    """

    def __init__(self, path: Path, load: Callable[[], LM], template: Callable[..., str], block: int) -> None:
        super().__init__()
        self.answers = ReplyCache(path)
        self.on_progress: OnProgress | None = None
        self.failures: dict[str, str] = {}  # a local model answers everything
        self.generated = 0
        self.measure: Callable[[str], int] = len  # tokens of a prompt
        self.room: int | None = None  # tokens of prompt and answer that the model can see at once
        self._load, self._template, self._block = load, template, block
        self._model: LM | None = None
        self._waiting: dict[str, list[str]] = {}  # keys of unanswered requests, by their content
        self._total = 0

    def close(self) -> None:
        """Close the file and let go of the model."""
        self.answers.close()
        self._model = None

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's own cache of prompts, which is not used."""
        return ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render messages to a prompt."""
        return self._template(chat_history, add_generation_prompt=add_generation_prompt)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Log-likelihoods of continuations, in nats, and whether greedy decoding gives them."""
        return [(float(number), bool(greedy)) for number, greedy in self._all("loglikelihood", requests)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers as text."""
        return [str(text) for text in self._all("generate_until", requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """No benchmark here needs it."""
        raise NotImplementedError("perplexity of whole texts is not recorded")

    def add_partial(self, kind: str, arguments: tuple[Any, ...], answer: Any) -> None:
        """Keep one answer; lm-eval's models call it for every batch (its interface of a cache)."""
        waiting = self._waiting.get(_content(kind, arguments))
        if waiting:
            self.answers.add(waiting.pop(0), json.dumps(answer), kind=kind, prompt=str(arguments[0]))
            self.generated += 1
            self._report()

    def _all(self, kind: str, requests: list[Instance]) -> list[Any]:
        contents = [_content(kind, request.args) for request in requests]
        keys = _numbered(contents)
        missing = [i for i, key in enumerate(keys) if key not in self.answers]
        self._total = len(requests)
        self._waiting = {}
        for i in missing:
            self._waiting.setdefault(contents[i], []).append(keys[i])
        self._report()
        if missing and self._model is None:
            self._model = self._load()
            self._model.set_cache_hook(self)
        # Longest first, as backends batch by length: memory runs out at once or never.
        missing.sort(key=lambda i: -len(str(requests[i].args[0])))
        for start in range(0, len(missing), self._block):
            block = missing[start : start + self._block]
            answers = getattr(self._model, kind)([requests[i] for i in block], disable_tqdm=True)
            for i, answer in zip(block, answers, strict=True):
                if keys[i] not in self.answers:
                    self.add_partial(kind, requests[i].args, answer)
        return [json.loads(self.answers[key]) for key in keys]

    def _report(self) -> None:
        if self.on_progress:
            self.on_progress(self._total - sum(map(len, self._waiting.values())), self._total)


def _content(kind: str, arguments: tuple[Any, ...]) -> str:
    return hashlib.sha256(json.dumps([kind, *arguments], sort_keys=True).encode()).hexdigest()


def _numbered(contents: list[str]) -> list[str]:
    """Names of requests: equal ones, which sampling answers differently, get numbers."""
    seen: Counter[str] = Counter()
    names = []
    for content in contents:
        names.append(f"{content}-{seen[content]}" if seen[content] else content)
        seen[content] += 1
    return names
