from __future__ import annotations

import json
import os
import sys

from tavt_kit.core.host import HostFacts


def test_facts_of_this_machine() -> None:
    facts = HostFacts.gather()
    assert facts.cores == os.cpu_count() and facts.cpu
    assert facts.python.startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert facts.memory_mb is None or facts.memory_mb > 100
    assert "torch" in facts.packages and "T" in facts.date
    assert str(len(facts.affinity)) in str(facts)


def test_facts_survive_json() -> None:
    facts = HostFacts.gather("Example GPU")
    assert HostFacts.from_record(json.loads(json.dumps(facts.as_record()))) == facts
