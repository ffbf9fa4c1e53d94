"""How a question is put: templates and the words of refine and self-select."""

from dataclasses import replace

from plumbing.errors import UserError
from tasks import published, record_fields

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

# What R3V asks after the candidates, by template; other templates ask plainly (select_prompt).
SELECT = published.SELECT


def template_of(name):
    """TEMPLATES[name]; UserError for an unknown one."""
    if name not in TEMPLATES:
        raise UserError(f"--prompt-template {name} is unknown; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def question_text(example, template=DEFAULT_TEMPLATE):
    """The question as the template puts it, or the example's own meta["prompt_template"]. `tabmwp` asks for a letter where there are choices (its _choices twin), as R3V does.
    A question that already ends in what the template (or its twin) asks stays as it is: R3V's worked solutions have it in their files, TabMWP's problems do not."""
    template = example.meta.get("prompt_template", template)
    twin = f"{template}_choices"
    for name in (template, twin):
        if name in TEMPLATES and example.question.endswith(
            TEMPLATES[name].removeprefix("{question}").strip()
        ):
            return example.question
    return template_of(twin if example.choices and twin in TEMPLATES else template).replace(
        "{question}", example.question
    )


def refine_prompt(prompt, wrong):
    """R3V's self-refine (arXiv:2411.00855): a question, as `wording` puts it, with a wrong response to mend. Target: a right one."""
    return f"{prompt}\nModel's prediction:\n{quoted(wrong)}\nJudge the correctness of the model's prediction and refine it."


def select_prompt(prompt, candidates, instruction=None):
    """R3V's self-select: a question, as `wording` puts it, with several responses. Target: the final answer alone, no index and no reasoning.

    instruction: SELECT.get(template); None asks plainly, and for an answer in tags where the question itself does:
        <question>  Output the thinking process ... in <answer> </answer> tags.
        Model's prediction 1:
        <think> ... </think><answer> 3 </answer>
        Model's prediction 2:
        <think> ... </think><answer> 4 </answer>
        Which prediction is correct? Give the final answer in <answer> </answer> tags.              -> <answer> 3 </answer>
    """
    if instruction is None:
        instruction = f"Which prediction is correct? Give the final answer{' in <answer> </answer> tags' if '<answer>' in prompt else ''}."
    shown = "".join(
        f"Model's prediction {k}:\n{quoted(text)}\n" for k, text in enumerate(candidates, 1)
    )
    return f"{prompt}\n{shown}{instruction}"


def quoted(completion):
    """A response as it may stand in a prompt: a policy can spell <|image_pad|> letter by letter, which must not become an image."""
    return completion.replace("<|", "< |")


def with_question(example, text):
    """The example with `text` for its question, to be encoded with template "none": pictures, choices and boxes stay, the worked solution does not."""
    return replace(
        example,
        question=text,
        solution=None,
        meta=record_fields.without(example.meta, "prompt_template"),
    )
