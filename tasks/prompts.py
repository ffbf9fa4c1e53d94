"""How a question is put: templates, pictures in their places, the words of refine and select."""

from dataclasses import replace

from plumbing.errors import UserError
from plumbing.text import meant
from tasks import marks, published, record_fields
from tasks.example import Example, Turn
from tasks.marks import MARK

# How a question is put to the model, the same in training and evaluation. r1v is R1-V's training
# prompt, byte for byte (two spaces). Published sets add how they were evaluated, byte for byte too.
TEMPLATES = {
    "r1v": "{question}  Output the thinking process in <think> </think> "
    "and final answer (number) in <answer> </answer> tags.",
    "think": "{question}  Output the thinking process in <think> </think> "
    "and final answer in <answer> </answer> tags.",
    "option": "{question}  Output the thinking process in <think> </think> "
    "and final answer (option) in <answer> </answer> tags.",
    "direct": "{question}\nAnswer the question using a single word or phrase.",
    "answer": "{question}  Output the final answer in <answer> </answer> tags.",
    "none": "{question}",
} | published.TEMPLATES
DEFAULT_TEMPLATE = "r1v"
ASKS_BARE = ("direct",)  # templates that ask for the answer alone, without tags around it
SECOND_WORDING = {
    "think": "Think the question through inside <think> </think>. "
    "Then write the final answer, and nothing else, inside <answer> </answer>.",
    "answer": "Write the final answer, and nothing else, inside <answer> </answer>.",
    "direct": "Reply with one word or a short phrase.",
}

# What R3V asks after the candidates, by template; other templates ask plainly (select_prompt).
SELECT = published.SELECT


def template_of(name: str) -> str:
    """Give a template by its name. UserError for an unknown one."""
    if name not in TEMPLATES:
        raise UserError(
            f"--prompt-template {name} is unknown; there are {', '.join(TEMPLATES)}"
            f"{meant(name, TEMPLATES)}"
        )
    return TEMPLATES[name]


def question_text(example: Example, template: str = DEFAULT_TEMPLATE) -> str:
    """Put the question as the template does, or as the example's own meta["prompt_template"].

    A template may have a twin, NAME_choices, for questions with choices: `tabmwp`, as R3V.
    A question that already ends in the instruction is returned as it is: R3V's solutions have it.
    """
    template = example.meta.get("prompt_template", template)
    twin = f"{template}_choices"
    for name in (template, twin):
        instruction = TEMPLATES.get(name, "").removeprefix("{question}").strip()
        if name in TEMPLATES and example.question.endswith(instruction):
            return example.question
    if example.choices and twin in TEMPLATES:
        template = twin
    return template_of(template).replace("{question}", example.question)


def with_template(example: Example, template: str) -> Example:
    """Ask by this template, whatever the record names."""
    return replace(example, meta={**example.meta, "prompt_template": template})


def reworded(example: Example, template: str) -> Example:
    """Ask the same in other words: the instruction first and in a second wording.

    Published instructions keep their words, and only come first.
    """
    asked = question_text(example, template)
    if "<think>" in asked:
        instruction = SECOND_WORDING["think"]
    elif "<answer>" in asked:
        instruction = SECOND_WORDING["answer"]
    else:
        name = example.meta.get("prompt_template", template)
        own = asked.replace(example.question, "", 1).strip()
        instruction = SECOND_WORDING.get(name, own)
    text = f"{instruction}\nQuestion: {example.question}".lstrip()
    return with_template(replace(example, question=text), "none")


# --- conversations, and the places of pictures ---


def messages_of(
    example: Example, template: str = DEFAULT_TEMPLATE, system_prompt: str | None = None
) -> list[dict]:
    """Write an example as a chat's messages: its system turn, what was said before, its question.

    The template is for the question alone. The example's own system turn goes before system_prompt.
    Raises UserError unless there is one <image> for each picture, or none at all.
    """
    marks.must_match(asked_texts(example), len(example.images), example.source)
    system = system_prompt if example.system is None else example.system
    messages = [] if system is None else [{"role": "system", "content": system}]
    unplaced = [{"type": "image"}] * len(example.images)
    if any(MARK in text for text in asked_texts(example)):
        unplaced = []
    for role, text in [*example.history, Turn("user", question_text(example, template))]:
        if role == "user":
            messages.append({"role": role, "content": unplaced + parts_of(text)})
            unplaced = []
        else:
            messages.append({"role": role, "content": text.strip()})
    return messages


def parts_of(text: str) -> list[dict]:
    """Split a user's turn into the parts of a message, without a character added or lost.

    "A<image>" -> [{"type": "text", "text": "A"}, {"type": "image"}]
    """
    parts = []
    for n, piece in enumerate(text.split(MARK)):
        if n:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def asked_texts(example: Example) -> list[str]:
    """List the texts in which an <image> is a picture's place: those of the user."""
    return [text for role, text in example.history if role == "user"] + [example.question]


# --- asked again about its own answers ---


def refine_prompt(prompt: str, wrong: str) -> str:
    """Ask to correct a wrong response to this prompt: R3V's self-refine (arXiv:2411.00855)."""
    return (
        f"{prompt}\nModel's prediction:\n{quoted(wrong)}\n"
        "Judge the correctness of the model's prediction and refine it."
    )


def select_prompt(prompt: str, candidates: list[str], instruction: str | None = None) -> str:
    """Ask for the right one of several responses: R3V's self-select; target: the answer alone.

    instruction: SELECT.get(template); None asks plainly, for tags where the prompt itself does.

        <question>  Output the thinking process ... in <answer> </answer> tags.
        Model's prediction 1:
        <think> ... </think><answer> 3 </answer>
        Model's prediction 2: ...
        Which prediction is correct? Give the final answer in <answer> </answer> tags.
    """
    if instruction is None:
        tags = " in <answer> </answer> tags" if "<answer>" in prompt else ""
        instruction = f"Which prediction is correct? Give the final answer{tags}."
    shown = "".join(
        f"Model's prediction {k}:\n{quoted(text)}\n" for k, text in enumerate(candidates, 1)
    )
    return f"{prompt}\n{shown}{instruction}"


def quoted(completion: str) -> str:
    """Break what means something in a prompt: a policy can spell <|image_pad|> letter by letter."""
    return completion.replace("<|", "< |").replace(MARK, "< image>")


def with_question(example: Example, text: str) -> Example:
    """Replace the question, to be encoded with template "none", and drop the worked solution."""
    return replace(
        example,
        question=text,
        solution=None,
        meta=record_fields.without(example.meta, "prompt_template"),
    )
