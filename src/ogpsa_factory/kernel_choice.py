"""Plain kernels or compiled ones: what is worth its time, possible, and right on every rank."""

import logging
import time
from collections.abc import Callable

import torch

from .errors import OGPSAError
from .fused import SHORT, FusedKernels
from .kernels import InverseRoot, Kernels


logger = logging.getLogger(__name__)

WORTH_COMPILING = 1 << 24  # elements of gradients on one rank: below, compiling takes longer than it saves in a run


def choose_kernels(
    setting: str,
    elements: int,
    device: torch.device,
    dtypes: tuple[torch.dtype, torch.dtype],
    on_any_rank: Callable[[bool], bool],
) -> Kernels:
    """Compile kernels if that is wanted, worth its time, and possible on every rank.

    Ranks that hold the same weights must round alike, so all of them take the same kernels.

    Args:
        setting: ``ogpsa_kernels``.
        elements: how many elements of gradients this rank holds.
        device: where gradients are.
        dtypes: of the basis and of gradients.
        on_any_rank: whether something holds on any rank; collective.

    Returns:
        The kernels.

    Raises:
        OGPSAError: if ``setting`` is ``fused``, and they cannot be compiled.
    """
    if setting == "plain" or (setting == "auto" and not on_any_rank(elements >= WORTH_COMPILING)):
        return Kernels()
    started = time.perf_counter()
    kernels, reason = FusedKernels(device), ""
    try:
        if torch._dynamo.config.disable:
            reason = "the environment disables torch.compile: take TORCH_COMPILE_DISABLE or TORCHDYNAMO_DISABLE away"
        elif not _right(kernels, device, dtypes):
            reason = "what torch.compile makes gives wrong results on this machine"
    except Exception as error:  # whatever a compiler's absence looks like
        first = str(error).strip().partition("\n")[0]
        reason = f"torch.compile fails ({type(error).__name__}: {first}): is there a C++ compiler?"
    if not on_any_rank(bool(reason)):
        logger.info("The projection's kernels were compiled and tried in %.0f s.", time.perf_counter() - started)
        return kernels
    reason = reason or "another rank cannot compile"
    if setting == "fused":
        raise OGPSAError(f"ogpsa_kernels: fused is not possible: {reason}. Or use ogpsa_kernels: plain.")
    logger.warning("The projection uses plain kernels, which take longer: %s.", reason)
    return Kernels()


def _right(kernels: FusedKernels, device: torch.device, dtypes: tuple[torch.dtype, torch.dtype]) -> bool:
    """Try every kernel on a small problem of these dtypes."""
    plain = Kernels()
    wide = torch.linspace(0.1, 1, SHORT + 1, device=device)  # sums do not cancel
    rows, part = torch.stack([wide.cos(), wide.sin()]).to(dtypes[0]), wide.to(dtypes[1])
    scale, weights = InverseRoot(wide.square(), 0.5, 0.1), torch.ones(2, device=device)
    results = []
    for each in (kernels, plain):
        projected, mixed = part.clone(), rows.clone()
        found = [each.inner(rows, part), each.project_(projected, rows), projected]
        each.mix_(mixed, torch.tensor([[1.0, 0.5], [-0.7, 2.0]], dtype=torch.float64, device=device))
        found += [mixed, each.reference_gram(rows), each.gram(rows, scale, 0)]
        for own in (None, scale):
            changed = part.clone()
            each.subtract_(changed, rows, weights, own, 0)
            found += [changed, each.exact_inner(rows, part, own, 0)]
        results.append(torch.cat([figures.double().flatten() for figures in found]))
    rounding = max(torch.finfo(dtype).eps for dtype in dtypes)  # a number that lies between two may fall to either
    return torch.allclose(results[0], results[1], rtol=max(1e-4, 2 * rounding), atol=1e-4)
