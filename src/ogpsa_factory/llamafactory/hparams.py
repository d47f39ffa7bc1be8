"""LLaMA-Factory's fine-tuning arguments with OGPSA's group added."""

from dataclasses import dataclass, field
from typing import Literal

from llamafactory.hparams.finetuning_args import FinetuningArguments

from .. import _startup
from ..arguments import OGPSAArguments
from ..errors import OGPSAError
from .preflight import refuse_switches


STAGE_PREFIX = "ogpsa_"


@dataclass
class OGPSAFinetuningArguments(OGPSAArguments, FinetuningArguments):
    """Fine-tuning arguments that understand OGPSA.

    ``stage: ogpsa_sft`` is short for ``stage: sft`` with ``use_ogpsa: true``. It is rewritten here, before anything
    else looks at the stage: a name of our own would switch off what LLaMA-Factory offers for the plain stage.
    """

    stage: Literal["pt", "sft", "rm", "ppo", "dpo", "kto", "ogpsa_sft"] = field(  # type: ignore[assignment]
        default="sft",
        metadata={"help": "Which stage will be performed in training. `ogpsa_sft` is `sft` with `use_ogpsa: true`."},
    )

    def __post_init__(self) -> None:
        stage: str = self.stage
        if stage.startswith(STAGE_PREFIX):
            if self.use_ogpsa is False:
                raise OGPSAError(f"stage: {stage} and use_ogpsa: false contradict each other. Remove one of them.")
            self.stage = stage.removeprefix(STAGE_PREFIX)  # type: ignore[assignment]
            self.use_ogpsa = True
        self.use_ogpsa = bool(self.use_ogpsa)
        if self.use_ogpsa:
            if _startup.problems:
                raise OGPSAError("use_ogpsa is on, but OGPSA could not be hooked in: " + " ".join(_startup.problems))
            self.validate_ogpsa(self.stage)
            refuse_switches("finetuning", self)  # before LLaMA-Factory asks for packages that would not help
        super().__post_init__()
