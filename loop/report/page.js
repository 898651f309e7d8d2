// Draws the charts of the page, and saves them. Colours of text and lines follow the page's, so that one drawing serves
// light, dark and print.
const CONFIG = {
  background: null,
  font: "system-ui, sans-serif",
  view: { stroke: null },
  axis: {
    labelColor: "currentColor", titleColor: "currentColor", tickColor: "currentColor", domainColor: "currentColor",
    gridColor: "currentColor", gridOpacity: 0.15, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal",
    labelFlush: false,
  },
  legend: { labelColor: "currentColor", titleColor: "currentColor", labelFontSize: 12, symbolStrokeWidth: 2 },
  text: { color: "currentColor" },
  title: { color: "currentColor" },
};
const views = {};

async function draw(place) {
  const name = place.dataset.chart;
  const made = await vegaEmbed(place, CHARTS[name], { actions: false, renderer: "svg", config: CONFIG });
  views[name] = made.view;
  place.dataset.drawn = "yes";
}

async function save(event) {
  const { save: kind, of: name } = event.currentTarget.dataset;
  const view = views[name];
  if (!view) return;
  const link = document.createElement("a");
  view.background("white");
  link.href = await view.toImageURL(kind, 2);
  view.background(null);
  link.download = `${name}.${kind}`;
  link.click();
}

document.querySelectorAll("[data-chart]").forEach((place) => draw(place).catch((error) => {
  place.textContent = `This chart could not be drawn (${error.message}). Its data can be saved below.`;
  console.error(error);
}));
document.querySelectorAll("[data-save]").forEach((button) => button.addEventListener("click", save));

// On paper nothing can be unfolded; only the config, which is long, stays folded.
let folded = [];
window.addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open]):not(.long)")];
  folded.forEach((d) => { d.open = true; });
});
window.addEventListener("afterprint", () => folded.forEach((d) => { d.open = false; }));
