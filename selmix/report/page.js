// The page is complete without this: it sorts tables, names the cell under the pointer, and unfolds all for printing.
"use strict";

function sortBy(table, column, button) {
  const head = button.closest("th");
  const falling = head.getAttribute("aria-sort") !== "descending";
  table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const body = table.tBodies[0];
  const key = (row) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
  };
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (typeof x === "number" && typeof y === "number") return x - y;
    if (typeof x === "number") return 1;
    if (typeof y === "number") return -1;
    return x.localeCompare(y, undefined, { numeric: true });
  };
  const rows = [...body.rows].sort((a, b) => (falling ? compare(b, a) : compare(a, b)));
  body.append(...rows);
}

for (const table of document.querySelectorAll("table[data-sort]")) {
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sortBy(table, button.closest("th").cellIndex, button));
  }
}

const tip = document.getElementById("tip");
for (const picture of document.querySelectorAll("svg[data-values]")) {
  const rows = JSON.parse(picture.dataset.rows);
  const values = JSON.parse(picture.dataset.values);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const place = (at, start, length) => Math.min(rows.length - 1, Math.max(0, Math.floor(((at - start) / length) * rows.length)));
    const row = place(event.clientY, box.top, box.height);
    const column = place(event.clientX, box.left, box.width);
    const value = values[row * rows.length + column];
    const words = { row: rows[row], column: rows[column], value: value === null ? "none" : String(value) };
    tip.textContent = picture.dataset.cell.replace(/\{(\w+)\}/g, (_, name) => words[name]);
    tip.hidden = false;
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${event.clientY + 18}px`;
  });
  picture.addEventListener("pointerleave", () => { tip.hidden = true; });
}

window.addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
