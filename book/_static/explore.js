/* The page "Explore": walk along the path of a head, and a calculator. No libraries; a classic script,
   so that it also runs on a page that was opened as a file. Data: explore_data.js. */
(function () {
  "use strict";
  const NS = "http://www.w3.org/2000/svg", W = 660, H = 380, L = 58, R = 14, T = 14, B = 46;
  const NODES = [-0.9061798459, -0.5384693101, 0, 0.5384693101, 0.9061798459];
  const WEIGHTS = [0.2369268851, 0.4786286705, 0.5688888889, 0.4786286705, 0.2369268851];
  const STEPS = 4;
  const signed = (v) => (v < 0 ? "−" : "+") + Math.abs(v).toFixed(3);

  // The path of a head: a polynomial of fifth degree between knots that hold g, g' and g''.
  function path(knots, values) {
    return function (t, order) {
      const i = Math.min(knots.length - 2, Math.max(0, Math.floor(t * (knots.length - 1) + 1e-9)));
      const h = knots[i + 1] - knots[i], u = (t - knots[i]) / h, s = values[i], e = values[i + 1];
      const a = [s[0], s[1] * h, (s[2] * h * h) / 2];
      const r0 = e[0] - a[0] - a[1] - a[2], r1 = e[1] * h - a[1] - 2 * a[2], r2 = e[2] * h * h - 2 * a[2];
      a.push(10 * r0 - 4 * r1 + r2 / 2, -15 * r0 + 7 * r1 - r2, 6 * r0 - 3 * r1 + r2 / 2);
      let sum = 0;
      for (let k = order; k < 6; k++) {
        let factor = 1;
        for (let m = 0; m < order; m++) factor *= k - m;
        sum += factor * a[k] * Math.pow(u, k - order);
      }
      return sum / Math.pow(h, order);
    };
  }

  // What rules that stand at t say of the end, and the lines that they draw from there.
  function rules(g, t) {
    const left = 1 - t, g0 = g(t, 0), slope = g(t, 1), bend = g(t, 2);
    const tangent = (x) => g0 + slope * (x - t), parabola = (x) => tangent(x) + (bend * (x - t) ** 2) / 2;
    const broken = [[t, g0]];
    let y = g0;
    for (let k = 0; k < STEPS; k++) {
      const at = t + (left * k) / STEPS, step = left / STEPS, m = g(at, 1), q = g(at, 2);
      for (let j = 1; j <= 8; j++) broken.push([at + (step * j) / 8, y + m * ((step * j) / 8) + (q * ((step * j) / 8) ** 2) / 2]);
      y = broken[broken.length - 1][1];
    }
    const slopes = NODES.map((n) => t + (left * (n + 1)) / 2);
    const five = g0 + left * slopes.reduce((sum, x, i) => sum + (g(x, 1) * WEIGHTS[i]) / 2, 0);
    return { tangent, parabola, broken, slopes, ends: { truth: g(1, 0), AP: tangent(1), HVP: parabola(1), "MS-HVP": y, "5 slopes": five } };
  }

  function element(parent, name, attributes, text) {
    const e = parent.appendChild(document.createElementNS(NS, name));
    for (const k in attributes) e.setAttribute(k, attributes[k]);
    if (text !== undefined) e.textContent = text;
    return e;
  }

  function explore(box, all) {
    const find = (name) => box.querySelector(`[data-part="${name}"]`);
    const [model, prompt, shown, range, map, svg, says, table] =
      ["model", "prompt", "shown", "strength", "map", "plot", "says", "table"].map(find);
    let head = 0, cells = [], data, values;
    const paths = () => data.g[prompt.value].map((v) => path(all.knots, v));
    const unit = () => data.prompts[prompt.value].unit;
    const QUANTITIES = {
      truth: (r) => r.truth, AP: (r) => r.AP, HVP: (r) => r.HVP, "error of AP": (r) => r.AP - r.truth,
      "error of HVP": (r) => r.HVP - r.truth,
      R: (r) => Math.abs(r.HVP - r.AP) / Math.max(Math.abs(r.AP), 1e-9),
    };
    Object.keys(QUANTITIES).forEach((name) => shown.add(new Option(name, name)));
    Object.keys(all.models).forEach((name) => model.add(new Option(name, name)));

    function chooseModel() {
      data = all.models[model.value];
      prompt.replaceChildren(...data.prompts.map((p, i) => new Option(p.name, i)));
      const layers = 1 + Math.max(...data.labels.map((l) => +l.slice(1).split("H")[0])), heads = data.labels.length / layers;
      map.style.gridTemplateColumns = `repeat(${layers}, minmax(0, 1fr))`;
      map.style.gridTemplateRows = `repeat(${heads}, auto)`;
      map.replaceChildren();
      cells = data.labels.map((label, c) => {
        const b = document.createElement("button");
        b.type = "button";
        b.style.gridColumn = 1 + Math.floor(c / heads);
        b.style.gridRow = 1 + (c % heads);
        b.onclick = () => choose(c);
        b.onkeydown = (event) => {
          const step = { ArrowLeft: -heads, ArrowRight: heads, ArrowUp: -1, ArrowDown: 1 }[event.key];
          if (!step || !cells[c + step]) return;
          event.preventDefault();
          choose(c + step);
          cells[c + step].focus();
        };
        map.append(b);
        return b;
      });
      choosePrompt();
    }
    function choosePrompt() {
      const p = data.prompts[prompt.value];
      find("text").textContent = `Clean: “${p.clean}”. Corrupted: “${p.corrupted}”. Answer: “${p.answer.trim()}”.`;
      values = paths().map((g) => rules(g, 0).ends);
      head = values.reduce((best, v, c) => (Math.abs(v.truth) > Math.abs(values[best].truth) ? c : best), 0);
      colour();
      choose(head);
    }
    function colour() {
      const quantity = QUANTITIES[shown.value], numbers = values.map(quantity);
      const top = shown.value === "R" ? 1 : Math.max(...numbers.map(Math.abs), 1e-9);
      cells.forEach((b, c) => {
        b.style.setProperty("--share", Math.min(1, Math.abs(numbers[c]) / top).toFixed(3));
        b.dataset.sign = numbers[c] < 0 ? "minus" : "plus";
        b.title = `${data.labels[c]}: ${numbers[c].toFixed(3)}`;
        b.setAttribute("aria-label", `${data.labels[c]}, ${shown.value} ${numbers[c].toFixed(3)}`);
      });
      find("scale").textContent = shown.value === "R"
        ? "Full colour: R of 1 or more." : `Blue is positive, orange negative; full colour: ${top.toFixed(2)} ${unit()}.`;
    }
    function choose(c) {
      head = c;
      cells.forEach((b, i) => { b.tabIndex = i === c ? 0 : -1; b.setAttribute("aria-pressed", String(i === c)); });
      draw();
    }
    function draw() {
      const t = Math.min(0.99, +range.value), g = path(all.knots, data.g[prompt.value][head]), r = rules(g, t);
      const grid = Array.from({ length: 101 }, (_, i) => i / 100), after = grid.filter((x) => x >= t);
      const heights = grid.map((x) => g(x, 0)).concat(Object.values(r.ends), 0);
      const low = Math.min(...heights), high = Math.max(...heights), pad = 0.07 * (high - low || 1);
      const x = (v) => L + v * (W - L - R), y = (v) => H - B - ((v - low + pad) / (high - low + 2 * pad)) * (H - T - B);
      const line = (points) => "M" + points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("L");
      svg.textContent = "";
      for (let i = 0; i <= 4; i++) {
        const v = low + (i / 4) * (high - low);
        element(svg, "line", { x1: L, x2: W - R, y1: y(v), y2: y(v), class: "rule" });
        element(svg, "text", { x: L - 7, y: y(v) + 5, "text-anchor": "end" }, v.toFixed(2));
        element(svg, "text", { x: x(i / 4), y: H - 25, "text-anchor": "middle" }, i / 4);
      }
      element(svg, "text", { x: (L + W - R) / 2, y: H - 5, "text-anchor": "middle" }, `patch strength t of ${data.labels[head]}`);
      element(svg, "text", { x: 12, y: H / 2, transform: `rotate(-90 12 ${H / 2})`, "text-anchor": "middle" }, `change of the metric [${unit()}]`);
      element(svg, "path", { class: "truth", d: line(grid.map((v) => [v, g(v, 0)])) });
      element(svg, "path", { class: "tangent", d: line([[t, g(t, 0)], [1, r.ends.AP]]) });
      element(svg, "path", { class: "parabola", d: line(after.concat(1).map((v) => [v, r.parabola(v)])) });
      element(svg, "path", { class: "broken", d: line(r.broken) });
      r.slopes.forEach((s) => element(svg, "path", { class: "slopes", d: line([s - 0.03, s + 0.03].map((v) => [v, g(s, 0) + g(s, 1) * (v - s)])) }));
      Object.entries(r.ends).forEach(([name, v]) => element(svg, "circle", { class: name.replace(/[\W\d]/g, ""), cx: x(1), cy: y(v), r: 5 }));
      element(svg, "circle", { class: "handle", cx: x(t), cy: y(g(t, 0)), r: 9 });
      table.querySelectorAll("tr[data-rule]").forEach((row) => {
        const name = row.dataset.rule, v = r.ends[name];
        row.cells[1].textContent = signed(v);
        row.cells[2].textContent = name === "truth" ? "" : signed(v - r.ends.truth);
        row.cells[3].textContent = all.prices[model.value][name].toFixed(2);
      });
      says.textContent = `${data.labels[head]}, standing at ${t.toFixed(2)}: the truth is ${signed(r.ends.truth)}, the tangent says ${signed(r.ends.AP)}, the parabola ${signed(r.ends.HVP)}.`;
      range.setAttribute("aria-valuetext", says.textContent);
    }
    function drag(event) {
      const r = svg.getBoundingClientRect();
      range.value = Math.min(0.99, Math.max(0, (((event.clientX - r.left) * W) / r.width - L) / (W - L - R)));
      draw();
    }
    svg.onpointerdown = (event) => { svg.setPointerCapture(event.pointerId); drag(event); };
    svg.onpointermove = (event) => { if (event.buttons) drag(event); };
    range.oninput = draw;
    model.onchange = chooseModel;
    prompt.onchange = choosePrompt;
    shown.onchange = colour;
    chooseModel();
  }

  // What to do for a number of prompts and a budget: the operations are those of hvp_utils.plan.
  function calculate(box, all) {
    const find = (name) => box.querySelector(`[data-part="${name}"]`);
    const [model, kind, prompts, k, device, budget, out] = ["model", "components", "prompts", "k", "device", "budget", "out"].map(find);
    Object.keys(all.plans).forEach((name) => model.add(new Option(name, name)));
    Object.entries(all.rates).forEach(([name, rate]) => device.add(new Option(`${name} (${rate.toExponential(0)} FLOP/s)`, rate)));
    Object.keys(all.plans[model.value]).forEach((name) => kind.add(new Option(name, name)));
    const time = (s) => s < 90 ? `${s.toPrecision(2)} s` : s < 5400 ? `${(s / 60).toPrecision(2)} min` : s < 129600 ? `${(s / 3600).toPrecision(2)} h` : `${(s / 86400).toPrecision(2)} days`;
    const percent = (v) => `${v < 10 ? v.toPrecision(2) : v.toFixed(0)} %`;
    function draw() {
      const p = all.plans[model.value][kind.value], n = p.n, m = Math.min(n, (n > all.many ? 3 : 2) * Math.max(1, +k.value));
      const seconds = (runs) => (runs * p.run * Math.max(1, +prompts.value)) / +device.value;
      const ways = [
        ["Patch everything", n, "every effect, exact"],
        [`top_effects(M, k=${+k.value})`, n <= all.few ? n : p.row_screen + m, `the ${+k.value} largest effects, exact`],
        ["Attribution patching", p.AP, "estimates, some of them wrong"],
      ];
      const within = ways.filter(([, runs]) => seconds(runs) <= 60 * +budget.value);
      const best = within.length ? within[0] : null;
      out.replaceChildren();
      const head = document.createElement("p");
      head.className = "explore-best";
      head.textContent = best ? `Within the budget: ${best[0]} (${best[2]}).` : "Nothing fits: take fewer prompts, or a larger budget.";
      const table = document.createElement("table");
      table.className = "numbers";
      table.innerHTML = "<thead><tr><th>way</th><th>runs a prompt</th><th>time</th><th>of patching all</th></tr></thead>";
      const body = table.createTBody();
      ways.concat([["HVP of every component", p.HVP, ""]]).forEach(([name, runs]) => {
        const row = body.insertRow();
        [name, runs.toLocaleString("en", { maximumFractionDigits: runs < 100 ? 1 : 0 }), time(seconds(runs)), percent((100 * runs) / n)].forEach((text) => (row.insertCell().textContent = text));
      });
      out.append(head, table);
    }
    box.querySelectorAll("select, input").forEach((e) => e.addEventListener("input", draw));
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => {
    if (!window.hvpBook) return;
    document.querySelectorAll(".explore").forEach((box) => {
      box.hidden = false;
      (box.dataset.kind === "paths" ? explore : calculate)(box, window.hvpBook);
    });
    document.querySelectorAll(".explore-instead").forEach((e) => e.classList.add("is-replaced"));
  });
})();
