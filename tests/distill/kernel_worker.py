"""Compares the Triton kernels with tensor operations; run by `test_ranks.py` with TRITON_INTERPRET=1."""

import sys

import torch
from torch.nn.functional import pad


def compare(n: int) -> int:
    """Four rows of n values of several shapes: the same blocks both ways."""
    from monoskd.distill.isotonic import MeanMasses, block_starts
    from monoskd.distill.isotonic_triton import block_starts_of_means

    x = torch.randn(4, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    rows = torch.stack([x[0] * n / 2, (2 * x[1]).round() * n / 3, x[2] * 0, (3 * x[3]).exp()]).sort(dim=-1).values
    sums = pad((torch.arange(1, n + 1) - rows).cumsum(-1), (1, 0))
    points = torch.arange(n + 1).expand(4, n + 1)
    wanted = block_starts(MeanMasses(sums, points.double()), points)
    assert n < 32 or 2 < len(wanted[0].unique()) < n, "the case has blocks of several sizes"
    assert torch.equal(block_starts_of_means(sums), wanted), n
    return len(rows)


if __name__ == "__main__":
    sys.stdout.write(f"{sum(map(compare, (1, 2, 7, 32, 41)))} rows\n")
