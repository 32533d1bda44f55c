"""The reference pages, each a function of the code it describes."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import msgspec
from msgspec import inspect as shape

from groove_trio import verify
from groove_trio.api.openapi import EVERYWHERE
from groove_trio.api.routes import FEED_PATH, ROUTES
from groove_trio.cli import main as command
from groove_trio.config import Config
from groove_trio.rules import chain, lifecycle
from groove_trio.words import (
    actors,
    agents,
    audit,
    base,
    credentials,
    daemon,
    errors,
    events,
    knocks,
    leases,
    output,
    schemas,
)

ROOT = Path(__file__).parents[1]


# Types as a reader sees them

PLAIN = {
    "AnyType": "any JSON",
    "BoolType": "boolean",
    "FloatType": "number",
    "IntType": "integer",
    "NoneType": "null",
    "RawType": "any JSON",
    "StrType": "string",
}


def linked(cls: type) -> str:
    """A struct's name as a link to its entry."""
    page = "events.md" if cls.__module__ == events.__name__ else "schemas.md"
    return f"[{cls.__name__}]({page}#{cls.__name__.lower()})"


def bounds(kind: Any) -> str:
    """What a field's type demands beyond its kind, such as `` (1 to 50 characters)``."""
    low, high = getattr(kind, "min_length", None), getattr(kind, "max_length", None)
    unit = "characters" if isinstance(kind, shape.StrType) else "items"
    if low is None and high is None:
        low, high, unit = getattr(kind, "ge", None), getattr(kind, "le", None), ""
    parts = []
    if high is not None:
        parts.append(f"{low or 0:g} to {high:,g} {unit}".replace(",", " ").rstrip())
    if pattern := getattr(kind, "pattern", None):
        parts.append(f"`{pattern}`")
    return f" ({', '.join(parts)})" if parts else ""


def named(kind: Any) -> str:
    """A type in a reader's words, schemas as links."""
    match kind:
        case shape.StructType(cls=cls):
            return linked(cls)
        case shape.ListType(item_type=item):
            return f"list of {named(item)}{bounds(kind)}"
        case shape.DictType(key_type=key, value_type=value):
            return f"object of {named(key)} to {named(value)}{bounds(kind)}"
        case shape.UnionType(types=types):
            return " or ".join(named(each) for each in types)
        case shape.LiteralType(values=values):
            return ", ".join(f"`{value}`" for value in values)
        case shape.Metadata(type=inner):
            return named(inner)
    return PLAIN[type(kind).__name__] + bounds(kind)


def default(field: shape.Field) -> str:
    """What a field is when left out; empty where it may not be."""
    if field.required:
        return ""
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{msgspec.json.encode(field.default_factory()).decode()}`"
    if field.default is msgspec.NODEFAULT:
        return "unset"
    return f"`{msgspec.json.encode(field.default).decode()}`"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def text(thing: object) -> str:
    """A docstring in Markdown: double backticks become single."""
    return (inspect.getdoc(thing) or "").replace("``", "`").strip()


def struct_entry(cls: type[msgspec.Struct]) -> str:
    """One schema or event: what it is for and its fields."""
    info = shape.type_info(cls)
    rows = [
        [f"`{field.encode_name}`", named(field.type), default(field)]
        for field in getattr(info, "fields", ())
    ]
    told = table(["field", "type", "if left out"], rows) if rows else "No fields.\n"
    return f"## {cls.__name__}\n\n{text(cls)}\n\n{told}"


def structs_of(module: ModuleType, base: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """The structs that a module defines, in the order it defines them."""
    return [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, base)
        and thing is not base
        and thing.__module__ == module.__name__
    ]


def all_errors() -> list[type[errors.GrooveError]]:
    """The tree of errors, in the order it is written."""
    return [
        thing
        for thing in vars(errors).values()
        if isinstance(thing, type) and issubclass(thing, errors.GrooveError)
    ]


# The pages

WIDTH = {"terminal_width": 90, "max_content_width": 90}
# As a reader meets them.
WORDS = (actors, agents, output, knocks, leases, credentials, daemon, audit)
BOUND = re.compile(r"^(MAX|MIN|DEFAULT)_|_(S|BYTES|EVENTS)$")
CODE = r"EXIT_|INTERRUPTED|READER_LEFT|UNSUPPORTED$|TEXT$|BINARY$|NETLINK_"
EXIT = re.compile(CODE + r"|NS$")  # codes and units bound nothing


def answer_name(kind: Any) -> str:
    """The type of a route's answer or body."""
    return "any JSON object" if kind is dict else named(shape.type_info(kind))


def routes_page() -> str:
    """Every route of the table, and the WebSocket feed."""
    parts = [
        "# Routes\n\nAll answers are JSON. A refusal is `application/problem+json` (RFC 9457); its "
        "types are listed under [errors](errors.md). The same, for programs: "
        "`GET /api/openapi.json`.\n\nEvery route can answer "
        + ", ".join(f"[{each.slug}](errors.md#{each.slug})" for each in EVERYWHERE)
        + ".\n"
    ]
    for route in ROUTES:
        lines = [f"## {route.method} {route.path}\n\n{route.summary}.".replace("?.", "?"), ""]
        lines.append(f"- who may: {'the owner and agents' if route.agents else 'the owner'}")
        if route.query is not None:
            given = ", ".join(f"`{f.encode_name}`" for f in msgspec.structs.fields(route.query))
            lines.append(f"- query: {given}")
        if route.body is not None:
            lines.append(f"- body: {answer_name(route.body)}")
        lines.append(f"- answer: {route.status}, {answer_name(route.answer)}")
        if route.errors:
            slugs = dict.fromkeys(f"[{each.slug}](errors.md#{each.slug})" for each in route.errors)
            lines.append(f"- errors: {', '.join(slugs)}")
        parts.append("\n".join(lines) + "\n")
    parts.append(
        f"## GET {FEED_PATH}\n\nThe events, over a WebSocket: first a snapshot, then live. "
        "With `?after=<seq>`, what came after that number, and live from there. Each message is "
        "one JSON [envelope](events.md).\n"
    )
    return "\n".join(parts)


def schemas_page() -> str:
    """Every schema."""
    taken = [each for route in ROUTES for each in (route.body, route.query) if each is not None]
    ours = [struct for module in WORDS for struct in structs_of(module, base.Word)]
    known = dict.fromkeys([*ours, *taken])
    entries = [struct_entry(cls) for cls in known]
    return f"# Schemas\n\n{text(schemas)}\n\n" + "\n".join(entries)


def events_page() -> str:
    """Every event, and the envelope around it."""
    parts = [f"# Events\n\n{text(events)}\n", struct_entry(events.Envelope)]
    for cls in structs_of(events, events.Event):
        entry = struct_entry(cls)
        kind = shape.type_info(cls)
        parts.append(entry.replace("\n\n", f"\n\n`type`: `{getattr(kind, 'tag', '')}`\n\n", 1))
    return "\n".join(parts)


def errors_page() -> str:
    """Every error."""
    parts = [f"# Errors\n\n{text(errors)}\n"]
    parts += [
        f"## {error.slug}\n\n{text(error).partition('Attributes:')[0].rstrip()}\n\n"
        f"- title: {error.title}\n- status: {error.status}\n"
        f"- exit code of the command line: {error.exit_code}\n- Python: `{error.__name__}`\n"
        for error in all_errors()
    ]
    return "\n".join(parts)


def config_page() -> str:
    """Every setting."""
    doc = text(Config)
    intro, _, attributes = doc.partition("Attributes:")
    told = dict(re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE))
    rows = []
    for field in fields(Config):
        value = "required" if field.default is MISSING else f"`{field.default!r}`"
        rows.append([f"`{field.name}`", value, re.sub(r"\s+", " ", told[field.name])])
    return f"# Config\n\n{intro.strip()}\n\n" + table(["setting", "default", "meaning"], rows)


def commands(found: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
    """The help of a command and of all beneath it."""
    settings: dict[str, Any] = {**found.context_settings, **WIDTH}
    context = click.Context(found, parent=parent, info_name=name, **settings)
    yield f"## {context.command_path}\n\n```text\n{found.get_help(context).rstrip()}\n```\n"
    if isinstance(found, click.Group):
        for verb in found.list_commands(context):
            sub = found.get_command(context, verb)
            if sub is not None and not sub.hidden:
                yield from commands(sub, context, verb)


def cli_page() -> str:
    """The help of every verb."""
    head = "# Command line\n\nExit codes are listed with the [errors](errors.md).\n"
    return "\n".join([head, *commands(command, None, "groove-trio")])


def lifecycle_page() -> str:
    """The states of an agent, as a diagram and as a table."""
    rows = [[before, trigger, after] for (before, trigger), after in lifecycle.TRANSITIONS.items()]
    return (
        f"# Lifecycle\n\n{text(lifecycle)}\n\n```mermaid\n{lifecycle.diagram()}```\n\n"
        "## Transitions\n\n" + table(["from", "by", "to"], rows)
    )


def audit_page() -> str:
    """The form of an audit record, and every action that one can tell."""
    rows = [[f"`{action}`", meaning] for action, meaning in chain.ACTIONS.items()]
    actions = table(["action", "meaning"], rows)
    return (
        f"# Audit records\n\n{text(chain)}\n\n## Actions\n\n{actions}\n"
        f"## The verifier\n\n{text(verify)}\n"
    )


def constants(path: Path, module: str) -> Iterator[list[str]]:
    """The numeric constants of a module, each with the reason written beside or below it."""
    source = path.read_text("utf-8")
    lines = source.splitlines()
    body = ast.parse(source).body
    for node, after in zip_longest(body, body[1:]):
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        target = node.target if isinstance(node, ast.AnnAssign) else target
        if not isinstance(target, ast.Name) or not re.fullmatch(r"[A-Z][A-Z0-9_]+", target.id):
            continue
        value = getattr(import_module(module), target.id)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        reason = lines[node.lineno - 1].partition("  # ")[2]
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            reason = str(after.value.value)
        if BOUND.search(target.id) or (reason and not EXIT.match(target.id)):
            yield [f"`{target.id}`", f"{value:,}".replace(",", " "), reason.replace("``", "`")]


def limits_page() -> str:
    """Every bound, from the modules that keep it."""
    parts = ["# Limits\n\nThe bounds that hold, each in the module that keeps it.\n"]
    for path in sorted((ROOT / "groove_trio").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if rows := list(constants(path, module)):
            parts.append(f"## {module}\n\n" + table(["name", "value", "why"], rows))
    return "\n".join(parts)


DOOR = ("listener", "conversation", "door", "feed", "hub")
BESIDE = (
    *("rules.admission", "api.calls", "api.coordination"),
    *("shell.binds", "shell.clerk", "shell.paths", "shell.refusals", "shell.sockets"),
)
OTHER_WAY = {"wire.client", "wire.lines"}  # for answers and agents' output


def module_path(module: str) -> Path:
    """The file of a module of the package, named without the package."""
    return ROOT / "groove_trio" / f"{module.replace('.', '/')}.py"


def door_modules() -> list[str]:
    """All that the door is made of: its core, what that imports, the wire, and the first steps."""
    core = [f"shell.{name}" for name in DOOR]
    wire = {f"wire.{path.stem}" for path in (ROOT / "groove_trio" / "wire").glob("*.py")}
    found = {*core, *BESIDE} | wire
    for module in core:
        text = module_path(module).read_text("utf-8")
        imported = re.findall(r"^from groove_trio\.([\w.]+) import", text, re.MULTILINE)
        found |= {name for name in imported if name.startswith(("shell.", "rules."))}
    return sorted(found - OTHER_WAY)


def door_limits() -> str:
    """The limits of all that the door is made of, as one table for the page of attacks."""
    rows = []
    for module in door_modules():
        short = module.rpartition(".")[2]
        for name, value, why in constants(module_path(module), f"groove_trio.{module}"):
            rows.append([f"`{short}.{name.strip('`')}`", value, why])
    return table(["limit", "value", "precedent, or reason"], rows)


PAGES: dict[str, Callable[[], str]] = {
    "routes.md": routes_page,
    "schemas.md": schemas_page,
    "events.md": events_page,
    "errors.md": errors_page,
    "config.md": config_page,
    "cli.md": cli_page,
    "lifecycle.md": lifecycle_page,
    "audit.md": audit_page,
    "limits.md": limits_page,
}
