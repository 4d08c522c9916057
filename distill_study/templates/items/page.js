// --- the list, the keyboard, and what happens when
const byId = (id) => document.getElementById(id);
const list = byId("list"), rows = byId("rows"), heads = byId("heads"), detail = byId("detail"), status = document.querySelector(".count");
const rowHeight = 3 * parseFloat(getComputedStyle(document.documentElement).fontSize);
let f = {}, found = [], now = -1, latest = 0;   // filters, items that fit, the place among them, the number of the last change

const picked = (arm) => (f.split === "test" ? arm === f.a || arm === f.b : arm === f.arm) ? "picked" : "";

function cell(i, arm) {
  const v = gradeOf(i, arm);
  if (!data.graded) return el("span", { className: `cell ${picked(arm)}` }, v === null ? "\u2013" : (v * data.scale).toFixed(0));
  return el("span", { className: `cell ${v ? "ok" : "bad"} ${picked(arm)}`, title: `${arm}: ${answerOf("test", i, arm) ?? "none found"}` }, v ? "\u2713" : "\u2717");
}

function fate(i, arm) {
  const kept = data.train.arms[arm].kept[i];
  return el("span", { className: `cell ${kept ? "ok" : "bad"} ${picked(arm)}`, title: `${arm}: ${kept ? "kept" : "dropped"}` }, kept ? "\u2713" : "\u2717");
}

// What a screen reader says of a row: ticks and crosses in words.
function spoken(i) {
  const { split } = f, names = split === "test" ? arms.filter((arm) => data.graded && !gradeOf(i, arm)) : trained.filter((arm) => !data.train.arms[arm].kept[i]);
  const outcome = names.length ? `. ${split === "test" ? "Wrong" : "Dropped"}: ${names.join(", ")}` : "";
  return `${data[split].id[i]}, ${levelOf(split, i) ?? ""} ${data[split].head[i]}${outcome}`;
}

function row(place) {
  const i = found[place], { split } = f, about = [levelOf(split, i), goldOf(split, i) && data.graded ? `gold ${goldOf(split, i)}` : null, data[split].head[i]].filter(Boolean).join(" \u00b7 ");
  const cells = split === "test" ? arms.map((arm) => cell(i, arm)) : trained.map((arm) => fate(i, arm));
  const e = el("a", { className: "row", id: `row-${place}`, href: address(f, data[split].id[i]), tabIndex: -1, onclick: (event) => { if (!event.ctrlKey && !event.metaKey && !event.shiftKey) { event.preventDefault(); turn(place); toList(); } } },
    el("span", { className: "about" }, el("b", { className: "id" }, data[split].id[i]), el("span", { className: "head" }, about)), el("span", { className: "cells" }, cells));
  for (const [k, v] of Object.entries({ role: "option", "aria-selected": place === now, "aria-setsize": found.length, "aria-posinset": place + 1, "aria-label": spoken(i) })) e.setAttribute(k, v);
  e.style.top = `${place * rowHeight}px`;
  return e;
}

// Only the rows in sight are in the page.
function drawRows() {
  const first = Math.max(0, Math.floor(list.scrollTop / rowHeight) - 5), last = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / rowHeight) + 5);
  rows.replaceChildren(...Array.from({ length: Math.max(0, last - first) }, (_, k) => row(first + k)));
  if (now >= first && now < last) list.setAttribute("aria-activedescendant", `row-${now}`);
  else list.removeAttribute("aria-activedescendant");
}

function drawHeads() {
  const test = f.split === "test";
  const level = (arm) => test ? mean(found.map((i) => gradeOf(i, arm))) : mean(found.map((i) => data.train.arms[arm].kept[i]));
  const shown = (v) => v === null ? "\u2013" : (v * (test ? data.scale : 100)).toFixed(0);
  const head = (arm) => el("span", { className: `cell ${picked(arm)}` }, el("span", { className: "name" }, arm), shown(level(arm)));
  const what = test ? `${data.measure}${data.graded ? ", %" : ""}` : "kept, %";
  heads.replaceChildren(el("span", { className: "about" }, what), el("span", { className: "cells" }, (test ? arms : trained).map(head)));
}

const PAIR = data.graded ? { "both-right": "both right", "a-only": "only A right", "b-only": "only B right", "both-wrong": "both wrong" } : { "a-only": "A higher", "b-only": "B higher", "both-right": "the same" };

// How the pair comes out among the items that fit but for the outcome: each a step to these items.
function drawPair(near) {
  const pair = byId("pair"), keys = Object.keys(PAIR);
  pair.hidden = f.split !== "test" || f.a === f.b;
  if (pair.hidden) return;
  const chip = (key) => el("button", { type: "button", onclick: () => change({ outcome: f.outcome === key ? "" : key }) }, `${PAIR[key]}: `, el("b", {}, near.filter((i) => OUTCOMES[key][1](gradeOf(i, f.a), gradeOf(i, f.b), i, f)).length));
  const chips = keys.map((key) => [key, chip(key)]);
  for (const [key, e] of chips) e.setAttribute("aria-pressed", f.outcome === key);
  pair.replaceChildren(...chips.map(([, e]) => e));
}

const drawTables = () => byId("tables").replaceChildren(...(byId("breakdown").open ? f.split === "test" ? testTables(found, f) : trainTables(found, f) : []));

// --- one item
async function show(place) {
  const run = ++latest, parts = place < 0 ? [el("p", { className: "note" }, found.length ? "" : "No item fits.")] : await itemParts(found[place], f);
  if (run !== latest) return;
  detail.replaceChildren(...parts.flat(3).filter((p) => p));
  if (place >= 0) detail.setAttribute("aria-labelledby", "chosen");
  highlight();
  byId("items").setAttribute("aria-busy", "false");
}

// Marks what was searched for, without a change of the page's elements.
function highlight() {
  if (!globalThis.Highlight) return;
  const needle = (f.text ?? "").trim().toLowerCase(), ranges = [], walker = document.createTreeWalker(detail, NodeFilter.SHOW_TEXT);
  while (needle && walker.nextNode()) {
    const text = walker.currentNode.data.toLowerCase();
    for (let at = text.indexOf(needle); at >= 0; at = text.indexOf(needle, at + needle.length)) {
      const range = new Range();
      range.setStart(walker.currentNode, at);
      range.setEnd(walker.currentNode, at + needle.length);
      ranges.push(range);
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

function count() {
  status.textContent = `${now + 1} of ${found.length} that fit, ${sizeOf(f.split)} in all`;
  byId("back").disabled = now <= 0;
  byId("next").disabled = now < 0 || now >= found.length - 1;
}

function inSight() {
  const top = now * rowHeight, free = list.clientHeight - heads.offsetHeight;
  rows.style.height = `${found.length * rowHeight}px`;
  if (now >= 0) list.scrollTop = Math.min(top, Math.max(list.scrollTop, top + rowHeight - free));
}

function turn(to, write = true) {
  now = to;
  count();
  inSight();
  drawRows();
  if (write) history.replaceState(null, "", address(f, now < 0 ? null : data[f.split].id[found[now]]));
  return show(now);
}

// --- from filters to items
async function refilter(id = null, hashed = id !== null) {
  const run = ++latest;
  f = chosen();
  const without = fitting({ ...f, outcome: "" });
  let near = without;
  if (f.text.trim()) {
    near = await searched(without, f, (done) => { if (run === latest && done < 1) status.textContent = `searching, ${(100 * done).toFixed(0)} %`; return run === latest; });
    if (near === null || run !== latest) return false;
  }
  const fits = new Set(f.outcome ? fitting(f) : near);
  found = near.filter((i) => fits.has(i));
  byId("clear").disabled = address(f, null) === `#${f.split}`;
  drawHeads();
  drawPair(near);
  if (started) drawTables();
  else setTimeout(drawTables);   // after the first rows
  const at = id === null ? Math.min(0, found.length - 1) : found.indexOf(data[f.split].id.indexOf(id));
  list.scrollTop = 0;
  await turn(at, started && !hashed);
  return id === null || at >= 0;
}

// With other arms, or in another order, the item that is open stays open.
async function stay(name) {
  const id = now >= 0 && ["a", "b", "arm", "order"].includes(name) ? data[f.split].id[found[now]] : null;
  if (!await refilter(id, false) && id !== null) await refilter();
}

// Filters that a button sets; of other filters nothing changes.
function change(filters) {
  for (const [k, v] of Object.entries(filters)) control(k).value = v;
  if (moreAreSet()) byId("more").open = true;
  return "a" in filters ? stay("a") : refilter();
}

// An address names exactly one item: filters that don't let it through are left, and no other item stands in for one that isn't here.
async function go() {
  const at = parsed(location.hash);
  if (!at) return location.hash ? undefined : refilter();
  setFilters(at.split, at.filters);
  if (at.id === null) return refilter();
  if (await refilter(at.id)) return;
  setFilters(at.split);
  if (await refilter(at.id)) return;
  detail.replaceChildren(el("p", { className: "note" }, `No item of this page has the id ${at.id}.`));
}

// --- what people do
const toList = () => list.focus({ preventScroll: true });
const step = (by) => { if (found[now + by] !== undefined) turn(now + by); };

form.onsubmit = (event) => { event.preventDefault(); toList(); };
form.oninput = (event) => {
  if (event.target.name === "split") setFilters(control("split").value);
  stay(event.target.name);
};
byId("back").onclick = () => step(-1);
byId("next").onclick = () => step(1);
byId("clear").onclick = () => { setFilters(f.split); refilter(); };
byId("breakdown").open = matchMedia("(min-width: 75rem)").matches;
byId("breakdown").ontoggle = drawTables;
list.onscroll = drawRows;
addEventListener("resize", drawRows);
addEventListener("hashchange", async () => { await go(); detail.focus(); });

list.onkeydown = (event) => {
  const page = Math.max(1, Math.floor(list.clientHeight / rowHeight) - 2), last = found.length - 1;
  const to = { ArrowDown: now + 1, ArrowUp: now - 1, PageDown: Math.min(last, now + page), PageUp: Math.max(0, now - page), Home: 0, End: last }[event.key];
  if (event.key === "Enter") { event.preventDefault(); detail.focus(); }
  if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (found[to] !== undefined) turn(to);
};

document.onkeydown = (event) => {
  if (event.key === "Escape") { event.preventDefault(); return toList(); }
  if (event.key === "Enter" && event.target === document.body) { event.preventDefault(); return detail.focus(); }
  if (!byId("keys").checked || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
  if (event.key === "/") { event.preventDefault(); control("text").focus(); }
};

let started = false;
setUp();
byId("items").hidden = false;
await go();
started = true;
