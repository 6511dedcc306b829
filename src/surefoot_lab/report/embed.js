"use strict";

// Hands the page's specifications and colours to Vega; what is drawn and how it is steered stands in them.
(() => {
  const specs = JSON.parse(document.getElementById("data").textContent);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function theme() {
    const text = { labelColor: css("--muted"), labelFontSize: 12 };
    const line = { domainColor: css("--line"), tickColor: css("--line"), gridColor: css("--grid") };
    return {
      background: "transparent",
      font: getComputedStyle(document.body).fontFamily,
      axis: { ...text, ...line },
      axisY: { domain: false, ticks: false, labelPadding: 6, tickCount: 5 },
      view: { stroke: null },
      range: { category: Array.from({ length: 10 }, (_, i) => css(`--c${i}`)) },
    };
  }

  // ast: expressions are interpreted, not eval'ed
  const options = () => ({
    mode: "vega-lite", actions: false, renderer: "svg", ast: true, defaultStyle: false,
    config: theme(), logLevel: 1, tooltip: { disableDefaultStyle: true },
  });
  const draw = (plot) => vegaEmbed(plot, structuredClone(specs[plot.dataset.chart]), options());
  const drawAll = () => Promise.all([...document.querySelectorAll("[data-chart]")].map(draw));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  drawAll().then(() => { document.documentElement.dataset.ready = "true"; });
})();
