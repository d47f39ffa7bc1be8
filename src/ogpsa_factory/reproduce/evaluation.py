"""What evaluation takes: prompts and tokens of the paper's benchmarks, and what a judge is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


GENERATION_SHARE = 0.05  # of the peak that decoding reaches with batches: an assumption
_RUBRIC_TOKENS = 500  # of a judge's instructions: an assumption
_VERDICT_TOKENS = 80  # of its reply: an assumption


@dataclass(frozen=True)
class Load:
    """What one benchmark asks of a model.

    Attributes:
        prompts: rows of the public set.
        prompt: tokens of a prompt, assumed.
        answer: tokens of an answer, assumed; 0 where likelihoods are compared.
        choices: how often a prompt is read, once for every answer whose likelihood is compared.
        judged: whether a judge reads the answer.
    """

    prompts: int
    prompt: int
    answer: int
    choices: int = 1
    judged: bool = False


# Rows are those of the public sets (StrongReject: 313 prompts by two jailbreaks; WildChat is the size that the paper's
# scores fall on). Tokens are round figures, and the plan says so.
BENCHMARKS = {
    "StrongReject": Load(626, 200, 400, judged=True),
    "XSTest": Load(200, 20, 300, judged=True),
    "WildChat": Load(500, 200, 400, judged=True),
    "Stereotype": Load(95, 20, 300, judged=True),
    "SimpleQA": Load(4326, 30, 60, judged=True),
    "GPQA": Load(198, 300, 800),
    "MMLU": Load(14042, 150, 0, choices=4),
    "IFEval": Load(541, 50, 500),
    "HHH": Load(221, 200, 0, choices=2),
    "AdvGLUE": Load(738, 80, 0, choices=3),
    "StrongReject-none": Load(313, 30, 400, judged=True),
    "XSTest-safe": Load(250, 20, 300, judged=True),
    "HaluEval": Load(10_000, 60, 0, choices=2),
}


@dataclass(frozen=True)
class Estimate:
    """What the evaluation of some models takes.

    Attributes:
        reading: operations of reading prompts.
        generating: operations of writing answers.
        requests: to a judge.
        tokens_in: of all requests.
        tokens_out: of all verdicts.
    """

    reading: float
    generating: float
    requests: int
    tokens_in: int
    tokens_out: int

    def hours(self, tflops: float, mfu: float) -> float:
        """GPU-hours.

        Args:
            tflops: peak of the GPU.
            mfu: share of it that reading prompts reaches; answers are written at `GENERATION_SHARE`.

        Returns:
            The hours.
        """
        return (self.reading / mfu + self.generating / GENERATION_SHARE) / (tflops * 1e12 * 3600)

    def price(self, dollars_in: float, dollars_out: float) -> float:
        """What the judge costs.

        Args:
            dollars_in: per million tokens of requests.
            dollars_out: per million tokens of replies.

        Returns:
            Dollars.
        """
        return (self.tokens_in * dollars_in + self.tokens_out * dollars_out) / 1e6


def estimate(parameters: Sequence[int], benchmarks: Sequence[str]) -> Estimate:
    """Estimate the evaluation of models.

    Args:
        parameters: of each model.
        benchmarks: names of the paper's; none for all. Others are left out.

    Returns:
        The sum over models and benchmarks.
    """
    loads = [load for name, load in BENCHMARKS.items() if name in benchmarks or not benchmarks]
    read = sum(load.prompts * load.prompt * load.choices for load in loads)
    written = sum(load.prompts * load.answer for load in loads)
    judged = [load for load in loads if load.judged]
    requests = sum(load.prompts for load in judged)
    tokens_in = sum(load.prompts * (load.prompt + load.answer + _RUBRIC_TOKENS) for load in judged)
    models = len(parameters)
    return Estimate(
        2.0 * sum(parameters) * read,
        2.0 * sum(parameters) * written,
        models * requests,
        models * tokens_in,
        models * requests * _VERDICT_TOKENS,
    )
