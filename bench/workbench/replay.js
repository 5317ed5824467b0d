"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const element = name => document.getElementById(name);
// plotly reads names as HTML
const plain = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b57d00", "#56b4e9"];
const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "hexagon", "bowtie"];
const TITLES = { psnr_mean: "promised PSNR (dB), higher is better", psnr_worst: "promised PSNR of the worst sample (dB), higher is better",
  error_mean: "relative error, lower is better", error_worst: "relative error of the worst sample, lower is better", final_error_mean: "predicted error of the final latent, lower is better" };

function layout(across, up, more = {}) {
  return {
    autosize: true, height: 440, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: { family: "system-ui, -apple-system, Segoe UI, Roboto, Liberation Sans, sans-serif", size: 13, color: color("--ink") },
    margin: { l: 66, r: 12, t: 12, b: 48 }, legend: { orientation: "h", y: -0.16, yanchor: "top", x: 0 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--soft"), activecolor: color("--ink") },
    hoverlabel: { align: "left", bgcolor: "#ffffff", bordercolor: "#5c666e", font: { color: "#1d2327", size: 12 } },
    xaxis: { gridcolor: color("--line"), zeroline: false, automargin: true, ...across, title: { text: across.title, standoff: 8 } },
    yaxis: { gridcolor: color("--line"), zeroline: false, automargin: true, ...up, title: { text: up.title, standoff: 6 } }, ...more,
  };
}
const config = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
const draw = (name, traces, shape) => Plotly.react(name, traces, shape, config);

function scores() {
  const key = element("up").value, groups = [...new Set(data.scores.map(score => score.predictor))], made = [];
  groups.forEach((predictor, place) => {
    for (const kind of ["schedule", "gate"]) {
      const shown = data.scores.filter(score => score.predictor === predictor && score.kind === kind && typeof score[key] === "number");
      if (!shown.length) continue;
      made.push({ type: "scatter", mode: "markers", name: plain(kind === "gate" ? `${predictor} (gates)` : predictor),
        x: shown.map(score => score.computed), y: shown.map(score => score[key]), text: shown.map(score => plain(score.name)),
        hovertemplate: "%{text}<br>%{x} steps, %{y:.4g}<extra></extra>",
        marker: { size: 9, color: COLORS[place % COLORS.length], symbol: SHAPES[place % SHAPES.length] + (kind === "gate" ? "-open" : "") } });
    }
  });
  const log = !key.startsWith("psnr");
  draw("scores", made, layout({ title: "computed steps" }, { title: TITLES[key], type: log ? "log" : "linear", exponentformat: "power" }, { showlegend: true }));
}

function gaps() {
  const found = data.gaps[element("predictor").value];
  const logs = found.error.map(row => row.map(value => value ? Math.log10(value) : null));
  const known = logs.flat().filter(value => value !== null);
  const low = Math.floor(Math.min(...known)), high = Math.ceil(Math.max(...known)), ticks = [];
  for (let tick = low; tick <= high; tick++) ticks.push(tick);
  draw("gaps", [{ type: "heatmap", z: logs, y: found.error.map((_, g) => g + 1), customdata: found.error, colorscale: "Viridis",
    hovertemplate: "step %{x}, gap %{y}: %{customdata:.4g}<extra></extra>",
    colorbar: { thickness: 12, tickvals: ticks, ticktext: ticks.map(tick => `1e${tick}`), title: { text: "error", side: "right" } } }],
    layout({ title: "step that is forecast", showgrid: false }, { title: "gap between anchors, steps", showgrid: false, dtick: 1 }));
}

function evidence() {
  const gate = data.gates[element("gate").value];
  const part = (accepted, name, marker) => {
    const chosen = gate.accepted.map((is, i) => is === accepted ? i : -1).filter(i => i >= 0);
    return { type: "scatter", mode: "markers", name, marker, x: chosen.map(i => gate.error[i]), y: chosen.map(i => gate.truth[i]), text: chosen.map(i => `step ${gate.step[i]}`),
      hovertemplate: "%{text}<br>evidence %{x:.4g}, truth %{y:.4g}<extra></extra>" };
  };
  const axis = values => ({ type: values.every(value => value > 0) ? "log" : "linear", exponentformat: "power" });
  const lines = gate.threshold.length ? [gate.threshold[0], gate.threshold[gate.threshold.length - 1]] : [];
  draw("evidence", [part(true, "accepted", { size: 7, color: COLORS[0] }), part(false, "rejected", { size: 8, color: COLORS[1], symbol: "x-thin-open" })],
    layout({ title: "the gate's error", ...axis(gate.error) }, { title: "true relative error", ...axis(gate.truth) }, { showlegend: true,
      shapes: [...new Set(lines)].map(x => ({ type: "line", yref: "paper", y0: 0, y1: 1, x0: x, x1: x, line: { color: color("--grey"), width: 1.5 } })) }));
  const ranked = gate.by_step.filter(one => one.rank !== null);
  draw("ranks", [{ type: "bar", x: ranked.map(one => one.step), y: ranked.map(one => one.rank), marker: { color: COLORS[0] }, hovertemplate: "step %{x}: %{y:.2f}<extra></extra>" }],
    layout({ title: "step" }, { title: "Spearman over the samples", range: [-1, 1] }, { height: 260 }));
  element("rank").textContent = gate.rank === null ? "" : `Spearman's correlation over all ${gate.error.length} drafts: ${gate.rank.toFixed(2)}.`;
}

function sortable(table) {
  const body = table.tBodies[0], value = (row, index) => row.cells[index].textContent === "inf" ? Infinity : parseFloat(row.cells[index].textContent);
  [...table.tHead.rows[0].cells].forEach((head, index) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending", sign = down ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const words = index === 0, rows = [...body.rows];
    rows.sort((a, b) => words ? sign * a.cells[0].textContent.localeCompare(b.cells[0].textContent) : isNaN(value(a, index)) - isNaN(value(b, index)) || sign * (value(a, index) - value(b, index)));
    body.append(...rows);
  }));
}

const fill = (name, found) => element(name).replaceChildren(...found.map((one, i) => new Option(one.name, i)));
function all() {
  scores();
  if (data.gaps.length) gaps();
  if (data.gates.length) evidence();
}
if (data.gaps.length) {
  fill("predictor", data.gaps);
  element("predictor").addEventListener("change", gaps);
}
if (data.gates.length) {
  fill("gate", data.gates);
  element("gate").addEventListener("change", evidence);
}
element("up").addEventListener("change", scores);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
sortable(element("table"));
all();
