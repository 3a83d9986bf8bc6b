// What plotly.js draws: the surface in three dimensions and the profile along the line.

const MOST_SURFACE = 89; // points along each side of the surface: what software rendering still turns smoothly
const MOST_NAMED = 12; // kinds that an axis names
const REST = 150; // milliseconds that the cursor rests before the surface, which takes long to draw, shows it
const SERIES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]; // Okabe & Ito (2008)
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const CONFIG = { displaylogo: false, responsive: true, scrollZoom: false };

const style = () => getComputedStyle(document.querySelector(".landscape-page"));
const ink = () => style().getPropertyValue("--ls-ink").trim();
const faint = () => style().getPropertyValue("--ls-line").trim();
const font = () => ({ color: ink(), size: 0.8 * parseFloat(style().fontSize) });

// Runs the newest of many requests, one at a time, and at most so often.
function latest(run, pause = 0) {
  let wanted = null, busy = false;
  const next = async () => {
    if (busy || !wanted) return;
    busy = true;
    const args = wanted;
    wanted = null;
    try {
      await run(...args);
    } finally {
      setTimeout(() => ((busy = false), next()), pause);
    }
  };
  return (...args) => ((wanted = args), next());
}

// Runs once nothing more was asked for.
function rested(run, pause) {
  let timer = 0;
  return (...args) => (clearTimeout(timer), (timer = setTimeout(() => run(...args), pause)));
}

class SurfaceView {
  constructor(parent, pick) {
    this.panel = parent;
    element(parent, "h2", {}, "Surface");
    this.box = element(parent, "div", { class: "chart", role: "img", "aria-label": "surface in three dimensions; drag to turn" });
    this.note = element(parent, "p", { class: "note" });
    this.pick = pick;
    this.cursor = rested(latest((at) => this.moveCursor(at)), REST);
    this.render = latest((model) => this.rendered(model));
    // Turning triangles is work: none is done for what nobody sees.
    new IntersectionObserver((entries) => {
      this.seen = entries[entries.length - 1].isIntersecting;
      if (this.seen && this.waiting) this.draw(this.waiting);
    }).observe(parent);
  }

  // model: {plane, axes, label, scale, shades, unit, paths, cursor}
  draw(model) {
    const { plane, scale } = model;
    this.panel.hidden = Boolean(plane.nx < 2 || plane.ny < 2 || model.kinds || scale.empty);
    this.waiting = this.seen ? null : model;
    if (this.seen) this.render(model);
  }

  async rendered(model) {
    const { plane, axes, scale } = model;
    if (this.panel.hidden) return;
    const [xs, ys] = [thinned(plane.nx), thinned(plane.ny)], log = scale.kind === "log";
    const height = (i) => (plane.states[i] > PREDICTED || (log && plane.values[i] <= 0) ? null : plane.values[i]);
    const z = ys.map((iy) => xs.map((ix) => height(ix * plane.ny + iy)));
    this.model = { ...model, xs, ys };
    const surface = {
      type: "surface", x: xs.map((i) => axes[0].values[i]), y: ys.map((i) => axes[1].values[i]), z,
      surfacecolor: z.map((row) => row.map((v) => (v === null ? null : model.unit(v)))), cmin: 0, cmax: 1,
      colorscale: model.shades.filter((_, i) => i % 15 === 0).map((c, i, all) => [i / (all.length - 1), c]),
      showscale: false, hoverinfo: "none", contours: { x: { highlight: false }, y: { highlight: false }, z: { highlight: false } },
      lighting: { ambient: 0.75, diffuse: 0.5, specular: 0.05 },
    };
    await Plotly.react(this.box, [surface, this.ball(), ...this.pathLines()], this.layout(), CONFIG);
    if (!this.listening) {
      this.listening = true;
      this.box.on("plotly_click", ({ points }) => {
        const [point] = points;
        if (point.data.type === "surface") this.pick(this.model.xs[point.pointNumber[1]], this.model.ys[point.pointNumber[0]]);
      });
    }
    const all = xs.length === plane.nx && ys.length === plane.ny, size = (nx, ny) => `${count(nx)} × ${count(ny)}`;
    const shown = all ? "Every point is drawn."
      : `Thinned so that it turns smoothly: ${size(xs.length, ys.length)} of ${size(plane.nx, plane.ny)} points are drawn, without averaging.`;
    this.note.textContent = `${shown} ${log ? "Heights are on a log scale. " : ""}Gaps are values that are not finite or not known.`;
  }

  ball(at = this.model.cursor) {
    const { plane, axes } = this.model, i = at[0] * plane.ny + at[1];
    const there = plane.states[i] <= PREDICTED ? [plane.values[i]] : [null];
    return {
      type: "scatter3d", mode: "markers", x: [axes[0].values[at[0]]], y: [axes[1].values[at[1]]], z: there,
      marker: { size: 6, color: "#ff5a36", line: { color: "black", width: 2 } }, hoverinfo: "none", showlegend: false,
    };
  }

  async moveCursor(at) {
    if (this.panel.hidden || !this.seen || !this.model) return;
    const { x, y, z } = this.ball(at);
    await Plotly.restyle(this.box, { x: [x], y: [y], z: [z] }, [1]);
  }

  pathLines() {
    return this.model.paths.map(({ spots, heights, colour }) => ({
      type: "scatter3d", mode: "lines", x: spots.map((s) => s[0]), y: spots.map((s) => s[1]), z: heights,
      line: { color: colour, width: 6 }, hoverinfo: "none", showlegend: false,
    }));
  }

  layout() {
    const { axes, label, scale, equal } = this.model, dim = { color: ink(), gridcolor: faint(), showbackground: false, showspikes: false };
    const axis = (a) => ({ ...dim, title: { text: plain(a.label, 24) }, type: a.log ? "log" : "linear" });
    return {
      margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", uirevision: "same", showlegend: false,
      font: font(),
      scene: {
        xaxis: axis(axes[0]), yaxis: axis(axes[1]),
        zaxis: { ...dim, title: { text: plain(label, 24) }, ...heightAxis(scale) },
        aspectmode: "manual", aspectratio: { x: 1, y: equal ? proportion(axes) : 1, z: 0.7 }, uirevision: "same",
        camera: { eye: { x: 1.25, y: -1.4, z: 0.9 }, center: { x: 0, y: 0, z: -0.13 } },
      },
    };
  }
}

// On a log axis few ticks, which would run into each other.
function heightAxis(scale) {
  if (scale.kind !== "log") return { type: "linear", nticks: 6 };
  const tickvals = logTicks(scale.low, scale.high, 4);
  return { type: "log", tickmode: "array", tickvals, ticktext: tickvals.map((tick) => brief(tick)) };
}

function proportion([x, y]) {
  const length = (axis) => axis.values[axis.values.length - 1] - axis.values[0];
  return Math.min(2, Math.max(0.5, length(y) / length(x)));
}

// Indices of at most so many points, as equally far apart as whole numbers are, first and last among them.
function thinned(n) {
  const num = Math.min(n, MOST_SURFACE);
  return Array.from({ length: num }, (_, k) => Math.round((k * (n - 1)) / Math.max(1, num - 1)));
}

// The cells that a line passes, from its start to its end.
function cellsOn([[x0, y0], [x1, y1]]) {
  const num = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0));
  const part = (a, b, k) => (num ? a + Math.round(((b - a) * k) / num) : a);
  return Array.from({ length: num + 1 }, (_, k) => [part(x0, x1, k), part(y0, y1, k)]);
}

// The ticks of an axis on which kinds stand: their names, where there is room for them.
function named(kinds) {
  if (!kinds || kinds.length > MOST_NAMED) return {};
  return { tickmode: "array", tickvals: kinds.map((c) => c.value), ticktext: kinds.map((c) => plain(c.name, 16)) };
}

class ProfileView {
  constructor(parent, hover) {
    this.box = element(parent, "div", { class: "chart", role: "img", "aria-label": "profile along the line" });
    this.draw = latest((model) => this.render(model), 16);
    this.cursor = latest((at) => this.moveCursor(at), 30);
    this.hover = hover;
  }

  // model: {cells, along, along_label, curves: [{name, plane}], label, log, cursor}
  async render(model) {
    this.model = model;
    const traces = model.curves.map(({ name, plane }, k) => this.curve(name, plane, k));
    const axis = { color: ink(), gridcolor: faint(), zeroline: false, automargin: true };
    const layout = {
      margin: { l: 60, r: 12, t: 8, b: 46 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: font(), showlegend: traces.length > 1, legend: { orientation: "h", y: 1.12 }, hovermode: "closest",
      xaxis: { ...axis, title: { text: plain(model.along_label, 60) }, type: model.along_log ? "log" : "linear" },
      yaxis: { ...axis, title: { text: plain(model.label, 30) }, type: model.log ? "log" : "linear", exponentformat: "power", ...named(model.kinds) },
    };
    await Plotly.react(this.box, [...traces, this.mark(model.cursor)], layout, CONFIG);
    if (this.listening) return;
    this.listening = true;
    this.box.on("plotly_hover", ({ points }) => {
      const [point] = points;
      if (point.curveNumber < this.model.curves.length) this.hover(this.model.cells[point.pointNumber]);
    });
  }

  curve(name, plane, k) {
    const at = this.model.cells.map(([ix, iy]) => ix * plane.ny + iy);
    const measured = at.map((i) => (plane.states[i] === MEASURED ? 5 : 0));
    return {
      type: "scatter", mode: at.length <= 400 ? "lines+markers" : "lines", name: plain(name), x: this.model.along,
      y: at.map((i) => (plane.states[i] <= PREDICTED ? plane.values[i] : null)), hoverinfo: "none",
      line: { color: SERIES[k % SERIES.length], width: 2, dash: DASHES[k % DASHES.length], shape: this.model.kinds ? "hvh" : "linear" }, marker: { size: measured },
    };
  }

  // A dot where the line is nearest to the cursor, on the first curve.
  mark(at) {
    const { cells, along, curves: [{ plane }] } = this.model;
    let best = 0, distance = Infinity;
    cells.forEach(([ix, iy], k) => {
      const d = (ix - at[0]) ** 2 + (iy - at[1]) ** 2;
      if (d < distance) [best, distance] = [k, d];
    });
    const i = cells[best][0] * plane.ny + cells[best][1];
    return {
      type: "scatter", mode: "markers", x: [along[best]], y: [plane.states[i] <= PREDICTED ? plane.values[i] : null],
      marker: { size: 11, color: "#ff5a36", line: { color: "black", width: 1.5 }, symbol: distance ? "circle-open" : "circle" },
      hoverinfo: "none", showlegend: false,
    };
  }

  async moveCursor(at) {
    if (!this.model) return;
    const { x, y, marker } = this.mark(at);
    await Plotly.restyle(this.box, { x: [x], y: [y], "marker.symbol": marker.symbol }, [this.model.curves.length]);
  }
}
