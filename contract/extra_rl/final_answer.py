"""The place of the final answer in a response, to see what stands behind it.

Text behind the final answer is paid by nothing that looks at the answer alone, so a policy that learns to
write there games a metric of the text. The final answer is the first of the boxes with the content of the
last one: a later box that repeats it is behind the answer. Without a box there is no such place.
"""

import re

#: A box with braces in it to a depth of two. Linear: every alternative begins with another character.
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
#: Longest part of a response that is read, from its end on, in characters.
LONGEST_TEXT = 100_000


def split_at_final_box(text: str) -> tuple[str, str, str] | None:
    """Return what is before the final answer, its content, and what is behind it, later boxes left out.

    None if there is no box.
    """
    if "\\boxed" not in text and "\\fbox" not in text:
        return None
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    content = boxes[-1][1]
    first = next(box for box in boxes if box[1].strip() == content.strip())
    return text[: first.start()], content, _BOX.sub("", text[first.end() :])


def characters_behind_answer(text: str) -> int:
    """Return the number of characters behind the final answer, later boxes left out; 0 without a box."""
    parts = split_at_final_box(text[-LONGEST_TEXT:])
    return len(parts[2].strip()) if parts else 0
