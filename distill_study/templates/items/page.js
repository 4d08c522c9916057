// Everything shown is text of a data set or a model: it reaches the page through `append` alone, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const said = (t) => t ? t.map((i) => data.texts[i]).join("\n") : null;     // what is empty is left out of the data
const el = (tag, props, ...parts) => { const e = Object.assign(document.createElement(tag), props); e.append(...parts.flat().filter((p) => p !== null && p !== undefined)); return e; };
const box = (t, label) => { const e = el("pre", { tabIndex: 0 }, said(t) || "nothing"); e.setAttribute("role", "group"); e.setAttribute("aria-label", label); if (!said(t)) e.classList.add("none"); return e; };
const folded = (name, ...parts) => el("details", {}, el("summary", {}, name), ...parts);
const badge = (text, kind) => el("span", { className: `badge ${kind}` }, text);
const number = (v) => (v * data.scale).toFixed(data.digits).replace("-", "\u2212");

// --- what can be chosen
const SPLITS = { test: "Test items", train: "Training inputs" };
const grade = (item, arm) => item.arms.find((x) => x.arm === arm)?.value;
const level = data.graded
  ? [["any outcome", () => true], ["{a} wrong, {b} right", (x, y) => !x && y], ["{a} right, {b} wrong", (x, y) => x && !y], ["both wrong", (x, y) => !x && !y], ["both right", (x, y) => x && y]]
  : [["any outcome", () => true], ["{a} lower, {b} higher", (x, y) => x < y], ["{a} higher, {b} lower", (x, y) => x > y], ["the same", (x, y) => x === y]];
const fates = ["any outcome", "kept", "dropped", ...Object.keys(data.reasons)];
const fate = (x, which) => which === "any outcome" || (which === "kept" ? x.kept : which === "dropped" ? !x.kept : x.reason === which);
const words = (item) => item.words ??= [item.id, ...[item.question, item.gold, ...item.arms.flatMap((x) => [x.text, x.answer, x.row]), ...(item.samples ?? []).flatMap((s) => s.texts ?? [])].map((t) => t ? said(t) : "")].join("\n").toLowerCase();

let split = "test", found = [], now = -1;
const pick = (id, name, options) => { const s = el("select", { id }, options.map((o) => el("option", { value: o, textContent: o }))); return [el("label", { htmlFor: id }, name), s]; };
const [splitLabel, splitPick] = pick("split", "Show", []);
for (const [k, v] of Object.entries(SPLITS)) splitPick.append(el("option", { value: k, textContent: v }));
const [aLabel, aPick] = pick("a", "First arm", data.arms), [bLabel, bPick] = pick("b", "Second arm", data.arms);
const [armLabel, armPick] = pick("arm", "Trained arm", Object.keys(data.trained)), [outLabel, outPick] = pick("outcome", "Outcome", []);
const [hardLabel, hardPick] = pick("hard", "Difficulty", ["any", ...data.levels]);
const search = el("input", { id: "search", type: "search", autocomplete: "off" }), searchLabel = el("label", { htmlFor: "search" }, "Text");
const field = (...parts) => el("div", { className: "field" }, ...parts);
const fields = { test: [field(aLabel, aPick), field(bLabel, bPick)], train: [field(armLabel, armPick)], hard: field(hardLabel, hardPick) };
const count = el("p", { className: "count" }), list = el("ol", { className: "list" }), detail = el("article", { tabIndex: -1 });
const back = el("button", { type: "button", textContent: "Previous" }), next = el("button", { type: "button", textContent: "Next" });
count.setAttribute("role", "status");
const nav = el("nav", {}, list);
nav.setAttribute("aria-label", "Items that fit");
const form = el("div", { className: "filters" }, field(splitLabel, splitPick), ...fields.test, ...fields.train, field(outLabel, outPick), fields.hard, field(searchLabel, search));
form.setAttribute("role", "search");
document.getElementById("items").append(form, el("div", { className: "turn" }, back, next, count), el("div", { className: "both" }, nav, detail));
if (data.arms.includes(data.base)) aPick.value = data.base;
for (const p of [bPick, armPick]) if ([...p.options].some((o) => o.value === data.best)) p.value = data.best;

// --- one item
const judged = (x) => (x.said ?? []).map(([who, what, v]) => el("li", {}, `${who}, ${what}: ${v}`));
const outcome = (x) => data.graded
  ? [badge(x.value ? "right" : "wrong", x.value ? "ok" : "failed"), x.strict === x.value ? null : badge(`strictly ${x.strict ? "right" : "wrong"}`, "open")]
  : [badge(x.value === undefined ? "undefined" : `${data.measure} ${number(x.value)}`, "open")];
const answerOf = (x) => el("section", { className: "answer" },
  el("h3", {}, x.arm, " ", ...outcome(x)), box(x.text, `What ${x.arm} wrote`),
  el("p", { className: "read" }, "Read as: ", said(x.answer) ?? "no answer found"), x.marks ? el("p", { className: "read" }, x.marks.join("; ")) : null, x.said ? el("ul", {}, judged(x)) : null,
  folded("How it was asked", box(x.prompt, "Prompt")), x.samples ? folded(`All ${x.samples.length} that it wrote`, ...x.samples.map((s, i) => box(s, `Number ${i + 1}`))) : null,
  x.arm in data.trained ? el("p", { className: "read" }, el("button", { type: "button", className: "link", onclick: () => { split = splitPick.value = "train"; armPick.value = x.arm; refilter(true); } }, "What it learned from")) : null);
const rowOf = (x) => el("section", { className: "answer" },
  el("h3", {}, x.arm, " ", badge(x.kept ? "kept" : `dropped: ${x.reason}`, x.kept ? "ok" : "failed")), x.kept ? null : el("p", { className: "read" }, data.reasons[x.reason] ?? "", said(x.evidence) ? ` (${said(x.evidence)})` : ""),
  el("p", { className: "read" }, `Label, ${data.trained[x.arm]}: `, said(x.answer) ?? "none", x.right === undefined ? "" : x.right ? ", which is the gold answer" : ", which is not the gold answer"),
  x.kept ? folded("Training row", box(x.row, "Training row")) : null);
const head = (item) => [el("h2", { id: "chosen" }, item.id, item.hard ? ` (difficulty: ${item.hard})` : ""), el("h3", {}, split === "test" ? "Input" : "Training input"), box(item.question, "Input"), el("h3", {}, data.graded ? "Gold answer" : "Reference"), item.gold ? box(item.gold, "Gold answer or reference") : el("p", { className: "read" }, "There is none.")];
function show(item) {
  if (!item) return detail.replaceChildren(el("p", { className: "note" }, "No item fits."));
  const parts = head(item);
  if (split === "test") {
    parts.push(el("h2", {}, "Answers"), ...item.arms.map(answerOf));
    if (item.pairs) parts.push(el("h2", {}, "Compared by the judge"), el("ul", {}, item.pairs.map((p) => el("li", {}, p))));
  } else {
    parts.push(el("h2", {}, "What the teacher wrote"), ...(item.samples ?? []).flatMap((s) => [el("h3", {}, `Asked under ${s.strategy}`), ...(s.texts ?? [[]]).map((t, i) => box(t, `Sample ${i + 1} under ${s.strategy}`))]), item.samples ? null : el("p", { className: "note" }, "Nothing: no arm learns from its answers."));
    parts.push(el("h2", {}, "What became of it"), ...item.arms.map(rowOf));
  }
  detail.replaceChildren(...parts.filter((p) => p));
  detail.setAttribute("aria-labelledby", "chosen");
}

// --- from choices to items, and from an address to an item
const place = (item) => `#${split}/${encodeURIComponent(item.id)}`;
function turn(i, write = true) {
  now = i;
  show(found[i]);
  for (const [k, a] of [...list.querySelectorAll("a")].entries()) { if (k === i) { a.setAttribute("aria-current", "true"); a.scrollIntoView?.({ block: "nearest" }); } else a.removeAttribute("aria-current"); }
  back.disabled = i <= 0; next.disabled = i < 0 || i >= found.length - 1;
  count.textContent = `${found.length ? i + 1 : 0} of ${found.length} that fit, ${data.items[split].length} in all`;
  if (write && found[i]) history.replaceState(null, "", place(found[i]));
}
function outcomes() {
  const names = split === "test" ? level.map(([n]) => n.replace("{a}", aPick.value).replace("{b}", bPick.value)) : fates, k = outPick.selectedIndex;
  outPick.replaceChildren(...names.map((o) => el("option", { value: o, textContent: o })));
  outPick.selectedIndex = Math.min(Math.max(k, 0), names.length - 1);
}
function refilter(anew = false) {
  for (const f of fields.test) f.hidden = split !== "test";
  for (const f of fields.train) f.hidden = split !== "train";
  fields.hard.hidden = split !== "test" || !data.levels.length;
  outcomes();
  if (anew) outPick.selectedIndex = 0;
  const test = level[outPick.selectedIndex]?.[1], text = search.value.trim().toLowerCase(), a = aPick.value, b = bPick.value;
  found = data.items[split].filter((item) => {
    if (split === "test") {
      const x = grade(item, a), y = grade(item, b);
      if (outPick.selectedIndex > 0 && (x === undefined || y === undefined || !test(x, y))) return false;
      if (hardPick.value !== "any" && item.hard !== hardPick.value) return false;
    } else { const x = item.arms.find((r) => r.arm === armPick.value); if (outPick.selectedIndex > 0 && !(x && fate(x, outPick.value))) return false; }
    return !text || words(item).includes(text);
  });
  list.replaceChildren(...found.map((item) => el("li", {}, el("a", { href: place(item) }, item.id, el("span", {}, ` ${(said(item.question) ?? "").slice(0, 70)}`)))));
  turn(found.length ? 0 : -1);
}
function go() {
  const m = /^#(test|train)\/(.+)$/.exec(location.hash);
  let id = null;
  try { id = m && decodeURIComponent(m[2]); } catch { /* an address that somebody cut off */ }
  const item = id === null ? undefined : data.items[m[1]].find((x) => x.id === id);
  if (!item) { if (m) count.textContent = "No item of this page has that address."; return false; }
  if (split !== m[1] || !found.includes(item)) { split = splitPick.value = m[1]; search.value = ""; hardPick.value = "any"; refilter(true); }
  turn(found.indexOf(item), false);
  return true;
}
splitPick.onchange = () => { split = splitPick.value; refilter(true); };
for (const p of [aPick, bPick, armPick, outPick, hardPick]) p.onchange = () => refilter();
search.oninput = () => refilter();
back.onclick = () => turn(now - 1); next.onclick = () => turn(now + 1);
list.onkeydown = (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !found[now + step]) return;
  event.preventDefault(); turn(now + step); list.querySelectorAll("a")[now].focus();
};
addEventListener("hashchange", () => { if (go()) detail.focus(); });
const start = location.hash;
refilter();
if (start) { history.replaceState(null, "", start); go(); }
