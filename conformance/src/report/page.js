"use strict";
// Shows the results that all four fields let through; the choice is kept in the address, so that it can be sent to somebody.
const fields = ["plugin", "level", "outcome", "text"].map((id) => document.getElementById(id));
const results = [...document.querySelectorAll("details.result")];

function apply() {
  const [plugin, level, outcome, text] = fields.map((field) => field.value);
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const result of results) {
    const { plugin: ofPlugin, level: ofLevel, outcome: ofOutcome } = result.dataset;
    const summary = result.firstElementChild.textContent.toLowerCase();
    const fits = (!plugin || plugin === ofPlugin) && (!level || level === ofLevel) && (!outcome || outcome === ofOutcome)
      && words.every((word) => summary.includes(word));
    result.hidden = !fits;
    shown += fits ? 1 : 0;
  }
  document.getElementById("shown").value = `${shown} of ${results.length}`;
  const chosen = fields.filter((field) => field.value).map((field) => [field.id, field.value]);
  history.replaceState(null, "", chosen.length ? "#" + new URLSearchParams(chosen) : location.pathname + location.search);
}

for (const [id, value] of new URLSearchParams(location.hash.slice(1))) {
  const field = fields.find((one) => one.id === id);
  if (field) field.value = value;
}
for (const field of fields) field.addEventListener("input", apply);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
apply();
