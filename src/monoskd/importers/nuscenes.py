"""nuScenes' v1.0 tables: every camera's key frames with labels, its sweeps as frames without.

Each sensor reading has an ego pose of its own. A camera fires up to 0.1 s before the LiDAR, in which a car moves by
more than a metre; so a point goes LiDAR -> ego (LiDAR's time) -> global -> ego (camera's time) -> camera.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monoskd.errors import InputError
from monoskd.files import read_bytes
from monoskd.geometry.camera import Camera
from monoskd.images import read_image_size
from monoskd.importers.boxes import Floats, OrientedBoxes, inverse, label, tilt_deg
from monoskd.importers.nuscenes_splits import split_of
from monoskd.importers.nuscenes_tables import Tables, numbers, rigid, version_folder, whole
from monoskd.importers.recording import ClassMap, Frame, Picture, Recording
from monoskd.kitti.io import Calibration

CLASSES: dict[str, str | None] = {
    "vehicle.car": "Car",
    "vehicle.truck": "Truck",
    "vehicle.bus.*": "Misc",
    "vehicle.construction": "Misc",
    "vehicle.trailer": "Misc",
    "vehicle.emergency.*": "Misc",
    "vehicle.bicycle/cycle.with_rider": "Cyclist",
    "vehicle.motorcycle/cycle.with_rider": "Cyclist",
    "vehicle.bicycle": None,
    "vehicle.motorcycle": None,
    "human.pedestrian.personal_mobility": "Misc",
    "human.pedestrian.stroller": "Misc",
    "human.pedestrian.wheelchair": "Misc",
    "human.pedestrian.*": "Pedestrian",
    "animal": None,
    "movable_object.*": None,
    "static_object.*": None,
}
"""KITTI's classes; nuScenes has no vans. A key with an attribute behind the slash goes before one without."""

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
OCCLUSION = {"4": 0, "3": 1, "2": 1, "1": 2, "": 3}  # of a visibility token; "" is unknown
MOST_LAG_US = 100_000  # between a camera's picture and the sweep that belongs to it
_NUMBERS_A_SAMPLE = 10  # 000013 is camera 3 of sample 1
_POINT_BYTES = 20  # x, y, z, intensity, ring, float32
_LARGEST_INTENSITY = 255.0
_TO_KITTI_AXES = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # from x right, y forward


@dataclass(frozen=True)
class Annotations:
    """The labelled boxes of one sample in the global frame. names: of each, the most specific first."""

    names: Sequence[tuple[str, ...]]
    boxes: OrientedBoxes
    occlusion: NDArray[np.int64]
    points: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class NuscenesPicture(Picture):
    """A camera's picture. All transforms are 4 x 4, rigid, in metres.

    intrinsics: 3 x 3; size: (width, height) of the tables; velo_to_global: from KITTI's axes.
    """

    intrinsics: Floats
    size: tuple[int, int]
    global_to_camera: Floats
    velo_to_global: Floats = field(default_factory=lambda: np.eye(4))
    ego_to_velo: Floats = field(default_factory=lambda: np.eye(4))
    annotations: Annotations | None = None

    def read(self, classes: ClassMap) -> Frame:
        """Project what is annotated at the sample's time into the picture, at the picture's time."""
        if (size := read_image_size(self.image)) != self.size:
            raise InputError(
                f"{self.image}: expected {self.size[0]} x {self.size[1]} pixels as sample_data.json says, got "
                f"{size[0]} x {size[1]}: the calibration is for the former, put the original back"
            )
        P = np.column_stack([self.intrinsics, np.zeros(3)])
        calibration = Calibration(
            *(P, P, P, P, np.eye(3)),
            Tr_velo_to_cam=(self.global_to_camera @ self.velo_to_global)[:3],
            Tr_imu_to_velo=self.ego_to_velo[:3],
        )
        tilt = tilt_deg(self.global_to_camera[:3, 2])
        known = self.annotations
        if known is None:
            return Frame(calibration, tilt_deg=tilt)
        boxes = known.boxes.moved(self.global_to_camera)
        labels = label(boxes, known.names, known.occlusion, classes=classes, camera=Camera(P), size=size)
        unhit = int((known.points[labels.index] == 0).sum())
        noted = {"objects without a LiDAR return": unhit} if unhit else {}
        return Frame(calibration, labels.objects, tilt, labels.left_out, noted)

    def points(self) -> NDArray[np.float32]:
        """The sweep in KITTI's axes, intensities as shares of 255."""
        data = read_bytes(str(self.sweep))
        if len(data) % _POINT_BYTES:
            raise InputError(
                f"{self.sweep}: expected points of {_POINT_BYTES} bytes (5 float32), got {len(data)} bytes: it is cut "
                "off, copy it again"
            )
        x, y, z, intensity, _ = np.frombuffer(data, "<f4").reshape(-1, 5).T
        return np.stack([y, -x, z, intensity / np.float32(_LARGEST_INTENSITY)], axis=1)


# --- the tables ---


def read_nuscenes(source: str | Path) -> Recording:
    """The recording whose folder `v1.0-*` of tables is `source`, or lies in it beside `samples` and `sweeps`.

    Raises InputError where tables are missing, damaged or point to rows that are not there.
    """
    tables = Tables(version_folder(Path(source)))
    annotations = _annotations(tables)
    readings = _Readings(tables)
    scenes = {token: str(row["name"]) for token, row in tables["scene"].items()}
    splits = {name: split for name in scenes.values() if (split := split_of(name, version=tables.folder.name))}
    keys = list(_key_frames(tables, readings, scenes, annotations))
    sweeps = [one for one in _sweeps(readings, scenes) if splits.get(one.scene) != "test"] if annotations else []
    attributes = {str(row["name"]) for row in tables["attribute"].values()}
    categories = {str(row["name"]) for row in tables["category"].values()}
    return Recording(
        format="nuscenes",
        pictures=keys + sweeps,
        classes=CLASSES,
        categories=categories | {f"{category}/{attribute}" for category in categories for attribute in attributes},
        splits=splits,
    )


class _Readings:
    """The readings of all sensors, sorted by time, and where each sensor was."""

    def __init__(self, tables: Tables) -> None:
        self._tables, self._mounts = tables, dict[str, Floats]()
        self.root = tables.folder.parent
        self.of_camera: dict[str, list[dict[str, Any]]] = defaultdict(list)
        lidars: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in sorted(tables["sample_data"].values(), key=lambda row: row["timestamp"]):
            sensor = tables.find("sensor", self._mount_row(row)["sensor_token"], of="calibrated_sensor.json")
            kind = {"camera": self.of_camera, "lidar": lidars}.get(sensor["modality"])
            if kind is not None:
                kind[sensor["channel"]].append(row)
        self.cameras = sorted(self.of_camera, key=lambda name: (name not in CAMERAS, (*CAMERAS, name).index(name)))
        self.lidar = lidars[min(lidars)] if lidars else []
        self._times = [row["timestamp"] for row in self.lidar]
        self._key_sweep = {row["sample_token"]: row for row in self.lidar if row["is_key_frame"]}

    def scene_of(self, row: Mapping[str, Any]) -> str:
        """The token of a reading's scene."""
        sample = self._tables.find("sample", row["sample_token"], of="sample_data.json")
        return str(sample["scene_token"])

    def sweep_for(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """The LiDAR's reading that belongs to a camera's: of a key frame its sample's, else the nearest in time."""
        if row["is_key_frame"]:
            return self._key_sweep.get(row["sample_token"])
        at, place = row["timestamp"], bisect_left(self._times, row["timestamp"])
        near = [one for one in self.lidar[max(place - 1, 0) : place + 1] if self.scene_of(one) == self.scene_of(row)]
        best = min(near, key=lambda one: abs(one["timestamp"] - at), default=None)
        return best if best is not None and abs(best["timestamp"] - at) <= MOST_LAG_US else None

    def mount(self, row: Mapping[str, Any]) -> Floats:
        """4 x 4: the sensor's frame to the ego frame."""
        token = row["calibrated_sensor_token"]
        if token not in self._mounts:
            self._mounts[token] = rigid(self._mount_row(row), where=self._where("calibrated_sensor", token))
        return self._mounts[token]

    def ego(self, row: Mapping[str, Any]) -> Floats:
        """4 x 4: the ego frame at the time of this very reading to the global frame."""
        token = row["ego_pose_token"]
        pose = self._tables.find("ego_pose", token, of="sample_data.json")
        return rigid(pose, where=self._where("ego_pose", token))

    def intrinsics(self, row: Mapping[str, Any]) -> Floats:
        """3 x 3 [px]."""
        where = self._where("calibrated_sensor", row["calibrated_sensor_token"])
        return numbers(self._mount_row(row), "camera_intrinsic", shape=(3, 3), where=where)

    def size(self, row: Mapping[str, Any]) -> tuple[int, int]:
        """(width, height) [px] of a camera's picture."""
        where = self._where("sample_data", row["token"])
        return whole(row, "width", where=where), whole(row, "height", where=where)

    def _mount_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return self._tables.find("calibrated_sensor", row["calibrated_sensor_token"], of="sample_data.json")

    def _where(self, table: str, token: str) -> str:
        return f"{self._tables.folder / table}.json, {token}"


def _annotations(tables: Tables) -> dict[str, Annotations]:
    """What is annotated, by sample; empty for a recording without labels."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in tables["sample_annotation"].values():
        tables.find("sample", row["sample_token"], of="sample_annotation.json")
        rows[row["sample_token"]].append(row)
    return {sample: _of_sample(tables, some) for sample, some in rows.items()}


def _of_sample(tables: Tables, rows: Sequence[dict[str, Any]]) -> Annotations:
    where = tables.folder / "sample_annotation.json"
    poses = np.array([rigid(row, where=f"{where}, {row['token']}") for row in rows])
    sizes = np.array([numbers(row, "size", shape=(3,), where=f"{where}, {row['token']}") for row in rows])
    if (sizes <= 0).any():
        row = rows[int(np.flatnonzero((sizes <= 0).any(1))[0])]
        raise InputError(f"{where}, {row['token']}: expected a size above 0, got {row['size']}: correct the row")
    return Annotations(
        names=[_names(tables, row) for row in rows],
        boxes=OrientedBoxes(poses[:, :3, 3], poses[:, :3, :3], sizes[:, [2, 0, 1]]),  # from width, length, height
        occlusion=np.array([_occlusion(row, where=f"{where}, {row['token']}") for row in rows], np.int64),
        points=np.array([row["num_lidar_pts"] for row in rows], np.int64),
    )


def _names(tables: Tables, row: Mapping[str, Any]) -> tuple[str, ...]:
    """`category/attribute` for each attribute, then the category alone."""
    instance = tables.find("instance", row["instance_token"], of="sample_annotation.json")
    category = str(tables.find("category", instance["category_token"], of="instance.json")["name"])
    attributes = [tables.find("attribute", one, of="sample_annotation.json") for one in row["attribute_tokens"]]
    return (*(f"{category}/{attribute['name']}" for attribute in attributes), category)


def _occlusion(row: Mapping[str, Any], *, where: str) -> int:
    token = str(row["visibility_token"] or "")
    if token not in OCCLUSION:
        raise InputError(f"{where}: expected visibility_token 1, 2, 3, 4 or none, got {token!r}: correct the row")
    return OCCLUSION[token]


def _key_frames(
    tables: Tables, readings: _Readings, scenes: Mapping[str, str], annotations: Mapping[str, Annotations]
) -> Iterator[NuscenesPicture]:
    """Sample by sample in time order, camera by camera."""
    of_sample = {
        (row["sample_token"], camera): row
        for camera, rows in readings.of_camera.items()
        for row in rows
        if row["is_key_frame"]
    }
    none = np.zeros(0, np.int64)
    nothing = Annotations([], OrientedBoxes.empty(), occlusion=none, points=none)
    samples = sorted(tables["sample"], key=lambda token: tables["sample"][token]["timestamp"])
    for index, sample in enumerate(samples):
        for camera in readings.cameras:
            if (row := of_sample.get((sample, camera))) is not None:
                number = index * _NUMBERS_A_SAMPLE + readings.cameras.index(camera)
                known = annotations.get(sample, nothing) if annotations else None
                yield _picture(readings, row, camera, scenes, number=number, annotations=known)


def _sweeps(readings: _Readings, scenes: Mapping[str, str]) -> Iterator[NuscenesPicture]:
    """The cameras' readings between key frames that have a LiDAR sweep near enough in time."""
    for camera in readings.cameras:
        for row in readings.of_camera[camera]:
            if not row["is_key_frame"] and readings.sweep_for(row) is not None:
                yield _picture(readings, row, camera, scenes, number=None, annotations=None)


def _picture(
    readings: _Readings,
    row: Mapping[str, Any],
    camera: str,
    scenes: Mapping[str, str],
    *,
    number: int | None,
    annotations: Annotations | None,
) -> NuscenesPicture:
    """A camera's reading with the chain of transforms at its own time, and the LiDAR's at the LiDAR's."""
    lidar, transforms = readings.sweep_for(row), dict[str, Floats]()
    if lidar is not None:
        velo_to_ego = readings.mount(lidar) @ inverse(_TO_KITTI_AXES)
        transforms = {"velo_to_global": readings.ego(lidar) @ velo_to_ego, "ego_to_velo": inverse(velo_to_ego)}
    return NuscenesPicture(
        image=readings.root / row["filename"],
        origin=row["filename"],
        scene=scenes[readings.scene_of(row)],
        camera=camera,
        labelled=annotations is not None,
        sweep=None if lidar is None else readings.root / lidar["filename"],
        convert=True,
        token=row["token"],
        number=number,
        intrinsics=readings.intrinsics(row),
        size=readings.size(row),
        global_to_camera=inverse(readings.ego(row) @ readings.mount(row)),
        annotations=annotations,
        **transforms,
    )
