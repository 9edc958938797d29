"""Walk along the nodes of an ONNX graph in the order in which they run, through branches and loops.

Subclasses of `Walk` measure single nodes; `Walk` counts a node's costs as often as it runs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx import GraphProto, NodeProto

from cnnkit.errors import FormatError
from cnnkit.nets.dims import DimsRow
from cnnkit.nets.graph_nodes import STANDARD, Constant, attributes, called, graphs, names_read, well_written
from cnnkit.nets.graph_shapes import Shapes
from cnnkit.nets.graph_standard import Standard, standard
from cnnkit.nets.receptive_field import ReceptiveField, Shape

_MOST_STEPS = 20_000  # nodes run in loops, counting every run
_MOST_ALIKE = 32  # runs of a loop that are followed one by one even if they cost the same

_CONTROL = ("If", "Loop", "Scan", "SequenceMap")


class Walk(ABC):
    """One pass along a graph, with all that is known of the values so far."""

    def __init__(self, path: str, shapes: Shapes) -> None:
        self._path = path
        self._shapes = shapes
        self._fields: dict[str, ReceptiveField] = {}
        # The weights that a value is made of, for values that do not depend on the image
        self._stored: dict[str, frozenset[str]] = {}
        self._constants: dict[str, Constant] = {}
        self._scales: set[str] = set()
        self._blocked: set[str] = set()
        self._rows: dict[int, DimsRow] = {}
        self._bodies: dict[int, Standard] = {}
        self._looping = 0  # the number of loops around the current node
        self._steps = 0

    @abstractmethod
    def _step(self, node: NodeProto) -> None:
        """Measure one node without branches or loops."""

    def walk(self, graph: Standard) -> None:
        """Walk along nodes, which are in the order in which they run."""
        self._constants.update(graph.constants)
        self._scales |= graph.scales
        self._blocked |= graph.blocked
        self._shapes.add(graph.constants)
        self._stored.update({name: frozenset({name}) for name in graph.constants})
        if not graph.nodes:
            self._count_step()  # so that an empty loop ends
        for node in graph.nodes:
            self._count_step()
            with well_written(node, self._path):
                if node.op_type in _CONTROL and node.domain in STANDARD:
                    self._control(node)
                else:
                    self._step(node)

    def _count_step(self) -> None:
        self._steps += self._looping
        if self._steps > _MOST_STEPS:
            raise FormatError(
                f"{self._path}: its loops run more than {_MOST_STEPS} nodes; its multiply-accumulates are not counted"
            )

    def _control(self, node: NodeProto) -> None:
        """Walk along the branches or the body of a node."""
        match node.op_type:
            case "If":
                self._branch(node)
            case "Loop":
                self._loop(node)
            case "Scan":
                self._scan(node)
            case _:
                self._once(node, next(graphs(node)))

    def _body(self, graph: GraphProto) -> Standard:
        if id(graph) not in self._bodies:
            self._bodies[id(graph)] = standard(graph, opset=self._shapes.opset, name=self._path, around=self._constants)
        return self._bodies[id(graph)]

    def _same(self, name: str, other: str) -> None:
        """Set all that is known of a value to that of another one, as for the input of a body and of its node."""
        self._shapes.copy(name, other)
        self._fields.pop(name, None)
        self._stored.pop(name, None)
        if other in self._fields:
            self._fields[name] = self._fields[other]
        if other in self._stored:
            self._stored[name] = self._stored[other]

    def _start(self, name: str, other: str) -> None:
        """Set the start of a value that a loop carries on; it does not count as a weight."""
        self._same(name, other)
        self._stored.pop(name, None)
        self._fields.setdefault(name, ReceptiveField())

    def _branch(self, node: NodeProto) -> None:
        """Walk along the branch that runs; if that is unknown, along both, which must cost the same."""
        bodies = {name: value for name, value in attributes(node).items() if name in ("then_branch", "else_branch")}
        condition = self._shapes.values.get(node.input[0])
        if condition is not None:
            body = bodies["then_branch" if bool(condition.all()) else "else_branch"]
            self.walk(self._body(body))
            for outer, inner in zip(node.output, body.output, strict=True):
                self._same(outer, inner.name)
            return
        costs, shapes = [], []
        for body in (bodies["else_branch"], bodies["then_branch"]):
            before = dict(self._rows)
            self.walk(self._body(body))
            own = {key: row for key, row in self._rows.items() if row is not before.get(key)}
            costs.append(sum(row.macs - (before[key].macs if key in before else 0) for key, row in own.items()))
            shapes.append([self._shapes.get(value.name) for value in body.output])
            if len(costs) == 1:
                self._rows.update(
                    {key: replace(row, macs=before[key].macs if key in before else 0) for key, row in own.items()}
                )
        if costs[0] != costs[1]:
            raise FormatError(
                f"{self._path}: the branches of {called(node)} differ in their multiply-accumulates, and the file does not "
                "determine which one runs"
            )
        for place, (outer, inner) in enumerate(zip(node.output, bodies["then_branch"].output, strict=True)):
            self._same(outer, inner.name)
            self._fields.setdefault(outer, ReceptiveField())
            if shapes[0][place] != shapes[1][place]:
                self._shapes.forget(outer)

    def _loop(self, node: NodeProto) -> None:
        """Walk along the body of a loop as often as the file says that it runs."""
        body = attributes(node)["body"]
        trips, condition = (self._shapes.values.get(name) if name else None for name in (*node.input[:2], "")[:2])
        most = int(trips.item()) if trips is not None else None
        if condition is not None and not bool(condition):
            most = 0
        graph = self._body(body)
        counter, going, *names = [value.name for value in body.input]
        goes_on, *outputs = [value.name for value in body.output]
        carried = dict(zip(names, outputs, strict=False))
        for inner, outer in zip(names, node.input[2:], strict=True):
            self._start(inner, outer)
        passed_on = self._passes_condition(body)
        known = not (passed_on and most is None) and (not node.input[1] or condition is not None)
        done, counted = 0, self._total()
        self._looping += 1
        while most is None or done < most:
            before, rows = self._state(names), dict(self._rows)
            self._shapes.set_number(counter, done)
            self._shapes.set_number(going, True)
            self.walk(graph)
            done += 1
            ends = self._shapes.values.get(goes_on)
            known &= passed_on or ends is not None
            if not known:
                if self._total() != counted:
                    raise FormatError(
                        f"{self._path}: the file does not determine how often {called(node)} runs; its multiply-accumulates "
                        "cannot be counted"
                    )
                break
            for inner, result in carried.items():
                self._same(inner, result)
            if not passed_on and not bool(ends):
                break
            alike = passed_on and None not in before and before == self._state(names) and not _reads(body, counter)
            if most is not None and alike and most - done > _MOST_ALIKE:
                self._repeat(rows, most - done)
                self._fields.update(dict.fromkeys(names, ReceptiveField()))
                done = most
        self._looping -= 1
        for outer, inner in zip(node.output, (*names, *outputs[len(names) :]), strict=True):
            self._same(outer, inner)
            self._fields.setdefault(outer, ReceptiveField())
            changes = inner in carried and self._shapes.get(inner) != self._shapes.get(carried[inner])
            if not known and changes:
                self._shapes.forget(outer)
        for outer in node.output[len(names) :]:  # one for each run
            shape = self._shapes.get(outer)
            self._fields[outer] = ReceptiveField()
            if shape is None or not known:
                self._shapes.forget(outer)
            else:
                self._shapes.set_shape(outer, (done, *shape))

    def _state(self, names: Sequence[str]) -> list[Shape | None]:
        """Return the shapes of what a loop carries on; None where values are known, too, since they may change the next run."""
        return [None if name in self._shapes.values else self._shapes.get(name) for name in names]

    def _repeat(self, before: Mapping[int, DimsRow], times: int) -> None:
        """Add the costs measured since `before` again, `times` times."""
        for key, row in self._rows.items():
            old = before.get(key)
            if row is not old:
                self._rows[key] = replace(
                    row,
                    macs=row.macs + times * (row.macs - (old.macs if old else 0)),
                    activation_bytes=row.activation_bytes
                    + times * (row.activation_bytes - (old.activation_bytes if old else 0)),
                    dropped=row.dropped + times * (row.dropped - (old.dropped if old else 0)),
                    receptive_field=None,
                    stride=None,
                )

    def _passes_condition(self, body: GraphProto) -> bool:
        """Check whether a loop's body returns its condition unchanged."""
        made = {output: node for node in body.node for output in node.output}
        name = body.output[0].name
        while name in made and made[name].op_type == "Identity":
            name = made[name].input[0]
        return bool(name == body.input[1].name)

    def _total(self) -> int:
        return sum(row.macs for row in self._rows.values())

    def _scan(self, node: NodeProto) -> None:
        """Walk along the body of a scan once for each slice of its inputs."""
        attrs = attributes(node)
        body, slices = attrs["body"], attrs["num_scan_inputs"]
        inputs, names = list(node.input), [value.name for value in body.input]
        states = len(inputs) - slices
        axes = list(attrs.get("scan_input_axes", [0] * slices))
        length = 0
        for inner, outer in zip(names[:states], inputs[:states], strict=True):
            self._start(inner, outer)
        for inner, outer, axis in zip(names[states:], inputs[states:], axes, strict=True):
            shape = self._shapes[outer]
            length = shape[axis]
            self._same(inner, outer)
            self._shapes.set_shape(inner, (*shape[: axis % len(shape)], *shape[axis % len(shape) + 1 :]))
        graph, outputs = self._body(body), [value.name for value in body.output]
        self._looping += 1
        for _ in range(length):
            self.walk(graph)
            for inner, result in zip(names[:states], outputs[:states], strict=True):
                self._same(inner, result)
        self._looping -= 1
        for outer, inner in zip(node.output, outputs, strict=True):
            self._same(outer, inner)
            self._fields[outer] = ReceptiveField()
        for outer in node.output[states:]:
            shape = self._shapes[outer]
            axis = (
                0
                if "scan_output_axes" not in attrs
                else attrs["scan_output_axes"][list(node.output[states:]).index(outer)]
            )
            axis %= len(shape) + 1
            self._shapes.set_shape(outer, (*shape[:axis], length, *shape[axis:]))

    def _once(self, node: NodeProto, body: GraphProto) -> None:
        """Walk along a body whose number of runs is unknown; it must not multiply."""
        counted = self._total()
        self.walk(self._body(body))
        if self._total() != counted:
            raise FormatError(
                f"{self._path}: the file does not determine how often {called(node)} runs; its multiply-accumulates "
                "cannot be counted"
            )
        self._fields.update(dict.fromkeys(node.output, ReceptiveField()))


def _reads(body: GraphProto, name: str) -> bool:
    """Check whether a node of a body reads a value."""
    return any(name in names_read(node) for node in body.node)
