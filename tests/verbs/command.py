"""The command line, called as a user does, in this process."""

from __future__ import annotations

import pytest

from tavt_kit import cli


def run(*arguments: object) -> int:
    """The exit code of ``fgvc-kit ARGUMENTS``."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)
