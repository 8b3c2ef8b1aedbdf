"""Names, messages and addresses that others wrote: shown on a terminal, never obeyed; in data they are what they were."""

import dataclasses
import enum
import io
import json
import re
from pathlib import Path

import cli_cluster_samples as on_cluster
import cli_samples as samples
import pytest
import test_cli_views as views
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import tpnet_cli
from tpnet.control.kubernetes.convert import from_api, to_api
from tpnet.model import (
    Condition,
    InterceptReport,
    InterceptSpec,
    InvalidInput,
    NodeReport,
    SessionSpec,
    clean,
)
from tpnet_cli import main, output
from tpnet_cli.terminal import make_console, show

HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "\x1b]52;c;ZXZpbA==\x07",  # writes the clipboard
    "\x1b]0;title\x1b\\",
    "\x9b31m",
    "a\rb",
    "a\x08\x08b",
    "\u202egnirts",
    "\u2066x\u2069",
    "x\u2028y",
    "\x00",
    "\x7f",
]
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Tty(io.StringIO):
    def isatty(self):
        return True


def on_terminal(renderable, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Tty()
    show(renderable, make_console(stream, 100))
    return stream.getvalue()


def poisoned(value, text):
    """The same object with ``text`` in each of its texts, however deep. Choices and what is compared stay."""
    if isinstance(value, enum.Enum) or not value:
        return value
    if isinstance(value, str):
        return f"{value[:3]}{text}"
    if isinstance(value, tuple):
        return tuple(poisoned(one, text) for one in value)
    if isinstance(value, dict):
        return {key: poisoned(one, text) for key, one in value.items()}
    if dataclasses.is_dataclass(value):
        fields = {f.name: poisoned(getattr(value, f.name), text) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **fields)
    return value


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("name", sorted(views.NAMED))
def test_no_table_obeys_what_others_wrote(name, text, monkeypatch):
    for module in (samples, on_cluster):
        for attribute, value in list(vars(module).items()):
            if attribute.isupper() and (dataclasses.is_dataclass(value) or isinstance(value, (tuple, dict))):
                monkeypatch.setattr(module, attribute, poisoned(value, text))
    monkeypatch.setattr(views, "EVERYTHING", poisoned(views.EVERYTHING, text))
    try:
        renderable = views.NAMED[name](100)
    except (ValueError, KeyError):
        pytest.fail("a view looked into a text")
    shown = on_terminal(renderable, monkeypatch)
    assert not OBEYED.search(STYLE.sub("", shown).replace("\n", ""))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_sentence_obeys_what_others_wrote(text, capsys, monkeypatch):
    output.say(f"bob's {text}")
    output.say(f"bob's {text}", err=True)
    main._complain(f"The intercept {text} is bob's.\n✓ all is well", f"tpnet leave {text}")
    out, err = capsys.readouterr()
    for said in (out, err):
        assert not OBEYED.search(said.replace("\n", ""))
    assert "\n✓ all is well" not in err  # a forged line


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(HOSTILE))
@settings(deadline=None)
@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_data_is_what_it_was_and_a_terminal_obeys_none_of_it(kind, text):
    written = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output.click, "echo", lambda line, err, nl: written.write(line + ("\n" if nl else "")))
        output.write_data({"name": text}, kind)
    shown = written.getvalue()
    assert not OBEYED.search(shown.replace("\n", ""))
    assert (json.loads if kind == "json" else yaml.safe_load)(shown) == {"name": text}


@given(st.text(max_size=30) | st.sampled_from(HOSTILE))
def test_clean_text_is_clean_once_and_for_all(text):
    for lines in (False, True):
        done = clean(text, lines=lines)
        assert not OBEYED.search(done.replace("\n", "") if lines else done)
        assert clean(done, lines=lines) == done
        done.encode()
    if text.isprintable():
        assert clean(text) == text


OBJECTS = {
    "intercept": (
        InterceptSpec,
        {"user": "u", "target": {"kind": "Service", "name": "n"}, "headers": [{"name": "a", "value": "v"}]},
    ),
    "session": (SessionSpec, {"user": "u", "publicKey": "k", "renewTime": "t"}),
    "node": (NodeReport, {"node": "n", "ready": 1, "total": 1, "message": "m"}),
    "condition": (
        Condition,
        {"type": "t", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": "t"},
    ),
    "report": (InterceptReport, {"requests": "r", "nodes": [{"node": "n", "ready": 1, "total": 1}]}),
}


@pytest.mark.parametrize("name", OBJECTS)
@given(st.sampled_from(HOSTILE))
def test_what_comes_from_the_api_is_clean_but_for_rules(name, text):
    cls, data = OBJECTS[name]

    def poison(value):
        if isinstance(value, dict):
            return {k: v if k in {"kind", "status"} else poison(v) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(one) for one in value]
        return value + text + "\n✓ forged" if isinstance(value, str) else value

    try:
        obj = from_api(cls, poison(data))
    except InvalidInput:
        return
    plain = to_api(obj)
    headers = plain.pop("headers", [])
    assert not OBEYED.search(repr(plain).replace("\\u", ""))
    assert "\n" not in json.dumps(plain, ensure_ascii=False).replace("\\n", "")
    assert all(rule["value"].endswith(text + "\n✓ forged") for rule in headers)


def test_nothing_prints_past_the_two_doors():
    folder = Path(tpnet_cli.__file__).parent
    found = [
        path.name
        for path in folder.rglob("*.py")
        if re.search(
            r"(?<!Clean)\bConsole\(|(?<![\w.])print\(|sys\.std(out|err)\.write\(",
            path.read_text(encoding="utf-8"),
        )
    ]
    assert found == ["main.py"], "a newline after ^C is all that is written otherwise"
