// Small plots of the last minute, fed by the live feed.

import { N_LANES, letterOf } from "./sequences.js";

/** Length of the history, seconds; and of one period of the feed. */
const HISTORY_S = 60;
const PERIOD_S = 0.25;
const N_POINTS = HISTORY_S / PERIOD_S;
const HEIGHT = 112;
/** Shortest axis of lengths, tokens. */
const LENGTHS_SHOWN = 8;

/** Colours of the current theme, as the canvas wants them. */
const colours = new Map();
const probe = document.createElement("span");

/** A colour of the style sheet. */
function css(name) {
  if (!colours.has(name)) {
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    colours.set(name, getComputedStyle(probe).color);
    probe.remove();
  }
  return colours.get(name);
}
const colour = (name) => () => css(name);

const percent = (value) => `${(100 * value).toFixed(0)} %`;
const compact = (value) =>
  value >= 10_000 ? `${Number((value / 1000).toPrecision(3))}k` : `${Number(value.toPrecision(3))}`;

const lineOf = (label, stroke, more = {}) => ({
  label,
  stroke: colour(stroke),
  width: 1.5,
  points: { show: false },
  ...more,
});
const LANES = Array.from({ length: N_LANES }, (_, lane) => lineOf(letterOf(lane), `--lane-${lane}`, { width: 1 }));

/** Range from 0 to a little above the largest value, at least `least`. */
const upTo = (least) => (_, _min, max) => [0, Math.max(least, (max ?? 0) * 1.15)];
const UNIT = () => [0, 1];

/** Plots over time: what they are called, what they take from the feed, and what stands beside the name. */
const OVER_TIME = [
  {
    name: "Tokens per second",
    range: upTo(10),
    series: [lineOf("tokens/s", "--line-1", { fill: colour("--fill-1") })],
    values: (state) => [state.tokens_per_second],
    now: (state) => state.tokens_per_second.toFixed(0),
  },
  {
    name: "Sequences",
    range: upTo(2),
    steps: [1, 2, 5, 10, 20, 50, 100, 200, 500],
    series: [lineOf("running", "--line-1"), lineOf("waiting", "--line-2", { dash: [4, 3] })],
    values: (state) => [state.running, state.waiting],
    now: (state) => `${state.running} running, ${state.waiting} waiting`,
  },
  {
    name: "Acceptance rate",
    range: UNIT,
    format: percent,
    series: [lineOf("acceptance", "--line-1", { fill: colour("--fill-1") })],
    values: (state) => [state.acceptance_rate],
    now: (state) => (state.acceptance_rate === null ? "nothing verified" : percent(state.acceptance_rate)),
  },
  {
    name: "Emitted per step and sequence",
    range: (_, _min, max) => [1, Math.max(2, (max ?? 0) * 1.1)],
    series: [lineOf("tokens", "--line-1", { fill: colour("--fill-1") })],
    values: (state) => [state.emitted_per_step],
    now: (state) => (state.emitted_per_step === null ? "nothing emitted" : state.emitted_per_step.toFixed(2)),
  },
  {
    name: "KV usage",
    range: (_, _min, max) => [0, Math.min(1, Math.max(0.1, (max ?? 0) * 1.15))],
    format: percent,
    series: [lineOf("blocks in use", "--line-1", { fill: colour("--fill-1") })],
    values: (state) => [state.kv_usage],
    now: (state) => percent(state.kv_usage),
  },
  {
    name: "KLD per sequence",
    unit: "nats",
    range: upTo(0.5),
    series: LANES,
    values: (_, lanes) => lanes.map((row) => row?.kld ?? null),
    now: (state) => computed(state, (row) => row.kld),
  },
  {
    name: "WVIR per sequence",
    range: upTo(1.5),
    series: LANES,
    values: (_, lanes) => lanes.map((row) => row?.numbers.wvir ?? null),
    now: (state) => computed(state, (row) => row.numbers.wvir),
  },
];

/** The median of a number that only some policies compute. */
function computed({ sequences }, of) {
  const known = sequences
    .map(of)
    .filter((value) => value !== null && value !== undefined)
    .sort((a, b) => a - b);
  if (known.length > 0) return `median ${known[known.length >> 1].toFixed(2)}`;
  if (sequences.length === 0) return "";
  return sequences.some((row) => row.reason === "calibrating") ? "calibrating" : "not computed by this policy";
}

let panels = [];

/** Makes all plots. */
export function startPlots() {
  const grid = document.getElementById("plots");
  panels = OVER_TIME.map((kind) => overTime(grid, kind));
  panels.splice(2, 0, lengthsPanel(grid));
  grid.replaceChildren(...panels.map(({ figure }) => figure));
  const resize = new ResizeObserver(() => panels.forEach(fit));
  resize.observe(grid);
  panels.forEach(fit);
  document.addEventListener("themechange", () => {
    colours.clear();
    for (const { plot } of panels) plot.redraw(false, true);
  });
}

/** Adds one state of the feed; `lanes` are the rows that have lines of their own. */
export function showState(state, lanes) {
  for (const panel of panels) panel.show(state, lanes);
}

/** Marks a gap, where the feed was interrupted. */
export function breakLines() {
  for (const panel of panels) panel.interrupt?.();
}

function fit({ plot, box }) {
  if (box.clientWidth > 0) plot.setSize({ width: box.clientWidth, height: HEIGHT });
}

function frame(grid, name, unit) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const title = document.createElement("span");
  title.textContent = unit ? `${name}, ${unit}` : name;
  const now = document.createElement("span");
  now.className = "now";
  caption.append(title, now);
  const box = document.createElement("div");
  box.className = "plot";
  box.setAttribute("aria-hidden", "true");
  figure.append(caption, box);
  grid.append(figure);
  return { figure, box, now };
}

function axes(format, xFormat, yFormat = {}) {
  const shared = { stroke: colour("--muted"), font: "11px system-ui", ticks: { show: false } };
  const grid = { stroke: colour("--grid"), width: 1 };
  return [
    { ...shared, size: 20, gap: 2, grid: { show: false }, ...xFormat },
    { ...shared, size: 42, gap: 4, grid, space: 32, values: (_, splits) => splits.map(format), ...yFormat },
  ];
}

const BASE = { height: HEIGHT, width: 200, legend: { show: false }, cursor: { show: false }, padding: [6, 10, 0, 0] };

function overTime(grid, { name, unit, range, steps, series, values, now, format = compact }) {
  const { figure, box, now: output } = frame(grid, name, unit);
  const times = Array.from({ length: N_POINTS }, (_, i) => (i + 1 - N_POINTS) * PERIOD_S);
  const data = [times, ...series.map(() => Array(N_POINTS).fill(null))];
  const seconds = {
    splits: () => [-45, -30, -15, 0],
    values: (plot, splits) =>
      splits.map((s) => (s === 0 ? "now" : plot.width < 220 && s !== -30 ? "" : `\u2212${-s} s`)),
  };
  const plot = new uPlot(
    {
      ...BASE,
      scales: { x: { time: false, range: [-HISTORY_S, 0] }, y: { range } },
      series: [{}, ...series],
      axes: axes(format, seconds, steps && { incrs: steps }),
      hooks: { draw: series === LANES ? [drawLetters] : [] },
    },
    data,
    box,
  );
  const push = (row) =>
    row.forEach((value, i) => {
      data[i + 1].shift();
      data[i + 1].push(value);
    });
  return {
    figure,
    box,
    plot,
    show(state, lanes) {
      push(values(state, lanes));
      plot.setData(data);
      const text = now(state);
      if (output.textContent !== text) output.textContent = text;
    },
    interrupt: () => push(series.map(() => null)),
  };
}

/** The letter of a sequence beside the end of its line, so that colours are not needed. */
function drawLetters(plot) {
  const { ctx } = plot;
  ctx.save();
  ctx.font = `bold ${10 * devicePixelRatio}px system-ui`;
  ctx.textAlign = "right";
  for (let lane = 0; lane < N_LANES; lane += 1) {
    const value = plot.data[lane + 1].at(-1);
    if (value === null) continue;
    ctx.fillStyle = css(`--lane-${lane}`);
    ctx.fillText(letterOf(lane), plot.valToPos(0, "x", true), plot.valToPos(value, "y", true) - 3 * devicePixelRatio);
  }
  ctx.restore();
}

/** How often each length was planned in the last second, and the cap, where a policy has one. */
function lengthsPanel(grid) {
  const { figure, box, now } = frame(grid, "Speculation lengths");
  let cap = null;
  let longest = LENGTHS_SHOWN;
  const drawCap = (plot) => {
    if (cap === null) return;
    const { ctx, bbox } = plot;
    const x = plot.valToPos(cap, "x", true);
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = css("--line-2");
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.font = `${11 * devicePixelRatio}px system-ui`;
    ctx.textAlign = "left";
    ctx.fillText("cap", x + 14 * devicePixelRatio, bbox.top + 10 * devicePixelRatio);
    ctx.restore();
  };
  const bars = {
    label: "share",
    stroke: colour("--line-1"),
    fill: colour("--bar"),
    width: 1,
    points: { show: false },
  };
  const tokens = { values: (_, splits) => splits.map((n) => (Number.isInteger(n) ? `${n}` : "")), space: 24 };
  const plot = new uPlot(
    {
      ...BASE,
      scales: { x: { time: false, range: () => [-0.7, longest + 0.7] }, y: { range: UNIT } },
      series: [{}, { ...bars, paths: uPlot.paths.bars({ size: [0.8, 40], align: 0 }) }],
      axes: axes(percent, tokens),
      hooks: { draw: [drawCap] },
    },
    [[0], [null]],
    box,
  );
  return {
    figure,
    box,
    plot,
    show({ lengths, sequences }) {
      const n = lengths.reduce((sum, count) => sum + count, 0);
      const mean = lengths.reduce((sum, count, length) => sum + count * length, 0) / n;
      cap = sequences.map((row) => row.numbers.cap ?? null).find((value) => value !== null) ?? null;
      longest = Math.max(LENGTHS_SHOWN, lengths.length - 1, cap ?? 0);
      const xs = Array.from({ length: longest + 1 }, (_, length) => length);
      plot.setData([xs, xs.map((length) => (lengths[length] ? lengths[length] / n : null))]);
      const text = n === 0 ? "nothing planned" : `mean ${mean.toFixed(1)}${cap === null ? "" : `, cap ${cap}`}`;
      if (now.textContent !== text) now.textContent = text;
    },
  };
}
