"""The bounds and classes of a report as test results, in the XML of JUnit that CI systems read.

Source: junit-10.xsd of Jenkins' xunit plugin, by which pytest's `--junitxml` is checked, too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from xml.etree.ElementTree import Element

from cnnkit.report.content import Gate, ReportContent
from cnnkit.report.label_content import LabelContent
from cnnkit.report.markup import element, xml


def render(report: ReportContent | LabelContent) -> str:
    """Render the results: a test for each bound on a measure of all images, and one for each class, with the bounds on its measures."""
    overall = [_case(gate.condition, "bounds", [gate], _words(gate)) for gate in report.gates if gate.of_class is None]
    suites = [_suite("bounds", overall), _suite("classes", list(_classes(report)))]
    return xml(element("testsuites", {"name": report.title, **_counts([*suites[0], *suites[1]])}, suites))


def _classes(report: ReportContent | LabelContent) -> Iterator[Element]:
    for label, values in report.evaluation.per_class.items():
        gates = [gate for gate in report.gates if gate.of_class == label]
        measures = asdict(values)
        words = ", ".join(f"{key} {'unknown' if value is None else f'{value:.6g}'}" for key, value in measures.items())
        yield _case(label, "classes", gates, words)


def _words(gate: Gate) -> str:
    return f"{gate.measure} is {'not known' if gate.value is None else f'{gate.value:.6g}'}"


def _case(name: str, group: str, gates: Sequence[Gate], words: str) -> Element:
    """Make a test, with a failure for each bound that is not met."""
    failures = [
        element(
            "failure",
            {"message": f"{_words(gate)}, expected {gate.condition}", "type": "bound"},
            f"{_words(gate)}, expected {gate.condition}",
        )
        for gate in gates
        if not gate.met
    ]
    return element(
        "testcase", {"name": name, "classname": f"cnn-report.{group}"}, failures, element("system-out", {}, words)
    )


def _suite(name: str, cases: Sequence[Element]) -> Element:
    return element("testsuite", {"name": name, **_counts(cases)}, cases)


def _counts(cases: Sequence[Element]) -> dict[str, object]:
    failed = sum(case.find("failure") is not None for case in cases)
    return {"tests": len(cases), "failures": failed, "errors": 0}
