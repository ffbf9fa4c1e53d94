"""Run: python -m pytest -q tests/test_pools.py        (3 s on one core of a CPU; no network)

The builders of self-training, on pools written here: R3V's cases by hand, balance by counting,
preference pairs against the plain product of right and wrong samples.
"""

import copy
import itertools
import random
import re
from collections import Counter

import pytest
from pool_lines import example, line, many, pool_of, prompt_of, samples

from grading import answers, metrics
from plumbing.errors import UserError
from pools import (
    BARE_ANSWERS,
    BUILT,
    INSTRUCTION_OF,
    INSTRUCTIONS,
    balance_kinds,
    balance_positions,
    build_items,
    correctness_pairs,
    entails,
    final_answer,
    has_reasoning,
    hint_prompt,
    instructed,
    ntp_pair,
    rationalised,
    self_cot,
    self_refine,
    self_select_sets,
    sort_pool,
    truncate_words,
)
from tasks import layouts, protocols, toy
from tasks.prompts import (
    SELECT,
    TEMPLATES,
    refine_prompt,
    select_prompt,
)

# --- the pool ---


def test_sort_pool_keeps_the_order_and_the_unreadable_apart():
    sorts = sort_pool([line(1, "4", False, "b"), *pool_of("TFUT", "a"), line(2, "3", True, "b")])
    assert list(sorts) == ["b", "a"]
    assert [samples(group) for group in sorts["a"]] == [[1, 4], [2], [3]] and [
        samples(group) for group in sorts["b"]
    ] == [[2], [1], []]


@pytest.mark.parametrize("completion, reasons", [
    ("<think> Row 1: red circle, blue square. </think><answer> 1 </answer>", True),
    ("Row 1: red circle, blue square, thus <answer> 1 </answer>", True),
    ("Solution:\n1. The table shows 7 and 8.\nAnswer: 15", True),
    ("Seven and eight together are fifteen", True),
    ("<think></think><answer> 15 </answer>", False),
    ("<think> .... !!!! .... </think><answer> 15 </answer>", False),
    ("<answer> 15 </answer> because seven and eight together are fifteen", False),
    ("Answer: 15\nbecause seven and eight together are fifteen", False),
    ("15", False), ("", False),
])  # fmt: skip
def test_has_reasoning(completion, reasons):
    assert has_reasoning(completion) == reasons


def test_has_reasoning_counts_characters():
    assert has_reasoning("<think> ab - c1 </think><answer> 3 </answer>", 7) and not has_reasoning(
        "<think> ab - c1 </think><answer> 3 </answer>", 8
    )


# --- R3V ---


def test_true_false_true():
    """Facts 8.2: self-CoT is sample 3, refine takes 2 to 3, one set of 3, 1 and 2 as 2+1."""
    right, wrong, _ = sort_pool(pool_of("TFT"))["q"]
    assert self_cot(right)["sample"] == 3 and samples(self_refine(right, wrong)) == [2, 3]
    [one] = self_select_sets(right, wrong)
    assert one["kind"] == "2+1" and samples(one["right"]) == [1, 3] and samples(one["wrong"]) == [2]
    items, counts = build_items({"q": example()}, pool_of("TFT"), prompt_of, balance=False)
    cot, refine, select = items
    texts = [one["completion"] for one in pool_of("TFT")]
    assert cot == {"id": "q", "task": "cot", "prompt": "How many in q? Think.", "target": texts[2]}
    assert refine == {
        "id": "q",
        "task": "refine",
        "prompt": refine_prompt("How many in q? Think.", texts[1]),
        "target": texts[2],
    }
    assert (
        select["prompt"] == select_prompt("How many in q? Think.", select["candidates"])
        and select["target"] == "<answer> 3 </answer>"
    )
    assert sorted(select["candidates"]) == sorted(texts) and [
        select["candidates"][at] for at in range(3) if at not in select["right_at"]
    ] == [texts[1]]
    assert counts == {
        "questions": 1,
        "all_right": 0,
        "all_wrong": 0,
        "mixed": 1,
        "unreadable": 0,
        "cut": 0,
        "no_reasoning": 0,
        "rationalised": 0,
        "cot": 1,
        "refine": 1,
        "select": 1,
        "select/surplus": 0,
        "select/voted_right": 1,
        "select/2+1": 1,
    }


def test_true_false_false():
    right, wrong, _ = sort_pool(pool_of("TFF"))["q"]
    [one] = self_select_sets(right, wrong)
    assert (
        one["kind"] == "1+2"
        and samples(one["right"]) == [1]
        and samples(one["wrong"]) == [2, 3]
        and samples(self_refine(right, wrong)) == [3, 1]
    )


def test_the_newest_make_both_kinds():
    right, wrong, _ = sort_pool(pool_of("TTFFTF"))["q"]
    assert [
        (one["kind"], samples(one["right"]), samples(one["wrong"]))
        for one in self_select_sets(right, wrong)
    ] == [("2+1", [2, 5], [6]), ("1+2", [5], [4, 6])]


@pytest.mark.parametrize(
    "pattern, kinds",
    [
        ("TTT", {"cot"}),
        ("FFF", set()),
        ("UUF", set()),
        ("TUU", {"cot"}),
        ("TF", {"cot", "refine"}),
        ("TTF", {"cot", "refine", "select"}),
    ],
)
def test_what_is_built_from_what(pattern, kinds):
    items, counts = build_items(
        {"q": example()}, pool_of(pattern), prompt_of, sizes=(3, 4), balance=False
    )
    assert {item["task"] for item in items} == kinds == {task for task in BUILT if counts[task]}
    state = "all_wrong" if "T" not in pattern else "all_right" if set(pattern) == {"T"} else "mixed"
    assert counts[state] == counts["questions"] == 1 and counts["unreadable"] == pattern.count("U")


def test_equal_texts_are_one_candidate():
    twin = {**line(1, "3", True), "sample": 2}
    assert self_select_sets([line(1, "3", True), twin], [line(3, "9", False)]) == []
    assert (
        self_select_sets(
            [line(3, "3", True)], [line(1, "3", False), {**line(1, "3", False), "sample": 2}]
        )
        == []
    )
    [one] = self_select_sets([line(5, "3", True), line(1, "3", True), twin], [line(3, "9", False)])
    assert samples(one["right"]) == [5, 2]  # the newer of the twins, and not the twins
    for size in (2, 4, 5):
        for one in self_select_sets(
            [line(5, "3", True), line(1, "3", True), twin] * 3,
            pool_of("FFF") * 3,
            (size,),
            random.Random(size),
        ):
            texts = [some["completion"] for some in one["right"] + one["wrong"]]
            assert len(set(texts)) == len(texts) == size


def test_right_candidates_agree_with_the_newest():
    cm, m, bare = line(1, "A. 300 mm", True), line(2, "300", True), line(3, "300.0", True)
    [one] = self_select_sets([m, cm, bare], [line(4, "9", False)])
    assert samples(one["right"]) == [2, 3]
    words, letter = line(1, "top left", True), line(2, "(B)", True)
    assert self_select_sets([words, letter], [line(4, "A", False)]) == []
    assert (
        len(
            self_select_sets(
                [words, letter], [line(4, "A", False)], choices=["top right", "top left"]
            )
        )
        == 1
    )


def test_mixed_sizes():
    """Every size from what can be filled: the number of right ones uniform over max(1, n - |F|) ..
    min(|T|, n - 1).
    """
    rng, found = random.Random(0), Counter()
    right, wrong, _ = sort_pool(pool_of("TTTFFFF"))["q"]
    for _ in range(1000):
        sets = self_select_sets(right, wrong, (2, 3, 4, 5, 6), rng)
        for one in sets:
            assert (
                samples(one["right"]) == sorted(samples(one["right"]))
                and set(samples(one["right"])) <= {1, 2, 3}
                and set(samples(one["wrong"])) <= {4, 5, 6, 7}
            )
            assert one["kind"] == f"{len(one['right'])}+{len(one['wrong'])}" and (
                one["kind"] not in ("2+1", "1+2") or samples(one["right"])[-1] == 3
            )
            found[one["kind"]] += 1
        keys = [(*samples(one["right"]), *samples(one["wrong"])) for one in sets]
        assert len(set(keys)) == len(keys)
    assert (
        set(found) == {"1+1", "2+1", "1+2", "1+3", "2+2", "3+1", "1+4", "2+3", "3+2", "2+4", "3+3"}
        and found["2+1"] == found["1+2"] == 1000
    )
    for n in (
        5,
        6,
    ):  # 2000 draws each: three ways of 667 and two of 1000, sd under 23; less a few equal sets
        counts = [count for kind, count in found.items() if int(kind[0]) + int(kind[2]) == n]
        assert max(counts) - min(counts) < 200 and sum(counts) > 1700
    assert (
        self_select_sets(right, wrong, (8,), rng) == []
        and len(self_select_sets(right, wrong, (7,), rng)) == 1
    )
    with pytest.raises(ValueError, match="at least 2"):
        self_select_sets(right, wrong, (1,), rng)


@pytest.mark.parametrize("n", [7, 40, 61, 300])
def test_kinds_and_positions_are_balanced(n):
    examples, pool = many(n, random.Random(n), 4)
    items, counts = build_items(examples, pool, prompt_of, ("select",), seed=n)
    kinds = Counter(item["kind"] for item in items)
    assert kinds["2+1"] == kinds["1+2"] == counts["select/2+1"] > 0
    everything, unbalanced = build_items(
        examples, pool, prompt_of, ("select",), seed=n, balance=False
    )
    assert (
        counts["select/surplus"]
        == len(everything) - len(items)
        == abs(unbalanced["select/2+1"] - unbalanced["select/1+2"])
    )
    for some in (
        [item for item in items if item["kind"] == "2+1"],
        [item for item in items if item["kind"] == "1+2"],
        items,
    ):
        at = [sum(place in item["right_at"] for item in some) for place in range(3)]
        assert max(at) - min(at) <= 1, at
    assert all(
        [f" {answers.extract_answer(text)} " == " 3 " for text in item["candidates"]]
        == [place in item["right_at"] for place in range(3)]
        for item in items
    )


def test_larger_sets_are_balanced_too():
    rng = random.Random(3)
    examples, pool = many(60, rng, 12)
    items, _ = build_items(examples, pool, prompt_of, ("select",), sizes=(2, 3, 4, 5, 6))
    for size in (3, 4, 5, 6):
        some = [item for item in items if len(item["candidates"]) == size]
        assert (
            sum(len(item["right_at"]) * 2 > size for item in some)
            == sum(len(item["right_at"]) * 2 < size for item in some)
            > 10
        )
    for kind in {item["kind"] for item in items}:
        at = Counter(place for item in items if item["kind"] == kind for place in item["right_at"])
        size = int(kind[0]) + int(kind[2])
        assert max(at[p] for p in range(size)) - min(at[p] for p in range(size)) <= 1
    apart = [
        item for item in items if item["kind"] == "2+2"
    ]  # dealt anew for every few sets: not one arrangement over and over
    assert len({tuple(item["right_at"]) for item in apart}) >= 4


def test_no_place_tells_which_candidate_is_newer():
    """In 200 sets of a kind the newer of two equally right (wrong) candidates stands first in about
    half: sd 7, one false alarm in 10^6.
    """
    sets = [
        one for _ in range(200) for one in self_select_sets(*sort_pool(pool_of("TTFF"))["q"][:2])
    ]
    placed = balance_positions(sets, random.Random(0))
    for kind in ("2+1", "1+2"):
        pairs = [
            [s for s in samples(one["candidates"]) if (s < 3) == (kind == "2+1")]
            for one in placed
            if one["kind"] == kind
        ]
        assert 65 < sum(a > b for a, b in pairs) < 135


def test_a_set_alone_of_its_kind_is_surplus():
    items, counts = build_items({"q": example()}, pool_of("TFT"), prompt_of)
    assert (
        [item["task"] for item in items] == ["cot", "refine"]
        and counts["select/surplus"] == 1
        and counts["select"] == 0
    )
    items, _ = build_items(
        {"q": example()}, pool_of("TF"), prompt_of, sizes=(2,)
    )  # one right and one wrong: no majority to learn from
    assert [item.get("kind") for item in items] == [None, None, "1+1"]


def test_voted_right_is_what_voting_gets():
    pool = [
        line(1, "3", True, "a"),
        line(2, "7", False, "a"),
        line(3, "7.0", False, "a"),
        *pool_of("TTF", "b"),
    ]
    _, counts = build_items({"a": example("a"), "b": example("b")}, pool, prompt_of)
    assert (counts["select/1+2"], counts["select/2+1"], counts["select/voted_right"]) == (1, 1, 1)


def test_only_what_reasons_and_ends_is_used():
    pool = [
        line(1, "3", True),
        line(2, "9", False),
        line(3, "3", True, finish="length"),
        {**line(4, "3", True), "completion": "<answer> 3 </answer>"},
        {**line(5, "9", False), "completion": "<answer> 9 </answer>"},
    ]
    items, counts = build_items({"q": example()}, pool, prompt_of, balance=False)
    assert [item["target"] for item in items] == [pool[0]["completion"]] * 2 and pool[1][
        "completion"
    ] in items[1]["prompt"]
    assert (counts["cut"], counts["no_reasoning"], counts["mixed"], counts["select"]) == (
        1,
        2,
        1,
        0,
    )
    items, _ = build_items({"q": example()}, pool, prompt_of, balance=False, least=0)
    assert items[0]["target"] == "<answer> 3 </answer>"


def test_options_stay_in_the_prompt_and_the_instruction_arrives():
    choices = ["three", "nine"]
    items, _ = build_items(
        {"q": example(choices=choices)},
        pool_of("TTF"),
        prompt_of,
        balance=False,
        instruction="Which is it?",
    )
    assert all("\n(A) three\n(B) nine" in item["prompt"] for item in items) and items[2][
        "prompt"
    ].endswith("Which is it?")
    pool = [
        line(1, "A", True),
        line(2, "three", True),
        line(3, "B", False),
    ]  # two spellings of one option agree
    assert (
        len(
            build_items(
                {"q": example(choices=choices)}, pool, prompt_of, ("select",), balance=False
            )[0]
        )
        == 1
    )


def test_the_target_is_spelt_as_the_newest_right_one_did():
    pool = [line(1, "3.0", True), line(2, "3 cubes", True), line(3, "9", False)]
    [item] = build_items({"q": example()}, pool, prompt_of, ("select",), balance=False)[0]
    assert (
        item["target"] == "<answer> 3 cubes </answer>"
        and answers.extract_answer(item["target"]) == "3 cubes"
    )
    assert (
        final_answer({"completion": "Solution:\n1. ...\nAnswer: B", "answer": "B"}) == "Answer: B"
    )


# Template, what the right sample says, target of the set; R3V's builders in the first four.
TARGETS = [
    ("tabmwp", "Answer: 14", "Answer: 14"),
    ("tabmwp_choices", "Answer: B", "Answer: B"),
    ("chartqa", "Answer: 14", "14"),
    ("clevr_math", "Answer:\n7", "7"),
    ("option", "Answer: B", "Answer: B"),
    ("direct", "Answer: 3", "Answer: 3"),
    ("chartqa", "<answer> 14 </answer>", "<answer> 14 </answer>"),
    ("r1v", "<answer>3</answer>", "<answer> 3 </answer>"),
]


@pytest.mark.parametrize("template, said, target", TARGETS)
def test_the_target_of_a_set_is_r3vs(template, said, target):
    assert template in TEMPLATES
    answer = re.sub("Answer:|</?answer>", "", said).strip()
    right = {
        **line(1, answer, True),
        "completion": f"Solution:\n1. I count all the things that there are, one by one.\n{said}",
    }
    wrong = [
        {
            **line(k, "99", False),
            "completion": f"Solution:\n{k}. I guess that there are very many of them here.\n"
            "Answer: 99",
        }
        for k in (2, 3)
    ]
    items = build_items(
        {"q": example()},
        [right, *wrong],
        prompt_of,
        balance=False,
        instruction=SELECT.get(template),
        bare=template in BARE_ANSWERS,
    )[0]
    select = [item for item in items if item["task"] == "select"]
    assert [item["target"] for item in select] == [target]
    assert [item["target"] for item in items if item["task"] == "cot"] == [right["completion"]], (
        "solutions keep their form"
    )


def test_a_bare_target_is_read_again():
    """What such a set teaches to say is a selection that the protocols with an answer line can
    read.
    """
    said = protocols.on_a_line("14", "chartqa")
    assert metrics.select(
        said, ["Answer: 14", "Answer: 15"], None, protocols.reader("chartqa")
    ) == ("14", "selected")


def test_tasks_can_be_left_out():
    everything, _ = build_items({"q": example()}, pool_of("TTFF"), prompt_of)
    for some in itertools.chain.from_iterable(itertools.combinations(BUILT, k) for k in (1, 2)):
        items, counts = build_items({"q": example()}, pool_of("TTFF"), prompt_of, some)
        assert items == [item for item in everything if item["task"] in some] and all(
            counts[task] == sum(item["task"] == task for item in items) for task in BUILT
        )


def test_the_seed_decides_and_nothing_is_written_to():
    examples, pool = many(50, random.Random(1), 8)
    before = copy.deepcopy((examples, pool))

    def build_with(seed):
        return build_items(examples, pool, prompt_of, sizes=(2, 3, 4), seed=seed)

    assert (
        build_with(1) == build_with(1)
        and build_with(1)[0] != build_with(2)[0]
        and before == (examples, pool)
    )
    sets = self_select_sets(*sort_pool(pool_of("TTTFFF"))["q"][:2])
    before = copy.deepcopy(sets)
    (
        balance_positions(sets, random.Random(0)),
        balance_kinds(sets, random.Random(0)),
    )
    assert sets == before


def test_a_pool_of_other_data_is_refused():
    with pytest.raises(UserError, match="'q'.*--data"):
        build_items({"other": example("other")}, pool_of("TF"), prompt_of)


# --- STaR ---


def test_rationalised_samples_train_without_their_hint():
    hinted = [
        line(1, "3", True, "a"),
        line(2, "3", True, "a"),
        line(3, "9", False, "a"),
        line(4, "3", True, "a", thinking="The Hint says that there are three of them"),
        line(5, "3", True, "b"),
        line(6, "9", False, "c"),
        line(7, "3", True, "d", finish="length"),
    ]
    assert samples(rationalised(hinted)) == [2, 5]
    examples = {id: example(id) for id in "abcd"}
    pool = [*pool_of("FFF", "a"), *pool_of("FT", "b"), *pool_of("F", "c"), *pool_of("F", "d")]
    items, counts = build_items(examples, pool, prompt_of, ("cot",), hinted=hinted)
    assert [(item["id"], item["prompt"]) for item in items] == [
        ("a", prompt_of(examples["a"])),
        ("b", prompt_of(examples["b"])),
    ]
    assert [item["target"] for item in items] == [hinted[1]["completion"], pool[4]["completion"]]
    assert counts["rationalised"] == 1 and counts["cot"] == 2 and counts["all_wrong"] == 3
    prompt = hint_prompt(prompt_of(examples["a"]), "3")
    assert (
        prompt.startswith(prompt_of(examples["a"]))
        and "the answer is 3." in prompt
        and "hint" not in " ".join(item["prompt"] for item in items).lower()
    )


# --- MPO ---


@pytest.mark.parametrize("right, wrong, answer", [
    ("12", "12 cm", True), ("12", "12cm", True), ("12", "about 12.", True),
    ("12.0", "12 cm", True), ("Paris", "in Paris, France", True),
    ("new york", "New York City", True), ("3", "(3, 7)", True), ("no", "No or yes", True),
    ("A", "B. Paris", False), ("A", "(B) a cat", False), ("No", "None", False), ("1", "12", False),
    ("1", "1,200", False), ("12 cm", "12", False), ("12 cm", "12 m", False),
    ("york new", "New York City", False), ("new city", "New York City", False), ("5", ".5", False),
    ("?", "none", False),
    ('[{"label": null, "bbox_2d": [1, 2, 3, 4]}]',
     '[{"label": null, "bbox_2d": [1, 2, 3, 4]}, '
     '{"label": null, "bbox_2d": [5, 6, 7, 8]}]', False),
])  # fmt: skip
def test_entailment(right, wrong, answer):
    assert entails(wrong, right) == answer


def test_two_options_never_entail():
    choices = ["York", "New York", "Paris"]
    assert (
        not entails("New York", "York", choices)
        and not entails("(B) New York", "A", choices)
        and entails("York or Paris", "York", choices)
        and entails("New York", "York")
    )


def test_at_most_15_of_64_pairs():
    right, wrong, unreadable = sort_pool(pool_of("TF" * 8 + "UUU"))["q"]
    product = {(a["sample"], b["sample"]) for a in right for b in wrong}
    seen = Counter()
    for seed in range(200):
        pairs, format_pairs = correctness_pairs(right, wrong, unreadable, random.Random(seed))
        keys = [tuple(samples(pair)) for pair in pairs]
        assert len(keys) == len(set(keys)) == len(format_pairs) == 15 and set(keys) <= product
        assert len({tuple(samples(pair)) for pair in format_pairs}) == 15 and all(
            a["right"] and not b["readable"] for a, b in format_pairs
        )
        seen.update(keys)
    assert (
        len(seen) == 64 and min(seen.values()) > 15
    )  # 200 * 15 / 64 = 47 each, sd 6: nothing is preferred, one false alarm in 10^5
    assert correctness_pairs(right, wrong, [], random.Random(7)) == correctness_pairs(
        right, wrong, [], random.Random(7)
    )
    everything, _ = correctness_pairs(right, wrong, [], random.Random(0), most=64)
    assert {tuple(samples(pair)) for pair in everything} == product and len(everything) == 64


def test_which_pairs_are_left_out():
    right = [
        line(1, "12", True),
        {**line(1, "12", True), "sample": 2},
        line(3, "12", True, finish="length"),
    ]
    wrong = [line(4, "12 cm", False), line(5, "11", False), {**line(5, "11", False), "sample": 6}]
    pairs, format_pairs = correctness_pairs(right, wrong, pool_of("U"), random.Random(0))
    assert [samples(pair) for pair in pairs] == [[2, 6]] and [
        samples(pair) for pair in format_pairs
    ] == [[2, 1]]
    right = [line(1, "No", True)]  # MPO: "no" is part of 'None', so that no format pair is left
    assert len(correctness_pairs(right, [], pool_of("UU"), random.Random(0))[1]) == 2
    assert correctness_pairs([], wrong, pool_of("U"), random.Random(0)) == ([], [])
    before = copy.deepcopy((right, wrong))
    correctness_pairs(right, wrong, [], random.Random(0), most=1)
    assert before == (right, wrong)


def test_two_options_make_a_pair():
    pairs, _ = correctness_pairs(
        [line(1, "York", True)],
        [line(2, "New York", False)],
        [],
        random.Random(0),
        choices=["York", "New York"],
    )
    assert len(pairs) == 1 and correctness_pairs(
        [line(1, "York", True)], [line(2, "New York", False)], [], random.Random(0)
    ) == ([], [])


def test_instructions_follow_the_prompt():
    assert set(INSTRUCTION_OF.values()) | {"plain"} == set(INSTRUCTIONS) and {
        task for task in toy.TASKS if "_" not in task
    } <= set(INSTRUCTION_OF)
    assert instructed("Q?\n", None) == instructed("Q?\n", "unheard of") == "Q?\n"
    assert (
        instructed("Q?", "chart") == "Q?\n" + INSTRUCTIONS["visual"]
        and instructed("Q?", "Count") == "Q?\n" + INSTRUCTIONS["grounded"]
    )
    published = {
        "chart": {"imgname": "1.png", "query": "Q?", "label": "14"},
        "table": {
            "id": "33",
            "question": "Q?",
            "choices": None,
            "answer": "3",
            "unit": None,
            "ques_type": "free_text",
            "ans_type": "integer_number",
        },
        "science": {
            "id": "s-1",
            "image": "1.png",
            "question": "Q?",
            "choices": ["a", "b"],
            "answer": "B",
            "rationale": "...",
            "domain": "science",
            "topic": "...",
        },
    }
    for kind, record in published.items():  # a layout's own kind of picture
        assert (
            next(function for keys, function in layouts.LAYOUTS if keys <= record.keys())(
                record, "here"
            )[0]["task"]
            == kind
            in INSTRUCTION_OF
        )


# --- DropoutNTP ---


@pytest.mark.parametrize(
    "text",
    [
        "one two three four five",
        "one two three four",
        "one",
        "",
        " two  three\nfour five ",
        "a b c d e f g",
    ],
)
@pytest.mark.parametrize("continuation", ["made up", " made up", "\nmade up ", ", made up"])
def test_the_pair_shares_the_first_half_of_its_words(text, continuation):
    half = len(text.split(" ")) // 2
    prefix = truncate_words(text)
    assert text.startswith(prefix) and prefix == " ".join(text.split(" ")[:half])
    chosen, rejected = ntp_pair(text, prefix, continuation)
    assert (
        chosen == text
        and rejected.split(" ")[:half] == chosen.split(" ")[:half]
        and rejected.endswith("made up")
        and rejected.startswith(prefix)
    )


def test_truncation_at_other_ratios():
    text = " ".join(map(str, range(100)))
    assert [len(truncate_words(text, ratio).split()) for ratio in (0.25, 0.29, 0.5, 0.75)] == [
        25,
        29,
        50,
        75,
    ] and truncate_words("a b c d", 0.74) == "a b"


def test_continuations_that_tell_nothing():
    chosen = "<think> I see one, two. </think><answer> 2 </answer>"
    prefix = truncate_words(chosen)
    rest = chosen[len(prefix) :]
    assert (
        ntp_pair(chosen, prefix, rest)
        is ntp_pair(chosen, prefix, rest.strip() + "\n")
        is ntp_pair(chosen, prefix, "  ")
        is None
    )
    assert ntp_pair("Two cats on a mat", "Two cats", "\non a  mat ") is None
    assert ntp_pair(chosen, prefix, "two and no more. </think><answer> 2.0 </answer>") is None
    assert ntp_pair(chosen, prefix, "two, three. </think><answer> 3 </answer>") == (
        chosen,
        "<think> I see one, two, three. </think><answer> 3 </answer>",
    )
    assert ntp_pair(chosen, prefix, "two, three and so on") is not None  # no answer to compare
    on_a_line = "I see one, two, three.\nAnswer: 3"  # compared as the protocol reads it
    assert (
        ntp_pair(on_a_line, "I see", "three.\nAnswer: 3") is not None
        and ntp_pair(on_a_line, "I see", "three.\nAnswer: 3", read=protocols.reader("tabmwp"))
        is None
    )
    with pytest.raises(AssertionError):
        ntp_pair(chosen, "something else", "x")
