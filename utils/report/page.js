"use strict";
// Draws the chart, filters and sorts. All text goes in as text nodes, never as markup.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const BOX = { left: 64, right: 20, top: 16, bottom: 48, width: 860, height: 440 }; // width and height: see `fit`
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const plot = byId("plot"), tip = byId("tip"), body = byId("runs").tBodies[0];
  const methods = [...new Set(data.rows.map((row) => row.method))].sort((a, b) =>
    (b === "dense") - (a === "dense") || a.localeCompare(b, "en"));
  const tasks = [...new Set(data.rows.map((row) => row.task))];

  function make(name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function add(parent, name, text, className) {
    const node = parent.appendChild(document.createElement(name));
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  }

  // A shape per task, around (x, y).
  function outline(task, x, y, r) {
    const corners = [0, 4, 3, 44, 33, 6][tasks.indexOf(task) % 6];
    if (!corners) return make("circle", { cx: x, cy: y, r });
    const turn = { 4: Math.PI / 4, 44: 0, 3: -Math.PI / 2, 33: Math.PI / 2, 6: 0 }[corners];
    const count = corners > 9 ? corners % 10 : corners;
    const places = [...Array(count).keys()].map((i) => {
      const angle = turn + (2 * Math.PI * i) / count;
      return `${x + 1.25 * r * Math.cos(angle)},${y + 1.25 * r * Math.sin(angle)}`;
    });
    return make("polygon", { points: places.join(" ") });
  }

  function filterBoxes(id, values, swatch) {
    const place = byId(id).querySelector("div");
    for (const value of values) {
      const label = add(place, "label");
      const box = add(label, "input");
      box.type = "checkbox";
      box.checked = true;
      box.value = value;
      box.addEventListener("change", refresh);
      const icon = make("svg", { class: "swatch", viewBox: "-8 -8 16 16", "aria-hidden": "true" });
      icon.append(swatch(value));
      label.append(icon);
      add(label, "span", value);
    }
  }

  const chosen = (id) => new Set([...byId(id).querySelectorAll("input:checked")].map((box) => box.value));
  const colour = (row) => `method-${methods.indexOf(row.method) % 8}`;

  function shown() {
    const inMethods = chosen("methods"), inTasks = chosen("tasks");
    return data.rows.filter((row) => inMethods.has(row.method) && inTasks.has(row.task));
  }

  // About `count` round numbers from low to high.
  function ticks(low, high, count) {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
    return found;
  }

  function logTicks(low, high) {
    const found = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p += 1)
      for (const m of [1, 2, 5]) if (m * 10 ** p >= low && m * 10 ** p <= high) found.push(m * 10 ** p);
    return found;
  }

  function scale(values, from, to, isLog) {
    let low = Math.min(...values), high = Math.max(...values);
    const map = isLog ? Math.log10 : (value) => value;
    const room = isLog ? (high / low) ** 0.06 || 1.1 : (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
    [low, high] = isLog ? [low / Math.max(room, 1.05), high * Math.max(room, 1.05)] : [low - room, high + room];
    const place = (value) => from + ((map(value) - map(low)) / (map(high) - map(low))) * (to - from);
    return { place, ticks: isLog ? logTicks(low, high) : ticks(low, high, Math.abs(to - from) / 90) };
  }

  const short = (value, axis) =>
    axis.percent ? `${+(100 * value).toPrecision(4)} %` : (+(value / axis.unit).toPrecision(4)).toLocaleString("en");

  function drawAxes(x, y, xAxis, yAxis) {
    const bottom = BOX.height - BOX.bottom, right = BOX.width - BOX.right;
    for (const value of y.ticks) {
      const at = y.place(value);
      plot.append(make("line", { class: "grid", x1: BOX.left, x2: right, y1: at, y2: at }));
      plot.append(make("text", { x: BOX.left - 8, y: at + 4, "text-anchor": "end" }, short(value, yAxis)));
    }
    for (const value of x.ticks) {
      const at = x.place(value);
      plot.append(make("line", { class: "grid", x1: at, x2: at, y1: BOX.top, y2: bottom }));
      plot.append(make("text", { x: at, y: bottom + 18, "text-anchor": "middle" }, short(value, xAxis)));
    }
    plot.append(make("text", { x: (BOX.left + right) / 2, y: BOX.height - 8, "text-anchor": "middle" }, xAxis.title));
    const turned = { transform: `translate(14 ${(BOX.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" };
    plot.append(make("text", turned, yAxis.title));
  }

  // Of one task, from the cheapest on: what nothing cheaper reaches.
  function drawFront(rows, x, y, xKey, yKey) {
    const front = [];
    for (const row of [...rows].sort((a, b) => a[xKey] - b[xKey] || b[yKey] - a[yKey]))
      if (!front.length || row[yKey] > front[front.length - 1][yKey]) front.push(row);
    if (front.length < 2) return;
    const steps = front.map((row, i) => {
      const at = `${x.place(row[xKey])} ${y.place(row[yKey])}`;
      return i ? `H ${x.place(row[xKey])} V ${y.place(row[yKey])}` : `M ${at}`;
    });
    plot.append(make("path", { class: "front", d: steps.join(" ") }));
  }

  function drawPoint(row, x, y, xKey, yKey) {
    const [cx, cy] = [x.place(row[xKey]), y.place(row[yKey])];
    if (yKey === "metric" && row.deviation) {
      const ends = { y1: y.place(row.metric - row.deviation), y2: y.place(row.metric + row.deviation) };
      plot.append(make("line", { class: `spread ${colour(row)}`, x1: cx, x2: cx, ...ends }));
    }
    const point = outline(row.task, cx, cy, 6);
    point.setAttribute("class", `point ${colour(row)}`);
    point.setAttribute("tabindex", "0");
    point.setAttribute("role", "img");
    point.setAttribute("aria-label", row.tip.map(([name, value]) => `${name} ${value}`).join(", "));
    point.dataset.row = row.id;
    for (const event of ["pointerenter", "focus"]) point.addEventListener(event, () => tell(row, cx, cy));
    for (const event of ["pointerleave", "blur"]) point.addEventListener(event, silence);
    plot.append(point);
  }

  function tell(row, x, y) {
    tip.replaceChildren();
    add(tip, "strong", row.name);
    const list = add(tip, "dl");
    for (const [name, value] of row.tip.slice(1)) {
      add(list, "dt", name);
      add(list, "dd", value);
    }
    tip.hidden = false;
    const ratio = plot.clientWidth / BOX.width, space = tip.parentElement.clientWidth - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(x * ratio + 14, space))}px`;
    const above = y * ratio - tip.offsetHeight - 12;
    tip.style.top = `${above > 0 ? above : y * ratio + 14}px`;
    body.querySelector(`[data-row="${row.id}"]`).classList.add("lit");
  }

  function silence() {
    tip.hidden = true;
    for (const row of body.querySelectorAll(".lit")) row.classList.remove("lit");
  }

  // One unit of the drawing is one pixel, so that text is as large on a phone.
  function fit() {
    BOX.width = Math.max(300, plot.parentElement.clientWidth);
    BOX.height = Math.round(Math.max(300, Math.min(460, 0.55 * BOX.width)));
    plot.setAttribute("viewBox", `0 0 ${BOX.width} ${BOX.height}`);
  }

  function draw(rows) {
    const xAxis = data.axes.find((axis) => axis.key === byId("x").value), yKey = byId("y").value;
    const drawn = rows.filter((row) => row[xAxis.key] !== null && row[yKey] !== null);
    const names = [...new Set(drawn.map((row) => row.metric_name))];
    const title = yKey === "metric" ? names.join(", ") : "share of the dense model's metric";
    const yAxis = { title, unit: 1, percent: yKey === "retention" };
    fit();
    plot.replaceChildren();
    silence();
    const left = rows.length - drawn.length;
    byId("note").textContent = left ? `${left} of ${rows.length} rows are not in the chart: not measured.` : "";
    if (!drawn.length) {
      const middle = { x: BOX.width / 2, y: BOX.height / 2, "text-anchor": "middle" };
      plot.append(make("text", middle, "nothing that was measured on both axes is chosen"));
      return;
    }
    const heights = drawn.flatMap((row) => {
      const spread = yKey === "metric" ? row.deviation || 0 : 0;
      return [row[yKey] - spread, row[yKey] + spread];
    });
    const x = scale(drawn.map((row) => row[xAxis.key]), BOX.left, BOX.width - BOX.right, byId("log").checked);
    const y = scale(heights, BOX.height - BOX.bottom, BOX.top, false);
    drawAxes(x, y, xAxis, yAxis);
    for (const task of tasks) drawFront(drawn.filter((row) => row.task === task), x, y, xAxis.key, yKey);
    for (const row of drawn) drawPoint(row, x, y, xAxis.key, yKey);
  }

  function refresh() {
    const rows = shown(), ids = new Set(rows.map((row) => String(row.id)));
    for (const line of body.rows) line.hidden = !ids.has(line.dataset.row);
    draw(rows);
  }

  // Rows that lack the value stay at the end, whichever way the others are sorted.
  function sortBy(header, index) {
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (line) => line.cells[index].dataset.sort;
    const numbers = header.classList.contains("number");
    const order = (a, b) => (numbers ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
    const lines = [...body.rows].sort((a, b) => {
      if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
      return (up ? 1 : -1) * order(key(a), key(b));
    });
    body.append(...lines);
  }

  for (const axis of data.axes) {
    const option = add(byId("x"), "option", axis.title);
    option.value = axis.key;
  }
  byId("x").value = data.x;
  byId("y").value = data.y;
  filterBoxes("methods", methods, (value) => make("circle", { r: 7, class: `method-${methods.indexOf(value) % 8}` }));
  filterBoxes("tasks", tasks, (value) => {
    const shape = outline(value, 0, 0, 6);
    shape.setAttribute("class", "shape");
    return shape;
  });
  for (const id of ["x", "y", "log"]) byId(id).addEventListener("change", refresh);
  for (const [index, header] of [...byId("runs").tHead.rows[0].cells].entries())
    header.querySelector("button").addEventListener("click", () => sortBy(header, index));
  window.addEventListener("resize", refresh);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") silence(); });
  refresh();
  document.documentElement.dataset.ready = "yes";
})();
