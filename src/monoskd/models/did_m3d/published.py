"""Checkpoints of the published MonoSKD, MonoDistill and DID-M3D implementations as networks of this library.

All of them store the same detector. A distillation checkpoint stores two (`centernet_rgb`, the student, and
`centernet_depth`, the teacher) beside adapters and fusion modules that no detector needs. Every tensor is
used, known to be unused, or named in an error.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from monoskd.errors import InputError
from monoskd.models.account import BATCH_NORM, Account, convert_checkpoint, listed
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
_NECK = re.compile(r"neck\.rounds\.(\d)\.(project|up|node)\.(\d)\.(0\.|1\.|)(\w+)")
_NECK_LAYERS = {"0.": "conv.", "1.": "bn.", "": ""}

# Known tensors that are not used, by reason.
_UNUSED_IN_NETWORK = {
    "ImageNet classifier": r"backbone\.fc\.(weight|bias)",
    "projection that the backbone never calls": rf"backbone\.level[34]\.project\.(0\.weight|1\.{BATCH_NORM})",
}
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
    shapes = {name: tuple(tensor.shape) for name, tensor in network.items()} | {_MEAN_SIZE: (3, 3)}
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    prefix = _NETWORK[part] if any(name.startswith(tuple(_NETWORK.values())) for name in state) else ""
    tensors, unused = _sorted_out(state, names={_published_name(name): name for name in shapes}, prefix=prefix)

    absent = [prefix + _published_name(name) for name in shapes if name not in tensors and not _is_counter(name)]
    if absent:
        raise InputError(f"missing {listed(absent)}; is this a whole checkpoint of a {part}?")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            theirs = prefix + _published_name(name)
            raise InputError(f"{theirs}: expected shape {shapes[name]}, got {tuple(tensor.shape)}")

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


def _sorted_out(
    state: Mapping[str, Any], *, names: Mapping[str, str], prefix: str
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The tensors under `prefix` by our names, and the count of the others by reason.

    names: the published names within a network, to ours. Raises InputError for unknown names.
    """
    used: dict[str, Tensor] = {}
    unused: Counter[str] = Counter()
    unknown: list[str] = []
    networks = tuple(_NETWORK.values()) if prefix else ("",)
    for name, value in state.items():
        network = next((network for network in networks if name.startswith(network)), None)
        bare = name.removeprefix(network or "")
        known_unused = _UNUSED_BESIDE_NETWORKS if network is None else _UNUSED_IN_NETWORK
        reason = next((reason for reason, pattern in known_unused.items() if re.fullmatch(pattern, bare)), None)
        if reason is not None:
            unused[reason] += 1
        elif network is None or bare not in names or not isinstance(value, Tensor):
            unknown.append(name)
        elif network != prefix:
            unused["the other network"] += 1
        else:
            used[names[bare]] = value
    if unknown:
        raise InputError(f"unknown {listed(unknown)}; expected a checkpoint of {IMPLEMENTATIONS}")
    return used, dict(unused)


def _published_name(name: str) -> str:
    """The published name of a tensor of ours, within its network."""
    neck = _NECK.fullmatch(name)
    if neck:
        number, block, merge, layer, leaf = neck.groups()
        theirs = block.replace("project", "proj")
        return f"feat_up.ida_{number}.{theirs}_{int(merge) + 1}.{_NECK_LAYERS[layer]}{leaf}"
    prefix = next(prefix for prefix in _PUBLISHED if name.startswith(prefix))
    return _PUBLISHED[prefix] + name.removeprefix(prefix)


def _is_counter(name: str) -> bool:
    """Old versions of PyTorch did not store how many batches a BatchNorm has seen; nothing here reads it."""
    return name.endswith(".num_batches_tracked")
