"""How long scopes take, at their usual and at their worst; prints milliseconds of this machine.

Processor time, the best of some runs; "cold" includes compiling both scopes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from groove_trio.rules.scopes import Scope, ScopeIndex, overlap
from groove_trio.words.errors import InvalidScope

BRACES = "{a,b}" * 6
CJK = 0x4E00


def best_ms(call: Callable[[], Any], runs: int = 3) -> float:
    times = []
    for _ in range(runs):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times) * 1e3


def twenty(make: Callable[[int], str]) -> list[str]:
    return [make(number) for number in range(20)]


def end(number: int) -> str:
    return chr(ord("a") + number)


WORST: dict[str, list[str]] = {
    "stars": twenty(lambda n: "*a" * 98 + "*" + end(n)),
    "other stars": twenty(lambda n: "*b" * 98 + "*" + end(n).upper()),
    "deep": twenty(lambda n: "**/" + "a/**/" * 38 + end(n)),
    "deep stars": twenty(lambda n: "**/" + "*a*/**/" * 27 + "*" + end(n)),
    "deep names": twenty(lambda n: "**/" + "?/**/" * 38 + end(n)),
    "classes": twenty(
        lambda n: "".join(f"[!{chr(CJK + n * 50 + k)}]" for k in range(49)) + "*" + end(n)
    ),
    "ranges": twenty(
        lambda n: "".join(
            f"[{chr(0x3000 + n * 50 + k)}-{chr(0x9000 + n * 50 + k)}]" for k in range(39)
        )
    ),
    "letters": twenty(lambda n: "*" + "".join(chr(CJK + n * 200 + k) for k in range(190)) + "*x*"),
    "braces": twenty(lambda n: f"*{BRACES}*{end(n)}*x"),
    "long braces": ["*" + BRACES + "*a" * 80],
    "spread braces": twenty(lambda n: "{a,b}*{a,b}*{a,b}*x" + "?*" * 35 + end(n)),
    "questions": twenty(lambda n: "?" * 99 + "*" + "?" * 98 + end(n)),
    "dots": twenty(lambda n: "[.a]?" * 20 + "/*" * 20 + "/**/.?/**/..*" + "/[.a]*" + end(n)),
}


def test_overlap_of_the_worst_pairs() -> None:
    found = []
    for (a, one), (b, other) in product(WORST.items(), repeat=2):
        scopes = Scope(one), Scope([each if each[-1] == "]" else each[:-1] + "Q" for each in other])
        warm = best_ms(lambda pair=scopes: overlap(*pair))
        cold = best_ms(lambda one=one, other=other: overlap(Scope(one), Scope(other)), 2)
        found.append((warm, cold, a, b))
    for title, place in (("warm", 0), ("cold, read anew", 1)):
        print(f"\nworst pairs, {title}:")
        for row in sorted(found, key=lambda row: row[place], reverse=True)[:5]:
            print(f"  {row[place]:6.2f} ms  {row[2]} with {row[3]}")


def test_search_for_worse_pairs() -> None:
    draw = random.Random(1)
    pieces = ["*a", "*", "?", "a", "/**/", "/", "[!b]", "[.a]", ".", "{a,b}", "{*a,b}", "?*", "**/"]

    def drawn() -> Iterator[str]:
        while True:
            mix = draw.choices(pieces, k=draw.randint(1, 4))
            text = "".join((mix * 200)[: draw.randint(30, 120)])[:199] + draw.choice("abx*")
            try:
                Scope([text])
            except InvalidScope:
                continue
            yield text

    source, worst = drawn(), (0.0, "", "")
    for _ in range(150):
        pair = [next(source), next(source)]
        try:
            a, b = (Scope([text[:190] + end(n) for n in range(20)]) for text in pair)
        except InvalidScope:
            continue
        overlap(a, b)
        worst = max(worst, (best_ms(lambda a=a, b=b: overlap(a, b), 2), *pair))
    print(f"\nworst of 150 drawn pairs: {worst[0]:.2f} ms\n  {worst[1]}\n  {worst[2]}")


def test_reading_and_compiling() -> None:
    print()
    for name, patterns in WORST.items():
        read = best_ms(lambda patterns=patterns: Scope(patterns))
        scopes = iter([Scope(patterns) for _ in range(3)])
        both = best_ms(lambda scopes=scopes: next(scopes).automaton())
        print(f"  {name:14} read {read:6.2f} ms, compile {both:6.2f} ms")


def test_matching() -> None:
    worst = max(
        (best_ms(lambda s=scope, p=path: s.matching(p), 2), name)
        for name, scope in ((name, Scope(patterns)) for name, patterns in WORST.items())
        for path in ("a" * 4095 + "x", "a/" * 2047 + "x", "ab" * 2047 + "x")
    )
    print(f"\nworst match of 4,096 characters: {worst[0]:.2f} ms ({worst[1]})")
    scope = Scope(["src/api/**", "tests/api/*.py", "docs/**", "**/conftest.py"])
    for path in ("src/api/a/b.py", "tests/api/test_x.py", "x/conftest.py", "no/where.py"):
        match = best_ms(lambda p=path: [scope.matching(p) for _ in range(1000)])
        permit = best_ms(lambda p=path: [scope.permits(p) for _ in range(1000)])
        print(f"  {path:20} matching {match:.2f} µs, permits {permit:.2f} µs")


KINDS = {
    "directories, names and suffixes": (
        "src/pkg{}_{}/**",
        "lib/x{}_{}/*.py",
        "tests/**/test_{}_{}_*.py",
        "docs/{{a,b}}{}_{}/**/*.md",
    ),
    "names at any depth": ("**/test_{}_{}_*.py",),
    "directories at any depth": ("**/m{}_{}/*.py",),
}


def test_twenty_patterns_against_a_thousand_holders() -> None:
    for title, kinds in KINDS.items():

        def scope(number: int, kinds: tuple[str, ...] = kinds) -> Scope:
            return Scope(twenty(lambda n: kinds[n % len(kinds)].format(number, n)))

        index: ScopeIndex[int] = ScopeIndex()
        scopes = [scope(number) for number in range(1000)]
        added = best_ms(lambda s=scopes, i=index: [i.add(n, each) for n, each in enumerate(s)], 1)
        none = best_ms(lambda i=index, s=scope: i.first_overlap(s(1000)))
        some = best_ms(lambda i=index, s=scope: i.first_overlap(s(500)))
        owned = best_ms(lambda i=index: i.owner_of("tests/a/test_999_18_x.py"))
        print(f"\n{title}: add {added / 1000:.2f} ms each, no overlap {none:.2f} ms,")
        print(f"  overlap {some:.2f} ms, owner of a path {owned:.2f} ms")


if __name__ == "__main__":
    test_overlap_of_the_worst_pairs()
    test_search_for_worse_pairs()
    test_reading_and_compiling()
    test_matching()
    test_twenty_patterns_against_a_thousand_holders()
