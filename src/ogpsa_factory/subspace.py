"""The capability subspace: reference gradients in, an orthonormal basis out, and the projection against it.

Pure PyTorch. A *direction* is one reference gradient, given as a list of tensors (one per parameter, or per local
shard of a parameter); a *group* is a set of tensors projected together (see :mod:`ogpsa_factory.grouping`). For every
group with reference gradients ``G = [g_1 .. g_k]`` the subspace keeps an orthonormal basis ``U`` of ``span(G)`` and
replaces a gradient ``g`` by ``g - U U^T g`` (arXiv 2602.07892, the projected update of Algorithm 1).

Only sums over elements are ever shared between ranks: with sharded gradients pass ``reduce``, which must sum its
argument over the ranks that hold the other shards. The traffic is ``groups * (k + 1)`` float64 numbers per step.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import get_args

import torch
from torch import Tensor

from .basis import Basis
from .kernels import Kernels, Vectors
from .linalg import orthonormalise
from .modes import Mode, Projection, plan
from .storage import allocate, copy_row


Gradients = Vectors

MAX_DIRECTIONS = 64


class CapabilitySubspace:
    """Span of reference gradients, and the projection of gradients onto its orthogonal complement.

    Args:
        groups: group index of each tensor, from :func:`~ogpsa_factory.grouping.group_parameters`; None puts every
            tensor in its own group.
        mode: ``orthogonal`` removes the whole component in the subspace; ``conflict`` removes only what would raise a
            reference loss; ``plane`` keeps only the component (see :mod:`ogpsa_factory.modes`).
        aligned_scale: factor in mode ``conflict`` for groups that no reference loss is in conflict with.
        tolerance: a direction is dropped where its singular value, relative to the largest one of the unit-normalised
            reference gradients of its group, is at most this, or within the rounding of ``dtype``.
        energy: keep the fewest leading directions that explain this share (0..1] of the unit-normalised reference
            gradients' squared norm, group by group.
        dtype: in which the basis is stored; None keeps the reference gradients' dtype.
        offload: keep the basis in host memory (pinned if there is a GPU) and bring it over piece by piece.
        reduce: sums a tensor over the ranks that hold the other shards, and returns it; None for whole gradients.
        kernels: what computes pieces of long vectors; None for plain PyTorch.

    Attributes:
        basis: an orthonormal basis, in ``basis.matrices`` of shape ``[k, numel]`` per tensor, or None; rows beyond a
            group's rank are zero.
        gram: inner products between the reference gradients over all groups, of shape ``[k, k]``, float64.
        coordinates: unit-normalised reference gradients in the basis, one per column, of shape ``[groups, k, k]``.
        norms: norm of each reference gradient within each group, of shape ``[groups, k]``.
        scaled: the reference gradients themselves in the basis, as ``coordinates``.

    Raises:
        ValueError: for an unknown mode, a tolerance or energy outside its range, or dtype float16.
    """

    def __init__(
        self,
        groups: Sequence[int] | None = None,
        *,
        mode: Mode = "orthogonal",
        aligned_scale: float = 1.0,
        tolerance: float = 1e-4,
        energy: float = 1.0,
        dtype: torch.dtype | None = None,
        offload: bool = False,
        reduce: Callable[[Tensor], Tensor] | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}.")
        if not 0.0 <= tolerance < 1.0:
            raise ValueError(f"tolerance must be in [0, 1), got {tolerance}.")
        if not 0.0 < energy <= 1.0:
            raise ValueError(f"energy must be in (0, 1], got {energy}.")
        if dtype == torch.float16:
            raise ValueError("dtype float16 flushes small gradients to zero; use bfloat16, which has float32's range.")
        self.groups = None if groups is None else list(groups)
        self.mode = mode
        self.aligned_scale = aligned_scale
        self.tolerance = tolerance
        self.energy = energy
        self.dtype = dtype
        self.offload = offload
        self.reduce = reduce or (lambda tensor: tensor)
        self._whole = reduce is None
        self.kernels = kernels or Kernels()
        self.basis = Basis([], [], 0, 0, self.kernels)
        empty = torch.zeros(0, 0, 0, dtype=torch.float64)
        self._set_coordinates(empty, torch.zeros(0, 0, dtype=torch.float64), empty.sum(dim=0))

    @property
    def directions(self) -> int:
        """Number of reference gradients k the subspace was made from, 0 while it is empty."""
        return self.coordinates.shape[-1]

    @property
    def ranks(self) -> Tensor:
        """Rank of the subspace in each group, of shape ``[groups]``, int64."""
        return (self.coordinates.abs().amax(dim=2) > 0).sum(dim=1) if self.directions else torch.zeros(0).long()

    @property
    def explained(self) -> float:
        """Share (0..1) of the reference gradients' squared norm that lies in the stored subspace."""
        total = float(self.gram.trace())
        return float(self.scaled.square().sum()) / total if total else 1.0

    def refresh(self, references: Iterable[Gradients], count: int | None = None) -> bool:
        """Replace the subspace by the span of new reference gradients.

        Args:
            references: k lists of tensors, one tensor (or None for "no gradient") per parameter, always in the same
                order. Each is copied before the next is asked for, so a generator may reuse its buffers, or clear its
                list.
            count: k, needed if ``references`` has no length.

        Returns:
            False if a reference gradient is not finite: the previous subspace is then kept, on all ranks alike.

        Raises:
            ValueError: for more than 64 directions, or lists that do not match each other or ``groups``.
        """
        count = len(references) if count is None else count  # type: ignore[arg-type]
        if count > MAX_DIRECTIONS:
            raise ValueError(f"A subspace takes at most {MAX_DIRECTIONS} directions, got {count}.")
        stacked: list[Tensor | None] = []
        device = torch.device("cpu")
        for row, gradients in enumerate(references):
            stacked = stacked or [None] * len(gradients)
            if len(gradients) != len(stacked) or (self.groups is not None and len(gradients) != len(self.groups)):
                raise ValueError(
                    f"Reference gradient {row} has {len(gradients)} tensors, {len(self.groups or stacked)} are due."
                )
            device = copy_row(stacked, row, count, gradients, self.dtype, self.offload) or device
        if count and not stacked:
            raise ValueError(f"{count} reference gradients were announced and none was given.")

        groups = self.groups if self.groups is not None else list(range(len(stacked)))
        gram = torch.zeros(max(groups, default=-1) + 1, count, count, dtype=torch.float64)
        for group, stack in zip(groups, stacked, strict=True):
            if stack is not None:
                gram[group] += self.kernels.reference_gram(stack).cpu()
        gram = self.reduce(gram.to(device)).cpu()
        if not torch.isfinite(gram).all():
            return False

        # What is left of a direction when what it has in common with others is taken away must be more than rounding.
        kept_in = self.dtype or next((stack.dtype for stack in stacked if stack is not None), torch.float64)
        rounding = torch.finfo(kept_in).eps / 2
        transform, coordinates, norms = orthonormalise(gram, max(self.tolerance, rounding), self.energy)
        for group, stack in zip(groups, stacked, strict=True):
            if stack is not None:
                self.kernels.mix_(stack, transform[group].to(stack.device))
        self.groups = groups
        self.basis = Basis(stacked, groups, len(norms), count, self.kernels)
        self._set_coordinates(coordinates, norms, gram.sum(dim=0))
        return True

    def project_(self, gradients: Gradients, measure: bool = False) -> Projection:
        """Remove the component in the subspace from ``gradients``, in place.

        Args:
            gradients: one tensor or None per parameter, in the order of the reference gradients. A group whose
                gradient is not finite is left as it is.
            measure: also compute the inner products with the references after the projection (one more read).

        Returns:
            What was removed. Without a subspace nothing is touched and all figures are zero.

        Raises:
            ValueError: if the number of tensors differs from the reference gradients'.
        """
        return self._apply(gradients, measure, change=True)

    def would_remove(self, gradients: Gradients) -> Projection:
        """Compute what :meth:`project_` would do, and change nothing."""
        return self._apply(gradients, measure=False, change=False)

    def _apply(self, gradients: Gradients, measure: bool, change: bool) -> Projection:
        if self.directions == 0:
            zero = torch.zeros((), dtype=torch.float64)
            return Projection(zero, zero, zero.new_zeros(0), None)
        in_one_go = change and self._whole and self.mode == "orthogonal" and self.basis.alone
        inner, squared = self._inner_products(gradients, project=in_one_go)
        keep, remove = plan(self.mode, self.coordinates, inner, self.aligned_scale)
        removed = remove.square().sum(dim=1)
        if keep is not None:  # || (1 - keep) g + U remove ||^2
            lost = 1 - keep
            removed = removed + lost.square() * squared + 2 * lost * (inner * remove).sum(dim=1).nan_to_num()
        if change and not in_one_go:
            for group, gradient in zip(self.groups or (), gradients, strict=True):
                if gradient is not None and keep is not None:
                    gradient.mul_(keep[group].to(gradient.device))
            self.basis.subtract_(gradients, remove)
        after = None
        if measure:
            inner_after, squared_after = self._inner_products(gradients)
            after = squared_after.sum().sqrt(), self.reference_inner(inner_after)
        return Projection(
            norm=squared.sum().sqrt(),
            removed=removed.sum().clamp_min(0).sqrt(),
            inner=self.reference_inner(inner),
            after=after,
        )

    def blank_tensors(self) -> list[int]:
        """Indices of the tensors on which every direction is zero; empty without a subspace."""
        tensors = enumerate(self.basis.matrices) if self.directions else ()
        return [i for i, basis in tensors if basis is None or not basis.any()]

    @property
    def nbytes(self) -> int:
        """Bytes that the basis takes on this rank."""
        return sum(basis.nbytes for basis in self.basis.matrices if basis is not None)

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything :meth:`load_state_dict` needs: ``basis.<i>``, ``coordinates``, ``norms`` and ``gram``."""
        state = {f"basis.{i}": basis for i, basis in enumerate(self.basis.matrices) if basis is not None}
        return {**state, "coordinates": self.coordinates, "norms": self.norms, "gram": self.gram}

    def load_state_dict(self, state: dict[str, Tensor], sizes: Sequence[int], devices: Sequence[torch.device]) -> None:
        """Restore a subspace.

        Args:
            state: from :meth:`state_dict`.
            sizes: how many elements of each gradient this rank holds.
            devices: where each gradient is.

        Raises:
            ValueError: if the stored basis does not have these sizes.
        """
        basis: list[Tensor | None] = []
        for i, (size, device) in enumerate(zip(sizes, devices, strict=True)):
            stored = state.get(f"basis.{i}")
            if stored is not None and stored.shape[1] != size:
                raise ValueError(f"Stored basis {i} has {stored.shape[1]} elements, the gradient {size}.")
            if stored is not None:
                stored = allocate(stored.shape, stored.dtype, device, self.offload).copy_(stored)
            basis.append(stored)
        self.groups = self.groups if self.groups is not None else list(range(len(basis)))
        self.basis = Basis(basis, self.groups, len(state["norms"]), state["norms"].shape[1], self.kernels)
        self._set_coordinates(state["coordinates"], state["norms"], state["gram"])

    def _set_coordinates(self, coordinates: Tensor, norms: Tensor, gram: Tensor) -> None:
        self.coordinates = coordinates
        self.norms = norms
        self.gram = gram
        self.scaled = coordinates * norms[:, None, :]  # moves to the gradients' device at first use, and stays

    def _inner_products(self, gradients: Gradients, project: bool = False) -> tuple[Tensor, Tensor]:
        """Coefficients ``U^T g`` of shape ``[groups, k]`` and squared norms of the gradient, of shape ``[groups]``.

        With ``project``, the component that they are of is removed in the same go.
        """
        if len(gradients) != len(self.basis.matrices):
            raise ValueError(f"{len(gradients)} gradients were given, the subspace has {len(self.basis.matrices)}.")
        sums = self.basis.project_(gradients) if project else self.reduce(self.basis.inner(gradients))
        return sums[:, :-1], sums[:, -1]

    def reference_inner(self, inner: Tensor) -> Tensor:
        """Inner products with the references, of shape ``[k]``, from those with the basis, ``[groups, k]``."""
        self.scaled = self.scaled.to(inner.device)
        return torch.einsum("grk,gr->k", self.scaled, inner)
