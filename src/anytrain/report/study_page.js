// The charts, in the colours of the page and as wide as it is; tables that sort by their headers.
const charts = document.getElementById("charts").textContent;
const colours = JSON.parse(document.getElementById("dark").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const config = {
  responsive: true,
  displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};

// Where it is narrow, a legend below takes the place of the names at the lines.
function fitted(layout, width) {
  if (width >= 440) return layout;
  if (layout.barmode) layout.xaxis.range[1] *= 1.2; // the numbers at the ends
  const names = layout.annotations?.filter((note) => note.name === "label") ?? [];
  if (!names.length) return layout;
  const below = layout.margin.b / (layout.height - layout.margin.t - layout.margin.b);
  const rows = Math.ceil(names.length / 2);
  layout.annotations = layout.annotations.filter((note) => note.name !== "label");
  layout.showlegend = true;
  layout.legend = { orientation: "h", x: 0, xanchor: "left", y: -below, yanchor: "top" };
  layout.margin.r = 24;
  layout.margin.b += 22 * rows;
  layout.height += 22 * rows;
  return layout;
}

function draw() {
  const text = dark.matches ? charts.replace(/#[0-9a-f]{6}/g, (c) => colours[c] ?? c) : charts;
  for (const [name, figure] of Object.entries(JSON.parse(text))) {
    const place = document.getElementById(`plot-${name}`);
    Plotly.react(place, figure.data, fitted(figure.layout, place.clientWidth), config);
  }
}

function sort(header) {
  const table = header.closest("table");
  const column = [...header.parentNode.children].indexOf(header);
  const up = header.getAttribute("aria-sort") !== "ascending";
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    const order = x - y; // NaN unless both are numbers
    return (up ? 1 : -1) * (Number.isNaN(order) ? x.localeCompare(y) : order);
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
}

draw();
dark.addEventListener("change", draw);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) draw();
  width = innerWidth;
});
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button.parentNode));
}
