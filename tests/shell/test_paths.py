"""Where a path leads: beside an oracle, the kernel's own opinion, and where that gives none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groove_trio.shell.paths import MAX_LINKS, locate, resolve
from groove_trio.words.errors import BadRequest, OutsideProject

Resolve = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with links of every kind, and a stranger beside it."""
    root = tmp_path / "project"
    (root / "src/app").mkdir(parents=True)
    (root / "docs").mkdir()
    (root / "src/app/main.py").touch()
    (root / "README.md").touch()
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger/secret").touch()
    links = {
        "link.py": "src/app/main.py",
        "code": "src",
        "docs/up": "..",
        "docs/abs": str(root / "src/app"),
        "dangling": "src/new.py",
        "away": str(tmp_path / "stranger"),
        "away-dangling": str(tmp_path / "stranger/new"),
        "chain": "link.py",
        "loop": "loop2",
        "loop2": "loop",
        "src/self": ".",
        "trailing": "src/",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def at(project: Path) -> Resolve:
    """Resolves a path against the project root, or the directory given."""

    def resolved(path: str, cwd: str = "", **more: bool) -> str:
        return resolve(str(project), str(project / cwd) if cwd else str(project), path, **more)

    return resolved


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("src/app/main.py", "src/app/main.py"),
        ("./src//app/./main.py", "src/app/main.py"),
        ("src/app/new.py", "src/app/new.py"),
        ("src/new/er/est.py", "src/new/er/est.py"),
        ("src/new/./er//est.py", "src/new/er/est.py"),
        ("src/../README.md", "README.md"),
        ("link.py", "src/app/main.py"),
        ("chain", "src/app/main.py"),
        ("code/app/main.py", "src/app/main.py"),
        ("code/new.py", "src/new.py"),
        ("docs/abs/main.py", "src/app/main.py"),
        ("docs/abs/../x", "src/x"),
        ("docs/up/README.md", "README.md"),
        ("code/..", ""),
        ("code/../docs/x", "docs/x"),
        ("dangling", "src/new.py"),
        ("src/self/self/app/x", "src/app/x"),
        ("trailing/x", "src/x"),
        (".", ""),
        ("./", ""),
        ("docs/..", ""),
        ("src/app/", "src/app"),
        ("src/app/new/", "src/app/new"),
        ("code/", "src"),
        ("pipe", "pipe"),
        ("...", "..."),
        ("..hidden", "..hidden"),
        ("src/..app", "src/..app"),
        ("größe/名.py", "größe/名.py"),
        ("a b\tc\nd", "a b\tc\nd"),
        ("x (deleted)", "x (deleted)"),
        ("../project/src", "src"),
    ],
)
def test_path_is_resolved_as_the_kernel_does(at: Resolve, path: str, name: str) -> None:
    assert at(path) == name


def test_path_is_relative_to_the_working_directory(at: Resolve) -> None:
    assert at("main.py", "src/app") == "src/app/main.py"
    assert at("../../README.md", "src/app") == "README.md"


def test_absolute_path_is_taken_as_it_is(at: Resolve, project: Path) -> None:
    assert at(f"{project}/src/x", "docs") == "src/x"
    assert at(str(project)) == ""
    assert at(f"//{project}/src/x") == "src/x"


@pytest.mark.parametrize(
    "path",
    ["..", "../stranger/secret", "away", "away/secret", "away/new", "away-dangling", "/", "/etc/x",
     "docs/up/..", "../project-too/x", "//etc/passwd", "src/../../stranger/x"],
)  # fmt: skip
def test_path_that_leads_out_is_refused_and_says_where(at: Resolve, path: str) -> None:
    with pytest.raises(OutsideProject) as refusal:
        at(path)
    assert refusal.value.fields["resolved"].startswith("/")


def test_sibling_whose_name_begins_alike_is_outside(tmp_path: Path, at: Resolve) -> None:
    (tmp_path / "project2").mkdir()
    with pytest.raises(OutsideProject):
        at("../project2/x")


def test_everything_is_inside_the_root_directory() -> None:
    assert resolve("/", "/", "/usr") == os.path.realpath("/usr")[1:]
    assert resolve("/", "/", "/") == ""


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("x" * 5000, "characters"),
        ("x" * 300, "too long"),
        ("a\0b", "null"),
        ("loop", "symbolic links"),
        ("loop/x", "symbolic links"),
        ("new/../x", "goes up"),
        ("src/new/../../x", "goes up"),
        ("README.md/x", "ot a directory"),
        ("README.md/../x", "not a directory"),
        ("pipe/x", "ot a directory"),
        ("/proc/self/cwd/x", "means something else"),
        ("/proc/thread-self/root/etc", "means something else"),
        ("/dev/fd/0", "means something else"),
        ("\ud800", "surrogates"),
    ],
)
def test_path_that_cannot_be_decided_is_refused(at: Resolve, path: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason) as refusal:
        at(path)
    assert refusal.value.fields["field"] == "path"
    assert not isinstance(refusal.value, OutsideProject)


def test_link_through_proc_is_refused_even_where_it_leads_home(at: Resolve, project: Path) -> None:
    (project / "here").symlink_to("/proc/self/cwd")
    (project / "root").symlink_to(f"/proc/self/root{project}")
    for path in ("here/src/x", "root/src/app/main.py", "root"):
        with pytest.raises(BadRequest, match="means something else"):
            at(path)


def test_too_many_links_are_refused_and_just_enough_are_not(at: Resolve, project: Path) -> None:
    (project / "l0").symlink_to("README.md")
    for number in range(1, MAX_LINKS + 1):
        (project / f"l{number}").symlink_to(f"l{number - 1}")
    assert at(f"l{MAX_LINKS - 1}") == "README.md"
    with pytest.raises(BadRequest):
        at(f"l{MAX_LINKS}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may search every directory")
def test_directory_that_may_not_be_searched_is_undecided(at: Resolve, project: Path) -> None:
    (project / "shut").mkdir(0o000)
    with pytest.raises(BadRequest):
        at("shut/x")
    (project / "shut").chmod(0o700)


# Operations on the name itself


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("link.py", "link.py"),
        ("dangling", "dangling"),
        ("loop", "loop"),
        ("away", "away"),
        ("code/self", "src/self"),
        ("code/app/main.py", "src/app/main.py"),
        ("src/app/main.py", "src/app/main.py"),
        ("src/gone.py", "src/gone.py"),
        ("code/", "src"),
        ("code/.", "src"),
        ("docs/up/link.py", "link.py"),
    ],
)
def test_last_link_is_not_followed_where_the_name_is_meant(
    at: Resolve, path: str, name: str
) -> None:
    assert at(path, follow=False) == name


def test_link_before_the_last_is_always_followed(at: Resolve) -> None:
    with pytest.raises(OutsideProject):
        at("away/secret", follow=False)


# Names that are not UTF-8


def test_name_that_is_not_utf8_is_resolved(project: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (project / name).mkdir()
    (project / name / "x").touch()
    (project / "to-it").symlink_to(name)
    assert resolve(str(project), str(project), f"{name}/x") == f"{name}/x"
    assert resolve(str(project), str(project), "to-it/new") == f"{name}/new"


# Against the kernel

names = st.sampled_from(
    ["src", "app", "main.py", "code", "docs", "up", "abs", "link.py", "chain", "self", "trailing",
     "..", ".", "", "new", "README.md", "dangling", "away", "loop"]
)  # fmt: skip


@given(parts=st.lists(names, min_size=1, max_size=6), follow=st.booleans())
@settings(max_examples=400, deadline=None)
def test_what_exists_is_named_as_the_kernel_names_it(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], follow: bool
) -> None:
    root = _standing(tmp_path_factory)
    path = "/".join(parts)
    assume(path)
    try:
        found: str | None = locate(root, path, follow=follow)
    except BadRequest:
        found = None
    flags = os.O_PATH | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(f"{root}/{path}" if not path.startswith("/") else path, flags)
    except OSError:
        return  # what does not exist has no name by the kernel
    try:
        assert found == os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


_roots: dict[Path, str] = {}


def _standing(factory: pytest.TempPathFactory) -> str:
    """One project for all examples; it is only read."""
    base = factory.getbasetemp()
    if base not in _roots:
        place = factory.mktemp("kernel")
        _roots[base] = str(project.__wrapped__(place))  # type: ignore[attr-defined]
    return _roots[base]


@given(parts=st.lists(names, min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_file_made_lands_where_it_was_said_to(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    """The oracle for what does not exist yet: make it, and ask the kernel for its name."""
    root = _standing(tmp_path_factory)
    assume(parts[0] and parts.count("..") <= 2)  # it stays within the test's own directory
    path = "/".join([*parts, "made"])
    try:
        descriptor = os.open(os.path.join(root, path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError:
        return
    try:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    os.unlink(name)
    assert locate(root, path) == name


def test_no_descriptor_is_leaked(at: Resolve) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in ("src/app/main.py", "loop", "new/../x", "README.md/x", "code/x", "\0"):
        for follow in (True, False):
            try:
                at(path, follow=follow)
            except BadRequest:
                continue
    assert len(os.listdir("/proc/self/fd")) == before
