// Small plots, as SVG whose colors come from the style sheet.

const SVG = "http://www.w3.org/2000/svg";
const HISTORY = 300;
const MOST_TARGETS = 4;
let clips = 0;

function shape(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (parent) parent.append(made);
  return made;
}

/** A plot of five minutes, the last second at its right edge. */
class Course {
  constructor(kind, height) {
    this.height = height;
    this.svg = shape("svg", {
      class: kind, viewBox: `0 0 ${HISTORY} ${height}`, preserveAspectRatio: "none", role: "img",
    });
    clips += 1;
    const clip = shape("clipPath", { id: `clip${clips}` }, this.svg);
    this.clipped = shape("rect", { x: 0, y: 0, width: HISTORY, height: 0 }, clip);
    this.area = shape("path", { class: "area" }, this.svg);
    this.beyond = shape("path", { class: "beyond", "clip-path": `url(#clip${clips})` }, this.svg);
    this.curve = shape("path", { class: "curve" }, this.svg);
    shape("line", { class: "base", x1: 0, x2: HISTORY, y1: height, y2: height }, this.svg);
    this.line = shape("line", { class: "target", x1: 0, x2: HISTORY }, this.svg);
  }

  /** `bad`: what is drawn in the color of what is wrong. Without it, that is what is above the target. */
  draw(values, target, label, bad) {
    let highest = Math.max(...values.filter((value) => value !== null), target ? target * 1.3 : 0, 1e-9);
    // One spike must not press everything else flat: what is higher is cut, and red to the top.
    if (target) highest = Math.min(highest, target * MOST_TARGETS);
    const top = (value) => this.height - Math.min(1, value / highest) * this.height;
    const { area, curve } = paths(values, top, this.height);
    this.area.setAttribute("d", area);
    this.curve.setAttribute("d", curve);
    this.beyond.setAttribute("d", bad ? paths(bad, top, this.height).area : area);
    this.clipped.setAttribute("height", bad ? this.height : target ? Math.max(0, top(target)) : 0);
    this.line.style.display = target ? "" : "none";
    if (target) {
      this.line.setAttribute("y1", top(target));
      this.line.setAttribute("y2", top(target));
    }
    this.svg.setAttribute("aria-label", label);
  }
}

/** The path under the values and the one along them; seconds of which nothing is known are gaps. */
function paths(values, top, height) {
  const start = HISTORY - values.length;
  let area = "", curve = "", last = null;
  values.forEach((value, place) => {
    if (value === null) {
      if (last !== null) area += `L${start + last + 1} ${height}Z`;
      last = null;
      return;
    }
    const x = start + place, y = top(value).toFixed(1);
    area += last === null ? `M${x} ${height}L${x} ${y}L${x + 1} ${y}` : `L${x} ${y}L${x + 1} ${y}`;
    curve += last === null ? `M${x} ${y}L${x + 1} ${y}` : `L${x} ${y}L${x + 1} ${y}`;
    last = place;
  });
  if (last !== null) area += `L${start + last + 1} ${height}Z`;
  return { area, curve };
}

/** Bars of how many batches had which size. */
class Sizes {
  constructor() {
    this.svg = shape("svg", { class: "bars", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img" });
    this.bars = [];
    this.axis = document.createElement("div");
    this.axis.className = "axis";
    this.axis.setAttribute("aria-hidden", "true");
  }

  draw(counts, names) {
    const highest = Math.max(...counts, 1), wide = 100 / Math.max(counts.length, 4);
    while (this.bars.length > counts.length) this.bars.pop().remove();
    while (this.bars.length < counts.length) this.bars.push(shape("rect", { class: "bar" }, this.svg));
    counts.forEach((count, place) => {
      const high = count ? Math.max(1.5, (count / highest) * 29) : 0.5;
      const bar = this.bars[place];
      const position = { x: place * wide + wide * 0.08, y: 30 - high, width: wide * 0.84, height: high };
      for (const [key, value] of Object.entries(position)) bar.setAttribute(key, value);
      bar.style.opacity = count ? "" : ".25";
    });
    const said = counts.map((count, place) => (count ? `${names[place]} rows: ${count}` : "")).filter(Boolean);
    this.svg.setAttribute("aria-label", `batches by size: ${said.join(", ") || "none"}`);
    const shown = [...names, ...Array(Math.max(0, 4 - names.length)).fill("")];
    if (this.axis.childElementCount !== shown.length) {
      this.axis.replaceChildren(...shown.map(() => document.createElement("span")));
    }
    shown.forEach((name, place) => { this.axis.children[place].textContent = name; });
  }
}
