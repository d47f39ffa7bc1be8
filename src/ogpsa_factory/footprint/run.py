"""The prediction for one training run: its settings put together with its parameters."""

from __future__ import annotations

from ..grouping import group_parameters
from .memory import Footprint, predict
from .model import Parameters
from .settings import Settings


def predict_run(settings: Settings, parameters: Parameters, engine: str, ranks: int) -> Footprint:
    """Predict what a run takes on one engine.

    Args:
        settings: of the run.
        parameters: of its model.
        engine: name of the engine.
        ranks: number of GPUs.

    Returns:
        The prediction.

    Raises:
        OGPSAError: the engine or the numbers are not possible.
    """
    # The reference model of DPO and KTO is one more frozen model.
    reference = [*parameters.trained, *parameters.frozen] if settings.reference_model else []
    return predict(
        parameters.trained,
        engine,
        ranks,
        settings.references * settings.rank,
        frozen=[*parameters.frozen, *reference],
        units=parameters.units,
        groups=len(set(group_parameters(parameters.names, settings.granularity))),
        precision=settings.precision,
        wide_gradients=settings.wide_gradients,
        subspace_dtype=settings.subspace_dtype,
        offload=settings.offload,
        project=settings.project,
    )
