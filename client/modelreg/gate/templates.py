r"""Chat templates: Jinja that a serving process runs over what users send. Read by a small strict lexer, never rendered.

A sandboxed Jinja refuses `__class__`; not every runtime has one (CVE-2024-34359). So what a template may use is listed
here: tags, filters and functions by name; attributes without a leading underscore; subscripts that are not texts put
together. What does not fit the grammar below is not understood, and so refused.

    text  {{ expression }}  {% tag … %}  {# comment #}     with `-` or `+` inside the braces
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from modelreg.gate.report import Objection, shown

MAX_CHARS = 256 * 1024
MAX_TOKENS = 60_000
MAX_DEPTH = 40  # brackets in brackets

_TAGS = frozenset(
    (  # noqa: SIM905
        "if elif else endif for endfor set endset macro endmacro call endcall filter endfilter with endwith raw "
        "endraw break continue generation endgeneration"
    ).split()
)
_FILTERS = frozenset(
    (  # noqa: SIM905
        "abs batch capitalize center count d default dictsort e escape filesizeformat first float forceescape from_json "
        "groupby indent int items join last length list lower map max min pprint random reject rejectattr replace "
        "reverse round safe select selectattr slice sort string striptags sum title tojson trim truncate unique "
        "upper urlencode wordcount wordwrap"
    ).split()
)
_FUNCTIONS = frozenset(
    "raise_exception strftime_now range dict namespace joiner cycler loop caller super defined length".split()  # noqa: SIM905
)
_KEYWORDS = frozenset(
    "if else elif in is not and or set for recursive true false none True False None".split()  # noqa: SIM905
)
# Harmless names with a way out behind them, beside everything that begins with an underscore.
_ATTRIBUTES = frozenset(
    "format format_map mro popen system func_globals func_code im_func im_self gi_frame gi_code".split()  # noqa: SIM905
)
_ATTRIBUTE_PREFIXES = ("gi_", "cr_", "ag_", "tb_", "f_", "co_", "func_", "im_")
_NAMES = frozenset(
    (  # noqa: SIM905
        "self lipsum request config url_for get_flashed_messages builtins globals eval exec compile open os sys "
        "subprocess importlib getattr setattr vars dir breakpoint"
    ).split()
)
_BUILDING = frozenset({"~", "%", "*"})
_BUILDING_FILTERS = frozenset(
    "join replace string reverse list urlencode lower upper trim title slice batch map".split()  # noqa: SIM905
)

_LOOKING_FILTERS = frozenset({"map", "select", "reject", "selectattr", "rejectattr", "groupby"})
_MAX_WAYS = 20

_OPEN = re.compile(r"\{\{|\{%|\{#")
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<number>[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
      | (?P<name>[^\W\d]\w*)
      | (?P<operator>//|\*\*|==|!=|<=|>=|[-+*/%~<>=|.,:;()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^}]*\}|[0-7]{1,3}|.)", re.DOTALL)
_PLAIN_FORMAT = re.compile(r"(?:[^{}]|\{[A-Za-z0-9]*\})*")  # a field that looks into nothing
_DUNDER = re.compile(r"__\w+|\w+__")

Token = tuple[str, str]  # its kind, its text


def objections(source: str) -> list[str]:
    """What a template does that it may not, as ends of sentences; empty where there is nothing."""
    try:
        return list(dict.fromkeys(_look(source)))[:20]
    except Objection as objection:
        return [objection.what]


def _look(source: str) -> Iterator[str]:
    if len(source) > MAX_CHARS:
        raise Objection("template-code", f"it has more than {MAX_CHARS} characters")
    blocks = list(_blocks(source))
    macros = {block[at + 1][1] for kind, block in blocks if kind == "%" for at in _macros(block)}
    built = _all_built([block for kind, block in blocks if kind == "%"], macros)
    for kind, block in blocks:
        if kind == "%":
            yield from _tag(block)
        yield from _expression(block, macros, built)


def _blocks(source: str) -> Iterator[tuple[str, list[Token]]]:
    at, count = 0, 0
    while (begin := _OPEN.search(source, at)) is not None:
        if begin[0] == "{#":
            at = _after(source, "#}", begin.end())
            continue
        closing = "}}" if begin[0] == "{{" else "%}"
        tokens, at = _tokens(source, begin.end(), closing)
        count += len(tokens)
        if count > MAX_TOKENS:
            raise Objection("template-code", f"it has more than {MAX_TOKENS} words")
        if closing == "%}" and [text for _, text in tokens] == ["raw"]:
            end = re.compile(r"\{%[-+]?\s*endraw\s*[-+]?%\}").search(source, at)
            if end is None:
                raise Objection("template-code", "a raw block does not end")
            at = end.end()
            continue
        yield ("{" if closing == "}}" else "%"), tokens


def _after(source: str, mark: str, at: int) -> int:
    found = source.find(mark, at)
    if found < 0:
        raise Objection("template-code", f"{mark} is missing")
    return found + len(mark)


def _tokens(source: str, at: int, closing: str) -> tuple[list[Token], int]:
    """Tokens up to the closing mark that stands outside of texts and braces."""
    found: list[Token] = []
    depth = 0
    if source[at : at + 1] in {"-", "+"}:
        at += 1
    while True:
        if depth == 0:
            for mark in (closing, f"-{closing}", f"+{closing}"):
                if source.startswith(mark, at):
                    return found, at + len(mark)
        token = _TOKEN.match(source, at)
        if token is None:
            what = shown(source[at : at + 20]) or "the end"
            raise Objection("template-code", f"it cannot be read at {what}")
        at = token.end()
        kind = token.lastgroup or ""
        if kind == "space":
            continue
        if token[0] in {"(", "[", "{"}:
            depth += 1
            if depth > MAX_DEPTH:
                raise Objection("template-code", f"brackets more than {MAX_DEPTH} deep")
        elif token[0] in {")", "]", "}"}:
            depth -= 1
            if depth < 0:
                raise Objection("template-code", "brackets that do not match")
        found.append((kind, token[0]))
        if len(found) > MAX_TOKENS:
            raise Objection("template-code", f"it has more than {MAX_TOKENS} words")


def _macros(block: list[Token]) -> list[int]:
    return [0] if len(block) > 1 and block[0] == ("name", "macro") else []


def _all_built(tags: list[list[Token]], macros: set[str]) -> set[str]:
    """Names that stand for a text put together from others, also by way of another such name; macros give texts."""
    built = {*macros, "caller"}
    for _ in range(_MAX_WAYS):
        found = built | {name for block in tags for name in _built(block, built)}
        if found == built:
            return built
        built = found
    raise Objection("template-code", f"names are set from each other more than {_MAX_WAYS} times over")


def _built(block: list[Token], built: set[str]) -> Iterator[str]:
    word = block[0] if block else ("", "")
    if word == ("name", "set"):
        equals = next((at for at, token in enumerate(block) if token == ("operator", "=")), None)
        if equals is None or _builds(block[equals:]) or _joins(block[equals:]) or _names_one(block[equals:], built):
            # Without `=` it is set to what is written up to `endset`.
            # Of a namespace's member only the member.
            targets = block[1 : equals if equals is not None else len(block)]
            for target, after in pairwise([*targets, ("", "")]):
                if target[0] == "name" and after != ("operator", "."):
                    yield target[1]
    elif word == ("name", "for") and ("name", "in") in block:
        within = block.index(("name", "in"))
        edge = any(kind == "text" and _has_edge(text) for kind, text in block[within:])
        if edge or _names_one(block[within:], built):
            yield from (text for kind, text in block[1:within] if kind == "name")


def _names_one(tokens: list[Token], built: set[str]) -> bool:
    """Whether an expression goes on with such a name; a difference, a length or a range is a number whatever is in it."""
    named = (one for one, after in pairwise([*tokens, ("", "")]) if one[0] == "name" and after != ("operator", "="))
    if not any(text in built for _, text in named):
        return False
    plain = [("name", word) not in tokens for word in ("if", "or", "and")]
    if not all(plain):
        return True
    counts = tokens[-2:-1] == [("operator", "|")] and tokens[-1] in {
        ("name", "length"),
        ("name", "count"),
        ("name", "int"),
    }
    ranges = tokens[1:3] == [("name", "range"), ("operator", "(")] and len(_inside(tokens, 2)) == len(tokens) - 4
    return not (counts or ranges or ("operator", "-") in _outside(tokens))


def _outside(tokens: list[Token]) -> Iterator[Token]:
    """The tokens that stand in no brackets."""
    depth = 0
    for token in tokens:
        depth -= token[1] in {")", "]", "}"} and token[0] == "operator"
        if depth == 0:
            yield token
        depth += token[1] in {"(", "[", "{"} and token[0] == "operator"


def _joins(tokens: list[Token]) -> bool:
    """Whether an expression makes a text of anything, also without a text in it."""
    return ("operator", "~") in tokens or any(
        before == ("operator", "|") and name in {("name", "join"), ("name", "string"), ("name", "replace")}
        for before, name in pairwise(tokens)
    )


def _builds(tokens: list[Token]) -> bool:
    """Whether an expression can put a name together: by an operator on texts, or a filter that makes texts."""
    texts = [text for at, (kind, text) in enumerate(tokens) if kind == "text" and not _is_subscript(tokens, at)]
    if not texts:
        return False
    for at, (kind, text) in enumerate(tokens):
        if kind == "operator" and (text in _BUILDING or text == "+"):
            return True
        if kind == "operator" and text == "|" and at + 1 < len(tokens) and tokens[at + 1][1] in _BUILDING_FILTERS:
            return True
    return any(map(_has_edge, texts))


def _is_subscript(tokens: list[Token], at: int) -> bool:
    """Whether a text is all that stands between square brackets behind a value: `message['role']`."""
    around = tokens[at - 1 : at] + tokens[at + 1 : at + 2]
    brackets = [("operator", "["), ("operator", "]")]
    return around == brackets and at > 1 and _follows_value(tokens[at - 2])


def _has_edge(literal: str) -> bool:
    plain = _plain(literal)
    return plain.startswith("_") or plain.endswith("_")


def _plain(literal: str) -> str:
    """The text that a literal stands for."""
    return _ESCAPE.sub(_unescaped, literal[1:-1])


def _unescaped(found: re.Match[str]) -> str:
    code = found[1]
    if code[0] in "xuU" and len(code) > 1:
        number = int(code[1:], 16)
        return chr(number) if number <= 0x10FFFF else "?"
    if code[0] == "N" and len(code) > 1:
        return "_"  # by name: it could be that one
    return chr(int(code, 8)) if code[0] in "01234567" else code


def _tag(block: list[Token]) -> Iterator[str]:
    word = block[0][1] if block and block[0][0] == "name" else ""
    if word not in _TAGS:
        yield f"it has the tag {shown(word) or '(none)'}, which chat templates do not need"


def _expression(block: list[Token], macros: set[str], built: set[str]) -> Iterator[str]:
    formats = ("operator", "%") in block
    for at, (kind, text) in enumerate(block):
        before = block[at - 1] if at else ("", "")
        after = block[at + 1] if at + 1 < len(block) else ("", "")
        if kind == "text":
            plain = _plain(text)
            if _DUNDER.search(plain) and _is_lookup(block, at):
                yield f"it looks up {shown(plain, 40)}"
            elif _DUNDER.fullmatch(plain) or ("%c" in plain and formats):
                yield f"it has the text {shown(plain, 40)}, with which Python's internals are reached"
        elif kind == "number" and before == ("operator", "."):
            continue
        elif kind == "name":
            receiver = block[at - 2] if at > 1 else ("", "")
            yield from _name(text, receiver, before, after, macros)
            if after == ("operator", "(") and before == ("operator", "|") and text in _LOOKING_FILTERS:
                yield from _argument(text, block[at + 2 : at + 4])
            elif (
                text == "attribute"
                and after == ("operator", "=")
                and block[at + 2 : at + 3]
                and block[at + 2][0] == "name"
            ):
                yield "it looks for an attribute that a variable names"
        elif text == "[" and _follows_value(before):
            yield from _subscript(_inside(block, at), built)


def _argument(text: str, following: list[Token]) -> Iterator[str]:
    """What a filter looks for must stand there, as a text or by the argument's name."""
    first = following[0] if following else ("", "")
    if text == "map" and first[0] == "text" and _plain(first[1]) not in _FILTERS:
        yield f"it uses the filter {shown(_plain(first[1]), 40)}"
    elif first[0] != "text" and first != ("operator", ")") and following[1:] != [("operator", "=")]:
        yield f"{text} looks for what a variable names"


def _name(text: str, receiver: Token, before: Token, after: Token, macros: set[str]) -> Iterator[str]:
    called = after == ("operator", "(")
    private = text.startswith("_")
    argument = private and after == ("operator", "=") and before in {("operator", "("), ("operator", ",")}
    if "__" in text or (private and before == ("operator", ".")) or argument:
        yield f"it uses {shown(text, 40)}"
    elif before == ("operator", "."):
        if text == "format" and receiver[0] == "text" and _PLAIN_FORMAT.fullmatch(_plain(receiver[1])):
            return
        if text in _ATTRIBUTES or text.startswith(_ATTRIBUTE_PREFIXES):
            yield f"it uses .{shown(text, 40)}"
    elif before in {("operator", "|"), ("name", "filter")}:
        if text not in _FILTERS:
            yield f"it uses the filter {shown(text, 40)}"
    elif before == ("name", "is") or (before == ("name", "not") and receiver == ("name", "is")):
        return
    elif text in _NAMES and after != ("operator", "="):
        yield f"it uses {text}"
    elif called and text not in _FUNCTIONS | macros | _KEYWORDS and before != ("name", "macro"):
        yield f"it calls {shown(text, 40)}, which chat templates are not given"


def _follows_value(before: Token) -> bool:
    kind, text = before
    return (kind == "name" and text not in _KEYWORDS) or kind == "text" or text in {")", "]", "}"}


def _is_lookup(block: list[Token], at: int) -> bool:
    """Whether a text stands in a subscript, or is what a filter looks for."""
    before = block[at - 1] if at else ("", "")
    return before in {("operator", "["), ("operator", "("), ("operator", "=")}


def _inside(block: list[Token], at: int) -> list[Token]:
    depth = 0
    for end in range(at, len(block)):
        if block[end][1] in {"[", "(", "{"} and block[end][0] == "operator":
            depth += 1
        elif block[end][1] in {"]", ")", "}"} and block[end][0] == "operator":
            depth -= 1
            if depth == 0:
                return block[at + 1 : end]
    return block[at + 1 :]


def _subscript(inside: list[Token], built: set[str]) -> Iterator[str]:
    if len(inside) == 1 and inside[0][0] == "text":
        if _plain(inside[0][1]).startswith("_"):
            yield f"it looks up {shown(_plain(inside[0][1]), 40)}"
    elif _builds(inside) or any(kind == "name" and text in built for kind, text in inside):
        yield "it looks up a name that it puts together"
