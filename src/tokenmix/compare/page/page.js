"use strict";
document.documentElement.classList.add("js");

// Tables: a record is a <tbody>; its first row holds the cells.
function sortBy(table, column, descending) {
  const heading = table.tHead.rows[0].cells[column];
  const numeric = heading.classList.contains("number");
  const key = (record) => {
    const cell = record.rows[0].cells[column];
    if (!cell) return null;
    if (!numeric) return cell.textContent.trim() || null;
    return cell.dataset.value ? Number(cell.dataset.value) : null;
  };
  const order = (a, b) => (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  const records = [...table.tBodies].map((record) => [key(record), record]);
  records.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // what is unknown stays last
    return descending ? order(b, a) : order(a, b);
  });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  table.append(...records.map(([, record]) => record));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    if (heading.hasAttribute("aria-label")) button.setAttribute("aria-label", heading.getAttribute("aria-label"));
    button.addEventListener("click", () => {
      sortBy(table, column, heading.getAttribute("aria-sort") === "ascending");
    });
    heading.append(button);
  });
}

// Filters: every word of the text, and each list's choice. References are of a task, whatever the stack.
for (const form of document.querySelectorAll("form.filters")) {
  const table = document.querySelector(`#${form.dataset.target} table`);
  const text = form.querySelector("input");
  const lists = [...form.querySelectorAll("select")];
  const count = form.querySelector("output");
  const apply = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const record of table.tBodies) {
      const line = [...record.rows[0].cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      record.hidden = !(
        words.every((word) => line.includes(word)) &&
        lists.every(({ value, dataset }) => !value || (record.dataset[dataset.key] ?? value) === value)
      );
      shown += !record.hidden;
    }
    count.textContent = `${shown} of ${table.tBodies.length} rows`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}

// Results: a click on a row opens what made it.
document.querySelectorAll("tbody.result").forEach((record, index) => {
  const [row, below] = record.rows;
  below.id = `runs-${index}`;
  below.hidden = true;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "more";
  button.setAttribute("aria-controls", below.id);
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-label", below.querySelector("summary").textContent);
  row.cells[0].prepend(button);
  row.addEventListener("click", (event) => {
    const selected = getSelection(); // of who marks numbers to copy them
    if (event.target.closest("a") || (!selected.isCollapsed && selected.containsNode(row, true))) return;
    below.hidden = !below.hidden;
    below.querySelector("details").open = !below.hidden;
    button.setAttribute("aria-expanded", String(!below.hidden));
  });
});

// Commands: a button that copies, or selects where the browser forbids copying.
for (const code of document.querySelectorAll("code.command")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "selected";
    }
  });
  code.after(button);
}

const download = document.querySelector("a.download");
const data = document.getElementById("data").textContent;
download.href = URL.createObjectURL(new Blob([data], { type: "application/json" }));
