"""What training takes on one rank, and what OGPSA adds: bytes from shapes alone, for every engine.

Everything is arithmetic on the shapes of parameters, so a prediction needs neither weights nor a GPU. Counted are what
lives from step to step (weights, gradients, AdamW's state, the subspace) and what a refresh adds. Not counted are
activations, layers that are gathered for a moment, communication buffers and what libraries take for themselves. All
figures are of the fullest rank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from ..errors import OGPSAError
from ..fused import SHORT
from ..kernel_choice import WORTH_COMPILING
from ..storage import PIECE
from ..subspace import MAX_DIRECTIONS
from .engines import ENGINES, SIZES, Cut, Precision, Project


Shape = Sequence[int]


@dataclass
class Memory:
    """Bytes of one kind of memory on one rank.

    Attributes:
        weights: trained and frozen ones.
        gradients: in every form that the engine keeps.
        optimizer: AdamW's state, with DeepSpeed the float32 weights too.
        subspace: the basis, k numbers per local element.
        rounding: what PyTorch's allocator of pinned memory adds to the basis: it rounds up to powers of two.
        buffers: pieces of an offloaded basis on their way to the device.
        packs: where compiled kernels take short tensors side by side: gradients, on logged and projected steps
            weights, and in ``preconditioned`` second moments.
        accumulators: during a refresh, the float32 sum of one direction where the engine's gradients cannot be it.
        pieces: temporaries in float64, during a refresh and where steps are projected or measured.
        copy: on logged steps, the weights before the step, by which it is measured; at no other time, and never during
            a refresh.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    subspace: int = 0
    rounding: int = 0
    buffers: int = 0
    packs: int = 0
    accumulators: int = 0
    pieces: int = 0
    copy: int = 0

    @property
    def training(self) -> int:
        """What training takes without OGPSA."""
        return self.weights + self.gradients + self.optimizer

    @property
    def steady(self) -> int:
        """What OGPSA adds between two refreshes."""
        return self.subspace + self.rounding + self.buffers + self.packs

    @property
    def refresh(self) -> int:
        """What OGPSA adds at the peak of a refresh: the previous basis stays until the new one is accepted."""
        kept = 2 * (self.subspace + self.rounding) + self.packs
        return kept + self.accumulators + max(self.pieces, self.buffers)

    @property
    def peak(self) -> int:
        """Training and OGPSA at the fuller of two moments: during a refresh, and in a logged step."""
        return self.training + max(self.refresh, self.steady + self.copy + self.pieces)


@dataclass(frozen=True)
class Footprint:
    """A prediction for one rank of one engine.

    Attributes:
        engine: key of ``ENGINES``.
        elements: how many elements of the gradient the fullest rank holds.
        subspace_dtype: ``float32`` or ``bfloat16``.
        device: the accelerator's memory.
        host: the host's memory, for this rank only.
        traffic: bytes that the projection adds to an optimizer step's communication; on logged steps, about as many
            again are sent for the figures.
    """

    engine: str
    elements: int
    subspace_dtype: str
    device: Memory
    host: Memory
    traffic: int


def predict(
    trained: Sequence[Shape],
    engine: str,
    world_size: int,
    directions: int,
    *,
    frozen: Sequence[Shape] = (),
    units: Sequence[int] | None = None,
    groups: int | None = None,
    precision: Precision = "mixed",
    wide_gradients: bool = False,
    subspace_dtype: str = "auto",
    offload: bool = False,
    project: Project = "gradient",
) -> Footprint:
    """Predict the memory that one rank needs.

    Args:
        trained: shapes of the trained parameters, in the model's order.
        engine: key of ``ENGINES``.
        world_size: number of data-parallel ranks N.
        directions: k, reference sets times ``ogpsa_rank``.
        frozen: shapes of the parameters that are not trained.
        units: FSDP1's unit of each trained parameter; None for one unit.
        groups: number of groups that are projected by themselves; None for one per trained parameter.
        precision: ``mixed`` for bf16 or fp16, ``pure`` for ``pure_bf16``, else ``float32``.
        wide_gradients: whether DeepSpeed sums gradients in float32 (``data_types.grad_accum_dtype: fp32``).
        subspace_dtype: ``ogpsa_subspace_dtype``; ``auto`` as on a GPU.
        offload: ``ogpsa_offload``.
        project: ``ogpsa_project``.

    Returns:
        The prediction.

    Raises:
        OGPSAError: for an unknown engine, no rank, or a number of directions that is not possible.
    """
    check(engine, world_size, directions)
    facts, projected = ENGINES[engine], ENGINES[engine].projected
    trained_size, frozen_size, gradient_size, optimizer_size = SIZES[facts.family, precision]
    if wide_gradients and facts.family == "zero":
        gradient_size = 4
    sizes = {"weights": trained_size, "gradients": gradient_size, "optimizer": optimizer_size}
    device, host = Memory(), Memory()
    for holding in facts.holdings:
        place = host if holding.host else device
        local = sum(_pieces(trained, holding.cut, world_size, units))
        bytes_held = local * (holding.size or sizes[holding.kind])
        if holding.kind == "weights":
            bytes_held += frozen_size * sum(_pieces(frozen, holding.cut, world_size, None))
        setattr(place, holding.kind, getattr(place, holding.kind) + bytes_held)

    local_sizes = _pieces(trained, facts.cut, world_size, units)
    elements, longest = sum(local_sizes), min(max(local_sizes, default=0), PIECE)
    gradient_bytes = projected.size or gradient_size
    dtype = "bfloat16" if subspace_dtype == "auto" else subspace_dtype
    width = directions * (4 if dtype == "float32" else 2)
    where = host if offload or projected.host else device
    where.subspace = width * elements
    where.pieces = 2 * 8 * directions * longest
    if offload and not projected.host:
        host.rounding = sum(_power_of_two(width * size) - width * size for size in local_sizes)
        device.buffers = 2 * width * PIECE
    if not facts.accumulates or gradient_bytes < 4:
        (host if projected.host else device).accumulators = 4 * elements
    stepped = facts.stepped
    masters = 4 if facts.family.startswith("zero") else trained_size  # DeepSpeed's optimizer steps float32
    (host if stepped.host else device).copy = masters * sum(_pieces(trained, stepped.cut, world_size, units))
    if elements >= WORTH_COMPILING and sum(0 < size < SHORT for size in local_sizes) > 1:
        for there, size in {(projected.host, gradient_bytes), (stepped.host, masters)}:
            (host if there else device).packs += PIECE * size
        (host if stepped.host else device).packs += 4 * PIECE * (project == "preconditioned")
    groups = len(trained) if groups is None else groups
    shared = (facts.cut if project == "gradient" else stepped.cut) != "whole" and world_size > 1
    traffic = _numbers_sent(project, groups, directions, len(trained)) * 8 if shared else 0
    return Footprint(engine, elements, dtype, device, host, traffic)


def _numbers_sent(project: Project, groups: int, directions: int, tensors: int) -> int:
    """How many numbers ranks sum in one step."""
    if project == "gradient":  # inner products, and the norm
        return groups * (directions + 1)
    if project == "update":
        return groups * directions
    return groups * directions * (directions + 1) + 2 * tensors  # and Gram matrices, and means of the second moment


def check(engine: str, world_size: int, directions: int) -> None:
    """Refuse what :func:`predict` cannot predict.

    Raises:
        OGPSAError: see there.
    """
    if engine not in ENGINES:
        raise OGPSAError(f"Engine {engine} is unknown; it must be one of {', '.join(ENGINES)}.")
    if world_size < 1:
        raise OGPSAError(f"A world size of {world_size} is not possible; it is the number of GPUs, 1 or more.")
    if not 1 <= directions <= MAX_DIRECTIONS:
        raise OGPSAError(
            f"{directions} directions (reference sets times rank) are not possible: 1 to {MAX_DIRECTIONS} are. "
            "Change the number of reference sets or the rank."
        )


def _pieces(shapes: Sequence[Shape], cut: Cut, ranks: int, units: Sequence[int] | None) -> list[int]:
    """How many elements of each tensor the fullest rank, which is the first, holds."""
    sizes = [math.prod(shape) for shape in shapes]
    if cut == "whole":
        return sizes
    if cut == "tensor":
        return [-(-size // ranks) for size in sizes]
    if cut == "rows":
        rows = [shape[0] if shape else 1 for shape in shapes]
        return [-(-count // ranks) * (size // count) if count else 0 for count, size in zip(rows, sizes, strict=True)]
    pieces = [0] * len(sizes)
    of_tensor = [0] * len(sizes) if cut == "flat" or units is None else list(units)
    align = 2 if cut == "flat" else 1  # DeepSpeed makes every part begin at an even number
    for unit in dict.fromkeys(of_tensor):
        members = [i for i, each in enumerate(of_tensor) if each == unit]
        part = -(-sum(sizes[i] for i in members) // (align * ranks)) * align
        for i, end in zip(members, accumulate(sizes[i] for i in members), strict=True):
            pieces[i] = max(0, min(end, part) - (end - sizes[i]))
    return pieces


def _power_of_two(size: int) -> int:
    """The smallest power of two that is not below ``size``."""
    return 1 << (size - 1).bit_length() if size else 0
