"""Properties of the projection, over generated reference gradients and gradients."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ogpsa_factory import CapabilitySubspace, basis, group_parameters, kernels, storage
from ogpsa_factory.storage import PIECE


SHAPES = [(5, 7), (11,), (3, 4, 2), (1,), (40, 3)]
NAMES = ["model.embed.weight", "model.layers.0.a", "model.layers.0.b", "model.layers.1.a", "head.weight"]
GRANULARITIES = ["parameter", "layer", "global"]


def random_gradients(seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(shape, generator=generator) * scale).to(dtype) for shape in SHAPES]


def clone(gradients: list[Tensor]) -> list[Tensor]:
    return [g.clone() for g in gradients]


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.double().flatten() for g in gradients])


def make(references: list[list[Tensor]], granularity: str = "parameter", **options) -> CapabilitySubspace:
    subspace = CapabilitySubspace(group_parameters(NAMES, granularity), **options)
    assert subspace.refresh(references)
    return subspace


def projected(subspace: CapabilitySubspace, gradients: list[Tensor]) -> list[Tensor]:
    result = clone(gradients)
    subspace.project_(result)
    return result


def block_cosines(gradients: list[Tensor], reference: list[Tensor], granularity: str) -> list[float]:
    """Cosine between two gradients in every group, relative to the *original* scale given by the caller."""
    groups = group_parameters(NAMES, granularity)
    values = []
    for group in sorted(set(groups)):
        a = flat([g for g, i in zip(gradients, groups, strict=True) if i == group])
        b = flat([g for g, i in zip(reference, groups, strict=True) if i == group])
        values.append(float(a @ b / b.norm().clamp_min(1e-300)))
    return values


# A tensor of one element is spanned by any reference: the relative overlap is taken against the original gradient.
problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "k": st.integers(1, 8),
        "scale": st.sampled_from([1e-8, 1e-3, 1.0, 1e4]),
        "granularity": st.sampled_from(GRANULARITIES),
    }
)


def unpack(problem: dict) -> tuple[list[list[Tensor]], list[Tensor]]:
    seed, k = problem["seed"], problem["k"]
    references = [random_gradients(seed + 1 + i, problem["scale"] * 10.0 ** (i % 3 - 1)) for i in range(k)]
    return references, random_gradients(seed)


@given(problems)
@settings(max_examples=60, deadline=None)
def test_orthogonal_to_every_reference(problem):
    references, gradient = unpack(problem)
    result = projected(make(references, problem["granularity"]), gradient)
    for reference in references:
        for overlap in block_cosines(result, reference, problem["granularity"]):
            assert abs(overlap) <= 1e-6 * float(flat(gradient).norm())


@given(problems)
@settings(max_examples=40, deadline=None)
def test_idempotent_and_non_expansive(problem):
    references, gradient = unpack(problem)
    subspace = make(references, problem["granularity"])
    once = projected(subspace, gradient)
    twice = projected(subspace, once)
    norm = flat(gradient).norm()
    assert (flat(once) - flat(twice)).norm() <= 1e-6 * norm
    assert flat(once).norm() <= norm * (1 + 1e-6)


@given(problems, st.floats(1e-3, 1e3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_equivariant_to_scaling(problem, factor, negative):
    references, gradient = unpack(problem)
    factor = -factor if negative else factor
    subspace = make(references, problem["granularity"])
    norm = float(flat(gradient).norm())

    scaled_gradient = projected(subspace, [g * factor for g in gradient])
    assert (flat(scaled_gradient) - factor * flat(projected(subspace, gradient))).norm() <= 2e-6 * abs(factor) * norm

    references[0] = [g * factor for g in references[0]]
    scaled_reference = projected(make(references, problem["granularity"]), gradient)
    assert (flat(scaled_reference) - flat(projected(subspace, gradient))).norm() <= 2e-6 * norm


@given(problems, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_of_references_does_not_matter(problem, shuffler):
    references, gradient = unpack(problem)
    shuffled = list(references)
    shuffler.shuffle(shuffled)
    first = projected(make(references, problem["granularity"]), gradient)
    second = projected(make(shuffled, problem["granularity"]), gradient)
    assert (flat(first) - flat(second)).norm() <= 2e-6 * flat(gradient).norm()


@given(problems)
@settings(max_examples=40, deadline=None)
def test_block_wise_orthogonality_implies_global(problem):
    references, gradient = unpack(problem)
    for granularity in ("parameter", "layer"):
        result = projected(make(references, granularity), gradient)
        for reference in references:
            overlap = flat(result) @ flat(reference) / flat(reference).norm()
            assert abs(float(overlap)) <= 1e-6 * float(flat(gradient).norm())


@given(problems)
@settings(max_examples=40, deadline=None)
def test_linear_and_the_nearest_orthogonal_point(problem):
    """The projection equals the least-squares solution, computed by another route."""
    references, gradient = unpack(problem)
    groups = group_parameters(NAMES, problem["granularity"])
    result = projected(make(references, problem["granularity"]), gradient)
    for group in set(groups):
        select = [i for i, g in enumerate(groups) if g == group]
        columns = torch.stack([flat([r[i] for i in select]) for r in references], dim=1)
        columns = columns / columns.norm(dim=0)
        target = flat([gradient[i] for i in select])
        basis, singular, _ = torch.linalg.svd(columns, full_matrices=False)
        basis = basis[:, singular > 1e-4 * singular[0]]
        expected = target - basis @ (basis.T @ target)
        assert (flat([result[i] for i in select]) - expected).norm() <= 1e-6 * flat(gradient).norm()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("k", [1, 2, 33, 64])
def test_many_directions(granularity, k):
    references = [random_gradients(100 + i) for i in range(k)]
    gradient = random_gradients(1)
    result = projected(make(references, granularity), gradient)
    for reference in references:
        assert max(map(abs, block_cosines(result, reference, granularity))) <= 2e-6 * float(flat(gradient).norm())


def test_65_directions_are_refused():
    with pytest.raises(ValueError, match="at most 64"):
        make([random_gradients(i) for i in range(65)])


def test_rank_deficient_duplicate_and_zero_references():
    a, b = random_gradients(1), random_gradients(2)
    combination = [2 * x - 3 * y for x, y in zip(a, b, strict=True)]
    zero = [torch.zeros_like(x) for x in a]
    gradient = random_gradients(3)
    subspace = make([a, b, combination, a, zero], "global")
    assert subspace.ranks.tolist() == [2]
    lean = projected(make([a, b], "global"), gradient)
    assert (flat(projected(subspace, gradient)) - flat(lean)).norm() <= 1e-6 * flat(gradient).norm()

    nothing = make([zero], "global")
    assert nothing.ranks.tolist() == [0]
    assert all(torch.equal(x, y) for x, y in zip(projected(nothing, gradient), gradient, strict=True))


def test_tolerance_is_relative_and_drops_nearly_collinear_directions():
    a, b = random_gradients(1, 1e-6), random_gradients(2, 1e-6)
    near = [x + 1e-3 * y for x, y in zip(a, b, strict=True)]
    assert make([a, near], "global", tolerance=1e-2).ranks.tolist() == [1]
    assert make([a, near], "global", tolerance=1e-5).ranks.tolist() == [2]


def test_energy_keeps_the_fewest_leading_directions():
    a, b, c = random_gradients(1), random_gradients(2), random_gradients(3)
    near = [x + 0.05 * y for x, y in zip(a, c, strict=True)]
    assert make([a, near, b], "global").ranks.tolist() == [3]
    assert make([a, near, b], "global", energy=0.99).ranks.tolist() == [2]
    assert make([a, near, b], "global", energy=0.5).ranks.tolist() == [1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_reference_keeps_the_previous_subspace(bad):
    gradient = random_gradients(3)
    subspace = make([random_gradients(1)])
    before = projected(subspace, gradient)
    broken = random_gradients(2)
    broken[1][0] = bad
    assert subspace.refresh([broken]) is False
    assert all(torch.equal(x, y) for x, y in zip(projected(subspace, gradient), before, strict=True))

    empty = CapabilitySubspace()
    assert empty.refresh([broken]) is False
    assert all(torch.equal(x, y) for x, y in zip(projected(empty, gradient), gradient, strict=True))


def test_non_finite_gradient_is_left_to_the_trainer():
    gradient = random_gradients(3)
    gradient[0][0, 0] = math.inf
    result = projected(make([random_gradients(1)]), gradient)
    assert torch.equal(result[0], gradient[0])
    assert not torch.equal(result[1], gradient[1])


def test_parameters_without_gradient():
    reference, gradient = random_gradients(1), random_gradients(2)
    partial = [None, *reference[1:]]
    subspace = make([partial, [None] * 2 + random_gradients(5)[2:]])
    result = projected(subspace, gradient)
    assert torch.equal(result[0], gradient[0]), "no reference touches the first tensor"
    assert abs(float(flat([result[1]]) @ flat([reference[1]]))) <= 1e-5
    subspace.project_([None, *clone(gradient)[1:]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_gradients(dtype):
    references = [random_gradients(i, dtype=dtype) for i in (1, 2)]
    gradient = random_gradients(3, dtype=dtype)
    result = projected(make(references, "global"), gradient)
    assert result[0].dtype == dtype
    for reference in references:
        cosine = flat(result) @ flat(reference) / flat(reference).norm() / flat(gradient).norm()
        assert abs(float(cosine)) <= torch.finfo(dtype).eps


def test_stored_dtype_and_non_contiguous_gradients():
    subspace = make([random_gradients(1)], dtype=torch.bfloat16)
    assert all(b.dtype == torch.bfloat16 for b in subspace.basis.matrices)
    gradient = random_gradients(2)
    expected = projected(subspace, gradient)
    turned = [g.mT.contiguous().mT if g.ndim > 1 else g for g in clone(gradient)]
    assert not turned[0].is_contiguous()
    subspace.project_(turned)
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(turned, expected, strict=True))


def test_a_generator_may_reuse_its_buffer():
    buffer = random_gradients(0)
    sources = [random_gradients(1), random_gradients(2)]

    def stream():
        for source in sources:
            for target, value in zip(buffer, source, strict=True):
                target.copy_(value)
            yield buffer

    subspace = CapabilitySubspace()
    subspace.refresh(stream(), count=2)
    gradient = random_gradients(3)
    assert torch.equal(flat(projected(subspace, gradient)), flat(projected(make(sources), gradient)))


@given(problems)
@settings(max_examples=60, deadline=None)
def test_conflict_mode_is_the_nearest_gradient_that_raises_no_loss(problem):
    references, gradient = unpack(problem)
    granularity = problem["granularity"]
    result = projected(make(references, granularity, mode="conflict"), gradient)
    norm = float(flat(gradient).norm())
    change = [a - b for a, b in zip(result, gradient, strict=True)]
    for reference in references:
        assert min(block_cosines(result, reference, granularity)) >= -2e-6 * norm
    # Optimality: the change is normal to the result (complementary slackness), and lies in the span.
    assert abs(float(flat(change) @ flat(result))) <= 2e-6 * norm**2
    leftover = projected(make(references, granularity), change)
    assert float(flat(leftover).norm()) <= 2e-6 * norm
    # Nearer than, or as near as, the fully orthogonal one, which satisfies the same constraints.
    full = projected(make(references, granularity), gradient)
    assert flat(change).norm() <= (flat(full) - flat(gradient)).norm() + 1e-6 * norm


def test_on_a_gpu_and_of_narrow_gradients_the_basis_is_bfloat16():
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert all(storage.storage_dtype(own, cpu) == own for own in (torch.float32, torch.float64))
    assert storage.storage_dtype(torch.float32, gpu) == torch.bfloat16
    assert all(storage.storage_dtype(torch.float16, device) == torch.bfloat16 for device in (cpu, gpu))


def test_what_is_within_the_rounding_of_the_basis_is_no_direction():
    one, other = random_gradients(1), random_gradients(2)
    for share, rank in ((0.1, 2), (1e-3, 1)):
        close = [a + share * b for a, b in zip(one, other, strict=True)]
        for dtype, expected in ((torch.bfloat16, rank), (torch.float32, 2)):
            assert make([one, close], "global", dtype=dtype).ranks.tolist() == [expected]


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_long_vectors_are_worked_on_piece_by_piece(granularity, monkeypatch):
    """Real tensors are longer than a piece; here every tensor is."""
    references, gradient = [random_gradients(i) for i in (1, 2, 3)], random_gradients(4)
    whole = projected(make(references, granularity), gradient)
    for module in (basis, kernels, storage):
        monkeypatch.setattr(module, "PIECE", 4)
    monkeypatch.setattr(kernels.Kernels, "piece", 4)
    subspace = make(references, granularity)
    pieces = clone(gradient)
    report = subspace.project_(pieces, measure=True)
    assert (flat(pieces) - flat(whole)).norm() <= 1e-6 * flat(gradient).norm()
    assert float(report.norm) == pytest.approx(float(flat(gradient).norm()), rel=1e-6)
    narrow = [g.to(torch.bfloat16) for g in gradient]
    subspace.project_(narrow)
    assert (flat(narrow) - flat(whole)).norm() <= 1e-2 * flat(gradient).norm()


@pytest.mark.parametrize("piece", [PIECE, 4])
def test_tensor_by_tensor_and_all_products_first_give_the_same_bits(piece, monkeypatch):
    """Whole gradients that are groups of their own are projected one after another; shards cannot be."""
    monkeypatch.setattr(kernels.Kernels, "piece", piece)
    shapes = [(3, 2), (5,), (0,), (4, 6), (7,), (2, 2)]
    generator = torch.Generator().manual_seed(1)

    def gradients(*without):
        made = [torch.randn(shape, generator=generator) for shape in shapes]
        return [None if i in without else tensor for i, tensor in enumerate(made)]

    references = [gradients(4), gradients(4)]  # the fifth is reached by none
    gradient = gradients(1)
    gradient[0][1] = float("nan")
    gradient[3] = gradient[3].T.contiguous().T
    results = []
    for reduce in (None, lambda sums: sums):
        subspace = CapabilitySubspace(reduce=reduce)
        subspace.refresh(references)
        own = [None if g is None else g.clone() for g in gradient]
        assert own[3].stride() == (1, 4)
        report = subspace.project_(own, measure=True)
        results.append([*own, report.norm, report.removed, report.inner, *report.after])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    own = results[0]
    assert torch.equal(own[0].nan_to_num(7), gradient[0].nan_to_num(7)) and torch.equal(own[4], gradient[4])
    assert not torch.equal(own[3], gradient[3]) and not torch.equal(own[5], gradient[5])


def test_explained_share_and_norms_are_those_of_the_references():
    """Truncation shows: norms stay the references' own, and the share that the subspace holds is told."""
    references = [random_gradients(1), random_gradients(2)]
    full, cut = make(references, "global"), make(references, "global", energy=0.5)
    assert full.explained == pytest.approx(1)
    assert 0.3 < cut.explained < 0.8
    for subspace in (full, cut):
        for i, reference in enumerate(references):
            assert float(subspace.gram[i, i].sqrt()) == pytest.approx(float(flat(reference).norm()), rel=1e-6)


@pytest.mark.parametrize("mode", ["orthogonal", "conflict", "plane"])
def test_would_remove_changes_nothing_and_tells_the_same(mode):
    references = [random_gradients(1), random_gradients(2)]
    subspace = make(references, "global", mode=mode)
    gradient = [x - y for x, y in zip(random_gradients(3), references[0], strict=True)]
    untouched = clone(gradient)
    foreseen = subspace.would_remove(untouched)
    assert torch.equal(flat(untouched), flat(gradient))
    assert float(foreseen.removed) == float(subspace.project_(gradient).removed) > 0


def test_conflict_mode_leaves_what_helps():
    reference = random_gradients(1)
    subspace = make([reference], "global", mode="conflict")
    helping = [0.5 * x for x in reference]
    assert all(torch.equal(x, y) for x, y in zip(projected(subspace, helping), helping, strict=True))
    hurting = [-x for x in helping]
    assert flat(projected(subspace, hurting)).norm() <= 1e-5 * flat(hurting).norm()


@given(problems)
@settings(max_examples=40, deadline=None)
def test_plane_mode_keeps_what_orthogonal_mode_removes(problem):
    references = [random_gradients(problem["seed"] + i + 1) for i in range(2)]
    gradient = random_gradients(problem["seed"])
    outside = projected(make(references), gradient)
    inside = projected(make(references, mode="plane"), gradient)
    for whole, a, b in zip(gradient, outside, inside, strict=True):
        assert torch.allclose(a + b, whole, atol=1e-5 * float(whole.norm()))


def test_plane_mode_leaves_what_no_reference_reaches():
    reference = random_gradients(1)
    reference[2].zero_()
    gradient = random_gradients(0)
    gradient[0][0] = math.nan
    result = projected(make([reference], mode="plane"), gradient)
    assert torch.equal(result[2], gradient[2])
    assert torch.equal(result[0][1:], gradient[0][1:])
    assert not torch.equal(result[1], gradient[1])


@pytest.mark.parametrize("options", [{"mode": "plane"}, {"mode": "conflict", "aligned_scale": 0.5}])
def test_tensors_without_reference_gradient_belong_to_their_group(options):
    """A group is one vector: what is kept of it is kept of all its tensors."""
    reference = random_gradients(1)
    gradient = [g.clone() for g in reference]  # aligned with the reference: nothing is in conflict
    gradient[2] = random_gradients(0)[2]
    subspace = make([[*reference[:2], None, *reference[3:]]], "global", **options)
    result = clone(gradient)
    report = subspace.project_(result)
    expected = torch.zeros_like(gradient[2]) if options["mode"] == "plane" else 0.5 * gradient[2]
    assert torch.allclose(result[2], expected)
    assert float(report.removed) == pytest.approx(float((flat(gradient) - flat(result)).norm()), rel=1e-5)


def test_aligned_scale_is_for_groups_without_conflict():
    """One direction: project where the inner product is negative, scale where it is positive."""
    reference, gradient = random_gradients(1), random_gradients(0)
    subspace = make([reference], mode="conflict", aligned_scale=0.25)
    result = clone(gradient)
    report = subspace.project_(result, measure=True)
    signs = set()
    for ours, g, r in zip(result, gradient, reference, strict=True):
        inner = float((g * r).sum())
        signs.add(inner > 0)
        expected = 0.25 * g if inner > 0 else g - inner / float((r * r).sum()) * r
        assert torch.allclose(ours, expected, atol=1e-6)
    assert signs == {True, False}
    assert float(report.removed) == pytest.approx(float((flat(gradient) - flat(result)).norm()), rel=1e-5)


def test_reported_figures_are_measured():
    references = [random_gradients(1), random_gradients(2, 100.0)]
    gradient = random_gradients(3)
    subspace = make(references, "layer")
    result = clone(gradient)
    report = subspace.project_(result, measure=True)
    assert float(report.norm) == pytest.approx(float(flat(gradient).norm()), rel=1e-6)
    assert float(report.removed) == pytest.approx(float((flat(gradient) - flat(result)).norm()), rel=1e-5)
    for i, reference in enumerate(references):
        assert float(report.inner[i]) == pytest.approx(float(flat(gradient) @ flat(reference)), rel=1e-4, abs=1e-5)
        assert float(subspace.gram[i, i].sqrt()) == pytest.approx(float(flat(reference).norm()), rel=1e-6)
    norm_after, inner_after = report.after
    assert float(norm_after) == pytest.approx(float(flat(result).norm()), rel=1e-6)
    assert float(inner_after.abs().max()) <= 1e-3


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_shards_with_reduced_coefficients_equal_the_whole(granularity):
    """Two "ranks" hold the halves of every tensor; only the sums of coefficients are shared between them."""
    references, gradient = [random_gradients(1), random_gradients(2)], random_gradients(3)
    whole = projected(make(references, granularity), gradient)

    def half(gradients, rank):
        return [g.flatten().chunk(2)[rank] if g.numel() > 1 else (g if rank == 0 else None) for g in gradients]

    groups = group_parameters(NAMES, granularity)
    parts: list[Tensor | None] = [None, None]
    barrier = threading.Barrier(2)

    def rank_program(rank):
        def all_reduce(part):
            parts[rank] = part
            barrier.wait()
            total = parts[0] + parts[1]
            barrier.wait()
            return total

        subspace = CapabilitySubspace(groups, reduce=all_reduce)
        subspace.refresh([half(r, rank) for r in references])
        shard = [None if g is None else g.clone() for g in half(gradient, rank)]
        subspace.project_(shard)
        return shard

    with ThreadPoolExecutor(2) as pool:
        shards = list(pool.map(rank_program, (0, 1)))
    for i, expected in enumerate(whole):
        joined = torch.cat([shard[i].flatten() for shard in shards if shard[i] is not None])
        assert torch.allclose(joined, expected.flatten(), atol=1e-6)


def test_state_dict_restores_bit_for_bit():
    subspace = make([random_gradients(1), random_gradients(2)], "layer")
    fresh = CapabilitySubspace(group_parameters(NAMES, "layer"))
    gradient = random_gradients(3)
    sizes, devices = [g.numel() for g in gradient], [g.device for g in gradient]
    fresh.load_state_dict(subspace.state_dict(), sizes, devices)
    assert torch.equal(flat(projected(fresh, gradient)), flat(projected(subspace, gradient)))
    with pytest.raises(ValueError, match="Stored basis 0"):
        fresh.load_state_dict(subspace.state_dict(), [2, *sizes[1:]], devices)


def test_groups():
    names = ["embed.weight", "layers.0.a.weight", "layers.0.b.weight", "layers.10.mlp.experts.3.w", "norm.weight"]
    assert group_parameters(names, "parameter") == [0, 1, 2, 3, 4]
    assert group_parameters(names, "layer") == [0, 1, 1, 2, 3]
    assert group_parameters(names, "global") == [0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="granularity"):
        group_parameters(names, "tensor")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"mode": "plain"}, {"tolerance": -1}, {"tolerance": 1}, {"energy": 0}, {"dtype": torch.float16}]
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CapabilitySubspace(**options)


def test_lists_that_do_not_match():
    subspace = make([random_gradients(1)])
    with pytest.raises(ValueError, match="2 gradients were given"):
        subspace.project_(random_gradients(1)[:2])
    with pytest.raises(ValueError, match="are due"):
        subspace.refresh([random_gradients(1)[:2]])
