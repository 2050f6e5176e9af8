"""MonoDETR in the camera geometry of the house: targets and decoding are inverse, losses, precision, bad settings."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import load as load_onnx

from monoskd.data.samples import make_sample
from monoskd.data.transforms import Draw
from monoskd.errors import InputError
from monoskd.geometry.camera import Camera
from monoskd.geometry.heading import BINS, alpha_from_yaw
from monoskd.inference.export import export
from monoskd.inference.onnx_predictor import OnnxPredictor
from monoskd.inference.predictor import Predictor
from monoskd.models.heads import depth_m
from monoskd.models.monodetr import MonoDETR, MonoDETRConfig
from monoskd.models.monodetr.bilinear import gathered
from monoskd.models.monodetr.deformable import DeformableAttention
from monoskd.models.monodetr.losses import class_loss, layer_losses, task_losses
from monoskd.models.monodetr.matching import generalised_overlap, match
from monoskd.models.monodetr.structures import MonoDETROutput, MonoDETRTargets
from monoskd.models.monodetr.targets import depth_bins, paint
from monoskd.models.monodetr.teaching import HeadLoss, ResponseLoss
from monoskd.models.weights import save_model
from monoskd.objects import Objects
from monoskd.structures import Batch, DetectorOutput, Frame, Sample, Views

SIZE = (192, 64)
SMALL = MonoDETRConfig(
    backbone="resnet18",
    backbone_arguments={"channels": [8, 8, 16, 16]},
    pretrained=False,
    frozen=False,
    width=32,
    heads=4,
    points=2,
    hidden=32,
    encoder_layers=1,
    decoder_layers=2,
    dropout=0.0,
    queries=6,
    groups=2,
    input_size=SIZE,
)


@pytest.fixture(scope="module")
def detector() -> MonoDETR:
    torch.manual_seed(0)
    return MonoDETR(SMALL).eval()


def objects(*, xs: tuple[float, ...] = (-8.0, 1.0, 6.0), focal_px: float = 700.0) -> Objects:
    """Cars at 20 m and beyond, with 2D boxes about their projections."""
    count = len(xs)
    bottom = np.array([[x, 1.7, 20 + 5 * number] for number, x in enumerate(xs)]).reshape(-1, 3)
    dimensions, yaw = np.tile([1.5, 1.7, 4.1], (count, 1)), np.linspace(-3, 3, count)
    camera = Camera.from_focal(focal_px, width=1242, height=375)
    u, v = camera.project(bottom - [0, 0.75, 0]).T
    half = 1.5 * focal_px / bottom[:, 2]
    boxes = np.stack([u - half, v - half / 2, u + 1.2 * half, v + half / 2], 1)
    zeros = np.zeros(count)
    alpha = alpha_from_yaw(yaw, u=u, camera=camera)
    return Objects(np.array(["Car"] * count), zeros, zeros.astype(int), alpha, boxes, dimensions, bottom, yaw)


def sample(detector: MonoDETR, found: Objects, *, focal_px: float = 700.0, draw: Draw | None = None) -> Sample:
    camera = Camera.from_focal(focal_px, width=1242, height=375)
    frame = Frame(np.zeros((375, 1242, 3), np.uint8), camera, objects=found)
    return make_sample("", frame, draw=draw, input_size=SIZE, targets=detector.target_maker())


def perfect(targets: MonoDETRTargets, *, queries: int = 6, groups: int = 1) -> MonoDETROutput:
    """What a network without error says, by the first queries of each group."""
    images = len(targets.labelled)
    place = torch.cat([torch.arange(int((targets.image == image).sum())) for image in range(images)])
    heading = torch.zeros(len(place), 2 * BINS)
    heading[range(len(heading)), targets.heading_bin] = 100
    heading[range(len(heading)), BINS + targets.heading_bin] = targets.heading_residual
    logits = torch.full((len(place), 3), -20.0)
    logits[range(len(place)), targets.label] = 20
    said = {
        "logits": logits,
        "boxes": targets.box,
        "size_3d": targets.dimensions,
        "heading": heading,
        "depth": targets.depth[:, None],
        "depth_log_std": torch.full((len(place), 1), -1.0),
    }
    heads = {name: torch.zeros(images, queries * groups, value.shape[1]) for name, value in said.items()}
    heads["logits"] -= 20
    for name, value in said.items():
        for group in range(groups):
            heads[name][targets.image, group * queries + place] = value
    depth_map = torch.nn.functional.one_hot(targets.depth_bin, 81).permute(0, 3, 1, 2) * 40.0
    return MonoDETROutput({}, heads | {"depth_map": depth_map}, {"0": dict(heads)}, groups)


@given(
    focal_px=st.floats(350, 1400),
    flip=st.booleans(),
    scale=st.floats(0.9, 1.2),
    shift=st.tuples(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05)),
)
@settings(deadline=None, max_examples=25)
def test_decoding_inverts_the_targets_through_any_lens(
    detector: MonoDETR,
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
    assert_same_boxes(found, one.objects, atol_m=4e-3)


def test_a_box_and_a_height_say_the_depth_whatever_the_lens(detector: MonoDETR) -> None:
    from monoskd.models.monodetr.heads import box_depth

    for focal_px, scale in ((350.0, 1.0), (1400.0, 0.8)):
        views = Batch.collate([sample(detector, objects(), focal_px=focal_px, draw=Draw(scale=scale))]).views("rgb")
        height = focal_px * float(views.letterbox.scale) * 1.5 / 20 / SIZE[1]  # of a car of 1.5 m at 20 m
        said = {"boxes": torch.tensor([[[0.5, 0.5, 0, 0, height / 3, height * 2 / 3]]])}
        apparent = box_depth(said | {"size_3d": torch.tensor([[[1.5, 1.7, 4.1]]])}, detector.box_scale(views))
        if height * SIZE[1] >= 1:
            torch.testing.assert_close(apparent[0, 0] * detector.magnification(views), torch.tensor([20.0]))


def naive(attention: DeformableAttention, query, reference, tokens, shapes):
    """The definition, one place after another."""
    b, q, w = query.shape
    h, levels, points = attention.heads, attention.levels, attention.points
    offsets = attention.offsets(query).reshape(b, q, h, levels, points, 2)
    weights = attention.weights(query).reshape(b, q, h, levels * points).softmax(-1).reshape(b, q, h, levels, points)
    values = attention.value(tokens).reshape(b, -1, h, w // h)
    out = torch.zeros(b, q, h, w // h)
    for i, j, k, level, p in np.ndindex(b, q, h, levels, points):
        rows, columns = shapes[level]
        start = sum(r * c for r, c in shapes[:level])
        place = reference[i, j, :2] * torch.tensor([columns, rows])
        if reference.shape[-1] == 2:
            place = place + offsets[i, j, k, level, p]
        else:
            left, right, top, bottom = reference[i, j, 2:]
            size = torch.stack([(left + right) / 2, (top + bottom) / 2]) * torch.tensor([columns, rows])
            place = place + offsets[i, j, k, level, p] / points * size
        x, y = (place - 0.5).tolist()
        for row, column in ((math.floor(y) + dy, math.floor(x) + dx) for dy in (0, 1) for dx in (0, 1)):
            if 0 <= row < rows and 0 <= column < columns:
                share = (1 - abs(x - column)) * (1 - abs(y - row))
                out[i, j, k] += weights[i, j, k, level, p] * share * values[i, start + row * columns + column, k]
    return attention.output(out.flatten(2))


@pytest.mark.parametrize("numbers", [2, 6])
def test_deformable_attention_is_its_definition(numbers: int) -> None:
    torch.manual_seed(0)
    attention, shapes = DeformableAttention(8, heads=2, levels=2, points=2), [(3, 5), (2, 3)]
    for layer in (attention.offsets, attention.weights):
        torch.nn.init.normal_(layer.weight, std=0.5)
    query, tokens, reference = torch.randn(2, 3, 8), torch.randn(2, 21, 8), torch.rand(2, 3, numbers)
    with torch.no_grad():
        ours = attention(query, reference=reference, tokens=tokens, shapes=shapes)
        torch.testing.assert_close(ours, naive(attention, query, reference, tokens, shapes), rtol=1e-5, atol=1e-6)


def test_generalised_overlap_is_torchvisions() -> None:
    from torchvision.ops import generalized_box_iou

    corner = torch.rand(2, 7, 2, dtype=torch.float64)
    boxes = torch.cat([corner, corner + torch.rand(2, 7, 2, dtype=torch.float64)], -1)
    ours = generalised_overlap(boxes[0, :, None], boxes[1, None])
    torch.testing.assert_close(ours, generalized_box_iou(*boxes))
    empty = torch.zeros(1, 4)
    assert generalised_overlap(empty, empty).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_says_the_same_in_float32(detector: MonoDETR, dtype: torch.dtype) -> None:
    views = Batch.collate([sample(detector, objects())]).views("rgb")
    images = torch.rand(1, 3, SIZE[1], SIZE[0], generator=torch.Generator().manual_seed(0))
    views = Views(images, views.cameras, views.letterbox)
    with torch.inference_mode():
        whole = detector(views)
        with torch.autocast("cpu", dtype=dtype):
            half = detector(views)
    for name, head in half.heads.items():
        assert head.dtype == torch.float32
        largest = whole.heads[name].abs().max()
        assert (head - whole.heads[name]).abs().max() < 30 * torch.finfo(dtype).eps * largest, name
    assert len(detector.decode(half, views)[0]) == len(detector.decode(whole, views)[0])


@pytest.mark.parametrize("groups", [1, 2])
def test_a_perfect_network_has_next_to_no_loss(detector: MonoDETR, groups: int) -> None:
    batch = Batch.collate([sample(detector, objects()), sample(detector, objects(xs=(2.0,)))])
    losses = detector.loss(perfect(batch.targets, groups=groups), batch.targets)
    assert losses.pop("depth").item() == pytest.approx(-2)  # u = -1, two layers
    for name, loss in losses.items():
        least = 2e-3 if name == "depth_map" else 1e-4  # 1e-6 of every wrong bin's loss
        assert loss.item() == pytest.approx(0, abs=least), name


def test_each_group_finds_every_object(detector: MonoDETR) -> None:
    targets = Batch.collate([sample(detector, objects()), sample(detector, objects(xs=(2.0,)))]).targets
    query, row = match(perfect(targets, groups=2).heads, targets, groups=2)
    assert query.tolist() == [0, 1, 2, 6, 7, 8, 0, 6]
    assert row.tolist() == [0, 1, 2, 0, 1, 2, 3, 3]


def test_more_objects_than_queries_leave_some_out(detector: MonoDETR) -> None:
    targets = Batch.collate([sample(detector, objects(xs=tuple(np.linspace(-9, 9, 8))))]).targets
    assert len(targets.image) == 5  # the others are too small
    heads = {name: head[:, :3] for name, head in perfect(targets).heads.items()}
    query, row = match(heads, targets, groups=1)
    assert query.tolist() == row.tolist() == [0, 1, 2]


def test_answers_that_are_no_numbers_still_match(detector: MonoDETR) -> None:
    targets = Batch.collate([sample(detector, objects())]).targets
    heads = {name: torch.full_like(head, math.nan) for name, head in perfect(targets).heads.items()}
    assert len(match(heads, targets, groups=1)[0]) == 3


def test_nothing_to_supervise_gives_zeros_with_a_gradient() -> None:
    detector = MonoDETR(SMALL)
    batch = Batch.collate([sample(detector, objects(xs=()))])
    losses = detector.loss(detector(batch.views("rgb")), batch.targets)
    assert all(loss.item() == 0 for name, loss in losses.items() if name not in ("classes", "depth_map"))
    torch.stack(list(losses.values())).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in detector.parameters() if weight.grad is not None)


def test_the_class_loss_is_torchvisions_focal_loss_and_least_at_a_soft_target() -> None:
    from torchvision.ops import sigmoid_focal_loss

    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    wanted = torch.zeros(2, 5, 3)
    wanted[0, 1, 2] = wanted[1, 4, 0] = 1
    torch.testing.assert_close(class_loss(logits, wanted), sigmoid_focal_loss(logits, wanted, reduction="sum"))
    soft = torch.tensor([[[0.7]]])
    assert class_loss(soft.logit(), soft).item() < 1e-9
    assert class_loss(torch.tensor([[[3.0]]]), soft).item() > 1e-3


@pytest.mark.parametrize("raw", [-200.0, 0.0, 200.0])
def test_a_lost_depth_keeps_finite_gradients(raw: float) -> None:
    value = torch.tensor([raw], requires_grad=True)
    depth_m(value).backward()
    assert value.grad.isfinite().all()


def test_bins_know_their_depths(detector: MonoDETR) -> None:
    """Every bin's middle lies in it; the background's 60 m and more in the last one, unless as published."""
    middles = detector.depth.depths[:-1].numpy()
    np.testing.assert_array_equal(depth_bins(middles, bins=80, far_background=False), np.arange(80))
    assert depth_bins(np.array([61.0, 500.0]), bins=80, far_background=False).tolist() == [79, 79]
    assert depth_bins(np.array([61.0, 500.0]), bins=80, far_background=True).tolist() == [80, 80]


def test_the_nearest_box_is_painted_last_and_edges_are_cut() -> None:
    boxes, depth = np.array([[0.2, 0.0, 2.5, 1.9], [1.0, 1.0, 2.0, 9.0], [-1.5, 0.0, 1.0, 1.0]]), np.array([5.0, 9, 7])
    painted, inside = paint(boxes, np.array([1, 2, 3]), depth, shape=(3, 4), background=80, wrapped=False)
    assert painted.tolist() == [[1, 1, 1, 80], [1, 1, 1, 80], [80, 2, 80, 80]]
    assert inside.tolist() == (painted != 80).tolist()
    lonely, _ = paint(boxes[2:], np.array([3]), depth[2:], shape=(3, 4), background=80, wrapped=True)
    assert (lonely == 80).all()


def test_teaching_terms_are_zero_for_equal_networks_and_positive_otherwise(detector: MonoDETR) -> None:
    batch = Batch.collate([sample(detector, objects())])
    right, groups = perfect(batch.targets), perfect(batch.targets, groups=2)
    wrong = replace(groups, heads={name: head + 0.1 for name, head in groups.heads.items()})
    assert HeadLoss()(student=groups, teacher=right, targets=batch.targets).item() == pytest.approx(0, abs=1e-5)
    parts = HeadLoss().parts(student=wrong, teacher=right, targets=batch.targets)
    assert all(part.item() > 0 for name, part in parts.items() if name != "head_classes")
    assert ResponseLoss()(student=wrong, targets=batch.targets).item() == 0  # every frame has labels
    soft = replace(batch.targets, labelled=torch.tensor([False]))
    assert ResponseLoss()(student=wrong, targets=soft).item() > ResponseLoss()(student=groups, targets=soft).item()
    assert ResponseLoss().parts(student=wrong, targets=soft)["size_3d"] == task_losses(wrong, soft)["size_3d"]


def test_a_teacher_of_another_kind_has_no_queries_to_compare(detector: MonoDETR) -> None:
    targets = Batch.collate([sample(detector, objects())]).targets
    with pytest.raises(InputError, match=r"HeadLoss: expected a MonoDETR teacher, .* got DetectorOutput"):
        HeadLoss()(student=perfect(targets), teacher=DetectorOutput({}, {}), targets=targets)


def test_weights_scale_an_object_and_not_the_count(detector: MonoDETR) -> None:
    targets = Batch.collate([sample(detector, objects())]).targets
    wrong = {name: head + 0.1 for name, head in perfect(targets).heads.items()}
    half = replace(targets, weight=targets.weight / 2)
    pairs = match(wrong, targets, groups=1)
    whole, light = (layer_losses(wrong, chosen, pairs=pairs, count=3) for chosen in (targets, half))
    for name in ("centre", "edges", "overlap", "depth", "size_3d", "heading"):
        assert light[name].item() == pytest.approx(whole[name].item() / 2, rel=1e-5), name


def test_a_frozen_backbone_keeps_its_statistics_and_first_stage() -> None:
    detector = MonoDETR(replace(SMALL, frozen=True)).train()
    before = {name: value.clone() for name, value in detector.backbone.state_dict().items()}
    batch = Batch.collate([sample(detector, objects())])
    torch.stack(list(detector.loss(detector(batch.views("rgb")), batch.targets).values())).sum().backward()
    after = detector.backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    trained = {name for name, weight in detector.backbone.net.named_parameters() if weight.grad is not None}
    assert trained
    assert not [name for name in trained if "bn" in name or name.startswith(("conv1", "layer1"))]


def test_a_backbone_of_unknown_stages_is_not_frozen_in_silence() -> None:
    with pytest.raises(InputError, match="frozen: expected a ResNet"):
        MonoDETR(replace(SMALL, frozen=True, backbone="dla34", backbone_arguments={"channels": [4, 4, 8, 16, 32, 64]}))


def test_training_uses_all_groups_and_prediction_one(detector: MonoDETR) -> None:
    views = Batch.collate([sample(detector, objects())]).views("rgb")
    with torch.no_grad():
        assert detector(views).heads["logits"].shape[1] == 6
        output = MonoDETR(SMALL).train()(views)
    assert (output.groups, output.heads["logits"].shape[1]) == (2, 12)
    assert len(detector.decode(output, views)[0]) <= 18  # of the first group


def test_confidence_stays_below_one_unless_as_published(detector: MonoDETR) -> None:
    batch = Batch.collate([sample(detector, objects())])
    views, output = batch.views("rgb"), perfect(batch.targets)  # exp(-u) = e
    assert detector.decode(output, views)[0].scores.max() <= 1
    unbounded = MonoDETR(replace(SMALL, quirks=("unbounded_score",)))
    assert unbounded.decode(output, views)[0].scores.max().item() == pytest.approx(math.e, rel=1e-4)


def test_every_quirk_changes_something(detector: MonoDETR) -> None:
    views = Batch.collate([sample(detector, objects())]).views("rgb")
    blind = MonoDETR(replace(SMALL, quirks=("lens_blind_depth", "near_edge_bins", "small_start")))
    assert blind.magnification(views).tolist() == [1.0]
    assert (blind.depth.depths[:-1] < detector.depth.depths[:-1]).all()
    assert blind.heads.depth[0][-1].bias.abs().max() < 1  # torch's own start
    assert detector.heads.depth[0][-1].bias[0].item() == pytest.approx(-math.log(20))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modality": "lidar"}, "modality: expected rgb, depth or rgbd, got 'lidar'"),
        ({"input_size": (640, 190)}, "input_size: expected .* multiples of 32 px"),
        ({"classes": ("Car", "Car")}, "classes: expected names, none twice"),
        ({"classes": ("Tram",)}, "mean_sizes: expected .* of Tram"),
        ({"quirks": ("label_beta",)}, "quirks: expected names among unmirrored_camera"),
        ({"width": 48}, "width: expected a multiple of 32 and of heads"),
        ({"groups": 0}, "groups: expected a whole number of at least 1, got 0"),
        ({"dropout": 1.0}, "dropout: expected 0 or more and less than 1"),
        ({"initial_depth_m": 0.0}, "initial_depth_m: expected more than 0 m, got 0.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MonoDETRConfig(**settings)


@pytest.mark.parametrize("align_corners", [False, True])
def test_gathers_read_what_grid_sample_reads(align_corners: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 4, 7, generator=draw, dtype=torch.float64)
    grid = 1.6 * torch.randn(2, 50, 5, 2, generator=draw, dtype=torch.float64)
    grid[0, 0] = torch.tensor(
        [[-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [0.0, 0.0], [1e9, -1e9]]
    )  # edges, and far outside
    wanted = torch.nn.functional.grid_sample(maps, grid, align_corners=align_corners)
    assert (wanted == 0).any()
    torch.testing.assert_close(gathered(maps, grid, align_corners=align_corners), wanted)


@pytest.mark.parametrize(
    "settings", [{"input_focal_px": 180.0}, pytest.param({"geometry": "published"}, marks=pytest.mark.slow)]
)
def test_onnxruntime_finds_what_torch_finds(settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = MonoDETR(replace(SMALL, width=64, **settings)).eval()
    model, graph = tmp_path / "model.safetensors", tmp_path / "model.onnx"
    save_model(detector, model, provenance={})
    export(model, graph)
    proto = load_onnx(graph)
    assert not proto.functions  # nothing is hidden in them
    assert "GridSample" not in {node.op_type for node in proto.graph.node}  # TensorRT is known to get it wrong
    draw = np.random.default_rng(0)
    torch_, onnx = Predictor(model), OnnxPredictor(graph)
    for count, focal_px in ((1, 150.0), (3, 300.0), (1, 700.0)):
        camera = Camera.from_focal(focal_px, width=160, height=80)
        frames = [Frame(draw.integers(0, 255, (80, 160, 3), np.uint8), camera) for _ in range(count)]
        for wanted, found in zip(torch_.batch(frames), onnx.batch(frames), strict=True):
            assert len(found) == len(wanted) > 0
            for name in ("labels", "scores", "boxes_2d", "alpha"):
                np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-3, rtol=1e-3)
            np.testing.assert_allclose(found.boxes_3d.bottom, wanted.boxes_3d.bottom, atol=1e-3, rtol=1e-3)
