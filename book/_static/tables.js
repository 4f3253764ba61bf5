// A table that is wider than its column gets denser; if that is not enough, each row becomes a card.
(() => {
  function prepare(table) {
    const heads = [...(table.tHead?.rows[table.tHead.rows.length - 1]?.cells ?? [])].map((cell) => cell.textContent.trim());
    table.setAttribute("role", "table");
    for (const row of table.rows) {
      row.setAttribute("role", "row");
      [...row.cells].forEach((cell, i) => {
        cell.setAttribute("role", row.parentElement === table.tHead ? "columnheader" : "cell");
        if (row.parentElement !== table.tHead && heads[i]) cell.dataset.label = heads[i];
      });
    }
  }
  function fit(table) {
    table.classList.remove("dense", "stacked");
    for (const more of ["dense", "stacked"]) {
      if (table.scrollWidth <= table.clientWidth + 1) return;
      table.classList.add(more);
    }
  }
  function fitAll() {
    document.querySelectorAll(".bd-article table").forEach(fit);
  }
  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".bd-article table").forEach(prepare);
    fitAll();
    window.MathJax?.startup?.promise?.then(fitAll);
    let waiting;
    window.addEventListener("resize", () => {
      clearTimeout(waiting);
      waiting = setTimeout(fitAll, 100);
    });
  });
  window.addEventListener("load", fitAll);
})();
