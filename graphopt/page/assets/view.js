"use strict";
/* One graph on a canvas: pans, zooms, knows what is under the pointer. A graph is what Drawing.to_json gives. */
class GraphView {
  /* options: marks (Map from box to "changed", "added", "removed" or "moved"), onSelect(box or -1), onMove(dx, dy, factor, x, y) */
  constructor(canvas, graph, options = {}) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.graph = graph;
    this.marks = options.marks || new Map();
    this.onSelect = options.onSelect || (() => {});
    this.onMove = options.onMove || (() => {});
    this.scale = 1; this.x = 0; this.y = 0; // screen = drawing * scale + (x, y)
    this.selected = -1; this.hits = new Set(); this.pointers = new Map(); this.frames = 0;
    this.boxes = graph.boxes.map(([x, y, w, h, parent, kind, title, name, subtitle, inputs, outputs, attrs]) =>
      ({ x, y, w, h, parent, kind, title, name, subtitle, inputs, outputs, attrs }));
    this.edges = graph.edges.map(([from, to, points]) => this.route(from, to, points));
    this.near = new Map();
    for (const edge of this.edges) {
      for (const end of [edge.from, edge.to]) {
        if (!this.near.has(end)) this.near.set(end, []);
        this.near.get(end).push(edge);
      }
    }
    this.listen();
    this.colours();
    this.resize();
  }

  route(from, to, points) {
    const a = this.boxes[from], b = this.boxes[to];
    const line = [a.x + a.w / 2, a.y + a.h, ...points, b.x + b.w / 2, b.y];
    let left = Infinity, right = -Infinity;
    for (let i = 0; i < line.length; i += 2) { left = Math.min(left, line[i]); right = Math.max(right, line[i]); }
    return { from, to, line, left, right, top: line[1], bottom: line[line.length - 1] };
  }

  colours() {
    const style = getComputedStyle(document.documentElement);
    const get = name => style.getPropertyValue("--" + name).trim();
    this.colour = {};
    for (const name of ["ink", "soft", "line", "ground", "panel", "raised", "accent", "changed", "added", "removed", "moved"])
      this.colour[name] = get(name);
    this.font = getComputedStyle(document.body).fontFamily;
    this.paint();
  }

  resize() {
    const box = this.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    this.width = box.width; this.height = box.height; this.ratio = ratio;
    this.canvas.width = Math.max(1, Math.round(box.width * ratio));
    this.canvas.height = Math.max(1, Math.round(box.height * ratio));
    this.draw();
  }

  /* --- where we look --- */

  fit(smallest = 0) {
    const margin = 40;
    const whole = Math.min((this.width - margin) / Math.max(this.graph.width, 1), (this.height - margin - 24) / Math.max(this.graph.height, 1), 1.2);
    this.scale = Math.max(whole, smallest, 0.005);
    this.x = (this.width - this.graph.width * this.scale) / 2;
    this.y = whole >= this.scale ? (this.height + 24 - this.graph.height * this.scale) / 2 : margin;
    if (whole < this.scale && this.boxes.length) this.x = this.width / 2 - (this.boxes[0].x + this.boxes[0].w / 2) * this.scale;
    this.paint();
  }

  zoom(factor, x, y) {
    factor = Math.min(Math.max(this.scale * factor, 0.005), 4) / this.scale;
    this.x = x - (x - this.x) * factor; this.y = y - (y - this.y) * factor; this.scale *= factor;
    this.paint();
    return factor;
  }

  pan(dx, dy) { this.x += dx; this.y += dy; this.paint(); }

  /* Brings a box to the middle, or to a given height on the screen. */
  reveal(index, scale = Math.max(this.scale, 0.75), height = this.height / 2) {
    const box = this.boxes[index];
    const high = Math.min(box.h, 200);
    const goal = { scale, x: this.width / 2 - (box.x + box.w / 2) * scale, y: height - (box.y + high / 2) * scale };
    this.glide(goal);
  }

  glide(goal) {
    const start = { scale: this.scale, x: this.x, y: this.y }, begin = performance.now();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches || document.hidden;
    this.goal = goal;
    const step = now => {
      if (this.goal !== goal) return;
      const part = still ? 1 : Math.min((now - begin) / 220, 1), t = 1 - (1 - part) ** 3;
      for (const key of ["scale", "x", "y"]) this[key] = start[key] + (goal[key] - start[key]) * t;
      this.draw();
      if (part < 1) requestAnimationFrame(step); else this.goal = null;
    };
    if (still) step(begin); else requestAnimationFrame(step);
  }

  at(x, y) {
    const px = (x - this.x) / this.scale, py = (y - this.y) / this.scale;
    for (let i = this.boxes.length - 1; i >= 0; i--) {
      const b = this.boxes[i];
      if (b.kind !== "body" && px >= b.x && px <= b.x + b.w && py >= b.y && py <= b.y + b.h) return i;
    }
    return -1;
  }

  select(index) { this.selected = index; this.paint(); }

  /* --- input --- */

  listen() {
    const canvas = this.canvas;
    let moved = 0;
    const place = event => { const r = canvas.getBoundingClientRect(); return [event.clientX - r.left, event.clientY - r.top]; };
    canvas.addEventListener("pointerdown", event => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, place(event)); this.goal = null; moved = 0;
      canvas.classList.add("dragging");
    });
    canvas.addEventListener("pointermove", event => {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      const now = place(event), dx = now[0] - before[0], dy = now[1] - before[1];
      moved += Math.abs(dx) + Math.abs(dy);
      if (this.pointers.size === 2) {
        const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
        const distance = p => Math.hypot(p[0] - other[0], p[1] - other[1]);
        this.onMove(dx / 2, dy / 2, distance(now) / Math.max(distance(before), 1), ...now);
      } else this.onMove(dx, dy, 1, ...now);
      this.pointers.set(event.pointerId, now);
    });
    const up = event => {
      if (!this.pointers.delete(event.pointerId)) return;
      canvas.classList.remove("dragging");
      if (event.type === "pointerup" && moved < 5) this.onSelect(this.at(...place(event)));
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("wheel", event => {
      event.preventDefault(); this.goal = null;
      const lines = event.deltaMode === 1 ? 16 : 1;
      if (event.shiftKey) this.onMove(-(event.deltaX || event.deltaY) * lines, 0, 1, ...place(event));
      else this.onMove(0, 0, Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)), ...place(event));
    }, { passive: false });
    canvas.addEventListener("keydown", event => {
      const step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
      const factor = { "+": 1.25, "=": 1.25, "-": 0.8 }[event.key];
      if (step) this.onMove(...step, 1, 0, 0);
      else if (factor) this.onMove(0, 0, factor, this.width / 2, this.height / 2);
      else return;
      event.preventDefault();
    });
    new ResizeObserver(() => this.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.colours());
  }

  /* --- painting --- */

  paint() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.draw(); });
  }

  draw() {
    const { context: c, scale, colour } = this;
    this.frames++;
    c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    c.fillStyle = colour.ground; c.fillRect(0, 0, this.width, this.height);
    c.setTransform(this.ratio * scale, 0, 0, this.ratio * scale, this.ratio * this.x, this.ratio * this.y);
    const seen = { left: -this.x / scale, top: -this.y / scale, right: (this.width - this.x) / scale, bottom: (this.height - this.y) / scale };
    const thin = 1 / scale;
    const regions = [], plain = [];
    this.boxes.forEach((b, i) => {
      if (b.x > seen.right || b.x + b.w < seen.left || b.y > seen.bottom || b.y + b.h < seen.top) return;
      (b.kind === "region" || b.kind === "body" ? regions : plain).push(i);
    });
    for (const i of regions) this.drawRegion(i, seen, thin);
    c.beginPath();
    for (const edge of this.edges)
      if (edge.left <= seen.right && edge.right >= seen.left && edge.top <= seen.bottom && edge.bottom >= seen.top) this.trace(edge);
    c.strokeStyle = colour.soft; c.globalAlpha = scale < 0.15 ? 0.35 : 0.6; c.lineWidth = Math.max(1, 0.7 * thin); c.stroke(); c.globalAlpha = 1;
    if (this.selected >= 0) {
      c.beginPath();
      for (const edge of this.near.get(this.selected) || []) this.trace(edge);
      c.strokeStyle = colour.accent; c.lineWidth = Math.max(2, 1.5 * thin); c.stroke();
    }
    const fills = new Map();
    for (const i of plain) {
      const key = this.marks.get(i) || this.boxes[i].kind;
      if (!fills.has(key)) fills.set(key, []);
      fills.get(key).push(i);
    }
    for (const [key, group] of fills) this.drawPlain(key, group, thin);
    if (scale > 0.3) this.drawTexts(plain);
    for (const i of this.hits) this.ring(i, colour.changed, 2, [4, 3]);
    if (this.selected >= 0) this.ring(this.selected, colour.accent, 3, []);
  }

  trace(edge) {
    const c = this.context, line = edge.line;
    c.moveTo(line[0], line[1]);
    for (let i = 2; i < line.length; i += 2) {
      const x0 = line[i - 2], y0 = line[i - 1], x1 = line[i], y1 = line[i + 1];
      if (x0 === x1 || this.scale < 0.12) c.lineTo(x1, y1);
      else { const bend = Math.min((y1 - y0) / 2, 60); c.bezierCurveTo(x0, y0 + bend, x1, y1 - bend, x1, y1); }
    }
    if (this.scale > 0.3) {
      const x = line[line.length - 2], y = line[line.length - 1];
      c.moveTo(x - 3.5, y - 6); c.lineTo(x, y - 0.5); c.lineTo(x + 3.5, y - 6);
    }
  }

  drawRegion(i, seen, thin) {
    const { context: c, colour } = this, b = this.boxes[i], mark = this.marks.get(i);
    c.beginPath(); c.roundRect(b.x, b.y, b.w, b.h, 9);
    c.fillStyle = b.kind === "body" ? colour.ground : colour.raised; c.fill();
    if (mark) { c.globalAlpha = 0.1; c.fillStyle = colour[mark]; c.fill(); c.globalAlpha = 1; }
    c.strokeStyle = mark ? colour[mark] : colour.line; c.lineWidth = Math.max(mark ? 1.8 : 1, thin); c.stroke();
    if (this.scale <= 0.3) return;
    c.font = `600 11px ${this.font}`; c.textAlign = "left"; c.textBaseline = "middle"; c.fillStyle = mark ? colour[mark] : colour.soft;
    c.save(); c.beginPath(); c.rect(b.x, b.y, b.w, 24); c.clip(); c.fillText(b.title, Math.max(b.x + 10, Math.min(seen.left + 10, b.x + b.w - 60)), b.y + 13); c.restore();
  }

  drawPlain(key, group, thin) {
    const { context: c, colour } = this, mark = ["changed", "added", "removed", "moved"].includes(key);
    const round = this.scale > 0.2;
    c.beginPath();
    for (const i of group) {
      const b = this.boxes[i], r = b.kind === "node" ? 6 : b.h / 2;
      if (round) c.roundRect(b.x, b.y, b.w, b.h, r); else c.rect(b.x, b.y, b.w, b.h);
    }
    c.fillStyle = key === "input" || key === "output" ? colour.raised : colour.panel; c.fill();
    if (mark) { c.globalAlpha = this.scale < 0.3 ? 0.9 : 0.16; c.fillStyle = colour[key]; c.fill(); c.globalAlpha = 1; }
    c.strokeStyle = mark ? colour[key] : colour.soft; c.globalAlpha = mark ? 1 : 0.55;
    c.lineWidth = mark ? Math.max(1.8, 1.5 * thin) : Math.max(1, 0.6 * thin); c.stroke(); c.globalAlpha = 1;
  }

  drawTexts(group) {
    const { context: c, colour } = this;
    c.textAlign = "center"; c.textBaseline = "middle";
    c.font = `600 12.5px ${this.font}`; c.fillStyle = colour.ink;
    for (const i of group) { const b = this.boxes[i]; c.fillText(b.title, b.x + b.w / 2, b.y + (b.subtitle ? 13.5 : b.h / 2), b.w - 10); }
    if (this.scale < 0.45) return;
    c.font = `10.5px ${this.font}`; c.fillStyle = colour.soft;
    for (const i of group) { const b = this.boxes[i]; if (b.subtitle) c.fillText(b.subtitle, b.x + b.w / 2, b.y + 27.5, b.w - 10); }
  }

  ring(i, colour, width, dash) {
    const c = this.context, b = this.boxes[i], pad = 3 + width / 2 / this.scale;
    c.beginPath(); c.roundRect(b.x - pad, b.y - pad, b.w + 2 * pad, b.h + 2 * pad, 9);
    c.strokeStyle = colour; c.lineWidth = Math.max(width, width / this.scale * 0.8);
    c.setLineDash(dash.map(d => d / Math.min(this.scale, 1))); c.stroke(); c.setLineDash([]);
  }
}
