"use strict";

(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const AXES = { step: "steps (batches)", cost: "forward-equivalents", seconds: "seconds of training" };
  const COLOURS = 10;
  const REACH = 40; // pixels beyond its end within which a curve can still be read
  const ERRORS = 1; // Vega's level: its warnings on empty data are no news here
  const state = { axis: "step", mode: "mean", off: new Set(), filter: "", focus: "", window: null };
  const charts = []; // { plot, key, view, curves, cursor }
  const dots = { plot: document.querySelector("[data-dots]"), view: null };

  // ---- what is visible -------------------------------------------------------------------

  const shown = (name) =>
    !state.off.has(name) && name.toLowerCase().includes(state.filter.toLowerCase());
  const hidden = () => page.methods.filter((name) => !shown(name));
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function theme() {
    const text = { labelColor: css("--muted"), titleColor: css("--muted"), labelFontSize: 12 };
    const line = { domainColor: css("--line"), tickColor: css("--line"), gridColor: css("--grid") };
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: "transparent",
      font,
      axis: { ...text, ...line, titleFontSize: 12, titleFontWeight: "normal", titlePadding: 8 },
      axisY: { domain: false, ticks: false, labelPadding: 6, tickCount: 5 },
      view: { stroke: null },
      rule: { color: css("--ink") },
      range: { category: Array.from({ length: COLOURS }, (_, i) => css(`--c${i}`)) },
    };
  }

  // ---- drawing ---------------------------------------------------------------------------

  function rows(curve) {
    const name = page.methods[curve.method];
    const x = curve[state.axis];
    const row = (value, i) => ({
      method: name, run: curve.run, seed: curve.seed, x: x[i], value,
      low: curve.low?.[i], high: curve.high?.[i], n: curve.n?.[i],
      broken: i === x.length - 1 ? curve.broken : null,
    });
    return curve.value.map(row).filter((r) => r.x !== null && r.value !== null);
  }

  function curvesOf(key) {
    const data = page.charts[key];
    const positive = (list) => (data.log ? list.filter((r) => r.value > 0) : list);
    const curves = (list) => list.map((c) => positive(rows(c))).filter((c) => c.length);
    return { mean: curves(data.means), seeds: curves(data.seeds) };
  }

  async function embed(plot, spec, values) {
    for (const param of spec.params) param.value = values[param.name] ?? param.value ?? null;
    const options = {
      mode: "vega-lite", actions: false, renderer: "svg", ast: true, // ast: expressions are interpreted, not eval'ed
      defaultStyle: false, config: theme(), logLevel: ERRORS, tooltip: { disableDefaultStyle: true },
    };
    return (await vegaEmbed(plot, spec, options)).view;
  }

  async function draw(chart) {
    chart.curves = curvesOf(chart.key);
    chart.cursor = null;
    const spec = structuredClone(page.charts[chart.key].spec);
    for (const layer of spec.layer) {
      layer.encoding.x.title = AXES[state.axis];
      layer.encoding.x.axis.format = range(chart)[1] < 1e5 ? ",~f" : "~s";
    }
    spec.datasets = {
      means: chart.curves.mean.flat(), seeds: chart.curves.seeds.flat(), cursor: [],
    };
    chart.view?.finalize();
    chart.view = await embed(chart.plot, spec, signals(chart));
    addReadout(chart);
  }

  async function drawDots() {
    if (!dots.plot) return;
    const spec = structuredClone(page.dots.spec);
    const named = (row) => ({ ...row, method: page.methods[row.method] });
    spec.datasets = { dots: page.dots.seeds.map(named), dot_means: page.dots.means.map(named) };
    dots.view?.finalize();
    dots.view = await embed(dots.plot, spec, { hidden: hidden(), focus: state.focus });
  }

  const redraw = () => Promise.all([drawDots(), ...charts.map(draw)]);

  // ---- steering without drawing anew ------------------------------------------------------

  function visibleCurves(chart) {
    return chart.curves[state.mode].filter((curve) => shown(curve[0].method));
  }

  function signals(chart) {
    const [x_min, x_max] = state.window ?? [null, null];
    const [y_min, y_max] = extent(chart);
    return { hidden: hidden(), mode: state.mode, focus: state.focus, x_min, x_max, y_min, y_max };
  }

  // The y scale fits what is in the window; without one, an accuracy's steep start is left out.
  function extent(chart) {
    const linear = !page.charts[chart.key].log;
    if (!state.window && !linear) return [null, null];
    let [from, to] = state.window ?? range(chart);
    if (!state.window) from += 0.2 * (to - from);
    const inside = visibleCurves(chart).flat().filter((r) => r.x >= from && r.x <= to);
    const log = page.charts[chart.key].log;
    const all = inside.flatMap((r) => (r.low > 0 || !log ? [r.value, r.low, r.high] : [r.value]));
    const values = all.filter((v) => v !== undefined && v !== null);
    if (!values.length) return [null, null];
    const low = values.reduce((a, b) => Math.min(a, b));
    const high = values.reduce((a, b) => Math.max(a, b));
    if (log) return [low / (high / low) ** 0.04 / 1.01, high * (high / low) ** 0.04 * 1.01];
    const pad = 0.04 * (high - low) || 0.01 * Math.abs(high) || 0.01;
    return [low - pad, high + pad];
  }

  function apply(view, values) {
    if (!view) return;
    for (const [name, value] of Object.entries(values)) view.signal(name, value);
    view.runAsync();
  }

  function steer() {
    for (const chart of charts) apply(chart.view, signals(chart));
    apply(dots.view, { hidden: hidden(), focus: state.focus });
    for (const key of document.querySelectorAll(".key")) {
      key.setAttribute("aria-pressed", String(!state.off.has(page.methods[key.dataset.method])));
      key.hidden = !page.methods[key.dataset.method].toLowerCase().includes(state.filter.toLowerCase());
    }
    for (const row of document.querySelectorAll("#methods tbody tr")) {
      const name = page.methods[row.dataset.method];
      row.hidden = !name.toLowerCase().includes(state.filter.toLowerCase());
      row.classList.toggle("off", state.off.has(name));
    }
  }

  function focus(name) {
    if (state.focus === name) return;
    state.focus = name;
    for (const chart of charts) apply(chart.view, { focus: name });
    apply(dots.view, { focus: name });
  }

  // ---- zoom ------------------------------------------------------------------------------

  function range(...some) {
    const drawn = (some.length ? some : charts).filter((c) => c.curves);
    const all = drawn.flatMap((c) => visibleCurves(c).flatMap((k) => [k[0].x, k[k.length - 1].x]));
    return all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
  }

  function zoomTo(from, to) {
    const [low, high] = range();
    const window = [Math.max(low, Math.min(from, to)), Math.min(high, Math.max(from, to))];
    const whole = window[0] <= low && window[1] >= high;
    if (!whole && window[1] - window[0] < 1e-6 * (high - low)) return;
    state.window = whole ? null : window;
    for (const chart of charts) hideReadout(chart);
    steer();
  }

  function zoomBy(factor, around) {
    const [from, to] = state.window ?? range();
    const at = around ?? (from + to) / 2;
    zoomTo(at - (at - from) * factor, at + (to - at) * factor);
  }

  // ---- reading a chart -------------------------------------------------------------------

  const nearestIndex = (curve, x) => {
    let [low, high] = [0, curve.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (curve[middle].x < x) low = middle;
      else high = middle;
    }
    return Math.abs(curve[low].x - x) <= Math.abs(curve[high].x - x) ? low : high;
  };

  function addReadout(chart) {
    chart.readout = document.createElement("div");
    chart.readout.className = "readout";
    chart.readout.hidden = true;
    chart.plot.append(chart.readout);
  }

  function hideReadout(chart) {
    if (!chart.view || !chart.cursor) return;
    chart.cursor = null;
    chart.readout.hidden = true;
    chart.view.data("cursor", []).runAsync();
    focus("");
  }

  // Place in the plot's own pixels, from the view that drew it.
  const left = (chart) => chart.view.origin()[0] + (chart.view.padding().left ?? 0);
  const pixelX = (chart, x) => chart.view.scale("x")(x);
  const pixelY = (chart, value) => chart.view.scale("y")(value);

  function read(chart, x, y = null, keep = null) {
    const at = pixelX(chart, x);
    const runsHere = (curve) =>
      pixelX(chart, curve[0].x) - REACH <= at && at <= pixelX(chart, curve[curve.length - 1].x) + REACH;
    const here = visibleCurves(chart)
      .filter(runsHere)
      .map((curve) => curve[nearestIndex(curve, x)])
      .filter((row) => inWindow(row.x));
    if (!here.length) return hideReadout(chart);
    here.sort((a, b) => b.value - a.value);
    const distance = (row) => Math.abs(pixelY(chart, row.value) - y);
    let nearest = here.find((row) => keep !== null && identity(row) === keep) ?? here[0];
    if (y !== null) nearest = here.reduce((a, b) => (distance(b) < distance(a) ? b : a));
    chart.cursor = { x: nearest.x, series: identity(nearest), order: here.map(identity) };
    const points = here.map((row) => ({ ...row, rule: row === nearest }));
    chart.view.data("cursor", points).runAsync();
    showReadout(chart, here, nearest);
    focus(nearest.method);
    return nearest;
  }

  const identity = (row) => row.run ?? row.method;
  const inWindow = (x) => !state.window || (x >= state.window[0] && x <= state.window[1]);
  const decimals = (most) => new Intl.NumberFormat("en", { maximumFractionDigits: most });
  const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 2 });
  const place = (x) => (state.axis === "seconds" ? decimals(2) : decimals(0)).format(x);

  function valueText(chart, value) {
    if (page.charts[chart.key].format.includes("%")) return percent.format(value);
    return String(Number(value.toPrecision(4)));
  }

  function showReadout(chart, here, nearest) {
    const MOST = 10;
    const at = here.indexOf(nearest);
    const from = Math.max(0, Math.min(at - MOST / 2, here.length - MOST));
    const table = document.createElement("table");
    for (const row of here.slice(from, from + MOST)) {
      const tr = table.insertRow();
      tr.classList.toggle("nearest", row === nearest);
      const swatch = document.querySelectorAll(".key .swatch")[page.methods.indexOf(row.method)];
      tr.insertCell().append(swatch.cloneNode(true));
      tr.insertCell().textContent = state.mode === "mean" ? row.method : `${row.method}, seed ${row.seed}`;
      tr.insertCell().textContent = valueText(chart, row.value);
    }
    const where = document.createElement("p");
    where.textContent = `${AXES[state.axis]}: ${place(nearest.x)}`;
    chart.readout.replaceChildren(where, table);
    chart.readout.hidden = false;
    const x = left(chart) + pixelX(chart, nearest.x);
    const [room, width] = [chart.plot.clientWidth, chart.readout.offsetWidth];
    const beside = x > room / 2 ? x - 14 - width : x + 14;
    chart.readout.style.left = `${Math.max(0, Math.min(beside, room - width))}px`;
    chart.readout.style.top = "4px";
  }

  function say(chart, row) {
    const seeds = state.mode === "mean" ? `mean of ${row.n} runs` : `seed ${row.seed}`;
    chart.plot.parentElement.querySelector("[aria-live]").textContent =
      `${row.method}, ${AXES[state.axis]} ${place(row.x)}: ${valueText(chart, row.value)}, ${seeds}`;
  }

  // ---- pointer and keyboard on a chart ---------------------------------------------------

  function pointer(chart) {
    const { plot } = chart;
    let start = null;
    let brush = null;
    const spot = (event) => {
      const box = plot.getBoundingClientRect();
      const inner = event.clientX - box.left - left(chart);
      const clamped = Math.max(0, Math.min(chart.view.width(), inner));
      const top = chart.view.origin()[1] + (chart.view.padding().top ?? 0);
      return { px: clamped, x: chart.view.scale("x").invert(clamped), y: event.clientY - box.top - top };
    };
    plot.addEventListener("pointerdown", (event) => {
      if (!chart.view || event.button !== 0) return;
      const at = spot(event);
      if (event.pointerType === "touch") return void read(chart, at.x, at.y); // a finger scrolls
      start = at;
      plot.setPointerCapture(event.pointerId);
    });
    plot.addEventListener("pointermove", (event) => {
      if (!chart.view) return;
      const at = spot(event);
      if (start && Math.abs(at.px - start.px) > 4) {
        hideReadout(chart);
        if (!brush) plot.append((brush = Object.assign(document.createElement("div"), { className: "brush" })));
        brush.style.left = `${left(chart) + Math.min(at.px, start.px)}px`;
        brush.style.width = `${Math.abs(at.px - start.px)}px`;
        brush.style.top = "0";
        brush.style.height = `${chart.view.height()}px`;
      } else if (!start) read(chart, at.x, at.y);
    });
    plot.addEventListener("pointerup", (event) => {
      const from = start;
      start = null;
      if (!brush) return;
      brush.remove();
      brush = null;
      zoomTo(from.x, spot(event).x);
    });
    plot.addEventListener("pointercancel", () => {
      start = null;
      brush?.remove();
      brush = null;
    });
    plot.addEventListener("pointerleave", () => { if (!start) hideReadout(chart); });
    plot.addEventListener("dblclick", () => zoomTo(...range()));
  }

  function keyboard(chart) {
    const { plot } = chart;
    const along = (step) => {
      const curve = visibleCurves(chart).find((c) => identity(c[0]) === chart.cursor.series);
      const at = Math.max(0, Math.min(curve.length - 1, nearestIndex(curve, chart.cursor.x) + step));
      return read(chart, curve[at].x, null, chart.cursor.series);
    };
    const across = (step) => {
      const { order, series, x } = chart.cursor;
      const at = Math.max(0, Math.min(order.length - 1, order.indexOf(series) + step));
      return read(chart, x, null, order[at]);
    };
    plot.addEventListener("keydown", (event) => {
      if (!chart.view || event.ctrlKey || event.metaKey || event.altKey) return;
      const step = event.shiftKey ? 10 : 1;
      const zoom = { "+": 0.5, "=": 0.5, "-": 2 }[event.key];
      const move = { ArrowLeft: [along, -step], ArrowRight: [along, step], ArrowUp: [across, -1], ArrowDown: [across, 1] }[event.key];
      if (zoom) zoomBy(zoom, chart.cursor?.x);
      else if (event.key === "0" || event.key === "Escape") zoomTo(...range());
      else if (move) {
        const [from, to] = state.window ?? range();
        const row = chart.cursor ? move[0](move[1]) : read(chart, (from + to) / 2);
        if (row) say(chart, row);
      } else return;
      event.preventDefault();
    });
    plot.addEventListener("blur", () => hideReadout(chart));
  }

  // ---- controls --------------------------------------------------------------------------

  function controls() {
    for (const key of document.querySelectorAll(".key")) {
      const name = page.methods[key.dataset.method];
      key.addEventListener("click", () => {
        if (!state.off.delete(name)) state.off.add(name);
        steer();
      });
      key.addEventListener("pointerenter", () => focus(shown(name) ? name : ""));
      key.addEventListener("pointerleave", () => focus(""));
    }
    for (const row of document.querySelectorAll("#methods tbody tr")) {
      const name = page.methods[row.dataset.method];
      row.addEventListener("pointerenter", () => focus(shown(name) ? name : ""));
      row.addEventListener("pointerleave", () => focus(""));
    }
    const on = (id, action) => document.getElementById(id).addEventListener("click", action);
    on("all", () => { state.off.clear(); steer(); });
    on("none", () => { state.off = new Set(page.methods); steer(); });
    on("zoom-in", () => zoomBy(0.5));
    on("zoom-out", () => zoomBy(2));
    on("zoom-reset", () => zoomTo(...range()));
    document.getElementById("filter").addEventListener("input", (event) => {
      state.filter = event.target.value.trim();
      steer();
    });
    for (const input of document.querySelectorAll("input[name=mode]")) {
      input.addEventListener("change", () => { state.mode = input.value; steer(); });
    }
    for (const input of document.querySelectorAll("input[name=axis]")) {
      input.addEventListener("change", () => {
        state.axis = input.value;
        state.window = null; // steps and seconds share no window
        redraw();
      });
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  }

  for (const plot of document.querySelectorAll("[data-chart]")) {
    const chart = { plot, key: plot.dataset.chart, view: null, curves: null, cursor: null };
    charts.push(chart);
    pointer(chart);
    keyboard(chart);
  }
  controls();
  redraw().then(() => { document.documentElement.dataset.ready = "true"; });
})();
