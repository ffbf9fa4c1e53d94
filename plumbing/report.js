"use strict";
// The page of a run. All data are in #data; texts of a model are only ever set as text nodes.

const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs;
const page = document.getElementById("page");
const COLORS = 8; // --c0 to --c7 in report.css
const state = { view: "", at: 0, sort: "", down: true, filter: "", kind: "", follow: "" };

// --- small helpers ---

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children.map(safe)); // a string becomes a text node
  return made;
}

function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children.map(safe));
  return made;
}

function unique(values) {
  return [...new Set(values)];
}

function short(number) {
  if (number === null || number === undefined) return "";
  return String(Number(number.toPrecision(4))).replace("e+", "e");
}

// Control characters are shown, not obeyed; those that turn the direction of a text, too.
function visible(text) {
  const named = (c) => `\u27e8${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  return text.replace(/[\0-\x08\x0b-\x1f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, named);
}

function safe(child) {
  return typeof child === "string" ? visible(child) : child;
}

function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : "'" + word.replaceAll("'", "'\\''") + "'";
}

// --- the head: what ran ---

function command(run) {
  const script = run.script.startsWith("python") ? run.script : "python " + run.script;
  return [script, ...run.argv.map(quoted)].join(" ");
}

function table(head, rows) {
  const cells = (row, tag) => row.map((cell, n) => element(tag, n ? { class: "number" } : {}, cell));
  const body = rows.map((row) => element("tr", {}, ...cells(row, "td")));
  return element("table", {}, element("tr", {}, ...cells(head, "th")), ...body);
}

function figures(run) {
  const found = new Map(run.figures.map((figure) => [figure.name, figure]));
  const value = (name, when) => {
    const figure = found.get(name);
    const low = found.get(name + "_low");
    const high = found.get(name + "_high");
    if (figure[when] === null) return "";
    if (!low || !high) return short(figure[when]);
    return `${short(figure[when])}  (${short(low[when])} to ${short(high[when])})`;
  };
  const names = [...found.keys()].filter((name) => !/_(low|high)$/.test(name));
  const both = run.figures.some((figure) => figure.first !== null);
  const rows = names.map((name) => [name, ...(both ? [value(name, "first")] : []), value(name, "last")]);
  return table(["", ...(both ? ["first"] : []), both ? "last" : "value"], rows);
}

function about(run) {
  const of = run.end ? ` of ${run.end}` : "";
  const reached = run.last === null ? "" : `${run.x} ${run.last}${of} · `;
  const versions = Object.entries(run.versions).map(([name, version]) => `${name} ${version}`);
  const flags = Object.entries(run.flags).map(([name, value]) => [name, value]);
  const box = element("section", {}, element("h1", {}, run.label));
  if (run.script) { // else there is no args.json
    box.append(element("p", { class: "quiet" }, `${reached}${run.script} · commit ${run.commit || "unknown"}`));
    box.append(element("p", { class: "quiet" }, versions.join(" · ")));
    box.append(element("pre", { class: "command", tabindex: "0" }, command(run)));
  }
  if (run.figures.length) {
    const open = run.figures.length < 40 ? { open: "" } : {};
    box.append(element("details", open, element("summary", {}, "figures"), figures(run)));
  }
  box.append(element("details", {}, element("summary", {}, "all flags"), table(["flag", "value"], flags)));
  for (const note of run.notes) box.append(element("p", { class: "note" }, note));
  if (run.pictures_omitted) {
    box.append(element("p", { class: "quiet" }, `${run.pictures_omitted} pictures are omitted, for lack of room.`));
  }
  return box;
}

// --- curves ---

const WIDTH = 360, HEIGHT = 190, LEFT = 46, BOTTOM = 20, TOP = 8, RIGHT = 18;
const marks = []; // functions that move the line of the shown step

function ticks(low, high, count, values) {
  if (unique(values).length === 1) return [values[0]];
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const nice = power * ([1, 2, 5].find((n) => n * power >= rough) || 10);
  const step = values.every(Number.isInteger) ? Math.max(1, nice) : nice;
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
  return found;
}

function trend(points) {
  const width = Math.max(1, Math.floor(points.length / 20));
  return points.map(([x], i) => {
    const window = points.slice(Math.max(0, i - width), i + 1);
    return [x, window.reduce((sum, point) => sum + point[1], 0) / window.length];
  });
}

// A difference of the largest numbers is infinite, and nothing could be drawn.
function inRange([x, y]) {
  return [x, Math.max(-1e300, Math.min(1e300, y))];
}

// curves: [{name, run, points}], of one heading in all runs.
function chart(heading, x, whole) {
  const curves = whole.map((curve) => ({ ...curve, points: curve.points.map(inRange) }));
  const names = unique(curves.map((curve) => curve.name));
  const color = (curve) => `var(--c${names.indexOf(curve.name) % COLORS})`;
  const all = curves.flatMap((curve) => curve.points);
  const xs = all.map((point) => point[0]), ys = all.map((point) => point[1]);
  const span = (values) => {
    const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
    const around = Math.max(0.5, Math.abs(low) / 2); // 0.5 is nothing beside a large number
    return low === high ? [low - around, high + around] : [low, high];
  };
  const [x0, x1] = span(xs);
  let [y0, y1] = span(ys);
  [y0, y1] = [y0 - (y1 - y0) * 0.04, y1 + (y1 - y0) * 0.04];
  const across = (v) => LEFT + ((v - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
  const down = (v) => TOP + ((y1 - v) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
  const picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  picture.append(drawn("title", {}, heading));
  for (const v of ticks(y0, y1, 5, ys)) {
    picture.append(drawn("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: down(v), y2: down(v) }));
    picture.append(drawn("text", { x: LEFT - 6, y: down(v) + 4, "text-anchor": "end" }, short(v)));
  }
  for (const v of ticks(x0, x1, 5, xs)) {
    picture.append(drawn("text", { x: across(v), y: HEIGHT - 5, "text-anchor": "middle" }, short(v)));
  }
  for (const curve of curves) {
    const path = (points) => "M" + points.map(([a, b]) => `${across(a).toFixed(1)} ${down(b).toFixed(1)}`).join("L");
    const line = (points, more) => {
      const kind = `curve${more}${curve.run ? " second" : ""}`;
      const made = drawn("path", { class: kind, d: path(points) });
      made.style.stroke = color(curve);
      picture.append(made);
    };
    if (curve.points.length >= 40) line(curve.points, " faint");
    line(curve.points.length >= 40 ? trend(curve.points) : curve.points, "");
    for (const [a, b] of curve.points.length < 40 ? curve.points : []) {
      const dot = drawn("circle", { cx: across(a), cy: down(b), r: 2.5 });
      dot.style.fill = color(curve);
      picture.append(dot);
    }
  }
  const now = drawn("line", { class: "now", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  picture.append(now);
  const legend = element("div", { class: "legend" });
  const tell = (at) => {
    legend.replaceChildren();
    for (const curve of curves) {
      const swatch = element("span", { class: "swatch" });
      swatch.style.background = color(curve);
      const item = element("span", {}, swatch, curve.name + (runs.length > 1 ? `, ${runs[curve.run].label}` : ""));
      const near = curve.points.reduce((best, point) => {
        return at !== null && (!best || Math.abs(point[0] - at) <= Math.abs(best[0] - at)) ? point : best;
      }, null);
      if (near) item.append(" ", element("b", {}, short(near[1])), ` at ${short(near[0])}`);
      legend.append(item);
    }
  };
  tell(null);
  picture.addEventListener("mousemove", (event) => {
    const place = picture.getBoundingClientRect();
    const at = ((event.clientX - place.left) / place.width) * WIDTH;
    tell(x0 + ((at - LEFT) / (WIDTH - LEFT - RIGHT)) * (x1 - x0));
  });
  picture.addEventListener("mouseleave", () => tell(null));
  const places = unique(xs).sort((a, b) => a - b);
  let place = places.length;
  picture.setAttribute("tabindex", "0");
  picture.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!by) return;
    event.preventDefault();
    place = Math.min(places.length - 1, Math.max(0, place + by));
    tell(places[place]);
  });
  picture.addEventListener("blur", () => tell(null));
  marks.push((unit, step) => {
    const shown = unit === x && step >= x0 && step <= x1;
    now.setAttribute("visibility", shown ? "visible" : "hidden");
    if (shown) for (const end of ["x1", "x2"]) now.setAttribute(end, across(step));
  });
  const title = element("h3", {}, heading, " ", element("span", { class: "quiet" }, x ? `by ${x}` : ""));
  return element("div", { class: "chart" }, title, picture, legend);
}

function charts() {
  const panels = new Map();
  runs.forEach((run, number) => {
    for (const panel of run.curves) {
      const key = JSON.stringify([panel.heading, panel.x]);
      if (!panels.has(key)) panels.set(key, { ...panel, curves: [] });
      panels.get(key).curves.push(...panel.curves.map((curve) => ({ ...curve, run: number })));
    }
  });
  const draw = (main) => [...panels.values()].filter((panel) => panel.main === main)
    .map((panel) => chart(panel.heading, panel.x, panel.curves));
  const first = draw(true), others = draw(false);
  const section = element("section", {}, element("h2", {}, "Curves"));
  if (runs.length > 1) section.append(element("p", { class: "quiet" }, `Dashed: ${runs[1].label}.`));
  section.append(element("div", { class: "charts" }, ...first));
  if (others.length) {
    const more = element("details", {}, element("summary", {}, `${others.length} more`));
    more.append(element("div", { class: "charts" }, ...others));
    section.append(more);
  }
  return panels.size ? section : "";
}

// --- answers: which ---

function viewOf(run) {
  return run.views.find((view) => view.name === state.view);
}

function steps() {
  const all = runs.map(viewOf).filter(Boolean).flatMap((view) => view.frames.map((frame) => frame.at));
  return unique(all).sort((a, b) => a - b);
}

// The newest frame up to a step: two runs need not have kept the same ones.
function frameOf(run, step) {
  const view = viewOf(run);
  return view ? view.frames.filter((frame) => frame.at <= step).at(-1) : undefined;
}

// One row a question, with a cell for each run: [{key, question, cells: [group or null, ...]}].
function rowsAt(step) {
  const rows = new Map();
  runs.forEach((run, number) => {
    const seen = new Map();
    const frame = frameOf(run, step);
    for (const group of frame ? frame.groups : []) {
      const question = run.questions[group.question];
      const count = seen.get(question.key) || 0;
      seen.set(question.key, count + 1);
      const key = `${question.key} ${count}`;
      if (!rows.has(key)) rows.set(key, { key: question.key, question, cells: runs.map(() => null) });
      rows.get(key).cells[number] = group;
    }
  });
  return [...rows.values()];
}

// What a group shows of its answers: all, or those of the chosen kind.
function shownOf(group) {
  return group.answers.filter((answer) => !state.kind || kindOf(answer) === state.kind);
}

function kindOf(answer) {
  return (answer.kind || "").replace(/ \d+$/, "");
}

function verdict(group) {
  const states = shownOf(group).map((answer) => answer.state).filter((s) => s !== "not scored");
  const right = states.filter((s) => s === "right").length;
  if (!states.length) return "not scored";
  return right === states.length ? "all right" : right ? "mixed" : "all wrong";
}

const FILTERS = {
  "all right": (row) => row.groups.some((group) => verdict(group) === "all right"),
  "all wrong": (row) => row.groups.some((group) => verdict(group) === "all wrong"),
  mixed: (row) => row.groups.some((group) => verdict(group) === "mixed"),
  unreadable: (row) => row.groups.some((group) => shownOf(group).some((a) => a.state === "unreadable")),
  "ours and the published score differ": (row) => row.groups.some((group) => group.disputed),
  "the two runs differ": (row) => row.groups.length > 1 && unique(row.groups.map(verdict)).length > 1,
};

const USUAL = Object.keys(FILTERS).slice(0, 4); // shown even where no question passes

function passes(row, filter) {
  return !filter || FILTERS[filter]({ groups: row.cells.filter((group) => group && shownOf(group).length) });
}

function value(answer) {
  return Object.hasOwn(answer.scores, state.sort) ? answer.scores[state.sort] : null;
}

function byValue(one, other) {
  if (one === null || other === null) return (one === null) - (other === null);
  return state.down ? other - one : one - other;
}

function sortedAnswers(group) {
  const answers = shownOf(group);
  return state.sort ? [...answers].sort((a, b) => byValue(value(a), value(b))) : answers;
}

function best(row) {
  const answers = row.cells.filter(Boolean).flatMap(sortedAnswers);
  return answers.map(value).sort(byValue)[0] ?? null;
}

// --- answers: drawn ---

function boxesOn(picture, boxes, color, gold) {
  return boxes.flatMap(([x1, y1, x2, y2]) => {
    const corners = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
    const line = drawn("rect", { ...corners, class: gold ? "box gold" : "box" });
    if (!gold) line.style.stroke = color;
    const both = gold ? [line] : [drawn("rect", { ...corners, class: "box shadow" }), line];
    picture.append(...both);
    return both;
  });
}

function pictureOf(question, answers) {
  const source = data.pictures[question.picture];
  if (!source) return null;
  const image = element("img", { src: source, alt: "the picture of this question", loading: "lazy" });
  const figure = element("figure", { class: "picture" }, image);
  const over = drawn("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none" });
  const drawnBoxes = answers.map((answer, n) => boxesOn(over, answer.boxes || [], `var(--c${n % COLORS})`, false));
  boxesOn(over, question.boxes || [], "", true);
  figure.append(over);
  if ((question.boxes || []).length) figure.append(element("figcaption", { class: "quiet" }, "dashed: the right boxes"));
  const only = (chosen) => drawnBoxes.forEach((boxes, n) => boxes.forEach((box) => {
    box.setAttribute("visibility", chosen === null || chosen === n ? "visible" : "hidden");
  }));
  return { figure, only };
}

const SIGNS = { right: "✓ right", wrong: "✗ wrong", unreadable: "? unreadable", "not scored": "" };

function answerBox(answer, number, picture) {
  const line = element("div", { class: "marks" });
  if (SIGNS[answer.state]) line.append(element("span", { class: "state" }, SIGNS[answer.state]));
  if (answer.kind) line.append(element("span", {}, answer.kind));
  if (answer.note) line.append(element("span", {}, answer.note));
  for (const [name, score] of Object.entries(answer.scores)) {
    if (name !== "advantage") line.append(element("span", {}, `${name} ${short(score)}`));
  }
  if ("advantage" in answer.scores) {
    const advantage = answer.scores.advantage;
    const sign = advantage > 0 ? "up" : advantage < 0 ? "down" : "";
    line.append(element("span", { class: sign }, `advantage ${advantage > 0 ? "+" : ""}${short(advantage)}`));
  }
  if (answer.boxes) {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = `var(--c${number % COLORS})`;
    line.append(element("span", {}, swatch, answer.boxes.length === 1 ? "1 box" : `${answer.boxes.length} boxes`));
  }
  const text = element("pre", { class: "text" }, answer.text);
  const box = element("div", { class: `answer ${answer.state}` }, line, text);
  box.dataset.state = answer.state;
  if (picture && answer.boxes) {
    box.addEventListener("mouseenter", () => picture.only(number));
    box.addEventListener("mouseleave", () => picture.only(null));
  }
  return box;
}

function asked(question) {
  const box = element("div", {});
  if (question.history) box.append(element("pre", { class: "quiet" }, question.history.join("\n")));
  box.append(element("div", { class: "question" }, question.question || `question ${question.id}`));
  if (question.choices) box.append(element("div", { class: "quiet" }, "choices: " + question.choices.join(" | ")));
  box.append(element("div", { class: "quiet" }, question.answer ? "right answer: " + question.answer : ""));
  return box;
}

function cellOf(group, picture, first) {
  const box = element("div", { class: "answers" });
  if (!group) box.append(element("p", { class: "quiet" }, "not asked here"));
  if (group && group.prompt) {
    const whole = element("pre", { class: "text" }, group.prompt);
    box.append(element("details", {}, element("summary", {}, "the whole prompt"), whole));
  }
  const answers = group ? sortedAnswers(group) : [];
  box.append(...answers.map((answer, n) => answerBox(answer, first + n, picture)));
  return box;
}

function rowBox(row, followed) {
  const lists = row.cells.map((group) => (group ? sortedAnswers(group) : []));
  const picture = pictureOf(row.question, lists.flat());
  const head = element("div", { class: "asked" }, asked(row.question));
  if (followed > 1) {
    const follow = () => {
      state.follow = row.key;
      render();
      document.getElementById("follow").scrollIntoView();
      document.getElementById("close").focus({ preventScroll: true });
    };
    head.append(element("button", { type: "button", class: "to-follow", onclick: follow }, `follow through ${followed} ${unit()}s`));
  }
  const cells = element("div", { class: `columns${runs.length > 1 ? " two" : ""}` });
  let first = 0;
  row.cells.forEach((group, n) => { cells.append(cellOf(group, picture, first)); first += lists[n].length; });
  const box = element("article", { class: `row${picture ? "" : " bare"}` });
  box.dataset.key = row.key;
  if (picture) box.append(picture.figure);
  box.append(element("div", {}, head, cells));
  return box;
}

// --- one question through training ---

function unit() {
  return runs.map(viewOf).find(Boolean).x || "step";
}

// How many frames of a run a question is in, at the most: {key: count}.
function appearances() {
  const most = new Map();
  for (const run of runs) {
    const view = viewOf(run), counts = new Map();
    for (const frame of view ? view.frames : []) {
      for (const key of unique(frame.groups.map((group) => run.questions[group.question].key))) {
        counts.set(key, (counts.get(key) || 0) + 1);
      }
    }
    counts.forEach((count, key) => most.set(key, Math.max(count, most.get(key) || 0)));
  }
  return most;
}

function followBox() {
  const box = element("section", { class: "follow", id: "follow" });
  const find = (run, frame) => frame.groups.find((group) => run.questions[group.question].key === state.follow);
  const question = runs.flatMap((run) => run.questions).find((q) => q.key === state.follow);
  if (!question) return box;
  const close = () => {
    const key = state.follow;
    state.follow = "";
    render();
    const row = [...document.querySelectorAll("article.row")].find((each) => each.dataset.key === key);
    row?.querySelector(".to-follow")?.focus();
  };
  const picture = pictureOf(question, []);
  const columns = element("div", { class: `columns${runs.length > 1 ? " two" : ""}` });
  for (const run of runs) {
    const column = element("div", {});
    const view = viewOf(run);
    for (const frame of view ? view.frames : []) {
      const group = find(run, frame);
      if (group) column.append(element("div", { class: "at" }, `${unit()} ${frame.at}`), cellOf(group, null, 0));
    }
    columns.append(column);
  }
  const head = element("div", { class: "asked" }, asked(question), element("button", { type: "button", id: "close", onclick: close }, "close"));
  const row = element("div", { class: `row${picture ? "" : " bare"}` }, ...(picture ? [picture.figure] : []), element("div", {}, head, columns));
  box.append(row);
  return box;
}

// Steps down, questions across: a square says what became of a question at a step.
function mapOf(run, counts) {
  const view = viewOf(run);
  if (!view || view.frames.length < 2) return "";
  const keys = unique(view.frames.flatMap((frame) => frame.groups.map((g) => run.questions[g.question].key)))
    .filter((key) => counts.get(key) > 1);
  const isScored = view.frames.some((frame) => frame.groups.some((group) => verdict(group) !== "not scored"));
  if (keys.length < 2 || !isScored) return "";
  const size = 14, left = 44, shown = frameOf(run, steps()[state.at]);
  const picture = drawn("svg", { width: left + keys.length * size + 4, height: view.frames.length * size + 4 });
  const kinds = { "all right": "right", mixed: "mixed", "not scored": "scored" };
  view.frames.forEach((frame, line) => {
    const y = 2 + line * size;
    const label = drawn("text", { x: left - 6, y: y + 11, "text-anchor": "end" }, String(frame.at));
    if (frame === shown) label.setAttribute("class", "shown");
    picture.append(label);
    for (const group of frame.groups) {
      const question = run.questions[group.question];
      const column = keys.indexOf(question.key);
      if (column < 0) continue;
      const unreadable = group.answers.every((answer) => answer.state === "unreadable");
      const kind = kinds[verdict(group)] || (unreadable ? "unreadable" : "wrong");
      const chosen = question.key === state.follow ? " chosen" : "";
      const go = () => { state.follow = question.key; state.at = steps().indexOf(frame.at); render(); };
      const title = drawn("title", {}, `${view.x} ${frame.at}, ${verdict(group)}: ${question.question}`);
      const place = { x: left + column * size, y, width: size, height: size };
      picture.append(drawn("rect", { ...place, class: `cell ${kind}${chosen}`, onclick: go }, title));
    }
  });
  return element("div", {}, runs.length > 1 ? element("h3", {}, run.label) : "", element("div", { class: "map" }, picture));
}

// --- controls ---

function select(label, id, options, chosen, change) {
  const box = element("select", { id, onchange: (event) => change(event.target.value) });
  for (const [key, text] of options) {
    const option = element("option", { value: key }, text);
    option.selected = key === chosen;
    box.append(option);
  }
  return element("label", {}, label, box);
}

// The slider stays the same element while it is dragged: only what is below it is made anew.
const slider = element("input", { type: "range", id: "slider", min: 0, step: 1, "aria-label": "step" });
const at = element("output", { id: "at" });
const slide = element("label", { class: "slide" }, element("span", { id: "unit" }), slider, at);
const choices = element("div", { class: "choices" });
const body = element("div", { id: "body" });
const names = unique(runs.flatMap((run) => run.views.map((view) => view.name)));
slider.addEventListener("input", () => { state.at = Number(slider.value); render(); });

function show(name) {
  Object.assign(state, { view: name, sort: "", filter: "", kind: "", follow: "" });
  state.at = steps().length - 1;
  render();
}

function choose(rows) {
  const set = (name) => (chosen) => { state[name] = chosen; render(); };
  choices.replaceChildren();
  const groups = rows.flatMap((row) => row.cells.filter(Boolean));
  const answers = groups.flatMap((group) => group.answers);
  const kinds = unique(answers.map(kindOf)).filter(Boolean);
  if (kinds.length > 1) {
    const options = kinds.map((kind) => [kind, kind]);
    choices.append(select("kind", "kind", [["", "all"], ...options], state.kind, set("kind")));
  }
  const counted = Object.keys(FILTERS).map((name) => [name, rows.filter((row) => passes(row, name)).length]);
  const options = counted.filter(([name, count]) => count || USUAL.includes(name))
    .map(([name, count]) => [name, `${name} (${count})`]);
  const all = ["", `all (${rows.length})`];
  choices.append(select("filter", "filter", [all, ...options], state.filter, set("filter")));
  const scores = unique(answers.flatMap((answer) => Object.keys(answer.scores)));
  const orders = scores.flatMap((name) => [
    [`${name} down`, `${name}, highest first`], [`${name} up`, `${name}, lowest first`],
  ]);
  const order = state.sort ? `${state.sort} ${state.down ? "down" : "up"}` : "";
  choices.append(select("sort", "sort", [["", "as asked"], ...orders], order, (chosen) => {
    state.down = chosen.endsWith(" down");
    state.sort = chosen.replace(/ (down|up)$/, "");
    render();
  }));
}

function render() {
  const all = steps();
  state.at = Math.min(Math.max(0, state.at), all.length - 1);
  const step = all[state.at];
  slide.hidden = all.length < 2;
  slider.max = all.length - 1;
  slider.value = state.at;
  slide.firstChild.textContent = unit();
  at.textContent = `${step} (${state.at + 1} of ${all.length})`;
  const held = document.activeElement ? document.activeElement.id : "";
  const rows = rowsAt(step);
  choose(rows);
  if (held && held !== "slider") document.getElementById(held)?.focus({ preventScroll: true });
  body.replaceChildren(...bodyOf(rows, step));
  for (const mark of marks) mark(unit(), step);
}

function bodyOf(rows, step) {
  const counts = appearances(), parts = [];
  const quiet = (text) => element("p", { class: "quiet" }, text);
  for (const run of runs) {
    const view = viewOf(run);
    if (view && view.note) parts.push(quiet(`${run.label}: ${view.note}`));
  }
  const maps = runs.map((run) => mapOf(run, counts)).filter(Boolean);
  if (maps.length) {
    parts.push(quiet(`A line a ${unit()}, a column a question: green right, red wrong, brown unreadable, pale mixed. Click one to follow it.`));
    parts.push(element("div", { class: `columns${maps.length > 1 ? " two" : ""}` }, ...maps));
  }
  if (state.follow) parts.push(followBox());
  if (runs.length > 1) {
    const heads = runs.map((run) => {
      const frame = frameOf(run, step);
      if (!viewOf(run)) return element("h3", {}, `${run.label} has no such answers`);
      const where = frame ? `${viewOf(run).x} ${frame.at}` : "none yet";
      return element("h3", {}, viewOf(run).x ? `${run.label}: ${where}` : run.label);
    });
    parts.push(element("div", { class: "row" }, element("div", {}), element("div", { class: "columns two" }, ...heads)));
  }
  let shown = rows.filter((row) => row.cells.some((group) => group && shownOf(group).length));
  shown = shown.filter((row) => passes(row, state.filter));
  if (state.sort) shown.sort((a, b) => byValue(best(a), best(b)));
  parts.push(...shown.map((row) => rowBox(row, counts.get(row.key) || 0)));
  if (!shown.length) parts.push(element("p", { class: "empty" }, "No question passes this filter here."));
  return parts;
}

// --- the page ---

const heads = element("div", { class: `columns${runs.length > 1 ? " two" : ""}` }, ...runs.map(about));
page.replaceChildren(heads, charts());
if (names.length) {
  const views = select("show", "view", names.map((name) => [name, name]), names[0], show);
  const bar = element("div", { class: "controls" }, views, slide, choices);
  page.append(element("section", {}, element("h2", {}, "Answers"), bar, body));
  show(names[0]);
} else {
  page.append(element("p", { class: "empty" }, "There are no answers on this page."));
}
