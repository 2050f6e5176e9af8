"""Checkpoints of the published MonoDETR implementation as networks of this library."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monoskd.errors import InputError
from monoskd.models.account import Account, convert_checkpoint, listed, shapes_of, sorted_tensors
from monoskd.models.monodetr.config import MonoDETRConfig
from monoskd.models.monodetr.depth import bin_depths
from monoskd.models.monodetr.network import MonoDETR

IMPLEMENTATIONS = "MonoDETR"
CONVERTER = 1  # raised when the same checkpoint would give another model file

_DECODER = r"depthaware_transformer\.decoder\."
_UNUSED = {
    "layer that is never called": rf"{_DECODER}(query_scale|ref_point_head)\.layers\.[01]\.(weight|bias)"
    rf"|{_DECODER}layers\.\d\.sa_v_proj\.(weight|bias)|label_enc\.weight",
    "second copy": rf"{_DECODER}(bbox_embed|dim_embed)\..*",
    "depth of the bins": r"depth_predictor\.depth_bin_values",
}
_COPIES = {"bbox_embed": "bbox_embed", "dim_embed": "dim_embed_3d"}
_BINS = "depth_predictor.depth_bin_values"

# Our names to the published ones: the first pattern that matches the start of a name.
_PUBLISHED = (
    (r"backbone\.net\.", "backbone.0.body."),
    (r"projected\.(8|16|32|64)\.", lambda match: f"input_proj.{('8', '16', '32', '64').index(match[1])}."),
    (r"depth\.down\.", "depth_predictor.downsample."),
    (r"depth\.same\.", "depth_predictor.proj."),
    (r"depth\.up\.", "depth_predictor.upsample."),
    (r"depth\.mix\.", "depth_predictor.depth_head."),
    (r"depth\.classifier\.", "depth_predictor.depth_classifier."),
    (r"depth\.embedding\.", "depth_predictor.depth_pos_embed."),
    (r"depth\.attention\.attention\.", "depth_predictor.depth_encoder.layers.0.self_attn."),
    (r"depth\.attention\.norm\.", "depth_predictor.depth_encoder.layers.0.norm1."),
    (r"depth\.feed\.", "depth_predictor.depth_encoder.layers.0.feed.norm2."),
    (r"encoder\.(\d)\.attention\.", r"depthaware_transformer.encoder.layers.\1.self_attn."),
    (r"encoder\.(\d)\.norm\.", r"depthaware_transformer.encoder.layers.\1.norm1."),
    (r"encoder\.(\d)\.feed\.", r"depthaware_transformer.encoder.layers.\1.feed.norm2."),
    (r"decoder\.(\d)\.depth_attention\.", r"depthaware_transformer.decoder.layers.\1.cross_attn_depth."),
    (r"decoder\.(\d)\.depth_norm\.", r"depthaware_transformer.decoder.layers.\1.norm_depth."),
    (r"decoder\.(\d)\.(query|key)_content\.", lambda match: _self_attention(match, "content")),
    (r"decoder\.(\d)\.(query|key)_position\.", lambda match: _self_attention(match, "pos")),
    (r"decoder\.(\d)\.attention\.", r"depthaware_transformer.decoder.layers.\1.self_attn."),
    (r"decoder\.(\d)\.norm\.", r"depthaware_transformer.decoder.layers.\1.norm2."),
    (r"decoder\.(\d)\.places\.", r"depthaware_transformer.decoder.layers.\1.cross_attn."),
    (r"decoder\.(\d)\.places_norm\.", r"depthaware_transformer.decoder.layers.\1.norm1."),
    (r"decoder\.(\d)\.feed\.", r"depthaware_transformer.decoder.layers.\1.feed.norm3."),
    (r"level$", "depthaware_transformer.level_embed"),
    (r"reference\.", "depthaware_transformer.reference_points."),
    (r"queries\.", "query_embed."),
    (r"heads\.logits\.", "class_embed."),
    (r"heads\.boxes\.(\d)\.(\d)\.", lambda match: _perceptron("bbox_embed", match)),
    (r"heads\.size_3d\.(\d)\.(\d)\.", lambda match: _perceptron("dim_embed_3d", match)),
    (r"heads\.heading\.(\d)\.(\d)\.", lambda match: _perceptron("angle_embed", match)),
    (r"heads\.depth\.(\d)\.(\d)\.", lambda match: _perceptron("depth_embed", match)),
)
_DEFORMABLE = {
    "offsets.": "sampling_offsets.",
    "weights.": "attention_weights.",
    "value.": "value_proj.",
    "output.": "output_proj.",
}


def fits(state: Mapping[str, Any]) -> bool:
    """Whether a published state dict is one of this detector."""
    return any(str(name).removeprefix("module.").startswith("depthaware_transformer.") for name in state)


def convert(source: str | Path, out: str | Path, *, part: str = "student") -> Account:
    """Write the published checkpoint `source` as the model file `out`.

    Raises InputError for what is no such checkpoint, and for tensors that are missing, unknown or of another shape.
    """
    if part != "student":
        raise InputError(f"part: expected student, got {part}: a checkpoint of MonoDETR holds one network")
    return convert_checkpoint(source, out, build=from_published, converter=CONVERTER)


def from_published(state: Mapping[str, Any]) -> tuple[MonoDETR, Account]:
    """The detector that a published state dict describes, with its weights, and the account of the tensors."""
    config = MonoDETRConfig(pretrained=False, geometry="published")
    with torch.device("meta"):
        shapes = shapes_of(MonoDETR(config).state_dict())
    tensors, unused = sorted_tensors(
        state,
        names={published_name(name): name for name in shapes},
        shapes=shapes,
        unused=_UNUSED,
        implementation=IMPLEMENTATIONS,
    )
    _check_bins(state, config.depth_bins)
    _check_copies(state)
    detector = MonoDETR(config)
    detector.load_state_dict(tensors, strict=False)  # batch counters are missing, all else was checked above
    return detector.eval(), Account(used=len(tensors), unused=unused)


def published_name(name: str) -> str:
    """The published name of a tensor of ours."""
    pattern, start = next((pattern, start) for pattern, start in _PUBLISHED if re.match(pattern, name))
    theirs = re.sub(f"^{pattern}", start, name)
    norm = re.search(r"feed\.(norm\d)\.", theirs)
    if norm:
        theirs = theirs.replace(norm[0], "")
        theirs = re.sub(r"(first|second|norm)\.(\w+)$", lambda leaf: f"{_FEED[leaf[1]] or norm[1]}.{leaf[2]}", theirs)
    for ours, published in _DEFORMABLE.items():
        theirs = re.sub(rf"\.(self_attn|cross_attn)\.{re.escape(ours)}", rf".\1.{published}", theirs)
    return theirs


_FEED = {"first": "linear1", "second": "linear2", "norm": ""}


def _self_attention(match: re.Match[str], kind: str) -> str:
    return f"depthaware_transformer.decoder.layers.{match[1]}.sa_{match[2][0]}{kind}_proj."


def _perceptron(head: str, match: re.Match[str]) -> str:
    """A linear layer of a head: ours count the activations between them."""
    return f"{head}.{match[1]}.layers.{int(match[2]) // 2}."


def _check_bins(state: Mapping[str, Any], bins: int) -> None:
    """The checkpoint's table of depths must be the one that the network computes."""
    table = state.get(_BINS, state.get(f"module.{_BINS}"))
    expected = bin_depths(bins, near_edges=True)
    if not isinstance(table, Tensor) or table.shape != expected.shape or not table.is_floating_point():
        raise InputError(f"{_BINS}: expected {len(expected)} depths, got {_kind(table)}")
    rounding = max(1e-5, torch.finfo(table.dtype).eps)
    if not torch.allclose(table.float(), expected, rtol=rounding, atol=1e-6):
        raise InputError(
            f"{_BINS}: expected {bins} bins from {expected[0]:.3g} to {expected[-1]:.3g} m that grow linearly, "
            f"got {table[0]:.3g} to {table[-1]:.3g} m; this depth range is not supported"
        )


def _check_copies(state: Mapping[str, Any]) -> None:
    """The heads that the checkpoint stores twice must be the same."""
    bare = {str(name).removeprefix("module."): value for name, value in state.items()}
    different = []
    for name, value in bare.items():
        copy = re.fullmatch(rf"{_DECODER}(bbox_embed|dim_embed)\.(.*)", name)
        if copy is None:
            continue
        first = bare.get(f"{_COPIES[copy[1]]}.{copy[2]}")
        if not (isinstance(first, Tensor) and isinstance(value, Tensor) and torch.equal(first, value)):
            different.append(name)
    if different:
        raise InputError(f"expected the second copy of each head to equal the first, got another {listed(different)}")


def _kind(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
