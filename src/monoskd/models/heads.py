"""What the heads of several detectors have in common: their precision, their errors, headings and depths."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from monoskd.geometry.camera import Camera
from monoskd.geometry.heading import BINS, alpha_from_yaw, decode_heading, yaw_from_alpha
from monoskd.parallel import normaliser
from monoskd.precision import no_autocast

_DEPTH_EPSILON = 1e-6  # keeps the depth below 1e6 m


def full_precision(head: Tensor) -> Tensor:
    """Float32 at least, also after half-precision layers: positions need more than half precision."""
    return head.to(torch.promote_types(head.dtype, torch.float32))


class PreciseConv2d(nn.Conv2d):
    """A convolution in the type of its weights, also under autocast: bfloat16 would round a depth of 50 m to 0.2 m."""

    def forward(self, x: Float[Tensor, "b c v u"]) -> Float[Tensor, "b k v u"]:
        """Convolve."""
        with no_autocast(x.device.type):
            return super().forward(x.to(self.weight.dtype))


class PreciseMap(PreciseConv2d):
    """The same for whole maps: in training as any layer, where it would take a twentieth of a step.

    Elsewhere it must be precise: cells beside a peak of a heat map that are rounded to its value would be peaks, too.
    """

    def forward(self, x: Float[Tensor, "b c v u"]) -> Float[Tensor, "b k v u"]:
        """Convolve."""
        return nn.Conv2d.forward(self, x) if self.training else super().forward(x)


class PreciseLinear(nn.Linear):
    """A linear layer in the type of its weights, also under autocast."""

    def forward(self, x: Float[Tensor, "... c"]) -> Float[Tensor, "... k"]:
        """Multiply."""
        with no_autocast(x.device.type):
            return super().forward(x.to(self.weight.dtype))


def mean(values: Float[Tensor, "n *k"], where: Bool[Tensor, "n ..."] | None = None) -> Float[Tensor, ""]:
    """The mean, over all processes together; 0, with a gradient of 0, of nothing.

    where: the values that count, or the rows or parts of rows: it has the first axes of `values`. Others are left out
    by a weight of 0: to pick some, the host would wait for the device.
    """
    if where is None:
        return values.sum() / normaliser(values.numel(), like=values)
    inside = where.reshape(*where.shape, *[1] * (values.ndim - where.ndim)).expand_as(values)
    return torch.where(inside, values, 0).sum() / normaliser(inside.sum(), like=values)


def depth_m(raw: Tensor) -> Tensor:
    """1 / (sigmoid(raw) + 1e-6) - 1, which is exp(-raw) as long as that is well below 1e6 m."""
    return 1 / (raw.sigmoid() + _DEPTH_EPSILON) - 1


def laplacian_loss(error: Tensor, log_std: Tensor) -> Tensor:
    """-log of a Laplacian of standard deviation exp(u), up to a constant: 1.4142 exp(-u) |error| + u."""
    return 1.4142 * torch.exp(-log_std) * error.abs() + log_std


def heading_angle(heading: Float[Tensor, "n 24"]) -> Float[Tensor, " n"]:
    """alpha [rad]: the likeliest of 12 bins plus its residual. heading: 12 logits, then 12 residuals [rad]."""
    index = heading[:, :BINS].argmax(1, keepdim=True)
    angle: Tensor = decode_heading(index, heading[:, BINS:].gather(1, index)).squeeze(1)
    return angle


def angles(
    heading: Float[Tensor, "n 24"], *, camera: Camera, u: Tensor, centre_u: Tensor, published: bool
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Alpha and yaw [rad] of heads that say alpha as seen at column u of the cameras' pictures [px].

    The result's alpha is that at `centre_u`, the projected 3D centre, as in KITTI's labels; `published`: as said.
    """
    alpha = heading_angle(heading)
    yaw = yaw_from_alpha(alpha, u=u, camera=camera).to(alpha)
    return alpha if published else alpha_from_yaw(yaw, u=centre_u, camera=camera).to(alpha), yaw


def heading_errors(
    heading: Float[Tensor, "n 24"], *, bins: Int64[Tensor, " n"], residuals: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The cross-entropy of the 12 bins, and |error| of the true bin's residual [rad]."""
    cross_entropy = functional.cross_entropy(heading[:, :BINS], bins, reduction="none")
    residual = heading[:, BINS:].gather(1, bins[:, None]).squeeze(1)
    return cross_entropy, (residual - residuals).abs()


def heading_distances(
    student: Float[Tensor, "n 24"], teacher: Float[Tensor, "n 24"], *, bins: Int64[Tensor, " n"]
) -> tuple[Float[Tensor, "n 12"], Float[Tensor, " n"]]:
    """t ln(t / s) of each bin's probability, and |s - t| of the true bin's residual [rad]."""
    log_s, log_t = student[:, :BINS].log_softmax(1), teacher[:, :BINS].log_softmax(1)
    divergence = functional.kl_div(log_s, log_t, reduction="none", log_target=True)
    residual = (student - teacher)[:, BINS:].gather(1, bins[:, None]).squeeze(1)
    return divergence, residual.abs()
