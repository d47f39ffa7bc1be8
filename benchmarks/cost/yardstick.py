"""The obvious way, to compare with: a hook on every parameter's gradient, references in host memory.

Every micro-batch's gradient is projected as soon as autograd has it, tensor by tensor. References are brought to the
gradient's device whenever they are needed, so that no accelerator memory is taken. There are two of them: as a formula
is usually written down, and with care (an inner product that makes no temporary, directions of unit length).
"""

import time

import torch
from torch import Tensor, nn

from ogpsa_factory import CapabilitySubspace


class HookedProjection:
    """Projects each micro-batch's gradient, tensor by tensor.

    Args:
        model: whose parameters get hooks.
        references: one list of gradients per direction, in the parameters' order.
        careful: see above.

    Attributes:
        seconds: time spent in hooks since it was last set to zero.
    """

    def __init__(self, model: nn.Module, references: list[list[Tensor]], careful: bool) -> None:
        self.seconds = 0.0
        self._careful = careful
        for number, parameter in enumerate(model.parameters()):
            columns = torch.stack([reference[number].flatten().float() for reference in references], dim=1)
            basis = list(torch.linalg.qr(columns.cpu()).Q.T.contiguous())
            parameter.register_hook(lambda gradient, basis=basis: self._project(gradient, basis))

    def _project(self, gradient: Tensor, basis: list[Tensor]) -> Tensor:
        if gradient.is_cuda:
            torch.cuda.synchronize(gradient.device)  # what autograd has still to do is none of this
        started = time.perf_counter()
        for row in basis:
            direction = row.to(gradient.device, gradient.dtype).view_as(gradient)
            if self._careful:
                gradient = gradient - torch.dot(gradient.flatten(), direction.flatten()) * direction
            else:
                gradient = gradient - (gradient * direction).sum() / (direction * direction).sum() * direction
        if gradient.is_cuda:
            torch.cuda.synchronize(gradient.device)
        self.seconds += time.perf_counter() - started
        return gradient


def directions_of(subspace: CapabilitySubspace, parameters: list[Tensor]) -> list[list[Tensor]]:
    """A subspace's directions, one list per direction, as gradients of the parameters."""
    pairs = [(basis, p) for basis, p in zip(subspace.basis.matrices, parameters, strict=True) if basis is not None]
    return [[basis[row].view_as(p) for basis, p in pairs] for row in range(subspace.directions)]
