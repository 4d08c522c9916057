
// In a page of its own: what is graded is kept in the browser, under the sheet's id and the rater's.
const sheet = JSON.parse(document.getElementById("sheet").textContent), place = `distill-study ${sheet.sheet} ${sheet.rater}`;
const values = { sheet, state: {}, says: "" };
let safe = true;
try { values.state = JSON.parse(localStorage.getItem(place) ?? "{}"); localStorage.setItem(`${place} `, ""); localStorage.removeItem(`${place} `); }
catch { safe = false; values.says = "This browser keeps nothing for this page. Save the grades before you close it."; }
const model = {
  get: (name) => values[name],
  set: (name, value) => { values[name] = value; },
  on: (_, act) => addEventListener("storage", (event) => { if (event.key === place && event.newValue) { values.state = JSON.parse(event.newValue); act(); } }),
  save_changes: () => { try { localStorage.setItem(place, JSON.stringify(values.state)); } catch { safe = false; } },
};
addEventListener("beforeunload", (event) => { if (!safe) event.preventDefault(); });
render({ model, el: document.getElementById("grader") });
