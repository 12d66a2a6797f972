"""What a compiled program moves, read from its text: collectives, and bytes to and from memory.

The text is that of one device. The body of a loop counts as often as it runs, which XLA's own cost
analysis does not do.
"""

import collections
import math
import re
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# These name, group or reinterpret values and touch no memory of their own; calls are walked into.
_FREE = frozenset(
    [
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "while",
        "conditional",
        "call",
        "after-all",
        "partition-id",
        "replica-id",
        "opt-barrier",
        "async-start",
        "async-update",
        "async-done",
        "domain",
    ]
)
_SAME = ("copy", "bitcast", "convert")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation|called_computation)="
    r"%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":"?(\d+)')


class Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    operands: list[str]
    rest: str


class Collective(NamedTuple):
    """Collectives of one kind and size: how often one device takes part in a step, bytes of each."""

    kind: str
    times: int
    bytes: int


class Program:
    """The computations of a compiled program's text.

    `unknown_loops` are the loops met so far whose trips could not be read: they count as one.
    """

    def __init__(self, text: str):
        self._outer: dict[str, tuple[str, str, str]] = {}
        self.unknown_loops: set[str] = set()
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.roots: dict[str, Instruction] = {}
        self.entry = ""
        current: dict[str, Instruction] = {}
        name = ""
        for line in text.splitlines():
            header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
            if header:
                name, current = header[2], {}
                self.computations[name] = current
                self.entry = name if header[1] else self.entry
                continue
            found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$", line)
            if found and name:
                instruction = _instruction(found[2], found[3])
                current[found[2]] = instruction
                if found[1]:
                    self.roots[name] = instruction

    def collectives(self) -> list[Collective]:
        """By kind and size, the largest total first.

        A collective that is spread over fused operations, to run beside them, appears in each of them
        with one channel: it counts where it appears least often, outside the loops it runs beside.
        """
        found: dict[str, tuple[str, int, int]] = {}

        def visit(computation, times):
            for instruction in self.computations[computation].values():
                kind = instruction.opcode.removesuffix("-start")
                if kind in COLLECTIVES:
                    channel = re.search(r"channel_id=(\d+)", instruction.rest)
                    key = channel[0] if channel else f"{computation}/{instruction.name}"
                    size = self._payload(computation, instruction)
                    _, least, largest = found.get(key, (kind, times, size))
                    found[key] = (kind, min(least, times), max(largest, size))
                for callee, repeats in self._callees(computation, instruction):
                    visit(callee, times * repeats)

        visit(self.entry, 1)
        totals: collections.Counter[tuple[str, int]] = collections.Counter()
        for kind, times, size in found.values():
            totals[kind, size] += times
        rows = [Collective(kind, times, size) for (kind, size), times in totals.items()]
        return sorted(rows, key=lambda row: (-row.times * row.bytes, row.kind))

    def bytes_moved(self) -> int:
        """Bytes that every fused operation reads from and writes to the chip's memory, summed.

        A slice that is read, or written in place, counts as its own size; what the compiler keeps in
        memory on the chip's core counts nothing. An estimate: it knows no caches.
        """

        def visit(computation, times):
            total = 0
            for instruction in self.computations[computation].values():
                if instruction.opcode in _FREE:
                    for callee, repeats in self._callees(computation, instruction):
                        total += visit(callee, times * repeats)
                elif not instruction.opcode.endswith("-done"):
                    total += times * self._traffic(computation, instruction)
            return total

        return visit(self.entry, 1)

    def _callees(self, computation, instruction):
        """(computation, how often it runs) of what an instruction calls."""
        names = _CALLED.findall(instruction.rest)
        for group in _BRANCHES.findall(instruction.rest):
            names += [name.strip().lstrip("%") for name in group.split(",")]
        repeats = 1
        if instruction.opcode == "while":
            repeats = self._trips(computation, instruction)
            if repeats is None:
                self.unknown_loops.add(instruction.name)
                repeats = 1
        return [(name, repeats) for name in names if name in self.computations]

    def _trips(self, computation, loop):
        """How often a loop runs: as the compiler says, or from its counter, bound and step."""
        known = _TRIPS.search(loop.rest)
        if known:
            return int(known[1])
        condition, body = (
            re.search(rf"{k}=%?([\w.\-]+)", loop.rest)[1] for k in ("condition", "body")
        )
        for name in (condition, body):
            self._outer[name] = (computation, loop.operands[0], body)
        test = self.roots[condition]
        values, sides = self.computations[condition], test.operands
        if test.opcode == "fusion":
            (callee, _), *_ = self._callees(condition, test)
            inner, test = self.computations[callee], self.roots[callee]
            sides = [
                sides[int(re.match(r"\d+", inner[n].rest)[0])]
                if inner[n].opcode == "parameter"
                else n
                for n in test.operands
            ]
            values = {**inner, **values}
        if test.opcode != "compare" or "direction=LT" not in test.rest:
            return None
        counter = values[sides[0]]
        if counter.opcode != "get-tuple-element":
            return None
        index = _index(counter)
        bound = values[sides[1]]
        constant = bound.opcode == "constant"
        stop = int(bound.rest.split(")")[0]) if constant else self._constant(condition, sides[1])
        start = self._element(computation, loop.operands[0], index)
        step = self._step(body, index)
        if stop is None or start is None or step is None:
            return None
        return -(-(stop - start) // step)

    def _step(self, body, index):
        """What a loop's body adds to its counter."""
        values, root = self.computations[body], self.roots[body]
        if root.opcode != "tuple":
            return None
        added = values[root.operands[index]]
        while added.opcode in _SAME:
            added = values[added.operands[0]]
        if added.opcode != "add":
            return None
        steps = [self._constant(body, name) for name in added.operands]
        return next((step for step in steps if step is not None), None)

    def _element(self, computation, name, index):
        source = self.computations[computation][name]
        if source.opcode == "tuple":
            return self._constant(computation, source.operands[index])
        if source.opcode == "parameter" and computation in self._outer:
            outer, start, body = self._outer[computation]
            if self._passes_on(body, index):
                return self._element(outer, start, index)
        return None

    def _passes_on(self, body, index):
        """Whether an element of a loop's tuple never changes."""
        root = self.roots[body]
        if root.opcode != "tuple":
            return False
        kept = self.computations[body][root.operands[index]]
        return kept.opcode == "get-tuple-element" and _index(kept) == index

    def _constant(self, computation, name):
        """The integer that a value is known to be, or None."""
        found = self.computations[computation].get(name)
        if found is None:
            return None
        if found.opcode == "constant":
            number = re.match(r"-?\d+", found.rest)
            return int(number[0]) if number else None
        if found.opcode in _SAME:
            return self._constant(computation, found.operands[0])
        if found.opcode == "get-tuple-element":
            return self._element(computation, found.operands[0], _index(found))
        return None

    def _payload(self, computation, instruction):
        """The larger of what goes in and what comes out: the whole buffer of a gather or scatter."""
        inputs = sum(
            _size(self.computations[computation][name].type)
            for name in instruction.operands
            if name in self.computations[computation]
        )
        if instruction.opcode.endswith("-start") and instruction.type.startswith("("):
            # (operands, results, ...): the results are what is not the operands.
            return max(inputs, _size(instruction.type) - inputs)
        return max(inputs, _size(instruction.type))

    def _traffic(self, computation, instruction):
        values = self.computations[computation]
        operands = [values[name] for name in instruction.operands if name in values]
        if instruction.opcode == "fusion":
            (callee, _), *_ = self._callees(computation, instruction) or [(None, 1)]
            if callee is not None:
                return self._fusion_traffic(callee, instruction, operands)
        return _direct_traffic(instruction, operands, values)

    def _fusion_traffic(self, callee, fusion, operands):
        inner = self.computations[callee]
        parameters = sorted(
            (i for i in inner.values() if i.opcode == "parameter"),
            key=lambda i: int(re.match(r"\d+", i.rest)[0]),
        )
        root = self.roots[callee]
        total = 0
        written = _written(root, inner)
        for parameter, operand in zip(parameters, operands, strict=False):
            if not _size(operand.type, memory=True):
                continue
            users = _users(parameter.name, inner)
            if users and all(u.opcode in ("dynamic-slice", "slice", "gather") for u in users):
                total += sum(_size(u.type) for u in users)
            elif not (
                users
                and all(
                    u.name in written and u.operands[0] in _chain(parameter.name, inner)
                    for u in users
                )
            ):
                total += _size(operand.type, memory=True)
        if written:
            updates = sum(_size(inner[u.operands[1]].type) for u in written.values())
            whole = sum(_size(u.type) for u in written.values())
            return total + max(_size(fusion.type, memory=True) - whole, 0) + updates
        return total + _size(fusion.type, memory=True)


def _instruction(name, text):
    text = re.sub(r"/\*.*?\*/", "", text)
    if text.startswith("("):
        end = _closing(text, 0) + 1
        kind, text = text[:end], text[end:].lstrip()
    else:
        kind, _, text = text.partition(" ")
    opcode, _, _ = text.partition("(")
    end = _closing(text, len(opcode))
    inside, rest = text[len(opcode) + 1 : end], text[end + 1 :]
    if opcode in ("parameter", "constant"):
        return Instruction(name, kind, opcode, [], f"{inside}){rest}")
    operands = [part for part in re.findall(r"%([\w.\-]+)", inside)]
    if not operands and inside:
        operands = [part.split()[-1] for part in inside.split(",") if part.strip()]
    return Instruction(name, kind, opcode.strip(), operands, rest)


def _index(instruction):
    return int(re.search(r"index=(\d+)", instruction.rest)[1])


def _closing(text, start):
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text)


def _size(kind, *, memory=False):
    """Bytes of an array or tuple type; with `memory`, of what does not stay on the core."""
    total = 0.0
    for dtype, axes, layout in _ARRAY.findall(kind):
        if memory and re.search(r"S\([1-9]\d*\)", layout):
            continue
        total += _width(dtype) * math.prod(int(a.lstrip("<=")) for a in axes.split(",") if a)
    return math.ceil(total)


def _width(dtype):
    if dtype == "pred":
        return 1
    bits = re.match(r"[a-z]+(\d+)", dtype)
    return int(bits[1]) / 8 if bits else 0


def _users(name, instructions):
    """Who reads a value, through reinterpretations of it."""
    found = []
    for instruction in instructions.values():
        if name in instruction.operands:
            through = instruction.opcode == "bitcast"
            found += _users(instruction.name, instructions) if through else [instruction]
    return found


def _chain(name, instructions):
    """A value's name and those of its reinterpretations."""
    names = {name}
    for instruction in instructions.values():
        if instruction.opcode == "bitcast" and instruction.operands[0] in names:
            names.add(instruction.name)
    return names


def _written(root, instructions):
    """The updates in place that a fusion ends in, by name."""
    ends = [root]
    if root.opcode == "tuple":
        ends = [instructions[name] for name in root.operands]
    found = {}
    for end in ends:
        while end.opcode == "bitcast":
            end = instructions[end.operands[0]]
        if end.opcode == "dynamic-update-slice":
            found[end.name] = end
    return found


def _direct_traffic(instruction, operands, values):
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * _size(instruction.type, memory=True)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _size(values[instruction.operands[1]].type, memory=True)
    if instruction.opcode == "copy-start":
        # (destination, source, context): each end counts if it is in memory.
        return _size(instruction.type, memory=True)
    read = sum(_size(operand.type, memory=True) for operand in operands)
    return read + _size(instruction.type, memory=True)
