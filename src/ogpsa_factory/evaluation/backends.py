"""What runs a model: transformers, vLLM, or an endpoint that someone else runs."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from ..endpoint import Endpoint, ReplyCache, complete_each
from ..errors import OGPSAError
from .models import Model
from .recorded import OnProgress, RecordedLM


_RUNNERS = {"hf": ("transformers", "torch"), "vllm": ("vllm",), "openai": ()}
_VLLM_BLOCK = 512  # vLLM hands out its answers when all of a block are there


@dataclass(frozen=True, kw_only=True)
class Running:
    """How models are run.

    Attributes:
        backend: `hf`, `vllm` or `openai`.
        batch_size: prompts at a time, or `auto`; for `hf`.
        device: such as `cpu` or `cuda:0`; None for a GPU where there is one.
        dtype: of the weights; `auto` for that of the files.
        arguments: more arguments of lm-eval's model class.
        template: whether the tokenizer's chat template is applied.
        temperature: of sampling; 0 for greedy decoding.
        seed: of sampling.
        endpoint: for `openai`.
    """

    backend: str
    batch_size: str = "8"
    device: str | None = None
    dtype: str = "auto"
    arguments: dict[str, Any]
    template: bool = True
    temperature: float = 0.0
    seed: int = 0
    endpoint: Endpoint | None = None


class EndpointLM(LM):
    """A model behind a chat endpoint, which generates and cannot compute likelihoods of given texts.

    Args:
        endpoint: where it is; its `max_tokens` and `temperature` are those of each request.
        path: file of replies, each of which is kept as soon as it is there.
    """

    def __init__(self, endpoint: Endpoint, path: Path) -> None:
        super().__init__()
        self.answers = ReplyCache(path)
        self.on_progress: OnProgress | None = None
        self.failures: dict[str, str] = {}  # by prompt: why there is no answer
        self.generated = 0
        self._endpoint = endpoint

    def close(self) -> None:
        """Close the file."""
        self.answers.close()

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's own cache of prompts, which is not used."""
        return ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The messages as JSON: the endpoint applies its template itself."""
        return json.dumps(chat_history, ensure_ascii=False)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers as text; "" where the endpoint failed on a request, see `failures`."""
        self.failures = {}
        answers: dict[int, str] = {}
        kinds = {json.dumps(request.args[1], sort_keys=True): request.args[1] for request in requests}
        before = len(self.answers)
        for kind, options in kinds.items():  # one, unless a benchmark's tasks differ
            chosen = [i for i, r in enumerate(requests) if json.dumps(r.args[1], sort_keys=True) == kind]
            temperature = options.get("temperature", 0.0) if self._endpoint.temperature is not None else None
            endpoint = replace(self._endpoint, max_tokens=options["max_gen_toks"], temperature=temperature)
            messages = [json.loads(requests[i].args[0]) for i in chosen]
            for i, reply in zip(
                chosen, complete_each(messages, endpoint, self.answers, self.on_progress), strict=True
            ):
                answers[i] = _until(reply.text, options.get("until") or [])
                if reply.failure is not None:
                    self.failures[str(requests[i].args[0])] = reply.failure
        self.generated += len(self.answers) - before
        return [answers[i] for i in range(len(requests))]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Impossible: `evaluate` leaves such benchmarks out before."""
        raise NotImplementedError("chat endpoints give no likelihoods of given texts")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Impossible as well."""
        raise NotImplementedError("chat endpoints give no likelihoods of given texts")


def _until(text: str, stops: list[str]) -> str:
    for stop in stops:
        text = text.split(stop, 1)[0] if stop else text
    return text


def open_model(model: Model, running: Running, fingerprint: str, folder: Path) -> RecordedLM | EndpointLM:
    """Make a model ready to answer; weights are loaded when the first answer is missing.

    Args:
        model: which one.
        running: how.
        fingerprint: of its weights.
        folder: where answers are kept: in a file of their own for each fingerprint and way of running, so that a
            model is known again under another name, and never confused with another.

    Returns:
        A model for lm-eval.

    Raises:
        OGPSAError: its tokenizer cannot be read, or has no chat template.
    """
    sampling = [running.temperature, running.seed] if running.temperature else []
    how = [fingerprint, running.backend, running.dtype, running.arguments, running.template, *sampling]
    how += [version(name) for name in _RUNNERS[running.backend]]  # another version may answer otherwise
    name = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:16]
    if running.endpoint is not None:
        return EndpointLM(replace(running.endpoint, model=model.base), folder / f"{name}.jsonl")
    tokenizer = _tokenizer(model)
    template = _template(model, tokenizer) if running.template else _plain
    loaders: dict[str, Callable[[Model, Running, Path], LM]] = {"hf": _load_hf, "vllm": _load_vllm}
    load = loaders[running.backend]
    block = _VLLM_BLOCK if running.backend == "vllm" else 1_000_000
    lm = RecordedLM(folder / f"{name}.jsonl", lambda: load(model, running, folder), template, block)
    lm.measure, lm.room = lambda prompt: len(tokenizer(prompt)["input_ids"]), _room(model, running)
    return lm


def _room(model: Model, running: Running) -> int | None:
    """Tokens that a model can see at once; None where its configuration does not say."""
    from transformers import AutoConfig

    given = running.arguments.get("max_length") or running.arguments.get("max_model_len")
    try:
        config = AutoConfig.from_pretrained(model.base)
    except Exception as error:  # unknown architectures, damaged files
        raise OGPSAError(f"The configuration of {model.base} cannot be read: {error}") from error
    return int(given) if given else getattr(config, "max_position_embeddings", None)


def _template(model: Model, tokenizer: Any) -> Callable[..., str]:
    if not tokenizer.chat_template:
        raise OGPSAError(
            f"{model.base}: its tokenizer has no chat template, so prompts would not be those of training. Take the "
            "template from the model that it stems from (LLaMA-Factory saves one with every model it trains), or say "
            "--no-chat-template for a model that has never seen one."
        )

    def render(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    return render


def _plain(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    return "\n\n".join(message["content"] for message in messages)


def _tokenizer(model: Model) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model.base)
    except Exception as error:  # files, the hub's client and tokenizers each have their own
        reason = (str(error).strip().splitlines() or [""])[0]
        raise OGPSAError(f"The tokenizer of {model.base} cannot be read: {reason}") from error


def _load_hf(model: Model, running: Running, folder: Path) -> LM:
    import torch
    from lm_eval.models.huggingface import HFLM

    device = running.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise OGPSAError(f"--device {device} is none of cpu, cuda, cuda:N and mps.")
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise OGPSAError(
            f"--device {device}: there is no such GPU here; {there} can be seen. lm-eval would take a CPU."
        )
    size: int | str = int(running.batch_size) if running.batch_size.isdigit() else running.batch_size
    options: dict[str, Any] = {"device": device, "batch_size": size, **running.arguments}
    try:
        if len(model.adapters) <= 1:
            peft = {"peft": model.adapters[0]} if model.adapters else {}
            return HFLM(pretrained=model.base, dtype=running.dtype, **peft, **options)
        return HFLM(pretrained=_merged(model, running.dtype, device), tokenizer=model.base, **options)
    except Exception as error:  # damaged files, unknown architectures, types and devices each have their own
        raise OGPSAError(f"The model {model.path} cannot be loaded: {type(error).__name__}: {error}") from error


def _merged(model: Model, dtype: str, device: str) -> Any:
    """The base with all its adapters merged into it, in the order in which they were trained."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(model.base, dtype=dtype)
    with warnings.catch_warnings():
        # peft leaves a mark on what it has merged, and takes it for an adapter that is still there.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        for adapter in model.adapters:
            merged = PeftModel.from_pretrained(merged, adapter).merge_and_unload()
    return merged.eval().to(device)


def _load_vllm(model: Model, running: Running, folder: Path) -> LM:
    from lm_eval.models.vllm_causallms import VLLM

    options: dict[str, Any] = {"batch_size": "auto", **running.arguments}
    if len(model.adapters) > 1:  # vLLM takes one at most
        merged = TemporaryDirectory(prefix="merged-", dir=folder)
        _merged(model, running.dtype, "cpu").save_pretrained(merged.name)
        _tokenizer(model).save_pretrained(merged.name)
        lm = VLLM(pretrained=merged.name, dtype=running.dtype, **options)
        lm.merged = merged  # the folder goes when the model does
        return lm
    if model.adapters:
        rank = json.loads((Path(model.adapters[0]) / "adapter_config.json").read_text(encoding="utf-8")).get("r", 16)
        options = {"lora_local_path": model.adapters[0], "max_lora_rank": rank, **options}
    return VLLM(pretrained=model.base, dtype=running.dtype, **options)
