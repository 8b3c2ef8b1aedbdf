from pathlib import Path

from tpnet.model import TpnetError
from tpnet_cli.main import EXIT_INTERRUPTED, EXIT_USAGE
from tpnet_cli.reference import render

DOCS = Path(__file__).parents[3] / "docs" / "reference"


def test_the_reference_of_commands_is_current():
    assert (DOCS / "cli.md").read_text() == render(), "run make docs"


def test_every_exit_code_is_explained():
    text = (DOCS / "exit-codes.md").read_text()
    codes = {error.exit_code for error in (TpnetError, *TpnetError.__subclasses__())}
    for code in {0, EXIT_USAGE, EXIT_INTERRUPTED, *codes}:
        assert f"| {code} |" in text
