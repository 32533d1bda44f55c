"""The reference page of system calls: read off the table, the forms, and the plans of the gate."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import get_args

from pages import ROOT, table, text

from groove_trio.rules import syscalls
from groove_trio.rules.bpf import STILL_ABSENT
from groove_trio.rules.calls import FORMS
from groove_trio.rules.syscalls import CALLS, NEWEST, Call, Test
from groove_trio.shell import deeds
from groove_trio.words.knocks import Operation

AT_GATE = {"knock": "asks", "refuse": "EPERM, recorded", "absent": "ENOSYS"}
OPERATIONS = frozenset(get_args(Operation))
SHELL = ROOT / "groove_trio" / "shell"
WORDS = {
    syscalls.FILE_IOCTLS: "the command changes a file",
    syscalls.TERMINAL_IOCTLS: "the command types into a terminal",
    (syscalls.AF_UNIX,): "the domain is AF_UNIX",
    (2, 3): "the type is datagram",
    (1024,): "the command is F_SETLEASE",
    syscalls.TERMINAL_IOCTLS + syscalls.ODD_IOCTLS: (
        "the command types into a terminal, or changes files of one file system"
    ),
    (0x9400, 0xBC00): "the command is of btrfs or bcachefs",
    syscalls.CLONING: "it does not clone",
    (0,): "it names a process or group",
    (2,): "it is about all of a user's",  # PRIO_USER
    (3,): "it is about all of a user's",  # IOPRIO_WHO_USER
}


def condition(test: Test) -> str:
    """One condition, in words where there are some."""
    if test.mask == syscalls.WRITE_INTENT:
        return "the flags can change something"
    if test.mask == syscalls.NEW_NAMESPACES:
        return "the flags ask for a new namespace"
    values = ", ".join(f"{value:#x}" for value in test.values)
    plain = f"argument {test.argument} & {test.mask:#x} is {'not ' * test.negate}{values}"
    return WORDS.get(test.values, plain)


def functions(module: str) -> dict[str, ast.AST]:
    """The functions of a module of the shell, by name."""
    body = ast.parse((SHELL / f"{module}.py").read_text("utf-8")).body
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name: node for node in body if isinstance(node, kinds)}


def asked(name: str, known: dict[str, ast.AST]) -> Iterator[str]:
    """The operations that a plan asks about, those of the plans that it hands on to included."""
    for node in ast.walk(known[name]):
        match node:
            case ast.Tuple(elts=[ast.Constant(value=str(operation)), _]) if operation in OPERATIONS:
                yield operation
            case ast.Call(func=ast.Name(id=called)) if called in known and called != name:
                yield from asked(called, known)


def plans() -> dict[str, str]:
    """The operations that each deed asks about, by the deed's name."""
    found: dict[str, str] = {}
    for deed, plan in deeds._PLANS.items():  # noqa: SLF001 - the table itself
        known = functions(plan.__module__.rpartition(".")[2])
        operations = ", ".join(f"`{each}`" for each in dict.fromkeys(asked(plan.__name__, known)))
        found[deed] = operations or "nothing"
    return found


def row(call: Call) -> list[str]:
    """One call."""
    numbers = ["" if each is None else str(each) for each in (call.x86_64, call.aarch64)]
    when = " and ".join(condition(test) for test in call.when)
    deed = FORMS[call.name]((0,) * 6).name if call.answer == "knock" else ""
    wall = "goes through"
    if call.answer == "refuse":
        wall = "EPERM"
    elif call.answer == "absent" and call.name in STILL_ABSENT:
        wall = "ENOSYS"
    return [f"`{call.name}`", *numbers, when, AT_GATE[call.answer], deed, wall]


def syscalls_page() -> str:
    """Every system call that does not simply go through, and what becomes of it."""
    found = [[f"`{deed}`", operations] for deed, operations in plans().items()]
    head = ["call", "x86_64", "aarch64", "where", "at level gate", "deed", "at level wall"]
    return (
        "# System calls\n\nWhat the filter does with the system calls of an agent's processes. "
        "How it works, and what is left open: [containment](../discussion/containment.md).\n\n"
        f"{text(syscalls)}\n\nThe newest call that is let through is number {NEWEST}. At level "
        "wall nobody answers: what would be asked goes through, to be held by Landlock as far as "
        "that goes.\n\n## Calls\n\n"
        + table(head, [row(call) for call in CALLS])
        + "\n## Deeds\n\nWhat the calls come to, and the operations that the broker is asked "
        "about; all must be granted.\n\n" + table(["deed", "asks about"], found)
    )
