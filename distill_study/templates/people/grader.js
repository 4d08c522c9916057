// The grader: one answer at a time, one group of grades for each criterion. 
// `model` is what `page.js` hands over: get, set, save_changes, on. `sheet` is read, `state` ({at, grades, notes}) is kept, `says` is shown at the start.
// Items and answers are other people's text: they are put in by textContent and nowhere else.

const KEYS = "1234567890-";
const HELP = [["a digit", "grade the marked question, go on to the next"], ["← → or k j", "previous, next answer"], ["↑ ↓", "previous, next question"], ["g", "first answer without all its grades"],
  ["n", "write a note; Esc leaves it"], ["u", "undo"], ["s", "save the grades to a file"], ["?", "show or hide this"]];

function make(tag, props = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [k, v] of Object.entries(props)) k in node && k !== "role" ? (node[k] = v) : node.setAttribute(k, v);
  node.append(...inside);
  return node;
}

// The key that gives a grade: the digit itself where the scale has digits only, else its place on the scale.
function keyOf(criterion, grade) {
  const own = criterion.grades.every((g) => g >= 0 && g <= 9);
  return own ? String(grade) : KEYS[criterion.grades.indexOf(grade)];
}

const plain = (x) => x !== null && typeof x === "object" && !Array.isArray(x);
const has = (x, k) => Object.prototype.hasOwnProperty.call(x, k);

// What is wrong with grades that were kept or opened, or an empty string.
function wrong(sheet, kept) {
  if (!plain(kept) || !plain(kept.grades) || !plain(kept.notes ?? {})) return "it holds no grades";
  const known = new Set(sheet.items.map((x) => x.item));
  for (const [item, grades] of Object.entries(kept.grades)) {
    if (!known.has(item) || !plain(grades)) return `item ${item.slice(0, 20)} is not on this sheet`;
    for (const [name, grade] of Object.entries(grades)) {
      const criterion = sheet.criteria.find((c) => c.name === name);
      if (!criterion || !criterion.grades.includes(grade)) return `a grade of item ${item} is off the scale`;
    }
  }
  for (const [item, note] of Object.entries(kept.notes ?? {})) if (!known.has(item) || typeof note !== "string") return `a note is not on this sheet`;
  return "";
}

function render({ model, el }) {
  const sheet = model.get("sheet"), { items, criteria } = sheet;
  for (const c of criteria) c.grades = Array.from({ length: c.scale[1] - c.scale[0] + 1 }, (_, i) => c.scale[0] + i);
  let state = { at: 0, grades: {}, notes: {} }, at = 0, marked = 0, past = [], helping = false, own = false;

  // --- the frame
  const root = make("div", { className: "grader", tabIndex: -1 });
  const where = make("p", { className: "where" }), bar = make("progress", { max: Math.max(items.length, 1), value: 0 });
  bar.setAttribute("aria-label", "Answers graded");
  const live = make("p", { className: "live", role: "status" });
  live.setAttribute("aria-live", "polite");
  const head = make("h1", { className: "title", textContent: `Grading sheet, rater ${sheet.rater}` });
  const title = make("h2", { className: "item", tabIndex: -1 }), shown = make("div", { className: "shown" }), asked = make("div", { className: "asked" });
  const note = make("textarea", { rows: 2, id: `note-${sheet.sheet}` }), noted = make("label", { htmlFor: note.id, textContent: "Note (optional)" });
  const button = (text, act, label) => {
    const b = make("button", { type: "button", textContent: text, onclick: act });
    if (label) b.setAttribute("aria-label", label);
    return b;
  };
  const back = button("← Previous", () => go(at - 1)), next = button("Next →", () => go(at + 1)), undone = button("Undo", undo);
  const save = button("Save grades", download), opened = make("input", { type: "file", accept: ".json,application/json", className: "file", id: `open-${sheet.sheet}` });
  const open = make("label", { htmlFor: opened.id, className: "open", textContent: "Open grades" }), gap = button("First without grade", toGap), asks = button("Keys (?)", help);
  asks.setAttribute("aria-expanded", "false");
  const keys = make("dl", { className: "keys", hidden: true }, ...HELP.flatMap(([k, what]) => [make("dt", { textContent: k }), make("dd", { textContent: what })]));
  const steps = make("nav", { className: "steps" }, back, next, undone), files = make("div", { className: "files" }, gap, save, opened, open, asks);
  steps.setAttribute("aria-label", "Answers");
  next.classList.add("main");
  root.append(make("header", {}, head, make("div", { className: "reach" }, where, bar)), make("section", { className: "text" }, title, shown), make("section", { className: "form" }, asked, make("div", { className: "note" }, noted, note), steps), live, files, keys);
  root.querySelector("section.form").setAttribute("aria-label", "Your grades");
  el.replaceChildren(root);

  // --- what is known
  const grades = (item) => (has(state.grades, item) ? state.grades[item] : {});
  const complete = (x) => criteria.every((c) => has(grades(x.item), c.name));
  const count = () => items.filter(complete).length;
  const say = (text) => { live.textContent = text; };

  function keep() {
    state = { ...state, at };
    own = true;
    model.set("state", state);
    own = false;
    model.save_changes();
    progress();
  }
  function adopt() {      // graded elsewhere: in another tab
    const kept = model.get("state");
    if (own || wrong(sheet, kept)) return;
    state = { at, grades: kept.grades, notes: kept.notes ?? {} };
    show(false);
  }
  function progress() {
    const n = count();
    where.textContent = `${items.length ? at + 1 : 0} of ${items.length}, ${n} graded`;
    bar.value = n;
    back.disabled = at <= 0; next.disabled = at >= items.length - 1; undone.disabled = !past.length; gap.disabled = n === items.length;
    root.classList.toggle("done", n === items.length);
  }

  // --- one answer
  function block(heading, text, kind) {
    const h = make("h3", { textContent: heading, id: `${kind}-${sheet.sheet}-${shown.childElementCount}` });
    const box = make("div", { className: "words", tabIndex: 0, role: "region" }, text.trim() ? text : "");
    if (!text.trim()) { box.classList.add("empty"); box.textContent = "(empty)"; }
    box.setAttribute("aria-labelledby", h.id);
    box.dir = "auto";
    return make("div", { className: kind }, h, box);
  }
  function group(criterion, n) {
    const set = make("fieldset", { className: "criterion" }, make("legend", { textContent: criterion.question }));
    const row = make("div", { className: "grades" });
    for (const grade of criterion.grades) {
      const radio = make("input", { type: "radio", name: `${criterion.name}-${sheet.sheet}`, value: String(grade), checked: grades(items[at].item)[criterion.name] === grade });
      radio.addEventListener("change", () => { marked = n; give(n, grade); mark(); });
      radio.addEventListener("focus", () => { marked = n; mark(); });
      const anchor = criterion.anchors[String(grade)], key = keyOf(criterion, grade);
      const label = make("label", {}, radio, make("span", { className: "grade", textContent: String(grade) }));
      if (anchor) label.append(make("span", { className: "anchor", textContent: anchor }));
      if (key !== String(grade)) { const k = make("kbd", { textContent: key }); k.setAttribute("aria-hidden", "true"); label.append(k); }
      row.append(label);
    }
    row.classList.toggle("few", criterion.grades.length <= 3);
    set.append(row);
    return set;
  }
  function show(focus = true) {
    if (!items.length) { title.textContent = "This sheet is empty"; return progress(); }
    const x = items[at];
    title.textContent = `Answer ${at + 1} of ${items.length}`;
    shown.replaceChildren();
    for (const p of x.parts) shown.append(block(p.heading, p.text, "part"));
    shown.append(block("Answer to grade", x.answer, "answer"));
    asked.replaceChildren(...criteria.map(group));
    note.value = has(state.notes, x.item) ? state.notes[x.item] : "";
    const first = criteria.findIndex((c) => !has(grades(x.item), c.name));
    marked = Math.max(first, 0);
    mark();
    progress();
    if (focus) { title.focus({ preventScroll: true }); root.scrollIntoView({ block: "start" }); }
  }
  function mark() { [...asked.children].forEach((set, n) => set.classList.toggle("marked", n === marked)); }

  function go(to) {
    if (to < 0 || to >= items.length || to === at) return;
    at = to;
    show();
    keep();
    say(`Answer ${at + 1} of ${items.length}.`);
  }
  function toGap() {
    const to = items.findIndex((x) => !complete(x));
    if (to < 0) return say("All answers are graded.");
    if (to !== at) go(to);
  }

  // --- changes, each of which can be taken back
  function change(item, name, value) {
    const mine = { ...grades(item) }, before = mine[name];
    value === undefined ? delete mine[name] : (mine[name] = value);
    state = { ...state, grades: { ...state.grades, [item]: mine } };
    return before;
  }
  function give(n, grade) {
    const item = items[at].item, before = grades(item)[criteria[n].name];
    if (before === grade) return;
    change(item, criteria[n].name, grade);
    past.push({ at, item, name: criteria[n].name, before });
    keep();
    const all = count();
    say(all === items.length ? `All ${all} answers are graded. Save the grades and send the file back.` : `${criteria[n].name}: ${grade}. ${all} of ${items.length} answers graded.`);
  }
  function press(key) {
    const criterion = criteria[marked], grade = criterion.grades.find((g) => keyOf(criterion, g) === key);
    if (grade === undefined) return say(`${key} is not on the scale of this question.`);
    give(marked, grade);
    asked.children[marked].querySelectorAll("input").forEach((r) => { r.checked = r.value === String(grade); });
    if (marked < criteria.length - 1) { marked += 1; mark(); asked.children[marked].scrollIntoView({ block: "nearest" }); }
    else if (at < items.length - 1) { at += 1; show(); keep(); }
    else if (count() === items.length) save.focus();
  }
  function undo() {
    const last = past.pop();
    if (!last) return say("There is nothing to undo.");
    at = last.at;
    if (last.note) { state = { ...state, notes: { ...state.notes, [last.item]: last.before } }; if (!last.before) delete state.notes[last.item]; }
    else change(last.item, last.name, last.before);
    show();
    if (!last.note) { marked = criteria.findIndex((c) => c.name === last.name); mark(); }
    keep();
    say(`Undone: ${last.note ? "the note" : last.name} of answer ${at + 1}.`);
  }
  note.addEventListener("input", () => {
    const item = items[at].item, before = has(state.notes, item) ? state.notes[item] : "", top = past[past.length - 1];
    if (!(top && top.note && top.item === item)) past.push({ at, item, note: true, before });
    const notes = { ...state.notes, [item]: note.value };
    if (!note.value) delete notes[item];
    state = { ...state, notes };
    keep();
  });

  // --- files
  function file() {
    const { sheet: id, rater, rubric, format } = sheet;
    const given = {};
    for (const x of items) if (Object.keys(grades(x.item)).length) given[x.item] = grades(x.item);
    return { format, kind: "grades", sheet: id, rater, rubric, grades: given, notes: state.notes };
  }
  function download() {
    const url = URL.createObjectURL(new Blob([JSON.stringify(file(), null, 1) + "\n"], { type: "application/json" }));
    const link = make("a", { href: url, download: `grades-${sheet.rater}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    const n = count();
    say(`Saved as grades-${sheet.rater}.json: ${n} of ${items.length} answers graded${n < items.length ? ", the others can be done later" : ""}.`);
  }
  async function reopen() {
    const picked = opened.files[0];
    opened.value = "";
    if (!picked) return;
    let kept;
    try { kept = JSON.parse(await picked.text()); } catch { return say(`${picked.name} can't be read: it is damaged, or no file of grades.`); }
    if (!plain(kept) || kept.kind !== "grades") return say(`${picked.name} is no file of grades.`);
    if (kept.sheet !== sheet.sheet || kept.rubric !== sheet.rubric) return say(`${picked.name} belongs to another sheet.`);
    if (kept.rater !== sheet.rater) return say(`${picked.name} is of rater ${String(kept.rater).slice(0, 20)}, and this sheet is of rater ${sheet.rater}.`);
    const why = wrong(sheet, kept);
    if (why) return say(`${picked.name} can't be opened: ${why}.`);
    state = { at: 0, grades: kept.grades, notes: kept.notes ?? {} };
    past = [];
    at = Math.max(items.findIndex((x) => !complete(x)), 0);
    show();
    keep();
    say(`Opened ${picked.name}: ${count()} of ${items.length} answers graded.`);
  }
  opened.addEventListener("change", reopen);

  function help() {
    helping = !helping;
    keys.hidden = !helping;
    asks.setAttribute("aria-expanded", String(helping));
    if (helping) keys.scrollIntoView({ block: "nearest" });
  }

  // --- keys
  function onkey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || !items.length) return;
    const on = event.target, key = event.key, radio = on instanceof HTMLInputElement && on.type === "radio";
    if (on === note) { if (key === "Escape") title.focus(); return; }
    const acts = { ArrowLeft: () => go(at - 1), ArrowRight: () => go(at + 1), k: () => go(at - 1), j: () => go(at + 1), g: toGap, n: () => note.focus(), u: undo, s: download, "?": help };
    if (!radio && !on.closest?.(".words")) {
      acts.ArrowUp = () => { marked = Math.max(marked - 1, 0); mark(); };
      acts.ArrowDown = () => { marked = Math.min(marked + 1, criteria.length - 1); mark(); };
    }
    const act = has(acts, key) ? acts[key] : KEYS.includes(key) && key.length === 1 ? () => press(key) : null;
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }
  document.addEventListener("keydown", onkey);
  model.on("change:state", adopt);

  // --- start with what was kept
  const kept = model.get("state");
  if (plain(kept) && Object.keys(kept).length) {
    const why = wrong(sheet, kept);
    if (why) say(`What was kept of this sheet can't be used: ${why}.`);
    else {
      state = { at: 0, grades: kept.grades, notes: kept.notes ?? {} };
      at = Number.isInteger(kept.at) && kept.at >= 0 && kept.at < items.length ? kept.at : Math.max(items.findIndex((x) => !complete(x)), 0);
    }
  }
  show(true);
  const news = model.get("says");
  if (news) say(news);
  else if (Object.keys(state.grades).length) say(`${count()} of ${items.length} answers were graded before.`);
}
