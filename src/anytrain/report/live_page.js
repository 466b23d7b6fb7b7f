// Keeps the page of runs in progress as it is now, without moving what is being read.
const colours = JSON.parse(document.getElementById("dark").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const every = 1000 * Number(document.querySelector("main").dataset.every);
const config = {
  responsive: true,
  displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};
let state = JSON.parse(document.getElementById("state").textContent);
const drawn = new Map(); // name -> what was last drawn, as text

// Where it is narrow, a legend below takes the place of the names at the lines.
function fitted(layout, width) {
  const names = layout.annotations?.filter((note) => note.name === "label") ?? [];
  if (width >= 440 || !names.length) return layout;
  layout.annotations = layout.annotations.filter((note) => note.name !== "label");
  layout.showlegend = true;
  layout.legend = { orientation: "h", x: 0, xanchor: "left", y: -0.26, yanchor: "top" };
  layout.margin.r = 12;
  layout.margin.b += 66;
  layout.height += 66;
  return layout;
}

function draw() {
  for (const [name, figure] of Object.entries(state.charts)) {
    const place = document.getElementById(`plot-${name}`);
    if (!place) continue;
    const light = JSON.stringify(figure);
    const text = dark.matches ? light.replace(/#[0-9a-f]{6}/g, (c) => colours[c] ?? c) : light;
    const key = `${place.clientWidth} ${text}`;
    if (drawn.get(name) === key) continue;
    drawn.set(name, key);
    const { data, layout } = JSON.parse(text);
    layout.uirevision = "kept"; // what was zoomed into stays
    Plotly.react(place, data, fitted(layout, place.clientWidth), config);
  }
}

// A part whose text is the same stays untouched: a selection in it is not lost.
function show(next) {
  for (const [id, html] of Object.entries(next.parts)) {
    if (html === state.parts[id]) continue;
    const place = document.getElementById(id);
    const top = place.getBoundingClientRect();
    place.innerHTML = html;
    const grown = place.offsetHeight - top.height;
    if (top.bottom <= 0 && grown) scrollBy(0, grown); // above what is read
    if (id.startsWith("frames")) drawn.clear();
  }
  state = next;
  draw();
}

async function look() {
  const seen = document.getElementById("seen");
  try {
    const answer = await fetch("/state", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    show(await answer.json());
    document.documentElement.classList.remove("stale");
    seen.textContent = `As of ${new Date().toLocaleTimeString()}.`;
  } catch {
    document.documentElement.classList.add("stale");
    if (!seen.textContent.startsWith("No answer")) {
      seen.textContent = `No answer since ${new Date().toLocaleTimeString()}: has it ended?`;
    }
  }
  setTimeout(look, every);
}

draw();
setTimeout(look, every);
dark.addEventListener("change", draw);
addEventListener("resize", draw);
