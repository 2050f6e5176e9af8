"""The car's cameras and LiDAR, mounted as KITTI's are (Geiger et al., "Vision meets robotics", IJRR 2013)."""

import numpy as np

from monoskd.kitti.io import Calibration
from monoskd.synthetic.meshes import Floats

# KITTI's rectified colour images: 1242 x 375 at this focal length and principal point [px].
_WIDTH, _HEIGHT = 1242, 375
_FOCAL_PX, _CENTRE_U, _CENTRE_V = 721.5, 609.6, 172.9
_CAMERA_X_M = {"P0": 0.0, "P1": 0.537, "P2": -0.062, "P3": 0.471}  # of each camera, to the right of camera 0


def _small_rotation(x_deg: float, y_deg: float, z_deg: float) -> Floats:
    """Turns about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = (f(np.radians([x_deg, y_deg, z_deg])) for f in (np.cos, np.sin))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    rotation: Floats = about_z @ about_y @ about_x
    return rotation


# The LiDAR's x forward, y left, z up as the camera's x right, y down, z forward. It sits 8 cm above and 27 cm behind
# camera 0; the mounts are half a degree off, as real ones are, so that a forgotten rotation gives visible errors.
_AXES = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
R0_RECT = _small_rotation(0.25, -0.5, 0.55)
TR_VELO_TO_CAM = np.column_stack([_small_rotation(-0.4, 0.5, -0.4) @ _AXES, [0.0, -0.08, -0.27]])
TR_IMU_TO_VELO = np.column_stack([_small_rotation(0.8, 0.1, -0.05), [-0.81, 0.32, -0.80]])

CAMERA_FROM_LIDAR: Floats = R0_RECT @ TR_VELO_TO_CAM  # to the rectified camera frame
LIDAR_FROM_CAMERA: Floats = np.column_stack(
    [CAMERA_FROM_LIDAR[:, :3].T, -CAMERA_FROM_LIDAR[:, :3].T @ CAMERA_FROM_LIDAR[:, 3]]
)


def calibration(*, width: int, height: int, focal_px: float | None = None) -> Calibration:
    """KITTI's rig with images of width x height: the horizon at the same height.

    focal_px: its focal length; None: that of the same horizontal field of view.
    """
    focal = _FOCAL_PX * width / _WIDTH if focal_px is None else focal_px
    intrinsic = np.array([[focal, 0, _CENTRE_U * width / _WIDTH], [0, focal, _CENTRE_V * height / _HEIGHT], [0, 0, 1]])
    cameras = {name: np.column_stack([intrinsic, intrinsic @ [-x_m, 0.0, 0.0]]) for name, x_m in _CAMERA_X_M.items()}
    return Calibration(**cameras, R0_rect=R0_RECT, Tr_velo_to_cam=TR_VELO_TO_CAM, Tr_imu_to_velo=TR_IMU_TO_VELO)
