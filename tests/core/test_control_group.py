from __future__ import annotations

from pathlib import Path

from tavt_kit.core.device import ControlGroup


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n", encoding="ascii")
    return root


def test_version_2_takes_the_smallest_limit_of_all_groups_above(tmp_path: Path) -> None:
    base = "sys/fs/cgroup"
    put(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/box",
            f"{base}/pod/box/cpu.max": "400000 100000",
            f"{base}/pod/box/cpu.stat": "usage_usec 5\nnr_periods 7\nnr_throttled 0\nthrottled_usec 0",
            f"{base}/pod/box/memory.max": "2147483648",
            f"{base}/pod/cpu.max": "150000 100000",
            f"{base}/pod/cpu.stat": "usage_usec 5\nnr_periods 7\nnr_throttled 3\nthrottled_usec 250000",
            f"{base}/pod/memory.max": "max",
            f"{base}/cpu.max": "max 100000",
            f"{base}/cpu.stat": "usage_usec 5",
        },
    )
    assert ControlGroup.read(tmp_path) == ControlGroup(1.5, 2**31, 3, 0.25)


def test_version_1_and_a_place_that_only_the_host_sees(tmp_path: Path) -> None:
    base = "sys/fs/cgroup"
    put(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc",
            f"{base}/cpu,cpuacct/cpu.cfs_quota_us": "50000",
            f"{base}/cpu,cpuacct/cpu.cfs_period_us": "100000",
            f"{base}/cpu,cpuacct/cpu.stat": "nr_periods 10\nnr_throttled 2\nthrottled_time 3000000000",
            f"{base}/memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert ControlGroup.read(tmp_path) == ControlGroup(0.5, None, 2, 3.0)


def test_no_limits(tmp_path: Path) -> None:
    assert ControlGroup.read(tmp_path) == ControlGroup()
    put(
        tmp_path,
        {
            "proc/self/cgroup": "1:cpu:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert ControlGroup.read(tmp_path) == ControlGroup()
