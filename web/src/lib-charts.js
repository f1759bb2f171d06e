// Charts: only what we draw is taken from ECharts, and only where a page has one.

import { use, init } from "echarts/core";
import { BarChart, LineChart, ScatterChart } from "echarts/charts";
import { GridComponent, LegendComponent, MarkLineComponent, TooltipComponent } from "echarts/components";
import { CanvasRenderer } from "echarts/renderers";

use([BarChart, LineChart, ScatterChart, GridComponent, LegendComponent, MarkLineComponent, TooltipComponent, CanvasRenderer]);

const drawn = new Map();

function colours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  return {
    text: colour("--quiet"),
    strong: colour("--text"),
    line: colour("--line"),
    surface: colour("--surface"),
    series: [1, 2, 3, 4, 5, 6].map((number) => colour(`--series-${number}`)),
  };
}

/** ECharts' options of a chart as pages describe it; see the macro `chart`. */
function options(spec) {
  const look = colours();
  const numeric = spec.kind === "scatter" || spec.kind === "points" || spec.numeric;
  const axis = (name, type, log) => ({
    type: log ? "log" : type,
    name,
    nameLocation: "middle",
    nameGap: type === "value" && name ? 34 : 28,
    nameTextStyle: { color: look.text },
    axisLabel: { color: look.text, hideOverlap: true },
    axisLine: { lineStyle: { color: look.line } },
    splitLine: { show: type === "value", lineStyle: { color: look.line } },
    scale: true,
  });
  const x = axis(spec.x_name, numeric ? "value" : "category", spec.x_log);
  if (!numeric) x.data = spec.x;
  const y = axis(spec.y_name, "value", spec.y_log);
  if (spec.kind === "bar" || spec.from_zero) y.scale = false;
  if (spec.y_range) [y.min, y.max] = spec.y_range;
  if (spec.x_range) [x.min, x.max] = spec.x_range;
  if (spec.whole) y.minInterval = 1;
  return {
    color: look.series,
    animation: !matchMedia("(prefers-reduced-motion: reduce)").matches,
    grid: { left: 52, right: 16, top: spec.series.length > 1 ? 40 : 16, bottom: spec.x_name ? 46 : 28 },
    legend: { show: spec.series.length > 1, top: 0, textStyle: { color: look.text } },
    // Its HTML would bring style attributes, which our policy refuses.
    tooltip: {
      trigger: numeric ? "item" : "axis",
      renderMode: "richText",
      backgroundColor: look.surface,
      borderColor: look.line,
      textStyle: { color: look.strong },
      formatter: numeric ? (point) => `${point.data[2] ?? point.seriesName}\n${point.data[0]} · ${point.data[1]}` : undefined,
    },
    xAxis: x,
    yAxis: y,
    series: spec.series.map((one) => ({
      name: one.name,
      type: spec.kind === "points" ? "scatter" : one.kind ?? spec.kind,
      data: numeric ? spec.x.map((value, row) => [value, one.values[row], one.names?.[row]]).filter((pair) => pair[1] !== null) : one.values,
      areaStyle: spec.area ? { opacity: 0.15 } : undefined,
      lineStyle: one.dashed ? { type: "dashed" } : undefined,
      symbol: one.dashed ? "none" : undefined,
      showSymbol: spec.x.length < 20,
      symbolSize: numeric && spec.kind !== "line" ? 9 : 6,
      stack: spec.stack,
      barMaxWidth: 28,
    })),
  };
}

function draw(element) {
  const chart = drawn.get(element) ?? init(element, null, { renderer: "canvas" });
  drawn.set(element, chart);
  chart.setOption(options(JSON.parse(element.dataset.chart)), true);
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "200px" });
const sized = new ResizeObserver((entries) => entries.forEach((entry) => drawn.get(entry.target)?.resize()));

export function charts(root) {
  for (const element of root.querySelectorAll("[data-chart]")) {
    seen.observe(element);
    sized.observe(element);
  }
}
document.addEventListener("theme", () => drawn.forEach((_chart, element) => draw(element)));
