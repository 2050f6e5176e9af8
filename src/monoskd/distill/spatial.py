"""Where a map is strong, and what can be filled in: losses on the places of a map, from the literature.

All are called as those in `losses`: maps b x c x h x w or lists of them, no gradient to the teacher.
"""

import torch
from torch import Tensor, nn

from monoskd.distill.adapters import LazyConv
from monoskd.distill.maps import MapLoss
from monoskd.errors import InputError


class ChannelLoss(MapLoss):
    """CWD (Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021).

        p(x)_k,i = exp(x_k,i / T) / sum_j exp(x_k,j / T)               over the places i of channel k
        L = T^2 / c  sum_k sum_i p(t)_k,i log(p(t)_k,i / p(s)_k,i)     mean over images

    temperature: T, 4 in the paper. mask: places where it is 0 are left out of the softmax; its values do not weigh.
    For segmentation, maps are logits (classes as channels) or features.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise InputError(f"ChannelLoss: temperature: expected more than 0, got {temperature}")
        self.temperature = temperature

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of one level."""
        log_s, log_t = (self._log_shares(x, mask) for x in (student, teacher))
        divergence = (log_t.exp() * (log_t - log_s)).sum(2).mean(1)
        return self.temperature**2 * divergence.mean()

    def _log_shares(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        """log p over the places inside; of an image without any, places are equal."""
        scaled = maps / self.temperature
        if mask is not None:
            lowest = torch.finfo(maps.dtype).min / 2  # not -inf, whose difference is NaN
            scaled = torch.where(mask > 0, scaled, lowest)
        return scaled.flatten(2).log_softmax(2)


class AttentionLoss(MapLoss):
    """AT (Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017), with F_sum^p.

        Q(x) = vec(sum_k |x_k|^p)                                          over the channels k of an image
        L = 1/2 || Q(s) / ||Q(s)||_2 - Q(t) / ||Q(t)||_2 ||_2              mean over images

    power: p, 2 in the paper. The paper's beta is the term's weight. The released code takes the mean square of the
    difference in place of its norm. Student and teacher may have different channels. A mask weighs Q.
    """

    same_channels = False

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        if not power >= 1:
            raise InputError(f"AttentionLoss: power: expected at least 1, got {power}")
        self.power = power

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of one level."""
        squares = (self._attention(student, mask) - self._attention(teacher, mask)).square().sum(1)
        differs = squares != 0  # the norm has no derivative at 0; a NaN stays
        return (torch.where(differs, squares, 1).sqrt() * differs).mean() / 2

    def _attention(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            maps = torch.where(mask > 0, maps, 0)
        largest = maps.detach().abs().amax((1, 2, 3), keepdim=True)  # powers stay in range, and cancel below
        maps = maps / torch.where(largest > 0, largest, 1)
        attention = maps.abs().pow(self.power).sum(1, keepdim=True)
        attention = (attention if mask is None else attention * mask).flatten(1)
        length = attention.norm(dim=1, keepdim=True)
        return attention / torch.where(length > 0, length, 1)


class GenerativeLoss(MapLoss):
    """MGD (Yang et al., "Masked Generative Distillation", ECCV 2022).

        M_i = 0 with probability `hidden`, else 1                          for each place i of each image
        G(x) = conv3x3(relu(conv3x3(x)))                                   trained along
        L = sum_k sum_i (t_k,i - G(s M)_k,i)^2                             mean over images

    hidden: the paper's lambda, 0.65 for one-stage detectors. The paper's alpha, 2e-5 there, is the term's weight. For
    classification the released code hides channels, not places; here it is always places. In eval mode nothing is
    hidden. A mask of the call weighs the places of the sum; G sees zeros where it is 0.
    """

    def __init__(self, hidden: float = 0.65) -> None:
        super().__init__()
        if not 0 <= hidden < 1:
            raise InputError(f"GenerativeLoss: hidden: expected a part in [0, 1), got {hidden}")
        self.hidden = hidden
        self.generator = nn.Sequential(LazyConv(3), nn.ReLU(), LazyConv(3))

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of one level."""
        for layer in self.generator:
            if isinstance(layer, LazyConv):
                layer.build(channels_in=student.shape[1], channels_out=student.shape[1], like=student)
        if mask is not None:
            student, teacher = (torch.where(mask > 0, x, 0) for x in (student, teacher))
        if self.training:
            student = student * (torch.rand_like(student[:, :1]) >= self.hidden)
        generated: Tensor = self.generator(student)
        squares = (teacher - generated).square()
        return (squares if mask is None else squares * mask).flatten(1).sum(1).mean()
