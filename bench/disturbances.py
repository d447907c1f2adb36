"""From which number on a disturbance counts, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["disturbances", "unseen"]

_OTHERS = 0.05
"""Share of our CPUs' time that other processes may use: with more, even an idle CPU to move to is not certain."""

_STOLEN = 0.01
"""Share of our CPUs' time that a hypervisor may take: the half width of the protocol's own interval."""

_PREEMPTED = 50.0
"""Forced switches a second of own CPU time. Alone, a thread sees a few (the kernel's own work); beside a busy process
on the same CPU it is switched at every slice of 2 to 4 ms, 250 to 500 times."""

_SEEN = 0.01
"""Share of our CPUs' time by others from which on forced switches are theirs. Without any, it is our own threads that
take turns: one runtime's, still waiting busily, with the next one's. The untimed first run of each turn takes that."""

_THROTTLED = 0.005
"""Share of the run that a control group may stop us: each stop lasts tens of milliseconds, many inferences long."""

_CLOCK = 0.05
"""Change of the clock that is unsteady: times follow it one to one, and 5 % is the size of what one looks for."""

_UNSEEN = {
    "others": "the load of other processes",
    "stolen": "time taken by a hypervisor",
    "preempted": "forced switches of threads",
    "throttled": "stops by the control group",
    "thermal": "slowing for heat",
    "mhz_low": "the clock in MHz",
    "pace": "the clock by a fixed piece of work (too short a run)",
}


def unseen(facts: Mapping[str, float | None]) -> list[str]:
    """What the machine did not tell."""
    return [words for name, words in _UNSEEN.items() if facts[name] is None]


def disturbances(facts: Mapping[str, float | None]) -> list[str]:
    """A sentence for each threshold that was crossed.

    Args:
        facts: As ``Noise`` lists them.
    """
    cpus, found = facts["cpus"] or 1.0, list[str]()

    def above(name: str, most: float) -> float | None:
        value = facts[name]
        return value if value is not None and value > most else None

    if (others := above("others", _OTHERS * cpus)) is not None:
        found.append(f"other processes used {_percent(others / cpus)} of the time of the CPUs allowed")
    if (stolen := above("stolen", _STOLEN)) is not None:
        found.append(f"the hypervisor kept the CPUs for others {_percent(stolen)} of the time")
    if (preempted := above("preempted", _PREEMPTED)) is not None and above("others", _SEEN * cpus) is not None:
        found.append(f"threads were taken off their CPU {preempted:.0f} times a second of their work")
    if (throttled := above("throttled", _THROTTLED)) is not None:
        limit = "" if facts["quota"] is None else f" ({facts['quota']:.3g} CPUs)"
        found.append(f"the control group's quota{limit} stopped the work {_percent(throttled)} of the time")
    if (thermal := above("thermal", 0)) is not None:
        found.append(f"CPUs were slowed for their heat {thermal:.0f} times")
    low, high = facts["mhz_low"], facts["mhz_high"]
    if low is not None and high is not None and high > (1 + _CLOCK) * low:
        found.append(f"the clock moved between {low:.0f} and {high:.0f} MHz in the run")
    if (pace := above("pace", 1 + _CLOCK)) is not None:
        found.append(f"a fixed piece of work took up to {_percent(pace - 1)} longer at some times than at others")
    return found


def _percent(share: float) -> str:
    """Two digits, or all of a hundred."""
    percent = 100 * share
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.0f} %"
