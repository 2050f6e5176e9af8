"""What the parity tests share: recorded outputs of the original implementation and the weights they were made with."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from monoskd.geometry.camera import Camera, PublishedLetterbox
from monoskd.models.did_m3d.structures import HEAD_STRIDE, DidM3DTargets


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """The folder of recordings: MONOSKD_GOLDEN, or the one in the reference material."""
    folder = Path(os.environ.get("MONOSKD_GOLDEN", shared / "reference" / "golden"))
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}: set MONOSKD_GOLDEN")
    return folder


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed of the weights and inputs behind the recordings."""
    return int(os.environ.get("MONOSKD_GOLDEN_SEED", "0"))


@pytest.fixture(scope="session")
def named_state(shared: Path, seed: int, named_weights: ModuleType) -> Callable[[str], dict[str, Tensor]]:
    """`named_state("did" | "monoskd" | "monodistill")`: a state dict in the published names."""

    def state(network: str) -> dict[str, Tensor]:
        spec = json.loads((shared / "reference" / f"{network}_state.json").read_text())
        return dict(named_weights.named_state(spec, seed))

    return state


@pytest.fixture(scope="session")
def rgb_and_depth(seed: int, named_weights: ModuleType) -> tuple[Tensor, Tensor]:
    """The inputs of the recorded networks, normalised and of 3 channels: 2 x 3 x 128 x 416 each."""
    rgb = named_weights.named_input("rgb", (2, 3, 128, 416), seed)
    depth = named_weights.named_input("depth", (2, 3, 128, 416), seed).abs() * 0.3
    return rgb, depth


@pytest.fixture(scope="session")
def p2() -> Tensor:
    """The camera of the recorded networks: 3 x 4."""
    return torch.tensor(
        [[721.5377, 0.0, 609.5593, 44.85728], [0.0, 721.5377, 172.854, 0.2163791], [0.0, 0.0, 1.0, 0.002745884]]
    )


@pytest.fixture(scope="session")
def published_camera(p2: Tensor) -> Camera:
    """The same for both images of the batch, dividing by z instead of z + p23 as the original does: 2 x 3 x 4."""
    P = p2.clone()
    P[2, 3] = 0
    return Camera(P.expand(2, -1, -1))


@pytest.fixture(scope="session")
def published_letterbox() -> PublishedLetterbox:
    """What the recorded networks look at: 1242 x 375 pixels brought to 416 x 128, for both images of the batch."""
    one = PublishedLetterbox.of_region(centre=(621.0, 187.5), extent=(1242.0, 375.0), size=(416, 128))

    def both(value: Any) -> Tensor:
        tensor = torch.as_tensor(value, dtype=torch.float32)
        return tensor.expand(2, *tensor.shape)

    return PublishedLetterbox(both(one.scale), both(one.shift), one.size, both(one.region))


@pytest.fixture(scope="session")
def recorded_targets(golden: Path) -> DidM3DTargets:
    """The targets that the recorded losses were fed, without their empty slots."""
    with np.load(golden / "targets.npz") as file:
        slots = {name: torch.from_numpy(file[name]) for name in file}
    taken = slots["mask_2d"]
    columns = slots["heatmap"].shape[-1]
    index = slots["indices"][taken]
    return DidM3DTargets(
        heatmap=slots["heatmap"],
        image=taken.nonzero()[:, 0],
        cell=torch.stack([index % columns, index // columns], 1),
        label=slots["cls_ids"][taken],
        box_2d=slots["box2d_gt_head"][taken] / HEAD_STRIDE,  # recorded in network pixels
        offset_2d=slots["offset_2d"][taken],
        size_2d=slots["size_2d"][taken],
        offset_3d=slots["offset_3d"][taken],
        size_3d=slots["size_3d"][taken],
        heading_bin=slots["heading_bin"][taken].squeeze(1),
        heading_residual=slots["heading_res"][taken].squeeze(1),
        depth=slots["depth"][taken].squeeze(1),
        visual_depth=slots["vis_depth"][taken],
        attribute_depth=slots["att_depth"][taken],
        depth_mask=slots["depth_mask"][taken],
        unsupervised=slots["obj_num"] - taken.sum(1),
        weight=torch.ones(len(index)),
        labelled=torch.ones(len(taken), dtype=torch.bool),
    )
