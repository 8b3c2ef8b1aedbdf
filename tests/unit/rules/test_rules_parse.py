import re

import pytest

from tpnet.model import HeaderRule, InvalidInput, PathKind, PathRule
from tpnet.rules import AUTO_HEADER, Rules, check_rules, new_auto_id, parse_rules

ID = "0123456789abcdef0123456789abcdef"
AUTO = (HeaderRule(AUTO_HEADER, ID),)


def parse(*headers, equal=(), prefix=(), regex=()):
    return parse_rules(headers, equal, prefix, regex, ID)


@pytest.mark.parametrize(
    ("flag", "rule"),
    [
        ("Coder=Bob", HeaderRule("Coder", "Bob")),
        ("Coder: Bob", HeaderRule("Coder", "Bob")),
        ("Coder:Bob", HeaderRule("Coder", "Bob")),
        ("Coder: \t Bob \t", HeaderRule("Coder", "Bob")),
        ("Coder: Bob Ross", HeaderRule("Coder", "Bob Ross")),
        ("Coder=Bob\tRoss", HeaderRule("Coder", "Bob\tRoss")),
        ("x-url=http://a", HeaderRule("x-url", "http://a")),
        ("x-url: a=b", HeaderRule("x-url", "a=b")),
        ("x==", HeaderRule("x", "=")),
        ("x=:", HeaderRule("x", ":")),
        ("x:=~y", HeaderRule("x", "=~y")),
        ("baggage=a=1,b=2", HeaderRule("baggage", "a=1,b=2")),
        ("Coder=", HeaderRule("Coder", "")),
        ("Coder:", HeaderRule("Coder", "")),
        ("Coder=~B.b", HeaderRule("Coder", "B.b", regex=True)),
        ("Coder=~~", HeaderRule("Coder", "~", regex=True)),
        ("Coder: ~Bob", HeaderRule("Coder", "~Bob")),
        ("Coder=~a{1,3}", HeaderRule("Coder", "a{1,3}", regex=True)),
        ("X_User=v", HeaderRule("X_User", "v")),
        ("!#$%&'*+-.^_`|~09azAZ=v", HeaderRule("!#$%&'*+-.^_`|~09azAZ", "v")),
        ("City=Zürich", HeaderRule("City", "Zürich")),
        ("auto=1", HeaderRule("auto", "1")),
        ("all: 1", HeaderRule("all", "1")),
        ("Host=shop", HeaderRule("Host", "shop")),
        ("Content-Length=0", HeaderRule("Content-Length", "0")),
        ("Coder=" + "b" * 4096, HeaderRule("Coder", "b" * 4096)),
        ("Coder=~" + "b" * 500, HeaderRule("Coder", "b" * 500, regex=True)),
    ],
)
def test_a_header_flag_means_this_rule(flag, rule):
    assert parse(flag) == Rules((rule,), None, auto=False)


def test_repeated_header_flags_are_kept_in_order():
    rules = parse("b=1", "a=2", "Via=x", "Via=y", "Host=shop", "Host=~sh.*")
    assert [(rule.name, rule.value) for rule in rules.headers] == [
        ("b", "1"),
        ("a", "2"),
        ("Via", "x"),
        ("Via", "y"),
        ("Host", "shop"),
        ("Host", "sh.*"),
    ]


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        ({}, None),
        ({"equal": ["/a"]}, PathRule(PathKind.EQUAL, "/a")),
        ({"equal": ["*"]}, PathRule(PathKind.EQUAL, "*")),
        ({"prefix": ["/"]}, PathRule(PathKind.PREFIX, "/")),
        ({"prefix": ["/%61pi/ü,;="]}, PathRule(PathKind.PREFIX, "/%61pi/ü,;=")),
        ({"regex": ["/v[12]/.*"]}, PathRule(PathKind.REGEX, "/v[12]/.*")),
        ({"regex": [".*api.*x"]}, PathRule(PathKind.REGEX, ".*api.*x")),
        ({"regex": ["(?:a|/)pi"]}, PathRule(PathKind.REGEX, "(?:a|/)pi")),
        ({"regex": ["\\B/a"]}, PathRule(PathKind.REGEX, "\\B/a")),
    ],
)
@pytest.mark.parametrize(
    ("headers", "rules", "auto"),
    [
        ((), AUTO, True),
        (("auto",), AUTO, True),
        (("all",), (), False),
        (("a=b",), (HeaderRule("a", "b"),), False),
    ],
)
def test_path_flags_go_with_every_kind_of_header_flag(flags, path, headers, rules, auto):
    assert parse(*headers, **flags) == Rules(rules, path, auto)


NO_VALUE_HINT = "Write KEY=VALUE, 'KEY: VALUE' or KEY=~REGEX; or auto, or all."
NAME_HINT = "A name has only letters, digits and !#$%&'*+-.^_`|~"
BLANK_HINT = "Drop the blank; in a regex that means it, write [ ]."
CONTROL_HINT = "No header or path may carry it."
SYNTAX_HINT = "The syntax is RE2's: it knows neither look-around nor back-references."
SOMETHING_HINT = "Ask for at least one character: .+ instead of .*"
UTF8_HINT = "Escape it in a regex, such as \\xff."
SMALLER_HINT = "Use fewer or smaller repetitions."
EMPTY_HINT = "Write KEY=VALUE, 'KEY: VALUE' or KEY=~REGEX."


@pytest.mark.parametrize(
    ("flag", "why", "hint"),
    [
        ("", "there is no value.", NO_VALUE_HINT),
        ("Coder", "there is no value.", NO_VALUE_HINT),
        ("Auto", "there is no value.", NO_VALUE_HINT),
        ("=Bob", "the header's name is empty.", EMPTY_HINT),
        (":authority=a", "the header's name is empty.", EMPTY_HINT),
        ("Co der=Bob", "'Co der' cannot be the name of a header.", NAME_HINT),
        ("Coder =Bob", "'Coder ' cannot be the name of a header.", NAME_HINT),
        (" Coder=Bob", "' Coder' cannot be the name of a header.", NAME_HINT),
        ("Cödér=Bob", "'Cödér' cannot be the name of a header.", NAME_HINT),
        ("Co\nder=Bob", r"'Co\nder' cannot be the name of a header.", NAME_HINT),
        ("Coder\n=Bob", r"'Coder\n' cannot be the name of a header.", NAME_HINT),
        ("\udcff=Bob", r"'\udcff' cannot be the name of a header.", NAME_HINT),
        ("c" * 4097 + "=Bob", "the name is longer than 4096 bytes.", ""),
        ("Coder=" + "é" * 2049, "the value is longer than 4096 bytes.", ""),
        ("Coder=a\rb", "the value holds the control character U+000D.", CONTROL_HINT),
        ("Coder: a\n", "the value holds the control character U+000A.", CONTROL_HINT),
        ("Coder=a\0b", "the value holds the control character U+0000.", CONTROL_HINT),
        ("Coder=\x1b[31m", "the value holds the control character U+001B.", CONTROL_HINT),
        ("Coder=~a\x7f", "the value holds the control character U+007F.", CONTROL_HINT),
        ("Coder=a\x9bb", "the value holds the control character U+009B.", CONTROL_HINT),
        ("Coder=\udcff", "the value is not UTF-8 text.", UTF8_HINT),
        (
            "Coder= Bob",
            "the value begins or ends with a blank, which is never part of a header's value.",
            BLANK_HINT,
        ),
        (
            "Coder=Bob\t",
            "the value begins or ends with a blank, which is never part of a header's value.",
            BLANK_HINT,
        ),
        (
            "Coder=~ Bob",
            "the value begins or ends with a blank, which is never part of a header's value.",
            BLANK_HINT,
        ),
        ("Coder=~", "the regex matches the empty string.", SOMETHING_HINT),
        ("Coder=~.*", "the regex matches the empty string.", SOMETHING_HINT),
        ("Coder=~(a|b)?", "the regex matches the empty string.", SOMETHING_HINT),
        ("Coder=~un(bal", "the regex does not compile: missing ): un(bal.", SYNTAX_HINT),
        ("Coder=~a(?=b)", "the regex does not compile: invalid perl operator: (?=.", SYNTAX_HINT),
        ("Coder=~(a)\\1", "the regex does not compile: invalid escape sequence: \\1.", SYNTAX_HINT),
        ("Coder=~a{1001}", "the regex does not compile: invalid repetition size: {1001}.", SYNTAX_HINT),
        ("Coder=~)\ta", "the regex does not compile: unexpected ): )\\ta.", SYNTAX_HINT),
        ("Coder=~[é", "the regex does not compile: missing ]: [é.", SYNTAX_HINT),
        ("Coder=~[a-z]{999}[a-z]{999}[a-z]{999}", "the regex is too large.", SMALLER_HINT),
        ("Coder=~[a-z]{900}", "the regex is too large.", SMALLER_HINT),
        ("Coder=~" + "é" * 513, "the regex is longer than 1024 bytes.", ""),
    ],
)
def test_a_malformed_header_flag_is_refused_with_a_sentence(flag, why, hint):
    with pytest.raises(InvalidInput) as refusal:
        parse(flag)
    where, _, said = refusal.value.message.rpartition(f": {why}")
    assert said == ""
    assert where.startswith("--http-header=")
    assert len(where) < 160
    assert where.isprintable()
    assert refusal.value.hint == hint
    assert refusal.value.exit_code == 2


SLASH = "a path begins with a slash."
SLASH_HINT = "Write it as in the request, such as /api."
QUERY = "the query is no part of the path that is compared, so this matches no request."
QUERY_HINT = "Leave ? and what follows it out."
FRAGMENT = "clients never send what follows a #, so this matches no request."
FRAGMENT_HINT = "Leave # and what follows it out."
BLANK = "a path cannot hold a blank, so this matches no request."
PERCENT_HINT = "Write the blank as %20, as clients send it."
NO_PATH = "this matches no path: a path begins with a slash, and the whole of it must match."
NO_PATH_HINT = "Write /api(/.*)? for /api and what is below it, .*api.* for what holds api somewhere."


@pytest.mark.parametrize(
    ("kind", "text", "why", "hint"),
    [
        ("equal", "", SLASH, SLASH_HINT),
        ("equal", "api", SLASH, SLASH_HINT),
        ("equal", "**", SLASH, SLASH_HINT),
        ("prefix", "*", SLASH, SLASH_HINT),
        ("prefix", "http://shop/api", SLASH, SLASH_HINT),
        ("equal", "/a?b=c", QUERY, QUERY_HINT),
        ("prefix", "/a?", QUERY, QUERY_HINT),
        ("equal", "/a#b", FRAGMENT, FRAGMENT_HINT),
        ("prefix", "/a b", BLANK, PERCENT_HINT),
        ("prefix", "/a\tb", BLANK, PERCENT_HINT),
        ("equal", "/a\n", "the path holds the control character U+000A.", CONTROL_HINT),
        ("regex", "/a\r", "the path holds the control character U+000D.", CONTROL_HINT),
        ("equal", "/\udc80", "the path is not UTF-8 text.", UTF8_HINT),
        ("regex", "/\udc80", "the path is not UTF-8 text.", UTF8_HINT),
        ("prefix", "/" * 4097, "the path is longer than 4096 bytes.", ""),
        ("regex", "", "the regex matches the empty string.", SOMETHING_HINT),
        ("regex", ".*", "the regex matches the empty string.", SOMETHING_HINT),
        ("regex", "/a[", "the regex does not compile: missing ]: [.", SYNTAX_HINT),
        ("regex", "/" * 1025, "the regex is longer than 1024 bytes.", ""),
        ("regex", "api/.*", NO_PATH, NO_PATH_HINT),
        ("regex", "\\*", NO_PATH, NO_PATH_HINT),
        ("regex", "(?i)api", NO_PATH, NO_PATH_HINT),
    ],
)
def test_a_malformed_path_flag_is_refused_with_a_sentence(kind, text, why, hint):
    with pytest.raises(InvalidInput) as refusal:
        parse(**{kind: [text]})
    where, _, said = refusal.value.message.rpartition(f": {why}")
    assert said == ""
    assert where.startswith(f"--http-path-{kind}=")
    assert where.isprintable()
    assert refusal.value.hint == hint


ONE_PATH = "Only one of --http-path-equal, --http-path-prefix, --http-path-regex can be given."

ALL_ALONE = (
    "--http-header=all takes requests whatever their headers, so no other --http-header can stand beside it."
)
AUTO_ALONE = (
    "--http-header=auto stands alone: its id already picks out your requests, "
    "and with another rule they would need both headers."
)


@pytest.mark.parametrize(
    ("headers", "paths", "message"),
    [
        ([], {"equal": ["/a"], "prefix": ["/b"]}, ONE_PATH),
        ([], {"equal": ["/a"], "regex": ["/b"]}, ONE_PATH),
        (["all"], {"prefix": ["/a", "/b"], "regex": ["/b"]}, ONE_PATH),
        ([], {"prefix": ["/a", "/b"]}, "--http-path-prefix can be given only once."),
        ([], {"equal": ["/a", "/a"]}, "--http-path-equal can be given only once."),
        ([], {"regex": ["/a", "/b"]}, "--http-path-regex can be given only once."),
        (["a=b", "A: b"], {}, "The header rule on a is given twice."),
        (["a=~b", "A=~b"], {}, "The header rule on a is given twice."),
        (["Host=a", "host=b"], {}, "Host would have to be 2 things at once, but a request has one Host."),
        ([f"h{n}=v" for n in range(33)], {}, "33 header rules are too many: an intercept can have 32."),
        (
            ["all", "a=b"],
            {},
            ALL_ALONE,
        ),
        (
            ["auto", "all"],
            {},
            ALL_ALONE,
        ),
        (
            ["a=b", "auto"],
            {},
            AUTO_ALONE,
        ),
        (
            ["auto", "auto"],
            {},
            AUTO_ALONE,
        ),
    ],
)
def test_flags_that_cannot_stand_together_are_refused_with_a_sentence(headers, paths, message):
    with pytest.raises(InvalidInput) as refusal:
        parse(*headers, **paths)
    assert refusal.value.message == message
    assert refusal.value.hint.endswith(".")


def test_the_same_header_may_be_asked_for_exactly_and_by_regex():
    assert len(parse("a=b", "a=~b").headers) == 2


def test_new_ids_are_128_bits_and_differ():
    first, second = new_auto_id(), new_auto_id()
    assert re.fullmatch(r"[0-9a-f]{32}", first)
    assert first != second
    assert parse_rules([], [], [], [], first).headers[0].value == first


@pytest.mark.parametrize("damaged", ["", "abc", ID + "\n", ID.upper(), "\x1b" * 32])
def test_a_damaged_id_is_refused_where_it_is_meant_and_only_there(damaged):
    with pytest.raises(InvalidInput, match="The stored id for --http-header=auto is damaged: '") as refusal:
        parse_rules(["auto"], [], [], [], damaged)
    assert refusal.value.message.isprintable()
    assert parse_rules(["all"], [], [], [], damaged) == Rules(())


@pytest.mark.parametrize(
    ("headers", "path", "message"),
    [
        ([HeaderRule("", "x")], None, "header rule : the header's name is empty."),
        ([HeaderRule("a b", "x")], None, "header rule a b: 'a b' cannot be the name of a header."),
        ([HeaderRule("a", "\ud800")], None, "header rule a: the value is not UTF-8 text."),
        (
            [HeaderRule("a", "(", regex=True)],
            None,
            "header rule a: the regex does not compile: missing ).",
        ),
        ([HeaderRule("a", "b"), HeaderRule("A", "b")], None, "The header rule on a is given twice."),
        ([], PathRule(PathKind.EQUAL, "api"), "path rule api: a path begins with a slash."),
    ],
)
def test_rules_from_elsewhere_are_held_to_the_same(headers, path, message):
    with pytest.raises(InvalidInput) as refusal:
        check_rules(headers, path)
    assert refusal.value.message == message


def test_rules_that_flags_made_pass_the_check():
    rules = parse("a=b", "c=~d", prefix=["/api"])
    check_rules(rules.headers, rules.path)
    check_rules((), None)
