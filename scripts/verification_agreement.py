"""Write docs/verification-agreement.md: the verdicts on graded real responses against their grades.

`python scripts/verification_agreement.py` reads rollouts_math.jsonl and graded_gsm8k.jsonl from EXTRA_RL_DATA
(default ../shared/data beside the checkout). A person must have judged each disagreement: RIGHT has the
judgement. A disagreement that is missing there ends the script with an error.
"""

import json
import logging
import os
import sys
from collections import Counter
from pathlib import Path

import math_verify

from extra_rl.vocabulary import VerdictStatus
from extra_services.verification.judge import judge
from extra_services.verification.verdict import Verdict, VerificationItem

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EXTRA_RL_DATA", ROOT / "tests" / "data" / "public"))
FILES = ("rollouts_math", "graded_gsm8k")

#: Row of each disagreement (file, number from 0) -> the judgement with its reason.
RIGHT = {
    (
        "rollouts_math",
        295,
    ): "The verdict is right: the response's 10000 is the reference's 10{,}000, with a thousands separator.",
}


def main() -> None:
    """Write the page."""
    logging.disable(logging.ERROR)
    lines = [
        "# Agreement with graded responses",
        "",
        "Written by `python scripts/verification_agreement.py`; "
        "`tests/conformance/test_verification_agreement.py` checks the numbers.",
        "",
        "| data | responses | graded correct | agree | disagree | undecided | math-verify disagrees |",
        "|---|---|---|---|---|---|---|",
    ]
    disagreements = []
    for name in FILES:
        rows = [
            json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        verdicts = [judge(VerificationItem(row["response"], row["answer"])) for row in rows]
        wrong = [index for index, row in enumerate(rows) if _correct(verdicts[index]) != row["correct"]]
        undecided = Counter(
            v.status for v in verdicts if v.status not in (VerdictStatus.CORRECT, VerdictStatus.WRONG)
        )
        theirs = sum(_math_verify(row["response"], row["answer"]) != row["correct"] for row in rows)
        lines.append(
            f"| `{name}.jsonl` | {len(rows)} | {sum(row['correct'] for row in rows)} "
            f"| {len(rows) - len(wrong)} | {len(wrong)} | {undecided.total()} | {theirs} |"
        )
        disagreements += [(name, index, rows[index], verdicts[index]) for index in wrong]
    lines += ["", "## Every disagreement", ""]
    for name, index, row, verdict in disagreements:
        if (name, index) not in RIGHT:
            sys.exit(
                f"{name} row {index} is a disagreement without a judgement: add it to RIGHT in {__file__}"
            )
        lines += [
            f"- `{name}.jsonl`, row {index} ({row['prompt_id']}): reference `{row['answer']}`, final answer "
            f"`{verdict.extracted}`, graded {'correct' if row['correct'] else 'wrong'}, verdict "
            f"{verdict.status.value} (rule `{verdict.rule}`). {RIGHT[name, index]}"
        ]
    (ROOT / "docs" / "verification-agreement.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


def _correct(verdict: Verdict) -> bool:
    return verdict.status is VerdictStatus.CORRECT


def _math_verify(response: str, answer: str) -> bool:
    gold = math_verify.parse(rf"\boxed{{{answer}}}")
    return bool(math_verify.verify(gold, math_verify.parse(response)))


if __name__ == "__main__":
    main()
