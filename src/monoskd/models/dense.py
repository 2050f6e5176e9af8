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

from monoskd.errors import InputError
from monoskd.geometry.boxes import Boxes3D
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.geometry.heading import yaw_from_alpha
from monoskd.models.heads import depth_m, full_precision, heading_angle, heading_distances, heading_errors, mean
from monoskd.models.heatmap import HEAD_STRIDE, Peaks
from monoskd.models.targets import as_float, peak_fields
from monoskd.objects import Objects, class_index
from monoskd.parallel import average
from monoskd.structures import Detections, DetectorOutput, Targets, Views, renumbered

OF_OBJECTS = ("offset_2d", "size_2d", "offset_3d", "size_3d", "heading", "depth", "depth_log_std")


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
    """The fields of `CellTargets` of one image by name; see `peak_fields`. mean_sizes: (h, w, l) [m] of each class."""
    mean_size = np.array([mean_sizes[name] for name in classes])[class_index(kept.names, classes)]
    fields = peak_fields(kept, cell=cell, centre=centre, alpha=alpha, letterbox=letterbox, classes=classes, soft=soft)
    return fields | {"dimensions": as_float(kept.dimensions), "mean_size": as_float(mean_size)}


def in_metres(raw: Mapping[str, Tensor], k: Tensor) -> dict[str, Tensor]:
    """The heads in float32 or better, with the depth in metres and the log of its standard deviation beside it.

    raw: the head `depth` has two channels, the raw depth and that log. k: the images' magnification, which broadcasts.
    """
    heads = {name: full_precision(head) for name, head in raw.items()}
    raw_depth, heads["depth_log_std"] = heads["depth"][:, :1], heads["depth"][:, 1:]
    return heads | {"depth": depth_m(raw_depth) * k.to(raw_depth)}


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
    of_bins, of_residual = heading_errors(heading, bins=targets.heading_bin, residuals=targets.heading_residual)
    return mean(of_bins * targets.weight) + mean(of_residual * targets.weight)


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
    alpha = heading_angle(at["heading"])
    yaw = yaw_from_alpha(alpha, u=centre_px[:, 0], camera=camera).to(alpha)
    confidence = torch.exp(-at["depth_log_std"].squeeze(1))
    if bounded_score:
        confidence = confidence.clamp(max=1)
    return Detections(
        classes=classes,
        labels=best.label,
        scores=best.heat * confidence,
        boxes_2d=boxes_2d,
        boxes_3d=Boxes3D.around(centre, dimensions, yaw),
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
        if type(teacher) is not type(student):
            raise InputError(
                f"HeadLoss: expected a teacher of the student's kind, whose heads say the same, got "
                f"{type(teacher).__name__}: compare features, or use ResponseLoss"
            )
        s, t = (at_objects(output.heads, targets) for output in (student, teacher))
        t = {name: value.detach() for name, value in t.items()}
        parts = {
            f"head_{name}": mean((s[name] - t[name]).abs()) for name in ("offset_2d", "size_2d", "offset_3d", "size_3d")
        }
        divergence, residual = heading_distances(s["heading"], t["heading"], bins=targets.heading_bin)
        parts["head_depth"] = mean((s["depth"] - t["depth"]).abs() / targets.depth[:, None])
        parts["head_heading"] = mean(divergence.sum(1)) + mean(residual)
        return parts
