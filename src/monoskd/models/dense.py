"""Detectors that say all of an object at one cell of a map of stride 4: output, targets, losses, boxes, teaching.

What tells them apart, such as which cell is the object's, is in their own folders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from monoskd.errors import InputError
from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.geometry.heading import BINS, decode_heading, encode_heading, yaw_from_alpha
from monoskd.models.heatmap import Peaks, draw_heatmap
from monoskd.objects import Objects, class_index
from monoskd.parallel import average, normaliser
from monoskd.structures import Detections, DetectorOutput, Targets, Views, renumbered

HEAD_STRIDE = 4  # network pixels a cell
OF_OBJECTS = ("offset_2d", "size_2d", "offset_3d", "size_3d", "heading", "depth", "depth_log_std")
_DEPTH_EPSILON = 1e-6  # keeps the depth below 1e6 m


@dataclass(frozen=True)
class CellOutput(DetectorOutput):
    """The output of one forward pass: heat maps b x k x v x u, all other heads n x ...

    where: the n cells at which these were evaluated: those of the targets in training, else the heat map's peaks.
    """

    MAPS: ClassVar[tuple[str, ...]] = ("heatmap",)  # the heads that are maps

    where: Peaks

    def of(self, images: Bool[Tensor, " b"]) -> Self:
        """The output for the chosen images, which are numbered anew; without the features."""
        rows, where = images[self.where.image], self.where
        heads = {name: head[images if name in self.MAPS else rows] for name, head in self.heads.items()}
        image = renumbered(where.image[rows], images)
        chosen = Peaks(image, where.cell[rows], where.label[rows], where.heat[rows])
        return replace(self, features={}, heads=heads, where=chosen)


@dataclass(frozen=True, kw_only=True)
class CellTargets(Targets):
    """What the n supervised objects of a batch should make the network say.

    Positions and sizes in cells unless a unit is named. On frames without labels the objects are a teacher's
    detections: soft targets, each as high and as heavy as its score.
    """

    BY_IMAGE: ClassVar[tuple[str, ...]] = ("labelled", "heatmap")

    heatmap: Float[Tensor, "b c v u"]
    cell: Int64[Tensor, "n 2"]  # (column, row) of the object's peak
    label: Int64[Tensor, " n"]
    offset_2d: Float[Tensor, "n 2"]  # centre of the 2D box minus cell
    size_2d: Float[Tensor, "n 2"]  # (width, height) of the 2D box
    offset_3d: Float[Tensor, "n 2"]  # projected 3D centre minus cell
    dimensions: Float[Tensor, "n 3"]  # (h, w, l) [m]
    mean_size: Float[Tensor, "n 3"]  # what the network's sizes are relative to [m]
    heading_bin: Int64[Tensor, " n"]
    heading_residual: Float[Tensor, " n"]  # [rad]
    depth: Float[Tensor, " n"]  # z [m]
    weight: Float[Tensor, " n"]  # 1 for a label, the teacher's score for its detection


def cell_fields(
    kept: Objects,
    *,
    cell: NDArray[Any],
    centre: NDArray[Any],
    alpha: NDArray[Any],
    letterbox: Letterbox,
    classes: Sequence[str],
    mean_sizes: Mapping[str, tuple[float, float, float]],
    soft: bool,
) -> dict[str, Any]:
    """The fields of `CellTargets` of one image (with image index 0), whose supervised objects are `kept`, by name.

    cell: n x 2 (column, row) of their peaks; centre: n x 2, their projected 3D centres [cells]; alpha: n [rad].
    soft: their scores say how high their heat is and how much they weigh.
    """
    columns, rows = letterbox.size[0] // HEAD_STRIDE, letterbox.size[1] // HEAD_STRIDE
    label = class_index(kept.names, classes)
    corners = letterbox.apply(kept.boxes_2d.reshape(-1, 2, 2)) / HEAD_STRIDE
    size = corners[:, 1] - corners[:, 0]
    heading_bin, heading_residual = encode_heading(alpha)
    weight = np.ones(len(kept)) if kept.scores is None or not soft else kept.scores.clip(0, 1)
    return {
        "heatmap": draw_heatmap(cell, label, size, height=weight, shape=(len(classes), rows, columns))[None],
        "image": torch.zeros(len(kept), dtype=torch.int64),
        "cell": torch.from_numpy(cell.astype(np.int64)),
        "label": torch.from_numpy(label),
        "offset_2d": as_float(corners.mean(1) - cell),
        "size_2d": as_float(size),
        "offset_3d": as_float(centre - cell),
        "dimensions": as_float(kept.dimensions),
        "mean_size": as_float(np.array([mean_sizes[name] for name in classes])[label]),
        "heading_bin": torch.from_numpy(heading_bin.astype(np.int64)),
        "heading_residual": as_float(heading_residual),
        "depth": as_float(kept.bottom[:, 2]),
        "weight": as_float(weight),
        "labelled": torch.tensor([not soft]),
    }


def as_float(array: NDArray[Any]) -> Tensor:
    """The array as a tensor of float32."""
    return torch.from_numpy(array.astype(np.float32))


def in_metres(raw: Mapping[str, Tensor], k: Tensor) -> dict[str, Tensor]:
    """The heads in float32 or better, with the depth in metres and the log of its standard deviation beside it.

    raw: the head `depth` has two channels, the raw depth and that log. k: the images' magnification, which broadcasts.
    """
    heads = {name: full_precision(head) for name, head in raw.items()}
    raw_depth, heads["depth_log_std"] = heads["depth"][:, :1], heads["depth"][:, 1:]
    return heads | {"depth": depth_m(raw_depth) * k.to(raw_depth)}


def full_precision(head: Tensor) -> Tensor:
    """Float32 or better: positions need more than half precision."""
    return head.to(torch.promote_types(head.dtype, torch.float32))


def depth_m(raw: Tensor) -> Tensor:
    """1 / (sigmoid(raw) + 1e-6) - 1, which is exp(-raw) as long as that is well below 1e6 m."""
    return 1 / (raw.sigmoid() + _DEPTH_EPSILON) - 1


def at_objects(heads: Mapping[str, Tensor], targets: CellTargets) -> dict[str, Float[Tensor, "n _k"]]:
    """What is said of each object of `targets`: the heads `OF_OBJECTS`."""
    said = {name: heads[name] for name in OF_OBJECTS}
    for name, head in said.items():
        if len(head) != len(targets.image):
            raise InputError(
                f"heads: {name}: expected a row for each of the {len(targets.image)} objects, got {len(head)}: "
                "call the network with at=targets"
            )
    return said


def size_loss(
    sizes: Float[Tensor, "n 3"],
    true: Float[Tensor, "n 3"],
    *,
    weight: Float[Tensor, "n 1"],
    where: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Errors relative to the true size, brought to the scale of the absolute ones. Sizes in metres; where: see `mean`.

    With e = |error|: mean(e / size) times the constant mean(e) / mean(e / size), which has no gradient. So the value is
    the mean error [m], and small dimensions pull harder.
    """
    error = (sizes - true).abs() * weight
    relative = mean(error / true, where)
    means = average({"error": mean(error, where).detach(), "relative": relative.detach()})
    return relative * (means["error"] / means["relative"].clamp(min=torch.finfo(relative.dtype).tiny))


def heading_loss(heading: Float[Tensor, "n 24"], targets: CellTargets) -> Float[Tensor, ""]:
    """Cross-entropy of the 12 bins plus L1 of the true bin's residual [rad], each a mean over objects."""
    logits, offsets = heading[:, :BINS], heading[:, BINS:]
    cross_entropy = functional.cross_entropy(logits, targets.heading_bin, reduction="none")
    residual = offsets.gather(1, targets.heading_bin[:, None]).squeeze(1)
    return mean(cross_entropy * targets.weight) + mean((residual - targets.heading_residual).abs() * targets.weight)


def laplacian_loss(prediction: Tensor, target: Tensor, log_std: Tensor) -> Tensor:
    """-log of a Laplacian of standard deviation exp(u), up to a constant: 1.4142 exp(-u) |error| + u."""
    return 1.4142 * torch.exp(-log_std) * (prediction - target).abs() + log_std


def mean(values: Float[Tensor, "n *k"], where: Bool[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
    """The mean of all rows, or of those in `where`, over all processes together; 0, with a gradient of 0, of nothing.

    Rows are left out by a weight: to pick them, the host would wait for the device.
    """
    if where is None:
        return values.sum() / normaliser(values.numel(), like=values)
    inside = where.reshape(-1, *[1] * (values.ndim - 1)).expand_as(values)
    return torch.where(inside, values, 0).sum() / normaliser(inside.sum(), like=values)


def decode_cells(
    output: CellOutput,
    views: Views,
    *,
    classes: tuple[str, ...],
    mean_sizes: Float[Tensor, "c 3"],
    bounded_score: bool,
) -> Detections:
    """The box at each of the output's n cells, good or not.

    mean_sizes: (h, w, l) [m] that sizes are relative to. The 3D centre (not the bottom) is what projects to
    cell + offset_3d. Score = heat times the confidence exp(-u), which stays below 1 if `bounded_score`.
    """
    best, at = output.where, output.heads
    letterbox, camera = views.letterbox[best.image], Camera(views.cameras.P[best.image])
    centre_2d, half = best.cell + at["offset_2d"], at["size_2d"] / 2
    corners = torch.stack([centre_2d - half, centre_2d + half], 1)
    boxes_2d = letterbox.invert(corners * HEAD_STRIDE).flatten(1).to(corners)
    centre_px = letterbox.invert((best.cell + at["offset_3d"]) * HEAD_STRIDE)
    dimensions = mean_sizes[best.label] + at["size_3d"]
    centre = camera.back_project(centre_px, at["depth"].squeeze(1)).to(corners)
    below = torch.zeros_like(centre)
    below[:, 1] = dimensions[:, 0] / 2
    index = at["heading"][:, :BINS].argmax(1, keepdim=True)
    alpha = decode_heading(index, at["heading"][:, BINS:].gather(1, index)).squeeze(1)
    confidence = torch.exp(-at["depth_log_std"].squeeze(1))
    if bounded_score:
        confidence = confidence.clamp(max=1)
    return Detections(
        classes=classes,
        labels=best.label,
        scores=best.heat * confidence,
        boxes_2d=boxes_2d,
        boxes_3d=Boxes3D(centre + below, dimensions, yaw_from_alpha(alpha, u=centre_px[:, 0], camera=camera).to(alpha)),
        alpha=alpha,
        heat=best.heat,
        depth_std_m=at["depth_log_std"].squeeze(1).exp(),
    )


class HeadLoss(nn.Module):
    """Student and teacher should say the same at the cells of the n objects. There is no heat-map part.

    Each part is a mean over objects and components, with s the student's and t the teacher's numbers:

        head_offset_2d, head_size_2d, head_offset_3d   |s - t| [cells]
        head_size_3d                                   |s - t| [m]
        head_depth                                     |s - t| / true depth
        head_heading                                   sum t ln(t / s) over 12 bin probabilities
                                                       + |s - t| of the true bin's residual [rad]
    """

    def forward(self, *, student: DetectorOutput, teacher: DetectorOutput, targets: CellTargets) -> Float[Tensor, ""]:
        """The sum of the parts."""
        return torch.stack(list(self.parts(student=student, teacher=teacher, targets=targets).values())).sum()

    def parts(self, *, student: DetectorOutput, teacher: DetectorOutput, targets: CellTargets) -> dict[str, Tensor]:
        """The scalars of the table above by name; zero where there is nothing to compare."""
        s, t = (at_objects(output.heads, targets) for output in (student, teacher))
        t = {name: value.detach() for name, value in t.items()}
        parts = {
            f"head_{name}": mean((s[name] - t[name]).abs()) for name in ("offset_2d", "size_2d", "offset_3d", "size_3d")
        }
        log_s, log_t = s["heading"][:, :BINS].log_softmax(1), t["heading"][:, :BINS].log_softmax(1)
        divergence = functional.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)
        residual = (s["heading"] - t["heading"])[:, BINS:].gather(1, targets.heading_bin[:, None])
        parts["head_depth"] = mean((s["depth"] - t["depth"]).abs() / targets.depth[:, None])
        parts["head_heading"] = mean(divergence) + mean(residual.abs())
        return parts
