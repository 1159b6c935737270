// Draws the figures in the colours of a light or a dark screen, and again when that changes.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const fixed = {
    light: { right: "#2e8b62", mixed: "#e3b341", wrong: "#c65b4e", s0: "#d5dae1", s1: "#9fc3e6", s2: "#5b9bd0", s3: "#2468a8", s4: "#0b3866" },
    dark: { right: "#3fa87c", mixed: "#c99a2e", wrong: "#b5564c", s0: "#3a4453", s1: "#2c5c8c", s2: "#3f86c4", s3: "#78b6ee", s4: "#c9e4ff" },
  };

  function colour(name) {
    const [token, alpha] = name.slice(1).split("/");
    const value = fixed[dark.matches ? "dark" : "light"][token]
      || getComputedStyle(document.documentElement).getPropertyValue("--" + token).trim();
    return alpha ? value + Math.round(alpha * 255).toString(16).padStart(2, "0") : value;
  }

  const coloured = (key, value) => (typeof value === "string" && /^@[a-z]\w*(\/[\d.]+)?$/.test(value) ? colour(value) : value);

  const unseen = new Set();

  function draw(plot) {
    const { data, layout } = JSON.parse(plot.nextElementSibling.textContent, coloured);
    for (const trace of data) if (trace.meta && unseen.has(trace.meta.arm)) trace.visible = false;
    const text = colour("@text"), line = colour("@line");
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, fixedrange: false };
    const several = data.filter((trace) => trace.showlegend !== false).length > 1;
    const height = layout.height || 300;
    Plotly.react(plot, data, {
      height,
      hovermode: "x unified",
      showlegend: several,
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: text },
      margin: { l: 56, r: 14, t: 12, b: 44 },
      legend: { orientation: "h", y: -50 / (height - 56), yanchor: "top", ...layout.legend },
      hoverlabel: { bgcolor: colour("@page"), bordercolor: line, font: { color: text } },
      xaxis: { ...axis, ...titled(layout.xaxis) },
      yaxis: { ...axis, rangemode: "tozero", ...titled(layout.yaxis) },
    }, { responsive: true, displaylogo: false, displayModeBar: false });
  }

  const titled = (axis = {}) => ({ ...axis, title: axis.title ? { text: axis.title, standoff: 8 } : undefined });
  const plots = document.querySelectorAll(".plot");
  const all = () => plots.forEach(draw);
  dark.addEventListener("change", all);
  document.getElementById("arms")?.addEventListener("change", ({ target }) => {
    target.checked ? unseen.delete(target.value) : unseen.add(target.value);
    all();
  });
  all();
  document.documentElement.dataset.drawn = "yes";
})();
