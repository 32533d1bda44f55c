"""What could expose the daemon, or make it talk to others, is not in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import msgspec

from groove_trio.api.routes import ROUTES
from groove_trio.words import schemas

PACKAGE = Path(__file__).parents[2] / "groove_trio"
DAEMON = ["shell", "api", "rules", "wire", "groove.py", "verbs.py", "config.py", "guard.py"]

# Whoever embeds a groove, and each process of ours, may be told by these and no others. None of
# them says where to listen.
VARIABLES = {
    "GROOVE_AGENT",  # an agent's hook: who it speaks for
    "GROOVE_PROJECT",  # an agent's command line: which daemon is its own
    "GROOVE_URL",  # the same
    "NO_COLOR",  # see no-color.org
    "TMPDIR",  # an agent's own temporary directory
}
LISTENING = {"bind", "listen", "open_tcp_listeners", "serve_tcp", "create_server", "start_server"}
CONNECTING = {
    "HTTPConnection", "HTTPSConnection", "connect", "connect_ex", "connect_tcp",
    "create_connection", "open_connection", "open_ssl_over_tcp_stream", "open_tcp_stream",
    "open_unix_socket", "sendto", "urlopen",
}  # fmt: skip


def modules(parts: list[str]) -> Iterator[Path]:
    for part in parts:
        path = PACKAGE / part
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def called(path: Path) -> set[str]:
    """The names of all functions of other modules, and all methods, that a module calls."""
    tree = ast.parse(path.read_text("utf-8"))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    methods = {function.attr for function in called if isinstance(function, ast.Attribute)}
    return methods | {each.id for each in called if isinstance(each, ast.Name)} - own


def variables(path: Path) -> set[str]:
    """The names of environment variables that a module reads, where they are literal."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Attribute(attr="environ")),
                args=[ast.Constant(value=str(name)), *_],
            ):
                found.add(name)
            case ast.Subscript(
                value=ast.Attribute(attr="environ"), slice=ast.Constant(value=str(name))
            ):
                found.add(name)
            case ast.Call(
                func=ast.Attribute(attr="getenv"), args=[ast.Constant(value=str(name)), *_]
            ):
                found.add(name)
    return found


def test_only_one_module_opens_a_listening_socket() -> None:
    found = {path.name for path in modules(["."]) if called(path) & LISTENING}
    # The gate binds an agent's own socket for it, to a name in its scope.
    assert found - {"addresses.py", "perform.py"} == {"binds.py"}


def test_no_environment_variable_says_where_to_listen() -> None:
    found = {name for path in modules(["."]) for name in variables(path)}
    assert found <= VARIABLES
    assert "GROOVE_URL" in found  # the search does find some


def test_no_route_takes_an_address() -> None:
    bodies = [route.body for route in ROUTES if route.body is not None]
    names = {field.encode_name for body in bodies for field in msgspec.structs.fields(body)}
    assert "scope" in names  # the search does see fields
    assert not names & {"address", "bind", "binds", "host", "hosts", "listen", "port", "url"}


def test_the_daemon_connects_to_nobody() -> None:
    found = {path.name: called(path) & CONNECTING for path in modules(DAEMON)}
    # The gate connects an agent's own socket for it, where the agent asked to be connected.
    assert {name: calls for name, calls in found.items() if calls} == {"perform.py": {"connect"}}


def test_no_route_writes_to_the_audit_log_but_by_what_it_does() -> None:
    methods = {route.method for route in ROUTES if route.path.startswith("/api/audit")}
    assert methods == {"GET"}


def test_nothing_that_writes_the_log_can_cut_it() -> None:
    cutting = {
        "truncate", "ftruncate", "unlink", "remove", "rename", "replace", "rmtree", "rmdir",
        "write_bytes", "write_text", "removedirs", "renames", "pwrite", "posix_fallocate",
    }  # fmt: skip
    parts = ["audit", "tape", "segments", "commit", "vouch", "heads"]
    paths = [PACKAGE / f"shell/{name}.py" for name in parts]
    assert {path.name: called(path) & cutting for path in paths} == {
        path.name: set[str]() for path in paths
    }
    source = "".join(path.read_text("utf-8") for path in paths)
    assert "O_APPEND" in source
    assert "O_TRUNC" not in source


def test_an_agent_is_never_shown_without_what_holds_it() -> None:
    fields = {field.name: field for field in msgspec.structs.fields(schemas.AgentView)}
    assert fields["containment"].required


def test_permission_is_narrow_unless_asked_for() -> None:
    assert schemas.AgentSpec(role="r").permission == "auto"
