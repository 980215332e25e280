// A line chart over steps in SVG: axes with round numbers, marks, and the values under the pointer.
const SVG = "http://www.w3.org/2000/svg";
const LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 22;

export function node(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

// Round numbers between two bounds, about `count` of them.
export function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((value) => value >= raw * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high * (1 + 1e-12) + 1e-300; at++) found.push(at * step);
  return found;
}

export class Chart {
  // `series`: [{name, dots}]; `format` makes a value readable; `zero`: the axis starts at 0.
  constructor(host, series, format, { zero = false } = {}) {
    Object.assign(this, { host, series, format, zero, data: [], marks: [] });
    this.svg = host.appendChild(node("svg", { role: "img" }));
    this.tip = host.appendChild(document.createElement("div"));
    this.tip.className = "tip";
    this.tip.hidden = true;
    if (series.length > 1) this.#legend();
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => this.#leave());
    new ResizeObserver(() => this.draw()).observe(host);
  }

  // `data`: for each series a list of [step, value]; `marks`: [{step, text, event}].
  show(data, marks = []) {
    const shown = JSON.stringify([data, marks]);
    if (shown === this.shown) return;
    Object.assign(this, { shown, data: data.map((rows) => rows.filter((row) => row[1] !== null)), marks });
    this.draw();
  }

  draw() {
    this.entries?.forEach((entry, index) => { entry.hidden = index > 0 && !this.data[index]?.length; });
    const width = this.svg.clientWidth, height = this.svg.clientHeight;
    if (!width) return;
    this.svg.replaceChildren();
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const all = this.data.flat();
    if (!all.length) {
      this.svg.append(node("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "No values yet"));
      return;
    }
    const steps = all.map((row) => row[0]), values = all.map((row) => row[1]);
    const [first, last] = widened(Math.min(...steps), Math.max(...steps), 0);
    const [low, high] = widened(this.zero ? 0 : Math.min(...values), Math.max(...values), 0.06, this.zero);
    this.x = (step) => LEFT + ((step - first) / (last - first)) * (width - LEFT - RIGHT);
    this.y = (value) => TOP + (1 - (value - low) / (high - low)) * (height - TOP - BOTTOM);
    this.#axes(width, height, [first, last], [low, high]);
    for (const mark of this.marks.filter(({ step }) => step >= first && step <= last)) {
      const line = node("line", { class: mark.event ? "mark event" : "mark", x1: this.x(mark.step), x2: this.x(mark.step), y1: TOP, y2: height - BOTTOM });
      line.append(node("title", {}, mark.text));
      this.svg.append(line);
    }
    this.data.forEach((rows, index) => this.#line(rows, index));
    this.svg.setAttribute("aria-label", `${this.series[0].name}: ${all.length} points`);
  }

  #axes(width, height, [first, last], [low, high]) {
    for (const value of ticks(low, high, 5)) {
      const y = this.y(value);
      this.svg.append(node("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }));
      this.svg.append(node("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, this.format(value)));
    }
    this.svg.append(node("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: height - BOTTOM, y2: height - BOTTOM }));
    for (const step of ticks(first, last, Math.max(2, Math.floor(width / 75))).filter(Number.isInteger)) {
      const x = this.x(step), anchor = x > width - RIGHT - 16 ? "end" : "middle";
      this.svg.append(node("text", { x, y: height - 6, "text-anchor": anchor }, step.toLocaleString("en")));
    }
  }

  #line(rows, index) {
    if (!rows.length) return;
    const points = rows.map(([step, value]) => `${this.x(step).toFixed(1)},${this.y(value).toFixed(1)}`);
    this.svg.append(node("path", { class: `s${index}`, d: `M${points.join("L")}`, "data-points": rows.length }));
    if (!this.series[index].dots && rows.length > 1) return;
    for (const [step, value] of rows.length > 60 ? rows.slice(-1) : rows) {
      this.svg.append(node("circle", { class: `s${index}`, cx: this.x(step), cy: this.y(value), r: 3 }));
    }
  }

  #point(event) {
    const rows = this.data[0];
    if (!rows?.length) return;
    const box = this.svg.getBoundingClientRect(), at = event.clientX - box.left;
    const [step] = nearest(rows, (row) => Math.abs(this.x(row[0]) - at));
    const values = this.series.map(({ name }, index) => {
      const row = this.data[index].length ? nearest(this.data[index], (other) => Math.abs(other[0] - step)) : null;
      if (row === null) return null;
      return `${name} ${this.format(row[1], true)}${row[0] === step ? "" : ` (step ${row[0].toLocaleString("en")})`}`;
    });
    this.svg.querySelector(".cursor")?.remove();
    const x = this.x(step);
    this.svg.append(node("line", { class: "cursor", x1: x, x2: x, y1: TOP, y2: box.height - BOTTOM }));
    this.tip.textContent = [`step ${step.toLocaleString("en")}`, ...values.filter((text) => text !== null)].join("\n");
    this.tip.hidden = false;
    const outer = this.host.getBoundingClientRect(), wanted = box.left - outer.left + x + 12;
    const fits = wanted + this.tip.offsetWidth < outer.width - 4;
    this.tip.style.left = `${fits ? wanted : Math.max(4, wanted - this.tip.offsetWidth - 24)}px`;
    this.tip.style.top = `${box.top - outer.top + TOP}px`;
  }

  #leave() {
    this.tip.hidden = true;
    this.svg.querySelector(".cursor")?.remove();
  }

  #legend() {
    const legend = document.createElement("div");
    legend.className = "legend";
    this.entries = this.series.map(({ name }, index) => {
      const entry = legend.appendChild(document.createElement("span"));
      entry.className = `s${index}`;
      entry.append(document.createElement("i"), name);
      return entry;
    });
    this.host.insertBefore(legend, this.svg);
  }
}

function nearest(rows, distance) {
  return rows.reduce((best, row) => (distance(row) < distance(best) ? row : best));
}

// Two different bounds, with some room above and (unless `fixed`) below.
function widened(low, high, room, fixed = false) {
  if (low === high) return low === 0 ? [0, 1] : fixed ? [0, high * 1.1] : [low - Math.abs(low) * 0.1, high + Math.abs(high) * 0.1];
  const extra = (high - low) * room;
  return [fixed ? low : low - extra, high + extra];
}
