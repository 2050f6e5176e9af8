"""MonoCon in the camera geometry of the house: targets and decoding are inverse, losses, auxiliary heads, settings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import interpolate

from monoskd.data.samples import make_sample
from monoskd.data.transforms import Draw
from monoskd.errors import InputError
from monoskd.geometry.camera import Camera
from monoskd.geometry.heading import BINS, alpha_from_yaw
from monoskd.models.heatmap import Peaks, at_cells, peaks
from monoskd.models.monocon import MonoCon, MonoConConfig
from monoskd.models.monocon.heads import AUXILIARY
from monoskd.models.monocon.losses import SIZE_2D_WEIGHT, task_losses
from monoskd.models.monocon.normalisation import AttentiveNorm
from monoskd.models.monocon.structures import CORNERS, KEYPOINTS, MonoConOutput, MonoConTargets
from monoskd.models.monocon.teaching import HeadLoss, ResponseLoss
from monoskd.models.weights import load_model, save_model
from monoskd.objects import Objects
from monoskd.structures import Batch, Frame, Sample, Views

SIZE = (640, 192)
SMALL = MonoConConfig(
    backbone_arguments={"channels": (8, 8, 8, 16, 16, 32)}, pretrained=False, head_width=16, input_size=SIZE
)


@pytest.fixture(scope="module")
def detector() -> MonoCon:
    """In evaluation mode, with statistics of what it has seen."""
    torch.manual_seed(0)
    detector = MonoCon(SMALL)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None
    batch = Batch.collate([sample(detector, objects())] * 4)
    with torch.no_grad():
        detector(pictures(batch), batch.targets)
    return detector.eval()


def objects(
    *, xs: tuple[float, ...] = (-8.0, 1.0, 6.0), zs: tuple[float, ...] = (), focal_px: float = 700.0
) -> Objects:
    """Cars at 20 m and beyond, with 2D boxes about their projections, whose centres are not those of the 3D boxes."""
    count = len(xs)
    depths = zs or tuple(20.0 + 5 * number for number in range(count))
    bottom = np.array([[x, 1.7, z] for x, z in zip(xs, depths, strict=True)]).reshape(-1, 3)
    dimensions, yaw = np.tile([1.5, 1.7, 4.1], (count, 1)), np.linspace(-3, 3, count)
    camera = Camera.from_focal(focal_px, width=1242, height=375)
    u, v = camera.project(bottom - [0, 0.75, 0]).T
    half = 1.5 * focal_px / bottom[:, 2]
    boxes = np.stack([u - 1.2 * half, v - half / 2, u + half, v + 0.7 * half], 1)
    zeros = np.zeros(count)
    alpha = alpha_from_yaw(yaw, u=u, camera=camera)
    return Objects(np.array(["Car"] * count), zeros, zeros.astype(int), alpha, boxes, dimensions, bottom, yaw)


def sample(detector: MonoCon, found: Objects, *, focal_px: float = 700.0, draw: Draw | None = None) -> Sample:
    camera = Camera.from_focal(focal_px, width=1242, height=375)
    frame = Frame(np.zeros((375, 1242, 3), np.uint8), camera, objects=found)
    return make_sample("", frame, draw=draw, input_size=SIZE, targets=detector.target_maker())


def pictures(batch: Batch) -> Views:
    """The batch's views, with soft spots of colour for pictures, no two alike."""
    spots = torch.rand(len(batch.frames), 3, 6, 20, generator=torch.Generator().manual_seed(0))
    contrast = torch.linspace(1, 3, len(batch.frames))[:, None, None, None]
    return replace(batch.views("rgb"), images=interpolate(spots**contrast, SIZE[::-1], mode="bilinear"))


def perfect(targets: MonoConTargets) -> MonoConOutput:
    """What a network without error says."""
    heading = torch.zeros(len(targets.image), 2 * BINS)
    heading[range(len(heading)), targets.heading_bin] = 100
    heading[range(len(heading)), BINS + targets.heading_bin] = targets.heading_residual
    heads = {
        "offset_2d": targets.offset_2d,
        "size_2d": targets.size_2d,
        "depth": targets.depth[:, None],
        "depth_log_std": torch.full((len(heading), 1), -1.0),
        "offset_3d": targets.offset_3d,
        "corners": targets.corners.flatten(1),
        "size_3d": targets.dimensions - targets.mean_size,
        "heading": heading,
        "keypoint_offset": targets.keypoint_offset,
        "heatmap": torch.where(targets.heatmap == 1, 20.0, -20.0),
        "keypoint_heatmap": torch.where(targets.keypoint_heatmap == 1, 20.0, -20.0),
    }
    where = Peaks(targets.image, targets.cell, targets.label, torch.ones(len(heading)))
    return MonoConOutput({}, heads, where)


@given(
    focal_px=st.floats(350, 1400),
    flip=st.booleans(),
    scale=st.floats(0.8, 1.3),
    shift=st.tuples(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05)),
)
@settings(deadline=None, max_examples=15)
def test_decoding_inverts_the_targets_through_any_lens(
    detector: MonoCon,
    assert_same_boxes: Callable[..., None],
    focal_px: float,
    flip: bool,
    scale: float,
    shift: tuple[float, float],
) -> None:
    labels = objects(focal_px=focal_px)
    one = sample(detector, labels, focal_px=focal_px, draw=Draw(flip=flip, scale=scale, shift=shift))
    batch = Batch.collate([one])
    found = detector.decode(perfect(batch.targets), batch.views("rgb"))[0].above(0.99).to_objects()
    assert len(found) == len(batch.targets.image)
    assert_same_boxes(found, one.objects, atol_m=2e-3)


@pytest.mark.parametrize("draw", [None, Draw(flip=True), Draw(scale=1.2, shift=(0.1, 0.05))])
def test_keypoints_are_where_the_boxes_corners_are_seen(detector: MonoCon, draw: Draw | None) -> None:
    """The oracle turns the labelled box by hand and projects it, in original pixels of the moved picture."""
    one = sample(detector, objects(xs=(-3.0,)), draw=draw)
    targets, truth = one.targets, one.objects
    assert isinstance(targets, MonoConTargets)
    (height, width, length), yaw = truth.dimensions[0], truth.yaw[0]
    seen = []
    for y in (0.0, -height):
        for along, across in ((0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5)):
            x = along * length * np.cos(yaw) + across * width * np.sin(yaw)
            z = across * width * np.cos(yaw) - along * length * np.sin(yaw)
            seen.append(truth.bottom[0] + [x, y, z])
    seen.append(truth.bottom[0] - [0, height / 2, 0])
    cells = one.letterbox.apply(one.camera.project(torch.tensor(np.array(seen)).float())) / 4
    middle = one.letterbox.apply(torch.tensor(truth.boxes_2d).float().reshape(2, 2)).mean(0) / 4
    assert targets.cell[0].tolist() == middle.int().tolist()
    corners, centre = (targets.cell[0] + offset[0] for offset in (targets.corners, targets.offset_3d))
    torch.testing.assert_close(corners, cells[:CORNERS], rtol=0, atol=1e-3)
    torch.testing.assert_close(centre, cells[CORNERS], rtol=0, atol=1e-3)
    torch.testing.assert_close((targets.keypoint_cell + targets.keypoint_offset)[0], cells, rtol=0, atol=1e-3)
    assert targets.has_keypoint.all()
    for number in range(KEYPOINTS):
        column, row = targets.keypoint_cell[0, number]
        assert targets.keypoint_heatmap[0, number, row, column] == 1


def test_corners_out_of_the_picture_have_no_heat_and_those_beside_the_camera_no_target(detector: MonoCon) -> None:
    """A car beside the camera: some corners are behind it, most are not in the picture."""
    near = objects(xs=(2.5,), zs=(2.2,))
    near = replace(near, yaw=np.array([np.pi / 2]), boxes_2d=np.array([[900.0, 150, 1241, 374]]))
    targets = sample(detector, near).targets
    assert isinstance(targets, MonoConTargets)
    z = near.boxes_3d.corners()[0, :, 2]
    assert (z < 0.2).any()
    assert targets.has_corner[0].tolist() == (z >= 1).tolist()
    assert not targets.has_keypoint[0, :CORNERS][~targets.has_corner[0]].any()
    assert (targets.keypoint_heatmap == 1).sum() == targets.has_keypoint.sum()
    assert targets.corners[targets.has_corner].abs().max() < 500
    assert targets.corners.isfinite().all()


def test_an_object_whose_3d_centre_is_out_of_the_picture_is_learnt(detector: MonoCon) -> None:
    """The cell is that of the 2D box, so a truncated object has one."""
    cut = replace(objects(xs=(19.0,)), boxes_2d=np.array([[1150.0, 150, 1241, 250]]))
    batch = Batch.collate([sample(detector, cut)])
    targets = batch.targets
    assert len(targets.image) == 1
    assert targets.cell[0, 0] + targets.offset_3d[0, 0] > SIZE[0] / 4
    assert not targets.has_keypoint[0, CORNERS]
    found = detector.decode(perfect(targets), batch.views("rgb"))[0].above(0.99).to_objects()
    np.testing.assert_allclose(found.bottom, cut.bottom, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_says_the_same_in_float32(detector: MonoCon, dtype: torch.dtype) -> None:
    """Of the same features: what the backbone rounds, the mixtures of an untrained network make much of."""
    batch = Batch.collate([sample(detector, objects())])
    views = pictures(batch)
    with torch.inference_mode():
        whole = detector(views, batch.targets)
        shared, k = whole.features["neck.4"], detector.magnification(views)
        with torch.autocast("cpu", dtype=dtype):
            half = {"heatmap": detector.heads.heat(shared), **detector.heads.learning(shared, k, batch.targets)}
            assert {head.dtype for head in detector(views).heads.values()} == {torch.float32}
    assert not torch.equal(half["heatmap"], half["heatmap"].to(dtype).float())  # not rounded on the way
    for name, head in half.items():
        assert head.dtype == torch.float32
        largest = whole.heads[name].abs().max()
        assert (head - whole.heads[name]).abs().max() < 20 * torch.finfo(dtype).eps * largest, name
    assert len(detector.decode(replace(whole, heads=half), views)[0]) == len(detector.decode(whole, views)[0])


@pytest.mark.parametrize("at_targets", [True, False])
def test_heads_say_at_their_cells_what_whole_maps_say_there(detector: MonoCon, at_targets: bool) -> None:
    batch = Batch.collate([sample(detector, objects()), sample(detector, objects(xs=(2.0,)))])
    views, targets = pictures(batch), batch.targets
    with torch.inference_mode():
        there = detector(views, targets if at_targets else None)
        everywhere = detector.heads(there.features["neck.4"], detector.magnification(views))
        errors = detector.metrics(there, targets, views)["depth_error_m"]
    assert {*everywhere} == {*there.heads, *(() if at_targets else AUXILIARY)}
    for name, head in there.heads.items():
        cells = targets.keypoints if name == "keypoint_offset" else there.where
        wanted = everywhere[name] if "heatmap" in name else at_cells(everywhere[name], cells)
        torch.testing.assert_close(head, wanted.reshape(head.shape), rtol=1e-4, atol=1e-5)
    where = targets if at_targets else peaks(everywhere["heatmap"].sigmoid(), count=SMALL.top_k)
    assert torch.equal(there.where.cell, where.cell)
    said = at_cells(everywhere["depth"], targets).squeeze(1)
    torch.testing.assert_close(errors, (said - targets.depth).abs(), rtol=1e-4, atol=1e-4)


def test_the_output_for_chosen_images_is_that_of_them_alone(detector: MonoCon) -> None:
    batch = Batch.collate([sample(detector, objects()), sample(detector, objects(xs=(2.0,)))])
    second = torch.tensor([False, True])
    right, alone = perfect(batch.targets).of(second), perfect(batch.targets.of(second))
    assert isinstance(right, MonoConOutput)
    torch.testing.assert_close(right.heads, alone.heads)
    torch.testing.assert_close(vars(right.where), vars(alone.where))


def test_prediction_does_without_the_auxiliary_heads() -> None:
    """It runs where they have been taken out."""
    detector = MonoCon(SMALL).eval()
    views = pictures(Batch.collate([sample(detector, objects())]))
    with torch.inference_mode():
        whole = detector.decode(detector(views), views)[0]
        for name in AUXILIARY:
            delattr(detector.heads, name)
        rest = detector.decode(detector(views), views)[0]
    torch.testing.assert_close(rest.scores, whole.scores)
    torch.testing.assert_close(rest.boxes_3d.bottom, whole.boxes_3d.bottom)


def test_a_loss_refuses_heads_said_at_the_peaks_alone(detector: MonoCon) -> None:
    batch = Batch.collate([sample(detector, objects())])
    with torch.inference_mode():
        there = detector(batch.views("rgb"))
    with pytest.raises(
        InputError, match=r"expected a row for each of the 3 objects, got 50: call the network with at=targets"
    ):
        detector.loss(there, batch.targets)


def test_a_perfect_network_has_next_to_no_loss(detector: MonoCon) -> None:
    batch = Batch.collate([sample(detector, objects()), sample(detector, objects(xs=(2.0,)))])
    losses = detector.loss(perfect(batch.targets), batch.targets)
    assert losses.pop("depth").item() == pytest.approx(-1)  # u = -1
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(0, abs=1e-5), name


def test_keypoint_losses_are_means_over_what_is_known() -> None:
    """Two objects; of the second, half of the corners and no keypoint of the heat map."""
    detector = MonoCon(SMALL)
    targets = Batch.collate([sample(detector, objects(xs=(-4.0, 4.0)))]).targets
    half = torch.arange(CORNERS) < CORNERS // 2
    known = {
        "has_corner": torch.stack([half | True, half]),
        "has_keypoint": torch.tensor([[True], [False]]).repeat(1, 9),
    }
    right = perfect(replace(targets, **known))
    wrong = {name: head.clone() for name, head in right.heads.items()}
    wrong["corners"][:, : CORNERS // 2] += 1.0  # the first four coordinates: two corners of each object
    wrong["keypoint_offset"] += 0.5
    wrong["size_2d"] += 3.0
    losses = task_losses(wrong, replace(targets, **known))
    assert losses["keypoints"].item() == pytest.approx((2 + 2) / (9 + 5), rel=1e-4)
    assert losses["keypoint_offset"].item() == pytest.approx(0.5, rel=1e-4)
    assert losses["size_2d"].item() == pytest.approx(3 * SIZE_2D_WEIGHT, rel=1e-4)


def test_every_head_learns(detector: MonoCon) -> None:
    """Each loss reaches the head that it is about, the auxiliary ones the shared features, too."""
    network = MonoCon(SMALL)
    batch = Batch.collate([sample(network, objects()), sample(network, objects(xs=(2.0,)))])
    losses = network.loss(network(pictures(batch), batch.targets), batch.targets)
    torch.stack(list(losses.values())).sum().backward()
    silent = [name for name, weight in network.heads.named_parameters() if weight.grad is None]
    assert silent == []
    assert all(weight.grad.isfinite().all() for weight in network.parameters() if weight.grad is not None)


def test_nothing_to_supervise_gives_zeros_with_a_gradient() -> None:
    detector = MonoCon(SMALL)
    batch = Batch.collate([sample(detector, objects(xs=()))])  # of one picture: the mixtures' running statistics serve
    losses = detector.loss(detector(batch.views("rgb"), batch.targets), batch.targets)
    assert all(loss.item() == 0 for name, loss in losses.items() if "heatmap" not in name)
    torch.stack(list(losses.values())).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in detector.parameters() if weight.grad is not None)


def test_attentive_normalisation_is_what_its_formula_says() -> None:
    torch.manual_seed(0)
    norm, x = AttentiveNorm(6, mixture=3), 2 * torch.randn(4, 6, 5, 7) + torch.randn(4, 6, 1, 1)
    said = norm(x)
    m, s = x.mean((2, 3)), (x.var((2, 3), correction=0) + 1e-3).sqrt()
    logits = (m / s) @ norm.attention.weight.T
    spread = (logits - logits.mean(0)) / (logits.var(0, correction=0) + 1e-5).sqrt()
    w = ((spread + 3) / 6).clamp(0, 1)
    flat = x.transpose(0, 1).flatten(1)
    normal = (x - flat.mean(1)[:, None, None]) / (flat.var(1, correction=0)[:, None, None] + 1e-3).sqrt()
    wanted = (w @ norm.scale)[..., None, None] * normal + (w @ norm.shift)[..., None, None]
    torch.testing.assert_close(said, wanted, rtol=1e-4, atol=1e-5)
    alone = norm.eval()(x[:1])
    torch.testing.assert_close(alone, norm(x)[:1])  # no picture sees another one


def test_teaching_terms_are_zero_for_equal_networks_and_positive_otherwise(detector: MonoCon) -> None:
    batch = Batch.collate([sample(detector, objects())])
    right = perfect(batch.targets)
    wrong = replace(right, heads={name: head + 0.5 for name, head in right.heads.items()})
    assert HeadLoss()(student=right, teacher=right, targets=batch.targets).item() == pytest.approx(0, abs=1e-6)
    parts = HeadLoss().parts(student=wrong, teacher=right, targets=batch.targets)
    assert all(part.item() > 0 for part in parts.values())
    assert ResponseLoss()(student=wrong, targets=batch.targets).item() == 0  # every frame has labels
    soft = replace(batch.targets, labelled=torch.tensor([False]))
    off, near = (ResponseLoss().parts(student=output, targets=soft) for output in (wrong, right))
    names = {"offset_2d", "size_2d", "keypoints", "keypoint_offset", "depth", "size_3d"}
    assert {*off} == {*names, "heading", "heatmap", "keypoint_heatmap"}
    assert all(off[name].item() > near[name].item() for name in names)
    assert off["keypoints"] == task_losses(wrong.heads, soft)["keypoints"]


@pytest.mark.parametrize("modality", ["rgb", "depth", "rgbd"])
def test_a_model_file_gives_the_same_network_back(modality: str, tmp_path: Path) -> None:
    detector = MonoCon(replace(SMALL, modality=modality)).eval()
    save_model(detector, tmp_path / "model.safetensors", provenance={})
    again = load_model(tmp_path / "model.safetensors")
    assert isinstance(again, MonoCon)
    batch = Batch.collate([sample(detector, objects())])
    views = replace(batch.views("rgb"), images=torch.rand(1, {"rgb": 3, "depth": 1, "rgbd": 4}[modality], 192, 640))
    with torch.inference_mode():
        torch.testing.assert_close(again(views).heads, detector(views).heads)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modality": "lidar"}, "modality: expected rgb, depth or rgbd, got 'lidar'"),
        ({"input_size": (640, 190)}, "input_size: expected .* multiples of 32 px"),
        ({"mixture": 0}, "mixture: expected a whole number of at least 1, got 0"),
        ({"classes": ("Tram",)}, "mean_sizes: expected .* of Tram"),
        ({"initial_depth_m": 0.0}, "initial_depth_m: expected more than 0 m, got 0.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MonoConConfig(**settings)
