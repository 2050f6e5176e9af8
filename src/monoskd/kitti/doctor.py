"""Examine a data set in KITTI layout and say what is wrong with it, before a training run fails or learns nothing."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from monoskd.errors import InputError
from monoskd.files import is_there, visible
from monoskd.kitti.agreement import disagreement
from monoskd.kitti.doctor_checks import CLASSES, FrameFacts, facts_of
from monoskd.kitti.doctor_report import DoctorReport, Finding, Severity
from monoskd.kitti.io import read_split
from monoskd.kitti.layout import ONE_FILE, UNLABELLED, KittiLayout, meant, suffixes, two_files
from monoskd.kitti.leakage import RawRecord, copies, drives_of
from monoskd.kitti.neighbours import neighbours, spread
from monoskd.objects import NO_ALPHA

KINDS = ("image_2", "calib", "label_2", "velodyne", "depth_2")

_DEPTH_FRAMES = 100  # whose sweeps and depth maps are read whole, spread over the data set
_LABELLED_SPLITS = ("train", "val", "trainval")
_EXAMPLES = 3
_LEAST_PROJECTION_IOU = 0.7  # of the data set's median box; KITTI's is 0.97
_MOST_ALPHA_GAP_RAD = 0.2  # the same; KITTI's is 0.005
_IF_MISSING: dict[str, tuple[Severity, str]] = {
    "calib": ("error", "add them: no frame can be used without"),
    "label_2": ("warning", "add them, or keep these frames out of labelled splits"),
    "velodyne": ("warning", "add them, or train without these frames"),
    "depth_2": ("note", "run `monoskd prepare`; training needs them unless `data.depth` is false"),
}


def examine(root: str | Path, *, progress: Callable[[int, int], None] | None = None) -> DoctorReport:
    """Read every file of `root/training` and `root/ImageSets`, and compare what should agree.

    Images and depth maps are read at their ends only, but for the sweeps and the depth maps of at most 100 frames.
    progress: called with (frames done, frames in all). Raises InputError where there is no data set at all.
    """
    started = time.perf_counter()
    layout = KittiLayout(Path(root))
    frames = {kind: list(layout.files(kind)) for kind in KINDS}
    everything = sorted(set().union(*frames.values()))
    if not everything:
        raise InputError(_nothing(layout))
    sampled = set(spread(sorted({*frames["velodyne"], *frames["depth_2"]}), at_most=_DEPTH_FRAMES))
    facts: dict[str, FrameFacts] = {}
    for frame in everything:
        facts[frame] = facts_of(layout, frame, depths=frame in sampled)
        if progress is not None:
            progress(len(facts), len(everything))
    splits, damaged_splits = _read_splits(layout)
    by_frame = list(facts.values())
    sizes = Counter(f"{width}x{height}" for fact in by_frame if fact.image_size for width, height in [fact.image_size])
    by_split = {name: _classes(facts[frame] for frame in listed if frame in facts) for name, listed in splits.items()}
    return DoctorReport(
        root=str(root),
        files={kind: len(names) for kind, names in frames.items()},
        splits={name: len(names) for name, names in splits.items()},
        classes=_classes(by_frame),
        image_sizes=dict(sizes.most_common()),
        projection_iou=_median([iou for fact in by_frame for iou in fact.projection_ious]),
        lidar_error_m=_median([error for fact in by_frame for error in fact.lidar_errors_m]),
        seconds=time.perf_counter() - started,
        findings=[
            *_counts(layout, frames, unlabelled=splits.get(UNLABELLED, [])),
            *damaged_splits,
            *_splits(layout, frames, splits),
            *_shared(layout, splits),
            *_objects(layout, frames["label_2"], by_frame),
            *_training(layout, splits, facts),
            *_absent_classes(layout, by_split),
            *_agreement(by_frame),
            *(finding for fact in by_frame for finding in fact.findings),
        ],
        classes_by_split={name: counts for name, counts in by_split.items() if counts},
    )


def _nothing(layout: KittiLayout) -> str:
    """What to say where no frame was found."""
    got = "no frame there: check the path"
    if unread_files := [path for kind in KINDS for path in layout.unread_files(kind)]:
        kind = unread_files[0].parent.name
        got = f"none of these files but others such as {kind}/{unread_files[0].name}: convert them to {suffixes(kind)}"
    elif (layout.root / "image_2").is_dir():
        got = f"image_2 directly in it: give the folder above, {layout.root.absolute().parent}"
    return f"{layout.root}: expected a data set with training/image_2, calib and label_2, got {got}"


def _classes(facts: Iterable[FrameFacts]) -> dict[str, int]:
    """The number of objects of each class, the most frequent first."""
    return dict(sum((fact.classes for fact in facts), Counter[str]()).most_common())


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _some(frames: Sequence[str]) -> str:
    """A few of the frames by name, and how many there are."""
    more = f" and {len(frames) - _EXAMPLES} more" if len(frames) > _EXAMPLES else ""
    return ", ".join(frames[:_EXAMPLES]) + more


def _counts(layout: KittiLayout, frames: dict[str, list[str]], *, unlabelled: Sequence[str]) -> list[Finding]:
    """Does every picture have its other files, and every other file a picture? `unlabelled` ones need no label.

    Depth maps are made of sweeps, so without a sweep none is missing.
    """
    findings = []
    severity: Severity
    images = set(frames["image_2"])
    needless = {"label_2": set(unlabelled), "depth_2": images - set(frames["velodyne"])}
    for kind, (severity, advice) in _IF_MISSING.items():
        where = str(layout.folder(kind))
        if kind == "velodyne" and not (frames["velodyne"] or frames["depth_2"]):
            advice = "add them to train; without any the frames are for prediction and evaluation alone"
        if missing := sorted(images - set(frames[kind]) - needless.get(kind, set())):
            what = f"expected one file for each of {len(images)} images, got none for {_some(missing)}"
            findings.append(Finding(severity, f"no {kind}", what, advice, where))
        if extra := sorted(set(frames[kind]) - images):
            what = f"expected an image for each file, got none for {_some(extra)}"
            findings.append(Finding("error", f"{kind} without image", what, "add the images or remove these", where))
    for kind in KINDS:
        for paths in filter(lambda paths: paths[1:], layout.files(kind).values()):
            findings.append(Finding("error", "two files", two_files(paths), ONE_FILE, str(layout.folder(kind))))
        if unread_files := layout.unread_files(kind):
            what = f"expected files in {suffixes(kind)}, got {_some([path.name for path in unread_files])}"
            # With other files there besides they may be notes; alone they are data that no command reads.
            severity = "warning" if frames[kind] else "error"
            advice = "convert or remove them, nothing reads them"
            findings.append(Finding(severity, "strange file", what, advice, str(layout.folder(kind))))
    return findings


def _read_splits(layout: KittiLayout) -> tuple[dict[str, list[str]], list[Finding]]:
    """The frames of each split that can be read, and findings about those that cannot."""
    folder, splits, broken = layout.split("any").parent, {}, FrameFacts()
    for path in visible(folder.glob("*.txt")):
        try:
            splits[path.stem] = read_split(path)
        except InputError as error:
            broken.damaged("damaged split", path, error)
    absent = [f"{name}.txt" for name in ("train", "val") if not is_there(layout.split(name))]
    if absent:
        what = f"expected lists of frames, train.txt and val.txt, got no {' and no '.join(absent)}"
        broken.note("warning", "no split", folder, what, "add what is missing: training needs both, evaluation val.txt")
    return splits, broken.findings


def _splits(layout: KittiLayout, frames: dict[str, list[str]], splits: dict[str, list[str]]) -> Iterator[Finding]:
    """Do the splits list frames that exist and are labelled as they should be, and no frame in two of them?"""
    images, labels = set(frames["image_2"]), set(frames["label_2"])
    for name in (*_LABELLED_SPLITS, UNLABELLED):
        listed, where = set(splits.get(name, [])), str(layout.split(name))
        if name in _LABELLED_SPLITS and name in splits and not listed:
            yield Finding("error", "empty split", "expected frames, got none", "list some or remove the file", where)
        lacking = {"image_2": listed - images, "label_2": (listed & images) - labels}
        for kind, missing in lacking.items():
            if missing and (kind == "image_2" or name in _LABELLED_SPLITS):
                what = f"expected each frame of the split in {kind}, got none of {_some(sorted(missing))}"
                what += meant(min(missing), images)
                yield Finding("error", f"split without {kind}", what, "add the files or unlist them", where)
        depth = {*frames["depth_2"], *frames["velodyne"]}
        if depth and name in ("train", UNLABELLED) and (bare := sorted(listed & images - depth)):
            what = f"expected a depth map, or a sweep to make one of, for each frame, got none of {_some(bare)}"
            yield Finding("error", "split without depth", what, "add sweeps or unlist the frames", where)
        if name == UNLABELLED and (labelled := sorted(listed & labels)):
            what = f"expected frames without a label, got one for {_some(labelled)}"
            yield Finding("error", "unlabelled split", what, "list them in a labelled split instead", where)
        if name in ("train", UNLABELLED) and (both := sorted(listed & set(splits.get("val", [])))):
            what = f"expected no frame of {name} in val, got {_some(both)}"
            yield Finding("error", "leak", what, "take them out of one", str(layout.split("val")))


def _shared(layout: KittiLayout, splits: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Do train and val show the same under different names: copies, or frames of one recording?"""
    val = splits.get("val", [])
    for name in ("train", UNLABELLED):
        listed, where = splits.get(name, []), str(layout.split(name))
        try:
            copied = copies(layout, listed, validation=val)
        except InputError:  # an unreadable file is a finding of its own
            copied = {}
        for frame, known in copied.items():
            what = f"expected no copy of a frame of val in {name}, got {frame}, which shows {known}"
            yield Finding("error", "leak", what, "take one out", where)
        if not copied and (near := _of_one_recording(layout, listed, val)):
            what = f"expected other recordings in {name} than in val, got {near}"
            yield Finding("warning", "one recording", what, "split by recording: results on val are too good", where)


def _of_one_recording(layout: KittiLayout, train: Sequence[str], val: Sequence[str]) -> str:
    """Evidence that train and val share recordings; empty if there is none."""
    try:
        record = RawRecord.read(layout.root)
    except InputError:
        record = RawRecord()
    drives = [set().union(*(drives_of(layout, frame, record) for frame in frames)) for frames in (train, val)]
    if both := sorted(drives[0] & drives[1]):
        return f"frames of {_some(both)} in both"
    pairs = neighbours(layout, train, val)
    return f"{_some([f'{other} beside {frame}' for frame, other in pairs])}, which look alike" if pairs else ""


def _objects(layout: KittiLayout, labelled: Sequence[str], facts: Sequence[FrameFacts]) -> Iterator[Finding]:
    """Is there anything to learn and to find, in 3D?"""
    folder = str(layout.folder("label_2"))
    if labelled and not any(set(fact.classes) - {"DontCare"} for fact in facts):
        what = f"expected labelled objects, got none in {len(labelled)} files"
        advice = "add the labels; frames without any belong in unlabelled.txt, without a file"
        yield Finding("error", "no object", what, advice, folder)
    objects, only_2d = sum(fact.objects for fact in facts), sum(fact.only_2d for fact in facts)
    if only_2d:
        what = f"expected 3D boxes, got none for {only_2d} of {objects} objects (sizes or z of 0 or less)"
        yield Finding("warning", "2D only", what, "training leaves them out; add 3D boxes if they should count", folder)
    if no_alpha := sum(fact.no_alpha for fact in facts):
        what = f"expected alpha, got none ({NO_ALPHA:g}) for {no_alpha} of {objects} objects"
        yield Finding("warning", "no alpha", what, "training does without, but orientation cannot be evaluated", folder)


def _training(
    layout: KittiLayout, splits: Mapping[str, Sequence[str]], facts: Mapping[str, FrameFacts]
) -> Iterator[Finding]:
    """Does each training split hold an object that training would use?"""
    for name in ("train", "trainval"):
        listed = [facts[frame] for frame in splits.get(name, []) if frame in facts]
        if any(fact.objects for fact in listed) and not any(fact.supervised for fact in listed):
            what = (
                f"expected objects to train on ({', '.join(CLASSES)}; not too small, hidden or truncated), got none of "
                f"{sum(fact.objects for fact in listed)} objects"
            )
            advice = "check names, 3D boxes and occlusion"
            yield Finding("error", "nothing to train on", what, advice, str(layout.split(name)))


def _absent_classes(layout: KittiLayout, by_split: Mapping[str, Mapping[str, int]]) -> Iterator[Finding]:
    """Is what is trained on also measured?"""
    train, val = by_split.get("train", {}), by_split.get("val", {})
    if "val" in by_split and (absent := [name for name in CLASSES if name in train and name not in val]):
        counts = ", ".join(f"{name} ({train[name]} in train)" for name in absent)
        what = f"expected every class of train in val, got no object of {counts}"
        advice = "its average precision will have no meaning"
        yield Finding("warning", "class not in val", what, advice, str(layout.split("val")))


def _agreement(facts: Sequence[FrameFacts]) -> list[Finding]:
    """What the whole data set says about its conventions."""
    findings = []
    iou = _median([iou for fact in facts for iou in fact.projection_ious])
    if iou is not None and iou < _LEAST_PROJECTION_IOU:
        what = f"expected 3D boxes to project onto their 2D boxes, got a median IoU of {iou:.2f}"
        advice = "check P2, that locations are bottom centres in the camera frame, and that sizes are (h, w, l)"
        findings.append(Finding("error", "projection", what, advice))
    gap_rad = _median([gap for fact in facts for gap in fact.alpha_gaps_rad])
    if gap_rad is not None and gap_rad > _MOST_ALPHA_GAP_RAD:
        what = f"expected alpha = rotation_y - atan2(x, z), got a median difference of {gap_rad:.2f} rad"
        findings.append(Finding("error", "alpha", what, "check the sign, zero and unit of both angles"))
    if wrong := disagreement([error for fact in facts for error in fact.lidar_errors_m]):
        advice = "check Tr_velo_to_cam and that sweep and label belong together"
        findings.append(Finding("error", "LiDAR", wrong, advice))
    elif wrong := disagreement([error for fact in facts for error in fact.depth_errors_m], of="depth maps"):
        advice = "run `monoskd prepare --force`; maps of another origin must hold metres * 256"
        findings.append(Finding("error", "depth map", wrong, advice))
    return findings
