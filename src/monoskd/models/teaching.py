"""Distillation terms for any detector of pictures: the LiDAR's own lesson, and the teacher's heat map."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

from monoskd.distill.adapters import LazyConv
from monoskd.errors import InputError
from monoskd.parallel import normaliser
from monoskd.structures import DetectorOutput, Targets, Views

KNOWN = 0.25  # least share of known pixels of a cell
UNIT_FOCAL_PX = 721.5377  # KITTI's; another one would only shift the head's bias


class DepthMapLoss(nn.Module):
    """The depth map itself as a lesson: a head that is thrown away after training reads it from a student's map.

    student: b x c x v x u, a map such as `features:neck.4` of the output. The head is a 3 x 3 convolution, ReLU and a
    1 x 1 convolution to one channel p. teacher_inputs: the depth teacher's, whose first is `Views` of depth maps [m].
    With d the mean over the known pixels under a cell and f_net the focal length in network pixels:

        t = log d - log(f_net / 721.54 px)          log apparent depth: z / k of docs/method.md
        L = sum over cells of w |p - t| / sum of w     w = 1 where a quarter of the cell's pixels is known, else 0

    inside: w in the 2D boxes of `targets.box_2d` [cells of the map of stride 4], 1 elsewhere; 1: no boxes are read.
    laplacian: the head has a second channel u, and |p - t| becomes sqrt(2) exp(-u / 2) |p - t| + u / 2.
    The teacher's weights are not read: this is also the control that tells what the LiDAR teaches without a teacher.
    """

    def __init__(self, *, inside: float = 1.0, laplacian: bool = False) -> None:
        super().__init__()
        if not inside > 0:
            raise InputError(f"DepthMapLoss: inside: expected a weight above 0, got {inside}; 1 is as elsewhere")
        self.inside = inside
        self.laplacian = laplacian
        self.head = nn.Sequential(LazyConv(3), nn.ReLU(), LazyConv(1))

    def forward(
        self, *, student: Float[Tensor, "b c v u"], targets: Targets, teacher_inputs: tuple[Views, object]
    ) -> Float[Tensor, ""]:
        """The loss; 0, with a gradient of 0, where no depth is known."""
        views = teacher_inputs[0]
        goal, weight = apparent_depth_log(views, size=(student.shape[2], student.shape[3]))
        if self.inside != 1:
            weight = torch.where(_boxes(targets, weight), self.inside * weight, weight)
        said = self._head(student)
        error = (said[:, :1] - goal).abs()
        if self.laplacian:
            error = 2**0.5 * torch.exp(-said[:, 1:] / 2) * error + said[:, 1:] / 2
        return (error * weight).sum() / normaliser(weight.sum(), like=error)

    def _head(self, x: Float[Tensor, "b c v u"]) -> Float[Tensor, "b k v u"]:
        first, last = self.head[0], self.head[2]
        assert isinstance(first, LazyConv)
        assert isinstance(last, LazyConv)
        first.build(channels_in=x.shape[1], channels_out=x.shape[1], like=x)
        last.build(channels_in=x.shape[1], channels_out=2 if self.laplacian else 1, like=x)
        said: Tensor = self.head(x)
        return said


def apparent_depth_log(
    views: Views, *, size: tuple[int, int]
) -> tuple[Float[Tensor, "b 1 v u"], Float[Tensor, "b 1 v u"]]:
    """The log of apparent depth on a map of `size` (height, width), and 1 where enough of a cell is known."""
    images = views.images[:, -1:]  # the last channel is the depth map
    if views.images.shape[1] not in (1, 4) or any(images.shape[2 + axis] % size[axis] for axis in (0, 1)):
        raise InputError(
            f"DepthMapLoss: expected a depth map whose size is a multiple of the map's {size}, got "
            f"{tuple(views.images.shape[1:])}: the teacher's modality is `depth` or `rgbd`, and the map one of the "
            "student's"
        )
    stride = (images.shape[2] // size[0], images.shape[3] // size[1])
    known = avg_pool2d((images > 0).to(images), stride)
    depth_m = avg_pool2d(images, stride) / known.clamp(min=1e-6)
    k = torch.as_tensor(views.letterbox.scale).to(depth_m) * views.cameras.focal_px.to(depth_m) / UNIT_FOCAL_PX
    there = known >= KNOWN
    return torch.where(there, depth_m, 1.0).log() - k.log()[:, None, None, None], there.to(depth_m)


class HeatmapLoss(nn.Module):
    """The student's heat map towards the teacher's: what the teacher sees, and how sure it is.

    With p and q the probabilities of student and teacher, quality focal loss (Li et al., NeurIPS 2020) in every cell,

        l = |q - p|^2 (-q log p - (1 - q) log(1 - p))

    summed with a weight for each kind of cell and divided by the number of labelled objects: `centres` where the
    label's heat is 1, `seen` where q is at least `threshold`, `background` elsewhere. Networks have a head `heatmap` of
    logits.
    """

    def __init__(
        self, *, centres: float = 1.0, seen: float = 1.0, background: float = 1.0, threshold: float = 0.1
    ) -> None:
        super().__init__()
        weights = (centres, seen, background)
        if min(weights) < 0 or not max(weights) > 0 or not 0 < threshold < 1:
            raise InputError(
                f"HeatmapLoss: expected weights of at least 0, one above it, and a threshold between 0 and 1, got "
                f"{weights} and {threshold}"
            )
        self.centres, self.seen, self.background, self.threshold = centres, seen, background, threshold

    def forward(self, *, student: DetectorOutput, teacher: DetectorOutput, targets: Targets) -> Float[Tensor, ""]:
        """The weighted sum over cells, per object."""
        logits, goal = student.heads["heatmap"], teacher.heads["heatmap"].detach().sigmoid()
        if logits.shape != goal.shape:
            raise InputError(f"HeatmapLoss: expected maps of one shape, got {tuple(logits.shape)}, {tuple(goal.shape)}")
        heat: Tensor = targets.heatmap  # type: ignore[attr-defined]  # a detector with a heat map has it
        cell = (goal - logits.sigmoid()) ** 2 * binary_cross_entropy_with_logits(logits, goal, reduction="none")
        elsewhere = torch.where(goal >= self.threshold, self.seen, self.background)
        weight = torch.where(heat == 1, self.centres, elsewhere).to(cell)
        return (cell * weight).sum() / normaliser(len(targets.image), like=cell)


def _boxes(targets: Targets, like: Float[Tensor, "b 1 v u"]) -> Tensor:
    """The cells inside the 2D boxes of the targets."""
    box: Tensor = targets.box_2d  # type: ignore[attr-defined]  # a detector without 2D boxes leaves `inside` at 1
    row = torch.arange(like.shape[2], device=like.device) + 0.5
    column = torch.arange(like.shape[3], device=like.device) + 0.5
    in_row = (row >= box[:, 1:2]) & (row < box[:, 3:4])
    in_column = (column >= box[:, :1]) & (column < box[:, 2:3])
    in_image = torch.arange(len(like), device=like.device)[:, None] == targets.image
    count = torch.einsum("bn,nv,nu->bvu", in_image.to(like), in_row.to(like), in_column.to(like))
    return (count > 0)[:, None]
