"use strict";

// Sorting by click or keyboard: a heading is a button, and aria-sort tells which one rules.
(() => {
  const content = (row, column) => row.cells[column];

  function compare(a, b, numeric, direction) {
    if (!numeric) {
      return direction * a.textContent.localeCompare(b.textContent, "en", { numeric: true });
    }
    const [x, y] = [a.dataset.sort, b.dataset.sort];
    if (x === "" || y === "") return (x === "") - (y === ""); // no figure: last, either way
    return direction * (Number(x) - Number(y));
  }

  function sort(table, heading) {
    const other = { ascending: "descending", descending: "ascending" };
    const order = other[heading.getAttribute("aria-sort")] ?? heading.dataset.first;
    for (const th of table.tHead.rows[0].cells) th.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    const column = heading.cellIndex;
    const numeric = "numeric" in heading.dataset;
    const figure = "figure" in heading.dataset;
    const direction = order === "ascending" ? 1 : -1;
    const incomplete = (row) => figure && "incomplete" in row.dataset;
    const body = table.tBodies[0];
    const rows = [...body.rows].sort(
      (a, b) =>
        incomplete(a) - incomplete(b) ||
        compare(content(a, column), content(b, column), numeric, direction),
    );
    body.append(...rows);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      heading.querySelector("button").addEventListener("click", () => sort(table, heading));
    }
  }
})();
