"""Short tensors that are taken together give what each gives alone."""

import pytest
import torch

from ogpsa_factory import CapabilitySubspace
from ogpsa_factory.basis import Basis
from ogpsa_factory.fused import SHORT, FusedKernels
from ogpsa_factory.kernels import BLOCK, InverseRoot, Kernels
from ogpsa_factory.storage import PIECE


pytestmark = pytest.mark.slow  # a compiler starts
# One number, less than a block, exactly one, one more; two dimensions; too long for a pack.
SHAPES = [(1,), (BLOCK - 1,), (BLOCK,), (BLOCK + 1,), (7, 90), (SHORT,), (40, 50)]
OF = [0, 1, 2, 0, 1, 3, 2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kernels():
    return FusedKernels(CPU)


def vectors(seed, dtype=torch.float32, without=()):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    return [None if i in without else tensor for i, tensor in enumerate(made)]


def matrices(k, dtype=torch.float32, without=()):
    rows = [vectors(seed, dtype, without) for seed in range(k)]
    return [None if own[0] is None else torch.stack([v.reshape(-1) for v in own]) for own in zip(*rows, strict=True)]


def scales(kind):
    """None, one kind that kernels see, or one that they do not."""
    if kind is None:
        return None
    generator = torch.Generator().manual_seed(3)
    seconds = [torch.rand(torch.Size(shape).numel(), generator=generator) ** 4 for shape in SHAPES]
    epsilon = 0.0 if kind == "no epsilon" else 1e-3
    seen = [InverseRoot(second + 1e-3, 0.1 * (i + 1), epsilon) for i, second in enumerate(seconds)]
    return seen if kind != "unseen" else [lambda start, end, own=own: own(start, end) for own in seen]


def both(kernels, k=3, dtype=torch.float32, without=()):
    """The same basis, packed and not."""
    packed, alone = (Basis(matrices(k, dtype, without), OF, 4, k, own) for own in (kernels, Kernels()))
    assert [pack.members for pack in packed._packs] and not alone._packs
    return packed, alone


@pytest.mark.parametrize("kind", [None, "seen", "no epsilon", "unseen"])
@pytest.mark.parametrize(
    ("k", "of_rows", "of_vectors"),
    [
        (3, torch.float32, torch.float32),
        (1, torch.bfloat16, torch.float32),
        (6, torch.bfloat16, torch.bfloat16),
        (3, torch.float32, torch.float64),
    ],
)
def test_packed_and_alone_agree(kernels, k, of_rows, of_vectors, kind):
    packed, alone = both(kernels, k, of_rows, without=(4,))  # a tensor that no reference has reached
    gradient = vectors(9, of_vectors, without=(2,))  # and one without a gradient
    own = scales(kind)
    assert torch.allclose(packed.inner(gradient), alone.inner(gradient), rtol=1e-4, atol=1e-3)
    exact = packed.exact_inner(gradient, own), alone.exact_inner(gradient, own)
    assert torch.allclose(*exact, rtol=1e-6, atol=1e-4 if own else 1e-9)
    ones = own or [None] * len(SHAPES)
    assert torch.allclose(packed.gram(gradient, ones), alone.gram(gradient, ones), rtol=1e-5, atol=1e-3)
    coefficients = torch.randn(4, k, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = []
    for basis in (packed, alone):
        copy = [None if g is None else g.clone() for g in gradient]
        basis.subtract_(copy, coefficients, own)
        moved.append(copy)
    for before, a, b in zip(gradient, *moved, strict=True):
        assert (before is None) == (a is None)
        if before is not None:
            assert torch.allclose(a, b, rtol=2 * torch.finfo(of_vectors).eps, atol=1e-3 if own else 1e-5)


def test_what_is_packed_is_a_view(kernels):
    """Checkpoints and coverage read one matrix per tensor."""
    packed, alone = both(kernels)
    assert all(torch.equal(a, b) for a, b in zip(packed.matrices, alone.matrices, strict=True))
    (pack,) = packed._packs
    assert sorted(pack.members) == [0, 1, 2, 3, 4, 6]
    pack.rows.zero_()
    assert [bool(matrix.any()) for matrix in packed.matrices] == [False] * 5 + [True, False]


def test_a_number_that_is_not_finite_stays_in_its_group(kernels):
    packed, _ = both(kernels)
    gradient = vectors(9)
    gradient[3][-1] = float("nan")
    sums = packed.inner(gradient)
    assert sums.isfinite().all(dim=1).tolist() == [False, True, True, True]
    clean = vectors(9)
    assert torch.allclose(packed.inner(clean)[1:], sums[1:]), "and is gone with the vector that had it"
    coefficients = torch.zeros(4, 3, dtype=torch.float64)
    packed.subtract_(gradient, coefficients)
    assert all(torch.equal(a, b) for i, (a, b) in enumerate(zip(gradient, clean, strict=True)) if i != 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tensor_by_tensor_is_the_same_packed(kernels, dtype, monkeypatch):
    """One is longer than a piece, one lies across, one has a number that is not finite, one is reached by no row."""
    monkeypatch.setattr(FusedKernels, "piece", SHORT // 2)
    results = []
    for own in (kernels, Kernels()):
        basis = Basis(matrices(3, without=(1,)), list(range(len(SHAPES))), len(SHAPES), 3, own)
        for matrix in basis.matrices:
            if matrix is not None:  # so that projections are not larger than what is projected
                matrix /= matrix.norm(dim=1, keepdim=True) * 2
        gradient = vectors(9, dtype, without=(2,))
        gradient[4] = gradient[4].T.contiguous().T
        gradient[6][0, 0] = float("nan")
        before = [None if g is None else g.clone() for g in gradient]
        sums = basis.project_(gradient)
        assert torch.equal(gradient[6].nan_to_num(7), before[6].nan_to_num(7)) and torch.equal(gradient[1], before[1])
        assert not torch.equal(gradient[4], before[4]) and not torch.equal(gradient[5], before[5])
        results.append([sums.nan_to_num(7), *(g.nan_to_num(7).double() for g in gradient if g is not None)])
    eps = max(torch.finfo(dtype).eps, 1e-6)
    assert all(torch.allclose(a, b, rtol=2 * eps, atol=1e-4) for a, b in zip(*results, strict=True))


def test_what_one_pack_leaves_behind_does_not_show_in_the_next(kernels):
    """They share a buffer, and tensors end before their last block does."""
    shapes = [(BLOCK - 3,)] * (2 * PIECE // BLOCK)
    rows = [torch.ones(1, *shape) for shape in shapes]
    basis = Basis(list(rows), [0] * len(shapes), 1, 1, kernels)
    assert len(basis._packs) == 2
    gradient = [torch.full(shape, 2.0) for shape in shapes]
    total = len(shapes) * (BLOCK - 3)
    for _ in range(2):
        assert basis.inner(gradient).tolist() == [[2.0 * total, 4.0 * total]]
    gradient[-1] = None
    assert basis.inner(gradient).tolist() == [[2.0 * (total - BLOCK + 3), 4.0 * (total - BLOCK + 3)]]


@pytest.mark.parametrize("offset", [0, 5])
def test_parts_of_tensors_are_taken_alone(kernels, offset):
    """Where ranks step pieces of the weights that they do not hold the gradients of."""
    packed, alone = both(kernels)
    part = [v.reshape(-1)[offset : offset + 60] for v in vectors(9)]
    offsets = [offset] * len(SHAPES)
    if offset:
        part[0] = None
    found = []
    for basis in (packed, alone):
        copy = [None if v is None else v.clone() for v in part]
        basis.subtract_(copy, torch.ones(4, 3, dtype=torch.float64), scales("unseen"), offsets)
        sums = basis.exact_inner(part, None, offsets), basis.gram(part, scales("unseen"), offsets)
        found.append([*sums, *(v for v in copy if v is not None)])
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(*found, strict=True))


def test_one_that_has_no_scale_to_be_seen_does_not_keep_the_others_from_being_packed(kernels):
    """As long as it has no vector: on other ranks it is."""
    packed, alone = both(kernels)
    some, weights = scales("seen"), vectors(9, without=(1,))
    some[1] = None
    assert all(pack.takes(weights, some) and pack.takes_gram(weights, some) for pack in packed._packs)
    assert torch.allclose(packed.gram(weights, some), alone.gram(weights, some), rtol=1e-5, atol=1e-3)
    assert torch.allclose(packed.exact_inner(weights, some), alone.exact_inner(weights, some), rtol=1e-5, atol=1e-4)


def test_views_of_any_stride_are_changed_in_place(kernels):
    packed, alone = both(kernels)
    coefficients = torch.ones(4, 3, dtype=torch.float64)
    ours, theirs = vectors(9), vectors(9)
    ours[4] = theirs[4].T.contiguous().T
    for basis, own in ((packed, ours), (alone, theirs)):
        basis.subtract_(own, coefficients)
    assert torch.allclose(ours[4], theirs[4], atol=1e-6) and not torch.equal(ours[4], vectors(9)[4])


@pytest.mark.parametrize("mode", ["orthogonal", "conflict", "plane"])
@pytest.mark.parametrize("granularity", ["parameter", "layer", "global"])
def test_a_subspace_of_short_tensors_projects_as_before(kernels, mode, granularity):
    groups = {"parameter": None, "layer": OF, "global": [0] * len(SHAPES)}[granularity]
    results = []
    for own in (kernels, None):
        subspace = CapabilitySubspace(groups, mode=mode, kernels=own)
        subspace.refresh([vectors(1), vectors(2, without=(0, 4)), vectors(3)])
        restored = CapabilitySubspace(groups, mode=mode, kernels=own)
        sizes = [torch.Size(shape).numel() for shape in SHAPES]
        restored.load_state_dict(subspace.state_dict(), sizes, [CPU] * len(SHAPES))
        found = []
        for each in (subspace, restored):
            gradient = vectors(9)
            report = each.project_(gradient, measure=True)
            found.append([*gradient, report.inner, report.norm, report.removed])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
        results.append(found[0])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*results, strict=True))
