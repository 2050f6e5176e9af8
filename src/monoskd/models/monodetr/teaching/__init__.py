"""The distillation terms that read MonoDETR's queries."""

from monoskd.models.monodetr.teaching.head import HeadLoss as HeadLoss
from monoskd.models.monodetr.teaching.response import ResponseLoss as ResponseLoss
