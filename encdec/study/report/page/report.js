"use strict";
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const upward = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", upward ? "ascending" : "descending");
      const isNumber = heading.classList.contains("number");
      const key = (row) => {
        const cell = row.cells[column];
        if (!isNumber) return cell.textContent.trim();
        return cell.dataset.order === undefined ? null : Number(cell.dataset.order);
      };
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        const order = isNumber ? a - b : a.localeCompare(b, "en", { numeric: true });
        return upward ? order : -order;
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
