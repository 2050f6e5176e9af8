from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from monoskd.errors import InputError
from monoskd.geometry.camera import Camera, Letterbox
from monoskd.models.did_m3d import DidM3D, DidM3DConfig
from monoskd.models.did_m3d.heads import boxes_at
from monoskd.models.did_m3d.structures import DidM3DTargets
from monoskd.models.heatmap import at_cells
from monoskd.structures import Detector, Views

RandomTargets = Callable[[int], DidM3DTargets]


def images(modality: str = "rgb") -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if modality == "rgb":
        return torch.rand(2, 3, 96, 160, generator=generator)
    return 80 * torch.rand(2, 1, 96, 160, generator=generator)


def test_it_is_a_detector(detector: DidM3D) -> None:
    assert isinstance(detector, Detector)


def test_features_have_names_and_strides(detector: DidM3D, cameras: Camera, letterbox: Letterbox) -> None:
    features = detector(Views(images(), cameras, letterbox)).features
    assert set(features) == {f"{part}.{stride}" for part in ("backbone", "neck") for stride in (4, 8, 16, 32)}
    for name, feature in features.items():
        stride = int(name.split(".")[1])
        assert feature.shape[-2:] == (96 // stride, 160 // stride)


@pytest.mark.parametrize("path", ["backbone.8", "neck.4", "neck.32"])
def test_a_hook_on_a_module_path_sees_the_feature_of_that_name(
    path: str, detector: DidM3D, cameras: Camera, letterbox: Letterbox
) -> None:
    seen = {}
    detector.get_submodule(path).register_forward_hook(lambda _module, _inputs, output: seen.update(map=output))
    assert detector(Views(images(), cameras, letterbox)).features[path] is seen["map"]


def test_inference_looks_at_the_best_cells_of_each_image(
    detector: DidM3D, cameras: Camera, letterbox: Letterbox
) -> None:
    output = detector.eval()(Views(images(), cameras, letterbox))
    assert output.rois.image.tolist() == [0] * 10 + [1] * 10
    assert output.scores[0] == output.heads["heatmap"][0].sigmoid().max()


def test_boxes_at_peaks_are_those_of_the_whole_maps(detector: DidM3D, cameras: Camera, letterbox: Letterbox) -> None:
    with torch.inference_mode():
        output = detector.eval()(Views(images(), cameras, letterbox))
        maps = detector.dense(output.features["neck.4"])
    assert "size_2d" not in output.heads
    assert torch.equal(maps["heatmap"], output.heads["heatmap"])
    wanted = boxes_at(at_cells(maps["offset_2d"], output.rois), at_cells(maps["size_2d"], output.rois), output.rois)
    torch.testing.assert_close(output.boxes, wanted, rtol=1e-4, atol=1e-4)


def test_training_looks_at_the_given_cells(
    detector: DidM3D, cameras: Camera, letterbox: Letterbox, random_targets: RandomTargets
) -> None:
    targets = random_targets(5)
    output = detector(Views(images(), cameras, letterbox), targets)
    assert output.heads["offset_3d"].shape == (5, 2)
    column, row = targets.cell[3]
    logit = output.heads["heatmap"][targets.image[3], targets.label[3], row, column]
    assert output.scores[3] == logit.sigmoid()


def test_every_weight_learns(
    detector: DidM3D, cameras: Camera, letterbox: Letterbox, random_targets: RandomTargets
) -> None:
    targets = random_targets(6)
    losses = detector.loss(detector(Views(images(), cameras, letterbox), targets), targets)
    assert list(losses) == ["heatmap", "offset_2d", "size_2d", "offset_3d", "size_3d", "heading", "depth"]
    sum(losses.values()).backward()
    still = [name for name, weight in detector.named_parameters() if weight.grad is None or not weight.grad.any()]
    # A bias in front of a BatchNorm cannot change anything; it is there because published checkpoints have it.
    assert all(name.startswith("regional.") and name.endswith(".0.bias") for name in still)


def test_twenty_steps_on_one_batch_lower_every_loss(
    detector: DidM3D, cameras: Camera, letterbox: Letterbox, random_targets: RandomTargets
) -> None:
    targets, optimizer = random_targets(6), torch.optim.Adam(detector.parameters(), 3e-3)
    history = []
    for _ in range(21):
        losses = detector.loss(detector(Views(images(), cameras, letterbox), targets), targets)
        history.append({name: loss.detach() for name, loss in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    for name, first in history[0].items():
        assert history[-1][name] < 0.9 * first, name


def test_a_batch_without_objects_gives_finite_zeros_with_a_gradient(
    detector: DidM3D, cameras: Camera, letterbox: Letterbox, random_targets: RandomTargets
) -> None:
    targets = random_targets(0)
    losses = detector.loss(detector(Views(images(), cameras, letterbox), targets), targets)
    assert all(loss == 0 for name, loss in losses.items() if name != "heatmap")
    sum(losses.values()).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in detector.parameters())
    assert all(buffer.isfinite().all() for buffer in detector.buffers())


def test_points_without_visual_depth_give_finite_losses(
    detector: DidM3D, cameras: Camera, letterbox: Letterbox, random_targets: RandomTargets
) -> None:
    targets = random_targets(3)
    targets = replace(targets, depth_mask=torch.zeros_like(targets.depth_mask))
    loss = detector.loss(detector(Views(images(), cameras, letterbox), targets), targets)["depth"]
    assert loss.isfinite()


def test_losses_do_not_depend_on_the_order_of_objects(
    detector: DidM3D, cameras: Camera, letterbox: Letterbox, random_targets: RandomTargets
) -> None:
    targets = random_targets(6)
    order = torch.randperm(6)
    shuffled = replace(
        targets,
        **{name: value[order] for name, value in vars(targets).items() if len(value) == 6},
    )
    first, second = (
        detector.loss(detector(Views(images(), cameras, letterbox), one), one) for one in (targets, shuffled)
    )
    for name, loss in first.items():
        torch.testing.assert_close(loss, second[name])


def test_rgb_is_normalised_as_imagenet(detector: DidM3D, cameras: Camera, letterbox: Letterbox) -> None:
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    assert detector.normalise(Views(mean.expand(1, 3, 2, 2), cameras, letterbox)).abs().max() == 0


def test_depth_is_seen_apparent_in_units_of_80_metres(
    small_config: DidM3DConfig, cameras: Camera, letterbox: Letterbox
) -> None:
    teacher = DidM3D(replace(small_config, modality="depth")).eval()
    letterbox = replace(letterbox, scale=torch.tensor([0.5, 2.0]))
    views = Views(images("depth"), cameras, letterbox)
    seen = teacher.normalise(views)
    assert seen.shape == (2, 3, 96, 160)
    torch.testing.assert_close(seen[0, 1], images("depth")[0, 0] / 40)  # half as large, so as if twice as far
    torch.testing.assert_close(seen[1, 1], images("depth")[1, 0] / 160)
    published = DidM3D(replace(small_config, modality="depth", geometry="published"))
    torch.testing.assert_close(published.normalise(views)[:, 1], images("depth")[:, 0] / 80)
    output = teacher(views)
    assert torch.equal(output.heads["heatmap"], teacher.forward_normalised(seen, views).heads["heatmap"])


def test_pictures_with_depth_are_both_seen_as_alone(
    small_config: DidM3DConfig, cameras: Camera, letterbox: Letterbox
) -> None:
    teacher = DidM3D(replace(small_config, modality="rgbd")).eval()
    views = {kind: Views(images(kind), cameras, letterbox) for kind in ("rgb", "depth")}
    both = Views(torch.cat([images("rgb"), images("depth")], 1), cameras, letterbox)
    seen = teacher.normalise(both)
    alone = {kind: DidM3D(replace(small_config, modality=kind)).normalise(views[kind]) for kind in views}
    assert torch.equal(seen, torch.cat([alone["rgb"], alone["depth"][:, :1]], 1))
    assert not torch.equal(teacher(both).heads["heatmap"][0], teacher(both).heads["heatmap"][1])


def test_depth_goes_by_the_focal_length_in_network_pixels(detector: DidM3D, letterbox: Letterbox) -> None:
    # A picture of twice the pixels through twice the focal length is the same picture.
    picture, depths = images()[:1].expand(4, -1, -1, -1), []
    for modality in ("rgb", "depth"):
        network = detector if modality == "rgb" else DidM3D(replace(detector.config, modality="depth"))
        P = torch.tensor([[700.0, 0, 320, 0], [0, 700, 192, 0], [0, 0, 1, 0]])
        sizes = torch.tensor([0.5, 1, 2, 4])
        cameras = Camera(torch.stack([torch.diag(torch.tensor([size, size, 1.0])) @ P for size in sizes]))
        boxes = Letterbox(0.25 / sizes, torch.zeros(4, 2), (160, 96))
        found = network.eval().decode(network(Views(picture, cameras, boxes)), Views(picture, cameras, boxes))
        for other, size in zip(found, sizes, strict=True):
            torch.testing.assert_close(other.boxes_3d.bottom, found[1].boxes_3d.bottom, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(other.boxes_2d, size * found[1].boxes_2d, rtol=1e-3, atol=1e-2)
        depths.append(found[1].boxes_3d.bottom[:, 2])
    assert float(depths[0].median().detach()) == pytest.approx(20 / 4, rel=0.1)


def test_the_reference_is_the_training_sets_unless_the_config_says_one(small_config: DidM3DConfig) -> None:
    new = DidM3D(replace(small_config, reference_focal_px=None))
    assert (new.reference_focal_px, new.input_focal_px) == (721.5377, None)
    new.adapt_to(focal_px=240.0, input_focal_px=200.0)
    assert (new.reference_focal_px, new.input_focal_px) == (240, 200)
    new.adapt_to(focal_px=900.0, input_focal_px=900.0)  # a second training set
    assert (new.reference_focal_px, new.input_focal_px) == (240, 200)
    configured = DidM3D(small_config)
    configured.adapt_to(focal_px=240.0, input_focal_px=200.0)
    assert configured.reference_focal_px == 700
    published = DidM3D(replace(small_config, geometry="published"))
    published.adapt_to(focal_px=240.0, input_focal_px=200.0)
    assert published.config == replace(small_config, geometry="published")
    assert published.input_focal_px is None


def test_the_training_sets_own_lens_leaves_the_zoom_alone(
    small_config: DidM3DConfig, cameras: Camera, letterbox: Letterbox
) -> None:
    network = DidM3D(small_config)
    k = network.magnification(Views(images(), cameras, letterbox))
    assert torch.equal(k, letterbox.scale)


def test_an_untrained_network_says_20_metres_and_plausible_boxes(detector: DidM3D, cameras: Camera) -> None:
    plain = Letterbox(torch.ones(2), torch.zeros(2, 2), (160, 96))
    output = detector.eval()(Views(images(), cameras, plain))
    torch.testing.assert_close(output.heads["depth"].median(), torch.tensor(20.0), rtol=0.05, atol=0)
    width, height = (output.boxes[:, 2:] - output.boxes[:, :2]).median(0).values
    torch.testing.assert_close(torch.stack([width, height]), torch.tensor([6.0, 4.0]), rtol=0.05, atol=0)


def test_detections_are_best_first_in_original_pixels(detector: DidM3D, cameras: Camera, letterbox: Letterbox) -> None:
    output = detector.eval()(Views(images(), cameras, letterbox))
    found = detector.decode(output, Views(images(), cameras, letterbox))
    assert len(found) == 2
    for image, detections in enumerate(found):
        assert (detections.scores.diff() <= 0).all()
        boxes = output.boxes[output.rois.image == image] * 4 / 0.25
        assert {tuple(box) for box in detections.boxes_2d.tolist()} == {tuple(box) for box in boxes.tolist()}


def test_boxes_with_a_negative_dimension_are_dropped(detector: DidM3D, cameras: Camera, letterbox: Letterbox) -> None:
    output = detector.eval()(Views(images(), cameras, letterbox))
    output.heads["size_3d"][:7, 1] = -50
    first, second = detector.decode(output, Views(images(), cameras, letterbox))
    assert (len(first), len(second)) == (3, 10)


def test_half_precision_layers_leave_positions_in_full(detector: DidM3D, cameras: Camera, letterbox: Letterbox) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = detector.eval()(Views(images(), cameras, letterbox))
    assert output.features["neck.4"].dtype == torch.bfloat16
    assert {head.dtype for head in output.heads.values()} == {torch.float32}
    assert output.boxes.dtype == torch.float32
    heat = output.heads["heatmap"]
    assert not torch.equal(heat, heat.bfloat16().float())  # not rounded on the way


def test_classes_may_be_written_in_any_case() -> None:
    assert DidM3DConfig(classes=("car", "PEDESTRIAN")).classes == ("Car", "Pedestrian")
    sizes = {"person_Sitting": (1.0, 1.0, 1.0)}
    assert DidM3DConfig(classes=("person_Sitting",), mean_sizes=sizes).classes == ("person_Sitting",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ("Car", "Tram")}, r"mean_sizes: expected .* got none for \['Tram'\]"),
        ({"classes": ()}, r"classes: expected names, none twice, got \(\)"),
        ({"classes": 3}, "classes: expected names, none twice, got 3"),
        ({"classes": "Car"}, "classes: expected names, none twice, got 'Car'"),
        ({"classes": ("Car", "Car")}, "classes: expected names, none twice"),
        ({"classes": ("Car", "car")}, "classes: expected names, none twice"),
        ({"classes": ("Car", ["Van"])}, "classes: expected names, none twice"),
        ({"modality": "lidar"}, "modality: expected rgb, depth or rgbd, got 'lidar'"),
        ({"modality": ["rgb"]}, r"modality: expected rgb, depth or rgbd, got \['rgb'\]"),
        ({"backbone": ""}, "backbone: expected the name of a timm model, got ''"),
        ({"backbone": 3}, "backbone: expected the name of a timm model, got 3"),
        ({"backbone_arguments": 3}, "backbone_arguments: expected arguments by name, got 3"),
        ({"head_width": 0}, "head_width: expected a whole number of at least 1, got 0"),
        ({"head_width": -1}, "head_width: expected a whole number of at least 1, got -1"),
        ({"top_k": 0}, "top_k: expected a whole number of at least 1, got 0"),
        ({"top_k": 2.5}, r"top_k: expected a whole number of at least 1, got 2\.5"),
        ({"top_k": "many"}, "top_k: expected a whole number of at least 1, got 'many'"),
        ({"mean_sizes": 3}, "mean_sizes: expected .* above 0 m by class, got 3"),
        ({"mean_sizes": {"Car": (1.5, 1.6)}}, r"mean_sizes: expected .* got {'Car': \(1\.5, 1\.6\)}"),
        ({"mean_sizes": {"Car": (1.5, 1.6, 0.0)}}, "mean_sizes: expected .* above 0 m by class"),
        ({"mean_sizes": {"Car": (1.5, 1.6, float("nan"))}}, "mean_sizes: expected .* above 0 m by class"),
        ({"geometry": "round"}, "geometry: expected corrected or published, got 'round'"),
        ({"initial_size_cells": (6.0,)}, r"initial_size_cells: expected .* got \(6\.0,\)"),
        ({"reference_focal_px": 0.0}, "reference_focal_px: expected more than 0 px, or none, got 0.0"),
        ({"initial_depth_m": "far"}, "initial_depth_m: expected more than 0 m, got 'far'"),
        ({"input_size": (0, 0)}, r"input_size: expected .* multiples of 32 px, got \(0, 0\)"),
        ({"input_size": (320_000, 96)}, r"input_size: expected .*, at most 4096 and .*, got \(320000, 96\)"),
        ({"input_size": "big"}, "input_size: expected .* multiples of 32 px, got 'big'"),
        ({"input_size": (320,)}, r"input_size: expected .* multiples of 32 px, got \(320,\)"),
        ({"input_size": (1242, 375)}, r"input_size: expected .* multiples of 32 px, got \(1242, 375\)"),
        ({"initial_depth_m": 0.0}, "initial_depth_m: expected more than 0 m"),
    ],
)
def test_a_config_that_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DidM3DConfig(**settings)


def test_other_classes_and_sizes_are_configuration(small_config: DidM3DConfig, cameras: Camera) -> None:
    config = replace(small_config, classes=("Tram",), mean_sizes={"Tram": (3.5, 2.6, 16.0)})
    detector = DidM3D(config).eval()
    plain = Letterbox(torch.ones(2), torch.zeros(2, 2), (160, 96))
    output = detector(Views(images(), cameras, plain))
    assert output.heads["heatmap"].shape[1] == 1
    found = detector.decode(output, Views(images(), cameras, plain))[0]
    assert found.classes == ("Tram",)
    torch.testing.assert_close(found.boxes_3d.dimensions[0], torch.tensor([3.5, 2.6, 16.0]), rtol=0.1, atol=0)
