"""A record of every published layout, what it is read as, and how it is broken."""

import base64
from dataclasses import dataclass, field

from samples import png, reply, turns, user

PICTURE = png(64, 48)
BYTES = {"bytes": PICTURE, "path": None}
BASE64 = base64.b64encode(PICTURE).decode()
URL = f"data:image/png;base64,{BASE64}"
THOUGHT = "<think> one, two </think>"
CAPTION = "a quiet street in the old town, " * 5
LONG = "The two lines meet at a right angle, so the sum of squares applies here. " * 3


@dataclass
class Case:
    """A record, the fields of its example, and what is said of it with `broken` in it."""

    record: dict
    question: str
    answer: str
    broken: dict
    says: str
    images: list = field(default_factory=lambda: ["a.png"])  # names, or bytes
    solution: str | None = None
    history: list = field(default_factory=list)
    system: str | None = None
    choices: list | None = None
    task: str | None = None
    keys: tuple = ("image",)  # that name its pictures
    meta: dict = field(default_factory=dict)  # some of what is carried along
    open: bool = False  # whether it has no gold


MCQ = "Which one?\nOptions:\nA. red\nB. blue"
GREEN = [("user", "Is it green?"), ("assistant", "No.")]


def talk(*texts, system=None):
    """The turns of LLaVA's form."""
    names = ("human", "gpt")
    said = [{"from": names[place % 2], "value": text} for place, text in enumerate(texts)]
    return [{"from": "system", "value": system}] * bool(system) + said


CASES = {
    "R1-V": Case(
        {"image": "a.png", "problem": "How many?", "solution": "<answer> 3 </answer>"},
        "How many?",
        "3",
        {"solution": "<answer> </answer>"},
        "no answer to compare with",
    ),
    "plain, with choices": Case(
        {"images": ["a.png"], "question": "Which one?", "answer": "B", "choices": ["red", "blue"]},
        MCQ,
        "B",
        {"choices": {"first": "red"}},
        "`choices` must be a list of texts, found dict",
        choices=["red", "blue"],
        keys=("images",),
    ),
    "LLaMA-Factory": Case(
        {"messages": [user("<image>How many?"), reply("3")], "images": ["a.png"]},
        "How many?",
        "3",
        {"messages": [reply("3"), user("<image>How many?")]},
        "must begin with a turn from human (or user)",
        keys=("images",),
    ),
    "LLaMA-Factory, system column": Case(
        {"messages": [user("How many?"), reply("3")], "images": ["a.png"], "system": "Be brief."},
        "How many?",
        "3",
        {"system": 5},
        "`system` must be str, found int",
        system="Be brief.",
        keys=("images",),
    ),
    "ms-swift, GRPO": Case(
        {
            "messages": [user("<image>How many?")],
            "images": [{"path": "a.png", "bytes": None}],
            "solution": f"{THOUGHT}<answer> 3 </answer>",
        },
        "How many?",
        "3",
        {"solution": LONG},
        "no answer to compare with",
        solution=f"{THOUGHT}<answer> 3 </answer>",
        keys=("images",),
    ),
    "VisualThinker's SAT": Case(
        {
            "messages": [
                user(
                    "<image> Answer in natural language. Is it near? "
                    "Choose between the following options: yes or no"
                ),
                reply("yes"),
            ],
            "images": ["a.png"],
        },
        "Answer in natural language. Is it near? Choose between the following options: yes or no",
        "yes",
        {"images": []},
        "1 <image> in the question, but 0 images",
        keys=("images",),
    ),
    "deepseek-r1-vision": Case(
        {
            "id": "7",
            "messages": [
                user("<image>Is it green?"),
                reply("No."),
                user("How many?"),
                reply(f"{THOUGHT}\nThe answer is **3**."),
            ],
            "images": ["a.png"],
        },
        "How many?",
        "3",
        {"images": ["a.png", "a.png"]},
        "1 <image> in the question, but 2 images",
        solution=f"{THOUGHT}<answer> 3 </answer>",
        history=GREEN,
        keys=("images",),
    ),
    "OpenAI's parts": Case(
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                user(
                    [
                        {"type": "text", "text": "In "},
                        {"type": "image_url", "image_url": {"url": URL}},
                        {"type": "text", "text": ", how many?"},
                    ]
                ),
                reply([{"type": "text", "text": "3"}]),
            ]
        },
        "In <image>, how many?",
        "3",
        {"messages": [user([{"type": "image_url"}, {"type": "text", "text": "q"}]), reply("3")]},
        "1 <image> in the question, but 0 images",
        images=[PICTURE],
        system="Be brief.",
        keys=(),
    ),
    "TRL, a text": Case(
        {"prompt": "How many?", "image": "a.png", "solution": "<answer> 3 </answer>"},
        "How many?",
        "3",
        {"prompt": ["How many?"]},
        "`prompt` must begin with a turn from human (or user)",
    ),
    "TRL, turns": Case(
        {
            "prompt": [
                {"role": "system", "content": "Think first."},
                user([{"type": "image", "text": None}, {"type": "text", "text": "How many?"}]),
            ],
            "images": [BYTES],
            "answer": 1e-05,
        },
        "How many?",
        "0.00001",
        {"answer": float("inf")},
        "`answer` is inf, no number",
        images=[PICTURE],
        system="Think first.",
        keys=("images",),
    ),
    "TRL, prompt and completion": Case(
        {"prompt": [user("How many?")], "completion": [reply("3")], "images": ["a.png"]},
        "How many?",
        "3",
        {"completion": [user("3")]},
        "`completion` must be one turn of gpt (or assistant)",
        keys=("images",),
    ),
    "verl": Case(
        {
            "data_source": "hiyouga/geometry3k",
            "prompt": [user("<image>Find x. Put the answer in \\boxed{}.")],
            "images": [BYTES],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "3"},
            "extra_info": {"split": "train", "index": 0, "question": "<image>Find x."},
        },
        "Find x. Put the answer in \\boxed{}.",
        "3",
        {"reward_model": {"style": "rule", "ground_truth": ["3"]}},
        "`ground_truth` must be str or int or float, found list",
        images=[PICTURE],
        keys=("images",),
        meta={"data_source": "hiyouga/geometry3k"},
    ),
    "DeepEyes": Case(
        {
            "data_source": "vstar",
            "prompt": [{"role": "system", "content": "You have a tool."}, user("<image>\nColor?")],
            "images": [BYTES],
            "reward_model": {"style": "model", "ground_truth": "The color is red."},
            "extra_info": {"answer": "The color is red."},
            "env_name": "visual_toolbox_v2",
        },
        "Color?",
        "The color is red.",
        {"reward_model": None},
        "no answer to compare with",
        images=[PICTURE],
        system="You have a tool.",
        keys=("images",),
        meta={"env_name": "visual_toolbox_v2"},
    ),
    "ms-swift, query": Case(
        {
            "query": "How many?",
            "response": f"{THOUGHT}\nThe answer is **3**.",
            "history": [["<image>Is it green?", "No."]],
            "system": "Be brief.",
            "images": ["a.png"],
        },
        "How many?",
        "3",
        {"history": [["Is it green?"]]},
        "`history` must be turns, or pairs of a question and its answer",
        solution=f"{THOUGHT}<answer> 3 </answer>",
        history=GREEN,
        system="Be brief.",
        keys=("images",),
    ),
    "LLaMA-Factory, alpaca": Case(
        {
            "instruction": "How many?",
            "input": "Of the cats.",
            "output": "3",
            "history": [],
            "images": ["a.png"],
        },
        "How many?\nOf the cats.",
        "3",
        {"output": ""},
        "`content` is empty",
        keys=("images",),
    ),
    "the_cauldron, FineVision": Case(
        {
            "images": [BYTES],
            "texts": [
                {"user": "Is it green?", "assistant": "No.", "source": "VQAv2"},
                {"user": "How many?", "assistant": "3", "source": "VQAv2"},
            ],
        },
        "How many?",
        "3",
        {"texts": [{"user": "How many?", "source": "VQAv2"}]},
        "`texts` must begin with a turn from human (or user)",
        images=[PICTURE],
        history=GREEN,
        keys=("images",),
    ),
    "LMM-R1, MM-Eureka": Case(
        {
            "id": "0",
            "message": '[{"role": "user", "content": [{"type": "image", "image": "file://a.png"}, '
            '{"type": "text", "text": "How many?"}]}]',
            "answer": "$3$",
        },
        "How many?",
        "$3$",
        {"message": '[{"role": "user"'},
        "`message` must begin with a turn from human (or user)",
        keys=(),
    ),
    "EasyR1": Case(
        {"images": [BYTES], "problem": "<image>Find x.", "answer": "3"},
        "Find x.",
        "3",
        {"problem": "<image><image>Find x."},
        "2 <image> in the question, but 1 images",
        images=[PICTURE],
        keys=("images",),
    ),
    "ViRL39K": Case(
        {
            "qid": "Geo-1",
            "question": "<image>Which one?\nA. red\nB. blue",
            "answer": "\\boxed{A}",
            "image": ["a.png"],
            "PassRate_32BTrained": 0.5,
            "PassRate_7BBase": -1.0,
            "category": "Math",
            "source": "Geo170K",
        },
        "Which one?\nA. red\nB. blue",
        "A",
        {"answer": "\\boxed{}"},
        "no answer to compare with",
        meta={"PassRate_32BTrained": 0.5, "PassRate_7BBase": -1.0, "category": "Math"},
    ),
    "CLEVR": Case(
        {
            "image_index": 0,
            "image_filename": "a.png",
            "split": "train",
            "question": "Are there more cubes?",
            "answer": "yes",
            "program": [{"inputs": [], "function": "scene", "value_inputs": []}],
            "question_family_index": 2,
        },
        "Are there more cubes?",
        "yes",
        {"image_filename": "CLEVR_train_000001.png"},
        "../images/train there; relative paths",
        keys=("image_filename",),
    ),
    "Super-CLEVR": Case(
        {"image_filename": "a.png", "question": "How many cars?", "answer": 4},
        "How many cars?",
        "4",
        {"answer": None},
        "no answer to compare with",
        keys=("image_filename",),
    ),
    "CLEVR-Math of the Hub": Case(
        {
            "template": "subtraction",
            "id": "g-1",
            "question": "Subtract 2?",
            "image": BYTES,
            "label": 0,
        },
        "Subtract 2?",
        "0",
        {"label": "  "},
        "`label` is empty",
        images=[PICTURE],
        task="subtraction",
    ),
    "CLEVR-Math of R3V": Case(
        {"filename": "a.png", "question": "How many?", "answer": 3},
        "How many?",
        "3",
        {"filename": "b.png"},
        "b.png does not exist, nor in images",
        keys=("filename",),
    ),
    "R1-Onevision": Case(
        {
            "id": "x",
            "image": BASE64,
            "conversations": talk("<image>\nFind x.", f"{THOUGHT}\n{LONG}"),
            "gt": "3",
            "filter": "pass",
        },
        "Find x.",
        "3",
        {"image": BASE64[:-7] + "?"},
        "broken base64",
        images=[PICTURE],
        solution=f"{THOUGHT}\n{LONG}".strip(),
        meta={"filter": "pass"},
    ),
    "R1-Onevision-Bench": Case(
        {
            "index": "1",
            "image": BASE64,
            "question": "Question: Find x.\nChoices: A.1 B.2",
            "answer": "B",
            "category": "math",
            "level": "1",
        },
        "Question: Find x.\nChoices: A.1 B.2",
        "B",
        {"answer": "NaN"},
        "the answer is NaN, no number",
        images=[PICTURE],
    ),
    "Vision-R1-cold": Case(
        {
            "image": "a.png",
            "conversations": talk("<image>How many?", f"{THOUGHT}The answer is **3**."),
        },
        "How many?",
        "3",
        {"conversations": talk("How many?", "<think> it never ends")},
        "no answer to compare with",
        solution=f"{THOUGHT}<answer> 3 </answer>",
    ),
    "LLaVA-Pretrain": Case(
        {
            "id": "1",
            "image": "a.png",
            "conversations": talk("Write a brief caption.\n<image>", CAPTION),
        },
        "Write a brief caption.\n<image>",
        "",
        {"conversations": talk("Write a brief caption.\n<image>", "  ")},
        "`value` is empty",
        solution=CAPTION.strip(),
        open=True,
    ),
    "LLaVA-Instruct": Case(
        {
            "id": "2",
            "image": "a.png",
            "conversations": talk("<image>\nIs it green?", "No.", "Why?", LONG),
        },
        "Why?",
        "",
        {"conversations": talk("<image>\nIs it green?", "A <image>.", "Why?", LONG)},
        "a turn of the assistant has <image>",
        solution=LONG.strip(),
        history=GREEN,
        open=True,
    ),
    "ShareGPT, a system turn": Case(
        {
            "images": ["a.png"],
            "conversations": talk("<image>How many?", "3", system="Be brief."),
        },
        "How many?",
        "3",
        {"conversations": [{"from": "tool", "value": "x"}]},
        "has a turn from tool, and calls of tools cannot be learned",
        system="Be brief.",
        keys=("images",),
    ),
    "Geo170K": Case(
        {
            "id": "3",
            "image": "a.png",
            "conversations": talk("<image>\nWhich?\nA: 1\nB: 2", "So it is 2.\nThe answer is B."),
        },
        "Which?\nA: 1\nB: 2",
        "B",
        {"image": ""},
        "`image` is empty",
        solution="<think> So it is 2.\nThe answer is B. </think><answer> B </answer>",
    ),
    "A-OKVQA of the Hub": Case(
        {
            "image": BYTES,
            "question_id": "22M",
            "question": "Which one?",
            "choices": ["red", "blue"],
            "correct_choice_idx": 1,
            "direct_answers": "['blue', 'navy']",
            "difficult_direct_answer": False,
            "rationales": ["It is blue."],
        },
        MCQ,
        "blue",
        {"correct_choice_idx": 2},
        "`correct_choice_idx` must be the place of a choice, from 0 to 1",
        images=[PICTURE],
        choices=["red", "blue"],
        meta={"direct_answers": "['blue', 'navy']"},
    ),
    "A-OKVQA of its authors": Case(
        {
            "split": "train",
            "image_id": 299207,
            "question_id": "22M",
            "question": "Which one?",
            "choices": ["red", "blue"],
            "correct_choice_idx": 0,
            "direct_answers": ["red"],
            "rationales": ["It is red."],
        },
        MCQ,
        "red",
        {"image_id": None},
        "no picture; expected `image`, or `image_id`",
        images=["000000299207.jpg"],
        choices=["red", "blue"],
        keys=("image_id",),
    ),
    "open-r1-multimodal's 8k": Case(
        {
            "image": BYTES,
            "problem": "How many?",
            "solution": f"{THOUGHT}\n\n<answer>3</answer>",
            "original_question": "How many? A. 2 B. 3",
            "original_answer": "B",
        },
        "How many?",
        "3",
        {"answer": "4"},
        "the answer is '4', but the solution comes to '3'",
        images=[PICTURE],
        solution=f"{THOUGHT}\n\n<answer>3</answer>",
        meta={"original_answer": "B"},
    ),
    "VLM-R1, a list of boxes": Case(
        {
            "image": "a.png",
            "problem": "the man",
            "solution": [10, 20, 200, 300],
            "normalized_solution": [0.03, 0.08, 0.63, 1.0],
        },
        "the man",
        '{"bbox_2d": [10, 20, 200, 300]}',
        {"solution": [10, 20, 2000, 300]},
        "lies outside the picture of 640 x 480",
    ),
    "VLM-R1's GUI file": Case(
        {
            "id": 1,
            "image": ["a.png", "a.png"],
            "conversations": talk("Compare the screenshots.", "Operation No Response"),
        },
        "Compare the screenshots.",
        "Operation No Response",
        {"conversations": talk("<image>Compare.", "Operation No Response")},
        "1 <image> in the question, but 2 images",
        images=["a.png", "a.png"],
    ),
    "MathVista": Case(
        {
            "pid": "2",
            "question": "What is the missing number?",
            "image": "images/2.jpg",
            "decoded_image": BYTES,
            "choices": None,
            "unit": None,
            "precision": 1.0,
            "answer": "2",
            "question_type": "free_form",
            "answer_type": "integer",
            "metadata": {"task": "math word problem", "img_height": 48},
            "query": "Hint: Please answer the question.\nQuestion: What is the missing number?",
        },
        "Hint: Please answer the question.\nQuestion: What is the missing number?",
        "2",
        {"answer": ""},
        "no answer to compare with",
        images=[PICTURE],
        task="math word problem",
        keys=("image", "decoded_image"),
        meta={"precision": 1.0, "unit": None},
    ),
    "MMMU": Case(
        {
            "id": "validation_Art_1",
            "question": "Who painted this? <image 2>",
            "options": "['the one of <image 1>', 'Monet']",
            "explanation": "",
            "image_1": {"bytes": png(60, 40)},
            "image_2": BYTES,
            "image_3": None,
            "img_type": "['Paintings']",
            "answer": "B",
            "question_type": "multiple-choice",
            "subfield": "Art History",
        },
        "Who painted this? <image>\nOptions:\nA. the one of <image>\nB. Monet",
        "B",
        {"image_2": None},
        "the text has <image 2>, but 1 images are read",
        images=[PICTURE, png(60, 40)],
        choices=["the one of <image 1>", "Monet"],
        task="Art History",
        keys=("image_1", "image_2"),
    ),
    "MMStar": Case(
        {
            "index": 0,
            "question": "Which one?\nOptions: A: red, B: blue",
            "image": BYTES,
            "answer": "A",
            "category": "coarse perception",
            "l2_category": "image scene",
            "meta_info": {"image_path": "images/0.jpg", "source": "MMBench"},
        },
        "Which one?\nOptions: A: red, B: blue",
        "A",
        {"question": None},
        "no question",
        images=[PICTURE],
        meta={"category": "coarse perception"},
    ),
    "MMBench": Case(
        {
            "index": 241,
            "question": "Which one?",
            "hint": "Colors.",
            "A": "red",
            "B": "blue",
            "C": None,
            "D": float("nan"),
            "answer": "B",
            "category": "attribute",
            "source": "x",
            "image": BASE64,
        },
        "Hint: Colors.\nQuestion: Which one?\nOptions:\nA. red\nB. blue",
        "B",
        {"answer": None},
        "no answer to compare with",
        images=[PICTURE],
        choices=["red", "blue"],
        task="attribute",
    ),
    "MathVerse": Case(
        {
            "sample_index": "5",
            "problem_index": "1",
            "problem_version": "Vision Only",
            "question": "",
            "image": BYTES,
            "answer": "B",
            "question_type": "multi-choice",
            "metadata": {"subject": "Plane Geometry"},
            "query_wo": "Please directly answer.",
            "query_cot": "According to the question shown in the image, reason first.",
            "question_for_eval": "Find x.",
        },
        "According to the question shown in the image, reason first.",
        "B",
        {"query_cot": None},
        "`query_cot` is null",
        images=[PICTURE],
        task="Vision Only",
    ),
    "MATH-Vision": Case(
        {
            "id": "4",
            "question": "How many digits are here?\n<image1>\nCount them.",
            "options": [],
            "image": "images/4.jpg",
            "decoded_image": BYTES,
            "answer": "6",
            "solution": None,
            "level": 1,
            "subject": "counting",
        },
        "How many digits are here?\n<image>\nCount them.",
        "6",
        {"answer": None},
        "`answer` is null",
        images=[PICTURE],
        task="counting",
        keys=("image", "decoded_image"),
    ),
    "MATH-Vision, marks of parts": Case(
        {
            "id": "33",
            "question": "From <image1> to <image2>?",
            "options": ["A", "B", "C"],
            "image": "a.png",
            "answer": "A",
            "solution": "The answer is 12.",
            "level": 2,
            "subject": "logic",
        },
        "From <image1> to <image2>?",
        "A",
        {"image": "33.jpg"},
        "33.jpg does not exist, nor in .., images there",
        choices=["A", "B", "C"],
        task="logic",
        meta={"solution": "The answer is 12."},
    ),
    "ScienceQA": Case(
        {
            "image": BYTES,
            "question": "Which one?",
            "choices": ["red", "blue"],
            "answer": 0,
            "hint": "Look.",
            "task": "closed choice",
            "subject": "social science",
            "lecture": "Maps have directions.",
            "solution": "Look at the rose.",
        },
        "Which one?\nContext: Look.\nOptions:\n(A) red\n(B) blue",
        "red",
        {"answer": 2},
        "`answer` must be the place of a choice, from 0 to 1",
        images=[PICTURE],
        choices=["red", "blue"],
        task="social science",
        meta={"lecture": "Maps have directions."},
    ),
    "GSM8K": Case(
        {"question": "How many clips?", "answer": "48 + 24 = 72\n#### 72"},
        "How many clips?",
        "72",
        {"answer": f"<think> {LONG}"},
        "no answer to compare with",
        images=[],
        solution="<think> 48 + 24 = 72 </think><answer> 72 </answer>",
        keys=(),
    ),
    "R3V's warm-up": Case(
        {
            "image": "a.png",
            **turns("How many?", "Solution:\n1. One.\n\nAnswer:\n1", ("user", "assistant")),
        },
        "How many?",
        "1",
        {"image": "a.png", "images": []},
        "`images` is an empty list, but `image` is not",
        solution="<think> Solution:\n1. One. </think><answer> 1 </answer>",
    ),
}
