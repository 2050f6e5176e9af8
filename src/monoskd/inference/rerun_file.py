"""Predictions as a recording for the Rerun viewer. Needs the extra `viz`."""

import os
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from monoskd.errors import InputError
from monoskd.files import check_output
from monoskd.inference.canvas import class_colour
from monoskd.inference.outputs import Prediction

TIMELINE = "frame"
_JPEG_QUALITY = 90
_PART_BYTES = 1 << 20


class RerunFile:
    """A .rrd file, which takes its name when it is closed.

    `world` is the level camera frame, in metres: `world/boxes` are the 3D boxes, `world/camera` is the pinhole camera
    with its picture. 2D boxes lie on that picture; if it was rectified, on the picture as it was, `picture`.
    """

    def __init__(self, path: Path) -> None:
        check_output(path, suffix=".rrd")
        try:
            self._rerun: Any = import_module("rerun")
        except ImportError as error:
            raise InputError(
                f"--rerun: expected the package rerun-sdk, got '{error}': pip install 'monoskd[viz]'"
            ) from error
        self.path, self.partial = path, path.with_name(f".{path.stem[:100]}.partial.rrd")
        self.frames = 0
        self._stream: Any = None
        self._copy: _Copy | None = None

    def add(self, prediction: Prediction) -> None:
        """One more frame of the timeline."""
        rr = self._rerun
        if self._stream is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = rr.RecordingStream("monoskd")
            self._copy = _Copy(self.partial)
            self._stream.save(self._copy.source)
            self._copy.begin()
            self._stream.log("world", rr.ViewCoordinates.RDF, static=True)
        self._stream.set_time(TIMELINE, sequence=self.frames)
        for entity, parts in self._entities(prediction):
            self._stream.log(entity, *parts)
        self.frames += 1

    def _entities(self, prediction: Prediction) -> list[tuple[str, list[Any]]]:
        rr, lens, objects = self._rerun, prediction.lens, prediction.objects
        image, rectified = prediction.picture.image, lens.rectified
        straight = image if rectified is None else rectified.picture(image)
        P = np.asarray(lens.camera.P, np.float64)
        height, width = straight.shape[:2]
        pinhole = rr.Pinhole(image_from_camera=P[:, :3], width=width, height=height)
        place = rr.Transform3D(translation=-np.linalg.solve(P[:, :3], P[:, 3]))
        colours = [class_colour(name) for name in objects.names.tolist()]
        assert objects.scores is not None
        words = [
            f"{name} {score:.2f}, {depth:.1f} m"
            for name, score, depth in zip(objects.names, objects.scores, objects.bottom[:, 2], strict=True)
        ]
        boxes_2d = rr.Boxes2D(array=objects.boxes_2d, array_format=rr.Box2DFormat.XYXY, colors=colours, labels=words)
        half, zeros = objects.yaw / 2, np.zeros(len(objects))
        boxes_3d = rr.Boxes3D(
            centers=objects.boxes_3d.centres,
            sizes=objects.dimensions[:, [2, 0, 1]],  # along x, y and z of a box with yaw 0
            quaternions=np.column_stack([zeros, np.sin(half), zeros, np.cos(half)]),
            colors=colours,
            labels=words,
        )
        entities = [
            ("world/camera", [pinhole, place]),
            ("world/camera/picture", [rr.Image(straight).compress(jpeg_quality=_JPEG_QUALITY)]),
            ("world/boxes", [boxes_3d]),
        ]
        if rectified is None:
            return [*entities, ("world/camera/picture/boxes", [boxes_2d])]
        whole = rr.Image(image).compress(jpeg_quality=_JPEG_QUALITY)
        return [*entities, ("picture", [whole]), ("picture/boxes", [boxes_2d])]

    def close(self) -> None:
        """Give the file its name. Raises InputError where it could not be written whole, as on a full disk."""
        if self._stream is None or self._copy is None:
            return
        self._stream.disconnect()
        if error := self._copy.end():
            self.partial.unlink(missing_ok=True)
            raise InputError(
                f"{self.path}: expected a recording of {self.frames} pictures, got one that is cut off "
                f"({error.strerror}): free some space; the results of the pictures are kept"
            )
        self.partial.replace(self.path)


class _Copy:
    """A thread that writes to a file what comes through a pipe.

    Where Rerun writes the file itself and the disk is full, it waits for ever. This reads on, and knows the error.
    source: the name of the pipe's other end, which Rerun opens before `begin`.
    """

    def __init__(self, path: Path) -> None:
        self._out = path.open("wb")
        self._read, self._write = os.pipe()
        self.source = f"/dev/fd/{self._write}"
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> None:
        """Copy until Rerun closes the pipe, which it alone holds open from now on."""
        self._thread.start()
        os.close(self._write)

    def end(self) -> OSError | None:
        """Wait until all is written; what prevented it, if anything did."""
        self._thread.join()
        return self._error

    def _run(self) -> None:
        with os.fdopen(self._read, "rb", buffering=0) as source:
            try:
                with self._out as out:
                    while part := source.read(_PART_BYTES):
                        out.write(part)
            except OSError as error:
                self._error = error
                while source.read(_PART_BYTES):
                    pass
