"""The results of a check, as records and as tables for a terminal."""

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from cnnkit.audit.findings import labels_of
from cnnkit.audit.inspection import InspectedImage
from cnnkit.audit.record import Finding, FindingKind, Level, Pair, Probe
from cnnkit.choices import CheckTable
from cnnkit.data.source import ImageFile

#: The number of findings of each kind listed on a terminal.
_LISTED = 10


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The results of a check.

    `sound` are the usable images, each file once; `pairs` those of them that belong together; `again` repeated listings with their
    first ones; `together[i]` is the same number for all images that belong together.
    """

    listed: int
    findings: list[Finding]
    probes: list[Probe]
    sound: list[ImageFile]
    inspected: list[InspectedImage]
    pairs: list[Pair]
    again: list[Pair]
    together: list[int]

    def count(self, level: Level) -> int:
        """Count the findings of a level."""
        return sum(finding.level is level for finding in self.findings)

    def classes(self) -> list[dict[str, Any]]:
        """Summarize each class or label: the number of images, also by split, and their sizes (smallest, median, largest)."""
        members: dict[str, list[int]] = {}
        for place, image in enumerate(self.sound):
            for label in labels_of(image) or ("(none)",):
                members.setdefault(label, []).append(place)
        splits = sorted({image.split for image in self.sound if image.split is not None})
        records = []
        for label, places in sorted(members.items()):
            held = Counter(self.sound[place].split for place in places)
            record: dict[str, Any] = {"class": label, "images": len(places), "share": len(places) / len(self.sound)}
            record |= {split: held[split] for split in splits}
            seen = [self.inspected[place] for place in places]
            for name, values in (
                ("width", [each.width for each in seen]),
                ("height", [each.height for each in seen]),
                ("aspect", [each.width / each.height for each in seen]),
            ):
                record |= {f"{name}_min": min(values), name: statistics.median(values), f"{name}_max": max(values)}
            records.append(record)
        return records

    def rows(self, table: CheckTable) -> list[dict[str, Any]]:
        """Return one of the tables as records."""
        match table:
            case CheckTable.FINDINGS:
                return [asdict(finding) for finding in self.findings]
            case CheckTable.CLASSES:
                return self.classes()
            case CheckTable.PROBES:
                return [asdict(each) for each in self.probes]

    def tables(self, wanted: CheckTable | None = None) -> dict[str, list[dict[str, Any]]]:
        """Return one of the tables, or all, for a terminal, by title."""
        made = {
            CheckTable.FINDINGS: self._shown_findings,
            CheckTable.CLASSES: self._shown_classes,
            CheckTable.PROBES: self._shown_probes,
        }
        shown = [made[table]() for table in ([wanted] if wanted else CheckTable)]
        return {title: rows for tables in shown for title, rows in tables.items() if rows}

    def _shown_findings(self) -> dict[str, list[dict[str, Any]]]:
        """Make a table for each level, without the column level."""
        tables = {}
        for level in Level:
            rows = [asdict(each) for each in _listed([each for each in self.findings if each.level is level])]
            tables[f"{level.capitalize()}s"] = [
                {name: value for name, value in row.items() if name != "level"} for row in rows
            ]
        return tables

    def _shown_classes(self) -> dict[str, list[dict[str, Any]]]:
        shown = []
        for record in self.classes():
            for name, digits in (("width", "g"), ("height", "g"), ("aspect", ".2f")):
                low, middle, high = (record.pop(key) for key in (f"{name}_min", name, f"{name}_max"))
                record[name] = f"{middle:{digits}} ({low:{digits}}–{high:{digits}})"
            shown.append({**record, "share": f"{record['share']:.1%}"})
        return {"Classes": shown}

    def _shown_probes(self) -> dict[str, list[dict[str, Any]]]:
        rows = [
            {
                "target": each.target,
                "probe": each.probe,
                "accuracy": f"{each.accuracy:.3f}",
                "95 % interval": f"{each.accuracy_low:.3f} to {each.accuracy_high:.3f}",
                "chance": f"{each.chance:.3f}",
                "p": f"{each.p_value:.2g}",
                "leaks": "yes" if each.leaks else "",
            }
            for each in self.probes
        ]
        return {"Leak probes": rows}


def columns(table: CheckTable) -> tuple[str, ...] | None:
    """Return the columns of a table that may have no rows."""
    record = {CheckTable.FINDINGS: Finding, CheckTable.PROBES: Probe}.get(table)
    return None if record is None else tuple(each.name for each in fields(record))


def _listed(found: Sequence[Finding]) -> Iterator[Finding]:
    """Yield the first findings of each kind, all of one level, and the number of further ones."""
    counts = Counter(finding.finding for finding in found)
    given: Counter[FindingKind] = Counter()
    for finding in found:
        given[finding.finding] += 1
        if given[finding.finding] <= _LISTED:
            yield finding
        elif given[finding.finding] == _LISTED + 1:
            more = counts[finding.finding] - _LISTED
            yield replace(finding, path=f"and {more:,} more", other=None, detail="")
