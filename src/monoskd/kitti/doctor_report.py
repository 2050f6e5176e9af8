"""What the doctor found, as text, JSON and HTML."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeAlias

from monoskd.files import write_json
from monoskd.report.markup import Tone
from monoskd.report.page import Tile, bullets, facts, fold, page, paragraph, section, tiles, write_page

Severity: TypeAlias = Literal["error", "warning", "note"]

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_TONES: dict[Severity, Tone] = {"error": "bad", "warning": "warn", "note": "plain"}
_SHOWN = 5  # findings of one kind that the text lists; JSON and HTML hold all of them


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing.

    check: a short name of what was checked, the same for all findings of a kind; file, line: where, if it is in one
    place; what: what was expected and what was there; advice: what to do.
    """

    severity: Severity
    check: str
    what: str
    advice: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        where = "" if self.file is None else f"{self.file}{'' if self.line is None else f', line {self.line}'}: "
        return f"{where}{self.what}: {self.advice}"


@dataclass(frozen=True)
class DoctorReport:
    """What is known about a data set after it was examined.

    files: number of frames by kind of file; splits: number of frames by split; classes: number of objects by class, in
    all and by split; image_sizes: number of images by "width x height". projection_iou: median IoU of each labelled 2D
    box with its projected 3D box; lidar_error_m: median distance of the LiDAR returns inside 2D boxes from the 3D
    boxes, see `agreement`; both are None where nothing could be measured.
    """

    root: str
    files: Mapping[str, int]
    splits: Mapping[str, int]
    classes: Mapping[str, int]
    image_sizes: Mapping[str, int]
    projection_iou: float | None
    lidar_error_m: float | None
    seconds: float
    findings: list[Finding] = field(default_factory=list)
    classes_by_split: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def count(self, severity: Severity) -> int:
        """The number of findings of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One line: how many errors, warnings and notes."""
        counts = {severity: self.count(severity) for severity in _SEVERITIES}
        words = ", ".join(f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in counts.items())
        return f"{'fit to use' if self.ok else 'not fit to use'}: {words}"

    def to_json(self) -> dict[str, Any]:
        """The report as JSON types, schema monoskd/doctor/1."""
        return {"schema": "monoskd/doctor/1", "ok": self.ok, **asdict(self)}

    def to_text(self) -> str:
        """The report for a terminal."""
        lines = [f"{self.root}: {self.verdict}", ""]
        lines += [f"  {name:<12}{value}" for name, value in self._facts()]
        for severity, check, findings in self._groups():
            lines += ["", f"{severity}: {check} ({len(findings)})"]
            lines += [f"  {finding}" for finding in findings[:_SHOWN]]
            if len(findings) > _SHOWN:
                lines.append(f"  ... and {len(findings) - _SHOWN} more; --json lists them all")
        return "\n".join(lines) + "\n"

    def to_html(self) -> str:
        """The report as one page that needs nothing else: the verdict, the findings, then what was counted."""
        groups = [
            fold(
                f"{severity}: {check} ({len(findings)})",
                bullets(map(str, findings)),
                is_open=len(findings) <= _SHOWN,
                tone=_TONES[severity],
            )
            for severity, check, findings in self._groups()
        ]
        return page(
            f"Data set {self.root}",
            paragraph(self.verdict, kind="verdict", tone="good" if self.ok else "bad"),
            tiles(self._tiles()),
            section("Findings", *(groups or [paragraph("None.")])),
            section("Counts", facts(self._facts())),
        )

    def write_json(self, path: str | Path) -> None:
        """Write `to_json` to a file."""
        write_json(path, self.to_json())

    def write_html(self, path: str | Path) -> None:
        """Write `to_html` to a file."""
        write_page(path, self.to_html())

    def _facts(self) -> Iterator[tuple[str, str]]:
        for name in ("files", "splits", "classes", "image_sizes"):
            counts = getattr(self, name)
            yield name.replace("_", " "), ", ".join(f"{key} {count}" for key, count in counts.items()) or "none"
        for split, counts in self.classes_by_split.items():
            yield f"in {split}", ", ".join(f"{key} {count}" for key, count in counts.items())
        if self.projection_iou is not None:
            yield "projection", f"3D boxes cover their 2D boxes with a median IoU of {self.projection_iou:.2f}"
        if self.lidar_error_m is not None:
            yield "LiDAR", f"returns in 2D boxes lie {self.lidar_error_m:.2f} m beside the 3D boxes (median)"
        yield "took", f"{self.seconds:.1f} s"

    def _tiles(self) -> Iterator[Tile]:
        for severity in _SEVERITIES:
            count = self.count(severity)
            yield Tile(f"{severity}s", str(count), tone=_TONES[severity] if count else "plain")
        yield Tile("images", str(self.files.get("image_2", 0)), f"{self.files.get('label_2', 0)} with labels")
        objects = sum(count for name, count in self.classes.items() if name != "DontCare")
        yield Tile("labelled objects", str(objects), f"{len(self.classes.keys() - {'DontCare'})} classes")

    def _groups(self) -> Iterator[tuple[Severity, str, list[Finding]]]:
        def kind(finding: Finding) -> tuple[int, str]:
            return _SEVERITIES.index(finding.severity), finding.check

        for (rank, check), findings in groupby(sorted(self.findings, key=kind), kind):
            yield _SEVERITIES[rank], check, list(findings)
