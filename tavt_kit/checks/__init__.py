"""The gate before anything is shipped: an artifact against its own source, on the same real images."""

from __future__ import annotations

from tavt_kit.checks.compare import Answers
from tavt_kit.checks.report import BatchCheck, CheckReport, Gate, images_to_decide, judge, read_check, write_check
from tavt_kit.checks.run import Artifact, check, check_predicted
from tavt_kit.checks.source import Predicted, Source
from tavt_kit.core.artifact_card import CHECK_FILE

__all__ = [
    "CHECK_FILE", "Answers", "Artifact", "BatchCheck", "CheckReport", "Gate", "Predicted", "Source", "check",
    "check_predicted", "images_to_decide", "judge", "read_check", "write_check",
]  # fmt: skip
