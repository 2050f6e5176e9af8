"""What the network says in evaluation mode, against recordings of the original implementation."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from monoskd.models.heads import depth_m
from monoskd.models.heatmap import at_cells, peaks
from monoskd.models.monodle import MonoDLE
from monoskd.structures import Batch, DetectorOutput

Arrays = dict[str, np.ndarray]
RELATIVE = 1e-4
HEADS = ("heatmap", "offset_2d", "size_2d", "depth", "offset_3d", "size_3d", "heading")


@pytest.fixture(scope="module")
def small(detector: MonoDLE, named_weights: ModuleType, seed: int) -> DetectorOutput:
    with torch.inference_mode():
        return everywhere(detector, named_weights.named_input("rgb", (2, 3, 128, 416), seed), torch.ones(2))


@pytest.fixture(scope="module")
def real(detector: MonoDLE, recorded: Callable[[str], Arrays], batch_of: Callable[[object], Batch]) -> DetectorOutput:
    views = batch_of(recorded("losses_plain")["frames"]).views("rgb")
    with torch.inference_mode():
        return everywhere(detector, detector.normalise(views), detector.magnification(views))


def everywhere(detector: MonoDLE, inputs: Tensor, k: Tensor) -> DetectorOutput:
    """What it says, with whole maps of all heads."""
    output = detector.forward_normalised(inputs, k)
    return DetectorOutput(output.features, detector.heads(output.features["neck.4"], k))


def raw(output: DetectorOutput, name: str) -> Tensor:
    """A head as the original has it: depth before its activation, with the log-deviation."""
    if name != "depth":
        return output.heads[name]
    sigmoid = 1 / (output.heads["depth"].double() + 1) - 1e-6
    return torch.cat([torch.logit(sigmoid), output.heads["depth_log_std"].double()], 1)


def close(ours: Tensor, theirs: np.ndarray, *, relative: float = RELATIVE) -> None:
    """Equal to a fraction of the recording's largest value."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * np.abs(theirs).max())


@pytest.mark.parametrize("name", HEADS)
def test_a_head_repeats_the_recording(name: str, small: DetectorOutput, recorded: Callable[[str], Arrays]) -> None:
    close(raw(small, name)[:, :, ::4, ::4], recorded("inference_small")[f"head_{name}"])


@pytest.mark.parametrize("name", HEADS)
def test_a_head_repeats_the_recording_in_double_precision(
    name: str,
    new_detector: Callable[[], MonoDLE],
    named_weights: ModuleType,
    seed: int,
    recorded: Callable[[str], Arrays],
) -> None:
    inputs = named_weights.named_input("rgb", (2, 3, 128, 416), seed).double()
    with torch.inference_mode():
        output = everywhere(new_detector().double(), inputs, torch.ones(2))
    close(raw(output, name)[:, :, ::4, ::4], recorded("inference_small_f64")[f"head_{name}_f64"], relative=1e-7)


def test_the_neck_repeats_the_recording(small: DetectorOutput, recorded: Callable[[str], Arrays]) -> None:
    close(small.features["neck.4"][:, :, ::8, ::8], recorded("inference_small")["neck_stride4"])


@pytest.mark.kitti
@pytest.mark.parametrize("name", HEADS)
def test_a_head_on_real_frames_repeats_the_recording(
    name: str, real: DetectorOutput, recorded: Callable[[str], Arrays]
) -> None:
    step = 8 if name == "heading" else 4
    close(raw(real, name)[:, :, ::step, ::step], recorded("inference")[f"head_{name}"])


@pytest.mark.kitti
def test_features_of_real_frames_repeat_the_recording(real: DetectorOutput, recorded: Callable[[str], Arrays]) -> None:
    for stride, step in ((4, 16), (8, 8), (16, 4), (32, 4)):
        theirs = recorded("inference")[f"backbone_stride{stride}"]
        close(real.features[f"backbone.{stride}"][:1, :, ::step, ::step], theirs)
    close(real.features["neck.4"][:, :, ::16, ::16], recorded("inference")["neck_stride4"])


def _rows(output: DetectorOutput, *, count: int) -> tuple[Tensor, Tensor]:
    """The recorded columns of the best cells, and their image."""
    best = peaks(output.heads["heatmap"].sigmoid(), count=count)
    at = {name: at_cells(head, best) for name, head in output.heads.items()}
    columns = [best.label[:, None], best.heat[:, None], best.cell + at["offset_2d"], at["size_2d"], at["depth"]]
    columns += [at["heading"], at["size_3d"], best.cell + at["offset_3d"], torch.exp(-at["depth_log_std"])]
    return torch.cat(columns, 1), best.image


@pytest.fixture
def named(named_heads: Callable[[int], dict[str, Tensor]], recorded: Callable[[str], Arrays]) -> DetectorOutput:
    """Given heads instead of a network's."""
    heads = {name: head.detach() for name, head in named_heads(len(recorded("losses_named_plain")["frames"])).items()}
    depth, log_std = heads["depth"].split(1, 1)
    return DetectorOutput({}, heads | {"depth": depth_m(depth), "depth_log_std": log_std})


@pytest.mark.parametrize(
    ("case", "file"), [("small", "inference_small"), ("real", "inference"), ("named", "losses_named_plain")]
)
def test_the_best_cells_repeat_the_recording(
    case: str, file: str, recorded: Callable[[str], Arrays], request: pytest.FixtureRequest
) -> None:
    theirs = torch.from_numpy(recorded(file)["detections"])
    ours, image = _rows(request.getfixturevalue(case), count=theirs.shape[1])
    for number, expected in enumerate(theirs):
        rows = ours[image == number]
        other = (expected[:, :1] != rows[:, 0]).float()  # rows of near-equal heat may change places
        order = (torch.cdist(expected[:, 2:6], rows[:, 2:6]) + 1e6 * other).argmin(1)
        assert len(order.unique()) == len(rows)
        np.testing.assert_allclose(rows[order], expected, rtol=RELATIVE, atol=RELATIVE)
