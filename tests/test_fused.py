"""Compiled kernels give what the plain ones give, to the rounding that fused.py documents."""

import contextlib
import logging

import pytest
import torch
from conftest import logged, save_toy_model

from ogpsa_factory import CapabilitySubspace, OGPSAError, fused, kernel_choice, storage
from ogpsa_factory.kernels import BLOCK, InverseRoot, Kernels


pytestmark = pytest.mark.slow  # a compiler starts
LENGTHS = [fused.SHORT, fused.SHORT + 1, fused.SHORT + 3 * BLOCK - 1]
DTYPES = [  # of rows and vectors; one more pair of them is in test_packs.py, and each takes seconds to compile for
    (1, torch.float32, torch.float32),
    (3, torch.bfloat16, torch.bfloat16),
    (3, torch.float32, torch.bfloat16),
]
PLAIN = Kernels()
CPU = torch.device("cpu")
FLOATS = (torch.float32, torch.float32)


@pytest.fixture(scope="module")
def kernels():
    return fused.FusedKernels(CPU)


def problem(k, length, rows_dtype, part_dtype, offset=0):
    """Rows as they lie in a wider matrix, and a vector of similar and of very different numbers."""
    generator = torch.Generator().manual_seed(length + k)
    rows = torch.randn(k, length + 7 + offset, generator=generator).to(rows_dtype)[:, offset : offset + length]
    part = torch.randn(length, generator=generator) * 10 ** torch.empty(length).uniform_(-6, 0, generator=generator)
    second = torch.rand(length, generator=generator) ** 4
    return rows, part.to(part_dtype), InverseRoot(second, 0.7, 1e-3)


def close(found, expected, size, tolerance):
    """Within a share of what the sum's terms add up to, which is what rounding is measured by."""
    return (found - expected).abs().max() <= tolerance * size


@pytest.mark.parametrize(("k", "rows_dtype", "part_dtype"), DTYPES)
def test_products_and_moves_agree(kernels, k, rows_dtype, part_dtype):
    for length in LENGTHS:
        rows, part, scale = problem(k, length, rows_dtype, part_dtype, offset=3 * (length % 2))
        truth, wide = rows.double(), part.double()
        size = (truth.abs() @ wide.abs()).max()

        sums = kernels.inner(rows, part)
        assert close(sums[:-1], truth @ wide, size, 1e-6)
        assert close(sums[-1], wide @ wide, wide @ wide, 1e-6)

        unit = (truth / truth.norm(dim=1, keepdim=True)).to(rows_dtype)
        projected = part.clone()
        sums = kernels.project_(projected, unit)
        assert close(sums[:-1], unit.double() @ wide, wide.norm(), 1e-6)
        assert close(sums[-1], wide @ wide, wide @ wide, 1e-6)
        expected = wide - unit.double().T @ (unit.double() @ wide)
        step = max(torch.finfo(part_dtype).eps, 1e-6)
        assert ((projected.double() - expected).abs() <= wide.abs() * step + wide.norm() * 1e-6).all()
        assert not torch.equal(projected, part)

        factor = scale(0, length).double()
        for own, error in ((None, (size, 1e-14)), (scale, ((truth.abs() @ (factor * wide.abs())).max(), 1e-6))):
            exact = kernels.exact_inner(rows, part, own, 0)
            assert close(exact, PLAIN.exact_inner(rows, part, own, 0), *error)
            assert exact.dtype == torch.float64
        gram = kernels.gram(rows, scale, 0)
        assert torch.allclose(gram, (truth * factor) @ truth.T, rtol=1e-6, atol=1e-9 * float(factor.sum()))
        assert torch.equal(gram, gram.T)

        weights = torch.linspace(-1, 1, k)
        for own, weight in ((None, 1.0), (scale, factor)):
            changed = part.clone()
            kernels.subtract_(changed, rows, weights, own, 0)
            expected = wide - weight * (weights.double() @ truth)
            step = torch.finfo(part_dtype).eps
            moved = (weight * (weights.abs().double() @ truth.abs())) + wide.abs()
            assert ((changed.double() - expected).abs() <= moved * max(step, 1e-6)).all()
            assert not torch.equal(changed, part)


def test_a_piece_counts_from_its_first_element(kernels):
    """Scales are given elements by their number in the whole vector."""
    rows, part, scale = problem(2, 4 * fused._SHORTEST, torch.float32, torch.float32)
    half = 2 * fused._SHORTEST
    pieces = [slice(0, half), slice(half, None)]
    for name in ("exact_inner", "gram"):
        sums = []
        for piece in pieces:
            operands = (rows[:, piece],) if name == "gram" else (rows[:, piece], part[piece])
            sums.append(getattr(kernels, name)(*operands, scale, piece.start))
        whole = (rows,) if name == "gram" else (rows, part)
        assert torch.allclose(sum(sums), getattr(PLAIN, name)(*whole, scale, 0), rtol=1e-5)


def test_many_rows_and_other_scales_take_the_plain_path(kernels):
    rows, part, scale = problem(6, fused._SHORTEST, torch.float32, torch.float32)
    assert torch.equal(kernels.gram(rows, scale, 0), PLAIN.gram(rows, scale, 0))
    assert torch.equal(kernels.gram(rows, None, 0), PLAIN.gram(rows, None, 0))
    closure = lambda start, end: scale(start, end)  # noqa: E731
    assert torch.equal(kernels.exact_inner(rows, part, closure, 0), PLAIN.exact_inner(rows, part, closure, 0))


def test_a_number_that_is_not_finite_shows(kernels):
    rows, part, _ = problem(2, fused.SHORT, torch.float32, torch.float32)
    part[5] = float("inf")
    before = part.clone()
    assert not kernels.inner(rows, part).isfinite().any()
    assert not kernels.project_(part, rows).isfinite().any() and torch.equal(part, before)
    assert not kernels.project_(part[:-1], rows[:, :-1]).isfinite().any() and torch.equal(part, before)


@pytest.mark.parametrize("length", [fused.SHORT + 77, fused.SHORT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_a_basis_is_made_of_agrees(kernels, dtype, length):
    """Rows that are almost the same, of a length that blocks divide or do not."""
    rows, part, _ = problem(2, length, dtype, torch.float32)
    rows[1] = rows[0] + 1e-2 * part.to(dtype)
    truth = rows.to(torch.float64, copy=True)
    assert torch.allclose(kernels.reference_gram(rows), truth @ truth.T, rtol=1e-12)
    mix = torch.tensor([[1e-2, 1e-3], [-97.0, 98.0]], dtype=torch.float64)
    kernels.mix_(rows, mix)
    eps = max(torch.finfo(dtype).eps, 1e-10)
    assert torch.allclose(rows.double(), mix @ truth, rtol=eps, atol=1e-3 * eps)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("length", [0, BLOCK, fused._SHORTEST, fused._SHORTEST + 3])
def test_lengths_that_a_gpu_takes_whole(compiled, length):
    """On a device without numbers: what is computed of an empty rest there, nothing on a CPU would show."""
    kernels = fused.FusedKernels(torch.device("meta")) if compiled else Kernels()
    if compiled:
        kernels._call = lambda function, *operands: function(*operands)
    rows = torch.empty(2, length, device="meta")
    assert kernels.reference_gram(rows).shape == (2, 2)
    kernels.mix_(rows, torch.empty(2, 2, dtype=torch.float64, device="meta"))
    assert kernels.project_(torch.empty(length, device="meta"), rows).shape == (3,)


@pytest.mark.parametrize("granularity", ["parameter", "global"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_projections_agree(kernels, dtype, granularity):
    """Long and short tensors, whole and of shapes whose number of elements no block divides; one is missing."""
    shapes = [(400, 401), (64,), (140_000,), (5, 7), (256, 512)]
    generator = torch.Generator().manual_seed(1)

    def gradients(without=None):
        made = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
        return [None if i == without else tensor for i, tensor in enumerate(made)]

    references = [gradients() for _ in range(3)]
    gradient = gradients(without=2 if granularity == "parameter" else None)
    results, figures = [], []
    for own in (None, kernels):
        subspace = CapabilitySubspace(None if granularity == "parameter" else [0] * len(shapes), kernels=own)
        subspace.refresh(references)
        copy = [None if g is None else g.clone() for g in gradient]
        figures.append(subspace.project_(copy, measure=True))
        results.append(copy)
    one, other = figures
    norm = torch.cat([g.double().flatten() for g in gradient if g is not None]).norm()
    assert torch.allclose(one.norm, norm, rtol=1e-5) and torch.allclose(other.norm, norm, rtol=1e-6)
    assert torch.allclose(one.removed, other.removed, rtol=1e-4)
    assert torch.allclose(one.inner, other.inner, rtol=1e-4, atol=1e-3)
    assert float(other.after[1].abs().max() / one.inner.abs().max()) < (1e-4 if dtype == torch.float32 else 0.15)
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("project", ["gradient", "preconditioned"])
def test_a_run_with_either_agrees(toy, run, project):
    save_toy_model(toy.root / "model", intermediate_size=4100)  # 131,200 elements in each of these tensors
    for setting in ("plain", "fused"):
        run(toy.ogpsa(setting, max_steps=4, ogpsa_project=project, ogpsa_kernels=setting, logging_steps=1))
    plain, compiled = toy.weights("plain"), toy.weights("fused")
    started = toy.weights("model")
    moved = max(float((plain[name] - started[name]).abs().max()) for name in plain)
    assert (
        max(float((plain[name] - compiled[name]).abs().max()) for name in plain) <= 1e-2 * moved
    )  # AdamW divides by small numbers
    assert any(not torch.equal(plain[name], compiled[name]) for name in plain), "the compiled kernels were not used"
    a, b = (logged(toy, "ogpsa/removed_ratio", setting) for setting in ("plain", "fused"))
    assert a == pytest.approx(b, rel=1e-3)
    run(toy.ogpsa("again", max_steps=4, ogpsa_project=project, ogpsa_kernels="fused", logging_steps=1))
    again = toy.weights("again")
    assert all(torch.equal(compiled[name], again[name]) for name in compiled), "the same kernels round alike"


def choose(setting, elements=1 << 30, others=False):
    return kernel_choice.choose_kernels(setting, elements, CPU, FLOATS, lambda here: here or others)


def test_auto_compiles_where_it_is_worth_the_time(caplog):
    caplog.set_level(logging.INFO, "ogpsa_factory")
    assert type(choose("auto", elements=kernel_choice.WORTH_COMPILING - 1)) is Kernels
    assert type(choose("plain")) is Kernels
    assert not caplog.text
    assert type(choose("auto", elements=kernel_choice.WORTH_COMPILING)) is fused.FusedKernels
    assert type(choose("fused", elements=1)) is fused.FusedKernels
    assert "were compiled" in caplog.text


@pytest.mark.parametrize("reason", ["no compiler", "wrong", "disabled"])
def test_without_a_compiler_the_plain_ones_are_used(monkeypatch, caplog, reason):
    disabled = contextlib.nullcontext()
    if reason == "no compiler":

        def fail(*args, **kwargs):
            raise RuntimeError("no g++\nsecond line")

        monkeypatch.setattr(torch, "compile", fail)
    elif reason == "wrong":
        monkeypatch.setattr(fused.FusedKernels, "gram", lambda *_: torch.zeros(2, 2))
    else:
        # Not by monkeypatch, which would take the option away when it undoes this: modules of options differ.
        disabled = torch._dynamo.config.patch(disable=True)
    with disabled:
        assert type(choose("auto")) is Kernels
        assert "plain kernels" in caplog.text and "second line" not in caplog.text
        with pytest.raises(OGPSAError, match="ogpsa_kernels: fused is not possible"):
            choose("fused")


def test_ranks_agree():
    """One that cannot compile keeps the others from it: replicas of the weights must round alike."""
    answers = iter([True, True])
    assert type(kernel_choice.choose_kernels("auto", 1, CPU, FLOATS, lambda here: next(answers))) is Kernels


def test_no_temporary_is_longer_than_a_piece(kernels, monkeypatch):
    """What is left to the plain kernels is cut, as they make copies in float64: of an embedding, many gigabytes."""
    widths = []

    def watch(name):
        plain = getattr(Kernels, name)

        def watched(self, first, *others):
            widths.append(first.shape[-1])
            return plain(self, first, *others)

        monkeypatch.setattr(Kernels, name, watched)

    for name in ("exact_inner", "gram", "subtract_"):
        watch(name)
    length = 2 * storage.PIECE + 5
    rows, part, scale = problem(2, length, torch.float32, torch.float32)
    closure = lambda start, end: scale(start, end)  # noqa: E731
    exact = PLAIN.exact_inner(rows, part, scale, 0), PLAIN.gram(rows, scale, 0)
    expected = part.clone()
    PLAIN.subtract_(expected, rows, torch.ones(2), scale, 0)
    widths.clear()
    found = kernels.exact_inner(rows, part, closure, 0), kernels.gram(rows, closure, 0)
    kernels.subtract_(part, rows, torch.ones(2), closure, 0)
    kernels.gram(rows, None, 0)
    assert set(widths) == {storage.PIECE, 5}
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(found, exact, strict=True))
    assert torch.allclose(part, expected, rtol=1e-6)


def test_copies_elsewhere_are_left_to_the_plain_kernels():
    """With an offloaded basis, logged steps measure copies in host memory, where there may be no compiler."""
    elsewhere = fused.FusedKernels(torch.device("meta"))
    rows, part, scale = problem(2, 2 * fused.SHORT, torch.float32, torch.float32)
    assert torch.equal(elsewhere.exact_inner(rows, part, scale, 0), PLAIN.exact_inner(rows, part, scale, 0))
    assert not elsewhere._made
