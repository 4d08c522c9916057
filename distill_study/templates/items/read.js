// --- one item, to read
const el = (tag, props = {}, ...parts) => {
  const e = Object.assign(document.createElement(tag), props);
  e.append(...parts.flat(2).filter((p) => p !== null && p !== undefined && p !== false));
  return e;
};
const folded = (name, ...parts) => el("details", {}, el("summary", {}, name), ...parts);
const badge = (text, kind) => el("span", { className: `badge ${kind}` }, text);
const read = (...parts) => el("p", { className: "read" }, ...parts);
const number = (v) => (v * data.scale).toFixed(data.digits).replace("-", "\u2212");

function box(label, ...parts) {
  const empty = !parts.some((p) => p), e = el("pre", { tabIndex: 0, className: empty ? "none" : "" }, empty ? "nothing" : parts);
  e.setAttribute("role", "group");
  e.setAttribute("aria-label", label);
  return e;
}

// Where a text first has another word than the other one; its length where it only ends earlier, -1 where they are the same.
function departs(text, other) {
  if (text === other) return -1;
  let i = 0;
  while (i < text.length && text[i] === other[i]) i++;
  if (i === text.length && /\s/.test(other[i])) return i;
  while (i > 0 && /\S/.test(text[i - 1])) i--;
  return i;
}

// A text with the first word marked that is another than in the other text.
function compared(text, other) {
  const at = other === undefined ? -1 : departs(text, other);
  if (at < 0 || at === text.length) return [text];
  const end = at + /^\s*\S*/.exec(text.slice(at))[0].length;
  return [text.slice(0, at), el("mark", {}, text.slice(at, end)), text.slice(end)];
}

function noteOn(text, other, arm) {
  if (other === undefined) return null;
  const at = departs(text, other);
  if (at < 0) return read(`The same text as ${arm}.`);
  if (at === text.length && text) return read(`Ends where ${arm} goes on.`);
  const words = text.slice(0, at).split(/\s+/).filter(Boolean).length;
  return words ? read(`The first ${words === 1 ? "word is that" : `${words} words are those`} of ${arm}; the next is marked.`) : null;
}

function outcomeOf(i, arm, f) {
  const v = gradeOf(i, arm);
  if (data.graded) return badge(v ? "\u2713 right" : "\u2717 wrong", v ? "ok" : "failed");
  return badge(v === null ? "undefined" : `${data.measure} ${number(v)}`, "open");
}

// A is compared with B, every other arm with B as well, and B with A.
function answerCard(i, x, { f, by, first }) {
  const arm = x.arm, other = arm === f.b ? f.a : f.b, text = x.text ?? "", against = other === arm ? undefined : by.get(other)?.text ?? "";
  const role = arm === f.a ? "A" : arm === f.b ? "B" : "", tokens = tokensOf(i, arm);
  return el("section", { className: `answer ${role && "chosen"} ${arm === first ? "first" : ""}` },
    el("h3", {}, role && `${role}: `, arm, " ", outcomeOf(i, arm, f), " ", arm === first ? badge(`first to differ from ${f.b}`, "open") : null),
    read("Answer: ", el("strong", {}, x.answer ?? "none found"), tokens === null ? "" : `, ${tokens} tokens`),
    box(`What ${arm} wrote`, ...(text ? compared(text, against) : [])), noteOn(text, against, other),
    marksOf(i, arm).length ? read(marksOf(i, arm).join("; ")) : null,
    x.graded ? el("ul", {}, x.graded.map(([who, what, v]) => el("li", {}, `${who}, ${what}: ${v}`))) : null,
    folded("How it was asked", box("Prompt", promptOf(x.prompt, by.question))),
    x.samples ? folded(`All ${x.samples.length} that it wrote`, x.samples.map((s, n) => box(`Number ${n + 1}`, s))) : null,
    arm in data.trained ? read(el("a", { href: address({ ...atFirst, split: "train", arm, outcome: "" }, null) }, "All its training inputs")) : null);
}

const labelled = (arm) => data.trained[arm] === "gold" ? "gold" : `by the teacher under ${data.trained[arm]}`;

function rowCard(r, x) {
  const right = x.right === undefined ? "" : x.right ? ", which is the gold answer" : ", which is not the gold answer";
  const why = x.kept ? null : read(data.reasons[x.reason] ?? "the request failed", x.evidence ? ` (${x.evidence})` : "");
  return el("section", { className: "answer" },
    el("h3", {}, x.arm, " ", badge(x.kept ? "kept" : `dropped: ${x.reason}`, x.kept ? "ok" : "failed")), why,
    read(`Label, ${labelled(x.arm)}: `, x.answer ?? "none", right),
    x.rows ? folded(x.rows.length > 1 ? `${x.rows.length} training rows` : "Training row", x.rows.map((m) => box("Training row", promptOf(m, r.question)))) : null);
}

function verdict(a, b, winner, flipped, why) {
  const better = { a: `${a} is better`, b: `${b} is better`, tie: flipped ? "a tie: it changed its mind with the order" : "a tie" };
  return `${a} and ${b}: ${better[winner] ?? `nothing: ${why}`}`;
}

const inputOf = (r) => [el("h3", {}, "Input"), box("Input", r.question), el("h3", {}, data.graded ? "Gold answer" : "Reference"), r.gold ? box("Gold answer or reference", r.gold) : read("There is none.")];

function testItem(i, r, f) {
  const by = new Map(r.arms.map((x) => [x.arm, x])), differs = (arm) => answerOf("test", i, arm) !== answerOf("test", i, f.b);
  by.question = r.question;
  const first = data.graded && f.a !== f.b ? arms.find(differs) : null, order = [...new Set([f.a, f.b, ...arms])];
  return [...inputOf(r), el("h2", {}, "Answers"),
    el("div", { className: "answers" }, order.map((arm) => answerCard(i, by.get(arm), { f, by, first }))),
    r.pairs.length ? [el("h2", {}, "Compared by the judge"), el("ul", {}, r.pairs.map((p) => el("li", {}, verdict(...p))))] : null];
}

function trainItem(i, r) {
  const sample = (strategy, text, n) => [el("h3", {}, `Asked under ${strategy}${n ? `, sample ${n + 1}` : ""}`), box(`Sample ${n + 1} under ${strategy}`, text)];
  const wrote = Object.entries(r.samples).flatMap(([strategy, texts]) => texts.map((text, n) => sample(strategy, text, n)));
  return [...inputOf(r), el("h2", {}, "What the teacher wrote"), ...(wrote.length ? wrote : [el("p", { className: "note" }, "Nothing: no arm learns from its answers.")]),
    el("h2", {}, "What became of it"), el("div", { className: "answers" }, r.arms.map((x) => rowCard(r, x)))];
}

async function itemParts(i, f) {
  const r = await record(f.split, i), level = levelOf(f.split, i);
  const alike = level && f.split === "test" && trained.length ? el("a", { href: address({ ...atFirst, split: "train", level, outcome: "" }, null) }, `Training inputs of ${level}`) : null;
  return [el("h2", { id: "chosen" }, r.id, level ? ` (${level})` : ""), alike && read(alike), ...(f.split === "test" ? testItem(i, r, f) : trainItem(i, r))];
}

// --- what items have in common
const mean = (values) => { const own = values.filter((v) => v !== null); return own.length ? own.reduce((x, y) => x + y, 0) / own.length : null; };
const share = (v) => v === null ? "\u2013" : number(v);
const LISTED = 12;

function table(caption, heads, rows) {
  const cells = (row) => row.map((c, k) => el(k ? "td" : "th", k ? { className: "num" } : { scope: "row" }, c));
  const more = rows.length - LISTED;
  return el("div", { className: "scroll", tabIndex: 0 }, el("table", {}, el("caption", {}, caption, more > 0 ? el("span", { className: "sub" }, `the first ${LISTED} of ${rows.length}`) : null),
    el("thead", {}, el("tr", {}, heads.map((h, k) => el("th", { scope: "col", className: k ? "num" : "" }, h)))),
    el("tbody", {}, rows.slice(0, LISTED).map((row) => el("tr", {}, cells(row))))));
}

const choice = (text, filters) => el("button", { type: "button", className: "link", onclick: () => change(filters) }, text);
const pairHeads = (f) => ["items", `A: ${f.a}`, `B: ${f.b}`];
const pairCells = (items, f) => [items.length, share(mean(items.map((i) => gradeOf(i, f.a)))), share(mean(items.map((i) => gradeOf(i, f.b))))];
const groups = (items, key) => [...Map.groupBy(items, key)].filter(([k]) => k !== null);
const commonest = (items, key) => groups(items, key).sort((x, y) => y[1].length - x[1].length);

function armTable(items, f) {
  const rows = arms.map((arm) => {
    const own = items.map((i) => gradeOf(i, arm)).filter((v) => v !== null), n = own.length, lengths = items.map((i) => tokensOf(i, arm));
    const right = data.graded ? [own.reduce((x, y) => x + y, 0)] : [];
    return [choice(arm, { a: arm }), ...right, n, share(mean(own)), mean(lengths)?.toFixed(0) ?? "\u2013", ...odd.map(([, k]) => items.filter((i) => isMarked(i, arm, k)).length)];
  });
  return table("Arms", ["arm", ...(data.graded ? ["right"] : []), "of", data.measure, "mean tokens", ...odd.map(([text]) => text)], rows);
}

function levelTable(items, f) {
  const rows = levels.map((level) => [level, items.filter((i) => levelOf("test", i) === level)]).filter(([, own]) => own.length);
  const learned = (level) => everything("train").filter((i) => levelOf("train", i) === level && (data.train.arms[f.a]?.kept[i] ?? 1)).length;
  const inputs = trained.includes(f.a) ? "training inputs that A learned from" : "training inputs";
  return table("By difficulty", ["difficulty", ...pairHeads(f), inputs], rows.map(([level, own]) => [choice(level, { level }), ...pairCells(own, f), learned(level)]));
}

function goldTable(items, f) {
  const wrong = (own) => commonest(own.filter((i) => !gradeOf(i, f.a)), (i) => answerOf("test", i, f.a) ?? "none found")[0];
  const rows = commonest(items, (i) => goldOf("test", i)).map(([gold, own]) => {
    const most = wrong(own);
    return [choice(gold, { gold }), ...pairCells(own, f), most ? choice(`${most[0]} (${most[1].length})`, { gold, answer: most[0] }) : "\u2013"];
  });
  if (rows.length > items.length / 8) return null;   // hardly any gold answer comes twice
  return table("By gold answer", ["gold answer", ...pairHeads(f), "A's commonest wrong answer"], rows);
}

function answerTable(items, f) {
  const rows = commonest(items, (i) => answerOf("test", i, f.a) ?? "");
  return table("By the answer of A", ["answer", ...pairHeads(f)], rows.map(([answer, own]) => [answer ? choice(answer, { answer }) : "none found", ...pairCells(own, f)]));
}

// Quarters by length; equal lengths stay in one.
function lengthTable(items, f) {
  const own = items.filter((i) => tokensOf(i, f.a) !== null), lengths = own.map((i) => tokensOf(i, f.a)).sort((x, y) => x - y);
  const stops = [...new Set([.25, .5, .75, 1].map((q) => lengths[Math.max(0, Math.ceil(q * lengths.length) - 1)]))];
  const rows = stops.filter((s) => s !== undefined).map((most, k) => {
    const least = k ? stops[k - 1] + 1 : lengths[0];
    const inside = own.filter((i) => tokensOf(i, f.a) >= least && tokensOf(i, f.a) <= most);
    return [choice(least === most ? most : `${least} to ${most}`, { least, most }), ...pairCells(inside, f)];
  });
  return table("By length of the answer of A", ["tokens", ...pairHeads(f)], rows);
}

// How far into B's text A says the same: texts of all the items are opened for it.
const FAR = ["in the first quarter", "in the second quarter", "in the third quarter", "in the last quarter"];

async function farTable(items, f) {
  const found = new Map([...FAR, "nowhere: the same text"].map((name) => [name, []]));
  for (const i of items) {
    const r = await record("test", i), [a, b] = [f.a, f.b].map((arm) => r.arms.find((x) => x.arm === arm).text ?? ""), at = departs(a, b);
    found.get(at < 0 ? "nowhere: the same text" : FAR[Math.min(3, Math.floor(4 * at / (b.length || 1)))]).push(i);
  }
  const rows = [...found].filter(([, own]) => own.length).map(([name, own]) => [name, ...pairCells(own, f)]);
  return table("Where the text of A first departs from that of B", ["of B's text", ...pairHeads(f)], rows);
}

function farButton(items, f) {
  const e = el("p", {}, el("button", { type: "button", onclick: async () => e.replaceWith(await farTable(items, f)) }, "Where does the text of A depart from that of B?"));
  return e;
}

function testTables(items, f) {
  const graded = data.graded ? [answerTable(items, f), goldTable(items, f)].filter(Boolean) : [];
  return [armTable(items, f), ...(levels.length > 1 ? [levelTable(items, f)] : []), lengthTable(items, f), ...graded, ...(f.a === f.b ? [] : [farButton(items, f)])];
}

function trainTables(items, f) {
  const own = data.train.arms[f.arm], count = (some, test) => some.filter(test).length;
  const cells = (some) => [some.length, count(some, (i) => own.kept[i]), count(some, (i) => own.right[i] === 1), count(some, (i) => own.right[i] === 0)];
  const heads = ["inputs", "kept", "label is gold", "label is not gold"];
  const fates = commonest(items, (i) => own.kept[i] ? "kept" : `dropped: ${valueOf(own.reason[i])}`);
  const byLevel = levels.map((level) => [level, items.filter((i) => levelOf("train", i) === level)]).filter(([, some]) => some.length);
  return [table("By outcome", ["outcome", ...heads], fates.map(([outcome, some]) => [choice(outcome, { outcome }), ...cells(some)])),
    ...(byLevel.length > 1 ? [table("By difficulty", ["difficulty", ...heads], byLevel.map(([level, some]) => [choice(level, { level }), ...cells(some)]))] : [])];
}
