// --- filters: the form is their only state, and the address has whatever isn't as it was at first.
const form = document.getElementById("filters");
const control = (name) => form.elements.namedItem(name);
const chosen = () => Object.fromEntries(new FormData(form));
const same = (x, y) => (x ?? "").toLowerCase() === y.trim().toLowerCase();

// What can come of an item in two arms: key → [name, test of (value in A, value in B, item)].
const GRADED = {
  "": ["any outcome", () => true],
  "a-wrong": ["A wrong", (x) => x === 0],
  "a-right": ["A right", (x) => x === 1],
  "b-only": ["A wrong, B right", (x, y) => x === 0 && y === 1],
  "a-only": ["A right, B wrong", (x, y) => x === 1 && y === 0],
  "both-wrong": ["both wrong", (x, y) => x === 0 && y === 0],
  "both-right": ["both right", (x, y) => x === 1 && y === 1],
  "differ": ["A and B differ", (x, y, i, f) => answerOf("test", i, f.a) !== answerOf("test", i, f.b)],
  "all-wrong": ["every arm wrong", (x, y, i) => arms.every((arm) => gradeOf(i, arm) === 0)],
  "all-right": ["every arm right", (x, y, i) => arms.every((arm) => gradeOf(i, arm) === 1)],
};
const both = (x, y) => x !== null && y !== null;
const SCORED = {
  "": ["any outcome", () => true],
  "b-only": ["A lower, B higher", (x, y) => both(x, y) && x < y],
  "a-only": ["A higher, B lower", (x, y) => both(x, y) && x > y],
  "both-right": ["the same", (x, y) => both(x, y) && x === y],
};
const OUTCOMES = data.graded ? GRADED : SCORED;
const FATES = { "": "any outcome", kept: "kept", dropped: "dropped", right: "label is the gold answer", wrong: "label is not the gold answer" };
for (const reason of reasons) FATES[`dropped: ${reason}`] = `dropped: ${reason}`;

const ORDERS = { "": ["of the data set", null], long: ["longest answer of A first", (i, f) => -tokensOf(i, f.a)], short: ["shortest answer of A first", (i, f) => tokensOf(i, f.a)] };
if (!data.graded) Object.assign(ORDERS, {
  low: ["lowest A first", (i, f) => gradeOf(i, f.a) ?? Infinity],
  behind: ["A furthest behind B first", (i, f) => (gradeOf(i, f.a) ?? Infinity) - gradeOf(i, f.b)],
});

function fitsTest(i, f) {
  const tokens = tokensOf(i, f.a);
  return OUTCOMES[f.outcome][1](gradeOf(i, f.a), gradeOf(i, f.b), i, f)
    && (!f.answer || same(answerOf("test", i, f.a), f.answer))
    && (!f.odd || isMarked(i, f.a, f.odd))
    && (!f.least || tokens >= +f.least) && (!f.most || (tokens !== null && tokens <= +f.most));
}

function fitsTrain(i, f) {
  const own = data.train.arms[f.arm];
  if (f.answer && !same(valueOf(own.answer[i]), f.answer)) return false;
  if (f.outcome === "kept" || f.outcome === "dropped") return own.kept[i] === +(f.outcome === "kept");
  if (f.outcome === "right" || f.outcome === "wrong") return own.right[i] === +(f.outcome === "right");
  return !f.outcome || `dropped: ${valueOf(own.reason[i])}` === f.outcome;
}

// Numbers of the items that fit, without a look at their texts.
function fitting(f) {
  const { split } = f, fits = split === "test" ? fitsTest : fitsTrain;
  const found = everything(split).filter((i) => (!f.level || levelOf(split, i) === f.level) && (!f.gold || same(goldOf(split, i), f.gold)) && fits(i, f));
  const by = split === "test" && ORDERS[f.order][1];
  return by ? found.sort((i, j) => by(i, f) - by(j, f)) : found;
}

const WITHIN = { "": "input, answers", input: "the input", a: "the answer of A", b: "the answer of B" };

function textsOf(r, f) {
  if (f.within === "input") return [r.question];
  const answers = f.within ? r.arms.filter((x) => x.arm === f[f.within]) : r.arms;
  const wrote = answers.flatMap((x) => [x.text, x.answer, x.evidence, ...(x.samples ?? []), ...(x.rows ?? []).map(([, rest]) => rest)]);
  return f.within ? wrote : [r.id, r.question, r.gold, ...wrote, ...Object.values(r.samples ?? {}).flat()];
}

// Those of the items that have the text, from one chunk after the other, first one whose id it is; `go` is asked between chunks and may end it.
async function searched(found, f, go) {
  const needle = f.text.trim().toLowerCase(), hits = new Set(), places = Map.groupBy(found, (i) => chunkOf(f.split, i));
  let done = 0;
  for (const [k, some] of places) {
    const records = await chunk(f.split, k), start = data[f.split].starts[k];
    for (const i of some) if (textsOf(records[i - start], f).some((t) => t?.toLowerCase().includes(needle))) hits.add(i);
    if (!go(++done / places.size)) return null;
  }
  const named = f.within ? [] : found.filter((i) => same(data[f.split].id[i], f.text));
  return [...new Set([...named, ...found.filter((i) => hits.has(i))])];
}

// --- from filters to an address, and back
let atFirst = {};
const isOf = (split, name) => (control(name).closest("[data-of]")?.dataset.of ?? split) === split;

function address(f, id) {
  const set = new URLSearchParams();
  for (const [k, v] of Object.entries(f)) if (k !== "split" && v !== atFirst[k] && isOf(f.split, k)) set.set(k, v);
  const place = id === null ? "" : `/${encodeURIComponent(id)}`;
  return `#${f.split}${place}${set.size ? `?${set}` : ""}`;
}

// { split, id or null, filters } of an address; null where it is none of this page's.
function parsed(hash) {
  const m = /^#(test|train)(?:\/([^?]*))?(?:\?(.*))?$/.exec(hash);
  if (!m) return null;
  try {
    return { split: m[1], id: m[2] ? decodeURIComponent(m[2]) : null, filters: new URLSearchParams(m[3]) };
  } catch { return null; }   // an address that somebody cut off
}

function options(name, pairs, value) {
  const select = control(name);
  select.replaceChildren(...pairs.map(([v, text]) => el("option", { value: v, textContent: text })));
  select.value = value;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

// Which outcomes there are hangs on what is shown.
function setOutcomes() {
  const f = chosen(), test = f.split === "test";
  options("outcome", test ? Object.entries(OUTCOMES).map(([k, [name]]) => [k, name]) : Object.entries(FATES), f.outcome ?? "");
  for (const part of document.querySelectorAll("[data-of]")) part.hidden = part.dataset.of !== f.split;
  const own = test ? data.graded : true;
  for (const name of ["gold", "answer"]) control(name).closest(".field").hidden = !own;
  control("level").closest(".field").hidden = levels.length < 2;
  control("odd").closest(".field").hidden = !test || !odd.length;
  document.querySelector("label[for=answer]").textContent = test ? "Answer of A" : "Label";
}

function known(name, numbers) {
  const often = [...Map.groupBy(numbers.filter((n) => n !== null), (n) => n)].sort((x, y) => y[1].length - x[1].length);
  document.getElementById(`${name}-known`).replaceChildren(...often.slice(0, 200).map(([n]) => el("option", { value: valueOf(n) })));
}

// What is proposed for texts to type, as soon as somebody looks for them.
document.getElementById("more").addEventListener("toggle", () => {
  known("gold", data.test.gold);
  known("answer", arms.flatMap((arm) => data.test.arms[arm].answer));
}, { once: true });

function setUp() {
  const pairs = (list) => list.map((x) => [x, x]), first = (...tried) => tried.find((x) => arms.includes(x)) ?? arms[0];
  options("split", [["test", "Test items"], ["train", "Training inputs"]].filter(([k]) => k === "test" || trained.length), "test");
  options("a", pairs(arms), first(data.primary, data.base));
  options("b", pairs(arms), first(...[data.teacher, data.base].filter((x) => x !== control("a").value), arms.at(-1)));
  options("arm", pairs(trained), data.primary);
  options("level", [["", "any"], ...pairs(levels)], "");
  options("within", Object.entries(WITHIN), "");
  options("odd", [["", "anything"], ...odd.map(([text, k]) => [k, text])], "");
  options("order", Object.entries(ORDERS).map(([k, [name]]) => [k, name]), "");
  setOutcomes();
  atFirst = { outcome: "", ...chosen() };
}

// Sets every filter: to what is named, or else to what it was at first.
function setFilters(split, filters = new URLSearchParams()) {
  control("split").value = split;
  for (const [k, v] of Object.entries(atFirst)) if (k !== "split" && k !== "outcome") control(k).value = filters.get(k) ?? v;
  for (const select of form.querySelectorAll("select")) if (select.selectedIndex < 0) select.value = atFirst[select.name];
  setOutcomes();
  control("outcome").value = filters.get("outcome") ?? "";
  if (control("outcome").selectedIndex < 0) control("outcome").value = "";
  if (moreAreSet()) document.getElementById("more").open = true;
}

const moreAreSet = () => [...document.querySelectorAll("#more :is(input, select)")].some((c) => c.value !== atFirst[c.name]);
