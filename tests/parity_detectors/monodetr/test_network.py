"""What the network says in evaluation mode, against recordings of the original implementation."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from monoskd.models.monodetr import MonoDETR
from monoskd.models.monodetr.heads import BoxScale
from monoskd.models.monodetr.structures import MonoDETROutput
from monoskd.structures import Batch

Arrays = dict[str, np.ndarray]
RELATIVE = 3e-4  # single precision: the transformer enlarges its rounding
HEADS = {"pred_logits": ["logits"], "pred_boxes": ["boxes"], "pred_3d_dim": ["size_3d"]}
HEADS |= {"pred_depth": ["depth", "depth_log_std"], "pred_angle": ["heading"]}


def layers(output: MonoDETROutput) -> dict[str, dict[str, Tensor]]:
    """The heads of every layer by the prefix of the recorded names."""
    return {f"aux_{number}_": heads for number, heads in output.earlier.items()} | {"": output.heads}


def compare(output: MonoDETROutput, recorded: Arrays, *, suffix: str = "", relative: float = RELATIVE) -> int:
    """Every recorded head equals ours to a fraction of its largest value; how many there are."""
    compared = 0
    for prefix, heads in layers(output).items():
        for name, ours in HEADS.items():
            theirs = recorded.get(f"{prefix}{name}{suffix}")
            if theirs is not None:
                said = torch.cat([heads[head] for head in ours], -1)
                np.testing.assert_allclose(
                    said, theirs, rtol=0, atol=relative * np.abs(theirs).max(), err_msg=prefix + name
                )
                compared += 1
    return compared


def small(detector: MonoDETR, named_weights: ModuleType, seed: int, dtype: torch.dtype) -> MonoDETROutput:
    inputs, ones = named_weights.named_input("rgb", (2, 3, 128, 416), seed).to(dtype), torch.ones(2, dtype=dtype)
    with torch.inference_mode():
        return detector.forward_normalised(inputs, ones, BoxScale(721.5377 * ones, 375 * ones))


def test_the_network_repeats_the_recording(
    detector: MonoDETR, named_weights: ModuleType, seed: int, recorded: Callable[[str], Arrays]
) -> None:
    output, arrays = small(detector, named_weights, seed, torch.float32), recorded("inference_small")
    assert compare(output, arrays) == 13
    theirs = arrays["pred_depth_map_logits"]
    ours = output.heads["depth_map"][:, :, ::2, ::2]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=RELATIVE * np.abs(theirs).max())
    mean = (output.heads["depth_map"].softmax(1) * detector.depth.depths[:, None, None]).sum(1)
    np.testing.assert_allclose(mean, arrays["weighted_depth"], rtol=0, atol=0.01)


def test_the_network_repeats_the_recording_in_double_precision(
    new_detector: Callable[[], MonoDETR], named_weights: ModuleType, seed: int, recorded: Callable[[str], Arrays]
) -> None:
    output = small(new_detector().double(), named_weights, seed, torch.float64)
    arrays = recorded("inference_small_f64")
    assert compare(output, arrays, suffix="_f64", relative=1e-5) == 13
    theirs = arrays["pred_depth_map_logits_f64"]
    ours = output.heads["depth_map"][:, :, ::2, ::2]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.fixture(scope="module")
def real(detector: MonoDETR, recorded: Callable[[str], Arrays], batch_of: Callable[[object], Batch]) -> MonoDETROutput:
    with torch.inference_mode():
        return detector(batch_of(recorded("losses_plain")["frames"]).views("rgb"))


@pytest.mark.kitti
@pytest.mark.slow
def test_real_frames_repeat_the_recording(real: MonoDETROutput, recorded: Callable[[str], Arrays]) -> None:
    arrays = recorded("inference")
    assert compare(real, arrays) == 15
    theirs = arrays["pred_depth_map_logits"]
    np.testing.assert_allclose(
        real.heads["depth_map"][:, :, ::4, ::4], theirs, rtol=0, atol=RELATIVE * np.abs(theirs).max()
    )


@pytest.mark.kitti
@pytest.mark.slow
def test_features_of_real_frames_repeat_the_recording(real: MonoDETROutput, recorded: Callable[[str], Arrays]) -> None:
    arrays = recorded("inference")
    ours = {}
    for number, (stride, step) in enumerate(((8, 16), (16, 8), (32, 4), (64, 2))):
        ours[f"src_{number}"] = real.features[f"projected.{stride}"][:1, :, ::step, ::step]
        if stride < 64:
            ours[f"backbone_stride{stride}"] = real.features[f"backbone.{stride}"][:1, ::8, ::step, ::step]
    neck = [real.features[f"neck.{stride}"][:1].flatten(2).transpose(1, 2) for stride in (8, 16, 32, 64)]
    ours["memory"] = torch.cat(neck, 1)[:, ::96]
    for name, value in ours.items():
        theirs = arrays[name]
        np.testing.assert_allclose(value, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max(), err_msg=name)
