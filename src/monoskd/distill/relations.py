"""Relations between the images of a batch, and between classes: losses from the literature.

Student and teacher are vectors n x d, or maps, whose channels and places become one vector. No gradient reaches the
teacher. All depend on how a batch is split.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss, softplus

from monoskd.distill.correlation import correlation
from monoskd.errors import InputError
from monoskd.precision import no_autocast


class RelationLoss(nn.Module, ABC):
    """A loss of two batches of vectors, in float32 at least, also under autocast; no gradient to the teacher."""

    def forward(self, *, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        """The loss."""
        name = type(self).__name__
        if not isinstance(student, Tensor) or not isinstance(teacher, Tensor):
            raise InputError(f"{name}: expected one tensor each, got several: give each tap a term, or use each=True")
        if student.ndim < 2 or teacher.ndim < 2 or len(student) != len(teacher):
            raise InputError(
                f"{name}: expected student n x ... and teacher n x ... of one n, got {tuple(student.shape)} and "
                f"{tuple(teacher.shape)}"
            )
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        with no_autocast(student.device.type):
            return self.compare(student.to(dtype), teacher.detach().to(dtype))

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        """The loss of two tensors of one type."""


class RelationalLoss(RelationLoss):
    """RKD (Park et al., "Relational Knowledge Distillation", CVPR 2019).

        psi_D(i, j) = |x_i - x_j| / mu, mu the mean over pairs of |x_i - x_j|
        psi_A(i, j, k) = <e_ij, e_kj>,  e_ij = (x_i - x_j) / |x_i - x_j|
        L = distance * mean over pairs of h(psi_D(t), psi_D(s)) + angle * mean over triples of h(psi_A(t), psi_A(s))

    over pairs and triples of different images; h is Huber's loss with delta 1. The paper sums; its released code
    divides by n^2 and n^3. distance, angle: the paper's weights, in the proportion 1 to 2. Student and teacher may
    have vectors of different lengths, and then need no adapter (`adapter="none"`). Memory: n^3 values.
    """

    def __init__(self, *, distance: float = 1.0, angle: float = 2.0) -> None:
        super().__init__()
        if distance < 0 or angle < 0 or distance + angle == 0:
            raise InputError(f"RelationalLoss: expected weights of at least 0, not both 0, got {distance} and {angle}")
        self.distance, self.angle = distance, angle

    def compare(self, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        """The loss; 0 for what needs more images than there are."""
        if len(student) < 2:
            return student.sum() * 0
        s, t = _in_range(student.flatten(1), (0, 1)), _in_range(teacher.flatten(1), (0, 1))
        loss = s.sum() * 0
        if self.distance:
            loss = loss + self.distance * smooth_l1_loss(_distances(s), _distances(t))
        if len(s) > 2 and self.angle:
            loss = loss + self.angle * smooth_l1_loss(_angles(s), _angles(t))
        return loss


class ClassCorrelationLoss(RelationLoss):
    """DIST (Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022), on logits n x k.

        Y = softmax(z / T)
        L = T^2 (inter * mean over rows of d(Ys[i, :], Yt[i, :]) + intra * mean over classes of d(Ys[:, k], Yt[:, k]))
        d(u, v) = 1 - Pearson's correlation of u and v

    inter: relations between the classes of one image; intra: between images within one class. Logits n x k x ... of
    dense prediction: every place is a row, as in the released code. With one row alone `intra` is left out.
    """

    def __init__(self, *, temperature: float = 1.0, inter: float = 1.0, intra: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise InputError(f"ClassCorrelationLoss: temperature: expected more than 0, got {temperature}")
        self.temperature, self.inter, self.intra = temperature, inter, intra

    def compare(self, student: Float[Tensor, "n k ..."], teacher: Float[Tensor, "n k ..."]) -> Float[Tensor, ""]:
        """The loss."""
        if student.shape != teacher.shape:
            raise InputError(
                f"ClassCorrelationLoss: expected student and teacher of one shape n x k x ..., got "
                f"{tuple(student.shape)} and {tuple(teacher.shape)}"
            )
        if not student.numel():
            return student.sum()
        ys, yt = ((_rows(x) / self.temperature).softmax(1) for x in (student, teacher))
        loss = self.inter * (1 - correlation(ys, yt)).mean()
        if len(ys) > 1:
            loss = loss + self.intra * (1 - correlation(ys.T, yt.T)).mean()
        return self.temperature**2 * loss


class ContrastiveLoss(RelationLoss):
    """CRD (Tian, Krishnan & Isola, "Contrastive Representation Distillation", ICLR 2020), negatives from the batch.

        h(i, j) = e / (e + N / M),  e = exp(<s_i, t_j> / T),  s and t of length 1
        L = -mean over i of [log h(i, i) + sum over j != i of log(1 - h(i, j))]

    This is the paper's objective with the N = n - 1 other images of the batch for negatives instead of a memory bank. M
    is the number of images of the training set, `images`; by default that of the batch. The paper's linear head of the
    student is the tap's adapter (`adapter="linear"`); the teacher has none here, where the paper trains one, too. The
    released code divides e by an estimate of its mean and adds the same loss with the teacher's vectors as anchors;
    here are neither.

    temperature: T, 0.1 in the paper.
    """

    def __init__(self, *, temperature: float = 0.1, images: int | None = None) -> None:
        super().__init__()
        if not temperature > 0 or (images is not None and images < 1):
            raise InputError(
                f"ContrastiveLoss: expected a temperature above 0 and at least 1 image, got {temperature} and {images}"
            )
        self.temperature, self.images = temperature, images

    def compare(self, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        """The loss; 0 for a batch of one image."""
        s, t = student.flatten(1), teacher.flatten(1)
        n = len(s)
        if s.shape != t.shape:
            raise InputError(
                f"ContrastiveLoss: expected vectors of one length, got {s.shape[1]} and {t.shape[1]}: use an adapter"
            )
        if n < 2:
            return s.sum() * 0
        log_odds = _unit(s) @ _unit(t).T / self.temperature - math.log((n - 1) / (self.images or n))
        same = torch.eye(n, dtype=torch.bool, device=s.device)
        return softplus(torch.where(same, -log_odds, log_odds)).sum() / n


def _rows(logits: Float[Tensor, "n k ..."]) -> Float[Tensor, "rows k"]:
    return logits.movedim(1, -1).reshape(-1, logits.shape[1])


def _different(n: int, device: torch.device) -> Tensor:
    return ~torch.eye(n, dtype=torch.bool, device=device)


def _lengths(x: Tensor) -> Tensor:
    """Euclidean lengths along the last axis; 0, with a gradient of 0, of zeros."""
    squares = x.square().sum(-1)
    zero = squares == 0  # a NaN stays
    return torch.where(zero, 0, torch.where(zero, 1, squares).sqrt())


def _in_range(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Divided by the largest value along the axes, a constant to the gradient, so that squares stay in range."""
    largest = x.detach().abs().amax(dim=axes, keepdim=True)
    return x / torch.where(largest > 0, largest, 1)


def _unit(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length 1; a row of zeros stays, with a gradient of the size of the others'."""
    x = _in_range(x, (1,))
    length = _lengths(x)[:, None]
    return x / torch.where(length > 0, length, 1)


def _distances(x: Float[Tensor, "n d"]) -> Float[Tensor, "pairs"]:
    """psi_D of all ordered pairs."""
    lengths = _lengths(x[:, None] - x[None])[_different(len(x), x.device)]
    mean = lengths.mean()
    return lengths / torch.where(mean > 0, mean, 1)


def _angles(x: Float[Tensor, "n d"]) -> Float[Tensor, "triples"]:
    """psi_A of all triples of different images."""
    n = len(x)
    difference = x[None] - x[:, None]  # j, i, d
    length = _lengths(difference)[..., None]
    directions = difference / torch.where(length > 0, length, 1)
    different = _different(n, x.device)
    triples = different[:, :, None] & different[:, None, :] & different[None]  # j != i, j != k, i != k
    return (directions @ directions.transpose(1, 2))[triples]
