"""Compares the Triton kernels with the CPU's ways; run by `test_ranks.py` with TRITON_INTERPRET=1."""

import sys

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad


def sample(n: int) -> Tensor:
    """Five rows of n values: blocks of one, ties, a constant, long tails, small steps."""
    x = torch.randn(5, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    return torch.stack([x[0] * n / 2, (2 * x[1]).round() * n / 3, x[2] * 0, (3 * x[3]).exp(), x[4] / n])


def compare_blocks(n: int, *, tile: int) -> int:
    """The same blocks as by tensor operations; a small tile leaves levels to the kernels above it."""
    from monoskd.distill.isotonic import MeanMasses, block_starts
    from monoskd.distill.isotonic_triton import blocks_of_means

    rows = sample(n).sort(dim=-1).values
    sums = pad((torch.arange(1, n + 1) - rows).cumsum(-1), (1, 0))
    points = torch.arange(n + 1).expand(len(rows), n + 1)
    wanted = block_starts(MeanMasses(sums, points.double()), points)
    assert n < 32 or 2 < len(wanted[0].unique()) < n, "the case has blocks of several sizes"
    start, stop = (found[:, :n] for found in blocks_of_means(sums, tile=tile))
    assert torch.equal(start.long(), wanted), (n, tile)
    members = (wanted[:, :, None] == wanted[:, None]).sum(-1)
    assert torch.equal((stop - start).long(), members), (n, tile)
    return len(rows)


def compare_spearman(n: int, dtype: torch.dtype, strength: float | None) -> int:
    """Coefficients and slopes as by numpy, with ties, infinities and NaNs."""
    from monoskd.distill import ranks_triton
    from monoskd.distill.ranks import _strengths
    from monoskd.distill.ranks_numpy import spearman_rows

    student, teacher = (torch.cat([sample(size)[:, -n:], sample(size)[:3, -n:]]).to(dtype) for size in (n, n + 1))
    teacher = teacher.roll(1, 0)
    student[5, 0], student[6, 0], student[6, n // 2], teacher[7, -1] = torch.nan, torch.inf, -torch.inf, torch.nan
    wanted, slopes = spearman_rows(student.numpy(), teacher.numpy(), strength, sloped=True)
    strengths = _strengths(student, "auto" if strength is None else strength, "l2")
    got, found = ranks_triton.spearman_rows(student.T.contiguous().T, teacher, strengths, sloped=True)
    assert np.isfinite(wanted).sum() == len(wanted) - 2
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-9, atol=1e-12)
    scale = np.nan_to_num(np.abs(slopes)).max(1, keepdims=True) + 1e-300
    np.testing.assert_allclose(found.numpy() / scale, slopes / scale, rtol=1e-5, atol=1e-6)
    assert ranks_triton.spearman_rows(student, teacher, strengths, sloped=False)[1] is None
    return len(got)


if __name__ == "__main__":
    count = sum(compare_blocks(n, tile=tile) for n, tile in ((1, 8), (2, 512), (7, 8), (41, 8), (41, 64)))
    cases = ((2, torch.float32, None), (33, torch.float32, None), (33, torch.float64, 0.3))
    count += sum(compare_spearman(*case) for case in cases)
    sys.stdout.write(f"{count} rows\n")
