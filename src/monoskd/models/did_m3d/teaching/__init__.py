"""The distillation terms that read DID-M3D's heads, regions or targets."""

from monoskd.models.did_m3d.teaching.head import HeadLoss as HeadLoss
from monoskd.models.did_m3d.teaching.masks import Foreground as Foreground
from monoskd.models.did_m3d.teaching.objects import ObjectLoss as ObjectLoss
from monoskd.models.did_m3d.teaching.response import ResponseLoss as ResponseLoss
