// A bar chart in SVG: one bar a span of time, drawn anew whenever its data or its size changes.

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 44, BOTTOM = 22, TOP = 10;

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", timeZone: "UTC" });
const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

function node(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// The next of 1, 2, 2.5, 5 × 10ⁿ that is not less.
export function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map(step => step * power).find(step => step >= value);
}

// `bars`: [{start (ms), revenue, orders}], evenly spaced, oldest first; `span`: ms a bar.
export function drawBars(host, bars, span) {
  const width = Math.max(host.clientWidth, 200), height = Math.max(host.clientHeight, 120);
  const plot = { width: width - LEFT, height: height - BOTTOM - TOP };
  const most = Math.max(0, ...bars.map(bar => bar.revenue));
  const top = niceCeiling(most);
  const y = value => TOP + plot.height * (1 - Math.max(value, 0) / top);
  const total = bars.reduce((sum, bar) => sum + bar.revenue, 0);
  const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Revenue from ${clock.format(bars[0].start)} to ${clock.format(bars.at(-1).start + span)} UTC: ${money.format(total)} in all, at most ${money.format(most)} per bar` });
  for (const share of [0, 0.5, 1]) {
    const at = y(top * share);
    svg.append(node("line", { x1: LEFT, x2: width, y1: at, y2: at, class: "grid" }));
    svg.append(node("text", { x: LEFT - 8, y: at + 4, "text-anchor": "end" }, short.format(top * share)));
  }
  const step = plot.width / bars.length, gap = Math.min(2, step * 0.2);
  const labels = Math.max(2, Math.floor(plot.width / 90));
  const every = Math.ceil(bars.length / labels);
  bars.forEach((bar, index) => {
    const x = LEFT + index * step;
    const group = node("g", {});
    group.append(node("title", {}, `${clock.format(bar.start)} UTC · ${money.format(bar.revenue)} · ${bar.orders} ${bar.orders === 1 ? "order" : "orders"}`));
    group.append(node("rect", { x, y: TOP, width: step, height: plot.height, class: "hit" }));
    if (bar.revenue > 0) {
      const bottom = y(0), head = Math.min(y(bar.revenue), bottom - 1.5);
      group.append(node("rect", { x: x + gap / 2, y: head, width: Math.max(step - gap, 1), height: bottom - head, rx: Math.min(2, step / 4),
        class: index === bars.length - 1 ? "newest" : "" }));
    }
    svg.append(group);
    if (index % every === 0 && x + 40 < width) svg.append(node("text", { x, y: height - 6 }, clock.format(bar.start)));
  });
  host.replaceChildren(svg);
}
