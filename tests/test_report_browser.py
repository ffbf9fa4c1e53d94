"""Run: python -m pytest -q tests/test_report_browser.py        (about 10 s on CPU; no network)

The page of a run in headless Chromium: what it shows is compared with metrics.jsonl and samples/.
Needs playwright, and Chromium: Debian's (apt-get install chromium), or playwright's own.
"""

import itertools
import shutil

import pytest
from page_runs import distilled, evaluation, examples_of, grpo_run, text_for

from plumbing import disk, records, report
from tasks import kept

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

MARKS = "all => all.map(a => [...a.querySelectorAll('.marks span')].map(s => s.textContent))"
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    with playwright.sync_playwright() as started:
        try:
            found = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium to be started: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """opened(file): the page in a tab. Whatever it complains of or asks for fails the test."""
    complaints = []
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    tab.on("console", lambda message: complaints.append(f"console: {message.text}"))
    tab.on("dialog", lambda dialog: (complaints.append("a dialog"), dialog.dismiss()))

    def asked(request):
        if not request.url.startswith("data:image/"):
            complaints.append(f"asked for {request.url}")

    def open_file(path):
        address = path.absolute().as_uri()
        tab.goto(address)
        assert complaints == [f"asked for {address}"]
        complaints.clear()
        return tab

    tab.on("request", asked)
    yield open_file
    tab.close()
    assert complaints == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    def say(example, right):
        text = text_for(example, right)
        return "I do not know" if not right and int(example.id.split(":")[-1]) % 3 == 0 else text

    out = grpo_run(tmp_path_factory.mktemp("page") / "run", say=say)
    report.write(out)
    return out


def samples(run, step):
    return records.read_lines(run / "samples" / f"step_{step:06d}.jsonl")


def groups(run, step, G=4):
    lines = samples(run, step)
    return [lines[i : i + G] for i in range(0, len(lines), G)]


def texts(tab, where=".row .answer .text"):
    return tab.locator(where).all_text_contents()


def slide(tab, place):
    tab.locator("#slider").fill(str(place))


def test_the_slider_shows_the_samples_of_its_step(opened, run):
    tab = opened(run / "report.html")
    for place, step in ((0, 1), (2, 8), (1, 4)):
        slide(tab, place)
        assert tab.locator("#at").text_content() == f"{step} ({place + 1} of 3)"
        lines = samples(run, step)
        assert texts(tab) == [line["completion"] for line in lines]
        for line, said in zip(lines, tab.locator(".answer").evaluate_all(MARKS), strict=True):
            scores = dict(word.split(" ") for word in said[1:])
            wanted = {name: line[name] for name in ("accuracy", "format", "advantage")}
            assert {k: float(v) for k, v in scores.items()} == pytest.approx(wanted, rel=1e-3)
            assert said[0] == {1: "✓ right", 0: "✗ wrong"}[line["accuracy"]] or "?" in said[0]
        pictures = tab.locator(".row img").evaluate_all("all => all.map(image => image.src)")
        asked = examples_of("count", 40)[step * 4 : step * 4 + 4]
        assert pictures == [kept.picture_url(example) for example in asked]


def test_sorted_by_a_reward_part_or_the_advantage(opened, run):
    tab = opened(run / "report.html")
    slide(tab, 1)
    for name, down in itertools.product(("advantage", "format", "accuracy"), (True, False)):
        tab.select_option("#sort", f"{name} {'down' if down else 'up'}")
        wanted = []
        for group in groups(run, 4):
            wanted.append(sorted(group, key=lambda line: line[name], reverse=down))
        wanted.sort(key=lambda group: group[0][name], reverse=down)
        assert texts(tab) == [line["completion"] for group in wanted for line in group]


def kinds(group):
    """The filters that a group passes."""
    right = [line["accuracy"] == 1 for line in group]
    found = {"all right"} if all(right) else {"mixed"} if any(right) else {"all wrong"}
    return found | {"unreadable" for line in group if "<answer>" not in line["completion"]}


def test_a_filter_shows_the_questions_that_pass_it(opened, run):
    tab = opened(run / "report.html")
    seen = [filtered(tab, run, name) for name in ("all right", "all wrong", "mixed", "unreadable")]
    assert all(seen)  # else a filter was tried on nothing


def filtered(tab, run, name):
    """Compare what a filter shows with the files: how many questions passed it."""
    tab.select_option("#view", "samples of training")
    shown = 0
    for place, step in enumerate((1, 4, 8)):
        slide(tab, place)
        tab.select_option("#filter", name)
        passed = [group for group in groups(run, step) if name in kinds(group)]
        assert texts(tab) == [line["completion"] for group in passed for line in group]
        options = texts(tab, "#filter option")
        assert f"{name} ({len(passed)})" in options
        shown += len(passed)
    tab.select_option("#view", "held-out: count:test")  # one answer a question: none is mixed
    tab.select_option("#filter", name)
    answers = records.read_lines(run / "samples" / "eval_0_count-test_000008.jsonl")
    lines = [line | {"completion": line["prediction"]} for line in answers]
    passed = [line["prediction"] for line in lines if name in kinds([line])]
    assert texts(tab) == passed
    return shown + len(passed)


def test_one_question_is_followed_through_training(opened, run):
    tab = opened(run / "report.html")
    tab.select_option("#view", "held-out: count:test")
    files = [run / "samples" / f"eval_0_count-test_{step:06d}.jsonl" for step in (0, 4, 8)]
    answers = [records.read_lines(file) for file in files]
    tab.locator(".to-follow").nth(2).click()
    assert texts(tab, "#follow .at") == ["step 0", "step 4", "step 8"]
    assert texts(tab, "#follow .text") == [lines[2]["prediction"] for lines in answers]
    assert tab.locator(".cell").count() == 18 and tab.locator(".cell.chosen").count() == 3
    tab.locator(".cell").nth(4).click()  # step 0, question 4
    assert tab.locator("#at").text_content() == "0 (1 of 3)"
    assert texts(tab, "#follow .text") == [lines[4]["prediction"] for lines in answers]
    right = [line["accuracy"] == 1 for lines in answers for line in lines]
    classes = tab.locator(".cell").evaluate_all("all => all.map(c => c.classList[1])")
    assert [name == "right" for name in classes] == right


def test_a_curve_tells_the_value_at_the_mouse(opened, run):
    tab = opened(run / "report.html")
    chart = tab.locator(".chart", has=tab.locator("h3", has_text="reward by step"))
    box = chart.locator("svg").bounding_box()
    lines = {line["step"]: line for line in records.read_lines(run / "metrics.jsonl")}
    seen = set()
    for share in (0.14, 0.3, 0.5, 0.7, 0.94):
        tab.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        said = chart.locator(".legend").text_content()
        value, step = map(float, said.removeprefix("reward ").split(" at "))
        assert lines[step]["reward"] == pytest.approx(value, rel=1e-3)
        seen.add(step)
    assert len(seen) > 3
    tab.mouse.move(0, 0)
    names = set(texts(tab, ".legend > span"))
    metrics = {name for line in lines.values() for name in line if line[name] is not None}
    assert metrics - {"step"} == names


def test_boxes_lie_where_the_answer_says(opened, tmp_path):
    out = grpo_run(tmp_path / "run", "ground")
    report.write(out)
    tab = opened(out / "report.html")
    tab.select_option("#view", "held-out: ground:test")
    place = "all => all.map(r => ['x', 'y', 'width', 'height'].map(n => +r.getAttribute(n)))"
    for n, example in enumerate(examples_of("ground:test", 6)):
        row = tab.locator(".row").nth(n)
        width, height = example.meta["size"]
        wanted = []
        for box in example.meta["boxes"]:
            a, b, c, d = box["bbox_2d"]
            wanted.append([a / width, b / height, (c - a) / width, (d - b) / height])
        gold = row.locator(".box.gold").evaluate_all(place)
        assert gold == [pytest.approx(box, abs=1e-3) for box in wanted]
        said = row.locator(".box:not(.gold):not(.shadow)").evaluate_all(place)
        if row.locator(".answer.right").count():
            assert said == [pytest.approx(box, abs=5e-3) for box in wanted]
        else:
            assert said == []


PAYLOADS = [
    "<script>window.hacked=1</script>", "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>", "<svg onload=window.hacked=1>",
    "<svg><script>window.hacked=1</script></svg>", "<iframe srcdoc='<script>top.hacked=1'>",
    "<a href=javascript:window.hacked=1>x</a>", "<style>*{display:none}</style>",
    "<style>@import url(https://example.invalid/x.css)</style>", "<base href=//example.invalid/>",
    "<meta http-equiv=refresh content='0;url=https://example.invalid/'>", "<!--", "-->", "]]>",
    "<link rel=stylesheet href=https://example.invalid/x.css>", "{{data}}", "{{script}}",
    "<form action=https://example.invalid/><input autofocus onfocus=window.hacked=1>",
    "<details open ontoggle=window.hacked=1>", "<template><script>window.hacked=1</script>",
    "<img src=https://example.invalid/pixel.png>", "${window.hacked=1}", "';window.hacked=1;'",
    '";window.hacked=1;//', "\\u003cscript\\u003ewindow.hacked=1\\u003c/script\\u003e", "__proto__",
]  # fmt: skip
OBEYED = "\0\x1b\u202e\u2066"  # what a browser would obey; the page shows it
AROUND = [
    "%s", "<answer> %s </answer>", "<think>%s", "\u202e%s", "\x00%s", "%s" * 3, "<!--%s", "`%s`",
    "\\%s", "a\n%s\nb", "%s\u2028", "<textarea>%s", "<title>%s", "<noscript>%s", "&lt;%s",
    "\ufeff%s", "<svg>%s", "<math>%s", "<select>%s", "<pre>%s</pre>", "<table>%s", "<%s",
    "\x1b[31m%s", "Z\u0300\u0301\u0302" * 30 + "%s", "\u2066%s", "<plaintext>%s", "<xmp>%s",
    "<style>%s", "<frameset>%s", "<object data='%s'>", "<embed src='%s'>", "<video src='%s'>",
    "<b id=data>%s", "<b id=page>%s", "<form id=slider>%s", "<math><mtext>%s", "<listing>%s",
    "<body onload='%s'>", "<html onclick='%s'>", "<marquee onstart='%s'>",
]  # fmt: skip


def sign_of(letter):
    """What the page shows in the place of a letter."""
    if letter not in OBEYED:
        return letter
    return chr(0x2400 + ord(letter)) if letter < " " else f"\u27e8{ord(letter):04X}\u27e9"


def test_a_thousand_hostile_completions_run_nothing(opened, tmp_path):
    hostile = [a.replace("%s", p) for a, p in itertools.product(AROUND, PAYLOADS)][:1000]
    assert len(set(hostile)) == 1000
    out = grpo_run(tmp_path / "run", say=lambda e, r: PAYLOADS[0])
    marks = [float(n % 2) for n in range(1000)]
    parts = {"accuracy": marks, PAYLOADS[0]: marks}
    asked = examples_of("count", 1)
    kept.keep_samples(out / "samples", 8, asked, hostile, parts, marks)
    report.write(out)
    tab = opened(out / "report.html")
    shown = texts(tab)
    assert len(shown) == 1000
    for wanted, text in zip(hostile, shown, strict=True):
        assert text == "".join(map(sign_of, wanted))
    for order in (f"{PAYLOADS[0]} down", "advantage up"):
        tab.select_option("#sort", order)
        assert len(texts(tab)) == 1000
    assert tab.evaluate("window.hacked") is None
    count = "selector => document.querySelectorAll(selector).length"
    assert tab.evaluate(count, "script") == 2 and tab.evaluate(count, "style") == 1
    assert tab.evaluate(count, "iframe, form, object, embed, a, link, base, template, video") == 0
    assert tab.evaluate("document.body.children.length") == 3
    assert tab.evaluate("innerWidth >= document.documentElement.scrollWidth")


def test_two_evaluations_side_by_side(opened, tmp_path):
    runs = [evaluation(tmp_path / "before", seed=1), evaluation(tmp_path / "after", seed=2)]
    report.main(report.parse_args([*map(str, runs)]))
    tab = opened(runs[1] / "compare.html")
    before, after = (records.read_lines(run / "predictions.jsonl") for run in runs)
    tab.select_option("#kind", "greedy")
    wanted = [line["prediction"] for pair in zip(before, after) for line in pair]
    assert texts(tab) == wanted and tab.locator("article.row").count() == 5
    tab.select_option("#filter", "the two runs differ")
    changed = [
        line["prediction"]
        for pair in zip(before, after)
        if pair[0]["accuracy"] != pair[1]["accuracy"]
        for line in pair
    ]
    assert texts(tab) == changed and 0 < len(changed) < 10
    tab.select_option("#filter", "ours and the published score differ")
    assert tab.locator("article.row").count() == 1
    assert tab.locator("#slider").is_hidden()  # there is one step


def test_two_runs_of_different_scripts(opened, run, tmp_path):
    other = evaluation(tmp_path / "eval")
    report.main(report.parse_args([str(run), str(other)]))
    tab = opened(other / "compare.html")
    for option in tab.locator("#view option").all():
        tab.select_option("#view", option.get_attribute("value"))
        assert tab.locator("article.row").count() >= 4
        assert "has no such answers" in tab.locator("#body").text_content()


@pytest.mark.parametrize("files", [(), ("metrics.jsonl",)])
def test_a_run_without_answers_or_without_anything(files, opened, run, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    for name in files:
        shutil.copy(run / name, out)
    report.write(out)
    tab = opened(out / "report.html")
    assert "No answers are here yet" in tab.locator("main").text_content()
    assert (tab.locator(".chart").count() > 0) == bool(files)


EXTREMES = [
    [(-1) ** step * 1.5e308 for step in range(60)],  # whose difference is infinite
    [1e308] * 60,
    [5e-324, 1e-323, 0.0],
    [10.0 ** (step * 5) for step in range(60)],
    [0.0],
    [2.0**53, 2.0**53 + 2],
]


@pytest.mark.parametrize("values", EXTREMES, ids=range(len(EXTREMES)))
def test_curves_of_extreme_values_are_drawn(values, opened, tmp_path):
    """Chromium complains of a coordinate that is no number, which fails the test."""
    lines = [{"step": step, "loss": value} for step, value in enumerate(values)]
    disk.write_lines(tmp_path / "metrics.jsonl", lines)
    report.write(tmp_path)
    tab = opened(tmp_path / "report.html")
    assert tab.locator(".chart path.curve").count() >= 1
    wrong = (
        "all => all.filter(e => [...e.attributes].some(a => /NaN|Infinity/.test(a.value))).length"
    )
    assert tab.locator(".chart svg *").evaluate_all(wrong) == 0


@pytest.mark.parametrize("width", [320, 360, 760])
def test_nothing_is_wider_than_a_phone(width, opened, run):
    """A commit of 40 letters and charts of 340 pixels once were."""
    args = (run / "args.json").read_text()
    (run / "args.json").write_text(args.replace("c" * 40, "0123456789abcdef" * 2 + "01234567"))
    report.write(run)
    tab = opened(run / "report.html")
    tab.set_viewport_size({"width": width, "height": 700})
    for name in ("samples of training", "held-out: count:test"):
        tab.select_option("#view", name)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_the_keyboard_alone_does_it(opened, run):
    tab = opened(run / "report.html")
    tab.locator("#slider").focus()
    tab.keyboard.press("ArrowLeft")
    assert tab.locator("#at").text_content() == "4 (2 of 3)"
    tab.select_option("#view", "held-out: count:test")
    tab.locator(".to-follow").nth(1).focus()
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "close"
    tab.keyboard.press("Enter")
    assert tab.locator("#follow").count() == 0
    assert tab.evaluate("document.activeElement.className") == "to-follow"
    chart = tab.locator(".chart", has=tab.locator("h3", has_text="reward by step"))
    chart.locator("svg").focus()
    said = []
    for key in ("Home", "ArrowRight", "End", "ArrowLeft"):
        tab.keyboard.press(key)
        said.append(chart.locator(".legend").text_content())
    assert [text.rpartition(" at ")[2] for text in said] == ["1", "2", "8", "7"]


def test_what_was_made_is_shown_beside_its_pictures(opened, tmp_path):
    distilled(tmp_path)
    report.write(tmp_path)
    tab = opened(tmp_path / "report.html")
    assert tab.locator("article.row").count() == 3
    assert tab.locator(".row img").count() == 2  # the third picture is outside the directory
    tab.select_option("#kind", "left out: judge")
    assert texts(tab) == ["<think> c </think><answer> 3 </answer>"]
