"""3D boxes as KITTI writes them: bottom centre, (height, width, length), yaw about +y."""

from dataclasses import dataclass
from typing import Any

from monoskd.geometry.arrays import namespace

# Corners of the unit box in its own frame, as fractions of (length, height, width) along (x, y, z): the four of the
# bottom face in order around it, then the four above. The object faces +x.
_CORNERS_LHW = [
    [0.5, 0.0, 0.5],
    [0.5, 0.0, -0.5],
    [-0.5, 0.0, -0.5],
    [-0.5, 0.0, 0.5],
    [0.5, -1.0, 0.5],
    [0.5, -1.0, -0.5],
    [-0.5, -1.0, -0.5],
    [-0.5, -1.0, 0.5],
]


@dataclass(frozen=True)
class Boxes3D:
    """n boxes in the camera frame, numpy or torch.

    bottom: n x 3 [m], the centre of the bottom face; dimensions: n x 3 (h, w, l) [m]; yaw: n [rad], about +y.
    """

    bottom: Any
    dimensions: Any
    yaw: Any

    @classmethod
    def around(cls, centres: Any, dimensions: Any, yaw: Any) -> "Boxes3D":
        """The boxes with these geometric centres, n x 3 [m]: the inverse of `centres`."""
        half = namespace(centres).zeros_like(centres)
        half[..., 1] = dimensions[..., 0] / 2
        return cls(centres + half, dimensions, yaw)

    def __len__(self) -> int:
        return len(self.yaw)

    def __getitem__(self, index: Any) -> "Boxes3D":
        return Boxes3D(self.bottom[index], self.dimensions[index], self.yaw[index])

    @property
    def centres(self) -> Any:
        """n x 3 [m]: the boxes' geometric centres, half a height above the bottom (y points down)."""
        half = 0 * self.bottom
        half[..., 1] = self.dimensions[..., 0] / 2
        return self.bottom - half

    def corners(self) -> Any:
        """n x 8 x 3 [m]: bottom face in order around it, then the top; 0, 1, 4 and 5 belong to the front."""
        xp = namespace(self.bottom)
        unit = xp.asarray(_CORNERS_LHW, dtype=self.bottom.dtype)
        if xp.__name__ == "torch":
            unit = unit.to(self.bottom.device)
        local = unit * self.dimensions[..., None, [2, 0, 1]]
        cos, sin = xp.cos(self.yaw)[..., None], xp.sin(self.yaw)[..., None]
        x = cos * local[..., 0] + sin * local[..., 2]
        z = cos * local[..., 2] - sin * local[..., 0]
        return xp.stack([x, local[..., 1], z], -1) + self.bottom[..., None, :]
