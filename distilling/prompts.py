"""What distill.py asks of teachers. The words are ours: no published pipeline shows its prompts.

Messages are those of an OpenAI-compatible server. {"type": "image"} is a picture's place, which
`with_pictures` fills.
"""

import re
from collections.abc import Iterator

import pools
from tasks import prompts
from tasks.example import Example

# --- the kind of a picture ---

# How each kind is put into formal language, as R1-Onevision does (arXiv:2503.10615, section 3).
DESCRIBE = {
    "natural": "First write a caption of two or three sentences. Then list every object, one a "
    'line, as JSON: {"bbox_2d": [x1, y1, x2, y2], "label": "red car"}. Boxes are in thousandths '
    "of the picture's width and height. List each object of a group by itself.",
    "chart": "Name the type of chart, its title, its axes with their units, and its legend. Then "
    "write its data as CSV, one row for each mark, with a header line. Read values off the axes "
    "as exactly as they can be read.",
    "table": "Write its title, then the whole table as CSV with a header line; where cells span "
    "several rows or columns, as HTML instead. Copy every cell as it is written.",
    "text": "Copy all text, one block after the other in reading order. Put before each block "
    "what it is (title, paragraph, label, handwriting) and where it stands, for example "
    "[title, top centre].",
    "math": "List what is given: each quantity, length, angle, label, and each relation between "
    "them that is drawn or marked. Write formulas in LaTeX. Then say what is to be found, if the "
    "picture says so. Solve nothing.",
    "diagram": "Write it in the formal language that fits it best: PlantUML for classes and "
    "sequences, Mermaid for flow charts and graphs, SPICE for circuits. Keep every label as it is "
    "written. Add in words what that language cannot say.",
}
KINDS = tuple(DESCRIBE)

# Words of a record's task or source -> kind. The first that fits is taken.
KIND_WORDS = (
    ("natural", "clevr|coco|vsr|gqa|natural|photo"),
    ("chart", "chart|plot|figureqa|dvqa"),
    ("table", "table|tabmwp|tabular|tatqa"),
    ("text", "ocr|doc|text|receipt|sroie|handwrit|invoice|screen|webpage"),
    ("math", "geo|math|algebra"),
    ("diagram", "ai2d|diagram|circuit|flow|tqa"),
    ("natural", "general|vqa|count|spatial|ground|scene|detect|relation|depth|distance"),
)
SOURCE_KEYS = ("source", "data_source", "dataset", "dataset_name", "category", "domain", "type")


def kind_of(example: Example) -> str | None:
    """Tell the kind of an example's picture by its task or source; None if these do not say."""
    told = [example.task, *(example.meta.get(key) for key in SOURCE_KEYS)]
    for text in (text.lower() for text in told if isinstance(text, str)):
        for kind, words in KIND_WORDS:
            if re.search(words, text):
                return kind
    return None


def read_kind(text: str) -> str:
    """Read the kind that a teacher names; "natural", the most general, if it names none."""
    found = re.search(rf"\b({'|'.join(KINDS)})\b", text.lower())
    return found[1] if found else "natural"


# --- what is asked ---

ANSWER = (
    "Write your reasoning in <think> </think> and then the final answer in <answer> </answer>: a "
    "number in digits, the letter of an option, or a few words, and nothing else."
)
KIND = (
    "What kind of picture is this? Answer with one word: natural (a photograph or a scene), chart, "
    "table, text (a document or signs to read), math (geometry, formulas), or diagram (circuits, "
    "flow charts, schemes)."
)
TO_DESCRIBE = (
    "Describe this picture so completely that somebody who cannot see it could answer any question "
    "about it. {how} Write only what is there; where something cannot be made out, say so."
)
REASON = (
    "Below are a description of a picture and a question about the picture. Answer the question "
    "step by step.\n\nDescription:\n{description}\n\nQuestion:\n{question}\n\n" + ANSWER
)
LOOK = (
    "Below are a question about a picture and somebody's reasoning, who had only a description of "
    "the picture. Rewrite the reasoning as that of somebody who looks at the picture itself. Write "
    "in the first person. Where a fact is read off the picture, say that it is seen, and where. "
    "Once or twice, before a step that depends on a detail, look at the picture again and check "
    "it. Never mention a description, a caption, or anything else that was given in words. Change "
    "no fact, no step and no result.\n\nQuestion:\n{question}\n\nReasoning:\n{thinking}\n\n"
    "Final answer: {answer}\n\n" + ANSWER
)
HINDSIGHT = (
    "Answer the question about a picture, which you are not shown, with the help of the reference "
    "answer and of what you know. Work out step by step how one comes to it.\n\n"
    "Question:\n{question}\n\nReference answer: {answer}\n\n" + ANSWER
)
CLEAN = (
    "Below are a question about a picture and a worked answer to it, written by somebody who knew "
    "the reference answer. Edit the worked answer so that nothing in it shows this: no word of a "
    "reference, a hint or a given answer. What it says about the picture stays, as something that "
    "is seen. Change no step and no result.\n\nQuestion:\n{question}\n\nWorked answer:\n{thinking}"
    "\n\nFinal answer: {answer}\n\n" + ANSWER
)
CAPTION = (
    "Describe this picture in one paragraph, as somebody who looks at it and notes what matters: "
    "the objects with their places and numbers, all text and figures. Begin with what is most "
    "striking. Do not speak of an image or a description."
)
# R1-Vision's trick: a text reasoner goes on with thinking that it believes to be its own.
LEAD_IN = "<think>\nLet me look at the picture first. I see this: {caption}\nNow,"
JUDGE = (
    "A student was shown this picture and asked the question below. Judge the student's answer."
    "\n\nQuestion:\n{question}\n\nStudent's reasoning:\n{thinking}\n\nStudent's answer: {answer}"
    "\n\nAnswer with four lines, each with yes or no, and after it a reason of a few words:\n"
    "CONSISTENT: do the steps follow from each other, and does the answer follow from them?\n"
    "RELEVANT: is every step about this question?\n"
    "GROUNDED: is everything that the reasoning says about the picture there in the picture?\n"
    "FIRSTHAND: does the student speak only as one who looks at the picture, and never of a "
    "description, a caption, a list, a reference, or an answer that was known beforehand?"
)
# Five ways to ask, so that questions differ, as Docmatix has (arXiv:2408.12637, section 4.2).
QA = (
    "Write {number} questions that somebody could have about this page and that its text answers.",
    "You test how well a reader finds facts. Write {number} questions, each about another fact.",
    "Write {number} short questions about names, dates, numbers and places in this page.",
    "Write {number} questions of an expert about this page: what it shows, compares or concludes.",
    "Write {number} questions that a customer, a pupil or a clerk might ask about this page.",
)
QA_FORM = (
    " Answer each in as few words as the page needs. Write them in pairs of lines:\nQ: the question"
    "\nA: the answer\n\nText of the page:\n{text}"
)
PAIRS = 5  # questions a document


def words(text: str) -> list[dict]:
    """Make messages of a text without pictures."""
    return [{"role": "user", "content": text}]


def about(example: Example, text: str) -> list[dict]:
    """Make messages that show an example's pictures, then say a text."""
    parts = [{"type": "image"}] * len(example.images)
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def asked(example: Example, template: str) -> list[dict]:
    """Put an example's own question as a template does: its conversation, pictures in places."""
    return prompts.messages_of(example, template)


def question_of(example: Example) -> str:
    """Write the whole conversation up to the question, for a prompt that quotes it."""
    bare = pools.blind(example)
    said = [f"{turn.role}: {turn.text}" for turn in bare.history]
    return "\n".join([*said, bare.question])


def fill(template: str, **values: str) -> str:
    """Fill a prompt's places; values keep their braces, and mean nothing to a chat template."""
    return re.sub(r"\{(\w+)\}", lambda place: prompts.quoted(values[place[1]]), template)


# --- pictures ---


def with_pictures(messages: list[dict], example: Example) -> list[dict]:
    """Put an example's pictures in their places."""
    left = iter(example.images)
    filled = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [with_picture(part, left) for part in content]
        filled.append({**message, "content": content})
    return filled


def with_picture(part: dict, left: Iterator) -> dict:
    """Put the next picture into a part that is one's place."""
    return {**part, "image": next(left)} if part["type"] == "image" else part
