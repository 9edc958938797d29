"""Reduce the errors of onnx and ONNX Runtime to one line: which node, and what is wrong with it.

Their messages have error numbers, places in C++ sources and signatures of functions, none of which a user can act on. Neither of the
two is imported.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnkit.messages import excerpt

if TYPE_CHECKING:
    from onnx import NodeProto

_LONGEST = 200  # characters of a reason
_ANY = r"(?P<node>[^'\"]*?)"
# How a message names the node, and the rest of the message.
_NODES = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        rf"Non-zero status code returned while running (?P<op>\w+) node\. Name:'{_ANY}' Status Message: (?P<rest>.*)",
        rf"Node \({_ANY}\) Op \((?P<op>\w+)\) \[\w+Error\] (?P<rest>.*)",
        rf'This is an invalid model\. In Node, \("{_ANY}", (?P<op>\w+), .*?, Error (?P<rest>.*)',
    )
)
# Features missing from ONNX Runtime, or from this version of it; the graph may be valid.
_NO_KERNEL = re.compile(
    rf"Could not find an implementation for (?P<op>\w+)\((?P<version>\d+)\) node with name '{_ANY}'"
)
_NO_OPERATOR = re.compile(r"(?P<domain>[\w.]*):(?P<op>\w+)\(-?\d+\) is not a registered function/op")
_NO_SCHEMA = re.compile(r"No Op registered for (?P<op>\w+) with domain_version")
_MAY_BE_SOUND = re.compile(
    r"Unsupported model IR version|No opset import for domain|Type 'tensor\(\w+\)' of input parameter|"
    r"is marked single but has an empty string"  # as exporters write Resize of opset 11
)

_NEW_OPSET = re.compile(r"Opset (?P<has>\d+) is under development.*till opset (?P<known>\d+)", re.DOTALL)
_CODE = re.compile(
    r"\[(ONNXRuntimeError|\w+InferenceError)\][ :]*|\b\d+ : [A-Z_]{4,} : |Exception during initialization: |"
    r"This is an invalid model\. (Type )?(Error: )?"
)
_ARGUMENTS = r"\((?:[^()]|\([^()]*\))*\)"
# "/a/b/pool.h:88 onnxruntime::Pool::Pool(const Info&) const [with T = float] ", "conv.cc:261 Compute "
_PLACE = re.compile(
    rf"\S+\.(?:cc|cpp|cu|cuh|h|hpp):\d+ (?:[\w :<>*&{{}}~,]*{_ARGUMENTS}(?:{_ARGUMENTS})?(?: const)?(?: \[with [^\]]*\])?|\w+) "
)
_DEMANDED = re.compile(r"(?P<demand>.+?) was false\.\s*(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a graph is refused.

    `named`: the text begins with the node. `lacking`: this ONNX Runtime lacks a feature, so that the graph may be valid.
    """

    text: str
    named: bool = False
    lacking: bool = False


def read(error: BaseException | str, nodes: "Iterable[NodeProto]" = ()) -> Refusal:
    """Parse an error of onnx or ONNX Runtime.

    Args:
        error: The exception or its message.
        nodes: The nodes of the graph, for a node's name and domain if the message omits them.
    """
    text = str(error).strip()
    for pattern in (_NO_KERNEL, _NO_OPERATOR, _NO_SCHEMA):
        if (found := pattern.search(text)) is not None:
            return Refusal(_lacks(found.groupdict(), text, nodes), lacking=True)
    if (found := _NEW_OPSET.search(text)) is not None:
        return Refusal(
            f"its operators are of opset {found['has']}, newer than the supported {found['known']}", lacking=True
        )
    named = any(pattern.search(text) for pattern in _NODES)
    return Refusal(reason(error), named, _MAY_BE_SOUND.search(text) is not None)


def reason(error: BaseException | str) -> str:
    """Return an error's message in one line, after the node that it names."""
    text = str(error).strip()
    found = next((found for pattern in _NODES if (found := pattern.search(text)) is not None), None)
    text = _PLACE.sub("", _CODE.sub("", text if found is None else found["rest"])).strip()
    if (enforced := _DEMANDED.match(text)) is not None:
        demand = re.sub(r"(\w)_\b", r"\1", enforced["demand"])
        text = enforced["rest"] or f"expected {demand}"
    head = ""
    if found is not None:
        head = f"{called(found['node'], found['op'])}: "
        text = re.sub(rf"^{found['op']}( op)? ?: ", "", text)
    lines = text.splitlines() or [type(error).__name__]
    return head + lines[0].strip()[:_LONGEST].removesuffix(" in .").removesuffix(".")


def called(name: str, op: str) -> str:
    """Format a node's name for a message."""
    return f"{excerpt(name)} ({excerpt(op)})" if name else excerpt(op)


def _lacks(found: dict[str, str], text: str, nodes: "Iterable[NodeProto]") -> str:
    """Describe an operator that ONNX Runtime lacks: its domain, and the node that needs it."""
    op, name = found["op"], found.get("node", "")
    for pattern in _NODES:
        if not name and (around := pattern.search(text)) is not None and around["op"] == op:
            name = around["node"]
    node = next((node for node in _all(nodes) if node.op_type == op and name in ("", node.name)), None)
    domain = found.get("domain") or (node.domain if node is not None else "") or "ai.onnx"
    where = name or (node.name if node is not None else "")
    if not where and node is not None:
        where = f'that computes "{excerpt(next(filter(None, node.output), ""))}"'
    version = f", version {found['version']}" if "version" in found else ""
    values = "the values of " if version else ""
    needed = f" for {values}the node {excerpt(where)}" if where else ""
    return f"no operator {excerpt(op)} (domain {excerpt(domain)}{version}){needed}"


def _all(nodes: "Iterable[NodeProto]") -> "Iterable[NodeProto]":
    """Yield nodes, including those of subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _all(graph.node)
