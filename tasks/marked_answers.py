"""Read an answer where a question asks for no tags: in words, in a box, or as all that is said."""

from grading.answers import extract_answer
from grading.reading import read
from grading.tags import END_OF_TURN
from grading.values import Text
from tasks import answer_marks
from tasks.answer_marks import SHORT_ANSWER

END = 4000  # characters at the end in which an answer may be marked


def marked_answer(completion: str, phrases: bool = False) -> str | None:
    r"""Read the tagged answer, or in a text without answer tags the one that it marks as such.

    "... so \boxed{B}", "Answer: B", "The answer is B.", or a line that is all there is: "B. red",
    "5 cm". phrases: such a line may be any words, "the red cube", as the question asks for them.
    None for other text: nothing is guessed. Which of several marks counts: answer_marks.find.
    """
    if "<answer>" in completion or "</answer>" in completion:
        return extract_answer(completion)
    tail = completion.rpartition("</think>")[2]
    if "<think>" in tail:
        return None
    tail = END_OF_TURN.sub("\n", tail[-END:]).strip()
    mark = answer_marks.find(tail)
    if mark:
        return mark.answer or None
    is_line = 0 < len(tail) < SHORT_ANSWER and "\n" not in tail
    return tail if is_line and (phrases or not isinstance(read(tail), Text)) else None
