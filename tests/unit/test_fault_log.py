"""The log of the fault tests has every test of the JUnit file: passed, failed or skipped with its reason."""

from pathlib import Path

from support.fault_log import as_markdown

JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" tests="5" time="754.3" timestamp="2026-11-30T05:20:11.000001+00:00">
<testcase classname="tests.faults.test_b" name="test_killed[redis]" time="10.4"/>
<testcase classname="tests.faults.test_b" name="test_killed[sqlite]" time="5.4">
<failure message="x">y</failure></testcase>
<testcase classname="tests.faults.test_b" name="test_gone" time="0"><error message="x">y</error></testcase>
<testcase classname="tests.e2e.test_a" name="test_one" time="3"/>
<testcase classname="tests.e2e.test_a" name="test_two" time="0">
<skipped type="pytest.skip" message="Skipped: no podman">where</skipped></testcase>
</testsuite></testsuites>"""


def test_the_log_counts_every_test_once(tmp_path: Path) -> None:
    junit = tmp_path / "faults.xml"
    junit.write_text(JUNIT)
    log = as_markdown(junit, "abc1234", "3").splitlines()
    assert log[0].startswith("Begun 2026-11-30 05:20 on commit abc1234: 2 of 5 tests passed in 13 minutes")
    assert log[-2:] == [
        "| `e2e/test_a.py` | 2 | 1 | 1 skipped: no podman | 3 |",
        "| `faults/test_b.py` | 3 | 1 | failed: test_killed[sqlite]; failed: test_gone | 16 |",
    ]
