"""Checkpoints of the published MonoSKD, MonoDistill and DID-M3D implementations as networks of this library.

All of them store the same detector. A distillation checkpoint stores two (`centernet_rgb`, the student, and
`centernet_depth`, the teacher) beside adapters and fusion modules that no detector needs. Every tensor is
used, known to be unused, or named in an error.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from monoskd.models.account import (
    BATCH_NORM,
    UNUSED_OF_DLA,
    Account,
    convert_checkpoint,
    published_neck_name,
    shapes_of,
    sorted_tensors,
)
from monoskd.models.did_m3d.network import DidM3D, DidM3DConfig
from monoskd.objects import KITTI_MEAN_SIZES
from monoskd.structures import Modality

Part: TypeAlias = Literal["student", "teacher"]

IMPLEMENTATIONS = "MonoSKD, MonoDistill or DID-M3D"
CONVERTER = 1  # raised when the same checkpoint would give another model file

_MODALITY: dict[Part, Modality] = {"student": "rgb", "teacher": "depth"}
_NETWORK: dict[Part, str] = {"student": "centernet_rgb.", "teacher": "centernet_depth."}
_MEAN_SIZE = "mean_size"

# Our names, by prefix, to the published ones. The published backbone is timm's DLA-34 tensor by tensor.
_PUBLISHED = {
    _MEAN_SIZE: _MEAN_SIZE,
    "backbone.net.": "backbone.",
    "dense.heatmap.": "heatmap.",
    "dense.offset_2d.": "offset_2d.",
    "dense.size_2d.": "size_2d.",
    "regional.offset_3d.": "offset_3d.",
    "regional.size_3d.": "size_3d.",
    "regional.heading.": "heading.",
    "regional.visual_depth.": "vis_depth.",
    "regional.attribute_depth.": "att_depth.",
    "regional.visual_log_variance.": "vis_depth_uncer.",
    "regional.attribute_log_variance.": "att_depth_uncer.",
}

# Known tensors beside the networks, which are not used, by reason.
_UNUSED_BESIDE_NETWORKS = {
    "adapter of the distillation": r"adapt_layer(4|8|16|32)\.[02]\.(weight|bias)",
    "fusion module": rf"rgb_fs\.[0-3]\.(conv[12]\.0\.weight|conv[12]\.1\.{BATCH_NORM}|att_conv\.0\.(weight|bias))",
}


def fits(state: Mapping[str, Any]) -> bool:
    """Whether a published state dict is one of this detector, alone or in a distillation."""
    names = (str(name).removeprefix("module.") for name in state)
    return any(name == _MEAN_SIZE or name.startswith((*_NETWORK.values(), "feat_up.")) for name in names)


def convert(source: str | Path, out: str | Path, *, part: Part = "student") -> Account:
    """Write the published checkpoint `source` as the model file `out`.

    part: which network of a distillation checkpoint; of a checkpoint with one network, its role. Raises
    InputError for any other file, and for tensors that are missing, unknown or of another shape.
    """
    return convert_checkpoint(
        source, out, build=lambda state: from_published(state, part=part), part=part, converter=CONVERTER
    )


def from_published(state: Mapping[str, Any], *, part: Part = "student") -> tuple[DidM3D, Account]:
    """The detector that a published state dict describes, with its weights, and the account of the tensors."""
    with torch.device("meta"):
        network = DidM3D(DidM3DConfig(pretrained=False)).state_dict()
    shapes = shapes_of(network) | {_MEAN_SIZE: (3, 3)}
    names = {_published_name(name): name for name in shapes}
    holds_two = any(str(name).removeprefix("module.").startswith(tuple(_NETWORK.values())) for name in state)
    prefix = _NETWORK[part] if holds_two else ""
    tensors, unused = sorted_tensors(
        state,
        names={prefix + theirs: name for theirs, name in names.items()},
        shapes=shapes,
        unused=_unused_beside(prefix, names) if holds_two else UNUSED_OF_DLA,
        implementation=IMPLEMENTATIONS,
    )
    sizes = (tuple(size) for size in tensors[_MEAN_SIZE].double().tolist())
    config = DidM3DConfig(
        modality=_MODALITY[part],
        pretrained=False,
        mean_sizes=dict(zip(KITTI_MEAN_SIZES, sizes, strict=True)),
        geometry="published",
    )
    detector = DidM3D(config)
    weights = {name: tensor for name, tensor in tensors.items() if name != _MEAN_SIZE}
    detector.load_state_dict(weights, strict=False)  # batch counters may be missing, all else was checked above
    return detector.eval(), Account(used=len(tensors), unused=unused)


def _unused_beside(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """What a checkpoint of two networks holds beside the tensors of one, by reason: patterns of published names."""
    either = "|".join(re.escape(network) for network in _NETWORK.values())
    (other,) = set(_NETWORK.values()) - {prefix}
    return {
        **{reason: f"({either}){pattern}" for reason, pattern in UNUSED_OF_DLA.items()},
        **_UNUSED_BESIDE_NETWORKS,
        "the other network": f"{re.escape(other)}({'|'.join(map(re.escape, names))})",
    }


def _published_name(name: str) -> str:
    """The published name of a tensor of ours, within its network."""
    if neck := published_neck_name(name, neck="feat_up"):
        return neck
    prefix = next(prefix for prefix in _PUBLISHED if name.startswith(prefix))
    return _PUBLISHED[prefix] + name.removeprefix(prefix)
