"""MonoDETR (Zhang et al., "MonoDETR: Depth-guided Transformer for Monocular 3D Object Detection", ICCV 2023).

image -> backbone -> projections -> depth predictor; encoder; decoder: queries look at depth and maps.
With depth maps instead of images as input, the same network is a teacher.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # of all kinds, those of several devices too

from monoskd.errors import InputError
from monoskd.geometry.camera import PublishedLetterbox
from monoskd.models.backbone import Backbone, maps_by_name
from monoskd.models.heads import PreciseLinear
from monoskd.models.lens import LensDetector
from monoskd.models.monodetr.config import MonoDETRConfig
from monoskd.models.monodetr.decode import decode_queries
from monoskd.models.monodetr.depth import DepthPredictor
from monoskd.models.monodetr.heads import BoxScale, QueryHeads
from monoskd.models.monodetr.losses import task_losses
from monoskd.models.monodetr.matching import match
from monoskd.models.monodetr.structures import DEPTH_STRIDE, STRIDES, MonoDETROutput, MonoDETRTargets
from monoskd.models.monodetr.targets import make_targets
from monoskd.models.monodetr.transformer import DecoderLayer, EncoderLayer, cell_centres, position_code, start_xavier
from monoskd.models.settings import INPUT_MULTIPLE
from monoskd.objects import MIN_HEIGHT_PX
from monoskd.structures import Detections, PublishedData, TargetMaker, Views

_NORM_GROUPS = 32  # of GroupNorm
_FIRST = ("conv1", "layer1")  # of a ResNet, before the maps of stride 8


class MonoDETR(LensDetector):
    """The detector. Features by stride: `backbone.4` .. `backbone.32`, `projected.8` .. `projected.64`, the encoder's
    maps `neck.8` .. `neck.64`, and `depth.16`.

    Its heads are those of `QueryHeads`, b x queries x ..., with `depth` in metres, and `depth_map`, the logits of depth
    bins, b x bins x v x u.
    """

    config: MonoDETRConfig
    input_multiple = INPUT_MULTIPLE

    def __init__(self, config: MonoDETRConfig | None = None) -> None:
        config = config or MonoDETRConfig()
        super().__init__(config)
        self.quirks = config.active_quirks
        self.backbone = Backbone(
            config.backbone,
            pretrained=config.pretrained,
            arguments=config.backbone_arguments,
            input_channels=self.input_channels,
        )
        self.projected = _projections(self.backbone.channels[1:], config.width)
        self.neck = nn.ModuleDict({str(stride): nn.Identity() for stride in STRIDES})  # for hooks on the encoder's maps
        sizes: Mapping[str, Any] = {"heads": config.heads, "hidden": config.hidden, "dropout": config.dropout}
        self.depth = DepthPredictor(
            config.width,
            bins=config.depth_bins,
            groups=_NORM_GROUPS,
            near_edges="near_edge_bins" in self.quirks,
            **sizes,
        )
        looks = {**sizes, "levels": len(STRIDES), "points": config.points}
        self.encoder = nn.ModuleList(EncoderLayer(config.width, **looks) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config.width, **looks) for _ in range(config.decoder_layers))
        self.level = nn.Parameter(torch.randn(len(STRIDES), config.width))
        self.queries = nn.Embedding(config.queries * config.groups, 2 * config.width)  # position, then content
        self.reference = PreciseLinear(config.width, 2)
        self.heads = QueryHeads(config.width, classes=len(config.classes), layers=config.decoder_layers)
        self._start()

    def _start(self) -> None:
        start_xavier([*self.encoder, *self.decoder, self.depth.attention, self.depth.feed, self.reference])
        nn.init.zeros_(self.reference.bias)
        if "small_start" not in self.quirks:
            sizes = torch.tensor([self.config.mean_sizes[name] for name in self.classes])
            self.heads.start_at(depth_m=self.config.initial_depth_m, size=sizes.mean(0))
        if self.config.frozen:
            _freeze(self.backbone.net)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As always; a frozen backbone's BatchNorm stays in evaluation mode."""
        super().train(mode)
        if self.config.frozen:
            for module in self.backbone.net.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    @property
    def lens_blind(self) -> bool:
        """Whether depths are predicted as if every picture were taken through one lens."""
        return "lens_blind_depth" in self.quirks

    def magnification(self, views: Views) -> Float[Tensor, " b"]:
        """k, by which apparent depths are multiplied; the zoom of the crop alone if `lens_blind_depth`."""
        if self.lens_blind and isinstance(views.letterbox, PublishedLetterbox):
            return 1 / torch.as_tensor(views.letterbox.crop_scale).to(views.images)
        return super().magnification(views)

    def box_scale(self, views: Views) -> BoxScale:
        """How a box's height gives an apparent depth: through the reference lens, in network pixels.

        With one letterbox scale for both axes that is the same as any lens in its own pixels. As published: the
        picture's lens and height, whatever the crop.
        """
        ones = views.images.new_ones(views.images.shape[0])
        box = views.letterbox
        if self.lens_blind and isinstance(box, PublishedLetterbox):
            height_px = torch.as_tensor(box.picture)[..., 1].to(ones).expand_as(ones)
            return BoxScale(views.cameras.focal_px.to(ones), height_px)
        if self.lens_blind:
            return BoxScale(views.cameras.focal_px.to(ones) * torch.as_tensor(box.scale).to(ones), ones * box.size[1])
        return BoxScale(ones * self.reference_focal_px, ones * box.size[1])

    def forward(self, views: Views, at: Any = None) -> MonoDETROutput:
        """Run on pictures or depth maps. In training all groups of queries, else the first."""
        return self.forward_normalised(self.normalise(views), self.magnification(views), self.box_scale(views))

    def forward_normalised(
        self, inputs: Float[Tensor, "b c h w"], k: Float[Tensor, " b"], scale: BoxScale
    ) -> MonoDETROutput:
        """`forward` for normalised inputs."""
        backbone = self.backbone(inputs)
        projected = self._project(backbone)
        depth = self.depth(list(projected.values())[:3])
        neck = self._encode(projected)
        groups = self.config.groups if self.training else 1
        said = self._decode(neck, depth, groups=groups, scale=scale)
        for heads in said:
            heads["depth"] = heads["depth"] * k[:, None, None].to(heads["depth"])
        of_depth = {str(DEPTH_STRIDE): depth["features"]}
        features = maps_by_name(backbone=backbone, projected=projected, neck=neck, depth=of_depth)
        earlier = {str(number): heads for number, heads in enumerate(said[:-1])}
        return MonoDETROutput(features, said[-1] | {"depth_map": depth["logits"]}, earlier, groups)

    def _project(self, backbone: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Maps of the transformer's width at strides 8 to 64; the last from the backbone's last."""
        sources = [backbone[str(min(stride, 32))] for stride in STRIDES]
        return {name: layer(x) for (name, layer), x in zip(self.projected.items(), sources, strict=True)}

    def _encode(self, projected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same maps, after every cell has looked at all of them."""
        shapes = [_shape(x) for x in projected.values()]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in projected.values()], 1)
        codes = [position_code(*shape, width=self.config.width, like=tokens) for shape in shapes]
        position = torch.cat([code + level for code, level in zip(codes, self.level, strict=True)])
        reference = cell_centres(shapes, like=tokens).expand(tokens.shape[0], -1, -1)
        for layer in self.encoder:
            tokens = layer(tokens, position=position.to(tokens), reference=reference, shapes=shapes)
        maps = torch.split(tokens.transpose(1, 2), [rows * columns for rows, columns in shapes], 2)
        return {
            name: self.neck[name](x.reshape(*x.shape[:2], *shape))
            for name, x, shape in zip(projected, maps, shapes, strict=True)
        }

    def _decode(
        self, neck: Mapping[str, Tensor], depth: Mapping[str, Tensor], *, groups: int, scale: BoxScale
    ) -> list[dict[str, Tensor]]:
        """What the queries say after each layer."""
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in neck.values()], 1)
        shapes = [_shape(x) for x in neck.values()]
        chosen = self.queries.weight[: groups * self.config.queries].expand(tokens.shape[0], -1, -1)
        position, x = chosen.to(tokens).chunk(2, -1)
        reference = self.reference(position).sigmoid()
        said = []
        for number, layer in enumerate(self.decoder):
            x = layer(
                x,
                position=position,
                reference=reference,
                tokens=tokens,
                shapes=shapes,
                depth_tokens=depth["tokens"],
                groups=groups,
            )
            said.append(self.heads(number, x, reference=reference, mean_depth=depth["mean"], scale=scale))
            reference = said[-1]["boxes"].detach()
        return said

    def loss(self, output: MonoDETROutput, targets: MonoDETRTargets) -> dict[str, Tensor]:
        """Task losses by name, each over all decoder layers and with its published weight; see `task_losses`."""
        return task_losses(output, targets)

    def decode(self, output: MonoDETROutput, views: Views) -> list[Detections]:
        """Detections of each image, best first, in original pixels and metres; of the first group of queries."""
        detections, image = self._detections(output, views)
        return detections.by_image(image, images=len(views), any_size="negative_sizes" in self.quirks)

    def candidates(self, output: MonoDETROutput, views: Views) -> Detections:
        """The `top_k` pairs of query and class of each image, laid flat; score -1: `decode` drops it."""
        detections, _ = self._detections(output, views)
        return detections if "negative_sizes" in self.quirks else detections.marked(detections.is_real)

    def _detections(self, output: MonoDETROutput, views: Views) -> tuple[Detections, Tensor]:
        """The best pairs of query and class, and the image of each."""
        return decode_queries(
            {name: head[:, : self.config.queries] for name, head in output.heads.items() if name != "depth_map"},
            views,
            magnification=self.magnification(views),
            classes=self.classes,
            top_k=self.config.top_k,
            bounded_score="unbounded_score" not in self.quirks,
            box_alpha="box_alpha" in self.quirks,
        )

    def target_maker(
        self, *, min_height_px: float = MIN_HEIGHT_PX, published: PublishedData | None = None
    ) -> TargetMaker:
        """`make_targets` for these classes. `published` makes no difference: the quirks are the detector's own."""
        return partial(
            make_targets,
            classes=self.classes,
            max_depth_m=self.config.max_depth_m,
            reference_focal_px=self.reference_focal_px,
            bins=self.config.depth_bins,
            quirks=self.quirks,
            min_height_px=min_height_px,
        )

    def metrics(self, output: MonoDETROutput, targets: MonoDETRTargets, views: Views) -> dict[str, Tensor]:
        """depth_error_m: |z - true z| of the query matched to each labelled object; without those beyond `queries`."""
        query, row = match(output.heads, targets, groups=1)
        order = row.argsort()
        query, row = query[order], row[order]
        depth = output.heads["depth"][targets.image[row], query, 0]
        return {"depth_error_m": (depth - targets.depth[row]).abs()}


def _projections(channels: tuple[int, ...], width: int) -> nn.ModuleDict:
    """A convolution and GroupNorm for each of the maps at strides 8, 16 and 32, and one to stride 64."""
    layers = [nn.Conv2d(inputs, width, 1) for inputs in channels]
    layers.append(nn.Conv2d(channels[-1], width, 3, stride=2, padding=1))
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.ModuleDict(
        {
            str(stride): nn.Sequential(layer, nn.GroupNorm(_NORM_GROUPS, width))
            for stride, layer in zip(STRIDES, layers, strict=True)
        }
    )


def _freeze(net: nn.Module) -> None:
    """No gradient for the BatchNorm layers, nor for what comes before the maps of stride 8: stem and first stage."""
    modules = dict(net.named_modules())
    if not set(_FIRST) <= set(modules):
        raise InputError("frozen: expected a ResNet, whose first stage is known, got another backbone; set it to false")
    for name, module in modules.items():
        if isinstance(module, _BatchNorm) or name in _FIRST:
            module.requires_grad_(False)


def _shape(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]
