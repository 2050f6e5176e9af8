"""Examine a data set in KITTI layout and say what is wrong with it, before a training run does."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from monoskd.errors import InputError
from monoskd.kitti.doctor_checks import FrameFacts, examine_frame
from monoskd.kitti.doctor_report import Finding, Report, Severity
from monoskd.kitti.io import read_split
from monoskd.kitti.layout import UNLABELLED, KittiLayout, is_frame

KINDS = ("image_2", "calib", "label_2", "velodyne", "depth_2")

_LIDAR_FRAMES = 100  # sweeps whose points are looked at, spread over the data set
_LABELLED_SPLITS = ("train", "val", "trainval")
_EXAMPLES = 3
_LEAST_PROJECTION_IOU = 0.7  # of the data set's median box; KITTI's is 0.97
_MOST_ALPHA_GAP_RAD = 0.2  # the same; KITTI's is 0.005
_MOST_LIDAR_ERROR_M = 5.0  # the same; KITTI's is 2, about half a car
_IF_MISSING: dict[str, tuple[Severity, str]] = {
    "calib": ("error", "add them: no frame can be used without"),
    "label_2": ("warning", "add them, or keep these frames out of labelled splits"),
    "velodyne": ("warning", "add them, or train without these frames"),
    "depth_2": ("note", "run `monoskd prepare`, every training needs them"),
}


def examine(root: str | Path, *, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read every file of `root/training` and `root/ImageSets`, and compare what should agree.

    Images and depth maps are read at their ends only, and the points of at most 100 sweeps.
    progress: called with (frames done, frames in all). Raises InputError where there is no data set at all.
    """
    started = time.perf_counter()
    layout = KittiLayout(Path(root))
    frames = {kind: layout.frames(kind) for kind in KINDS}
    everything = sorted(set().union(*frames.values()))
    if not everything:
        raise InputError(
            f"{root}: expected a data set with training/image_2, calib and label_2, got no frame there: check the path"
        )
    sampled = {frames["velodyne"][i] for i in _spread(len(frames["velodyne"]), _LIDAR_FRAMES)}
    facts = []
    for frame in everything:
        facts.append(examine_frame(layout, frame, lidar=frame in sampled))
        if progress is not None:
            progress(len(facts), len(everything))
    splits, damaged_splits = _read_splits(layout)
    sizes = Counter(f"{width}x{height}" for one in facts if one.image_size for width, height in [one.image_size])
    classes = sum((one.classes for one in facts), Counter[str]())
    return Report(
        root=str(root),
        files={kind: len(names) for kind, names in frames.items()},
        splits={name: len(names) for name, names in splits.items()},
        classes=dict(classes.most_common()),
        image_sizes=dict(sizes.most_common()),
        projection_iou=_median([iou for one in facts for iou in one.projection_ious]),
        lidar_error_m=_median([error for one in facts for error in one.lidar_errors_m]),
        seconds=time.perf_counter() - started,
        findings=[
            *_counts(layout, frames, unlabelled=splits.get(UNLABELLED, [])),
            *damaged_splits,
            *_splits(layout, frames, splits),
            *_objects(layout, frames["label_2"], facts),
            *_agreement(facts),
            *(finding for one in facts for finding in one.findings),
        ],
    )


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices below `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist() if count else []


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _some(frames: Sequence[str]) -> str:
    """A few of the frames by name, and how many there are."""
    more = f" and {len(frames) - _EXAMPLES} more" if len(frames) > _EXAMPLES else ""
    return ", ".join(frames[:_EXAMPLES]) + more


def _counts(layout: KittiLayout, frames: dict[str, list[str]], *, unlabelled: Sequence[str]) -> list[Finding]:
    """Does every picture have what belongs to it, and every other file a picture? `unlabelled` ones need no label."""
    findings = []
    images = set(frames["image_2"])
    for kind, (severity, advice) in _IF_MISSING.items():
        where = str(layout.folder(kind))
        excused = set(unlabelled) if kind == "label_2" else set()
        if missing := sorted(images - set(frames[kind]) - excused):
            what = f"expected one file for each of {len(images)} images, got none for {_some(missing)}"
            findings.append(Finding(severity, f"no {kind}", what, advice, where))
        if extra := sorted(set(frames[kind]) - images):
            what = f"expected an image for each file, got none for {_some(extra)}"
            findings.append(Finding("error", f"{kind} without image", what, "add the images or remove these", where))
    for folder in filter(Path.is_dir, map(layout.folder, KINDS)):
        if strange := sorted(path.name for path in folder.iterdir() if not is_frame(path.stem)):
            what = f"expected file names of six digits, got {_some(strange)}"
            findings.append(
                Finding("warning", "strange file", what, "rename them, else they are not seen", str(folder))
            )
    return findings


def _read_splits(layout: KittiLayout) -> tuple[dict[str, list[str]], list[Finding]]:
    """The frames of each split that can be read, and findings about those that cannot."""
    folder, splits, broken = layout.split("any").parent, {}, FrameFacts()
    for path in sorted(folder.glob("*.txt")):
        try:
            splits[path.stem] = read_split(path)
        except InputError as error:
            broken.damaged("damaged split", path, error)
    if not splits and not broken.findings:
        what = "expected lists of frames such as train.txt and val.txt, got none"
        broken.note("warning", "no split", folder, what, "add them: training and evaluation need them")
    return splits, broken.findings


def _splits(layout: KittiLayout, frames: dict[str, list[str]], splits: dict[str, list[str]]) -> Iterator[Finding]:
    """Do the splits name frames that are there and labelled as they should be, and none twice?"""
    images, labels = set(frames["image_2"]), set(frames["label_2"])
    for name in (*_LABELLED_SPLITS, UNLABELLED):
        listed, where = set(splits.get(name, [])), str(layout.split(name))
        if name in _LABELLED_SPLITS and name in splits and not listed:
            yield Finding("error", "empty split", "expected frames, got none", "list some or remove the file", where)
        lacking = {"image_2": listed - images, "label_2": (listed & images) - labels}
        for kind, missing in lacking.items():
            if missing and (kind == "image_2" or name in _LABELLED_SPLITS):
                what = f"expected each frame of the split in {kind}, got none of {_some(sorted(missing))}"
                yield Finding("error", f"split without {kind}", what, "add the files or unlist them", where)
        if name == UNLABELLED and (labelled := sorted(listed & labels)):
            what = f"expected frames without a label, got one for {_some(labelled)}"
            yield Finding("warning", "unlabelled split", what, "list them in a labelled split instead", where)
        if name in ("train", UNLABELLED) and (both := sorted(listed & set(splits.get("val", [])))):
            what = f"expected no frame of {name} in val, got {_some(both)}"
            yield Finding("error", "leak", what, "take them out of one", str(layout.split("val")))


def _objects(layout: KittiLayout, labelled: Sequence[str], facts: Sequence[FrameFacts]) -> Iterator[Finding]:
    """Is there anything to learn and to find?"""
    if labelled and not any(set(one.classes) - {"DontCare"} for one in facts):
        what = f"expected labelled objects, got none in {len(labelled)} files"
        advice = "add the labels; frames without any belong in unlabelled.txt, without a file"
        yield Finding("error", "no object", what, advice, str(layout.folder("label_2")))


def _agreement(facts: Sequence[FrameFacts]) -> list[Finding]:
    """What the whole data set says about its conventions."""
    findings = []
    iou = _median([iou for one in facts for iou in one.projection_ious])
    if iou is not None and iou < _LEAST_PROJECTION_IOU:
        what = f"expected 3D boxes to project onto their 2D boxes, got a median IoU of {iou:.2f}"
        advice = "check P2, that locations are bottom centres in the camera frame, and that sizes are (h, w, l)"
        findings.append(Finding("error", "projection", what, advice))
    gap_rad = _median([gap for one in facts for gap in one.alpha_gaps_rad])
    if gap_rad is not None and gap_rad > _MOST_ALPHA_GAP_RAD:
        what = f"expected alpha = rotation_y - atan2(x, z), got a median difference of {gap_rad:.2f} rad"
        findings.append(Finding("error", "alpha", what, "check the sign, zero and unit of both angles"))
    error_m = _median([error for one in facts for error in one.lidar_errors_m])
    if error_m is not None and error_m > _MOST_LIDAR_ERROR_M:
        what = f"expected LiDAR returns near the labelled objects, got a median |depth - z| of {error_m:.1f} m"
        findings.append(
            Finding("error", "LiDAR", what, "check Tr_velo_to_cam and that sweep and label belong together")
        )
    return findings
