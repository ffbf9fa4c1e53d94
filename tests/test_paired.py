"""Run: python -m pytest -q tests/test_paired.py        (10 s on CPU; no network)

Two runs on the same questions: paired differences, errors by picture, McNemar's test, and
evaluate.py --compare.
"""

import json
import math
import random
from pathlib import Path

import pytest
from commands import opened, read

import evaluate
from grading import clusters, paired
from plumbing.errors import UserError

# --- the statistics ---


def power(better: float, worse: float, n: int, alpha: float = 0.05) -> float:
    """Compute the chance that McNemar's exact test finds a difference, by what theory says.

    better, worse: the chances that a question falls to the one side, and to the other.
    Sums over how many of n questions do (binomial), and then how many to which side.
    """
    from scipy.stats import binom

    split = better / (better + worse)
    found = 0.0
    for disagreeing in range(n + 1):
        weight = binom.pmf(disagreeing, n, better + worse)
        if weight > 1e-12:
            # the largest count of the rarer side that the test still rejects
            tail = binom.ppf(alpha / 2, disagreeing, 0.5)
            while tail >= 0 and 2 * binom.cdf(tail, disagreeing, 0.5) > alpha:
                tail -= 1
            rejected = binom.cdf(tail, disagreeing, split)
            rejected += binom.sf(disagreeing - tail - 1, disagreeing, split)
            found += weight * rejected
    return float(found)


@pytest.mark.parametrize(
    "better, worse, p",
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 32),
        (0, 5, 2 / 32),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (4, 4, 1.0),
    ],
)
def test_mcnemar_in_closed_form(better, worse, p):
    assert paired.mcnemar(better, worse) == pytest.approx(p)


def test_two_identical_runs():
    scores = [1.0, 0.0, 1.0, 1.0, 0.0] * 40
    found = paired.compare(scores, scores, range(200))
    assert (found.p, found.difference, found.low, found.high, found.se) == (1.0, 0, 0, 0, 0)
    assert (found.better, found.worse, found.n, found.clusters) == (0, 0, 200, 200)


def test_two_runs_of_one_policy_differ_by_chance_alone():
    """Equally good runs: their interval contains 0 and p is above 0.05, in 95 of 100 cases."""
    rng = random.Random(0)
    inside = above = 0
    for seed in range(200):
        a, b = ([float(rng.random() < 0.6) for _ in range(300)] for _ in range(2))
        found = paired.compare(a, b, range(300), seed)
        inside += found.low <= 0 <= found.high
        above += found.p > 0.05
    # 190 of 200 expected, sd 3; McNemar's exact test errs on the safe side
    assert 178 <= inside <= 199
    assert above >= 181


def test_a_planted_difference_is_found_as_often_as_theory_says():
    """3 points on 2,000 questions: b is right where a is wrong on 8 %, the other way round on 5 %.

    Theory is McNemar's exact power. 300 draws: the found share has a standard error of 0.03 at
    most, and a false alarm at four of these happens once in 15,000.
    """
    better, worse, n, draws = 0.08, 0.05, 2000, 300
    expected = power(better, worse, n)
    assert 0.95 < expected < 0.99
    assert_found_as_expected(better, worse, n, draws)
    # A pair of runs that disagree on more questions: the same 3 points are found less often.
    assert_found_as_expected(0.18, 0.15, n, draws)


def assert_found_as_expected(better, worse, n, draws):
    rng = random.Random(0)
    expected = power(better, worse, n)
    found = covered = 0
    for _ in range(draws):
        sides = rng.choices((1, -1, 0), (better, worse, 1 - better - worse), k=n)
        p = paired.mcnemar(sides.count(1), sides.count(-1))
        found += p < 0.05
    error = math.sqrt(expected * (1 - expected) / draws)
    assert abs(found / draws - expected) < 4 * error + 0.005
    for seed in range(60):
        sides = rng.choices((1, -1, 0), (better, worse, 1 - better - worse), k=n)
        low, high = clusters.bootstrap(sides, range(n), seed)
        covered += low <= better - worse <= high
    assert covered >= 50  # 57 expected, sd 1.7


def test_power_against_a_count_of_all_cases():
    """n = 6: every outcome is enumerated."""
    better, worse, n = 0.5, 0.1, 6
    found = 0.0
    for right in range(n + 1):
        for wrong in range(n + 1 - right):
            ways = math.comb(n, right) * math.comb(n - right, wrong)
            chance = better**right * worse**wrong * (1 - better - worse) ** (n - right - wrong)
            found += ways * chance * (paired.mcnemar(right, wrong) <= 0.05)
    assert power(better, worse, n) == pytest.approx(found)


def test_a_standard_error_without_clusters_is_the_usual_one():
    values = [1.0, 0.0, 0.0, 1.0, 1.0]
    usual = math.sqrt(0.3 / 5)  # the unbiased variance of 3 in 5 is 0.3
    assert paired.clustered_error(values, range(5)) == pytest.approx(usual)


def test_questions_that_share_a_picture_count_as_one():
    """Each picture asked about four times, with one outcome: as many cases as pictures."""
    rng = random.Random(1)
    pictures = [float(rng.random() < 0.5) for _ in range(50)]
    values = [value for value in pictures for _ in range(4)]
    of_picture = [n for n in range(50) for _ in range(4)]
    usual = paired.clustered_error(pictures, range(50))
    assert paired.clustered_error(values, of_picture) == pytest.approx(usual)
    assert paired.clustered_error(values, range(200)) < 0.6 * usual
    narrow, wide = clusters.bootstrap(values, range(200)), clusters.bootstrap(values, of_picture)
    assert wide[1] - wide[0] > 1.6 * (narrow[1] - narrow[0])


def coverage(pictures, questions, draws):
    """Count how often the interval holds the true difference: B better on 15 %, worse on 10 %.

    questions: about each picture, seven in ten of which have one outcome.
    """
    rng = random.Random(0)

    def outcome():
        return rng.choices((1, -1, 0), (0.15, 0.10, 0.75))[0]

    of_picture = [picture for picture in range(pictures) for _ in range(questions)]
    held = 0
    for seed in range(draws):
        values = []
        for _ in range(pictures):
            shared = outcome()
            values += [shared if rng.random() < 0.7 else outcome() for _ in range(questions)]
        low, high = clusters.bootstrap(values, of_picture, seed)
        held += low <= 0.05 <= high
    return held / draws


def test_of_few_pictures_the_interval_is_too_narrow(monkeypatch):
    """What docs/traps.md says: 72 % of the draws for 5 pictures, 92 % for 50.

    100 draws: standard errors of 0.045 and 0.027.
    """
    monkeypatch.setattr(clusters, "RESAMPLES", 2000)
    assert 0.57 < coverage(5, 20, 100) < 0.87
    assert coverage(paired.FEW, 4, 100) > 0.83


def test_of_one_picture_no_error_can_be_told():
    assert math.isnan(paired.clustered_error([1.0, 0.0], ["a", "a"]))


@pytest.mark.parametrize("a, b, clusters", [([1], [1, 0], "ab"), ([1], [1], "ab"), ([], [], "")])
def test_other_lengths_are_refused(a, b, clusters):
    with pytest.raises(ValueError, match="two scores and a picture of each question"):
        paired.compare(a, b, clusters)


# --- evaluate.py --compare ---


def a_run(folder, right, pictures=None, **more):
    """Write what evaluate.py leaves: one line a question, some right."""
    folder.mkdir(parents=True)
    rows = []
    for n, score in enumerate(right):
        row = {"id": str(n), "question": f"How many in {n}?", "answer": "3", "choices": None}
        row |= {"prediction": f"<answer>{3 if score else 4}</answer>", "accuracy": float(score)}
        row["picture"] = pictures[n] if pictures else None
        rows.append(row | {name: values[n] for name, values in more.items()})
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def compared(*words):
    evaluate.main(evaluate.parse_args(["--compare", *words]))


def refused(*words):
    with pytest.raises(UserError) as error:
        compared(*words)
    return str(error.value)


def test_a_run_with_itself(tmp_path, capsys):
    one = a_run(tmp_path / "one", [1, 0, 1, 1])
    two = a_run(tmp_path / "two", [1, 0, 1, 1])
    compared(one, two)
    result = read(tmp_path / "two" / "compared_with_one" / "result.json")
    found = result["accuracy"]
    assert (found["p"], found["low"], found["difference"], found["high"]) == (1, 0, 0, 0)
    assert (found["better"], found["worse"]) == (0, 0)
    assert "exact McNemar p = 1" in capsys.readouterr().out
    assert not (tmp_path / "two" / "compared_with_one" / "samples").exists()


def test_where_two_runs_differ(tmp_path, capsys):
    """Six questions about three pictures; every score that both runs have is compared."""
    pictures = ["p", "p", "q", "q", "r", "r"]
    one = a_run(tmp_path / "one", [0, 0, 1, 0, 1, 1], pictures, lave=[0, 0, 1, 0.5, None, 1])
    two = a_run(tmp_path / "two", [1, 1, 0, 0, 1, 1], pictures, lave=[1, 1, 0, 1, 1, 1])
    compared(one, two, "--output-dir", str(tmp_path / "out"))
    result = read(tmp_path / "out" / "result.json")
    found = result["accuracy"]
    assert (found["n"], found["clusters"], found["better"], found["worse"]) == (6, 3, 2, 1)
    assert found["difference"] == pytest.approx(1 / 6)
    rated = result["lave"]  # by the judge, who gave no rating once
    assert (rated["n"], rated["better"], rated["worse"]) == (5, 3, 1)
    assert "iou" not in result
    lines = [json.loads(line) for line in (tmp_path / "out" / "differ.jsonl").open()]
    assert [line["id"] for line in lines] == ["0", "1", "2"]
    assert lines[0]["a"] == {"prediction": "<answer>4</answer>", "accuracy": 0.0}
    assert opened(tmp_path / "out" / "samples" / "differ.png") > 100
    printed = capsys.readouterr().out
    assert "6 questions about 3 pictures" in printed
    assert "of fewer than 50 pictures the interval is too narrow" in printed
    assert "exact McNemar p" in printed and "sign test p" in printed  # of accuracy, and of lave


def test_the_order_of_the_questions_does_not_matter(tmp_path):
    one = a_run(tmp_path / "one", [1, 0, 0])
    two = a_run(tmp_path / "two", [1, 0, 0])
    file = tmp_path / "two" / "predictions.jsonl"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    compared(one, two)
    assert read(tmp_path / "two" / "compared_with_one" / "result.json")["accuracy"]["p"] == 1


def test_a_single_picture_has_no_interval(tmp_path, capsys):
    one = a_run(tmp_path / "one", [0, 0, 1], "ppp")
    compared(one, a_run(tmp_path / "two", [1, 1, 1], "ppp"))
    text = (tmp_path / "two" / "compared_with_one" / "result.json").read_text()
    assert "NaN" not in text and json.loads(text)["accuracy"]["low"] is None
    assert "of one picture no interval can be told" in capsys.readouterr().out


def test_questions_with_one_id_are_paired_by_their_pictures(tmp_path):
    """The same words about three pictures, in another order."""
    for name, pictures, right in (("one", "pqr", [1, 0, 0]), ("two", "rqp", [0, 0, 1])):
        records = [
            {"id": "x", "question": "How many?", "prediction": f"<answer>{score}</answer>"}
            | {"answer": "1", "image": f"{picture}.png"}
            for picture, score in zip(pictures, right)
        ]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        words = f"--predictions {file} --protocol geoqa --output-dir {tmp_path / name}"
        evaluate.main(evaluate.parse_args(words.split()))
    compared(str(tmp_path / "one"), str(tmp_path / "two"))
    found = read(tmp_path / "two" / "compared_with_one" / "result.json")["accuracy"]
    assert (found["better"], found["worse"], found["clusters"]) == (0, 0, 3)


@pytest.mark.parametrize("ours, theirs", [("0123456789abcdef", "p.png"), ("a/p.png", "/b/p.png")])
def test_a_picture_known_by_another_name_is_no_other_picture(tmp_path, ours, theirs):
    """One run was of --model, and has a hash; the other of saved outputs, and has a path."""
    one = a_run(tmp_path / "one", [1, 0], [ours, None])
    compared(one, a_run(tmp_path / "two", [1, 0], [theirs, None]))
    assert read(tmp_path / "two" / "compared_with_one" / "result.json")["accuracy"]["p"] == 1


def test_two_judges_are_told_apart(tmp_path, capsys):
    """Figures of two judges cannot be compared, which is said."""
    runs = [a_run(tmp_path / name, [1, 0], lave=[1, 0.5]) for name in ("one", "two")]
    for run, judge in zip(runs, ("a/judge", "another/judge")):
        (tmp_path / run / "args.json").write_text(json.dumps({"judge": judge, "seed": 0}))
    compared(*runs)
    assert "the runs differ in judge\n" in capsys.readouterr().out


def test_runs_of_other_questions_are_refused(tmp_path):
    one = a_run(tmp_path / "one", [1, 0, 0])
    two = a_run(tmp_path / "two", [1, 0])
    sentence = refused(one, two)
    assert "to 3 questions" in sentence and "to 2, of which they share 2" in sentence
    assert f"only {one} has 2" in sentence
    assert not (tmp_path / "two" / "compared_with_one").exists()
    other = a_run(tmp_path / "other", [1, 0, 0], ["p", "q", "r"])
    third = a_run(tmp_path / "third", [1, 0, 0], ["p", "q", "s"])
    assert "question 2 has another picture" in refused(other, third)
    assert "holds no predictions.jsonl" in refused(one, str(tmp_path))


@pytest.mark.parametrize(
    "name, value",
    [("accuracy", "1"), ("accuracy", None), ("accuracy", 10**400), ("lave", [1]), ("picture", 5)]
    + [("prediction", None), ("id", ...), ("question", ...), ("answer", ...)],
)
def test_a_damaged_answer_is_named(tmp_path, name, value):
    """All of these would be met in the middle of the comparison. ...: the key is missing."""
    one, two = (a_run(tmp_path / folder, [1, 0], lave=[1, None]) for folder in ("one", "two"))
    file = tmp_path / "two" / "predictions.jsonl"
    rows = [json.loads(line) for line in file.open()]
    rows[1][name] = value
    if value is ...:
        del rows[1][name]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sentence = refused(one, two)
    assert f"{file}: answer 2 has {name} " in sentence and "evaluate that run again" in sentence
    assert "holds no predictions.jsonl" in refused(one, "x" * 5000, "--output-dir", str(tmp_path))


def test_a_small_picture_that_is_damaged_is_a_warning(tmp_path, capsys):
    """And an id may be a list: of saved outputs it is whatever they say."""
    one, two = a_run(tmp_path / "one", [1, 0]), a_run(tmp_path / "two", [0, 1])
    for run in (one, two):
        file = Path(run, "predictions.jsonl")
        file.write_text(file.read_text().replace('"id": "0"', '"id": ["a", 0]'))
    kept = tmp_path / "one" / "samples" / "questions_answers.jsonl"
    kept.parent.mkdir()
    kept.write_text('5\n{"id": "1", "picture": 5}\n{"id": "1", "picture": "nothing"}\n')
    compared(one, two)
    assert capsys.readouterr().err.count("is shown without its picture") == 3
    assert opened(tmp_path / "two" / "compared_with_one" / "samples" / "differ.png") > 100


def test_rescored_outputs_can_be_compared(tmp_path):
    """What --predictions leaves, with the pictures that the outputs name."""
    for name, said in (("one", "3"), ("two", "4")):
        records = [
            {"prediction": f"<answer>{said}</answer>", "answer": "3", "image": f"{n // 2}.png"}
            for n in range(4)
        ]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        words = f"--predictions {file} --protocol geoqa --output-dir {tmp_path / name}"
        evaluate.main(evaluate.parse_args(words.split()))
    compared(str(tmp_path / "one"), str(tmp_path / "two"))
    found = read(tmp_path / "two" / "compared_with_one" / "result.json")["accuracy"]
    assert (found["n"], found["clusters"], found["difference"]) == (4, 2, -1)


def test_compare_asks_no_model(capsys):
    with pytest.raises(SystemExit):
        evaluate.parse_args(["--compare", "a", "b", "--model", "tiny"])
    assert "--compare reads answers and asks no model: omit --model" in capsys.readouterr().err
