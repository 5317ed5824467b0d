"use strict";
const PRINTED = { width: 680, height: 380 };  // px between the margins of a sheet of A4

function chart(figure) {
  const { first, others } = JSON.parse(figure.querySelector("script").textContent);
  const plot = figure.querySelector(".plot"), told = figure.querySelector(".told"), choices = [...figure.querySelectorAll("select")];
  const config = { responsive: true, displaylogo: false, displayModeBar: innerWidth < 720 ? false : "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], toImageButtonOptions: { format: "svg" } };
  const draw = size => {
    const { data, layout } = others[choices.map(choice => choice.value).join(" ")] || first;
    return Plotly.react(plot, first.data.map((trace, i) => ({ ...trace, ...data[i] })), { ...structuredClone({ ...first.layout, ...layout }), ...size }, config);
  };
  draw();
  for (const name of told ? ["plotly_hover", "plotly_click"] : []) plot.on(name, event => { told.textContent = told.dataset.said = event.points[0].customdata; });
  return draw;
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, index) => { const cell = row.cells[index], { value } = cell.dataset; return value === undefined ? cell.textContent : value === "" ? NaN : Number(value); };
  const compare = (a, b) => typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a === b ? 0 : a - b;  // two infinities are equal
  heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => {
    const words = typeof value(table.querySelector("tbody tr:not(.head)"), index) === "string";
    const now = head.getAttribute("aria-sort"), down = words ? now === "ascending" : now !== "descending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    for (const body of table.tBodies) {
      const rows = [...body.querySelectorAll("tr:not(.head)")].map(row => [value(row, index), row]);
      // what has no number goes last either way
      rows.sort(([a], [b]) => Number.isNaN(a) - Number.isNaN(b) || (Number.isNaN(a) ? 0 : down ? compare(b, a) : compare(a, b)));
      body.append(...rows.map(([, row]) => row));
    }
  }));
}

const draws = [...document.querySelectorAll(".chart")].map(chart);
// what is chosen in one chart is chosen in all that offer it
addEventListener("change", ({ target }) => {
  for (const other of document.getElementsByName(target.name)) if ([...other.options].some(option => option.value === target.value)) other.value = target.value;
  for (const draw of draws) draw();
});
addEventListener("beforeprint", () => draws.forEach(draw => draw(PRINTED)));
addEventListener("afterprint", () => draws.forEach(draw => draw()));
document.querySelectorAll("table").forEach(sortable);
