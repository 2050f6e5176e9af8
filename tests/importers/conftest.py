"""Small recordings in each format, rendered by nobody: grey pictures and a wall of LiDAR points."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

SIZE = (320, 180)
INTRINSICS = [[200.0, 0, 160], [0, 200, 90], [0, 0, 1]]
Edit = Callable[[dict[str, list[dict[str, Any]]]], None]


def wxyz(rotation: Rotation) -> list[float]:
    x, y, z, w = rotation.as_quat().tolist()
    return [w, x, y, z]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(crc32(path.name.encode())).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    Image.fromarray(noise).save(path)  # no two pictures alike: copies of validation frames are refused


class NuscenesFolder:
    """A recording of `scenes` scenes, two samples each, a front camera, a LiDAR, one camera sweep between samples.

    The car drives 5 m/s along the global y axis; a parked car stands 20 m ahead of its place at time 0.
    """

    def __init__(self, root: Path, *, scenes: tuple[str, ...] = ("scene-a", "scene-b")) -> None:
        self.root, self.version = root, root / "v1.0-own"
        self.tables: dict[str, list[dict[str, Any]]] = {
            "scene": [],
            "sample": [],
            "sample_data": [],
            "ego_pose": [],
            "calibrated_sensor": [
                {"token": "cam", "sensor_token": "front", "translation": [1.0, 0, 1.5], "camera_intrinsic": INTRINSICS}
                | {"rotation": wxyz(Rotation.from_matrix([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]))},
                {"token": "lid", "sensor_token": "top", "translation": [0.5, 0, 2.0], "camera_intrinsic": []}
                | {"rotation": wxyz(Rotation.from_euler("z", -90, degrees=True))},
            ],
            "sensor": [
                {"token": "front", "channel": "CAM_FRONT", "modality": "camera"},
                {"token": "top", "channel": "LIDAR_TOP", "modality": "lidar"},
            ],
            "sample_annotation": [],
            "instance": [{"token": "parked", "category_token": "car"}, {"token": "bike", "category_token": "bike"}],
            "category": [{"token": "car", "name": "vehicle.car"}, {"token": "bike", "name": "vehicle.bicycle"}],
            "attribute": [
                {"token": "with", "name": "cycle.with_rider"},
                {"token": "without", "name": "cycle.without_rider"},
            ],
        }
        for index, name in enumerate(scenes):
            self._scene(index, name)
        self.write()

    def _scene(self, index: int, name: str) -> None:
        self.tables["scene"].append({"token": f"s{index}", "name": name})
        for step in range(2):
            at = index * 10_000_000 + step * 500_000
            sample = f"s{index}-{step}"
            self.tables["sample"].append({"token": sample, "timestamp": at, "scene_token": f"s{index}"})
            self._reading("cam", at - 50_000, sample, key=True)
            self._reading("lid", at, sample, key=True)
            for what, token, attribute, x in (("parked", "1", [], 0.0), ("bike", "4", ["with"], 4.0)):
                self.tables["sample_annotation"].append(
                    {"token": f"{sample}-{what}", "sample_token": sample, "instance_token": what}
                    | {"visibility_token": token, "attribute_tokens": attribute, "num_lidar_pts": 0 if x else 9}
                    | {"translation": [x, at * 5e-6 + 20, 0.8], "size": [1.8, 4.2, 1.6]}
                    | {"rotation": wxyz(Rotation.from_euler("z", 90, degrees=True))}
                )
        self._reading("cam", index * 10_000_000 + 250_000, f"s{index}-1", key=False)
        self._reading("lid", index * 10_000_000 + 260_000, f"s{index}-1", key=False)

    def _reading(self, sensor: str, at: int, sample: str, *, key: bool) -> None:
        token, folder = f"{sensor}{at}", "samples" if key else "sweeps"
        name = f"{folder}/{sensor}/{at}.{'jpg' if sensor == 'cam' else 'pcd.bin'}"
        forward = Rotation.from_euler("z", 90, degrees=True)
        self.tables["ego_pose"].append({"token": token, "rotation": wxyz(forward), "translation": [0, at * 5e-6, 0]})
        self.tables["sample_data"].append(
            {"token": token, "sample_token": sample, "ego_pose_token": token, "calibrated_sensor_token": sensor}
            | {"timestamp": at, "is_key_frame": key, "width": SIZE[0], "height": SIZE[1], "filename": name}
        )
        path = self.root / name
        if sensor == "cam":
            picture(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            wall = np.array([[x, 18.0, z, 128, 3] for x in range(-9, 10) for z in range(-2, 3)], "<f4")
            wall[:, 2] += 1e-9 * at  # no two sweeps alike
            path.write_bytes(wall.tobytes())

    def edit(self, change: Edit) -> None:
        change(self.tables)
        self.write()

    def write(self) -> None:
        self.version.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            (self.version / f"{name}.json").write_text(json.dumps(rows))


@pytest.fixture
def nuscenes(tmp_path: Path) -> NuscenesFolder:
    return NuscenesFolder(tmp_path / "nuscenes")
