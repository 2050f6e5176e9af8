"""What the doctor found, and how it reads: text, JSON, HTML."""

import html
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeAlias

from monoskd.files import write_atomically

Severity: TypeAlias = Literal["error", "warning", "note"]

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_SHOWN = 5  # findings of one kind that are spelled out; JSON holds them all


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    check: a short name of what was checked, the same for all findings of a kind; file, line: where, if it is one place;
    what: what was expected and what was found; advice: what to do.
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
class Report:
    """What is known about a data set after an examination.

    files: kind of file to number of frames that have one; splits, classes: name to number of frames, of objects;
    image_sizes: "width x height" to number of images. The medians are None where nothing could be measured:
    projection_iou between each labelled 2D box and its projected 3D box; lidar_error_m, |depth - object z| of the
    LiDAR returns inside 2D boxes.
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
        counts = ", ".join(f"{self.count(severity)} {severity}s" for severity in _SEVERITIES)
        return f"{'fit to use' if self.ok else 'not fit to use'}: {counts}"

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
        """The report as one page that needs nothing else."""
        facts = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in self._facts())
        groups = "".join(
            f"<details class={severity} {'open' if len(findings) <= _SHOWN else ''}>"
            f"<summary>{severity}: {html.escape(check)} ({len(findings)})</summary>"
            f"<ul>{''.join(f'<li>{html.escape(str(finding))}</li>' for finding in findings)}</ul></details>"
            for severity, check, findings in self._groups()
        )
        root, verdict = html.escape(self.root), html.escape(self.verdict)
        return _PAGE.format(root=root, verdict=verdict, state="ok" if self.ok else "error", facts=facts, groups=groups)

    def write_json(self, path: str | Path) -> None:
        """Write `to_json` to a file."""
        write_atomically(path, (json.dumps(self.to_json(), indent=1) + "\n").encode())

    def write_html(self, path: str | Path) -> None:
        """Write `to_html` to a file."""
        write_atomically(path, self.to_html().encode())

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

    def _groups(self) -> Iterator[tuple[Severity, str, list[Finding]]]:
        def kind(finding: Finding) -> tuple[int, str]:
            return _SEVERITIES.index(finding.severity), finding.check

        for (rank, check), findings in groupby(sorted(self.findings, key=kind), kind):
            yield _SEVERITIES[rank], check, list(findings)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data set report</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.4rem; overflow-wrap: anywhere; }}
th {{ text-align: left; vertical-align: top; padding-right: 1.5rem; font-weight: 600; }}
details {{ border-left: 4px solid; padding: .2rem .8rem; margin: .6rem 0; background: #f7f7f7; }}
summary {{ cursor: pointer; font-weight: 600; }}
li {{ overflow-wrap: anywhere; }}
.ok {{ color: #17733b; }} p.error {{ color: #b3261e; }}
details.error {{ border-color: #b3261e; }} details.warning {{ border-color: #c77700; }}
details.note {{ border-color: #5b7083; }}
</style>
<h1>{root}</h1>
<p class="{state}">{verdict}</p>
<table>{facts}</table>
{groups}
</html>
"""
