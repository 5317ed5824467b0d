"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const element = name => document.getElementById(name);

// Okabe and Ito's colours, as far as they can be seen on white and on black, and a shape each: neither is needed alone. Peers are outlines.
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b57d00"];
const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "hexagon", "star-triangle-up", "bowtie", "pentagon"];
const PRINTED = 680;  // px between the margins of a sheet of A4, borders off

const axis = (axes, key) => axes.find(one => one.key === key);
// plotly reads names as HTML
const plain = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function options(select, axes, keys) {
  const before = select.value;
  select.replaceChildren(...keys.map(key => new Option(axis(axes, key).title, key, false, key === before)));
}

function traces(batch, x, y, top) {
  const points = batch.points.map((point, index) => ({ ...point, index, x: point.at[x], y: point.at[y] }));
  const drawn = points.filter(point => typeof point.x === "number" && (typeof point.y === "number" || point.y === "inf"));
  const height = point => point.y === "inf" ? top : point.y;
  const trace = (name, shown, marker, more) => ({
    name, type: "scatter", mode: "markers", marker: { size: 11, ...marker },
    x: shown.map(point => point.x), y: shown.map(height), text: shown.map(point => point.label), customdata: shown.map(point => point.index),
    hovertemplate: "%{text}<extra></extra>", ...more,
  });
  const made = [];
  const front = (batch.fronts[`${x} ${y}`] || []).map(index => points[index]);
  if (front.length > 1) {
    made.push({ name: "Pareto front", type: "scatter", mode: "lines", line: { color: color("--soft"), width: 1.5, dash: "dot", shape: axis(data.across, x).lower ? "hv" : "vh" }, hoverinfo: "skip",
      x: front.map(point => point.x), y: front.map(point => point.y) });
  }
  const fewer = drawn.filter(point => point.kind === "fewer").sort((a, b) => a.x - b.x);
  if (fewer.length) {
    made.push(trace("fewer steps", fewer, { size: 7, symbol: "circle", color: color("--grey") }, { mode: "lines+markers", line: { color: color("--grey"), width: 1.5 } }));
  }
  const full = drawn.filter(point => point.kind === "full");
  if (full.length) made.push(trace("full", full, { size: 15, symbol: "star", color: color("--ink") }));
  // of all lanes, so that a shape stays its method's whatever the axes leave out
  const sweeps = kind => [...new Set(batch.points.filter(point => point.kind === kind).map(point => point.sweep))];
  const policies = sweeps("policy").length;
  for (const kind of ["policy", "peer"]) {
    sweeps(kind).forEach((sweep, index) => {
      const shown = drawn.filter(point => point.kind === kind && point.sweep === sweep);
      if (!shown.length) return;
      const place = index + (kind === "peer" ? policies : 0);
      const symbol = SHAPES[place % SHAPES.length] + (kind === "peer" ? "-open" : "");
      const bars = x === "speedup" && shown.every(point => typeof point.quartiles[0] === "number");
      made.push(trace(plain(kind === "peer" ? `${sweep} (peer)` : sweep), shown,
        { symbol, color: COLORS[place % COLORS.length], line: { width: kind === "peer" ? 2 : 1, color: kind === "peer" ? COLORS[place % COLORS.length] : color("--paper") } },
        bars ? { error_x: { type: "data", symmetric: false, thickness: 1, width: 3, array: shown.map(p => p.quartiles[1] - p.x), arrayminus: shown.map(p => p.x - p.quartiles[0]) } } : {}));
    });
  }
  return made;
}

function draw(printed = false) {
  const batch = data.batches[element("batch").value], x = element("across").value, y = element("up").value;
  const ys = batch.points.map(point => point.at[y]).filter(value => typeof value === "number");
  const same = batch.points.filter(point => point.at[y] === "inf");
  const spread = Math.max(...ys) - Math.min(...ys) || 1;
  const top = Math.max(...ys) + 0.14 * spread;
  const narrow = !printed && element("plot").clientWidth < 600;
  const across = axis(data.across, x), up = axis(data.up, y);
  const made = traces(batch, x, y, top);
  // the legend is below: more of it makes the picture higher, not its axes lower
  const area = printed ? 270 : narrow ? 320 : 440, below = 60;
  const height = area + below + 20 * (narrow ? made.length : Math.ceil(made.length / 4)) + 12;
  const better = one => one.lower ? "lower is better" : "higher is better";
  const layout = {
    autosize: !printed, height, ...(printed ? { width: PRINTED } : {}),
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", showlegend: true,
    font: { family: "system-ui, -apple-system, Segoe UI, Roboto, Liberation Sans, sans-serif", size: narrow || printed ? 11 : 13, color: printed ? "#000" : color("--ink") },
    margin: { l: narrow ? 44 : 62, r: 12, t: 12, b: 48 },
    legend: { orientation: "h", y: -below / area, yanchor: "top", x: 0, itemwidth: 30 },
    hoverlabel: { align: "left", bgcolor: "#ffffff", bordercolor: "#5c666e", font: { color: "#1d2327", size: narrow ? 11 : 12 } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--soft"), activecolor: color("--ink") },
    xaxis: { title: { text: narrow ? across.title : `${across.title}, ${better(across)}`, standoff: 8 }, gridcolor: color("--line"), zeroline: false, automargin: true },
    yaxis: { title: { text: narrow ? up.title : `${up.title}, ${better(up)}`, standoff: 6 }, gridcolor: color("--line"), zeroline: false, automargin: true },
    shapes: same.length ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: top, y1: top, layer: "below", line: { color: color("--grey"), width: 1, dash: "dash" } }] : [],
    annotations: same.length ? [{ xref: "paper", x: 0, xanchor: "left", y: top, yanchor: "bottom", showarrow: false, text: "the same as full computation", xshift: 4 }] : [],
  };
  element("note").textContent = "Nothing reaches what the Pareto front joins on both axes and beats it on one. Above the line of fewer steps a policy pays; shapes without filling are peers."
    + (x === "speedup" ? " Bars across are quartiles." : "");
  return Plotly.react("plot", made, layout, { responsive: !printed, displaylogo: false, displayModeBar: narrow || printed ? false : "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
}

function choose(point) {
  const box = element("chosen"), name = document.createElement("b"), text = document.createElement("div"), settings = document.createElement("div");
  name.textContent = point.name;
  text.textContent = point.sentence;
  settings.textContent = Object.entries(point.settings).map(([key, value]) => `${key} = ${value}`).join(", ");
  box.replaceChildren(name, text, settings);
}

function start() {
  const fill = () => {
    options(element("up"), data.up, data.batches[element("batch").value].up);
    const known = key => data.batches[element("batch").value].points.some(point => point.kind !== "full" && typeof point.at[key] === "number");
    options(element("across"), data.across, data.across.map(one => one.key).filter(known));
  };
  fill();
  if ([...element("across").options].some(one => one.value === "cost")) element("across").value = "cost";
  draw();
  for (const name of ["plotly_hover", "plotly_click"]) {
    element("plot").on(name, event => choose(data.batches[element("batch").value].points[event.points[0].customdata]));
  }
  element("batch").addEventListener("change", () => { fill(); draw(); });
  for (const name of ["up", "across"]) element(name).addEventListener("change", () => draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  addEventListener("beforeprint", () => draw(true));
  addEventListener("afterprint", () => draw());
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, index) => {
    const cell = row.cells[index];
    if (cell.dataset.value === undefined) return cell.textContent;
    return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
  };
  heads.forEach((head, index) => head.querySelector("button")?.addEventListener("click", () => {
    const words = index < 2;
    const down = words ? head.getAttribute("aria-sort") === "ascending" : head.getAttribute("aria-sort") !== "descending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = (a, b) => {
      if (words) return a.localeCompare(b, "en", { numeric: true });
      return a === b ? 0 : a - b;  // two infinities are equal
    };
    const rows = [...body.rows].map(row => [value(row, index), row]);
    // what has no number goes last either way
    rows.sort(([a], [b]) => Number.isNaN(a) - Number.isNaN(b) || (Number.isNaN(a) ? 0 : down ? compare(b, a) : compare(a, b)));
    body.append(...rows.map(([, row]) => row));
  }));
}

for (const table of document.querySelectorAll("table.lanes")) sortable(table);
start();
