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


def characters_behind_answer(text: str) -> int:
    """Return the number of characters behind the final answer, later boxes left out; 0 without a box."""
    text = text[-LONGEST_TEXT:]
    if "\\boxed" not in text and "\\fbox" not in text:
        return 0
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return 0
    first = next(box for box in boxes if box[1].strip() == boxes[-1][1].strip())
    return len(_BOX.sub("", text[first.end() :]).strip())
