"""Ranks against scipy, soft ranks against scipy's isotonic regression, gradients against finite differences."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import pearsonr, rankdata, spearmanr
from torch import Tensor

from monoskd.distill import ranks, ranks_numpy
from monoskd.distill.isotonic import project
from monoskd.distill.ranks import correlation, degeneracy, rank, rank_with_soft_gradient, soft_rank, spearman
from monoskd.distill.ranks_numpy import pool, reduced
from monoskd.errors import InputError

KINDS = ("normal", "zeros", "rounded", "skewed", "heavy", "constant", "clusters")


def sample(kind: str, rows: int, n: int, seed: int = 0) -> Tensor:
    """Rows of one of the shapes that features take, and some that they should not."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, n, generator=generator, dtype=torch.float64)
    return {
        "normal": x,
        "zeros": x.relu(),
        "rounded": (2 * x).round(),
        "skewed": (3 * x).exp(),
        "heavy": x / torch.rand(rows, n, generator=generator, dtype=torch.float64),
        "constant": torch.full_like(x, 0.1),
        "clusters": (x > 0.5) * 1e6 + x.round() * 10 + x * 1e-3,
    }[kind]


def by_scipy(x: NDArray[np.float64], strength: float, regularization: str = "l2") -> NDArray[np.float64]:
    """The soft rank of one row from its definition; for "kl" the exponentials must not overflow."""
    order = np.argsort(x, kind="stable")
    s, w = x[order] / strength, np.arange(1.0, len(x) + 1)
    if regularization == "l2":
        ascending = s + isotonic_regression(w - s, increasing=False).x
    else:
        e = np.exp(s - s.mean())
        ascending = e * isotonic_regression(w / e, weights=e, increasing=False).x
    out = np.empty_like(ascending)
    out[order] = ascending
    return out


@pytest.fixture(params=["host", "device"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways through the code, on a CPU."""
    if request.param == "device":
        monkeypatch.setattr(ranks, "_on_host", lambda x: False)
    return str(request.param)


# ------------------------------------------------------------------------------------------------------------- ranks

floats = npst.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=12),
    elements=st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.5, math.inf, -math.inf]), st.floats(-8, 8, width=16)),
)


@given(floats)
def test_rank_is_scipys(x: NDArray[np.floating]) -> None:
    got = rank(torch.from_numpy(x))
    assert got.shape == x.shape
    if x.size:
        np.testing.assert_array_equal(got.numpy(), rankdata(x, axis=-1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rank_of_many(path: str, kind: str, dtype: torch.dtype) -> None:
    x = sample(kind, 3, 5000).clamp(-6e4, 6e4).to(dtype)
    got = rank(x)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_array_equal(got.numpy(), rankdata(x.double().numpy(), axis=-1))


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_either_sort_puts_each_value_in_its_place(kind: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_numpy, "_sorts_wide_integers_fast", lambda: fast)
    x = sample(kind, 3, 3000).clamp(-3e38, 3e38).float().numpy()
    values, order = ranks_numpy.sort_rows(x)
    np.testing.assert_array_equal(values, np.sort(x))
    np.testing.assert_array_equal(np.sort(order), np.arange(3000)[None].repeat(3, 0))
    np.testing.assert_array_equal(np.take_along_axis(x, order, -1), values)


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-30, 1e30, 1e38])
def test_rank_at_the_ends_of_float32(path: str, scale: float) -> None:
    x = (sample("normal", 2, 1999) * scale).float()
    np.testing.assert_array_equal(rank(x).numpy(), rankdata(x.numpy(), axis=-1))


def test_rank_of_a_row_with_nan_is_nan_and_of_its_neighbour_is_not(path: str) -> None:
    for nan in (math.nan, -math.nan):
        x = torch.tensor([[2.0, math.copysign(math.nan, nan), 1.0], [3.0, 1.0, 2.0]])
        got = rank(x)
        assert got[0].isnan().all()
        assert got[1].tolist() == [3, 1, 2]


def test_rank_leaves_its_input_alone_and_takes_strides(path: str) -> None:
    x = sample("normal", 40, 7).float().t()
    before = x.clone()
    np.testing.assert_array_equal(rank(x).numpy(), rankdata(x.numpy(), axis=-1))
    assert torch.equal(x, before)


def test_ranks_above_2048_of_halves_are_exact() -> None:
    x = torch.arange(60000).half()
    assert rank(x).max() == rankdata(x.numpy()).max() > 2048


@pytest.mark.wrong_shapes
def test_rank_refuses_what_has_no_order_to_speak_of() -> None:
    with pytest.raises(InputError, match="rank: expected floats"):
        rank(torch.arange(3))
    with pytest.raises(InputError, match="at least one axis"):
        rank(torch.tensor(1.0))


# -------------------------------------------------------------------------------------------------------- soft ranks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 700])
def test_l2_is_the_projection(path: str, kind: str, n: int) -> None:
    x = sample(kind, 2, n)
    for spread in (1e-3, 0.5, 1, 2, 2.5, 3, 4, 8, 100):
        strength = spread / n
        want = np.stack([by_scipy(row, strength) for row in x.numpy()])
        scale = np.abs(x.numpy() / strength).max() * 1e-15 * n
        np.testing.assert_allclose(soft_rank(x, strength).numpy(), want, rtol=1e-9, atol=1e-9 + scale)


@pytest.mark.parametrize("kind", ["normal", "zeros", "rounded", "constant"])
@pytest.mark.parametrize("n", [1, 2, 3, 64, 700])
def test_kl_is_the_projection(path: str, kind: str, n: int) -> None:
    x = sample(kind, 2, n)
    for strength in (0.1, 0.5, 1, 3, 30):
        want = np.stack([by_scipy(row, strength, "kl") for row in x.numpy()])
        np.testing.assert_allclose(soft_rank(x, strength, "kl").numpy(), want, rtol=1e-7)


@settings(max_examples=60)
@given(
    npst.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 40)), elements=st.floats(-4, 4, width=16)),
    st.sampled_from([1e-3, 0.03, 0.1, 0.3, 1, 10]),
    st.sampled_from([1e-30, 1, 1e30]),
)
def test_l2_for_any_row_at_any_scale(x: NDArray[np.float64], strength: float, scale: float) -> None:
    want = np.stack([by_scipy(row, strength) for row in x])
    got = soft_rank(torch.from_numpy(x * scale), strength * scale).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", [0.5, 1, 2, 2.5, 4, 16])
@pytest.mark.parametrize("kind", ["normal", "zeros", "heavy"])
def test_long_rows_keep_their_digits_in_float32(kind: str, share: float) -> None:
    n = 30_720
    x = sample(kind, 1, n).float()
    strength = share * float(x.std()) / n
    got = soft_rank(x, strength)[0].double().numpy()
    want = by_scipy(x[0].double().numpy(), strength)
    assert np.abs(got - want).max() <= 2**-9  # half a step of float32 at 16 384 .. 30 720 is 2^-10
    assert (np.diff(got[np.argsort(x[0].numpy())]) >= 0).all()


def test_values_far_from_zero_lose_nothing() -> None:
    x = sample("normal", 1, 500)
    near, far = soft_rank(x, 0.01), soft_rank(x.add(2.0**20).sub(2.0**20), 0.01)
    offset = soft_rank(x.add(2.0**20), 0.01)
    torch.testing.assert_close(offset, far, rtol=0, atol=1e-7)
    torch.testing.assert_close(near, far, rtol=0, atol=1e-6)


def test_closed_forms_of_one_and_two() -> None:
    assert soft_rank(torch.tensor([7.0])).tolist() == [1]
    gap = torch.tensor([-3.0, -0.5, 0.0, 0.25, 1.0, 5.0], dtype=torch.float64)
    got = soft_rank(torch.stack([gap, torch.zeros_like(gap)], dim=-1))
    half = gap.clamp(-1, 1) / 2
    torch.testing.assert_close(got, torch.stack([1.5 + half, 1.5 - half], dim=-1))
    softmax = torch.stack([gap, torch.zeros_like(gap)], dim=-1).softmax(dim=-1)
    torch.testing.assert_close(soft_rank(torch.stack([gap, 0 * gap], -1), 1.0, "kl"), (3 * softmax).clamp(1, 2))


@pytest.mark.parametrize("regularization", ["l2", "kl"])
def test_every_row_sums_to_that_of_the_ranks_and_tends_to_them(path: str, regularization: str) -> None:
    x = sample("normal", 3, 200)
    for strength in (1e-9, 1e-2, 1.0, "auto"):
        got = soft_rank(x, strength, regularization)
        torch.testing.assert_close(got.sum(-1), torch.full((3,), 200 * 201 / 2, dtype=torch.float64))
    torch.testing.assert_close(soft_rank(x, 1e-9, regularization), rank(x))


@pytest.mark.parametrize("ulps", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("n", [2, 3, 8, 101])
def test_the_border_of_the_pooled_case(ulps: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(1, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    x[0, 0], x[0, -1] = 0, n / 2
    for _ in range(abs(ulps)):
        x[0, -1] = torch.nextafter(x[0, -1], torch.tensor(math.inf * ulps, dtype=torch.float64))
    # The worst case of the proof: everything at either end, so that the border is sharp.
    x[0] = torch.where(x[0] > 0.5, x[0, -1], 0)
    grad = torch.randn(1, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    short = x.clone().requires_grad_()
    soft_rank(short).backward(grad)
    assert ranks._all_pooled(x, torch.ones(1, 1, dtype=torch.float64)) == (ulps <= 0)
    monkeypatch.setattr(ranks, "_all_pooled", lambda rows, strength: False)
    full = x.clone().requires_grad_()
    solved = soft_rank(full)
    solved.backward(grad)
    torch.testing.assert_close(soft_rank(x), solved, rtol=0, atol=1e-12)
    torch.testing.assert_close(solved, x - x.mean() + (n + 1) / 2, rtol=0, atol=1e-12)
    if ulps <= 0:
        torch.testing.assert_close(short.grad, full.grad, rtol=0, atol=1e-12)
        torch.testing.assert_close(short.grad, grad - grad.mean(), rtol=0, atol=1e-12)


def test_beyond_the_border_values_can_come_apart() -> None:
    x = torch.tensor([[0.0, 0.0, 2.5, 2.5]], dtype=torch.float64)
    torch.testing.assert_close(soft_rank(x), torch.tensor([[1.5, 1.5, 3.5, 3.5]], dtype=torch.float64))


def test_the_pooled_case_needs_no_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_sort(*_: object) -> None:
        raise AssertionError("sorted")

    x = torch.rand(2, 50, requires_grad=True)
    monkeypatch.setattr(ranks_numpy, "sort_rows", no_sort)
    soft_rank(x, 1.0).square().sum().backward()
    assert degeneracy(x, 1.0).tolist() == [1, 1]
    with pytest.raises(AssertionError, match="sorted"):
        soft_rank(x, 1e-3)


@pytest.mark.parametrize("regularization", ["l2", "kl"])
@pytest.mark.parametrize("n", [1, 2, 12])
def test_gradients(path: str, regularization: str, n: int) -> None:
    x = sample("normal", 2, n, seed=3).requires_grad_()
    for strength in (0.05, 1.0):
        assert torch.autograd.gradcheck(lambda v, s=strength: soft_rank(v, s, regularization), (x,))
        if n == 2:
            assert torch.autograd.gradgradcheck(lambda v, s=strength: soft_rank(v, s, regularization), (x,))


def test_both_ways_agree_on_long_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    grad = sample("normal", 2, 6000, seed=9)
    for kind in ("normal", "zeros", "clusters"):
        x = sample(kind, 2, 6000)
        host = x.clone().requires_grad_()
        value = soft_rank(host, "auto")
        value.backward(grad)
        with monkeypatch.context() as patched:
            patched.setattr(ranks, "_on_host", lambda x: False)
            device = x.clone().requires_grad_()
            torch.testing.assert_close(soft_rank(device, "auto"), value, rtol=0, atol=1e-6)
            soft_rank(device, "auto").backward(grad)
            share = degeneracy(x, "auto")
        torch.testing.assert_close(degeneracy(x, "auto"), share)
        torch.testing.assert_close(device.grad, host.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 3])
def test_pooling_is_the_regression_of_each_row(rows: int, dtype: type) -> None:
    """Heaps of ties that swallow their neighbours one by one, blocks that meet in the middle, rows beside rows."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        gaps = torch.rand(rows, 400, generator=generator, dtype=torch.float64) * 2.2
        gaps[torch.rand(rows, 400, generator=generator) < 0.1] = 0
        gaps[:, 100:150], gaps[:, :20] = 0, 1.0 + 1e-3
        values = gaps.cumsum(-1).numpy().astype(dtype)
        theta, _ = reduced(values, np.ones((rows, 1)))
        borders, sizes, sums = pool(theta.copy(), exact=dtype == np.float64)
        np.testing.assert_array_equal(sizes, np.diff(borders))
        shift = -sums.between(borders) / sizes
        want = np.stack([isotonic_regression(np.arange(1, 401) - row, increasing=False).x for row in theta])
        np.testing.assert_allclose(np.repeat(shift, np.diff(borders)).reshape(rows, 400), want, atol=1e-9)


def test_no_step_of_the_device_way_waits_for_the_device() -> None:
    """A meta tensor has no values: whatever reads one, or lets a shape depend on one, raises."""
    values, strength = torch.empty(2, 6, device="meta"), torch.empty(2, 1, device="meta", dtype=torch.float64)
    for kl in (False, True):
        ascending, start = project(values, strength, kl=kl)
        assert ascending.shape == start.shape == (2, 6)
    x = torch.empty(2, 6, device="meta", requires_grad=True)
    soft_rank(x, "auto").sum().backward()
    rank_with_soft_gradient(x).sum().backward()
    assert rank(x).shape == degeneracy(x, "auto")[..., None].expand(2, 6).shape


def test_the_kernels_of_a_gpu_find_the_same_blocks_coefficients_and_slopes() -> None:
    """In Triton's interpreter, which must be chosen before the kernels are imported."""
    pytest.importorskip("triton")
    worker = Path(__file__).with_name("kernel_worker.py")
    run = subprocess.run(
        [sys.executable, str(worker)], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (0, "49 rows\n"), run.stderr


@pytest.mark.slow
def test_it_compiles_into_one_graph() -> None:
    x = torch.randn(2, 20, dtype=torch.float64)
    compiled = torch.compile(lambda v: soft_rank(v, "auto") + rank(v), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), soft_rank(x, "auto") + rank(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_ranked_in_float32(dtype: torch.dtype) -> None:
    x = sample("normal", 2, 3000).to(dtype).requires_grad_()
    got = soft_rank(x, "auto")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, soft_rank(x.detach().float(), "auto"))
    got.square().sum().mul(1e-12).backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("regularization", ["l2", "kl"])
def test_what_is_not_finite(path: str, regularization: str) -> None:
    x = torch.tensor([[0.0, math.inf, 1.0, math.inf, -math.inf], [0.0, 1.0, math.nan, 3.0, 2.0], [5, 4, 3, 2, 1.0]])
    got = soft_rank(x, 1e-6, regularization)
    torch.testing.assert_close(got[0], torch.tensor([2, 4.5, 3, 4.5, 1]))
    assert got[1].isnan().all()
    torch.testing.assert_close(got[2], x[2])


@pytest.mark.parametrize("regularization", ["l2", "kl"])
def test_a_row_with_nan_leaves_long_rows_beside_it_alone(path: str, regularization: str) -> None:
    """These rows pool across long stretches, by sums that run through all rows."""
    x = sample("normal", 4, 4000).abs().cumsum(dim=-1).float()
    spoilt = x.clone()
    spoilt[0, 3], spoilt[2, 0] = math.nan, -math.nan
    got = soft_rank(spoilt, 0.8, regularization)
    assert got.isnan().all(dim=-1).tolist() == [True, False, True, False]
    torch.testing.assert_close(got[1::2], soft_rank(x, 0.8, regularization)[1::2])


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4), (2, 0, 5)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    assert soft_rank(x).shape == rank(x).shape == shape
    soft_rank(x).sum().backward()
    assert degeneracy(x).shape == shape[:-1]


def test_any_leading_shape_and_stride(path: str) -> None:
    x = torch.randn(3, 5, 2, 4, dtype=torch.float64).transpose(1, 3)
    got = soft_rank(x, 0.2)
    assert got.shape == x.shape
    torch.testing.assert_close(got[1, 2, 0], soft_rank(x[1, 2, 0].clone(), 0.2))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = sample("normal", 7, 50)
    grad = torch.randn_like(x)
    whole = x.clone().requires_grad_()
    value = soft_rank(whole, 0.02)
    value.backward(grad)
    monkeypatch.setattr(ranks_numpy, "_CHUNK", 100)
    parted = x.clone().requires_grad_()
    torch.testing.assert_close(soft_rank(parted, 0.02), value, rtol=0, atol=1e-9)
    soft_rank(parted, 0.02).backward(grad)
    torch.testing.assert_close(parted.grad, whole.grad)


@pytest.mark.parametrize("regularization", ["l2", "kl"])
def test_hard_ranks_with_the_gradient_of_soft_ones(path: str, regularization: str) -> None:
    x, grad = sample("zeros", 2, 90), sample("normal", 2, 90, seed=5)
    soft, straight = x.clone().requires_grad_(), x.clone().requires_grad_()
    soft_rank(soft, 0.1, regularization).backward(grad)
    value = rank_with_soft_gradient(straight, 0.1, regularization)
    value.backward(grad)
    assert torch.equal(value, rank(x))
    torch.testing.assert_close(straight.grad, soft.grad)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "constant"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strength", ["auto", 0.3, 1e-4])
def test_spearman_is_the_correlation_of_ranks_in_value_and_gradient(
    path: str, kind: str, dtype: torch.dtype, strength: float | Literal["auto"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks_numpy, "_CHUNK", 700)
    rounding = 1e-9 if dtype == torch.float64 else 1e-5 if path == "host" else 1e-3
    x, teacher = sample(kind, 5, 300).to(dtype), sample("rounded", 5, 300, seed=3).to(dtype)
    whole, parts = x.clone().requires_grad_(), x.double().clone().requires_grad_()
    value = spearman(whole, teacher, strength)
    want = correlation(rank_with_soft_gradient(parts, strength), rank(teacher).double())
    torch.testing.assert_close(value, want.to(dtype), rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-12)
    theirs = [spearmanr(*pair).statistic for pair in zip(x.numpy(), teacher.numpy(), strict=True)]
    np.testing.assert_allclose(value.detach(), theirs, atol=1e-6)
    pull = torch.linspace(1, 2, 5, dtype=dtype)
    value.backward(pull), want.backward(pull.double())
    assert whole.grad is not None
    assert parts.grad is not None
    scale = parts.grad.abs().amax(-1, keepdim=True).clamp(min=1e-300)
    torch.testing.assert_close((whole.grad / scale).double(), parts.grad / scale, rtol=0, atol=rounding)


def test_spearman_of_lone_values_has_no_gradient_however_small_the_strength(path: str) -> None:
    x = sample("normal", 2, 500).float().requires_grad_()
    spearman(x, sample("normal", 2, 500, seed=1).float(), 1e-30).sum().backward()
    assert x.grad is not None
    assert (x.grad == 0).all()


@pytest.mark.parametrize("scale", [1e-40, 1e-38, 1e-30, 1e30, 1e37])
def test_the_slope_of_spearman_at_the_ends_of_float32(scale: float) -> None:
    x, teacher = sample("normal", 2, 500).float(), sample("normal", 2, 500, seed=1).float()
    ends, usual = (x * scale).requires_grad_(), ((x * scale).double() / scale).requires_grad_()
    spearman(ends, teacher).sum().backward()
    spearman(usual, teacher).sum().backward()
    assert ends.grad is not None
    assert usual.grad is not None
    want = (usual.grad / scale).float()
    torch.testing.assert_close(ends.grad, want, rtol=1e-4, atol=float(want[want.isfinite()].abs().max()) * 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_row_with_nan_spoils_no_other_slope(path: str, dtype: torch.dtype, side: str) -> None:
    pair = {"student": sample("normal", 4, 50).to(dtype), "teacher": sample("normal", 4, 50, seed=1).to(dtype)}
    pair[side][1, 3] = math.nan
    pair["student"].requires_grad_()
    spearman(pair["student"], pair["teacher"]).sum().backward()
    assert pair["student"].grad is not None
    assert pair["student"].grad.isnan().any(-1).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "row", [[math.inf, -math.inf, 0, 1], [math.inf, 1, 2, 3], [3.4e38, -3.4e38, 1e38, 0], [1e-45, 0, 0, 3e-45]]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_auto_is_one_number_on_host_and_device(row: list[float], dtype: torch.dtype) -> None:
    x = torch.tensor([row], dtype=dtype)
    host = ranks_numpy.reduced(x.sort().values.numpy(), None)[1]
    np.testing.assert_allclose(ranks._strengths(x, "auto", "l2"), host, rtol=1e-12)
    if dtype == torch.float32:
        finite = x.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).double()
        np.testing.assert_allclose(host, 2 * finite.std(correction=0) / 4, rtol=1e-6)


def test_strengths_at_the_end_of_float64(path: str) -> None:
    x, teacher = (
        torch.tensor([1, -0.5, 0.3, 2, -1.2, 0.31, 0], dtype=torch.float64),
        torch.tensor([3.0, 1, 2, 7, 5, 6, 4]),
    )
    want, found = x.clone().requires_grad_(), (x * 1e-308).requires_grad_()
    spearman(want, teacher).backward()
    spearman(found, teacher).backward()
    assert want.grad is not None
    assert found.grad is not None
    torch.testing.assert_close(found.grad * 1e-308, want.grad)
    torch.testing.assert_close(soft_rank(x * 1e-308, "auto"), soft_rank(x, "auto"))
    assert soft_rank(x, 1e-310).tolist() == rank(x).tolist()


def test_spearman_takes_any_two_float_types_and_any_number(path: str) -> None:
    x, teacher = sample("normal", 2, 40), sample("normal", 2, 40, seed=1)
    for types in ((torch.float32, torch.float64), (torch.float64, torch.float16), (torch.bfloat16, torch.float32)):
        found = spearman(x.to(types[0]), teacher.to(types[1]))
        assert found.dtype == torch.promote_types(types[0], torch.float32)
        torch.testing.assert_close(found.double(), spearman(x, teacher), rtol=0, atol=0.01)
    huge = x.clone().requires_grad_()
    spearman(huge, teacher, 10**30).sum().backward()
    assert huge.grad is not None
    assert 0 < huge.grad.abs().max() < 1e-29
    assert torch.equal(soft_rank(x, 10**30), soft_rank(x, 1e30))


def test_agreeing_ranks_cost_nothing(path: str) -> None:
    x = sample("zeros", 2, 50_000).float()
    assert (spearman(x, x) == 1).all()


@pytest.mark.wrong_shapes
def test_spearman_where_it_is_not_defined(path: str) -> None:
    x = torch.tensor([[1.0, 2, 3], [2, 2, 2], [1, math.nan, 2]], requires_grad=True)
    found = spearman(x, torch.tensor([[5.0, 5, 5], [1, 2, 3], [1, 2, 3]]))
    assert found[:2].tolist() == [0, 0]
    assert found[2].isnan()
    found[:2].sum().backward()
    assert x.grad is not None
    assert x.grad[:2].tolist() == [[0, 0, 0]] * 2
    assert spearman(torch.zeros(2, 0), torch.zeros(2, 0)).tolist() == [0, 0]
    with pytest.raises(InputError, match=r"spearman: expected one shape, got \(2,\) and \(3,\)"):
        spearman(torch.zeros(2), torch.zeros(3))
    with pytest.raises(InputError, match="strength above 0"):
        spearman(torch.zeros(2), torch.zeros(2), 0)


def test_spearman_pools_for_a_gradient_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pooling(*args: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(ranks_numpy, "pool", no_pooling)
    x = torch.randn(2, 30)
    assert spearman(x, x).tolist() == pytest.approx([1, 1])
    with pytest.raises(AssertionError):
        spearman(x.requires_grad_(), x)


def test_soft_rank_says_what_is_wrong() -> None:
    x = torch.zeros(2)
    with pytest.raises(InputError, match=r'strength above 0 or "auto", got -1'):
        soft_rank(x, -1)
    with pytest.raises(InputError, match="strength above 0 or \"auto\", got 'Auto'"):
        soft_rank(x, "Auto")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="strength above 0"):
        degeneracy(x, math.nan)
    with pytest.raises(InputError, match='"l2" or "kl", got \'l1\''):
        soft_rank(x, 1.0, "l1")  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------- strength and the meter


@pytest.mark.parametrize("kind", ["normal", "zeros", "skewed", "heavy"])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_auto_pools_some_but_not_all(kind: str, scale: float) -> None:
    x = (sample(kind, 2, 4000) * scale).float()
    share = degeneracy(x, "auto")
    assert (share > 1 / 4000).all()
    assert (share < 0.999).all()
    x.requires_grad_()
    soft_rank(x, "auto").backward(torch.randn(2, 4000))
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad != 0).float().mean() > 0.25


def test_auto_follows_the_scale_of_each_row() -> None:
    x = sample("normal", 1, 300)
    rows = torch.cat([x, 1e3 * x + 7])
    torch.testing.assert_close(soft_rank(rows, "auto")[0], soft_rank(rows, "auto")[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_auto_leaves_its_input_alone(path: str, dtype: torch.dtype) -> None:
    x = torch.tensor([5.0, 7.0, 9.0], dtype=dtype)
    soft_rank(x, "auto"), rank_with_soft_gradient(x), degeneracy(x, "auto")
    assert x.tolist() == [5, 7, 9]


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e160, 1e300])
def test_auto_at_the_ends_of_float64(path: str, scale: float) -> None:
    x = sample("normal", 2, 300)
    torch.testing.assert_close(soft_rank(x * scale, "auto"), soft_rank(x, "auto"), rtol=1e-9, atol=1e-9)


def test_gaps_that_overflow_are_narrowed_without_a_warning(path: str) -> None:
    x = torch.tensor([[1e300, -1e300, 0.0]], dtype=torch.float64)
    assert soft_rank(x, 1e-10).tolist() == [[3, 1, 2]]


def test_gradients_of_tiny_float32(path: str) -> None:
    """Values and strength are below float32's normal range; the gradient, in proportion to 1 / strength, is not."""
    grad = sample("normal", 2, 300, seed=4).float() * 1e-10
    tiny = (sample("normal", 2, 300) * 1e-41).float().requires_grad_()
    soft_rank(tiny, "auto").backward(grad)
    same = (tiny.detach().double() * 1e41).requires_grad_()
    soft_rank(same, "auto").backward(grad.double())
    torch.testing.assert_close(tiny.grad.double() * 1e-41, same.grad, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinities_count_as_the_largest_number_under_auto(path: str, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    x = torch.tensor([[1, 2, math.inf, 3], [1, -math.inf, math.inf, 3]], dtype=dtype)
    torch.testing.assert_close(soft_rank(x, "auto"), soft_rank(x.clamp(-largest, largest), "auto"))
    assert (soft_rank(x, "auto")[:, 2] > 3.5).all()


def test_a_constant_row_shares_its_ranks_and_has_no_gradient() -> None:
    x = torch.full((2, 30), 0.1, requires_grad=True)
    for regularization in ("l2", "kl"):
        got = soft_rank(x, "auto", regularization)
        torch.testing.assert_close(got, torch.full((2, 30), 15.5))
        (grad,) = torch.autograd.grad(got.sum() + (got * torch.arange(30)).sum(), x)
        assert (grad == 0).all()


def test_degeneracy_counts_the_largest_block(path: str) -> None:
    x = torch.tensor([[0.0, 0.0, 0.0, 9.0, 99.0], [0.0, 9.0, 99.0, 999.0, 9999.0]])
    assert degeneracy(x, 1.0).tolist() == pytest.approx([3 / 5, 1 / 5])
    assert degeneracy(x, 1e6).tolist() == [1, 1]
    assert degeneracy(x[0], 1.0).shape == ()


# ------------------------------------------------------------------------------------------------------- correlation


@pytest.mark.parametrize("group", ["sample", "channel", "batch"])
def test_correlation_is_scipys(group: str) -> None:
    a, b = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    got = correlation(a, b, group)  # type: ignore[arg-type]
    kept = {"batch": 0, "sample": 1, "channel": 2}[group]
    left, right = (side.reshape(-1, math.prod(side.shape[kept:])).numpy() for side in (a, b))
    want = [pearsonr(*pair).statistic for pair in zip(left, right, strict=True)]
    np.testing.assert_allclose(got.flatten().numpy(), want, rtol=1e-12)
    assert got.shape == a.shape[:kept]


def test_correlation_inside_a_mask_sees_nothing_else() -> None:
    a, b = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    mask = torch.rand(2, 1, 4, 5) > 0.5
    inside = mask[0].expand(3, 4, 5)
    want = pearsonr(a[0][inside].numpy(), b[0][inside].numpy()).statistic
    a, b = torch.where(mask, a, math.nan).requires_grad_(), torch.where(mask, b, math.inf)
    got = correlation(a, b, weight=mask)
    assert float(got[0].detach()) == pytest.approx(want, rel=1e-12)
    got.sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert (a.grad[~mask.expand_as(a)] == 0).all()


def test_weights_are_repetitions() -> None:
    a, b = torch.randn(2, 1, 6, dtype=torch.float64)
    times = torch.tensor([1, 2, 3, 0, 1, 4])
    want = correlation(a.repeat_interleave(times, -1), b.repeat_interleave(times, -1))
    torch.testing.assert_close(correlation(a, b, weight=times), want)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30, 12345.678])
def test_correlation_with_a_constant_is_0(value: float) -> None:
    a, b = torch.full((2, 1000), value, requires_grad=True), torch.randn(2, 1000, requires_grad=True)
    got = correlation(a, b) + correlation(b, a) + correlation(a, b, weight=torch.zeros(2, 1))
    assert got.tolist() == [0, 0]
    got.sum().backward()
    for side in (a, b):
        assert side.grad is not None
        assert side.grad.isfinite().all()
        assert (side.grad == 0).all()


@pytest.mark.parametrize(("scale", "offset"), [(1e-30, 0), (1e30, 0), (1.0, 1e5), (1e38, 0), (1e-44, 0)])
def test_correlation_of_extreme_float32(scale: float, offset: float) -> None:
    a, b = (sample("normal", 2, 500, seed=seed).clamp(-1, 1).mul(scale).add(offset).float() for seed in (1, 2))
    b = a / 2 + b / 2
    want = [pearsonr(*pair).statistic for pair in zip(a.double().numpy(), b.double().numpy(), strict=True)]
    np.testing.assert_allclose(correlation(a, b).numpy(), want, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_correlation_of_halves(dtype: torch.dtype) -> None:
    a, b = (torch.randn(2, 2, 70_000) * 200 + 500).to(dtype)
    got = correlation(a.requires_grad_(), b)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, correlation(a.double(), b.double()).float(), rtol=0, atol=1e-5)
    got.sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_gradients_of_correlation() -> None:
    a, b = torch.randn(2, 2, 3, 5, dtype=torch.float64).requires_grad_().unbind()
    weight = torch.rand(2, 1, 5, dtype=torch.float64)
    for group in ("sample", "channel", "batch"):
        assert torch.autograd.gradcheck(lambda x, y, g=group: correlation(x, y, g, weight=weight), (a, b))


def test_published_is_pearson_with_the_teachers_soft_rank() -> None:
    """METHOD: the released loss ranks the teacher softly with strength 1, which only shifts each row."""
    student, teacher = torch.randn(2, 3, 400, dtype=torch.float64)
    released = correlation(student, soft_rank(teacher, 1.0), "batch")
    torch.testing.assert_close(released, correlation(student, teacher - teacher.mean(-1, keepdim=True), "batch"))


def test_correlation_says_what_is_wrong() -> None:
    with pytest.raises(InputError, match=r"one shape, got \(2, 3\) and \(2, 4\)"):
        correlation(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(InputError, match="needs at least 3 axes"):
        correlation(torch.zeros(2, 3), torch.zeros(2, 3), "channel")
    with pytest.raises(InputError, match='"sample", "channel" or "batch"'):
        correlation(torch.zeros(2, 3), torch.zeros(2, 3), "all")  # type: ignore[arg-type]
