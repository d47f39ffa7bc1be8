"""LLaMA-Factory's fine-tuning arguments with OGPSA's group added."""

from dataclasses import dataclass, field
from typing import Literal

from llamafactory.hparams.finetuning_args import FinetuningArguments

from .. import _startup, released
from ..arguments import OGPSAArguments
from ..errors import OGPSAError
from .preflight import refuse_switches


STAGE_PREFIX = "ogpsa_"

Stage = Literal[
    "pt", "sft", "rm", "ppo", "dpo", "kto", "ogpsa_pt", "ogpsa_sft", "ogpsa_dpo", "ogpsa_kto", "sft_pg", "dpo_pg"
]


@dataclass
class OGPSAFinetuningArguments(OGPSAArguments, released.ReleasedArguments, FinetuningArguments):
    """Fine-tuning arguments that understand OGPSA.

    ``stage: ogpsa_sft`` is short for ``stage: sft`` with ``use_ogpsa: true``. It is rewritten here, before anything
    else looks at the stage: a name of our own would switch off what LLaMA-Factory offers for the plain stage. So are
    the released code's stages and flags.
    """

    stage: Stage = field(  # type: ignore[assignment]
        default="sft",
        metadata={"help": "Which stage will be performed in training. `ogpsa_sft` is `sft` with `use_ogpsa: true`."},
    )

    def __post_init__(self) -> None:
        self.released_notes = self._translate_released_flags()
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

    def _translate_released_flags(self) -> list[str]:
        """Take over what the released code's flags mean; return what is to be said about them."""
        own = OGPSAArguments.__dataclass_fields__
        given = {name: getattr(self, name) for name in own if getattr(self, name) != own[name].default}
        old = {name: getattr(self, name) for name in released.FLAGS}
        ours, notes = released.translate({"stage": self.stage, **given, **old})
        for name, value in ours.items():
            setattr(self, name, value)
        for name in released.FLAGS:  # said once: what a run reports are the arguments that it ran with
            setattr(self, name, None)
        return notes
